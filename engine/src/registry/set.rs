//! The crate's observed-remove set, and its members in order.
//!
//! Whoever asks the crate for members, or whether there is one, gets a copy of the set's whole clock with the answer, which
//! has an actor for each life of each node that ever added: with a thousand nodes that costs more than all that they say to
//! each other. So the members are kept beside it.

use std::collections::BTreeSet;

use crdts::{CmRDT, CvRDT, Orswot};

use super::{RegistryError, value::Actor};
use crate::Epoch;

/// An OR-set of bytes. Equality is equality of state.
#[derive(Clone, Debug)]
pub struct Set {
    state: Orswot<Vec<u8>, Actor>,
    /// Those of `state`, always.
    members: BTreeSet<Vec<u8>>,
}

impl PartialEq for Set {
    fn eq(&self, other: &Self) -> bool {
        self.state == other.state
    }
}

impl Eq for Set {}

impl From<Orswot<Vec<u8>, Actor>> for Set {
    fn from(state: Orswot<Vec<u8>, Actor>) -> Self {
        // Not `iter`: it gives each member a copy of the clock.
        let members = state.read().val.into_iter().collect();
        Self { state, members }
    }
}

impl Set {
    pub(super) fn new() -> Self {
        Self { state: Orswot::new(), members: BTreeSet::new() }
    }

    /// As the crate has it.
    pub(super) fn state(&self) -> &Orswot<Vec<u8>, Actor> {
        &self.state
    }

    /// In order.
    pub(super) fn members(&self) -> impl Iterator<Item = &[u8]> {
        self.members.iter().map(Vec::as_slice)
    }

    pub(super) fn contains(&self, member: &[u8]) -> bool {
        self.members.contains(member)
    }

    /// The number of a life's last add that is known here. Adds of a life are numbered from 1.
    pub(super) fn last_add(&self, life: Epoch) -> u64 {
        let clock = self.state.read_ctx().add_clock;
        clock.iter().filter(|dot| dot.actor.1 == life).map(|dot| dot.counter).max().unwrap_or(0)
    }

    /// Without effect if it is refused.
    pub(super) fn add(&mut self, member: Vec<u8>, actor: Actor) -> Result<(), RegistryError> {
        let context = self.state.read_ctx();
        if context.add_clock.get(&actor) == u64::MAX {
            return Err(RegistryError::Exhausted);
        }
        self.members.insert(member.clone());
        self.state.apply(self.state.add(member, context.derive_add_ctx(actor)));
        Ok(())
    }

    /// Whether it was in the set.
    pub(super) fn remove(&mut self, member: &[u8]) -> bool {
        let was_in = self.members.remove(member);
        if was_in {
            let found = self.state.contains(&member.to_vec());
            self.state.apply(self.state.rm(member.to_vec(), found.derive_rm_ctx()));
        }
        was_in
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.state.merge(other.state.clone());
        *self = std::mem::replace(self, Self::new()).state.into();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::NodeId;

    #[derive(Clone, Debug)]
    enum Step {
        Add(usize, u8),
        Remove(usize, u8),
        Merge(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3usize, 0..6u8).prop_map(|(at, member)| Step::Add(at, member)),
            (0..3usize, 0..6u8).prop_map(|(at, member)| Step::Remove(at, member)),
            (0..3usize, 0..3usize).prop_map(|(to, from)| Step::Merge(to, from)),
        ]
    }

    #[test]
    fn a_set_remembers_the_adds_of_a_life_when_their_members_are_gone() {
        let (mut here, mut there) = (Set::new(), Set::new());
        let (one, two) = ((NodeId([1; 16]), Epoch(7)), (NodeId([2; 16]), Epoch(8)));
        here.add(vec![1], one).unwrap();
        here.add(vec![2], one).unwrap();
        here.remove(&[1]);
        there.add(vec![3], two).unwrap();
        assert_eq!([here.last_add(Epoch(7)), here.last_add(Epoch(8)), there.last_add(Epoch(7))], [2, 0, 0]);
        there.merge(&here);
        assert_eq!([there.last_add(Epoch(7)), there.last_add(Epoch(8))], [2, 1]);
        assert!(!there.contains(&[1]));
    }

    proptest! {
        #[test]
        fn the_members_are_those_of_the_state(steps in prop::collection::vec(step(), 0..60)) {
            let mut sets = [Set::new(), Set::new(), Set::new()];
            for step in steps {
                match step {
                    Step::Add(at, member) => {
                        sets[at].add(vec![member], (NodeId([at as u8; 16]), Epoch(1))).unwrap();
                        prop_assert!(sets[at].contains(&[member]));
                    }
                    Step::Remove(at, member) => {
                        let was_in = sets[at].state.contains(&vec![member]).val;
                        prop_assert_eq!(sets[at].remove(&[member]), was_in);
                        prop_assert!(!sets[at].contains(&[member]));
                    }
                    Step::Merge(to, from) => {
                        let other = sets[from].clone();
                        sets[to].merge(&other);
                    }
                }
                for set in &sets {
                    let mut members: Vec<_> = set.state.read().val.into_iter().collect();
                    members.sort_unstable();
                    prop_assert_eq!(set.members().map(<[u8]>::to_vec).collect::<Vec<_>>(), members);
                }
            }
        }
    }
}
