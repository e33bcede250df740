//! This node's part in who is a member: its ballot, its seat, and the view that follows from everybody's.
//!
//! - `ballot/<node>`: whom the node does not reach, written when that changes, once per upkeep at most
//! - `seats`: the set of seats, each of a node in one life; only its own node adds or removes one
//! - `size`: the policy for their number
//!
//! At every upkeep a node publishes its ballot and elects. Elected without a seat for a while, it takes one; seated and not
//! elected for twice as long, as when two clusters have met, it steps down. Nobody is asked, and nobody waits for anybody:
//! each node moves by the same function of the same registry.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::{Epoch, Key, Mistake, NodeId, Now};

use super::Node;
use crate::membership::{Ballot, Election, Seat, Size, SizeError, View, elect};

const BALLOT: &str = "ballot/";

/// How long a link may be down before its node counts as out of reach: one that breaks and is dialled again is no news.
const AWAY_MS: u64 = 1_000;

/// A node that was lost, and found again in the same life, so often within so many milliseconds is unsteady. (A restart
/// costs the seat by itself.)
const LOSSES: usize = 3;
const LOSSES_MS: u64 = 600_000;

/// What a node is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Elected.
    Member,
    /// Not, for now. Clients see no difference.
    Observer,
}

/// A node that is or was within reach in this life.
#[derive(Debug)]
struct Reach {
    epoch: Epoch,
    away_since: Option<u64>,
    is_reached: bool,
    /// When it was found again in the life in which it was lost.
    returns: Vec<u64>,
}

/// What the registry says of members, and what this node makes of it.
#[derive(Debug)]
pub(super) struct Members {
    ballots: BTreeMap<NodeId, Ballot>,
    seats: BTreeSet<Seat>,
    size: Size,
    view: View,
    /// Something changed that the view depends on.
    dirty: bool,
    reach: BTreeMap<NodeId, Reach>,
    starting_until: u64,
    /// Since when this node has had to take a seat or to leave one.
    wanting_since: Option<u64>,
    /// Nothing is written again before this commit is done.
    written_in: u64,
    proposal: u32,
}

impl Members {
    pub(super) fn new(me: NodeId, now: Now, settle_ms: u64, proposal: u32) -> Self {
        Self {
            ballots: BTreeMap::new(),
            seats: BTreeSet::new(),
            size: Size::default(),
            view: View::alone(me),
            dirty: true,
            reach: BTreeMap::new(),
            starting_until: now.mono_ms + 2 * settle_ms,
            wanting_since: None,
            written_in: 0,
            proposal,
        }
    }

    /// Holders of segments are heirs: the view may depend on who they are.
    pub(super) fn mark_dirty(&mut self) {
        self.dirty = true;
    }
}

fn seats_key() -> Key {
    Key::set("seats")
}

pub(super) fn size_key() -> Key {
    Key::register("size")
}

pub(super) fn ballot_key(node: NodeId) -> Key {
    Key::register(&format!("{BALLOT}{node}"))
}

/// Whose ballot the key names.
pub(super) fn ballot_of(key: &Key) -> Option<NodeId> {
    key.register_name()?.strip_prefix(BALLOT)?.parse().ok()
}

impl Node {
    /// Who is a member, as this node sees it.
    pub fn members(&self) -> &View {
        &self.members.view
    }

    /// Whether a node is a member: elected, or, out of reach, last seen with a seat.
    pub fn role(&self, node: NodeId) -> Role {
        let view = &self.members.view;
        let is_member = if view.contains(node) { view.members.contains(&node) } else { self.is_seated(node) };
        if is_member { Role::Member } else { Role::Observer }
    }

    /// Whether a node has a seat in the life that its ballot is of.
    pub fn is_seated(&self, node: NodeId) -> bool {
        let epoch = self.members.ballots.get(&node).map(|ballot| ballot.epoch);
        let is_valid = |seat: &Seat| Some(seat.epoch) == epoch || self.config.planted.is(Mistake::SeatsWithoutEpoch);
        self.members.seats.iter().any(|seat| seat.node == node && is_valid(seat))
    }

    /// The policy for the number of members.
    pub fn size(&self) -> &Size {
        &self.members.size
    }

    /// Sets the policy for the number of members, here with the next commit, and everywhere as the registry spreads.
    ///
    /// # Errors
    /// [`SizeError::Zero`].
    pub fn set_size(&mut self, now: Now, size: &Size) -> Result<(), SizeError> {
        size.check()?;
        self.forget_sizes_of_merges();
        self.write_register(size_key(), size.to_string().into_bytes(), now);
        self.finish(now);
        Ok(())
    }

    /// What this node proposes where the size is negotiated; in the beginning as many as there are to be copies.
    pub fn propose(&mut self, members: u32) {
        self.members.proposal = members.max(1);
    }

    /// What the disk has.
    pub(super) fn read_members(&mut self) {
        let keys: Vec<Key> = self.engine.registry().keys().cloned().collect();
        keys.iter().for_each(|key| self.note_members(key));
    }

    /// A registry key changed: follow it if it tells of members.
    pub(super) fn note_members(&mut self, key: &Key) {
        if let Some(node) = ballot_of(key) {
            let ballot = self.engine.registry().register(key).and_then(Ballot::decode);
            // What an earlier life of this node said of itself, and where it sat, is over, though the disk still has it.
            let is_over = |ballot: &Ballot| node == self.id() && ballot.epoch != self.epoch();
            match ballot.filter(|ballot| !is_over(ballot)) {
                Some(ballot) => self.members.ballots.insert(node, ballot),
                None => self.members.ballots.remove(&node),
            };
        } else if *key == seats_key() {
            let seats = self.engine.registry().set_members(key);
            self.members.seats = seats.iter().filter_map(|seat| Seat::decode(seat)).collect();
        } else if *key == size_key() {
            let text = self.engine.registry().register(key).and_then(|bytes| std::str::from_utf8(bytes).ok());
            // What only a newer program reads can't be followed here.
            if let Some(size) = text.and_then(|text| text.parse().ok()) {
                self.members.size = size;
            }
        } else {
            return;
        }
        self.members.dirty = true;
    }

    /// A node left the roster.
    pub(super) fn forget_ballot(&mut self, node: NodeId) {
        self.members.ballots.remove(&node);
        self.members.dirty = true;
    }

    /// The seats of a node go with it.
    pub(super) fn strike_seats(&mut self, node: NodeId) {
        for seat in self.seats_of(node) {
            self.leave_seat(seat);
        }
    }

    /// The part of upkeep.
    pub(super) fn look_at_members(&mut self, now: Now) {
        self.look_at_reach(now);
        self.publish_ballot(now);
        if self.members.dirty {
            self.members.dirty = false;
            self.elect();
        }
        self.follow_election(now);
    }

    /// Whom this node has lost, and whom it has found again.
    fn look_at_reach(&mut self, now: Now) {
        for (node, peer) in &self.peers {
            let epoch = peer.hello.epoch;
            let new = || Reach { epoch, away_since: None, is_reached: true, returns: Vec::new() };
            let reach = self.members.reach.entry(*node).or_insert_with(new);
            if !reach.is_reached && reach.epoch == epoch {
                // The latest are enough to tell.
                if reach.returns.len() == LOSSES {
                    reach.returns.remove(0);
                }
                reach.returns.push(now.mono_ms);
            }
            (reach.epoch, reach.away_since, reach.is_reached) = (epoch, None, true);
        }
        let roster = self.roster_ids();
        for (node, reach) in &mut self.members.reach {
            if !self.peers.contains_key(node) {
                let since = *reach.away_since.get_or_insert(now.mono_ms);
                reach.is_reached &= now.mono_ms < since + AWAY_MS;
            }
            reach.returns.retain(|at| now.mono_ms < at + LOSSES_MS);
        }
        self.members.reach.retain(|node, reach| reach.is_reached || roster.binary_search(node).is_ok());
    }

    /// Tells the others whom this node reaches, if that is not what they know.
    pub(super) fn publish_ballot(&mut self, now: Now) {
        let me = self.id();
        let members = &self.members;
        let is_reached = |node: &NodeId| members.reach.get(node).is_some_and(|reach| reach.is_reached);
        let unsteady = members.reach.iter().filter(|(_, reach)| reach.returns.len() >= LOSSES);
        let ballot = Ballot {
            epoch: self.epoch(),
            starting: now.mono_ms < members.starting_until,
            proposal: members.proposal,
            unreached: self.roster_ids().into_iter().filter(|node| *node != me && !is_reached(node)).collect(),
            unsteady: unsteady.map(|(node, _)| *node).collect(),
        };
        if !self.is_off() && members.ballots.get(&me) != Some(&ballot) && !self.is_writing_of_members(&ballot_key(me)) {
            self.write_register(ballot_key(me), ballot.encode(), now);
        }
    }

    /// Whether what is written under the key is still on its way to the disk.
    fn is_writing_of_members(&self, key: &Key) -> bool {
        self.engine.is_key_queued(key) || self.committed_seq < self.members.written_in
    }

    pub(super) fn write_register(&mut self, key: Key, content: Vec<u8>, now: Now) {
        // The names are lawful; only a content beyond all bounds is refused, and then the old one stays.
        if self.engine.register_set(key.clone(), content, now).is_ok() {
            self.changed_keys.insert(key);
            self.members.written_in = self.engine.barrier();
        }
    }

    fn elect(&mut self) {
        let seats = self.believed_seats();
        let members = &self.members;
        let absent = seats.iter().map(|seat| seat.node).filter(|node| !self.is_linked(*node));
        let absent: BTreeSet<_> = absent.collect();
        let backups = self.holders.backups_of(&absent);
        let election = Election {
            ballots: &members.ballots,
            seats: &seats,
            backups: &backups,
            size: &members.size,
            draining: self.draining(),
        };
        self.members.view = elect(election, self.id());
    }

    /// The seats as they are, without those of the other part of a split. The planted mistake: whoever has a seat has it in
    /// every life.
    fn believed_seats(&self) -> BTreeSet<Seat> {
        let mut seats = self.members.seats.clone();
        seats.retain(|seat| !self.is_gone(seat.node));
        if self.config.planted.is(Mistake::SeatsWithoutEpoch) {
            let ballots = &self.members.ballots;
            let now = |seat: Seat| ballots.get(&seat.node).map_or(seat, |ballot| Seat { epoch: ballot.epoch, ..seat });
            seats = seats.into_iter().map(now).collect();
        }
        seats
    }

    /// Seats of a node, with changes that still wait for their commit.
    fn seats_of(&self, node: NodeId) -> Vec<Seat> {
        let seats = self.engine.set_members(&seats_key());
        seats.iter().filter_map(|seat| Seat::decode(seat)).filter(|seat| seat.node == node).collect()
    }

    /// Takes a seat or leaves it, if that has been wanted for long enough.
    fn follow_election(&mut self, now: Now) {
        let me = self.id();
        let is_mine = |seat: &Seat| seat.epoch == self.epoch() || self.config.planted.is(Mistake::SeatsWithoutEpoch);
        let (mut current, stale): (Vec<_>, Vec<_>) = self.seats_of(me).into_iter().partition(is_mine);
        current.sort_unstable();
        for seat in stale.into_iter().chain(current.iter().skip(1).copied()) {
            self.leave_seat(seat);
        }
        let current = current.first().copied();
        let is_elected = self.members.view.members.contains(&me);
        if self.is_draining(me) && current.is_none() {
            self.members.wanting_since = None;
            return;
        }
        if is_elected == current.is_some() {
            self.members.wanting_since = None;
            return;
        }
        let since = *self.members.wanting_since.get_or_insert(now.mono_ms);
        let settle_ms = self.config.timing.settle_ms;
        match current {
            Some(seat) if now.mono_ms >= since + 2 * settle_ms => self.leave_seat(seat),
            None if now.mono_ms >= (since + settle_ms).max(self.members.starting_until) => self.take_seat(now),
            _ => return,
        }
        self.members.wanting_since = None;
    }

    fn take_seat(&mut self, now: Now) {
        let newest = self.members.seats.last().map_or(0, |seat| seat.tenure);
        let tenure = newest.saturating_add(1).max(now.wall_ms);
        let seat = Seat { tenure, node: self.id(), epoch: self.epoch() };
        if self.engine.set_add(seats_key(), seat.encode()).is_ok() {
            self.changed_keys.insert(seats_key());
        }
    }

    fn leave_seat(&mut self, seat: Seat) {
        // A set of this program's own making, under a lawful name: there is nothing to refuse.
        if self.engine.set_remove(seats_key(), &seat.encode()).is_ok() {
            self.changed_keys.insert(seats_key());
        }
    }
}
