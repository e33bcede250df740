//! The law of a whole session.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use rhizomq_engine::{
    Now,
    fuzzing::{Choices, parts},
};

use super::conversation;
use crate::{
    destination::MAX_PARTS,
    frame::{Command, Decoder, HOP_HEADERS, Version, decode_stored_head},
    limits::{Limits, TRANSACTION_ITEM_COST},
    session::{Delivery, Request, Session, SessionConfig, SubKey, Ticket},
};

pub(super) const LIMITS: Limits = Limits {
    connect_frame: 512,
    headers: 16,
    header_line: 256,
    header_section: 1024,
    body: 1024,
    transactions: 3,
    transaction_bytes: 4096,
    subscriptions: 4,
    default_prefetch: 5,
    max_prefetch: 10,
    unread_ms: 1_000,
    unread_bytes: 1 << 20,
};

/// Bytes that a session may write for each byte it reads: texts are echoed with escapes, and in an ERROR frame twice.
const ECHO: u64 = 8;
/// Bytes that it may write beyond that: CONNECTED, ERROR, one frame around each echo.
const FIXED: u64 = 4096;

/// A client that sends anything, and a broker that answers and delivers: each delivery is settled at most once, each
/// ticket is asked for once, limits hold, and what is written are frames, not many more than were read.
pub fn session(bytes: &[u8]) -> bool {
    let mut choices = Choices(bytes);
    let mut bench = Bench::new();
    while !choices.is_empty() {
        bench.broker(choices.byte());
        let bytes = choices.part();
        bench.read += bytes.len() as u64;
        bench.session.handle_bytes(bench.now, bytes);
        bench.look();
    }
    bench.session.version().is_some()
}

struct Bench {
    now: Now,
    session: Session,
    client: Decoder,
    /// Bytes and frames from the client; bytes of deliveries to it.
    read: u64,
    delivered: u64,
    written: u64,
    next_ticket: u64,
    waiting: VecDeque<Ticket>,
    prefetch: BTreeMap<SubKey, u32>,
    /// Deliveries whose fate is open.
    out: BTreeMap<String, SubKey>,
    deliveries: u64,
    closed: bool,
    /// The client has said who it is.
    asks: bool,
}

impl Bench {
    fn new() -> Self {
        let now = Now { mono_ms: 1, wall_ms: 1 };
        let config = SessionConfig { limits: LIMITS, session: "fuzz".to_owned(), ..SessionConfig::default() };
        // The client's side has no limits that could be reached.
        let mut client = Decoder::new(Limits::default());
        client.start_session(Version::V1_0);
        Self {
            now,
            session: Session::new(now, config),
            client,
            read: 0,
            delivered: 0,
            written: 0,
            next_ticket: 0,
            waiting: VecDeque::new(),
            prefetch: BTreeMap::new(),
            out: BTreeMap::new(),
            deliveries: 0,
            closed: false,
            asks: false,
        }
    }

    /// What the broker does, as the octet says.
    fn broker(&mut self, choice: u8) {
        let number = choice / 8;
        if !choice.is_multiple_of(8) && std::mem::take(&mut self.asks) {
            self.session.admit(self.now);
        }
        match choice % 8 {
            0 => {}
            1 => {
                let keys: Vec<_> = self.prefetch.keys().copied().collect();
                if let Some(sub) = keys.get(usize::from(number) % keys.len().max(1)) {
                    self.deliver(*sub, number);
                }
            }
            2 => {
                if let Some(ticket) = self.waiting.pop_front() {
                    self.session.receipt(ticket, &[("copies", "2")]);
                }
            }
            3 => {
                while let Some(ticket) = self.waiting.pop_front() {
                    self.session.receipt(ticket, &[]);
                }
            }
            4 => self.session.handle_flushed(self.session.emitted()),
            5 => self.session.handle_flushed(self.session.emitted().saturating_sub(u64::from(number) * 16)),
            6 => {
                self.now.mono_ms += u64::from(number) * 100;
                if self.session.deadline() <= self.now.mono_ms {
                    self.session.handle_timeout(self.now);
                }
            }
            _ => {
                if number == 0 {
                    self.session.error("no room", "the disk is full", self.waiting.pop_back());
                }
            }
        }
        self.look();
    }

    fn deliver(&mut self, sub: SubKey, number: u8) {
        let limit = self.prefetch.get(&sub).copied().unwrap_or(0) as usize;
        if self.session.in_flight(sub) >= limit {
            return;
        }
        let message_id = format!("m-{}", self.deliveries);
        let head = Bytes::from_static(if number.is_multiple_of(2) { b"a:b\n" } else { b"c\\c:d\\n\\r\\\\\n" });
        let body = Bytes::from(vec![number; usize::from(number) * 200]);
        let delivery = Delivery {
            count: Some(1),
            message_id: &message_id,
            redelivered: number.is_multiple_of(3),
            destination: "/queue/a",
            head: &head,
            body: &body,
        };
        let before = self.session.emitted();
        if let Some(position) = self.session.deliver(sub, delivery) {
            assert_eq!(position, self.session.emitted());
            self.delivered += position - before;
            self.out.insert(message_id, sub);
            self.deliveries += 1;
        }
    }

    fn settle(&mut self, message_id: &str, sub: Option<SubKey>) {
        let delivered_to = self.out.remove(message_id);
        assert!(delivered_to.is_some(), "{message_id} is settled twice, or was never delivered");
        assert!(sub.is_none() || delivered_to == sub);
    }

    /// Looks at everything that came out.
    fn look(&mut self) {
        if self.session.poll_login().is_some() {
            assert!(!self.asks && self.session.version().is_none(), "it says once who it is");
            self.asks = true;
        }
        while let Some(request) = self.session.poll_request() {
            assert!(self.session.version().is_some(), "who is not let in asks for nothing: {request:?}");
            assert!(!self.closed, "a closed session asks for nothing: {request:?}");
            assert_eq!(request.ticket(), Ticket(self.next_ticket), "tickets are dense");
            self.next_ticket += 1;
            self.waiting.push_back(request.ticket());
            self.request(request);
        }
        // Each ticket has a frame behind it, or something that was flushed or aborted.
        assert!(self.next_ticket <= self.read + self.deliveries);
        assert!(self.session.pending() <= self.next_ticket as usize);
        while let Some(bytes) = self.session.poll_bytes() {
            self.written += bytes.len() as u64;
            self.client.feed(&bytes);
            while let Some(frame) = self.client.poll().expect("a session writes frames and nothing else") {
                assert!(matches!(
                    frame.command,
                    Command::Connected | Command::Message | Command::Receipt | Command::Error
                ));
                if frame.command == Command::Connected {
                    self.client.start_session(self.session.version().expect("connected"));
                }
            }
        }
        assert_eq!(self.client.buffered(), 0, "only whole frames are written");
        assert!(self.written == self.session.emitted() && self.session.buffered() == 0);
        let bound = self.read * ECHO + self.delivered + FIXED + self.next_ticket * 64;
        assert!(self.written <= bound, "{} bytes for {} bytes, at most {bound}", self.written, self.read);
        self.closed |= self.session.should_close();
        assert!(!self.closed || self.session.should_close(), "what is closed stays so");
        assert!(!self.closed || self.session.deadline() == u64::MAX);
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Publish { unit, acks, .. } => {
                let bytes: usize = unit.iter().map(|send| send.head.len() + send.body.len()).sum();
                let cost = bytes + TRANSACTION_ITEM_COST * unit.len();
                // One SEND may name several destinations; its body is one.
                assert!(unit.len() <= MAX_PARTS || cost <= LIMITS.transaction_bytes);
                for send in &unit {
                    assert!(send.body.len() <= LIMITS.body && !send.destination.as_str().is_empty());
                    let head = decode_stored_head(&send.head).expect("what is to be stored reads");
                    assert!(head.iter().all(|entry| !HOP_HEADERS.contains(&entry.0)));
                }
                acks.iter().for_each(|item| self.settle(&item.message_id, Some(item.subscription)));
            }
            Request::Subscribe { sub, prefetch, .. } => {
                assert!((1..=LIMITS.max_prefetch).contains(&prefetch));
                assert!(self.prefetch.insert(sub, prefetch).is_none());
                assert!(self.prefetch.len() <= LIMITS.subscriptions);
            }
            Request::Unsubscribe { sub, requeue, .. } => {
                assert!(self.prefetch.remove(&sub).is_some());
                let different: BTreeSet<_> = requeue.iter().collect();
                assert_eq!(different.len(), requeue.len());
                requeue.iter().for_each(|id| self.settle(id, Some(sub)));
            }
            Request::Ack { items, .. } => {
                assert!(!items.is_empty());
                items.iter().for_each(|item| self.settle(&item.message_id, Some(item.subscription)));
            }
            Request::Forget { .. } | Request::Disconnect { .. } => {}
        }
    }
}

/// Frames of a client, with a delivery, a flush and answers between them.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let seed = |version| -> Vec<u8> {
        let between = [0, 0, 0, 0, 1, 9, 4, 1, 1, 2, 3].into_iter();
        let frames = conversation(version);
        frames.iter().zip(between).flat_map(|(frame, choice)| [vec![choice], parts(&[frame])].concat()).collect()
    };
    let mut seeds: Vec<Vec<u8>> = Version::ALL.into_iter().map(seed).collect();
    seeds.iter_mut().for_each(|seed| seed.extend([3, 0, 0, 254, 0, 0]));
    seeds
}
