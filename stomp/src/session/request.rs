//! What goes between a session and the broker.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    destination::{Destination, Kind},
    duplicates::DuplicateId,
    durable::DurableName,
    limits::Limits,
    schedule::Schedule,
    selector::Selector,
    transport::Peer,
    users::Passcode,
};

pub use crate::expiry::Lifetime;

/// A subscription of this session; never used twice in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubKey(pub u32);

/// One request that waits for the broker's answer; never used twice in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Who acknowledges a delivery, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AckMode {
    /// Nobody: it counts as consumed once it is written to the socket.
    #[default]
    Auto,
    /// The client; an ACK or NACK covers all earlier deliveries of the subscription too.
    Client,
    /// The client, each by itself.
    ClientIndividual,
}

/// How a subscription to a queue is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// It shares the queue with others.
    #[default]
    Shared,
    /// It gets all as long as it lives, if no other exclusive one has a higher priority or came before.
    Exclusive {
        /// Among exclusive ones; 0 is usual.
        priority: i8,
    },
    /// It sees what waits now, once, and takes nothing.
    Browse,
}

/// A message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Where to.
    pub destination: Destination,
    /// The header section to store, see [`encode_stored_head`](crate::frame::encode_stored_head).
    pub head: Bytes,
    /// The body; a slice of the receive buffer, so it keeps that alive.
    pub body: Bytes,
    /// False when the client sent `persistent:false`: the message need not outlive this node.
    pub persistent: bool,
    /// When it expires, as far as the client says; the head does not tell yet.
    pub lifetime: Lifetime,
    /// 0 to 9; higher ones are served first.
    pub priority: u8,
    /// So long it is not to be had, ms.
    pub delay_ms: u64,
    /// Whether it is to be sent again, and when.
    pub schedule: Option<Schedule>,
    /// What its publisher calls it, so that it is taken once though it may be sent again.
    pub duplicate: Option<DuplicateId>,
}

impl Send {
    /// Whether it is kept as a job: it is sent again, or its listeners are looked for when it is time.
    pub(crate) fn is_job(&self) -> bool {
        self.schedule.is_some() || (self.delay_ms > 0 && self.destination.kind() == Kind::Topic)
    }
}

/// The fate of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckItem {
    /// The subscription that it was delivered to; it may be closed by now (`auto`, or a transaction).
    pub subscription: SubKey,
    /// As given to [`Session::deliver`](super::Session::deliver).
    pub message_id: Arc<str>,
    /// What the client has decided.
    pub fate: Fate,
}

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// It is consumed.
    Consumed,
    /// It is given to someone else, or to the same client again.
    Requeued,
    /// Nobody is to get it: it goes to the dead-letter queue.
    Rejected,
}

/// What a client wants from the broker. Answer each ticket once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A SEND, or a committed transaction: all of it happens or nothing.
    Publish {
        /// Answer when confirmed.
        ticket: Ticket,
        /// The messages, in the client's order. Empty for a transaction of acknowledgements only.
        unit: Vec<Send>,
        /// The acknowledgements that belong to the unit.
        acks: Vec<AckItem>,
    },
    /// A new subscription.
    Subscribe {
        /// Answer when it is in force.
        ticket: Ticket,
        /// Its key.
        sub: SubKey,
        /// What it listens to.
        destination: Destination,
        /// Who acknowledges.
        ack: AckMode,
        /// At most so many deliveries may be unacknowledged at a time; at least 1.
        prefetch: u32,
        /// Whether the client has said how many; if not, a policy may.
        chooses_prefetch: bool,
        /// How it is served; of topics always `Shared`.
        service: Service,
        /// Which messages it wants; `None`: all.
        selector: Option<Selector>,
        /// The durable subscription of the topic that it takes part in, and makes if there is none.
        durable: Option<DurableName>,
        /// Whether the client waits for a receipt: then it must be in force on all nodes within reach.
        awaited: bool,
    },
    /// A durable subscription is not wanted any more; its consumers have ended theirs before, as far as they are this
    /// session's.
    Forget {
        /// Answer when it is gone, here.
        ticket: Ticket,
        /// Which.
        name: DurableName,
    },
    /// The end of a subscription.
    Unsubscribe {
        /// Answer when no more will be delivered.
        ticket: Ticket,
        /// Its key.
        sub: SubKey,
        /// Deliveries that the client left unacknowledged: give them to someone else. Deliveries of this subscription
        /// that are not listed are still on their way to an [`AckItem`] (unflushed `auto` ones, and those in an open
        /// transaction).
        requeue: Vec<Arc<str>>,
    },
    /// Acknowledgements outside a transaction.
    Ack {
        /// Answer when they are taken in.
        ticket: Ticket,
        /// In the order of delivery.
        items: Vec<AckItem>,
    },
    /// The client leaves: stop delivering. The session closes by itself when all that it wrote to `auto` subscriptions
    /// is flushed and all tickets are answered.
    Disconnect {
        /// Answer when no more will be delivered.
        ticket: Ticket,
        /// The subscriptions that were open.
        subs: Vec<SubKey>,
        /// Deliveries that the client left unacknowledged, or acknowledged in a transaction that it left open: give them
        /// to someone else. Others are still on their way to an [`AckItem`], as for `Unsubscribe`.
        requeue: Vec<Arc<str>>,
    },
}

impl Request {
    /// The ticket to answer.
    pub fn ticket(&self) -> Ticket {
        match self {
            Self::Publish { ticket, .. }
            | Self::Subscribe { ticket, .. }
            | Self::Forget { ticket, .. }
            | Self::Unsubscribe { ticket, .. }
            | Self::Ack { ticket, .. }
            | Self::Disconnect { ticket, .. } => *ticket,
        }
    }
}

/// Who a client says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The header `login` of CONNECT.
    pub name: Option<String>,
    /// The header `passcode`.
    pub passcode: Option<Passcode>,
}

/// A message to write to a subscription.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Names the message for ever; the same at every delivery of it.
    pub message_id: &'a str,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Which delivery to a client it is, as far as is known, the first being 1; `None` for what is kept nowhere.
    pub count: Option<u32>,
    /// Where it was sent to.
    pub destination: &'a str,
    /// Its stored header section.
    pub head: &'a Bytes,
    /// Its body.
    pub body: &'a Bytes,
}

/// The broker's side of every session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// The `server` header of CONNECTED: name, slash, version.
    pub server: String,
    /// The `session` header of CONNECTED: names this connection for people and logs.
    pub session: String,
    /// Names this connection among those of all nodes for ever: what the names of its temporary queues begin with.
    pub replies: String,
    /// Who is at the other end.
    pub peer: Peer,
    /// What clients may ask for.
    pub limits: Limits,
    /// The shortest interval of outgoing heart-beats that is granted, ms; 0: never sends any.
    pub heart_beat_send_ms: u32,
    /// The interval of incoming heart-beats that is asked for, ms; 0: wants none.
    pub heart_beat_want_ms: u32,
    /// A connection that has not sent its whole CONNECT frame after so many ms is closed.
    pub connect_timeout_ms: u64,
    /// A client that left with DISCONNECT waits at most so many ms for the answers to what it sent before, and
    /// takes at most so long to read what was written to it.
    pub linger_ms: u64,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            server: concat!("rhizomq/", env!("CARGO_PKG_VERSION")).to_owned(),
            session: String::new(),
            replies: String::new(),
            peer: Peer::default(),
            limits: Limits::default(),
            heart_beat_send_ms: 1_000,
            heart_beat_want_ms: 10_000,
            connect_timeout_ms: 10_000,
            linger_ms: 30_000,
        }
    }
}
