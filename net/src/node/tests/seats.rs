//! Seats: who takes one and when, what happens to it when its node restarts or is forgotten, and who holds copies.

use super::*;
use crate::membership::Size;

/// Five nodes of which so many are members.
fn five(copies: u32, size: u32) -> World {
    five_after(0, copies, size)
}

/// The same after so many lives of others: names of segments, and so who holds them, differ.
fn five_after(lives: u64, copies: u32, size: u32) -> World {
    let mut world = World::new(copies);
    world.lives = lives;
    for index in 1..=5 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    let now = world.now;
    world.host(3).node.set_size(now, &Size::Fixed(size)).expect("a lawful size");
    world.run(15_000);
    world
}

fn seated(world: &mut World, at: u8) -> Vec<u8> {
    let node = &world.host(at).node;
    let seated: Vec<_> =
        (1..=5).filter(|&index| node.members().contains(id(index)) && node.is_seated(id(index))).collect();
    let members: Vec<_> = (1..=5).filter(|&index| node.members().members.contains(&id(index))).collect();
    assert_eq!(seated, members, "who is elected is seated");
    seated
}

/// Seats in the set, those of earlier lives and of nodes that are gone among them.
fn seats_kept(world: &mut World, at: u8) -> usize {
    world.host(at).node.engine().registry().set_members(&rhizomq_engine::Key::set("seats")).len()
}

#[test]
fn a_node_looks_around_before_it_takes_a_seat() {
    let mut world = World::new(3);
    world.start(1, MemoryStore::new());
    world.run(5_500);
    assert_eq!(seats_kept(&mut world, 1), 0);
    world.run(4_000);
    assert_eq!(seats_kept(&mut world, 1), 1);
    assert_eq!(world.host(1).node.role(id(1)), Role::Member);
}

#[test]
fn a_restart_costs_the_seat_and_leaves_nothing_of_it_behind() {
    let mut world = five(3, 2);
    let before = seated(&mut world, 1);
    assert_eq!(before.len(), 2);
    let witness = before[1];
    let disk = world.kill(before[0]);
    world.start(before[0], disk);
    world.join(before[0]);
    world.run(15_000);
    let after = seated(&mut world, witness);
    assert!(after.len() == 2 && after.contains(&witness) && !after.contains(&before[0]), "{before:?} {after:?}");
    assert_eq!(world.host(witness).node.role(id(before[0])), Role::Observer);
    assert_eq!(seats_kept(&mut world, witness), 2);
    world.assert_converged();
}

#[test]
fn who_is_forgotten_leaves_no_seat_and_no_ballot() {
    let mut world = five(3, 2);
    let before = seated(&mut world, 1);
    world.kill(before[0]);
    world.run(15_000);
    assert_eq!(seated(&mut world, before[1]).len(), 2);
    assert_eq!(seats_kept(&mut world, before[1]), 3, "it may come back in that life");
    assert_eq!(world.host(before[1]).node.role(id(before[0])), Role::Member, "as it last was");
    let now = world.now;
    world.host(before[1]).node.forget(now, id(before[0])).expect("it is gone");
    world.run(3_000);
    for index in (1..=5).filter(|&index| index != before[0]) {
        assert_eq!(seats_kept(&mut world, index), 2);
        let ballot = super::super::members::ballot_key(id(before[0]));
        assert_eq!(world.host(index).node.engine().registry().get(&ballot), None);
    }
    world.assert_converged();
}

#[test]
fn copies_go_to_members_first_and_to_observers_if_there_are_too_few() {
    let mut world = five(3, 2);
    let members = seated(&mut world, 1);
    let observer = (1..=5).find(|index| !members.contains(index)).expect("three observe");
    for origin in [observer, members[0]] {
        world.publish(origin, "x");
        world.run(500);
        let segment = world.host(origin).node.engine().open_segment().expect("just written to");
        let holders: Vec<_> = world.host(origin).node.candidates(segment).iter().map(|node| node.0[0]).collect();
        assert!(holders.len() == 3 && members.iter().all(|member| holders.contains(member)), "{holders:?} {members:?}");
    }
}

#[test]
fn nothing_is_written_while_nothing_happens() {
    let mut world = five(3, 2);
    let digest = world.host(1).node.engine().registry().digest();
    world.sent.clear();
    world.run(20_000);
    assert_eq!(world.host(1).node.engine().registry().digest(), digest);
    let registry = |wire: &Wire| matches!(wire, Wire::Control(Control::Registry(_))).then_some(());
    assert!((2..=5).all(|to| world.told(1, to, registry).is_empty()), "no news without news");
}

#[test]
fn a_size_of_none_is_refused() {
    let mut world = five(3, 2);
    let now = world.now;
    assert!(world.host(1).node.set_size(now, &Size::Fixed(0)).is_err());
    world.run(1_000);
    assert_eq!(*world.host(1).node.size(), Size::Fixed(2));
}

/// One member of five, and one backup for each message: of the four observers the one that has it takes the member's place.
#[test]
fn the_observer_that_holds_what_a_dead_member_took_gets_its_seat() {
    let mut heirs = BTreeSet::new();
    for lives in [0, 10, 20, 30, 40, 50] {
        let mut world = five_after(lives, 2, 1);
        let [member] = seated(&mut world, 1)[..] else { panic!("one member") };
        world.publish(member, "x");
        world.run(1_000);
        let segment = world.waiting(member)[0].0.segment;
        let holders = world.host(member).node.candidates(segment);
        let [_, heir] = holders[..] else { panic!("a backup: {holders:?}") };
        world.kill(member);
        world.run(15_000);
        let witness = (1..=5).find(|&index| index != member).expect("five");
        assert_eq!(seated(&mut world, witness), [heir.0[0]], "after {lives} lives");
        heirs.insert(heir);
    }
    assert!(heirs.len() > 1, "somebody is elected whoever holds it: {heirs:?}");
}
