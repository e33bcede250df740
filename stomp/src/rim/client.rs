//! Client connections: bytes to the core, bytes from the core, and how many of them the socket has taken.

use std::{
    collections::BTreeMap,
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
};

use super::{
    entry::{Entered, Reader, Writer, linger},
    packing::Packing,
};
use crate::{
    ConnId,
    transport::{
        Peer,
        websocket::{Event, Inbound},
    },
};

/// Bytes read from a socket at a time.
const READ_BYTES: usize = 64 << 10;

/// A connection that is to be closed and takes no byte for so long is cut off.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client that was told the end may take to close too.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// How long a client that said that it sends no more is written to.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// Pings that may wait for their answers; only the latest has to be answered.
const PINGS: usize = 4;

/// From the connections to the core.
#[derive(Debug)]
pub(super) enum ClientInput {
    Open(ConnId, Peer, mpsc::UnboundedSender<ToClient>, watch::Sender<Gate>),
    Bytes(ConnId, Bytes),
    Flushed(ConnId, u64),
    /// The client sends no more, but reads.
    Ended(ConnId),
    Closed(ConnId),
}

/// From the core to a connection's writer.
#[derive(Debug)]
pub(super) enum ToClient {
    Bytes(Bytes),
    Close,
}

/// What the core lets a connection do besides writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Read.
    Open,
    /// Don't read.
    Paused,
    /// End, soon.
    Closing,
}

/// The core's table of connections.
#[derive(Debug, Default)]
pub(super) struct Clients {
    open: BTreeMap<ConnId, Client>,
}

#[derive(Debug)]
struct Client {
    writer: mpsc::UnboundedSender<ToClient>,
    gate: watch::Sender<Gate>,
}

impl Clients {
    pub(super) fn insert(&mut self, conn: ConnId, writer: mpsc::UnboundedSender<ToClient>, gate: watch::Sender<Gate>) {
        self.open.insert(conn, Client { writer, gate });
    }

    /// Forgets a connection; its tasks end.
    pub(super) fn remove(&mut self, conn: ConnId) {
        self.open.remove(&conn);
    }

    /// Queues bytes. How many may wait is for the broker to say, which is told how many were written.
    pub(super) fn send(&mut self, conn: ConnId, bytes: Bytes) {
        if let Some(client) = self.open.get(&conn) {
            let _ = client.writer.send(ToClient::Bytes(bytes));
        }
    }

    pub(super) fn close(&mut self, conn: ConnId) {
        if let Some(client) = self.open.get(&conn) {
            let _ = client.writer.send(ToClient::Close);
            client.gate.send_replace(Gate::Closing);
        }
    }

    pub(super) fn pause(&mut self, conn: ConnId, paused: bool) {
        if let Some(client) = self.open.get(&conn) {
            let wanted = if paused { Gate::Paused } else { Gate::Open };
            client.gate.send_if_modified(|gate| {
                let changes = *gate != Gate::Closing;
                if changes {
                    *gate = wanted;
                }
                changes
            });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// From a WebSocket's reader to its writer.
#[derive(Debug)]
enum Control {
    Pong(Bytes),
    /// End at once, with this code.
    Close(u16),
}

/// How reading ended.
#[derive(Clone, Copy, Debug)]
enum End {
    /// No more comes, and nobody reads.
    Gone,
    /// The client said that it sends no more, and waits for our word.
    Goodbye,
    /// It does not keep to the protocol, and is told so.
    Refused,
}

/// One connection, from its first byte of STOMP to its last. `websocket`: it is one, and a message of it has so many
/// bytes at most.
pub(super) async fn serve(conn: ConnId, entered: Entered, websocket: Option<u64>, core: mpsc::Sender<ClientInput>) {
    let Entered { mut reader, mut writer, received, peer, seat: _seat } = entered;
    let (queue, outgoing) = mpsc::unbounded_channel();
    let (gate, gated) = watch::channel(Gate::Open);
    tracing::debug!(conn = conn.0, ?peer, "client connected");
    if core.send(ClientInput::Open(conn, peer, queue, gate)).await.is_err() {
        return;
    }
    let written = AtomicU64::new(0);
    let (control, controls) = mpsc::channel(PINGS);
    let ended = {
        let inbound = websocket.map(Inbound::new);
        let reading = read(conn, &mut reader, received, inbound, gated.clone(), control, &core);
        let outgoing = Outgoing { queue: outgoing, controls, packing: Packing::new(websocket.is_some()) };
        let writing = write(conn, &mut writer, outgoing, &core, &written);
        tokio::pin!(reading, writing);
        // Whichever ends first ends the connection: a client that has closed its half is gone, as for any STOMP broker,
        // and one that wants its last receipts sends DISCONNECT and waits for them. Only a WebSocket's close frame says
        // that the client still reads.
        tokio::select! {
            result = &mut reading => match result {
                Ok(end @ (End::Goodbye | End::Refused)) => {
                    let said = if matches!(end, End::Goodbye) { ClientInput::Ended(conn) } else { ClientInput::Closed(conn) };
                    let _ = core.send(said).await;
                    tokio::time::timeout(LAST_WORDS, writing).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
                }
                Ok(End::Gone) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => Err(error),
            },
            result = &mut writing => result,
            error = cut_off(gated, &written) => Err(error),
        }
    };
    tracing::debug!(conn = conn.0, ?ended, "client gone");
    let _ = core.send(ClientInput::Closed(conn)).await;
    if ended.is_ok() {
        linger(&mut reader).await;
    }
}

/// Ends when the core has given the connection up, or wants it closed and nothing can be written.
async fn cut_off(mut gate: watch::Receiver<Gate>, written: &AtomicU64) -> io::Error {
    let mut before = None;
    if gate.wait_for(|gate| *gate == Gate::Closing).await.is_ok() {
        loop {
            let total = Some(written.load(Ordering::Relaxed));
            if total == before {
                break;
            }
            before = total;
            tokio::time::sleep(FLUSH_TIMEOUT).await;
        }
    }
    io::ErrorKind::TimedOut.into()
}

async fn read(
    conn: ConnId,
    socket: &mut Reader,
    mut buffer: BytesMut,
    mut inbound: Option<Inbound>,
    mut gate: watch::Receiver<Gate>,
    control: mpsc::Sender<Control>,
    core: &mpsc::Sender<ClientInput>,
) -> io::Result<End> {
    loop {
        // The core drops its end when it is done with the client.
        if gate.wait_for(|gate| *gate != Gate::Paused).await.is_err() {
            return Ok(End::Gone);
        }
        if buffer.is_empty() {
            buffer.reserve(READ_BYTES);
            if socket.read_buf(&mut buffer).await? == 0 {
                return Ok(End::Gone);
            }
        }
        let received = buffer.split();
        let Some(inbound) = &mut inbound else {
            if core.send(ClientInput::Bytes(conn, received.freeze())).await.is_err() {
                return Ok(End::Gone);
            }
            continue;
        };
        inbound.feed(received);
        loop {
            match inbound.poll() {
                Ok(None) => break,
                Ok(Some(Event::Data(bytes))) => {
                    if core.send(ClientInput::Bytes(conn, bytes)).await.is_err() {
                        return Ok(End::Gone);
                    }
                }
                // If the client reads none of the answers there is no use in more of them.
                Ok(Some(Event::Ping(payload))) => drop(control.try_send(Control::Pong(payload))),
                Ok(Some(Event::Close)) => return Ok(End::Goodbye),
                Err(error) => {
                    tracing::debug!(conn = conn.0, %error, "a client is closed");
                    let _ = control.send(Control::Close(error.code())).await;
                    return Ok(End::Refused);
                }
            }
        }
    }
}

/// What a writer writes.
struct Outgoing {
    queue: mpsc::UnboundedReceiver<ToClient>,
    controls: mpsc::Receiver<Control>,
    packing: Packing,
}

impl Outgoing {
    /// Waits for something to write, and takes what there is of it. Whether it is the last.
    async fn gather(&mut self) -> bool {
        let mut next = tokio::select! {
            biased;
            Some(control) = self.controls.recv() => return self.control(control),
            message = self.queue.recv() => message,
        };
        let mut last = false;
        while let Some(message) = next {
            match message {
                ToClient::Bytes(bytes) => self.packing.push(bytes),
                ToClient::Close => last = true,
            }
            next = if last || self.packing.is_full() { None } else { self.queue.try_recv().ok() };
        }
        let last = last || (self.queue.is_closed() && self.queue.is_empty());
        if last {
            self.packing.end(None);
        }
        last
    }

    fn control(&mut self, control: Control) -> bool {
        match control {
            Control::Pong(payload) => {
                self.packing.pong(&payload);
                false
            }
            Control::Close(code) => {
                self.packing.end(Some(code));
                true
            }
        }
    }
}

async fn write(
    conn: ConnId,
    socket: &mut Writer,
    mut outgoing: Outgoing,
    core: &mpsc::Sender<ClientInput>,
    written: &AtomicU64,
) -> io::Result<()> {
    let (mut total, mut told) = (0, 0);
    loop {
        let last = outgoing.gather().await;
        while let Some(mut piece) = outgoing.packing.poll() {
            let end = total + piece.counts as u64;
            while !piece.bytes.is_empty() {
                // Each step is told, however small: a slow reader is not a dead one.
                let count = socket.write(&piece.bytes).await?;
                if count == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                // TLS keeps what it has sealed until the socket takes it.
                socket.flush().await?;
                piece.bytes.advance(count);
                written.fetch_add(count as u64, Ordering::Relaxed);
                // What is around STOMP's bytes does not count; it is taken for the first that was written.
                total = total.max(end.saturating_sub(piece.bytes.len() as u64));
                if total > told {
                    told = total;
                    if core.send(ClientInput::Flushed(conn, total)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            total = end;
        }
        if last {
            return socket.shutdown().await;
        }
    }
}
