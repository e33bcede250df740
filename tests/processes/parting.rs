//! A cluster of real processes that an operator parts into two under load, and makes one again.

use std::{
    collections::BTreeSet,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};

use crate::support::{
    cluster::{Cluster, Ledger, alive, consume_all, publish_all, texts},
    eventually,
    node::{Node, PROGRAM},
};

const QUEUE: &str = "/queue/load";

fn await_alive(nodes: &[&Node], count: usize) {
    for node in nodes {
        eventually("a part that sees itself alone", || match alive(node)? {
            seen if seen.len() == count => Ok(()),
            seen => Err(format!("{} sees {seen:?}", node.setup.name)),
        });
    }
}

fn depth(node: &Node) -> u64 {
    node.depth(QUEUE).expect("a status")
}

#[test]
fn five_nodes_are_parted_under_load_into_two_and_three_and_become_one_again() {
    let mut cluster = Cluster::start_with(5, &["--copies", "2"]);
    let refused = cluster.nodes[0].ask("split", &["--off", "west", "--nodes", "d,nobody"]).expect_err("nobody");
    assert!(refused.contains("no node is called `nobody`"), "{refused}");
    let refused = cluster.nodes[0].ask("split", &["--off", "west", "--nodes", "a,b,c,d,e"]).expect_err("all");
    assert!(refused.contains("both parts need a node"), "{refused}");
    let (of_staying, of_leaving) = (texts("staying", 400), texts("leaving", 300));
    publish_all(&cluster.nodes[0], QUEUE, &of_staying);
    publish_all(&cluster.nodes[3], QUEUE, &of_leaving);
    let plan = cluster.nodes[0].ask("split", &["--off", "west", "--nodes", "d,e", "--dry-run"]).expect("a plan");
    assert!(plan.contains("nothing is done yet\nleave: d, e\nstay:  a, b, c\n"), "{plan}");
    assert!(plan.contains(&format!("{QUEUE}: ")) && plan.contains("400 stay"), "{plan}");

    // Producers at all nodes, whose connections nothing happens to.
    let confirmed = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let produce = |(index, node): (usize, &Node)| {
        let (mut client, confirmed, stop) = (node.client(), confirmed.clone(), stop.clone());
        std::thread::spawn(move || {
            for number in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let text = format!("load-{index}-{number}");
                client.send_confirmed(QUEUE, text.as_bytes()).expect("the connection of before");
                confirmed.lock().unwrap().push((index, text));
            }
        })
    };
    let producers: Vec<_> = cluster.nodes.iter().enumerate().map(produce).collect();
    let told = cluster.nodes[1]
        .ask("split", &["--off", "west", "--nodes", "d,e", "--size", "1", "--timeout", "60"])
        .expect("the split");
    assert!(told.contains("`west` is a cluster of its own"), "{told}");
    // Told again, it is done already, on either side: whoever stayed does not know the others by name any more.
    for node in [1, 3] {
        let told =
            cluster.nodes[node].ask("split", &["--off", "west", "--nodes", "d,e", "--json"]).expect("it is done");
        let last: serde_json::Value = serde_json::from_str(told.lines().last().unwrap_or_default()).expect("an object");
        assert!(last["parted"] == true && last["already"] == true, "{told}");
    }
    let (staying, leaving): (Vec<&Node>, Vec<&Node>) =
        (cluster.nodes[..3].iter().collect(), cluster.nodes[3..].iter().collect());
    await_alive(&staying, 3);
    await_alive(&leaving, 2);
    stop.store(true, Ordering::Relaxed);
    producers.into_iter().for_each(|producer| producer.join().expect("the producer"));

    // A message went with the node that took it.
    let part = |leaves: bool, before: &BTreeSet<String>| -> BTreeSet<String> {
        let sent = confirmed.lock().unwrap();
        let sent = sent.iter().filter(|(index, _)| (*index >= 3) == leaves).map(|(_, text)| text.clone());
        sent.chain(before.iter().cloned()).collect()
    };
    let (stays, leaves) = (part(false, &of_staying), part(true, &of_leaving));
    let mut ledger = Ledger::default();
    consume_all(staying[2], QUEUE, &stays, &mut ledger);
    assert!(ledger.missing(&leaves).len() == leaves.len(), "a message of the other part was delivered here");
    eventually("the queue of those that stay is empty", || {
        let depths: Vec<_> = staying.iter().map(|node| depth(node)).collect();
        if depths.iter().all(|depth| *depth == 0) { Ok(()) } else { Err(format!("{depths:?}")) }
    });
    eventually("the part that left has a member, and copies of all", || {
        let status = leaving[1].status()?;
        let members =
            status["nodes"].as_array().map_or(0, |nodes| nodes.iter().filter(|node| node["role"] == "member").count());
        if members == 1 && status["under_replicated"] == 0 {
            Ok(())
        } else {
            Err(format!("{members} {}", status["under_replicated"]))
        }
    });
    drop((staying, leaving));

    // Its nodes start again as before, with the ticket of a network that they are of no more.
    cluster.nodes[4].kill();
    cluster.nodes[4].restart();
    cluster.nodes[2].kill();
    cluster.nodes[2].restart();
    await_alive(&[&cluster.nodes[3], &cluster.nodes[4]], 2);
    await_alive(&[&cluster.nodes[0], &cluster.nodes[2]], 3);

    // The wrong way round says what to do; the right way makes them one, and what waits is delivered anywhere.
    let ticket = cluster.nodes[4].ticket();
    assert_ne!(ticket, cluster.nodes[0].ticket());
    let wrong = cluster.nodes[3].ask("merge", &[&cluster.nodes[0].ticket(), "--wait", "2"]).expect_err("the wrong way");
    assert!(wrong.contains("on a node that stayed"), "{wrong}");
    cluster.nodes[0].ask("merge", &[&ticket]).expect("the right way");
    cluster.await_mesh();
    consume_all(&cluster.nodes[1], QUEUE, &leaves, &mut ledger);
    assert_eq!(ledger.duplicates(), 0, "nobody had received any of them twice");
    cluster.await_convergence();
    assert!(cluster.nodes[0].status().unwrap()["split_off"].as_array().unwrap().is_empty());
}

#[test]
fn a_split_that_waits_says_for_whom_and_is_taken_back_by_nobody_else() {
    let cluster = Cluster::start(3);
    let none = cluster.nodes[0].ask("split", &["--cancel"]).expect_err("there is none");
    assert!(none.contains("no split is under way"), "{none}");
    // A node that does not answer keeps everybody waiting.
    let [a, b, c] = [0, 1, 2].map(|index| &cluster.nodes[index]);
    c.signal("STOP");
    let waits = a.ask("split", &["--off", "x", "--nodes", "b", "--timeout", "0"]).expect_err("not yet");
    assert!(waits.contains("is not parted yet") && waits.contains(&c.id), "{waits}");
    eventually("only one is waited for", || {
        let waits_for = a.status()?["splitting"]["waits_for"].clone();
        if waits_for == serde_json::json!([c.id]) { Ok(()) } else { Err(waits_for.to_string()) }
    });
    let refused = a.ask("split", &["--cancel"]).expect_err("the other may be ready");
    assert!(refused.contains("ask a node that is not ready") && refused.contains(&c.id), "{refused}");
    assert!(b.ask("status", &[]).unwrap().contains("SPLITTING off `x`"));
    let waits = b.ask("split", &["--off", "x", "--nodes", "b", "--timeout", "0"]).expect_err("it is under way");
    assert!(waits.contains("is not parted yet"), "{waits}");
    c.signal("CONT");
    await_alive(&[a, c], 2);
    await_alive(&[b], 1);
    assert!(a.ask("status", &[]).unwrap().contains("split off from this cluster"));
}

/// Puts a backup in the place of a node's data. Its process must have ended.
fn restore(node: &Node, backup: &Path) {
    node.wipe();
    let args = ["restore", backup.to_str().unwrap(), "--data", node.setup.data.to_str().unwrap()];
    let output = Command::new(PROGRAM).args(args).output().expect("the program under test starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn strayed(node: &Node) -> Value {
    node.status().expect("a status")["strayed"].clone()
}

#[test]
fn a_node_restored_from_before_a_split_serves_nothing_until_it_has_found_its_part_and_then_nothing_old() {
    let mut cluster = Cluster::start_with(4, &["--copies", "2"]);
    let before = texts("before", 200);
    publish_all(&cluster.nodes[2], QUEUE, &before);
    let backup = cluster.dir.path().join("backup");
    cluster.nodes[2].ask("backup", &[backup.to_str().unwrap()]).expect("a backup");
    cluster.nodes[0].ask("split", &["--off", "west", "--nodes", "c,d", "--timeout", "60"]).expect("the split");
    await_alive(&[&cluster.nodes[2], &cluster.nodes[3]], 2);
    consume_all(&cluster.nodes[3], QUEUE, &before, &mut Ledger::default());
    eventually("all is consumed", || match (depth(&cluster.nodes[2]), depth(&cluster.nodes[3])) {
        (0, 0) => Ok(()),
        depths => Err(format!("{depths:?}")),
    });

    // Nobody of its part is there: those that it left tell it that it has.
    cluster.nodes[2].kill();
    cluster.nodes[3].kill();
    restore(&cluster.nodes[2], &backup);
    cluster.nodes[2].restart();
    eventually("it knows that it has strayed", || match strayed(&cluster.nodes[2]) {
        Value::Null => Err("it does not"),
        _ => Ok(()),
    });
    let told = strayed(&cluster.nodes[2]);
    assert_eq!((&told["name"], &told["lacks_secret"]), (&json!("west"), &json!(true)), "{told}");
    let status = cluster.nodes[2].ask("status", &[]).expect("a status");
    assert!(status.contains("STRAYED") && status.contains("rhizomq merge"), "{status}");
    let refused = cluster.nodes[2].client().send_confirmed(QUEUE, b"lost").expect_err("it takes nothing");
    assert!(refused.to_string().contains("left without it"), "{refused}");

    cluster.nodes[3].restart();
    await_alive(&[&cluster.nodes[2], &cluster.nodes[3]], 2);
    eventually("it has met its part", || match strayed(&cluster.nodes[2]) {
        Value::Null => Ok(()),
        told => Err(told.to_string()),
    });
    let after = texts("after", 50);
    publish_all(&cluster.nodes[2], QUEUE, &after);
    let mut ledger = Ledger::default();
    consume_all(&cluster.nodes[2], QUEUE, &after, &mut ledger);
    let strange: Vec<_> = ledger.deliveries.keys().filter(|body| !after.contains(*body)).collect();
    assert!(strange.is_empty(), "delivered again: {strange:?}");
    assert_eq!(depth(&cluster.nodes[2]), 0);
    await_alive(&[&cluster.nodes[0], &cluster.nodes[1]], 2);
}

#[test]
fn a_backup_from_between_order_and_cut_has_the_secret_of_the_part() {
    const NEXT: &str = "network.secret.next";
    let mut cluster = Cluster::start_with(4, &["--copies", "2"]);
    // A node that does not answer keeps everybody waiting.
    cluster.nodes[1].signal("STOP");
    let waits = cluster.nodes[0].ask("split", &["--off", "west", "--nodes", "c,d", "--timeout", "0"]);
    assert!(waits.expect_err("not yet").contains("is not parted yet"));
    let data = cluster.nodes[2].setup.data.clone();
    eventually("it has its part's secret", || if data.join(NEXT).exists() { Ok(()) } else { Err("not yet") });
    let backup = cluster.dir.path().join("backup");
    cluster.nodes[2].ask("backup", &[backup.to_str().unwrap()]).expect("a backup");
    cluster.nodes[1].signal("CONT");
    await_alive(&[&cluster.nodes[2], &cluster.nodes[3]], 2);
    eventually("the secret is in use", || if data.join(NEXT).exists() { Err("not yet") } else { Ok(()) });

    // Nobody is there who could give it to it.
    cluster.nodes[2].kill();
    cluster.nodes[3].kill();
    restore(&cluster.nodes[2], &backup);
    assert!(data.join(NEXT).exists());
    cluster.nodes[2].restart();
    eventually("it knows that it has strayed", || match strayed(&cluster.nodes[2]) {
        Value::Null => Err("it does not"),
        _ => Ok(()),
    });
    let told = strayed(&cluster.nodes[2]);
    assert_eq!(told["lacks_secret"], json!(false), "{told}");
    cluster.nodes[3].restart();
    await_alive(&[&cluster.nodes[2], &cluster.nodes[3]], 2);
    eventually("it has met its part", || match strayed(&cluster.nodes[2]) {
        Value::Null => Ok(()),
        told => Err(told.to_string()),
    });
}

#[test]
fn a_part_that_will_never_come_back_is_given_up_and_what_was_kept_of_it_is_delivered() {
    let mut cluster = Cluster::start_with(4, &["--copies", "4"]);
    let kept = texts("kept", 100);
    publish_all(&cluster.nodes[3], QUEUE, &kept);
    let number = |node: &Node, field: &str| node.status().map(|status| status[field].as_u64());
    eventually("a copy at every node", || match number(&cluster.nodes[3], "under_replicated")? {
        Some(0) => Ok(()),
        short => Err(format!("{short:?} are short of copies")),
    });
    // One that stays is away meanwhile.
    cluster.nodes[2].kill();
    await_alive(&[&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[3]], 3);
    cluster.nodes[0].ask("split", &["--off", "west", "--nodes", "d", "--timeout", "60"]).expect("the split");
    cluster.nodes[3].kill();
    cluster.nodes[2].restart();
    eventually("it has heard of the split", || match number(&cluster.nodes[2], "kept_of_split_off")? {
        Some(100) => Ok(()),
        other => Err(format!("{other:?} messages are kept")),
    });
    let refused = cluster.nodes[0].ask("split", &["--lost", "west"]).expect_err("it has answered when they parted");
    assert!(refused.contains("is not lost: node d "), "{refused}");
    let told = cluster.nodes[2].ask("split", &["--lost", "west"]).expect("given up");
    assert!(told.contains("`west`, with d (") && told.contains("100 messages"), "{told}");
    consume_all(&cluster.nodes[1], QUEUE, &kept, &mut Ledger::default());
    let refused = cluster.nodes[2].ask("split", &["--lost", "west"]).expect_err("it is done");
    assert!(refused.contains("no part was split off"), "{refused}");
}
