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

/// Rewrites the version of a file whose checksum stands at its end, or after the first `header` bytes.
fn raise_version(path: &std::path::Path, header: Option<usize>, check: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[8..12].copy_from_slice(&7_u32.to_le_bytes());
    let end = header.unwrap_or(bytes.len()) - check;
    let sum = crate::store::disk::frame::checksum(&bytes[..end]);
    bytes[end..end + check].copy_from_slice(&sum[..check]);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_log_file_or_marker_of_another_version_is_refused_by_name_and_left_alone() {
    for (name, header, check) in [("log/0000000001.log", Some(68), 16), ("marker", None, 12)] {
        let mut disk = Disk::new();
        disk.put("a", "1");
        disk.close();
        let path = disk.path().join(name);
        let before = fs::read(&path).unwrap();
        raise_version(&path, header, check);
        let Err(error) = disk.open() else { panic!("{name} of version 7 was opened") };
        assert!(matches!(error, StoreError::Version { found: 7, .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        fs::write(&path, before).unwrap();
        assert_eq!(disk.open().unwrap().index, crate::store::IndexState::Intact);
        assert_eq!(disk.value("a").unwrap().unwrap(), "1");
    }
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

/// A name far away is one gap, and another spelling of a number is no log file.
#[test]
fn a_stray_name_among_the_log_files_costs_one_word() {
    let mut disk = Disk::new();
    disk.put("a", "1");
    disk.close();
    let log = disk.path().join("log");
    let original = fs::read(disk.log(1)).unwrap();
    for name in ["00000000001.log", "+000000001.log", "18446744073709551615.log", "000000001.log"] {
        fs::write(log.join(name), &original).unwrap();
    }
    assert_eq!(disk.open().unwrap().damages, []);
    disk.close();
    fs::write(log.join("9999999999.log"), b"").unwrap();
    let (scratch, mut found) = (tempfile::tempdir().unwrap(), Vec::new());
    crate::store::verify_closed(&disk.path(), scratch.path(), &mut |finding| found.push(finding.damage)).unwrap();
    let report = disk.open().unwrap();
    for told in [&found, &report.damages] {
        let told: Vec<_> = told.iter().map(|damage| (damage.file.as_str(), damage.what.as_str())).collect();
        assert_eq!(told, [("log/0000000002.log", "9999999997 files are missing from here on")]);
    }
    assert_eq!(disk.value("a").unwrap().unwrap(), "1");
    disk.put("b", "2");
    let (mut checker, mut found) = (disk.get_mut().checker().unwrap(), Vec::new());
    checker.check(&mut |_| std::ops::ControlFlow::Continue(()), &mut |finding| found.push(finding)).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    disk.open().unwrap();
    assert_eq!(disk.value("b").unwrap().unwrap(), "2");
}
