//! The election: a pure function over the component of mutual reach.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use rhizomq_engine::NodeId;

use super::{Ballot, Seat, Size};

/// A view's name: a hash of its members, the same wherever they are. Never a number: two sides of a split would count alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewName(pub [u8; 32]);

/// Who is a member, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Those elected.
    pub members: BTreeSet<NodeId>,
    /// The others within reach.
    pub observers: BTreeSet<NodeId>,
    /// How many members there are to be; more than there are nodes means all of them.
    pub size: u32,
}

impl View {
    /// A node that knows of nobody else.
    pub(crate) fn alone(me: NodeId) -> Self {
        Self { members: BTreeSet::from([me]), observers: BTreeSet::new(), size: 1 }
    }

    /// A hash of the members.
    pub fn name(&self) -> ViewName {
        let mut hasher = blake3::Hasher::new_derive_key("rhizomq view of members");
        self.members.iter().for_each(|node| {
            hasher.update(&node.0);
        });
        ViewName(*hasher.finalize().as_bytes())
    }

    /// Whether the node is within reach, in either role.
    pub fn contains(&self, node: NodeId) -> bool {
        self.members.contains(&node) || self.observers.contains(&node)
    }
}

impl fmt::Display for ViewName {
    /// Eight bytes: enough to tell views apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ViewName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What an election goes by: the same on all nodes once the registry has spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Election<'a> {
    pub(crate) ballots: &'a BTreeMap<NodeId, Ballot>,
    pub(crate) seats: &'a BTreeSet<Seat>,
    /// Who holds copies of what a node took, by that node.
    pub(crate) backups: &'a BTreeMap<NodeId, BTreeSet<NodeId>>,
    pub(crate) size: &'a Size,
    /// Who is leaving for good: elected only if there is nobody else.
    pub(crate) draining: &'a BTreeSet<NodeId>,
}

/// Who is a member of the component that a node is in.
///
/// Eligible is whom more than half of the component reaches; where that is nobody, whom most reach. First come those that
/// are seated, the oldest seat first: so a node that comes or returns moves nobody. Then who holds copies of what a failed
/// member took, then the others by a hash of their names; those that have just started after them. At the very end those
/// that more than half of the component lost too often.
pub(crate) fn elect(election: Election<'_>, me: NodeId) -> View {
    let component = component(election.ballots, me);
    let votes: Vec<&Ballot> = component.iter().filter_map(|node| election.ballots.get(node)).collect();
    let mut against: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut unsteady: BTreeMap<NodeId, usize> = BTreeMap::new();
    for ballot in &votes {
        ballot.unreached.iter().for_each(|node| *against.entry(*node).or_default() += 1);
        ballot.unsteady.iter().for_each(|node| *unsteady.entry(*node).or_default() += 1);
    }
    // Who leaves for good does not count, unless all do.
    let stays: Vec<_> = component.iter().filter(|node| !election.draining.contains(node)).collect();
    let stays = if stays.is_empty() { component.iter().collect() } else { stays };
    let ballots = stays.iter().filter_map(|node| election.ballots.get(node));
    let mut proposals: Vec<_> = ballots.map(|ballot| ballot.proposal).collect();
    // A node whose own ballot is on its way proposes nothing, and counts.
    proposals.resize(stays.len(), u32::MAX);
    let size = election.size.wanted(&mut proposals);

    let is_more_than_half = |count: usize| count * 2 > component.len();
    let approvals = |node: &NodeId| component.len() - against.get(node).copied().unwrap_or(0).min(component.len());
    let most = component.iter().map(approvals).max().unwrap_or(0);
    let enough = |node: &NodeId| {
        if is_more_than_half(most) { is_more_than_half(approvals(node)) } else { approvals(node) == most }
    };

    let tenures = tenures(&election, &component);
    let failed = election.seats.iter().map(|seat| seat.node).filter(|node| !component.contains(node));
    let heirs: BTreeSet<NodeId> = failed.filter_map(|node| election.backups.get(&node)).flatten().copied().collect();
    let mut candidates: Vec<_> = component.iter().copied().filter(enough).collect();
    if candidates.iter().any(|node| !election.draining.contains(node)) {
        candidates.retain(|node| !election.draining.contains(node));
    }
    candidates.sort_by_cached_key(|node| {
        let is_damped = is_more_than_half(unsteady.get(node).copied().unwrap_or(0));
        let tenure = tenures.get(node).copied().unwrap_or(u64::MAX);
        let is_starting = election.ballots.get(node).is_none_or(|ballot| ballot.starting);
        (is_damped, !tenures.contains_key(node), tenure, is_starting, !heirs.contains(node), Reverse(weight(*node)))
    });
    candidates.truncate(size as usize);
    let members: BTreeSet<_> = candidates.into_iter().collect();
    let observers = component.difference(&members).copied().collect();
    View { members, observers, size }
}

/// Since when the nodes of a component are seated: in the life that they are in.
fn tenures(election: &Election<'_>, component: &BTreeSet<NodeId>) -> BTreeMap<NodeId, u64> {
    let mut tenures = BTreeMap::new();
    for seat in election.seats.iter().filter(|seat| component.contains(&seat.node)) {
        let is_valid = election.ballots.get(&seat.node).is_some_and(|ballot| ballot.epoch == seat.epoch);
        if is_valid {
            // Seats are in order of tenure.
            tenures.entry(seat.node).or_insert(seat.tenure);
        }
    }
    tenures
}

/// Whom a node reaches over pairs that reach each other, itself included.
fn component(ballots: &BTreeMap<NodeId, Ballot>, me: NodeId) -> BTreeSet<NodeId> {
    let mut component = BTreeSet::from([me]);
    let mut rest: Vec<(NodeId, &Ballot)> = ballots.iter().map(|(node, ballot)| (*node, ballot)).collect();
    rest.retain(|(node, _)| *node != me);
    let mut frontier = vec![me];
    while let Some(node) = frontier.pop() {
        let Some(ballot) = ballots.get(&node) else { continue };
        rest.retain(|(other, theirs)| {
            let mutual = !ballot.unreached.contains(other) && !theirs.unreached.contains(&node);
            if mutual {
                component.insert(*other);
                frontier.push(*other);
            }
            !mutual
        });
    }
    component
}

/// Whose turn it is if nothing else tells them apart.
fn weight(node: NodeId) -> [u8; 32] {
    blake3::derive_key("rhizomq order of election", &node.0)
}
