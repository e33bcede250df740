//! The edge: where consumers are. It tells owners its interest, grants them credit for the free places of its consumers,
//! and knows who holds what.
//!
//! What always holds:
//! - Over all owners, credit granted and not used never exceeds the free places of the inbox's consumers, except for as
//!   long as a consumer is gone and the owners have not heard of it. What arrives beyond is released at once.
//! - A dot is held once. A delivery of a dot that is held here, or known to be consumed, is refused without a word: the
//!   first is in flight here already, the second is told to its owner by the removal itself. Either way the owner rightly
//!   goes on counting it as in flight here. One that comes from somebody else than the owner is refused with a word:
//!   the sender would wait for ever for what nobody has.
//! - A held dot stays held until the client acknowledges it *and* that is on disk, or until it is released. So an answer
//!   to a claim ([`Edge::claimed`]) leaves no gap in which an acknowledged message looks free.
//! - What a consumer leaves behind goes back to its owner, who alone decides on the order. If the owner can't be reached
//!   nobody is told: whoever claims the segment asks what is held, and the owner itself took everything back when it
//!   lost the link.
//!
//! Credit is counted in totals since the link came up: the owner may send until it has sent `limit` messages, and the
//! edge knows how many it received. Grants can be lowered while deliveries are under way, and the books still agree.
//!
//! A consumer may read several inboxes at once, see [`several`]; where there are message groups it does, see [`members`]. What they
//! have for places is kept as sums, see [`places`]: so what a message costs does not depend on the number of consumers.

mod members;
mod places;
mod several;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rhizomq_engine::{Dot, NodeId, RangeSet, SegmentId, Slot};

use super::{
    Effect,
    msg::{Content, DispatchMsg, Name, Return},
    steps::Steps,
    supply::Inbox,
};
use crate::{broker::ConnId, session::SubKey};
pub(super) use places::Readers;
use places::Reading;

/// An owner hears how much has arrived each time that so many bytes more have.
const RECEIVED_STEP: u64 = 1 << 20;
/// Inboxes in one `Interest`.
const INTEREST_CHUNK: usize = 512;

/// One subscription of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConsumerId {
    pub(crate) conn: ConnId,
    pub(crate) sub: SubKey,
}

/// What an owner sends; all of [`DispatchMsg::Deliver`] and [`DispatchMsg::DeliverAgain`].
pub(crate) struct Arrival {
    pub(crate) inbox: Name,
    pub(crate) dot: Dot,
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    /// How often clients gave it back.
    pub(crate) returns: u32,
    pub(crate) content: Content,
}

/// Why a delivery is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is known to be consumed.
    Consumed,
    /// Someone else owns the segment, as far as is known here.
    NotOwner,
}

struct Consumer {
    /// Mostly one. The one comes first of which it has had nothing for longest.
    readings: Vec<Reading>,
    prefetch: u64,
    used: u64,
}

impl Consumer {
    fn inboxes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.readings.iter().map(|reading| &reading.inbox)
    }
}

/// In flight here.
struct Held {
    /// `None`: acknowledged, and not yet on disk.
    by: Option<ConsumerId>,
    /// Whom to give it back to, and the name it knows the delivery by.
    owner: NodeId,
    tag: u64,
    /// Someone else consumed it meanwhile: whatever becomes of it here, nobody waits for it.
    gone: bool,
}

#[derive(Default)]
struct Link {
    bytes: u64,
    told: u64,
}

/// See the module docs.
#[derive(Default)]
pub(crate) struct Edge {
    owners: BTreeMap<NodeId, Link>,
    inboxes: BTreeMap<Arc<str>, Inbox>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    /// Connections whose socket is behind: they get no new credit.
    busy: BTreeSet<ConnId>,
    held: BTreeMap<Dot, Held>,
    by_conn: BTreeMap<ConnId, BTreeSet<Dot>>,
    /// Inboxes whose grants are to be looked at.
    dirty: BTreeSet<Arc<str>>,
    /// Consumers that read several queues or durable subscriptions.
    several: BTreeSet<ConsumerId>,
    /// This node's name among readers.
    me: String,
    /// What is asked for here in which there are message groups.
    grouped: BTreeSet<Arc<str>>,
    last_starved: u64,
    steps: Steps,
}

impl Edge {
    pub(crate) fn new(me: NodeId) -> Self {
        Self { me: me.to_string(), ..Self::default() }
    }

    /// What tells a consumer from all others, of all nodes.
    pub(crate) fn reader(&self, id: ConsumerId) -> String {
        format!("{}.{:x}.{:x}", self.me, id.conn.0, id.sub.0)
    }

    /// Whether the node can be sent to.
    pub(crate) fn link_up(&mut self, owner: NodeId, out: &mut Vec<Effect>) {
        self.owners.insert(owner, Link::default());
        let interest: Vec<_> =
            self.inboxes.iter().map(|(name, inbox)| (Name::from(name), inbox.readers.len() as u32)).collect();
        for chunk in interest.chunks(INTEREST_CHUNK) {
            let some: Vec<_> = chunk.iter().filter(|(_, count)| *count > 0).cloned().collect();
            if !some.is_empty() {
                out.push(Effect::Send { to: owner, message: DispatchMsg::Interest(some) });
            }
        }
    }

    /// Its credit is void; what it sent stays with the consumers.
    pub(crate) fn link_down(&mut self, owner: NodeId) {
        self.owners.remove(&owner);
        let had_supply =
            self.inboxes.iter_mut().filter_map(|(name, inbox)| inbox.supplies.remove(&owner).map(|_| name));
        for name in had_supply.cloned().collect::<Vec<_>>() {
            self.dirty_siblings(&name);
            self.dirty.insert(name);
        }
        self.dirty_several();
        self.inboxes.retain(|_, inbox| !inbox.is_idle());
        for id in self.consumers.keys().copied().collect::<Vec<_>>() {
            self.recount(id);
        }
    }

    pub(crate) fn subscribe(&mut self, id: ConsumerId, inbox: &Arc<str>, prefetch: u32, out: &mut Vec<Effect>) {
        let consumer = Consumer { readings: vec![Reading::new(inbox)], prefetch: u64::from(prefetch.max(1)), used: 0 };
        self.consumers.insert(id, consumer);
        self.enter(id, inbox, out);
        self.recount(id);
        if self.grouped.contains(inbox) {
            self.attend(id, &[Arc::clone(inbox)], out);
        }
    }

    /// No more goes to this consumer. What it holds stays held until it is settled or requeued.
    pub(crate) fn unsubscribe(&mut self, id: ConsumerId, out: &mut Vec<Effect>) {
        let Some(consumer) = self.consumers.remove(&id) else { return };
        self.several.remove(&id);
        consumer.readings.into_iter().for_each(|reading| self.leave(id, reading, out));
    }

    fn enter(&mut self, id: ConsumerId, inbox: &Arc<str>, out: &mut Vec<Effect>) {
        self.inboxes.entry(Arc::clone(inbox)).or_default();
        self.go_behind(id, inbox);
        // An owner that has been asked for this inbox before has nothing to say to this; its messages may wait for places.
        self.dirty.insert(Arc::clone(inbox));
        self.announce(inbox, out);
    }

    fn leave(&mut self, id: ConsumerId, mut reading: Reading, out: &mut Vec<Effect>) {
        if let Some(inbox) = self.inboxes.get_mut(&reading.inbox) {
            inbox.readers.leave(id, &mut reading);
            if inbox.readers.is_empty() {
                self.grouped.remove(&reading.inbox);
                inbox.supplies.values_mut().for_each(|supply| supply.closing = true);
            }
        }
        let name = &reading.inbox;
        self.forget_starved(name);
        self.dirty.insert(Arc::clone(name));
        self.announce(name, out);
        if self.inboxes.get(name).is_some_and(Inbox::is_idle) {
            self.inboxes.remove(name);
        }
    }

    /// The connection's end: its consumers go, and what they hold goes back.
    pub(crate) fn close(&mut self, conn: ConnId, out: &mut Vec<Effect>) {
        let first = ConsumerId { conn, sub: SubKey(0) };
        let last = ConsumerId { conn, sub: SubKey(u32::MAX) };
        let subscribed: Vec<_> = self.consumers.range(first..=last).map(|(id, _)| *id).collect();
        for id in subscribed {
            self.unsubscribe(id, out);
        }
        for dot in self.by_conn.remove(&conn).unwrap_or_default() {
            self.release(dot, Some(Return::Given), out);
        }
        self.busy.remove(&conn);
    }

    /// Tells whether the connection's socket keeps up.
    pub(crate) fn set_busy(&mut self, conn: ConnId, busy: bool) {
        let has_changed = if busy { self.busy.insert(conn) } else { self.busy.remove(&conn) };
        if !has_changed {
            return;
        }
        let first = ConsumerId { conn, sub: SubKey(0) };
        let last = ConsumerId { conn, sub: SubKey(u32::MAX) };
        for id in self.consumers.range(first..=last).map(|(id, _)| *id).collect::<Vec<_>>() {
            self.recount(id);
            if !busy {
                self.dirty.extend(self.consumers.get(&id).into_iter().flat_map(Consumer::inboxes).cloned());
            }
        }
    }

    /// Whether its socket is behind.
    pub(crate) fn is_busy(&self, conn: ConnId) -> bool {
        self.busy.contains(&conn)
    }

    /// The client answered: `ack` keeps the dot held until its removal is on disk, otherwise it goes back. False if this
    /// connection does not hold it (any more): then there is nothing to do.
    pub(crate) fn settle(&mut self, conn: ConnId, dot: Dot, ack: bool, out: &mut Vec<Effect>) -> bool {
        if !self.by_conn.get_mut(&conn).is_some_and(|dots| dots.remove(&dot)) {
            return false;
        }
        if ack {
            let Some(held) = self.held.get_mut(&dot) else { return false };
            let (by, gone) = (held.by.take(), held.gone);
            if gone {
                self.held.remove(&dot);
            }
            self.free_place(by);
        } else {
            self.release(dot, Some(Return::Given), out);
        }
        true
    }

    /// The message goes back, for this reason; `None`: the client has not been sent it. As [`Edge::settle`] otherwise.
    pub(crate) fn give_back(&mut self, conn: ConnId, dot: Dot, why: Option<Return>, out: &mut Vec<Effect>) -> bool {
        let held = self.by_conn.get_mut(&conn).is_some_and(|dots| dots.remove(&dot));
        if held {
            self.release(dot, why, out);
        }
        held
    }

    /// An acknowledgement could not be written: the message is somebody's again.
    pub(crate) fn unsettle(&mut self, dot: Dot, out: &mut Vec<Effect>) {
        if self.held.get(&dot).is_some_and(|held| held.by.is_none()) {
            self.release(dot, None, out);
        }
    }

    /// What is known to be consumed, on disk: acknowledged dots need not be held any longer. A client that has not
    /// answered yet keeps its place occupied until it does.
    pub(crate) fn removed(&mut self, segment: SegmentId, slots: &RangeSet) {
        for (first, last) in slots.iter_ranges() {
            let range = Dot { segment, slot: first }..=Dot { segment, slot: last };
            let mut done = Vec::new();
            for (dot, held) in self.held.range_mut(range) {
                held.gone = true;
                done.extend(held.by.is_none().then_some(*dot));
            }
            for dot in &done {
                self.held.remove(dot);
            }
        }
    }

    /// A node owns the segment from now on: it takes back what is released. Returns the slots held here, with the names
    /// of their deliveries, which the new owner goes on using.
    pub(crate) fn claimed(&mut self, segment: SegmentId, owner: NodeId) -> Vec<(Slot, u64)> {
        let range = Dot { segment, slot: 0 }..=Dot { segment, slot: Slot::MAX };
        let held = self.held.range_mut(range).map(|(dot, held)| {
            held.owner = owner;
            (dot.slot, held.tag)
        });
        held.collect()
    }

    pub(crate) fn on_backlog(&mut self, from: NodeId, name: Name, waiting: u64, round: u32) {
        let Some(inbox) = self.inboxes.get_mut(&name.0) else { return };
        if inbox.readers.is_empty() || !self.owners.contains_key(&from) {
            return;
        }
        let supply = inbox.supplies.entry(from).or_default();
        supply.view = waiting;
        if supply.round != round {
            supply.round = round;
            supply.limit = supply.received;
        }
        self.recount_reader_of(&name.0);
        self.dirty_siblings(&name.0);
        self.dirty.insert(name.0);
    }

    pub(crate) fn on_closed(&mut self, from: NodeId, name: &Name) {
        let Some(inbox) = self.inboxes.get_mut(&name.0) else { return };
        inbox.supplies.remove(&from);
        self.dirty.insert(Arc::clone(&name.0));
        if inbox.is_idle() {
            self.inboxes.remove(&name.0);
        }
        self.recount_reader_of(&name.0);
        self.dirty_siblings(&name.0);
    }

    /// A message arrives. Whether a client gets it.
    pub(crate) fn on_deliver(
        &mut self,
        from: NodeId,
        arrival: Arrival,
        refusal: Option<Refusal>,
        out: &mut Vec<Effect>,
    ) -> bool {
        self.count_received(from, &arrival, out);
        let Arrival { inbox, dot, tag, redelivered, returns, content } = arrival;
        match refusal {
            Some(Refusal::Consumed) => return false,
            Some(Refusal::NotOwner) => {
                out.push(Effect::Send { to: from, message: DispatchMsg::Refused { dot, tag } });
                return false;
            }
            None => {}
        }
        if let Some(held) = self.held.get_mut(&dot) {
            (held.owner, held.tag) = (from, tag);
            return false;
        }
        let Some(to) = self.next_consumer(&inbox.0) else {
            out.push(Effect::Send { to: from, message: DispatchMsg::Release { dot, tag } });
            return false;
        };
        self.serve_next(to, &inbox.0);
        self.held.insert(dot, Held { by: Some(to), owner: from, tag, gone: false });
        self.by_conn.entry(to.conn).or_default().insert(dot);
        out.push(Effect::Deliver { to, inbox: inbox.0, dot, redelivered, returns, content });
        true
    }

    /// Sends the grants that have become possible, and takes back what has become too much.
    pub(crate) fn grant(&mut self, out: &mut Vec<Effect>) {
        self.grant_several(out);
        while let Some(name) = self.dirty.pop_first() {
            self.grant_inbox(&name, out);
        }
    }

    /// Steps whose number is not to grow with the number of consumers.
    #[cfg(test)]
    pub(crate) fn steps(&self) -> u64 {
        self.steps.number()
    }

    /// Whether [`Edge::grant`] has something to look at.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether any message is with a client, or acknowledged and not yet on disk.
    pub(crate) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// Messages with clients, or acknowledged and not yet on disk.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// What is remembered, and how much of it.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("inboxes", self.inboxes.len()),
            ("consumers", self.consumers.len()),
            ("busy", self.busy.len()),
            ("held", self.held.len()),
            ("by_conn", self.by_conn.len()),
            ("dirty", self.dirty.len()),
            ("several", self.several.len()),
            ("grouped here", self.grouped.len()),
        ]
    }

    fn announce(&self, name: &Arc<str>, out: &mut Vec<Effect>) {
        let count = self.inboxes.get(name).map_or(0, |inbox| inbox.readers.len() as u32);
        for &to in self.owners.keys() {
            out.push(Effect::Send { to, message: DispatchMsg::Interest(vec![(Name::from(name), count)]) });
        }
    }

    /// Gives a message back to its owner; `why` if a client has had it, or it is too late.
    fn release(&mut self, dot: Dot, why: Option<Return>, out: &mut Vec<Effect>) {
        let Some(held) = self.held.remove(&dot) else { return };
        self.free_place(held.by);
        if !held.gone && self.owners.contains_key(&held.owner) {
            let tag = held.tag;
            let message = match why {
                Some(why) => DispatchMsg::Returned { dot, tag, why },
                None => DispatchMsg::Release { dot, tag },
            };
            out.push(Effect::Send { to: held.owner, message });
        }
    }

    fn free_place(&mut self, by: Option<ConsumerId>) {
        let Some(id) = by else { return };
        if let Some(consumer) = self.consumers.get_mut(&id) {
            consumer.used = consumer.used.saturating_sub(1);
            self.dirty.extend(consumer.inboxes().cloned());
            self.recount(id);
        }
    }

    fn count_received(&mut self, from: NodeId, arrival: &Arrival, out: &mut Vec<Effect>) {
        let size = arrival.content.len();
        if let Some(link) = self.owners.get_mut(&from) {
            link.bytes += size as u64;
            if link.bytes - link.told >= RECEIVED_STEP {
                link.told = link.bytes;
                out.push(Effect::Send { to: from, message: DispatchMsg::Received { bytes: link.bytes } });
            }
        }
        if let Some(inbox) = self.inboxes.get_mut(&arrival.inbox.0) {
            inbox.count_received(from, size);
            self.dirty.insert(Arc::clone(&arrival.inbox.0));
            self.recount_reader_of(&arrival.inbox.0);
            self.dirty_siblings(&arrival.inbox.0);
        }
    }

    /// The next consumer with a free place, which is one less then.
    fn next_consumer(&mut self, name: &Arc<str>) -> Option<ConsumerId> {
        let id = self.inboxes.get(name)?.readers.next()?;
        self.consumers.get_mut(&id)?.used += 1;
        self.go_behind(id, name);
        self.recount(id);
        Some(id)
    }

    fn grant_inbox(&mut self, name: &Arc<str>, out: &mut Vec<Effect>) {
        // What is asked for by all and by one alone takes turns, where both want places.
        let inbox = self.inboxes.get_mut(name).filter(|inbox| !inbox.starved.is_empty());
        let starved_first = inbox.map(|inbox| {
            inbox.starved_first = !inbox.starved_first;
            inbox.starved_first
        });
        if starved_first == Some(true) {
            self.grant_starved(name, out);
        }
        self.grant_one(name, out);
        if starved_first == Some(false) {
            self.grant_starved(name, out);
        }
    }

    fn grant_one(&mut self, name: &Arc<str>, out: &mut Vec<Effect>) {
        self.steps.count();
        let (free, ready) = self.room(name);
        let Some(inbox) = self.inboxes.get_mut(name) else { return };
        let changed = inbox.balance(free, ready);
        for to in &changed {
            let Some(supply) = inbox.supplies.get(to).filter(|supply| !supply.closing) else { continue };
            let message = DispatchMsg::Grant { inbox: Name::from(name), limit: supply.limit, round: supply.round };
            out.push(Effect::Send { to: *to, message });
        }
        if !changed.is_empty() {
            self.recount_reader_of(name);
        }
    }

    /// Free places for an inbox, and how many of these may be granted anew.
    fn room(&mut self, name: &Arc<str>) -> (u64, u64) {
        if let Some(room) = self.room_of_member(name) {
            return room;
        }
        let Some(inbox) = self.inboxes.get(name) else { return (0, 0) };
        let sums = inbox.readers.sums;
        if sums.read_others == 0 { (sums.spare, sums.ready) } else { self.room_of_several(name) }
    }
}
