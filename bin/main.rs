//! The `rhizomq` program: reads the command line, runs the command, and turns what went wrong into an exit code.

mod admin;
mod backup;
mod bench;
mod cli;
mod client;
mod config;
mod console;
mod data_dir;
mod door;
mod drain;
mod findings;
mod jobs;
mod limits;
mod listen;
mod lives;
mod log;
mod memory;
mod merge;
mod nodes;
mod output;
mod passcode;
mod policies;
mod quarantine;
mod serve;
mod split;
mod status_table;
mod users;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Command, NodeCommand, SubscriptionCommand},
    client::ClientError,
    output::{complain, is_unread, say},
};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => return serve::run(*args),
        Command::Ticket(args) => client::ticket(&args).map_err(anyhow::Error::from),
        Command::Status(args) => client::status(&args).map_err(anyhow::Error::from),
        Command::Verify(args) => return verify::run(&args),
        Command::Size(args) => client::size(&args).map_err(anyhow::Error::from),
        Command::Drain(args) => drain::run(&args).map_err(anyhow::Error::from),
        Command::Split(args) => split::run(&args).map_err(anyhow::Error::from),
        Command::Merge(args) => merge::run(&args).map_err(anyhow::Error::from),
        Command::Backup(args) => client::backup(&args).map_err(anyhow::Error::from),
        Command::Restore(args) => backup::restore(&args).map_err(anyhow::Error::from),
        Command::Node(NodeCommand::Forget(args)) => client::forget(&args).map_err(anyhow::Error::from),
        Command::Subscription(SubscriptionCommand::List(args)) => {
            client::subscriptions(&args).map_err(anyhow::Error::from)
        }
        Command::Subscription(SubscriptionCommand::Remove(args)) => {
            client::remove_subscription(&args).map_err(anyhow::Error::from)
        }
        Command::User(command) => users::run(&command),
        Command::Policy(command) => policies::run(&command),
        Command::Job(command) => jobs::run(&command),
        Command::Bench(command) => bench::run(&command),
    };
    match done {
        Ok(text) => match say(text.trim_end()) {
            Err(error) if !is_unread(&error) => {
                complain(ClientError::Output(error));
                ExitCode::FAILURE
            }
            _ => ExitCode::SUCCESS,
        },
        Err(error) => {
            // It ended before its work was done, as whoever looked on has gone: that needs no words.
            if !matches!(error.downcast_ref(), Some(ClientError::Output(error)) if is_unread(error)) {
                complain(format_args!("{error:#}"));
            }
            ExitCode::FAILURE
        }
    }
}
