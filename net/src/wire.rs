//! What nodes say to each other on a link, after the handshake. Reliable and in order within a link; a link is all or
//! nothing, and whatever was under way when it fell is made good by anti-entropy.
//!
//! One byte of version, one of kind, then the content. Blocks and upper-layer messages travel as they are, without a copy.
//! The versions that two nodes speak are agreed on when their link comes up; the byte is what makes a mistake there an
//! error with a name.

use bytes::{BufMut, Bytes, BytesMut};
use rhizomq_engine::{RangeSet, Retired, SegmentId, SegmentState, Slot};
use serde::{Deserialize, Serialize};

use crate::registry_sync::RegistryMsg;

/// Version of all messages here. With a new one, raise the version in `link.rs` and add a fixture (`fixtures/README.md`).
pub(crate) const VERSION: u8 = 2;

const APP: u8 = 0;
const BLOCK: u8 = 1;
const CONTROL: u8 = 2;

/// Segments in one [`Control::Summary`].
pub(crate) const SUMMARY_SEGMENTS: usize = 10_000;

/// One message.
#[derive(Debug)]
pub(crate) enum Wire {
    /// For the layer above.
    App(Bytes),
    /// A block, pushed or asked for.
    Block(Bytes),
    /// Everything else.
    Control(Control),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Control {
    /// These slots were consumed.
    Removed { segment: SegmentId, slots: RangeSet },
    /// The sender has these slots on its disk now, or knows from its disk that they are consumed.
    Stored { segment: SegmentId, slots: RangeSet },
    /// Digests of what the receiver should hold too.
    Summary { registry: [u8; 32], retired: [u8; 32], segments: Vec<(SegmentId, [u8; 32])> },
    /// Whether the sender's disk takes blocks at present.
    Storing(bool),
    /// Registry reconciliation.
    Registry(RegistryMsg),
    /// Something that is over.
    Retired(Retired),
    /// All that the sender knows to be over; the receiver answers with what is missing.
    AllRetired(Retired),
    /// Asks for what the sender lacks of a segment; `have` is what it has on disk.
    Pull { segment: SegmentId, have: SegmentState },
    /// Ends the answer to a pull: consumed slots came before, blocks in between.
    Pulled { segment: SegmentId, length: Option<Slot>, more: bool },
    /// Asks whether the receiver durably holds all that the sender holds.
    Prove { segment: SegmentId, nonce: u64, state: SegmentState },
    /// It does.
    Proof { segment: SegmentId, nonce: u64 },
    /// The secret of the part that the receiver leaves with.
    Secret(Hidden),
    /// The sender's part of a cluster that is being split by this order sees the other part no more: all were ready.
    Parted(Vec<u8>),
    /// Answer to that: a merge has healed this split.
    Healed(u64),
    /// In place of a summary, when the receiver's last word agreed in all: one digest of all that a summary would tell.
    InStep([u8; 32]),
    /// The receiver has missed how it left with its part, which the sender is of: by these orders, and with that secret.
    Readmitted { orders: Vec<Vec<u8>>, secret: Hidden },
}

/// A secret, which is never printed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Hidden(pub(crate) [u8; 32]);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// Sent by another version of the program.
    #[error("the peer sent a message of version {0}; this program reads version {VERSION}")]
    Version(u8),
    /// Not of the layout.
    #[error("malformed message from the peer: {0}")]
    Malformed(&'static str),
}

pub(crate) fn app(payload: &[u8]) -> Bytes {
    tagged(APP, payload)
}

pub(crate) fn block(bytes: &[u8]) -> Bytes {
    tagged(BLOCK, bytes)
}

pub(crate) fn control(message: &Control) -> Bytes {
    postcard::to_extend(message, vec![VERSION, CONTROL]).expect("messages hold only numbers, bytes and ranges").into()
}

pub(crate) fn decode(bytes: Bytes) -> Result<Wire, WireError> {
    let (kind, content) = match &bytes[..] {
        [VERSION, kind, content @ ..] => (*kind, content),
        [VERSION] | [] => return Err(WireError::Malformed("cut short")),
        [other, ..] => return Err(WireError::Version(*other)),
    };
    match kind {
        APP => Ok(Wire::App(bytes.slice(2..))),
        BLOCK => Ok(Wire::Block(bytes.slice(2..))),
        CONTROL => match postcard::take_from_bytes(content) {
            Ok((message, [])) => Ok(Wire::Control(message)),
            Ok(_) => Err(WireError::Malformed("bytes after the end")),
            Err(_) => Err(WireError::Malformed("not of the layout")),
        },
        _ => Err(WireError::Malformed("unknown kind")),
    }
}

fn tagged(kind: u8, content: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(2 + content.len());
    bytes.put_u8(VERSION);
    bytes.put_u8(kind);
    bytes.put_slice(content);
    bytes.freeze()
}

#[cfg(test)]
mod fixtures;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_refused_by_name() {
        let mut bytes = control(&Control::Storing(true)).to_vec();
        assert!(matches!(decode(bytes.clone().into()), Ok(Wire::Control(Control::Storing(true)))));
        bytes[0] = 9;
        let error = decode(bytes.into()).unwrap_err();
        assert_eq!(error, WireError::Version(9));
        assert!(error.to_string().contains("version 9"), "{error}");
        for cut in [&[][..], &[VERSION], &[VERSION, 77]] {
            assert!(matches!(decode(Bytes::copy_from_slice(cut)), Err(WireError::Malformed(_))));
        }
    }
}
