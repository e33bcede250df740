//! Outlines: what memory holds of a block, in a row of its own beside it, so that opening reads no bodies.
//!
//! The outline is written and deleted in one batch with its block. A small block has none: it lies in the index itself, and
//! reading it costs no more than reading its outline. An outline proves nothing: whoever reads the block checks its
//! hash, and that it is the block of the outline; whoever opens checks that there is room for it in its log file.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::BlockMeta;
use crate::{
    Batch, Op, RangeSet, SegmentId, Slot,
    block::{self, Block},
    keys::{self, RowError},
    limits,
};

/// Version of the outline of a gathered block; that of others is [`keys::VERSION`].
const GATHERED: u8 = 3;

/// What is stored of a block, without its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outline<'a> {
    pub(crate) last: Slot,
    /// The slots it has bodies for: all from the first to the last, but for one that was rewritten.
    pub(crate) slots: RangeSet,
    /// Bytes of the encoded block.
    pub(crate) bytes: u32,
    /// Inboxes, with the slots of each.
    pub(crate) runs: Vec<(&'a str, RangeSet)>,
    pub(super) is_gathered: bool,
}

/// The row where each inbox has all slots between its first and its last one.
#[derive(Serialize, Deserialize)]
struct InOrder<'a> {
    last: Slot,
    slots: RangeSet,
    bytes: u32,
    /// Inboxes, with the first and the last slot of each, in order of slots.
    #[serde(borrow)]
    runs: Vec<(&'a str, Slot, Slot)>,
}

/// The row of a gathered block, whose inboxes' slots lie among each other.
#[derive(Serialize, Deserialize)]
struct Gathered<'a> {
    last: Slot,
    bytes: u32,
    #[serde(borrow)]
    runs: Vec<(&'a str, RangeSet)>,
}

impl<'a> Outline<'a> {
    /// The outline of a block.
    pub(crate) fn of(block: &'a Block) -> Self {
        Self {
            last: block.last(),
            slots: block.slots().clone(),
            bytes: u32::try_from(block.bytes().len()).unwrap_or(u32::MAX),
            runs: block.runs().iter().map(|run| (&*run.inbox, run.slots.clone())).collect(),
            is_gathered: block.bytes().first() == Some(&block::GATHERED),
        }
    }

    /// The row's value.
    pub(crate) fn encode(&self) -> Bytes {
        let Self { last, bytes, .. } = *self;
        if self.is_gathered {
            let row = Gathered { last, bytes, runs: self.runs.clone() };
            return postcard::to_extend(&row, vec![GATHERED]).expect("rows hold only numbers, text and ranges").into();
        }
        let runs = self.runs.iter().map(|(inbox, slots)| {
            let (first, last) = bounds(slots);
            (*inbox, first, last)
        });
        keys::encode(&InOrder { last, slots: self.slots.clone(), bytes, runs: runs.collect() })
    }

    /// Reads a row's value.
    pub(crate) fn decode(row: &'a [u8]) -> Result<Self, RowError> {
        if let Some((&GATHERED, rest)) = row.split_first() {
            let Gathered { last, bytes, runs } = postcard::from_bytes(rest).map_err(|_| RowError::Value)?;
            let slots = runs.iter().fold(RangeSet::new(), |mut all, (_, slots)| {
                all.union_with(slots);
                all
            });
            return Ok(Self { last, slots, bytes, runs, is_gathered: true });
        }
        let InOrder { last, slots, bytes, runs } = keys::decode(row)?;
        let mut next = 0;
        let in_order = runs.iter().all(|&(_, from, to)| {
            let is_next = from >= next && from <= to;
            next = to.saturating_add(1);
            is_next
        });
        if !in_order {
            return Err(RowError::Value);
        }
        let runs = runs.into_iter().map(|(inbox, from, to)| (inbox, slots.clip(from, to))).collect();
        Ok(Self { last, slots, bytes, runs, is_gathered: false })
    }

    /// Whether it can be that of a block that begins at `first` and has so many bytes.
    pub(crate) fn fits(&self, first: Slot, bytes: u64) -> bool {
        let count: u64 = self.runs.iter().map(|(_, slots)| slots.len()).sum();
        first > 0
            && u64::from(self.bytes) == bytes
            && self.last <= limits::SEGMENT_SLOTS
            && self.slots.first() >= Some(first)
            && self.slots.last() <= Some(self.last)
            && self.runs.iter().all(|(_, slots)| !slots.is_empty())
            && count == self.slots.len()
    }
}

/// The first and the last slot of a run, which has some.
pub(super) fn bounds(slots: &RangeSet) -> (Slot, Slot) {
    (slots.first().unwrap_or(Slot::MAX), slots.last().unwrap_or(0))
}

/// The row of a block's outline, if it has one.
pub(super) fn outline_of(block: &Block) -> Option<Op> {
    let key = keys::outline(block.segment(), block.first());
    has_outline(block.bytes().len()).then(|| Op::Put(key, Outline::of(block).encode()))
}

/// Whether a block of so many bytes has an outline.
pub(super) fn has_outline(bytes: usize) -> bool {
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
