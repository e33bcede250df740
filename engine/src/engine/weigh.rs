//! Which blocks are worth rewriting: as few as it takes.
//!
//! What is rewritten costs as much writing as is left of it, and frees the rest. A block of which a quarter waits costs a third
//! of what it frees, one of which three quarters wait three times as much. So those that are emptiest go first, and up to
//! which one is worth it depends on how much is dead: each pass over the blocks notes how full they are, and the next one
//! rewrites the emptiest, up to as many as are needed to leave an eighth more than what waits. A quarter is always cheap
//! enough, three quarters is the most (the greedy choice of log-structured file systems, with a bound on what it may cost).

use crate::limits;

/// Parts that fullness is told in.
pub(super) const PARTS: u64 = 16;
/// Blocks of which so many parts wait are always rewritten, or fuller ones up to the second when there is much to gain.
const LEAST: u64 = PARTS / 4;
const MOST: u64 = 3 * PARTS / 4;

/// How full blocks are.
#[derive(Debug)]
pub(super) struct Weights {
    /// By the part that waits, rounded up: bytes, and of these what waits, about.
    seen: [(u64, u64); PARTS as usize + 1],
    /// Up to which part blocks are rewritten.
    up_to: u64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { seen: Default::default(), up_to: LEAST }
    }
}

impl Weights {
    /// A block of so many bytes, of whose slots so many wait.
    pub(super) fn note(&mut self, bytes: u32, live: u64, slots: u32) {
        let slots = u64::from(slots).max(1);
        let live = live.min(slots);
        let seen = &mut self.seen[(PARTS * live).div_ceil(slots) as usize];
        seen.0 += u64::from(bytes);
        seen.1 += u64::from(bytes) * live / slots;
    }

    /// All blocks have been noted: works out how far to go.
    pub(super) fn end_pass(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        let live: u64 = seen.iter().map(|(_, live)| live).sum();
        // What is kept if all up to a part are rewritten.
        let kept = |up_to: u64| {
            let parts = (0..).zip(&seen);
            parts.map(|(part, (bytes, live))| if part <= up_to { *live } else { *bytes }).sum::<u64>()
        };
        let is_enough = |up_to: &u64| kept(*up_to) <= live + live / 8 + limits::REWRITE_SPARE_BYTES;
        self.up_to = (LEAST..MOST).find(is_enough).unwrap_or(MOST);
    }

    /// Whether a block of whose slots so many wait is to be rewritten.
    pub(super) fn is_worth(&self, live: u64, slots: u32) -> bool {
        PARTS * live <= self.up_to * u64::from(slots)
    }

    /// Whether the remnant of so many bytes is as small as the count of its messages promised, about.
    pub(super) fn is_small(&self, remnant: usize, block: usize) -> bool {
        PARTS as usize * remnant <= (2 * self.up_to).min(self.up_to + 2).max(PARTS / 2) as usize * block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuller_blocks_are_rewritten_only_when_it_takes_them() {
        let block = 4 * limits::REWRITE_SPARE_BYTES as u32;
        let up_to = |blocks: &[(u64, u64)]| {
            let mut weights = Weights::default();
            for &(count, live) in blocks {
                (0..count).for_each(|_| weights.note(block, live, 16));
            }
            weights.end_pass();
            (1..=16).rev().find(|live| weights.is_worth(*live, 16)).unwrap()
        };
        assert_eq!(up_to(&[]), 4);
        assert_eq!(up_to(&[(100, 16), (3, 8)]), 4, "little is dead");
        assert_eq!(up_to(&[(100, 5)]), 5, "a third stays of each");
        assert_eq!(up_to(&[(100, 16), (100, 9)]), 9);
        assert_eq!(up_to(&[(10, 6), (10, 9), (100, 15)]), 6, "the emptiest will do");
        assert_eq!(up_to(&[(100, 13)]), 12, "never fuller ones");
        let mut weights = Weights::default();
        weights.note(limits::REWRITE_SPARE_BYTES as u32, 8, 16);
        weights.end_pass();
        assert!(!weights.is_worth(5, 16), "so much may be dead anyway");
    }
}
