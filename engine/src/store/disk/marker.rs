//! The marker file: up to where the index holds the log's effects, and what the index must then look like.

use std::{io, path::Path};

use super::{
    file::{io_error, is_no_file, read_file, write_atomically},
    frame::{VERSION, checksum, u32_at, u64_at},
    log::Position,
    row::TableSum,
};
use crate::StoreError;

const MAGIC: &[u8; 8] = b"rhizomrk";
const LEN: usize = 108;

/// What the last checkpoint left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    /// The oldest log file still needed.
    pub(super) first: u64,
    /// The newest log file: noted before anything in it is confirmed, so its loss can be told from its never having been.
    pub(super) newest: u64,
    /// The index holds what the log says before this place.
    pub(super) replay_from: Position,
    /// Set while a checkpoint writes the index: rows of keys that the log changes between `replay_from` and here may
    /// be in any state.
    pub(super) writing_to: Option<Position>,
    /// Sum over the index's rows, without those that may be in any state.
    pub(super) sum: TableSum,
}

impl Marker {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::from(self.writing_to.is_some()).to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.newest.to_le_bytes());
        for at in [self.replay_from, self.writing_to.unwrap_or(self.replay_from)] {
            out.extend_from_slice(&at.file.to_le_bytes());
            out.extend_from_slice(&at.offset.to_le_bytes());
            out.extend_from_slice(&at.sequence.to_le_bytes());
        }
        out.extend_from_slice(&self.sum.0.to_le_bytes());
        out.extend_from_slice(&checksum(&out)[..12]);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LEN || &bytes[..8] != MAGIC || checksum(&bytes[..LEN - 12])[..12] != bytes[LEN - 12..] {
            return None;
        }
        if u32_at(bytes, 8) != VERSION {
            return None;
        }
        let position =
            |at| Position { file: u64_at(bytes, at), offset: u64_at(bytes, at + 8), sequence: u64_at(bytes, at + 16) };
        Some(Self {
            first: u64_at(bytes, 16),
            newest: u64_at(bytes, 24),
            replay_from: position(32),
            writing_to: (u32_at(bytes, 12) == 1).then(|| position(56)),
            sum: TableSum(u128::from(u64_at(bytes, 80)) | u128::from(u64_at(bytes, 88)) << 64),
        })
    }

    /// The version of a marker that another program wrote: only what comes before the version may be relied on, and
    /// that the checksum is at the end.
    fn other_version(bytes: &[u8]) -> Option<u32> {
        let content = bytes.len().checked_sub(12).filter(|len| *len >= 12 && &bytes[..8] == MAGIC)?;
        let version = u32_at(bytes, 8);
        (checksum(&bytes[..content])[..12] == bytes[content..] && version != VERSION).then_some(version)
    }

    /// Reads a marker whose checksum is made right first: behind it, anything may stand.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn decode_with_checksum(bytes: &[u8]) -> Option<Self> {
        let content = bytes.get(..LEN - 12)?;
        Self::decode(&[content, &checksum(content)[..12]].concat())
    }

    /// Durable when this returns.
    pub(super) fn write(&self, path: &Path) -> Result<(), StoreError> {
        write_atomically(path, &self.encode())
    }

    /// The marker; `Ok(Err(why))` when there is none to rely on.
    pub(super) fn read(path: &Path) -> Result<Result<Self, &'static str>, StoreError> {
        match read_file(path) {
            Ok(bytes) => match (Self::decode(&bytes), Self::other_version(&bytes)) {
                (Some(marker), _) => Ok(Ok(marker)),
                (None, Some(found)) => {
                    Err(StoreError::Version { place: path.display().to_string(), found, expected: VERSION })
                }
                (None, None) => Ok(Err("the marker is damaged")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err("there is no marker")),
            Err(error) if is_no_file(&error) => Ok(Err("the marker is no regular file")),
            Err(error) => Err(io_error("reading", path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_comes_back_and_no_flipped_bit_passes() {
        let at = Position { file: 3, offset: 4, sequence: 5 };
        let clean = Marker { first: 1, newest: 9, replay_from: at, writing_to: None, sum: TableSum(u128::MAX - 7) };
        let writing = Marker { writing_to: Some(Position { file: 6, offset: 7, sequence: 8 }), ..clean };
        for marker in [clean, writing] {
            let bytes = marker.encode();
            assert_eq!(Marker::decode(&bytes), Some(marker));
            for bit in 0..bytes.len() * 8 {
                let mut broken = bytes.clone();
                broken[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Marker::decode(&broken), None, "bit {bit}");
            }
        }
    }
}
