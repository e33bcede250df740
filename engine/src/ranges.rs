//! A set of slots as sorted ranges: what a replica knows, has removed, or is asked for.
//!
//! The form is normal: ranges are inclusive, sorted, disjoint and never adjacent, so equal sets are equal values with
//! equal bytes. Zero is never a slot: methods that take bounds treat a lower bound of 0 as 1, and a lower bound above
//! the upper one as "no slots".

use std::{cmp::Ordering, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, SeqAccess, Visitor},
    ser::{Error as _, SerializeSeq},
};

use crate::Slot;

#[cfg(test)]
mod tests;

/// Most ranges that a set may have on disk or on the wire. A full segment (2^20 slots) needs half of it at worst.
pub const MAX_RANGES: usize = 1 << 20;

/// A set of slots in normal form. The order is that of the lists of ranges: good for keys of ordered maps, no more.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeSet {
    /// Inclusive, sorted, disjoint, not adjacent, the first one starting at 1 or later.
    ranges: Vec<(Slot, Slot)>,
}

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// The slots `a..=b`.
    pub fn from_range(a: Slot, b: Slot) -> Self {
        let a = a.max(1);
        Self { ranges: if a <= b { vec![(a, b)] } else { Vec::new() } }
    }

    /// Adds one slot; true when it was not there. Slot 0 is ignored. O(1) at or after the end, else O(ranges).
    pub fn insert(&mut self, slot: Slot) -> bool {
        if slot == 0 || self.contains(slot) {
            return false;
        }
        self.insert_range(slot, slot);
        true
    }

    /// Adds the slots `a..=b`. O(1) at or after the end, else O(ranges).
    pub fn insert_range(&mut self, a: Slot, b: Slot) {
        let a = a.max(1);
        if a > b {
            return;
        }
        match self.ranges.last_mut() {
            None => return self.ranges.push((a, b)),
            // "Before a and not even adjacent": `a - 1` cannot underflow, where `end + 1` could overflow.
            Some(&mut (_, end)) if end < a - 1 => return self.ranges.push((a, b)),
            Some((start, end)) if *start <= a => return *end = b.max(*end),
            Some(_) => {}
        }
        let from = self.ranges.partition_point(|&(_, end)| end < a - 1);
        let to = self.ranges.partition_point(|&(start, _)| start - 1 <= b);
        if from == to {
            self.ranges.insert(from, (a, b));
        } else {
            self.ranges[from] = (a.min(self.ranges[from].0), b.max(self.ranges[to - 1].1));
            self.ranges.drain(from + 1..to);
        }
    }

    /// Takes out the slots `a..=b`.
    pub fn remove_range(&mut self, a: Slot, b: Slot) {
        let a = a.max(1);
        if a > b {
            return;
        }
        let from = self.ranges.partition_point(|&(_, end)| end < a);
        let to = self.ranges.partition_point(|&(start, _)| start <= b);
        if from >= to {
            return;
        }
        let left = Some((self.ranges[from].0, a - 1)).filter(|_| self.ranges[from].0 < a);
        let right = Some((b, self.ranges[to - 1].1)).filter(|&(b, end)| b < end).map(|(b, end)| (b + 1, end));
        self.ranges.splice(from..to, left.into_iter().chain(right));
    }

    /// Adds all slots of `other`. Only ranges between its first and its last slot are looked at; those after them are
    /// moved, if at all.
    pub fn union_with(&mut self, other: &RangeSet) {
        let (Some(first), Some(last)) = (other.first(), other.last()) else { return };
        if other.ranges.len() <= 4 {
            return other.iter_ranges().for_each(|(a, b)| self.insert_range(a, b));
        }
        let from = self.ranges.partition_point(|&(_, end)| end < first - 1);
        let to = self.ranges.partition_point(|&(start, _)| start - 1 <= last);
        let between = RangeSet { ranges: self.ranges[from..to].to_vec() };
        self.ranges.splice(from..to, between.union(other).ranges);
    }

    /// Whether the slot is in the set. O(log ranges).
    pub fn contains(&self, slot: Slot) -> bool {
        match self.ranges.last() {
            Some(&(start, end)) if slot >= start => slot <= end,
            _ => self.ranges.get(self.first_ending_at_or_after(slot)).is_some_and(|&(start, _)| start <= slot),
        }
    }

    /// The slots in either set.
    #[must_use]
    pub fn union(&self, other: &RangeSet) -> RangeSet {
        let mut out = RangeSet { ranges: Vec::with_capacity(self.ranges.len().max(other.ranges.len())) };
        let (mut left, mut right) = (self.ranges.as_slice(), other.ranges.as_slice());
        // Ranges arrive by start, so every insert lands at or after the end: O(1) each.
        while let (Some(&l), Some(&r)) = (left.first(), right.first()) {
            let (a, b) = if l <= r {
                left = &left[1..];
                l
            } else {
                right = &right[1..];
                r
            };
            out.insert_range(a, b);
        }
        left.iter().chain(right).for_each(|&(a, b)| out.insert_range(a, b));
        out
    }

    /// The slots in both sets.
    #[must_use]
    pub fn intersection(&self, other: &RangeSet) -> RangeSet {
        let mut out = RangeSet::new();
        let (mut left, mut right) = (self.ranges.as_slice(), other.ranges.as_slice());
        while let (Some(&(l_start, l_end)), Some(&(r_start, r_end))) = (left.first(), right.first()) {
            out.insert_range(l_start.max(r_start), l_end.min(r_end));
            if l_end <= r_end {
                left = from_slot(&left[1..], r_start);
            } else {
                right = from_slot(&right[1..], l_start);
            }
        }
        out
    }

    /// The slots of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &RangeSet) -> RangeSet {
        let mut out = RangeSet::new();
        let mut holes = other.ranges.as_slice();
        'ranges: for &(start, end) in &self.ranges {
            let mut from = start;
            holes = from_slot(holes, start);
            while let Some(&(hole_start, hole_end)) = holes.first().filter(|hole| hole.0 <= end) {
                if from < hole_start {
                    out.insert_range(from, hole_start - 1);
                }
                if hole_end >= end {
                    // This hole may reach into the next range too: it stays.
                    continue 'ranges;
                }
                from = from.max(hole_end + 1);
                holes = &holes[1..];
            }
            out.insert_range(from, end);
        }
        out
    }

    /// Whether every slot of this set is in `other`.
    pub fn is_subset(&self, other: &RangeSet) -> bool {
        let mut candidates = other.ranges.as_slice();
        self.ranges.iter().all(|&(start, end)| {
            candidates = from_slot(candidates, start);
            candidates.first().is_some_and(|&(c_start, c_end)| c_start <= start && end <= c_end)
        })
    }

    /// The slots of this set within `a..=b`.
    #[must_use]
    pub fn clip(&self, a: Slot, b: Slot) -> RangeSet {
        RangeSet { ranges: self.ranges_within(a, b).collect() }
    }

    /// The slots of `a..=b` that are not in this set.
    #[must_use]
    pub fn complement_within(&self, a: Slot, b: Slot) -> RangeSet {
        let mut out = RangeSet::new();
        let mut from = a.max(1);
        for (start, end) in self.ranges_within(a, b) {
            out.insert_range(from, start - 1);
            match end.checked_add(1) {
                Some(next) => from = next,
                None => return out,
            }
        }
        out.insert_range(from, b);
        out
    }

    /// How many slots there are. O(ranges).
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|&(start, end)| u64::from(end - start) + 1).sum()
    }

    /// How many ranges there are: what the set costs in memory and on the wire.
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no slot.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The lowest slot.
    pub fn first(&self) -> Option<Slot> {
        self.ranges.first().map(|range| range.0)
    }

    /// The highest slot.
    pub fn last(&self) -> Option<Slot> {
        self.ranges.last().map(|range| range.1)
    }

    /// The last slot of the range that holds `slot`; `None` if it is not in the set. O(log ranges).
    pub fn end_of(&self, slot: Slot) -> Option<Slot> {
        let range = self.ranges.get(self.first_ending_at_or_after(slot));
        range.filter(|&&(start, _)| start <= slot).map(|&(_, end)| end)
    }

    /// How many slots of the set come before `slot`; `None` if it is not in the set. O(ranges).
    pub fn rank(&self, slot: Slot) -> Option<u64> {
        let place = self.first_ending_at_or_after(slot);
        let &(start, _) = self.ranges.get(place).filter(|&&(start, _)| start <= slot)?;
        let before: u64 = self.ranges[..place].iter().map(|&(start, end)| u64::from(end - start) + 1).sum();
        Some(before + u64::from(slot - start))
    }

    /// The lowest slot of the set that is `slot` or higher. O(log ranges).
    pub fn next_at_or_after(&self, slot: Slot) -> Option<Slot> {
        self.ranges.get(self.first_ending_at_or_after(slot)).map(|&(start, _)| start.max(slot))
    }

    /// The ranges, inclusive, ascending.
    pub fn iter_ranges(&self) -> impl DoubleEndedIterator<Item = (Slot, Slot)> + ExactSizeIterator + '_ {
        self.ranges.iter().copied()
    }

    /// The slots, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Slot> + '_ {
        self.ranges.iter().flat_map(|&(start, end)| start..=end)
    }

    /// The slots within `a..=b`, ascending. Finding the first one is O(log ranges).
    pub fn iter_within(&self, a: Slot, b: Slot) -> impl Iterator<Item = Slot> + '_ {
        self.ranges_within(a, b).flat_map(|(start, end)| start..=end)
    }

    fn ranges_within(&self, a: Slot, b: Slot) -> impl Iterator<Item = (Slot, Slot)> + '_ {
        let a = a.max(1);
        let rest = if a <= b { &self.ranges[self.first_ending_at_or_after(a)..] } else { &[] };
        rest.iter().take_while(move |&&(start, _)| start <= b).map(move |&(start, end)| (start.max(a), end.min(b)))
    }

    fn first_ending_at_or_after(&self, slot: Slot) -> usize {
        self.ranges.partition_point(|&(_, end)| end < slot)
    }
}

/// The ranges that end at `slot` or later. Finds them by leaps and bounds: a few ranges against many should not cost a
/// walk through the many.
fn from_slot(ranges: &[(Slot, Slot)], slot: Slot) -> &[(Slot, Slot)] {
    let mut reach = 1;
    while ranges.get(reach - 1).is_some_and(|&(_, end)| end < slot) {
        reach *= 2;
    }
    let (known, bound) = (reach / 2, reach.min(ranges.len()));
    let within = ranges.get(known..bound).unwrap_or_default();
    &ranges[(known + within.partition_point(|&(_, end)| end < slot)).min(ranges.len())..]
}

impl FromIterator<Slot> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut slots: Vec<Slot> = slots.into_iter().collect();
        slots.sort_unstable();
        let mut set = Self::new();
        slots.into_iter().for_each(|slot| {
            set.insert(slot);
        });
        set
    }
}

impl fmt::Debug for RangeSet {
    /// `{1-5, 7}`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (position, (start, end)) in self.iter_ranges().enumerate() {
            f.write_str(if position == 0 { "" } else { ", " })?;
            match start.cmp(&end) {
                Ordering::Equal => write!(f, "{start}")?,
                _ => write!(f, "{start}-{end}")?,
            }
        }
        f.write_str("}")
    }
}

/// The form on disk and on the wire: per range, the distance from the nearest start that normal form allows (1 for the
/// first range, else two past the end before it) and the number of slots after its first. No sequence of such pairs can
/// break normal form except by running past the last slot number, and small gaps are small numbers.
impl Serialize for RangeSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.ranges.len() > MAX_RANGES {
            return Err(S::Error::custom("a range set has more than 2^20 ranges"));
        }
        let mut pairs = serializer.serialize_seq(Some(self.ranges.len()))?;
        let mut lowest: Slot = 1;
        for (start, end) in self.iter_ranges() {
            pairs.serialize_element(&(start - lowest, end - start))?;
            // Saturation can only happen after the last range, since no range may follow it.
            lowest = end.saturating_add(2);
        }
        pairs.end()
    }
}

impl<'de> Deserialize<'de> for RangeSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = RangeSet;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("at most 2^20 pairs of a gap and a length that stay below 2^32")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pairs: A) -> Result<RangeSet, A::Error> {
        // The stated number of pairs is the sender's word: it must not decide how much memory is taken.
        let mut ranges = Vec::with_capacity(pairs.size_hint().unwrap_or(0).min(1024));
        let mut lowest = Some(1 as Slot);
        while let Some((gap, more)) = pairs.next_element::<(Slot, Slot)>()? {
            let start = lowest.and_then(|lowest| lowest.checked_add(gap));
            let range = start.and_then(|start| Some((start, start.checked_add(more)?)));
            let range = range.ok_or_else(|| A::Error::custom("a range set runs past the last slot number"))?;
            if ranges.len() == MAX_RANGES {
                return Err(A::Error::custom("a range set has more than 2^20 ranges"));
            }
            ranges.push(range);
            lowest = range.1.checked_add(2);
        }
        Ok(RangeSet { ranges })
    }
}
