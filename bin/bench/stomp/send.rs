//! Producers that send as fast as their window lets them, a receipt for each SEND.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use rhizomq_stomp::frame::{Command, Frame};
use tokio::{sync::Notify, task::JoinSet};

use super::{
    connection::Connection,
    consumer::Goal,
    figures::histogram,
    stamp::{Expected, Stamp},
    subject::Subject,
};

/// When producers stop.
#[derive(Clone, Copy)]
pub(super) enum Stop {
    After(Duration),
    Count(u64),
}

/// What is to be sent.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) destination: String,
    pub(super) connections: u32,
    /// SENDs of a connection that may be without their receipts.
    pub(super) window: u32,
    pub(super) expected: Expected,
    pub(super) stop: Stop,
    pub(super) gate: Option<Arc<Gate>>,
}

/// Lets a producer be only so many messages ahead of the slowest of those who get all of them: a broker may leave out who is
/// too far behind with a topic, and that is not what is measured.
pub(super) struct Gate {
    pub(super) subscribers: Vec<Arc<Goal>>,
    pub(super) ahead: u64,
    /// What the subscribers' goals tell.
    pub(super) moved: Arc<Notify>,
}

impl Gate {
    fn is_open(&self, number: u64) -> bool {
        let slowest = self.subscribers.iter().map(|goal| goal.have()).min();
        slowest.is_none_or(|have| number < have + self.ahead)
    }
}

/// What came of it.
pub(super) struct Sent {
    pub(super) count: u64,
    /// From the first SEND to the last receipt.
    pub(super) elapsed: Duration,
    /// From a SEND to its receipt, in nanoseconds.
    pub(super) receipts: Histogram<u64>,
}

/// Sends all, and waits for all receipts.
///
/// # Errors
/// A receipt comes twice, never, or was not asked for; the broker says ERROR, or closes.
pub(super) async fn send(subject: &Arc<Subject>, load: Load) -> anyhow::Result<Sent> {
    let counts = Arc::new(Counts::default());
    let state = || {
        let Counts { begun, answered } = &*counts;
        let (begun, answered) = (begun.load(Ordering::Relaxed), answered.load(Ordering::Relaxed));
        match begun.saturating_sub(answered) {
            0 => format!("all {begun} receipts came, but a subscriber lacks messages"),
            missing => format!("{missing} of {begun} receipts never came"),
        }
    };
    subject.watch(send_all(subject, load, &counts), state).await
}

/// Over all connections.
#[derive(Default)]
struct Counts {
    begun: AtomicU64,
    answered: AtomicU64,
}

async fn send_all(subject: &Arc<Subject>, load: Load, counts: &Arc<Counts>) -> anyhow::Result<Sent> {
    let mut connections = Vec::new();
    for _ in 0..load.connections {
        connections.push(Connection::open(subject.first(), &subject.door).await?);
    }
    let start = Instant::now();
    let mut producers = JoinSet::new();
    for connection in connections {
        let (subject, load, counts) = (Arc::clone(subject), load.clone(), Arc::clone(counts));
        producers.spawn(produce(connection, subject, load, counts, start));
    }
    let mut sent = Sent { count: 0, elapsed: Duration::ZERO, receipts: histogram() };
    let mut idle = Vec::new();
    while let Some(done) = producers.join_next().await {
        let (asked, end, connection) = done.context("a producer ended")??;
        sent.count += asked.count();
        sent.elapsed = sent.elapsed.max(end - start);
        sent.receipts.add(&asked.times).context("times of receipts")?;
        idle.push(connection);
    }
    for connection in idle {
        connection.close().await?;
    }
    Ok(sent)
}

async fn produce(
    mut connection: Connection,
    subject: Arc<Subject>,
    load: Load,
    counts: Arc<Counts>,
    start: Instant,
) -> anyhow::Result<(Receipts, Instant, Connection)> {
    let mut receipts = Receipts::new();
    let mut goes_on = true;
    loop {
        while goes_on && receipts.waiting() < u64::from(load.window) && !connection.is_full() {
            let begun = counts.begun.load(Ordering::Relaxed);
            let is_closed = load.gate.as_ref().is_some_and(|gate| !gate.is_open(begun));
            let more = match load.stop {
                Stop::After(time) if start.elapsed() >= time => None,
                _ if is_closed => break,
                Stop::After(_) => Some(u64::MAX),
                Stop::Count(count) => Some(count),
            };
            // Several connections share the numbers: each message has one of its own, and none is left out.
            let next = |number| (number < more?).then_some(number + 1);
            let number = counts.begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok();
            goes_on = number.is_some();
            if let Some(number) = number {
                let stamp = load.expected.stamp(number, Duration::ZERO);
                put(&mut connection, &subject, &load.destination, &mut receipts, stamp, load.expected.size);
            }
        }
        if receipts.waiting() == 0 && !goes_on {
            return Ok((receipts, Instant::now(), connection));
        }
        let moved = async {
            match &load.gate {
                Some(gate) => gate.moved.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            turn = connection.turn() => turn?,
            () = moved => {}
        }
        while let Some(frame) = connection.frame()? {
            receipts.take(&frame)?;
            counts.answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Queues the SEND of a message.
pub(super) fn put(
    connection: &mut Connection,
    subject: &Subject,
    destination: &str,
    receipts: &mut Receipts,
    stamp: Stamp,
    size: u32,
) {
    let noise = &subject.noise[..size as usize];
    let receipt = receipts.ask();
    connection.put_send(destination, &receipt, &subject.send_headers, (size, |out| stamp.put(noise, out)));
}

/// Receipts that were asked for, by their numbers, and how long they took.
pub(super) struct Receipts {
    /// When; `None` once it has come.
    asked: Vec<Option<Instant>>,
    come: u64,
    /// In nanoseconds.
    pub(super) times: Histogram<u64>,
}

impl Receipts {
    pub(super) fn new() -> Self {
        Self { asked: Vec::new(), come: 0, times: histogram() }
    }

    /// How many were asked for.
    pub(super) fn count(&self) -> u64 {
        self.asked.len() as u64
    }

    /// How many have not come.
    pub(super) fn waiting(&self) -> u64 {
        self.count() - self.come
    }

    fn ask(&mut self) -> String {
        self.asked.push(Some(Instant::now()));
        (self.asked.len() - 1).to_string()
    }

    /// Takes one in.
    ///
    /// # Errors
    /// It is none, or none that is waited for.
    pub(super) fn take(&mut self, frame: &Frame) -> anyhow::Result<()> {
        let id = frame.headers.get("receipt-id").filter(|_| frame.command == Command::Receipt);
        let Some(entry) = id.and_then(|id| self.asked.get_mut(id.parse::<usize>().ok()?)) else {
            bail!("not asked for: {frame:?}");
        };
        let Some(asked) = entry.take() else { bail!("a receipt came twice: {frame:?}") };
        self.times.saturating_record(u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX));
        self.come += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_opens_when_the_slowest_has_moved() {
        let subscribers = vec![Goal::new(None), Goal::new(None)];
        let gate = Gate { subscribers: subscribers.clone(), ahead: 2, moved: Arc::default() };
        assert!(gate.is_open(1) && !gate.is_open(2));
        subscribers[0].add(9);
        assert!(!gate.is_open(2), "the other one has nothing yet");
        subscribers[1].add(1);
        assert!(gate.is_open(2) && !gate.is_open(3));
    }

    #[test]
    fn each_receipt_comes_once() {
        let receipt = |id: &str| Frame::new(Command::Receipt, [("receipt-id", id)]);
        let mut receipts = Receipts::new();
        assert_eq!((receipts.ask().as_str(), receipts.ask().as_str()), ("0", "1"));
        assert!(receipts.take(&receipt("1")).is_ok());
        assert_eq!((receipts.count(), receipts.waiting()), (2, 1));
        assert!(receipts.take(&receipt("1")).unwrap_err().to_string().contains("twice"));
        assert!(receipts.take(&receipt("2")).is_err() && receipts.take(&receipt("x")).is_err());
        assert!(receipts.take(&Frame::new(Command::Message, [("receipt-id", "0")])).is_err());
    }
}
