//! What nodes say to each other on a link, after the handshake. Reliable and in order within a link; a link is all or
//! nothing, and whatever was under way when it fell is made good by anti-entropy.
//!
//! One byte of kind, then the content. Blocks and upper-layer messages travel as they are, without a copy.

use bytes::{BufMut, Bytes, BytesMut};
use rhizomq_engine::{RangeSet, Retired, SegmentId, SegmentState, Slot};
use serde::{Deserialize, Serialize};

use crate::registry_sync::RegistryMsg;

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
}

/// The bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message from the peer: {0}")]
pub(crate) struct WireError(&'static str);

pub(crate) fn app(payload: &[u8]) -> Bytes {
    tagged(APP, payload)
}

pub(crate) fn block(bytes: &[u8]) -> Bytes {
    tagged(BLOCK, bytes)
}

pub(crate) fn control(message: &Control) -> Bytes {
    postcard::to_extend(message, vec![CONTROL]).expect("messages hold only numbers, bytes and ranges").into()
}

pub(crate) fn decode(bytes: Bytes) -> Result<Wire, WireError> {
    let (&kind, content) = bytes.split_first().ok_or(WireError("empty"))?;
    match kind {
        APP => Ok(Wire::App(bytes.slice(1..))),
        BLOCK => Ok(Wire::Block(bytes.slice(1..))),
        CONTROL => match postcard::take_from_bytes(content) {
            Ok((message, [])) => Ok(Wire::Control(message)),
            Ok(_) => Err(WireError("bytes after the end")),
            Err(_) => Err(WireError("not of the layout")),
        },
        _ => Err(WireError("unknown kind")),
    }
}

fn tagged(kind: u8, content: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + content.len());
    bytes.put_u8(kind);
    bytes.put_slice(content);
    bytes.freeze()
}
