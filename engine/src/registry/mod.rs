//! The registry: the small state that every node has. Keys map to OR-sets or last-writer-wins registers.
//!
//! Commands do not change memory: they return the new *whole value* of a key, which the engine commits, installs, and
//! ships. Operations are never shipped: an `Orswot` carries a plain vector clock, and an operation that jumps over an
//! unseen one would make the next merge delete what was skipped.
//!
//! **Digests.** An entry's hash is blake3 over its key and its canonical value; a range's digest is blake3 over the number
//! of its entries and the sum of their hashes in four lanes of 64 bits. Sums are kept in a tree (`tree.rs`): a change or a
//! question costs O(log n) additions and, for a change, one hash of the entry. What is assumed: nobody crafts values in
//! order to collide. Two different states that came about otherwise have equal digests with a probability of 2^-256. Who
//! knows the network's secret could search for two sets of values with equal sums (Wagner's generalised birthday finds
//! them faster than a collision of blake3) and so hide one of them from comparison; but he could as well not send it.
//!
//! **Size.** Meant for some 100,000 keys. Measured by `cargo bench -- memory` with names of 21 bytes and contents of 20
//! bytes: a register is some 290 bytes of memory, a set of one member some 1,280, for the crate's set is made of maps.

#[cfg(test)]
mod crate_laws;
mod set;
pub mod sync;
#[cfg(test)]
mod tests;
mod tree;
pub(crate) mod value;

use self::tree::{Entry, Sum, Tree};
#[cfg(test)]
pub(crate) use value::VERSION as VALUE_VERSION;
pub use value::{Actor, Value, ValueError};

use crate::hlc::Stamp;

/// Bytes of a key's name.
pub const KEY_BYTES: usize = 512;

/// Bytes of one encoded value that a command may make: whole values travel, so they must stay small.
pub const VALUE_BYTES: usize = 1 << 20;

/// Bytes of one encoded value that is read or merged. More than [`VALUE_BYTES`], or the union of two sides that each
/// filled a set while apart could be neither exchanged nor read back from the disk.
pub const MERGED_VALUE_BYTES: usize = 4 * VALUE_BYTES;

/// What the keys of library users begin with. The cluster's own keys never do.
const OWN: &str = "own/";

/// Bytes of a name that a library user gives to a set or a register.
pub const NAME_BYTES: usize = KEY_BYTES - OWN.len();

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

    /// The key of a library user's set: any text of 1 to [`NAME_BYTES`] bytes; commands refuse others. It never collides
    /// with a key of the cluster's own.
    pub fn own_set(name: &str) -> Self {
        Self::own(SET, name)
    }

    /// The key of a library user's register, as [`Key::own_set`]. A set and a register may have the same name.
    pub fn own_register(name: &str) -> Self {
        Self::own(REGISTER, name)
    }

    fn own(kind: u8, name: &str) -> Self {
        // Without a name there is no lawful key: the prefix alone must not become one.
        if name.is_empty() { Self::of(kind, "") } else { Self::of(kind, &[OWN, name].concat()) }
    }

    /// The name that a library user gave, if it is the key of one.
    pub fn own_name(&self) -> Option<&str> {
        let name = std::str::from_utf8(self.0.get(1..)?).ok()?;
        name.strip_prefix(OWN).filter(|name| !name.is_empty())
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
    entries: Tree,
}

impl PartialEq for Registry {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.entries.iter_from(&[]).eq(other.entries.iter_from(&[]))
    }
}

impl Registry {
    /// The value of a key.
    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.entries.get(key).map(|entry| &*entry.value)
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.iter_from(&[]).map(|entry| &entry.key)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.sum().count as usize
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        let hash = hash(&key, &value);
        self.entries.insert(Entry { key, hash, value: Box::new(value) });
    }

    /// Takes a key out: only for keys whose meaning has gone for ever, and which are refused from then on.
    pub fn remove(&mut self, key: &Key) {
        self.entries.remove(key);
    }

    /// Keys with their values in `from..to` (`None`: to the end), in order.
    pub fn range(&self, from: &[u8], to: Option<&[u8]>) -> impl Iterator<Item = (&Key, &Value)> {
        let to = to.map(<[u8]>::to_vec);
        let entries = self.entries.iter_from(from);
        entries
            .take_while(move |entry| to.as_deref().is_none_or(|to| entry.key.as_bytes() < to))
            .map(|entry| (&entry.key, &*entry.value))
    }

    /// Keys after this one with the hashes of their entries, in order: equal hashes are equal values under equal keys.
    pub(crate) fn hashes_after(&self, key: &[u8]) -> impl Iterator<Item = (&Key, &[u8; 32])> {
        let entries = self.entries.iter_from(key).skip_while(move |entry| entry.key.as_bytes() == key);
        entries.map(|entry| (&entry.key, &entry.hash))
    }

    /// Number of keys in a range, and a digest of them with their values. O(log n).
    pub fn range_digest(&self, from: &[u8], to: Option<&[u8]>) -> (u64, [u8; 32]) {
        let end = to.map_or_else(|| self.entries.sum(), |to| self.entries.before(to));
        let sum = match to {
            Some(to) if to <= from => Sum::default(),
            _ => end.minus(self.entries.before(from)),
        };
        (sum.count, digest(sum))
    }

    /// Keys that cut `from..to` into at most `parts` ranges of equal numbers of keys, more or less: at each of them a new
    /// range begins. There is one at least if the range has two keys and `parts` is two or more. O(parts * log n).
    pub fn cuts(&self, from: &[u8], to: Option<&[u8]>, parts: u64) -> impl Iterator<Item = &Key> {
        let first = self.entries.before(from).count;
        let last = to.map_or_else(|| self.entries.sum(), |to| self.entries.before(to)).count;
        let step = last.saturating_sub(first).div_ceil(parts.max(1)).max(1);
        let starts = (1..parts).map_while(move |part| first.checked_add(part * step)).take_while(move |at| *at < last);
        starts.filter_map(|at| self.entries.nth(at)).map(|entry| &entry.key)
    }

    /// Equal exactly when the registries are equal. O(1).
    pub fn digest(&self) -> [u8; 32] {
        digest(self.entries.sum())
    }
}

fn hash(key: &Key, value: &Value) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.0.len() as u64).to_le_bytes()).update(&key.0).update(&value.encode());
    *hasher.finalize().as_bytes()
}

fn digest(sum: Sum) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&sum.count.to_le_bytes());
    sum.lanes.iter().for_each(|lane| {
        hasher.update(&lane.to_le_bytes());
    });
    *hasher.finalize().as_bytes()
}

fn checked(value: Value) -> Result<Value, RegistryError> {
    let bytes = value.encode().len();
    if bytes > VALUE_BYTES { Err(RegistryError::TooLarge(bytes)) } else { Ok(value) }
}
