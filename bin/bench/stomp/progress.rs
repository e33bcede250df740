//! What is shown while it runs, if standard error is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::plan::Cell;

/// A bar over all measurements.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::no_length();
        // One line that can't be drawn is no reason to measure nothing.
        let style = ProgressStyle::with_template("{elapsed:>4} [{bar:30}] {pos}/{len}, {eta} left  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// So many measurements are to be made.
    pub(super) fn begin(&self, count: u64) {
        self.0.set_length(count);
    }

    /// What comes before that.
    pub(super) fn prepare(&self, what: &'static str) {
        self.0.set_message(what);
    }

    /// What is being measured; round 0 warms up.
    pub(super) fn say(&self, round: u32, rounds: u32, broker: &str, cell: &Cell) {
        let round = if round == 0 { "warm-up".to_owned() } else { format!("round {round} of {rounds}") };
        self.0.set_message(format!("{round}: {broker}, {cell}, {} B", cell.size()));
    }

    /// One is done.
    pub(super) fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
