//! Checking a store that nobody uses, without changing anything in it: the log is replayed, and the store's index is looked
//! at in a copy, for sled writes to what it opens.
//!
//! Memory hardly grows with the store, for rows lie in a scratch directory: those that the log makes, those of the index,
//! and the copy. It needs about four times as much room as the index has uncompressed. Held in memory are one log file at a
//! time, [`ROWS_IN_MEMORY`] rows of the log, what changed since the last checkpoint (which the node holds, too), one key of
//! each 128, the names of all segments and, of one segment at a time, which slots its blocks have.

use std::{collections::BTreeMap, fs, io, ops::ControlFlow, path::Path, sync::Arc};

use bytes::Bytes;

use super::{
    Damage, DiskOptions,
    file::{ReadOnlyFiles, io_error},
    format::{Found, Places, lock_as_it_is, read_format},
    frame::{FrameKey, Salt},
    index::{Unusable, check_kinds},
    log::{self, FileTable},
    marker::Marker,
    open::load,
    reader::{RowVisitor, value_in},
    replay::{Source, apply},
    row::Row,
    rules::{Rows, check_rows},
    synced::{self, Synced, Unknown},
    table::Table,
};
use crate::{
    RangeSet, StoreError,
    store::check::{Checked, Finding, Part},
};

/// Rows of the log that are held in memory before they go to the scratch directory.
const ROWS_IN_MEMORY: usize = 65_536;

/// The store could not be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// There is none.
    #[error("{place} holds no store")]
    NoStore {
        /// The directory.
        place: String,
    },
    /// It is in use, of another version, foreign, or can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks the store in `dir` in full. Nothing in it is changed; `scratch` is an empty directory that takes a copy of the
/// index and all rows. Remarks on what is no damage come second.
///
/// # Errors
/// See [`VerifyError`]; damage is no error, `found` is told of it.
pub fn verify_closed(
    dir: &Path,
    scratch: &Path,
    found: &mut dyn FnMut(Finding),
) -> Result<(Checked, Vec<String>), VerifyError> {
    verify_with(dir, scratch, ROWS_IN_MEMORY, found)
}

pub(super) fn verify_with(
    dir: &Path,
    scratch: &Path,
    rows_in_memory: usize,
    found: &mut dyn FnMut(Finding),
) -> Result<(Checked, Vec<String>), VerifyError> {
    let places = Places::new(dir);
    if !dir.is_dir() {
        return Err(VerifyError::NoStore { place: dir.display().to_string() });
    }
    let _lock = lock_as_it_is(&places)?;
    let mut notes = Vec::new();
    let salt = match read_format(&places)? {
        Found::Nothing => return Err(VerifyError::NoStore { place: dir.display().to_string() }),
        Found::Salt(salt) => salt,
        Found::Damaged(salt, what) => {
            found(index_finding(places.name(&places.format), what.to_owned()));
            salt
        }
    };
    let marker = match Marker::read(&places.marker)? {
        Ok(marker) => Some(marker),
        Err(why) if places.index.exists() => {
            found(index_finding("marker".to_owned(), format!("{why}; the next start rebuilds the index from the log")));
            None
        }
        Err(_) => {
            notes.push("there is no index yet: the next start makes it from the log".to_owned());
            None
        }
    };
    let synced = Synced::read(&places.synced)?;
    match synced {
        Ok(_) => {}
        Err(why @ Unknown::Missing) => {
            notes.push(format!("{} is {why}, as in older stores: {}", places.name(&places.synced), synced::MEANS));
        }
        Err(why) => found(index_finding(places.name(&places.synced), format!("{why}; {}", synced::MEANS))),
    }
    for path in log::special(&places.log)? {
        let what = "it is no regular file; the next start moves it away".to_owned();
        let damage = Damage { file: places.name(&path), offset: 0, len: 0, what };
        found(Finding { part: Part::Log, damage, segment: None, slots: RangeSet::new(), row: None });
    }
    let closed = Closed::new(&places, salt, marker, synced.ok())?;
    let (log, mut checked, damaged) = closed.check_log(scratch, rows_in_memory, &mut notes, found)?;
    let rows = match marker {
        Some(marker) => closed.check_index(&marker, &log, damaged, scratch, found)?,
        None => None,
    };
    let view = View { closed: &closed, rows: rows.as_ref().unwrap_or(&log) };
    let _ = check_rows(&view, &mut checked, &mut |_| ControlFlow::Continue(()), found)?;
    Ok((checked, notes))
}

fn index_finding(file: String, what: String) -> Finding {
    let damage = Damage { file, offset: 0, len: 0, what };
    Finding { part: Part::Index, damage, segment: None, slots: RangeSet::new(), row: None }
}

struct Closed<'a> {
    places: &'a Places,
    table: Arc<FileTable>,
    key: FrameKey,
    salt: Salt,
    numbers: Vec<u64>,
    marker: Option<Marker>,
    synced: Option<Synced>,
}

impl<'a> Closed<'a> {
    fn new(places: &'a Places, salt: Salt, marker: Option<Marker>, synced: Option<Synced>) -> Result<Self, StoreError> {
        let mut numbers = log::list(&places.log)?;
        // Those before are leftovers of the last checkpoint: the next start removes them.
        numbers.retain(|number| marker.is_none_or(|marker| *number >= marker.first));
        let table = Arc::new(FileTable::new(places.log.clone(), Arc::new(ReadOnlyFiles)));
        Ok(Self { places, table, key: FrameKey::new(&salt), salt, numbers, marker, synced })
    }

    fn source<'b>(&'b self, places: &'b Places) -> Source<'b> {
        let (table, key, salt, numbers) = (&self.table, &self.key, &self.salt, &self.numbers);
        Source { places, table, key, salt, numbers, synced: self.synced }
    }

    /// All rows as the log alone has them, and whether anything of it is damaged.
    fn check_log(
        &self,
        scratch: &Path,
        rows_in_memory: usize,
        notes: &mut Vec<String>,
        found: &mut dyn FnMut(Finding),
    ) -> Result<(Table, Checked, bool), StoreError> {
        let source = self.source(self.places);
        let (mut rows, mut bad) = (Table::new(scratch, "of-the-log"), Vec::new());
        let replayed = source.replay(None, &mut |frame| {
            if !apply(&mut rows.newest, &mut BTreeMap::new(), frame.file, frame.payload_at, frame.payload) {
                bad.push(source.unreadable(&frame));
            }
            if rows.newest.len() >= rows_in_memory { rows.spill() } else { Ok(()) }
        })?;
        let mut damages = [replayed.damages, bad].concat();
        if let Some(marker) = self.marker {
            let first = self.numbers.first().copied().unwrap_or(marker.newest + 1);
            let last = self.numbers.last().copied().unwrap_or(marker.newest);
            let unseen = [marker.first..first, last + 1..marker.newest.saturating_add(1)];
            for (number, count) in unseen.into_iter().flat_map(|range| log::gaps(&[], range)) {
                let file = self.places.name(&self.table.path(number));
                damages.push(Damage { file, offset: 0, len: 0, what: log::missing(count) });
            }
        }
        if let Some(Damage { file, offset, len, what }) = replayed.torn_tail {
            notes.push(format!("{file} at {offset}, {len} bytes: {what}; the next start cuts it off"));
        }
        let is_damaged = !damages.is_empty();
        for damage in damages {
            found(Finding { part: Part::Log, damage, segment: None, slots: RangeSet::new(), row: None });
        }
        let sizes = self.numbers.iter().filter_map(|number| self.table.get(*number).ok()?.len().ok());
        let checked = Checked { log_bytes: sizes.sum(), frames: replayed.frames, ..Checked::default() };
        Ok((rows, checked, is_damaged))
    }

    /// Compares the index with the log. The rows as the next start will see them; `None` when it will make a new index.
    fn check_index(
        &self,
        marker: &Marker,
        log: &Table,
        log_is_damaged: bool,
        scratch: &Path,
        found: &mut dyn FnMut(Finding),
    ) -> Result<Option<Table>, StoreError> {
        let copy = Places { index: scratch.join("sled"), ..self.places.clone() };
        let name = self.places.name(&self.places.index);
        if let Err(why) = check_kinds(&self.places.index) {
            found(index_finding(name, format!("{why}; the next start rebuilds it from the log")));
            return Ok(None);
        }
        match copy_tree(&self.places.index, &copy.index) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                found(index_finding(name, "missing; the next start makes it from the log".to_owned()));
                return Ok(None);
            }
            result => result.map_err(|error| io_error("copying", &self.places.index, error))?,
        }
        let opened = match load(&self.source(&copy), marker, &DiskOptions::default())? {
            Ok(opened) => opened,
            Err(Unusable::Full) => {
                return Err(StoreError::Full { context: format!("a copy of the index at {}", scratch.display()) });
            }
            Err(Unusable::Broken(why)) => {
                found(index_finding(name, format!("{why}; the next start rebuilds it from the log")));
                return Ok(None);
            }
        };
        let mut rows = Table::of_index(&opened.loaded.index, scratch, "of-the-index")?;
        drop(opened.loaded);
        rows.newest = opened.overlay;
        let wrong = if log_is_damaged { 0 } else { rows.differences(log)? };
        if wrong > 0 {
            found(index_finding(name, format!("{wrong} rows are not what the log says")));
        }
        Ok(Some(rows))
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), target)?;
        } else {
            // It has come just now: reading it might take for ever.
            continue;
        }
    }
    Ok(())
}

/// Rows as they were put together, their values in the log.
struct View<'a> {
    closed: &'a Closed<'a>,
    rows: &'a Table,
}

impl Rows for View<'_> {
    fn visit(&self, from: &[u8], to: &[u8], visit: &mut RowVisitor<'_>) -> Result<(), StoreError> {
        self.rows.visit(from, to, visit)
    }

    fn row(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        self.rows.row(key)
    }

    fn value(&self, row: &Row) -> Result<Option<Bytes>, StoreError> {
        value_in(&self.closed.table, row)
    }

    fn file_name(&self, number: u64) -> String {
        self.closed.places.name(&self.closed.table.path(number))
    }

    fn table(&self) -> &FileTable {
        &self.closed.table
    }
}
