//! A round through the whole store while it is in use: every frame of the log up to what is durable, every row, every
//! value, and what rows say of each other. It changes nothing, holds no lock while it reads files, and pauses as often
//! as its caller likes.
//!
//! Of index and log it checks that each row with a large value points to a record of its own key. That a row is the newest
//! its key has, and that none is lacking, it does not check: the state of all keys as the log has it would have to be held,
//! as of a moment at which rows move on. The sum over all rows vouches for that, at each opening; [`super::offline`] does
//! compare them one by one.

use std::{io, ops::ControlFlow, path::Path, sync::Arc};

use super::{
    BackupError, Damage,
    backup::copy_log,
    file::{LogFile, io_error, is_unreadable, read_what_can_be_read},
    format::Places,
    frame::{FILE_HEADER, FRAME_HEADER, FrameKey, Salt, decode_file_header},
    log::{self, FileTable, Log},
    reader::{RowVisitor, Shared},
    row::Row,
    rules::{Rows, check_rows},
    walk::{Piece, Walk},
};
use crate::{
    RangeSet, StoreError,
    store::check::{Check, Checked, Copied, Finding, Pace, Part},
};

/// See the module docs.
pub(super) struct Checker {
    pub(super) places: Places,
    pub(super) shared: Arc<Shared>,
    pub(super) key: FrameKey,
    pub(super) salt: Salt,
}

impl Checker {
    pub(super) fn new(places: &Places, shared: Arc<Shared>, log: &Log) -> Self {
        Self { places: places.clone(), shared, key: log.key.clone(), salt: *log.salt() }
    }
}

impl Check for Checker {
    fn check(&mut self, pace: &mut Pace<'_>, found: &mut dyn FnMut(Finding)) -> Result<Checked, StoreError> {
        let mut checked = Checked::default();
        let end = self.shared.durable();
        let mut log = LogCheck { places: &self.places, table: self.shared.table(), key: &self.key, sequence: None };
        if log.files(Some((end.file, end.offset)), &mut checked, pace, found)?.is_break() {
            checked.cut_short = true;
            return Ok(checked);
        }
        checked.cut_short = check_rows(&*self.shared_rows(), &mut checked, pace, found)?.is_break();
        Ok(checked)
    }

    fn copy(&mut self, to: &Path, pace: &mut Pace<'_>) -> Result<Copied, BackupError> {
        copy_log(self, to, pace)
    }
}

impl Checker {
    fn shared_rows(&self) -> Box<dyn Rows + '_> {
        Box::new(InUse { places: &self.places, shared: &self.shared })
    }
}

struct InUse<'a> {
    places: &'a Places,
    shared: &'a Shared,
}

impl Rows for InUse<'_> {
    fn visit(&self, from: &[u8], to: &[u8], visit: &mut RowVisitor<'_>) -> Result<(), StoreError> {
        self.shared.rows(from, to, visit)
    }

    fn row(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        self.shared.row(key)
    }

    fn value(&self, row: &Row) -> Result<Option<bytes::Bytes>, StoreError> {
        self.shared.value(row)
    }

    fn file_name(&self, number: u64) -> String {
        self.places.name(&self.shared.table().path(number))
    }

    fn table(&self) -> &FileTable {
        self.shared.table()
    }
}

/// Reads the files of the log one after the other.
pub(super) struct LogCheck<'a> {
    pub(super) places: &'a Places,
    pub(super) table: &'a FileTable,
    pub(super) key: &'a FrameKey,
    /// What the next frame should have.
    pub(super) sequence: Option<u64>,
}

impl LogCheck<'_> {
    pub(super) fn finding(&self, number: u64, offset: u64, len: u64, what: &str) -> Finding {
        let file = self.places.name(&self.table.path(number));
        let damage = Damage { file, offset, len, what: what.to_owned() };
        Finding { part: Part::Log, damage, segment: None, slots: RangeSet::new(), row: None }
    }

    /// Checks all files, up to a place in one of them.
    pub(super) fn files(
        &mut self,
        end: Option<(u64, u64)>,
        checked: &mut Checked,
        pace: &mut Pace<'_>,
        found: &mut dyn FnMut(Finding),
    ) -> Result<ControlFlow<()>, StoreError> {
        let (last, offset) = end.unwrap_or((u64::MAX, 0));
        let mut expected = None;
        for number in log::list(&self.places.log)?.into_iter().filter(|number| *number <= last) {
            if let Some(expected) = expected.filter(|expected| *expected < number) {
                found(self.finding(expected, 0, 0, &log::missing(number - expected)));
            }
            if expected.is_none() && number == 1 {
                self.sequence = Some(1);
            }
            expected = Some(number + 1);
            let until = (number == last).then_some(offset);
            if self.file(number, until, checked, pace, found)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Checks one file up to `until`, or all of it. A file that is gone meanwhile was not needed any more.
    fn file(
        &mut self,
        number: u64,
        until: Option<u64>,
        checked: &mut Checked,
        pace: &mut Pace<'_>,
        found: &mut dyn FnMut(Finding),
    ) -> Result<ControlFlow<()>, StoreError> {
        let fail = |error| io_error("checking", &self.table.path(number), error);
        let file = match self.table.get(number) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.sequence = None;
                return Ok(ControlFlow::Continue(()));
            }
            file => file.map_err(fail)?,
        };
        let end = until.unwrap_or(file.len().map_err(fail)?);
        // The system's cache would show what was once read, not what lies on the disk by now.
        file.forget_cached();
        let mut header = vec![0; FILE_HEADER];
        match file.read_at(&mut header, 0) {
            Ok(()) if decode_file_header(&header).is_some_and(|(_, found, _)| found == number) => {}
            Err(error) if !is_damage(&error) => return Err(fail(error)),
            _ => found(self.finding(number, 0, FILE_HEADER as u64, "the file header is damaged")),
        }
        let mut at = FILE_HEADER as u64;
        while at < end {
            match self.frame_at(&*file, at, end).map_err(fail)? {
                Some((sequence, next)) => {
                    self.note(number, at, sequence, false, found);
                    checked.frames += 1;
                    checked.log_bytes += next - at;
                    if pace(next - at).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    at = next;
                }
                None => {
                    checked.log_bytes += end - at;
                    self.rest(&*file, number, (at, end), checked, found).map_err(fail)?;
                    return Ok(pace(end - at));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The frame at `at`: its sequence, and where the next one begins. `None`: there is no intact one.
    fn frame_at(&self, file: &dyn LogFile, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        let mut bytes = vec![0; FRAME_HEADER];
        if end - at < FRAME_HEADER as u64 {
            return Ok(None);
        }
        match file.read_at(&mut bytes, at) {
            Err(error) if is_damage(&error) => return Ok(None),
            result => result?,
        }
        let Some(len) = self.key.announced(&bytes).filter(|len| at + *len <= end) else { return Ok(None) };
        bytes.resize(len as usize, 0);
        match file.read_at(&mut bytes[FRAME_HEADER..], at + FRAME_HEADER as u64) {
            Err(error) if is_damage(&error) => return Ok(None),
            result => result?,
        }
        Ok(self.key.decode(&bytes, 0).map(|frame| (frame.sequence, at + len)))
    }

    /// After damage: all that is left of the file at once, for the next frame may be anywhere.
    fn rest(
        &mut self,
        file: &dyn LogFile,
        number: u64,
        (from, end): (u64, u64),
        checked: &mut Checked,
        found: &mut dyn FnMut(Finding),
    ) -> io::Result<()> {
        let (mut bytes, unreadable) = read_what_can_be_read(file, from as usize)?;
        bytes.truncate(end as usize);
        for (at, len, error) in unreadable {
            found(self.finding(number, at, len, &format!("can't be read: {error}")));
        }
        if (bytes.len() as u64) < end {
            let len = end - bytes.len() as u64;
            found(self.finding(number, bytes.len() as u64, len, "the file ends before what was committed"));
        }
        let mut after_damage = false;
        for piece in Walk::new(&bytes, self.key, from as usize) {
            match piece {
                Piece::Damaged { at, len } => {
                    found(self.finding(number, at as u64, len as u64, "no intact frame"));
                    after_damage = true;
                }
                Piece::Frame { at, frame } => {
                    self.note(number, at as u64, frame.sequence, after_damage, found);
                    checked.frames += 1;
                    after_damage = false;
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, number: u64, at: u64, sequence: u64, after_damage: bool, found: &mut dyn FnMut(Finding)) {
        match self.sequence {
            Some(expected) if sequence < expected => {
                found(self.finding(number, at, 0, "a frame that was there before"));
                return;
            }
            Some(expected) if sequence > expected && !after_damage => {
                let what = format!("{} frames are missing before this place", sequence - expected);
                found(self.finding(number, at, 0, &what));
            }
            _ => {}
        }
        self.sequence = Some(sequence + 1);
    }
}

fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || is_unreadable(error)
}
