//! A whole node in this process, with real sockets: clients that don't read, and a process that does not run for a while.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rhizomq_engine::{Engine, Epoch, Now, Planted, Store as _, store::MemoryStore};
use rhizomq_net::{
    Node, NodeConfig, SwimConfig, Timing,
    rim::{Identity, NetworkSecret, Rim, RimConfig, Secrets},
};
use rhizomq_stomp::{
    Broker, BrokerConfig, MemoryStatus, StoreStatus,
    rim::{Driver, DriverConfig, ListenerConfig},
    session::SessionConfig,
};
use tokio::{net::TcpSocket, runtime, sync::oneshot};

/// Far more than anything takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node on a thread of its own, which is all that it runs on.
struct Host {
    address: SocketAddr,
    runtime: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Host {
    fn start(session: SessionConfig) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (driver, address) = runtime.block_on(async { driver(session).await });
        let run = async move {
            let stopped = async move { drop(stopped.await) };
            driver.run(stopped).await.0.expect("the driver ends in order");
        };
        let thread = thread::spawn(move || runtime.block_on(run));
        Self { address, runtime: handle, stop: Some(stop), thread: Some(thread) }
    }

    /// Nothing of the node runs for so long, as if the process were suspended.
    fn suspend(&self, time: Duration) {
        let (done, ended) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            thread::sleep(time);
            let _ = done.send(());
        });
        ended.recv().unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(panic)) = self.thread.take().map(thread::JoinHandle::join) {
            assert!(thread::panicking(), "{panic:?}");
        }
    }
}

async fn driver(session: SessionConfig) -> (Driver, SocketAddr) {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = tokio::net::TcpListener::bind(loopback).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (identity, secret) = (Identity::generate().unwrap(), NetworkSecret::from_bytes([1; 32]));
    let (rim, rim_events) = Rim::open(RimConfig::new(loopback, Epoch(1), "n"), &identity, secret.clone()).unwrap();
    let (store, now) = (MemoryStore::new(), Now { mono_ms: 0, wall_ms: 1_000 });
    let (engine, _) = Engine::open(store.reader(), identity.node(), Epoch(1), now, Planted::default()).unwrap();
    let config = NodeConfig {
        name: "n".to_owned(),
        site: String::new(),
        network: secret.clone(),
        next_network: None,
        addresses: Vec::new(),
        copies: 3,
        confirm: 2,
        confirm_sites: 1,
        seed: 1,
        timing: Timing::default(),
        swim: SwimConfig::default(),
        planted: Planted::default(),
    };
    let broker = Broker::new(Node::new(now, engine, config), BrokerConfig { session, ..BrokerConfig::default() });
    let config = DriverConfig {
        store: Box::new(store),
        rim,
        rim_events,
        listener,
        clients: ListenerConfig::default(),
        secrets: Secrets::in_memory(secret.clone()),
        join: Vec::new(),
        started: Instant::now(),
        scrub: None,
        store_status: StoreStatus::default(),
        damaged_places: 0,
        memory: MemoryStatus::default(),
    };
    (Driver::new(broker, config).unwrap().0, address)
}

struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    fn connect(host: &Host, beats: &str) -> Self {
        Self::over(TcpStream::connect(host.address).unwrap(), beats)
    }

    /// With as few bytes between it and the node as the system allows.
    fn connect_narrowly(host: &Host) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stream = runtime.block_on(socket.connect(host.address)).unwrap().into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        Self::over(stream, "0,0")
    }

    fn over(stream: TcpStream, beats: &str) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self { stream, unread: Vec::new() };
        client.write(&format!("CONNECT\naccept-version:1.2\nhost:h\nheart-beat:{beats}\n\n\0"));
        assert!(client.frame().unwrap().starts_with("CONNECTED"));
        client
    }

    fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// The next frame, `None` when the node has closed. Tests use text without NUL.
    fn frame(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == 0) {
                let frame: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(String::from_utf8(frame).unwrap().trim_matches(['\n', '\0']).to_owned());
            }
            let mut chunk = vec![0; 64 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.unread.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn publish(&mut self, body: &str) {
        self.write(&format!("SEND\ndestination:/queue/q\nreceipt:r\n\n{body}\0"));
        let frame = self.frame().expect("still connected");
        assert!(frame.starts_with("RECEIPT"), "{frame}");
    }
}

#[test]
fn who_never_reads_is_cut_off_and_others_get_what_it_had() {
    let mut session = SessionConfig::default();
    session.limits.unread_ms = 500;
    let host = Host::start(session);
    let mut deaf = Client::connect_narrowly(&host);
    deaf.write("SUBSCRIBE\nid:0\ndestination:/queue/q\nack:client\nprefetch-count:0\n\n\0");
    let mut client = Client::connect(&host, "0,0");
    let bodies: BTreeSet<_> = (0..150).map(|number| format!("{number} {}", "x".repeat(64 << 10))).collect();
    bodies.iter().for_each(|body| client.publish(body));

    client.write("SUBSCRIBE\nid:0\ndestination:/queue/q\nprefetch-count:0\n\n\0");
    let (mut got, mut again) = (BTreeSet::new(), 0);
    while got.len() < bodies.len() {
        let frame = client.frame().expect("still connected");
        let (head, body) = frame.split_once("\n\n").unwrap();
        assert!(bodies.contains(body), "{head}");
        again += u32::from(head.contains("redelivered:true"));
        got.insert(body.to_owned());
    }
    assert!(again > 0, "some were with the one who did not read");
    // It does not read even now, and yet its connection ends.
    let start = Instant::now();
    while deaf.stream.write_all(b"\n").is_ok() {
        assert!(start.elapsed() < PATIENCE, "the connection is still there");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn who_sent_heart_beats_while_the_node_was_suspended_is_still_served() {
    let host = Host::start(SessionConfig { heart_beat_want_ms: 300, ..SessionConfig::default() });
    let mut client = Client::connect(&host, "300,0");
    let mut silent = Client::connect(&host, "300,0");
    let mut beats = client.stream.try_clone().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let beating = thread::spawn(move || {
        while stopped
            .recv_timeout(Duration::from_millis(50))
            .is_err_and(|why| why == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            if beats.write_all(b"\n").is_err() {
                return;
            }
        }
    });
    host.suspend(Duration::from_secs(2));
    client.publish("after the pause");
    let frame = silent.frame().expect("a last word");
    assert!(frame.starts_with("ERROR") && frame.contains("nothing received"), "{frame}");
    client.publish("and later");
    drop(stop);
    beating.join().unwrap();
}

#[test]
fn who_leaves_in_the_middle_of_a_stream_has_what_it_was_sent_and_others_get_the_rest() {
    let host = Host::start(SessionConfig::default());
    let mut client = Client::connect(&host, "0,0");
    let bodies: BTreeSet<_> = (0..500).map(|number| format!("{number} {}", "x".repeat(64 << 10))).collect();
    bodies.iter().for_each(|body| client.publish(body));
    let mut leaving = Client::connect_narrowly(&host);
    leaving.write("SUBSCRIBE\nid:0\ndestination:/queue/q\nprefetch-count:0\n\n\0");
    let mut own = BTreeSet::new();
    let body_of = |frame: &str| frame.split_once("\n\n").map(|(_, body)| body.to_owned());
    own.extend(body_of(&leaving.frame().expect("a message")));
    // By now more is on its way than the socket takes.
    leaving.write("DISCONNECT\nreceipt:bye\n\n\0");
    loop {
        let frame = leaving.frame().expect("a receipt before the end");
        if frame.starts_with("RECEIPT") {
            break;
        }
        own.extend(body_of(&frame));
    }
    assert!(own.len() < bodies.len(), "it left before it had everything");

    client.write("SUBSCRIBE\nid:0\ndestination:/queue/q\nprefetch-count:0\n\n\0");
    let mut rest = BTreeSet::new();
    while own.len() + rest.len() < bodies.len() {
        let body = body_of(&client.frame().expect("still connected")).unwrap();
        assert!(!own.contains(&body) && rest.insert(body), "a message came twice");
    }
}
