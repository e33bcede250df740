//! What this node knows of splits: the orders, what became of each, and on which side of them it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use rhizomq_engine::{Key, NodeId, Value};
use serde::{Deserialize, Serialize};

use super::{
    Node, Output,
    marks::{Gone, back_key, cut_key, gone_key, over_key, read_id, read_member, ready_key, strayed_key},
};
use crate::{link::LinkId, rim::NetworkSecret};

const ORDER: &str = "split/order/";

/// A split, by a hash of its secret.
pub(super) type SplitId = u64;

/// The content of an order's register. It never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Split {
    pub(super) id: SplitId,
    pub(super) name: String,
    pub(super) leaving: BTreeSet<NodeId>,
    pub(super) staying: BTreeSet<NodeId>,
    /// Of those that stay, who is not waited for while it is away.
    pub(super) away: BTreeSet<NodeId>,
    pub(super) size: Option<u32>,
    /// Who they all were, since each part strikes the other one's records. Orders of former versions end before it.
    #[serde(skip)]
    pub(super) records: BTreeMap<NodeId, Called>,
}

/// A node when a split was ordered: its name, and where it was reached.
pub(super) type Called = (String, Vec<SocketAddr>);

pub(super) fn order_key(id: SplitId) -> Key {
    Key::register(&format!("{ORDER}{id:016x}"))
}

/// What has become of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    TakenBack,
    /// Weighs more than the others: who was not waited for any more may have taken it back meanwhile.
    Cut,
}

impl Split {
    /// Whether a node was of the cluster when this was ordered. Whoever came later, by a ticket or with a merge, does what
    /// those do that it came to.
    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.leaving.contains(&node) || self.staying.contains(&node)
    }

    /// Whether a node was there when this was ordered: all wait for it, wherever it is.
    pub(super) fn is_waited_for(&self, node: NodeId) -> bool {
        self.knows(node) && !self.away.contains(&node)
    }

    pub(super) fn key(&self) -> Key {
        order_key(self.id)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Ids, addresses and names always encode.
        postcard::to_stdvec(&(self, &self.records)).unwrap_or_default()
    }

    /// Reads the register's content.
    pub(super) fn of(value: &Value) -> Option<Self> {
        let (split, rest) = postcard::take_from_bytes::<Self>(value.content()?).ok()?;
        Some(Self { records: postcard::from_bytes(rest).unwrap_or_default(), ..split })
    }
}

/// See the module docs.
#[derive(Debug, Default)]
pub(in crate::node) struct Splits {
    orders: BTreeMap<SplitId, Split>,
    cut: BTreeSet<SplitId>,
    taken_back: BTreeSet<SplitId>,
    /// Who is ready for what, as far as it is on this node's disk.
    ready: BTreeSet<(SplitId, NodeId)>,
    /// The order that is being carried out.
    current: Option<Split>,
    /// Of whom there are marks in `gone`: of the part that left, of the one that stayed.
    marked: BTreeMap<SplitId, BTreeSet<bool>>,
    /// Nodes that were split off, as of splits that are not healed.
    pub(super) gone: BTreeMap<NodeId, SplitId>,
    /// The secret of the part that leaves, kept on disk: if this node is of it, or was the first to have it.
    pub(super) secret: Option<NetworkSecret>,
    /// Links that are closed when the peer has had time to read what it was told.
    pub(super) parting: BTreeMap<LinkId, Farewell>,
    /// Secrets of networks that this node was of before it left with a part, the latest first: as long as one such split is
    /// not healed.
    pub(super) former: Vec<NetworkSecret>,
    /// Nodes of the other part that have shown that they know, and when.
    pub(super) told: BTreeMap<NodeId, u64>,
    /// Splits by which this node's part left while it was not there, until it has met that part.
    pub(super) strayed: BTreeSet<SplitId>,
    /// Splits that this node had said it was ready for when its life began.
    pub(super) ready_before: BTreeSet<SplitId>,
    /// Since when this node, which has strayed, is linked with one of its part.
    pub(super) met_since: Option<u64>,
}

/// A link to a peer that is told how things stand, and nothing else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Farewell {
    pub(super) node: NodeId,
    pub(super) since: u64,
    /// What both ends log.
    pub(super) reason: &'static str,
}

impl Splits {
    pub(super) fn order(&self, id: SplitId) -> Option<&Split> {
        self.orders.get(&id)
    }

    pub(super) fn orders(&self) -> impl Iterator<Item = &Split> {
        self.orders.values()
    }

    pub(super) fn add(&mut self, split: Split) {
        self.orders.insert(split.id, split);
    }

    pub(super) fn state(&self, id: SplitId) -> State {
        match id {
            id if self.cut.contains(&id) => State::Cut,
            id if self.taken_back.contains(&id) => State::TakenBack,
            _ => State::Open,
        }
    }

    /// Whether a node has said that it is ready, and this one's disk has that.
    pub(super) fn is_ready(&self, split: &Split, node: NodeId) -> bool {
        self.ready.contains(&(split.id, node))
    }

    /// Whether there are marks of nodes of the one part: of the one that left, or of the one that stayed.
    pub(super) fn has_marks(&self, id: SplitId, of_left: bool) -> bool {
        self.marked.get(&id).is_some_and(|marked| marked.contains(&of_left))
    }
}

impl Node {
    /// The order that is being carried out.
    pub(super) fn open_split(&self) -> Option<&Split> {
        self.splits.current.as_ref()
    }

    /// What the disk has.
    pub(in crate::node) fn read_splits(&mut self, secret: Option<NetworkSecret>, former: Vec<NetworkSecret>) {
        (self.splits.secret, self.splits.former) = (secret, former);
        let keys: Vec<_> = self.engine.registry().keys().cloned().collect();
        keys.iter().for_each(|key| _ = self.note_order(key));
        self.look_at_orders();
        let ready = self.splits.orders().filter(|split| self.is_ready_for(split, self.id()));
        self.splits.ready_before = ready.map(|split| split.id).collect();
    }

    /// Takes an order in, if the key is of one. Whether it tells of splits at all.
    pub(super) fn note_order(&mut self, key: &Key) -> bool {
        let Some(name) = key.register_name() else {
            return [ready_key(), cut_key(), back_key(), gone_key(), over_key(), strayed_key()].contains(key);
        };
        let Some(id) = name.strip_prefix(ORDER).and_then(|id| SplitId::from_str_radix(id, 16).ok()) else {
            return false;
        };
        let split = self.engine.registry().get(key).and_then(Split::of);
        match split.filter(|split| split.id == id) {
            Some(split) => self.splits.add(split),
            None => return false,
        }
        true
    }

    /// What follows from orders and marks, with those of this node that wait for their commit; but it is ready when that is
    /// on its disk.
    pub(super) fn look_at_orders(&mut self) {
        let ids = |key: &Key| self.engine.iter_members(key).filter_map(read_id).collect();
        (self.splits.cut, self.splits.taken_back) = (ids(&cut_key()), ids(&back_key()));
        let ready = self.engine.registry().set_members(&ready_key());
        self.splits.ready = ready.iter().filter_map(|mark| read_member(mark)).collect();
        let strayed = self.engine.iter_members(&strayed_key()).filter_map(read_member);
        self.splits.strayed = strayed.filter(|(_, node)| *node == self.id()).map(|(id, _)| id).collect();
        self.note_gone();
        let open = || self.splits.orders().filter(|split| self.is_open(split.id));
        // Two were ordered at the same time: whoever is ready for one does nothing for the other until that is done or taken
        // back, so that no two come about; else all choose the same.
        let chosen = open().find(|split| self.is_ready_for(split, self.id())).or_else(|| open().next()).cloned();
        let is_new = |split: &Split| self.splits.current.as_ref().is_none_or(|before| before.id != split.id);
        let begins = chosen.as_ref().is_some_and(is_new);
        self.splits.current = chosen;
        let state = |secret: &NetworkSecret| self.splits.state(secret.name());
        if self.splits.secret.as_ref().is_some_and(|secret| state(secret) == State::TakenBack) {
            self.splits.secret = None;
            self.outputs.push_back(Output::Keep(None));
        }
        if begins {
            // What is taken in from now on stays within its part.
            self.engine.close_segment();
        }
        self.trust_networks();
    }

    /// Whether an order is still to be carried out.
    pub(super) fn is_open(&self, id: SplitId) -> bool {
        self.splits.state(id) == State::Open && !self.is_healed(id)
    }

    fn note_gone(&mut self) {
        let marks: Vec<_> = self.engine.iter_members(&gone_key()).filter_map(Gone::decode).collect();
        self.splits.marked.clear();
        for mark in &marks {
            self.splits.marked.entry(mark.split).or_default().insert(mark.left);
        }
        let marks = marks.iter().filter(|mark| !self.is_healed(mark.split)).map(|mark| (mark.node, mark.split));
        self.splits.gone = marks.collect();
    }

    /// On which side of a split this node is: as it was listed, else as those whose marks it has.
    pub(super) fn side_of(&self, split: &Split) -> Option<Side> {
        let me = self.id();
        let has_marks = |of_left| self.splits.has_marks(split.id, of_left);
        match () {
            () if split.leaving.contains(&me) => Some(Side::Left),
            () if split.staying.contains(&me) => Some(Side::Stayed),
            () if has_marks(false) => Some(Side::Left),
            () if has_marks(true) => Some(Side::Stayed),
            () => None,
        }
    }

    /// Whether a split is over: a merge has said so, or the marks of both parts have come together, even if the word of
    /// the merge is still on its way.
    pub(super) fn is_healed(&self, id: SplitId) -> bool {
        self.splits.has_marks(id, true) && self.splits.has_marks(id, false)
            || self.engine.set_contains(&over_key(), &id.to_le_bytes())
    }
}

/// The part of a cut cluster that a node is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Stayed,
}

/// The order of a split, as a node of the other part tells it.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn example_order() -> Vec<u8> {
    let node = |byte| NodeId([byte; 16]);
    let split = Split {
        id: 7,
        name: "west".to_owned(),
        leaving: [node(1)].into(),
        staying: [node(2), node(3)].into(),
        away: [node(3)].into(),
        size: Some(1),
        records: [(node(3), ("c".to_owned(), vec![([127, 0, 0, 1], 7).into()]))].into(),
    };
    rhizomq_engine::fuzzing::example_register(split.encode()).encode().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_outweighs_that_it_was_taken_back_meanwhile() {
        let mut splits = Splits::default();
        assert_eq!(splits.state(5), State::Open);
        splits.taken_back.insert(5);
        assert_eq!(splits.state(5), State::TakenBack);
        splits.cut.insert(5);
        assert_eq!((splits.state(5), splits.state(6)), (State::Cut, State::Open));
    }
}
