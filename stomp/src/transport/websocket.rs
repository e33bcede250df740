//! STOMP over WebSocket, RFC 6455, without IO.
//!
//! Towards us a WebSocket is only a way to carry bytes: what clients send is taken out of its frames as it comes in, and
//! handed on without waiting for the end of a message. So STOMP frames may be split over messages or joined in one, and
//! no more than what was read at once is ever held. Towards clients each STOMP frame is one message, which is what their
//! libraries expect: text when it is valid UTF-8, else binary.
//!
//! - `inbound.rs`: bytes of a socket to bytes of STOMP
//! - `outbound.rs`: bytes of STOMP to frames
//! - `upgrade.rs`: the HTTP request that begins it, and its answer
//! - `utf8.rs`: whether text that comes in pieces is UTF-8

mod inbound;
mod outbound;
mod upgrade;
mod utf8;

pub use inbound::{Event, Inbound, WebSocketError};
pub use outbound::{Outbound, Piece};
pub use upgrade::{MAX_REQUEST_BYTES, Upgrade, UpgradeError, refusal, upgrade};
