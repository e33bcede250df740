//! When things have settled: as many members as there are to be, and no more changes of seats than that takes.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_net::Size;

use super::{super::members::SETTLED_MS, Kind, Play, Step, Who};

/// An observer is elected in the place of a dead member, and has its seat, within so many milliseconds.
const ELECTED_MS: u64 = 30_000;

/// How often one looks who was elected.
const GLANCE_MS: u64 = 20;

impl Play {
    pub(super) fn settle(&mut self, step: &Step) {
        let Step::Settle { spare, members, calm, steady } = step else { return };
        self.wait(SETTLED_MS);
        let groups = self.parts();
        for (cluster, hosts) in self.clusters.clone().iter().enumerate() {
            let sizes = &self.sizes[cluster];
            let size = sizes.first().copied().filter(|_| sizes.len() == 1);
            let text = self.world.wrong_seats(hosts, &groups, size);
            self.require(text.is_none(), Kind::Members, || text.unwrap_or_default());
            self.check_sizes(cluster, &groups);
        }
        let needed = self.needed(&groups);
        let (changes, most) = self.world.changes_of_seats();
        // Takes it and leaves it, or the other way round: once more, and it would go to and fro.
        self.require(most <= 2, Kind::SeatChanges, || format!("one host changed its mind about its seat {most} times"));
        self.require(changes <= needed + spare, Kind::SeatChanges, || {
            format!("{changes} changes of seats, {needed} were needed and {spare} allowed beside")
        });
        let found = self.seats_of_parts(&groups);
        let is_as_told = members.as_ref().is_none_or(|members| *members == found);
        self.require(is_as_told, Kind::Members, || format!("the parts have {found:?} members, not {members:?}"));
        let now = self.seated_now();
        let before = std::mem::replace(&mut self.seated, now);
        let is_steady = !steady || before.keys().eq(self.seated.keys());
        self.require(is_steady, Kind::SeatChanges, || format!("{before:?} were seated, and others now"));
        if *calm && let Some(before) = self.before.take() {
            let joined = self.world.all_joined();
            self.require(joined, Kind::Members, || "not all are linked after a merge".to_owned());
            self.world.check_calm(&before);
        }
    }

    /// The part of the network, within its cluster, that each host is in: those that it reaches, be it over others.
    fn parts(&self) -> Vec<usize> {
        let mut groups: Vec<usize> = self.hosts().collect();
        for hosts in &self.clusters {
            let reach = |a: usize, b: usize| !(self.world.net.is_cut(a, b) || self.world.net.is_cut(b, a));
            let is_up = |host: &&usize| self.world.hosts[**host].is_up();
            for &a in hosts.iter().filter(is_up) {
                for &b in hosts.iter().filter(is_up).filter(|&&b| reach(a, b)) {
                    let (from, to) = (groups[a].max(groups[b]), groups[a].min(groups[b]));
                    groups.iter_mut().filter(|group| **group == from).for_each(|group| *group = to);
                }
            }
        }
        groups
    }

    /// How many changes of seats it takes, in all parts, to come from who was seated to as many as there are to be.
    fn needed(&self, groups: &[usize]) -> usize {
        let now = self.seated_now();
        let parts: BTreeSet<_> =
            self.hosts().filter(|&host| self.world.hosts[host].is_up()).map(|h| groups[h]).collect();
        let of = |seated: &BTreeMap<usize, u32>, part: usize| {
            let stays =
                |(host, life): &(&usize, &u32)| groups[**host] == part && self.world.hosts[**host].life == **life;
            seated.iter().filter(stays).filter(|(host, _)| self.world.hosts[**host].is_up()).count()
        };
        parts.into_iter().map(|part| of(&self.seated, part).abs_diff(of(&now, part))).sum()
    }

    fn seats_of_parts(&self, groups: &[usize]) -> Vec<usize> {
        let mut counts = BTreeMap::new();
        self.seated_now().keys().for_each(|&host| *counts.entry(groups[host]).or_insert(0) += 1);
        let mut counts: Vec<usize> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    fn seated_now(&self) -> BTreeMap<usize, u32> {
        self.world.seated().into_iter().map(|host| (host, self.world.hosts[host].life)).collect()
    }

    /// The sizes of which one is that of clusters that merge.
    pub(super) fn sizes_of_merged(&self, these: &[usize], wish: Option<&Size>) -> BTreeSet<usize> {
        let wish = wish.map(|size| if let Size::Fixed(size) = size { Some(*size as usize) } else { None });
        match wish {
            Some(size) if these.len() == 2 => size.into_iter().collect(),
            // One register: whichever was written last holds. Of more than two others may come with what they had after a
            // wish was written.
            wish => {
                let of_all: Vec<_> = these.iter().map(|&place| &self.sizes[place]).collect();
                let has_rule = of_all.iter().any(|sizes| sizes.is_empty()) || wish == Some(None);
                let all = of_all.into_iter().flatten().copied().chain(wish.flatten());
                if has_rule { BTreeSet::new() } else { all.collect() }
            }
        }
    }

    /// The size that is followed is one of those that were set. Once all have met it is that one.
    fn check_sizes(&mut self, cluster: usize, groups: &[usize]) {
        let hosts = self.clusters[cluster].clone();
        let seen: BTreeSet<_> = hosts.iter().filter_map(|&host| self.world.size_at(host)).collect();
        let sizes = &self.sizes[cluster];
        let is_lawful = sizes.is_empty() || seen.is_subset(sizes);
        let text = format!("{seen:?} members are to be, and {sizes:?} were set");
        self.require(is_lawful, Kind::Members, || text);
        let is_whole = hosts.iter().all(|&host| groups[host] == groups[hosts[0]] && self.world.hosts[host].is_up());
        if is_whole && seen.len() == 1 && !self.sizes[cluster].is_empty() {
            self.sizes[cluster] = seen;
        }
    }

    /// Waits for an observer that was elected, or has just been seated.
    pub(super) fn await_newcomer(&mut self, is_seated: bool) {
        let before = self.world.seated();
        let until = self.world.now + ELECTED_MS;
        while self.world.now < until && self.world.ledger.violation.is_none() {
            let newcomer = match is_seated {
                false => self.choose(Who::Applicant),
                true => self.world.seated().into_iter().find(|host| !before.contains(host)),
            };
            if newcomer.is_some() {
                self.last = newcomer;
                return;
            }
            self.wait(GLANCE_MS);
        }
        self.require(false, Kind::Members, || "no observer is elected in the place of a member".to_owned());
    }
}
