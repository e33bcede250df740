//! Sled, kept at arm's length: it holds the rows as of the last checkpoint and nothing that the log does not also say.
//!
//! Measured: sled may panic or hang on damaged files, its flusher thread aborts the process on an IO error (so there
//! is none here), and its metadata may lose the newest records without a word. So every call catches panics, opening
//! reads every row in a thread that is abandoned when it makes no progress, and the rows must add up to the sum that
//! the last checkpoint noted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::{self, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;

use super::{
    file::{is_full, open_file, sync_tree},
    format::{LOCK_ATTEMPTS, LOCK_PAUSE},
    row::{Row, TableSum},
};
use crate::StoreError;

type Db = sled::Db<64>;

/// Longest frame believed in sled's metadata files (bytes): it allocates what a frame's length says before checking.
const MAX_METADATA_FRAME: u64 = 1 << 30;

/// A handle of the open index. Sled's handles can be sent to another thread and not shared: each side has its own.
#[derive(Clone)]
pub(super) struct Index {
    db: Option<Db>,
    dir: PathBuf,
    patience: Duration,
}

/// Why an index can not be opened.
#[derive(Debug)]
pub(super) enum Unusable {
    /// There is no room to open it; nothing is wrong with it.
    Full,
    /// In words; it has to be rebuilt.
    Broken(String),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        if is_full(&error) { Self::Full } else { Self::Broken(format!("sled: {error}")) }
    }
}

impl From<String> for Unusable {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

/// What a complete read of the index found.
#[derive(Default)]
pub(super) struct Scrubbed {
    /// Live bytes per log file.
    pub(super) live: BTreeMap<u64, u64>,
    sum: TableSum,
}

/// While it opens sled waits until all that any program has written is on disk (it runs `sync`), which says nothing
/// about the index and may take long: so many times the patience.
const OPENING_WAITS: u32 = 5;

impl Index {
    /// Opens or creates the index and reads all of it. Rows of keys in `unsure` may be in any state; the others must add
    /// up to `sum`. Never panics, never waits longer than `patience` without progress, or some times that while sled opens.
    pub(super) fn open(
        dir: &Path,
        cache: usize,
        patience: Duration,
        sum: TableSum,
        unsure: BTreeSet<Bytes>,
    ) -> Result<(Self, Scrubbed), Unusable> {
        let (sender, receiver) = mpsc::channel();
        // 0 until sled is open, then the number of rows that were read, and one.
        let progress = Arc::new(AtomicU64::new(0));
        let (path, counter) = (dir.to_owned(), progress.clone());
        let scrub = move || {
            let open = || {
                check_kinds(&path)?;
                check_metadata(&path)?;
                open_and_scrub(&path, cache, &unsure, &counter)
            };
            // A receiver that has given up is fine: the index is dropped here then.
            let result = catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| Err(panic_text(&*panic).into()));
            let _ = sender.send(result);
        };
        thread::Builder::new().name("index-scrub".to_owned()).spawn(scrub).map_err(|error| error.to_string())?;
        let (db, scrubbed) = wait_for(&receiver, &progress, patience)?;
        let index = Self { db: Some(db), dir: dir.to_owned(), patience };
        if scrubbed.sum != sum {
            return Err("sled opens, but its rows are not those of the last checkpoint".to_owned().into());
        }
        Ok((index, scrubbed))
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        self.guard(|db| db.get(key))?.map(|bytes| self.decode(&bytes)).transpose()
    }

    /// The row as it is stored, with its decoded form.
    pub(super) fn get_raw(&self, key: &[u8]) -> Result<Option<(Vec<u8>, Row)>, StoreError> {
        let bytes = self.guard(|db| db.get(key))?;
        bytes.map(|bytes| Ok((bytes.to_vec(), self.decode(&bytes)?))).transpose()
    }

    /// Sets or removes a row. Not durable before [`Index::make_durable`].
    pub(super) fn set(&self, key: &[u8], row: Option<&[u8]>) -> Result<(), StoreError> {
        self.guard(|db| match row {
            Some(row) => db.insert(key, row).map(drop),
            None => db.remove(key).map(drop),
        })
    }

    /// Up to `limit` rows of `from..to` in order.
    pub(super) fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Row)>, StoreError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let rows = self.guard(|db| db.range(from..to).take(limit).collect::<io::Result<Vec<_>>>())?;
        rows.into_iter().map(|(key, row)| Ok((Bytes::copy_from_slice(&key), self.decode(&row)?))).collect()
    }

    /// All rows in order, with one walk: sled keeps little of that in memory.
    #[allow(clippy::type_complexity)]
    pub(super) fn walk(&self, visit: &mut dyn FnMut(&[u8], Row) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut result = Ok(());
        self.guard(|db| {
            for entry in db.iter() {
                let (key, bytes) = entry?;
                result = self.decode(&bytes).and_then(|row| visit(&key, row));
                if result.is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        result
    }

    /// Flushes sled and syncs every file it has: its own flush does not always.
    pub(super) fn make_durable(&self) -> Result<(), StoreError> {
        self.guard(|db| db.flush().map(drop))?;
        sync_tree(&self.dir)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Row, StoreError> {
        Row::decode(bytes).ok_or_else(|| self.damaged("a row that is none".to_owned()))
    }

    fn damaged(&self, what: String) -> StoreError {
        let detail = format!("{what}; nothing is lost: restart the node, it rebuilds the index from the log");
        StoreError::Damaged { place: self.dir.display().to_string(), detail }
    }

    fn guard<T>(&self, call: impl FnOnce(&Db) -> io::Result<T>) -> Result<T, StoreError> {
        let Some(db) = &self.db else {
            return Err(self.damaged("the index is closed".to_owned()));
        };
        match catch_unwind(AssertUnwindSafe(|| call(db))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if is_full(&error) => {
                Err(StoreError::Full { context: format!("writing the index {}", self.dir.display()) })
            }
            Ok(Err(error)) => Err(self.damaged(format!("sled: {error}"))),
            Err(panic) => Err(self.damaged(panic_text(&*panic))),
        }
    }
}

impl Drop for Index {
    /// Sled flushes when dropped, which may fail, panic or hang like any other call.
    fn drop(&mut self) {
        let (Some(db), (sender, receiver)) = (self.db.take(), mpsc::channel::<()>()) else { return };
        let close = move || {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
            drop(sender);
        };
        if thread::Builder::new().name("index-close".to_owned()).spawn(close).is_ok() {
            let _ = receiver.recv_timeout(self.patience);
        }
    }
}

/// Waits as long as there is progress.
fn wait_for<T>(
    receiver: &mpsc::Receiver<Result<T, Unusable>>,
    progress: &AtomicU64,
    patience: Duration,
) -> Result<T, Unusable> {
    let mut waits = Waits::default();
    loop {
        match receiver.recv_timeout(patience) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => return Err("the scrub died".to_owned().into()),
            Err(RecvTimeoutError::Timeout) => {
                let now = progress.load(Ordering::Relaxed);
                if let Some(most) = waits.in_vain(now) {
                    return Err(no_progress(patience * most, now).into());
                }
            }
        }
    }
}

/// Waits without any progress, one after the other.
#[derive(Default)]
struct Waits {
    seen: u64,
    count: u32,
}

impl Waits {
    /// One more, after which it is there. `Some` when these are too many: how many that is.
    fn in_vain(&mut self, progress: u64) -> Option<u32> {
        self.count = if progress == self.seen { self.count + 1 } else { 0 };
        self.seen = progress;
        let most = if progress == 0 { OPENING_WAITS } else { 1 };
        (self.count >= most).then_some(most)
    }
}

fn open_and_scrub(
    dir: &Path,
    cache: usize,
    unsure: &BTreeSet<Bytes>,
    progress: &AtomicU64,
) -> Result<(Db, Scrubbed), Unusable> {
    let config =
        sled::Config::new().path(dir).cache_capacity_bytes(cache).flush_every_ms(None).zstd_compression_level(1);
    let mut opened = config.open();
    for _ in 1..LOCK_ATTEMPTS {
        if !matches!(&opened, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            break;
        }
        thread::sleep(LOCK_PAUSE);
        opened = config.open();
    }
    let db: Db = opened?;
    progress.fetch_add(1, Ordering::Relaxed);
    let mut scrubbed = Scrubbed::default();
    for entry in db.iter() {
        let (key, bytes) = entry?;
        let row = Row::decode(&bytes).ok_or_else(|| "sled gives a row that is none".to_owned())?;
        *scrubbed.live.entry(row.file()).or_default() += row.weight(&key);
        if !unsure.contains(&key[..]) {
            scrubbed.sum.add(&key, &bytes);
        }
        progress.fetch_add(1, Ordering::Relaxed);
    }
    Ok((db, scrubbed))
}

/// Why sled was given up, in words that tell a wait for the machine's disks from a hang on the index itself.
fn no_progress(waited: Duration, progress: u64) -> String {
    match progress.checked_sub(1) {
        None => format!(
            "sled was not open after {waited:?}: it hangs, or waits for the system to write what other programs have left to \
             be written (it runs `sync`), and then nothing is wrong with the index"
        ),
        Some(rows) => format!("sled hangs: it was open, and no progress for {waited:?} after {rows} rows"),
    }
}

/// Refuses what sled would wait for, for ever if need be, or can't use: a named pipe or a device among its files, something
/// else than a directory in place of its own.
pub(super) fn check_kinds(dir: &Path) -> Result<(), String> {
    let Ok(entries) = fs::read_dir(dir) else {
        let is_other = fs::metadata(dir).is_ok_and(|found| !found.is_dir());
        // Otherwise not there yet, or sled itself will say what is wrong.
        return if is_other { Err(format!("{} is no directory", dir.display())) } else { Ok(()) };
    };
    for entry in entries.flatten() {
        match fs::metadata(entry.path()) {
            Ok(found) if found.is_dir() => check_kinds(&entry.path())?,
            Ok(found) if !found.is_file() => {
                return Err(format!("{} is neither a file nor a directory", entry.path().display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses metadata files whose frame lengths can not be true, before sled asks for that much memory.
fn check_metadata(dir: &Path) -> Result<(), String> {
    let metadata = dir.join("metadata");
    let Ok(entries) = fs::read_dir(&metadata) else {
        return Ok(()); // not there yet, or sled itself will say what is wrong
    };
    for entry in entries.flatten() {
        let mut bytes = Vec::new();
        open_file(&entry.path(), OpenOptions::new().read(true))
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|error| format!("{}: {error}", entry.path().display()))?;
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + 6) {
            let len = header.iter().rev().fold(0, |len, byte| len << 8 | u64::from(*byte));
            if len > MAX_METADATA_FRAME {
                return Err(format!("{} has an impossible frame length", entry.path().display()));
            }
            at += len as usize + 12;
        }
    }
    Ok(())
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("sled panicked: {}", text.unwrap_or("without a word"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    fn why(result: Result<(), Unusable>) -> String {
        match result {
            Err(Unusable::Broken(why)) => why,
            result => panic!("{result:?}"),
        }
    }

    #[test]
    fn a_hang_is_cut_off_and_told_by_where_it_was() {
        let (sender, receiver) = mpsc::channel();
        let told = why(wait_for(&receiver, &AtomicU64::new(0), PATIENCE));
        assert!(told.contains("was not open after 500ms") && told.contains("`sync`"), "{told}");
        let told = why(wait_for(&receiver, &AtomicU64::new(8), PATIENCE));
        assert!(told.contains("no progress for 100ms after 7 rows"), "{told}");
        drop(sender);
        assert!(why(wait_for(&receiver, &AtomicU64::new(0), PATIENCE)).contains("died"));
    }

    #[test]
    fn what_gets_further_is_waited_for_and_opening_for_longer() {
        let mut waits = Waits::default();
        assert!((1..1_000).all(|progress| waits.in_vain(progress).is_none()));
        assert_eq!(waits.in_vain(999), Some(1), "no further");
        let mut waits = Waits::default();
        assert!((1..OPENING_WAITS).all(|_| waits.in_vain(0).is_none()));
        assert_eq!(waits.in_vain(0), Some(OPENING_WAITS));
        let mut waits = Waits::default();
        assert_eq!([0, 0, 1, 2].map(|progress| waits.in_vain(progress)), [None; 4]);
    }
}
