//! Leaving in order: no new requests; what was asked is answered, as far as that is soon; clients are told; the segment
//! is closed, so that peers need not wait for a life that ends here.

use rhizomq_engine::Now;

use super::{Broker, Output};

/// How far the shutdown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Not asked for.
    No,
    /// Waits for confirmations until this time.
    Answering(u64),
    /// Waits for clients to take their last bytes, until this time, and for the last commit.
    Closing(u64),
    /// All done.
    Done,
}

impl Stop {
    pub(super) fn takes_clients(self) -> bool {
        self == Self::No
    }

    pub(super) fn deadline(self) -> u64 {
        match self {
            Self::Answering(until) | Self::Closing(until) => until,
            Self::No | Self::Done => u64::MAX,
        }
    }
}

impl Broker {
    /// Begins to stop: [`Output::Stopped`] follows.
    pub fn shutdown(&mut self, now: Now) {
        if self.stop == Stop::No {
            self.stop = Stop::Answering(now.mono_ms + self.config.stop_patience_ms);
            self.turn(now);
        }
    }

    /// The store has failed: nothing that is under way will be confirmed. Clients are told why, and closed.
    pub fn abandon(&mut self, now: Now, why: &str) {
        for (&conn, client) in &mut self.clients {
            client.session.error("the node's disk failed", why, None);
            self.touched.insert(conn);
        }
        self.stop = Stop::Done;
        self.turn(now);
    }

    pub(super) fn proceed_with_stop(&mut self, now: Now) {
        if let Stop::Answering(until) = self.stop {
            if !self.is_answered() && now.mono_ms < until {
                return;
            }
            for (&conn, client) in &mut self.clients {
                client.session.error("the node is shutting down", "Connect to another node, or again later.", None);
                self.touched.insert(conn);
            }
            self.node.close(now);
            self.stop = Stop::Closing(now.mono_ms + self.config.stop_patience_ms);
        }
        if let Stop::Closing(until) = self.stop
            && self.node.is_quiet()
            && (self.clients.is_empty() || now.mono_ms >= until)
        {
            self.stop = Stop::Done;
            self.outputs.push_back(Output::Stopped);
        }
    }
}
