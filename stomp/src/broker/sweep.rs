//! What nobody will ever consume is consumed here: messages for durable subscriptions that were deleted, and for temporary
//! queues whose connection has ended. Each node looks after the segments that it dispatches.
//!
//! Nothing is taken for gone because nothing is known of it. Of a durable subscription the registry remembers that there was
//! one ([`Node::was_shared`](rhizomq_net::Node::was_shared)). Of a temporary queue its node is asked: the name says which,
//! and in what life the connection was. A node that is away is waited for, unless it was here and is off the roster now.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::{Epoch, NodeId, Now};

use super::{Broker, ConnId};
use crate::{
    destination::{DURABLE, REPLY_QUEUE},
    dispatch::{DispatchMsg, Name},
    durable, lane,
};

/// Between two looks, ms.
const SWEEP_MS: u64 = 1_000;

/// Temporary queues in one question.
const CHUNK: usize = 512;

/// What the name of a temporary queue tells. The last part but one is of the [`token`](rhizomq_net::Node::token) that clients can't
/// guess: they know only the names that they were told.
fn read_reply_queue(inbox: &str) -> Option<(NodeId, Epoch, ConnId)> {
    let mut parts = inbox.strip_prefix(REPLY_QUEUE)?.split('.');
    let node = parts.next()?.parse().ok()?;
    let life = Epoch(u64::from_str_radix(parts.next()?, 16).ok()?);
    let conn = ConnId(u64::from_str_radix(parts.next()?, 16).ok()?);
    Some((node, life, conn))
}

impl Broker {
    /// What the names of a connection's temporary queues begin with.
    pub(super) fn replies_of(&self, conn: ConnId) -> String {
        let token = self.node.token(&format!("replies of {:x}", conn.0));
        format!("{}.{}.{:x}.{token:032x}", self.node.id(), self.node.epoch(), conn.0)
    }

    /// Whether this is the name of no temporary queue that there ever was: what is sent there nobody could read, and no node
    /// would say that it is gone.
    pub(super) fn is_invented(&self, inbox: &str) -> bool {
        let is_known = |node| self.node.is_known(node) || self.node.is_linked(node) || self.met.contains(&node);
        !read_reply_queue(inbox).is_some_and(|(node, ..)| is_known(node))
    }

    pub(super) fn sweep(&mut self, now: Now) {
        self.sweep_at = now.mono_ms.saturating_add(SWEEP_MS);
        // Each with all of its lanes.
        let queues = |prefix| self.node.engine().inboxes_from(prefix).map(|inbox| lane::queue_of(inbox).to_owned());
        let names = |prefix| queues(prefix).collect::<BTreeSet<_>>();
        let (durables, replies) = (names(DURABLE), names(REPLY_QUEUE));
        for inbox in durables {
            if self.durables.book.binding(&inbox).is_none()
                && let Some((name, life, number)) = durable::read_inbox(&inbox)
                && self.node.was_shared(&durable::set_of(name), life, number)
            {
                self.consume_all(now, &inbox);
            }
        }
        let mut questions: BTreeMap<NodeId, Vec<Name>> = BTreeMap::new();
        for inbox in replies {
            let owner = read_reply_queue(&inbox).map(|(node, ..)| node);
            match owner {
                // It could never have been one, and nobody can ever read it.
                None => self.consume_all(now, &inbox),
                Some(node) if node == self.node.id() => {
                    if self.is_gone(&inbox) {
                        self.consume_all(now, &inbox);
                    }
                }
                Some(node) if self.node.is_linked(node) => {
                    if self.dispatches_any_of(&inbox) && !self.dispatch.is_wanted(&inbox) {
                        questions.entry(node).or_default().push(Name(inbox.into()));
                    }
                }
                Some(node) => {
                    if self.met.contains(&node) && !self.node.is_known(node) {
                        self.consume_all(now, &inbox);
                    }
                }
            }
        }
        for (node, inboxes) in questions {
            for chunk in inboxes.chunks(CHUNK) {
                self.node.send(node, &DispatchMsg::Ask(chunk.to_vec()).encode());
            }
        }
    }

    /// A peer has messages for temporary queues of this node's clients.
    pub(super) fn answer_asked(&mut self, by: NodeId, inboxes: Vec<Name>) {
        let gone: Vec<_> = inboxes.into_iter().filter(|inbox| self.is_gone(&inbox.0)).collect();
        if !gone.is_empty() {
            self.node.send(by, &DispatchMsg::Gone(gone).encode());
        }
    }

    /// The node of these temporary queues says that they are gone.
    pub(super) fn note_gone(&mut self, now: Now, from: NodeId, inboxes: &[Name]) {
        for inbox in inboxes {
            if read_reply_queue(&inbox.0).is_some_and(|(node, ..)| node == from) {
                self.consume_all(now, &inbox.0);
            }
        }
    }

    /// Whether a temporary queue was this node's, and is not any more.
    fn is_gone(&self, inbox: &str) -> bool {
        let Some((node, life, conn)) = read_reply_queue(inbox) else { return false };
        let is_open = || {
            let rest = self.clients.get(&conn).filter(|client| !client.closing).and_then(|client| {
                inbox.strip_prefix(REPLY_QUEUE)?.strip_prefix(client.session.config().replies.as_str())
            });
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        node == self.node.id() && (life != self.node.epoch() || !is_open())
    }

    fn dispatches_any_of(&self, queue: &str) -> bool {
        let mut inboxes = self.node.engine().inboxes_from(queue).take_while(|inbox| lane::queue_of(inbox) == queue);
        inboxes.any(|inbox| !self.dispatch.owned_with(&self.node, inbox).is_empty())
    }

    /// Consumes all that this node dispatches of a queue, or durable subscription, in any lane.
    fn consume_all(&mut self, now: Now, queue: &str) {
        let inboxes = self.node.engine().inboxes_from(queue).map(str::to_owned);
        let inboxes: Vec<_> = inboxes.take_while(|inbox| lane::queue_of(inbox) == queue).collect();
        for inbox in inboxes {
            for segment in self.dispatch.owned_with(&self.node, &inbox) {
                let slots = self.node.engine().waiting_of(&inbox, segment);
                self.node.remove_all(now, segment, &slots);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_temporary_queues_tell_whose_they_are() {
        let node = NodeId([0xab; 16]);
        let name = format!("{REPLY_QUEUE}{node}.{}.{:x}.0", Epoch(18), 300);
        assert_eq!(read_reply_queue(&name), Some((node, Epoch(18), ConnId(300))));
        for other in ["/reply-queue/x", "/queue/a", "/reply-queue/", "/reply-queue/a.b.c.d"] {
            assert_eq!(read_reply_queue(other), None);
        }
    }
}
