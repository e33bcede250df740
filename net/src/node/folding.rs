//! How a segment ends that a crash left open.
//!
//! Only the origin, in that life, could state its length. Nobody else may guess, not even the restarted origin: it may
//! run from an old backup, or have lost a tail that others hold. So nobody does. Once the life is known to be over and
//! everything known of the segment is consumed, the node that looks after it *folds* it: its replica goes, the exact set
//! of consumed slots stays in the retired set, and the other holders follow when they learn of that.
//!
//! No node has to be asked, and none that is away for good holds this up, because nothing is claimed but what is known:
//! a disk that turns up later with slots outside of the set is no contradiction. They are taken in again, and since the
//! list of holders went with the fold, every node of the roster is a holder of what turned up.

use rhizomq_engine::{NodeId, SegmentId};

use super::Node;

impl Node {
    /// Folds what is ripe; and gives up the open segment if others took this life for over.
    pub(super) fn fold_crashed(&mut self) {
        if self.engine.open_segment().is_some_and(|segment| self.engine.retired().contains(segment)) {
            self.engine.close_segment();
        }
        for segment in self.engine.segments().filter(|&segment| self.is_ripe(segment)).collect::<Vec<_>>() {
            self.engine.fold(segment);
        }
    }

    fn is_ripe(&self, segment: SegmentId) -> bool {
        self.engine.is_consumed(segment)
            && (self.looks_after(segment) || self.is_nobodys(segment))
            && self.is_past_life(segment)
            && self.is_in_step(segment)
    }

    /// Whether nobody is left to look after the segment: the last holder on its list has left or was forgotten, and so was its
    /// origin. Who still has a replica folds it then, be it several.
    fn is_nobodys(&self, segment: SegmentId) -> bool {
        self.holders_of(segment).is_empty() && !self.is_in_roster(segment.node) && !self.is_gone(segment.node)
    }

    /// Whether the life that wrote the segment is over, as far as is known here. Should that be wrong nothing is lost: the
    /// origin goes on in a new segment when it hears of it.
    fn is_past_life(&self, segment: SegmentId) -> bool {
        if segment.node == self.id() {
            return segment.epoch != self.epoch();
        }
        if let Some(peer) = self.peers.get(&segment.node) {
            return peer.hello.epoch != segment.epoch;
        }
        let is_forgotten = || !self.is_in_roster(segment.node);
        self.published_epoch(segment.node).map_or_else(is_forgotten, |present| present != segment.epoch)
    }

    /// Whether no linked holder is known to have more of it. Only saves folding what would turn up again at once.
    fn is_in_step(&self, segment: SegmentId) -> bool {
        let lags = |node: &NodeId| self.peers.get(node).is_some_and(|peer| !peer.is_in_step(segment));
        !self.candidates(segment).iter().any(lags)
    }
}
