//! Parting a cluster into two by an operator's order, without losing, doubling or taking over anything.
//!
//! A message goes with the node that took it. So each part keeps the journals of its own nodes, and what the other part has
//! of them is given back before the two lose sight of each other:
//!
//! - `split/order/ID`: a register with the order, which never changes: who leaves, who stays, which of them were there.
//! - While it is *open*, a node that holds a segment of the other part is as one that leaves it: it counts as no copy,
//!   others are named in its place, and it drops its replica when enough of the segment's own part have proven to have it.
//!   New segments lie within their part. Clients notice nothing: the cluster is one.
//! - The part that leaves gets a secret of its own, from node to node over their links, never in the registry.
//! - A node that holds nothing of the other part, and knows the secret if it leaves, says so in `split/ready`, for good.
//! - Whoever sees that all are ready *cuts* (`split/cut`): the nodes of the other part are gone for it, also those that
//!   were off the roster; it notes them in `gone`, strikes them off, and drops its links to them. The others of its part
//!   follow as they hear of it; the other part does the same. Who meets a node that is gone tells it the order and that all
//!   were ready, and no more. So that it can, each node that left remembers the former secrets until the split is healed,
//!   on its own disk and not in the registry: those who come later to its part have nothing to do with them.
//!
//! What is `gone` is not let in, and what lies here of its journals is kept as it is: nobody here dispatches it. That is
//! so until a merge heals it, which notes the split in `split/over`. Marks only ever come in addition, and an order has a
//! register of its own, so old packets, later splits and the union of two registries change nothing: what was cut stays
//! cut, what is healed stays healed.
//!
//! An order may be taken back (`split/back`) by a node that is not ready: it never will be, so nobody can have cut, unless
//! that node was forgotten meanwhile; then the cut holds. Of two orders that were given at the same time one is taken back so.
//!
//! This file has what leads to a cut; `split/plan.rs` what an order would come to, `split/orders.rs` what is known of orders,
//! `split/marks.rs` the marks, `split/cut.rs` the cut itself, `split/strays.rs` who missed it,
//! `split/lost.rs` how a part is given up that will never come back.

mod cut;
mod lost;
mod marks;
mod orders;
mod plan;
mod strays;

use std::collections::BTreeSet;

use rhizomq_engine::{Key, Mistake, NodeId, Now, SegmentId};

pub(super) use self::orders::Splits;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::orders::example_order;
pub use self::{
    cut::Parted,
    lost::{GiveUpPartError, LostPart},
    plan::SplitPlan,
    strays::Strayed,
};
use self::{
    marks::{back_key, member, ready_key},
    orders::{Split, SplitId, State},
};
use super::{Node, Output, Who, placement::holders_key};
use crate::{
    rim::NetworkSecret,
    wire::{Control, Hidden},
};

/// The longest name of a part, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Why a cluster is not split, or an order not taken back; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// Another one is under way.
    #[error("the split off of `{0}` is under way; wait until it is done, or take it back")]
    UnderWay(String),
    /// A node that nobody knows.
    #[error("no node {0} is known here; `rhizomq status` lists those that are")]
    Unknown(NodeId),
    /// Nobody would leave, or nobody stay.
    #[error("both parts need a node: {leaving} would leave and {staying} stay")]
    Empty {
        /// Nodes that would leave.
        leaving: usize,
        /// Nodes that would stay.
        staying: usize,
    },
    /// A node is to leave that can't hear of it.
    #[error("node {0} is to leave and has no link with this one; start it or mend the network first, or let it stay")]
    Away(Who),
    /// A node leaves for good meanwhile.
    #[error("node {0} is draining; wait until it has left, or cancel that")]
    Draining(Who),
    /// A name that is too long, or none.
    #[error("the part that leaves needs a name of 1 to {MAX_NAME_BYTES} bytes")]
    Name,
    /// A part of no members.
    #[error("a cluster has one member at least")]
    Size,
    /// No secret for the part that leaves.
    #[error("the system gives no random bytes, so the part that leaves can't have a secret of its own")]
    NoRandomness,
    /// There is none to take back.
    #[error("no split is under way")]
    None,
    /// Somebody may have cut.
    #[error(
        "this node is not waited for any more, so the split may be done elsewhere: ask a node that is not ready, or wait; one \
         that never comes back is waited for until `rhizomq node forget`. Not ready: {}",
        .0.iter().map(Who::to_string).collect::<Vec<_>>().join(", ")
    )]
    Ready(Vec<Who>),
}

/// What an operator orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitOrder {
    /// What the part that leaves is called, for people.
    pub name: String,
    /// Who leaves.
    pub leaving: BTreeSet<NodeId>,
    /// Members of the part that leaves; as it is here, if not said, or if another policy is set before it has left.
    pub size: Option<u32>,
}

/// How far a split is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitStatus {
    /// What the part that leaves is called.
    pub name: String,
    /// Who leaves.
    pub leaving: BTreeSet<NodeId>,
    /// Who stays.
    pub staying: BTreeSet<NodeId>,
    /// Of these, who was out of reach when it was ordered, and is not waited for.
    pub away: BTreeSet<NodeId>,
    /// Members of the part that leaves, as ordered.
    pub size: Option<u32>,
    /// Who is not ready.
    pub waits_for: BTreeSet<NodeId>,
    /// Those of them that may still take the order back, see [`Node::cancel_split`].
    pub revocable_at: BTreeSet<NodeId>,
    /// Segments of the other part that are still on this node's disk.
    pub foreign: u64,
    /// Whether this node lacks the secret of the part that it leaves with.
    pub lacks_secret: bool,
}

impl Node {
    /// Orders a split: it begins with the next commit, and ends by itself. `secret` is that of the part that leaves, fresh
    /// and random.
    ///
    /// # Errors
    /// The order can't be carried out.
    pub fn split(&mut self, now: Now, order: SplitOrder, secret: NetworkSecret) -> Result<(), SplitError> {
        self.check_split(&order)?;
        let SplitOrder { name, leaving, size } = order;
        let staying: BTreeSet<_> = self.roster_ids().into_iter().filter(|node| !leaving.contains(node)).collect();
        let is_away = |node: &&NodeId| **node != self.id() && !self.is_linked(**node);
        let away = staying.iter().filter(is_away).copied().collect();
        let called = |node: NodeId| (node, (self.who(node).name, self.published_addresses(node)));
        let records = self.roster_ids().into_iter().map(called).collect();
        let split = Split { id: secret.name(), name, leaving, staying, away, size, records };
        // Also if it stays: until one who leaves has it, nobody else does.
        self.splits.secret = Some(secret.clone());
        self.outputs.push_back(Output::Keep(Some(secret)));
        self.write_order(split, now);
        self.look_at_orders();
        self.finish(now);
        Ok(())
    }

    /// Whether an order could be carried out now.
    ///
    /// # Errors
    /// It could not.
    pub fn check_split(&self, order: &SplitOrder) -> Result<(), SplitError> {
        if let Some(split) = self.open_split() {
            return Err(SplitError::UnderWay(split.name.clone()));
        }
        if !(1..=MAX_NAME_BYTES).contains(&order.name.len()) {
            return Err(SplitError::Name);
        }
        if order.size == Some(0) {
            return Err(SplitError::Size);
        }
        let roster: BTreeSet<_> = self.roster_ids().into_iter().collect();
        if let Some(node) = order.leaving.difference(&roster).next() {
            return Err(SplitError::Unknown(*node));
        }
        let (leaving, staying) = (order.leaving.len(), roster.len() - order.leaving.len());
        if leaving == 0 || staying == 0 {
            return Err(SplitError::Empty { leaving, staying });
        }
        let is_away = |node: &&NodeId| **node != self.id() && !self.is_linked(**node);
        if let Some(node) = order.leaving.iter().find(is_away) {
            return Err(SplitError::Away(self.who(*node)));
        }
        match roster.iter().find(|node| self.is_draining(**node)) {
            Some(node) => Err(SplitError::Draining(self.who(*node))),
            None => Ok(()),
        }
    }

    /// Takes the order back.
    ///
    /// # Errors
    /// There is none, or it may be carried out already.
    pub fn cancel_split(&mut self, now: Now) -> Result<(), SplitError> {
        let Some(split) = self.open_split().cloned() else { return Err(SplitError::None) };
        if !self.may_take_back(&split) {
            let who = |nodes: BTreeSet<NodeId>| nodes.into_iter().map(|node| self.who(node)).collect();
            return Err(SplitError::Ready(who(self.waits_for(&split))));
        }
        self.take_back(&split);
        self.look_at_orders();
        self.finish(now);
        Ok(())
    }

    /// How far the split is that is under way, if one is.
    pub fn split_status(&self) -> Option<SplitStatus> {
        let split = self.open_split()?;
        let foreign = self.engine.segments().filter(|&segment| self.keeps_foreign(segment)).count() as u64;
        Some(SplitStatus {
            name: split.name.clone(),
            leaving: split.leaving.clone(),
            staying: split.staying.clone(),
            away: split.away.clone(),
            size: split.size,
            revocable_at: self.revocable_at(split),
            waits_for: self.waits_for(split),
            foreign,
            lacks_secret: split.leaving.contains(&self.id()) && self.next_secret(split).is_none(),
        })
    }

    /// What the part is called that leaves, while a split is under way.
    pub(super) fn splitting_off(&self) -> Option<&str> {
        self.open_split().map(|split| split.name.as_str())
    }

    /// Whether a split is under way.
    pub(super) fn is_splitting(&self) -> bool {
        self.open_split().is_some()
    }

    /// Whether a node is of the other part than a segment's origin, while the two are still one cluster or after.
    pub(super) fn is_foreign(&self, segment: SegmentId, node: NodeId) -> bool {
        self.open_split().is_some_and(|split| split.leaving.contains(&segment.node) != split.leaving.contains(&node))
    }

    /// Whether this node takes in nothing of a segment: it is of the other part, of which this node has said that it has
    /// nothing, or which it does not see any more. Who was away during a split brings what it has of the other part, and
    /// that stays with it alone.
    pub(super) fn declines(&self, segment: SegmentId) -> bool {
        let is_ready = |split: &Split| self.is_ready_for(split, self.id());
        self.is_gone(segment.node) || self.is_foreign(segment, self.id()) && self.open_split().is_some_and(is_ready)
    }

    /// Whether a node is of this node's part.
    pub(super) fn is_with_me(&self, node: NodeId) -> bool {
        self.open_split().is_none_or(|split| split.leaving.contains(&self.id()) == split.leaving.contains(&node))
    }

    /// How many nodes of a segment's part have to have it before one of the other part may drop it: as many as there are
    /// to be copies, of those within reach; and at least as many as a receipt tells of, if the part has so many.
    pub(super) fn copies_inside(&self, segment: SegmentId) -> usize {
        let inside: Vec<_> = self.roster_ids().into_iter().filter(|&node| !self.is_foreign(segment, node)).collect();
        self.copies_among(&inside)
    }

    /// The same for one who may be of that part himself.
    fn copies_among(&self, inside: &[NodeId]) -> usize {
        let reachable = inside.iter().filter(|&&node| node == self.id() || self.is_linked(node)).count();
        let (copies, confirm) = (self.config.copies as usize, self.config.confirm as usize);
        copies.min(reachable).max(confirm.min(inside.len())).max(1)
    }

    fn keeps_foreign(&self, segment: SegmentId) -> bool {
        let me = self.id();
        self.is_foreign(segment, me)
            && (self.named(segment).contains(&me) || !self.engine.waiting_in(segment).is_empty())
    }

    /// Whether this node can do without the other part, and the other without it.
    fn may_be_ready(&self, split: &Split) -> bool {
        let has_secret = !split.leaving.contains(&self.id()) || self.next_secret(split).is_some();
        // What is dispatched here must not lie there any more: who holds it may not have heard of the order yet. Who is out
        // of reach is waited for by its own word, or was away and is told when it comes.
        let is_within = |segment: SegmentId| {
            !self.looks_after(segment)
                || !self.named(segment).iter().any(|&node| self.is_foreign(segment, node) && self.is_linked(node))
        };
        has_secret && self.config.planted.is(Mistake::ReadyAtOnce)
            || has_secret
                && self.engine.segments().all(|segment| !self.keeps_foreign(segment) && is_within(segment))
                && self.engine.open_segment().is_none_or(is_within)
    }

    fn next_secret(&self, split: &Split) -> Option<&NetworkSecret> {
        self.splits.secret.as_ref().filter(|secret| secret.name() == split.id)
    }

    /// The secret that this node will be known by, if a split comes about: it trusts it already.
    pub(super) fn next_network(&self) -> Option<&NetworkSecret> {
        let secret = self.splits.secret.as_ref()?;
        let split = self.splits.order(secret.name())?;
        let leaves = split.leaving.contains(&self.id()) && self.splits.state(split.id) != State::TakenBack;
        leaves.then_some(secret)
    }

    fn is_ready_for(&self, split: &Split, node: NodeId) -> bool {
        self.engine.set_contains(&ready_key(), &member(split.id, node))
    }

    /// Who has to be ready and is not. Who was away when it was ordered is waited for only while it is there; so is who came
    /// later. Who was forgotten since is not.
    fn waits_for(&self, split: &Split) -> BTreeSet<NodeId> {
        let counts = |node: &NodeId| split.is_waited_for(*node) || *node == self.id() || self.is_linked(*node);
        let is_waited_for = |node: &NodeId| counts(node) && !self.splits.is_ready(split, *node);
        self.roster_ids().into_iter().filter(is_waited_for).collect()
    }

    fn write_order(&mut self, split: Split, now: Now) {
        self.write_register(split.key(), split.encode(), now);
        self.splits.add(split);
    }

    fn take_back(&mut self, split: &Split) {
        self.add_to(back_key(), split.id.to_le_bytes().to_vec());
    }

    /// Registry keys changed: follow those that tell of splits, before anything is told to others.
    pub(super) fn note_splits(&mut self, now: Now, keys: &[Key]) {
        let told = keys.iter().filter(|key| self.note_order(key)).count();
        if told > 0 {
            self.look_at_orders();
            self.members.mark_dirty();
            self.carry_on_with_cut(now);
        }
    }

    /// Somebody hands on the secret of the part that this node leaves with.
    pub(super) fn take_secret(&mut self, secret: NetworkSecret) {
        let Some(split) = self.open_split() else { return };
        if secret.name() == split.id && split.leaving.contains(&self.id()) && self.next_secret(split).is_none() {
            self.splits.secret = Some(secret.clone());
            self.outputs.push_back(Output::Keep(Some(secret)));
            self.trust_networks();
        }
    }

    /// Whoever heard of the order late may have named a node of the other part that was ready already: that has nothing, and
    /// will not take it.
    fn strike_those_who_are_ready(&mut self, split: &Split) {
        let mine: Vec<_> = self.engine.segments().filter(|&segment| self.looks_after(segment)).collect();
        for segment in mine {
            let is_idle = |&node: &NodeId| self.is_foreign(segment, node) && self.splits.is_ready(split, node);
            for node in self.named(segment).into_iter().filter(is_idle).collect::<Vec<_>>() {
                self.strike_out(holders_key(segment), node);
            }
        }
    }

    /// Of two that were ordered at the same time the one with the greater id gives way: whoever it waits for, and who is not
    /// ready for it, takes it back. Else nodes that are ready for the one would wait for ever for those that are for the other.
    fn settle_rivals(&mut self) {
        let open = self.splits.orders().filter(|split| self.is_open(split.id));
        let mine = open.skip(1).filter(|split| self.may_take_back(split)).cloned().collect::<Vec<_>>();
        mine.iter().for_each(|split| self.take_back(split));
        if !mine.is_empty() {
            self.look_at_orders();
        }
    }

    /// Whether nobody can have cut, nor ever will once this node has taken the order back: it is waited for and is not ready.
    fn may_take_back(&self, split: &Split) -> bool {
        let me = self.id();
        split.is_waited_for(me) && !self.is_ready_for(split, me)
    }

    /// Who may take the order back, as far as is known here. With others a split may be done although they are not ready.
    fn revocable_at(&self, split: &Split) -> BTreeSet<NodeId> {
        self.waits_for(split).into_iter().filter(|&node| split.is_waited_for(node)).collect()
    }

    /// The part of upkeep.
    pub(super) fn look_at_split(&mut self, now: Now) {
        self.close_parting(now);
        self.carry_on_with_cut(now);
        self.look_for_own_part(now);
        self.look_at_former_networks(now);
        self.settle_rivals();
        let Some(split) = self.open_split().cloned() else { return };
        if let Some(secret) = self.next_secret(&split).cloned() {
            // Also who is ready: restored from a backup that has no such file, it lacks the secret all the same.
            let message = Control::Secret(Hidden(*secret.as_bytes()));
            let others = split.leaving.iter().copied().filter(|node| *node != self.id());
            others.collect::<Vec<_>>().into_iter().for_each(|node| self.send_control(node, &message));
        }
        self.strike_those_who_are_ready(&split);
        if !self.is_ready_for(&split, self.id()) && self.may_be_ready(&split) {
            self.add_to(ready_key(), member(split.id, self.id()));
            self.look_at_orders();
        }
    }
}
