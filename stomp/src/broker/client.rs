//! A client's session, and the order of its answers.

use std::collections::BTreeMap;

use rhizomq_engine::Now;

use super::logins::Admission;
use crate::{
    limits::Limits,
    session::{Session, Ticket},
};

/// Bytes a socket may be behind before its consumers get no new credit.
const BUSY_BYTES: u64 = 256 << 10;

/// One connection.
pub(super) struct Client {
    pub(super) session: Session,
    pub(super) admission: Admission,
    /// Bytes written to the socket.
    flushed: u64,
    /// Since when bytes wait and none is written.
    unread_since: Option<u64>,
    /// Bytes of messages sent by it whose fate is open.
    pub(super) unconfirmed: u64,
    /// Told to close.
    pub(super) closing: bool,
    /// As noted in the broker's table; `u64::MAX` if it is not there.
    pub(super) deadline: u64,
    /// Requests in order; answered ones wait here for those before them.
    tickets: BTreeMap<Ticket, Option<Answer>>,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Disks that hold the messages, where that was the question.
    pub(super) copies: Option<u32>,
}

impl Client {
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
            admission: Admission::default(),
            flushed: 0,
            unread_since: None,
            unconfirmed: 0,
            closing: false,
            deadline: u64::MAX,
            tickets: BTreeMap::new(),
        }
    }

    /// Bytes that the session has written and the socket has not.
    pub(super) fn unflushed(&self) -> u64 {
        self.session.emitted().saturating_sub(self.flushed)
    }

    /// So many bytes in total have been written to the socket.
    pub(super) fn handle_flushed(&mut self, now: Now, total: u64) {
        if total > self.flushed {
            self.flushed = total;
            self.unread_since = (self.unflushed() > 0).then_some(now.mono_ms);
        }
        self.session.handle_flushed(total);
    }

    /// The session may have written something. Ends it if the client does not read what it asked for: that must not wait
    /// here for ever, nor what it holds.
    pub(super) fn check_unread(&mut self, now: Now) {
        if self.unflushed() == 0 || self.session.should_close() {
            self.unread_since = None;
            return;
        }
        let since = *self.unread_since.get_or_insert(now.mono_ms);
        let Limits { unread_ms, unread_bytes, .. } = self.session.config().limits;
        let waiting = self.unflushed();
        if waiting <= unread_bytes && now.mono_ms < since.saturating_add(unread_ms) {
            return;
        }
        let text = format!("{waiting} bytes wait to be read, none was for {} ms", now.mono_ms.saturating_sub(since));
        tracing::warn!(session = self.session.config().session, "a client does not read and is cut off: {text}");
        self.session.error("you do not read what you are sent", &text, None);
        self.unread_since = None;
    }

    /// When the client is to be looked at.
    pub(super) fn next_deadline(&self) -> u64 {
        let unread_ms = self.session.config().limits.unread_ms;
        let unread = self.unread_since.map_or(u64::MAX, |since| since.saturating_add(unread_ms));
        self.session.deadline().min(unread)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.unflushed() > BUSY_BYTES
    }

    /// A request has come; its answer will not go out before those of earlier ones.
    pub(super) fn asked(&mut self, ticket: Ticket) {
        self.tickets.insert(ticket, None);
    }

    /// A request is done.
    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let Some(place) = self.tickets.get_mut(&ticket) else { return };
        *place = Some(answer);
        while let Some(entry) = self.tickets.first_entry() {
            let Some(answer) = *entry.get() else { return };
            let ticket = entry.remove_entry().0;
            match answer.copies {
                Some(copies) => self.session.receipt(ticket, &[("copies", &copies.to_string())]),
                None => self.session.receipt(ticket, &[]),
            }
        }
    }

    /// A request failed: the session ends.
    pub(super) fn fail(&mut self, ticket: Ticket, message: &str, body: &str) {
        self.tickets.remove(&ticket);
        self.session.error(message, body, Some(ticket));
    }
}
