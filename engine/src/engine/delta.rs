//! Bringing two engines together without the rest of Rhizomq.
//!
//! One tells what it has ([`Engine::summary`]), the other works out what that lacks ([`Engine::delta_for`]), and merging
//! it equals merging everything ([`Engine::merge`]). Both have a form in bytes, to travel by whatever there is. The rules
//! of merging are those that nodes of a cluster use: the retired set by union, removals before bodies, whole blocks, whole
//! registry values.
//!
//! In bytes each ends in a checksum, for one bit that flips on the way might consume a message, and nothing takes that back.
//! It tells of accidents, not of an enemy: who may send, and whether it was he, is for what carries the bytes.
//!
//! A summary names every registry key, which is simple: one question, one answer, and to an empty summary the answer is
//! everything. Where there are many keys and replicas meet often, an exchange in rounds costs less: see `exchange.rs`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Engine, EngineError};
use crate::{
    BlockError, RangeSet, Retired, SegmentId, SegmentState, Slot, limits,
    registry::{Key, RegistryError, Value, ValueError},
};

const VERSION: u8 = 2;
/// Programs of this version wrote no checksum. What they said is read all the same.
const UNCHECKED: u8 = 1;
/// Bytes of the checksum at the end.
const CHECKSUM: usize = 16;
const SUMMARY: u8 = b's';
const DELTA: u8 = b'd';

/// What an engine has, without contents: some 20 bytes per segment, two or three per range of its slots, and a key and a hash
/// for each registry value. With very many of those, [`Engine::exchange`] is the better way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub(super) retired: Retired,
    segments: BTreeMap<SegmentId, SegmentState>,
    /// Registry keys up to here are not asked for.
    after: Position,
    registry: BTreeMap<Vec<u8>, [u8; 32]>,
}

/// How far a delta got that did not hold everything. The default is the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position(Vec<u8>);

/// What an engine lacks that another has. In parts of some [`DELTA_BYTES`](limits::DELTA_BYTES).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// What is over.
    pub retired: Retired,
    /// Replicas with news.
    pub segments: BTreeMap<SegmentId, SegmentDelta>,
    /// Registry values.
    pub registry: Vec<(Key, Value)>,
    /// If it was too much for one delta: merge and commit this one, and ask again with [`Engine::summary_from`] here.
    pub more: Option<Position>,
}

/// The part of a delta that is about one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentDelta {
    /// Slots that were consumed.
    pub removed: RangeSet,
    /// The exact length, if that is news.
    pub length: Option<Slot>,
    /// Encoded blocks.
    pub blocks: Vec<Bytes>,
}

/// The bytes are no summary, or no delta.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// Written by another version of the program.
    #[error("summary or delta of version {0}, unknown here; this program reads version {VERSION}")]
    Version(u8),
    /// Cut short, or changed on the way. Ask again.
    #[error("summary or delta is not what was sent: its checksum is wrong")]
    Damaged,
    /// Not of the layout.
    #[error("malformed summary or delta")]
    Malformed,
    /// A registry key that can't be one.
    #[error(transparent)]
    Key(#[from] RegistryError),
    /// A registry value that can't be one.
    #[error(transparent)]
    Value(#[from] ValueError),
}

/// A delta was refused. What had been queued of it stays queued: each part is true by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a block of segment {segment} is refused: {source}")]
pub struct MergeError {
    /// The segment it came under.
    pub segment: SegmentId,
    /// What is wrong with the block.
    pub source: BlockError,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct WireDelta {
    retired: Retired,
    segments: BTreeMap<SegmentId, SegmentDelta>,
    registry: Vec<(Vec<u8>, Bytes)>,
    more: Option<Position>,
}

/// A delta about segments alone.
impl From<Delta> for WireDelta {
    fn from(Delta { retired, segments, .. }: Delta) -> Self {
        Self { retired, segments, registry: Vec::new(), more: None }
    }
}

/// As far as it is about segments.
impl From<WireDelta> for Delta {
    fn from(WireDelta { retired, segments, .. }: WireDelta) -> Self {
        Self { retired, segments, ..Self::default() }
    }
}

impl Summary {
    /// The form in bytes.
    pub fn encode(&self) -> Bytes {
        encode(SUMMARY, self)
    }

    /// Reads what [`Summary::encode`] wrote.
    ///
    /// # Errors
    /// [`DeltaError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DeltaError> {
        decode(SUMMARY, bytes)
    }

    fn state_of(&self, id: SegmentId) -> SegmentState {
        match (self.segments.get(&id), self.retired.folded(id)) {
            (Some(state), _) => state.clone(),
            (None, Some(slots)) => SegmentState { known: slots.clone(), removed: slots.clone(), length: None },
            (None, None) => SegmentState::default(),
        }
    }
}

impl Delta {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.retired.is_empty() && self.segments.is_empty() && self.registry.is_empty()
    }

    /// The form in bytes.
    pub fn encode(&self) -> Bytes {
        let registry = self.registry.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.encode())).collect();
        let Self { retired, segments, more, .. } = self.clone();
        encode(DELTA, &WireDelta { retired, segments, registry, more })
    }

    /// Reads what [`Delta::encode`] wrote. Blocks are checked when they are merged.
    ///
    /// # Errors
    /// [`DeltaError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DeltaError> {
        let WireDelta { retired, segments, registry, more } = decode(DELTA, bytes)?;
        let entry = |(key, value): (Vec<u8>, Bytes)| Ok((Key::from_bytes(&key)?, Value::decode(&value)?));
        let registry = registry.into_iter().map(entry).collect::<Result<_, DeltaError>>()?;
        Ok(Self { retired, segments, registry, more })
    }
}

impl Engine {
    /// What is here, as committed.
    pub fn summary(&self) -> Summary {
        self.summary_from(&Position::default())
    }

    /// What is here, to go on where the last delta stopped. Registry values before that are left out: one that differs is
    /// not always news, so it would come again.
    pub fn summary_from(&self, position: &Position) -> Summary {
        let rest = self.registry.hashes_after(&position.0);
        Summary {
            retired: self.retired.clone(),
            segments: self.replicas.iter().map(|(id, replica)| (*id, replica.state.clone())).collect(),
            after: position.clone(),
            registry: rest.map(|(key, hash)| (key.as_bytes().to_vec(), *hash)).collect(),
        }
    }

    /// What is here, as committed, and not there: what is consumed first, then blocks, then registry values, up to some
    /// [`DELTA_BYTES`](limits::DELTA_BYTES); see [`Delta::more`]. To an empty summary it is everything.
    ///
    /// # Errors
    /// The store failed, or a block is damaged: call [`Engine::forget_damaged`] with the dot that the error names, and ask
    /// again; the other may have it intact.
    pub fn delta_for(&self, there: &Summary) -> Result<Delta, EngineError> {
        self.delta_within(there, limits::DELTA_BYTES)
    }

    pub(crate) fn delta_within(&self, there: &Summary, limit: usize) -> Result<Delta, EngineError> {
        let mut delta = Delta { retired: self.retired.delta(&there.retired), ..Delta::default() };
        let mut bytes = 0;
        let more = self.segments_delta(there, None, limit, &mut bytes, &mut delta)?;
        delta.more = more.map(|_| there.after.clone());
        let rest = self.registry.hashes_after(&there.after.0);
        for (key, _) in rest.filter(|(key, hash)| there.registry.get(key.as_bytes()) != Some(*hash)) {
            if bytes >= limit {
                let last = delta.registry.last().map(|(key, _)| Position(key.as_bytes().to_vec()));
                delta.more = delta.more.or(last).or_else(|| Some(there.after.clone()));
                break;
            }
            let Some(value) = self.registry.get(key) else { continue };
            bytes += key.as_bytes().len() + value.encode().len();
            delta.registry.push((key.clone(), value.clone()));
        }
        Ok(delta)
    }

    /// Adds what the segments have that those there lack, from a block on, until there are `limit` bytes. Given back is the
    /// block that did not fit any more.
    pub(super) fn segments_delta(
        &self,
        there: &Summary,
        from: Option<(SegmentId, Slot)>,
        limit: usize,
        bytes: &mut usize,
        delta: &mut Delta,
    ) -> Result<Option<(SegmentId, Slot)>, EngineError> {
        let mut more = None;
        let not_before = |id: SegmentId| from.is_none_or(|(first, _)| first <= id);
        let wanted = |id: SegmentId| not_before(id) && !there.retired.is_finished(id);
        for (&id, replica) in self.replicas.iter().filter(|(id, _)| wanted(**id)) {
            let news = replica.state.delta(&there.state_of(id));
            let mut part = SegmentDelta { removed: news.removed, length: news.length, blocks: Vec::new() };
            let start = from.filter(|(first, _)| *first == id).map_or(0, |(_, slot)| slot);
            // By where they end: a block may have grown together with the one before it since the last part.
            let is_left = |first: &Slot| replica.blocks.get(first).is_some_and(|meta| meta.last >= start);
            for first in self.blocks_with(id, &news.known).into_iter().filter(is_left) {
                if *bytes >= limit {
                    more = more.or(Some((id, first)));
                    break;
                }
                let Some(block) = self.block(id, first)? else { continue };
                *bytes += block.bytes().len();
                part.blocks.push(block.bytes().clone());
            }
            if part != SegmentDelta::default() {
                delta.segments.insert(id, part);
            }
        }
        Ok(more)
    }

    /// What is here of segments, without the registry.
    pub(super) fn segments_summary(&self) -> Summary {
        let states = self.replicas.iter().map(|(id, replica)| (*id, &replica.state));
        // One of which nothing is left, after damage, is nothing to tell.
        let told = states.filter(|(_, state)| **state != SegmentState::default());
        let segments = told.map(|(id, state)| (id, state.clone())).collect();
        Summary { retired: self.retired.clone(), segments, ..Summary::default() }
    }

    /// Queues what another engine has and this one lacks. Merging is commutative, associative and idempotent: deltas may
    /// come in any order, any number of times, and from any replica.
    ///
    /// # Errors
    /// A block is damaged, or claims slots that only this engine can fill.
    pub fn merge(&mut self, delta: Delta) -> Result<(), MergeError> {
        self.merge_retired(&delta.retired);
        for (key, value) in &delta.registry {
            self.merge_registry(key.clone(), value);
        }
        for (segment, part) in delta.segments {
            self.merge_removed(segment, &part.removed);
            for bytes in part.blocks {
                self.merge_block(bytes).map_err(|source| MergeError { segment, source })?;
            }
            if let Some(length) = part.length {
                self.merge_length(segment, length);
            }
        }
        Ok(())
    }
}

/// Layout: version, kind, postcard, checksum: the first half of blake3 over all before.
pub(super) fn encode<T: Serialize>(kind: u8, value: &T) -> Bytes {
    let invariant = "ranges, numbers and bytes always encode into memory";
    let mut bytes = postcard::to_extend(value, vec![VERSION, kind]).expect(invariant);
    let checksum = blake3::hash(&bytes);
    bytes.extend(&checksum.as_bytes()[..CHECKSUM]);
    bytes.into()
}

pub(super) fn decode<'a, T: Deserialize<'a>>(kind: u8, bytes: &'a [u8]) -> Result<T, DeltaError> {
    let content = match bytes.first() {
        Some(&VERSION) => {
            let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(DeltaError::Malformed)?;
            if blake3::hash(content).as_bytes()[..CHECKSUM] != *checksum {
                return Err(DeltaError::Damaged);
            }
            content
        }
        Some(&UNCHECKED) => bytes,
        Some(&other) => return Err(DeltaError::Version(other)),
        None => return Err(DeltaError::Malformed),
    };
    match content {
        [_, found, rest @ ..] if *found == kind => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            _ => Err(DeltaError::Malformed),
        },
        _ => Err(DeltaError::Malformed),
    }
}
