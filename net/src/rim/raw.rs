//! The limits that replication is compared with: bytes over one raw QUIC stream on loopback, and round trips over one, with
//! the TLS of the nodes.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::{ConfigError, Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt};
use rhizomq_engine::Epoch;

use super::{
    config::RimConfig,
    identity::{Identity, IdentityError},
    tls::{self, TlsError},
};

/// The measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// No socket on loopback.
    #[error("no UDP socket on loopback: {0}")]
    Io(#[from] io::Error),
    /// No identity for an end.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A setting that QUIC refuses.
    #[error("a setting of QUIC is out of range: {0}")]
    Config(#[from] ConfigError),
    /// The connection could not be made, or broke.
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// How long it takes to send so many bytes, in chunks of `chunk` bytes, from one endpoint to another over one
/// unidirectional stream on loopback: from the first write until the last byte is read. Both ends use the TLS and the
/// transport settings of links, with the given upper bound of the MTU discovery ([`RimConfig::max_mtu`]). The handshake
/// is not counted.
///
/// # Errors
/// The endpoints can't be set up, or the connection breaks.
pub async fn raw_stream_throughput(bytes: u64, chunk: usize, max_mtu: u16) -> Result<Duration, RawError> {
    let mut config = RimConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Epoch(0), "");
    config.max_mtu = max_mtu;
    // A busy machine may make an end wait; that is to be measured, not to be an error.
    config.max_idle = Duration::from_secs(30);
    let (source, sink) = (endpoint(&config)?, endpoint(&config)?);
    let address = sink.local_addr()?;

    let receiving = tokio::spawn(async move { receive(&sink, bytes).await });
    let connecting = source.connect(address, tls::SERVER_NAME).map_err(broken)?;
    let connection = connecting.await.map_err(broken)?;
    let mut stream = connection.open_uni().await.map_err(broken)?;
    let piece = Bytes::from(vec![0x5a; chunk.max(1)]);
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        stream.write_chunk(piece.slice(..size)).await.map_err(broken)?;
        left -= size as u64;
    }
    stream.finish().map_err(broken)?;
    let end = receiving.await.map_err(broken)??;
    connection.close(VarInt::from_u32(0), b"measured");
    Ok(end.duration_since(start))
}

/// How long it takes to send `bytes` bytes over a QUIC stream on loopback and to get `answer` bytes back, `count` times one
/// after the other. TLS and transport settings are those of links, as in [`raw_stream_throughput`].
///
/// # Errors
/// The endpoints can't be set up, or the connection breaks.
pub async fn raw_round_trips(count: u32, bytes: usize, answer: usize, max_mtu: u16) -> Result<Vec<Duration>, RawError> {
    let mut config = RimConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Epoch(0), "");
    config.max_mtu = max_mtu;
    config.max_idle = Duration::from_secs(30);
    let (source, sink) = (endpoint(&config)?, endpoint(&config)?);
    let address = sink.local_addr()?;

    // Ends when this does: its connection is closed then.
    tokio::spawn(async move { answer_all(&sink, bytes, answer).await });
    let connection = source.connect(address, tls::SERVER_NAME).map_err(broken)?.await.map_err(broken)?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(broken)?;
    let (question, mut buffer) = (vec![0x5a; bytes], vec![0; answer]);
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        send.write_all(&question).await.map_err(broken)?;
        receive.read_exact(&mut buffer).await.map_err(broken)?;
        times.push(start.elapsed());
    }
    connection.close(VarInt::from_u32(0), b"measured");
    Ok(times)
}

/// Answers every `bytes` bytes with `answer` bytes, until the connection closes.
async fn answer_all(sink: &Endpoint, bytes: usize, answer: usize) -> Result<(), RawError> {
    let incoming = sink.accept().await.ok_or_else(|| broken("the endpoint is closed"))?;
    let connection = incoming.await.map_err(broken)?;
    let (mut send, mut receive) = connection.accept_bi().await.map_err(broken)?;
    let (mut question, answer) = (vec![0; bytes], vec![0xa5; answer]);
    loop {
        receive.read_exact(&mut question).await.map_err(broken)?;
        send.write_all(&answer).await.map_err(broken)?;
    }
}

/// Reads everything; says when the last byte was there.
async fn receive(sink: &Endpoint, expected: u64) -> Result<Instant, RawError> {
    let incoming = sink.accept().await.ok_or_else(|| broken("the endpoint is closed"))?;
    let connection = incoming.await.map_err(broken)?;
    let mut stream = connection.accept_uni().await.map_err(broken)?;
    let mut pieces = [const { Bytes::new() }; 32];
    let mut have = 0;
    while let Some(count) = stream.read_chunks(&mut pieces).await.map_err(broken)? {
        have += pieces[..count].iter().map(|piece| piece.len() as u64).sum::<u64>();
    }
    let end = Instant::now();
    if have != expected {
        return Err(broken(format!("{have} of {expected} bytes came")));
    }
    Ok(end)
}

fn endpoint(config: &RimConfig) -> Result<Endpoint, RawError> {
    let identity = Identity::generate()?;
    let transport: Arc<TransportConfig> = config.transport_for_raw_streams();
    let mut server = tls::server_config(&identity)?;
    server.transport_config(Arc::clone(&transport));
    let mut client = tls::client_config(&identity)?;
    client.transport_config(transport);
    let mut general = EndpointConfig::default();
    general.max_udp_payload_size(config.max_mtu.max(1_472))?;
    let socket = UdpSocket::bind(config.listen)?;
    let mut endpoint = Endpoint::new(general, Some(server), socket, Arc::new(TokioRuntime))?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

fn broken(error: impl std::fmt::Display) -> RawError {
    RawError::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_bytes_arrive_and_time_passes() {
        let took = raw_stream_throughput(8 << 20, 64 << 10, 1_452).await.unwrap();
        assert!(took > Duration::ZERO);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_round_trip_is_timed() {
        let times = raw_round_trips(5, 100_000, 32, 1_452).await.unwrap();
        assert_eq!(times.len(), 5);
        assert!(times.iter().all(|time| *time > Duration::ZERO));
    }
}
