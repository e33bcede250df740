//! Publishers that send again what they have sent: a message that carries an id of its own is taken once.
//!
//! - `mod.rs`: what an id is, and where it is kept
//! - [`memory`]: the ids that this node knows
//! - [`asks`]: asking others before a message is taken
//! - [`msg`]: what nodes say to each other about it
//!
//! The id is kept as a message of its own, in the block of the message that it is of: it waits in an inbox that no client can name,
//! until its time is over. So it is on the same disks, is confirmed, merged, split off and taken over with the message, is there
//! after a restart, and outlives the message's consumption; and no id is on a disk whose message is not, or was not.

pub(crate) mod asks;
pub(crate) mod memory;
pub(crate) mod msg;

use std::fmt;

use bytes::Bytes;
use rhizomq_engine::Entry;
use serde::{Deserialize, Serialize};

use crate::{destination::Destination, lane};

/// The headers that a publisher's id may be in, the first one that is there and not empty counts: Artemis's, and that of RabbitMQ's
/// plugin.
pub(crate) const HEADERS: [&str; 2] = ["_AMQ_DUPL_ID", "x-deduplication-header"];

/// How long and how many ids are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuplicateWindow {
    /// An id is remembered for so many ms at least; 0: none is looked at.
    pub ms: u64,
    /// Ids that a node remembers of those that it took; of more it forgets the oldest.
    pub ids: usize,
}

impl Default for DuplicateWindow {
    fn default() -> Self {
        Self { ms: 300_000, ids: 100_000 }
    }
}

/// Ids are kept in so many inboxes for a window, so that these are few.
const PARTS: u64 = 8;
const LEAST_STEP_MS: u64 = 1_000;

impl DuplicateWindow {
    /// Whether ids are looked at.
    pub(crate) fn is_on(self) -> bool {
        self.ms > 0 && self.ids > 0
    }

    /// Where an id is kept that comes now: of nodes with the same window it is the same.
    pub(crate) fn inbox(self, now_ms: u64) -> String {
        let step = (self.ms / PARTS).max(LEAST_STEP_MS);
        let until = now_ms.saturating_add(self.ms).checked_next_multiple_of(step).unwrap_or(lane::MAX_DUE);
        lane::remembered(until)
    }
}

/// A publisher's id together with the destination: 128 bits of their hash. Two that differ have different ones, as far as anybody
/// can find.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DuplicateId([u8; Self::BYTES]);

impl DuplicateId {
    const BYTES: usize = 16;

    /// Of an id as the header has it.
    pub(crate) fn new(destination: &Destination, id: &str) -> Self {
        // No destination has a NUL.
        let mut hasher = blake3::Hasher::new();
        hasher.update(destination.as_str().as_bytes()).update(&[0]).update(id.as_bytes());
        let mut bytes = [0; Self::BYTES];
        hasher.finalize_xof().fill(&mut bytes);
        Self(bytes)
    }

    /// What is kept of it.
    pub(crate) fn entry(self, inbox: &str, persistent: bool) -> Entry {
        let head = Bytes::copy_from_slice(&self.0);
        Entry { inboxes: vec![inbox.to_owned()], head, body: Bytes::new(), persistent }
    }

    /// Reads what [`DuplicateId::entry`] kept.
    pub(crate) fn read(head: &[u8]) -> Option<Self> {
        head.try_into().ok().map(Self)
    }
}

impl fmt::Debug for DuplicateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_other_destinations_are_others_and_survive_being_kept() {
        let on = |destination: &str, id: &str| DuplicateId::new(&Destination::parse(destination).unwrap(), id);
        let id = on("/queue/a", "1");
        assert_eq!(id, on("/queue/a", "1"));
        for other in [on("/queue/b", "1"), on("/queue/a", "2"), on("/queue/a1", ""), on("/topic/a", "1")] {
            assert_ne!(id, other);
        }
        assert_eq!(DuplicateId::read(&id.entry("x", true).head), Some(id));
        assert_eq!(DuplicateId::read(b"too short"), None);
    }

    #[test]
    fn ids_of_about_the_same_time_share_an_inbox_for_the_whole_window_at_least() {
        let window = DuplicateWindow { ms: 80_000, ids: 1 };
        for now in [0, 1, 9_999, 10_000, 123_456] {
            let until = lane::remembered_until(&window.inbox(now)).unwrap();
            assert!((now + 80_000..now + 90_000).contains(&until), "{now} {until}");
        }
        assert_eq!(window.inbox(10_001), window.inbox(20_000));
        assert_eq!(lane::remembered_until(&window.inbox(u64::MAX)), Some(lane::MAX_DUE));
    }
}
