//! Opening: lock, replay what the index lacks, check the index in full, or rebuild it from the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Damage, DiskOptions, DiskStore, IndexState, OpenReport,
    checkpoint::write_rows,
    file::{Files, OsFiles, io_error, sync_dir, write_atomically},
    format::{Places, Prepared, prepare},
    frame::{FrameKey, records},
    index::{Index, Scrubbed, Unusable},
    log::{self, FileTable, Log},
    marker::Marker,
    reader::{Overlay, Shared},
    replay::{Found, Replayed, Source, apply},
    row::TableSum,
    synced::{self, Synced, SyncedFile, Unknown},
};
use crate::{StoreError, store::LostCommits};

/// An index with what is known about it.
pub(super) struct Loaded {
    pub(super) index: Index,
    pub(super) live: BTreeMap<u64, u64>,
    pub(super) sum: TableSum,
}

impl DiskStore {
    /// Opens the store in `dir`, or creates one there when `dir` is absent or empty.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Version`] and [`StoreError::Foreign`] say that the directory is not for us;
    /// [`StoreError::Full`] and [`StoreError::Io`] that the system refused. Damage is no error: what could be read is
    /// there, and the report tells what could not.
    pub fn open(dir: impl AsRef<Path>, options: DiskOptions) -> Result<(Self, OpenReport), StoreError> {
        Self::open_on(dir.as_ref(), options, Arc::new(OsFiles))
    }

    pub(super) fn open_on(
        dir: &Path,
        options: DiskOptions,
        files: Arc<dyn Files>,
    ) -> Result<(Self, OpenReport), StoreError> {
        let places = Places::new(dir);
        let mut damages = Vec::new();
        let Prepared { lock, salt, created } = prepare(&places, &mut damages)?;
        let table = Arc::new(FileTable::new(places.log.clone(), files));
        let marker = Marker::read(&places.marker)?;
        // What is seen here may be in the system's cache alone, when the last life ended in a failed sync.
        sync_dir(&places.root)?;
        if let Ok(marker) = &marker {
            drop_leftovers(&places, &table, marker.first)?;
        }
        let numbers = log::list(&places.log)?;
        let key = FrameKey::new(&salt);
        let said = Synced::read(&places.synced)?;
        let synced = said.ok();
        let source = Source { places: &places, table: &table, key: &key, salt: &salt, numbers: &numbers, synced };

        let checked = match &marker {
            Ok(marker) => match load(&source, marker, &options)? {
                Err(Unusable::Full) => {
                    // What was set aside for this may be enough.
                    remove_if_there(&places.reserve)?;
                    load(&source, marker, &options)?
                }
                loaded => loaded,
            },
            Err(why) => Err((*why).to_owned().into()),
        };
        let (opened, index_state) = match checked {
            Ok(opened) => (opened, IndexState::Intact),
            Err(Unusable::Full) => return Err(no_room(&places)),
            Err(Unusable::Broken(why)) => {
                let (opened, set_aside) = rebuild(&source, &options)?;
                let state = if created { IndexState::Created } else { IndexState::Rebuilt { why, set_aside } };
                (opened, state)
            }
        };
        let Opened { overlay, unsure, loaded, replayed } = opened;
        let mut missing = Vec::new();
        if let Ok(marker) = &marker {
            // Replay has seen gaps behind its start, which is the first file there is when the index was rebuilt.
            let intact = index_state == IndexState::Intact;
            let seen = numbers.first().copied().filter(|_| !intact).unwrap_or(marker.replay_from.file);
            let last = numbers.last().copied().unwrap_or(0).max(seen);
            let unseen = [marker.first..seen, last + 1..marker.newest.saturating_add(1)];
            for (number, count) in unseen.into_iter().flat_map(|range| log::gaps(&numbers, range)) {
                let file = places.name(&table.path(number));
                missing.push(Damage { file, offset: 0, len: 0, what: log::missing(count) });
            }
        }
        let position = source.mend(&replayed, marker.as_ref().ok())?;
        source.write_tail_again(&replayed)?;
        let sizes = sizes(&table, &numbers)?;
        let mut log = Log::new(table.clone(), salt, options.roll_at, sizes, position)?;
        // All that was replayed is durable by now.
        let now =
            synced.max(Some(replayed.synced(log.position()))).unwrap_or_else(|| unreachable!("the greater of two"));
        log.synced = Some(SyncedFile::open(table.files(), &places.synced, synced.is_some(), now)?);
        let marker = match (marker, &index_state) {
            (Ok(marker), IndexState::Intact) => marker,
            _ => {
                let first = *log.sizes.keys().next().unwrap_or(&position.file);
                let at = log.position();
                let marker = Marker { first, newest: at.file, replay_from: at, writing_to: None, sum: loaded.sum };
                finish_rebuild(&places, &marker)?;
                marker
            }
        };
        if let Err(why @ Unknown::Damaged) = said {
            let what = format!("{why}; {}", synced::MEANS);
            damages.push(Damage { file: places.name(&places.synced), offset: 0, len: 0, what });
        }
        let unknown_end = said.err().filter(|_| !created).map(|why| format!("{} is {why}", places.synced.display()));
        // What was cut off as never confirmed may have been, when nothing says how far the log was synced.
        let perhaps = replayed.torn_tail.iter().filter(|_| unknown_end.is_some());
        let lost = lost_commits(missing.iter().chain(&replayed.damages).chain(perhaps));
        damages.extend(missing);
        damages.extend(replayed.damages);
        let report = OpenReport {
            damages,
            torn_tail: replayed.torn_tail,
            unknown_end,
            index: index_state,
            replayed: replayed.frames,
        };
        let mut store = Self {
            tried_at: (0, 0),
            replayed: log.bytes_from(marker.replay_from),
            shared: Arc::new(Shared::new(overlay, loaded.index.clone(), table, log.position(), lost)),
            index: Some(loaded.index),
            options,
            places,
            log,
            live: loaded.live,
            marker,
            unsure,
            index_is_suspect: false,
            renew_to: None,
            is_full: false,
            _lock: lock,
        };
        store.make_reserve();
        Ok((store, report))
    }

    /// Sets the reserve aside when there is room for it.
    pub(super) fn make_reserve(&mut self) {
        let path = &self.places.reserve;
        // A shorter one was cut short by a crash.
        if fs::metadata(path).map_or(0, |file| file.len()) >= self.options.reserve {
            self.is_full = false;
            return;
        }
        // Not sparse, or it would reserve nothing.
        let block = vec![0xa5; 64 << 10];
        let write = || {
            let mut file = File::create(path)?;
            let mut left = self.options.reserve as usize;
            while left > 0 {
                let part = left.min(block.len());
                file.write_all(&block[..part])?;
                left -= part;
            }
            file.sync_all()
        };
        self.is_full = write().is_err();
        if self.is_full {
            let _ = fs::remove_file(path);
        }
    }
}

/// What damage to the log says of the commits that were there.
fn lost_commits<'a>(damages: impl Iterator<Item = &'a Damage>) -> Option<LostCommits> {
    // Where something is missing, nothing says how long it was.
    let bytes = damages.map(|damage| (damage.len > 0).then_some(damage.len));
    bytes.reduce(|sum, len| Some(sum? + len?)).map(|bytes| LostCommits { bytes })
}

pub(super) struct Opened {
    pub(super) overlay: Overlay,
    unsure: BTreeSet<bytes::Bytes>,
    pub(super) loaded: Loaded,
    replayed: Replayed,
}

/// The usual way: replays from the marker and checks that the index is what the marker says. The inner error says why
/// the index is of no use.
pub(super) fn load(
    source: &Source<'_>,
    marker: &Marker,
    options: &DiskOptions,
) -> Result<Result<Opened, Unusable>, StoreError> {
    let (mut overlay, mut live, mut unsure) = (Overlay::new(), BTreeMap::new(), BTreeSet::new());
    let mut bad = Vec::new();
    let mut replayed = source.replay(Some(marker.replay_from), &mut |found| {
        if !apply(&mut overlay, &mut live, found.file, found.payload_at, found.payload) {
            bad.push(source.unreadable(&found));
            return Ok(());
        }
        if marker.writing_to.is_some_and(|to| (found.file, found.at) < (to.file, to.offset)) {
            let keys = records(found.payload).flatten().map(|(record, _)| bytes::Bytes::copy_from_slice(record.key));
            unsure.extend(keys);
        }
        Ok(())
    })?;
    replayed.damages.append(&mut bad);
    let index = &source.places.index;
    let opened = Index::open(index, options.index_cache, options.index_patience, marker.sum, unsure.clone());
    Ok(opened.map(|(index, Scrubbed { live: indexed, .. })| {
        for (file, bytes) in indexed {
            *live.entry(file).or_default() += bytes;
        }
        Opened { overlay, unsure, loaded: Loaded { index, live, sum: marker.sum }, replayed }
    }))
}

/// The other way: sets the index aside and makes a new one from the whole log.
fn rebuild(source: &Source<'_>, options: &DiskOptions) -> Result<(Opened, Option<PathBuf>), StoreError> {
    let (loaded, replayed, set_aside) = rebuild_index(source, options)?;
    Ok((Opened { overlay: Overlay::new(), unsure: BTreeSet::new(), loaded, replayed }, set_aside))
}

/// Sets the index aside and makes a new one, durable, from the whole log. The caller writes the marker.
pub(super) fn rebuild_index(
    source: &Source<'_>,
    options: &DiskOptions,
) -> Result<(Loaded, Replayed, Option<PathBuf>), StoreError> {
    let set_aside = set_aside(source.places)?;
    let index = Index::open(
        &source.places.index,
        options.index_cache,
        options.index_patience,
        TableSum::default(),
        BTreeSet::new(),
    );
    let (index, _) = index.map_err(|error| match error {
        Unusable::Full => no_room(source.places),
        Unusable::Broken(why) => StoreError::Io {
            context: format!("creating the index {}", source.places.index.display()),
            source: io::Error::other(why),
        },
    })?;
    let mut loaded = Loaded { index, live: BTreeMap::new(), sum: TableSum::default() };
    let (mut rows, mut bad) = (Overlay::new(), Vec::new());
    let mut replayed = source.replay(None, &mut |found| {
        if !apply(&mut rows, &mut loaded.live, found.file, found.payload_at, found.payload) {
            bad.push(source.unreadable(&found));
        }
        if rows.len() >= options.checkpoint_rows {
            write_rows(&mut loaded, &std::mem::take(&mut rows))?;
            // Without a flush now and then sled keeps all of it in memory.
            loaded.index.make_durable()?;
        }
        Ok(())
    })?;
    replayed.damages.append(&mut bad);
    write_rows(&mut loaded, &rows)?;
    loaded.index.make_durable()?;
    Ok((loaded, replayed, set_aside))
}

/// Moves the index out of the way: the marker goes first, so that no crash can make it vouch for another index.
fn set_aside(places: &Places) -> Result<Option<PathBuf>, StoreError> {
    remove_if_there(&places.marker)?;
    let mut moved = None;
    if places.rebuilding.exists() {
        // Our own unfinished work of an interrupted rebuild.
        match fs::remove_dir_all(&places.index) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("removing", &places.index, error));
            }
            _ => {}
        }
    } else if places.index.exists() {
        let free = (1..).map(|number| places.root.join(format!("sled.broken-{number}"))).find(|path| !path.exists());
        if let Some(to) = free {
            fs::rename(&places.index, &to).map_err(|error| io_error("setting aside", &places.index, error))?;
            moved = Some(to);
        }
    }
    sync_dir(&places.root)?;
    write_atomically(&places.rebuilding, b"the index is being rebuilt from the log\n")?;
    Ok(moved)
}

/// Makes a rebuilt index the valid one.
pub(super) fn finish_rebuild(places: &Places, marker: &Marker) -> Result<(), StoreError> {
    marker.write(&places.marker)?;
    remove_if_there(&places.rebuilding)?;
    sync_dir(&places.root)
}

/// The index can not even be opened without some room on the disk.
pub(super) fn no_room(places: &Places) -> StoreError {
    StoreError::Full { context: format!("opening the index {}", places.index.display()) }
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("removing", path, error)),
        _ => Ok(()),
    }
}

/// Log files that the last checkpoint had given up, and a crash left there.
fn drop_leftovers(places: &Places, table: &FileTable, first: u64) -> Result<(), StoreError> {
    for number in log::list(&places.log)?.into_iter().filter(|number| *number < first) {
        remove_if_there(&table.path(number))?;
        table.sync_dir()?;
    }
    Ok(())
}

fn sizes(table: &FileTable, numbers: &[u64]) -> Result<BTreeMap<u64, u64>, StoreError> {
    let len = |number: u64| table.get(number).and_then(|file| file.len());
    let named = |number: &u64| {
        let size = len(*number).map_err(|error| io_error("opening", &table.path(*number), error))?;
        Ok((*number, size))
    };
    numbers.iter().map(named).collect()
}

impl Source<'_> {
    /// A frame that is intact and yet makes no sense.
    pub(super) fn unreadable(&self, found: &Found<'_>) -> Damage {
        Damage {
            file: self.places.name(&self.table.path(found.file)),
            offset: found.at,
            len: found.payload.len() as u64,
            what: "an intact frame with unknown contents".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_lost_the_length_is_known_or_it_is_not() {
        let lost = |lens: &[u64]| {
            let damage = |len: &u64| Damage { file: String::new(), offset: 0, len: *len, what: String::new() };
            let damages: Vec<_> = lens.iter().map(damage).collect();
            lost_commits(damages.iter()).map(|lost| lost.bytes)
        };
        assert_eq!(lost(&[]), None);
        assert_eq!(lost(&[5, 7]), Some(Some(12)));
        for unknown in [&[0][..], &[5, 0], &[0, 5], &[5, 0, 7]] {
            assert_eq!(lost(unknown), Some(None), "{unknown:?}");
        }
    }
}
