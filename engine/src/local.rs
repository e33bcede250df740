//! An engine and its store in one: commits on the calling thread.
//!
//! The thinnest driver there is, for programs that use the engine by itself. It reads the clocks, draws the epoch, and
//! now and then, along with a commit, looks after space: blocks of which most is consumed give way to what is left, and
//! what former lives of the node left open is folded once it is consumed. All the rest is the engine's. Who wants commits
//! to grow while the last one is written drives an [`Engine`] himself.

use std::{
    hash::{BuildHasher, RandomState},
    path::Path,
    time::{Instant, SystemTime},
};

use bytes::Bytes;

use crate::{
    Committed, Dot, Engine, EngineError, Entry, Epoch, MergeError, Message, NodeId, Now, OpenReport, Planted, Position,
    PublishError, Register, RegistryError, SegmentId, Set, Store, StoreError, Ticket, Unit, limits,
    store::{self, DiskOptions, DiskStore, MemoryStore},
};

/// Milliseconds between two looks after space, at least.
const LOOK_AFTER_MS: u64 = 500;

/// Why a [`Local`] could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The store, or what is in it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A commit failed. Of what it held, messages are gone; everything else waits for the next commit.
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
    /// When space was last looked after, in monotonic milliseconds.
    looked_ms: u64,
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
        let (store, found) = DiskStore::open(dir, DiskOptions::default())?;
        Ok((Self::open(store, node)?, found))
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
        let mut local = Self { engine, store, started, found, looked_ms: 0 };
        local.fold();
        local.commit()?;
        Ok(local)
    }

    /// What opening found: what was lost, above all.
    pub fn found(&self) -> &OpenReport {
        &self.found
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

    /// Writes all that is queued and syncs it; now it shows, and survives a crash. Twice a second or less it looks at some
    /// more blocks, whether they are worth rewriting; see [`Engine::compact`].
    ///
    /// # Errors
    /// [`LocalError::Commit`]. Large amounts are several commits: those before the one that failed have happened.
    pub fn commit(&mut self) -> Result<Committed, LocalError> {
        let now = self.now();
        if now.mono_ms >= self.looked_ms.saturating_add(LOOK_AFTER_MS) {
            self.looked_ms = now.mono_ms;
            self.fold();
            self.engine.compact(now);
        }
        self.write()
    }

    /// Gives back, at once, all space that can be had: rewrites every block of which three quarters are consumed, however
    /// young it is. For programs that are never open for long, which [`Local::commit`] alone would not help: it leaves
    /// blocks alone that have been here for less than [`REWRITE_AGE_MS`](crate::limits::REWRITE_AGE_MS). What is queued is
    /// committed.
    ///
    /// # Errors
    /// As [`Local::commit`].
    pub fn compact(&mut self) -> Result<(), LocalError> {
        self.write()?;
        let mut is_last = false;
        while !is_last {
            let now = self.now();
            let later = Now { mono_ms: now.mono_ms.saturating_add(limits::REWRITE_AGE_MS), ..now };
            is_last = self.engine.compact(later);
            self.write()?;
        }
        self.fold();
        self.write()?;
        Ok(self.store.checkpoint()?)
    }

    /// Folds what a former life of this node left open when it ended, if all that is known of it is consumed. Nobody else
    /// has to be asked: see [`Engine::fold`].
    fn fold(&mut self) {
        let (node, epoch) = (self.engine.node(), self.engine.epoch());
        let is_former = |id: &SegmentId| id.node == node && id.epoch != epoch;
        let former: Vec<_> = self.engine.segments().filter(is_former).collect();
        former.into_iter().for_each(|id| self.engine.fold(id));
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
        if self.store.wants_checkpoint() {
            self.store.checkpoint()?;
        }
        Ok(done)
    }

    /// Takes over all that another replica has and this one lacks, and commits it.
    ///
    /// # Errors
    /// As [`Engine::delta_for`], [`Engine::merge`] and [`Local::commit`].
    pub fn pull_from<T>(&mut self, other: &Local<T>) -> Result<Committed, LocalError> {
        let mut done = Committed::default();
        let mut next = Some(Position::default());
        while let Some(position) = next {
            let mut delta = other.engine.delta_for(&self.engine.summary_from(&position))?;
            next = delta.more.take();
            self.engine.merge(delta)?;
            done.add(self.commit()?);
        }
        Ok(done)
    }

    /// Ends this life in order: states the length of its last segment, so that it can retire without us.
    ///
    /// # Errors
    /// As [`Local::commit`].
    pub fn close(mut self) -> Result<S, LocalError> {
        self.engine.close_segment();
        self.commit()?;
        self.store.checkpoint()?;
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
    fn lives_that_end_without_a_word_leave_nothing_but_what_waits() {
        let mut store = MemoryStore::new();
        for life in 0..50 {
            let mut a = Local::open(store, NodeId::from_name("a")).expect("memory");
            a.publish("q", format!("{life}")).expect("lawful");
            a.commit().expect("memory");
            let dots: Vec<_> = a.waiting("q").map(|waits| waits.expect("reads").0).collect();
            // The first one's message is left alone.
            let epoch = a.engine().epoch();
            dots.iter().filter(|dot| life > 0 && dot.segment.epoch == epoch).for_each(|dot| a.consume(*dot));
            a.commit().expect("memory");
            store = a.store;
        }
        let a = Local::open(store, NodeId::from_name("a")).expect("memory");
        assert_eq!((a.engine().segments().count(), a.waiting("q").count()), (1, 1));
        assert_eq!(a.engine().retired().lives().count(), 49);
    }

    #[test]
    fn blocks_of_which_most_is_consumed_give_their_space_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut a, _) = Local::open_dir(dir.path(), NodeId::from_name("a")).expect("opens");
        for number in 0..8_000_u32 {
            a.publish("q", [&number.to_be_bytes()[..], &[0; 1_000]].concat()).expect("lawful");
            if number % 256 == 255 {
                a.commit().expect("there is room");
            }
        }
        a.commit().expect("there is room");
        let dots: Vec<_> = a.waiting("q").map(|waits| waits.expect("reads").0).collect();
        dots.iter().enumerate().filter(|(place, _)| place % 64 > 0).for_each(|(_, dot)| a.consume(*dot));
        a.commit().expect("there is room");
        let stored = |a: &Local<DiskStore>| {
            let first = |id| a.engine().blocks_with(id, &a.engine().segment(id).expect("here").known);
            let bytes = |(id, first)| a.engine().block(id, first).expect("reads").expect("here").bytes().len();
            a.engine()
                .segments()
                .flat_map(|id| first(id).into_iter().map(move |first| (id, first)))
                .map(bytes)
                .sum::<usize>()
        };
        assert!(stored(&a) > 4_000_000, "they are young: {}", stored(&a));
        a.compact().expect("there is room");
        assert!(stored(&a) < 200_000, "{} bytes for 125 messages", stored(&a));
        assert_eq!(a.waiting("q").count(), 125);
        drop(a);
        let (a, _) = Local::open_dir(dir.path(), NodeId::from_name("a")).expect("opens");
        assert!(a.found().losses.is_empty());
        let left = a.waiting("q").map(|waits| waits.expect("reads").1.body);
        let numbers: Vec<_> = left.map(|body| u32::from_be_bytes(body[..4].try_into().expect("four"))).collect();
        assert_eq!(numbers, (0..8_000).step_by(64).collect::<Vec<_>>());
    }

    #[test]
    fn each_open_is_a_new_life() {
        let epochs: std::collections::BTreeSet<_> = (0..100).map(|_| fresh_epoch()).collect();
        assert_eq!(epochs.len(), 100);
    }
}
