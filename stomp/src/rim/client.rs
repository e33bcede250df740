//! Client connections: bytes to the core, bytes from the core, and how many of them the socket has taken.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
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

/// Bytes that may wait for one socket. The broker stops delivering long before; what goes beyond is a client that asks
/// for receipts and never reads them.
const QUEUE_BYTES: usize = 64 << 20;

/// How long a connection that is to be closed may take to flush.
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
    Open(ConnId, mpsc::UnboundedSender<ToClient>, watch::Sender<bool>),
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

/// The core's table of connections.
#[derive(Debug, Default)]
pub(super) struct Clients {
    open: BTreeMap<ConnId, Client>,
}

#[derive(Debug)]
struct Client {
    writer: mpsc::UnboundedSender<ToClient>,
    pause: watch::Sender<bool>,
    queued: u64,
    flushed: u64,
}

impl Clients {
    pub(super) fn insert(&mut self, conn: ConnId, writer: mpsc::UnboundedSender<ToClient>, pause: watch::Sender<bool>) {
        self.open.insert(conn, Client { writer, pause, queued: 0, flushed: 0 });
    }

    /// Forgets a connection; its tasks end.
    pub(super) fn remove(&mut self, conn: ConnId) {
        self.open.remove(&conn);
    }

    pub(super) fn flushed(&mut self, conn: ConnId, total: u64) {
        if let Some(client) = self.open.get_mut(&conn) {
            client.flushed = total;
        }
    }

    /// Queues bytes. False if the client reads so slowly that it has to go.
    pub(super) fn send(&mut self, conn: ConnId, bytes: Bytes) -> bool {
        let Some(client) = self.open.get_mut(&conn) else { return true };
        client.queued += bytes.len() as u64;
        let _ = client.writer.send(ToClient::Bytes(bytes));
        client.queued - client.flushed <= QUEUE_BYTES as u64
    }

    pub(super) fn close(&mut self, conn: ConnId) {
        if let Some(client) = self.open.get(&conn) {
            let _ = client.writer.send(ToClient::Close);
        }
    }

    pub(super) fn pause(&mut self, conn: ConnId, paused: bool) {
        if let Some(client) = self.open.get(&conn) {
            client.pause.send_replace(paused);
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
    let (pause, paused) = watch::channel(false);
    if core.send(ClientInput::Open(conn, queue, pause)).await.is_err() {
        return;
    }
    tracing::debug!(conn = conn.0, %from, "client connected");
    let reading = read(conn, reader, paused, core.clone());
    let writing = write(conn, writer, outgoing, core.clone());
    tokio::pin!(reading, writing);
    // Whichever ends first ends the connection: a client that has closed its half is gone, as for any STOMP broker, and
    // one that wants its last receipts sends DISCONNECT and waits for them.
    let ended = tokio::select! {
        result = &mut reading => result,
        result = &mut writing => result,
    };
    tracing::debug!(conn = conn.0, %from, ?ended, "client gone");
    let _ = core.send(ClientInput::Closed(conn)).await;
}

async fn read(
    conn: ConnId,
    mut socket: OwnedReadHalf,
    mut paused: watch::Receiver<bool>,
    core: mpsc::Sender<ClientInput>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        // The core drops its end when it is done with the client.
        if paused.wait_for(|paused| !paused).await.is_err() {
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
) -> io::Result<()> {
    let mut total = 0;
    let mut gathered = BytesMut::new();
    loop {
        let mut next = queue.recv().await;
        let mut last = false;
        while let Some(message) = next {
            match message {
                // A large body is written as it is; small pieces are gathered.
                ToClient::Bytes(bytes) if bytes.len() >= WRITE_BYTES => {
                    socket.write_all(&gathered).await?;
                    socket.write_all(&bytes).await?;
                    total += (gathered.len() + bytes.len()) as u64;
                    gathered.clear();
                }
                ToClient::Bytes(bytes) => gathered.extend_from_slice(&bytes),
                ToClient::Close => last = true,
            }
            next = if last || gathered.len() >= WRITE_BYTES { None } else { queue.try_recv().ok() };
        }
        let ended = last || (queue.is_closed() && queue.is_empty());
        let flushing = socket.write_all(&gathered);
        if ended {
            tokio::time::timeout(FLUSH_TIMEOUT, flushing).await.map_err(io::Error::from)??;
            let _ = tokio::time::timeout(FLUSH_TIMEOUT, socket.shutdown()).await;
            return Ok(());
        }
        flushing.await?;
        total += gathered.len() as u64;
        gathered.clear();
        if core.send(ClientInput::Flushed(conn, total)).await.is_err() {
            return Ok(());
        }
    }
}
