//! Clusters of their own, with backlogs, clients and secrets, that become one: nothing is lost, nothing comes twice,
//! nothing moves, and no client notices.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_net::{MergeError, Size, Ticket};

use super::{
    clients::{Producer, Role},
    consumers::Consumer,
    faults::Fault,
    ledger::{Kind, MsgId},
    members::SETTLED_MS,
    rng::Rng,
    runs::expect_clean,
    topics::{Listener, Publisher},
    world::{Settings, World},
};

/// Seeds of each scenario.
const SEEDS: u64 = 24;

/// A link between any two hosts is up so many milliseconds after a merge began, if all of them run.
const MET_MS: u64 = 6_000;

/// Two queues, of the same names in every cluster.
const QUEUES: [usize; 2] = [0, 1];

/// What was there before a merge.
pub(crate) struct Before {
    /// Where the messages that waited had been, and may be.
    disks: BTreeMap<MsgId, BTreeSet<usize>>,
    /// Connections of clients, by client.
    conns: BTreeMap<usize, u64>,
}

impl World {
    /// An operator's ticket of one host, given to another.
    pub(crate) fn merge(&mut self, host: usize, with: usize) {
        self.merge_to(host, with, None);
    }

    pub(crate) fn ticket_of(&self, index: usize) -> Ticket {
        let host = &self.hosts[index];
        let address = std::net::SocketAddr::from(([10, 0, 0, index as u8], 7000));
        Ticket { secret: host.secret.clone(), node: host.identity, addresses: vec![address] }
    }

    /// The same with a wish for the number of members.
    pub(crate) fn merge_to(&mut self, host: usize, with: usize, size: Option<&Size>) {
        let ticket = self.ticket_of(with);
        let clocks = self.hosts[host].clocks(self.now);
        let Some(broker) = &mut self.hosts[host].broker else { return };
        let result = broker.merge(clocks, &ticket, size);
        // Amid faults an operator may not know how far it has come, nor, where others split clusters, who left whom.
        let is_known = match result {
            Err(MergeError::OwnNetwork) => self.settings.networks > 1,
            Err(MergeError::SplitOff) => self.splits_at_random(),
            _ => false,
        };
        if self.splits_at_random() {
            self.mended_at = Some(self.now);
        }
        if let Err(error) = result
            && !is_known
        {
            self.violate(Kind::Members, format!("h{host} does not merge with h{with}: {error}"));
        }
        self.settle(host);
    }

    /// An operator merges what is not one cluster yet.
    pub(crate) fn merge_all(&mut self) {
        // Where splits are to be healed as well, there is an operator for both: see `end_splits`.
        if self.splits_at_random() {
            return;
        }
        for other in 1..self.settings.networks {
            if !self.net.joined(0, other) {
                self.merge(other, 0);
            }
        }
    }

    /// Of every message that waits: on which disks it lies. And who is connected.
    pub(crate) fn before(&self) -> Before {
        let waits = |(id, msg): (MsgId, &super::ledger::Msg)| {
            (msg.confirmed.is_some() && msg.consumed.is_none()).then(|| (id, msg.ever.clone()))
        };
        let conns = self.clients.iter().enumerate().filter_map(|(index, client)| Some((index, client.conn?.0)));
        Before { disks: self.ledger.msgs().filter_map(waits).collect(), conns: conns.collect() }
    }

    /// No more copies were made of what had waited than it lacked, and nobody lost a connection.
    pub(crate) fn check_calm(&mut self, before: &Before) {
        if self.ledger.violation.is_some() {
            return;
        }
        let copies = self.settings.copies as usize;
        let moved = before.disks.iter().find_map(|(&id, disks)| {
            let now = &self.ledger.msgs().nth(id as usize)?.1.ever;
            let new = now.difference(disks).count();
            (new > copies.saturating_sub(disks.len())).then(|| format!("m{id} lay on {disks:?} and moved to {now:?}"))
        });
        if let Some(text) = moved {
            self.violate(Kind::Moved, text);
        }
        let dropped = before.conns.iter().find(|&(&client, &conn)| {
            let client = &self.clients[client];
            !client.retired && client.conn.is_none_or(|now| now.0 != conn)
        });
        if let Some((client, _)) = dropped {
            self.violate(Kind::Members, format!("c{client} lost its connection"));
        }
    }

    fn require_met(&mut self, what: &str) {
        if !self.all_joined() && self.ledger.violation.is_none() {
            self.violate(Kind::Members, format!("{what}: not all are linked"));
        }
    }
}

/// Clusters of so many hosts each, linked and at work: a backlog in each, and clients that go on.
fn clusters(seed: u64, printed: bool, sizes: &[usize]) -> (World, Vec<Vec<usize>>) {
    let mut rng = Rng::new(seed);
    let copies = rng.within(1, 3) as u32;
    let confirm = rng.within(1, copies.into()) as u32;
    let settings = Settings { copies, confirm, queues: QUEUES.len(), ..Settings::plain(&mut rng, 0, None) };
    let mut world = World::new(settings, rng, printed);
    let mut clusters = Vec::new();
    for (network, &size) in (1..).zip(sizes) {
        let first = world.hosts.len();
        let hosts: Vec<_> = (0..size).map(|place| world.add_host_of(network, (place > 0).then_some(first))).collect();
        clusters.push(hosts);
    }
    world.run_for(2_500);
    for hosts in &clusters {
        let host = world.rng.pick(hosts);
        let size = Size::Fixed(1 + world.rng.below(hosts.len()) as u32);
        world.strike(Fault::Size { host, size });
        produce(&mut world, host, 40, 2);
        let listener = Listener { topic: 0, since: None };
        world.add_client(Role::Listener(listener), Some(host));
    }
    world.run_for(SETTLED_MS);
    for (place, hosts) in clusters.iter().enumerate() {
        let others: Vec<_> = clusters[..place].iter().flatten().copied().collect();
        for &a in hosts {
            assert!(!others.iter().any(|&b| world.net.joined(a, b)), "networks of their own");
            assert!(hosts.iter().all(|&b| a == b || world.net.joined(a, b)), "of one network");
        }
    }
    (world, clusters)
}

fn produce(world: &mut World, host: usize, left: u32, pace_ms: u64) {
    let producer = Producer {
        queues: QUEUES.to_vec(),
        left,
        window: 20,
        pace_ms,
        transactions: 0.1,
        transient: 0.0,
        filling: 500,
    };
    world.add_client(Role::Producer(producer), Some(host));
}

/// Clients that work through a merge: producers, publishers, and consumers that do not keep up.
fn traffic(world: &mut World, clusters: &[Vec<usize>]) {
    for hosts in clusters {
        let host = world.rng.pick(hosts);
        produce(world, host, 60, 100);
        let work_ms = world.rng.pick(&[50, 400]);
        let slow = Consumer { work_ms, prefetch: 3, ..Consumer::patient(QUEUES.to_vec()) };
        let host = world.rng.pick(hosts);
        world.add_client(Role::Consumer(slow), Some(host));
        let host = world.rng.pick(hosts);
        world.add_client(Role::Publisher(Publisher { topic: 0, left: 60, pace_ms: 100 }), Some(host));
    }
    world.run_for(1_500);
}

fn sizes(seed: u64) -> Vec<usize> {
    let mut rng = Rng::new(seed ^ 0x5eed);
    (0..2 + seed % 3).map(|_| rng.within(1, 4) as usize).collect()
}

/// Members after a merge: as many as the operator has said.
fn settle_seats(world: &mut World, host: usize) {
    let size = world.rng.within(1, 5) as u32;
    world.strike(Fault::Size { host, size: Size::Fixed(size) });
    world.run_for(SETTLED_MS);
    let whole = vec![0; world.hosts.len()];
    world.check_seats(&whole, size as usize, "after the merge");
}

#[test]
fn clusters_with_backlogs_and_traffic_become_one_and_nobody_notices() {
    let script = |seed, printed| {
        let (mut world, clusters) = clusters(seed, printed, &sizes(seed));
        traffic(&mut world, &clusters);
        let before = world.before();
        for (place, hosts) in clusters.iter().enumerate().skip(1) {
            let host = world.rng.pick(hosts);
            // Any cluster that is there already, with any of its nodes.
            let other = world.rng.below(place);
            let with = world.rng.pick(&clusters[other]);
            world.strike(Fault::Merge { host, with, size: None });
            let pause = world.rng.pick(&[0, 0, 30, 4_000]);
            world.run_for(pause);
        }
        world.run_for(MET_MS);
        world.require_met("merged");
        let host = clusters[0][0];
        settle_seats(&mut world, host);
        world.check_calm(&before);
        world.heal_and_rest();
        world
    };
    expect_clean("clusters merge", &script, 0..2 * SEEDS);
}

#[test]
fn a_merge_from_both_sides_at_once_or_twice_is_the_same_merge() {
    let script = |seed, printed| {
        let (mut world, clusters) = clusters(seed, printed, &[2, 3]);
        traffic(&mut world, &clusters);
        let before = world.before();
        for _ in 0..3 {
            let (a, b) = (world.rng.pick(&clusters[0]), world.rng.pick(&clusters[1]));
            world.strike(Fault::Merge { host: a, with: b, size: None });
            world.strike(Fault::Merge { host: b, with: a, size: None });
            let pause = world.rng.pick(&[0, 5, 50, 1_000]);
            world.run_for(pause);
        }
        world.run_for(MET_MS);
        world.require_met("merged");
        let host = clusters[1][0];
        settle_seats(&mut world, host);
        world.check_calm(&before);
        world.heal_and_rest();
        world
    };
    expect_clean("merge from both sides", &script, 0..SEEDS);
}

#[test]
fn a_node_that_restarts_in_the_middle_of_a_merge_takes_part_in_it() {
    let script = |seed, printed| {
        let (mut world, clusters) = clusters(seed, printed, &[2, 2]);
        traffic(&mut world, &clusters);
        let (host, with) = (world.rng.pick(&clusters[0]), world.rng.pick(&clusters[1]));
        world.strike(Fault::Merge { host, with, size: None });
        // Often within the first exchange, and often the two that begin it.
        let pause = world.rng.pick(&[0, 3, 20, 60, 120, 250, 400, 1_000]);
        world.run_for(pause);
        let other = world.rng.below(4);
        let victim = world.rng.pick(&[host, with, other]);
        let keep = world.rng.chance(0.5);
        // A merge that was not on disk when its only node died was told to nobody.
        let begun = pause >= 120 || victim != host;
        let back = world.rng.within(50, 2_000);
        world.strike(Fault::Crash { host: victim, keep, back });
        world.run_for(back + 1_000);
        if !begun {
            world.strike(Fault::Merge { host, with, size: None });
        }
        world.run_for(MET_MS);
        world.require_met("merged, with a restart");
        settle_seats(&mut world, host);
        world.heal_and_rest();
        world
    };
    expect_clean("restart during a merge", &script, 0..2 * SEEDS);
}

#[test]
fn the_tickets_node_may_die_right_after_and_the_merge_still_comes_about() {
    let script = |seed, printed| {
        let (mut world, clusters) = clusters(seed, printed, &[2, 3]);
        traffic(&mut world, &clusters);
        let (host, with) = (world.rng.pick(&clusters[0]), world.rng.pick(&clusters[1]));
        world.strike(Fault::Merge { host, with, size: None });
        let pause = world.rng.pick(&[0, 20, 100, 400, 1_500]);
        world.run_for(pause);
        world.strike(Fault::Crash { host: with, keep: true, back: 20_000 });
        if world.rng.chance(0.5) {
            // Now the one that was asked is gone too: the others of its cluster have heard of it, if there was time.
            world.run_for(1_000);
            world.strike(Fault::Crash { host, keep: true, back: 30_000 });
            world.run_for(10_000);
        }
        world.run_for(20_000 + MET_MS);
        world.run_for(SETTLED_MS);
        world.require_met("merged, after the ticket's node came back");
        world.heal_and_rest();
        world
    };
    expect_clean("the ticket's node dies", &script, 0..SEEDS);
}

#[test]
fn clusters_that_lived_apart_for_a_month_and_consumed_everything_become_one() {
    let script = |seed, printed| {
        let (mut world, clusters) = clusters(seed, printed, &[2, 3]);
        for hosts in &clusters {
            let host = world.rng.pick(hosts);
            world.add_client(Role::Consumer(Consumer::patient(QUEUES.to_vec())), Some(host));
        }
        world.run_for(3_000);
        for _ in 0..30 {
            // A day without work goes by in one step, then there is some.
            world.hosts.iter_mut().for_each(|host| host.leap(86_400_000 - 4_000));
            (0..world.hosts.len()).for_each(|host| world.settle(host));
            world.run_for(2_000);
            for hosts in &clusters {
                let host = world.rng.pick(hosts);
                produce(&mut world, host, 5, 20);
            }
            world.run_for(2_000);
        }
        let waiting = world.ledger.msgs().filter(|(_, msg)| msg.consumed.is_none()).count();
        if waiting > 0 && world.ledger.violation.is_none() {
            world.violate(Kind::Lost, format!("{waiting} messages wait although everything is to be consumed"));
        }
        let before = world.before();
        let (host, with) = (world.rng.pick(&clusters[1]), world.rng.pick(&clusters[0]));
        world.strike(Fault::Merge { host, with, size: None });
        world.run_for(MET_MS);
        world.require_met("merged after a month");
        world.check_calm(&before);
        traffic(&mut world, &clusters);
        world.heal_and_rest();
        let again: u32 = world.ledger.msgs().map(|(_, msg)| msg.deliveries.saturating_sub(1)).sum();
        if again > 0 && world.ledger.violation.is_none() {
            world.violate(Kind::Resurrected, format!("{again} messages came again"));
        }
        world
    };
    expect_clean("merge after a month", &script, 0..SEEDS / 2);
}
