//! Checking a store that nobody uses, without changing anything in it: the log is replayed in memory, and the index is
//! looked at in a copy, for sled writes to what it opens.

use std::{collections::BTreeMap, fs, io, ops::ControlFlow, path::Path, sync::Arc};

use bytes::Bytes;

use super::{
    Damage, DiskOptions,
    file::{ReadOnlyFiles, io_error},
    format::{Found, Places, lock_as_it_is, read_format},
    frame::{AFTER_ALL, FrameKey, Salt},
    index::{Index, Unusable},
    log::{self, FileTable},
    marker::Marker,
    open::load,
    reader::{Overlay, RowVisitor, value_in},
    replay::{Source, apply},
    row::Row,
    rules::{Rows, check_rows},
};
use crate::{
    RangeSet, StoreError,
    store::check::{Checked, Finding, Part},
};

/// Rows read from the index at a time.
const CHUNK: usize = 256;

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
/// index. Remarks on what is no damage come second.
///
/// # Errors
/// See [`VerifyError`]; damage is no error, `found` is told of it.
pub fn verify_closed(
    dir: &Path,
    scratch: &Path,
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
    let closed = Closed::new(&places, salt, marker)?;
    let (log, mut checked, damaged) = closed.check_log(&mut notes, found)?;
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
}

impl<'a> Closed<'a> {
    fn new(places: &'a Places, salt: Salt, marker: Option<Marker>) -> Result<Self, StoreError> {
        let mut numbers = log::list(&places.log)?;
        // Those before are leftovers of the last checkpoint: the next start removes them.
        numbers.retain(|number| marker.is_none_or(|marker| *number >= marker.first));
        let table = Arc::new(FileTable::new(places.log.clone(), Arc::new(ReadOnlyFiles)));
        Ok(Self { places, table, key: FrameKey::new(&salt), salt, numbers, marker })
    }

    fn source<'b>(&'b self, places: &'b Places) -> Source<'b> {
        Source { places, table: &self.table, key: &self.key, salt: &self.salt, numbers: &self.numbers }
    }

    /// All rows as the log alone has them, and whether anything of it is damaged.
    fn check_log(
        &self,
        notes: &mut Vec<String>,
        found: &mut dyn FnMut(Finding),
    ) -> Result<(Overlay, Checked, bool), StoreError> {
        let source = self.source(self.places);
        let (mut rows, mut live, mut bad) = (Overlay::new(), BTreeMap::new(), Vec::new());
        let replayed = source.replay(None, &mut |frame| {
            if !apply(&mut rows, &mut live, frame.file, frame.payload_at, frame.payload) {
                bad.push(source.unreadable(&frame));
            }
            Ok(())
        })?;
        let mut damages = [replayed.damages, bad].concat();
        if let Some(marker) = self.marker {
            let first = self.numbers.first().copied().unwrap_or(marker.newest + 1);
            let last = self.numbers.last().copied().unwrap_or(marker.newest);
            for missing in (marker.first..first).chain(last + 1..=marker.newest) {
                let file = self.places.name(&self.table.path(missing));
                damages.push(Damage { file, offset: 0, len: 0, what: "the file is missing".to_owned() });
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
        log: &Overlay,
        log_is_damaged: bool,
        scratch: &Path,
        found: &mut dyn FnMut(Finding),
    ) -> Result<Option<Overlay>, StoreError> {
        let copy = Places { index: scratch.join("sled"), ..self.places.clone() };
        let name = self.places.name(&self.places.index);
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
        let mut rows = all_rows(&opened.loaded.index)?;
        if !log_is_damaged {
            let of_log = |key: &Bytes| log.get(key).and_then(Option::as_ref);
            let is_settled = |key: &Bytes| !opened.overlay.contains_key(key);
            let strange = rows.iter().filter(|(key, row)| is_settled(key) && of_log(key) != row.as_ref()).count();
            let lacking = log.iter().filter(|(key, row)| row.is_some() && is_settled(key) && !rows.contains_key(*key));
            let wrong = strange + lacking.count();
            if wrong > 0 {
                found(index_finding(name, format!("{wrong} rows are not what the log says")));
            }
        }
        rows.extend(opened.overlay);
        Ok(Some(rows))
    }
}

fn all_rows(index: &Index) -> Result<Overlay, StoreError> {
    let (mut rows, mut from) = (Overlay::new(), Vec::new());
    loop {
        let chunk = index.range(&from, &AFTER_ALL, CHUNK)?;
        let Some((last, _)) = chunk.last() else { return Ok(rows) };
        from = [&last[..], &[0]].concat();
        rows.extend(chunk.into_iter().map(|(key, row)| (key, Some(row))));
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
            // Reading it might take for ever; without it sled will say what is wrong.
            continue;
        }
    }
    Ok(())
}

/// Rows in memory, their values in the log.
struct View<'a> {
    closed: &'a Closed<'a>,
    rows: &'a Overlay,
}

impl Rows for View<'_> {
    fn visit(&self, from: &[u8], to: &[u8], visit: &mut RowVisitor<'_>) -> Result<(), StoreError> {
        let bounds = (std::ops::Bound::Included(from), std::ops::Bound::Excluded(to));
        for (key, row) in self.rows.range::<[u8], _>(bounds) {
            if let Some(row) = row
                && visit(key, row.clone())?.is_break()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    fn row(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        Ok(self.rows.get(key).cloned().flatten())
    }

    fn value(&self, row: &Row) -> Result<Option<Bytes>, StoreError> {
        value_in(&self.closed.table, row)
    }

    fn file_name(&self, number: u64) -> String {
        self.closed.places.name(&self.closed.table.path(number))
    }
}
