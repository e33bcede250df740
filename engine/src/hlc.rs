//! The hybrid logical clock (Kulkarni et al., 2014): stamps that follow the wall clock but never run backwards behind
//! what was seen, however wrong the wall clocks are.

use serde::{Deserialize, Serialize};

use crate::{Epoch, NodeId};

/// A stamp, unique for ever: it ends in the node and its life, so even a node restored from an old copy, with its clock
/// set back, mints none that it used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since the Unix epoch, or more if a later stamp was seen.
    pub wall_ms: u64,
    /// Tells stamps of one millisecond apart.
    pub counter: u32,
    /// Who minted it.
    pub node: NodeId,
    /// In which life.
    pub epoch: Epoch,
}

/// Mints stamps above everything it has seen.
#[derive(Clone, Debug)]
pub struct Clock {
    node: NodeId,
    epoch: Epoch,
    last: (u64, u32),
}

impl Clock {
    /// A clock that has seen nothing.
    pub fn new(node: NodeId, epoch: Epoch) -> Self {
        Self { node, epoch, last: (0, 0) }
    }

    /// The next stamp: `max(seen + 1, wall clock)`. At the end of all numbers, where only a forged stamp can lead, it stays
    /// there: registers converge even then, by their content.
    pub fn tick(&mut self, wall_ms: u64) -> Stamp {
        let (seen, counter) = self.last;
        self.last = match counter.checked_add(1) {
            _ if wall_ms > seen => (wall_ms, 0),
            Some(counter) => (seen, counter),
            None => seen.checked_add(1).map_or((u64::MAX, u32::MAX), |next| (next, 0)),
        };
        Stamp { wall_ms: self.last.0, counter: self.last.1, node: self.node, epoch: self.epoch }
    }

    /// Takes note of another's stamp. Every stamp is accepted: refusing one would stop convergence; skew is policed
    /// when nodes meet.
    pub fn observe(&mut self, stamp: &Stamp) {
        self.last = self.last.max((stamp.wall_ms, stamp.counter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_though_the_clock_is_set_back_or_another_is_ahead() {
        let mut clock = Clock::new(NodeId([1; 16]), Epoch(1));
        let first = clock.tick(100);
        let set_back = clock.tick(50);
        assert!(set_back > first && set_back.wall_ms == 100);
        let ahead = Stamp { wall_ms: 1_000, counter: u32::MAX, node: NodeId([9; 16]), epoch: Epoch(9) };
        clock.observe(&ahead);
        let after = clock.tick(200);
        assert!(after > ahead && after.wall_ms == 1_001, "an overflowing counter carries: {after:?}");
        assert!(clock.tick(5_000) > after);
    }

    #[test]
    fn a_new_life_mints_other_stamps_from_the_same_reading() {
        let [one, two] = [1, 2].map(|epoch| Clock::new(NodeId([1; 16]), Epoch(epoch)).tick(100));
        assert!(one != two && one.wall_ms == two.wall_ms);
    }

    #[test]
    fn the_greatest_stamp_is_survived() {
        let mut clock = Clock::new(NodeId([1; 16]), Epoch(1));
        clock.observe(&Stamp { wall_ms: u64::MAX, counter: u32::MAX, node: NodeId([9; 16]), epoch: Epoch(9) });
        assert_eq!((clock.tick(5).wall_ms, clock.tick(u64::MAX).counter), (u64::MAX, u32::MAX));
    }
}
