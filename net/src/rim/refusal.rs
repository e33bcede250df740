//! Why a connection ends: the codes that go over the wire, with a text for people.

use std::{fmt, net::SocketAddr};

use quinn::{Connection, ConnectionError, VarInt};

/// The longest text that goes along with a code, in bytes.
const MAX_TEXT_BYTES: usize = 200;

/// Why a connection was closed. The numbers are part of the protocol for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// The process ends, in good order.
    ShuttingDown = 1,
    /// The proof of the network secret is wrong: another network.
    WrongSecret = 2,
    /// No protocol version that both ends speak.
    NoCommonVersion = 3,
    /// A node dialled itself.
    SelfConnection = 4,
    /// There is another link between the two nodes already.
    Duplicate = 5,
    /// Too many connections are being established.
    Busy = 6,
    /// The handshake took too long.
    TooSlow = 7,
    /// The peer does not keep to the protocol.
    Malformed = 8,
    /// The core has closed the link.
    Closed = 9,
    /// More was to be sent than may wait.
    Overflow = 10,
    /// A newer link to the same node takes its place.
    Replaced = 11,
    /// A code that this program does not know.
    Unknown = 0,
}

impl CloseCode {
    const ALL: [Self; 11] = [
        Self::ShuttingDown,
        Self::WrongSecret,
        Self::NoCommonVersion,
        Self::SelfConnection,
        Self::Duplicate,
        Self::Busy,
        Self::TooSlow,
        Self::Malformed,
        Self::Closed,
        Self::Overflow,
        Self::Replaced,
    ];

    fn from_wire(code: VarInt) -> Self {
        Self::ALL.into_iter().find(|known| *known as u64 == code.into_inner()).unwrap_or(Self::Unknown)
    }

    /// Whether trying again soon can't help: someone has to change something first.
    pub(super) fn needs_people(self) -> bool {
        matches!(self, Self::WrongSecret | Self::NoCommonVersion | Self::SelfConnection | Self::Malformed)
    }
}

/// A reason to close a connection, ours or the peer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// For programs.
    pub code: CloseCode,
    /// For people. Comes from the peer if the peer closed, and is then only as true as the peer is.
    pub text: String,
}

impl Farewell {
    pub(super) fn new(code: CloseCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// What the peer has said, if it was the peer who closed the connection.
    pub(super) fn of_peer(error: &ConnectionError) -> Option<Self> {
        let ConnectionError::ApplicationClosed(close) = error else { return None };
        let text = String::from_utf8_lossy(&close.reason[..close.reason.len().min(MAX_TEXT_BYTES)]);
        // A log line stays one line, whatever a peer sends.
        let text = text.chars().filter(|char| !char.is_control()).collect::<String>();
        Some(Self::new(CloseCode::from_wire(close.error_code), text))
    }

    /// Closes the connection, and tells the peer why.
    pub(super) fn close(&self, connection: &Connection) {
        // The other end takes care of half a character.
        let text = &self.text.as_bytes()[..self.text.len().min(MAX_TEXT_BYTES)];
        connection.close(VarInt::from_u32(self.code as u32), text);
    }
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A connection that did not become a link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HandshakeError {
    /// We refuse the peer.
    #[error("refused: {0}")]
    Refused(Farewell),
    /// The peer refuses us.
    #[error("refused by the peer: {0}")]
    RefusedByPeer(Farewell),
    /// Nobody there, or the connection broke.
    #[error("{0}")]
    Lost(String),
}

impl HandshakeError {
    pub(super) fn refuse(code: CloseCode, text: impl Into<String>) -> Self {
        Self::Refused(Farewell::new(code, text))
    }

    /// Whether trying again soon can't help.
    pub(super) fn needs_people(&self) -> bool {
        match self {
            Self::Refused(farewell) | Self::RefusedByPeer(farewell) => farewell.code.needs_people(),
            Self::Lost(_) => false,
        }
    }

    /// What people should hear about, and programs too: which address, who refused, why. A duplicate is everyday.
    pub(super) fn refusal(&self, remote: SocketAddr) -> Option<Refused> {
        let (by_peer, farewell) = match self {
            Self::Refused(farewell) => (false, farewell),
            Self::RefusedByPeer(farewell) => (true, farewell),
            Self::Lost(_) => return None,
        };
        let everyday = matches!(farewell.code, CloseCode::Duplicate | CloseCode::ShuttingDown | CloseCode::Replaced);
        (!everyday).then(|| Refused { remote, by_peer, farewell: farewell.clone() })
    }
}

impl From<ConnectionError> for HandshakeError {
    fn from(error: ConnectionError) -> Self {
        match Farewell::of_peer(&error) {
            Some(farewell) => Self::RefusedByPeer(farewell),
            None => Self::Lost(error.to_string()),
        }
    }
}

/// A connection was refused, by this node or by the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The peer's address.
    pub remote: SocketAddr,
    /// The peer refused this node; otherwise this node refused the peer.
    pub by_peer: bool,
    /// Why.
    pub farewell: Farewell,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.by_peer { "refused this node" } else { "is refused" };
        write!(f, "{} {who}: {}", self.remote, self.farewell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire_and_strangers_are_unknown() {
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_wire(VarInt::from_u32(code as u32)), code);
        }
        for stranger in [0, 12, u32::MAX] {
            assert_eq!(CloseCode::from_wire(VarInt::from_u32(stranger)), CloseCode::Unknown);
        }
    }

    #[test]
    fn a_hostile_text_stays_one_short_line() {
        let reason = bytes::Bytes::from(format!("a\nb\x1b[2J{}\u{ff}", "é".repeat(500)));
        let close = quinn::ApplicationClose { error_code: VarInt::from_u32(2), reason };
        let farewell = Farewell::of_peer(&ConnectionError::ApplicationClosed(close)).unwrap();
        assert_eq!(farewell.code, CloseCode::WrongSecret);
        assert!(farewell.text.starts_with("ab[2Jé") && farewell.text.len() < 210, "{}", farewell.text);
    }
}
