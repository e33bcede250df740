//! One SEND to several destinations, and patterns over nodes.

use super::*;

#[test]
fn a_send_to_several_is_one_block_and_each_gets_it_by_its_own_name() {
    let mut mesh = Mesh::new(1);
    let (one, two) = (mesh.connect(1, 0, &[("client-id", "app")]), mesh.connect(2, 0, &[]));
    mesh.subscribe(two, "t", "/topic/#", &[]);
    mesh.subscribe(one, "d", "/topic/*", &[("durable-subscription-name", "s")]);
    mesh.close(one);
    let body = "x".repeat(10_000);
    mesh.send(two, "/queue/a,/topic/t, /queue/b,/queue/a", &body);
    let engine = mesh.hosts[0].broker.node().engine();
    let segment = engine.segments().next().unwrap();
    assert_eq!(engine.waiting_in(segment).len(), 3, "two queues and a durable subscription");
    let block = engine.block(segment, 1).unwrap().unwrap();
    assert_eq!((block.first(), block.last()), (1, 3), "all in one");
    assert!(block.bytes().len() < 3 * body.len(), "one body for both queues: {}", block.bytes().len());
    let got = mesh.take_and_ack(two);
    assert_eq!(got.iter().map(|frame| frame.headers.get("destination").unwrap()).collect::<Vec<_>>(), ["/topic/t"]);
    for queue in ["/queue/a", "/queue/b"] {
        mesh.subscribe(two, queue, queue, &[]);
        let got = mesh.take_and_ack(two);
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].headers.get("destination"), got[0].body.len()), (Some(queue), body.len()));
    }
}

#[test]
fn messages_that_are_alike_stay_two() {
    let mut mesh = Mesh::new(1);
    let one = mesh.connect(1, 0, &[]);
    mesh.frame(one, Command::Begin, &[("transaction", "t")]);
    for queue in ["/queue/a", "/queue/a", "/queue/b"] {
        mesh.frame(one, Command::Send, &[("destination", queue), ("transaction", "t")]);
    }
    mesh.frame(one, Command::Commit, &[("transaction", "t")]);
    assert_eq!(mesh.waiting(0), BTreeMap::from([("/queue/a".to_owned(), 2), ("/queue/b".to_owned(), 1)]));
}

#[test]
fn listeners_at_other_nodes_get_what_their_patterns_match_once() {
    let mut mesh = Mesh::new(2);
    let (one, two) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.subscribe(two, "1", "/topic/a.*", &[]);
    mesh.subscribe(two, "2", "/topic/a.>", &[]);
    for (topic, expected) in [("/topic/a.b", &["1", "2"][..]), ("/topic/a.b.c", &["2"]), ("/topic/a", &[])] {
        mesh.send(one, topic, "x");
        let got = mesh.take_and_ack(two);
        let subscriptions: Vec<_> = got.iter().map(|frame| frame.headers.get("subscription").unwrap()).collect();
        assert_eq!(subscriptions, expected, "{topic}");
    }
    mesh.frame(two, Command::Unsubscribe, &[("id", "2")]);
    mesh.send(one, "/topic/a.b.c", "x");
    assert!(mesh.take_and_ack(two).is_empty());
}

#[test]
fn what_an_observers_clients_send_is_kept_for_durable_subscriptions_too() {
    let mut mesh = Mesh::new(2);
    let now = mesh.now;
    mesh.hosts[0].broker.set_size(now, &rhizomq_net::Size::Fixed(1)).unwrap();
    mesh.settle();
    mesh.pass(20_000);
    let is_observer = |host: &Host| !host.broker.node().members().members.contains(&host.broker.node().id());
    let observer = mesh.hosts.iter().position(is_observer).expect("one of two");
    let one = mesh.connect(1, observer, &[("client-id", "app")]);
    mesh.subscribe(one, "d", "/topic/a", &[("durable-subscription-name", "s"), ("receipt", "r")]);
    assert_eq!(mesh.receipts(one), ["r"]);
    mesh.close(one);
    let sender = mesh.connect(2, observer, &[]);
    mesh.send(sender, "/topic/a", "kept");
    let engine = mesh.hosts[1 - observer].broker.node().engine();
    assert!(engine.segments().any(|segment| segment.node == id_of(1 - observer)), "the member took it");
    let one = mesh.connect(3, observer, &[("client-id", "app")]);
    mesh.subscribe(one, "d", "/topic/a", &[("durable-subscription-name", "s")]);
    assert_eq!(mesh.bodies(one), ["kept"]);
}
