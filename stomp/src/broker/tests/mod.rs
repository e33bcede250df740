//! Whole brokers, linked by queues in memory: what clients at different nodes see of each other.

mod browsing;
mod cheap;
mod duplicates;
mod durable;
mod exclusive;
mod groups;
mod jobs;
mod lanes;
mod parts;
mod policies;
mod receipts;
mod stamps;
mod straying;
mod temps;
mod users;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rhizomq_engine::{Batch, Engine, Epoch, NodeId, Now, Planted, Store as _, store::MemoryStore};
use rhizomq_net::{
    LinkId, Node, NodeConfig, Output as NetOutput, PeerHello, Proven, SwimConfig, Timing, rim::NetworkSecret,
};

use super::{Broker, BrokerConfig, ChangeId, ConnId, JobAskId, JobError, LoginCheck, Output, Verdict};
use crate::{
    frame::{Command, Decoder, Frame, Version, encode},
    limits::Limits,
    status::JobsStatus,
};

struct Host {
    broker: Broker,
    store: MemoryStore,
    epoch: Epoch,
}

/// A client: at a host, with what it was written and has not looked at.
struct Client {
    host: usize,
    decoder: Decoder,
    written: u64,
    frames: Vec<Frame>,
    closed: bool,
}

struct Mesh {
    now: Now,
    hosts: Vec<Host>,
    /// By the two hosts, the lower first.
    links: BTreeMap<(usize, usize), LinkId>,
    last_link: u64,
    /// Under way from one host to another.
    wire: BTreeMap<(usize, usize), VecDeque<(LinkId, bytes::Bytes)>>,
    /// Directions in which nothing arrives for now.
    held: BTreeSet<(usize, usize)>,
    clients: BTreeMap<ConnId, Client>,
    lives: u64,
    /// A host whose disk writes nothing for now, and what it is to write.
    slow_disk: Option<usize>,
    unwritten: Option<(u64, Batch)>,
    /// Whether passcodes are not checked for now, and those that are to be.
    holds_checks: bool,
    checks: VecDeque<(usize, ConnId, LoginCheck)>,
    /// Changes of users that are done, by host; false: not on disk.
    changes: BTreeMap<(usize, ChangeId), bool>,
    /// What came of questions about jobs, by host.
    jobs: BTreeMap<(usize, JobAskId), Result<JobsStatus, JobError>>,
    /// Clients that are not read from.
    paused: BTreeSet<ConnId>,
    require_login: bool,
}

fn id_of(host: usize) -> NodeId {
    NodeId([host as u8 + 1; 16])
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Mesh {
    /// So many hosts, all linked.
    fn new(hosts: usize) -> Self {
        let mut mesh = Self {
            now: Now { mono_ms: 1_000, wall_ms: 1_000_000 },
            hosts: Vec::new(),
            links: BTreeMap::new(),
            last_link: 0,
            wire: BTreeMap::new(),
            held: BTreeSet::new(),
            clients: BTreeMap::new(),
            lives: 0,
            slow_disk: None,
            unwritten: None,
            holds_checks: false,
            checks: VecDeque::new(),
            changes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            paused: BTreeSet::new(),
            require_login: false,
        };
        for index in 0..hosts {
            let store = MemoryStore::new();
            let (broker, epoch) = mesh.open(index, &store);
            mesh.hosts.push(Host { broker, store, epoch });
        }
        mesh.link_all();
        mesh.pass(5_000);
        mesh
    }

    fn open(&mut self, index: usize, store: &MemoryStore) -> (Broker, Epoch) {
        self.open_with(index, store, |_| {})
    }

    /// The same with an engine that is changed before its node begins.
    fn open_with(&mut self, index: usize, store: &MemoryStore, change: impl FnOnce(&mut Engine)) -> (Broker, Epoch) {
        self.lives += 1;
        let epoch = Epoch(0x1000 + self.lives);
        let planted = Planted::default();
        let (mut engine, report) = Engine::open(store.reader(), id_of(index), epoch, self.now, planted).unwrap();
        assert!(report.losses.is_empty());
        change(&mut engine);
        let epoch = engine.epoch();
        let node = NodeConfig {
            name: format!("h{index}"),
            site: String::new(),
            network: NetworkSecret::from_bytes([1; 32]),
            next_network: None,
            former_networks: Vec::new(),
            addresses: Vec::new(),
            copies: 3,
            confirm: 2,
            confirm_sites: 1,
            seed: self.lives,
            timing: Timing::default(),
            swim: SwimConfig::default(),
            planted,
        };
        let config = BrokerConfig { require_login: self.require_login, ..BrokerConfig::default() };
        (Broker::new(Node::new(self.now, engine, node), config), epoch)
    }

    fn link_all(&mut self) {
        for b in 0..self.hosts.len() {
            (0..b).for_each(|a| self.link(a, b));
        }
    }

    fn link(&mut self, a: usize, b: usize) {
        if self.links.contains_key(&pair(a, b)) {
            return;
        }
        self.last_link += 1;
        let link = LinkId(self.last_link);
        self.links.insert(pair(a, b), link);
        for (here, there) in [(a, b), (b, a)] {
            let hello = PeerHello {
                node: id_of(there),
                epoch: self.hosts[there].epoch,
                name: format!("h{there}"),
                wall_ms: self.now.wall_ms,
                proven: Proven::Own,
            };
            self.hosts[here].broker.handle_link_up(self.now, link, hello);
        }
        self.settle();
    }

    fn cut(&mut self, a: usize, b: usize) {
        let Some(link) = self.links.remove(&pair(a, b)) else { return };
        for (here, there) in [(a, b), (b, a)] {
            self.wire.remove(&(here, there));
            self.hosts[here].broker.handle_link_down(self.now, link);
        }
        self.settle();
    }

    fn isolate(&mut self, host: usize) {
        (0..self.hosts.len()).filter(|other| *other != host).for_each(|other| self.cut(host, other));
    }

    /// The process of a host dies and is started again, on its disk.
    fn restart(&mut self, host: usize) {
        self.isolate(host);
        self.clients.retain(|_, client| client.host != host);
        let store = std::mem::take(&mut self.hosts[host].store);
        let (broker, epoch) = self.open(host, &store);
        self.hosts[host] = Host { broker, store, epoch };
        self.link_all();
    }

    fn settle(&mut self) {
        let mut is_quiet = false;
        while !is_quiet {
            is_quiet = true;
            for index in 0..self.hosts.len() {
                while let Some(output) = self.hosts[index].broker.poll_output() {
                    is_quiet = false;
                    self.perform(index, output);
                }
            }
            let ways: Vec<_> = self.wire.keys().filter(|way| !self.held.contains(way)).copied().collect();
            for (from, to) in ways {
                while let Some((link, bytes)) = self.wire.get_mut(&(from, to)).and_then(VecDeque::pop_front) {
                    is_quiet = false;
                    if self.links.get(&pair(from, to)) == Some(&link) {
                        self.hosts[to].broker.handle_message(self.now, link, bytes);
                    }
                }
            }
        }
    }

    fn perform(&mut self, host: usize, output: Output) {
        match output {
            Output::Net(NetOutput::Commit { seq, batch }) if self.slow_disk == Some(host) => {
                self.unwritten = Some((seq, batch));
            }
            Output::Net(NetOutput::Commit { seq, batch }) => {
                self.hosts[host].store.commit(&[batch]).unwrap();
                self.hosts[host].broker.handle_committed(self.now, seq, Ok(()));
            }
            Output::Net(NetOutput::Send { link, bytes }) => {
                let way = self.links.iter().find(|(_, other)| **other == link).map(|(pair, _)| *pair);
                if let Some((a, b)) = way {
                    let to = if a == host { b } else { a };
                    self.wire.entry((host, to)).or_default().push_back((link, bytes));
                }
            }
            Output::Net(NetOutput::Close { reason, .. }) => panic!("h{host} closes a link: {reason}"),
            Output::ClientBytes { conn, bytes } => {
                let Some(client) = self.clients.get_mut(&conn) else { return };
                client.written += bytes.len() as u64;
                client.decoder.feed(&bytes);
                while let Some(frame) = client.decoder.poll().unwrap() {
                    if frame.command == Command::Connected {
                        client.decoder.start_session(Version::V1_2);
                    }
                    client.frames.push(frame);
                }
            }
            Output::ClientClose { conn } => self.close(conn),
            Output::Check { conn, check } => {
                self.checks.push_back((host, conn, check));
                if !self.holds_checks {
                    self.check_all();
                }
            }
            Output::Changed { change, is_kept } => drop(self.changes.insert((host, change), is_kept)),
            Output::Jobs { ask, answer } => drop(self.jobs.insert((host, ask), answer)),
            Output::ClientPause { conn } => drop(self.paused.insert(conn)),
            Output::ClientResume { conn } => drop(self.paused.remove(&conn)),
            _ => {}
        }
    }

    /// Checks the passcodes that wait for it.
    fn check_all(&mut self) {
        while let Some((host, conn, check)) = self.checks.pop_front() {
            let is_right = check.verifier.check(&check.passcode).expect("memory for a hash");
            let verdict = if is_right { Verdict::Right } else { Verdict::Wrong };
            self.hosts[host].broker.handle_login_checked(self.now, conn, verdict);
        }
    }

    /// The slow disk writes again.
    fn let_write(&mut self) {
        let host = self.slow_disk.take().expect("a slow disk");
        if let Some((seq, batch)) = self.unwritten.take() {
            self.perform(host, Output::Net(NetOutput::Commit { seq, batch }));
        }
        self.settle();
    }

    /// Lets time pass. Datagrams are lost, so only links tell who is alive.
    fn pass(&mut self, ms: u64) {
        let until = self.now.mono_ms + ms;
        while self.now.mono_ms < until {
            let next = self.hosts.iter().map(|host| host.broker.deadline()).min().unwrap_or(u64::MAX);
            let step = next.clamp(self.now.mono_ms + 1, until) - self.now.mono_ms;
            self.now = Now { mono_ms: self.now.mono_ms + step, wall_ms: self.now.wall_ms + step };
            for host in &mut self.hosts {
                host.broker.handle_timeout(self.now);
            }
            self.settle();
        }
    }

    /// A client connects, with headers of its own.
    fn connect(&mut self, conn: u64, host: usize, headers: &[(&str, &str)]) -> ConnId {
        let conn = ConnId(conn);
        let decoder = Decoder::new(Limits::default());
        self.clients.insert(conn, Client { host, decoder, written: 0, frames: Vec::new(), closed: false });
        self.hosts[host].broker.handle_client_open(self.now, conn);
        let all = [("accept-version", "1.2"), ("host", "/")].into_iter().chain(headers.iter().copied());
        self.send_frame(conn, Frame::new(Command::Connect, all));
        assert_eq!(self.take(conn)[0].command, Command::Connected);
        conn
    }

    fn close(&mut self, conn: ConnId) {
        let client = self.clients.get_mut(&conn).unwrap();
        client.closed = true;
        let host = client.host;
        self.hosts[host].broker.handle_client_closed(self.now, conn);
        self.settle();
    }

    fn send_frame(&mut self, conn: ConnId, frame: Frame) {
        let host = self.clients[&conn].host;
        self.hosts[host].broker.handle_client_bytes(self.now, conn, &encode(&frame, Version::V1_2));
        self.settle();
    }

    fn frame(&mut self, conn: ConnId, command: Command, headers: &[(&str, &str)]) {
        self.send_frame(conn, Frame::new(command, headers.iter().copied()));
    }

    fn subscribe(&mut self, conn: ConnId, id: &str, destination: &str, headers: &[(&str, &str)]) {
        let all = [("id", id), ("destination", destination)].into_iter().chain(headers.iter().copied());
        self.send_frame(conn, Frame::new(Command::Subscribe, all));
    }

    fn send(&mut self, conn: ConnId, destination: &str, body: &str) {
        self.send_with(conn, destination, &[], body);
    }

    /// Sends and sees the receipt.
    fn send_with(&mut self, conn: ConnId, destination: &str, headers: &[(&str, &str)], body: &str) {
        let all = [("destination", destination), ("receipt", "sent")].into_iter().chain(headers.iter().copied());
        self.send_frame(conn, Frame::new(Command::Send, all).with_body(body.to_owned()));
        let client = self.clients.get_mut(&conn).unwrap();
        let is_receipt = |frame: &Frame| frame.headers.get("receipt-id") == Some("sent");
        let place = client.frames.iter().position(is_receipt).expect("a receipt");
        assert_eq!(client.frames.remove(place).command, Command::Receipt);
    }

    /// The frames since the last call; all are flushed.
    fn take(&mut self, conn: ConnId) -> Vec<Frame> {
        let client = self.clients.get_mut(&conn).unwrap();
        let (frames, host, written) = (std::mem::take(&mut client.frames), client.host, client.written);
        if !client.closed {
            self.hosts[host].broker.handle_client_flushed(self.now, conn, written);
            self.settle();
        }
        frames
    }

    /// Bodies of the MESSAGEs since the last call, acknowledged where they want that.
    fn bodies(&mut self, conn: ConnId) -> Vec<String> {
        let frames: Vec<_> =
            std::iter::from_fn(|| Some(self.take_and_ack(conn)).filter(|some| !some.is_empty())).collect();
        frames.into_iter().flatten().map(|frame| String::from_utf8(frame.body.to_vec()).unwrap()).collect()
    }

    fn take_and_ack(&mut self, conn: ConnId) -> Vec<Frame> {
        let mut frames = self.take(conn);
        frames.retain(|frame| frame.command == Command::Message);
        for frame in &frames {
            if let Some(id) = frame.headers.get("ack") {
                self.frame(conn, Command::Ack, &[("id", id)]);
            }
        }
        frames
    }

    fn receipts(&mut self, conn: ConnId) -> Vec<String> {
        let frames = self.take(conn);
        let error = frames.iter().find(|frame| frame.command == Command::Error);
        assert!(error.is_none(), "{error:?}");
        frames.iter().filter_map(|frame| frame.headers.get("receipt-id")).map(str::to_owned).collect()
    }

    /// The `message` header of the ERROR that closed a connection.
    fn error(&mut self, conn: ConnId) -> Option<String> {
        let frames = self.take(conn);
        let error = frames.iter().find(|frame| frame.command == Command::Error)?;
        assert!(self.clients[&conn].closed);
        error.headers.get("message").map(str::to_owned)
    }

    /// Messages that wait for somebody, by inbox, as a host sees its own disk.
    fn waiting(&self, host: usize) -> BTreeMap<String, u64> {
        self.hosts[host].broker.node().engine().inboxes().map(|(name, count)| (name.to_owned(), count)).collect()
    }

    fn nothing_waits(&self) {
        for host in 0..self.hosts.len() {
            assert_eq!(self.waiting(host), BTreeMap::new(), "h{host}");
        }
    }
}
