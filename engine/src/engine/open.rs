//! Opening: everything is read back, checked, and put right where the rows disagree.
//!
//! The law: bodies cover `known - removed` exactly. What has none is taken out of `known` and reported; anti-entropy
//! fetches it from another holder. A block of which nothing waits goes. Nothing damaged is ever taken for consumed. That bodies match their hashes is found
//! out when they are read, and by the scrub: hashing them all would take longer than reading all files once.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use bytes::Bytes;

use super::{
    Engine, EngineError, Replica,
    index::InboxIndex,
    outline::{Outline, has_outline},
    queue::Queue,
    stage,
};
use crate::{
    Dot, Epoch, Mistake, NodeId, Now, RangeSet, Read, Registry, Retired, RetiredLife, SegmentId, SegmentState, Slot,
    StoreError,
    block::{Block, BlockError},
    hlc::Clock,
    keys::{self, LifeRow, RowError, SegmentRow},
    limits,
    mistake::Planted,
    registry::{Key, Value, ValueError},
    store::LostCommits,
};

/// Slots that this replica had vouched for and can't show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The segment.
    pub segment: SegmentId,
    /// The slots; they are unknown now, and fetched again from a holder if there is one.
    pub slots: RangeSet,
}

/// What this node had taken in, and the store has lost without a word of it left: see [`OpenReport::unaccounted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unaccounted {
    /// The first message that it may be: all before it are accounted for. It may be this one and those behind it in its
    /// segment, and later segments of the same life. `None`: not even the life is known in which they were taken in.
    pub from: Option<Dot>,
    /// How many messages it is at most: each had a byte of log at least. `None`: there is no bound, for a whole log file
    /// is missing.
    pub at_most: Option<u64>,
}

/// Names of blocks, with their lengths.
type Blocks = BTreeMap<(SegmentId, Slot), Option<u64>>;

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Replicas.
    pub segments: usize,
    /// Waiting messages.
    pub waiting: u64,
    /// What was lost, by segment: exactly these slots.
    pub losses: Vec<Loss>,
    /// Besides, messages of this node's last life may be lost with commits at the end of the log, of which the store knows how
    /// long they were and not what was in them. What others had given to this node is fetched again from them, and what
    /// was consumed in such commits may be delivered again.
    pub unaccounted: Option<Unaccounted>,
    /// Rows that did not read, in words.
    pub damaged_rows: Vec<String>,
    /// Whether the directory was empty.
    pub fresh: bool,
}

impl Engine {
    /// Opens what `reader` holds, for a new life: `epoch` must be fresh random bits. Its row is part of the first commit,
    /// ahead of anything that uses it.
    ///
    /// # Errors
    /// The store fails, or the rows belong to another node or a newer format.
    pub fn open(
        reader: Arc<dyn Read>,
        node: NodeId,
        epoch: Epoch,
        now: Now,
        planted: Planted,
    ) -> Result<(Self, OpenReport), EngineError> {
        let mut report = OpenReport::default();
        let life = read_life(&*reader, node, &mut report)?;
        report.fresh = life.is_none() && report.damaged_rows.is_empty();
        let mut epoch = epoch;
        if let (true, Some(life)) = (planted.is(Mistake::ReuseEpoch), &life) {
            epoch = life.epoch;
        }
        let mut engine = Self {
            reader,
            node,
            epoch,
            planted,
            replicas: BTreeMap::new(),
            index: InboxIndex::default(),
            retired: Retired::default(),
            registry: Registry::default(),
            clock: Clock::new(node, epoch),
            open: None,
            next_number: 1,
            queue: Queue { life: Some(LifeRow { node, epoch, started_ms: now.wall_ms }), ..Queue::default() },
            staged: None,
            portion: Default::default(),
            next_seq: 1,
            cache: Default::default(),
            roll: (limits::SEGMENT_BYTES, limits::SEGMENT_AGE_MS),
            compacted_to: None,
            gathered_to: None,
            weights: Default::default(),
        };
        engine.read_retired(&mut report)?;
        engine.read_registry(&mut report)?;
        let unread = engine.read_states(&mut report)?;
        let covered = engine.read_blocks(now, &mut report)?;
        engine.part_overlapping();
        let lost = engine.reader.lost();
        engine.check_coverage(&covered, &unread, lost.is_some(), &mut report);
        report.unaccounted = lost.map(|lost| engine.unaccounted(life.as_ref(), lost));
        engine.queue.lengths.extend(stage::stated_by_origin(&engine));
        if planted.is(Mistake::ReuseEpoch) {
            engine.resume_numbers(now);
        }
        report.segments = engine.replicas.len();
        report.waiting = engine.inboxes().map(|(_, waiting)| waiting).sum();
        Ok((engine, report))
    }

    fn read_retired(&mut self, report: &mut OpenReport) -> Result<(), EngineError> {
        for (key, value) in rows(&*self.reader, keys::RETIRED, report)?.0 {
            match (keys::parse_retired(&key), keys::decode::<RetiredLife>(&value)) {
                (Ok((node, epoch)), Ok(life)) => self.retired.merge_life(node, epoch, &life),
                (Err(error), _) | (_, Err(error)) => refuse_or_note(report, "retired", &key, error.into())?,
            }
        }
        Ok(())
    }

    fn read_registry(&mut self, report: &mut OpenReport) -> Result<(), EngineError> {
        for (key, value) in rows(&*self.reader, keys::REGISTRY, report)?.0 {
            match (Key::from_bytes(&key[1..]), Value::decode(&value)) {
                (Ok(name), Ok(value)) => {
                    if let Some(stamp) = value.stamp() {
                        self.clock.observe(stamp);
                    }
                    self.registry.install(name, value);
                }
                (Err(error), _) => damaged(report, "registry", &key, &error),
                (_, Err(error)) => refuse_or_note(report, "registry", &key, error.into())?,
            }
        }
        Ok(())
    }

    /// Returned are the slots of pages that do not read: which of them were consumed, nobody here knows any more.
    fn read_states(&mut self, report: &mut OpenReport) -> Result<BTreeMap<SegmentId, RangeSet>, EngineError> {
        for (key, value) in rows(&*self.reader, keys::SEGMENT, report)?.0 {
            match (keys::parse_segment(&key), keys::decode::<SegmentRow>(&value)) {
                (Ok(id), Ok(row)) => {
                    let mut removed = RangeSet::new();
                    if row.removed_prefix > 0 {
                        removed.insert_range(1, row.removed_prefix);
                    }
                    let state = SegmentState { known: row.known, removed, length: row.length };
                    self.replicas.insert(id, Replica { state, ..Replica::default() });
                }
                (Err(error), _) | (_, Err(error)) => refuse_or_note(report, "segment", &key, error.into())?,
            }
        }
        let (pages, mut broken) = rows(&*self.reader, keys::REMOVED, report)?;
        for (key, value) in pages {
            match (keys::parse_numbered(&key), keys::decode::<RangeSet>(&value)) {
                (Ok((id, _)), Ok(slots)) => {
                    let state = &mut self.replicas.entry(id).or_default().state;
                    state.removed.union_with(&slots);
                    state.known.union_with(&slots);
                }
                (Err(error), _) | (_, Err(error)) => {
                    refuse_or_note(report, "removed page", &key, error.into())?;
                    broken.push(key);
                }
            }
        }
        let mut unread = BTreeMap::<SegmentId, RangeSet>::new();
        for (id, page) in broken.iter().filter_map(|key| keys::parse_numbered(key).ok()) {
            let (first, last) = stage::page_bounds(page.min(limits::SEGMENT_SLOTS / limits::REMOVED_PAGE_SLOTS));
            unread.entry(id).or_default().insert_range(first, last);
        }
        for (&id, replica) in &mut self.replicas {
            if let Some(slots) = self.retired.folded(id) {
                replica.state.removed.union_with(slots);
            }
            replica.state.known = replica.state.known.union(&replica.state.removed);
        }
        Ok(unread)
    }

    /// Blocks by their outlines, as long as there is room for them in their log files: bodies are looked at when they are
    /// wanted, and by the scrub. A block without one, or with one that does not fit, is read. Outlines pass by one at a
    /// time, for there may be many.
    fn read_blocks(&mut self, now: Now, report: &mut OpenReport) -> Result<BTreeMap<SegmentId, RangeSet>, EngineError> {
        let mut covered = BTreeMap::new();
        let mut blocks = self.list_blocks(report)?;
        let reader = self.reader.clone();
        let mut result = Ok(());
        let broken = each_row(&*reader, keys::OUTLINE, &mut |key, row| {
            result = self.read_outline(key, &row, &mut blocks, now, &mut covered, report);
            if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        result?;
        broken.iter().for_each(|(key, error)| damaged(report, "outline", key, error));
        for ((id, first), _) in blocks {
            let key = keys::block(id, first);
            match self.stored_block(id, first) {
                Ok(Some(block)) => self.adopt(id, first, &Outline::of(&block), now, &mut covered),
                Ok(None) => damaged(report, "block", &key, &"vanished while opening"),
                Err(EngineError::Block { source, .. }) => refuse_or_note(report, "block", &key, source.into())?,
                Err(error) => damaged(report, "block", &key, &error),
            }
        }
        Ok(covered)
    }

    /// The blocks that there are, but for those of finished segments, with their lengths.
    fn list_blocks(&mut self, report: &mut OpenReport) -> Result<Blocks, EngineError> {
        let (from, to) = keys::space(keys::BLOCK);
        let (mut blocks, mut strange) = (Blocks::new(), Vec::new());
        self.reader.scan_keys(&from, &to, &mut |key, bytes| {
            match keys::parse_numbered(key) {
                Ok(name) => _ = blocks.insert(name, bytes),
                Err(error) => strange.push((Bytes::copy_from_slice(key), error)),
            }
            ControlFlow::Continue(())
        })?;
        for (key, error) in strange {
            refuse_or_note(report, "block", &key, error.into())?;
        }
        let finished: Vec<_> = blocks.keys().filter(|(id, _)| self.is_finished(*id)).copied().collect();
        for (id, first) in finished {
            blocks.remove(&(id, first));
            self.queue.strays.push(keys::block(id, first));
        }
        Ok(blocks)
    }

    /// Takes in the block of an outline, and off the list.
    fn read_outline(
        &mut self,
        key: &[u8],
        row: &[u8],
        blocks: &mut Blocks,
        now: Now,
        covered: &mut BTreeMap<SegmentId, RangeSet>,
        report: &mut OpenReport,
    ) -> Result<(), EngineError> {
        let (id, first) = match keys::parse_numbered(key) {
            Ok(name) => name,
            Err(error) => return refuse_or_note(report, "outline", key, error.into()),
        };
        let Some(bytes) = blocks.get(&(id, first)) else {
            self.queue.strays.push(Bytes::copy_from_slice(key));
            return Ok(());
        };
        let Some(bytes) = *bytes else { return Ok(()) };
        match Outline::decode(row) {
            Ok(outline) if outline.fits(first, bytes) => {
                self.adopt(id, first, &outline, now, covered);
                blocks.remove(&(id, first));
                return Ok(());
            }
            Ok(_) => damaged(report, "outline", key, &"it is that of another block"),
            Err(error) => refuse_or_note(report, "outline", key, error.into())?,
        }
        self.queue.rows.insert(Bytes::copy_from_slice(key));
        Ok(())
    }

    /// Takes a block in, and notes whose bodies it has.
    fn adopt(
        &mut self,
        id: SegmentId,
        first: Slot,
        outline: &Outline<'_>,
        now: Now,
        covered: &mut BTreeMap<SegmentId, RangeSet>,
    ) {
        if self.is_finished(id) {
            return;
        }
        if !self.replicas.contains_key(&id) {
            let state = self.state_of(id);
            self.replicas.insert(id, Replica { state, ..Replica::default() });
        }
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        // A block vouches for itself, even if the segment's row was damaged.
        replica.state.known.union_with(&outline.slots);
        let live = outline.slots.difference(&replica.state.removed.clip(first, outline.last));
        covered.entry(id).or_default().union_with(&outline.slots);
        if live.is_empty() {
            // A lost frame of the log held its end.
            self.queue.strays.push(keys::block(id, first));
            if has_outline(outline.bytes as usize) {
                self.queue.strays.push(keys::outline(id, first));
            }
            return;
        }
        let meta = replica.hold(outline, &self.index, now.mono_ms);
        for ((inbox, ..), (_, slots)) in meta.runs.iter().zip(&outline.runs) {
            self.index.add(inbox, id, &live.intersection(slots));
        }
        let former = replica.blocks.insert(first, meta);
        self.cache.borrow_mut().note_stored(1, usize::from(former.is_some()));
    }

    /// After damage a block may be here that had given way to one that was gathered. What it alone has is taken in anew,
    /// as if another replica had sent it.
    fn part_overlapping(&mut self) {
        let mut overlapped = Vec::new();
        for (&id, replica) in &self.replicas {
            let (mut over, mut end) = (0, 0);
            for (&first, meta) in &replica.blocks {
                if first <= end {
                    overlapped.push((id, over, first));
                } else {
                    (over, end) = (first, meta.last);
                }
            }
        }
        for (id, over, first) in overlapped {
            let slots_of = |block: Option<&Block>| block.map(|block| block.slots().clone()).unwrap_or_default();
            let (over, block) = [over, first].map(|first| self.stored_block(id, first).ok().flatten()).into();
            let Some(replica) = self.replicas.get_mut(&id) else { continue };
            let Some(meta) = replica.blocks.remove(&first) else { continue };
            self.cache.borrow_mut().note_stored(0, 1);
            self.queue.strays.push(keys::block(id, first));
            if has_outline(meta.bytes as usize) {
                self.queue.strays.push(keys::outline(id, first));
            }
            let alone = slots_of(block.as_ref()).difference(&slots_of(over.as_ref()));
            let alone = alone.difference(&replica.state.removed);
            if let (Some(block), false) = (block, alone.is_empty()) {
                replica.state.known = replica.state.known.difference(&alone);
                for (from, to) in alone.iter_ranges() {
                    meta.runs.iter().for_each(|(inbox, ..)| self.index.remove(inbox, id, from, to));
                }
                self.queue.blocks.insert((id, first, block.last()), block);
            }
        }
    }

    /// Whatever `known - removed` has no body is not known after all. When the store has lost commits, nor is what must have
    /// been in them: an origin knows all slots of its segments, up to the last or to the length. Slots of pages that do not
    /// read are not known either, but what has no body of them is no loss to tell of: as a rule it was consumed.
    fn check_coverage(
        &mut self,
        covered: &BTreeMap<SegmentId, RangeSet>,
        unread: &BTreeMap<SegmentId, RangeSet>,
        has_lost_commits: bool,
        report: &mut OpenReport,
    ) {
        for (id, replica) in &mut self.replicas {
            let mut missing = replica.state.waiting();
            let end = replica.state.length.max(replica.state.known.last()).unwrap_or(0);
            if has_lost_commits && id.node == self.node && end > 0 {
                missing.union_with(&replica.state.known.complement_within(1, end));
            }
            if let Some(covered) = covered.get(id) {
                missing = missing.difference(covered);
            }
            if !missing.is_empty() && !self.planted.is(Mistake::KnowledgeAheadOfBlocks) {
                replica.state.known = replica.state.known.difference(&missing);
                self.queue.damaged.insert(*id, missing.clone());
                let slots = unread.get(id).map(|unread| missing.difference(unread)).unwrap_or(missing);
                if !slots.is_empty() {
                    report.losses.push(Loss { segment: *id, slots });
                }
            }
        }
    }

    /// What of this node's own may have been in commits that the store has lost.
    fn unaccounted(&self, life: Option<&LifeRow>, lost: LostCommits) -> Unaccounted {
        let from = life.map(|life| {
            let name = |number| SegmentId { node: life.node, epoch: life.epoch, number };
            let over = self.retired.life(life.node, life.epoch).and_then(RetiredLife::last).unwrap_or(0);
            match self.replicas.range(name(over + 1)..=name(u32::MAX)).next_back() {
                Some((&segment, Replica { state, .. })) if state.length.is_none() => {
                    Dot { segment, slot: state.known.last().unwrap_or(0) + 1 }
                }
                last => Dot { segment: name(last.map_or(over, |(id, _)| id.number).saturating_add(1)), slot: 1 },
            }
        });
        Unaccounted { from, at_most: lost.bytes }
    }

    /// The planted mistake: go on in an epoch that was used before.
    fn resume_numbers(&mut self, now: Now) {
        let own = |id: &SegmentId| id.node == self.node && id.epoch == self.epoch;
        let Some((id, next)) = self
            .replicas
            .iter()
            .rev()
            .find(|(id, replica)| own(id) && replica.state.length.is_none())
            .map(|(id, replica)| (*id, replica.state.known.last().unwrap_or(0) + 1))
        else {
            return;
        };
        self.open = Some(super::OpenSegment { id, next, bytes: 0, opened_ms: now.mono_ms });
        self.next_number = id.number + 1;
    }
}

/// The last life's row. Without it nobody can say that the store is this node's, and nothing else depends on it.
fn read_life(reader: &dyn Read, node: NodeId, report: &mut OpenReport) -> Result<Option<LifeRow>, EngineError> {
    let key = keys::meta("life");
    let bytes = match reader.get(&key) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error @ StoreError::Damaged { .. }) => {
            damaged(report, "the node's own row", &key, &error);
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let life: LifeRow = match keys::decode(&bytes) {
        Ok(life) => life,
        Err(error) => {
            refuse_or_note(report, "the node's own row", &key, error.into())?;
            return Ok(None);
        }
    };
    if life.node != node {
        let text =
            format!("the store belongs to node {}, the identity key to {node}; put the matching key back", life.node);
        return Err(EngineError::Foreign(text));
    }
    Ok(Some(life))
}

/// Why a row does not read.
enum Unread {
    /// Another program wrote it.
    Version(String),
    Damaged(String),
}

impl From<RowError> for Unread {
    fn from(error: RowError) -> Self {
        let text = error.to_string();
        if matches!(error, RowError::Version(_)) { Self::Version(text) } else { Self::Damaged(text) }
    }
}

impl From<ValueError> for Unread {
    fn from(error: ValueError) -> Self {
        let text = error.to_string();
        if matches!(error, ValueError::Version(_)) { Self::Version(text) } else { Self::Damaged(text) }
    }
}

impl From<BlockError> for Unread {
    fn from(error: BlockError) -> Self {
        let text = error.to_string();
        if matches!(error, BlockError::Version(_)) { Self::Version(text) } else { Self::Damaged(text) }
    }
}

/// What another program wrote is no damage, and going on would overwrite it.
fn refuse_or_note(report: &mut OpenReport, what: &str, key: &[u8], error: Unread) -> Result<(), EngineError> {
    match error {
        Unread::Version(text) => Err(EngineError::Foreign(format!("{what}: {text}; use the program that wrote it"))),
        Unread::Damaged(text) => {
            damaged(report, what, key, &text);
            Ok(())
        }
    }
}

fn damaged(report: &mut OpenReport, what: &str, key: &[u8], why: &dyn std::fmt::Display) {
    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    report.damaged_rows.push(format!("{what} {key}: {why}"));
}

/// Rows by their keys, and the keys of those that do not read.
type Rows = (Vec<(Bytes, Bytes)>, Vec<Bytes>);

/// Small rows of one key space; those that do not read are reported.
fn rows(reader: &dyn Read, prefix: u8, report: &mut OpenReport) -> Result<Rows, EngineError> {
    let mut found = Vec::new();
    let broken = each_row(reader, prefix, &mut |key, value| {
        found.push((Bytes::copy_from_slice(key), value));
        ControlFlow::Continue(())
    })?;
    broken.iter().for_each(|(key, error)| damaged(report, "row", key, error));
    Ok((found, broken.into_iter().map(|(key, _)| key).collect()))
}

/// Visits the rows of one key space in order. Returned are those that do not read.
fn each_row(
    reader: &dyn Read,
    prefix: u8,
    visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
) -> Result<Vec<(Bytes, StoreError)>, EngineError> {
    let (from, to) = keys::space(prefix);
    let mut from = from.to_vec();
    let mut broken = Vec::new();
    loop {
        let mut next_from = from.clone();
        let scanned = reader.scan(&from, &to, &mut |key, value| {
            next_from = after(key);
            visit(key, value)
        });
        from = next_from;
        let Err(error) = scanned else { return Ok(broken) };
        // It is the next one that does not read; if it can't be told which, nothing can be read.
        let mut next = None;
        reader.scan_keys(&from, &to, &mut |key, _| {
            next = Some(Bytes::copy_from_slice(key));
            ControlFlow::Break(())
        })?;
        let Some(key) = next else { return Err(error.into()) };
        from = after(&key);
        broken.push((key, error));
    }
}

/// The smallest key behind this one.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
