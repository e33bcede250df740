//! One whole node without IO: the node beneath, dispatch, and the sessions of its clients.
//!
//! After any `handle_*`, poll outputs until there are none, then wait for input or for [`Broker::deadline`].
//!
//! - `mod.rs`: inputs and outputs, and the turn that follows every input
//! - `client.rs`: a client's session, and the order of its answers
//! - `requests.rs`: what clients ask for
//! - `flow.rs`: who is not read from for a while
//! - `incoming.rs`: frames that do not come in whole
//! - `stop.rs`: stopping in order
//! - `drain.rs`: leaving for good
//! - `forward.rs`: what an observer's clients send goes to a member
//! - `duplicates.rs`: messages that a publisher may have sent before
//! - `durable.rs`, `book.rs`: durable subscriptions of topics, and what is known of them
//! - `logins.rs`: who is let in, and stays
//! - `users.rs`: what operators do about users, and what a request needs
//! - `policies.rs`: what operators do about policies, and what of them holds where
//! - `moves.rs`: messages that leave their queues: dead letters
//! - `jobs.rs`: what is sent again, at times of its own
//! - `job_asks.rs`: what operators ask about these
//! - `sweep.rs`: messages that nobody will ever consume
//!
//! What always holds:
//! - A client's requests are answered in the order in which they were asked.
//! - A message counts as consumed when a commit that holds the removal is on disk here. Until then its place in dispatch
//!   is kept, so that nobody else gets it meanwhile.
//! - Acknowledgements gather while the last ones are being written: one unit at a time for all clients.

mod book;
mod client;
mod drain;
mod duplicates;
mod durable;
mod flow;
mod forward;
mod incoming;
mod job_asks;
mod jobs;
mod logins;
mod moves;
mod policies;
mod requests;
mod stop;
mod sweep;
#[cfg(test)]
mod tests;
mod users;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use rhizomq_engine::{Dot, Loss, NodeId, Now};
use rhizomq_net::{
    CommitError, DamageCount, DrainStage, Event, ForgetError, Forgotten, GiveUpPartError, LinkId, LostPart, MergeError,
    Merging, Node, Output as NetOutput, PeerHello, PublishId, Role, Size, SizeError, SplitError, SplitOrder, SplitPlan,
    Ticket, rim::NetworkSecret,
};

use self::{
    client::Client,
    drain::Drain,
    duplicates::Duplicates,
    durable::Durables,
    incoming::Incoming,
    job_asks::JobAsks,
    jobs::Jobs,
    logins::Logins,
    moves::{Leaver, Moves},
    policies::Sight,
    requests::{AckQueue, Published},
    stop::Stop,
    users::Changes,
};
pub use self::{
    job_asks::{JobAskId, JobError, JobQuestion},
    logins::{LoginCheck, Verdict},
    users::ChangeId,
};
use crate::{
    destination::DURABLE,
    dispatch::{Dispatch, Effect, Return, TakeoverTiming},
    duplicates::{DuplicateWindow, msg::DuplicatesMsg},
    expiry,
    forward::{ForwardMsg, Intake, Outbox, Outcome},
    frame::decode_routed_head,
    lane,
    policies::Book as Policies,
    schedule::ask::JobsMsg,
    session::{Delivery, Session, SessionConfig},
    status::{
        DamageStatus, DrainingStatus, JobsStatus, MembersStatus, MemoryStatus, MergingStatus, NodeStatus, PartedStatus,
        QueueStatus, SiteStatus, SplittingStatus, Status, StoreStatus, StrayedStatus,
    },
    transport::Peer,
};

/// A client's connection, named by the driver; never used twice in a process life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// By queue or subscription: messages that leave with a part, and messages that stay.
pub type Backlogs = BTreeMap<String, Backlog>;

/// What becomes of what waits in a queue, or for a subscription, when a cluster is parted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages that nodes took which leave.
    pub leave: u64,
    /// Messages that others took.
    pub stay: u64,
    /// Of both, messages in segments that the asked node looks after and that have fewer copies within their part than the
    /// split waits for: these are made first. Of what others look after it does not know.
    pub short: u64,
}

/// How a broker behaves towards its clients.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Connections at a time; more are closed at once.
    pub max_clients: usize,
    /// Whether clients of this machine have to log in even while there are no users.
    pub require_login: bool,
    /// For every session; the `session` header is filled in.
    pub session: SessionConfig,
    /// Delays before other nodes' segments are dispatched.
    pub takeover: TakeoverTiming,
    /// Bytes of messages that one connection may have sent and not been told the fate of, before it is not read from
    /// until half of it is settled.
    pub client_unconfirmed_bytes: u64,
    /// The same for all connections together.
    pub all_unconfirmed_bytes: u64,
    /// Bytes that all connections together may have of frames that have not come in whole (those of which less than 16 KiB
    /// are there don't count). Beyond it the frame that is under way for longest is refused, and its connection closed.
    pub all_incoming_bytes: u64,
    /// How long, and how many, ids of publishers are remembered.
    pub duplicates: DuplicateWindow,
    /// How long a shutdown waits for confirmations, ms, and then again for clients to take their last bytes.
    pub stop_patience_ms: u64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            max_clients: 10_000,
            require_login: false,
            session: SessionConfig::default(),
            takeover: TakeoverTiming::default(),
            client_unconfirmed_bytes: 8 << 20,
            all_unconfirmed_bytes: 256 << 20,
            all_incoming_bytes: 256 << 20,
            duplicates: DuplicateWindow::default(),
            stop_patience_ms: 3_000,
        }
    }
}

/// What the driver is to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Of the node beneath.
    Net(NetOutput),
    /// Write to a client, in order.
    ClientBytes {
        /// To whom.
        conn: ConnId,
        /// What.
        bytes: Bytes,
    },
    /// Close a client's connection once all is written; `handle_client_closed` is to follow.
    ClientClose {
        /// Whose.
        conn: ConnId,
    },
    /// Don't read from a client.
    ClientPause {
        /// From whom.
        conn: ConnId,
    },
    /// Read again.
    ClientResume {
        /// From whom.
        conn: ConnId,
    },
    /// Check a passcode, elsewhere, for it takes long; [`Broker::handle_login_checked`] is to follow.
    Check {
        /// Whose.
        conn: ConnId,
        /// What.
        check: LoginCheck,
    },
    /// What came of [`Broker::change_user`] or [`Broker::change_policy`].
    Changed {
        /// Which change.
        change: ChangeId,
        /// Whether it is on disk here. If not, it may be later.
        is_kept: bool,
    },
    /// What came of [`Broker::ask_jobs`].
    Jobs {
        /// Which question.
        ask: JobAskId,
        /// The jobs; of one that was removed, that.
        answer: Result<JobsStatus, JobError>,
    },
    /// After [`Broker::shutdown`] or [`Broker::drain`]: all is done, the process may end.
    Stopped,
}

/// Bytes a client may be behind before a topic's message is dropped for it.
const TOPIC_BACKLOG_BYTES: u64 = 8 << 20;
/// Messages of a topic that a subscription may leave unacknowledged before more are dropped.
const TOPIC_BACKLOG: usize = 10_000;

/// See the module docs.
pub struct Broker {
    node: Node,
    config: BrokerConfig,
    dispatch: Dispatch,
    clients: BTreeMap<ConnId, Client>,
    /// Sessions' deadlines.
    deadlines: BTreeSet<(u64, ConnId)>,
    /// Clients whose session may have bytes, or an end.
    touched: BTreeSet<ConnId>,
    paused: BTreeSet<ConnId>,
    incoming: Incoming,
    published: BTreeMap<PublishId, Published>,
    unconfirmed: u64,
    outbox: Outbox<Published>,
    intake: Intake,
    duplicates: Duplicates,
    acks: AckQueue,
    durables: Durables,
    jobs: Jobs,
    job_asks: JobAsks,
    logins: Logins,
    changes: Changes,
    policies: Policies,
    moves: Moves,
    /// When messages that nobody will consume are looked for.
    sweep_at: u64,
    /// Nodes that this one was linked with in this life.
    met: BTreeSet<NodeId>,
    topic_messages: u64,
    topic_drops: u64,
    stop: Stop,
    drain: Drain,
    outputs: VecDeque<Output>,
}

impl Broker {
    /// A broker on a node that has just been made.
    pub fn new(node: Node, config: BrokerConfig) -> Self {
        // A life after one that began to drain goes on with it: there are no clients to be told.
        let drain = if node.drain_stage() == DrainStage::No { Drain::No } else { Drain::Empty };
        let dispatch = Dispatch::new(node.id(), node.epoch(), config.takeover, *node.planted());
        let duplicates = Duplicates::new(node.id(), config.duplicates);
        let mut broker = Self {
            node,
            config,
            dispatch,
            clients: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            touched: BTreeSet::new(),
            paused: BTreeSet::new(),
            incoming: Incoming::default(),
            published: BTreeMap::new(),
            unconfirmed: 0,
            outbox: Outbox::default(),
            intake: Intake::default(),
            duplicates,
            acks: AckQueue::default(),
            durables: Durables::default(),
            jobs: Jobs::default(),
            job_asks: JobAsks::default(),
            logins: Logins::default(),
            changes: Changes::default(),
            policies: Policies::default(),
            moves: Moves::default(),
            sweep_at: 0,
            met: BTreeSet::new(),
            topic_messages: 0,
            topic_drops: 0,
            stop: Stop::No,
            drain,
            outputs: VecDeque::new(),
        };
        broker.read_subscriptions();
        broker.read_users();
        broker.read_policies();
        broker.read_ids();
        broker
    }

    /// The node beneath.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// See [`Node::handle_link_up`].
    pub fn handle_link_up(&mut self, now: Now, link: LinkId, peer: PeerHello) {
        self.node.handle_link_up(now, link, peer);
        self.turn(now);
    }

    /// See [`Node::handle_link_down`].
    pub fn handle_link_down(&mut self, now: Now, link: LinkId) {
        self.node.handle_link_down(now, link);
        self.turn(now);
    }

    /// See [`Node::handle_message`].
    pub fn handle_message(&mut self, now: Now, link: LinkId, bytes: Bytes) {
        self.node.handle_message(now, link, bytes);
        self.turn(now);
    }

    /// See [`Node::handle_datagram`].
    pub fn handle_datagram(&mut self, now: Now, link: LinkId, bytes: Bytes) {
        self.node.handle_datagram(now, link, bytes);
        self.turn(now);
    }

    /// See [`Node::handle_committed`].
    pub fn handle_committed(&mut self, now: Now, seq: u64, result: Result<(), CommitError>) {
        self.node.handle_committed(now, seq, result);
        self.turn(now);
    }

    /// A client has connected, of which nothing is known.
    pub fn handle_client_open(&mut self, now: Now, conn: ConnId) {
        self.handle_client_open_from(now, conn, Peer::default());
    }

    /// A client has connected.
    pub fn handle_client_open_from(&mut self, now: Now, conn: ConnId, peer: Peer) {
        if self.clients.len() >= self.config.max_clients || !self.stop.takes_clients() {
            self.outputs.push_back(Output::ClientClose { conn });
            return;
        }
        let session = format!("{:?}-{}", self.node.id(), conn.0);
        let replies = self.replies_of(conn);
        let config = SessionConfig { session, replies, peer, ..self.config.session.clone() };
        self.clients.insert(conn, Client::new(Session::new(now, config)));
        if self.drain.is_on()
            && let Some(client) = self.clients.get_mut(&conn)
        {
            client.session.error(drain::TOLD, drain::ADVICE, None);
        }
        self.touched.insert(conn);
        self.turn(now);
    }

    /// A client has sent something.
    pub fn handle_client_bytes(&mut self, now: Now, conn: ConnId, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&conn).filter(|_| self.stop.takes_clients()) else { return };
        client.session.handle_bytes(now, bytes);
        self.take_login(now, conn);
        self.note_incoming(now, conn);
        self.take_requests(now, conn);
        self.turn(now);
    }

    /// So many bytes of this connection, in total, have been written to the socket.
    pub fn handle_client_flushed(&mut self, now: Now, conn: ConnId, total: u64) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        client.handle_flushed(now, total);
        self.dispatch.set_busy(conn, client.is_busy() || self.drain.is_on());
        self.take_requests(now, conn);
        self.turn(now);
    }

    /// Whether a client has sent DISCONNECT and is to be written to until it is closed.
    pub fn is_leaving(&self, conn: ConnId) -> bool {
        self.clients.get(&conn).is_some_and(|client| client.session.is_leaving())
    }

    /// A client's connection is gone.
    pub fn handle_client_closed(&mut self, now: Now, conn: ConnId) {
        let Some(client) = self.clients.remove(&conn) else { return };
        self.deadlines.remove(&(client.deadline, conn));
        self.touched.remove(&conn);
        self.paused.remove(&conn);
        self.incoming.forget(conn);
        self.outbox.forget(conn);
        self.dispatch.close(conn);
        self.unconfirmed = self.unconfirmed.saturating_sub(self.duplicates.close(conn));
        self.durables.close(conn);
        self.turn(now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Now) {
        if now.mono_ms >= self.node.deadline() {
            self.node.handle_timeout(now);
        }
        if now.mono_ms >= self.dispatch.deadline() {
            self.dispatch.handle_timeout(now, &self.node);
        }
        if now.mono_ms >= self.outbox.deadline() {
            self.expire_forwarded(now);
        }
        if now.mono_ms >= self.durables.deadline() {
            self.proceed_with_subscriptions(now);
        }
        if now.mono_ms >= self.changes.deadline() {
            self.expire_changes(now);
        }
        if now.mono_ms >= self.sweep_at {
            self.sweep(now);
        }
        if now.mono_ms >= self.jobs.deadline() {
            self.fire_jobs(now);
        }
        if now.mono_ms >= self.job_asks.deadline() {
            self.proceed_with_job_asks(now);
        }
        if now.mono_ms >= self.duplicates.deadline() {
            self.expire_ids(now);
        }
        let due: Vec<_> = self.deadlines.range(..=(now.mono_ms, ConnId(u64::MAX))).copied().collect();
        for (deadline, conn) in due {
            self.deadlines.remove(&(deadline, conn));
            if let Some(client) = self.clients.get_mut(&conn) {
                client.session.handle_timeout(now);
                client.deadline = u64::MAX;
                self.touched.insert(conn);
            }
        }
        self.turn(now);
    }

    /// When [`Broker::handle_timeout`] is wanted, on the monotonic clock.
    pub fn deadline(&self) -> u64 {
        let sessions = self.deadlines.first().map_or(u64::MAX, |(due, _)| *due);
        self.node
            .deadline()
            .min(self.dispatch.deadline())
            .min(sessions)
            .min(self.stop.deadline())
            .min(self.drain.deadline())
            .min(self.outbox.deadline())
            .min(self.durables.deadline())
            .min(self.changes.deadline())
            .min(self.moves.deadline())
            .min(self.sweep_at)
            .min(self.jobs.deadline())
            .min(self.job_asks.deadline())
            .min(self.duplicates.deadline())
    }

    /// What the driver is to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front().or_else(|| self.node.poll_output().map(Output::Net))
    }

    /// Forgets a node that will never come back, see [`Node::forget`].
    ///
    /// # Errors
    /// See there.
    pub fn forget(&mut self, now: Now, node: NodeId) -> Result<Forgotten, ForgetError> {
        let forgotten = self.node.forget(now, node);
        self.turn(now);
        forgotten
    }

    /// Sets the policy for the number of members, see [`Node::set_size`].
    ///
    /// # Errors
    /// See there.
    pub fn set_size(&mut self, now: Now, size: &Size) -> Result<(), SizeError> {
        let result = self.node.set_size(now, size);
        self.turn(now);
        result
    }

    /// Makes this cluster and that of the ticket one, see [`Node::merge`].
    ///
    /// # Errors
    /// See there.
    pub fn merge(&mut self, now: Now, ticket: &Ticket, size: Option<&Size>) -> Result<Merging, MergeError> {
        let result = self.node.merge(now, ticket, size);
        self.turn(now);
        result
    }

    /// Parts this cluster into two, see [`Node::split`].
    ///
    /// # Errors
    /// See there.
    pub fn split(&mut self, now: Now, order: SplitOrder, secret: NetworkSecret) -> Result<(), SplitError> {
        let result = self.node.split(now, order, secret);
        self.turn(now);
        result
    }

    /// What such an order would come to, and by queue or subscription how many messages leave and how many stay, as their
    /// owners told within the last second. A message goes with the node that took it.
    ///
    /// # Errors
    /// It can't be carried out, see [`Node::check_split`].
    pub fn plan_split(&self, order: &SplitOrder) -> Result<(SplitPlan, Backlogs), SplitError> {
        self.node.check_split(order)?;
        let counts = self.dispatch.taken_by(&self.node, &order.leaving);
        let short =
            self.dispatch.depths_in(&self.node, |segment| self.node.lacks_copies_within(segment, &order.leaving));
        let backlog = |(name, (leave, stay)): (crate::dispatch::Name, _)| {
            let short = short.get(&name).copied().unwrap_or_default();
            (name.0.to_string(), Backlog { leave, stay, short })
        };
        let backlogs = counts.into_iter().map(backlog).collect();
        Ok((self.node.plan_split(order), backlogs))
    }

    /// Takes that back, see [`Node::cancel_split`].
    ///
    /// # Errors
    /// See there.
    pub fn cancel_split(&mut self, now: Now) -> Result<(), SplitError> {
        let result = self.node.cancel_split(now);
        self.turn(now);
        result
    }

    /// Gives up the part of a split cluster that a node is of, see [`Node::give_up_part_of`].
    ///
    /// # Errors
    /// See there.
    pub fn give_up_part_of(&mut self, now: Now, node: NodeId) -> Result<LostPart, GiveUpPartError> {
        let result = self.node.give_up_part_of(now, node);
        self.turn(now);
        result
    }

    /// What this node knows, for people and tools.
    pub fn status(&mut self) -> Status {
        let member = |entry: rhizomq_net::RosterEntry| NodeStatus {
            name: entry.name,
            id: entry.id.to_string(),
            epoch: entry.epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
            alive: entry.alive,
            linked: entry.linked,
            draining: entry.draining,
            in_sync: entry.in_sync,
            site: entry.site,
            version: entry.version,
            role: match entry.role {
                Role::Member => "member".to_owned(),
                Role::Observer => "observer".to_owned(),
            },
            addresses: entry.addresses,
        };
        let policy_of = |name: &str| self.policy_of(name).map(|(pattern, _)| pattern.to_string());
        let queue = |(name, total): (crate::dispatch::Name, crate::dispatch::Total)| QueueStatus {
            policy: policy_of(&name.0),
            name: name.0.to_string(),
            depth: total.depth,
            in_flight: total.in_flight,
            consumers: total.consumers,
            scheduled: total.scheduled,
        };
        let roster = self.node.roster();
        let spread = self.node.spread();
        let site = |(name, (nodes, copies))| SiteStatus { name, nodes, copies };
        let merging =
            |(node, addresses): (NodeId, _)| MergingStatus { node: node.to_string(), addresses, refused: None };
        let DamageCount { found, repaired, lost } = self.node.damage();
        let (blocks, block_cache) = self.node.engine().cache_bytes();
        let (blocks, block_cache) = (blocks as u64, block_cache as u64);
        Status {
            node: self.node.id().to_string(),
            members: MembersStatus {
                view: self.node.members().name().to_string(),
                size: self.node.members().size,
                present: roster.iter().filter(|node| node.alive && node.role == Role::Member).count() as u32,
                policy: self.node.size().to_string(),
            },
            nodes: roster.into_iter().map(member).collect(),
            draining: self.node.drain_status().map(DrainingStatus::from),
            splitting: self.node.split_status().map(SplittingStatus::from),
            strayed: self.node.strayed().map(StrayedStatus::from),
            parted: self.node.parted().map(PartedStatus::from).collect(),
            split_off: self.node.gone().map(|node| node.to_string()).collect(),
            kept_of_split_off: self.node.kept_of_gone(),
            queues: self.dispatch.totals(&self.node).into_iter().map(queue).collect(),
            duplicates: self.dispatch.duplicates(),
            under_replicated: self.dispatch.lacking(&self.node),
            on_one_site: spread.on_one_site,
            sites: spread.sites.into_iter().map(site).collect(),
            digest: self.node.digest().iter().map(|byte| format!("{byte:02x}")).collect(),
            topic_drops: self.topic_drops,
            merging: self.node.merging().into_iter().map(merging).collect(),
            damage: DamageStatus { places: 0, found, repaired, lost },
            store: StoreStatus::default(),
            memory: MemoryStatus { blocks, block_cache, ..MemoryStatus::default() },
        }
    }

    /// What was read of a message's block, or was not there, is not what was written.
    pub fn handle_damage(&mut self, now: Now, dot: Dot, why: &str) {
        self.node.report_damage(now, dot, why);
        self.turn(now);
    }

    /// A small row of the store is broken. Whether it is written again from memory.
    pub fn handle_broken_row(&mut self, now: Now, key: &[u8]) -> bool {
        let is_here = self.node.rewrite_row(now, key);
        self.turn(now);
        is_here
    }

    /// What opening the engine found missing.
    pub fn handle_losses(&mut self, now: Now, losses: &[Loss]) {
        self.node.note_losses(losses);
        self.turn(now);
    }

    /// What follows every input: events, effects and answers, until nothing more comes of them.
    fn turn(&mut self, now: Now) {
        loop {
            while let Some(event) = self.node.poll_event() {
                self.handle_event(now, event);
            }
            while let Some(effect) = self.dispatch.poll_effect() {
                self.perform(now, effect);
            }
            self.proceed_with_held(now);
            self.write_acks(now);
            self.proceed_with_moves(now);
            let sight = Sight { policies: &self.policies, bindings: &self.durables.book };
            self.dispatch.retire(self.is_retired());
            self.dispatch.run(now, &self.node, &sight);
            if let Some(effect) = self.dispatch.poll_effect() {
                self.perform(now, effect);
                continue;
            }
            self.proceed_with_stop(now);
            self.proceed_with_drain(now);
            let touched = std::mem::take(&mut self.touched);
            touched.into_iter().for_each(|conn| self.hand_out(now, conn));
            match self.node.poll_event() {
                Some(event) => self.handle_event(now, event),
                None if self.dispatch.has_work() => {}
                None => return,
            }
        }
    }

    fn handle_event(&mut self, now: Now, event: Event) {
        match event {
            Event::LinkUp(peer) => {
                self.met.insert(peer);
                self.dispatch.handle_link_up(now, &self.node, peer);
                self.forward_link_up(peer);
                self.job_asks_link_up(now, peer);
            }
            Event::LinkDown(peer) => {
                self.dispatch.handle_link_down(now, peer);
                self.outbox.link_down(now.mono_ms, peer);
                self.durables.link_down(peer);
                self.job_asks_link_down(now, peer);
                self.duplicates.link_down(peer);
            }
            Event::Liveness { node, alive } => {
                self.dispatch.handle_liveness(now);
                if !alive {
                    self.forward_held_dead(node);
                }
            }
            Event::App { from, payload } if DuplicatesMsg::is_one(&payload) => self.handle_ids(from, &payload),
            Event::App { from, payload } if JobsMsg::is_one(&payload) => self.handle_jobs_msg(now, from, &payload),
            Event::App { from, payload } if ForwardMsg::is_one(&payload) => self.handle_forward(now, from, &payload),
            Event::App { from, payload } => self.handle_peer(now, from, &payload),
            Event::Confirmed { publish, copies } => {
                if !self.moved(now, publish) {
                    self.confirmed(publish, copies);
                }
                self.settle_job(now, publish, true);
                self.settle_ids_of(publish, Some(copies));
                self.settle_forwarded(publish, Outcome::Kept(copies));
            }
            Event::Rejected { publish, reason } => {
                if !self.not_moved(now, publish, &reason) {
                    self.rejected(publish, &reason);
                }
                self.settle_job(now, publish, false);
                self.settle_ids_of(publish, None);
                self.settle_forwarded(publish, Outcome::Rejected(reason));
            }
            Event::Arrived { segment, slots } => {
                self.learn_ids(now, segment, &slots);
                self.dispatch.handle_arrived(now, &self.node, segment, &slots);
                self.jobs_arrived(now);
                self.job_asks.arrived(now);
            }
            Event::Removed { segment, slots } => {
                self.duplicates.memory.forget(segment, &slots);
                self.dispatch.handle_removed(segment, &slots);
            }
            Event::Dropped { segment } => {
                self.duplicates.memory.forget_segment(segment);
                self.dispatch.handle_dropped(now, segment);
            }
            Event::Left => self.has_left(now),
            Event::Shared { set } => {
                self.follow_subscriptions(now, &set);
                self.follow_users(now, &set);
                self.follow_policies(now, &set);
            }
            Event::Damaged { what } => {
                tracing::error!("damage: {what}; it is fetched again from another node, and lost if none has it");
            }
            _ => {}
        }
    }

    fn handle_peer(&mut self, now: Now, from: NodeId, payload: &Bytes) {
        if let Err(error) = self.dispatch.handle_message(now, &self.node, from, payload) {
            tracing::warn!(peer = %from, "{error}");
        }
    }

    fn perform(&mut self, now: Now, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.node.send(to, &message.encode()),
            // On its way here its time may have come.
            Effect::Deliver { to, dot, content, .. } if expiry::is_over(&content.head, now.wall_ms) => {
                self.dispatch.give_back(to.conn, dot, Some(Return::Expired));
            }
            Effect::Leave { inbox, dot, why, deliveries } => self.moves.push(Leaver { dot, inbox, why, deliveries }),
            Effect::Deliver { to, inbox, dot, redelivered, returns, content } => {
                // A durable subscription's inbox is not called like the topic.
                let routed = inbox.starts_with(DURABLE).then(|| decode_routed_head(&content.head)).flatten();
                let delivered = self.clients.get_mut(&to.conn).and_then(|client| {
                    let (destination, head) = match &routed {
                        Some((topic, head)) => (&**topic, head),
                        // Nor is a view, or a lane, called like its queue.
                        None => (lane::queue_of(&inbox), &content.head),
                    };
                    let (message_id, body) = (&*dot.to_string(), &content.body);
                    let count = Some(returns.saturating_add(1));
                    let delivery = Delivery { message_id, redelivered, count, destination, head, body };
                    client.session.deliver(to.sub, delivery)?;
                    self.dispatch.set_busy(to.conn, client.is_busy() || self.drain.is_on());
                    Some(())
                });
                if delivered.is_none() {
                    // The session has ended, and dispatch is about to hear of it: it must not choose this one again.
                    self.dispatch.unsubscribe(to);
                    self.dispatch.give_back(to.conn, dot, None);
                }
                self.touched.insert(to.conn);
            }
            Effect::Topic { content, .. } if expiry::is_over(&content.head, now.wall_ms) => {}
            Effect::Topic { to, topic, id, content } => {
                let Some(client) = self.clients.get_mut(&to.conn) else { return };
                let is_behind =
                    client.unflushed() > TOPIC_BACKLOG_BYTES || client.session.in_flight(to.sub) >= TOPIC_BACKLOG;
                let (head, body) = (&content.head, &content.body);
                let delivery =
                    Delivery { message_id: &id, redelivered: false, count: None, destination: &topic, head, body };
                if is_behind || client.session.deliver(to.sub, delivery).is_none() {
                    self.topic_drops += 1;
                }
                self.touched.insert(to.conn);
            }
            Effect::Browsed { to, inbox, dot, content } => {
                let Some(client) = self.clients.get_mut(&to.conn) else { return };
                let (message_id, destination) = (&*dot.to_string(), lane::queue_of(&inbox));
                let (head, body) = (&content.head, &content.body);
                let delivery = Delivery { message_id, redelivered: false, count: None, destination, head, body };
                match client.session.deliver(to.sub, delivery) {
                    Some(_) => self.dispatch.set_busy(to.conn, client.is_busy() || self.drain.is_on()),
                    None => self.dispatch.unsubscribe(to),
                }
                self.touched.insert(to.conn);
            }
            Effect::BrowseEnd { to } => {
                self.clients.get_mut(&to.conn).into_iter().for_each(|client| client.session.end_browse(to.sub));
                self.dispatch.unsubscribe(to);
                self.touched.insert(to.conn);
            }
            Effect::MergeRemoved { segment, slots } => self.node.merge_removed(now, segment, &slots),
            Effect::Damaged { dot, why } => self.node.report_damage(now, dot, &why),
            Effect::Synced { id } => self.synced(id),
            Effect::Awaited { by, number, inbox } => self.await_inbox(by, number, inbox),
            Effect::Asked { by, inboxes } => self.answer_asked(by, inboxes),
            Effect::Gone { from, inboxes } => self.note_gone(now, from, &inboxes),
        }
    }

    /// Hands a session's bytes out, and its end.
    fn hand_out(&mut self, now: Now, conn: ConnId) {
        // Before the session is asked for its deadline, which depends on it.
        self.regulate(now, conn);
        let Some(client) = self.clients.get_mut(&conn) else { return };
        client.check_unread(now);
        while let Some(bytes) = client.session.poll_bytes() {
            self.outputs.push_back(Output::ClientBytes { conn, bytes });
        }
        let deadline = client.next_deadline();
        if deadline != client.deadline {
            self.deadlines.remove(&(client.deadline, conn));
            client.deadline = deadline;
            if deadline != u64::MAX {
                self.deadlines.insert((deadline, conn));
            }
        }
        if client.session.should_close() && !client.closing {
            client.closing = true;
            self.outputs.push_back(Output::ClientClose { conn });
            self.dispatch.close(conn);
        }
    }
}
