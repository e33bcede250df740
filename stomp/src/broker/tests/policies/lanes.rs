//! What policies and acknowledgements do to messages with priorities, delays and repetitions, and to consumers with selectors.

use super::*;

/// Bodies in the order in which they came.
fn bodies(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(|frame| String::from_utf8(frame.body.to_vec()).unwrap()).collect()
}

#[test]
fn a_dead_letter_names_its_queue_whatever_its_priority() {
    let mut mesh = Mesh::new(2);
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.send_with(sender, "/queue/a", &[("priority", "9")], "bad");
    mesh.subscribe(reader, "1", "/queue/a", &ONE_BY_ONE);
    let frame = mesh.refuse(reader, &[("requeue", "false")]).expect("a delivery");
    assert_eq!(header(&frame, "destination"), "/queue/a");
    let dead = mesh.drain_queue(3, 0, "/queue/DLQ.a");
    assert_eq!((dead.len(), header(&dead[0], "dead-letter-from")), (1, "/queue/a"));
    mesh.pass(2_000);
    mesh.nothing_waits();
}

#[test]
fn what_a_consumer_with_a_selector_refuses_is_counted_and_its_policy_is_the_queues() {
    let mut mesh = Mesh::new(2);
    mesh.set_policy(0, "/queue/a", |policy| policy.max_deliveries = Some(2));
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.send_with(sender, "/queue/a", &[("k", "other")], "first");
    mesh.send_with(sender, "/queue/a", &[("k", "mine"), ("priority", "2")], "second");
    let select = [ONE_BY_ONE[0], ONE_BY_ONE[1], ("selector", "k = 'mine'")];
    mesh.subscribe(reader, "1", "/queue/a", &select);
    for delivery in ["1", "2"] {
        let frame = mesh.refuse(reader, &[]).expect("a delivery");
        assert_eq!((header(&frame, "delivery-count"), &frame.body[..]), (delivery, &b"second"[..]));
    }
    assert!(mesh.message(reader).is_none());
    let dead = mesh.drain_queue(3, 0, "/queue/DLQ.a");
    assert_eq!((dead.len(), header(&dead[0], "dead-letter-reason")), (1, "max-deliveries"));
    assert_eq!(bodies(&mesh.drain_queue(4, 0, "/queue/a")), ["first"]);
}

#[test]
fn what_has_expired_goes_from_every_lane_and_past_every_selector() {
    let mut mesh = Mesh::new(1);
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 0, &[]));
    for priority in ["0", "4", "9"] {
        mesh.send_with(sender, "/queue/a", &[("priority", priority), ("expiration", "1000")], "late");
    }
    mesh.now.mono_ms += 1_100;
    mesh.now.wall_ms += 1_100;
    let select = [ONE_BY_ONE[0], ONE_BY_ONE[1], ("selector", "JMSPriority < 9")];
    mesh.subscribe(reader, "1", "/queue/a", &select);
    assert!(mesh.message(reader).is_none());
    // And that of the highest priority, that nobody asks for.
    mesh.pass(3_000);
    mesh.nothing_waits();
}

#[test]
fn the_greatest_length_is_that_of_all_lanes_but_for_what_waits_for_its_time() {
    let mut mesh = Mesh::new(1);
    let change = |policy: &mut Policy| (policy.max_length, policy.overflow) = (Some(3), Some(Overflow::DropOldest));
    mesh.set_policy(0, "/queue/a", change);
    let sender = mesh.connect(1, 0, &[]);
    mesh.send_with(sender, "/queue/a", &[("x-delay", "60000"), ("priority", "0")], "later");
    for (priority, body) in [("9", "high"), ("4", "old"), ("4", "new"), ("9", "higher"), ("1", "low")] {
        mesh.send_with(sender, "/queue/a", &[("priority", priority)], body);
    }
    mesh.pass(3_000);
    assert_eq!(bodies(&mesh.drain_queue(2, 0, "/queue/a")), ["high", "higher", "new"]);
    mesh.pass(60_000);
    assert_eq!(bodies(&mesh.drain_queue(3, 0, "/queue/a")), ["later"]);

    mesh.set_policy(0, "/queue/b", |policy| policy.max_length = Some(2));
    mesh.send_with(sender, "/queue/b", &[("priority", "9")], "one");
    mesh.send_with(sender, "/queue/b", &[("priority", "0")], "two");
    mesh.frame(sender, Command::Send, &[("destination", "/queue/b"), ("receipt", "r")]);
    assert_eq!(mesh.error(sender).as_deref(), Some("the queue has reached its greatest length"));
}

#[test]
fn what_is_delayed_lives_from_the_time_at_which_it_may_be_had() {
    let mut mesh = Mesh::new(1);
    let sender = mesh.connect(1, 0, &[]);
    for queue in ["/queue/a", "/queue/b"] {
        mesh.send_with(sender, queue, &[("x-delay", "10000"), ("expiration", "2000")], "later");
    }
    mesh.pass(9_900);
    assert!(mesh.drain_queue(2, 0, "/queue/a").is_empty());
    mesh.pass(1_000);
    assert_eq!(bodies(&mesh.drain_queue(3, 0, "/queue/a")), ["later"]);
    mesh.pass(3_000);
    mesh.nothing_waits();
}

#[test]
fn each_time_that_a_message_is_repeated_it_lives_anew() {
    let mut mesh = Mesh::new(1);
    mesh.set_policy(0, "/queue/b", |policy| policy.ttl_ms = Some(700));
    let sender = mesh.connect(1, 0, &[]);
    let often = [("AMQ_SCHEDULED_PERIOD", "2000"), ("AMQ_SCHEDULED_REPEAT", "2")];
    mesh.send_with(sender, "/queue/a", &[often[0], often[1], ("expiration", "700")], "again");
    mesh.send_with(sender, "/queue/b", &often, "again");
    for conn in 0..3 {
        mesh.pass(2_100);
        for (number, queue) in ["/queue/a", "/queue/b"].into_iter().enumerate() {
            let frames = mesh.drain_queue(10 + 2 * conn + number as u64, 0, queue);
            assert_eq!(bodies(&frames), ["again"], "{queue}, time {conn}");
            let end: u64 = header(&frames[0], "expires").parse().unwrap();
            assert!((1..=700).contains(&(end - mesh.now.wall_ms)), "{queue}, time {conn}");
        }
    }
    mesh.pass(5_000);
    mesh.nothing_waits();
}

#[test]
fn a_life_that_is_shorter_than_a_delay_is_exact_is_lived_all_the_same() {
    let mut mesh = Mesh::new(1);
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 0, &[]));
    mesh.subscribe(reader, "1", "/queue/a", &[]);
    for number in 0..10 {
        let headers = [("x-delay", "16500"), ("expiration", "150")];
        mesh.send_with(sender, "/queue/a", &headers, &number.to_string());
        mesh.pass(100);
    }
    let mut came = 0;
    for _ in 0..400 {
        mesh.pass(50);
        came += mesh.take_and_ack(reader).len();
    }
    assert_eq!(came, 10);
}

#[test]
fn of_too_many_whose_time_has_come_the_first_leave() {
    let mut mesh = Mesh::new(1);
    let change = |policy: &mut Policy| (policy.max_length, policy.overflow) = (Some(3), Some(Overflow::DropOldest));
    mesh.set_policy(0, "/queue/a", change);
    let sender = mesh.connect(1, 0, &[]);
    for delay in [200, 400, 600, 800, 1_000] {
        let delay = delay.to_string();
        mesh.send_with(sender, "/queue/a", &[("x-delay", &delay)], &delay);
    }
    mesh.pass(5_000);
    assert_eq!(bodies(&mesh.drain_queue(2, 0, "/queue/a")), ["600", "800", "1000"]);
}

#[test]
fn a_dead_letter_keeps_its_priority_and_who_refuses_it_for_ever_gets_it_now_and_then() {
    let mut mesh = Mesh::new(1);
    mesh.set_policy(0, "#", |policy| policy.max_deliveries = Some(1));
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 0, &[]));
    mesh.subscribe(reader, "1", "/queue/a", &ONE_BY_ONE);
    for priority in ["0", "9"] {
        mesh.send_with(sender, "/queue/a", &[("priority", priority)], priority);
        mesh.refuse(reader, &[]).expect("a delivery");
    }
    let undertaker = mesh.connect(3, 0, &[]);
    mesh.subscribe(undertaker, "1", "/queue/DLQ.a", &ONE_BY_ONE);
    let mut times = BTreeMap::new();
    for _ in 0..100 {
        mesh.pass(50);
        while let Some(frame) = mesh.refuse(undertaker, &[]) {
            times.entry(bodies(&[frame]).remove(0)).or_insert_with(Vec::new).push(mesh.now.mono_ms);
        }
    }
    assert!(times["9"][0] <= times["0"][0]);
    assert!(times.values().all(|times| (4..=6).contains(&times.len())), "once a second: {times:?}");
}

#[test]
fn a_repetition_ends_with_its_message_and_is_not_for_temporary_queues() {
    let mut mesh = Mesh::new(1);
    let sender = mesh.connect(1, 0, &[]);
    let end = (mesh.now.wall_ms + 5_000).to_string();
    let often = [("AMQ_SCHEDULED_PERIOD", "1000"), ("AMQ_SCHEDULED_REPEAT", "-1")];
    mesh.send_with(sender, "/queue/a", &[often[0], often[1], ("expires", &end)], "again");
    mesh.pass(4_500);
    assert_eq!(mesh.drain_queue(2, 0, "/queue/a").len(), 4);
    mesh.pass(5_000);
    mesh.nothing_waits();
    mesh.frame(sender, Command::Send, &[("destination", "/temp-queue/a"), often[0], often[1], ("receipt", "r")]);
    assert_eq!(mesh.error(sender).as_deref(), Some("what is sent to a temporary queue can't be repeated"));
}
