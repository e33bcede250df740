//! A few nodes joined by perfect links, under a virtual clock. Faults of every kind are for the simulator; here the
//! protocol's steps are seen one by one.

mod lagging;
mod leaving;
mod losing;
mod repeating;
mod seats;
mod splitting;
mod straying;
mod syncing;
mod trusting;

use std::collections::BTreeMap;

use rhizomq_engine::{
    Entry, Store,
    store::{MemoryStore, Snapshot},
};

use super::*;
use crate::link::Proven;

fn id(index: u8) -> NodeId {
    NodeId([index; 16])
}

struct Host {
    store: MemoryStore,
    node: Node,
    events: Vec<Event>,
    /// A disk that takes nothing for now; what it was to write waits.
    frozen: bool,
    unwritten: Option<(u64, Batch)>,
}

struct World {
    now: Now,
    hosts: BTreeMap<u8, Host>,
    /// Link id to (from, to); the other direction of a pair has another id.
    links: BTreeMap<LinkId, (u8, u8)>,
    next_link: u64,
    lives: u64,
    copies: u32,
    /// All that was sent, with its ends.
    sent: Vec<(u8, u8, Wire)>,
}

impl World {
    fn new(copies: u32) -> Self {
        let now = Now { mono_ms: 1_000, wall_ms: 1_000_000 };
        Self { now, hosts: BTreeMap::new(), links: BTreeMap::new(), next_link: 0, lives: 0, copies, sent: Vec::new() }
    }

    fn start(&mut self, index: u8, store: MemoryStore) {
        self.lives += 1;
        let id = NodeId([index; 16]);
        let planted = Planted::default();
        let (engine, report) = Engine::open(store.reader(), id, Epoch(self.lives), self.now, planted).expect("opens");
        assert!(report.losses.is_empty(), "{report:?}");
        let config = NodeConfig {
            name: format!("n{index}"),
            site: String::new(),
            network: NetworkSecret::from_bytes([9; 32]),
            next_network: None,
            former_networks: Vec::new(),
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], u16::from(index)))],
            copies: self.copies,
            confirm: 2,
            confirm_sites: 1,
            seed: self.lives,
            timing: Timing { successor_ms: 3_000, ..Timing::default() },
            swim: SwimConfig::default(),
            planted,
        };
        let node = Node::new(self.now, engine, config);
        self.hosts.insert(index, Host { store, node, events: Vec::new(), frozen: false, unwritten: None });
    }

    /// Links a node with all others that run.
    fn join(&mut self, index: u8) {
        let others: Vec<u8> = self.hosts.keys().copied().filter(|&other| other != index).collect();
        for other in others {
            for (here, there) in [(index, other), (other, index)] {
                self.next_link += 1;
                let link = LinkId(self.next_link);
                self.links.insert(link, (here, there));
                let peer = &self.hosts[&there].node;
                let hello = PeerHello {
                    node: peer.id(),
                    epoch: peer.epoch(),
                    name: String::new(),
                    wall_ms: 0,
                    proven: Proven::Own,
                };
                let now = self.now;
                self.host(here).node.handle_link_up(now, link, hello);
            }
        }
    }

    fn host(&mut self, index: u8) -> &mut Host {
        self.hosts.get_mut(&index).expect("runs")
    }

    /// Kills a node; its disk stays.
    fn kill(&mut self, index: u8) -> MemoryStore {
        let mut host = self.hosts.remove(&index).expect("runs");
        host.store.crash(0);
        let fallen: Vec<_> = self.links.iter().filter(|(_, ends)| ends.0 == index || ends.1 == index).collect();
        let fallen: Vec<_> = fallen.into_iter().map(|(link, ends)| (*link, *ends)).collect();
        for (link, (here, _)) in fallen {
            self.links.remove(&link);
            if let Some(host) = self.hosts.get_mut(&here) {
                host.node.handle_link_down(self.now, link);
            }
        }
        host.store
    }

    /// The two lose their link; both keep those with others, through which SWIM still sees them.
    fn unlink(&mut self, one: u8, other: u8) {
        let between = |ends: &(u8, u8)| *ends == (one, other) || *ends == (other, one);
        let fallen: Vec<_> =
            self.links.iter().filter(|(_, ends)| between(ends)).map(|(link, ends)| (*link, *ends)).collect();
        for (link, (here, _)) in fallen {
            self.links.remove(&link);
            let now = self.now;
            self.host(here).node.handle_link_down(now, link);
        }
    }

    /// Delivers and writes everything until nothing is left to do now.
    fn drain(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the nodes never come to rest");
            let mut idle = true;
            for index in self.hosts.keys().copied().collect::<Vec<_>>() {
                while let Some(output) = self.host(index).node.poll_output() {
                    idle = false;
                    self.perform(index, output);
                }
                let host = self.host(index);
                while let Some(event) = host.node.poll_event() {
                    host.events.push(event);
                }
            }
            if idle {
                return;
            }
        }
    }

    fn perform(&mut self, index: u8, output: Output) {
        let now = self.now;
        let other_end = |world: &Self, link: LinkId| {
            let (here, there) = world.links.get(&link).copied()?;
            let back = world.links.iter().find(|(_, ends)| **ends == (there, here)).map(|(link, _)| *link)?;
            Some((there, back))
        };
        match output {
            Output::Send { link, bytes } => {
                if let Some((there, back)) = other_end(self, link) {
                    self.sent.push((index, there, wire::decode(bytes.clone()).expect("well formed")));
                    self.host(there).node.handle_message(now, back, bytes);
                }
            }
            Output::Datagram { link, bytes } => {
                if let Some((there, back)) = other_end(self, link) {
                    self.host(there).node.handle_datagram(now, back, bytes);
                }
            }
            Output::Commit { seq, batch } => {
                let host = self.host(index);
                if host.frozen {
                    host.unwritten = Some((seq, batch));
                } else {
                    host.store.commit(&[batch]).expect("memory");
                    host.node.handle_committed(now, seq, Ok(()));
                }
            }
            Output::Close { link, reason } => {
                assert!(reason.starts_with("the cluster was split"), "a correct peer's link was closed: {reason}");
                let Some((here, there)) = self.links.get(&link).copied() else { return };
                self.links.retain(|_, ends| *ends != (here, there) && *ends != (there, here));
                // The other end's: it takes this for one that it closed itself.
                self.host(here).node.handle_link_down(now, link);
            }
            Output::Dial(_) | Output::Trust(_) | Output::Keep(_) | Output::Former(_) | Output::Rekey(_) => {}
        }
    }

    fn freeze(&mut self, index: u8) {
        self.host(index).frozen = true;
    }

    /// What waits for a frozen disk is written; the next has to wait again.
    fn write(&mut self, index: u8) {
        let now = self.now;
        let host = self.host(index);
        if let Some((seq, batch)) = host.unwritten.take() {
            host.store.commit(&[batch]).expect("memory");
            host.node.handle_committed(now, seq, Ok(()));
        }
        self.drain();
    }

    fn thaw(&mut self, index: u8) {
        self.host(index).frozen = false;
        self.write(index);
    }

    /// What waits for a frozen disk finds no room there.
    fn refuse(&mut self, index: u8) {
        let now = self.now;
        let host = self.host(index);
        let (seq, _) = host.unwritten.take().expect("a commit is under way");
        host.node.handle_committed(now, seq, Err(CommitError::Refused("full".to_owned())));
        self.drain();
    }

    /// Names a node a holder, at another one.
    fn name_holder(&mut self, at: u8, segment: SegmentId, node: NodeId) {
        let now = self.now;
        let host = self.host(at);
        host.node.add_holder(segment, node);
        host.node.finish(now);
        self.drain();
    }

    /// What one node told another so far, as far as it is of interest.
    fn told<T>(&self, from: u8, to: u8, pick: impl Fn(&Wire) -> Option<T>) -> Vec<T> {
        self.sent
            .iter()
            .filter(|(here, there, _)| (*here, *there) == (from, to))
            .filter_map(|(.., m)| pick(m))
            .collect()
    }

    fn consume(&mut self, index: u8, dot: Dot) {
        let now = self.now;
        self.host(index).node.remove(now, dot);
        self.drain();
    }

    fn run(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        self.drain();
        while self.now.mono_ms < end {
            self.now.mono_ms += 10;
            self.now.wall_ms += 10;
            let now = self.now;
            for host in self.hosts.values_mut().filter(|host| host.node.deadline() <= now.mono_ms) {
                host.node.handle_timeout(now);
            }
            self.drain();
        }
    }

    fn publish(&mut self, index: u8, body: &str) {
        let entry = Entry {
            inboxes: vec!["q".to_owned()],
            head: Bytes::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            persistent: true,
        };
        let now = self.now;
        let unit = Unit { entries: vec![entry], removals: Vec::new() };
        self.host(index).node.publish(now, unit).expect("within limits");
        self.drain();
    }

    fn copies_confirmed(&mut self, index: u8) -> Vec<u32> {
        let events = std::mem::take(&mut self.host(index).events);
        let copies = |event| if let Event::Confirmed { copies, .. } = event { Some(copies) } else { None };
        events.into_iter().filter_map(copies).collect()
    }

    fn waiting(&mut self, index: u8) -> Vec<(Dot, String)> {
        let engine = self.host(index).node.engine();
        let slots = |segment| engine.waiting_in(segment).iter().map(|slot| Dot { segment, slot }).collect::<Vec<_>>();
        let dots: Vec<Dot> = engine.segments().flat_map(slots).collect();
        let body = |dot| engine.message(dot).expect("reads").expect("waits").body;
        dots.into_iter().map(|dot| (dot, String::from_utf8_lossy(&body(dot)).into_owned())).collect()
    }

    fn assert_converged(&mut self) {
        let mut digests: Vec<_> = self.hosts.values_mut().map(|host| host.node.digest()).collect();
        digests.dedup();
        assert_eq!(digests.len(), 1, "nodes differ");
    }
}

/// A node of the world as it calls itself.
fn who(index: u8) -> Who {
    Who { name: format!("n{index}"), id: NodeId([index; 16]) }
}

fn three() -> World {
    let mut world = World::new(3);
    for index in 1..=3 {
        world.start(index, MemoryStore::new());
        world.join(index);
        world.run(50);
    }
    world.run(1_000);
    world
}

#[test]
fn a_confirmed_message_outlives_the_node_that_took_it() {
    let mut world = three();
    world.publish(1, "kept");
    assert_eq!(world.copies_confirmed(1), [2]);
    world.kill(1);
    world.run(5_000);
    for index in [2, 3] {
        assert_eq!(world.waiting(index).into_iter().map(|(_, body)| body).collect::<Vec<_>>(), ["kept"]);
    }
    assert!(!world.host(2).node.is_alive(NodeId([1; 16])));
}

#[test]
fn alone_a_node_confirms_with_the_one_disk_there_is() {
    let mut world = World::new(3);
    world.start(1, MemoryStore::new());
    world.publish(1, "alone");
    assert_eq!(world.copies_confirmed(1), [1]);
    world.start(2, MemoryStore::new());
    world.join(2);
    world.run(3_000);
    assert_eq!(world.waiting(2).len(), 1, "a later holder is filled");
    assert_eq!(world.host(1).node.under_replicated(), 0);
    world.assert_converged();
}

#[test]
fn a_node_that_was_away_learns_what_was_consumed_before_it_could_bring_it_back() {
    let mut world = three();
    for n in 0..20 {
        world.publish(1, &n.to_string());
    }
    world.run(100);
    let disk = world.kill(3);
    let gone: Vec<Dot> = world.waiting(2).into_iter().map(|(dot, _)| dot).take(15).collect();
    for dot in gone {
        let now = world.now;
        world.host(2).node.remove(now, dot);
        world.drain();
    }
    world.start(3, disk);
    assert_eq!(world.waiting(3).len(), 20, "an old state, so far");
    world.join(3);
    world.run(3_000);
    for index in 1..=3 {
        assert_eq!(world.waiting(index).len(), 5);
    }
    world.assert_converged();
}

#[test]
fn copies_of_a_restarted_holder_count_again_though_nothing_had_to_be_sent() {
    let mut world = three();
    world.publish(1, "x");
    world.run(500);
    assert_eq!(world.host(1).node.under_replicated(), 0);
    let disk = world.kill(2);
    world.run(3_000);
    assert_eq!(world.host(1).node.under_replicated(), 1);
    world.start(2, disk);
    world.join(2);
    world.run(3_000);
    assert_eq!(world.host(1).node.under_replicated(), 0);
}

#[test]
fn a_node_restored_from_an_old_copy_converges() {
    let mut world = three();
    world.publish(1, "before");
    world.run(100);
    let copy: Snapshot = world.host(1).store.snapshot();
    world.publish(1, "after");
    world.run(100);
    world.kill(1);
    world.start(1, copy.into());
    world.join(1);
    world.publish(1, "new life");
    world.run(4_000);
    for index in 1..=3 {
        let mut bodies: Vec<_> = world.waiting(index).into_iter().map(|(_, body)| body).collect();
        bodies.sort();
        assert_eq!(bodies, ["after", "before", "new life"]);
    }
    world.assert_converged();
}

#[test]
fn a_crashed_life_is_folded_and_leaves_nothing_but_the_set_of_its_consumed_slots() {
    let mut world = three();
    world.publish(1, "x");
    world.run(100);
    let disk = world.kill(1);
    let (dot, _) = world.waiting(2)[0].clone();
    let now = world.now;
    world.host(2).node.remove(now, dot);
    world.run(6_000);
    assert!(world.host(2).node.engine().has_replica(dot.segment), "its life may not be over");
    world.start(1, disk);
    world.join(1);
    world.run(6_000);
    for index in 1..=3 {
        let engine = world.host(index).node.engine();
        assert!(engine.is_retired(dot.segment) && !engine.has_replica(dot.segment), "node {index}");
        assert!(engine.registry().keys().all(|key| key.set_name().is_none_or(|name| !name.starts_with("holders/"))));
    }
    world.assert_converged();
}

#[test]
fn a_block_is_confirmed_by_its_own_slots_on_other_disks() {
    let mut world = three();
    world.publish(1, "first");
    assert_eq!(world.copies_confirmed(1), [2]);
    [2, 3].into_iter().for_each(|index| world.freeze(index));
    world.publish(1, "second");
    assert!(world.copies_confirmed(1).is_empty(), "the others have the first one only");
    world.thaw(3);
    assert_eq!(world.copies_confirmed(1), [2]);
}

#[test]
fn what_an_earlier_life_had_stored_counts_no_more() {
    let mut world = three();
    let old: Snapshot = world.host(2).store.snapshot();
    world.publish(1, "x");
    world.run(500);
    assert_eq!(world.host(1).node.under_replicated(), 0);
    world.kill(2);
    world.start(2, old.into());
    world.freeze(2);
    world.join(2);
    world.run(100);
    assert_eq!(world.host(1).node.under_replicated(), 1, "its disk is an old one");
    world.thaw(2);
    world.run(2_500);
    assert_eq!(world.host(1).node.under_replicated(), 0);
}

#[test]
fn consumption_is_pushed_and_not_left_to_the_next_summary() {
    let mut world = three();
    world.publish(1, "x");
    let (dot, _) = world.waiting(1)[0].clone();
    world.consume(3, dot);
    for index in 1..=3 {
        assert!(world.host(index).node.engine().is_removed(dot), "node {index}");
    }
}

#[test]
fn bodies_whose_listed_holders_are_all_gone_get_a_holder() {
    let mut world = World::new(1);
    world.start(1, MemoryStore::new());
    world.publish(1, "x");
    let (dot, _) = world.waiting(1)[0].clone();
    let block = world.host(1).node.engine().block(dot.segment, dot.slot).expect("reads").expect("is there");
    world.start(2, MemoryStore::new());
    world.join(2);
    world.run(1_500);
    // A node that is on no list has the body too: say, of a list that was made anew elsewhere.
    let now = world.now;
    let link = *world.links.iter().find(|(_, ends)| **ends == (2, 1)).expect("linked").0;
    world.host(2).node.handle_message(now, link, wire::block(block.bytes()));
    world.drain();
    assert_eq!(world.waiting(2).len(), 1);
    assert_eq!(world.host(2).node.candidates(dot.segment), [NodeId([1; 16])]);
    world.kill(1);
    world.run(8_000);
    assert_eq!(world.waiting(2).len(), 1);
    assert!(world.host(2).node.candidates(dot.segment).contains(&NodeId([2; 16])), "nobody would ever deliver it");
}

#[test]
fn a_full_disk_is_told_to_the_peers_and_its_recovery_too() {
    let mut world = three();
    [2, 3].into_iter().for_each(|index| world.freeze(index));
    world.publish(1, "x");
    world.refuse(2);
    assert!(world.copies_confirmed(1).is_empty(), "one holder is still writing");
    world.refuse(3);
    assert_eq!(world.copies_confirmed(1), [1], "nobody else stores it, nobody waits");
    [2, 3].into_iter().for_each(|index| world.thaw(index));
    world.run(2_500);
    world.publish(1, "y");
    assert_eq!(world.copies_confirmed(1), [2]);
}

/// Lets a node hear from a peer.
fn tell(world: &mut World, from: u8, to: u8, bytes: Bytes) {
    let now = world.now;
    let link = *world.links.iter().find(|(_, ends)| **ends == (to, from)).expect("linked").0;
    world.host(to).node.handle_message(now, link, bytes);
    world.drain();
}

#[test]
fn an_origin_whose_life_was_taken_for_over_goes_on_in_a_new_segment() {
    let mut world = three();
    world.publish(1, "x");
    let (dot, _) = world.waiting(1)[0].clone();
    world.consume(1, dot);
    let mut over = rhizomq_engine::Retired::default();
    over.fold(dot.segment, &RangeSet::from_range(1, 1));
    tell(&mut world, 2, 1, wire::control(&Control::Retired(over)));
    world.run(3_000);
    world.publish(1, "y");
    world.run(3_000);
    let (next, _) = world.waiting(1)[0].clone();
    assert!(next.segment.number > dot.segment.number);
    let listed = world.host(1).node.engine().set_members(&placement::holders_key(next.segment));
    assert_eq!(listed.len(), 3, "a segment of its own, with holders of its own");
    world.assert_converged();
}

/// Four nodes, all of which have one message of a life of the first that was folded: it turned up late, at one of them.
fn turned_up() -> (World, Dot) {
    let mut world = three();
    world.publish(1, "x");
    let (dot, _) = world.waiting(1)[0].clone();
    world.publish(1, "y");
    let late = world.host(1).node.engine().block(dot.segment, 2).expect("reads").expect("is there");
    // All forget what they had, but for the fact that the first message is consumed.
    let mut world = World::new(3);
    world.lives = 10;
    for index in 1..=4 {
        world.start(index, MemoryStore::new());
        world.join(index);
        world.run(50);
    }
    let mut over = rhizomq_engine::Retired::default();
    over.fold(dot.segment, &RangeSet::from_range(1, 1));
    tell(&mut world, 2, 1, wire::control(&Control::Retired(over)));
    world.run(3_000);
    for index in 1..=4 {
        let engine = world.host(index).node.engine();
        assert!(engine.is_retired(dot.segment) && engine.is_removed(dot), "node {index}");
    }
    tell(&mut world, 2, 3, wire::block(late.bytes()));
    world.run(4_000);
    for index in 1..=4 {
        assert_eq!(world.waiting(index).len(), 1, "node {index}");
    }
    let (dot, _) = world.waiting(1)[0].clone();
    (world, dot)
}

#[test]
fn what_turns_up_of_a_folded_segment_goes_to_every_node() {
    let (mut world, dot) = turned_up();
    assert_eq!((1..=4).map(|index| world.host(index).node.under_replicated()).sum::<u64>(), 0);
    world.consume(4, dot);
    world.run(4_000);
    for index in 1..=4 {
        let engine = world.host(index).node.engine();
        assert!(
            engine.is_removed(dot) && engine.segments().next().is_none(),
            "node {index}: {:?}",
            engine.segment(dot.segment)
        );
    }
    world.assert_converged();
}

#[test]
fn a_node_that_never_comes_back_can_be_forgotten_and_is_welcome_if_it_does() {
    let mut world = World::new(3);
    for index in [1, 2] {
        world.start(index, MemoryStore::new());
        world.join(index);
        world.run(1_500);
    }
    world.publish(1, "y");
    let (other, _) = world.waiting(1)[0].clone();
    world.publish(2, "x");
    world.run(500);
    world.freeze(1);
    world.publish(2, "on its disk alone");
    let disk = world.kill(2);
    let rest = world.kill(1);
    world.start(1, rest);
    world.start(3, MemoryStore::new());
    world.join(3);
    world.run(5_000);
    let gone = NodeId([2; 16]);
    let forget = |world: &mut World, at: u8, node: NodeId| {
        let now = world.now;
        let outcome = world.host(at).node.forget(now, node);
        world.drain();
        outcome
    };
    assert_eq!(world.host(1).node.under_replicated(), 2, "of the three nodes that there should be, one is missing");
    assert_eq!(forget(&mut world, 1, NodeId([1; 16])), Err(ForgetError::Myself));
    assert_eq!(forget(&mut world, 1, NodeId([3; 16])), Err(ForgetError::Alive(who(3))));
    assert_eq!(forget(&mut world, 1, NodeId([9; 16])), Err(ForgetError::Unknown(NodeId([9; 16]))));
    let dot = world.waiting(1).into_iter().map(|(dot, _)| dot).find(|dot| dot.segment.node == gone).expect("it waits");
    assert_eq!(forget(&mut world, 1, gone).map(|forgotten| forgotten.waiting_here), Ok(1));
    world.run(3_000);
    for index in [1, 3] {
        let node = &world.host(index).node;
        assert_eq!(node.roster().len(), 2, "node {index}");
        assert!(node.engine().registry().register(&roster::record_key(gone)).is_none());
        // As the one who wrote it, it comes after all who hold it.
        let (last, holders) =
            node.candidates(dot.segment).split_last().map(|(last, rest)| (*last, rest.to_vec())).expect("some");
        assert!(last == gone && !holders.is_empty() && !holders.contains(&gone));
        assert!(!node.candidates(other.segment).contains(&gone));
        assert_eq!(node.under_replicated(), 0);
    }
    assert_eq!(forget(&mut world, 3, gone), Err(ForgetError::Unknown(gone)));
    world.assert_converged();
    [dot, other].into_iter().for_each(|dot| world.consume(3, dot));
    world.run(3_000);
    for index in [1, 3] {
        assert!(!world.host(index).node.engine().has_replica(dot.segment), "its life is taken for over");
    }

    world.start(2, disk);
    world.join(2);
    world.run(6_000);
    for index in 1..=3 {
        let bodies: Vec<_> = world.waiting(index).into_iter().map(|(_, body)| body).collect();
        assert_eq!(bodies, ["on its disk alone"], "node {index}");
        assert_eq!(world.host(index).node.roster().len(), 3, "node {index}");
    }
    world.assert_converged();
}
