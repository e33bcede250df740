//! Where state lies: an ordered map of bytes with atomic batches, of which only what was synced survives a crash.
//!
//! Two implementations behind one test-suite: the commit log with sled as its index, for disks, and an in-memory one
//! that forgets unsynced writes on a crash and can be told to fail, for simulation.

mod check;
mod disk;
mod manifest;
mod memory;
#[cfg(test)]
mod suite;

use std::ops::ControlFlow;

use bytes::Bytes;

pub use check::{Check, Checked, Copied, Finding, Pace, Part};
#[cfg(test)]
pub(crate) use disk::FORMAT_VERSION;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use disk::fuzzing;
pub use disk::{
    BackupError, BackupFile, Damage, DiskOptions, DiskStats, DiskStore, IndexState, OpenReport, VerifyError,
    make_empty_dir, verify_closed,
};
pub use manifest::Manifest;
pub use memory::{MemoryStore, Snapshot};

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets the key to the value.
    Put(Bytes, Bytes),
    /// Removes the key; removing an absent key is no error.
    Delete(Bytes),
}

/// Changes that happen together or not at all.
pub type Batch = Vec<Op>;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The device is full. Nothing of the batch was kept; freeing space is enough to go on.
    #[error("the disk is full ({context}); free some space, the node goes on by itself")]
    Full {
        /// What was being written.
        context: String,
    },
    /// The system refused. After a failed sync nothing unsynced may be trusted: reopen the store.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, with the file.
        context: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// The process or the system has no file descriptor left. Nothing of the batch was kept; once some are closed it goes on.
    #[error(
        "no file descriptor is left ({context}); raise the limit (`ulimit -n`) or close connections, the node goes on by itself"
    )]
    Descriptors {
        /// What was to be opened.
        context: String,
    },
    /// A named pipe, a directory or a device lies where a file of ours should be. Somebody has put it there.
    #[error("{place} is no regular file; move it away")]
    NotAFile {
        /// Its name.
        place: String,
    },
    /// Bytes are there but are not what was written.
    #[error("damaged data in {place}: {detail}")]
    Damaged {
        /// File and offset.
        place: String,
        /// What is wrong.
        detail: String,
    },
    /// The directory was written by another format version.
    #[error("{place} has format version {found}, this program reads {expected}; use the program version that wrote it")]
    Version {
        /// The file that says so.
        place: String,
        /// Its version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// Another process has the directory open.
    #[error("{place} is in use by another process; stop it first")]
    Locked {
        /// The lock file.
        place: String,
    },
    /// The directory holds something else.
    #[error("{place} is not empty and holds no Rhizomq store; choose another directory, or an empty one")]
    Foreign {
        /// The directory.
        place: String,
    },
    /// A batch that no log frame can hold. Nothing of it was written.
    #[error("{what} is {bytes} bytes, the limit is {limit}; split it")]
    TooLarge {
        /// The key, or the batch.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// What would have been accepted.
        limit: u64,
    },
}

/// Commits of which nothing is left to say what was in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostCommits {
    /// How many bytes of log they took, at most; `None` where even that can't be told: a whole file is missing.
    pub bytes: Option<u64>,
}

/// Takes keys, with the lengths of their values, until it breaks.
pub type KeyVisitor<'a> = dyn FnMut(&[u8], Option<u64>) -> ControlFlow<()> + 'a;

/// Reading. Sees every committed batch at once; what is not synced yet is not visible. Cheap to share between threads.
pub trait Read: Send + Sync {
    /// The value under `key`, verified against its checksum where it comes from disk.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// As [`Read::get`], but a value that vouches for itself, such as a block, may come unverified: the caller checks it,
    /// and so it is hashed once.
    fn get_sealed(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.get(key)
    }

    /// Visits keys in `from..to` in order until `visit` breaks. No snapshot: only the writer's owner may rely on what
    /// it sees while writing.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Visits the keys alone, in order, until `visit` breaks, with the lengths of their values: `None` where it is plain
    /// without reading that there is no value any more. Reads no values, so a damaged one does not stop it.
    fn scan_keys(&self, from: &[u8], to: &[u8], visit: &mut KeyVisitor<'_>) -> Result<(), StoreError> {
        self.scan(from, to, &mut |key, value| visit(key, Some(value.len() as u64)))
    }

    /// Commits that opening found to be lost, or to be lost perhaps. The engine says what of this node's own may have been
    /// in them.
    fn lost(&self) -> Option<LostCommits> {
        None
    }
}

/// Writing: one owner, one writer at a time.
pub trait Store: Send {
    /// A handle for reading.
    fn reader(&self) -> std::sync::Arc<dyn Read>;

    /// Applies `batches` in order, each atomically, then makes all of them durable with one sync.
    ///
    /// # Errors
    /// On an error none of these batches is visible or durable (a crash may still keep a prefix of them, as with any
    /// write that was not confirmed). After [`StoreError::Io`] the store must be reopened.
    fn commit(&mut self, batches: &[Batch]) -> Result<(), StoreError>;

    /// Brings the index up to date and gives back space; called by the driver when the store is idle or asks for it
    /// (see [`Store::wants_checkpoint`]).
    fn checkpoint(&mut self) -> Result<(), StoreError>;

    /// Whether enough was written since the last checkpoint.
    fn wants_checkpoint(&self) -> bool;

    /// Bytes on disk that nothing needs and that another checkpoint would begin to give back; 0 if it would not. Only a
    /// checkpoint finds out what is not needed any more, so it is told best right after one.
    fn excess(&self) -> u64 {
        0
    }

    /// Something that reads all of the store and says what is broken, in a thread of its own while the store is in use.
    /// `None` for a store that can not break.
    fn checker(&self) -> Option<Box<dyn Check>> {
        None
    }

    /// Damage was found in a file: what is still good in it is to be written anew, and the file to go.
    ///
    /// # Errors
    /// As [`Store::checkpoint`].
    fn renew(&mut self, _file: &str) -> Result<(), StoreError> {
        Ok(())
    }
}
