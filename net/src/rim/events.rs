//! From the links to the core: events in order, bounded in number and in bytes.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::refusal::Refused;
use crate::link::{LinkId, PeerHello};

/// What happened on the links.
///
/// Of one link: first `LinkUp`, then messages and datagrams, at last exactly one `LinkDown`. Of one peer: there is at
/// most one link at a time, and `LinkDown` of the old one comes before `LinkUp` of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RimEvent {
    /// A peer has proven who it is and that it belongs to the network.
    LinkUp {
        /// The new link.
        link: LinkId,
        /// Who is at the other end.
        hello: PeerHello,
        /// Where it is.
        remote: SocketAddr,
    },
    /// The link is gone, whoever ended it. What was still to be sent is lost.
    LinkDown {
        /// The link.
        link: LinkId,
        /// Why, for people.
        reason: String,
    },
    /// A message, in the order sent.
    Message {
        /// The link it came over.
        link: LinkId,
        /// The message.
        bytes: Bytes,
    },
    /// A datagram; some are lost, some overtake others.
    Datagram {
        /// The link it came over.
        link: LinkId,
        /// The datagram.
        bytes: Bytes,
    },
    /// A connection did not become a link because one end refused it. For the log, and for `--join` to explain itself.
    /// Left out when the core is busy.
    Refused(Refused),
}

type Item = (RimEvent, Option<OwnedSemaphorePermit>);

/// The links' end. Clones share the limits.
#[derive(Clone, Debug)]
pub(super) struct EventSender {
    queue: mpsc::Sender<Item>,
    bytes: Arc<Semaphore>,
    max_bytes: usize,
}

/// The core's end: [`RimEvents::recv`].
#[derive(Debug)]
pub struct RimEvents {
    queue: mpsc::Receiver<Item>,
}

/// The core is gone; there is nobody to work for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CoreGone;

/// A queue of at most `events` events and about `bytes` bytes of messages.
pub(super) fn channel(events: usize, bytes: usize) -> (EventSender, RimEvents) {
    let (sender, receiver) = mpsc::channel(events.max(1));
    let max_bytes = bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
    (
        EventSender { queue: sender, bytes: Arc::new(Semaphore::new(max_bytes)), max_bytes },
        RimEvents { queue: receiver },
    )
}

impl EventSender {
    /// Waits for room: whoever reads from a socket waits here, and the peer with it.
    pub(super) async fn send(&self, event: RimEvent) -> Result<(), CoreGone> {
        let weight = match &event {
            RimEvent::Message { bytes, .. } | RimEvent::Datagram { bytes, .. } => bytes.len().min(self.max_bytes),
            _ => 0,
        };
        let permit = match u32::try_from(weight).unwrap_or(u32::MAX) {
            0 => None,
            // The semaphore is never closed: an error can't happen, and would mean that the core is gone.
            weight => Some(Arc::clone(&self.bytes).acquire_many_owned(weight).await.map_err(|_| CoreGone)?),
        };
        self.queue.send((event, permit)).await.map_err(|_| CoreGone)
    }

    /// Only if there is room.
    pub(super) fn try_send(&self, event: RimEvent) {
        // Full or gone: either way nobody misses it.
        let _ = self.queue.try_send((event, None));
    }

    /// Whether nobody listens any more.
    pub(super) async fn closed(&self) {
        self.queue.closed().await;
    }
}

impl RimEvents {
    /// The next event; `None` after the [`super::Rim`] and all its links are gone.
    pub async fn recv(&mut self) -> Option<RimEvent> {
        self.queue.recv().await.map(|(event, _)| event)
    }

    /// The next event if there is one already.
    pub fn try_recv(&mut self) -> Option<RimEvent> {
        self.queue.try_recv().ok().map(|(event, _)| event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(size: usize) -> RimEvent {
        RimEvent::Message { link: LinkId(1), bytes: vec![0; size].into() }
    }

    #[tokio::test]
    async fn bytes_are_bounded_and_one_large_message_still_fits() {
        let (sender, mut events) = channel(100, 1_000);
        sender.send(message(600)).await.unwrap();
        let mut second = tokio_test_pending(sender.clone(), message(600));
        assert!(second.poll_pending().await, "no room for a second one");
        assert_eq!(events.recv().await, Some(message(600)));
        second.done().await;
        assert_eq!(events.recv().await, Some(message(600)));
        sender.send(message(5_000)).await.unwrap();
        assert_eq!(events.recv().await, Some(message(5_000)));
        drop(events);
        assert_eq!(sender.send(message(1)).await, Err(CoreGone));
    }

    /// A send under way.
    struct Sending(tokio::task::JoinHandle<Result<(), CoreGone>>);

    fn tokio_test_pending(sender: EventSender, event: RimEvent) -> Sending {
        Sending(tokio::spawn(async move { sender.send(event).await }))
    }

    impl Sending {
        /// On the test's single thread a task that can finish has finished after a few turns.
        async fn poll_pending(&mut self) -> bool {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            !self.0.is_finished()
        }

        async fn done(self) {
            self.0.await.unwrap().unwrap();
        }
    }
}
