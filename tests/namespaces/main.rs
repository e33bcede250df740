//! Nodes in network namespaces of their own: links are cut in a router between them, and nobody is told.
//!
//! Each scenario runs under load, with a ledger of what was confirmed, delivered and acknowledged. They need root and
//! `ip`; elsewhere they say `SKIPPED`. They print how long things took; that is no verdict.

#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use support::{
    cluster::{Cluster, Ledger, alive, consume_all},
    eventually,
    hub::Hub,
    load::Load,
    node::Node,
    skipped,
};

const QUEUE: &str = "/queue/load";

fn hub(test: &str, number: u8, nodes: usize) -> Option<Hub> {
    Hub::new(number, nodes).map_err(|reason| skipped(test, &reason)).ok()
}

/// Nodes at these places of the router, of one network.
fn start(hub: &Hub, places: &[usize], args: &[&str]) -> Cluster {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut nodes: Vec<Node> = Vec::new();
    for &place in places {
        let mut setup = hub.setup(dir.path(), &format!("n{place}"), place).with(args);
        setup.join = nodes.first().map(Node::ticket);
        nodes.push(Node::start(setup));
    }
    let cluster = Cluster::of(nodes, dir);
    cluster.await_mesh();
    cluster
}

fn await_alive(nodes: &[Node], count: usize) -> Duration {
    let begun = Instant::now();
    for node in nodes {
        eventually("a view of who is alive", || match alive(node)? {
            seen if seen.len() == count => Ok(()),
            seen => Err(format!("{} sees {seen:?}", node.setup.name)),
        });
    }
    begun.elapsed()
}

fn await_load(load: &Load, more: usize) {
    let wanted = load.confirmed() + more;
    eventually("load", || match load.confirmed() {
        count if count >= wanted => Ok(()),
        count => Err(format!("{count} of {wanted}")),
    });
}

/// All that was confirmed has come, what came twice is marked, and all is consumed everywhere.
fn settle(cluster: &Cluster, load: Load) -> Ledger {
    let (confirmed, mut ledger) = load.end();
    consume_all(&cluster.nodes[0], QUEUE, &confirmed, &mut ledger);
    cluster.await_convergence();
    assert_eq!(ledger.missing(&confirmed), Vec::<&String>::new());
    let unmarked: Vec<_> = ledger.unmarked.iter().filter(|(_, count)| **count > 1).collect();
    assert!(unmarked.is_empty(), "second deliveries without the mark: {unmarked:?}");
    let fewer: BTreeSet<_> = ledger.deliveries.keys().filter(|text| !confirmed.contains(*text)).collect();
    println!(
        "{} confirmed, {} delivered without a receipt, {} delivered again",
        confirmed.len(),
        fewer.len(),
        ledger.duplicates()
    );
    ledger
}

/// Five nodes are cut into two sides under load, and heal.
fn cut(test: &str, number: u8, left: &[usize], right: &[usize]) {
    let Some(hub) = hub(test, number, 5) else { return };
    let mut cluster = start(&hub, &[0, 1, 2, 3, 4], &[]);
    // The sides are the first nodes and the others.
    let mut load = Load::new(QUEUE);
    for (place, node) in cluster.nodes.iter().enumerate() {
        load.produce(node.stomp, &format!("n{place}"));
    }
    load.consume(cluster.nodes[left[0]].stomp);
    load.consume(cluster.nodes[right[0]].stomp);
    await_load(&load, 500);

    hub.cut(left, right);
    let (here, there) = cluster.nodes.split_at(left.len());
    let apart = await_alive(here, left.len()).max(await_alive(there, right.len()));
    await_load(&load, 500);
    let healed = Instant::now();
    hub.heal(left, right);
    cluster.await_mesh();
    println!("{test}: apart after {apart:?}, one again after {:?}", healed.elapsed());
    await_load(&load, 300);
    let ledger = settle(&cluster, load);
    let counted = cluster.duplicates();
    assert!(ledger.duplicates() <= counted, "{} came again, {counted} are counted", ledger.duplicates());
    cluster.nodes.iter_mut().for_each(|node| assert!(node.is_running(), "{} has ended", node.setup.name));
}

#[test]
fn three_and_two_go_on_apart_and_lose_nothing() {
    cut("3|2", 0, &[0, 1, 2], &[3, 4]);
}

#[test]
fn four_and_one_go_on_apart_and_lose_nothing() {
    cut("4|1", 1, &[0, 1, 2, 3], &[4]);
}

#[test]
fn two_clusters_merge_over_the_router_under_load_and_no_connection_breaks() {
    let Some(hub) = hub("merge", 2, 4) else { return };
    let (left, right) = (start(&hub, &[0, 1], &["--copies", "2"]), start(&hub, &[2, 3], &["--copies", "2"]));
    let mut load = Load::new(QUEUE);
    let nodes: Vec<&Node> = left.nodes.iter().chain(&right.nodes).collect();
    nodes.iter().enumerate().for_each(|(place, node)| load.produce(node.stomp, &format!("n{place}")));
    nodes.iter().for_each(|node| load.consume(node.stomp));
    let mut idle: Vec<_> = nodes.iter().map(|node| node.client()).collect();
    await_load(&load, 300);
    let begun = Instant::now();
    left.nodes[0].ask("merge", &[&right.nodes[1].ticket(), "--size", "3"]).expect("the merge");
    println!("merge: one cluster after {:?}", begun.elapsed());
    await_load(&load, 300);
    idle.iter_mut().for_each(|client| client.sync().expect("the connection of before the merge"));
    assert_eq!(load.broken(), 0, "connections that the merge broke");
    drop(nodes);
    let (confirmed, mut ledger) = load.end();
    consume_all(&right.nodes[0], QUEUE, &confirmed, &mut ledger);
    assert_eq!(ledger.missing(&confirmed), Vec::<&String>::new());
}

#[test]
fn members_are_killed_under_load_and_observers_take_their_places() {
    let Some(hub) = hub("kills", 3, 5) else { return };
    let mut cluster = start(&hub, &[0, 1, 2, 3, 4], &[]);
    cluster.nodes[0].ask("size", &["3"]).expect("a policy");
    let members = |node: &Node| -> Result<BTreeSet<String>, String> {
        let status = node.status()?;
        let nodes = status["nodes"].as_array().ok_or("no nodes")?;
        let members = nodes.iter().filter(|entry| entry["role"] == "member" && entry["alive"] == true);
        Ok(members.map(|entry| entry["name"].as_str().unwrap_or_default().to_owned()).collect())
    };
    let three = |node: &Node| match members(node)? {
        names if names.len() == 3 => Ok(names),
        names => Err(format!("{names:?}")),
    };
    eventually("three members", || three(&cluster.nodes[0]));
    let mut load = Load::new(QUEUE);
    for (place, node) in cluster.nodes.iter().enumerate() {
        load.produce(node.stomp, &format!("n{place}"));
    }
    await_load(&load, 300);
    let mut running: BTreeSet<usize> = (0..5).collect();
    for _ in 0..2 {
        let witness = *running.first().expect("two are killed");
        let names = eventually("three members", || three(&cluster.nodes[witness]));
        let victim = cluster.nodes.iter().position(|node| names.contains(&node.setup.name)).expect("one of the five");
        let victim_name = cluster.nodes[victim].setup.name.clone();
        cluster.nodes[victim].kill();
        let killed = Instant::now();
        running.remove(&victim);
        // Clients of an observer whose member died have to connect again: that is part of it.
        let resumed = running.iter().map(|&index| {
            let name = &cluster.nodes[index].setup.name;
            eventually("confirmations from the others", || load.first_after(killed, name).ok_or("none yet"))
        });
        println!("kill: confirmations resume at the latest after {:?}", resumed.max().unwrap_or_default());
        let witness = &cluster.nodes[*running.first().expect("three are left")];
        eventually("a seat is taken", || match three(witness)? {
            names if !names.contains(&victim_name) => Ok(()),
            names => Err(format!("{names:?}")),
        });
        println!("kill: the seat is taken after {:?}", killed.elapsed());
        await_load(&load, 200);
    }
    (0..5).filter(|index| !running.contains(index)).for_each(|index| cluster.nodes[index].restart());
    cluster.await_mesh();
    settle(&cluster, load);
}
