//! Reading: the overlay of what changed since the last checkpoint, over the index, over the log for large values.

use std::{
    collections::BTreeMap,
    io,
    ops::{Bound, ControlFlow},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use super::{
    file::io_error,
    frame::checksum,
    index::Index,
    log::{FileTable, Position},
    row::{Row, is_whole, seal_of},
};
use crate::{
    Read, StoreError,
    store::{KeyVisitor, LostCommits},
};

/// Rows that changed since the last checkpoint; `None` stands for a deleted key.
pub(super) type Overlay = BTreeMap<Bytes, Option<Row>>;

/// Takes the rows of a walk, one by one, until it breaks or fails.
pub(super) type RowVisitor<'a> = dyn FnMut(&Bytes, Row) -> Result<ControlFlow<()>, StoreError> + 'a;

/// Rows in order; `None` stands for a deleted key.
type Chunk = Vec<(Bytes, Option<Row>)>;

/// [`value_in`] or [`bytes_in`].
type ReadValue = fn(&FileTable, &Row) -> Result<Option<Bytes>, StoreError>;

/// Rows taken at once from each layer by a scan.
const CHUNK: usize = 1024;
/// How often a read looks a key up again because the log file it was sent to had just been cleaned away.
const ATTEMPTS: usize = 4;

/// What the writer and the readers share.
pub(super) struct Shared {
    overlay: RwLock<Overlay>,
    /// `None` once the store is closed. The writer has a handle of its own and does not wait here.
    index: Mutex<Option<Index>>,
    table: Arc<FileTable>,
    /// Up to where the log is durable; what lies behind may be half written.
    durable: Mutex<Position>,
    /// What opening found to be lost of the log.
    lost: Option<LostCommits>,
    /// Copies under way: as long as there are any, no log file is removed.
    pins: AtomicUsize,
}

/// Keeps all log files where they are, until dropped.
pub(super) struct Pin(Arc<Shared>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    pub(super) fn new(
        overlay: Overlay,
        index: Index,
        table: Arc<FileTable>,
        durable: Position,
        lost: Option<LostCommits>,
    ) -> Self {
        let (overlay, index) = (RwLock::new(overlay), Mutex::new(Some(index)));
        Self { overlay, index, table, durable: Mutex::new(durable), lost, pins: AtomicUsize::new(0) }
    }

    pub(super) fn pin(self: &Arc<Self>) -> Pin {
        self.pins.fetch_add(1, Ordering::SeqCst);
        Pin(self.clone())
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::SeqCst) > 0
    }

    pub(super) fn durable(&self) -> Position {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_durable(&self, at: Position) {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    pub(super) fn table(&self) -> &FileTable {
        &self.table
    }

    // A poisoned lock says that a thread panicked while it held it; nothing below panics between two related changes.
    pub(super) fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this is held, readers wait.
    pub(super) fn lock_index(&self) -> MutexGuard<'_, Option<Index>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_index<T>(&self, call: impl FnOnce(&Index) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &*self.lock_index() {
            Some(index) => call(index),
            None => {
                Err(StoreError::Io { context: "reading".to_owned(), source: io::Error::other("the store is closed") })
            }
        }
    }

    /// The row of a key. The overlay is asked first: what a checkpoint moves is in the index before it leaves there.
    pub(super) fn row(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        if let Some(row) = self.overlay().get(key) {
            return Ok(row.clone());
        }
        self.with_index(|index| index.get(key))
    }

    /// As [`value_in`].
    pub(super) fn value(&self, row: &Row) -> Result<Option<Bytes>, StoreError> {
        value_in(&self.table, row)
    }

    /// The value of a key, given the row that a scan saw: cleaning may have moved the value since.
    fn value_now(&self, key: &[u8], mut row: Option<Row>, read: ReadValue) -> Result<Option<Bytes>, StoreError> {
        for _ in 0..ATTEMPTS {
            let Some(found) = row else { return Ok(None) };
            if let Some(value) = read(&self.table, &found)? {
                return Ok(Some(value));
            }
            row = self.row(key)?;
        }
        let place = row.map_or_else(String::new, |row| self.table.path(row.file()).display().to_string());
        Err(StoreError::Damaged { place, detail: "the log file is missing".to_owned() })
    }

    /// The length of a row's value, if there is room for it in its log file.
    fn len_if_there(&self, row: &Row, sizes: &mut BTreeMap<u64, Option<u64>>) -> Option<u64> {
        match row {
            Row::Inline { bytes, .. } => Some(bytes.len() as u64),
            Row::Lost { .. } => None,
            Row::Pointer { file, offset, len, .. } | Row::Sealed { file, offset, len, .. } => {
                let size = sizes.entry(*file);
                let size = size.or_insert_with(|| self.table.get(*file).and_then(|file| file.len()).ok());
                size.filter(|size| offset.saturating_add(u64::from(*len)) <= *size).map(|_| u64::from(*len))
            }
        }
    }

    /// Visits rows in order, with no lock held while `visit` runs.
    pub(super) fn rows(&self, from: &[u8], to: &[u8], visit: &mut RowVisitor<'_>) -> Result<(), StoreError> {
        let mut from = from.to_vec();
        while &from[..] < to {
            let (rows, covered) = self.chunk(&from, to)?;
            for (key, row) in rows {
                if let Some(row) = row
                    && visit(&key, row)?.is_break()
                {
                    return Ok(());
                }
            }
            match covered {
                // The smallest key after the last one.
                Some(last) => from = [&last[..], &[0]].concat(),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Both layers merged from `from` on, and the last key up to which they are; `None` means all of `..to`.
    fn chunk(&self, from: &[u8], to: &[u8]) -> Result<(Chunk, Option<Bytes>), StoreError> {
        let range = (Bound::Included(from), Bound::Excluded(to));
        let mut changed: Overlay = {
            let overlay = self.overlay();
            overlay.range::<[u8], _>(range).take(CHUNK).map(|(key, row)| (key.clone(), row.clone())).collect()
        };
        let mut covered =
            if changed.len() < CHUNK { None } else { changed.last_key_value().map(|(key, _)| key.clone()) };
        let end = covered.as_ref().map_or_else(|| to.to_vec(), |last| [&last[..], &[0]].concat());
        let indexed = self.with_index(|index| index.range(from, &end, CHUNK))?;
        if let Some((last, _)) = indexed.last().filter(|_| indexed.len() == CHUNK) {
            let mut beyond = changed.split_off(&last[..]);
            if let Some(row) = beyond.remove(last) {
                changed.insert(last.clone(), row);
            }
            covered = Some(last.clone());
        }
        let indexed = indexed.into_iter().map(|(key, row)| (key, Some(row)));
        if changed.is_empty() {
            return Ok((indexed.collect(), covered));
        }
        for (key, row) in indexed {
            changed.entry(key).or_insert(row);
        }
        Ok((changed.into_iter().collect(), covered))
    }
}

/// The value of a row, verified; `Ok(None)` when its log file is gone.
pub(super) fn value_in(table: &FileTable, row: &Row) -> Result<Option<Bytes>, StoreError> {
    let Some(bytes) = bytes_in(table, row)? else { return Ok(None) };
    if matches!(row, Row::Sealed { .. }) && !is_whole(&bytes) {
        return Err(damaged(table, row, "a value does not match its hash"));
    }
    Ok(Some(bytes))
}

/// The value of a row. Whether a sealed one is whole is for the caller to find out.
fn bytes_in(table: &FileTable, row: &Row) -> Result<Option<Bytes>, StoreError> {
    let (file, offset, len) = match row {
        Row::Inline { bytes, .. } => return Ok(Some(bytes.clone())),
        Row::Lost { place, .. } => {
            let detail = "the value was damaged and could not be carried on".to_owned();
            return Err(StoreError::Damaged { place: place.clone(), detail });
        }
        Row::Pointer { file, offset, len, .. } | Row::Sealed { file, offset, len, .. } => (*file, *offset, *len),
    };
    let bytes = match table.get(file).and_then(|file| file.read_vec(len as usize, offset)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(damaged(table, row, "the file ends before a value"));
        }
        Err(error) => return Err(io_error("reading", &table.path(file), error)),
    };
    match row {
        Row::Pointer { checksum: expected, .. } if checksum(&bytes) != *expected => {
            Err(damaged(table, row, "a value does not match its checksum"))
        }
        Row::Sealed { seal, .. } if seal_of(&bytes) != *seal => {
            Err(damaged(table, row, "a value does not end in its hash"))
        }
        _ => Ok(Some(Bytes::from(bytes))),
    }
}

fn damaged(table: &FileTable, row: &Row, detail: &str) -> StoreError {
    let path = table.path(row.file());
    let (offset, len) = match row {
        Row::Pointer { offset, len, .. } | Row::Sealed { offset, len, .. } => (*offset, *len),
        Row::Inline { .. } | Row::Lost { .. } => (0, 0),
    };
    StoreError::Damaged { place: format!("{} at {offset}", path.display()), detail: format!("{detail} ({len} bytes)") }
}

impl Read for Shared {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let row = self.row(key)?;
        self.value_now(key, row, value_in)
    }

    fn get_sealed(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let row = self.row(key)?;
        self.value_now(key, row, bytes_in)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.rows(from, to, &mut |key, row| {
            let value = self.value_now(key, Some(row), value_in)?;
            Ok(value.map_or(ControlFlow::Continue(()), |value| visit(key, value)))
        })
    }

    fn scan_keys(&self, from: &[u8], to: &[u8], visit: &mut KeyVisitor<'_>) -> Result<(), StoreError> {
        let mut sizes = BTreeMap::new();
        self.rows(from, to, &mut |key, row| Ok(visit(key, self.len_if_there(&row, &mut sizes))))
    }

    fn lost(&self) -> Option<LostCommits> {
        self.lost
    }
}
