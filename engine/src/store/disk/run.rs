//! Rows in a scratch file, sorted by key: written once, then looked up and walked. In memory is one key per block of rows,
//! and the block that was read last.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{
    file::io_error,
    frame::{u32_at, u64_at},
    row::Row,
};
use crate::StoreError;

/// Rows per block.
const BLOCK: usize = 128;
/// Bytes before a key: its length and the row's. A row without bytes stands for a key that has none.
const HEADER: usize = 12;

pub(super) type Entry = (Bytes, Option<Row>);

/// See the module docs.
pub(super) struct Run {
    file: File,
    path: PathBuf,
    /// The first key of each block, and where it begins.
    blocks: Vec<(Bytes, u64)>,
    end: u64,
    pub(super) rows: u64,
    last_read: RefCell<(usize, Vec<Entry>)>,
}

/// A run being written.
pub(super) struct RunWriter {
    file: BufWriter<File>,
    run: Run,
}

impl RunWriter {
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        let open = || {
            let file = File::options().read(true).write(true).create_new(true).open(path)?;
            Ok((file.try_clone()?, file))
        };
        let (writer, file) = open().map_err(|error| io_error("creating", path, error))?;
        let last_read = RefCell::new((usize::MAX, Vec::new()));
        let run = Run { file, path: path.to_owned(), blocks: Vec::new(), end: 0, rows: 0, last_read };
        Ok(Self { file: BufWriter::new(writer), run })
    }

    /// Keys must come in order.
    pub(super) fn push(&mut self, key: &[u8], row: Option<&Row>) -> Result<(), StoreError> {
        let run = &mut self.run;
        if run.rows.is_multiple_of(BLOCK as u64) {
            run.blocks.push((Bytes::copy_from_slice(key), run.end));
        }
        let row = row.map(Row::encode).unwrap_or_default();
        let header = [&(key.len() as u64).to_le_bytes()[..], &(row.len() as u32).to_le_bytes()].concat();
        let written = [&header, key, &row].into_iter().try_for_each(|part| self.file.write_all(part));
        written.map_err(|error| io_error("writing", &run.path, error))?;
        run.end += (header.len() + key.len() + row.len()) as u64;
        run.rows += 1;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Run, StoreError> {
        self.file.flush().map_err(|error| io_error("writing", &self.run.path, error))?;
        Ok(self.run)
    }
}

impl Run {
    /// What is known of a key; `None` when nothing is.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Option<Row>>, StoreError> {
        let Some(block) = self.blocks.partition_point(|(first, _)| first <= key).checked_sub(1) else {
            return Ok(None);
        };
        self.with_block(block, |rows| {
            rows.binary_search_by(|(found, _)| found[..].cmp(key)).ok().map(|index| rows[index].1.clone())
        })
    }

    /// The rows from a key on, some at a time: those of one block, which may be none that far back.
    pub(super) fn blocks_from(&self, key: &[u8]) -> impl Iterator<Item = Result<Vec<Entry>, StoreError>> {
        let from = Bytes::copy_from_slice(key);
        let first = self.blocks.partition_point(|(first, _)| first <= key).saturating_sub(1);
        (first..self.blocks.len()).map(move |block| {
            self.with_block(block, |rows| rows[rows.partition_point(|(key, _)| *key < from)..].to_vec())
        })
    }

    /// Gives the disk space back.
    pub(super) fn remove(self) {
        // Only scratch: it goes with its directory at the latest.
        let _ = std::fs::remove_file(&self.path);
    }

    fn with_block<T>(&self, block: usize, call: impl FnOnce(&[Entry]) -> T) -> Result<T, StoreError> {
        let mut last = self.last_read.borrow_mut();
        if last.0 != block {
            let rows = self.read(block).map_err(|error| io_error("reading", &self.path, error))?;
            *last = (block, rows);
        }
        Ok(call(&last.1))
    }

    fn read(&self, block: usize) -> io::Result<Vec<Entry>> {
        let start = self.blocks[block].1;
        let end = self.blocks.get(block + 1).map_or(self.end, |(_, start)| *start);
        let mut bytes = vec![0; (end - start) as usize];
        self.file.read_exact_at(&mut bytes, start)?;
        let strange = || io::Error::other("a scratch file has changed");
        let (mut rows, mut rest) = (Vec::new(), &bytes[..]);
        while !rest.is_empty() {
            let (header, behind) = rest.split_at_checked(HEADER).ok_or_else(strange)?;
            let (key, behind) = behind.split_at_checked(u64_at(header, 0) as usize).ok_or_else(strange)?;
            let (row, behind) = behind.split_at_checked(u32_at(header, 8) as usize).ok_or_else(strange)?;
            let row = if row.is_empty() { None } else { Some(Row::decode(row).ok_or_else(strange)?) };
            rows.push((Bytes::copy_from_slice(key), row));
            rest = behind;
        }
        Ok(rows)
    }
}
