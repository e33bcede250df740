//! A client's session, and the order of its answers.

use std::collections::BTreeMap;

use crate::session::{Session, Ticket};

/// Bytes a socket may be behind before its consumers get no new credit.
const BUSY_BYTES: u64 = 256 << 10;

/// One connection.
pub(super) struct Client {
    pub(super) session: Session,
    /// Bytes written to the socket.
    pub(super) flushed: u64,
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
        Self { session, flushed: 0, unconfirmed: 0, closing: false, deadline: u64::MAX, tickets: BTreeMap::new() }
    }

    /// Bytes that the session has written and the socket has not.
    pub(super) fn unflushed(&self) -> u64 {
        self.session.emitted().saturating_sub(self.flushed)
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
