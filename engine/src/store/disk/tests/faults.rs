//! Writes that fail: what was not confirmed is not visible, and what was confirmed stays.

use std::{io::ErrorKind, sync::Arc};

use proptest::prelude::*;

use super::{
    faulty::{Fault, FaultyFiles},
    *,
};
use crate::{
    Batch, Epoch, NodeId, SegmentId, keys,
    store::suite::{Step, apply, rows, steps},
};

struct Faulty {
    dir: TempDir,
    files: FaultyFiles,
    store: Option<DiskStore>,
}

impl Faulty {
    fn new() -> Self {
        let mut faulty = Self { dir: tempfile::tempdir().unwrap(), files: FaultyFiles::default(), store: None };
        faulty.reopen();
        faulty
    }

    fn reopen(&mut self) -> OpenReport {
        self.store = None;
        let (store, report) = DiskStore::open_on(self.dir.path(), small(), Arc::new(self.files.clone())).unwrap();
        self.store = Some(store);
        report
    }

    fn commit(&mut self, key: &str, len: usize) -> Result<(), StoreError> {
        self.commit_all(&[vec![Op::Put(Bytes::from(key.to_owned()), Bytes::from(vec![7; len]))]])
    }

    fn commit_all(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        self.store.as_mut().unwrap().commit(batches)
    }

    fn has(&self, key: &str) -> bool {
        self.store.as_ref().unwrap().reader().get(key.as_bytes()).unwrap().is_some()
    }
}

#[test]
fn a_full_disk_costs_only_the_commit_that_met_it() {
    let mut faulty = Faulty::new();
    let reserve = faulty.dir.path().join("reserve");
    assert_eq!(fs::metadata(&reserve).unwrap().len(), small().reserve);
    faulty.commit("before", 10).unwrap();
    for arrived in [0, 1, 39, 60, 1000] {
        faulty.files.arm(Fault::Write(arrived, ErrorKind::StorageFull));
        assert!(matches!(faulty.commit("lost", 20_000), Err(StoreError::Full { .. })));
        assert!(!faulty.has("lost") && !reserve.exists());
    }
    faulty.commit("after", 20_000).unwrap();
    faulty.store.as_mut().unwrap().checkpoint().unwrap();
    assert!(reserve.exists(), "set aside again when there is room");
    let report = faulty.reopen();
    assert_eq!((report.torn_tail, report.damages), (None, vec![]));
    assert!(faulty.has("before") && faulty.has("after") && !faulty.has("lost"));
}

#[test]
fn a_small_commit_gets_the_reserve() {
    let mut faulty = Faulty::new();
    faulty.files.arm(Fault::Write(7, ErrorKind::StorageFull));
    faulty.commit("removal", 600).unwrap();
    assert!(!faulty.dir.path().join("reserve").exists());
    assert_eq!(faulty.reopen().damages, []);
    assert!(faulty.has("removal"));
}

#[test]
fn what_a_full_disk_gave_back_is_for_small_commits_until_there_is_room() {
    let mut faulty = Faulty::new();
    let reserve = faulty.dir.path().join("reserve");
    faulty.files.arm(Fault::Write(7, ErrorKind::StorageFull));
    assert!(matches!(faulty.commit("lost", 20_000), Err(StoreError::Full { .. })));
    // It would fit now, into what was set aside for removals.
    faulty.files.arm(Fault::Room(small().reserve + 20_000));
    let written = faulty.store.as_ref().unwrap().stats().written;
    assert!(matches!(faulty.commit("large", 20_000), Err(StoreError::Full { .. })));
    assert_eq!(faulty.store.as_ref().unwrap().stats().written, written);
    faulty.commit("removal", 600).unwrap();
    assert!(!faulty.has("large") && faulty.has("removal") && !reserve.exists());
    faulty.files.disarm();
    faulty.commit("large", 20_000).unwrap();
    assert!(reserve.exists(), "there is room for both");
    assert_eq!(faulty.reopen().damages, []);
    assert!(faulty.has("large") && faulty.has("removal"));
}

#[test]
fn on_a_full_disk_nothing_is_taken_in_and_what_is_consumed_gives_its_space_back() {
    let mut faulty = Faulty { dir: tempfile::tempdir().unwrap(), files: FaultyFiles::default(), store: None };
    let options = DiskOptions::default();
    let (store, _) = DiskStore::open_on(faulty.dir.path(), options, Arc::new(faulty.files.clone())).unwrap();
    faulty.store = Some(store);
    // Less than one file of the log.
    faulty.files.arm(Fault::Capacity(12 << 20));
    let id = SegmentId { node: NodeId([1; 16]), epoch: Epoch(1), number: 1 };
    let block = |bytes: usize| {
        let mut block = vec![7; bytes];
        let seal = blake3::hash(&block);
        block.extend(seal.as_bytes());
        Bytes::from(block)
    };
    let (mut next, mut consumed) = (1, 0);
    for round in 0..6 {
        let (begun, mut refused) = (next, 0);
        while refused < 3 {
            match faulty.commit_all(&[vec![Op::Put(keys::block(id, next), block(20_000))]]) {
                Ok(()) => next += 1,
                Err(StoreError::Full { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            if faulty.store.as_ref().unwrap().wants_checkpoint() {
                let _ = faulty.store.as_mut().unwrap().checkpoint();
            }
        }
        // All of it at first, then as much as was consumed, but for a file of the log or so.
        let taken = next - begun;
        assert!(taken > if round == 0 { 500 } else { 150 }, "round {round}: {taken} blocks found room");
        // Small ones fill up what is left, but for what is set aside for those who consume.
        for _ in 0..300 {
            match faulty.commit_all(&[vec![Op::Put(keys::block(id, 1 << 20), block(100))]]) {
                Ok(()) | Err(StoreError::Full { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let log = faulty.store.as_ref().unwrap().stats().log_bytes;
        assert!(log <= 11 << 20, "round {round}: {log} bytes of log leave nothing of the reserve");
        for slot in consumed + 1..next - if round < 5 { 300 } else { 0 } {
            let state = Op::Put(Bytes::from("state"), Bytes::from(vec![slot as u8; 300]));
            faulty
                .commit_all(&[vec![state, Op::Delete(keys::block(id, slot))]])
                .unwrap_or_else(|error| panic!("round {round}, slot {slot} of {next}: {error}"));
            consumed = slot;
            if faulty.store.as_ref().unwrap().wants_checkpoint() {
                faulty.store.as_mut().unwrap().checkpoint().unwrap();
            }
        }
    }
    faulty.store.as_mut().unwrap().checkpoint().unwrap();
    let log = faulty.store.as_ref().unwrap().stats().log_bytes;
    assert!(log < 3 << 20, "all is consumed, and the log has {log} bytes");
    // Many messages that are consumed at once delete much.
    faulty.files.arm(Fault::Write(0, ErrorKind::StorageFull));
    assert!(matches!(faulty.commit("lost", 20_000), Err(StoreError::Full { .. })));
    faulty.files.disarm();
    faulty.files.arm(Fault::Room(500_000));
    let deletes = (1..next).map(|slot| Op::Delete(keys::block(id, slot))).collect();
    faulty.commit_all(&[deletes]).unwrap();
}

#[test]
fn a_checkpoint_that_has_no_room_is_refused_before_it_touches_the_index() {
    let mut faulty = Faulty::new();
    faulty.commit("key", 10).unwrap();
    faulty.files.arm(Fault::Room(1000));
    assert!(matches!(faulty.store.as_mut().unwrap().checkpoint(), Err(StoreError::Full { .. })));
    assert!(!faulty.dir.path().join("reserve").exists(), "it might have been enough");
    assert!(matches!(faulty.commit("large", 20_000), Err(StoreError::Full { .. })));
    faulty.files.disarm();
    faulty.store.as_mut().unwrap().checkpoint().unwrap();
    faulty.commit("large", 20_000).unwrap();
    assert_eq!(faulty.reopen().index, crate::store::IndexState::Intact);
    assert!(faulty.has("key") && faulty.has("large"));
}

#[test]
fn a_full_disk_while_a_file_is_rolled_costs_no_more() {
    let mut faulty = Faulty::new();
    faulty.commit("big", 20 << 10).unwrap();
    faulty.files.arm(Fault::Create);
    assert!(matches!(faulty.commit("lost", 17_000), Err(StoreError::Full { .. })));
    faulty.files.arm(Fault::Write(5, ErrorKind::StorageFull));
    assert!(matches!(faulty.commit("lost", 17_000), Err(StoreError::Full { .. })));
    faulty.commit("after", 10).unwrap();
    assert_eq!(faulty.reopen().damages, []);
    assert!(faulty.has("big") && faulty.has("after") && !faulty.has("lost"));
}

#[test]
fn a_lack_of_descriptors_while_a_file_is_rolled_is_no_broken_disk() {
    let mut faulty = Faulty::new();
    faulty.commit("big", 20 << 10).unwrap();
    faulty.files.arm(Fault::NoDescriptor);
    assert!(matches!(faulty.commit("lost", 17_000), Err(StoreError::Descriptors { .. })));
    faulty.commit("after", 17_000).unwrap();
    assert_eq!(faulty.reopen().damages, []);
    assert!(faulty.has("big") && faulty.has("after") && !faulty.has("lost"));
}

#[test]
fn after_a_failed_sync_or_write_nothing_is_taken_until_reopened() {
    for fault in [Fault::Sync, Fault::Write(50, ErrorKind::Other)] {
        let mut faulty = Faulty::new();
        faulty.commit("before", 10).unwrap();
        faulty.files.arm(fault);
        assert!(matches!(faulty.commit("unconfirmed", 600), Err(StoreError::Io { .. })), "{fault:?}");
        let refused = faulty.commit("refused", 10).unwrap_err().to_string();
        assert!(refused.contains("restart the node"), "{refused}");
        assert!(faulty.has("before") && !faulty.has("unconfirmed"));
        let report = faulty.reopen();
        assert_eq!((report.torn_tail, report.damages), (None, vec![]));
        assert!(faulty.has("before") && !faulty.has("refused"));
        faulty.commit("after", 10).unwrap();
    }
}

#[test]
fn half_a_frame_that_can_not_be_taken_back_is_a_torn_tail() {
    let mut faulty = Faulty::new();
    faulty.commit("before", 10).unwrap();
    faulty.files.arm(Fault::Write(50, ErrorKind::StorageFull));
    faulty.files.arm(Fault::Truncate);
    faulty.commit("lost", 600).unwrap_err();
    assert!(matches!(faulty.commit("refused", 10), Err(StoreError::Io { .. })));
    let report = faulty.reopen();
    let torn = report.torn_tail.unwrap();
    assert_eq!((torn.file.as_str(), torn.len, report.damages), ("log/0000000001.log", 50, vec![]));
    assert!(faulty.has("before") && !faulty.has("lost"));
    faulty.commit("after", 10).unwrap();
    assert_eq!(faulty.reopen().torn_tail, None);
}

#[test]
fn a_failed_read_is_an_error_and_no_absence() {
    let mut faulty = Faulty::new();
    faulty.commit("big", 5000).unwrap();
    faulty.files.arm(Fault::Read);
    let reader = faulty.store.as_ref().unwrap().reader();
    assert!(matches!(reader.get(b"big"), Err(StoreError::Io { .. })));
    assert!(reader.get(b"big").unwrap().is_some());
}

/// A sector that can't be read is damage with its place, not the end of the store; and nothing is cut off because of it.
#[test]
fn a_bad_sector_costs_what_lies_around_it() {
    let mut faulty = Faulty::new();
    for number in 0..30 {
        faulty.commit(&format!("key {number}"), 10_000).unwrap();
    }
    let path = faulty.dir.path().join("log");
    let before: Vec<_> =
        fs::read_dir(&path).unwrap().map(|entry| fs::metadata(entry.unwrap().path()).unwrap().len()).collect();
    faulty.files.arm(Fault::BadSector(100));
    let report = faulty.reopen();
    assert!(report.damages.iter().any(|damage| damage.what.contains("can't be read")), "{report:?}");
    assert_eq!(report.torn_tail, None);
    let kept: Vec<_> =
        fs::read_dir(&path).unwrap().map(|entry| fs::metadata(entry.unwrap().path()).unwrap().len()).collect();
    assert!(kept.iter().sum::<u64>() >= before.iter().sum::<u64>(), "{kept:?} {before:?}");
    faulty.files.disarm();
    faulty.commit("after", 10).unwrap();
    faulty.reopen();
    assert!(faulty.has("after"));
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    prop_oneof![
        4 => Just(None),
        2 => (0..3000_usize).prop_map(|bytes| Some(Fault::Write(bytes, ErrorKind::StorageFull))),
        1 => (0..3000_usize).prop_map(|bytes| Some(Fault::Write(bytes, ErrorKind::Other))),
        1 => Just(Some(Fault::Sync)),
        1 => Just(Some(Fault::Create)),
        1 => Just(Some(Fault::NoDescriptor)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever fails: what is visible is what was confirmed, and after a reopen it is that and perhaps the first few
    /// batches of one commit that was not.
    #[test]
    fn faults_lose_nothing_confirmed(steps in steps(30), faults in prop::collection::vec(fault(), 30)) {
        let mut faulty = Faulty::new();
        let mut model = Model::new();
        let shown = |faulty: &Faulty| -> Model {
            rows(&*faulty.store.as_ref().unwrap().reader(), &[], &[0xff; 4]).into_iter().collect()
        };
        for (step, fault) in steps.iter().zip(faults) {
            fault.into_iter().for_each(|fault| faulty.files.arm(fault));
            let mut unsure: &[Batch] = &[];
            let result = match step {
                Step::Commit(batches) => {
                    let result = faulty.commit_all(batches);
                    if result.is_ok() { apply(&mut model, batches) } else { unsure = batches }
                    result
                }
                Step::Checkpoint | Step::Lose => faulty.store.as_mut().unwrap().checkpoint(),
                Step::Reopen => Err(StoreError::Full { context: "a reason to reopen".to_owned() }),
            };
            prop_assert_eq!(&shown(&faulty), &model);
            faulty.files.disarm();
            if result.is_err() {
                let report = faulty.reopen();
                prop_assert_eq!(&report.damages, &vec![]);
                let after = shown(&faulty);
                let prefix = (0..=unsure.len()).find(|count| {
                    let mut possible = model.clone();
                    apply(&mut possible, &unsure[..*count]);
                    possible == after
                });
                prop_assert!(prefix.is_some());
                model = after;
            }
        }
    }
}

#[test]
fn what_is_taken_in_leaves_room_for_the_checkpoint_that_gives_space_back() {
    let mut faulty = Faulty::new();
    let checkpoint = faulty.store.as_ref().unwrap().checkpoint_room();
    let bytes = 20_000;
    // The record and its frame are a little longer.
    faulty.files.arm(Fault::Room(checkpoint + bytes));
    assert!(matches!(faulty.commit("large", bytes as usize), Err(StoreError::Full { .. })));
    faulty.files.disarm();
    faulty.store.as_mut().unwrap().checkpoint().unwrap();
    faulty.files.arm(Fault::Room(checkpoint + bytes + 1000));
    faulty.commit("large", bytes as usize).unwrap();
}
