//! The thread that writes: one commit at a time, synced, then reported. While it writes, the core gathers the next one,
//! so commits grow with load and never wait when there is none.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as sync,
    },
    thread,
    time::Duration,
};

use rhizomq_engine::{Batch, Store, StoreError};
use tokio::sync::mpsc;

/// Pause before a full disk is reported: what failed is tried again at once.
const FULL_PAUSE: Duration = Duration::from_millis(250);

/// How a write ended.
#[derive(Debug)]
pub(super) enum Written {
    /// Durable.
    Done(u64),
    /// Nothing was written; it may go better later.
    Refused(u64, String),
    /// The store must be reopened: nothing that is not re-read may be trusted.
    Broken(StoreError),
}

#[derive(Debug)]
enum Job {
    Commit(u64, Batch),
    /// See [`Store::renew`].
    Renew(String),
}

/// The core's end. Dropping it ends the thread after the write under way and a last checkpoint.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<sync::SyncSender<Job>>,
    /// A renewal is waiting or under way: one at a time, so that a commit always finds room.
    renewing: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread for us.
    pub(super) fn start(store: Box<dyn Store>) -> io::Result<(Self, mpsc::Receiver<Written>)> {
        // One commit at a time is the engine's law, and one renewal is ours.
        let (jobs, queue) = sync::sync_channel(2);
        let (reports, receiver) = mpsc::channel(2);
        let renewing = Arc::new(AtomicBool::new(false));
        let busy = renewing.clone();
        let thread =
            thread::Builder::new().name("store".into()).spawn(move || write(store, &queue, &reports, &busy))?;
        Ok((Self { jobs: Some(jobs), renewing, thread: Some(thread) }, receiver))
    }

    /// Hands over a commit.
    pub(super) fn write(&self, seq: u64, batch: Batch) {
        // A thread that is gone has reported why; the core is about to stop.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(Job::Commit(seq, batch));
        }
    }

    /// Has a damaged file written anew. While another is, nothing happens: the next check finds it again.
    pub(super) fn renew(&self, file: String) {
        if let Some(jobs) = &self.jobs
            && !self.renewing.swap(true, Ordering::AcqRel)
        {
            let _ = jobs.try_send(Job::Renew(file));
        }
    }

    /// Ends the thread and waits for it.
    pub(super) async fn finish(mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

fn write(
    mut store: Box<dyn Store>,
    queue: &sync::Receiver<Job>,
    reports: &mpsc::Sender<Written>,
    renewing: &AtomicBool,
) {
    while let Ok(job) = queue.recv() {
        let (seq, batch) = match job {
            Job::Commit(seq, batch) => (seq, batch),
            Job::Renew(file) => {
                match store.renew(&file) {
                    Err(error @ StoreError::Io { .. }) => {
                        let _ = reports.blocking_send(Written::Broken(error));
                        return;
                    }
                    Err(error) => tracing::warn!(%error, file, "damage can't be written anew yet"),
                    Ok(()) => tracing::info!(file, "what is still good of a damaged file is written anew"),
                }
                renewing.store(false, Ordering::Release);
                continue;
            }
        };
        let report = match store.commit(&[batch]) {
            Ok(()) => Written::Done(seq),
            Err(StoreError::Io { context, source }) => Written::Broken(StoreError::Io { context, source }),
            Err(error) => {
                thread::sleep(FULL_PAUSE);
                Written::Refused(seq, error.to_string())
            }
        };
        let broken = matches!(report, Written::Broken(_));
        if reports.blocking_send(report).is_err() || broken {
            return;
        }
        if store.wants_checkpoint() {
            match store.checkpoint() {
                Ok(()) => {}
                Err(error @ StoreError::Io { .. }) => {
                    let _ = reports.blocking_send(Written::Broken(error));
                    return;
                }
                Err(error) => tracing::warn!(%error, "the checkpoint has to wait"),
            }
        }
    }
    if let Err(error) = store.checkpoint() {
        tracing::warn!(%error, "no last checkpoint; the next start replays the log instead");
    }
}
