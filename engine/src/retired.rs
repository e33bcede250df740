//! What is over for ever and must never come back.
//!
//! Two grades, by life. A segment is *finished* when its origin stated its length, in the same life, and all of it is
//! consumed: one number in a set of ranges (one range, in the long run). A segment that a crash left open has no length
//! that anybody could state: not even its restarted origin, which may run from an old backup or have lost a tail that
//! others hold. It is *folded*: the exact set of its consumed slots stays (one range, mostly), and nothing else. What is
//! not in that set was never heard of here, and is still welcome when the disk that has it turns up.
//!
//! Both only say what is consumed, so a node may enter them without asking anybody. Sets and not thresholds: epochs
//! have no order, and a clock set back must not make a new life look finished.

use std::collections::{BTreeMap, btree_map::Entry};

use serde::{Deserialize, Serialize};

use crate::{Dot, Epoch, NodeId, RangeSet, SegmentId, Slot, limits};

/// What is over of one life. Merge is union; what is finished needs no slots any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredLife {
    /// Numbers of finished segments.
    pub(crate) finished: RangeSet,
    /// Consumed slots of folded segments, by number; never of a finished one.
    pub(crate) folded: BTreeMap<u32, RangeSet>,
}

/// What is over, by life. Merge is union.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    lives: BTreeMap<(NodeId, Epoch), RetiredLife>,
}

impl RetiredLife {
    /// Joins with what another node knows of the same life.
    pub fn merge(&mut self, other: &Self) {
        self.finished = self.finished.union(&other.finished);
        for (&number, slots) in &other.folded {
            self.folded.entry(number).or_default().union_with(&lawful(slots));
        }
        self.folded.retain(|number, _| !self.finished.contains(*number));
    }

    /// What `self` knows and `other` does not.
    fn delta(&self, other: &Self) -> Self {
        let finished = self.finished.difference(&other.finished);
        let news = |(&number, slots): (&u32, &RangeSet)| match other.folded.get(&number) {
            _ if other.finished.contains(number) => None,
            None => Some((number, slots.clone())),
            Some(known) => Some((number, slots.difference(known))).filter(|(_, slots)| !slots.is_empty()),
        };
        Self { finished, folded: self.folded.iter().filter_map(news).collect() }
    }

    /// The part that is about segments before `open`, and about slots before the first that `unwritten` tells of a segment.
    pub(crate) fn before(&self, open: u32, unwritten: impl Fn(u32) -> Option<Slot>) -> Self {
        let written = |(&number, slots): (&u32, &RangeSet)| match unwritten(number) {
            Some(first) => Some((number, slots.clip(1, first - 1))).filter(|(_, slots)| !slots.is_empty()),
            None => Some((number, slots.clone())),
        };
        Self {
            finished: self.finished.clip(1, open.saturating_sub(1)),
            folded: self.folded.iter().filter_map(written).collect(),
        }
    }

    /// The highest number of a segment that is over.
    pub(crate) fn last(&self) -> Option<u32> {
        self.finished.last().max(self.folded.keys().next_back().copied())
    }

    fn is_empty(&self) -> bool {
        self.finished.is_empty() && self.folded.is_empty()
    }

    /// Brings what was read from outside into normal form: what is finished is not folded, too, and no segment has more
    /// slots than it can have.
    pub(crate) fn normalize(&mut self) {
        self.folded.values_mut().for_each(|slots| *slots = lawful(slots));
        self.folded.retain(|number, _| !self.finished.contains(*number));
    }
}

fn lawful(slots: &RangeSet) -> RangeSet {
    slots.clip(1, limits::SEGMENT_SLOTS)
}

impl Retired {
    /// Whether all of the segment is over: nothing of it is ever needed again.
    pub fn is_finished(&self, id: SegmentId) -> bool {
        self.life(id.node, id.epoch).is_some_and(|life| life.finished.contains(id.number))
    }

    /// The consumed slots of a segment that was folded and is not finished.
    pub fn folded(&self, id: SegmentId) -> Option<&RangeSet> {
        self.life(id.node, id.epoch)?.folded.get(&id.number)
    }

    /// Whether the segment is finished or folded.
    pub fn contains(&self, id: SegmentId) -> bool {
        self.is_finished(id) || self.folded(id).is_some()
    }

    /// Whether a dot is among what is over.
    pub fn covers(&self, dot: Dot) -> bool {
        self.is_finished(dot.segment) || self.folded(dot.segment).is_some_and(|slots| slots.contains(dot.slot))
    }

    /// The planted mistake: up to the highest number of the node that is over, whatever the epoch.
    #[cfg(feature = "mistakes")]
    pub(crate) fn contains_by_threshold(&self, id: SegmentId) -> bool {
        let last = |life: &RetiredLife| life.finished.last().max(life.folded.keys().next_back().copied());
        self.lives.iter().any(|((node, _), life)| *node == id.node && last(life) >= Some(id.number))
    }

    /// Adds a finished segment.
    pub fn finish(&mut self, id: SegmentId) {
        let life = self.lives.entry((id.node, id.epoch)).or_default();
        life.finished.insert(id.number);
        life.folded.remove(&id.number);
    }

    /// Adds a segment of which nothing but its consumed slots is kept.
    pub fn fold(&mut self, id: SegmentId, consumed: &RangeSet) {
        let life = self.lives.entry((id.node, id.epoch)).or_default();
        if !life.finished.contains(id.number) {
            life.folded.entry(id.number).or_default().union_with(consumed);
        }
    }

    /// What is over of one life.
    pub fn life(&self, node: NodeId, epoch: Epoch) -> Option<&RetiredLife> {
        self.lives.get(&(node, epoch))
    }

    /// All lives.
    pub fn lives(&self) -> impl Iterator<Item = (NodeId, Epoch, &RetiredLife)> {
        self.lives.iter().map(|((node, epoch), life)| (*node, *epoch, life))
    }

    /// Union with what is known of one life.
    pub fn merge_life(&mut self, node: NodeId, epoch: Epoch, life: &RetiredLife) {
        match self.lives.entry((node, epoch)) {
            Entry::Occupied(mut mine) => mine.get_mut().merge(life),
            Entry::Vacant(place) => {
                let mut life = life.clone();
                life.normalize();
                place.insert(life);
            }
        }
    }

    /// The part that is about one segment; empty if that is neither finished nor folded.
    pub fn only(&self, id: SegmentId) -> Self {
        let mut part = Self::default();
        if self.is_finished(id) {
            part.finish(id);
        } else if let Some(slots) = self.folded(id) {
            part.fold(id, slots);
        }
        part
    }

    /// What `self` has and `other` has not: merging it into `other` equals merging all of `self`.
    pub fn delta(&self, other: &Self) -> Self {
        let lives = self.lives.iter().filter_map(|(life, mine)| {
            let news = other.lives.get(life).map_or_else(|| mine.clone(), |theirs| mine.delta(theirs));
            (!news.is_empty()).then_some((*life, news))
        });
        Self { lives: lives.collect() }
    }

    /// Whether nothing is over.
    pub fn is_empty(&self) -> bool {
        self.lives.is_empty()
    }

    /// blake3 over the canonical encoding.
    pub fn digest(&self) -> [u8; 32] {
        let bytes = postcard::to_stdvec(self).expect("numbers and ranges always encode into memory");
        *blake3::hash(&bytes).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment(number: u32) -> SegmentId {
        SegmentId { node: NodeId([1; 16]), epoch: Epoch(u64::from(number % 2)), number }
    }

    fn retired() -> impl Strategy<Value = Retired> {
        let entry = (1u32..6, proptest::option::of(proptest::collection::btree_set(1u32..12, 0..8)));
        proptest::collection::vec(entry, 0..8).prop_map(|entries| {
            let mut retired = Retired::default();
            for (number, slots) in entries {
                match slots {
                    Some(slots) => retired.fold(segment(number), &slots.into_iter().collect()),
                    None => retired.finish(segment(number)),
                }
            }
            retired
        })
    }

    fn merged(a: &Retired, b: &Retired) -> Retired {
        let mut out = a.clone();
        b.lives().for_each(|(node, epoch, life)| out.merge_life(node, epoch, life));
        out
    }

    proptest! {
        #[test]
        fn merge_is_a_join_and_equal_digests_are_equal_sets(a in retired(), b in retired(), c in retired()) {
            prop_assert_eq!(merged(&a, &a), a.clone());
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&a, &b).digest(), merged(&b, &a).digest());
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(a == b, a.digest() == b.digest());
        }

        #[test]
        fn a_delta_does_what_the_whole_set_does(a in retired(), b in retired()) {
            prop_assert_eq!(merged(&b, &a.delta(&b)), merged(&b, &a));
            prop_assert!(b.delta(&merged(&a, &b)).is_empty());
        }

        #[test]
        fn what_is_over_stays_so_and_nothing_else_becomes_so(a in retired(), b in retired()) {
            let both = merged(&a, &b);
            for dot in (1..6).flat_map(|number| (1..13).map(move |slot| Dot { segment: segment(number), slot })) {
                prop_assert_eq!(both.covers(dot), a.covers(dot) || b.covers(dot));
                prop_assert_eq!(both.only(dot.segment).covers(dot), both.covers(dot));
            }
        }
    }
}
