//! The file layer beneath the commit log: the few calls it needs, so that tests can put a failing device there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use super::frame::FILE_HEADER;
use crate::StoreError;

/// The process, or the system, has as many files open as it may.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// One open log file. Shared between the writer and readers.
pub(super) trait LogFile: Send + Sync {
    /// Writes all of `bytes` at `offset`; on an error any part of them may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything written durable, length included.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file off.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Fills `bytes` from `offset`.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// As many bytes from `offset`. A file that has a way need not fill them with zeros first.
    fn read_vec(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Asks the system to forget what it keeps of the file in memory, so that the next read is one of the device.
    fn forget_cached(&self) {}
}

/// Where log files come from.
pub(super) trait Files: Send + Sync {
    /// Creates an empty file that must not exist yet.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>>;
    /// Opens an existing file for reading and writing. What is no regular file is not found: a log file of which a pipe or
    /// a directory has taken the place is missing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
    /// Bytes that can still be written where this is.
    fn room(&self, dir: &Path) -> io::Result<u64> {
        fs2::available_space(dir)
    }
}

/// Something else than a regular file lies where one should be.
#[derive(Debug, thiserror::Error)]
#[error("it is no regular file")]
struct NotAFile;

/// Bytes of a small file at most.
const SMALL_FILE: u64 = 1 << 20;

/// Opens a regular file, and refuses anything else at once: who opens a named pipe waits for its other end, for ever if
/// need be, and a device may do anything.
pub(crate) fn open_file(path: &Path, options: &OpenOptions) -> io::Result<File> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => return Err(io::Error::other(NotAFile)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // And should a pipe come there just now: regular files are not touched by this flag.
    let file = options.clone().custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other(NotAFile)) }
}

/// The content of a small regular file.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path, OpenOptions::new().read(true))?.take(SMALL_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether an open was refused because there is no regular file.
pub(crate) fn is_no_file(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NotAFile>())
}

fn as_missing(error: io::Error) -> io::Error {
    if is_no_file(&error) { io::Error::new(io::ErrorKind::NotFound, NotAFile) } else { error }
}

/// The operating system's files.
pub(super) struct OsFiles;

impl Files for OsFiles {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(open_file(path, OpenOptions::new().read(true).write(true)).map_err(as_missing)?))
    }
}

/// Files that are only read.
pub(super) struct ReadOnlyFiles;

impl Files for ReadOnlyFiles {
    fn create(&self, _: &Path) -> io::Result<Arc<dyn LogFile>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(open_file(path, OpenOptions::new().read(true)).map_err(as_missing)?))
    }
}

impl LogFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn read_vec(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            // The vector may have room for more than it was asked for: what is read beyond is cut off again.
            let at = offset + bytes.len() as u64;
            match rustix::io::pread(self, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    fn forget_cached(&self) {
        // Advice only: what is kept all the same was not to be forgotten.
        let _ = rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed);
    }
}

/// Places of a file that the device does not give: offset, length, why.
pub(super) type Unreadable = Vec<(u64, u64, String)>;

/// How much of a file is given up with one sector that can not be read.
const PIECE: usize = 64 << 10;

/// The contents of a log file, with zeros for what can not be read, and for what lies between its header and `from`,
/// which nobody will look at.
pub(super) fn read_what_can_be_read(file: &dyn LogFile, from: usize) -> io::Result<(Vec<u8>, Unreadable)> {
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let (head, from) = (len.min(FILE_HEADER), from.clamp(len.min(FILE_HEADER), len));
    let whole = file.read_at(&mut bytes[..head], 0).and_then(|()| file.read_at(&mut bytes[from..], from as u64));
    match whole {
        Ok(()) => return Ok((bytes, Unreadable::new())),
        Err(error) if is_unreadable(&error) => {}
        Err(error) => return Err(error),
    }
    let mut unreadable = Unreadable::new();
    for (index, piece) in bytes.chunks_mut(PIECE).enumerate() {
        let at = index * PIECE;
        if index > 0 && at + piece.len() <= from {
            continue;
        }
        match file.read_at(piece, at as u64) {
            Ok(()) => {}
            Err(error) if is_unreadable(&error) => {
                piece.fill(0);
                unreadable.push((at as u64, piece.len() as u64, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((bytes, unreadable))
}

/// Whether the device says that it can not give the bytes, now or later: EIO, EBADMSG, EUCLEAN.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(5 | 74 | 117))
}

#[cfg(test)]
thread_local! {
    /// What was made durable and what was renamed, in order: nothing else shows it without a power cut.
    pub(super) static DONE: std::cell::RefCell<Vec<(&'static str, std::path::PathBuf)>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn note(_what: &'static str, _path: &Path) {
    #[cfg(test)]
    DONE.with(|done| done.borrow_mut().push((_what, _path.to_owned())));
}

/// Makes the entries of a directory (creations, removals, renames) durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    OsFiles.sync_dir(dir).map_err(|error| io_error("syncing the directory", dir, error))?;
    note("synced", dir);
    Ok(())
}

/// Makes a file durable, with all that is noted of it.
pub(super) fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    note("synced", path);
    Ok(())
}

/// Replaces a small file so that a crash leaves either the old contents or the new ones.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension("tmp");
    let write = || {
        // Whatever an earlier attempt, or somebody else, has left there.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::create_new(&temporary)?;
        file.write_all(bytes)?;
        sync_file(&file, &temporary)?;
        fs::rename(&temporary, path)?;
        note("renamed", path);
        Ok(())
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary); // it may be what fills the disk
        io_error("writing", path, error)
    })?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Syncs every file and directory at and below `dir`.
pub(super) fn sync_tree(dir: &Path) -> Result<(), StoreError> {
    let fail = |error| io_error("syncing", dir, error);
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_type().map_err(fail)?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            let path = entry.path();
            match open_file(&path, OpenOptions::new().read(true)).and_then(|file| file.sync_all()) {
                // Sled compacts its metadata in a thread of its own: what it removed meanwhile is not needed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Not one of sled's own: it is what keeps the index from being made durable.
                Err(source) if is_no_file(&source) => {
                    return Err(StoreError::Io { context: format!("syncing {}", path.display()), source });
                }
                result => result.map_err(|error| io_error("syncing", &path, error))?,
            }
        }
    }
    sync_dir(dir)
}

/// Whether the device has no room left, in any of the ways systems say so.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An [`io::Error`] with what was being done to which file.
pub(super) fn io_error(doing: &str, path: &Path, source: io::Error) -> StoreError {
    let context = format!("{doing} {}", path.display());
    match source.raw_os_error() {
        _ if is_full(&source) => StoreError::Full { context },
        _ if is_no_file(&source) => StoreError::NotAFile { place: path.display().to_string() },
        // Nothing is wrong with the disk: it was not even asked.
        Some(EMFILE | ENFILE) => StoreError::Descriptors { context },
        _ => StoreError::Io { context, source },
    }
}
