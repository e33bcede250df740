//! `bench engine`: the storage engine at size. What it writes, keeps, opens, reads and holds in memory, each beside its
//! limit in the same run.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{
    figures::median,
    subject::{HEAD, Subject, files_of},
};

/// Messages in one group commit.
const BATCH: u32 = 256;

/// Bytes of log that are written between two checkpoints.
const LOG: u64 = 64 << 20;

/// Commits between two rounds of upkeep: a node that takes in a message in 250 us, each by itself, has one in half a second.
const UPKEEP: u32 = 2_000;

/// Commits between two looks at how large the directory is.
const LOOKS: u32 = 16;

/// How to measure the engine at size.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Waiting messages for opening and reading
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(256..=50_000_000))]
    pub(crate) messages: u32,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) size: u32,
    /// Waiting messages of 100 bytes for the memory figure; a tenth of them is measured beside it
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(2_560..=100_000_000))]
    pub(crate) memory_messages: u32,
    /// Waiting messages of 100 bytes, each a commit of its own, for the other memory figure; half of them are measured beside it.
    /// Each is synced: on a disk that takes long, 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(0..=100_000_000))]
    pub(crate) single_messages: u32,
    /// Rounds of opening and reading; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Where the scratch files go; measure the disk that you mean
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: std::path::PathBuf,
    /// One JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Fill a store, or read one that has messages, and tell the resident memory; what the memory figure runs in
    /// processes of its own
    #[arg(long, hide = true, value_name = "N")]
    resident: Option<u32>,
    /// Each message a commit of its own
    #[arg(long, hide = true)]
    singly: bool,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
struct Line {
    what: &'static str,
    value: f64,
    unit: &'static str,
    /// What it is held against, and that value.
    beside: &'static str,
    limit: f64,
    ratio: f64,
    /// What the ratio should be.
    target: &'static str,
}

impl Line {
    fn new(what: &'static str, (value, unit): (f64, &'static str), (beside, limit): (&'static str, f64)) -> Self {
        Self { what, value, unit, beside, limit, ratio: value / limit.max(1e-12), target: "" }
    }

    fn target(self, target: &'static str) -> Self {
        Self { target, ..self }
    }
}

/// Measures, and returns what is to be printed.
pub(super) fn run(args: &EngineArgs) -> anyhow::Result<String> {
    if let Some(messages) = args.resident {
        return resident_here(args, messages);
    }
    let mut lines = consumed_at_once(args)?;
    lines.extend(steady(args)?);
    lines.extend(thinned(args)?);
    lines.extend(opened_and_read(args)?);
    lines.extend(memory(args)?);
    if args.single_messages > 0 {
        lines.extend(memory_of_single(args)?);
    }
    if args.json {
        return Ok(serde_json::json!({ "messages": args.messages, "size": args.size, "lines": lines }).to_string());
    }
    let mut out =
        format!("{:<46} {:>10} {:<6} {:<44} {:>10} {:>7}  {}\n", "measured", "", "", "beside", "", "ratio", "target");
    for Line { what, value, unit, beside, limit, ratio, target } in lines {
        out.push_str(&format!(
            "{what:<46} {value:>10.3} {unit:<6} {beside:<44} {limit:>10.3} {ratio:>7.2}  {target}\n"
        ));
    }
    Ok(out)
}

/// Publishes and consumes in the next commit: what never lives until a checkpoint.
fn consumed_at_once(args: &EngineArgs) -> anyhow::Result<Vec<Line>> {
    let dir = super::scratch(&args.dir)?;
    let mut subject = Subject::open(dir.path(), BATCH, args.size)?;
    let before = written_by_us()?;
    let rounds = (64 << 20) / u64::from(BATCH * args.size).max(1);
    for _ in 0..rounds.max(1) {
        subject.commit()?;
        subject.consume_oldest(BATCH)?;
    }
    let payload = rounds.max(1) * u64::from(BATCH * args.size);
    let written = written_by_us()?.saturating_sub(before);
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let what = "written, consumed before the checkpoint";
    Ok(vec![Line::new(what, (mb(written), "MB"), ("bodies published", mb(payload))).target("<= 1.3")])
}

/// A live set through which ten times as much passes: what the directory grows to.
fn steady(args: &EngineArgs) -> anyhow::Result<Vec<Line>> {
    let dir = super::scratch(&args.dir)?;
    let mut subject = Subject::open(dir.path(), BATCH, args.size)?;
    let live = args.messages / 2;
    for _ in 0..live / BATCH {
        subject.commit()?;
    }
    subject.checkpoint()?;
    let filled = directory_bytes(dir.path())?;
    let mut peaks = Vec::new();
    for _ in 0..10 {
        let mut peak = 0;
        for commit in 0..live / BATCH {
            subject.commit()?;
            subject.consume_oldest(BATCH)?;
            if commit % LOOKS == 0 {
                peak = peak.max(directory_bytes(dir.path())?);
            }
        }
        peaks.push(peak);
    }
    let (first, last) = (peaks[1], peaks[9]);
    let peak = peaks.into_iter().max().unwrap_or_default();
    let bound = u64::from(live) * u64::from(args.size) + LOG;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let what = "directory, ten live sets later, at most";
    Ok(vec![
        Line::new(what, (mb(peak), "MB"), ("bodies that live + 64 MiB of log", mb(bound))).target("<= 2"),
        Line::new(what, (mb(peak), "MB"), ("just filled", mb(filled))),
        Line::new("- during the tenth", (mb(last), "MB"), ("during the second", mb(first))).target("<= 1.1"),
    ])
}

/// Two of three messages are consumed soon, the third stays: what the directory grows to.
fn thinned(args: &EngineArgs) -> anyhow::Result<Vec<Line>> {
    let dir = super::scratch(&args.dir)?;
    let mut subject = Subject::open(dir.path(), BATCH, args.size)?;
    let before = written_by_us()?;
    let commits = args.messages / BATCH;
    let (mut ratio, mut most) = (0.0, (0, 1));
    for commit in 0..commits {
        subject.commit()?;
        subject.thin_newest(BATCH)?;
        subject.upkeep();
        if commit % LOOKS == 0 || commit + 1 == commits {
            let message = HEAD.len() as u64 + u64::from(args.size);
            let live = u64::from((commit + 1) * (BATCH / 3 + 1)) * message;
            let found = directory_bytes(dir.path())?;
            let now = found as f64 / (live + LOG) as f64;
            if now > ratio {
                (ratio, most) = (now, (found, live + LOG));
            }
        }
    }
    let written = written_by_us()?.saturating_sub(before);
    let payload = u64::from(commits * BATCH) * u64::from(args.size);
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let beside = "messages that live + 64 MiB of log";
    Ok(vec![
        Line::new("directory, a third of each block stays", (mb(most.0), "MB"), (beside, mb(most.1))).target("<= 2"),
        Line::new("- written for it", (mb(written), "MB"), ("bodies published", mb(payload))),
    ])
}

/// Opens what waits, and reads it in order, beside reading the files.
fn opened_and_read(args: &EngineArgs) -> anyhow::Result<Vec<Line>> {
    let dir = super::scratch(&args.dir)?;
    let mut subject = Subject::open(dir.path(), BATCH, args.size)?;
    for _ in 0..args.messages / BATCH {
        subject.commit()?;
    }
    subject.checkpoint()?;
    drop(subject);
    let empty = super::scratch(&args.dir)?;
    drop(Subject::open(empty.path(), BATCH, args.size)?);
    let log = dir.path().join("store/log");
    let mut times = Times::default();
    for _ in 0..args.rounds {
        times.files.push(timed(|| read_files(dir.path()))?.1);
        let (subject, seconds) = timed(|| Subject::open(dir.path(), BATCH, args.size))?;
        times.opened.push(seconds);
        times.opened_store.push(subject.opened_in.0);
        times.opened_engine.push(subject.opened_in.1);
        times.opened_empty.push(timed(|| Subject::open(empty.path(), BATCH, args.size))?.1);
        times.cached_log.push(timed(|| read_files(&log))?.1);
        times.cached.push(timed(|| all_of(&subject, args))?.1);
        forget_cached(&log)?;
        times.cold_log.push(timed(|| read_files(&log))?.1);
        // What the engine keeps of the blocks that it has just read must not help it.
        drop(subject);
        let subject = Subject::open(dir.path(), BATCH, args.size)?;
        forget_cached(&log)?;
        times.cold.push(timed(|| all_of(&subject, args))?.1);
    }
    let bodies = f64::from(args.messages / BATCH * BATCH) * f64::from(args.size) / 1e6;
    let log = files_of(&log)?.iter().map(|(_, bytes)| *bytes as f64 / 1e6).sum::<f64>();
    let Times { files, opened, opened_store, opened_engine, opened_empty, cached, cached_log, cold, cold_log } = times;
    let [opened_store, opened_engine] = [opened_store, opened_engine].map(median);
    let [files, opened, opened_empty] = [files, opened, opened_empty].map(median);
    let [cached, cached_log, cold, cold_log] = [cached, cached_log, cold, cold_log].map(median);
    let once = "reading all its files once";
    Ok(vec![
        Line::new("opening", (opened, "s"), (once, files)).target("<= 1"),
        Line::new("- of it, sled and a sum over its rows", (opened_store, "s"), (once, files)),
        Line::new("- of it, the rows of states and outlines", (opened_engine, "s"), (once, files)),
        Line::new("opening an empty store", (opened_empty, "s"), (once, files)),
        Line::new(
            "reading all in order, from the disk",
            (bodies / cold, "MB/s"),
            ("reading the log files", log / cold_log),
        )
        .target(">= 0.5"),
        Line::new(
            "reading all in order, from the page cache",
            (bodies / cached, "MB/s"),
            ("reading the log files", log / cached_log),
        ),
    ])
}

/// Seconds, one for each round.
#[derive(Default)]
struct Times {
    files: Vec<f64>,
    opened: Vec<f64>,
    opened_store: Vec<f64>,
    opened_engine: Vec<f64>,
    opened_empty: Vec<f64>,
    cached: Vec<f64>,
    cached_log: Vec<f64>,
    cold: Vec<f64>,
    cold_log: Vec<f64>,
}

fn all_of(subject: &Subject, args: &EngineArgs) -> anyhow::Result<()> {
    let (found, expected) = (subject.read_all()?, args.messages / BATCH * BATCH);
    anyhow::ensure!(found == u64::from(expected), "{found} messages wait after opening, {expected} were published");
    Ok(())
}

/// Lets the system drop what it has in memory of the files of a directory.
fn forget_cached(dir: &Path) -> anyhow::Result<()> {
    for (path, _) in files_of(dir)? {
        let file = fs::File::open(&path)?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).context("the page cache is not to be had")?;
    }
    Ok(())
}

/// Resident memory of processes that hold many messages and a tenth of them: of one that takes them in, or of one that is
/// started on them and reads them all, whichever is more.
fn memory(args: &EngineArgs) -> anyhow::Result<Vec<Line>> {
    let many = measured_apart(args, args.memory_messages, false)?;
    let few = measured_apart(args, args.memory_messages / 10, false)?;
    let what = "resident memory, many messages of 100 B";
    Ok(vec![
        Line::new(what, (many, "MiB"), ("the bound", 200.0)).target("<= 1"),
        Line::new(what, (many, "MiB"), ("with a tenth of them", few)).target("<= 1.2"),
    ])
}

/// The same of messages that are a commit each, and what ten million would take by that. Caches fill with the first few
/// hundred thousand.
fn memory_of_single(args: &EngineArgs) -> anyhow::Result<Vec<Line>> {
    let count = args.single_messages;
    let (many, few) = (measured_apart(args, count, true)?, measured_apart(args, count / 2, true)?);
    let slope = (many - few) / f64::from(count - count / 2);
    let what = "resident memory, one message per commit";
    let all = many + slope * (10e6 - f64::from(count)).max(0.0);
    Ok(vec![
        Line::new(what, (many, "MiB"), ("with half of them", few)),
        Line::new("- bytes for each more", (slope * f64::from(1 << 20), "B"), ("a body", 100.0)),
        Line::new("- ten million, by that", (all, "MiB"), ("the bound", 200.0)).target("<= 1"),
    ])
}

/// The greater of the resident memories of two processes: one that takes in so many messages, one that opens and reads them.
fn measured_apart(args: &EngineArgs, messages: u32, singly: bool) -> anyhow::Result<f64> {
    let dir = super::scratch(&args.dir)?;
    let program = std::env::current_exe().context("cannot tell the program's own path")?;
    let resident = || -> anyhow::Result<f64> {
        let mut command = Command::new(&program);
        command.args(["bench", "engine", "--size", "100", "--resident", &messages.to_string()]);
        command.args(singly.then_some("--singly")).arg("--dir");
        let output = command.arg(dir.path()).output().context("cannot start a process of its own")?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().with_context(|| format!("no figure: {}", String::from_utf8_lossy(&output.stderr)))
    };
    Ok(resident()?.max(resident()?))
}

fn resident_here(args: &EngineArgs, messages: u32) -> anyhow::Result<String> {
    let batch = if args.singly { 1 } else { BATCH };
    let mut subject = Subject::open(&args.dir, batch, args.size)?;
    let expected = messages / batch * batch;
    match subject.read_all()? {
        0 => {
            for number in 0..messages / batch {
                subject.commit()?;
                if number % UPKEEP == 0 {
                    subject.upkeep();
                }
            }
        }
        found => anyhow::ensure!(found == u64::from(expected), "{found} messages wait, {expected} were published"),
    }
    Ok(format!("{:.1}", resident_mib()?))
}

fn resident_mib() -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("resident memory is read from /proc, on Linux")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS is no number")?;
    Ok(kib / 1024.0)
}

/// Bytes that this process has had written to files, as the system counts them.
fn written_by_us() -> anyhow::Result<u64> {
    let io = fs::read_to_string("/proc/self/io").context("written bytes are read from /proc, on Linux")?;
    let line = io.lines().find_map(|line| line.strip_prefix("wchar:")).context("no wchar")?;
    line.trim().parse().context("wchar is no number")
}

fn directory_bytes(dir: &Path) -> anyhow::Result<u64> {
    Ok(files_of(dir)?.iter().map(|(_, bytes)| bytes).sum())
}

fn read_files(dir: &Path) -> anyhow::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    for (path, _) in files_of(dir)? {
        let mut file = fs::File::open(&path)?;
        loop {
            let read = std::io::Read::read(&mut file, &mut buffer)?;
            if read == 0 {
                break;
            }
            total += std::hint::black_box(&buffer[..read]).len() as u64;
        }
    }
    Ok(total)
}

/// What the work gives, and its seconds.
fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, f64)> {
    let start = Instant::now();
    let done = work()?;
    Ok((done, start.elapsed().max(Duration::from_nanos(1)).as_secs_f64()))
}
