//! One client's STOMP session as a state machine: bytes in, [`Request`]s for the broker out; the broker's answers in,
//! bytes out. Nothing is dispatched or stored here.
//!
//! How the broker drives it:
//! - `handle_bytes`, then `poll_request` until it has no more, and `poll_bytes` after anything that was called.
//! - Each [`Request`] carries a [`Ticket`]. Exactly one answer belongs to it: [`Session::receipt`] once it is done (for a
//!   publish: once it is confirmed), or [`Session::error`]. The session writes the RECEIPT if the client wanted one.
//! - DISCONNECT: its receipt is held back until every earlier ticket is answered, then the session closes by itself. So a
//!   client that waits for it knows that all it sent before is confirmed.
//! - [`Session::deliver`] writes a MESSAGE. The session remembers it until the client acknowledges it; `auto`
//!   subscriptions acknowledge when [`Session::handle_flushed`] tells that its last byte went to the socket.
//! - When [`Session::should_close`] says so, flush what `poll_bytes` gives and close. Whatever was delivered and never
//!   came back in a [`Request::Ack`] (also what an open transaction holds) is then to be given to others.

mod error;
mod output;
mod request;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
pub use error::SessionError;
use output::Output;
pub use request::{AckItem, AckMode, Delivery, Request, Send, SessionConfig, SubKey, Ticket};
use rhizomq_engine::Now;

use crate::frame::{Command, Decoder, Version};

/// A client's session, from the first byte to the last. See the module's text for how it is driven.
pub struct Session {
    config: SessionConfig,
    decoder: Decoder,
    output: Output,
    requests: VecDeque<Request>,
    /// Tickets without an answer, with the receipt that the client asked for.
    pending: BTreeMap<Ticket, Option<String>>,
    version: Option<Version>,
    closing: bool,
}

impl Session {
    /// For a connection that has just been accepted.
    pub fn new(_now: Now, config: SessionConfig) -> Self {
        Self {
            decoder: Decoder::new(config.limits),
            config,
            output: Output::default(),
            requests: VecDeque::new(),
            pending: BTreeMap::new(),
            version: None,
            closing: false,
        }
    }

    /// Bytes from the client.
    pub fn handle_bytes(&mut self, _now: Now, bytes: &[u8]) {
        self.decoder.feed(bytes);
    }

    /// So many bytes of this session, in total, have been written to the socket.
    pub fn handle_flushed(&mut self, _total: u64) {}

    /// Heart-beats and the time allowed for CONNECT. Harmless when called early.
    pub fn handle_timeout(&mut self, _now: Now) {}

    /// When `handle_timeout` is wanted next, on the monotonic clock; `u64::MAX`: never.
    pub fn deadline(&self) -> u64 {
        u64::MAX
    }

    /// What the client wants next.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// The next bytes to write to the socket.
    pub fn poll_bytes(&mut self) -> Option<Bytes> {
        self.output.take()
    }

    /// Whether to close the connection once the bytes from `poll_bytes` are written. No more input is taken.
    pub fn should_close(&self) -> bool {
        self.closing
    }

    /// Writes a MESSAGE. Returns the position of its end in the stream (compare `handle_flushed`), or `None` when the
    /// subscription is not there any more: the message is to be given to someone else.
    pub fn deliver(&mut self, _sub: SubKey, delivery: Delivery<'_>) -> Option<u64> {
        let version = self.version.filter(|_| !self.closing)?;
        Some(self.output.frame(Command::Message, version, delivery.body, |head| head.stored(delivery.head)))
    }

    /// The request is done. `extra` are headers for its RECEIPT, such as `copies`; without effect when the client asked
    /// for none. A ticket that is not waiting is ignored.
    pub fn receipt(&mut self, ticket: Ticket, _extra: &[(&str, &str)]) {
        self.pending.remove(&ticket);
    }

    /// Ends the session with an ERROR frame: `message` is its short text, `body` says more. With the ticket of the
    /// request that failed, the client learns which of its receipts this stands for.
    pub fn error(&mut self, _message: &str, _body: &str, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.pending.remove(&ticket);
        }
        self.closing = true;
    }

    /// The negotiated version, once the client has connected.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Requests without an answer. Stop reading from the client while there are too many.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// All bytes ever written by this session.
    pub fn emitted(&self) -> u64 {
        self.output.written()
    }

    /// Bytes that `poll_bytes` would give now.
    pub fn buffered(&self) -> u64 {
        self.output.waiting()
    }

    /// Deliveries to a subscription which the client has not acknowledged (or, `auto`, which are not flushed).
    pub fn in_flight(&self, _sub: SubKey) -> usize {
        0
    }

    /// What the broker decided for this session.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }
}
