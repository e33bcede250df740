//! Looks at what waits first in each inbox, though nobody wants it: it may be over, or there may be too much behind it. A few
//! inboxes at a time, in turn; what was read once is not read again while it stays the first.

use std::{collections::BTreeMap, sync::Arc};

use rhizomq_engine::{Dot, SegmentId, Slot};

use super::{Effect, Leave, Owner, Turn, View};
use crate::{
    expiry,
    lane::{self, Lane},
};

/// Between two looks, ms; the second one when there was more to do than a look may take.
const LOOK_MS: u64 = 1_000;
const BUSY_LOOK_MS: u64 = 50;
/// Inboxes that one look visits, and messages that it reads.
const MAX_VISITS: usize = 1024;
const MAX_READS: usize = 256;
/// Inboxes of which is remembered what waits first.
const MAX_SEEN: usize = 1 << 16;

/// What earlier looks have found.
#[derive(Default)]
pub(super) struct Peeks {
    pub(super) at: u64,
    /// It is time.
    pub(super) is_due: bool,
    /// The last look ended because too many were leaving.
    is_cut: bool,
    /// The inbox that the last look ended with.
    last: Option<Arc<str>>,
    /// What waits first, when it ends, and in which round over all inboxes that was.
    seen: BTreeMap<Arc<str>, (Dot, u64, bool)>,
    round: bool,
}

impl Peeks {
    /// The next look may go on where the last one was cut off.
    pub(super) fn go_on(&mut self, is_full: bool) {
        if self.is_cut && !is_full {
            (self.is_cut, self.is_due) = (false, true);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }
}

impl Owner {
    /// The next look, if it is time.
    pub(super) fn peek(&mut self, turn: Turn<'_>, out: &mut Vec<Effect>) {
        if !self.peeks.is_due || self.retired {
            return;
        }
        let Turn { now, view, .. } = turn;
        self.peeks.is_due = false;
        self.targets.expire(now.mono_ms);
        let mut reads = MAX_READS;
        let inboxes = view.inboxes_after(self.peeks.last.as_deref().or(Some(lane::AFTER_JOBS)), MAX_VISITS);
        let is_whole = inboxes.len() < MAX_VISITS;
        let mut queue = None;
        for inbox in inboxes {
            // The lanes of a queue lie next to each other.
            let this = Lane::of(&inbox).map(|_| lane::shared_queue_of(&inbox));
            if let Some(this) = this.as_ref().filter(|this| queue.as_ref() != Some(*this)) {
                self.shed(this, turn, out);
            }
            queue = this;
            self.peek_into(&inbox, turn, &mut reads, out);
            if reads == 0 || self.returns.is_full() {
                // More of this one may be about to go.
                self.peeks.is_cut = self.returns.is_full();
                self.peeks.at = now.mono_ms + BUSY_LOOK_MS;
                return;
            }
            self.peeks.last = Some(inbox);
        }
        self.peeks.at = now.mono_ms + if reads < MAX_READS / 2 { BUSY_LOOK_MS } else { LOOK_MS };
        if is_whole {
            // All have been visited: what was not met any more is gone.
            let Peeks { seen, round, last, .. } = &mut self.peeks;
            seen.retain(|_, (.., met)| *met == *round);
            (*round, *last) = (!*round, None);
        }
    }

    fn peek_into(&mut self, inbox: &Arc<str>, turn: Turn<'_>, reads: &mut usize, out: &mut Vec<Effect>) {
        let Turn { now, view, takeover, .. } = turn;
        // Jobs, and whatever another version has put there.
        if Lane::of(inbox).is_none() {
            return;
        }
        let segments = self.served_segments(inbox, view, takeover);
        let mut cursors = BTreeMap::new();
        while *reads > 0 && !self.returns.is_full() {
            let Some(dot) = self.first_waiting(inbox, &segments, &mut cursors, view) else { return };
            let known = self.peeks.seen.get(inbox).filter(|(first, ..)| *first == dot).map(|(_, end, _)| *end);
            let end = match known {
                Some(end) => end,
                None => {
                    *reads -= 1;
                    let Ok(Some(message)) = view.message(dot) else { return };
                    expiry::end_of(&message.head).unwrap_or(u64::MAX)
                }
            };
            if now.wall_ms < end {
                if known.is_some() || self.peeks.seen.len() < MAX_SEEN {
                    self.peeks.seen.insert(Arc::clone(inbox), (dot, end, self.peeks.round));
                }
                return;
            }
            self.leave(dot, inbox, Leave::Expired, out);
        }
    }

    /// The first dot of an inbox that nobody has, in the order of these segments. What is behind the cursors was looked at.
    pub(super) fn first_waiting(
        &self,
        inbox: &str,
        segments: &[(SegmentId, u64)],
        cursors: &mut BTreeMap<SegmentId, Slot>,
        view: &dyn View,
    ) -> Option<Dot> {
        segments.iter().find_map(|&(segment, _)| {
            let cursor = cursors.entry(segment).or_insert(1);
            loop {
                let slot = view.next_waiting(inbox, segment, *cursor)?;
                let dot = Dot { segment, slot };
                if !self.flights.contains(dot) && !self.unreadable.contains(&dot) && !view.is_removed(dot) {
                    return Some(dot);
                }
                *cursor = slot.checked_add(1)?;
            }
        })
    }
}
