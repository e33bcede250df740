//! Who holds a segment: its origin, and others by rendezvous hashing, written to the registry before the first byte
//! goes there. Sticky: a holder that is away stays one, and gets a successor beside it after a while.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use rhizomq_engine::{Engine, Epoch, Key, Mistake, NodeId, Now, SegmentId, Value};

use super::{
    Node,
    sites::{Outsider, Shape, choose},
};

const HOLDERS: &str = "holders/";
const LEAVING: &str = "leaving/";

/// Holders by segment, as the registry has them.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// In order of precedence.
    holders: BTreeMap<SegmentId, Vec<NodeId>>,
    leaving: BTreeMap<SegmentId, BTreeSet<NodeId>>,
    /// Since when a holder is not seen alive, or does not keep up.
    pub(super) away_since: BTreeMap<NodeId, u64>,
}

impl Holders {
    /// In order of precedence: the origin, then the rest in rendezvous order.
    pub(super) fn of(&self, segment: SegmentId) -> &[NodeId] {
        self.holders.get(&segment).map(Vec::as_slice).unwrap_or_default()
    }

    /// Segments whose holders are noted.
    pub(super) fn segments(&self) -> impl Iterator<Item = SegmentId> {
        self.holders.keys().copied()
    }

    /// Segments that list the node as a holder.
    pub(super) fn listing(&self, node: NodeId) -> Vec<SegmentId> {
        self.holders.iter().filter(|(_, nodes)| nodes.contains(&node)).map(|(segment, _)| *segment).collect()
    }

    /// Segments of a life that are over and whose holders are still noted.
    pub(super) fn obsolete(&self, node: NodeId, epoch: Epoch, engine: &Engine) -> Vec<SegmentId> {
        let of_life = |number| SegmentId { node, epoch, number };
        let all = of_life(0)..=of_life(u32::MAX);
        let named = self.holders.range(all.clone()).map(|(id, _)| *id);
        let named: BTreeSet<_> = named.chain(self.leaving.range(all).map(|(id, _)| *id)).collect();
        named.into_iter().filter(|id| is_over(engine, *id)).collect()
    }

    /// Who else holds what these nodes took, by node.
    pub(super) fn backups_of(&self, origins: &BTreeSet<NodeId>) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
        let mut backups: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
        let theirs = self.holders.iter().filter(|(segment, _)| origins.contains(&segment.node));
        for (segment, nodes) in theirs {
            backups.entry(segment.node).or_default().extend(nodes.iter().filter(|node| **node != segment.node));
        }
        backups
    }

    pub(super) fn has(&self, segment: SegmentId, node: NodeId) -> bool {
        self.of(segment).contains(&node)
    }

    /// Segments whose lists a node has declared to leave.
    pub(super) fn left_by(&self, node: NodeId) -> impl Iterator<Item = SegmentId> {
        self.leaving.iter().filter(move |(_, nodes)| nodes.contains(&node)).map(|(segment, _)| *segment)
    }

    /// Whether a holder has declared that it leaves: it vouches for nobody.
    pub(super) fn is_leaving(&self, segment: SegmentId, node: NodeId) -> bool {
        self.leaving.get(&segment).is_some_and(|nodes| nodes.contains(&node))
    }
}

/// Key of the set of a segment's holders.
pub(super) fn holders_key(segment: SegmentId) -> Key {
    Key::set(&format!("{HOLDERS}{segment}"))
}

/// Key of the set of holders that are leaving.
pub(super) fn leaving_key(segment: SegmentId) -> Key {
    Key::set(&format!("{LEAVING}{segment}"))
}

/// Weight of a node for a segment: highest random weight wins (Thaler and Ravishankar, 1998).
pub(super) fn weight(segment: SegmentId, node: NodeId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(segment.to_string().as_bytes()).update(&node.0);
    *hasher.finalize().as_bytes()
}

/// Which of two segment sets a key names, and of which segment.
fn parse(key: &Key) -> Option<(bool, SegmentId)> {
    let name = key.set_name()?;
    let (is_holders, text) = match name.strip_prefix(HOLDERS) {
        Some(text) => (true, text),
        None => (false, name.strip_prefix(LEAVING)?),
    };
    let dot: rhizomq_engine::Dot = format!("{text}-1").parse().ok()?;
    Some((is_holders, dot.segment))
}

/// Whether a segment has no list of holders any more: it is finished or folded. What a node enters into its retired set
/// all others do, so this comes out the same everywhere in the end, whoever keeps a replica.
fn is_over(engine: &Engine, segment: SegmentId) -> bool {
    engine.is_finished(segment) || engine.retired().contains(segment)
}

fn by_precedence(segment: SegmentId, mut nodes: Vec<NodeId>) -> Vec<NodeId> {
    nodes.sort_by_cached_key(|&node| (node != segment.node, std::cmp::Reverse(weight(segment, node))));
    nodes
}

fn nodes_of<'a>(members: impl Iterator<Item = &'a [u8]>) -> BTreeSet<NodeId> {
    members.filter_map(|member| member.try_into().ok().map(NodeId)).collect()
}

impl Node {
    /// Who may own a segment's messages, in order of precedence: its origin, then the other holders. An origin that has
    /// given its replica up comes last.
    pub fn candidates(&self, segment: SegmentId) -> Vec<NodeId> {
        // What a node of another part took is nobody's here.
        if self.is_gone(segment.node) {
            return vec![segment.node];
        }
        let mut nodes = self.holders_of(segment).into_owned();
        if nodes.first() != Some(&segment.node) {
            nodes.push(segment.node);
        }
        nodes
    }

    /// Who is to keep a replica, in order of precedence: who is listed. Of a segment that turned up again after it was
    /// folded there is no list any more, and every node is that is not of another part than its origin.
    pub(super) fn holders_of(&self, segment: SegmentId) -> Cow<'_, [NodeId]> {
        if self.engine.retired().folded(segment).is_none() {
            return Cow::Borrowed(self.holders.of(segment));
        }
        let holders = self.roster_ids().into_iter().filter(|&node| !self.is_foreign(segment, node));
        Cow::Owned(by_precedence(segment, holders.collect()))
    }

    /// Whether the node is to keep a replica.
    pub(super) fn holds(&self, segment: SegmentId, node: NodeId) -> bool {
        self.holders.has(segment, node)
            || self.engine.retired().folded(segment).is_some() && !self.is_foreign(segment, node)
    }

    /// Waiting messages on segments that this node looks after with fewer than the wanted number of replicas alive.
    pub fn under_replicated(&self) -> u64 {
        let roster = self.roster_ids();
        // Others' are passed over first: it is asked every second, and there may be many of them.
        let mine = self.engine.segments().filter(|&segment| self.looks_after(segment));
        let lacking = mine.map(|segment| {
            let counts = |node: NodeId| !self.is_draining(node) && !self.is_foreign(segment, node);
            let wanted = (self.config.copies as usize).min(roster.iter().filter(|&&node| counts(node)).count());
            let waiting = self.engine.waiting_in(segment);
            let has_all = |node: NodeId| {
                node == self.id() || self.confirms.has(node, segment).is_some_and(|has| waiting.is_subset(has))
            };
            let complete = |&&node: &&NodeId| self.is_alive(node) && counts(node) && has_all(node);
            let is_lacking = self.holders_of(segment).iter().filter(complete).count() < wanted;
            if is_lacking { waiting.len() } else { 0 }
        });
        lacking.sum()
    }

    /// Whether this node is the first candidate alive.
    pub(super) fn looks_after(&self, segment: SegmentId) -> bool {
        self.candidates(segment).into_iter().find(|&node| self.is_alive(node)) == Some(self.id())
    }

    /// Whether the key belongs to a segment that is over, or to a node that was forgotten, and must not come back.
    pub(super) fn is_forgotten(&self, key: &Key) -> bool {
        parse(key).is_some_and(|(_, segment)| is_over(&self.engine, segment)) || self.is_stale_record(key)
    }

    pub(super) fn read_holders(&mut self) {
        let keys: Vec<Key> = self.engine.registry().keys().cloned().collect();
        keys.iter().for_each(|key| self.note_holders(key));
    }

    /// A registry key was committed: follow it if it tells of holders. Whoever is named in a change that still waits for its
    /// commit gets nothing yet: he would have it before he can hear that he is to keep it, and give it up again.
    pub(super) fn note_holders(&mut self, key: &Key) {
        let Some((is_holders, segment)) = parse(key) else { return };
        let committed = self.engine.registry().get(key).into_iter().flat_map(Value::iter_members);
        self.follow_holders(is_holders, segment, nodes_of(committed));
    }

    fn follow_holders(&mut self, is_holders: bool, segment: SegmentId, nodes: BTreeSet<NodeId>) {
        self.members.mark_dirty();
        if is_holders {
            self.hurry_new_holders(segment, &nodes);
            let nodes = by_precedence(segment, nodes.into_iter().collect());
            self.holders.holders.insert(segment, nodes);
        } else {
            self.holders.leaving.insert(segment, nodes);
        }
        if is_over(&self.engine, segment) {
            self.forget_holders(segment);
        }
    }

    /// Holders that are new on the list hear at the next opportunity what there is for them.
    fn hurry_new_holders(&mut self, segment: SegmentId, nodes: &BTreeSet<NodeId>) {
        if !self.engine.has_replica(segment) {
            return;
        }
        let new: Vec<_> = nodes.iter().copied().filter(|&node| !self.holders.has(segment, node)).collect();
        for node in new {
            self.sync_soon(node, 0);
        }
    }

    /// The segment is over: its keys go, everywhere.
    pub(super) fn forget_holders(&mut self, segment: SegmentId) {
        self.engine.unregister(holders_key(segment));
        self.engine.unregister(leaving_key(segment));
        self.holders.holders.remove(&segment);
        self.holders.leaving.remove(&segment);
    }

    /// Holders of a segment about to be opened here, in the same commit as its first block.
    pub(super) fn choose_holders(&mut self, segment: SegmentId) {
        let mut nodes = vec![self.id()];
        nodes.extend(self.outsiders_for(segment, &nodes, self.shape(), &nodes));
        for node in nodes {
            self.add_holder(segment, node);
        }
        self.follow_holders(true, segment, self.named(segment));
    }

    /// Live nodes that are not named holders of the segment, as many as it takes to give those that `stay` a shape, best
    /// first.
    pub(super) fn outsiders_for(
        &self,
        segment: SegmentId,
        named: &[NodeId],
        shape: Shape,
        stay: &[NodeId],
    ) -> Vec<NodeId> {
        let outsiders = self.outsiders(segment, named).collect();
        choose(shape, &self.place_of(segment.node), &self.places_of(stay), outsiders)
    }

    fn outsiders(&self, segment: SegmentId, named: &[NodeId]) -> impl Iterator<Item = Outsider> {
        let candidates = self.linked().into_iter().chain([self.id()]);
        let may =
            move |&node: &NodeId| !named.contains(&node) && !self.is_draining(node) && !self.is_foreign(segment, node);
        candidates.filter(may).map(move |node| Outsider {
            node,
            site: self.place_of(node),
            keeps_up: self.keeps_up(node),
            is_observer: !self.members().members.contains(&node),
            weight: weight(segment, node),
        })
    }

    pub(super) fn add_holder(&mut self, segment: SegmentId, node: NodeId) {
        let key = holders_key(segment);
        if self.engine.set_add(key.clone(), node.0.to_vec()).is_ok() {
            self.changed_keys.insert(key);
        }
    }

    /// Holders by name, with changes that still wait for their commit.
    pub(super) fn named(&self, segment: SegmentId) -> BTreeSet<NodeId> {
        nodes_of(self.engine.iter_members(&holders_key(segment)))
    }

    /// Whether the node can be sent to, stores what it is sent, and is not about to leave.
    pub(super) fn keeps_up(&self, node: NodeId) -> bool {
        node == self.id() || (self.peers.get(&node).is_some_and(super::peer::Peer::keeps_up) && !self.is_draining(node))
    }

    /// Names more holders at once, so that a message can be confirmed on `wanted` disks of `sites` sites: who is listed is
    /// not there. Near ones if that is enough.
    pub(super) fn recruit(&mut self, segment: SegmentId, wanted: usize, sites: usize) {
        if is_over(&self.engine, segment) {
            return;
        }
        let named: Vec<_> = self.named(segment).into_iter().collect();
        let present: Vec<_> = named.iter().copied().filter(|&node| self.keeps_up(node)).collect();
        let outsiders = self.outsiders(segment, &named).filter(|one| one.keeps_up).collect();
        let shape = Shape { copies: wanted, home: wanted, sites };
        for node in choose(shape, &self.place_of(segment.node), &self.places_of(&present), outsiders) {
            self.add_holder(segment, node);
        }
    }

    /// Names this node a holder of what it alone is known to have: bodies of a segment of which no listed holder lives.
    fn adopt_orphans(&mut self) {
        let me = self.id();
        let is_orphan = |segment: &SegmentId| {
            let holders = self.named(*segment);
            !is_over(&self.engine, *segment)
                && !self.is_gone(segment.node)
                && !self.engine.waiting_in(*segment).is_empty()
                && !holders.contains(&me)
                && !holders.iter().chain([&segment.node]).any(|&node| self.is_alive(node))
        };
        for segment in self.engine.segments().filter(is_orphan).collect::<Vec<_>>() {
            self.add_holder(segment, me);
        }
    }

    /// Names successors for holders that stay away, for the segments that this node looks after.
    pub(super) fn place(&mut self, now: Now) {
        self.adopt_orphans();
        // A holder can be known before the roster tells of it, and die in between.
        let mut nodes: BTreeSet<_> = self.roster_ids().into_iter().collect();
        nodes.extend(self.holders.holders.values().flatten());
        for node in nodes {
            let lags = self.is_linked(node) && !self.keeps_up(node);
            if self.is_alive(node) && !lags {
                self.holders.away_since.remove(&node);
            } else {
                self.holders.away_since.entry(node).or_insert(now.mono_ms);
            }
        }
        self.spread_next_segment();
        let is_mine = |&segment: &SegmentId| self.looks_after(segment) && !is_over(&self.engine, segment);
        let segments: Vec<_> = self.engine.segments().filter(is_mine).collect();
        for segment in segments {
            // What is committed and what waits for its commit: a successor is named once.
            let named = self.named(segment);
            let stays = |node: &&NodeId| {
                let since = self.holders.away_since.get(node);
                let gone = since.is_some_and(|since| now.mono_ms >= since + self.config.timing.successor_ms);
                !gone && !self.goes(segment, **node)
            };
            let stay: Vec<_> = named.iter().copied().filter(|node| stays(&node)).collect();
            let named: Vec<_> = named.into_iter().collect();
            let is_anew = self.config.planted.is(Mistake::PlaceAnew);
            let (named, stay) = if is_anew { (vec![segment.node], vec![segment.node]) } else { (named, stay) };
            let shape = self.shape();
            // No more sites than there were: what is there stays where it is. And receipts are near while there are any.
            let home = if self.engine.open_segment() == Some(segment) { shape.home } else { 0 };
            let shape = Shape { home, sites: shape.sites.min(self.count_sites(&named)), ..shape };
            for node in self.outsiders_for(segment, &named, shape, &stay) {
                self.add_holder(segment, node);
            }
        }
    }
}
