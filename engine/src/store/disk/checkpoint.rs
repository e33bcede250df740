//! Checkpoints: the overlay goes to the index, the marker moves on, log files that nothing needs go.

use bytes::Bytes;

use super::{
    DiskStore,
    file::io_error,
    index::{Index, Unusable},
    log,
    marker::Marker,
    open::{Loaded, finish_rebuild, no_room, rebuild_index},
    reader::Overlay,
    replay::{Source, forget},
    row::{Row, TableSum},
};
use crate::StoreError;

/// Bytes of disk that a checkpoint needs besides what its rows weigh.
const ROOM: u64 = 256 << 10;
/// What a row in memory takes of it, as a rule: a key, and where its value lies.
const ROW_BYTES: u64 = 160;

/// Writes rows to an index that is being built, and keeps its account. Not durable yet.
pub(super) fn write_rows(to: &mut Loaded, rows: &Overlay) -> Result<(), StoreError> {
    for (key, row) in rows {
        if let Some((raw, old)) = to.index.get_raw(key)? {
            to.sum.remove(key, &raw);
            forget(&mut to.live, old.file(), old.weight(key));
        }
        let raw = row.as_ref().map(|row| row.encode());
        to.index.set(key, raw.as_deref())?;
        if let Some(raw) = raw {
            to.sum.add(key, &raw);
        }
    }
    Ok(())
}

impl DiskStore {
    pub(super) fn run_checkpoint(&mut self) -> Result<(), StoreError> {
        let result = self.try_checkpoint();
        self.tried_at = (self.log.written, self.shared.overlay().len());
        self.replayed = 0;
        result.inspect_err(|error| self.note_full(error))
    }

    fn try_checkpoint(&mut self) -> Result<(), StoreError> {
        if self.index_is_suspect {
            self.reload_index()?;
        }
        self.clean()?;
        self.write_index()?;
        while !self.shared.is_pinned()
            && let Some(first) = self.log.sizes.keys().next().copied().filter(|number| *number < self.marker.first)
        {
            self.log.remove_front(first)?;
        }
        if self.renew_to.is_some_and(|to| self.log.sizes.keys().next().is_none_or(|first| *first > to)) {
            self.renew_to = None;
        }
        self.make_reserve();
        Ok(())
    }

    /// Writes the overlay to the index, between two markers.
    pub(super) fn write_index(&mut self) -> Result<(), StoreError> {
        let to = self.log.position();
        // Cheap: keys are shared, large values are pointers. The overlay stays for readers until all is durable.
        let rows = self.shared.overlay().clone();

        self.check_room(&rows)?;

        let mut untouched = self.marker.sum;
        let mut superseded = Vec::new();
        let mut look = || {
            let index = self.writers_index()?;
            for key in rows.keys() {
                if let Some((raw, old)) = index.get_raw(key)? {
                    if !self.unsure.contains(key) {
                        untouched.remove(key, &raw);
                    }
                    superseded.push((old.file(), old.weight(key)));
                }
            }
            Ok(())
        };
        if let Err(error) = look() {
            self.index_is_suspect = true;
            return Err(error);
        }
        if let Some(file) = &self.log.synced {
            file.sync();
        }
        let writing = Marker { newest: to.file, writing_to: Some(to), sum: untouched, ..self.marker };
        writing.write(&self.places.marker)?;
        self.marker = writing;
        self.unsure = rows.keys().cloned().collect();

        self.index_is_suspect = true;
        let mut sum: TableSum = untouched;
        let index = self.writers_index()?;
        for (key, row) in &rows {
            let raw = row.as_ref().map(|row| row.encode());
            index.set(key, raw.as_deref())?;
            if let Some(raw) = raw {
                sum.add(key, &raw);
            }
        }
        index.make_durable()?;
        let mut live = self.live.clone();
        superseded.into_iter().for_each(|(file, weight)| forget(&mut live, file, weight));
        let first = live.keys().next().map_or(to.file, |first| (*first).min(to.file));
        let done = Marker { first, newest: to.file, replay_from: to, writing_to: None, sum };
        done.write(&self.places.marker)?;

        (self.marker, self.live) = (done, live);
        self.unsure.clear();
        self.shared.overlay_mut().clear();
        self.index_is_suspect = false;
        Ok(())
    }

    /// The room that a checkpoint of what is in memory needs, more or less.
    pub(super) fn checkpoint_room(&self) -> u64 {
        ROOM + 3 * ROW_BYTES * self.shared.overlay().len() as u64
    }

    /// Sled can not be read any more once a write of it has failed, so it must not run into a full disk.
    fn check_room(&self, rows: &Overlay) -> Result<(), StoreError> {
        let weight = |(key, row): (&Bytes, &Option<Row>)| row.as_ref().map_or(0, |row| row.encode().len() + key.len());
        let needed = ROOM + 3 * rows.iter().map(weight).sum::<usize>() as u64;
        let root = &self.places.root;
        let available = || self.log.table.room().map_err(|error| io_error("asking for the room at", root, error));
        if available()? >= needed {
            return Ok(());
        }
        let _ = std::fs::remove_file(&self.places.reserve);
        if available()? >= needed {
            return Ok(());
        }
        Err(StoreError::Full { context: format!("a checkpoint needs {needed} bytes at {}", root.display()) })
    }

    fn writers_index(&self) -> Result<&Index, StoreError> {
        self.index.as_ref().ok_or_else(|| StoreError::Io {
            context: "writing the index".to_owned(),
            source: std::io::Error::other("it could not be opened again after an error"),
        })
    }

    /// After a failed checkpoint: opens the index again and checks it, or rebuilds it. Readers wait meanwhile.
    fn reload_index(&mut self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let mut slot = shared.lock_index();
        slot.take();
        self.index.take();
        let options = &self.options;
        let opened = Index::open(
            &self.places.index,
            options.index_cache,
            options.index_patience,
            self.marker.sum,
            self.unsure.clone(),
        );
        if let Err(Unusable::Full) = &opened {
            return Err(no_room(&self.places));
        }
        if let Ok((index, scrubbed)) = opened {
            *slot = Some(index.clone());
            self.index = Some(index);
            self.live = scrubbed.live;
            for (key, row) in shared.overlay().iter() {
                if let Some(row) = row {
                    *self.live.entry(row.file()).or_default() += row.weight(key);
                }
            }
        } else {
            let numbers = log::list(&self.places.log)?;
            let source = Source {
                places: &self.places,
                table: &self.log.table,
                key: &self.log.key,
                salt: self.log.salt(),
                numbers: &numbers,
                synced: None,
            };
            // Damage that it meets is met again, and reported, by the next open or verify.
            let (loaded, _, _) = rebuild_index(&source, options)?;
            let first = numbers.first().copied().unwrap_or(self.marker.first);
            let at = self.log.position();
            let marker = Marker { first, newest: at.file, replay_from: at, writing_to: None, sum: loaded.sum };
            finish_rebuild(&self.places, &marker)?;
            (self.marker, self.live) = (marker, loaded.live);
            self.unsure.clear();
            *slot = Some(loaded.index.clone());
            self.index = Some(loaded.index);
            shared.overlay_mut().clear();
        }
        self.index_is_suspect = false;
        Ok(())
    }
}
