//! The file `synced`: up to where the log was synced, at least. Without it a log that was cut off at its end looks like one
//! whose last write was cut short, and what was confirmed would be gone without a word.
//!
//! It is overwritten in place, with one write, after each sync of the log and when a file of it is begun, and is itself synced at checkpoints alone. So a
//! process that is killed leaves it exact, and after a power cut it may be old. It is never ahead: what it says was durable
//! before it was written.

use std::{fmt, fs, io, path::Path, sync::Arc};

use super::{
    file::{Files, LogFile, io_error, is_no_file, read_file},
    frame::{VERSION, checksum, u32_at, u64_at},
    log::Position,
};
use crate::StoreError;

const MAGIC: &[u8; 8] = b"rhizomsy";
const LEN: usize = 48;

/// The end of what is known to have been synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Synced {
    /// The last frame; 0: none so far.
    pub(super) sequence: u64,
    /// The log file that it is in.
    pub(super) file: u64,
    /// Where it ends there.
    pub(super) end: u64,
}

/// Why nothing says how far the log was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// So it is with stores of programs that wrote no such file; or somebody has removed it.
    Missing,
    /// The disk does not give what was written.
    Damaged,
    NoFile,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::NoFile => "no regular file",
        })
    }
}

/// What it means to an operator.
pub(super) const MEANS: &str = "commits that the log may have lost at its end since its last checkpoint can't be told from such \
    as were never confirmed";

impl Synced {
    /// All before this place of the log.
    pub(super) fn before(at: Position) -> Self {
        Self { sequence: at.sequence.saturating_sub(1), file: at.file, end: at.offset }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        for number in [self.sequence, self.file, self.end] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&checksum(&out)[..LEN - out.len()]);
        out
    }

    /// Whether bytes of this log file, from this place on, were synced. `sequence` is that of the frame that should be
    /// there, if it is known; places alone may have shifted.
    pub(super) fn covers(&self, sequence: Option<u64>, file: u64, at: u64) -> bool {
        sequence.map_or((file, at) < (self.file, self.end), |sequence| sequence <= self.sequence)
    }

    /// What the file says; `Ok(Err(why))` when there is none to rely on.
    pub(super) fn read(path: &Path) -> Result<Result<Self, Unknown>, StoreError> {
        let bytes = match read_file(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(Unknown::Missing)),
            Err(error) if is_no_file(&error) => return Ok(Err(Unknown::NoFile)),
            Err(error) => return Err(io_error("reading", path, error)),
        };
        let is_whole = bytes.len() == LEN && &bytes[..8] == MAGIC && checksum(&bytes[..36])[..12] == bytes[36..];
        if !is_whole {
            return Ok(Err(Unknown::Damaged));
        }
        let found = u32_at(&bytes, 8);
        if found != VERSION {
            return Err(StoreError::Version { place: path.display().to_string(), found, expected: VERSION });
        }
        Ok(Ok(Self { sequence: u64_at(&bytes, 12), file: u64_at(&bytes, 20), end: u64_at(&bytes, 28) }))
    }
}

/// The file, open for writing.
pub(super) struct SyncedFile(Arc<dyn LogFile>);

impl SyncedFile {
    /// Opens the file, or makes a new one that lasts, and writes what is known by now.
    pub(super) fn open(files: &dyn Files, path: &Path, is_usable: bool, now: Synced) -> Result<Self, StoreError> {
        let open = || {
            if is_usable {
                return files.open(path);
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            files.create(path)
        };
        let write = |file: &dyn LogFile| {
            file.write_at(&now.encode(), 0)?;
            if is_usable {
                return Ok(());
            }
            file.sync()?;
            path.parent().map_or(Ok(()), |dir| files.sync_dir(dir))
        };
        let file = open().map_err(|error| io_error("opening", path, error))?;
        write(&*file).map_err(|error| io_error("writing", path, error))?;
        Ok(Self(file))
    }

    /// The log was synced up to here. A failure leaves an older place, or a damaged file: both are told at the next start,
    /// and neither is worth more than what was just confirmed.
    pub(super) fn note(&self, synced: Synced) {
        let _ = self.0.write_at(&synced.encode(), 0);
    }

    /// Makes it survive a power cut. Older is no harm.
    pub(super) fn sync(&self) {
        let _ = self.0.sync();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_comes_back_and_no_flipped_bit_or_cut_passes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("synced");
        let synced = Synced { sequence: 3, file: 4, end: 5 };
        let bytes = synced.encode();
        assert_eq!(bytes.len(), LEN);
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            Synced::read(&path)
        };
        assert_eq!(read(&bytes).unwrap(), Ok(synced));
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&broken).unwrap(), Err(Unknown::Damaged), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]).unwrap(), Err(Unknown::Damaged), "{len}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(Synced::read(&path).unwrap(), Err(Unknown::Missing));
    }
}
