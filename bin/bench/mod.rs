//! `rhizomq bench`: what this machine does, beside what it could do at most, measured in the same run.
//!
//! Every figure is taken in short rounds; in each round the limit and the real thing run one after the other, so that
//! a noisy neighbour hurts both. What is printed is the median over the rounds, and the ratio is the median of the
//! rounds' own ratios.

mod engine;
mod figures;
mod host;
mod limit;
mod replicate;
mod stomp;
mod store;
mod subject;

use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, Subcommand};

use self::stomp::StompArgs;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Durable group commits of the store, beside appending the same bytes to a file with fdatasync
    Store(BenchArgs),
    /// The storage engine at size: what it writes, keeps, opens, reads and holds in memory
    Engine(engine::EngineArgs),
    /// Replication between two nodes over loopback QUIC, beside a raw QUIC stream and the disk's limit
    Replicate(BenchArgs),
    /// A broker as its STOMP clients see it: nodes started for it, or any broker; sends, consumption, latency, fan-out
    ///
    /// Without options: three nodes on this machine, a minute or two. The same against others, in turns:
    ///
    ///   rhizomq bench stomp --nodes 1 --broker other=127.0.0.1:61613 --header persistent:true
    ///
    /// Every receipt and every message is looked at: if one is lost or comes twice, it says so and ends with code 1.
    #[command(verbatim_doc_comment)]
    Stomp(Box<StompArgs>),
}

/// How to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) size: u32,
    /// Messages in one group commit (for `replicate`: published together, four such groups under way); several are
    /// measured one after the other
    #[arg(long, value_name = "N,...", default_value = "1,10,100,256,1000", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: Vec<u32>,
    /// Rounds per figure; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// Length of each measurement in a round
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub(crate) round_ms: u64,
    /// Directory on the disk to measure; what is written there is deleted afterwards
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the benchmark and returns what is to be printed.
pub(crate) fn run(command: &BenchCommand) -> anyhow::Result<String> {
    let (args, figures, targets) = match command {
        BenchCommand::Engine(args) => return engine::run(args),
        BenchCommand::Stomp(args) => return stomp::run(args),
        BenchCommand::Store(args) => (args, store::run(args)?, store::TARGETS),
        BenchCommand::Replicate(args) => (args, replicate::run(args)?, ""),
    };
    if args.json {
        let object = serde_json::json!({
            "size": args.size, "rounds": args.rounds, "round_ms": args.round_ms, "figures": figures,
        });
        return Ok(object.to_string());
    }
    let BenchArgs { size, rounds, round_ms, .. } = args;
    Ok(format!(
        "{size} B messages, median of {rounds} rounds of {round_ms} ms; MB/s counts bodies only;\n\
         `reached`: the first line of the batch against this one, median of the rounds' own ratios; `p50`: of one group commit,\n\
         where they come one after the other, and `p50 ratio` its first line against this one.\n{targets}\n{}",
        figures::table(&figures)
    ))
}

/// A directory to write in, deleted when dropped.
fn scratch(dir: &Path) -> anyhow::Result<tempfile::TempDir> {
    let made = tempfile::Builder::new().prefix("rhizomq-bench-").tempdir_in(dir);
    made.with_context(|| format!("cannot write in {}; choose another place with --dir", dir.display()))
}

/// Bytes that do not compress, so that no layer below gets a better deal than real bodies would give it.
fn noise(length: u32) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}
