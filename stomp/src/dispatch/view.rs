//! What dispatch sees of the node beneath it.

use std::{collections::BTreeSet, sync::Arc};

use rhizomq_engine::{Dot, Message, NodeId, RangeSet, SegmentId, Slot};
use rhizomq_net::Node;

/// Links, liveness and waiting messages, as this node knows them now.
pub(crate) trait View {
    /// Nodes that can be sent to.
    fn linked(&self) -> Vec<NodeId>;
    /// Nodes that were split off: what they took is none of this node's business.
    fn split_off(&self) -> Vec<NodeId>;
    /// Whether the node is held alive; this one always is.
    fn is_alive(&self, node: NodeId) -> bool;
    /// Whether the node stands on the same site as this one.
    fn is_near(&self, node: NodeId) -> bool;
    /// Who may own a segment, in order of precedence.
    fn candidates(&self, segment: SegmentId) -> Vec<NodeId>;
    /// The replicas kept here.
    fn segments(&self) -> Vec<SegmentId>;
    /// Whether one is kept of this segment.
    fn has_replica(&self, segment: SegmentId) -> bool;
    /// Whether all of it is known to be over.
    fn is_over(&self, segment: SegmentId) -> bool;
    /// Whether any of its messages waits.
    fn has_waiting(&self, segment: SegmentId) -> bool;
    /// Waiting messages that this node looks after and that lack copies.
    fn lacking(&self) -> u64;
    /// Inboxes with waiting messages.
    fn inboxes(&self) -> Vec<Arc<str>>;
    /// Some inboxes with waiting messages, in order: the first ones behind this name.
    fn inboxes_after(&self, last: Option<&str>, limit: usize) -> Vec<Arc<str>>;
    /// The first of them, in order, that is called so or comes after it.
    fn inbox_from(&self, name: &str) -> Option<Arc<str>>;
    /// Segments in which messages of an inbox wait, with their number.
    fn inbox_segments(&self, inbox: &str) -> Vec<(SegmentId, u64)>;
    /// Inboxes that any of these slots belongs to.
    fn inboxes_with(&self, segment: SegmentId, slots: &RangeSet) -> BTreeSet<Arc<str>>;
    /// Inboxes of which messages wait in a segment.
    fn inboxes_of(&self, segment: SegmentId) -> Vec<Arc<str>>;
    /// The first waiting slot of an inbox in a segment at or after `from`.
    fn next_waiting(&self, inbox: &str, segment: SegmentId, from: Slot) -> Option<Slot>;
    /// A message; `None` if it is not here or consumed, an error if it can't be read.
    fn message(&self, dot: Dot) -> Result<Option<Message>, String>;
    /// Whether it is consumed, or about to be.
    fn is_removed(&self, dot: Dot) -> bool;
    /// What is consumed of a segment.
    fn removed_slots(&self, segment: SegmentId) -> RangeSet;
}

impl View for Node {
    fn linked(&self) -> Vec<NodeId> {
        Node::linked(self)
    }

    fn split_off(&self) -> Vec<NodeId> {
        self.gone().collect()
    }

    fn is_alive(&self, node: NodeId) -> bool {
        Node::is_alive(self, node)
    }

    fn is_near(&self, node: NodeId) -> bool {
        Node::is_near(self, node)
    }

    fn candidates(&self, segment: SegmentId) -> Vec<NodeId> {
        Node::candidates(self, segment)
    }

    fn segments(&self) -> Vec<SegmentId> {
        self.engine().segments().collect()
    }

    fn has_replica(&self, segment: SegmentId) -> bool {
        self.engine().has_replica(segment)
    }

    fn is_over(&self, segment: SegmentId) -> bool {
        self.engine().is_retired(segment)
    }

    fn has_waiting(&self, segment: SegmentId) -> bool {
        !self.engine().waiting_in(segment).is_empty()
    }

    fn lacking(&self) -> u64 {
        self.under_replicated()
    }

    fn inboxes(&self) -> Vec<Arc<str>> {
        self.engine().inboxes().map(|(inbox, _)| inbox.into()).collect()
    }

    fn inboxes_after(&self, last: Option<&str>, limit: usize) -> Vec<Arc<str>> {
        self.engine().inboxes_after(last).take(limit).cloned().collect()
    }

    fn inbox_from(&self, name: &str) -> Option<Arc<str>> {
        self.engine().inbox_from(name).cloned()
    }

    fn inbox_segments(&self, inbox: &str) -> Vec<(SegmentId, u64)> {
        self.engine().inbox_segments(inbox).collect()
    }

    fn inboxes_with(&self, segment: SegmentId, slots: &RangeSet) -> BTreeSet<Arc<str>> {
        self.engine().inboxes_with(segment, slots)
    }

    fn inboxes_of(&self, segment: SegmentId) -> Vec<Arc<str>> {
        self.engine().inboxes_of(segment)
    }

    fn next_waiting(&self, inbox: &str, segment: SegmentId, from: Slot) -> Option<Slot> {
        self.engine().next_waiting(inbox, segment, from)
    }

    fn message(&self, dot: Dot) -> Result<Option<Message>, String> {
        self.engine().message(dot).map_err(|error| error.to_string())
    }

    fn is_removed(&self, dot: Dot) -> bool {
        self.engine().is_removed(dot)
    }

    fn removed_slots(&self, segment: SegmentId) -> RangeSet {
        self.engine().removed_slots(segment)
    }
}
