//! Three engines against a naive model: any order of publishing, consuming, exchanging and crashing converges, and what
//! is left is what was confirmed and never consumed.

mod corners;
mod exchanges;
mod failed;
mod gather;
mod lost;
mod outlines;
mod rows;
mod sets;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{Entry, Key, limits, store::MemoryStore, store::Store};

pub(super) struct Replica3 {
    pub(super) store: MemoryStore,
    pub(super) engine: Engine,
    pub(super) lives: u64,
}

fn node(index: u8) -> NodeId {
    NodeId([index + 1; 16])
}

pub(super) fn open(store: &MemoryStore, index: u8, life: u64) -> Engine {
    let epoch = Epoch(u64::from(index) << 32 | life);
    let (engine, report) =
        Engine::open(store.reader(), node(index), epoch, Now::default(), Planted::default()).expect("opens");
    assert!(report.losses.is_empty() && report.damaged_rows.is_empty(), "{report:?}");
    engine
}

impl Replica3 {
    pub(super) fn new(index: u8) -> Self {
        let store = MemoryStore::new();
        let engine = open(&store, index, 0);
        Self { store, engine, lives: 0 }
    }

    /// Writes all that waits, as the driver would.
    pub(super) fn settle(&mut self) -> Vec<Committed> {
        let mut reports = Vec::new();
        if self.engine.needs_segment() {
            self.engine.begin_segment(Now::default());
        }
        while let Some(commit) = self.engine.poll_commit(Now::default()) {
            self.store.commit(&[commit.batch]).expect("memory does not fail unless told to");
            reports.push(self.engine.handle_committed());
            if self.engine.needs_segment() {
                self.engine.begin_segment(Now::default());
            }
        }
        reports
    }

    pub(super) fn restart(&mut self, index: u8) {
        self.lives += 1;
        self.engine = open(&self.store, index, self.lives);
    }
}

/// What a full exchange gives `to` of what `from` has: the registry, the retired set, removals, blocks, lengths.
pub(super) fn exchange(from: &Engine, to: &mut Engine) {
    for (key, value) in from.registry().range(&[], None) {
        to.merge_registry(key.clone(), value);
    }
    to.merge_retired(from.retired());
    for id in from.segments() {
        let state = from.segment(id).expect("listed");
        to.merge_removed(id, &state.removed);
        for first in from.blocks_with(id, &state.known) {
            let block = from.block(id, first).expect("reads").expect("listed");
            to.merge_block(block.bytes().clone()).expect("valid");
        }
        if let Some(length) = state.length {
            to.merge_length(id, length);
        }
    }
}

/// Rows of the store in a key space.
fn rows(replica: &Replica3, prefix: u8) -> usize {
    let (from, to) = keys::space(prefix);
    let mut count = 0;
    let mut visit = |_: &[u8], _: Option<u64>| {
        count += 1;
        std::ops::ControlFlow::Continue(())
    };
    replica.store.reader().scan_keys(&from, &to, &mut visit).expect("memory");
    count
}

pub(super) fn entry(inbox: &str, body: &str) -> Entry {
    Entry {
        inboxes: vec![inbox.to_owned()],
        head: Bytes::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        persistent: true,
    }
}

pub(super) fn waiting(engine: &Engine) -> BTreeMap<Dot, Bytes> {
    let dots = engine
        .segments()
        .flat_map(|segment| engine.waiting_in(segment).iter().map(|slot| Dot { segment, slot }).collect::<Vec<_>>());
    dots.map(|dot| (dot, engine.message(dot).expect("reads").expect("waits").body)).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Publish(usize, u8, u8),
    Consume(usize, usize),
    Exchange(usize, usize),
    Restart(usize),
    Close(usize),
    Fold(usize),
    Compact(usize),
    FailedWrite(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, 0..3u8, 1..9u8).prop_map(|(n, inbox, count)| Step::Publish(n, inbox, count)),
        4 => (0..3usize, any::<usize>()).prop_map(|(n, which)| Step::Consume(n, which)),
        3 => (0..3usize, 0..3usize).prop_map(|(a, b)| Step::Exchange(a, b)),
        1 => (0..3usize).prop_map(Step::Restart),
        1 => (0..3usize).prop_map(Step::Close),
        2 => (0..3usize).prop_map(Step::Fold),
        2 => (0..3usize).prop_map(Step::Compact),
        1 => (0..3usize).prop_map(Step::FailedWrite),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_history_on_three_replicas_converges_to_the_model(steps in proptest::collection::vec(step(), 1..60)) {
        let mut replicas = [Replica3::new(0), Replica3::new(1), Replica3::new(2)];
        let mut published: BTreeSet<Bytes> = BTreeSet::new();
        let mut consumed: BTreeSet<Bytes> = BTreeSet::new();
        let (mut next, mut hours) = (0, 0);
        for step in steps {
            match step {
                Step::Publish(n, inbox, count) => {
                    let entries: Vec<_> = (0..count).map(|_| { next += 1; entry(&format!("q{inbox}"), &format!("{next:0>300}")) }).collect();
                    published.extend(entries.iter().map(|entry| entry.body.clone()));
                    replicas[n].engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
                    replicas[n].settle();
                }
                Step::Consume(n, which) => {
                    let here = waiting(&replicas[n].engine);
                    if let Some((dot, body)) = here.iter().nth(which % here.len().max(1)) {
                        replicas[n].engine.remove(*dot);
                        consumed.insert(body.clone());
                        replicas[n].settle();
                    }
                }
                Step::Exchange(a, b) if a != b => {
                    let [from, to] = replicas.get_disjoint_mut([a, b]).expect("different");
                    exchange(&from.engine, &mut to.engine);
                    to.settle();
                }
                Step::Exchange(..) => {}
                Step::Restart(n) => replicas[n].restart(n as u8),
                Step::Close(n) => { replicas[n].engine.close_segment(); replicas[n].settle(); }
                Step::Fold(n) => {
                    // Whatever is consumed, whether or not its life is over: that only decides how often it turns up again.
                    let engine = &mut replicas[n].engine;
                    for id in engine.segments().collect::<Vec<_>>() { engine.fold(id); }
                    replicas[n].settle();
                }
                Step::Compact(n) => {
                    hours += 1;
                    let digest = replicas[n].engine.digest(|_| true);
                    let before = waiting(&replicas[n].engine);
                    replicas[n].engine.compact(Now { mono_ms: hours * 3_600_000, wall_ms: 0 });
                    replicas[n].settle();
                    prop_assert_eq!(waiting(&replicas[n].engine), before);
                    prop_assert_eq!(replicas[n].engine.digest(|_| true), digest);
                }
                Step::FailedWrite(n) => {
                    // Nothing of a failed commit may show, and its slots are never used again.
                    let before = waiting(&replicas[n].engine);
                    let engine = &mut replicas[n].engine;
                    engine.publish(Unit { entries: vec![entry("q0", "lost")], removals: Vec::new() }).expect("within limits");
                    if engine.needs_segment() { engine.begin_segment(Now::default()); }
                    if engine.poll_commit(Now::default()).is_some() {
                        prop_assert_eq!(engine.handle_commit_failed().len(), 1);
                    }
                    prop_assert_eq!(waiting(&replicas[n].engine), before);
                    // The slots are given up together with what is written next.
                    replicas[n].engine.set_add(Key::set("next"), vec![n as u8]).expect("within limits");
                    replicas[n].settle();
                }
            }
        }
        for _ in 0..2 {
            for (a, b) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
                let [from, to] = replicas.get_disjoint_mut([a, b]).expect("different");
                exchange(&from.engine, &mut to.engine);
                to.settle();
            }
        }
        let expected: BTreeSet<Bytes> = published.difference(&consumed).cloned().collect();
        for (index, replica) in replicas.iter_mut().enumerate() {
            replica.restart(index as u8);
            let bodies: Vec<Bytes> = waiting(&replica.engine).into_values().collect();
            prop_assert_eq!(bodies.len(), expected.len(), "a message under two dots");
            prop_assert_eq!(bodies.into_iter().collect::<BTreeSet<_>>(), expected.clone());
            let counted: u64 = replica.engine.inboxes().map(|(_, waiting)| waiting).sum();
            prop_assert_eq!(counted as usize, expected.len());
        }
        let digests: BTreeSet<_> = replicas.iter_mut().map(|replica| replica.engine.digest(|_| true)).collect();
        prop_assert_eq!(digests.len(), 1, "equal histories, unequal digests");
    }
}

#[test]
fn a_finished_segment_retires_and_never_comes_back() {
    let mut a = Replica3::new(0);
    a.engine.publish(Unit { entries: vec![entry("q", "1")], removals: Vec::new() }).expect("within limits");
    a.settle();
    let mut late = Replica3::new(1);
    exchange(&a.engine, &mut late.engine);
    late.settle();
    let dot = *waiting(&a.engine).keys().next().expect("one message");
    a.engine.remove(dot);
    a.engine.close_segment();
    let reports = a.settle();
    let lives: Vec<_> = reports.iter().flat_map(|report| report.retired.clone()).collect();
    assert_eq!(lives, [(dot.segment.node, dot.segment.epoch)]);
    assert!(a.engine.is_removed(dot) && !a.engine.has_replica(dot.segment));
    exchange(&late.engine, &mut a.engine);
    a.settle();
    assert!(waiting(&a.engine).is_empty(), "an old backup brought it back");
    exchange(&a.engine, &mut late.engine);
    late.settle();
    assert!(waiting(&late.engine).is_empty() && late.engine.is_retired(dot.segment));
}

#[test]
fn a_replica_with_news_is_not_dropped() {
    let (mut a, mut b) = (Replica3::new(0), Replica3::new(1));
    a.engine.publish(Unit { entries: vec![entry("q", "1")], removals: Vec::new() }).expect("within limits");
    a.settle();
    exchange(&a.engine, &mut b.engine);
    b.settle();
    let dot = *waiting(&a.engine).keys().next().expect("one message");
    b.engine.drop_replica(dot.segment);
    b.engine.remove(dot);
    b.settle();
    assert!(b.engine.is_removed(dot), "the consumption went with the replica");
    b.engine.drop_replica(dot.segment);
    b.settle();
    assert!(!b.engine.has_replica(dot.segment));
}

#[test]
fn units_are_one_block_and_producers_order_is_kept() {
    let mut a = Replica3::new(0);
    let big = "x".repeat(40_000);
    let unit = |inbox: &str, n: u8| Unit { entries: vec![entry(inbox, &format!("{n}{big}")); 2], removals: Vec::new() };
    for n in 0..5 {
        a.engine.publish(unit(["q", "p"][n as usize % 2], n)).expect("within limits");
    }
    let report = a.settle().remove(0);
    assert_eq!(report.units.len(), 5);
    assert!(report.blocks.len() > 1, "a commit of 400 kB is cut into blocks");
    let order: Vec<u8> = waiting(&a.engine).values().map(|body| body[0] - b'0').collect();
    assert_eq!(order, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
}

#[test]
fn what_turns_up_of_a_folded_segment_is_taken_in_and_what_was_consumed_is_not() {
    let mut a = Replica3::new(0);
    let publish = |replica: &mut Replica3, bodies: &[&str]| {
        let entries = bodies.iter().map(|body| entry("q", body)).collect();
        replica.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
        replica.settle();
    };
    publish(&mut a, &["1", "2", "3"]);
    let mut old = Replica3::new(1);
    exchange(&a.engine, &mut old.engine);
    old.settle();
    // `old` is consumed and folded as far as it goes; `a` has more by then.
    let gone: Vec<Dot> = waiting(&old.engine).into_keys().take(2).collect();
    gone.iter().for_each(|dot| old.engine.remove(*dot));
    old.settle();
    let segment = gone[0].segment;
    old.engine.fold(segment);
    old.settle();
    assert!(old.engine.has_replica(segment), "one message still waits");
    let last = Dot { segment, slot: 3 };
    old.engine.remove(last);
    old.settle();
    old.engine.fold(segment);
    old.settle();
    assert!(old.engine.is_retired(segment) && !old.engine.has_replica(segment) && old.engine.is_removed(last));
    publish(&mut a, &["4", "5"]);
    old.restart(1);

    exchange(&a.engine, &mut old.engine);
    old.settle();
    let bodies = |replica: &Replica3| waiting(&replica.engine).into_values().collect::<Vec<_>>();
    assert_eq!(bodies(&old), ["4", "5"]);
    old.restart(1);
    assert_eq!(bodies(&old), ["4", "5"], "nor after a restart");
    exchange(&old.engine, &mut a.engine);
    a.settle();
    assert_eq!(bodies(&a), ["4", "5"]);
    assert_eq!(a.engine.segment_digest(segment), old.engine.segment_digest(segment));
}

#[test]
fn nothing_that_others_say_of_slots_not_filled_yet_swallows_a_message() {
    let mut a = Replica3::new(0);
    let unit = |body| Unit { entries: vec![entry("q", body)], removals: Vec::new() };
    a.engine.publish(unit("1")).expect("within limits");
    a.settle();
    let open = a.engine.open_segment().expect("a message opened it");
    let next = SegmentId { number: open.number + 1, ..open };
    for id in [open, next] {
        a.engine.merge_removed(id, &RangeSet::from_range(2, 100));
        a.engine.merge_length(id, 1);
        let forged = Block::build(id, 2, &[entry("other", "forged")]);
        assert!(matches!(a.engine.merge_block(forged.bytes().clone()), Err(BlockError::Malformed(_))));
        let mut retired = Retired::default();
        retired.finish(id);
        a.engine.merge_retired(&retired);
        let mut folded = Retired::default();
        folded.fold(id, &RangeSet::from_range(2, 100));
        a.engine.merge_retired(&folded);
    }
    a.settle();
    // What was given away can be consumed anywhere; that does not finish the segment.
    a.engine.merge_removed(open, &RangeSet::from_range(1, 1));
    a.settle();
    a.engine.publish(unit("2")).expect("within limits");
    a.settle();
    a.engine.close_segment();
    a.settle();
    a.engine.publish(unit("3")).expect("within limits");
    a.settle();
    assert_eq!(waiting(&a.engine).into_values().collect::<Vec<_>>(), ["2", "3"]);
}

#[test]
fn a_block_of_which_most_is_consumed_is_rewritten_and_what_is_left_of_it_adds_up() {
    let (mut a, mut b, mut c) = (Replica3::new(0), Replica3::new(1), Replica3::new(2));
    let entries = (0..16).map(|n| entry(["q", "p"][n % 2], &format!("{n:0>200}"))).collect();
    a.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
    a.settle();
    exchange(&a.engine, &mut b.engine);
    b.settle();
    let all = waiting(&a.engine);
    let segment = all.keys().next().expect("published").segment;
    let size = |replica: &Replica3| replica.engine.block(segment, 1).expect("reads").map(|block| block.bytes().len());
    let whole = size(&a);

    // Two holders that know of different consumptions keep different remnants.
    let rewrite = |replica: &mut Replica3, left: [u32; 2]| {
        all.keys().filter(|dot| !left.contains(&dot.slot)).for_each(|dot| replica.engine.remove(*dot));
        replica.settle();
        let young = Now { mono_ms: limits::REWRITE_AGE_MS - 1, wall_ms: 0 };
        replica.engine.compact(young);
        assert!(!replica.engine.has_queued(), "it may be consumed as a whole in a moment");
        replica.engine.compact(Now { mono_ms: limits::REWRITE_AGE_MS, wall_ms: 0 });
        replica.settle();
        assert_eq!(waiting(&replica.engine).into_keys().map(|dot| dot.slot).collect::<Vec<_>>(), left);
    };
    rewrite(&mut a, [3, 12]);
    rewrite(&mut b, [4, 12]);
    assert!(size(&a) < whole.map(|whole| whole / 4) && size(&b) < whole.map(|whole| whole / 4));
    a.restart(0);
    assert_eq!(waiting(&a.engine).len(), 2, "and so it is on disk");

    // A third that gets the bodies before it hears of the consumptions has what both have, in one commit or in two.
    let parts = [&a, &b].map(|from| from.engine.block(segment, 1).expect("reads").expect("is there").bytes().clone());
    let mut d = Replica3::new(2);
    for part in &parts {
        d.engine.merge_block(part.clone()).expect("valid");
        c.engine.merge_block(part.clone()).expect("valid");
        c.settle();
    }
    d.settle();
    assert_eq!(waiting(&d.engine), waiting(&c.engine));
    assert_eq!(waiting(&c.engine).into_keys().map(|dot| dot.slot).collect::<Vec<_>>(), [3, 4, 12]);
    assert_eq!(waiting(&c.engine).values().next(), all.values().nth(2));
    c.restart(2);
    assert_eq!(waiting(&c.engine).len(), 3);
    // Once the last of it is consumed its row goes, holes or not.
    [3, 4, 12].into_iter().for_each(|slot| c.engine.remove(Dot { segment, slot }));
    c.settle();
    assert!(c.store.reader().get(&keys::block(segment, 1)).expect("reads").is_none());
}

#[test]
fn a_remnant_does_not_take_the_place_of_a_block_that_grew_meanwhile() {
    let (mut a, mut b, mut c) = (Replica3::new(0), Replica3::new(1), Replica3::new(2));
    let entries = (0..128).map(|n| entry("q", &format!("{n:0>200}"))).collect();
    a.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
    a.settle();
    exchange(&a.engine, &mut b.engine);
    b.settle();
    let segment = waiting(&a.engine).keys().next().expect("published").segment;
    let keep = |replica: &mut Replica3, left: std::ops::RangeInclusive<u32>| {
        let gone = waiting(&replica.engine).into_keys().filter(|dot| !left.contains(&dot.slot));
        gone.for_each(|dot| replica.engine.remove(dot));
        replica.settle();
        replica.engine.compact(Now { mono_ms: limits::REWRITE_AGE_MS, wall_ms: 0 });
        assert!(replica.engine.has_queued(), "a remnant is on its way");
    };
    // Two holders keep different parts of a block.
    keep(&mut a, 1..=16);
    keep(&mut b, 3..=18);
    let [part, other] = [&mut a, &mut b].map(|replica| {
        replica.settle();
        replica.engine.block(segment, 1).expect("reads").expect("is there").bytes().clone()
    });
    // A third has the one, and what is left of it is on its way when the other comes.
    c.engine.merge_block(part).expect("valid");
    c.engine.merge_removed(segment, &RangeSet::from_range(19, 128));
    c.settle();
    keep(&mut c, 15..=16);
    c.engine.merge_block(other).expect("valid");
    c.settle();
    let slots = |replica: &Replica3| waiting(&replica.engine).into_keys().map(|dot| dot.slot).collect::<Vec<_>>();
    assert_eq!(slots(&c), [15, 16, 17, 18]);
    c.restart(2);
    assert_eq!(slots(&c), [15, 16, 17, 18], "and so it is on disk");
}

#[test]
fn a_body_that_comes_together_with_the_news_that_it_is_consumed_does_not_wait() {
    let mut a = Replica3::new(0);
    a.engine
        .publish(Unit { entries: vec![entry("q", "1"), entry("q", "2")], removals: Vec::new() })
        .expect("within limits");
    a.settle();
    let dot = *waiting(&a.engine).keys().next().expect("published");
    let block = a.engine.block(dot.segment, 1).expect("reads").expect("is there").bytes().clone();
    let mut finished = Retired::default();
    finished.finish(dot.segment);
    let mut folded = Retired::default();
    folded.fold(dot.segment, &RangeSet::from_range(1, 2));
    let mut partly = Retired::default();
    partly.fold(dot.segment, &RangeSet::from_range(1, 1));
    for (over, left) in [(finished, 0), (folded, 0), (partly, 1)] {
        let mut b = Replica3::new(1);
        b.engine.merge_block(block.clone()).expect("valid");
        b.engine.merge_retired(&over);
        b.settle();
        assert_eq!((waiting(&b.engine).len(), b.engine.has_replica(dot.segment)), (left, left > 0), "{over:?}");
        b.restart(1);
        assert_eq!(waiting(&b.engine).len(), left, "{over:?}");
    }
}
