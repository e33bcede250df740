//! How often a store that failed is opened again in the same process, and after what pause.

use std::time::Duration;

/// Pauses before the attempts; after the last one the process ends. A disk that fails again and again needs people.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_secs(30),
];

/// A life that lasted so long was a good one: what failed then has nothing to do with what failed before.
const GOOD_LIFE: Duration = Duration::from_secs(600);

/// See the module docs.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    used: usize,
}

impl Attempts {
    /// The pause before the next attempt, after a life that lasted `lived`; `None` when it was the last.
    pub(crate) fn next(&mut self, lived: Duration) -> Option<Duration> {
        if lived >= GOOD_LIFE {
            self.used = 0;
        }
        let pause = PAUSES.get(self.used).copied();
        self.used += 1;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_bounded_and_begin_anew_after_a_good_life() {
        let mut attempts = Attempts::default();
        let pauses: Vec<_> = std::iter::from_fn(|| attempts.next(Duration::ZERO)).collect();
        assert_eq!(pauses, PAUSES);
        assert_eq!(attempts.next(Duration::ZERO), None);
        assert_eq!(attempts.next(GOOD_LIFE), Some(PAUSES[0]));
    }
}
