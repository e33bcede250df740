//! What is consumed gives its space back, and what short lives leave behind goes: by itself, bit by bit, and nothing else.

use super::*;
use crate::{
    Dot, Entry, NodeId, SegmentState, Unit,
    store::{DiskOptions, DiskStore, MemoryStore},
};

const BODY: usize = 1_000;

pub(super) fn node() -> NodeId {
    NodeId::from_name("a")
}

/// Files small enough that some megabytes are many of them.
pub(super) fn on_disk(dir: &std::path::Path) -> Local<DiskStore> {
    let options = DiskOptions { roll_at: 256 << 10, checkpoint_bytes: 256 << 10, reserve: 0, ..DiskOptions::default() };
    let (mut local, found) = Local::open_dir_with(dir, node(), options).expect("opens");
    assert!(found.damages.is_empty() && local.found().losses.is_empty());
    local.upkeep.much_freed = 256 << 10;
    local
}

pub(super) fn publish<S: Store>(local: &mut Local<S>, numbers: std::ops::Range<u32>) {
    for number in numbers {
        local.publish("q", [&number.to_be_bytes()[..], &[0; BODY]].concat()).expect("lawful");
        if number % 256 == 255 {
            local.commit().expect("there is room");
        }
    }
    local.commit().expect("there is room");
}

pub(super) fn dots<S: Store>(local: &Local<S>) -> Vec<Dot> {
    local.waiting("q").map(|waits| waits.expect("reads").0).collect()
}

/// All but one of 64.
fn most<S: Store>(local: &Local<S>) -> Vec<Dot> {
    dots(local).into_iter().enumerate().filter(|(place, _)| place % 64 > 0).map(|(_, dot)| dot).collect()
}

pub(super) fn numbers<S: Store>(local: &Local<S>) -> Vec<u32> {
    let bodies = local.waiting("q").map(|waits| waits.expect("reads").1.body);
    bodies.map(|body| u32::from_be_bytes(body[..4].try_into().expect("four"))).collect()
}

/// Bytes of the blocks in the store.
pub(super) fn stored<S: Store>(local: &Local<S>) -> usize {
    let reader = local.store.reader();
    let of = |id| {
        let known = &local.engine.segment(id).expect("is here").known;
        local.engine.blocks_with(id, known).into_iter().map(move |first| crate::keys::block(id, first))
    };
    local.engine.segments().flat_map(of).map(|key| reader.get(&key).expect("reads").expect("is here").len()).sum()
}

fn bytes_in(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("is there").map(|entry| entry.expect("reads"));
    let size = |entry: std::fs::DirEntry| match entry.metadata().expect("reads") {
        metadata if metadata.is_dir() => bytes_in(&entry.path()),
        metadata => metadata.len(),
    };
    entries.map(size).sum()
}

#[test]
fn a_directory_of_which_most_is_consumed_shrinks_with_the_commits_that_consume_it() {
    // In one commit, and in many.
    for at_once in [usize::MAX, 300] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut a = on_disk(dir.path());
        publish(&mut a, 0..8_000);
        let before = bytes_in(dir.path());
        assert!(before > 8_000_000, "{before} bytes");
        for some in most(&a).chunks(at_once) {
            some.iter().for_each(|dot| a.consume(*dot));
            a.commit().expect("there is room");
        }
        let after = bytes_in(dir.path());
        assert!(after < 1_500_000, "{after} bytes for 125 messages of 1 kB; {at_once} at once");
        drop(a);
        let a = on_disk(dir.path());
        assert_eq!(numbers(&a), (0..8_000).step_by(64).collect::<Vec<_>>());
    }
}

#[test]
fn a_directory_shrinks_at_once_when_it_is_told_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut a = on_disk(dir.path());
    publish(&mut a, 0..8_000);
    most(&a).into_iter().for_each(|dot| a.consume(dot));
    a.write().expect("there is room");
    // The search stands in the middle: what is before that counts, too.
    a.engine.look(Now::default(), u64::MAX, 60, usize::MAX);
    let before = bytes_in(dir.path());
    a.compact().expect("there is room");
    let after = bytes_in(dir.path());
    assert!(before > 8_000_000 && after < 1_000_000 && stored(&a) < 200_000, "{before} to {after}");
    assert_eq!(a.waiting("q").count(), 125);
}

#[test]
fn lives_that_consume_a_little_and_die_give_back_what_they_consumed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut a = on_disk(dir.path());
    publish(&mut a, 0..4_000);
    let most = most(&a);
    drop(a);
    for some in most.chunks(200) {
        let mut a = on_disk(dir.path());
        some.iter().for_each(|dot| a.consume(*dot));
        a.commit().expect("there is room");
    }
    // The last one's work is seen by the next.
    drop(on_disk(dir.path()));
    let mut a = on_disk(dir.path());
    let (after, left) = (bytes_in(dir.path()), stored(&a));
    assert!(after < 1_500_000 && left < 150_000, "{after} bytes, {left} of blocks, for 63 messages of 1 kB");
    assert_eq!(a.waiting("q").count(), 63);
    a.commit().expect("there is room");
}

#[test]
fn opening_reads_a_bounded_amount_and_the_commits_after_it_go_on() {
    let mut a = Local::in_memory(node()).expect("memory");
    publish(&mut a, 0..30_000);
    most(&a).into_iter().for_each(|dot| a.consume(dot));
    a.write().expect("memory");
    let before = stored(&a);
    let mut a = Local::open(a.store, node()).expect("memory");
    let first = before - stored(&a);
    let (least, most) = (limits::COMMIT_BYTES / 2, limits::COMMIT_BYTES + 2 * limits::BLOCK_TARGET_BYTES);
    assert!((least..=most).contains(&first), "{first} bytes given back on opening, of {before}");
    let mut commits = 0;
    while stored(&a) > 700_000 {
        let left = stored(&a);
        a.publish("other", "x").expect("lawful");
        a.commit().expect("memory");
        assert!(left - stored(&a) <= most, "one commit gave back {} bytes", left - stored(&a));
        commits += 1;
        assert!(commits < 10, "{} bytes are left", stored(&a));
    }
    assert!(commits > 1);
    assert_eq!(numbers(&a), (0..30_000).step_by(64).collect::<Vec<_>>());
}

#[test]
fn a_commit_looks_at_as_many_blocks_as_it_consumes_messages_in_steps() {
    let mut a = Local::in_memory(node()).expect("memory");
    publish(&mut a, 0..256 * 64);
    let blocks = a.engine.block_count();
    assert!(blocks >= 256 && a.upkeep.due == 0, "{blocks} blocks");
    let all = dots(&a);
    for dot in &all[..limits::REWRITE_LOOKS - 1] {
        a.consume(*dot);
        a.commit().expect("memory");
    }
    assert_eq!((a.upkeep.consumed, a.upkeep.due), (limits::REWRITE_LOOKS as u64 - 1, 0), "too little for a step");
    a.consume(all[limits::REWRITE_LOOKS]);
    a.commit().expect("memory");
    assert_eq!((a.upkeep.consumed, a.upkeep.due), (0, 0), "a step");
    // In the order of publishing hardly any block is written twice.
    let before = a.engine.block_count();
    assert!(before < blocks);
    let mut rewritten = 0;
    for dot in &all[limits::REWRITE_LOOKS..] {
        let (count, bytes) = (a.engine.block_count(), stored_of(&a, *dot));
        a.consume(*dot);
        a.commit().expect("memory");
        rewritten += usize::from(count == a.engine.block_count() && stored_of(&a, *dot) != bytes);
    }
    assert!(rewritten < blocks / 4, "{rewritten} of {blocks} blocks were rewritten");
}

/// Bytes of the block that a slot is in, or was.
fn stored_of<S: Store>(local: &Local<S>, dot: Dot) -> Option<usize> {
    let slot = local.engine.waiting_in(dot.segment).next_at_or_after(dot.slot)?;
    let first = local.engine.blocks_with(dot.segment, &RangeSet::from_range(slot, slot)).first().copied()?;
    Some(local.engine.block(dot.segment, first).expect("reads")?.bytes().len())
}

#[test]
fn a_block_whose_last_message_is_most_of_it_is_not_read_again_and_again() {
    let mut a = Local::in_memory(node()).expect("memory");
    let entries = (0..20).map(|n| Entry::new("q", vec![n; if n == 3 { 1 << 20 } else { 10 }])).collect();
    a.engine.publish(Unit { entries, removals: Vec::new() }).expect("lawful");
    a.commit().expect("memory");
    dots(&a).into_iter().filter(|dot| dot.slot != 4).for_each(|dot| a.consume(dot));
    a.write().expect("memory");
    let look = |a: &mut Local<MemoryStore>, mono_ms| a.engine.look(Now { mono_ms, wall_ms: 0 }, 0, 10, usize::MAX).read;
    assert!(look(&mut a, 1_000_000) > 1 << 20);
    assert_eq!(look(&mut a, 1_000_000), 0);
    assert_eq!(look(&mut a, 1_000_000 + limits::REWRITE_AGAIN_MS - 1), 0);
    assert!(look(&mut a, 1_000_000 + limits::REWRITE_AGAIN_MS) > 1 << 20);
}

#[test]
fn lives_that_end_without_a_word_leave_nothing_but_what_waits() {
    let mut store = MemoryStore::new();
    for life in 0..200 {
        let mut a = Local::open(store, node()).expect("memory");
        a.publish("q", format!("{life}")).expect("lawful");
        a.commit().expect("memory");
        let epoch = a.engine.epoch();
        let dots: Vec<_> = dots(&a);
        // The first one's message is left alone; the others' are consumed by themselves, or by the next.
        let gone = |dot: &&Dot| life > 0 && (life % 2 == 0 || dot.segment.epoch != epoch) && **dot != dots[0];
        dots.iter().filter(gone).for_each(|dot| a.consume(*dot));
        a.commit().expect("memory");
        let open = a.engine.segments().filter(|id| id.epoch == epoch).count();
        assert!(a.engine.segments().count() - open <= 2, "life {life}: {} replicas", a.engine.segments().count());
        store = a.store;
    }
    let a = Local::open(store, node()).expect("memory");
    assert_eq!((a.engine.segments().count(), a.waiting("q").count()), (2, 2));
    assert_eq!(a.engine.retired().lives().count(), 198);
}

/// A replica on a copy of the store, as from a backup.
fn copy_of(local: &Local<MemoryStore>) -> MemoryStore {
    MemoryStore::from(local.store.snapshot())
}

#[test]
fn what_was_folded_from_an_old_copy_costs_nobody_a_message_and_brings_none_back() {
    let mut a = Local::in_memory(node()).expect("memory");
    let mut b = Local::in_memory(NodeId::from_name("b")).expect("memory");
    publish(&mut a, 0..4);
    let segment = dots(&a)[0].segment;
    let old = copy_of(&a);
    publish(&mut a, 4..8);
    b.pull_from(&a).expect("valid");
    drop(a);

    // The old copy knows of four messages, consumes them, and folds.
    let mut a = Local::open(old, node()).expect("memory");
    dots(&a).into_iter().for_each(|dot| a.consume(dot));
    a.commit().expect("memory");
    assert!(a.engine.segment(segment).is_none() && a.engine.retired().folded(segment).is_some());
    // The other one's segments are no business of ours, whatever is consumed of them.
    publish(&mut b, 100..102);
    a.pull_from(&b).expect("valid");
    let theirs: Vec<_> = dots(&a).into_iter().filter(|dot| dot.segment.node != node()).collect();
    theirs.iter().for_each(|dot| a.consume(*dot));
    a.commit().expect("memory");
    assert!(a.engine.segment(theirs[0].segment).is_some());

    // What b had of the segment besides is not lost, and what was consumed does not come back, at either.
    assert_eq!(numbers(&a), [4, 5, 6, 7]);
    b.pull_from(&a).expect("valid");
    assert_eq!(numbers(&b), [4, 5, 6, 7]);
    assert_eq!(a.engine.digest(|_| true), b.engine.digest(|_| true));
    // It is folded again once that is consumed, wherever it was, and so it is everywhere.
    dots(&b).into_iter().for_each(|dot| b.consume(dot));
    b.commit().expect("memory");
    a.pull_from(&b).expect("valid");
    assert!(a.engine.segment(segment).is_none());
    b.pull_from(&a).expect("valid");
    assert!(b.engine.segment(segment).is_none());
    let all = RangeSet::from_range(1, 8);
    let consumed = SegmentState { known: all.clone(), removed: all, length: None };
    assert_eq!((a.engine.state_of(segment), b.engine.state_of(segment)), (consumed.clone(), consumed));
    assert_eq!(a.engine.digest(|_| true), b.engine.digest(|_| true));
    // No packet from before undoes it.
    let mut older = Local::in_memory(NodeId::from_name("c")).expect("memory");
    older.pull_from(&a).expect("valid");
    assert!(older.waiting("q").next().is_none());
}

#[test]
fn upkeep_that_finds_no_room_fails_no_commit_and_a_broken_disk_is_told_of() {
    let consumed = || {
        let mut a = Local::in_memory(node()).expect("memory");
        publish(&mut a, 0..1_000);
        most(&a).into_iter().for_each(|dot| a.consume(dot));
        let done = a.write().expect("memory");
        (a, done)
    };
    let (mut a, mut done) = consumed();
    let before = stored(&a);
    a.store.fail_next(StoreError::Full { context: "told to".to_owned() });
    a.look_after(&mut done).expect("it is no failure of what was committed");
    a.compact().expect("there is room again");
    assert!(stored(&a) < before / 10 && a.waiting("q").count() == 16);

    let (mut a, mut done) = consumed();
    a.store.fail_next(StoreError::Io { context: "told to".to_owned(), source: std::io::Error::other("broken") });
    let told = a.look_after(&mut done);
    assert!(matches!(told, Err(LocalError::Engine(_))), "it happened, so it is not lost: {told:?}");
}
