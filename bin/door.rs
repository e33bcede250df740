//! How callers come in to the admin interface: a bounded number at a time, for nobody may use up the descriptors that the
//! store and the clients need; and each only as long as it has something to ask, for others wait for its place.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request, connect_info::Connected},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
    serve::{IncomingStream, Listener},
};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

/// Connections at a time; the next one waits until one of them ends.
pub(crate) const CALLERS: usize = 32;

/// How long a connection may be open without a complete request, or without taking anything of an answer. An answer may
/// be in the making for longer: a check of the whole store takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The longest body worth reading holds all permissions of a user, each pattern for three rights.
pub(crate) const MAX_BODY_BYTES: usize = 32 << 10;

/// Pause after a failed accept: the system is out of something.
const PAUSE: Duration = Duration::from_millis(100);

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    answering: Arc<AtomicBool>,
}

/// While it lives, an answer is in the making.
struct Answering<'a>(&'a AtomicBool);

impl<'a> Answering<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Takes the whole request in; only then may the answer take as long as it likes.
pub(crate) async fn take_whole(ConnectInfo(caller): ConnectInfo<Caller>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        let why = format!("a body of more than {MAX_BODY_BYTES} bytes, or one that was cut short");
        return (StatusCode::PAYLOAD_TOO_LARGE, Json(json!({ "error": why }))).into_response();
    };
    let _answering = Answering::begin(&caller.answering);
    next.run(Request::from_parts(head, Body::from(body))).await
}

/// Accepts connections as long as there is a place.
pub(crate) struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    patience: Duration,
}

/// A connection, with its place.
pub(crate) struct Call {
    stream: TcpStream,
    answering: Arc<AtomicBool>,
    patience: Duration,
    /// When patience is over.
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Door {
    pub(crate) fn new(listener: TcpListener, patience: Duration) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(CALLERS)), patience }
    }
}

impl Call {
    fn new(stream: TcpStream, place: Option<OwnedSemaphorePermit>, patience: Duration) -> Self {
        let end = Box::pin(tokio::time::sleep(patience));
        Self { stream, answering: Arc::default(), patience, end, _place: place }
    }

    /// The result, unless nothing has happened for too long.
    fn or_end<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.answering.load(Ordering::Relaxed) {
            self.begin_again();
        }
        // What has come already is looked at, however late.
        if result.is_ready() || self.end.as_mut().poll(cx).is_pending() {
            return result;
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn begin_again(&mut self) {
        let end = Instant::now() + self.patience;
        self.end.as_mut().reset(end);
    }
}

impl Listener for Door {
    type Io = Call;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Call, SocketAddr) {
        // Nobody closes the semaphore: without a place there is none to be had.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => return (Call::new(stream, place, self.patience), from),
                Err(error) => {
                    tracing::warn!(%error, "no caller of the admin interface can be accepted right now");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Door>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self { address: *stream.remote_addr(), answering: Arc::clone(&stream.io().answering) }
    }
}

impl AsyncRead for Call {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.or_end(cx, read)
    }
}

impl AsyncWrite for Call {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if written.is_ready() {
            self.begin_again();
        }
        self.or_end(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
