//! The registry: the small state that every node has. Keys map to OR-sets or last-writer-wins registers.
//!
//! Commands do not change memory: they return the new *whole value* of a key, which the engine commits, installs, and
//! ships. Operations are never shipped: an `Orswot` carries a plain vector clock, and an operation that jumps over an
//! unseen one would make the next merge delete what was skipped.

mod value;

use std::collections::BTreeMap;

pub use value::{Actor, Value, ValueError};

use crate::hlc::Stamp;

/// Bytes of a key's name.
pub const KEY_BYTES: usize = 512;

/// Bytes of one encoded value: whole values travel, so they must stay small.
pub const VALUE_BYTES: usize = 1 << 20;

/// A registry key: its kind of value, and a name. The kind is part of the key, so that two nodes can never put a set
/// and a register under the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

const SET: u8 = b's';
const REGISTER: u8 = b'r';

/// Why a registry command was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The name is empty or too long, or the bytes name no kind.
    #[error("a registry key is a kind and 1 to {KEY_BYTES} bytes of name")]
    Key,
    /// The key names the other kind of value.
    #[error("the key names the other kind of value: sets and registers do not mix")]
    Kind,
    /// The value would be too large to travel whole.
    #[error("the value would have {0} bytes; at most {VALUE_BYTES} are possible")]
    TooLarge(usize),
}

impl Key {
    /// The key of a set. Names are cut at [`KEY_BYTES`]; keep them shorter.
    pub fn set(name: &str) -> Self {
        Self::of(SET, name)
    }

    /// The key of a register.
    pub fn register(name: &str) -> Self {
        Self::of(REGISTER, name)
    }

    fn of(kind: u8, name: &str) -> Self {
        let name = &name.as_bytes()[..name.len().min(KEY_BYTES)];
        Self([&[kind], name].concat())
    }

    /// Reads a key from its bytes.
    ///
    /// # Errors
    /// [`RegistryError::Key`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RegistryError> {
        match bytes.split_first() {
            Some((&(SET | REGISTER), name)) if (1..=KEY_BYTES).contains(&name.len()) => Ok(Self(bytes.to_vec())),
            _ => Err(RegistryError::Key),
        }
    }

    /// Its bytes; order of bytes is order of keys.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it names a set.
    pub fn is_set(&self) -> bool {
        self.0.first() == Some(&SET)
    }

    /// The name, if it names a set and is text.
    pub fn set_name(&self) -> Option<&str> {
        self.is_set().then(|| std::str::from_utf8(&self.0[1..]).ok()).flatten()
    }
}

/// Registry values by key, with digests of ranges of keys.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    entries: BTreeMap<Key, (Value, [u8; 32])>,
    root: std::cell::Cell<Option<[u8; 32]>>,
}

impl PartialEq for Registry {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Registry {
    /// The value of a key.
    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.keys()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Members of a set, in order.
    pub fn set_members(&self, key: &Key) -> Vec<Vec<u8>> {
        self.get(key).map(Value::members).unwrap_or_default()
    }

    /// What is in a register.
    pub fn register(&self, key: &Key) -> Option<&[u8]> {
        self.get(key).and_then(Value::content)
    }

    /// The set with one more member. `newest` is a value not yet installed that the change must build on.
    ///
    /// # Errors
    /// The key names a register, or the set grows too large.
    pub fn set_add(
        &self,
        newest: Option<&Value>,
        key: &Key,
        member: Vec<u8>,
        actor: Actor,
    ) -> Result<Value, RegistryError> {
        if !key.is_set() {
            return Err(RegistryError::Kind);
        }
        let mut value = newest.or_else(|| self.get(key)).cloned().unwrap_or_else(Value::empty_set);
        value.add(member, actor);
        checked(value)
    }

    /// The set without a member; `None` if it is not in it.
    ///
    /// # Errors
    /// The key names a register.
    pub fn set_remove(&self, newest: Option<&Value>, key: &Key, member: &[u8]) -> Result<Option<Value>, RegistryError> {
        if !key.is_set() {
            return Err(RegistryError::Kind);
        }
        let Some(mut value) = newest.or_else(|| self.get(key)).cloned() else { return Ok(None) };
        Ok(value.remove(member).then_some(value))
    }

    /// The register with a new content.
    ///
    /// # Errors
    /// The key names a set, or the content is too large.
    pub fn register_set(
        &self,
        newest: Option<&Value>,
        key: &Key,
        content: Vec<u8>,
        stamp: Stamp,
    ) -> Result<Value, RegistryError> {
        if key.is_set() {
            return Err(RegistryError::Kind);
        }
        let written = Value::register(content, stamp);
        let value = match newest.or_else(|| self.get(key)) {
            Some(old) => old.merged(&written).unwrap_or_else(|| old.clone()),
            None => written,
        };
        checked(value)
    }

    /// A key's value joined with another node's; `None` if that brings nothing new.
    pub fn merged(&self, newest: Option<&Value>, key: &Key, incoming: &Value) -> Option<Value> {
        if key.is_set() != incoming.is_set() {
            return None;
        }
        match newest.or_else(|| self.get(key)) {
            Some(mine) => mine.merged(incoming),
            None => Some(incoming.clone()),
        }
    }

    /// Puts a committed value in place.
    pub fn install(&mut self, key: Key, value: Value) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(key.0.len() as u64).to_le_bytes()).update(&key.0).update(&value.encode());
        self.entries.insert(key, (value, *hasher.finalize().as_bytes()));
        self.root.set(None);
    }

    /// Takes a key out: only for keys whose meaning has gone for ever, and which are refused from then on.
    pub fn remove(&mut self, key: &Key) {
        self.entries.remove(key);
        self.root.set(None);
    }

    /// Keys with their values in `from..to` (`None`: to the end), in order.
    pub fn range(&self, from: &[u8], to: Option<&[u8]>) -> impl Iterator<Item = (&Key, &Value)> {
        let from = Key(from.to_vec());
        let to = to.map(<[u8]>::to_vec);
        self.entries
            .range(from..)
            .take_while(move |(key, _)| to.as_deref().is_none_or(|to| key.as_bytes() < to))
            .map(|(key, (value, _))| (key, value))
    }

    /// Number of keys in a range, and a digest of them with their values.
    pub fn range_digest(&self, from: &[u8], to: Option<&[u8]>) -> (u64, [u8; 32]) {
        let mut hasher = blake3::Hasher::new();
        let mut count = 0;
        for (key, (_, hash)) in self.entries.range(Key(from.to_vec())..) {
            if to.is_some_and(|to| key.as_bytes() >= to) {
                break;
            }
            count += 1;
            hasher.update(hash);
        }
        (count, *hasher.finalize().as_bytes())
    }

    /// Equal exactly when the registries are equal.
    pub fn digest(&self) -> [u8; 32] {
        self.root.get().unwrap_or_else(|| {
            let digest = self.range_digest(&[], None).1;
            self.root.set(Some(digest));
            digest
        })
    }
}

fn checked(value: Value) -> Result<Value, RegistryError> {
    let bytes = value.encode().len();
    if bytes > VALUE_BYTES { Err(RegistryError::TooLarge(bytes)) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Epoch, NodeId};

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
            (n.clone(), 0..5u8).prop_map(|(n, m)| Step::Add(n, m)),
            (n.clone(), 0..5u8).prop_map(|(n, m)| Step::Remove(n, m)),
            (n.clone(), any::<u8>(), 0..50u64).prop_map(|(n, v, t)| Step::Write(n, v, t)),
            (n.clone(), n.clone()).prop_map(|(a, b)| Step::Merge(a, b)),
            n.clone().prop_map(Step::Restart),
            n.clone().prop_map(Step::Save),
            n.prop_map(Step::Restore),
        ]
    }

    fn merge_all(from: &Registry, to: &mut Registry) {
        for (key, value) in from.range(&[], None) {
            if let Some(value) = to.merged(None, key, value) {
                to.install(key.clone(), value);
            }
        }
    }

    fn run(steps: &[Step]) -> Vec<Registry> {
        let (set, register) = (Key::set("set"), Key::register("register"));
        let mut replicas = vec![Registry::default(); 3];
        let mut saved = replicas.clone();
        let mut lives = [0u64; 3];
        let mut clocks: Vec<_> = (0..3).map(|n| crate::hlc::Clock::new(NodeId([n; 16]), Epoch(0))).collect();
        for step in steps {
            match *step {
                Step::Add(n, member) => {
                    let actor = (NodeId([n as u8; 16]), Epoch(lives[n]));
                    let value = replicas[n].set_add(None, &set, vec![member], actor).expect("small");
                    replicas[n].install(set.clone(), value);
                }
                Step::Remove(n, member) => {
                    if let Some(value) = replicas[n].set_remove(None, &set, &[member]).expect("a set") {
                        replicas[n].install(set.clone(), value);
                    }
                }
                Step::Write(n, content, wall_ms) => {
                    let stamp = clocks[n].tick(wall_ms);
                    let value = replicas[n].register_set(None, &register, vec![content], stamp).expect("small");
                    replicas[n].install(register.clone(), value);
                }
                Step::Merge(a, b) if a != b => {
                    let from = replicas[a].clone();
                    merge_all(&from, &mut replicas[b]);
                }
                Step::Merge(..) => {}
                Step::Save(n) => saved[n] = replicas[n].clone(),
                Step::Restart(n) | Step::Restore(n) => {
                    lives[n] += 1;
                    clocks[n] = crate::hlc::Clock::new(NodeId([n as u8; 16]), Epoch(lives[n]));
                    if matches!(step, Step::Restore(_)) {
                        replicas[n] = saved[n].clone();
                    }
                }
            }
        }
        replicas
    }

    fn merged(a: &Registry, b: &Registry) -> Registry {
        let mut out = a.clone();
        merge_all(b, &mut out);
        out
    }

    proptest! {
        #[test]
        fn merge_is_a_join_whatever_the_history(steps in proptest::collection::vec(step(), 0..60)) {
            let replicas = run(&steps);
            let [a, b, c] = &replicas[..] else { unreachable!() };
            prop_assert_eq!(&merged(a, a), a);
            prop_assert_eq!(merged(a, b), merged(b, a));
            prop_assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
            prop_assert_eq!(merged(a, b).digest(), merged(b, a).digest());
            prop_assert_eq!(a.digest() == b.digest(), a == b);
        }

        #[test]
        fn values_come_back_from_their_one_encoding(steps in proptest::collection::vec(step(), 0..60)) {
            for (_, value) in run(&steps)[0].range(&[], None) {
                let bytes = value.encode();
                let back = Value::decode(&bytes).expect("own encoding");
                prop_assert_eq!(&back, value);
                prop_assert_eq!(back.encode(), bytes);
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Value::decode(&bytes);
            let _ = Key::from_bytes(&bytes);
        }
    }

    #[test]
    fn an_add_unseen_by_a_removal_survives_it() {
        let key = Key::set("s");
        let actor = |n: u8| (NodeId([n; 16]), Epoch(1));
        let mut a = Registry::default();
        a.install(key.clone(), a.set_add(None, &key, b"x".to_vec(), actor(1)).expect("small"));
        let mut b = a.clone();
        b.install(key.clone(), b.set_remove(None, &key, b"x").expect("a set").expect("in it"));
        a.install(key.clone(), a.set_add(None, &key, b"x".to_vec(), actor(1)).expect("small"));
        assert_eq!(merged(&a, &b).set_members(&key), [b"x".to_vec()]);
        assert!(a.set_add(None, &Key::register("r"), vec![], actor(1)) == Err(RegistryError::Kind));
    }
}
