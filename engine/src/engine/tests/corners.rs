//! What only shows at the corners: news that cross on their way to the disk, rows that others wrote or that do not read,
//! limits of a commit and of a segment.

use std::ops::ControlFlow;

use super::*;
use crate::{
    Read, StoreError,
    keys::{self, SegmentRow},
};

fn published(bodies: &[&str]) -> (Replica3, SegmentId) {
    let mut a = Replica3::new(0);
    let entries = bodies.iter().map(|body| entry("q", body)).collect();
    a.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
    a.settle();
    let segment = a.engine.open_segment().expect("a message opened it");
    (a, segment)
}

fn refuse(replica: &mut Replica3) {
    assert!(replica.engine.poll_commit(Now::default()).is_some(), "something was queued");
    replica.engine.handle_commit_failed();
}

/// Puts something else in the place of a row, or nothing.
fn tamper(replica: &mut Replica3, key: Bytes, value: Option<&'static [u8]>) {
    let op = value.map_or_else(|| Op::Delete(key.clone()), |value| Op::Put(key.clone(), Bytes::from_static(value)));
    replica.store.commit(&[vec![op]]).expect("memory");
}

fn slots(first: Slot, last: Slot) -> RangeSet {
    RangeSet::from_range(first, last)
}

fn rows(replica: &Replica3, prefix: u8) -> usize {
    let (from, to) = keys::space(prefix);
    let mut count = 0;
    let mut visit = |_: &[u8], _: Option<u64>| {
        count += 1;
        ControlFlow::Continue(())
    };
    replica.store.reader().scan_keys(&from, &to, &mut visit).expect("memory");
    count
}

#[test]
fn a_refused_transaction_consumes_nothing() {
    let (mut a, segment) = published(&["old"]);
    let old = Dot { segment, slot: 1 };
    a.engine.publish(Unit { entries: vec![entry("q", "new")], removals: vec![old] }).expect("within limits");
    refuse(&mut a);
    a.settle();
    assert_eq!(waiting(&a.engine).into_keys().collect::<Vec<_>>(), [old], "it consumed without publishing");
    a.restart(0);
    assert_eq!(waiting(&a.engine).into_keys().collect::<Vec<_>>(), [old]);
}

#[test]
fn what_was_consumed_while_its_damage_was_found_stays_consumed() {
    let (mut a, segment) = published(&["1", "2"]);
    tamper(&mut a, keys::block(segment, 1), Some(b"rubbish"));
    a.engine.remove(Dot { segment, slot: 1 });
    a.engine.poll_commit(Now::default()).expect("a removal");
    // The commit is under way: nothing of it shows yet.
    assert_eq!(a.engine.forget_damaged(Dot { segment, slot: 2 }), slots(1, 2));
    a.engine.handle_committed();
    a.settle();
    let state = a.engine.segment(segment).expect("here");
    assert_eq!((&state.known, &state.removed), (&slots(1, 1), &slots(1, 1)));
}

#[test]
fn damage_that_a_refused_commit_was_to_note_is_noted_with_the_next() {
    let (mut a, segment) = published(&["1", "2"]);
    tamper(&mut a, keys::block(segment, 1), Some(b"rubbish"));
    a.engine.forget_damaged(Dot { segment, slot: 1 });
    refuse(&mut a);
    a.settle();
    assert!(a.engine.segment(segment).expect("here").known.is_empty(), "it is never fetched again");
}

#[test]
fn a_block_of_which_all_is_consumed_leaves_memory() {
    let (mut a, segment) = published(&["1", "2"]);
    assert!(a.engine.cache.borrow().get(segment, 1).is_some());
    [1, 2].into_iter().for_each(|slot| a.engine.remove(Dot { segment, slot }));
    a.settle();
    assert!(a.engine.cache.borrow().get(segment, 1).is_none());
}

#[test]
fn a_digest_follows_each_change() {
    let (mut a, segment) = published(&["1", "2"]);
    let before = a.engine.segment_digest(segment);
    a.engine.remove(Dot { segment, slot: 1 });
    a.settle();
    let state = a.engine.state_of(segment);
    assert_ne!(a.engine.segment_digest(segment), before);
    assert_eq!(a.engine.segment_digest(segment), Some(state.digest()));
}

#[test]
fn a_segment_is_closed_when_it_has_its_bytes() {
    let mut a = Replica3::new(0);
    a.engine.set_segment_limits(1_000, u64::MAX);
    for _ in 0..3 {
        let entries = vec![entry("q", &"x".repeat(600))];
        a.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
        a.settle();
    }
    let lengths: Vec<_> = a.engine.segments().map(|id| a.engine.state_of(id).length).collect();
    assert_eq!(lengths, [Some(2), None]);
}

#[test]
fn what_is_removed_is_known_whatever_the_row_says() {
    let (mut a, segment) = published(&["1", "2"]);
    let row = SegmentRow { known: slots(2, 2), length: None, removed_prefix: 1 };
    a.store.commit(&[vec![Op::Put(keys::segment(segment), keys::encode(&row))]]).expect("memory");
    tamper(&mut a, keys::block(segment, 1), None);
    let (engine, _) =
        Engine::open(a.store.reader(), node(0), Epoch(7), Now::default(), Planted::default()).expect("opens");
    let state = engine.segment(segment).expect("here");
    assert_eq!((&state.known, &state.removed), (&slots(1, 1), &slots(1, 1)));
}

#[test]
fn a_block_whose_segment_has_lost_its_row_waits_all_the_same() {
    let (mut a, segment) = published(&["1", "2"]);
    tamper(&mut a, keys::segment(segment), None);
    a.restart(0);
    assert_eq!(waiting(&a.engine).len(), 2);
    assert_eq!(a.engine.segment(segment).expect("here").known, slots(1, 2));
}

#[test]
fn blocks_of_a_finished_segment_that_were_left_behind_go() {
    let (mut a, segment) = published(&["1"]);
    let block = a.engine.block(segment, 1).expect("reads").expect("is there").bytes().clone();
    a.engine.close_segment();
    a.engine.remove(Dot { segment, slot: 1 });
    a.settle();
    assert!(a.engine.is_finished(segment));
    a.store.commit(&[vec![Op::Put(keys::block(segment, 1), block)]]).expect("memory");
    a.restart(0);
    a.settle();
    assert_eq!(rows(&a, keys::BLOCK), 0);
}

/// A store in which one row does not read.
struct Broken {
    store: Arc<dyn Read>,
    key: Bytes,
}

impl Broken {
    fn error() -> StoreError {
        StoreError::Damaged {
            place: "log/0000000001.log at 40".to_owned(),
            detail: "its hash does not match".to_owned(),
        }
    }
}

impl Read for Broken {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if key == self.key { Err(Self::error()) } else { self.store.get(key) }
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut is_broken = false;
        self.store.scan(from, to, &mut |key, value| {
            is_broken = key == self.key;
            if is_broken { ControlFlow::Break(()) } else { visit(key, value) }
        })?;
        if is_broken { Err(Self::error()) } else { Ok(()) }
    }

    fn scan_keys(&self, from: &[u8], to: &[u8], visit: &mut crate::store::KeyVisitor<'_>) -> Result<(), StoreError> {
        self.store.scan_keys(from, to, visit)
    }
}

#[test]
fn a_row_that_the_store_cannot_read_is_reported_and_the_others_count() {
    let mut a = Replica3::new(0);
    for name in ["a", "b", "c"] {
        a.engine.set_add(Key::set(name), vec![1]).expect("within limits");
    }
    a.settle();
    let key = keys::registry(Key::set("b").as_bytes());
    let reader = Arc::new(Broken { store: a.store.reader(), key: key.clone() });
    let (engine, report) = Engine::open(reader, node(0), Epoch(7), Now::default(), Planted::default()).expect("opens");
    let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let [told] = &report.damaged_rows[..] else { panic!("{report:?}") };
    assert!(told.contains(&name) && told.contains("its hash does not match"), "{told}");
    let is_there = |name| engine.registry().get(&Key::set(name)).is_some();
    assert_eq!(["a", "b", "c"].map(is_there), [true, false, true]);
}

#[test]
fn rows_that_are_written_again_go_in_commits_of_bounded_size() {
    let mut a = Replica3::new(0);
    let names: Vec<_> = (0..20).map(|number| format!("{number}")).collect();
    for name in &names {
        a.engine.register(name).set(vec![1; 900_000], Now::default()).expect("within limits");
        a.settle();
    }
    let key = |name: &String| keys::registry(Key::own_register(name).as_bytes());
    assert!(names.iter().all(|name| a.engine.rewrite_row(&key(name))));
    let mut written = Vec::new();
    while let Some(commit) = a.engine.poll_commit(Now::default()) {
        written.push(commit.batch.len());
        a.store.commit(&[commit.batch]).expect("memory");
        a.engine.handle_committed();
    }
    assert_eq!(written, [10, 10], "8 MiB at least, and no more than one row more");
}

#[test]
fn blocks_in_memory_keep_to_their_budget_and_are_read_again() {
    let mut a = Replica3::new(0);
    a.engine.set_cache_bytes(100_000);
    for number in 0..50 {
        let entries = vec![entry("q", &format!("{number} {}", "x".repeat(10_000)))];
        a.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
        a.settle();
        let (bytes, budget) = a.engine.cache.borrow().bytes();
        assert!(bytes <= budget, "{bytes} bytes of {budget}");
    }
    let bodies = waiting(&a.engine);
    assert!(bodies.len() == 50 && bodies.values().all(|body| body.len() > 10_000));
    let (bytes, budget) = a.engine.cache.borrow().bytes();
    assert!(bytes <= budget && bytes > budget / 2, "{bytes} bytes of {budget}, after all were read");
}

#[test]
fn a_unit_of_too_many_deliveries_is_refused() {
    let mut a = Replica3::new(0);
    a.settle();
    let wide = |inboxes: usize, messages: usize| {
        let inboxes: Vec<_> = (0..inboxes).map(|number| format!("q{number}")).collect();
        let entry = Entry { inboxes, ..entry("q", "") };
        Unit { entries: vec![entry; messages], ..Unit::default() }
    };
    for (inboxes, messages) in [(limits::UNIT_SLOTS + 1, 1), (limits::UNIT_SLOTS / 8, 9)] {
        let refused = a.engine.publish(wide(inboxes, messages));
        assert_eq!(refused, Err(PublishError::TooMany { slots: inboxes * messages }));
        assert!(a.settle().is_empty(), "nothing was queued");
    }
    a.engine.publish(wide(limits::UNIT_SLOTS / 8, 8)).expect("as many as there may be");
    a.settle();
    assert_eq!(waiting(&a.engine).len(), limits::UNIT_SLOTS);
}

/// Deliveries for so many inboxes, in one unit.
fn wide(inboxes: usize, entries: usize) -> Unit {
    let inboxes: Vec<_> = (0..inboxes).map(|number| number.to_string()).collect();
    let entry = Entry { inboxes, ..entry("q", "x") };
    Unit { entries: vec![entry; entries], removals: Vec::new() }
}

#[test]
fn a_segment_is_closed_before_it_runs_out_of_slots_within_one_commit_too() {
    let mut a = Replica3::new(0);
    let tickets: Vec<_> = (0..17).map(|_| a.engine.publish(wide(1024, 64)).expect("within limits")).collect();
    let reports = a.settle();
    let done: Vec<_> = reports.iter().flat_map(|done| done.units.iter().map(|(ticket, _)| *ticket)).collect();
    assert_eq!(done, tickets);
    let last = |id| a.engine.segment(id).and_then(|state| state.known.last());
    let lasts: Vec<_> = a.engine.segments().map(last).collect();
    assert_eq!(
        lasts,
        [Some(15 << 16), Some(2 << 16)],
        "one unit less than there are slots, since the next might not fit"
    );
}

#[test]
fn a_commit_takes_in_so_many_bytes_and_no_more() {
    let mut a = Replica3::new(0);
    let body = "x".repeat(limits::COMMIT_BYTES / 2);
    for _ in 0..5 {
        a.engine.publish(Unit { entries: vec![entry("q", &body)], removals: Vec::new() }).expect("within limits");
    }
    let units: Vec<_> = a.settle().iter().map(|done| done.units.len()).collect();
    assert_eq!(units, [2, 2, 1]);
}

#[test]
fn what_is_too_scattered_is_not_folded() {
    let mut a = Replica3::new(0);
    let ranges = limits::FOLDED_RANGES as u32;
    for (number, count) in [(1, ranges), (2, ranges + 1)] {
        let id = SegmentId { node: node(1), epoch: Epoch(5), number };
        a.engine.merge_removed(id, &(0..count).map(|slot| 2 * slot + 1).collect());
        a.settle();
        a.engine.fold(id);
        a.settle();
        assert_eq!(a.engine.has_replica(id), count > ranges);
    }
}

#[test]
fn a_segment_is_closed_when_it_has_reached_its_age() {
    let mut a = Replica3::new(0);
    a.engine.set_segment_limits(u64::MAX, 1000);
    let at = |mono_ms| Now { mono_ms, ..Now::default() };
    let first = a.engine.begin_segment(at(5));
    let mut step = |now| {
        a.engine.publish(Unit { entries: vec![entry("q", "x")], removals: Vec::new() }).expect("within limits");
        let Some(commit) = a.engine.poll_commit(now) else { panic!("a message waits") };
        a.store.commit(&[commit.batch]).expect("memory");
        a.engine.handle_committed();
        (a.engine.open_segment(), a.engine.segment(first).and_then(|state| state.length))
    };
    assert_eq!(step(at(5)), (Some(first), None));
    assert_eq!(step(at(1004)), (Some(first), None));
    assert_eq!(step(at(1005)), (None, Some(2)));
}
