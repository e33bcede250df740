//! What comes back to an owner, and what leaves its queue by another way than to a client.
//!
//! Such a message is *aside*: in the owner's table of flights it is with this node itself, so nobody is sent it, and nothing
//! behind it waits for it. Either it has just come back, and what is to become of it is decided when the owner dispatches
//! next; or it waits until a time; or the broker takes it out of its queue, and it stays aside until it is consumed.
//!
//! All of this is in memory: whoever owns the segment next, or this node in its next life, knows nothing of it, and counts
//! from 1 again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rhizomq_engine::{Dot, RangeSet, SegmentId, Slot};

use super::msg::Return;

/// Messages of which an owner counts how often they came back; of more it does not.
const MAX_COUNTED: usize = 1 << 18;
/// Messages that wait until a time; more go back at once.
const MAX_DELAYED: usize = 1 << 16;
/// Expired messages that leave at a time: others wait, so that what they wait for is not all read at once.
const MAX_LEAVING: usize = 1024;

/// What holds for the messages of an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// After so many deliveries that came back a message leaves; `None`: never.
    pub(crate) max_deliveries: Option<u32>,
    /// How long what came back waits, ms.
    pub(crate) delay_ms: u64,
    /// How much longer after each further delivery, in percent of the last time.
    pub(crate) backoff_percent: u32,
    /// How long at most.
    pub(crate) max_delay_ms: u64,
    /// So many messages may wait; older ones leave. `None`: any number, or more are not taken.
    pub(crate) keeps: Option<u64>,
}

/// Deliveries of a message that nobody consumes, where no policy says otherwise.
pub(crate) const MAX_DELIVERIES: u32 = 20;

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_deliveries: Some(MAX_DELIVERIES),
            delay_ms: 0,
            backoff_percent: 100,
            max_delay_ms: u64::MAX,
            keeps: None,
        }
    }
}

impl Rules {
    /// How long a message waits that came back for so many times.
    fn delay_after(&self, returns: u32) -> u64 {
        let mut delay = self.delay_ms.min(self.max_delay_ms);
        for _ in 1..returns {
            let next = u128::from(delay) * u128::from(self.backoff_percent) / 100;
            let next = u64::try_from(next).unwrap_or(u64::MAX).min(self.max_delay_ms);
            if next == delay {
                break;
            }
            delay = next;
        }
        delay
    }
}

/// Who knows the rules of inboxes.
pub(crate) trait Rulebook {
    /// Those of one.
    fn rules_of(&self, inbox: &str) -> Rules;
}

/// Why a message leaves its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leave {
    /// Its time is over.
    Expired,
    /// A client does not want it, nor that anybody else gets it.
    Rejected,
    /// It came back too often.
    Deliveries,
    /// There are too many.
    Overflow,
}

/// What is to become of a message that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Again,
    Later,
    Leave(Leave),
}

enum Aside {
    Returned(Return),
    Until(u64),
    Leaving(Arc<str>),
}

/// See the module docs.
#[derive(Default)]
pub(super) struct Returns {
    counts: BTreeMap<Dot, u32>,
    asides: BTreeMap<Dot, Aside>,
    /// Those that have come back and were not looked at.
    news: BTreeSet<Dot>,
    /// Those that wait, by their time.
    due: BTreeSet<(u64, Dot)>,
    leaving: usize,
    /// By inbox.
    leaving_of: BTreeMap<Arc<str>, u64>,
    /// Inboxes that wait until fewer leave.
    stalled: BTreeSet<Arc<str>>,
}

impl Returns {
    /// How often it came back.
    pub(super) fn count(&self, dot: Dot) -> u32 {
        self.counts.get(&dot).copied().unwrap_or(0)
    }

    pub(super) fn is_aside(&self, dot: Dot) -> bool {
        self.asides.contains_key(&dot)
    }

    pub(super) fn is_leaving(&self, dot: Dot) -> bool {
        matches!(self.asides.get(&dot), Some(Aside::Leaving(_)))
    }

    /// It has come back.
    pub(super) fn take_in(&mut self, dot: Dot, why: Return) {
        self.asides.insert(dot, Aside::Returned(why));
        self.news.insert(dot);
    }

    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    pub(super) fn poll_news(&mut self) -> Option<Dot> {
        self.news.pop_first()
    }

    /// Decides about what came back.
    pub(super) fn judge(&mut self, dot: Dot, rules: &Rules, now_ms: u64) -> Fate {
        let Some(Aside::Returned(why)) = self.asides.remove(&dot) else { return Fate::Again };
        if why != Return::Expired && (self.counts.contains_key(&dot) || self.counts.len() < MAX_COUNTED) {
            let count = self.counts.entry(dot).or_insert(0);
            *count = count.saturating_add(1);
        }
        let count = self.count(dot);
        let delay_ms = rules.delay_after(count);
        match why {
            Return::Expired => Fate::Leave(Leave::Expired),
            Return::Rejected => Fate::Leave(Leave::Rejected),
            Return::Given if rules.max_deliveries.is_some_and(|max| count >= max) => Fate::Leave(Leave::Deliveries),
            Return::Given if delay_ms == 0 || self.due.len() >= MAX_DELAYED => Fate::Again,
            Return::Given => {
                let until = now_ms.saturating_add(delay_ms);
                self.asides.insert(dot, Aside::Until(until));
                self.due.insert((until, dot));
                Fate::Later
            }
        }
    }

    /// It leaves this inbox.
    pub(super) fn begin_leave(&mut self, dot: Dot, inbox: &Arc<str>) {
        self.forget_aside(dot);
        self.asides.insert(dot, Aside::Leaving(Arc::clone(inbox)));
        *self.leaving_of.entry(Arc::clone(inbox)).or_insert(0) += 1;
        self.leaving += 1;
    }

    /// How many leave an inbox.
    pub(super) fn leaving_of(&self, inbox: &str) -> u64 {
        self.leaving_of.get(inbox).copied().unwrap_or(0)
    }

    /// It stays after all, and is to be had again then. Whether it was about to leave.
    pub(super) fn end_leave(&mut self, dot: Dot, until: u64) -> bool {
        let is_leaving = self.is_leaving(dot);
        if is_leaving {
            self.forget_aside(dot);
            self.asides.insert(dot, Aside::Until(until));
            self.due.insert((until, dot));
        }
        is_leaving
    }

    /// Whether no more expired messages may leave for now.
    pub(super) fn is_full(&self) -> bool {
        self.leaving >= MAX_LEAVING
    }

    /// An inbox waits for that.
    pub(super) fn stall(&mut self, inbox: &Arc<str>) {
        self.stalled.insert(Arc::clone(inbox));
    }

    /// Inboxes that need not wait any more.
    pub(super) fn take_unstalled(&mut self) -> BTreeSet<Arc<str>> {
        if self.is_full() { BTreeSet::new() } else { std::mem::take(&mut self.stalled) }
    }

    /// When the first one has waited long enough.
    pub(super) fn deadline(&self) -> u64 {
        self.due.first().map_or(u64::MAX, |(until, _)| *until)
    }

    /// One that has waited long enough.
    pub(super) fn poll_due(&mut self, now_ms: u64) -> Option<Dot> {
        let &(until, dot) = self.due.first().filter(|(until, _)| *until <= now_ms)?;
        self.due.remove(&(until, dot));
        self.asides.remove(&dot);
        Some(dot)
    }

    /// These are consumed.
    pub(super) fn removed(&mut self, segment: SegmentId, slots: &RangeSet) {
        for (first, last) in slots.iter_ranges() {
            self.forget_between(segment, first, last);
        }
    }

    /// The segment is someone else's.
    pub(super) fn forget(&mut self, segment: SegmentId) {
        self.forget_between(segment, 0, Slot::MAX);
    }

    fn forget_between(&mut self, segment: SegmentId, first: Slot, last: Slot) {
        let range = Dot { segment, slot: first }..=Dot { segment, slot: last };
        let counted: Vec<_> = self.counts.range(range.clone()).map(|(dot, _)| *dot).collect();
        counted.iter().for_each(|dot| _ = self.counts.remove(dot));
        let asides: Vec<_> = self.asides.range(range).map(|(dot, _)| *dot).collect();
        asides.into_iter().for_each(|dot| self.forget_aside(dot));
    }

    fn forget_aside(&mut self, dot: Dot) {
        match self.asides.remove(&dot) {
            Some(Aside::Returned(_)) => drop(self.news.remove(&dot)),
            Some(Aside::Until(until)) => drop(self.due.remove(&(until, dot))),
            Some(Aside::Leaving(inbox)) => {
                self.leaving -= 1;
                if let Some(count) = self.leaving_of.get_mut(&inbox) {
                    *count -= 1;
                    if *count == 0 {
                        self.leaving_of.remove(&inbox);
                    }
                }
            }
            None => {}
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.counts.len()
            + self.asides.len()
            + self.news.len()
            + self.due.len()
            + self.leaving
            + self.leaving_of.len()
            + self.stalled.len()
    }
}

#[cfg(test)]
mod tests {
    use rhizomq_engine::{Epoch, NodeId};

    use super::*;

    const SEGMENT: SegmentId = SegmentId { node: NodeId([1; 16]), epoch: Epoch(1), number: 1 };

    fn dot(slot: Slot) -> Dot {
        Dot { segment: SEGMENT, slot }
    }

    fn judged(returns: &mut Returns, slot: Slot, why: Return, rules: &Rules) -> Fate {
        returns.take_in(dot(slot), why);
        assert_eq!(returns.poll_news(), Some(dot(slot)));
        returns.judge(dot(slot), rules, 1_000)
    }

    #[test]
    fn delays_grow_up_to_the_longest() {
        let rules = Rules { delay_ms: 100, backoff_percent: 150, max_delay_ms: 300, ..Rules::default() };
        let delays: Vec<_> = (1..=5).map(|returns| rules.delay_after(returns)).collect();
        assert_eq!(delays, [100, 150, 225, 300, 300]);
        let forever = Rules { delay_ms: 1_000, backoff_percent: 1_000, ..Rules::default() };
        assert_eq!((Rules::default().delay_after(9), forever.delay_after(u32::MAX)), (0, u64::MAX));
    }

    #[test]
    fn what_came_back_too_often_leaves_and_before_that_it_waits() {
        let mut returns = Returns::default();
        let rules = Rules { max_deliveries: Some(3), delay_ms: 50, ..Rules::default() };
        for expected in [1, 2] {
            assert_eq!(judged(&mut returns, 7, Return::Given, &rules), Fate::Later);
            assert_eq!((returns.count(dot(7)), returns.deadline()), (expected, 1_050));
            assert!(returns.is_aside(dot(7)) && returns.poll_due(1_049).is_none());
            assert_eq!((returns.poll_due(1_050), returns.poll_due(1_050)), (Some(dot(7)), None));
        }
        assert_eq!(judged(&mut returns, 7, Return::Given, &rules), Fate::Leave(Leave::Deliveries));
        assert_eq!(judged(&mut returns, 8, Return::Rejected, &rules), Fate::Leave(Leave::Rejected));
        assert_eq!(judged(&mut returns, 9, Return::Expired, &rules), Fate::Leave(Leave::Expired));
        assert_eq!((returns.count(dot(8)), returns.count(dot(9))), (1, 0), "nobody has seen the latter");
        let without = Rules { max_deliveries: None, ..Rules::default() };
        (0..100).for_each(|_| assert_eq!(judged(&mut returns, 1, Return::Given, &without), Fate::Again));
        returns.removed(SEGMENT, &RangeSet::from_range(1, 9));
        assert_eq!(returns.remembered(), 0);
    }

    #[test]
    fn only_so_many_leave_at_a_time_and_whoever_waits_for_that_is_told() {
        let mut returns = Returns::default();
        (0..MAX_LEAVING as Slot).for_each(|slot| returns.begin_leave(dot(slot + 1), &"a".into()));
        returns.stall(&"a".into());
        assert_eq!((returns.leaving_of("a"), returns.leaving_of("b")), (MAX_LEAVING as u64, 0));
        assert!(returns.is_full() && returns.is_leaving(dot(1)) && returns.take_unstalled().is_empty());
        returns.removed(SEGMENT, &RangeSet::from_range(3, 3));
        assert_eq!(returns.take_unstalled(), BTreeSet::from(["a".into()]));
        returns.forget(SEGMENT);
        assert_eq!(returns.remembered(), 0);
    }
}
