//! What tests of whole processes share: nodes to start and kill, a STOMP client of their own, a relay to cut links.
//!
//! The client here is written apart from the broker's codec on purpose: a mistake in one is not repeated in the other.

// Each test program uses a part of this, as if it were a library.
#![allow(dead_code, unreachable_pub)]

use std::{
    fmt::Display,
    io::Write,
    time::{Duration, Instant},
};

pub mod cluster;
pub mod hub;
pub mod load;
pub mod node;
pub mod relay;
pub mod stomp;

/// How long a state may take to be reached before a test gives up. Long, since a loaded machine is no failure; nothing
/// waits for it in a good run.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until `ask` has an answer.
///
/// # Panics
/// When [`PATIENCE`] is over; shows the last reason.
pub fn eventually<T, E: Display>(what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(reason) if start.elapsed() > PATIENCE => panic!("{what}: not within {PATIENCE:?}; last seen: {reason}"),
            // The pace of asking, never a verdict.
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}

/// Says that a test did not run, past the test runner's capture of output.
pub fn skipped(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

/// A small generator for choices in tests (SplitMix64); its seed is printed with a failing test.
pub struct Chance(pub u64);

impl Chance {
    /// Seeded from the clock, or from `RHIZOMQ_TEST_SEED` to repeat a run.
    pub fn new() -> Self {
        let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("RHIZOMQ_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock);
        println!("to repeat the choices of this run: RHIZOMQ_TEST_SEED={seed}");
        Self(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}
