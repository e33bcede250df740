//! Commits that the log has lost: which messages were in them, exactly where that can be known, and else how many at most.

use std::{fs, path::Path};

use super::*;
use crate::{
    Local, Op, Read, Unaccounted, keys,
    store::{DiskStore, LostCommits},
};

fn open_dir(dir: &Path) -> Local<DiskStore> {
    Local::open_dir(dir, NodeId([1; 16])).expect("opens").0
}

/// A store with three messages of one life, each in a commit of its own, and how long the log was after each.
fn three_commits(dir: &Path) -> (SegmentId, Vec<u64>) {
    let mut local = open_dir(dir);
    let log = dir.join("log/0000000001.log");
    let mut ends = Vec::new();
    for body in ["one", "two", "three"] {
        local.publish("q", body).expect("lawful");
        local.commit().expect("writes");
        ends.push(fs::metadata(&log).expect("there").len());
    }
    let segment = local.engine().open_segment().expect("messages lie in it");
    (segment, ends)
}

#[test]
fn a_lost_end_of_the_log_names_the_first_message_that_may_be_gone_and_how_many_at_most() {
    for kept in [0, 1, 2] {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let (segment, ends) = three_commits(dir.path());
        let log = fs::File::options().write(true).open(dir.path().join("log/0000000001.log")).expect("there");
        log.set_len(ends[kept]).expect("cut");
        let local = open_dir(dir.path());
        let told = local.found().unaccounted;
        let lost = ends[2] - ends[kept];
        if kept == 2 {
            assert_eq!(told, None, "nothing is missing");
            continue;
        }
        let from = Dot { segment, slot: kept as Slot + 2 };
        assert_eq!(told, Some(Unaccounted { from: Some(from), at_most: Some(lost) }));
        assert!(lost > 2, "a bound from above");
        assert_eq!(local.found().losses, []);
        assert_eq!(local.waiting("q").count(), kept + 1);
        drop(local);
        assert_eq!(open_dir(dir.path()).found().unaccounted, None, "told once");
    }
}

#[test]
fn a_lost_commit_within_the_log_is_told_by_its_slots() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let (segment, ends) = three_commits(dir.path());
    let path = dir.path().join("log/0000000001.log");
    let mut bytes = fs::read(&path).expect("there");
    bytes[ends[0] as usize + 60] ^= 1;
    fs::write(&path, bytes).expect("written");
    let local = open_dir(dir.path());
    assert_eq!(local.found().losses, [Loss { segment, slots: RangeSet::from_range(2, 2) }]);
    assert_eq!(local.waiting("q").count(), 2);
}

#[test]
fn where_a_whole_file_is_gone_there_is_no_bound() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let (segment, _) = three_commits(dir.path());
    fs::remove_file(dir.path().join("log/0000000001.log")).expect("removed");
    let local = open_dir(dir.path());
    // Not even the life is known any more.
    assert_eq!(local.found().unaccounted, Some(Unaccounted { from: None, at_most: None }));
    assert!(local.engine().segment(segment).is_none());
}

#[test]
fn a_damaged_note_of_the_end_makes_what_is_cut_off_a_loss_perhaps() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let (segment, ends) = three_commits(dir.path());
    fs::File::options()
        .write(true)
        .open(dir.path().join("log/0000000001.log"))
        .and_then(|log| log.set_len(ends[2] - 1))
        .expect("cut");
    fs::write(dir.path().join("synced"), b"garbage").expect("written");
    let (local, found) = Local::open_dir(dir.path(), NodeId([1; 16])).expect("opens");
    assert!(found.damages.iter().any(|damage| damage.file == "synced"), "{found:?}");
    assert!(found.torn_tail.is_some() && found.unknown_end.is_some(), "{found:?}");
    let from = Some(Dot { segment, slot: 3 });
    let at_most = Some(ends[2] - 1 - ends[1]);
    assert_eq!(local.found().unaccounted, Some(Unaccounted { from, at_most }));
}

/// A store of which commits are lost.
struct Lossy(Arc<dyn Read>);

impl Read for Lossy {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> std::ops::ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.0.scan(from, to, visit)
    }

    fn lost(&self) -> Option<LostCommits> {
        Some(LostCommits { bytes: None })
    }
}

/// Other rows tell: blocks behind the lost one, or the length.
#[test]
fn what_an_origin_must_have_known_is_told_exactly_when_commits_are_lost() {
    let mut a = Replica3::new(0);
    for body in ["one", "two", "three"] {
        a.engine.publish(Unit { entries: vec![entry("q", body)], ..Unit::default() }).expect("lawful");
        a.settle();
    }
    let segment = a.engine.open_segment().expect("messages lie in it");
    a.engine.close_segment();
    a.settle();
    let delete = [keys::block(segment, 2), keys::outline(segment, 2)].map(Op::Delete);
    a.store.commit(&[delete.to_vec()]).expect("memory");
    let state = a.engine.segment(segment).expect("here").clone();
    for (known, length, lost) in [
        // As its row says: the block is gone.
        (RangeSet::from_range(1, 3), Some(3), RangeSet::from_range(2, 2)),
        // The row is of before the commits that are lost: a later block shows that there was one before it.
        (RangeSet::from_range(1, 1), None, RangeSet::from_range(2, 2)),
        // The length shows how many there were.
        (RangeSet::from_range(1, 3), Some(7), RangeSet::from_range(4, 7).union(&RangeSet::from_range(2, 2))),
    ] {
        let row = keys::SegmentRow { known, length, removed_prefix: 0 };
        a.store.commit(&[vec![Engine::put(keys::segment(segment), &row)]]).expect("memory");
        let open = |reader: Arc<dyn Read>| {
            Engine::open(reader, node(0), Epoch(9), Now::default(), Planted::default()).expect("opens").1
        };
        let report = open(Arc::new(Lossy(a.store.reader())));
        assert_eq!(report.losses, [Loss { segment, slots: lost }], "{row:?}");
        let from = match length {
            None => Dot { segment, slot: 4 },
            Some(_) => Dot { segment: SegmentId { number: 2, ..segment }, slot: 1 },
        };
        assert_eq!(report.unaccounted, Some(Unaccounted { from: Some(from), at_most: None }), "{row:?}");
        assert_eq!(open(a.store.reader()).unaccounted, None);
    }
    assert_eq!(state.length, Some(3));
}
