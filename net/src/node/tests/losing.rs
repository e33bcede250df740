//! A part that will never come back is given up, step by step; the whole story is in the simulator (`tests/sim/parting/lost.rs`).

use super::*;
use crate::node::split::GiveUpPartError;

/// Node 4 has left with a message that node 3, which was away and is back, has a copy of; it has died since.
fn parted() -> (World, Dot) {
    let mut world = World::new(4);
    for index in 1..=4 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(3_000);
    world.publish(4, "kept");
    world.run(1_000);
    let dot = world.waiting(3)[0].0;
    let disk = world.kill(3);
    world.run(3_000);
    let (now, secret) = (world.now, NetworkSecret::from_bytes([7; 32]));
    let order = SplitOrder { name: "off".to_owned(), leaving: [id(4)].into(), size: None };
    world.host(1).node.split(now, order, secret).expect("taken");
    world.run(8_000);
    drop(world.kill(4));
    world.start(3, disk);
    world.join(3);
    world.run(5_000);
    assert_eq!(world.host(1).node.gone().collect::<Vec<_>>(), [id(4)]);
    (world, dot)
}

#[test]
fn what_was_kept_of_a_part_is_this_parts_once_that_is_given_up() {
    let (mut world, dot) = parted();
    let may_serve = |world: &World, index: u8| !world.hosts[&index].node.is_gone(dot.segment.node);
    assert!((1..=3).all(|index| !may_serve(&world, index)));
    let now = world.now;
    let lost = world.host(3).node.give_up_part_of(now, id(4)).expect("nobody has heard of it there");
    assert_eq!((lost.name.as_str(), lost.nodes, lost.waiting_here), ("off", [id(4)].into(), 1));
    world.run(10_000);
    for index in 1..=3 {
        assert!(may_serve(&world, index), "node {index}");
        let node = &world.hosts[&index].node;
        assert_eq!((node.parted().count(), node.kept_of_gone()), (0, 0), "node {index}");
        assert!(node.roster().iter().all(|entry| entry.id != id(4)), "node {index}: nobody waits for it");
        assert_ne!(node.candidates(dot.segment)[0], id(4), "node {index}");
        // It has its copies again.
        assert_eq!(world.waiting(index), [(dot, "kept".to_owned())], "node {index}");
    }
}

#[test]
fn a_part_that_was_heard_of_within_minutes_is_not_lost_nor_a_node_that_was_not_split_off() {
    let (mut world, _) = parted();
    let now = world.now;
    let refused = world.host(1).node.give_up_part_of(now, id(4));
    assert!(matches!(refused, Err(GiveUpPartError::Alive(who)) if who.id == id(4)), "it has said that it knows");
    assert_eq!(world.host(1).node.give_up_part_of(now, id(2)), Err(GiveUpPartError::NotSplitOff(id(2))));
    assert!(world.host(1).node.is_gone(id(4)));
    (world.now.mono_ms, world.now.wall_ms) = (world.now.mono_ms + 600_000, world.now.wall_ms + 600_000);
    world.run(2_000);
    let now = world.now;
    assert!(world.host(1).node.give_up_part_of(now, id(4)).is_ok());
}
