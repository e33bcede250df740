//! A producer whose node dies before the receipts sends again at another node what carries an id of its own.

use std::collections::BTreeSet;

use crate::support::{
    PATIENCE,
    cluster::{Cluster, Ledger, consume_all, texts},
    node::Node,
    stomp::Client,
};

const QUEUE: &str = "/queue/once";
const MANY: usize = 2_000;

/// Sends all of these, and waits for so many receipts.
fn send_all(node: &Node, texts: &BTreeSet<String>, receipts: usize) -> Client {
    let mut client = node.client();
    for text in texts {
        let headers = [("destination", QUEUE), ("receipt", text), ("_AMQ_DUPL_ID", text)];
        client.write("SEND", &headers, text.as_bytes()).expect("SEND");
    }
    for _ in 0..receipts {
        let frame = client.next_frame(PATIENCE).expect("a receipt");
        assert_eq!((&*frame.command, frame.header("copies") >= "2"), ("RECEIPT", true), "{frame}");
    }
    client
}

#[test]
fn what_is_sent_again_at_another_node_after_a_kill_comes_once() {
    let mut cluster = Cluster::start(3);
    let wanted = texts("m", MANY);
    let client = send_all(&cluster.nodes[0], &wanted, MANY / 4);
    cluster.nodes[0].kill();
    // What it alone had written down is gone with it.
    cluster.nodes[0].wipe();
    drop(client);
    send_all(&cluster.nodes[1], &wanted, MANY);
    let mut ledger = Ledger::default();
    consume_all(&cluster.nodes[2], QUEUE, &wanted, &mut ledger);
    assert_eq!(ledger.duplicates(), 0);
    for node in &cluster.nodes[1..] {
        assert_eq!(node.depth(QUEUE), Ok(0), "none is left that was taken twice");
    }
    // Consumed, and still remembered.
    send_all(&cluster.nodes[2], &wanted, MANY);
    assert_eq!(cluster.nodes[2].depth(QUEUE), Ok(0));
}

#[test]
fn a_node_that_is_killed_and_restarted_remembers_what_it_took() {
    let mut cluster = Cluster::start(1);
    let wanted = texts("m", 200);
    send_alone(&cluster.nodes[0], &wanted);
    consume_all(&cluster.nodes[0], QUEUE, &wanted, &mut Ledger::default());
    cluster.nodes[0].kill();
    cluster.nodes[0].restart();
    send_alone(&cluster.nodes[0], &wanted);
    assert_eq!(cluster.nodes[0].depth(QUEUE), Ok(0));
}

fn send_alone(node: &Node, texts: &BTreeSet<String>) {
    let mut client = node.client();
    for text in texts {
        let headers = [("destination", QUEUE), ("receipt", text), ("x-deduplication-header", text)];
        client.write("SEND", &headers, text.as_bytes()).expect("SEND");
    }
    for _ in texts {
        let frame = client.next_frame(PATIENCE).expect("a receipt");
        assert_eq!((&*frame.command, frame.header("copies")), ("RECEIPT", "1"), "{frame}");
    }
}
