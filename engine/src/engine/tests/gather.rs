//! Gathering small blocks: fewer in memory, the same messages in the same order, whatever shapes others have.

use super::*;

/// Messages for inboxes in turn, each a commit of its own.
fn one_by_one(replica: &mut Replica3, inboxes: &[&str], count: usize) -> SegmentId {
    for number in 0..count {
        let entries = vec![entry(inboxes[number % inboxes.len()], &format!("{number:0>100}"))];
        replica.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
        replica.settle();
    }
    replica.engine.open_segment().expect("messages opened it")
}

fn at_rest() -> Now {
    Now { mono_ms: limits::REWRITE_AGAIN_MS, wall_ms: 0 }
}

fn gather(replica: &mut Replica3) {
    while !replica.engine.gather(at_rest(), 0, usize::MAX).is_last {}
    replica.settle();
}

fn firsts(replica: &Replica3, id: SegmentId) -> Vec<Slot> {
    replica.engine.replicas[&id].blocks.keys().copied().collect()
}

/// Bodies of an inbox, read as a consumer would.
fn read(engine: &Engine, inbox: &str, id: SegmentId) -> Vec<Bytes> {
    let (mut from, mut found) = (1, Vec::new());
    while let Some((block, slots)) = engine.next_block(inbox, id, from).expect("reads") {
        found.extend(block.messages(inbox, &slots).map(|(_, message)| Bytes::copy_from_slice(message.body)));
        from = slots.last().expect("never empty") + 1;
    }
    found
}

#[test]
fn messages_sent_one_by_one_take_few_blocks_and_are_delivered_in_order() {
    let mut a = Replica3::new(0);
    let inboxes = ["q", "r", "s"];
    let id = one_by_one(&mut a, &inboxes, 3_000);
    (1..=3_000).filter(|slot| slot % 7 == 0).for_each(|slot| a.engine.remove(Dot { segment: id, slot }));
    a.settle();
    let before = (waiting(&a.engine), a.engine.digest(|_| true), inboxes.map(|inbox| read(&a.engine, inbox, id)));
    assert_eq!(firsts(&a, id).len(), 3_000 - 3_000 / 7);
    gather(&mut a);
    for _ in 0..2 {
        let blocks = firsts(&a, id).len();
        assert!(blocks < 12, "{blocks} blocks");
        assert_eq!((rows(&a, keys::BLOCK), rows(&a, keys::OUTLINE)), (blocks, blocks));
        let after = (waiting(&a.engine), a.engine.digest(|_| true), inboxes.map(|inbox| read(&a.engine, inbox, id)));
        assert!(after == before);
        assert_eq!(a.engine.cache.borrow().stored(), blocks);
        a.restart(0);
    }
    // Consumed as a whole, they leave nothing.
    (1..=3_000).for_each(|slot| a.engine.remove(Dot { segment: id, slot }));
    a.settle();
    assert_eq!((rows(&a, keys::BLOCK), rows(&a, keys::OUTLINE)), (0, 0));
    assert_eq!(a.engine.inboxes().count(), 0);
}

#[test]
fn what_may_still_grow_or_is_young_or_large_is_left_alone_and_nothing_is_gathered_twice() {
    let mut a = Replica3::new(0);
    let id = one_by_one(&mut a, &["q"], 2_000);
    let look = |a: &mut Replica3, mono_ms| {
        let now = Now { mono_ms, wall_ms: 0 };
        assert!(a.engine.gather(now, limits::REWRITE_AGE_MS, usize::MAX).is_last);
        a.settle();
        firsts(a, id).len()
    };
    assert_eq!(look(&mut a, limits::REWRITE_AGE_MS - 1), 2_000, "young");
    let full = look(&mut a, limits::REWRITE_AGE_MS);
    assert!((100..700).contains(&full), "{full} blocks: full ones, and the end of the segment");
    assert_eq!(look(&mut a, limits::REWRITE_AGE_MS), full);
    let all = look(&mut a, limits::REWRITE_AGAIN_MS);
    assert!(all < 10, "{all} blocks when it grows no more");
    assert_eq!(look(&mut a, limits::REWRITE_AGAIN_MS), all);
    let large = entry("q", &"x".repeat(limits::GATHER_BELOW_BYTES as usize));
    for _ in 0..8 {
        a.engine.publish(Unit { entries: vec![large.clone()], removals: Vec::new() }).expect("within limits");
        a.settle();
    }
    assert_eq!(look(&mut a, 2 * limits::REWRITE_AGAIN_MS), all + 8);
}

#[test]
fn a_call_reads_about_as_much_as_it_may_and_the_next_goes_on() {
    let mut a = Replica3::new(0);
    let id = one_by_one(&mut a, &["q"], 3_000);
    a.engine.close_segment();
    a.settle();
    let other = one_by_one(&mut a, &["q"], 1_500);
    let before = waiting(&a.engine);
    let mut calls = 0;
    loop {
        let looked = a.engine.gather(at_rest(), 0, limits::BLOCK_TARGET_BYTES);
        assert!(looked.read <= 2 * limits::BLOCK_TARGET_BYTES, "{looked:?}");
        a.settle();
        calls += 1;
        if looked.is_last {
            break;
        }
        assert!(calls < 100, "does not end");
    }
    let blocks = firsts(&a, id).len() + firsts(&a, other).len();
    assert!(blocks <= 18 && calls >= 5, "{blocks} blocks, {calls} calls");
    assert!(waiting(&a.engine) == before);
}

/// The store shows a commit at once, memory only when it is told that it is durable.
#[test]
fn messages_are_read_while_their_blocks_give_way() {
    for is_written in [true, false] {
        let mut a = Replica3::new(0);
        let id = one_by_one(&mut a, &["q", "r"], 300);
        let before = (waiting(&a.engine), read(&a.engine, "q", id));
        a.engine.set_cache_bytes(1);
        a.engine.gather(at_rest(), 0, usize::MAX);
        let commit = a.engine.poll_commit(Now::default()).expect("something was gathered");
        if is_written {
            a.store.commit(&[commit.batch]).expect("memory");
        }
        let dot = Dot { segment: id, slot: 200 };
        assert!((waiting(&a.engine), read(&a.engine, "q", id)) == before);
        assert!(a.engine.forget_damaged(dot).is_empty());
        let old = a.engine.block(id, 200).expect("reads").expect("is there");
        assert_eq!((old.slots().len(), old.first()), (1, 200));
        if is_written {
            a.engine.handle_committed();
            assert!(a.engine.block(id, 200).expect("reads").is_none());
        } else {
            assert_eq!(a.engine.handle_commit_failed(), []);
        }
        assert!((waiting(&a.engine), read(&a.engine, "q", id)) == before);
        a.restart(0);
        assert!((waiting(&a.engine), read(&a.engine, "q", id)) == before);
    }
}

/// What is consumed, comes, or is found damaged in the very commit that gathers.
#[test]
fn a_gathered_block_does_not_take_the_place_of_what_changes_meanwhile() {
    let mut a = Replica3::new(0);
    let id = one_by_one(&mut a, &["q"], 100);
    a.engine.gather(at_rest(), 0, usize::MAX);
    a.engine.remove(Dot { segment: id, slot: 50 });
    a.settle();
    assert_eq!(waiting(&a.engine).len(), 99);
    a.engine.gather(at_rest(), 0, usize::MAX);
    let key = keys::block(id, 60);
    let mut bytes = a.store.reader().get(&key).expect("memory").expect("is there").to_vec();
    bytes[30] ^= 1;
    a.store.commit(&[vec![Op::Put(key, bytes.into())]]).expect("memory");
    assert_eq!(a.engine.forget_damaged(Dot { segment: id, slot: 60 }), RangeSet::from_range(60, 60));
    a.settle();
    assert_eq!(waiting(&a.engine).len(), 98);
    a.restart(0);
    assert_eq!(waiting(&a.engine).len(), 98);
}

#[test]
fn a_block_that_cannot_be_read_is_left_where_it_is() {
    let mut a = Replica3::new(0);
    let id = one_by_one(&mut a, &["q"], 100);
    a.restart(0);
    let key = keys::block(id, 60);
    let bytes = a.store.reader().get(&key).expect("memory").expect("is there");
    a.store.commit(&[vec![Op::Put(key.clone(), bytes.slice(1..))]]).expect("memory");
    gather(&mut a);
    assert_eq!(firsts(&a, id).len(), 100, "they are one group");
    assert!(!a.engine.forget_damaged(Dot { segment: id, slot: 60 }).is_empty());
    a.settle();
    // Slot 60 may still come from elsewhere.
    gather(&mut a);
    assert_eq!(firsts(&a, id), [1, 61]);
    a.engine.merge_block(bytes).expect("valid");
    a.settle();
    assert_eq!((firsts(&a, id), waiting(&a.engine).len()), (vec![1, 60, 61], 100));
}

#[test]
fn replicas_that_gathered_differently_give_each_other_what_they_lack() {
    let mut a = Replica3::new(0);
    let id = one_by_one(&mut a, &["q", "r"], 90);
    let small: Vec<_> =
        (1..=90).map(|slot| a.engine.block(id, slot).expect("reads").expect("there").bytes().clone()).collect();
    let whole = waiting(&a.engine);
    gather(&mut a);
    let all = a.engine.block(id, 1).expect("reads").expect("there").bytes().clone();
    assert_eq!(firsts(&a, id), [1]);

    // Some here, the rest with the gathered one.
    let mut b = Replica3::new(1);
    for slot in [5, 6, 7, 30, 31, 32, 33] {
        b.engine.merge_block(small[slot - 1].clone()).expect("valid");
    }
    b.settle();
    gather(&mut b);
    assert_eq!(firsts(&b, id), [5, 30]);
    b.engine.merge_block(all.clone()).expect("valid");
    let news: u64 = b.settle().iter().flat_map(|report| report.arrived.values()).map(RangeSet::len).sum();
    assert_eq!((firsts(&b, id), news), (vec![1, 5, 8, 30, 34], 83));
    assert_eq!(waiting(&b.engine), whole);

    // A gathered one with holes here, and what is missing of it comes from elsewhere: small, and in the same commit.
    let part = |keep: &[Slot]| {
        let block = Block::decode(all.clone()).expect("valid");
        block.remnant(&keep.iter().copied().collect()).expect("not empty").bytes().clone()
    };
    let mut c = Replica3::new(2);
    c.engine.merge_block(part(&[1, 2, 50, 90])).expect("valid");
    c.settle();
    c.engine.merge_block(part(&[3, 50, 51])).expect("valid");
    c.engine.merge_block(small[59].clone()).expect("valid");
    c.engine.merge_block(small[60].clone()).expect("valid");
    c.settle();
    assert_eq!(firsts(&c, id), [1]);
    let slots: Vec<_> = waiting(&c.engine).into_keys().map(|dot| dot.slot).collect();
    assert_eq!(slots, [1, 2, 3, 50, 51, 60, 61, 90]);
    exchange(&b.engine, &mut c.engine);
    c.settle();
    for (replica, index) in [(&mut b, 1), (&mut c, 2)] {
        assert_eq!(waiting(&replica.engine), whole);
        assert_eq!(replica.engine.segment_digest(id), a.engine.segment_digest(id));
        replica.restart(index);
        assert_eq!(waiting(&replica.engine), whole);
    }
}

/// A frame of the log that is lost may leave blocks beside the one that they were gathered into.
#[test]
fn blocks_that_overlap_after_damage_are_parted_on_opening_and_nothing_is_lost() {
    let mut a = Replica3::new(0);
    let id = one_by_one(&mut a, &["q"], 40);
    let row = |a: &Replica3, slot| a.store.reader().get(&keys::block(id, slot)).expect("memory").expect("is there");
    let (inside, alone) = (row(&a, 7), row(&a, 9));
    let whole = waiting(&a.engine);
    gather(&mut a);
    let joined = a.engine.block(id, 1).expect("reads").expect("there");
    let without = joined.remnant(&joined.slots().difference(&RangeSet::from_range(9, 9))).expect("not empty");
    let mut batch = Batch::new();
    crate::engine::outline::put_block(&mut batch, &without, None);
    batch.push(Op::Put(keys::block(id, 7), inside));
    batch.push(Op::Put(keys::block(id, 9), alone));
    a.store.commit(&[batch]).expect("memory");
    a.restart(0);
    a.settle();
    for _ in 0..2 {
        assert_eq!((firsts(&a, id), rows(&a, keys::BLOCK)), (vec![1], 1));
        assert_eq!(waiting(&a.engine), whole);
        assert_eq!(read(&a.engine, "q", id).len(), 40);
        a.restart(0);
    }
}

/// A block with a hole that another replica fills, and four small ones behind it, of another node's segment.
fn with_a_hole() -> (Replica3, SegmentId, Bytes) {
    let mut a = Replica3::new(0);
    let entries = vec![entry("q", "1"), entry("q", "2"), entry("q", "3")];
    a.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
    a.settle();
    let id = one_by_one(&mut a, &["q"], 4);
    let whole = a.engine.block(id, 1).expect("reads").expect("there");
    let mut b = Replica3::new(1);
    let holed = whole.remnant(&RangeSet::from_range(1, 1).union(&RangeSet::from_range(3, 3))).expect("two are left");
    b.engine.merge_block(holed.bytes().clone()).expect("valid");
    for first in 4..=7 {
        let block = a.engine.block(id, first).expect("reads").expect("there");
        b.engine.merge_block(block.bytes().clone()).expect("valid");
    }
    b.settle();
    assert_eq!(firsts(&b, id), [1, 4, 5, 6, 7]);
    (b, id, whole.bytes().clone())
}

/// Gathers by what is committed, while a commit is on its way to the disk.
fn gather_during_a_commit(replica: &mut Replica3) {
    let commit = replica.engine.poll_commit(Now::default()).expect("something waits for it");
    replica.engine.gather(at_rest(), 0, usize::MAX);
    replica.store.commit(&[commit.batch]).expect("memory");
    replica.engine.handle_committed();
    replica.settle();
}

#[test]
fn what_fills_a_hole_while_its_block_is_being_gathered_stays() {
    let (mut b, id, whole) = with_a_hole();
    b.engine.merge_block(whole).expect("valid");
    gather_during_a_commit(&mut b);
    for _ in 0..2 {
        assert_eq!(b.engine.waiting_in(id), RangeSet::from_range(1, 7));
        assert_eq!(read(&b.engine, "q", id).len(), 7);
        b.restart(1);
    }
}

#[test]
fn what_is_consumed_while_its_block_is_being_gathered_is_not_written_again() {
    let (mut b, id, _) = with_a_hole();
    b.engine.remove(Dot { segment: id, slot: 5 });
    gather_during_a_commit(&mut b);
    assert_eq!(firsts(&b, id), [1, 4, 6, 7], "they are left alone for now");
    gather(&mut b);
    assert_eq!(firsts(&b, id), [1]);
    let block = b.engine.block(id, 1).expect("reads").expect("there");
    assert!(!block.slots().contains(5) && block.slots().contains(6), "{:?}", block.slots());
}
