//! What others than its writer delivered of a journal, as far as this node had a part in it: of each segment the highest
//! slot that it dispatched in the writer's place, or that its clients got from a node that did.
//!
//! The writer asks for it with each of its claims, and marks up to there what it dispatches after that. It is not
//! forgotten when it has been told, since an answer can get lost with its link, but when the writer begins another life:
//! then none of these segments is its own, and all of them are marked anyway.

use std::collections::BTreeMap;

use rhizomq_engine::{Dot, Epoch, NodeId, SegmentId, Slot};

/// Segments remembered; so many are never taken over while their writer lives.
const MAX_SEGMENTS: usize = 1 << 16;

/// See the module docs.
#[derive(Default)]
pub(super) struct StandIns {
    up_to: BTreeMap<SegmentId, Slot>,
}

impl StandIns {
    /// The message was dispatched here, or reached a client here, in place of its writer.
    pub(super) fn note(&mut self, dot: Dot) {
        let up_to = self.up_to.entry(dot.segment).or_insert(0);
        *up_to = dot.slot.max(*up_to);
        if self.up_to.len() > MAX_SEGMENTS {
            self.up_to.pop_first();
        }
    }

    /// Nothing above this slot was; 0 if nothing was at all.
    pub(super) fn up_to(&self, segment: SegmentId) -> Slot {
        self.up_to.get(&segment).copied().unwrap_or(0)
    }

    /// How many segments are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.up_to.len()
    }

    /// The node is in this life now.
    pub(super) fn on_life(&mut self, node: NodeId, life: Epoch) {
        self.up_to.retain(|segment, _| segment.node != node || segment.epoch == life);
    }
}
