//! Outlines: what memory holds of a block, in a row of its own beside it, so that opening reads no bodies.
//!
//! The outline is written and deleted in one batch with its block. A small block has none: it lies in the index itself, and
//! reading it costs no more than reading its outline. An outline proves nothing: whoever reads the block checks its
//! hash, and that it is the block of the outline; whoever opens checks that there is room for it in its log file.

use serde::{Deserialize, Serialize};

use super::BlockMeta;
use crate::{Batch, Op, RangeSet, SegmentId, Slot, block::Block, keys, limits};

/// What is stored of a block, without its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outline<'a> {
    pub(crate) last: Slot,
    /// The slots it has bodies for: all from the first to the last, but for a remnant.
    pub(crate) slots: RangeSet,
    /// Bytes of the encoded block.
    pub(crate) bytes: u32,
    /// Inboxes, with the first and the last slot of each, in order of slots.
    #[serde(borrow)]
    pub(crate) runs: Vec<(&'a str, Slot, Slot)>,
}

impl<'a> Outline<'a> {
    /// The outline of a block.
    pub(crate) fn of(block: &'a Block) -> Self {
        // A run has a slot, or the block would not have been read.
        let bounds = |slots: &RangeSet| (slots.first().unwrap_or(Slot::MAX), slots.last().unwrap_or(0));
        let runs = block.runs().iter().map(|run| {
            let (first, last) = bounds(&run.slots);
            (&*run.inbox, first, last)
        });
        Self {
            last: block.last(),
            slots: block.slots().clone(),
            bytes: u32::try_from(block.bytes().len()).unwrap_or(u32::MAX),
            runs: runs.collect(),
        }
    }

    /// Whether it can be that of a block that begins at `first` and has so many bytes.
    pub(crate) fn fits(&self, first: Slot, bytes: u64) -> bool {
        let within = |from: Option<Slot>, to: Option<Slot>| from >= Some(first) && to <= Some(self.last);
        let mut next = first;
        let in_order = self.runs.iter().all(|(_, from, to)| {
            let is_next = *from >= next && from <= to && *to <= self.last;
            next = to.saturating_add(1);
            is_next
        });
        in_order
            && u64::from(self.bytes) == bytes
            && first > 0
            && self.last <= limits::SEGMENT_SLOTS
            && within(self.slots.first(), self.slots.last())
            && !self.runs.is_empty()
    }
}

/// The row of a block's outline, if it has one.
pub(super) fn outline_of(block: &Block) -> Option<Op> {
    let key = keys::outline(block.segment(), block.first());
    has_outline(block.bytes().len()).then(|| Op::Put(key, keys::encode(&Outline::of(block))))
}

/// Whether a block of so many bytes has an outline.
fn has_outline(bytes: usize) -> bool {
    bytes >= limits::OUTLINE_BYTES
}

/// Puts a block, with its outline, in the place of one that had `old` bytes.
pub(super) fn put_block(batch: &mut Batch, block: &Block, old: Option<u32>) {
    let (id, first) = (block.segment(), block.first());
    batch.push(Op::Put(keys::block(id, first), block.bytes().clone()));
    if let Some(outline) = outline_of(block) {
        batch.push(outline);
    } else if old.is_some_and(|bytes| has_outline(bytes as usize)) {
        batch.push(Op::Delete(keys::outline(id, first)));
    }
}

/// Deletes a block that has so many bytes, with its outline.
pub(super) fn delete_block(batch: &mut Batch, id: SegmentId, first: Slot, bytes: u32) {
    batch.push(Op::Delete(keys::block(id, first)));
    if has_outline(bytes as usize) {
        batch.push(Op::Delete(keys::outline(id, first)));
    }
}

impl BlockMeta {
    /// Whether a block that was read is the one that memory knows.
    pub(super) fn is_of(&self, block: &Block) -> bool {
        self.last == block.last()
            && u64::from(self.slots) == block.slots().len()
            && self.bytes as usize == block.bytes().len()
    }
}
