//! A receipt for SUBSCRIBE to a topic says that it is in force on all linked nodes.

use super::*;

#[test]
fn a_message_sent_anywhere_after_the_receipt_arrives() {
    for headers in [&[][..], &[("durable-subscription-name", "s")]] {
        let mut mesh = Mesh::new(3);
        let one = mesh.connect(1, 0, &[("client-id", "app")]);
        let sender = mesh.connect(2, 2, &[]);
        // Nothing gets through to the third node.
        mesh.held.insert((0, 2));
        mesh.subscribe(one, "s", "/topic/a", &[headers, &[("receipt", "r")]].concat());
        assert!(mesh.receipts(one).is_empty(), "one node has not heard of it: {headers:?}");
        mesh.send(sender, "/topic/a", "too early");
        mesh.held.clear();
        mesh.settle();
        assert_eq!(mesh.receipts(one), ["r"], "{headers:?}");
        mesh.send(sender, "/topic/a", "in time");
        assert_eq!(mesh.bodies(one), ["in time"], "{headers:?}");
    }
}

#[test]
fn a_node_that_has_heard_of_a_durable_subscription_and_not_written_it_down_is_waited_for() {
    let mut mesh = Mesh::new(2);
    let one = mesh.connect(1, 0, &[("client-id", "app")]);
    mesh.slow_disk = Some(1);
    mesh.subscribe(one, "s", "/topic/a", &[("durable-subscription-name", "s"), ("receipt", "r")]);
    assert!(mesh.receipts(one).is_empty());
    mesh.let_write();
    assert_eq!(mesh.receipts(one), ["r"]);
    assert_eq!(mesh.hosts[1].broker.subscriptions().len(), 1);
}

#[test]
fn a_link_that_falls_or_a_peer_that_says_nothing_does_not_hold_it_up_for_ever() {
    let mut mesh = Mesh::new(3);
    let one = mesh.connect(1, 0, &[]);
    mesh.held.extend([(1, 0), (2, 0)]);
    mesh.subscribe(one, "s", "/topic/a", &[("receipt", "r")]);
    mesh.cut(0, 1);
    assert!(mesh.receipts(one).is_empty());
    mesh.cut(0, 2);
    assert_eq!(mesh.receipts(one), ["r"]);

    mesh.held.clear();
    mesh.link_all();
    mesh.held.insert((2, 0));
    mesh.subscribe(one, "t", "/topic/b", &[("receipt", "r2")]);
    mesh.pass(4_000);
    assert!(mesh.receipts(one).is_empty());
    mesh.pass(2_000);
    assert_eq!(mesh.receipts(one), ["r2"]);
}

#[test]
fn without_a_receipt_nobody_waits_and_queues_wait_for_nobody() {
    let mut mesh = Mesh::new(2);
    let one = mesh.connect(1, 0, &[]);
    mesh.held.insert((1, 0));
    mesh.subscribe(one, "t", "/topic/a", &[]);
    mesh.subscribe(one, "q", "/queue/a", &[("receipt", "q")]);
    assert_eq!(mesh.receipts(one), ["q"]);
}
