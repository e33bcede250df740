//! What is remembered of a linked peer; all of it goes with the link.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::{Now, RangeSet, SegmentId, Slot};

use crate::link::{LinkId, PeerHello};

/// Bytes of blocks on their way to a peer that it has not yet stored. Beyond it nothing is pushed; the peer pulls what
/// it misses when it has caught up.
pub(super) const PUSH_WINDOW_BYTES: usize = 16 << 20;

/// A block that was pushed and is not reported as stored yet.
#[derive(Debug)]
struct Pushed {
    last: Slot,
    bytes: usize,
    at_ms: u64,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) link: LinkId,
    pub(super) hello: PeerHello,
    /// When to send the next summary.
    pub(super) sync_at: u64,
    /// Something was not pushed: summarise as soon as the window allows.
    pub(super) dirty: bool,
    /// Whether it says that its disk takes blocks, and whether it has stored what it was sent in good time.
    pub(super) storing: bool,
    pub(super) stalled: bool,
    /// Whether all that it told of agreed with what is here.
    pub(super) in_sync: bool,
    /// When it last told.
    pub(super) synced_at: u64,
    /// Where the next summary goes on, if not all fitted into the last one.
    pub(super) summary_from: Option<SegmentId>,
    /// Segments to be pulled from it.
    pub(super) wants: BTreeSet<SegmentId>,
    /// Whether it has told what it has, so that `wants` means something.
    pub(super) summarised: bool,
    /// The pull under way, and since when.
    pub(super) pulling: Option<(SegmentId, u64)>,
    /// No new pull before this commit is durable: what it would ask for is still queued.
    pub(super) pull_after: u64,
    on_the_way: BTreeMap<(SegmentId, Slot), Pushed>,
    on_the_way_bytes: usize,
}

impl Peer {
    pub(super) fn new(link: LinkId, hello: PeerHello, now: Now) -> Self {
        Self {
            link,
            hello,
            sync_at: now.mono_ms,
            dirty: false,
            storing: true,
            stalled: false,
            in_sync: false,
            synced_at: 0,
            summary_from: None,
            wants: BTreeSet::new(),
            summarised: false,
            pulling: None,
            pull_after: 0,
            on_the_way: BTreeMap::new(),
            on_the_way_bytes: 0,
        }
    }

    /// Whether confirmations may wait for it.
    pub(super) fn keeps_up(&self) -> bool {
        self.storing && !self.stalled
    }

    /// Forgets blocks on their way of which nobody waits for anything any more: the peer may never store them.
    pub(super) fn forget_pushed(&mut self, is_needed: impl Fn(SegmentId, Slot, Slot) -> bool) {
        let bytes = &mut self.on_the_way_bytes;
        self.on_the_way.retain(|(segment, first), pushed| {
            let needed = is_needed(*segment, *first, pushed.last);
            *bytes -= if needed { 0 } else { pushed.bytes };
            needed
        });
    }

    /// Whether a block has been on its way since before then.
    pub(super) fn is_behind(&self, since_ms: u64) -> bool {
        self.on_the_way.values().any(|pushed| pushed.at_ms < since_ms)
    }

    /// Whether this node has all of the segment that the peer told of.
    pub(super) fn is_in_step(&self, segment: SegmentId) -> bool {
        let pulled = self.pulling.is_some_and(|(pulled, _)| pulled == segment);
        self.summarised && !pulled && !self.wants.contains(&segment)
    }

    /// Whether a block may be sent now.
    pub(super) fn has_room(&self) -> bool {
        self.on_the_way_bytes < PUSH_WINDOW_BYTES
    }

    pub(super) fn note_sent(&mut self, now: Now, segment: SegmentId, first: Slot, last: Slot, bytes: usize) {
        let pushed = Pushed { last, bytes, at_ms: now.mono_ms };
        // Sent again, it may have another size, for some of it may have been consumed meanwhile.
        let before = self.on_the_way.insert((segment, first), pushed).map_or(0, |pushed| pushed.bytes);
        self.on_the_way_bytes = self.on_the_way_bytes - before + bytes;
    }

    /// The peer has these on disk. Whether the window has room again after it had none.
    pub(super) fn note_stored(&mut self, segment: SegmentId, slots: &RangeSet) -> bool {
        let full = !self.has_room();
        self.stalled = false;
        for (first, last) in slots.iter_ranges() {
            let here: Vec<_> = self.on_the_way.range((segment, first)..=(segment, last)).map(|(key, _)| *key).collect();
            for key in here {
                if let Some(pushed) = self.on_the_way.remove(&key) {
                    self.on_the_way_bytes -= pushed.bytes;
                }
            }
        }
        full && self.has_room()
    }

    /// Slots of a segment that travel on this link now: pushed after `since_ms`. What was pushed before that and is not
    /// stored yet may have met a full disk: the peer has forgotten it and says so by pulling it.
    pub(super) fn travelling(&self, segment: SegmentId, since_ms: u64) -> RangeSet {
        let mut slots = RangeSet::new();
        for ((_, first), pushed) in self.on_the_way.range((segment, 0)..=(segment, Slot::MAX)) {
            if pushed.at_ms >= since_ms {
                slots.insert_range(*first, pushed.last);
            }
        }
        slots
    }
}

#[cfg(test)]
mod tests {
    use rhizomq_engine::{Epoch, NodeId};

    use crate::link::Proven;

    use super::*;

    const NOW: Now = Now { wall_ms: 0, mono_ms: 0 };
    const SEGMENT: SegmentId = SegmentId { node: NodeId([1; 16]), epoch: Epoch(1), number: 1 };

    fn peer() -> Peer {
        let hello =
            PeerHello { node: NodeId([2; 16]), epoch: Epoch(1), name: String::new(), wall_ms: 0, proven: Proven::Own };
        Peer::new(LinkId(1), hello, NOW)
    }

    #[test]
    fn a_block_that_is_sent_again_takes_the_window_once() {
        let mut peer = peer();
        for _ in 0..3 {
            peer.note_sent(NOW, SEGMENT, 1, 5, PUSH_WINDOW_BYTES / 2);
            assert!(peer.has_room());
        }
        peer.note_sent(NOW, SEGMENT, 6, 9, PUSH_WINDOW_BYTES / 2);
        assert!(!peer.has_room());
        assert!(peer.note_stored(SEGMENT, &RangeSet::from_range(1, 5)), "there is room again");
        assert!(!peer.note_stored(SEGMENT, &RangeSet::from_range(1, 9)), "there was room before");
        assert_eq!(peer.on_the_way_bytes, 0);
    }

    #[test]
    fn a_block_that_is_sent_again_with_another_size_counts_as_it_was_sent_last() {
        let mut peer = peer();
        for bytes in [100, 300, 50] {
            peer.note_sent(NOW, SEGMENT, 1, 5, bytes);
            assert_eq!(peer.on_the_way_bytes, bytes);
        }
        peer.forget_pushed(|_, _, _| false);
        assert_eq!(peer.on_the_way_bytes, 0);
    }
}
