//! The member's side: what it took of each observer, in one life of that, so that what is sent again is answered and not
//! kept again.

use std::collections::BTreeMap;

use rhizomq_engine::{Epoch, NodeId};
use rhizomq_net::PublishId;

use super::msg::Outcome;

/// Units of one observer whose fate is remembered; it never waits for so many answers.
const MAX_FATES: usize = 4096;
/// Observers that are remembered.
const MAX_OBSERVERS: usize = 4096;

/// What is to be done with a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Keep it.
    New,
    /// It is being kept, or is answered for good.
    Known,
    /// Say this again, or at once.
    Answer(Outcome),
}

struct Observer {
    life: Epoch,
    floor: u64,
    /// `None`: on its way to the disk.
    fates: BTreeMap<u64, Option<Outcome>>,
}

/// See the module docs.
#[derive(Default)]
pub(crate) struct Intake {
    observers: BTreeMap<NodeId, Observer>,
    publishing: BTreeMap<PublishId, (NodeId, Epoch, u64)>,
}

impl Intake {
    /// Whether nothing of others is on its way to the disk.
    pub(crate) fn is_empty(&self) -> bool {
        self.publishing.is_empty()
    }

    /// A unit came.
    pub(crate) fn take(&mut self, from: NodeId, life: Epoch, seq: u64, floor: u64) -> Taken {
        if self.observers.len() >= MAX_OBSERVERS && !self.observers.contains_key(&from) {
            return Taken::Answer(Outcome::Refused("too many observers".to_owned()));
        }
        let new = || Observer { life, floor: 0, fates: BTreeMap::new() };
        let observer = self.observers.entry(from).or_insert_with(new);
        if observer.life != life {
            *observer = new();
        }
        observer.floor = floor.max(observer.floor);
        observer.fates = observer.fates.split_off(&observer.floor);
        if seq < observer.floor {
            return Taken::Known;
        }
        match observer.fates.get(&seq) {
            Some(None) => Taken::Known,
            Some(Some(outcome)) => Taken::Answer(outcome.clone()),
            None if observer.fates.len() >= MAX_FATES => {
                Taken::Answer(Outcome::Refused("too many units without an answer".to_owned()))
            }
            None => Taken::New,
        }
    }

    /// A new unit is on its way to the disk.
    pub(crate) fn note(&mut self, publish: PublishId, from: NodeId, life: Epoch, seq: u64) {
        self.publishing.insert(publish, (from, life, seq));
        self.set(from, life, seq, None);
    }

    /// The fate of a unit that never got as far.
    pub(crate) fn refuse(&mut self, from: NodeId, life: Epoch, seq: u64, outcome: Outcome) {
        self.set(from, life, seq, Some(outcome));
    }

    /// The fate of a unit: whom to tell, if it was an observer's, and under which number.
    pub(crate) fn settle(&mut self, publish: PublishId, outcome: &Outcome) -> Option<(NodeId, u64)> {
        let (from, life, seq) = self.publishing.remove(&publish)?;
        self.set(from, life, seq, Some(outcome.clone()));
        self.observers.get(&from).is_some_and(|observer| observer.life == life).then_some((from, seq))
    }

    fn set(&mut self, from: NodeId, life: Epoch, seq: u64, fate: Option<Outcome>) {
        if let Some(observer) = self.observers.get_mut(&from).filter(|observer| observer.life == life)
            && seq >= observer.floor
        {
            observer.fates.insert(seq, fate);
        }
    }

    /// Forgets observers that are gone for good, as far as anybody knows.
    pub(crate) fn retain(&mut self, is_known: impl Fn(NodeId) -> bool) {
        self.observers.retain(|node, _| is_known(*node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBSERVER: NodeId = NodeId([3; 16]);

    #[test]
    fn what_is_sent_again_in_the_same_life_is_answered_and_not_kept_again() {
        let mut intake = Intake::default();
        let life = Epoch(1);
        assert_eq!(intake.take(OBSERVER, life, 1, 1), Taken::New);
        intake.note(PublishId(9), OBSERVER, life, 1);
        assert_eq!(intake.take(OBSERVER, life, 1, 1), Taken::Known, "under way");
        assert_eq!(intake.settle(PublishId(9), &Outcome::Kept(2)), Some((OBSERVER, 1)));
        assert_eq!(intake.settle(PublishId(9), &Outcome::Kept(2)), None);
        assert_eq!(intake.take(OBSERVER, life, 1, 1), Taken::Answer(Outcome::Kept(2)));
        assert_eq!(intake.take(OBSERVER, life, 2, 2), Taken::New);
        assert_eq!(intake.take(OBSERVER, life, 1, 1), Taken::Known, "it has the answer");
        assert_eq!(intake.take(OBSERVER, Epoch(2), 1, 1), Taken::New, "another life, other numbers");
    }

    #[test]
    fn memory_is_bounded() {
        let mut intake = Intake::default();
        for seq in 1..=MAX_FATES as u64 {
            assert_eq!(intake.take(OBSERVER, Epoch(1), seq, 1), Taken::New);
            intake.note(PublishId(seq), OBSERVER, Epoch(1), seq);
        }
        let beyond = intake.take(OBSERVER, Epoch(1), MAX_FATES as u64 + 1, 1);
        assert!(matches!(beyond, Taken::Answer(Outcome::Refused(_))), "{beyond:?}");
        assert_eq!(intake.take(OBSERVER, Epoch(1), MAX_FATES as u64 + 1, 2), Taken::New);
        intake.retain(|_| false);
        assert!(intake.observers.is_empty());
    }
}
