//! Blocks that come from other replicas find their places among those that are here.
//!
//! The blocks of a replica do not overlap: no other has a slot between the first and the last of one. Replicas gather
//! small blocks as they please, though, so one that comes may reach over several that are here, or into a larger one. It is cut
//! where these begin and end: what lies within one that is here is added to that, what lies between them goes in as blocks of
//! its own. So none that is here ever grows beyond its bounds, whatever comes.

use std::{collections::BTreeSet, sync::Arc};

use super::{Engine, stage::Staged};
use crate::{RangeSet, SegmentId, Slot, block::Block, limits};

impl Engine {
    /// Adds a block of another replica to a commit, where it brings anything new.
    pub(super) fn stage_block(&mut self, staged: &mut Staged, block: Block) {
        let id = block.segment();
        if self.knows(id, block.slots()) {
            return;
        }
        let here = self.ranges_within(staged, id, block.first(), block.last());
        if here.is_empty() {
            staged.segments.entry(id).or_default().blocks.insert(block.first(), (Arc::new(block), false));
            return;
        }
        // What is known and has no body here is consumed.
        let known = self.segment(id).map(|state| state.known.clip(block.first(), block.last())).unwrap_or_default();
        let mut news = block.slots().difference(&known);
        for (staged, _) in staged.segments.get(&id).into_iter().flat_map(|change| change.blocks.values()) {
            news = news.difference(staged.slots());
        }
        let mut next = block.first();
        for (first, last) in here {
            let between = news.clip(next, first.saturating_sub(1));
            self.stage_cut(staged, &block, &between);
            let within = news.clip(first, last);
            if !within.is_empty() {
                self.stage_union(staged, &block, (first, last), &within);
            }
            next = last + 1;
        }
        self.stage_cut(staged, &block, &news.clip(next, Slot::MAX));
    }

    /// The bounds of the blocks that have any slot in these, after what is staged so far; ascending.
    fn ranges_within(&self, staged: &Staged, id: SegmentId, first: Slot, last: Slot) -> Vec<(Slot, Slot)> {
        let change = staged.segments.get(&id);
        let mut found = BTreeSet::new();
        if let Some(replica) = self.replicas.get(&id) {
            let stored = replica.blocks.range(..=last).rev().take_while(|(_, meta)| meta.last >= first);
            let stays = |first: &Slot| change.is_none_or(|change| !change.replaced.contains(first));
            found.extend(stored.filter(|(first, _)| stays(first)).map(|(&first, meta)| (first, meta.last)));
        }
        if let Some(change) = change {
            let new = change.blocks.range(..=last).rev().take_while(|(_, (block, _))| block.last() >= first);
            found.extend(new.map(|(&first, (block, _))| (first, block.last())));
        }
        found.into_iter().collect()
    }

    /// These slots as a block of their own, where nothing else is.
    fn stage_cut(&self, staged: &mut Staged, block: &Block, slots: &RangeSet) {
        if let Some(part) = block.cut(slots) {
            let change = staged.segments.entry(block.segment()).or_default();
            change.blocks.insert(part.first(), (Arc::new(part), false));
        }
    }

    /// Adds these slots to the block that is here with these bounds.
    fn stage_union(&self, staged: &mut Staged, block: &Block, (first, last): (Slot, Slot), slots: &RangeSet) {
        let id = block.segment();
        let change = staged.segments.entry(id).or_default();
        let new = change.blocks.get(&first).map(|(block, _)| block.clone());
        let Some(here) = new.or_else(|| self.block(id, first).ok().flatten()) else {
            // It can't be read, and is as good as damaged.
            let theirs = block.slots().clip(first, last);
            let lost = self.waiting_in(id).clip(first, last).difference(&theirs);
            change.damaged.union_with(&lost);
            change.replaced.insert(first);
            self.stage_cut(staged, block, &theirs);
            return;
        };
        if let Some(both) = here.union(block) {
            change.blocks.insert(first, (Arc::new(both), false));
            return;
        }
        let Some(part) = block.cut(slots) else { return };
        // With the bodies of what others did not know to be consumed it may have become as large as all that it is of.
        let all = here.slots().union(part.slots());
        for part in Block::gather(&[&here, &part], &all, limits::UNIT_BYTES) {
            change.blocks.insert(part.first(), (Arc::new(part), false));
        }
    }
}
