//! What the broker promises its clients at size: order, shares, and what connections and destinations take.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::support::{
    PATIENCE,
    cluster::{Cluster, publish_all, texts},
    eventually,
    node::{Node, Setup},
    stomp::{Client, Frame},
};

const QUEUE: &str = "/queue/figures";

/// Messages whose order is looked at.
const IN_ORDER: usize = 1_000_000;

/// What the fast and the slow consumer share.
const SHARED: usize = 100_000;

/// How long each of them takes for a message.
const FAST: Duration = Duration::ZERO;
const SLOW: Duration = Duration::from_millis(5);

const CONNECTIONS: usize = 10_000;
const DESTINATIONS: usize = 100_000;

/// How often all destinations are made, and vanish.
const ROUNDS: usize = 5;

/// A client that acknowledges in the end of what it has read rather than one by one: what is measured is the broker.
fn subscribe(client: &mut Client, prefetch: usize, ack: &str) {
    let prefetch = prefetch.to_string();
    let headers = [("id", "0"), ("destination", QUEUE), ("ack", ack), ("prefetch-count", prefetch.as_str())];
    client.write("SUBSCRIBE", &headers, b"").expect("SUBSCRIBE");
}

#[test]
#[ignore = "measures; see the module docs"]
fn a_consumer_elsewhere_gets_a_million_in_order() {
    let cluster = Cluster::start(3);
    let producer = cluster.nodes[0].client();
    let mut consumer = cluster.nodes[1].client();
    subscribe(&mut consumer, 1_000, "client");
    let started = Instant::now();
    let sending = thread::spawn(move || {
        let mut producer = producer;
        let texts = (0..IN_ORDER).map(|number| number.to_string());
        producer.send_all(QUEUE, texts, |_| {}).expect("every SEND is confirmed");
        started.elapsed()
    });
    let mut disordered = 0;
    let mut last: Option<(usize, Frame)> = None;
    for count in 1..=IN_ORDER {
        let frame = consumer.next_frame(PATIENCE).expect("a message");
        let number: usize = frame.text().parse().expect("a number");
        disordered += usize::from(last.as_ref().map_or(0, |(before, _)| before + 1) != number);
        if count % 500 == 0 || count == IN_ORDER {
            consumer.ack(&frame).expect("ACK");
        }
        last = Some((number, frame));
    }
    let (received, sent) = (started.elapsed(), sending.join().expect("the producer"));
    println!(
        "order: {disordered} of {IN_ORDER} out of order at a consumer of another node (target: 0); the last came {:.1} s \
         after the last receipt, which took {:.1} s",
        received.saturating_sub(sent).as_secs_f64(),
        sent.as_secs_f64(),
    );
    assert_eq!(disordered, 0, "this is a promise, not a figure");
}

/// Reads and acknowledges until nobody has anything more; how many, and the longest time without any while others had some.
fn work(mut client: Client, pace: Duration, left: &AtomicU64, done: &AtomicBool) -> (u64, Duration) {
    let (mut count, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
    while !done.load(Ordering::Relaxed) {
        let Ok(frame) = client.next_frame(Duration::from_millis(100)) else { continue };
        longest = longest.max(last.elapsed());
        thread::sleep(pace);
        client.ack(&frame).expect("ACK");
        count += 1;
        last = Instant::now();
        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
            done.store(true, Ordering::Relaxed);
        }
    }
    client.sync().expect("the ACKs are taken in");
    (count, longest)
}

#[test]
#[ignore = "measures; see the module docs"]
fn a_fast_and_a_slow_consumer_share_by_their_speed() {
    let cluster = Cluster::start(3);
    publish_all(&cluster.nodes[0], QUEUE, &texts("m", SHARED));
    cluster.await_convergence();
    let (left, done) = (AtomicU64::new(SHARED as u64), AtomicBool::new(false));
    let client = |node: usize| {
        let mut client = cluster.nodes[node].client();
        subscribe(&mut client, 10, "client-individual");
        client
    };
    let (fast, slow) = (client(1), client(2));
    let started = Instant::now();
    let (fast, slow) = thread::scope(|scope| {
        let fast = scope.spawn(|| work(fast, FAST, &left, &done));
        let slow = scope.spawn(|| work(slow, SLOW, &left, &done));
        (fast.join().expect("the fast one"), slow.join().expect("the slow one"))
    });
    let took = started.elapsed();
    // What the slow one could have had at most.
    let busy = slow.0 as f64 * SLOW.as_secs_f64() / took.as_secs_f64();
    println!(
        "shares: of {SHARED} the fast one had {}, the slow one {}, who was busy {:.0} % of the time; the longest wait was {:.0} \
         and {:.0} ms (target: all; none idle while there is work)",
        fast.0,
        slow.0,
        100.0 * busy,
        fast.1.as_secs_f64() * 1e3,
        slow.1.as_secs_f64() * 1e3,
    );
    assert_eq!(fast.0 + slow.0, SHARED as u64, "each once");
}

/// A node alone, that takes so many clients of this machine.
fn alone(directory: &tempfile::TempDir) -> Node {
    let many = (CONNECTIONS + 10).to_string();
    let setup = Setup::new(directory.path(), "n0");
    Node::start(setup.with(&["--max-connections", &many, "--max-connections-per-address", &many]))
}

#[test]
#[ignore = "measures; see the module docs"]
fn connections_take_little() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = alone(&directory);
    drop(node.client());
    let before = node.resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        match Client::connect(node.stomp) {
            Ok(client) => clients.push(client),
            // This process, or the node, may open no more files.
            Err(error) => {
                println!("connections: only {} can be had here: {error}", clients.len());
                break;
            }
        }
    }
    let connected = node.resident_bytes();
    for (number, client) in clients.iter_mut().enumerate() {
        client.subscribe("0", &format!("/queue/figures-{number}")).expect("SUBSCRIBE");
    }
    clients.iter_mut().for_each(|client| client.sync().expect("SUBSCRIBE is taken in"));
    let subscribed = node.resident_bytes();
    let each = |bytes: u64| bytes as f64 / 1024.0 / clients.len() as f64;
    println!(
        "connections: {} take {:.1} KiB each, {:.1} KiB with a subscription of a queue of its own",
        clients.len(),
        each(connected.saturating_sub(before)),
        each(subscribed.saturating_sub(before)),
    );
    let (first, last) = (0, clients.len() - 1);
    // They are served, too.
    clients[first].send_confirmed(&format!("/queue/figures-{last}"), b"hello").expect("RECEIPT");
    assert_eq!(clients[last].next_frame(PATIENCE).expect("a message").text(), "hello");
}

/// Sends a message to each of [`DESTINATIONS`] queues. A transaction of many is one block: few receipts to wait for.
fn fill(client: &mut Client) {
    for part in 0..DESTINATIONS / 1_000 {
        let name = format!("t{part}");
        client.write("BEGIN", &[("transaction", &name)], b"").expect("BEGIN");
        for number in 0..1_000 {
            let queue = format!("/queue/figures-{part}-{number}");
            client.write("SEND", &[("destination", &queue), ("transaction", &name)], b"body").expect("SEND");
        }
        client.write("COMMIT", &[("transaction", &name), ("receipt", &name)], b"").expect("COMMIT");
        assert_eq!(client.next_frame(PATIENCE).expect("an answer").command, "RECEIPT");
    }
}

/// Consumes them, and waits until the queues have vanished.
fn empty(node: &Node, client: &mut Client) {
    for part in 0..DESTINATIONS / 1_000 {
        for number in 0..1_000 {
            client.subscribe("0", &format!("/queue/figures-{part}-{number}")).expect("SUBSCRIBE");
            let frame = client.next_frame(PATIENCE).expect("a message");
            client.ack(&frame).expect("ACK");
            client.write("UNSUBSCRIBE", &[("id", "0")], b"").expect("UNSUBSCRIBE");
        }
    }
    client.sync().expect("all is taken in");
    eventually("queues to vanish", || match node.status()?["queues"].as_array().ok_or("no queues")?.len() {
        0 => Ok(()),
        left => Err(format!("{left} left")),
    });
}

#[test]
#[ignore = "measures; see the module docs"]
fn destinations_take_little_and_vanish() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = alone(&directory);
    let mut client = node.client();
    client.sync().expect("it is served");
    let before = node.resident_bytes();
    let mib = |bytes: u64| bytes.saturating_sub(before) as f64 / f64::from(1 << 20);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        fill(&mut client);
        let full = node.resident_bytes();
        empty(&node, &mut client);
        rounds.push((full, node.resident_bytes()));
    }
    let (full, _) = rounds[0];
    let (most, left) = rounds[ROUNDS - 1];
    println!(
        "destinations: {DESTINATIONS} queues of a message each take {:.0} bytes each. Made and consumed {ROUNDS} times, they take {:.0} \
         MiB, {:.0} the first time, and what stays of {} of them is {:.0} MiB",
        full.saturating_sub(before) as f64 / DESTINATIONS as f64,
        mib(most),
        mib(full),
        ROUNDS * DESTINATIONS,
        mib(left),
    );
}
