//! Warnings that strangers can cause, at a rate that strangers can't choose.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// So many warnings per period; the rest are counted.
const PER_PERIOD: u32 = 10;
const PERIOD: Duration = Duration::from_secs(10);

/// Says which warnings may be logged.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    period_start: Option<Instant>,
    said: u32,
    suppressed: u64,
}

impl Quiet {
    /// Whether to log now, and how many warnings were left out since the last one that was logged.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        // Counters stay usable whatever happened to another thread.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.period_start.is_none_or(|start| now.duration_since(start) >= PERIOD) {
            state.period_start = Some(now);
            state.said = 0;
        }
        if state.said == PER_PERIOD {
            state.suppressed += 1;
            return None;
        }
        state.said += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let (quiet, start) = (Quiet::default(), Instant::now());
        let admitted = (0..1_000).filter(|_| quiet.admit(start).is_some()).count();
        assert_eq!(admitted, PER_PERIOD as usize);
        assert_eq!(quiet.admit(start + PERIOD), Some(990));
        assert_eq!(quiet.admit(start + PERIOD), Some(0));
    }
}
