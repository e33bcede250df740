//! Splits in random worlds: ordered, taken back and healed at any time, by operators who know what their node tells them and
//! no more. Whatever comes of each order, the end is one cluster with every promise kept.

use std::collections::BTreeSet;

use rhizomq_engine::{Dot, NodeId};
use rhizomq_net::{MergeError, Parted, SplitOrder, rim::NetworkSecret};

use super::{super::world::World, SETTLED_MS};

/// An operator waits so many milliseconds for a split at the end of a run, before he takes it back or gives up who is lost.
const PATIENCE_MS: u64 = 20_000;

/// An operator who has ordered a merge looks again after so many milliseconds.
const LOOK_AGAIN_MS: u64 = 5_000;

/// What operators of a random world have done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Operators {
    /// Who was to leave, and who to stay, by every order that was taken.
    orders: Vec<[BTreeSet<NodeId>; 2]>,
    /// Since when a split is under way, as one looks at the end.
    waits_since: Option<u64>,
    /// When a merge was ordered last, at the end.
    merged_at: Option<u64>,
}

impl World {
    /// Whether a cluster was split at random.
    pub(crate) fn splits_at_random(&self) -> bool {
        !self.operators.orders.is_empty()
    }

    /// How many hosts were always told to leave and to stay with a host, and have not left for good. Who came after an order may
    /// be of either part.
    pub(super) fn always_with(&self, host: usize) -> usize {
        let is_in = |part: &BTreeSet<NodeId>, host: usize| part.contains(&self.hosts[host].identity);
        let is_beside = |[leaving, staying]: &[BTreeSet<NodeId>; 2], other: usize| {
            [leaving, staying].iter().any(|part| is_in(part, host) && is_in(part, other))
        };
        let stays = |other: usize| !self.splits_at_random() || self.stays(other);
        let is_with = |other: usize| self.operators.orders.iter().all(|order| is_beside(order, other)) && stays(other);
        (0..self.hosts.len()).filter(|&other| is_with(other)).count().max(1)
    }

    /// On how many disks a message lies, and how many that must be at least for one to drop it: as many as a receipt tells of,
    /// if its part has so many.
    pub(super) fn copies_amid_splits(&self, dot: Dot, wanted: usize) -> Option<(usize, usize)> {
        let disks = self.ledger.msgs().find(|(_, msg)| msg.dot == Some(dot)).map(|(_, msg)| msg.disks.len())?;
        let part = self.origin(dot).map_or(1, |origin| self.always_with(origin));
        Some((disks, part.min(self.settings.confirm as usize).min(wanted)))
    }

    /// An operator asks a host to split others off. The host may refuse.
    pub(crate) fn try_split(&mut self, host: usize, leaving: &BTreeSet<usize>, size: Option<u32>) {
        let mut ids: BTreeSet<NodeId> = leaving.iter().map(|&host| self.hosts[host].identity).collect();
        if self.settings.networks > 1
            && let Some(broker) = &self.hosts[host].broker
        {
            // Of several clusters an operator means the one that he asks.
            let roster: BTreeSet<_> = broker.node().roster().iter().map(|entry| entry.id).collect();
            ids.retain(|id| roster.contains(id));
        }
        let mut secret = [0; 32];
        secret.iter_mut().for_each(|byte| *byte = self.rng.within(0, 255) as u8);
        let order = SplitOrder { name: "west".to_owned(), leaving: ids, size };
        let clocks = self.hosts[host].clocks(self.now);
        let Some(broker) = &mut self.hosts[host].broker else { return };
        if broker.split(clocks, order, NetworkSecret::from_bytes(secret)).is_ok() {
            let status = broker.node().split_status().expect("it is under way");
            self.excused = true;
            self.operators.orders.push([status.leaving, status.staying]);
        }
        self.settle(host);
    }

    /// An operator takes back what is under way at a host, if that may still be.
    pub(crate) fn try_taking_back(&mut self, host: usize) -> bool {
        let clocks = self.hosts[host].clocks(self.now);
        let Some(broker) = &mut self.hosts[host].broker else { return false };
        let is_taken_back = broker.cancel_split(clocks).is_ok();
        self.settle(host);
        is_taken_back
    }

    /// An operator has a host of a part that stayed merge with one that left, with the ticket that this one gives.
    pub(crate) fn try_healing(&mut self, host: usize) {
        let Some(broker) = &self.hosts[host].broker else { return };
        let (node, mut left) = (broker.node(), BTreeSet::new());
        for parted in node.parted().filter(|parted| !parted.leaving.contains(&node.id())) {
            left.extend(parted.leaving);
        }
        let has_left = |other: &usize| self.hosts[*other].is_up() && left.contains(&self.hosts[*other].identity);
        let others: Vec<_> = (0..self.hosts.len()).filter(has_left).collect();
        if !others.is_empty() {
            let with = self.rng.pick(&others);
            self.mended_at = Some(self.now);
            self.try_merge(host, with);
        }
    }

    /// Whether no split is under way, and nobody has ordered a merge for so long that all have heard of the last one: who
    /// hears of that enters whom it knows anew, also whom the other part has forgotten.
    pub(crate) fn is_settled_as_one(&self) -> bool {
        self.operators.waits_since.is_none() && self.mended_at.is_none_or(|at| self.now >= at + SETTLED_MS)
    }

    fn try_merge(&mut self, host: usize, with: usize) {
        let ticket = self.ticket_of(with);
        let clocks = self.hosts[host].clocks(self.now);
        let Some(broker) = &mut self.hosts[host].broker else { return };
        let result = broker.merge(clocks, &ticket, None);
        self.trace.note(
            self.now,
            "heal",
            &[host as u64, with as u64],
            format_args!("h{host} with h{with}: {result:?}"),
        );
        let is_lawful = matches!(result, Ok(_) | Err(MergeError::OwnNetwork | MergeError::SplitOff));
        self.require(is_lawful, &format!("h{host} does not merge with h{with}: {result:?}"));
        self.settle(host);
    }

    /// At the end, all is to be one cluster again: splits that are under way come about or are taken back, and who was split
    /// off is merged with.
    pub(crate) fn end_splits(&mut self) {
        if !self.splits_at_random() || self.ledger.violation.is_some() {
            return;
        }
        let is_open = |host: &usize| {
            let broker = self.hosts[*host].broker.as_ref();
            broker.is_some_and(|broker| broker.node().split_status().is_some())
        };
        let open: Vec<_> = (0..self.hosts.len()).filter(is_open).collect();
        if !open.is_empty() {
            let since = *self.operators.waits_since.get_or_insert(self.now);
            if self.now < since + PATIENCE_MS || open.iter().any(|&host| self.try_taking_back(host)) {
                return;
            }
            (0..self.hosts.len()).for_each(|host| self.forget_lost_at(host));
        } else {
            self.operators.waits_since = None;
            (0..self.hosts.len()).for_each(|host| self.give_up_lost_parts_at(host));
        }
        let is_due = self.operators.merged_at.is_none_or(|at| self.now >= at + LOOK_AGAIN_MS);
        let all = || 0..self.hosts.len();
        // One that is told again and again that it is of the other part has a tunnel, and no link.
        if is_due && !all().all(|a| all().all(|b| a == b || self.is_linked(a, b))) {
            self.operators.merged_at = Some(self.now);
            (0..self.hosts.len()).for_each(|host| self.try_any_merge(host));
        }
    }

    /// An operator gives up parts of which every node has lost its disk.
    fn give_up_lost_parts_at(&mut self, host: usize) {
        let Some(broker) = &self.hosts[host].broker else { return };
        let gone: BTreeSet<NodeId> = broker.node().gone().collect();
        let is_lost = |part: &BTreeSet<NodeId>| !part.is_empty() && part.iter().all(|node| self.lost.contains(node));
        let others = |parted: Parted| {
            parted.leaving.union(&parted.staying).copied().filter(|node| gone.contains(node)).collect()
        };
        let lost: Vec<_> =
            broker.node().parted().map(others).filter(is_lost).filter_map(|part| part.first().copied()).collect();
        let clocks = self.hosts[host].clocks(self.now);
        for node in lost {
            // Refused for a while if it was heard of before it lost its disk.
            let broker = self.hosts[host].broker.as_mut();
            let is_given_up = broker.is_some_and(|broker| broker.give_up_part_of(clocks, node).is_ok());
            if is_given_up {
                self.mended_at = Some(self.now);
                self.trace.note(self.now, "give up", &[host as u64], format_args!("h{host}: the part of {node:?}"));
            }
        }
        self.settle(host);
    }

    /// An operator who has lost track of who is of which part has a host merge with one that it has no link to.
    fn try_any_merge(&mut self, host: usize) {
        let is_apart = |other: &usize| *other != host && self.hosts[*other].is_up() && !self.is_linked(host, *other);
        let others: Vec<_> = (0..self.hosts.len()).filter(is_apart).collect();
        if !others.is_empty() {
            let with = self.rng.pick(&others);
            self.mended_at = Some(self.now);
            self.try_merge(host, with);
        }
    }
}
