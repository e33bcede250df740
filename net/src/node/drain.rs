//! Leaving for good, in order: a node that drains has all it holds copied elsewhere, gives up its replicas by the usual
//! hand-off, and takes itself off the roster. Nothing is lost by it, unlike by forgetting a node.
//!
//! - `draining`: the set of nodes that do. Only its own node adds or removes one, so a restart in between goes on, and all
//!   others know: whoever drains is no holder to be, counts as no copy, vouches for nobody and is not elected.
//! - First it is *handing over*: successors are named for all that it holds, and copy it, while it goes on dispatching.
//! - When all has its copies, and the layer above has no clients any more, it is *leaving*: it dispatches nothing and takes
//!   in no news, for any change would void the proofs. Each replica goes when enough others have proven to have all of it.
//!   That takes moments; if it takes longer, somebody else has died, and it hands over again.
//! - When it holds nothing it strikes itself off the roster, waits until others know, and has *left*.
//!
//! As many others must have a copy as are wanted, or as many as there are nodes that do not drain, those included that are
//! away: only an operator can say that these don't matter, by forgetting them. There must be one at least.

use std::collections::BTreeSet;

use rhizomq_engine::{Key, NodeId, Now, SegmentId};

use super::{
    Event, Node,
    members::ballot_key,
    placement::{holders_key, leaving_key},
    roster::{Who, record_key, roster_key},
};

/// How long all linked nodes are given to hear that this one has left, once one of them has.
const FAREWELL_MS: u64 = 3_000;

/// How far a node is with leaving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainStage {
    /// It is not asked to.
    #[default]
    No,
    /// Copies are made elsewhere.
    HandingOver,
    /// All has copies: it gives up its own.
    Leaving,
    /// It holds nothing, and the others are told.
    Going,
    /// Done: the process may end.
    Left,
}

/// What there is still to do before a node has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainStatus {
    /// How far it is.
    pub stage: DrainStage,
    /// Segments that it still has on its disk.
    pub segments: u64,
    /// Of these, segments that lack copies elsewhere, and the messages that wait in them.
    pub lacking: (u64, u64),
    /// Why it can't go on, if so.
    pub hindrance: Option<DrainHindrance>,
}

/// Why a node can't leave for now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrainHindrance {
    /// It is the only one, or all the others drain as well.
    #[error("there is no other node that stays; start one, or cancel the drain here or there")]
    NobodyElse,
    /// A split is under way, and comes first.
    #[error("the split off of `{0}` is under way, and comes first; `rhizomq status` says whom that waits for")]
    Splitting(String),
    /// Nodes that should hold copies are away.
    #[error("{needed} other nodes are to hold copies, and this one has links with {within_reach} that stay{}", advice(.away, .cut_off))]
    TooFew {
        /// Other nodes that are to hold each message.
        needed: usize,
        /// Those that are linked and stay.
        within_reach: usize,
        /// Those that stay and are not seen alive.
        away: Vec<Who>,
        /// Those that stay and are seen alive by others, but not linked with this node.
        cut_off: Vec<Who>,
    },
}

/// What to do about nodes that are away, and about others that run behind a broken link: these can't be forgotten.
fn advice(away: &[Who], cut_off: &[Who]) -> String {
    let names = |nodes: &[Who]| nodes.iter().map(Who::to_string).collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    if !away.is_empty() {
        let names = names(away);
        text += &format!("; away: {names}: start them, or, if they never come back, `rhizomq node forget NODE`");
    }
    if !cut_off.is_empty() {
        let names = names(cut_off);
        text += &format!(
            "; alive without a link to this node: {names}: see that UDP gets through between them and this node"
        );
    }
    text
}

/// Why a drain is not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// There is none.
    #[error("this node is not draining")]
    NotDraining,
    /// It is over.
    #[error("this node holds nothing any more and has left; start it again, and it joins anew")]
    TooLate,
}

/// Who drains, and this node's part in it.
#[derive(Debug, Default)]
pub(super) struct Drains {
    nodes: BTreeSet<NodeId>,
    stage: DrainStage,
    /// Since when it is in this stage.
    since: u64,
    /// Not to leave before this time: the last try went wrong.
    not_before: u64,
    /// Whether the layer above needs this node no more.
    is_released: bool,
}

pub(super) fn draining_key() -> Key {
    Key::set("draining")
}

impl Node {
    /// Begins to leave for good, or goes on with it.
    pub fn drain(&mut self, now: Now) {
        if self.drains.stage == DrainStage::No {
            let me = self.id();
            self.mark_draining();
            self.enter(DrainStage::HandingOver, now);
            self.strike_seats(me);
            self.members.mark_dirty();
            self.engine.close_segment();
        }
        self.finish(now);
    }

    /// Takes [`Node::drain`] back.
    ///
    /// # Errors
    /// It is too late, or there is nothing to take back.
    pub fn cancel_drain(&mut self, now: Now) -> Result<(), CancelError> {
        match self.drains.stage {
            DrainStage::No => return Err(CancelError::NotDraining),
            DrainStage::Going | DrainStage::Left => return Err(CancelError::TooLate),
            DrainStage::HandingOver | DrainStage::Leaving => {}
        }
        let me = self.id();
        self.strike_out(draining_key(), me);
        self.drains.nodes.remove(&me);
        self.enter(DrainStage::No, now);
        self.members.mark_dirty();
        self.finish(now);
        Ok(())
    }

    /// How far this node is with leaving for good.
    pub fn drain_stage(&self) -> DrainStage {
        self.drains.stage
    }

    /// Whether the layer above has no clients and no answers to wait for: only then does this node leave.
    pub fn release(&mut self, released: bool) {
        self.drains.is_released = released;
    }

    /// What there is still to do; `None` if this node is not leaving.
    pub fn drain_status(&self) -> Option<DrainStatus> {
        if self.drains.stage == DrainStage::No {
            return None;
        }
        let lacking: Vec<_> = self.engine.segments().filter(|&segment| !self.has_copies_elsewhere(segment)).collect();
        let messages = lacking.iter().map(|&segment| self.engine.waiting_in(segment).len()).sum();
        Some(DrainStatus {
            stage: self.drains.stage,
            segments: self.engine.segments().count() as u64,
            lacking: (lacking.len() as u64, messages),
            hindrance: self.waits_for_split().or_else(|| self.hindrance()),
        })
    }

    /// Whether a node is leaving for good, as far as is known here.
    pub fn is_draining(&self, node: NodeId) -> bool {
        self.drains.nodes.contains(&node)
    }

    pub(super) fn draining(&self) -> &BTreeSet<NodeId> {
        &self.drains.nodes
    }

    /// Whether what this node holds is to stay as it is until others have proven to have it.
    pub(super) fn is_frozen(&self) -> bool {
        self.drains.stage >= DrainStage::Leaving
    }

    /// Whether this node is leaving for good.
    pub(super) fn drains_here(&self) -> bool {
        self.drains.stage != DrainStage::No
    }

    /// Whether this node is off the roster by its own will.
    pub(super) fn is_off(&self) -> bool {
        self.drains.stage >= DrainStage::Going
    }

    /// Whether a holder is not to be counted on: it gives its replica up, or all of them, or is of another part. While a
    /// cluster is being split, whoever drains stays as it is until that is done.
    pub(super) fn goes(&self, segment: SegmentId, node: NodeId) -> bool {
        self.holders.is_leaving(segment, node)
            || self.is_draining(node) && !self.is_splitting()
            || self.is_foreign(segment, node)
    }

    /// Nodes that stay, this one not included.
    fn staying(&self) -> Vec<NodeId> {
        let me = self.id();
        self.roster_ids().into_iter().filter(|&node| node != me && !self.is_draining(node)).collect()
    }

    /// How many others have to have what this node has before it may go. 1 at least.
    pub(super) fn copies_elsewhere(&self) -> usize {
        self.staying().len().clamp(1, self.config.copies.max(1) as usize)
    }

    fn hindrance(&self) -> Option<DrainHindrance> {
        let staying = self.staying();
        if staying.is_empty() && !self.is_off() {
            return Some(DrainHindrance::NobodyElse);
        }
        let needed = self.copies_elsewhere();
        let (near, far): (Vec<_>, Vec<_>) = staying.into_iter().partition(|&node| self.is_linked(node));
        let within_reach = near.len();
        if within_reach >= needed || self.is_off() {
            return None;
        }
        let (cut_off, away) = far.into_iter().partition::<Vec<_>, _>(|&node| self.is_alive(node));
        let who = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| self.who(node)).collect();
        Some(DrainHindrance::TooFew { needed, within_reach, away: who(away), cut_off: who(cut_off) })
    }

    /// It does not begin to leave before a split is done.
    fn waits_for_split(&self) -> Option<DrainHindrance> {
        let name = self.splitting_off().filter(|_| self.drains.stage == DrainStage::HandingOver)?;
        Some(DrainHindrance::Splitting(name.to_owned()))
    }

    /// Holders that are there and stay, this node not included.
    pub(super) fn staying_holders(&self, segment: SegmentId) -> Vec<NodeId> {
        let me = self.id();
        let stays = |node: &NodeId| *node != me && self.is_linked(*node) && !self.goes(segment, *node);
        self.holders_of(segment).iter().copied().filter(stays).collect()
    }

    /// Whether enough others hold the segment, as far as is known; what is dispatched here they must have said to have.
    fn has_copies_elsewhere(&self, segment: SegmentId) -> bool {
        let holders = self.staying_holders(segment);
        if !self.holds(segment, self.id()) {
            return !holders.is_empty();
        }
        let waiting = self.engine.waiting_in(segment);
        let has_all = |node: &NodeId| self.confirms.has(*node, segment).is_some_and(|has| waiting.is_subset(has));
        // Of what others dispatch there may be more every moment; what this node has of it they will prove to have.
        let counts = |node: &NodeId| waiting.is_empty() || !self.looks_after(segment) || has_all(node);
        self.engine.open_segment() != Some(segment)
            && holders.iter().filter(|node| counts(node)).count() >= self.copies_elsewhere()
    }

    /// Whether this node's replica is surplus because all of it leaves; `None` if that is not so.
    pub(super) fn is_surplus_in_drain(&self, segment: SegmentId) -> Option<bool> {
        match self.drains.stage {
            DrainStage::No => None,
            // What is of the other part goes as it does from nodes that stay: the split comes first.
            DrainStage::HandingOver if self.is_foreign(segment, self.id()) => None,
            DrainStage::HandingOver => Some(false),
            _ => {
                let enough = if self.holds(segment, self.id()) { self.copies_elsewhere() } else { 1 };
                Some(self.engine.is_settled(segment) && self.staying_holders(segment).len() >= enough)
            }
        }
    }

    /// A registry key changed: follow it if it tells who drains.
    pub(super) fn note_draining(&mut self, key: &Key) {
        if *key != draining_key() {
            return;
        }
        let read = |member: Vec<u8>| member.try_into().ok().map(NodeId);
        // With changes of this node's own that wait for their commit: it knows what it wants.
        self.drains.nodes = self.engine.set_members(key).into_iter().filter_map(read).collect();
        self.members.mark_dirty();
    }

    /// What the disk has: a drain that an earlier life began goes on.
    pub(super) fn read_draining(&mut self, now: Now) {
        self.note_draining(&draining_key());
        if self.is_draining(self.id()) {
            self.enter(DrainStage::HandingOver, now);
        }
    }

    fn mark_draining(&mut self) {
        let me = self.id();
        if self.engine.set_add(draining_key(), me.0.to_vec()).is_ok() {
            self.changed_keys.insert(draining_key());
        }
        self.drains.nodes.insert(me);
    }

    fn enter(&mut self, stage: DrainStage, now: Now) {
        (self.drains.stage, self.drains.since) = (stage, now.mono_ms);
    }

    /// The part of upkeep.
    pub(super) fn look_at_drain(&mut self, now: Now) {
        self.unmark_those_who_left();
        match self.drains.stage {
            // An earlier life of this node began it, of which its disk knows nothing: others do.
            DrainStage::No if self.is_draining(self.id()) => self.enter(DrainStage::HandingOver, now),
            DrainStage::No | DrainStage::Left => {}
            DrainStage::HandingOver => {
                // Others may have taken this node for one that has left, since it was about to when its last life ended.
                if !self.is_draining(self.id()) {
                    self.mark_draining();
                }
                self.engine.close_segment();
                self.name_heirs();
                let is_time = self.drains.is_released && now.mono_ms >= self.drains.not_before;
                let all_have_copies = || self.engine.segments().all(|segment| self.has_copies_elsewhere(segment));
                if is_time && !self.is_splitting() && self.hindrance().is_none() && all_have_copies() {
                    self.enter(DrainStage::Leaving, now);
                }
            }
            DrainStage::Leaving => {
                let holds_nothing = self.engine.segments().next().is_none() && self.is_quiet();
                if holds_nothing && self.hindrance().is_none() {
                    self.strike_myself();
                    self.enter(DrainStage::Going, now);
                } else if now.mono_ms >= self.drains.since + self.config.timing.stall_ms {
                    self.drains.not_before = now.mono_ms + self.config.timing.pull_ms;
                    self.enter(DrainStage::HandingOver, now);
                }
            }
            DrainStage::Going => {
                let knowing =
                    self.peers.values().filter(|peer| peer.in_sync && peer.synced_at > self.drains.since).count();
                let all = knowing == self.peers.len() || now.mono_ms >= self.drains.since + FAREWELL_MS;
                // Its own mark goes last: a life that ends before goes on draining in the next.
                if knowing > 0 && all && self.is_draining(self.id()) {
                    self.strike_out(draining_key(), self.id());
                    self.drains.nodes.remove(&self.id());
                } else if self.is_quiet() && !self.is_draining(self.id()) {
                    self.enter(DrainStage::Left, now);
                    self.events.push_back(Event::Left);
                }
            }
        }
    }

    /// The marks of nodes that are off the roster go; their own did so with them, if they heard of nothing else.
    fn unmark_those_who_left(&mut self) {
        if self.drains.nodes.is_empty() {
            return;
        }
        let (me, roster) = (self.id(), self.roster_ids());
        let gone = self.drains.nodes.iter().filter(|&&node| node != me && !roster.contains(&node));
        for node in gone.copied().collect::<Vec<_>>() {
            self.strike_out(draining_key(), node);
        }
    }

    /// Names holders for what nobody looks after but this node: what is dispatched here gets its successors anyway.
    fn name_heirs(&mut self) {
        let is_alone =
            |&segment: &SegmentId| self.staying_holders(segment).is_empty() && !self.engine.is_retired(segment);
        for segment in self.engine.segments().filter(is_alone).collect::<Vec<_>>() {
            let named: Vec<_> = self.named(segment).into_iter().collect();
            let stay: Vec<_> =
                named.iter().copied().filter(|&node| self.is_linked(node) && !self.goes(segment, node)).collect();
            for node in self.outsiders_for(segment, &named, self.shape(), &stay) {
                self.add_holder(segment, node);
            }
        }
    }

    /// Off the roster, with all that the registry has of this node.
    fn strike_myself(&mut self) {
        let me = self.id();
        self.strike_seats(me);
        for segment in self.holders.listing(me) {
            self.strike_out(holders_key(segment), me);
            self.strike_out(leaving_key(segment), me);
        }
        self.strike_out(roster_key(), me);
        self.engine.unregister(record_key(me));
        self.engine.unregister(ballot_key(me));
    }
}
