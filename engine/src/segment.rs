//! The state of one replica of a segment: what it knows, what is removed, how long the segment is.
//!
//! A join semilattice by construction (the dot context of delta CRDTs, Almeida et al. 2018, with ranges for single
//! dots): merge is union, union, and the stated length. `removed` is a subset of `known`; the bodies a replica keeps are
//! exactly those of `known - removed`. Removal is explicit: absence of a body never means anything.

use serde::{Deserialize, Serialize};

use crate::{RangeSet, Slot};

/// State of one replica, without bodies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentState {
    /// Slots whose fate this replica knows: it keeps the body, or knows that it is not needed any more.
    pub known: RangeSet,
    /// Slots that were consumed; a subset of `known`.
    pub removed: RangeSet,
    /// The exact number of slots, once the origin said so, in the segment's epoch: nobody else may.
    pub length: Option<Slot>,
}

impl SegmentState {
    /// Slots that still wait for a consumer.
    pub fn waiting(&self) -> RangeSet {
        self.known.difference(&self.removed)
    }

    /// Slots within `first..=last` that still wait for a consumer.
    pub fn waiting_within(&self, first: Slot, last: Slot) -> RangeSet {
        self.known.clip(first, last).difference(&self.removed.clip(first, last))
    }

    /// Joins with another replica's state. Two stated lengths are equal by protocol; should they ever differ the larger
    /// one wins, so that nothing counts as beyond the end.
    pub fn merge(&mut self, other: &Self) {
        self.known.union_with(&other.known);
        self.removed.union_with(&other.removed);
        self.length = self.length.max(other.length);
    }

    /// What `self` knows that `peer` does not: merging it into `peer` equals merging all of `self`.
    pub fn delta(&self, peer: &Self) -> Self {
        Self {
            known: self.known.difference(&peer.known),
            removed: self.removed.difference(&peer.removed),
            length: if peer.length >= self.length { None } else { self.length },
        }
    }

    /// Whether nothing of the segment can ever be needed again: its end is known and all of it is consumed.
    pub fn is_finished(&self) -> bool {
        self.length.is_some_and(|length| length == 0 || self.removed.complement_within(1, length).is_empty())
    }

    /// Equal digests are equal states: blake3 over the canonical encoding.
    pub fn digest(&self) -> [u8; 32] {
        let bytes = postcard::to_stdvec(self).expect("ranges and numbers always encode into memory");
        *blake3::hash(&bytes).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> impl Strategy<Value = SegmentState> {
        let slots = || proptest::collection::btree_set(1u32..60, 0..40);
        (slots(), slots(), any::<bool>()).prop_map(|(kept, removed, closed)| {
            let removed: RangeSet = removed.into_iter().collect();
            let known = kept.into_iter().collect::<RangeSet>().union(&removed);
            SegmentState { known, removed, length: closed.then_some(60) }
        })
    }

    fn merged(a: &SegmentState, b: &SegmentState) -> SegmentState {
        let mut out = a.clone();
        out.merge(b);
        out
    }

    proptest! {
        #[test]
        fn merge_is_a_join(a in state(), b in state(), c in state()) {
            prop_assert_eq!(merged(&a, &a), a.clone());
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        }

        #[test]
        fn a_delta_does_what_the_whole_state_does(a in state(), b in state()) {
            prop_assert_eq!(merged(&b, &a.delta(&b)), merged(&b, &a));
        }

        #[test]
        fn digests_are_equal_exactly_when_states_are(a in state(), b in state()) {
            prop_assert_eq!(a.digest() == b.digest(), a == b);
            prop_assert_eq!(merged(&a, &b).digest(), merged(&b, &a).digest());
        }

        #[test]
        fn what_is_removed_stays_removed(a in state(), b in state()) {
            let both = merged(&a, &b);
            prop_assert!(a.removed.is_subset(&both.removed) && b.removed.is_subset(&both.removed));
            prop_assert!(both.waiting().intersection(&a.removed).is_empty());
            prop_assert!(both.removed.is_subset(&both.known));
        }
    }
}
