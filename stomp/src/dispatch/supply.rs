//! An edge's credit: how the free places of an inbox's consumers are shared out among the owners that have messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rhizomq_engine::NodeId;

use super::edge::Readers;

/// Bytes of messages of one inbox that may be under way to its consumers, estimated by the largest seen lately.
const UNDER_WAY_BYTES: usize = 4 << 20;
/// Credit for an inbox of which no message has been seen: they may all be as large as a body may be.
const FIRST_CREDIT: u64 = 4;

/// One inbox at this edge.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) readers: Readers,
    pub(super) supplies: BTreeMap<NodeId, Supply>,
    /// Bytes of the largest message seen; older ones fade.
    size: usize,
    /// Whose turn it is among the owners.
    turn: usize,
    /// What is asked for by one of the readers alone and could be granted more if this inbox had not granted so much: the first
    /// one has waited for longest.
    pub(super) starved: BTreeMap<u64, Arc<str>>,
    /// The place among these, of such an inbox.
    pub(super) starved_at: Option<u64>,
    /// Whether these come first the next time.
    pub(super) starved_first: bool,
}

/// What is agreed with one owner.
#[derive(Default)]
pub(super) struct Supply {
    /// Granted, in total.
    pub(super) limit: u64,
    pub(super) received: u64,
    /// What it has for us, as far as it has told.
    pub(super) view: u64,
    pub(super) round: u32,
    /// The interest was withdrawn; until `Closed` arrives nothing is granted.
    pub(super) closing: bool,
}

impl Supply {
    fn outstanding(&self) -> u64 {
        self.limit.saturating_sub(self.received)
    }

    /// What it has besides what it was granted.
    fn wants(&self) -> u64 {
        if self.closing { 0 } else { self.view.saturating_sub(self.outstanding()) }
    }
}

impl Inbox {
    /// Neither consumers nor counters that an owner still relies on.
    pub(super) fn is_idle(&self) -> bool {
        self.readers.is_empty() && self.supplies.is_empty()
    }

    /// Granted to all owners, and not used by them.
    pub(super) fn outstanding(&self) -> u64 {
        self.supplies.values().map(Supply::outstanding).sum()
    }

    /// A message of so many bytes has come from an owner.
    pub(super) fn count_received(&mut self, from: NodeId, size: usize) {
        self.size = size.max(self.size - self.size / 8).max(1);
        if let Some(supply) = self.supplies.get_mut(&from) {
            supply.received += 1;
            supply.view = supply.view.saturating_sub(1);
        }
    }

    /// Fits what is granted to the free places of consumers, of which `ready` may be granted anew. Returns the owners
    /// whose limit has changed.
    pub(super) fn balance(&mut self, free: u64, ready: u64) -> BTreeSet<NodeId> {
        let under_way = self.outstanding();
        let mut changed = BTreeSet::new();
        if under_way > free {
            self.take_back(under_way - free, &mut changed);
        } else {
            self.hand_out(ready.min(self.cap()).saturating_sub(under_way), &mut changed);
        }
        changed
    }

    /// What may be under way, whatever places there are.
    pub(super) fn cap(&self) -> u64 {
        UNDER_WAY_BYTES.checked_div(self.size).map_or(FIRST_CREDIT, |many| many.max(1) as u64)
    }

    /// Whether any owner has more than it was granted.
    pub(super) fn wants_more(&self) -> bool {
        self.supplies.values().any(|supply| supply.wants() > 0)
    }

    fn take_back(&mut self, mut excess: u64, changed: &mut BTreeSet<NodeId>) {
        for (owner, supply) in self.supplies.iter_mut().rev() {
            let cut = excess.min(supply.outstanding());
            if cut > 0 {
                supply.limit -= cut;
                excess -= cut;
                changed.insert(*owner);
            }
        }
    }

    /// Shares places out among the owners that have more than they were granted, each in turn.
    fn hand_out(&mut self, mut places: u64, changed: &mut BTreeSet<NodeId>) {
        let mut hungry: Vec<_> = self.supplies.iter_mut().filter(|(_, supply)| supply.wants() > 0).collect();
        if hungry.is_empty() || places == 0 {
            return;
        }
        self.turn = self.turn.wrapping_add(1);
        let start = self.turn % hungry.len();
        hungry.rotate_left(start);
        let mut left = hungry.len() as u64;
        for (owner, supply) in hungry {
            let share = places.div_ceil(left).min(supply.wants());
            if share > 0 {
                supply.limit = supply.limit.max(supply.received) + share;
                places -= share;
                changed.insert(*owner);
            }
            left -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeId {
        NodeId([byte; 16])
    }

    fn inbox(views: &[u64]) -> Inbox {
        let supply = |view: &u64| Supply { view: *view, ..Supply::default() };
        let supplies = views.iter().zip(1..).map(|(view, byte)| (node(byte), supply(view))).collect();
        Inbox { supplies, size: 100, ..Inbox::default() }
    }

    fn granted(inbox: &Inbox) -> Vec<u64> {
        inbox.supplies.values().map(Supply::outstanding).collect()
    }

    #[test]
    fn places_are_shared_and_nobody_gets_more_than_it_has() {
        let mut inbox = inbox(&[100, 2, 0]);
        inbox.balance(10, 10);
        assert_eq!(granted(&inbox), [8, 2, 0]);
        assert!(inbox.balance(10, 10).is_empty(), "all places are taken");
    }

    #[test]
    fn single_places_go_round() {
        let mut inbox = inbox(&[100, 100]);
        let mut got = BTreeMap::new();
        for _ in 0..10 {
            let changed = inbox.balance(1, 1);
            let owner = *changed.first().unwrap();
            *got.entry(owner).or_insert(0) += 1;
            inbox.count_received(owner, 1);
        }
        assert_eq!(got, BTreeMap::from([(node(1), 5), (node(2), 5)]));
    }

    #[test]
    fn lost_places_are_taken_back_and_the_books_agree_when_they_return() {
        let mut inbox = inbox(&[100]);
        inbox.balance(10, 10);
        inbox.count_received(node(1), 1);
        inbox.balance(2, 2);
        assert_eq!(granted(&inbox), [2]);
        // Three were under way already: the third comes beyond the limit.
        (0..3).for_each(|_| inbox.count_received(node(1), 1));
        assert_eq!(granted(&inbox), [0]);
        inbox.balance(5, 5);
        assert_eq!((granted(&inbox), inbox.supplies[&node(1)].limit), (vec![5], 9));
    }

    #[test]
    fn unknown_and_large_messages_get_little_credit_and_a_busy_socket_none() {
        let mut inbox = inbox(&[100]);
        inbox.size = 0;
        inbox.balance(50, 50);
        assert_eq!(granted(&inbox), [FIRST_CREDIT]);
        inbox.count_received(node(1), 2 << 20);
        inbox.balance(50, 50);
        assert_eq!(granted(&inbox), [FIRST_CREDIT - 1], "two of this size are enough; what is granted stays so");
        inbox.size = 1;
        assert!(inbox.balance(50, 0).is_empty());
    }
}
