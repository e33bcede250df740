//! Policies over real processes: set on one node, in force on another, kept over a restart of all; expiry and dead letters.

use std::time::Duration;

use crate::support::{PATIENCE, cluster::Cluster, eventually, node::Node, stomp::Client};

fn set(node: &Node, words: &str) -> Result<String, String> {
    node.ask_in(&["policy", "set"], &words.split(' ').collect::<Vec<_>>())
}

fn send(client: &mut Client, queue: &str, headers: &[(&str, &str)], body: &str) {
    let all = [&[("destination", queue), ("receipt", "sent")], headers].concat();
    client.write("SEND", &all, body.as_bytes()).expect("SEND");
    let frame = client.next_frame(PATIENCE).expect("a receipt");
    assert_eq!((&*frame.command, frame.header("receipt-id")), ("RECEIPT", "sent"), "{frame}");
}

fn refuse(client: &mut Client, headers: &[(&str, &str)], count: &str) {
    let frame = client.next_frame(PATIENCE).expect("a message");
    assert_eq!((&*frame.command, frame.header("delivery-count")), ("MESSAGE", count), "{frame}");
    client.write("NACK", &[&[("id", frame.header("ack"))], headers].concat(), b"").expect("NACK");
}

#[test]
fn what_an_operator_says_at_one_node_holds_at_all_and_outlasts_them() {
    let mut cluster = Cluster::start(3);
    let told = set(&cluster.nodes[0], "orders.* --max-deliveries 2 --redelivery-delay 100ms --dead-letter /queue/bad");
    assert!(told.as_ref().is_ok_and(|told| told.contains("orders.* is set")), "{told:?}");
    set(&cluster.nodes[1], "/queue/news --ttl 1s").expect("set");
    set(&cluster.nodes[1], "gone --ttl 1s").expect("set");
    cluster.nodes[2].ask_in(&["policy", "remove"], &["gone"]).expect("removed");
    for (words, why) in [
        ("a.>.b --ttl 1s", "can only be the last one"),
        ("a --dead-letter /topic/b", "go to a queue"),
        ("a --ttl 5", "500ms"),
        ("a --max-length 5 --overflow maybe", "drop-oldest"),
    ] {
        let refused = set(&cluster.nodes[0], words).expect_err(words);
        assert!(refused.contains(why), "{words}: {refused}");
    }
    let unknown = cluster.nodes[0].ask_in(&["policy", "remove"], &["gone"]).expect_err("it is gone");
    assert!(unknown.contains("no policy for `gone`"), "{unknown}");

    cluster.nodes.iter_mut().for_each(Node::kill);
    cluster.nodes.iter_mut().for_each(Node::restart);
    cluster.await_mesh();
    for node in &cluster.nodes {
        let list = node.ask_in(&["policy", "list"], &[]).expect("a list");
        let lines: Vec<_> = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "PATTERN POLICY",
            "/queue/news --ttl 1s",
            "orders.* --dead-letter /queue/bad --max-deliveries 2 --redelivery-delay 100ms",
        ];
        assert_eq!(lines, expected);
    }

    // Sent at one node, refused at another, dead at a third.
    let (mut sender, mut reader) = (cluster.nodes[0].client(), cluster.nodes[1].client());
    send(&mut sender, "/queue/orders.new", &[("k", "v")], "bad");
    send(&mut sender, "/queue/news", &[], "of yesterday");
    send(&mut sender, "/queue/other", &[("expiration", "1000")], "soon over");
    reader.subscribe("1", "/queue/orders.new").expect("SUBSCRIBE");
    refuse(&mut reader, &[], "1");
    refuse(&mut reader, &[], "2");
    send(&mut sender, "/queue/orders.old", &[], "worse");
    reader.subscribe("2", "/queue/orders.old").expect("SUBSCRIBE");
    refuse(&mut reader, &[("requeue", "false")], "1");
    let mut undertaker = cluster.nodes[2].client();
    undertaker.subscribe("1", "/queue/bad").expect("SUBSCRIBE");
    let mut dead: Vec<_> = (0..2)
        .map(|_| {
            let frame = undertaker.next_frame(PATIENCE).expect("a dead letter");
            undertaker.ack(&frame).expect("ACK");
            let header = |name| frame.header(name).to_owned();
            (frame.text(), header("dead-letter-reason"), header("dead-letter-from"), header("dead-letter-deliveries"))
        })
        .collect();
    dead.sort();
    let of = |texts: [&str; 4]| texts.map(str::to_owned).into();
    let expected: [(String, String, String, String); 2] =
        [of(["bad", "max-deliveries", "/queue/orders.new", "2"]), of(["worse", "rejected", "/queue/orders.old", "1"])];
    assert_eq!(dead, expected);
    undertaker.sync().expect("consumed");

    // What has expired is gone, though nobody asked for it. The status tells so a second later than it is.
    std::thread::sleep(Duration::from_millis(2_500));
    eventually("empty queues", || {
        let status = cluster.nodes[2].status()?;
        let waiting: Vec<_> =
            status["queues"].as_array().into_iter().flatten().filter(|one| one["depth"] != 0).collect();
        if waiting.is_empty() { Ok(()) } else { Err(format!("{waiting:?}")) }
    });
    let mut late = cluster.nodes[2].client();
    late.subscribe("1", "/queue/news").expect("SUBSCRIBE");
    assert!(late.next_frame(Duration::from_millis(500)).is_err(), "nothing comes");
    eventually("the policy in the status", || {
        let status = cluster.nodes[2].status()?;
        let queues = status["queues"].as_array().into_iter().flatten();
        match queues.into_iter().find(|queue| queue["name"] == "/queue/news") {
            Some(queue) if queue["policy"] == "/queue/news" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}
