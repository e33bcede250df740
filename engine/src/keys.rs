//! The rows of the store: a prefix byte per key space, big-endian numbers, so that byte order is the order we scan in.
//! The prefix bytes are permanent.
//!
//! | prefix | key | value |
//! |---|---|---|
//! | `M` | name | meta: this node's present life |
//! | `S` | segment | [`SegmentRow`]: known, length, removed prefix |
//! | `R` | segment, page number | removed slots of that page above the prefix |
//! | `B` | segment, first slot | a [`Block`](crate::Block) |
//! | `O` | segment, first slot | an [`Outline`](crate::engine) of the block under the same name |
//! | `G` | registry key | a registry value |
//! | `X` | node, epoch | a [`RetiredLife`](crate::RetiredLife): what is over of that life |

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{Epoch, NodeId, RangeSet, SegmentId, Slot};

/// Version byte of the values in this module; registry values and blocks carry their own.
pub(crate) const VERSION: u8 = 2;

pub(crate) const META: u8 = b'M';
pub(crate) const SEGMENT: u8 = b'S';
pub(crate) const REMOVED: u8 = b'R';
pub(crate) const BLOCK: u8 = b'B';
pub(crate) const OUTLINE: u8 = b'O';
pub(crate) const REGISTRY: u8 = b'G';
pub(crate) const RETIRED: u8 = b'X';

const SEGMENT_LEN: usize = 16 + 8 + 4;

/// The row of a replica, without its removed pages and blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentRow {
    pub(crate) known: RangeSet,
    pub(crate) length: Option<Slot>,
    /// All slots up to this one are removed.
    pub(crate) removed_prefix: Slot,
}

/// The node's present life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LifeRow {
    pub(crate) node: NodeId,
    pub(crate) epoch: Epoch,
    /// For people: when it started, in Unix milliseconds.
    pub(crate) started_ms: u64,
}

/// A row does not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Not a key of this table.
    #[error("malformed key")]
    Key,
    /// Written by another version of the program.
    #[error("row format version {0} is unknown here; this program reads version {VERSION}")]
    Version(u8),
    /// The bytes are not of the layout.
    #[error("malformed value")]
    Value,
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_extend(value, vec![VERSION]).expect("rows hold only numbers, bytes and ranges").into()
}

pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, RowError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| RowError::Value),
        Some((&other, _)) => Err(RowError::Version(other)),
        None => Err(RowError::Value),
    }
}

pub(crate) fn meta(name: &str) -> Bytes {
    [&[META], name.as_bytes()].concat().into()
}

pub(crate) fn registry(key: &[u8]) -> Bytes {
    [&[REGISTRY], key].concat().into()
}

pub(crate) fn segment(id: SegmentId) -> Bytes {
    segment_prefix(SEGMENT, id).freeze()
}

pub(crate) fn removed(id: SegmentId, page: u32) -> Bytes {
    numbered(REMOVED, id, page)
}

pub(crate) fn block(id: SegmentId, first: Slot) -> Bytes {
    numbered(BLOCK, id, first)
}

pub(crate) fn outline(id: SegmentId, first: Slot) -> Bytes {
    numbered(OUTLINE, id, first)
}

/// Whether values under this key end in the blake3 hash of what comes before.
pub(crate) fn is_sealed(key: &[u8]) -> bool {
    key.first() == Some(&BLOCK)
}

/// Whether the value says what is known and consumed, and not what that is.
pub(crate) fn is_mark(key: &[u8]) -> bool {
    matches!(key.first(), Some(&(SEGMENT | REMOVED | RETIRED)))
}

pub(crate) fn retired(node: NodeId, epoch: Epoch) -> Bytes {
    let mut key = BytesMut::with_capacity(25);
    key.put_u8(RETIRED);
    key.put_slice(&node.0);
    key.put_u64(epoch.0);
    key.freeze()
}

/// The whole key space of one prefix, as bounds of a scan.
pub(crate) fn space(prefix: u8) -> ([u8; 1], [u8; 1]) {
    ([prefix], [prefix + 1])
}

pub(crate) fn parse_segment(key: &[u8]) -> Result<SegmentId, RowError> {
    let (id, rest) = split_segment(key)?;
    if rest.is_empty() { Ok(id) } else { Err(RowError::Key) }
}

/// Segment and number of a `R`, `B` or `O` key.
pub(crate) fn parse_numbered(key: &[u8]) -> Result<(SegmentId, u32), RowError> {
    let (id, rest) = split_segment(key)?;
    Ok((id, u32::from_be_bytes(rest.try_into().map_err(|_| RowError::Key)?)))
}

pub(crate) fn parse_retired(key: &[u8]) -> Result<(NodeId, Epoch), RowError> {
    let rest = key.get(1..).filter(|rest| rest.len() == 24).ok_or(RowError::Key)?;
    let (node, epoch) = rest.split_at(16);
    let epoch = u64::from_be_bytes(epoch.try_into().map_err(|_| RowError::Key)?);
    Ok((NodeId(node.try_into().map_err(|_| RowError::Key)?), Epoch(epoch)))
}

fn segment_prefix(prefix: u8, id: SegmentId) -> BytesMut {
    let mut key = BytesMut::with_capacity(1 + SEGMENT_LEN + 4);
    key.put_u8(prefix);
    key.put_slice(&id.node.0);
    key.put_u64(id.epoch.0);
    key.put_u32(id.number);
    key
}

fn numbered(prefix: u8, id: SegmentId, number: u32) -> Bytes {
    let mut key = segment_prefix(prefix, id);
    key.put_u32(number);
    key.freeze()
}

fn split_segment(key: &[u8]) -> Result<(SegmentId, &[u8]), RowError> {
    let rest = key.get(1..).filter(|rest| rest.len() >= SEGMENT_LEN).ok_or(RowError::Key)?;
    let (node, rest) = rest.split_at(16);
    let (epoch, rest) = rest.split_at(8);
    let (number, rest) = rest.split_at(4);
    let id = SegmentId {
        node: NodeId(node.try_into().map_err(|_| RowError::Key)?),
        epoch: Epoch(u64::from_be_bytes(epoch.try_into().map_err(|_| RowError::Key)?)),
        number: u32::from_be_bytes(number.try_into().map_err(|_| RowError::Key)?),
    };
    Ok((id, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids() -> impl Strategy<Value = (SegmentId, u32)> {
        (any::<[u8; 16]>(), any::<u64>(), any::<u32>(), any::<u32>())
            .prop_map(|(node, epoch, number, at)| (SegmentId { node: NodeId(node), epoch: Epoch(epoch), number }, at))
    }

    proptest! {
        #[test]
        fn keys_round_trip_and_keep_order(a in ids(), b in ids()) {
            prop_assert_eq!(parse_numbered(&block(a.0, a.1)), Ok(a));
            prop_assert_eq!(parse_segment(&segment(a.0)), Ok(a.0));
            prop_assert_eq!(parse_retired(&retired(a.0.node, a.0.epoch)), Ok((a.0.node, a.0.epoch)));
            prop_assert_eq!(block(a.0, a.1).cmp(&block(b.0, b.1)), a.cmp(&b));
        }

        #[test]
        fn arbitrary_keys_and_values_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (parse_segment(&bytes), parse_numbered(&bytes), parse_retired(&bytes));
            let _ = (decode::<SegmentRow>(&bytes), decode::<LifeRow>(&bytes), decode::<RangeSet>(&bytes));
        }
    }
}
