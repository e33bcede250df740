//! Five nodes of which three are members: what clients of the observers send is kept by members, also when one is killed.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    cluster::{Cluster, Ledger, consume_all, publish_all, texts},
    eventually,
    stomp::Client,
};

/// For so long nothing has changed: nobody takes a seat any more, or leaves one.
const CALM: Duration = Duration::from_secs(8);

/// Ids of the members, once there are three and all nodes have told the same ones for a while.
fn members(cluster: &Cluster) -> BTreeSet<String> {
    let (mut told, mut since) = (BTreeSet::new(), Instant::now());
    eventually("three members that stay", || {
        let mut views = BTreeSet::new();
        for node in &cluster.nodes {
            let status = node.status()?;
            let nodes = status["nodes"].as_array().ok_or("no nodes")?;
            let members = nodes.iter().filter(|node| node["role"] == "member" && node["alive"] == true);
            views.insert(members.filter_map(|node| node["id"].as_str().map(str::to_owned)).collect::<BTreeSet<_>>());
        }
        if views != told {
            (told, since) = (views, Instant::now());
        }
        let is_calm = since.elapsed() >= CALM && told.len() == 1 && told.iter().all(|members| members.len() == 3);
        if is_calm { Ok(()) } else { Err(format!("{told:?}")) }
    });
    told.pop_first().unwrap_or_default()
}

#[test]
fn members_keep_what_clients_of_observers_send_and_a_killed_member_loses_nothing() {
    let mut cluster = Cluster::start(5);
    cluster.nodes[0].ask("size", &["3"]).expect("a policy");
    let seated = members(&cluster);
    let observers: Vec<usize> = (0..5).filter(|&index| !seated.contains(&cluster.nodes[index].id)).collect();
    let early = texts("early", 500);
    publish_all(&cluster.nodes[observers[0]], "/queue/early", &early);
    let mut client = cluster.nodes[observers[1]].client();
    client.subscribe("s", "/queue/early").unwrap();
    let first = client.next_frame(Duration::from_secs(20)).unwrap();
    let home = first.header("message-id").split('-').next().unwrap_or_default().to_owned();
    assert!(seated.contains(&home), "{} was kept by a member: {seated:?}", first.header("message-id"));
    // An acknowledgement and a message in one transaction.
    client.write("BEGIN", &[("transaction", "t")], b"").unwrap();
    client.write("ACK", &[("id", first.header("ack")), ("transaction", "t")], b"").unwrap();
    client.write("SEND", &[("destination", "/queue/next"), ("transaction", "t")], b"next").unwrap();
    client.write("COMMIT", &[("transaction", "t")], b"").unwrap();
    client.sync().unwrap();
    drop(client);
    let rest: BTreeSet<String> = early.iter().filter(|text| **text != first.text()).cloned().collect();
    let mut ledger = Ledger::default();
    consume_all(&cluster.nodes[observers[1]], "/queue/early", &rest, &mut ledger);
    assert!(!ledger.deliveries.contains_key(&first.text()), "it was acknowledged in the transaction");

    // Producers at both observers, which connect again when they are told to.
    let confirmed: Arc<Mutex<Vec<(Instant, String)>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = observers
        .iter()
        .map(|&index| {
            let (address, confirmed, stop) = (cluster.nodes[index].stomp, confirmed.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut client) = Client::connect(address) else { continue };
                    loop {
                        let text = format!("{index}-{number}");
                        number += 1;
                        if client.send_confirmed("/queue/load", text.as_bytes()).is_err() {
                            break;
                        }
                        confirmed.lock().unwrap().push((Instant::now(), text));
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                }
            })
        })
        .collect();
    // So many more of each producer.
    let await_more = |count: usize| {
        let of = |index: usize| {
            let confirmed = confirmed.lock().unwrap();
            confirmed.iter().filter(|(_, text)| text.starts_with(&format!("{index}-"))).count()
        };
        let wanted: Vec<_> = observers.iter().map(|&index| (index, of(index) + count)).collect();
        eventually("load", || {
            let short: Vec<_> = wanted.iter().filter(|(index, wanted)| of(*index) < *wanted).collect();
            if short.is_empty() { Ok(()) } else { Err(format!("{short:?} not yet")) }
        });
    };
    await_more(200);
    let victim = (0..5).find(|&index| cluster.nodes[index].id == home).expect("the member that kept the first");
    cluster.nodes[victim].kill();
    let killed = Instant::now();
    await_more(200);
    stop.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.join().expect("the producer");
    }
    let all = confirmed.lock().unwrap().clone();
    for index in &observers {
        let own = all.iter().filter(|(at, text)| *at > killed && text.starts_with(&format!("{index}-")));
        let mut last = killed;
        let pauses = own.map(|(at, _)| *at - std::mem::replace(&mut last, *at));
        println!("after the kill the longest pause of a client of observer {index} was {:?}", pauses.max());
    }
    let wanted: BTreeSet<String> = all.into_iter().map(|(_, text)| text).collect();
    consume_all(&cluster.nodes[observers[0]], "/queue/load", &wanted, &mut Ledger::default());
}

#[test]
fn the_size_is_the_median_of_what_the_nodes_propose() {
    // By default they propose as many as they keep copies: three.
    let cluster = Cluster::start_with(4, &["--propose", "2"]);
    let await_size = |size: u64| {
        for node in &cluster.nodes {
            eventually("the size", || match node.status()?["members"]["size"].as_u64() {
                Some(seen) if seen == size => Ok(()),
                seen => Err(format!("{seen:?}")),
            });
        }
    };
    await_size(4);
    cluster.nodes[1].ask("size", &["negotiate"]).expect("a policy");
    await_size(2);
}
