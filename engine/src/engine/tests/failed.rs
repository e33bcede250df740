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

/// What a full disk takes: no block, and little.
fn is_small(batch: &crate::Batch) -> bool {
    let is_body = |op: &crate::Op| matches!(op, crate::Op::Put(key, _) if key[0] == keys::BLOCK);
    !batch.iter().any(is_body)
}

/// One commit on a full disk: what was refused, or what happened.
fn on_a_full_disk(a: &mut Replica3) -> Result<Committed, Vec<Ticket>> {
    let commit = a.engine.poll_commit(Now::default()).expect("something waits");
    if !is_small(&commit.batch) {
        return Err(a.engine.handle_commit_failed());
    }
    a.store.commit(&[commit.batch]).expect("memory");
    Ok(a.engine.handle_committed())
}

#[test]
fn consumption_goes_on_while_others_try_to_publish_on_a_full_disk() {
    let mut a = Replica3::new(0);
    let entries = (0..20).map(|number| entry("q", &number.to_string())).collect();
    a.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
    a.settle();
    let dots: Vec<_> = waiting(&a.engine).into_keys().collect();
    let other = foreign_block();
    // Who is refused tries again, at once, and a peer sends its body again.
    let try_again = |a: &mut Replica3| {
        a.engine.publish(Unit { entries: vec![entry("q", "more")], removals: Vec::new() }).expect("within limits");
        a.engine.merge_block(other.clone()).expect("valid");
    };
    try_again(&mut a);
    let mut refused = 0;
    for (round, dot) in dots.iter().enumerate() {
        // Some consume by name, and some want to be told.
        if round % 2 == 0 {
            a.engine.remove(*dot);
        } else {
            a.engine.publish(Unit { entries: Vec::new(), removals: vec![*dot] }).expect("within limits");
        }
        a.engine.set_add(Key::set("s"), vec![round as u8]).expect("within limits");
        for _ in 0..3 {
            if let Err(tickets) = on_a_full_disk(&mut a) {
                refused += tickets.len();
                try_again(&mut a);
            }
        }
        let waiting = waiting(&a.engine);
        assert!(dots[..round].iter().all(|dot| !waiting.contains_key(dot)), "round {round}: nothing is consumed");
        let written = a.engine.registry().get(&Key::set("s")).map_or(0, |set| set.members().len());
        assert!(written + 2 > round, "round {round}: nor is anything else written");
    }
    assert!(refused >= dots.len(), "{refused}");
    while a.engine.has_queued() {
        let _ = on_a_full_disk(&mut a);
    }
    assert!(waiting(&a.engine).is_empty());
    assert!(a.engine.registry().get(&Key::set("s")).is_some_and(|set| set.members().len() == dots.len()));
    // There is room again.
    a.engine.publish(Unit { entries: vec![entry("q", "later")], removals: Vec::new() }).expect("within limits");
    a.settle();
    assert_eq!(waiting(&a.engine).into_values().collect::<Vec<_>>(), ["later"]);
    a.restart(0);
    assert_eq!(waiting(&a.engine).into_values().collect::<Vec<_>>(), ["later"]);
}

/// A block of another node's.
fn foreign_block() -> Bytes {
    let mut b = Replica3::new(1);
    b.engine.publish(Unit { entries: vec![entry("q", "theirs")], removals: Vec::new() }).expect("within limits");
    b.settle();
    let segment = b.engine.open_segment().expect("a message opened it");
    b.engine.block(segment, 1).expect("reads").expect("is there").bytes().clone()
}

#[test]
fn who_publishes_has_a_turn_however_much_is_consumed() {
    let mut a = Replica3::new(0);
    let entries = (0..500).map(|number| entry("q", &number.to_string())).collect();
    a.engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
    a.settle();
    let mut dots = waiting(&a.engine).into_keys();
    a.engine.publish(Unit { entries: vec![entry("q", "refused")], removals: Vec::new() }).expect("within limits");
    assert_eq!(on_a_full_disk(&mut a).map(|_| ()).map_err(|refused| refused.len()), Err(1));
    // There is room by now, and somebody consumes all the time.
    let ticket =
        a.engine.publish(Unit { entries: vec![entry("q", "now")], removals: Vec::new() }).expect("within limits");
    let commits = dots.by_ref().take(100).position(|dot| {
        a.engine.remove(dot);
        let commit = a.engine.poll_commit(Now::default()).expect("something waits");
        a.store.commit(&[commit.batch]).expect("memory");
        a.engine.handle_committed().units.iter().any(|(done, _)| *done == ticket)
    });
    assert!(commits.is_some_and(|commits| commits < 5), "{commits:?}");
}

#[test]
fn what_is_consumed_goes_in_small_commits_after_a_refusal_however_scattered_it_is() {
    let mut a = Replica3::new(0);
    let pages = 2 * limits::REFUSED_PAGES as u32 + 3;
    let id = SegmentId { node: node(1), epoch: Epoch(9), number: 1 };
    let others = [2, 3].map(|number| SegmentId { number, ..id });
    for id in [id].into_iter().chain(others) {
        let slots: RangeSet = (0..pages).map(|page| page * limits::REMOVED_PAGE_SLOTS + 2).collect();
        a.engine.merge_removed(id, &slots);
    }
    let unit = |id, count: u32| {
        let removals =
            (0..count).map(|page| Dot { segment: id, slot: page * limits::REMOVED_PAGE_SLOTS + 4 }).collect();
        Unit { entries: Vec::new(), removals }
    };
    let large = a.engine.publish(unit(id, limits::REFUSED_PAGES as u32 + 5)).expect("within limits");
    let small = a.engine.publish(unit(id, 3)).expect("within limits");
    // What no replica can have does no harm.
    a.engine.remove(Dot { segment: id, slot: 0 });
    a.engine.remove(Dot { segment: id, slot: u32::MAX });
    refuse(&mut a);
    let mut told = Vec::new();
    while let Some(commit) = a.engine.poll_commit(Now::default()) {
        let is_page = |op: &&crate::Op| matches!(op, crate::Op::Put(key, _) if key[0] == keys::REMOVED);
        let touched = commit.batch.iter().filter(is_page).count();
        a.store.commit(&[commit.batch]).expect("memory");
        let done = a.engine.handle_committed();
        let is_large = done.units.iter().any(|(ticket, _)| *ticket == large);
        let most = limits::REFUSED_PAGES + if is_large { 5 } else { 0 };
        assert!(touched <= most, "{touched} pages in one commit");
        told.extend(done.units.into_iter().map(|(ticket, _)| ticket));
    }
    assert_eq!(told, [large, small]);
    for id in others {
        assert_eq!(a.engine.removed_slots(id).len(), u64::from(pages));
    }
    assert!(!a.engine.has_queued());
}

#[test]
fn the_present_life_that_a_refused_commit_was_to_write_down_is_written_with_the_next() {
    let mut a = Replica3::new(0);
    a.engine.publish(Unit { entries: vec![entry("q", "refused")], removals: Vec::new() }).expect("within limits");
    a.engine.begin_segment(Now::default());
    refuse(&mut a);
    a.engine.publish(Unit { entries: vec![entry("q", "1")], removals: Vec::new() }).expect("within limits");
    a.settle();
    assert!(a.store.reader().get(&keys::meta("life")).expect("memory").is_some());
}

#[test]
fn a_row_that_was_to_be_written_again_and_a_fold_go_with_the_next_commit() {
    let (mut a, dot) = with_one_message();
    let key = keys::segment(dot.segment);
    a.store.commit(&[vec![Op::Put(key.clone(), Bytes::from_static(b"broken"))]]).expect("memory");
    let other = SegmentId { node: node(2), ..dot.segment };
    a.engine.merge_removed(other, &RangeSet::from_range(1, 3));
    a.settle();
    assert!(a.engine.rewrite_row(&key));
    a.engine.fold(other);
    refuse(&mut a);
    a.settle();
    assert!(keys::decode::<keys::SegmentRow>(&a.store.reader().get(&key).expect("memory").expect("is there")).is_ok());
    assert!(a.engine.is_retired(other) && !a.engine.has_replica(other));
}
