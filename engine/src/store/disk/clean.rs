//! Cleaning: what still lives in the oldest log files is put again at the head, so that they can go.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::ControlFlow,
};

use bytes::Bytes;

use super::{
    DiskStore,
    file::{io_error, is_unreadable, read_what_can_be_read},
    frame::{AFTER_ALL, FILE_HEADER, Kind, Record, records},
    walk::{Piece, Walk},
};
use crate::StoreError;

/// Files cleaned by one checkpoint at most, so that it stays short; the next one goes on.
const FILES_AT_ONCE: usize = 4;
/// A file of which less than one part in so many lives is cleaned however much of the log is dead: what it holds is soon
/// carried, and it keeps all files behind it from going, which may be dead as a whole.
const CHEAP: u64 = 8;
/// On a full disk no more is carried than one part in so many of what the reserve has left.
const FULL_PART: u64 = 4;
/// Bytes carried by one frame, about.
const CARRY_BYTES: usize = 1 << 20;

impl DiskStore {
    /// Carries the front files' live rows to the head of the log while too much of it is dead. The files themselves go
    /// after the checkpoint that follows.
    pub(super) fn clean(&mut self) -> Result<(), StoreError> {
        // A file that rows point to and that is not there must be dealt with, too, or nothing behind it could ever go.
        let fronts: BTreeSet<u64> = self.log.sizes.keys().chain(self.live.keys()).copied().collect();
        let head = self.log.position().file;
        let mut carried = 0;
        let mut gone = 0;
        for front in fronts.into_iter().filter(|front| *front < head) {
            let live: u64 = self.live.values().sum();
            let log: u64 = self.log.sizes.values().sum::<u64>() - gone;
            let size = self.log.sizes.get(&front);
            let is_damaged = self.renew_to.is_some_and(|to| front <= to);
            let is_dense = self.is_dense(front, log, live);
            if carried >= FILES_AT_ONCE || (is_dense && !is_damaged) {
                break;
            }
            gone += size.copied().unwrap_or_default();
            if let Some(bytes) = self.live.get(&front) {
                // Carrying frees space only afterwards; it must not eat what a full disk has left for removals.
                let room = self.log.table.room().unwrap_or(u64::MAX);
                let needed = if self.is_full { FULL_PART * bytes } else { 2 * bytes + self.options.reserve };
                if room < needed {
                    break;
                }
                self.carry(front)?;
                carried += 1;
            }
        }
        Ok(())
    }

    /// Whether so much of a file lives, and of the log, that the file may stay.
    fn is_dense(&self, front: u64, log: u64, live: u64) -> bool {
        let lives = self.live.get(&front).copied().unwrap_or_default();
        // Until the next checkpoint as much is written as a file takes: with that it comes to less than twice what lives and
        // a file.
        let spare = if self.is_full { 0 } else { self.options.roll_at / 2 };
        self.log.sizes.get(&front).is_some_and(|size| CHEAP * lives > *size) && log <= 2 * live + spare
    }

    /// Whether the next checkpoint would clean the front file, as far as can be told ahead of it.
    pub(super) fn can_clean(&self) -> bool {
        let Some(&front) = self.log.sizes.keys().next() else { return false };
        let (log, live) = (self.log.sizes.values().sum(), self.live.values().sum());
        front < self.log.position().file && !self.shared.is_pinned() && !self.is_dense(front, log, live)
    }

    /// Writes anew what lives in the log files up to a damaged one, so that all of them can go: then the log is whole
    /// again, and what it alone said of deletions is not needed any more.
    pub(super) fn run_renewal(&mut self, number: u64) -> Result<(), StoreError> {
        if number == self.log.position().file {
            self.log.start_next()?;
            self.roll()?;
        }
        self.renew_to = self.renew_to.max(Some(number));
        loop {
            let before = self.log.sizes.keys().next().copied();
            self.run_checkpoint()?;
            let first = self.log.sizes.keys().next().copied();
            if first > self.renew_to {
                self.renew_to = None;
                return Ok(());
            }
            // No room now, or a copy is under way: later checkpoints go on.
            if first == before {
                return Ok(());
            }
        }
    }

    pub(super) fn carry(&mut self, front: u64) -> Result<(), StoreError> {
        let path = self.log.table.path(front);
        let (bytes, unreadable) = match self.log.table.get(front).and_then(|file| read_what_can_be_read(&*file, 0)) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Default::default(),
            Err(error) => return Err(io_error("reading", &path, error)),
        };
        let key = self.log.key.clone();
        let mut carrier = Carrier { front, ..Carrier::default() };
        let mut whole = !bytes.is_empty() && unreadable.is_empty();
        for piece in Walk::new(&bytes, &key, FILE_HEADER) {
            let Piece::Frame { frame, .. } = piece else {
                whole = false;
                continue;
            };
            for record in records(&bytes[frame.payload]) {
                match record {
                    Ok((record, _)) if record.kind == Kind::Delete => {}
                    Ok((record, _)) => self.carry_key(&mut carrier, record.key)?,
                    Err(()) => whole = false,
                }
            }
        }
        if !whole {
            // Rows may point into what can not be read: only the index knows them.
            let shared = self.shared.clone();
            let mut keys: Vec<Bytes> = Vec::new();
            shared.rows(&[], &AFTER_ALL, &mut |key, row| {
                if row.file() == front {
                    keys.push(key.clone());
                }
                Ok(ControlFlow::Continue(()))
            })?;
            for key in keys {
                self.carry_key(&mut carrier, &key)?;
            }
        }
        self.flush(&mut carrier)
    }

    fn carry_key(&mut self, carrier: &mut Carrier, key: &[u8]) -> Result<(), StoreError> {
        // A key that was put often is on its way once: its row says "front" until that is written.
        if carrier.rows.contains_key(key) {
            return Ok(());
        }
        let Some(row) = self.shared.row(key)?.filter(|row| row.file() == carrier.front) else {
            return Ok(());
        };
        let (kind, value) = match self.shared.value(&row) {
            Ok(Some(value)) => (Kind::Put, value),
            Ok(None) => {
                (Kind::Lost, Bytes::from(format!("{}, which is missing", self.log.table.path(row.file()).display())))
            }
            Err(StoreError::Damaged { place, .. }) => (Kind::Lost, Bytes::from(place)),
            Err(StoreError::Io { context, source }) if is_unreadable(&source) => {
                (Kind::Lost, Bytes::from(format!("{context}: {source}")))
            }
            Err(error) => return Err(error),
        };
        carrier.bytes += key.len() + value.len();
        carrier.rows.insert(Bytes::copy_from_slice(key), (kind, value));
        if carrier.bytes >= CARRY_BYTES { self.flush(carrier) } else { Ok(()) }
    }

    fn flush(&mut self, carrier: &mut Carrier) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut carrier.rows);
        carrier.bytes = 0;
        if rows.is_empty() {
            return Ok(());
        }
        let records = rows.iter().map(|(key, (kind, value))| Record { kind: *kind, key, value });
        self.append(std::iter::once(records))?;
        // A file of tiny values has more rows than memory should hold at once.
        let rows = self.shared.overlay().len();
        if rows > 2 * self.options.checkpoint_rows { self.write_index() } else { Ok(()) }
    }
}

/// Rows on their way from the front file to the head.
#[derive(Default)]
struct Carrier {
    front: u64,
    bytes: usize,
    rows: BTreeMap<Bytes, (Kind, Bytes)>,
}
