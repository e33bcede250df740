//! A cluster cut in two: both sides go on, and grow together when the cut heals.

use std::{collections::BTreeSet, time::Instant};

use crate::support::{
    cluster::{Cluster, Ledger, alive, consume_all, publish_all, texts},
    eventually,
    load::{Load, judge},
    stomp::Client,
};

const QUEUE: &str = "/queue/split";

#[test]
fn both_sides_of_a_cut_take_and_deliver_and_heal_into_one() {
    let cluster = Cluster::start_behind_relays(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    let before = texts("before", 200);
    publish_all(a, QUEUE, &before);
    cluster.await_convergence();

    cluster.cut(&[0, 1], &[2]);
    eventually("c is alone", || match alive(c)? {
        seen if seen.len() == 1 => Ok(()),
        seen => Err(format!("c sees {seen:?}")),
    });
    eventually("a and b are without c", || match (alive(a)?, alive(b)?) {
        (seen_a, seen_b) if seen_a.len() == 2 && seen_b.len() == 2 => Ok(()),
        seen => Err(format!("{seen:?}")),
    });

    // Both sides take messages, and each delivers what it took and what waited before the cut: nobody can know whether the
    // other side still does.
    let (left, right) = (texts("left", 200), texts("right", 200));
    publish_all(b, QUEUE, &left);
    publish_all(c, QUEUE, &right);
    let mut ledger = Ledger::default();
    let with_half = |texts: &BTreeSet<String>| before.iter().chain(texts.iter().take(100)).cloned().collect();
    consume_all(a, QUEUE, &with_half(&left), &mut ledger);
    let mut right_ledger = Ledger::default();
    consume_all(c, QUEUE, &with_half(&right), &mut right_ledger);
    ledger.absorb(right_ledger);

    cluster.heal(&[0, 1], &[2]);
    cluster.await_mesh();
    let everything: BTreeSet<String> = before.iter().chain(&left).chain(&right).cloned().collect();
    consume_all(b, QUEUE, &everything, &mut ledger);
    cluster.await_convergence();
    eventually("an empty queue everywhere", || {
        for node in &cluster.nodes {
            match node.depth(QUEUE)? {
                0 => {}
                depth => return Err(format!("{depth} waiting at {}", node.setup.name)),
            }
        }
        Ok(())
    });

    assert_eq!(ledger.missing(&everything), Vec::<&String>::new());
    let counted = cluster.duplicates();
    println!("delivered twice: {}, counted by the nodes: {counted}", ledger.duplicates());
    assert!(ledger.duplicates() >= before.len() as u64, "each side delivers what waited before the cut");
    assert!(ledger.duplicates() <= counted, "{} duplicates, only {counted} counted", ledger.duplicates());
    let unmarked = ledger.unmarked.iter().filter(|(_, count)| **count > 1);
    assert_eq!(unmarked.collect::<Vec<_>>(), vec![], "a second delivery without the mark");
    // What was sent during the cut waited on one side only, so it cannot have come twice.
    let twice = ledger.deliveries.iter().filter(|(text, count)| **count > 1 && !before.contains(*text));
    assert_eq!(twice.collect::<Vec<_>>(), vec![]);
}

#[test]
fn two_nodes_that_lost_each_other_alone_say_so_and_what_they_do_not_count() {
    let cluster = Cluster::start_behind_relays(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    publish_all(a, QUEUE, &texts("a", 3));
    publish_all(b, QUEUE, &texts("b", 4));
    cluster.await_convergence();
    eventually("all is counted", || if a.depth(QUEUE)? == 7 { Ok(()) } else { Err("not yet".to_owned()) });
    cluster.cut(&[0], &[1]);
    eventually("a has no link with b", || {
        let status = a.status()?;
        let of =
            |id: &str| status["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["id"] == id).cloned());
        match (of(&b.id), of(&c.id), of(&a.id)) {
            (Some(b), Some(c), Some(a)) if b["linked"] == false && c["linked"] == true && a["linked"] == true => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // Through c it goes on hearing that b runs.
    let cut_off = format!("NO LINK from this node to b ({})", b.id);
    eventually("the table says so", || {
        let table = a.ask("status", &[])?;
        if table.contains("no link") && table.contains(&cut_off) { Ok(()) } else { Err(table) }
    });
    let refused = a.ask_in(&["node", "forget"], &["b"]).expect_err("it runs");
    assert!(refused.contains("has no link with this one, but is alive"), "{refused}");
    let waits = a.ask("drain", &["--timeout", "0"]).expect_err("not yet");
    assert!(waits.contains(&format!("alive without a link to this node: b ({})", b.id)), "{waits}");
    assert!(!waits.contains("node forget"), "{waits}");
    a.ask("drain", &["--cancel"]).expect("it stays");
    cluster.heal(&[0], &[1]);
    eventually("a has its link again", || match a.ask("status", &[])? {
        table if table.contains("NO LINK") => Err(table),
        _ => Ok(()),
    });
}

#[test]
fn under_load_no_more_comes_twice_than_was_in_flight_at_the_cut() {
    let cluster = Cluster::start_behind_relays(3);
    let mut load = Load::new(QUEUE);
    for (place, node) in cluster.nodes.iter().enumerate() {
        load.produce(node.stomp, &format!("n{place}"));
    }
    [0, 2].into_iter().for_each(|place| load.consume(cluster.nodes[place].stomp));
    let await_more = |load: &Load, more: usize| {
        let wanted = load.acked() + more;
        eventually("load", || if load.acked() >= wanted { Ok(()) } else { Err(load.acked()) });
    };
    await_more(&load, 300);
    let from = Instant::now();
    cluster.cut(&[0, 1], &[2]);
    let in_flight = load.in_flight_since(from);
    for (node, count) in cluster.nodes.iter().zip([2, 2, 1]) {
        eventually("the cut is noticed", || match alive(node)? {
            seen if seen.len() == count => Ok(()),
            seen => Err(format!("{} sees {seen:?}", node.setup.name)),
        });
    }
    await_more(&load, 300);
    cluster.heal(&[0, 1], &[2]);
    cluster.await_mesh();
    let to = Instant::now();
    await_more(&load, 300);
    let (confirmed, mut ledger) = load.end();
    consume_all(&cluster.nodes[1], QUEUE, &confirmed, &mut ledger);
    cluster.await_convergence();
    judge(&confirmed, &ledger, in_flight, Some((from, to)));
    assert!(ledger.duplicates() <= cluster.duplicates(), "all are counted");
}

#[test]
fn a_consumer_that_vanishes_leaves_its_messages_to_the_next_one_marked() {
    let cluster = Cluster::start(2);
    let wanted = texts("m", 20);
    publish_all(&cluster.nodes[0], "/queue/work", &wanted);
    let mut first: Client = cluster.nodes[1].client();
    first.subscribe("0", "/queue/work").unwrap();
    let held: Vec<_> = (0..5).map(|_| first.next_frame(crate::support::PATIENCE).unwrap()).collect();
    drop(first);
    let mut ledger = Ledger::default();
    consume_all(&cluster.nodes[1], "/queue/work", &wanted, &mut ledger);
    for frame in held {
        let text = frame.text();
        assert!(!ledger.unmarked.contains_key(&text), "{text} came again without the mark");
    }
}
