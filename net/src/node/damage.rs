//! What turned out broken on this node's disk, counted in messages, and what of it has come back.

use std::collections::BTreeMap;

use rhizomq_engine::{Loss, RangeSet, SegmentId};

use super::{Event, Node};

/// Messages (slots) that this node had vouched for and could not show, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DamageCount {
    /// All of them.
    pub found: u64,
    /// Those that are here again, that turned out to be consumed, or whose segment others keep by now: this node gave its
    /// replica up when it was proven to be theirs.
    pub repaired: u64,
    /// Those that are not, or not yet.
    pub lost: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Damages {
    /// Slots by segment, of those that are kept here.
    kept: BTreeMap<SegmentId, RangeSet>,
    /// How many there were in segments that are over, or not this node's to keep any more.
    settled: u64,
}

impl Damages {
    fn note(&mut self, segment: SegmentId, slots: &RangeSet) {
        if !slots.is_empty() {
            self.kept.entry(segment).or_default().union_with(slots);
        }
    }

    /// The segments that are not kept here any more.
    pub(super) fn settle(&mut self, is_gone: impl Fn(SegmentId) -> bool) {
        self.kept.retain(|segment, slots| {
            let stays = !is_gone(*segment);
            self.settled += if stays { 0 } else { slots.len() };
            stays
        });
    }

    fn count(&self, known: impl Fn(SegmentId) -> RangeSet) -> DamageCount {
        let found = self.settled + self.kept.values().map(RangeSet::len).sum::<u64>();
        let lost = self.kept.iter().map(|(segment, slots)| slots.difference(&known(*segment)).len()).sum();
        // Until the commit that gives them up, they count as known; that is soon.
        DamageCount { found, repaired: found - lost, lost }
    }
}

impl Node {
    /// Takes note of what opening the engine found missing.
    pub fn note_losses(&mut self, losses: &[Loss]) {
        for Loss { segment, slots } in losses {
            self.note_damage(*segment, slots, "missing when the store was opened");
        }
    }

    /// See [`DamageCount`].
    pub fn damage(&self) -> DamageCount {
        self.damages.count(|segment| match self.engine.is_finished(segment) {
            true => RangeSet::from_range(1, u32::MAX),
            false => self.engine.state_of(segment).known,
        })
    }

    pub(super) fn note_damage(&mut self, segment: SegmentId, slots: &RangeSet, why: &str) {
        self.damages.note(segment, slots);
        self.events.push_back(Event::Damaged { what: format!("segment {segment} slots {slots:?}: {why}") });
    }
}

#[cfg(test)]
mod tests {
    use rhizomq_engine::{Epoch, NodeId};

    use super::*;

    #[test]
    fn what_others_keep_by_now_is_not_lost_again() {
        let segment = |number| SegmentId { node: NodeId([1; 16]), epoch: Epoch(1), number };
        let mut damages = Damages::default();
        (1..=2).for_each(|number| damages.note(segment(number), &RangeSet::from_range(1, 10)));
        let of = |found, lost| DamageCount { found, repaired: found - lost, lost };
        // Of the first one seven are back.
        let known = |id: SegmentId| if id.number == 1 { RangeSet::from_range(1, 7) } else { RangeSet::new() };
        assert_eq!(damages.count(known), of(20, 13));
        // It is handed over, and nothing of it is known here any more.
        damages.settle(|id| id.number == 1);
        assert_eq!(damages.count(|_| RangeSet::new()), of(20, 10));
        assert_eq!(damages.kept.len(), 1, "and it takes no memory");
    }
}
