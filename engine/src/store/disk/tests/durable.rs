//! What must be on the disk before something else is: seen in the order of calls, since only a power cut would show it.

use std::{ops::ControlFlow, path::Path};

use super::{
    super::{file, marker::Marker, synced::Synced},
    *,
};
use crate::store::IndexState;

/// What was made durable and renamed by `work`, by name.
fn done(work: impl FnOnce()) -> Vec<(&'static str, String)> {
    file::DONE.take();
    work();
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    file::DONE.take().iter().map(|(what, path)| (*what, name(path))).collect()
}

/// Else a power cut might leave the new name with nothing behind it, or the old file under it.
#[test]
fn a_small_file_is_synced_before_it_gets_its_name_and_the_name_after() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let done = done(|| file::write_atomically(&root.join("small"), b"1").unwrap());
    let name = |name: &str| name.to_owned();
    assert_eq!(done, [("synced", name("small.tmp")), ("renamed", name("small")), ("synced", name("root"))]);
    assert_eq!(fs::read(root.join("small")).unwrap(), b"1");
}

#[test]
fn every_file_of_a_copy_is_synced_and_their_directories_after_them() {
    let mut disk = Disk::new();
    for key in ["a", "b", "c"] {
        disk.put(key, vec![1; 17 << 10]);
    }
    let to = disk.dir.path().join("copy");
    let mut files = Vec::new();
    let done = done(|| {
        let mut checker = disk.get_mut().checker().unwrap();
        files = checker.copy(&to, &mut |_| ControlFlow::Continue(())).unwrap().files;
    });
    let is_done = |name: &str| done.iter().position(|(what, done)| *what == "synced" && done == name);
    assert!(files.len() >= 5, "{files:?}");
    for file in &files {
        let name = Path::new(&file.name).file_name().unwrap().to_str().unwrap();
        assert!(is_done(name).is_some() && is_done(name) < is_done("log"), "{name}: {done:?}");
    }
    assert_eq!(is_done("copy"), Some(done.len() - 1), "{done:?}");
}

/// A file that is gone is missed, whatever else is lost: the marker knew of it before anything in it was confirmed.
#[test]
fn the_marker_knows_of_a_new_log_file_and_so_does_the_note_of_what_was_synced() {
    let mut disk = Disk::new();
    disk.put("first", vec![1; 17 << 10]);
    disk.put("second", vec![2; 17 << 10]);
    assert_eq!(Marker::read(&disk.path().join("marker")).unwrap().unwrap().newest, 2);
    // Begun, and nothing in it yet: its header was synced all the same.
    disk.get_mut().log.start_next().unwrap();
    let synced = Synced::read(&disk.path().join("synced")).unwrap().unwrap();
    assert_eq!((synced.sequence, synced.file, synced.end), (2, 3, 68));
    disk.close();
    fs::remove_file(disk.log(3)).unwrap();
    fs::remove_file(disk.log(2)).unwrap();
    fs::remove_file(disk.path().join("synced")).unwrap();
    let report = disk.open().unwrap();
    let told: Vec<_> = report.damages.iter().map(|damage| (damage.file.as_str(), damage.what.as_str())).collect();
    assert_eq!(told, [("log/0000000002.log", "the file is missing")]);
    assert_eq!(report.index, IndexState::Intact);
}

/// The header of a file that was synced is damaged: that is no file that was just being created.
#[test]
fn a_damaged_header_of_a_file_that_was_begun_in_order_is_damage() {
    let mut disk = Disk::new();
    disk.put("first", vec![1; 17 << 10]);
    disk.get_mut().log.start_next().unwrap();
    disk.close();
    fs::write(disk.log(2), vec![0; 68]).unwrap();
    let report = disk.open().unwrap();
    assert_eq!(report.torn_tail, None);
    assert!(report.damages.iter().any(|damage| damage.what == "the file header is damaged"), "{report:?}");
}

#[test]
fn a_round_through_a_store_in_use_misses_a_log_file() {
    let mut disk = Disk::new();
    for key in ["a", "b", "c"] {
        disk.put(key, vec![1; 17 << 10]);
    }
    fs::remove_file(disk.log(2)).unwrap();
    let (mut checker, mut found) = (disk.get_mut().checker().unwrap(), Vec::new());
    checker.check(&mut |_| ControlFlow::Continue(()), &mut |finding| found.push(finding.damage)).unwrap();
    let is_told = |what: &str| found.iter().any(|found| found.file == "log/0000000002.log" && found.what == what);
    assert!(is_told("the file is missing"), "{found:?}");
}
