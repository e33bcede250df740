//! `bench store`: durable group commits of the engine on its disk store, beside the disk's limit.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::{
    BenchArgs,
    figures::{Figure, Sample, Series},
    limit::AppendFile,
    noise,
    subject::Subject,
};

/// What is measured, then its limit.
const THINGS: [&str; 2] = ["engine + store, one sync per commit", "limit: append the same bytes + fdatasync"];

/// What is to be reached, of messages of 256 B.
pub(super) const TARGETS: &str =
    "Targets for 256 B messages: `reached` 0.8 with a batch of 256, `p50 ratio` at most 1.5 with a batch of 1.\n";

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
    let mut times = Vec::new();
    let mut last = Duration::ZERO;
    while last < round {
        commit()?;
        let now = start.elapsed();
        times.push(now - last);
        last = now;
    }
    let messages = times.len() as u64 * u64::from(batch);
    times.sort_unstable();
    let p50 = times.get(times.len() / 2).copied();
    Ok(Sample { messages, body_bytes: messages * u64::from(size), elapsed: last, p50 })
}
