//! What can be set about links, with defaults for a LAN.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt, congestion::CubicConfig};
use rhizomq_engine::Epoch;

use crate::link::{MAX_VERSION, MIN_VERSION};

/// The longest message on a link, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// What a peer may make us hold before it has proven that it belongs to the network, in bytes.
const UNPROVEN_WINDOW_BYTES: u32 = 64 << 10;

/// A link's receive window and send window, in bytes: bandwidth times round trip of a fast LAN with room to spare, and
/// at the same time the most that one peer can make us buffer.
const WINDOW_BYTES: u32 = 16 << 20;

/// Datagrams waiting to be sent or read, in bytes per link. The failure detector sends a few hundred bytes at a time.
const DATAGRAM_BUFFER_BYTES: usize = 256 << 10;

/// From this MTU on segmentation offload makes a batch exceed what one UDP send may carry, and quinn then takes the
/// failed sends for a broken path.
const MAX_MTU_WITH_OFFLOAD: u16 = 6_500;

/// How this node's links behave.
#[derive(Clone, Debug)]
pub struct RimConfig {
    /// UDP address to listen on, and to dial from. Port 0 picks one.
    pub listen: SocketAddr,
    /// This life of the process, told to peers.
    pub epoch: Epoch,
    /// The node's name for people, told to peers.
    pub name: String,
    /// The oldest and the newest protocol version to speak.
    pub versions: (u16, u16),
    /// How long a connection may take until both ends have proven themselves.
    pub handshake_timeout: Duration,
    /// How many incoming connections may be in that state at once; more are refused.
    pub max_handshakes: usize,
    /// A link on which nothing else is sent sends a sign of life this often.
    pub keep_alive: Duration,
    /// A peer that is silent for this long has lost its link.
    pub max_idle: Duration,
    /// The first pause between two attempts to dial; it doubles up to `max_backoff`.
    pub min_backoff: Duration,
    /// The longest pause between two attempts to dial.
    pub max_backoff: Duration,
    /// How many bytes may wait to be sent on one link; more close it.
    pub send_queue_bytes: usize,
    /// How many events may wait for the core.
    pub event_queue: usize,
    /// How many bytes of messages may wait for the core.
    pub event_bytes: usize,
    /// Upper bound of the path MTU discovery, in bytes of UDP payload. Raise it on loopback and on networks with jumbo
    /// frames only.
    pub max_mtu: u16,
}

impl RimConfig {
    /// The defaults, for a node that listens on `listen`.
    pub fn new(listen: SocketAddr, epoch: Epoch, name: impl Into<String>) -> Self {
        Self {
            listen,
            epoch,
            name: name.into(),
            versions: (MIN_VERSION, MAX_VERSION),
            handshake_timeout: Duration::from_secs(5),
            max_handshakes: 64,
            keep_alive: Duration::from_millis(300),
            max_idle: Duration::from_secs(2),
            min_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(2),
            send_queue_bytes: 64 << 20,
            event_queue: 1_024,
            event_bytes: 64 << 20,
            max_mtu: 1_452,
        }
    }

    /// How QUIC is to behave, on both ends of every connection.
    pub(super) fn transport(&self) -> Arc<TransportConfig> {
        Arc::new(self.transport_settings())
    }

    /// The same for a peer that is trusted from the start and opens one raw stream: for measurements.
    pub(super) fn transport_for_raw_streams(&self) -> Arc<TransportConfig> {
        let mut transport = self.transport_settings();
        transport.max_concurrent_uni_streams(VarInt::from_u32(1)).receive_window(Self::proven_window());
        Arc::new(transport)
    }

    fn transport_settings(&self) -> TransportConfig {
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.max_mtu);
        let idle_ms = u32::try_from(self.max_idle.as_millis()).unwrap_or(u32::MAX);
        let mut transport = TransportConfig::default();
        transport
            // The one stream that a link consists of, in both directions.
            .max_concurrent_bidi_streams(VarInt::from_u32(1))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
            .receive_window(VarInt::from_u32(UNPROVEN_WINDOW_BYTES))
            .send_window(u64::from(WINDOW_BYTES))
            .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
            .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES)
            .keep_alive_interval(Some(self.keep_alive))
            .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
            // Sets how soon an unanswered first packet is repeated: a peer that restarts is found sooner.
            .initial_rtt(Duration::from_millis(100))
            .mtu_discovery_config(Some(mtu))
            .congestion_controller_factory(Arc::new(CubicConfig::default()))
            .enable_segmentation_offload(self.max_mtu <= MAX_MTU_WITH_OFFLOAD);
        transport
    }

    /// The receive window of a connection whose peer is proven, in bytes.
    pub(super) fn proven_window() -> VarInt {
        VarInt::from_u32(WINDOW_BYTES)
    }
}
