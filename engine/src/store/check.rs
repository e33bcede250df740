//! What a check of a whole store finds, and who makes it.

use std::{fmt, ops::ControlFlow, path::Path};

use bytes::Bytes;

use super::{BackupError, BackupFile, Damage, StoreError};
use crate::{RangeSet, SegmentId};

/// Which kind of thing is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Bytes of the commit log.
    Log,
    /// The index or a small file: rebuilt from the log, nothing is lost by it.
    Index,
    /// A row of the store that is no block.
    Row,
    /// A block of messages.
    Block,
    /// Messages that a replica vouches for and has no block of, or a block that nothing vouches for.
    Coverage,
    /// The marks of what is consumed.
    Prefix,
}

impl Part {
    /// For people and tools.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Index => "index",
            Self::Row => "row",
            Self::Block => "block",
            Self::Coverage => "coverage",
            Self::Prefix => "prefix",
        }
    }
}

/// Something broken, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub part: Part,
    /// Where it lies, and what is wrong. The file is empty when no file can be named.
    pub damage: Damage,
    /// The segment that it belongs to.
    pub segment: Option<SegmentId>,
    /// Messages that can't be shown because of it.
    pub slots: RangeSet,
    /// The row to be written again, if what it said may be in memory: see [`Engine::rewrite_row`](crate::Engine::rewrite_row).
    pub row: Option<Bytes>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { file, offset, len, what } = &self.damage;
        write!(f, "{}: {what}", self.part.name())?;
        if !file.is_empty() {
            write!(f, "; {file} at {offset}")?;
            if *len > 0 {
                write!(f, ", {len} bytes")?;
            }
        }
        if let Some(segment) = self.segment {
            write!(f, "; segment {segment}")?;
        }
        if !self.slots.is_empty() {
            write!(f, " slots {:?}", self.slots)?;
        }
        Ok(())
    }
}

/// How much a check has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Intact frames in it.
    pub frames: u64,
    /// Rows, those of blocks included.
    pub rows: u64,
    /// Blocks.
    pub blocks: u64,
    /// Replicas.
    pub segments: u64,
    /// Whether it was ended before it had seen all.
    pub cut_short: bool,
}

/// A consistent copy of a store in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its files, from the store's directory on.
    pub files: Vec<BackupFile>,
    /// Damage that the copy has taken along, since it was there before.
    pub damages: Vec<Damage>,
}

/// Called with a number of bytes that were read; sleeps as long as it likes, and may end the work.
pub type Pace<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

/// Reads a store that is in use.
pub trait Check: Send {
    /// Goes once round everything: frames of the log, values, blocks, marks, coverage.
    ///
    /// # Errors
    /// The store was closed, or the system does not let us read.
    fn check(&mut self, pace: &mut Pace<'_>, found: &mut dyn FnMut(Finding)) -> Result<Checked, StoreError>;

    /// Copies the store into `to`, which must be an empty directory: all that was committed before the call is in it, and
    /// nothing after some moment during it. Every byte is synced.
    ///
    /// # Errors
    /// See [`BackupError`].
    fn copy(&mut self, to: &Path, pace: &mut Pace<'_>) -> Result<Copied, BackupError>;
}
