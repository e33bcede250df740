//! One measurement of one thing at one broker: what is sent, who reads it, and whether all came once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use hdrhistogram::Histogram;
use tokio::{sync::Notify, task::JoinSet};

use super::{
    args::Ack,
    consumer::{Consumer, Goal, Wish},
    latency,
    plan::Cell,
    send::{Gate, Load, Stop, send},
    stamp::{Expected, Seen},
    subject::Subject,
};

/// SENDs under way where it is not that which is measured.
const WINDOW: u32 = 1_000;

/// ... and bytes of them.
const WINDOW_BYTES: u32 = 16 << 20;

/// Messages that a producer may be ahead of the slowest subscriber of its topic ...
const FANOUT_WINDOW: u32 = 100;

/// ... and bytes of them: few enough that no broker takes a subscriber for too slow.
const FANOUT_BYTES: u32 = 4 << 20;

/// What a consumer may hold where it is not that which is measured.
const PREFETCH: u32 = 200;

/// How much a measurement does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    /// How long producers send.
    pub(super) length: Duration,
    /// How many messages wait for consumers.
    pub(super) backlog: u64,
}

/// What came of a measurement.
#[derive(Debug)]
pub(super) struct Sample {
    /// Messages with a receipt.
    pub(super) sent: u64,
    /// Deliveries, the first of each message at each consumer.
    pub(super) received: u64,
    /// What the rate counts: messages sent, or deliveries.
    pub(super) events: u64,
    pub(super) elapsed: Duration,
    /// Nanoseconds: from SEND to receipt, or from when a message was due to its delivery.
    pub(super) times: Option<Histogram<u64>>,
    /// Nanoseconds by which the generator itself was late.
    pub(super) late: Option<Histogram<u64>>,
    /// What should not have happened.
    pub(super) problems: Vec<String>,
}

/// Does it once.
///
/// # Errors
/// The broker refuses or closes, or nothing comes any more.
pub(super) async fn measure(subject: &Arc<Subject>, cell: &Cell, amount: Amount) -> anyhow::Result<Sample> {
    match *cell {
        Cell::Send { window, connections, size } => sending(subject, (window, connections, size), amount).await,
        Cell::Consume { ack, prefetch, consumers, size, elsewhere } => {
            let destination = format!("{}.consume", subject.queue);
            let expected = subject.begin(size);
            let stop = Stop::Count(amount.backlog);
            let load = Load {
                destination: destination.clone(),
                connections: 1,
                window: window(size),
                expected,
                stop,
                gate: None,
            };
            let sent = send(subject, load).await?.count;
            let wish = Wish { destination: &destination, ack, prefetch };
            let address = subject.place(elsewhere);
            let (seen, elapsed) = drain(subject, address, wish, consumers, (expected, sent)).await?;
            let (received, problems) = (seen.count, seen.problems(sent));
            Ok(Sample { sent, received, events: received, elapsed, times: None, late: None, problems })
        }
        Cell::Latency { rate, size, elsewhere } => {
            latency::measure(subject, (rate, size, elsewhere), amount.length).await
        }
        Cell::Fanout { subscribers, size } => fanout(subject, subscribers, size, amount.length).await,
    }
}

/// How many bodies of a size may be under way.
fn window(size: u32) -> u32 {
    (WINDOW_BYTES / size).clamp(1, WINDOW)
}

/// How many bodies of a size a topic's producer may be ahead.
pub(super) fn fanout_window(size: u32) -> u32 {
    (FANOUT_BYTES / size).clamp(1, FANOUT_WINDOW)
}

/// Sends, and then takes out what was sent: that is not measured, but tells whether all is there.
async fn sending(
    subject: &Arc<Subject>,
    (window, connections, size): (u32, u32, u32),
    amount: Amount,
) -> anyhow::Result<Sample> {
    let destination = format!("{}.send", subject.queue);
    let expected = subject.begin(size);
    let stop = Stop::After(amount.length);
    let load = Load { destination: destination.clone(), connections, window, expected, stop, gate: None };
    let sent = send(subject, load).await?;
    let wish = Wish { destination: &destination, ack: Ack::Client, prefetch: PREFETCH };
    let (seen, _) = drain(subject, subject.first(), wish, 1, (expected, sent.count)).await?;
    Ok(Sample {
        sent: sent.count,
        received: seen.count,
        events: sent.count,
        elapsed: sent.elapsed,
        times: Some(sent.receipts),
        late: None,
        problems: seen.problems(sent.count),
    })
}

/// Some consumers take so many messages out of a queue. The time is from the first SUBSCRIBE until the last consumer has it
/// confirmed that it is done.
async fn drain(
    subject: &Arc<Subject>,
    address: &str,
    wish: Wish<'_>,
    consumers: u32,
    (expected, total): (Expected, u64),
) -> anyhow::Result<(Seen, Duration)> {
    let goal = Goal::new(Some(total));
    let state = || format!("{} of {total} messages never came", total.saturating_sub(goal.have()));
    subject.watch(drain_to(&goal, subject, address, wish, (consumers, expected)), state).await
}

async fn drain_to(
    goal: &Arc<Goal>,
    subject: &Arc<Subject>,
    address: &str,
    wish: Wish<'_>,
    (consumers, expected): (u32, Expected),
) -> anyhow::Result<(Seen, Duration)> {
    let mut open = Vec::new();
    for _ in 0..consumers {
        open.push(Consumer::open(subject, address, expected, wish).await?);
    }
    let start = Instant::now();
    let mut running = JoinSet::new();
    for consumer in open {
        let goal = Arc::clone(goal);
        running.spawn(async move { consumer.run(&goal, |_| {}).await });
    }
    let mut all = Seen::default();
    while let Some(seen) = running.join_next().await {
        all.merge(&seen.context("a consumer ended")??);
    }
    Ok((all, start.elapsed()))
}

/// One producer, many subscribers, each of whom gets everything; the slowest sets the pace.
async fn fanout(subject: &Arc<Subject>, subscribers: u32, size: u32, length: Duration) -> anyhow::Result<Sample> {
    let expected = subject.begin(size);
    let destination = format!("{}.fanout", subject.topic);
    let wish = Wish { destination: &destination, ack: Ack::Auto, prefetch: WINDOW };
    let moved = Arc::new(Notify::new());
    let opening = async {
        let mut open = Vec::new();
        for address in subject.addresses.iter().cycle().take(subscribers as usize) {
            let mut consumer = Consumer::open(subject, address, expected, wish).await?;
            consumer.subscribe().await?;
            open.push((consumer, Goal::telling(None, Arc::clone(&moved))));
        }
        Ok(open)
    };
    let open = subject.watch(opening, || "a subscription is not confirmed".to_owned()).await?;
    let goals: Vec<_> = open.iter().map(|(_, goal)| Arc::clone(goal)).collect();
    let start = Instant::now();
    let mut running = JoinSet::new();
    for (consumer, goal) in open {
        running.spawn(async move {
            let seen = consumer.run(&goal, |_| {}).await?;
            anyhow::Ok((seen, Instant::now()))
        });
    }
    let (window, stop) = (fanout_window(size), Stop::After(length));
    let gate = Some(Arc::new(Gate { subscribers: goals.clone(), ahead: u64::from(window), moved: Arc::clone(&moved) }));
    let load = Load { destination: destination.clone(), connections: 1, window, expected, stop, gate };
    let sent = send(subject, load).await?.count;
    goals.iter().for_each(|goal| goal.set_total(sent));
    let ending = async {
        let (mut received, mut elapsed, mut problems) = (0, Duration::ZERO, Vec::new());
        while let Some(done) = running.join_next().await {
            let (seen, end) = done.context("a subscriber ended")??;
            received += seen.count;
            elapsed = elapsed.max(end - start);
            problems.extend(seen.problems(sent).into_iter().map(|problem| format!("a subscriber: {problem}")));
        }
        Ok(Sample { sent, received, events: received, elapsed, times: None, late: None, problems })
    };
    let state = || {
        let (have, total) = (goals.iter().map(|goal| goal.have()).sum(), sent * u64::from(subscribers));
        format!("{} of {total} deliveries never came", total.saturating_sub(have))
    };
    subject.watch(ending, state).await
}
