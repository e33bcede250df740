//! A device with a cache beneath the log, and power cuts: what is not synced may be gone, names of files and cuts of their
//! ends as well as bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use super::super::file::{Files, LogFile, OsFiles};

/// Log files with a page cache (the real files) over a disk (kept here).
#[derive(Clone, Default)]
pub(super) struct CachedFiles(Arc<Mutex<Device>>);

#[derive(Default)]
struct Device {
    disk: BTreeMap<PathBuf, OnDisk>,
    /// Files whose names are on the disk.
    names: BTreeSet<PathBuf>,
    next_sync: NextSync,
    /// Every write and sync since the beginning: of which file, and how many bytes; a sync has none.
    calls: Vec<(PathBuf, Option<usize>)>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum NextSync {
    #[default]
    Works,
    /// It fails, and its pages count as clean from then on, as Linux has it.
    Fails,
    /// The power goes before it has done anything.
    IsCutShort,
}

#[derive(Default)]
struct OnDisk {
    bytes: Vec<u8>,
    /// Bytes that only the cache has.
    dirty: Vec<Range<u64>>,
    /// The shortest that the file has been since it was synced.
    cut_to: Option<u64>,
}

/// What of all that was not synced has come to the disk all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Nothing,
    /// Bytes, and nothing of what the file system has to note: names and cuts.
    Bytes,
}

impl OnDisk {
    /// Brings what is dirty to the disk.
    fn write_back(&mut self, cache: &dyn LogFile) -> io::Result<()> {
        for range in std::mem::take(&mut self.dirty) {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            cache.read_at(&mut bytes, range.start)?;
            self.bytes.resize(self.bytes.len().max(range.end as usize), 0);
            self.bytes[range.start as usize..range.end as usize].copy_from_slice(&bytes);
        }
        Ok(())
    }
}

impl CachedFiles {
    fn device(&self) -> MutexGuard<'_, Device> {
        self.0.lock().unwrap()
    }

    pub(super) fn fail_next_sync(&self) {
        self.device().next_sync = NextSync::Fails;
    }

    /// Writes (with their bytes) and syncs since the last call.
    pub(super) fn take_calls(&self) -> Vec<(PathBuf, Option<usize>)> {
        std::mem::take(&mut self.device().calls)
    }

    /// What is to be synced next stays in the cache.
    pub(super) fn cut_next_sync_short(&self) {
        self.device().next_sync = NextSync::IsCutShort;
    }

    /// The cache is gone; what the directory holds now is what the disk has.
    pub(super) fn cut_power(&self, kept: Kept) {
        let Device { disk, names, .. } = &mut *self.device();
        for (path, file) in disk.iter_mut() {
            if kept == Kept::Bytes && path.exists() {
                file.write_back(&*OsFiles.open(path).unwrap()).unwrap();
            }
            file.dirty.clear();
            file.cut_to = None;
            if names.contains(path) {
                fs::write(path, &file.bytes).unwrap();
            } else if path.exists() {
                fs::remove_file(path).unwrap();
            }
        }
    }

    fn opened(&self, path: &Path, file: Arc<dyn LogFile>) -> Arc<dyn LogFile> {
        Arc::new(CachedFile { file, path: path.to_owned(), files: self.clone() })
    }
}

impl Files for CachedFiles {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        let file = OsFiles.create(path)?;
        self.device().disk.insert(path.to_owned(), OnDisk::default());
        Ok(self.opened(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(self.opened(path, OsFiles.open(path)?))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let there = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<BTreeSet<_>>>()?;
        let mut device = self.device();
        device.names.retain(|path| path.parent() != Some(dir));
        device.names.extend(there);
        Ok(())
    }
}

struct CachedFile {
    file: Arc<dyn LogFile>,
    path: PathBuf,
    files: CachedFiles,
}

impl LogFile for CachedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)?;
        let written = offset..offset + bytes.len() as u64;
        let mut device = self.files.device();
        device.calls.push((self.path.clone(), Some(bytes.len())));
        device.disk.entry(self.path.clone()).or_default().dirty.push(written);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut device = self.files.device();
        device.calls.push((self.path.clone(), None));
        let outcome = std::mem::take(&mut device.next_sync);
        let disk = device.disk.entry(self.path.clone()).or_default();
        if outcome == NextSync::Fails {
            disk.dirty.clear();
        }
        if outcome != NextSync::Works {
            return Err(io::Error::from_raw_os_error(5));
        }
        if let Some(len) = disk.cut_to.take() {
            disk.bytes.truncate(len as usize);
        }
        disk.write_back(&*self.file)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)?;
        let mut device = self.files.device();
        let disk = device.disk.entry(self.path.clone()).or_default();
        disk.cut_to = Some(disk.cut_to.map_or(len, |before| before.min(len)));
        disk.dirty.iter_mut().for_each(|range| *range = range.start.min(len)..range.end.min(len));
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
