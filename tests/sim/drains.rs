//! Hosts that leave for good: what they held is elsewhere before they go, and they go, whatever else happens.

use rhizomq_net::DrainStage;

use super::{
    agenda::Happening,
    clients::{Producer, Role},
    consumers::Consumer,
    faults::{Fault, group_ways},
    ledger::Kind,
    oracle::UNDER_WAY_MS,
    rng::Rng,
    runs::expect_clean,
    world::{Settings, World},
};

const SEEDS: u64 = 12;

impl World {
    /// An operator lets a host leave for good.
    pub(crate) fn drain(&mut self, index: usize) {
        let clocks = self.hosts[index].clocks(self.now);
        // A process that was told to stop does nothing else any more.
        if self.hosts[index].stopping.is_some() {
            return;
        }
        let Some(broker) = &mut self.hosts[index].broker else { return };
        broker.drain(clocks);
        self.hosts[index].draining = true;
        self.hosts[index].has_drained = true;
        self.excused = true;
        self.trace.note(self.now, "drain", &[index as u64], format_args!("h{index}"));
        self.settle(index);
    }

    /// An operator takes that back, if it is not too late.
    pub(crate) fn cancel_drain(&mut self, index: usize) {
        if !self.hosts[index].draining {
            return;
        }
        // What is taken back while the process is down is taken back when it is up.
        self.boot(index);
        let clocks = self.hosts[index].clocks(self.now);
        let Some(broker) = &mut self.hosts[index].broker else { return };
        if broker.cancel_drain(clocks).is_ok() {
            self.hosts[index].draining = false;
            self.hosts[index].stays_since = Some(self.now);
            self.trace.note(self.now, "stays", &[index as u64], format_args!("h{index}"));
        } else {
            // Too late: it leaves, and is started again then.
            self.hosts[index].comes_back = true;
        }
        self.settle(index);
    }

    /// What drains is taken back, and who has left is started again, everywhere.
    pub(crate) fn cancel_drains(&mut self) {
        for index in 0..self.hosts.len() {
            let stage = self.hosts[index].broker.as_ref().map(|broker| broker.node().drain_stage());
            // A disk may have been replaced meanwhile, and the host hears from the others that it drains.
            self.hosts[index].draining |= stage.is_some_and(|stage| stage != DrainStage::No);
            self.cancel_drain(index);
            if std::mem::take(&mut self.hosts[index].gone) {
                self.boot(index);
            }
        }
    }

    /// The process of a host ends, for it has left.
    pub(crate) fn drained(&mut self, index: usize) {
        let left: Vec<_> = self.ledger.msgs().filter(|(_, msg)| msg.disks.contains(&index)).map(|(id, _)| id).collect();
        if self.hosts[index].disk.is_writing() || !left.is_empty() {
            self.violate(Kind::BadStop, format!("h{index} says that it has left and holds {left:?}"));
        }
        self.trace.note(self.now, "left", &[index as u64], format_args!("h{index}"));
        self.crash(index, false);
        self.hosts[index].draining = false;
        self.hosts[index].stays_since = Some(u64::MAX);
        self.hosts[index].gone = !std::mem::take(&mut self.hosts[index].comes_back);
        if !self.hosts[index].gone {
            self.agenda.at(self.now + 1_000, Happening::Fault(Fault::Boot { host: index }));
        }
    }

    /// On how many other disks a message is to be before a host gives its copy up: all that are wanted; if it leaves for
    /// good, as many as there are hosts that stay, as far as it can have heard of that.
    pub(crate) fn copies_before_leaving(&self, host: usize) -> usize {
        let wanted = self.settings.copies as usize;
        if !self.hosts[host].draining {
            return wanted;
        }
        // Hosts of another network are none of its cluster until the two have met, and told each other who they are.
        let met_by = self.now.saturating_sub(UNDER_WAY_MS);
        let is_near = |other: usize| {
            self.settings.networks < 2
                || self.hosts[other].secret == self.hosts[host].secret
                || self.net.joined_since(host, other, met_by)
        };
        let stay = (0..self.hosts.len()).filter(|&other| is_near(other) && self.stays(other)).count();
        wanted.min(stay.max(1))
    }

    /// Whether a host stays, as far as others can have heard of that.
    pub(crate) fn stays(&self, host: usize) -> bool {
        let is_known = |since: u64| since.saturating_add(UNDER_WAY_MS) < self.now;
        let host = &self.hosts[host];
        !host.draining && !host.gone && host.stays_since.is_none_or(is_known)
    }

    fn has_left(&self, host: usize) -> bool {
        self.hosts[host].gone
    }
}

fn hosts(seed: u64, printed: bool, count: usize) -> World {
    let mut rng = Rng::new(seed);
    let settings = Settings { queues: 2, ..Settings::plain(&mut rng, count, None) };
    let mut world = World::new(settings, rng, printed);
    world.run_for(3_000);
    assert!(world.all_joined(), "the hosts find each other within 3 s");
    world
}

fn produce(world: &mut World, host: usize, count: u32) {
    let pace_ms = world.rng.within(1, 40);
    let producer = Producer {
        queues: vec![0, 1],
        left: count,
        window: 20,
        pace_ms,
        transactions: 0.1,
        transient: 0.0,
        filling: 50,
    };
    world.add_client(Role::Producer(producer), Some(host));
}

fn consume(world: &mut World, host: usize) {
    let work_ms = world.rng.pick(&[0, 10, 100]);
    world.add_client(Role::Consumer(Consumer { work_ms, ..Consumer::patient(vec![0]) }), Some(host));
}

fn require(world: &mut World, holds: bool, what: &str) {
    if !holds && world.ledger.violation.is_none() {
        let states: Vec<_> = world
            .hosts
            .iter()
            .map(|host| host.broker.as_ref().and_then(|broker| broker.node().drain_status()))
            .collect();
        world.violate(Kind::Lost, format!("{what}: {states:?}"));
    }
}

/// Of what was confirmed and is not consumed, nothing is gone from all disks; and those that stay know nothing of the
/// others.
fn check_left(world: &mut World, left: &[usize]) {
    for &host in left {
        let has_left = world.has_left(host);
        require(world, has_left, &format!("h{host} has left"));
    }
    let kept = |msg: &super::ledger::Msg| msg.persistent && msg.confirmed.is_some() && msg.consumed.is_none();
    let gone = world.ledger.msgs().find(|(_, msg)| kept(msg) && msg.disks.is_empty()).map(|(id, _)| id);
    require(world, gone.is_none(), &format!("m{gone:?} is on no disk"));
    let stay: Vec<_> = (0..world.hosts.len()).filter(|&host| world.hosts[host].is_up()).collect();
    for &host in &stay {
        let status = world.hosts[host].broker.as_mut().map(|broker| broker.status());
        let known = status.as_ref().map_or(0, |status| status.nodes.len());
        let short = status.map_or(0, |status| status.under_replicated);
        require(world, known == stay.len(), &format!("h{host} knows {known} nodes"));
        require(world, short == 0, &format!("{short} lack copies at h{host}"));
    }
}

fn scenario(name: &str, count: usize, script: fn(&mut World)) {
    let whole = |seed, printed| {
        let mut world = hosts(seed, printed, count);
        script(&mut world);
        world.heal_and_rest();
        world
    };
    expect_clean(name, &whole, 0..SEEDS);
}

#[test]
fn a_host_drains_during_traffic_and_all_it_took_is_delivered() {
    scenario("drain in traffic", 4, |world| {
        (0..4).for_each(|host| produce(world, host, 300));
        (1..3).for_each(|host| consume(world, host));
        world.run_for(2_000);
        world.strike(Fault::Drain { host: 0, cancel: false });
        world.run_for(30_000);
        check_left(world, &[0]);
    });
}

#[test]
fn one_of_three_drains_although_three_copies_are_wanted() {
    scenario("drain one of three", 3, |world| {
        (0..3).for_each(|host| produce(world, host, 200));
        consume(world, 0);
        world.run_for(2_000);
        world.strike(Fault::Drain { host: 0, cancel: false });
        world.run_for(20_000);
        check_left(world, &[0]);
    });
}

#[test]
fn a_host_drains_while_another_dies() {
    scenario("drain and death", 5, |world| {
        (0..5).for_each(|host| produce(world, host, 150));
        consume(world, 3);
        world.run_for(1_500);
        world.strike(Fault::Drain { host: 0, cancel: false });
        let pause = world.rng.within(0, 3_000);
        world.run_for(pause);
        world.strike(Fault::Crash { host: 1, keep: true, back: 60_000 });
        world.run_for(40_000);
        let has_left = world.has_left(0);
        require(world, has_left, "enough others are there");
        world.run_for(25_000);
        check_left(world, &[0]);
    });
}

#[test]
fn two_hosts_drain_at_once() {
    scenario("two drains", 5, |world| {
        (0..5).for_each(|host| produce(world, host, 150));
        consume(world, 4);
        world.run_for(1_500);
        world.strike(Fault::Drain { host: 0, cancel: false });
        let pause = world.rng.within(0, 2_000);
        world.run_for(pause);
        world.strike(Fault::Drain { host: 1, cancel: false });
        world.run_for(40_000);
        check_left(world, &[0, 1]);
    });
}

#[test]
fn all_but_one_drain() {
    scenario("all but one", 4, |world| {
        (0..4).for_each(|host| produce(world, host, 100));
        world.run_for(2_000);
        for host in 0..3 {
            world.strike(Fault::Drain { host, cancel: false });
            let pause = world.rng.within(0, 1_000);
            world.run_for(pause);
        }
        world.run_for(50_000);
        check_left(world, &[0, 1, 2]);
    });
}

#[test]
fn an_observer_and_a_member_drain_and_the_member_has_a_successor() {
    scenario("drain of either role", 5, |world| {
        world.strike(Fault::Size { host: 0, size: "3".parse().expect("a size") });
        world.run_for(15_000);
        (0..5).for_each(|host| produce(world, host, 100));
        world.run_for(1_000);
        let is_member = |world: &World, host: usize| {
            world.hosts[host].broker.as_ref().is_some_and(|broker| broker.node().is_seated(broker.node().id()))
        };
        let member = (0..5).find(|&host| is_member(world, host)).unwrap_or(0);
        let observer = (0..5).find(|&host| !is_member(world, host)).unwrap_or(1);
        world.strike(Fault::Drain { host: member, cancel: false });
        world.run_for(300);
        let sits = is_member(world, member);
        require(world, !sits, "it gives its seat up at once");
        world.run_for(20_000);
        world.strike(Fault::Drain { host: observer, cancel: false });
        world.run_for(20_000);
        check_left(world, &[member, observer]);
        let members = (0..5).filter(|&host| is_member(world, host)).count();
        require(world, members == 3, &format!("{members} members are seated"));
    });
}

#[test]
fn nobody_leaves_who_is_alone_and_a_cancelled_drain_takes_clients_again() {
    scenario("alone", 2, |world| {
        produce(world, 0, 50);
        world.run_for(1_500);
        world.strike(Fault::Cut { ways: group_ways(&[0, 1]), last: 30_000 });
        world.run_for(3_000);
        world.strike(Fault::Drain { host: 0, cancel: false });
        world.run_for(20_000);
        let status = world.hosts[0].broker.as_ref().and_then(|broker| broker.node().drain_status());
        let waits = status.is_some_and(|status| status.hindrance.is_some() && status.stage == DrainStage::HandingOver);
        require(world, waits, "it says why it waits");
        world.strike(Fault::Drain { host: 0, cancel: true });
        produce(world, 0, 20);
        world.run_for(3_000);
        let confirmed = world.ledger.msgs().filter(|(_, msg)| msg.confirmed.is_some()).count();
        require(world, confirmed == 70, &format!("{confirmed} of 70 are confirmed"));
    });
}

#[test]
fn a_drain_goes_on_after_restarts_and_a_drained_directory_joins_anew() {
    scenario("drain over restarts", 4, |world| {
        (0..4).for_each(|host| produce(world, host, 150));
        world.run_for(1_500);
        world.strike(Fault::Drain { host: 0, cancel: false });
        for _ in 0..3 {
            let pause = world.rng.within(50, 2_500);
            world.run_for(pause);
            // Once it has taken its mark away it has left, and what remains is to end.
            let is_marked = world.hosts[0].broker.as_ref().is_some_and(|broker| {
                let node = broker.node();
                node.is_draining(node.id())
            });
            if is_marked {
                // The write that takes the mark away may be under way: it is lost, or the host joins anew.
                world.strike(Fault::Crash { host: 0, keep: false, back: 200 });
            }
        }
        world.run_for(40_000);
        check_left(world, &[0]);
        world.hosts[0].gone = false;
        world.strike(Fault::Boot { host: 0 });
        produce(world, 0, 20);
        world.run_for(6_000);
        let nodes = world.hosts[1].broker.as_mut().map_or(0, |broker| broker.status().nodes.len());
        require(world, nodes == 4, &format!("{nodes} nodes: it has joined again"));
    });
}

#[test]
fn nothing_is_given_up_while_those_who_are_to_have_it_are_slow() {
    let whole = |seed, printed| {
        let mut rng = Rng::new(seed);
        let settings = Settings { queues: 2, copies: 2, ..Settings::plain(&mut rng, 4, None) };
        let mut world = World::new(settings, rng, printed);
        world.run_for(3_000);
        (0..4).for_each(|host| produce(&mut world, host, 80));
        world.run_for(3_500);
        (1..4).for_each(|host| world.strike(Fault::Slow { host, ms: 2_500 }));
        world.strike(Fault::Drain { host: 0, cancel: false });
        world.run_for(60_000);
        check_left(&mut world, &[0]);
        world.heal_and_rest();
        world
    };
    expect_clean("drain with slow heirs", &whole, 0..SEEDS);
}
