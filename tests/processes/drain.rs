//! A node leaves for good under load: its process ends by itself, nothing confirmed is lost, and nobody waits for it.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::support::{
    cluster::{Cluster, Ledger, consume_all, publish_all, texts},
    eventually,
    node::PROGRAM,
    stomp::Client,
};

#[test]
fn one_of_three_drains_under_load_and_its_process_ends_by_itself() {
    let mut cluster = Cluster::start(3);
    let before = texts("before", 2_000);
    publish_all(&cluster.nodes[0], "/queue/load", &before);

    // Producers at all nodes; that of the draining node is told to go and stops.
    let confirmed: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| {
            let (mut client, name) = (node.client(), node.setup.name.clone());
            let (confirmed, stop) = (confirmed.clone(), stop.clone());
            std::thread::spawn(move || {
                for number in 0u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let text = format!("{name}-{number}");
                    if client.send_confirmed("/queue/load", text.as_bytes()).is_err() {
                        return;
                    }
                    confirmed.lock().unwrap().insert(text);
                }
            })
        })
        .collect();
    eventually("load", || {
        let count = confirmed.lock().unwrap().len();
        if count >= 300 { Ok(()) } else { Err(format!("{count} confirmed")) }
    });

    let admin = cluster.nodes[0].admin.to_string();
    let drained =
        Command::new(PROGRAM).args(["drain", "--timeout", "60", "--admin", &admin]).output().expect("it runs");
    let said = String::from_utf8_lossy(&drained.stdout).into_owned() + &String::from_utf8_lossy(&drained.stderr);
    assert!(drained.status.success(), "{said}\n{}", cluster.nodes[0].log());
    assert!(said.contains("handing over") && said.contains("has left"), "{said}");
    let status = cluster.nodes[0].await_end();
    assert_eq!(status.code(), Some(0), "{}", cluster.nodes[0].log());
    stop.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.join().expect("the producer");
    }

    let others = &cluster.nodes[1..];
    eventually("only two are known, and nothing lacks copies", || {
        for node in others {
            let status = node.status()?;
            let known = status["nodes"].as_array().map_or(0, Vec::len);
            if known != 2 || status["under_replicated"] != 0 {
                return Err(format!("{} knows {known}: {}", node.setup.name, status["under_replicated"]));
            }
        }
        Ok(())
    });
    let mut wanted = confirmed.lock().unwrap().clone();
    wanted.extend(before);
    let mut ledger = Ledger::default();
    consume_all(&cluster.nodes[1], "/queue/load", &wanted, &mut ledger);
    assert_eq!(ledger.duplicates(), 0, "nobody had received any of them before");

    // The directory starts again, as a node that holds nothing.
    cluster.nodes[0].restart();
    cluster.await_mesh();
    cluster.await_convergence();
}

#[test]
fn a_node_alone_says_why_it_can_not_leave_and_stays_when_told_to() {
    let cluster = Cluster::start(1);
    let admin = cluster.nodes[0].admin.to_string();
    publish_all(&cluster.nodes[0], "/queue/q", &texts("m", 10));
    let drain = |args: &[&str]| {
        let output = Command::new(PROGRAM).arg("drain").args(args).args(["--admin", &admin]).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let (code, said) = drain(&["--timeout", "1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no other node that stays") && said.contains("--cancel"), "{said}");
    let refused = Client::connect(cluster.nodes[0].stomp).map(|_| ()).expect_err("it takes no more clients");
    assert!(refused.to_string().contains("draining"), "{refused}");
    let (code, said) = drain(&["--cancel"]);
    assert_eq!(code, Some(0), "{said}");
    cluster.nodes[0].client().send_confirmed("/queue/q", b"x").expect("it takes messages again");
}
