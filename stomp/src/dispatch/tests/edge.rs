//! What an edge keeps in its books.

use std::sync::Arc;

use bytes::Bytes;
use rhizomq_engine::{Dot, NodeId, RangeSet, SegmentId};

use super::super::{
    ConsumerId, Content, DispatchMsg, Effect, Name,
    edge::{Arrival, Edge, Refusal},
};
use crate::{broker::ConnId, session::SubKey};

const OWNER: NodeId = NodeId([1; 16]);
const NEXT_OWNER: NodeId = NodeId([2; 16]);
const SEGMENT: SegmentId = SegmentId { node: OWNER, epoch: rhizomq_engine::Epoch(1), number: 1 };

fn dot(slot: u32) -> Dot {
    Dot { segment: SEGMENT, slot }
}

fn consumer(conn: u64) -> ConsumerId {
    ConsumerId { conn: ConnId(conn), sub: SubKey(0) }
}

fn queue() -> Arc<str> {
    "/queue/a".into()
}

fn arrival(slot: u32, tag: u64) -> Arrival {
    let content = Content::new(Bytes::new(), Bytes::from_static(b"x"));
    Arrival { inbox: Name(queue()), dot: dot(slot), tag, redelivered: false, returns: 0, content }
}

fn edge(prefetch: u32) -> (Edge, Vec<Effect>) {
    let (mut edge, mut out) = (Edge::default(), Vec::new());
    edge.link_up(OWNER, &mut out);
    edge.link_up(NEXT_OWNER, &mut out);
    edge.subscribe(consumer(1), &queue(), prefetch, &mut out);
    out.clear();
    (edge, out)
}

fn releases(out: &[Effect]) -> Vec<(NodeId, u32, u64)> {
    let release = |effect: &Effect| match effect {
        Effect::Send { to, message: DispatchMsg::Release { dot, tag } | DispatchMsg::Returned { dot, tag, .. } } => {
            Some((*to, dot.slot, *tag))
        }
        _ => None,
    };
    out.iter().filter_map(release).collect()
}

#[test]
fn an_acknowledged_message_is_held_until_its_removal_is_on_disk() {
    let (mut edge, mut out) = edge(5);
    edge.on_deliver(OWNER, arrival(1, 11), None, &mut out);
    assert!(edge.settle(ConnId(1), dot(1), true, &mut out));
    assert!(!edge.settle(ConnId(1), dot(1), true, &mut out), "only once");
    assert_eq!(edge.claimed(SEGMENT, NEXT_OWNER), [(1, 11)]);
    edge.removed(SEGMENT, &RangeSet::from_range(1, 1));
    assert_eq!(edge.claimed(SEGMENT, NEXT_OWNER), []);
}

#[test]
fn an_acknowledgement_that_was_not_written_gives_the_message_back() {
    let (mut edge, mut out) = edge(5);
    edge.on_deliver(OWNER, arrival(1, 11), None, &mut out);
    edge.settle(ConnId(1), dot(1), true, &mut out);
    edge.unsettle(dot(1), &mut out);
    assert_eq!(releases(&out), [(OWNER, 1, 11)]);
}

#[test]
fn what_is_held_or_consumed_is_refused_and_what_nobody_can_take_goes_back() {
    let (mut edge, mut out) = edge(1);
    edge.on_deliver(OWNER, arrival(1, 11), None, &mut out);
    edge.on_deliver(OWNER, arrival(2, 12), Some(Refusal::Consumed), &mut out);
    edge.on_deliver(NEXT_OWNER, arrival(1, 13), None, &mut out);
    let delivered = out.iter().filter(|effect| matches!(effect, Effect::Deliver { .. })).count();
    assert_eq!((delivered, releases(&out)), (1, vec![]));
    edge.on_deliver(OWNER, arrival(3, 14), None, &mut out);
    assert_eq!(releases(&out), [(OWNER, 3, 14)], "the only place is taken");
    edge.close(ConnId(1), &mut out);
    assert_eq!(releases(&out)[1..], [(NEXT_OWNER, 1, 13)], "to whom delivered it last");
}

#[test]
fn who_is_not_the_owner_hears_of_it_and_may_send_the_next_one() {
    let (mut edge, mut out) = edge(1);
    assert!(!edge.on_deliver(OWNER, arrival(1, 11), Some(Refusal::NotOwner), &mut out));
    let [Effect::Send { to: OWNER, message: DispatchMsg::Refused { dot: refused, tag: 11 } }] = out[..] else {
        panic!()
    };
    assert_eq!((refused, edge.held()), (dot(1), 0));
    assert!(edge.on_deliver(NEXT_OWNER, arrival(1, 12), None, &mut out), "the place is free");
}

fn grants(edge: &mut Edge) -> usize {
    let mut out = Vec::new();
    edge.grant(&mut out);
    out.iter().filter(|effect| matches!(effect, Effect::Send { message: DispatchMsg::Grant { .. }, .. })).count()
}

#[test]
fn nothing_is_granted_between_the_end_of_an_interest_and_its_confirmation() {
    let (mut edge, mut out) = edge(2);
    edge.on_backlog(OWNER, Name(queue()), 5, 1);
    assert_eq!(grants(&mut edge), 1);
    edge.unsubscribe(consumer(1), &mut out);
    edge.subscribe(consumer(2), &queue(), 8, &mut out);
    edge.on_backlog(OWNER, Name(queue()), 5, 2);
    assert_eq!(grants(&mut edge), 0, "the owner still counts in the old way");
    edge.on_closed(OWNER, &Name(queue()));
    edge.on_backlog(OWNER, Name(queue()), 5, 3);
    assert_eq!(grants(&mut edge), 1);
}

#[test]
fn a_socket_that_is_behind_gets_credit_when_it_has_caught_up() {
    let (mut edge, _) = edge(2);
    edge.set_busy(ConnId(1), true);
    edge.on_backlog(OWNER, Name(queue()), 5, 1);
    assert_eq!(grants(&mut edge), 0);
    edge.set_busy(ConnId(1), false);
    assert_eq!(grants(&mut edge), 1);
}

#[test]
fn a_socket_that_was_behind_is_forgotten_with_its_connection() {
    let (mut edge, mut out) = edge(2);
    edge.set_busy(ConnId(1), true);
    assert!(edge.remembered().contains(&("busy", 1)));
    edge.close(ConnId(1), &mut out);
    assert!(edge.remembered().contains(&("busy", 0)));
}

#[test]
fn what_others_consumed_needs_no_release() {
    let (mut edge, mut out) = edge(5);
    edge.on_deliver(OWNER, arrival(1, 11), None, &mut out);
    edge.removed(SEGMENT, &RangeSet::from_range(1, 1));
    edge.close(ConnId(1), &mut out);
    assert_eq!((releases(&out), edge.held()), (vec![], 0));
}

#[test]
fn places_that_come_and_go_with_consumers_are_granted_and_taken_back() {
    let (mut edge, mut out) = edge(1);
    let grant = |edge: &mut Edge| {
        let mut out = Vec::new();
        edge.grant(&mut out);
        let limit = |effect| match effect {
            Effect::Send { message: DispatchMsg::Grant { limit, .. }, .. } => Some(limit),
            _ => None,
        };
        out.into_iter().filter_map(limit).collect::<Vec<_>>()
    };
    edge.on_backlog(OWNER, Name(queue()), 10, 1);
    assert_eq!(grant(&mut edge), [1]);
    edge.on_deliver(OWNER, arrival(1, 11), None, &mut out);
    assert!(grant(&mut edge).is_empty(), "the only place is taken");
    edge.subscribe(consumer(2), &queue(), 2, &mut out);
    assert_eq!(grant(&mut edge), [3], "two places more, and nothing else has to happen");
    edge.unsubscribe(consumer(2), &mut out);
    assert_eq!(grant(&mut edge), [1], "and none of them is left");
}
