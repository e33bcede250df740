//! Client connections: bytes to the core, bytes from the core, and how many of them the socket has taken.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::ConnId;

/// Bytes read from a socket at a time.
const READ_BYTES: usize = 64 << 10;

/// Bytes gathered for one write.
const WRITE_BYTES: usize = 256 << 10;

/// A connection that is to be closed and takes no byte for so long is cut off.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept: the system is out of something, and asking again at once does not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How clients are let in.
#[derive(Clone, Copy, Debug)]
pub struct ListenerConfig {
    /// Connections at a time; one more is closed at once.
    pub max_connections: usize,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self { max_connections: 10_000 }
    }
}

/// From the connections to the core.
#[derive(Debug)]
pub(super) enum ClientInput {
    Open(ConnId, mpsc::UnboundedSender<ToClient>, watch::Sender<Gate>),
    Bytes(ConnId, Bytes),
    Flushed(ConnId, u64),
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

/// Accepts clients until `stop`, then waits for those that are there. They end with the task.
pub(super) async fn accept(
    listener: TcpListener,
    config: ListenerConfig,
    core: mpsc::Sender<ClientInput>,
    mut stop: oneshot::Receiver<()>,
) {
    let places = Arc::new(Semaphore::new(config.max_connections));
    let mut connections = JoinSet::new();
    let mut next = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => break,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no client can be accepted right now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%from, limit = config.max_connections, "too many clients, one is turned away");
            continue;
        };
        next += 1;
        let (conn, core) = (ConnId(next), core.clone());
        if core.is_closed() {
            return;
        }
        connections.spawn(async move {
            serve(conn, stream, from, core).await;
            drop(place);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(conn: ConnId, stream: TcpStream, from: SocketAddr, core: mpsc::Sender<ClientInput>) {
    // Small frames must not wait for each other; large ones are gathered by the writer.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let (queue, outgoing) = mpsc::unbounded_channel();
    let (gate, gated) = watch::channel(Gate::Open);
    if core.send(ClientInput::Open(conn, queue, gate)).await.is_err() {
        return;
    }
    tracing::debug!(conn = conn.0, %from, "client connected");
    let written = AtomicU64::new(0);
    let reading = read(conn, reader, gated.clone(), core.clone());
    let writing = write(conn, writer, outgoing, core.clone(), &written);
    tokio::pin!(reading, writing);
    // Whichever ends first ends the connection: a client that has closed its half is gone, as for any STOMP broker, and
    // one that wants its last receipts sends DISCONNECT and waits for them.
    let ended = tokio::select! {
        result = &mut reading => result,
        result = &mut writing => result,
        error = cut_off(gated, &written) => Err(error),
    };
    tracing::debug!(conn = conn.0, %from, ?ended, "client gone");
    let _ = core.send(ClientInput::Closed(conn)).await;
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
    mut socket: OwnedReadHalf,
    mut gate: watch::Receiver<Gate>,
    core: mpsc::Sender<ClientInput>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        // The core drops its end when it is done with the client.
        if gate.wait_for(|gate| *gate != Gate::Paused).await.is_err() {
            return Ok(());
        }
        buffer.reserve(READ_BYTES);
        if socket.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        if core.send(ClientInput::Bytes(conn, buffer.split().freeze())).await.is_err() {
            return Ok(());
        }
    }
}

async fn write(
    conn: ConnId,
    mut socket: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<ToClient>,
    core: mpsc::Sender<ClientInput>,
    written: &AtomicU64,
) -> io::Result<()> {
    let mut total = 0;
    let mut gathered = BytesMut::new();
    loop {
        let mut next = queue.recv().await;
        let (mut large, mut last) = (Bytes::new(), false);
        while let Some(message) = next {
            match message {
                // A large body is written as it is; small pieces are gathered.
                ToClient::Bytes(bytes) if bytes.len() >= WRITE_BYTES => large = bytes,
                ToClient::Bytes(bytes) => gathered.extend_from_slice(&bytes),
                ToClient::Close => last = true,
            }
            let is_enough = last || !large.is_empty() || gathered.len() >= WRITE_BYTES;
            next = if is_enough { None } else { queue.try_recv().ok() };
        }
        let ended = last || (queue.is_closed() && queue.is_empty());
        for mut bytes in [gathered.split().freeze(), large] {
            while !bytes.is_empty() {
                // Each step is told, however small: a slow reader is not a dead one.
                let count = socket.write(&bytes).await?;
                if count == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                bytes.advance(count);
                total += count as u64;
                written.store(total, Ordering::Relaxed);
                if core.send(ClientInput::Flushed(conn, total)).await.is_err() {
                    return Ok(());
                }
            }
        }
        if ended {
            return socket.shutdown().await;
        }
    }
}
