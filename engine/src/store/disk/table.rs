//! Rows that may be more than memory should hold: the newest in memory, and beneath them those of an index.

use std::{collections::BTreeSet, ops::Bound, path::Path};

use bytes::Bytes;

use super::{
    DiskOptions,
    file::io_error,
    index::{Index, Unusable},
    reader::{Overlay, RowVisitor},
    row::{Row, TableSum},
};
use crate::StoreError;

/// Rows read from the index at a time.
const CHUNK: usize = 256;

/// See the module docs.
pub(super) struct Table {
    /// `None` stands for a key that has no row, whatever the index says.
    pub(super) newest: Overlay,
    pub(super) index: Option<Index>,
}

impl Table {
    /// Moves what is in memory to an index at `scratch`, which is made when it is needed first.
    pub(super) fn spill(&mut self, scratch: &Path) -> Result<(), StoreError> {
        let index = match self.index.take() {
            Some(index) => index,
            None => {
                let DiskOptions { index_cache, index_patience, .. } = DiskOptions::default();
                let made = Index::open(scratch, index_cache, index_patience, TableSum::default(), BTreeSet::new());
                made.map_err(|error| match error {
                    Unusable::Full => StoreError::Full { context: format!("rows of the log at {}", scratch.display()) },
                    Unusable::Broken(why) => io_error("creating", scratch, std::io::Error::other(why)),
                })?
                .0
            }
        };
        for (key, row) in std::mem::take(&mut self.newest) {
            index.set(&key, row.map(|row| row.encode()).as_deref())?;
        }
        // Without a flush now and then sled keeps all of it in memory.
        index.make_durable()?;
        self.index = Some(index);
        Ok(())
    }

    pub(super) fn row(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        match (self.newest.get(key), &self.index) {
            (Some(row), _) => Ok(row.clone()),
            (None, Some(index)) => index.get(key),
            (None, None) => Ok(None),
        }
    }

    /// Visits the rows in the order of their keys.
    pub(super) fn visit(&self, from: &[u8], to: &[u8], visit: &mut RowVisitor<'_>) -> Result<(), StoreError> {
        let mut from = from.to_vec();
        while &from[..] < to {
            let older = self.index.as_ref().map_or_else(|| Ok(Vec::new()), |index| index.range(&from, to, CHUNK))?;
            // The smallest key after the last one that was read; or all of it was.
            let last = older.last().filter(|_| older.len() == CHUNK).map(|(key, _)| [&key[..], &[0]].concat());
            let end = last.unwrap_or_else(|| to.to_vec());
            let mut older = older.into_iter().peekable();
            for (key, row) in self.newest.range::<[u8], _>((Bound::Included(&from[..]), Bound::Excluded(&end[..]))) {
                while let Some((older, row)) = older.next_if(|(older, _)| older < key) {
                    if visit(&older, row)?.is_break() {
                        return Ok(());
                    }
                }
                older.next_if(|(older, _)| older == key);
                if let Some(row) = row
                    && visit(key, row.clone())?.is_break()
                {
                    return Ok(());
                }
            }
            for (key, row) in older {
                if visit(&key, row)?.is_break() {
                    return Ok(());
                }
            }
            from = end;
        }
        Ok(())
    }

    /// Rows of the index that are not what `other` says, and those that it lacks; but for keys that only memory knows.
    pub(super) fn differences(&self, other: &Table) -> Result<u64, StoreError> {
        use super::frame::AFTER_ALL;
        let Some(index) = &self.index else { return Ok(0) };
        let is_settled = |key: &Bytes| !self.newest.contains_key(key);
        let mut wrong = 0;
        self.visit(&[], &AFTER_ALL, &mut |key, row| {
            wrong += u64::from(is_settled(key) && other.row(key)? != Some(row));
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        other.visit(&[], &AFTER_ALL, &mut |key, _| {
            wrong += u64::from(is_settled(key) && index.get(key)?.is_none());
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        Ok(wrong)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

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
            spills in 1..5_usize,
            range in (0..1500_u16, 0..1500_u16),
        ) {
            let scratch = tempfile::tempdir().unwrap();
            let at = scratch.path().join("rows");
            let (mut table, mut whole) =
                (Table { newest: Overlay::new(), index: None }, Table { newest: Overlay::new(), index: None });
            for part in changes.chunks(changes.len() / spills + 1) {
                table.spill(&at).unwrap();
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
            table.spill(&at).unwrap();
            prop_assert_eq!(table.differences(&whole).unwrap(), 0);
        }
    }

    #[test]
    fn rows_that_differ_are_counted_from_both_sides() {
        let scratch = tempfile::tempdir().unwrap();
        let row = |file| Some(Row::Inline { file, bytes: Bytes::new() });
        let table = |rows: &[(&'static str, u64)]| {
            let newest = rows.iter().map(|(key, file)| (Bytes::from(*key), row(*file))).collect();
            Table { newest, index: None }
        };
        let mut index = table(&[("a", 1), ("b", 1), ("c", 1), ("e", 1)]);
        index.spill(&scratch.path().join("rows")).unwrap();
        index.newest.insert(Bytes::from("e"), row(7));
        index.newest.insert(Bytes::from("f"), row(7));
        // One is another, one is too many, one is lacking; of the last two only memory knows.
        let log = table(&[("a", 1), ("b", 2), ("d", 1), ("e", 3)]);
        assert_eq!(index.differences(&log).unwrap(), 3);
    }
}
