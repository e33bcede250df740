//! The `rhizomq` program: reads the command line, runs the command, and turns what went wrong into an exit code.

mod admin;
mod bench;
mod cli;
mod client;
mod config;
mod log;
mod status_table;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ExitCode::SUCCESS
}
