//! An engine and its store in one: commits on the calling thread.
//!
//! The thinnest driver there is, for programs that use the engine by itself. It reads the clocks, draws the epoch, and
//! along with its commits looks after space (`upkeep.rs`): blocks of which most is consumed give way to what is left, what
//! former lives of the node left open is folded once it is consumed, and files go that nothing needs. All the rest is the
//! engine's. Who wants commits to grow while the last one is written drives an [`Engine`] himself.

#[cfg(test)]
mod kill;
mod upkeep;

use std::{
    hash::{BuildHasher, RandomState},
    path::Path,
    time::{Instant, SystemTime},
};

use bytes::Bytes;

use self::upkeep::Upkeep;
use crate::{
    Committed, DeltaError, Dot, Engine, EngineError, Entry, Epoch, Exchange, MergeError, Message, NodeId, Now,
    OpenReport, Planted, PublishError, RangeSet, Register, RegistryError, Set, Store, StoreError, Ticket, Unit,
    store::{self, DiskOptions, DiskStore, Finding, MemoryStore, Part},
};

/// Why a [`Local`] could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The store, or what is in it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A commit failed. Of what it held, messages are gone: those published here are in `lost`, those that came from other
    /// replicas come again with the next exchange. Everything else waits for the next commit.
    #[error("nothing was committed: {source}")]
    Commit {
        /// Why. After [`StoreError::Io`], open the store anew.
        source: StoreError,
        /// The units that did not happen.
        lost: Vec<Ticket>,
    },
    /// A message that can't be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A set or a register that refuses.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Bytes that are no message of an exchange.
    #[error(transparent)]
    Message(#[from] DeltaError),
    /// A delta that is refused.
    #[error(transparent)]
    Merge(#[from] MergeError),
}

impl From<StoreError> for LocalError {
    fn from(error: StoreError) -> Self {
        Self::Engine(error.into())
    }
}

/// An [`Engine`] that owns its [`Store`]. Changes queue; [`Local::commit`] writes and syncs them, and then they show.
pub struct Local<S> {
    engine: Engine,
    store: S,
    started: Instant,
    found: OpenReport,
    upkeep: Upkeep,
}

/// A register of a [`Local`], which knows what time it is.
pub struct LocalRegister<'a> {
    register: Register<'a>,
    now: Now,
}

impl Local<MemoryStore> {
    /// A replica that lives as long as the value: for tests, and for state that others keep.
    ///
    /// # Errors
    /// None that memory gives a reason for.
    pub fn in_memory(node: NodeId) -> Result<Self, LocalError> {
        Self::open(MemoryStore::new(), node)
    }
}

impl Local<DiskStore> {
    /// A replica in a directory, which is created if need be. What the disk store found is in the second part.
    ///
    /// # Errors
    /// The directory is in use, is another's, or can't be read; see [`DiskStore::open`].
    pub fn open_dir(dir: impl AsRef<Path>, node: NodeId) -> Result<(Self, store::OpenReport), LocalError> {
        Self::open_dir_with(dir, node, DiskOptions::default())
    }

    /// The same, with options of your own.
    ///
    /// # Errors
    /// As [`Local::open_dir`].
    pub fn open_dir_with(
        dir: impl AsRef<Path>,
        node: NodeId,
        options: DiskOptions,
    ) -> Result<(Self, store::OpenReport), LocalError> {
        let (store, found) = DiskStore::open(dir, options)?;
        let mut local = Self::open(store, node)?;
        if found.replayed > 0 {
            // The last life ended without a checkpoint. Short ones that all do so would else pile up their logs.
            local.checkpoint(1)?;
        }
        Ok((local, found))
    }
}

impl<S: Store> Local<S> {
    /// A replica on a store. Each open is a new life of the node; no two replicas may have one node's id at a time.
    ///
    /// # Errors
    /// The store fails, or belongs to another node.
    pub fn open(store: S, node: NodeId) -> Result<Self, LocalError> {
        let started = Instant::now();
        let (engine, found) =
            Engine::open(store.reader(), node, fresh_epoch(), now_since(started), Planted::default())?;
        let upkeep = Upkeep::new(&engine);
        let mut local = Self { engine, store, started, found, upkeep };
        local.write()?;
        local.look_around()?;
        Ok(local)
    }

    /// What opening found: what was lost, above all.
    pub fn found(&self) -> &OpenReport {
        &self.found
    }

    /// The store: for its figures, and for [`Store::checker`], which finds out in a thread of its own what of it is broken.
    /// What that finds is for [`Local::mend`].
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Mends what a check of the store has found, as far as it can be: a broken row is written again from memory, messages whose
    /// block is broken are given up, so that they may come again from another replica, and what is still good of a damaged
    /// file is written anew, and the file goes. All of it is committed. Returned are the messages that were given up.
    ///
    /// # Errors
    /// As [`Local::commit`].
    pub fn mend(&mut self, found: &Finding) -> Result<RangeSet, LocalError> {
        if let Some(key) = &found.row {
            self.engine.rewrite_row(key);
        }
        let mut lost = RangeSet::new();
        if let (Some(segment), Some(slot)) = (found.segment, found.slots.first()) {
            lost = self.engine.forget_damaged(Dot { segment, slot });
        }
        self.commit()?;
        if matches!(found.part, Part::Log | Part::Index) {
            self.store.renew(&found.damage.file)?;
        }
        Ok(lost)
    }

    /// The engine, for all that it can tell.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, for all that it can do. What is queued there goes with the next [`Local::commit`].
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The clocks, now.
    pub fn now(&self) -> Now {
        now_since(self.started)
    }

    /// A set under a name of your own; see [`Engine::set`].
    pub fn set(&mut self, name: &str) -> Set<'_> {
        self.engine.set(name)
    }

    /// A register under a name of your own; see [`Engine::register`].
    pub fn register(&mut self, name: &str) -> LocalRegister<'_> {
        let now = self.now();
        LocalRegister { register: self.engine.register(name), now }
    }

    /// Queues a message for an inbox.
    ///
    /// # Errors
    /// It is too large, or the inbox's name is not lawful.
    pub fn publish(&mut self, inbox: &str, body: impl Into<Bytes>) -> Result<Ticket, LocalError> {
        let unit = Unit { entries: vec![Entry::new(inbox, body)], removals: Vec::new() };
        Ok(self.engine.publish(unit)?)
    }

    /// Queues the consumption of a message: it never comes back, whoever still has it.
    pub fn consume(&mut self, dot: Dot) {
        self.engine.remove(dot);
    }

    /// What waits in an inbox, in order; read as it goes.
    pub fn waiting<'a>(&'a self, inbox: &'a str) -> impl Iterator<Item = Result<(Dot, Message), EngineError>> + 'a {
        let mut last = None;
        let dots = std::iter::from_fn(move || {
            last = self.engine.next_in(inbox, last);
            last
        });
        dots.filter_map(|dot| self.engine.message(dot).map(|message| Some((dot, message?))).transpose())
    }

    /// Writes all that is queued and syncs it; now it shows, and survives a crash. Then it looks after space, at a cost that
    /// depends on what was consumed: for each message it looks at one block, and rewrites those that are worth it.
    ///
    /// # Errors
    /// [`LocalError::Commit`]. Large amounts are several commits: those before the one that failed have happened. Any other
    /// error is about what is done besides; the commit has happened, and the store is to be opened anew.
    pub fn commit(&mut self) -> Result<Committed, LocalError> {
        let mut done = self.write()?;
        self.look_after(&mut done)?;
        Ok(done)
    }

    fn write(&mut self) -> Result<Committed, LocalError> {
        let mut done = Committed::default();
        loop {
            let now = self.now();
            if self.engine.needs_segment() {
                self.engine.begin_segment(now);
            }
            let Some(commit) = self.engine.poll_commit(now) else { break };
            match self.store.commit(&[commit.batch]) {
                Ok(()) => done.add(self.engine.handle_committed()),
                Err(source) => return Err(LocalError::Commit { source, lost: self.engine.handle_commit_failed() }),
            }
        }
        Ok(done)
    }

    /// Takes over all that another replica has and this one lacks, and commits it.
    ///
    /// # Errors
    /// As [`Engine::answer`], [`Engine::merge`] and [`Local::commit`].
    pub fn pull_from<T>(&mut self, other: &Local<T>) -> Result<Committed, LocalError> {
        let mut done = Committed::default();
        let mut to_other = vec![self.engine.pull()];
        while !to_other.is_empty() {
            for question in std::mem::take(&mut to_other) {
                for message in other.engine.answer(question)?.0 {
                    let (replies, news) = self.engine.answer(message)?;
                    to_other.extend(replies);
                    self.engine.merge(news)?;
                    done.add(self.commit()?);
                }
            }
        }
        Ok(done)
    }

    /// Begins an exchange with another replica, in bytes: what to send, so that the other may [`Local::answer`].
    pub fn begin(&self) -> Bytes {
        self.engine.exchange().encode()
    }

    /// Answers a message of an exchange: takes over what is in it, commits, and says what to send back. See
    /// [`Engine::exchange`].
    ///
    /// # Errors
    /// The bytes are no message, or as [`Engine::answer`], [`Engine::merge`] and [`Local::commit`].
    pub fn answer(&mut self, message: &[u8]) -> Result<Vec<Bytes>, LocalError> {
        let (replies, news) = self.engine.answer(Exchange::decode(message)?)?;
        if !news.is_empty() {
            self.engine.merge(news)?;
            self.commit()?;
        }
        Ok(replies.iter().map(Exchange::encode).collect())
    }

    /// Ends this life in order: states the length of its last segment, so that it can retire without us.
    ///
    /// # Errors
    /// As [`Local::commit`].
    pub fn close(mut self) -> Result<S, LocalError> {
        self.engine.close_segment();
        self.commit()?;
        self.checkpoint(upkeep::CHECKPOINTS)?;
        Ok(self.store)
    }
}

impl LocalRegister<'_> {
    /// Writes, in the next commit; see [`Register::set`].
    ///
    /// # Errors
    /// As [`Register::set`].
    pub fn set(&mut self, content: impl AsRef<[u8]>) -> Result<(), RegistryError> {
        self.register.set(content, self.now)
    }

    /// What is in it, as committed.
    pub fn get(&self) -> Option<&[u8]> {
        self.register.get()
    }
}

fn now_since(started: Instant) -> Now {
    let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Now {
        mono_ms: ms(started.elapsed()),
        // A clock before 1970 is as good as none: stamps rise by what was seen.
        wall_ms: SystemTime::UNIX_EPOCH.elapsed().map_or(0, ms),
    }
}

/// 64 bits that no life had before: the seeds of `RandomState` are the system's randomness.
fn fresh_epoch() -> Epoch {
    let mut hasher = blake3::Hasher::new();
    for round in 0..4_u8 {
        hasher.update(&RandomState::new().hash_one(round).to_le_bytes());
    }
    hasher.update(format!("{:?} {}", SystemTime::now(), std::process::id()).as_bytes());
    let mut bits = [0; 8];
    hasher.finalize_xof().fill(&mut bits);
    Epoch(u64::from_le_bytes(bits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Key,
        registry::{KEY_BYTES, NAME_BYTES, VALUE_BYTES},
    };

    fn local(name: &str) -> Local<MemoryStore> {
        Local::in_memory(NodeId::from_name(name)).expect("memory opens")
    }

    #[test]
    fn nothing_shows_before_it_is_durable_and_a_failed_commit_says_what_is_lost() {
        let mut a = local("a");
        a.set("s").add("x").expect("lawful");
        a.register("r").set("y").expect("lawful");
        let ticket = a.publish("q", "z").expect("lawful");
        a.store.fail_next(StoreError::Full { context: "told to".to_owned() });
        let shows = |a: &mut Local<MemoryStore>| {
            (a.set("s").contains("x"), a.register("r").get().map(<[u8]>::to_vec), a.waiting("q").count())
        };
        let nothing = (false, None, 0);
        assert_eq!(shows(&mut a), nothing);
        match a.commit() {
            Err(LocalError::Commit { source: StoreError::Full { .. }, lost }) => assert_eq!(lost, [ticket]),
            other => panic!("{other:?}"),
        }
        assert_eq!(shows(&mut a), nothing);
        // There is room again: what is no message happens, and the message can be published again.
        a.publish("q", "z").expect("lawful");
        let done = a.commit().expect("there is room");
        assert_eq!(done.registry.iter().filter_map(Key::own_name).collect::<Vec<_>>(), ["r", "s"]);
        assert_eq!(shows(&mut a), (true, Some(b"y".to_vec()), 1));
    }

    #[test]
    fn a_running_store_is_checked_and_mended() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let options = DiskOptions { roll_at: 16 << 10, ..DiskOptions::default() };
        let open = || Local::open_dir_with(dir.path(), NodeId::from_name("a"), options.clone()).expect("opens").0;
        let mut a = open();
        for number in 0..3_u8 {
            a.publish("q", vec![b'a' + number; 30_000]).expect("lawful");
            a.commit().expect("room");
        }
        assert!(a.store().stats().files > 2, "the options count");
        let path = dir.path().join("log/0000000002.log");
        let mut bytes = std::fs::read(&path).expect("there");
        bytes[20_000] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        let check = |a: &Local<DiskStore>| {
            let (mut checker, mut found) = (a.store().checker().expect("a disk"), Vec::new());
            let mut pace = |_| std::ops::ControlFlow::Continue(());
            checker.check(&mut pace, &mut |finding| found.push(finding)).expect("reads");
            found
        };
        let found = check(&a);
        assert!(found.len() > 1, "{found:?}");
        let lost: u64 = found.iter().map(|finding| a.mend(finding).expect("room").len()).sum();
        assert_eq!((lost, check(&a)), (1, vec![]));
        drop(a);
        let mut a = open();
        assert!(a.found().losses.is_empty() && a.found().waiting == 2);
        // What it did not know before it can be told again.
        a.publish("q", "x").expect("lawful");
        a.commit().expect("room");
    }

    #[test]
    fn a_store_closed_in_order_opens_with_all_that_was_in_it_and_another_nodes_not_at_all() {
        let mut a = local("a");
        for number in 0..3 {
            a.publish("q", format!("{number}")).expect("lawful");
            a.commit().expect("memory");
        }
        a.set("s").add("x").expect("lawful");
        let store = a.close().expect("memory");
        let copy = MemoryStore::from(store.snapshot());
        let mut a = Local::open(store, NodeId::from_name("a")).expect("memory");
        assert!(a.found().losses.is_empty() && a.found().waiting == 3);
        let bodies: Vec<_> = a.waiting("q").map(|waits| waits.expect("reads").1.body).collect();
        assert_eq!(bodies, ["0", "1", "2"]);
        assert!(a.set("s").contains("x") && !a.set("s").contains("y"));
        // The length was stated: once consumed, the segment is over, and a few bytes remain.
        let dots: Vec<_> = a.waiting("q").map(|waits| waits.expect("reads").0).collect();
        dots.into_iter().for_each(|dot| a.consume(dot));
        a.commit().expect("memory");
        assert_eq!(a.engine().segments().count(), 0);
        assert!(matches!(Local::open(copy, NodeId::from_name("b")), Err(LocalError::Engine(EngineError::Foreign(_)))));
    }

    #[test]
    fn own_names_have_limits_and_never_meet_the_clusters_keys() {
        let mut a = local("a");
        let (longest, longer) = ("n".repeat(NAME_BYTES), "n".repeat(NAME_BYTES + 1));
        for name in ["roster", "node/1", "own/x", "ü", " ", longest.as_str()] {
            a.set(name).add("x").expect("lawful");
            a.register(name).set("y").expect("lawful");
            a.commit().expect("memory");
            assert!(a.set(name).contains("x") && a.register(name).get() == Some(b"y"));
            assert_eq!(Key::own_set(name).own_name(), Some(name));
            assert!(a.engine().registry().get(&Key::set(name)).is_none());
            assert!(Key::from_bytes(Key::own_set(name).as_bytes()).is_ok());
        }
        assert_eq!(Key::own_set(&longest).as_bytes().len(), KEY_BYTES + 1);
        for name in ["", longer.as_str()] {
            assert_eq!(a.set(name).add("x"), Err(RegistryError::Key));
            assert_eq!(a.set(name).remove("x"), Err(RegistryError::Key));
            assert_eq!(a.register(name).set("x"), Err(RegistryError::Key));
            assert!(a.set(name).members().is_empty() && a.register(name).get().is_none());
        }
        assert_eq!(Key::set("roster").own_name(), None);
        assert!(matches!(a.set("s").add(vec![0; VALUE_BYTES]), Err(RegistryError::TooLarge(_))));
        assert!(!a.engine().has_queued(), "what was refused is not queued");
    }

    #[test]
    fn more_than_one_delta_holds_is_pulled_in_parts() {
        let (mut a, mut b) = (local("a"), local("b"));
        for number in 0..24 {
            a.publish("q", vec![number; 1 << 20]).expect("lawful");
            a.register(&format!("r{number}")).set(vec![number; VALUE_BYTES - 200]).expect("lawful");
            // Those of b are newer: they differ, and are no news for it.
            b.register(&format!("r{number}")).set("b").expect("lawful");
            a.commit().expect("memory");
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
        (0..24).for_each(|number| b.register(&format!("r{number}")).set("newer").expect("lawful"));
        b.commit().expect("memory");
        a.register("r99").set("last").expect("lawful");
        a.commit().expect("memory");
        let first = a.engine().delta_for(&b.engine().summary()).expect("reads");
        assert!(first.more.is_some() && first.encode().len() < crate::limits::DELTA_BYTES + (3 << 20));
        b.pull_from(&a).expect("valid");
        assert_eq!(b.waiting("q").count(), 24);
        assert_eq!(b.register("r99").get(), Some(&b"last"[..]));
        assert_eq!(b.register("r5").get(), Some(&b"newer"[..]));
        a.pull_from(&b).expect("valid");
        assert_eq!(a.engine_mut().digest(|_| true), b.engine_mut().digest(|_| true));
    }

    #[test]
    fn each_open_is_a_new_life() {
        let epochs: std::collections::BTreeSet<_> = (0..100).map(|_| fresh_epoch()).collect();
        assert_eq!(epochs.len(), 100);
    }
}
