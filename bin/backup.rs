//! `rhizomq backup` and `rhizomq restore`: a node's directory as files with a manifest, and back.
//!
//! A backup holds the node's identity key: what is restored is the same node, in a new life. Two of it at a time would
//! take each other's place at their peers again and again.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rhizomq_engine::{
    NodeId,
    store::{BackupError, BackupFile, Copied, Manifest, make_empty_dir},
};
use rhizomq_stomp::rim::{Handle, MaintenanceError};

use crate::{cli::RestoreArgs, data_dir};

/// A node's own files besides the store.
const KEYS: [&str; 2] = ["identity.key", "network.secret"];
/// Those that it may have: while it is about to leave with a part of its cluster, and after that.
const MORE_KEYS: [&str; 2] = ["network.secret.next", "network.secrets.left"];

/// Takes a backup of the running node into `dir`, made if missing.
pub(crate) async fn take(
    handle: &Handle,
    node: NodeId,
    data: &Path,
    dir: &Path,
) -> Result<(Manifest, Copied), MaintenanceError> {
    make_empty_dir(dir)?;
    let unfinished = dir.join(data_dir::UNFINISHED_BACKUP);
    let io_error = |source| BackupError::Io { context: format!("writing {}", unfinished.display()), source };
    fs::write(&unfinished, "a backup is under way, or was cut short\n").map_err(io_error)?;
    let result = fill(handle, node, data, dir).await;
    if result.is_err() {
        // The directory was empty before: what is there is ours, and of no use.
        let _ = fs::remove_dir_all(dir.join("store"));
        KEYS.iter().chain(&MORE_KEYS).for_each(|name| _ = fs::remove_file(dir.join(name)));
    }
    let ended = fs::remove_file(&unfinished).map_err(io_error);
    result.and_then(|taken| Ok(ended.map(|()| taken)?))
}

async fn fill(handle: &Handle, node: NodeId, data: &Path, dir: &Path) -> Result<(Manifest, Copied), MaintenanceError> {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let taken_ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
    let copied = handle.copy_store(dir.join("store")).await?;
    let mut files: Vec<BackupFile> =
        copied.files.iter().map(|file| BackupFile { name: format!("store/{}", file.name), ..file.clone() }).collect();
    for name in KEYS {
        files.push(BackupFile::copy(name, data, dir)?);
    }
    for name in MORE_KEYS.into_iter().filter(|name| data.join(name).exists()) {
        files.push(BackupFile::copy(name, data, dir)?);
    }
    let manifest = Manifest { node, taken_ms, files };
    manifest.write(dir)?;
    Ok((manifest, copied))
}

/// `rhizomq restore`.
pub(crate) fn restore(args: &RestoreArgs) -> Result<String, BackupError> {
    let manifest = Manifest::read(&args.backup)?;
    // All of it, before anything is written.
    manifest.files.iter().try_for_each(|file| file.check(&args.backup))?;
    make_empty_dir(&args.data)?;
    let io = |context: String| move |source| BackupError::Io { context, source };
    let unfinished = args.data.join(data_dir::UNFINISHED);
    fs::write(&unfinished, "a restore is under way, or was cut short\n")
        .map_err(io(format!("writing {}", unfinished.display())))?;
    let mut dirs = vec![args.data.clone()];
    for file in &manifest.files {
        let parent = args.data.join(&file.name).parent().map_or_else(|| args.data.clone(), PathBuf::from);
        if !dirs.contains(&parent) {
            fs::create_dir_all(&parent).map_err(io(format!("creating {}", parent.display())))?;
            dirs.push(parent);
        }
        let copied = BackupFile::copy(&file.name, &args.backup, &args.data)?;
        if copied != *file {
            let what = "it changed while it was being restored".to_owned();
            return Err(BackupError::Damaged { file: file.name.clone(), what });
        }
    }
    let sync = |dir: &PathBuf| fs::File::open(dir).and_then(|dir| dir.sync_all());
    let data = args.data.display();
    dirs.iter().try_for_each(sync).map_err(io(format!("syncing {data}")))?;
    fs::remove_file(&unfinished).and_then(|()| sync(&args.data)).map_err(io(format!("finishing {data}")))?;
    let Manifest { node, taken_ms, files } = manifest;
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    Ok(format!(
        "restored node {node} as of {taken_ms} ms since 1970 into {data}: {} files, {bytes} bytes, identity key \
         included\nThis is the same node: the old one must not run any more. Start it: rhizomq serve --data {data}\nIt \
         begins a new life and takes from its peers what happened since, removals first.",
        files.len(),
    ))
}
