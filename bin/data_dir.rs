//! The data directory: what lies in it, and opening all of it.
//!
//! | path | what |
//! |---|---|
//! | `identity.key` | the node's Ed25519 key, made at the first start |
//! | `network.secret` | the secret that all nodes of a network share, made at the first start or taken from a ticket |
//! | `network.secret.next` | there while the node is about to leave with a part of its cluster: the secret of that |
//! | `network.secrets.left` | there while a part that it left with is one: secrets of before, by which to know those who come late |
//! | `network.secrets.former` | hashes of secrets that it had, so that an old ticket is no reason not to start |
//! | `store/` | the commit log and its index |
//! | `store.broken-N/` | a store that could not be opened; may be deleted when nobody wants to look into it |
//! | `restore.unfinished` | there while a backup is being restored |

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use rhizomq_engine::{
    Store as _, StoreError,
    store::{Damage, DiskOptions, DiskStore, IndexState, Manifest, OpenReport},
};
use rhizomq_net::{
    Ticket,
    rim::{Identity, IdentityError, NetworkSecret, SecretError},
};

use crate::quarantine::{self, SetAside};

/// The file that says that a restore was not finished.
pub(crate) const UNFINISHED: &str = "restore.unfinished";
/// The file that says that a backup was not finished.
pub(crate) const UNFINISHED_BACKUP: &str = "backup.unfinished";

/// An open data directory.
pub(crate) struct DataDir {
    /// Absolute, for people.
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) secret: NetworkSecret,
    pub(crate) store: DiskStore,
    /// What was found broken in it.
    pub(crate) damages: Vec<Damage>,
    /// Nothing was there before.
    pub(crate) fresh: bool,
    /// The store that was there could not be opened; this one began empty.
    pub(crate) set_aside: Option<SetAside>,
}

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    #[error("cannot create the data directory {path}: {source}", path = path.display())]
    Create { path: PathBuf, source: std::io::Error },
    #[error(
        "{dir} is a backup and stays one: its `manifest` says so; make a node's directory of it and start that: rhizomq \
         restore {dir} --data DIR",
        dir = .0.display()
    )]
    Backup(PathBuf),
    #[error("{} holds a backup that was not restored to its end; empty it and restore again", .0.display())]
    Unfinished(PathBuf),
    #[error("{} holds a backup that was not taken to its end; it is of no use: remove it and take another", .0.display())]
    UnfinishedBackup(PathBuf),
    #[error(
        "{dir}/identity.key is missing, and the store holds what the node of that key took in. Put the key back, from a backup \
         if need be; or move {dir}/store away to start empty, as a new node",
        dir = .0.display()
    )]
    NoIdentity(PathBuf),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn is_empty(store: &DiskStore) -> Result<bool, StoreError> {
    let mut is_empty = true;
    store.reader().scan_keys(&[], &[u8::MAX], &mut |_, _| {
        is_empty = false;
        ControlFlow::Break(())
    })?;
    Ok(is_empty)
}

impl DataDirError {
    /// The directory is fine; what was asked of it is not.
    pub(crate) fn is_settings(&self) -> bool {
        matches!(self, Self::Secret(SecretError::OtherNetwork { .. }))
    }
}

impl DataDir {
    /// Opens the directory, created if missing. The store comes first: its lock says whether the directory is ours.
    pub(crate) fn open(path: &Path, join: Option<&Ticket>, options: DiskOptions) -> Result<Self, DataDirError> {
        let create = |source| DataDirError::Create { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(create)?;
        let path = path.canonicalize().map_err(create)?;
        if path.join(UNFINISHED).exists() {
            return Err(DataDirError::Unfinished(path));
        }
        if path.join(UNFINISHED_BACKUP).exists() {
            return Err(DataDirError::UnfinishedBackup(path));
        }
        // Two nodes with one identity might come of it, and the backup would be none any more.
        if Manifest::is_in(&path) {
            return Err(DataDirError::Backup(path));
        }
        let (store, report, set_aside) = quarantine::open_or_set_aside(&path.join("store"), options)?;
        if let Some(SetAside { place, why }) = &set_aside {
            tracing::error!(
                set_aside = %place.display(),
                "the store could not be opened and was set aside; this node STARTS EMPTY and refills from its peers: {why}"
            );
        }
        tell(&report);
        let fresh = matches!(report.index, IndexState::Created) && set_aside.is_none();
        // A new key must not be made for an old store: the key may only be mislaid.
        if !Identity::is_in(&path) && !is_empty(&store)? {
            return Err(DataDirError::NoIdentity(path));
        }
        let identity = Identity::load_or_create(&path)?;
        let secret = match join {
            Some(ticket) => NetworkSecret::join(&path, ticket.secret.clone())?,
            None => NetworkSecret::load_or_create(&path)?,
        };
        Ok(Self { path, identity, secret, store, damages: report.damages, fresh, set_aside })
    }
}

/// Nothing that was found is kept silent: where, how much, and what follows from it.
pub(crate) fn tell(report: &OpenReport) {
    for damage in &report.damages {
        let (file, offset, len, what) = (&damage.file, damage.offset, damage.len, &damage.what);
        if file.starts_with("log/") {
            tracing::error!(file, offset, len, "damage in the log: {what}; what it held is fetched from other nodes");
        } else {
            tracing::error!(file, "damage in the data files: {what}");
        }
    }
    if let Some(tail) = &report.torn_tail {
        let (file, offset, len) = (&tail.file, tail.offset, tail.len);
        if report.unknown_end.is_some() {
            tracing::error!(file, offset, len, "cut off a damaged end of the log; it may have held confirmed commits");
        } else {
            tracing::info!(file, offset, len, "cut off a commit that was being written when the last life ended");
        }
    }
    if let Some(why) = &report.unknown_end {
        tracing::warn!(
            "whether the log ends where it was last synced can't be told: {why}; so it is with older stores, once"
        );
    }
    match &report.index {
        IndexState::Rebuilt { why, set_aside: Some(place) } => {
            tracing::warn!(set_aside = %place.display(), "rebuilt the index from the log, nothing is lost: {why}");
        }
        IndexState::Rebuilt { why, set_aside: None } => {
            tracing::warn!("rebuilt the index from the log, nothing is lost: {why}");
        }
        IndexState::Intact | IndexState::Created => {}
    }
}
