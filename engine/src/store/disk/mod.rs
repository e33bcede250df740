//! The store on disk: a commit log that alone determines the state, and sled as its index at the last checkpoint.
//!
//! **The log.** A commit is one frame per batch, appended with one write and made durable with one sync; then it is
//! visible. The state is, by definition, what comes out when all log files that exist are replayed in order. Nothing
//! else is trusted: sled, the marker and every file but the log may be lost, and are rebuilt.
//!
//! **Reading.** What changed since the last checkpoint is in memory (the overlay), all else in sled (the index). Values
//! below 512 bytes lie in both; larger ones stay in the log file where they were written, and overlay and index
//! point there, with a checksum (key-value separation, as in WiscKey and bitcask). Blocks end in their own hash, which
//! serves as that checksum: they are *sealed*, and hashed once.
//!
//! **Checkpoint.** The overlay's rows go to sled, sled is flushed and all its files are synced, and last the marker is
//! replaced: it says from where to replay, and has a sum over all rows. Sled's batches are not relied on to be atomic, nor
//! its recovery to be honest: a replay is idempotent, and rows that do not add up to the marker's sum mean that the index
//! is set aside (renamed, never deleted) and rebuilt from the log. So do an error, a panic or a hang of sled. While a
//! checkpoint writes, the marker sums the rows that it will not touch, so a crash in between needs no rebuild.
//!
//! **Cleaning.** Log files go only from the front (oldest first), and only when no row's latest put is in them: then what
//! is left still replays to the same state, deletes included, since all that they deleted is gone too. When dead bytes
//! outweigh live ones, or hardly anything in the front file lives, that is put again at the head of the log. Each round through the log
//! carries at most as much as it frees, so neither space nor writing grows beyond a constant factor.
//!
//! **Damage.** Frames are hashed with the store's own key. Replay steps over what is damaged to the next intact frame, and
//! reports place and length; sequence numbers show what is missing, and which frames lie where they do not belong. The file
//! `synced` says how far the log went, so that a lost end shows, too. A tail that can only be an unconfirmed commit is cut
//! off, and reported too. See [`OpenReport`] and [`DiskStore::verify`].

mod backup;
mod check;
mod checkpoint;
mod clean;
mod file;
mod format;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod index;
mod log;
mod marker;
mod offline;
mod open;
mod place;
mod reader;
mod replay;
mod row;
mod rules;
mod run;
mod synced;
mod table;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

pub(super) use self::file::{is_no_file, open_file};
pub use self::{
    backup::{BackupError, BackupFile, make_empty_dir},
    offline::{VerifyError, verify_closed},
};
use self::{
    check::Checker,
    format::Places,
    frame::{Record, check},
    index::Index,
    log::{Appended, Log},
    marker::Marker,
    reader::Shared,
    replay::apply,
};
use super::{Batch, Check, Op, Read, Store, StoreError};
use crate::keys;

#[cfg(test)]
pub(crate) use self::frame::VERSION as FORMAT_VERSION;

/// Rows in the overlay, as a multiple of [`DiskOptions::checkpoint_rows`], at which commits are refused because
/// checkpoints keep failing.
const MAX_OVERLAY: usize = 16;

/// Commits that put no block are let through to the reserve when the disk is full, whatever they delete: the more the better.
/// Besides marks of what is consumed they may put so many bytes;
const SMALL_COMMIT: u64 = 16 << 10;
/// and of these marks no more than one part in so many of the reserve. That holds sixty pages of consumed slots in the worst
/// shape (4,099 bytes); the engine asks for half of that at a time once it was refused
/// ([`REFUSED_PAGES`](crate::limits::REFUSED_PAGES)). What is left is for the checkpoint that gives space back.
const RESERVE_PART: u64 = 4;
/// Bytes of log after which a checkpoint is wanted while the disk is full: it is what gives space back.
const FULL_CHECKPOINT: u64 = 64 << 10;
/// Where there is little room a checkpoint is due as soon as so many rows are in memory.
const TIGHT_ROWS: usize = 256;

/// How a [`DiskStore`] uses its disk. The default suits a node.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// A log file is closed when it has this many bytes; it may exceed them by one commit. Default 64 MiB.
    pub roll_at: u64,
    /// A checkpoint is wanted after this many bytes of log. Default 64 MiB.
    pub checkpoint_bytes: u64,
    /// A checkpoint is wanted when this many keys changed since the last one. Default 65,536.
    pub checkpoint_rows: usize,
    /// Bytes of memory for sled's cache. Default 16 MiB.
    pub index_cache: usize,
    /// How long sled may make no progress before it is given up and the index is rebuilt. Default 60 s.
    pub index_patience: Duration,
    /// Bytes set aside for the time when the disk is full: given back then, so that checkpoints and small commits
    /// without blocks, such as removals, which free space, can still be written. Default 1 MiB.
    pub reserve: u64,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            roll_at: 64 << 20,
            checkpoint_bytes: 64 << 20,
            checkpoint_rows: 65_536,
            index_cache: 16 << 20,
            index_patience: Duration::from_secs(60),
            reserve: 1 << 20,
        }
    }
}

/// A place where bytes are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, from the store's directory on.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How many bytes; 0 when something is missing there.
    pub len: u64,
    /// What is wrong.
    pub what: String,
}

/// What became of the index at open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexState {
    /// It was read in full and is what the last checkpoint left.
    Intact,
    /// The store is new.
    Created,
    /// It could not be used and was rebuilt from the log. Nothing is lost by that.
    Rebuilt {
        /// Why.
        why: String,
        /// Where the old one lies now. It may be deleted when nobody wants to look into it.
        set_aside: Option<PathBuf>,
    },
}

/// What [`DiskStore::open`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// What was lost, with its place: frames that were replayed and not intact, files missing.
    pub damages: Vec<Damage>,
    /// A commit that was being written when the process died: it was never confirmed, and has been cut off.
    pub torn_tail: Option<Damage>,
    /// Why it can't be told whether the log ends where it was last synced: the file that says so is missing, as in older
    /// stores, or damaged, which is among the damages, too. It was made anew. A tail that was cut off may have been confirmed
    /// then.
    pub unknown_end: Option<String>,
    /// The index.
    pub index: IndexState,
    /// How many batches were replayed.
    pub replayed: u64,
}

/// Figures for status pages and benchmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Bytes of all log files.
    pub log_bytes: u64,
    /// Of these, bytes of records that count (a bound from above between checkpoints).
    pub live_bytes: u64,
    /// Number of log files.
    pub files: u64,
    /// Bytes written to the log since open, cleaning included.
    pub written: u64,
    /// Rows in memory, waiting for a checkpoint.
    pub overlay_rows: u64,
}

/// The [`Store`] on disk. See the module's description.
pub struct DiskStore {
    options: DiskOptions,
    places: Places,
    shared: Arc<Shared>,
    /// The writer's handle; `None` while it is being exchanged.
    index: Option<Index>,
    log: Log,
    /// Bytes per log file that live through the overlay or the index; too high by what the overlay hides of the index.
    live: BTreeMap<u64, u64>,
    marker: Marker,
    /// Keys whose index rows are not in the marker's sum.
    unsure: BTreeSet<Bytes>,
    /// The index may be in any state: a checkpoint failed while it was written.
    index_is_suspect: bool,
    /// Damage was found in log files up to this one: they are to be written anew, and to go.
    renew_to: Option<u64>,
    /// The disk was full, and the reserve has not been set aside again since.
    is_full: bool,
    /// `log.written` and the overlay's rows as of the last checkpoint, tried or done.
    tried_at: (u64, usize),
    /// Bytes of log that were replayed at opening, until the first checkpoint of this life: lives that all end without one
    /// must not pile up their logs.
    replayed: u64,
    /// Open as long as the store is, for its lock.
    _lock: File,
}

impl DiskStore {
    /// Figures about the log.
    pub fn stats(&self) -> DiskStats {
        DiskStats {
            log_bytes: self.log.sizes.values().sum(),
            live_bytes: self.live.values().sum(),
            files: self.log.sizes.len() as u64,
            written: self.log.written,
            overlay_rows: self.shared.overlay().len() as u64,
        }
    }

    /// Bytes of memory that sled's cache may take; see [`DiskOptions::index_cache`].
    pub fn index_cache(&self) -> usize {
        self.options.index_cache
    }

    /// Keeps what the reserve gave back for those who may have it, until there is room again.
    fn admit(&mut self, bytes: u64, may_use_reserve: bool) -> Result<(), StoreError> {
        if may_use_reserve {
            return Ok(());
        }
        let room = self.log.table.room();
        // Space comes back by checkpoints alone: what is taken in must leave room for one.
        if !self.is_full && room.as_ref().is_ok_and(|room| *room < self.checkpoint_room() + bytes) {
            let full = StoreError::Full { context: format!("writing {}", self.places.log.display()) };
            self.note_full(&full);
            return Err(full);
        }
        if !self.is_full {
            return Ok(());
        }
        let room = room.unwrap_or(0);
        if room >= self.options.reserve + self.checkpoint_room() + bytes {
            self.make_reserve();
        }
        if self.is_full {
            return Err(StoreError::Full { context: format!("writing {}", self.places.log.display()) });
        }
        Ok(())
    }

    fn note_full(&mut self, error: &StoreError) {
        if matches!(error, StoreError::Full { .. }) {
            self.is_full = true;
            // Gone already, or not to be had: the error says enough.
            let _ = std::fs::remove_file(&self.places.reserve);
        }
    }

    /// Appends batches of records, and makes them visible once they are durable.
    fn append<'a, B>(&mut self, batches: impl Iterator<Item = B>) -> Result<(), StoreError>
    where
        B: Iterator<Item = Record<'a>>,
    {
        let appended = self.roll().and_then(|()| self.log.append(batches));
        let Appended { file, payloads } = appended.inspect_err(|error| self.note_full(error))?;
        let mut overlay = self.shared.overlay_mut();
        for (payload_at, range) in payloads {
            let parses = apply(&mut overlay, &mut self.live, file, payload_at, &self.log.buffer()[range]);
            debug_assert!(parses, "the log encoded what it can not read");
        }
        self.shared.set_durable(self.log.position());
        Ok(())
    }
}

impl DiskStore {
    /// Goes on to the next log file when it is time; the marker knows of it before anything in it is confirmed.
    fn roll(&mut self) -> Result<(), StoreError> {
        self.log.roll()?;
        let newest = self.log.position().file;
        if self.marker.newest < newest {
            let marker = Marker { newest, ..self.marker };
            marker.write(&self.places.marker)?;
            self.marker = marker;
            self.shared.set_durable(self.log.position());
        }
        Ok(())
    }
}

impl Store for DiskStore {
    fn reader(&self) -> Arc<dyn Read> {
        self.shared.clone()
    }

    fn commit(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        batches.iter().try_for_each(|batch| check(batch))?;
        if self.shared.overlay().len() > MAX_OVERLAY * self.options.checkpoint_rows {
            let context = "commits are refused, for checkpoints keep failing".to_owned();
            return Err(StoreError::Io { context, source: std::io::Error::other("see the earlier errors") });
        }
        let batches = batches.iter().filter(|batch| !batch.is_empty());
        let bytes = batches.clone().flatten().map(|op| Record::from(op).weight()).sum();
        if bytes == 0 {
            return Ok(());
        }
        let takes_in = |op: &Op| matches!(op, Op::Put(key, _) if keys::is_sealed(key));
        let puts = batches.clone().flatten().filter(|op| matches!(op, Op::Put(..)));
        let is_mark = |op: &&Op| matches!(op, Op::Put(key, _) if keys::is_mark(key));
        let weight = |op| Record::from(op).weight();
        let marks: u64 = puts.clone().filter(is_mark).map(weight).sum();
        let others: u64 = puts.clone().filter(|op| !is_mark(op)).map(weight).sum();
        let is_small = others <= SMALL_COMMIT && RESERVE_PART * marks <= self.options.reserve;
        let may_use_reserve = is_small && !puts.clone().any(takes_in);
        self.admit(bytes, may_use_reserve)?;
        let records = batches.map(|batch| batch.iter().map(Record::from));
        let was_full = self.is_full;
        match self.append(records.clone()) {
            // The reserve was given back just now.
            Err(StoreError::Full { .. }) if !was_full && may_use_reserve => self.append(records),
            result => result,
        }
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.run_checkpoint()
    }

    fn checker(&self) -> Option<Box<dyn Check>> {
        Some(Box::new(Checker::new(&self.places, self.shared.clone(), &self.log)))
    }

    fn renew(&mut self, file: &str) -> Result<(), StoreError> {
        let digits = file.strip_prefix("log/").and_then(|name| name.strip_suffix(".log"));
        let Some(number) = digits.and_then(|digits| digits.parse::<u64>().ok()) else {
            // Something of the index: it is read in full, and made anew from the log if need be.
            self.index_is_suspect = true;
            return self.run_checkpoint();
        };
        self.run_renewal(number)
    }

    fn excess(&self) -> u64 {
        if self.can_clean() { self.stats().log_bytes.saturating_sub(self.stats().live_bytes) } else { 0 }
    }

    fn wants_checkpoint(&self) -> bool {
        let (written, rows) = self.tried_at;
        let grown = self.shared.overlay().len().saturating_sub(rows);
        let bytes = if self.is_full { FULL_CHECKPOINT } else { self.options.checkpoint_bytes };
        let is_large = grown >= self.options.checkpoint_rows || self.replayed + self.log.written - written >= bytes;
        // Before there is too little room for one: a smaller one now needs less.
        let is_tight = || self.log.table.room().is_ok_and(|room| room < 2 * self.checkpoint_room());
        is_large || (grown >= TIGHT_ROWS && is_tight())
    }
}

impl Drop for DiskStore {
    /// Readers may live on; the index must be closed before the lock goes.
    fn drop(&mut self) {
        self.index.take();
        self.shared.lock_index().take();
    }
}
