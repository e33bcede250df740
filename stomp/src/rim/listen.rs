//! Where clients come in: listeners of several kinds, and how many connections there may be.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    client::{self, ClientInput},
    entry::{self, EntryError},
    tls::Tls,
};
use crate::ConnId;

/// Pause after a failed accept: the system is out of something, and asking again at once does not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Between two words in the log about clients that were turned away.
const TURNED_AWAY_TOLD: Duration = Duration::from_secs(10);

/// How clients are let in, on all listeners together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Connections at a time; one more is closed at once.
    pub max_connections: usize,
    /// Connections at a time from one address (of IPv6: from one network of 64 bits); one more is closed at once.
    pub max_per_address: usize,
    /// A connection that is not ready for STOMP after so long (PROXY header, TLS, WebSocket) is closed.
    pub entry_timeout: Duration,
    /// Bytes of one WebSocket message.
    pub max_message: u64,
    /// Origins whose pages may connect over WebSocket; empty: all.
    pub origins: Vec<String>,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_per_address: 5_000,
            entry_timeout: Duration::from_secs(10),
            max_message: 32 << 20,
            origins: Vec::new(),
        }
    }
}

/// A socket on which clients connect, and what they speak there.
pub struct Listener {
    pub(super) socket: TcpListener,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) websocket: bool,
    pub(super) proxy: bool,
}

impl Listener {
    /// STOMP over TCP.
    pub fn new(socket: TcpListener) -> Self {
        Self { socket, tls: None, websocket: false, proxy: false }
    }

    /// The same over TLS.
    #[must_use]
    pub fn over_tls(self, tls: Arc<Tls>) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The same over WebSocket.
    #[must_use]
    pub fn over_websocket(self) -> Self {
        Self { websocket: true, ..self }
    }

    /// The same behind a proxy: each connection must begin with its PROXY header.
    #[must_use]
    pub fn behind_proxy(self, proxy: bool) -> Self {
        Self { proxy, ..self }
    }

    pub(super) fn speaks_plain_stomp(&self) -> bool {
        self.tls.is_none() && !self.websocket
    }
}

/// What all listeners share.
pub(super) struct Hall {
    pub(super) config: ListenerConfig,
    core: mpsc::Sender<ClientInput>,
    places: Arc<Semaphore>,
    addresses: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    last_conn: AtomicU64,
    turned_away: Mutex<Option<tokio::time::Instant>>,
}

impl Hall {
    pub(super) fn new(config: ListenerConfig, core: mpsc::Sender<ClientInput>) -> Self {
        Self {
            places: Arc::new(Semaphore::new(config.max_connections)),
            config,
            core,
            addresses: Arc::default(),
            last_conn: AtomicU64::new(0),
            turned_away: Mutex::new(None),
        }
    }

    /// A place among the connections of this address, if one is left.
    pub(super) fn seat(&self, address: IpAddr) -> Option<Seat> {
        let address = client_of(address);
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let count = addresses.entry(address).or_default();
        if *count >= self.config.max_per_address {
            return None;
        }
        *count += 1;
        Some(Seat { address, addresses: Arc::clone(&self.addresses) })
    }

    /// Told now and then: whoever knocks all the time does not fill the log.
    fn tell(&self, from: SocketAddr, why: &dyn std::fmt::Display) {
        let mut last = self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= TURNED_AWAY_TOLD) {
            *last = Some(tokio::time::Instant::now());
            tracing::warn!(%from, "a client is turned away: {why}; told again in {TURNED_AWAY_TOLD:?}, if it goes on");
        }
    }
}

/// One connection of an address.
pub(super) struct Seat {
    address: IpAddr,
    addresses: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: who has one of IPv6 mostly has 64 bits of them.
pub(super) fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

/// Accepts clients until `stop`, then waits for those that are there. They end with the task.
pub(super) async fn accept(
    listeners: Vec<Listener>,
    config: ListenerConfig,
    core: mpsc::Sender<ClientInput>,
    stop: oneshot::Receiver<()>,
) {
    let hall = Arc::new(Hall::new(config, core));
    let (stopping, stopped) = watch::channel(());
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(accept_at(Arc::new(listener), Arc::clone(&hall), stopped.clone()));
    }
    // Told, or the driver is gone.
    let _ = stop.await;
    drop(stopping);
    while loops.join_next().await.is_some() {}
}

async fn accept_at(listener: Arc<Listener>, hall: Arc<Hall>, mut stop: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            // Its sender is dropped when it is time.
            _ = stop.changed() => break,
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
        let Ok(place) = Arc::clone(&hall.places).try_acquire_owned() else {
            entry::turn_away(&stream, &listener);
            hall.tell(from, &format_args!("too many clients, there are {} already", hall.config.max_connections));
            continue;
        };
        if hall.core.is_closed() {
            return;
        }
        connections.spawn(attend(stream, from, Arc::clone(&listener), Arc::clone(&hall), place));
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// One connection, from its first byte to its last.
async fn attend(
    stream: TcpStream,
    from: SocketAddr,
    listener: Arc<Listener>,
    hall: Arc<Hall>,
    _place: OwnedSemaphorePermit,
) {
    let websocket = listener.websocket.then_some(hall.config.max_message);
    let entering = tokio::time::timeout(hall.config.entry_timeout, entry::enter(stream, from, &listener, &hall)).await;
    // Whoever stops listening must not be kept by those who are in.
    drop(listener);
    match entering.unwrap_or(Err(EntryError::TooSlow)) {
        Ok(entered) => {
            let conn = ConnId(hall.last_conn.fetch_add(1, Ordering::Relaxed) + 1);
            let core = hall.core.clone();
            // The connection's own future is large, and most of the time there are many.
            client::serve(conn, entered, websocket, core).await;
        }
        Err(error @ (EntryError::Proxy(_) | EntryError::TooMany { .. })) => hall.tell(from, &error),
        Err(error) => tracing::debug!(%from, %error, "a connection ends before STOMP"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_seats_and_gets_them_back() {
        let config = ListenerConfig { max_per_address: 2, ..ListenerConfig::default() };
        let hall = Hall::new(config, mpsc::channel(1).0);
        let seat = |text: &str| hall.seat(text.parse().unwrap());
        let first = seat("192.0.2.7");
        let second = seat("::ffff:192.0.2.7");
        assert!(first.is_some() && second.is_some());
        assert!(seat("192.0.2.7").is_none() && seat("192.0.2.8").is_some());
        let _sixth = (seat("2001:db8::1"), seat("2001:db8::2:1"));
        assert!(seat("2001:db8::3").is_none() && seat("2001:db8:0:1::1").is_some());
        drop(first);
        let again = seat("192.0.2.7");
        assert!(again.is_some() && seat("192.0.2.7").is_none());
        drop((second, again));
        assert!(!hall.addresses.lock().unwrap().contains_key(&"192.0.2.7".parse::<IpAddr>().unwrap()));
    }
}
