//! The rim: the only part of this crate that does IO. Keys and secrets in files, QUIC to the peers.
//!
//! A [`Rim`] turns connections into links and tells the core through [`RimEvents`]. A connection becomes a link when
//! both ends have proven who they are (TLS, `tls.rs`) and that they know a network secret (`handshake.rs`) that both trust
//! (`keyring.rs`); nothing else that a peer sends is parsed before. `table.rs` keeps one link per peer, `connection.rs` works on it, and
//! `dial.rs` never gives up on anyone.

mod check;
mod config;
mod connection;
mod dial;
mod endpoint;
mod events;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handshake;
mod identity;
mod keyfile;
mod keyring;
mod listen;
mod outbox;
mod quiet;
mod raw;
mod refusal;
mod secret;
mod secrets;
mod table;
mod tls;

pub use check::{KeyProblem, check_keys};
pub use config::{MAX_MESSAGE_BYTES, RimConfig};
pub use endpoint::{Rim, RimError, RimStats};
pub use events::{RimEvent, RimEvents};
pub use identity::{Identity, IdentityError};
pub use keyfile::KeyFileError;
pub use keyring::{Keyring, MAX_TRUSTED};
pub use raw::{RawError, raw_round_trips, raw_stream_throughput};
pub use refusal::{CloseCode, Farewell, Refused};
pub use secret::{NetworkSecret, SecretError};
pub use secrets::Secrets;
pub use tls::TlsError;

#[cfg(test)]
mod tests;
