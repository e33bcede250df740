//! Priorities, delays and selectors: what is served when, and to whom.

use std::sync::Arc;

use rhizomq_engine::Dot;

use super::world::{World, view_of};
use crate::lane::Lane;

/// Publishes to these lanes of queue `a` of node 0, in order; returns the names.
fn publish_all(world: &mut World, lanes: &[Lane]) -> Vec<Dot> {
    let before = world.published.clone();
    lanes.iter().for_each(|lane| world.publish_to(0, lane.inbox("a").into()));
    world.published.difference(&before).copied().collect()
}

fn priority(priority: u8) -> Lane {
    Lane::of_priority(priority)
}

#[test]
fn higher_priorities_come_first_and_what_goes_back_goes_before_lower_ones() {
    let mut world = World::new(1);
    let dots = publish_all(&mut world, &[4, 0, 9, 4, 5, 9].map(priority));
    world.subscribe_to(0, "a".into(), 3);
    let id = world.pick_subscriber(0).unwrap();
    assert_eq!(world.held_at(0), [dots[2], dots[5], dots[4]]);
    // The consumer with three places gives the second one back, which is its next one.
    world.settle_at(0, id, 1, false);
    assert_eq!(world.held_at(0), [dots[2], dots[4], dots[5]]);
    world.settle_at(0, id, 0, true);
    world.settle_at(0, id, 0, true);
    assert_eq!(world.held_at(0), [dots[5], dots[0], dots[3]]);
    let late = publish_all(&mut world, &[priority(8)]);
    world.settle_at(0, id, 0, true);
    assert_eq!(world.held_at(0), [dots[0], dots[3], late[0]]);
    world.settle_at(0, id, 0, true);
    assert_eq!(world.held_at(0), [dots[3], late[0], dots[1]]);
}

#[test]
fn what_is_delayed_comes_in_its_time_and_is_asked_for_then() {
    let mut world = World::new(1);
    let lanes = [Lane::delayed(4, 1, 1000), Lane::delayed(9, 1, 1000), Lane::delayed(4, 1, 200), priority(4)];
    let dots = publish_all(&mut world, &lanes);
    world.subscribe_to(0, "a".into(), 9);
    assert_eq!(world.held_at(0), [dots[3]]);
    let due = lanes[2].due().unwrap();
    assert_eq!(world.hosts[0].dispatch.owner.search_deadline(), due, "both clocks show the same here");
    world.pass_time(due - 2);
    assert_eq!(world.held_at(0), [dots[3]], "a millisecond before");
    world.pass_time(1);
    assert_eq!(world.held_at(0), [dots[3], dots[2]]);
    let due = lanes[0].due().unwrap();
    assert_eq!(world.hosts[0].dispatch.owner.search_deadline(), due);
    let now = world.now.wall_ms;
    world.pass_time(due - now);
    assert_eq!(world.held_at(0), [dots[3], dots[2], dots[1], dots[0]]);
    assert_eq!(world.hosts[0].dispatch.owner.search_deadline(), u64::MAX);
}

#[test]
fn what_waits_for_its_time_is_told_apart_from_what_can_be_had() {
    let mut world = World::new(1);
    publish_all(&mut world, &[priority(4), priority(9), Lane::delayed(4, 1, 5000), Lane::delayed(0, 1, 9000)]);
    world.subscribe_to(0, view_of("a", "n = 0"), 1);
    let total = |world: &World| {
        let host = &world.hosts[0];
        let totals = host.dispatch.totals(&host.paper);
        assert_eq!(totals.len(), 1, "one queue: {totals:?}");
        *totals.values().next().unwrap()
    };
    let before = total(&world);
    assert_eq!((before.depth, before.scheduled, before.consumers), (2, 2, 1));
    world.pass_time(6000);
    let after = total(&world);
    assert_eq!((after.depth, after.scheduled), (3, 1));
    let nodes = [world.published.first().unwrap().segment.node].into();
    let taken = world.hosts[0].dispatch.taken_by(&world.hosts[0].paper, &nodes);
    assert_eq!(taken.into_values().collect::<Vec<_>>(), [(4, 0)], "all of it goes with its node");
}

#[test]
fn consumers_with_selectors_share_a_queue_with_others_and_leave_what_they_do_not_want() {
    let mut world = World::new(1);
    let dots = publish_all(&mut world, &[priority(4); 6]);
    // Slots 1 to 6: `n` is 1, 2, 0, 1, 2, 0.
    world.subscribe_to(0, view_of("a", "n = 0"), 9);
    assert_eq!(world.held_at(0), [dots[2], dots[5]]);
    world.subscribe_to(0, view_of("a", "n = 2 OR n = 0"), 9);
    let mut held = world.held_at(0);
    held.sort();
    assert_eq!(held, [dots[1], dots[2], dots[4], dots[5]]);
    world.vanish_all(0);
    world.subscribe_to(0, view_of("a", "JMSMessageID = 'x'"), 9);
    assert_eq!(world.held_at(0), []);
    world.subscribe_to(0, "a".into(), 9);
    assert_eq!(world.held_at(0), dots, "in order, as far as they never were elsewhere");
}

#[test]
fn what_one_gives_back_another_with_a_selector_gets() {
    for given_back in [0, 1] {
        let mut world = World::new(1);
        let dots = publish_all(&mut world, &[priority(4); 9]);
        world.subscribe_to(0, "a".into(), 6);
        let id = world.pick_subscriber(0).unwrap();
        world.subscribe_to(0, view_of("a", "n = 0"), 9);
        assert_eq!(world.held_at(0).len(), 7, "the last of three that match is left for it");
        // Of the first three, the third matches.
        world.settle_at(0, id, if given_back == 1 { 2 } else { 0 }, false);
        let held = &world.hosts[0].subscribers.values().nth(1).unwrap().has;
        // What matches goes to either, the plain one comes first; what does not only to that.
        assert_eq!(**held, [dots[8]]);
        world.vanish_first(0);
        let held = &world.hosts[0].subscribers.values().next().unwrap().has;
        assert_eq!(**held, [dots[8], dots[2], dots[5]]);
    }
}

#[test]
fn a_long_search_goes_on_in_later_turns_and_holds_nobody_up() {
    let mut world = World::new(1);
    world.hosts[0].dispatch.owner.set_turn_cost(8 * 300);
    let dots = publish_all(&mut world, &[priority(4); 60]);
    let wanted = view_of("a", &format!("JMSMessageID = '{}'", dots[59]));
    let impossible = view_of("a", "n = 9");
    world.subscribe_to(0, impossible, 1);
    world.subscribe_to(0, wanted, 1);
    assert_eq!(world.held_at(0), []);
    let mut turns = 0;
    while world.held_at(0).is_empty() {
        assert!(world.hosts[0].dispatch.deadline() <= world.now.mono_ms, "it wants to go on at once");
        world.pass_time(0);
        turns += 1;
        if turns == 5 {
            world.publish_to(0, "b".into());
            world.subscribe_to(0, "b".into(), 1);
            assert_eq!(world.held_at(0).len(), 1, "others are served meanwhile");
            world.vanish_last(0);
        }
        assert!(turns < 100);
    }
    assert!(turns >= 20, "a part of the messages in each turn: {turns}");
    for _ in 0..100 {
        world.pass_time(0);
    }
    assert!(world.hosts[0].dispatch.owner.search_deadline() == u64::MAX, "it has seen everything");
    // Nothing is read again that has been looked at.
    let extra = publish_all(&mut world, &[priority(4)]);
    assert!(world.hosts[0].dispatch.owner.search_deadline() == u64::MAX);
    assert_eq!(extra.len(), 1);
}

#[test]
fn who_searches_keeps_no_places_from_other_owners() {
    let mut world = World::new(1);
    world.link(0, 1);
    world.replicates = false;
    (0..2).for_each(|index| world.hosts[index].dispatch.owner.set_turn_cost(8 * 300));
    // Node 0 has much that does not match, node 1 one that does.
    (0..200).for_each(|_| world.publish_to(0, "a".into()));
    world.publish_to(1, "a".into());
    let wanted = world.published.last().unwrap().segment;
    world.subscribe_to(0, view_of("a", &format!("JMSMessageID LIKE '{wanted}%'")), 1);
    for _ in 0..4 {
        world.settle_links();
        world.pass_time(0);
    }
    assert_eq!(world.held_at(0).len(), 1);
}

#[test]
fn a_view_that_can_not_be_read_gets_nothing() {
    let mut world = World::new(1);
    publish_all(&mut world, &[priority(4); 3]);
    for name in ["a\0?n =", "a\0!new", "a\0"] {
        world.subscribe_to(0, Arc::from(name), 9);
        assert_eq!(world.held_at(0), [], "{name:?}");
    }
    world.subscribe_to(0, "a".into(), 9);
    assert_eq!(world.held_at(0).len(), 3);
}

#[test]
fn many_searches_take_turns_and_never_look_overdue() {
    let mut world = World::new(1);
    world.hosts[0].dispatch.owner.set_turn_cost(8 * 300);
    let dots = publish_all(&mut world, &[priority(4); 40]);
    for number in 0..30 {
        world.subscribe_to(0, view_of("a", &format!("n = {}", 10 + number)), 1);
    }
    world.subscribe_to(0, view_of("a", &format!("JMSMessageID = '{}'", dots[39])), 1);
    for _ in 0..30 {
        world.pass_time(100);
        let (deadline, now) = (world.hosts[0].dispatch.owner.search_deadline(), world.now.mono_ms);
        assert_eq!(deadline, now, "at once, and not a while ago");
    }
    (0..70).for_each(|_| world.pass_time(1));
    assert_eq!(world.held_at(0), [dots[39]]);
    assert_eq!(world.hosts[0].dispatch.owner.search_deadline(), u64::MAX);
}
