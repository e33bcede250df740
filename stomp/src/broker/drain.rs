//! Leaving for good, as far as clients go: no new ones; those that are there finish what they have, are told, and are
//! closed; then the node beneath may leave, while this one still dispatches to consumers elsewhere.

use rhizomq_engine::Now;
use rhizomq_net::{CancelError, DrainStage, DrainStatus};

use super::{Broker, Output, stop::Stop};

/// What clients are told.
pub(super) const TOLD: &str = "the node is draining: it leaves the cluster for good";
pub(super) const ADVICE: &str = "Connect to another node, and send again there what has no receipt.";

/// How long a node that has left still answers whoever waits for that.
const LINGER_MS: u64 = 1_000;

/// Between two looks whether a node that has left still writes.
const QUIET_MS: u64 = 20;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    /// Not asked for.
    No,
    /// Waits until this time for confirmations, and for consumers to answer what they hold; they get nothing more.
    Finishing(u64),
    /// Waits until this time for clients to take their last bytes.
    Closing(u64),
    /// There are no clients.
    Empty,
    /// The node has left; the process ends at this time.
    Left(u64),
}

impl Drain {
    pub(super) fn is_on(self) -> bool {
        self != Self::No
    }

    pub(super) fn deadline(self) -> u64 {
        match self {
            Self::Finishing(until) | Self::Closing(until) | Self::Left(until) => until,
            Self::No | Self::Empty => u64::MAX,
        }
    }
}

impl Broker {
    /// Begins to leave the cluster for good, in order; [`Output::Stopped`] follows when nothing more is here that is not
    /// elsewhere. Asked again it only tells how far it is.
    pub fn drain(&mut self, now: Now) -> Option<DrainStatus> {
        if !self.drain.is_on() && self.stop == Stop::No {
            self.node.drain(now);
            self.begin_drain(now);
            self.turn(now);
        }
        self.node.drain_status()
    }

    /// Takes clients again.
    ///
    /// # Errors
    /// It is too late, or there is nothing to take back.
    pub fn cancel_drain(&mut self, now: Now) -> Result<(), CancelError> {
        self.node.cancel_drain(now)?;
        self.node.release(false);
        self.drain = Drain::No;
        for (&conn, client) in &self.clients {
            self.dispatch.set_busy(conn, client.is_busy());
        }
        self.turn(now);
        Ok(())
    }

    /// Also at the start of a life of which an earlier one began to drain.
    pub(super) fn begin_drain(&mut self, now: Now) {
        self.drain = Drain::Finishing(now.mono_ms.saturating_add(self.config.stop_patience_ms));
        self.clients.keys().for_each(|conn| self.dispatch.set_busy(*conn, true));
    }

    pub(super) fn proceed_with_drain(&mut self, now: Now) {
        if !self.drain.is_on() && self.stop == Stop::No && self.node.drain_stage() != DrainStage::No {
            self.begin_drain(now);
        }
        if let Drain::Finishing(until) = self.drain {
            let is_done = self.is_answered() && !self.dispatch.holds_any();
            if !is_done && now.mono_ms < until {
                return;
            }
            for (&conn, client) in &mut self.clients {
                client.session.error(TOLD, ADVICE, None);
                self.touched.insert(conn);
            }
            self.drain = Drain::Closing(now.mono_ms.saturating_add(self.config.stop_patience_ms));
        }
        if let Drain::Closing(until) = self.drain
            && (self.clients.is_empty() || now.mono_ms >= until)
        {
            self.drain = Drain::Empty;
        }
        if self.drain == Drain::Empty {
            self.node.release(self.is_answered());
        }
        if let Drain::Left(at) = self.drain
            && now.mono_ms >= at
            && self.stop == Stop::No
        {
            // News from others may be on their way to the disk.
            if self.node.is_quiet() {
                self.stop = Stop::Done;
                self.outputs.push_back(Output::Stopped);
            } else {
                self.drain = Drain::Left(now.mono_ms.saturating_add(QUIET_MS));
            }
        }
    }

    /// Whether this node dispatches nothing: what it holds is given up, or it may be consumed elsewhere long since.
    pub(super) fn is_retired(&self) -> bool {
        let is_leaving = matches!(self.drain, Drain::Empty | Drain::Left(_));
        is_leaving && self.node.drain_stage() >= DrainStage::Leaving || !self.node.may_serve()
    }

    /// Whether nobody waits for an answer of this node.
    pub(super) fn is_answered(&self) -> bool {
        self.published.is_empty()
            && self.moves.is_quiet()
            && self.acks.is_empty()
            && self.outbox.is_empty()
            && self.intake.is_empty()
            && self.duplicates.is_answered()
    }

    /// The node beneath holds nothing and is off the roster.
    pub(super) fn has_left(&mut self, now: Now) {
        self.drain = Drain::Left(now.mono_ms.saturating_add(LINGER_MS));
    }
}
