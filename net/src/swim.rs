//! Who is alive, as far as this node can tell: SWIM by the crate foca, with timers, datagrams and restarts around it.
//!
//! Sans-IO: datagrams and the time go in, datagrams and [`SwimEvent`]s come out, and the same inputs give the same
//! outputs. Every opinion is this node's own: in a partition the opinions differ, and both sides are right.
//!
//! SWIM holds a dead member dead for ever, so a node needs a new SWIM identity whenever it was declared dead. Ours is
//! the node id (which names the member), and a *generation*, the greater of which wins. It starts from the wall clock
//! at the start of the process and grows with every return. A clock that was set back merely makes a node's first
//! returns lose; it then grows in doubling steps and overtakes its former life after a few dozen round trips at most.
//! Neither the epoch nor any state outside this file depends on the order of generations.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use bytes::Bytes;
use foca::{
    AccumulatingRuntime, Config, Foca, Identity, NoCustomBroadcast, OwnedNotification, PeriodicParams, PostcardCodec,
    Timer,
};
use rand::{SeedableRng, rngs::SmallRng};
use rhizomq_engine::{Epoch, NodeId};
use serde::{Deserialize, Serialize};

/// No SWIM packet is larger than this, in bytes, whatever the configuration says.
pub const MAX_PACKET_BYTES: usize = 1178;

/// Two returns closer than this, in milliseconds, mean that the first one did not win: the next step is larger.
const RETURN_WINDOW_MS: u64 = 10_000;

/// The largest step of the generation: 35 years in milliseconds overtake any clock.
const MAX_RETURN_STEP: u64 = 1 << 40;

/// Intervals and sizes of the failure detector. The default suits a LAN: a dead node is noticed in 1.5 to 2 s.
#[derive(Clone, Debug)]
pub struct SwimConfig {
    /// How often one member is probed, in milliseconds.
    pub probe_period_ms: u64,
    /// How long to wait for the answer before others are asked to probe, in milliseconds; less than the period.
    pub probe_rtt_ms: u64,
    /// How long a suspected member has to speak up before it is held dead, in milliseconds.
    pub suspect_to_down_ms: u64,
    /// How often news is passed on, in milliseconds.
    pub gossip_ms: u64,
    /// How often linked peers that are not held alive are greeted again, in milliseconds.
    pub announce_ms: u64,
    /// How often a random member is asked for all it knows, in milliseconds: repairs lost gossip.
    pub feed_ms: u64,
    /// How many members probe on behalf of another, and hear gossip at a time; zero is taken as one.
    pub fanout: usize,
    /// How often one piece of news is passed on at most; zero is taken as one.
    pub max_transmissions: u8,
    /// Size of the largest packet in bytes; at most [`MAX_PACKET_BYTES`]. The default fits into one QUIC datagram on
    /// a path with the smallest MTU.
    pub max_packet_bytes: usize,
}

impl Default for SwimConfig {
    fn default() -> Self {
        Self {
            probe_period_ms: 500,
            probe_rtt_ms: 250,
            suspect_to_down_ms: 1_000,
            gossip_ms: 200,
            announce_ms: 1_000,
            feed_ms: 5_000,
            fanout: 3,
            max_transmissions: 10,
            max_packet_bytes: 1_150,
        }
    }
}

/// A change of this node's opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwimEvent {
    /// The node is alive now.
    Up(NodeId),
    /// The node is held dead now.
    Down(NodeId),
}

/// A datagram that is no SWIM packet, or one that nobody should have sent. Nothing has to be done about it but to
/// count it: opinions stay valid.
#[derive(Debug, thiserror::Error)]
pub enum SwimError {
    /// Sent by another version of the program.
    #[error("a SWIM packet of version {0}; this program reads version {VERSION}")]
    Version(u8),
    /// There is nothing in it.
    #[error("an empty SWIM packet")]
    Empty,
    /// Foca can't use it.
    #[error("not a usable SWIM packet: {0}")]
    Unusable(#[from] foca::Error),
}

/// First byte of every packet.
const VERSION: u8 = 1;

/// A member as foca knows it: the node is its address, the rest decides between two lives or two returns of one life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    node: NodeId,
    generation: u64,
    epoch: Epoch,
}

impl Identity for Member {
    type Addr = NodeId;

    /// Never by itself: [`Swim::rejoin`] chooses the new generation, because it knows which ones were seen.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    /// The epoch only breaks ties; any order would do as long as all nodes use the same one.
    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.generation, self.epoch) > (adversary.generation, adversary.epoch)
    }
}

/// The failure detector of one node.
///
/// After every `handle_*` or command call [`Swim::poll_datagram`] and [`Swim::poll_event`] until they give nothing,
/// and call [`Swim::handle_timeout`] when [`Swim::deadline`] has come. `now_ms` is a monotonic clock.
pub struct Swim {
    config: SwimConfig,
    foca: Foca<Member, PostcardCodec, SmallRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Member>,
    /// What foca wants to be woken for, by time and then in the order of asking.
    timers: BTreeMap<(u64, u64), Timer<Member>>,
    timers_made: u64,
    /// Peers with a link: greeted until they are held alive.
    linked: BTreeSet<NodeId>,
    /// When to greet them again; `u64::MAX` while nobody is linked.
    announce_at: u64,
    active: BTreeSet<NodeId>,
    last_return: Option<u64>,
    return_step: u64,
    datagrams: VecDeque<(NodeId, Bytes)>,
    events: VecDeque<SwimEvent>,
}

impl Swim {
    /// A node that knows nobody yet. `started_ms` is the wall clock at the start of the process; `seed` fixes all
    /// random choices.
    pub fn new(id: NodeId, epoch: Epoch, started_ms: u64, seed: u64, config: SwimConfig) -> Self {
        let identity = Member { node: id, generation: started_ms, epoch };
        let foca = Foca::new(identity, foca_config(&config), SmallRng::seed_from_u64(seed), PostcardCodec);
        Self {
            config,
            foca,
            runtime: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            timers_made: 0,
            linked: BTreeSet::new(),
            announce_at: u64::MAX,
            active: BTreeSet::new(),
            last_return: None,
            return_step: 1,
            datagrams: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Whether the node is held alive. Of itself a node has no opinion here.
    pub fn is_active(&self, node: NodeId) -> bool {
        self.active.contains(&node)
    }

    /// All nodes that are held alive, this one not among them.
    pub fn active(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.active.iter().copied()
    }

    /// When [`Swim::handle_timeout`] wants to be called, on the clock of `now_ms`; `u64::MAX` for never.
    pub fn deadline(&self) -> u64 {
        let timer = self.timers.first_key_value().map_or(u64::MAX, |((due, _), _)| *due);
        timer.min(self.announce_at)
    }

    /// There is a link to the peer: greet it now, and again for as long as it is not held alive.
    pub fn add_peer(&mut self, now_ms: u64, peer: NodeId) {
        if peer == self.foca.identity().node {
            return;
        }
        self.linked.insert(peer);
        self.announce_at = self.announce_at.min(now_ms.saturating_add(self.config.announce_ms));
        self.announce(peer);
        self.settle(now_ms);
    }

    /// There is no link to the peer any more: stop greeting it. The opinion of it is not touched.
    pub fn remove_peer(&mut self, peer: NodeId) {
        self.linked.remove(&peer);
        if self.linked.is_empty() {
            self.announce_at = u64::MAX;
        }
    }

    /// A datagram came in.
    ///
    /// # Errors
    /// What can't be used is reported, and changes no opinion it should not.
    pub fn handle_datagram(&mut self, now_ms: u64, bytes: &[u8]) -> Result<(), SwimError> {
        let packet = match bytes.split_first() {
            Some((&VERSION, packet)) => packet,
            Some((other, _)) => return Err(SwimError::Version(*other)),
            None => return Err(SwimError::Empty),
        };
        let result = self.foca.handle_data(packet, &mut self.runtime);
        self.settle(now_ms);
        Ok(result?)
    }

    /// The deadline has come. Early and repeated calls are harmless.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        // What this call asks for with no delay waits for the next one, so that it always ends.
        let mut due = self.timers.split_off(&(now_ms.saturating_add(1), 0));
        std::mem::swap(&mut due, &mut self.timers);
        for timer in due.into_values() {
            if let Err(error) = self.foca.handle_timer(timer, &mut self.runtime) {
                tracing::debug!(%error, "the failure detector stumbled over a timer");
            }
            self.settle(now_ms);
        }
        if self.announce_at <= now_ms {
            self.announce_at = now_ms.saturating_add(self.config.announce_ms.max(1));
            self.announce_to_inactive();
            self.settle(now_ms);
        }
    }

    /// The next datagram to send, and to whom. Without a link to that node it is to be dropped.
    pub fn poll_datagram(&mut self) -> Option<(NodeId, Bytes)> {
        self.datagrams.pop_front()
    }

    /// The next change of opinion.
    pub fn poll_event(&mut self) -> Option<SwimEvent> {
        self.events.pop_front()
    }

    fn announce(&mut self, peer: NodeId) {
        // An announcement is accepted by whatever identity the node has now, so these two need not be known.
        let anyone = Member { node: peer, generation: 0, epoch: Epoch(0) };
        if let Err(error) = self.foca.announce(anyone, &mut self.runtime) {
            tracing::debug!(%error, "no announcement to {peer:?}");
        }
    }

    /// foca greets dead members too, but only while it knows someone alive; in a cluster of two that is never.
    fn announce_to_inactive(&mut self) {
        for peer in self.linked.difference(&self.active).copied().collect::<Vec<_>>() {
            self.announce(peer);
        }
    }

    /// Takes what foca produced. A message that we are held dead is answered at once with a return.
    fn settle(&mut self, now_ms: u64) {
        if self.drain(now_ms) {
            self.rejoin(now_ms);
            self.drain(now_ms);
        }
    }

    /// Moves foca's outputs to ours; true when it found out that others hold this node dead.
    fn drain(&mut self, now_ms: u64) -> bool {
        let mut defunct = false;
        while let Some((to, bytes)) = self.runtime.to_send() {
            self.datagrams.push_back((to.node, [&[VERSION], &bytes[..]].concat().into()));
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            self.timers.insert((now_ms.saturating_add(after_ms), self.timers_made), timer);
            self.timers_made += 1;
        }
        while let Some(notification) = self.runtime.to_notify() {
            match notification {
                OwnedNotification::MemberUp(member) => self.note(member.node, true),
                OwnedNotification::MemberDown(member) => self.note(member.node, false),
                OwnedNotification::Defunct => defunct = true,
                // A rename keeps the node and its liveness; being connected or idle shows in the members.
                _ => {}
            }
        }
        defunct
    }

    fn note(&mut self, node: NodeId, alive: bool) {
        let changed = if alive { self.active.insert(node) } else { self.active.remove(&node) };
        if changed {
            self.events.push_back(if alive { SwimEvent::Up(node) } else { SwimEvent::Down(node) });
        }
    }

    /// Takes the next generation and tells it to everyone.
    fn rejoin(&mut self, now_ms: u64) {
        let soon = self.last_return.is_some_and(|last| now_ms.saturating_sub(last) < RETURN_WINDOW_MS);
        self.return_step = if soon { (self.return_step * 2).min(MAX_RETURN_STEP) } else { 1 };
        self.last_return = Some(now_ms);

        let ours = self.foca.identity();
        let of_us = |member: &&foca::Member<Member>| member.id().node == ours.node;
        let seen = self.foca.iter_membership_state().filter(of_us).map(|member| member.id().generation).max();
        let generation =
            ours.generation.saturating_add(self.return_step).max(seen.map_or(0, |it| it.saturating_add(1)));
        let next = Member { generation, ..ours.clone() };

        let changed = self.foca.change_identity(next, &mut self.runtime);
        // Applying nothing makes foca look at its members again, and resume probing if there are any.
        let resumed = self.foca.apply_many(std::iter::empty(), true, &mut self.runtime);
        if let Err(error) = changed.and(resumed) {
            tracing::debug!(%error, "could not return with a new generation");
        }
        self.announce_to_inactive();
    }
}

fn foca_config(config: &SwimConfig) -> Config {
    let millis = |ms: u64| Duration::from_millis(ms.max(1));
    let fanout = NonZeroUsize::new(config.fanout).unwrap_or(NonZeroUsize::MIN);
    let largest = NonZeroUsize::new(config.max_packet_bytes.clamp(256, MAX_PACKET_BYTES) - 1);
    Config {
        probe_period: millis(config.probe_period_ms),
        probe_rtt: millis(config.probe_rtt_ms),
        num_indirect_probes: fanout,
        max_transmissions: NonZeroU8::new(config.max_transmissions).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: millis(config.suspect_to_down_ms),
        // One entry per node, not per life: forgetting would free little, and let old lives come back.
        remove_down_after: None,
        max_packet_size: largest.unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams { frequency: millis(config.feed_ms), num_members: NonZeroUsize::MIN }),
        // Ours, see `announce_to_inactive`.
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams { frequency: millis(config.gossip_ms), num_members: fanout }),
    }
}

#[cfg(test)]
mod tests;
