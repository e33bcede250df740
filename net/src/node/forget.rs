//! Forgetting a node that will never come back: only an operator can know that. The same gives up a merge with a node that
//! was never reached.
//!
//! It leaves the roster, and with it go its record, its dialling and its places on lists of holders. Its segments are taken
//! for those of a life that is over: what other nodes hold of them is delivered and then folded as usual. What is given up
//! is to wait for what lies on its disk alone. Nothing is done against it: should it come back after all, it enters the
//! roster anew, and what its disk has is taken in.

use rhizomq_engine::{Key, NodeId, Now};

use super::{
    Node,
    drain::draining_key,
    members::ballot_of,
    placement::{holders_key, leaving_key},
    roster::{Who, record_name, roster_key},
};

/// Why a node is not forgotten; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForgetError {
    /// Nobody of that name.
    #[error("no node {0} is known here; `rhizomq status` lists those that are")]
    Unknown(NodeId),
    /// A node of the other part of a split.
    #[error(
        "node {0} was split off: it is of another cluster, and nothing here waits for it; a merge makes the two one again, and \
         if all of its part are lost for good, `rhizomq split --lost {0}` gives that part up"
    )]
    SplitOff(NodeId),
    /// The asked node itself.
    #[error("a node can't forget itself; ask another one")]
    Myself,
    /// It can come back by itself, for it never went away.
    #[error("node {0} is alive as this node sees it; stop it first, and wait until `rhizomq status` shows it gone")]
    Alive(Who),
    /// The same, behind a broken link.
    #[error(
        "node {0} has no link with this one, but is alive as others say: see that UDP gets through between the two; or stop \
         it, and wait until `rhizomq status` shows it gone"
    )]
    CutOff(Who),
}

/// What it is that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// A node of this cluster: it is on the roster no more.
    Node,
    /// To merge with the cluster of a node that was never reached.
    Merge,
}

/// What forgetting a node came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// What was given up.
    pub what: GivenUp,
    /// Messages that it took and that wait at the answering node: they are delivered as before.
    pub waiting_here: u64,
    /// Replicas that it was listed as a holder of: others are named in its place.
    pub replicas: u64,
}

impl Node {
    /// Forgets a node: here with the next commit, and everywhere as the registry spreads.
    ///
    /// # Errors
    /// It is unknown, this one, or alive.
    pub fn forget(&mut self, now: Now, node: NodeId) -> Result<Forgotten, ForgetError> {
        if node == self.id() {
            return Err(ForgetError::Myself);
        }
        if !self.is_in_roster(node) {
            if !self.give_up_merge(node) {
                let why = if self.is_gone(node) { ForgetError::SplitOff } else { ForgetError::Unknown };
                return Err(why(node));
            }
            self.finish(now);
            return Ok(Forgotten { what: GivenUp::Merge, waiting_here: 0, replicas: 0 });
        }
        if self.is_alive(node) {
            let why = if self.is_linked(node) { ForgetError::Alive } else { ForgetError::CutOff };
            return Err(why(self.who(node)));
        }
        self.give_up_merge(node);
        let replicas = self.strike(node);
        let theirs = self.engine.segments().filter(|segment| segment.node == node);
        let waiting_here = theirs.map(|segment| self.engine.waiting_in(segment).len()).sum();
        self.finish(now);
        Ok(Forgotten { what: GivenUp::Node, waiting_here, replicas })
    }

    /// Takes a node off the roster, its seat and all lists of holders: on how many of these it was.
    pub(super) fn strike(&mut self, node: NodeId) -> u64 {
        self.strike_out(roster_key(), node);
        self.strike_seats(node);
        self.strike_out(draining_key(), node);
        let listed = self.holders.listing(node);
        for &segment in &listed {
            self.strike_out(holders_key(segment), node);
            self.strike_out(leaving_key(segment), node);
        }
        listed.len() as u64
    }

    pub(super) fn strike_out(&mut self, set: Key, node: NodeId) {
        // A set of this node's own making, under a lawful name: there is nothing to refuse.
        if self.engine.set_remove(set.clone(), &node.0).is_ok() {
            self.changed_keys.insert(set);
        }
    }

    /// The roster changed: records of nodes that left it go, and a node that was taken for dead enters anew.
    pub(super) fn follow_roster(&mut self, now: Now) {
        let roster = self.roster_ids();
        if !roster.contains(&self.id()) && !self.is_off() {
            self.enrol(now);
        }
        let is_gone = |key: &&Key| {
            let node = ballot_of(key).map(Some).or_else(|| record_name(key));
            node.is_some_and(|node| node.is_none_or(|node| roster.binary_search(&node).is_err()))
        };
        let gone: Vec<Key> = self.engine.registry().keys().filter(is_gone).cloned().collect();
        for key in gone {
            if let Some(node) = ballot_of(&key) {
                self.forget_ballot(node);
            }
            self.engine.unregister(key);
        }
        self.holders.away_since.retain(|node, _| roster.contains(node));
    }

    /// Whether the key is the record or the ballot of a node that is not in the roster: it is refused, everywhere alike.
    pub(super) fn is_stale_record(&self, key: &Key) -> bool {
        let node = ballot_of(key).map(Some).or_else(|| record_name(key));
        node.is_some_and(|node| node.is_none_or(|node| !self.is_in_roster(node)))
    }
}
