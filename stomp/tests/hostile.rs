//! Clients that mean harm, and one that is served all the while.
//!
//! Each attack is made on a node with small limits and is still going on when the good client asks again, on its old
//! connection and on a new one; then the attackers must have been answered by an ERROR, or closed.

mod host;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rcgen::generate_simple_self_signed;
use rhizomq_stomp::{
    BrokerConfig,
    limits::Limits,
    rim::{Listener, ListenerConfig, Tls, TlsFiles},
    session::SessionConfig,
};

use crate::host::{Client, Host, PATIENCE};

/// The listeners.
const PLAIN: usize = 0;
const TLS: usize = 1;
const WS: usize = 2;
const PROXY: usize = 3;

/// Long enough for the good client on a machine that is busy with other things.
const TIMEOUT: Duration = Duration::from_secs(3);

const CONNECT: &str = "CONNECT\naccept-version:1.2\nhost:h\n\n\0";

/// A node under attack, and a client that it serves.
struct Siege {
    host: Host,
    good: Client,
    rounds: u32,
    _files: tempfile::TempDir,
}

impl Siege {
    fn begin() -> Self {
        Self::with(ListenerConfig::default(), |_| {})
    }

    fn with(clients: ListenerConfig, change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let files = tempfile::tempdir().unwrap();
        let pair = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
        std::fs::write(&certificate, pair.cert.pem()).unwrap();
        std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        let tls = Arc::new(Tls::open(TlsFiles { certificate, key, client_ca: None }).unwrap());
        let mut broker = BrokerConfig {
            session: SessionConfig {
                limits: Limits { body: 1 << 20, subscriptions: 10, transactions: 3, ..Limits::default() },
                connect_timeout_ms: TIMEOUT.as_millis() as u64,
                ..SessionConfig::default()
            },
            ..BrokerConfig::default()
        };
        change(&mut broker);
        let clients = ListenerConfig { entry_timeout: TIMEOUT, max_message: 4 << 20, ..clients };
        let kinds: [host::Kind<'_>; 4] = [
            &|listener| listener,
            &|listener| listener.over_tls(tls.clone()),
            &Listener::over_websocket,
            &|listener| listener.behind_proxy(true),
        ];
        let host = Host::open(broker, clients, &kinds);
        let good = Client::connect(&host, "0,0");
        Self { host, good, rounds: 0, _files: files }
    }

    fn attacker(&self) -> Client {
        Client::connect(&self.host, "0,0")
    }

    /// The good client gets what it wants, on the connection that it has and on a new one.
    fn still_serves(&mut self) {
        self.rounds += 1;
        self.good.is_served(&format!("good-{}", self.rounds));
        Client::connect(&self.host, "0,0").is_served(&format!("new-{}", self.rounds));
    }

    /// What is written before the node gives up; then the ERROR that it answers with.
    fn refused(&mut self, mut attacker: Client, attack: &[u8]) -> String {
        // The node may close in the middle of it.
        let _ = attacker.stream.write_all(attack);
        self.still_serves();
        let mut last = None;
        while let Some(frame) = attacker.frame() {
            last = Some(frame);
        }
        let last = last.expect("an ERROR");
        assert!(last.starts_with("ERROR"), "{last}");
        last
    }

    /// All of these are closed at last.
    fn closes(&mut self, attackers: Vec<TcpStream>) {
        self.still_serves();
        for mut attacker in attackers {
            loop {
                match attacker.read(&mut [0; 4096]) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => {
                        let timed_out =
                            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                        assert!(!timed_out, "an attacker is still connected");
                        break;
                    }
                }
            }
        }
        self.still_serves();
    }
}

#[test]
fn bombs_are_refused_by_the_limit_that_they_break() {
    let mut siege = Siege::begin();
    let send = "SEND\ndestination:/queue/a\n";
    let many = |frame: &dyn Fn(usize) -> String| (0..30).map(frame).collect::<String>();
    let bombs: [(String, &str); 9] = [
        (format!("{send}content-length:99999999999999999999\n\n"), "the body has more than 1048576 bytes"),
        (format!("{send}content-length:107374182400\n\n"), "the body has more than 1048576 bytes"),
        (format!("{send}\n{}", "x".repeat(3 << 20)), "the body has more than 1048576 bytes"),
        (format!("{send}a:{}", "x".repeat(100 << 10)), "a header line has more than 8192 bytes"),
        (format!("{send}{}", "a:b\n".repeat(1000)), "more than 64 headers"),
        (format!("{send}{}", format!("{}:b\n", "x".repeat(8000)).repeat(30)), "the headers have more than 65536 bytes"),
        ("x".repeat(1 << 20), "is not a STOMP command"),
        (many(&|id| format!("SUBSCRIBE\nid:{id}\ndestination:/queue/b\n\n\0")), "at most 10 subscriptions"),
        (many(&|id| format!("BEGIN\ntransaction:{id}\n\n\0")), "at most 3 transactions"),
    ];
    for (bomb, expected) in bombs {
        let attacker = siege.attacker();
        let error = siege.refused(attacker, bomb.as_bytes());
        assert!(error.contains(expected), "{error}");
    }
    // Before CONNECT little is taken.
    for (bomb, expected) in [
        (format!("CONNECT\naccept-version:1.2\n{}", "a:b\n".repeat(100)), "more than 64 headers"),
        (format!("CONNECT\n{}", format!("{}:b\n", "x".repeat(4000)).repeat(10)), "the first frame has more than 16384"),
        (format!("{send}content-length:1000000\n\n{}", "x".repeat(1_000_000)), "the first frame has more than 16384"),
    ] {
        let attacker = Client::new(siege.host.dial(PLAIN));
        let error = siege.refused(attacker, bomb.as_bytes());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn who_is_refused_may_finish_its_sentence_and_has_the_error_meanwhile() {
    let siege = Siege::begin();
    let mut attacker = siege.attacker();
    attacker.write("SEND\ndestination:/queue/a\ncontent-length:3000000\n\n");
    assert!(attacker.frame().unwrap().contains("the body has more than 1048576 bytes"));
    // A socket that is closed while bytes wait in it resets the connection, and takes the ERROR back on some systems.
    assert_eq!(attacker.frame(), None, "the node has said all");
    for _ in 0..10 {
        attacker.write(&"x".repeat(10_000));
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn frames_before_connect_are_refused() {
    let mut siege = Siege::begin();
    for frame in [
        "SEND\ndestination:/queue/a\n\nx\0",
        "SUBSCRIBE\nid:0\ndestination:/queue/a\n\n\0",
        "DISCONNECT\n\n\0",
        "MESSAGE\n\n\0",
    ] {
        let attacker = Client::new(siege.host.dial(PLAIN));
        let error = siege.refused(attacker, frame.as_bytes());
        assert!(error.contains("the first frame must be CONNECT or STOMP"), "{error}");
    }
    let attacker = siege.attacker();
    let error = siege.refused(attacker, CONNECT.as_bytes());
    assert!(error.contains("a client can't send CONNECT"), "{error}");
}

#[test]
fn garbage_on_every_port_is_closed() {
    let mut siege = Siege::begin();
    let mut state = 7_u64;
    let mut random = move |len: usize| -> Vec<u8> {
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u8
            })
            .collect()
    };
    let upgrade = "GET /stomp HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut attackers = Vec::new();
    for listener in [PLAIN, TLS, WS, PROXY] {
        for len in [1, 16, 300, 70_000] {
            let mut garbage = vec![random(len), vec![0; len], vec![0xff; len]];
            if listener == WS {
                // After an upgrade too.
                garbage =
                    garbage.iter().flat_map(|bytes| [bytes.clone(), [upgrade.as_bytes(), bytes].concat()]).collect();
            }
            if listener == TLS {
                // A record that claims to be a handshake.
                garbage.push([&[0x16, 3, 1, 0x3f, 0xff][..], &random(len)].concat());
                garbage.push(CONNECT.as_bytes().to_vec());
            }
            for bytes in garbage {
                let mut stream = siege.host.dial(listener);
                let _ = stream.write_all(&bytes);
                attackers.push(stream);
            }
        }
    }
    siege.closes(attackers);
}

#[test]
fn who_dawdles_before_connect_is_closed() {
    let mut siege = Siege::begin();
    let starts: [(usize, &[u8]); 9] = [
        (PLAIN, b""),
        (PLAIN, b"CONNECT\naccept-"),
        (PLAIN, b"\n\n\n"),
        (TLS, b""),
        (TLS, &[0x16, 3, 1, 2, 0, 1]),
        (WS, b"GET / HTTP/1.1\r\nHost:"),
        (WS, b""),
        (PROXY, b"\r\n\r\n\0\r\nQU"),
        (PROXY, b""),
    ];
    let mut attackers = Vec::new();
    for _ in 0..5 {
        for (listener, start) in starts {
            let mut stream = siege.host.dial(listener);
            stream.write_all(start).unwrap();
            attackers.push(stream);
        }
    }
    // Drop by drop does not help.
    let mut dripping = siege.host.dial(PLAIN);
    let mut drops = dripping.try_clone().unwrap();
    let begun = Instant::now();
    let drip = thread::spawn(move || {
        while begun.elapsed() < PATIENCE && drops.write_all(b"\n").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    siege.closes(attackers);
    let mut said = String::new();
    let _ = dripping.read_to_string(&mut said);
    assert!(said.contains("no CONNECT frame within 3000 ms"), "{said}");
    drop(dripping);
    drip.join().unwrap();
}

#[test]
fn who_never_reads_is_cut_off() {
    let mut siege = Siege::with(ListenerConfig::default(), |broker| broker.session.limits.unread_ms = 1000);
    let mut attackers = Vec::new();
    for number in 0..3 {
        let mut attacker = Client::connect_narrowly(&siege.host);
        attacker.write(&format!("SUBSCRIBE\nid:0\ndestination:/topic/{number}\n\n\0"));
        attackers.push(attacker);
    }
    // The subscriptions are in force when another client's frame is answered.
    siege.still_serves();
    let body = "x".repeat(256 << 10);
    for _ in 0..40 {
        for number in 0..3 {
            siege.good.write(&format!("SEND\ndestination:/topic/{number}\nreceipt:r\n\n{body}\0"));
            assert!(siege.good.frame().unwrap().starts_with("RECEIPT"));
        }
    }
    // One that asks for receipts and never reads them.
    let mut greedy = Client::connect_narrowly(&siege.host);
    let long = "r".repeat(8000);
    let start = Instant::now();
    while greedy.stream.write_all(format!("SEND\ndestination:/topic/x\nreceipt:{long}\n\n\0").as_bytes()).is_ok() {
        assert!(start.elapsed() < PATIENCE, "it is still connected");
    }
    for mut attacker in attackers {
        siege.still_serves();
        while attacker.stream.write_all(b"\n").is_ok() {
            assert!(start.elapsed() < PATIENCE, "it is still connected");
            thread::sleep(Duration::from_millis(20));
        }
    }
    siege.still_serves();
}

#[test]
fn frames_that_never_end_are_given_up_before_they_fill_the_memory() {
    let mut siege = Siege::with(ListenerConfig::default(), |broker| broker.all_incoming_bytes = 2 << 20);
    // Each is within its limits, all together are not.
    let part = format!("SEND\ndestination:/queue/a\ncontent-length:1000000\n\n{}", "x".repeat(300 << 10));
    let mut attackers: Vec<Client> = (0..12).map(|_| siege.attacker()).collect();
    for attacker in &mut attackers {
        let _ = attacker.stream.write_all(part.as_bytes());
        siege.good.publish(&"y".repeat(500 << 10));
    }
    siege.still_serves();
    let error = attackers[0].frame().expect("an ERROR");
    assert!(error.starts_with("ERROR") && error.contains("takes too long to come in"), "{error}");
}

#[test]
fn one_connection_too_many_is_turned_away_and_harms_nobody() {
    let limit = 20;
    let clients = ListenerConfig { max_connections: limit, max_per_address: limit, ..ListenerConfig::default() };
    let mut siege = Siege::with(clients, |_| {});
    let mut attackers: Vec<Client> = (1..limit).map(|_| siege.attacker()).collect();
    for listener in [PLAIN, TLS, WS, PROXY] {
        let mut stream = siege.host.dial(listener);
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        let is_told = said.starts_with("ERROR\nmessage:too many connections");
        assert_eq!(is_told, matches!(listener, PLAIN | PROXY), "{said}");
        siege.good.is_served("good");
    }
    // A place that is given back is found by the next.
    drop(attackers.pop());
    let start = Instant::now();
    loop {
        let mut next = Client::new(siege.host.dial(PLAIN));
        let sent = next.stream.write_all(CONNECT.as_bytes());
        if sent.is_ok() && next.frame().is_some_and(|frame| frame.starts_with("CONNECTED")) {
            next.is_served("next");
            break;
        }
        assert!(start.elapsed() < PATIENCE, "no place is given back");
    }
    siege.good.is_served("good");
}

#[test]
fn a_flood_of_pings_and_unanswered_pongs_costs_nothing() {
    let mut siege = Siege::begin();
    let upgrade = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut stream = siege.host.dial(WS);
    stream.write_all(upgrade.as_bytes()).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let flood = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[b'p'; 125]].concat().repeat(1000);
    // Until nothing more is taken, or long enough; none of the answers is read.
    for _ in 0..200 {
        if stream.write_all(&flood).is_err() {
            break;
        }
    }
    // It has not said CONNECT.
    siege.closes(vec![stream]);
}
