//! What of the queue the next commit takes: all of it, as a rule. After a commit that was refused it goes in portions, so
//! that what frees space is not held up by what takes it, however often somebody tries that again: first what is consumed,
//! little at a time; then all that is no body; then all. Each portion is a lawful commit by itself: what must happen
//! together is one unit, and nothing that consumes, or tells of others, waits for a body.

use std::collections::{BTreeSet, VecDeque};

use super::{
    Engine,
    queue::Queue,
    stage::{page_bounds, page_of, pages_of},
};
use crate::{Now, limits};

/// See the module's description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Portion {
    /// All that fits into one commit.
    #[default]
    All,
    /// What is consumed, in so many commits at most: as many as it took when it was refused. More may be consumed all the
    /// time, and the rest must have its turn.
    Removals(usize),
    /// All but bodies.
    Marks,
}

impl Engine {
    /// After a commit was refused.
    pub(super) fn go_in_portions(&mut self) {
        let waiting = self.queue.removals.values().chain(self.queue.unit_removals.values());
        let pages: usize = waiting.map(|slots| pages_of(&slots.clip(1, limits::SEGMENT_SLOTS), 0).len()).sum();
        self.portion = Portion::Removals(pages.div_ceil(limits::REFUSED_PAGES) + 1);
    }

    /// Leaves in the queue what the next commit is to take. The rest is for [`Engine::put_back`].
    pub(super) fn keep_back(&mut self, now: Now) -> Option<Queue> {
        let queue = &self.queue;
        if self.portion == Portion::Removals(0) || (!queue.has_removals() && self.portion != Portion::All) {
            self.portion = Portion::Marks;
        }
        if self.portion == Portion::Marks && (queue.is_of_bodies() || !queue.has_bodies()) {
            self.portion = Portion::All;
        }
        match self.portion {
            Portion::All => {
                self.close_old_segment(now);
                None
            }
            Portion::Removals(left) => {
                self.portion = Portion::Removals(left - 1);
                let part = self.queue.take_removals();
                Some(std::mem::replace(&mut self.queue, part))
            }
            Portion::Marks => {
                self.portion = Portion::All;
                Some(self.queue.take_bodies())
            }
        }
    }

    /// Puts back what was kept, beside what the commit has left over.
    pub(super) fn put_back(&mut self, kept: Option<Queue>) {
        let Some(kept) = kept else { return };
        let left = std::mem::replace(&mut self.queue, kept);
        self.queue.rows.extend(left.rows);
    }
}

impl Queue {
    fn has_removals(&self) -> bool {
        !self.removals.is_empty() || self.units.iter().any(|(_, unit)| unit.entries.is_empty())
    }

    fn has_bodies(&self) -> bool {
        !self.blocks.is_empty()
            || !self.rewrites.is_empty()
            || self.units.iter().any(|(_, unit)| !unit.entries.is_empty())
    }

    /// Whether there is nothing but bodies.
    fn is_of_bodies(&self) -> bool {
        !self.has_removals()
            && self.lengths.is_empty()
            && self.damaged.is_empty()
            && self.drops.is_empty()
            && self.folds.is_empty()
            && self.rows.is_empty()
            && self.registry.is_empty()
            && self.unregister.is_empty()
            && self.retired.is_empty()
            && self.strays.is_empty()
    }

    /// Consumption, on [`limits::REFUSED_PAGES`] pages or so, or of one unit.
    fn take_removals(&mut self) -> Self {
        let mut part = Self { life: self.life.take(), ..Self::default() };
        let mut pages = BTreeSet::new();
        let mut others = VecDeque::new();
        for (ticket, unit) in std::mem::take(&mut self.units) {
            if unit.entries.is_empty() && pages.len() < limits::REFUSED_PAGES {
                let on = unit.removals.iter().map(|dot| (dot.segment, page_of(dot.slot)));
                let on: BTreeSet<_> = pages.iter().copied().chain(on).collect();
                if part.units.is_empty() || on.len() <= limits::REFUSED_PAGES {
                    pages = on;
                    part.units.push_back((ticket, unit));
                    continue;
                }
            }
            others.push_back((ticket, unit));
        }
        self.units = others;
        for (&id, slots) in &mut self.removals {
            *slots = slots.clip(1, limits::SEGMENT_SLOTS);
            for page in pages_of(slots, 0) {
                if pages.len() >= limits::REFUSED_PAGES {
                    break;
                }
                pages.insert((id, page));
                let (first, last) = page_bounds(page);
                part.removals.entry(id).or_default().union_with(&slots.clip(first, last));
                slots.remove_range(first, last);
            }
        }
        self.removals.retain(|_, slots| !slots.is_empty());
        self.count_unit_removals();
        part
    }

    /// Bodies, and what happens with them or not at all.
    fn take_bodies(&mut self) -> Self {
        let units = std::mem::take(&mut self.units).into_iter();
        let (acks, units): (VecDeque<_>, _) = units.partition(|(_, unit)| unit.entries.is_empty());
        self.units = acks;
        let mut bodies = Self {
            units,
            last_ticket: self.last_ticket,
            blocks: std::mem::take(&mut self.blocks),
            rewrites: std::mem::take(&mut self.rewrites),
            #[cfg(feature = "mistakes")]
            known_without_bodies: std::mem::take(&mut self.known_without_bodies),
            ..Self::default()
        };
        bodies.count_unit_removals();
        bodies
    }
}
