//! When and where a message was taken: the headers `timestamp` (ms since 1970, by that node's clock) and `origin` (that node's
//! name) of its MESSAGE.
//!
//! They are written into the stored header section when a node takes the message from its client, so they go wherever it goes:
//! to other disks, through restarts and takeovers, into dead-letter queues. What the client says itself under these names stays
//! as it is: RabbitMQ's clients put a `timestamp` of their own there, and a program that passes messages on need not lose where
//! they come from.

use bytes::Bytes;

use crate::frame::{append_stored_head, stored_header};

/// ms since 1970, when the message was taken.
const TIMESTAMP: &str = "timestamp";
/// The name of the node that took it.
const ORIGIN: &str = "origin";

/// The section to store for a message that this node takes now.
pub(crate) fn stamped(stored_head: &Bytes, wall_ms: u64, node: &str) -> Bytes {
    let time = wall_ms.to_string();
    let mut lines = [(TIMESTAMP, &*time), (ORIGIN, node)].to_vec();
    lines.retain(|(name, _)| stored_header(stored_head, name).is_none());
    append_stored_head(stored_head, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_node_come_behind_what_the_client_said_and_never_in_its_place() {
        let head = |text: &'static str| Bytes::from_static(text.as_bytes());
        assert_eq!(stamped(&head("a:b\n"), 1_700, "no:de"), "a:b\ntimestamp:1700\norigin:no\\cde\n");
        assert_eq!(stamped(&head("origin:Mars\n"), 7, "n"), "origin:Mars\ntimestamp:7\n");
        let both = head("timestamp:yesterday\norigin:\n");
        assert_eq!(stamped(&both, 7, "n"), both, "a value that is empty is one, too");
        let once = stamped(&Bytes::new(), 7, "n");
        assert_eq!(stamped(&once, 8, "m"), once, "the first node that took it");
    }
}
