//! From end to end at a fixed offered rate. A message's time runs from when it was *due*, not from when the generator got
//! round to sending it: a broker that makes its producers wait can't hide that (no coordinated omission).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    args::Ack,
    connection::Connection,
    consumer::{Consumer, Goal, Wish},
    figures::{histogram, nanos},
    send::{Receipts, put},
    stamp::Expected,
    subject::Subject,
    workloads::Sample,
};

/// What the consumer may hold: far more than is ever under way at a rate that the broker can bear.
const PREFETCH: u32 = 1_000;

/// Time for both sides to be there before the first message is due.
const LEAD: Duration = Duration::from_millis(20);

/// Offers so many messages a second for that long.
pub(super) async fn measure(
    subject: &Arc<Subject>,
    (rate, size, elsewhere): (u32, u32, bool),
    length: Duration,
) -> anyhow::Result<Sample> {
    let count = ((length.as_secs_f64() * f64::from(rate)).round() as u64).max(1);
    let goal = Goal::new(Some(count));
    let state = || match count.saturating_sub(goal.have()) {
        0 => "all messages came, but not all receipts".to_owned(),
        missing => format!("{missing} of {count} messages never came"),
    };
    subject.watch(offer(subject, &goal, (rate, size, elsewhere), count), state).await
}

async fn offer(
    subject: &Arc<Subject>,
    goal: &Arc<Goal>,
    (rate, size, elsewhere): (u32, u32, bool),
    count: u64,
) -> anyhow::Result<Sample> {
    let destination = format!("{}.latency", subject.queue);
    let expected = subject.begin(size);
    let producer = Connection::open(subject.first(), &subject.door).await?;
    let wish = Wish { destination: &destination, ack: Ack::Auto, prefetch: PREFETCH };
    let mut consumer = Consumer::open(subject, subject.place(elsewhere), expected, wish).await?;
    consumer.subscribe().await?;

    let start = Instant::now() + LEAD;
    let goal = Arc::clone(goal);
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        let mut times = histogram();
        let note = |stamp: &super::stamp::Stamp| {
            times.saturating_record(nanos(start.elapsed().saturating_sub(stamp.due)));
        };
        let seen = consumer.run(&goal, note).await?;
        anyhow::Ok((seen, times, start.elapsed()))
    });
    let (receipts, late) = produce(producer, subject, &destination, expected, pace(start, rate, count), start).await?;
    let done = reading.join_next().await.context("no consumer")?;
    let (seen, times, elapsed) = done.context("the consumer ended")??;
    let mut problems = seen.problems(count);
    problems.extend((receipts.count() != count).then(|| format!("{} of {count} were sent", receipts.count())));
    let (sent, received) = (receipts.count(), seen.count);
    Ok(Sample { sent, received, events: received, elapsed, times: Some(times), late: Some(late), problems })
}

/// Says when each message is due. A thread of its own: timers of the runtime are as coarse as a millisecond.
fn pace(start: Instant, rate: u32, count: u64) -> mpsc::UnboundedReceiver<(u64, Duration)> {
    let (ticks, due) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for number in 0..count {
            let at = Duration::from_secs_f64(number as f64 / f64::from(rate));
            std::thread::sleep((start + at).saturating_duration_since(Instant::now()));
            if ticks.send((number, at)).is_err() {
                // The measurement was given up.
                return;
            }
        }
    });
    due
}

/// Sends what is due; the receipts, and by how much it was late itself.
async fn produce(
    mut connection: Connection,
    subject: &Subject,
    destination: &str,
    expected: Expected,
    mut due: mpsc::UnboundedReceiver<(u64, Duration)>,
    start: Instant,
) -> anyhow::Result<(Receipts, hdrhistogram::Histogram<u64>)> {
    let (mut receipts, mut late, mut goes_on) = (Receipts::new(), histogram(), true);
    while goes_on || receipts.waiting() > 0 {
        tokio::select! {
            tick = due.recv(), if goes_on && !connection.is_full() => match tick {
                Some((number, at)) => {
                    let stamp = expected.stamp(number, at);
                    put(&mut connection, subject, destination, &mut receipts, stamp, expected.size);
                    late.saturating_record(nanos(start.elapsed().saturating_sub(at)));
                }
                None => goes_on = false,
            },
            turn = connection.turn() => turn?,
        }
        while let Some(frame) = connection.frame()? {
            receipts.take(&frame)?;
        }
    }
    connection.close().await?;
    Ok((receipts, late))
}
