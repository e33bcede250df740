//! Nodes die, lose their disks, come back empty or old: no confirmed message is lost, none consumed returns.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use crate::support::{
    Chance, PATIENCE,
    cluster::{Cluster, Ledger, consume_all, publish_all, texts},
    eventually,
    node::{Node, Setup},
};

/// As many as the promise is shown with.
const MANY: usize = 10_000;

#[test]
fn ten_thousand_confirmed_messages_outlive_the_node_that_took_them_and_its_disk() {
    let mut cluster = Cluster::start(3);
    let wanted = texts("m", MANY);
    publish_all(&cluster.nodes[0], "/queue/orders", &wanted);
    cluster.nodes[0].kill();
    cluster.nodes[0].wipe();
    let mut ledger = Ledger::default();
    consume_all(&cluster.nodes[2], "/queue/orders", &wanted, &mut ledger);
    assert_eq!(ledger.duplicates(), 0, "nobody had received any of them before");
}

#[test]
fn a_node_that_returns_empty_loses_nothing_and_brings_nothing_back() {
    let mut cluster = Cluster::start(3);
    let wanted = texts("m", MANY);
    publish_all(&cluster.nodes[0], "/queue/orders", &wanted);
    let (early, late): (BTreeSet<String>, BTreeSet<String>) =
        wanted.iter().cloned().partition(|text| text < &format!("m-{:06}", MANY / 2));

    // In the order sent, so the first half is what the consumer gets and acknowledges.
    let mut before = Ledger::default();
    consume_all(&cluster.nodes[1], "/queue/orders", &early, &mut before);
    eventually("every node knows what was acknowledged", || {
        let depth = cluster.nodes[2].depth("/queue/orders")?;
        // The consumer may have been sent more than it acknowledged, never less.
        if depth == late.len() as u64 { Ok(()) } else { Err(format!("{depth} waiting at c")) }
    });

    cluster.nodes[0].kill();
    cluster.nodes[0].wipe();
    let ticket = cluster.nodes[1].ticket();
    cluster.nodes[0].setup.join = Some(ticket);
    cluster.nodes[0].restart();

    let mut after = Ledger::default();
    consume_all(&cluster.nodes[2], "/queue/orders", &late, &mut after);
    let back: Vec<&String> = after.deliveries.keys().filter(|text| early.contains(*text)).collect();
    assert!(back.is_empty(), "acknowledged and yet delivered again: {} such as {:?}", back.len(), back.first());
    eventually("the queue is empty everywhere", || {
        for node in &cluster.nodes {
            match node.depth("/queue/orders")? {
                0 => {}
                depth => return Err(format!("{depth} waiting at {}", node.setup.name)),
            }
        }
        Ok(())
    });
}

#[test]
fn killing_all_nodes_under_load_loses_no_confirmed_message() {
    let mut chance = Chance::new();
    let mut cluster = Cluster::start(3);
    let confirmed: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    for life in 0..3 {
        let stop = Arc::new(AtomicBool::new(false));
        let producers: Vec<_> = cluster.nodes.iter().map(|node| produce(node, life, &confirmed, &stop)).collect();
        // The moment is a number of confirmed messages, so that there is always something to lose.
        let moment = confirmed.lock().unwrap().len() + 200 + chance.below(3_000) as usize;
        eventually("load", || {
            let count = confirmed.lock().unwrap().len();
            if count >= moment { Ok(()) } else { Err(format!("{count} of {moment} confirmed")) }
        });
        for node in &mut cluster.nodes {
            node.kill();
        }
        stop.store(true, Ordering::Relaxed);
        for producer in producers {
            producer.join().expect("the producer");
        }
        for node in &mut cluster.nodes {
            node.restart();
        }
        cluster.await_mesh();
    }
    let confirmed = confirmed.lock().unwrap().clone();
    let mut ledger = Ledger::default();
    consume_all(&cluster.nodes[1], "/queue/load", &confirmed, &mut ledger);
    cluster.await_convergence();
}

/// A producer that sends until its node dies.
fn produce(node: &Node, life: u32, confirmed: &Arc<Mutex<BTreeSet<String>>>, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (mut client, name) = (node.client(), format!("{}-{life}", node.setup.name));
    let (confirmed, stop) = (confirmed.clone(), stop.clone());
    std::thread::spawn(move || {
        let texts = (0u64..).take_while(|_| !stop.load(Ordering::Relaxed)).map(|number| format!("{name}-{number}"));
        // Ends with an error when the node dies, as it is meant to.
        let _ = client.send_all("/queue/load", texts, |text| {
            confirmed.lock().unwrap().insert(text);
        });
    })
}

#[test]
fn acknowledgements_given_while_the_origin_is_dead_hold_when_it_returns() {
    let mut cluster = Cluster::start(3);
    let wanted = texts("m", 1_000);
    publish_all(&cluster.nodes[0], "/queue/work", &wanted);
    cluster.await_convergence();
    // A consumer that has messages in hand when the node dies that sent them.
    let mut holder = cluster.nodes[1].client();
    holder.subscribe("0", "/queue/work").unwrap();
    let held: Vec<_> = (0..20).map(|_| holder.next_frame(PATIENCE).unwrap()).collect();
    cluster.nodes[0].kill();
    for frame in &held {
        holder.ack(frame).unwrap();
    }
    holder.sync().unwrap();
    let held: BTreeSet<String> = held.iter().map(crate::support::stomp::Frame::text).collect();
    // It leaves; what it was sent and did not acknowledge goes to the next one, and nothing else a second time.
    drop(holder);
    let rest: BTreeSet<String> = wanted.difference(&held).cloned().collect();
    let mut ledger = Ledger::default();
    consume_all(&cluster.nodes[2], "/queue/work", &rest, &mut ledger);
    let back: Vec<&String> = held.iter().filter(|text| ledger.deliveries.contains_key(*text)).collect();
    assert!(back.is_empty(), "acknowledged and yet delivered again: {back:?}");

    cluster.nodes[0].restart();
    cluster.await_mesh();
    cluster.await_convergence();
    assert_eq!(cluster.nodes[0].depth("/queue/work"), Ok(0), "the returned origin must have learned of every ACK");
    // Had it not, these would be behind what it brings back.
    let last = texts("last", 1);
    publish_all(&cluster.nodes[0], "/queue/work", &last);
    let mut after = Ledger::default();
    consume_all(&cluster.nodes[0], "/queue/work", &last, &mut after);
    assert_eq!(after.deliveries.len(), 1, "{:?}", after.deliveries);
}

#[test]
fn a_wiped_node_and_one_restored_from_an_old_copy_return_and_converge() {
    let mut cluster = Cluster::start(3);
    let old = texts("old", 500);
    publish_all(&cluster.nodes[1], "/queue/work", &old);
    cluster.await_convergence();
    assert!(cluster.nodes[1].terminate().success());
    let backup = cluster.dir.path().join("backup");
    copy_dir(&cluster.nodes[1].setup.data, &backup);
    cluster.nodes[1].restart();
    cluster.await_mesh();

    // What the backup holds is consumed, and newer messages come: b's backup is behind in both ways.
    let mut ledger = Ledger::default();
    consume_all(&cluster.nodes[2], "/queue/work", &old, &mut ledger);
    let new = texts("new", 500);
    publish_all(&cluster.nodes[1], "/queue/work", &new);
    cluster.await_convergence();

    cluster.nodes[1].kill();
    cluster.nodes[1].wipe();
    copy_dir(&backup, &cluster.nodes[1].setup.data);
    cluster.nodes[1].restart();
    cluster.nodes[2].kill();
    cluster.nodes[2].wipe();
    cluster.nodes[2].setup.join = Some(cluster.nodes[0].ticket());
    cluster.nodes[2].restart();
    cluster.await_convergence();

    let newest = texts("newest", 100);
    publish_all(&cluster.nodes[1], "/queue/work", &newest);
    let wanted: BTreeSet<String> = new.union(&newest).cloned().collect();
    let mut after = Ledger::default();
    consume_all(&cluster.nodes[2], "/queue/work", &wanted, &mut after);
    let back: Vec<&String> = after.deliveries.keys().filter(|text| old.contains(*text)).collect();
    assert!(back.is_empty(), "consumed and yet delivered again: {back:?}");
    cluster.await_convergence();
}

#[test]
fn a_single_node_keeps_its_messages_over_kill_and_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(Setup::new(dir.path(), "alone"));
    let wanted = texts("m", 300);
    publish_all(&node, "/queue/q", &wanted);
    node.kill();
    node.restart();
    eventually("its former life's messages wait", || match node.depth("/queue/q")? {
        300 => Ok(()),
        depth => Err(format!("{depth} of 300")),
    });
    assert_eq!(node.terminate().code(), Some(0));
    node.restart();
    consume_all(&node, "/queue/q", &wanted, &mut Ledger::default());
    eventually("an empty queue", || match node.depth("/queue/q")? {
        0 => Ok(()),
        depth => Err(format!("{depth} waiting")),
    });
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn every_node_tells_of_all_messages_that_lack_copies() {
    let mut cluster = Cluster::start(3);
    publish_all(&cluster.nodes[0], "/queue/q", &texts("a", 5));
    publish_all(&cluster.nodes[1], "/queue/q", &texts("b", 6));
    cluster.await_convergence();
    cluster.nodes[2].kill();
    for node in &cluster.nodes[..2] {
        eventually("what either of the two looks after is counted", || {
            match node.status()?["under_replicated"].as_u64() {
                Some(11) => Ok(()),
                other => Err(format!("{} tells of {other:?}", node.setup.name)),
            }
        });
    }
}

#[test]
fn a_node_whose_disk_is_lost_can_be_forgotten() {
    let mut cluster = Cluster::start(2);
    let (gone, prefix) = (cluster.nodes[1].id.clone(), cluster.nodes[1].id[..12].to_owned());
    let node = |cluster: &Cluster, args: &[&str]| cluster.nodes[0].ask_in(&["node", "forget"], args);
    let refused = node(&cluster, &[&gone]).unwrap_err();
    assert!(refused.contains("is alive"), "{refused}");
    assert!(node(&cluster, &["abc"]).unwrap_err().contains("no node is called `abc`"));
    cluster.nodes[1].kill();
    // As the table of `status` shows it.
    eventually("it is taken for dead", || match node(&cluster, &[&prefix]) {
        Err(error) if error.contains("is alive") => Err(error),
        done => Ok(done.expect("forgotten")),
    });
    let status = eventually("one node is left", || {
        let status = cluster.nodes[0].status()?;
        let nodes = status["nodes"].as_array().map_or(0, Vec::len);
        if nodes == 1 { Ok(status) } else { Err(format!("{nodes} nodes")) }
    });
    assert_eq!(status["under_replicated"], 0);
    assert!(node(&cluster, &[&gone]).unwrap_err().contains("no node"));
    // It was only away: nothing is held against it.
    cluster.nodes[1].restart();
    eventually("it has joined anew", || {
        let status = cluster.nodes[0].status()?;
        let nodes = status["nodes"].as_array().map_or(0, Vec::len);
        if nodes == 2 { Ok(()) } else { Err(format!("{nodes} nodes")) }
    });
}
