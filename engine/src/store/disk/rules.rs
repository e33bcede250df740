//! What rows must say of each other: blocks match their hashes and cover `known - removed` of their segment exactly, the
//! marks of what is consumed fit together, and everything reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use bytes::Bytes;

use super::{Damage, log::FileTable, place::is_of_key, reader::RowVisitor, row::Row};
use crate::{
    Block, RangeSet, Retired, RetiredLife, SegmentId, Slot, StoreError,
    engine::Outline,
    keys::{self, LifeRow, SegmentRow},
    limits,
    registry::{Key, Value},
    store::check::{Checked, Finding, Pace, Part},
};

/// How often a segment that changes while it is looked at is looked at again. After that it has to wait for the next
/// round.
const ATTEMPTS: usize = 8;

/// Small rows listed at a time.
const CHUNK: usize = 256;

/// Bytes that reading a small row is taken for.
const ROW_COST: u64 = 64;

/// Rows with the places of their values.
pub(super) trait Rows {
    fn visit(&self, from: &[u8], to: &[u8], visit: &mut RowVisitor<'_>) -> Result<(), StoreError>;
    fn row(&self, key: &[u8]) -> Result<Option<Row>, StoreError>;
    fn value(&self, row: &Row) -> Result<Option<Bytes>, StoreError>;
    fn file_name(&self, number: u64) -> String;
    /// The log files that rows point into.
    fn table(&self) -> &FileTable;
}

/// Checks all rows. `Break` when `pace` said so.
pub(super) fn check_rows(
    rows: &dyn Rows,
    checked: &mut Checked,
    pace: &mut Pace<'_>,
    found: &mut dyn FnMut(Finding),
) -> Result<ControlFlow<()>, StoreError> {
    let mut round = Round { rows, checked, pace, found, over: Retired::default() };
    match round.all() {
        Ok(flow) => Ok(flow),
        // The index itself does not read: the next start rebuilds it from the log.
        Err(StoreError::Damaged { place, detail }) => {
            let damage = Damage { file: place, offset: 0, len: 0, what: detail };
            (round.found)(Finding { part: Part::Index, damage, segment: None, slots: RangeSet::new(), row: None });
            Ok(ControlFlow::Continue(()))
        }
        Err(error) => Err(error),
    }
}

struct Round<'a, 'b> {
    rows: &'a dyn Rows,
    checked: &'a mut Checked,
    pace: &'a mut Pace<'b>,
    found: &'a mut dyn FnMut(Finding),
    /// What was over when the round began.
    over: Retired,
}

/// What the rows of a segment say, without its blocks.
#[derive(Default, PartialEq, Eq)]
struct Marks {
    row: Option<SegmentRow>,
    pages: BTreeMap<u32, RangeSet>,
    /// Rows that do not read, with what is wrong.
    broken: Vec<(Bytes, Row, String)>,
}

/// What is known of a block's row.
#[derive(Clone)]
enum Seen {
    /// The slots it has bodies for: not all of its range, when it is a remnant.
    Good {
        slots: RangeSet,
    },
    Broken {
        row: Row,
        what: String,
    },
}

impl Round<'_, '_> {
    fn all(&mut self) -> Result<ControlFlow<()>, StoreError> {
        for space in [keys::META, keys::REGISTRY, keys::RETIRED] {
            if self.small_rows(space)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let mut segments = BTreeSet::new();
        for space in [keys::SEGMENT, keys::REMOVED, keys::BLOCK, keys::OUTLINE] {
            let (from, to) = keys::space(space);
            let mut strange = Vec::new();
            self.rows.visit(&from, &to, &mut |key, row| {
                let id = if space == keys::SEGMENT {
                    keys::parse_segment(key)
                } else {
                    keys::parse_numbered(key).map(|(id, _)| id)
                };
                match id {
                    Ok(id) => _ = segments.insert(id),
                    Err(error) => strange.push((key.clone(), row, error.to_string())),
                }
                Ok(ControlFlow::Continue(()))
            })?;
            for (key, row, what) in strange {
                self.broken_row(None, &key, &row, &what);
            }
        }
        for id in segments {
            if self.segment(id)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Rows that stand for themselves.
    fn small_rows(&mut self, space: u8) -> Result<ControlFlow<()>, StoreError> {
        let (from, to) = keys::space(space);
        let mut from = from.to_vec();
        loop {
            let mut listed = Vec::new();
            self.rows.visit(&from, &to, &mut |key, row| {
                listed.push((key.clone(), row));
                let is_full = listed.len() >= CHUNK;
                Ok(if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            let Some((last, _)) = listed.last() else { return Ok(ControlFlow::Continue(())) };
            from = [&last[..], &[0]].concat();
            self.checked.rows += listed.len() as u64;
            if self.some_small_rows(space, listed)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    fn some_small_rows(&mut self, space: u8, rows: Vec<(Bytes, Row)>) -> Result<ControlFlow<()>, StoreError> {
        for (key, row) in rows {
            let value = match self.value_of(&key, row)? {
                Some((_, Ok(value))) => value,
                Some((row, Err(what))) => {
                    self.broken_row(None, &key, &row, &what);
                    continue;
                }
                None => continue,
            };
            let wrong = match space {
                keys::META if key[1..] == *b"life" => keys::decode::<LifeRow>(&value).err().map(|e| e.to_string()),
                keys::REGISTRY => {
                    let name = Key::from_bytes(&key[1..]).err().map(|error| error.to_string());
                    name.or_else(|| Value::decode(&value).err().map(|error| error.to_string()))
                }
                keys::RETIRED => match (keys::parse_retired(&key), keys::decode::<RetiredLife>(&value)) {
                    (Ok((node, epoch)), Ok(life)) => {
                        self.over.merge_life(node, epoch, &life);
                        None
                    }
                    (Err(error), _) | (_, Err(error)) => Some(error.to_string()),
                },
                _ => None,
            };
            if let (Some(what), Some(row)) = (wrong, self.rows.row(&key)?) {
                self.broken_row(None, &key, &row, &what);
            }
            if (self.pace)(value.len() as u64 + ROW_COST).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// One segment: as often as needed until it did not change while its blocks were listed.
    fn segment(&mut self, id: SegmentId) -> Result<ControlFlow<()>, StoreError> {
        self.checked.segments += 1;
        let mut blocks: BTreeMap<Slot, Seen> = BTreeMap::new();
        let (mut settled, mut listed) = (None, BTreeSet::new());
        for _ in 0..ATTEMPTS {
            let before = self.marks(id)?;
            // Names only: small blocks lie in their rows, and a segment may have very many.
            let mut slots = BTreeSet::new();
            self.rows.visit(&keys::block(id, 0), &keys::block(id, Slot::MAX), &mut |key, _| {
                slots.extend(keys::parse_numbered(key).ok().map(|(_, slot)| slot));
                Ok(ControlFlow::Continue(()))
            })?;
            self.checked.rows += slots.len() as u64;
            // What is gone may have given way to a block that was gathered, under the name of the one before it.
            blocks.retain(|slot, _| slots.contains(slot));
            for gone in listed.difference(&slots) {
                let before = slots.range(..*gone).next_back();
                before.and_then(|before| blocks.remove(before));
            }
            let mut has_vanished = false;
            for &first in &slots {
                if blocks.contains_key(&first) {
                    continue;
                }
                let key = keys::block(id, first);
                let row = self.rows.row(&key)?;
                let read = row.map(|row| self.value_of(&key, row)).transpose()?.flatten();
                let Some((row, value)) = read else {
                    has_vanished = true;
                    continue;
                };
                let (cost, seen) = match value {
                    Ok(value) => {
                        let cost = value.len() as u64;
                        match check_block(id, first, value) {
                            Ok(block) => {
                                self.outline(&key, &row, &block)?;
                                (cost, Seen::Good { slots: block.slots().clone() })
                            }
                            Err(what) => (cost, Seen::Broken { row, what }),
                        }
                    }
                    Err(what) => (0, Seen::Broken { row, what }),
                };
                self.checked.blocks += 1;
                blocks.insert(first, seen);
                if (self.pace)(cost + ROW_COST).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            // Gathering changes no marks.
            if !has_vanished && before == self.marks(id)? {
                settled = Some(before);
                break;
            }
            listed = slots;
        }
        let missing = self.judge(id, settled, &blocks);
        self.lone_outlines(id, &blocks, &missing)?;
        Ok(ControlFlow::Continue(()))
    }

    /// An outline must be that of its block, if there is one: earlier versions wrote none.
    fn outline(&mut self, block_key: &[u8], block_row: &Row, block: &Block) -> Result<(), StoreError> {
        let key = keys::outline(block.segment(), block.first());
        let Some(row) = self.rows.row(&key)? else { return Ok(()) };
        let Some((row, value)) = self.value_of(&key, row)? else { return Ok(()) };
        self.checked.rows += 1;
        let wrong = match value {
            Ok(value) if value == Outline::of(block).encode() => return Ok(()),
            Ok(_) => "the outline is not that of its block".to_owned(),
            Err(what) => what,
        };
        // Both change together: the outline was read after the block, and the block is still the same.
        if self.rows.row(block_key)?.as_ref() == Some(block_row) {
            self.broken_row(Some(block.segment()), &key, &row, &wrong);
        }
        Ok(())
    }

    /// Outlines of blocks that are not there, and not missed: both come and go together.
    fn lone_outlines(
        &mut self,
        id: SegmentId,
        blocks: &BTreeMap<Slot, Seen>,
        missing: &RangeSet,
    ) -> Result<(), StoreError> {
        let mut alone = Vec::new();
        self.rows.visit(&keys::outline(id, 0), &keys::outline(id, Slot::MAX), &mut |key, row| {
            let first = keys::parse_numbered(key).ok().map(|(_, first)| first);
            let first = first.filter(|first| !blocks.contains_key(first) && !missing.contains(*first));
            alone.extend(first.map(|first| (first, key.clone(), row)));
            Ok(ControlFlow::Continue(()))
        })?;
        for (first, key, row) in alone {
            // The block may have come since blocks were listed, or the outline may have gone.
            let has_block = self.rows.row(&keys::block(id, first))?.is_some();
            if !has_block && self.rows.row(&key)?.as_ref() == Some(&row) {
                self.broken_row(Some(id), &key, &row, "an outline without its block");
            }
        }
        Ok(())
    }

    /// Blocks that must not be there: coverage goes both ways.
    fn check_blocks(&mut self, id: SegmentId, waiting: Option<&RangeSet>, blocks: &BTreeMap<Slot, Seen>) {
        let mut wrong = Vec::new();
        let mut before = RangeSet::new();
        for seen in blocks.values() {
            let Seen::Good { slots } = seen else { continue };
            if self.over.is_finished(id) {
                wrong.push((slots.clone(), "a block of a segment that is over"));
                continue;
            }
            let twice = slots.intersection(&before);
            if !twice.is_empty() {
                wrong.push((twice, "messages lie in two blocks"));
            }
            before.union_with(slots);
            if waiting.is_some_and(|waiting| slots.intersection(waiting).is_empty()) {
                wrong.push((slots.clone(), "a block of which no message waits; the next start removes it"));
            }
        }
        for (slots, what) in wrong {
            let damage = Damage { file: String::new(), offset: 0, len: 0, what: what.to_owned() };
            (self.found)(Finding { part: Part::Coverage, damage, segment: Some(id), slots, row: None });
        }
    }

    /// What is wrong with a segment. Without marks that hold still, only blocks that are broken by themselves are told.
    /// Returned are the slots that lack a block.
    fn judge(&mut self, id: SegmentId, marks: Option<Marks>, blocks: &BTreeMap<Slot, Seen>) -> RangeSet {
        let mut missing = RangeSet::new();
        if let Some(Marks { row, pages, broken }) = &marks {
            for (key, row, what) in broken {
                self.broken_row(Some(id), key, row, what);
            }
            // A segment whose row is gone or broken vouches for nothing: its blocks speak for themselves.
            if row.is_none() {
                self.check_blocks(id, None, blocks);
            }
            if let Some(row) = row {
                let mut removed = RangeSet::new();
                if row.removed_prefix > 0 {
                    removed.insert_range(1, row.removed_prefix);
                }
                pages.values().for_each(|page| removed.union_with(page));
                missing = row.known.difference(&removed);
                if broken.is_empty() {
                    let agree = self.check_marks(id, row, pages, &removed);
                    self.check_blocks(id, agree.then_some(&missing), blocks);
                } else {
                    // What the broken page held is not known, and may be what seems to be missing.
                    missing = RangeSet::new();
                }
            }
        }
        for seen in blocks.values() {
            if let Seen::Good { slots } = seen {
                missing = missing.difference(slots);
            }
        }
        for (&first, seen) in blocks {
            let Seen::Broken { row, what } = seen else { continue };
            let next = blocks.range(first + 1..).next().map_or(limits::SEGMENT_SLOTS, |(next, _)| next - 1);
            // Without its row nobody knows how far the block went.
            let mut slots = missing.clip(first, next);
            slots.insert(first);
            missing.remove_range(first, next);
            let damage = self.damage(row, what.clone());
            (self.found)(Finding { part: Part::Block, damage, segment: Some(id), slots, row: None });
        }
        if !missing.is_empty() {
            let what = "messages that this node vouches for have no block".to_owned();
            let damage = Damage { file: String::new(), offset: 0, len: 0, what };
            let slots = missing.clone();
            (self.found)(Finding { part: Part::Coverage, damage, segment: Some(id), slots, row: None });
        }
        missing
    }

    /// Whether they fit together.
    fn check_marks(
        &mut self,
        id: SegmentId,
        row: &SegmentRow,
        pages: &BTreeMap<u32, RangeSet>,
        removed: &RangeSet,
    ) -> bool {
        let mut wrong = Vec::new();
        if !removed.is_subset(&row.known) {
            wrong.push((
                keys::segment(id),
                removed.difference(&row.known),
                "slots are marked as consumed and not as known",
            ));
        }
        if let (Some(length), Some(last)) = (row.length, row.known.last())
            && last > length
        {
            wrong.push((keys::segment(id), row.known.clip(length + 1, last), "slots beyond the segment's length"));
        }
        for (&page, slots) in pages {
            let last = page.saturating_add(1).saturating_mul(limits::REMOVED_PAGE_SLOTS);
            let first = page.saturating_mul(limits::REMOVED_PAGE_SLOTS).saturating_add(1);
            if last <= row.removed_prefix {
                wrong.push((
                    keys::removed(id, page),
                    slots.clone(),
                    "a page of consumed slots that the prefix mark covers already",
                ));
            }
            let outside = slots.difference(&slots.clip(first, last));
            if !outside.is_empty() {
                wrong.push((keys::removed(id, page), outside, "slots on a page that is not theirs"));
            }
        }
        let agree = wrong.is_empty();
        for (key, slots, what) in wrong {
            let damage = Damage { file: String::new(), offset: 0, len: 0, what: what.to_owned() };
            (self.found)(Finding { part: Part::Prefix, damage, segment: Some(id), slots, row: Some(key) });
        }
        agree
    }

    fn marks(&mut self, id: SegmentId) -> Result<Marks, StoreError> {
        let mut marks = Marks::default();
        let key = keys::segment(id);
        if let Some(row) = self.rows.row(&key)?
            && let Some((row, value)) = self.value_of(&key, row)?
        {
            match value.and_then(|value| keys::decode(&value).map_err(|error| error.to_string())) {
                Ok(content) => marks.row = Some(content),
                Err(what) => marks.broken.push((key, row, what)),
            }
        }
        for (key, row) in self.listed(&keys::removed(id, 0), &keys::removed(id, u32::MAX))? {
            let Some((row, value)) = self.value_of(&key, row)? else { continue };
            let page = keys::parse_numbered(&key).map_err(|error| error.to_string());
            match (page, value.and_then(|value| keys::decode(&value).map_err(|error| error.to_string()))) {
                (Ok((_, page)), Ok(slots)) => _ = marks.pages.insert(page, slots),
                (Err(what), _) | (_, Err(what)) => marks.broken.push((key, row, what)),
            }
        }
        Ok(marks)
    }

    fn listed(&mut self, from: &[u8], to: &[u8]) -> Result<BTreeMap<Bytes, Row>, StoreError> {
        let mut listed = BTreeMap::new();
        self.rows.visit(from, to, &mut |key, row| {
            listed.insert(key.clone(), row);
            Ok(ControlFlow::Continue(()))
        })?;
        self.checked.rows += listed.len() as u64;
        Ok(listed)
    }

    /// The value, or what is wrong with it; `None` when the row is gone by now. A value that was moved since the row was
    /// read is looked up again.
    #[allow(clippy::type_complexity)]
    fn value_of(&mut self, key: &[u8], row: Row) -> Result<Option<(Row, Result<Bytes, String>)>, StoreError> {
        let mut row = row;
        loop {
            let wrong = match self.rows.value(&row) {
                Ok(Some(value)) if is_of_key(self.rows.table(), key, &row)? => return Ok(Some((row, Ok(value)))),
                Ok(Some(_)) => "it points to what is no value of this key".to_owned(),
                Ok(None) => "the log file is missing".to_owned(),
                Err(StoreError::Damaged { detail, .. }) => detail,
                Err(StoreError::Io { source, .. }) if super::file::is_unreadable(&source) => {
                    format!("can't be read: {source}")
                }
                Err(error) => return Err(error),
            };
            match self.rows.row(key)? {
                Some(now) if now == row => return Ok(Some((row, Err(wrong)))),
                Some(now) => row = now,
                None => return Ok(None),
            }
        }
    }

    fn broken_row(&mut self, segment: Option<SegmentId>, key: &[u8], row: &Row, what: &str) {
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let damage = self.damage(row, format!("row {name}: {what}"));
        (self.found)(Finding {
            part: Part::Row,
            damage,
            segment,
            slots: RangeSet::new(),
            row: Some(Bytes::copy_from_slice(key)),
        });
    }

    fn damage(&self, row: &Row, what: String) -> Damage {
        let (offset, len) = match row {
            Row::Pointer { offset, len, .. } | Row::Sealed { offset, len, .. } => (*offset, u64::from(*len)),
            Row::Inline { .. } | Row::Lost { .. } => (0, 0),
        };
        let what = match row {
            Row::Lost { place, .. } => format!("{what}: it was at {place}"),
            _ => what,
        };
        Damage { file: self.rows.file_name(row.file()), offset, len, what }
    }
}

fn check_block(id: SegmentId, first: Slot, value: Bytes) -> Result<Block, String> {
    match Block::decode(value) {
        Ok(block) if (block.segment(), block.first()) == (id, first) => Ok(block),
        Ok(_) => Err("lies under another block's key".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
