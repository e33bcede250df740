//! Topics: what is sent to one goes to everyone who listens at that moment, here and at linked nodes, and is kept nowhere.
//!
//! A node with listeners tells all others; a message goes once to each node that has any, and is not passed on from
//! there. Who does not keep up misses messages: that is for the broker to decide, which knows the sockets.

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
use crate::broker::ConnId;

/// Topics in one message.
const CHUNK: usize = 512;
/// Topics that one peer may listen to; more are ignored.
const MAX_TOPICS: usize = 1 << 20;

/// See the module docs.
#[derive(Default)]
pub(crate) struct Topics {
    listeners: BTreeMap<Arc<str>, BTreeSet<ConsumerId>>,
    by_consumer: BTreeMap<ConsumerId, Arc<str>>,
    peers: BTreeMap<NodeId, BTreeSet<Name>>,
}

impl Topics {
    pub(crate) fn link_up(&mut self, peer: NodeId, out: &mut Vec<Effect>) {
        self.peers.insert(peer, BTreeSet::new());
        let topics: Vec<_> = self.listeners.keys().map(|topic| (Name::from(topic), true)).collect();
        for chunk in topics.chunks(CHUNK) {
            out.push(Effect::Send { to: peer, message: DispatchMsg::Topics(chunk.to_vec()) });
        }
    }

    pub(crate) fn link_down(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
    }

    pub(crate) fn on_topics(&mut self, from: NodeId, topics: Vec<(Name, bool)>) {
        let Some(known) = self.peers.get_mut(&from) else { return };
        for (topic, listens) in topics {
            if !listens {
                known.remove(&topic);
            } else if known.len() < MAX_TOPICS {
                known.insert(topic);
            }
        }
    }

    pub(crate) fn subscribe(&mut self, id: ConsumerId, topic: &Arc<str>, out: &mut Vec<Effect>) {
        self.by_consumer.insert(id, Arc::clone(topic));
        let listeners = self.listeners.entry(Arc::clone(topic)).or_default();
        listeners.insert(id);
        if listeners.len() == 1 {
            self.announce(topic, true, out);
        }
    }

    /// Without effect if it is no listener.
    pub(crate) fn unsubscribe(&mut self, id: ConsumerId, out: &mut Vec<Effect>) {
        let Some(topic) = self.by_consumer.remove(&id) else { return };
        let Some(listeners) = self.listeners.get_mut(&topic) else { return };
        listeners.remove(&id);
        if listeners.is_empty() {
            self.listeners.remove(&topic);
            self.announce(&topic, false, out);
        }
    }

    pub(crate) fn close(&mut self, conn: ConnId, out: &mut Vec<Effect>) {
        let gone: Vec<_> = self.by_consumer.keys().filter(|id| id.conn == conn).copied().collect();
        for id in gone {
            self.unsubscribe(id, out);
        }
    }

    /// A client of this node sends.
    pub(crate) fn publish(&self, topic: &Arc<str>, id: &str, content: &Content, out: &mut Vec<Effect>) {
        self.on_message(topic, id, content, out);
        let name = Name::from(topic);
        for (&to, _) in self.peers.iter().filter(|(_, topics)| topics.contains(&name)) {
            let (topic, id) = (name.clone(), id.to_owned());
            out.push(Effect::Send { to, message: DispatchMsg::Topic { topic, id, content: content.clone() } });
        }
    }

    /// A message for the listeners here.
    pub(crate) fn on_message(&self, topic: &Arc<str>, id: &str, content: &Content, out: &mut Vec<Effect>) {
        for &to in self.listeners.get(topic).into_iter().flatten() {
            let (topic, id) = (Arc::clone(topic), id.to_owned());
            out.push(Effect::Topic { to, topic, id, content: content.clone() });
        }
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
    use crate::session::SubKey;

    const PEER: NodeId = NodeId([9; 16]);

    fn consumer(conn: u64) -> ConsumerId {
        ConsumerId { conn: ConnId(conn), sub: SubKey(0) }
    }

    #[test]
    fn listeners_here_and_nodes_with_listeners_get_it_once() {
        let (mut topics, mut out) = (Topics::default(), Vec::new());
        let topic: Arc<str> = "/topic/a".into();
        topics.subscribe(consumer(1), &topic, &mut out);
        topics.link_up(PEER, &mut out);
        topics.subscribe(consumer(2), &topic, &mut out);
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
}
