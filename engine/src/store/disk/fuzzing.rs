//! The law of the commit log, for `fuzz/`: a log is written, damaged as the input says, and read back.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    file::{Files, LogFile},
    format::Places,
    frame::{
        FILE_HEADER, FRAME_HEADER, FrameKey, Kind, MAX_PAYLOAD, Record, decode_file_header, encode_file_header, records,
    },
    log::{FileTable, path},
    marker::Marker,
    reader::Overlay,
    replay::{Replayed, Source, apply},
    row::Row,
    walk::{Piece, Walk},
};
use crate::fuzzing::{Choices, parts};

const SALT: [u8; 32] = [7; 32];
const DIR: &str = "store";

/// Frames of one log at most: a run must stay short.
const FRAMES: u64 = 40;

/// Reads `bytes` in four ways: as the frames of a log file, as the content of an intact frame, as rows of the index and
/// the marker, and as an account of how a log was written and what befell it.
pub fn commit_log(bytes: &[u8]) -> bool {
    let [kind, rest @ ..] = bytes else { return false };
    match kind % 4 {
        0 => foreign_file(rest),
        1 => payload(rest),
        2 => row_and_marker(rest),
        _ => written_and_damaged(rest),
    }
}

/// Whatever the bytes are, the pieces cover them without a gap, and none is a frame.
fn foreign_file(bytes: &[u8]) -> bool {
    let mut at = 0;
    for piece in Walk::new(bytes, &FrameKey::new(&SALT), 0) {
        match piece {
            Piece::Damaged { at: start, len } => {
                assert_eq!((start, len), (at, bytes.len() - at), "nobody can make a frame without the key");
                at += len;
            }
            Piece::Frame { .. } => panic!("a frame was forged"),
        }
    }
    assert_eq!(at, bytes.len());
    if let Some((version, number, salt)) = decode_file_header(bytes) {
        let mut header = encode_file_header(number, &salt);
        header[8..12].copy_from_slice(&version.to_le_bytes());
        assert!(header[..52] == bytes[..52]);
    }
    true
}

/// An intact frame with any content is applied as a whole or not at all.
fn payload(bytes: &[u8]) -> bool {
    let (mut overlay, mut live) = (Overlay::new(), BTreeMap::new());
    let parses = apply(&mut overlay, &mut live, 1, 100, bytes);
    let read: Vec<_> = records(bytes).collect();
    assert_eq!(parses, read.iter().all(Result::is_ok));
    assert!(parses || overlay.is_empty() && live.is_empty());
    let weight: u64 = read.iter().flatten().map(|(record, _)| record.weight()).sum();
    assert!(weight <= bytes.len() as u64 && (!parses || weight == bytes.len() as u64));
    // A text that is no UTF-8, which we never write, weighs what it is read as.
    let is_text = |(record, _): &(Record<'_>, usize)| record.kind != Kind::Lost || record.value.is_ascii();
    if read.iter().flatten().all(is_text) {
        assert!(live.values().sum::<u64>() <= weight);
    }
    for (record, at) in read.iter().flatten() {
        assert_eq!(&bytes[*at..*at + record.value.len()], record.value);
    }
    parses
}

fn row_and_marker(bytes: &[u8]) -> bool {
    let row = Row::decode(bytes);
    if let Some(row) = &row {
        let written = row.encode();
        assert_eq!(Row::decode(&written).as_ref(), Some(row));
        assert!(matches!(row, Row::Lost { .. }) || written == bytes);
        let _ = (row.file(), row.weight(b"key"));
    }
    let marker = Marker::decode_with_checksum(bytes);
    if let Some(marker) = &marker {
        assert_eq!(Marker::decode(&marker.encode()).as_ref(), Some(marker));
    }
    row.is_some() || marker.is_some()
}

/// Files in memory.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<std::path::PathBuf, Arc<MemoryFile>>>);

#[derive(Default)]
struct MemoryFile(Mutex<Vec<u8>>);

impl Memory {
    fn file(&self, number: u64) -> Option<Arc<MemoryFile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&path(DIR.as_ref(), number)).cloned()
    }
}

impl Files for Memory {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        let file = Arc::new(MemoryFile::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(files.get(path).cloned().ok_or(io::ErrorKind::NotFound)?)
    }
}

impl MemoryFile {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogFile for MemoryFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut all = self.bytes();
        let end = offset as usize + bytes.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.bytes().truncate(len as usize);
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let all = self.bytes();
        let part = all.get(offset as usize..offset as usize + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(part);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }
}

/// A frame as it was written.
struct Written {
    file: u64,
    at: usize,
    end: usize,
    group: u64,
    payload: Vec<u8>,
}

/// A log of one to three files.
struct Log {
    files: Arc<Memory>,
    numbers: Vec<u64>,
    key: FrameKey,
    frames: Vec<Written>,
}

impl Log {
    fn write(choices: &mut Choices<'_>) -> Self {
        let mut log =
            Self { files: Arc::default(), numbers: Vec::new(), key: FrameKey::new(&SALT), frames: Vec::new() };
        for number in 1..=1 + u64::from(choices.byte() % 3) {
            let mut bytes = encode_file_header(number, &SALT).to_vec();
            for _ in 0..choices.byte() % 6 {
                log.write_group(number, &mut bytes, choices);
            }
            let _ = log.files.create(&path(DIR.as_ref(), number)).and_then(|file| file.write_at(&bytes, 0));
            log.numbers.push(number);
        }
        log
    }

    /// Frames that are written and synced together.
    fn write_group(&mut self, file: u64, bytes: &mut Vec<u8>, choices: &mut Choices<'_>) {
        let group = self.frames.len() as u64 + 1;
        for _ in 0..=choices.byte() % 3 {
            let sequence = self.frames.len() as u64 + 1;
            if sequence > FRAMES {
                return;
            }
            // No two payloads are alike, so it is clear which was read.
            let name = sequence.to_le_bytes();
            let value = choices.part();
            let kind = if choices.byte().is_multiple_of(4) { Kind::Delete } else { Kind::Put };
            let records = [Record { kind: Kind::Put, key: &name, value }, Record { kind, key: b"k", value: &[] }];
            let at = bytes.len();
            self.key.encode(bytes, sequence, group, records.into_iter());
            let payload = bytes[at + FRAME_HEADER..].to_vec();
            assert!(payload.len() as u64 <= MAX_PAYLOAD);
            self.frames.push(Written { file, at, end: bytes.len(), group, payload });
        }
    }

    /// The indices of the frames that are read, and what else the reader says.
    fn read(&self, numbers: &[u64]) -> (Vec<usize>, Replayed, super::log::Position) {
        let table = FileTable::new(DIR.into(), self.files.clone());
        let places = Places::new(DIR.as_ref());
        let source = Source { places: &places, table: &table, key: &self.key, salt: &SALT, numbers, synced: None };
        let (mut read, mut empty) = (Vec::new(), 0);
        let replayed = source.replay(None, &mut |found| {
            // What mending has put there.
            if found.payload.is_empty() {
                empty += 1;
                return Ok(());
            }
            let index = self.frames.iter().position(|frame| frame.payload == found.payload);
            let index = index.expect("only what was written is read");
            assert_eq!(found.payload_at, found.at + FRAME_HEADER as u64);
            read.push(index);
            Ok(())
        });
        let replayed = replayed.expect("files in memory do not fail");
        assert_eq!(replayed.frames, read.len() as u64 + empty);
        assert!(read.is_sorted_by(|a, b| a < b), "in the order of writing, and none twice: {read:?}");
        let position = source.mend(&replayed, None).expect("files in memory do not fail");
        (read, replayed, position)
    }
}

fn written_and_damaged(bytes: &[u8]) -> bool {
    let mut choices = Choices(bytes);
    let log = Log::write(&mut choices);
    let mut numbers = log.numbers.clone();
    // Frames that were hit, and what happened.
    let mut hit = BTreeSet::new();
    let (mut blows, mut cuts) = (0, 0);
    while !choices.is_empty() && blows + cuts < 8 {
        let kind = choices.byte() % 6;
        let number = numbers.get(usize::from(choices.byte()) % numbers.len().max(1)).copied().unwrap_or(1);
        let Some(file) = log.files.file(number) else { continue };
        let mut bytes = file.bytes();
        let at = usize::from(choices.short()) % (bytes.len() + 1);
        let mut strike = |range: std::ops::Range<usize>| {
            let frames = log.frames.iter().enumerate().filter(|(_, frame)| frame.file == number);
            hit.extend(frames.filter(|(_, f)| f.at < range.end && range.start < f.end).map(|(index, _)| index));
        };
        match kind {
            // An end is missing: of the log, or of a file before the last one.
            0 => {
                strike(at..bytes.len());
                bytes.truncate(at);
                if numbers.last() == Some(&number) {
                    cuts += 1;
                    continue;
                }
            }
            // A flipped bit.
            1 if at < bytes.len() => {
                strike(at..at + 1);
                bytes[at] ^= 1 << (choices.byte() % 8);
            }
            // Other bytes: of the input, or from elsewhere in the log.
            2 => {
                let other = choices.part();
                let end = (at + other.len()).min(bytes.len());
                strike(at..end);
                let len = end - at;
                bytes[at..end].copy_from_slice(&other[..len]);
            }
            3 => {
                let from = usize::from(choices.short()) % (bytes.len() + 1);
                let len = usize::from(choices.byte()).min(bytes.len() - from.max(at));
                strike(at..at + len);
                bytes.copy_within(from..from + len, at);
            }
            // More bytes: what comes after has moved.
            4 => {
                let other = choices.part();
                strike(at..bytes.len());
                bytes.splice(at..at, other.iter().copied());
            }
            // A file is missing.
            5 => {
                strike(0..usize::MAX);
                numbers.retain(|other| *other != number);
            }
            _ => continue,
        }
        blows += 1;
    }

    let (read, replayed, position) = log.read(&numbers);
    let all = log.frames.len();
    // Damage never goes unnoticed: what is read without a complaint has no gap.
    if replayed.damages.is_empty() {
        assert!(read.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{read:?}");
    }
    match (blows, cuts) {
        (0, 0) => {
            assert!(read.len() == all && replayed.damages.is_empty() && replayed.torn_tail.is_none());
            assert_eq!(position.sequence, all as u64 + 1);
        }
        // What is left of a log whose end is missing is the start of it, and all that is whole.
        (0, _) => {
            let whole = hit.first().copied().unwrap_or(all);
            assert_eq!(read, (0..whole).collect::<Vec<_>>());
            assert!(replayed.damages.is_empty(), "{:?}", replayed.damages);
        }
        // One blow takes what it hits, and at most what was written together with it and was the last of all.
        (1, 0) if numbers.len() == log.numbers.len() => {
            let last_group = log.frames.last().map_or(0, |frame| frame.group);
            let spared = |index: &usize| !hit.contains(index) && log.frames[*index].group < last_group;
            let lost: Vec<_> = (0..all).filter(spared).filter(|index| !read.contains(index)).collect();
            assert!(lost.is_empty(), "{lost:?} of {all} were not hit and not read; hit: {hit:?}");
        }
        _ => {}
    }

    // Once mended it stays as it is, and goes on behind everything that was read.
    assert!(read.last().is_none_or(|last| position.sequence > *last as u64 + 1));
    if let Some(file) = log.files.file(position.file).filter(|_| numbers.contains(&position.file)) {
        assert!(position.offset == file.bytes().len() as u64 && position.offset >= FILE_HEADER as u64);
    }
    let (again, replayed_again, _) = log.read(&numbers);
    assert_eq!(again, read);
    if replayed_again.torn_tail.is_some() {
        // A damaged header with nothing left behind it looks like a file that was being created, and is written anew.
        let header = log.files.file(position.file).and_then(|file| decode_file_header(&file.bytes()));
        assert!(header.is_some_and(|(_, number, _)| number == position.file) && position.offset == FILE_HEADER as u64);
        let (at_last, replayed_at_last, _) = log.read(&numbers);
        assert!(at_last == read && replayed_at_last.torn_tail.is_none());
    }
    true
}

/// Seeds, at least one for each way of reading.
pub(crate) fn commit_log_seeds() -> Vec<Vec<u8>> {
    let key = FrameKey::new(&[8; 32]);
    let put = Record { kind: Kind::Put, key: b"key", value: b"value" };
    let lost = Record { kind: Kind::Lost, key: b"key", value: b"log/1 at 5" };
    let mut foreign = vec![0];
    foreign.extend(encode_file_header(1, &SALT));
    key.encode(&mut foreign, 1, 1, [put, lost].into_iter());
    let payload = [&[1], &foreign[1 + FILE_HEADER + FRAME_HEADER..]].concat();
    let row = Row::Pointer { file: 1, offset: 2, len: 3, checksum: [4; 16] };
    let at = super::log::Position { file: 3, offset: 4, sequence: 5 };
    let marker = Marker { first: 1, newest: 9, replay_from: at, writing_to: Some(at), sum: Default::default() };

    // Two files: two groups of two frames, then one group of one; each frame a value and a put of "k".
    let frame = |value: &[u8]| [parts(&[value]), vec![1]].concat();
    let group =
        |values: &[&[u8]]| [vec![values.len() as u8 - 1], values.iter().flat_map(|v| frame(v)).collect()].concat();
    let two_files =
        [vec![3, 1, 2], group(&[b"one", b"two"]), group(&[b"", &[9; 600]]), vec![1], group(&[b"five"])].concat();
    let with = |blow: &[u8]| [&two_files, blow].concat();
    let three_groups = [vec![3, 0, 3], group(&[b"one"]), group(&[b"two"]), group(&[b"three", b"four"])].concat();
    // Each frame of a value of three octets has 66.
    let two_then_one = [vec![3, 1, 2], group(&[b"one"]), group(&[b"two"]), vec![1], group(&[b"three"])].concat();
    vec![
        foreign,
        payload,
        [vec![2], row.encode()].concat(),
        [vec![2], marker.encode()].concat(),
        with(&[]),
        with(&[0, 1, 0, 100]),
        with(&[1, 0, 0, 120, 3]),
        with(&[2, 0, 0, 150, 0, 3, 1, 2, 3]),
        with(&[3, 0, 0, 68, 0, 120, 50]),
        with(&[4, 0, 0, 68, 0, 2, 1, 2, 5, 0, 0, 0]),
        [three_groups, vec![1, 0, 0, 120, 3]].concat(),
        [two_then_one, vec![0, 0, 0, 68 + 66]].concat(),
    ]
}

#[cfg(test)]
#[test]
fn damage_that_was_stepped_over_once_is_not_taken_for_an_unfinished_write_the_next_time() {
    // Found by fuzzing: a write that was cut short behind a damaged one, and a second opening before anything new was written.
    let found = [
        &[3, 1, 2, 0, 0, 1, 8, 0, 0, 0, 0, 0, 5, 0, 0, 1, 8, 0xe3, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0][..],
        &[0x6b, 0, 0, 0, 0],
        &[0xff; 23],
        &[0x5d],
        &[0xff; 27],
        &[0x6b, 0, 0, 0, 0x86],
    ];
    assert!(commit_log(&found.concat()));
}

#[cfg(test)]
#[test]
fn a_copy_of_a_later_frame_in_an_earlier_place_costs_only_what_it_hit() {
    // Found by fuzzing: the fourth of five frames over the second made the third look old.
    let frames: Vec<u8> = (1..=5).flat_map(|value| [0, 0, 1, value, 1]).collect();
    assert!(commit_log(&[&[3, 0, 5][..], &frames, &[3, 0, 0, 132, 1, 4, 64]].concat()));
    // And a second reader must keep the same ones, and cut off nothing more.
    assert!(commit_log(&[
        3, 0, 3, 0, 0, 1, 35, 1, 0, 0, 1, 223, 1, 1, 0, 1, 73, 1, 0, 1, 41, 1, 3, 87, 1, 183, 2, 63, 114, 3, 225, 1,
        100, 2, 179, 228
    ]));
}
