//! How a surplus copy leaves: declare it, collect durable proofs from enough holders that stay, drop.
//!
//! A proof says: "on my disk is all that you hold, and all that you know to be consumed". It is about one state of one
//! replica and one list of holders; any change of either voids all proofs. A holder that has itself declared to leave
//! vouches for nobody.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::{Key, Mistake, NodeId, Planted, SegmentId, SegmentState};

use super::{
    Node,
    drain::draining_key,
    placement::{holders_key, leaving_key},
    sites::{Shape, is_spare},
};
use crate::wire::Control;

/// Hand-offs under way.
#[derive(Debug, Default)]
pub(super) struct Handoffs {
    proofs: BTreeMap<SegmentId, Proofs>,
}

#[derive(Debug)]
struct Proofs {
    nonce: u64,
    from: BTreeSet<NodeId>,
}

impl Handoffs {
    /// Replicas changed: what was proven was about another state.
    pub(super) fn note_changes(&mut self, changed: &[SegmentId], planted: &Planted) {
        if !planted.is(Mistake::StaleProofs) {
            changed.iter().for_each(|segment| drop(self.proofs.remove(segment)));
        }
    }

    /// Holder lists changed.
    pub(super) fn note_registry(&mut self, keys: &[Key]) {
        self.proofs
            .retain(|segment, _| !keys.contains(&holders_key(*segment)) && !keys.contains(&leaving_key(*segment)));
        if keys.contains(&draining_key()) {
            self.proofs.clear();
        }
    }

    /// A peer is gone: it may come back in another life, on another disk.
    pub(super) fn forget_peer(&mut self, peer: NodeId) {
        for proofs in self.proofs.values_mut() {
            proofs.from.remove(&peer);
        }
    }
}

impl Node {
    /// Declares, asks for proofs, or drops, wherever this node's replica is surplus.
    pub(super) fn hand_off(&mut self) {
        if self.config.planted.is(Mistake::LeaveAtOnce) && self.drains_here() {
            let all: Vec<_> = self.engine.segments().filter(|&segment| self.engine.is_settled(segment)).collect();
            return all.into_iter().for_each(|segment| self.engine.drop_replica(segment));
        }
        let segments: Vec<_> = self.engine.segments().filter(|&segment| self.is_surplus(segment)).collect();
        self.handoffs.proofs.retain(|segment, _| segments.contains(segment));
        for segment in segments {
            let me = self.id();
            let holder = self.holders.has(segment, me);
            if holder && !self.holders.is_leaving(segment, me) {
                let key = leaving_key(segment);
                if self.engine.set_add(key.clone(), me.0.to_vec()).is_ok() {
                    self.changed_keys.insert(key);
                }
            } else {
                self.ask_for_proofs(segment);
            }
        }
        self.stay_if_needed();
        self.finish_leaving();
    }

    /// Whether enough others hold the segment, and this node is the last that should: a node outside the list (it only
    /// keeps removals), or the lowest-ranked of those live holders that are not needed for the wanted copies and sites.
    fn is_surplus(&self, segment: SegmentId) -> bool {
        if let Some(is_surplus) = self.is_surplus_in_drain(segment) {
            return is_surplus;
        }
        let me = self.id();
        if segment.node == me || !self.engine.is_settled(segment) {
            return false;
        }
        if self.engine.retired().folded(segment).is_some() {
            // There is no list of holders any more to declare anything on.
            return self.is_foreign(segment, me) && self.has_copies_inside(segment);
        }
        if !self.holders.has(segment, me) {
            // Named a holder a moment ago, in a change that waits for its commit: others count on this replica already.
            let named = self.named(segment).contains(&me);
            return !named && !self.holders.of(segment).is_empty();
        }
        if self.is_foreign(segment, me) {
            return self.has_copies_inside(segment);
        }
        let staying = |node: &&NodeId| self.is_linked(**node) && !self.goes(segment, **node);
        let holders = self.holders.of(segment);
        let others: Vec<NodeId> = holders.iter().filter(|&&node| node != me).filter(staying).copied().collect();
        let is_spare = |node: NodeId| {
            let rest = others.iter().chain([&me]).filter(|&&other| other != node);
            is_spare(self.shape(), &self.place_of(segment.node), &self.places_of(rest), &self.place_of(node))
        };
        let goes = |node: &NodeId| *node != segment.node && (*node == me || others.contains(node)) && is_spare(*node);
        is_spare(me) && (self.holders.is_leaving(segment, me) || holders.iter().rev().copied().find(goes) == Some(me))
    }

    /// Whether there are enough of the segment's own part that prove to have it, when they are asked.
    fn has_copies_inside(&self, segment: SegmentId) -> bool {
        self.staying_holders(segment).len() >= self.copies_inside(segment)
    }

    /// Declared to leave, but the others went away meanwhile: take it back.
    fn stay_if_needed(&mut self) {
        let me = self.id();
        let declared: Vec<_> = self.engine.segments().filter(|&segment| self.holders.is_leaving(segment, me)).collect();
        for segment in declared {
            if !self.is_surplus(segment) && self.engine.is_settled(segment) {
                let key = leaving_key(segment);
                if self.engine.set_remove(key.clone(), &me.0).is_ok() {
                    self.changed_keys.insert(key);
                }
            }
        }
    }

    /// Gave a replica up, and died before the list said so.
    fn finish_leaving(&mut self) {
        let me = self.id();
        let is_left = |segment: &SegmentId| !self.engine.has_replica(*segment) && self.named(*segment).contains(&me);
        self.holders.left_by(me).filter(is_left).collect::<Vec<_>>().into_iter().for_each(|id| self.leave_holders(id));
    }

    fn ask_for_proofs(&mut self, segment: SegmentId) {
        let nonce = self.next_nonce();
        let Some(state) = self.engine.segment(segment).cloned() else { return };
        let kept = self.config.planted.is(Mistake::StaleProofs) && self.handoffs.proofs.contains_key(&segment);
        if !kept {
            self.handoffs.proofs.insert(segment, Proofs { nonce, from: BTreeSet::new() });
        }
        let nonce = self.handoffs.proofs.get(&segment).map_or(nonce, |proofs| proofs.nonce);
        for node in self.holders_of(segment).into_owned() {
            self.send_control(node, &Control::Prove { segment, nonce, state: state.clone() });
        }
    }

    /// Vouches, if this node stays and its disk has all of it. What it lacks it takes as news or pulls.
    pub(super) fn answer_prove(&mut self, from: NodeId, segment: SegmentId, nonce: u64, theirs: &SegmentState) {
        if self.tell_if_retired(from, segment) {
            return;
        }
        if !self.is_frozen() {
            self.engine.merge_removed(segment, &theirs.removed);
        }
        let me = self.id();
        let leaving = (self.goes(segment, me) || self.is_frozen()) && !self.config.planted.is(Mistake::DrainingVouches);
        let has_all = self.engine.segment(segment).is_some_and(|mine| {
            theirs.known.is_subset(&mine.known)
                && theirs.removed.is_subset(&mine.removed)
                && mine.length >= theirs.length
        });
        if has_all && !leaving && self.holds(segment, me) {
            self.send_control(from, &Control::Proof { segment, nonce });
        } else if self.holders.has(segment, me) {
            self.want(from, segment);
        }
    }

    pub(super) fn take_proof(&mut self, from: NodeId, segment: SegmentId, nonce: u64) {
        let mut needed = self.needed_beside_me(segment);
        let is_foreign = self.is_foreign(segment, self.id());
        if is_foreign {
            needed = self.copies_inside(segment);
        } else if self.drains_here() {
            needed = needed.min(self.copies_elsewhere());
        }
        let Some(proofs) = self.handoffs.proofs.get_mut(&segment).filter(|proofs| proofs.nonce == nonce) else {
            return;
        };
        proofs.from.insert(from);
        let from: Vec<_> = proofs.from.iter().copied().collect();
        let are_enough =
            from.len() >= needed && (self.drains_here() || is_foreign || self.are_enough_without_me(segment, &from));
        if are_enough && self.is_surplus(segment) {
            self.handoffs.proofs.remove(&segment);
            self.engine.drop_replica(segment);
        }
    }

    /// How many others have to have it: all on the list, up to the wanted number. Where bodies lie with somebody who is not on
    /// it, as after a merge that heals a split, the list may be short, and its first node will name more, this one perhaps:
    /// until so many have it as are wanted this copy counts.
    fn needed_beside_me(&self, segment: SegmentId) -> usize {
        let (me, copies) = (self.id(), self.config.copies as usize);
        let is_listed = self.holders.has(segment, me) || self.engine.waiting_in(segment).is_empty();
        let others = self.holders.of(segment).iter().filter(|&&node| node != me).count();
        if is_listed { copies.min(others).max(1) } else { copies.max(1) }
    }

    /// Whether those that vouch are on the sites, too, that the holders are to be on.
    fn are_enough_without_me(&self, segment: SegmentId, vouching: &[NodeId]) -> bool {
        let shape = Shape { copies: 0, ..self.shape() };
        let home = self.place_of(segment.node);
        !self.holders.has(segment, self.id())
            || is_spare(shape, &home, &self.places_of(vouching), &self.place_of(self.id()))
    }

    /// The replica is gone from this node's disk: so is its place on the list, if it had declared to leave that. Not before,
    /// since with news in the same commit the replica stays; and who was no holder may have been named one just now.
    pub(super) fn leave_holders(&mut self, segment: SegmentId) {
        let me = self.id();
        if !self.holders.is_leaving(segment, me) {
            return;
        }
        for key in [holders_key(segment), leaving_key(segment)] {
            if self.engine.set_remove(key.clone(), &me.0).is_ok() {
                self.changed_keys.insert(key);
            }
        }
    }
}
