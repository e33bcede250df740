//! Which slots wait in which inbox, as ranges; and a cache of decoded blocks by bytes.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound::{self, Included, Unbounded},
    sync::Arc,
};

use super::held::BlockMeta;
use crate::{Dot, RangeSet, SegmentId, Slot, block::Block, limits};

/// Waiting slots by inbox and segment. Slots of one block are numbered inbox by inbox, so a backlog costs a range per
/// block and inbox at most, not a row per message.
#[derive(Debug, Default)]
pub(super) struct InboxIndex {
    inboxes: BTreeMap<Arc<str>, BTreeMap<SegmentId, RangeSet>>,
}

impl InboxIndex {
    pub(super) fn add(&mut self, inbox: &Arc<str>, id: SegmentId, slots: &RangeSet) {
        if !slots.is_empty() {
            self.inboxes.entry(inbox.clone()).or_default().entry(id).or_default().union_with(slots);
        }
    }

    pub(super) fn remove(&mut self, inbox: &str, id: SegmentId, first: Slot, last: Slot) {
        let Some(segments) = self.inboxes.get_mut(inbox) else { return };
        if let Some(slots) = segments.get_mut(&id) {
            slots.remove_range(first, last);
            if slots.is_empty() {
                segments.remove(&id);
            }
        }
        if segments.is_empty() {
            self.inboxes.remove(inbox);
        }
    }

    /// The name of an inbox in which something waits.
    pub(super) fn name(&self, inbox: &str) -> Option<&Arc<str>> {
        self.inboxes.get_key_value(inbox).map(|(name, _)| name)
    }

    pub(super) fn inboxes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.inboxes.iter().map(|(inbox, segments)| (&**inbox, segments.values().map(RangeSet::len).sum()))
    }

    pub(super) fn inboxes_from<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let names = self.inboxes.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).map(|(name, _)| &**name);
        names.take_while(move |name| name.starts_with(prefix))
    }

    pub(super) fn inboxes_after(&self, last: Option<&str>) -> impl Iterator<Item = &Arc<str>> {
        let from = last.map_or(Unbounded, Bound::Excluded);
        self.inboxes.range::<str, _>((from, Unbounded)).map(|(name, _)| name)
    }

    pub(super) fn inbox_from(&self, name: &str) -> Option<&Arc<str>> {
        self.inboxes.range::<str, _>((Bound::Included(name), Bound::Unbounded)).next().map(|(name, _)| name)
    }

    pub(super) fn segments(&self, inbox: &str) -> impl Iterator<Item = (SegmentId, u64)> + use<'_> {
        self.inboxes.get(inbox).into_iter().flatten().map(|(id, slots)| (*id, slots.len()))
    }

    /// Waiting slots of an inbox in a segment, within these bounds.
    pub(super) fn within(&self, inbox: &str, id: SegmentId, first: Slot, last: Slot) -> RangeSet {
        let slots = self.inboxes.get(inbox).and_then(|segments| segments.get(&id));
        slots.map(|slots| slots.clip(first, last)).unwrap_or_default()
    }

    /// The first one in the inbox, or the first behind `last`.
    pub(super) fn after(&self, inbox: &str, last: Option<Dot>) -> Option<Dot> {
        let segments = self.inboxes.get(inbox)?;
        let from = last.map_or(Unbounded, |last| Included(last.segment));
        segments.range((from, Unbounded)).find_map(|(&segment, slots)| {
            let next = last.filter(|last| last.segment == segment).map_or(Some(1), |last| last.slot.checked_add(1));
            Some(Dot { segment, slot: slots.next_at_or_after(next?)? })
        })
    }

    pub(super) fn next(&self, inbox: &str, id: SegmentId, from: Slot) -> Option<Slot> {
        self.inboxes.get(inbox)?.get(&id)?.next_at_or_after(from)
    }
}

/// Decoded blocks, oldest out first, by a budget of bytes. What memory holds of the blocks in the store is charged to the
/// same budget: with many messages waiting, fewer are kept decoded.
#[derive(Debug)]
pub(super) struct BlockCache {
    blocks: BTreeMap<(SegmentId, Slot), Arc<Block>>,
    order: VecDeque<(SegmentId, Slot)>,
    bytes: usize,
    budget: usize,
    /// Blocks in the store.
    stored: usize,
}

/// Of its budget a cache keeps one part in so many, whatever is charged to it.
const KEPT_PART: usize = 4;

impl Default for BlockCache {
    fn default() -> Self {
        Self { blocks: BTreeMap::new(), order: VecDeque::new(), bytes: 0, budget: limits::BLOCK_CACHE_BYTES, stored: 0 }
    }
}

impl BlockCache {
    pub(super) fn set_budget(&mut self, bytes: usize) {
        self.budget = bytes;
        self.shrink();
    }

    /// Held, what is charged included, and allowed.
    pub(super) fn bytes(&self) -> (usize, usize) {
        (self.bytes + self.charged(), self.budget)
    }

    fn charged(&self) -> usize {
        (self.stored * BlockMeta::MEMORY).min(self.budget - self.budget / KEPT_PART)
    }

    /// Blocks in the store, as far as it was told.
    #[cfg(test)]
    pub(super) fn stored(&self) -> usize {
        self.stored
    }

    /// So many blocks came into the store, and so many left it.
    pub(super) fn note_stored(&mut self, came: usize, left: usize) {
        self.stored = (self.stored + came).saturating_sub(left);
        self.shrink();
    }

    pub(super) fn get(&self, id: SegmentId, first: Slot) -> Option<Arc<Block>> {
        self.blocks.get(&(id, first)).cloned()
    }

    pub(super) fn insert(&mut self, block: Arc<Block>) {
        let name = (block.segment(), block.first());
        self.bytes += block.weight();
        match self.blocks.insert(name, block) {
            Some(old) => self.bytes -= old.weight(),
            None => self.order.push_back(name),
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.bytes + self.charged() > self.budget && self.order.len() > 1 {
            if let Some((id, first)) = self.order.pop_front() {
                self.remove_block(id, first);
            }
        }
    }

    /// Forgets a block; its place in the order goes when its turn comes.
    pub(super) fn remove_block(&mut self, id: SegmentId, first: Slot) {
        if let Some(old) = self.blocks.remove(&(id, first)) {
            self.bytes -= old.weight();
        }
        if self.order.len() > 64 && self.order.len() > 2 * self.blocks.len() {
            self.order.retain(|name| self.blocks.contains_key(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_charged_to_the_cache_but_not_all_of_it() {
        let mut cache = BlockCache::default();
        cache.set_budget(100 * BlockMeta::MEMORY);
        cache.note_stored(40, 0);
        assert_eq!(cache.bytes(), (40 * BlockMeta::MEMORY, 100 * BlockMeta::MEMORY));
        cache.note_stored(1_000, 30);
        assert_eq!(cache.bytes().0, 75 * BlockMeta::MEMORY);
        cache.note_stored(0, 1_000);
        assert_eq!(cache.bytes().0, 10 * BlockMeta::MEMORY);
    }
}
