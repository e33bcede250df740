//! A process that is stopped for a while and goes on, as on a laptop that sleeps.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    node::{Node, Setup},
    stomp::Client,
};

/// Longer than any client with heart-beats may be silent: the node asks for one every 10 s and bears twice that.
const STOPPED: Duration = Duration::from_secs(21);

#[test]
fn clients_that_sent_heart_beats_meanwhile_are_still_served() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(Setup::new(dir.path(), "n"));
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect_beating(node.stomp, "1000,0").unwrap()).collect();
    clients.iter_mut().for_each(|client| drop(client.send_confirmed("/queue/q", b"before").unwrap()));
    node.signal("STOP");
    let start = Instant::now();
    while start.elapsed() < STOPPED {
        clients.iter_mut().for_each(|client| client.write_raw(b"\n").unwrap());
        thread::sleep(Duration::from_millis(500));
    }
    node.signal("CONT");
    for client in &mut clients {
        client.send_confirmed("/queue/q", b"after").unwrap();
    }
    assert_eq!(node.depth("/queue/q"), Ok(40), "{}", node.log());
}
