//! A part of a split cluster that is lost: none of its nodes will ever come back with what they had. Only an operator can know
//! that.
//!
//! What this part keeps of the other's messages nobody delivers, for the other part does that. Once it is given up, the split
//! is over as after a merge, and those nodes are as others that were forgotten ([`Node::forget`]): what lies here of their
//! messages is delivered here, marked as redelivered, since nobody knows what they had consumed. Nothing is done against them:
//! should they come after all, an operator may merge them, and both sides' consumptions count.

use std::collections::BTreeSet;

use rhizomq_engine::{NodeId, Now};

use super::{Node, Who};

/// Why a part is not given up; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GiveUpPartError {
    /// The node is of no other part.
    #[error("node {0} was not split off from here; `rhizomq status` names those that were")]
    NotSplitOff(NodeId),
    /// One of the part has been heard of.
    #[error(
        "the other part is not lost: node {0} of it has answered within the last minutes; merge with it: `rhizomq merge`"
    )]
    Alive(Who),
}

/// What giving a part up came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostPart {
    /// What the part was called that left, be it the lost one or the asked one.
    pub name: String,
    /// Whom nobody waits for any more.
    pub nodes: BTreeSet<NodeId>,
    /// Messages of theirs that wait on the disk of the answering node. Other nodes may have others.
    pub waiting_here: u64,
}

impl Node {
    /// Gives up the part that a node is of which was split off: here with the next commit, and in all of this part as the
    /// registry spreads.
    ///
    /// # Errors
    /// The node was not split off, or one of its part has been heard of.
    pub fn give_up_part_of(&mut self, now: Now, node: NodeId) -> Result<LostPart, GiveUpPartError> {
        let Some(&id) = self.splits.gone.get(&node) else { return Err(GiveUpPartError::NotSplitOff(node)) };
        let of_it = self.splits.gone.iter().filter(|(_, split)| **split == id);
        let nodes: BTreeSet<NodeId> = of_it.map(|(node, _)| *node).collect();
        let heard_of = self.splits.parting.values().map(|farewell| farewell.node);
        let mut heard_of = heard_of.chain(self.splits.told.keys().copied());
        if let Some(node) = heard_of.find(|node| nodes.contains(node)) {
            // It is on no roster any more: the order tells its name.
            let called = self.splits.order(id).and_then(|split| split.records.get(&node));
            let name = called.map(|(name, _)| name.clone()).unwrap_or_default();
            return Err(GiveUpPartError::Alive(Who { name, id: node }));
        }
        let theirs = self.engine.segments().filter(|segment| nodes.contains(&segment.node));
        let waiting_here = theirs.map(|segment| self.engine.waiting_in(segment).len()).sum();
        let name = self.splits.order(id).map(|split| split.name.clone()).unwrap_or_default();
        self.heal(id);
        nodes.iter().for_each(|&node| _ = self.strike(node));
        self.finish(now);
        Ok(LostPart { name, nodes, waiting_here })
    }
}
