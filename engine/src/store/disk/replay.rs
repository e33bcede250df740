//! Replaying the log: every intact frame in order, and an exact account of what is not intact.

use std::{collections::BTreeMap, io};

use bytes::Bytes;

use super::{
    Damage,
    file::{Unreadable, io_error, read_what_can_be_read},
    format::Places,
    frame::{
        FILE_HEADER, FRAME_HEADER, Frame, FrameKey, Salt, VERSION, decode_file_header, encode_file_header, records,
    },
    log::{self, FileTable, Position},
    marker::Marker,
    reader::Overlay,
    row::Row,
    synced::Synced,
    walk::{Piece, Walk, misplaced, torn_tail},
};
use crate::StoreError;

const THERE_BEFORE: &str = "a frame that was there before";

/// The log as it is found, before anything is appended.
pub(super) struct Source<'a> {
    pub(super) places: &'a Places,
    pub(super) table: &'a FileTable,
    pub(super) key: &'a FrameKey,
    pub(super) salt: &'a Salt,
    /// The numbers of the files, ascending.
    pub(super) numbers: &'a [u64],
    /// Up to where the log must go, if that is known.
    pub(super) synced: Option<Synced>,
}

/// What a replay found besides the frames.
#[derive(Default)]
pub(super) struct Replayed {
    pub(super) damages: Vec<Damage>,
    /// An unconfirmed tail at the end of the last file.
    pub(super) torn_tail: Option<Damage>,
    pub(super) frames: u64,
    /// Where the last group of frames begins: group, file, offset.
    last_group: Option<(u64, u64, u64)>,
    /// Some of the last file could not be read: nothing of it may be cut off.
    last_is_unreadable: bool,
    /// Length of the last file without its torn tail.
    end: u64,
    /// The sequence after the last frame.
    sequence: Option<u64>,
    /// A sequence above those of all intact frames, also of such as are not where they belong: none is given out twice.
    unused: u64,
}

impl Replayed {
    /// How far the log goes, for who goes on at `at`: numbers that were left out between are no frames.
    pub(super) fn synced(&self, at: Position) -> Synced {
        Synced::before(Position { sequence: self.sequence.unwrap_or(1), ..at })
    }
}

/// One intact frame, as a replay hands it out.
pub(super) struct Found<'a> {
    pub(super) file: u64,
    /// Offset of the frame, and of its payload.
    pub(super) at: u64,
    pub(super) payload_at: u64,
    pub(super) payload: &'a [u8],
}

impl Source<'_> {
    /// Hands every intact frame from `from` on to `sink`.
    pub(super) fn replay(
        &self,
        from: Option<Position>,
        sink: &mut dyn FnMut(Found<'_>) -> Result<(), StoreError>,
    ) -> Result<Replayed, StoreError> {
        // The very first file begins with the very first frame: where that is gone, it is missed.
        let begin = from.map(|from| from.sequence).or((self.numbers.first() == Some(&1)).then_some(1));
        let mut replayed = Replayed { sequence: begin, ..Replayed::default() };
        let start = from.map_or_else(|| self.numbers.first().copied().unwrap_or(1), |from| from.file);
        let mut expected = start;
        for &number in self.numbers.iter().filter(|number| **number >= start) {
            if expected < number {
                replayed.damages.push(self.damage(expected, 0, 0, &log::missing(number - expected)));
            }
            expected = number + 1;
            let offset = from.filter(|from| from.file == number).map_or(FILE_HEADER as u64, |from| from.offset);
            self.replay_file(number, offset, &mut replayed, sink)?;
        }
        if expected == start && from.is_some() {
            replayed.damages.push(self.damage(start, 0, 0, &log::missing(1)));
        }
        self.look_for_lost_end(&mut replayed);
        Ok(replayed)
    }

    /// Frames that were synced, and are not there: whoever cut them off may have left no other trace.
    fn look_for_lost_end(&self, replayed: &mut Replayed) {
        let Some(synced) = self.synced else { return };
        let next = replayed.sequence.map(|next| next.max(replayed.unused));
        replayed.unused = replayed.unused.max(synced.sequence.saturating_add(1));
        let last = self.numbers.last().copied().unwrap_or(synced.file);
        if synced.sequence == 0 || !synced.covers(next, last, replayed.end) {
            return;
        }
        // Without any file all of them are.
        let next = next.or(self.numbers.is_empty().then_some(1));
        let lost = next.map_or("its".to_owned(), |next| (synced.sequence + 1 - next).to_string());
        let (len, to) = if last == synced.file {
            (synced.end.saturating_sub(replayed.end), format!("offset {}", synced.end))
        } else {
            (0, format!("{} at {}", self.places.name(&self.table.path(synced.file)), synced.end))
        };
        let what = format!("the log ends here and was synced up to {to}: {lost} last frames are lost");
        replayed.damages.push(self.damage(last, replayed.end, len, &what));
    }

    fn replay_file(
        &self,
        number: u64,
        from: u64,
        replayed: &mut Replayed,
        sink: &mut dyn FnMut(Found<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (bytes, unreadable) = self.read(number, from)?;
        let len = bytes.len() as u64;
        let is_last = self.numbers.last() == Some(&number);
        let header = decode_file_header(&bytes);
        if let Some((found, ..)) = header.filter(|(version, ..)| *version != VERSION) {
            let place = self.table.path(number).display().to_string();
            return Err(StoreError::Version { place, found, expected: VERSION });
        }
        let header_is_good = header.is_some_and(|(_, found, _)| found == number);
        for (at, count, error) in &unreadable {
            replayed.damages.push(self.damage(number, *at, *count, &format!("can't be read: {error}")));
        }
        replayed.last_is_unreadable = is_last && !unreadable.is_empty();
        if len < from && from > FILE_HEADER as u64 {
            let what = "the file ends before the place of the last checkpoint";
            replayed.damages.push(self.damage(number, len, from - len, what));
        }
        let pieces: Vec<Piece> = Walk::new(&bytes, self.key, from as usize).collect();
        let expected = replayed.sequence.unwrap_or(0);
        let is_synced = |sequence: u64, at: usize| {
            let sequence = Some(sequence).filter(|sequence| *sequence > 0);
            self.synced.is_some_and(|synced| synced.covers(sequence, number, at as u64))
        };
        let torn = (is_last && unreadable.is_empty()).then(|| torn_tail(&pieces, expected, &is_synced)).flatten();
        replayed.end = torn.map_or(len, |at| at as u64);
        // Of what the next reader will find, too: it must come to the same.
        let kept = pieces.iter().position(|piece| Some(piece.at()) == torn).unwrap_or(pieces.len());
        let out_of_place = misplaced(&pieces[..kept], expected);
        if !header_is_good {
            // A crash while the file was being created leaves no frame behind.
            if is_last
                && unreadable.is_empty()
                && pieces.iter().all(|piece| matches!(piece, Piece::Damaged { .. }))
                && from <= FILE_HEADER as u64
                && self.synced.is_none_or(|synced| synced.file < number)
            {
                replayed.end = 0;
                replayed.torn_tail = Some(self.damage(number, 0, len, "the file was being created"));
                return Ok(());
            }
            replayed.damages.push(self.damage(number, 0, FILE_HEADER as u64, "the file header is damaged"));
        }
        let mut after_damage = false;
        for piece in pieces {
            match piece {
                Piece::Damaged { at, .. } | Piece::Frame { at, .. } if Some(at) == torn => {
                    let what = "a commit that was being written; it was not confirmed";
                    replayed.torn_tail = Some(self.damage(number, at as u64, len - at as u64, what));
                    break;
                }
                Piece::Damaged { at, len } => {
                    replayed.damages.push(self.damage(number, at as u64, len as u64, "no intact frame"));
                    after_damage = true;
                }
                Piece::Frame { at, frame } if out_of_place.contains(&at) => {
                    let before = replayed.sequence.is_some_and(|expected| frame.sequence < expected);
                    let what = if before { THERE_BEFORE } else { "a frame that belongs further on" };
                    let len = (frame.payload.end - at) as u64;
                    replayed.damages.push(self.damage(number, at as u64, len, what));
                    replayed.unused = replayed.unused.max(frame.sequence + 1);
                }
                Piece::Frame { at, frame } => {
                    if self.follows(number, at, &frame, after_damage, replayed) {
                        let (payload_at, payload) = (frame.payload.start as u64, &bytes[frame.payload]);
                        if replayed.last_group.is_none_or(|(group, ..)| group != frame.group) {
                            replayed.last_group = Some((frame.group, number, at as u64));
                        }
                        sink(Found { file: number, at: at as u64, payload_at, payload })?;
                        replayed.frames += 1;
                    }
                    after_damage = false;
                }
            }
        }
        Ok(())
    }

    /// Whether a frame is one to apply; notes what its sequence and its records say about damage.
    fn follows(&self, file: u64, at: usize, frame: &Frame, after_damage: bool, replayed: &mut Replayed) -> bool {
        let expected = replayed.sequence.unwrap_or(frame.sequence);
        let len = (frame.payload.end - at) as u64;
        if frame.sequence < expected {
            replayed.damages.push(self.damage(file, at as u64, len, THERE_BEFORE));
            return false;
        }
        if frame.sequence > expected && !after_damage {
            let what = format!("{} frames are missing before this place", frame.sequence - expected);
            replayed.damages.push(self.damage(file, at as u64, 0, &what));
        }
        replayed.sequence = Some(frame.sequence + 1);
        true
    }

    fn read(&self, number: u64, from: u64) -> Result<(Vec<u8>, Unreadable), StoreError> {
        let read = self.table.get(number).and_then(|file| read_what_can_be_read(&*file, from as usize));
        read.map_err(|error| io_error("reading", &self.table.path(number), error))
    }

    fn damage(&self, file: u64, offset: u64, len: u64, what: &str) -> Damage {
        Damage { file: self.places.name(&self.table.path(file)), offset, len, what: what.to_owned() }
    }

    /// Cuts the torn tail off and says where the log goes on: never at a place that the marker knows to have been used.
    /// The cut is durable after [`Source::write_tail_again`]: before that nothing may be written behind it.
    pub(super) fn mend(&self, replayed: &Replayed, marker: Option<&Marker>) -> Result<Position, StoreError> {
        let at_least = marker.map(|marker| marker.writing_to.unwrap_or(marker.replay_from));
        let sequence = replayed.sequence.unwrap_or(1).max(replayed.unused).max(at_least.map_or(1, |at| at.sequence));
        let newest = marker.map_or(0, |marker| marker.newest);
        let last = self.numbers.last().copied().unwrap_or(0);
        let cut_short = at_least.is_some_and(|at| last == at.file && replayed.end < at.offset);
        // What could not be read may hold frames, and may be readable again one day: their numbers are not used twice.
        let unread = if replayed.last_is_unreadable { replayed.end / FRAME_HEADER as u64 + 1 } else { 0 };
        let sequence = sequence + unread;
        let has_no_header = replayed.end < FILE_HEADER as u64 && replayed.torn_tail.is_none();
        if last == 0 || last < newest || cut_short || has_no_header || replayed.last_is_unreadable {
            return Ok(Position { file: last.max(newest) + 1, offset: 0, sequence });
        }
        let (mut end, mut sequence) = (replayed.end, sequence);
        let name = self.places.name(&self.table.path(last));
        if replayed.torn_tail.is_some() {
            let mut cut = || {
                let file = self.table.get(last)?;
                file.truncate(end)?;
                if end < FILE_HEADER as u64 {
                    file.truncate(0)?;
                    file.write_at(&encode_file_header(last, self.salt), 0)?;
                    end = FILE_HEADER as u64;
                }
                if replayed.damages.iter().any(|damage| damage.file == name) {
                    // What was cut off had shown that the damage before it is not part of the last write. So that the next
                    // reader knows it too, a frame without records stands there, of a later write.
                    let mut frame = Vec::new();
                    self.key.encode(&mut frame, sequence, sequence, std::iter::empty());
                    file.write_at(&frame, end)?;
                    (end, sequence) = (end + frame.len() as u64, sequence + 1);
                }
                Ok(())
            };
            cut().map_err(|error| io_error("mending", &self.table.path(last), error))?;
        }
        Ok(Position { file: last, offset: end, sequence })
    }
}

impl Source<'_> {
    /// Writes the last group of frames once more, and syncs the file and the cut that was made in it. The group was read, which proves nothing: a process that was
    /// killed before its sync leaves it in the system's cache, and after a failed sync the system takes pages for written
    /// that never were. All groups before the last were synced, or nothing would have been written behind them.
    pub(super) fn write_tail_again(&self, replayed: &Replayed) -> Result<(), StoreError> {
        let Some(&last) = self.numbers.last().filter(|_| !replayed.last_is_unreadable) else { return Ok(()) };
        let start = replayed.last_group.filter(|(_, file, _)| *file == last).map(|(.., at)| at);
        let write = || {
            let file = self.table.get(last)?;
            let mut header = [0; FILE_HEADER];
            file.read_at(&mut header, 0)?;
            file.write_at(&header, 0)?;
            if let Some(start) = start {
                let mut bytes = vec![0; replayed.end.saturating_sub(start) as usize];
                file.read_at(&mut bytes, start)?;
                file.write_at(&bytes, start)?;
            }
            file.sync()
        };
        match write() {
            // Cut off within its header: the log goes on in another file.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            result => result.map_err(|error| io_error("writing again the end of", &self.table.path(last), error))?,
        }
        self.table.sync_dir()
    }
}

/// Applies a payload to the overlay and to the count of live bytes per file. `false`: it does not parse, and nothing of
/// it was applied.
pub(super) fn apply(
    overlay: &mut Overlay,
    live: &mut BTreeMap<u64, u64>,
    file: u64,
    payload_at: u64,
    payload: &[u8],
) -> bool {
    if records(payload).any(|record| record.is_err()) {
        return false;
    }
    for (record, value_at) in records(payload).flatten() {
        let row = Row::from_record(&record, file, payload_at + value_at as u64);
        if let Some(row) = &row {
            *live.entry(file).or_default() += row.weight(record.key);
        }
        if let Some(Some(old)) = overlay.insert(Bytes::copy_from_slice(record.key), row) {
            forget(live, old.file(), old.weight(record.key));
        }
    }
    true
}

/// Takes bytes that are dead now out of the count.
pub(super) fn forget(live: &mut BTreeMap<u64, u64>, file: u64, weight: u64) {
    if let Some(bytes) = live.get_mut(&file) {
        *bytes = bytes.saturating_sub(weight);
        if *bytes == 0 {
            live.remove(&file);
        }
    }
}
