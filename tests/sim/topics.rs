//! Topics: publishers, listeners, and the judge of what came to whom. Nothing is kept, so nothing is owed but this: what
//! is sent while all are linked and nothing happens comes once, and in order, to everybody who listens.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_stomp::{
    broker::ConnId,
    frame::{Command, Frame},
};

use super::{
    clients::{Pending, Role},
    ledger::{Kind, msg_id_of},
    world::World,
};

/// Without a fault for so many milliseconds, all nodes know who listens where.
const KNOWN_MS: u64 = 3_000;

/// A message that nothing disturbs comes within so many milliseconds.
const UNDER_WAY_MS: u64 = 3_000;

/// Sends to one topic.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    pub(crate) topic: usize,
    /// Messages still to send.
    pub(crate) left: u32,
    pub(crate) pace_ms: u64,
}

/// Listens to one topic.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) topic: usize,
    /// When it was told that it listens.
    pub(crate) since: Option<u64>,
}

/// A message.
struct Sent {
    topic: usize,
    /// The publisher's connection.
    from: ConnId,
    at: u64,
    /// Who is to get it, if all stays calm.
    owed: BTreeSet<ConnId>,
    got: BTreeSet<ConnId>,
}

/// All that was sent to topics.
#[derive(Default)]
pub(crate) struct Topics {
    sent: Vec<Sent>,
    /// Those before are judged.
    judged: usize,
    /// The last one of a publisher's connection that came to a listener's.
    last: BTreeMap<(ConnId, ConnId), usize>,
}

impl Topics {
    /// Messages sent, and deliveries.
    pub(crate) fn figures(&self) -> (usize, usize) {
        (self.sent.len(), self.sent.iter().map(|sent| sent.got.len()).sum())
    }
}

fn destination(topic: usize) -> String {
    format!("/topic/t{topic}")
}

impl World {
    /// Subscribes, if the client is a listener.
    pub(crate) fn listen(&mut self, client: usize, conn: ConnId) {
        let Role::Listener(listener) = &self.clients[client].role else { return };
        let to = destination(listener.topic);
        let receipt = self.next_receipt(client);
        self.clients[client].pending.insert(receipt, Pending::Listen);
        let headers = [("id", "1"), ("destination", &*to), ("receipt", &*receipt.to_string())];
        self.client_sends(conn, &Frame::new(Command::Subscribe, headers));
    }

    /// Its subscription is in force.
    pub(crate) fn listens(&mut self, client: usize) {
        if let Role::Listener(listener) = &mut self.clients[client].role {
            listener.since = Some(self.now);
        }
    }

    /// Sends a message. How long to pause, `None` when all is sent.
    pub(crate) fn publish_to_topic(&mut self, client: usize, conn: ConnId) -> Option<u64> {
        let Role::Publisher(publisher) = &mut self.clients[client].role else { return None };
        publisher.left = publisher.left.checked_sub(1)?;
        let (topic, pause) = (publisher.topic, 1 + publisher.pace_ms);
        let calm = self.all_joined_since(KNOWN_MS);
        let owed = if calm { self.listeners(topic) } else { BTreeSet::new() };
        let body = format!("t{};", self.topics.sent.len());
        self.topics.sent.push(Sent { topic, from: conn, at: self.now, owed, got: BTreeSet::new() });
        let mut headers = vec![("destination", destination(topic))];
        if self.rng.chance(0.3) {
            let receipt = self.next_receipt(client);
            self.clients[client].pending.insert(receipt, Pending::Topic);
            headers.push(("receipt", receipt.to_string()));
        }
        self.client_sends(conn, &Frame::new(Command::Send, headers).with_body(body));
        Some(pause)
    }

    /// Connections that are known everywhere to listen to a topic.
    fn listeners(&self, topic: usize) -> BTreeSet<ConnId> {
        let is_known = |role: &Role| match role {
            Role::Listener(listener) => {
                listener.topic == topic && listener.since.is_some_and(|since| since + KNOWN_MS <= self.now)
            }
            _ => false,
        };
        self.clients.iter().filter(|client| is_known(&client.role)).filter_map(|client| client.conn).collect()
    }

    /// A topic's message leaves a broker for a client.
    pub(crate) fn watch_topic(&mut self, conn: ConnId, frame: &Frame) {
        let to = frame.headers.get("destination").unwrap_or_default();
        let number = msg_id_of(&frame.body).map_or(usize::MAX, |id| id as usize);
        let Some(sent) = self.topics.sent.get_mut(number).filter(|sent| to == destination(sent.topic)) else {
            return self.violate(Kind::ClientError, format!("t{number} was not sent to {to}: {:?}", frame.headers));
        };
        let from = sent.from;
        if !sent.got.insert(conn) {
            return self.violate(Kind::NeedlessDuplicate, format!("t{number} came twice to connection {}", conn.0));
        }
        let last = self.topics.last.insert((from, conn), number);
        if let Some(last) = last.filter(|&last| last > number) {
            self.violate(Kind::Order, format!("t{number} came after t{last} to connection {}", conn.0));
        }
    }

    /// Judges what is old enough.
    pub(crate) fn look_at_topics(&mut self) {
        while let Some(sent) = self.topics.sent.get(self.topics.judged) {
            if sent.at + UNDER_WAY_MS > self.now {
                return;
            }
            let calm = self.disturbed_at < sent.at && self.all_joined();
            let is_there = |conn: &ConnId| {
                self.conns.get(conn).is_some_and(|connection| self.clients[connection.client].conn == Some(*conn))
            };
            let missing = sent.owed.difference(&sent.got).find(|conn| is_there(conn));
            if let Some(conn) = missing.filter(|_| calm && is_there(&sent.from)) {
                let text = format!("t{} never came to connection {}, which listened", self.topics.judged, conn.0);
                return self.violate(Kind::Lost, text);
            }
            self.topics.judged += 1;
        }
    }
}
