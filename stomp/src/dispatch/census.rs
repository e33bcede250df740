//! What the whole reachable cluster has: owners tell all others how full their inboxes are, edges how many consumers
//! there are. Each message is counted by its owner alone.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::NodeId;

use super::{
    Effect,
    msg::{Depth, DispatchMsg, Name},
};

/// Between two tellings, ms: figures for people need no more.
const TELL_MS: u64 = 1_000;
/// Inboxes in one message.
const CHUNK: usize = 512;
/// Inboxes that one peer may tell of; more are ignored.
const MAX_INBOXES: usize = 1 << 20;

/// One inbox over the whole reachable cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) depth: u64,
    pub(crate) in_flight: u64,
    pub(crate) consumers: u64,
}

/// See the module docs.
#[derive(Default)]
pub(crate) struct Census {
    /// What all peers were told last.
    told: BTreeMap<Name, Depth>,
    depths: BTreeMap<NodeId, BTreeMap<Name, Depth>>,
    /// By edge, this node's own included.
    consumers: BTreeMap<NodeId, BTreeMap<Name, u32>>,
    tell_at: u64,
}

impl Census {
    pub(crate) fn link_up(&mut self, peer: NodeId, out: &mut Vec<Effect>) {
        let all: Vec<_> = self.told.iter().map(|(name, depth)| (name.clone(), *depth)).collect();
        send(peer, &all, out);
    }

    pub(crate) fn link_down(&mut self, peer: NodeId) {
        self.depths.remove(&peer);
        self.consumers.remove(&peer);
    }

    pub(crate) fn on_interest(&mut self, from: NodeId, interest: &[(Name, u32)]) {
        let known = self.consumers.entry(from).or_default();
        for (name, count) in interest {
            if *count == 0 {
                known.remove(name);
            } else if known.len() < MAX_INBOXES {
                known.insert(name.clone(), *count);
            }
        }
    }

    pub(crate) fn on_depths(&mut self, from: NodeId, depths: Vec<(Name, Depth)>) {
        let known = self.depths.entry(from).or_default();
        for (name, depth) in depths {
            if depth == Depth::default() {
                known.remove(&name);
            } else if known.len() < MAX_INBOXES {
                known.insert(name, depth);
            }
        }
    }

    /// When [`Census::tell`] is wanted.
    pub(crate) fn deadline(&self) -> u64 {
        self.tell_at
    }

    /// Tells the peers what changed since the last time.
    pub(crate) fn tell(
        &mut self,
        now_ms: u64,
        current: BTreeMap<Name, Depth>,
        peers: &[NodeId],
        out: &mut Vec<Effect>,
    ) {
        self.tell_at = now_ms + TELL_MS;
        let names: BTreeSet<_> = self.told.keys().chain(current.keys()).collect();
        let depths = |name| {
            let of = |map: &BTreeMap<Name, Depth>| map.get(name).copied().unwrap_or_default();
            (of(&self.told), of(&current))
        };
        let changes = names.into_iter().map(|name| (name, depths(name))).filter(|(_, (old, new))| old != new);
        let changes: Vec<_> = changes.map(|(name, (_, new))| (name.clone(), new)).collect();
        for &peer in peers {
            send(peer, &changes, out);
        }
        self.told = current;
    }

    /// Everything, with `own` for what this node owns.
    pub(crate) fn totals(&self, own: &BTreeMap<Name, Depth>) -> BTreeMap<Name, Total> {
        let mut totals: BTreeMap<Name, Total> = BTreeMap::new();
        for (name, depth) in self.depths.values().flatten().chain(own) {
            let total = totals.entry(name.clone()).or_default();
            total.depth += depth.depth;
            total.in_flight += depth.in_flight;
        }
        for (name, count) in self.consumers.values().flatten() {
            totals.entry(name.clone()).or_default().consumers += u64::from(*count);
        }
        totals
    }
}

fn send(to: NodeId, depths: &[(Name, Depth)], out: &mut Vec<Effect>) {
    for chunk in depths.chunks(CHUNK) {
        out.push(Effect::Send { to, message: DispatchMsg::Depths(chunk.to_vec()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId([9; 16]);

    #[test]
    fn only_changes_are_told_and_all_owners_are_summed() {
        let (mut census, mut out) = (Census::default(), Vec::new());
        let name = || Name("/queue/a".into());
        let depth = |depth| Depth { depth, in_flight: 1 };
        census.tell(0, BTreeMap::from([(name(), depth(3))]), &[PEER], &mut out);
        assert_eq!(out.len(), 1);
        census.tell(1_000, BTreeMap::from([(name(), depth(3))]), &[PEER], &mut out);
        assert_eq!(out.len(), 1, "nothing changed");
        census.tell(2_000, BTreeMap::new(), &[PEER], &mut out);
        let Some(Effect::Send { message: DispatchMsg::Depths(gone), .. }) = out.last() else { panic!() };
        assert_eq!(gone[..], [(name(), Depth::default())]);

        census.on_depths(PEER, vec![(name(), depth(4))]);
        census.on_interest(PEER, &[(name(), 2)]);
        let total = Total { depth: 6, in_flight: 2, consumers: 2 };
        assert_eq!(census.totals(&BTreeMap::from([(name(), depth(2))])), BTreeMap::from([(name(), total)]));
        census.on_depths(PEER, gone.clone());
        census.link_down(PEER);
        assert!(census.totals(&BTreeMap::new()).is_empty());
    }
}
