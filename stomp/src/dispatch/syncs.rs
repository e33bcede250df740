//! Waiting for all linked nodes to have heard of a subscription, so that a receipt can say that it is in force everywhere.
//!
//! Whoever is linked is asked to answer, and is so once more where a new link comes up; links keep the order, so an answer
//! says that all that was said before the question has been taken in. Nobody is waited for whose link is gone (it hears anew
//! when it comes back), and nobody for longer than [`PATIENCE_MS`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rhizomq_engine::NodeId;

use super::{
    Effect,
    msg::{DispatchMsg, Name},
};

/// A linked node that does not answer within so many ms is not waited for.
const PATIENCE_MS: u64 = 5_000;

/// One question to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SyncId(u64);

struct Waiting {
    inbox: Option<Name>,
    missing: BTreeSet<NodeId>,
    until: u64,
}

/// See the module docs.
#[derive(Default)]
pub(crate) struct Syncs {
    last: u64,
    peers: BTreeSet<NodeId>,
    waiting: BTreeMap<u64, Waiting>,
}

impl Syncs {
    /// Asks all. [`Effect::Synced`] follows, at once if there is nobody to ask.
    pub(crate) fn begin(&mut self, now_ms: u64, inbox: Option<&Arc<str>>, out: &mut Vec<Effect>) -> SyncId {
        self.last += 1;
        let (number, inbox) = (self.last, inbox.map(Name::from));
        self.peers.iter().for_each(|peer| out.push(question(*peer, number, &inbox)));
        let until = now_ms.saturating_add(PATIENCE_MS);
        self.waiting.insert(number, Waiting { inbox, missing: self.peers.clone(), until });
        self.finish(number, out);
        SyncId(number)
    }

    /// To be called after the peer has been told everything else.
    pub(crate) fn link_up(&mut self, peer: NodeId, out: &mut Vec<Effect>) {
        self.peers.insert(peer);
        for (&number, waiting) in &mut self.waiting {
            waiting.missing.insert(peer);
            out.push(question(peer, number, &waiting.inbox));
        }
    }

    pub(crate) fn link_down(&mut self, peer: NodeId, out: &mut Vec<Effect>) {
        self.peers.remove(&peer);
        let numbers: Vec<_> = self.waiting.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.on_synced(peer, number, out));
    }

    pub(crate) fn on_synced(&mut self, from: NodeId, number: u64, out: &mut Vec<Effect>) {
        if let Some(waiting) = self.waiting.get_mut(&number) {
            waiting.missing.remove(&from);
            self.finish(number, out);
        }
    }

    /// When [`Syncs::expire`] is wanted.
    pub(crate) fn deadline(&self) -> u64 {
        // Later ones wait no shorter.
        self.waiting.first_key_value().map_or(u64::MAX, |(_, waiting)| waiting.until)
    }

    pub(crate) fn expire(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        while let Some(first) = self.waiting.first_entry().filter(|first| first.get().until <= now_ms) {
            out.push(Effect::Synced { id: SyncId(first.remove_entry().0) });
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn finish(&mut self, number: u64, out: &mut Vec<Effect>) {
        if self.waiting.get(&number).is_some_and(|waiting| waiting.missing.is_empty()) {
            self.waiting.remove(&number);
            out.push(Effect::Synced { id: SyncId(number) });
        }
    }
}

fn question(to: NodeId, number: u64, inbox: &Option<Name>) -> Effect {
    Effect::Send { to, message: DispatchMsg::Sync { number, inbox: inbox.clone() } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 16]);
    const B: NodeId = NodeId([2; 16]);

    fn synced(out: &mut Vec<Effect>) -> usize {
        out.drain(..).filter(|effect| matches!(effect, Effect::Synced { .. })).count()
    }

    #[test]
    fn all_that_are_linked_are_waited_for_and_those_that_come_meanwhile() {
        let (mut syncs, mut out) = (Syncs::default(), Vec::new());
        syncs.begin(0, None, &mut out);
        assert_eq!(synced(&mut out), 1, "nobody is there");
        syncs.link_up(A, &mut out);
        let id = syncs.begin(0, None, &mut out);
        syncs.link_up(B, &mut out);
        assert_eq!(synced(&mut out), 0);
        syncs.on_synced(A, id.0, &mut out);
        syncs.on_synced(A, id.0, &mut out);
        assert_eq!(synced(&mut out), 0, "B came meanwhile");
        syncs.on_synced(B, id.0, &mut out);
        assert_eq!((synced(&mut out), syncs.len()), (1, 0));
    }

    #[test]
    fn nobody_is_waited_for_whose_link_is_gone_or_who_does_not_answer() {
        let (mut syncs, mut out) = (Syncs::default(), Vec::new());
        syncs.link_up(A, &mut out);
        syncs.link_up(B, &mut out);
        let id = syncs.begin(7, Some(&"/durable/x".into()), &mut out);
        syncs.on_synced(B, id.0, &mut out);
        assert_eq!(synced(&mut out), 0);
        syncs.link_down(A, &mut out);
        assert_eq!(synced(&mut out), 1);
        syncs.begin(7, None, &mut out);
        assert_eq!(syncs.deadline(), 7 + PATIENCE_MS);
        syncs.expire(6 + PATIENCE_MS, &mut out);
        assert_eq!(synced(&mut out), 0);
        syncs.expire(7 + PATIENCE_MS, &mut out);
        assert_eq!((synced(&mut out), syncs.deadline()), (1, u64::MAX));
    }
}
