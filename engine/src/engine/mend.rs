//! Small rows that the disk does not show any more: memory holds what they say, and writes them again.
//!
//! Only what is there is written, never that something is not: a row of which memory knows nothing was lost before this life
//! began, and others may still bring what it said. Marks of what is consumed are different: while a replica is here, a
//! page without slots is a page that must not be there.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    Engine,
    outline::outline_of,
    stage::{page_bounds, pages_of, prefix_of},
};
use crate::{
    Batch, Op, SegmentId, Slot,
    keys::{self, SegmentRow},
    limits,
    registry::Key,
};

impl Engine {
    /// Queues writing a row again that was found broken in the store: the state of a segment, with all its marks of what
    /// is consumed; one page of these; a registry value; what is over of a life. Whether there is something to write.
    pub fn rewrite_row(&mut self, key: &[u8]) -> bool {
        let is_here = !self.row(key).is_empty();
        if is_here {
            self.queue.rows.insert(Bytes::copy_from_slice(key));
        }
        is_here
    }

    /// Adds the rows as memory has them, where the commit does not change them anyway. What is too much for one commit
    /// waits for the next. Returned are the keys.
    pub(super) fn stage_rows(&mut self, batch: &mut Batch) -> BTreeSet<Bytes> {
        let mut keys = BTreeSet::new();
        if self.queue.rows.is_empty() {
            return keys;
        }
        let mut written: BTreeSet<Bytes> = batch.iter().map(key_of).cloned().collect();
        let mut bytes = 0;
        while bytes < limits::COMMIT_BYTES
            && let Some(key) = self.queue.rows.pop_first()
        {
            for op in self.row(&key) {
                if written.insert(key_of(&op).clone()) {
                    bytes += size_of(&op);
                    batch.push(op);
                }
            }
            keys.insert(key);
        }
        keys
    }

    /// The row as it should be; with a segment's row its pages.
    fn row(&self, key: &[u8]) -> Batch {
        match key.first() {
            Some(&keys::SEGMENT) => keys::parse_segment(key).map(|id| self.marks(id, None)).unwrap_or_default(),
            Some(&keys::REMOVED) => {
                keys::parse_numbered(key).map(|(id, page)| self.marks(id, Some(page))).unwrap_or_default()
            }
            Some(&keys::REGISTRY) => {
                let value = Key::from_bytes(&key[1..]).ok().and_then(|name| self.registry.get(&name));
                value.map(|value| Op::Put(Bytes::copy_from_slice(key), value.encode())).into_iter().collect()
            }
            Some(&keys::OUTLINE) => {
                keys::parse_numbered(key).map(|(id, first)| self.outline(id, first)).unwrap_or_default()
            }
            Some(&keys::RETIRED) => {
                let life = keys::parse_retired(key).ok().and_then(|(node, epoch)| self.retired.life(node, epoch));
                life.map(|life| Self::put(Bytes::copy_from_slice(key), life)).into_iter().collect()
            }
            _ => Batch::new(),
        }
    }

    /// The outline of a block that is here and reads.
    fn outline(&self, id: SegmentId, first: Slot) -> Batch {
        let is_here = self.replicas.get(&id).is_some_and(|replica| replica.blocks.contains_key(&first));
        match self.block(id, first) {
            Ok(Some(block)) if is_here && self.is_settled(id) => outline_of(&block).into_iter().collect(),
            _ => Batch::new(),
        }
    }

    /// One page of a replica's removals, or its state and all of its pages.
    fn marks(&self, id: SegmentId, page: Option<u32>) -> Batch {
        let Some(state) = self.segment(id) else { return Batch::new() };
        let prefix = prefix_of(&state.removed);
        let pages = pages_of(&state.removed, prefix);
        let row = |page| {
            let (first, last) = page_bounds(page);
            Self::put(keys::removed(id, page), &state.removed.clip(first, last))
        };
        match page {
            Some(page) if pages.contains(&page) => vec![row(page)],
            Some(page) => vec![Op::Delete(keys::removed(id, page))],
            None => {
                let state = SegmentRow { known: state.known.clone(), length: state.length, removed_prefix: prefix };
                let state = Self::put(keys::segment(id), &state);
                std::iter::once(state).chain(pages.into_iter().map(row)).collect()
            }
        }
    }
}

fn key_of(op: &Op) -> &Bytes {
    match op {
        Op::Put(key, _) | Op::Delete(key) => key,
    }
}

fn size_of(op: &Op) -> usize {
    match op {
        Op::Put(key, value) => key.len() + value.len(),
        Op::Delete(key) => key.len(),
    }
}
