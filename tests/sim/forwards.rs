//! Clients of observers: a member keeps what they send, whatever happens to links, members and seats meanwhile.

use std::collections::BTreeSet;

use rhizomq_engine::NodeId;

use super::{
    clients::{Producer, Role},
    consumers::Consumer,
    faults::{Fault, group_ways},
    ledger::Kind,
    rng::Rng,
    runs::expect_clean,
    world::{Settings, World},
};

const SEEDS: u64 = 12;

impl World {
    fn id(&self, host: usize) -> Option<NodeId> {
        Some(self.hosts[host].broker.as_ref()?.node().id())
    }

    fn members_at(&self, host: usize) -> BTreeSet<NodeId> {
        self.hosts[host].broker.as_ref().map(|broker| broker.node().members().members.clone()).unwrap_or_default()
    }

    /// Hosts that observe.
    fn observers(&self) -> Vec<usize> {
        let observes = |host: &usize| self.id(*host).is_some_and(|id| !self.members_at(*host).contains(&id));
        (0..self.hosts.len()).filter(observes).collect()
    }

    /// The host that keeps what new clients of another one send.
    fn gateway_of(&self, host: usize) -> Option<usize> {
        let gateway = self.hosts[host].broker.as_ref()?.node().gateway()?;
        (0..self.hosts.len()).find(|other| self.id(*other) == Some(gateway))
    }
}

fn produce(world: &mut World, host: usize, count: u32, pace_ms: u64) -> usize {
    let producer =
        Producer { queues: vec![0], left: count, window: 20, pace_ms, transactions: 0.2, transient: 0.1, filling: 50 };
    world.add_client(Role::Producer(producer), Some(host))
}

fn consume(world: &mut World, host: usize) {
    world.add_client(Role::Consumer(Consumer { transactions: 0.3, ..Consumer::patient(vec![0]) }), Some(host));
}

fn require(world: &mut World, holds: bool, what: &str) {
    if !holds && world.ledger.violation.is_none() {
        let confirmed = world.ledger.msgs().filter(|(_, msg)| msg.confirmed.is_some()).count();
        world.violate(Kind::Lost, format!("{what}; {confirmed} confirmed"));
    }
}

fn count(world: &World, is: impl Fn(&super::ledger::Msg) -> bool) -> usize {
    world.ledger.msgs().filter(|(_, msg)| is(msg)).count()
}

/// Five hosts of which three are members.
fn scenario(name: &str, script: fn(&mut World)) {
    let whole = |seed, printed| {
        let mut rng = Rng::new(seed);
        let settings = Settings::plain(&mut rng, 5, None);
        let mut world = World::new(settings, rng, printed);
        world.run_for(3_000);
        world.strike(Fault::Size { host: 0, size: "3".parse().expect("a size") });
        world.run_for(15_000);
        let observers = world.observers();
        require(&mut world, observers.len() == 2, &format!("{observers:?} observe"));
        script(&mut world);
        world.heal_and_rest();
        world
    };
    expect_clean(name, &whole, 0..SEEDS);
}

#[test]
fn members_keep_what_clients_of_observers_send() {
    scenario("forwarding", |world| {
        let observers = world.observers();
        for &host in &observers {
            produce(world, host, 100, 2);
        }
        observers.iter().for_each(|&host| consume(world, host));
        world.run_for(8_000);
        let members = world.members_at(0);
        let kept = count(world, |msg| msg.dot.is_some_and(|dot| members.contains(&dot.segment.node)));
        require(world, kept == 200, &format!("{kept} of 200 lie in the journals of members"));
        let (all, once) =
            (count(world, |msg| msg.arrived), count(world, |msg| msg.deliveries == 1 && msg.unmarked == 1));
        require(world, (all, once) == (200, 200), &format!("{all} arrive, {once} of them once"));
    });
}

#[test]
fn a_link_that_breaks_and_comes_back_costs_nothing() {
    scenario("forwarding over broken links", |world| {
        let observer = world.observers()[0];
        let Some(member) = world.gateway_of(observer) else { return require(world, false, "it has a gateway") };
        let client = produce(world, observer, 200, 4);
        world.run_for(300);
        let conn = world.clients[client].conn;
        for _ in 0..6 {
            let pause = world.rng.within(5, 400);
            world.run_for(pause);
            world.strike(Fault::Reset { a: observer, b: member });
        }
        world.run_for(8_000);
        let stays = conn.is_some() && world.clients[client].conn == conn;
        require(world, stays, "the client's connection stays");
        let confirmed = count(world, |msg| msg.confirmed.is_some());
        require(world, confirmed == 200, "all are confirmed");
    });
}

#[test]
fn when_its_member_dies_an_observers_clients_go_on_with_another() {
    scenario("forwarding and deaths", |world| {
        for _ in 0..2 {
            let observers = world.observers();
            let before = world.ledger.msgs().count();
            for &host in &observers {
                produce(world, host, 150, 10);
            }
            consume(world, observers[0]);
            let pause = world.rng.within(100, 1_200);
            world.run_for(pause);
            let Some(member) = world.gateway_of(observers[0]) else { return require(world, false, "a gateway") };
            world.strike(Fault::Crash { host: member, keep: true, back: 20_000 });
            world.run_for(12_000);
            let sent = world.ledger.msgs().count() - before;
            let lost = world
                .ledger
                .msgs()
                .skip(before)
                .filter(|(_, msg)| msg.persistent && msg.confirmed.is_some() && !msg.arrived)
                .count();
            require(world, sent == 300 && lost == 0, &format!("{sent} sent, {lost} confirmed and not delivered"));
            world.run_for(20_000);
        }
    });
}

#[test]
fn an_observer_that_reaches_no_member_takes_messages_itself() {
    scenario("an observer alone", |world| {
        let observer = world.observers()[0];
        let groups: Vec<_> = (0..5).map(|host| usize::from(host == observer)).collect();
        world.strike(Fault::Cut { ways: group_ways(&groups), last: 20_000 });
        world.run_for(8_000);
        produce(world, observer, 30, 2);
        world.run_for(4_000);
        let here = world.id(observer);
        let kept =
            count(world, |msg| msg.confirmed.is_some() && msg.dot.is_some_and(|dot| Some(dot.segment.node) == here));
        require(world, kept == 30, &format!("{kept} of 30 are in its journal"));
        world.run_for(10_000);
    });
}

#[test]
fn seats_change_under_producers_and_consumers_everywhere() {
    scenario("forwarding and seats", |world| {
        for host in 0..5 {
            produce(world, host, 400, 60);
            consume(world, host);
        }
        for size in ["1", "4", "2", "5", "3"] {
            let host = world.rng.below(5);
            world.strike(Fault::Size { host, size: size.parse().expect("a size") });
            let pause = world.rng.within(2_000, 9_000);
            world.run_for(pause);
        }
        world.run_for(10_000);
        let confirmed = count(world, |msg| msg.confirmed.is_some());
        require(world, confirmed == 2_000, "no seat is worth a client's connection");
    });
}

#[test]
fn a_full_disk_at_the_member_is_told_to_the_observers_client() {
    scenario("forwarding to a full disk", |world| {
        let observer = world.observers()[0];
        let Some(member) = world.gateway_of(observer) else { return require(world, false, "it has a gateway") };
        produce(world, observer, 40, 5);
        world.run_for(100);
        world.strike(Fault::Full { host: member, times: 2 });
        world.run_for(8_000);
        let (sent, confirmed) = (world.ledger.msgs().count(), count(world, |msg| msg.confirmed.is_some()));
        require(world, sent == 40 && (1..40).contains(&confirmed), &format!("{confirmed} of {sent}"));
    });
}

#[test]
fn a_member_drains_and_its_observers_clients_go_on() {
    scenario("forwarding to one that drains", |world| {
        let observer = world.observers()[0];
        let Some(member) = world.gateway_of(observer) else { return require(world, false, "it has a gateway") };
        produce(world, observer, 300, 20);
        consume(world, observer);
        world.run_for(1_000);
        world.strike(Fault::Drain { host: member, cancel: false });
        world.run_for(25_000);
        let gone = world.hosts[member].gone;
        let lost = count(world, |msg| msg.persistent && msg.confirmed.is_some() && !msg.arrived);
        let sent = world.ledger.msgs().count();
        require(
            world,
            gone && sent == 300 && lost == 0,
            &format!("it has left: {gone}, {lost} of {sent} not delivered"),
        );
    });
}

#[test]
fn what_an_observers_client_sends_stays_in_order_although_its_member_is_cut_off() {
    scenario("forwarding around a cut", |world| {
        let observer = world.observers()[0];
        let Some(member) = world.gateway_of(observer) else { return require(world, false, "it has a gateway") };
        produce(world, observer, 200, 40);
        let pause = world.rng.within(500, 2_000);
        world.run_for(pause);
        world.strike(Fault::Cut { ways: vec![(observer, member), (member, observer)], last: 12_000 });
        world.run_for(10_000);
        let other = (0..5).find(|host| ![observer, member].contains(host)).unwrap_or(0);
        consume(world, other);
        world.run_for(12_000);
        let sent = world.ledger.msgs().count();
        let lost = count(world, |msg| msg.persistent && msg.confirmed.is_some() && !msg.arrived);
        require(world, sent == 200 && lost == 0, &format!("{lost} of {sent} are not delivered"));
    });
}

#[test]
fn a_connection_that_was_idle_while_its_member_was_lost_does_not_go_on_in_another_journal() {
    scenario("forwarding after a pause", |world| {
        let observer = world.observers()[0];
        let Some(member) = world.gateway_of(observer) else { return require(world, false, "it has a gateway") };
        for _ in 0..4 {
            produce(world, observer, 4, 14_000);
        }
        world.run_for(1_500);
        world.strike(Fault::Cut { ways: vec![(observer, member), (member, observer)], last: 11_000 });
        world.run_for(17_000);
        let other = (0..5).find(|host| ![observer, member].contains(host)).unwrap_or(0);
        consume(world, other);
        world.run_for(40_000);
    });
}
