//! Which secrets are trusted, and for how long; what comes of merges is for the simulator.

use super::*;
use crate::ticket::Ticket;

fn secret(byte: u8) -> NetworkSecret {
    NetworkSecret::from_bytes([byte; 32])
}

/// The first bytes of the secrets that a node trusts.
fn trusted(world: &mut World, index: u8) -> Vec<u8> {
    let mut secrets = world.host(index).node.engine().set_members(&networks::networks_key());
    secrets.sort_unstable();
    secrets.into_iter().map(|secret| secret[0]).collect()
}

/// Minutes pass without the links between: so many beats of the clock are enough.
fn minutes(world: &mut World, count: u64) {
    for _ in 0..count {
        (world.now.mono_ms, world.now.wall_ms) = (world.now.mono_ms + 59_000, world.now.wall_ms + 59_000);
        world.run(1_000);
    }
}

#[test]
fn a_secret_that_is_nobody_s_own_is_given_up_after_a_while_and_no_other() {
    let mut world = World::new(2);
    for index in [1, 2, 3] {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    // Two came with networks of their own, and one of them is away for long.
    world.host(2).node.config.network = secret(7);
    world.host(3).node.config.network = secret(8);
    world.run(3_000);
    drop(world.kill(3));
    let now = world.now;
    let node = &mut world.host(1).node;
    node.add_to(networks::networks_key(), vec![7; 32]);
    node.add_to(networks::networks_key(), vec![8; 32]);
    // All nodes of this one have left.
    node.add_to(networks::networks_key(), vec![5; 32]);
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let ticket = Ticket { secret: secret(6), node: NodeId([6; 16]), addresses: vec![address] };
    node.merge(now, &ticket, None).expect("begins");
    world.run(3_000);
    assert_eq!(trusted(&mut world, 2), [5, 6, 7, 8, 9]);
    minutes(&mut world, 8);
    assert_eq!(trusted(&mut world, 1), [5, 6, 7, 8, 9], "it may only seem so");
    minutes(&mut world, 5);
    assert_eq!(trusted(&mut world, 1), [6, 7, 8, 9]);
    let now = world.now;
    world.host(1).node.forget(now, NodeId([6; 16])).expect("a merge that is given up");
    world.run(100);
    minutes(&mut world, 13);
    assert_eq!(trusted(&mut world, 1), [7, 8, 9]);
    assert_eq!(trusted(&mut world, 2), [7, 8, 9]);
}

/// A node that heard of another, and died before the rest was on its disk, has its name in the roster and not its address.
#[test]
fn who_is_in_the_roster_and_has_never_said_where_it_is_reached_is_still_to_be_merged_with() {
    let mut world = World::new(2);
    world.start(1, MemoryStore::new());
    world.join(1);
    let now = world.now;
    let node = &mut world.host(1).node;
    node.add_to(roster::roster_key(), vec![6; 16]);
    node.finish(now);
    world.run(100);
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let ticket = Ticket { secret: secret(6), node: NodeId([6; 16]), addresses: vec![address] };
    let now = world.now;
    assert!(!world.host(1).node.merge(now, &ticket, None).expect("begins").already);
    world.run(3_000);
    assert_eq!(world.host(1).node.merging(), [(NodeId([6; 16]), vec![address])], "it is dialled there");
}
