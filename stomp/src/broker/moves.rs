//! Messages that leave their queues: they go to a dead-letter queue, or are consumed.
//!
//! A move is two commits, one after the other: the copy, until it is on as many disks as a receipt wants; then the removal
//! of the original. Should this node die in between, the message is there twice, and never not at all. (One commit for both
//! would not do: others may hear of the removal, and lose the only disk with the copy.) Meanwhile dispatch keeps the original
//! aside.
//!
//! Where what goes, in the order in which it is looked at:
//!
//! | message | goes to |
//! |---|---|
//! | a dead letter that has come back too often | nowhere: it stays, for somebody is to see it |
//! | the oldest of too many, with the policy `overflow drop-oldest` | nowhere: it is consumed |
//! | a dead letter, a message of a temporary queue, one with the policy `dead-letter none` | nowhere: it is consumed |
//! | one whose policy names a queue | there, unless that is where it is |
//! | one that has expired | nowhere: it is consumed |
//! | others | `/queue/DLQ.NAME` |

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use rhizomq_engine::{Dot, Entry, Message, Mistake, Now, Unit};
use rhizomq_net::PublishId;

use super::{Broker, stop::Stop};
use crate::{
    destination::{DURABLE, Destination, REPLY_QUEUE},
    dispatch::Leave,
    expiry,
    frame::{decode_routed_head, edit_stored_head, stored_header},
    lane::Lane,
    policies::{NO_DEAD_LETTERS, Overflow},
};

/// Copies on their way to disks at a time.
const MAX_ACTIVE: usize = 64;
/// Bytes of these, unless a single one has more.
const MAX_ACTIVE_BYTES: usize = 32 << 20;
/// After a copy could not be kept nothing is moved for so many ms.
const PAUSE_MS: u64 = 1_000;
/// A dead letter that has come back too often is not to be had again before so many ms: whoever refuses it refuses it at once.
const STAYS_MS: u64 = 1_000;

/// What the names of dead-letter queues begin with, where no policy names one.
const DEAD_LETTERS: &str = "/queue/DLQ.";
/// Where a name is too long for that.
const ALL_DEAD_LETTERS: &str = "/queue/DLQ";

const REASON: &str = "dead-letter-reason";

/// One message that is to leave.
pub(super) struct Leaver {
    pub(super) dot: Dot,
    pub(super) inbox: Arc<str>,
    pub(super) why: Leave,
    /// How many deliveries came back.
    pub(super) deliveries: u32,
}

/// See the module docs.
#[derive(Default)]
pub(super) struct Moves {
    /// As many as dispatch keeps aside.
    waiting: VecDeque<Leaver>,
    /// Copies on their way: which, and how many bytes.
    active: BTreeMap<PublishId, (Leaver, usize)>,
    bytes: usize,
    /// Nothing is moved until then.
    paused_until: u64,
}

/// Where a message goes.
enum Goal {
    Queue(String),
    Consumed,
    Stays,
}

impl Moves {
    pub(super) fn push(&mut self, leaver: Leaver) {
        self.waiting.push_back(leaver);
    }

    /// Whether no copy is on its way.
    pub(super) fn is_quiet(&self) -> bool {
        self.active.is_empty()
    }

    /// When to go on.
    pub(super) fn deadline(&self) -> u64 {
        if self.waiting.is_empty() || self.paused_until == 0 { u64::MAX } else { self.paused_until }
    }

    fn has_room(&self) -> bool {
        self.active.len() < MAX_ACTIVE && self.bytes < MAX_ACTIVE_BYTES
    }

    fn take(&mut self, publish: PublishId) -> Option<Leaver> {
        let (leaver, bytes) = self.active.remove(&publish)?;
        self.bytes -= bytes;
        Some(leaver)
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.waiting.len() + self.active.len() + self.bytes
    }
}

impl Broker {
    /// Begins what can be begun.
    pub(super) fn proceed_with_moves(&mut self, now: Now) {
        // Whoever leaves keeps nothing new: the next owner sees to these.
        if self.drain.is_on() || self.is_retired() || self.stop != Stop::No || now.mono_ms < self.moves.paused_until {
            return;
        }
        self.moves.paused_until = 0;
        while self.moves.has_room()
            && self.moves.paused_until == 0
            && let Some(leaver) = self.moves.waiting.pop_front()
        {
            if self.dispatch.is_leaving(leaver.dot) {
                self.move_one(now, leaver);
            }
        }
    }

    fn move_one(&mut self, now: Now, leaver: Leaver) {
        // The segment was another's for a moment, and the copy is on its way.
        if self.moves.active.values().any(|(other, _)| other.dot == leaver.dot) {
            return;
        }
        let message = match self.node.engine().message(leaver.dot) {
            Ok(Some(message)) => message,
            Ok(None) => return self.pause_moves(now, leaver),
            Err(error) => {
                self.node.report_damage(now, leaver.dot, &error.to_string());
                return self.pause_moves(now, leaver);
            }
        };
        let (destination, head) = match decode_routed_head(&message.head).filter(|_| leaver.inbox.starts_with(DURABLE))
        {
            Some((topic, head)) => (topic.into(), head),
            None => (Arc::clone(&leaver.inbox), message.head.clone()),
        };
        match self.goal(&leaver, &destination, &head) {
            Goal::Stays => {
                let policy = self.policy_of(&leaver.inbox);
                let delay_ms = policy.and_then(|(_, policy)| policy.redelivery_delay_ms).unwrap_or(0).max(STAYS_MS);
                self.dispatch.stay(leaver.dot, now.mono_ms.saturating_add(delay_ms));
            }
            Goal::Consumed => self.node.remove(now, leaver.dot),
            Goal::Queue(queue) => self.copy(now, leaver, (&destination, &head), queue, message),
        }
    }

    fn copy(&mut self, now: Now, leaver: Leaver, (destination, head): (&str, &Bytes), queue: String, message: Message) {
        let head = self.dead_letter_head(now, &leaver, destination, head, &queue);
        let Message { body, persistent, .. } = message;
        let priority =
            stored_header(&head, "priority").and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
        let inbox = priority.map_or_else(|| queue.clone(), |priority| Lane::of_priority(priority).inbox(&queue));
        let entry = Entry { inboxes: vec![inbox], head, body, persistent };
        let bytes = entry.size();
        match self.node.publish(now, Unit { entries: vec![entry], removals: Vec::new() }) {
            Ok(publish) => {
                if self.node.planted().is(Mistake::RemoveBeforeCopy) {
                    self.node.remove(now, leaver.dot);
                }
                self.moves.bytes += bytes;
                self.moves.active.insert(publish, (leaver, bytes));
            }
            Err(error) => {
                tracing::warn!(message = %leaver.dot, "a dead letter is not kept, and tried again: {error}");
                self.pause_moves(now, leaver);
            }
        }
    }

    fn pause_moves(&mut self, now: Now, leaver: Leaver) {
        self.moves.waiting.push_back(leaver);
        self.moves.paused_until = now.mono_ms.saturating_add(PAUSE_MS);
    }

    fn goal(&self, leaver: &Leaver, destination: &str, head: &[u8]) -> Goal {
        let all = self.policy_of(&leaver.inbox).map(|(_, policy)| policy);
        let drops = all.as_ref().and_then(|policy| policy.overflow) == Some(Overflow::DropOldest);
        let policy = all.and_then(|policy| policy.dead_letter.clone());
        let is_dead_letter = stored_header(head, REASON).is_some() || policy.as_deref() == Some(&*leaver.inbox);
        match policy {
            _ if is_dead_letter && leaver.why == Leave::Deliveries => Goal::Stays,
            _ if is_dead_letter || leaver.inbox.starts_with(REPLY_QUEUE) => Goal::Consumed,
            _ if leaver.why == Leave::Overflow && drops => Goal::Consumed,
            Some(queue) if queue == NO_DEAD_LETTERS => Goal::Consumed,
            Some(queue) => Goal::Queue(queue),
            None if leaver.why == Leave::Expired => Goal::Consumed,
            None => {
                let name = Destination::parse(destination).ok().map(|from| [DEAD_LETTERS, from.name()].concat());
                let name = name.filter(|name| Destination::parse(name).is_ok());
                Goal::Queue(name.unwrap_or_else(|| ALL_DEAD_LETTERS.to_owned()))
            }
        }
    }

    /// The header section of the copy.
    fn dead_letter_head(&self, now: Now, leaver: &Leaver, destination: &str, head: &[u8], queue: &str) -> Bytes {
        let reason = match leaver.why {
            Leave::Expired => "expired",
            Leave::Rejected => "rejected",
            Leave::Deliveries => "max-deliveries",
            Leave::Overflow => "max-length",
        };
        let (id, deliveries) = (leaver.dot.to_string(), leaver.deliveries.to_string());
        let (time, origin) = (now.wall_ms.to_string(), leaver.dot.segment.node.to_string());
        let said = [
            (REASON, reason),
            ("dead-letter-from", destination),
            ("dead-letter-id", &id),
            ("dead-letter-deliveries", &deliveries),
            ("dead-letter-time", &time),
            ("dead-letter-origin", &origin),
        ];
        // Its time in the queue it was in is over; how long it may be in this one is another matter.
        let head = edit_stored_head(head, &[expiry::EXPIRES], &said);
        let ttl_ms = self.policy_of(queue).and_then(|(_, policy)| policy.ttl_ms);
        ttl_ms.map_or_else(|| head.clone(), |ttl_ms| expiry::with_end(&head, now.wall_ms.saturating_add(ttl_ms)))
    }

    /// A copy is kept: the original may go. Whether it was one.
    pub(super) fn moved(&mut self, now: Now, publish: PublishId) -> bool {
        let leaver = self.moves.take(publish);
        let was_one = leaver.is_some();
        if let Some(leaver) = leaver {
            self.node.remove(now, leaver.dot);
        }
        was_one
    }

    /// A copy could not be kept: it is tried again.
    pub(super) fn not_moved(&mut self, now: Now, publish: PublishId, reason: &str) -> bool {
        let leaver = self.moves.take(publish);
        let was_one = leaver.is_some();
        if let Some(leaver) = leaver {
            tracing::warn!(message = %leaver.dot, "a dead letter is not kept, and tried again: {reason}");
            self.pause_moves(now, leaver);
        }
        was_one
    }
}
