//! Who dispatches a segment: its origin in the life that wrote it; for all other segments the first of its candidates
//! (origin, then the other holders in their order) that is alive.
//!
//! - A node that finds itself to be the first live candidate of a segment with waiting messages, and has found so for a
//!   while, *claims* it: it asks all linked nodes what is in flight at their edges and what they know to be consumed,
//!   and dispatches nothing of the segment until all have answered or lost their links. What is held is then in flight
//!   there; the rest is dispatched, marked as redelivered.
//! - The asked node stops dispatching the segment before it answers, and refuses deliveries of it from anyone else from
//!   then on. So the answers are a complete picture: what the last owner still had under way is refused, not delivered
//!   twice.
//! - A claim is denied by the owner itself if it ranks higher, and by whoever is linked with an owner that ranks higher:
//!   that the claimer can't see the owner does not mean that it is dead.
//! - With its answer a node tells up to which slot it had a part in deliveries in place of the segment's writer. If the
//!   writer is the one who asks, it marks what it dispatches up to there as redelivered, and nothing beyond: whoever told
//!   that has stopped dispatching the segment before it answered, and is asked again whenever it could have begun anew.
//! - An owner asks every new peer in the same way, and dispatches nothing until that one has answered. So what the peer's
//!   clients held through a cut is not delivered again, and of two owners of one segment the lower rank gives in at once.
//!   Now and then owners repeat to all what they own (`firm: false`), for those who believe something else.
//! - An owner whose delivery is refused, since the edge takes someone else for the owner, claims the segment anew a little
//!   later, as if it had just found it: either the edge takes its word, or it gives in.
//!
//! Ranks come from the registry and may differ between nodes for a moment; then both may go on for as long, which costs
//! marked duplicates and loses nothing.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::{Dot, Epoch, NodeId, SegmentId, Slot};

use super::View;

/// Delays, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeoverTiming {
    /// How long after its start a node claims nothing: its links come up, and removals come in.
    pub start_settle_ms: u64,
    /// How long a node must have been the first live candidate before it claims.
    pub settle_ms: u64,
    /// After which a denied claim is tried again, and an unanswered one taken for answered.
    pub retry_ms: u64,
    /// Between two repetitions of what this node owns.
    pub repeat_ms: u64,
    /// Between two looks at all segments, when nothing happens.
    pub look_ms: u64,
}

impl Default for TakeoverTiming {
    fn default() -> Self {
        Self { start_settle_ms: 1_000, settle_ms: 300, retry_ms: 1_000, repeat_ms: 5_000, look_ms: 500 }
    }
}

/// Slots in flight: at which edge, and under which name there.
pub(crate) type HeldSlots = BTreeMap<Slot, (NodeId, u64)>;

/// A claim that waits for answers.
struct Claim {
    missing: BTreeSet<NodeId>,
    held: BTreeMap<Slot, (NodeId, u64)>,
    give_up_at: u64,
}

/// What to do about someone's claim.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The claimer is the owner. If `was_owner`, this node was until now.
    Accept { was_owner: bool },
    /// A higher rank owns it.
    Deny,
    /// This node ranks higher and owns it: it must say so to all.
    Contest,
}

/// See the module docs.
pub(crate) struct Takeover {
    me: NodeId,
    epoch: Epoch,
    timing: TakeoverTiming,
    started_at: Option<u64>,
    /// Segments of other lives that are dispatched here.
    owned: BTreeSet<SegmentId>,
    /// Segments of this life that someone else took for its own, and up to which slot it may have dispatched them.
    contested: BTreeMap<SegmentId, Slot>,
    /// Owned segments of which an edge refused deliveries, with the time at which to claim them anew.
    doubted: BTreeMap<SegmentId, u64>,
    claims: BTreeMap<SegmentId, Claim>,
    /// Since when this node is the first live candidate, and has not got the segment.
    first_since: BTreeMap<SegmentId, u64>,
    /// Who owns what is not dispatched here, as linked nodes have claimed.
    owners: BTreeMap<SegmentId, NodeId>,
    /// The present life of each linked node, whose segments it owns without a claim.
    lives: BTreeMap<NodeId, Epoch>,
    look_at: u64,
    repeat_at: u64,
}

impl Takeover {
    pub(crate) fn new(me: NodeId, epoch: Epoch, timing: TakeoverTiming) -> Self {
        Self {
            me,
            epoch,
            timing,
            started_at: None,
            owned: BTreeSet::new(),
            contested: BTreeMap::new(),
            doubted: BTreeMap::new(),
            claims: BTreeMap::new(),
            first_since: BTreeMap::new(),
            owners: BTreeMap::new(),
            lives: BTreeMap::new(),
            look_at: 0,
            repeat_at: 0,
        }
    }

    /// Whether the segment was written by this process.
    pub(crate) fn is_own_life(&self, segment: SegmentId) -> bool {
        segment.node == self.me && segment.epoch == self.epoch
    }

    /// Whether the segment was written by this process, and no other holder owns it: one does when this node has given its
    /// replica up.
    fn is_kept(&self, segment: SegmentId) -> bool {
        self.is_own_life(segment) && !self.owners.contains_key(&segment)
    }

    /// Whether this node dispatches the segment now.
    pub(crate) fn owns(&self, segment: SegmentId) -> bool {
        !self.claims.contains_key(&segment) && (self.is_kept(segment) || self.owned.contains(&segment))
    }

    /// Whether the message is to be marked: someone else may have delivered it.
    pub(crate) fn marks(&self, dot: Dot) -> bool {
        let is_contested = || self.contested.get(&dot.segment).is_some_and(|up_to| dot.slot <= *up_to);
        !self.is_own_life(dot.segment) || is_contested()
    }

    /// Whether this node tells the depth of the segment: as its owner, or as who is about to be.
    pub(crate) fn answers_for(&self, segment: SegmentId) -> bool {
        self.is_own_life(segment)
            || self.owned.contains(&segment)
            || self.claims.contains_key(&segment)
            || self.first_since.contains_key(&segment)
    }

    /// Whether a delivery from this node is to be taken: it is the segment's owner, as far as is known here.
    pub(crate) fn may_deliver(&self, from: NodeId, segment: SegmentId) -> bool {
        if self.claims.contains_key(&segment) {
            return false;
        }
        if self.owned.contains(&segment) || self.is_kept(segment) {
            return from == self.me;
        }
        self.known_owner(segment) == Some(from)
    }

    /// The owner of what this node does not own, if it is linked.
    fn known_owner(&self, segment: SegmentId) -> Option<NodeId> {
        let writer = || self.lives.get(&segment.node).filter(|life| **life == segment.epoch).map(|_| segment.node);
        self.owners.get(&segment).copied().or_else(writer)
    }

    /// Whether a claim of this node waits for answers.
    pub(crate) fn is_claiming(&self, segment: SegmentId) -> bool {
        self.claims.contains_key(&segment)
    }

    /// A linked node told in which life it is.
    pub(crate) fn on_life(&mut self, from: NodeId, life: Epoch) {
        self.lives.insert(from, life);
    }

    /// This node has given its replica up. Should that come back, for a drain was taken back, all of it may have been delivered.
    pub(crate) fn on_dropped(&mut self, segment: SegmentId) {
        if self.is_own_life(segment) {
            self.contested.insert(segment, Slot::MAX);
        }
    }

    /// These nodes were split off. Returns the segments that were owned or being claimed here.
    pub(crate) fn part_from(&mut self, nodes: &[NodeId]) -> Vec<SegmentId> {
        let is_theirs = |id: &SegmentId| nodes.contains(&id.node);
        let theirs = self.owned.iter().chain(self.claims.keys()).copied().filter(is_theirs).collect();
        self.owned.retain(|id| !is_theirs(id));
        self.claims.retain(|id, _| !is_theirs(id));
        self.first_since.retain(|id, _| !is_theirs(id));
        theirs
    }

    /// Something changed that may change an owner.
    pub(crate) fn look_soon(&mut self, at: u64) {
        self.look_at = self.look_at.min(at);
    }

    /// When to call [`Takeover::look`].
    pub(crate) fn deadline(&self) -> u64 {
        self.claims.values().map(|claim| claim.give_up_at).fold(self.look_at, u64::min)
    }

    /// Looks at all segments. Returns what is to be claimed, and what is not kept here any more.
    pub(crate) fn look(&mut self, now_ms: u64, view: &dyn View) -> (Vec<SegmentId>, Vec<SegmentId>) {
        let started_at = *self.started_at.get_or_insert(now_ms);
        self.look_at = now_ms + self.timing.look_ms;
        let known = self.owned.iter().chain(self.claims.keys());
        let dropped: Vec<_> = known.copied().filter(|id| !view.has_replica(*id)).collect();
        self.owned.retain(|id| !dropped.contains(id));
        self.claims.retain(|id, _| view.has_replica(*id));
        self.contested.retain(|id, up_to| view.has_replica(*id) || *up_to == Slot::MAX && !view.is_over(*id));
        let mut first_since = BTreeMap::new();
        let mut due = self.ripe_doubts(now_ms);
        for id in view.segments() {
            // Also what this life wrote, if another one was let have it: it may have been denied that by a third.
            if self.is_kept(id) || self.owned.contains(&id) || self.claims.contains_key(&id) {
                continue;
            }
            let is_first = || view.candidates(id).into_iter().find(|node| view.is_alive(*node)) == Some(self.me);
            if !view.has_waiting(id) || !is_first() {
                continue;
            }
            let since = self.first_since.get(&id).copied().unwrap_or(now_ms);
            first_since.insert(id, since);
            let ready_at = (since + self.timing.settle_ms).max(started_at + self.timing.start_settle_ms);
            if now_ms >= ready_at {
                due.push(id);
            } else {
                self.look_at = self.look_at.min(ready_at);
            }
        }
        self.first_since = first_since;
        (due, dropped)
    }

    /// An edge refused a delivery of an owned segment.
    pub(crate) fn doubt(&mut self, now_ms: u64, segment: SegmentId) {
        // Not at once: however edges answer, there is a pause between two claims.
        let due = *self.doubted.entry(segment).or_insert(now_ms + self.timing.settle_ms);
        self.look_soon(due);
    }

    /// Doubted segments that are to be claimed now. Those that are being claimed anyway have to wait: a claim because of a
    /// new peer takes for granted what is in flight at the others.
    fn ripe_doubts(&mut self, now_ms: u64) -> Vec<SegmentId> {
        let open = self.doubted.iter().filter(|(id, _)| !self.claims.contains_key(id));
        let (ripe, unripe): (Vec<_>, Vec<_>) = open.map(|(id, due)| (*id, *due)).partition(|(_, due)| *due <= now_ms);
        self.look_at = unripe.into_iter().map(|(_, due)| due).fold(self.look_at, u64::min);
        let mut due = Vec::new();
        for (id, _) in ripe {
            self.doubted.remove(&id);
            due.extend(self.owns(id).then_some(id));
        }
        due
    }

    /// A firm claim begins.
    pub(crate) fn begin(&mut self, now_ms: u64, segment: SegmentId, asked: &[NodeId], held: &[(Slot, u64)]) {
        if self.is_own_life(segment) {
            self.contested.entry(segment).or_insert(0);
        }
        self.owners.remove(&segment);
        self.doubted.remove(&segment);
        let claim = Claim {
            missing: asked.iter().copied().collect(),
            held: held.iter().map(|&(slot, tag)| (slot, (self.me, tag))).collect(),
            give_up_at: now_ms + self.timing.retry_ms * 5,
        };
        self.claims.insert(segment, claim);
    }

    /// A peer answered. False if nothing waits for it, and the answer is only news.
    pub(crate) fn on_held(&mut self, from: NodeId, segment: SegmentId, held: &[(Slot, u64)], up_to: Slot) -> bool {
        if up_to > 0 && self.is_own_life(segment) {
            let contested = self.contested.entry(segment).or_insert(0);
            *contested = up_to.max(*contested);
        }
        let Some(claim) = self.claims.get_mut(&segment) else { return false };
        claim.missing.remove(&from);
        claim.held.extend(held.iter().map(|&(slot, tag)| (slot, (from, tag))));
        true
    }

    /// What a peer said it holds, it does not any more.
    pub(crate) fn on_release(&mut self, from: NodeId, dot: Dot, tag: u64) {
        if let Some(claim) = self.claims.get_mut(&dot.segment)
            && claim.held.get(&dot.slot) == Some(&(from, tag))
        {
            claim.held.remove(&dot.slot);
        }
    }

    /// A peer knows of a higher rank, which owns it: leave it alone, and look again later. Whether it was owned here.
    pub(crate) fn on_denied(&mut self, now_ms: u64, segment: SegmentId) -> bool {
        if self.claims.remove(&segment).is_none() {
            return false;
        }
        let wait = self.timing.retry_ms.saturating_sub(self.timing.settle_ms);
        self.first_since.insert(segment, now_ms + wait);
        self.owned.remove(&segment)
    }

    /// Claims that are complete now, with what is held where. The segments are owned.
    pub(crate) fn finished(&mut self, now_ms: u64) -> Vec<(SegmentId, HeldSlots)> {
        let is_done = |claim: &Claim| claim.missing.is_empty() || now_ms >= claim.give_up_at;
        let done: Vec<_> = self.claims.iter().filter(|(_, claim)| is_done(claim)).map(|(id, _)| *id).collect();
        let mut finished = Vec::new();
        for id in done {
            let Some(claim) = self.claims.remove(&id) else { continue };
            self.first_since.remove(&id);
            if !self.is_own_life(id) {
                self.owned.insert(id);
            }
            finished.push((id, claim.held));
        }
        finished
    }

    /// Someone claims a segment.
    pub(crate) fn on_claim(&mut self, view: &dyn View, from: NodeId, segment: SegmentId, firm: bool) -> Verdict {
        let candidates = view.candidates(segment);
        // Who is no candidate ranks last.
        let rank = |node: NodeId| candidates.iter().position(|other| *other == node).unwrap_or(usize::MAX);
        let mine = self.is_own_life(segment) || self.owned.contains(&segment) || self.claims.contains_key(&segment);
        if mine && rank(self.me) < rank(from) {
            return if firm { Verdict::Deny } else { Verdict::Contest };
        }
        let known = if mine { None } else { self.known_owner(segment) };
        if known.is_some_and(|owner| owner != from && rank(owner) < rank(from)) {
            return Verdict::Deny;
        }
        self.claims.remove(&segment);
        let was_owner = self.owned.remove(&segment) || mine;
        self.owners.insert(segment, from);
        Verdict::Accept { was_owner }
    }

    /// A peer can't be asked any more.
    pub(crate) fn link_down(&mut self, peer: NodeId) {
        for claim in self.claims.values_mut() {
            claim.missing.remove(&peer);
            claim.held.retain(|_, (edge, _)| *edge != peer);
        }
        self.owners.retain(|_, owner| *owner != peer);
        self.lives.remove(&peer);
    }

    /// A new peer is asked about everything that is owned or being claimed here: it may hold deliveries, or own the same.
    /// Until it answers nothing of that is dispatched. Returns the segments to ask about.
    pub(crate) fn link_up(&mut self, now_ms: u64, peer: NodeId, view: &dyn View) -> Vec<SegmentId> {
        let give_up_at = now_ms + self.timing.retry_ms;
        for segment in view.segments() {
            if self.owns(segment) {
                let held = BTreeMap::new();
                self.claims.insert(segment, Claim { missing: BTreeSet::new(), held, give_up_at });
            }
        }
        for claim in self.claims.values_mut() {
            claim.missing.insert(peer);
        }
        self.claims.keys().copied().collect()
    }

    /// What is remembered, and how much of it.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("owned", self.owned.len()),
            ("contested", self.contested.len()),
            ("doubted", self.doubted.len()),
            ("claims", self.claims.len()),
            ("first_since", self.first_since.len()),
            ("owners", self.owners.len()),
            ("lives", self.lives.len()),
        ]
    }

    /// Segments of other lives, and contested ones, when it is time to repeat that they are owned here.
    pub(crate) fn repeat(&mut self, now_ms: u64) -> Vec<SegmentId> {
        if now_ms < self.repeat_at {
            return Vec::new();
        }
        self.repeat_at = now_ms + self.timing.repeat_ms;
        self.owned.iter().chain(self.contested.keys()).copied().filter(|id| self.owns(*id)).collect()
    }
}
