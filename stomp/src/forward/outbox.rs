//! The observer's side: units that wait for a member's answer, and where each connection's messages go.

use std::collections::BTreeMap;

use bytes::Bytes;
use rhizomq_engine::{Epoch, NodeId, Unit};

use super::msg::{ForwardMsg, Outcome};
use crate::broker::ConnId;

/// How long a link may be down before what waits for its member is given up, if others see it alive: a link that breaks
/// is dialled again at once.
pub(crate) const GRACE_MS: u64 = 700;
/// Bytes that may be on their way to a member and not answered; a larger unit goes alone.
const WINDOW_BYTES: usize = 16 << 20;
/// Units that may be.
const WINDOW_UNITS: usize = 1024;

/// Where a connection's messages are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In this node's journal.
    Here,
    /// In a member's, in this life of it.
    At(NodeId, Epoch),
}

struct Waiting<T> {
    unit: Unit,
    size: usize,
    asked_by: T,
}

/// What goes to one member.
struct Lane<T> {
    life: Epoch,
    units: BTreeMap<u64, Waiting<T>>,
    /// On their way: all up to this number that are not answered.
    sent_up_to: u64,
    sent_bytes: usize,
    sent_units: usize,
    lost_at: Option<u64>,
}

/// See the module docs; `T` is what the broker remembers of a unit.
pub(crate) struct Outbox<T> {
    lanes: BTreeMap<NodeId, Lane<T>>,
    places: BTreeMap<ConnId, Place>,
    next_seq: u64,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self { lanes: BTreeMap::new(), places: BTreeMap::new(), next_seq: 1 }
    }
}

impl<T> Outbox<T> {
    /// Whether nothing waits for an answer.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.values().all(|lane| lane.units.is_empty())
    }

    /// Where a connection's messages go; `choose` says so for its first one. `None` if that place is lost.
    pub(crate) fn place(&mut self, conn: ConnId, choose: impl FnOnce() -> Place) -> Option<Place> {
        let place = match self.places.get(&conn) {
            Some(place) => *place,
            None => {
                let place = choose();
                self.places.insert(conn, place);
                if let Place::At(node, life) = place {
                    self.lanes.entry(node).or_insert_with(|| Lane::new(life));
                }
                place
            }
        };
        let is_there = |node, life| self.lanes.get(&node).is_some_and(|lane: &Lane<T>| lane.life == life);
        match place {
            Place::At(node, life) if !is_there(node, life) => None,
            place => Some(place),
        }
    }

    pub(crate) fn forget(&mut self, conn: ConnId) {
        self.places.remove(&conn);
    }

    /// A unit for a member that [`Outbox::place`] named.
    pub(crate) fn push(&mut self, to: NodeId, unit: Unit, size: usize, asked_by: T) {
        let Some(lane) = self.lanes.get_mut(&to) else { return };
        lane.units.insert(self.next_seq, Waiting { unit, size, asked_by });
        self.next_seq += 1;
    }

    /// What is to be sent now.
    pub(crate) fn poll_send(&mut self) -> Option<(NodeId, Bytes)> {
        self.lanes.iter_mut().find_map(|(&to, lane)| Some((to, lane.next()?.encode())))
    }

    /// An answer: what was remembered of the unit, if one waits for it.
    pub(crate) fn on_answer(&mut self, from: NodeId, seq: u64) -> Option<T> {
        let lane = self.lanes.get_mut(&from).filter(|lane| seq <= lane.sent_up_to)?;
        let waiting = lane.units.remove(&seq)?;
        lane.sent_bytes = lane.sent_bytes.saturating_sub(waiting.size);
        lane.sent_units = lane.sent_units.saturating_sub(1);
        Some(waiting.asked_by)
    }

    /// A node can be sent to, in this life. Returns what waited for an earlier one.
    pub(crate) fn link_up(&mut self, node: NodeId, life: Epoch) -> Vec<T> {
        let Some(lane) = self.lanes.get_mut(&node) else { return Vec::new() };
        if lane.life == life {
            // All of it again: the member knows what it has.
            (lane.lost_at, lane.sent_up_to, lane.sent_bytes, lane.sent_units) = (None, 0, 0, 0);
            return Vec::new();
        }
        self.give_up(node)
    }

    pub(crate) fn link_down(&mut self, now_ms: u64, node: NodeId) {
        if let Some(lane) = self.lanes.get_mut(&node) {
            lane.lost_at.get_or_insert(now_ms);
        }
    }

    /// When [`Outbox::expire`] is wanted.
    pub(crate) fn deadline(&self) -> u64 {
        let lost = self.lanes.values().filter_map(|lane| lane.lost_at);
        lost.min().map_or(u64::MAX, |at| at.saturating_add(GRACE_MS))
    }

    /// What waited for members that are gone for too long.
    pub(crate) fn expire(&mut self, now_ms: u64) -> Vec<T> {
        let is_over = |lane: &Lane<T>| lane.lost_at.is_some_and(|at| now_ms >= at.saturating_add(GRACE_MS));
        let over: Vec<_> = self.lanes.iter().filter(|(_, lane)| is_over(lane)).map(|(node, _)| *node).collect();
        over.into_iter().flat_map(|node| self.give_up(node)).collect()
    }

    /// A node is held dead: neither its link nor anybody else knows better. Returns what waited for it.
    pub(crate) fn held_dead(&mut self, node: NodeId) -> Vec<T> {
        self.give_up(node)
    }

    fn give_up(&mut self, node: NodeId) -> Vec<T> {
        let lane = self.lanes.remove(&node);
        lane.into_iter().flat_map(|lane| lane.units.into_values()).map(|waiting| waiting.asked_by).collect()
    }
}

impl<T> Lane<T> {
    fn new(life: Epoch) -> Self {
        Self { life, units: BTreeMap::new(), sent_up_to: 0, sent_bytes: 0, sent_units: 0, lost_at: None }
    }

    fn next(&mut self) -> Option<ForwardMsg> {
        if self.lost_at.is_some() || self.sent_units >= WINDOW_UNITS {
            return None;
        }
        let (&seq, waiting) = self.units.range(self.sent_up_to.saturating_add(1)..).next()?;
        if self.sent_bytes > 0 && self.sent_bytes + waiting.size > WINDOW_BYTES {
            return None;
        }
        self.sent_up_to = seq;
        self.sent_bytes += waiting.size;
        self.sent_units += 1;
        let floor = self.units.first_key_value().map_or(seq, |(first, _)| *first);
        Some(ForwardMsg::Unit { seq, floor, unit: waiting.unit.clone() })
    }
}

/// What a client hears of it that waits for a member that is gone.
pub(crate) fn gone() -> Outcome {
    Outcome::Refused(
        "It may have been kept, or not: what has no receipt was not confirmed. Connect again, and send that again."
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: NodeId = NodeId([1; 16]);
    const LIFE: Epoch = Epoch(5);

    fn outbox() -> Outbox<u32> {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.place(ConnId(1), || Place::At(MEMBER, LIFE)), Some(Place::At(MEMBER, LIFE)));
        outbox
    }

    fn sent(outbox: &mut Outbox<u32>) -> Vec<u64> {
        let messages = std::iter::from_fn(|| outbox.poll_send());
        let seq = |(_, bytes): (NodeId, Bytes)| match ForwardMsg::decode(&bytes).unwrap() {
            ForwardMsg::Unit { seq, .. } => seq,
            ForwardMsg::Answer { .. } => panic!(),
        };
        messages.map(seq).collect()
    }

    #[test]
    fn what_has_no_answer_is_sent_again_to_the_same_life_and_only_to_that() {
        let mut outbox = outbox();
        (0..3).for_each(|number| outbox.push(MEMBER, Unit::default(), 1, number));
        assert_eq!(sent(&mut outbox), [1, 2, 3]);
        assert_eq!(outbox.on_answer(MEMBER, 2), Some(1));
        assert_eq!(outbox.on_answer(MEMBER, 2), None);
        outbox.link_down(100, MEMBER);
        outbox.push(MEMBER, Unit::default(), 1, 3);
        assert!(sent(&mut outbox).is_empty());
        assert!(outbox.link_up(MEMBER, LIFE).is_empty());
        assert_eq!(sent(&mut outbox), [1, 3, 4], "in order");
        outbox.link_down(200, MEMBER);
        assert_eq!(outbox.link_up(MEMBER, Epoch(6)), [0, 2, 3]);
        assert_eq!(outbox.place(ConnId(1), || Place::Here), None, "its earlier messages lie there");
        assert_eq!(outbox.place(ConnId(2), || Place::Here), Some(Place::Here));
    }

    #[test]
    fn a_member_that_stays_away_is_given_up() {
        let mut outbox = outbox();
        outbox.push(MEMBER, Unit::default(), 1, 7);
        outbox.link_down(100, MEMBER);
        assert_eq!(outbox.deadline(), 100 + GRACE_MS);
        assert!(outbox.expire(99 + GRACE_MS).is_empty());
        assert_eq!(outbox.expire(100 + GRACE_MS), [7]);
        assert_eq!((outbox.deadline(), outbox.is_empty()), (u64::MAX, true));
    }

    #[test]
    fn a_member_that_is_held_dead_is_given_up_at_once() {
        let mut outbox = outbox();
        outbox.push(MEMBER, Unit::default(), 1, 7);
        outbox.link_down(100, MEMBER);
        assert!(outbox.held_dead(NodeId([2; 16])).is_empty());
        assert_eq!(outbox.held_dead(MEMBER), [7]);
        assert_eq!(outbox.place(ConnId(1), || Place::Here), None, "its earlier messages lie there");
        assert_eq!(outbox.place(ConnId(2), || Place::Here), Some(Place::Here));
    }

    #[test]
    fn no_more_than_a_window_is_on_its_way() {
        let mut outbox = outbox();
        (0..3).for_each(|number| outbox.push(MEMBER, Unit::default(), WINDOW_BYTES / 2, number));
        assert_eq!(sent(&mut outbox), [1, 2]);
        outbox.on_answer(MEMBER, 1);
        assert_eq!(sent(&mut outbox), [3]);
        let mut outbox = self::outbox();
        outbox.push(MEMBER, Unit::default(), 2 * WINDOW_BYTES, 0);
        (0..2000).for_each(|number| outbox.push(MEMBER, Unit::default(), 0, number));
        assert_eq!(sent(&mut outbox), [1], "a large one goes by itself");
        outbox.on_answer(MEMBER, 1);
        assert_eq!(sent(&mut outbox).len(), WINDOW_UNITS, "small ones are counted");
    }
}
