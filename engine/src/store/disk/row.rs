//! What the index knows about one key: the value itself when it is small, else its place in the log.

use bytes::Bytes;

use super::frame::{Checksum, Kind, Record, checksum, u32_at, u64_at, weight};
use crate::keys;

/// Values below this size (bytes) lie in the index, larger ones in the log alone.
pub(super) const INLINE_LIMIT: usize = 512;

/// One key's row. `file` is always the log file with the key's latest put: that file may not go while the row lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Inline {
        file: u64,
        bytes: Bytes,
    },
    Pointer {
        file: u64,
        offset: u64,
        len: u32,
        checksum: Checksum,
    },
    /// As a pointer, to a value that ends in the hash of what comes before: that is its checksum, and it is hashed once.
    Sealed {
        file: u64,
        offset: u64,
        len: u32,
        /// The first half of the hash.
        seal: Checksum,
    },
    /// The value was found damaged when its log file had to go; `place` says where that was.
    Lost {
        file: u64,
        place: String,
    },
}

impl Row {
    /// The row that a record makes, its value being at `value_at` of log file `file`; `None` for a delete.
    pub(super) fn from_record(record: &Record<'_>, file: u64, value_at: u64) -> Option<Self> {
        match record.kind {
            Kind::Delete => None,
            Kind::Lost => Some(Self::Lost { file, place: String::from_utf8_lossy(record.value).into_owned() }),
            // Copied: a slice would keep the whole commit buffer in memory.
            Kind::Put if record.value.len() < INLINE_LIMIT => {
                Some(Self::Inline { file, bytes: Bytes::copy_from_slice(record.value) })
            }
            Kind::Put if keys::is_sealed(record.key) => Some(Self::Sealed {
                file,
                offset: value_at,
                len: record.value.len() as u32,
                seal: seal_of(record.value),
            }),
            Kind::Put => Some(Self::Pointer {
                file,
                offset: value_at,
                len: record.value.len() as u32, // read from, or checked against, 32 bits
                checksum: checksum(record.value),
            }),
        }
    }

    pub(super) fn file(&self) -> u64 {
        match self {
            Self::Inline { file, .. }
            | Self::Pointer { file, .. }
            | Self::Sealed { file, .. }
            | Self::Lost { file, .. } => *file,
        }
    }

    /// Bytes in the log that live through this row.
    pub(super) fn weight(&self, key: &[u8]) -> u64 {
        let value = match self {
            Self::Inline { bytes, .. } => bytes.len() as u64,
            Self::Pointer { len, .. } | Self::Sealed { len, .. } => u64::from(*len),
            Self::Lost { place, .. } => place.len() as u64,
        };
        weight(key.len(), value)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        let (kind, file) = match self {
            Self::Inline { file, .. } => (1, file),
            Self::Pointer { file, .. } => (2, file),
            Self::Lost { file, .. } => (3, file),
            Self::Sealed { file, .. } => (4, file),
        };
        out.push(kind);
        out.extend_from_slice(&file.to_le_bytes());
        match self {
            Self::Inline { bytes, .. } => out.extend_from_slice(bytes),
            Self::Lost { place, .. } => out.extend_from_slice(place.as_bytes()),
            Self::Pointer { offset, len, checksum, .. } | Self::Sealed { offset, len, seal: checksum, .. } => {
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(&len.to_le_bytes());
                out.extend_from_slice(checksum);
            }
        }
        out
    }

    /// `None` when the bytes are no row.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 9 {
            return None;
        }
        let (file, rest) = (u64_at(bytes, 1), &bytes[9..]);
        match bytes[0] {
            1 => Some(Self::Inline { file, bytes: Bytes::copy_from_slice(rest) }),
            kind @ (2 | 4) if rest.len() == 28 => {
                let mut checksum = [0; 16];
                checksum.copy_from_slice(&rest[12..]);
                let (offset, len) = (u64_at(rest, 0), u32_at(rest, 8));
                if kind == 2 {
                    return Some(Self::Pointer { file, offset, len, checksum });
                }
                Some(Self::Sealed { file, offset, len, seal: checksum })
            }
            3 => Some(Self::Lost { file, place: String::from_utf8_lossy(rest).into_owned() }),
            _ => None,
        }
    }
}

/// Bytes of the hash that a sealed value ends in.
const SEAL: usize = 32;

/// The first half of the hash that a sealed value ends in. Whoever reads the value finds out whether it is right.
pub(super) fn seal_of(value: &[u8]) -> Checksum {
    let mut seal = [0; 16];
    let at = value.len().saturating_sub(SEAL);
    if let Some(half) = value.get(at..at + seal.len()) {
        seal.copy_from_slice(half);
    }
    seal
}

/// Whether a sealed value is what its seal says.
pub(super) fn is_whole(value: &[u8]) -> bool {
    let content = value.len().saturating_sub(SEAL);
    blake3::hash(&value[..content]).as_bytes()[..] == value[content..]
}

/// A checksum of a whole table: the sum of its rows' hashes, so rows can be taken out and put in, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TableSum(pub(super) u128);

impl TableSum {
    pub(super) fn add(&mut self, key: &[u8], row: &[u8]) {
        self.0 = self.0.wrapping_add(Self::hash(key, row));
    }

    pub(super) fn remove(&mut self, key: &[u8], row: &[u8]) {
        self.0 = self.0.wrapping_sub(Self::hash(key, row));
    }

    fn hash(key: &[u8], row: &[u8]) -> u128 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(row);
        let mut out = [0; 16];
        out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        u128::from_le_bytes(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_bytes_of_no_row_do_not_pass() {
        let rows = [
            Row::Inline { file: 7, bytes: Bytes::new() },
            Row::Inline { file: 7, bytes: Bytes::from_static(b"abc") },
            Row::Pointer { file: 1, offset: 2, len: 3, checksum: [4; 16] },
            Row::Sealed { file: 1, offset: 2, len: 3, seal: [4; 16] },
            Row::Lost { file: 9, place: "log/1 at 5".to_owned() },
        ];
        for row in rows {
            assert_eq!(Row::decode(&row.encode()), Some(row));
        }
        for bad in [&[][..], &[1; 8], &[2; 20], &[4; 20], &[5; 9]] {
            assert_eq!(Row::decode(bad), None);
        }
    }

    #[test]
    fn a_table_sum_depends_on_the_rows_and_not_on_their_history() {
        let (mut one, mut other) = (TableSum::default(), TableSum::default());
        one.add(b"a", b"1");
        one.add(b"b", b"2");
        other.add(b"b", b"2");
        other.add(b"c", b"3");
        other.add(b"a", b"1");
        assert_ne!(one, other);
        other.remove(b"c", b"3");
        assert_eq!(one, other);
        other.add(b"a1", b"");
        one.add(b"a", b"1");
        assert_ne!(one, other, "the boundary between key and row counts");
    }
}
