//! A block: the messages of one group commit, encoded once.
//!
//! The same bytes are the unit of commit, disk and wire. They end in the blake3 hash of what comes before, so a block
//! vouches for itself wherever it travels. Slots are numbered inbox by inbox, in the order of publishing inside each:
//! an inbox has one run of slots per block, and indexes stay small.
//!
//! A block of which most is consumed can be rewritten to its *remnant*: the same block, under the same name, with the
//! bodies of some of its slots. Small neighbours can be *gathered* into one block, which has slots out of several. Holders
//! rewrite as they please; where two of them have different parts, a third can have the union (`gather.rs`).
//!
//! Layout: `postcard(BlockV1)`, or `postcard(PartV2)`, followed by 32 bytes of hash. The version comes first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Dot, RangeSet, SegmentId, Slot, limits};

mod gather;

pub(crate) const WHOLE: u8 = 1;
pub(crate) const REMNANT: u8 = 2;
pub(crate) const GATHERED: u8 = 3;
const HASH_LEN: usize = 32;
const FLAG_PERSISTENT: u8 = 1;

/// What a producer publishes: one body, owed to each of `inboxes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is to wait; each takes one slot. Never empty.
    pub inboxes: Vec<String>,
    /// The upper layer's header section, opaque here.
    pub head: Bytes,
    /// The body.
    pub body: Bytes,
    /// Whether its confirmation waits for backups (`true`) or for the local disk alone.
    pub persistent: bool,
}

impl Entry {
    /// A message for one inbox, without a head, for the local disk and whoever merges.
    pub fn new(inbox: &str, body: impl Into<Bytes>) -> Self {
        Self { inboxes: vec![inbox.to_owned()], head: Bytes::new(), body: body.into(), persistent: true }
    }

    /// Bytes that count against the limits.
    pub fn size(&self) -> usize {
        self.head.len() + self.body.len() + self.inboxes.iter().map(String::len).sum::<usize>()
    }
}

/// A message as it waits in one inbox. The parts are slices of the block: cloning copies nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The inbox.
    pub inbox: Arc<str>,
    /// The upper layer's header section.
    pub head: Bytes,
    /// The body.
    pub body: Bytes,
    /// As published.
    pub persistent: bool,
}

/// A message where it lies in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageRef<'a> {
    /// The upper layer's header section.
    pub head: &'a [u8],
    /// The body.
    pub body: &'a [u8],
    /// As published.
    pub persistent: bool,
}

/// The bytes are not a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Damaged on disk or in memory.
    #[error("the block's hash does not match its bytes")]
    Hash,
    /// Written by a newer program.
    #[error("block format version {0} is unknown here; this program reads versions 1 to 3")]
    Version(u8),
    /// Hash right, content wrong: the writer was broken.
    #[error("malformed block: {0}")]
    Malformed(&'static str),
}

#[derive(Serialize, Deserialize)]
struct BlockV1<'a> {
    version: u8,
    segment: SegmentId,
    first: Slot,
    #[serde(borrow)]
    runs: Vec<RunV1<'a>>,
    #[serde(borrow)]
    messages: Vec<MessageV1<'a>>,
}

#[derive(Serialize, Deserialize)]
struct RunV1<'a> {
    inbox: &'a str,
    messages: Vec<u32>,
}

/// Part of a block, or of version 3 parts of several: the runs tell their slots.
#[derive(Serialize, Deserialize)]
struct PartV2<'a> {
    version: u8,
    segment: SegmentId,
    first: Slot,
    last: Slot,
    #[serde(borrow)]
    runs: Vec<RunV2<'a>>,
    #[serde(borrow)]
    messages: Vec<MessageV1<'a>>,
}

#[derive(Serialize, Deserialize)]
struct RunV2<'a> {
    inbox: &'a str,
    slots: RangeSet,
    /// One for each slot.
    messages: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
struct MessageV1<'a> {
    flags: u8,
    #[serde(with = "serde_bytes")]
    head: &'a [u8],
    #[serde(with = "serde_bytes")]
    body: &'a [u8],
}

/// The slots of one inbox in a block, in the order of publishing: dense, but for a remnant.
#[derive(Clone, Debug)]
pub struct Run {
    /// The inbox.
    pub inbox: Arc<str>,
    /// Its slots; at least one.
    pub slots: RangeSet,
    messages: Vec<u32>,
}

/// Where a message's parts lie in the block's bytes: a cached block should not weigh much more than those.
#[derive(Clone, Debug)]
struct Stored {
    flags: u8,
    head: (u32, u32),
    body: (u32, u32),
}

/// A decoded block; its parts are slices of its bytes.
#[derive(Clone, Debug)]
pub struct Block {
    bytes: Bytes,
    segment: SegmentId,
    first: Slot,
    last: Slot,
    slots: RangeSet,
    runs: Vec<Run>,
    messages: Vec<Stored>,
}

impl Block {
    /// Encodes `entries` as the block of `segment` that begins at slot `first`.
    ///
    /// # Panics
    /// If the entries have no inbox at all: a block covers at least one slot.
    pub fn build(segment: SegmentId, first: Slot, entries: &[Entry]) -> Self {
        let mut runs: Vec<RunV1<'_>> = Vec::new();
        let (mut run_of, mut run) = (BTreeMap::new(), 0);
        for (index, entry) in entries.iter().enumerate() {
            for inbox in &entry.inboxes {
                // Mostly it is the inbox of the message before.
                if runs.get(run).is_none_or(|run| run.inbox != inbox) {
                    run = *run_of.entry(inbox.as_str()).or_insert_with(|| {
                        runs.push(RunV1 { inbox, messages: Vec::with_capacity(entries.len() - index) });
                        runs.len() - 1
                    });
                }
                runs[run].messages.push(index as u32);
            }
        }
        assert!(!runs.is_empty(), "a block without an obligation");
        let messages = entries
            .iter()
            .map(|entry| MessageV1 {
                flags: if entry.persistent { FLAG_PERSISTENT } else { 0 },
                head: &entry.head,
                body: &entry.body,
            })
            .collect();
        let size: usize = entries.iter().map(|entry| entry.size() + 16).sum();
        Self::sealed(&BlockV1 { version: WHOLE, segment, first, runs, messages }, size + 128)
    }

    fn sealed(content: &impl Serialize, size: usize) -> Self {
        let mut bytes = postcard::to_extend(content, Vec::with_capacity(size))
            .expect("encoding into memory fails only for types postcard cannot express, and these it can");
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        Self::parse(Bytes::from(bytes)).expect("what was just encoded within the limits decodes")
    }

    /// Reads a block and checks its hash and inner consistency.
    ///
    /// # Errors
    /// Damage, an unknown version, or content that breaks a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, BlockError> {
        let content = bytes.len().checked_sub(HASH_LEN).ok_or(BlockError::Malformed("shorter than its hash"))?;
        if blake3::hash(&bytes[..content]).as_bytes()[..] != bytes[content..] {
            return Err(BlockError::Hash);
        }
        Self::parse(bytes)
    }

    /// Reads a block whose hash is known to be right.
    fn parse(bytes: Bytes) -> Result<Self, BlockError> {
        let content = bytes.len().checked_sub(HASH_LEN).ok_or(BlockError::Malformed("shorter than its hash"))?;
        if u32::try_from(content).is_err() {
            return Err(BlockError::Malformed("larger than 4 GiB"));
        }
        let raw = match bytes.first() {
            Some(&WHOLE) => read_whole(&bytes[..content])?,
            Some(&(REMNANT | GATHERED)) => exactly::<PartV2<'_>>(&bytes[..content])?,
            Some(&other) => return Err(BlockError::Version(other)),
            None => return Err(BlockError::Malformed("empty")),
        };
        if raw.first == 0 || raw.last > limits::SEGMENT_SLOTS {
            return Err(BlockError::Malformed("slots outside the segment"));
        }
        let is_gathered = raw.version == GATHERED;
        let mut inboxes = BTreeSet::new();
        let mut slots = RangeSet::new();
        let mut before = None;
        for run in &raw.runs {
            if run.inbox.len() > limits::INBOX_NAME_BYTES {
                return Err(BlockError::Malformed("inbox name too long"));
            }
            if run.messages.is_empty() || run.messages.iter().any(|&index| index as usize >= raw.messages.len()) {
                return Err(BlockError::Malformed("a run of slots names no message"));
            }
            if run.slots.len() != run.messages.len() as u64 {
                return Err(BlockError::Malformed("a run has not one message for each slot"));
            }
            // Only of several blocks do the runs lie among each other, and then each inbox has one.
            let in_order = if is_gathered { before < run.slots.first() } else { slots.last() < run.slots.first() };
            if run.slots.first() < Some(raw.first) || run.slots.last() > Some(raw.last) || !in_order {
                return Err(BlockError::Malformed("slots outside the block, or out of order"));
            }
            if is_gathered && !inboxes.insert(run.inbox) {
                return Err(BlockError::Malformed("two runs of one inbox"));
            }
            before = run.slots.first();
            slots.union_with(&run.slots);
        }
        if slots.len() != raw.runs.iter().map(|run| run.messages.len() as u64).sum() {
            return Err(BlockError::Malformed("a slot of two inboxes"));
        }
        if slots.is_empty() {
            return Err(BlockError::Malformed("no slots"));
        }
        let place = |part: &[u8]| {
            // An empty part may lie anywhere; the others are slices of the content, which is shorter than 4 GiB.
            let start = (part.as_ptr() as usize).saturating_sub(bytes.as_ptr() as usize);
            let start = if part.is_empty() { 0 } else { start as u32 };
            (start, start + part.len() as u32)
        };
        let stored = |message: &MessageV1<'_>| Stored {
            flags: message.flags,
            head: place(message.head),
            body: place(message.body),
        };
        let messages = raw.messages.iter().map(stored).collect();
        let run = |run: RunV2<'_>| Run { inbox: Arc::from(run.inbox), slots: run.slots, messages: run.messages };
        let runs = raw.runs.into_iter().map(run).collect();
        let (segment, first, last) = (raw.segment, raw.first, raw.last);
        Ok(Self { bytes, segment, first, last, slots, runs, messages })
    }

    /// The encoded form, hash included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The segment it belongs to.
    pub fn segment(&self) -> SegmentId {
        self.segment
    }

    /// Its first slot; also its name within the segment.
    pub fn first(&self) -> Slot {
        self.first
    }

    /// Its last slot; of a remnant, that of the whole block. No other block of the replica has a slot between the two.
    pub fn last(&self) -> Slot {
        self.last
    }

    /// The slots whose messages it has: all from the first to the last, but for one that was rewritten.
    pub fn slots(&self) -> &RangeSet {
        &self.slots
    }

    /// Its slots, inbox by inbox.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The message in a slot, if the slot is of this block.
    pub fn message(&self, slot: Slot) -> Option<Message> {
        let (run, index) = self.find(slot)?;
        Some(self.message_at(run, index))
    }

    /// Those messages of an inbox whose slots are in `slots`, in order, where they lie.
    pub fn messages<'a>(
        &'a self,
        inbox: &str,
        slots: &'a RangeSet,
    ) -> impl Iterator<Item = (Slot, MessageRef<'a>)> + use<'a> {
        let run = self.runs.iter().find(|run| *run.inbox == *inbox);
        let places = run.into_iter().flat_map(|run| run.slots.iter().zip(&run.messages));
        let mut wanted = slots.iter().peekable();
        places.filter_map(move |(slot, &index)| {
            while wanted.next_if(|next| *next < slot).is_some() {}
            wanted.next_if_eq(&slot).map(|slot| (slot, self.message_ref(index as usize)))
        })
    }

    fn message_ref(&self, index: usize) -> MessageRef<'_> {
        let stored = &self.messages[index];
        MessageRef {
            head: self.part(stored.head),
            body: self.part(stored.body),
            persistent: stored.flags & FLAG_PERSISTENT != 0,
        }
    }

    fn message_at(&self, run: &Run, index: usize) -> Message {
        let MessageRef { head, body, persistent } = self.message_ref(index);
        let (head, body) = (self.bytes.slice_ref(head), self.bytes.slice_ref(body));
        Message { inbox: run.inbox.clone(), head, body, persistent }
    }

    fn part(&self, (from, to): (u32, u32)) -> &[u8] {
        &self.bytes[from as usize..to as usize]
    }

    /// Bytes of memory that it takes, about.
    pub(crate) fn weight(&self) -> usize {
        let runs: usize = self.runs.iter().map(|run| 96 + 4 * run.messages.len()).sum();
        self.bytes.len() + self.messages.len() * size_of::<Stored>() + runs
    }

    /// Whether it is of several blocks, or of part of one.
    fn is_gathered(&self) -> bool {
        self.bytes.first() == Some(&GATHERED)
    }

    /// The run of a slot, and the place of its message.
    fn find(&self, slot: Slot) -> Option<(&Run, usize)> {
        let found = |run: &'_ Run| run.slots.rank(slot).map(|rank| run.messages[rank as usize] as usize);
        if self.is_gathered() {
            let around = |run: &&Run| run.slots.first() <= Some(slot) && run.slots.last() >= Some(slot);
            return self.runs.iter().filter(around).find_map(|run| Some((run, found(run)?)));
        }
        let run = self.runs[self.runs.partition_point(|run| run.slots.last() < Some(slot))..].first()?;
        Some((run, found(run)?))
    }

    /// The name of a slot of this block.
    pub fn dot(&self, slot: Slot) -> Dot {
        Dot { segment: self.segment, slot }
    }
}

/// Reads one value and nothing after it.
fn exactly<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, BlockError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(BlockError::Malformed("bytes after the end")),
        Err(_) => Err(BlockError::Malformed("not of the layout")),
    }
}

/// A whole block, as the remnant that has everything.
fn read_whole(bytes: &[u8]) -> Result<PartV2<'_>, BlockError> {
    let BlockV1 { segment, first, runs, messages, .. } = exactly(bytes)?;
    let outside = BlockError::Malformed("slots outside the segment");
    if first == 0 {
        return Err(outside);
    }
    let mut next = first;
    let mut all = Vec::with_capacity(runs.len().min(1024));
    for RunV1 { inbox, messages } in runs {
        let from = next;
        next = u32::try_from(messages.len()).ok().and_then(|count| from.checked_add(count)).ok_or(outside.clone())?;
        // A run without messages has no slots, and is refused for that.
        all.push(RunV2 { inbox, slots: RangeSet::from_range(from, next - 1), messages });
    }
    Ok(PartV2 { version: WHOLE, segment, first, last: next - 1, runs: all, messages })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Epoch, NodeId};

    const SEGMENT: SegmentId = SegmentId { node: NodeId([1; 16]), epoch: Epoch(2), number: 3 };

    fn entry(inboxes: &[&str], body: &str) -> Entry {
        Entry {
            inboxes: inboxes.iter().map(|name| (*name).to_owned()).collect(),
            head: Bytes::from_static(b"k:v\n"),
            body: Bytes::copy_from_slice(body.as_bytes()),
            persistent: true,
        }
    }

    #[test]
    fn slots_run_inbox_by_inbox_in_publishing_order() {
        let block = Block::build(SEGMENT, 5, &[entry(&["a", "b"], "1"), entry(&["b"], "2"), entry(&["a"], "3")]);
        let bodies: Vec<_> = (block.first()..=block.last())
            .map(|slot| block.message(slot).map(|m| (m.inbox.to_string(), m.body)).expect("dense"))
            .collect();
        let expected = [("a", "1"), ("a", "3"), ("b", "1"), ("b", "2")];
        assert_eq!(bodies, expected.map(|(inbox, body)| (inbox.to_owned(), Bytes::from(body))));
        assert_eq!((block.first(), block.last()), (5, 8));
        assert!(block.message(4).is_none() && block.message(9).is_none());
    }

    #[test]
    fn an_unknown_version_is_refused_by_name() {
        let mut bytes = Block::build(SEGMENT, 1, &[entry(&["a"], "1")]).bytes().to_vec();
        let content = bytes.len() - HASH_LEN;
        bytes[0] = 9;
        let hash = *blake3::hash(&bytes[..content]).as_bytes();
        bytes[content..].copy_from_slice(&hash);
        assert_eq!(Block::decode(bytes.into()).unwrap_err(), BlockError::Version(9));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(bodies in proptest::collection::vec(".{0,40}", 1..20), at in any::<usize>(), bit in 0..8u8) {
            let entries: Vec<_> = bodies.iter().map(|body| entry(&["q"], body)).collect();
            let mut bytes = Block::build(SEGMENT, 1, &entries).bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(Block::decode(bytes.into()).is_err());
        }

        #[test]
        fn a_remnant_has_its_slots_and_the_union_of_two_has_both(
            inboxes in proptest::collection::vec(proptest::sample::subsequence(vec!["a", "b", "c"], 1..=3), 1..12),
            one in proptest::collection::btree_set(1u32..40, 0..30),
            other in proptest::collection::btree_set(1u32..40, 0..30),
        ) {
            let entries: Vec<_> = inboxes.iter().enumerate().map(|(n, inboxes)| entry(inboxes, &n.to_string())).collect();
            let whole = Block::build(SEGMENT, 3, &entries);
            let same = |part: &Block| {
                prop_assert_eq!((part.segment(), part.first(), part.last()), (SEGMENT, 3, whole.last()));
                for slot in 1..=whole.last() + 1 {
                    let expected = whole.message(slot).filter(|_| part.slots().contains(slot));
                    prop_assert_eq!(part.message(slot), expected);
                }
                Ok(())
            };
            let [one, other]: [RangeSet; 2] = [one, other].map(|slots| slots.into_iter().collect());
            let [left, right] = [&one, &other].map(|keep| whole.remnant(keep));
            prop_assert_eq!(left.is_some(), !whole.slots().intersection(&one).is_empty());
            for part in left.iter().chain(&right) {
                same(part)?;
                let both = part.union(&whole).expect("one block");
                prop_assert_eq!(both.slots(), whole.slots());
            }
            if let (Some(left), Some(right)) = (left, right) {
                prop_assert_eq!(left.slots(), &whole.slots().intersection(&one));
                let both = left.union(&right).expect("of one block");
                same(&both)?;
                prop_assert_eq!(both.slots(), &left.slots().union(right.slots()));
                prop_assert!(both.bytes().len() <= left.bytes().len() + right.bytes().len());
            }
            prop_assert!(whole.union(&Block::build(SEGMENT, 4, &entries)).is_none());
        }

        #[test]
        fn garbage_with_a_right_hash_never_panics(mut content in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(version) = content.first_mut() { *version = 1 + *version % 3; }
            let hash = *blake3::hash(&content).as_bytes();
            content.extend_from_slice(&hash);
            let _ = Block::decode(content.into());
        }
    }
}
