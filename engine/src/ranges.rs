//! A set of slots as sorted ranges: what a replica knows, has removed, or is asked for.
//!
//! The form is normal: ranges are inclusive, sorted, disjoint and never adjacent, so equal sets are equal values with
//! equal bytes. Zero is never a slot: methods that take bounds treat a lower bound of 0 as 1, and a lower bound above
//! the upper one as "no slots".
//!
//! Cost, for sets of k and n ranges with k much smaller: changing n by k, and asking what of k is in n, is O(k log n) steps
//! of a chunk's size at most, whatever n is; a copy is O(n / 512). Otherwise the algebra is O(k + n).

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, SeqAccess, Visitor},
    ser::{Error as _, SerializeSeq},
};

use self::chunks::Chunks;
use crate::Slot;

mod chunks;
#[cfg(test)]
mod tests;

/// Most ranges that a set may have on disk or on the wire. A full segment (2^20 slots) needs half of it at worst.
pub const MAX_RANGES: usize = 1 << 20;

/// A set with fewer ranges than the other by this factor is worked off range by range.
const MUCH_SMALLER: usize = if cfg!(test) { 3 } else { 16 };

/// A set of slots in normal form. The order is that of the lists of ranges: good for keys of ordered maps, no more.
#[derive(Clone, Default)]
pub struct RangeSet {
    /// Inclusive, sorted, disjoint, not adjacent, the first one starting at 1 or later.
    ranges: Chunks,
}

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { ranges: Chunks::new() }
    }

    /// The slots `a..=b`.
    pub fn from_range(a: Slot, b: Slot) -> Self {
        let mut set = Self::new();
        set.insert_range(a, b);
        set
    }

    /// Adds one slot; true when it was not there. Slot 0 is ignored. O(1) at or after the end, else O(log ranges).
    pub fn insert(&mut self, slot: Slot) -> bool {
        if slot == 0 || self.contains(slot) {
            return false;
        }
        self.insert_range(slot, slot);
        true
    }

    /// Adds the slots `a..=b`. O(1) at or after the end, else O(log ranges).
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
        let from = self.ranges.find(|&(_, end)| end < a - 1);
        let to = self.ranges.find(|&(start, _)| start - 1 <= b);
        let (mut first, mut last) = (a, b);
        if let (true, Some(low)) = (from < to, self.ranges.get(from)) {
            first = first.min(low.0);
            last = last.max(self.ranges.before(to).map_or(low.1, |high| high.1));
        }
        self.ranges.replace(from, to, [(first, last)].into_iter());
    }

    /// Takes out the slots `a..=b`.
    pub fn remove_range(&mut self, a: Slot, b: Slot) {
        let a = a.max(1);
        if a > b {
            return;
        }
        let from = self.ranges.find(|&(_, end)| end < a);
        let to = self.ranges.find(|&(start, _)| start <= b);
        let (true, Some(low), Some(high)) = (from < to, self.ranges.get(from), self.ranges.before(to)) else { return };
        let left = Some((low.0, a - 1)).filter(|_| low.0 < a);
        let right = Some(high.1).filter(|&end| b < end).map(|end| (b + 1, end));
        self.ranges.replace(from, to, left.into_iter().chain(right));
    }

    /// Adds all slots of `other`: range by range if they are few, else as [`RangeSet::union`].
    pub fn union_with(&mut self, other: &RangeSet) {
        if other.ranges.len() <= 4 || other.is_much_smaller_than(self) {
            other.iter_ranges().for_each(|(a, b)| self.insert_range(a, b));
        } else {
            *self = self.union(other);
        }
    }

    fn is_much_smaller_than(&self, other: &RangeSet) -> bool {
        self.ranges.len().saturating_mul(MUCH_SMALLER) <= other.ranges.len()
    }

    /// Whether the slot is in the set. O(log ranges).
    pub fn contains(&self, slot: Slot) -> bool {
        match self.ranges.last() {
            Some((start, end)) if slot >= start => slot <= end,
            _ => self.ranges.get(self.first_ending_at_or_after(slot)).is_some_and(|(start, _)| start <= slot),
        }
    }

    /// The slots in either set.
    #[must_use]
    pub fn union(&self, other: &RangeSet) -> RangeSet {
        let (small, large) = if self.ranges.len() <= other.ranges.len() { (self, other) } else { (other, self) };
        if small.is_much_smaller_than(large) {
            let mut out = large.clone();
            small.iter_ranges().for_each(|(a, b)| out.insert_range(a, b));
            return out;
        }
        let mut out = RangeSet::new();
        let (mut left, mut right) = (self.iter_ranges().peekable(), other.iter_ranges().peekable());
        // Ranges arrive by start, so every insert lands at or after the end: O(1) each.
        loop {
            let next = match (left.peek(), right.peek()) {
                (Some(l), Some(r)) if l > r => right.next(),
                (None, _) => right.next(),
                _ => left.next(),
            };
            let Some((a, b)) = next else { return out };
            out.insert_range(a, b);
        }
    }

    /// The slots in both sets.
    #[must_use]
    pub fn intersection(&self, other: &RangeSet) -> RangeSet {
        let mut out = RangeSet::new();
        let (small, large) = if self.ranges.len() <= other.ranges.len() { (self, other) } else { (other, self) };
        if small.is_much_smaller_than(large) {
            let common = small.iter_ranges().flat_map(|(a, b)| large.ranges_within(a, b));
            common.for_each(|range| out.ranges.push(range));
            return out;
        }
        let (mut left, mut right) = (self.iter_ranges(), other.iter_ranges());
        let (mut l, mut r) = (left.next(), right.next());
        while let (Some((l_start, l_end)), Some((r_start, r_end))) = (l, r) {
            out.insert_range(l_start.max(r_start), l_end.min(r_end));
            if l_end <= r_end {
                l = left.next();
            } else {
                r = right.next();
            }
        }
        out
    }

    /// The slots of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &RangeSet) -> RangeSet {
        if other.is_much_smaller_than(self) {
            let mut out = self.clone();
            other.iter_ranges().for_each(|(a, b)| out.remove_range(a, b));
            return out;
        }
        let mut out = RangeSet::new();
        if self.is_much_smaller_than(other) {
            let rest = self.iter_ranges().flat_map(|(a, b)| other.gaps_within(a, b));
            rest.for_each(|range| out.ranges.push(range));
            return out;
        }
        let mut holes = other.iter_ranges().peekable();
        'ranges: for (start, end) in self.iter_ranges() {
            let mut from = start;
            while let Some(&(hole_start, hole_end)) = holes.peek().filter(|hole| hole.0 <= end) {
                if from < hole_start {
                    out.insert_range(from, hole_start - 1);
                }
                if hole_end >= end {
                    // This hole may reach into the next range too: it stays.
                    continue 'ranges;
                }
                from = from.max(hole_end + 1);
                holes.next();
            }
            out.insert_range(from, end);
        }
        out
    }

    /// Whether every slot of this set is in `other`.
    pub fn is_subset(&self, other: &RangeSet) -> bool {
        if self.is_much_smaller_than(other) {
            let holds = |start, end| other.ranges_within(start, end).next() == Some((start, end));
            return self.iter_ranges().all(|(start, end)| holds(start, end));
        }
        let mut candidates = other.iter_ranges();
        let mut candidate = candidates.next();
        self.iter_ranges().all(|(start, end)| {
            while candidate.is_some_and(|(_, c_end)| c_end < start) {
                candidate = candidates.next();
            }
            candidate.is_some_and(|(c_start, c_end)| c_start <= start && end <= c_end)
        })
    }

    /// The slots of this set within `a..=b`.
    #[must_use]
    pub fn clip(&self, a: Slot, b: Slot) -> RangeSet {
        let mut out = RangeSet::new();
        self.ranges_within(a, b).for_each(|range| out.ranges.push(range));
        out
    }

    /// The slots of `a..=b` that are not in this set.
    #[must_use]
    pub fn complement_within(&self, a: Slot, b: Slot) -> RangeSet {
        let mut out = RangeSet::new();
        self.gaps_within(a, b).for_each(|range| out.ranges.push(range));
        out
    }

    /// How many slots there are. O(ranges).
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| u64::from(end - start) + 1).sum()
    }

    /// How many ranges there are: what the set costs in memory and on the wire.
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no slot.
    pub fn is_empty(&self) -> bool {
        self.ranges.len() == 0
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
        range.filter(|&(start, _)| start <= slot).map(|(_, end)| end)
    }

    /// How many slots of the set come before `slot`; `None` if it is not in the set. O(ranges).
    pub fn rank(&self, slot: Slot) -> Option<u64> {
        let place = self.first_ending_at_or_after(slot);
        let (start, _) = self.ranges.get(place).filter(|&(start, _)| start <= slot)?;
        let before = self.iter_ranges().take_while(|range| range.0 < start);
        Some(before.map(|(a, b)| u64::from(b - a) + 1).sum::<u64>() + u64::from(slot - start))
    }

    /// The lowest slot of the set that is `slot` or higher. O(log ranges).
    pub fn next_at_or_after(&self, slot: Slot) -> Option<Slot> {
        self.ranges.get(self.first_ending_at_or_after(slot)).map(|(start, _)| start.max(slot))
    }

    /// The ranges, inclusive, ascending.
    pub fn iter_ranges(&self) -> impl DoubleEndedIterator<Item = (Slot, Slot)> + ExactSizeIterator + '_ {
        self.ranges.iter()
    }

    /// The slots, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Slot> + '_ {
        self.ranges.iter().flat_map(|(start, end)| start..=end)
    }

    /// The slots within `a..=b`, ascending. Finding the first one is O(log ranges).
    pub fn iter_within(&self, a: Slot, b: Slot) -> impl Iterator<Item = Slot> + '_ {
        self.ranges_within(a, b).flat_map(|(start, end)| start..=end)
    }

    /// Its ranges within `a..=b`.
    fn ranges_within(&self, a: Slot, b: Slot) -> impl Iterator<Item = (Slot, Slot)> + '_ {
        let a = a.max(1);
        let rest = self.ranges.iter_from(self.first_ending_at_or_after(a));
        let within = rest.take_while(move |&(start, _)| a <= b && start <= b);
        within.map(move |(start, end)| (start.max(a), end.min(b)))
    }

    /// What lies between its ranges within `a..=b`, and before and after them.
    fn gaps_within(&self, a: Slot, b: Slot) -> impl Iterator<Item = (Slot, Slot)> + '_ {
        let mut ranges = self.ranges_within(a, b);
        let mut from = Some(a.max(1)).filter(|&a| a <= b);
        std::iter::from_fn(move || {
            loop {
                let start = from?;
                let Some((next_start, next_end)) = ranges.next() else {
                    from = None;
                    return Some((start, b));
                };
                from = next_end.checked_add(1).filter(|&next| next <= b);
                if start < next_start {
                    return Some((start, next_start - 1));
                }
            }
        })
    }

    fn first_ending_at_or_after(&self, slot: Slot) -> chunks::Place {
        self.ranges.find(|&(_, end)| end < slot)
    }
}

impl PartialEq for RangeSet {
    fn eq(&self, other: &Self) -> bool {
        self.ranges.len() == other.ranges.len() && self.iter_ranges().eq(other.iter_ranges())
    }
}

impl Eq for RangeSet {}

impl PartialOrd for RangeSet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RangeSet {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter_ranges().cmp(other.iter_ranges())
    }
}

impl Hash for RangeSet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ranges.len().hash(state);
        self.iter_ranges().for_each(|range| range.hash(state));
    }
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
        // The stated number of pairs is the sender's word: it does not decide how much memory is taken.
        let mut ranges = Chunks::new();
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
