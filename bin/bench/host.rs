//! One whole node for `bench replicate`: protocol, QUIC and disk store as in `serve`, without STOMP on top.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use bytes::Bytes;
use rhizomq_engine::{
    Batch, Engine, Entry, Epoch, NodeId, Now, Planted, Store, Unit,
    store::{DiskOptions, DiskStore},
};
use rhizomq_net::{
    CommitError, Event, Node, NodeConfig, Output, PublishId, SwimConfig, Timing,
    rim::{Identity, NetworkSecret, Rim, RimConfig, RimEvent, RimEvents},
};
use tokio::sync::mpsc;

/// What the benchmark tells a node.
pub(super) enum Order {
    /// Dial this peer.
    Dial(SocketAddr),
    /// Publish these messages, one by one; a [`Report::Confirmed`] follows when all are confirmed.
    Publish(Arc<[Entry]>),
}

/// What a node tells the benchmark.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// A peer is linked.
    Linked,
    /// The messages of the oldest unanswered [`Order::Publish`] are on as many disks, at least.
    Confirmed(u32),
    /// It can't go on.
    Failed(String),
}

/// How a commit went.
type Written = (u64, Result<(), String>);

/// A node, ready to run.
pub(super) struct Host {
    node: Node,
    rim: Rim,
    links: RimEvents,
    writer: std::sync::mpsc::Sender<(u64, Batch)>,
    written: mpsc::UnboundedReceiver<Written>,
    started: Instant,
    orders: mpsc::UnboundedReceiver<Order>,
    reports: mpsc::UnboundedSender<Report>,
    /// Publications under way, in groups as they were ordered, and the fewest copies of the group so far.
    under_way: Vec<(BTreeSet<PublishId>, u32)>,
    targets: Vec<(Option<NodeId>, Vec<SocketAddr>)>,
}

impl Host {
    /// Opens a node with its store in `dir`, on a free port of loopback. Returns it with its address.
    pub(super) fn open(
        dir: &Path,
        name: &str,
        secret: NetworkSecret,
        orders: mpsc::UnboundedReceiver<Order>,
        reports: mpsc::UnboundedSender<Report>,
    ) -> anyhow::Result<(Self, SocketAddr)> {
        let identity = Identity::generate()?;
        let (store, _) = DiskStore::open(dir.join(name), DiskOptions::default())?;
        let started = Instant::now();
        let now = now(started);
        // Fresh in this process is all that a node of a benchmark needs.
        let epoch = Epoch(u64::from_be_bytes(identity.node().0[..8].try_into()?));
        let (engine, _) = Engine::open(store.reader(), identity.node(), epoch, now, Planted::default())?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (rim, links) = Rim::open(RimConfig::new(listen, epoch, name), &identity, secret.clone())?;
        let address = rim.local_addr().context("the system does not tell the picked port")?;
        let config = NodeConfig {
            name: name.to_owned(),
            site: String::new(),
            network: secret.clone(),
            next_network: None,
            former_networks: Vec::new(),
            addresses: vec![address],
            copies: 2,
            confirm: 2,
            confirm_sites: 1,
            seed: epoch.0,
            timing: Timing::default(),
            swim: SwimConfig::default(),
            planted: Planted::default(),
        };
        let (writer, written) = start_writer(store);
        let node = Node::new(now, engine, config);
        let (under_way, targets) = (Vec::new(), Vec::new());
        let host = Self { node, rim, links, writer, written, started, orders, reports, under_way, targets };
        Ok((host, address))
    }

    /// Runs until the benchmark drops its end of the orders.
    pub(super) async fn run(mut self) {
        loop {
            self.carry_out();
            let wait = Duration::from_millis(self.node.deadline().saturating_sub(now(self.started).mono_ms));
            tokio::select! {
                Some(event) = self.links.recv() => {
                    self.handle_link(event);
                    // What else is there goes into the same commit.
                    for _ in 0..256 {
                        let Some(event) = self.links.try_recv() else { break };
                        self.handle_link(event);
                    }
                }
                Some((seq, result)) = self.written.recv() => {
                    if let Err(reason) = &result {
                        let _ = self.reports.send(Report::Failed(reason.clone()));
                    }
                    self.node.handle_committed(now(self.started), seq, result.map_err(CommitError::Refused));
                }
                order = self.orders.recv() => match order {
                    Some(order) => self.handle_order(order),
                    None => return,
                },
                () = tokio::time::sleep(wait) => self.node.handle_timeout(now(self.started)),
            }
        }
    }

    fn handle_order(&mut self, order: Order) {
        match order {
            Order::Dial(address) => {
                self.targets.push((None, vec![address]));
                self.rim.dial(self.targets.clone());
            }
            Order::Publish(entries) => {
                let now = now(self.started);
                let unit = |entry: &Entry| Unit { entries: vec![entry.clone()], removals: Vec::new() };
                let published = entries.iter().map(|entry| self.node.publish(now, unit(entry)));
                match published.collect() {
                    Ok(ids) => self.under_way.push((ids, u32::MAX)),
                    Err(error) => self.fail(&error),
                }
            }
        }
    }

    fn handle_link(&mut self, event: RimEvent) {
        let now = now(self.started);
        match event {
            RimEvent::LinkUp { link, hello, .. } => self.node.handle_link_up(now, link, hello),
            RimEvent::LinkDown { link, .. } => self.node.handle_link_down(now, link),
            RimEvent::Message { link, bytes } => self.node.handle_message(now, link, bytes),
            RimEvent::Datagram { link, bytes } => self.node.handle_datagram(now, link, bytes),
            RimEvent::Refused(refused) => self.fail(&refused),
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { link, bytes } => self.rim.send(link, bytes),
                Output::Datagram { link, bytes } => self.rim.datagram(link, bytes),
                Output::Close { link, reason } => self.rim.close(link, reason),
                Output::Commit { seq, batch } => self.write(seq, batch),
                // The one other node is dialled by order.
                _ => {}
            }
        }
        while let Some(event) = self.node.poll_event() {
            match event {
                Event::LinkUp(_) => self.report(Report::Linked),
                Event::LinkDown(_) => self.fail(&"the link between the nodes broke"),
                Event::Rejected { reason, .. } => self.fail(&reason),
                Event::Confirmed { publish, copies } => {
                    for (group, fewest) in &mut self.under_way {
                        if group.remove(&publish) {
                            *fewest = copies.min(*fewest);
                            break;
                        }
                    }
                }
                _ => {}
            }
        }
        while self.under_way.first().is_some_and(|(group, _)| group.is_empty()) {
            let (_, copies) = self.under_way.remove(0);
            self.report(Report::Confirmed(copies));
        }
    }

    fn write(&self, seq: u64, batch: Batch) {
        if self.writer.send((seq, batch)).is_err() {
            self.fail(&"the writer is gone");
        }
    }

    fn fail(&self, reason: &dyn std::fmt::Display) {
        self.report(Report::Failed(reason.to_string()));
    }

    fn report(&self, report: Report) {
        // The benchmark may be over already.
        let _ = self.reports.send(report);
    }
}

/// The writer thread: one commit after the other, checkpoints when the store wants one.
fn start_writer(mut store: DiskStore) -> (std::sync::mpsc::Sender<(u64, Batch)>, mpsc::UnboundedReceiver<Written>) {
    let (send, commits) = std::sync::mpsc::channel::<(u64, Batch)>();
    let (done, written) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for (seq, batch) in commits {
            let result = store.commit(&[batch]).map_err(|error| error.to_string());
            let _ = done.send((seq, result));
            if store.wants_checkpoint()
                && let Err(error) = store.checkpoint()
            {
                let _ = done.send((seq, Err(error.to_string())));
            }
        }
    });
    (send, written)
}

fn now(started: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { mono_ms: started.elapsed().as_millis() as u64, wall_ms: wall.as_millis() as u64 }
}

/// The same message as often as `batch` says.
pub(super) fn entries(batch: u32, size: u32) -> Arc<[Entry]> {
    let head = Bytes::from_static(b"destination:/queue/bench\ncontent-type:text/plain\n");
    let entry = Entry { inboxes: vec!["/queue/bench".to_owned()], head, body: super::noise(size), persistent: true };
    vec![entry; batch as usize].into()
}
