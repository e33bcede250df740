//! One node of the cluster, without IO: the engine, its peers, and what they owe each other.
//!
//! Four kinds of methods, by name: getters; `handle_*` for inputs of the driver; commands of the layer above; `poll_*`.
//! After any `handle_*` or command, poll outputs and events until both are empty, then wait for input or for
//! [`Node::deadline`]. Nothing is sent that is not on disk, and nothing here decides by majority.
//!
//! - `mod.rs`: inputs, outputs, and the pump that turns queued changes into commits
//! - `commits.rs`: what a durable commit sets free: events, pushes, confirmations
//! - `damage.rs`: what turned out broken on the disk
//! - `peer.rs`: what is remembered of a linked peer
//! - `sync.rs`: anti-entropy: summaries, pulls, registry and retired set
//! - `placement.rs`: who holds a segment, successors for the dead
//! - `sites.rs`: where nodes stand, and how copies are spread over places
//! - `handoff.rs`: how a surplus copy leaves
//! - `drain.rs`: leaving for good
//! - `folding.rs`: how a segment ends that a crash left open
//! - `forget.rs`: nodes that will never come back
//! - `gateway.rs`: which member keeps what an observer's clients send
//! - `repeats.rs`: what the layer above needs to answer for a message that was taken before
//! - `shared.rs`: sets of the layer above
//! - `split.rs`: parting a cluster into two
//! - `storing.rs`: who stores what it is sent, and whom nobody waits for
//! - `roster.rs`: who is who
//! - `members.rs`: who is a member and who observes
//! - `networks.rs`: which networks are one cluster, and merging with another

mod commits;
mod damage;
mod drain;
mod folding;
mod forget;
mod gateway;
mod handoff;
mod members;
mod networks;
mod peer;
mod placement;
mod repeats;
mod roster;
mod shared;
mod sites;
mod split;
mod storing;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
};

use bytes::Bytes;
use rhizomq_engine::{Batch, Block, Dot, Engine, Epoch, NodeId, Now, Planted, PublishError, RangeSet, SegmentId, Unit};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::split::example_order;
use self::{
    commits::Confirms, damage::Damages, handoff::Handoffs, members::Members, peer::Peer, placement::Holders,
    storing::Storing,
};
pub use self::{
    damage::DamageCount,
    drain::{CancelError, DrainHindrance, DrainStage, DrainStatus},
    forget::{ForgetError, Forgotten, GivenUp},
    members::Role,
    networks::{MergeError, Merging, trusted_networks},
    roster::{RosterEntry, Who},
    sites::Spread,
    split::{GiveUpPartError, LostPart, Parted, SplitError, SplitOrder, SplitPlan, SplitStatus, Strayed},
};
use crate::{
    link::{LinkId, PeerHello},
    rim::{Keyring, NetworkSecret},
    swim::{Swim, SwimConfig, SwimEvent},
    wire::{self, Control, Wire},
};

/// A published unit, until it is confirmed or rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishId(pub u64);

/// The write of a commit failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written; the next commit may succeed (a full disk).
    #[error("{0}")]
    Refused(String),
}

/// How a node behaves.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// For people.
    pub name: String,
    /// Where it stands. Nodes for which it is empty stand together.
    pub site: String,
    /// Where peers reach it.
    pub addresses: Vec<SocketAddr>,
    /// The secret of the network it belongs to.
    pub network: NetworkSecret,
    /// A secret that was to be remembered beside it: see [`Output::Keep`].
    pub next_network: Option<NetworkSecret>,
    /// Secrets that were to be remembered beside it: see [`Output::Former`].
    pub former_networks: Vec<NetworkSecret>,
    /// Replicas per segment, the origin's included; at least 1.
    pub copies: u32,
    /// Disks that hold a message before its receipt; 1 to `copies`. Fewer when fewer nodes are reachable.
    pub confirm: u32,
    /// Sites that have a message before its receipt; 1 to `copies`. Fewer when fewer are reachable.
    pub confirm_sites: u32,
    /// Seeds everything that wants randomness.
    pub seed: u64,
    /// Delays, in milliseconds.
    pub timing: Timing,
    /// Failure detection.
    pub swim: SwimConfig,
    /// For tests of the simulator.
    pub planted: Planted,
}

/// Delays of the protocol, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two summaries to a peer: how long a difference can go unnoticed.
    pub sync_ms: u64,
    /// Between two looks at placement, hand-off and folding.
    pub upkeep_ms: u64,
    /// How long a holder may be away before a successor is named.
    pub successor_ms: u64,
    /// How long a linked holder may take to store a block before nobody waits for it any more.
    pub stall_ms: u64,
    /// After which an unanswered pull is given up.
    pub pull_ms: u64,
    /// How long a node must be elected before it takes a seat; one that is seated leaves after twice as long. Longer than
    /// it takes for all to hear what happened, or seats change in vain.
    pub settle_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            sync_ms: 1_000,
            upkeep_ms: 500,
            successor_ms: 10_000,
            stall_ms: 10_000,
            pull_ms: 5_000,
            settle_ms: 3_000,
        }
    }
}

/// What the driver is to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Send on a link, reliably and in order.
    Send {
        /// The link.
        link: LinkId,
        /// The message.
        bytes: Bytes,
    },
    /// Send without any promise.
    Datagram {
        /// The link.
        link: LinkId,
        /// The packet, at most 1178 bytes.
        bytes: Bytes,
    },
    /// Close a link.
    Close {
        /// The link.
        link: LinkId,
        /// For the log of both sides.
        reason: String,
    },
    /// Write and sync, then call [`Node::handle_committed`].
    Commit {
        /// Its number.
        seq: u64,
        /// The rows.
        batch: Batch,
    },
    /// Keep trying to be linked with all of these, for ever; replaces the last such list.
    Dial(Vec<(NodeId, Vec<SocketAddr>)>),
    /// Link with whoever knows one of these secrets; replaces the last such keyring.
    Trust(Keyring),
    /// Remember this secret beside the one that is in use, over restarts, until one of these two outputs comes again: it is to be on disk before
    /// any output that follows is done. `None`: it is not needed any more.
    Keep(Option<NetworkSecret>),
    /// Remember these secrets, over restarts, until this output comes again: networks that the node was of before it left with
    /// a part of its cluster. It is to be on disk before any output that follows is done.
    Former(Vec<NetworkSecret>),
    /// The node is of this network from now on: its secret takes the place of the one that was in use, on disk before
    /// any output that follows is done.
    Rekey(NetworkSecret),
}

/// What the layer above hears.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A peer can be sent to.
    LinkUp(NodeId),
    /// It can't any more; what was under way is lost.
    LinkDown(NodeId),
    /// This node's opinion of another changed.
    Liveness {
        /// Which.
        node: NodeId,
        /// Whether it is held alive.
        alive: bool,
    },
    /// A message of the layer above.
    App {
        /// Its sender.
        from: NodeId,
        /// Its content.
        payload: Bytes,
    },
    /// A unit is durable on `copies` nodes, as many as were asked for and reachable.
    Confirmed {
        /// Which.
        publish: PublishId,
        /// On how many disks.
        copies: u32,
    },
    /// A unit was not written; nothing of it happened.
    Rejected {
        /// Which.
        publish: PublishId,
        /// Why.
        reason: String,
    },
    /// Messages wait here that did not before.
    Arrived {
        /// Where.
        segment: SegmentId,
        /// Which.
        slots: RangeSet,
    },
    /// Messages are known to be consumed that were not before.
    Removed {
        /// Where.
        segment: SegmentId,
        /// Which.
        slots: RangeSet,
    },
    /// This node gave up its replica; others hold it.
    Dropped {
        /// Of what.
        segment: SegmentId,
    },
    /// A set of the layer above may have changed, see [`Node::shared`].
    Shared {
        /// Its name.
        set: String,
    },
    /// A block could not be read; its slots are fetched again from other holders.
    Damaged {
        /// What, where, why.
        what: String,
    },
    /// This node has left the cluster: the process may end.
    Left,
}

/// See the module docs.
pub struct Node {
    engine: Engine,
    config: NodeConfig,
    swim: Swim,
    peers: BTreeMap<NodeId, Peer>,
    links: BTreeMap<LinkId, NodeId>,
    holders: Holders,
    confirms: Confirms,
    handoffs: Handoffs,
    members: Members,
    sites: sites::Sites,
    drains: drain::Drains,
    splits: split::Splits,
    alive: BTreeMap<NodeId, bool>,
    /// Consumed here and not yet pushed to the other holders.
    consumed: BTreeMap<SegmentId, RangeSet>,
    /// Registry keys changed here and not yet pushed.
    changed_keys: BTreeSet<rhizomq_engine::Key>,
    /// Exchanges of registries begun, and since when they are counted.
    exchanges: (u64, u32),
    dialled: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// What the driver was last told to trust.
    trusted: Option<Keyring>,
    unused: networks::Unused,
    upkeep_at: u64,
    /// No peer is to get a summary before: the deadline needs no look at all of them.
    sync_due: u64,
    /// Some peer may have something to be pulled from it.
    wants_pulls: bool,
    committed_seq: u64,
    storing: Storing,
    damages: Damages,
    nonce: u64,
    /// Confirmations that were asked for again.
    again: u64,
    outputs: VecDeque<Output>,
    events: VecDeque<Event>,
}

impl Node {
    /// A node in a new life, on an engine just opened.
    pub fn new(now: Now, engine: Engine, config: NodeConfig) -> Self {
        let swim = Swim::new(engine.node(), engine.epoch(), now.wall_ms, config.seed, config.swim.clone());
        let members = Members::new(engine.node(), now, config.timing.settle_ms, config.copies);
        let mut node = Self {
            engine,
            swim,
            peers: BTreeMap::new(),
            links: BTreeMap::new(),
            holders: Holders::default(),
            confirms: Confirms::default(),
            handoffs: Handoffs::default(),
            members,
            sites: sites::Sites::new(),
            drains: drain::Drains::default(),
            splits: split::Splits::default(),
            alive: BTreeMap::new(),
            consumed: BTreeMap::new(),
            changed_keys: BTreeSet::new(),
            exchanges: (0, 0),
            dialled: BTreeMap::new(),
            trusted: None,
            unused: networks::Unused::default(),
            upkeep_at: now.mono_ms + config.timing.upkeep_ms,
            sync_due: u64::MAX,
            wants_pulls: false,
            committed_seq: 0,
            storing: Storing::default(),
            damages: Damages::default(),
            nonce: config.seed,
            again: 0,
            outputs: VecDeque::new(),
            events: VecDeque::new(),
            config,
        };
        node.read_holders();
        node.read_members();
        node.read_sites();
        node.read_draining(now);
        let (next, former) = (node.config.next_network.take(), std::mem::take(&mut node.config.former_networks));
        node.read_splits(next, former);
        node.enter_network();
        node.enrol(now);
        // An earlier life may have ended between the roster and what follows from it.
        node.follow_roster(now);
        node.publish_ballot(now);
        node.dial_roster();
        node.pump(now);
        node
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.engine.node()
    }

    /// This life.
    pub fn epoch(&self) -> Epoch {
        self.engine.epoch()
    }

    /// The name for people.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Which mistake it makes, in tests of the simulator.
    pub fn planted(&self) -> &Planted {
        &self.config.planted
    }

    /// What this node holds.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Nodes that can be sent to.
    pub fn linked(&self) -> Vec<NodeId> {
        self.peers.keys().copied().collect()
    }

    /// Whether the node can be sent to.
    pub fn is_linked(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    /// Whether a node is on the roster.
    pub fn is_known(&self, node: NodeId) -> bool {
        self.is_in_roster(node)
    }

    /// A number for a text that nobody can tell who does not know the network's secret, and another one in each life: part
    /// of names that clients must not guess.
    pub fn token(&self, of: &str) -> u128 {
        self.config.network.token(&format!("{} {} {of}", self.id(), self.epoch()))
    }

    /// This node's opinion: itself, whoever is linked, and whom SWIM says to be active.
    pub fn is_alive(&self, node: NodeId) -> bool {
        node == self.id() || !self.is_gone(node) && (self.is_linked(node) || self.swim.is_active(node))
    }

    /// Over the registry, the retired set, and the segments that all live nodes are to hold: equal on two nodes, that see
    /// the same nodes alive, exactly when all that is equal.
    pub fn digest(&mut self) -> [u8; 32] {
        let alive: Vec<_> = self.roster_ids().into_iter().filter(|&node| self.is_alive(node)).collect();
        let everywhere: BTreeSet<_> =
            self.engine.segments().filter(|&segment| alive.iter().all(|&node| self.holds(segment, node))).collect();
        self.engine.digest(|segment| everywhere.contains(&segment))
    }

    /// A link is up, the handshake done.
    pub fn handle_link_up(&mut self, now: Now, link: LinkId, hello: PeerHello) {
        let node = hello.node;
        if node == self.id() {
            self.outputs.push_back(Output::Close { link, reason: "this is a link to itself".to_owned() });
            return;
        }
        if !self.lets_in(now, link, &hello) {
            self.finish(now);
            return;
        }
        self.links.insert(link, node);
        self.confirms.meet(node, hello.epoch);
        self.peers.insert(node, Peer::new(link, hello, now));
        self.sync_soon(node, now.mono_ms);
        if !self.storing.is_storing() {
            self.send_control(node, &Control::Storing(false));
        }
        self.swim.add_peer(now.mono_ms, node);
        self.events.push_back(Event::LinkUp(node));
        self.observe(node);
        self.finish(now);
    }

    /// A link is gone.
    pub fn handle_link_down(&mut self, now: Now, link: LinkId) {
        self.forget_parting(link);
        self.drop_link(link);
        self.finish(now);
    }

    fn drop_link(&mut self, link: LinkId) {
        let Some(node) = self.links.remove(&link) else { return };
        if self.peers.get(&node).is_some_and(|peer| peer.link == link) {
            self.peers.remove(&node);
            self.swim.remove_peer(node);
            self.handoffs.forget_peer(node);
            self.events.push_back(Event::LinkDown(node));
            self.observe(node);
            self.confirm_ready();
        }
    }

    /// A message arrived on a link.
    pub fn handle_message(&mut self, now: Now, link: LinkId, bytes: Bytes) {
        if self.take_from_parting(now, link, &bytes) {
            self.finish(now);
            return;
        }
        let Some(&from) = self.links.get(&link) else { return };
        match wire::decode(bytes) {
            Ok(Wire::App(payload)) => self.events.push_back(Event::App { from, payload }),
            // Before it leaves it takes in nothing more; whoever has this keeps it.
            Ok(Wire::Block(_)) if self.is_frozen() => {}
            Ok(Wire::Block(bytes)) => {
                let block = Block::decode(bytes);
                if block.as_ref().is_ok_and(|block| self.declines(block.segment())) {
                    self.finish(now);
                    return;
                }
                match block.and_then(|block| self.engine.merge_decoded(block)) {
                    // Known from elsewhere, perhaps as consumed: no commit will report it, and the sender waits.
                    Ok((segment, slots)) if self.engine.is_finished(segment) || self.engine.knows(segment, &slots) => {
                        self.send_control(from, &Control::Stored { segment, slots });
                    }
                    Ok(_) => {}
                    Err(error) => self.outputs.push_back(Output::Close { link, reason: error.to_string() }),
                }
            }
            Ok(Wire::Control(message)) => self.handle_control(now, from, message),
            Err(error) => self.outputs.push_back(Output::Close { link, reason: error.to_string() }),
        }
        self.finish(now);
    }

    /// A datagram arrived; garbage is dropped.
    pub fn handle_datagram(&mut self, now: Now, link: LinkId, bytes: Bytes) {
        if self.links.contains_key(&link) {
            // Only SWIM uses datagrams, and a packet it can't read is one that was lost.
            let _ = self.swim.handle_datagram(now.mono_ms, &bytes);
            self.finish(now);
        }
    }

    /// The write of a commit ended.
    pub fn handle_committed(&mut self, now: Now, seq: u64, result: Result<(), CommitError>) {
        self.committed_seq = seq;
        match result {
            Ok(()) => self.take_over_commit(now),
            Err(error) => {
                self.tell_storing(now, false);
                for ticket in self.engine.handle_commit_failed() {
                    let publish = PublishId(ticket.0);
                    self.events.push_back(Event::Rejected { publish, reason: error.to_string() });
                }
            }
        }
        self.finish(now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Now) {
        if now.mono_ms >= self.swim.deadline() {
            self.swim.handle_timeout(now.mono_ms);
        }
        if now.mono_ms >= self.upkeep_at {
            self.upkeep_at = now.mono_ms + self.config.timing.upkeep_ms;
            self.stay_enrolled(now);
            self.end_merges();
            self.give_up_networks(now);
            self.observe_all();
            self.look_at_members(now);
            self.look_at_storing(now);
            self.place(now);
            self.look_at_drain(now);
            self.look_at_split(now);
            self.hand_off();
            self.fold_crashed();
            self.engine.compact(now);
        }
        self.sync_peers(now);
        self.finish(now);
    }

    /// When [`Node::handle_timeout`] is wanted, on the monotonic clock.
    pub fn deadline(&self) -> u64 {
        self.swim.deadline().min(self.upkeep_at).min(self.sync_due)
    }

    /// Publishes and consumes, all or nothing; [`Event::Confirmed`] or [`Event::Rejected`] follows.
    ///
    /// # Errors
    /// A limit is exceeded; nothing happened.
    pub fn publish(&mut self, now: Now, unit: Unit) -> Result<PublishId, PublishError> {
        #[cfg(feature = "mistakes")]
        let unit = self.forget_remote(unit);
        for dot in &unit.removals {
            self.note_consumed(*dot);
        }
        let ticket = self.engine.publish(unit)?;
        self.finish(now);
        Ok(PublishId(ticket.0))
    }

    /// The planted mistake: what is acknowledged here counts only if a holder hears of it at once.
    #[cfg(feature = "mistakes")]
    fn forget_remote(&self, mut unit: Unit) -> Unit {
        let is_heard = |dot: &Dot| {
            let holders = self.holders_of(dot.segment);
            holders.iter().any(|&node| node == self.id() || self.is_linked(node))
        };
        if self.config.planted.is(rhizomq_engine::Mistake::ForgetRemoteAck) {
            unit.removals.retain(is_heard);
        }
        unit
    }

    /// Consumes a message: durable here with the next commit, then pushed to all holders.
    pub fn remove(&mut self, now: Now, dot: Dot) {
        self.note_consumed(dot);
        self.engine.remove(dot);
        self.finish(now);
    }

    /// Takes over consumptions that another node told of.
    pub fn merge_removed(&mut self, now: Now, segment: SegmentId, slots: &RangeSet) {
        self.engine.merge_removed(segment, slots);
        self.finish(now);
    }

    /// Sends a message of the layer above; lost if there is no link, as [`Event::LinkDown`] told.
    pub fn send(&mut self, peer: NodeId, payload: &[u8]) {
        self.send_bytes(peer, wire::app(payload));
    }

    /// Closes the open segment and says what else is to be said before the process ends; then poll until no commit is
    /// under way ([`Node::is_quiet`]).
    pub fn close(&mut self, now: Now) {
        self.engine.close_segment();
        self.finish(now);
    }

    /// Whether no commit is under way or wanted.
    pub fn is_quiet(&self) -> bool {
        !self.engine.is_writing() && !self.engine.has_queued()
    }

    /// A message's block can't be read: forget it, so that it is fetched again.
    pub fn report_damage(&mut self, now: Now, dot: Dot, why: &str) {
        let slots = self.engine.forget_damaged(dot);
        self.note_damage(dot.segment, &slots, why);
        self.finish(now);
    }

    /// A small row of the store is broken: what it said is written again, if memory has it. Whether it is.
    pub fn rewrite_row(&mut self, now: Now, key: &[u8]) -> bool {
        let is_here = self.engine.rewrite_row(key);
        self.finish(now);
        is_here
    }

    /// What the driver is to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What the layer above is to hear next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn note_consumed(&mut self, dot: Dot) {
        self.consumed.entry(dot.segment).or_default().insert(dot.slot);
    }

    fn send_bytes(&mut self, peer: NodeId, bytes: Bytes) {
        if let Some(to) = self.peers.get(&peer).filter(|_| !self.is_gone(peer)) {
            self.outputs.push_back(Output::Send { link: to.link, bytes });
        }
    }

    fn send_control(&mut self, peer: NodeId, message: &Control) {
        self.send_bytes(peer, wire::control(message));
    }

    /// The end of every input: SWIM's packets and opinions, then the next commit.
    fn finish(&mut self, now: Now) {
        while let Some((node, bytes)) = self.swim.poll_datagram() {
            if let Some(peer) = self.peers.get(&node) {
                self.outputs.push_back(Output::Datagram { link: peer.link, bytes });
            }
        }
        while let Some(event) = self.swim.poll_event() {
            match event {
                SwimEvent::Up(node) | SwimEvent::Down(node) => self.observe(node),
            }
        }
        self.pump(now);
    }

    /// Turns what is queued into the next commit, if none is under way.
    fn pump(&mut self, now: Now) {
        if self.engine.is_writing() {
            return;
        }
        if self.engine.needs_segment() {
            let segment = self.engine.begin_segment(now);
            self.choose_holders(segment);
        }
        if let Some(commit) = self.engine.poll_commit(now) {
            #[cfg(feature = "mistakes")]
            self.confirm_before_sync();
            self.outputs.push_back(Output::Commit { seq: commit.seq, batch: commit.batch });
        }
    }

    /// Tells the layer above if a node's liveness changed.
    fn observe(&mut self, node: NodeId) {
        let alive = self.is_alive(node);
        if node != self.id() && self.alive.insert(node, alive).unwrap_or(false) != alive {
            self.events.push_back(Event::Liveness { node, alive });
        }
    }

    /// The part of upkeep: a node whose part has been split off is alive no longer, whatever its link and SWIM say.
    fn observe_all(&mut self) {
        for node in self.alive.keys().copied().collect::<Vec<_>>() {
            self.observe(node);
        }
    }

    fn next_nonce(&mut self) -> u64 {
        self.nonce = self.nonce.wrapping_add(1);
        self.nonce
    }
}
