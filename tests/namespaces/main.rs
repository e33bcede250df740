//! Nodes in network namespaces of their own: links are cut in a router between them, and nobody is told.
//!
//! Each scenario runs under load, with a ledger of what was confirmed, delivered and acknowledged. They need root and
//! `ip`; elsewhere they say `SKIPPED`. They print how long things took; that is no verdict, unless it
//! is far too long.

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
    load::{Load, judge},
    node::Node,
    skipped,
};

const QUEUE: &str = "/queue/load";

/// Three times what is wanted: until others confirm after a death, until all are linked after a heal, and until digests are
/// equal.
const RESUMED: Duration = Duration::from_secs(6);
const HEALED: Duration = Duration::from_secs(6);
const CONVERGED: Duration = Duration::from_secs(30);

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

/// A guard against hanging, far above what is to be: how long things really take, benches measure.
fn in_time(what: &str, took: Duration, most: Duration) {
    assert!(took <= most, "{what} took {took:?}");
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

/// Consumes the rest, and waits until all nodes are in the same state.
fn settle(cluster: &Cluster, load: Load) -> (BTreeSet<String>, Ledger) {
    let (confirmed, mut ledger) = load.end();
    consume_all(&cluster.nodes[0], QUEUE, &confirmed, &mut ledger);
    let begun = Instant::now();
    cluster.await_convergence();
    in_time("equal digests", begun.elapsed(), CONVERGED);
    (confirmed, ledger)
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

    let from = Instant::now();
    hub.cut(left, right);
    let in_flight = load.in_flight_since(from);
    let (here, there) = cluster.nodes.split_at(left.len());
    let apart = await_alive(here, left.len()).max(await_alive(there, right.len()));
    await_load(&load, 500);
    let healed = Instant::now();
    hub.heal(left, right);
    cluster.await_mesh();
    let to = Instant::now();
    println!("{test}: apart after {apart:?}, one again after {:?}", healed.elapsed());
    in_time("the heal", healed.elapsed(), HEALED);
    await_load(&load, 300);
    let (confirmed, ledger) = settle(&cluster, load);
    judge(&confirmed, &ledger, in_flight, Some((from, to)));
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
    let Cluster { nodes: of_left, dir: _left, .. } = left;
    let Cluster { nodes: of_right, dir, .. } = right;
    let one = Cluster::of(of_right.into_iter().chain(of_left).collect(), dir);
    let (confirmed, ledger) = settle(&one, load);
    // No link broke, so nothing was in flight over one.
    judge(&confirmed, &ledger, 0, None);
    assert_eq!(one.duplicates(), 0, "counted by the nodes");
    let sizes: BTreeSet<_> = one.nodes.iter().map(|node| members(node).expect("a status").len()).collect();
    assert_eq!(sizes, BTreeSet::from([3]), "members, as each node sees it");
}

/// The names of the members that are alive, as a node sees it.
fn members(node: &Node) -> Result<BTreeSet<String>, String> {
    let status = node.status()?;
    let nodes = status["nodes"].as_array().ok_or("no nodes")?;
    let members = nodes.iter().filter(|entry| entry["role"] == "member" && entry["alive"] == true);
    Ok(members.map(|entry| entry["name"].as_str().unwrap_or_default().to_owned()).collect())
}

#[test]
fn members_are_killed_under_load_and_observers_take_their_places() {
    let Some(hub) = hub("kills", 3, 5) else { return };
    let mut cluster = start(&hub, &[0, 1, 2, 3, 4], &[]);
    cluster.nodes[0].ask("size", &["3"]).expect("a policy");
    let three = |node: &Node| match members(node)? {
        names if names.len() == 3 => Ok(names),
        names => Err(format!("{names:?}")),
    };
    eventually("three members", || three(&cluster.nodes[0]));
    let mut load = Load::new(QUEUE);
    for (place, node) in cluster.nodes.iter().enumerate() {
        load.produce(node.stomp, &format!("n{place}"));
        load.consume(node.stomp);
    }
    await_load(&load, 300);
    let mut in_flight = 0;
    let mut running: BTreeSet<usize> = (0..5).collect();
    for _ in 0..2 {
        let witness = *running.first().expect("two are killed");
        let names = eventually("three members", || three(&cluster.nodes[witness]));
        let victim = cluster.nodes.iter().position(|node| names.contains(&node.setup.name)).expect("one of the five");
        let victim_name = cluster.nodes[victim].setup.name.clone();
        let begun = Instant::now();
        cluster.nodes[victim].kill();
        in_flight += load.handed_out_since(begun);
        let killed = Instant::now();
        running.remove(&victim);
        // Clients of an observer whose member died have to connect again: that is part of it.
        let resumed = running.iter().map(|&index| {
            let name = &cluster.nodes[index].setup.name;
            eventually("confirmations from the others", || load.first_after(killed, name).ok_or("none yet"))
        });
        let resumed = resumed.max().unwrap_or_default();
        println!("kill: confirmations resume at the latest after {resumed:?}");
        in_time("the first confirmation", resumed, RESUMED);
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
    let (confirmed, ledger) = settle(&cluster, load);
    judge(&confirmed, &ledger, in_flight, None);
}
