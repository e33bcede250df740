//! A link at work: one task that reads, writes, and tells the core, from `LinkUp` to `LinkDown`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, SendStream};
use tokio::{
    sync::{OnceCell, watch},
    time::timeout,
};

use super::{
    config::MAX_MESSAGE_BYTES,
    events::{EventSender, RimEvent},
    frame::{self, FrameReader},
    handshake::Established,
    outbox::{Full, Outbox},
    refusal::{CloseCode, Farewell},
    table::{Claim, Table},
};
use crate::link::{LinkId, PeerHello};

/// How much is handed to QUIC at a time, in bytes.
const WRITE_BYTES: usize = 256 << 10;

/// A link, as commands see it.
#[derive(Debug)]
pub(super) struct Link {
    id: LinkId,
    claim: Claim,
    connection: Connection,
    outbox: Outbox,
    /// Why this end closed the connection; the first reason counts.
    farewell: OnceCell<Farewell>,
    /// The core is gone, so no `LinkDown` can be sent.
    mute: AtomicBool,
    /// Turns true when `LinkDown` has been sent and the link has left the table.
    ended: watch::Sender<bool>,
}

impl Link {
    pub(super) fn new(id: LinkId, connection: Connection, established: &Established, max_bytes: usize) -> Arc<Self> {
        let hello = &established.hello;
        Arc::new(Self {
            id,
            claim: Claim { peer: hello.node, epoch: hello.epoch, dialler: established.dialler },
            connection,
            outbox: Outbox::new(max_bytes),
            farewell: OnceCell::new(),
            mute: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        })
    }

    pub(super) fn id(&self) -> LinkId {
        self.id
    }

    pub(super) fn claim(&self) -> &Claim {
        &self.claim
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Puts a message into the queue.
    pub(super) fn send(&self, message: Bytes) -> Result<(), Full> {
        self.outbox.push(message)
    }

    pub(super) fn datagram(&self, bytes: Bytes) -> Result<(), quinn::SendDatagramError> {
        self.connection.send_datagram(bytes)
    }

    /// Closes at once; what waits is lost.
    pub(super) fn close(&self, farewell: Farewell) {
        // Only the first reason counts, for the peer as for us.
        let _ = self.farewell.set(farewell.clone());
        farewell.close(&self.connection);
    }

    /// Takes no more messages, and ends the stream after those that wait. The peer then closes the connection.
    pub(super) fn finish(&self) {
        self.outbox.finish();
    }

    /// Returns when the link has ended and the core has been told.
    pub(super) async fn ended(&self) {
        // The sender is in `self`, so it can't be gone.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// The whole life of an admitted link. `old` is the link whose place it takes.
    pub(super) async fn run(
        self: Arc<Self>,
        mut established: Established,
        old: Option<Arc<Link>>,
        table: Arc<Table>,
        events: EventSender,
        handshake_timeout: Duration,
    ) {
        let complete = timeout(handshake_timeout, established.complete()).await.unwrap_or(false);
        if !complete {
            // Nothing to say when the connection is closed already.
            self.close(Farewell::new(CloseCode::TooSlow, "the handshake did not come to its end"));
        }
        if let Some(old) = old {
            old.close(Farewell::new(CloseCode::Replaced, "a newer link between the two nodes takes its place"));
            old.ended().await;
        }
        // It may have been closed, or replaced in its turn, while it waited: then nobody needs to hear of it.
        if self.is_open() {
            let Established { hello, send, recv, .. } = established;
            let reason = self.work(hello, send, recv, &events).await;
            tracing::info!(peer = %self.claim.peer, link = self.id.0, reason, "link down");
            if !self.mute.load(Ordering::Relaxed) {
                // When the core is gone there is nobody left to tell.
                let _ = events.send(RimEvent::LinkDown { link: self.id, reason }).await;
            }
        }
        table.remove(&self);
        self.ended.send_replace(true);
    }

    async fn work(&self, hello: PeerHello, send: SendStream, recv: FrameReader, events: &EventSender) -> String {
        let remote = self.connection.remote_address();
        let dialled = if self.claim.dialler == self.claim.peer { "peer" } else { "us" };
        tracing::info!(peer = %hello.node, name = hello.name, %remote, link = self.id.0, dialled_by = dialled, "link up");
        let up = RimEvent::LinkUp { link: self.id, hello, remote };
        let ending = if events.send(up).await.is_err() {
            Ending::CoreGone
        } else {
            tokio::select! {
                ending = self.read_messages(recv, events) => ending,
                ending = self.read_datagrams(events) => ending,
                ending = self.write_messages(send) => ending,
                () = events.closed() => Ending::CoreGone,
            }
        };
        let farewell = match ending {
            Ending::Connection => None,
            Ending::CoreGone => {
                self.mute.store(true, Ordering::Relaxed);
                Some(Farewell::new(CloseCode::ShuttingDown, "this node is shutting down"))
            }
            Ending::PeerFinished => Some(Farewell::new(CloseCode::ShuttingDown, "the peer is shutting down")),
            Ending::Malformed(text) => Some(Farewell::new(CloseCode::Malformed, text)),
        };
        if let Some(farewell) = farewell {
            self.close(farewell);
        }
        self.reason()
    }

    /// Why the connection is closed, for people.
    fn reason(&self) -> String {
        let Some(error) = self.connection.close_reason() else { return "still open".into() };
        match (Farewell::of_peer(&error), self.farewell.get()) {
            (Some(farewell), _) => format!("closed by the peer: {farewell}"),
            (None, Some(farewell)) if error == ConnectionError::LocallyClosed => farewell.text.clone(),
            (None, _) => error.to_string(),
        }
    }

    async fn read_messages(&self, mut recv: FrameReader, events: &EventSender) -> Ending {
        loop {
            match recv.next(MAX_MESSAGE_BYTES).await {
                Ok(Some(bytes)) => {
                    if events.send(RimEvent::Message { link: self.id, bytes }).await.is_err() {
                        return Ending::CoreGone;
                    }
                }
                Ok(None) => return Ending::PeerFinished,
                Err(_) if !self.is_open() => return Ending::Connection,
                Err(error) => return Ending::Malformed(error.to_string()),
            }
        }
    }

    async fn read_datagrams(&self, events: &EventSender) -> Ending {
        while let Ok(bytes) = self.connection.read_datagram().await {
            if events.send(RimEvent::Datagram { link: self.id, bytes }).await.is_err() {
                return Ending::CoreGone;
            }
        }
        Ending::Connection
    }

    async fn write_messages(&self, mut send: SendStream) -> Ending {
        while let Some(messages) = self.outbox.take(WRITE_BYTES).await {
            let mut pieces = frame::encode(messages);
            if let Err(error) = send.write_all_chunks(&mut pieces).await {
                return if self.is_open() { Ending::Malformed(error.to_string()) } else { Ending::Connection };
            }
        }
        // The peer reads to the end of the stream and then closes the connection.
        let _ = send.finish();
        self.connection.closed().await;
        Ending::Connection
    }
}

/// What ended the work on a link.
enum Ending {
    /// The connection is closed, by whomever.
    Connection,
    /// The peer has sent its last message.
    PeerFinished,
    /// Nobody reads the events.
    CoreGone,
    /// The peer does not keep to the protocol.
    Malformed(String),
}
