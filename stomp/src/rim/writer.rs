//! The thread that writes: one commit at a time, synced, then reported. While it writes, the core gathers the next one,
//! so commits grow with load and never wait when there is none.

use std::{io, sync::mpsc as sync, thread, time::Duration};

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

/// The core's end. Dropping it ends the thread after the write under way and a last checkpoint.
#[derive(Debug)]
pub(super) struct Writer {
    commits: Option<sync::SyncSender<(u64, Batch)>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread for us.
    pub(super) fn start(store: Box<dyn Store>) -> io::Result<(Self, mpsc::Receiver<Written>)> {
        // One commit at a time is the engine's law, so one place is enough on both ways.
        let (commits, queue) = sync::sync_channel(1);
        let (reports, receiver) = mpsc::channel(2);
        let thread = thread::Builder::new().name("store".into()).spawn(move || write(store, &queue, &reports))?;
        Ok((Self { commits: Some(commits), thread: Some(thread) }, receiver))
    }

    /// Hands over a commit.
    pub(super) fn write(&self, seq: u64, batch: Batch) {
        // A thread that is gone has reported why; the core is about to stop.
        if let Some(commits) = &self.commits {
            let _ = commits.send((seq, batch));
        }
    }

    /// Ends the thread and waits for it.
    pub(super) async fn finish(mut self) {
        self.commits = None;
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

fn write(mut store: Box<dyn Store>, queue: &sync::Receiver<(u64, Batch)>, reports: &mpsc::Sender<Written>) {
    while let Ok((seq, batch)) = queue.recv() {
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
