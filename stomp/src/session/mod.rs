//! One client's STOMP session as a state machine: bytes in, [`Request`]s for the broker out; the broker's answers in,
//! bytes out. Nothing is dispatched or stored here.
//!
//! How the broker drives it:
//! - `handle_bytes`, then `poll_request` until it has no more, and `poll_bytes` after anything that was called.
//! - After CONNECT nothing more is looked at until the broker has taken the [`Login`] ([`Session::poll_login`]) and said who
//!   it is ([`Session::admit`], or [`Session::error`]).
//! - Each [`Request`] carries a [`Ticket`]. Exactly one answer belongs to it: [`Session::receipt`] once it is done (for a
//!   publish: once it is confirmed), or [`Session::error`]. The session writes the RECEIPT if the client wanted one.
//! - DISCONNECT: its receipt is held back until every earlier ticket is answered, what `auto` subscriptions have written
//!   is flushed, and the acknowledgements of that are answered too; then the session closes by itself. So a client that
//!   waits for it knows that all it sent before is confirmed, and that what it got without acknowledging is its own.
//! - [`Session::deliver`] writes a MESSAGE. The session remembers it until the client acknowledges it; `auto`
//!   subscriptions acknowledge when [`Session::handle_flushed`] tells that its last byte went to the socket.
//! - When [`Session::should_close`] says so, flush what `poll_bytes` gives and close. Whatever was delivered and never
//!   came back in a [`Request::Ack`] (also what an open transaction holds) is then to be given to others.

mod commands;
mod error;
mod handshake;
mod heart_beat;
mod output;
mod request;
mod service;
mod subscriptions;
mod temps;
mod timing;
mod transactions;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rhizomq_engine::Now;

pub use crate::schedule::Schedule;
pub use error::SessionError;
pub use request::{
    AckItem, AckMode, Delivery, Fate, Lifetime, Login, Request, Send, Service, SessionConfig, SubKey, Ticket,
};

use crate::{
    frame::{Command, Decoder, Frame, Version},
    limits::Limits,
    users::Passcode,
};
use commands::Outcome;
use handshake::Handshake;
use heart_beat::HeartBeat;
use output::Output;
use subscriptions::Subscriptions;
use temps::Temps;
use transactions::Transactions;

/// Bytes that may wait while a login is checked.
const EARLY_BYTES: usize = 256 << 10;

/// A client's session, from the first byte to the last. See the module's text for how it is driven.
pub struct Session {
    config: SessionConfig,
    state: State,
    /// Once negotiated.
    version: Option<Version>,
    decoder: Decoder,
    /// When the first bytes came of the frame that is not whole.
    incoming_since: u64,
    heart_beat: HeartBeat,
    output: Output,
    requests: VecDeque<Request>,
    next_ticket: Ticket,
    /// Tickets without an answer, with the receipt that the client asked for.
    pending: BTreeMap<Ticket, Option<String>>,
}

enum State {
    /// Waits for CONNECT until this time.
    Connecting { until: u64 },
    /// CONNECT has come, and the broker is asked whether it lets the client in.
    Asking(Box<Asking>),
    /// Takes frames.
    Open(Box<Active>),
    /// DISCONNECT has come: takes no more frames, waits for the answers to earlier ones and for the socket.
    Leaving(Box<Leaving>),
    /// Over.
    Closed,
}

/// What a connected client has.
struct Active {
    version: Version,
    limits: Limits,
    subscriptions: Subscriptions,
    transactions: Transactions,
    temps: Temps,
    /// Of CONNECT: whose durable subscriptions it means.
    client_id: Option<String>,
}

struct Asking {
    /// Until the broker has taken it.
    login: Option<Login>,
    agreed: Handshake,
    client_id: Option<String>,
    until: u64,
}

struct Leaving {
    receipt: Option<String>,
    until: u64,
    /// All closed; `auto` deliveries may wait to be flushed.
    subscriptions: Subscriptions,
}

impl Session {
    /// For a connection that has just been accepted.
    pub fn new(now: Now, config: SessionConfig) -> Self {
        Self {
            state: State::Connecting { until: now.mono_ms.saturating_add(config.connect_timeout_ms) },
            version: None,
            decoder: Decoder::new(config.limits),
            incoming_since: now.mono_ms,
            heart_beat: HeartBeat::none(),
            output: Output::default(),
            requests: VecDeque::new(),
            next_ticket: Ticket(0),
            pending: BTreeMap::new(),
            config,
        }
    }

    /// Bytes from the client.
    pub fn handle_bytes(&mut self, now: Now, bytes: &[u8]) {
        let is_asking = matches!(self.state, State::Asking(_));
        if !is_asking && !self.takes_frames() {
            return;
        }
        self.heart_beat.received(now.mono_ms);
        if self.decoder.buffered() == 0 {
            self.incoming_since = now.mono_ms;
        }
        self.decoder.feed(bytes);
        if is_asking && self.decoder.buffered() > EARLY_BYTES {
            return self.fail(&SessionError::TooEarly { limit: EARLY_BYTES }, None);
        }
        self.take_frames(now);
    }

    fn take_frames(&mut self, now: Now) {
        while self.takes_frames() {
            match self.decoder.poll() {
                Ok(Some(frame)) => {
                    self.incoming_since = now.mono_ms;
                    self.handle_frame(now, frame);
                }
                Ok(None) => break,
                Err(error) => self.fail(&error.into(), None),
            }
        }
    }

    /// So many bytes of this session, in total, have been written to the socket: what was delivered with them to `auto`
    /// subscriptions counts as consumed.
    pub fn handle_flushed(&mut self, total: u64) {
        let items = match &mut self.state {
            State::Open(active) => active.subscriptions.flushed(total),
            State::Leaving(leaving) => leaving.subscriptions.flushed(total),
            State::Connecting { .. } | State::Asking(_) | State::Closed => return,
        };
        if !items.is_empty() {
            let ticket = self.next_ticket;
            self.ask(None, Request::Ack { ticket, items });
        }
    }

    /// The client is not read from any more, or again. Meanwhile its silence says nothing.
    pub fn handle_paused(&mut self, now: Now, paused: bool) {
        self.heart_beat.pause(now.mono_ms, paused);
    }

    /// Heart-beats, and the times allowed for CONNECT and for leaving. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Now) {
        let result = match &self.state {
            State::Closed => return,
            State::Connecting { until } if now.mono_ms >= *until => {
                Err(SessionError::ConnectTimeout { after_ms: self.config.connect_timeout_ms })
            }
            State::Asking(asking) if now.mono_ms >= asking.until => {
                Err(SessionError::LoginTimeout { after_ms: self.config.connect_timeout_ms })
            }
            State::Leaving(leaving) if now.mono_ms >= leaving.until => {
                let receipt = leaving.receipt.clone();
                let (waiting, after_ms) = (self.pending.len(), self.config.linger_ms);
                let error = match leaving.subscriptions.unflushed() {
                    messages if waiting == 0 => SessionError::NotTaken { messages, after_ms },
                    _ => SessionError::NotConfirmed { waiting, after_ms },
                };
                return self.fail(&error, receipt.as_deref());
            }
            State::Connecting { .. } | State::Asking(_) | State::Open(_) | State::Leaving(_) => {
                self.heart_beat.check(now.mono_ms)
            }
        };
        if let Err(error) = result {
            self.fail(&error, None);
        } else if self.heart_beat.is_due(now.mono_ms, self.output.written(), self.output.waiting()) {
            self.output.line_end();
        }
    }

    /// When `handle_timeout` is wanted next, on the monotonic clock; `u64::MAX`: never.
    pub fn deadline(&self) -> u64 {
        let state = match &self.state {
            State::Connecting { until } => *until,
            State::Asking(asking) => asking.until,
            State::Leaving(leaving) => leaving.until,
            State::Open(_) => u64::MAX,
            State::Closed => return u64::MAX,
        };
        state.min(self.heart_beat.deadline())
    }

    /// Who the client says it is, once it has said so: to be answered by [`Session::admit`] or [`Session::error`].
    pub fn poll_login(&mut self) -> Option<Login> {
        let State::Asking(asking) = &mut self.state else { return None };
        asking.login.take()
    }

    /// The broker lets the client in: CONNECTED goes out, and what the client has sent meanwhile is looked at.
    pub fn admit(&mut self, now: Now) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Asking(asking) => self.open(now, *asking),
            other => self.state = other,
        }
    }

    /// What the client wanted behind a request that was denied is not done.
    pub fn forget_requests(&mut self) {
        self.requests.clear();
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
        matches!(self.state, State::Closed)
    }

    /// Writes a MESSAGE. Returns the position of its end in the stream (compare `handle_flushed`), or `None` when the
    /// subscription is not there any more: the message is to be given to someone else.
    pub fn deliver(&mut self, sub: SubKey, delivery: Delivery<'_>) -> Option<u64> {
        let State::Open(active) = &mut self.state else { return None };
        let (id, ack) = active.subscriptions.headers(sub)?;
        let destination = active.subscriptions.temp_queue(sub).unwrap_or(delivery.destination);
        let count = delivery.count.map(|count| count.to_string());
        let position = self.output.frame(Command::Message, active.version, delivery.body, |mut head| {
            if let Some(id) = id {
                head = head.header("subscription", id);
            }
            head = head.header("message-id", delivery.message_id).header("destination", destination);
            if let Some(ack) = &ack {
                head = head.header("ack", ack);
            }
            if delivery.redelivered {
                head = head.header("redelivered", "true");
            }
            if let Some(count) = &count {
                head = head.header("delivery-count", count);
            }
            head.stored(delivery.head)
        });
        active.subscriptions.delivered(sub, delivery.message_id, position);
        Some(position)
    }

    /// Tells a client that looks through a queue that this was all, as ActiveMQ Classic does. Nothing if the subscription is not
    /// there any more.
    pub fn end_browse(&mut self, sub: SubKey) {
        let State::Open(active) = &mut self.state else { return };
        let Some((id, _)) = active.subscriptions.headers(sub) else { return };
        let destination = active.subscriptions.destination(sub).unwrap_or_default();
        self.output.frame(Command::Message, active.version, &Bytes::new(), |mut head| {
            if let Some(id) = id {
                head = head.header("subscription", id);
            }
            head.header("message-id", "0").header("destination", destination).header("browser", "end")
        });
    }

    /// The request is done. `extra` are headers for its RECEIPT, such as `copies`; without effect when the client asked
    /// for none. A ticket that is not waiting is ignored.
    pub fn receipt(&mut self, ticket: Ticket, extra: &[(&str, &str)]) {
        let Some(receipt) = self.pending.remove(&ticket) else { return };
        if self.should_close() {
            return;
        }
        self.put_receipt(receipt.as_deref(), extra);
        if let State::Leaving(leaving) = &mut self.state
            && self.pending.is_empty()
            && leaving.subscriptions.unflushed() == 0
        {
            let receipt = leaving.receipt.take();
            self.put_receipt(receipt.as_deref(), &[]);
            self.state = State::Closed;
        }
    }

    /// Ends the session with an ERROR frame: `message` is its short text, `body` says more. With the ticket of the
    /// request that failed, the client learns which of its receipts this stands for.
    pub fn error(&mut self, message: &str, body: &str, ticket: Option<Ticket>) {
        let receipt = ticket.and_then(|ticket| self.pending.remove(&ticket)).flatten();
        self.close_with_error(message, body, receipt.as_deref(), &[]);
    }

    /// Whether the client has sent DISCONNECT: it is owed what is written to it until the session closes, and after.
    pub fn is_leaving(&self) -> bool {
        matches!(self.state, State::Leaving(_) | State::Closed)
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

    /// Bytes that `poll_bytes` would give now. Stop delivering while there are too many.
    pub fn buffered(&self) -> u64 {
        self.output.waiting()
    }

    /// Deliveries to a subscription which the client has not acknowledged (or, `auto`, which are not flushed). What an
    /// open transaction holds is not among them.
    pub fn in_flight(&self, sub: SubKey) -> usize {
        match &self.state {
            State::Open(active) => active.subscriptions.in_flight(sub),
            _ => 0,
        }
    }

    /// Since when a frame is under way that has not come in whole, and how many bytes of it are held.
    pub fn incoming(&self) -> (u64, u64) {
        (self.incoming_since, self.decoder.buffered() as u64)
    }

    /// What the broker decided for this session.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    fn takes_frames(&self) -> bool {
        matches!(self.state, State::Connecting { .. } | State::Open(_))
    }

    fn handle_frame(&mut self, now: Now, frame: Frame) {
        if let State::Connecting { .. } = self.state {
            if let Err(error) = self.connect(now, &frame) {
                self.fail(&error, None);
            }
            return;
        }
        let receipt = frame.headers.get("receipt").map(str::to_owned);
        match self.handle_command(frame) {
            Ok(Outcome::Asked(request)) => self.ask(receipt, request),
            Ok(Outcome::AskedTwice(first, second)) => {
                self.ask(None, first);
                self.ask(receipt, second);
            }
            Ok(Outcome::Done) => self.put_receipt(receipt.as_deref(), &[]),
            Ok(Outcome::Leaving(request)) => {
                if let State::Open(active) = std::mem::replace(&mut self.state, State::Closed) {
                    let until = now.mono_ms.saturating_add(self.config.linger_ms);
                    let subscriptions = active.subscriptions;
                    self.state = State::Leaving(Box::new(Leaving { receipt, until, subscriptions }));
                }
                self.heart_beat.expect_nothing();
                self.ask(None, request);
            }
            Err(error) => self.fail(&error, receipt.as_deref()),
        }
    }

    fn connect(&mut self, now: Now, frame: &Frame) -> Result<(), SessionError> {
        let agreed = handshake::negotiate(now.mono_ms, &self.config, frame)?;
        let header = |name| frame.headers.get(name).filter(|value| !value.is_empty());
        let login =
            Login { name: header("login").map(str::to_owned), passcode: header("passcode").map(Passcode::claimed) };
        let client_id = header("client-id").map(str::to_owned);
        let until = now.mono_ms.saturating_add(self.config.connect_timeout_ms);
        self.state = State::Asking(Box::new(Asking { login: Some(login), agreed, client_id, until }));
        Ok(())
    }

    fn open(&mut self, now: Now, asking: Asking) {
        let (version, limits) = (asking.agreed.version, self.config.limits);
        self.version = Some(version);
        self.heart_beat = asking.agreed.heart_beat;
        // The client has waited for us.
        self.heart_beat.received(now.mono_ms);
        self.decoder.start_session(version);
        self.state = State::Open(Box::new(Active {
            version,
            limits,
            subscriptions: Subscriptions::new(version, limits.subscriptions),
            transactions: Transactions::new(limits),
            temps: Temps::new(self.config.replies.clone(), limits.subscriptions),
            client_id: asking.client_id,
        }));
        self.output.frame(Command::Connected, version, &Bytes::new(), |head| {
            asking.agreed.headers.iter().fold(head, |head, (name, value)| head.header(name, value))
        });
        self.take_frames(now);
    }

    /// Hands a request out under the next ticket, which it carries already.
    fn ask(&mut self, receipt: Option<String>, request: Request) {
        self.pending.insert(request.ticket(), receipt);
        self.next_ticket.0 += 1;
        self.requests.push_back(request);
    }

    fn put_receipt(&mut self, receipt: Option<&str>, extra: &[(&str, &str)]) {
        let (Some(receipt), Some(version)) = (receipt, self.version) else { return };
        self.output.frame(Command::Receipt, version, &Bytes::new(), |head| {
            extra.iter().fold(head.header("receipt-id", receipt), |head, (name, value)| head.header(name, value))
        });
    }

    fn fail(&mut self, error: &SessionError, receipt: Option<&str>) {
        let text = error.to_string();
        match error {
            SessionError::NoCommonVersion { .. } => {
                self.close_with_error(&text, &text, receipt, &[("version", "1.0,1.1,1.2")]);
            }
            _ => self.close_with_error(&text, &text, receipt, &[]),
        }
    }

    fn close_with_error(&mut self, message: &str, body: &str, receipt: Option<&str>, extra: &[(&str, &str)]) {
        if self.should_close() {
            return;
        }
        // Who has not agreed on a version may read escapes or may not: then there must be none.
        let message = if self.version.is_some() { message.to_owned() } else { message.replace('\\', "/") };
        let body = Bytes::from(format!("{body}\n"));
        self.output.frame(Command::Error, self.version.unwrap_or(Version::V1_0), &body, |mut head| {
            head = head.header("message", &message);
            if let Some(receipt) = receipt {
                head = head.header("receipt-id", receipt);
            }
            head = extra.iter().fold(head, |head, (name, value)| head.header(name, value));
            head.header("content-type", "text/plain")
        });
        self.state = State::Closed;
        // What it sent before is not undone, and the broker still answers the tickets it has.
        self.decoder = Decoder::new(self.config.limits);
    }
}
