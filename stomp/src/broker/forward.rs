//! Forwarding as the broker does it: see [`crate::forward`].

use bytes::Bytes;
use rhizomq_engine::{Entry, NodeId, Now, Unit};
use rhizomq_net::PublishId;

use super::{Broker, ConnId, drain, duplicates::ids_of, requests::Published};
use crate::{
    destination::Destination,
    durable::read_inbox,
    forward::{ForwardMsg, Outcome, Place, Taken, outbox},
    lane::{self, Lane},
};

/// What a client is told whose messages can't be kept where the earlier ones are.
pub(super) const GONE: &str = "the member that keeps your messages is out of reach";

impl Broker {
    /// Where a connection's messages are kept: a member keeps them itself, an observer has them kept by a member if one is
    /// in reach. `None` if it was at a member that is gone.
    pub(super) fn place_of(&mut self, conn: ConnId) -> Option<Place> {
        let node = &self.node;
        self.outbox.place(conn, || {
            let gateway = node.gateway();
            gateway.and_then(|to| node.life_of(to).map(|life| Place::At(to, life))).unwrap_or(Place::Here)
        })
    }

    pub(super) fn forward(&mut self, to: NodeId, unit: Unit, published: Published) {
        let size = unit.entries.iter().map(Entry::size).sum();
        self.outbox.push(to, unit, size, published);
        self.send_forwarded();
    }

    fn send_forwarded(&mut self) {
        while let Some((to, bytes)) = self.outbox.poll_send() {
            self.node.send(to, &bytes);
        }
    }

    pub(super) fn forward_link_up(&mut self, peer: NodeId) {
        if let Some(life) = self.node.life_of(peer) {
            let lost = self.outbox.link_up(peer, life);
            self.give_up(lost);
            self.send_forwarded();
        }
        let (node, roster) = (&self.node, self.node.roster());
        self.intake.retain(|other| node.is_linked(other) || roster.iter().any(|entry| entry.id == other));
    }

    pub(super) fn forward_held_dead(&mut self, node: NodeId) {
        let lost = self.outbox.held_dead(node);
        self.give_up(lost);
    }

    pub(super) fn expire_forwarded(&mut self, now: Now) {
        let lost = self.outbox.expire(now.mono_ms);
        self.give_up(lost);
    }

    fn give_up(&mut self, lost: Vec<Published>) {
        lost.into_iter().for_each(|published| self.answer_forwarded(None, published, outbox::gone()));
    }

    pub(super) fn handle_forward(&mut self, now: Now, from: NodeId, payload: &Bytes) {
        match ForwardMsg::decode(payload) {
            Ok(ForwardMsg::Unit { seq, floor, unit }) => self.take_unit(now, from, (seq, floor), unit),
            Ok(ForwardMsg::Answer { seq, outcome }) => {
                if let Some(published) = self.outbox.on_answer(from, seq) {
                    self.answer_forwarded(Some(now), published, outcome);
                }
                self.send_forwarded();
            }
            Err(error) => tracing::warn!(peer = %from, "{error}"),
        }
    }

    /// An observer's unit: kept here as one of this node's own clients.
    fn take_unit(&mut self, now: Now, from: NodeId, (seq, floor): (u64, u64), unit: Unit) {
        let Some(life) = self.node.life_of(from) else { return };
        let answer = match self.intake.take(from, life, seq, floor) {
            Taken::Known => return,
            Taken::Answer(outcome) => outcome,
            Taken::New if self.drain.is_on() || !self.stop.takes_clients() => {
                Outcome::Refused(drain::ADVICE.to_owned())
            }
            Taken::New => {
                let is_lawful = |inbox: &String| {
                    let queue = lane::queue_of(inbox);
                    let is_named = Destination::parse(queue).is_ok() || read_inbox(queue).is_some();
                    lane::remembered_until(inbox).is_some()
                        || is_named && (Lane::of(inbox).is_some() || lane::read_job(inbox).is_some())
                };
                let all_lawful = unit.entries.iter().flat_map(|entry| &entry.inboxes).all(is_lawful);
                let ids = ids_of(&unit.entries);
                let published = if all_lawful {
                    self.node.publish(now, unit).map_err(|error| error.to_string())
                } else {
                    Err("a destination is none".to_owned())
                };
                match published {
                    Ok(publish) => {
                        self.note_taken_in(publish, ids);
                        return self.intake.note(publish, from, life, seq);
                    }
                    Err(error) => {
                        let outcome = Outcome::Rejected(error);
                        self.intake.refuse(from, life, seq, outcome.clone());
                        outcome
                    }
                }
            }
        };
        self.node.send(from, &ForwardMsg::Answer { seq, outcome: answer }.encode());
    }

    /// A unit that this node published has its fate. Whether it was an observer's, who is told.
    pub(super) fn settle_forwarded(&mut self, publish: PublishId, outcome: Outcome) {
        if let Some((to, seq)) = self.intake.settle(publish, &outcome) {
            self.node.send(to, &ForwardMsg::Answer { seq, outcome }.encode());
        }
    }

    fn answer_forwarded(&mut self, now: Option<Now>, published: Published, outcome: Outcome) {
        self.settled(&published);
        let kept = if let Outcome::Kept(copies) = outcome { Some(copies) } else { None };
        self.settle_ids(&published.ids, kept);
        match (outcome, now) {
            (Outcome::Kept(copies), Some(now)) => {
                // Consumed there; what is with consumers here waits for this node to have that on its disk.
                published.removals.iter().for_each(|dot| self.node.remove(now, *dot));
                published.topics.iter().for_each(|send| self.fan_out(send));
                self.answer(published.conn, published.ticket, published.copies(copies));
            }
            (Outcome::Rejected(reason), _) => {
                published.removals.iter().for_each(|dot| self.dispatch.unsettle(*dot));
                self.fail(published.conn, published.ticket, "the message was not kept", &reason);
            }
            (Outcome::Refused(reason), _) => {
                published.removals.iter().for_each(|dot| self.dispatch.unsettle(*dot));
                self.fail(published.conn, published.ticket, GONE, &reason);
            }
            (Outcome::Kept(_), None) => {}
        }
    }
}
