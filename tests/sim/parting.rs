//! A cluster that an operator parts into two, at work: each message goes with the node that took it, is delivered in that
//! part alone, and has its copies there before the two lose sight of each other. Then they find together again.

mod corners;
mod plans;
mod planted;
mod random;
mod restored;

use std::collections::BTreeSet;

use rhizomq_engine::{Dot, Mistake, NodeId};
use rhizomq_net::{SplitOrder, rim::NetworkSecret};

pub(crate) use self::random::Operators;
use super::{
    clients::{Producer, Role},
    consumers::Consumer,
    faults::{Fault, group_ways},
    ledger::{Kind, MsgId},
    members::SETTLED_MS,
    rng::Rng,
    runs::expect_clean,
    world::{Settings, World},
};

const SEEDS: u64 = 24;

/// A split comes about within so many milliseconds when all are there.
pub(crate) const PARTED_MS: u64 = 30_000;

const QUEUES: [usize; 2] = [0, 1];

/// Later than any run.
const NEVER: u64 = 1 << 40;

/// An order that was given.
#[derive(Clone, Debug)]
pub(crate) struct Parting {
    /// Hosts that leave.
    pub(crate) leaving: BTreeSet<usize>,
    /// All that were one cluster.
    whole: BTreeSet<usize>,
    /// Of these, who was down, or out of sight: what such a one has of the other part stays with it.
    away: BTreeSet<usize>,
    /// Of these, whom an operator has given up: no copy waits for such a one.
    pub(crate) forgotten: BTreeSet<usize>,
    /// The two were seen to be apart: from now on nothing crosses, also not by a host that has not heard of it.
    is_done: bool,
}

impl World {
    /// An operator orders a split on a host. Whether it was taken.
    pub(crate) fn split(&mut self, host: usize, leaving: &BTreeSet<usize>, size: Option<u32>) -> bool {
        let ids: BTreeSet<NodeId> = leaving.iter().map(|&host| self.hosts[host].identity).collect();
        let mut secret = [0; 32];
        secret.iter_mut().for_each(|byte| *byte = self.rng.within(0, 255) as u8);
        let order = SplitOrder { name: "west".to_owned(), leaving: ids, size };
        let clocks = self.hosts[host].clocks(self.now);
        let Some(broker) = &mut self.hosts[host].broker else { return false };
        let result = broker.split(clocks, order, NetworkSecret::from_bytes(secret));
        if let Err(error) = &result {
            self.violate(Kind::Members, format!("h{host} does not split: {error}"));
        } else {
            self.excused = true;
            let roster = broker.node().roster();
            let is_in = |host: &usize| roster.iter().any(|entry| entry.id == self.hosts[*host].identity);
            let whole: BTreeSet<_> = (0..self.hosts.len()).filter(is_in).collect();
            let away = whole.iter().copied().filter(|&host| !self.hosts[host].is_up()).collect();
            self.parting =
                Some(Parting { leaving: leaving.clone(), whole, away, forgotten: BTreeSet::new(), is_done: false });
        }
        self.settle(host);
        result.is_ok()
    }

    /// Hosts of the part that a host is in, if a split was ordered.
    pub(crate) fn part_size(&self, host: usize) -> usize {
        let Some(parting) = &self.parting else { return self.always_with(host) };
        let leaves = |host: &usize| parting.leaving.contains(host);
        let part = parting.whole.iter().filter(|other| leaves(other) == leaves(&host));
        part.filter(|other| !parting.forgotten.contains(other)).count()
    }

    pub(crate) fn origin(&self, dot: Dot) -> Option<usize> {
        (0..self.hosts.len()).find(|&host| self.hosts[host].identity == dot.segment.node)
    }

    fn is_inside(&self, dot: Dot, host: usize) -> bool {
        let Some(parting) = &self.parting else { return true };
        self.origin(dot).is_none_or(|origin| parting.leaving.contains(&origin) == parting.leaving.contains(&host))
    }

    /// Disks of its own part on which a message lies, and how many there must be before one of the other part drops it.
    pub(crate) fn copies_inside(&mut self, dot: Dot, wanted: usize) -> Option<(usize, usize)> {
        if self.splits_at_random() {
            return self.copies_amid_splits(dot, wanted);
        }
        if self.mended_at.is_some_and(|at| self.now < at + SETTLED_MS) {
            // A node that was away may have brought copies to nodes that are on no list: these go again.
            let disks = self.ledger.msgs().find(|(_, msg)| msg.dot == Some(dot)).map(|(_, msg)| msg.disks.len())?;
            let part = self.origin(dot).map_or(self.hosts.len(), |origin| self.part_size(origin));
            return Some((disks, part.min(self.settings.confirm as usize)));
        }
        self.parting.as_ref()?;
        let origin = self.origin(dot)?;
        let disks = self.ledger.msgs().find(|(_, msg)| msg.dot == Some(dot)).map(|(_, msg)| msg.disks.clone())?;
        let inside = disks.iter().filter(|&&host| self.is_inside(dot, host)).count();
        Some((inside, self.part_size(origin).min(self.settings.confirm as usize)))
    }

    /// What a part has lost sight of is none of its business.
    pub(crate) fn check_crossing(&mut self, host: usize, dot: Dot, id: MsgId) {
        let is_gone = |broker: &rhizomq_stomp::broker::Broker| broker.node().is_gone(dot.segment.node);
        let is_done = self.parting.as_ref().is_some_and(|parting| parting.is_done);
        if self.hosts[host].broker.as_ref().is_some_and(is_gone) || is_done && !self.is_inside(dot, host) {
            self.violate(Kind::Crossed, format!("m{id} {dot:?} of the other part is delivered at h{host}"));
        }
    }

    fn require(&mut self, holds: bool, what: &str) {
        if !holds && self.ledger.violation.is_none() {
            self.violate(Kind::Members, what.to_owned());
        }
    }

    /// The part that each host is of: 1 leaves, 0 stays, and 2 has nothing to do with it.
    fn groups(&self) -> Vec<usize> {
        let group = |host: usize| match &self.parting {
            Some(parting) if !parting.whole.contains(&host) => 2,
            Some(parting) => usize::from(parting.leaving.contains(&host)),
            None => 0,
        };
        (0..self.hosts.len()).map(group).collect()
    }

    /// How far each is, for people.
    pub(crate) fn split_states(&self) -> String {
        let state = |(index, host): (usize, &super::host::Host)| {
            let node = host.broker.as_ref()?.node();
            let status = node.split_status().map(|status| (status.waits_for, status.foreign, status.lacks_secret));
            let strayed = node.strayed().map(|strayed| strayed.lacks_secret);
            let (id, gone, network) = (node.id(), node.gone().collect::<Vec<_>>(), host.secret.as_bytes()[0]);
            Some(format!("h{index} {id:?} of {network} gone {gone:?} open {status:?} lacks secret {strayed:?}"))
        };
        self.hosts.iter().enumerate().filter_map(state).collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn is_linked(&self, a: usize, b: usize) -> bool {
        let (broker, there) = (self.hosts[a].broker.as_ref(), self.hosts[b].identity);
        broker.is_some_and(|broker| broker.node().roster().iter().any(|entry| entry.id == there && entry.linked))
    }

    /// The two parts are clusters of their own: linked within, with members of their own, and all that waits has its copies
    /// in the part that took it.
    pub(crate) fn check_parted(&mut self, what: &str) {
        let groups = self.groups();
        let states = self.split_states();
        let up: Vec<_> = (0..self.hosts.len()).filter(|&host| self.hosts[host].is_up()).collect();
        for (place, &a) in up.iter().enumerate() {
            for &b in &up[..place] {
                let wanted = groups[a] == groups[b];
                // One that is told again and again that it is of the other part has a tunnel, and no link.
                let joined = if wanted { self.net.joined(a, b) } else { self.is_linked(a, b) };
                self.require(joined == wanted, &format!("{what}: h{a} and h{b} are linked: {joined}; {states}"));
            }
            let status = self.hosts[a].broker.as_ref().and_then(|broker| broker.node().split_status());
            self.require(status.is_none(), &format!("{what}: at h{a} it is under way: {status:?}"));
        }
        if let Some(parting) = &mut self.parting {
            parting.is_done = true;
        }
        self.check_rosters(&groups, what);
        let hosts: Vec<_> = (0..self.hosts.len()).collect();
        if let Some(text) = self.wrong_seats(&hosts, &groups, None) {
            self.require(false, &format!("{what}: {text}"));
        }
        let copies = self.settings.copies as usize;
        let away = self.parting.as_ref().map(|parting| parting.away.clone()).unwrap_or_default();
        let wrong = self.ledger.msgs().find_map(|(id, msg)| {
            let (dot, kept) = (msg.dot?, msg.persistent && msg.confirmed.is_some() && msg.consumed.is_none());
            let kept = kept && groups[self.origin(dot)?] < 2;
            let inside = msg.disks.iter().filter(|&&host| self.is_inside(dot, host)).count();
            let wanted = copies.min(self.part_size(self.origin(dot)?));
            let may_lie = |host: &usize| self.is_inside(dot, *host) || away.contains(host);
            let is_right = inside >= wanted && msg.disks.iter().all(may_lie);
            (kept && !is_right)
                .then(|| format!("{what}: m{id} {dot:?} lies on {:?}, {wanted} inside; {states}", msg.disks))
        });
        if let Some(text) = wrong.filter(|_| self.ledger.violation.is_none()) {
            self.violate(Kind::TooFewCopies, text);
        }
    }

    /// Every host knows all of its part, be they dead, and nobody else.
    fn check_rosters(&mut self, groups: &[usize], what: &str) {
        for host in 0..self.hosts.len() {
            let Some(broker) = &self.hosts[host].broker else { continue };
            let known: BTreeSet<_> = broker.node().roster().iter().map(|entry| entry.id).collect();
            let of_part = |other: &usize| groups[*other] == groups[host];
            let part: BTreeSet<_> =
                (0..self.hosts.len()).filter(of_part).map(|other| self.hosts[other].identity).collect();
            self.require(known == part, &format!("{what}: h{host} knows {known:?}, and its part is {part:?}"));
        }
    }

    /// The part that stays merges with the one that left.
    fn mend(&mut self) {
        self.mended_at = Some(self.now);
        let leaving = self.parting.take().map(|parting| parting.leaving).unwrap_or_default();
        let all: Vec<_> = (0..self.hosts.len()).collect();
        let (left, stayed): (Vec<_>, Vec<_>) = all.into_iter().partition(|host| leaving.contains(host));
        let up = |hosts: Vec<usize>| hosts.into_iter().filter(|&host| self.hosts[host].is_up()).collect::<Vec<_>>();
        let (left, stayed) = (up(left), up(stayed));
        let (host, with) = (self.rng.pick(&stayed), self.rng.pick(&left));
        self.merge(host, with);
    }
}

fn produce(world: &mut World, host: usize, left: u32, pace_ms: u64) {
    let producer = Producer {
        queues: QUEUES.to_vec(),
        left,
        window: 20,
        pace_ms,
        transactions: 0.1,
        transient: 0.0,
        filling: 300,
    };
    world.add_client(Role::Producer(producer), Some(host));
}

fn consume(world: &mut World, host: usize, work_ms: u64) {
    let consumer = Consumer { work_ms, prefetch: 3, ..Consumer::patient(QUEUES.to_vec()) };
    world.add_client(Role::Consumer(consumer), Some(host));
}

/// A cluster with a backlog, and some of its hosts, at least one and not all.
fn cluster(seed: u64, printed: bool) -> (World, BTreeSet<usize>) {
    cluster_with(seed, printed, None)
}

/// The same with a planted mistake.
fn cluster_with(seed: u64, printed: bool, mistake: Option<Mistake>) -> (World, BTreeSet<usize>) {
    let mut rng = Rng::new(seed);
    let count = rng.within(2, 6) as usize;
    let copies = rng.within(1, 3) as u32;
    let confirm = rng.within(1, copies.into()) as u32;
    let settings = Settings { copies, confirm, queues: QUEUES.len(), ..Settings::plain(&mut rng, count, mistake) };
    let mut world = World::new(settings, rng, printed);
    world.run_for(3_000);
    assert!(world.all_joined(), "the hosts find each other within 3 s");
    (0..count).for_each(|host| produce(&mut world, host, 20, 5));
    world.run_for(2_000);
    let order = world.shuffled((0..count).collect());
    let many = world.rng.within(1, count as u64 - 1) as usize;
    let leaving = order[..many].iter().copied().collect();
    (world, leaving)
}

/// Producers and consumers on all hosts, which do not keep up.
fn traffic(world: &mut World) {
    for host in 0..world.hosts.len() {
        produce(world, host, 60, 200);
        if world.rng.chance(0.6) {
            let work_ms = world.rng.pick(&[0, 50, 300]);
            consume(world, host, work_ms);
        }
    }
    world.run_for(1_000);
}

fn any_host(world: &mut World) -> usize {
    let count = world.hosts.len();
    world.rng.below(count)
}

fn staying(world: &World, leaving: &BTreeSet<usize>) -> Vec<usize> {
    (0..world.hosts.len()).filter(|host| !leaving.contains(host)).collect()
}

/// Together again, to the end.
fn mend_and_rest(world: &mut World) {
    // One is not there at that time, and is known to both all the same.
    let away = world.hosts.len() > 2 && world.rng.chance(0.4);
    let away = away.then(|| any_host(world)).filter(|&host| world.part_size(host) > 1);
    if let Some(host) = away {
        world.strike(Fault::Crash { host, keep: true, back: NEVER });
        world.run_for(5_000);
    }
    world.mend();
    world.run_for(SETTLED_MS);
    let whole = vec![0; world.hosts.len()];
    world.check_rosters(&whole, "merged again");
    if let Some(host) = away {
        world.boot(host);
        world.run_for(10_000);
    }
    let joined = world.all_joined();
    world.require(joined, "merged again, and not all are linked");
    world.heal_and_rest();
}

#[test]
fn a_cluster_that_is_parted_at_work_is_two_and_each_delivers_what_it_took() {
    let script = |seed, printed| {
        let (mut world, leaving) = cluster(seed, printed);
        traffic(&mut world);
        let host = any_host(&mut world);
        world.split(host, &leaving, Some(1));
        world.run_for(PARTED_MS);
        world.check_parted("parted");
        if world.rng.chance(0.5) {
            // All is consumed in both parts, each by clients of its own.
            (0..world.hosts.len()).for_each(|host| consume(&mut world, host, 0));
            world.run_for(10_000);
            let waiting = world.ledger.msgs().filter(|(_, msg)| msg.consumed.is_none()).count();
            world.require(waiting == 0, &format!("{waiting} messages wait in parts with consumers"));
        }
        mend_and_rest(&mut world);
        world
    };
    expect_clean("parted at work", &script, 0..2 * SEEDS);
}

#[test]
fn a_split_goes_on_over_crashes_restarts_and_cuts_and_comes_about() {
    let script = |seed, printed| {
        let (mut world, leaving) = cluster(seed, printed);
        traffic(&mut world);
        let host = any_host(&mut world);
        world.split(host, &leaving, None);
        let pause = world.rng.pick(&[0, 20, 100, 500, 1_000, 3_000]);
        world.run_for(pause);
        let count = world.hosts.len();
        for _ in 0..3 {
            // A host whose commit was not on disk when it died has told nobody.
            let victim = world.rng.below(count);
            let keep = victim == host || world.rng.chance(0.5);
            match world.rng.below(4) {
                0 => world.strike(Fault::Crash { host: victim, keep, back: 3_000 }),
                1 if pause > 0 => world.strike(Fault::Blackout { back: 3_000 }),
                2 => {
                    let groups: Vec<_> = (0..count).map(|other| usize::from(other == victim)).collect();
                    world.strike(Fault::Cut { ways: group_ways(&groups), last: 4_000 });
                }
                _ => {}
            }
            let pause = world.rng.within(0, 4_000);
            world.run_for(pause);
        }
        world.run_for(5_000);
        let begun = (0..count).any(|host| {
            let node = world.hosts[host].broker.as_ref().map(|broker| broker.node());
            node.is_some_and(|node| node.split_status().is_some() || node.gone().next().is_some())
        });
        // Whoever was asked may have died before it was on its disk.
        if begun {
            world.run_for(PARTED_MS + 10_000);
            world.check_parted("parted, after all that");
            mend_and_rest(&mut world);
        } else {
            world.parting = None;
            world.heal_and_rest();
        }
        world
    };
    expect_clean("split with faults", &script, 0..3 * SEEDS);
}

#[test]
fn who_was_away_when_it_was_ordered_stays_and_keeps_what_is_of_the_others_to_itself() {
    let script = |seed, printed| {
        let (mut world, leaving) = cluster(seed, printed);
        let staying: Vec<_> = (0..world.hosts.len()).filter(|host| !leaving.contains(host)).collect();
        if staying.len() < 2 {
            return world;
        }
        traffic(&mut world);
        let away = world.rng.pick(&staying);
        world.strike(Fault::Crash { host: away, keep: true, back: NEVER });
        world.run_for(15_000);
        let host = world.rng.pick(&staying);
        let host = if host == away { *leaving.iter().next().expect("one leaves") } else { host };
        world.split(host, &leaving, None);
        world.run_for(PARTED_MS);
        world.boot(away);
        world.run_for(SETTLED_MS);
        let groups = world.groups();
        for other in (0..world.hosts.len()).filter(|&other| other != away) {
            let joined = world.net.joined(away, other);
            world.require(joined == (groups[other] == 0), &format!("h{away}, back, and h{other}: {joined}"));
        }
        mend_and_rest(&mut world);
        world
    };
    expect_clean("away during a split", &script, 0..2 * SEEDS);
}

#[test]
fn an_order_is_taken_back_and_the_cluster_stays_one() {
    let script = |seed, printed| {
        let (mut world, leaving) = cluster(seed, printed);
        traffic(&mut world);
        // A disk that takes its time keeps everybody waiting.
        let slow = any_host(&mut world);
        world.strike(Fault::Slow { host: slow, ms: 2_500 });
        let host = any_host(&mut world);
        world.split(host, &leaving, None);
        let pause = world.rng.within(0, 3_000);
        world.run_for(pause);
        let clocks = world.hosts[slow].clocks(world.now);
        let broker = world.hosts[slow].broker.as_mut().expect("nobody died");
        let taken_back = broker.cancel_split(clocks).is_ok();
        world.settle(slow);
        world.run_for(20_000);
        if taken_back {
            world.parting = None;
            let joined = world.all_joined();
            world.require(joined, "taken back, and not all are linked");
            world.heal_and_rest();
        } else {
            // It had not heard of it yet, or had done its part already.
            world.strike(Fault::Slow { host: slow, ms: 0 });
            world.run_for(PARTED_MS);
            world.check_parted("parted, slowly");
            mend_and_rest(&mut world);
        }
        world
    };
    expect_clean("split taken back", &script, 0..SEEDS);
}

#[test]
fn a_part_that_left_merges_with_another_cluster_and_comes_home() {
    let script = |seed, printed| {
        let (mut world, leaving) = cluster(seed, printed);
        let first = world.hosts.len();
        let stranger = world.add_host_of(9, None);
        world.run_for(3_000);
        produce(&mut world, stranger, 30, 10);
        let host = world.rng.below(first);
        world.split(host, &leaving, None);
        world.run_for(PARTED_MS);
        let left: Vec<_> = leaving.iter().copied().collect();
        let with = world.rng.pick(&left);
        world.merge(stranger, with);
        world.run_for(SETTLED_MS);
        for &host in &left {
            let joined = world.net.joined(stranger, host);
            world.require(joined, &format!("h{stranger} merged with h{with} and has no link to h{host}"));
        }
        for host in (0..first).filter(|host| !leaving.contains(host)) {
            let joined = world.net.joined(stranger, host);
            world.require(!joined, &format!("h{stranger} is linked with h{host}, which it has never heard of"));
        }
        let stayed: Vec<_> = (0..first).filter(|host| !leaving.contains(host)).collect();
        let (host, with) = (world.rng.pick(&stayed), world.rng.pick(&left));
        world.parting = None;
        world.merge(host, with);
        world.run_for(SETTLED_MS);
        let joined = world.all_joined();
        world.require(joined, "all three are one, and not all are linked");
        world.heal_and_rest();
        world
    };
    expect_clean("split, merge, merge", &script, 0..SEEDS);
}
