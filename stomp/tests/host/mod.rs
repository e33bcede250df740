//! A whole node in this process, with real sockets, for tests of what lies between sockets and sessions.

// Each test program uses a part of this, as if it were a library.
#![allow(dead_code, unreachable_pub)]

use std::{
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
    rim::{Driver, DriverConfig, Listener, ListenerConfig},
    session::SessionConfig,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime,
    sync::oneshot,
};

/// Far more than anything takes; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a listener is made into.
pub type Kind<'a> = &'a dyn Fn(Listener) -> Listener;

/// A node on a thread of its own, which is all that it runs on.
pub struct Host {
    /// Of each listener.
    pub addresses: Vec<SocketAddr>,
    runtime: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Host {
    /// With one listener, for plain STOMP.
    pub fn start(session: SessionConfig) -> Self {
        Self::open(
            BrokerConfig { session, ..BrokerConfig::default() },
            ListenerConfig::default(),
            &[&|listener| listener],
        )
    }

    /// With listeners of these kinds.
    pub fn open(broker: BrokerConfig, clients: ListenerConfig, kinds: &[Kind<'_>]) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (driver, addresses) = runtime.block_on(driver(broker, clients, kinds));
        let run = async move {
            let stopped = async move { drop(stopped.await) };
            driver.run(stopped).await.0.expect("the driver ends in order");
        };
        let thread = thread::spawn(move || runtime.block_on(run));
        Self { addresses, runtime: handle, stop: Some(stop), thread: Some(thread) }
    }

    /// A connection to one of the listeners.
    pub fn dial(&self, listener: usize) -> TcpStream {
        let stream = TcpStream::connect(self.addresses[listener]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Nothing of the node runs for so long, as if the process were suspended.
    pub fn suspend(&self, time: Duration) {
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

async fn driver(broker: BrokerConfig, clients: ListenerConfig, kinds: &[Kind<'_>]) -> (Driver, Vec<SocketAddr>) {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    for kind in kinds {
        let socket = TcpListener::bind(loopback).await.unwrap();
        addresses.push(socket.local_addr().unwrap());
        listeners.push(kind(Listener::new(socket)));
    }
    let (identity, secret) = (Identity::generate().unwrap(), NetworkSecret::from_bytes([1; 32]));
    let (rim, rim_events) = Rim::open(RimConfig::new(loopback, Epoch(1), "n"), &identity, secret.clone()).unwrap();
    let (store, now) = (MemoryStore::new(), Now { mono_ms: 0, wall_ms: 1_000 });
    let (engine, _) = Engine::open(store.reader(), identity.node(), Epoch(1), now, Planted::default()).unwrap();
    let config = NodeConfig {
        name: "n".to_owned(),
        site: String::new(),
        network: secret.clone(),
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
    let broker = Broker::new(Node::new(now, engine, config), broker);
    let config = DriverConfig {
        store: Box::new(store),
        rim,
        rim_events,
        listeners,
        clients,
        secrets: Secrets::in_memory(secret.clone()),
        join: Vec::new(),
        started: Instant::now(),
        scrub: None,
        store_status: StoreStatus::default(),
        damaged_places: 0,
        memory: MemoryStatus::default(),
    };
    (Driver::new(broker, config).unwrap().0, addresses)
}

/// What a client speaks through.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A client that is written to and read from by the bytes.
pub struct Client {
    pub stream: Box<dyn Stream>,
    unread: Vec<u8>,
}

impl Client {
    pub fn connect(host: &Host, beats: &str) -> Self {
        Self::over(host.dial(0), beats)
    }

    /// With as few bytes between it and the node as the system allows.
    pub fn connect_narrowly(host: &Host) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stream = runtime.block_on(socket.connect(host.addresses[0])).unwrap().into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::over(stream, "0,0")
    }

    pub fn over(stream: impl Stream + 'static, beats: &str) -> Self {
        let mut client = Self::new(stream);
        client.write(&format!("CONNECT\naccept-version:1.2\nhost:h\nheart-beat:{beats}\n\n\0"));
        let frame = client.frame().expect("an answer");
        assert!(frame.starts_with("CONNECTED"), "{frame}");
        client
    }

    /// Not connected in the sense of STOMP.
    pub fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), unread: Vec::new() }
    }

    pub fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
        self.stream.flush().unwrap();
    }

    /// The next frame, `None` when the node has closed. Tests use text without NUL.
    pub fn frame(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == 0) {
                let frame: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(String::from_utf8(frame).unwrap().trim_matches(['\n', '\0']).to_owned());
            }
            let mut chunk = vec![0; 64 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.unread.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    return None;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn publish(&mut self, body: &str) {
        self.write(&format!("SEND\ndestination:/queue/q\nreceipt:r\n\n{body}\0"));
        let frame = self.frame().expect("still connected");
        assert!(frame.starts_with("RECEIPT"), "{frame}");
    }

    /// A message goes through the node and comes back.
    pub fn is_served(&mut self, queue: &str) {
        self.write(&format!("SUBSCRIBE\nid:{queue}\ndestination:/queue/{queue}\n\n\0"));
        self.write(&format!("SEND\ndestination:/queue/{queue}\nreceipt:r\n\nwell\0"));
        let mut frames = [self.frame().expect("still connected"), self.frame().expect("still connected")];
        frames.sort();
        assert!(frames[0].starts_with("MESSAGE") && frames[0].ends_with("\n\nwell"), "{frames:?}");
        assert!(frames[1].starts_with("RECEIPT"), "{frames:?}");
        self.write(&format!("UNSUBSCRIBE\nid:{queue}\nreceipt:u\n\n\0"));
        let frame = self.frame().expect("still connected");
        assert!(frame.starts_with("RECEIPT"), "{frame}");
    }
}
