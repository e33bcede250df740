//! The one source of randomness of a run: everything that happens follows from its seed.

use rand::{Rng as _, RngExt, SeedableRng, rngs::SmallRng};

pub(crate) struct Rng(SmallRng);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability)
    }

    /// From `least` to `most`, both included.
    pub(crate) fn within(&mut self, least: u64, most: u64) -> u64 {
        self.0.random_range(least..=most)
    }

    /// From 0 to `count - 1`.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        self.0.random_range(0..count)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Two different numbers below `count`, which must be at least 2.
    pub(crate) fn two_below(&mut self, count: usize) -> (usize, usize) {
        let first = self.below(count);
        (first, (first + 1 + self.below(count - 1)) % count)
    }
}
