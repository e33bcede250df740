//! What every [`Store`] must do, run against both of them.

use std::{collections::BTreeMap, ops::ControlFlow};

use bytes::Bytes;
use proptest::prelude::*;

use super::{Batch, MemoryStore, Op, Read, Store};

/// A store that can lose its process.
pub(super) trait Harness {
    fn store(&mut self) -> &mut dyn Store;
    /// The process dies and another one opens the store.
    fn reopen(&mut self);
    /// Loses all that the store says it can lose.
    fn lose_what_can_be_lost(&mut self);
}

pub(super) type Model = BTreeMap<Bytes, Bytes>;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Commit(Vec<Batch>),
    Checkpoint,
    Reopen,
    Lose,
}

/// A small alphabet of keys, so that they are overwritten and deleted a lot; values on both sides of the inline limit.
fn op() -> impl Strategy<Value = Op> {
    let key = (0..40_u8, 0..3_usize).prop_map(|(byte, len)| Bytes::from(vec![byte; len + 1]));
    let value = (any::<u8>(), prop_oneof![0..20_usize, 505..520_usize, 3000..5000_usize]);
    let value = value.prop_map(|(byte, len)| Bytes::from(vec![byte; len]));
    prop_oneof![3 => (key.clone(), value).prop_map(|(key, value)| Op::Put(key, value)), 2 => key.prop_map(Op::Delete)]
}

pub(super) fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    let batches = prop::collection::vec(prop::collection::vec(op(), 0..8), 0..4);
    let step = prop_oneof![
        12 => batches.prop_map(Step::Commit),
        2 => Just(Step::Checkpoint),
        2 => Just(Step::Reopen),
        1 => Just(Step::Lose),
    ];
    prop::collection::vec(step, 1..count)
}

pub(super) fn apply(model: &mut Model, batches: &[Batch]) {
    for op in batches.iter().flatten() {
        match op {
            Op::Put(key, value) => model.insert(key.clone(), value.clone()),
            Op::Delete(key) => model.remove(key),
        };
    }
}

/// All rows of a range.
pub(super) fn rows(reader: &dyn Read, from: &[u8], to: &[u8]) -> Vec<(Bytes, Bytes)> {
    let mut rows = Vec::new();
    let mut visit = |key: &[u8], value| {
        rows.push((Bytes::copy_from_slice(key), value));
        ControlFlow::Continue(())
    };
    reader.scan(from, to, &mut visit).unwrap();
    rows
}

/// The reader shows the model, whichever way it is asked.
pub(super) fn compare(reader: &dyn Read, model: &Model) {
    let expected: Vec<_> = model.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    assert_eq!(rows(reader, &[], &[0xff; 4]), expected);
    for (key, value) in model {
        assert_eq!(reader.get(key).unwrap().as_ref(), Some(value));
    }
    let (from, to) = (Bytes::from_static(&[7, 7]), Bytes::from_static(&[23]));
    let within: Vec<_> = model.range(from.clone()..to.clone()).map(|(key, _)| key.clone()).collect();
    let mut keys = Vec::new();
    let mut visit = |key: &[u8], _: Option<u64>| {
        keys.push(Bytes::copy_from_slice(key));
        if keys.len() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    reader.scan_keys(&from, &to, &mut visit).unwrap();
    assert_eq!(keys, within[..within.len().min(3)]);
    assert_eq!(reader.get(b"never there").unwrap(), None);
    assert_eq!(rows(reader, &to, &from), []);
}

pub(super) fn follows_the_model(harness: &mut dyn Harness, steps: &[Step]) {
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Commit(batches) => {
                harness.store().commit(batches).unwrap();
                apply(&mut model, batches);
            }
            Step::Checkpoint => harness.store().checkpoint().unwrap(),
            Step::Reopen => harness.reopen(),
            Step::Lose => harness.lose_what_can_be_lost(),
        }
        compare(&*harness.store().reader(), &model);
    }
}

/// Many rows, so that scans go through several chunks of both layers.
pub(super) fn scans_long_ranges(harness: &mut dyn Harness) {
    let mut model = Model::new();
    for round in 0..3_u32 {
        let put = |number: u32| {
            let key = Bytes::copy_from_slice(&(number * 7919 % 3000).to_be_bytes());
            if number % 5 == round { Op::Delete(key) } else { Op::Put(key, Bytes::from(format!("{round}-{number}"))) }
        };
        let batch: Batch = (round * 500..round * 500 + 1700).map(put).collect();
        harness.store().commit(std::slice::from_ref(&batch)).unwrap();
        apply(&mut model, &[batch]);
        compare(&*harness.store().reader(), &model);
        harness.store().checkpoint().unwrap();
        compare(&*harness.store().reader(), &model);
    }
}

/// A reader handed out before sees what is committed after, and a callback may read.
pub(super) fn readers_stay_valid(harness: &mut dyn Harness) {
    let reader = harness.store().reader();
    let put = |key: &'static [u8], value: Vec<u8>| vec![Op::Put(Bytes::from_static(key), Bytes::from(value))];
    harness.store().commit(&[put(b"a", vec![1; 10]), put(b"b", vec![2; 1000])]).unwrap();
    harness.store().commit(&[]).unwrap();
    harness.store().checkpoint().unwrap();
    harness.store().commit(&[put(b"c", vec![3; 1000])]).unwrap();
    let mut seen = 0;
    let mut visit = |key: &[u8], value: Bytes| {
        assert_eq!(reader.get(key).unwrap().unwrap(), value);
        seen += 1;
        ControlFlow::Continue(())
    };
    reader.scan(b"", b"z", &mut visit).unwrap();
    assert_eq!(seen, 3);
}

struct Memory(MemoryStore);

impl Harness for Memory {
    fn store(&mut self) -> &mut dyn Store {
        &mut self.0
    }

    fn reopen(&mut self) {
        self.0.crash(0);
    }

    fn lose_what_can_be_lost(&mut self) {
        self.0.stage(vec![Op::Put(Bytes::from_static(b"unsynced"), Bytes::new())]);
        self.0.crash(0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_follows_the_model(steps in steps(60)) {
        follows_the_model(&mut Memory(MemoryStore::new()), &steps);
    }
}

#[test]
fn memory_scans_long_ranges() {
    scans_long_ranges(&mut Memory(MemoryStore::new()));
}

#[test]
fn memory_readers_stay_valid() {
    readers_stay_valid(&mut Memory(MemoryStore::new()));
}
