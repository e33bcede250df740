//! Laws for whatever peers and operators can send a node, as functions of bytes: for `fuzz/`, and for tests that hold the
//! seeds against them. See the module of the same name in the engine. Not part of the crate's interface.

use bytes::Bytes;
use rhizomq_engine::{
    Block, Engine, Entry, Epoch, Key, NodeId, Now, Planted, RangeSet, Registry, Retired, SegmentId, SegmentState,
    Store, Unit, Value,
    fuzzing::{Choices, Target, assert_normal, example_block, example_values, parts},
    hlc::Clock,
    store::MemoryStore,
};

pub use crate::rim::fuzzing::{handshake, wire_frame};
use crate::{
    LinkId, MAX_PACKET_BYTES, MAX_TICKET_ADDRESSES, MAX_TICKET_CHARS, Node, NodeConfig, Output, PeerHello, Proven,
    Swim, SwimConfig, Ticket, Timing,
    registry_sync::{RegistryMsg, respond, start},
    rim::{NetworkSecret, fuzzing as rim},
    wire::{self, Control, Hidden, Wire},
};

/// All of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "wire_frame", law: wire_frame, seeds: rim::wire_frame_seeds },
    Target { name: "handshake", law: handshake, seeds: rim::handshake_seeds },
    Target { name: "wire_message", law: wire_message, seeds: wire_message_seeds },
    Target { name: "ticket", law: ticket, seeds: ticket_seeds },
    Target { name: "registry_sync", law: registry_sync, seeds: registry_sync_seeds },
    Target { name: "swim", law: swim, seeds: swim_seeds },
    Target { name: "node", law: node, seeds: node_seeds },
];

const PEER: NodeId = NodeId([1; 16]);
const ME: NodeId = NodeId([2; 16]);
const NOW: Now = Now { mono_ms: 1_000, wall_ms: 1_000_000 };

/// A message between nodes: what reads is written as what reads the same.
pub fn wire_message(bytes: &[u8]) -> bool {
    let Ok(message) = wire::decode(Bytes::copy_from_slice(bytes)) else { return false };
    match message {
        Wire::App(payload) => assert_eq!(wire::app(&payload), bytes),
        Wire::Block(block) => {
            assert_eq!(wire::block(&block), bytes);
            if let Ok(decoded) = Block::decode(block.clone()) {
                assert_eq!(*decoded.bytes(), block);
            }
        }
        Wire::Control(message) => {
            match &message {
                Control::Removed { slots, .. } | Control::Stored { slots, .. } => assert_normal(slots),
                Control::Pull { have: state, .. } | Control::Prove { state, .. } => {
                    assert_normal(&state.known);
                    assert_normal(&state.removed);
                }
                _ => {}
            }
            let written = wire::control(&message);
            assert!(written.len() <= bytes.len());
            let Ok(Wire::Control(again)) = wire::decode(written.clone()) else { panic!("{message:?} does not read") };
            assert_eq!(wire::control(&again), written);
        }
    }
    true
}

fn segment() -> SegmentId {
    example_block().segment()
}

fn controls() -> Vec<Control> {
    let (segment, slots) = (segment(), RangeSet::from_range(5, 6));
    let state = SegmentState { known: RangeSet::from_range(1, 9), removed: slots.clone(), length: Some(9) };
    let mut retired = Retired::default();
    retired.finish(SegmentId { number: 1, ..segment });
    retired.fold(SegmentId { number: 2, ..segment }, &slots);
    let mut registry: Vec<_> = exchange().into_iter().take(4).map(Control::Registry).collect();
    registry.extend([
        Control::Removed { segment, slots: slots.clone() },
        Control::Stored { segment, slots },
        Control::Summary { registry: [1; 32], retired: retired.digest(), segments: vec![(segment, state.digest())] },
        Control::Retired(retired.clone()),
        Control::AllRetired(retired),
        Control::Storing(false),
        Control::Pull { segment, have: state.clone() },
        Control::Pulled { segment, length: Some(9), more: true },
        Control::Prove { segment, nonce: 5, state },
        Control::Proof { segment, nonce: 5 },
        Control::Secret(Hidden([6; 32])),
        Control::Parted(crate::node::example_order()),
        Control::Healed(7),
        Control::InStep([8; 32]),
        Control::Readmitted { orders: vec![crate::node::example_order()], secret: Hidden([6; 32]) },
    ]);
    registry
}

/// What nobody sends who means well: all slots there could be, of segments of all kinds.
fn extremes() -> Vec<Bytes> {
    let all = || RangeSet::from_range(1, u32::MAX);
    let state = || SegmentState { known: all(), removed: RangeSet::new(), length: Some(u32::MAX) };
    let folded = |segment| {
        let mut retired = Retired::default();
        retired.fold(segment, &RangeSet::from_range(3, u32::MAX));
        retired
    };
    let mut messages = Vec::new();
    for (node, number) in [(PEER, 3), (ME, 1), (ME, u32::MAX)] {
        let segment = SegmentId { node, epoch: Epoch(7), number };
        messages.extend([
            Control::Removed { segment, slots: RangeSet::from_range(3, u32::MAX) },
            Control::Removed { segment, slots: all() },
            Control::Stored { segment, slots: all() },
            Control::InStep([9; 32]),
            Control::Summary { registry: [1; 32], retired: [2; 32], segments: vec![(segment, [3; 32]); 10] },
            Control::Pull { segment, have: state() },
            Control::Retired(folded(segment)),
            Control::Prove { segment, nonce: 5, state: state() },
            Control::Pulled { segment, length: Some(u32::MAX), more: false },
        ]);
    }
    messages.push(Control::Removed { segment: segment(), slots: RangeSet::from_range(u32::MAX, u32::MAX) });
    messages.iter().map(wire::control).collect()
}

/// One message of each kind.
pub(crate) fn messages() -> Vec<Bytes> {
    let mut messages = vec![wire::block(example_block().bytes()), wire::app(b"for the layer above")];
    messages.extend(controls().iter().map(wire::control));
    messages
}

fn wire_message_seeds() -> Vec<Vec<u8>> {
    messages().iter().map(|message| message.to_vec()).collect()
}

/// Any text, and any content in the form of a ticket: what reads is written as a ticket that reads the same.
pub fn ticket(bytes: &[u8]) -> bool {
    let mut read = false;
    let forged = crate::ticket::forge(bytes);
    for text in [String::from_utf8_lossy(bytes).into_owned(), forged] {
        let Ok(ticket) = text.parse::<Ticket>() else { continue };
        assert!((1..=MAX_TICKET_ADDRESSES).contains(&ticket.addresses.len()));
        let written = ticket.to_string();
        assert!(written.len() <= MAX_TICKET_CHARS);
        assert_eq!(written.parse(), Ok(ticket));
        read = true;
    }
    read
}

fn ticket_seeds() -> Vec<Vec<u8>> {
    let addresses = ["127.0.0.1:61614", "[2001:db8::1]:7"].iter().filter_map(|text| text.parse().ok()).collect();
    let ticket = Ticket { secret: NetworkSecret::from_bytes([0xa5; 32]), node: PEER, addresses };
    let content = postcard::to_stdvec(&([0xa5_u8; 32], PEER, &ticket.addresses)).unwrap_or_default();
    vec![ticket.to_string().into_bytes(), [vec![1], content].concat()]
}

/// Bytes that all answers to one message may have beyond what is stated in `registry_sync.rs`, which is for content.
const SLACK: usize = 1 << 20;

/// Either a message for a node with a registry of middling size, or two registries: answers are bounded, nothing is
/// merged that was not in the message, and two nodes that exchange messages become equal and then fall silent.
pub fn registry_sync(bytes: &[u8]) -> bool {
    let [kind, rest @ ..] = bytes else { return false };
    if kind.is_multiple_of(2) { one_answer(usize::from(kind / 2), rest) } else { exchange_ends(rest) }
}

fn one_answer(keys: usize, bytes: &[u8]) -> bool {
    let Ok(message) = postcard::from_bytes::<RegistryMsg>(bytes) else { return false };
    let registry = numbered(keys);
    let own: usize = registry.range(&[], None).map(|(key, value)| key.as_bytes().len() + value.encode().len()).sum();
    let entries = match &message {
        RegistryMsg::Digests(_) => 0,
        RegistryMsg::Entries { entries, .. } => entries.len(),
    };
    let (replies, news) = respond(&registry, message);
    assert!(news.len() <= entries);
    let answered: usize = replies.iter().map(|reply| postcard::to_stdvec(reply).map_or(0, |bytes| bytes.len())).sum();
    // Nobody is sent the same entry twice in one answer, and a range's bounds come from the question.
    assert!(answered <= (own + 64 * keys + 32 * bytes.len()).min((5 << 20) + SLACK) + 1024, "{answered}");
    assert!(replies.len() <= keys + bytes.len());
    true
}

/// So many registers under scattered keys.
fn numbered(keys: usize) -> Registry {
    let (mut registry, mut clock) = (Registry::default(), Clock::new(PEER, Epoch(1)));
    for number in 0..keys as u32 {
        let key = Key::register(&format!("{:04x}", number.wrapping_mul(0x9e37) & 0xffff));
        if let Ok(value) = registry.register_set(None, &key, vec![7; 20], clock.tick(5)) {
            registry.install(key, value);
        }
    }
    registry
}

fn merge(registry: &mut Registry, news: Vec<(Key, Value)>) {
    for (key, value) in news {
        if let Some(value) = registry.merged(None, &key, &value) {
            registry.install(key, value);
        }
    }
}

fn exchange_ends(bytes: &[u8]) -> bool {
    let mut choices = Choices(bytes);
    let base = usize::from(choices.byte());
    let (mut a, mut b) = (numbered(base), numbered(base));
    let mut read = false;
    while !choices.is_empty() {
        let side = if choices.byte().is_multiple_of(2) { &mut a } else { &mut b };
        let (key, value) = (choices.part(), choices.part());
        if let (Ok(key), Ok(value)) = (Key::from_bytes(key), Value::decode(value)) {
            merge(side, vec![(key, value)]);
            read = true;
        }
    }
    let mut to_b = start(&a);
    for _ in 0..30 {
        let to_a = answers(&mut b, to_b);
        to_b = answers(&mut a, to_a);
        if to_b.is_empty() {
            assert!(a == b && a.digest() == b.digest(), "they fell silent before they were equal");
            return read;
        }
    }
    panic!("two nodes go on exchanging for ever");
}

fn answers(registry: &mut Registry, messages: Vec<RegistryMsg>) -> Vec<RegistryMsg> {
    let mut out = Vec::new();
    for message in messages {
        let (replies, news) = respond(registry, message);
        merge(registry, news);
        out.extend(replies);
    }
    out
}

/// What two nodes say to each other until they are equal.
fn exchange() -> Vec<RegistryMsg> {
    let (mut a, mut b) = (numbered(40), numbered(2));
    let [one, other, register, _] = example_values();
    merge(&mut a, vec![(Key::set("k"), one)]);
    merge(&mut b, vec![(Key::set("k"), other), (Key::register("k"), register)]);
    let mut all = Vec::new();
    let mut to_b = start(&a);
    while !to_b.is_empty() && all.len() < 20 {
        all.extend(to_b.clone());
        let to_a = answers(&mut b, to_b);
        all.extend(to_a.clone());
        to_b = answers(&mut a, to_a);
    }
    all
}

fn registry_sync_seeds() -> Vec<Vec<u8>> {
    let message = |message: &RegistryMsg| [vec![40 * 2], postcard::to_stdvec(message).unwrap_or_default()].concat();
    let mut seeds: Vec<_> = exchange().iter().take(4).map(message).collect();
    let all = RegistryMsg::all_of_nothing();
    seeds.push([vec![254], postcard::to_stdvec(&all).unwrap_or_default()].concat());
    let [one, other, register, later] = example_values().map(|value| value.encode());
    let (set, name) = (Key::set("k"), Key::register("0000"));
    let entry = |side: u8, key: &Key, value: &[u8]| [vec![side], parts(&[key.as_bytes(), value])].concat();
    seeds.push([vec![1, 0], entry(0, &set, &one), entry(1, &set, &other)].concat());
    seeds.push([vec![1, 100], entry(0, &name, &register), entry(1, &name, &later)].concat());
    seeds
}

/// Datagrams and time for a failure detector: its answers are few and small, and it never loses sight of who it is.
pub fn swim(bytes: &[u8]) -> bool {
    let mut choices = Choices(bytes);
    let mut now_ms = 1_000;
    let mut swim = Swim::new(ME, Epoch(2), 1_000_000, 7, SwimConfig::default());
    swim.add_peer(now_ms, PEER);
    let mut read = false;
    for _ in 0..32 {
        if choices.is_empty() {
            break;
        }
        let mut packets = 0;
        while let Some((_, bytes)) = swim.poll_datagram() {
            assert!(bytes.len() <= MAX_PACKET_BYTES);
            packets += 1;
        }
        assert!(packets <= 64, "{packets} packets after one input");
        while swim.poll_event().is_some() {}
        assert!(swim.active().all(|node| node != ME) && !swim.is_active(ME));
        now_ms += u64::from(choices.byte()) * 4;
        if swim.deadline() <= now_ms {
            swim.handle_timeout(now_ms);
        }
        read |= swim.handle_datagram(now_ms, choices.part()).is_ok();
    }
    read
}

fn swim_seeds() -> Vec<Vec<u8>> {
    let config = SwimConfig::default;
    let mut here = Swim::new(PEER, Epoch(1), 1_000_000, 1, config());
    let mut there = Swim::new(ME, Epoch(2), 1_000_000, 7, config());
    here.add_peer(1_000, ME);
    there.add_peer(1_000, PEER);
    let mut seed = Vec::new();
    for now_ms in (1_000..3_000).step_by(100) {
        here.handle_timeout(now_ms);
        there.handle_timeout(now_ms);
        while let Some((_, bytes)) = there.poll_datagram() {
            let _ = here.handle_datagram(now_ms, &bytes);
        }
        while let Some((_, bytes)) = here.poll_datagram() {
            seed.extend([vec![25], parts(&[&bytes])].concat());
            let _ = there.handle_datagram(now_ms, &bytes);
        }
    }
    seed.truncate(1_500);
    vec![seed]
}

/// A node with a disk and a peer that may say anything.
struct Host {
    now: Now,
    store: MemoryStore,
    node: Node,
}

const LINK: LinkId = LinkId(1);

impl Host {
    fn new(id: NodeId, store: MemoryStore) -> Self {
        let planted = Planted::default();
        let (engine, report) = Engine::open(store.reader(), id, Epoch(7), NOW, planted).expect("memory does not fail");
        assert!(report.losses.is_empty(), "{report:?}");
        let config = NodeConfig {
            name: "n".to_owned(),
            site: String::new(),
            network: NetworkSecret::from_bytes([9; 32]),
            next_network: None,
            former_networks: Vec::new(),
            addresses: vec![([127, 0, 0, 1], 1).into()],
            copies: 2,
            confirm: 2,
            confirm_sites: 1,
            seed: 1,
            timing: Timing::default(),
            swim: SwimConfig::default(),
            planted,
        };
        let node = Node::new(NOW, engine, config);
        Self { now: NOW, store, node }
    }

    fn link(&mut self, peer: NodeId) {
        let hello = PeerHello {
            node: peer,
            epoch: Epoch(7),
            name: "peer".to_owned(),
            wall_ms: NOW.wall_ms,
            proven: Proven::Own,
        };
        self.node.handle_link_up(self.now, LINK, hello);
    }

    fn publish(&mut self) {
        let entry = Entry {
            inboxes: vec!["/queue/a".to_owned(), "b".to_owned()],
            head: Bytes::new(),
            body: Bytes::from_static(b"body"),
            persistent: true,
        };
        let unit = Unit { entries: vec![entry], removals: Vec::new() };
        self.node.publish(self.now, unit).expect("within the limits");
    }

    fn wait(&mut self, ms: u64) {
        self.now = Now { mono_ms: self.now.mono_ms + ms, wall_ms: self.now.wall_ms + ms };
        if self.node.deadline() <= self.now.mono_ms {
            self.node.handle_timeout(self.now);
        }
    }

    /// Carries out what the node wants. What it sends to its peer, and whether it closed the link.
    fn settle(&mut self) -> (Vec<Bytes>, bool) {
        let (mut sent, mut closed) = (Vec::new(), false);
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { bytes, .. } => sent.push(bytes),
                Output::Commit { seq, batch } => {
                    // A segment's removal state is 256 rows at most.
                    assert!(batch.len() <= 1024, "{} rows in one commit", batch.len());
                    self.store.commit(&[batch]).expect("memory does not fail");
                    self.node.handle_committed(self.now, seq, Ok(()));
                }
                Output::Close { .. } => closed = true,
                Output::Datagram { .. }
                | Output::Dial(_)
                | Output::Trust(_)
                | Output::Keep(_)
                | Output::Former(_)
                | Output::Rekey(_) => {}
            }
        }
        while let Some(event) = self.node.poll_event() {
            drop(event);
        }
        (sent, closed)
    }
}

/// Messages of one peer, with time passing between them: the node answers each with a bounded amount, works on, and what
/// is on its disk afterwards opens without a loss as exactly the state it had.
pub fn node(bytes: &[u8]) -> bool {
    let mut choices = Choices(bytes);
    let mut host = Host::new(ME, MemoryStore::new());
    host.settle();
    if choices.byte() % 2 == 1 {
        host.publish();
    }
    host.link(PEER);
    host.settle();
    let mut read = false;
    while !choices.is_empty() {
        host.wait(u64::from(choices.byte()) * 50);
        let message = Bytes::copy_from_slice(choices.part());
        host.node.handle_message(host.now, LINK, message.clone());
        let (sent, closed) = host.settle();
        assert!(sent.iter().map(Bytes::len).sum::<usize>() <= SLACK, "much is sent after {message:?}");
        read |= !closed;
        if closed {
            host.node.handle_link_down(host.now, LINK);
            host.link(PEER);
            host.settle();
        }
    }
    // A message that is taken now waits, whatever was said before.
    let waiting = |host: &Host| host.node.engine().inboxes().map(|(_, count)| count).sum::<u64>();
    let before = waiting(&host);
    host.publish();
    host.settle();
    assert_eq!(waiting(&host), before + 2, "a message was swallowed");
    for segment in host.node.engine().segments().collect::<Vec<_>>() {
        for slot in host.node.engine().waiting_in(segment).iter() {
            let message = host.node.engine().message(rhizomq_engine::Dot { segment, slot });
            assert!(matches!(message, Ok(Some(_))), "{segment:?} {slot}: {message:?}");
        }
    }
    let state = |engine: &Engine| {
        let replicas: Vec<_> = engine.segments().map(|id| (id, engine.segment(id).cloned())).collect();
        (engine.registry().digest(), engine.retired().digest(), replicas)
    };
    let before = state(host.node.engine());
    let (engine, report) =
        Engine::open(host.store.reader(), ME, Epoch(8), host.now, Planted::default()).expect("what was written reads");
    assert!(report.losses.is_empty(), "{report:?}");
    assert_eq!(state(&engine), before, "the disk says something else than the node");
    read
}

fn node_seeds() -> Vec<Vec<u8>> {
    let seed = |first: u8, messages: &[Bytes]| {
        let mut seed = vec![first];
        messages.iter().for_each(|message| seed.extend([vec![4], parts(&[message])].concat()));
        seed
    };
    // What a real peer says to a node that has a message.
    let (mut peer, mut me) = (Host::new(PEER, MemoryStore::new()), Host::new(ME, MemoryStore::new()));
    me.publish();
    me.settle();
    peer.publish();
    peer.settle();
    peer.link(ME);
    me.link(PEER);
    let mut said = Vec::new();
    for _ in 0..12 {
        for (from, to) in [(true, false), (false, true)] {
            let (from, to) = if from && !to { (&mut peer, &mut me) } else { (&mut me, &mut peer) };
            from.wait(200);
            let (sent, _) = from.settle();
            for message in sent {
                to.node.handle_message(to.now, LINK, message.clone());
                if to.node.id() == ME {
                    said.push(message);
                }
            }
        }
    }
    let mut size = 0;
    said.retain(|message| {
        size += message.len();
        size < 3_000
    });
    vec![seed(0, &messages()), seed(1, &said), seed(1, &messages()[..2]), seed(1, &extremes())]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_seeds_of_the_fuzz_targets_hold_and_are_up_to_date() {
        let fuzz = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz");
        rhizomq_engine::fuzzing::check_seeds(fuzz.as_ref(), super::TARGETS);
    }
}
