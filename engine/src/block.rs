//! A block: the messages of one group commit, encoded once.
//!
//! The same bytes are the unit of commit, disk and wire. They end in the blake3 hash of what comes before, so a block
//! vouches for itself wherever it travels. Slots are numbered inbox by inbox, in the order of publishing inside each:
//! an inbox has one run of slots per block, and indexes stay small.
//!
//! Layout (version 1): `postcard(BlockV1)` followed by 32 bytes of hash.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Dot, SegmentId, Slot, limits};

const VERSION: u8 = 1;
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

/// The bytes are not a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Damaged on disk or in memory.
    #[error("the block's hash does not match its bytes")]
    Hash,
    /// Written by a newer program.
    #[error("block format version {0} is unknown here; this program reads version 1")]
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

#[derive(Serialize, Deserialize)]
struct MessageV1<'a> {
    flags: u8,
    #[serde(with = "serde_bytes")]
    head: &'a [u8],
    #[serde(with = "serde_bytes")]
    body: &'a [u8],
}

/// The slots of one inbox in a block: dense, in the order of publishing.
#[derive(Clone, Debug)]
pub struct Run {
    /// The inbox.
    pub inbox: Arc<str>,
    /// Its first slot.
    pub first: Slot,
    /// Its last slot.
    pub last: Slot,
    messages: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Stored {
    flags: u8,
    head: Bytes,
    body: Bytes,
}

/// A decoded block; its parts are slices of its bytes.
#[derive(Clone, Debug)]
pub struct Block {
    bytes: Bytes,
    segment: SegmentId,
    first: Slot,
    last: Slot,
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
        let mut run_of = std::collections::BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            for inbox in &entry.inboxes {
                let run = *run_of.entry(inbox.as_str()).or_insert_with(|| {
                    runs.push(RunV1 { inbox, messages: Vec::new() });
                    runs.len() - 1
                });
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
        let block = BlockV1 { version: VERSION, segment, first, runs, messages };
        let mut bytes = postcard::to_extend(&block, Vec::with_capacity(size + 128))
            .expect("encoding into memory fails only for types postcard cannot express, and these it can");
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        Self::decode(Bytes::from(bytes)).expect("what was just encoded within the limits decodes")
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
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(BlockError::Version(other)),
            None => return Err(BlockError::Malformed("empty")),
        }
        let (raw, rest) = postcard::take_from_bytes::<BlockV1<'_>>(&bytes[..content])
            .map_err(|_| BlockError::Malformed("not of the layout"))?;
        if !rest.is_empty() {
            return Err(BlockError::Malformed("bytes after the end"));
        }
        let mut next = raw.first;
        let mut runs = Vec::with_capacity(raw.runs.len());
        for run in raw.runs {
            if run.inbox.len() > limits::INBOX_NAME_BYTES {
                return Err(BlockError::Malformed("inbox name too long"));
            }
            if run.messages.is_empty() || run.messages.iter().any(|&index| index as usize >= raw.messages.len()) {
                return Err(BlockError::Malformed("a run of slots names no message"));
            }
            let first = next;
            next = u32::try_from(run.messages.len())
                .ok()
                .and_then(|count| next.checked_add(count))
                .filter(|&next| first > 0 && next <= limits::SEGMENT_SLOTS + 1)
                .ok_or(BlockError::Malformed("slots outside the segment"))?;
            runs.push(Run { inbox: Arc::from(run.inbox), first, last: next - 1, messages: run.messages });
        }
        if runs.is_empty() {
            return Err(BlockError::Malformed("no slots"));
        }
        let messages = raw
            .messages
            .iter()
            .map(|message| Stored {
                flags: message.flags,
                head: bytes.slice_ref(message.head),
                body: bytes.slice_ref(message.body),
            })
            .collect();
        let (segment, first, last) = (raw.segment, raw.first, next - 1);
        Ok(Self { bytes, segment, first, last, runs, messages })
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

    /// Its last slot.
    pub fn last(&self) -> Slot {
        self.last
    }

    /// Its slots, inbox by inbox.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The message in a slot, if the slot is of this block.
    pub fn message(&self, slot: Slot) -> Option<Message> {
        let run = self.runs.iter().find(|run| run.slots().contains(&slot))?;
        let stored = &self.messages[run.messages[(slot - run.first) as usize] as usize];
        Some(Message {
            inbox: run.inbox.clone(),
            head: stored.head.clone(),
            body: stored.body.clone(),
            persistent: stored.flags & FLAG_PERSISTENT != 0,
        })
    }

    /// The name of a slot of this block.
    pub fn dot(&self, slot: Slot) -> Dot {
        Dot { segment: self.segment, slot }
    }
}

impl Run {
    /// Its slots.
    pub fn slots(&self) -> Range<Slot> {
        self.first..self.last + 1
    }
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
        fn garbage_with_a_right_hash_never_panics(mut content in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(version) = content.first_mut() { *version = VERSION; }
            let hash = *blake3::hash(&content).as_bytes();
            content.extend_from_slice(&hash);
            let _ = Block::decode(content.into());
        }
    }
}
