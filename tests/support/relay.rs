//! A UDP relay in front of one node's peer address, so that links can be cut and healed without touching the nodes.
//!
//! The node advertises the relay's address, so whoever dials it goes through here. Peers are told apart by the address
//! they send from, which is their own peer address: a node dials and listens on one socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How often a thread looks whether the relay is gone.
const TICK: Duration = Duration::from_millis(100);
/// Longer than any datagram.
const MAX_DATAGRAM: usize = 65_536;

#[derive(Default)]
struct Shared {
    target: Mutex<Option<SocketAddr>>,
    cut: Mutex<BTreeSet<SocketAddr>>,
    stop: AtomicBool,
}

impl Shared {
    fn passes(&self, peer: SocketAddr) -> bool {
        !self.cut.lock().unwrap().contains(&peer)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The relay; dropping it stops it.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Relay {
    /// A relay that drops everything until it has a target.
    pub fn new() -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a UDP socket on loopback"));
        front.set_read_timeout(Some(TICK)).expect("a time limit for reading");
        let relay = Self { address: front.local_addr().expect("it is bound"), shared: Arc::default() };
        let shared = relay.shared.clone();
        std::thread::spawn(move || forward(&front, &shared));
        relay
    }

    /// The address to advertise.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where datagrams go.
    pub fn set_target(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = Some(target);
    }

    /// Drops everything from and to this peer from now on.
    pub fn cut(&self, peer: SocketAddr) {
        self.shared.cut.lock().unwrap().insert(peer);
    }

    /// Lets this peer through again.
    pub fn heal(&self, peer: SocketAddr) {
        self.shared.cut.lock().unwrap().remove(&peer);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Peers to target. Each peer gets a socket of its own, so that the target's answers find their way back.
fn forward(front: &Arc<UdpSocket>, shared: &Arc<Shared>) {
    let mut backs: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    while !shared.stopped() {
        let Ok((length, peer)) = front.recv_from(&mut buffer) else { continue };
        let Some(target) = *shared.target.lock().unwrap() else { continue };
        if !shared.passes(peer) {
            continue;
        }
        let back = backs.entry(peer).or_insert_with(|| {
            let back = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a UDP socket on loopback"));
            back.set_read_timeout(Some(TICK)).expect("a time limit for reading");
            let (front, shared, answers) = (front.clone(), shared.clone(), back.clone());
            std::thread::spawn(move || backward(&front, &answers, peer, &shared));
            back
        });
        // A datagram may be lost: that is what UDP promises.
        let _ = back.send_to(&buffer[..length], target);
    }
}

/// Target to one peer.
fn backward(front: &UdpSocket, back: &UdpSocket, peer: SocketAddr, shared: &Shared) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    while !shared.stopped() {
        let Ok((length, _)) = back.recv_from(&mut buffer) else { continue };
        if shared.passes(peer) {
            let _ = front.send_to(&buffer[..length], peer);
        }
    }
}
