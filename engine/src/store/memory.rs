//! A disk for simulation: it forgets what was not synced when it crashes, can be copied and put back, and fails when
//! told to. No IO, no clock, no randomness: what it does depends on its inputs alone.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;

use super::{Batch, KeyVisitor, Op, Read, Store, StoreError};

type Rows = Arc<BTreeMap<Bytes, Bytes>>;

/// Rows that a [`MemoryStore::scan`](Read::scan) collects before it calls the visitor, so that no lock is held then.
const CHUNK: usize = 256;

/// The in-memory [`Store`]. Its contents stand for the disk: they live on when the "process" crashes.
#[derive(Default)]
pub struct MemoryStore {
    synced: Arc<Synced>,
    staged: Vec<Batch>,
    failure: Option<StoreError>,
    broken: bool,
}

/// An old copy of the disk; taking one costs nothing until the store is written again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(Rows);

#[derive(Default)]
struct Synced(RwLock<Rows>);

impl MemoryStore {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands a batch to the "device" without waiting: invisible to readers until [`MemoryStore::sync`] succeeds, and
    /// lost or kept by a crash as the crash likes.
    pub fn stage(&mut self, batch: Batch) {
        self.staged.push(batch);
    }

    /// How many batches are staged: a crash may keep any prefix of them.
    pub fn staged(&self) -> usize {
        self.staged.len()
    }

    /// Makes everything staged durable and visible.
    ///
    /// # Errors
    /// What [`MemoryStore::fail_next`] ordered. After [`StoreError::Full`] the staged batches are forgotten; after any
    /// other error they hang in the air until [`MemoryStore::crash`], and the store refuses to go on until then.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Io {
                context: "an earlier sync failed; reopen the store".to_owned(),
                source: std::io::Error::other("refused"),
            });
        }
        match self.failure.take() {
            None => {
                self.keep(self.staged.len());
                Ok(())
            }
            Some(error) => {
                if matches!(error, StoreError::Full { .. }) {
                    self.staged.clear();
                } else {
                    self.broken = true;
                }
                Err(error)
            }
        }
    }

    /// The process dies: of the staged batches the first `keep` happen to have reached the disk, the rest is gone.
    /// The store can be used again at once, as a restarted process would.
    pub fn crash(&mut self, keep: usize) {
        self.keep(keep.min(self.staged.len()));
        self.broken = false;
        self.failure = None;
    }

    /// The next sync fails like this.
    pub fn fail_next(&mut self, error: StoreError) {
        self.failure = Some(error);
    }

    /// A copy of the disk as it is now, without what is staged.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.synced.rows())
    }

    /// Puts an old copy of the disk back; what is staged is forgotten. Readers handed out before see it too.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.staged.clear();
        self.crash(0);
        self.synced.replace(snapshot.0.clone());
    }

    fn keep(&mut self, count: usize) {
        let mut rows = self.synced.rows();
        let changed = Arc::make_mut(&mut rows);
        for op in self.staged.drain(..).take(count).flatten() {
            match op {
                Op::Put(key, value) => changed.insert(key, value),
                Op::Delete(key) => changed.remove(&key),
            };
        }
        self.synced.replace(rows);
    }
}

impl From<Snapshot> for MemoryStore {
    /// A second disk with the same contents.
    fn from(snapshot: Snapshot) -> Self {
        let store = Self::new();
        store.synced.replace(snapshot.0);
        store
    }
}

impl Store for MemoryStore {
    fn reader(&self) -> Arc<dyn Read> {
        self.synced.clone()
    }

    fn commit(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        self.staged.extend_from_slice(batches);
        self.sync()
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn wants_checkpoint(&self) -> bool {
        false
    }
}

impl Synced {
    // A poisoned lock only says that a reader panicked; the rows are replaced whole, so they are never half changed.
    fn rows(&self) -> Rows {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, rows: Rows) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    /// Goes by chunks and not through a clone of the whole: a clone would make the next write copy everything.
    fn visit(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&Bytes, &Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut start = Bound::Included(Bytes::copy_from_slice(from));
        while !matches!(&start, Bound::Included(key) | Bound::Excluded(key) if &key[..] >= to) {
            let chunk: Vec<(Bytes, Bytes)> = {
                let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
                let range = rows.range::<[u8], _>((start.as_ref().map(|key| &key[..]), Bound::Excluded(to)));
                range.take(CHUNK).map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            if chunk.iter().any(|(key, value)| visit(key, value).is_break()) {
                break;
            }
            match chunk.into_iter().next_back() {
                Some((last, _)) => start = Bound::Excluded(last),
                None => break,
            }
        }
        Ok(())
    }
}

impl Read for Synced {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.visit(from, to, &mut |key, value| visit(key, value.clone()))
    }

    fn scan_keys(&self, from: &[u8], to: &[u8], visit: &mut KeyVisitor<'_>) -> Result<(), StoreError> {
        self.visit(from, to, &mut |key, value| visit(key, Some(value.len() as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> Op {
        Op::Put(Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()))
    }

    fn get(store: &MemoryStore, key: &str) -> Option<Bytes> {
        store.reader().get(key.as_bytes()).unwrap()
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_what_was_staged_and_nothing_of_it_shows_before() {
        let mut store = MemoryStore::new();
        store.stage(vec![put("a", "1")]);
        store.stage(vec![put("b", "2"), put("c", "3")]);
        store.stage(vec![put("a", "4")]);
        assert_eq!((store.staged(), get(&store, "a")), (3, None));
        store.crash(2);
        assert_eq!((get(&store, "a").unwrap(), get(&store, "c").unwrap()), (Bytes::from("1"), Bytes::from("3")));
        assert_eq!(store.staged(), 0);
        store.stage(vec![put("a", "5")]);
        store.sync().unwrap();
        store.crash(9);
        assert_eq!(get(&store, "a").unwrap(), "5");
    }

    #[test]
    fn a_full_disk_forgets_the_batch_and_a_failed_sync_blocks_until_the_crash() {
        let mut store = MemoryStore::new();
        store.fail_next(StoreError::Full { context: "test".to_owned() });
        assert!(matches!(store.commit(&[vec![put("a", "1")]]), Err(StoreError::Full { .. })));
        store.commit(&[vec![put("b", "1")]]).unwrap();
        assert_eq!((get(&store, "a"), get(&store, "b").unwrap()), (None, Bytes::from("1")));

        store.fail_next(StoreError::Io { context: "test".to_owned(), source: std::io::Error::other("EIO") });
        assert!(store.commit(&[vec![put("c", "1")]]).is_err());
        assert!(matches!(store.commit(&[vec![put("d", "1")]]), Err(StoreError::Io { .. })));
        assert_eq!(get(&store, "c"), None);
        store.crash(1);
        assert_eq!((get(&store, "c").unwrap(), get(&store, "d")), (Bytes::from("1"), None));
        store.commit(&[vec![put("d", "1")]]).unwrap();
    }

    #[test]
    fn an_old_copy_of_the_disk_comes_back_whole() {
        let mut store = MemoryStore::new();
        store.commit(&[vec![put("a", "old")]]).unwrap();
        let copy = store.snapshot();
        store.commit(&[vec![put("a", "new"), put("b", "new")]]).unwrap();
        let reader = store.reader();
        store.restore(&copy);
        assert_eq!((reader.get(b"a").unwrap().unwrap(), reader.get(b"b").unwrap()), (Bytes::from("old"), None));
        assert_eq!(MemoryStore::from(copy.clone()).snapshot(), copy);
    }
}
