//! Checkpoints that fail after they wrote rows to the index: the marker still says "writing".

use std::{fs, os::unix::net::UnixListener};

use super::*;
use crate::store::{IndexState, suite::apply};

fn commit(disk: &mut Disk, model: &mut Model, numbers: std::ops::Range<u32>, len: usize) {
    for number in numbers {
        let mut batch = vec![Op::Put(Bytes::from(format!("key {number}")), Bytes::from(vec![number as u8; len]))];
        batch.push(Op::Delete(Bytes::from(format!("key {}", number / 2))));
        apply(model, std::slice::from_ref(&batch));
        disk.get_mut().commit(&[batch]).unwrap();
    }
}

/// A store whose checkpoint has just failed: something in sled's directory could not be synced.
fn interrupted() -> (Disk, Model) {
    let (mut disk, mut model) = (Disk::new(), Model::new());
    disk.put("stays", "untouched by what follows");
    model.insert(Bytes::from("stays"), Bytes::from("untouched by what follows"));
    commit(&mut disk, &mut model, 0..50, 100);
    disk.get_mut().checkpoint().unwrap();
    commit(&mut disk, &mut model, 30..80, 700);
    let blocker = disk.path().join("sled/socket");
    drop(UnixListener::bind(&blocker).unwrap());
    assert!(matches!(disk.get_mut().checkpoint(), Err(StoreError::Io { .. })));
    fs::remove_file(blocker).unwrap();
    disk.shows(&model);
    commit(&mut disk, &mut model, 60..90, 30);
    disk.shows(&model);
    (disk, model)
}

#[test]
fn the_next_checkpoint_picks_it_up() {
    let (mut disk, model) = interrupted();
    disk.get_mut().checkpoint().unwrap();
    assert!(!disk.path().join("sled.broken-1").exists(), "the rows that it was about to write may be in any state");
    disk.shows(&model);
    let counted = disk.get_mut().stats().live_bytes;
    disk.reopen();
    disk.shows(&model);
    assert_eq!(disk.get_mut().stats().live_bytes, counted, "counted again from the index");
    assert_eq!(disk.get_mut().stats().overlay_rows, 0);
}

#[test]
fn the_next_open_picks_it_up_without_a_rebuild() {
    let (mut disk, model) = interrupted();
    for _ in 0..2 {
        disk.reopen();
        disk.shows(&model);
    }
    disk.get_mut().checkpoint().unwrap();
    disk.reopen();
    disk.shows(&model);
    disk.lose_what_can_be_lost();
    disk.shows(&model);
}

#[test]
fn rows_that_the_checkpoint_did_not_touch_are_still_checked() {
    let (mut disk, model) = interrupted();
    disk.close();
    // As if sled had lost its last records: the slabs stay, what names the rows in them is older.
    let metadata = disk.path().join("sled/metadata");
    for entry in fs::read_dir(metadata).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.file_name().unwrap().to_str().unwrap().starts_with("log") {
            fs::write(entry, b"").unwrap();
        }
    }
    let report = disk.open().unwrap();
    assert!(matches!(report.index, IndexState::Rebuilt { .. }), "{report:?}");
    assert_eq!(report.damages, []);
    disk.shows(&model);
}

#[test]
fn an_index_that_is_broken_by_then_is_rebuilt_on_the_spot() {
    let (mut disk, model) = interrupted();
    for entry in fs::read_dir(disk.path().join("sled/slabs")).unwrap().map(|entry| entry.unwrap().path()) {
        let len = fs::metadata(&entry).unwrap().len() as usize;
        fs::write(entry, vec![0x5a; len]).unwrap();
    }
    disk.get_mut().checkpoint().unwrap();
    disk.shows(&model);
    assert!(disk.path().join("sled.broken-1").exists());
    disk.reopen();
    disk.shows(&model);
}
