//! Time as the core sees it: a value that comes in with every input.

/// One reading of the two clocks, taken by the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Milliseconds of a monotonic clock with an arbitrary zero; deadlines and timers live on this one.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch; may jump. Only ever a *sample* for the hybrid logical clock and for people.
    pub wall_ms: u64,
}
