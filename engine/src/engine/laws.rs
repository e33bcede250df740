//! The laws of merging, on whole engines with everything in them: messages, a set, a register, segments that close,
//! retire, fold and are dropped; each replica against a naive model that keeps every name for ever.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    tests::{Replica3, entry, exchange, open, waiting},
    *,
};
use crate::{Key, hlc::Stamp, limits, store::MemoryStore};

/// One step of a history on three replicas.
#[derive(Clone, Debug)]
enum Step {
    Publish(usize, u8),
    Consume(usize, usize),
    /// All of a block but one message.
    ConsumeMost(usize, usize),
    /// Blocks of which most is consumed give way to their remnants.
    Rewrite(usize),
    /// Small neighbours become one block, now or with whatever comes next.
    Gather(usize, bool),
    /// The same as rewriting, but it is left to the commit of whatever comes next.
    RewriteLater(usize),
    Add(usize, u8),
    Remove(usize, u8),
    Write(usize, u64),
    /// By delta.
    Merge(usize, usize),
    /// By a delta that holds one block at most, and no registry values.
    Part(usize, usize),
    /// All there is, message by message, as nodes would.
    Exchange(usize, usize),
    Close(usize),
    Fold(usize),
    Drop(usize),
    Restart(usize),
    FailedWrite(usize),
    /// A delta is put aside: it comes long after.
    Keep(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0..3usize;
    prop_oneof![
        4 => (n(), 1..9u8).prop_map(|(n, count)| Step::Publish(n, count)),
        5 => (n(), any::<usize>()).prop_map(|(n, which)| Step::Consume(n, which)),
        4 => (n(), any::<usize>()).prop_map(|(n, which)| Step::ConsumeMost(n, which)),
        3 => n().prop_map(Step::Rewrite),
        3 => n().prop_map(Step::RewriteLater),
        4 => (n(), any::<bool>()).prop_map(|(n, at_once)| Step::Gather(n, at_once)),
        3 => (n(), 0..4u8).prop_map(|(n, member)| Step::Add(n, member)),
        2 => (n(), 0..4u8).prop_map(|(n, member)| Step::Remove(n, member)),
        2 => (n(), 0..50u64).prop_map(|(n, wall_ms)| Step::Write(n, wall_ms)),
        4 => (n(), n()).prop_map(|(from, to)| Step::Merge(from, to)),
        2 => (n(), n()).prop_map(|(from, to)| Step::Part(from, to)),
        2 => (n(), n()).prop_map(|(from, to)| Step::Exchange(from, to)),
        2 => n().prop_map(Step::Close),
        2 => n().prop_map(Step::Fold),
        2 => n().prop_map(Step::Drop),
        1 => n().prop_map(Step::Restart),
        1 => n().prop_map(Step::FailedWrite),
        1 => n().prop_map(Step::Keep),
    ]
}

/// All that a replica has heard of. Merge is union, and the greater stamp.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    published: BTreeMap<Dot, Bytes>,
    consumed: BTreeSet<Dot>,
    added: BTreeSet<(u8, u64)>,
    removed: BTreeSet<(u8, u64)>,
    written: Option<(Stamp, Vec<u8>)>,
}

impl Model {
    fn merge(&mut self, other: &Self) {
        self.published.extend(other.published.clone());
        self.consumed.extend(&other.consumed);
        self.added.extend(&other.added);
        self.removed.extend(&other.removed);
        self.written = self.written.clone().max(other.written.clone());
    }

    fn waiting(&self) -> BTreeMap<Dot, Bytes> {
        let mut waiting = self.published.clone();
        waiting.retain(|dot, _| !self.consumed.contains(dot));
        waiting
    }

    fn members(&self) -> Vec<Vec<u8>> {
        let members: BTreeSet<u8> = self.added.difference(&self.removed).map(|(member, _)| *member).collect();
        members.into_iter().map(|member| vec![member]).collect()
    }

    /// The replica of a segment goes, and with it what was known of it, but for what is over.
    fn forget(&mut self, id: SegmentId, over: &Retired) {
        self.published.retain(|dot, _| dot.segment != id || over.covers(*dot));
        self.consumed.retain(|dot| dot.segment != id || over.covers(*dot));
    }
}

const SET: &str = "set";
const REGISTER: &str = "register";

/// A few of these make a block that is worth rewriting.
fn message(name: u64, at: u8) -> crate::Entry {
    entry("q", &format!("{name}/{at} {}", "x".repeat(limits::REWRITE_BYTES as usize / 4)))
}

fn members(engine: &Engine) -> Vec<Vec<u8>> {
    engine.registry().set_members(&Key::own_set(SET))
}

fn pull(from: &Engine, to: &mut Replica3) {
    let delta = from.delta_for(&to.engine.summary()).expect("reads");
    let bytes = delta.encode();
    let read = Delta::decode(&bytes).expect("its own encoding");
    assert!(read == delta && read.encode() == bytes);
    to.engine.merge(read).expect("valid");
    to.settle();
}

struct Run {
    replicas: [Replica3; 3],
    models: [Model; 3],
    kept: Vec<Delta>,
}

/// Runs a history, and after each step holds the replica that it changed against its model.
fn run(steps: &[Step]) -> Run {
    let mut replicas = [0, 1, 2].map(Replica3::new);
    let mut models = [(); 3].map(|()| Model::default());
    let mut kept = Vec::new();
    for (name, step) in (0u64..).zip(steps) {
        let changed = match *step {
            Step::Publish(n, count) => {
                let entries: Vec<_> = (0..count).map(|at| message(name, at)).collect();
                replicas[n].engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
                for report in replicas[n].settle() {
                    for block in report.blocks.iter().map(|new| &new.block) {
                        let body = |slot| block.message(slot).expect("dense").body;
                        let slots = block.first()..=block.last();
                        models[n].published.extend(slots.map(|slot| (block.dot(slot), body(slot))));
                    }
                }
                n
            }
            Step::Consume(n, which) => {
                let here: Vec<Dot> = waiting(&replicas[n].engine).into_keys().collect();
                if let Some(dot) = here.get(which % here.len().max(1)) {
                    replicas[n].engine.remove(*dot);
                    models[n].consumed.insert(*dot);
                    replicas[n].settle();
                }
                n
            }
            Step::ConsumeMost(n, which) => {
                let engine = &mut replicas[n].engine;
                let here: Vec<Dot> = waiting(engine).into_keys().collect();
                if let Some(dot) = here.get(which % here.len().max(1)) {
                    let (&first, meta) =
                        engine.replicas[&dot.segment].blocks.range(..=dot.slot).next_back().expect("it waits in one");
                    let block = first..=meta.last;
                    for other in here.iter().filter(|other| other.segment == dot.segment && *other != dot) {
                        if block.contains(&other.slot) {
                            engine.remove(*other);
                            models[n].consumed.insert(*other);
                        }
                    }
                    replicas[n].settle();
                }
                n
            }
            Step::Rewrite(n) | Step::RewriteLater(n) => {
                let engine = &mut replicas[n].engine;
                // Each time all blocks are old enough.
                let now = Now { mono_ms: (name + 1) * limits::REWRITE_AGE_MS, ..Now::default() };
                engine.compact(now);
                if matches!(step, Step::Rewrite(_)) {
                    let before = engine.summary();
                    replicas[n].settle();
                    assert!(replicas[n].engine.summary() == before, "a rewriting changes no state");
                }
                n
            }
            Step::Gather(n, at_once) => {
                let engine = &mut replicas[n].engine;
                let now = Now { mono_ms: (name + 1) * limits::REWRITE_AGAIN_MS, ..Now::default() };
                assert!(engine.gather(now, 0, usize::MAX).is_last);
                if at_once {
                    let before = engine.summary();
                    replicas[n].settle();
                    assert!(replicas[n].engine.summary() == before, "gathering changes no state");
                }
                n
            }
            Step::Add(n, member) => {
                replicas[n].engine.set(SET).add([member]).expect("lawful");
                let shown = replicas[n].engine.set(SET).members();
                assert_eq!(shown, models[n].members(), "it shows before it is on disk");
                models[n].added.insert((member, name));
                replicas[n].settle();
                n
            }
            Step::Remove(n, member) => {
                replicas[n].engine.set(SET).remove([member]).expect("lawful");
                let seen: Vec<_> = models[n].added.iter().filter(|(added, _)| *added == member).copied().collect();
                models[n].removed.extend(seen);
                replicas[n].settle();
                n
            }
            Step::Write(n, wall_ms) => {
                let content = name.to_be_bytes().to_vec();
                let now = Now { wall_ms, ..Now::default() };
                replicas[n].engine.register(REGISTER).set(&content, now).expect("lawful");
                replicas[n].settle();
                let key = Key::own_register(REGISTER);
                let stamp = *replicas[n].engine.registry().get(&key).and_then(crate::Value::stamp).expect("written");
                let written = Some((stamp, content));
                assert!(written > models[n].written, "a write that saw another must win over it");
                models[n].written = written;
                n
            }
            Step::Merge(from, to) | Step::Exchange(from, to) => {
                if let Ok([from, to]) = replicas.get_disjoint_mut([from, to]) {
                    if matches!(step, Step::Merge(..)) {
                        pull(&from.engine, to);
                    } else {
                        exchange(&from.engine, &mut to.engine);
                        to.settle();
                    }
                }
                let theirs = models[from].clone();
                models[to].merge(&theirs);
                to
            }
            Step::Part(from, to) => {
                if let Ok([from_replica, to_replica]) = replicas.get_disjoint_mut([from, to]) {
                    let there = to_replica.engine.summary();
                    let mut delta = from_replica.engine.delta_within(&there, 1).expect("reads");
                    delta.registry.clear();
                    let blocks = delta.segments.values().flat_map(|part| &part.blocks);
                    let blocks: Vec<_> = blocks.map(|bytes| Block::decode(bytes.clone()).expect("valid")).collect();
                    let comes = |dot: &Dot| {
                        let is_in = |block: &Block| block.segment() == dot.segment && block.message(dot.slot).is_some();
                        models[from].consumed.contains(dot) || blocks.iter().any(is_in)
                    };
                    let mut part = models[from].clone();
                    part.published.retain(|dot, _| comes(dot));
                    models[to].published.extend(part.published);
                    models[to].consumed.extend(part.consumed);
                    to_replica.engine.merge(delta).expect("valid");
                    to_replica.settle();
                }
                to
            }
            Step::Close(n) => {
                replicas[n].engine.close_segment();
                replicas[n].settle();
                n
            }
            Step::Fold(n) => {
                let engine = &mut replicas[n].engine;
                engine.segments().collect::<Vec<_>>().into_iter().for_each(|id| engine.fold(id));
                replicas[n].settle();
                n
            }
            Step::Drop(n) => {
                // With a proof that another has all of it, as the upper layer must have.
                let proven = |id: &SegmentId| {
                    let mine = replicas[n].engine.state_of(*id);
                    let has_all = |other: &Engine| {
                        other.is_finished(*id) || mine.delta(&other.state_of(*id)) == SegmentState::default()
                    };
                    (0..3).filter(|other| *other != n).any(|other| has_all(&replicas[other].engine))
                };
                let mine = replicas[n].engine.open_segment();
                let droppable: Vec<_> =
                    replicas[n].engine.segments().filter(|id| Some(*id) != mine).filter(proven).collect();
                for id in droppable {
                    replicas[n].engine.drop_replica(id);
                    replicas[n].settle();
                    models[n].forget(id, replicas[n].engine.retired());
                }
                n
            }
            Step::Restart(n) => {
                replicas[n].restart(n as u8);
                n
            }
            Step::FailedWrite(n) => {
                let engine = &mut replicas[n].engine;
                engine
                    .publish(Unit { entries: vec![entry("q", "lost")], removals: Vec::new() })
                    .expect("within limits");
                engine.set(SET).add([9]).expect("lawful");
                if engine.needs_segment() {
                    engine.begin_segment(Now::default());
                }
                engine.poll_commit(Now::default()).expect("something waits");
                assert_eq!(engine.handle_commit_failed().len(), 1);
                assert_eq!((waiting(engine), members(engine)), (models[n].waiting(), models[n].members()));
                // What is no message happens later.
                models[n].added.insert((9, name));
                replicas[n].settle();
                n
            }
            Step::Keep(n) => {
                kept.push(replicas[n].engine.delta_for(&Summary::default()).expect("reads"));
                n
            }
        };
        let (engine, model) = (&mut replicas[changed].engine, &models[changed]);
        assert_eq!(engine.set(SET).members(), model.members(), "after {step:?}");
        assert!((0..10).all(|member| engine.set(SET).contains([member]) == model.members().contains(&vec![member])));
        assert_eq!(waiting(engine), model.waiting(), "after {step:?}");
        assert_eq!(members(engine), model.members(), "after {step:?}");
        let written = model.written.as_ref().map(|(_, content)| content.as_slice());
        assert_eq!(engine.registry().register(&Key::own_register(REGISTER)), written, "after {step:?}");
        let stored: usize = engine.replicas.values().map(|replica| replica.blocks.len()).sum();
        for replica in engine.replicas.values() {
            let mut blocks = replica.blocks.iter().map(|(&first, meta)| (first, meta.last));
            assert!(blocks.clone().zip(blocks.by_ref().skip(1)).all(|(a, b)| a.1 < b.0), "overlap, after {step:?}");
        }
        assert_eq!(engine.cache.borrow().stored(), stored, "what is charged to the cache, after {step:?}");
    }
    Run { replicas, models, kept }
}

/// A second engine on a copy of the disk. It has the life of the first: nothing is written there any more.
fn copy(replica: &Replica3, index: u8) -> Replica3 {
    let store = MemoryStore::from(replica.store.snapshot());
    let engine = open(&store, index, 1 << 20);
    Replica3 { store, engine, lives: 1 << 20 }
}

fn state(replica: &mut Replica3) -> (Summary, BTreeMap<Dot, Bytes>) {
    (replica.engine.summary(), waiting(&replica.engine))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_history_is_what_the_model_says_and_converges(steps in proptest::collection::vec(step(), 1..70)) {
        let Run { mut replicas, models, kept } = run(&steps);
        let pairs = [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)];
        for (from, to) in pairs.into_iter().chain(pairs) {
            let [from, to] = replicas.get_disjoint_mut([from, to]).expect("different");
            pull(&from.engine, to);
        }
        let all = models.iter().fold(Model::default(), |mut all, model| { all.merge(model); all });
        for replica in &mut replicas {
            prop_assert_eq!(waiting(&replica.engine), all.waiting());
            prop_assert_eq!(members(&replica.engine), all.members());
        }
        let digests = replicas.each_mut().map(|replica| replica.engine.digest(|_| true));
        prop_assert!(digests[0] == digests[1] && digests[1] == digests[2]);
        // Old deltas change nothing, in whatever order and how often they come: nothing is resurrected.
        let before = state(&mut replicas[0]);
        for delta in kept.iter().rev().chain(&kept) {
            replicas[0].engine.merge(delta.clone()).expect("valid");
            replicas[0].settle();
        }
        prop_assert_eq!(state(&mut replicas[0]), before);
    }

    #[test]
    fn merging_is_commutative_associative_and_idempotent(steps in proptest::collection::vec(step(), 1..50)) {
        let Run { replicas: [a, b, c], .. } = run(&steps);
        let merged = |to: &Replica3, index, others: &[&Replica3]| {
            let mut to = copy(to, index);
            others.iter().for_each(|from| pull(&from.engine, &mut to));
            to
        };
        let mut all = [
            merged(&a, 0, &[&b, &c]),
            merged(&a, 0, &[&c, &b]),
            merged(&a, 0, &[&merged(&b, 1, &[&c])]),
            merged(&b, 1, &[&a, &c]),
            merged(&c, 2, &[&merged(&a, 0, &[&b])]),
            merged(&c, 2, &[&b, &a, &b, &a]),
        ];
        let states = all.each_mut().map(state);
        for (at, other) in states.iter().enumerate().skip(1) {
            prop_assert_eq!(&states[0], other, "the first way and way {}", at);
        }
    }

    #[test]
    fn a_delta_does_what_everything_does(steps in proptest::collection::vec(step(), 1..60)) {
        let Run { replicas: [a, b, _], .. } = run(&steps);
        let by_delta = || { let mut to = copy(&b, 1); pull(&a.engine, &mut to); to };
        let by_all = || {
            let mut to = copy(&b, 1);
            to.engine.merge(a.engine.delta_for(&Summary::default()).expect("reads")).expect("valid");
            to.settle();
            to
        };
        let by_parts = || {
            let mut to = copy(&b, 1);
            let mut next = Some(Position::default());
            for round in 0.. {
                let Some(position) = next else { break };
                assert!(round < 1000, "does not end");
                let there = Summary::decode(&to.engine.summary_from(&position).encode()).expect("its own encoding");
                let mut delta = a.engine.delta_within(&there, 1).expect("reads");
                next = delta.more.take();
                to.engine.merge(delta).expect("valid");
                to.settle();
            }
            to
        };
        let by_messages = || { let mut to = copy(&b, 1); exchange(&a.engine, &mut to.engine); to.settle(); to };
        let mut ways = [by_delta(), by_all(), by_parts(), by_messages()];
        for (from, to) in [(0, 1), (0, 2), (0, 3)] {
            prop_assert_eq!(state(&mut ways[from]), state(&mut ways[to]));
            prop_assert_eq!(ways[from].engine.digest(|_| true), ways[to].engine.digest(|_| true));
        }
        let again = a.engine.delta_for(&ways[0].engine.summary()).expect("reads");
        prop_assert!(again.retired.is_empty() && again.segments.is_empty(), "{:?}", again);
        for (key, value) in &again.registry {
            prop_assert!(ways[0].engine.registry().merged(None, key, value).is_none());
        }
    }

    #[test]
    fn digests_are_equal_exactly_when_states_are(steps in proptest::collection::vec(step(), 1..40)) {
        let Run { mut replicas, .. } = run(&steps);
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            let [a, b] = replicas.get_disjoint_mut([a, b]).expect("different");
            let is_equal = state(a) == state(b);
            prop_assert_eq!(a.engine.digest(|_| true) == b.engine.digest(|_| true), is_equal);
        }
    }

    #[test]
    fn broken_bytes_are_no_summary_and_no_delta(
        steps in proptest::collection::vec(step(), 1..20),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let Run { replicas: [a, mut b, _], .. } = run(&steps);
        let (summary, delta) = (a.engine.summary().encode(), a.engine.delta_for(&Summary::default()).expect("reads").encode());
        for bytes in [&summary, &delta] {
            let cut = &bytes[..cut.index(bytes.len())];
            prop_assert!(Summary::decode(cut).is_err() && Delta::decode(cut).is_err());
            let mut broken = bytes.to_vec();
            flips.iter().for_each(|(place, bits)| *place.get_mut(&mut broken) ^= bits);
            let is_same = broken[..] == bytes[..];
            // Those of the version without a checksum may mean something else; they do no more harm than that.
            let is_checked = broken[0] != 1;
            prop_assert!(is_same || !is_checked || Summary::decode(&broken).is_err() && Delta::decode(&broken).is_err());
            broken[0] = 1;
            if let Ok(summary) = Summary::decode(&broken) {
                let _ = b.engine.delta_for(&summary);
            }
            if let Ok(delta) = Delta::decode(&broken) {
                let _ = b.engine.merge(delta);
                b.settle();
            }
        }
        prop_assert_eq!(Delta::decode(&[&[9], &delta[1..]].concat()).err(), Some(DeltaError::Version(9)));
        prop_assert_eq!(Summary::decode(&[&[9], &summary[1..]].concat()).err(), Some(DeltaError::Version(9)));
    }
}
