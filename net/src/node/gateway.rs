//! Which member keeps the messages of an observer's clients.

use std::cmp::Reverse;

use rhizomq_engine::{Epoch, NodeId};

use super::Node;

impl Node {
    /// The member that is to keep what clients of this node send, if it is an observer: of the members that are linked and
    /// store what they are sent one of this site, and of these the one with the highest hash of the pair. So observers
    /// spread over members, and each keeps to one. `None` if this node is a member, or no member is in reach.
    pub fn gateway(&self) -> Option<NodeId> {
        let me = self.id();
        let members = &self.members().members;
        if members.contains(&me) {
            return None;
        }
        let rank = |node: NodeId| {
            let hash =
                *blake3::Hasher::new_derive_key("rhizomq gateway").update(&me.0).update(&node.0).finalize().as_bytes();
            (!self.is_near(node), Reverse(hash))
        };
        members
            .iter()
            .copied()
            .filter(|&node| self.keeps_up(node) && self.is_with_me(node))
            .min_by_key(|&node| rank(node))
    }

    /// The life that a linked node is in.
    pub fn life_of(&self, node: NodeId) -> Option<Epoch> {
        self.peers.get(&node).map(|peer| peer.hello.epoch)
    }
}
