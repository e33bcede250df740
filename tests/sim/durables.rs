//! Durable subscriptions: what is sent to their topics is owed like what is sent to a queue, whoever reads them where and
//! whatever happens in between. The same oracle judges: nothing confirmed is lost, duplicates are marked, order holds.

use std::collections::BTreeSet;

use super::{
    agenda::Happening,
    clients::{DURABLE, Producer, Role},
    consumers::Consumer,
    faults::{Fault, FaultMix, group_ways},
    ledger::Kind,
    rng::Rng,
    runs::expect_clean,
    world::{Settings, World},
};

const SEEDS: u64 = 24;

fn world_of(seed: u64, printed: bool, hosts: usize) -> World {
    let mut rng = Rng::new(seed);
    let settings = Settings { durables: 1, ..Settings::plain(&mut rng, hosts, None) };
    let mut world = World::new(settings, rng, printed);
    world.run_for(2_500);
    world
}

fn produce(world: &mut World, host: Option<usize>, left: u32, pace_ms: u64) {
    let queues = vec![DURABLE, DURABLE, 0];
    let producer = Producer { queues, left, window: 20, pace_ms, transactions: 0.1, transient: 0.0, filling: 50 };
    world.add_client(Role::Producer(producer), host);
}

fn consume(world: &mut World, host: Option<usize>) -> usize {
    let prefetch = world.rng.pick(&[1, 3, 50]);
    let consumer = Consumer { prefetch, ..Consumer::patient(vec![DURABLE]) };
    world.add_client(Role::Consumer(consumer), host)
}

/// Somebody makes the subscription at a host, and goes away again.
fn make(world: &mut World, host: usize) {
    let client = consume(world, Some(host));
    world.run_for(1_000);
    world.retire_client(client);
    world.run_for(1_000);
}

/// All that is there of it, as each host knows it.
fn names(world: &World) -> Vec<Vec<String>> {
    let brokers = world.hosts.iter().filter_map(|host| host.broker.as_ref());
    brokers.map(|broker| broker.subscriptions().into_iter().map(|one| one.name).collect()).collect()
}

fn require(world: &mut World, holds: bool, what: &str) {
    if !holds && world.ledger.violation.is_none() {
        world.violate(Kind::Lost, what.to_owned());
    }
}

fn arrived(world: &World) -> usize {
    world.ledger.msgs().filter(|(_, msg)| msg.arrived).count()
}

#[test]
fn both_sides_of_a_cut_keep_what_is_sent_and_all_of_it_arrives_after_the_merge() {
    let script = |seed, printed| {
        let mut world = world_of(seed, printed, 3);
        let home = world.rng.below(3);
        make(&mut world, home);
        (0..3).for_each(|host| produce(&mut world, Some(host), 20, 5));
        world.run_for(1_000);
        let alone = world.rng.below(3);
        let groups: Vec<_> = (0..3).map(|host| usize::from(host == alone)).collect();
        world.strike(Fault::Cut { ways: group_ways(&groups), last: 20_000 });
        (0..3).for_each(|host| produce(&mut world, Some(host), 20, 50));
        world.run_for(10_000);
        // On one side it is read, on the other it waits.
        let reads = world.rng.below(3);
        consume(&mut world, Some(reads));
        world.run_for(15_000);
        let is_everywhere = names(&world).iter().all(|names| names.len() == 1);
        require(&mut world, is_everywhere, "it is there everywhere");
        world.heal_and_rest();
        world
    };
    expect_clean("durable over a cut", &script, 0..SEEDS);
}

#[test]
fn a_subscription_that_both_sides_make_is_one_after_the_cut() {
    let script = |seed, printed| {
        let mut world = world_of(seed, printed, 3);
        let alone = world.rng.below(3);
        let groups: Vec<_> = (0..3).map(|host| usize::from(host == alone)).collect();
        world.strike(Fault::Cut { ways: group_ways(&groups), last: 15_000 });
        world.run_for(5_000);
        make(&mut world, alone);
        make(&mut world, (alone + 1) % 3);
        (0..3).for_each(|host| produce(&mut world, Some(host), 30, 400));
        world.run_for(3_000);
        let reads = world.rng.below(3);
        consume(&mut world, Some(reads));
        world.run_for(25_000);
        let distinct: BTreeSet<_> = names(&world).into_iter().collect();
        require(&mut world, distinct.len() == 1 && distinct.iter().all(|names| names.len() == 1), "it is one");
        let (sent, got) = (world.ledger.msgs().count(), arrived(&world));
        require(&mut world, got * 3 > sent, "a consumer gets what both sides kept");
        world.heal_and_rest();
        world
    };
    expect_clean("durable on both sides", &script, 0..SEEDS);
}

#[test]
fn two_clusters_that_have_the_same_subscription_merge_and_a_consumer_gets_both_backlogs() {
    let script = |seed, printed| {
        let mut rng = Rng::new(seed);
        let settings = Settings { durables: 1, ..Settings::plain(&mut rng, 0, None) };
        let mut world = World::new(settings, rng, printed);
        for network in [1, 2] {
            let first = world.add_host_of(network, None);
            world.add_host_of(network, Some(first));
        }
        world.run_for(3_000);
        [0, 2].into_iter().for_each(|host| make(&mut world, host));
        (0..4).for_each(|host| produce(&mut world, Some(host), 30, 20));
        world.run_for(3_000);
        world.strike(Fault::Merge { host: 3, with: 0, size: None });
        world.run_for(10_000);
        let joined = world.all_joined();
        require(&mut world, joined, "the two are one");
        let confirmed = world.ledger.msgs().filter(|(_, msg)| msg.confirmed.is_some()).count();
        require(&mut world, confirmed == 120, "all is confirmed");
        let reads = world.rng.below(4);
        consume(&mut world, Some(reads));
        world.add_client(Role::Consumer(Consumer::patient(vec![0])), Some(reads));
        // One at a time, over slow disks, takes its while.
        world.run_for(30_000);
        let got = arrived(&world);
        require(&mut world, got == 120, "one consumer gets the messages of both");
        world.heal_and_rest();
        world
    };
    expect_clean("durable merge", &script, 0..SEEDS);
}

#[test]
fn under_crashes_and_cuts_nothing_for_a_durable_subscription_is_lost() {
    let script = |seed, printed| {
        let mut world = world_of(seed, printed, 3);
        make(&mut world, 0);
        // A disk that comes back empty knows of no subscriptions until it has met somebody.
        let mix = FaultMix { wipes: 0, restores: 0, drains: 0, ..FaultMix::random(&mut world.rng) };
        for (time, fault) in mix.plan(&mut world.rng, 3, 20_000) {
            world.agenda.at(world.now + time, Happening::Fault(fault));
        }
        (0..2).for_each(|_| produce(&mut world, None, 100, 100));
        for _ in 0..2 {
            let client = consume(&mut world, None);
            let (deaths, unsubscribes) = (world.rng.pick(&[0.0, 0.02]), world.rng.pick(&[0.0, 0.02]));
            if let Role::Consumer(consumer) = &mut world.clients[client].role {
                (consumer.deaths, consumer.unsubscribes) = (deaths, unsubscribes);
            }
        }
        world.run_for(22_000);
        world.heal_and_rest();
        world
    };
    expect_clean("durable and faults", &script, 0..2 * SEEDS);
}
