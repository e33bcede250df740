//! What `rhizomq status --json` shows: one object. Its names are a contract that tools rely on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rhizomq_engine::{NodeId, Unaccounted};
use rhizomq_net::{DrainStage, DrainStatus, Parted, SplitStatus, Strayed};
use serde::Serialize;

use crate::policies::Policy;

/// A node's view of itself and the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Id of the node that answers.
    pub node: String,
    /// All nodes it has ever heard of, itself included, by id.
    pub nodes: Vec<NodeStatus>,
    /// How many of them are members, and which view of that the answering node has.
    pub members: MembersStatus,
    /// How far the answering node is with leaving for good; `null` if it is not.
    pub draining: Option<DrainingStatus>,
    /// Queues of the reachable cluster, by name.
    pub queues: Vec<QueueStatus>,
    /// Deliveries by this node, since its start, that may have been second ones: after a takeover or a lost link.
    pub duplicates: u64,
    /// Waiting messages of the reachable cluster that lack copies, each counted by the node that looks after it. What others
    /// look after is as they told within the last second.
    pub under_replicated: u64,
    /// Sites of the live nodes, and where the copies of waiting messages lie that this node looks after.
    pub sites: Vec<SiteStatus>,
    /// Of these, messages with copies on one site only, although there are several and more than one copy is wanted.
    pub on_one_site: u64,
    /// Hex; equal on two nodes that see the same nodes alive exactly when their registries, their retired sets and the
    /// segments that all live nodes are to hold are equal. Of those that only some hold, `in_sync` tells pair by pair.
    pub digest: String,
    /// Messages of topics that this node dropped, since its start, because a subscriber did not keep up.
    pub topic_drops: u64,
    /// How far the split of this cluster is that an operator has ordered.
    pub splitting: Option<SplittingStatus>,
    /// Whether the answering node's part left a cluster without it, and is still to be found; `null` if not.
    pub strayed: Option<StrayedStatus>,
    /// Splits that are done and that no merge has healed.
    pub parted: Vec<PartedStatus>,
    /// Nodes that were split off from this cluster and have not been merged with again.
    pub split_off: Vec<String>,
    /// Messages on the answering node's disk that those took, counted nowhere else: they belong to the other part, nobody here
    /// delivers them, and a merge with it brings them back. A node has such if it was away during the split.
    pub kept_of_split_off: u64,
    /// Nodes of other networks that `merge` named and that no node of this cluster has reached yet.
    pub merging: Vec<MergingStatus>,
    /// What was found broken on this node's disk since its process started.
    pub damage: DamageStatus,
    /// How this node's store fares.
    pub store: StoreStatus,
    /// Memory for what was read from disk.
    pub memory: MemoryStatus,
}

/// A durable subscription of topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SubscriptionStatus {
    /// What it is called on all nodes.
    pub name: String,
    /// The topics or patterns that it is bound to, as destinations.
    pub topics: Vec<String>,
    /// Messages that wait for it in the reachable cluster, those with consumers included.
    pub waiting: u64,
    /// Of these, messages that consumers hold.
    pub in_flight: u64,
    /// Who reads it now.
    pub consumers: u64,
    /// Messages that wait for their time, besides.
    pub scheduled: u64,
    /// Selectors of its bindings, where there are any.
    pub selectors: Vec<String>,
}

/// A message that is to be sent at times of its own, or to a topic later on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobStatus {
    /// 16 hex digits; the same from its first time to its last. What comes of a `cron` entry with a delay or period has ids of
    /// its own, one for each time of the entry.
    pub id: String,
    /// Where its message goes.
    pub destination: String,
    /// When it is due next, in ms since 1970.
    pub next_ms: u64,
    /// Whether those who have it can read it. If not, the rest is `null`.
    pub readable: bool,
    /// That of its message.
    pub priority: Option<u8>,
    /// ms between one time and the next; `null` if it is not repeated.
    pub period_ms: Option<u64>,
    /// How often it is repeated after the next time, or after each time of `cron`; `null`: for ever.
    pub repeat: Option<u64>,
    /// The entry that tells its times; `null` without one.
    pub cron: Option<String>,
    /// Nodes that said they have it.
    pub holders: Vec<String>,
}

/// Jobs of all nodes that were heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobsStatus {
    /// The first one that is due comes first.
    pub jobs: Vec<JobStatus>,
    /// About so many more wait.
    pub more: u64,
    /// Nodes of the cluster that were not heard: jobs may wait there that nobody else has.
    pub unheard: Vec<String>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyStatus {
    /// Which destinations it is for.
    pub pattern: String,
    /// What is to hold; what it does not say is left out.
    pub policy: Policy,
}

/// A user, without anything that would help to be taken for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UserStatus {
    /// What it is called.
    pub name: String,
    /// Whether it can log in with a passcode.
    pub passcode: bool,
    /// Whether it can log in with a certificate of that name.
    pub certificate: bool,
    /// What it may do. Of several statements, made at places that did not know of each other, only what each grants counts.
    pub permissions: Vec<UserAccess>,
}

/// Patterns of destinations, by what may be done there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UserAccess {
    /// SUBSCRIBE.
    pub read: Vec<String>,
    /// SEND.
    pub write: Vec<String>,
    /// Making and deleting durable subscriptions.
    pub manage: Vec<String>,
}

/// Who is a member, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MembersStatus {
    /// A hash of the members: equal on two nodes exactly when they elect the same.
    pub view: String,
    /// How many there are to be among the nodes within reach; with fewer nodes all are.
    pub size: u32,
    /// How many live ones there are now, as the answering node sees it.
    pub present: u32,
    /// Why so many: `5`, `negotiate`, or `preset` with its rules.
    pub policy: String,
}

/// A node that leaves for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DrainingStatus {
    /// `handing over`: copies are made elsewhere; `leaving`: they are, and its own go; `going`: it holds nothing, and the
    /// others are told; `left`: the process is about to end.
    pub stage: String,
    /// Segments still on its disk.
    pub segments: u64,
    /// Those of them that lack copies elsewhere.
    pub lacking_segments: u64,
    /// Messages that wait in these.
    pub lacking_messages: u64,
    /// What it waits for and can't bring about itself.
    pub hindrance: Option<String>,
}

/// A split that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SplittingStatus {
    /// What the part that leaves is called.
    pub name: String,
    /// Ids of the nodes that leave.
    pub leaving: Vec<String>,
    /// Ids of those that stay.
    pub staying: Vec<String>,
    /// Ids of those of them that were out of reach when it was ordered: they are not waited for.
    pub away: Vec<String>,
    /// Members of the part that leaves, if the order says so.
    pub size: Option<u32>,
    /// Ids of those that are not ready.
    pub waits_for: Vec<String>,
    /// Ids of those of them that can take it back (`rhizomq split --cancel`) when they are asked.
    pub revocable_at: Vec<String>,
    /// Segments of the other part that are still on this node's disk.
    pub foreign_segments: u64,
    /// Whether this node leaves and lacks the secret of its part.
    pub lacks_secret: bool,
}

fn ids(nodes: &BTreeSet<NodeId>) -> Vec<String> {
    nodes.iter().map(ToString::to_string).collect()
}

impl From<SplitStatus> for SplittingStatus {
    fn from(status: SplitStatus) -> Self {
        Self {
            leaving: ids(&status.leaving),
            staying: ids(&status.staying),
            away: ids(&status.away),
            size: status.size,
            waits_for: ids(&status.waits_for),
            revocable_at: ids(&status.revocable_at),
            name: status.name,
            foreign_segments: status.foreign,
            lacks_secret: status.lacks_secret,
        }
    }
}

/// A node that was away when its part of a cluster left, or was restored from a backup of before. Until it has met its part
/// it dispatches nothing, for what it has may be consumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StrayedStatus {
    /// What the part is called.
    pub name: String,
    /// Ids of the others of it, as far as the answering node knows: it dials them.
    pub part: Vec<String>,
    /// Whether it lacks the secret of its part: then it takes no messages.
    pub lacks_secret: bool,
    /// What to do if nobody of the part comes.
    pub advice: String,
}

impl From<Strayed> for StrayedStatus {
    fn from(strayed: Strayed) -> Self {
        let advice = if strayed.lacks_secret {
            "start a node of its part that left by this split; if none comes back, run `rhizomq merge` with a ticket of this node, at a \
             node of the cluster that it is to belong to"
        } else {
            "start the other nodes of its part; those that never come back are given up with `rhizomq node forget`"
        };
        Self {
            part: strayed.part.iter().map(ToString::to_string).collect(),
            name: strayed.name,
            lacks_secret: strayed.lacks_secret,
            advice: advice.to_owned(),
        }
    }
}

impl From<DrainStatus> for DrainingStatus {
    fn from(status: DrainStatus) -> Self {
        let stage = match status.stage {
            DrainStage::No => "no",
            DrainStage::HandingOver => "handing over",
            DrainStage::Leaving => "leaving",
            DrainStage::Going => "going",
            DrainStage::Left => "left",
        };
        Self {
            stage: stage.to_owned(),
            segments: status.segments,
            lacking_segments: status.lacking.0,
            lacking_messages: status.lacking.1,
            hindrance: status.hindrance.map(|why| why.to_string()),
        }
    }
}

/// A split that is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartedStatus {
    /// What the part that left is called.
    pub name: String,
    /// Ids of the nodes that were to leave.
    pub leaving: Vec<String>,
    /// Ids of those that were to stay.
    pub staying: Vec<String>,
    /// Members of the part that left, if the order said so.
    pub size: Option<u32>,
    /// What all these were called, by id.
    pub names: BTreeMap<String, String>,
}

impl From<Parted> for PartedStatus {
    fn from(parted: Parted) -> Self {
        let names = parted.names.into_iter().map(|(node, name)| (node.to_string(), name)).collect();
        let (leaving, staying) = (ids(&parted.leaving), ids(&parted.staying));
        Self { name: parted.name, leaving, staying, size: parted.size, names }
    }
}

/// A merge that has not come about yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MergingStatus {
    /// The node of the ticket, 32 hex digits.
    pub node: String,
    /// Where it is dialled.
    pub addresses: Vec<SocketAddr>,
    /// Why there is no link, if one of the two has said so when the answering node last tried; `null`: nobody answers.
    pub refused: Option<String>,
}

/// Damage on a node's disk, since its process started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DamageStatus {
    /// Places in files and rows that were found broken by the scrub, by `verify` or while they were read.
    pub places: u64,
    /// Messages that could not be shown because of it.
    pub found: u64,
    /// Those of them that are here again, fetched from another node, or that turned out to be consumed.
    pub repaired: u64,
    /// Those that are not, or not yet. A node without peers has lost them.
    pub lost: u64,
}

/// The store of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreStatus {
    /// How often it was closed and read back from disk after a failed write, since the process started.
    pub reopened: u64,
    /// Why, the last time.
    pub reopened_because: Option<String>,
    /// Where a store lies that could not be opened and was set aside at the start: this node began empty.
    pub set_aside: Option<String>,
    /// Complete rounds of the scrub in this life.
    pub scrubs: u64,
    /// What lost ends of the log may have held, one by one, since the process started: nobody can say that it was anything,
    /// so it is counted nowhere else.
    pub unaccounted: Vec<UnaccountedStatus>,
}

/// Messages that may be lost with commits at the end of the log, of which nothing says what was in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnaccountedStatus {
    /// The first message that it may be, as clients know it by its `message-id`; it may be those behind it in its segment, and
    /// later segments of the same life. `null`: the life itself is not known.
    pub from: Option<String>,
    /// How many it is at most; `null`: there is no bound.
    pub at_most: Option<u64>,
}

impl From<Unaccounted> for UnaccountedStatus {
    fn from(Unaccounted { from, at_most }: Unaccounted) -> Self {
        Self { from: from.map(|dot| dot.to_string()), at_most }
    }
}

/// Memory that holds what could be read from disk again, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryStatus {
    /// What `--memory` allows.
    pub budget: u64,
    /// How much of it sled may use for the index.
    pub index_cache: u64,
    /// How much of it the engine may use for blocks of messages.
    pub block_cache: u64,
    /// How much blocks take now; a single block may be more than allowed.
    pub blocks: u64,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// For people.
    pub name: String,
    /// 32 hex digits.
    pub id: String,
    /// 16 hex digits, empty until known.
    pub epoch: String,
    /// The answering node's opinion.
    pub alive: bool,
    /// Whether the answering node has a link with it; true for itself. What waits at a node that is alive and not linked,
    /// such as behind a cut between just these two, is counted in none of the figures.
    pub linked: bool,
    /// Whether its registry, its retired set and all that it and the answering node are both to hold were equal to the
    /// latter's when they last compared, a second ago or so; `null` for a node that is not linked and for the answering one.
    pub in_sync: Option<bool>,
    /// Whether it is leaving for good.
    pub draining: bool,
    /// Where it stands, as it says; empty until known.
    pub site: String,
    /// The version of its program, as it says; empty until known.
    pub version: String,
    /// `member` or `observer`: as the answering node elects, or, for a node out of its reach, as it last was.
    pub role: String,
    /// Where it is reached by others.
    pub addresses: Vec<SocketAddr>,
}

/// One site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SiteStatus {
    /// As `--site` says; empty for nodes without.
    pub name: String,
    /// Live nodes.
    pub nodes: u32,
    /// Waiting messages, of those that the answering node looks after, of which a node there has a copy.
    pub copies: u64,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    /// The destination, as clients write it.
    pub name: String,
    /// The pattern of the policy that holds for it; `null` if none does.
    pub policy: Option<String>,
    /// Messages not consumed, those in flight included, and without those that wait for their time.
    pub depth: u64,
    /// Messages that consumers have and have not acknowledged.
    pub in_flight: u64,
    /// Subscriptions.
    pub consumers: u64,
    /// Messages that wait for their time.
    pub scheduled: u64,
}
