//! The `rhizomq` program: reads the command line, runs the command, and turns what went wrong into an exit code.

mod admin;
mod bench;
mod cli;
mod client;
mod config;
mod console;
mod data_dir;
mod log;
mod serve;
mod status_table;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => return serve::run(*args),
        Command::Ticket(args) => client::ticket(&args).map_err(anyhow::Error::from),
        Command::Status(args) => client::status(&args).map_err(anyhow::Error::from),
        Command::Bench(command) => bench::run(&command),
    };
    match done {
        Ok(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rhizomq: {error:#}");
            ExitCode::FAILURE
        }
    }
}
