//! What the clients and the disks have seen of every message: the facts that the oracle judges by.

use std::{collections::BTreeMap, collections::BTreeSet, fmt};

use rhizomq_engine::Dot;
use rhizomq_stomp::broker::ConnId;

/// A message's number in the run; its body tells it.
pub(crate) type MsgId = u32;

/// The body of a message: its number, then filling.
pub(crate) fn body_of(id: MsgId, filling: usize) -> Vec<u8> {
    let mut body = format!("m{id};").into_bytes();
    body.resize(body.len() + filling, b'.');
    body
}

/// The message that a body belongs to.
pub(crate) fn msg_id_of(body: &[u8]) -> Option<MsgId> {
    let end = body.iter().position(|&byte| byte == b';')?;
    std::str::from_utf8(body.get(1..end)?).ok()?.parse().ok()
}

/// One message.
#[derive(Debug)]
pub(crate) struct Msg {
    /// The connection it was sent over, and a number for the queue and the priority: order is promised within these.
    pub(crate) source: (u64, usize),
    /// When it may be delivered, if it was to wait.
    pub(crate) due: Option<u64>,
    pub(crate) persistent: bool,
    /// When its receipt reached the producer.
    pub(crate) confirmed: Option<u64>,
    /// How many copies its receipt told of; 0 before there is one.
    pub(crate) copies: usize,
    pub(crate) dot: Option<Dot>,
    /// Hosts on whose disks the body lies now.
    pub(crate) disks: BTreeSet<usize>,
    /// Hosts on whose disks it ever lay.
    pub(crate) ever: BTreeSet<usize>,
    /// Times it was written to a client, and how many of these were not marked as redelivered.
    pub(crate) deliveries: u32,
    pub(crate) unmarked: u32,
    /// When it was first written to a client.
    pub(crate) first_at: Option<u64>,
    /// Which host wrote it then, in which life.
    pub(crate) first_by: Option<(usize, u32)>,
    /// Who got it last, until that client refuses it.
    pub(crate) held_by: Option<Holder>,
    /// Whether a client received it.
    pub(crate) arrived: bool,
    /// When a client first acknowledged it, or it was first written to an `auto` subscription: from then on it may go.
    pub(crate) consumed: Option<u64>,
    /// When a receipt for its acknowledgement was written, and the host that did: its disk knows.
    pub(crate) acked: Option<(u64, usize)>,
    /// The host, in which life, that wrote the receipt of DISCONNECT to the `auto` client that had it: consumed there.
    pub(crate) left_at: Option<(usize, u32)>,
    /// Since when no running host has it waiting, although one had.
    pub(crate) dead_since: Option<u64>,
}

/// A message's delivery: to which connection and subscription it was written, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    pub(crate) conn: ConnId,
    pub(crate) subscription: u64,
    pub(crate) since: u64,
    /// Whether all hosts that ran were linked, or its own with all who may dispatch the message for so long, that there was
    /// one owner.
    pub(crate) settled: bool,
}

/// Which promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A receipt told of more synced disks than there are.
    FalseReceipt,
    /// One id names two bodies.
    SharedId,
    /// One body has two ids.
    TwoIds,
    /// A second delivery that does not say so.
    UnmarkedDuplicate,
    /// A second delivery although nothing happened that excuses one.
    NeedlessDuplicate,
    /// Messages of one producer in the wrong order.
    Order,
    /// A message after the confirmed end of its subscription.
    AfterEnd,
    /// Before its time.
    Early,
    /// A message that the subscription's selector does not match.
    Unwanted,
    /// Consumed, and back.
    Resurrected,
    /// Taken for consumed, and was not.
    RemovedUnconsumed,
    /// A copy was given up with too few others on disks.
    DroppedTooEarly,
    /// Waiting on fewer disks than there should and could be.
    TooFewCopies,
    /// Confirmed, kept on a disk, and never delivered.
    Lost,
    /// The healed cluster did not come to rest in equal states.
    Diverged,
    /// A live node did not answer a SEND in time.
    NotWritable,
    /// A client got an ERROR frame that it did not earn.
    ClientError,
    /// Nodes misunderstood each other.
    Malformed,
    /// A store could not be opened whole.
    BadOpen,
    /// A node that was told to stop did not do so in order.
    BadStop,
    /// Not as many members as there are to be, or not the same ones at all nodes.
    Members,
    /// Seats changed more often than there was reason to.
    SeatChanges,
    /// Bytes of messages went over the network for no good reason.
    Moved,
    /// A message of one part of a split cluster was delivered in the other.
    Crossed,
    /// The code panicked.
    Panic,
}

/// A broken promise.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) kind: Kind,
    pub(crate) at: u64,
    pub(crate) text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}.{:03} s: {}", self.kind, self.at / 1000, self.at % 1000, self.text)
    }
}

#[derive(Default)]
pub(crate) struct Ledger {
    msgs: Vec<Msg>,
    pub(crate) by_dot: BTreeMap<Dot, MsgId>,
    /// The last unmarked message of a source that a subscription got: connection, subscription, source.
    last_seen: BTreeMap<(u64, u64, (u64, usize)), MsgId>,
    /// The first broken promise; later ones are mostly its consequences.
    pub(crate) violation: Option<Violation>,
}

impl Ledger {
    /// A message is about to be sent. Numbers grow, so they tell the order of sending too.
    pub(crate) fn sent(&mut self, source: (u64, usize), persistent: bool) -> MsgId {
        let id = self.msgs.len() as MsgId;
        self.msgs.push(Msg {
            source,
            due: None,
            persistent,
            confirmed: None,
            copies: 0,
            dot: None,
            disks: BTreeSet::new(),
            ever: BTreeSet::new(),
            deliveries: 0,
            unmarked: 0,
            first_at: None,
            first_by: None,
            held_by: None,
            arrived: false,
            consumed: None,
            acked: None,
            left_at: None,
            dead_since: None,
        });
        id
    }

    pub(crate) fn msg(&mut self, id: MsgId) -> &mut Msg {
        &mut self.msgs[id as usize]
    }

    pub(crate) fn msgs(&self) -> impl Iterator<Item = (MsgId, &Msg)> {
        (0..).zip(&self.msgs)
    }

    pub(crate) fn violate(&mut self, now: u64, kind: Kind, text: String) {
        self.violation.get_or_insert(Violation { kind, at: now, text });
    }

    /// A body lies on a disk, or was delivered, under a name: both must belong to each other for ever.
    pub(crate) fn name(&mut self, now: u64, dot: Dot, id: MsgId) {
        let known = *self.by_dot.entry(dot).or_insert(id);
        if known != id {
            self.violate(now, Kind::SharedId, format!("{dot:?} names both m{known} and m{id}"));
        }
        let first = *self.msg(id).dot.get_or_insert(dot);
        if first != dot {
            self.violate(now, Kind::TwoIds, format!("m{id} is both {first:?} and {dot:?}"));
        }
    }

    /// An unmarked delivery to a subscription: within its source, it must be the newest yet.
    pub(crate) fn order(&mut self, now: u64, conn: u64, sub: u64, id: MsgId) {
        let source = self.msg(id).source;
        let last = self.last_seen.insert((conn, sub, source), id);
        if let Some(last) = last.filter(|&last| last > id) {
            self.violate(now, Kind::Order, format!("m{id} came after m{last} on connection {conn}"));
        }
    }

    /// The host's disk was replaced by another state: what lies on it is given anew.
    pub(crate) fn replace_disk(&mut self, host: usize, bodies: impl Iterator<Item = (Dot, MsgId)>) {
        for msg in &mut self.msgs {
            msg.disks.remove(&host);
            msg.acked = msg.acked.filter(|acked| acked.1 != host);
        }
        for (_, id) in bodies {
            self.msg(id).disks.insert(host);
        }
        self.revive();
    }

    /// A disk came into play again: what was gone everywhere may rightly be back.
    pub(crate) fn revive(&mut self) {
        self.msgs.iter_mut().for_each(|msg| msg.dead_since = None);
    }
}
