//! Splits in which somebody is away, forgotten, or has seen another split before.

use std::collections::BTreeSet;

use rhizomq_engine::Mistake;
use rhizomq_net::Size;

use super::{
    super::{
        faults::{Fault, group_ways},
        ledger::Kind,
        members::SETTLED_MS,
        runs::{expect_caught, expect_clean, expect_told},
        world::World,
    },
    NEVER, PARTED_MS, SEEDS, any_host, cluster, cluster_with, consume, staying, traffic,
};

impl World {
    /// Who is linked with whom is exactly this: `part` names each host's cluster.
    pub(super) fn check_links(&mut self, part: &[usize], what: &str) {
        let up: Vec<_> = (0..self.hosts.len()).filter(|&host| self.hosts[host].is_up()).collect();
        let states = self.split_states();
        for &a in &up {
            for &b in up.iter().filter(|&&b| b < a) {
                let wanted = part[a] == part[b];
                // One that is told again and again that it is of the other part has a tunnel, and no link.
                let joined = self.is_linked(a, b);
                self.require(joined == wanted, &format!("{what}: h{a} and h{b} are linked: {joined}; {states}"));
            }
        }
    }

    /// Whether all that are up have cut.
    pub(super) fn is_cut(&self) -> bool {
        let up = self.hosts.iter().filter_map(|host| host.broker.as_ref());
        up.into_iter().all(|broker| broker.node().gone().next().is_some() && broker.node().split_status().is_none())
    }

    /// Nothing of the other part is delivered any more, whoever has heard of the split.
    fn nothing_crosses(&mut self) {
        if let Some(parting) = &mut self.parting {
            parting.is_done = true;
        }
    }

    fn kill_for_good(&mut self, host: usize) {
        self.strike(Fault::Crash { host, keep: true, back: NEVER });
    }

    /// An operator on `host` forgets another one, as soon as that is held dead.
    fn forget(&mut self, host: usize, other: usize) {
        for _ in 0..60 {
            let (clocks, node) = (self.hosts[host].clocks(self.now), self.hosts[other].identity);
            let Some(broker) = &mut self.hosts[host].broker else { return };
            let is_forgotten = broker.forget(clocks, node).is_ok();
            self.settle(host);
            if is_forgotten {
                self.parting.iter_mut().for_each(|parting| _ = parting.forgotten.insert(other));
                return;
            }
            self.run_for(500);
        }
        self.require(false, &format!("h{host} can't forget h{other}"));
    }
}

/// All are one, and come to rest.
fn end_as_one(mut world: World) -> World {
    world.parting = None;
    world.run_for(SETTLED_MS);
    let one = vec![0; world.hosts.len()];
    world.check_links(&one, "at last one");
    world.heal_and_rest();
    world
}

#[test]
fn who_was_down_and_comes_back_alone_learns_of_the_split_from_the_other_part() {
    let script = |seed, printed| {
        let (mut world, leaving) = cluster(seed, printed);
        let stay = staying(&world, &leaving);
        if stay.len() < 2 {
            return world;
        }
        traffic(&mut world);
        let away = world.rng.pick(&stay);
        world.kill_for_good(away);
        world.run_for(15_000);
        let host = *stay.iter().find(|&&host| host != away).expect("two stay");
        world.split(host, &leaving, None);
        world.run_for(PARTED_MS);
        if !world.is_cut() {
            // Where the only other node of its part is away, what it took may have too few copies inside: it is waited for.
            world.require(stay.len() == 2 || leaving.len() == 1, "not parted");
            return world;
        }
        world.nothing_crosses();
        stay.iter().filter(|&&host| host != away).for_each(|&host| world.kill_for_good(host));
        world.run_for(2_000);
        world.boot(away);
        consume(&mut world, away, 0);
        world.run_for(30_000);
        let groups = world.groups();
        world.check_links(&groups, "back alone");
        for &host in &leaving {
            let (node, broker) = (world.hosts[host].identity, world.hosts[away].broker.as_ref());
            let is_gone = broker.is_some_and(|broker| broker.node().is_gone(node));
            world.require(is_gone, &format!("h{away} has not heard that h{host} has left"));
        }
        stay.iter().filter(|&&host| host != away).for_each(|&host| world.boot(host));
        world.run_for(SETTLED_MS);
        world.check_links(&groups, "all of that part are back");
        let with = *leaving.iter().next().expect("one left");
        world.mended_at = Some(world.now);
        world.merge(away, with);
        end_as_one(world)
    };
    expect_clean("back alone after a split", &script, 0..2 * SEEDS);
}

#[test]
fn what_was_consumed_where_nobody_had_heard_of_the_split_is_known_to_both_parts() {
    expect_told("consumed out of sight of a split", &|seed, printed| out_of_sight(seed, printed, None), 0..4 * SEEDS);
}

#[test]
fn mistake_part_silently() {
    let script = |seed, printed| out_of_sight(seed, printed, Some(Mistake::PartSilently));
    expect_caught("parting silently", &script, &[Kind::Members]);
}

/// One that stays is cut off, and consumes all that it has, before anybody has ordered the split.
fn out_of_sight(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let (mut world, leaving) = cluster_with(seed, printed, mistake);
    let stay = staying(&world, &leaving);
    if stay.len() < 2 {
        return world;
    }
    let away = world.rng.pick(&stay);
    let groups: Vec<_> = (0..world.hosts.len()).map(|host| usize::from(host == away)).collect();
    world.strike(Fault::Cut { ways: group_ways(&groups), last: NEVER });
    world.run_for(5_000);
    consume(&mut world, away, 0);
    world.run_for(5_000);
    let consumed: Vec<_> = world.ledger.msgs().filter(|(_, msg)| msg.acked.is_some()).map(|(id, _)| id).collect();
    let host = *stay.iter().find(|&&host| host != away).expect("two stay");
    world.split(host, &leaving, None);
    world.parting.iter_mut().for_each(|parting| _ = parting.away.insert(away));
    world.run_for(PARTED_MS);
    let is_cut = world.hosts[host].broker.as_ref().is_some_and(|broker| broker.node().gone().next().is_some());
    if !is_cut {
        // What it took may have too few copies inside its part without it: it is waited for.
        return world;
    }
    world.nothing_crosses();
    world.uncut_all();
    world.run_for(SETTLED_MS);
    leaving.iter().for_each(|&host| consume(&mut world, host, 0));
    world.run_for(10_000);
    for &id in &consumed {
        let deliveries = world.ledger.msg(id).deliveries;
        world.require(deliveries == 1, &format!("m{id} was consumed at h{away} and came {deliveries} times"));
    }
    world.mended_at = Some(world.now);
    let with = *leaving.iter().next().expect("one left");
    world.merge(away, with);
    world.is_told = !consumed.is_empty();
    end_as_one(world)
}

#[test]
fn one_that_was_to_leave_and_was_forgotten_brings_the_parts_together_by_no_means() {
    let script = |seed, printed| {
        let (mut world, leaving) = cluster(seed, printed);
        if leaving.len() < 2 {
            return world;
        }
        traffic(&mut world);
        let left: Vec<_> = leaving.iter().copied().collect();
        let lost = world.rng.pick(&left);
        let hosts: Vec<_> = (0..world.hosts.len()).filter(|&host| host != lost).collect();
        let host = world.rng.pick(&hosts);
        world.split(host, &leaving, None);
        let pause = world.rng.pick(&[0, 5, 20, 200]);
        world.run_for(pause);
        world.kill_for_good(lost);
        world.run_for(10_000);
        let clock = world.rng.pick(&hosts);
        world.forget(clock, lost);
        world.run_for(PARTED_MS);
        if !world.is_cut() {
            let states = world.split_states();
            world.require(false, &format!("not parted: {states}"));
            return world;
        }
        world.boot(lost);
        world.run_for(SETTLED_MS);
        // With its part if it had got the secret before, else alone.
        let mut part = world.groups();
        let other = *left.iter().find(|&&host| host != lost).expect("two leave");
        let is_alone = !world.is_linked(lost, other);
        if is_alone {
            part[lost] = 2;
        }
        world.check_links(&part, "one was forgotten");
        let stay = staying(&world, &leaving);
        let host = world.rng.pick(&stay);
        world.mended_at = Some(world.now);
        // A merge with either; whoever was not meant and goes on knocking may have heard of it by then.
        let first = if is_alone && world.rng.chance(0.5) { lost } else { other };
        world.merge(host, first);
        world.run_for(SETTLED_MS);
        let joined = world.is_linked(host, first);
        world.require(joined, &format!("h{host} merged with h{first}; {}", world.split_states()));
        for with in [other, lost] {
            if !world.is_linked(host, with) {
                world.mended_at = Some(world.now);
                world.merge(host, with);
                world.run_for(SETTLED_MS);
            }
        }
        end_as_one(world)
    };
    expect_clean("forgotten while it was to leave", &script, 0..3 * SEEDS);
}

#[test]
fn a_part_that_left_is_split_again_and_all_come_together_in_any_order() {
    let script = |seed, printed| {
        let (mut world, mut leaving) = cluster(seed, printed);
        if world.hosts.len() < 3 {
            return world;
        }
        if leaving.len() < 2 {
            leaving = staying(&world, &leaving).into_iter().collect();
        }
        traffic(&mut world);
        let host = any_host(&mut world);
        world.split(host, &leaving, None);
        world.run_for(PARTED_MS);
        world.check_parted("the first");
        let left: Vec<_> = leaving.iter().copied().collect();
        let stay = staying(&world, &leaving);
        let [first, rest @ ..] = &left[..] else { unreachable!("two left") };
        let again: BTreeSet<_> = [*first].into();
        let mut part = world.groups();
        part[*first] = 2;
        let host = world.rng.pick(&left);
        world.split(host, &again, None);
        world.run_for(PARTED_MS);
        world.check_links(&part, "the second");
        world.mended_at = Some(world.now);
        // The node on which a merge is ordered stayed when the other one left.
        let (a, b, c) = (world.rng.pick(&stay), world.rng.pick(rest), *first);
        let orders = [[(a, c), (a, b)], [(b, c), (a, b)], [(a, b), (b, c)], [(b, c), (a, c)], [(a, b), (a, c)]];
        for (host, with) in world.rng.pick(&orders) {
            world.parting = None;
            world.merge(host, with);
            world.run_for(SETTLED_MS);
            let joined = world.is_linked(host, with);
            world.require(joined, &format!("h{host} merged with h{with}"));
        }
        end_as_one(world)
    };
    expect_clean("two splits", &script, 0..2 * SEEDS);
}

#[test]
fn one_that_was_ready_and_died_before_the_cut_finds_its_part_though_that_was_split_again() {
    let script = |seed, printed| {
        let (mut world, leaving) = cluster(seed, printed);
        if leaving.len() < 3 {
            return world;
        }
        let left: Vec<_> = leaving.iter().copied().collect();
        let stay = staying(&world, &leaving);
        let slow = world.rng.pick(&stay);
        world.strike(Fault::Slow { host: slow, ms: 2_500 });
        let lost = left[0];
        world.split(left[1], &leaving, None);
        let is_ready = |world: &World| {
            let waits_for = |host: usize| {
                let broker = world.hosts[host].broker.as_ref();
                broker
                    .and_then(|broker| broker.node().split_status())
                    .is_none_or(|status| status.waits_for.contains(&world.hosts[lost].identity))
            };
            // And others know.
            !waits_for(lost) && !waits_for(left[1])
        };
        for _ in 0..400 {
            if is_ready(&world) {
                break;
            }
            world.run_for(20);
        }
        let was_ready = is_ready(&world);
        world.kill_for_good(lost);
        world.strike(Fault::Slow { host: slow, ms: 0 });
        world.run_for(PARTED_MS);
        let again: BTreeSet<_> = [left[1]].into();
        let mut part = world.groups();
        part[left[1]] = 2;
        if !was_ready || !world.is_cut() {
            // What was to be on three disks before its receipt waits for the third one of its part.
            let is_short = world.settings.confirm == 3;
            world.require(!was_ready || is_short, "not parted");
            world.parting = None;
            return world;
        }
        world.check_links(&part.iter().map(|&part| part.min(1)).collect::<Vec<_>>(), "the first");
        world.split(left[2], &again, None);
        world.run_for(PARTED_MS);
        world.boot(lost);
        world.run_for(SETTLED_MS);
        world.check_links(&part, "back after the second");
        world.mended_at = Some(world.now);
        world.parting = None;
        world.merge(left[2], left[1]);
        world.run_for(SETTLED_MS);
        world.merge(stay[0], left[2]);
        end_as_one(world)
    };
    expect_clean("ready, dead, and split again", &script, 0..4 * SEEDS);
}

#[test]
fn who_comes_back_while_the_split_is_under_way_is_waited_for() {
    let script = |seed, printed| {
        let (mut world, leaving) = cluster(seed, printed);
        let stay = staying(&world, &leaving);
        if stay.len() < 2 {
            return world;
        }
        traffic(&mut world);
        let away = world.rng.pick(&stay);
        world.kill_for_good(away);
        world.run_for(15_000);
        let host = *stay.iter().find(|&&host| host != away).expect("two stay");
        // It is back before anybody can have cut, and takes far longer than the others until it holds nothing of theirs.
        world.strike(Fault::Slow { host, ms: 400 });
        world.strike(Fault::Slow { host: away, ms: 3_000 });
        world.boot(away);
        world.split(host, &leaving, None);
        world.run_for(2_500);
        let is_open = world.hosts.iter().all(|host| {
            let node = host.broker.as_ref().map(|broker| broker.node());
            node.is_none_or(|node| node.gone().next().is_none())
        });
        world.require(is_open, "somebody has cut, and has not waited for it");
        world.strike(Fault::Slow { host, ms: 0 });
        world.strike(Fault::Slow { host: away, ms: 0 });
        world.run_for(PARTED_MS);
        world.check_parted("parted, with one that came back");
        world.mended_at = Some(world.now);
        world.merge(away, *leaving.iter().next().expect("one left"));
        end_as_one(world)
    };
    expect_clean("back while it is under way", &script, 0..SEEDS);
}

#[test]
fn who_was_to_leave_and_comes_late_leaves_the_policy_of_its_part_as_it_is() {
    let script = |seed, printed| {
        let (mut world, leaving) = cluster(seed, printed);
        if leaving.len() < 2 {
            return world;
        }
        let left: Vec<_> = leaving.iter().copied().collect();
        let stay = staying(&world, &leaving);
        let (lost, other) = (left[0], left[1]);
        let slow = world.rng.pick(&stay);
        world.strike(Fault::Slow { host: slow, ms: 2_500 });
        world.split(other, &leaving, Some(1));
        let waits_for = |world: &World, host: usize| {
            let status = world.hosts[host].broker.as_ref().and_then(|broker| broker.node().split_status());
            status.is_none_or(|status| status.waits_for.contains(&world.hosts[lost].identity))
        };
        for _ in 0..400 {
            if !waits_for(&world, lost) && !waits_for(&world, slow) {
                break;
            }
            world.run_for(20);
        }
        let was_ready = !waits_for(&world, lost) && !waits_for(&world, slow);
        world.kill_for_good(lost);
        world.strike(Fault::Slow { host: slow, ms: 0 });
        world.run_for(PARTED_MS);
        if !was_ready || !world.is_cut() {
            world.parting = None;
            return world;
        }
        let policy = |world: &World, host: usize| {
            world.hosts[host].broker.as_ref().map(|broker| broker.node().size().to_string())
        };
        let seen = policy(&world, other);
        world.require(seen.as_deref() == Some("1"), &format!("ordered with the split, and is {seen:?}"));
        let clocks = world.hosts[other].clocks(world.now);
        let result = world.hosts[other].broker.as_mut().map(|broker| broker.set_size(clocks, &Size::Fixed(2)));
        world.require(result.is_some_and(|result| result.is_ok()), "a policy");
        world.settle(other);
        world.run_for(1_000);
        // It hears of the cut from those that stayed, before it finds its own part.
        let groups: Vec<_> =
            (0..world.hosts.len()).map(|host| usize::from(host != lost && leaving.contains(&host))).collect();
        world.strike(Fault::Cut { ways: group_ways(&groups), last: 10_000 });
        world.boot(lost);
        world.run_for(8_000);
        let is_parted = world.hosts[lost].broker.as_ref().is_some_and(|broker| broker.node().gone().next().is_some());
        world.require(is_parted, "it has not heard of the cut");
        world.run_for(SETTLED_MS + 5_000);
        for host in [lost, other] {
            let seen = policy(&world, host);
            world.require(seen.as_deref() == Some("2"), &format!("set since, and at h{host} it is {seen:?}"));
        }
        world.mended_at = Some(world.now);
        world.merge(stay[0], other);
        end_as_one(world)
    };
    expect_clean("late to leave", &script, 0..2 * SEEDS);
}

#[test]
fn a_merge_with_a_node_that_joined_the_part_that_left_is_a_merge_with_that_part() {
    let script = |seed, printed| {
        let (mut world, leaving) = cluster(seed, printed);
        let stay = staying(&world, &leaving);
        let host = any_host(&mut world);
        world.split(host, &leaving, None);
        world.run_for(PARTED_MS);
        world.check_parted("parted");
        let left: Vec<_> = leaving.iter().copied().collect();
        let (secret, with) = (world.hosts[left[0]].secret.clone(), world.rng.pick(&left));
        world.parting = None;
        // By the ticket of a node that left, and nobody else's.
        let joiner = world.add_host_with(secret, Some(with));
        world.run_for(SETTLED_MS);
        for &host in &left {
            let joined = world.is_linked(joiner, host);
            world.require(joined, &format!("h{joiner} joined, and is not linked with h{host}"));
        }
        for &host in &stay {
            let joined = world.is_linked(joiner, host);
            world.require(!joined, &format!("h{joiner} is linked with h{host}, which stayed"));
        }
        world.mended_at = Some(world.now);
        let host = world.rng.pick(&stay);
        world.merge(host, joiner);
        end_as_one(world)
    };
    expect_clean("merged with a joiner", &script, 0..SEEDS);
}
