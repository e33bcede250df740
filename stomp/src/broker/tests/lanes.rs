//! Selectors, priorities, delays and jobs, between clients of several nodes.

use super::*;

fn queue(mesh: &mut Mesh, host: usize, name: &str) -> (u64, u64, u64) {
    let status = mesh.hosts[host].broker.status();
    let queue = status.queues.iter().find(|queue| queue.name == name);
    queue.map_or((0, 0, 0), |queue| (queue.depth, queue.scheduled, queue.consumers))
}

#[test]
fn consumers_get_what_they_select_at_every_node_and_are_told_the_queue_by_its_name() {
    let mut mesh = Mesh::new(3);
    let sender = mesh.connect(1, 0, &[]);
    for number in 0..10 {
        mesh.send_with(sender, "/queue/a", &[("n", &number.to_string())], &number.to_string());
    }
    let [low, high] = [("n < 3", 1), ("n >= 8", 2)].map(|(selector, host)| {
        let conn = mesh.connect(10 + host as u64, host, &[]);
        mesh.subscribe(conn, "s", "/queue/a", &[("selector", selector), ("ack", "client-individual")]);
        conn
    });
    let got = mesh.take_and_ack(low);
    assert!(got.iter().all(|frame| frame.headers.get("destination") == Some("/queue/a")), "{got:?}");
    let bodies: Vec<_> = got.iter().map(|frame| frame.body.to_vec()).collect();
    assert_eq!(bodies, [b"0", b"1", b"2"]);
    assert_eq!(mesh.bodies(high), ["8", "9"]);
    mesh.pass(2_500);
    assert_eq!(queue(&mut mesh, 0, "/queue/a"), (5, 0, 2));
    assert_eq!(mesh.hosts[0].broker.status().queues.len(), 1, "views are no queues");
    let plain = mesh.connect(20, 0, &[]);
    mesh.subscribe(plain, "s", "/queue/a", &[]);
    assert_eq!(mesh.bodies(plain), ["3", "4", "5", "6", "7"]);
    mesh.pass(2_000);
    mesh.nothing_waits();
}

#[test]
fn a_durable_subscription_is_filled_by_its_selector_and_made_anew_with_another() {
    let mut mesh = Mesh::new(2);
    let name = ("durable-subscription-name", "s");
    let sender = mesh.connect(1, 1, &[]);
    let reader = |mesh: &mut Mesh, conn: u64, selector: &[(&str, &str)]| {
        let conn = mesh.connect(conn, 0, &[("client-id", "app")]);
        mesh.subscribe(conn, "1", "/topic/a", &[&[name], selector].concat());
        conn
    };
    let one = reader(&mut mesh, 2, &[("selector", "n = 1")]);
    mesh.close(one);
    let send = |mesh: &mut Mesh, n: &str| mesh.send_with(sender, "/topic/a", &[("n", n), ("priority", "9")], n);
    ["1", "2", "1"].iter().for_each(|n| send(&mut mesh, n));
    assert_eq!(mesh.waiting(1).values().sum::<u64>(), 2, "the rest is not even kept");
    mesh.pass(2_000);
    assert_eq!(mesh.hosts[1].broker.subscriptions()[0].waiting, 2);
    assert_eq!(mesh.hosts[1].broker.subscriptions()[0].selectors, ["n = 1"]);
    let two = reader(&mut mesh, 3, &[("selector", "n = 1")]);
    assert_eq!(mesh.bodies(two), ["1", "1"]);
    mesh.close(two);
    send(&mut mesh, "1");
    let three = reader(&mut mesh, 4, &[("selector", "n = 2")]);
    send(&mut mesh, "2");
    assert_eq!(mesh.bodies(three), ["2"], "what waited by the old selector is dropped");
    mesh.close(three);
    let four = reader(&mut mesh, 5, &[]);
    send(&mut mesh, "1");
    assert_eq!(mesh.bodies(four), ["1"], "none is another one, too");
    mesh.pass(3_000);
    mesh.nothing_waits();
}

#[test]
fn lanes_of_what_nobody_will_read_are_swept_like_the_rest() {
    let mut mesh = Mesh::new(2);
    let one = mesh.connect(1, 0, &[("client-id", "app")]);
    let name = ("durable-subscription-name", "s");
    mesh.subscribe(one, "1", "/topic/a", &[name]);
    mesh.frame(one, Command::Unsubscribe, &[("id", "1")]);
    let sender = mesh.connect(2, 1, &[]);
    for priority in ["0", "4", "9"] {
        mesh.send_with(sender, "/topic/a", &[("priority", priority)], "x");
    }
    assert_eq!(mesh.waiting(1).len(), 3);
    mesh.frame(one, Command::Unsubscribe, &[("id", "1"), ("destination", "/topic/a"), name]);
    mesh.pass(3_000);
    mesh.nothing_waits();

    mesh.send_with(one, "/queue/asks", &[("reply-to", "/temp-queue/r")], "?");
    mesh.subscribe(sender, "q", "/queue/asks", &[]);
    let asks = mesh.take_and_ack(sender);
    let reply_to = asks[0].headers.get("reply-to").unwrap().to_owned();
    mesh.send_with(sender, &reply_to, &[("x-delay", "60000"), ("priority", "9")], "late");
    mesh.pass(2_000);
    assert_eq!(mesh.waiting(1).len(), 1);
    mesh.close(one);
    mesh.pass(4_000);
    mesh.nothing_waits();
}

#[test]
fn what_is_delayed_comes_on_time_at_other_nodes() {
    let mut mesh = Mesh::new(3);
    let reader = mesh.connect(1, 2, &[]);
    mesh.subscribe(reader, "s", "/queue/a", &[]);
    let sender = mesh.connect(2, 0, &[]);
    mesh.send_with(sender, "/queue/a", &[("AMQ_SCHEDULED_DELAY", "10000")], "later");
    mesh.send(sender, "/queue/a", "now");
    assert_eq!(mesh.bodies(reader), ["now"]);
    mesh.pass(2_500);
    assert_eq!(queue(&mut mesh, 1, "/queue/a"), (0, 1, 1));
    mesh.pass(7_400);
    assert!(mesh.bodies(reader).is_empty(), "not yet");
    mesh.pass(500);
    assert_eq!(mesh.bodies(reader), ["later"]);
    mesh.pass(2_000);
    mesh.nothing_waits();
}

#[test]
fn a_delayed_message_to_a_topic_goes_to_those_who_listen_when_it_is_time() {
    let mut mesh = Mesh::new(2);
    let sender = mesh.connect(1, 0, &[]);
    let early = mesh.connect(2, 1, &[]);
    mesh.subscribe(early, "s", "/topic/a", &[]);
    mesh.send_with(sender, "/topic/a", &[("x-delay", "3000"), ("k", "v")], "later");
    mesh.close(early);
    let late = mesh.connect(3, 1, &[("client-id", "app")]);
    mesh.subscribe(late, "s", "/topic/*", &[]);
    mesh.subscribe(late, "d", "/topic/a", &[("durable-subscription-name", "s")]);
    mesh.pass(2_900);
    assert_eq!(queue(&mut mesh, 0, "/topic/a"), (0, 1, 0));
    assert!(mesh.take(late).iter().all(|frame| frame.command != Command::Message));
    mesh.pass(400);
    let got = mesh.take_and_ack(late);
    assert_eq!(got.len(), 2, "the listener and the durable subscription");
    for frame in got {
        assert_eq!((frame.headers.get("destination"), frame.headers.get("k")), (Some("/topic/a"), Some("v")));
        assert_eq!((frame.headers.get("scheduled"), frame.headers.get("x-delay")), (None, None));
    }
    mesh.pass(2_000);
    mesh.nothing_waits();
}

#[test]
fn a_repeated_message_comes_as_often_as_it_is_to_with_its_priority() {
    let mut mesh = Mesh::new(2);
    let sender = mesh.connect(1, 0, &[]);
    let reader = mesh.connect(2, 1, &[]);
    mesh.subscribe(reader, "s", "/queue/a", &[]);
    let headers = [
        ("AMQ_SCHEDULED_DELAY", "1000"),
        ("AMQ_SCHEDULED_PERIOD", "500"),
        ("AMQ_SCHEDULED_REPEAT", "2"),
        ("priority", "8"),
        ("k", "v"),
    ];
    mesh.send_with(sender, "/queue/a", &headers, "again");
    assert_eq!(mesh.clients[&reader].frames.len(), 0);
    let mut times = Vec::new();
    for _ in 0..100 {
        mesh.pass(50);
        for frame in mesh.take_and_ack(reader) {
            assert_eq!((frame.headers.get("k"), frame.headers.get("priority")), (Some("v"), Some("8")));
            assert_eq!((frame.headers.get("scheduled"), frame.headers.get("redelivered")), (None, None));
            times.push(mesh.now.mono_ms);
        }
    }
    assert_eq!(times.len(), 3, "the first time and two more: {times:?}");
    assert!(times.windows(2).all(|pair| (400..700).contains(&(pair[1] - pair[0]))), "{times:?}");
    mesh.pass(2_000);
    mesh.nothing_waits();
    assert!(mesh.hosts.iter().all(|host| host.broker.jobs.remembered() == 0));
}

#[test]
fn a_cron_entry_goes_on_for_ever() {
    let mut mesh = Mesh::new(1);
    let sender = mesh.connect(1, 0, &[]);
    mesh.send_with(sender, "/queue/a", &[("AMQ_SCHEDULED_CRON", "* * * * *")], "each minute");
    mesh.pass(310_000);
    assert_eq!(mesh.waiting(0)["/queue/a"], 5);
    assert_eq!(mesh.waiting(0).len(), 2, "and the next one");
    mesh.pass(2_000);
    assert_eq!(queue(&mut mesh, 0, "/queue/a"), (5, 1, 0));
}

#[test]
fn a_job_whose_message_is_not_kept_is_not_removed() {
    let mut mesh = Mesh::new(1);
    let sender = mesh.connect(1, 0, &[]);
    let headers = [("AMQ_SCHEDULED_PERIOD", "1000"), ("AMQ_SCHEDULED_REPEAT", "1")];
    mesh.send_with(sender, "/queue/a", &headers, "again");
    mesh.slow_disk = Some(0);
    mesh.pass(1_500);
    assert!(mesh.unwritten.is_some(), "what follows is to be written");
    assert_eq!(mesh.waiting(0).len(), 1, "the job is there still");
    mesh.let_write();
    mesh.pass(100);
    assert_eq!(mesh.waiting(0).len(), 2, "the message and the next job in its place");
    mesh.pass(5_000);
    assert_eq!(mesh.waiting(0).into_iter().collect::<Vec<_>>(), [("/queue/a".to_owned(), 2)]);
}

#[test]
fn a_job_is_removed_when_others_have_what_follows_and_not_before() {
    let mut mesh = Mesh::new(2);
    let sender = mesh.connect(1, 0, &[]);
    let headers = [("AMQ_SCHEDULED_PERIOD", "1000"), ("AMQ_SCHEDULED_REPEAT", "1")];
    mesh.send_with(sender, "/queue/a", &headers, "again");
    // The other node does not hear of it, or does not answer.
    mesh.held.insert((0, 1));
    mesh.pass(1_500);
    let total = |mesh: &Mesh| mesh.waiting(0).values().sum::<u64>();
    assert_eq!(total(&mesh), 3, "the message, the next job, and the job");
    mesh.held.clear();
    mesh.settle();
    mesh.pass(50);
    assert_eq!(total(&mesh), 2, "{:?}", mesh.waiting(0));
    mesh.pass(5_000);
    for host in 0..2 {
        assert_eq!(mesh.waiting(host).into_iter().collect::<Vec<_>>(), [("/queue/a".to_owned(), 2)], "h{host}");
    }
}

#[test]
fn a_repetition_that_went_on_on_both_sides_of_a_cut_is_one_again_when_it_heals() {
    for headers in [
        &[("AMQ_SCHEDULED_PERIOD", "10000"), ("AMQ_SCHEDULED_REPEAT", "-1")][..],
        &[("AMQ_SCHEDULED_CRON", "* * * * *")],
        &[("AMQ_SCHEDULED_CRON", "* * * * *"), ("AMQ_SCHEDULED_PERIOD", "7000"), ("AMQ_SCHEDULED_REPEAT", "3")],
    ] {
        let mut mesh = Mesh::new(2);
        let sender = mesh.connect(1, 0, &[]);
        mesh.send_with(sender, "/queue/a", headers, "again");
        mesh.pass(100_000);
        mesh.cut(0, 1);
        mesh.pass(100_000);
        mesh.link(0, 1);
        mesh.pass(200_000);
        let readers = [mesh.connect(2, 0, &[]), mesh.connect(3, 1, &[])];
        for reader in readers {
            mesh.subscribe(reader, "s", "/queue/a", &[("prefetch-count", "1000")]);
        }
        let take = |mesh: &mut Mesh| readers.iter().map(|reader| mesh.take_and_ack(*reader).len()).sum::<usize>();
        let take_for = |mesh: &mut Mesh, ms: u64| {
            let step = |_| {
                mesh.pass(500);
                take(mesh)
            };
            (0..ms / 500).map(step).sum::<usize>()
        };
        take_for(&mut mesh, 10_000);
        let came = take_for(&mut mesh, 240_000);
        // In four minutes: 24 times, 4 times, and 4 times 4, give or take one.
        let expected = match headers.len() {
            1 => 4,
            2 => 24,
            _ => 16,
        };
        assert!(came.abs_diff(expected) <= expected / 8 + 1, "{headers:?}: {came}");
    }
}
