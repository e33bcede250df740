//! Who stores what it is sent. A linked holder whose disk is full says so, and one whose disk hangs shows it by its
//! silence; confirmations wait for neither, and others are named in their place. Each may be wrong for a while: that costs
//! a lower number in a receipt, or a copy more.

use rhizomq_engine::{NodeId, Now};

use super::Node;
use crate::wire::Control;

/// Whether this node's disk takes blocks.
#[derive(Debug, Default)]
pub(super) struct Storing {
    /// Since when it does not.
    refused_at: Option<u64>,
}

impl Storing {
    pub(super) fn is_storing(&self) -> bool {
        self.refused_at.is_none()
    }
}

impl Node {
    /// A commit was refused, or one with blocks was written: peers hear of it if it is news.
    pub(super) fn tell_storing(&mut self, now: Now, storing: bool) {
        let was = self.storing.is_storing();
        self.storing.refused_at = (!storing).then_some(now.mono_ms);
        if was != storing {
            for peer in self.linked() {
                self.send_control(peer, &Control::Storing(storing));
            }
        }
    }

    pub(super) fn take_storing(&mut self, from: NodeId, storing: bool) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.storing = storing;
            self.confirm_ready();
        }
    }

    /// Looks who has fallen behind. And since whoever says that its disk is full may be sent nothing that would show the
    /// opposite, it hopes anew after a while.
    pub(super) fn look_at_storing(&mut self, now: Now) {
        let timing = self.config.timing;
        if self.storing.refused_at.is_some_and(|at| now.mono_ms >= at + timing.successor_ms) {
            self.tell_storing(now, true);
        }
        let mut changed = false;
        let waits = |segment, first, last| {
            self.engine.segment(segment).is_some_and(|state| !state.waiting_within(first, last).is_empty())
        };
        for peer in self.peers.values_mut() {
            peer.forget_pushed(waits);
            if !peer.stalled && peer.is_behind(now.mono_ms.saturating_sub(timing.stall_ms)) {
                (peer.stalled, changed) = (true, true);
            }
        }
        if changed {
            self.confirm_ready();
        }
    }
}
