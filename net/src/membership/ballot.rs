//! What travels in the registry: ballots and seats.

use std::collections::BTreeSet;

use rhizomq_engine::{Epoch, NodeId};
use serde::{Deserialize, Serialize};

/// Version of an encoded ballot.
const VERSION: u8 = 1;

/// What a node publishes of itself and the others. Whom it does *not* reach, and not whom it reaches: in a healthy cluster
/// of any size that is next to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ballot {
    /// The life it is of. A seat of another life is none.
    pub(crate) epoch: Epoch,
    /// Whether this life has just begun: others come first.
    pub(crate) starting: bool,
    /// How many members it proposes.
    pub(crate) proposal: u32,
    /// Nodes of the roster that it does not reach.
    pub(crate) unreached: BTreeSet<NodeId>,
    /// Nodes that it lost and found again too often of late.
    pub(crate) unsteady: BTreeSet<NodeId>,
}

impl Ballot {
    /// As it is stored.
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(&(VERSION, self)).expect("a ballot of numbers and ids always encodes")
    }

    /// What was stored; `None` if it is not a ballot that this program reads: its node counts as one without a ballot.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        (*version == VERSION).then(|| postcard::from_bytes(rest).ok())?
    }
}

/// A seat: its node's, in one life, since then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seat {
    /// Later than every seat its node knew of: order of tenure, not a time to be relied on.
    pub(crate) tenure: u64,
    /// Whose.
    pub(crate) node: NodeId,
    /// In which life.
    pub(crate) epoch: Epoch,
}

impl Seat {
    /// As a member of a registry set.
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&self.node.0[..], &self.epoch.0.to_be_bytes(), &self.tenure.to_be_bytes()].concat()
    }

    /// What was a member of a registry set; `None` if it is not a seat.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (node, rest) = bytes.split_first_chunk::<16>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let tenure = u64::from_be_bytes(rest.try_into().ok()?);
        Some(Self { tenure, node: NodeId(*node), epoch: Epoch(u64::from_be_bytes(*epoch)) })
    }
}
