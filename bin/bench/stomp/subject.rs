//! What is measured: a broker that is there, and what of it holds for all measurements.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{anyhow, bail};
use bytes::Bytes;

use super::{args::Header, connection::Door, stamp::Expected};

/// A broker, with one or more nodes.
#[derive(Debug)]
pub(super) struct Subject {
    /// What it is called in the results.
    pub(super) name: String,
    /// Its nodes; never empty. Producers are at the first one.
    pub(super) addresses: Vec<String>,
    pub(super) door: Door,
    pub(super) queue: String,
    pub(super) topic: String,
    pub(super) send_headers: Vec<Header>,
    pub(super) subscribe_headers: Vec<Header>,
    /// Names this run among all that ever were.
    pub(super) run: u64,
    /// Measurements so far.
    pub(super) series: AtomicU64,
    /// Where nothing at all is read for so long, nothing will be.
    pub(super) patience: Duration,
    /// What bodies are made of; as long as the longest of them.
    pub(super) noise: Bytes,
}

impl Subject {
    /// The node where the producers are.
    pub(super) fn first(&self) -> &str {
        &self.addresses[0]
    }

    /// A node where they are not, if there are others and that is asked for.
    pub(super) fn place(&self, elsewhere: bool) -> &str {
        &self.addresses[usize::from(elsewhere) % self.addresses.len()]
    }

    /// Begins a measurement: what is to be expected of its messages.
    pub(super) fn begin(&self, size: u32) -> Expected {
        Expected { run: self.run, series: self.series.fetch_add(1, Ordering::Relaxed), size }
    }

    /// Lets something run until it ends, or until nothing comes from the broker any more; `state` says what has come by then.
    ///
    /// # Errors
    /// As `work` has it; or nothing was read for as long as patience lasts.
    pub(super) async fn watch<T>(
        &self,
        work: impl Future<Output = anyhow::Result<T>>,
        state: impl Fn() -> String,
    ) -> anyhow::Result<T> {
        let stuck = async {
            loop {
                let before = self.door.pulse.load(Ordering::Relaxed);
                tokio::time::sleep(self.patience).await;
                if self.door.pulse.load(Ordering::Relaxed) == before {
                    return anyhow!("stalled: nothing more came for {} s; {}", self.patience.as_secs(), state());
                }
            }
        };
        tokio::select! {
            done = work => done,
            error = stuck => bail!(error),
        }
    }
}
