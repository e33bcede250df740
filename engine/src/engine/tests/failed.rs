//! What a write that failed leaves behind: nothing of it shows, and what must happen all the same is tried again.

use super::*;

/// The next commit is gathered, and refused by the disk.
fn refuse(replica: &mut Replica3) {
    assert!(replica.engine.poll_commit(Now::default()).is_some(), "something was queued");
    replica.engine.handle_commit_failed();
}

fn with_one_message() -> (Replica3, Dot) {
    let mut a = Replica3::new(0);
    a.engine.publish(Unit { entries: vec![entry("q", "1")], removals: Vec::new() }).expect("within limits");
    a.settle();
    let dot = *waiting(&a.engine).keys().next().expect("one message");
    (a, dot)
}

#[test]
fn slots_of_a_refused_commit_are_given_up_and_hold_no_segment_open() {
    let (mut a, first) = with_one_message();
    a.engine.publish(Unit { entries: vec![entry("q", "refused")], removals: Vec::new() }).expect("within limits");
    refuse(&mut a);
    a.settle();
    assert!(a.engine.is_removed(Dot { slot: 2, ..first }), "nobody will ever fill it");
    a.engine.publish(Unit { entries: vec![entry("q", "3")], removals: Vec::new() }).expect("within limits");
    a.settle();
    assert_eq!(waiting(&a.engine).into_keys().map(|dot| dot.slot).collect::<Vec<_>>(), [1, 3]);
    a.engine.close_segment();
    [1, 3].into_iter().for_each(|slot| a.engine.remove(Dot { slot, ..first }));
    a.settle();
    assert!(a.engine.is_finished(first.segment), "the gap keeps it for ever");
}

#[test]
fn the_length_of_a_segment_closed_in_a_refused_commit_is_stated_with_the_next() {
    let (mut a, dot) = with_one_message();
    a.engine.close_segment();
    refuse(&mut a);
    a.engine.remove(dot);
    a.settle();
    assert!(a.engine.is_finished(dot.segment), "nobody else could state it");
}

#[test]
fn a_replica_given_up_in_a_refused_commit_goes_with_the_next() {
    let (a, dot) = with_one_message();
    let mut b = Replica3::new(1);
    exchange(&a.engine, &mut b.engine);
    b.settle();
    b.engine.drop_replica(dot.segment);
    refuse(&mut b);
    assert!(b.engine.has_replica(dot.segment));
    b.settle();
    assert!(!b.engine.has_replica(dot.segment));
}

#[test]
fn a_key_forgotten_in_a_refused_commit_goes_with_the_next() {
    let mut a = Replica3::new(0);
    let key = Key::set("x");
    a.engine.set_add(key.clone(), vec![1]).expect("within limits");
    a.settle();
    a.engine.unregister(key.clone());
    refuse(&mut a);
    assert!(a.engine.registry().get(&key).is_some());
    a.settle();
    assert!(a.engine.registry().get(&key).is_none());
    a.restart(0);
    assert!(a.engine.registry().get(&key).is_none(), "nor is it on disk");
}
