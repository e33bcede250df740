//! What the two ends of a link know of each other: the link's name, the peer's hello, and the hello's form on the wire.

use bytes::Bytes;
use rhizomq_engine::{Epoch, NodeId};
use serde::{Deserialize, Serialize};

/// The oldest version of the protocol between nodes that this program speaks.
pub const MIN_VERSION: u16 = 9;

/// The newest version of the protocol between nodes that this program speaks.
pub const MAX_VERSION: u16 = 9;

/// The longest name of a node, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 255;

/// The longest encoded hello, in bytes. What claims to be longer is refused before it is read.
pub const MAX_HELLO_BYTES: usize = 1024;

/// A link: one live connection with one peer. Chosen by the driver, never used twice in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What a peer has said of itself when a link came up. Its name for ever is proven by the TLS handshake and its right
/// to be here by the network secret; the rest is its word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// The peer, by the public key of its certificate.
    pub node: NodeId,
    /// The life of its process.
    pub epoch: Epoch,
    /// The name people gave it; at most [`MAX_NAME_BYTES`].
    pub name: String,
    /// Its wall clock in milliseconds since the Unix epoch when it sent the hello: a sample, for the hybrid clock.
    pub wall_ms: u64,
    /// Which network's secret it has proven to know.
    pub proven: Proven,
}

/// Which network's secret a peer has proven to know: the first of these that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proven {
    /// That of this node's own network.
    Own,
    /// Another one that is trusted.
    Trusted,
    /// Only one that was trusted until this node left with a part of its cluster: such a peer is told that, and no more.
    Former,
}

/// A hello that can't be understood, or is larger than it may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// More bytes than [`MAX_HELLO_BYTES`].
    #[error("the hello has {0} bytes, {MAX_HELLO_BYTES} are allowed")]
    TooLong(usize),
    /// The name is longer than [`MAX_NAME_BYTES`].
    #[error("the node's name has {0} bytes, {MAX_NAME_BYTES} are allowed: choose a shorter one")]
    NameTooLong(usize),
    /// The bytes are not a hello.
    #[error("the hello can't be decoded: {0}")]
    Malformed(#[from] postcard::Error),
}

/// The hello on the wire. New fields are added at the end, under a new protocol version.
#[derive(Serialize, Deserialize)]
struct WireHello<'a> {
    epoch: Epoch,
    name: &'a str,
    wall_ms: u64,
}

impl PeerHello {
    /// The wire form. The node itself is not in it: the certificate says that, and can't lie.
    ///
    /// # Errors
    /// A name that is too long.
    pub fn encode(&self) -> Result<Bytes, HelloError> {
        if self.name.len() > MAX_NAME_BYTES {
            return Err(HelloError::NameTooLong(self.name.len()));
        }
        let wire = WireHello { epoch: self.epoch, name: &self.name, wall_ms: self.wall_ms };
        Ok(postcard::to_stdvec(&wire)?.into())
    }

    /// Reads the wire form; `node` is what the certificate says, `proven` what the proofs have shown.
    ///
    /// # Errors
    /// Anything that [`PeerHello::encode`] would not have written.
    pub fn decode(node: NodeId, proven: Proven, bytes: &[u8]) -> Result<Self, HelloError> {
        if bytes.len() > MAX_HELLO_BYTES {
            return Err(HelloError::TooLong(bytes.len()));
        }
        let WireHello { epoch, name, wall_ms } = postcard::from_bytes(bytes)?;
        if name.len() > MAX_NAME_BYTES {
            return Err(HelloError::NameTooLong(name.len()));
        }
        Ok(Self { node, epoch, name: name.to_owned(), wall_ms, proven })
    }
}

/// The version two programs speak with each other: the newest that both know, or none.
pub fn common_version(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let newest = ours.1.min(theirs.1);
    (newest >= ours.0.max(theirs.0)).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str) -> PeerHello {
        PeerHello {
            node: NodeId([7; 16]),
            epoch: Epoch(u64::MAX),
            name: name.into(),
            wall_ms: 1_700_000_000_000,
            proven: Proven::Own,
        }
    }

    #[test]
    fn a_hello_survives_the_wire_and_limits_are_kept_on_both_ends() {
        let ours = hello("node-a ☂");
        assert_eq!(PeerHello::decode(ours.node, Proven::Own, &ours.encode().unwrap()), Ok(ours));
        assert_eq!(hello(&"x".repeat(256)).encode(), Err(HelloError::NameTooLong(256)));
        assert_eq!(PeerHello::decode(NodeId([0; 16]), Proven::Trusted, &[0; 1025]), Err(HelloError::TooLong(1025)));
        let long = postcard::to_stdvec(&WireHello { epoch: Epoch(1), name: &"x".repeat(256), wall_ms: 0 }).unwrap();
        assert_eq!(PeerHello::decode(NodeId([0; 16]), Proven::Trusted, &long), Err(HelloError::NameTooLong(256)));
        assert!(matches!(
            PeerHello::decode(NodeId([0; 16]), Proven::Trusted, &[1, 200, 1]),
            Err(HelloError::Malformed(_))
        ));
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        assert_eq!(common_version((1, 3), (2, 5)), Some(3));
        assert_eq!(common_version((1, 1), (1, 1)), Some(1));
        assert_eq!(common_version((1, 2), (3, 4)), None);
        assert_eq!(common_version((3, 4), (1, 2)), None);
    }
}
