//! What the system has and the disk has not: pages after a failed sync, names of new files, cuts. Then the power goes.

use std::{path::Path, sync::Arc};

use super::{
    super::file::Files,
    power::{CachedFiles, Kept},
    *,
};

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

        files.cut_power(Kept::Nothing);
        let (store, report) = open(dir.path(), &files);
        assert_eq!(report.damages, [], "{len}");
        assert_eq!(store.reader().get(b"unconfirmed").unwrap(), shown, "{len}");
        assert!(store.reader().get(b"before").unwrap().is_some() && store.reader().get(b"after").unwrap().is_some());
    }
}

#[test]
fn a_confirmed_commit_in_a_new_file_survives_a_power_cut() {
    // In the first file of all, and in one that follows.
    for before in [0, 1] {
        let (dir, files) = (tempfile::tempdir().unwrap(), CachedFiles::default());
        let (mut store, _) = open(dir.path(), &files);
        for number in 0..before {
            put(&mut store, &format!("before {number}"), 20_000).unwrap();
        }
        put(&mut store, "first", 10).unwrap();
        assert_eq!(store.stats().files, before + 1);
        drop(store);
        files.cut_power(Kept::Nothing);
        let (store, report) = open(dir.path(), &files);
        assert_eq!(report.damages, []);
        assert!(store.reader().get(b"first").unwrap().is_some(), "{before} files before");
    }
}

/// Else what was cut off would come back behind a later write of the same length, as if it belonged to that.
#[test]
fn what_was_cut_off_at_open_does_not_come_back() {
    let (dir, files) = (tempfile::tempdir().unwrap(), CachedFiles::default());
    let (mut store, _) = open(dir.path(), &files);
    put(&mut store, "before", 600).unwrap();
    let put_of = |key: &'static str| vec![Op::Put(Bytes::from(key), Bytes::from(vec![7; 600]))];
    let path = super::super::log::path(&dir.path().join("log"), 1);
    let start = fs::metadata(&path).unwrap().len();
    // A write of two batches whose sync never came: the first is half there, the second whole.
    files.cut_next_sync_short();
    store.commit(&[put_of("first"), put_of("other")]).unwrap_err();
    drop(store);
    let file = files.open(&path).unwrap();
    file.write_at(&[0; 50], start + 100).unwrap();
    file.sync().unwrap();

    let (mut store, report) = open(dir.path(), &files);
    assert_eq!(report.torn_tail.unwrap().offset, start);
    assert_eq!(fs::metadata(&path).unwrap().len(), start);
    files.cut_next_sync_short();
    put(&mut store, "again", 600).unwrap_err();
    drop(store);
    files.cut_power(Kept::Bytes);

    let (store, report) = open(dir.path(), &files);
    assert_eq!(report.damages, []);
    assert!(store.reader().get(b"again").unwrap().is_some() && store.reader().get(b"other").unwrap().is_none());
}

/// What says how far the log was synced costs one small write for each group of commits, and no sync but at a checkpoint.
/// So it is old after a power cut, and never ahead.
#[test]
fn what_was_synced_is_noted_with_one_small_write_and_may_be_old() {
    for kept in [Kept::Nothing, Kept::Bytes] {
        let (dir, files) = (tempfile::tempdir().unwrap(), CachedFiles::default());
        let (mut store, _) = open(dir.path(), &files);
        let (synced, log) = (dir.path().join("synced"), super::super::log::path(&dir.path().join("log"), 1));
        let first = fs::read(&synced).unwrap();
        files.take_calls();
        let put_of = |key: &'static str| vec![Op::Put(Bytes::from(key), Bytes::from("1"))];
        store.commit(&[put_of("a"), put_of("b"), put_of("c")]).unwrap();
        assert_eq!(
            files.take_calls(),
            [(log.clone(), Some(3 * 49)), (log.clone(), None), (synced.clone(), Some(48))],
            "the log first, durable, and then the note"
        );
        files.cut_next_sync_short();
        put(&mut store, "unconfirmed", 600).unwrap_err();
        assert!(files.take_calls().iter().all(|(path, _)| *path != synced), "nothing was synced");
        drop(store);
        files.cut_power(kept);
        assert_eq!(fs::read(&synced).unwrap() == first, kept == Kept::Nothing, "not synced itself");
        let (mut store, report) = open(dir.path(), &files);
        assert_eq!((report.damages, report.unknown_end), (vec![], None), "{kept:?}");
        assert!(store.reader().get(b"c").unwrap().is_some());
        let noted = fs::read(&synced).unwrap();
        files.take_calls();
        store.checkpoint().unwrap();
        assert_eq!(files.take_calls(), [(synced.clone(), None)]);
        drop(store);
        files.cut_power(Kept::Nothing);
        assert_eq!(fs::read(&synced).unwrap(), noted);
    }
}
