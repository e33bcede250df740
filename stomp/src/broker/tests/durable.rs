//! Durable subscriptions over nodes, cuts and restarts.

use super::*;

const RABBIT: [(&str, &str); 2] = [("durable", "true"), ("auto-delete", "false")];
const CLASSIC: [(&str, &str); 1] = [("activemq.subscriptionName", "s")];
const ARTEMIS: [(&str, &str); 1] = [("durable-subscription-name", "s")];
const CLIENT: [(&str, &str); 1] = [("client-id", "app")];

fn names(mesh: &Mesh, host: usize) -> Vec<String> {
    mesh.hosts[host].broker.subscriptions().into_iter().map(|one| one.name).collect()
}

#[test]
fn in_every_spelling_messages_wait_while_the_subscriber_is_away_and_come_at_any_node() {
    for (spelling, name) in [
        (&RABBIT[..], "id/d/a.*"),
        (&[RABBIT[0], RABBIT[1], ("x-queue-name", "q")], "name/q"),
        (&CLASSIC, "client/app/s"),
        (&ARTEMIS, "client/app/s"),
    ] {
        let mut mesh = Mesh::new(3);
        let one = mesh.connect(1, 0, &CLIENT);
        mesh.subscribe(one, "d", "/topic/a.*", spelling);
        let sender = mesh.connect(2, 1, &[]);
        mesh.send(sender, "/topic/a.x", "here");
        let got = mesh.take_and_ack(one);
        assert_eq!(got.len(), 1, "{spelling:?}");
        assert_eq!(got[0].headers.get("destination"), Some("/topic/a.x"), "the topic's name and not the inbox's");
        mesh.close(one);
        for (topic, body) in [("/topic/a.y", "while away"), ("/topic/b", "not wanted"), ("/topic/a.x", "and another")] {
            mesh.send(sender, topic, body);
        }
        assert_eq!(names(&mesh, 2), [name]);
        assert_eq!(mesh.hosts[2].broker.subscriptions()[0].waiting, 0, "told once a second");
        mesh.pass(2_000);
        assert_eq!(mesh.hosts[2].broker.subscriptions()[0].waiting, 2);
        let two = mesh.connect(3, 2, &CLIENT);
        mesh.subscribe(two, "d", "/topic/a.*", spelling);
        assert_eq!(mesh.bodies(two), ["while away", "and another"], "{spelling:?}");
        mesh.pass(2_000);
        mesh.nothing_waits();
    }
}

#[test]
fn without_all_that_makes_it_durable_a_subscription_is_none_and_a_client_without_a_name_is_told() {
    let mut mesh = Mesh::new(1);
    let one = mesh.connect(1, 0, &[]);
    mesh.subscribe(one, "1", "/topic/a", &[("durable", "true")]);
    mesh.subscribe(one, "2", "/topic/a", &[("auto-delete", "false")]);
    mesh.subscribe(one, "3", "/queue/a", &RABBIT);
    assert!(names(&mesh, 0).is_empty());
    mesh.subscribe(one, "4", "/topic/a", &CLASSIC);
    let error = mesh.error(one).unwrap();
    assert!(error.contains("client-id") && error.contains("activemq.subscriptionName"), "{error}");
}

#[test]
fn consumers_of_one_subscription_share_it() {
    let mut mesh = Mesh::new(2);
    let (one, two) = (mesh.connect(1, 0, &CLIENT), mesh.connect(2, 1, &CLIENT));
    for conn in [one, two] {
        mesh.subscribe(
            conn,
            "d",
            "/topic/a",
            &[("durable-subscription-name", "s"), ("prefetch-count", "1"), ("ack", "client")],
        );
    }
    assert_eq!(names(&mesh, 0).len(), 1);
    let sender = mesh.connect(3, 0, &[]);
    (0..10).for_each(|number| mesh.send(sender, "/topic/a", &number.to_string()));
    let (mut all, mut each) = (Vec::new(), [0, 0]);
    for _ in 0..20 {
        for (index, conn) in [one, two].into_iter().enumerate() {
            let got = mesh.take_and_ack(conn);
            assert!(got.len() <= 1, "a prefetch of one");
            each[index] += got.len();
            all.extend(got.into_iter().map(|frame| String::from_utf8(frame.body.to_vec()).unwrap()));
        }
    }
    all.sort();
    assert_eq!(all, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(each.iter().all(|count| *count > 0), "{each:?}");
}

#[test]
fn unsubscribe_with_the_same_headers_deletes_it_with_what_waits_and_without_them_does_not() {
    let named = |spelling: &[(&'static str, &'static str)]| [&[("id", "d"), ("receipt", "u")][..], spelling].concat();
    for (spelling, open) in [(&RABBIT[..], true), (&CLASSIC, true), (&CLASSIC, false), (&ARTEMIS, false)] {
        let mut mesh = Mesh::new(3);
        let one = mesh.connect(1, 0, &CLIENT);
        mesh.subscribe(one, "d", "/topic/a", &[spelling, &[("ack", "client")]].concat());
        let sender = mesh.connect(2, 1, &[]);
        mesh.send(sender, "/topic/a", "held");
        if !open {
            mesh.frame(one, Command::Unsubscribe, &[("id", "d")]);
            assert_eq!(names(&mesh, 1), ["client/app/s"], "it has ended, and the durable one is still there");
        }
        (0..5).for_each(|_| mesh.send(sender, "/topic/a", "waits"));
        mesh.take(one);
        mesh.frame(one, Command::Unsubscribe, &named(spelling));
        assert_eq!(mesh.receipts(one), ["u"]);
        assert!((0..3).all(|host| names(&mesh, host).is_empty()));
        mesh.pass(2_000);
        mesh.nothing_waits();
        // A new one of the same name has nothing of it.
        mesh.subscribe(one, "d", "/topic/a", spelling);
        mesh.send(sender, "/topic/a", "new");
        assert_eq!(mesh.bodies(one), ["new"], "{spelling:?}");
    }
}

#[test]
fn what_a_node_that_was_away_took_for_a_deleted_subscription_does_not_come_to_a_new_one() {
    let mut mesh = Mesh::new(3);
    let one = mesh.connect(1, 0, &CLIENT);
    mesh.subscribe(one, "d", "/topic/a", &CLASSIC);
    mesh.isolate(2);
    let far = mesh.connect(2, 2, &[]);
    mesh.send(far, "/topic/a", "for the old one");
    mesh.frame(one, Command::Unsubscribe, &[("id", "d"), CLASSIC[0]]);
    mesh.subscribe(one, "d", "/topic/a", &CLASSIC);
    assert_eq!(mesh.waiting(2).len(), 1);
    mesh.link_all();
    mesh.pass(5_000);
    mesh.nothing_waits();
    assert!(mesh.bodies(one).is_empty());
    mesh.send(far, "/topic/a", "for the new one");
    assert_eq!(mesh.bodies(one), ["for the new one"]);
}

#[test]
fn messages_of_a_subscription_that_is_not_heard_of_yet_are_kept() {
    let mut mesh = Mesh::new(2);
    // The registry's news go on their way, and are lost; the message's copy comes by another link.
    let one = mesh.connect(1, 0, &CLIENT);
    mesh.subscribe(one, "d", "/topic/a", &[CLASSIC[0], ("ack", "client")]);
    let set = crate::durable::set_of("client/app/s");
    let members = mesh.hosts[0].broker.node().shared(&set);
    assert_eq!(members.len(), 1);
    let mut lonely = Mesh::new(1);
    let inbox = crate::durable::Binding::decode(&members[0]).unwrap().inbox();
    let entry = rhizomq_engine::Entry {
        inboxes: vec![inbox.to_string()],
        head: crate::frame::encode_routed_head("/topic/a", b""),
        body: "x".into(),
        persistent: true,
    };
    let unit = rhizomq_engine::Unit { entries: vec![entry], removals: Vec::new() };
    lonely.hosts[0].broker.node.publish(lonely.now, unit).unwrap();
    lonely.settle();
    lonely.pass(5_000);
    assert_eq!(lonely.waiting(0).len(), 1, "nothing tells that it was deleted");
}

#[test]
fn it_survives_restarts_of_all_nodes() {
    let mut mesh = Mesh::new(2);
    let one = mesh.connect(1, 0, &CLIENT);
    mesh.subscribe(one, "d", "/topic/a", &CLASSIC);
    mesh.close(one);
    let sender = mesh.connect(2, 1, &[]);
    mesh.send(sender, "/topic/a", "before");
    mesh.restart(0);
    mesh.restart(1);
    let sender = mesh.connect(3, 0, &[]);
    mesh.send(sender, "/topic/a", "after");
    mesh.pass(10_000);
    let one = mesh.connect(4, 1, &CLIENT);
    mesh.subscribe(one, "d", "/topic/a", &CLASSIC);
    mesh.pass(3_000);
    let mut bodies = mesh.bodies(one);
    bodies.sort();
    assert_eq!(bodies, ["after", "before"]);
}

#[test]
fn both_sides_of_a_cut_make_the_same_one_and_after_it_a_consumer_gets_all_of_both_within_its_prefetch() {
    let mut mesh = Mesh::new(2);
    mesh.cut(0, 1);
    for host in [0, 1] {
        let conn = mesh.connect(1 + host as u64, host, &CLIENT);
        mesh.subscribe(conn, "d", "/topic/a", &CLASSIC);
        mesh.close(conn);
        let sender = mesh.connect(11 + host as u64, host, &[]);
        (0..5).for_each(|number| mesh.send(sender, "/topic/a", &format!("{host}.{number}")));
    }
    mesh.link(0, 1);
    mesh.pass(3_000);
    assert_eq!((names(&mesh, 0).len(), mesh.waiting(0).len()), (1, 2), "one subscription with two inboxes");
    mesh.send(ConnId(11), "/topic/a", "together");
    let one = mesh.connect(3, 1, &CLIENT);
    mesh.subscribe(one, "d", "/topic/a", &[CLASSIC[0], ("ack", "client-individual"), ("prefetch-count", "1")]);
    let mut all = Vec::new();
    for _ in 0..11 {
        let got = mesh.take_and_ack(one);
        assert_eq!(got.len(), 1, "never more than it asked for, and never nothing: {all:?}");
        assert_eq!(got[0].headers.get("redelivered"), None);
        all.push(String::from_utf8(got[0].body.to_vec()).unwrap());
    }
    for host in 0..2 {
        let of_host: Vec<_> = all.iter().filter(|body| body.starts_with(&format!("{host}."))).collect();
        assert_eq!(
            of_host,
            (0..5).map(|number| format!("{host}.{number}")).collect::<Vec<_>>().iter().collect::<Vec<_>>()
        );
    }
    assert_eq!(all.iter().filter(|body| *body == "together").count(), 1);
    mesh.pass(2_000);
    mesh.nothing_waits();
}

#[test]
fn a_consumer_that_is_there_when_a_cut_heals_reads_the_other_sides_messages_too() {
    let mut mesh = Mesh::new(2);
    mesh.cut(0, 1);
    for host in [0, 1] {
        let conn = mesh.connect(1 + host as u64, host, &CLIENT);
        mesh.subscribe(conn, "d", "/topic/a", &CLASSIC);
    }
    mesh.close(ConnId(2));
    let sender = mesh.connect(3, 1, &[]);
    mesh.send(sender, "/topic/a", "on the other side");
    mesh.link(0, 1);
    mesh.pass(3_000);
    assert_eq!(mesh.bodies(ConnId(1)), ["on the other side"]);
}

#[test]
fn another_topic_takes_the_place_of_the_first_for_a_client_and_comes_in_addition_for_a_queue_name() {
    for (spelling, first_too) in [(&CLASSIC[..], false), (&[RABBIT[0], RABBIT[1], ("x-queue-name", "q")], true)] {
        let mut mesh = Mesh::new(2);
        let one = mesh.connect(1, 0, &CLIENT);
        mesh.subscribe(one, "d", "/topic/a", spelling);
        mesh.frame(one, Command::Unsubscribe, &[("id", "d")]);
        let sender = mesh.connect(2, 1, &[]);
        mesh.send(sender, "/topic/a", "old");
        mesh.subscribe(one, "d", "/topic/b", spelling);
        mesh.pass(2_000);
        mesh.send(sender, "/topic/a", "a");
        mesh.send(sender, "/topic/b", "b");
        let expected = if first_too { &["old", "a", "b"][..] } else { &["b"] };
        assert_eq!(mesh.bodies(one), expected, "{spelling:?}");
        mesh.pass(2_000);
        mesh.nothing_waits();
    }
}

#[test]
fn whoever_reads_a_subscription_that_is_deleted_elsewhere_is_told() {
    let mut mesh = Mesh::new(2);
    let one = mesh.connect(1, 0, &CLIENT);
    mesh.subscribe(one, "d", "/topic/a", &CLASSIC);
    let now = mesh.now;
    assert!(!mesh.hosts[1].broker.remove_subscription(now, "client/app/other"));
    assert!(mesh.hosts[1].broker.remove_subscription(now, "client/app/s"));
    mesh.settle();
    assert_eq!(mesh.error(one).as_deref(), Some("the durable subscription was deleted"));
    mesh.pass(2_000);
    assert!((0..2).all(|host| mesh.hosts[host].broker.durables.remembered() == 0));
}

#[test]
fn a_message_for_three_subscriptions_takes_three_slots_and_one_body() {
    let mut mesh = Mesh::new(1);
    for name in ["a", "b", "c"] {
        let conn = mesh.connect(u64::from(name.as_bytes()[0]), 0, &[("client-id", name)]);
        mesh.subscribe(conn, "d", "/topic/#", &CLASSIC);
        mesh.close(conn);
    }
    let sender = mesh.connect(1, 0, &[]);
    let body = "x".repeat(10_000);
    mesh.send(sender, "/topic/t", &body);
    let engine = mesh.hosts[0].broker.node().engine();
    let segment = engine.segments().next().unwrap();
    assert_eq!(engine.waiting_in(segment).len(), 3);
    let block = engine.block(segment, 1).unwrap().unwrap();
    assert!(block.bytes().len() < 2 * body.len(), "{} bytes", block.bytes().len());
}
