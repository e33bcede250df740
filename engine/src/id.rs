//! Names of things: node, epoch, segment, slot, dot.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A slot number inside a segment, dense from 1. Zero is never a slot.
pub type Slot = u32;

/// A node's name for ever: the first 16 bytes of the blake3 hash of its Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 16]);

impl NodeId {
    /// The id that belongs to a public key.
    pub fn from_public_key(key: &[u8; 32]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(key).as_bytes()[..16]);
        Self(id)
    }

    /// An id for who has no key: a library user that tells its replicas apart by names. Two replicas must never have
    /// the same.
    pub fn from_name(name: &str) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::derive_key("rhizomq node id from a name", name.as_bytes())[..16]);
        Self(id)
    }
}

/// One life of a node's process: 64 fresh random bits. Compared for equality only; the derived order exists so that
/// epochs can be keys of ordered maps and says nothing about time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// A piece of one node's journal: what it accepted in one epoch, cut by size and age. Numbers are dense from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentId {
    /// The origin: the only node that ever appends to the segment.
    pub node: NodeId,
    /// The origin's life in which it did.
    pub epoch: Epoch,
    /// Position among the segments of that life, from 1.
    pub number: u32,
}

/// An OR-set element's name for ever: one delivery obligation. Also the STOMP `message-id`
/// (`<node hex>-<epoch hex>-<segment number>-<slot>`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// The segment.
    pub segment: SegmentId,
    /// The slot in it.
    pub slot: Slot,
}

/// The text is not an id of the expected form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}")]
pub struct ParseIdError {
    what: &'static str,
    text: String,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    /// Four bytes are enough to tell nodes apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let fail = || ParseIdError { what: "node id (32 hex digits)", text: text.to_owned() };
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(fail());
        }
        u128::from_str_radix(text, 16).map(|bits| Self(bits.to_be_bytes())).map_err(|_| fail())
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 32)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.node, self.epoch, self.number)
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}-{:?}-{}", self.node, self.epoch, self.number)
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.segment, self.slot)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}-{}", self.segment, self.slot)
    }
}

impl FromStr for Dot {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let parse = || {
            let mut parts = text.split('-');
            let node = parts.next()?.parse().ok()?;
            let epoch = Epoch(
                parts.next().filter(|part| part.len() == 16).and_then(|part| u64::from_str_radix(part, 16).ok())?,
            );
            let number = parts.next()?.parse().ok()?;
            let slot = parts.next()?.parse().ok().filter(|slot| *slot > 0)?;
            parts.next().is_none().then_some(Dot { segment: SegmentId { node, epoch, number }, slot })
        };
        parse().ok_or_else(|| ParseIdError { what: "message id", text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_survives_its_text_form_and_nothing_else_parses() {
        let segment = SegmentId { node: NodeId([0xab; 16]), epoch: Epoch(7), number: 3 };
        let dot = Dot { segment, slot: 12 };
        assert_eq!(dot.to_string().parse(), Ok(dot));
        for bad in ["", "x", "1-2-3-4", &format!("{segment}"), &format!("{segment}-0"), &format!("{dot}-1")] {
            assert!(bad.parse::<Dot>().is_err(), "{bad}");
        }
    }
}
