//! Backups that don't keep up: disks that are full or hang for a while, and consumers that are quicker than they.

use super::*;

fn two() -> World {
    let mut world = World::new(2);
    for index in 1..=2 {
        world.start(index, MemoryStore::new());
        world.join(index);
        world.run(50);
    }
    world.run(1_000);
    world
}

fn refuse_once(world: &mut World, index: u8) {
    let now = world.now;
    let host = world.host(index);
    let (seq, _) = host.unwritten.take().expect("a commit is under way");
    host.node.handle_committed(now, seq, Err(CommitError::Refused("full".to_owned())));
    world.drain();
}

/// The copies that messages get which are published one after the other for half a minute.
fn copies_from_now_on(world: &mut World) -> Vec<u32> {
    world.copies_confirmed(1);
    let one = |n: u32| {
        world.publish(1, &n.to_string());
        world.run(700);
        world.copies_confirmed(1)
    };
    (0..40).flat_map(one).collect()
}

#[test]
fn a_backup_that_was_full_while_a_message_came_and_went_is_as_good_as_before() {
    let mut world = two();
    world.publish(1, "first");
    world.freeze(2);
    world.publish(1, "x");
    let dot = world.waiting(1)[1].0;
    world.consume(1, dot);
    refuse_once(&mut world, 2);
    world.thaw(2);
    world.run(30_000);
    assert_eq!(copies_from_now_on(&mut world), [2; 40]);
}

#[test]
fn what_is_consumed_on_its_way_to_a_backup_takes_no_room_there() {
    let mut world = two();
    let big = "y".repeat(1 << 20);
    for _ in 0..17 {
        world.freeze(2);
        world.publish(1, &big);
        let dot = world.waiting(1)[0].0;
        world.consume(1, dot);
        refuse_once(&mut world, 2);
        world.thaw(2);
        world.run(200);
    }
    world.run(20_000);
    world.copies_confirmed(1);
    world.publish(1, "later");
    assert_eq!(world.copies_confirmed(1), [2], "pushed at once, not left to a pull");
}

#[test]
fn a_segment_may_end_while_a_backup_has_not_written_its_last_block() {
    let mut world = two();
    world.publish(1, "first");
    let dot = world.waiting(1)[0].0;
    world.consume(1, dot);
    world.freeze(2);
    // A commit hangs at the backup, the rest waits behind it.
    world.publish(1, "hangs");
    let dot = world.waiting(1)[0].0;
    world.consume(1, dot);
    world.publish(1, "x");
    let dot = world.waiting(1)[0].0;
    let now = world.now;
    world.host(1).node.close(now); // as when it has 64 MiB
    world.drain();
    world.consume(1, dot);
    assert_eq!(world.copies_confirmed(1).len(), 3, "what is consumed needs no copies");
    world.run(3_000);
    world.thaw(2);
    world.run(3_000);
    assert_eq!(copies_from_now_on(&mut world), [2; 40]);
}

/// Node 3 hears from node 2 what is consumed, while it writes something else.
fn told(message: impl Fn(SegmentId) -> Control) {
    let mut world = three();
    world.publish(1, "x");
    let (dot, _) = world.waiting(1)[0].clone();
    world.run(500);
    world.freeze(3);
    world.publish(3, "busy");
    tell(&mut world, 2, 3, wire::control(&message(dot.segment)));
    assert!(world.host(3).node.engine().is_removed(dot), "it has been told, and would dispatch it");
}

#[test]
fn what_a_node_was_told_to_be_consumed_it_knows_before_that_is_written() {
    told(|segment| Control::Removed { segment, slots: RangeSet::from_range(1, 1) });
    told(|segment| {
        let mut over = rhizomq_engine::Retired::default();
        over.fold(segment, &RangeSet::from_range(1, 1));
        Control::Retired(over)
    });
    told(|segment| {
        let mut over = rhizomq_engine::Retired::default();
        over.finish(segment);
        Control::Retired(over)
    });
}

#[test]
fn who_keeps_no_replica_of_a_segment_that_is_over_still_tells_what_is_consumed_of_it() {
    for finished in [false, true] {
        let mut world = three();
        world.publish(1, "x");
        let (dot, _) = world.waiting(1)[0].clone();
        world.run(500);
        if finished {
            let now = world.now;
            world.host(1).node.close(now);
            world.drain();
        } else {
            let disk = world.kill(1);
            world.start(1, disk);
            world.join(1);
        }
        world.run(2_000);
        world.consume(2, dot);
        world.run(3_000);
        let engine = world.host(2).node.engine();
        assert!(engine.retired().covers(dot) && !engine.has_replica(dot.segment));
        assert!(engine.removed_slots(dot.segment).contains(dot.slot), "whoever claims it would deliver it again");
    }
}

#[test]
fn a_node_whose_clock_was_set_back_is_known_in_its_present_life() {
    let mut world = World::new(2);
    world.start(2, MemoryStore::new());
    world.now.wall_ms += 3_600_000;
    world.start(1, MemoryStore::new());
    world.join(1);
    world.run(2_000);
    world.kill(1);
    world.now.wall_ms -= 3_600_000;
    world.start(1, MemoryStore::new());
    world.join(1);
    world.run(3_000);
    let present = world.host(1).node.epoch();
    for index in [1, 2] {
        let roster = world.host(index).node.roster();
        let entry = roster.iter().find(|entry| entry.id == NodeId([1; 16])).expect("known");
        assert_eq!(entry.epoch, Some(present), "node {index}");
    }
}

#[test]
fn nobody_is_a_holder_before_that_is_on_the_disk_of_who_named_it() {
    let mut world = three();
    world.publish(1, "x");
    let segment = world.waiting(1)[0].0.segment;
    world.freeze(1);
    world.name_holder(1, segment, id(7));
    // While that is being written; the block that goes to whoever is listed would come before the news that it is.
    world.name_holder(1, segment, id(8));
    world.write(1);
    let named = |world: &mut World| [7, 8].map(|index| world.host(1).node.candidates(segment).contains(&id(index)));
    assert_eq!(named(&mut world), [true, false]);
    world.thaw(1);
    assert_eq!(named(&mut world), [true, true]);
}
