//! Who sits where: hosts die, split, meet and restart, and after each of it every side has as many members as it is to
//! have, the same ones as all its hosts see it, with no more changes of seats than that takes.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::{Mistake, NodeId};
use rhizomq_net::{Node, Size, View};

use super::{
    faults::{Fault, group_ways},
    ledger::Kind,
    rng::Rng,
    runs::{expect_caught, expect_clean},
    world::{Settings, World},
};

/// Milliseconds after which seats have settled, whatever happened: it is noticed, told, waited for, and done.
pub(crate) const SETTLED_MS: u64 = 25_000;

/// Seeds of each scenario.
const SEEDS: u64 = 12;

/// Seats as hosts know them of themselves.
#[derive(Default)]
pub(crate) struct Seats {
    /// By host, in which life.
    seated: BTreeMap<usize, u32>,
    /// Seats taken and left. A seat that goes with its host's life is not left.
    changes: usize,
}

impl World {
    fn node(&self, host: usize) -> Option<&Node> {
        self.hosts[host].broker.as_ref().map(|broker| broker.node())
    }

    pub(crate) fn set_size(&mut self, host: usize, size: &Size) {
        let clocks = self.hosts[host].clocks(self.now);
        let Some(broker) = &mut self.hosts[host].broker else { return };
        broker.set_size(clocks, size).expect("a lawful size");
        self.settle(host);
    }

    /// Counts how often seats change.
    pub(crate) fn look_at_seats(&mut self) {
        for host in 0..self.hosts.len() {
            let Some(node) = self.node(host) else {
                self.seats.seated.remove(&host);
                continue;
            };
            let is_seated = node.is_seated(node.id());
            let life = self.hosts[host].life;
            let seated = &mut self.seats.seated;
            let before = if is_seated { seated.insert(host, life) } else { seated.remove(&host) };
            let has_changed = if is_seated { before.is_none() } else { before == Some(life) };
            if has_changed {
                self.seats.changes += 1;
                if self.trace.printed {
                    let what = if is_seated { "takes a seat" } else { "leaves its seat" };
                    println!("{:>7}.{:03} h{host} {what}", self.now / 1000, self.now % 1000);
                }
            }
        }
    }

    /// What is wrong with the members of sides, `groups[host]` being a host's side: hosts that see it differently, not
    /// as many as there are to be (`size`, or what the policy says there), seats that are not those of the members.
    pub(crate) fn wrong_seats(&self, groups: &[usize], size: Option<usize>) -> Option<String> {
        let mut views: BTreeMap<usize, (usize, View)> = BTreeMap::new();
        for host in 0..self.hosts.len() {
            let Some(node) = self.node(host) else { continue };
            let live = |other: &usize| groups[*other] == groups[host];
            let live: BTreeSet<NodeId> =
                (0..self.hosts.len()).filter(live).filter_map(|other| self.node(other)).map(Node::id).collect();
            let view = node.members();
            let (first, common) = views.entry(groups[host]).or_insert_with(|| (host, view.clone()));
            if common != view {
                return Some(format!("h{first} sees {common:?}, h{host} {view:?}"));
            }
            let wanted = size.unwrap_or(view.size as usize).min(live.len());
            let all: BTreeSet<_> = view.members.union(&view.observers).copied().collect();
            if view.members.len() != wanted || all != live {
                return Some(format!("h{host} sees {view:?}; {wanted} of {live:?} are to be members"));
            }
            for other in &live {
                if node.is_seated(*other) != view.members.contains(other) {
                    let seated = node.is_seated(*other);
                    return Some(format!("at h{host} {other:?} is seated: {seated}, and the view is {view:?}"));
                }
            }
        }
        None
    }

    pub(crate) fn check_seats(&mut self, groups: &[usize], size: usize, what: &str) {
        if let Some(text) = self.wrong_seats(groups, Some(size)).filter(|_| self.ledger.violation.is_none()) {
            self.violate(Kind::Members, format!("{what}: {text}"));
        }
    }

    /// Since the last such check at most so many seats changed.
    fn check_changes(&mut self, allowed: usize, what: &str) {
        let changes = std::mem::take(&mut self.seats.changes);
        if changes > allowed && self.ledger.violation.is_none() {
            self.violate(Kind::SeatChanges, format!("{what}: {changes} changes of seats, {allowed} are enough"));
        }
    }

    fn seated(&self) -> Vec<usize> {
        let is_seated = |host: &usize| self.node(*host).is_some_and(|node| node.is_seated(node.id()));
        (0..self.hosts.len()).filter(is_seated).collect()
    }

    fn up(&self) -> usize {
        self.hosts.iter().filter(|host| host.is_up()).count()
    }

    fn shuffled(&mut self, mut hosts: Vec<usize>) -> Vec<usize> {
        for last in (1..hosts.len()).rev() {
            let other = self.rng.below(last + 1);
            hosts.swap(last, other);
        }
        hosts
    }
}

/// Hosts that have found each other, of which `size` are members.
fn cluster(seed: u64, printed: bool, hosts: usize, size: u32, mistake: Option<Mistake>) -> World {
    let mut rng = Rng::new(seed);
    let settings = Settings::plain(&mut rng, hosts, mistake);
    let mut world = World::new(settings, rng, printed);
    world.run_for(2_500);
    let host = world.rng.below(hosts);
    world.strike(Fault::Size { host, size: Size::Fixed(size) });
    world.run_for(SETTLED_MS);
    let whole = vec![0; hosts];
    world.check_seats(&whole, size as usize, "in the beginning");
    world.check_changes((size as usize).min(hosts), "in the beginning");
    world
}

const NEVER: u64 = 1 << 40;

fn crash(world: &mut World, host: usize, back: u64) {
    let keep = world.rng.chance(0.5);
    world.strike(Fault::Crash { host, keep, back });
}

/// So many of five members fail, within so many milliseconds of each other; then they come back.
fn members_fail(seed: u64, printed: bool, count: usize, pause_ms: u64) -> World {
    let mut world = cluster(seed, printed, 9, 5, None);
    let whole = vec![0; 9];
    let seated = world.seated();
    let victims = world.shuffled(seated);
    for &host in &victims[..count] {
        crash(&mut world, host, NEVER);
        let pause = world.rng.within(0, pause_ms);
        world.run_for(pause);
    }
    world.run_for(SETTLED_MS);
    world.check_seats(&whole, 5, "after failures");
    world.check_changes(count.min(4), "after failures");
    let before: BTreeSet<_> = world.seated().into_iter().collect();
    for &host in &victims[..count] {
        world.boot(host);
        let pause = world.rng.within(0, pause_ms);
        world.run_for(pause);
    }
    world.run_for(SETTLED_MS);
    world.check_seats(&whole, 5, "after their return");
    world.check_changes(0, "after their return");
    if before != world.seated().into_iter().collect() && world.ledger.violation.is_none() {
        world.violate(Kind::SeatChanges, "who returned took a place again".to_owned());
    }
    world.heal_and_rest();
    world
}

#[test]
fn members_fail_at_once_and_as_many_observers_take_their_places_for_good() {
    for count in 1..5 {
        let script = move |seed, printed| members_fail(seed, printed, count, 0);
        expect_clean(&format!("{count} of 5 members fail at once"), &script, 0..SEEDS);
    }
}

#[test]
fn members_fail_one_by_one_and_as_many_observers_take_their_places_for_good() {
    for count in 2..5 {
        let script = move |seed, printed| members_fail(seed, printed, count, 8_000);
        expect_clean(&format!("{count} of 5 members fail one by one"), &script, 0..SEEDS);
    }
}

/// An observer that is about to take a failed member's place fails too.
#[test]
fn observers_fail_while_they_apply() {
    let script = |seed, printed| {
        let mut world = cluster(seed, printed, 7, 3, None);
        let seated = world.seated();
        let victim = world.rng.pick(&seated);
        crash(&mut world, victim, NEVER);
        let pause = world.rng.within(1_500, 8_000);
        world.run_for(pause);
        let witness = (0..7).find(|&host| host != victim && seated.contains(&host)).expect("two are left");
        let elected = world.node(witness).map(|node| node.members().members.clone()).unwrap_or_default();
        let applies = |&host: &usize| !seated.contains(&host) && elected.contains(&world.hosts[host].identity);
        let applies = (0..7).find(applies);
        if let Some(host) = applies {
            crash(&mut world, host, NEVER);
        }
        world.run_for(SETTLED_MS);
        let whole = vec![0; 7];
        world.check_seats(&whole, 3, "after both failed");
        world.check_changes(2, "after both failed");
        world.heal_and_rest();
        world
    };
    expect_clean("observers fail while they apply", &script, 0..2 * SEEDS);
}

/// Nine hosts fall into two to four sides and find together again.
#[test]
fn sides_of_a_split_fill_up_and_give_up_what_is_too_much_when_they_meet() {
    let script = |seed, printed| {
        let size = 1 + (seed % 4) as usize;
        let mut world = cluster(seed, printed, 9, size as u32, None);
        let parts = world.rng.within(2, 4) as usize;
        let order = world.shuffled((0..9).collect());
        let mut groups = vec![0; 9];
        for (place, &host) in order.iter().enumerate() {
            // One for each side at least.
            groups[host] = if place < parts { place } else { world.rng.below(parts) };
        }
        let before = world.seated();
        let needed: usize = (0..parts)
            .map(|part| {
                let here = (0..9).filter(|&host| groups[host] == part).count();
                let seated = before.iter().filter(|&&host| groups[host] == part).count();
                here.min(size) - seated
            })
            .sum();
        world.strike(Fault::Cut { ways: group_ways(&groups), last: NEVER });
        world.run_for(SETTLED_MS);
        world.check_seats(&groups, size, "apart");
        world.check_changes(needed, "apart");
        world.uncut_all();
        world.run_for(SETTLED_MS);
        let whole = vec![0; 9];
        world.check_seats(&whole, size, "together again");
        world.check_changes(needed, "together again");
        world.heal_and_rest();
        world
    };
    expect_clean("split into 2 to 4", &script, 0..3 * SEEDS);
}

/// Two clusters of their own meet.
#[test]
fn two_clusters_meet_and_settle_at_one_size() {
    let script = |seed, printed| {
        let mut rng = Rng::new(seed);
        let settings = Settings::plain(&mut rng, 7, None);
        let mut world = World::new(settings, rng, printed);
        let first = world.rng.within(2, 5) as usize;
        for host in first..7 {
            world.hosts[host].ticket = (host > first).then_some(first);
        }
        world.run_for(2_500);
        world.strike(Fault::Size { host: 0, size: Size::Fixed(2) });
        world.strike(Fault::Size { host: first, size: Size::Fixed(2) });
        world.run_for(SETTLED_MS);
        let groups: Vec<_> = (0..7).map(|host| usize::from(host >= first)).collect();
        world.check_seats(&groups, 2, "before");
        world.check_changes(4, "before");
        // The policy is one register: whichever was written last holds, so it is written again.
        world.hosts[first].ticket = Some(0);
        world.run_for(1_500);
        let size = world.rng.within(1, 5) as usize;
        world.strike(Fault::Size { host: 6, size: Size::Fixed(size as u32) });
        world.run_for(SETTLED_MS);
        let whole = vec![0; 7];
        world.check_seats(&whole, size, "after");
        world.check_changes(size.abs_diff(4), "after");
        world.heal_and_rest();
        world
    };
    expect_clean("two clusters meet", &script, 0..2 * SEEDS);
}

/// The size changes while members fail and clocks jump.
#[test]
fn the_size_changes_while_members_fail_and_clocks_jump() {
    let script = |seed, printed| {
        let mut world = cluster(seed, printed, 8, 4, None);
        let whole = vec![0; 8];
        for round in 0..3 {
            let seated = world.seated();
            let victim = world.rng.pick(&seated);
            crash(&mut world, victim, NEVER);
            let by_ms = world.rng.within(0, 7_200_000) as i64 - 3_600_000;
            let (host, jumper) = world.rng.two_below(8);
            world.strike(Fault::Clock { host: jumper, by_ms });
            let pause = world.rng.within(0, 6_000);
            world.run_for(pause);
            let size = world.rng.pick(&[1, 2, 3, 5, 7]);
            let host = if world.hosts[host].is_up() { host } else { (host + 1) % 8 };
            let host = if world.hosts[host].is_up() {
                host
            } else {
                (0..8).find(|&host| world.hosts[host].is_up()).unwrap_or(0)
            };
            world.strike(Fault::Size { host, size: Size::Fixed(size) });
            world.run_for(SETTLED_MS);
            let size = size as usize;
            world.check_seats(&whole, size, &format!("round {round}"));
            // What the failure took may have been filled before the size was heard of.
            let needed = size.min(world.up()).abs_diff(seated.len() - 1);
            world.check_changes(needed + 2, &format!("round {round}"));
        }
        world.heal_and_rest();
        world
    };
    expect_clean("size changes", &script, 0..2 * SEEDS);
}

/// Two sides that a bridge alone sees, and a direction that is cut: one component, and all its hosts see it alike.
#[test]
fn a_bridge_and_a_one_way_cut_leave_one_cluster_with_one_view() {
    let script = |seed, printed| {
        let mut world = cluster(seed, printed, 7, 3, None);
        let order = world.shuffled((0..7).collect());
        let few = &order[..2];
        let many = &order[3..];
        let seated = world.seated();
        let lost = few.iter().filter(|host| seated.contains(host)).count();
        let mut ways = Vec::new();
        for &a in few {
            many.iter().for_each(|&b| ways.extend([(a, b), (b, a)]));
        }
        world.strike(Fault::Cut { ways, last: 2 * SETTLED_MS });
        world.run_for(SETTLED_MS);
        world.check_seats(&[0; 7], 3, "with a bridge");
        world.check_changes(2 * lost, "with a bridge");
        if few.iter().any(|host| world.seated().contains(host)) && world.ledger.violation.is_none() {
            world.violate(Kind::Members, "a member that most do not reach".to_owned());
        }
        world.run_for(2 * SETTLED_MS);
        world.check_seats(&[0; 7], 3, "whole again");
        world.check_changes(0, "whole again");
        let (from, to) = world.rng.two_below(7);
        world.strike(Fault::Cut { ways: vec![(from, to)], last: SETTLED_MS });
        world.run_for(SETTLED_MS - 1_000);
        world.check_seats(&[0; 7], 3, "one direction cut");
        world.check_changes(0, "one direction cut");
        world.heal_and_rest();
        world
    };
    expect_clean("a bridge", &script, 0..2 * SEEDS);
}

#[test]
fn policies_follow_what_is_within_reach() {
    let script = |seed, printed| {
        let mut world = cluster(seed, printed, 6, 2, None);
        let groups = [0, 0, 0, 0, 1, 1];
        let size = "preset 1-2:all, 3-4:3, 5+:5".parse().expect("a lawful size");
        world.strike(Fault::Size { host: 1, size });
        world.run_for(SETTLED_MS);
        world.check_seats(&[0; 6], 5, "six of one preset");
        world.strike(Fault::Cut { ways: group_ways(&groups), last: 2 * SETTLED_MS });
        world.run_for(SETTLED_MS);
        let sizes = [0, 4].map(|host| world.node(host).map(|node| node.members().members.len()));
        if sizes != [Some(3), Some(2)] && world.ledger.violation.is_none() {
            world.violate(Kind::Members, format!("4|2 have {sizes:?} members"));
        }
        if let Some(text) = world.wrong_seats(&groups, None) {
            world.violate(Kind::Members, text);
        }
        world.run_for(2 * SETTLED_MS);
        world.check_seats(&[0; 6], 5, "six again");
        world.strike(Fault::Size { host: 5, size: Size::Negotiate });
        world.run_for(SETTLED_MS);
        world.check_seats(&[0; 6], 3, "all propose as many as there are copies");
        world.heal_and_rest();
        world
    };
    expect_clean("presets and proposals", &script, 0..SEEDS);
}

/// A member restarts every 20 s, for ten minutes.
fn restarting(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let mut world = cluster(seed, printed, 5, 3, mistake);
    let seated = world.seated();
    let host = world.rng.pick(&seated);
    // Down for so long that it is missed, or not.
    let back = world.rng.pick(&[100, 3_000, 8_000, 9_000]);
    for _ in 0..30 {
        crash(&mut world, host, back);
        world.run_for(20_000);
    }
    // Its place is taken once. An hour would have six times as many.
    world.check_changes(1, "a member restarts every 20 s for ten minutes");
    world.check_seats(&[0; 5], 3, "a member restarts every 20 s for ten minutes");
    world.heal_and_rest();
    world
}

#[test]
fn a_member_that_restarts_again_and_again_loses_its_seat_once() {
    expect_clean("restarts", &|seed, printed| restarting(seed, printed, None), 0..SEEDS);
}

#[test]
fn mistake_seats_without_epoch() {
    let script = |seed, printed| restarting(seed, printed, Some(Mistake::SeatsWithoutEpoch));
    expect_caught("seats without epoch", &script, &[Kind::SeatChanges, Kind::Members]);
}

/// A link that breaks and heals again and again, of a host that is a member.
#[test]
fn a_member_that_comes_and_goes_loses_its_seat_to_one_that_stays() {
    let script = |seed, printed| {
        let mut world = cluster(seed, printed, 5, 2, None);
        let seated = world.seated();
        let host = world.rng.pick(&seated);
        let groups: Vec<_> = (0..5).map(|other| usize::from(other == host)).collect();
        let mut steady = Vec::new();
        for round in 0..12 {
            world.strike(Fault::Cut { ways: group_ways(&groups), last: 12_000 });
            world.run_for(24_000);
            world.check_seats(&[0; 5], 2, "a flapping member");
            // Alone it is its own cluster, and a member there.
            world.check_changes(2, "a member went and came");
            if round >= 4 && (steady != world.seated() || steady.contains(&host)) && world.ledger.violation.is_none() {
                world.violate(Kind::Members, format!("the flapping h{host} moves others: {:?}", world.seated()));
            }
            steady = world.seated();
        }
        world.heal_and_rest();
        world
    };
    expect_clean("a flapping member", &script, 0..SEEDS);
}
