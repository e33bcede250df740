//! What turned out broken on this node's disk, counted in messages, and what of it has come back.

use std::collections::BTreeMap;

use rhizomq_engine::{Loss, RangeSet, SegmentId};

use super::{Event, Node};

/// Messages (slots) that this node had vouched for and could not show, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DamageCount {
    /// All of them.
    pub found: u64,
    /// Those that are here again, or turned out to be consumed.
    pub repaired: u64,
    /// Those that are not, or not yet.
    pub lost: u64,
}

/// Slots by segment.
pub(super) type Damages = BTreeMap<SegmentId, RangeSet>;

impl Node {
    /// Takes note of what opening the engine found missing.
    pub fn note_losses(&mut self, losses: &[Loss]) {
        for Loss { segment, slots } in losses {
            self.note_damage(*segment, slots, "missing when the store was opened");
        }
    }

    /// See [`DamageCount`].
    pub fn damage(&self) -> DamageCount {
        let mut count = DamageCount::default();
        for (&segment, slots) in &self.damages {
            count.found += slots.len();
            if !self.engine.is_finished(segment) {
                count.lost += slots.difference(&self.engine.state_of(segment).known).len();
            }
        }
        // Until the commit that gives them up, they count as known; that is soon.
        count.repaired = count.found - count.lost;
        count
    }

    pub(super) fn note_damage(&mut self, segment: SegmentId, slots: &RangeSet, why: &str) {
        if !slots.is_empty() {
            self.damages.entry(segment).or_default().union_with(slots);
        }
        self.events.push_back(Event::Damaged { what: format!("segment {segment} slots {slots:?}: {why}") });
    }
}
