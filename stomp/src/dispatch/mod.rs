//! Who gets which message: only owners dispatch, only edges deliver.
//!
//! Every node plays both roles. They talk in [`msg::DispatchMsg`]s, a node's own two through a queue in memory and
//! otherwise by the same code. All of it is a state machine: inputs are `handle_*` and the commands, then
//! [`Dispatch::run`] does what has become possible, and [`Dispatch::poll_effect`] tells what the broker is to do. Effects
//! are to be carried out before `run` is called again, so that it sees what they changed.
//!
//! - [`edge`]: consumers, what is in flight here; [`supply`]: credit for owners
//! - [`owner`]: order; [`search`]: what comes next; [`demand`]: credit from edges; [`flights`]: what is in flight anywhere
//! - [`takeover`]: who owns which segment; [`standins`]: what others than its writer delivered of one
//! - [`returns`]: what comes back or leaves another way: redelivery, expiry, dead letters
//! - [`browse`]: looking through a queue
//! - [`groups`]: message groups, each for one consumer
//! - [`topics`]: messages that are kept nowhere
//! - [`syncs`]: when all have heard of a subscription
//! - [`census`]: figures about the whole cluster

mod browse;
mod census;
mod demand;
mod edge;
mod flights;
mod groups;
mod msg;
mod owner;
mod returns;
mod search;
mod standins;
mod steps;
mod supply;
mod syncs;
mod takeover;
#[cfg(test)]
mod tests;
mod topics;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use rhizomq_engine::{Dot, Epoch, Mistake, NodeId, Now, Planted, RangeSet, SegmentId};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use browse::Place;
pub(crate) use census::Total;
pub(crate) use edge::ConsumerId;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use groups::Holding;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use msg::Depth;
pub(crate) use msg::{BadMessage, Content, DispatchMsg, Name, Return};
pub(crate) use returns::{Leave, Rulebook, Rules};
pub(crate) use syncs::SyncId;
pub use takeover::TakeoverTiming;
pub(crate) use view::View;

use crate::{
    broker::ConnId,
    lane::{self, Lane},
    selector::Selector,
};
use browse::{Browsers, Shelf};
use census::{Census, Figures, queue_of};
use edge::{Arrival, Edge, Refusal};
use owner::{Owner, Turn};
use standins::StandIns;
use syncs::Syncs;
use takeover::{Takeover, Verdict};
use topics::Topics;

/// After an arrival for a segment that is not owned here, all segments are looked at within so many milliseconds.
const ARRIVALS_MS: u64 = 100;
/// Segments in one claim.
const CLAIM_CHUNK: usize = 512;

/// What the broker is to do.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Send to a linked node.
    Send { to: NodeId, message: DispatchMsg },
    /// Write a queue's message to a client.
    Deliver { to: ConsumerId, inbox: Arc<str>, dot: Dot, redelivered: bool, returns: u32, content: Content },
    /// A message of this node's is to leave its queue: it is to be consumed, moved elsewhere or not. Nobody gets it until then,
    /// unless the segment goes to another owner: [`Dispatch::is_leaving`] tells.
    Leave { inbox: Arc<str>, dot: Dot, why: Leave, deliveries: u32 },
    /// Write a topic's message to a client, or drop it if the client is too far behind.
    Topic { to: ConsumerId, topic: Arc<str>, id: String, content: Content },
    /// Show a client that looks through a queue a message; it takes nothing.
    Browsed { to: ConsumerId, inbox: Arc<str>, dot: Dot, content: Content },
    /// Tell it that this was all.
    BrowseEnd { to: ConsumerId },
    /// Note as consumed what another node knows to be.
    MergeRemoved { segment: SegmentId, slots: RangeSet },
    /// A message can't be read.
    Damaged { dot: Dot, why: String },
    /// All linked nodes have heard, or are not waited for any more: see [`Dispatch::sync`].
    Synced { id: SyncId },
    /// A node waits until this inbox is known as one of a durable subscription: then it is to be sent `Synced`.
    Awaited { by: NodeId, number: u64, inbox: Arc<str> },
    /// A node asks which of these temporary queues are gone: it is to be sent `Gone`.
    Asked { by: NodeId, inboxes: Vec<Name> },
    /// A node says that these temporary queues of its clients are gone.
    Gone { from: NodeId, inboxes: Vec<Name> },
}

/// See the module docs.
pub(crate) struct Dispatch {
    me: NodeId,
    epoch: Epoch,
    owner: Owner,
    edge: Edge,
    takeover: Takeover,
    stand_ins: StandIns,
    planted: Planted,
    topics: Topics,
    census: Census,
    syncs: Syncs,
    browsers: Browsers,
    /// The last time that is known.
    now: Now,
    /// From this node to itself.
    local: VecDeque<DispatchMsg>,
    effects: VecDeque<Effect>,
}

impl Dispatch {
    pub(crate) fn new(me: NodeId, epoch: Epoch, timing: TakeoverTiming, planted: Planted) -> Self {
        let mut dispatch = Self {
            me,
            epoch,
            owner: Owner::new(me, planted),
            edge: Edge::new(me),
            takeover: Takeover::new(me, epoch, timing),
            stand_ins: StandIns::default(),
            planted,
            topics: Topics::default(),
            census: Census::default(),
            syncs: Syncs::default(),
            browsers: Browsers::default(),
            now: Now { mono_ms: 0, wall_ms: 0 },
            local: VecDeque::new(),
            effects: VecDeque::new(),
        };
        dispatch.owner.link_up(me);
        dispatch.edge.link_up(me, &mut Vec::new());
        dispatch
    }

    /// A node can be sent to.
    pub(crate) fn handle_link_up(&mut self, now: Now, view: &dyn View, peer: NodeId) {
        if self.planted.is(Mistake::RecallAnew) {
            self.owner.recall_all();
        }
        let mut out = vec![Effect::Send { to: peer, message: DispatchMsg::Life(self.epoch) }];
        claim(&[peer], &self.takeover.link_up(now.mono_ms, peer, view), true, &mut out);
        self.owner.link_up(peer);
        self.edge.link_up(peer, &mut out);
        // Behind the interest of all who hold anything here.
        self.owner.tell_holders(peer, &mut out);
        self.topics.link_up(peer, &mut out);
        self.census.link_up(peer, &mut out);
        self.syncs.link_up(peer, &mut out);
        self.takeover.look_soon(now.mono_ms);
        self.absorb(out);
    }

    /// A node can't be sent to any more.
    pub(crate) fn handle_link_down(&mut self, now: Now, peer: NodeId) {
        self.owner.link_down(peer);
        if self.planted.is(Mistake::RecallEverywhere) {
            self.owner.recall_all();
        }
        self.edge.link_down(peer);
        self.topics.link_down(peer);
        self.census.link_down(peer);
        self.browsers.link_down(peer);
        self.takeover.link_down(peer);
        self.takeover.look_soon(now.mono_ms);
        let mut out = Vec::new();
        self.syncs.link_down(peer, &mut out);
        self.absorb(out);
    }

    /// A node is held alive or dead.
    pub(crate) fn handle_liveness(&mut self, now: Now) {
        self.takeover.look_soon(now.mono_ms);
    }

    /// A message from a linked node.
    pub(crate) fn handle_message(
        &mut self,
        now: Now,
        view: &dyn View,
        from: NodeId,
        payload: &Bytes,
    ) -> Result<(), BadMessage> {
        let message = DispatchMsg::decode(payload)?;
        self.take(now, view, from, message);
        Ok(())
    }

    /// Messages wait here that did not before.
    pub(crate) fn handle_arrived(&mut self, now: Now, view: &dyn View, segment: SegmentId, slots: &RangeSet) {
        self.owner.arrived(view, segment, slots);
        if !self.takeover.owns(segment) {
            self.takeover.look_soon(now.mono_ms + ARRIVALS_MS);
        }
    }

    /// Messages are known to be consumed.
    pub(crate) fn handle_removed(&mut self, segment: SegmentId, slots: &RangeSet) {
        self.edge.removed(segment, slots);
        self.owner.removed(segment, slots, self.takeover.owns(segment));
    }

    /// This node keeps no replica of the segment any more.
    pub(crate) fn handle_dropped(&mut self, now: Now, segment: SegmentId) {
        self.owner.give_up(segment);
        self.takeover.on_dropped(segment);
        self.takeover.look_soon(now.mono_ms);
    }

    /// When [`Dispatch::handle_timeout`] is wanted, on the monotonic clock.
    pub(crate) fn deadline(&self) -> u64 {
        let due = self.takeover.deadline().min(self.census.deadline()).min(self.syncs.deadline());
        due.min(self.owner.deadline()).min(self.browsers.deadline())
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Now, view: &dyn View) {
        self.now = now;
        let mut out = Vec::new();
        if now.mono_ms >= self.takeover.deadline() {
            let (due, dropped) = self.takeover.look(now.mono_ms, view);
            dropped.into_iter().for_each(|segment| self.owner.give_up(segment));
            self.claim_firmly(now, view, &due, &mut out);
            claim(&view.linked(), &self.takeover.repeat(now.mono_ms), false, &mut out);
        }
        if now.mono_ms >= self.census.deadline() {
            let own = self.own_figures(view);
            self.census.tell(now.mono_ms, own, view.lacking(), &view.linked(), &mut out);
        }
        self.syncs.expire(now.mono_ms, &mut out);
        self.owner.handle_timeout(now);
        self.absorb(out);
    }

    /// A consumer of a queue; at most `prefetch` messages are with it at a time.
    pub(crate) fn subscribe(&mut self, id: ConsumerId, inbox: &Arc<str>, prefetch: u32) {
        let mut out = Vec::new();
        self.edge.subscribe(id, inbox, prefetch, &mut out);
        self.absorb(out);
    }

    /// An exclusive consumer of a queue, or of a view of it: it alone gets all, until it goes, if its priority is the highest and it
    /// has been there for longest.
    pub(crate) fn subscribe_exclusively(&mut self, id: ConsumerId, asked: &str, priority: i8, prefetch: u32) {
        // Later than all that are known here, whatever their clocks say.
        let latest = self.owner.latest_exclusive(lane::queue_of(asked));
        let since = self.now.wall_ms.max(latest.saturating_add(1));
        let reader = self.edge.reader(id);
        self.subscribe(id, &lane::exclusive(asked, priority, since, &reader).into(), prefetch);
    }

    /// A client looks through a queue, or a view of one: what waits at this node and those that are linked.
    pub(crate) fn browse(&mut self, view: &dyn View, id: ConsumerId, name: &Arc<str>) {
        let owners = std::iter::once(self.me).chain(view.linked()).collect();
        self.browsers.begin(id, name, owners);
    }

    /// A consumer reads these inboxes from now on, and no others; they share its prefetch.
    pub(crate) fn attend(&mut self, id: ConsumerId, inboxes: &[Arc<str>]) {
        let mut out = Vec::new();
        self.edge.attend(id, inboxes, &mut out);
        self.absorb(out);
    }

    /// Asks all linked nodes to say when they have heard of all that subscriptions here brought about, and of an inbox's
    /// durable subscription. [`Effect::Synced`] follows.
    pub(crate) fn sync(&mut self, now: Now, inbox: Option<&Arc<str>>) -> SyncId {
        let mut out = Vec::new();
        let id = self.syncs.begin(now.mono_ms, inbox, &mut out);
        self.absorb(out);
        id
    }

    /// How many messages of a queue wait in the reachable cluster, as its owners told within the last second; or fewer, but not
    /// fewer than are `enough`.
    pub(crate) fn depth(&self, view: &dyn View, queue: &Arc<str>, enough: u64) -> u64 {
        let mut depth = self.census.depth_elsewhere(queue);
        let (mut from, now_ms) = (Lane::FIRST, self.now.wall_ms);
        let inboxes = |name: &str| view.inbox_from(name);
        while depth < enough
            && let Some((lane, inbox)) = lane::next(&inboxes, queue, from, now_ms, true)
        {
            let segments = view.inbox_segments(&inbox).into_iter().filter(|(id, _)| self.takeover.answers_for(*id));
            depth = depth.saturating_add(segments.map(|(_, count)| count).sum());
            from = lane.after();
        }
        depth
    }

    /// Whether anybody within reach reads an inbox.
    pub(crate) fn is_wanted(&self, inbox: &str) -> bool {
        self.owner.is_wanted(inbox)
    }

    /// Segments that this node dispatches in which messages of an inbox wait.
    pub(crate) fn owned_with(&self, view: &dyn View, inbox: &str) -> Vec<SegmentId> {
        let segments = view.inbox_segments(inbox).into_iter().map(|(segment, _)| segment);
        segments.filter(|segment| self.takeover.owns(*segment)).collect()
    }

    /// A listener of a topic.
    pub(crate) fn listen(&mut self, id: ConsumerId, topic: &Arc<str>, selector: Option<Selector>) {
        let mut out = Vec::new();
        self.topics.subscribe(id, topic, selector, &mut out);
        self.absorb(out);
    }

    /// The end of a subscription. What it holds stays with it until it is settled.
    pub(crate) fn unsubscribe(&mut self, id: ConsumerId) {
        let mut out = Vec::new();
        self.edge.unsubscribe(id, &mut out);
        self.browsers.end(id);
        self.topics.unsubscribe(id, &mut out);
        self.absorb(out);
    }

    /// The end of a connection: what it held goes to others.
    pub(crate) fn close(&mut self, conn: ConnId) {
        let mut out = Vec::new();
        self.edge.close(conn, &mut out);
        self.browsers.close(conn);
        self.topics.close(conn, &mut out);
        self.absorb(out);
    }

    /// A client's answer to a delivery, see [`Edge::settle`]. After `ack` the removal is to be written.
    pub(crate) fn settle(&mut self, conn: ConnId, dot: Dot, ack: bool) -> bool {
        let mut out = Vec::new();
        let held = self.edge.settle(conn, dot, ack, &mut out);
        self.absorb(out);
        held
    }

    /// A delivery goes back for this reason; `None`: the client has not been sent it. Whether the client held it.
    pub(crate) fn give_back(&mut self, conn: ConnId, dot: Dot, why: Option<Return>) -> bool {
        let mut out = Vec::new();
        let held = self.edge.give_back(conn, dot, why, &mut out);
        self.absorb(out);
        held
    }

    /// Whether a message is on its way out of its queue, and this node is still the one to see to it.
    pub(crate) fn is_leaving(&self, dot: Dot) -> bool {
        self.owner.is_leaving(dot)
    }

    /// A message that was to leave its queue stays there after all.
    pub(crate) fn stay(&mut self, dot: Dot, until: u64) {
        self.owner.stay(dot, until);
    }

    /// The removal of an acknowledged message could not be written.
    pub(crate) fn unsettle(&mut self, dot: Dot) {
        let mut out = Vec::new();
        self.edge.unsettle(dot, &mut out);
        self.absorb(out);
    }

    /// Whether the connection's socket is behind.
    pub(crate) fn set_busy(&mut self, conn: ConnId, busy: bool) {
        self.edge.set_busy(conn, busy);
        if !busy {
            self.browsers.resume(conn);
        }
    }

    /// A message to all listeners of a topic.
    pub(crate) fn publish_topic(&mut self, topic: &Arc<str>, id: &str, content: &Content) {
        let mut out = Vec::new();
        self.topics.publish(topic, id, content, &mut out);
        self.absorb(out);
    }

    /// Whether this node dispatches nothing any more: it is about to leave.
    pub(crate) fn retire(&mut self, retired: bool) {
        self.owner.retire(retired);
    }

    /// Steps whose number is not to grow with the number of consumers, or of queues with groups.
    #[cfg(test)]
    pub(crate) fn steps(&self) -> u64 {
        self.owner.steps() + self.edge.steps()
    }

    /// What is remembered, and how much of it.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> Vec<(&'static str, usize)> {
        let books = [
            self.owner.remembered(),
            self.edge.remembered(),
            self.takeover.remembered(),
            self.topics.remembered(),
            vec![("syncs", self.syncs.len()), ("browsers", self.browsers.len())],
        ];
        books.into_iter().flatten().collect()
    }

    /// Whether a client here has a message, or its acknowledgement is not on disk yet.
    pub(crate) fn holds_any(&self) -> bool {
        self.edge.holds_any()
    }

    /// Deliveries that may be second ones, because of a takeover or a lost link.
    pub(crate) fn duplicates(&self) -> u64 {
        self.owner.duplicates()
    }

    /// All inboxes of the reachable cluster.
    pub(crate) fn totals(&self, view: &dyn View) -> BTreeMap<Name, Total> {
        self.census.totals(&self.own_figures(view))
    }

    /// Waiting messages of the reachable cluster that lack copies.
    pub(crate) fn lacking(&self, view: &dyn View) -> u64 {
        self.census.lacking(view.lacking())
    }

    /// By inbox, how many messages wait that these nodes took, and how many that others did; of the reachable cluster.
    /// Nodes that are not linked are owners of nothing: what they took is counted as that of others.
    pub(crate) fn taken_by(&self, view: &dyn View, nodes: &BTreeSet<NodeId>) -> BTreeMap<Name, (u64, u64)> {
        self.census.taken_by(nodes, (self.me, &self.own_figures(view)))
    }

    /// By inbox, how many messages wait in segments that this node answers for and that are so.
    pub(crate) fn depths_in(&self, view: &dyn View, is_so: impl Fn(SegmentId) -> bool) -> BTreeMap<Name, u64> {
        let counts = |segment| self.takeover.answers_for(segment) && is_so(segment);
        let depths = self.owner.depths(self.now, view, counts);
        let mut sums: BTreeMap<Name, u64> = BTreeMap::new();
        for (name, depth) in depths {
            *sums.entry(queue_of(&name)).or_default() += depth.depth;
        }
        sums
    }

    fn own_figures(&self, view: &dyn View) -> BTreeMap<Name, Figures> {
        let counts = |segment| self.takeover.answers_for(segment);
        let mut adopted = self.owner.adopted(self.now, view, counts);
        let figures = |(name, depth)| {
            let adopted = adopted.remove(&name).unwrap_or_default();
            (name, Figures { depth, adopted })
        };
        self.owner.depths(self.now, view, counts).into_iter().map(figures).collect()
    }

    /// Does what has become possible: takes in the node's messages to itself, dispatches, grants.
    pub(crate) fn run(&mut self, now: Now, view: &dyn View, rules: &dyn Rulebook) {
        self.now = now;
        self.let_go(&self.split_off(view));
        loop {
            for (segment, held) in self.takeover.finished(now.mono_ms) {
                self.owner.adopt(view, segment, &held);
            }
            let mut out = Vec::new();
            let turn = Turn { now, view, rules, takeover: &self.takeover, census: &self.census };
            self.owner.serve(turn, &mut out);
            self.note_stand_ins(&out);
            self.absorb(out);
            // Grants come after the messages that use credit up are taken in.
            while let Some(message) = self.local.pop_front() {
                self.take(now, view, self.me, message);
            }
            let mut out = Vec::new();
            self.edge.grant(&mut out);
            let edge = &self.edge;
            self.browsers.proceed(now.mono_ms, |conn| edge.is_busy(conn), &mut out);
            self.absorb(out);
            // What was dispatched is written first: that shows which sockets are behind, and more credit waits for it.
            let is_written = |effect: &Effect| matches!(effect, Effect::Deliver { .. } | Effect::Browsed { .. });
            let has_written = self.effects.iter().any(is_written);
            if has_written || (self.local.is_empty() && !self.owner.is_dirty()) {
                return;
            }
            while let Some(message) = self.local.pop_front() {
                self.take(now, view, self.me, message);
            }
        }
    }

    /// Whether [`Dispatch::run`] or [`Dispatch::poll_effect`] has something to do.
    pub(crate) fn has_work(&self) -> bool {
        !self.effects.is_empty()
            || !self.local.is_empty()
            || self.owner.is_dirty()
            || self.edge.is_dirty()
            || self.browsers.is_ready(self.now.mono_ms)
    }

    /// What the broker is to do next.
    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn take(&mut self, now: Now, view: &dyn View, from: NodeId, message: DispatchMsg) {
        let mut out = Vec::new();
        match message {
            DispatchMsg::Life(life) => {
                self.takeover.on_life(from, life);
                self.stand_ins.on_life(from, life);
            }
            DispatchMsg::Interest(interest) => {
                self.census.on_interest(from, &interest);
                self.owner.on_interest(from, interest, &mut out);
            }
            DispatchMsg::Closed { inbox } => self.edge.on_closed(from, &inbox),
            DispatchMsg::Backlog { inbox, waiting, round } => self.edge.on_backlog(from, inbox, waiting, round),
            DispatchMsg::Grant { inbox, limit, round } => self.owner.on_grant(from, &inbox, limit, round),
            DispatchMsg::Received { bytes } => self.owner.on_received(from, bytes),
            DispatchMsg::Deliver { inbox, dot, tag, redelivered, content } => {
                let arrival = Arrival { inbox, dot, tag, redelivered, returns: 0, content };
                self.take_arrival(view, from, arrival, &mut out);
            }
            DispatchMsg::DeliverAgain { inbox, dot, tag, redelivered, returns, content } => {
                let arrival = Arrival { inbox, dot, tag, redelivered, returns, content };
                self.take_arrival(view, from, arrival, &mut out);
            }
            DispatchMsg::Returned { dot, tag, why } => {
                self.takeover.on_release(from, dot, tag);
                self.owner.on_returned(from, dot, tag, why);
            }
            DispatchMsg::Release { dot, tag } => {
                self.takeover.on_release(from, dot, tag);
                self.owner.on_release(from, dot, tag);
            }
            DispatchMsg::Refused { dot, tag } => {
                if self.owner.is_in_flight(from, dot, tag) {
                    self.takeover.doubt(now.mono_ms, dot.segment);
                }
            }
            DispatchMsg::Claim { segments, firm } => {
                for segment in segments {
                    self.answer_claim(now, view, from, segment, firm, &mut out);
                }
            }
            DispatchMsg::Held { segment, removed, held, up_to } => {
                if view.has_replica(segment) && !removed.is_empty() {
                    out.push(Effect::MergeRemoved { segment, slots: removed });
                }
                if !self.takeover.on_held(from, segment, &held, up_to) && self.takeover.owns(segment) {
                    let held = held.into_iter().map(|(slot, tag)| (slot, (from, tag))).collect();
                    self.owner.adopt(view, segment, &held);
                }
            }
            DispatchMsg::Denied { segment } => {
                if self.takeover.on_denied(now.mono_ms, segment) {
                    self.owner.give_up(segment);
                }
            }
            DispatchMsg::Topics(topics) => self.topics.on_topics(from, topics),
            DispatchMsg::Topic { topic, id, content } => self.topics.on_message(&topic.0, &id, &content, &mut out),
            DispatchMsg::Depths(depths) => self.census.on_depths(from, depths),
            DispatchMsg::Lacking(count) => self.census.on_lacking(from, count),
            DispatchMsg::Adopted(adopted) => self.census.on_adopted(from, adopted),
            DispatchMsg::Sync { number, inbox: None } => {
                out.push(Effect::Send { to: from, message: DispatchMsg::Synced { number } });
            }
            DispatchMsg::Sync { number, inbox: Some(inbox) } => {
                out.push(Effect::Awaited { by: from, number, inbox: inbox.0 });
            }
            DispatchMsg::Synced { number } => self.syncs.on_synced(from, number, &mut out),
            DispatchMsg::Ask(inboxes) => out.push(Effect::Asked { by: from, inboxes }),
            DispatchMsg::Gone(inboxes) => out.push(Effect::Gone { from, inboxes }),
            DispatchMsg::Browse { number, inbox, after, left } => {
                let page = Shelf { now, view, takeover: &self.takeover }.page(&inbox.0, after, left);
                out.extend(page.damaged.into_iter().map(|(dot, why)| Effect::Damaged { dot, why }));
                let browsed = |(dot, content)| DispatchMsg::Browsed { number, dot, content };
                let end = DispatchMsg::PageEnd { number, after: page.after, left: page.left };
                let answer = page.messages.into_iter().map(browsed).chain([end]);
                out.extend(answer.map(|message| Effect::Send { to: from, message }));
            }
            DispatchMsg::Browsed { number, dot, content } => {
                self.browsers.on_browsed(from, number, dot, content, &mut out);
            }
            DispatchMsg::PageEnd { number, after, left } => self.browsers.on_page_end(from, number, after, left),
            DispatchMsg::Grouped { inbox } => self.edge.on_grouped(&inbox.0, &mut out),
            DispatchMsg::Holders { inbox, holdings } => self.owner.on_holders(from, &inbox, holdings, &mut out),
        }
        self.absorb(out);
    }

    fn take_arrival(&mut self, view: &dyn View, from: NodeId, arrival: Arrival, out: &mut Vec<Effect>) {
        let dot = arrival.dot;
        let refusal = match () {
            () if view.is_removed(dot) => Some(Refusal::Consumed),
            () if !self.takeover.may_deliver(from, dot.segment) => Some(Refusal::NotOwner),
            () if self.split_off(view).contains(&dot.segment.node) => Some(Refusal::NotOwner),
            () => None,
        };
        if self.edge.on_deliver(from, arrival, refusal, out) && from != dot.segment.node {
            self.stand_ins.note(dot);
        }
    }

    fn answer_claim(
        &mut self,
        now: Now,
        view: &dyn View,
        from: NodeId,
        segment: SegmentId,
        firm: bool,
        out: &mut Vec<Effect>,
    ) {
        match self.takeover.on_claim(view, from, segment, firm) {
            Verdict::Deny if firm => out.push(Effect::Send { to: from, message: DispatchMsg::Denied { segment } }),
            Verdict::Deny => {}
            Verdict::Contest => {
                if !self.takeover.is_claiming(segment) {
                    self.claim_firmly(now, view, &[segment], out);
                }
            }
            Verdict::Accept { was_owner } => {
                if was_owner {
                    self.owner.give_up(segment);
                }
                let held = self.edge.claimed(segment, from);
                if firm || was_owner || !held.is_empty() {
                    let (removed, up_to) = (view.removed_slots(segment), self.stand_ins.up_to(segment));
                    let message = DispatchMsg::Held { segment, removed, held, up_to };
                    out.push(Effect::Send { to: from, message });
                }
            }
        }
    }

    /// Stops dispatching the segments until all linked nodes have told what they hold of them.
    fn claim_firmly(&mut self, now: Now, view: &dyn View, segments: &[SegmentId], out: &mut Vec<Effect>) {
        let linked = view.linked();
        if self.planted.is(Mistake::TakeoverUnasked) {
            segments.iter().for_each(|segment| self.takeover.begin(now.mono_ms, *segment, &[], &[]));
            return claim(&linked, segments, false, out);
        }
        for &segment in segments {
            if self.takeover.is_own_life(segment) {
                self.owner.recall(segment);
            } else {
                self.owner.give_up(segment);
            }
            let held = self.edge.claimed(segment, self.me);
            self.takeover.begin(now.mono_ms, segment, &linked, &held);
        }
        claim(&linked, segments, true, out);
    }

    /// Nodes of the other part, if the cluster was split.
    fn split_off(&self, view: &dyn View) -> Vec<NodeId> {
        if self.planted.is(Mistake::ServeGone) { Vec::new() } else { view.split_off() }
    }

    /// What nodes took that turn out to be of another part is not dispatched here any more: it was taken over as that of
    /// dead ones.
    fn let_go(&mut self, split_off: &[NodeId]) {
        if split_off.is_empty() {
            return;
        }
        for segment in self.takeover.part_from(split_off) {
            self.owner.give_up(segment);
        }
    }

    /// Remembers what is dispatched here in place of others.
    fn note_stand_ins(&mut self, out: &[Effect]) {
        for effect in out {
            if let Effect::Send { message, .. } = effect
                && let DispatchMsg::Deliver { dot, .. } | DispatchMsg::DeliverAgain { dot, .. } = message
                && dot.segment.node != self.me
            {
                self.stand_ins.note(*dot);
            }
        }
    }

    /// Messages to this node itself stay here.
    fn absorb(&mut self, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Send { to, message } if to == self.me => self.local.push_back(message),
                effect => self.effects.push_back(effect),
            }
        }
    }
}

fn claim(peers: &[NodeId], segments: &[SegmentId], firm: bool, out: &mut Vec<Effect>) {
    for (&to, chunk) in peers.iter().flat_map(|to| segments.chunks(CLAIM_CHUNK).map(move |chunk| (to, chunk))) {
        out.push(Effect::Send { to, message: DispatchMsg::Claim { segments: chunk.to_vec(), firm } });
    }
}
