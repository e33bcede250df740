//! Topics: what is sent to one goes to everyone who listens at that moment, here and at linked nodes, and is kept nowhere.
//!
//! A node with listeners tells all others; a message goes once to each node that has any, and is not passed on from
//! there. Who does not keep up misses messages: that is for the broker to decide, which knows the sockets.
//!
//! Listeners and nodes name topics by patterns, see [`crate::topic`]; a name is a pattern that matches itself. However many
//! of its patterns match, a node gets a message once; a subscription has one pattern. Its selector is looked at where it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rhizomq_engine::NodeId;

use super::{
    Effect,
    edge::ConsumerId,
    msg::{Content, DispatchMsg, Name},
};
use crate::{
    broker::ConnId,
    destination::TOPIC,
    selector::{Selector, StoredFields},
    session::SubKey,
    topic::{Patterns, check_pattern},
};

/// Topics in one message.
const CHUNK: usize = 512;
/// Topics that one peer may listen to; more are ignored.
const MAX_TOPICS: usize = 1 << 20;

/// See the module docs.
#[derive(Default)]
pub(crate) struct Topics {
    /// Listeners here by the pattern that they wrote, as a destination.
    listeners: BTreeMap<Arc<str>, BTreeSet<ConsumerId>>,
    by_consumer: BTreeMap<ConsumerId, Arc<str>>,
    /// Of those that have one.
    selectors: BTreeMap<ConsumerId, Selector>,
    /// The same for finding those that match.
    here: Patterns<ConsumerId>,
    peers: BTreeMap<NodeId, BTreeSet<Name>>,
    elsewhere: Patterns<NodeId>,
}

/// The part of a destination that is matched.
fn pattern(destination: &str) -> &str {
    destination.strip_prefix(TOPIC).unwrap_or(destination)
}

impl Topics {
    pub(crate) fn link_up(&mut self, peer: NodeId, out: &mut Vec<Effect>) {
        self.link_down(peer);
        self.peers.insert(peer, BTreeSet::new());
        let topics: Vec<_> = self.listeners.keys().map(|topic| (Name::from(topic), true)).collect();
        for chunk in topics.chunks(CHUNK) {
            out.push(Effect::Send { to: peer, message: DispatchMsg::Topics(chunk.to_vec()) });
        }
    }

    pub(crate) fn link_down(&mut self, peer: NodeId) {
        for topic in self.peers.remove(&peer).into_iter().flatten() {
            self.elsewhere.remove(pattern(&topic.0), &peer);
        }
    }

    pub(crate) fn on_topics(&mut self, from: NodeId, topics: Vec<(Name, bool)>) {
        let Some(known) = self.peers.get_mut(&from) else { return };
        for (topic, listens) in topics {
            if !listens {
                if known.remove(&topic) {
                    self.elsewhere.remove(pattern(&topic.0), &from);
                }
            } else if known.len() < MAX_TOPICS
                && check_pattern(pattern(&topic.0)).is_ok()
                && known.insert(topic.clone())
            {
                self.elsewhere.insert(pattern(&topic.0), from);
            }
        }
    }

    pub(crate) fn subscribe(
        &mut self,
        id: ConsumerId,
        topic: &Arc<str>,
        selector: Option<Selector>,
        out: &mut Vec<Effect>,
    ) {
        selector.into_iter().for_each(|selector| drop(self.selectors.insert(id, selector)));
        self.by_consumer.insert(id, Arc::clone(topic));
        self.here.insert(pattern(topic), id);
        let listeners = self.listeners.entry(Arc::clone(topic)).or_default();
        listeners.insert(id);
        if listeners.len() == 1 {
            self.announce(topic, true, out);
        }
    }

    /// Without effect if it is no listener.
    pub(crate) fn unsubscribe(&mut self, id: ConsumerId, out: &mut Vec<Effect>) {
        let Some(topic) = self.by_consumer.remove(&id) else { return };
        self.selectors.remove(&id);
        self.here.remove(pattern(&topic), &id);
        let Some(listeners) = self.listeners.get_mut(&topic) else { return };
        listeners.remove(&id);
        if listeners.is_empty() {
            self.listeners.remove(&topic);
            self.announce(&topic, false, out);
        }
    }

    pub(crate) fn close(&mut self, conn: ConnId, out: &mut Vec<Effect>) {
        let first = ConsumerId { conn, sub: SubKey(0) };
        let last = ConsumerId { conn, sub: SubKey(u32::MAX) };
        let gone: Vec<_> = self.by_consumer.range(first..=last).map(|(id, _)| *id).collect();
        for id in gone {
            self.unsubscribe(id, out);
        }
    }

    /// A client of this node sends.
    pub(crate) fn publish(&self, topic: &Arc<str>, id: &str, content: &Content, out: &mut Vec<Effect>) {
        self.on_message(topic, id, content, out);
        let name = Name::from(topic);
        for to in self.elsewhere.matches(pattern(topic)) {
            let (topic, id) = (name.clone(), id.to_owned());
            out.push(Effect::Send { to, message: DispatchMsg::Topic { topic, id, content: content.clone() } });
        }
    }

    /// A message for the listeners here.
    pub(crate) fn on_message(&self, topic: &Arc<str>, id: &str, content: &Content, out: &mut Vec<Effect>) {
        let fields = StoredFields { head: &content.head, id };
        let wants = |to: &ConsumerId| self.selectors.get(to).is_none_or(|selector| selector.matches(&fields));
        for to in self.here.matches(pattern(topic)).into_iter().filter(wants) {
            let (topic, id) = (Arc::clone(topic), id.to_owned());
            out.push(Effect::Topic { to, topic, id, content: content.clone() });
        }
    }

    /// What is remembered, and how much of it.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("listeners", self.listeners.len()),
            ("by_consumer", self.by_consumer.len()),
            ("selectors", self.selectors.len()),
            ("patterns here", self.here.size() - 1),
            ("topics of peers", self.peers.values().map(BTreeSet::len).sum()),
            ("patterns elsewhere", self.elsewhere.size() - 1),
        ]
    }

    fn announce(&self, topic: &Arc<str>, listens: bool, out: &mut Vec<Effect>) {
        for &to in self.peers.keys() {
            out.push(Effect::Send { to, message: DispatchMsg::Topics(vec![(Name::from(topic), listens)]) });
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const PEER: NodeId = NodeId([9; 16]);

    fn consumer(conn: u64) -> ConsumerId {
        ConsumerId { conn: ConnId(conn), sub: SubKey(0) }
    }

    #[test]
    fn listeners_here_and_nodes_with_listeners_get_it_once() {
        let (mut topics, mut out) = (Topics::default(), Vec::new());
        let topic: Arc<str> = "/topic/a".into();
        topics.subscribe(consumer(1), &topic, None, &mut out);
        topics.link_up(PEER, &mut out);
        topics.subscribe(consumer(2), &topic, None, &mut out);
        assert_eq!(out.len(), 1, "the peer is told once that someone listens");
        out.clear();

        let content = Content::new(Bytes::new(), Bytes::from_static(b"x"));
        topics.publish(&topic, "T-1", &content, &mut out);
        assert_eq!(out.len(), 2, "nobody listens there");
        topics.on_topics(PEER, vec![(Name::from(&topic), true)]);
        out.clear();
        topics.publish(&topic, "T-2", &content, &mut out);
        let sent = |effect: &&Effect| matches!(effect, Effect::Send { to: PEER, .. });
        assert_eq!((out.len(), out.iter().filter(sent).count()), (3, 1));

        out.clear();
        topics.close(ConnId(1), &mut out);
        assert!(out.is_empty());
        topics.close(ConnId(2), &mut out);
        assert!(matches!(&out[..], [Effect::Send { message: DispatchMsg::Topics(topics), .. }] if !topics[0].1));
    }

    #[test]
    fn patterns_reach_listeners_and_nodes_once_each_and_leave_nothing_behind() {
        let (mut topics, mut out) = (Topics::default(), Vec::new());
        topics.link_up(PEER, &mut out);
        topics.subscribe(consumer(1), &"/topic/a.*".into(), None, &mut out);
        topics.subscribe(consumer(2), &"/topic/#".into(), None, &mut out);
        topics.on_topics(PEER, ["/topic/a.>", "/topic/a.b", "/topic/>.x"].map(|name| (Name(name.into()), true)).into());
        out.clear();
        let content = Content::new(Bytes::new(), Bytes::from_static(b"x"));
        let receivers = |topic: &str, topics: &Topics| {
            let mut out = Vec::new();
            topics.publish(&topic.into(), "T-1", &content, &mut out);
            let who = |effect: &Effect| match effect {
                Effect::Topic { to, topic: name, .. } => {
                    assert_eq!(&**name, topic, "by its own name, not by the pattern");
                    to.conn.0
                }
                Effect::Send { to: PEER, .. } => 9,
                other => panic!("{other:?}"),
            };
            out.iter().map(who).collect::<Vec<_>>()
        };
        assert_eq!(receivers("/topic/a.b", &topics), [1, 2, 9]);
        assert_eq!(receivers("/topic/a.b.c", &topics), [2, 9]);
        assert_eq!(receivers("/topic/b.x", &topics), [2]);
        topics.close(ConnId(1), &mut out);
        topics.close(ConnId(2), &mut out);
        topics.on_topics(PEER, vec![(Name("/topic/a.b".into()), false)]);
        assert_eq!(receivers("/topic/a.b", &topics), [9]);
        topics.link_down(PEER);
        assert!(topics.remembered().iter().all(|(_, count)| *count == 0), "{:?}", topics.remembered());
    }

    #[test]
    fn a_selector_lets_through_what_it_matches_and_is_forgotten_with_its_listener() {
        let (mut topics, mut out) = (Topics::default(), Vec::new());
        let selector = Selector::parse("a > 1 AND JMSMessageID <> 'T-3'").unwrap();
        topics.subscribe(consumer(1), &"/topic/#".into(), selector, &mut out);
        topics.subscribe(consumer(2), &"/topic/x".into(), None, &mut out);
        let receivers = |id: &str, head: &'static [u8], topics: &Topics| {
            let mut out = Vec::new();
            topics.publish(&"/topic/x".into(), id, &Content::new(Bytes::from_static(head), Bytes::new()), &mut out);
            out.iter().map(|effect| matches!(effect, Effect::Topic { to, .. } if to.conn.0 == 1)).collect::<Vec<_>>()
        };
        assert_eq!(receivers("T-1", b"a:1\n", &topics), [false]);
        assert_eq!(receivers("T-2", b"a:2\n", &topics), [true, false]);
        assert_eq!(receivers("T-3", b"a:2\n", &topics), [false]);
        topics.close(ConnId(1), &mut out);
        topics.close(ConnId(2), &mut out);
        assert!(topics.remembered().iter().all(|(_, count)| *count == 0), "{:?}", topics.remembered());
    }
}
