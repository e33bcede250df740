//! `rhizomq bench`: what this machine does, beside what it could do at most, measured in the same run.
//!
//! Every figure is taken in short rounds; in each round the limit and the real thing run one after the other, so that
//! a noisy neighbour hurts both. What is printed is the median over the rounds, and the ratio is the median of the
//! rounds' own ratios.

mod figures;
mod limit;

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Durable group commits of the store, beside appending the same bytes to a file with fdatasync
    Store(BenchArgs),
    /// Replication between two nodes over loopback QUIC, beside a raw QUIC stream and the disk's limit
    Replicate(BenchArgs),
}

/// How to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) size: u32,
    /// Messages in one group commit; several are measured one after the other
    #[arg(long, value_name = "N,...", default_value = "1,10,100,1000", value_delimiter = ',',
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
