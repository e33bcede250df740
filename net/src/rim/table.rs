//! Which links there are: at most one per peer, and the same one at both ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rhizomq_engine::{Epoch, NodeId};
use tokio::sync::watch;

use super::{
    connection::Link,
    refusal::{CloseCode, Farewell},
};
use crate::link::LinkId;

/// All links of this node, from admission until their `LinkDown` has been sent.
#[derive(Debug)]
pub(super) struct Table {
    node: NodeId,
    state: Mutex<State>,
    /// Counts changes, so that diallers can wait for one.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    by_link: BTreeMap<LinkId, Arc<Link>>,
    by_peer: BTreeMap<NodeId, Arc<Link>>,
    /// Peers that we are shaking hands with as the dialler.
    dialling: BTreeSet<NodeId>,
    shut: bool,
}

/// The right to be the only one who dials a peer. Given back when dropped.
#[derive(Debug)]
pub(super) struct Dialling<'a> {
    table: &'a Table,
    peer: NodeId,
}

/// What identifies a link when two of them compete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) peer: NodeId,
    pub(super) epoch: Epoch,
    pub(super) dialler: NodeId,
}

/// Whether a new link takes the place of an old, live one to the same peer.
///
/// Both ends must come to the same answer without asking each other, whichever of the two links each saw first:
/// - Another life of the peer: the old link is dead, only that we have not noticed yet.
/// - The same end dialled twice: it does so only after it has lost the first link.
/// - Both ends dialled: the link dialled by the smaller node stays.
pub(super) fn takes_over(old: &Claim, new: &Claim, node: NodeId) -> bool {
    new.epoch != old.epoch || new.dialler == old.dialler || new.dialler == node.min(new.peer)
}

impl Table {
    pub(super) fn new(node: NodeId) -> Self {
        Self { node, state: Mutex::default(), changes: watch::Sender::new(0) }
    }

    /// Enters the link, unless another one stays. Gives the link whose place it takes, which the caller has to close,
    /// and to wait for.
    pub(super) fn admit(&self, new: &Arc<Link>) -> Result<Option<Arc<Link>>, Farewell> {
        let mut state = self.lock();
        if state.shut {
            return Err(Farewell::new(CloseCode::ShuttingDown, "this node is shutting down"));
        }
        let old = state.by_peer.get(&new.claim().peer);
        if let Some(old) = old.filter(|old| old.is_open())
            && !takes_over(old.claim(), new.claim(), self.node)
        {
            return Err(Farewell::new(CloseCode::Duplicate, "there is a link between the two nodes already"));
        }
        let old = state.by_peer.insert(new.claim().peer, Arc::clone(new));
        state.by_link.insert(new.id(), Arc::clone(new));
        drop(state);
        self.changed();
        Ok(old)
    }

    /// Takes the link out; its `LinkDown` has been sent.
    pub(super) fn remove(&self, link: &Link) {
        let mut state = self.lock();
        state.by_link.remove(&link.id());
        if state.by_peer.get(&link.claim().peer).is_some_and(|current| current.id() == link.id()) {
            state.by_peer.remove(&link.claim().peer);
        }
        drop(state);
        self.changed();
    }

    pub(super) fn get(&self, link: LinkId) -> Option<Arc<Link>> {
        self.lock().by_link.get(&link).cloned()
    }

    pub(super) fn is_linked(&self, peer: NodeId) -> bool {
        self.lock().by_peer.contains_key(&peer)
    }

    /// Returns when there is no link to the peer.
    pub(super) async fn unlinked(&self, peer: NodeId) {
        let mut changes = self.changes.subscribe();
        // The sender is in `self`, so it can't be gone.
        let _ = changes.wait_for(|_| !self.is_linked(peer)).await;
    }

    /// The right to shake hands with the peer as the dialler; `None` when there is a link, or someone else does it.
    pub(super) fn dialling(&self, peer: NodeId) -> Option<Dialling<'_>> {
        let mut state = self.lock();
        if state.by_peer.contains_key(&peer) || !state.dialling.insert(peer) {
            return None;
        }
        Some(Dialling { table: self, peer })
    }

    /// No new links from now on. Gives those there are.
    pub(super) fn shut(&self) -> Vec<Arc<Link>> {
        let mut state = self.lock();
        state.shut = true;
        state.by_link.values().cloned().collect()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        self.table.lock().dialling.remove(&self.peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: NodeId = NodeId([1; 16]);
    const LARGE: NodeId = NodeId([2; 16]);

    #[test]
    fn both_ends_keep_the_same_link_whichever_they_saw_first() {
        let seen_by = |peer, dialler| Claim { peer, epoch: Epoch(7), dialler };
        for (node, peer) in [(SMALL, LARGE), (LARGE, SMALL)] {
            let (by_small, by_large) = (seen_by(peer, SMALL), seen_by(peer, LARGE));
            assert!(takes_over(&by_large, &by_small, node));
            assert!(!takes_over(&by_small, &by_large, node));
            assert!(takes_over(&by_small, &by_small, node), "redialled");
            assert!(takes_over(&by_large, &by_large, node), "redialled");
            assert!(takes_over(&by_small, &Claim { epoch: Epoch(8), ..by_large }, node), "another life");
        }
    }

    #[test]
    fn one_dials_at_a_time() {
        let table = Table::new(SMALL);
        let first = table.dialling(LARGE);
        assert!(first.is_some());
        assert!(table.dialling(LARGE).is_none());
        drop(first);
        assert!(table.dialling(LARGE).is_some());
    }
}
