//! The engine: replicas of segments, the registry and the retired set of one node, as one state machine.
//!
//! Changes are *queued* by commands (`publish`, `remove`, `merge_*`), gathered into one [`Commit`] at a time, written by
//! the driver, and only then take effect in memory ([`Engine::handle_committed`]). So what a failed write touched leaves
//! no trace, nothing is forwarded that is not on disk, and a group commit grows by itself while the last one is written.
//!
//! - `queue.rs`: the commands, and what waits for the next commit
//! - `stage.rs`: turning what waits into rows, all of one commit together
//! - `portion.rs`: which part of it goes first, after a commit was refused
//! - `apply.rs`: what a durable commit changes in memory, and what it reports
//! - `open.rs`: reading all of it back, verified
//! - `outline.rs`: what is stored of a block beside it, so that opening reads no bodies
//! - `compact.rs`: rewriting blocks of which most is consumed
//! - `weigh.rs`: which of them are worth it
//! - `gather.rs`: joining small neighbours to larger blocks
//! - `place.rs`: where blocks of other replicas go, however those have cut them
//! - `mend.rs`: writing small rows again that the disk has lost
//! - `own.rs`: sets, registers and inboxes under names of a library user's own
//! - `delta.rs`: bringing two engines together without the rest of Rhizomq
//! - `exchange.rs`: the same in rounds, at a cost that depends on what differs
//! - `index.rs`: which slots wait in which inbox; the block cache

mod apply;
mod compact;
mod delta;
mod exchange;
#[cfg(test)]
mod fixtures;
mod gather;
mod held;
mod index;
#[cfg(test)]
mod laws;
mod mend;
mod open;
mod outline;
mod own;
mod place;
mod portion;
mod queue;
mod stage;
#[cfg(test)]
mod tests;
mod weigh;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use apply::{BlockRef, Committed, NewBlock};
pub use delta::{Delta, DeltaError, MergeError, Position, SegmentDelta, Summary};
pub use exchange::Exchange;
pub use open::{Loss, OpenReport, Unaccounted};
pub(crate) use outline::Outline;
pub use own::{Register, Set};
pub use queue::{PublishError, Ticket, Unit};

use self::{
    held::BlockMeta,
    index::{BlockCache, InboxIndex},
    portion::Portion,
    queue::Queue,
    stage::{Change, Staged},
    weigh::Weights,
};
use crate::{
    Batch, Dot, Epoch, Message, NodeId, Now, Op, RangeSet, Read, Registry, Retired, SegmentId, SegmentState, Slot,
    StoreError,
    block::{Block, BlockError},
    hlc::Clock,
    keys,
    mistake::Planted,
};

/// Why the engine could not answer from what it holds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A block is damaged: its slots are unknown until fetched again from another holder.
    #[error("segment {segment}, block at slot {first}: {source}")]
    Block {
        /// The segment.
        segment: SegmentId,
        /// The block's first slot.
        first: Slot,
        /// What is wrong with it.
        source: BlockError,
    },
    /// The directory belongs to another node, or was written by another version.
    #[error("{0}")]
    Foreign(String),
}

/// What the driver is to write, all or nothing, and to sync. One at a time.
#[derive(Debug)]
pub struct Commit {
    /// Number of the commit in this life, from 1.
    pub seq: u64,
    /// The rows.
    pub batch: Batch,
}

/// One replica: its state, and where its bodies lie.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    state: SegmentState,
    blocks: BTreeMap<Slot, BlockMeta>,
    digest: Option<[u8; 32]>,
}

/// The segment that takes what this node accepts now.
#[derive(Clone, Copy, Debug)]
struct OpenSegment {
    id: SegmentId,
    next: Slot,
    bytes: u64,
    opened_ms: u64,
}

/// See the module docs.
pub struct Engine {
    reader: Arc<dyn Read>,
    node: NodeId,
    epoch: Epoch,
    planted: Planted,
    replicas: BTreeMap<SegmentId, Replica>,
    index: InboxIndex,
    retired: Retired,
    registry: Registry,
    clock: Clock,
    open: Option<OpenSegment>,
    next_number: u32,
    queue: Queue,
    staged: Option<Staged>,
    portion: Portion,
    next_seq: u64,
    cache: RefCell<BlockCache>,
    /// When an open segment is closed: bytes, and age in milliseconds.
    roll: (u64, u64),
    /// Where the search for blocks to rewrite goes on, and that for small ones to gather.
    compacted_to: Option<(SegmentId, Slot)>,
    gathered_to: Option<(SegmentId, Slot)>,
    weights: Weights,
}

impl Engine {
    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// This life.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The replicas kept here, in order.
    pub fn segments(&self) -> impl Iterator<Item = SegmentId> {
        self.replicas.keys().copied()
    }

    /// Whether a replica of the segment is kept here (of removals alone counts too).
    pub fn has_replica(&self, id: SegmentId) -> bool {
        self.replicas.contains_key(&id)
    }

    /// A replica's state.
    pub fn segment(&self, id: SegmentId) -> Option<&SegmentState> {
        self.replicas.get(&id).map(|replica| &replica.state)
    }

    /// What is known here of a segment, whether or not a replica is kept: a folded one's slots are known as consumed.
    pub fn state_of(&self, id: SegmentId) -> SegmentState {
        match (self.replicas.get(&id), self.retired.folded(id)) {
            (Some(replica), _) => replica.state.clone(),
            (None, Some(slots)) => SegmentState { known: slots.clone(), removed: slots.clone(), length: None },
            (None, None) => SegmentState::default(),
        }
    }

    /// Whether a replica is kept here of which all known slots are consumed, and no change of it is under way.
    pub fn is_consumed(&self, id: SegmentId) -> bool {
        self.segment(id).is_some_and(|state| state.known == state.removed) && self.is_settled(id)
    }

    /// Digest of what [`Engine::state_of`] tells; `None` if nothing is known of the segment. Cached for replicas.
    pub fn segment_digest(&mut self, id: SegmentId) -> Option<[u8; 32]> {
        match self.replicas.get_mut(&id) {
            Some(replica) => Some(*replica.digest.get_or_insert_with(|| replica.state.digest())),
            None => self.retired.folded(id).map(|_| self.state_of(id).digest()),
        }
    }

    /// The segment that local messages go to now, if one is open.
    pub fn open_segment(&self) -> Option<SegmentId> {
        self.open.map(|open| open.id)
    }

    /// Whether the segment is finished for ever: nothing of it is taken in any more.
    pub fn is_finished(&self, id: SegmentId) -> bool {
        #[cfg(feature = "mistakes")]
        if self.planted.is(crate::Mistake::RetireByThreshold) {
            return self.retired.contains_by_threshold(id);
        }
        #[cfg(feature = "mistakes")]
        if self.planted.is(crate::Mistake::FoldWhole) {
            return self.retired.contains(id);
        }
        self.retired.is_finished(id)
    }

    /// Whether the segment is over as far as is known here: finished, or folded and nothing more of it has turned up.
    pub fn is_retired(&self, id: SegmentId) -> bool {
        self.is_finished(id) || (self.retired.contains(id) && !self.replicas.contains_key(&id))
    }

    /// All that is over.
    pub fn retired(&self) -> &Retired {
        &self.retired
    }

    /// The registry, as committed.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Whether the slot is known to be consumed, or is about to be by what waits for its commit.
    pub fn is_removed(&self, dot: Dot) -> bool {
        self.is_finished(dot.segment)
            || self.retired.covers(dot)
            || self.queue.retired.covers(dot)
            || self.staged.as_ref().is_some_and(|staged| staged.retired.covers(dot))
            || self.replicas.get(&dot.segment).is_some_and(|replica| replica.state.removed.contains(dot.slot))
            || self.queue.removes(dot)
            || self.staged.as_ref().is_some_and(|staged| staged.removes(dot))
    }

    /// Slots known to be consumed, whether or not a replica is kept: of a finished segment all that there can be.
    pub fn removed_slots(&self, id: SegmentId) -> RangeSet {
        if self.is_finished(id) {
            return RangeSet::from_range(1, crate::limits::SEGMENT_SLOTS);
        }
        self.state_of(id).removed
    }

    /// Slots whose bodies are kept here for a consumer.
    pub fn waiting_in(&self, id: SegmentId) -> RangeSet {
        self.replicas.get(&id).map(|replica| replica.state.waiting()).unwrap_or_default()
    }

    /// Inboxes with waiting messages on this node's replicas, with their number.
    pub fn inboxes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.index.inboxes()
    }

    /// Those of which the names begin with a prefix, in order, without counting.
    pub fn inboxes_from<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.index.inboxes_from(prefix)
    }

    /// Inboxes with waiting messages behind this name, in order; all of them without one.
    pub fn inboxes_after(&self, last: Option<&str>) -> impl Iterator<Item = &Arc<str>> {
        self.index.inboxes_after(last)
    }

    /// The first inbox with waiting messages, in the order of names, that is called so or comes after it.
    pub fn inbox_from(&self, name: &str) -> Option<&Arc<str>> {
        self.index.inbox_from(name)
    }

    /// Segments that hold waiting messages of an inbox, with their number.
    pub fn inbox_segments(&self, inbox: &str) -> impl Iterator<Item = (SegmentId, u64)> + use<'_> {
        self.index.segments(inbox)
    }

    /// Inboxes that have waiting messages in a segment.
    pub fn inboxes_of(&self, id: SegmentId) -> Vec<Arc<str>> {
        let Some(replica) = self.replicas.get(&id) else { return Vec::new() };
        let mut names: BTreeSet<&Arc<str>> = BTreeSet::new();
        for meta in replica.blocks.values() {
            names.extend(meta.runs.iter().map(|(inbox, ..)| inbox));
        }
        names.into_iter().filter(|inbox| self.index.next(inbox, id, 1).is_some()).cloned().collect()
    }

    /// Inboxes that any of these slots belongs to, as far as blocks are kept.
    pub fn inboxes_with(&self, id: SegmentId, slots: &RangeSet) -> BTreeSet<Arc<str>> {
        let mut names = BTreeSet::new();
        let Some(replica) = self.replicas.get(&id) else { return names };
        for (first, last) in slots.iter_ranges() {
            let blocks = replica.blocks.range(..=last).rev().take_while(|(_, meta)| meta.last >= first);
            let runs = blocks.flat_map(|(_, meta)| &*meta.runs);
            names.extend(runs.filter(|(_, from, to)| *from <= last && *to >= first).map(|(inbox, ..)| inbox.clone()));
        }
        names
    }

    /// The first waiting slot of an inbox in a segment at or after `from`.
    pub fn next_waiting(&self, inbox: &str, id: SegmentId, from: Slot) -> Option<Slot> {
        self.index.next(inbox, id, from)
    }

    /// All waiting slots of an inbox in a segment.
    pub fn waiting_of(&self, inbox: &str, id: SegmentId) -> RangeSet {
        self.index.within(inbox, id, 1, Slot::MAX)
    }

    /// The message in a slot; `None` if it is unknown here or consumed.
    ///
    /// # Errors
    /// The store failed, or the block is damaged: then call [`Engine::forget_damaged`] and let anti-entropy refetch it.
    pub fn message(&self, dot: Dot) -> Result<Option<Message>, EngineError> {
        let Some(replica) = self.replicas.get(&dot.segment) else { return Ok(None) };
        if !replica.state.known.contains(dot.slot) || replica.state.removed.contains(dot.slot) {
            return Ok(None);
        }
        match replica.blocks.range(..=dot.slot).next_back() {
            Some((&first, meta)) if dot.slot <= meta.last => {
                let Some(block) = self.block(dot.segment, first)? else { return Ok(None) };
                let message = block.message(dot.slot);
                if message.is_none() {
                    self.check_outline(&block)?;
                }
                Ok(message)
            }
            _ => Ok(None),
        }
    }

    /// The waiting messages of an inbox in the next block of a segment that has any at or after `from`: for reading much,
    /// a block at a time. They are [`Block::messages`] of the block and the slots returned. `None` if there are none.
    ///
    /// # Errors
    /// As [`Engine::message`]; the first waiting slot at or after `from` is one of those that can't be read.
    pub fn next_block(
        &self,
        inbox: &str,
        id: SegmentId,
        from: Slot,
    ) -> Result<Option<(Arc<Block>, RangeSet)>, EngineError> {
        let Some(slot) = self.index.next(inbox, id, from) else { return Ok(None) };
        let Some(replica) = self.replicas.get(&id) else { return Ok(None) };
        let block = replica.blocks.range(..=slot).next_back().filter(|(_, meta)| slot <= meta.last);
        let Some((&first, meta)) = block else { return Ok(None) };
        let Some(block) = self.block(id, first)? else { return Ok(None) };
        let slots = self.index.within(inbox, id, slot, meta.last);
        if !slots.is_subset(block.slots()) {
            self.check_outline(&block)?;
        }
        Ok(Some((block, slots)))
    }

    /// A block that lacks what memory says that it has. While a commit is under way it may be newer than what memory knows.
    fn check_outline(&self, block: &Block) -> Result<(), EngineError> {
        if !self.is_settled(block.segment()) {
            return Ok(());
        }
        let source = BlockError::Malformed("it is not the one that its outline tells of");
        Err(EngineError::Block { segment: block.segment(), first: block.first(), source })
    }

    /// Blocks of a replica that hold any of `slots` still waiting, by their first slots, in order.
    pub fn blocks_with(&self, id: SegmentId, slots: &RangeSet) -> Vec<Slot> {
        let Some(replica) = self.replicas.get(&id) else { return Vec::new() };
        let wanted = slots.difference(&replica.state.removed);
        let has_any = |first: Slot, last: Slot| wanted.next_at_or_after(first).is_some_and(|slot| slot <= last);
        let blocks = replica.blocks.iter().filter(|&(&first, meta)| has_any(first, meta.last));
        blocks.map(|(&first, _)| first).collect()
    }

    /// Sets when an open segment is closed: after so many bytes of blocks, or at that age in milliseconds. The defaults are
    /// [`limits::SEGMENT_BYTES`](crate::limits::SEGMENT_BYTES) and [`limits::SEGMENT_AGE_MS`](crate::limits::SEGMENT_AGE_MS).
    pub fn set_segment_limits(&mut self, bytes: u64, age_ms: u64) {
        self.roll = (bytes, age_ms);
    }

    /// Sets how many bytes may be held in memory of blocks, decoded ones and what is noted of those in the store; at least
    /// a quarter of it is for decoded blocks, and the newest one is always kept.
    pub fn set_cache_bytes(&mut self, bytes: usize) {
        self.cache.borrow_mut().set_budget(bytes);
    }

    /// How many bytes of memory blocks take, and how many they may; see [`Engine::set_cache_bytes`].
    pub fn cache_bytes(&self) -> (usize, usize) {
        self.cache.borrow().bytes()
    }

    /// A block by its first slot, from the cache or the store.
    ///
    /// # Errors
    /// As [`Engine::message`].
    pub fn block(&self, id: SegmentId, first: Slot) -> Result<Option<Arc<Block>>, EngineError> {
        if let Some(block) = self.cache.borrow().get(id, first) {
            return Ok(Some(block));
        }
        let Some(block) = self.stored_block(id, first)? else { return Ok(self.replaced_block(id, first)) };
        let block = Arc::new(block);
        self.cache.borrow_mut().insert(block.clone());
        Ok(Some(block))
    }

    /// A block that gives way to a gathered one in the commit under way: the store may show that before memory does.
    fn replaced_block(&self, id: SegmentId, first: Slot) -> Option<Arc<Block>> {
        let meta = self.replicas.get(&id)?.blocks.get(&first)?;
        let mut new = self.staged.as_ref()?.rewritten.iter();
        let new = new.find(|new| new.block.segment() == id && new.of.contains(&first))?;
        new.block.cut(&RangeSet::from_range(first, meta.last)).map(Arc::new)
    }

    /// A block as the store has it, whatever the cache holds.
    fn stored_block(&self, id: SegmentId, first: Slot) -> Result<Option<Block>, EngineError> {
        let key = keys::block(id, first);
        let Some(bytes) = self.reader.get_sealed(&key)? else { return Ok(None) };
        let wrong = match Block::decode(bytes) {
            Ok(block) if (block.segment(), block.first()) == (id, first) => return Ok(Some(block)),
            Ok(_) => BlockError::Malformed("it lies under another block's key"),
            Err(error) => error,
        };
        // The store can say where it lies.
        self.reader.get(&key)?;
        Err(EngineError::Block { segment: id, first, source: wrong })
    }

    /// Digest over the registry, the retired set and the states of the replicas that `counts` chooses: equal on two
    /// engines exactly when all that is equal.
    pub fn digest(&mut self, counts: impl Fn(SegmentId) -> bool) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.registry.digest());
        hasher.update(&self.retired.digest());
        let ids: Vec<_> = self.segments().filter(|id| counts(*id)).collect();
        for id in ids {
            hasher.update(&keys::segment(id));
            hasher.update(&self.segment_digest(id).unwrap_or_default());
        }
        *hasher.finalize().as_bytes()
    }

    /// Gathers what waits into the next commit; `None` while one is being written or nothing waits.
    pub fn poll_commit(&mut self, now: Now) -> Option<Commit> {
        if self.staged.is_some() {
            return None;
        }
        let (staged, batch) = self.stage(now)?;
        self.staged = Some(staged);
        let seq = self.next_seq;
        self.next_seq += 1;
        Some(Commit { seq, batch })
    }

    /// How many of the next commits, the one that is being written included, bring blocks that came from other replicas and
    /// are here but not on disk: 0 to 2.
    pub fn incoming_commits(&self) -> u64 {
        let is_foreign = |staged: &Staged| staged.segments.values().any(Change::has_foreign_blocks);
        match (self.queue.blocks.is_empty(), &self.staged) {
            (true, staged) => u64::from(staged.as_ref().is_some_and(is_foreign)),
            (false, staged) => 1 + u64::from(staged.is_some()),
        }
    }

    /// Whether a commit is being written.
    pub fn is_writing(&self) -> bool {
        self.staged.is_some()
    }

    /// Whether something waits for the next commit.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    fn put<T: serde::Serialize>(key: bytes::Bytes, value: &T) -> Op {
        Op::Put(key, keys::encode(value))
    }
}
