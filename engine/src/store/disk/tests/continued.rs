//! Where the log goes on after damage: never at a place, and never with a number, that was in use before.

use std::sync::Arc;

use super::{
    faulty::{Fault, FaultyFiles},
    *,
};

/// A file that ends before the place of the last checkpoint: what is written there would never be replayed.
#[test]
fn behind_a_file_that_was_cut_short_a_new_one_begins() {
    for keeps_synced in [true, false] {
        let mut disk = Disk::new();
        for key in ["a", "b", "c"] {
            disk.put(key, vec![1; 600]);
        }
        disk.get_mut().checkpoint().unwrap();
        disk.close();
        let len = fs::metadata(disk.log(1)).unwrap().len();
        fs::File::options().write(true).open(disk.log(1)).unwrap().set_len(len - 700).unwrap();
        if !keeps_synced {
            fs::remove_file(disk.path().join("synced")).unwrap();
        }
        let report = disk.open().unwrap();
        assert!(report.damages.iter().any(|damage| damage.what.contains("ends before")), "{report:?}");
        assert_eq!(disk.get_mut().log.position().file, 2);
        disk.put("after", "1");
        disk.open().unwrap();
        assert_eq!(disk.value("after").unwrap().unwrap(), "1");
    }
}

/// Its number is not given to another file: what others know of it, a copy for one, would be of both.
#[test]
fn behind_a_file_that_is_gone_the_next_number_is_used() {
    for keeps_synced in [true, false] {
        let mut disk = Disk::new();
        disk.put("first", vec![1; 17 << 10]);
        disk.put("second", vec![1; 600]);
        disk.close();
        fs::remove_file(disk.log(2)).unwrap();
        if !keeps_synced {
            fs::remove_file(disk.path().join("synced")).unwrap();
        }
        let report = disk.open().unwrap();
        assert!(report.damages.iter().any(|damage| damage.file == "log/0000000002.log"), "{report:?}");
        assert_eq!(disk.get_mut().log.position().file, 3);
        disk.put("after", "1");
        disk.open().unwrap();
        assert_eq!(disk.value("after").unwrap().unwrap(), "1");
    }
}

/// What the device does not give now it may give one day: frames with those numbers are in it.
#[test]
fn numbers_of_frames_that_can_not_be_read_are_not_used_again() {
    let (dir, files) = (tempfile::tempdir().unwrap(), FaultyFiles::default());
    let open = || DiskStore::open_on(dir.path(), small(), Arc::new(files.clone())).unwrap();
    let (mut store, _) = open();
    for number in 0..20 {
        store.commit(&[vec![Op::Put(Bytes::from(format!("{number}")), Bytes::from("1"))]]).unwrap();
    }
    let used = store.log.position().sequence;
    drop(store);
    // Nothing else says how many there were.
    fs::remove_file(dir.path().join("synced")).unwrap();
    files.arm(Fault::BadSector(100));
    let (mut store, report) = open();
    assert!(report.damages.iter().any(|damage| damage.what.contains("can't be read")), "{report:?}");
    assert!(store.log.position().sequence >= used, "{:?}, {used} were used", store.log.position());
    store.commit(&[vec![Op::Put(Bytes::from("after"), Bytes::from("1"))]]).unwrap();
    drop(store);
    files.disarm();
    let (store, _) = open();
    for key in ["0", "19", "after"] {
        assert!(store.reader().get(key.as_bytes()).unwrap().is_some(), "{key}");
    }
}

#[test]
fn too_many_rows_in_memory_are_refused_until_a_checkpoint_succeeds() {
    let mut disk = Disk::new();
    disk.options.checkpoint_rows = 2;
    disk.open().unwrap();
    let most = 16 * 2;
    for number in 0..=most {
        disk.put(&format!("{number}"), "1");
    }
    let put = |disk: &mut Disk| disk.get_mut().commit(&[vec![Op::Put(Bytes::from("more"), Bytes::from("1"))]]);
    let Err(StoreError::Io { context, .. }) = put(&mut disk) else { panic!("memory has no bound") };
    assert!(context.contains("checkpoints keep failing"), "{context}");
    assert_eq!(disk.value("more").unwrap(), None);
    disk.get_mut().checkpoint().unwrap();
    put(&mut disk).unwrap();
}

/// Where there is room, so much may be dead in a file or two that writing it anew is not worth it.
#[test]
fn a_full_disk_is_cleaned_of_what_else_would_stay() {
    let mut disk = Disk::new();
    disk.put("stays", vec![1; 9_000]);
    for _ in 0..6 {
        disk.put("hot", vec![2; 3_000]);
    }
    disk.get_mut().checkpoint().unwrap();
    assert!(disk.log(1).exists() && disk.log(2).exists(), "{:?}", disk.get_mut().stats());
    disk.get_mut().checkpoint().unwrap();
    assert!(disk.log(1).exists(), "{:?}", disk.get_mut().stats());
    disk.get_mut().is_full = true;
    disk.get_mut().checkpoint().unwrap();
    assert!(!disk.log(1).exists(), "{:?}", disk.get_mut().stats());
    assert_eq!(disk.value("stays").unwrap().unwrap(), vec![1; 9_000]);
}
