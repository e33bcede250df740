//! Checkpoints and cleaning: space comes back, nothing that lives goes.

use super::*;
use crate::store::suite::apply;

fn size_of(dir: &std::path::Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).map(|entry| entry.metadata().unwrap().len()).sum()
}

/// A little that stays for ever, much that comes and goes.
#[test]
fn put_and_delete_for_ever_stays_small() {
    let mut disk = Disk::new();
    let mut model = Model::new();
    let mut largest = 0;
    for round in 0..2000_u32 {
        let value = Bytes::from(vec![round as u8; if round % 3 == 0 { 40 } else { 900 }]);
        let mut batch = vec![Op::Put(Bytes::from(format!("come and go {round}")), value.clone())];
        if round % 100 == 0 {
            batch.push(Op::Put(Bytes::from(format!("stay {round}")), value));
        }
        if round >= 20 {
            batch.push(Op::Delete(Bytes::from(format!("come and go {}", round - 20))));
        }
        apply(&mut model, std::slice::from_ref(&batch));
        disk.get_mut().commit(&[batch]).unwrap();
        if disk.get_mut().wants_checkpoint() {
            disk.get_mut().checkpoint().unwrap();
        }
        largest = largest.max(size_of(&disk.path().join("log")));
    }
    disk.shows(&model);
    let stats = disk.get_mut().stats();
    assert!(stats.written > 1_000_000, "{stats:?}");
    // Live, dead, the file that may always be dead, and what is written between checkpoints.
    assert!(largest < 2 * 40_000 + (16 << 10) + 2 * (32 << 10), "{largest}");
    assert!(size_of(&disk.path().join("sled/slabs")) < 1 << 20);
    disk.reopen();
    disk.shows(&model);
    disk.lose_what_can_be_lost();
    disk.shows(&model);
}

#[test]
fn cleaning_writes_no_more_than_a_few_times_what_was_committed() {
    let mut disk = Disk::new();
    // Cold data in front, and one key that is overwritten again and again behind it.
    for number in 0..100 {
        disk.put(&format!("cold {number}"), vec![1; 1000]);
    }
    let cold = disk.get_mut().stats().written;
    for round in 0..1000_u32 {
        disk.put("hot", vec![round as u8; 1000]);
        if disk.get_mut().wants_checkpoint() {
            disk.get_mut().checkpoint().unwrap();
        }
    }
    let stats = disk.get_mut().stats();
    let committed = 1000 * 1060;
    assert!(stats.written - cold < 3 * committed, "{stats:?}");
    assert!(stats.log_bytes < 2 * cold + (64 << 10) + (32 << 10), "{stats:?}");
    assert_eq!(disk.value("cold 99").unwrap().unwrap(), vec![1; 1000]);
}

#[test]
fn readers_follow_values_that_cleaning_moves() {
    let mut disk = Disk::new();
    disk.put("cold", vec![1; 1000]);
    let reader = disk.get_mut().reader();
    let first = disk.log(1);
    let worker = std::thread::spawn(move || {
        let mut reads = 0_u64;
        while first.exists() || reads < 1000 {
            assert_eq!(reader.get(b"cold").unwrap().unwrap(), vec![1; 1000]);
            reads += 1;
        }
    });
    while disk.log(1).exists() {
        disk.put("hot", vec![2; 3000]);
        if disk.get_mut().wants_checkpoint() {
            disk.get_mut().checkpoint().unwrap();
        }
    }
    worker.join().unwrap();
    assert_eq!(disk.value("cold").unwrap().unwrap(), vec![1; 1000]);
}

#[test]
fn deleted_keys_stay_deleted_when_the_index_is_lost_after_cleaning() {
    let mut disk = Disk::new();
    disk.put("gone", vec![1; 1000]);
    disk.put("stays", vec![2; 1000]);
    disk.delete("gone");
    while disk.log(1).exists() {
        disk.put("hot", vec![3; 3000]);
        disk.get_mut().checkpoint().unwrap();
    }
    disk.lose_what_can_be_lost();
    assert_eq!(disk.value("gone").unwrap(), None);
    assert_eq!(disk.value("stays").unwrap().unwrap(), vec![2; 1000]);
}

/// A value that is found damaged when its file must go stays known as damaged, and does not hold the file.
#[test]
fn a_damaged_value_is_carried_as_lost() {
    let mut disk = Disk::new();
    disk.put("inline", "small");
    disk.put("bad", vec![1; 1000]);
    disk.put("good", vec![2; 1000]);
    disk.get_mut().checkpoint().unwrap();
    let mut bytes = fs::read(disk.log(1)).unwrap();
    let at = bytes.windows(10).position(|window| window == [1; 10]).unwrap();
    bytes[at + 500] ^= 1;
    fs::write(disk.log(1), bytes).unwrap();
    for _ in 0..100 {
        disk.put("hot", vec![3; 3000]);
        disk.get_mut().checkpoint().unwrap();
    }
    assert!(!disk.log(1).exists());
    for _ in 0..2 {
        let Err(StoreError::Damaged { place, .. }) = disk.value("bad") else { panic!("damage was forgotten") };
        assert!(place.contains("0000000001.log"), "{place}");
        assert_eq!(disk.get_mut().verify().unwrap().len(), 1);
        assert_eq!(disk.value("good").unwrap().unwrap(), vec![2; 1000]);
        assert_eq!(disk.value("inline").unwrap().unwrap(), "small");
        disk.open().unwrap();
    }
    disk.put("bad", "healed");
    assert_eq!(disk.value("bad").unwrap().unwrap(), "healed");
}

/// One small row that stays must not keep the files behind it, dead as a whole, for as long as much else lives.
#[test]
fn a_file_of_which_hardly_anything_lives_goes_though_the_log_is_dense() {
    let mut disk = Disk::new();
    disk.put("stays", vec![1; 600]);
    let first = disk.log(1);
    for _ in 0..7 {
        disk.put("hot", vec![2; 3000]);
    }
    for number in 0..25 {
        disk.put(&format!("cold {number}"), vec![3; 3000]);
    }
    disk.get_mut().checkpoint().unwrap();
    disk.get_mut().checkpoint().unwrap();
    assert!(!first.exists(), "{:?}", disk.get_mut().stats());
    assert_eq!(disk.value("stays").unwrap().unwrap(), vec![1; 600]);
}

/// A node that is killed again and again before it has written much: each life finds what those before it have left.
#[test]
fn lives_that_end_without_a_checkpoint_do_not_pile_up_their_logs() {
    let mut disk = Disk::new();
    for life in 0..30_u8 {
        disk.put("key", vec![life; 9000]);
        if disk.get_mut().wants_checkpoint() {
            disk.get_mut().checkpoint().unwrap();
        }
        disk.close();
        disk.open().unwrap();
    }
    let log = disk.get_mut().stats().log_bytes;
    assert!(log <= 100_000, "{log} bytes of log for a value of 9,000");
}
