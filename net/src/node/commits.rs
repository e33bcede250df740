//! What a durable commit sets free: events for the layer above, pushes to the other holders, and confirmations once
//! enough of them answered.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::{BlockRef, Committed, Epoch, NewBlock, NodeId, Now, RangeSet, SegmentId, Slot, Value};

use super::{Event, Node, Output, PublishId, roster::roster_key};
use crate::{
    registry_sync,
    wire::{self, Control},
};

/// Units that wait for backups, and what each node is known to have on its disk.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    waiting: BTreeMap<(SegmentId, Slot), (BlockRef, Vec<PublishId>)>,
    stored: BTreeMap<NodeId, (Epoch, BTreeMap<SegmentId, RangeSet>)>,
}

impl Confirms {
    /// A node in this life: what an earlier life of it had stored may be gone.
    pub(super) fn meet(&mut self, node: NodeId, epoch: Epoch) {
        let known = self.stored.entry(node).or_insert_with(|| (epoch, BTreeMap::new()));
        if known.0 != epoch {
            *known = (epoch, BTreeMap::new());
        }
    }

    fn note_stored(&mut self, node: NodeId, segment: SegmentId, slots: &RangeSet) {
        if let Some((_, segments)) = self.stored.get_mut(&node) {
            segments.entry(segment).or_default().union_with(slots);
        }
    }

    /// As [`Node::expect`], of a message that is here already.
    pub(super) fn await_again(&mut self, place: BlockRef, publish: PublishId) {
        self.waiting.entry((place.segment, place.first)).or_insert_with(|| (place, Vec::new())).1.push(publish);
    }

    pub(super) fn forget_segment(&mut self, segment: SegmentId) {
        for (_, segments) in self.stored.values_mut() {
            segments.remove(&segment);
        }
    }

    pub(super) fn has(&self, node: NodeId, segment: SegmentId) -> Option<&RangeSet> {
        self.stored.get(&node)?.1.get(&segment)
    }
}

impl Node {
    /// The node has these on its disk. Of what is over nothing is noted any more: a slow disk answers late, and nothing
    /// would ever take that away again.
    pub(super) fn note_stored(&mut self, node: NodeId, segment: SegmentId, slots: &RangeSet) {
        if !self.engine.is_retired(segment) {
            self.confirms.note_stored(node, segment, slots);
        }
    }

    pub(super) fn take_over_commit(&mut self, now: Now) {
        let report = self.engine.handle_committed();
        if !report.blocks.is_empty() {
            self.tell_storing(now, true);
        }
        self.follow_registry(now, &report);
        for (ticket, place) in &report.units {
            self.expect(PublishId(ticket.0), *place);
        }
        for new in report.blocks.iter().filter(|new| new.local) {
            self.push_block(now, new);
        }
        self.acknowledge(&report.blocks);
        for (segment, slots) in report.removed {
            self.push_consumed(segment, &slots);
            self.events.push_back(Event::Removed { segment, slots });
        }
        for (segment, slots) in report.arrived {
            self.events.push_back(Event::Arrived { segment, slots });
        }
        for &(node, epoch) in &report.retired {
            // Also those that others entered and of which no replica was kept here: their keys must go all the same.
            for segment in self.holders.obsolete(node, epoch, &self.engine) {
                self.forget_holders(segment);
                self.confirms.forget_segment(segment);
            }
        }
        if !report.retired.is_empty() || !report.dropped.is_empty() {
            let engine = &self.engine;
            self.damages.settle(|segment| engine.is_finished(segment) || report.dropped.contains(&segment));
        }
        for segment in report.dropped {
            self.leave_holders(segment);
            self.events.push_back(Event::Dropped { segment });
        }
        self.handoffs.note_changes(&report.changed, &self.config.planted);
        self.confirm_ready();
        self.start_pulls(now);
    }

    /// Registry changes: followed here, and pushed if they were made here.
    fn follow_registry(&mut self, now: Now, report: &Committed) {
        let mut pushed: Vec<(rhizomq_engine::Key, Value)> = Vec::new();
        self.note_splits(now, &report.registry);
        for key in &report.registry {
            self.note_holders(key);
            self.note_members(key);
            self.note_site(key);
            self.note_draining(key);
            self.note_networks(key);
            self.note_shared(key);
            if self.changed_keys.contains(key) {
                if !self.engine.is_key_queued(key) {
                    self.changed_keys.remove(key);
                }
                pushed.extend(self.engine.registry().get(key).map(|value| (key.clone(), value.clone())));
            }
        }
        if !report.registry.is_empty() {
            if report.registry.contains(&roster_key()) {
                self.follow_roster(now);
                self.trust_networks();
            }
            if report.registry.iter().any(|key| self.tells_whom_to_dial(key)) {
                self.dial_roster();
            }
            self.handoffs.note_registry(&report.registry);
        }
        for message in registry_sync::push(pushed) {
            for peer in self.linked() {
                self.send_control(peer, &Control::Registry(message.clone()));
            }
        }
    }

    fn expect(&mut self, publish: PublishId, place: Option<BlockRef>) {
        match place {
            Some(place) if place.persistent => {
                let name = (place.segment, place.first);
                self.confirms.waiting.entry(name).or_insert_with(|| (place, Vec::new())).1.push(publish);
            }
            _ => self.events.push_back(Event::Confirmed { publish, copies: 1 }),
        }
    }

    /// The planted mistake: confirms what is only handed to the disk.
    #[cfg(feature = "mistakes")]
    pub(super) fn confirm_before_sync(&mut self) {
        if self.config.planted.is(rhizomq_engine::Mistake::ConfirmBeforeSync) {
            for ticket in self.engine.staged_tickets() {
                self.events.push_back(Event::Confirmed { publish: PublishId(ticket.0), copies: self.config.confirm });
            }
        }
    }

    /// Confirms every unit whose block is on enough disks and sites: as many as configured, or as there are nodes within
    /// reach that store what they are sent, and sites of such. Where enough are within reach and too few of them are holders, more are named.
    pub(super) fn confirm_ready(&mut self) {
        #[cfg(feature = "mistakes")]
        if self.config.planted.is(rhizomq_engine::Mistake::ConfirmBeforeSync) {
            self.confirms.waiting.clear();
        }
        let present = 1 + self.peers.keys().filter(|&&node| self.keeps_up(node) && self.is_with_me(node)).count();
        let wanted = present.min(self.config.confirm as usize);
        let wanted_sites = self.wanted_sites();
        let (mut ready, mut short) = (Vec::new(), BTreeSet::new());
        for (name, (place, _)) in &self.confirms.waiting {
            let holders = self.holders_of(place.segment);
            // What is consumed by now needs no copies any more, and a holder named late never gets it.
            let all = RangeSet::from_range(place.first, place.last);
            let is_over = self.engine.is_retired(place.segment);
            let live =
                if is_over { RangeSet::new() } else { all.difference(&self.engine.removed_slots(place.segment)) };
            let needed = if live.is_empty() { &all } else { &live };
            let (mut have, mut reach) = (vec![self.id()], vec![self.id()]);
            for &node in holders.iter().filter(|&&node| node != self.id()) {
                let has = self.confirms.has(node, place.segment).is_some_and(|has| needed.is_subset(has));
                have.extend(has.then_some(node));
                reach.extend(self.keeps_up(node).then_some(node));
            }
            let are_enough = |nodes: &[NodeId]| {
                nodes.len() >= wanted && (wanted_sites < 2 || self.count_sites(nodes) >= wanted_sites)
            };
            if live.is_empty() || are_enough(&have) {
                ready.push((*name, have.len() as u32));
            } else if !are_enough(&reach) {
                short.insert(place.segment);
            }
        }
        short.into_iter().for_each(|segment| self.recruit(segment, wanted, wanted_sites));
        for (name, copies) in ready {
            let (_, publishes) = self.confirms.waiting.remove(&name).unwrap_or_else(|| unreachable!("just seen"));
            self.events.extend(publishes.into_iter().map(|publish| Event::Confirmed { publish, copies }));
        }
    }

    fn push_block(&mut self, now: Now, new: &NewBlock) {
        let block = &new.block;
        let (me, segment) = (self.id(), block.segment());
        let bytes = wire::block(block.bytes());
        for node in self.holders_of(segment).into_owned() {
            let is_for_it = node != me && !self.is_draining(node);
            let Some(peer) = self.peers.get_mut(&node).filter(|_| is_for_it) else { continue };
            if !peer.has_room() {
                peer.dirty = true;
                continue;
            }
            peer.note_sent(now, segment, block.first(), block.last(), bytes.len());
            self.outputs.push_back(Output::Send { link: peer.link, bytes: bytes.clone() });
        }
    }

    /// Tells the other holders what this node has on its disk now.
    fn acknowledge(&mut self, blocks: &[NewBlock]) {
        let mut slots: BTreeMap<SegmentId, RangeSet> = BTreeMap::new();
        for new in blocks.iter().filter(|new| !new.local) {
            slots.entry(new.block.segment()).or_default().union_with(new.block.slots());
        }
        for (segment, slots) in slots {
            let message = Control::Stored { segment, slots };
            for node in self.candidates(segment) {
                self.send_control(node, &message);
            }
        }
    }

    /// Pushes what was consumed here to the other holders.
    fn push_consumed(&mut self, segment: SegmentId, slots: &RangeSet) {
        let Some(consumed) = self.consumed.get_mut(&segment) else { return };
        let news = consumed.intersection(slots);
        *consumed = consumed.difference(slots);
        if consumed.is_empty() {
            self.consumed.remove(&segment);
        }
        if !news.is_empty() {
            let message = Control::Removed { segment, slots: news };
            for node in self.candidates(segment) {
                self.send_control(node, &message);
            }
        }
    }
}
