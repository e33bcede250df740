//! Real endpoints on loopback: linking, refusing, losing and finding each other again.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rhizomq_engine::{Epoch, NodeId};
use rhizomq_net::{
    LinkId, PeerHello,
    rim::{CloseCode, Identity, Keyring, NetworkSecret, Refused, Rim, RimConfig, RimEvent, RimEvents},
};
use tokio::time::timeout;

/// Far more than anything takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn secret(fill: u8) -> NetworkSecret {
    NetworkSecret::from_bytes([fill; 32])
}

/// An endpoint and what it has told.
struct Peer {
    rim: Rim,
    events: RimEvents,
    links: BTreeMap<LinkId, PeerHello>,
}

impl Peer {
    fn new(name: &str) -> Self {
        Self::with(&Identity::generate().unwrap(), secret(1), config(name))
    }

    fn with(identity: &Identity, secret: NetworkSecret, config: RimConfig) -> Self {
        let (rim, events) = Rim::open(config, identity, secret).unwrap();
        Self { rim, events, links: BTreeMap::new() }
    }

    fn address(&self) -> SocketAddr {
        self.rim.local_addr().unwrap()
    }

    fn dial(&self, other: &Self) {
        self.rim.dial([(None, vec![other.address()])]);
    }

    /// The next event; checks that links follow the rules.
    async fn next(&mut self) -> RimEvent {
        let event = timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("the rim lives");
        match &event {
            RimEvent::LinkUp { link, hello, .. } => {
                let doubled = self.links.values().any(|other| other.node == hello.node);
                assert!(!doubled, "a second link to {:?} before the first one went down", hello.node);
                assert!(self.links.insert(*link, hello.clone()).is_none());
            }
            RimEvent::LinkDown { link, .. } => assert!(self.links.remove(link).is_some(), "down before it was up"),
            RimEvent::Message { link, .. } | RimEvent::Datagram { link, .. } => {
                assert!(self.links.contains_key(link), "bytes of a link that is not up");
            }
            RimEvent::Refused(_) => {}
        }
        event
    }

    async fn link_up(&mut self) -> (LinkId, PeerHello) {
        loop {
            if let RimEvent::LinkUp { link, hello, .. } = self.next().await {
                return (link, hello);
            }
        }
    }

    async fn link_down(&mut self) -> (LinkId, String) {
        loop {
            if let RimEvent::LinkDown { link, reason } = self.next().await {
                return (link, reason);
            }
        }
    }

    async fn message(&mut self) -> Bytes {
        loop {
            if let RimEvent::Message { bytes, .. } = self.next().await {
                return bytes;
            }
        }
    }

    async fn refused(&mut self) -> Refused {
        loop {
            if let RimEvent::Refused(refused) = self.next().await {
                return refused;
            }
        }
    }
}

fn config(name: &str) -> RimConfig {
    RimConfig::new(loopback(), Epoch(7), name)
}

/// Two linked peers, with the link as each of them names it.
async fn linked() -> (Peer, LinkId, Peer, LinkId) {
    let (mut a, mut b) = (Peer::new("a"), Peer::new("b"));
    a.dial(&b);
    let (at_a, hello) = a.link_up().await;
    assert_eq!((hello.node, hello.epoch, hello.name.as_str()), (b.rim.node(), Epoch(7), "b"));
    let (at_b, hello) = b.link_up().await;
    assert_eq!((hello.node, hello.name.as_str()), (a.rim.node(), "a"));
    (a, at_a, b, at_b)
}

/// Bytes that show when a piece is missing, doubled or moved.
fn pattern(size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&size.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_all_sizes_cross_both_ways_in_order() {
    let (mut a, at_a, mut b, at_b) = linked().await;
    let sizes = [0, 1, 3, 4, 5, 8_191, 8_192, 100_000, 20 << 20, 7, 0, 1 << 20];
    for size in sizes {
        a.rim.send(at_a, pattern(size));
        b.rim.send(at_b, pattern(size + 1));
    }
    let small = 2_000;
    (0..small).for_each(|number| a.rim.send(at_a, pattern(number % 300)));
    let reading_b = async {
        for size in sizes {
            assert!(b.message().await == pattern(size), "the message of {size} bytes");
        }
        for number in 0..small {
            assert!(b.message().await == pattern(number % 300), "small message {number}");
        }
    };
    let reading_a = async {
        for size in sizes {
            assert!(a.message().await == pattern(size + 1), "the message of {} bytes", size + 1);
        }
    };
    tokio::join!(reading_a, reading_b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_of_the_promised_size_cross() {
    let (a, at_a, mut b, _) = linked().await;
    // Loopback may lose one too, so send until one comes.
    let sending = async {
        loop {
            a.rim.datagram(at_a, pattern(1_150));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = sending => {}
        event = b.next() => assert!(matches!(event, RimEvent::Datagram { bytes, .. } if bytes == pattern(1_150))),
    }
    assert_eq!(a.rim.stats().datagrams_dropped, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_network_is_refused_and_both_hear_why() {
    let mut stranger = Peer::with(&Identity::generate().unwrap(), secret(9), config("stranger"));
    let mut ours = Peer::new("ours");
    stranger.dial(&ours);
    let at_ours = ours.refused().await;
    assert!(!at_ours.by_peer);
    let at_stranger = stranger.refused().await;
    assert!(at_stranger.by_peer);
    assert_eq!(at_stranger.remote, ours.address());
    for refused in [at_ours, at_stranger] {
        assert_eq!(refused.farewell.code, CloseCode::WrongSecret);
        assert!(refused.farewell.text.contains("wrong network secret"), "{refused}");
    }
    assert!(ours.links.is_empty() && stranger.links.is_empty());
    assert!(ours.rim.stats().refused > 0);
    // And the node that refused goes on as before.
    let mut friend = Peer::new("friend");
    friend.dial(&ours);
    assert_eq!(ours.link_up().await.1.node, friend.rim.node());
    friend.link_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_version_is_refused_and_both_hear_why() {
    let newer = RimConfig { versions: (40, 41), ..config("newer") };
    let mut newer = Peer::with(&Identity::generate().unwrap(), secret(1), newer);
    let mut ours = Peer::new("ours");
    newer.dial(&ours);
    for (peer, by_peer) in [(&mut ours, false), (&mut newer, true)] {
        let refused = peer.refused().await;
        assert_eq!((refused.by_peer, refused.farewell.code), (by_peer, CloseCode::NoCommonVersion));
        let ours = format!("{} to {}", rhizomq_net::MIN_VERSION, rhizomq_net::MAX_VERSION);
        assert!(refused.farewell.text.contains(&ours) && refused.farewell.text.contains("40 to 41"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dials_itself_is_told() {
    let mut node = Peer::new("narcissus");
    node.rim.dial([(None, vec![node.address()])]);
    assert_eq!(node.refused().await.farewell.code, CloseCode::SelfConnection);
    assert!(node.links.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_udp_port_harms_nobody() {
    let (a, at_a, mut b, _) = linked().await;
    let socket = UdpSocket::bind(loopback()).unwrap();
    for size in 0..1_400 {
        socket.send_to(&pattern(size), b.address()).unwrap();
        // Looks like the first packet of a QUIC handshake.
        let mut initial = pattern(size.max(6)).to_vec();
        initial[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
        socket.send_to(&initial, b.address()).unwrap();
    }
    a.rim.send(at_a, pattern(1_000));
    assert_eq!(b.message().await, pattern(1_000));
    assert_eq!((a.links.len(), b.links.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dialling_at_once_leaves_one_link_and_no_end_ever_had_another() {
    for round in 0..30 {
        let (mut a, mut b) = (Peer::new("a"), Peer::new("b"));
        a.dial(&b);
        b.dial(&a);
        let ((at_a, _), (at_b, _)) = tokio::join!(a.link_up(), b.link_up());
        // The same one for both: otherwise these are lost.
        a.rim.send(at_a, pattern(round));
        b.rim.send(at_b, pattern(round));
        for peer in [&mut a, &mut b] {
            match peer.next().await {
                RimEvent::Message { bytes, .. } => assert_eq!(bytes, pattern(round)),
                other => panic!("round {round}: {other:?}"),
            }
        }
        // And nothing else happens: nobody goes on dialling, for another link would take the place of this one.
        let quiet = tokio::time::sleep(Duration::from_millis(200));
        let event = tokio::select! { event = a.next() => event, event = b.next() => event, () = quiet => continue };
        panic!("round {round}: {event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_leaves_says_so_at_once_and_loses_nothing_on_the_way() {
    let (mut a, at_a, b, at_b) = linked().await;
    (0..100).for_each(|_| b.rim.send(at_b, pattern(100_000)));
    let Peer { rim, mut events, .. } = b;
    let leaving = tokio::spawn(async move {
        let draining = async { while events.recv().await.is_some() {} };
        tokio::select! { () = rim.shutdown(PATIENCE) => {}, () = draining => {} }
    });
    for _ in 0..100 {
        assert!(a.message().await == pattern(100_000));
    }
    let (link, reason) = a.link_down().await;
    assert_eq!(link, at_a);
    assert!(reason.contains("shutting down"), "{reason}");
    leaving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_is_made_again_after_each_loss() {
    let (identity, mut a) = (Identity::generate().unwrap(), Peer::new("a"));
    let mut b = Peer::with(&identity, secret(1), config("b"));
    let address = b.address();
    a.rim.dial([(Some(identity.node()), vec![address])]);
    for _ in 0..3 {
        let (at_a, _) = a.link_up().await;
        let (at_b, _) = b.link_up().await;
        b.rim.close(at_b, "for the test");
        assert_eq!(b.link_down().await, (at_b, "for the test".into()));
        let (link, reason) = a.link_down().await;
        assert_eq!((link, reason.as_str()), (at_a, "closed by the peer: for the test"));
    }
    a.link_up().await;
    b.link_up().await;
}

/// A runtime that is dropped is as good as a process that is killed: nothing runs any more, nothing is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_peer_is_noticed_within_seconds_and_linked_again_in_its_next_life() {
    let identity = Identity::generate().unwrap();
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut a = Peer::new("a");
    let (b, mut b_events) = {
        let _inside = process.enter();
        Rim::open(config("b"), &identity, secret(1)).unwrap()
    };
    let address = b.local_addr().unwrap();
    a.rim.dial([(Some(identity.node()), vec![address])]);
    a.link_up().await;
    assert!(matches!(b_events.recv().await, Some(RimEvent::LinkUp { .. })));

    let death = Instant::now();
    process.shutdown_background();
    let (_, reason) = a.link_down().await;
    assert!(reason.contains("timed out"), "{reason}");
    assert!((Duration::from_millis(500)..Duration::from_secs(10)).contains(&death.elapsed()), "{:?}", death.elapsed());
    drop((b, b_events));

    // Nobody dials a, so it is a that has not given up.
    let again = RimConfig { listen: address, epoch: Epoch(8), ..config("b") };
    let mut b = Peer::with(&identity, secret(1), again);
    b.link_up().await;
    assert_eq!(a.link_up().await.1.epoch, Epoch(8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_targets_replaces_the_last_one() {
    let (mut a, b, c) = (Peer::new("a"), Peer::new("b"), Peer::new("c"));
    a.rim.dial([(None, vec![b.address()])]);
    let (to_b, _) = a.link_up().await;
    a.rim.dial([(None, vec![c.address()])]);
    assert_eq!(a.link_up().await.1.node, c.rim.node());
    assert_eq!(a.links.len(), 2, "links stay when their target goes");
    a.rim.close(to_b, "for the test");
    a.link_down().await;
    // Of the two only c is dialled again.
    let to_c = *a.links.keys().next().unwrap();
    a.rim.close(to_c, "for the test");
    assert_eq!(a.link_up().await.1.node, c.rim.node());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_overflows_closes_the_link_and_is_counted() {
    let small = RimConfig { send_queue_bytes: 1 << 20, ..config("a") };
    let mut a = Peer::with(&Identity::generate().unwrap(), secret(1), small);
    let slow = RimConfig { event_queue: 1, ..config("b") };
    let mut b = Peer::with(&Identity::generate().unwrap(), secret(1), slow);
    a.dial(&b);
    let (link, _) = a.link_up().await;
    b.link_up().await;
    // b does not read its events; 64 MiB are more than all windows and queues in between hold.
    for _ in 0..640 {
        a.rim.send(link, pattern(100_000));
        tokio::task::yield_now().await;
    }
    let (_, reason) = a.link_down().await;
    assert!(reason.contains("reads too slowly"), "{reason}");
    assert_eq!(a.rim.stats().overflows, 1);
    a.rim.send(link, pattern(1));
    // b hears of the end as well, though not always of the reason: that is one packet in a flood.
    b.link_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_long_closes_the_link() {
    let (mut a, at_a, mut b, _) = linked().await;
    a.rim.send(at_a, pattern((32 << 20) + 1));
    assert!(a.link_down().await.1.contains("33554433 bytes"));
    b.link_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_dial_each_other_in_all_directions() {
    let mut peers = [Peer::new("a"), Peer::new("b"), Peer::new("c")];
    let targets: Vec<(NodeId, SocketAddr)> = peers.iter().map(|peer| (peer.rim.node(), peer.address())).collect();
    for peer in &peers {
        // Itself among them: a named target that is this node is no target.
        peer.rim.dial(targets.iter().map(|(node, address)| (Some(*node), vec![*address])));
    }
    for peer in &mut peers {
        while peer.links.len() < 2 {
            peer.next().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_becomes_trusted_is_let_in_without_delay_and_links_stay() {
    let mut a = Peer::with(&Identity::generate().unwrap(), secret(1), config("a"));
    let mut b = Peer::with(&Identity::generate().unwrap(), secret(2), config("b"));
    let mut c = Peer::with(&Identity::generate().unwrap(), secret(1), config("c"));
    a.dial(&c);
    a.link_up().await;
    c.link_up().await;
    a.dial(&b);
    let refused = a.refused().await;
    assert_eq!((refused.by_peer, refused.farewell.code), (true, CloseCode::WrongSecret));
    let since = std::time::Instant::now();
    // A secret of b's makes both ends accept each other; b still knows nothing but its own.
    a.rim.trust(Keyring::new(secret(1), [secret(2)]));
    a.link_up().await;
    b.link_up().await;
    assert!(since.elapsed() < Duration::from_secs(4), "it does not wait for its next turn: {:?}", since.elapsed());
}
