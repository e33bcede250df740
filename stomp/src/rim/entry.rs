//! What a connection goes through before its first byte of STOMP: the proxy's word for its client, TLS, the request for a
//! WebSocket. Whatever fails here ends it, and is told to the log alone, or in HTTP.

use std::{io, net::SocketAddr};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{
    listen::{Hall, Listener, Seat},
    tls,
};
use crate::transport::{
    Peer,
    proxy::{self, FIXED_BYTES, ProxyError},
    websocket::{MAX_REQUEST_BYTES, UpgradeError, refusal, upgrade},
};

/// Bytes read at a time of a request that is not whole.
const READ_BYTES: usize = 4 << 10;

pub(super) type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection that is ready for STOMP.
pub(super) struct Entered {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    /// What was read already.
    pub(super) received: BytesMut,
    pub(super) peer: Peer,
    /// Counted among the connections of its address as long as this lives.
    pub(super) seat: Seat,
}

/// Why a connection does not get so far.
#[derive(Debug, thiserror::Error)]
pub(super) enum EntryError {
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error(
        "too many clients of one address, {address} has {limit} connections already; see --max-connections-per-address"
    )]
    TooMany { address: SocketAddr, limit: usize },
    #[error("no TLS: {0}")]
    Tls(io::Error),
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    #[error("it was closed before its first word: {0}")]
    Io(#[from] io::Error),
    #[error("it took too long")]
    TooSlow,
}

/// What is said in STOMP to who is one too many.
const TOO_MANY: &[u8] =
    b"ERROR\nmessage:too many connections; close one, or try again later\ncontent-type:text/plain\n\n\
    This node has as many client connections as it takes, in all or from your address.\n\0\n";

/// Tells who is one too many so, if that takes no time.
pub(super) fn turn_away(stream: &TcpStream, listener: &Listener) {
    if listener.speaks_plain_stomp() {
        let _ = stream.try_write(TOO_MANY);
    }
}

/// Brings a connection to its first byte of STOMP.
pub(super) async fn enter(
    mut stream: TcpStream,
    from: SocketAddr,
    listener: &Listener,
    hall: &Hall,
) -> Result<Entered, EntryError> {
    // Small frames must not wait for each other; large ones are gathered by the writer.
    let _ = stream.set_nodelay(true);
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    let address = if listener.proxy { proxied(&mut stream).await?.unwrap_or(from) } else { from };
    let Some(seat) = hall.seat(address.ip()) else {
        turn_away(&stream, listener);
        return Err(EntryError::TooMany { address, limit: hall.config.max_per_address });
    };
    let mut peer = Peer { address: Some(address), certificate: None };
    let (mut reader, mut writer): (Reader, Writer) = match &listener.tls {
        None => {
            let (reader, writer) = stream.into_split();
            (Box::new(reader), Box::new(writer))
        }
        Some(tls) => {
            let tls = std::sync::Arc::clone(tls);
            let config = tokio::task::spawn_blocking(move || tls.config()).await.map_err(io::Error::other)?;
            let stream = TlsAcceptor::from(config).accept(stream).await.map_err(EntryError::Tls)?;
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            peer.certificate = certificate.map(tls::names);
            let (reader, writer) = tokio::io::split(stream);
            (Box::new(reader), Box::new(writer))
        }
    };
    let mut received = BytesMut::new();
    if listener.websocket {
        let mut lingering = None;
        loop {
            match upgrade(&received, &hall.config.origins) {
                Ok(Some(upgrade)) => {
                    writer.write_all(&upgrade.answer).await?;
                    writer.flush().await?;
                    received.advance(upgrade.len);
                    break;
                }
                Ok(None) => {}
                Err(error) => {
                    writer.write_all(&refusal(&error)).await?;
                    lingering = Some(error);
                }
            }
            if let Some(error) = lingering {
                writer.shutdown().await?;
                linger(&mut reader).await;
                return Err(error.into());
            }
            received.reserve(READ_BYTES.min(MAX_REQUEST_BYTES));
            if reader.read_buf(&mut received).await? == 0 {
                return Err(EntryError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
    Ok(Entered { reader, writer, received, peer, seat })
}

/// What the proxy says of its client.
async fn proxied(stream: &mut TcpStream) -> Result<Option<SocketAddr>, EntryError> {
    let mut fixed = [0; FIXED_BYTES];
    let mut len = 0;
    while len < FIXED_BYTES {
        match stream.read(&mut fixed[len..]).await? {
            0 => return Err(EntryError::Io(io::ErrorKind::UnexpectedEof.into())),
            count => len += count,
        }
        // Who speaks something else waits for an answer, and the rest would never come.
        if !proxy::may_begin(&fixed[..len]) {
            fixed[len..].fill(0);
            proxy::rest_len(&fixed)?;
        }
    }
    let mut rest = vec![0; proxy::rest_len(&fixed)?];
    stream.read_exact(&mut rest).await?;
    Ok(proxy::client(&fixed, &rest)?)
}

/// Reads what still comes, and forgets it: closing a socket while bytes wait in it would take back the last words that
/// were written to it. Ends when the client closes too.
pub(super) async fn linger(reader: &mut Reader) {
    let mut scrap = vec![0; READ_BYTES];
    let _ = tokio::time::timeout(super::client::LINGER, async {
        while reader.read(&mut scrap).await.is_ok_and(|count| count > 0) {}
    })
    .await;
}
