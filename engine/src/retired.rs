//! The exact set of finished segments: what must never come back.
//!
//! One entry per life that ever finished a segment, with the finished numbers as ranges (one range, in the long run).
//! A set and not a threshold: epochs have no order, and a clock set back must not make a new life look finished.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Epoch, NodeId, RangeSet, SegmentId};

/// Finished segments by life. Merge is union.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    lives: BTreeMap<(NodeId, Epoch), RangeSet>,
}

impl Retired {
    /// Whether the segment is finished.
    pub fn contains(&self, id: SegmentId) -> bool {
        self.lives.get(&(id.node, id.epoch)).is_some_and(|numbers| numbers.contains(id.number))
    }

    /// The planted mistake: up to the highest finished number of the node, whatever the epoch.
    #[cfg(feature = "mistakes")]
    pub(crate) fn contains_by_threshold(&self, id: SegmentId) -> bool {
        self.lives.iter().any(|((node, _), numbers)| *node == id.node && numbers.last() >= Some(id.number))
    }

    /// Adds one.
    pub fn insert(&mut self, id: SegmentId) {
        self.lives.entry((id.node, id.epoch)).or_default().insert(id.number);
    }

    /// Finished numbers of one life.
    pub fn life(&self, node: NodeId, epoch: Epoch) -> Option<&RangeSet> {
        self.lives.get(&(node, epoch))
    }

    /// All lives with their finished numbers.
    pub fn lives(&self) -> impl Iterator<Item = (NodeId, Epoch, &RangeSet)> {
        self.lives.iter().map(|((node, epoch), numbers)| (*node, *epoch, numbers))
    }

    /// Union with one life's numbers.
    pub fn merge_life(&mut self, node: NodeId, epoch: Epoch, numbers: &RangeSet) {
        let mine = self.lives.entry((node, epoch)).or_default();
        *mine = mine.union(numbers);
    }

    /// What `self` has and `other` has not.
    pub fn delta(&self, other: &Self) -> Self {
        let lives = self.lives.iter().filter_map(|(life, numbers)| {
            let news = other.lives.get(life).map_or_else(|| numbers.clone(), |known| numbers.difference(known));
            (!news.is_empty()).then_some((*life, news))
        });
        Self { lives: lives.collect() }
    }

    /// Whether nothing is finished.
    pub fn is_empty(&self) -> bool {
        self.lives.is_empty()
    }

    /// blake3 over the canonical encoding.
    pub fn digest(&self) -> [u8; 32] {
        let bytes = postcard::to_stdvec(self).expect("numbers and ranges always encode into memory");
        *blake3::hash(&bytes).as_bytes()
    }
}
