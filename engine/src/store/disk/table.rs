//! Rows that may be more than memory should hold: the newest in memory, and beneath them runs in a scratch directory, as
//! in a log-structured merge tree. Sled would do for that but for its memory: measured, lookups and short ranges leave in
//! it all that they ever read.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{
    frame::AFTER_ALL,
    index::Index,
    reader::{Overlay, RowVisitor},
    row::Row,
    run::{Entry, Run, RunWriter},
};
use crate::StoreError;

/// See the module docs.
pub(super) struct Table {
    /// `None` stands for a key that has no row, whatever the runs say.
    pub(super) newest: Overlay,
    /// Oldest first. Each is more than twice as long as the next one, so they are few.
    runs: Vec<Run>,
    /// What the files of the runs begin with, and how many there have been.
    prefix: PathBuf,
    made: u64,
}

impl Table {
    /// Runs will lie in `scratch` under names that begin with `name`.
    pub(super) fn new(scratch: &Path, name: &str) -> Self {
        Self { newest: Overlay::new(), runs: Vec::new(), prefix: scratch.join(name), made: 0 }
    }

    /// All rows of an index, which is not needed any more then.
    pub(super) fn of_index(index: &Index, scratch: &Path, name: &str) -> Result<Self, StoreError> {
        let mut table = Self::new(scratch, name);
        let mut run = table.next_run()?;
        index.walk(&mut |key, row| run.push(key, Some(&row)))?;
        table.runs.push(run.finish()?);
        Ok(table)
    }

    fn next_run(&mut self) -> Result<RunWriter, StoreError> {
        self.made += 1;
        RunWriter::create(&self.prefix.with_extension(self.made.to_string()))
    }

    /// Moves what is in memory to the scratch directory.
    pub(super) fn spill(&mut self) -> Result<(), StoreError> {
        let mut run = self.next_run()?;
        for (key, row) in std::mem::take(&mut self.newest) {
            run.push(&key, row.as_ref())?;
        }
        self.runs.push(run.finish()?);
        while let [.., older, newer] = &self.runs[..]
            && older.rows <= 2 * newer.rows
        {
            let mut merged = self.next_run()?;
            let pair = self.runs.len() - 2;
            merge(&self.runs[pair..], &[], &mut |key, row| {
                merged.push(key, row.as_ref())?;
                Ok(ControlFlow::Continue(()))
            })?;
            let merged = merged.finish()?;
            self.runs.drain(pair..).for_each(Run::remove);
            self.runs.push(merged);
        }
        Ok(())
    }

    pub(super) fn row(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        match self.newest.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.spilled(key),
        }
    }

    fn spilled(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        for run in self.runs.iter().rev() {
            if let Some(row) = run.get(key)? {
                return Ok(row);
            }
        }
        Ok(None)
    }

    /// Visits the rows in the order of their keys.
    pub(super) fn visit(&self, from: &[u8], to: &[u8], visit: &mut RowVisitor<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        let mut newest = self.newest.range::<[u8], _>(range).peekable();
        let mut show = |key: &Bytes, row: Option<Row>| match row {
            Some(row) => visit(key, row),
            None => Ok(ControlFlow::Continue(())),
        };
        let mut is_ended = false;
        merge(&self.runs, from, &mut |key, row| {
            while let Some((newer, row)) = newest.next_if(|(newer, _)| **newer < key) {
                if show(newer, row.clone())?.is_break() {
                    is_ended = true;
                    return Ok(ControlFlow::Break(()));
                }
            }
            if &key[..] >= to {
                return Ok(ControlFlow::Break(()));
            }
            let newer = newest.next_if(|(newer, _)| **newer == key).map(|(_, row)| row.clone());
            let flow = show(key, newer.unwrap_or(row))?;
            is_ended = flow.is_break();
            Ok(flow)
        })?;
        for (key, row) in newest {
            if is_ended || show(key, row.clone())?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Rows that are not what `other` says, and those that are lacking; but for keys that memory knows better.
    pub(super) fn differences(&self, other: &Table) -> Result<u64, StoreError> {
        let is_settled = |key: &Bytes| !self.newest.contains_key(key);
        let mut wrong = 0;
        self.visit(&[], &AFTER_ALL, &mut |key, row| {
            wrong += u64::from(is_settled(key) && other.row(key)? != Some(row));
            Ok(ControlFlow::Continue(()))
        })?;
        other.visit(&[], &AFTER_ALL, &mut |key, _| {
            wrong += u64::from(is_settled(key) && self.spilled(key)?.is_none());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(wrong)
    }
}

type MergeVisitor<'a> = dyn FnMut(&Bytes, Option<Row>) -> Result<ControlFlow<()>, StoreError> + 'a;

/// Walks some runs, oldest first, as one: of a key that several have the newest counts.
fn merge(runs: &[Run], from: &[u8], visit: &mut MergeVisitor<'_>) -> Result<(), StoreError> {
    let mut blocks: Vec<_> = runs.iter().map(|run| run.blocks_from(from)).collect();
    let mut entries: Vec<std::vec::IntoIter<Entry>> = runs.iter().map(|_| Vec::new().into_iter()).collect();
    let mut next = |index: usize| -> Result<Option<Entry>, StoreError> {
        loop {
            if let Some(entry) = entries[index].next() {
                return Ok(Some(entry));
            }
            match blocks[index].next() {
                Some(block) => entries[index] = block?.into_iter(),
                None => return Ok(None),
            }
        }
    };
    // The next entry of each run, by key; of equal keys the older run's has been dropped.
    let mut heads: BTreeMap<Bytes, (usize, Option<Row>)> = BTreeMap::new();
    let mut waiting: Vec<usize> = (0..runs.len()).collect();
    loop {
        while let Some(index) = waiting.pop() {
            let Some((key, row)) = next(index)? else { continue };
            match heads.get(&key).map(|(other, _)| *other) {
                Some(newer) if newer > index => waiting.push(index),
                older => {
                    heads.insert(key, (index, row));
                    waiting.extend(older);
                }
            }
        }
        let Some((key, (index, row))) = heads.pop_first() else { return Ok(()) };
        if visit(&key, row)?.is_break() {
            return Ok(());
        }
        waiting.push(index);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::frame::AFTER_ALL, *};

    fn rows_of(table: &Table, from: &[u8], to: &[u8]) -> Vec<(Bytes, Row)> {
        let mut rows = Vec::new();
        let mut visit = |key: &Bytes, row| {
            rows.push((key.clone(), row));
            Ok(ControlFlow::Continue(()))
        };
        table.visit(from, to, &mut visit).unwrap();
        rows
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

        /// However often it was spilled, a table is what one that stays in memory is.
        #[test]
        fn a_spilled_table_shows_the_same_rows(
            changes in prop::collection::vec((0..1500_u16, prop::option::weighted(0.7, 0..9_u64)), 1..3000),
            spills in 1..12_usize,
            range in (0..1500_u16, 0..1500_u16),
        ) {
            let scratch = tempfile::tempdir().unwrap();
            let (mut table, mut whole) = (Table::new(scratch.path(), "t"), Table::new(scratch.path(), "w"));
            for part in changes.chunks(changes.len() / spills + 1) {
                table.spill().unwrap();
                for (key, file) in part {
                    let row = file.map(|file| Row::Inline { file, bytes: Bytes::new() });
                    let key = Bytes::copy_from_slice(&key.to_be_bytes());
                    table.newest.insert(key.clone(), row.clone());
                    whole.newest.insert(key, row);
                }
            }
            for (from, to) in [(&[][..], &AFTER_ALL[..]), (&range.0.to_be_bytes(), &range.1.to_be_bytes())] {
                prop_assert_eq!(rows_of(&table, from, to), rows_of(&whole, from, to));
            }
            for key in (0..1500_u16).map(u16::to_be_bytes) {
                prop_assert_eq!(table.row(&key).unwrap(), whole.row(&key).unwrap());
            }
            table.spill().unwrap();
            prop_assert_eq!(table.differences(&whole).unwrap(), 0);
        }
    }

    #[test]
    fn rows_that_differ_are_counted_from_both_sides() {
        let scratch = tempfile::tempdir().unwrap();
        let row = |file| Some(Row::Inline { file, bytes: Bytes::new() });
        let table = |name, rows: &[(&'static str, u64)]| {
            let mut table = Table::new(scratch.path(), name);
            table.newest = rows.iter().map(|(key, file)| (Bytes::from(*key), row(*file))).collect();
            table
        };
        let mut index = table("index", &[("a", 1), ("b", 1), ("c", 1), ("e", 1)]);
        index.spill().unwrap();
        index.newest.insert(Bytes::from("e"), row(7));
        index.newest.insert(Bytes::from("f"), row(7));
        // One is another, one is too many, one is lacking; of the last two only memory knows.
        let log = table("log", &[("a", 1), ("b", 2), ("d", 1), ("e", 3)]);
        assert_eq!(index.differences(&log).unwrap(), 3);
    }
}
