//! Durable subscriptions over real processes: made on one node, kept over a restart of all, read on another, deleted by an
//! operator.

use crate::support::{PATIENCE, cluster::Cluster, eventually, node::Node, stomp::Client};

const TOPIC: &str = "/topic/news.*";

/// A client called `app`, in the way of Artemis.
fn app(node: &Node) -> Client {
    let mut client = Client::raw(node.stomp).expect("a connection");
    let headers = [("accept-version", "1.2"), ("host", "test"), ("client-id", "app")];
    client.write("CONNECT", &headers, b"").expect("CONNECT");
    assert_eq!(client.next_frame(PATIENCE).expect("an answer").command, "CONNECTED");
    client
}

fn subscribe(client: &mut Client) {
    let headers = [
        ("id", "1"),
        ("destination", TOPIC),
        ("ack", "client-individual"),
        ("durable-subscription-name", "paper"),
        ("receipt", "subscribed"),
    ];
    client.write("SUBSCRIBE", &headers, b"").expect("SUBSCRIBE");
    let frame = client.next_frame(PATIENCE).expect("a receipt");
    assert_eq!((&*frame.command, frame.header("receipt-id")), ("RECEIPT", "subscribed"), "{frame}");
}

#[test]
fn what_is_published_while_the_subscriber_is_away_outlasts_restarts_and_comes_at_another_node() {
    let mut cluster = Cluster::start(3);
    let mut client = app(&cluster.nodes[0]);
    subscribe(&mut client);
    client.disconnect().expect("a farewell");

    let mut sender = cluster.nodes[1].client();
    for number in 0..50 {
        let receipt = sender.send_confirmed(&format!("/topic/news.{number}"), b"read all about it").expect("a receipt");
        assert_eq!(receipt.header("copies"), "2", "kept like a queue's");
    }
    sender.send_confirmed("/topic/weather.today", b"not wanted").expect("a receipt");
    drop(sender);
    cluster.nodes.iter_mut().for_each(Node::kill);
    cluster.nodes.iter_mut().for_each(Node::restart);
    cluster.await_mesh();

    eventually("the subscription and its messages, as a third node sees them", || {
        let list = cluster.nodes[2].ask_in(&["subscription", "list"], &[])?;
        let mut row = list.lines().nth(1).unwrap_or_default().split_whitespace();
        match (row.next(), row.next(), row.next(), row.next()) {
            (Some("client/app/paper"), Some("50"), Some("0"), Some(TOPIC)) => Ok(()),
            _ => Err(list),
        }
    });

    let mut reader = app(&cluster.nodes[2]);
    subscribe(&mut reader);
    let mut topics: Vec<String> = Vec::new();
    while topics.len() < 50 {
        let frame = reader.next_frame(PATIENCE).expect("a message");
        assert_eq!((&*frame.command, &*frame.text()), ("MESSAGE", "read all about it"), "{frame}");
        topics.push(frame.header("destination").to_owned());
        reader.ack(&frame).expect("an ACK");
    }
    topics.sort();
    topics.dedup();
    assert_eq!(topics.len(), 50, "each once, by the topic it was sent to");
    reader.sync().expect("consumed");

    // An operator deletes it, at any node: who reads it is told, and nothing waits for it any more.
    let told = cluster.nodes[1].ask_in(&["subscription", "remove"], &["client/app/paper"]).expect("removed");
    assert!(told.contains("deleted"), "{told}");
    let frames = reader.until_closed();
    assert!(
        frames.iter().any(|frame| frame.command == "ERROR" && frame.header("message").contains("deleted")),
        "{frames:?}"
    );
    let refused = cluster.nodes[1].ask_in(&["subscription", "remove"], &["client/app/paper"]).expect_err("it is gone");
    assert!(refused.contains("no durable subscription"), "{refused}");
    let list = cluster.nodes[0].ask_in(&["subscription", "list"], &[]).expect("a list");
    assert!(list.contains("no durable subscriptions"), "{list}");
}
