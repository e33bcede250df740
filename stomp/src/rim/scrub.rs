//! The thread that reads the store: round after round at a bounded pace, and at once when somebody asks for a check or
//! a copy. What it finds goes to the core as inputs; it never waits for the core otherwise.

use std::{
    io,
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc as sync,
    },
    thread,
    time::{Duration, Instant},
};

use rhizomq_engine::store::{BackupError, Check, Checked, Copied, Finding};
use tokio::sync::{mpsc, oneshot};

/// Before the first round, and between two: opening has read all but the bodies.
const PAUSE: Duration = Duration::from_secs(20);

/// Bytes read between two sleeps.
const BURST_BYTES: u64 = 256 << 10;

/// Findings told to whoever asked; the log has all.
const MAX_TOLD: usize = 1_000;

/// Checks and copies that may wait for the one under way.
const WAITING: usize = 4;

/// Findings that may wait for the core.
const FINDINGS: usize = 64;

/// What a check that was asked for has found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// How much was looked at.
    pub checked: Checked,
    /// What is broken, the first 1,000.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more: u64,
}

/// A check or copy could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaintenanceError {
    /// Too many are asked for.
    #[error("other checks or copies of the store are under way; try again later")]
    Busy,
    /// The node is stopping, or its store has nothing to check.
    #[error("the store is closed")]
    Closed,
    /// The copy failed.
    #[error(transparent)]
    Copy(#[from] BackupError),
    /// The check failed.
    #[error("the store can't be checked: {0}")]
    Check(String),
}

type Answer<T> = oneshot::Sender<Result<T, MaintenanceError>>;

enum Job {
    Verify(Answer<Verified>),
    Copy(PathBuf, Answer<Copied>),
}

/// Asks the thread for something. Cheap to clone; does not keep the thread alive.
#[derive(Clone)]
pub(super) struct Jobs(std::sync::Weak<sync::SyncSender<Job>>);

impl Jobs {
    pub(super) async fn verify(&self) -> Result<Verified, MaintenanceError> {
        self.ask(Job::Verify).await
    }

    pub(super) async fn copy(&self, to: PathBuf) -> Result<Copied, MaintenanceError> {
        self.ask(|answer| Job::Copy(to, answer)).await
    }

    async fn ask<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T, MaintenanceError> {
        let (answer, result) = oneshot::channel();
        let sender = self.0.upgrade().ok_or(MaintenanceError::Closed)?;
        sender.try_send(job(answer)).map_err(|error| match error {
            sync::TrySendError::Full(_) => MaintenanceError::Busy,
            sync::TrySendError::Disconnected(_) => MaintenanceError::Closed,
        })?;
        drop(sender);
        result.await.unwrap_or(Err(MaintenanceError::Closed))
    }
}

/// The core's end of the thread.
pub(super) struct Scrubber {
    jobs: Arc<sync::SyncSender<Job>>,
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Scrubber {
    /// Starts the thread; `rate` in bytes a second, `None`: no rounds. A store without a checker needs no thread.
    ///
    /// # Errors
    /// The system has no thread for us.
    pub(super) fn start(
        check: Option<Box<dyn Check>>,
        rate: Option<u64>,
    ) -> io::Result<(Self, mpsc::Receiver<Finding>)> {
        let (jobs, queue) = sync::sync_channel(WAITING);
        let (found, findings) = mpsc::channel(FINDINGS);
        let (rounds, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let reader =
            check.map(|check| Reader { check, rate, queue, found, rounds: rounds.clone(), stop: stop.clone() });
        let start = |reader: Reader| thread::Builder::new().name("scrub".into()).spawn(move || reader.run());
        let thread = reader.map(start).transpose()?;
        Ok((Self { jobs: Arc::new(jobs), rounds, stop, thread }, findings))
    }

    pub(super) fn jobs(&self) -> Jobs {
        Jobs(Arc::downgrade(&self.jobs))
    }

    /// Complete rounds so far.
    pub(super) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Ends the thread and waits for it. The receiver of findings must be gone.
    pub(super) async fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take();
        drop(self);
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

struct Reader {
    check: Box<dyn Check>,
    rate: Option<u64>,
    queue: sync::Receiver<Job>,
    found: mpsc::Sender<Finding>,
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Reader {
    fn run(mut self) {
        loop {
            let job = match self.rate {
                Some(_) => self.queue.recv_timeout(PAUSE),
                None => self.queue.recv().map_err(|_| sync::RecvTimeoutError::Disconnected),
            };
            match (job, self.rate) {
                (Ok(job), _) => self.work(job),
                (Err(sync::RecvTimeoutError::Timeout), Some(rate)) => self.round(rate),
                _ => return,
            }
        }
    }

    /// One round at `rate`; given up when something else is asked for.
    fn round(&mut self, rate: u64) {
        let (mut waiting, mut owed) = (None, 0);
        let Self { check, queue, found, .. } = self;
        let mut pace = |bytes: u64| {
            owed += bytes;
            if owed < BURST_BYTES {
                return ControlFlow::Continue(());
            }
            let pause = Duration::from_secs_f64(owed as f64 / rate.max(1) as f64);
            owed = 0;
            match queue.recv_timeout(pause) {
                Err(sync::RecvTimeoutError::Timeout) => return ControlFlow::Continue(()),
                Ok(job) => waiting = Some(job),
                Err(sync::RecvTimeoutError::Disconnected) => {}
            }
            ControlFlow::Break(())
        };
        match check.check(&mut pace, &mut |finding| _ = found.blocking_send(finding)) {
            Ok(checked) if !checked.cut_short => {
                self.rounds.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(?checked, "the store was read from end to end");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the store can't be checked"),
        }
        if let Some(job) = waiting {
            self.work(job);
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            // Who asked may be gone; what was found counts all the same.
            Job::Verify(answer) => _ = answer.send(self.verify()),
            Job::Copy(to, answer) => {
                let stop = self.stop.clone();
                let copied = self.check.copy(&to, &mut half_of_the_time(&stop));
                let _ = answer.send(copied.map_err(MaintenanceError::from));
            }
        }
    }

    fn verify(&mut self) -> Result<Verified, MaintenanceError> {
        let (mut findings, mut more) = (Vec::new(), 0);
        let (found, stop) = (&self.found, self.stop.clone());
        let mut note = |finding: Finding| {
            let _ = found.blocking_send(finding.clone());
            if findings.len() < MAX_TOLD { findings.push(finding) } else { more += 1 }
        };
        let checked = self.check.check(&mut half_of_the_time(&stop), &mut note);
        match checked {
            Ok(checked) if checked.cut_short => Err(MaintenanceError::Closed),
            Ok(checked) => Ok(Verified { checked, findings, more }),
            Err(error) => Err(MaintenanceError::Check(error.to_string())),
        }
    }
}

/// Sleeps as long as the work took, so that the node has half of the disk at least; breaks when the node stops.
fn half_of_the_time(stop: &AtomicBool) -> impl FnMut(u64) -> ControlFlow<()> {
    let (mut began, mut bytes) = (Instant::now(), 0);
    move |count| {
        bytes += count;
        if stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        if bytes >= BURST_BYTES {
            thread::sleep(began.elapsed());
            (began, bytes) = (Instant::now(), 0);
        }
        ControlFlow::Continue(())
    }
}
