//! `bench stomp`: a broker as its clients see it, beside what the machine could do, and beside other brokers.
//!
//! A generator of our own, on our own codec, that treats every broker alike. It starts nodes for itself, or goes to
//! brokers that run already; it looks at every receipt and every message, and ends with an error if one is lost or
//! comes twice.

mod args;
mod cluster;
mod connection;
mod consumer;
mod figures;
mod latency;
mod limits;
mod plan;
mod plots;
mod progress;
mod report;
mod rounds;
mod send;
mod stamp;
mod subject;
mod table;
mod workloads;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::{Context, bail};
use rand::TryRng;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use self::args::StompArgs;
use self::{
    cluster::{Cluster, Setup},
    connection::Door,
    progress::Progress,
    rounds::Outcome,
    subject::Subject,
};
use crate::output::say;

/// What nodes of our own are called in the results.
const OWN: &str = "rhizomq";

/// Measures, and returns what is to be printed.
///
/// # Errors
/// Nothing could be measured; or a receipt or a message was lost or came twice: the figures are printed before that.
pub(super) fn run(args: &StompArgs) -> anyhow::Result<String> {
    args.check()?;
    let passcode = args.login.as_ref().map(|_| args.passcode.known()).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let login = args.login.clone().zip(passcode);
        tokio::select! {
            outcome = measure(args, login) => outcome,
            signal = interrupted() => bail!("{}: nothing of it is left behind", signal?),
        }
    });
    // Waits for what can't be given up half-way: nodes that are just being started end before this returns.
    drop(runtime);
    let outcome = done?;
    if let Some(dir) = &args.report {
        report::write(dir, args, &outcome)?;
    }
    let text = if args.json { json(args, &outcome).to_string() } else { table::text(args, &outcome) };
    let Some((first, others)) = outcome.problems.split_first() else { return Ok(text) };
    say(&text)?;
    let more = if others.is_empty() { String::new() } else { format!(" (and {} more)", others.len()) };
    bail!("not as it should be: {first}{more}");
}

/// Ctrl-C, or who ends us politely.
async fn interrupted() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done.map(|()| "interrupted").context("no signals"),
        _ = terminate.recv() => Ok("terminated"),
    }
}

type Login = (String, zeroize::Zeroizing<Vec<u8>>);

/// Starts what is to be started, and measures. Nodes of our own end with it, however it ends.
async fn measure(args: &StompArgs, login: Option<Login>) -> anyhow::Result<Outcome> {
    let progress = Progress::new();
    let mut subjects = Vec::new();
    let mut run = [0; 8];
    rand::rngs::SysRng.try_fill_bytes(&mut run).context("the system gives no random bytes")?;
    let subject = |name: &str, addresses: Vec<String>, login: Option<Login>| {
        Arc::new(Subject {
            name: name.to_owned(),
            addresses,
            door: Door { host: args.host.clone(), login, pulse: Arc::default() },
            queue: args.destination.clone(),
            topic: args.topic.clone(),
            send_headers: args.header.clone(),
            subscribe_headers: args.subscribe_header.clone(),
            run: u64::from_be_bytes(run),
            series: AtomicU64::new(0),
            patience: Duration::from_secs(args.patience),
            noise: super::noise(args.size.iter().copied().max().unwrap_or_default()),
        })
    };
    let mut own = None;
    if args.own_nodes() > 0 {
        progress.prepare("nodes are being started");
        let setup = Setup::of(args);
        // Not in the way of what waits for Ctrl-C.
        let cluster = tokio::task::spawn_blocking(move || Cluster::start(&setup)).await??;
        subjects.push(subject(OWN, cluster.addresses(), None));
        own = Some(cluster);
    }
    let brokers = args.broker.iter();
    subjects.extend(brokers.map(|broker| subject(&broker.name, broker.addresses.clone(), login.clone())));
    let outcome = rounds::run(args, &subjects, &progress).await;
    drop(own);
    Ok(outcome)
}

fn json(args: &StompArgs, outcome: &Outcome) -> serde_json::Value {
    json!({
        "nodes": args.own_nodes(), "copies": args.copies, "confirm": args.confirm,
        "brokers": args.broker.iter().map(|broker| json!({ "name": broker.name, "addresses": broker.addresses }))
            .collect::<Vec<_>>(),
        "rounds": args.rounds, "round_ms": args.round_ms, "backlog": args.backlog,
        "figures": outcome.figures, "problems": outcome.problems,
    })
}
