//! Who sits where: after whatever happened, every side has as many members as it is to have, the same ones as all its
//! hosts see it. What happens is told by the stories (`tests/scenarios`).

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::{Mistake, NodeId};
use rhizomq_net::{Node, Size, View};

use super::{ledger::Kind, play::play, runs::expect_caught, story::Story, world::World};

/// Milliseconds after which seats have settled, whatever happened: it is noticed, told, waited for, and done.
pub(crate) const SETTLED_MS: u64 = 25_000;

/// Seats as hosts know them of themselves.
#[derive(Default)]
pub(crate) struct Seats {
    /// By host, in which life.
    seated: BTreeMap<usize, u32>,
    /// Seats taken and left. A seat that goes with its host's life is not left.
    changes: usize,
    /// The same by host and life.
    by_host: BTreeMap<(usize, u32), usize>,
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
                *self.seats.by_host.entry((host, life)).or_default() += 1;
                if self.trace.printed {
                    let what = if is_seated { "takes a seat" } else { "leaves its seat" };
                    println!("{:>7}.{:03} h{host} {what}", self.now / 1000, self.now % 1000);
                }
            }
        }
    }

    /// What is wrong with the members of sides, `groups[host]` being a host's side: hosts that see it differently, not
    /// as many as there are to be (`size`, or what the policy says there), seats that are not those of the members.
    pub(crate) fn wrong_seats(&self, hosts: &[usize], groups: &[usize], size: Option<usize>) -> Option<String> {
        let mut views: BTreeMap<usize, (usize, View)> = BTreeMap::new();
        for &host in hosts {
            let Some(node) = self.node(host) else { continue };
            let live = hosts.iter().filter(|&&other| groups[other] == groups[host]);
            let live: BTreeSet<NodeId> = live.filter_map(|&other| self.node(other)).map(Node::id).collect();
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
        let hosts: Vec<_> = (0..self.hosts.len()).collect();
        if let Some(text) = self.wrong_seats(&hosts, groups, Some(size)).filter(|_| self.ledger.violation.is_none()) {
            self.violate(Kind::Members, format!("{what}: {text}"));
        }
    }

    /// Seats taken and left since this was last asked; and of the host that did it most often, how often in one life.
    pub(crate) fn changes_of_seats(&mut self) -> (usize, usize) {
        let by_host = std::mem::take(&mut self.seats.by_host);
        (std::mem::take(&mut self.seats.changes), by_host.into_values().max().unwrap_or_default())
    }

    /// How many members there are to be, as a host that is up sees it.
    pub(crate) fn size_at(&self, host: usize) -> Option<usize> {
        self.node(host).map(|node| node.members().size as usize)
    }

    pub(crate) fn seated(&self) -> Vec<usize> {
        let is_seated = |host: &usize| self.node(*host).is_some_and(|node| node.is_seated(node.id()));
        (0..self.hosts.len()).filter(is_seated).collect()
    }

    /// Whether a host that is up takes itself for elected.
    pub(crate) fn is_elected(&self, host: usize) -> bool {
        self.node(host).is_some_and(|node| node.members().members.contains(&node.id()))
    }

    pub(crate) fn shuffled(&mut self, mut hosts: Vec<usize>) -> Vec<usize> {
        for last in (1..hosts.len()).rev() {
            let other = self.rng.below(last + 1);
            hosts.swap(last, other);
        }
        hosts
    }
}

#[test]
fn mistake_seats_without_epoch() {
    let story = Story::read("a_member_restarts_for_ever");
    let script = |seed, printed| play(&story, seed, printed, Some(Mistake::SeatsWithoutEpoch));
    expect_caught("seats without epoch", &script, &[Kind::SeatChanges, Kind::Members]);
}
