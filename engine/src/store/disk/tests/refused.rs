//! An engine on a full disk: who publishes is refused, and what is consumed is written down, however scattered it is and
//! whoever tries to publish meanwhile.

use std::sync::Arc;

use super::{
    faulty::{Fault, FaultyFiles},
    *,
};
use crate::{Committed, Dot, Engine, Entry, Epoch, NodeId, Now, Planted, SegmentId, Unit, limits};

struct Full {
    _dir: TempDir,
    files: FaultyFiles,
    store: DiskStore,
    engine: Engine,
    segment: SegmentId,
}

impl Full {
    /// So many messages wait, and the disk has room for little but the reserve.
    fn new(messages: usize) -> Self {
        let (dir, files) = (tempfile::tempdir().unwrap(), FaultyFiles::default());
        let (mut store, _) = DiskStore::open_on(dir.path(), DiskOptions::default(), Arc::new(files.clone())).unwrap();
        let opened = Engine::open(store.reader(), NodeId([1; 16]), Epoch(1), Now::default(), Planted::default());
        let mut engine = opened.unwrap().0;
        let segment = engine.begin_segment(Now::default());
        let entries = (0..messages).map(|_| Entry::new("q", "x")).collect();
        engine.publish(Unit { entries, removals: vec![] }).unwrap();
        while let Some(commit) = engine.poll_commit(Now::default()) {
            store.commit(&[commit.batch]).unwrap();
            engine.handle_committed();
        }
        files.arm(Fault::Room(900_000));
        Self { _dir: dir, files, store, engine, segment }
    }

    fn publish(&mut self) {
        let entries = vec![Entry::new("q", vec![1; 900_000])];
        self.engine.publish(Unit { entries, removals: vec![] }).unwrap();
    }

    fn commit(&mut self) -> Result<Committed, StoreError> {
        let commit = self.engine.poll_commit(Now::default()).expect("something waits");
        match self.store.commit(&[commit.batch]) {
            Ok(()) => Ok(self.engine.handle_committed()),
            Err(error) => {
                self.engine.handle_commit_failed();
                Err(error)
            }
        }
    }
}

#[test]
fn what_is_consumed_is_written_down_however_often_somebody_tries_to_publish() {
    let mut full = Full::new(1000);
    let segment = full.segment;
    full.publish();
    assert!(matches!(full.commit(), Err(StoreError::Full { .. })));
    for round in 0..5_u32 {
        let dot = Dot { segment, slot: 2 * round + 2 };
        full.engine.remove(dot);
        full.publish();
        let done = full.commit().unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(done.removed[&segment].contains(dot.slot));
        assert!(matches!(full.commit(), Err(StoreError::Full { .. })), "there is no room for more");
    }
    // Who only tries, and consumes nothing, fills the disk up with nothing either.
    let written = full.store.stats().written;
    for _ in 0..50 {
        full.publish();
        assert!(matches!(full.commit(), Err(StoreError::Full { .. })));
    }
    assert_eq!(full.store.stats().written, written);
    full.files.disarm();
    full.publish();
    assert_eq!(full.commit().unwrap().units.len(), 1);
    // What they had taken is given up: nothing keeps the segment but what waits.
    full.engine.close_segment();
    let waiting: Vec<_> = full.engine.waiting_in(segment).iter().collect();
    waiting.into_iter().for_each(|slot| full.engine.remove(Dot { segment, slot }));
    while full.engine.has_queued() {
        full.commit().unwrap();
    }
    assert!(full.engine.is_finished(segment));
}

#[test]
fn what_is_consumed_here_and_there_is_written_down() {
    let mut full = Full::new(60_000);
    let segment = full.segment;
    full.publish();
    assert!(matches!(full.commit(), Err(StoreError::Full { .. })));
    // One range for each second slot: on each page as many bytes as there can be.
    (1..60_000).step_by(2).for_each(|slot| full.engine.remove(Dot { segment, slot }));
    full.commit().unwrap();
    assert!(!full.engine.has_queued());
    // As much as the engine puts into a commit after one was refused, with the rows of as many segments.
    let page = 4099 + 100;
    assert!((page * limits::REFUSED_PAGES) as u64 <= DiskOptions::default().reserve / super::super::RESERVE_PART);
}
