//! A system that forgets pages after a failed sync: what is read back from its cache is not on the disk. Then the power
//! goes.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex},
};

use super::{
    super::file::{Files, LogFile, OsFiles},
    *,
};

/// Log files with a page cache (the real files) over a disk (kept here).
#[derive(Clone, Default)]
struct CachedFiles(Arc<Mutex<Device>>);

#[derive(Default)]
struct Device {
    disk: BTreeMap<PathBuf, Vec<u8>>,
    dirty: BTreeMap<PathBuf, Vec<Range<u64>>>,
    /// The next sync fails, and its pages count as clean from then on, as Linux has it.
    sync_fails: bool,
}

impl CachedFiles {
    fn fail_next_sync(&self) {
        self.0.lock().unwrap().sync_fails = true;
    }

    /// The cache is gone; what the files hold now is what the disk has.
    fn cut_power(&self) {
        let mut device = self.0.lock().unwrap();
        device.dirty.clear();
        for (path, bytes) in &device.disk {
            if path.exists() {
                fs::write(path, bytes).unwrap();
            }
        }
    }
}

impl Files for CachedFiles {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        self.0.lock().unwrap().disk.insert(path.to_owned(), Vec::new());
        Ok(Arc::new(CachedFile { file: OsFiles.create(path)?, path: path.to_owned(), device: self.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(CachedFile { file: OsFiles.open(path)?, path: path.to_owned(), device: self.clone() }))
    }
}

struct CachedFile {
    file: Arc<dyn LogFile>,
    path: PathBuf,
    device: CachedFiles,
}

impl LogFile for CachedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)?;
        let mut device = self.device.0.lock().unwrap();
        device.dirty.entry(self.path.clone()).or_default().push(offset..offset + bytes.len() as u64);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut device = self.device.0.lock().unwrap();
        let dirty = device.dirty.remove(&self.path).unwrap_or_default();
        if std::mem::take(&mut device.sync_fails) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let disk = device.disk.entry(self.path.clone()).or_default();
        for range in dirty {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            self.file.read_at(&mut bytes, range.start)?;
            disk.resize(disk.len().max(range.end as usize), 0);
            disk[range.start as usize..range.end as usize].copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)?;
        if let Some(disk) = self.device.0.lock().unwrap().disk.get_mut(&self.path) {
            disk.truncate(len as usize);
        }
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

fn open(dir: &Path, files: &CachedFiles) -> (DiskStore, OpenReport) {
    DiskStore::open_on(dir, small(), Arc::new(files.clone())).unwrap()
}

fn put(store: &mut DiskStore, key: &str, len: usize) -> Result<(), StoreError> {
    store.commit(&[vec![Op::Put(Bytes::from(key.to_owned()), Bytes::from(vec![7; len]))]])
}

#[test]
fn what_is_shown_after_a_failed_sync_survives_a_power_cut() {
    // In the middle of a file, and as the first frame of one.
    for len in [600, 20_000] {
        let (dir, files) = (tempfile::tempdir().unwrap(), CachedFiles::default());
        let (mut store, _) = open(dir.path(), &files);
        put(&mut store, "before", len).unwrap();
        files.fail_next_sync();
        assert!(matches!(put(&mut store, "unconfirmed", 700), Err(StoreError::Io { .. })));
        drop(store);

        // A new life reads the frame from the cache: from now on it is vouched for, here and towards peers.
        let (mut store, _) = open(dir.path(), &files);
        let shown = store.reader().get(b"unconfirmed").unwrap();
        put(&mut store, "after", 10).unwrap();
        drop(store);

        files.cut_power();
        let (store, report) = open(dir.path(), &files);
        assert_eq!(report.damages, [], "{len}");
        assert_eq!(store.reader().get(b"unconfirmed").unwrap(), shown, "{len}");
        assert!(store.reader().get(b"before").unwrap().is_some() && store.reader().get(b"after").unwrap().is_some());
    }
}
