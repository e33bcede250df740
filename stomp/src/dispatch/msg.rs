//! What the dispatch parts of two nodes say to each other, and its bytes.
//!
//! A message is a byte of version and `postcard(DispatchMsg)`, followed by the raw header section and body where it carries any: reading it
//! copies neither.

use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};
use rhizomq_engine::{Dot, Epoch, RangeSet, SegmentId, Slot};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{browse::Place, groups::Holding};

/// With a new one, raise the version of the protocol between nodes and add a fixture (`net/fixtures/README.md`).
pub(crate) const VERSION: u8 = 1;

/// The name of an inbox or topic, shared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(pub(crate) Arc<str>);

/// One message from one node to another, or from a node to itself. Between two nodes they arrive in order, as long as
/// their link lasts; with the link both sides forget what they knew of each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DispatchMsg {
    /// To a new peer: the sender's present life, whose segments it owns without a claim.
    Life(Epoch),
    /// Edge to all: how many consumers each inbox has here; 0 ends the interest, and asks for `Closed`.
    Interest(Vec<(Name, u32)>),
    /// Owner to edge: its interest has ended; the counters of both sides begin anew with the next one.
    Closed { inbox: Name },
    /// Owner to edge: so many messages could be had now. `waiting: 0` takes all credit back: its `round` is a new one,
    /// and grants of older rounds don't count any more.
    Backlog { inbox: Name, waiting: u64, round: u32 },
    /// Edge to owner: the owner may send messages until it has sent `limit` of this inbox in total.
    Grant { inbox: Name, limit: u64, round: u32 },
    /// Edge to owner: bytes of messages received on this link, in total.
    Received { bytes: u64 },
    /// Owner to edge: a message for one of the inbox's consumers. `tag` tells this delivery from others of the same dot.
    Deliver { inbox: Name, dot: Dot, tag: u64, redelivered: bool, content: Content },
    /// Edge to owner: nobody here consumes it; give it to someone else.
    Release { dot: Dot, tag: u64 },
    /// To all: from now on the sender owns these. `firm`: it waits for an answer before it dispatches; otherwise it
    /// only repeats what should be known.
    Claim { segments: Vec<SegmentId>, firm: bool },
    /// Answer to a claim: slots that are in flight here (or acknowledged and not yet on disk) with the tags of their
    /// deliveries, what is consumed, and the highest slot that was delivered in place of the segment's writer, as far as
    /// the sender had a part in it; 0 if none was.
    Held { segment: SegmentId, removed: RangeSet, held: Vec<(Slot, u64)>, up_to: Slot },
    /// Answer to a firm claim: a node of higher rank is there and owns it.
    Denied { segment: SegmentId },
    /// To all: whether anyone listens to each topic here.
    Topics(Vec<(Name, bool)>),
    /// A message to a topic.
    Topic { topic: Name, id: String, content: Content },
    /// To all: what waits in segments that the sender owns, where it changed.
    Depths(Vec<(Name, Depth)>),
    /// Edge to owner: this delivery was refused, since the edge takes someone else for the segment's owner.
    Refused { dot: Dot, tag: u64 },
    /// To all: how much of what waits in segments that the sender owns another node took, where it changed.
    Adopted(Vec<(Name, u64)>),
    /// Edge to all: answer when all that was said before this is taken in, and the durable subscription that this inbox is
    /// of is known.
    Sync { number: u64, inbox: Option<Name> },
    /// The answer.
    Synced { number: u64 },
    /// Owner to edge: messages wait in these temporary queues of your clients; which of them are gone?
    Ask(Vec<Name>),
    /// The answer: those whose connection has ended.
    Gone(Vec<Name>),
    /// As `Deliver`, of a message that clients have given back for so many times.
    DeliverAgain { inbox: Name, dot: Dot, tag: u64, redelivered: bool, returns: u32, content: Content },
    /// Edge to owner: it was with a client, or was to be, and this came of it.
    Returned { dot: Dot, tag: u64, why: Return },
    /// To all: how many waiting messages that the sender looks after lack copies, when that changed.
    Lacking(u64),
    /// Edge to owner: show what waits in a queue, or view of one, behind this place; at most so many are to be looked at.
    Browse { number: u64, inbox: Name, after: Option<Place>, left: u64 },
    /// Owner to edge: one message of the page that was asked for.
    Browsed { number: u64, dot: Dot, content: Content },
    /// Owner to edge: that was the page. Where to go on, and how many are left to be looked at.
    PageEnd { number: u64, after: Option<Place>, left: u64 },
    /// Owner to edge: there are message groups in what is asked for here; each of its consumers is to ask for itself, too.
    Grouped { inbox: Name },
    /// Owner to all: which consumers of what is asked for here hold which groups.
    Holders { inbox: Name, holdings: Vec<Holding> },
}

/// Why a delivery comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Return {
    /// The client has gone, or gives it to somebody else.
    Given,
    /// The client does not want that anybody gets it.
    Rejected,
    /// It has expired on its way, by the edge's clock.
    Expired,
}

/// A message's stored header section and body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    head_len: u32,
    #[serde(skip)]
    pub(crate) head: Bytes,
    #[serde(skip)]
    pub(crate) body: Bytes,
}

/// How full an inbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Depth {
    /// Messages not consumed, those in flight included.
    pub(crate) depth: u64,
    /// Messages that an edge holds.
    pub(crate) in_flight: u64,
}

/// A peer sent something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a dispatch message can't be read ({0}); both nodes should run the same version")]
pub(crate) struct BadMessage(String);

impl Content {
    pub(crate) fn new(head: Bytes, body: Bytes) -> Self {
        // Header sections are bounded to far less than 4 GiB by the limits on frames.
        Self { head_len: head.len() as u32, head, body }
    }

    /// Bytes of both parts.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

impl DispatchMsg {
    /// The bytes to send.
    pub(crate) fn encode(&self) -> Bytes {
        // Writing to a growing vector can't fail; a value that could not be serialised would be a bug of this module,
        // and an empty message is refused by every reader.
        let head = postcard::to_extend(self, vec![VERSION]).unwrap_or_default();
        let Some(content) = self.content() else { return head.into() };
        let mut bytes = BytesMut::with_capacity(head.len() + content.len());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&content.head);
        bytes.extend_from_slice(&content.body);
        bytes.freeze()
    }

    /// Reads what [`DispatchMsg::encode`] wrote; header section and body are slices of `bytes`.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, BadMessage> {
        let content = match bytes.split_first() {
            Some((&VERSION, content)) => content,
            Some((other, _)) => {
                return Err(BadMessage(format!("it has version {other}, this program reads {VERSION}")));
            }
            None => return Err(BadMessage("it is empty".to_owned())),
        };
        let (mut message, rest) =
            postcard::take_from_bytes::<Self>(content).map_err(|error| BadMessage(error.to_string()))?;
        let start = bytes.len() - rest.len();
        match message.content_mut() {
            None if rest.is_empty() => Ok(message),
            None => Err(BadMessage(format!("{} bytes too many", rest.len()))),
            Some(content) => {
                let body = start.saturating_add(content.head_len as usize);
                if body > bytes.len() {
                    return Err(BadMessage("the header section is cut short".to_owned()));
                }
                content.head = bytes.slice(start..body);
                content.body = bytes.slice(body..);
                Ok(message)
            }
        }
    }

    fn content(&self) -> Option<&Content> {
        match self {
            Self::Deliver { content, .. }
            | Self::DeliverAgain { content, .. }
            | Self::Topic { content, .. }
            | Self::Browsed { content, .. } => Some(content),
            _ => None,
        }
    }

    fn content_mut(&mut self) -> Option<&mut Content> {
        match self {
            Self::Deliver { content, .. }
            | Self::DeliverAgain { content, .. }
            | Self::Topic { content, .. }
            | Self::Browsed { content, .. } => Some(content),
            _ => None,
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&Arc<str>> for Name {
    fn from(name: &Arc<str>) -> Self {
        Self(Arc::clone(name))
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&str>::deserialize(deserializer).map(|name| Self(name.into()))
    }
}

#[cfg(test)]
mod fixtures;

#[cfg(test)]
mod tests {
    use rhizomq_engine::NodeId;

    use super::*;

    fn deliver() -> DispatchMsg {
        let segment = SegmentId { node: NodeId([1; 16]), epoch: Epoch(2), number: 3 };
        let content = Content::new(Bytes::from_static(b"a:b\n"), Bytes::from_static(b"body"));
        let inbox = Name("/queue/a".into());
        DispatchMsg::Deliver { inbox, dot: Dot { segment, slot: 4 }, tag: 5, redelivered: true, content }
    }

    #[test]
    fn messages_survive_and_contents_are_not_copied() {
        let bytes = deliver().encode();
        let read = DispatchMsg::decode(&bytes).unwrap();
        assert_eq!(read, deliver());
        let DispatchMsg::Deliver { content, .. } = read else { panic!() };
        assert!(bytes.as_ptr_range().contains(&content.body.as_ptr()));

        let grant = DispatchMsg::Grant { inbox: Name("q".into()), limit: 1 << 40, round: 7 };
        assert_eq!(DispatchMsg::decode(&grant.encode()), Ok(grant));
    }

    #[test]
    fn what_is_cut_or_prolonged_is_refused() {
        let bytes = deliver().encode();
        for end in 0..bytes.len() - "body".len() {
            assert!(DispatchMsg::decode(&bytes.slice(..end)).is_err(), "{end}");
        }
        let mut long = DispatchMsg::Received { bytes: 1 }.encode().to_vec();
        long.push(0);
        assert!(DispatchMsg::decode(&long.into()).is_err());
        assert!(DispatchMsg::decode(&Bytes::new()).is_err());
        let mut newer = deliver().encode().to_vec();
        newer[0] = 9;
        let error = DispatchMsg::decode(&newer.into()).unwrap_err().to_string();
        assert!(error.contains("version 9"), "{error}");
    }
}
