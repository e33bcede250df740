//! Directories that are not for us.

use super::*;

fn open(dir: &std::path::Path) -> Result<(DiskStore, OpenReport), StoreError> {
    DiskStore::open(dir, small())
}

#[test]
fn a_directory_in_use_is_refused_until_it_is_free() {
    let mut disk = Disk::new();
    let Err(error) = open(&disk.path()) else { panic!("opened twice") };
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let reader = disk.get_mut().reader();
    disk.close();
    drop(open(&disk.path()).unwrap());
    assert!(reader.get(b"a").is_err(), "a reader that outlives its store says so");
}

#[test]
fn another_format_version_is_refused_by_name() {
    let mut disk = Disk::new();
    disk.close();
    let path = disk.path().join("FORMAT");
    let text = fs::read_to_string(&path).unwrap().replace("format 1", "format 2");
    fs::write(path, text).unwrap();
    let Err(StoreError::Version { found, expected, .. }) = disk.open() else { panic!("another format was opened") };
    assert_eq!((found, expected), (2, 1));
}

#[test]
fn a_foreign_directory_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let Err(error) = open(dir.path()) else { panic!("a foreign directory was opened") };
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was added");
}

#[test]
fn an_interrupted_first_start_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("lock"), "").unwrap();
    fs::write(dir.path().join("FORMAT.tmp"), "rhizo").unwrap();
    fs::create_dir(dir.path().join("log")).unwrap();
    let (_, report) = open(dir.path()).unwrap();
    assert_eq!((report.index, report.damages), (crate::store::IndexState::Created, vec![]));
}

#[test]
fn an_interrupted_rebuild_is_begun_again_and_leaves_nothing() {
    let mut disk = Disk::new();
    disk.put("a", "1");
    disk.get_mut().checkpoint().unwrap();
    disk.close();
    fs::remove_file(disk.path().join("marker")).unwrap();
    fs::write(disk.path().join("rebuilding"), "").unwrap();
    let report = disk.open().unwrap();
    assert!(matches!(report.index, crate::store::IndexState::Rebuilt { set_aside: None, .. }), "{report:?}");
    assert_eq!(disk.value("a").unwrap().unwrap(), "1");
    assert!(!disk.path().join("rebuilding").exists());
}

#[test]
fn what_no_frame_can_hold_is_refused() {
    let mut disk = Disk::new();
    let op = Op::Put(Bytes::from(vec![0; 70_000]), Bytes::new());
    let Err(error) = disk.get_mut().commit(&[vec![op]]) else { panic!("an over-long key was taken") };
    assert!(matches!(error, StoreError::TooLarge { bytes: 70_000, limit: 65_535, .. }), "{error}");
    disk.put(&"k".repeat(65_535), "longest");
    disk.get_mut().checkpoint().unwrap();
    disk.reopen();
    assert_eq!(disk.value(&"k".repeat(65_535)).unwrap().unwrap(), "longest");
}
