//! A host's disk: a [`MemoryStore`] whose syncs take time, and a list of the message bodies that really lie on it.
//!
//! The list is read off the rows that are written, not off what the engine says of itself: the oracle's own eyes.

use std::collections::BTreeMap;

use bytes::Bytes;
use rhizomq_engine::{
    Batch, Block, Dot, Op,
    store::{MemoryStore, Snapshot, Store as _},
};

use super::ledger::{MsgId, msg_id_of};

/// First byte of the keys of block rows; part of the store's permanent format.
const BLOCK_PREFIX: u8 = b'B';

type Bodies = BTreeMap<Bytes, Vec<(Dot, MsgId)>>;

#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) store: MemoryStore,
    /// The commit under way.
    writing: Option<(u64, Batch)>,
    bodies: Bodies,
    /// Syncs take at least this long, in milliseconds.
    pub(crate) slowness_ms: u64,
    /// So many coming writes with bodies find the disk full. Those without find room: it was set aside for them.
    pub(crate) full_for: u32,
}

/// An old copy of a disk.
pub(crate) struct DiskCopy {
    snapshot: Snapshot,
    bodies: Bodies,
}

/// Which bodies came and went with a write.
#[derive(Default)]
pub(crate) struct Moved {
    pub(crate) came: Vec<(Dot, MsgId)>,
    pub(crate) gone: Vec<(Dot, MsgId)>,
}

impl Disk {
    /// Hands a batch to the device.
    pub(crate) fn stage(&mut self, seq: u64, batch: Batch) {
        assert!(self.writing.is_none(), "two commits at a time");
        self.store.stage(batch.clone());
        self.writing = Some((seq, batch));
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// The write ends: what moved, or that the disk was full.
    pub(crate) fn sync(&mut self, seq: u64) -> Result<Moved, String> {
        let (written, batch) = self.writing.take().expect("a sync belongs to a write");
        assert_eq!(written, seq);
        let is_body = |op: &Op| matches!(op, Op::Put(key, _) if key[0] == BLOCK_PREFIX);
        if self.full_for > 0 && batch.iter().any(is_body) {
            self.full_for -= 1;
            self.store.fail_next(rhizomq_engine::StoreError::Full { context: "simulated".to_owned() });
        }
        self.store.sync().map_err(|error| error.to_string())?;
        Ok(self.note(batch))
    }

    /// The process dies; a write under way may have reached the disk, or not.
    pub(crate) fn crash(&mut self, keep: bool) -> Moved {
        self.store.crash(usize::from(keep));
        self.full_for = 0;
        self.slowness_ms = 0;
        match self.writing.take() {
            Some((_, batch)) if keep => self.note(batch),
            _ => Moved::default(),
        }
    }

    pub(crate) fn copy(&self) -> DiskCopy {
        DiskCopy { snapshot: self.store.snapshot(), bodies: self.bodies.clone() }
    }

    /// Puts an old copy back.
    pub(crate) fn restore(&mut self, copy: &DiskCopy) {
        self.store.restore(&copy.snapshot);
        self.bodies.clone_from(&copy.bodies);
        self.writing = None;
    }

    /// Bytes of the blocks on the disk.
    pub(crate) fn block_bytes(&self) -> usize {
        let reader = self.store.reader();
        let size = |key: &Bytes| reader.get(key).expect("memory reads").map_or(0, |value| value.len());
        self.bodies.keys().map(size).sum()
    }

    /// All bodies on the disk, one entry per slot.
    pub(crate) fn bodies(&self) -> impl Iterator<Item = (Dot, MsgId)> + '_ {
        self.bodies.values().flatten().copied()
    }

    fn note(&mut self, batch: Batch) -> Moved {
        let mut moved = Moved::default();
        for op in batch {
            match op {
                Op::Put(key, value) if key[0] == BLOCK_PREFIX => {
                    let block = Block::decode(value).expect("a block row holds a block");
                    let ours = |slot| Some((block.dot(slot), msg_id_of(&block.message(slot)?.body)?));
                    let bodies: Vec<_> = (block.first()..=block.last()).filter_map(ours).collect();
                    let old = self.bodies.remove(&key).unwrap_or_default();
                    moved.gone.extend(old.into_iter().filter(|body| !bodies.contains(body)));
                    moved.came.extend(&bodies);
                    self.bodies.insert(key, bodies);
                }
                Op::Delete(key) if key[0] == BLOCK_PREFIX => {
                    moved.gone.extend(self.bodies.remove(&key).unwrap_or_default());
                }
                _ => {}
            }
        }
        // A block that was gathered from others takes their place in the same batch: what it has did not go.
        moved.gone.retain(|body| !self.bodies.values().any(|bodies| bodies.contains(body)));
        moved
    }
}
