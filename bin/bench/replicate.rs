//! `bench replicate`: messages confirmed on two disks, from node to node over loopback QUIC, beside a raw QUIC stream and
//! the disk's limit.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rhizomq_net::rim::{NetworkSecret, RimConfig, raw_stream_throughput};
use tokio::sync::mpsc;

use super::{
    BenchArgs,
    figures::{Figure, Sample, Series},
    host::{Host, Order, Report, entries},
    limit::AppendFile,
    noise,
};

/// What is measured, then its limits.
const THINGS: [&str; 3] = [
    "two nodes, confirmed when synced on both",
    "limit: raw QUIC stream, bodies only",
    "limit: append the bodies + fdatasync per batch",
];
/// Groups published ahead of the confirmations: while one is on its way, the next is written.
const AHEAD: usize = 4;
/// What a raw stream is fed with at once, in bytes.
const CHUNK: usize = 64 << 10;
/// Least bytes over the raw stream: fewer would measure how a connection begins.
const RAW_BYTES: u64 = 16 << 20;
/// Two nodes of one process that do not link or confirm in this time never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures every batch size of `args`.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut figures = Vec::new();
        for &batch in &args.batch {
            figures.extend(measure(args, batch).await?.figures());
        }
        Ok(figures)
    })
}

async fn measure(args: &BenchArgs, batch: u32) -> anyhow::Result<Series> {
    let dir = super::scratch(&args.dir)?;
    let mut pair = Pair::start(dir.path(), batch, args.size).await?;
    let mut limit = AppendFile::create(dir.path()).context("cannot create the file for the disk's limit")?;
    let bytes = noise(batch * args.size);
    let mut series = Series::new(batch, &THINGS);
    let round = Duration::from_millis(args.round_ms);
    // Segments are placed and congestion windows opened before anything counts.
    pair.replicate(round).await?;
    for _ in 0..args.rounds {
        let ours = pair.replicate(round).await?;
        series.things[0].1.push(ours);
        let config = RimConfig::new(([127, 0, 0, 1], 0).into(), rhizomq_engine::Epoch(0), "");
        let body_bytes = ours.body_bytes.max(RAW_BYTES);
        let elapsed = raw_stream_throughput(body_bytes, CHUNK, config.max_mtu).await?;
        series.things[1].1.push(Sample { messages: body_bytes / u64::from(args.size), body_bytes, elapsed, p50: None });
        let start = Instant::now();
        let mut commits = 0;
        while start.elapsed() < round {
            limit.commit(&bytes)?;
            commits += 1;
        }
        let messages = commits * u64::from(batch);
        let body_bytes = messages * u64::from(args.size);
        series.things[2].1.push(Sample { messages, body_bytes, elapsed: start.elapsed(), p50: None });
    }
    Ok(series)
}

/// Two linked nodes; the first one is told what to do.
struct Pair {
    orders: mpsc::UnboundedSender<Order>,
    reports: mpsc::UnboundedReceiver<Report>,
    /// The second node runs as long as this lives.
    _second: mpsc::UnboundedSender<Order>,
    entries: std::sync::Arc<[rhizomq_engine::Entry]>,
    batch: u32,
    size: u32,
}

impl Pair {
    async fn start(dir: &std::path::Path, batch: u32, size: u32) -> anyhow::Result<Self> {
        let secret = NetworkSecret::generate()?;
        let (orders, first_orders) = mpsc::unbounded_channel();
        let (second, second_orders) = mpsc::unbounded_channel();
        let (first_reports, reports) = mpsc::unbounded_channel();
        // What the second one has to say, the first one notices.
        let (second_reports, _) = mpsc::unbounded_channel();
        let (host, _) = Host::open(dir, "first", secret.clone(), first_orders, first_reports)?;
        let (other, address) = Host::open(dir, "second", secret, second_orders, second_reports)?;
        tokio::spawn(host.run());
        tokio::spawn(other.run());
        let mut pair = Self { orders, reports, _second: second, entries: entries(batch, size), batch, size };
        pair.order(Order::Dial(address))?;
        while pair.report().await? != Report::Linked {}
        // Until the second node is known as a holder, confirmations come from one disk.
        let start = Instant::now();
        loop {
            pair.order(Order::Publish(entries(1, size)))?;
            match pair.report().await? {
                Report::Confirmed(copies) if copies >= 2 => return Ok(pair),
                _ => ensure!(start.elapsed() < PATIENCE, "the second node never became a holder"),
            }
        }
    }

    /// Publishes group after group until the time is over, then waits for the last confirmation.
    async fn replicate(&mut self, round: Duration) -> anyhow::Result<Sample> {
        let start = Instant::now();
        let (mut sent, mut confirmed) = (0, 0);
        while start.elapsed() < round || confirmed < sent {
            while start.elapsed() < round && sent - confirmed < AHEAD {
                self.order(Order::Publish(self.entries.clone()))?;
                sent += 1;
            }
            if confirmed < sent {
                match self.report().await? {
                    Report::Confirmed(copies) => ensure!(copies >= 2, "confirmed on one disk only"),
                    other => bail!("unexpected: {other:?}"),
                }
                confirmed += 1;
            }
        }
        let messages = sent as u64 * u64::from(self.batch);
        Ok(Sample { messages, body_bytes: messages * u64::from(self.size), elapsed: start.elapsed(), p50: None })
    }

    fn order(&self, order: Order) -> anyhow::Result<()> {
        self.orders.send(order).ok().context("the first node has ended")
    }

    async fn report(&mut self) -> anyhow::Result<Report> {
        let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        match report.context("the nodes are stuck")?.context("the first node has ended")? {
            Report::Failed(reason) => bail!(reason),
            report => Ok(report),
        }
    }
}
