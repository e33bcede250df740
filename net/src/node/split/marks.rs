//! Marks that splits leave in the registry: members of sets that are only ever added.

use rhizomq_engine::{Key, NodeId};

use super::orders::SplitId;

/// Who holds nothing of the other part, by split.
pub(super) fn ready_key() -> Key {
    Key::set("split/ready")
}

/// Orders that were carried out.
pub(super) fn cut_key() -> Key {
    Key::set("split/cut")
}

/// Orders that were taken back.
pub(super) fn back_key() -> Key {
    Key::set("split/back")
}

/// Whom a part does not see any more.
pub(super) fn gone_key() -> Key {
    Key::set("gone")
}

/// Who has missed how its part left, by split, and has not met that part since. Only its own node adds and removes one.
pub(super) fn strayed_key() -> Key {
    Key::set("split/strayed")
}

/// Splits that a merge has healed.
pub(super) fn over_key() -> Key {
    Key::set("split/over")
}

pub(super) fn read_id(bytes: &[u8]) -> Option<SplitId> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// A split and a node.
pub(super) fn member(id: SplitId, node: NodeId) -> Vec<u8> {
    [&id.to_le_bytes()[..], &node.0].concat()
}

pub(super) fn read_member(bytes: &[u8]) -> Option<(SplitId, NodeId)> {
    let (id, node) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*id), NodeId(node.try_into().ok()?)))
}

/// A member of the set `gone`: a node that the marking one's part does not see any more.
pub(super) struct Gone {
    pub(super) split: SplitId,
    /// Whether it is of the part that left.
    pub(super) left: bool,
    pub(super) node: NodeId,
}

impl Gone {
    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.split.to_le_bytes()[..], &[u8::from(self.left)], &self.node.0].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (split, rest) = bytes.split_first_chunk::<8>()?;
        let (left, node) = rest.split_first()?;
        Some(Self { split: u64::from_le_bytes(*split), left: *left == 1, node: NodeId(node.try_into().ok()?) })
    }
}
