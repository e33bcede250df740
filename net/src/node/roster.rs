//! Who is who: every node is in the roster set for ever (until an operator forgets it), and publishes a record of itself.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use rhizomq_engine::{Epoch, Key, NodeId, Now};
use serde::{Deserialize, Serialize};

use super::{Node, Output, members::Role, networks::merging_key};

const RECORD: &str = "node/";

/// What a node publishes of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NodeRecord {
    name: String,
    site: String,
    version: String,
    epoch: Epoch,
    addresses: Vec<SocketAddr>,
    /// The name of the network whose secret is its own. Records of former versions end before it.
    #[serde(skip)]
    network: Option<u64>,
}

impl NodeRecord {
    fn encode(&self) -> Vec<u8> {
        // Strings and numbers always encode.
        postcard::to_stdvec(&(self, self.network)).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (record, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        Some(Self { network: postcard::from_bytes(rest).unwrap_or_default(), ..record })
    }
}

/// A node as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterEntry {
    /// Its id.
    pub id: NodeId,
    /// Its name for people; empty until its record arrives.
    pub name: String,
    /// Where it stands.
    pub site: String,
    /// The version of its program.
    pub version: String,
    /// What it is in the cluster.
    pub role: Role,
    /// The life it last published.
    pub epoch: Option<Epoch>,
    /// Whether this node holds it alive.
    pub alive: bool,
    /// Whether it is leaving for good.
    pub draining: bool,
    /// Whether it is linked with this node.
    pub linked: bool,
    /// Whether its registry and retired set, and the replicas that both are to hold, agreed with this node's when the two
    /// last compared; `None` for a node that is not linked, and for this one.
    pub in_sync: Option<bool>,
    /// Where it is reached.
    pub addresses: Vec<SocketAddr>,
}

/// A node as people call it: its name, if one is known, and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// For people; may be empty.
    pub name: String,
    /// See there.
    pub id: NodeId,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "{}", self.id),
            name => write!(f, "{name} ({})", self.id),
        }
    }
}

pub(super) fn roster_key() -> Key {
    Key::set("roster")
}

pub(super) fn record_key(node: NodeId) -> Key {
    Key::register(&format!("{RECORD}{node}"))
}

/// Whose record the key names, if it is a record's: `None` inside for a name that no node has.
pub(super) fn record_name(key: &Key) -> Option<Option<NodeId>> {
    key.register_name()?.strip_prefix(RECORD).map(|node| node.parse().ok())
}

/// Whose record the key names.
pub(super) fn record_of(key: &Key) -> Option<NodeId> {
    record_name(key)?
}

impl Node {
    /// All nodes ever known, this one among them.
    pub fn roster(&self) -> Vec<RosterEntry> {
        let entry = |id| {
            let record = self.record(id);
            RosterEntry {
                id,
                name: record.as_ref().map(|record| record.name.clone()).unwrap_or_default(),
                site: record.as_ref().map(|record| record.site.clone()).unwrap_or_default(),
                version: record.as_ref().map(|record| record.version.clone()).unwrap_or_default(),
                role: self.role(id),
                epoch: record.as_ref().map(|record| record.epoch),
                alive: self.is_alive(id),
                draining: self.is_draining(id),
                linked: id == self.id() || self.is_linked(id),
                in_sync: self.peers.get(&id).map(|peer| peer.in_sync),
                addresses: record.map(|record| record.addresses).unwrap_or_default(),
            }
        };
        self.roster_ids().into_iter().map(entry).collect()
    }

    /// Their ids, in order.
    pub(super) fn roster_ids(&self) -> Vec<NodeId> {
        let read = |member: &[u8]| member.try_into().ok().map(NodeId);
        self.engine.iter_members(&roster_key()).filter_map(read).collect()
    }

    /// Whether a node is in the roster.
    pub(super) fn is_in_roster(&self, node: NodeId) -> bool {
        self.engine.set_contains(&roster_key(), &node.0)
    }

    /// The node as people call it.
    pub(super) fn who(&self, node: NodeId) -> Who {
        Who { name: self.record(node).map(|record| record.name).unwrap_or_default(), id: node }
    }

    fn record(&self, node: NodeId) -> Option<NodeRecord> {
        let bytes = self.engine.registry().register(&record_key(node))?;
        NodeRecord::decode(bytes)
    }

    /// Publishes this node in its new life.
    pub(super) fn enrol(&mut self, now: Now) {
        let me = self.id();
        if !self.is_in_roster(me) && self.engine.set_add(roster_key(), me.0.to_vec()).is_ok() {
            self.changed_keys.insert(roster_key());
        }
        let record = NodeRecord {
            name: self.config.name.clone(),
            site: self.config.site.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: self.epoch(),
            addresses: self.config.addresses.clone(),
            network: Some(self.config.network.name()),
        };
        if self.engine.register_set(record_key(me), record.encode(), now).is_ok() {
            self.changed_keys.insert(record_key(me));
        }
    }

    /// Publishes this node again if something else is known of it: a record of an earlier life, written when the clock was
    /// ahead, outlasts the first try. Now it has been seen, and the next one is later.
    pub(super) fn stay_enrolled(&mut self, now: Now) {
        if self.is_off() {
            return;
        }
        let me = self.id();
        let is_known = self.record(me).is_some_and(|record| {
            record.epoch == self.epoch()
                && record.addresses == self.config.addresses
                && record.name == self.config.name
                && record.site == self.config.site
                && record.network == Some(self.config.network.name())
        });
        if !is_known && !self.engine.is_key_queued(&record_key(me)) {
            self.enrol(now);
        }
    }

    /// Tells the driver whom to dial, when that changed: all of the roster, whom this cluster is to be merged with, and who is
    /// to hear what was consumed here out of sight of a split.
    pub(super) fn dial_roster(&mut self) {
        let me = self.id();
        let others = self.roster_ids().into_iter().filter(|&id| id != me);
        let mut targets: BTreeMap<_, _> = others
            .map(|id| (id, self.published_addresses(id)))
            .filter(|(_, addresses)| !addresses.is_empty())
            .collect();
        for (node, addresses) in self.merging() {
            targets.entry(node).or_insert_with(Vec::new).extend(addresses);
        }
        targets.extend(self.to_be_told().into_iter().filter(|(_, addresses)| !addresses.is_empty()));
        if targets != self.dialled {
            self.dialled.clone_from(&targets);
            self.outputs.push_back(Output::Dial(targets.into_iter().collect()));
        }
    }

    /// Whether a registry key that changed tells of others to dial: most records are those of a new life at the old place.
    pub(super) fn tells_whom_to_dial(&self, key: &Key) -> bool {
        let is_moved = |node: NodeId| {
            self.dialled.get(&node).map(Vec::as_slice).unwrap_or_default() != self.published_addresses(node)
        };
        *key == roster_key() || *key == merging_key() || record_of(key).is_some_and(is_moved)
    }

    pub(super) fn published_addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        self.record(node).map(|record| record.addresses).unwrap_or_default()
    }

    /// The name of the network that a node has for its own, as it last published.
    pub(super) fn published_network(&self, node: NodeId) -> Option<u64> {
        self.record(node)?.network
    }

    /// Where a node stands, as it last published.
    pub(super) fn published_site(&self, node: NodeId) -> Option<String> {
        self.record(node).map(|record| record.site)
    }

    /// The life that a node last published.
    pub(super) fn published_epoch(&self, node: NodeId) -> Option<Epoch> {
        self.record(node).map(|record| record.epoch)
    }
}
