//! Nodes that missed how their part left: what they are told, and by whom they believe it. What comes of it is for the
//! simulator (`tests/sim/parting/restored.rs`).

use super::*;
use crate::wire::Hidden;

const LINK: LinkId = LinkId(1 << 40);

fn id(index: u8) -> NodeId {
    NodeId([index; 16])
}

fn old() -> NetworkSecret {
    NetworkSecret::from_bytes([9; 32])
}

fn new() -> NetworkSecret {
    NetworkSecret::from_bytes([7; 32])
}

/// Five nodes, of which 3, 4 and 5 have left, and the disk of 4 from before.
fn parted() -> (World, MemoryStore) {
    let mut world = World::new(3);
    for index in 1..=5 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(2_000);
    let mut copy = MemoryStore::new();
    copy.restore(&world.host(4).store.snapshot());
    let leaving = (3..=5).map(id).collect();
    let now = world.now;
    let order = SplitOrder { name: "off".to_owned(), leaving, size: None };
    world.host(1).node.split(now, order, new()).expect("taken");
    world.run(8_000);
    assert_eq!(world.host(3).node.gone().collect::<Vec<_>>(), [id(1), id(2)]);
    (world, copy)
}

fn outputs(node: &mut Node) -> Vec<Output> {
    std::iter::from_fn(|| node.poll_output()).collect()
}

/// What a node says to one that knows a former secret and no other; whether it takes it for a peer, and closes the link.
fn welcome(world: &mut World, at: u8, from: NodeId) -> (Vec<Control>, bool, bool) {
    let now = world.now;
    let node = &mut world.host(at).node;
    let hello = PeerHello { node: from, epoch: Epoch(99), name: String::new(), wall_ms: 0, proven: Proven::Former };
    node.handle_link_up(now, LINK, hello);
    let mut is_closed = false;
    let mut told = Vec::new();
    for output in outputs(node) {
        match output {
            Output::Send { link: LINK, bytes } => match wire::decode(bytes) {
                Ok(Wire::Control(message)) => told.push(message),
                other => panic!("{other:?}"),
            },
            Output::Close { link: LINK, .. } => is_closed = true,
            _ => {}
        }
    }
    (told, node.linked().contains(&from), is_closed)
}

/// What it trusts of whom: whether a node with that secret alone gets as far as a link.
fn expects(world: &World, at: u8, from: NodeId, secret: NetworkSecret) -> Option<Proven> {
    world.hosts[&at].node.trusted.as_ref()?.proven_by(from, &Keyring::from(secret))
}

#[test]
fn by_a_former_secret_only_those_are_let_in_whom_the_split_lists_and_they_are_told_of_it_and_nothing_else() {
    let (mut world, _) = parted();
    assert_eq!(expects(&world, 3, id(4), old()), Some(Proven::Former));
    assert_eq!(expects(&world, 3, id(4), new()), Some(Proven::Own));
    assert_eq!(expects(&world, 3, id(6), old()), None, "one that joined by an old ticket");
    assert_eq!(expects(&world, 1, id(4), old()), Some(Proven::Own), "the part that stayed has it for its own");

    drop(world.kill(4));
    let (told, is_peer, is_closed) = welcome(&mut world, 3, id(4));
    let [Control::Readmitted { orders, secret: Hidden(secret) }] = &told[..] else { panic!("{told:?}") };
    assert!(orders.len() == 1 && *secret == [7; 32] && !is_peer && !is_closed);
    // What comes over such a link is not even read, and it ends soon.
    let now = world.now;
    let digests = Control::Summary { registry: [0; 32], retired: [0; 32], segments: Vec::new() };
    world.host(3).node.handle_message(now, LINK, wire::control(&digests));
    assert!(outputs(&mut world.host(3).node).is_empty());
    world.now.mono_ms += 2_000;
    let now = world.now;
    world.host(3).node.handle_timeout(now);
    assert!(outputs(&mut world.host(3).node).iter().any(|output| matches!(output, Output::Close { link: LINK, .. })));

    let (told, is_peer, is_closed) = welcome(&mut world, 3, id(6));
    assert!(told.is_empty() && !is_peer && is_closed, "a stranger: {told:?}");
    let (told, is_peer, _) = welcome(&mut world, 3, id(1));
    assert!(matches!(&told[..], [Control::Parted(_)]) && !is_peer, "one that stayed: {told:?}");

    // A node that was forgotten is of no roster.
    drop(world.kill(5));
    world.run(10_000);
    let now = world.now;
    world.host(3).node.forget(now, id(5)).expect("it is dead");
    world.run(1_000);
    assert_eq!(expects(&world, 3, id(5), old()), None);
    let (told, is_peer, is_closed) = welcome(&mut world, 3, id(5));
    assert!(told.is_empty() && !is_peer && is_closed, "forgotten: {told:?}");
}

#[test]
fn former_secrets_are_remembered_until_a_merge_heals_the_split() {
    let (mut world, _) = parted();
    let look = |world: &mut World| {
        world.now.mono_ms += 1_000;
        let now = world.now;
        world.host(3).node.handle_timeout(now);
        let outputs = outputs(&mut world.host(3).node);
        outputs.iter().any(|output| matches!(output, Output::Former(secrets) if secrets.is_empty()))
    };
    assert!(!look(&mut world));
    let over = rhizomq_engine::Key::set("split/over");
    world.host(3).node.add_to(over, new().name().to_le_bytes().to_vec());
    assert!(look(&mut world), "all are given up");
    assert_eq!(expects(&world, 3, id(4), old()), None);
}

/// One of the other part that has shown that it knows is not told again and again.
#[test]
fn who_knows_of_the_split_is_told_again_only_after_a_while() {
    let (mut world, _) = parted();
    let (told, ..) = welcome(&mut world, 3, id(1));
    let [Control::Parted(order)] = &told[..] else { panic!("{told:?}") };
    let now = world.now;
    world.host(3).node.handle_message(now, LINK, wire::control(&Control::Parted(order.clone())));
    for (passes_ms, expected) in [(0, None), (59_000, None), (2_000, Some(Proven::Former))] {
        world.now.mono_ms += passes_ms;
        let now = world.now;
        world.host(3).node.handle_timeout(now);
        assert_eq!(expects(&world, 3, id(1), old()), expected, "after a minute it may be restored from a backup");
    }
}

/// Both were ready. One comes back into a new life when all have cut long since; the other one hears with all others that the
/// last one is ready, although it sees nobody of its part either.
#[test]
fn who_was_ready_before_its_life_began_has_strayed_if_it_cuts_with_nobody_of_its_part_in_sight() {
    for is_new_life in [false, true] {
        let mut world = World::new(3);
        for index in 1..=5 {
            world.start(index, MemoryStore::new());
            world.join(index);
        }
        world.run(2_000);
        // Whose disk takes nothing is not ready.
        world.freeze(1);
        let now = world.now;
        let order = SplitOrder { name: "off".to_owned(), leaving: (3..=5).map(id).collect(), size: None };
        world.host(2).node.split(now, order, new()).expect("taken");
        world.run(8_000);
        let waits_for = |world: &mut World| world.host(4).node.split_status().expect("under way").waits_for;
        assert_eq!(waits_for(&mut world), [id(1)].into());
        [2, 3, 5].into_iter().for_each(|index| drop(world.kill(index)));
        if is_new_life {
            let disk = world.kill(4);
            world.start(4, disk);
            let now = world.now;
            let node = &mut world.host(4).node;
            // As it lies beside the store.
            node.take_secret(new());
            let hello =
                PeerHello { node: id(1), epoch: Epoch(99), name: String::new(), wall_ms: 0, proven: Proven::Own };
            node.handle_link_up(now, LINK, hello);
        }
        let mark = [&new().name().to_le_bytes()[..], &id(1).0].concat();
        world.host(4).node.add_to(rhizomq_engine::Key::set("split/ready"), mark);
        world.run(1_000);
        let node = &world.host(4).node;
        assert_eq!((node.gone().count(), node.config.network == new()), (2, true), "it has cut");
        assert_eq!(node.has_strayed(), is_new_life);
    }
}

/// It was out of sight of the split, as far as is known here.
#[test]
fn what_one_of_the_other_part_knows_to_be_consumed_is_heard_once_it_has_told_that_all_were_ready() {
    let (mut world, _) = parted();
    let (told, ..) = welcome(&mut world, 3, id(1));
    let [Control::Parted(order)] = &told[..] else { panic!("{told:?}") };
    let mut late = World::new(3);
    late.start(3, MemoryStore::new());
    late.run(100);
    ["x", "y"].into_iter().for_each(|body| late.publish(3, body));
    let consumed = |(dot, _): &(Dot, String)| {
        let slots = RangeSet::from_range(dot.slot, dot.slot);
        wire::control(&Control::Removed { segment: dot.segment, slots })
    };
    let consumed: Vec<_> = late.waiting(3).iter().map(consumed).collect();
    let now = late.now;
    late.host(3).node.take_parted(now, id(1), order);
    let hello = PeerHello { node: id(1), epoch: Epoch(99), name: String::new(), wall_ms: 0, proven: Proven::Own };
    late.host(3).node.handle_link_up(now, LINK, hello);
    late.host(3).node.handle_message(now, LINK, consumed[0].clone());
    late.run(10);
    assert_eq!(late.waiting(3).len(), 1);
    let now = late.now;
    late.host(3).node.handle_message(now, LINK, wire::control(&Control::Parted(order.clone())));
    late.host(3).node.handle_message(now, LINK, consumed[1].clone());
    late.run(10);
    assert_eq!(late.waiting(3).len(), 1, "it has told all that it knows");
}

#[test]
fn one_restored_from_before_a_split_believes_those_who_left_and_has_strayed_until_it_has_met_them() {
    let (mut world, copy) = parted();
    let (told, ..) = welcome(&mut world, 3, id(4));
    let message = wire::control(&told[0]);
    drop(world.kill(4));
    world.start(4, copy);
    let now = world.now;
    let hello = |node| PeerHello { node, epoch: Epoch(99), name: String::new(), wall_ms: 0, proven: Proven::Own };
    // One that the order does not list, and one without an order.
    world.host(4).node.handle_link_up(now, LINK, hello(id(1)));
    world.host(4).node.handle_message(now, LINK, message.clone());
    world.host(4).node.handle_link_down(now, LINK);
    let other = Control::Readmitted { orders: Vec::new(), secret: Hidden([8; 32]) };
    world.host(4).node.handle_link_up(now, LINK, hello(id(3)));
    world.host(4).node.handle_message(now, LINK, wire::control(&other));
    assert!(!world.host(4).node.has_strayed() && world.host(4).node.config.network == old());

    outputs(&mut world.host(4).node);
    world.host(4).node.handle_message(now, LINK, message);
    let node = &mut world.host(4).node;
    assert!(node.has_strayed() && !node.lacks_network());
    assert_eq!(
        node.strayed().map(|strayed| (strayed.name, strayed.part)),
        Some(("off".to_owned(), vec![id(3), id(5)]))
    );
    let secrets: Vec<_> = outputs(node)
        .into_iter()
        .filter_map(|output| match output {
            Output::Former(secrets) => Some(secrets),
            Output::Rekey(secret) => Some(vec![secret]),
            _ => None,
        })
        .collect();
    assert_eq!(secrets, [vec![old()], vec![new()]], "the former one first: else nobody would know it after a crash");
    // It is not there before it is linked, however long that takes.
    world.run(5_000);
    assert!(world.host(4).node.has_strayed());
    [1, 2].into_iter().for_each(|index| drop(world.kill(index)));
    world.join(4);
    world.run(500);
    assert!(world.host(4).node.has_strayed(), "who else is of its part may be about to come");
    world.run(2_000);
    assert!(!world.host(4).node.has_strayed());
    assert_eq!(world.host(4).node.linked(), [id(3), id(5)]);
}

#[test]
fn who_was_told_by_those_it_left_lacks_a_network_until_a_node_of_its_part_gives_it_one() {
    let (mut world, copy) = parted();
    let (told, ..) = welcome(&mut world, 3, id(1));
    let [Control::Parted(order)] = &told[..] else { panic!("{told:?}") };
    drop(world.kill(4));
    world.start(4, copy);
    let now = world.now;
    world.host(4).node.take_parted(now, id(1), order);
    world.run(5_000);
    assert!(world.host(4).node.lacks_network());
    // That outlives a restart.
    let disk = world.kill(4);
    world.start(4, disk);
    assert!(world.host(4).node.lacks_network());
    // An operator merges it with its part by its own ticket: it finds its part's secret in the registry.
    world.join(4);
    world.run(5_000);
    let node = &world.host(4).node;
    assert!(!node.has_strayed() && node.config.network == new(), "{:?}", node.strayed());
}

/// Its part was split once more, and merged again: it has kept the secret of that second split.
#[test]
fn the_secret_that_a_part_has_kept_from_a_later_split_is_its_secret_all_the_same() {
    let (mut world, copy) = parted();
    let (told, ..) = welcome(&mut world, 3, id(4));
    let Control::Readmitted { orders, .. } = &told[0] else { panic!("{told:?}") };
    drop(world.kill(4));
    world.start(4, copy);
    let now = world.now;
    let hello = PeerHello { node: id(3), epoch: Epoch(99), name: String::new(), wall_ms: 0, proven: Proven::Own };
    world.host(4).node.handle_link_up(now, LINK, hello);
    let later = Control::Readmitted { orders: orders.clone(), secret: Hidden([8; 32]) };
    world.host(4).node.handle_message(now, LINK, wire::control(&later));
    let node = &world.host(4).node;
    assert!(node.has_strayed() && !node.lacks_network() && node.config.network == NetworkSecret::from_bytes([8; 32]));
    assert_eq!(node.strayed().map(|strayed| strayed.name), Some("off".to_owned()));
}

/// Whoever is of the other part may say that it has cut, as all know; no other order of its making is taken in.
#[test]
fn a_node_of_the_other_part_parts_nobody_else() {
    let (mut world, _) = parted();
    let (told, ..) = welcome(&mut world, 3, id(1));
    assert!(matches!(&told[..], [Control::Parted(_)]), "{told:?}");
    let (now, forged) = (world.now, crate::node::split::example_order());
    world.host(3).node.handle_message(now, LINK, wire::control(&Control::Parted(forged)));
    assert_eq!(world.host(3).node.parted().count(), 1);
    // Nor what it says is consumed: it was there when all were ready.
    world.publish(3, "x");
    let dot = world.waiting(3)[0].0;
    let slots = RangeSet::from_range(dot.slot, dot.slot);
    let now = world.now;
    world.host(3).node.handle_message(now, LINK, wire::control(&Control::Removed { segment: dot.segment, slots }));
    world.run(100);
    assert_eq!(world.waiting(3).len(), 1);
}
