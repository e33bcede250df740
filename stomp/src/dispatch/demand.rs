//! An owner's side of credit: what each edge may be sent, and what it thinks that there is.

use std::{collections::BTreeMap, sync::Arc};

/// Bytes of messages that may be on the way to one edge: a fraction of what a link's queue takes.
const WINDOW_BYTES: u64 = 8 << 20;

/// What is agreed with one edge for one inbox; see `edge.rs` for the counting.
#[derive(Default)]
pub(super) struct Credit {
    pub(super) limit: u64,
    pub(super) sent: u64,
    /// What the edge thinks that we have for it.
    pub(super) told: u64,
    pub(super) round: u32,
}

/// One edge, as long as its link lasts.
#[derive(Default)]
pub(super) struct EdgeState {
    pub(super) credits: BTreeMap<Arc<str>, Credit>,
    /// Bytes of messages, in total.
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Credit {
    /// Whether one more may be sent.
    pub(super) fn is_open(&self) -> bool {
        self.sent < self.limit
    }

    /// Whether the edge counts on this owner: by what it was told, or by places that it keeps for it.
    pub(super) fn is_told(&self) -> bool {
        self.told > 0 || self.is_open()
    }

    /// So much waits now. Whether the edge is to be told: always when it counts on something and nothing is left (that
    /// takes its credit back, in a new round), else when its picture is less than half of the truth.
    pub(super) fn tell(&mut self, waiting: u64, next_round: &mut u32) -> bool {
        if waiting == 0 {
            if !self.is_told() {
                return false;
            }
            self.round = *next_round;
            *next_round = next_round.wrapping_add(1);
            self.limit = self.sent;
        } else if self.told > waiting / 2 {
            return false;
        }
        self.told = waiting;
        true
    }
}

impl EdgeState {
    /// Whether it has to take in more before it gets more.
    pub(super) fn is_full(&self) -> bool {
        self.sent.saturating_sub(self.received) >= WINDOW_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_told_when_it_waits_in_vain_and_when_far_more_has_come() {
        let (mut credit, mut round) = (Credit::default(), 7);
        assert!(!credit.tell(0, &mut round), "it knows of nothing and granted nothing");
        assert!(credit.tell(3, &mut round));
        assert!(!credit.tell(5, &mut round));
        assert!(credit.tell(6, &mut round));
        credit.limit = 4;
        credit.sent = 1;
        assert!(credit.tell(0, &mut round));
        assert!(!credit.is_open() && credit.round == 7 && round == 8, "a new round, without credit");
    }
}
