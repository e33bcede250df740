//! `bench store`: durable group commits of the engine on its disk store, beside the disk's limit.

use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use rhizomq_engine::{
    Commit, Engine, Entry, Epoch, NodeId, Now, Op, Planted, Store, Unit,
    store::{DiskOptions, DiskStore},
};

use super::{
    BenchArgs,
    figures::{Figure, Sample, Series},
    limit::AppendFile,
    noise,
};

/// What is measured, then its limit.
const THINGS: [&str; 2] = ["engine + store, one sync per commit", "limit: append the same bytes + fdatasync"];

/// Measures every batch size of `args`.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for &batch in &args.batch {
        let dir = super::scratch(&args.dir)?;
        let mut subject = Subject::open(dir.path(), batch, args.size)?;
        let mut limit = AppendFile::create(dir.path()).context("cannot create the file for the disk's limit")?;
        // The first commit opens a life and a segment; the second one is as large as all that follow.
        subject.commit()?;
        let bytes = noise(subject.commit()? as u32);
        let mut series = Series::new(batch, &THINGS);
        let round = Duration::from_millis(args.round_ms);
        for _ in 0..args.rounds {
            series.things[0].1.push(timed(round, batch, args.size, || subject.commit().map(|_| ()))?);
            series.things[1].1.push(timed(round, batch, args.size, || Ok(limit.commit(&bytes)?))?);
        }
        figures.extend(series.figures());
    }
    Ok(figures)
}

/// Commits again and again until the time is over; whole commits only, and the time of the last one counts.
fn timed(
    round: Duration,
    batch: u32,
    size: u32,
    mut commit: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Sample> {
    let start = Instant::now();
    let mut messages = 0;
    while start.elapsed() < round {
        commit()?;
        messages += u64::from(batch);
    }
    Ok(Sample { messages, body_bytes: messages * u64::from(size), elapsed: start.elapsed() })
}

/// An engine with its store, and the messages it is fed.
struct Subject {
    engine: Engine,
    store: DiskStore,
    entries: Vec<Entry>,
    started: Instant,
}

impl Subject {
    fn open(dir: &std::path::Path, batch: u32, size: u32) -> anyhow::Result<Self> {
        let (store, _) = DiskStore::open(dir.join("store"), DiskOptions::default())?;
        let now = Now::default();
        let (engine, _) = Engine::open(store.reader(), NodeId([1; 16]), Epoch(1), now, Planted::default())?;
        let body = noise(size);
        let head = Bytes::from_static(b"destination:/queue/bench\ncontent-type:text/plain\n");
        let entry = Entry { inboxes: vec!["/queue/bench".to_owned()], head, body, persistent: true };
        Ok(Self { engine, store, entries: vec![entry; batch as usize], started: Instant::now() })
    }

    /// One group commit of all entries: taken in, encoded, hashed, written, synced, taken over. Its bytes.
    fn commit(&mut self) -> anyhow::Result<usize> {
        let now = Now { mono_ms: self.started.elapsed().as_millis() as u64, wall_ms: 0 };
        for entry in &self.entries {
            self.engine.publish(Unit { entries: vec![entry.clone()], removals: Vec::new() })?;
        }
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
