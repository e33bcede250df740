//! A whole broker of one node, over a disk in memory: what its clients see.

use std::collections::BTreeMap;

use rhizomq_engine::{Batch, Engine, Epoch, NodeId, Now, Planted, Store as _, StoreError, store::MemoryStore};
use rhizomq_net::{CommitError, Node, NodeConfig, Output as NetOutput, SwimConfig, Timing, rim::NetworkSecret};
use rhizomq_stomp::{
    Broker, BrokerConfig, ConnId, Output,
    frame::{Command, Decoder, Frame, Version, encode},
    limits::Limits,
};

/// The broker with its disk, and what it wrote to clients.
struct Bench {
    broker: Broker,
    store: MemoryStore,
    /// A commit that is not written yet, while the disk is held.
    writing: Option<(u64, Batch)>,
    holds_disk: bool,
    decoders: BTreeMap<ConnId, Decoder>,
    written: BTreeMap<ConnId, u64>,
    frames: BTreeMap<ConnId, Vec<Frame>>,
    closed: Vec<ConnId>,
    paused: Vec<(ConnId, bool)>,
    stopped: bool,
    now: Now,
}

const ONE: ConnId = ConnId(1);
const TWO: ConnId = ConnId(2);

impl Bench {
    fn new(config: BrokerConfig) -> Self {
        let (store, now, id) = (MemoryStore::new(), Now { mono_ms: 1, wall_ms: 1_000 }, NodeId([7; 16]));
        let (engine, _) = Engine::open(store.reader(), id, Epoch(5), now, Planted::default()).unwrap();
        let node = NodeConfig {
            name: "alone".to_owned(),
            site: String::new(),
            network: NetworkSecret::from_bytes([1; 32]),
            next_network: None,
            former_networks: Vec::new(),
            addresses: Vec::new(),
            copies: 3,
            confirm: 2,
            confirm_sites: 1,
            seed: 1,
            timing: Timing::default(),
            swim: SwimConfig::default(),
            planted: Planted::default(),
        };
        let broker = Broker::new(Node::new(now, engine, node), config);
        let mut bench = Self {
            broker,
            store,
            writing: None,
            holds_disk: false,
            decoders: BTreeMap::new(),
            written: BTreeMap::new(),
            frames: BTreeMap::new(),
            closed: Vec::new(),
            paused: Vec::new(),
            stopped: false,
            now,
        };
        bench.settle();
        bench
    }

    fn settle(&mut self) {
        loop {
            if !self.holds_disk
                && let Some((seq, batch)) = self.writing.take()
            {
                let result = self.store.commit(&[batch]).map_err(|error| CommitError::Refused(error.to_string()));
                self.broker.handle_committed(self.now, seq, result);
            }
            match self.broker.poll_output() {
                Some(Output::Net(NetOutput::Commit { seq, batch })) => self.writing = Some((seq, batch)),
                Some(Output::Net(_)) => {}
                Some(Output::ClientBytes { conn, bytes }) => self.read(conn, &bytes),
                Some(Output::ClientClose { conn }) => self.closed.push(conn),
                Some(Output::ClientPause { conn }) => self.paused.push((conn, true)),
                Some(Output::ClientResume { conn }) => self.paused.push((conn, false)),
                Some(Output::Stopped) => self.stopped = true,
                Some(other) => panic!("{other:?}"),
                None if self.writing.is_none() || self.holds_disk => return,
                None => {}
            }
        }
    }

    fn read(&mut self, conn: ConnId, bytes: &[u8]) {
        *self.written.entry(conn).or_default() += bytes.len() as u64;
        let decoder = self.decoders.get_mut(&conn).expect("only to those who are there");
        decoder.feed(bytes);
        while let Some(frame) = decoder.poll().expect("frames") {
            if frame.command == Command::Connected {
                decoder.start_session(Version::V1_2);
            }
            self.frames.entry(conn).or_default().push(frame);
        }
    }

    fn connect(&mut self, conn: ConnId) {
        self.connect_beating(conn, "0,0");
    }

    fn connect_beating(&mut self, conn: ConnId, beats: &str) {
        self.decoders.insert(conn, Decoder::new(Limits::default()));
        self.broker.handle_client_open(self.now, conn);
        let headers = [("accept-version", "1.2"), ("host", "x"), ("heart-beat", beats)];
        self.send(conn, Command::Connect, &headers, "");
        assert_eq!(self.take(conn)[0].command, Command::Connected);
    }

    fn send(&mut self, conn: ConnId, command: Command, headers: &[(&str, &str)], body: &str) {
        let frame = Frame::new(command, headers.iter().copied()).with_body(body.as_bytes().to_vec());
        self.broker.handle_client_bytes(self.now, conn, &encode(&frame, Version::V1_2));
        self.settle();
    }

    fn publish(&mut self, conn: ConnId, queue: &str, body: &str, receipt: &str) {
        self.send(conn, Command::Send, &[("destination", queue), ("receipt", receipt)], body);
    }

    fn subscribe(&mut self, conn: ConnId, queue: &str, ack: &str) {
        self.send(conn, Command::Subscribe, &[("destination", queue), ("id", "s"), ("ack", ack)], "");
    }

    fn flush(&mut self, conn: ConnId) {
        let total = self.written[&conn];
        self.broker.handle_client_flushed(self.now, conn, total);
        self.settle();
    }

    fn pass_time(&mut self, ms: u64) {
        let until = self.now.mono_ms + ms;
        while self.now.mono_ms < until {
            self.now.mono_ms = self.broker.deadline().clamp(self.now.mono_ms + 1, until);
            self.broker.handle_timeout(self.now);
            self.settle();
        }
    }

    /// The frames since the last call.
    fn take(&mut self, conn: ConnId) -> Vec<Frame> {
        self.frames.remove(&conn).unwrap_or_default()
    }

    fn bodies(&mut self, conn: ConnId) -> Vec<String> {
        let messages = self.take(conn).into_iter().filter(|frame| frame.command == Command::Message);
        messages.map(|frame| String::from_utf8(frame.body.to_vec()).unwrap()).collect()
    }

    fn depth(&mut self, queue: &str) -> (u64, u64, u64) {
        let status = self.broker.status();
        let found = status.queues.into_iter().find(|other| other.name == queue);
        found.map_or((0, 0, 0), |queue| (queue.depth, queue.in_flight, queue.consumers))
    }
}

fn receipts(frames: &[Frame]) -> Vec<&str> {
    let receipts = frames.iter().filter(|frame| frame.command == Command::Receipt);
    receipts.map(|frame| frame.headers.get("receipt-id").unwrap()).collect()
}

#[test]
fn receipts_wait_for_the_disk_keep_their_order_and_tell_the_copies() {
    let mut bench = Bench::new(BrokerConfig::default());
    bench.connect(ONE);
    bench.holds_disk = true;
    bench.publish(ONE, "/queue/a", "first", "1");
    bench.publish(ONE, "/topic/a", "second, kept nowhere", "2");
    bench.subscribe(ONE, "/queue/b", "auto");
    assert!(bench.take(ONE).is_empty(), "nothing is on disk");
    bench.holds_disk = false;
    bench.settle();
    let frames = bench.take(ONE);
    assert_eq!(receipts(&frames), ["1", "2"]);
    assert_eq!(frames[0].headers.get("copies"), Some("1"));
    assert_eq!(frames[1].headers.get("copies"), None);
}

#[test]
fn messages_arrive_in_order_and_only_what_was_flushed_is_consumed() {
    let mut bench = Bench::new(BrokerConfig::default());
    bench.connect(ONE);
    (0..30).for_each(|index| bench.publish(ONE, "/queue/a", &index.to_string(), "r"));
    bench.subscribe(ONE, "/queue/a", "auto");
    let all: Vec<_> = (0..30).map(|index| index.to_string()).collect();
    assert_eq!(bench.bodies(ONE), all);
    assert_eq!(bench.depth("/queue/a"), (30, 30, 1));

    bench.broker.handle_client_closed(bench.now, ONE);
    bench.settle();
    bench.connect(TWO);
    bench.subscribe(TWO, "/queue/a", "auto");
    let frames = bench.take(TWO);
    assert!(frames.iter().all(|frame| frame.headers.get("redelivered") == Some("true")) && frames.len() == 30);
    bench.flush(TWO);
    assert_eq!(bench.depth("/queue/a"), (0, 0, 1));
}

#[test]
fn who_leaves_keeps_what_was_written_to_it_and_hears_so_when_that_is_on_disk() {
    let mut bench = Bench::new(BrokerConfig::default());
    bench.connect(ONE);
    bench.connect(TWO);
    bench.subscribe(TWO, "/queue/a", "auto");
    bench.publish(ONE, "/queue/a", "x", "1");
    assert_eq!(bench.bodies(TWO), ["x"]);
    bench.subscribe(ONE, "/queue/a", "auto");
    bench.send(TWO, Command::Disconnect, &[("receipt", "bye")], "");
    bench.publish(ONE, "/queue/a", "too late for the one who leaves", "2");
    assert_eq!(bench.bodies(ONE), ["too late for the one who leaves"]);
    assert!(bench.take(TWO).is_empty(), "its socket has not taken the message");
    bench.holds_disk = true;
    bench.flush(TWO);
    assert!(bench.take(TWO).is_empty(), "that it is consumed is not on disk");
    bench.holds_disk = false;
    bench.settle();
    assert_eq!(receipts(&bench.take(TWO)), ["bye"]);
    assert_eq!(bench.closed, [TWO]);
    bench.flush(ONE);
    assert!(bench.bodies(ONE).is_empty() && bench.depth("/queue/a") == (0, 0, 1));
}

#[test]
fn who_leaves_and_does_not_read_is_cut_off_and_others_get_what_it_had() {
    let mut bench = Bench::new(BrokerConfig::default());
    bench.connect(ONE);
    bench.connect(TWO);
    bench.subscribe(TWO, "/queue/a", "auto");
    bench.publish(ONE, "/queue/a", "x", "1");
    bench.subscribe(ONE, "/queue/a", "auto");
    bench.take(ONE);
    bench.send(TWO, Command::Disconnect, &[("receipt", "bye")], "");
    bench.pass_time(BrokerConfig::default().session.linger_ms - 1);
    assert!(bench.bodies(ONE).is_empty() && bench.closed.is_empty());
    bench.pass_time(1);
    assert_eq!(bench.closed, [TWO]);
    let frames = bench.take(ONE);
    assert_eq!(frames[0].headers.get("redelivered"), Some("true"));
}

#[test]
fn an_acknowledgement_is_answered_when_it_is_on_disk_and_a_refused_message_comes_again() {
    let mut bench = Bench::new(BrokerConfig::default());
    bench.connect(ONE);
    bench.subscribe(ONE, "/queue/a", "client-individual");
    bench.publish(ONE, "/queue/a", "x", "1");
    let frames = bench.take(ONE);
    let ack = frames.iter().find_map(|frame| frame.headers.get("ack")).unwrap();
    bench.send(ONE, Command::Nack, &[("id", ack)], "");
    let frames = bench.take(ONE);
    assert_eq!(frames[0].headers.get("redelivered"), Some("true"));
    let ack = frames[0].headers.get("ack").unwrap();
    bench.holds_disk = true;
    bench.send(ONE, Command::Ack, &[("id", ack), ("receipt", "2")], "");
    assert!(bench.take(ONE).is_empty());
    bench.holds_disk = false;
    bench.settle();
    assert_eq!(receipts(&bench.take(ONE)), ["2"]);
    assert_eq!(bench.depth("/queue/a"), (0, 0, 1));
    assert_eq!(bench.broker.status().duplicates, 0);
}

#[test]
fn a_transaction_that_can_not_be_written_undoes_its_acknowledgements() {
    let mut bench = Bench::new(BrokerConfig::default());
    bench.connect(ONE);
    bench.connect(TWO);
    bench.publish(TWO, "/queue/a", "x", "1");
    bench.subscribe(ONE, "/queue/a", "client-individual");
    let frames = bench.take(ONE);
    let ack = frames[0].headers.get("ack").unwrap();
    bench.send(ONE, Command::Begin, &[("transaction", "t")], "");
    bench.send(ONE, Command::Ack, &[("id", ack), ("transaction", "t")], "");
    bench.send(ONE, Command::Send, &[("destination", "/queue/b"), ("transaction", "t")], "y");
    bench.store.fail_next(StoreError::Full { context: "test".to_owned() });
    bench.send(ONE, Command::Commit, &[("transaction", "t"), ("receipt", "2")], "");
    let frames = bench.take(ONE);
    assert_eq!(frames.last().map(|frame| frame.command), Some(Command::Error));
    assert_eq!(frames.last().unwrap().headers.get("receipt-id"), Some("2"));
    assert_eq!(bench.closed, [ONE]);
    bench.broker.handle_client_closed(bench.now, ONE);
    bench.subscribe(TWO, "/queue/a", "auto");
    assert_eq!(bench.bodies(TWO), ["x"]);
    assert_eq!(bench.depth("/queue/b"), (0, 0, 0));
}

#[test]
fn topics_reach_all_who_listen_and_are_not_kept() {
    let mut bench = Bench::new(BrokerConfig::default());
    bench.connect(ONE);
    bench.connect(TWO);
    bench.publish(ONE, "/topic/a", "too early", "1");
    bench.subscribe(ONE, "/topic/a", "auto");
    bench.subscribe(TWO, "/topic/a", "client");
    bench.publish(ONE, "/topic/a", "news", "2");
    assert_eq!((bench.bodies(ONE), bench.bodies(TWO)), (vec!["news".to_owned()], vec!["news".to_owned()]));
}

#[test]
fn a_client_that_sends_faster_than_the_disk_is_paused_until_half_is_written() {
    let config = BrokerConfig { client_unconfirmed_bytes: 10_000, ..BrokerConfig::default() };
    let mut bench = Bench::new(config);
    bench.connect(ONE);
    bench.holds_disk = true;
    for _ in 0..12 {
        bench.publish(ONE, "/queue/a", &"x".repeat(700), "r");
    }
    assert_eq!(bench.paused, [(ONE, true)]);
    bench.holds_disk = false;
    bench.settle();
    assert_eq!(bench.paused, [(ONE, true), (ONE, false)]);
}

#[test]
fn a_client_that_is_not_read_from_is_not_cut_off_for_its_silence() {
    let mut bench = Bench::new(BrokerConfig { client_unconfirmed_bytes: 10_000, ..BrokerConfig::default() });
    bench.connect_beating(ONE, "10000,0");
    bench.flush(ONE);
    bench.holds_disk = true;
    bench.publish(ONE, "/queue/a", &"x".repeat(10_000), "r");
    assert_eq!(bench.paused, [(ONE, true)]);
    bench.pass_time(60_000);
    assert!(bench.closed.is_empty(), "its heart-beats wait in its socket");
    bench.holds_disk = false;
    bench.settle();
    assert_eq!(bench.paused, [(ONE, true), (ONE, false)]);
    bench.pass_time(19_999);
    assert!(bench.closed.is_empty(), "the count begins when it is read from again");
    bench.pass_time(1);
    assert_eq!(bench.closed, [ONE]);
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_others_get_what_it_had() {
    let mut bench = Bench::new(BrokerConfig::default());
    let unread_ms = Limits::default().unread_ms;
    bench.connect(ONE);
    bench.connect(TWO);
    bench.flush(ONE);
    bench.subscribe(ONE, "/queue/a", "client");
    bench.publish(TWO, "/queue/a", "x", "1");
    bench.flush(TWO);
    bench.pass_time(unread_ms - 1);
    // Any progress is a sign of life, and who has read all may be silent for ever.
    let total = bench.written[&ONE];
    bench.broker.handle_client_flushed(bench.now, ONE, total - 1);
    bench.pass_time(unread_ms - 1);
    assert!(bench.closed.is_empty());
    bench.pass_time(1);
    assert_eq!(bench.closed, [ONE]);
    let frames = bench.take(ONE);
    assert_eq!(frames.last().map(|frame| frame.command), Some(Command::Error));
    bench.subscribe(TWO, "/queue/a", "client");
    assert_eq!(bench.bodies(TWO), ["x"]);
}

#[test]
fn what_waits_for_one_socket_is_limited() {
    let mut config = BrokerConfig::default();
    config.session.limits.unread_bytes = 10_000;
    let mut bench = Bench::new(config);
    bench.connect(ONE);
    for number in 0..500 {
        bench.publish(ONE, "/topic/nobody", "", &number.to_string());
    }
    assert_eq!(bench.closed, [ONE]);
    assert!(bench.written[&ONE] < 10_500);
}

#[test]
fn connections_beyond_the_limit_are_closed() {
    let mut bench = Bench::new(BrokerConfig { max_clients: 1, ..BrokerConfig::default() });
    bench.connect(ONE);
    bench.broker.handle_client_open(bench.now, TWO);
    bench.settle();
    assert_eq!(bench.closed, [TWO]);
}

#[test]
fn a_shutdown_answers_what_was_asked_then_tells_the_clients_and_ends() {
    let mut bench = Bench::new(BrokerConfig::default());
    bench.connect(ONE);
    bench.holds_disk = true;
    bench.publish(ONE, "/queue/a", "x", "1");
    bench.broker.shutdown(bench.now);
    bench.publish(ONE, "/queue/a", "too late", "2");
    bench.settle();
    assert!(!bench.stopped && bench.closed.is_empty());
    bench.holds_disk = false;
    bench.settle();
    let frames = bench.take(ONE);
    assert_eq!(receipts(&frames), ["1"]);
    assert_eq!(frames.last().map(|frame| frame.command), Some(Command::Error));
    assert_eq!(bench.closed, [ONE]);
    assert!(!bench.stopped, "the client has not taken its last bytes");
    bench.broker.handle_client_closed(bench.now, ONE);
    bench.settle();
    assert!(bench.stopped);
}

#[test]
fn a_shutdown_does_not_wait_for_ever() {
    let mut bench = Bench::new(BrokerConfig::default());
    bench.connect(ONE);
    bench.broker.shutdown(bench.now);
    bench.settle();
    bench.pass_time(BrokerConfig::default().stop_patience_ms + 1);
    assert!(bench.stopped);
}

#[test]
fn after_a_restart_everything_waiting_is_delivered() {
    let mut bench = Bench::new(BrokerConfig::default());
    bench.connect(ONE);
    (0..3).for_each(|index| bench.publish(ONE, "/queue/a", &index.to_string(), "r"));
    let mut again = Bench::new(BrokerConfig::default());
    let (engine, _) =
        Engine::open(bench.store.reader(), NodeId([7; 16]), Epoch(6), again.now, Planted::default()).unwrap();
    let node = NodeConfig {
        name: "alone".to_owned(),
        site: String::new(),
        network: NetworkSecret::from_bytes([1; 32]),
        next_network: None,
        former_networks: Vec::new(),
        addresses: Vec::new(),
        copies: 3,
        confirm: 2,
        confirm_sites: 1,
        seed: 2,
        timing: Timing::default(),
        swim: SwimConfig::default(),
        planted: Planted::default(),
    };
    again.store = bench.store;
    again.broker = Broker::new(Node::new(again.now, engine, node), BrokerConfig::default());
    again.settle();
    again.connect(ONE);
    again.subscribe(ONE, "/queue/a", "auto");
    assert!(again.bodies(ONE).is_empty(), "not before it has looked around");
    again.pass_time(3_000);
    assert_eq!(again.bodies(ONE), ["0", "1", "2"]);
}

#[test]
fn a_consumer_with_a_large_prefetch_is_not_sent_more_than_its_socket_can_be_behind() {
    let mut bench = Bench::new(BrokerConfig::default());
    bench.connect(ONE);
    bench.connect(TWO);
    bench.flush(TWO);
    let body = "x".repeat(64 << 10);
    for _ in 0..320 {
        bench.publish(ONE, "/queue/a", &body, "r");
        bench.flush(ONE);
    }
    let headers = [("destination", "/queue/a"), ("id", "s"), ("ack", "client"), ("prefetch-count", "0")];
    bench.send(TWO, Command::Subscribe, &headers, "");
    assert!(bench.written[&TWO] < 5 << 20, "{} bytes at once", bench.written[&TWO]);
    let mut got = bench.bodies(TWO).len();
    while got < 320 {
        bench.flush(TWO);
        let more = bench.bodies(TWO).len();
        assert!(more > 0, "the rest comes as it reads");
        got += more;
    }
}
