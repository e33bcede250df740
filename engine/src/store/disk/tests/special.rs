//! Named pipes and directories in the places of the store's files: nothing waits for them, and nothing takes them for what
//! they are not.

use std::{process::Command, sync::mpsc, thread};

use super::*;
use crate::store::{Damage, IndexState, verify_closed};

/// Longer than all that is done here takes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Special {
    Pipe,
    Directory,
}

fn put_in_place(path: &std::path::Path, special: Special) {
    let _ = fs::remove_file(path);
    match special {
        Special::Pipe => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        Special::Directory => fs::create_dir(path).unwrap(),
    }
}

/// Does it in another thread, which stays behind when it hangs.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    result.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{what}: {error}"))
}

fn verify(disk: &Disk, what: &str) -> Vec<Damage> {
    let (root, scratch) = (disk.path(), tempfile::tempdir().unwrap());
    in_time(what, move || {
        let mut told = Vec::new();
        verify_closed(&root, scratch.path(), &mut |finding| told.push(finding.damage)).unwrap();
        told
    })
}

fn open(mut disk: Disk, what: &str) -> (Disk, OpenReport) {
    in_time(what, move || {
        let report = disk.open().unwrap();
        (disk, report)
    })
}

/// Three log files, a checkpoint in the second.
fn sample() -> Disk {
    let mut disk = Disk::new();
    disk.put("a", vec![1; 17 << 10]);
    disk.put("b", vec![2; 600]);
    disk.get_mut().checkpoint().unwrap();
    disk.put("c", vec![3; 17 << 10]);
    disk.put("d", vec![4; 600]);
    disk.close();
    disk
}

#[test]
fn in_place_of_a_small_file_it_is_moved_away_and_nothing_is_lost() {
    for name in ["FORMAT", "marker", "synced", "reserve", "rebuilding", "marker.tmp"] {
        for special in [Special::Pipe, Special::Directory] {
            if name == "marker.tmp" && special == Special::Directory {
                continue; // no open of it waits
            }
            let what = format!("{special:?} as {name}");
            let disk = sample();
            put_in_place(&disk.path().join(name), special);
            let told = verify(&disk, &what);
            if ["FORMAT", "marker", "synced"].contains(&name) {
                assert!(told.iter().any(|damage| damage.file == name), "{what}: {told:?}");
            }
            let (mut disk, report) = open(disk, &what);
            for key in ["a", "b", "c", "d"] {
                assert!(disk.value(key).unwrap().is_some(), "{what}: {key}");
            }
            if name != "marker.tmp" {
                let aside = disk.path().join(format!("{name}.no-file-1"));
                assert!(aside.symlink_metadata().is_ok(), "{what}: it is not lost");
                assert!(report.damages.iter().any(|damage| damage.file == name), "{what}: {report:?}");
            }
            assert_eq!(matches!(report.index, IndexState::Rebuilt { .. }), name == "marker", "{what}: {report:?}");
            assert_eq!(report.unknown_end.is_some(), name == "synced");
            disk.put("e", "1");
            disk.get_mut().checkpoint().unwrap();
            disk.reopen();
        }
    }
}

#[test]
fn in_place_of_a_log_file_it_is_damage_like_a_missing_one() {
    for number in [1, 2, 3, 4] {
        for special in [Special::Pipe, Special::Directory] {
            let what = format!("{special:?} as log file {number}");
            let disk = sample();
            let name = format!("log/{number:010}.log");
            put_in_place(&disk.log(number), special);
            let told = verify(&disk, &what);
            let is_named = |damages: &[Damage]| {
                damages.iter().any(|damage| damage.file == name && damage.what.contains("no regular file"))
            };
            assert!(is_named(&told), "{what}: {told:?}");
            let (mut disk, report) = open(disk, &what);
            assert!(is_named(&report.damages), "{what}: {report:?}");
            for (key, file) in [("a", 1), ("b", 2), ("c", 2), ("d", 3)] {
                assert_eq!(matches!(disk.value(key), Ok(Some(_))), file != number, "{what}: {key}");
            }
            disk.put("e", vec![5; 17 << 10]);
            disk.put("f", vec![6; 17 << 10]);
            disk.get_mut().checkpoint().unwrap();
            let (disk, _) = open(disk, &what);
            assert!(disk.value("f").unwrap().is_some());
        }
    }
}

#[test]
fn in_place_of_the_lock_it_is_refused_at_once() {
    let mut disk = sample();
    put_in_place(&disk.path().join("lock"), Special::Pipe);
    let (root, scratch) = (disk.path(), tempfile::tempdir().unwrap());
    let verified = in_time("verify", move || verify_closed(&root, scratch.path(), &mut |_| ()).map(|_| ()));
    assert!(matches!(verified, Err(crate::store::VerifyError::Store(StoreError::NotAFile { .. }))), "{verified:?}");
    let Err(error) = in_time("open", move || disk.open()) else { panic!("a pipe was locked") };
    assert!(matches!(error, StoreError::NotAFile { .. }) && error.to_string().contains("lock is no regular file"));
}

/// Sled would wait for the other end of a pipe; the index is set aside and made anew from the log at once.
#[test]
fn in_place_of_parts_of_the_index_it_is_set_aside_at_once() {
    for name in ["sled", "sled/metadata", "sled/slabs", "sled/durability_cookie"] {
        let what = format!("a pipe as {name}");
        let disk = sample();
        let path = disk.path().join(name);
        let _ = fs::remove_dir_all(&path);
        put_in_place(&path, Special::Pipe);
        let told = verify(&disk, &what);
        assert!(told.iter().any(|damage| damage.file == "sled"), "{what}: {told:?}");
        let (disk, report) = open(disk, &what);
        let IndexState::Rebuilt { why, set_aside: Some(_) } = &report.index else { panic!("{what}: {report:?}") };
        let word = if name == "sled" { "is no directory" } else { "is neither a file nor a directory" };
        assert!(why.contains(&format!("{name} {word}")), "{what}: {why}");
        for key in ["a", "b", "c", "d"] {
            assert!(disk.value(key).unwrap().is_some(), "{what}: {key}");
        }
        let (_, report) = open(disk, &what);
        assert_eq!(report.index, IndexState::Intact, "{what}");
    }
}

/// A pipe that comes while the store is open: sled's directory is synced file by file.
#[test]
fn a_checkpoint_does_not_wait_for_a_pipe_in_the_index() {
    let mut disk = sample();
    disk.open().unwrap();
    put_in_place(&disk.path().join("sled/pipe"), Special::Pipe);
    disk.put("e", "1");
    let result = in_time("checkpoint", move || {
        let result = disk.get_mut().checkpoint();
        (result, disk).0
    });
    assert!(matches!(result, Err(StoreError::Io { .. })), "{result:?}");
}
