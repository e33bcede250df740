//! The bytes of the commit log: file headers, frames and the records in them. `FORMAT.md` has the tables.
//!
//! Frames are hashed with a key that is made at random when the store is created. Values come from clients; without the
//! key a message body could be made to look like a frame, and be taken for one when damage makes the reader look for
//! the next intact frame.

use std::ops::Range;

use crate::{Op, StoreError};

/// A 16-byte blake3 checksum.
pub(super) type Checksum = [u8; 16];

/// The random bytes that a store's frame key is made of.
pub(super) type Salt = [u8; 32];

/// Format version of the directory and of every file in it that is ours.
pub(crate) const VERSION: u32 = 1;
/// Bytes before the first frame of a file.
pub(super) const FILE_HEADER: usize = 68;
/// Bytes of a frame before its payload.
pub(super) const FRAME_HEADER: usize = 40;
/// Limit of a frame's payload.
pub(super) const MAX_PAYLOAD: u64 = 256 << 20;
/// Limit of a key.
pub(super) const MAX_KEY: u64 = u16::MAX as u64;

/// Above every key.
pub(super) static AFTER_ALL: [u8; MAX_KEY as usize + 1] = [0xff; MAX_KEY as usize + 1];

const FILE_MAGIC: &[u8; 8] = b"rhizolog";
pub(super) const RECORD_HEADER: usize = 7;

/// The unkeyed checksum, for values and small files.
pub(super) fn checksum(bytes: &[u8]) -> Checksum {
    truncate(blake3::hash(bytes))
}

fn truncate(hash: blake3::Hash) -> Checksum {
    let mut out = [0; 16];
    out.copy_from_slice(&hash.as_bytes()[..16]);
    out
}

/// The header of a log file.
pub(super) fn encode_file_header(number: u64, salt: &Salt) -> [u8; FILE_HEADER] {
    let mut out = [0; FILE_HEADER];
    out[..8].copy_from_slice(FILE_MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..20].copy_from_slice(&number.to_le_bytes());
    out[20..52].copy_from_slice(salt);
    let check = checksum(&out[..52]);
    out[52..].copy_from_slice(&check);
    out
}

/// The version, number and salt in a log file's header; `None` when it is not intact.
pub(super) fn decode_file_header(bytes: &[u8]) -> Option<(u32, u64, Salt)> {
    let header = bytes.get(..FILE_HEADER)?;
    let intact = &header[..8] == FILE_MAGIC && checksum(&header[..52]) == header[52..];
    let mut salt = [0; 32];
    salt.copy_from_slice(&header[20..52]);
    intact.then(|| (u32_at(header, 8), u64_at(header, 12), salt))
}

/// What one record does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    Delete,
    /// The key's value was damaged before it could be carried on; the "value" says where.
    Lost,
}

/// One change of one key, as it lies in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl<'a> From<&'a Op> for Record<'a> {
    fn from(op: &'a Op) -> Self {
        match op {
            Op::Put(key, value) => Self { kind: Kind::Put, key, value },
            Op::Delete(key) => Self { kind: Kind::Delete, key, value: &[] },
        }
    }
}

impl Record<'_> {
    /// Bytes of the record in a payload; also what it weighs in the count of live bytes.
    pub(super) fn weight(&self) -> u64 {
        (RECORD_HEADER + self.key.len() + self.value.len()) as u64
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.kind {
            Kind::Put => 1,
            Kind::Delete => 2,
            Kind::Lost => 3,
        });
        // Lengths were checked against the limits by `check`.
        out.extend_from_slice(&(self.key.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.value.len() as u32).to_le_bytes());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
    }
}

/// Weight of a put of a key and a value of these lengths.
pub(super) fn weight(key: usize, value: u64) -> u64 {
    (RECORD_HEADER + key) as u64 + value
}

/// Whether one frame can hold a batch.
pub(super) fn check(batch: &[Op]) -> Result<(), StoreError> {
    let mut total = 0;
    for record in batch.iter().map(Record::from) {
        let bytes = record.key.len() as u64;
        if bytes > MAX_KEY {
            return Err(StoreError::TooLarge { what: "a key", bytes, limit: MAX_KEY });
        }
        total += record.weight();
    }
    if total > MAX_PAYLOAD {
        return Err(StoreError::TooLarge { what: "a batch", bytes: total, limit: MAX_PAYLOAD });
    }
    Ok(())
}

/// Reads the records of a payload: each with the offset of its value in the payload. A payload whose checksum was good
/// and that still does not parse gives `Err(())` at the place where it goes wrong.
pub(super) fn records(payload: &[u8]) -> impl Iterator<Item = Result<(Record<'_>, usize), ()>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= payload.len() {
            return None;
        }
        let record = record_at(payload, at);
        at = record.map_or(payload.len(), |(record, value_at)| value_at + record.value.len());
        Some(record.ok_or(()))
    })
}

fn record_at(payload: &[u8], at: usize) -> Option<(Record<'_>, usize)> {
    let header = payload.get(at..at + RECORD_HEADER)?;
    let kind = match header[0] {
        1 => Kind::Put,
        2 => Kind::Delete,
        3 => Kind::Lost,
        _ => return None,
    };
    let key_at = at + RECORD_HEADER;
    let value_at = key_at + usize::from(u16::from_le_bytes([header[1], header[2]]));
    let end = value_at.checked_add(u32_at(header, 3) as usize)?;
    Some((Record { kind, key: payload.get(key_at..value_at)?, value: payload.get(value_at..end)? }, value_at))
}

/// What frames of one store are recognised by.
#[derive(Clone)]
pub(super) struct FrameKey {
    key: [u8; 32],
    magic: [u8; 4],
}

/// A frame found intact; `payload` is its place in the searched bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Dense number of the frame in the life of the store.
    pub(super) sequence: u64,
    /// Sequence of the first frame that was written and synced together with this one.
    pub(super) group: u64,
    pub(super) payload: Range<usize>,
}

impl FrameKey {
    pub(super) fn new(salt: &Salt) -> Self {
        let key = blake3::derive_key("rhizomq store frame key", salt);
        let mark = blake3::keyed_hash(&key, b"magic");
        let mut magic = [0; 4];
        magic.copy_from_slice(&mark.as_bytes()[..4]);
        Self { key, magic }
    }

    /// Appends a frame to `out`.
    pub(super) fn encode<'a>(
        &self,
        out: &mut Vec<u8>,
        sequence: u64,
        group: u64,
        records: impl Iterator<Item = Record<'a>>,
    ) {
        let start = out.len();
        out.resize(start + FRAME_HEADER, 0);
        records.for_each(|record| record.encode(out));
        let len = (out.len() - start - FRAME_HEADER) as u32;
        let header = &mut out[start..start + FRAME_HEADER];
        header[..4].copy_from_slice(&self.magic);
        header[4..8].copy_from_slice(&len.to_le_bytes());
        header[8..16].copy_from_slice(&sequence.to_le_bytes());
        header[16..24].copy_from_slice(&group.to_le_bytes());
        let hash = self.hash(&out[start..]);
        out[start + 24..start + FRAME_HEADER].copy_from_slice(&hash);
    }

    /// The frame at `at`, when there is one and it is intact.
    pub(super) fn decode(&self, bytes: &[u8], at: usize) -> Option<Frame> {
        let header = bytes.get(at..at + FRAME_HEADER)?;
        if header[..4] != self.magic {
            return None;
        }
        let start = at + FRAME_HEADER;
        let end = start.checked_add(u32_at(header, 4) as usize)?;
        if self.hash(bytes.get(at..end)?) != header[24..] {
            return None;
        }
        Some(Frame { sequence: u64_at(header, 8), group: u64_at(header, 16), payload: start..end })
    }

    /// How long a frame is that begins with this header, itself included; `None` when no frame begins like that.
    pub(super) fn announced(&self, header: &[u8]) -> Option<u64> {
        let begins = header.len() >= FRAME_HEADER && header[..4] == self.magic;
        begins.then(|| FRAME_HEADER as u64 + u64::from(u32_at(header, 4)))
    }

    /// The next place at or after `at` where a frame may start.
    pub(super) fn find(&self, bytes: &[u8], at: usize) -> Option<usize> {
        bytes.get(at..)?.windows(4).position(|window| window == self.magic).map(|found| at + found)
    }

    /// Hash of a frame but for the hash itself.
    fn hash(&self, frame: &[u8]) -> Checksum {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&frame[..24]).update(&frame[FRAME_HEADER..]);
        truncate(hasher.finalize())
    }
}

/// Little-endian; the caller has checked the length.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

/// Little-endian; the caller has checked the length.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_no_flipped_bit_passes() {
        let key = FrameKey::new(&[7; 32]);
        let mut bytes = vec![0xee; 3];
        let put = Record { kind: Kind::Put, key: b"key", value: b"value" };
        let delete = Record { kind: Kind::Delete, key: b"", value: b"" };
        key.encode(&mut bytes, 5, 4, [put, delete].into_iter());
        let frame = key.decode(&bytes, 3).unwrap();
        assert_eq!((frame.sequence, frame.group), (5, 4));
        let payload = &bytes[frame.payload];
        assert_eq!(records(payload).collect::<Vec<_>>(), [Ok((put, 10)), Ok((delete, 22))]);
        assert_eq!(FrameKey::new(&[8; 32]).decode(&bytes, 3), None, "another store's frame");
        for bit in 3 * 8..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.decode(&broken, 3), None, "bit {bit}");
        }
        assert!((0..bytes.len()).all(|len| key.decode(&bytes[..len], 3).is_none()));
    }

    #[test]
    fn payloads_that_do_not_parse_end_in_an_error() {
        for bad in [&[9, 0, 0, 0, 0, 0, 0][..], &[1, 1, 0, 0, 0, 0, 0], &[1, 0, 0, 0xff, 0xff, 0xff, 0xff], &[2]] {
            assert_eq!(records(bad).collect::<Vec<_>>(), [Err(())], "{bad:?}");
        }
    }

    #[test]
    fn a_file_header_comes_back_and_no_flipped_bit_passes() {
        let header = encode_file_header(3, &[9; 32]);
        assert_eq!(decode_file_header(&header), Some((VERSION, 3, [9; 32])));
        for bit in 0..header.len() * 8 {
            let mut broken = header;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_file_header(&broken), None, "bit {bit}");
        }
    }
}
