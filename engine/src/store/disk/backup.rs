//! Copies of a store: taken while it is in use, and put back.
//!
//! The log alone determines the state, and it only grows at its end. So a copy of its files up to one durable place is
//! the store as of that moment; nothing of the index is needed. As long as a copy is under way no log file is removed.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    check::{Checker, LogCheck},
    file::{ReadOnlyFiles, is_no_file, open_file, sync_dir, sync_file},
    format::{Places, format_text},
    log::{self, FileTable},
    synced::Synced,
};
use crate::{
    StoreError,
    store::check::{Checked, Copied, Pace},
};

/// Bytes copied at a time.
const PIECE: usize = 1 << 20;

/// A copy could not be made, or is not what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The place for it is taken.
    #[error("{} is not empty; choose an empty directory, or one that does not exist yet", .0.display())]
    NotEmpty(PathBuf),
    /// The caller has ended it.
    #[error("the copy was ended before it was complete")]
    CutShort,
    /// A file of the copy is not as the manifest says.
    #[error("{file}: {what}; this backup can't be restored")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// Made by a newer program.
    #[error(
        "{place} is a backup of format version {found}, this program reads {expected}; use the program that made it"
    )]
    Version {
        /// The manifest.
        place: String,
        /// Its version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// The system refused.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, with the file.
        context: String,
        /// The system's word.
        source: io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BackupError {
    fn io(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let context = format!("{doing} {}", path.display());
        |source| Self::Io { context, source }
    }
}

/// One file of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupFile {
    /// Its path below the backup's directory, with `/`.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// blake3 of its content.
    pub hash: [u8; 32],
}

impl BackupFile {
    /// Copies the file `name` from below one directory to below another and syncs it; says what was copied.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn copy(name: &str, from: &Path, to: &Path) -> Result<Self, BackupError> {
        let source = from.join(name);
        let file = open_file(&source, File::options().read(true)).map_err(BackupError::io("opening", &source))?;
        write_copy(name, &file, u64::MAX, to, &mut |_| ControlFlow::Continue(()))
    }

    /// Whether the file below `dir` is this one.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] when it is not, [`BackupError::Io`] when it can't be read.
    pub fn check(&self, dir: &Path) -> Result<(), BackupError> {
        let path = dir.join(&self.name);
        let damaged = |what: &str| BackupError::Damaged { file: path.display().to_string(), what: what.to_owned() };
        let mut file = match open_file(&path, File::options().read(true)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("missing")),
            Err(error) if is_no_file(&error) => return Err(damaged("no regular file")),
            file => file.map_err(BackupError::io("opening", &path))?,
        };
        let mut hasher = blake3::Hasher::new();
        let bytes = io::copy(&mut file, &mut hasher).map_err(BackupError::io("reading", &path))?;
        if bytes != self.bytes {
            return Err(damaged(&format!("{bytes} bytes long instead of {}", self.bytes)));
        }
        if *hasher.finalize().as_bytes() != self.hash {
            return Err(damaged("its content is not what was backed up"));
        }
        Ok(())
    }
}

/// Makes the directory, or says that it is in use already.
///
/// # Errors
/// [`BackupError::NotEmpty`] and [`BackupError::Io`].
pub fn make_empty_dir(dir: &Path) -> Result<(), BackupError> {
    fs::create_dir_all(dir).map_err(BackupError::io("creating", dir))?;
    let mut entries = fs::read_dir(dir).map_err(BackupError::io("listing", dir))?;
    if entries.next().is_some() { Err(BackupError::NotEmpty(dir.to_owned())) } else { Ok(()) }
}

fn write_copy(
    name: &str,
    mut from: impl io::Read,
    limit: u64,
    to: &Path,
    pace: &mut Pace<'_>,
) -> Result<BackupFile, BackupError> {
    let target = to.join(name);
    let fail = || BackupError::io("writing", &target);
    let mut options = File::options();
    options.write(true).create_new(true);
    // Keys are among the files, and messages are nobody else's business either.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&target).map_err(fail())?;
    let (mut hasher, mut bytes, mut buffer) = (blake3::Hasher::new(), 0, vec![0; PIECE]);
    while bytes < limit {
        let wanted = usize::try_from(limit - bytes).unwrap_or(PIECE).min(PIECE);
        let count = match from.read(&mut buffer[..wanted]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count.map_err(BackupError::io("reading what is to be", &target))?,
        };
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count]).map_err(fail())?;
        bytes += count as u64;
        if pace(count as u64).is_break() {
            return Err(BackupError::CutShort);
        }
    }
    sync_file(&file, &target).map_err(fail())?;
    Ok(BackupFile { name: name.to_owned(), bytes, hash: *hasher.finalize().as_bytes() })
}

/// See [`crate::store::Check::copy`].
pub(super) fn copy_log(checker: &Checker, to: &Path, pace: &mut Pace<'_>) -> Result<Copied, BackupError> {
    make_empty_dir(to)?;
    let _pin = checker.shared.pin();
    let end = checker.shared.durable();
    let places = Places::new(to);
    fs::create_dir(&places.log).map_err(BackupError::io("creating", &places.log))?;
    let mut files = Vec::new();
    let text = format_text(&checker.salt);
    files.push(write_copy("FORMAT", text.as_bytes(), u64::MAX, to, pace)?);
    let synced = Synced::before(end).encode();
    files.push(write_copy("synced", &synced[..], u64::MAX, to, pace)?);
    let mut numbers = log::list(&checker.places.log)?;
    numbers.retain(|number| *number <= end.file);
    for &number in &numbers {
        let path = log::path(&checker.places.log, number);
        let file = match open_file(&path, File::options().read(true)) {
            // The writer was about to remove it when we came.
            Err(error) if error.kind() == io::ErrorKind::NotFound && files.len() == 2 => continue,
            file => file.map_err(BackupError::io("opening", &path))?,
        };
        let limit = if number == end.file { end.offset } else { u64::MAX };
        files.push(write_copy(&checker.places.name(&path), file, limit, to, pace)?);
    }
    sync_dir(&places.log)?;
    sync_dir(to)?;

    // The copy itself is read, with the hashes of all frames: what is damaged in it was damaged before, or is now.
    let table = FileTable::new(places.log.clone(), Arc::new(ReadOnlyFiles));
    let mut log = LogCheck { places: &places, table: &table, key: &checker.key, sequence: None };
    let (mut damages, mut checked) = (Vec::new(), Checked::default());
    if log.files(None, &mut checked, pace, &mut |finding| damages.push(finding.damage))?.is_break() {
        return Err(BackupError::CutShort);
    }
    Ok(Copied { files, damages })
}
