//! Which networks are one cluster, and how two of them become it.
//!
//! - `networks`: the set of secrets that all nodes trust; each node sees to it that its own is among them
//! - `merging`: the set of nodes of other networks that are dialled although they are in no roster yet
//!
//! A merge adds the other network's secret to the one and a node of it to the other; any node of this cluster that gets
//! through to that node, at once or after days and restarts, exchanges registries with it. These unite like those of two
//! sides of a healed cut: every node then knows both secrets and every address. So there is nothing to be undone or
//! repeated, and no difference whether it is done once, twice, or from both sides. Holders are listed in the registry
//! before as after, so no message moves.
//!
//! A secret that no node of the roster has for its own any more is given up again: nodes that leave with a part of the
//! cluster have another one then, and keep it when they come back.
//!
//! A number of members that is wished for along with a merge is set when the two hold the same: then it is the newest of
//! both, whatever their clocks say. If the merge never comes about, or an operator sets another one meanwhile, it never is.

use std::{collections::BTreeMap, net::SocketAddr};

use rhizomq_engine::{Key, NodeId, Now};
use serde::{Deserialize, Serialize};

use super::{Node, Output, members::size_key};
use crate::{
    membership::{Size, SizeError},
    rim::{Keyring, MAX_TRUSTED, NetworkSecret},
    ticket::{MAX_TICKET_ADDRESSES, Ticket},
};

/// Nodes of other networks that are dialled at the same time.
const MAX_MERGING: usize = 16;

/// Between two looks for secrets that nobody has for his own, and the time after which such a one is given up, in
/// milliseconds. Registries of clusters that meet unite key by key, so for moments it may seem so.
const LOOK_MS: u64 = 60_000;
const UNUSED_MS: u64 = 600_000;

/// Secrets of the set `networks` that seem to be nobody's, by the names of the networks, and since when.
#[derive(Debug, Default)]
pub(super) struct Unused {
    looked_at: u64,
    since: BTreeMap<u64, u64>,
}

/// What a merge has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merging {
    /// The node of the other network that is dialled.
    pub node: NodeId,
    /// Where.
    pub addresses: Vec<SocketAddr>,
    /// It is in the roster already: the two are one cluster.
    pub already: bool,
}

/// Why nothing is merged; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A ticket of the node itself.
    #[error("this ticket was printed by the node that is asked; give it one that a node of the other cluster printed")]
    OwnNode,
    /// Its network is this one.
    #[error(
        "this ticket is of the network that this node is in: there is nothing to merge. A new node joins it with `rhizomq \
         serve --join`; to merge, print a ticket at a node of the other cluster"
    )]
    OwnNetwork,
    /// A node of the part that this one's left, which lets nobody in that was split off.
    #[error(
        "this node's part was split off from that of the ticket's node, which lets nobody in that left; merge the other way \
         round: with a ticket that `rhizomq ticket` prints here, on a node that stayed"
    )]
    SplitOff,
    /// The keyring is full.
    #[error("{MAX_TRUSTED} networks were merged into this cluster already, more can't be")]
    TooManyNetworks,
    /// Too many merges that have not come about.
    #[error(
        "{MAX_MERGING} nodes of other networks are being dialled and have not answered; `rhizomq status` names them, and \
         `rhizomq node forget ID` gives one up"
    )]
    TooManyMerges,
    /// A number of members that can't be.
    #[error(transparent)]
    Size(#[from] SizeError),
}

/// A member of the set `merging`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Target {
    node: NodeId,
    addresses: Vec<SocketAddr>,
    /// The policy for the number of members that is to be set when the two are one, and who was asked for it: it alone sets
    /// it, so that nobody who hears of the merge late undoes what was set after it.
    size: Option<(String, NodeId)>,
    /// The name of its network, whose secret is trusted meanwhile.
    network: Option<u64>,
}

impl Target {
    /// Whether a node has to set a policy when this is reached.
    fn is_for(&self, node: NodeId) -> bool {
        self.size.as_ref().is_some_and(|(_, asked)| *asked == node)
    }

    fn encode(&self) -> Vec<u8> {
        // Numbers, addresses and a short text always encode.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Those of former versions end after the addresses.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let ((node, addresses), rest) = postcard::take_from_bytes(bytes).ok()?;
        let (size, network) = postcard::from_bytes(rest).unwrap_or_default();
        Some(Self { node, addresses, size, network })
    }
}

pub(super) fn networks_key() -> Key {
    Key::set("networks")
}

pub(super) fn merging_key() -> Key {
    Key::set("merging")
}

/// The secrets that a registry tells of, with a node's own first, and then the one that it is about to have, if it leaves
/// with a part of a cluster: what it can trust before it is there itself. Where there are too many, all nodes choose the
/// same.
pub fn trusted_networks(engine: &rhizomq_engine::Engine, own: NetworkSecret, next: Option<NetworkSecret>) -> Keyring {
    let mut others: Vec<[u8; 32]> =
        engine.set_members(&networks_key()).into_iter().filter_map(|secret| secret.try_into().ok()).collect();
    others.sort_unstable();
    Keyring::new(own, next.into_iter().chain(others.into_iter().map(NetworkSecret::from_bytes)))
}

impl Node {
    /// Makes this cluster and that of the ticket one, from the next commit on, without waiting for anybody. `size` is the
    /// policy for the number of members when they are one.
    ///
    /// # Errors
    /// The ticket is of this network, there are too many, or no cluster can be of that size.
    pub fn merge(&mut self, now: Now, ticket: &Ticket, size: Option<&Size>) -> Result<Merging, MergeError> {
        size.map_or(Ok(()), Size::check)?;
        let addresses: Vec<_> = ticket.addresses.iter().take(MAX_TICKET_ADDRESSES).copied().collect();
        let already = self.is_met(ticket.node);
        let merging = Merging { node: ticket.node, addresses: addresses.clone(), already };
        if ticket.node == self.id() {
            return Err(MergeError::OwnNode);
        }
        // Where each part left the other one, by two splits, the ticket's secret is none that was known here before.
        if self.has_left(ticket.node) && self.has_given_up(&ticket.secret) {
            return Err(MergeError::SplitOff);
        }
        let was_split_off = self.is_gone(ticket.node);
        // One that was forgotten, or was split off without ever getting its part's secret, has this network and is not known.
        if ticket.secret == self.config.network && already && !was_split_off {
            return Err(MergeError::OwnNetwork);
        }
        let networks = self.engine.set_members(&networks_key());
        let is_trusted = networks.iter().any(|secret| secret == ticket.secret.as_bytes());
        if !is_trusted && networks.len() >= MAX_TRUSTED {
            return Err(MergeError::TooManyNetworks);
        }
        let targets = self.targets();
        if let Some(size) = size.filter(|_| already) {
            self.forget_sizes_of_merges();
            self.write_register(size_key(), size.to_string().into_bytes(), now);
        }
        let size = size.map(|size| (size.to_string(), self.id()));
        let target = Target { node: ticket.node, addresses, size, network: Some(ticket.secret.name()) };
        if !already && !targets.contains(&target) {
            if targets.len() >= MAX_MERGING {
                return Err(MergeError::TooManyMerges);
            }
            // Of one node's wishes the last one counts.
            let me = self.id();
            let is_replaced = |other: &&Target| other.node == target.node && other.is_for(me);
            targets.iter().filter(is_replaced).for_each(|other| self.strike_target(&other.encode()));
            self.add_to(merging_key(), target.encode());
        }
        if !is_trusted {
            self.add_to(networks_key(), ticket.secret.as_bytes().to_vec());
        }
        self.finish(now);
        Ok(merging)
    }

    /// Nodes of other networks that are dialled to merge with them and were not reached yet.
    pub fn merging(&self) -> Vec<(NodeId, Vec<SocketAddr>)> {
        self.pending().map(|target| (target.node, target.addresses)).collect()
    }

    /// Whether an operator wants this cluster and that of a node to be one, and it has not been reached yet.
    pub(super) fn is_merging_with(&self, node: NodeId) -> bool {
        self.pending().any(|target| target.node == node)
    }

    /// Those of the targets that are no part of this cluster yet.
    fn pending(&self) -> impl Iterator<Item = Target> {
        self.targets().into_iter().filter(|target| !self.is_met(target.node))
    }

    /// Whether a node is in the roster and has said where it is reached. The roster alone may be on a disk whose node died
    /// before the rest was, and nobody would be dialled by it.
    fn is_met(&self, node: NodeId) -> bool {
        self.is_in_roster(node) && self.published_epoch(node).is_some()
    }

    pub(super) fn add_to(&mut self, set: Key, member: Vec<u8>) {
        // A set of this node's own making, under a lawful name: only a size beyond all bounds is refused, and the limits
        // here are far below.
        if self.engine.set_add(set.clone(), member).is_ok() {
            self.changed_keys.insert(set);
        }
    }

    fn targets(&self) -> Vec<Target> {
        let members = self.engine.set_members(&merging_key());
        members.iter().filter_map(|member| Target::decode(member)).collect()
    }

    /// The part of a beginning: this node's own network is one of the cluster's.
    pub(super) fn enter_network(&mut self) {
        let own = self.config.network.as_bytes().to_vec();
        if !self.hides_network() && !self.engine.set_members(&networks_key()).contains(&own) {
            self.add_to(networks_key(), own);
        }
        self.trust_networks();
    }

    /// A registry key changed: follow it if it tells of networks.
    pub(super) fn note_networks(&mut self, key: &Key) {
        if *key != networks_key() {
            return;
        }
        // A part that left, and is back, had given the networks up that it knew; but for one who is about to leave, this
        // node sees to its own.
        let own = self.config.network.as_bytes();
        if self.next_network().is_none() && !self.hides_network() && !self.engine.set_contains(key, own) {
            self.add_to(networks_key(), own.to_vec());
        }
        self.trust_networks();
    }

    /// Of all networks only this node's is left. Merges that were ordered before are the other part's.
    pub(super) fn replace_networks(&mut self) {
        for target in self.engine.set_members(&merging_key()) {
            self.strike_target(&target);
        }
        let own = self.config.network.as_bytes().to_vec();
        for secret in self.engine.set_members(&networks_key()) {
            if secret != own && self.engine.set_remove(networks_key(), &secret).is_ok() {
                self.changed_keys.insert(networks_key());
            }
        }
        self.enter_network();
    }

    pub(super) fn trust_networks(&mut self) {
        let (own, next) = (self.config.network.clone(), self.next_network().cloned());
        let keyring = self.with_former(trusted_networks(&self.engine, own, next));
        if self.trusted.as_ref() != Some(&keyring) {
            self.trusted = Some(keyring.clone());
            self.outputs.push_back(Output::Trust(keyring));
        }
    }

    /// A node has the same registry as this one: what this one was to set when they are one cluster is set now. If who was
    /// asked has left for good meanwhile, somebody else does it.
    pub(super) fn set_size_of_merge(&mut self, now: Now, with: NodeId) {
        let targets = self.targets();
        if targets.is_empty() {
            return;
        }
        let (me, network) = (self.id(), self.published_network(with));
        let is_due = |target: &Target| {
            let is_of_its = target.network.is_some() && target.network == network;
            let is_mine = target.is_for(me) || self.inherits(target);
            is_mine && (target.node == with || is_of_its && self.is_in_roster(target.node))
        };
        for target in targets.into_iter().filter(is_due).collect::<Vec<_>>() {
            if let Some((size, _)) = &target.size {
                self.write_register(size_key(), size.clone().into_bytes(), now);
            }
            self.strike_target(&target.encode());
        }
    }

    /// Whether this node has to see to the wish of one that is on the roster no more: the first that is alive has.
    fn inherits(&self, target: &Target) -> bool {
        let is_heir = || self.roster_ids().into_iter().find(|node| self.is_alive(*node)) == Some(self.id());
        target.size.as_ref().is_some_and(|(_, asked)| !self.is_in_roster(*asked)) && is_heir()
    }

    /// An operator has said a newer word about the size than those that merges were ordered with.
    pub(super) fn forget_sizes_of_merges(&mut self) {
        for target in self.targets().into_iter().filter(|target| target.size.is_some()) {
            self.strike_target(&target.encode());
            if !self.is_met(target.node) {
                self.add_to(merging_key(), Target { size: None, ..target }.encode());
            }
        }
    }

    /// The part of upkeep: who has come into the roster is dialled as everybody there is.
    pub(super) fn end_merges(&mut self) {
        let members = self.engine.set_members(&merging_key());
        if members.is_empty() {
            return;
        }
        let is_over = |member: &Vec<u8>| {
            Target::decode(member).is_none_or(|target| self.is_met(target.node) && target.size.is_none())
        };
        let over: Vec<_> = members.iter().filter(|member| is_over(member)).collect();
        over.into_iter().for_each(|member| self.strike_target(member));
    }

    /// The part of upkeep: secrets that nobody has for his own, and has not had for long, are given up.
    pub(super) fn give_up_networks(&mut self, now: Now) {
        if now.mono_ms < self.unused.looked_at + LOOK_MS {
            return;
        }
        self.unused.looked_at = now.mono_ms;
        let secrets = self.engine.set_members(&networks_key());
        let unused = if secrets.len() > 1 { self.unused_of(secrets) } else { BTreeMap::new() };
        self.unused.since.retain(|name, _| unused.contains_key(name));
        for (name, secret) in unused {
            let since = *self.unused.since.entry(name).or_insert(now.mono_ms);
            if now.mono_ms >= since + UNUSED_MS && self.engine.set_remove(networks_key(), secret.as_bytes()).is_ok() {
                self.changed_keys.insert(networks_key());
            }
        }
    }

    /// Those of the secrets that nobody has for his own, as far as is known here: none, unless all in the roster have said
    /// which theirs is.
    fn unused_of(&self, secrets: Vec<Vec<u8>>) -> BTreeMap<u64, NetworkSecret> {
        let named = secrets.into_iter().filter_map(|secret| secret.try_into().ok()).map(NetworkSecret::from_bytes);
        let mut unused: BTreeMap<_, _> = named.map(|secret| (secret.name(), secret)).collect();
        let others = self.roster_ids().into_iter().filter(|node| *node != self.id());
        let published: Option<Vec<u64>> = others.map(|node| self.published_network(node)).collect();
        let awaited: Option<Vec<u64>> = self.targets().into_iter().map(|target| target.network).collect();
        let (Some(published), Some(awaited)) = (published, awaited) else { return BTreeMap::new() };
        let own = [Some(&self.config.network), self.next_network()];
        let own = own.into_iter().flatten().map(NetworkSecret::name);
        published.into_iter().chain(awaited).chain(own).for_each(|name| _ = unused.remove(&name));
        unused
    }

    /// Dials a node no more that was to be merged with. Whether it was dialled.
    pub(super) fn give_up_merge(&mut self, node: NodeId) -> bool {
        let members = self.engine.set_members(&merging_key());
        let is_it = |member: &Vec<u8>| Target::decode(member).is_some_and(|target| target.node == node);
        let given_up: Vec<_> = members.into_iter().filter(is_it).collect();
        given_up.iter().for_each(|member| self.strike_target(member));
        !given_up.is_empty()
    }

    fn strike_target(&mut self, member: &[u8]) {
        if self.engine.set_remove(merging_key(), member).is_ok() {
            self.changed_keys.insert(merging_key());
        }
    }
}
