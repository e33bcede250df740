//! What waits to be sent on one link: bounded in bytes, in order, and never dropped in silence.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

/// One message costs at least this much of the limit, in bytes, so that empty ones are bounded too.
const OVERHEAD_BYTES: usize = 64;

/// The queue between the core, which never waits, and the task that writes to the connection.
#[derive(Debug)]
pub(super) struct Outbox {
    max_bytes: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Bytes>,
    /// Weight of what waits and of what the writer took and has not yet written.
    bytes: usize,
    taken: usize,
    finishing: bool,
}

/// The message does not fit; so many bytes wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full(pub(super) usize);

impl Outbox {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, state: Mutex::default(), changed: Notify::new() }
    }

    /// Puts a message at the end. A message that is larger than the whole queue fits into an empty one.
    pub(super) fn push(&self, message: Bytes) -> Result<(), Full> {
        let mut state = self.lock();
        let weight = weight(&message);
        if state.bytes > 0 && state.bytes + weight > self.max_bytes {
            return Err(Full(state.bytes));
        }
        state.bytes += weight;
        state.messages.push_back(message);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// No more messages will come; the writer ends after the last one.
    pub(super) fn finish(&self) {
        self.lock().finishing = true;
        self.changed.notify_one();
    }

    /// Waits for messages and takes some, in order: about `max_bytes`, at least one. By asking for more the one writer
    /// says that what it took before is written. `None` after [`Outbox::finish`], when all is written.
    pub(super) async fn take(&self, max_bytes: usize) -> Option<Vec<Bytes>> {
        loop {
            {
                let mut state = self.lock();
                state.bytes -= std::mem::take(&mut state.taken);
                let mut batch = Vec::new();
                while let Some(message) = state.messages.front() {
                    let weight = weight(message);
                    if !batch.is_empty() && state.taken + weight > max_bytes {
                        break;
                    }
                    state.taken += weight;
                    batch.extend(state.messages.pop_front());
                }
                if !batch.is_empty() {
                    return Some(batch);
                }
                if state.finishing {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(message: &Bytes) -> usize {
    message.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fill: u8, size: usize) -> Bytes {
        vec![fill; size].into()
    }

    #[tokio::test]
    async fn order_is_kept_and_bytes_count_until_they_are_written() {
        let outbox = Outbox::new(1_000);
        for fill in 0..3 {
            outbox.push(message(fill, 236)).unwrap();
        }
        assert_eq!(outbox.push(message(9, 236)), Err(Full(900)));
        assert_eq!(outbox.take(600).await, Some(vec![message(0, 236), message(1, 236)]));
        assert_eq!(outbox.push(message(9, 236)), Err(Full(900)), "taken is not yet written");
        assert_eq!(outbox.take(600).await, Some(vec![message(2, 236)]));
        outbox.push(message(9, 236)).unwrap();
        outbox.finish();
        assert_eq!(outbox.take(1).await, Some(vec![message(9, 236)]));
        assert_eq!(outbox.take(1).await, None);
    }

    #[test]
    fn one_huge_message_fits_when_nothing_waits_and_empty_ones_are_bounded() {
        let outbox = Outbox::new(1_000);
        outbox.push(message(1, 5_000)).unwrap();
        assert!(outbox.push(Bytes::new()).is_err());
        let outbox = Outbox::new(1_000);
        assert_eq!((0..100).filter(|_| outbox.push(Bytes::new()).is_ok()).count(), 1_000 / OVERHEAD_BYTES);
    }
}
