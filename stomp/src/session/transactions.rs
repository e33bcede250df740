//! Open transactions: what was sent and acknowledged in them waits here for COMMIT or ABORT.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{AckItem, Fate, Send, SessionError, subscriptions::Settled};
use crate::limits::{Limits, TRANSACTION_ITEM_COST};

/// Shorter bodies are copied: a slice of the receive buffer would keep all of that buffer alive, and the limit would
/// not count it.
const COPY_BELOW: usize = 32 << 10;

/// What one transaction holds.
#[derive(Default)]
pub(super) struct Transaction {
    sends: Vec<Send>,
    /// Deliveries with their fate.
    settled: Vec<(Settled, Fate)>,
    bytes: usize,
}

impl Transaction {
    /// What COMMIT does.
    pub(super) fn into_unit(self) -> (Vec<Send>, Vec<AckItem>) {
        (self.sends, self.settled.into_iter().map(|(settled, fate)| settled.item(fate)).collect())
    }

    /// What ABORT gives back.
    pub(super) fn into_settled(self) -> Vec<Settled> {
        self.settled.into_iter().map(|(settled, _)| settled).collect()
    }
}

/// All of a session.
pub(super) struct Transactions {
    limits: Limits,
    open: BTreeMap<String, Transaction>,
    bytes: usize,
}

impl Transactions {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, open: BTreeMap::new(), bytes: 0 }
    }

    pub(super) fn begin(&mut self, id: &str) -> Result<(), SessionError> {
        if self.open.contains_key(id) {
            return Err(SessionError::DuplicateTransaction { id: id.to_owned() });
        }
        if self.open.len() >= self.limits.transactions {
            return Err(SessionError::TooManyTransactions { limit: self.limits.transactions });
        }
        self.open.insert(id.to_owned(), Transaction::default());
        Ok(())
    }

    /// Takes a transaction out, for COMMIT or ABORT.
    pub(super) fn end(&mut self, id: &str) -> Result<Transaction, SessionError> {
        let transaction = self.open.remove(id).ok_or_else(|| SessionError::UnknownTransaction { id: id.to_owned() })?;
        self.bytes -= transaction.bytes;
        Ok(transaction)
    }

    /// What all that are open hold, since they end by the client's leaving.
    pub(super) fn abort_all(&mut self) -> Vec<Settled> {
        self.bytes = 0;
        std::mem::take(&mut self.open).into_values().flat_map(Transaction::into_settled).collect()
    }

    /// Whether it is open; an ACK must know before it takes deliveries out of their table.
    pub(super) fn check(&self, id: &str) -> Result<(), SessionError> {
        if self.open.contains_key(id) { Ok(()) } else { Err(SessionError::UnknownTransaction { id: id.to_owned() }) }
    }

    pub(super) fn send(&mut self, id: &str, mut send: Send) -> Result<(), SessionError> {
        let transaction = self.charge(id, send.head.len() + send.body.len())?;
        if send.body.len() < COPY_BELOW {
            send.body = Bytes::copy_from_slice(&send.body);
        }
        transaction.sends.push(send);
        Ok(())
    }

    pub(super) fn settle(&mut self, id: &str, settled: Vec<Settled>, fate: Fate) -> Result<(), SessionError> {
        // The deliveries themselves only move here from their table, which the prefetch limits.
        let transaction = self.charge(id, 0)?;
        transaction.settled.extend(settled.into_iter().map(|settled| (settled, fate)));
        Ok(())
    }

    fn charge(&mut self, id: &str, bytes: usize) -> Result<&mut Transaction, SessionError> {
        let transaction =
            self.open.get_mut(id).ok_or_else(|| SessionError::UnknownTransaction { id: id.to_owned() })?;
        let bytes = bytes + TRANSACTION_ITEM_COST;
        if self.bytes + bytes > self.limits.transaction_bytes {
            return Err(SessionError::TransactionTooLarge { limit: self.limits.transaction_bytes });
        }
        self.bytes += bytes;
        transaction.bytes += bytes;
        Ok(transaction)
    }
}
