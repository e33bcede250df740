//! Splits, step by step; what comes of them is for the simulator (`tests/sim/parting.rs`).

use super::*;
use crate::{Size, ticket::Ticket};

fn order(name: &str, leaving: u8) -> SplitOrder {
    SplitOrder { name: name.to_owned(), leaving: [id(leaving)].into(), size: None }
}

/// Ready is for good: it holds nothing of the other part of that order, and must not take any for the sake of another one.
#[test]
fn whoever_is_ready_for_one_order_does_nothing_for_another_that_was_given_at_the_same_time() {
    // Which of the two all would choose depends on their secrets.
    for secrets in [[1, 2], [2, 1]] {
        let mut world = World::new(1);
        for index in 1..=3 {
            world.start(index, MemoryStore::new());
            world.join(index);
        }
        world.run(1_000);
        let (now, [a, b]) = (world.now, secrets.map(|byte| NetworkSecret::from_bytes([byte; 32])));
        // The first has told nobody of its order, and has not heard of the other one, when the second is ready for that.
        world.freeze(1);
        world.host(1).node.split(now, order("a", 3), a).expect("taken");
        world.host(2).node.split(now, order("b", 1), b).expect("taken");
        world.run(2_000);
        let status = |world: &mut World, at| world.host(at).node.split_status();
        let seen = status(&mut world, 2).expect("under way");
        assert!(!seen.waits_for.contains(&id(2)) && seen.revocable_at == seen.waits_for);
        world.thaw(1);
        world.run(10_000);
        // One of them comes about, and the other one does not.
        assert!((1..=3).all(|index| status(&mut world, index).is_none()), "{secrets:?}");
        let gone = |index| world.hosts[&index].node.gone().collect::<Vec<_>>();
        let off_a = (gone(1), gone(2), gone(3)) == (vec![id(3)], vec![id(3)], vec![id(1), id(2)]);
        let off_b = (gone(1), gone(2), gone(3)) == (vec![id(2), id(3)], vec![id(1)], vec![id(1)]);
        assert!(off_a != off_b, "{secrets:?}: {:?}", (gone(1), gone(2), gone(3)));
    }
}

/// Who is named in place of a dead holder has nothing by that: a plan does not take its word that nothing waits.
#[test]
fn a_plan_tells_what_is_known_from_what_is_only_listed_and_what_lacks_copies() {
    let mut world = World::new(2);
    for index in 1..=4 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(3_000);
    world.publish(1, "kept");
    world.run(500);
    let segment = world.waiting(1)[0].0.segment;
    let holders: Vec<u8> = world.host(1).node.candidates(segment).iter().map(|node| node.0[0]).collect();
    let (second, other) = (holders[1], (2..=4).find(|index| !holders.contains(index)).expect("two hold it"));
    let rest = (2..=4).find(|index| *index != second && *index != other).expect("four nodes");
    let order = order("off", rest);
    let counts = |world: &mut World, at: u8| {
        let plan = world.host(at).node.plan_split(&order);
        (plan.away.iter().map(|node| node.0[0]).collect::<Vec<_>>(), plan.out_of_reach, plan.unproven)
    };
    assert_eq!(counts(&mut world, other), (vec![], 0, 0), "its origin is there");
    let lacks = |world: &mut World, at: u8, leaving: u8| {
        world.host(at).node.lacks_copies_within(segment, &[id(leaving)].into())
    };
    assert!(!lacks(&mut world, 1, rest) && lacks(&mut world, 1, second), "the copy would be in the other part");
    assert!(!lacks(&mut world, 1, 1), "alone it is enough");
    // Both who have it are away. Nobody within reach is listed; then somebody is, who has nothing all the same.
    drop((world.kill(1), world.kill(second)));
    assert_eq!(counts(&mut world, other), (vec![1, second], 1, 0));
    world.name_holder(other, segment, id(rest));
    world.run(500);
    assert_eq!(counts(&mut world, other), (vec![1, second], 0, 1));
}

/// It is counted in no queue of this part, and nobody else may have it.
#[test]
fn what_a_node_that_was_away_keeps_of_the_other_part_is_counted() {
    let mut world = World::new(4);
    for index in 1..=4 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(3_000);
    world.publish(4, "kept");
    world.run(1_000);
    assert_eq!(world.waiting(3).len(), 1);
    let disk = world.kill(3);
    world.run(3_000);
    let now = world.now;
    world.host(1).node.split(now, order("off", 4), NetworkSecret::from_bytes([7; 32])).expect("taken");
    world.run(8_000);
    assert_eq!(world.host(1).node.gone().collect::<Vec<_>>(), [id(4)]);
    drop(world.kill(4));
    world.start(3, disk);
    world.join(3);
    world.run(5_000);
    let kept = |index| world.hosts[&index].node.kept_of_gone();
    assert_eq!((kept(1), kept(2), kept(3)), (0, 0, 1));
}

/// The order to merge is no merge: as long as nobody is reached, what is of the other part is left alone.
#[test]
fn a_merge_heals_a_split_when_it_reaches_the_other_part_and_not_before() {
    let mut world = World::new(3);
    for index in 1..=4 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(2_000);
    let (now, secret) = (world.now, NetworkSecret::from_bytes([7; 32]));
    world.host(1).node.split(now, order("off", 4), secret.clone()).expect("taken");
    world.run(6_000);
    assert_eq!(world.host(2).node.gone().collect::<Vec<_>>(), [id(4)]);
    let parted: Vec<_> = world.host(2).node.parted().collect();
    let names = (1..=4).map(|index| (id(index), format!("n{index}"))).collect();
    let staying = (1..=3).map(id).collect();
    assert_eq!(parted, [Parted { name: "off".to_owned(), leaving: [id(4)].into(), staying, size: None, names }]);
    drop(world.kill(4));
    let now = world.now;
    let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 4))];
    let ticket = Ticket { secret, node: id(4), addresses };
    world.host(1).node.merge(now, &ticket, None).expect("begins");
    world.run(3_000);
    for index in 1..=3 {
        assert_eq!(world.host(index).node.gone().collect::<Vec<_>>(), [id(4)], "node {index}");
    }
    let now = world.now;
    let forgotten = world.host(2).node.forget(now, id(4)).expect("a merge that is given up");
    assert_eq!(forgotten.what, GivenUp::Merge);
    assert_eq!(world.host(2).node.forget(now, id(4)), Err(ForgetError::SplitOff(id(4))));
    world.run(1_000);
    assert!(world.host(1).node.merging().is_empty());
}

/// One that was ordered before a split, and whose node was never reached, goes on with those who stay.
#[test]
fn a_merge_that_has_not_come_about_is_none_of_the_part_that_leaves() {
    let mut world = World::new(3);
    for index in 1..=4 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(2_000);
    let ticket = |byte, index| {
        let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 9))];
        Ticket { secret: NetworkSecret::from_bytes([byte; 32]), node: id(index), addresses }
    };
    let now = world.now;
    world.host(4).node.merge(now, &ticket(8, 8), None).expect("begins");
    world.run(2_000);
    let order = SplitOrder { leaving: [id(3), id(4)].into(), ..order("off", 3) };
    let now = world.now;
    world.host(1).node.split(now, order, NetworkSecret::from_bytes([7; 32])).expect("taken");
    // Node 3 says that it is ready, and is cut off before all are.
    world.freeze(2);
    world.run(3_000);
    let waits_for = world.host(4).node.split_status().expect("under way").waits_for;
    assert_eq!(waits_for, [id(2)].into());
    [1, 2, 4].into_iter().for_each(|other| world.unlink(3, other));
    world.thaw(2);
    world.run(8_000);
    let merging = |world: &World, at: u8| {
        let targets = world.hosts[&at].node.merging();
        targets.into_iter().map(|(node, _)| node).collect::<Vec<_>>()
    };
    assert_eq!((gone(&world, 1).len(), gone(&world, 4).len()), (2, 2));
    assert_eq!((merging(&world, 1), merging(&world, 2), merging(&world, 4)), (vec![id(8)], vec![id(8)], vec![]));

    // What its part orders meanwhile is not undone by it when it cuts as well.
    (1..=2).for_each(|index| drop(world.kill(index)));
    let now = world.now;
    world.host(4).node.merge(now, &ticket(9, 9), None).expect("begins");
    world.run(1_000);
    assert_eq!(gone(&world, 3), []);
    world.join(3);
    world.run(5_000);
    assert_eq!(gone(&world, 3).len(), 2);
    assert_eq!((merging(&world, 3), merging(&world, 4)), (vec![id(9)], vec![id(9)]));
}

/// Who was asked for a merge is to see to its wish for a size; another one does, if that one has left for good.
#[test]
fn the_size_that_a_merge_was_ordered_with_is_set_also_when_who_was_asked_has_left() {
    let mut world = World::new(3);
    for index in 1..=3 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(2_000);
    let ticket = Ticket {
        secret: NetworkSecret::from_bytes([8; 32]),
        node: id(8),
        addresses: vec![SocketAddr::from(([127, 0, 0, 1], 8))],
    };
    let now = world.now;
    world.host(1).node.merge(now, &ticket, Some(&Size::Fixed(7))).expect("begins");
    world.run(2_000);
    let now = world.now;
    world.host(1).node.drain(now);
    world.host(1).node.release(true);
    world.run(20_000);
    assert_eq!(world.host(1).node.drain_stage(), DrainStage::Left);
    drop(world.kill(1));
    world.run(2_000);
    let size = |world: &World, at: u8| {
        let policy = world.hosts[&at].node.engine().registry().register(&members::size_key());
        policy.map(|policy| String::from_utf8_lossy(policy).into_owned())
    };
    assert_eq!(size(&world, 2), None);
    world.start(8, MemoryStore::new());
    world.join(8);
    world.run(5_000);
    assert_eq!((size(&world, 2), size(&world, 8)), (Some("7".to_owned()), Some("7".to_owned())));
    let targets = world.host(2).node.engine().set_members(&networks::merging_key());
    assert!(targets.is_empty(), "it is over");
}

/// Each waits for copies that the other does not count; the split comes first.
#[test]
fn a_node_that_drains_takes_part_in_a_split_that_was_ordered_at_the_same_time() {
    let mut world = World::new(3);
    for index in 1..=4 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(2_000);
    (1..=4).for_each(|index| world.publish(index, "kept"));
    world.run(2_000);
    let now = world.now;
    let order = SplitOrder { leaving: [id(3), id(4)].into(), ..order("off", 3) };
    world.host(1).node.split(now, order, NetworkSecret::from_bytes([7; 32])).expect("taken");
    world.host(2).node.drain(now);
    world.host(2).node.release(true);
    world.run(200);
    let hindrance = world.host(2).node.drain_status().and_then(|status| status.hindrance);
    assert_eq!(hindrance, Some(DrainHindrance::Splitting("off".to_owned())));
    world.run(30_000);
    assert_eq!(world.host(1).node.gone().collect::<Vec<_>>(), [id(3), id(4)]);
    assert_eq!(world.host(2).node.drain_stage(), DrainStage::Left);
    assert_eq!((world.waiting(1).len(), world.waiting(3).len()), (2, 2), "all of its part's");
}

/// It is on no list of holders, and lies everywhere: also of this the part that its origin is not of rids itself.
#[test]
fn what_turned_up_of_a_folded_segment_stays_with_the_part_of_its_origin() {
    for (leaving, stays) in [(4, [1, 2, 3]), (1, [1, 1, 1])] {
        let (mut world, _) = turned_up();
        let now = world.now;
        let secret = NetworkSecret::from_bytes([7; 32]);
        world.host(leaving).node.split(now, order("off", leaving), secret).expect("taken");
        world.run(8_000);
        for index in 1..=4 {
            assert!(world.host(index).node.split_status().is_none(), "node {index}, when {leaving} leaves");
            let waiting = usize::from(stays.contains(&index));
            assert_eq!(world.waiting(index).len(), waiting, "node {index}, when {leaving} leaves");
        }
    }
}

/// A crash between the commit that takes a node off the roster and the one in which its record and ballot go.
#[test]
fn what_is_left_of_a_node_that_is_off_the_roster_goes_at_the_next_start() {
    let mut world = World::new(1);
    for index in 1..=3 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(15_000);
    drop(world.kill(3));
    world.run(10_000);
    world.freeze(1);
    let now = world.now;
    while world.host(1).unwritten.is_some() {
        world.write(1);
    }
    world.host(1).node.forget(now, id(3)).expect("it is dead");
    world.drain();
    world.write(1);
    let keys = |world: &mut World| {
        let registry = world.host(1).node.engine().registry();
        [members::ballot_key(id(3)), roster::record_key(id(3))].map(|key| registry.get(&key).is_some())
    };
    assert_eq!(keys(&mut world), [true, true], "the roster alone is on the disk");
    let disk = world.kill(1);
    drop(world.kill(2));
    world.start(1, disk);
    world.run(100);
    assert_eq!(keys(&mut world), [false, false]);
    assert!(!world.host(1).node.members().observers.contains(&id(3)) && !world.host(1).node.members().contains(id(3)));
}

/// Three nodes, of which the third was split off: the order as one node tells it another, and its id.
fn parted() -> (World, Vec<u8>, u64) {
    let mut world = World::new(3);
    for index in 1..=3 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(2_000);
    let (now, secret) = (world.now, NetworkSecret::from_bytes([7; 32]));
    let id_of_split = secret.name();
    world.host(1).node.split(now, order("off", 3), secret).expect("taken");
    world.run(6_000);
    let told = |message: &Wire| match message {
        Wire::Control(Control::Parted(order)) => Some(order.clone()),
        _ => None,
    };
    let told = [(1, 3), (2, 3), (3, 1), (3, 2)].into_iter().find_map(|(from, to)| world.told(from, to, told).pop());
    (world, told.expect("whoever cuts tells the other part"), id_of_split)
}

fn gone(world: &World, index: u8) -> Vec<NodeId> {
    world.hosts[&index].node.gone().collect()
}

/// That a split is healed counts at the part that stayed. A node that left has shown that it knows its part's secret, or is
/// not let in; but one that never got it can't.
#[test]
fn the_word_of_a_merge_heals_a_split_for_those_who_stayed_and_for_who_left_without_a_secret() {
    let (mut world, told, split) = parted();
    world.host(1).node.take_healed(id(3), split + 1);
    world.run(1_000);
    assert_eq!(gone(&world, 1), [id(3)], "another split");
    assert!(!world.host(1).node.engine().registry().keys().any(|key| key.set_name() == Some("split/over")));
    // The driver goes on with the secret that it was given.
    assert_eq!(world.host(3).node.config.network.name(), split);
    world.host(3).node.take_healed(id(1), split);
    world.run(1_000);
    assert_eq!(gone(&world, 3), [id(1), id(2)], "it left");
    world.host(1).node.take_healed(id(3), split);
    world.run(1_000);
    assert_eq!((gone(&world, 1), gone(&world, 2)), (vec![], vec![]), "one of those who stayed tells the other");

    // One of the same name and place that hears of the cut before it has heard of the order, or got the secret.
    let mut late = World::new(3);
    late.start(3, MemoryStore::new());
    late.run(100);
    let now = late.now;
    late.host(3).node.take_parted(now, id(1), &told);
    late.run(100);
    assert_eq!(gone(&late, 3), [id(1), id(2)]);
    late.host(3).node.take_healed(id(1), split);
    late.run(100);
    assert_eq!(gone(&late, 3), [], "nobody could show it more");
}

/// A cluster merges with one that has merged with the part that left: nobody of that has to know this node's secret.
#[test]
fn who_is_told_of_a_split_by_one_that_it_merges_with_takes_it_for_healed_and_says_so() {
    // Node 9 is of the other cluster; node 3 left, and lets in who knows its secret.
    for (with, is_healed) in [(None, false), (Some(3), false), (Some(9), true)] {
        let (mut world, told, split) = parted();
        if let Some(with) = with {
            let addresses = vec![SocketAddr::from(([127, 0, 0, 1], u16::from(with)))];
            let ticket = Ticket { secret: NetworkSecret::from_bytes([7; 32]), node: id(with), addresses };
            let now = world.now;
            world.host(1).node.merge(now, &ticket, None).expect("begins");
            world.drain();
        }
        let now = world.now;
        world.host(1).node.take_parted(now, id(with.unwrap_or(3)), &told);
        world.run(1_000);
        assert_eq!(gone(&world, 1).is_empty(), is_healed);
        assert_eq!(gone(&world, 2).is_empty(), is_healed, "as it hears from node 1");
        let over = world.host(1).node.engine().set_members(&rhizomq_engine::Key::set("split/over"));
        assert_eq!(over.contains(&split.to_le_bytes().to_vec()), is_healed);
    }
}

/// A part that left lets nobody in that it left; unless that one left it as well, by another split, and has a secret of its own.
#[test]
fn who_left_merges_with_those_it_left_only_if_they_have_another_secret_since() {
    let (mut world, _, _) = parted();
    let now = world.now;
    for (secret, is_refused) in [(9, true), (5, false)] {
        let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 1))];
        let ticket = Ticket { secret: NetworkSecret::from_bytes([secret; 32]), node: id(1), addresses };
        let result = world.host(3).node.merge(now, &ticket, None);
        assert_eq!(matches!(result, Err(MergeError::SplitOff)), is_refused, "{result:?}");
        assert_eq!(result.is_ok(), !is_refused);
    }
}

/// One that came later to the part that left is of it, and lets in who was shown its secret, as those do who left.
#[test]
fn who_came_later_to_those_who_left_lets_in_who_knows_their_secret() {
    for (proven, is_let_in) in [(Proven::Trusted, false), (Proven::Own, true)] {
        let (mut world, _, split) = parted();
        (1..=2).for_each(|index| drop(world.kill(index)));
        world.start(4, MemoryStore::new());
        world.host(4).node.config.network = NetworkSecret::from_bytes([7; 32]);
        world.join(4);
        world.run(2_000);
        assert_eq!(gone(&world, 4), [id(1), id(2)]);
        let now = world.now;
        let hello = PeerHello { node: id(1), epoch: Epoch(99), name: String::new(), wall_ms: 0, proven };
        world.host(4).node.handle_link_up(now, LinkId(1 << 40), hello);
        assert_eq!(world.host(4).node.linked().contains(&id(1)), is_let_in, "{split:x}");
        assert_eq!(gone(&world, 4).is_empty(), is_let_in);
    }
}

/// Who was away when a split was ordered hears of it from whomever it meets first.
#[test]
fn who_came_later_to_the_other_part_is_believed_as_those_who_were_listed() {
    let (_, told, _) = parted();
    for (from, is_believed) in [(3, true), (9, true), (1, false)] {
        let mut late = World::new(3);
        late.start(2, MemoryStore::new());
        late.run(100);
        let now = late.now;
        late.host(2).node.take_parted(now, id(from), &told);
        late.run(100);
        let expected = if is_believed { vec![id(3)] } else { vec![] };
        assert_eq!(gone(&late, 2), expected, "told by node {from}");
    }
}

/// It stayed, was out of sight, and may know what was consumed of theirs.
#[test]
fn who_has_something_to_tell_those_who_left_dials_them_also_in_its_next_life() {
    let (_, told, _) = parted();
    let mut late = World::new(3);
    late.start(2, MemoryStore::new());
    late.run(100);
    let now = late.now;
    late.host(2).node.take_parted(now, id(3), &told);
    late.run(1_000);
    let place = Some(vec![SocketAddr::from(([127, 0, 0, 1], 3))]);
    let dialled = |world: &World| world.hosts[&2].node.dialled.get(&id(3)).cloned();
    let store = late.kill(2);
    late.start(2, store);
    late.run(100);
    assert_eq!((gone(&late, 2), dialled(&late)), (vec![id(3)], place));
    let now = late.now;
    late.host(2).node.note_told(now, id(3));
    assert_eq!(dialled(&late), None, "it has been told");
    for (passes_ms, is_dialled) in [(598_000, false), (2_000, true)] {
        late.now.mono_ms += passes_ms;
        late.run(1_000);
        assert_eq!(dialled(&late).is_some(), is_dialled, "after ten minutes it may be restored from a backup");
    }
}

/// All others know what those know who left, or had their word.
#[test]
fn only_who_stayed_out_of_sight_and_unhealed_has_something_to_tell_those_who_left() {
    let (world, told, split) = parted();
    for (at, other) in [(1, 3), (2, 3), (3, 1), (3, 2)] {
        let node = &world.hosts[&at].node;
        assert!(node.is_gone(id(other)) && !node.is_to_be_told(id(other)), "node {at} of {other}: it was ready");
    }
    for (at, from, is_to_tell) in [(2, 3, true), (3, 2, false)] {
        let mut late = World::new(3);
        late.start(at, MemoryStore::new());
        late.run(100);
        let now = late.now;
        late.host(at).node.take_parted(now, id(from), &told);
        late.run(100);
        let node = &mut late.host(at).node;
        assert!(node.is_gone(id(from)));
        assert_eq!(node.is_to_be_told(id(from)), is_to_tell, "node {at} of {from}");
        node.take_healed(id(from), split);
        assert!(!node.is_gone(id(from)) && !node.is_to_be_told(id(from)), "node {at} of {from}: healed");
    }
}

/// It would hear of the one part and tell the other.
#[test]
fn at_a_cut_links_to_those_who_are_on_no_roster_are_closed() {
    let (_, told, _) = parted();
    let mut world = World::new(3);
    for index in 1..=3 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(2_000);
    // It has a link, and has not entered itself yet.
    let (now, link) = (world.now, LinkId(1 << 40));
    let hello = PeerHello { node: id(9), epoch: Epoch(99), name: String::new(), wall_ms: 0, proven: Proven::Own };
    let node = &mut world.host(1).node;
    node.handle_link_up(now, link, hello);
    assert_eq!(node.linked(), [id(2), id(3), id(9)]);
    std::iter::from_fn(|| node.poll_output()).for_each(drop);
    node.take_parted(now, id(3), &told);
    assert_eq!(node.linked(), [id(2)]);
    let closed = std::iter::from_fn(|| node.poll_output())
        .filter_map(|output| if let Output::Close { link, .. } = output { Some(link) } else { None });
    assert_eq!(closed.collect::<Vec<_>>(), [link], "the other part is given time to read");
}

/// They are keys of their own, and news come in ranges of keys.
#[test]
fn a_cut_undoes_nothing_of_its_part_also_if_the_marks_of_that_came_before_the_word_that_it_has_cut() {
    for is_led in [true, false] {
        let (_, told, split) = parted();
        let mut late = World::new(3);
        late.start(3, MemoryStore::new());
        late.run(100);
        let now = late.now;
        let node = &mut late.host(3).node;
        let order = rhizomq_engine::Value::decode(&told).expect("an order");
        node.engine.merge_registry(rhizomq_engine::Key::register(&format!("split/order/{split:016x}")), &order);
        node.finish(now);
        late.drain();
        let node = &mut late.host(3).node;
        node.take_secret(NetworkSecret::from_bytes([7; 32]));
        if is_led {
            for other in [1, 2] {
                node.add_to(rhizomq_engine::Key::set("gone"), [&split.to_le_bytes()[..], &[0], &id(other).0].concat());
            }
        }
        let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 9))];
        let ticket = Ticket { secret: NetworkSecret::from_bytes([9; 32]), node: id(9), addresses };
        node.merge(now, &ticket, None).expect("begins");
        late.drain();
        let is_cut = |late: &World| late.hosts[&3].node.parted().count() == 1;
        assert!(!is_cut(&late));
        late.run(5_000);
        let node = &late.hosts[&3].node;
        assert!(is_cut(&late) && node.config.network.name() == split);
        let merging: Vec<_> = node.merging().into_iter().map(|(node, _)| node).collect();
        assert_eq!(merging, if is_led { vec![id(9)] } else { vec![] }, "what was ordered before is the other part's");
    }
}

/// The two may have parted by another split meanwhile, and then the link is about to close.
#[test]
fn who_takes_a_split_for_healed_says_so_over_whatever_link_there_is() {
    let (mut world, _, split) = parted();
    let (now, link) = (world.now, LinkId(1 << 40));
    let hello = PeerHello { node: id(3), epoch: Epoch(99), name: String::new(), wall_ms: 0, proven: Proven::Own };
    let node = &mut world.host(1).node;
    node.handle_link_up(now, link, hello);
    assert!(!node.linked().contains(&id(3)), "it stayed: the link is there to tell of the split");
    std::iter::from_fn(|| node.poll_output()).for_each(drop);
    node.take_healed(id(3), split);
    let said = std::iter::from_fn(|| node.poll_output()).any(|output| match output {
        Output::Send { link: over, bytes } => {
            over == link && matches!(wire::decode(bytes), Ok(Wire::Control(Control::Healed(id))) if id == split)
        }
        _ => false,
    });
    assert!(said);
}

/// While the order is open: there is no list of holders, and those of the other part are none.
#[test]
fn nobody_of_the_other_part_is_to_keep_what_turned_up_of_a_folded_segment() {
    let (mut world, dot) = turned_up();
    let segment = dot.segment;
    let holders = |world: &mut World| {
        let node = &world.host(1).node;
        let of_all: Vec<_> = (1..=4).filter(|&index| node.holds(segment, id(index))).collect();
        let mut listed: Vec<_> = node.holders_of(segment).iter().map(|node| node.0[0]).collect();
        listed.sort_unstable();
        assert_eq!(of_all, listed);
        listed
    };
    assert_eq!(holders(&mut world), [1, 2, 3, 4]);
    // Whose disk takes nothing is not ready.
    world.freeze(3);
    let now = world.now;
    world.host(1).node.split(now, order("off", 4), NetworkSecret::from_bytes([7; 32])).expect("taken");
    world.run(2_000);
    assert!(world.host(1).node.split_status().is_some(), "under way");
    assert_eq!(holders(&mut world), [1, 2, 3]);
}

/// As one that was restored from a backup may be: its registry says that it is ready, and it has no such file.
#[test]
fn who_is_ready_to_leave_and_lacks_the_secret_is_sent_it() {
    let mut world = World::new(3);
    for index in 1..=4 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(2_000);
    world.freeze(2);
    let (now, secret) = (world.now, NetworkSecret::from_bytes([7; 32]));
    world.host(1).node.split(now, order("off", 4), secret).expect("taken");
    world.run(2_000);
    let status = |world: &mut World| world.host(4).node.split_status().expect("it waits for node 2");
    let before = status(&mut world);
    assert!(!before.waits_for.contains(&id(4)) && before.waits_for.contains(&id(2)) && !before.lacks_secret);
    let store = world.kill(4);
    world.start(4, store);
    assert!(status(&mut world).lacks_secret);
    world.join(4);
    world.run(2_000);
    assert!(!status(&mut world).lacks_secret);
}
