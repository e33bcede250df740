//! What a split would come to, before it is ordered, as far as the asked node knows.

use std::collections::BTreeSet;

use rhizomq_engine::{NodeId, SegmentId};

use super::{Node, SplitOrder};

/// What an order would come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitPlan {
    /// Who leaves.
    pub leaving: BTreeSet<NodeId>,
    /// Who stays.
    pub staying: BTreeSet<NodeId>,
    /// Who of these has no link with the asked node: a split that is ordered there does not wait for them.
    pub away: BTreeSet<NodeId>,
    /// Segments that are listed at nobody within reach.
    pub out_of_reach: u64,
    /// Segments that are listed at nodes within reach, and of which the asked node does not know that any of these has
    /// anything: their origins are away, and who is named in their place gets nothing from them.
    pub unproven: u64,
}

impl Node {
    /// What an order would come to.
    pub fn plan_split(&self, order: &SplitOrder) -> SplitPlan {
        let leaving = order.leaving.clone();
        let staying: BTreeSet<_> = self.roster_ids().into_iter().filter(|node| !leaving.contains(node)).collect();
        let is_away = |node: &&NodeId| **node != self.id() && !self.is_linked(**node);
        let away = staying.iter().filter(is_away).copied().collect();
        let mut plan = SplitPlan { leaving, staying, away, out_of_reach: 0, unproven: 0 };
        for segment in self.holders.segments().filter(|&segment| !self.engine.has_replica(segment)) {
            let named: Vec<_> = self.named(segment).into_iter().filter(|&node| self.is_linked(node)).collect();
            let has_some = |&node: &NodeId| {
                node == segment.node || self.confirms.has(node, segment).is_some_and(|slots| !slots.is_empty())
            };
            match named.is_empty() {
                true => plan.out_of_reach += 1,
                false if !named.iter().any(has_some) => plan.unproven += 1,
                false => {}
            }
        }
        plan
    }

    /// Whether a segment would have fewer copies within its part than a split waits for, as far as is known here: of what
    /// others look after that is nothing.
    pub fn lacks_copies_within(&self, segment: SegmentId, leaving: &BTreeSet<NodeId>) -> bool {
        let is_inside = |node: &NodeId| leaving.contains(node) == leaving.contains(&segment.node);
        let waiting = self.engine.waiting_in(segment);
        let has_all = |node: &NodeId| {
            *node == self.id()
                || self.is_linked(*node) && self.confirms.has(*node, segment).is_some_and(|has| waiting.is_subset(has))
        };
        let copies = self.holders_of(segment).iter().filter(|&node| is_inside(node) && has_all(node)).count();
        copies < self.copies_among(&self.roster_ids().into_iter().filter(is_inside).collect::<Vec<_>>())
    }
}
