//! Gathering: small neighbours become one block.
//!
//! A group commit is a block, and a producer that waits for each receipt makes one of every message. Memory and the time to
//! open depend on the number of blocks, so small ones that are still here after a while are written again as one, some
//! hundred at a time. What is consumed of them stays behind. The old ones go and the new one comes in one commit: a crash
//! leaves these or that. The state of the replica, and so its digest, does not change; other holders gather as they please
//! (`place.rs`).
//!
//! A message is written again once, as a rule, when its block's neighbours fill a new one. Only what can't grow any more, at
//! large neighbours and at the end of a segment, is gathered before that, four at least at a time, so that what is written
//! again several times is at least four times as large each time.

use std::{
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use super::{BlockMeta, Engine, Replica, compact::Looked, queue::Rewriting};
use crate::{Block, Now, SegmentId, Slot, limits};

/// Neighbours that may become one.
#[derive(Default)]
struct Group {
    of: Vec<Slot>,
    last: Slot,
    bytes: usize,
    /// When the youngest of them came.
    since_ms: u64,
}

impl Group {
    fn add(&mut self, first: Slot, meta: &BlockMeta) {
        self.of.push(first);
        self.last = meta.last;
        self.bytes += meta.bytes as usize;
        self.since_ms = self.since_ms.max(meta.since_ms);
    }

    /// Whether the block can be added: it comes next, there is room for it, and no slot between may still come from elsewhere.
    fn takes(&self, first: Slot, meta: &BlockMeta, replica: &Replica) -> bool {
        self.of.is_empty()
            || self.bytes + meta.bytes as usize <= limits::BLOCK_TARGET_BYTES
                && (first == self.last + 1
                    || replica.state.known.complement_within(self.last + 1, first - 1).is_empty())
    }
}

impl Engine {
    /// Looks for small neighbours that have been here for `age_ms`, going on where the last call stopped, and queues what they
    /// become. It looks at [`limits::GATHER_LOOKS`] blocks and reads about `most_read` bytes at most.
    pub(crate) fn gather(&mut self, now: Now, age_ms: u64, most_read: usize) -> Looked {
        let (groups, looked) = self.next_groups(now, age_ms, most_read);
        for (id, group) in groups {
            if let Some(block) = self.gathered(id, &group) {
                let name = (id, block.first());
                self.queue.rewrites.insert(name, Rewriting { of: group.of, block: Arc::new(block) });
            }
        }
        looked
    }

    fn next_groups(&mut self, now: Now, age_ms: u64, most_read: usize) -> (Vec<(SegmentId, Group)>, Looked) {
        let (mut groups, mut looked) = (Vec::new(), Looked::default());
        let start = self.gathered_to;
        for (&id, replica) in self.replicas.range((start.map_or(Unbounded, |(id, _)| Included(id)), Unbounded)) {
            let from = start.filter(|(segment, _)| *segment == id).map_or(Unbounded, |(_, first)| Excluded(first));
            let (mut group, mut before) = (Group::default(), None);
            for (&first, meta) in replica.blocks.range((from, Unbounded)) {
                let is_small = meta.bytes < limits::GATHER_BELOW_BYTES;
                let is_old = now.mono_ms >= meta.since_ms.saturating_add(age_ms);
                if !(is_small && is_old && group.takes(first, meta, replica)) {
                    // Whoever has a young neighbour waits for it.
                    if is_old || !is_small {
                        looked.read += take(&mut groups, id, &mut group);
                    }
                    group = Group::default();
                }
                if group.of.is_empty() && (looked.read >= most_read || looked.blocks >= limits::GATHER_LOOKS) {
                    self.gathered_to = before.map(|before| (id, before)).or(start);
                    if before.is_none() && start.is_none_or(|(segment, _)| segment != id) {
                        // It has not begun with this segment.
                        self.gathered_to = Some((id, 0));
                    }
                    return (groups, looked);
                }
                looked.blocks += 1;
                if is_small && is_old {
                    group.add(first, meta);
                }
                before = Some(first);
            }
            let is_at_rest = now.mono_ms >= group.since_ms.saturating_add(limits::REWRITE_AGAIN_MS);
            if replica.state.length.is_some() || is_at_rest {
                looked.read += take(&mut groups, id, &mut group);
            }
        }
        self.gathered_to = None;
        looked.is_last = true;
        (groups, looked)
    }

    /// What these become, without what was consumed of them; `None` if one can't be read, or has changed.
    fn gathered(&self, id: SegmentId, group: &Group) -> Option<Block> {
        let mut blocks = Vec::with_capacity(group.of.len());
        for &first in &group.of {
            // They are not wanted by anybody, and not worth a place in the cache. What can't be read is found by those who
            // look for damage.
            let cached = self.cache.borrow().get(id, first);
            let block = match cached {
                Some(block) => block,
                None => Arc::new(self.stored_block(id, first).ok()??),
            };
            self.replicas.get(&id)?.blocks.get(&first).filter(|meta| meta.is_of(&block))?;
            blocks.push(block);
        }
        let waiting = self.segment(id)?.waiting_within(*group.of.first()?, group.last);
        let blocks: Vec<&Block> = blocks.iter().map(|block| &**block).collect();
        let mut new = Block::gather(&blocks, &waiting, limits::UNIT_BYTES);
        new.pop().filter(|_| new.is_empty())
    }
}

/// Takes a group, if it is worth it, and tells how many bytes are to be read for it.
fn take(groups: &mut Vec<(SegmentId, Group)>, id: SegmentId, group: &mut Group) -> usize {
    let group = std::mem::take(group);
    if group.of.len() < limits::GATHER_LEAST {
        return 0;
    }
    let bytes = group.bytes;
    groups.push((id, group));
    bytes
}
