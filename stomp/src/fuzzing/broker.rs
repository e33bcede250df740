//! The law of a whole broker, between clients and a peer that may say anything.

use std::collections::{BTreeMap, btree_map::Entry};

use bytes::Bytes;
use rhizomq_engine::{
    Engine, Epoch, NodeId, Now, Planted, Store as _,
    fuzzing::{Choices, parts},
    store::MemoryStore,
};
use rhizomq_net::{
    LinkId, Node, NodeConfig, Output as NetOutput, PeerHello, Proven, SwimConfig, Timing, rim::NetworkSecret,
};

use super::{conversation, dispatch_messages, session::LIMITS};
use crate::{Broker, BrokerConfig, ConnId, Output, frame::Version, session::SessionConfig};

const ME: NodeId = NodeId([2; 16]);
const PEER: NodeId = NodeId([1; 16]);
const LINK: LinkId = LinkId(1);

/// Bytes that a broker may send after one input.
const AT_ONCE: usize = 1 << 20;

struct Bench {
    now: Now,
    store: MemoryStore,
    broker: Broker,
    /// Bytes written to each client.
    clients: BTreeMap<ConnId, u64>,
}

impl Bench {
    fn new() -> Self {
        let now = Now { mono_ms: 1_000, wall_ms: 1_000_000 };
        let (store, planted) = (MemoryStore::new(), Planted::default());
        let (engine, _) = Engine::open(store.reader(), ME, Epoch(7), now, planted).expect("memory does not fail");
        let node = NodeConfig {
            name: "n".to_owned(),
            site: String::new(),
            network: NetworkSecret::from_bytes([1; 32]),
            next_network: None,
            former_networks: Vec::new(),
            addresses: Vec::new(),
            copies: 2,
            confirm: 2,
            confirm_sites: 1,
            seed: 1,
            timing: Timing::default(),
            swim: SwimConfig::default(),
            planted,
        };
        let session = SessionConfig { limits: LIMITS, ..SessionConfig::default() };
        let broker = Broker::new(Node::new(now, engine, node), BrokerConfig { session, ..BrokerConfig::default() });
        let mut bench = Self { now, store, broker, clients: BTreeMap::new() };
        bench.settle();
        bench.link();
        bench
    }

    fn link(&mut self) {
        let hello = PeerHello {
            node: PEER,
            epoch: Epoch(7),
            name: "peer".to_owned(),
            wall_ms: self.now.wall_ms,
            proven: Proven::Own,
        };
        self.broker.handle_link_up(self.now, LINK, hello);
        self.settle();
    }

    fn settle(&mut self) {
        let mut sent = 0;
        let mut cut = false;
        while let Some(output) = self.broker.poll_output() {
            match output {
                Output::Net(NetOutput::Commit { seq, batch }) => {
                    self.store.commit(&[batch]).expect("memory does not fail");
                    self.broker.handle_committed(self.now, seq, Ok(()));
                }
                Output::Net(NetOutput::Send { bytes, .. }) => sent += bytes.len(),
                Output::Net(NetOutput::Close { .. }) => cut = true,
                Output::ClientBytes { conn, bytes } => {
                    sent += bytes.len();
                    *self.clients.get_mut(&conn).expect("only to those who are there") += bytes.len() as u64;
                }
                Output::ClientClose { conn } => {
                    self.clients.remove(&conn);
                    self.broker.handle_client_closed(self.now, conn);
                }
                _ => {}
            }
        }
        assert!(sent <= AT_ONCE, "{sent} bytes after one input");
        if cut {
            self.broker.handle_link_down(self.now, LINK);
            self.link();
        }
    }

    fn client(&mut self, conn: ConnId, bytes: &[u8]) {
        if let Entry::Vacant(place) = self.clients.entry(conn) {
            place.insert(0);
            self.broker.handle_client_open(self.now, conn);
            self.settle();
        }
        if self.clients.contains_key(&conn) {
            self.broker.handle_client_bytes(self.now, conn, bytes);
        }
    }

    fn step(&mut self, choice: u8, bytes: &[u8]) {
        match choice % 8 {
            0 | 1 => self.broker.handle_message(self.now, LINK, Bytes::copy_from_slice(bytes)),
            // For dispatch.
            2 => self.broker.handle_message(self.now, LINK, [&[0], bytes].concat().into()),
            3 | 4 => self.client(ConnId(u64::from(choice % 8)), bytes),
            5 => {
                for (conn, written) in self.clients.clone() {
                    self.broker.handle_client_flushed(self.now, conn, written);
                    self.settle();
                }
            }
            6 => {
                let ms = u64::from(choice / 8) * 200;
                self.now = Now { mono_ms: self.now.mono_ms + ms, wall_ms: self.now.wall_ms + ms };
                if self.broker.deadline() <= self.now.mono_ms {
                    self.broker.handle_timeout(self.now);
                }
            }
            _ if (choice / 8).is_multiple_of(2) => {
                if let Some((conn, _)) = self.clients.pop_first() {
                    self.broker.handle_client_closed(self.now, conn);
                }
            }
            _ => {
                self.broker.handle_link_down(self.now, LINK);
                self.settle();
                self.link();
            }
        }
        self.settle();
    }
}

/// What two clients and a peer send, with time passing and connections ending: the broker sends a bounded amount after
/// each, can always tell its status, and what is on its disk afterwards opens without a loss.
pub fn broker(bytes: &[u8]) -> bool {
    let mut choices = Choices(bytes);
    let mut bench = Bench::new();
    while !choices.is_empty() {
        let choice = choices.byte();
        bench.step(choice, choices.part());
    }
    let digest = bench.broker.status().digest;
    let opened = Engine::open(bench.store.reader(), ME, Epoch(8), bench.now, Planted::default());
    let (_, report) = opened.expect("what was written reads");
    assert!(report.losses.is_empty(), "{report:?}");
    !digest.is_empty()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let step = |choice: u8, bytes: &[u8]| [vec![choice], parts(&[bytes])].concat();
    let peer: Vec<_> = dispatch_messages().iter().map(|message| step(2, &message.encode())).collect();
    let mut seed: Vec<u8> = conversation(Version::V1_2)[..4].iter().flat_map(|frame| step(3, frame)).collect();
    seed.extend([5, 0, 0, 46, 0, 0]);
    let mut both = seed.clone();
    both.extend(conversation(Version::V1_1)[..3].iter().flat_map(|frame| step(4, frame)));
    both.extend(peer.concat());
    both.extend([15, 0, 0, 254, 0, 0, 5, 0, 0]);
    seed.extend(conversation(Version::V1_2)[4..].iter().flat_map(|frame| step(3, frame)));
    vec![seed, both, peer.concat()]
}
