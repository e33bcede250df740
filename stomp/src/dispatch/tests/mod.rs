//! Whole dispatches of several nodes against each other: what must hold in every order of events, and a few orders that
//! are worth a name.

mod edge;
mod lanes;
mod leaks;
mod owners;
mod world;

use super::{Leave, Rules};
use world::{NODES, World, id_of};

fn random_life(seed: u64, steps: usize, faults: bool) -> World {
    live(World::new(seed), steps, faults)
}

/// With priorities, delays and selectors, and searches that get nowhere in a single turn.
fn rich_life(seed: u64, steps: usize) -> World {
    let mut world = World::new(seed);
    world.rich = true;
    world.rests_by_views = seed.is_multiple_of(2);
    if seed.is_multiple_of(3) {
        world.hosts.iter_mut().for_each(|host| host.dispatch.owner.set_turn_cost(8));
    }
    live(world, steps, true)
}

/// The same with message groups, too.
fn grouped_life(seed: u64, steps: usize, faults: bool) -> World {
    let mut world = World::new(seed);
    world.rich = seed.is_multiple_of(2);
    world.hosts.iter_mut().for_each(|host| host.paper.groups = true);
    live(world, steps, faults)
}

fn live(mut world: World, steps: usize, faults: bool) -> World {
    for a in 0..NODES {
        (0..a).for_each(|b| world.link(a, b));
    }
    for _ in 0..steps {
        let (one, two) = (world.below(NODES), world.below(NODES));
        match world.below(if faults { 40 } else { 34 }) {
            0..=5 => world.publish(one),
            6 | 7 => {
                let prefetch = 1 + world.below(4);
                world.subscribe(one, prefetch);
            }
            8..=12 => world.settle(one, true),
            13 if world.rules.max_deliveries.is_some() && world.below(3) == 0 => world.reject(one),
            13 => world.settle(one, false),
            14..=16 => world.commit(one),
            17 if world.below(3) == 0 => world.vanish(one),
            18..=20 => {
                let ms = world.below(40) as u64;
                world.pass_time(ms);
            }
            34..=35 => world.cut(one, two),
            36..=38 => world.link(one, two),
            39 if world.below(4) == 0 => world.restart(one),
            _ => drop(world.step_link(one, two)),
        }
    }
    world
}

fn check_rest(seed: u64, mut world: World) {
    world.come_to_rest();
    assert!(world.is_at_rest(), "seed {seed}: something is stuck\n{}", world.describe());
    for dot in &world.published {
        assert!(world.deliveries.contains_key(dot), "seed {seed}: {dot:?} was never delivered");
    }
    for host in &world.hosts {
        assert_eq!((host.dispatch.owner.in_flight(), host.dispatch.edge.held()), (0, 0), "seed {seed}");
    }
}

#[test]
fn nothing_is_stuck_or_too_much_with_message_groups() {
    for seed in 0..300 {
        check_rest(seed, grouped_life(seed, 600, seed % 3 > 0));
    }
}

#[test]
fn nothing_is_stuck_or_delivered_wrongly_whatever_the_order_of_events() {
    for seed in 0..300 {
        check_rest(seed, random_life(seed, 600, true));
    }
}

#[test]
fn nothing_is_stuck_where_what_comes_back_waits_and_leaves() {
    for seed in 0..200 {
        let rules =
            Rules { max_deliveries: Some(3), delay_ms: 30, backoff_percent: 300, max_delay_ms: 100, keeps: None };
        let mut world = World::new(seed);
        world.rules = rules;
        let mut world = live(world, 600, seed % 2 == 0);
        world.come_to_rest();
        assert!(world.is_at_rest(), "seed {seed}: something is stuck\n{}", world.describe());
        for dot in &world.published {
            assert!(world.deliveries.contains_key(dot), "seed {seed}: {dot:?} was never delivered");
        }
        for (dot, why, deliveries) in &world.left {
            assert!(*why == Leave::Rejected || *deliveries == 3, "seed {seed}: {dot:?} {why:?} {deliveries}");
            assert!(world.deliveries[dot].0 >= *deliveries, "seed {seed}: {dot:?} was not seen as often");
        }
        for host in &world.hosts {
            assert_eq!((host.dispatch.owner.in_flight(), host.dispatch.edge.held()), (0, 0), "seed {seed}");
        }
    }
}

#[test]
fn nothing_is_stuck_or_early_or_for_others_with_priorities_delays_and_selectors() {
    for seed in 0..150 {
        check_rest(seed, rich_life(seed, 600));
    }
}

#[test]
fn without_faults_only_what_was_given_back_comes_again() {
    for seed in 0..100 {
        let world = random_life(1_000 + seed, 400, false);
        assert!(world.hosts.iter().all(|host| host.dispatch.duplicates() == 0), "seed {seed}");
        check_rest(seed, world);
    }
}

/// Two linked pairs: everything in flight at the survivor's edge stays there when the owner dies.
#[test]
fn a_takeover_holds_back_what_is_in_flight_and_marks_the_rest() {
    let mut world = World::new(1);
    for a in 0..NODES {
        (0..a).for_each(|b| world.link(a, b));
    }
    world.subscribe_to(2, "a".into(), 2);
    world.subscribe_to(2, "b".into(), 2);
    (0..10).for_each(|_| world.publish(0));
    world.settle_links();
    let held: Vec<_> = world.hosts[2].subscribers.values().flat_map(|subscriber| subscriber.has.clone()).collect();
    assert_eq!(held.len(), 4, "both consumers are full");

    world.cut(0, 1);
    world.cut(0, 2);
    for _ in 0..10 {
        world.pass_time(50);
        world.settle_links();
    }
    assert!(held.iter().all(|dot| world.deliveries[dot] == (1, 1)), "held back");
    for _ in 0..20 {
        world.settle(2, true);
        world.commit(2);
        world.settle_links();
    }
    assert_eq!(world.deliveries.len(), 10, "the rest comes from node 1");
    let again = world.deliveries.iter().filter(|(dot, _)| !held.contains(dot));
    assert!(again.into_iter().all(|(_, counts)| *counts == (1, 0)), "once, marked");
    assert_eq!(world.hosts[1].dispatch.duplicates(), 6);
    assert_ne!(id_of(0), id_of(1));
}
