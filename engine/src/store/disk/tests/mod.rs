//! Tests of the store on disk. `Disk` is a store in a scratch directory that can be closed, looked into and reopened.

mod basics;
mod checks;
mod cleaning;
mod continued;
mod corners;
mod damage;
mod directory;
mod durable;
mod faults;
mod faulty;
mod full_disk;
mod gathered;
mod interrupted;
mod kill;
mod lost_pages;
mod mend;
mod power;
mod refused;
mod sealed;
mod special;

use std::{fs, path::PathBuf, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;

use super::{DiskOptions, DiskStore, OpenReport};
use crate::{
    Op, Store, StoreError,
    store::suite::{Harness, Model, compare},
};

/// Small files and frequent checkpoints, so that little data meets every path.
pub(super) fn small() -> DiskOptions {
    DiskOptions {
        roll_at: 16 << 10,
        checkpoint_bytes: 32 << 10,
        checkpoint_rows: 200,
        index_cache: 1 << 20,
        index_patience: Duration::from_secs(120),
        reserve: 4 << 10,
    }
}

pub(super) struct Disk {
    pub(super) dir: TempDir,
    pub(super) options: DiskOptions,
    pub(super) store: Option<DiskStore>,
}

impl Disk {
    pub(super) fn new() -> Self {
        let mut disk = Self { dir: tempfile::tempdir().unwrap(), options: small(), store: None };
        disk.open().unwrap();
        disk
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(super) fn open(&mut self) -> Result<OpenReport, StoreError> {
        self.store = None;
        let (store, report) = DiskStore::open(self.path(), self.options.clone())?;
        self.store = Some(store);
        Ok(report)
    }

    pub(super) fn close(&mut self) {
        self.store = None;
    }

    pub(super) fn get_mut(&mut self) -> &mut DiskStore {
        self.store.as_mut().unwrap()
    }

    pub(super) fn put(&mut self, key: &str, value: impl Into<Bytes>) {
        let op = Op::Put(Bytes::copy_from_slice(key.as_bytes()), value.into());
        self.get_mut().commit(&[vec![op]]).unwrap();
    }

    pub(super) fn delete(&mut self, key: &str) {
        self.get_mut().commit(&[vec![Op::Delete(Bytes::copy_from_slice(key.as_bytes()))]]).unwrap();
    }

    pub(super) fn value(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.store.as_ref().unwrap().reader().get(key.as_bytes())
    }

    pub(super) fn log(&self, number: u64) -> PathBuf {
        super::log::path(&self.path().join("log"), number)
    }

    pub(super) fn shows(&self, model: &Model) {
        compare(&*self.store.as_ref().unwrap().reader(), model);
    }
}

impl Harness for Disk {
    fn store(&mut self) -> &mut dyn Store {
        self.get_mut()
    }

    fn reopen(&mut self) {
        let report = self.open().unwrap();
        assert_eq!((report.damages, report.torn_tail), (vec![], None));
        assert_eq!(report.index, super::IndexState::Intact);
        assert_eq!(self.get_mut().verify().unwrap(), []);
    }

    fn lose_what_can_be_lost(&mut self) {
        self.close();
        for name in ["sled", "marker", "FORMAT"] {
            let path = self.path().join(name);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        let report = self.open().unwrap();
        assert!(matches!(report.index, super::IndexState::Rebuilt { .. }), "{report:?}");
        assert_eq!(report.damages.len(), 1, "FORMAT is the only thing to miss: {report:?}");
    }
}
