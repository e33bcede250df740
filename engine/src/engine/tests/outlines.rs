//! Opening by outlines: what they say is what the blocks have, and where they can't be trusted the block is read.

use super::*;
use crate::engine::outline::Outline;

/// A replica with a large block for two inboxes, a small one, and a remnant of a third; the large one's name.
fn sample() -> (Replica3, SegmentId) {
    let mut a = Replica3::new(0);
    let big = "x".repeat(400);
    let entries = vec![entry("q", &big), entry("r", &big), entry("q", &big)];
    a.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
    a.settle();
    a.engine.publish(Unit { entries: vec![entry("q", "small")], removals: Vec::new() }).expect("within limits");
    a.settle();
    let segment = a.engine.open_segment().expect("messages opened it");
    let entries = (0..16).map(|_| entry("q", &big)).collect();
    a.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
    a.settle();
    (5..=17).for_each(|slot| a.engine.remove(Dot { segment, slot }));
    a.settle();
    let later = Now { mono_ms: limits::REWRITE_AGE_MS + 1, wall_ms: 0 };
    a.engine.look(later, limits::REWRITE_AGE_MS, usize::MAX, usize::MAX);
    a.settle();
    (a, segment)
}

fn reopened(a: &mut Replica3) -> OpenReport {
    a.lives += 1;
    let (engine, report) =
        Engine::open(a.store.reader(), node(0), Epoch(a.lives), Now::default(), Planted::default()).expect("opens");
    a.engine = engine;
    a.settle();
    report
}

fn outline_row(a: &Replica3, segment: SegmentId, first: Slot) -> Option<Bytes> {
    a.store.reader().get(&keys::outline(segment, first)).expect("memory")
}

#[test]
fn every_large_block_has_the_outline_that_reading_it_gives() {
    let (a, segment) = sample();
    for (first, has_one) in [(1, true), (4, false), (5, true)] {
        let block = a.engine.block(segment, first).expect("reads").expect("is there");
        let expected = has_one.then(|| Outline::of(&block).encode());
        assert_eq!(outline_row(&a, segment, first), expected, "block {first}");
    }
    let remnant = a.engine.block(segment, 5).expect("reads").expect("is there");
    assert_eq!(remnant.slots(), &RangeSet::from_range(18, 20), "it was rewritten");
}

/// Bodies are not looked at: a damaged one is found by whoever reads it, and given up then.
#[test]
fn opening_reads_no_bodies_that_have_an_outline_and_reading_still_finds_damage() {
    let (mut a, segment) = sample();
    let before = waiting(&a.engine);
    assert_eq!(reopened(&mut a).losses, []);
    assert_eq!(waiting(&a.engine), before);
    let key = keys::block(segment, 1);
    let mut bytes = a.store.reader().get(&key).expect("memory").expect("is there").to_vec();
    bytes[100] ^= 1;
    a.store.commit(&[vec![Op::Put(key, bytes.into())]]).expect("memory");
    let report = reopened(&mut a);
    assert_eq!((report.losses, report.damaged_rows), (vec![], vec![]));
    let dot = Dot { segment, slot: 2 };
    assert!(matches!(a.engine.message(dot), Err(EngineError::Block { source: BlockError::Hash, .. })));
    assert!(a.engine.next_block("q", segment, 1).is_err());
    assert_eq!(a.engine.forget_damaged(dot), RangeSet::from_range(1, 3));
    a.settle();
    assert_eq!(outline_row(&a, segment, 1), None, "it goes with its block");
    assert_eq!(reopened(&mut a).losses, []);
    assert_eq!(a.engine.message(dot).expect("not known any more"), None);
}

#[test]
fn a_block_is_read_when_its_outline_is_missing_broken_or_that_of_another() {
    let (mut a, segment) = sample();
    let before = waiting(&a.engine);
    let mut another = Outline::of(&a.engine.block(segment, 5).expect("reads").expect("there")).encode();
    let rows = [None, Some(Bytes::from_static(&[2, 1])), Some(std::mem::take(&mut another))];
    for (row, is_told) in rows.into_iter().zip([false, true, true]) {
        let key = keys::outline(segment, 1);
        let op = row.map_or(Op::Delete(key.clone()), |row| Op::Put(key.clone(), row));
        a.store.commit(&[vec![op]]).expect("memory");
        let report = reopened(&mut a);
        assert_eq!((report.losses.len(), report.damaged_rows.len()), (0, usize::from(is_told)), "{report:?}");
        assert_eq!(waiting(&a.engine), before);
        let block = a.engine.block(segment, 1).expect("reads").expect("there");
        let right = Outline::of(&block).encode();
        assert_eq!(outline_row(&a, segment, 1), is_told.then_some(right), "a wrong one is written again");
    }
}

/// An outline vouches for nothing by itself.
#[test]
fn without_its_block_an_outline_is_no_reason_to_know_and_goes() {
    let (mut a, segment) = sample();
    a.store.commit(&[vec![Op::Delete(keys::block(segment, 1))]]).expect("memory");
    let report = reopened(&mut a);
    assert_eq!(report.losses, [Loss { segment, slots: RangeSet::from_range(1, 3) }]);
    assert_eq!(outline_row(&a, segment, 1), None);
}

/// A well-formed outline of the right length that tells of slots that the block lacks.
#[test]
fn a_message_that_only_the_outline_knows_is_damage_and_no_silent_gap() {
    let (mut a, segment) = sample();
    let block = a.engine.block(segment, 5).expect("reads").expect("there");
    let lying = Outline {
        slots: RangeSet::from_range(17, 20),
        runs: vec![("q", RangeSet::from_range(17, 20))],
        ..Outline::of(&block)
    };
    let row = page_without(&a, segment, 17);
    a.store.commit(&[vec![Op::Put(keys::outline(segment, 5), lying.encode()), row]]).expect("memory");
    reopened(&mut a);
    let dot = Dot { segment, slot: 17 };
    assert!(a.engine.message(dot).is_err(), "it waits and is not there");
    assert!(a.engine.next_block("q", segment, 17).is_err());
    assert!(!a.engine.forget_damaged(dot).is_empty());
}

/// The removed page of a replica without a slot.
fn page_without(replica: &Replica3, segment: SegmentId, slot: Slot) -> Op {
    let mut removed = replica.engine.segment(segment).expect("kept").removed.clone();
    removed.remove_range(slot, slot);
    Op::Put(keys::removed(segment, 0), keys::encode(&removed))
}

#[test]
fn next_block_gives_exactly_what_waits_in_order_block_by_block() {
    let (a, segment) = sample();
    let (mut from, mut found) = (1, Vec::new());
    while let Some((block, slots)) = a.engine.next_block("q", segment, from).expect("reads") {
        for (slot, message) in block.messages("q", &slots) {
            found.push(slot);
            let whole = a.engine.message(Dot { segment, slot }).expect("reads").expect("waits");
            assert_eq!((&whole.body[..], &whole.head[..]), (message.body, message.head));
            assert_eq!(&*whole.inbox, "q");
        }
        from = slots.last().expect("never empty") + 1;
    }
    assert_eq!(found, [1, 2, 4, 18, 19, 20]);
}
