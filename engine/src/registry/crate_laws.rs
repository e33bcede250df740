//! The laws that we rely on, held against the crate's own types, as we use them: changes on whole states, and merges of
//! whole states. A new version of the crate must pass here before anything else is looked at.

use std::collections::BTreeSet;

use crdts::{CmRDT, CvRDT, LWWReg, Orswot};
use proptest::{collection::vec, prelude::*};

type Set = Orswot<u8, (u8, u64)>;

#[derive(Clone, Debug)]
enum Step {
    Add(usize, u8),
    Remove(usize, u8),
    Merge(usize, usize),
    Restart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0..3usize;
    prop_oneof![
        3 => (n(), 0..5u8).prop_map(|(n, member)| Step::Add(n, member)),
        2 => (n(), 0..5u8).prop_map(|(n, member)| Step::Remove(n, member)),
        3 => (n(), n()).prop_map(|(from, to)| Step::Merge(from, to)),
        1 => n().prop_map(Step::Restart),
    ]
}

fn merged(a: &Set, b: &Set) -> Set {
    let mut out = a.clone();
    out.merge(b.clone());
    out
}

fn members(set: &Set) -> BTreeSet<u8> {
    set.read().val.into_iter().collect()
}

/// Adds and removals with names, for ever.
#[derive(Clone, Default)]
struct Model {
    added: BTreeSet<(u8, u64)>,
    removed: BTreeSet<(u8, u64)>,
}

impl Model {
    fn merge(&mut self, other: &Self) {
        self.added.extend(&other.added);
        self.removed.extend(&other.removed);
    }

    fn members(&self) -> BTreeSet<u8> {
        self.added.difference(&self.removed).map(|(member, _)| *member).collect()
    }
}

/// A set, and what it ought to hold.
type Replica = (Set, Model);

/// The last states of three replicas, and every state that any of them ever had.
fn run(steps: &[Step]) -> (Vec<Replica>, Vec<Replica>) {
    let mut replicas = vec![(Set::new(), Model::default()); 3];
    let mut past = Vec::new();
    let mut lives = [0; 3];
    for (name, step) in (0u64..).zip(steps) {
        let changed = match *step {
            Step::Add(n, member) => {
                let (set, model) = &mut replicas[n];
                let context = set.read_ctx().derive_add_ctx((n as u8, lives[n]));
                set.apply(set.add(member, context));
                model.added.insert((member, name));
                n
            }
            Step::Remove(n, member) => {
                let (set, model) = &mut replicas[n];
                let context = set.contains(&member).derive_rm_ctx();
                set.apply(set.rm(member, context));
                model
                    .removed
                    .extend(model.added.iter().filter(|(added, _)| *added == member).copied().collect::<Vec<_>>());
                n
            }
            Step::Merge(from, to) => {
                let (set, model) = replicas[from].clone();
                replicas[to].0.merge(set);
                replicas[to].1.merge(&model);
                to
            }
            Step::Restart(n) => {
                lives[n] += 1;
                n
            }
        };
        assert_eq!(members(&replicas[changed].0), replicas[changed].1.members());
        past.push(replicas[changed].clone());
    }
    (replicas, past)
}

proptest! {
    #[test]
    fn merging_whole_sets_is_a_join_and_does_what_the_model_says(steps in vec(step(), 0..60)) {
        let (replicas, past) = run(&steps);
        let [a, b, c] = [0, 1, 2].map(|n: usize| &replicas[n].0);
        prop_assert_eq!(&merged(a, a), a);
        prop_assert_eq!(merged(a, b), merged(b, a));
        prop_assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
        // Any two states that there ever were merge as their models do.
        for (x, x_model) in past.iter().rev().take(12) {
            for (y, y_model) in &past {
                let mut model = x_model.clone();
                model.merge(y_model);
                prop_assert_eq!(members(&merged(x, y)), model.members());
            }
        }
    }

    #[test]
    fn merging_old_whole_sets_resurrects_nothing(steps in vec(step(), 0..60), order in any::<u64>()) {
        let (replicas, past) = run(&steps);
        let all = replicas.iter().fold(Set::new(), |all, (set, _)| merged(&all, set));
        let mut again = all.clone();
        let start = order as usize % past.len().max(1);
        for (old, _) in past[start..].iter().rev().chain(&past[..start]).chain(&past) {
            again.merge(old.clone());
            prop_assert_eq!(&again, &all);
        }
    }

    #[test]
    fn merging_registers_is_a_join_where_stamps_are_unique(writes in vec((any::<u8>(), any::<u16>()), 3..20)) {
        // A stamp names its content, as ours do: they end in the node and its life.
        let writes: std::collections::BTreeMap<u16, u8> = writes.into_iter().map(|(content, stamp)| (stamp, content)).collect();
        let registers: Vec<_> = writes.iter().map(|(marker, val)| LWWReg { val: *val, marker: *marker }).collect();
        let merged = |a: &LWWReg<u8, u16>, b: &LWWReg<u8, u16>| { let mut out = a.clone(); out.merge(b.clone()); out };
        for a in &registers {
            prop_assert_eq!(&merged(a, a), a);
            for b in &registers {
                prop_assert_eq!(merged(a, b), merged(b, a));
                prop_assert_eq!(&merged(a, b), if a.marker > b.marker { a } else { b });
                for c in &registers {
                    prop_assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
                }
            }
        }
    }
}

/// Why operations are never shipped: one that arrives before the one it follows hides that from the next merge.
#[test]
fn an_operation_that_jumps_over_an_unseen_one_would_lose_it() {
    let (mut a, mut b) = (Set::new(), Set::new());
    let first = a.add(1, a.read_ctx().derive_add_ctx((0, 0)));
    a.apply(first);
    let second = a.add(2, a.read_ctx().derive_add_ctx((0, 0)));
    a.apply(second.clone());
    b.apply(second);
    assert_eq!(
        members(&merged(&a, &b)),
        BTreeSet::from([2]),
        "if this holds both, the crate has become kinder than we need"
    );
}
