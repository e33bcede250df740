//! Many nodes in one thread, linked each with each, under a virtual clock; nobody publishes anything.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::SocketAddr,
    ops::Sub,
};

use bytes::Bytes;
use rhizomq_engine::{Engine, Epoch, Key, NodeId, Now, Planted, Store as _, Value, store::MemoryStore};
use rhizomq_net::{
    LinkId, Node, NodeConfig, Output, PeerHello, Proven, Size, SwimConfig, Timing, View, rim::NetworkSecret,
};

/// A message's way, in milliseconds.
const NET_MS: u64 = 2;
/// A commit's.
const DISK_MS: u64 = 2;
/// The life in which all came to know each other, and the present one.
const FIRST_LIFE: Epoch = Epoch(1);
const LIFE: Epoch = Epoch(2);
/// A dead peer is noticed after so many, and up to half as many again.
const IDLE_MS: u64 = 2_000;

/// What all nodes have sent.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sent {
    pub(crate) messages: u64,
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
}

impl Sub for Sent {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            messages: self.messages - before.messages,
            datagrams: self.datagrams - before.datagrams,
            bytes: self.bytes - before.bytes,
        }
    }
}

enum Happening {
    Wake(usize),
    Committed(usize, u64),
    Connect(usize, usize),
    LinkDown(usize, usize),
    Message(usize, usize, Bytes),
    Datagram(usize, usize, Bytes),
}

struct Due(u64, u64, Happening);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct Host {
    node: Node,
    store: MemoryStore,
    wake_at: u64,
    alive: bool,
    linked: BTreeSet<usize>,
    dialled: BTreeSet<usize>,
}

/// See the module docs.
pub(crate) struct Mesh {
    now: u64,
    hosts: Vec<Host>,
    indexes: BTreeMap<NodeId, usize>,
    agenda: BinaryHeap<Reverse<Due>>,
    happened: u64,
    /// Hosts of one cluster are linked with nobody of the other.
    parted: bool,
    /// Where the last look at what they disagree on ended.
    behind: Cell<usize>,
    pub(crate) sent: Sent,
}

fn name(index: usize) -> NodeId {
    // In no order, as keys are.
    NodeId((index as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes())
}

fn clocks(now: u64) -> Now {
    Now { mono_ms: now, wall_ms: 1_700_000_000_000 + now }
}

fn hello(index: usize, now: u64) -> PeerHello {
    let wall_ms = clocks(now).wall_ms;
    PeerHello { node: name(index), epoch: LIFE, name: format!("n{index}"), wall_ms, proven: Proven::Own }
}

fn config(index: usize) -> NodeConfig {
    NodeConfig {
        name: format!("n{index}"),
        site: String::new(),
        network: NetworkSecret::from_bytes([(index % 2) as u8; 32]),
        next_network: None,
        former_networks: Vec::new(),
        addresses: vec![SocketAddr::from(([10, 0, (index >> 8) as u8, index as u8], 7000))],
        copies: 3,
        confirm: 2,
        confirm_sites: 1,
        seed: index as u64,
        timing: Timing::default(),
        swim: SwimConfig::default(),
        planted: Planted::default(),
    }
}

fn open(store: &MemoryStore, index: usize, life: Epoch) -> Engine {
    let opened = Engine::open(store.reader(), name(index), life, clocks(0), Planted::default());
    opened.expect("a store that was written in memory").0
}

/// Adds what a node has in its registry to what its half knows.
fn unite(known: &mut BTreeMap<Key, Value>, engine: &Engine) {
    for key in engine.registry().keys() {
        let Some(value) = engine.registry().get(key) else { continue };
        // Nothing comes of one that says nothing new.
        let both = known.get(key).map_or_else(|| Some(value.clone()), |before| before.merged(value));
        both.into_iter().for_each(|both| drop(known.insert(key.clone(), both)));
    }
}

impl Mesh {
    /// Two halves whose nodes have known each other in an earlier life and are all started at once: who joined whom, one
    /// after the other, would take most of the time and is not what is measured.
    pub(crate) fn new(nodes: usize, size: u32) -> Self {
        let mut mesh = Self {
            now: 0,
            hosts: Vec::new(),
            indexes: (0..nodes).map(|index| (name(index), index)).collect(),
            agenda: BinaryHeap::new(),
            happened: 0,
            parted: true,
            behind: Cell::new(0),
            sent: Sent::default(),
        };
        let mut known = [BTreeMap::new(), BTreeMap::new()];
        for index in 0..nodes {
            let engine = open(&MemoryStore::new(), index, FIRST_LIFE);
            let mut node = Node::new(clocks(0), engine, config(index));
            while let Some(output) = node.poll_output() {
                if let Output::Commit { seq, .. } = output {
                    node.handle_committed(clocks(0), seq, Ok(()));
                }
            }
            unite(&mut known[index % 2], node.engine());
        }
        for index in 0..nodes {
            let mut store = MemoryStore::new();
            let mut engine = open(&store, index, FIRST_LIFE);
            known[index % 2].iter().for_each(|(key, value)| _ = engine.merge_registry(key.clone(), value));
            while let Some(commit) = engine.poll_commit(clocks(0)) {
                store.commit(&[commit.batch]).expect("memory takes all");
                engine.handle_committed();
            }
            let node = Node::new(clocks(0), open(&store, index, LIFE), config(index));
            let (linked, dialled) = Default::default();
            mesh.hosts.push(Host { node, store, wake_at: u64::MAX, alive: true, linked, dialled });
        }
        (0..nodes).for_each(|index| mesh.settle_host(index));
        for first in 0..2 {
            mesh.hosts[first].node.set_size(clocks(0), &Size::Fixed(size)).expect("a lawful size");
            mesh.settle_host(first);
        }
        mesh
    }

    fn at(&mut self, due: u64, happening: Happening) {
        self.happened += 1;
        self.agenda.push(Reverse(Due(due, self.happened, happening)));
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(Reverse(Due(due, ..))) = self.agenda.peek()
            && *due <= end
        {
            let Some(Reverse(Due(due, _, happening))) = self.agenda.pop() else { break };
            self.now = self.now.max(due);
            self.happen(happening);
        }
        self.now = end;
    }

    fn happen(&mut self, happening: Happening) {
        let now = clocks(self.now);
        let index = match happening {
            Happening::Wake(host) => {
                if self.hosts[host].wake_at > self.now {
                    return;
                }
                self.hosts[host].wake_at = u64::MAX;
                self.hosts[host].node.handle_timeout(now);
                host
            }
            Happening::Committed(host, seq) => {
                self.hosts[host].node.handle_committed(now, seq, Ok(()));
                host
            }
            Happening::Connect(a, b) => return self.connect(a, b),
            Happening::LinkDown(host, other) => {
                self.hosts[host].linked.remove(&other);
                self.hosts[host].node.handle_link_down(now, LinkId(other as u64));
                host
            }
            Happening::Message(from, to, bytes) if self.hosts[to].linked.contains(&from) => {
                self.hosts[to].node.handle_message(now, LinkId(from as u64), bytes);
                to
            }
            Happening::Datagram(from, to, bytes) if self.hosts[to].linked.contains(&from) => {
                self.hosts[to].node.handle_datagram(now, LinkId(from as u64), bytes);
                to
            }
            Happening::Message(..) | Happening::Datagram(..) => return,
        };
        self.settle_host(index);
    }

    fn connect(&mut self, a: usize, b: usize) {
        let is_open = |host: usize| self.hosts[host].alive;
        if self.hosts[a].linked.contains(&b) || !is_open(a) || !is_open(b) || self.parted && a % 2 != b % 2 {
            return;
        }
        for (host, other) in [(a, b), (b, a)] {
            self.hosts[host].linked.insert(other);
            self.hosts[host].node.handle_link_up(clocks(self.now), LinkId(other as u64), hello(other, self.now));
            self.settle_host(host);
        }
    }

    /// Does what a node wants done.
    fn settle_host(&mut self, index: usize) {
        if !self.hosts[index].alive {
            return;
        }
        while self.hosts[index].node.poll_event().is_some() {}
        while let Some(output) = self.hosts[index].node.poll_output() {
            match output {
                Output::Send { link: LinkId(to), bytes } => {
                    self.sent.messages += 1;
                    self.sent.bytes += bytes.len() as u64;
                    self.at(self.now + NET_MS, Happening::Message(index, to as usize, bytes));
                }
                Output::Datagram { link: LinkId(to), bytes } => {
                    self.sent.datagrams += 1;
                    self.sent.bytes += bytes.len() as u64;
                    self.at(self.now + NET_MS, Happening::Datagram(index, to as usize, bytes));
                }
                Output::Commit { seq, batch } => {
                    self.hosts[index].store.commit(&[batch]).expect("memory takes all");
                    self.at(self.now + DISK_MS, Happening::Committed(index, seq));
                }
                Output::Dial(targets) => {
                    for (target, _) in targets {
                        let Some(&other) = self.indexes.get(&target) else { continue };
                        if self.hosts[index].dialled.insert(other) {
                            let due = self.now + 20 + (index + other) as u64 % 80;
                            self.at(due, Happening::Connect(index, other));
                        }
                    }
                }
                Output::Close { reason, .. } => panic!("n{index} closes a link: {reason}"),
                _ => {}
            }
        }
        let deadline = self.hosts[index].node.deadline().max(self.now);
        if deadline < self.hosts[index].wake_at {
            self.hosts[index].wake_at = deadline;
            self.at(deadline, Happening::Wake(index));
        }
    }

    /// What nodes of one cluster do not agree on yet.
    fn disagreement(&self) -> Option<String> {
        let mut views: [Option<(View, [u8; 32])>; 2] = [None, None];
        let live = |half: usize| {
            let is_live = |(index, host): &(usize, &Host)| host.alive && (!self.parted || index % 2 == half);
            self.hosts.iter().enumerate().filter(is_live).count()
        };
        let live = [live(0), live(1)];
        // Whoever was behind lately is so most likely.
        let count = self.hosts.len();
        let order = (0..count).map(|step| (self.behind.get() + step) % count);
        for index in order.filter(|index| self.hosts[*index].alive) {
            self.behind.set(index);
            let half = if self.parted { index % 2 } else { 0 };
            let live = live[half];
            let host = &self.hosts[index];
            if host.linked.len() + 1 != live {
                return Some(format!("n{index} has {} links, {live} live", host.linked.len()));
            }
            let view = host.node.members();
            let (members, all) = (view.members.len(), view.members.len() + view.observers.len());
            if all != live || members != live.min(view.size as usize) {
                return Some(format!("n{index}: {members} of {all} are members, {live} live, size {}", view.size));
            }
            if let Some(unseated) = view.members.iter().find(|member| !host.node.is_seated(**member)) {
                return Some(format!("n{index}: {unseated:?} is no member yet"));
            }
            if let Some(surplus) = view.observers.iter().find(|observer| host.node.is_seated(**observer)) {
                return Some(format!("n{index}: {surplus:?} still has a seat"));
            }
            let mine = (view.clone(), host.node.engine().registry().digest());
            let common = views[half].get_or_insert_with(|| mine.clone());
            if *common != mine {
                return Some(format!("n{index} differs from others"));
            }
        }
        None
    }

    /// How many milliseconds it takes until all agree.
    pub(crate) fn settle(&mut self, patience: u64, what: &str) -> u64 {
        let start = self.now;
        while let Some(text) = self.disagreement() {
            assert!(self.now < start + patience, "{what}, {} nodes, after {patience} ms: {text}", self.hosts.len());
            self.run_for(200);
        }
        self.now - start
    }

    /// Links the first node of each half; the rest is the nodes' business.
    pub(crate) fn merge_halves(&mut self, patience: u64) -> u64 {
        self.parted = false;
        self.connect(0, 1);
        self.settle(patience, "two halves have met")
    }

    /// Every tenth node dies, the first member among them.
    pub(crate) fn kill_a_tenth(&mut self, patience: u64) -> u64 {
        let member = self.hosts[0].node.members().members.first().and_then(|member| self.indexes.get(member).copied());
        let count = (self.hosts.len() / 10).max(1);
        let others = (0..self.hosts.len()).step_by(10).filter(|index| Some(*index) != member);
        let dead: Vec<_> = member.into_iter().chain(others).take(count).collect();
        for index in &dead {
            self.hosts[*index].alive = false;
            self.hosts[*index].wake_at = 0;
            for other in std::mem::take(&mut self.hosts[*index].linked) {
                let due = self.now + IDLE_MS + (index * 7 + other * 13) as u64 % (IDLE_MS / 2);
                self.at(due, Happening::LinkDown(other, *index));
            }
        }
        self.settle(patience, "a tenth has died")
    }
}
