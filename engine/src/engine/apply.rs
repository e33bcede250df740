//! What a durable commit changes in memory, and what it reports to the layer above.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Engine,
    outline::Outline,
    queue::{Rewriting, Ticket},
    stage::{Change, Outcome},
};
use crate::{Epoch, NodeId, RangeSet, SegmentId, Slot, block::Block, registry::Key};

/// Where a unit's messages lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// The segment.
    pub segment: SegmentId,
    /// First slot of the block.
    pub first: Slot,
    /// Last slot of the block.
    pub last: Slot,
    /// Whether any message of the block asked for backups before its confirmation.
    pub persistent: bool,
}

/// A block that this replica did not have.
#[derive(Clone, Debug)]
pub struct NewBlock {
    /// The block.
    pub block: Arc<Block>,
    /// Whether this node made it (`true`), or got it from another.
    pub local: bool,
}

/// What a durable commit did.
#[derive(Debug, Default)]
pub struct Committed {
    /// The units in it, with the block that holds their messages; `None` for units of consumption alone.
    pub units: Vec<(Ticket, Option<BlockRef>)>,
    /// New blocks.
    pub blocks: Vec<NewBlock>,
    /// Slots that newly wait for a consumer here.
    pub arrived: BTreeMap<SegmentId, RangeSet>,
    /// Slots newly known to be consumed.
    pub removed: BTreeMap<SegmentId, RangeSet>,
    /// Registry keys with a new value.
    pub registry: Vec<Key>,
    /// Lives of which more is over now, whether or not a replica was kept here.
    pub retired: Vec<(NodeId, Epoch)>,
    /// Replicas given up.
    pub dropped: Vec<SegmentId>,
    /// Segments whose replica changed in any way.
    pub changed: Vec<SegmentId>,
    /// Bytes of blocks that the store had and need not keep any more: consumed, given up, or rewritten.
    pub freed: u64,
}

impl Committed {
    /// Adds what the next commit did.
    pub fn add(&mut self, next: Self) {
        let union = |mine: &mut BTreeMap<SegmentId, RangeSet>, theirs: BTreeMap<SegmentId, RangeSet>| {
            theirs.into_iter().for_each(|(id, slots)| mine.entry(id).or_default().union_with(&slots));
        };
        self.units.extend(next.units);
        self.blocks.extend(next.blocks);
        union(&mut self.arrived, next.arrived);
        union(&mut self.removed, next.removed);
        self.registry.extend(next.registry);
        self.retired.extend(next.retired);
        self.dropped.extend(next.dropped);
        self.changed.extend(next.changed);
        self.freed += next.freed;
    }
}

impl Engine {
    /// The commit is durable: take it over.
    pub fn handle_committed(&mut self) -> Committed {
        let Some(staged) = self.staged.take() else { return Committed::default() };
        let mut report = Committed { units: staged.units, ..Committed::default() };
        for (id, change) in staged.segments {
            report.changed.push(id);
            self.apply(id, change, staged.at_ms, &mut report);
        }
        for rewriting in staged.rewritten {
            report.freed += self.apply_rewriting(rewriting, staged.at_ms);
        }
        for (node, epoch, life) in staged.retired.lives() {
            self.retired.merge_life(node, epoch, life);
            report.retired.push((node, epoch));
        }
        for (key, value) in staged.registry {
            self.registry.install(key.clone(), value);
            report.registry.push(key);
        }
        for key in staged.unregistered {
            self.registry.remove(&key);
        }
        report
    }

    /// The commit failed and left nothing on disk that may be trusted: nothing of it happened. Its units with messages
    /// are returned; the slots they had taken are given up for good, since a number is never used twice. What came from
    /// other replicas comes again by anti-entropy; consumption is queued again, for it must go on when a disk is full. The
    /// commits that follow are without bodies, and small, until those have had their turn; then one takes everything again.
    pub fn handle_commit_failed(&mut self) -> Vec<Ticket> {
        let Some(staged) = self.staged.take() else { return Vec::new() };
        for (id, change) in &staged.segments {
            let mut again = change.removed.clone();
            for others in [staged.tied.get(id), staged.given_up.get(id)].into_iter().flatten() {
                again = again.difference(others);
            }
            for (block, _) in change.blocks.values().filter(|(_, local)| *local) {
                self.queue.given_up.entry(*id).or_default().insert_range(block.first(), block.last());
            }
            if !again.is_empty() {
                self.queue.removals.entry(*id).or_default().union_with(&again);
            }
            if !change.damaged.is_empty() {
                self.queue.damaged.entry(*id).or_default().union_with(&change.damaged);
            }
            let own = id.node == self.node && id.epoch == self.epoch;
            if let (true, Some(length)) = (own, change.length) {
                self.queue.lengths.insert(*id, length);
            }
            match change.outcome {
                Outcome::Drop => _ = self.queue.drops.insert(*id),
                Outcome::Fold => _ = self.queue.folds.insert(*id),
                Outcome::Keep | Outcome::Retire => {}
            }
        }
        for (id, slots) in staged.given_up {
            self.queue.given_up.entry(id).or_default().union_with(&slots);
        }
        for (key, value) in staged.registry {
            self.queue.registry.entry(key).or_insert(value);
        }
        self.queue.unregister.extend(staged.unregistered);
        self.queue.life = staged.life;
        self.queue.strays.extend(staged.strays);
        self.queue.rows.extend(staged.rows);
        for (ticket, unit) in staged.acks.into_iter().rev() {
            self.queue.units.push_front((ticket, unit));
        }
        self.queue.count_unit_removals();
        self.go_in_portions();
        staged.units.into_iter().filter(|(_, place)| place.is_some()).map(|(ticket, _)| ticket).collect()
    }

    fn apply(&mut self, id: SegmentId, mut change: Change, now_ms: u64, report: &mut Committed) {
        let replica = self.replicas.entry(id).or_default();
        if change.outcome != Outcome::Keep {
            // They need no place here any more, and whoever sent them waits to hear that.
            let received = std::mem::take(&mut change.blocks).into_values().filter(|(_, local)| !local);
            report.blocks.extend(received.map(|(block, local)| NewBlock { block, local }));
            let waited = replica.state.waiting();
            self.unindex(id, &waited);
            if let Some(replica) = self.replicas.remove(&id) {
                report.freed += replica.blocks.values().map(|meta| u64::from(meta.bytes)).sum::<u64>();
                let mut cache = self.cache.borrow_mut();
                replica.blocks.keys().for_each(|&first| cache.remove_block(id, first));
                cache.note_stored(0, replica.blocks.len());
            }
            match change.outcome {
                Outcome::Retire | Outcome::Fold => {
                    let removed = waited.union(&change.removed);
                    if !removed.is_empty() {
                        report.removed.insert(id, removed);
                    }
                }
                Outcome::Drop | Outcome::Keep => report.dropped.push(id),
            }
            return;
        }
        let waited = |block: &Block| replica.state.waiting_within(block.first(), block.last());
        let blocks = std::mem::take(&mut change.blocks).into_values();
        let blocks: Vec<_> = blocks.map(|(block, local)| (waited(&block), block, local)).collect();
        let gone = change.removed.union(&change.damaged);
        self.unindex(id, &gone);
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        replica.state.known = std::mem::take(&mut change.known);
        replica.state.removed.union_with(&change.removed);
        replica.state.length = change.length;
        replica.digest = None;
        let mut cache = self.cache.borrow_mut();
        for first in &change.emptied {
            let gone = replica.blocks.remove(first);
            cache.note_stored(0, usize::from(gone.is_some()));
            report.freed += gone.map_or(0, |meta| u64::from(meta.bytes));
            cache.remove_block(id, *first);
        }
        let mut arrived = RangeSet::new();
        for (waited, block, local) in blocks {
            let live = block.slots().difference(&replica.state.removed.clip(block.first(), block.last()));
            if !live.is_empty() {
                let meta = replica.hold(&Outline::of(&block), &self.index, now_ms);
                for ((inbox, ..), run) in meta.runs.iter().zip(block.runs()) {
                    self.index.add(inbox, id, &live.intersection(&run.slots));
                }
                let former = replica.blocks.insert(block.first(), meta);
                cache.note_stored(1, usize::from(former.is_some()));
                cache.insert(block.clone());
                arrived.union_with(&live.difference(&waited));
            }
            report.blocks.push(NewBlock { block, local });
        }
        if !arrived.is_empty() {
            report.arrived.insert(id, arrived);
        }
        if !change.removed.is_empty() {
            report.removed.insert(id, change.removed);
        }
    }

    /// Puts a block in the place of others, and tells how many bytes that frees.
    fn apply_rewriting(&mut self, Rewriting { of, block }: Rewriting, now_ms: u64) -> u64 {
        let id = block.segment();
        let Some(replica) = self.replicas.get_mut(&id) else { return 0 };
        let mut cache = self.cache.borrow_mut();
        let (mut gone, mut is_hot) = (Vec::new(), false);
        for first in of {
            gone.extend(replica.blocks.remove(&first));
            is_hot |= cache.get(id, first).is_some();
            cache.remove_block(id, first);
        }
        cache.note_stored(1, gone.len());
        let meta = replica.hold(&Outline::of(&block), &self.index, now_ms);
        let before: u64 = gone.iter().map(|meta| u64::from(meta.bytes)).sum();
        let freed = before.saturating_sub(u64::from(meta.bytes));
        replica.blocks.insert(block.first(), meta);
        if is_hot {
            cache.insert(block);
        }
        freed
    }

    /// Takes slots out of the inboxes they waited in.
    fn unindex(&mut self, id: SegmentId, slots: &RangeSet) {
        let Some(replica) = self.replicas.get(&id) else { return };
        for (first, last) in slots.iter_ranges() {
            let blocks = replica.blocks.range(..=last).rev().take_while(|(_, meta)| meta.last >= first);
            for (inbox, from, to) in blocks.flat_map(|(_, meta)| &*meta.runs) {
                let (from, to) = (first.max(*from), last.min(*to));
                if from <= to {
                    self.index.remove(inbox, id, from, to);
                }
            }
        }
    }
}
