//! The law of what two engines tell each other without the rest of Rhizomq: summaries and deltas.

use bytes::Bytes;

use super::{Choices, SEGMENT, example_block};
use crate::{
    Delta, Dot, Engine, Entry, Epoch, NodeId, Now, Planted, RangeSet, Retired, SegmentDelta, SegmentId, Store, Summary,
    Unit, store::MemoryStore,
};

const ME: NodeId = NodeId([9; 16]);

/// The first octet chooses: a summary, or a delta. Whatever reads goes round through its bytes. To any summary there is a
/// delta; merging any delta is idempotent, is what a restart finds again, and takes nothing of this engine's own.
pub fn delta(bytes: &[u8]) -> bool {
    let mut choices = Choices(bytes);
    let is_summary = choices.byte().is_multiple_of(2);
    let bytes = with_checksum(choices.0);
    if is_summary { summary(&bytes) } else { merge(&bytes) }
}

/// Nobody finds a checksum by chance: what is of the version that ends in one gets its own.
fn with_checksum(bytes: &[u8]) -> Vec<u8> {
    match bytes.split_last_chunk::<16>() {
        Some((content, _)) if content.first() == Some(&2) => {
            [content, &blake3::hash(content).as_bytes()[..16]].concat()
        }
        _ => bytes.to_vec(),
    }
}

fn summary(bytes: &[u8]) -> bool {
    let Ok(summary) = Summary::decode(bytes) else { return false };
    assert_eq!(Summary::decode(&summary.encode()).as_ref(), Ok(&summary));
    let (_, engine) = example();
    let delta = engine.delta_for(&summary).expect("all that is here reads");
    assert!(Delta::decode(&delta.encode()).as_ref() == Ok(&delta));
    // Who says that it has nothing gets all, and what it gets is lawful.
    let (mut store, mut other) = open(NodeId([8; 16]), MemoryStore::new());
    other.merge(delta).expect("of this engine's own making");
    settle(&mut store, &mut other);
    true
}

fn merge(bytes: &[u8]) -> bool {
    let Ok(mut delta) = Delta::decode(bytes) else { return false };
    assert!(Delta::decode(&delta.encode()).as_ref() == Ok(&delta));
    // Nobody finds a hash by chance: each block gets its own.
    for block in delta.segments.values_mut().flat_map(|part| &mut part.blocks) {
        let content = &block[..block.len().saturating_sub(blake3::OUT_LEN)];
        *block = Bytes::from([content, blake3::hash(content).as_bytes()].concat());
    }
    let (mut store, mut engine) = example();
    let _ = engine.merge(delta.clone());
    settle(&mut store, &mut engine);
    let after = engine.summary();
    let _ = engine.merge(delta);
    settle(&mut store, &mut engine);
    assert!(engine.summary() == after, "merging twice is merging once");

    // What it says of slots that were never given away is made up.
    publish(&mut store, &mut engine);
    let mine = engine.open_segment().expect("a message lies in it");
    let last = engine.segment(mine).and_then(|state| state.known.last()).expect("of that message");
    let message = engine.message(Dot { segment: mine, slot: last }).expect("reads").expect("it waits");
    assert_eq!(message.body, "mine");

    let state = engine.summary();
    let (_, again) = open(ME, store);
    assert!(again.summary() == state, "the disk holds another state than memory");
    true
}

/// An engine with a message of its own, a part of another's segment, something consumed, something over, and a registry.
fn example() -> (MemoryStore, Engine) {
    let (mut store, mut engine) = open(ME, MemoryStore::new());
    publish(&mut store, &mut engine);
    engine.merge_block(example_block().bytes().clone()).expect("valid");
    engine.merge_removed(SEGMENT, &RangeSet::from_range(5, 6));
    let mut over = Retired::default();
    over.finish(SegmentId { number: SEGMENT.number + 1, ..SEGMENT });
    over.fold(SegmentId { number: SEGMENT.number + 2, ..SEGMENT }, &RangeSet::from_range(1, 9));
    engine.merge_retired(&over);
    engine.set("s").add(b"member").expect("within the limits");
    engine.register("r").set(b"content", Now::default()).expect("within the limits");
    settle(&mut store, &mut engine);
    (store, engine)
}

fn open(node: NodeId, store: MemoryStore) -> (MemoryStore, Engine) {
    let opened = Engine::open(store.reader(), node, Epoch(9), Now::default(), Planted::default());
    let (engine, report) = opened.expect("memory reads");
    assert!(report.losses.is_empty() && report.damaged_rows.is_empty(), "{report:?}");
    (store, engine)
}

fn publish(store: &mut MemoryStore, engine: &mut Engine) {
    let body = Bytes::from_static(b"mine");
    let entry = Entry { inboxes: vec!["q".to_owned()], head: Bytes::new(), body, persistent: true };
    engine.publish(Unit { entries: vec![entry], removals: Vec::new() }).expect("within the limits");
    settle(store, engine);
}

fn settle(store: &mut MemoryStore, engine: &mut Engine) {
    if engine.needs_segment() {
        engine.begin_segment(Now::default());
    }
    while let Some(commit) = engine.poll_commit(Now::default()) {
        store.commit(&[commit.batch]).expect("memory does not fail");
        engine.handle_committed();
        if engine.needs_segment() {
            engine.begin_segment(Now::default());
        }
    }
}

pub(super) fn delta_seeds() -> Vec<Vec<u8>> {
    let (_, engine) = example();
    let all = engine.delta_for(&Summary::default()).expect("reads");
    let some = engine.delta_for(&open(ME, MemoryStore::new()).1.summary()).expect("reads");
    let part = engine.delta_within(&Summary::default(), 1).expect("reads");
    let of_another = {
        let (_, mut other) = open(NodeId([8; 16]), MemoryStore::new());
        let rest = example_block().remnant(&RangeSet::from_range(7, 7)).expect("it has this");
        other.merge_block(rest.bytes().clone()).expect("valid");
        let mut store = MemoryStore::new();
        settle(&mut store, &mut other);
        other.delta_for(&Summary::default()).expect("reads")
    };
    // Somebody claims that slots are consumed which this engine has yet to give away.
    let mine = SegmentId { node: ME, epoch: Epoch(9), number: 1 };
    let claimed = SegmentDelta { removed: RangeSet::from_range(1, 100), ..SegmentDelta::default() };
    let claims = Delta { segments: [(mine, claimed)].into(), ..Delta::default() };
    let summaries = [Summary::default(), engine.summary()];
    let summaries = summaries.iter().map(|summary| [&[0][..], &summary.encode()].concat());
    let deltas = [Delta::default(), all, some, part, of_another, claims];
    summaries.chain(deltas.iter().map(|delta| [&[1][..], &delta.encode()].concat())).collect()
}
