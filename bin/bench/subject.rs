//! What is measured: an engine with its store on a disk, used as a node uses it.

use std::{
    path::{Path, PathBuf},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use rhizomq_engine::{
    Commit, Dot, Engine, Entry, Epoch, NodeId, Now, Op, Planted, Store, Unit, limits,
    store::{DiskOptions, DiskStore},
};

use super::noise;

const INBOX: &str = "/queue/bench";

/// The header section of each message.
pub(super) const HEAD: &[u8] = b"destination:/queue/bench\ncontent-type:text/plain\n";

/// An engine with its store, and the messages it is fed.
pub(super) struct Subject {
    engine: Engine,
    store: DiskStore,
    entries: Vec<Entry>,
    started: Instant,
    /// Seconds that opening the store took, and the engine on it.
    pub(super) opened_in: (f64, f64),
}

impl Subject {
    pub(super) fn open(dir: &Path, batch: u32, size: u32) -> anyhow::Result<Self> {
        let start = Instant::now();
        let (store, _) = DiskStore::open(dir.join("store"), DiskOptions::default())?;
        let store_s = start.elapsed().as_secs_f64();
        let now = Now::default();
        // A life of its own for each opening, as for a node.
        let epoch = Epoch(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64);
        let (engine, report) = Engine::open(store.reader(), NodeId([1; 16]), epoch, now, Planted::default())?;
        let opened_in = (store_s, start.elapsed().as_secs_f64() - store_s);
        anyhow::ensure!(report.losses.is_empty() && report.damaged_rows.is_empty(), "damaged: {report:?}");
        let body = noise(size);
        let head = Bytes::from_static(HEAD);
        let entry = Entry { inboxes: vec![INBOX.to_owned()], head, body, persistent: true };
        Ok(Self { engine, store, entries: vec![entry; batch as usize], started: Instant::now(), opened_in })
    }

    /// Consumes so many messages, the oldest first, in one commit.
    pub(super) fn consume_oldest(&mut self, count: u32) -> anyhow::Result<()> {
        let mut left = count;
        for (segment, _) in self.engine.inbox_segments(INBOX).collect::<Vec<_>>() {
            let mut from = 1;
            while left > 0
                && let Some(slot) = self.engine.next_waiting(INBOX, segment, from)
            {
                self.engine.remove(Dot { segment, slot });
                (from, left) = (slot + 1, left - 1);
            }
        }
        self.write_queued().map(drop)
    }

    /// Consumes two of three of the last `count` messages, in one commit.
    pub(super) fn thin_newest(&mut self, count: u32) -> anyhow::Result<()> {
        let Some(segment) = self.engine.open_segment() else { return Ok(()) };
        let last = self.engine.segment(segment).and_then(|state| state.known.last()).unwrap_or(0);
        let slots = last.saturating_sub(count - 1).max(1)..=last;
        for slot in slots.filter(|slot| slot % 3 > 0) {
            self.engine.remove(Dot { segment, slot });
        }
        self.write_queued().map(drop)
    }

    /// What a node does twice a second, as if all that is here were old enough for it. It is written with the next commit.
    pub(super) fn upkeep(&mut self) {
        let mono_ms = self.started.elapsed().as_millis() as u64 + limits::REWRITE_AGE_MS;
        self.engine.compact(Now { mono_ms, wall_ms: 0 });
    }

    /// Reads every waiting message in order. How many there are.
    pub(super) fn read_all(&self) -> anyhow::Result<u64> {
        let mut count = 0;
        for (segment, _) in self.engine.inbox_segments(INBOX).collect::<Vec<_>>() {
            let mut from = 1;
            while let Some((block, slots)) = self.engine.next_block(INBOX, segment, from)? {
                let messages = block.messages(INBOX, &slots);
                from = slots.last().unwrap_or(from) + 1;
                count += messages.filter(|(_, message)| !std::hint::black_box(message.body).is_empty()).count() as u64;
            }
        }
        Ok(count)
    }

    pub(super) fn checkpoint(&mut self) -> anyhow::Result<()> {
        Ok(self.store.checkpoint()?)
    }

    /// One group commit of all entries: taken in, encoded, hashed, written, synced, taken over. Its bytes.
    pub(super) fn commit(&mut self) -> anyhow::Result<usize> {
        for entry in &self.entries {
            self.engine.publish(Unit { entries: vec![entry.clone()], removals: Vec::new() })?;
        }
        self.write_queued()
    }

    fn write_queued(&mut self) -> anyhow::Result<usize> {
        let now = Now { mono_ms: self.started.elapsed().as_millis() as u64, wall_ms: 0 };
        let mut written = 0;
        // One commit takes everything unless the batch is larger than a commit may be.
        loop {
            if self.engine.needs_segment() {
                self.engine.begin_segment(now);
            }
            let Some(Commit { batch, .. }) = self.engine.poll_commit(now) else { return Ok(written) };
            written += batch.iter().map(op_bytes).sum::<usize>();
            self.store.commit(&[batch])?;
            self.engine.handle_committed();
            if self.store.wants_checkpoint() {
                self.store.checkpoint()?;
            }
        }
    }
}

fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Put(key, value) => key.len() + value.len(),
        Op::Delete(key) => key.len(),
    }
}

/// All files below a directory, with their sizes.
pub(super) fn files_of(dir: &Path) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                dirs.push(entry.path());
            } else {
                files.push((entry.path(), entry.metadata()?.len()));
            }
        }
    }
    files.sort();
    Ok(files)
}
