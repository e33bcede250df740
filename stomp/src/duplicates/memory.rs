//! The ids that this node knows: of what it took, and of what it keeps for others. What is in here is on this node's disk.

use std::collections::{BTreeMap, VecDeque};

use rhizomq_engine::{Dot, RangeSet, SegmentId, Slot};

use super::DuplicateId;

/// Ids of all nodes that are known here, for each of those that a node remembers of its own: of what goes beyond, this node knows
/// nothing.
const ALL: usize = 16;

/// See the module docs. An id costs less than 200 bytes.
#[derive(Default)]
pub(crate) struct Memory {
    ids: BTreeMap<DuplicateId, Dot>,
    by_dot: BTreeMap<Dot, DuplicateId>,
    /// What this life took, the oldest first; some may be forgotten by now.
    own: VecDeque<Dot>,
}

impl Memory {
    /// Where the id is kept.
    pub(crate) fn dot(&self, id: DuplicateId) -> Option<Dot> {
        self.ids.get(&id).copied()
    }

    /// An id is on this node's disk. `max`: so many of its own a node remembers.
    pub(crate) fn learn(&mut self, id: DuplicateId, dot: Dot, max: usize) {
        if self.by_dot.len() < max.saturating_mul(ALL) {
            self.ids.insert(id, dot);
            self.by_dot.insert(dot, id);
        }
    }

    /// This life took it. Returns those that are too many: they are to be consumed.
    pub(crate) fn took(&mut self, dot: Dot, max: usize) -> Vec<Dot> {
        self.own.push_back(dot);
        let mut over = Vec::new();
        while self.own.len() > max || self.own.front().is_some_and(|dot| !self.by_dot.contains_key(dot)) {
            over.extend(self.own.pop_front().filter(|dot| self.by_dot.contains_key(dot)));
        }
        over
    }

    /// These are consumed.
    pub(crate) fn forget(&mut self, segment: SegmentId, slots: &RangeSet) {
        for (first, last) in slots.iter_ranges() {
            self.forget_range(segment, first, last);
        }
    }

    /// The segment is not here any more.
    pub(crate) fn forget_segment(&mut self, segment: SegmentId) {
        self.forget_range(segment, 0, Slot::MAX);
    }

    fn forget_range(&mut self, segment: SegmentId, first: Slot, last: Slot) {
        let range = Dot { segment, slot: first }..=Dot { segment, slot: last };
        while let Some((&dot, &id)) = self.by_dot.range(range.clone()).next() {
            self.by_dot.remove(&dot);
            if self.ids.get(&id) == Some(&dot) {
                self.ids.remove(&id);
            }
        }
    }

    /// How much is remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_dot.len()
    }
}

#[cfg(test)]
mod tests {
    use rhizomq_engine::{Epoch, NodeId};

    use super::*;
    use crate::destination::Destination;

    fn id(number: u64) -> DuplicateId {
        DuplicateId::new(&Destination::parse("/queue/a").unwrap(), &number.to_string())
    }

    fn dot(slot: Slot) -> Dot {
        Dot { segment: SegmentId { node: NodeId([1; 16]), epoch: Epoch(2), number: 3 }, slot }
    }

    #[test]
    fn the_oldest_of_too_many_go_and_what_is_consumed_is_forgotten() {
        let mut memory = Memory::default();
        for slot in 1..=3 {
            memory.learn(id(u64::from(slot)), dot(slot), 3);
            assert_eq!(memory.took(dot(slot), 3), []);
        }
        memory.learn(id(4), dot(4), 3);
        assert_eq!(memory.took(dot(4), 3), [dot(1)]);
        memory.forget(dot(1).segment, &RangeSet::from_range(1, 2));
        assert_eq!((memory.dot(id(1)), memory.dot(id(2)), memory.dot(id(3))), (None, None, Some(dot(3))));
        memory.forget_segment(dot(1).segment);
        assert_eq!((memory.len(), memory.ids.len()), (0, 0));
        memory.learn(id(5), dot(5), 3);
        assert_eq!(memory.took(dot(5), 3), [], "what is forgotten does not count");
        assert_eq!(memory.own.len(), 1);
    }

    #[test]
    fn of_an_id_that_is_kept_twice_the_other_one_still_counts() {
        let mut memory = Memory::default();
        memory.learn(id(1), dot(1), 9);
        memory.learn(id(1), dot(2), 9);
        memory.forget(dot(1).segment, &RangeSet::from_range(1, 1));
        assert_eq!(memory.dot(id(1)), Some(dot(2)));
    }

    #[test]
    fn it_is_bounded() {
        let mut memory = Memory::default();
        (1..=100).for_each(|slot| memory.learn(id(u64::from(slot)), dot(slot), 2));
        assert_eq!(memory.len(), 2 * ALL);
    }
}
