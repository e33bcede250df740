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

/// Whether a new link takes the place of an old, open one to the same peer.
///
/// - Another life of the peer: the old link is dead, only that we have not noticed yet.
/// - We have dialled: needless, there is a link.
/// - The peer has dialled both: it does so only after it has lost the first one.
/// - The peer has dialled, and we had: the smaller node decides, and what it enters first stays. If that is the peer,
///   then it has entered the new link and will refuse the old one; if it is us, the old one stays.
fn takes_over(old: &Claim, new: &Claim, node: NodeId) -> bool {
    if new.epoch != old.epoch {
        return true;
    }
    new.dialler != node && (old.dialler == new.dialler || new.peer < node)
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
    fn of_two_links_the_smaller_node_keeps_the_first_and_the_other_follows() {
        let claim = |peer, dialler| Claim { peer, epoch: Epoch(7), dialler };
        // The smaller node refuses whatever comes second, by whomever.
        let (by_small, by_large) = (claim(LARGE, SMALL), claim(LARGE, LARGE));
        assert!(!takes_over(&by_small, &by_large, SMALL));
        assert!(!takes_over(&by_large, &by_small, SMALL));
        // The larger one takes what the smaller one has entered, and does not insist on its own.
        let (by_small, by_large) = (claim(SMALL, SMALL), claim(SMALL, LARGE));
        assert!(takes_over(&by_large, &by_small, LARGE));
        assert!(!takes_over(&by_small, &by_large, LARGE));
        for (node, peer) in [(SMALL, LARGE), (LARGE, SMALL)] {
            let (ours, theirs) = (claim(peer, node), claim(peer, peer));
            assert!(takes_over(&theirs, &theirs, node), "the peer has lost its link and dialled again");
            for old in [ours, theirs] {
                assert!(takes_over(&old, &Claim { epoch: Epoch(8), ..theirs }, node), "another life");
            }
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
