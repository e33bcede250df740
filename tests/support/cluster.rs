//! Some nodes that know each other, and what tests ask of all of them together.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    PATIENCE, eventually,
    node::{Node, Setup},
    relay::Relay,
};

/// The names nodes get, in order.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Running nodes and the directory of their data.
pub struct Cluster {
    pub nodes: Vec<Node>,
    relays: Vec<Relay>,
    // Last, so that it is deleted when the processes are gone.
    pub dir: TempDir,
}

impl Cluster {
    /// `count` nodes that dial each other directly.
    pub fn start(count: usize) -> Self {
        Self::build(count, false, &[])
    }

    /// The same, each started with these command-line words.
    pub fn start_with(count: usize, args: &[&str]) -> Self {
        Self::build(count, false, args)
    }

    /// `count` nodes with a relay in front of each.
    pub fn start_behind_relays(count: usize) -> Self {
        Self::build(count, true, &[])
    }

    /// Nodes that run already.
    pub fn of(nodes: Vec<Node>, dir: TempDir) -> Self {
        Self { nodes, relays: Vec::new(), dir }
    }

    fn build(count: usize, relays: bool, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut cluster = Self { nodes: Vec::new(), relays: Vec::new(), dir };
        for name in &NAMES[..count] {
            let mut setup = Setup::new(cluster.dir.path(), name).with(args);
            if relays {
                cluster.relays.push(Relay::new());
                setup.advertise = cluster.relays.last().map(Relay::address);
            }
            setup.join = cluster.nodes.first().map(Node::ticket);
            let node = Node::start(setup);
            if let Some(relay) = cluster.relays.last() {
                relay.set_target(node.peer);
            }
            cluster.nodes.push(node);
        }
        cluster.await_mesh();
        cluster
    }

    /// Waits until every node sees as many nodes alive as there are.
    pub fn await_mesh(&self) {
        let count = self.nodes.len();
        for node in &self.nodes {
            eventually("the mesh", || match alive(node) {
                Ok(seen) if seen.len() == count => Ok(()),
                other => Err(format!("{} sees {other:?}", node.setup.name)),
            });
        }
    }

    /// Waits until all nodes have the same digest and every copy is where it belongs.
    pub fn await_convergence(&self) {
        eventually("convergence", || {
            let states: Result<Vec<(String, String)>, String> = self.nodes.iter().map(state).collect();
            let states = states?;
            let equal = states.windows(2).all(|pair| pair[0].0 == pair[1].0);
            let whole = states.iter().all(|state| state.1 == "0");
            if equal && whole { Ok(()) } else { Err(format!("(digest, under replicated): {states:?}")) }
        });
    }

    /// The sum of the nodes' `duplicates`.
    pub fn duplicates(&self) -> u64 {
        let of = |node: &Node| node.status().expect("a status")["duplicates"].as_u64().expect("a number");
        self.nodes.iter().map(of).sum()
    }

    /// Cuts every link between the two groups of node indexes, both ways.
    pub fn cut(&self, left: &[usize], right: &[usize]) {
        self.each_link(left, right, Relay::cut);
    }

    /// Undoes [`Cluster::cut`].
    pub fn heal(&self, left: &[usize], right: &[usize]) {
        self.each_link(left, right, Relay::heal);
    }

    fn each_link(&self, left: &[usize], right: &[usize], act: impl Fn(&Relay, std::net::SocketAddr)) {
        for &l in left {
            for &r in right {
                act(&self.relays[l], self.nodes[r].peer);
                act(&self.relays[r], self.nodes[l].peer);
            }
        }
    }
}

/// The names of the nodes that `node` holds alive, itself included.
pub fn alive(node: &Node) -> Result<BTreeSet<String>, String> {
    let status = node.status()?;
    let nodes = status["nodes"].as_array().ok_or("no nodes in the status")?;
    let alive = nodes.iter().filter(|entry| entry["alive"] == true);
    Ok(alive.map(|entry| entry["id"].as_str().unwrap_or_default().to_owned()).collect())
}

fn state(node: &Node) -> Result<(String, String), String> {
    let status = node.status()?;
    Ok((status["digest"].to_string(), status["under_replicated"].to_string()))
}

/// What consumers got: how often each body came, and how often it came without the mark `redelivered:true`.
#[derive(Debug, Default)]
pub struct Ledger {
    pub deliveries: BTreeMap<String, u32>,
    pub unmarked: BTreeMap<String, u32>,
    /// Each body as it came, in time, and whether it was marked.
    log: Vec<(String, Instant, bool)>,
    /// When the receipt for the acknowledgement of a body came first: from then on it is consumed for good.
    pub acked: BTreeMap<String, Instant>,
    /// Each message-id names one body for ever.
    ids: BTreeMap<String, String>,
}

impl Ledger {
    /// Takes in a MESSAGE.
    pub fn note(&mut self, frame: &super::stomp::Frame) {
        let body = frame.text();
        let id = frame.header("message-id").to_owned();
        let known = self.ids.entry(id).or_insert_with(|| body.clone());
        assert_eq!(*known, body, "one message-id for two messages");
        *self.deliveries.entry(body.clone()).or_default() += 1;
        self.log.push((body.clone(), Instant::now(), frame.header("redelivered") == "true"));
        if frame.header("redelivered") != "true" {
            *self.unmarked.entry(body).or_default() += 1;
        }
    }

    /// Takes in that the acknowledgement of a body is confirmed.
    pub fn note_acked(&mut self, body: String) {
        self.acked.entry(body).or_insert_with(Instant::now);
    }

    /// What came again although its acknowledgement had been confirmed: when, and whether it was marked.
    pub fn again_after_ack(&self) -> Vec<(&String, Instant, bool)> {
        let is_late = |(body, at, _): &&(String, Instant, bool)| self.acked.get(body).is_some_and(|acked| acked < at);
        self.log.iter().filter(is_late).map(|(body, at, marked)| (body, *at, *marked)).collect()
    }

    /// Adds what another consumer got.
    pub fn absorb(&mut self, other: Ledger) {
        for (into, from) in [(&mut self.deliveries, other.deliveries), (&mut self.unmarked, other.unmarked)] {
            from.into_iter().for_each(|(body, count)| *into.entry(body).or_default() += count);
        }
        self.log.extend(other.log);
        for (body, at) in other.acked {
            let first = self.acked.entry(body).or_insert(at);
            *first = at.min(*first);
        }
        for (id, body) in other.ids {
            assert_eq!(*self.ids.entry(id).or_insert_with(|| body.clone()), body, "one message-id for two messages");
        }
    }

    /// Which of `wanted` never came.
    pub fn missing<'a>(&self, wanted: impl IntoIterator<Item = &'a String>) -> Vec<&'a String> {
        wanted.into_iter().filter(|body| !self.deliveries.contains_key(*body)).collect()
    }

    /// Deliveries beyond the first of each body.
    pub fn duplicates(&self) -> u64 {
        self.deliveries.values().map(|count| u64::from(count - 1)).sum()
    }
}

/// Consumes `queue` at `node`, acknowledging each message, until every body of `wanted` has come.
///
/// # Panics
/// When nothing new comes for [`PATIENCE`].
pub fn consume_all(node: &Node, queue: &str, wanted: &BTreeSet<String>, ledger: &mut Ledger) {
    let mut client = node.client();
    client.subscribe("0", queue).expect("SUBSCRIBE");
    let mut missing: BTreeSet<String> = ledger.missing(wanted).into_iter().cloned().collect();
    let mut answered = Vec::new();
    let mut last = Instant::now();
    while !missing.is_empty() {
        let frame = match client.next_frame(Duration::from_secs(1)) {
            Ok(frame) => frame,
            Err(error) if error.kind() == io::ErrorKind::TimedOut && last.elapsed() < PATIENCE => continue,
            Err(error) => {
                let sample: Vec<_> = missing.iter().take(5).collect();
                panic!("{} of {} never came ({error}), such as {sample:?}", missing.len(), wanted.len());
            }
        };
        assert_eq!(frame.command, "MESSAGE", "{frame}");
        ledger.note(&frame);
        client.ack(&frame).expect("ACK");
        answered.push(frame.text());
        if missing.remove(&frame.text()) {
            last = Instant::now();
        }
    }
    client.sync().expect("the ACKs are taken in");
    answered.into_iter().for_each(|body| ledger.note_acked(body));
    client.disconnect().expect("DISCONNECT");
}

/// `prefix-0` to `prefix-(count-1)`.
pub fn texts(prefix: &str, count: usize) -> BTreeSet<String> {
    (0..count).map(|number| format!("{prefix}-{number:06}")).collect()
}

/// Sends all texts to `queue` at `node`, each confirmed.
pub fn publish_all(node: &Node, queue: &str, texts: &BTreeSet<String>) {
    let mut client = node.client();
    client.send_all(queue, texts.iter().cloned(), |_| {}).expect("every SEND is confirmed");
}
