//! A device that fails when told to, beneath the log.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::super::file::{Files, LogFile, OsFiles};

/// What goes wrong, once, at the next call of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// So many bytes of the next write arrive, then the error comes.
    Write(usize, io::ErrorKind),
    /// The next sync fails.
    Sync,
    /// The next truncate fails.
    Truncate,
    /// The next read fails.
    Read,
    /// This byte of every file can not be read, ever.
    BadSector(u64),
    /// The next file can not be created, for the disk is full.
    Create,
    /// The next file can not be created, for the process may open no more.
    NoDescriptor,
    /// So many bytes are left on the device, until disarmed.
    Room(u64),
    /// So many bytes are all that the store may take, until disarmed.
    Capacity(u64),
}

/// Too many open files.
const EMFILE: i32 = 24;

/// The index has many files, which change with checkpoints only: they are measured each time of so many.
const INDEX_EVERY: u64 = 50;

/// Real files, and the faults that are still to come.
#[derive(Clone, Default)]
pub(super) struct FaultyFiles(Arc<Mutex<Vec<Fault>>>, Arc<Mutex<(u64, u64)>>);

impl FaultyFiles {
    pub(super) fn arm(&self, fault: Fault) {
        self.0.lock().unwrap().push(fault);
    }

    pub(super) fn disarm(&self) {
        self.0.lock().unwrap().clear();
    }

    /// Bytes of all files of a store.
    fn taken(&self, store: &Path) -> u64 {
        let mut index = self.1.lock().unwrap();
        if index.0.is_multiple_of(INDEX_EVERY) {
            index.1 = bytes_below(&store.join("sled"));
        }
        index.0 += 1;
        index.1 + bytes_in(store) + bytes_below(&store.join("log"))
    }

    fn is_small(&self) -> bool {
        self.0.lock().unwrap().iter().any(|fault| matches!(fault, Fault::Capacity(_)))
    }

    fn take(&self, matches: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut faults = self.0.lock().unwrap();
        let at = faults.iter().position(matches)?;
        Some(faults.remove(at))
    }

    fn check(&self, fault: Fault) -> io::Result<()> {
        self.take(|armed| *armed == fault).map_or(Ok(()), |fault| Err(io::Error::other(format!("{fault:?}"))))
    }
}

impl Files for FaultyFiles {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        self.check(Fault::NoDescriptor).map_err(|_| io::Error::from_raw_os_error(EMFILE))?;
        let file = OsFiles.create(path)?;
        self.check(Fault::Create).map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        Ok(Arc::new(FaultyFile { file, path: path.to_owned(), faults: self.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(FaultyFile { file: OsFiles.open(path)?, path: path.to_owned(), faults: self.clone() }))
    }

    fn room(&self, dir: &Path) -> io::Result<u64> {
        let room = self.0.lock().unwrap().iter().find_map(|fault| match fault {
            Fault::Room(bytes) => Some(*bytes),
            Fault::Capacity(bytes) => Some(bytes.saturating_sub(self.taken(dir.parent()?))),
            _ => None,
        });
        room.map_or_else(|| OsFiles.room(dir), Ok)
    }
}

/// Bytes of the files in a directory, without those in others within it.
fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(|found| found.is_file()).map(|found| found.len()).sum()
}

/// Bytes of all files below a directory.
fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let below = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
        _ => entry.metadata().map_or(0, |found| found.len()),
    };
    entries.map(below).sum()
}

struct FaultyFile {
    file: Arc<dyn LogFile>,
    path: PathBuf,
    faults: FaultyFiles,
}

impl LogFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let room = self.faults.room(self.path.parent().unwrap_or(&self.path))?;
        let grows = (offset + bytes.len() as u64).saturating_sub(self.file.len()?);
        if self.faults.is_small() && grows > room {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        match self.faults.take(|fault| matches!(fault, Fault::Write(..))) {
            Some(Fault::Write(count, kind)) => {
                self.file.write_at(&bytes[..count.min(bytes.len())], offset)?;
                Err(io::Error::from(kind))
            }
            _ => self.file.write_at(bytes, offset),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.check(Fault::Sync)?;
        self.file.sync()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.faults.check(Fault::Truncate)?;
        self.file.truncate(len)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.faults.check(Fault::Read)?;
        let covers =
            |fault: &Fault| matches!(fault, Fault::BadSector(at) if (offset..offset + bytes.len() as u64).contains(at));
        if self.faults.0.lock().unwrap().iter().any(covers) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.file.read_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
