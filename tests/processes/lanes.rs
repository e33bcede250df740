//! Selectors, priorities and delays over real processes: what is asked for on one node of what was sent on others, and what waits for
//! its time through a restart of all.

use std::time::{Duration, Instant};

use crate::support::{
    PATIENCE,
    cluster::Cluster,
    eventually,
    node::Node,
    stomp::{Client, Frame},
};

fn subscribe(client: &mut Client, id: &str, destination: &str, selector: Option<&str>) {
    let mut headers = vec![("id", id), ("destination", destination), ("ack", "client-individual"), ("receipt", id)];
    headers.extend(selector.map(|selector| ("selector", selector)));
    client.write("SUBSCRIBE", &headers, b"").expect("SUBSCRIBE");
    let frame = client.next_frame(PATIENCE).expect("a receipt");
    assert_eq!((&*frame.command, frame.header("receipt-id")), ("RECEIPT", id), "{frame}");
}

fn send(client: &mut Client, destination: &str, headers: &[(&str, &str)], body: &str) {
    let headers = [&[("destination", destination), ("receipt", "sent")], headers].concat();
    client.write("SEND", &headers, body.as_bytes()).expect("SEND");
    let frame = client.next_frame(PATIENCE).expect("a receipt");
    assert_eq!((&*frame.command, frame.header("receipt-id")), ("RECEIPT", "sent"), "{frame}");
}

fn next(client: &mut Client) -> Frame {
    let frame = client.next_frame(PATIENCE).expect("a message");
    assert_eq!(frame.command, "MESSAGE", "{frame}");
    client.ack(&frame).expect("an ACK");
    frame
}

#[test]
fn selectors_reach_over_nodes_and_leave_the_rest_to_others() {
    let cluster = Cluster::start(3);
    let mut sender = cluster.nodes[0].client();
    for number in 0..200 {
        let (colour, weight) = (["red", "blue"][number % 2], (number % 10).to_string());
        send(&mut sender, "/queue/parts", &[("colour", colour), ("weight", &weight)], &number.to_string());
    }
    let mut picky = cluster.nodes[1].client();
    subscribe(&mut picky, "1", "/queue/parts", Some("colour = 'red' AND weight BETWEEN 4 AND 6"));
    let got: Vec<usize> = (0..40).map(|_| next(&mut picky).text().parse().unwrap()).collect();
    let expected: Vec<usize> = (0..200).filter(|number| number % 10 == 4 || number % 10 == 6).collect();
    assert_eq!(got, expected, "in order");
    // What comes later is looked at, too.
    send(&mut sender, "/queue/parts", &[("colour", "blue"), ("weight", "5")], "no");
    send(&mut sender, "/queue/parts", &[("colour", "red"), ("weight", "5.5")], "yes");
    let frame = next(&mut picky);
    assert_eq!((&*frame.text(), frame.header("destination")), ("yes", "/queue/parts"), "{frame}");
    picky.sync().expect("consumed");
    eventually("what nobody's selector matches stays", || match cluster.nodes[2].depth("/queue/parts")? {
        161 => Ok(()),
        other => Err(format!("{other} wait")),
    });
    let mut other = cluster.nodes[2].client();
    subscribe(&mut other, "2", "/queue/parts", Some("JMSPriority = 4"));
    let rest: Vec<String> = (0..161).map(|_| next(&mut other).text()).collect();
    assert_eq!(rest.last().map(String::as_str), Some("no"));
    drop(picky);

    // Listeners of a topic, and an error for what is no selector.
    let mut listener = cluster.nodes[1].client();
    subscribe(&mut listener, "t", "/topic/news", Some("kind LIKE 's%'"));
    for kind in ["weather", "sports", "science"] {
        send(&mut sender, "/topic/news", &[("kind", kind)], kind);
    }
    let got = [0, 1].map(|_| listener.next_frame(PATIENCE).expect("a message").text());
    assert_eq!(got, ["sports", "science"]);
    let headers = [("id", "x"), ("destination", "/queue/parts"), ("selector", "colour = "), ("receipt", "r")];
    listener.write("SUBSCRIBE", &headers, b"").expect("SUBSCRIBE");
    let frames = listener.until_closed();
    let error = frames.iter().find(|frame| frame.command == "ERROR").expect("an ERROR");
    assert!(error.header("message").contains("at character 10"), "{error}");
    assert_eq!(error.header("receipt-id"), "r");
}

#[test]
fn a_durable_subscription_keeps_what_its_selector_lets_through_and_a_new_selector_makes_it_anew() {
    let cluster = Cluster::start(2);
    let paper = |node: &Node, selector: &str| {
        let mut client = Client::raw(node.stomp).expect("a connection");
        let headers = [("accept-version", "1.2"), ("host", "test"), ("client-id", "app")];
        client.write("CONNECT", &headers, b"").expect("CONNECT");
        assert_eq!(client.next_frame(PATIENCE).expect("an answer").command, "CONNECTED");
        let headers = [
            ("id", "1"),
            ("destination", "/topic/news"),
            ("ack", "client-individual"),
            ("activemq.subscriptionName", "paper"),
            ("selector", selector),
            ("receipt", "subscribed"),
        ];
        client.write("SUBSCRIBE", &headers, b"").expect("SUBSCRIBE");
        client
    };
    let subscribed = |client: &mut Client| {
        let frame = client.next_frame(PATIENCE).expect("a receipt");
        assert_eq!(frame.header("receipt-id"), "subscribed", "{frame}");
    };
    let mut client = paper(&cluster.nodes[0], "page = 1");
    subscribed(&mut client);
    client.disconnect().expect("a farewell");
    let mut sender = cluster.nodes[1].client();
    for page in ["1", "2", "1"] {
        send(&mut sender, "/topic/news", &[("page", page)], page);
    }
    eventually("two of three are kept", || {
        let list = cluster.nodes[1].ask_in(&["subscription", "list"], &["--json"])?;
        if list.contains("\"waiting\":2") && list.contains("page = 1") { Ok(()) } else { Err(list) }
    });
    let mut client = paper(&cluster.nodes[1], "page = 1");
    let mut got = Vec::new();
    // The receipt may come behind what waits.
    for _ in 0..3 {
        let frame = client.next_frame(PATIENCE).expect("two messages and a receipt");
        if frame.command == "MESSAGE" {
            got.push(frame.text());
            client.ack(&frame).expect("an ACK");
        }
    }
    assert_eq!(got, ["1", "1"]);
    client.disconnect().expect("a farewell");
    send(&mut sender, "/topic/news", &[("page", "1")], "dropped with the old selector");
    let mut client = paper(&cluster.nodes[0], "page = 2");
    subscribed(&mut client);
    send(&mut sender, "/topic/news", &[("page", "1")], "not wanted any more");
    send(&mut sender, "/topic/news", &[("page", "2")], "2");
    assert_eq!(next(&mut client).text(), "2");
}

#[test]
fn what_is_delayed_waits_through_a_restart_and_comes_in_its_time_by_priority() {
    let mut cluster = Cluster::start(3);
    let mut sender = cluster.nodes[0].client();
    let began = Instant::now();
    send(&mut sender, "/queue/later", &[("AMQ_SCHEDULED_DELAY", "6000")], "usual");
    send(&mut sender, "/queue/later", &[("x-delay", "6000"), ("priority", "9")], "urgent");
    send(&mut sender, "/queue/later", &[("x-delay", "3600000")], "in an hour");
    drop(sender);
    eventually("they are shown as what waits for its time", || {
        let status = cluster.nodes[1].status()?;
        let queues = status["queues"].as_array().cloned().unwrap_or_default();
        let queue = queues.iter().find(|queue| queue["name"] == "/queue/later").cloned().unwrap_or_default();
        match (queue["depth"].as_u64(), queue["scheduled"].as_u64()) {
            (Some(0), Some(3)) => Ok(()),
            _ => Err(queue.to_string()),
        }
    });
    cluster.nodes.iter_mut().for_each(Node::kill);
    cluster.nodes.iter_mut().for_each(Node::restart);
    cluster.await_mesh();
    let mut reader = cluster.nodes[2].client();
    subscribe(&mut reader, "1", "/queue/later", None);
    let first = next(&mut reader);
    assert!(began.elapsed() >= Duration::from_millis(6000), "{:?}", began.elapsed());
    let second = next(&mut reader);
    let mut got = [first.text(), second.text()];
    got.sort();
    assert_eq!(got, ["urgent", "usual"], "each once");
    assert_eq!(first.header("AMQ_SCHEDULED_DELAY"), "");
    reader.sync().expect("consumed");

    // Of what waits, the higher priority comes first.
    let mut sender = cluster.nodes[1].client();
    for priority in ["4", "0", "9", "7"] {
        send(&mut sender, "/queue/ranks", &[("priority", priority)], priority);
    }
    let mut reader = cluster.nodes[1].client();
    subscribe(&mut reader, "1", "/queue/ranks", None);
    let got = [(); 4].map(|()| next(&mut reader).header("priority").to_owned());
    assert_eq!(got, ["9", "7", "4", "0"]);
}
