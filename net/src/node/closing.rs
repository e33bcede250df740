//! How a segment ends whose origin crashed in that life.
//!
//! Only the origin, in that epoch, could state its length. Nobody else may guess, not even the restarted origin: it may
//! run from an old backup, or have lost a tail that others hold. So the node that looks after the segment asks *every*
//! node of the roster, twice. If all answered, in the same lives, with the same state both times, and the origin among
//! them in another life, then nothing of the segment is under way and the highest slot anybody knows is its length.

use std::collections::BTreeMap;

use rhizomq_engine::{Mistake, NodeId, SegmentId};

use super::Node;
use crate::wire::{Control, PassAnswer};

/// Segments being closed at once: each costs a message to every node.
const AT_ONCE: usize = 16;

/// Passes under way.
#[derive(Debug, Default)]
pub(super) struct Closing {
    passes: BTreeMap<SegmentId, Pass>,
}

#[derive(Debug)]
struct Pass {
    nonce: u64,
    answers: BTreeMap<NodeId, PassAnswer>,
    /// The first pass, complete; `None` while it is under way.
    first: Option<BTreeMap<NodeId, PassAnswer>>,
}

impl Closing {
    /// A link fell: passes that count on it are void.
    pub(super) fn forget_peer(&mut self, _peer: NodeId) {
        self.passes.clear();
    }
}

impl Node {
    /// Starts passes where all is consumed and nothing but the length is missing.
    pub(super) fn close_crashed(&mut self) {
        self.closing.passes.retain(|segment, _| self.engine.has_replica(*segment));
        // Alone, a node cannot tell "there was never anybody else" from "my disk is a copy from before they came".
        let alone = self.roster_ids().len() < 2;
        let everybody = !alone && self.roster_ids().into_iter().all(|node| node == self.id() || self.is_linked(node));
        if !everybody {
            self.closing.passes.clear();
            return;
        }
        let ripe: Vec<_> = self.engine.segments().filter(|&segment| self.is_ripe(segment)).take(AT_ONCE).collect();
        for segment in ripe {
            // A pass that was not answered by the next upkeep is begun anew.
            self.begin_pass(segment, None);
        }
    }

    fn is_ripe(&self, segment: SegmentId) -> bool {
        let finished = |state: &rhizomq_engine::SegmentState| state.length.is_none() && state.known == state.removed;
        self.engine.segment(segment).is_some_and(finished) && self.looks_after(segment) && self.is_past_life(segment)
    }

    /// Whether the origin is here, in another life than the segment's: nothing can be appended any more.
    fn is_past_life(&self, segment: SegmentId) -> bool {
        if segment.node == self.id() {
            return segment.epoch != self.epoch();
        }
        self.peers.get(&segment.node).is_some_and(|peer| peer.hello.epoch != segment.epoch)
    }

    fn begin_pass(&mut self, segment: SegmentId, first: Option<BTreeMap<NodeId, PassAnswer>>) {
        let nonce = self.next_nonce();
        let Some(own) = self.pass_answer(segment) else {
            self.closing.passes.remove(&segment);
            return;
        };
        let answers = BTreeMap::from([(self.id(), own)]);
        self.closing.passes.insert(segment, Pass { nonce, answers, first });
        for node in self.roster_ids() {
            self.send_control(node, &Control::Pass { segment, nonce });
        }
        self.end_pass(segment);
    }

    /// What this node says of a segment; nothing while a change of it waits for the disk.
    fn pass_answer(&mut self, segment: SegmentId) -> Option<PassAnswer> {
        if !self.engine.is_settled(segment) {
            return None;
        }
        let last = self.engine.segment(segment).and_then(|state| state.known.last());
        let state = self.engine.segment_digest(segment).unwrap_or_default();
        Some(PassAnswer { epoch: self.epoch(), last, state, roster: self.roster_digest() })
    }

    pub(super) fn answer_pass(&mut self, from: NodeId, segment: SegmentId, nonce: u64) {
        if let Some(answer) = self.pass_answer(segment) {
            self.send_control(from, &Control::PassAnswer { segment, nonce, answer });
        }
    }

    pub(super) fn take_pass_answer(&mut self, from: NodeId, segment: SegmentId, nonce: u64, answer: PassAnswer) {
        if let Some(pass) = self.closing.passes.get_mut(&segment)
            && pass.nonce == nonce
        {
            pass.answers.insert(from, answer);
            self.end_pass(segment);
        }
    }

    fn end_pass(&mut self, segment: SegmentId) {
        let roster = self.roster_ids();
        let Some(pass) = self.closing.passes.get(&segment) else { return };
        if !roster.iter().all(|node| pass.answers.contains_key(node)) {
            return;
        }
        let Some(pass) = self.closing.passes.remove(&segment) else { return };
        let mine = self.roster_digest();
        let agreed = pass.answers.values().all(|answer| answer.roster == mine);
        if !agreed || !self.is_ripe(segment) {
            return;
        }
        let enough = self.config.planted.is(Mistake::OnePassClose);
        match pass.first {
            None if !enough => self.begin_pass(segment, Some(pass.answers)),
            Some(first) if first != pass.answers => {}
            _ => {
                let last = pass.answers.values().filter_map(|answer| answer.last).max().unwrap_or(0);
                let known = self.engine.segment(segment).and_then(|state| state.known.last()).unwrap_or(0);
                if known == last {
                    self.engine.merge_length(segment, last);
                }
            }
        }
    }
}
