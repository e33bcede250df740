//! Commands: each only queues. What waits here is gathered by the next commit.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use super::{Engine, EngineError, OpenSegment, stage::Staged};
use crate::{
    Dot, Entry, Now, RangeSet, Retired, SegmentId, SegmentState, Slot, StoreError,
    block::{Block, BlockError},
    keys::LifeRow,
    limits,
    registry::{Key, RegistryError, VALUE_BYTES, Value},
};

/// Messages and consumptions that happen together or not at all, in one commit and, for the messages, in one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// What is published.
    pub entries: Vec<Entry>,
    /// What is consumed.
    pub removals: Vec<Dot>,
}

/// A queued unit; [`Committed`](super::Committed) tells its fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The unit was not queued; nothing of it happens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Too many bytes for one unit.
    #[error(
        "{bytes} bytes in one unit; at most {} are possible, send smaller messages or transactions",
        limits::UNIT_BYTES
    )]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// Too many obligations for one unit.
    #[error("{slots} deliveries in one unit; at most {} are possible", limits::UNIT_SLOTS)]
    TooMany {
        /// How many.
        slots: usize,
    },
    /// A name over the limit, or an entry that waits nowhere.
    #[error("an inbox name must have 1 to {} bytes, and an entry at least one inbox", limits::INBOX_NAME_BYTES)]
    Inbox,
}

/// A block that takes the place of one or of several that are here.
#[derive(Clone, Debug)]
pub(super) struct Rewriting {
    /// The first slots of these, all that are here between the first and the last slot of the new one.
    pub(super) of: Vec<Slot>,
    /// It goes by the name of the first of them.
    pub(super) block: Arc<Block>,
}

/// What waits for the next commit.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) units: VecDeque<(Ticket, Unit)>,
    /// What the queued units consume.
    pub(super) unit_removals: BTreeMap<SegmentId, RangeSet>,
    pub(super) last_ticket: u64,
    /// By first and last slot.
    pub(super) blocks: BTreeMap<(SegmentId, Slot, Slot), Block>,
    pub(super) removals: BTreeMap<SegmentId, RangeSet>,
    /// Slots that messages of refused commits had taken, and that nobody will ever fill. They go along with what is written
    /// anyway: who publishes again and again on a full disk must not fill it up with them.
    pub(super) given_up: BTreeMap<SegmentId, RangeSet>,
    pub(super) lengths: BTreeMap<SegmentId, Slot>,
    pub(super) damaged: BTreeMap<SegmentId, RangeSet>,
    pub(super) drops: BTreeSet<SegmentId>,
    pub(super) folds: BTreeSet<SegmentId>,
    /// What is to take the place of blocks that are here, by its first slot.
    pub(super) rewrites: BTreeMap<(SegmentId, Slot), Rewriting>,
    /// Keys of rows to write again from memory.
    pub(super) rows: BTreeSet<Bytes>,
    pub(super) registry: BTreeMap<Key, Value>,
    /// Of queued sets that were added to: the most bytes that their encodings can have.
    pub(super) set_bytes: BTreeMap<Key, usize>,
    pub(super) unregister: BTreeSet<Key>,
    pub(super) retired: Retired,
    pub(super) life: Option<LifeRow>,
    /// Keys of rows that stand for nothing any more; the first commit deletes them.
    pub(super) strays: Vec<Bytes>,
    #[cfg(feature = "mistakes")]
    pub(super) known_without_bodies: BTreeMap<SegmentId, RangeSet>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.units.is_empty()
            && self.blocks.is_empty()
            && self.removals.is_empty()
            && self.lengths.is_empty()
            && self.damaged.is_empty()
            && self.drops.is_empty()
            && self.folds.is_empty()
            && self.rewrites.is_empty()
            && self.rows.is_empty()
            && self.registry.is_empty()
            && self.unregister.is_empty()
            && self.retired.is_empty()
            && self.strays.is_empty()
            && self.life.is_none()
    }

    pub(super) fn removes(&self, dot: Dot) -> bool {
        let has = |slots: &BTreeMap<SegmentId, RangeSet>| slots.get(&dot.segment).is_some_and(|s| s.contains(dot.slot));
        has(&self.removals) || has(&self.unit_removals) || has(&self.given_up)
    }

    /// Works out anew what the queued units consume.
    pub(super) fn count_unit_removals(&mut self) {
        self.unit_removals.clear();
        for dot in self.units.iter().flat_map(|(_, unit)| &unit.removals) {
            self.unit_removals.entry(dot.segment).or_default().insert(dot.slot);
        }
    }
}

impl Engine {
    /// Queues a unit. Its messages go to the open segment; see [`Engine::needs_segment`].
    ///
    /// # Errors
    /// A limit is exceeded; nothing was queued.
    pub fn publish(&mut self, unit: Unit) -> Result<Ticket, PublishError> {
        let bytes: usize = unit.entries.iter().map(Entry::size).sum();
        if bytes > limits::UNIT_BYTES {
            return Err(PublishError::TooLarge { bytes });
        }
        let slots = unit.entries.iter().map(|entry| entry.inboxes.len()).sum::<usize>() + unit.removals.len();
        if slots > limits::UNIT_SLOTS {
            return Err(PublishError::TooMany { slots });
        }
        let named = |name: &String| !name.is_empty() && name.len() <= limits::INBOX_NAME_BYTES;
        if !unit.entries.iter().all(|entry| !entry.inboxes.is_empty() && entry.inboxes.iter().all(named)) {
            return Err(PublishError::Inbox);
        }
        self.queue.last_ticket += 1;
        let ticket = Ticket(self.queue.last_ticket);
        for dot in &unit.removals {
            self.queue.unit_removals.entry(dot.segment).or_default().insert(dot.slot);
        }
        self.queue.units.push_back((ticket, unit));
        Ok(ticket)
    }

    /// Whether messages wait and no segment is open for them: call [`Engine::begin_segment`], and write down its holders
    /// in the same commit.
    pub fn needs_segment(&self) -> bool {
        self.open.is_none() && self.queue.units.iter().any(|(_, unit)| !unit.entries.is_empty())
    }

    /// Opens the next segment of this life.
    pub fn begin_segment(&mut self, now: Now) -> SegmentId {
        let id = SegmentId { node: self.node, epoch: self.epoch, number: self.next_number };
        self.next_number += 1;
        self.open = Some(OpenSegment { id, next: 1, bytes: 0, opened_ms: now.mono_ms });
        id
    }

    /// Closes the open segment with its exact length: for a clean shutdown, so that it can retire without us.
    pub fn close_segment(&mut self) {
        if let Some(open) = self.open.take() {
            self.queue.lengths.insert(open.id, open.next - 1);
        }
    }

    /// Queues a consumption.
    pub fn remove(&mut self, dot: Dot) {
        self.queue.removals.entry(dot.segment).or_default().insert(dot.slot);
    }

    /// Queues consumptions learned from another replica; what is known already costs nothing.
    pub fn merge_removed(&mut self, id: SegmentId, slots: &RangeSet) {
        if self.is_finished(id) {
            return;
        }
        let written = self.unwritten_from(id).map_or(limits::SEGMENT_SLOTS, |first| first - 1);
        let news = self.unremoved(id, &slots.clip(1, written));
        if !news.is_empty() {
            self.queue.removals.entry(id).or_default().union_with(&news);
        }
    }

    /// Queues a block received from another replica. Tells what it is of.
    ///
    /// # Errors
    /// The bytes are not a block: the sender or the way here is broken.
    pub fn merge_block(&mut self, bytes: Bytes) -> Result<(SegmentId, RangeSet), BlockError> {
        self.merge_decoded(Block::decode(bytes)?)
    }

    /// As [`Engine::merge_block`], of one that has been looked at already.
    ///
    /// # Errors
    /// It has slots that only this node can fill, and has not.
    pub fn merge_decoded(&mut self, block: Block) -> Result<(SegmentId, RangeSet), BlockError> {
        let (id, first, slots) = (block.segment(), block.first(), block.slots().clone());
        if self.unwritten_from(id).is_some_and(|first| first <= block.last()) {
            return Err(BlockError::Malformed("it has slots that only this node can fill, and has not"));
        }
        if !self.is_finished(id) && !self.knows(id, &slots) {
            // Two holders may have sent different parts of it.
            let name = (id, first, block.last());
            let queued = self.queue.blocks.get(&name).and_then(|queued| queued.union(&block));
            self.queue.blocks.insert(name, queued.unwrap_or(block));
        }
        Ok((id, slots))
    }

    /// Queues the stated length of a segment; only for segments that are kept here.
    pub fn merge_length(&mut self, id: SegmentId, length: Slot) {
        let news = |replica: &super::Replica| replica.state.length < Some(length);
        if !self.is_finished(id) && self.unwritten_from(id).is_none() && self.replicas.get(&id).is_none_or(news) {
            let queued = self.queue.lengths.entry(id).or_default();
            *queued = (*queued).max(length);
        }
    }

    /// Queues what other nodes know to be over.
    pub fn merge_retired(&mut self, other: &Retired) {
        for (node, epoch, life) in other.delta(&self.retired).lives() {
            if (node, epoch) == (self.node, self.epoch) {
                let open = self.open.map_or(self.next_number, |open| open.id.number);
                let life = life.before(open, |number| self.unwritten_from(SegmentId { node, epoch, number }));
                self.queue.retired.merge_life(node, epoch, &life);
            } else {
                self.queue.retired.merge_life(node, epoch, life);
            }
        }
    }

    /// The first slot of the segment that nobody but this node can know of: of its present life, and not given away yet.
    /// What others say of such slots is made up, and a message that takes one later must not be lost by it.
    fn unwritten_from(&self, id: SegmentId) -> Option<Slot> {
        let is_mine = (id.node, id.epoch) == (self.node, self.epoch);
        match self.open.filter(|open| open.id == id) {
            Some(open) => Some(open.next),
            None => (is_mine && id.number >= self.next_number).then_some(1),
        }
    }

    /// Gives up a replica of which everything known is consumed, and keeps the set of consumed slots alone: for a segment
    /// that a crash left open, whose end nobody can state. Without effect if its length is known after all (it finishes in
    /// its own time, and a length that is forgotten would come again as news), if it changes in the same commit, or if
    /// that set is too scattered to be kept for ever.
    pub fn fold(&mut self, id: SegmentId) {
        let foldable =
            |state: &SegmentState| state.length.is_none() && state.removed.range_count() <= limits::FOLDED_RANGES;
        if self.is_consumed(id) && self.segment(id).is_some_and(foldable) {
            self.queue.folds.insert(id);
        }
    }

    /// Whether all these slots are known here.
    pub fn knows(&self, id: SegmentId, slots: &RangeSet) -> bool {
        let known = |known: &RangeSet| slots.is_subset(known);
        self.segment(id).map_or_else(|| self.retired.folded(id).is_some_and(known), |state| known(&state.known))
    }

    /// Those slots that are not known to be consumed.
    pub(super) fn unremoved(&self, id: SegmentId, slots: &RangeSet) -> RangeSet {
        let slots = slots.clip(1, limits::SEGMENT_SLOTS);
        // Few slots against many: what that costs depends on the few.
        match (self.segment(id), self.retired.folded(id)) {
            (Some(state), _) => slots.difference(&state.removed),
            (None, Some(folded)) => slots.difference(folded),
            (None, None) => slots,
        }
    }

    /// Drops a replica: the caller has proofs that enough others hold it. Without effect if it changes in the same
    /// commit.
    pub fn drop_replica(&mut self, id: SegmentId) {
        self.queue.drops.insert(id);
    }

    /// Takes the waiting slots of the damaged block that holds `dot` out of what is known: absence is honest, and
    /// anti-entropy fetches them again. Returns the slots.
    pub fn forget_damaged(&mut self, dot: Dot) -> RangeSet {
        let Some(replica) = self.replicas.get(&dot.segment) else { return RangeSet::new() };
        let Some((&first, meta)) = replica.blocks.range(..=dot.slot).next_back() else { return RangeSet::new() };
        // A read that failed says nothing about the body: only what was read and is wrong is given up. The cache may
        // still have what the disk has not; and a row that is gone may have been deleted by the commit under way.
        let damaged = match self.stored_block(dot.segment, first) {
            Ok(Some(block)) => self.is_settled(dot.segment) && !meta.is_of(&block),
            Ok(None) => self.is_settled(dot.segment),
            Err(error) => matches!(error, EngineError::Block { .. } | EngineError::Store(StoreError::Damaged { .. })),
        };
        if !damaged {
            return RangeSet::new();
        }
        let lost = replica.state.waiting().clip(first, meta.last);
        self.queue.damaged.entry(dot.segment).or_default().union_with(&lost);
        lost
    }

    /// Queues adding a member to a registry set.
    ///
    /// # Errors
    /// A limit is exceeded, or the key holds a register.
    pub fn set_add(&mut self, key: Key, member: Vec<u8>) -> Result<(), RegistryError> {
        let actor = (self.node, self.epoch);
        // Many adds to one set are common, and to copy and measure it for each of them would be quadratic.
        let bytes = self.queue.set_bytes.get(&key).map(|bytes| bytes + Value::added_bytes(&member));
        if let Some(bytes) = bytes.filter(|bytes| *bytes <= VALUE_BYTES)
            && let Some(value) = self.queue.registry.get_mut(&key)
        {
            value.add(member, actor)?;
            self.queue.set_bytes.insert(key, bytes);
            return Ok(());
        }
        let value = self.registry.set_add(self.newest(&key), &key, member, actor)?;
        self.queue.set_bytes.insert(key.clone(), value.encode().len());
        self.queue.registry.insert(key, value);
        Ok(())
    }

    /// Queues removing a member from a registry set.
    ///
    /// # Errors
    /// The key holds a register.
    pub fn set_remove(&mut self, key: Key, member: &[u8]) -> Result<(), RegistryError> {
        if let Some(value) = self.queue.registry.get_mut(&key).filter(|value| value.is_set()) {
            value.remove(member);
        } else if let Some(value) = self.registry.set_remove(self.newest(&key), &key, member)? {
            self.queue.registry.insert(key, value);
        }
        Ok(())
    }

    /// Queues writing a registry register.
    ///
    /// # Errors
    /// A limit is exceeded.
    pub fn register_set(&mut self, key: Key, value: Vec<u8>, now: Now) -> Result<(), RegistryError> {
        let stamp = self.clock.tick(now.wall_ms);
        let value = self.registry.register_set(self.newest(&key), &key, value, stamp)?;
        self.queue.registry.insert(key, value);
        Ok(())
    }

    /// As [`Engine::register_set`], as of the time that another register was written at: whoever does the same later, or
    /// elsewhere, changes nothing, and what was written since stays. Without effect if there is no such register.
    ///
    /// # Errors
    /// See there.
    pub fn register_set_as_of(&mut self, of: &Key, key: Key, value: Vec<u8>) -> Result<(), RegistryError> {
        let Some(stamp) = self.newest_value(of).and_then(Value::stamp).copied() else { return Ok(()) };
        let value = self.registry.register_set(self.newest(&key), &key, value, stamp)?;
        self.queue.registry.insert(key, value);
        Ok(())
    }

    /// The value of a key, with changes that still wait for their commit.
    pub fn newest_value(&self, key: &Key) -> Option<&Value> {
        self.newest(key).or_else(|| self.registry.get(key))
    }

    /// Queues merging a value from another node. Whether it brings anything new.
    pub fn merge_registry(&mut self, key: Key, incoming: &Value) -> bool {
        if let Some(stamp) = incoming.stamp() {
            self.clock.observe(stamp);
        }
        let merged = self.registry.merged(self.newest(&key), &key, incoming);
        let news = merged.is_some();
        if let Some(value) = merged {
            self.queue.set_bytes.remove(&key);
            self.queue.registry.insert(key, value);
        }
        news
    }

    /// Queues forgetting a key whose meaning has gone for ever, such as the holders of a finished segment. The caller
    /// must refuse the key from then on, or a peer brings it back.
    pub fn unregister(&mut self, key: Key) {
        if self.newest_value(&key).is_some() {
            self.queue.set_bytes.remove(&key);
            self.queue.registry.remove(&key);
            self.queue.unregister.insert(key);
        }
    }

    /// The commit that will hold all that is queued by now, unless one is refused, or it is too much for one.
    pub fn barrier(&self) -> u64 {
        if self.queue.is_empty() { self.next_seq - 1 } else { self.next_seq }
    }

    /// Whether nothing about the segment waits for a commit: its state here is what the disk says.
    pub fn is_settled(&self, id: SegmentId) -> bool {
        let queue = &self.queue;
        let is_rewritten = |staged: &Staged| staged.rewritten.iter().any(|new| new.block.segment() == id);
        self.staged.as_ref().is_none_or(|staged| !staged.segments.contains_key(&id) && !is_rewritten(staged))
            && queue.blocks.range((id, 0, 0)..=(id, Slot::MAX, Slot::MAX)).next().is_none()
            && !(queue.removals.contains_key(&id) || queue.lengths.contains_key(&id))
            && !queue.given_up.contains_key(&id)
            && !(queue.damaged.contains_key(&id) || queue.drops.contains(&id) || queue.folds.contains(&id))
    }

    /// Tickets of the commit that is being written: only the planted mistake confirms these.
    #[cfg(feature = "mistakes")]
    pub fn staged_tickets(&self) -> Vec<Ticket> {
        self.staged.iter().flat_map(|staged| staged.units.iter().map(|(ticket, _)| *ticket)).collect()
    }

    /// The newest value of a key, committed or not: what a change must build on.
    fn newest(&self, key: &Key) -> Option<&Value> {
        self.queue.registry.get(key).or_else(|| self.staged.as_ref()?.registry.get(key))
    }

    /// Whether a newer value of a registry key waits for the next commit.
    pub fn is_key_queued(&self, key: &Key) -> bool {
        self.queue.registry.contains_key(key)
    }

    /// Members of a registry set, with changes that still wait for their commit.
    pub fn set_members(&self, key: &Key) -> Vec<Vec<u8>> {
        self.iter_members(key).map(<[u8]>::to_vec).collect()
    }

    /// The same, without copying them.
    pub fn iter_members<'a>(&'a self, key: &Key) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.newest_value(key).into_iter().flat_map(Value::iter_members)
    }

    /// Whether a set has a member, with changes that still wait for their commit.
    pub fn set_contains(&self, key: &Key, member: &[u8]) -> bool {
        self.newest_value(key).is_some_and(|set| set.contains(member))
    }

    /// The planted mistake: takes over knowledge without the bodies it vouches for.
    #[cfg(feature = "mistakes")]
    pub fn adopt_known(&mut self, id: SegmentId, state: &SegmentState) {
        self.queue.known_without_bodies.entry(id).or_default().union_with(&state.known);
    }

    /// Nothing to see here in a build without mistakes.
    #[cfg(not(feature = "mistakes"))]
    #[doc(hidden)]
    pub fn adopt_known(&mut self, _: SegmentId, _: &SegmentState) {}
}
