//! Blocks out of slots of other blocks: what is left of one, the union of two, and small neighbours joined.
//!
//! A slot's message never changes, so it is all the same from which block it is taken. A body that is owed to several slots is
//! written once in each block that has any of them.

use std::collections::BTreeMap;

use super::{Block, GATHERED, MessageV1, PartV2, REMNANT, RunV2};
use crate::{RangeSet, Slot};

impl Block {
    /// The block with those of its slots alone that are in `keep`; `None` if that leaves nothing.
    pub fn remnant(&self, keep: &RangeSet) -> Option<Self> {
        let slots = self.slots.intersection(keep);
        let version = if self.is_gathered() { GATHERED } else { REMNANT };
        let sources: Vec<_> = slots.iter().map(|slot| (slot, self)).collect();
        (!sources.is_empty()).then(|| self.with(version, (self.first, self.last), &sources))
    }

    /// A block from its first to its last slot in `keep`, with these; `None` if it has none of them. Unlike a remnant it goes by
    /// another name.
    pub fn cut(&self, keep: &RangeSet) -> Option<Self> {
        let slots = self.slots.intersection(keep);
        let sources: Vec<_> = slots.iter().map(|slot| (slot, self)).collect();
        Some(self.with(GATHERED, (slots.first()?, slots.last()?), &sources))
    }

    /// A block with the slots of both, which must be parts of one block: of the same name and range. `None` if they are not.
    pub fn union(&self, other: &Self) -> Option<Self> {
        if (self.segment, self.first, self.last) != (other.segment, other.first, other.last) {
            return None;
        }
        let version = if self.is_gathered() || other.is_gathered() { GATHERED } else { REMNANT };
        Some(self.with(version, (self.first, self.last), &sources(&[self, other])))
    }

    /// Blocks of at most so many bytes each, or of one message, with those slots of all these blocks that are in `keep`. The
    /// blocks must be of one segment. The new ones reach from the first slot of any to the last of any. None if nothing is kept.
    pub fn gather(blocks: &[&Self], keep: &RangeSet, most_bytes: usize) -> Vec<Self> {
        let mut sources = sources(blocks);
        let mut kept = keep.iter().peekable();
        sources.retain(|(slot, _)| {
            while kept.next_if(|next| next < slot).is_some() {}
            kept.peek() == Some(slot)
        });
        let first = blocks.iter().map(|block| block.first).min();
        let last = blocks.iter().map(|block| block.last).max();
        let (Some(first), Some(last), false) = (first, last, sources.is_empty()) else { return Vec::new() };
        let mut parts: Vec<&[(Slot, &Self)]> = Vec::new();
        let (mut from, mut bytes) = (0, 0);
        for (at, (slot, block)) in sources.iter().enumerate() {
            // Counted for each slot, even where several share a body: more parts than need be are no harm.
            let more = block.find(*slot).map_or(0, |(run, index)| run.inbox.len() + block.size_of(index));
            if at > from && bytes + more > most_bytes {
                parts.push(&sources[from..at]);
                (from, bytes) = (at, 0);
            }
            bytes += more;
        }
        parts.push(&sources[from..]);
        let count = parts.len();
        let part = |(at, part): (usize, &[(Slot, &Self)])| {
            let first = if at == 0 { first } else { part[0].0 };
            let last = if at + 1 == count { last } else { part[part.len() - 1].0 };
            blocks[0].with(GATHERED, (first, last), part)
        };
        parts.into_iter().enumerate().map(part).collect()
    }

    /// Bytes of a message, about.
    fn size_of(&self, index: usize) -> usize {
        let stored = &self.messages[index];
        self.part(stored.head).len() + self.part(stored.body).len() + 16
    }

    /// A block of these slots, each from the block beside it; ascending, and at least one.
    fn with(&self, version: u8, (first, last): (Slot, Slot), sources: &[(Slot, &Self)]) -> Self {
        let mut runs: Vec<RunV2<'_>> = Vec::new();
        let (mut messages, mut places, mut size) = (Vec::new(), BTreeMap::new(), 0);
        let mut run_of: BTreeMap<&str, usize> = BTreeMap::new();
        for &(slot, block) in sources {
            let Some((run, index)) = block.find(slot) else { continue };
            // A body that is owed to several inboxes is there once.
            let stored = &block.messages[index];
            let place = *places.entry((std::ptr::from_ref(block) as usize, index)).or_insert_with(|| {
                size += block.size_of(index);
                let (head, body) = (block.part(stored.head), block.part(stored.body));
                messages.push(MessageV1 { flags: stored.flags, head, body });
                messages.len() as u32 - 1
            });
            let same = match version {
                GATHERED => run_of.get(&*run.inbox).copied(),
                _ => runs.len().checked_sub(1).filter(|&last| *runs[last].inbox == *run.inbox),
            };
            match same {
                Some(at) => {
                    runs[at].slots.insert(slot);
                    runs[at].messages.push(place);
                }
                None => {
                    size += run.inbox.len() + 16;
                    run_of.insert(&run.inbox, runs.len());
                    let slots = RangeSet::from_range(slot, slot);
                    runs.push(RunV2 { inbox: &run.inbox, slots, messages: vec![place] });
                }
            }
        }
        let segment = self.segment;
        Self::sealed(&PartV2 { version, segment, first, last, runs, messages }, size + 128)
    }
}

/// The slots of all these in order, each with a block that has it.
fn sources<'a>(blocks: &[&'a Block]) -> Vec<(Slot, &'a Block)> {
    let mut all: Vec<_> = blocks.iter().flat_map(|&block| block.slots.iter().map(move |slot| (slot, block))).collect();
    // Stable: of a slot that several have the first counts.
    all.sort_by_key(|(slot, _)| *slot);
    all.dedup_by_key(|(slot, _)| *slot);
    all
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{Entry, Epoch, NodeId, SegmentId};

    const SEGMENT: SegmentId = SegmentId { node: NodeId([1; 16]), epoch: Epoch(2), number: 3 };

    fn block(first: Slot, inboxes: &[Vec<&str>]) -> Block {
        let entry = |(number, inboxes): (usize, &Vec<&str>)| Entry {
            inboxes: inboxes.iter().map(|&name| name.to_owned()).collect(),
            ..Entry::new("", format!("{first}/{number}"))
        };
        Block::build(SEGMENT, first, &inboxes.iter().enumerate().map(entry).collect::<Vec<_>>())
    }

    /// Neighbours, with gaps of consumed slots between them.
    fn neighbours() -> impl Strategy<Value = Vec<Block>> {
        let inboxes = proptest::collection::vec(proptest::sample::subsequence(vec!["a", "b", "c"], 1..=3), 1..5);
        proptest::collection::vec((inboxes, 0..3u32), 1..8).prop_map(|all| {
            let mut next = 3;
            all.iter()
                .map(|(inboxes, gap)| {
                    let block = block(next + gap, inboxes);
                    next = block.last() + 1;
                    block
                })
                .collect()
        })
    }

    #[test]
    fn inboxes_that_take_turns_have_one_run_each() {
        let blocks: Vec<_> = (0..6).map(|n| block(n + 1, &[vec![["x", "y"][n as usize % 2]]])).collect();
        let all = Block::gather(&blocks.iter().collect::<Vec<_>>(), &RangeSet::from_range(1, 6), 1 << 16);
        let [all] = &all[..] else { panic!("{} parts", all.len()) };
        let runs: Vec<_> = all.runs().iter().map(|run| (&*run.inbox, run.slots.iter().collect::<Vec<_>>())).collect();
        assert_eq!(runs, [("x", vec![1, 3, 5]), ("y", vec![2, 4, 6])]);
        let odd: Vec<_> = all.messages("x", all.slots()).map(|(slot, message)| (slot, message.body)).collect();
        assert_eq!(odd, [(1, &b"1/0"[..]), (3, b"3/0"), (5, b"5/0")]);
    }

    proptest! {
        #[test]
        fn what_is_gathered_has_the_slots_of_all_in_parts_that_do_not_overlap(
            blocks in neighbours(),
            most in prop_oneof![Just(1usize), 20..200usize, Just(1 << 16)],
        ) {
            let everything = RangeSet::from_range(1, Slot::MAX);
            let parts = Block::gather(&blocks.iter().collect::<Vec<_>>(), &everything, most);
            let mut next = blocks[0].first();
            prop_assert_eq!(parts[0].first(), next);
            prop_assert_eq!(parts[parts.len() - 1].last(), blocks[blocks.len() - 1].last());
            let mut all = RangeSet::new();
            for part in &parts {
                prop_assert!(part.first() >= next && part.slots().first() >= Some(part.first()));
                prop_assert!(part.slots().last() <= Some(part.last()) && !part.slots().is_empty());
                next = part.last() + 1;
                all.union_with(part.slots());
                let read = Block::decode(part.bytes().clone()).expect("its own encoding");
                prop_assert_eq!(read.slots(), part.slots());
                for slot in part.first()..=part.last() {
                    let expected = blocks.iter().find_map(|block| block.message(slot));
                    prop_assert_eq!(part.message(slot), expected.filter(|_| part.slots().contains(slot)));
                }
                for inbox in ["a", "b", "c"] {
                    let slots: Vec<_> = part.messages(inbox, part.slots()).map(|(slot, _)| slot).collect();
                    let of = |slot: &Slot| part.message(*slot).is_some_and(|message| *message.inbox == *inbox);
                    prop_assert_eq!(slots, part.slots().iter().filter(of).collect::<Vec<_>>());
                }
            }
            let slots = blocks.iter().fold(RangeSet::new(), |all, block| all.union(block.slots()));
            prop_assert_eq!(all, slots);
            prop_assert!(most > 1 || parts.len() as u64 == blocks.iter().map(|block| block.slots().len()).sum::<u64>());
            prop_assert!(most < 1 << 16 || parts.len() == 1);
        }

        #[test]
        fn parts_of_what_was_gathered_add_up_to_it(blocks in neighbours(), keep in proptest::collection::btree_set(1u32..60, 0..40)) {
            let blocks: Vec<_> = blocks.iter().collect();
            let all = Block::gather(&blocks, &RangeSet::from_range(1, Slot::MAX), 1 << 16).remove(0);
            let keep: RangeSet = keep.into_iter().collect();
            let kept = Block::gather(&blocks, &keep, 1 << 16);
            let bytes = |block: Option<&Block>| block.map(|block| block.bytes().clone());
            prop_assert_eq!(bytes(kept.first()), bytes(all.remnant(&keep).as_ref()));
            let (one, other) = (all.remnant(&keep), all.remnant(&all.slots().difference(&keep)));
            if let (Some(one), Some(other)) = (&one, &other) {
                let both = one.union(other).expect("of one block");
                prop_assert!(both.slots() == all.slots() && both.slots().iter().all(|slot| both.message(slot) == all.message(slot)));
            }
            if let Some(cut) = all.cut(&keep) {
                let one = one.expect("not empty");
                prop_assert_eq!(cut.slots(), one.slots());
                prop_assert_eq!((Some(cut.first()), Some(cut.last())), (cut.slots().first(), cut.slots().last()));
                prop_assert!(cut.slots().iter().all(|slot| cut.message(slot) == all.message(slot)));
            }
        }
    }

    #[test]
    fn a_body_for_several_inboxes_is_there_once() {
        let entry =
            Entry { inboxes: vec!["a".to_owned(), "b".to_owned()], ..Entry::new("", Bytes::from(vec![7; 5_000])) };
        let blocks = [1, 3].map(|first| Block::build(SEGMENT, first, std::slice::from_ref(&entry)));
        let all = Block::gather(&[&blocks[0], &blocks[1]], &RangeSet::from_range(1, 4), 1 << 20).remove(0);
        assert!((10_000..10_500).contains(&all.bytes().len()), "{}", all.bytes().len());
    }
}
