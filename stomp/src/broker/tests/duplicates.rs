//! A publisher that sends again what it has sent, at the same node or at another one.

use super::*;
use crate::lane;

const QUEUE: &str = "/queue/a";

/// Sends with an id, and a receipt of that name, which need not come at once.
fn send_as(mesh: &mut Mesh, conn: ConnId, id: &str, receipt: &str) {
    let headers = [("destination", QUEUE), ("_AMQ_DUPL_ID", id), ("receipt", receipt)];
    mesh.send_frame(conn, Frame::new(Command::Send, headers).with_body(id.to_owned()));
}

/// What all receipts of a connection since the last call say, with the number of disks.
fn copies(mesh: &mut Mesh, conn: ConnId) -> Vec<(String, u32)> {
    let frames = mesh.take(conn);
    let copies = |frame: &Frame| frame.headers.get("copies").and_then(|text| text.parse().ok()).unwrap_or(0);
    let receipt = |frame: &Frame| Some((frame.headers.get("receipt-id")?.to_owned(), copies(frame)));
    frames.iter().filter_map(receipt).collect()
}

fn consume_all(mesh: &mut Mesh, conn: u64, host: usize) -> Vec<String> {
    let consumer = mesh.connect(conn, host, &[]);
    mesh.subscribe(consumer, "s", QUEUE, &[]);
    mesh.bodies(consumer)
}

/// Messages that wait for people on a host's disk.
fn messages(mesh: &Mesh, host: usize) -> u64 {
    let waiting = mesh.waiting(host);
    waiting.iter().filter(|(inbox, _)| lane::remembered_until(inbox).is_none()).map(|(_, count)| count).sum()
}

fn three_with_senders() -> (Mesh, [ConnId; 3]) {
    let mut mesh = Mesh::new(3);
    let senders = [0, 1, 2].map(|host| mesh.connect(host as u64 + 1, host, &[]));
    (mesh, senders)
}

#[test]
fn what_is_sent_again_anywhere_is_confirmed_and_comes_once() {
    let (mut mesh, senders) = three_with_senders();
    for (number, conn) in [senders[0], senders[0], senders[1], senders[2]].into_iter().enumerate() {
        send_as(&mut mesh, conn, "one", "r");
        let receipts = copies(&mut mesh, conn);
        assert!(matches!(&receipts[..], [(_, 2..=3)]), "{number}: {receipts:?}");
    }
    send_as(&mut mesh, senders[1], "two", "r");
    mesh.send_with(senders[1], QUEUE, &[], "without");
    mesh.send_with(senders[2], "/queue/b", &[("x-deduplication-header", "one")], "elsewhere");
    let mut bodies = consume_all(&mut mesh, 9, 2);
    bodies.sort();
    assert_eq!(bodies, ["one", "two", "without"]);
    assert_eq!(messages(&mesh, 2), 1, "another destination");
}

#[test]
fn the_one_that_took_it_is_dead_and_others_remember() {
    let (mut mesh, senders) = three_with_senders();
    send_as(&mut mesh, senders[0], "one", "r");
    mesh.isolate(0);
    for conn in [senders[1], senders[2]] {
        send_as(&mut mesh, conn, "one", "r");
        assert_eq!(copies(&mut mesh, conn), [("r".to_owned(), 2)]);
    }
    mesh.pass(5_000);
    assert_eq!(consume_all(&mut mesh, 9, 2), ["one"]);
}

#[test]
fn a_receipt_for_what_was_taken_before_waits_for_as_many_disks() {
    let mut mesh = Mesh::new(3);
    let (first, again) = (mesh.connect(1, 0, &[]), mesh.connect(2, 1, &[]));
    // Only one other node hears of it, and it dies with the one that took it.
    mesh.cut(0, 2);
    mesh.slow_disk = Some(2);
    send_as(&mut mesh, first, "one", "r");
    mesh.isolate(0);
    send_as(&mut mesh, again, "one", "again");
    mesh.pass(1_000);
    assert_eq!(copies(&mut mesh, again), [], "one disk has it, and another can");
    mesh.let_write();
    mesh.pass(5_000);
    assert_eq!(copies(&mut mesh, again), [("again".to_owned(), 2)]);
    assert_eq!(messages(&mesh, 1), 1);
}

#[test]
fn it_is_remembered_when_it_is_consumed_and_over_a_restart_until_its_time_is_over() {
    let (mut mesh, senders) = three_with_senders();
    send_as(&mut mesh, senders[0], "one", "r");
    assert_eq!(consume_all(&mut mesh, 9, 1), ["one"]);
    for host in 0..3 {
        mesh.restart(host);
    }
    mesh.pass(1_000);
    let again = mesh.connect(11, 0, &[]);
    send_as(&mut mesh, again, "one", "r");
    assert!(matches!(copies(&mut mesh, again)[..], [(_, 2..=3)]));
    assert_eq!(messages(&mesh, 0), 0);
    mesh.pass(360_000);
    let idle: Vec<_> = mesh.hosts.iter().map(|host| host.broker.duplicates.remembered()).collect();
    assert_eq!(idle, [0, 0, 0]);
    mesh.nothing_waits();
    send_as(&mut mesh, again, "one", "r");
    assert_eq!(messages(&mesh, 0), 1, "it is a new one by now");
}

#[test]
fn the_other_side_of_a_cut_takes_it_as_new() {
    let (mut mesh, senders) = three_with_senders();
    mesh.isolate(2);
    send_as(&mut mesh, senders[0], "one", "r");
    send_as(&mut mesh, senders[2], "one", "r");
    assert_eq!(copies(&mut mesh, senders[2]), [("r".to_owned(), 1)]);
    mesh.link_all();
    mesh.pass(5_000);
    assert_eq!(consume_all(&mut mesh, 9, 1), ["one", "one"]);
}

#[test]
fn two_nodes_that_are_sent_it_at_once_agree_on_one() {
    for order in [[0, 2], [2, 0]] {
        let (mut mesh, senders) = three_with_senders();
        for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
            mesh.held.insert((from, to));
        }
        for host in order {
            send_as(&mut mesh, senders[host], "one", "r");
        }
        mesh.held.clear();
        mesh.settle();
        for host in order {
            let receipts = copies(&mut mesh, senders[host]);
            assert!(matches!(receipts[..], [(_, 2..=3)]), "{host} {receipts:?}");
        }
        assert_eq!(consume_all(&mut mesh, 9, 1), ["one"]);
    }
}

#[test]
fn a_connection_s_order_stays_while_one_of_its_messages_waits() {
    let (mut mesh, senders) = three_with_senders();
    let conn = senders[0];
    mesh.held.extend([(1, 0), (2, 0)]);
    send_as(&mut mesh, conn, "one", "r1");
    mesh.frame(conn, Command::Send, &[("destination", QUEUE), ("receipt", "r2")]);
    send_as(&mut mesh, conn, "three", "r3");
    assert_eq!((copies(&mut mesh, conn), messages(&mesh, 0)), (vec![], 0));
    mesh.held.clear();
    mesh.settle();
    let receipts: Vec<_> = copies(&mut mesh, conn).into_iter().map(|(receipt, _)| receipt).collect();
    assert_eq!(receipts, ["r1", "r2", "r3"]);
    assert_eq!(consume_all(&mut mesh, 9, 0), ["one", "", "three"]);
}

#[test]
fn a_linked_node_that_says_nothing_is_waited_for_so_long() {
    let (mut mesh, senders) = three_with_senders();
    mesh.held.insert((2, 0));
    send_as(&mut mesh, senders[0], "one", "r");
    mesh.pass(1_900);
    assert_eq!(messages(&mesh, 0), 0);
    mesh.pass(200);
    assert_eq!(messages(&mesh, 0), 1);
    send_as(&mut mesh, senders[0], "two", "r");
    assert_eq!(messages(&mesh, 0), 2, "and not again");
}

#[test]
fn what_has_come_in_and_is_not_on_the_disk_yet_counts() {
    let (mut mesh, senders) = three_with_senders();
    // The one that took it is gone before the others have written it down.
    mesh.slow_disk = Some(1);
    mesh.cut(0, 2);
    send_as(&mut mesh, senders[0], "one", "r");
    mesh.isolate(0);
    send_as(&mut mesh, senders[2], "one", "r");
    send_as(&mut mesh, senders[1], "one", "r");
    assert_eq!((messages(&mesh, 1), messages(&mesh, 2)), (0, 0));
    mesh.let_write();
    mesh.pass(5_000);
    assert_eq!((copies(&mut mesh, senders[1]), copies(&mut mesh, senders[2])), {
        let both = vec![("r".to_owned(), 2)];
        (both.clone(), both)
    });
    assert_eq!(consume_all(&mut mesh, 9, 2), ["one"]);
}

#[test]
fn of_a_transaction_what_is_known_is_left_out_and_an_aborted_one_leaves_nothing() {
    let (mut mesh, senders) = three_with_senders();
    let transaction = |mesh: &mut Mesh, conn, ids: &[&str], end| {
        mesh.frame(conn, Command::Begin, &[("transaction", "t")]);
        for id in ids {
            let headers = [("destination", QUEUE), ("_AMQ_DUPL_ID", id), ("transaction", "t")];
            mesh.send_frame(conn, Frame::new(Command::Send, headers).with_body((*id).to_owned()));
        }
        mesh.frame(conn, end, &[("transaction", "t"), ("receipt", "end")]);
        copies(mesh, conn)
    };
    transaction(&mut mesh, senders[0], &["one", "two"], Command::Abort);
    assert_eq!(messages(&mesh, 0), 0);
    for (host, ids, waiting) in [(0, &["one", "two", "two"][..], 2), (1, &["one", "two"], 2), (2, &["two", "three"], 3)]
    {
        let receipts = transaction(&mut mesh, senders[host], ids, Command::Commit);
        assert!(matches!(receipts[..], [(_, 2..=3)]), "{receipts:?}");
        assert_eq!(messages(&mesh, 1), waiting, "{ids:?}");
    }
}

#[test]
fn each_destination_of_one_send_counts_by_itself() {
    let (mut mesh, senders) = three_with_senders();
    let headers = [("_AMQ_DUPL_ID", "one")];
    mesh.send_with(senders[0], "/queue/a", &headers, "x");
    mesh.send_with(senders[1], "/queue/a,/queue/b", &headers, "x");
    mesh.send_with(senders[2], "/queue/a,/queue/b", &headers, "x");
    let waiting: Vec<_> = mesh.waiting(0).into_iter().filter(|(name, _)| name.starts_with("/queue")).collect();
    assert_eq!(waiting, [("/queue/a".to_owned(), 1), ("/queue/b".to_owned(), 1)]);
}

#[test]
fn topics_remember_what_they_keep() {
    let (mut mesh, senders) = three_with_senders();
    let headers = [("_AMQ_DUPL_ID", "one")];
    let listener = mesh.connect(8, 1, &[("client-id", "c")]);
    mesh.subscribe(listener, "l", "/topic/a", &[]);
    for host in [0, 1] {
        mesh.send_with(senders[host], "/topic/a", &headers, "to who listens");
    }
    assert_eq!(mesh.bodies(listener).len(), 2, "nothing is kept of it, nor of its id");
    mesh.subscribe(listener, "d", "/topic/a", &[("durable-subscription-name", "d"), ("receipt", "r")]);
    mesh.take(listener);
    for host in [0, 1] {
        mesh.send_with(senders[host], "/topic/a", &headers, "kept");
    }
    assert_eq!(mesh.bodies(listener).len(), 2, "for both subscriptions once");
}

#[test]
fn dead_letters_and_repetitions_are_no_duplicates_of_what_they_come_from() {
    let (mut mesh, senders) = three_with_senders();
    let reader = mesh.connect(8, 1, &[]);
    mesh.subscribe(reader, "s", QUEUE, &[("ack", "client-individual")]);
    send_as(&mut mesh, senders[0], "one", "r");
    let id = mesh.take(reader).iter().find_map(|frame| frame.headers.get("ack").map(str::to_owned)).unwrap();
    mesh.frame(reader, Command::Nack, &[("id", &id), ("requeue", "false")]);
    mesh.pass(1_000);
    assert_eq!(mesh.waiting(0).get("/queue/DLQ.a"), Some(&1));

    let headers = [("_AMQ_DUPL_ID", "job"), ("AMQ_SCHEDULED_PERIOD", "1000"), ("AMQ_SCHEDULED_REPEAT", "2")];
    mesh.send_with(senders[0], "/queue/jobs", &headers, "x");
    mesh.send_with(senders[2], "/queue/jobs", &headers, "x");
    mesh.pass(10_000);
    assert_eq!(mesh.waiting(0).get("/queue/jobs"), Some(&3));
}

#[test]
fn the_oldest_ids_go_where_there_are_too_many_and_a_window_of_nought_is_none() {
    for (window, waiting) in [((300_000, 2), 4), ((300_000, 9), 3), ((0, 9), 6)] {
        let mut mesh = Mesh::new(1);
        mesh.hosts[0].broker.duplicates.set_window(window);
        let conn = mesh.connect(1, 0, &[]);
        for id in ["one", "two", "three", "three", "two", "one"] {
            send_as(&mut mesh, conn, id, "r");
        }
        assert_eq!(messages(&mesh, 0), waiting, "{window:?}");
    }
}

#[test]
fn status_does_not_count_ids() {
    let (mut mesh, senders) = three_with_senders();
    send_as(&mut mesh, senders[0], "one", "r");
    mesh.pass(2_000);
    for host in 0..3 {
        let status = mesh.hosts[host].broker.status();
        let queues: Vec<_> = status.queues.iter().map(|queue| (&*queue.name, queue.depth, queue.scheduled)).collect();
        assert_eq!(queues, [(QUEUE, 1, 0)]);
    }
}

#[test]
fn a_client_that_is_gone_meanwhile_has_sent_what_it_has_sent() {
    let (mut mesh, senders) = three_with_senders();
    mesh.held.insert((1, 0));
    send_as(&mut mesh, senders[0], "one", "r");
    mesh.close(senders[0]);
    mesh.held.clear();
    mesh.settle();
    assert_eq!(messages(&mesh, 0), 1);
    assert_eq!(mesh.hosts[0].broker.unconfirmed, 0);
    send_as(&mut mesh, senders[1], "one", "r");
    assert_eq!(copies(&mut mesh, senders[1]).len(), 1);
    assert_eq!(messages(&mesh, 0), 1);
}
