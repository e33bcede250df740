//! The endpoint: one UDP socket on which this node dials and is dialled, and the commands of the core.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::{ConfigError, Connection, Endpoint, EndpointConfig, TokioRuntime, VarInt};
use rhizomq_engine::NodeId;
use tokio::{sync::watch, task::AbortHandle};

use super::{
    config::{MAX_MESSAGE_BYTES, RimConfig},
    connection::Link,
    dial::{self, Target},
    events::{self, EventSender, RimEvent, RimEvents},
    handshake::Established,
    identity::Identity,
    keyring::Keyring,
    listen,
    quiet::Quiet,
    refusal::{CloseCode, Farewell, HandshakeError},
    table::Table,
    tls::{self, TlsError},
};
use crate::link::{HelloError, LinkId, MAX_NAME_BYTES};

/// How long [`Rim::shutdown`] waits for the last packets to be on their way.
const GOODBYE: Duration = Duration::from_millis(500);

/// The endpoint can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum RimError {
    /// The address is taken, or not ours.
    #[error("can't listen on UDP {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A setting that QUIC refuses.
    #[error("a setting of the links between nodes is out of range: {0}")]
    Config(#[from] ConfigError),
    /// The node's name does not fit into a hello.
    #[error(transparent)]
    Name(#[from] HelloError),
}

/// What went wrong so far, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RimStats {
    /// Links closed because more was to be sent than may wait.
    pub overflows: u64,
    /// Datagrams that could not be sent.
    pub datagrams_dropped: u64,
    /// Connections refused, by either end.
    pub refused: u64,
}

/// What all tasks of an endpoint share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: NodeId,
    pub(super) config: RimConfig,
    /// Whom to let in, and what to prove to others.
    pub(super) trusted: watch::Sender<Arc<Keyring>>,
    pub(super) endpoint: Endpoint,
    pub(super) table: Arc<Table>,
    pub(super) quiet: Quiet,
    events: EventSender,
    next_link: AtomicU64,
    overflows: AtomicU64,
    datagrams_dropped: AtomicU64,
    refused: AtomicU64,
}

/// All links of this node. Dropping it closes them at once; [`Rim::shutdown`] is the polite way.
#[derive(Debug)]
pub struct Rim {
    shared: Arc<Shared>,
    accepting: AbortHandle,
    dialling: Mutex<BTreeMap<Target, AbortHandle>>,
}

impl Rim {
    /// Opens the socket and starts to listen. Has to be called in a Tokio runtime.
    ///
    /// # Errors
    /// The socket or TLS can't be set up, or the configuration makes no sense.
    pub fn open(
        config: RimConfig,
        identity: &Identity,
        trusted: impl Into<Keyring>,
    ) -> Result<(Self, RimEvents), RimError> {
        if config.name.len() > MAX_NAME_BYTES {
            return Err(HelloError::NameTooLong(config.name.len()).into());
        }
        let transport = config.transport();
        let mut server = tls::server_config(identity)?;
        server.transport_config(Arc::clone(&transport));
        // A link belongs to an address; who moves dials again.
        server.migration(false);
        let mut client = tls::client_config(identity)?;
        client.transport_config(transport);
        let mut general = EndpointConfig::default();
        general.max_udp_payload_size(config.max_mtu.max(1_472))?;

        let bind_error = |source| RimError::Bind { address: config.listen, source };
        let socket = UdpSocket::bind(config.listen).map_err(bind_error)?;
        let mut endpoint = Endpoint::new(general, Some(server), socket, Arc::new(TokioRuntime)).map_err(bind_error)?;
        endpoint.set_default_client_config(client);

        let (events, receiver) = events::channel(config.event_queue, config.event_bytes);
        let node = identity.node();
        let shared = Arc::new(Shared {
            node,
            config,
            trusted: watch::Sender::new(Arc::new(trusted.into())),
            endpoint,
            table: Arc::new(Table::new(node)),
            quiet: Quiet::default(),
            events,
            next_link: AtomicU64::new(1),
            overflows: AtomicU64::new(0),
            datagrams_dropped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(listen::accept(Arc::clone(&shared))).abort_handle();
        Ok((Self { shared, accepting, dialling: Mutex::default() }, receiver))
    }

    /// The address that others can dial, with the port that was picked.
    ///
    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// Queues a message of at most [`MAX_MESSAGE_BYTES`] on a link. A link that is gone takes it in silence, for
    /// `LinkDown` says it all. One whose queue is full, or a message that is too long, closes the link.
    pub fn send(&self, link: LinkId, message: Bytes) {
        let Some(link) = self.shared.table.get(link) else { return };
        let too_much = if message.len() > MAX_MESSAGE_BYTES {
            format!("a message of {} bytes was to be sent, {MAX_MESSAGE_BYTES} are allowed", message.len())
        } else {
            match link.send(message) {
                Ok(()) => return,
                Err(full) => format!("the peer reads too slowly: {} bytes wait to be sent", full.0),
            }
        };
        if link.is_open() {
            self.shared.overflows.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(peer = %link.claim().peer, reason = too_much, "closing a link");
            link.close(Farewell::new(CloseCode::Overflow, too_much));
        }
    }

    /// Sends a datagram, now or never. The path decides what fits: 1150 bytes always do.
    pub fn datagram(&self, link: LinkId, bytes: Bytes) {
        let Some(link) = self.shared.table.get(link) else { return };
        if let Err(error) = link.datagram(bytes) {
            self.shared.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = %link.claim().peer, %error, "datagram dropped");
        }
    }

    /// Closes a link at once; what waits to be sent is lost. `LinkDown` follows as always.
    pub fn close(&self, link: LinkId, reason: impl Into<String>) {
        if let Some(link) = self.shared.table.get(link) {
            link.close(Farewell::new(CloseCode::Closed, reason));
        }
    }

    /// Whom to keep dialling for as long as there is no link, in place of the last list. Links stay as they are. Has to
    /// be called in a Tokio runtime.
    pub fn dial(&self, targets: impl IntoIterator<Item = (Option<NodeId>, Vec<SocketAddr>)>) {
        let mut dialling = self.dialling.lock().unwrap_or_else(PoisonError::into_inner);
        let mut former = std::mem::take(&mut *dialling);
        for target in targets {
            if target.0 == Some(self.shared.node) || target.1.is_empty() || dialling.contains_key(&target) {
                continue;
            }
            let task = former.remove(&target).unwrap_or_else(|| {
                // Only spreads the pauses: any number will do that differs from node to node.
                let seed = u64::from_le_bytes(self.shared.node.0[..8].try_into().unwrap_or_default());
                tokio::spawn(dial::keep_dialling(Arc::clone(&self.shared), target.clone(), seed)).abort_handle()
            });
            dialling.insert(target, task);
        }
        former.values().for_each(AbortHandle::abort);
    }

    /// The secrets for all handshakes from now on, in place of those so far. Links stay as they are.
    pub fn trust(&self, keyring: Keyring) {
        self.shared.trusted.send_if_modified(|trusted| {
            let is_news = **trusted != keyring;
            *trusted = Arc::new(keyring);
            is_news
        });
    }

    /// What went wrong so far.
    pub fn stats(&self) -> RimStats {
        RimStats {
            overflows: self.shared.overflows.load(Ordering::Relaxed),
            datagrams_dropped: self.shared.datagrams_dropped.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
        }
    }

    /// Sends what waits, for at most `patience`, and says good-bye: peers see at once that this node is gone. The events
    /// must still be read meanwhile.
    pub async fn shutdown(self, patience: Duration) {
        self.stop_dialling();
        let links = self.shared.table.shut();
        links.iter().for_each(|link| link.finish());
        let finishing = async {
            for link in &links {
                link.ended().await;
            }
        };
        if tokio::time::timeout(patience, finishing).await.is_err() {
            tracing::warn!("not everything could be sent to the peers before shutting down");
        }
        self.close_all();
        let _ = tokio::time::timeout(GOODBYE, self.shared.endpoint.wait_idle()).await;
    }

    fn stop_dialling(&self) {
        let mut dialling = self.dialling.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *dialling).values().for_each(AbortHandle::abort);
    }

    fn close_all(&self) {
        self.accepting.abort();
        self.shared.endpoint.close(VarInt::from_u32(CloseCode::ShuttingDown as u32), b"this node is shutting down");
    }
}

impl Drop for Rim {
    fn drop(&mut self) {
        self.stop_dialling();
        self.shared.table.shut();
        self.close_all();
    }
}

impl Shared {
    pub(super) fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.trusted.borrow())
    }

    /// Returns when other secrets are trusted than when it was last called for this receiver.
    pub(super) async fn keyring_changes(&self, receiver: &mut watch::Receiver<Arc<Keyring>>) {
        // The sender is in `self`, so it can't be gone.
        let _ = receiver.changed().await;
    }

    /// Makes a link of an established connection, unless a better one is there.
    pub(super) fn admit(&self, connection: Connection, established: Established) -> Result<(), HandshakeError> {
        let id = LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
        let link = Link::new(id, connection, &established, self.config.send_queue_bytes);
        let old = self.table.admit(&link).map_err(HandshakeError::Refused)?;
        tokio::spawn(link.run(
            established,
            old,
            Arc::clone(&self.table),
            self.events.clone(),
            self.config.handshake_timeout,
        ));
        Ok(())
    }

    /// Counts a refusal, and tells people and the core about it.
    pub(super) fn report(&self, error: &HandshakeError, remote: SocketAddr) {
        let Some(refused) = error.refusal(remote) else { return };
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(suppressed) = self.quiet.admit(Instant::now()) {
            tracing::warn!(%remote, suppressed, "no link: {refused}");
        }
        self.events.try_send(RimEvent::Refused(refused));
    }
}
