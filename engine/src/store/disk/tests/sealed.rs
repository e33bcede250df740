//! Values that end in their own hash: hashed once, and no less safe for that.

use super::*;
use crate::{Block, SegmentId, block::Entry, keys};

fn block() -> (Bytes, Bytes) {
    let segment = SegmentId { node: crate::NodeId([7; 16]), epoch: crate::Epoch(1), number: 1 };
    let block = Block::build(segment, 1, &[Entry::new("q", vec![5; 2000])]);
    (keys::block(segment, 1), block.bytes().clone())
}

fn with_block() -> (Disk, Bytes, Bytes) {
    let (mut disk, (key, value)) = (Disk::new(), block());
    disk.get_mut().commit(&[vec![Op::Put(key.clone(), value.clone())]]).unwrap();
    (disk, key, value)
}

/// Where the value lies in the first log file.
fn place(disk: &Disk, value: &[u8]) -> usize {
    let bytes = fs::read(disk.log(1)).unwrap();
    bytes.windows(value.len()).position(|window| window == value).expect("it was written")
}

fn flip(disk: &Disk, at: usize) {
    let mut bytes = fs::read(disk.log(1)).unwrap();
    bytes[at] ^= 1;
    fs::write(disk.log(1), bytes).unwrap();
}

fn lengths(disk: &mut Disk) -> Vec<Option<u64>> {
    let mut found = Vec::new();
    let mut visit = |_: &[u8], len: Option<u64>| {
        found.push(len);
        std::ops::ControlFlow::Continue(())
    };
    disk.get_mut().reader().scan_keys(&[], &[0xff; 4], &mut visit).unwrap();
    found
}

#[test]
fn a_sealed_value_comes_back_before_and_after_a_checkpoint_and_a_rebuild() {
    let (mut disk, key, value) = with_block();
    for _ in 0..2 {
        assert_eq!(disk.get_mut().reader().get(&key).unwrap().unwrap(), value);
        assert_eq!(disk.get_mut().reader().get_sealed(&key).unwrap().unwrap(), value);
        disk.get_mut().checkpoint().unwrap();
        disk.reopen();
    }
    disk.lose_what_can_be_lost();
    assert_eq!(disk.get_mut().reader().get(&key).unwrap().unwrap(), value);
}

/// The content is the caller's to check when he said so; else it is checked here. The seal is checked in any case: another
/// whole block in its place is not it.
#[test]
fn no_flipped_byte_of_a_sealed_value_passes() {
    let (mut disk, key, value) = with_block();
    disk.get_mut().checkpoint().unwrap();
    let at = place(&disk, &value);
    for offset in [0, 100, value.len() - 33, value.len() - 32, value.len() - 17, value.len() - 1] {
        flip(&disk, at + offset);
        let reader = disk.get_mut().reader();
        let error = reader.get(&key).unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { place, .. } if place.contains("0000000001.log at")), "{error}");
        let unverified = reader.get_sealed(&key);
        let is_refused = unverified.as_ref().map_or(true, |value| Block::decode(value.clone().unwrap()).is_err());
        assert!(is_refused, "byte {offset}");
        if (value.len() - 32..value.len() - 16).contains(&offset) {
            assert!(unverified.is_err(), "the seal itself, byte {offset}");
        }
        flip(&disk, at + offset);
    }
    assert_eq!(disk.get_mut().reader().get(&key).unwrap().unwrap(), value);
}

#[test]
fn a_value_for_which_its_file_has_no_room_has_no_length() {
    let (mut disk, _, value) = with_block();
    disk.put("small", vec![1; 10]);
    disk.get_mut().checkpoint().unwrap();
    assert_eq!(lengths(&mut disk), [Some(value.len() as u64), Some(10)]);
    let end = place(&disk, &value) + value.len();
    let file = fs::OpenOptions::new().write(true).open(disk.log(1)).unwrap();
    file.set_len(end as u64 - 1).unwrap();
    assert_eq!(lengths(&mut disk), [None, Some(10)]);
}
