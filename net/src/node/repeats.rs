//! What the layer above needs to answer for a message that was taken before, here or elsewhere: on how many disks it is, and
//! whether all that has come in is known.

use rhizomq_engine::{BlockRef, Dot};

use super::{Event, Node, PublishId};

impl Node {
    /// Asks for the confirmation of a message that is on this node's disk, whoever took it: [`Event::Confirmed`] follows, by
    /// the rules for one that is published. `None` if it is not here, or consumed.
    pub fn confirm_again(&mut self, dot: Dot) -> Option<PublishId> {
        let message = self.engine.message(dot).ok().flatten()?;
        // Tickets of the engine are counted from 1, and never get so far.
        self.again += 1;
        let publish = PublishId(u64::MAX - self.again);
        if message.persistent {
            let Dot { segment, slot } = dot;
            let place = BlockRef { segment, first: slot, last: slot, persistent: true };
            self.confirms.await_again(place, publish);
            self.confirm_ready();
        } else {
            self.events.push_back(Event::Confirmed { publish, copies: 1 });
        }
        Some(publish)
    }

    /// The number of the commit after which all that has come in from other nodes is on disk and known; `None` if it is.
    pub fn incoming_commit(&self) -> Option<u64> {
        let commits = self.engine.incoming_commits();
        (commits > 0).then(|| self.committed_seq.saturating_add(commits))
    }

    /// Whether that commit, or one after it, is done.
    pub fn has_done_commit(&self, number: u64) -> bool {
        self.committed_seq >= number
    }
}
