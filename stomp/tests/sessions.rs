//! Laws of the session, on random conversations: no delivery is lost or settled twice, transactions are all or nothing,
//! limits hold, and no bytes make it panic.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};
use rhizomq_engine::Now;
use rhizomq_stomp::{
    frame::{Command, Decoder, Frame, Version, encode},
    limits::{Limits, TRANSACTION_ITEM_COST},
    session::{Delivery, Request, Session, SessionConfig, SubKey},
};

const NOW: Now = Now { mono_ms: 1, wall_ms: 1 };

fn connected(version: Version, limits: Limits) -> Session {
    let mut session = Session::new(NOW, SessionConfig { limits, ..SessionConfig::default() });
    feed(&mut session, Frame::new(Command::Connect, [("accept-version", version.as_str())]));
    assert!(session.poll_login().is_some() && session.version().is_none());
    session.admit(NOW);
    assert_eq!(session.version(), Some(version));
    while session.poll_bytes().is_some() {}
    session
}

fn feed(session: &mut Session, frame: Frame) {
    let version = session.version().unwrap_or(Version::V1_2);
    session.handle_bytes(NOW, &encode(&frame, version));
}

fn written(session: &mut Session) -> Vec<Frame> {
    let mut decoder = Decoder::new(Limits::default());
    decoder.start_session(session.version().unwrap_or(Version::V1_0));
    while let Some(bytes) = session.poll_bytes() {
        decoder.feed(&bytes);
    }
    std::iter::from_fn(|| decoder.poll().expect("the session writes frames")).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(usize),
    Settle { message: usize, ack: bool, transaction: Option<usize> },
    Begin(usize),
    Commit(usize),
    Abort(usize),
    Unsubscribe(usize),
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..3_usize).prop_map(Step::Deliver),
        5 => (0..20_usize, any::<bool>(), prop_oneof![Just(None), (0..2_usize).prop_map(Some)])
            .prop_map(|(message, ack, transaction)| Step::Settle { message, ack, transaction }),
        1 => (0..2_usize).prop_map(Step::Begin),
        1 => (0..2_usize).prop_map(Step::Commit),
        1 => (0..2_usize).prop_map(Step::Abort),
        1 => (0..3_usize).prop_map(Step::Unsubscribe),
        1 => Just(Step::Flush),
    ];
    vec(step, 0..40)
}

/// What the broker knows of each delivery.
#[derive(Default)]
struct Ledger {
    /// Not told the fate of.
    out: BTreeSet<String>,
    settled: BTreeSet<String>,
}

impl Ledger {
    fn settle(&mut self, message_id: &str) {
        assert!(self.out.remove(message_id), "{message_id} was settled twice, or never delivered");
        self.settled.insert(message_id.to_owned());
    }

    fn take_requests(&mut self, session: &mut Session) {
        while let Some(request) = session.poll_request() {
            let ticket = request.ticket();
            match request {
                Request::Publish { acks: items, .. } | Request::Ack { items, .. } => {
                    items.iter().for_each(|item| self.settle(&item.message_id));
                }
                Request::Unsubscribe { requeue, .. } | Request::Disconnect { requeue, .. } => {
                    requeue.iter().for_each(|id| self.settle(id));
                }
                Request::Subscribe { .. } | Request::Forget { .. } => {}
            }
            session.receipt(ticket, &[]);
        }
    }
}

/// Subscription 0 is `auto`, 1 `client`, 2 `client-individual`.
fn play(version: Version, steps: &[Step], leaves: bool) {
    let mut session = connected(version, Limits::default());
    for (number, ack) in ["auto", "client", "client-individual"].iter().enumerate() {
        let (id, destination) = (number.to_string(), format!("/queue/{number}"));
        let headers = [("id", id.as_str()), ("destination", &destination), ("ack", ack)];
        feed(&mut session, Frame::new(Command::Subscribe, headers));
    }
    let mut ledger = Ledger::default();
    // What the client needs to acknowledge a message: its `ack` header, or its id and subscription.
    let mut seen: Vec<BTreeMap<String, String>> = Vec::new();
    let mut open: BTreeSet<usize> = (0..3).collect();
    let mut transactions = BTreeSet::new();

    for (number, step) in steps.iter().enumerate() {
        let transaction = |number: usize| format!("t{number}");
        match *step {
            Step::Deliver(sub) => {
                let message_id = format!("m{number}");
                let delivery = Delivery {
                    count: None,
                    message_id: &message_id,
                    redelivered: false,
                    destination: "/queue/x",
                    head: &Bytes::new(),
                    body: &Bytes::from_static(b"x"),
                };
                let position = session.deliver(SubKey(sub as u32), delivery);
                assert_eq!(position.is_some(), open.contains(&sub));
                if position.is_some() {
                    assert_eq!(position, Some(session.emitted()));
                    ledger.out.insert(message_id);
                }
            }
            Step::Settle { message, ack, transaction: wanted } if message < seen.len() => {
                let headers = &seen[message];
                // Only what the versions allow: no NACK in 1.0, an open subscription in 1.1, an `ack` header in 1.2.
                let allowed = match version {
                    Version::V1_0 => ack,
                    Version::V1_1 => headers["subscription"].parse().is_ok_and(|sub| open.contains(&sub)),
                    Version::V1_2 => headers.contains_key("ack"),
                };
                let is_individual = headers["subscription"] == "2";
                let again = is_individual && version < Version::V1_2 && ledger.settled.contains(&headers["message-id"]);
                if !allowed || again || wanted.is_some_and(|number| !transactions.contains(&number)) {
                    continue;
                }
                let mut entries: Vec<(String, String)> = match version {
                    Version::V1_2 => vec![("id".into(), headers["ack"].clone())],
                    _ => vec![
                        ("message-id".into(), headers["message-id"].clone()),
                        ("subscription".into(), headers["subscription"].clone()),
                    ],
                };
                entries.extend(wanted.map(|number| ("transaction".into(), transaction(number))));
                feed(&mut session, Frame::new(if ack { Command::Ack } else { Command::Nack }, entries));
                // In 1.0 and 1.1 a delivery that a transaction holds, or of a closed subscription, is an error to
                // name again: the conversation ends here, and the ledger has to be right even so.
                if session.should_close() {
                    assert!(version < Version::V1_2);
                    ledger.take_requests(&mut session);
                    return;
                }
            }
            Step::Settle { .. } => {}
            Step::Begin(number) if transactions.insert(number) => {
                feed(&mut session, Frame::new(Command::Begin, [("transaction", transaction(number))]));
            }
            Step::Commit(number) if transactions.remove(&number) => {
                feed(&mut session, Frame::new(Command::Commit, [("transaction", transaction(number))]));
            }
            Step::Abort(number) if transactions.remove(&number) => {
                feed(&mut session, Frame::new(Command::Abort, [("transaction", transaction(number))]));
            }
            Step::Begin(_) | Step::Commit(_) | Step::Abort(_) => {}
            Step::Unsubscribe(sub) if open.remove(&sub) => {
                feed(&mut session, Frame::new(Command::Unsubscribe, [("id", sub.to_string())]));
            }
            Step::Unsubscribe(_) => {}
            Step::Flush => session.handle_flushed(session.emitted()),
        }
        ledger.take_requests(&mut session);
        for frame in written(&mut session) {
            assert_eq!(frame.command, Command::Message, "{frame:?}");
            seen.push(frame.headers.iter().map(|(name, value)| (name.into(), value.into())).collect());
        }
    }

    // With everything ended, the session owes the broker nothing: one by one, or by leaving.
    if leaves {
        feed(&mut session, Frame::new(Command::Disconnect, [("receipt", "bye")]));
        ledger.take_requests(&mut session);
        session.handle_flushed(session.emitted());
        ledger.take_requests(&mut session);
        assert_eq!(ledger.out, BTreeSet::new());
        assert!(session.should_close());
        return;
    }
    for number in transactions {
        feed(&mut session, Frame::new(Command::Abort, [("transaction", format!("t{number}"))]));
    }
    for sub in open {
        feed(&mut session, Frame::new(Command::Unsubscribe, [("id", sub.to_string())]));
    }
    session.handle_flushed(session.emitted());
    ledger.take_requests(&mut session);
    assert_eq!(ledger.out, BTreeSet::new());
    assert_eq!(session.pending(), 0);
}

proptest! {
    #[test]
    fn every_delivery_is_settled_exactly_once(
        version in select(Version::ALL.to_vec()),
        steps in steps(),
        leaves in any::<bool>(),
    ) {
        play(version, &steps, leaves);
    }

    #[test]
    fn no_bytes_make_a_session_panic(
        connect in any::<bool>(),
        lines in vec(select(vec![
            "SEND\n", "SUBSCRIBE\n", "UNSUBSCRIBE\n", "ACK\n", "NACK\n", "BEGIN\n", "COMMIT\n", "ABORT\n",
            "DISCONNECT\n", "CONNECT\n", "id:0\n", "id:0-0\n", "destination:/queue/a\n", "transaction:t\n", "receipt:r\n",
            "ack:client\n", "accept-version:1.2\n", "heart-beat:1,1\n", "content-length:3\n", "message-id:m\n",
            "prefetch-count:1\n", "\n", "\n\0", "\0", "\r\n", "x",
        ]), 0..60),
        noise in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut session = Session::new(NOW, SessionConfig::default());
        if connect {
            session = connected(Version::V1_2, Limits::default());
        }
        let mut bytes = lines.concat().into_bytes();
        for (at, byte) in noise {
            if !bytes.is_empty() {
                *at.get_mut(&mut bytes) = byte;
            }
        }
        for (turn, piece) in bytes.chunks(7).enumerate() {
            let now = Now { mono_ms: 1 + turn as u64 * 100, wall_ms: 1 };
            session.handle_bytes(now, piece);
            if session.poll_login().is_some() && turn % 2 == 0 {
                session.admit(now);
            }
            while let Some(request) = session.poll_request() {
                session.receipt(request.ticket(), &[]);
            }
            session.handle_timeout(now);
            prop_assert!(session.should_close() || session.deadline() > now.mono_ms);
        }
        let errors = written(&mut session).iter().filter(|frame| frame.command == Command::Error).count();
        prop_assert!(errors <= usize::from(session.should_close()));
    }
}

#[test]
fn what_comes_after_connect_waits_until_the_client_is_let_in() {
    let mut session = Session::new(NOW, SessionConfig::default());
    let connect = "CONNECT\naccept-version:1.2\nlogin:ada\npasscode:a:b\\n \n\n\0SEND\ndestination:/queue/a\n\n1\0";
    session.handle_bytes(NOW, connect.as_bytes());
    let login = session.poll_login().expect("it says who it is");
    assert_eq!(login.name.as_deref(), Some("ada"));
    assert!(!format!("{login:?}").contains("a:b"), "passcodes are not shown");
    session.handle_bytes(NOW, b"SEND\ndestination:/queue/a\nreceipt:1\n\n2\0SUBSCRIBE\n");
    assert!(session.poll_login().is_none() && session.poll_request().is_none() && session.poll_bytes().is_none());
    session.admit(NOW);
    let bodies: Vec<_> = std::iter::from_fn(|| session.poll_request())
        .map(|request| match request {
            Request::Publish { unit, .. } => unit[0].body.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(bodies, ["1", "2"]);
    assert_eq!(written(&mut session)[0].command, Command::Connected);
    // Once is enough.
    session.admit(NOW);
    session.handle_bytes(NOW, b"id:0\ndestination:/queue/a\n\n\0");
    assert!(matches!(session.poll_request(), Some(Request::Subscribe { .. })));
    assert!(session.poll_bytes().is_none());
}

#[test]
fn who_is_not_let_in_soon_and_who_sends_too_much_before_is_told_so() {
    let asking = || {
        let mut session = Session::new(NOW, SessionConfig::default());
        session.handle_bytes(NOW, b"STOMP\naccept-version:1.2\nlogin:\npasscode:\n\n\0");
        session
    };
    let mut session = asking();
    let login = session.poll_login().expect("it says who it is");
    assert_eq!((login.name, login.passcode), (None, None), "empty headers say nothing");
    let late = Now { mono_ms: session.deadline(), ..NOW };
    session.handle_timeout(late);
    let error = error_text(&mut session).expect("an ERROR");
    assert!(error.contains("was not checked within 10000 ms"), "{error}");
    session.admit(late);
    assert!(session.should_close() && session.poll_bytes().is_none());

    let mut session = asking();
    session.handle_bytes(NOW, &[b'x'; 256 << 10]);
    assert!(!session.should_close());
    session.handle_bytes(NOW, b"x");
    let error = error_text(&mut session).expect("an ERROR");
    assert!(error.contains("wait for CONNECTED"), "{error}");
    let mut session = asking();
    session.error("no", "no", None);
    session.admit(NOW);
    assert!(session.should_close() && session.version().is_none());
}

fn error_text(session: &mut Session) -> Option<String> {
    let error = written(session).into_iter().find(|frame| frame.command == Command::Error)?;
    assert!(session.should_close());
    error.headers.get("message").map(str::to_owned)
}

fn send(transaction: &str, len: usize) -> Frame {
    Frame::new(Command::Send, [("destination", "/queue/a"), ("transaction", transaction)]).with_body(vec![0; len])
}

fn begin(transaction: &str) -> Frame {
    Frame::new(Command::Begin, [("transaction", transaction)])
}

#[test]
fn open_transactions_are_limited_in_number_and_bytes() {
    let limits = Limits { transactions: 2, transaction_bytes: 3 * TRANSACTION_ITEM_COST, ..Limits::default() };
    let mut session = connected(Version::V1_2, limits);
    feed(&mut session, begin("a"));
    feed(&mut session, begin("b"));
    feed(&mut session, send("a", TRANSACTION_ITEM_COST));
    feed(&mut session, send("b", 0));
    assert_eq!(error_text(&mut session), None, "just full");
    // What is committed makes room again.
    feed(&mut session, Frame::new(Command::Commit, [("transaction", "a")]));
    feed(&mut session, send("b", TRANSACTION_ITEM_COST));
    assert_eq!(error_text(&mut session), None);
    feed(&mut session, send("b", 0));
    assert!(error_text(&mut session).unwrap().contains("at most 768 bytes"));

    let mut session = connected(Version::V1_2, limits);
    for id in ["a", "b", "c"] {
        feed(&mut session, begin(id));
    }
    assert!(error_text(&mut session).unwrap().contains("at most 2 transactions"));
}

#[test]
fn subscriptions_are_limited() {
    let mut session = connected(Version::V1_2, Limits { subscriptions: 1, ..Limits::default() });
    for id in ["a", "b"] {
        feed(&mut session, Frame::new(Command::Subscribe, [("id", id), ("destination", "/queue/a")]));
    }
    assert!(error_text(&mut session).unwrap().contains("at most 1 subscriptions"));
}

#[test]
fn a_small_body_in_a_transaction_does_not_keep_the_receive_buffer() {
    let mut session = connected(Version::V1_2, Limits::default());
    let plain = Frame::new(Command::Send, [("destination", "/queue/a")]).with_body("abc");
    let bytes = [begin("a"), send("a", 3), plain, Frame::new(Command::Commit, [("transaction", "a")])]
        .map(|frame| encode(&frame, Version::V1_2))
        .concat();
    session.handle_bytes(NOW, &bytes);
    let mut body = || match session.poll_request() {
        Some(Request::Publish { mut unit, .. }) => unit.remove(0).body,
        other => panic!("{other:?}"),
    };
    let (_in_the_buffer, in_the_transaction) = (body(), body());
    // Nobody else holds the memory it lies in.
    assert!(in_the_transaction.try_into_mut().is_ok());
}

#[test]
fn a_partial_flush_acknowledges_whole_messages_only() {
    let mut session = connected(Version::V1_2, Limits::default());
    feed(&mut session, Frame::new(Command::Subscribe, [("id", "0"), ("destination", "/queue/a")]));
    session.poll_request();
    let body = Bytes::from_static(b"x");
    let mut deliver = |message_id| {
        let delivery = Delivery {
            message_id,
            redelivered: false,
            count: None,
            destination: "/queue/a",
            head: &Bytes::new(),
            body: &body,
        };
        session.deliver(SubKey(0), delivery).unwrap()
    };
    let (first, second) = (deliver("m1"), deliver("m2"));
    session.handle_flushed(first - 1);
    assert_eq!(session.poll_request(), None);
    session.handle_flushed(second - 1);
    assert!(matches!(session.poll_request(), Some(Request::Ack { items, .. }) if items.len() == 1));
    assert_eq!(session.in_flight(SubKey(0)), 1);
    session.handle_flushed(second);
    assert!(matches!(session.poll_request(), Some(Request::Ack { items, .. }) if *items[0].message_id == *"m2"));
    assert_eq!(session.in_flight(SubKey(0)), 0);
}
