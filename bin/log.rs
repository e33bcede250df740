//! The log: to standard error, so that standard output holds only what tools read.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, util::SubscriberInitExt};

/// The log filter is not understood.
#[derive(Debug, thiserror::Error)]
#[error("the log filter `{filter}` is not understood ({reason}); write for example `info` or `warn,rhizomq_net=debug`")]
pub(crate) struct FilterError {
    filter: String,
    reason: String,
}

/// Starts logging. `RUST_LOG`, where set, outweighs `filter`: it is what a developer reaches for.
pub(crate) fn start(filter: &str, json: bool) -> Result<(), FilterError> {
    let filter = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty()).unwrap_or_else(|| filter.to_owned());
    let parsed = EnvFilter::try_new(&filter).map_err(|error| FilterError { filter, reason: error.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    // A second call would be a mistake of `main`, and harmless: the first logger stays.
    let _ = if json {
        builder.json().flatten_event(true).finish().try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).finish().try_init()
    };
    Ok(())
}
