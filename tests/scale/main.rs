//! What membership and the registry cost with many nodes: messages and bytes while nothing happens, and how long it takes
//! until all agree when something did.
//!
//! `cargo test --release --test scale -- --ignored --nocapture` does it for up to 200 nodes in about a minute, and writes
//! `benches/scale.md` and `benches/scale.svg`. `RHIZOMQ_SCALE_NODES=5,50,1000` does it for other numbers; 500 take five
//! minutes, and 1,000 an hour. The other tests do it for a few, and hold the cost to its bound.

mod mesh;
mod plot;

use std::{fmt::Write as _, path::Path};

use mesh::Mesh;

/// Members of a cluster.
const SIZE: u32 = 5;

/// Milliseconds of quiet that are measured.
const QUIET_MS: u64 = 60_000;

/// What must happen happens within so many milliseconds.
const PATIENCE_MS: u64 = 120_000;

/// Around the table in the repository.
const HEAD: &str = "# Cost against the number of nodes

Each line is one simulated cluster, five members, linked each with each, under default timing; nobody publishes anything. Per node and
second of quiet: messages (summaries), datagrams (SWIM), bytes of both, without QUIC's own. Then: seconds until all nodes agree who
is a member, and hold equal registries, after a tenth of the nodes died at once, a member among them, and after two clusters
of half the size were merged; and what a node sent until then. No node keeps a segment: what those cost comes on top.

";
const FOOT: &str = "
![the same as curves](scale.svg)

Made by `RHIZOMQ_SCALE_NODES=5,10,20,50,100,200,500,1000 cargo test --release --test scale -- --ignored`.
";

/// What so many nodes cost.
struct Cost {
    nodes: usize,
    /// Sent by a node in a second of quiet: messages, datagrams, bytes of both.
    messages: f64,
    datagrams: f64,
    bytes: f64,
    /// Seconds until all agree: after a tenth died at once, after two halves met.
    failed: f64,
    merged: f64,
    /// Kilobytes that a node sent meanwhile.
    failed_kb: f64,
    merged_kb: f64,
}

fn measure(nodes: usize) -> Cost {
    // Two clusters, each of nodes that joined by a ticket of its first.
    let mut mesh = Mesh::new(nodes, SIZE);
    mesh.settle(PATIENCE_MS, "two halves");
    mesh.run_for(10_000);
    let sent = mesh.sent;
    let merged = mesh.merge_halves(PATIENCE_MS);
    let merged_kb = (mesh.sent - sent).bytes as f64 / nodes as f64 / 1e3;
    mesh.run_for(30_000);

    let sent = mesh.sent;
    mesh.run_for(QUIET_MS);
    let quiet = mesh.sent - sent;
    let per_node = |count: u64| count as f64 / nodes as f64 / (QUIET_MS as f64 / 1e3);

    let sent = mesh.sent;
    let failed = mesh.kill_a_tenth(PATIENCE_MS);
    let failed_kb = (mesh.sent - sent).bytes as f64 / nodes as f64 / 1e3;
    Cost {
        nodes,
        messages: per_node(quiet.messages),
        datagrams: per_node(quiet.datagrams),
        bytes: per_node(quiet.bytes),
        failed: failed as f64 / 1e3,
        merged: merged as f64 / 1e3,
        failed_kb,
        merged_kb,
    }
}

fn table(costs: &[Cost]) -> String {
    let mut table = String::from(
        "| nodes | messages/s | datagrams/s | bytes/s | a tenth dies: agreed after | sent meanwhile | two halves meet: agreed \
         after | sent meanwhile |\n|---|---|---|---|---|---|---|---|\n",
    );
    for cost in costs {
        let Cost { nodes, messages, datagrams, bytes, failed, merged, failed_kb, merged_kb } = cost;
        let _ = writeln!(
            table,
            "| {nodes} | {messages:.1} | {datagrams:.1} | {bytes:.0} | {failed:.1} s | {failed_kb:.1} kB | {merged:.1} s | {merged_kb:.1} kB |"
        );
    }
    table
}

/// However many there are, and also when all of them have something to tell at once.
#[test]
fn quiet_nodes_cost_each_other_little_however_many_there_are() {
    // Messages are summaries to some of the others, datagrams are SWIM's.
    for cost in [measure(20), measure(60)] {
        let Cost { nodes, messages, datagrams, bytes, .. } = cost;
        assert!(
            messages < 24.0 && datagrams < 8.0,
            "{nodes} nodes send {messages} messages, {datagrams} datagrams a second"
        );
        assert!(bytes < 3_000.0, "{nodes} nodes send {bytes} bytes a second");
    }
}

#[test]
#[ignore = "a minute: see the top of the file"]
fn the_table_of_costs() {
    let asked_for = std::env::var("RHIZOMQ_SCALE_NODES").unwrap_or_else(|_| "5,10,20,50,100,200".to_owned());
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    let mut costs = Vec::new();
    for nodes in asked_for.split(',').map(|nodes| nodes.trim().parse().expect("numbers, with commas between them")) {
        let started = std::time::Instant::now();
        costs.push(measure(nodes));
        println!("{nodes} nodes: simulated in {:.1} s", started.elapsed().as_secs_f64());
        // What is known by now is kept, should the next one take too long for somebody's patience.
        let table = table(&costs);
        let plot = plot::svg(&costs).expect("numbers can be drawn");
        std::fs::write(directory.join("scale.md"), format!("{HEAD}{table}{FOOT}"))
            .expect("the repository can be written");
        std::fs::write(directory.join("scale.svg"), plot).expect("the repository can be written");
    }
    print!("{}", table(&costs));
}
