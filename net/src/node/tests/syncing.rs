//! What is sent, what is waited for and what is remembered, when disks are slow or full and peers come and go.

use super::*;

#[test]
fn no_second_chunk_is_pulled_before_the_first_is_on_disk() {
    let mut world = three();
    world.publish(1, "x");
    world.run(500);
    let disk = world.kill(3);
    let body = "y".repeat(60_000);
    (0..40).for_each(|_| world.publish(1, &body));
    world.start(3, disk);
    world.drain();
    world.freeze(3);
    world.join(3);
    world.run(4_000);
    let pull = |message: &Wire| matches!(message, Wire::Control(Control::Pull { .. })).then_some(());
    assert_eq!(world.told(3, 1, pull).len(), 1, "it would bring the same once more");
    world.thaw(3);
    world.run(4_000);
    assert_eq!(world.waiting(3).len(), 41);
}

#[test]
fn a_block_that_met_a_full_disk_is_sent_again_to_whoever_asks() {
    let mut world = World::new(2);
    for index in [1, 2] {
        world.start(index, MemoryStore::new());
        world.join(index);
        world.run(1_000);
    }
    world.publish(1, "x");
    world.run(500);
    world.freeze(2);
    world.publish(1, "y");
    world.refuse(2);
    world.thaw(2);
    world.run(3_000);
    assert_eq!(world.waiting(2).len(), 1, "the second is taken to be on its way");
    world.run(5_000);
    assert_eq!(world.waiting(2).len(), 2);
}

#[test]
fn a_peer_that_is_gone_is_not_waited_for() {
    let mut world = three();
    [2, 3].into_iter().for_each(|index| world.freeze(index));
    world.publish(1, "x");
    world.kill(2);
    world.drain();
    assert!(world.copies_confirmed(1).is_empty(), "one holder is still writing");
    world.kill(3);
    world.drain();
    assert_eq!(world.copies_confirmed(1), [1]);
}

/// A disk was full, and nothing is sent to its node that could be stored there. Peers hear from it all the same.
#[test]
fn a_node_with_a_full_disk_hopes_anew_after_a_while() {
    let mut world = World::new(2);
    for index in 1..=3 {
        world.start(index, MemoryStore::new());
        world.join(index);
        world.run(1_000);
    }
    world.publish(1, "x");
    world.run(500);
    let segment = world.waiting(1)[0].0.segment;
    let holder = world.host(1).node.candidates(segment)[1];
    let idle = 5 - holder.0[0];
    world.freeze(idle);
    world.name_holder(1, segment, NodeId([9; 16]));
    world.refuse(idle);
    world.thaw(idle);
    let keeps_up = |world: &mut World| world.host(1).node.keeps_up(NodeId([idle; 16]));
    world.run(2_500);
    assert!(!keeps_up(&mut world), "too early");
    world.run(1_500);
    assert!(keeps_up(&mut world));
}

/// All that waits of a node is consumed, and its segment closed.
fn finish(world: &mut World, index: u8) -> SegmentId {
    let dots: Vec<Dot> = world.waiting(index).into_iter().map(|(dot, _)| dot).collect();
    dots.iter().for_each(|dot| world.consume(index, *dot));
    let now = world.now;
    world.host(index).node.close(now);
    world.drain();
    let segment = dots.first().expect("something waited").segment;
    assert!(world.host(index).node.engine().is_finished(segment));
    segment
}

#[test]
fn who_had_stored_what_is_forgotten_with_the_segment_also_if_an_answer_comes_late() {
    let mut world = three();
    world.freeze(3);
    world.publish(1, "x");
    world.run(500);
    let (dot, _) = world.waiting(1)[0].clone();
    let noted = |world: &mut World, peer| world.host(1).node.confirms.has(NodeId([peer; 16]), dot.segment).cloned();
    assert!(noted(&mut world, 2).is_some() && noted(&mut world, 3).is_none());
    finish(&mut world, 1);
    assert_eq!(noted(&mut world, 2), None);
    world.thaw(3);
    world.run(3_000);
    assert!(world.host(3).node.engine().is_finished(dot.segment));
    assert_eq!(noted(&mut world, 3), None, "its disk was slow");
}

/// A peer that has not heard of it yet comes with a key that was forgotten: nothing is written.
fn assert_refused(world: &mut World, key: &rhizomq_engine::Key, value: rhizomq_engine::Value) {
    world.freeze(1);
    for message in crate::registry_sync::push(vec![(key.clone(), value)]) {
        tell(world, 2, 1, wire::control(&Control::Registry(message)));
    }
    assert!(world.host(1).node.is_quiet());
    world.thaw(1);
    assert!(world.host(1).node.engine().registry().get(key).is_none());
}

#[test]
fn holders_of_what_is_over_are_not_learned_again_from_a_peer() {
    let mut world = three();
    world.publish(1, "x");
    world.run(500);
    let key = placement::holders_key(world.waiting(1)[0].0.segment);
    let value = world.host(2).node.engine().registry().get(&key).expect("listed").clone();
    finish(&mut world, 1);
    world.run(3_000);
    assert_refused(&mut world, &key, value);
}

#[test]
fn the_record_of_a_forgotten_node_is_not_learned_again_from_a_peer() {
    let mut world = three();
    let gone = NodeId([3; 16]);
    let key = roster::record_key(gone);
    let value = world.host(2).node.engine().registry().get(&key).expect("enrolled").clone();
    world.kill(3);
    world.run(5_000);
    let now = world.now;
    world.host(1).node.forget(now, gone).expect("it is known, and dead");
    world.run(3_000);
    assert_refused(&mut world, &key, value);
}

#[test]
fn who_gets_the_end_of_a_segment_with_its_last_block_is_not_taken_to_be_behind() {
    let mut world = three();
    world.publish(1, "x");
    world.run(500);
    world.freeze(3);
    world.publish(1, "y");
    world.publish(1, "z");
    finish(&mut world, 1);
    world.run(3_000);
    world.thaw(3);
    world.run(500);
    assert!(world.waiting(3).is_empty());
    world.run(12_000);
    assert!(world.host(1).node.keeps_up(NodeId([3; 16])), "it was never told that the block is not needed any more");
}

#[test]
fn who_knows_of_the_end_of_a_segment_before_its_last_block_is_not_taken_to_be_behind() {
    let mut world = three();
    world.publish(1, "x");
    world.run(500);
    let segment = world.waiting(1)[0].0.segment;
    let mut over = rhizomq_engine::Retired::default();
    over.finish(segment);
    tell(&mut world, 2, 3, wire::control(&Control::Retired(over)));
    world.publish(1, "y");
    world.run(12_000);
    assert!(world.host(1).node.keeps_up(NodeId([3; 16])));
}

#[test]
fn what_is_consumed_in_the_commit_that_ends_its_segment_is_confirmed() {
    let mut world = three();
    [2, 3].into_iter().for_each(|index| world.freeze(index));
    world.publish(1, "x");
    world.publish(1, "y");
    assert!(world.copies_confirmed(1).is_empty());
    world.freeze(1);
    for (dot, _) in world.waiting(1) {
        world.consume(1, dot);
    }
    let now = world.now;
    world.host(1).node.close(now);
    world.drain();
    world.thaw(1);
    assert!(world.host(1).node.engine().segments().next().is_none(), "it is finished");
    assert_eq!(world.copies_confirmed(1), [1, 1]);
}

/// Summaries of the long and of the short kind that one node sent another since then.
fn summaries(world: &World, since: usize, from: u8, to: u8) -> (usize, usize) {
    let sent = world.sent[since..].iter().filter(|(here, there, _)| (*here, *there) == (from, to));
    let (mut long, mut short) = (0, 0);
    for (.., message) in sent {
        match message {
            Wire::Control(Control::Summary { .. }) => long += 1,
            Wire::Control(Control::InStep(_)) => short += 1,
            _ => {}
        }
    }
    (long, short)
}

#[test]
fn nodes_in_step_tell_each_other_one_digest_until_one_of_them_finds_that_it_differs() {
    let mut world = three();
    (0..3).for_each(|n| world.publish(1, &n.to_string()));
    world.run(5_000);
    let since = world.sent.len();
    world.run(3_500);
    for (from, to) in [(1, 2), (2, 1), (3, 1)] {
        let (long, short) = summaries(&world, since, from, to);
        assert!(long == 0 && short >= 2, "{from} to {to}: {long} summaries, {short} digests");
    }
    let since = world.sent.len();
    tell(&mut world, 2, 1, wire::control(&Control::InStep([0; 32])));
    world.run(20);
    assert_eq!(summaries(&world, since, 1, 2).0, 1, "at once, so that node 2 sees where the two differ");
    world.run(5_000);
    let since = world.sent.len();
    world.run(2_500);
    assert_eq!(summaries(&world, since, 1, 2).0, 0, "they are in step again");
}

#[test]
fn the_one_digest_is_of_all_that_both_are_to_hold_and_of_nothing_else() {
    let mut world = World::new(2);
    for index in 1..=3 {
        world.start(index, MemoryStore::new());
        world.join(index);
        world.run(1_000);
    }
    world.publish(1, "x");
    world.run(5_000);
    let (dot, _) = world.waiting(1)[0].clone();
    let holder = world.host(1).node.candidates(dot.segment)[1].0[0];
    let other = 5 - holder;
    let digest = |world: &mut World, at: u8, of: u8| world.host(at).node.digest_for(NodeId([of; 16]));
    assert_eq!(digest(&mut world, 1, holder), digest(&mut world, holder, 1));
    assert_eq!(digest(&mut world, 1, other), digest(&mut world, other, 1));
    let before = [holder, other].map(|node| digest(&mut world, 1, node));
    assert_ne!(before[0], before[1], "one of them holds what waits");
    // The holder's disk takes nothing, so it does not get as far as node 1.
    world.freeze(holder);
    world.publish(1, "y");
    assert_ne!(digest(&mut world, 1, holder), digest(&mut world, holder, 1));
    let published = digest(&mut world, 1, holder);
    assert_ne!(published, before[0]);
    assert_eq!(digest(&mut world, 1, other), before[1], "it has nothing to do with that");
    world.consume(1, dot);
    assert_ne!(digest(&mut world, 1, holder), published, "consumption counts too");
    world.thaw(holder);
    world.run(3_000);
    assert_eq!(digest(&mut world, 1, holder), digest(&mut world, holder, 1));
}
