//! Staging: all that waits becomes one batch of rows.
//!
//! One function per segment builds every row that a change touches: block rows, removed pages, and the segment's row.
//! They are dropped together or not at all, and `known` never gets ahead of the bodies, because no other place writes
//! any of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    BlockRef, Engine, Replica,
    outline::{delete_block, put_block},
    queue::{Rewriting, Ticket, Unit},
};
use crate::{
    Batch, Dot, Mistake, Now, Op, RangeSet, Retired, SegmentId, Slot,
    block::{Block, Entry},
    keys::{self, LifeRow, SegmentRow},
    limits,
    registry::{Key, Value},
};

/// What a commit will change in memory once it is durable.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// When, on the monotonic clock.
    pub(super) at_ms: u64,
    pub(super) units: Vec<(Ticket, Option<BlockRef>)>,
    /// Units of consumption alone: if the write fails they are tried again.
    pub(super) acks: Vec<(Ticket, Unit)>,
    /// What units with messages consume: if the write fails, they do not.
    pub(super) tied: BTreeMap<SegmentId, RangeSet>,
    /// See [`Queue::given_up`](super::queue::Queue::given_up).
    pub(super) given_up: BTreeMap<SegmentId, RangeSet>,
    pub(super) segments: BTreeMap<SegmentId, Change>,
    pub(super) rewritten: Vec<Rewriting>,
    pub(super) registry: BTreeMap<Key, Value>,
    pub(super) unregistered: Vec<Key>,
    pub(super) retired: Retired,
    pub(super) life: Option<LifeRow>,
    /// Keys of rows that go, and of rows that are written again.
    pub(super) strays: Vec<Bytes>,
    pub(super) rows: BTreeSet<Bytes>,
}

impl Staged {
    pub(super) fn removes(&self, dot: Dot) -> bool {
        self.segments.get(&dot.segment).is_some_and(|change| change.removed.contains(dot.slot))
    }
}

/// One segment's part.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// New blocks by their first slots, and whether this node made them.
    pub(super) blocks: BTreeMap<Slot, (Arc<Block>, bool)>,
    /// Blocks that were here and can't be read, in whose places others come.
    pub(super) replaced: BTreeSet<Slot>,
    /// Slots newly removed.
    pub(super) removed: RangeSet,
    /// Slots whose bodies turned out damaged.
    pub(super) damaged: RangeSet,
    /// Knowledge without bodies: always empty, but for the planted mistake.
    adopted: RangeSet,
    /// The length that was stated; once settled, the length after the commit.
    pub(super) length: Option<Slot>,
    pub(super) outcome: Outcome,
    /// What is known after the commit. What is removed then is not put together here: it may be many ranges, and a commit
    /// should cost what it brings, not what is there.
    pub(super) known: RangeSet,
    /// Blocks that hold nothing any more.
    pub(super) emptied: Vec<Slot>,
}

impl Change {
    /// Slots within `first..=last` that are removed after the commit.
    fn removed_within(&self, replica: &Replica, first: Slot, last: Slot) -> RangeSet {
        replica.state.removed.clip(first, last).union(&self.removed.clip(first, last))
    }

    /// Slots within `first..=last` that wait after the commit.
    pub(super) fn waiting_within(&self, replica: &Replica, first: Slot, last: Slot) -> RangeSet {
        self.known.clip(first, last).difference(&self.removed_within(replica, first, last))
    }

    /// Whether it brings a block that another node made.
    pub(super) fn has_foreign_blocks(&self) -> bool {
        self.blocks.values().any(|(_, is_local)| !is_local)
    }

    /// All that is removed after the commit.
    fn removed_after(&self, replica: &Replica) -> RangeSet {
        replica.state.removed.union(&self.removed)
    }

    /// All slots up to this one are removed after the commit.
    fn prefix(&self, replica: &Replica) -> Slot {
        let mut prefix = 0;
        // Whoever goes on where the other ends carries the prefix further.
        while let Some(end) = self.removed.end_of(prefix + 1).max(replica.state.removed.end_of(prefix + 1)) {
            prefix = end;
        }
        prefix
    }
}

/// What becomes of the replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It stays.
    #[default]
    Keep,
    /// All of it is consumed, for ever.
    Retire,
    /// All that is known of it is consumed, and a crash left its end open: only the consumed slots stay.
    Fold,
    /// Others hold it; this node does not need to.
    Drop,
}

impl Engine {
    pub(super) fn stage(&mut self, now: Now) -> Option<(Staged, Batch)> {
        loop {
            let kept = self.keep_back(now);
            let is_all = kept.is_none();
            let staged = (!self.queue.is_empty()).then(|| self.stage_queue(now));
            self.put_back(kept);
            if staged.is_some() || is_all {
                return staged;
            }
        }
    }

    fn stage_queue(&mut self, now: Now) -> (Staged, Batch) {
        let mut staged = Staged { at_ms: now.mono_ms, ..Staged::default() };
        let mut batch = Batch::new();
        if let Some(life) = self.queue.life.take() {
            batch.push(Self::put(keys::meta("life"), &life));
            staged.life = Some(life);
        }
        // Ahead of everything: a block of the same name may come in this commit, with its outline.
        staged.strays = std::mem::take(&mut self.queue.strays);
        batch.extend(staged.strays.iter().cloned().map(Op::Delete));
        self.stage_units(&mut staged);
        self.stage_received(&mut staged);
        self.stage_retired(&mut staged);
        let changes = std::mem::take(&mut staged.segments);
        for (id, mut change) in changes {
            let is_finished = self.is_finished(id) || staged.retired.is_finished(id);
            if is_finished && change.outcome != Outcome::Retire {
                continue;
            }
            self.settle(id, &mut change, &staged.retired);
            self.rows(id, &change, &mut batch);
            match change.outcome {
                Outcome::Retire => staged.retired.finish(id),
                Outcome::Fold => {
                    let removed = self.replicas.get(&id).map(|replica| change.removed_after(replica));
                    staged.retired.fold(id, &removed.unwrap_or_else(|| change.removed.clone()));
                }
                Outcome::Keep | Outcome::Drop => {}
            }
            staged.segments.insert(id, change);
        }
        self.stage_rewrites(&mut staged, &mut batch);
        for (node, epoch, news) in staged.retired.lives() {
            let mut all = self.retired.life(node, epoch).cloned().unwrap_or_default();
            all.merge(news);
            batch.push(Self::put(keys::retired(node, epoch), &all));
        }
        staged.registry = std::mem::take(&mut self.queue.registry);
        self.queue.set_bytes.clear();
        for (key, value) in &staged.registry {
            batch.push(Op::Put(keys::registry(key.as_bytes()), value.encode()));
        }
        staged.unregistered = std::mem::take(&mut self.queue.unregister).into_iter().collect();
        batch.extend(staged.unregistered.iter().map(|key| Op::Delete(keys::registry(key.as_bytes()))));
        staged.rows = self.stage_rows(&mut batch);
        (staged, batch)
    }

    /// An open segment that has reached a limit is closed with its exact length.
    pub(super) fn close_old_segment(&mut self, now: Now) {
        let Some(open) = self.open else { return };
        let (bytes, age_ms) = self.roll;
        let aged = now.mono_ms.saturating_sub(open.opened_ms) >= age_ms && open.next > 1;
        if aged || open.bytes >= bytes || open.next > limits::SEGMENT_SLOTS - limits::UNIT_SLOTS as u32 {
            self.close_segment();
        }
    }

    /// Local units into blocks of the open segment; transactions are never cut.
    fn stage_units(&mut self, staged: &mut Staged) {
        let (mut entries, mut tickets) = (Vec::<Entry>::new(), Vec::new());
        let (mut block_bytes, mut commit_bytes, mut block_slots) = (0, 0, 0);
        while let Some((_, unit)) = self.queue.units.front() {
            if !unit.entries.is_empty() && self.open.is_none() {
                break; // a segment is to be opened first, with its holders in the same commit
            }
            if commit_bytes >= limits::COMMIT_BYTES {
                break;
            }
            let last_start = (limits::SEGMENT_SLOTS - limits::UNIT_SLOTS as u32) as usize;
            let full = self.open.is_some_and(|open| open.next as usize + block_slots > last_start);
            if full && !unit.entries.is_empty() {
                break; // the next commit closes this segment and opens another
            }
            let Some((ticket, unit)) = self.queue.units.pop_front() else { break };
            for dot in &unit.removals {
                self.queue.removals.entry(dot.segment).or_default().insert(dot.slot);
                if !unit.entries.is_empty() {
                    staged.tied.entry(dot.segment).or_default().insert(dot.slot);
                }
            }
            let bytes: usize = unit.entries.iter().map(Entry::size).sum();
            if unit.entries.is_empty() {
                staged.units.push((ticket, None));
                staged.acks.push((ticket, unit));
                continue;
            }
            if block_bytes > 0 && block_bytes + bytes > limits::BLOCK_TARGET_BYTES {
                self.close_block(&mut entries, &mut tickets, staged);
                (block_bytes, block_slots) = (0, 0);
            }
            block_bytes += bytes;
            commit_bytes += bytes;
            block_slots += unit.entries.iter().map(|entry| entry.inboxes.len()).sum::<usize>();
            entries.extend(unit.entries);
            tickets.push(ticket);
        }
        self.close_block(&mut entries, &mut tickets, staged);
        self.queue.count_unit_removals();
    }

    fn close_block(&mut self, entries: &mut Vec<Entry>, tickets: &mut Vec<Ticket>, staged: &mut Staged) {
        let Some(open) = self.open.as_mut().filter(|_| !entries.is_empty()) else { return };
        let persistent = entries.iter().any(|entry| entry.persistent);
        let block = Block::build(open.id, open.next, entries);
        entries.clear();
        open.next = block.last() + 1;
        open.bytes += block.bytes().len() as u64;
        let place = BlockRef { segment: open.id, first: block.first(), last: block.last(), persistent };
        staged.units.extend(tickets.drain(..).map(|ticket| (ticket, Some(place))));
        staged.segments.entry(open.id).or_default().blocks.insert(block.first(), (Arc::new(block), true));
    }

    /// What came from other replicas, and local consumption.
    fn stage_received(&mut self, staged: &mut Staged) {
        for block in std::mem::take(&mut self.queue.blocks).into_values() {
            self.stage_block(staged, block);
        }
        staged.given_up = std::mem::take(&mut self.queue.given_up);
        for (id, slots) in &staged.given_up {
            self.queue.removals.entry(*id).or_default().union_with(slots);
        }
        for (id, slots) in std::mem::take(&mut self.queue.removals) {
            let fresh = self.unremoved(id, &slots);
            if !fresh.is_empty() {
                staged.segments.entry(id).or_default().removed = fresh;
            }
        }
        for (id, length) in std::mem::take(&mut self.queue.lengths) {
            staged.segments.entry(id).or_default().length = Some(length);
        }
        for (id, slots) in std::mem::take(&mut self.queue.damaged) {
            if let Some(replica) = self.replicas.get(&id) {
                // What was consumed meanwhile stays known: there is nothing to fetch.
                let lost = slots.difference(&replica.state.removed);
                staged.segments.entry(id).or_default().damaged.union_with(&lost);
            }
        }
        let folds = std::mem::take(&mut self.queue.folds).into_iter().map(|id| (id, Outcome::Fold));
        let drops = std::mem::take(&mut self.queue.drops).into_iter().map(|id| (id, Outcome::Drop));
        for (id, outcome) in folds.chain(drops) {
            // It was all consumed, or proven to be held by others, as it was: with news it stays.
            if self.replicas.contains_key(&id) && !staged.segments.contains_key(&id) {
                staged.segments.entry(id).or_default().outcome = outcome;
            }
        }
        #[cfg(feature = "mistakes")]
        for (id, slots) in std::mem::take(&mut self.queue.known_without_bodies) {
            staged.segments.entry(id).or_default().adopted = slots;
        }
    }

    /// What others know to be over: replicas of finished segments go, those of folded ones learn what is consumed.
    fn stage_retired(&mut self, staged: &mut Staged) {
        staged.retired = std::mem::take(&mut self.queue.retired);
        // Replicas that are here, and those that come with this commit.
        let ids: BTreeSet<_> = self.segments().chain(staged.segments.keys().copied()).collect();
        for id in ids.into_iter().filter(|id| staged.retired.contains(*id)).collect::<Vec<_>>() {
            let finished = staged.retired.is_finished(id) || self.planted.is(Mistake::FoldWhole);
            if finished {
                staged.segments.entry(id).or_default().outcome = Outcome::Retire;
            } else if let Some(slots) = staged.retired.folded(id) {
                let news = self.unremoved(id, slots);
                staged.segments.entry(id).or_default().removed.union_with(&news);
            }
        }
    }

    /// Works out the state after the change. `over`: what the commit adds to the retired set.
    fn settle(&mut self, id: SegmentId, change: &mut Change, over: &Retired) {
        let none = Replica::default();
        let replica = self.replicas.get(&id).unwrap_or(&none);
        if !self.replicas.contains_key(&id) {
            // It turns up again, or arrives together with the news: what is known to be consumed is part of the new replica.
            let folded = [self.retired.folded(id), over.folded(id)];
            folded.into_iter().flatten().for_each(|slots| change.removed.union_with(slots));
        }
        let mut known = replica.state.known.difference(&change.damaged);
        for (block, _) in change.blocks.values() {
            known.union_with(block.slots());
        }
        known.union_with(&change.removed);
        known.union_with(&change.adopted);
        change.known = known;
        change.length = change.length.max(replica.state.length);
        // Each block once, however many ranges lie in it.
        let mut touched = BTreeMap::new();
        for (first, last) in change.removed.iter_ranges().chain(change.damaged.iter_ranges()) {
            let blocks = replica.blocks.range(..=last).rev().take_while(|(_, meta)| meta.last >= first);
            touched.extend(blocks.map(|(&from, meta)| (from, meta.last)));
        }
        touched.retain(|&from, last| change.waiting_within(replica, from, *last).is_empty());
        let mut emptied = change.replaced.clone();
        emptied.extend(touched.into_keys());
        change.emptied = emptied.into_iter().collect();
        let is_finished = change.length.is_some_and(|length| change.prefix(replica) >= length);
        if change.outcome == Outcome::Keep && is_finished {
            change.outcome = Outcome::Retire;
        }
        // A folded segment of which the length is known is kept until it is finished.
        let is_open = change.length.is_none();
        if change.outcome == Outcome::Keep && is_open && (over.contains(id) || self.retired.contains(id)) {
            let folded = |retired: &Retired| retired.folded(id).cloned().unwrap_or_default();
            let removed = change.removed_after(replica);
            if change.known == removed && removed.is_subset(&folded(over).union(&folded(&self.retired))) {
                change.outcome = Outcome::Fold;
            }
        }
    }

    /// Every row that the change touches.
    fn rows(&self, id: SegmentId, change: &Change, batch: &mut Batch) {
        let none = Replica::default();
        let replica = self.replicas.get(&id).unwrap_or(&none);
        if change.outcome != Outcome::Keep {
            batch.push(Op::Delete(keys::segment(id)));
            replica.blocks.iter().for_each(|(&first, meta)| delete_block(batch, id, first, meta.bytes));
            let pages = pages_of(&replica.state.removed, prefix_of(&replica.state.removed));
            batch.extend(pages.into_iter().map(|page| Op::Delete(keys::removed(id, page))));
            return;
        }
        let lives = |block: &Block| {
            let (first, last) = (block.first(), block.last());
            !block.slots().is_subset(&change.removed_within(replica, first, last))
        };
        for (block, _) in change.blocks.values() {
            if lives(block) {
                put_block(batch, block, replica.blocks.get(&block.first()).map(|meta| meta.bytes));
            }
        }
        let replaced = |first: &Slot| change.blocks.get(first).is_some_and(|(block, _)| lives(block));
        for &first in change.emptied.iter().filter(|first| !replaced(first)) {
            let bytes = replica.blocks.get(&first).map_or(u32::MAX, |meta| meta.bytes);
            delete_block(batch, id, first, bytes);
        }
        let (old, new) = (prefix_of(&replica.state.removed), change.prefix(replica));
        for page in pages_of(&change.removed, new) {
            let (first, last) = page_bounds(page);
            batch.push(Self::put(keys::removed(id, page), &change.removed_within(replica, first, last)));
        }
        if new > old {
            let within = replica.state.removed.clip(old, new);
            let folded = pages_of(&within, old).into_iter().filter(|&page| page_bounds(page).1 <= new);
            batch.extend(folded.map(|page| Op::Delete(keys::removed(id, page))));
        }
        let row = SegmentRow { known: change.known.clone(), length: change.length, removed_prefix: new };
        batch.push(Self::put(keys::segment(id), &row));
    }
}

/// All slots up to this one are removed.
pub(super) fn prefix_of(removed: &RangeSet) -> Slot {
    removed.iter_ranges().next().filter(|(first, _)| *first == 1).map_or(0, |(_, last)| last)
}

pub(super) fn page_bounds(page: u32) -> (Slot, Slot) {
    (page * limits::REMOVED_PAGE_SLOTS + 1, (page + 1) * limits::REMOVED_PAGE_SLOTS)
}

pub(super) fn page_of(slot: Slot) -> u32 {
    slot.saturating_sub(1) / limits::REMOVED_PAGE_SLOTS
}

/// Pages with any of `slots` that are not wholly below the prefix.
pub(super) fn pages_of(slots: &RangeSet, prefix: Slot) -> Vec<u32> {
    let mut pages: Vec<u32> = slots
        .iter_ranges()
        .flat_map(|(first, last)| page_of(first)..=page_of(last))
        .filter(|&page| page_bounds(page).1 > prefix)
        .collect();
    pages.dedup();
    pages
}

/// The planted mistake of a restarted origin that states a length; see [`Mistake::OriginStatesLength`].
pub(super) fn stated_by_origin(engine: &Engine) -> Vec<(SegmentId, Slot)> {
    if !engine.planted.is(Mistake::OriginStatesLength) {
        return Vec::new();
    }
    let own = engine.replicas.iter().filter(|(id, _)| id.node == engine.node && id.epoch != engine.epoch);
    own.map(|(id, replica)| (*id, replica.state.known.last().unwrap_or(0))).collect()
}
