//! Histories of three replicas against naive models, and bytes against what can have been written.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{Epoch, NodeId, hlc::Clock};

/// One step of a history on three replicas.
#[derive(Clone, Debug)]
enum Step {
    Add(usize, u8),
    Remove(usize, u8),
    Write(usize, u8, u64),
    Merge(usize, usize),
    Restart(usize),
    Save(usize),
    Restore(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0..3usize;
    prop_oneof![
        3 => (n.clone(), 0..5u8).prop_map(|(n, m)| Step::Add(n, m)),
        2 => (n.clone(), 0..5u8).prop_map(|(n, m)| Step::Remove(n, m)),
        2 => (n.clone(), any::<u8>(), 0..50u64).prop_map(|(n, v, t)| Step::Write(n, v, t)),
        4 => (n.clone(), n.clone()).prop_map(|(a, b)| Step::Merge(a, b)),
        1 => n.clone().prop_map(Step::Restart),
        1 => n.clone().prop_map(Step::Save),
        1 => n.prop_map(Step::Restore),
    ]
}

/// What a set and a register are, without any cleverness: every add has a name of its own, every removal is kept for
/// ever, and the last writer wins.
#[derive(Clone, Default, PartialEq, Debug)]
struct Model {
    added: BTreeSet<(u8, u64)>,
    removed: BTreeSet<(u8, u64)>,
    written: Option<(Stamp, u8)>,
}

impl Model {
    fn merge(&mut self, other: &Model) {
        self.added.extend(&other.added);
        self.removed.extend(&other.removed);
        self.written = self.written.max(other.written);
    }

    fn members(&self) -> Vec<Vec<u8>> {
        let members: BTreeSet<u8> = self.added.difference(&self.removed).map(|(member, _)| *member).collect();
        members.into_iter().map(|member| vec![member]).collect()
    }
}

#[derive(Clone, Default)]
struct Replica {
    registry: Registry,
    model: Model,
}

impl Replica {
    fn merge(&mut self, other: &Replica) {
        self.model.merge(&other.model);
        self.registry = merged(&self.registry, &other.registry);
    }

    fn assert_is_what_the_model_says(&self) {
        assert_eq!(self.registry.set_members(&set()), self.model.members());
        assert_eq!(
            self.registry.register(&register()),
            self.model.written.as_ref().map(|(_, v)| std::slice::from_ref(v))
        );
    }
}

fn set() -> Key {
    Key::set("set")
}

fn register() -> Key {
    Key::register("register")
}

fn actor(node: usize, life: u64) -> Actor {
    (NodeId([node as u8; 16]), Epoch(life))
}

fn merged(a: &Registry, b: &Registry) -> Registry {
    let mut out = a.clone();
    for (key, value) in b.range(&[], None) {
        if let Some(value) = out.merged(None, key, value) {
            out.install(key.clone(), value);
        }
    }
    out
}

fn run(steps: &[Step]) -> Vec<Replica> {
    let mut replicas = vec![Replica::default(); 3];
    let mut saved = replicas.clone();
    let mut lives = [0u64; 3];
    let mut clocks: Vec<_> = (0..3).map(|n| Clock::new(NodeId([n; 16]), Epoch(0))).collect();
    for (name, step) in (0u64..).zip(steps) {
        match *step {
            Step::Add(n, member) => {
                let Replica { registry, model } = &mut replicas[n];
                let value = registry.set_add(None, &set(), vec![member], actor(n, lives[n])).unwrap();
                registry.install(set(), value);
                model.added.insert((member, name));
            }
            Step::Remove(n, member) => {
                let Replica { registry, model } = &mut replicas[n];
                if let Some(value) = registry.set_remove(None, &set(), &[member]).unwrap() {
                    registry.install(set(), value);
                }
                model.removed.extend(model.added.iter().filter(|(added, _)| *added == member));
            }
            Step::Write(n, content, wall_ms) => {
                let Replica { registry, model } = &mut replicas[n];
                let stamp = clocks[n].tick(wall_ms);
                let value = registry.register_set(None, &register(), vec![content], stamp).unwrap();
                registry.install(register(), value);
                model.written = model.written.max(Some((stamp, content)));
            }
            Step::Merge(from, to) => {
                let from = replicas[from].clone();
                replicas[to].merge(&from);
            }
            Step::Save(n) => saved[n] = replicas[n].clone(),
            Step::Restart(n) | Step::Restore(n) => {
                lives[n] += 1;
                // Nothing is observed after the restart: the worst a clock can be.
                clocks[n] = Clock::new(NodeId([n as u8; 16]), Epoch(lives[n]));
                if matches!(step, Step::Restore(_)) {
                    replicas[n] = saved[n].clone();
                }
            }
        }
        replicas.iter().for_each(Replica::assert_is_what_the_model_says);
    }
    replicas
}

proptest! {
    #[test]
    fn histories_end_as_in_the_naive_model(steps in vec(step(), 0..80)) {
        let mut replicas = run(&steps);
        for to in 0..3 {
            for from in replicas.clone() {
                replicas[to].merge(&from);
                replicas[to].assert_is_what_the_model_says();
            }
        }
    }

    #[test]
    fn merge_is_a_join_whatever_the_history(steps in vec(step(), 0..60)) {
        let replicas = run(&steps);
        let [a, b, c] = [0, 1, 2].map(|n: usize| &replicas[n].registry);
        prop_assert_eq!(&merged(a, a), a);
        prop_assert_eq!(merged(a, b), merged(b, a));
        prop_assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
        prop_assert_eq!(&merged(&merged(a, b), b), &merged(a, b));
    }

    #[test]
    fn digests_are_equal_when_states_are(steps in vec(step(), 0..60)) {
        let replicas = run(&steps);
        let [a, b] = [0, 1].map(|n: usize| &replicas[n].registry);
        prop_assert_eq!(a.digest() == b.digest(), a == b);
        prop_assert_eq!(merged(a, b).digest(), merged(b, a).digest());
        // A registry read back from its rows has the digest of the one that wrote them.
        let mut back = Registry::default();
        for (key, value) in a.range(&[], None) {
            back.install(Key::from_bytes(key.as_bytes()).unwrap(), Value::decode(&value.encode()).unwrap());
        }
        prop_assert_eq!(back.digest(), a.digest());
    }

    #[test]
    fn values_come_back_from_their_one_encoding(steps in vec(step(), 0..60), cut in any::<prop::sample::Index>()) {
        for (_, value) in run(&steps)[0].registry.range(&[], None) {
            let bytes = value.encode();
            let back = Value::decode(&bytes).unwrap();
            prop_assert_eq!(&back, value);
            prop_assert_eq!(back.encode(), bytes.clone());
            prop_assert_eq!(Value::decode(&[&bytes[..], &[0]].concat()), Err(ValueError::Malformed));
            prop_assert!(Value::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }

    #[test]
    fn broken_bytes_are_refused_or_read_as_the_only_value_with_that_encoding(
        steps in vec(step(), 0..30),
        noise in vec(any::<u8>(), 0..200),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut inputs = vec![noise.clone(), [&[1, 0], &noise[..]].concat(), [&[1, 1], &noise[..]].concat()];
        for (_, value) in run(&steps)[0].registry.range(&[], None) {
            let mut bytes = value.encode().to_vec();
            flips.iter().for_each(|(place, bits)| *place.get_mut(&mut bytes) ^= bits);
            inputs.push(bytes);
        }
        for bytes in inputs {
            let _ = Key::from_bytes(&bytes);
            if let Ok(value) = Value::decode(&bytes) {
                prop_assert_eq!(value.encode(), bytes);
                prop_assert_eq!(value.merged(&value), None);
            }
        }
    }
}

type Dots<'a> = &'a [(Actor, u64)];
type Deferred<'a> = (Dots<'a>, &'a [&'a [u8]]);

/// A set's bytes, written by hand as a peer might.
fn forged(clock: Dots, entries: &[(&[u8], Dots)], deferred: &[Deferred]) -> Vec<u8> {
    postcard::to_extend(&(clock, entries, deferred), vec![1, 0]).unwrap()
}

#[test]
fn a_set_that_no_history_makes_is_refused() {
    let (a, b) = (actor(1, 1), actor(2, 1));
    assert!(Value::decode(&forged(&[(a, 2)], &[(b"x", &[(a, 2)])], &[])).is_ok());
    let forgeries: [(&str, Vec<u8>); 6] = [
        ("a member that the clock has not seen", forged(&[(a, 1)], &[(b"x", &[(a, 2)])], &[])),
        ("a member without an add", forged(&[(a, 1)], &[(b"x", &[])], &[])),
        ("a count of zero", forged(&[(a, 0)], &[], &[])),
        ("a deferred removal", forged(&[(a, 1)], &[], &[(&[(b, 1)], &[b"x"])])),
        ("members out of order", forged(&[(a, 2)], &[(b"y", &[(a, 1)]), (b"x", &[(a, 2)])], &[])),
        ("a member twice", forged(&[(a, 2)], &[(b"x", &[(a, 1)]), (b"x", &[(a, 2)])], &[])),
    ];
    for (what, bytes) in forgeries {
        assert_eq!(Value::decode(&bytes), Err(ValueError::Malformed), "{what}");
    }
    assert_eq!(Value::decode(&[2, 0]), Err(ValueError::Version(2)));
    assert_eq!(Value::decode(&vec![1; MERGED_VALUE_BYTES + 1]), Err(ValueError::TooLarge(MERGED_VALUE_BYTES + 1)));
}

#[test]
fn a_forged_counter_at_its_end_stops_an_add_with_an_error() {
    let me = actor(1, 1);
    let mut registry = Registry::default();
    registry.install(set(), Value::decode(&forged(&[(me, u64::MAX)], &[], &[])).unwrap());
    assert_eq!(registry.set_add(None, &set(), b"x".to_vec(), me), Err(RegistryError::Exhausted));
    assert!(registry.set_add(None, &set(), b"x".to_vec(), actor(1, 2)).is_ok(), "the next life goes on");
}

#[test]
fn an_add_unseen_by_a_removal_survives_it() {
    let mut a = Registry::default();
    a.install(set(), a.set_add(None, &set(), b"x".to_vec(), actor(1, 1)).unwrap());
    let mut b = a.clone();
    b.install(set(), b.set_remove(None, &set(), b"x").unwrap().unwrap());
    a.install(set(), a.set_add(None, &set(), b"x".to_vec(), actor(1, 1)).unwrap());
    assert_eq!(merged(&a, &b).set_members(&set()), [b"x".to_vec()]);
}

/// Why the actor holds the epoch: the same history with and without it.
#[test]
fn a_disk_put_back_needs_a_new_actor_or_peers_drop_its_adds() {
    for (life, kept) in [(1, false), (2, true)] {
        let mut node = Registry::default();
        let backup = node.clone();
        node.install(set(), node.set_add(None, &set(), b"before".to_vec(), actor(1, 1)).unwrap());
        let peer = node.clone();
        let mut node = backup;
        node.install(set(), node.set_add(None, &set(), b"after".to_vec(), actor(1, life)).unwrap());
        let members = merged(&peer, &node).set_members(&set());
        assert_eq!(members.contains(&b"after".to_vec()), kept, "{members:?}");
    }
}

#[test]
fn a_change_builds_on_the_value_that_still_waits_for_its_commit() {
    let registry = Registry::default();
    let first = registry.set_add(None, &set(), b"x".to_vec(), actor(1, 1)).unwrap();
    let second = registry.set_add(Some(&first), &set(), b"y".to_vec(), actor(1, 1)).unwrap();
    assert_eq!(second.members(), [b"x".to_vec(), b"y".to_vec()]);
    let third = registry.set_remove(Some(&second), &set(), b"x").unwrap().unwrap();
    assert_eq!(third.members(), [b"y".to_vec()]);
    assert_eq!(registry.merged(Some(&third), &set(), &first), None, "what was removed stays so");
    assert!(registry.is_empty());
}

#[test]
fn two_contents_under_one_stamp_converge() {
    let stamp = Clock::new(NodeId([1; 16]), Epoch(1)).tick(1);
    let [x, y] = [b"x", b"y"].map(|content| Value::register(content.to_vec(), stamp));
    assert_eq!((x.merged(&y), y.merged(&x)), (Some(y.clone()), None));
}

#[test]
fn kinds_do_not_mix_and_limits_hold() {
    let registry = Registry::default();
    let stamp = Clock::new(NodeId([1; 16]), Epoch(1)).tick(1);
    let one = actor(1, 1);
    assert_eq!(registry.set_add(None, &register(), vec![], one), Err(RegistryError::Kind));
    assert_eq!(registry.set_remove(None, &register(), &[]), Err(RegistryError::Kind));
    assert_eq!(registry.register_set(None, &set(), vec![], stamp), Err(RegistryError::Kind));
    assert_eq!(registry.merged(None, &set(), &Value::register(vec![], stamp)), None);
    let (longest, longer) = ("n".repeat(KEY_BYTES), "n".repeat(KEY_BYTES + 1));
    assert!(registry.set_add(None, &Key::set(&longest), vec![], one).is_ok());
    for name in ["", &longer] {
        assert_eq!(registry.set_add(None, &Key::set(name), vec![], one), Err(RegistryError::Key));
        assert_eq!(registry.register_set(None, &Key::register(name), vec![], stamp), Err(RegistryError::Key));
        assert_eq!(Key::from_bytes(Key::set(name).as_bytes()), Err(RegistryError::Key));
    }
    assert!(registry.register_set(None, &register(), vec![0; VALUE_BYTES - 100], stamp).is_ok());
    assert!(matches!(
        registry.register_set(None, &register(), vec![0; VALUE_BYTES], stamp),
        Err(RegistryError::TooLarge(_))
    ));
}

#[test]
fn the_union_of_two_full_sets_can_be_merged_and_read_back() {
    let registry = Registry::default();
    let full =
        |node: usize| registry.set_add(None, &set(), vec![node as u8; VALUE_BYTES - 200], actor(node, 1)).unwrap();
    let union = registry.merged(Some(&full(1)), &set(), &full(2)).unwrap();
    assert_eq!(Value::decode(&union.encode()).unwrap(), union);
    assert!(registry.set_add(Some(&union), &set(), b"x".to_vec(), actor(1, 1)).is_err());
    let union = [3, 4, 5]
        .into_iter()
        .fold(union, |union, node| registry.merged(Some(&union), &set(), &full(node)).unwrap_or(union));
    assert!(union.encode().len() <= MERGED_VALUE_BYTES && union.members().len() >= 3);
}

#[test]
fn digests_of_ranges_see_every_key_once() {
    let mut registry = Registry::default();
    for number in 0..20u8 {
        let key = Key::set(&format!("{number:02}"));
        let value = registry.set_add(None, &key, vec![number], actor(1, 1)).unwrap();
        registry.install(key, value);
    }
    let before = registry.digest();
    let (count, digest) = registry.range_digest(b"s05", Some(b"s10"));
    assert_eq!(count, 5);
    assert_eq!(registry.range_digest(b"s10", Some(b"s05")).0, 0, "an inverted range is empty");
    assert_eq!(registry.range_digest(b"", None), (20, before));
    let taken = registry.get(&Key::set("07")).unwrap().clone();
    registry.remove(&Key::set("07"));
    assert_ne!(registry.digest(), before);
    assert_ne!(registry.range_digest(b"s05", Some(b"s10")).1, digest);
    registry.install(Key::set("07"), taken);
    assert_eq!((registry.digest(), registry.range_digest(b"s05", Some(b"s10")).1), (before, digest));
}

/// What a reconciliation asks of a registry, counted in entries and nodes looked at.
#[test]
fn digests_and_cuts_of_ranges_cost_a_logarithm() {
    for (n, bound) in [(1_000u32, 250), (10_000, 330), (100_000, 400)] {
        let mut registry = Registry::default();
        let mut clock = Clock::new(NodeId([1; 16]), Epoch(1));
        let name = |number: u32| format!("{:08x}", number.wrapping_mul(0x9e37_79b9));
        for number in 0..n {
            let value = registry.register_set(None, &Key::register(&name(number)), vec![7; 20], clock.tick(1)).unwrap();
            registry.install(Key::register(&name(number)), value);
        }
        let visited = |ask: &dyn Fn()| {
            tree::VISITED.set(0);
            ask();
            tree::VISITED.get()
        };
        for number in [1, n / 3, n / 2] {
            let (from, to) = (format!("r{}", name(number)), format!("r{}", name(number + 1)));
            let (from, to) = (from.clone().min(to.clone()).into_bytes(), from.max(to).into_bytes());
            let cost = visited(&|| assert!(registry.range_digest(&from, Some(&to)).0 > 0));
            assert!(cost <= bound, "a digest among {n}: {cost}");
            let cost = visited(&|| assert!(registry.cuts(&from, Some(&to), 8).count() <= 7));
            assert!(cost <= 9 * bound, "cuts among {n}: {cost}");
        }
        assert_eq!(visited(&|| assert_ne!(registry.digest(), [0; 32])), 0);
        let cuts: Vec<_> = registry.cuts(&[], None, 8).collect();
        let mut from = Vec::new();
        for to in cuts.iter().map(|key| Some(key.as_bytes())).chain([None]) {
            let (count, _) = registry.range_digest(&from, to);
            assert!(count.abs_diff(u64::from(n) / 8) <= 8, "{count} of {n}");
            from = to.unwrap_or_default().to_vec();
        }
    }
}
