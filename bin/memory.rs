//! The memory that a node may use for what it could read from disk again: one number, and how it is shared out.

use rhizomq_engine::{
    Engine,
    store::{DiskOptions, DiskStore},
};
use rhizomq_stomp::MemoryStatus;

/// Below this sled reads the same pages again and again.
pub(crate) const MIN: u64 = 8 << 20;
/// Past this it is a slip of the pen.
pub(crate) const MAX: u64 = 1 << 40;

/// The index takes one part in so many, the blocks of messages take the rest: bodies are what is read, and are large.
const PARTS: u64 = 5;

/// A budget in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory(u64);

/// 64 MiB for blocks and 16 MiB for the index, as the engine has it.
impl Default for Memory {
    fn default() -> Self {
        Self(80 << 20)
    }
}

impl Memory {
    /// Reads a number of bytes, with a unit or without; `None` if it is none, or out of bounds.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        parse_bytes(text).filter(|bytes| (MIN..=MAX).contains(bytes)).map(Self)
    }

    fn index_cache(self) -> usize {
        usize::try_from(self.0 / PARTS).unwrap_or(usize::MAX)
    }

    fn block_cache(self) -> usize {
        usize::try_from(self.0 - self.0 / PARTS).unwrap_or(usize::MAX)
    }

    /// How the store is opened.
    pub(crate) fn disk_options(self) -> DiskOptions {
        DiskOptions { index_cache: self.index_cache(), ..DiskOptions::default() }
    }

    /// Gives the engine its part.
    pub(crate) fn limit(self, engine: &mut Engine) {
        engine.set_cache_bytes(self.block_cache());
    }

    /// What the status tells of it.
    pub(crate) fn status(self, store: &DiskStore) -> MemoryStatus {
        MemoryStatus { budget: self.0, index_cache: store.index_cache() as u64, ..MemoryStatus::default() }
    }
}

/// Reads a number of bytes, with a unit or without.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use rhizomq_engine::{Entry, Epoch, NodeId, Now, Planted, RangeSet, Store, Unit, store::MemoryStore};

    use super::*;

    #[test]
    fn a_budget_has_a_unit_or_none_and_bounds() {
        let bytes = |text| Memory::parse(text).map(|memory| memory.0);
        for (text, expected) in [
            ("8388608", 8 << 20),
            ("8192k", 8 << 20),
            ("128MiB", 128 << 20),
            ("128 mib", 128 << 20),
            ("12M", 12 << 20),
            ("2G", 2 << 30),
            ("2GiB", 2 << 30),
            ("9000KiB", 9000 << 10),
            ("1TiB", 1 << 40),
            ("1 t", 1 << 40),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "M",
            "8388607",
            "-1",
            "1.5G",
            "64MB",
            "64 M B",
            "1025G",
            "2TiB",
            "99999999999999999999",
            "20000000000G",
        ] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn the_default_is_what_the_engine_has_by_itself() {
        let memory = Memory::default();
        assert_eq!(memory.disk_options().index_cache, DiskOptions::default().index_cache);
        assert_eq!(memory.block_cache(), rhizomq_engine::limits::BLOCK_CACHE_BYTES);
    }

    #[test]
    fn the_index_and_the_engine_get_their_parts_and_no_more() {
        let memory = Memory::parse("10M").expect("within bounds");
        assert_eq!(memory.disk_options().index_cache, 2 << 20);
        let mut store = MemoryStore::new();
        let (mut engine, _) =
            Engine::open(store.reader(), NodeId([1; 16]), Epoch(1), Now::default(), Planted::default()).unwrap();
        memory.limit(&mut engine);
        for _ in 0..40 {
            let entry = Entry {
                inboxes: vec!["q".to_owned()],
                head: bytes::Bytes::new(),
                body: vec![7; 500 << 10].into(),
                persistent: true,
            };
            engine.publish(Unit { entries: vec![entry], removals: Vec::new() }).unwrap();
            if engine.needs_segment() {
                engine.begin_segment(Now::default());
            }
            while let Some(commit) = engine.poll_commit(Now::default()) {
                store.commit(&[commit.batch]).unwrap();
                engine.handle_committed();
            }
        }
        let (held, limit) = engine.cache_bytes();
        assert_eq!(limit, 8 << 20);
        assert!((limit / 2..=limit).contains(&held), "20 MB are there, {held} bytes are held of {limit}");
        // What is read is held to it as well.
        let segment = engine.open_segment().unwrap();
        for first in engine.blocks_with(segment, &RangeSet::from_range(1, 40)) {
            engine.block(segment, first).unwrap().unwrap();
            assert!(engine.cache_bytes().0 <= limit);
        }
    }
}
