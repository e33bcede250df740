//! One consumer, and what several of them are after together.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, bail};
use rhizomq_stomp::frame::{Command, Frame};
use tokio::sync::{Notify, watch};

use super::{
    args::Ack,
    connection::Connection,
    stamp::{Expected, Seen, Stamp},
    subject::Subject,
};

/// How many messages are to come, to whoever shares this.
pub(super) struct Goal {
    have: AtomicU64,
    total: AtomicU64,
    done: watch::Sender<bool>,
    /// Told whenever something has come.
    moved: Arc<Notify>,
}

impl Goal {
    /// So many; `None`: nobody knows yet.
    pub(super) fn new(total: Option<u64>) -> Arc<Self> {
        Self::telling(total, Arc::default())
    }

    /// The same, of which somebody hears whenever something has come.
    pub(super) fn telling(total: Option<u64>, moved: Arc<Notify>) -> Arc<Self> {
        let (have, total) = (AtomicU64::new(0), AtomicU64::new(total.unwrap_or(u64::MAX)));
        Arc::new(Self { have, total, done: watch::Sender::new(false), moved })
    }

    /// So many it is.
    pub(super) fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::SeqCst);
        self.look();
    }

    /// How many have come.
    pub(super) fn have(&self) -> u64 {
        self.have.load(Ordering::SeqCst)
    }

    /// So many more have come.
    pub(super) fn add(&self, more: u64) {
        self.have.fetch_add(more, Ordering::SeqCst);
        self.moved.notify_one();
        self.look();
    }

    fn look(&self) {
        if self.have() >= self.total.load(Ordering::SeqCst) {
            self.done.send_replace(true);
        }
    }
}

/// How to subscribe.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) destination: &'a str,
    pub(super) ack: Ack,
    pub(super) prefetch: u32,
}

/// A connection with a subscription, and what came by it.
pub(super) struct Consumer {
    connection: Connection,
    expected: Expected,
    ack: Ack,
    /// With [`Ack::Client`], acknowledges whenever so many have come.
    batch: u32,
    unacked: u32,
    /// The `ack` header of the last MESSAGE.
    last: String,
    seen: Seen,
    subscribed: bool,
}

impl Consumer {
    /// Connects, and queues the SUBSCRIBE: [`Consumer::subscribe`] or [`Consumer::run`] sends it.
    pub(super) async fn open(
        subject: &Subject,
        address: &str,
        expected: Expected,
        wish: Wish<'_>,
    ) -> anyhow::Result<Self> {
        let mut connection = Connection::open(address, &subject.door).await?;
        let Wish { destination, ack, prefetch } = wish;
        connection.put_subscribe(destination, ack.as_str(), prefetch, &subject.subscribe_headers);
        let (batch, seen) = ((prefetch / 2).max(1), Seen::default());
        Ok(Self { connection, expected, ack, batch, unacked: 0, last: String::new(), seen, subscribed: false })
    }

    /// Waits until the broker has confirmed the subscription.
    pub(super) async fn subscribe(&mut self) -> anyhow::Result<()> {
        while !self.subscribed {
            let frame = self.connection.wait().await?;
            self.take(&frame, &mut |_| {})?;
        }
        Ok(())
    }

    /// Reads and acknowledges until the goal is reached, then unsubscribes. `note` hears of each message.
    ///
    /// # Errors
    /// The broker says ERROR, or something that was not asked for, or closes.
    pub(super) async fn run(mut self, goal: &Goal, mut note: impl FnMut(&Stamp)) -> anyhow::Result<Seen> {
        let mut done = goal.done.subscribe();
        while !*done.borrow_and_update() {
            tokio::select! {
                turn = self.connection.turn() => turn?,
                _ = done.changed() => {}
            }
            let before = self.seen.count;
            while let Some(frame) = self.connection.frame()? {
                self.take(&frame, &mut note)?;
            }
            goal.add(self.seen.count - before);
        }
        self.end(&mut note).await
    }

    /// Acknowledges the rest, and gives the subscription up. Whatever still comes before that is confirmed counts as well.
    async fn end(mut self, note: &mut impl FnMut(&Stamp)) -> anyhow::Result<Seen> {
        if self.unacked > 0 {
            self.connection.put(Command::Ack, &[("id", &self.last)]);
        }
        self.connection.put_unsubscribe();
        self.ack = Ack::Auto;
        loop {
            let frame = self.connection.wait().await?;
            if frame.command == Command::Receipt && frame.headers.get("receipt-id") == Some("unsubscribed") {
                break;
            }
            self.take(&frame, note)?;
        }
        self.connection.close().await?;
        Ok(self.seen)
    }

    fn take(&mut self, frame: &Frame, note: &mut impl FnMut(&Stamp)) -> anyhow::Result<()> {
        match frame.command {
            Command::Message => {}
            Command::Receipt if frame.headers.get("receipt-id") == Some("subscribed") && !self.subscribed => {
                self.subscribed = true;
                return Ok(());
            }
            _ => bail!("not asked for: {frame:?}"),
        }
        let redelivered = frame.headers.get("redelivered") == Some("true");
        if let Some(stamp) = self.seen.note(&frame.body, redelivered, &self.expected) {
            note(&stamp);
        }
        if self.ack == Ack::Auto {
            return Ok(());
        }
        let id = frame.headers.get("ack").context("a MESSAGE without an `ack` header can't be acknowledged")?;
        if self.ack == Ack::ClientIndividual {
            self.connection.put(Command::Ack, &[("id", id)]);
        } else if self.unacked + 1 >= self.batch {
            self.connection.put(Command::Ack, &[("id", id)]);
            self.unacked = 0;
        } else {
            self.unacked += 1;
            id.clone_into(&mut self.last);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_reached_whether_its_size_or_its_last_message_is_known_first() {
        let goal = Goal::new(None);
        goal.add(3);
        assert!(!*goal.done.borrow());
        goal.set_total(3);
        assert!(*goal.done.borrow());
        let goal = Goal::new(Some(2));
        goal.add(1);
        assert!(!*goal.done.borrow());
        goal.add(1);
        assert!(*goal.done.borrow());
    }
}
