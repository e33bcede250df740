//! The registry: the small state that every node has. Keys map to OR-sets or last-writer-wins registers.
//!
//! Commands do not change memory: they return the new *whole value* of a key, which the engine commits, installs, and
//! ships. Operations are never shipped: an `Orswot` carries a plain vector clock, and an operation that jumps over an
//! unseen one would make the next merge delete what was skipped.

#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;

pub use value::{Actor, Value, ValueError};

use crate::hlc::Stamp;

/// Bytes of a key's name.
pub const KEY_BYTES: usize = 512;

/// Bytes of one encoded value that a command may make: whole values travel, so they must stay small.
pub const VALUE_BYTES: usize = 1 << 20;

/// Bytes of one encoded value that is read or merged. More than [`VALUE_BYTES`], or the union of two sides that each
/// filled a set while apart could be neither exchanged nor read back from the disk.
pub const MERGED_VALUE_BYTES: usize = 4 * VALUE_BYTES;

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
    /// This life's counter in the set is at its end. Counting gets nobody there: a peer sent a forged value.
    #[error("the set counts no further for this life of the node; restart the node to go on")]
    Exhausted,
}

impl Key {
    /// The key of a set. Commands refuse a name that is empty or longer than [`KEY_BYTES`].
    pub fn set(name: &str) -> Self {
        Self::of(SET, name)
    }

    /// The key of a register. Commands refuse a name that is empty or longer than [`KEY_BYTES`].
    pub fn register(name: &str) -> Self {
        Self::of(REGISTER, name)
    }

    fn of(kind: u8, name: &str) -> Self {
        // Not cut to size: two long names must not become one key.
        Self([&[kind], name.as_bytes()].concat())
    }

    /// Checks that a command may change this key: its name has a lawful length, and it is of the kind.
    fn expect(&self, kind: u8) -> Result<(), RegistryError> {
        match self.0.split_first() {
            Some((_, name)) if !(1..=KEY_BYTES).contains(&name.len()) => Err(RegistryError::Key),
            Some((&found, _)) if found == kind => Ok(()),
            _ => Err(RegistryError::Kind),
        }
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

    /// The name, if it names a register and is text.
    pub fn register_name(&self) -> Option<&str> {
        let name = self.0.strip_prefix(&[REGISTER])?;
        std::str::from_utf8(name).ok()
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
    /// The key's name or kind is wrong, the set would grow too large, or its counter is at its end.
    pub fn set_add(
        &self,
        newest: Option<&Value>,
        key: &Key,
        member: Vec<u8>,
        actor: Actor,
    ) -> Result<Value, RegistryError> {
        key.expect(SET)?;
        let mut value = newest.or_else(|| self.get(key)).cloned().unwrap_or_else(Value::empty_set);
        value.add(member, actor)?;
        checked(value)
    }

    /// The set without a member; `None` if it is not in it.
    ///
    /// # Errors
    /// The key's name or kind is wrong.
    pub fn set_remove(&self, newest: Option<&Value>, key: &Key, member: &[u8]) -> Result<Option<Value>, RegistryError> {
        key.expect(SET)?;
        let Some(mut value) = newest.or_else(|| self.get(key)).cloned() else { return Ok(None) };
        Ok(value.remove(member).then_some(value))
    }

    /// The register with a new content.
    ///
    /// # Errors
    /// The key's name or kind is wrong, or the content is too large.
    pub fn register_set(
        &self,
        newest: Option<&Value>,
        key: &Key,
        content: Vec<u8>,
        stamp: Stamp,
    ) -> Result<Value, RegistryError> {
        key.expect(REGISTER)?;
        let written = Value::register(content, stamp);
        let value = match newest.or_else(|| self.get(key)) {
            Some(old) => old.merged(&written).unwrap_or_else(|| old.clone()),
            None => written,
        };
        checked(value)
    }

    /// A key's value joined with another node's; `None` if that brings nothing new, if the incoming value is of another
    /// kind than the key, or if the union is beyond [`MERGED_VALUE_BYTES`] (then both sides stay as they are until
    /// members are removed).
    pub fn merged(&self, newest: Option<&Value>, key: &Key, incoming: &Value) -> Option<Value> {
        if key.is_set() != incoming.is_set() {
            return None;
        }
        match newest.or_else(|| self.get(key)) {
            Some(mine) => mine.merged(incoming).filter(|union| union.encode().len() <= MERGED_VALUE_BYTES),
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
