//! What memory holds of a block that lies in the store. There is one of these for every block that waits, so that 10 million
//! waiting messages cost some megabytes: small is what it has to be.

use std::{ops::Deref, sync::Arc};

use super::{
    Replica,
    index::InboxIndex,
    outline::{Outline, bounds},
};
use crate::id::Slot;

/// An inbox, with the first and the last slot that a block has for it. In a gathered block others may lie between these.
pub(super) type Run = (Arc<str>, Slot, Slot);

/// Runs of the block before that are searched for a name: one by one, so few.
const SEARCHED: usize = 8;

/// See the module's docs.
#[derive(Debug)]
pub(super) struct BlockMeta {
    pub(super) last: Slot,
    /// In order of their first slots.
    pub(super) runs: Runs,
    /// How many slots it has bodies for, and how many bytes it has.
    pub(super) slots: u32,
    pub(super) bytes: u32,
    /// When it came here or was looked at last, on the monotonic clock: a young block is not worth rewriting.
    pub(super) since_ms: u64,
}

impl BlockMeta {
    /// Bytes of memory that one takes in a replica's map, about: nodes of a map that grows at its end are two thirds full.
    pub(super) const MEMORY: usize = (size_of::<Slot>() + size_of::<Self>()) * 3 / 2;
}

/// A slice of runs. Most blocks are for one inbox, and that one costs no allocation.
#[derive(Debug)]
pub(super) enum Runs {
    One(Run),
    Many(Box<[Run]>),
}

impl FromIterator<Run> for Runs {
    fn from_iter<I: IntoIterator<Item = Run>>(runs: I) -> Self {
        let mut runs: Vec<_> = runs.into_iter().collect();
        match (runs.pop(), runs.is_empty()) {
            (Some(run), true) => Self::One(run),
            (last, _) => {
                runs.extend(last);
                Self::Many(runs.into())
            }
        }
    }
}

impl Deref for Runs {
    type Target = [Run];

    fn deref(&self) -> &[Run] {
        match self {
            Self::One(run) => std::slice::from_ref(run),
            Self::Many(runs) => runs,
        }
    }
}

impl Replica {
    /// A block as memory keeps it: names shared with the block before it, or with what waits.
    pub(super) fn hold(&self, outline: &Outline<'_>, index: &InboxIndex, since_ms: u64) -> BlockMeta {
        let last = self.blocks.last_key_value().map(|(_, meta)| &*meta.runs).unwrap_or_default();
        let last = &last[..last.len().min(SEARCHED)];
        let shared = |name: &str| {
            let before = last.iter().map(|(inbox, ..)| inbox).find(|inbox| &***inbox == name);
            before.or_else(|| index.name(name)).cloned().unwrap_or_else(|| name.into())
        };
        let runs = outline.runs.iter().map(|(inbox, slots)| {
            let (first, last) = bounds(slots);
            (shared(inbox), first, last)
        });
        BlockMeta {
            last: outline.last,
            runs: runs.collect(),
            slots: outline.slots.len() as u32,
            bytes: outline.bytes,
            since_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_slice_they_were_collected_from() {
        for count in 0..4 {
            let runs: Vec<Run> = (0..count).map(|slot| ("q".into(), slot, slot)).collect();
            assert_eq!(*runs.iter().cloned().collect::<Runs>(), *runs);
        }
        assert!(size_of::<Runs>() <= 32, "a run has grown");
    }
}
