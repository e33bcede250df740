//! Rows that must go, rows that are put right when they are read, and states that must not depend on which rows there are.

use super::*;

fn publish(replica: &mut Replica3, bodies: &[&str]) {
    let entries = bodies.iter().map(|body| entry("q", body)).collect();
    replica.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
    replica.settle();
}

/// Five messages in two blocks, of three and two.
fn five() -> (Replica3, SegmentId) {
    let mut a = Replica3::new(0);
    publish(&mut a, &["1", "2", "3"]);
    publish(&mut a, &["4", "5"]);
    let segment = a.engine.open_segment().expect("a message opened it");
    (a, segment)
}

/// A node that has folded these slots of it, and no more.
fn folded(segment: SegmentId, first: Slot, last: Slot) -> Replica3 {
    let mut b = Replica3::new(1);
    b.engine.merge_removed(segment, &RangeSet::from_range(first, last));
    b.settle();
    b.engine.fold(segment);
    b.settle();
    assert!(b.engine.is_retired(segment) && !b.engine.has_replica(segment));
    b
}

fn bytes_of(replica: &Replica3, segment: SegmentId, first: Slot) -> Bytes {
    replica.engine.block(segment, first).expect("reads").expect("is there").bytes().clone()
}

fn bodies(replica: &Replica3) -> Vec<Bytes> {
    waiting(&replica.engine).into_values().collect()
}

#[test]
fn what_was_folded_is_not_news_to_the_replica_that_turns_up_again() {
    let (a, segment) = five();
    let mut b = folded(segment, 1, 3);
    b.engine.merge_block(bytes_of(&a, segment, 4)).expect("valid");
    b.settle();
    b.engine.merge_block(bytes_of(&a, segment, 1)).expect("valid");
    b.settle();
    assert_eq!(bodies(&b), ["4", "5"], "what was consumed came back");
}

#[test]
fn what_was_folded_is_not_news_after_a_restart_that_finds_no_page_of_it() {
    let (a, segment) = five();
    let mut b = folded(segment, 2, 3);
    b.engine.merge_block(bytes_of(&a, segment, 4)).expect("valid");
    b.settle();
    b.store.commit(&[vec![Op::Delete(keys::removed(segment, 0))]]).expect("memory");
    b.restart(1);
    b.engine.merge_block(bytes_of(&a, segment, 1)).expect("valid");
    b.settle();
    assert_eq!(bodies(&b), ["1", "4", "5"], "what was consumed came back");
}

#[test]
fn what_is_heard_to_be_folded_in_the_commit_that_brings_its_bodies_does_not_wait() {
    let (a, segment) = five();
    let mut b = Replica3::new(1);
    let mut over = Retired::default();
    over.fold(segment, &RangeSet::from_range(1, 2));
    b.engine.merge_block(bytes_of(&a, segment, 1)).expect("valid");
    b.engine.merge_retired(&over);
    b.settle();
    assert_eq!(bodies(&b), ["3"]);
    let digest = b.engine.segment_digest(segment);
    b.restart(1);
    assert_eq!((bodies(&b), b.engine.segment_digest(segment)), (vec![Bytes::from("3")], digest));
}

#[test]
fn no_replica_comes_of_a_segment_that_is_heard_to_be_finished_in_the_same_commit() {
    let (a, segment) = five();
    let mut b = Replica3::new(1);
    let mut over = Retired::default();
    over.finish(segment);
    b.engine.merge_block(bytes_of(&a, segment, 1)).expect("valid");
    b.engine.merge_retired(&over);
    b.settle();
    assert!(b.engine.is_finished(segment) && !b.engine.has_replica(segment));
    assert_eq!((rows(&b, keys::BLOCK), rows(&b, keys::SEGMENT)), (0, 0));
}

#[test]
fn slots_that_were_lost_are_lost_once() {
    let (mut a, segment) = five();
    a.store.commit(&[vec![Op::Delete(keys::block(segment, 1))]]).expect("memory");
    let reopen = |a: &mut Replica3| {
        a.lives += 1;
        let (engine, report) =
            Engine::open(a.store.reader(), node(0), Epoch(a.lives), Now::default(), Planted::default()).expect("opens");
        a.engine = engine;
        a.settle();
        report.losses
    };
    assert_eq!(reopen(&mut a), [Loss { segment, slots: RangeSet::from_range(1, 3) }]);
    assert_eq!(reopen(&mut a), [], "it was written down that they are unknown");
    assert_eq!(bodies(&a), ["4", "5"]);
}

#[test]
fn pages_of_removals_go_when_all_before_is_removed_and_with_the_replica() {
    let page = limits::REMOVED_PAGE_SLOTS;
    let mut a = Replica3::new(0);
    publish(&mut a, &vec!["x"; 2 * page as usize]);
    let segment = a.engine.open_segment().expect("a message opened it");
    let remove = |a: &mut Replica3, first, last| {
        (first..=last).for_each(|slot| a.engine.remove(Dot { segment, slot }));
        a.settle();
    };
    remove(&mut a, 2, page + 10);
    assert_eq!(rows(&a, keys::REMOVED), 2, "one slot holds the prefix back");
    remove(&mut a, 1, 1);
    assert_eq!(rows(&a, keys::REMOVED), 1, "the first page is below the prefix");
    a.restart(0);
    assert_eq!(waiting(&a.engine).len(), page as usize - 10);
    // The last replica that has to go, by whatever way.
    let mut b = Replica3::new(1);
    exchange(&a.engine, &mut b.engine);
    b.settle();
    assert!(rows(&b, keys::REMOVED) > 0);
    b.engine.drop_replica(segment);
    b.settle();
    assert_eq!((rows(&b, keys::REMOVED), rows(&b, keys::BLOCK), rows(&b, keys::SEGMENT)), (0, 0, 0));
    b.restart(1);
    assert!(!b.engine.has_replica(segment), "its pages brought it back");
}

#[test]
fn a_barrier_is_the_commit_that_holds_what_is_queued_by_now() {
    let (mut a, segment) = five();
    let last = a.engine.barrier();
    a.engine.remove(Dot { segment, slot: 1 });
    assert_eq!(a.engine.barrier(), last + 1, "it waits for the next one");
    assert_eq!(a.engine.poll_commit(Now::default()).expect("queued").seq, last + 1);
    assert_eq!(a.engine.barrier(), last + 1, "all that was queued is being written");
    a.engine.remove(Dot { segment, slot: 2 });
    assert_eq!(a.engine.barrier(), last + 2, "too late for that one");
}

/// Replicas with pages and a prefix, a folded and a finished life, a set and a register.
fn everything() -> Replica3 {
    let (mut a, segment) = five();
    let over = SegmentId { node: node(2), epoch: Epoch(9), number: 1 };
    let mut retired = Retired::default();
    retired.finish(over);
    a.engine.merge_retired(&retired);
    a.engine.set("set").add([1]).expect("lawful");
    a.engine.register("register").set(b"x", Now::default()).expect("lawful");
    for slot in [1, 3] {
        a.engine.remove(Dot { segment, slot });
    }
    a.settle();
    a
}

fn small_rows(replica: &Replica3) -> BTreeMap<Bytes, Bytes> {
    let mut found = BTreeMap::new();
    for prefix in [keys::SEGMENT, keys::REMOVED, keys::REGISTRY, keys::RETIRED] {
        let (from, to) = keys::space(prefix);
        let mut visit = |key: &[u8], value: Bytes| {
            found.insert(Bytes::copy_from_slice(key), value);
            std::ops::ControlFlow::Continue(())
        };
        replica.store.reader().scan(&from, &to, &mut visit).expect("memory");
    }
    found
}

#[test]
fn a_broken_row_is_written_again_as_it_was() {
    let mut a = everything();
    let rows = small_rows(&a);
    let kinds: std::collections::BTreeSet<u8> = rows.keys().map(|key| key[0]).collect();
    assert_eq!(kinds.len(), 4, "one of each kind");
    for key in rows.keys() {
        a.store.commit(&[vec![Op::Put(key.clone(), Bytes::from_static(b"broken"))]]).expect("memory");
        assert!(a.engine.rewrite_row(key) && a.engine.has_queued());
        a.settle();
        assert!(small_rows(&a) == rows, "{key:?}");
    }
    // All at once.
    a.store.commit(&[rows.keys().map(|key| Op::Delete(key.clone())).collect()]).expect("memory");
    rows.keys().for_each(|key| assert!(a.engine.rewrite_row(key)));
    a.settle();
    assert!(small_rows(&a) == rows);
}

#[test]
fn a_row_is_not_written_again_as_it_was_when_it_changes_in_the_same_commit() {
    let mut a = everything();
    let segment = a.engine.open_segment().expect("a message opened it");
    let queue_all = |a: &mut Replica3| small_rows(a).keys().for_each(|key| assert!(a.engine.rewrite_row(key)));
    queue_all(&mut a);
    a.engine.remove(Dot { segment, slot: 4 });
    a.engine.set("set").remove([1]).expect("lawful");
    a.settle();
    let digest = a.engine.digest(|_| true);
    a.restart(0);
    assert_eq!((bodies(&a), a.engine.digest(|_| true)), (vec![Bytes::from("2"), Bytes::from("5")], digest));
    // The replica goes, and with it all its rows.
    queue_all(&mut a);
    a.engine.drop_replica(segment);
    a.settle();
    assert_eq!((rows(&a, keys::SEGMENT), rows(&a, keys::REMOVED)), (0, 0));
}

#[test]
fn of_a_row_that_memory_does_not_know_nothing_is_said_but_a_page_without_marks_goes() {
    let (mut a, segment) = five();
    let elsewhere = SegmentId { node: node(2), epoch: Epoch(9), number: 1 };
    let unknown = [
        keys::segment(elsewhere),
        keys::removed(elsewhere, 0),
        keys::retired(node(2), Epoch(9)),
        keys::registry(Key::set("?").as_bytes()),
        keys::meta("life"),
        Bytes::from_static(b"S"),
        Bytes::from_static(b"R?"),
        Bytes::new(),
    ];
    for key in &unknown {
        assert!(!a.engine.rewrite_row(key), "{key:?}");
    }
    assert!(!a.engine.has_queued());
    a.store.commit(&[vec![Op::Put(keys::removed(segment, 7), Bytes::from_static(b"broken"))]]).expect("memory");
    assert!(a.engine.rewrite_row(&keys::removed(segment, 7)));
    a.settle();
    assert_eq!(rows(&a, keys::REMOVED), 0);
}

#[test]
fn a_length_that_is_known_is_never_forgotten_by_folding() {
    let (_, segment) = five();
    let consumed = RangeSet::from_range(1, 3);
    let state = |b: &Replica3| b.engine.segment(segment).cloned();
    let closed = Some(SegmentState { known: consumed.clone(), removed: consumed.clone(), length: Some(5) });
    let mut after = folded(segment, 1, 3);
    after.engine.merge_length(segment, 5);
    after.settle();
    assert_eq!(state(&after), closed, "it comes after the fold");
    let mut before = Replica3::new(1);
    before.engine.merge_removed(segment, &consumed);
    before.engine.merge_length(segment, 5);
    before.settle();
    before.engine.fold(segment);
    before.settle();
    assert_eq!(state(&before), closed, "its own fold comes after the length");
    let mut over = Retired::default();
    over.fold(segment, &consumed);
    before.engine.merge_retired(&over);
    before.settle();
    assert_eq!(state(&before), closed, "another's fold comes after the length");
    for b in [&mut after, &mut before] {
        b.restart(1);
        assert_eq!(state(b), closed);
        b.engine.merge_removed(segment, &RangeSet::from_range(4, 5));
        b.settle();
        assert!(b.engine.is_finished(segment) && !b.engine.has_replica(segment));
    }
}

fn reopened(a: &mut Replica3) -> OpenReport {
    a.lives += 1;
    let opened = Engine::open(a.store.reader(), node(0), Epoch(a.lives), Now::default(), Planted::default());
    let (engine, report) = opened.expect("opens");
    a.engine = engine;
    report
}

#[test]
fn of_a_page_of_removals_that_does_not_read_nothing_is_told_as_lost() {
    let mut a = Replica3::new(0);
    (0..10).for_each(|_| publish(&mut a, &["x"]));
    publish(&mut a, &vec!["x"; limits::REMOVED_PAGE_SLOTS as usize]);
    publish(&mut a, &["lost"]);
    let segment = a.engine.open_segment().expect("a message opened it");
    let last = a.engine.segment(segment).and_then(|state| state.known.last()).expect("messages");
    [2, 4, 6].into_iter().for_each(|slot| a.engine.remove(Dot { segment, slot }));
    a.settle();
    let broken = Op::Put(keys::removed(segment, 0), Bytes::from_static(&[keys::VERSION, 0xff, 0xff]));
    a.store.commit(&[vec![broken, Op::Delete(keys::block(segment, last))]]).expect("memory");
    let report = reopened(&mut a);
    assert_eq!(report.damaged_rows.len(), 1);
    assert_eq!(report.losses, [Loss { segment, slots: RangeSet::from_range(last, last) }]);
    let state = a.engine.state_of(segment);
    assert!([2, 4, 6].iter().all(|slot| !state.known.contains(*slot)), "nobody knows: to be asked for");
    a.settle();
    assert_eq!(reopened(&mut a).losses, []);
}

#[test]
fn a_block_of_which_nothing_waits_goes_when_the_store_is_opened() {
    let (mut a, segment) = five();
    let consumed = bytes_of(&a, segment, 4);
    [4, 5].into_iter().for_each(|slot| a.engine.remove(Dot { segment, slot }));
    a.settle();
    assert_eq!(rows(&a, keys::BLOCK), 1);
    a.store.commit(&[vec![Op::Put(keys::block(segment, 4), consumed)]]).expect("memory");
    assert_eq!(reopened(&mut a).losses, []);
    // Nor does a full disk keep it.
    a.engine.poll_commit(Now::default()).expect("it is to go");
    a.engine.handle_commit_failed();
    a.settle();
    assert_eq!((rows(&a, keys::BLOCK), bodies(&a).len()), (1, 3));
}

#[test]
fn what_waits_here_and_there_is_read_in_order() {
    let mut a = crate::Local::in_memory(node(0)).expect("memory");
    for number in 0..60_000 {
        if number == 30_000 {
            a.engine_mut().close_segment();
        }
        a.publish("q", "x").expect("lawful");
        if number % 10_000 == 9_999 {
            a.commit().expect("memory");
        }
    }
    let dots: Vec<_> = a.waiting("q").map(|waits| waits.expect("reads").0).collect();
    assert_eq!(dots.len(), 60_000);
    dots.iter().step_by(2).for_each(|dot| a.consume(*dot));
    a.commit().expect("memory");
    let left: Vec<_> = a.waiting("q").map(|waits| waits.expect("reads").0).collect();
    assert!(left.iter().eq(dots.iter().skip(1).step_by(2)));
    assert!(left.iter().map(|dot| dot.segment).collect::<BTreeSet<_>>().len() > 1);
}
