//! Virtual consumers: they acknowledge at once or one by one or in transactions, refuse, dawdle, unsubscribe, leave and die.

use std::collections::BTreeMap;

use rhizomq_stomp::{
    broker::ConnId,
    frame::{Command, Frame, Version},
};

use super::{
    clients::{DURABLE, Pending, Role, destination},
    ledger::{MsgId, msg_id_of},
    world::World,
};

/// What a consumer is like.
#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) queues: Vec<usize>,
    /// `auto`, `client` or `client-individual`.
    pub(crate) mode: &'static str,
    pub(crate) prefetch: u32,
    /// Milliseconds of work on each message.
    pub(crate) work_ms: u64,
    /// How often it refuses a message, leaves by DISCONNECT, and dies at work.
    pub(crate) nacks: f64,
    pub(crate) farewells: f64,
    pub(crate) deaths: f64,
    /// How often it ends a subscription, to open it again later.
    pub(crate) unsubscribes: f64,
    /// How often it begins a transaction for its next answers.
    pub(crate) transactions: f64,
    /// What its subscriptions ask for, one of these each; all, if there are none.
    pub(crate) selectors: Vec<&'static str>,
    pub(crate) at_work: AtWork,
}

/// What it has, as long as its connection lasts.
#[derive(Clone, Debug, Default)]
pub(crate) struct AtWork {
    /// Open subscriptions with their queues.
    pub(crate) subscriptions: BTreeMap<u64, usize>,
    /// Those that have a selector, all that there ever were.
    pub(crate) selectors: BTreeMap<u64, &'static str>,
    subscribed: u64,
    /// Queues to subscribe to again.
    missed: Vec<usize>,
    /// Messages it has and has not answered, in order.
    held: Vec<Held>,
    arrived: u64,
    transaction: Option<Transaction>,
}

#[derive(Clone, Debug)]
struct Held {
    id: MsgId,
    /// Its place among all that arrived.
    place: u64,
    subscription: u64,
    message_id: String,
    /// The value of MESSAGE's `ack` header (STOMP 1.2).
    ack: String,
}

/// Answers that count when it is committed, and if it is.
#[derive(Clone, Debug)]
struct Transaction {
    name: String,
    /// Each with its fate: true for ACK.
    answers: Vec<(Held, bool)>,
}

impl Consumer {
    /// One that acknowledges everything at once, for ever.
    pub(crate) fn patient(queues: Vec<usize>) -> Self {
        Self {
            queues,
            mode: "client-individual",
            prefetch: 50,
            work_ms: 0,
            nacks: 0.0,
            farewells: 0.0,
            deaths: 0.0,
            unsubscribes: 0.0,
            transactions: 0.0,
            selectors: Vec::new(),
            at_work: AtWork::default(),
        }
    }
}

impl World {
    fn consumer(&mut self, client: usize) -> Option<&mut Consumer> {
        match &mut self.clients[client].role {
            Role::Consumer(consumer) => Some(consumer),
            _ => None,
        }
    }

    /// Subscribes to all its queues.
    pub(crate) fn subscribe_all(&mut self, client: usize, conn: ConnId) {
        let Some(consumer) = self.consumer(client) else { return };
        for queue in consumer.queues.clone() {
            self.subscribe(client, conn, queue);
        }
    }

    fn subscribe(&mut self, client: usize, conn: ConnId, queue: usize) {
        let Some(consumer) = self.consumer(client) else { return };
        let selectors = consumer.selectors.clone();
        let selector = (!selectors.is_empty()).then(|| self.rng.pick(&selectors));
        let Some(consumer) = self.consumer(client) else { return };
        let (mode, prefetch, at_work) = (consumer.mode, consumer.prefetch.to_string(), &mut consumer.at_work);
        at_work.subscribed += 1;
        at_work.subscriptions.insert(at_work.subscribed, queue);
        at_work.selectors.extend(selector.map(|selector| (at_work.subscribed, selector)));
        let (id, to) = (at_work.subscribed.to_string(), destination(queue));
        let mut headers = vec![("id", &*id), ("destination", &*to), ("ack", mode), ("prefetch-count", &*prefetch)];
        if queue >= DURABLE {
            headers.push(("durable-subscription-name", &*to));
        }
        headers.extend(selector.map(|selector| ("selector", selector)));
        self.client_sends(conn, &Frame::new(Command::Subscribe, headers));
    }

    /// Does the next thing. How long to pause, `None` until the next message arrives.
    pub(crate) fn consume(&mut self, client: usize, conn: ConnId) -> Option<u64> {
        let consumer = self.consumer(client)?.clone();
        let pause = Some(1 + consumer.work_ms);
        if self.goes_away(client, conn, &consumer) {
            return None;
        }
        if let Some(queue) = consumer.at_work.missed.first().copied().filter(|_| self.rng.chance(0.2)) {
            self.consumer(client)?.at_work.missed.remove(0);
            self.subscribe(client, conn, queue);
            return pause;
        }
        if self.rng.chance(consumer.unsubscribes) {
            self.unsubscribe(client, conn);
            return pause;
        }
        let is_idle = consumer.at_work.held.is_empty();
        if consumer.at_work.transaction.is_some() && (is_idle || self.rng.chance(0.3)) {
            self.end_transaction(client, conn);
            return pause;
        }
        if is_idle {
            return (!consumer.at_work.missed.is_empty()).then_some(50);
        }
        if consumer.at_work.transaction.is_none() && self.rng.chance(consumer.transactions) {
            let name = format!("t{}", self.next_receipt(client));
            self.client_sends(conn, &Frame::new(Command::Begin, [("transaction", &name)]));
            self.consumer(client)?.at_work.transaction = Some(Transaction { name, answers: Vec::new() });
        }
        self.answer(client, conn)?;
        pause
    }

    /// It may leave, or die.
    fn goes_away(&mut self, client: usize, conn: ConnId, consumer: &Consumer) -> bool {
        if self.rng.chance(consumer.farewells) {
            self.client_leaves(client, conn);
            return true;
        }
        let dies = self.rng.chance(consumer.deaths);
        if dies {
            self.client_dies(client, conn);
        }
        dies
    }

    /// Answers the oldest message it has; in `client` mode a later one, and so all before it.
    fn answer(&mut self, client: usize, conn: ConnId) -> Option<()> {
        let consumer = self.consumer(client)?;
        let (nacks, mode, count) = (consumer.nacks, consumer.mode, consumer.at_work.held.len());
        let ack = !self.rng.chance(nacks);
        let upto = if mode == "client" { self.rng.below(count.min(8)) } else { 0 };
        let wants_receipt = self.rng.chance(0.5);
        let at_work = &mut self.consumer(client)?.at_work;
        let target = at_work.held.remove(upto);
        let mut covered = Vec::new();
        if mode == "client" {
            // An answer covers all earlier deliveries of the subscription.
            let is_covered = |held: &mut Held| held.place < target.place && held.subscription == target.subscription;
            covered.extend(at_work.held.extract_if(.., is_covered));
        }
        let transaction = at_work.transaction.as_ref().map(|transaction| transaction.name.clone());
        let mut headers = if self.clients[client].version == Version::V1_2 {
            vec![("id".to_owned(), target.ack.clone())]
        } else {
            let subscription = target.subscription.to_string();
            vec![("message-id".to_owned(), target.message_id.clone()), ("subscription".to_owned(), subscription)]
        };
        covered.push(target);
        if let Some(name) = transaction {
            headers.push(("transaction".to_owned(), name));
            let answers = covered.into_iter().map(|held| (held, ack));
            self.consumer(client)?.at_work.transaction.as_mut()?.answers.extend(answers);
        } else {
            let ids: Vec<_> = covered.iter().map(|held| held.id).collect();
            if ack && wants_receipt {
                let receipt = self.next_receipt(client);
                headers.push(("receipt".to_owned(), receipt.to_string()));
                self.clients[client].pending.insert(receipt, Pending::Ack { ids: ids.clone() });
            }
            self.take_as_answered(&ids, ack);
        }
        let command = if ack { Command::Ack } else { Command::Nack };
        self.client_sends(conn, &Frame::new(command, headers));
        Some(())
    }

    /// Commits, or not: then the client has its messages still, but for those whose subscription is gone.
    fn end_transaction(&mut self, client: usize, conn: ConnId) {
        let commits = self.rng.chance(0.6);
        let receipt = self.next_receipt(client);
        let Some(at_work) = self.consumer(client).map(|consumer| &mut consumer.at_work) else { return };
        let Some(Transaction { name, answers }) = at_work.transaction.take() else { return };
        let headers = [("transaction", name), ("receipt", receipt.to_string())];
        if commits {
            let ids = |fate: bool| answers.iter().filter(|(_, ack)| *ack == fate).map(|(held, _)| held.id).collect();
            let (acked, refused): (Vec<_>, Vec<_>) = (ids(true), ids(false));
            self.take_as_answered(&acked, true);
            self.take_as_answered(&refused, false);
            self.clients[client].pending.insert(receipt, Pending::Ack { ids: acked });
            return self.client_sends(conn, &Frame::new(Command::Commit, headers));
        }
        let held = answers.into_iter().map(|(held, _)| held);
        let (kept, gone): (Vec<_>, Vec<_>) =
            held.partition(|held| at_work.subscriptions.contains_key(&held.subscription));
        at_work.held.extend(kept);
        at_work.held.sort_by_key(|held| held.place);
        let gone: Vec<_> = gone.iter().map(|held| held.id).collect();
        self.take_as_answered(&gone, false);
        self.clients[client].pending.insert(receipt, Pending::Abort);
        self.client_sends(conn, &Frame::new(Command::Abort, headers));
    }

    fn unsubscribe(&mut self, client: usize, conn: ConnId) {
        let Some(consumer) = self.consumer(client) else { return };
        let is_auto = consumer.mode == "auto";
        let ids: Vec<_> = consumer.at_work.subscriptions.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = self.rng.pick(&ids);
        let receipt = self.next_receipt(client);
        let Some(at_work) = self.consumer(client).map(|consumer| &mut consumer.at_work) else { return };
        at_work.missed.extend(at_work.subscriptions.remove(&id));
        let gone: Vec<_> = at_work.held.extract_if(.., |held| held.subscription == id).map(|held| held.id).collect();
        self.take_as_answered(&gone, false);
        // What was written and has not arrived goes back too; an `auto` subscription has consumed it.
        self.excused |= !is_auto;
        self.marks_excused = true;
        self.clients[client].pending.insert(receipt, Pending::Unsubscribe { subscription: id });
        let headers = [("id", id.to_string()), ("receipt", receipt.to_string())];
        self.client_sends(conn, &Frame::new(Command::Unsubscribe, headers));
    }

    /// The client has told the fate of these.
    fn take_as_answered(&mut self, ids: &[MsgId], ack: bool) {
        for &id in ids {
            if ack {
                self.ledger.msg(id).consumed.get_or_insert(self.now);
            } else {
                self.excused = true;
                self.ledger.msg(id).held_by = None;
            }
        }
    }

    /// A message arrives.
    pub(crate) fn consumer_gets(&mut self, client: usize, conn: ConnId, frame: &Frame) {
        let Some(consumer) = self.consumer(client).cloned() else { return };
        let Some(id) = msg_id_of(&frame.body) else { return };
        self.ledger.msg(id).arrived = true;
        let header = |name| frame.headers.get(name).unwrap_or_default().to_owned();
        let subscription = header("subscription").parse().unwrap_or_default();
        self.check_wanted(client, subscription, frame);
        if consumer.mode == "auto" {
            if !self.clients[client].is_leaving() && !self.goes_away(client, conn, &consumer) {
                if self.rng.chance(consumer.unsubscribes) {
                    self.unsubscribe(client, conn);
                }
                self.plan(client, 50);
            }
            return;
        }
        let Some(at_work) = self.consumer(client).map(|consumer| &mut consumer.at_work) else { return };
        if !at_work.subscriptions.contains_key(&subscription) {
            return; // it came too late
        }
        at_work.arrived += 1;
        let (message_id, ack) = (header("message-id"), header("ack"));
        at_work.held.push(Held { id, place: at_work.arrived, subscription, message_id, ack });
        if at_work.held.len() == 1 {
            self.plan(client, 1 + consumer.work_ms);
        }
    }
}
