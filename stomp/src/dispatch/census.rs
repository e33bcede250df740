//! What the whole reachable cluster has: owners tell all others how full their inboxes are, edges how many consumers
//! there are. Each message is counted by its owner alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rhizomq_engine::NodeId;

use super::{
    Effect,
    msg::{Depth, DispatchMsg, Name},
};
use crate::lane;

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
    /// Messages that may not be had yet; `depth` is without them.
    pub(crate) scheduled: u64,
}

/// What one owner has of an inbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) depth: Depth,
    /// Messages of these that another node took.
    pub(crate) adopted: u64,
}

/// See the module docs.
#[derive(Default)]
pub(crate) struct Census {
    /// What all peers were told last.
    told: BTreeMap<Name, Figures>,
    told_lacking: u64,
    owners: BTreeMap<NodeId, BTreeMap<Name, Figures>>,
    /// By edge, this node's own included.
    consumers: BTreeMap<NodeId, BTreeMap<Name, u32>>,
    /// Messages that lack copies, by who looks after them.
    lacking: BTreeMap<NodeId, u64>,
    tell_at: u64,
}

impl Census {
    pub(crate) fn link_up(&mut self, peer: NodeId, out: &mut Vec<Effect>) {
        let figures: Vec<_> = self.told.iter().map(|(name, figures)| (name, Figures::default(), *figures)).collect();
        for message in messages(&figures) {
            out.push(Effect::Send { to: peer, message });
        }
        if self.told_lacking > 0 {
            out.push(Effect::Send { to: peer, message: DispatchMsg::Lacking(self.told_lacking) });
        }
    }

    pub(crate) fn link_down(&mut self, peer: NodeId) {
        self.owners.remove(&peer);
        self.consumers.remove(&peer);
        self.lacking.remove(&peer);
    }

    pub(crate) fn on_lacking(&mut self, from: NodeId, count: u64) {
        self.lacking.insert(from, count);
    }

    /// Messages of the reachable cluster that lack copies, with `own` for those that this node looks after.
    pub(crate) fn lacking(&self, own: u64) -> u64 {
        // A peer may say anything.
        self.lacking.values().fold(own, |sum, count| sum.saturating_add(*count))
    }

    pub(crate) fn on_interest(&mut self, from: NodeId, interest: &[(Name, u32)]) {
        let known = self.consumers.entry(from).or_default();
        // Members ask by another name, too, and are counted by that.
        for (name, count) in interest.iter().filter(|(name, _)| lane::asked_by_member(&name.0).is_none()) {
            if *count == 0 {
                known.remove(name);
            } else if known.len() < MAX_INBOXES {
                known.insert(name.clone(), *count);
            }
        }
    }

    pub(crate) fn on_depths(&mut self, from: NodeId, depths: Vec<(Name, Depth)>) {
        depths.into_iter().for_each(|(name, depth)| self.note(from, name, |figures| figures.depth = depth));
    }

    pub(crate) fn on_adopted(&mut self, from: NodeId, adopted: Vec<(Name, u64)>) {
        adopted.into_iter().for_each(|(name, adopted)| self.note(from, name, |figures| figures.adopted = adopted));
    }

    fn note(&mut self, from: NodeId, name: Name, change: impl FnOnce(&mut Figures)) {
        let known = self.owners.entry(from).or_default();
        let mut figures = known.get(&name).copied().unwrap_or_default();
        change(&mut figures);
        if figures == Figures::default() {
            known.remove(&name);
        } else if known.len() < MAX_INBOXES || known.contains_key(&name) {
            known.insert(name, figures);
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
        current: BTreeMap<Name, Figures>,
        lacking: u64,
        peers: &[NodeId],
        out: &mut Vec<Effect>,
    ) {
        self.tell_at = now_ms + TELL_MS;
        let names: BTreeSet<_> = self.told.keys().chain(current.keys()).collect();
        let of = |map: &BTreeMap<Name, Figures>, name| map.get(name).copied().unwrap_or_default();
        let figures = names.into_iter().map(|name| (name, of(&self.told, name), of(&current, name)));
        let mut changes = messages(&figures.collect::<Vec<_>>());
        if lacking != self.told_lacking {
            changes.push(DispatchMsg::Lacking(lacking));
        }
        for &to in peers {
            out.extend(changes.iter().map(|message| Effect::Send { to, message: message.clone() }));
        }
        (self.told, self.told_lacking) = (current, lacking);
    }

    /// How many messages of an inbox wait at other owners.
    pub(crate) fn depth_elsewhere(&self, inbox: &Arc<str>) -> u64 {
        let name = Name::from(inbox);
        self.owners.values().filter_map(|inboxes| inboxes.get(&name)).map(|figures| figures.depth.depth).sum()
    }

    /// Everything, with `own` for what this node owns.
    pub(crate) fn totals(&self, own: &BTreeMap<Name, Figures>) -> BTreeMap<Name, Total> {
        let mut totals: BTreeMap<Name, Total> = BTreeMap::new();
        for (name, figures) in self.owners.values().flatten().chain(own) {
            let total = totals.entry(queue_of(name)).or_default();
            if lane::is_scheduled(&name.0) {
                total.scheduled += figures.depth.depth;
            } else {
                total.depth += figures.depth.depth;
                total.in_flight += figures.depth.in_flight;
            }
        }
        for (name, count) in self.consumers.values().flatten() {
            totals.entry(queue_of(name)).or_default().consumers += u64::from(*count);
        }
        totals
    }

    /// By inbox: what waits that one of `nodes` took, and what others took.
    pub(crate) fn taken_by(
        &self,
        nodes: &BTreeSet<NodeId>,
        own: (NodeId, &BTreeMap<Name, Figures>),
    ) -> BTreeMap<Name, (u64, u64)> {
        let mut counts: BTreeMap<Name, (u64, u64)> = BTreeMap::new();
        for (owner, figures) in self.owners.iter().map(|(node, figures)| (*node, figures)).chain([own]) {
            for (name, Figures { depth, adopted }) in figures {
                let (by_these, by_others) = counts.entry(queue_of(name)).or_default();
                let adopted = if nodes.contains(&owner) { *adopted } else { depth.depth };
                // The two were told in two messages, and a peer may say anything.
                *by_these += depth.depth.saturating_sub(adopted);
                *by_others += adopted.min(depth.depth);
            }
        }
        counts
    }
}

/// Views of a queue, and what is told of those of its messages that wait for their time, count for the queue.
pub(super) fn queue_of(name: &Name) -> Name {
    Name(lane::shared_queue_of(&name.0))
}

/// What tells of the changes among these: a name, what was told of it, and what is so now.
fn messages(figures: &[(&Name, Figures, Figures)]) -> Vec<DispatchMsg> {
    let depths = figures.iter().filter(|(_, old, new)| old.depth != new.depth);
    let depths: Vec<_> = depths.map(|&(name, _, new)| (name.clone(), new.depth)).collect();
    let adopted = figures.iter().filter(|(_, old, new)| old.adopted != new.adopted);
    let adopted: Vec<_> = adopted.map(|&(name, _, new)| (name.clone(), new.adopted)).collect();
    let depths = depths.chunks(CHUNK).map(|chunk| DispatchMsg::Depths(chunk.to_vec()));
    depths.chain(adopted.chunks(CHUNK).map(|chunk| DispatchMsg::Adopted(chunk.to_vec()))).collect()
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
        let figures = |count| Figures { depth: depth(count), adopted: 0 };
        census.tell(0, BTreeMap::from([(name(), figures(3))]), 0, &[PEER], &mut out);
        assert_eq!(out.len(), 1);
        census.tell(1_000, BTreeMap::from([(name(), figures(3))]), 0, &[PEER], &mut out);
        assert_eq!(out.len(), 1, "nothing changed");
        census.tell(2_000, BTreeMap::new(), 0, &[PEER], &mut out);
        let Some(Effect::Send { message: DispatchMsg::Depths(gone), .. }) = out.last() else { panic!() };
        assert_eq!(gone[..], [(name(), Depth::default())]);

        census.on_depths(PEER, vec![(name(), depth(4))]);
        census.on_interest(PEER, &[(name(), 2)]);
        let total = Total { depth: 6, in_flight: 2, consumers: 2, scheduled: 0 };
        assert_eq!(census.totals(&BTreeMap::from([(name(), figures(2))])), BTreeMap::from([(name(), total)]));
        census.on_depths(PEER, gone.clone());
        census.link_down(PEER);
        assert!(census.totals(&BTreeMap::new()).is_empty());
    }

    #[test]
    fn what_lacks_copies_is_summed_over_all_who_look_after_it() {
        const OTHER: NodeId = NodeId([8; 16]);
        let (mut census, mut out) = (Census::default(), Vec::new());
        let told = |out: &mut Vec<Effect>| {
            let count = |effect| match effect {
                Effect::Send { to, message: DispatchMsg::Lacking(count) } => (to, count),
                other => panic!("{other:?}"),
            };
            out.drain(..).map(count).collect::<Vec<_>>()
        };
        census.tell(0, BTreeMap::new(), 50, &[PEER], &mut out);
        census.tell(1_000, BTreeMap::new(), 50, &[PEER], &mut out);
        assert_eq!(told(&mut out), [(PEER, 50)], "only when it changes");
        census.link_up(OTHER, &mut out);
        assert_eq!(told(&mut out), [(OTHER, 50)]);
        census.tell(2_000, BTreeMap::new(), 0, &[PEER], &mut out);
        assert_eq!(told(&mut out), [(PEER, 0)]);
        census.on_lacking(PEER, 50);
        census.on_lacking(OTHER, u64::MAX);
        assert_eq!(census.lacking(7), u64::MAX);
        census.on_lacking(OTHER, 1);
        assert_eq!(census.lacking(7), 58);
        census.link_down(PEER);
        assert_eq!(census.lacking(7), 8);
    }

    #[test]
    fn what_was_adopted_is_told_when_it_changes_and_counts_as_that_of_others() {
        const OTHER: NodeId = NodeId([8; 16]);
        let (mut census, mut out) = (Census::default(), Vec::new());
        let name = || Name("/queue/a".into());
        let figures = |depth, adopted| Figures { depth: Depth { depth, in_flight: 0 }, adopted };
        census.tell(0, BTreeMap::from([(name(), figures(5, 0))]), 0, &[PEER], &mut out);
        census.tell(1_000, BTreeMap::from([(name(), figures(5, 2))]), 0, &[PEER], &mut out);
        let [_, Effect::Send { message: DispatchMsg::Adopted(adopted), .. }] = &out[..] else { panic!("{out:?}") };
        assert_eq!(adopted[..], [(name(), 2)]);
        // Whoever comes later is told all of it.
        let mut late = Vec::new();
        census.link_up(OTHER, &mut late);
        let mut there = Census::default();
        for effect in late {
            match effect {
                Effect::Send { message: DispatchMsg::Depths(depths), .. } => there.on_depths(PEER, depths),
                Effect::Send { message: DispatchMsg::Adopted(adopted), .. } => there.on_adopted(PEER, adopted),
                other => panic!("{other:?}"),
            }
        }
        let own = BTreeMap::from([(name(), figures(7, 1))]);
        let by = |nodes: &[NodeId]| there.taken_by(&nodes.iter().copied().collect(), (OTHER, &own))[&name()];
        assert_eq!(by(&[]), (0, 12));
        assert_eq!(by(&[PEER]), (3, 9));
        assert_eq!(by(&[OTHER]), (6, 6));
        assert_eq!(by(&[PEER, OTHER]), (9, 3));
        there.on_depths(PEER, vec![(name(), Depth::default())]);
        there.on_adopted(PEER, vec![(name(), 0)]);
        assert!(there.owners[&PEER].is_empty());
    }
}
