//! The writing end of the commit log: appends groups of frames, syncs them, rolls files, and knows when to stop.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    file::{Files, LogFile, io_error},
    frame::{FILE_HEADER, FRAME_HEADER, FrameKey, Record, Salt, encode_file_header},
    synced::{Synced, SyncedFile},
};
use crate::StoreError;

/// Log files that are kept open for reading.
const OPEN_FILES: usize = 64;
/// A commit buffer larger than this is not kept for the next commit.
const KEPT_BUFFER: usize = 4 << 20;

/// Log files by number, opened when needed.
pub(super) struct FileTable {
    dir: PathBuf,
    files: Arc<dyn Files>,
    open: Mutex<BTreeMap<u64, Arc<dyn LogFile>>>,
}

impl FileTable {
    pub(super) fn new(dir: PathBuf, files: Arc<dyn Files>) -> Self {
        Self { dir, files, open: Mutex::default() }
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        path(&self.dir, number)
    }

    /// The file with this number; [`io::ErrorKind::NotFound`] when it is gone.
    pub(super) fn get(&self, number: u64) -> io::Result<Arc<dyn LogFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&number) {
            return Ok(file.clone());
        }
        let file = self.files.open(&self.path(number))?;
        if open.len() >= OPEN_FILES {
            open.pop_first();
        }
        open.insert(number, file.clone());
        Ok(file)
    }

    /// Makes the creation and the removal of log files durable.
    pub(super) fn sync_dir(&self) -> Result<(), StoreError> {
        self.files.sync_dir(&self.dir).map_err(|error| io_error("syncing the directory", &self.dir, error))
    }

    /// Bytes that can still be written where the log is.
    pub(super) fn room(&self) -> io::Result<u64> {
        self.files.room(&self.dir)
    }

    pub(super) fn files(&self) -> &dyn Files {
        &*self.files
    }

    /// How many files are open.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn forget(&self, number: u64) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }
}

/// The name of a log file.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.log"))
}

/// The numbers of the log files in a directory, ascending.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, StoreError> {
    Ok(list_all(dir)?.into_iter().filter_map(|(number, is_file)| is_file.then_some(number)).collect())
}

/// What has the name of a log file and is no regular file.
pub(super) fn special(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    Ok(list_all(dir)?.into_iter().filter(|(_, is_file)| !is_file).map(|(number, _)| path(dir, number)).collect())
}

/// All names of log files in a directory, ascending, and whether there is a regular file under them.
fn list_all(dir: &Path) -> Result<Vec<(u64, bool)>, StoreError> {
    let fail = |error| io_error("listing", dir, error);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".log"));
        // Nothing but ten digits: another spelling of a number is no file of ours.
        let is_ours = |digits: &&str| digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.filter(is_ours).and_then(|digits| digits.parse::<u64>().ok());
        // What is gone again is no special file.
        numbers.extend(number.map(|number| (number, fs::metadata(entry.path()).map_or(true, |found| found.is_file()))));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The gaps among these numbers, ascending, within a range: the first number that is missing, and how many are.
pub(super) fn gaps(numbers: &[u64], within: Range<u64>) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    let mut expected = within.start;
    let there = numbers.iter().copied().filter(|number| within.contains(number));
    for number in there.chain([within.end]) {
        if expected < number {
            gaps.push((expected, number - expected));
        }
        expected = number.saturating_add(1);
    }
    gaps
}

/// What a gap is called. One word for all of it: a stray name may be far away.
pub(super) fn missing(count: u64) -> String {
    if count == 1 { "the file is missing".to_owned() } else { format!("{count} files are missing from here on") }
}

/// Bytes below which a file is not closed for want of room.
const SHORT_FILE: u64 = 1 << 20;
/// No file is longer than one part in so many of the room that is left.
const PART_OF_ROOM: u64 = 8;

/// The log as its one writer has it.
pub(super) struct Log {
    pub(super) table: Arc<FileTable>,
    salt: Salt,
    pub(super) key: FrameKey,
    roll_at: u64,
    head: u64,
    end: u64,
    next_sequence: u64,
    /// Bytes of every file of the log, the head included.
    pub(super) sizes: BTreeMap<u64, u64>,
    /// Bytes written since open.
    pub(super) written: u64,
    /// Told after each sync; `None` until it is known how far the log goes.
    pub(super) synced: Option<SyncedFile>,
    poisoned: Option<String>,
    buffer: Vec<u8>,
}

/// Where the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) file: u64,
    pub(super) offset: u64,
    /// The sequence of the frame that will be there.
    pub(super) sequence: u64,
}

/// Frames just made durable.
pub(super) struct Appended {
    pub(super) file: u64,
    /// Payloads: where in the file, and where in [`Log::buffer`].
    pub(super) payloads: Vec<(u64, Range<usize>)>,
}

impl Log {
    /// A log whose existing files are `sizes` and that goes on at `at`. When `at.file` is not among them it is created.
    pub(super) fn new(
        table: Arc<FileTable>,
        salt: Salt,
        roll_at: u64,
        sizes: BTreeMap<u64, u64>,
        at: Position,
    ) -> Result<Self, StoreError> {
        let mut log = Self {
            table,
            salt,
            key: FrameKey::new(&salt),
            roll_at,
            head: at.file,
            end: at.offset,
            next_sequence: at.sequence,
            sizes,
            written: 0,
            synced: None,
            poisoned: None,
            buffer: Vec::new(),
        };
        if !log.sizes.contains_key(&at.file) {
            log.create(at.file)?;
        }
        Ok(log)
    }

    pub(super) fn position(&self) -> Position {
        Position { file: self.head, offset: self.end, sequence: self.next_sequence }
    }

    /// Bytes of log from a place on.
    pub(super) fn bytes_from(&self, at: Position) -> u64 {
        let files = self.sizes.range(at.file..);
        files.map(|(number, len)| if *number == at.file { len.saturating_sub(at.offset) } else { *len }).sum()
    }

    pub(super) fn salt(&self) -> &Salt {
        &self.salt
    }

    /// The bytes of the last append.
    pub(super) fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// Writes one frame per batch, all with one write and one sync. The batches must have passed [`super::frame::check`].
    pub(super) fn append<'a, B>(&mut self, batches: impl Iterator<Item = B>) -> Result<Appended, StoreError>
    where
        B: Iterator<Item = Record<'a>>,
    {
        self.check_usable()?;
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BUFFER);
        let mut payloads = Vec::new();
        for (sequence, batch) in (self.next_sequence..).zip(batches) {
            let start = self.buffer.len() + FRAME_HEADER;
            self.key.encode(&mut self.buffer, sequence, self.next_sequence, batch);
            payloads.push((self.end + start as u64, start..self.buffer.len()));
        }
        self.write_buffer()?;
        self.next_sequence += payloads.len() as u64;
        self.end += self.buffer.len() as u64;
        self.written += self.buffer.len() as u64;
        self.sizes.insert(self.head, self.end);
        self.note_synced();
        Ok(Appended { file: self.head, payloads })
    }

    /// Starts the next file when the head is long enough: on a disk with little room sooner, for space comes back by files.
    pub(super) fn roll(&mut self) -> Result<(), StoreError> {
        self.check_usable()?;
        let is_long = |room: u64| self.end >= room / PART_OF_ROOM;
        if self.end >= self.roll_at || self.end >= SHORT_FILE && self.table.room().is_ok_and(is_long) {
            self.create(self.head + 1)?;
        }
        Ok(())
    }

    /// Starts the next file, however short the head is.
    pub(super) fn start_next(&mut self) -> Result<(), StoreError> {
        self.check_usable()?;
        self.create(self.head + 1)
    }

    fn note_synced(&self) {
        if let Some(file) = &self.synced {
            file.note(Synced::before(self.position()));
        }
    }

    fn check_usable(&self) -> Result<(), StoreError> {
        let Some(reason) = &self.poisoned else { return Ok(()) };
        let context = format!("{reason}; what was confirmed is safe, restart the node to go on");
        Err(StoreError::Io { context, source: io::Error::other("the log refuses further commits") })
    }

    fn write_buffer(&mut self) -> Result<(), StoreError> {
        let path = self.table.path(self.head);
        let file = match self.table.get(self.head).map_err(|error| io_error("opening", &path, error)) {
            Ok(file) => file,
            Err(error @ StoreError::Descriptors { .. }) => return Err(error),
            Err(error) => return Err(self.poison(error)),
        };
        if let Err(error) = file.write_at(&self.buffer, self.end) {
            let error = io_error("writing", &path, error);
            // Half a frame must not stay in front of later ones.
            return match (file.truncate(self.end), &error) {
                (Ok(()), StoreError::Full { .. }) => Err(error),
                _ => Err(self.poison(error)),
            };
        }
        // After a failed sync the system may have dropped the pages and call the next sync a success: never go on.
        file.sync().map_err(|error| {
            let context = format!("syncing {}", path.display());
            self.poison(StoreError::Io { context, source: error })
        })
    }

    fn poison(&mut self, error: StoreError) -> StoreError {
        self.poisoned = Some(format!("an earlier write failed ({error})"));
        error
    }

    /// A new file could not be had. For want of room or descriptors that is no reason to trust nothing any more, as long as
    /// none of it stays.
    fn uncreated(&mut self, number: u64, error: StoreError) -> StoreError {
        self.table.forget(number);
        let gone = match fs::remove_file(self.table.path(number)) {
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(()) => true,
        };
        match error {
            StoreError::Full { .. } | StoreError::Descriptors { .. } if gone => error,
            error => self.poison(error),
        }
    }

    fn create(&mut self, number: u64) -> Result<(), StoreError> {
        let path = self.table.path(number);
        let write = || {
            let file = self.table.files.create(&path)?;
            file.write_at(&encode_file_header(number, &self.salt), 0)?;
            file.sync()
        };
        if let Err(error) = write() {
            let error = io_error("creating", &path, error);
            return Err(self.uncreated(number, error));
        }
        if let Err(error) = self.table.sync_dir() {
            return Err(self.uncreated(number, error));
        }
        (self.head, self.end) = (number, FILE_HEADER as u64);
        self.written += self.end;
        self.sizes.insert(number, self.end);
        self.note_synced();
        Ok(())
    }

    /// Removes the oldest file. Durable when this returns, so files go strictly from the front.
    pub(super) fn remove_front(&mut self, number: u64) -> Result<(), StoreError> {
        let path = self.table.path(number);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("removing", &path, error)),
            _ => {}
        }
        self.table.forget(number);
        self.sizes.remove(&number);
        self.table.sync_dir()
    }
}
