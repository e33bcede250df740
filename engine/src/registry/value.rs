//! One registry value, and its canonical encoding.
//!
//! The crate's set keeps hash maps, whose serialised order is chance. Ours is sorted: equal values are equal bytes, so
//! digests and comparisons run over [`Value::encode`]. Layout (version 1): version, kind, then postcard.

use std::collections::BTreeMap;

use bytes::Bytes;
use crdts::{CvRDT, LWWReg, Orswot, VClock};
use serde::{Deserialize, Serialize};

use super::{MERGED_VALUE_BYTES, RegistryError, set::Set};
use crate::{Epoch, NodeId, hlc::Stamp};

pub(crate) const VERSION: u8 = 1;
const SET: u8 = 0;
const REGISTER: u8 = 1;

/// Who adds to sets: a node in one life. A fresh actor per life, so that a disk put back from an old copy, whose counters
/// have fallen behind what peers saw, can never use a dot twice.
pub type Actor = (NodeId, Epoch);

/// A whole value. Equality is equality of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An observed-remove set without tombstones.
    Set(Set),
    /// A last-writer-wins register.
    Register(LWWReg<Vec<u8>, Stamp>),
}

/// The bytes are not a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Written by a newer program.
    #[error("registry value version {0} is unknown here; this program reads version 1")]
    Version(u8),
    /// Too many bytes.
    #[error("a registry value of {0} bytes; at most {MERGED_VALUE_BYTES} are possible")]
    TooLarge(usize),
    /// Not of the layout, or not in canonical order.
    #[error("malformed registry value")]
    Malformed,
}

/// The crate's set in the same postcard layout, with sorted maps.
#[derive(Serialize, Deserialize)]
struct SortedSet {
    clock: VClock<Actor>,
    entries: BTreeMap<Vec<u8>, VClock<Actor>>,
    /// Number of deferred removals: none, ever, since only whole states travel.
    deferred: usize,
}

impl Value {
    /// A set without members.
    pub(super) fn empty_set() -> Self {
        Self::Set(Set::new())
    }

    /// A register just written.
    pub(crate) fn register(content: Vec<u8>, stamp: Stamp) -> Self {
        Self::Register(LWWReg { val: content, marker: stamp })
    }

    /// Whether it is a set.
    pub fn is_set(&self) -> bool {
        matches!(self, Self::Set(_))
    }

    /// The stamp of a register.
    pub fn stamp(&self) -> Option<&Stamp> {
        match self {
            Self::Register(register) => Some(&register.marker),
            Self::Set(_) => None,
        }
    }

    /// Members of a set, in order; none for a register.
    pub fn members(&self) -> Vec<Vec<u8>> {
        self.iter_members().map(<[u8]>::to_vec).collect()
    }

    /// The same, without copying them.
    pub fn iter_members(&self) -> impl Iterator<Item = &[u8]> {
        let set = match self {
            Self::Set(set) => Some(set),
            Self::Register(_) => None,
        };
        set.into_iter().flat_map(Set::members)
    }

    /// Whether it is a set with this member.
    pub fn contains(&self, member: &[u8]) -> bool {
        matches!(self, Self::Set(set) if set.contains(member))
    }

    /// The number of the last add that a life made to a set, as far as that is known here; 0 if it made none. O(lives).
    pub fn last_add(&self, life: Epoch) -> u64 {
        match self {
            Self::Set(set) => set.last_add(life),
            Self::Register(_) => 0,
        }
    }

    /// What is in a register.
    pub fn content(&self) -> Option<&[u8]> {
        match self {
            Self::Register(register) => Some(&register.val),
            Self::Set(_) => None,
        }
    }

    /// By how many bytes at most an add makes the encoding longer: the member with its length, a clock of one dot, and the
    /// same dot in the set's own clock.
    pub(crate) fn added_bytes(member: &[u8]) -> usize {
        /// Node and epoch, with what says how long they are.
        const ACTOR: usize = size_of::<Actor>() + 2 * VARINT;
        const VARINT: usize = 10;
        member.len() + 2 * VARINT + 2 * (ACTOR + VARINT)
    }

    /// Without effect if it is refused.
    pub(crate) fn add(&mut self, member: Vec<u8>, actor: Actor) -> Result<(), RegistryError> {
        let Self::Set(set) = self else { return Err(RegistryError::Kind) };
        set.add(member, actor)
    }

    /// Whether it was in the set.
    pub(crate) fn remove(&mut self, member: &[u8]) -> bool {
        match self {
            Self::Set(set) => set.remove(member),
            Self::Register(_) => false,
        }
    }

    /// The join with another value of the same kind; `None` if it brings nothing new, or is of the other kind.
    pub fn merged(&self, other: &Self) -> Option<Self> {
        let mut out = self.clone();
        match (&mut out, other) {
            (Self::Set(mine), Self::Set(theirs)) => mine.merge(theirs),
            (Self::Register(mine), Self::Register(theirs)) => {
                // One marker, two contents can't come from a correct node. Converge all the same.
                if mine.marker == theirs.marker && mine.val < theirs.val {
                    mine.val.clone_from(&theirs.val);
                }
                mine.merge(theirs.clone());
            }
            _ => return None,
        }
        (out != *self).then_some(out)
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Bytes {
        #[cfg(test)]
        tests::ENCODED.with(|count| count.set(count.get() + 1));
        let invariant = "numbers, bytes and maps of them always encode into memory";
        let bytes = match self {
            Self::Set(set) => {
                let unsorted = postcard::to_stdvec(set.state()).expect(invariant);
                let sorted: SortedSet = postcard::from_bytes(&unsorted).expect("the same layout");
                postcard::to_extend(&sorted, vec![VERSION, SET]).expect(invariant)
            }
            Self::Register(register) => postcard::to_extend(register, vec![VERSION, REGISTER]).expect(invariant),
        };
        bytes.into()
    }

    /// Reads a value; refuses everything that [`Value::encode`] would not have written.
    ///
    /// # Errors
    /// See [`ValueError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        if bytes.len() > MERGED_VALUE_BYTES {
            return Err(ValueError::TooLarge(bytes.len()));
        }
        let (kind, content) = match bytes {
            [VERSION, kind, content @ ..] => (*kind, content),
            [version, ..] if *version != VERSION => return Err(ValueError::Version(*version)),
            _ => return Err(ValueError::Malformed),
        };
        let value = match kind {
            SET => decode_set(content).map(|state| Self::Set(state.into())),
            REGISTER => decode_register(content).map(Self::Register),
            _ => None,
        };
        value.ok_or(ValueError::Malformed)
    }
}

/// Reads a set that some history of adds, removals and merges of whole states can have made: the laws of merge hold
/// for those only.
fn decode_set(content: &[u8]) -> Option<Orswot<Vec<u8>, Actor>> {
    let sorted: SortedSet = postcard::from_bytes(content).ok()?;
    let sound = |clock: &VClock<Actor>| {
        !clock.is_empty() && clock.iter().all(|dot| (1..=sorted.clock.get(dot.actor)).contains(&dot.counter))
    };
    let lawful = (sorted.clock.is_empty() || sound(&sorted.clock))
        && sorted.entries.values().all(sound)
        // Only an operation that comes too early is ever deferred, and we ship none.
        && sorted.deferred == 0;
    let canonical = postcard::to_stdvec(&sorted).ok()? == content;
    if lawful && canonical { postcard::from_bytes(content).ok() } else { None }
}

fn decode_register(content: &[u8]) -> Option<LWWReg<Vec<u8>, Stamp>> {
    let register = postcard::from_bytes(content).ok()?;
    (postcard::to_stdvec(&register).ok()? == content).then_some(register)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    thread_local! {
        /// How often a value was encoded.
        pub(crate) static ENCODED: Cell<usize> = const { Cell::new(0) };
    }
}
