//! Space comes back by itself: what a commit does besides writing what it was asked to.
//!
//! - **Rewriting.** Blocks of which most is consumed give way to what is left of them; see [`Engine::compact`]. Such
//!   blocks come of consumption alone, so it pays for looking: for each message that is consumed one block is looked at, in
//!   turn, and read if it is worth that. So all are looked at before as many messages more are consumed as there are blocks,
//!   and a commit costs what it consumes, or some milliseconds. It is done in steps of [`limits::REWRITE_LOOKS`], or a block
//!   would be rewritten many times while it is being consumed in order. What a former life did not come to is looked at when
//!   the store is opened: all blocks, of which one step's worth is read, and the rest with the commits that follow.
//! - **Gathering.** Small blocks that outlived a checkpoint become larger ones; see `engine/gather.rs`. One step with each
//!   commit, until all have been looked at; the next checkpoint begins anew.
//! - **Folding.** What a former life of this node left open when it ended is folded once it is consumed, at opening or with
//!   the commit that consumes the last of it. Only this node's own: its former lives are over for certain, since no two
//!   replicas may have one node's id at a time. What others left open is theirs to fold, and follows when they tell of it.
//!   It claims nothing but what is known, so nobody has to be asked: slots that turn up later elsewhere are taken in.
//! - **Checkpoints.** Consumption writes little, and it is a checkpoint that gives files back. So one is due when much is not
//!   needed any more, too, and another one as long as there is more to give back.
//!
//! A full disk stops none of this for good: what was not done is done later, and the commit has happened all the same.

use super::{Local, LocalError};
use crate::{Committed, Engine, Now, RangeSet, SegmentId, Store, StoreError, limits};

/// Checkpoints made at once at most, so that a commit does not take long.
pub(super) const CHECKPOINTS: usize = 4;

/// What is left to do.
pub(super) struct Upkeep {
    /// Messages that were consumed since the last step.
    consumed: u64,
    /// Blocks that are to be looked at.
    due: usize,
    /// When the last step began, in monotonic milliseconds.
    stepped_ms: u64,
    /// Bytes of blocks that have not been needed any more since the last checkpoint, and how many of these make one due.
    freed: u64,
    pub(super) much_freed: u64,
    /// Small blocks that were here at that time are to be gathered, as far as that has not been done since; in monotonic
    /// milliseconds.
    pub(super) gather_ms: Option<u64>,
}

impl Upkeep {
    pub(super) fn new(engine: &Engine) -> Self {
        Self {
            consumed: 0,
            due: engine.block_count(),
            stepped_ms: 0,
            freed: 0,
            much_freed: limits::SEGMENT_BYTES,
            gather_ms: Some(0),
        }
    }
}

impl<S: Store> Local<S> {
    /// The upkeep of opening.
    pub(super) fn look_around(&mut self) -> Result<(), LocalError> {
        let mut done = Committed::default();
        self.fold(self.engine.segments().collect());
        self.look_at_blocks(usize::MAX, limits::COMMIT_BYTES, &mut done)?;
        self.upkeep.gather_ms = Some(self.now().mono_ms);
        self.gather(&mut done)?;
        self.write_upkeep(&mut done)
    }

    /// The upkeep of a commit, which has happened, and what it did.
    pub(super) fn look_after(&mut self, done: &mut Committed) -> Result<(), LocalError> {
        self.fold(done.changed.clone());
        let consumed: u64 = done.removed.values().map(RangeSet::len).sum();
        self.upkeep.consumed += consumed;
        self.upkeep.freed += done.freed;
        let now_ms = self.now().mono_ms;
        let is_late = now_ms >= self.upkeep.stepped_ms.saturating_add(limits::REWRITE_AGE_MS);
        if self.upkeep.consumed >= limits::REWRITE_LOOKS as u64 || (is_late && self.upkeep.consumed > 0) {
            let more = self.upkeep.consumed.max(limits::REWRITE_LOOKS as u64);
            let due = usize::try_from(more).unwrap_or(usize::MAX).saturating_add(self.upkeep.due);
            self.upkeep.due = due.min(self.engine.block_count());
            (self.upkeep.consumed, self.upkeep.stepped_ms) = (0, now_ms);
        }
        let consumed = usize::try_from(consumed).unwrap_or(usize::MAX);
        let most_read = consumed.saturating_mul(limits::BLOCK_TARGET_BYTES).max(limits::COMMIT_BYTES);
        self.look_at_blocks(consumed.max(limits::REWRITE_LOOKS), most_read, done)?;
        self.gather(done)?;
        self.write_upkeep(done)?;
        if self.store.wants_checkpoint() || self.upkeep.freed >= self.upkeep.much_freed {
            self.checkpoint(CHECKPOINTS)?;
        }
        Ok(())
    }

    /// Gives back, at once, all space that can be had. [`Local::commit`] does it by and by, as messages are consumed; this
    /// takes as long as reading what is mostly consumed. What is queued is committed.
    ///
    /// # Errors
    /// As [`Local::commit`].
    pub fn compact(&mut self) -> Result<(), LocalError> {
        let mut done = self.write()?;
        self.fold(self.engine.segments().collect());
        self.upkeep.due = self.engine.block_count();
        self.upkeep.consumed = 0;
        self.engine.weigh_all();
        self.look_at_blocks(usize::MAX, usize::MAX, &mut done)?;
        let now = self.now();
        let later = Now { mono_ms: now.mono_ms.saturating_add(limits::REWRITE_AGAIN_MS), ..now };
        while !self.engine.gather(later, 0, limits::COMMIT_BYTES).is_last {
            self.write_upkeep(&mut done)?;
        }
        self.write_upkeep(&mut done)?;
        self.checkpoint(usize::MAX)
    }

    /// One step of gathering small blocks: those that outlived a checkpoint, for most are consumed before one.
    fn gather(&mut self, done: &mut Committed) -> Result<(), LocalError> {
        let Some(before_ms) = self.upkeep.gather_ms else { return Ok(()) };
        let now = self.now();
        let age_ms = now.mono_ms.saturating_sub(before_ms);
        if self.engine.gather(now, age_ms, limits::REWRITE_READ_BYTES).is_last {
            self.upkeep.gather_ms = None;
        }
        self.write_upkeep(done)
    }

    /// Looks at what is due of the blocks, at so many at most and until so much is read, and puts remnants in their places.
    fn look_at_blocks(&mut self, most: usize, most_read: usize, done: &mut Committed) -> Result<(), LocalError> {
        // Who asks for everything wants those, too, that were not worth it a moment ago.
        let age = if most_read == usize::MAX { limits::REWRITE_AGAIN_MS } else { 0 };
        let (mut most, mut most_read) = (most, most_read);
        while most.min(self.upkeep.due) > 0 && most_read > 0 {
            let now = self.now();
            let now = Now { mono_ms: now.mono_ms.saturating_add(age), ..now };
            // Remnants wait in memory until they are written.
            let step = most.min(self.upkeep.due);
            let looked = self.engine.look(now, 0, step, most_read.min(limits::COMMIT_BYTES));
            self.write_upkeep(done)?;
            // One that comes to the last block goes on with the first.
            self.upkeep.due = self.upkeep.due.saturating_sub(looked.blocks).min(self.engine.block_count());
            most = most.saturating_sub(looked.blocks);
            most_read = most_read.saturating_sub(looked.read);
        }
        Ok(())
    }

    /// Queues folding those of these segments that a former life of this node left open and that are consumed.
    fn fold(&mut self, among: Vec<SegmentId>) {
        let (node, epoch) = (self.engine.node(), self.engine.epoch());
        let former = among.into_iter().filter(|id| id.node == node && id.epoch != epoch);
        former.for_each(|id| self.engine.fold(id));
    }

    /// Writes what upkeep has queued. Nothing of it is lost when there is no room for it.
    fn write_upkeep(&mut self, done: &mut Committed) -> Result<(), LocalError> {
        match self.write() {
            Ok(more) => {
                self.upkeep.freed += more.freed;
                done.add(more);
            }
            Err(LocalError::Commit { source: StoreError::Full { .. } | StoreError::Descriptors { .. }, .. }) => {}
            Err(LocalError::Commit { source, .. }) => return Err(source.into()),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A checkpoint, and more of them, up to `most`, while they give back space.
    pub(super) fn checkpoint(&mut self, most: usize) -> Result<(), LocalError> {
        let mut before = u64::MAX;
        for _ in 0..most {
            self.upkeep.freed = 0;
            match self.store.checkpoint() {
                // A pass that is under way goes on to its end first.
                Ok(()) => self.upkeep.gather_ms = self.upkeep.gather_ms.or(Some(self.now().mono_ms)),
                Err(StoreError::Full { .. } | StoreError::Descriptors { .. }) => break,
                Err(error) => return Err(error.into()),
            }
            let excess = self.store.excess();
            if excess == 0 || excess >= before {
                break;
            }
            before = excess;
        }
        Ok(())
    }
}

#[cfg(test)]
mod space;
#[cfg(test)]
mod tests;
