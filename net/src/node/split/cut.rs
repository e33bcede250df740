//! The cut itself: what a part forgets of the other, how each hears that all were ready, and what a merge does about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use bytes::Bytes;
use rhizomq_engine::{Mistake, NodeId, Now, Value};

use super::{
    Node, Split, SplitId, State,
    marks::{Gone, cut_key, gone_key, over_key},
    orders::{Farewell, Side, order_key},
};
use crate::{
    Size,
    link::{LinkId, PeerHello, Proven},
    node::{
        Output,
        drain::draining_key,
        members::size_key,
        placement::{holders_key, leaving_key},
        roster::roster_key,
    },
    wire::{self, Control, Wire},
};

/// How long a node of the other part is given to read that all are ready, before the link to it is closed, in milliseconds.
const FAREWELL_MS: u64 = 1_000;

const PARTED: &str =
    "the cluster was split, and this node is of the other part: `rhizomq merge` makes the two one again";

/// A split that is done and has not been healed by a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parted {
    /// What the part that left is called.
    pub name: String,
    /// Who was to leave.
    pub leaving: BTreeSet<NodeId>,
    /// Who was to stay.
    pub staying: BTreeSet<NodeId>,
    /// Members of the part that left, as ordered.
    pub size: Option<u32>,
    /// What these nodes were called, as far as the order tells.
    pub names: BTreeMap<NodeId, String>,
}

const UNKNOWN: &str = "the cluster is being split, and this node has just joined it: it comes again";

impl Node {
    /// Splits that are done and not healed.
    pub fn parted(&self) -> impl Iterator<Item = Parted> + '_ {
        let is_done = |split: &&Split| self.splits.state(split.id) == State::Cut && !self.is_healed(split.id);
        self.splits.orders().filter(is_done).map(|split| Parted {
            name: split.name.clone(),
            leaving: split.leaving.clone(),
            staying: split.staying.clone(),
            size: split.size,
            names: split.records.iter().map(|(node, (name, _))| (*node, name.clone())).collect(),
        })
    }

    /// Nodes that were split off and have not been merged with again.
    pub fn gone(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.splits.gone.keys().copied()
    }

    /// Messages on this node's disk that nodes took which were split off. Nobody here delivers them: the other part does
    /// with its own copies, if it has some, and a merge brings these back.
    pub fn kept_of_gone(&self) -> u64 {
        let theirs = self.engine.segments().filter(|segment| self.is_gone(segment.node));
        theirs.map(|segment| self.engine.waiting_in(segment).len()).sum()
    }

    /// Whether a node was split off.
    pub fn is_gone(&self, node: NodeId) -> bool {
        self.splits.gone.contains_key(&node)
    }

    /// Cuts if all are ready, or if another of this part has done so.
    pub(super) fn carry_on_with_cut(&mut self, now: Now) {
        for split in self.splits.orders().cloned().collect::<Vec<_>>() {
            if self.is_healed(split.id) {
                continue;
            }
            let leaves = split.leaving.contains(&self.id());
            match self.splits.state(split.id) {
                State::Open if self.open_split().is_some_and(|open| open.id == split.id) => {
                    if self.splits.is_ready(&split, self.id()) && self.waits_for(&split).is_empty() {
                        self.cut(&split);
                        // All may have been ready before this life began, and have cut long since.
                        let is_late = self.peers.is_empty() || self.splits.ready_before.contains(&split.id);
                        self.note_if_strayed(&split, is_late);
                    }
                }
                State::Cut if split.knows(self.id()) && !self.splits.has_marks(split.id, !leaves) => {
                    self.cut(&split);
                    self.note_if_strayed(&split, false);
                }
                State::Cut => self.change_network(&split, false, true),
                State::Open | State::TakenBack => {}
            }
        }
        self.part_from_gone(now);
    }

    pub(super) fn part_from_gone(&mut self, now: Now) {
        let gone = self.peers.iter().filter_map(|(node, peer)| Some((*node, peer.link, *self.splits.gone.get(node)?)));
        for (node, link, id) in gone.collect::<Vec<_>>() {
            self.part_from(now, (node, link), id);
            self.drop_link(link);
        }
    }

    /// A link to a node of the other part. It may not have heard that all are ready, or of the order, and nobody else can
    /// tell it: it is told now, and the link is closed when it has had time to read that. Before that comes what is known
    /// here to be consumed of what the other part took: by clients of a node that was out of sight when all were ready.
    fn part_from(&mut self, now: Now, (node, link): (NodeId, LinkId), id: SplitId) {
        let is_silent = self.config.planted.is(Mistake::PartSilently);
        if !is_silent && self.splits.order(id).is_some_and(|split| self.was_out_of_sight(split, self.id())) {
            for message in self.consumed_of_gone() {
                self.outputs.push_back(Output::Send { link, bytes: wire::control(&message) });
            }
        }
        // Marks may be here before their order: then it is told the next time.
        if let Some(order) = self.engine.newest_value(&order_key(id)) {
            let bytes = wire::control(&Control::Parted(order.encode().to_vec()));
            self.outputs.push_back(Output::Send { link, bytes });
        }
        self.splits.parting.insert(link, Farewell { node, since: now.mono_ms, reason: PARTED });
    }

    /// Whether a node of the part that left may not know what was consumed here: this one stayed, had not said that it was ready,
    /// and has not met that one since.
    pub(in crate::node) fn is_to_be_told(&self, node: NodeId) -> bool {
        let split = self.splits.gone.get(&node).and_then(|id| self.splits.order(*id));
        split.is_some_and(|split| self.was_out_of_sight(split, self.id()) && !self.splits.told.contains_key(&node))
    }

    /// Whom of the part that left this node is to tell, and where such a one was last dialled, or was when the split was
    /// ordered: it is on no roster any more.
    pub(in crate::node) fn to_be_told(&self) -> Vec<(NodeId, Vec<SocketAddr>)> {
        let place = |node: NodeId, id: &SplitId| {
            let ordered = || self.splits.order(*id)?.records.get(&node).map(|(_, addresses)| addresses.clone());
            self.dialled.get(&node).cloned().or_else(ordered)
        };
        let gone = self.splits.gone.iter().filter(|(node, _)| self.is_to_be_told(**node));
        gone.filter_map(|(node, id)| Some((*node, place(*node, id)?))).collect()
    }

    /// Whether a node stayed without having said that it was ready: it may have something to tell.
    fn was_out_of_sight(&self, split: &Split, node: NodeId) -> bool {
        !split.leaving.contains(&node) && !self.splits.is_ready(split, node)
    }

    fn consumed_of_gone(&self) -> Vec<Control> {
        let consumed = self.engine.segments().filter(|segment| self.is_gone(segment.node)).filter_map(|segment| {
            let slots = self.engine.removed_slots(segment);
            (!slots.is_empty()).then_some(Control::Removed { segment, slots })
        });
        let retired = self.engine.retired();
        let over = (!retired.is_empty()).then(|| Control::Retired(retired.clone()));
        consumed.chain(over).collect()
    }

    pub(super) fn close_parting(&mut self, now: Now) {
        let is_due = |farewell: &Farewell| now.mono_ms >= farewell.since + FAREWELL_MS;
        let due = self.splits.parting.iter().filter(|(_, farewell)| is_due(farewell));
        for (link, Farewell { reason, .. }) in due.map(|(link, farewell)| (*link, *farewell)).collect::<Vec<_>>() {
            self.splits.parting.remove(&link);
            self.outputs.push_back(Output::Close { link, reason: reason.to_owned() });
        }
    }

    pub(in crate::node) fn forget_parting(&mut self, link: LinkId) {
        self.splits.parting.remove(&link);
    }

    /// Whether a message came over a link to a peer that is only told how things stand: of these only those count by which a
    /// node of the other part does the same.
    pub(in crate::node) fn take_from_parting(&mut self, now: Now, link: LinkId, bytes: &Bytes) -> bool {
        let Some(&Farewell { node, .. }) = self.splits.parting.get(&link) else { return false };
        let Some(&id) = self.splits.gone.get(&node) else { return true };
        match wire::decode(bytes.clone()) {
            // Of the orders that are known here: nobody else's word takes this cluster apart.
            Ok(Wire::Control(Control::Parted(order))) if self.knows_order(&order) => {
                self.take_parted(now, node, &order)
            }
            Ok(Wire::Control(Control::Healed(split))) => self.take_healed(node, split),
            Ok(Wire::Control(message)) => {
                self.take_consumed(node, id, message);
                return true;
            }
            _ => return true,
        }
        self.note_told(now, node);
        true
    }

    fn knows_order(&self, order: &[u8]) -> bool {
        let split = Value::decode(order).ok().and_then(|order| Split::of(&order));
        split.is_some_and(|split| self.splits.order(split.id).is_some())
    }

    /// What a node of the part that stayed knows to be consumed of what this one's took, if it was out of sight of the split and
    /// has not said so yet.
    fn take_consumed(&mut self, from: NodeId, id: SplitId, message: Control) {
        let may_tell =
            |split: &Split| self.has_left_by(split) && self.was_out_of_sight(split, from) && !self.is_frozen();
        if self.splits.told.contains_key(&from) || !self.splits.order(id).is_some_and(may_tell) {
            return;
        }
        match message {
            Control::Removed { segment, slots } if !self.is_gone(segment.node) => {
                self.engine.merge_removed(segment, &slots);
            }
            Control::Retired(retired) => self.engine.merge_retired(&retired),
            _ => {}
        }
    }

    /// A node of the other part has cut: all were ready. And it knows.
    pub(in crate::node) fn take_parted(&mut self, now: Now, from: NodeId, order: &[u8]) {
        let Ok(order) = Value::decode(order) else { return };
        let Some(split) = Split::of(&order) else { return };
        if !self.is_healed(split.id) && self.is_merging_with(from) {
            // Its cluster has merged with the other part since: by the order to merge with that cluster all are one. One that
            // was of the split itself says whether it agrees: who knows its part's secret wants to be shown that.
            if split.knows(from) {
                self.tell_healed(from, split.id);
            } else {
                self.heal(split.id);
            }
        }
        if self.is_healed(split.id) {
            self.tell_healed(from, split.id);
            return;
        }
        if self.splits.order(split.id).is_none() {
            // This node was away when it was ordered, or died before it had it. Who came later is of the part that it came to.
            let is_of_mine = split.knows(from) && split.leaving.contains(&self.id()) == split.leaving.contains(&from);
            if !split.knows(self.id()) || is_of_mine {
                return;
            }
            self.engine.merge_registry(split.key(), &order);
            self.changed_keys.insert(split.key());
            self.splits.add(split.clone());
        }
        if self.splits.state(split.id) != State::Cut {
            self.cut(&split);
            self.note_if_strayed(&split, true);
            self.part_from_gone(now);
        }
    }

    /// Also if the two have parted by another split, which the other one may not know.
    fn tell_healed(&mut self, to: NodeId, id: SplitId) {
        let parting = self.splits.parting.iter().find(|(_, farewell)| farewell.node == to).map(|(link, _)| *link);
        if let Some(link) = self.peers.get(&to).map(|peer| peer.link).or(parting) {
            self.outputs.push_back(Output::Send { link, bytes: wire::control(&Control::Healed(id)) });
        }
    }

    /// A node that this one does not see any more knows of a merge. That counts for one that stayed; and for one that was to
    /// leave and never got the secret of its part: nobody could show it that he knows it.
    pub(in crate::node) fn take_healed(&mut self, from: NodeId, id: SplitId) {
        let is_gone = self.splits.gone.values().any(|of| *of == id);
        let has_left = self.splits.order(id).is_some_and(|split| self.has_left_by(split));
        if is_gone && !(has_left && self.has_network_of_a_part()) {
            self.heal(id);
            self.tell_healed(from, id);
        }
    }

    /// Whether this node's network is a secret that a part was given when it left.
    pub(super) fn has_network_of_a_part(&self) -> bool {
        self.splits.order(self.config.network.name()).is_some()
    }

    pub(super) fn has_left_by(&self, split: &Split) -> bool {
        self.side_of(split) == Some(Side::Left)
    }

    pub(super) fn cut(&mut self, split: &Split) {
        let leaves = split.leaving.contains(&self.id());
        let is_first = self.splits.state(split.id) != State::Cut;
        // What this part has done since another one of it cut is not undone.
        let is_led = self.splits.has_marks(split.id, !leaves);
        let listed = if leaves { &split.staying } else { &split.leaving };
        let roster = self.roster_ids().into_iter().filter(|node| split.leaving.contains(node) != leaves);
        let others: BTreeSet<_> = roster.chain(listed.iter().copied()).collect();
        for &node in &others {
            let mark = Gone { split: split.id, left: !leaves, node };
            self.add_to(gone_key(), mark.encode());
            // Their seats stay as they are, unseen: a merge would find each part's struck out by the other.
            self.strike_out(roster_key(), node);
            self.strike_out(draining_key(), node);
            for segment in self.holders.listing(node) {
                if !others.contains(&segment.node) {
                    self.strike_out(holders_key(segment), node);
                    self.strike_out(leaving_key(segment), node);
                }
            }
        }
        self.add_to(cut_key(), split.id.to_le_bytes().to_vec());
        // An order that was given at the same time was for the whole. But what this node is ready for may be done elsewhere.
        let is_void = |other: &&Split| {
            let is_open = other.id != split.id && self.splits.state(other.id) == State::Open;
            is_first && is_open && !self.is_ready_for(other, self.id())
        };
        let void: Vec<_> = self.splits.orders().filter(is_void).cloned().collect();
        void.iter().for_each(|other| self.take_back(other));
        self.look_at_orders();
        self.members.mark_dirty();
        self.change_network(split, is_first, is_led);
        self.part_from_unknown();
    }

    /// Who is linked and on no roster yet would hear of the one part and tell the other: it comes again, and is of one.
    fn part_from_unknown(&mut self) {
        let is_unknown = |node: NodeId| !self.is_gone(node) && !self.is_in_roster(node);
        let links = self.peers.iter().filter(|(node, _)| is_unknown(**node)).map(|(_, peer)| peer.link);
        for link in links.collect::<Vec<_>>() {
            self.drop_link(link);
            self.outputs.push_back(Output::Close { link, reason: UNKNOWN.to_owned() });
        }
    }

    /// Whoever leaves is of the new network now. An earlier life may have come as far as the new secret, and no further.
    fn change_network(&mut self, split: &Split, is_first: bool, is_led: bool) {
        if let Some(secret) = self.next_secret(split).cloned() {
            self.splits.secret = None;
            if !split.leaving.contains(&self.id()) {
                self.outputs.push_back(Output::Keep(None));
                return;
            }
            self.rekey(secret);
        } else if !is_first || self.config.network.name() != split.id {
            return;
        }
        if is_led {
            self.enter_network();
        } else {
            self.replace_networks();
        }
        self.keep_size_of(split);
    }

    /// The number of members that was ordered along with a split.
    pub(super) fn keep_size_of(&mut self, split: &Split) {
        // As of the order: who comes late to it does not undo a newer policy.
        if let Some(size) = split.size {
            let policy = Size::Fixed(size).to_string().into_bytes();
            // The name is lawful and the content short: there is nothing to refuse.
            if self.engine.register_set_as_of(&split.key(), size_key(), policy).is_ok() {
                self.changed_keys.insert(size_key());
            }
        }
    }

    /// Whether this node's network is a secret from the part that it is about to leave: it must not be told yet.
    pub(in crate::node) fn hides_network(&self) -> bool {
        let own = self.config.network.name();
        self.splits.order(own).is_some_and(|split| self.splits.state(split.id) != State::Cut)
    }

    /// A link came up. Whether it may stay: a node that was split off is let in again if it knows the secret of the part
    /// that left, which only a merge can have brought to it; that heals the split. For the part that stayed it is healed when
    /// the other one says so, and not when a merge is ordered: until then nobody dispatches what is the other's.
    pub(in crate::node) fn lets_in(&mut self, now: Now, link: LinkId, hello: &PeerHello) -> bool {
        if let Some(&id) = self.splits.gone.get(&hello.node) {
            // Also one that came later to those who left.
            let has_left = self.splits.order(id).is_some_and(|split| self.has_left_by(split));
            if !has_left || !self.has_network_of_a_part() || hello.proven != Proven::Own {
                self.part_from(now, (hello.node, link), id);
                return false;
            }
            self.heal(id);
        } else if hello.proven == Proven::Former {
            self.readmit(now, hello.node, link);
            return false;
        }
        true
    }

    /// Whether this node was told to leave the part that a node is of, which then lets it in by no means. One that came
    /// later to those who left may be let in.
    pub(in crate::node) fn has_left(&self, node: NodeId) -> bool {
        let split = self.splits.gone.get(&node).and_then(|id| self.splits.order(*id));
        split.is_some_and(|split| split.leaving.contains(&self.id()))
    }

    pub(super) fn heal(&mut self, id: SplitId) {
        self.add_to(over_key(), id.to_le_bytes().to_vec());
        self.look_at_orders();
        // The other part has struck these off its roster: so that they are on that of both, they are entered anew.
        for node in self.roster_ids() {
            self.strike_out(roster_key(), node);
            self.add_to(roster_key(), node.0.to_vec());
        }
    }
}
