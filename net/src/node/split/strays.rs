//! Nodes that were not there when their part left: they were dead, or are restored from a backup of before.
//!
//! Such a one hears of the cut from those that it left, who can tell it no more, or from its own part. What that has consumed
//! meanwhile it does not know, and it may lack its secret. So, in the commit with which it cuts, it notes that it has *strayed*
//! (`split/strayed`), and dispatches nothing until it has been linked with its part for a while; then the rest is as with
//! any node that was away. Without the secret it takes no messages either: they would lie in a third cluster, which nobody wanted.
//!
//! The part lets it in: whoever left remembers the secrets of before, each on its own disk, as long as the split is not
//! healed. Who proves one of those and no other, is of the roster, and is listed by the split as one that leaves, is told
//! the orders and the new secret over that link, and nothing else; it comes again with that. All others are sent away.

use rhizomq_engine::{Mistake, NodeId, Now, Value};

use super::{
    Node, Split, State,
    marks::{member, strayed_key},
    orders::{Farewell, SplitId, order_key},
};
use crate::{
    link::LinkId,
    node::{Output, networks::networks_key},
    rim::{Keyring, MAX_TRUSTED, NetworkSecret},
    wire::{self, Control, Hidden},
};

/// How long a node is linked with one of its part before it takes it that the others are linked as well, or away, in
/// milliseconds: as long as any node waits after its start.
const MEETING_MS: u64 = 1_000;

/// How long a node of the other part that has shown that it knows is not let in to be told again, in milliseconds. Then it
/// may have been restored from a backup of before.
const TOLD_MS: u64 = 60_000;

/// How long one that stayed does not dial those who left, whom it has told what was consumed, in milliseconds: they may have
/// been restored as well.
const HAS_TOLD_MS: u64 = 600_000;

const READMITTED: &str =
    "the cluster was split, and this node lacked its part's secret: it has it now, and comes again with it";
const STRANGER: &str = "this cluster has another secret since it was split: join with a new ticket";

/// A node that has missed how its part left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strayed {
    /// What the part is called.
    pub name: String,
    /// The others of it, as far as this node knows.
    pub part: Vec<NodeId>,
    /// Whether this node lacks the part's secret: then it takes no messages.
    pub lacks_secret: bool,
}

impl Node {
    /// Whether this node was not there when its part left, and has not met it since: then it dispatches nothing.
    pub fn has_strayed(&self) -> bool {
        !self.splits.strayed.is_empty()
    }

    /// Whether this node may deliver what it holds, as far as splits go.
    pub fn may_serve(&self) -> bool {
        !self.has_strayed() || self.config.planted.is(Mistake::ServeAstray)
    }

    /// Whether this node was not there when its part left, and lacks its secret: then it takes no messages.
    pub fn lacks_network(&self) -> bool {
        let own = self.config.network.name();
        self.splits.strayed.iter().any(|&id| id != own && !self.is_healed(id))
    }

    /// What there is to say of that.
    pub fn strayed(&self) -> Option<Strayed> {
        let left = || self.splits.orders().find(|split| self.has_left_by(split));
        let split = self.splits.strayed.iter().find_map(|&id| self.splits.order(id).or_else(left))?;
        let part = self.roster_ids().into_iter().filter(|node| *node != self.id()).collect();
        Some(Strayed { name: split.name.clone(), part, lacks_secret: self.lacks_network() })
    }

    /// This node has cut. `is_late`: as one who learned of it from those whom it left, or alone, when all is long over perhaps.
    pub(super) fn note_if_strayed(&mut self, split: &Split, is_late: bool) {
        let has_secret = self.config.network.name() == split.id;
        if split.leaving.contains(&self.id()) && (!has_secret || is_late && !self.is_among_its_own()) {
            self.stray_from(split.id);
        }
    }

    fn stray_from(&mut self, id: SplitId) {
        self.add_to(strayed_key(), member(id, self.id()));
        self.look_at_orders();
    }

    fn is_among_its_own(&self) -> bool {
        self.peers.keys().any(|&node| self.is_in_roster(node) && !self.is_gone(node))
    }

    fn is_alone_in_its_part(&self) -> bool {
        self.roster_ids().into_iter().all(|node| node == self.id())
    }

    /// The part of upkeep of a node that has strayed.
    pub(super) fn look_for_own_part(&mut self, now: Now) {
        if !self.has_strayed() {
            return;
        }
        self.take_secret_from_registry();
        if self.lacks_network() || !self.is_among_its_own() {
            self.splits.met_since = None;
        } else {
            self.splits.met_since.get_or_insert(now.mono_ms);
        }
        let has_met = self.splits.met_since.is_some_and(|since| now.mono_ms >= since + MEETING_MS);
        // Who is its whole part, and knows that, has nobody to wait for.
        if has_met || !self.lacks_network() && self.is_alone_in_its_part() {
            self.end_straying();
        }
    }

    fn end_straying(&mut self) {
        let me = self.id();
        for id in std::mem::take(&mut self.splits.strayed) {
            if self.engine.set_remove(strayed_key(), &member(id, me)).is_ok() {
                self.changed_keys.insert(strayed_key());
            }
        }
        self.splits.met_since = None;
    }

    /// This node has the secret of its part, and is still to meet it. All earlier splits are behind it.
    fn stray_with(&mut self, secret: NetworkSecret) {
        self.end_straying();
        self.stray_from(secret.name());
        self.splits.secret = None;
        self.rekey(secret);
    }

    /// An operator has merged this node with its part, by a ticket of the secret that it has.
    fn take_secret_from_registry(&mut self) {
        if !self.lacks_network() {
            return;
        }
        let secrets = self.engine.set_members(&networks_key()).into_iter().filter_map(|secret| secret.try_into().ok());
        let of_part = |secret: &NetworkSecret| {
            let split = self.splits.order(secret.name());
            split.is_some_and(|split| split.leaving.contains(&self.id()) && *secret != self.config.network)
        };
        if let Some(secret) = secrets.map(NetworkSecret::from_bytes).find(of_part) {
            self.stray_with(secret);
            self.enter_network();
        }
    }

    /// A link to a node that knows a former secret and no other.
    pub(super) fn readmit(&mut self, now: Now, node: NodeId, link: LinkId) {
        let orders =
            self.left_with(node).filter_map(|id| Some(self.engine.newest_value(&order_key(id))?.encode().to_vec()));
        let orders: Vec<_> = orders.take(MAX_TRUSTED).collect();
        if orders.is_empty() || !self.is_in_roster(node) {
            self.outputs.push_back(Output::Close { link, reason: STRANGER.to_owned() });
            return;
        }
        let secret = Hidden(*self.config.network.as_bytes());
        let bytes = wire::control(&Control::Readmitted { orders, secret });
        self.outputs.push_back(Output::Send { link, bytes });
        self.splits.parting.insert(link, Farewell { node, since: now.mono_ms, reason: READMITTED });
    }

    /// A node of the part that this one should have left with tells how that was.
    pub(in crate::node) fn take_readmission(
        &mut self,
        now: Now,
        from: NodeId,
        orders: &[Vec<u8>],
        secret: NetworkSecret,
    ) {
        let me = self.id();
        let read = |order: &Vec<u8>| {
            let value = Value::decode(order).ok()?;
            let split = Split::of(&value)?;
            let is_ours = [me, from].iter().all(|node| split.leaving.contains(node)) && !self.is_healed(split.id);
            is_ours.then_some((split, value))
        };
        let orders: Vec<_> = orders.iter().take(MAX_TRUSTED).filter_map(read).collect();
        // The secret may be of a later split, which was healed since: the part has kept it.
        if orders.is_empty() || secret == self.config.network {
            return;
        }
        for (split, value) in orders {
            if self.splits.order(split.id).is_none() {
                self.engine.merge_registry(split.key(), &value);
                self.changed_keys.insert(split.key());
                self.splits.add(split.clone());
            }
            if self.splits.state(split.id) != State::Cut {
                self.cut(&split);
            }
            if split.id == secret.name() {
                self.keep_size_of(&split);
            }
        }
        self.stray_with(secret);
        self.replace_networks();
        self.part_from_gone(now);
        if let Some(link) = self.peers.get(&from).map(|peer| peer.link) {
            self.drop_link(link);
            self.outputs.push_back(Output::Close { link, reason: READMITTED.to_owned() });
        }
    }

    /// This node's network is another one from now on; those of before are remembered.
    pub(super) fn rekey(&mut self, secret: NetworkSecret) {
        let before = std::mem::replace(&mut self.config.network, secret.clone());
        let known = self.engine.set_members(&networks_key()).into_iter().filter_map(|secret| secret.try_into().ok());
        let known = known.map(NetworkSecret::from_bytes);
        let mut former = Vec::new();
        for other in [before].into_iter().chain(known).chain(std::mem::take(&mut self.splits.former)) {
            if other != secret && !former.contains(&other) && former.len() < MAX_TRUSTED - 1 {
                former.push(other);
            }
        }
        self.splits.former = former;
        self.outputs.push_back(Output::Former(self.splits.former.clone()));
        self.outputs.push_back(Output::Rekey(secret));
    }

    /// Whether a secret is of a network that this node was of before it left with a part.
    pub(in crate::node) fn has_given_up(&self, secret: &NetworkSecret) -> bool {
        self.splits.former.contains(secret)
    }

    /// Adds the secrets that this node had before it left with a part, for those whom it has something to tell.
    pub(in crate::node) fn with_former(&self, keyring: Keyring) -> Keyring {
        if self.splits.former.is_empty() {
            return keyring;
        }
        let own = self.roster_ids().into_iter().filter(|&node| self.left_with(node).next().is_some());
        let untold = self.gone().filter(|node| !self.splits.told.contains_key(node));
        keyring.with_former(self.splits.former.iter().cloned(), own.chain(untold))
    }

    /// A node of the other part knows: for a while it is not let in to be told again.
    pub(in crate::node) fn note_told(&mut self, now: Now, node: NodeId) {
        if self.is_gone(node) {
            self.splits.told.insert(node, now.mono_ms);
            self.trust_networks();
            self.dial_roster();
        }
    }

    /// The splits by which this node and another one left together.
    fn left_with(&self, node: NodeId) -> impl Iterator<Item = SplitId> {
        let left_together = move |split: &&Split| {
            self.splits.state(split.id) == State::Cut
                && !self.is_healed(split.id)
                && [node, self.id()].iter().all(|node| split.leaving.contains(node))
        };
        self.splits.orders().filter(left_together).map(|split| split.id)
    }

    /// The part of upkeep: when all splits by which this node left are healed, nobody is waited for any more.
    pub(super) fn look_at_former_networks(&mut self, now: Now) {
        let before = self.splits.told.len();
        let order = |node: &NodeId| self.splits.order(*self.splits.gone.get(node)?);
        let lasts = |node: &NodeId| match order(node).is_some_and(|split| self.has_left_by(split)) {
            true => TOLD_MS,
            false => HAS_TOLD_MS,
        };
        let is_over = |(node, at): &(&NodeId, &u64)| now.mono_ms >= **at + lasts(node);
        let over: Vec<_> = self.splits.told.iter().filter(is_over).map(|(node, _)| *node).collect();
        over.iter().for_each(|node| _ = self.splits.told.remove(node));
        if self.splits.told.len() < before {
            self.trust_networks();
            self.dial_roster();
        }
        let is_apart = |split: &Split| self.splits.state(split.id) == State::Cut && !self.is_healed(split.id);
        if self.splits.former.is_empty() || self.splits.orders().any(|split| is_apart(split) && self.has_left_by(split))
        {
            return;
        }
        self.splits.former.clear();
        self.outputs.push_back(Output::Former(Vec::new()));
        self.trust_networks();
    }
}
