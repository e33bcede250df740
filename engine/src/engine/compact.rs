//! Rewriting: a block of which most is consumed gives way to its remnant, and its space comes back.
//!
//! Most blocks are consumed as a whole soon after they came and are never looked at. Those that are still here after a
//! while are visited in turn, a few at a time; one that has a quarter of its messages or less, or somewhat more when much is
//! dead (`weigh.rs`), is read, and written again without the rest. So each rewriting writes a bounded multiple of what it
//! frees, and what is kept on disk stays within a constant factor of what waits. The state of the replica, and so its
//! digest, does not change: holders rewrite as they please.

use std::{
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use super::{
    BlockMeta, Engine, Replica,
    outline::{delete_block, put_block},
    queue::Rewriting,
    stage::{Outcome, Staged},
};
use crate::{Batch, Now, SegmentId, Slot, limits};

/// What came of looking at some blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// How many were looked at.
    pub(crate) blocks: usize,
    /// Bytes that were read for it.
    pub(crate) read: usize,
    /// Whether these were the last: the next look begins anew.
    pub(crate) is_last: bool,
}

impl Engine {
    /// Looks at the next few blocks and queues what is worth rewriting. To be called now and then, such as twice a second:
    /// a call reads at most about [`limits::REWRITE_READ_BYTES`]. Whether these were the last: the next call begins anew.
    pub fn compact(&mut self, now: Now) -> bool {
        self.gather(now, limits::REWRITE_AGE_MS, limits::REWRITE_READ_BYTES);
        self.look(now, limits::REWRITE_AGE_MS, limits::REWRITE_LOOKS, limits::REWRITE_READ_BYTES).is_last
    }

    /// As [`Engine::compact`], at no more than so many blocks, which have been here for `age_ms`. No other is looked at once
    /// `most_read` bytes have been read.
    pub(crate) fn look(&mut self, now: Now, age_ms: u64, most: usize, most_read: usize) -> Looked {
        let mut looked = Looked::default();
        let blocks = self.next_blocks(most);
        let at_end = blocks.len() < most;
        for (id, first) in blocks {
            self.compacted_to = Some((id, first));
            looked.blocks += 1;
            if self.is_worth_reading(id, first, now, age_ms) {
                looked.read += self.rewrite(id, first, now);
            }
            if looked.read >= most_read {
                return looked;
            }
        }
        if at_end {
            self.compacted_to = None;
            self.weights.end_pass();
        }
        Looked { is_last: at_end, ..looked }
    }

    /// How many blocks there are to look at.
    pub(crate) fn block_count(&self) -> usize {
        self.replicas.values().map(|replica| replica.blocks.len()).sum()
    }

    /// Blocks after the last one that was looked at.
    fn next_blocks(&self, count: usize) -> Vec<(SegmentId, Slot)> {
        let mut found = Vec::new();
        if let Some((id, first)) = self.compacted_to {
            let rest = self.replicas.get(&id).into_iter();
            found.extend(
                rest.flat_map(|r| r.blocks.range((Excluded(first), Unbounded)))
                    .map(|(&first, _)| (id, first))
                    .take(count),
            );
        }
        let after = self.compacted_to.map_or(Unbounded, |(id, _)| Excluded(id));
        let others = self.replicas.range((after, Unbounded));
        let all = others.flat_map(|(&id, replica)| replica.blocks.keys().map(move |&first| (id, first)));
        found.extend(all.take(count - found.len()));
        found
    }

    /// Notes how full all blocks are, at once: what a pass over them does by and by.
    pub(crate) fn weigh_all(&mut self) {
        self.weights = Default::default();
        for replica in self.replicas.values() {
            replica.blocks.iter().for_each(|(&first, meta)| {
                self.weights.note(meta.bytes, meta.live(first, replica), meta.slots);
            });
        }
        self.weights.end_pass();
    }

    fn is_worth_reading(&mut self, id: SegmentId, first: Slot, now: Now, age_ms: u64) -> bool {
        let Some(replica) = self.replicas.get(&id) else { return false };
        let Some(meta) = replica.blocks.get(&first) else { return false };
        let is_old = now.mono_ms >= meta.since_ms.saturating_add(age_ms);
        let live = meta.live(first, replica);
        self.weights.note(meta.bytes, live, meta.slots);
        is_old && meta.bytes >= limits::REWRITE_BYTES && self.weights.is_worth(live, meta.slots)
    }

    /// Queues the remnant, if it is much smaller. How many bytes were read.
    fn rewrite(&mut self, id: SegmentId, first: Slot, now: Now) -> usize {
        // What can't be read is found by those who look for damage.
        let Ok(Some(block)) = self.block(id, first) else { return 0 };
        let Some(replica) = self.replicas.get_mut(&id) else { return 0 };
        let waiting = replica.state.waiting_within(block.first(), block.last());
        let remnant =
            block.remnant(&waiting).filter(|some| self.weights.is_small(some.bytes().len(), block.bytes().len()));
        if let Some(meta) = replica.blocks.get_mut(&first) {
            let pause = if remnant.is_some() { 0 } else { limits::REWRITE_AGAIN_MS };
            meta.since_ms = now.mono_ms.saturating_add(pause);
        }
        if let Some(remnant) = remnant {
            self.queue.rewrites.insert((id, first), Rewriting { of: vec![first], block: Arc::new(remnant) });
        }
        block.bytes().len()
    }

    /// Puts what was rewritten in its blocks' places, where these are still here and nothing else becomes of them.
    pub(super) fn stage_rewrites(&mut self, staged: &mut Staged, batch: &mut Batch) {
        for ((id, first), new) in std::mem::take(&mut self.queue.rewrites) {
            let Some(replica) = self.replicas.get(&id) else { continue };
            let last = new.block.last();
            // A remnant of one of several that were gathered since it was queued.
            if staged.rewritten.last().is_some_and(|new| new.block.segment() == id && new.block.last() >= first) {
                continue;
            }
            let here = replica.blocks.range(first..=last);
            if !here.clone().map(|(first, _)| first).eq(&new.of) {
                continue;
            }
            let waiting = match staged.segments.get(&id) {
                None => replica.state.waiting_within(first, last),
                Some(change) => {
                    let is_emptied = |first: &Slot| change.emptied.binary_search(first).is_ok();
                    if change.outcome != Outcome::Keep
                        || new.of.iter().any(is_emptied)
                        || change.blocks.range(first..=last).next().is_some()
                    {
                        continue;
                    }
                    change.waiting_within(replica, first, last)
                }
            };
            if !waiting.is_subset(new.block.slots()) {
                continue;
            }
            put_block(batch, &new.block, replica.blocks.get(&first).map(|meta| meta.bytes));
            here.skip(1).for_each(|(&first, meta)| delete_block(batch, id, first, meta.bytes));
            staged.rewritten.push(new);
        }
    }
}

impl BlockMeta {
    /// How many of its messages wait, at most: it may lack some that are not known to be removed yet.
    fn live(&self, first: Slot, replica: &Replica) -> u64 {
        let removed = replica.state.removed.clip(first, self.last).len();
        (u64::from(self.last - first) + 1).saturating_sub(removed).min(self.slots.into())
    }
}
