//! Three nodes on paper: every node keeps every message, links are queues, and all that happens is drawn from a seed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use rhizomq_engine::{Dot, Epoch, Message, NodeId, Now, Planted, RangeSet, SegmentId, Slot};

use super::super::{ConsumerId, Dispatch, DispatchMsg, Effect, Leave, Return, Rulebook, Rules, TakeoverTiming, View};
use crate::{
    broker::ConnId,
    lane::{self, Lane},
    selector::{Selector, StoredFields},
    session::SubKey,
};

pub(super) const NODES: usize = 3;
const SEGMENT_SLOTS: Slot = 7;

/// What one node has on disk, and whom it is linked with.
pub(super) struct Paper {
    id: NodeId,
    linked: BTreeSet<NodeId>,
    near: BTreeSet<NodeId>,
    split_off: BTreeSet<NodeId>,
    /// Who is about to leave, as this node knows: it is no candidate.
    pub(super) leaving: BTreeSet<NodeId>,
    messages: BTreeMap<Dot, Arc<str>>,
    /// What was dropped because all of it is consumed.
    over: BTreeSet<SegmentId>,
    removed: BTreeMap<SegmentId, RangeSet>,
    /// Removals whose commit is under way.
    staged: BTreeSet<Dot>,
    damaged: BTreeSet<Dot>,
    /// Whether messages are of groups.
    pub(super) groups: bool,
}

impl Paper {
    fn waits(&self, dot: &Dot) -> bool {
        !self.removed.get(&dot.segment).is_some_and(|slots| slots.contains(dot.slot))
    }

    fn waiting(&self) -> impl Iterator<Item = (&Dot, &Arc<str>)> {
        self.messages.iter().filter(|(dot, _)| self.waits(dot))
    }
}

impl View for Paper {
    fn linked(&self) -> Vec<NodeId> {
        self.linked.iter().copied().collect()
    }
    fn split_off(&self) -> Vec<NodeId> {
        self.split_off.iter().copied().collect()
    }
    fn is_alive(&self, node: NodeId) -> bool {
        node == self.id || self.linked.contains(&node)
    }
    fn lacking(&self) -> u64 {
        0
    }
    fn is_near(&self, node: NodeId) -> bool {
        self.near.contains(&node)
    }
    fn candidates(&self, segment: SegmentId) -> Vec<NodeId> {
        let others = (0..NODES).map(id_of).filter(|id| *id != segment.node);
        [segment.node].into_iter().chain(others).filter(|id| !self.leaving.contains(id)).collect()
    }
    fn segments(&self) -> Vec<SegmentId> {
        let all: BTreeSet<_> =
            self.messages.keys().map(|dot| dot.segment).chain(self.removed.keys().copied()).collect();
        all.into_iter().collect()
    }
    fn has_replica(&self, segment: SegmentId) -> bool {
        self.segments().contains(&segment)
    }
    fn is_over(&self, segment: SegmentId) -> bool {
        self.over.contains(&segment)
    }
    fn has_waiting(&self, segment: SegmentId) -> bool {
        self.waiting().any(|(dot, _)| dot.segment == segment)
    }
    fn inboxes(&self) -> Vec<Arc<str>> {
        let all: BTreeSet<_> = self.waiting().map(|(_, inbox)| Arc::clone(inbox)).collect();
        all.into_iter().collect()
    }
    fn inboxes_after(&self, last: Option<&str>, limit: usize) -> Vec<Arc<str>> {
        let is_behind = |name: &Arc<str>| last.is_none_or(|last| **name > *last);
        self.inboxes().into_iter().filter(is_behind).take(limit).collect()
    }

    fn inbox_from(&self, name: &str) -> Option<Arc<str>> {
        self.inboxes().into_iter().find(|inbox| **inbox >= *name)
    }
    fn inbox_segments(&self, inbox: &str) -> Vec<(SegmentId, u64)> {
        let mut counts = BTreeMap::new();
        for (dot, _) in self.waiting().filter(|(_, name)| &***name == inbox) {
            *counts.entry(dot.segment).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }
    fn inboxes_with(&self, segment: SegmentId, slots: &RangeSet) -> BTreeSet<Arc<str>> {
        let touched = self.messages.iter().filter(|(dot, _)| dot.segment == segment && slots.contains(dot.slot));
        touched.map(|(_, inbox)| Arc::clone(inbox)).collect()
    }
    fn inboxes_of(&self, segment: SegmentId) -> Vec<Arc<str>> {
        let all: BTreeSet<_> =
            self.waiting().filter(|(dot, _)| dot.segment == segment).map(|(_, inbox)| Arc::clone(inbox)).collect();
        all.into_iter().collect()
    }
    fn next_waiting(&self, inbox: &str, segment: SegmentId, from: Slot) -> Option<Slot> {
        let mut slots = self.messages.range(Dot { segment, slot: from }..=Dot { segment, slot: Slot::MAX });
        slots.find(|(dot, name)| &***name == inbox && self.waits(dot)).map(|(dot, _)| dot.slot)
    }
    fn message(&self, dot: Dot) -> Result<Option<Message>, String> {
        if self.damaged.contains(&dot) {
            return Err("damaged".to_owned());
        }
        let inbox = self.messages.get(&dot).filter(|_| self.waits(&dot));
        Ok(inbox.map(|inbox| Message {
            inbox: Arc::clone(inbox),
            head: head_of(dot, self.groups).into(),
            body: Bytes::from_static(b"x"),
            persistent: true,
        }))
    }
    fn is_removed(&self, dot: Dot) -> bool {
        !self.waits(&dot) || self.staged.contains(&dot)
    }
    fn removed_slots(&self, segment: SegmentId) -> RangeSet {
        self.removed.get(&segment).cloned().unwrap_or_default()
    }
}

/// Its header `n` is 1, 2, 0 in turn. Of groups there are three; some are of none.
fn head_of(dot: Dot, groups: bool) -> String {
    let number = number_of(dot);
    let group = match number % 4 {
        group @ 1.. if groups => format!("JMSXGroupID:g{group}\n"),
        _ => String::new(),
    };
    let last = if number % 16 == 1 { "JMSXGroupSeq:-1\n" } else { "" };
    format!("n:{}\n{group}{last}", number % 3)
}

fn number_of(dot: Dot) -> u32 {
    SEGMENT_SLOTS * (dot.segment.number - 1) + dot.slot
}

/// On its way over a link.
enum Packet {
    App(Bytes),
    Message(Dot, Arc<str>),
    Removed(SegmentId, RangeSet),
}

/// A subscription's end.
pub(super) struct Subscriber {
    inbox: Arc<str>,
    prefetch: usize,
    pub(super) has: Vec<Dot>,
    /// The last unmarked delivery by life and lane.
    last: BTreeMap<(NodeId, Epoch, Arc<str>), Dot>,
}

pub(super) struct Host {
    pub(super) paper: Paper,
    pub(super) dispatch: Dispatch,
    epoch: Epoch,
    next: Dot,
    pub(super) subscribers: BTreeMap<ConsumerId, Subscriber>,
}

pub(super) struct World {
    pub(super) hosts: Vec<Host>,
    /// Both directions exist while the link is up.
    links: BTreeMap<(usize, usize), VecDeque<Packet>>,
    pub(super) now: Now,
    state: u64,
    conns: u64,
    /// All deliveries, and those without a mark.
    pub(super) deliveries: BTreeMap<Dot, (u32, u32)>,
    /// Whether all are linked, what was on the way when they were has arrived, and nobody forgot anything before.
    pub(super) recalled: bool,
    pub(super) restarted: bool,
    pub(super) damage_reports: u32,
    /// Whether links carry messages and removals too, or only what dispatch says.
    pub(super) replicates: bool,
    pub(super) published: BTreeSet<Dot>,
    /// Of all inboxes.
    pub(super) rules: Rules,
    /// What left its queue, why, and after how many deliveries.
    pub(super) left: Vec<(Dot, Leave, u32)>,
    /// Whether messages have priorities and delays, and consumers selectors.
    pub(super) rich: bool,
    /// Whether all that is left goes to consumers with selectors.
    pub(super) rests_by_views: bool,
}

impl Rulebook for Rules {
    fn rules_of(&self, _: &str) -> Rules {
        *self
    }
}

/// What a consumer with a selector asks for.
pub(super) fn view_of(queue: &str, selector: &str) -> Arc<str> {
    lane::view(queue, &Selector::parse(selector).unwrap().unwrap()).into()
}

pub(super) fn id_of(index: usize) -> NodeId {
    NodeId([index as u8 + 1; 16])
}

fn timing() -> TakeoverTiming {
    TakeoverTiming { start_settle_ms: 100, settle_ms: 50, retry_ms: 100, repeat_ms: 60, look_ms: 100 }
}

fn first_dot(index: usize, epoch: Epoch) -> Dot {
    Dot { segment: SegmentId { node: id_of(index), epoch, number: 1 }, slot: 1 }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let host = |index| {
            let id = id_of(index);
            let paper = Paper {
                id,
                linked: BTreeSet::new(),
                near: BTreeSet::new(),
                split_off: BTreeSet::new(),
                leaving: BTreeSet::new(),
                messages: BTreeMap::new(),
                over: BTreeSet::new(),
                removed: BTreeMap::new(),
                staged: BTreeSet::new(),
                damaged: BTreeSet::new(),
                groups: false,
            };
            let dispatch = Dispatch::new(id, Epoch(1), timing(), Planted::default());
            Host { paper, dispatch, epoch: Epoch(1), next: first_dot(index, Epoch(1)), subscribers: BTreeMap::new() }
        };
        Self {
            hosts: (0..NODES).map(host).collect(),
            links: BTreeMap::new(),
            now: Now { mono_ms: 1, wall_ms: 1 },
            state: seed,
            conns: 0,
            deliveries: BTreeMap::new(),
            recalled: false,
            restarted: false,
            damage_reports: 0,
            replicates: true,
            published: BTreeSet::new(),
            // Whoever plays with refusals plays for long.
            rules: Rules { max_deliveries: None, ..Rules::default() },
            left: Vec::new(),
            rich: false,
            rests_by_views: false,
        }
    }

    /// Splitmix64.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % bound as u64) as usize
    }

    fn inbox(&mut self) -> Arc<str> {
        ["a", "b"][self.below(2)].into()
    }

    fn lane(&mut self) -> Lane {
        let (now, delay) = (self.now.wall_ms, 1 + self.below(300) as u64);
        match self.below(if self.rich { 8 } else { 1 }) {
            1 => Lane::of_priority(9),
            2 => Lane::of_priority(0),
            3 => Lane::delayed(4, now, delay),
            4 => Lane::delayed(7, now, delay),
            _ => Lane::of_priority(4),
        }
    }

    pub(super) fn publish(&mut self, index: usize) {
        let queue = self.inbox();
        let lane = self.lane();
        self.publish_to(index, lane.inbox(&queue).into());
    }

    pub(super) fn publish_to(&mut self, index: usize, inbox: Arc<str>) {
        let host = &mut self.hosts[index];
        let dot = host.next;
        host.next.slot += 1;
        if host.next.slot > SEGMENT_SLOTS {
            host.next.segment.number += 1;
            host.next.slot = 1;
        }
        self.published.insert(dot);
        self.arrive(index, dot, &inbox);
        self.push(index, || Packet::Message(dot, Arc::clone(&inbox)));
    }

    fn arrive(&mut self, index: usize, dot: Dot, inbox: &Arc<str>) {
        let host = &mut self.hosts[index];
        if host.paper.messages.insert(dot, Arc::clone(inbox)).is_none() && host.paper.waits(&dot) {
            let slots = RangeSet::from_range(dot.slot, dot.slot);
            host.dispatch.handle_arrived(self.now, &host.paper, dot.segment, &slots);
        }
        self.turn(index);
    }

    fn push(&mut self, from: usize, packet: impl Fn() -> Packet) {
        if !self.replicates {
            return;
        }
        for to in 0..NODES {
            if let Some(link) = self.links.get_mut(&(from, to)) {
                link.push_back(packet());
            }
        }
    }

    fn remove(&mut self, index: usize, segment: SegmentId, slots: &RangeSet) {
        let host = &mut self.hosts[index];
        let known = host.paper.removed.entry(segment).or_default();
        let new = slots.difference(known);
        if new.is_empty() {
            return;
        }
        known.union_with(&new);
        host.dispatch.handle_removed(segment, &new);
        self.push(index, || Packet::Removed(segment, new.clone()));
        self.turn(index);
    }

    /// A message on a disk can't be read any more.
    pub(super) fn damage(&mut self, index: usize, dot: Dot) {
        self.hosts[index].paper.damaged.insert(dot);
    }

    /// It was fetched from elsewhere.
    pub(super) fn mend(&mut self, index: usize, dot: Dot) {
        let host = &mut self.hosts[index];
        host.paper.damaged.remove(&dot);
        let slots = RangeSet::from_range(dot.slot, dot.slot);
        host.dispatch.handle_arrived(self.now, &host.paper, dot.segment, &slots);
        self.turn(index);
    }

    /// A node hears that another one is of the other part of a split cluster.
    pub(super) fn split_off(&mut self, index: usize, other: usize) {
        self.hosts[index].paper.split_off.insert(id_of(other));
        self.turn(index);
    }

    /// A node gives its replica of a segment up to others.
    pub(super) fn give_up(&mut self, index: usize, segment: SegmentId) {
        let host = &mut self.hosts[index];
        host.paper.messages.retain(|dot, _| dot.segment != segment);
        host.paper.removed.remove(&segment);
        host.dispatch.handle_dropped(self.now, segment);
        self.pass(index, 60_000);
    }

    /// A message of it comes back.
    pub(super) fn give_back(&mut self, index: usize, dot: Dot, inbox: &str) {
        self.arrive(index, dot, &inbox.into());
        self.pass(index, 60_000);
    }

    /// Time passes at one node, which looks at what it owns.
    pub(super) fn pass(&mut self, index: usize, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        let host = &mut self.hosts[index];
        host.dispatch.handle_timeout(self.now, &host.paper);
        self.turn(index);
    }

    /// A node keeps no replica of anything any more.
    pub(super) fn drop_all(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let segments = host.paper.segments();
        host.paper.messages.clear();
        host.paper.removed.clear();
        host.paper.over.extend(&segments);
        segments.into_iter().for_each(|segment| host.dispatch.handle_dropped(self.now, segment));
        self.turn(index);
    }

    /// The disk refuses removals.
    pub(super) fn fail_commit(&mut self, index: usize) {
        self.hosts[index].paper.staged.clear();
    }

    /// What the consumers of a node hold.
    pub(super) fn held_at(&self, index: usize) -> Vec<Dot> {
        self.hosts[index].subscribers.values().flat_map(|subscriber| subscriber.has.clone()).collect()
    }

    /// Consumers of both inboxes.
    pub(super) fn subscribe_to_both(&mut self, index: usize, prefetch: usize) {
        for inbox in ["a", "b"] {
            self.subscribe_to(index, inbox.into(), prefetch);
        }
    }

    /// From now on a node takes another for one on its site.
    pub(super) fn stand_near(&mut self, index: usize, other: usize) {
        self.hosts[index].paper.near.insert(id_of(other));
    }

    /// The consumers of a node acknowledge everything.
    pub(super) fn ack_all(&mut self, index: usize) {
        while !self.held_at(index).is_empty() {
            self.settle(index, true);
        }
    }

    /// Removals reach the disk.
    pub(super) fn commit(&mut self, index: usize) {
        for dot in std::mem::take(&mut self.hosts[index].paper.staged) {
            self.remove(index, dot.segment, &RangeSet::from_range(dot.slot, dot.slot));
        }
    }

    pub(super) fn subscribe(&mut self, index: usize, prefetch: usize) {
        let mut inbox = self.inbox();
        if self.rich && self.below(2) == 0 {
            let selector = ["n = 0", "n > 0", "n = 7"][self.below(3)];
            inbox = view_of(&inbox, selector);
        } else if self.rich && self.below(5) == 0 {
            return self.subscribe_exclusively(index, inbox, prefetch);
        }
        self.subscribe_to(index, inbox, prefetch);
    }

    pub(super) fn subscribe_to(&mut self, index: usize, inbox: Arc<str>, prefetch: usize) {
        self.conns += 1;
        let id = ConsumerId { conn: ConnId(self.conns), sub: SubKey(0) };
        let host = &mut self.hosts[index];
        host.dispatch.subscribe(id, &inbox, prefetch as u32);
        host.subscribers.insert(id, Subscriber { inbox, prefetch, has: Vec::new(), last: BTreeMap::new() });
        self.turn(index);
    }

    pub(super) fn subscribe_exclusively(&mut self, index: usize, inbox: Arc<str>, prefetch: usize) {
        self.conns += 1;
        let id = ConsumerId { conn: ConnId(self.conns), sub: SubKey(0) };
        let priority = self.below(2) as i8;
        let host = &mut self.hosts[index];
        host.dispatch.subscribe_exclusively(id, &inbox, priority, prefetch as u32);
        host.subscribers.insert(id, Subscriber { inbox, prefetch, has: Vec::new(), last: BTreeMap::new() });
        self.turn(index);
    }

    pub(super) fn pick_subscriber(&mut self, index: usize) -> Option<ConsumerId> {
        let count = self.hosts[index].subscribers.len();
        let place = self.below(count.max(1));
        self.hosts[index].subscribers.keys().nth(place).copied()
    }

    /// A consumer dies.
    pub(super) fn vanish(&mut self, index: usize) {
        let Some(id) = self.pick_subscriber(index) else { return };
        self.vanish_one(index, id);
    }

    fn vanish_one(&mut self, index: usize, id: ConsumerId) {
        self.hosts[index].subscribers.remove(&id);
        self.hosts[index].dispatch.close(id.conn);
        self.turn(index);
    }

    /// The consumer of a node that came first dies.
    pub(super) fn vanish_first(&mut self, index: usize) {
        let first = self.hosts[index].subscribers.keys().next().copied();
        first.into_iter().for_each(|id| self.vanish_one(index, id));
    }

    /// The one that came last.
    pub(super) fn vanish_last(&mut self, index: usize) {
        let last = self.hosts[index].subscribers.keys().next_back().copied();
        last.into_iter().for_each(|id| self.vanish_one(index, id));
    }

    /// All consumers of a node die.
    pub(super) fn vanish_all(&mut self, index: usize) {
        while !self.hosts[index].subscribers.is_empty() {
            self.vanish(index);
        }
    }

    /// A consumer answers one message.
    pub(super) fn settle(&mut self, index: usize, ack: bool) {
        let Some(id) = self.pick_subscriber(index) else { return };
        let has = self.hosts[index].subscribers[&id].has.len();
        if has > 0 {
            let place = self.below(has);
            self.settle_at(index, id, place, ack);
        }
    }

    /// A consumer wants that nobody gets one.
    pub(super) fn reject(&mut self, index: usize) {
        let Some(id) = self.pick_subscriber(index) else { return };
        let host = &mut self.hosts[index];
        let Some(dot) = host.subscribers.get_mut(&id).and_then(|subscriber| subscriber.has.pop()) else { return };
        assert!(host.dispatch.give_back(id.conn, dot, Some(Return::Rejected)));
        self.turn(index);
    }

    pub(super) fn settle_at(&mut self, index: usize, id: ConsumerId, place: usize, ack: bool) {
        let host = &mut self.hosts[index];
        let Some(subscriber) = host.subscribers.get_mut(&id) else { return };
        let dot = subscriber.has.remove(place);
        assert!(host.dispatch.settle(id.conn, dot, ack), "{dot:?} was with {id:?}");
        if ack {
            host.paper.staged.insert(dot);
        }
        self.turn(index);
    }

    pub(super) fn is_linked(&self, a: usize, b: usize) -> bool {
        self.links.contains_key(&(a, b))
    }

    pub(super) fn cut(&mut self, a: usize, b: usize) {
        if a == b || !self.is_linked(a, b) {
            return;
        }
        for (here, there) in [(a, b), (b, a)] {
            self.links.remove(&(here, there));
            self.hosts[here].paper.linked.remove(&id_of(there));
            let now = self.now;
            self.hosts[here].dispatch.handle_link_down(now, id_of(there));
            self.turn(here);
        }
    }

    /// Links two nodes; each sends the other all that it has.
    pub(super) fn link(&mut self, a: usize, b: usize) {
        if a == b || self.is_linked(a, b) {
            return;
        }
        self.links.insert((a, b), VecDeque::new());
        self.links.insert((b, a), VecDeque::new());
        for (here, there) in [(a, b), (b, a)] {
            let host = &mut self.hosts[here];
            host.paper.linked.insert(id_of(there));
            host.dispatch.handle_link_up(self.now, &host.paper, id_of(there));
            let mut packets: VecDeque<_> =
                host.paper.removed.iter().map(|(id, slots)| Packet::Removed(*id, slots.clone())).collect();
            packets.extend(host.paper.waiting().map(|(dot, inbox)| Packet::Message(*dot, Arc::clone(inbox))));
            if self.replicates {
                self.links.entry((here, there)).or_default().extend(packets);
            }
            self.turn(here);
        }
    }

    /// The process ends and starts anew; its disk stays.
    pub(super) fn restart(&mut self, index: usize) {
        for other in 0..NODES {
            self.cut(index, other);
        }
        self.restarted = true;
        let host = &mut self.hosts[index];
        host.epoch = Epoch(host.epoch.0 + 1);
        host.next = first_dot(index, host.epoch);
        host.subscribers.clear();
        host.paper.staged.clear();
        host.dispatch = Dispatch::new(id_of(index), host.epoch, timing(), Planted::default());
    }

    /// A message of dispatch is on its way.
    pub(super) fn say(&mut self, from: usize, to: usize, message: &DispatchMsg) {
        self.links.get_mut(&(from, to)).unwrap().push_back(Packet::App(message.encode()));
    }

    /// What dispatch says on a link, and has not arrived.
    pub(super) fn said(&self, from: usize, to: usize) -> Vec<DispatchMsg> {
        let packets = self.links[&(from, to)].iter();
        let message = |packet: &Packet| match packet {
            Packet::App(bytes) => Some(DispatchMsg::decode(bytes).unwrap()),
            _ => None,
        };
        packets.filter_map(message).collect()
    }

    /// All that is on its way arrives, and what follows from it.
    pub(super) fn settle_links(&mut self) {
        let pairs = || (0..NODES).flat_map(|a| (0..NODES).map(move |b| (a, b)));
        while pairs().fold(false, |any, (a, b)| self.step_link(a, b) || any) {}
    }

    /// One packet arrives.
    pub(super) fn step_link(&mut self, from: usize, to: usize) -> bool {
        let Some(packet) = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return false };
        match packet {
            Packet::App(bytes) => {
                let host = &mut self.hosts[to];
                host.dispatch.handle_message(self.now, &host.paper, id_of(from), &bytes).unwrap();
                self.turn(to);
            }
            Packet::Message(dot, inbox) => self.arrive(to, dot, &inbox),
            Packet::Removed(segment, slots) => self.remove(to, segment, &slots),
        }
        true
    }

    pub(super) fn pass_time(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        for index in 0..NODES {
            let host = &mut self.hosts[index];
            host.dispatch.handle_timeout(self.now, &host.paper);
            self.turn(index);
        }
    }

    /// So many milliseconds in which all that is sent arrives at once.
    pub(super) fn let_time_pass(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.pass_time(10);
            self.settle_links();
        }
    }

    fn turn(&mut self, index: usize) {
        loop {
            let host = &mut self.hosts[index];
            let Some(effect) = host.dispatch.poll_effect() else {
                host.dispatch.run(self.now, &host.paper, &self.rules);
                host.dispatch.edge.check_sums();
                if host.dispatch.has_work() {
                    continue;
                }
                return;
            };
            match effect {
                Effect::Send { to, message } => {
                    let to = (0..NODES).find(|other| id_of(*other) == to).unwrap();
                    if let Some(link) = self.links.get_mut(&(index, to)) {
                        link.push_back(Packet::App(message.encode()));
                    }
                }
                Effect::Deliver { to, inbox, dot, redelivered, .. } => {
                    self.deliver(index, to, &inbox, dot, redelivered)
                }
                // Reaches the disk with the next commit.
                Effect::MergeRemoved { segment, slots } => {
                    let slots = slots.iter_ranges().flat_map(|(first, last)| first..=last);
                    host.paper.staged.extend(slots.map(|slot| Dot { segment, slot }));
                }
                // Reaches the disk with the next commit, too.
                Effect::Leave { dot, why, deliveries, .. } => {
                    host.paper.staged.insert(dot);
                    self.left.push((dot, why, deliveries));
                }
                Effect::Damaged { .. } => self.damage_reports += 1,
                Effect::Topic { .. }
                | Effect::Synced { .. }
                | Effect::Awaited { .. }
                | Effect::Asked { .. }
                | Effect::Gone { .. }
                | Effect::Browsed { .. }
                | Effect::BrowseEnd { .. } => panic!("nothing of the kind happens here"),
            }
        }
    }

    fn deliver(&mut self, index: usize, to: ConsumerId, inbox: &Arc<str>, dot: Dot, redelivered: bool) {
        let everywhere = self.hosts.iter().find_map(|host| host.paper.messages.get(&dot));
        let waited_in = everywhere.cloned().expect("somebody sent it");
        let host = &mut self.hosts[index];
        assert!(!host.paper.is_removed(dot), "{dot:?} is consumed, as node {index} knows");
        let others = host.subscribers.values().flat_map(|subscriber| &subscriber.has);
        assert!(!others.into_iter().any(|other| *other == dot), "{dot:?} twice at node {index}");
        let subscriber = host.subscribers.get_mut(&to).expect("only to those who are there");
        assert_eq!(lane::queue_of(&subscriber.inbox), lane::queue_of(inbox));
        assert_eq!(lane::selector_of(&subscriber.inbox), lane::selector_of(inbox));
        assert_eq!(lane::queue_of(&waited_in), lane::queue_of(inbox));
        assert!(Lane::of(&waited_in).unwrap().is_due(self.now.wall_ms), "{dot:?} too early");
        let (head, id) = (head_of(dot, false), dot.to_string());
        let fields = StoredFields { head: head.as_bytes(), id: &id };
        assert!(lane::selector_of(inbox).unwrap().is_none_or(|selector| selector.matches(&fields)));
        subscriber.has.push(dot);
        assert!(subscriber.has.len() <= subscriber.prefetch, "too many for {to:?}");
        let (all, unmarked) = self.deliveries.entry(dot).or_default();
        *all += 1;
        // Whoever may have delivered it before is linked, lives on, and was asked.
        assert!(redelivered || *all == 1 || !self.recalled, "{dot:?} again, as if for the first time");
        if !redelivered {
            *unmarked += 1;
            assert_eq!(*unmarked, 1, "{dot:?} again, without a mark");
            // Groups may overtake each other.
            let group = if host.paper.groups { number_of(dot) % 4 } else { 0 };
            let life = (dot.segment.node, dot.segment.epoch, format!("{waited_in}, {group}").into());
            let last = subscriber.last.insert(life, dot);
            assert!(last.is_none_or(|last| last < dot), "{dot:?} after {last:?}");
        }
    }

    /// All links up, all consumers willing: until nothing waits anywhere, or the patience ends.
    pub(super) fn come_to_rest(&mut self) {
        for index in 0..NODES {
            for other in 0..NODES {
                self.link(index, other);
            }
        }
        let mut under_way: BTreeMap<_, _> = self.links.iter().map(|(ends, link)| (*ends, link.len())).collect();
        for index in 0..NODES {
            for inbox in ["a", "b"] {
                if self.rests_by_views {
                    self.subscribe_to(index, view_of(inbox, "n = 0"), 3);
                    self.subscribe_to(index, view_of(inbox, "n > 0 OR n IS NULL"), 3);
                } else {
                    self.subscribe_to(index, inbox.into(), 3);
                }
            }
        }
        for round in 0..200_000 {
            if round % 200 == 0 {
                self.pass_time(20);
            }
            let (from, to) = (self.below(NODES), self.below(NODES));
            self.step_link(from, to);
            if let Some(count) = under_way.get_mut(&(from, to)) {
                *count = count.saturating_sub(1);
            }
            self.recalled |= !self.restarted && under_way.values().all(|count| *count == 0);
            self.commit(from);
            let full: Vec<_> = self.hosts[to].subscribers.iter().map(|(id, s)| (*id, s.has.len())).collect();
            for (id, count) in full {
                for _ in 0..count {
                    let ack = round > 5_000 || self.below(4) > 0;
                    self.settle_at(to, id, 0, ack);
                }
            }
            if round > 5_000 && round % 500 == 0 && self.is_at_rest() {
                return;
            }
        }
    }

    pub(super) fn is_at_rest(&self) -> bool {
        let done = |host: &Host| host.paper.waiting().next().is_none() && host.paper.staged.is_empty();
        self.hosts.iter().all(done) && self.links.values().all(VecDeque::is_empty)
    }

    pub(super) fn describe(&self) -> String {
        let waiting = |host: &Host| format!("{:?}", host.paper.waiting().collect::<Vec<_>>());
        self.hosts.iter().map(waiting).collect::<Vec<_>>().join("\n")
    }
}
