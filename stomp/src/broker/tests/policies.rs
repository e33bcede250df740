//! Policies over nodes, and what they say: when messages expire, how often they come again, where dead letters go.

mod lanes;

use super::*;
use crate::policies::{Overflow, Policy, PolicyChange, PolicyError};

fn policy(change: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = Policy::default();
    change(&mut policy);
    policy
}

impl Mesh {
    fn set_policy(&mut self, host: usize, pattern: &str, change: impl FnOnce(&mut Policy)) {
        let change = PolicyChange::Set { pattern: pattern.to_owned(), policy: policy(change) };
        self.hosts[host].broker.change_policy(self.now, &change).unwrap();
        self.settle();
    }

    /// Patterns and times to live.
    fn policies(&self, host: usize) -> Vec<(String, Option<u64>)> {
        let policies = self.hosts[host].broker.policies().into_iter();
        policies.map(|one| (one.pattern, one.policy.ttl_ms)).collect()
    }

    /// The next message of a consumer, which is then refused.
    fn refuse(&mut self, conn: ConnId, headers: &[(&str, &str)]) -> Option<Frame> {
        let frame = self.message(conn)?;
        let id = frame.headers.get("ack").expect("it wants an answer").to_owned();
        let all = [("id", &*id)].into_iter().chain(headers.iter().copied());
        self.send_frame(conn, Frame::new(Command::Nack, all));
        Some(frame)
    }

    /// The next message of a consumer; there must be at most one.
    fn message(&mut self, conn: ConnId) -> Option<Frame> {
        let mut frames = self.take(conn);
        frames.retain(|frame| frame.command == Command::Message);
        assert!(frames.len() <= 1, "{frames:?}");
        frames.pop()
    }

    /// What waits in a queue, read by a client of its own that consumes it.
    fn drain_queue(&mut self, conn: u64, host: usize, queue: &str) -> Vec<Frame> {
        let conn = self.connect(conn, host, &[]);
        self.subscribe(conn, "d", queue, &[("ack", "client-individual"), ("prefetch-count", "100")]);
        let frames = std::iter::from_fn(|| Some(self.take_and_ack(conn)).filter(|some| !some.is_empty()));
        let frames: Vec<_> = frames.collect();
        self.close(conn);
        frames.into_iter().flatten().collect()
    }
}

const ONE_BY_ONE: [(&str, &str); 2] = [("ack", "client-individual"), ("prefetch-count", "1")];

fn header<'a>(frame: &'a Frame, name: &str) -> &'a str {
    frame.headers.get(name).unwrap_or("")
}

#[test]
fn a_policy_is_in_force_on_all_nodes_and_stays_over_a_restart() {
    let mut mesh = Mesh::new(3);
    mesh.set_policy(1, "/amq/queue/orders.*", |policy| policy.ttl_ms = Some(60_000));
    let expected = [("/queue/orders.*".to_owned(), Some(60_000))];
    (0..3).for_each(|host| assert_eq!(mesh.policies(host), expected, "h{host}"));
    assert!(mesh.changes.values().all(|is_kept| *is_kept) && mesh.changes.len() == 1);
    mesh.restart(2);
    assert_eq!(mesh.policies(2), expected);
    let sender = mesh.connect(1, 0, &[]);
    mesh.send(sender, "/queue/orders.new", "x");
    mesh.pass(2_000);
    let queues = mesh.hosts[2].broker.status().queues;
    assert_eq!(queues[0].policy.as_deref(), Some("/queue/orders.*"));

    let remove = |pattern: &str| PolicyChange::Remove { pattern: pattern.to_owned() };
    let unknown = mesh.hosts[0].broker.change_policy(mesh.now, &remove("orders.*"));
    assert_eq!(unknown, Err(PolicyError::Unknown("orders.*".to_owned())));
    mesh.hosts[0].broker.change_policy(mesh.now, &remove("/queue/orders.*")).unwrap();
    mesh.settle();
    (0..3).for_each(|host| assert!(mesh.policies(host).is_empty()));
}

#[test]
fn of_two_policies_that_were_set_on_both_sides_of_a_cut_the_later_one_holds_as_a_whole() {
    let mut mesh = Mesh::new(2);
    mesh.set_policy(0, "a", |policy| policy.ttl_ms = Some(1));
    mesh.cut(0, 1);
    mesh.set_policy(0, "a", |policy| policy.prefetch = Some(7));
    mesh.pass(10);
    mesh.set_policy(1, "a", |policy| policy.ttl_ms = Some(2));
    mesh.pass(10);
    mesh.hosts[0].broker.change_policy(mesh.now, &PolicyChange::Remove { pattern: "a".to_owned() }).unwrap();
    mesh.settle();
    mesh.link(0, 1);
    mesh.pass(5_000);
    for host in 0..2 {
        let policies = mesh.hosts[host].broker.policies();
        assert_eq!(policies.len(), 1, "whoever removed it did not know of the other");
        assert_eq!(policies[0].policy, policy(|policy| policy.ttl_ms = Some(2)), "h{host}");
    }
    // Set anew at one place, by a clock that is behind: it counts all the same.
    mesh.now.wall_ms -= 500_000;
    mesh.set_policy(0, "a", |policy| policy.ttl_ms = Some(3));
    (0..2).for_each(|host| assert_eq!(mesh.policies(host), [("a".to_owned(), Some(3))]));
}

#[test]
fn a_message_is_not_delivered_after_its_time_whoever_said_when_that_is() {
    let at = |mesh: &Mesh, ms: u64| (mesh.now.wall_ms + ms).to_string();
    for case in ["expires", "expiration", "policy", "policy first", "sender first"] {
        let mut mesh = Mesh::new(2);
        let sender = mesh.connect(1, 0, &[]);
        let (ttl, late) = match case {
            "policy" | "policy first" => (Some(5_000), 60_000),
            "sender first" => (Some(60_000), 5_000),
            _ => (None, 5_000),
        };
        if let Some(ttl) = ttl {
            mesh.set_policy(1, "#", |policy| policy.ttl_ms = Some(ttl));
        }
        let value = if case == "expires" { at(&mesh, late) } else { late.to_string() };
        let name = if case == "expires" { "expires" } else { "expiration" };
        let headers = [(name, &*value)];
        let headers = if case == "policy" { &[][..] } else { &headers };
        let end = at(&mesh, 5_000);
        mesh.send_with(sender, "/queue/a", headers, "x");
        mesh.send_with(sender, "/queue/b", headers, "y");
        mesh.pass(4_000);
        let early = mesh.drain_queue(2, 1, "/queue/a");
        assert_eq!(early.len(), 1, "{case}");
        assert_eq!((header(&early[0], "expires"), header(&early[0], "expiration")), (&*end, ""), "{case}");
        // Nobody reads the other one.
        mesh.pass(3_000);
        mesh.nothing_waits();
        assert!(mesh.drain_queue(3, 0, "/queue/b").is_empty(), "{case}");
    }
}

#[test]
fn what_expires_while_a_consumer_is_busy_or_on_its_way_does_not_come() {
    let mut mesh = Mesh::new(2);
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.subscribe(reader, "1", "/queue/a", &ONE_BY_ONE);
    mesh.send(sender, "/queue/a", "first");
    let first = mesh.message(reader).expect("the first");
    mesh.send_with(sender, "/queue/a", &[("expiration", "1000")], "late");
    mesh.send(sender, "/queue/a", "last");
    mesh.pass(3_000);
    mesh.frame(reader, Command::Ack, &[("id", header(&first, "ack"))]);
    assert_eq!(mesh.bodies(reader), ["last"]);

    // One leaves its owner in time and arrives too late; the owner's clock has not got there.
    mesh.send(sender, "/queue/a", "first");
    let first = mesh.message(reader).expect("the first");
    mesh.send_with(sender, "/queue/a", &[("expiration", "5000")], "slow");
    mesh.held.insert((0, 1));
    mesh.frame(reader, Command::Ack, &[("id", header(&first, "ack"))]);
    let now = mesh.now;
    mesh.now.wall_ms += 6_000;
    let sight = mesh.hosts[0].broker.dispatch.remembered();
    assert!(sight.contains(&("flights", 1)), "it is on its way: {sight:?}");
    mesh.held.clear();
    mesh.settle();
    mesh.now = now;
    assert!(mesh.bodies(reader).is_empty());
    mesh.pass(100);
    mesh.nothing_waits();
    mesh.send(sender, "/queue/a", "next");
    assert_eq!(mesh.bodies(reader), ["next"]);
}

#[test]
fn thousands_that_have_expired_make_room_for_what_has_not_and_go_without_a_reader_too() {
    let mut mesh = Mesh::new(1);
    let sender = mesh.connect(1, 0, &[]);
    for queue in ["/queue/a", "/queue/b"] {
        for _ in 0..3_000 {
            mesh.frame(sender, Command::Send, &[("destination", queue), ("expiration", "500")]);
        }
        mesh.send(sender, queue, "lasts");
    }
    mesh.now.wall_ms += 1_000;
    assert_eq!(mesh.drain_queue(2, 0, "/queue/a").len(), 1);
    mesh.pass(3_000);
    assert_eq!(mesh.waiting(0), BTreeMap::from([("/queue/b".to_owned(), 1)]));
    // The last of a durable subscription, and of a topic's listener.
    assert_eq!(mesh.drain_queue(3, 0, "/queue/b").len(), 1);
    mesh.pass(2_000);
    assert_eq!(mesh.hosts[0].broker.moves.remembered(), 0);
}

#[test]
fn durable_subscriptions_lose_what_expires_and_their_topics_policy_holds() {
    let mut mesh = Mesh::new(2);
    mesh.set_policy(0, "/topic/news.*", |policy| policy.ttl_ms = Some(5_000));
    let reader = mesh.connect(1, 1, &[("client-id", "app")]);
    mesh.subscribe(reader, "1", "/topic/news.#", &[("durable-subscription-name", "s")]);
    mesh.close(reader);
    let sender = mesh.connect(2, 0, &[]);
    mesh.send(sender, "/topic/news.a", "short");
    mesh.send(sender, "/topic/news.a.b", "long");
    mesh.pass(7_000);
    let reader = mesh.connect(3, 1, &[("client-id", "app")]);
    mesh.subscribe(reader, "1", "/topic/news.#", &[("durable-subscription-name", "s")]);
    assert_eq!(mesh.bodies(reader), ["long"]);
}

#[test]
fn a_listener_of_a_topic_gets_nothing_that_is_over() {
    let mut mesh = Mesh::new(2);
    let (sender, listener) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.subscribe(listener, "1", "/topic/a", &[]);
    mesh.send_with(sender, "/topic/a", &[("expiration", "1000")], "in time");
    mesh.held.insert((0, 1));
    mesh.send_with(sender, "/topic/a", &[("expiration", "1000")], "late");
    mesh.now.wall_ms += 2_000;
    mesh.held.clear();
    mesh.settle();
    assert_eq!(mesh.bodies(listener), ["in time"]);
}

#[test]
fn prefetch_is_the_clients_word_then_the_policys() {
    let mut mesh = Mesh::new(1);
    mesh.set_policy(0, "a", |policy| policy.prefetch = Some(2));
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 0, &[]));
    (0..9).for_each(|_| mesh.send(sender, "/queue/a", "x"));
    mesh.subscribe(reader, "1", "/queue/a", &[("ack", "client")]);
    assert_eq!(mesh.take(reader).len(), 2);
    mesh.frame(reader, Command::Unsubscribe, &[("id", "1")]);
    mesh.subscribe(reader, "2", "/queue/a", &[("ack", "client"), ("prefetch-count", "3")]);
    assert_eq!(mesh.take(reader).len(), 3);
}

#[test]
fn each_delivery_is_counted_and_the_last_one_makes_a_dead_letter() {
    // The consumer is where the owner is, or elsewhere.
    for host in [0, 1] {
        let mut mesh = Mesh::new(2);
        mesh.set_policy(0, "a", |policy| policy.max_deliveries = Some(3));
        let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, host, &[]));
        mesh.send_with(sender, "/queue/a", &[("k", "v")], "poison");
        mesh.subscribe(reader, "1", "/queue/a", &ONE_BY_ONE);
        for count in ["1", "2", "3"] {
            let frame = mesh.refuse(reader, &[]).expect("a delivery");
            let redelivered = if count == "1" { "" } else { "true" };
            assert_eq!((header(&frame, "delivery-count"), header(&frame, "redelivered")), (count, redelivered));
        }
        assert!(mesh.message(reader).is_none());
        mesh.pass(2_000);
        let origin = id_of(0).to_string();
        let [dead] = &mesh.drain_queue(3, 1, "/queue/DLQ.a")[..] else { panic!("one dead letter") };
        for (name, value) in [
            ("k", "v"),
            ("destination", "/queue/DLQ.a"),
            ("dead-letter-reason", "max-deliveries"),
            ("dead-letter-from", "/queue/a"),
            ("dead-letter-deliveries", "3"),
            ("dead-letter-origin", &*origin),
            ("delivery-count", "1"),
        ] {
            assert_eq!(header(dead, name), value, "{name}");
        }
        assert!(header(dead, "dead-letter-id").parse::<rhizomq_engine::Dot>().is_ok());
        assert!(header(dead, "dead-letter-time").parse::<u64>().is_ok());
        assert_eq!(dead.body, "poison");
        mesh.pass(2_000);
        mesh.nothing_waits();
    }
}

#[test]
fn a_client_that_goes_counts_for_what_it_was_written_and_without_a_policy_twenty_times_are_enough() {
    let mut mesh = Mesh::new(1);
    let sender = mesh.connect(1, 0, &[]);
    mesh.send(sender, "/queue/a", "deadly");
    for count in 1..=20_u64 {
        let reader = mesh.connect(10 + count, 0, &[]);
        mesh.subscribe(reader, "1", "/queue/a", &ONE_BY_ONE);
        let frame = mesh.message(reader).expect("a delivery");
        assert_eq!(header(&frame, "delivery-count"), count.to_string());
        mesh.close(reader);
    }
    assert!(mesh.drain_queue(2, 0, "/queue/a").is_empty());
    assert_eq!(mesh.drain_queue(3, 0, "/queue/DLQ.a").len(), 1);
}

#[test]
fn what_comes_back_waits_longer_each_time_and_what_was_never_seen_does_not_count() {
    let mut mesh = Mesh::new(1);
    mesh.set_policy(0, "a", |policy| {
        policy.redelivery_delay_ms = Some(1_000);
        policy.redelivery_backoff_percent = Some(200);
        policy.redelivery_max_delay_ms = Some(3_000);
    });
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 0, &[]));
    mesh.subscribe(reader, "1", "/queue/a", &ONE_BY_ONE);
    mesh.send(sender, "/queue/a", "again");
    for delay in [1_000, 2_000, 3_000, 3_000] {
        mesh.refuse(reader, &[]).expect("a delivery");
        mesh.pass(delay - 10);
        assert!(mesh.message(reader).is_none(), "before {delay} ms");
        // Others are not held up by it.
        mesh.send(sender, "/queue/a", "other");
        assert_eq!(mesh.bodies(reader), ["other"]);
        mesh.pass(20);
    }
    let frame = mesh.message(reader).expect("a delivery");
    assert_eq!((&*frame.body, header(&frame, "delivery-count")), (&b"again"[..], "5"));
}

#[test]
fn a_rejected_message_is_a_dead_letter_at_once_also_in_a_transaction() {
    let mut mesh = Mesh::new(2);
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.subscribe(reader, "1", "/queue/a", &ONE_BY_ONE);
    mesh.send(sender, "/queue/a", "bad");
    mesh.refuse(reader, &[("requeue", "false")]).expect("a delivery");
    assert!(mesh.message(reader).is_none());
    mesh.send(sender, "/queue/a", "worse");
    let frame = mesh.message(reader).expect("a delivery");
    mesh.frame(reader, Command::Begin, &[("transaction", "t")]);
    let id = header(&frame, "ack");
    mesh.frame(reader, Command::Nack, &[("id", id), ("requeue", "false"), ("transaction", "t")]);
    assert_eq!(mesh.drain_queue(3, 0, "/queue/DLQ.a").len(), 1, "the other one is not decided");
    mesh.frame(reader, Command::Commit, &[("transaction", "t")]);
    let dead = mesh.drain_queue(4, 0, "/queue/DLQ.a");
    assert_eq!((dead.len(), header(&dead[0], "dead-letter-reason")), (1, "rejected"));
    mesh.pass(2_000);
    mesh.nothing_waits();
}

#[test]
fn dead_letters_go_where_the_policy_says_and_expired_ones_only_then() {
    let mut mesh = Mesh::new(1);
    mesh.set_policy(0, "a", |policy| policy.dead_letter = Some("/queue/bad".to_owned()));
    mesh.set_policy(0, "b", |policy| policy.dead_letter = Some("none".to_owned()));
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 0, &[]));
    for queue in ["/queue/a", "/queue/b"] {
        mesh.send_with(sender, queue, &[("expiration", "1000"), ("note", "v")], "late");
        mesh.pass(3_000);
        mesh.subscribe(reader, queue, queue, &ONE_BY_ONE);
        mesh.send(sender, queue, "bad");
        mesh.refuse(reader, &[("requeue", "false")]).expect("a delivery");
    }
    let dead = mesh.drain_queue(3, 0, "/queue/bad");
    let reasons: Vec<_> = dead.iter().map(|frame| header(frame, "dead-letter-reason")).collect();
    assert_eq!(reasons, ["expired", "rejected"]);
    assert_eq!((header(&dead[0], "expires"), header(&dead[0], "note")), ("", "v"), "it does not expire again");
    mesh.pass(2_000);
    mesh.nothing_waits();
}

#[test]
fn dead_letters_go_round_in_no_circle() {
    let mut mesh = Mesh::new(1);
    mesh.set_policy(0, "a", |policy| policy.dead_letter = Some("/queue/b".to_owned()));
    mesh.set_policy(0, "b", |policy| {
        (policy.dead_letter, policy.max_deliveries) = (Some("/queue/a".to_owned()), Some(2));
    });
    mesh.set_policy(0, "c", |policy| {
        (policy.dead_letter, policy.ttl_ms) = (Some("/queue/c".to_owned()), Some(1_000));
    });
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 0, &[]));
    mesh.subscribe(reader, "a", "/queue/a", &ONE_BY_ONE);
    mesh.subscribe(reader, "b", "/queue/b", &ONE_BY_ONE);
    mesh.send(sender, "/queue/a", "bad");
    assert_eq!(header(&mesh.refuse(reader, &[("requeue", "false")]).unwrap(), "destination"), "/queue/a");
    // In the dead-letter queue it may come back as often as it likes, now and then: somebody is to see it.
    for _ in 0..5 {
        mesh.pass(1_100);
        assert_eq!(header(&mesh.refuse(reader, &[]).expect("it stays"), "destination"), "/queue/b");
    }
    mesh.pass(1_100);
    mesh.refuse(reader, &[("requeue", "false")]).expect("it stays");
    assert!(mesh.message(reader).is_none(), "whoever rejects a dead letter has seen it");
    // Where a queue is its own dead-letter queue, what expires is gone.
    mesh.send(sender, "/queue/c", "late");
    mesh.pass(3_000);
    mesh.nothing_waits();
    // A client can't pass its message off as a dead letter.
    mesh.send_with(sender, "/queue/a", &[("dead-letter-reason", "expired"), ("delivery-count", "9")], "forged");
    let frame = mesh.refuse(reader, &[("requeue", "false")]).unwrap();
    assert_eq!((header(&frame, "dead-letter-reason"), header(&frame, "delivery-count")), ("", "1"));
    assert_eq!(header(&mesh.message(reader).unwrap(), "destination"), "/queue/b");
}

#[test]
fn the_original_goes_only_when_the_copy_is_on_as_many_disks_as_a_receipt_wants() {
    let mut mesh = Mesh::new(3);
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 0, &[]));
    mesh.subscribe(reader, "1", "/queue/a", &ONE_BY_ONE);
    mesh.send(sender, "/queue/a", "bad");
    // The copy comes to this disk, and to no other yet.
    mesh.held.extend([(0, 1), (0, 2)]);
    mesh.refuse(reader, &[("requeue", "false")]).expect("a delivery");
    let both = BTreeMap::from([("/queue/a".to_owned(), 1), ("/queue/DLQ.a".to_owned(), 1)]);
    assert_eq!(mesh.waiting(0), both);
    mesh.held.clear();
    mesh.settle();
    assert_eq!(mesh.waiting(0), BTreeMap::from([("/queue/DLQ.a".to_owned(), 1)]));
    assert_eq!(mesh.drain_queue(3, 2, "/queue/DLQ.a").len(), 1);
    mesh.pass(2_000);
    mesh.nothing_waits();
}

#[test]
fn a_copy_that_a_full_disk_refuses_is_tried_again() {
    let mut mesh = Mesh::new(1);
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 0, &[]));
    mesh.subscribe(reader, "1", "/queue/a", &ONE_BY_ONE);
    mesh.send(sender, "/queue/a", "bad");
    mesh.slow_disk = Some(0);
    mesh.refuse(reader, &[("requeue", "false")]).expect("a delivery");
    let (seq, _) = mesh.unwritten.take().expect("the copy");
    let full = Err(rhizomq_net::CommitError::Refused("full".to_owned()));
    mesh.hosts[0].broker.handle_committed(mesh.now, seq, full);
    mesh.settle();
    mesh.let_write();
    assert_eq!(mesh.waiting(0), BTreeMap::from([("/queue/a".to_owned(), 1)]));
    assert!(mesh.message(reader).is_none(), "nobody gets it meanwhile");
    mesh.pass(1_500);
    assert_eq!(mesh.waiting(0), BTreeMap::from([("/queue/DLQ.a".to_owned(), 1)]));
}

#[test]
fn a_death_between_copy_and_removal_doubles_and_never_loses() {
    let mut mesh = Mesh::new(3);
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 0, &[]));
    mesh.subscribe(reader, "1", "/queue/a", &ONE_BY_ONE);
    mesh.send(sender, "/queue/a", "bad");
    mesh.held.extend([(0, 1), (0, 2)]);
    mesh.refuse(reader, &[("requeue", "false")]).expect("a delivery");
    mesh.isolate(0);
    mesh.held.clear();
    // The others know of no copy, and deliver the original.
    mesh.pass(20_000);
    let again = mesh.drain_queue(3, 1, "/queue/a");
    assert_eq!((again.len(), header(&again[0], "redelivered")), (1, "true"));
    mesh.restart(0);
    mesh.pass(20_000);
    assert_eq!(mesh.drain_queue(4, 2, "/queue/DLQ.a").len(), 1, "and the copy is there, too");
    mesh.pass(2_000);
    mesh.nothing_waits();
}

#[test]
fn so_many_policies_and_no_more() {
    let mut mesh = Mesh::new(1);
    for number in 0..crate::policies::MAX_POLICIES {
        mesh.set_policy(0, &format!("q{number}"), |policy| policy.ttl_ms = Some(1));
    }
    let one =
        |pattern: &str| PolicyChange::Set { pattern: pattern.to_owned(), policy: policy(|it| it.ttl_ms = Some(1)) };
    let more = mesh.hosts[0].broker.change_policy(mesh.now, &one("more"));
    assert_eq!(more, Err(PolicyError::TooMany));
    assert!(mesh.hosts[0].broker.change_policy(mesh.now, &one("q7")).is_ok(), "one that is there can be changed");
}

#[test]
fn a_full_queue_takes_no_more_and_says_so_wherever_its_messages_are() {
    let mut mesh = Mesh::new(2);
    mesh.set_policy(0, "/queue/a", |policy| policy.max_length = Some(3));
    let (one, two) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    mesh.send(one, "/queue/a", "1");
    mesh.send(one, "/queue/a", "2");
    mesh.send(two, "/queue/a", "3");
    mesh.pass(1_500);
    mesh.frame(two, Command::Send, &[("destination", "/queue/a"), ("receipt", "r")]);
    assert_eq!(mesh.error(two).as_deref(), Some("the queue has reached its greatest length"));
    // Each of a transaction counts, and none of it is taken.
    let two = mesh.connect(3, 1, &[]);
    mesh.send(two, "/queue/b", "another queue");
    mesh.drain_queue(4, 0, "/queue/a");
    mesh.pass(1_500);
    mesh.frame(two, Command::Begin, &[("transaction", "t")]);
    for queue in ["/queue/b", "/queue/a", "/queue/a", "/queue/a", "/queue/a"] {
        mesh.frame(two, Command::Send, &[("destination", queue), ("transaction", "t")]);
    }
    mesh.frame(two, Command::Commit, &[("transaction", "t")]);
    assert!(mesh.error(two).is_some());
    assert_eq!(mesh.drain_queue(5, 0, "/queue/b").len(), 1);
    let again = mesh.connect(6, 1, &[]);
    (0..3).for_each(|_| mesh.send(again, "/queue/a", "x"));
}

#[test]
fn the_oldest_of_too_many_leave_and_the_owners_share_that() {
    for overflow in [Overflow::DropOldest, Overflow::DeadLetter] {
        let mut mesh = Mesh::new(2);
        let change = |policy: &mut Policy| (policy.max_length, policy.overflow) = (Some(10), Some(overflow));
        mesh.set_policy(0, "/queue/a", change);
        mesh.set_policy(0, "/queue/b", change);
        let (one, two) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
        for number in 0..20 {
            mesh.send(one, "/queue/a", &format!("one {number}"));
            if number < 10 {
                mesh.send(two, "/queue/a", &format!("two {number}"));
            }
        }
        mesh.send(one, "/queue/b", "few");
        mesh.pass(10_000);
        let left = mesh.drain_queue(3, 0, "/queue/a");
        // What an owner knows of the others is a little old.
        assert!((8..=12).contains(&left.len()), "{overflow:?}: {} left", left.len());
        let bodies: Vec<_> = left.iter().map(|frame| String::from_utf8(frame.body.to_vec()).unwrap()).collect();
        for number in 16..20 {
            assert!(bodies.contains(&format!("one {number}")), "{overflow:?}: the newest stay: {bodies:?}");
        }
        assert!(bodies.contains(&"two 9".to_owned()) && !bodies.contains(&"two 0".to_owned()), "{bodies:?}");
        let graves = mesh.drain_queue(4, 1, "/queue/DLQ.a");
        let dead = if overflow == Overflow::DropOldest { 0 } else { 30 - left.len() };
        assert_eq!(graves.len(), dead, "{overflow:?}");
        assert!(graves.iter().all(|frame| header(frame, "dead-letter-reason") == "max-length"));
        assert_eq!(mesh.drain_queue(5, 1, "/queue/b").len(), 1);
        mesh.pass(2_000);
        mesh.nothing_waits();
    }
}

#[test]
fn a_backlog_of_thousands_is_shed_as_fast_as_the_disk_goes_and_what_a_consumer_holds_stays_with_it() {
    let mut mesh = Mesh::new(1);
    let (sender, reader) = (mesh.connect(1, 0, &[]), mesh.connect(2, 0, &[]));
    mesh.subscribe(reader, "1", "/queue/a", &ONE_BY_ONE);
    for number in 0..5_000 {
        mesh.frame(sender, Command::Send, &[("destination", "/queue/a"), ("n", &number.to_string())]);
    }
    let first = mesh.message(reader).expect("the first");
    mesh.set_policy(0, "a", |policy| (policy.max_length, policy.overflow) = (Some(100), Some(Overflow::DropOldest)));
    mesh.pass(1_100);
    assert_eq!(mesh.waiting(0), BTreeMap::from([("/queue/a".to_owned(), 100)]));
    mesh.frame(reader, Command::Ack, &[("id", header(&first, "ack"))]);
    assert_eq!((header(&first, "n"), header(&mesh.message(reader).unwrap(), "n")), ("0", "4901"));
}
