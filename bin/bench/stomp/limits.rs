//! The machine's limits, measured in the rounds of what they bound: the disk, TCP and QUIC over loopback.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use rhizomq_net::rim::{RimConfig, raw_round_trips};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{plan::Cell, workloads::fanout_window};
use crate::bench::limit::AppendFile;

/// Bytes that one append to the disk has at most, as a group commit might.
const COMMIT_BYTES: u64 = 16 << 20;

/// Bytes of an answer: a RECEIPT is about as long.
const ANSWER: usize = 32;

/// What is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// QUIC round trips whose median counts.
const ROUND_TRIPS: u32 = 200;

/// What the machine does at most, as far as that bounds a figure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// Messages a second that are appended to a file, with an fdatasync for as many as may be under way.
    pub(super) disk: Option<f64>,
    /// Messages a second over TCP on loopback, with a short answer each, the same number of them under way.
    pub(super) tcp: Option<f64>,
    /// Seconds that a message takes at least: an fdatasync, and a QUIC round trip where there are several nodes.
    pub(super) floor: Option<f64>,
}

/// Measures what bounds `cell`, each limit for so long.
///
/// # Errors
/// The directory can't be written to, or there is no socket to be had.
pub(super) async fn measure(
    cell: &Cell,
    (dir, has_several_nodes): (&Path, bool),
    noise: &Bytes,
    length: Duration,
) -> anyhow::Result<Limits> {
    let size = cell.size();
    let body = noise.slice(..size as usize);
    let mut limits = Limits::default();
    match *cell {
        Cell::Send { window, connections, .. } => {
            let under_way = u64::from(window) * u64::from(connections);
            let batch = under_way.min(COMMIT_BYTES / u64::from(size)).max(1);
            let (rate, p50) = disk(dir, &body, batch, length).await?;
            limits.disk = Some(rate);
            limits.tcp = Some(tcp(connections, window, size, length).await?);
            if under_way == 1 {
                limits.floor = Some(p50 + round_trip(has_several_nodes, size).await?);
            }
        }
        Cell::Consume { prefetch, consumers, .. } => {
            limits.tcp = Some(tcp(consumers, prefetch, size, length).await?);
        }
        Cell::Latency { .. } => {
            let (_, p50) = disk(dir, &body, 1, length).await?;
            limits.floor = Some(p50 + round_trip(has_several_nodes, size).await?);
        }
        Cell::Fanout { subscribers, .. } => {
            limits.tcp = Some(tcp(subscribers, fanout_window(size), size, length).await?)
        }
    }
    Ok(limits)
}

/// Messages a second, and the median of the seconds that a commit takes.
async fn disk(dir: &Path, body: &Bytes, batch: u64, length: Duration) -> anyhow::Result<(f64, f64)> {
    let (dir, bytes) = (dir.to_owned(), body.repeat(usize::try_from(batch)?));
    tokio::task::spawn_blocking(move || {
        let dir = crate::bench::scratch(&dir)?;
        let mut file = AppendFile::create(dir.path()).context("cannot create the file for the disk's limit")?;
        let start = Instant::now();
        let mut times = Vec::new();
        while start.elapsed() < length {
            let before = Instant::now();
            file.commit(&bytes)?;
            times.push(before.elapsed().as_secs_f64());
        }
        let rate = (times.len() as u64 * batch) as f64 / start.elapsed().as_secs_f64().max(1e-9);
        Ok((rate, crate::bench::figures::median(times)))
    })
    .await?
}

/// The median of the seconds that a message takes to another node and its confirmation back; 0 if there is none.
async fn round_trip(has_several_nodes: bool, size: u32) -> anyhow::Result<f64> {
    if !has_several_nodes {
        return Ok(0.0);
    }
    let max_mtu = RimConfig::new(([127, 0, 0, 1], 0).into(), rhizomq_engine::Epoch(0), "").max_mtu;
    let times = raw_round_trips(ROUND_TRIPS, size as usize, ANSWER, max_mtu).await?;
    Ok(crate::bench::figures::median(times.iter().map(Duration::as_secs_f64).collect()))
}

/// Messages a second over so many connections.
async fn tcp(connections: u32, window: u32, size: u32, length: Duration) -> anyhow::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("no socket on loopback")?;
    let address = listener.local_addr()?;
    // Dropped at the end, and all of them with it.
    let mut servers = JoinSet::new();
    servers.spawn(async move {
        let mut answering = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            answering.spawn(answer(stream, size as usize));
        }
    });
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push(TcpStream::connect(address).await?);
    }
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for stream in streams {
        clients.spawn(ask(stream, window as usize, size as usize, start + length));
    }
    let mut count = 0;
    while let Some(answers) = clients.join_next().await {
        count += answers??;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64().max(1e-9))
}

/// Sends messages of so many bytes until the time is over, and waits for all answers; how many there were.
async fn ask(mut stream: TcpStream, window: usize, size: usize, end: Instant) -> anyhow::Result<u64> {
    stream.set_nodelay(true)?;
    let zeros = vec![0; CHUNK];
    let mut buffer = vec![0; CHUNK];
    // Bytes of messages that were begun and not yet written; bytes of answers that have come.
    let (mut begun, mut unwritten, mut come) = (0_usize, 0_usize, 0_usize);
    loop {
        while begun - come / ANSWER < window && unwritten < CHUNK && Instant::now() < end {
            (begun, unwritten) = (begun + 1, unwritten + size);
        }
        if begun == come / ANSWER {
            return Ok(begun as u64);
        }
        let (mut read, mut write) = stream.split();
        tokio::select! {
            count = read.read(&mut buffer) => match count? {
                0 => anyhow::bail!("the other end of the TCP limit has gone"),
                count => come += count,
            },
            count = write.write(&zeros[..unwritten.min(CHUNK)]), if unwritten > 0 => unwritten -= count?,
        }
    }
}

/// Answers each message of so many bytes, until the other end closes.
async fn answer(mut stream: TcpStream, size: usize) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; CHUNK];
    let answers = vec![0; ANSWER * CHUNK];
    let mut rest = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => rest += count,
        }
        let messages = rest / size;
        rest %= size;
        stream.write_all(&answers[..messages * ANSWER]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_limit_that_bounds_a_cell_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let noise = Bytes::from(vec![1; 1_000]);
        let short = Duration::from_millis(5);
        let limits = |cell: Cell, several| {
            let (noise, dir) = (noise.clone(), dir.path().to_owned());
            async move { measure(&cell, (&dir, several), &noise, short).await.unwrap() }
        };
        let alone = limits(Cell::Send { window: 1, connections: 1, size: 1_000 }, true).await;
        assert!(alone.disk > Some(0.0) && alone.tcp > Some(0.0) && alone.floor > Some(0.0), "{alone:?}");
        let many = limits(Cell::Send { window: 100, connections: 3, size: 100 }, true).await;
        assert!(many.disk > Some(0.0) && many.tcp > Some(0.0) && many.floor.is_none(), "{many:?}");
        let fanout = limits(Cell::Fanout { subscribers: 3, size: 40 }, false).await;
        assert!(fanout.disk.is_none() && fanout.tcp > Some(0.0), "{fanout:?}");
        assert!(limits(Cell::Latency { rate: 1, size: 40, elsewhere: false }, false).await.floor > Some(0.0));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "what was written is deleted");
    }
}
