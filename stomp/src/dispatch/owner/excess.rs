//! Inboxes with more messages than are to wait: the oldest leave.
//!
//! Each owner sheds its own part of what is too much. What it knows of the others is up to a second old: so it fixes how many
//! are to stay here, by its part of all, and does not think again before the others must have told what they have shed. What
//! stays is rounded up; of several owners each may keep one more.

use std::{collections::BTreeMap, sync::Arc};

use super::{Effect, Leave, Owner, Turn};
use crate::lane::{self, Lane};

/// How long an owner sticks to its part, ms: longer than others take to tell of theirs.
const STICK_MS: u64 = 3_000;
/// Inboxes with a part; more have to wait.
const MAX_TARGETS: usize = 1 << 16;

/// Messages that are to stay here, and until when that holds.
#[derive(Default)]
pub(super) struct Targets(BTreeMap<Arc<str>, (u64, u64)>);

impl Targets {
    /// How many of `own` are to stay, of `max` in all.
    fn target(&mut self, now_ms: u64, inbox: &Arc<str>, max: u64, own: u64, others: u64) -> u64 {
        if let Some(&(target, until)) = self.0.get(inbox)
            && now_ms < until
        {
            return target;
        }
        self.0.remove(inbox);
        if own.saturating_add(others) <= max {
            return own;
        }
        let part = u128::from(max) * u128::from(own);
        let target = u64::try_from(part.div_ceil(u128::from(own) + u128::from(others))).unwrap_or(max);
        if others > 0 && self.0.len() < MAX_TARGETS {
            self.0.insert(Arc::clone(inbox), (target, now_ms + STICK_MS));
        }
        target
    }

    /// What does not hold any more is forgotten.
    pub(super) fn expire(&mut self, now_ms: u64) {
        self.0.retain(|_, (_, until)| now_ms < *until);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Owner {
    /// Lets the oldest messages of a queue leave, if there are too many: of the lowest priority first. What waits for its time
    /// is not counted.
    pub(super) fn shed(&mut self, queue: &Arc<str>, turn: Turn<'_>, out: &mut Vec<Effect>) {
        let Some(max) = turn.rules.rules_of(queue).keeps else { return };
        let lanes = lane::due_lanes(&|name: &str| turn.view.inbox_from(name), queue, turn.now.wall_ms);
        let segments = |inbox: Arc<str>| (self.served_segments(&inbox, turn.view, turn.takeover), inbox);
        // Within a priority what waited for its time is older than what was sent to be had at once, and has its time in order.
        let mut lanes: Vec<_> = lanes.into_iter().map(segments).collect();
        lanes.sort_by_key(|(_, inbox)| Lane::of(inbox).map(Lane::priority));
        let all: u64 = lanes.iter().flat_map(|(segments, _)| segments).map(|(_, count)| count).sum();
        let mut own = all.saturating_sub(self.returns.leaving_of(queue));
        let target = self.targets.target(turn.now.mono_ms, queue, max, own, turn.census.depth_elsewhere(queue));
        for (segments, inbox) in &lanes {
            let mut cursors = BTreeMap::new();
            while own > target && !self.returns.is_full() {
                let Some(dot) = self.first_waiting(inbox, segments, &mut cursors, turn.view) else { break };
                self.leave(dot, inbox, Leave::Overflow, out);
                own -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_owner_keeps_its_part_and_sticks_to_it_until_the_others_have_told() {
        let (mut targets, inbox) = (Targets::default(), "a".into());
        assert_eq!(targets.target(0, &inbox, 100, 60, 40), 60, "not too many");
        assert_eq!(targets.target(0, &inbox, 100, 150, 50), 75);
        // The others' figures are old, and this one's are not.
        assert_eq!(targets.target(STICK_MS - 1, &inbox, 100, 75, 50), 75);
        assert_eq!(targets.target(STICK_MS, &inbox, 100, 75, 25), 75);
        assert_eq!(targets.target(STICK_MS, &inbox, 1, 1, 1), 1, "the last one is not dropped by both");
        targets.expire(2 * STICK_MS);
        assert_eq!(targets.len(), 0);
        assert_eq!((targets.target(0, &inbox, 100, 500, 0), targets.len()), (100, 0), "alone it need not wait");
    }
}
