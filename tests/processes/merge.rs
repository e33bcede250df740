//! Two clusters of real processes, with secrets, backlogs and clients of their own, made one by the command.

use std::collections::BTreeSet;

use crate::support::{
    cluster::{Cluster, Ledger, alive, consume_all, publish_all, texts},
    eventually,
    load::{Load, judge},
    node::{Node, Setup},
};

const QUEUE: &str = "/queue/orders";

fn await_all_alive(nodes: &[&Node]) {
    for node in nodes {
        eventually("one cluster", || match alive(node)? {
            seen if seen.len() == nodes.len() => Ok(()),
            seen => Err(format!("{} sees {seen:?}", node.setup.name)),
        });
    }
}

#[test]
fn two_clusters_become_one_by_one_command_and_no_client_notices() {
    let options: &[&str] = &["--copies", "2"];
    let [mut left, right] = [Cluster::start_with(2, options), Cluster::start_with(2, options)];
    let (before_left, before_right) = (texts("left", 300), texts("right", 300));
    publish_all(&left.nodes[0], QUEUE, &before_left);
    publish_all(&right.nodes[1], QUEUE, &before_right);
    let nodes: Vec<&Node> = left.nodes.iter().chain(&right.nodes).collect();
    let mut clients: Vec<_> = nodes.iter().map(|node| node.client()).collect();
    for client in &mut clients {
        client.subscribe("idle", "/queue/nothing-comes-here").unwrap();
    }

    let ticket = right.nodes[0].ticket();
    let told = left.nodes[1].ask("merge", &[&ticket, "--size", "3"]).expect("the merge");
    assert!(told.contains("one cluster: 4 nodes") && told.contains("policy 3"), "{told}");
    assert!(told.contains("waiting: 600 messages in 2 queues"), "{told}");
    await_all_alive(&nodes);
    let again = left.nodes[0].ask("merge", &[&ticket]).expect("once more");
    assert!(again.contains("one cluster already"), "{again}");
    let back = left.nodes[0].ticket();
    right.nodes[1].ask("merge", &[&back, "--json"]).expect("and from the other side");
    let own = right.nodes[1].ask("merge", &[&ticket]).expect_err("of its own network");
    assert!(own.contains("there is nothing to merge"), "{own}");

    // The connections of before serve the whole cluster now.
    let after = texts("after", 50);
    clients[3].send_all(QUEUE, after.iter().cloned(), |_| {}).expect("the old connection");
    clients.iter_mut().for_each(|client| client.sync().expect("the old connection"));
    let everything: BTreeSet<String> = before_left.iter().chain(&before_right).chain(&after).cloned().collect();
    let mut ledger = Ledger::default();
    consume_all(&left.nodes[0], QUEUE, &everything, &mut ledger);
    assert_eq!(ledger.duplicates(), 0, "nothing comes twice");
    assert_eq!(left.duplicates() + right.duplicates(), 0);
    eventually("equal digests and the members that were asked for", || {
        let states: Result<Vec<_>, String> = nodes.iter().map(|node| node.status()).collect();
        let states = states?;
        let members = |status: &serde_json::Value| {
            let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            nodes.iter().filter(|node| node["role"] == "member").count()
        };
        let settled = states.iter().all(|state| state["digest"] == states[0]["digest"] && members(state) == 3);
        if settled { Ok(()) } else { Err(states.iter().map(members).map(|n| n.to_string() + " ").collect::<String>()) }
    });
    for node in &nodes {
        let secret = |cluster: &Cluster| std::fs::read(cluster.nodes[0].setup.data.join("network.secret")).unwrap();
        for bytes in [secret(&left), secret(&right)] {
            let hex: String = bytes[bytes.len() / 2..].iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!node.log().contains(&hex[..16]), "no secret is in the log");
        }
        assert!(node.status().unwrap()["merging"].as_array().unwrap().is_empty());
    }
    drop(nodes);

    // A node that comes back knows both networks before it is asked for anything.
    left.nodes[1].kill();
    left.nodes[1].restart();
    await_all_alive(&left.nodes.iter().chain(&right.nodes).collect::<Vec<_>>());
}

/// Ids of all nodes that a node tells of, and of those that are members.
fn told(node: &Node) -> Result<(BTreeSet<String>, BTreeSet<String>), String> {
    let status = node.status()?;
    let nodes = status["nodes"].as_array().ok_or("no nodes in the status")?;
    let ids = |of: &dyn Fn(&serde_json::Value) -> bool| {
        nodes.iter().filter(|node| of(node)).map(|node| node["id"].as_str().unwrap_or_default().to_owned()).collect()
    };
    Ok((ids(&|_| true), ids(&|node| node["role"] == "member")))
}

fn await_more(load: &Load, more: usize) {
    let wanted = load.acked() + more;
    eventually("load", || if load.acked() >= wanted { Ok(()) } else { Err(format!("{} of {wanted}", load.acked())) });
}

#[test]
fn two_clusters_at_work_become_one_and_nothing_is_lost_or_comes_twice() {
    const BILLS: &str = "/queue/bills";
    let options: &[&str] = &["--copies", "2"];
    let [left, right] = [Cluster::start_with(2, options), Cluster::start_with(3, options)];
    let nodes: Vec<&Node> = left.nodes.iter().chain(&right.nodes).collect();
    let ids: BTreeSet<String> = nodes.iter().map(|node| node.id.clone()).collect();

    // Both clusters take orders and deliver them. Bills are taken by one of them and wait there; the other has who consumes
    // them, and its own that wait.
    let waiting = texts("waiting", 200);
    publish_all(&left.nodes[1], BILLS, &waiting);
    let (mut orders, mut bills) = (Load::new(QUEUE), Load::new(BILLS));
    for (cluster, side) in [(&left, "left"), (&right, "right")] {
        orders.produce(cluster.nodes[1].stomp, side);
        orders.consume(cluster.nodes[0].stomp);
    }
    bills.produce(left.nodes[0].stomp, "left");
    await_more(&orders, 300);
    bills.consume(right.nodes[2].stomp);

    let merged = left.nodes[0].ask("merge", &[&right.nodes[1].ticket(), "--size", "2"]).expect("the merge");
    assert!(merged.contains("one cluster: 5 nodes"), "{merged}");
    eventually("one cluster of two members, the same wherever one asks", || {
        let answers: Result<Vec<_>, String> = nodes.iter().map(|node| told(node)).collect();
        let answers = answers?;
        let is_right = |answer: &(BTreeSet<String>, BTreeSet<String>)| answer.0 == ids && answer.1.len() == 2;
        if is_right(&answers[0]) && answers.iter().all(|answer| *answer == answers[0]) {
            Ok(())
        } else {
            Err(format!("nodes and members: {answers:?}"))
        }
    });
    await_all_alive(&nodes);
    await_more(&orders, 300);
    await_more(&bills, waiting.len());

    let broken = orders.broken() + bills.broken();
    for (load, queue, before) in [(orders, QUEUE, BTreeSet::new()), (bills, BILLS, waiting)] {
        let (mut confirmed, mut ledger) = load.end();
        confirmed.extend(before);
        consume_all(nodes[4], queue, &confirmed, &mut ledger);
        // No node was away, so nobody dispatched what another one did.
        judge(&confirmed, &ledger, 0, None);
        for node in &nodes {
            eventually("an empty queue", || match node.depth(queue)? {
                0 => Ok(()),
                depth => Err(format!("{depth} waiting at {}", node.setup.name)),
            });
        }
    }
    assert_eq!(broken, 0, "clients lost their connections");
}

#[test]
fn a_merge_that_does_not_come_about_says_why_and_can_be_given_up() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let own = node.ask("merge", &[&node.ticket()]).expect_err("its own ticket");
    assert!(own.contains("a node of the other cluster"), "{own}");
    let damaged = node.ask("merge", &["rhizomq1-abcd"]).expect_err("no ticket");
    assert!(damaged.contains("copy it again"), "{damaged}");

    let dir = tempfile::tempdir().unwrap();
    let mut other = Node::start(Setup::new(dir.path(), "other"));
    let (ticket, id) = (other.ticket(), other.id.clone());
    other.kill();
    let unreachable = node.ask("merge", &[&ticket, "--wait", "1"]).expect_err("nobody is there");
    assert!(unreachable.contains("does not answer") && unreachable.contains(&id), "{unreachable}");
    assert!(node.ask("status", &[]).unwrap().contains("MERGING with node"));
    node.ask_in(&["node", "forget"], &[&id]).expect("given up");
    assert!(!node.ask("status", &[]).unwrap().contains("MERGING with node"));

    // Another network at that address, with the same key: the ticket is of no use there.
    std::fs::remove_file(dir.path().join("other/network.secret")).unwrap();
    std::fs::remove_dir_all(dir.path().join("other/store")).unwrap();
    other.restart();
    let refused = node.ask("merge", &[&ticket]).expect_err("another secret");
    assert!(refused.contains("not merged") && refused.contains("wrong network secret"), "{refused}");
    // With a ticket of now it works.
    node.ask("merge", &[&other.ticket()]).expect("the right ticket");
    await_all_alive(&[node, &other]);
}
