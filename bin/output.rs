//! What commands say. Whoever reads it may stop, as `rhizomq status | head -1` does: that is no reason to panic.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// A line on standard output, at once.
///
/// # Errors
/// It can't be written; [`is_unread`] tells whether just nobody reads it.
pub(crate) fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Why a command ends, on standard error, if anybody reads that.
pub(crate) fn complain(error: impl Display) {
    let _ = writeln!(io::stderr(), "rhizomq: {error}");
}

/// Whether the reader has gone: nothing is wrong then, and nobody is to be told.
pub(crate) fn is_unread(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}
