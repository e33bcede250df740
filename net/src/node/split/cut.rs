//! The cut itself: what a part forgets of the other, how each hears that all were ready, and what a merge does about it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rhizomq_engine::{Key, NodeId, Now};

use super::{Node, Split, SplitId, State, id_of};
use crate::{
    Size,
    link::{LinkId, PeerHello},
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

pub(super) fn gone_key() -> Key {
    Key::set("gone")
}

fn told_key() -> Key {
    Key::set("split/told")
}

pub(super) fn over_key() -> Key {
    Key::set("split/over")
}

/// A member of the set `gone`: a node that the marking one's part does not see any more.
struct Gone {
    split: SplitId,
    /// Whether it is of the part that left.
    left: bool,
    node: NodeId,
}

impl Gone {
    fn encode(&self) -> Vec<u8> {
        [&self.split.to_le_bytes()[..], &[u8::from(self.left)], &self.node.0].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (split, rest) = bytes.split_first_chunk::<8>()?;
        let (left, node) = rest.split_first()?;
        Some(Self { split: u64::from_le_bytes(*split), left: *left == 1, node: NodeId(node.try_into().ok()?) })
    }
}

impl Node {
    /// Nodes that were split off and have not been merged with again.
    pub fn gone(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.splits.gone.keys().copied()
    }

    /// Whether a node was split off.
    pub fn is_gone(&self, node: NodeId) -> bool {
        self.splits.gone.contains_key(&node)
    }

    pub(super) fn note_gone(&mut self) {
        let marks = self.engine.registry().set_members(&gone_key());
        let marks: Vec<_> = marks.iter().filter_map(|bytes| Gone::decode(bytes)).collect();
        let mut sides: BTreeMap<SplitId, BTreeSet<bool>> = BTreeMap::new();
        marks.iter().for_each(|mark| _ = sides.entry(mark.split).or_default().insert(mark.left));
        // Each part marks the other. Where the marks of both have come together the split is over, even if the word of that
        // is still on its way.
        let both = sides.iter().filter(|(_, sides)| sides.len() > 1).map(|(split, _)| *split);
        self.splits.over = both.collect();
        let gone = marks.iter().filter(|mark| !self.is_healed(mark.split)).map(|mark| (mark.node, mark.split));
        self.splits.gone = gone.collect();
    }

    /// Cuts if all are ready, or if another of this part has done so.
    pub(super) fn carry_on_with_cut(&mut self, now: Now) {
        if let Some(split) = self.splits.current.clone() {
            let is_due = match split.state {
                State::Open => self.splits.ready.contains(&self.id()) && self.waits_for(&split).is_empty(),
                State::Cut => {
                    split.knows(self.id())
                        && !self.is_healed(split.id)
                        && !self.splits.gone.values().any(|id| *id == split.id)
                }
                State::TakenBack => false,
            };
            if is_due {
                self.cut(&split, now);
            } else if split.state == State::Cut {
                self.change_network(&split, false, now);
            }
        }
        self.part_from_gone(now);
    }

    fn part_from_gone(&mut self, now: Now) {
        let gone = self.peers.iter().filter_map(|(node, peer)| Some((peer.link, *self.splits.gone.get(node)?)));
        for (link, id) in gone.collect::<Vec<_>>() {
            self.part_from(now, link, id);
            self.drop_link(link);
        }
    }

    /// A link to a node of the other part. It may not have heard that all are ready, and nobody else can tell it: it is told
    /// now, and the link is closed when it has had time to read that.
    fn part_from(&mut self, now: Now, link: LinkId, id: SplitId) {
        self.outputs.push_back(Output::Send { link, bytes: wire::control(&Control::Parted(id)) });
        self.splits.parting.insert(link, now.mono_ms);
    }

    pub(super) fn close_parting(&mut self, now: Now) {
        let is_due = |since: u64| now.mono_ms >= since + FAREWELL_MS;
        let due: Vec<_> =
            self.splits.parting.iter().filter(|(_, since)| is_due(**since)).map(|(link, _)| *link).collect();
        for link in due {
            self.splits.parting.remove(&link);
            self.outputs.push_back(Output::Close { link, reason: PARTED.to_owned() });
        }
    }

    pub(in crate::node) fn forget_parting(&mut self, link: LinkId) {
        self.splits.parting.remove(&link);
    }

    /// Whether a message came over a link to a node of the other part: of these only one counts, that it has cut.
    pub(in crate::node) fn take_from_parting(&mut self, now: Now, link: LinkId, bytes: &Bytes) -> bool {
        let is_parting = self.splits.parting.contains_key(&link);
        if is_parting && let Ok(Wire::Control(Control::Parted(id))) = wire::decode(bytes.clone()) {
            self.take_parted(now, id);
        }
        is_parting
    }

    /// A node of the other part has cut: all were ready. And the other part knows.
    pub(in crate::node) fn take_parted(&mut self, now: Now, id: SplitId) {
        let Some(split) = self.splits.current.clone().filter(|split| split.id == id) else { return };
        if split.state == State::Open {
            self.cut(&split, now);
            self.part_from_gone(now);
        }
        if self.is_telling() {
            self.add_to(told_key(), id.to_le_bytes().to_vec());
            self.replace_networks();
        }
    }

    /// Whether this node is of a part that left, and the other may not know yet that it has: for the time being it lets
    /// nodes in that know the former secrets, to tell them and for nothing else.
    fn is_telling(&self) -> bool {
        self.splits.current.as_ref().is_some_and(|split| {
            let is_told = || self.engine.set_contains(&told_key(), &split.id.to_le_bytes());
            split.state == State::Cut
                && id_of(&self.config.network) == split.id
                && !is_told()
                && !self.is_healed(split.id)
        })
    }

    fn is_healed(&self, id: SplitId) -> bool {
        self.splits.over.contains(&id) || self.engine.set_contains(&over_key(), &id.to_le_bytes())
    }

    fn cut(&mut self, split: &Split, now: Now) {
        let leaves = split.leaving.contains(&self.id());
        let others: Vec<_> =
            self.roster_ids().into_iter().filter(|node| split.leaving.contains(node) != leaves).collect();
        for &node in &others {
            let mark = Gone { split: split.id, left: !leaves, node };
            self.add_to(gone_key(), mark.encode());
            self.splits.gone.insert(node, split.id);
            self.strike_out(roster_key(), node);
            self.strike_seats(node);
            self.strike_out(draining_key(), node);
            for segment in self.holders.listing(node) {
                if !others.contains(&segment.node) {
                    self.strike_out(holders_key(segment), node);
                    self.strike_out(leaving_key(segment), node);
                }
            }
        }
        if split.state == State::Open {
            let done = Split { state: State::Cut, ..split.clone() };
            self.splits.current = Some(done.clone());
            self.write_split(done, now);
        }
        self.members.mark_dirty();
        self.change_network(split, true, now);
    }

    /// Whoever leaves is of the new network now. An earlier life may have come as far as the new secret, and no further.
    fn change_network(&mut self, split: &Split, is_first: bool, now: Now) {
        if let Some(secret) = self.next_secret(split).cloned() {
            self.splits.secret = None;
            if !split.leaving.contains(&self.id()) {
                self.outputs.push_back(Output::Keep(None));
                return;
            }
            self.config.network = secret.clone();
            self.outputs.push_back(Output::Rekey(secret));
        } else if !is_first || id_of(&self.config.network) != split.id {
            return;
        }
        self.enter_network();
        // Who comes late to it finds a policy, perhaps a newer one.
        if let Some(size) = split.size.filter(|_| is_first) {
            self.write_register(size_key(), Size::Fixed(size).to_string().into_bytes(), now);
        }
    }

    /// Whether this node's network is a secret from the part that it is about to leave: it must not be told yet.
    pub(in crate::node) fn hides_network(&self) -> bool {
        self.open_split().is_some_and(|split| id_of(&self.config.network) == split.id)
    }

    /// A link came up. Whether it may stay: a node that was split off is let in again if it knows the secret of the part
    /// that left, which only a merge can have brought to it; that heals the split.
    pub(in crate::node) fn lets_in(&mut self, now: Now, link: LinkId, hello: &PeerHello) -> bool {
        if let Some(&id) = self.splits.gone.get(&hello.node) {
            if !self.has_left(hello.node) || !hello.knows_own {
                self.part_from(now, link, id);
                return false;
            }
            self.heal(id);
        } else if self.is_telling() && !hello.knows_own {
            let reason = "this cluster has another secret since it was split: join with a new ticket".to_owned();
            self.outputs.push_back(Output::Close { link, reason });
            return false;
        }
        true
    }

    /// Whether this node is of a part that left the one that a node is of.
    pub(in crate::node) fn has_left(&self, node: NodeId) -> bool {
        self.splits.gone.get(&node).is_some_and(|id| *id == id_of(&self.config.network))
    }

    /// A merge with a node that was split off: the split is over.
    pub(in crate::node) fn heal_with(&mut self, node: NodeId) {
        if let Some(&id) = self.splits.gone.get(&node) {
            self.heal(id);
        }
    }

    fn heal(&mut self, id: SplitId) {
        self.add_to(over_key(), id.to_le_bytes().to_vec());
        self.splits.gone.retain(|_, of| *of != id);
        // The other part has struck these off its roster: so that they are on that of both, they are entered anew.
        for node in self.roster_ids() {
            self.strike_out(roster_key(), node);
            self.add_to(roster_key(), node.0.to_vec());
        }
    }
}
