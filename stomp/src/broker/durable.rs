//! Durable subscriptions as the broker does it: see [`crate::durable`]. Making and deleting one is a change of the registry,
//! and is answered once that is on disk here; a receipt for SUBSCRIBE waits until all linked nodes know of it, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rhizomq_engine::{NodeId, Now};

use super::{Broker, ConnId, book::Book};
use crate::{
    dispatch::{ConsumerId, DispatchMsg, SyncId},
    durable::{self, Binding, DurableName},
    selector::Selector,
    session::{SubKey, Ticket},
    status::SubscriptionStatus,
};

/// A change that is not on disk after so many ms is given up.
const PATIENCE_MS: u64 = 10_000;

/// Answers that peers may wait for here; more are not noted, and their patience ends by itself.
const MAX_AWAITED: usize = 4096;

const GONE: &str = "the durable subscription was deleted";
const GONE_ADVICE: &str = "Somebody deleted it, and what waited for it is dropped. SUBSCRIBE again to make a new one.";

/// A client's wish that waits for the registry.
struct Step {
    conn: ConnId,
    ticket: Ticket,
    until: u64,
    what: What,
}

enum What {
    /// The subscription has this inbox, and no other topics if it has one at a time.
    Make { reader: Option<Reader>, name: DurableName, inbox: Arc<str> },
    /// It has none of these any more.
    Forget { inboxes: Vec<Arc<str>> },
}

/// Who is to read it.
#[derive(Clone, Copy)]
struct Reader {
    sub: SubKey,
    prefetch: u32,
    awaited: bool,
}

/// All about durable subscriptions, and about receipts that wait for other nodes.
#[derive(Default)]
pub(super) struct Durables {
    pub(super) book: Book,
    steps: Vec<Step>,
    /// Peers that wait until an inbox is known here.
    awaited: BTreeSet<(Arc<str>, NodeId, u64)>,
    /// Receipts that wait until peers know of something.
    syncing: BTreeMap<SyncId, (ConnId, Ticket)>,
}

/// What a SUBSCRIBE to a topic with a durable subscription says.
pub(super) struct Wish {
    pub(super) sub: SubKey,
    pub(super) name: DurableName,
    pub(super) topic: Arc<str>,
    pub(super) selector: Option<Selector>,
    pub(super) prefetch: u32,
    pub(super) awaited: bool,
}

impl Durables {
    /// No more is done for a subscription that has ended before it began.
    pub(super) fn end(&mut self, id: ConsumerId) {
        self.book.end(id);
        for step in self.steps.iter_mut().filter(|step| step.conn == id.conn) {
            if let What::Make { reader, .. } = &mut step.what {
                reader.take_if(|reader| reader.sub == id.sub);
            }
        }
    }

    pub(super) fn close(&mut self, conn: ConnId) {
        let (first, last) = (ConsumerId { conn, sub: SubKey(0) }, ConsumerId { conn, sub: SubKey(u32::MAX) });
        self.book.readers_in(first, last).into_iter().for_each(|id| self.book.end(id));
        self.steps.retain(|step| step.conn != conn);
    }

    pub(super) fn link_down(&mut self, peer: NodeId) {
        self.awaited.retain(|(_, by, _)| *by != peer);
    }

    /// When the first change is to be given up.
    pub(super) fn deadline(&self) -> u64 {
        self.steps.iter().map(|step| step.until).min().unwrap_or(u64::MAX)
    }

    fn is_done(&self, what: &What) -> bool {
        match what {
            What::Make { name, inbox, .. } => self.book.binding(inbox).is_some_and(|made| {
                let mut all = self.book.bindings_of(name.as_str());
                all.all(|(_, other)| match other.topic == made.topic {
                    true => other.selector == made.selector,
                    false => !name.has_one_topic(),
                })
            }),
            What::Forget { inboxes } => inboxes.iter().all(|inbox| self.book.binding(inbox).is_none()),
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.book.remembered() + self.steps.len() + self.awaited.len() + self.syncing.len()
    }
}

impl Broker {
    /// At the start of a life.
    pub(super) fn read_subscriptions(&mut self) {
        for set in durable::sets() {
            let members = self.node.shared(&set);
            self.durables.book.refresh(&set, &members);
        }
    }

    /// A client takes part in a durable subscription, which is made if there is none.
    pub(super) fn subscribe_durably(&mut self, now: Now, conn: ConnId, ticket: Ticket, wish: Wish) {
        let Wish { sub, name, topic, selector, prefetch, awaited } = wish;
        let reader = Reader { sub, prefetch, awaited };
        let set = durable::set_of(name.as_str());
        let is_same = |binding: &Binding| binding.topic == topic && binding.selector == selector;
        let (same, mut others): (Vec<_>, Vec<_>) = self.newest_bindings(name.as_str()).into_iter().partition(is_same);
        others.retain(|other| name.has_one_topic() || other.topic == topic);
        let inbox = match same.iter().map(Binding::inbox).min() {
            Some(inbox) => inbox,
            None => {
                let (life, number) = (self.node.epoch(), self.node.next_share(&set));
                let binding = Binding { name: name.to_shared(), topic, life, number, selector };
                if let Err(error) = self.node.share(now, &set, binding.encode()) {
                    let text = format!("There are too many durable subscriptions: {error}.");
                    return self.fail(conn, ticket, "the durable subscription was not made", &text);
                }
                binding.inbox()
            }
        };
        // After the new one is there: in between nobody finds the subscription without any.
        others.iter().for_each(|binding| self.node.unshare(now, &set, &binding.encode()));
        let until = now.mono_ms.saturating_add(PATIENCE_MS);
        self.durables.steps.push(Step { conn, ticket, until, what: What::Make { reader: Some(reader), name, inbox } });
        self.proceed_with_subscriptions(now);
    }

    /// A client deletes a durable subscription: nothing more waits for it.
    pub(super) fn forget_durable(&mut self, now: Now, conn: ConnId, ticket: Ticket, name: &DurableName) {
        let mut inboxes = self.durables.book.inboxes_of(name.as_str());
        inboxes.extend(self.unbind(now, name.as_str()).iter().map(Binding::inbox));
        let until = now.mono_ms.saturating_add(PATIENCE_MS);
        self.durables.steps.push(Step { conn, ticket, until, what: What::Forget { inboxes } });
        self.proceed_with_subscriptions(now);
    }

    /// Deletes a durable subscription by its name, with what waits for it, on all nodes. Whether there is one.
    pub fn remove_subscription(&mut self, now: Now, name: &str) -> bool {
        let unbound = self.unbind(now, name);
        self.turn(now);
        !unbound.is_empty()
    }

    /// Takes out all bindings of a subscription, those that are only about to be committed, too.
    fn unbind(&mut self, now: Now, name: &str) -> Vec<Binding> {
        let (set, bindings) = (durable::set_of(name), self.newest_bindings(name));
        bindings.iter().for_each(|binding| self.node.unshare(now, &set, &binding.encode()));
        bindings
    }

    /// The bindings of a subscription, with changes that are not on disk yet: who wants one that is about to be made must not
    /// make another.
    pub(super) fn newest_bindings(&self, name: &str) -> Vec<Binding> {
        let members = self.node.soon_shared(&durable::set_of(name));
        let bindings = members.iter().filter_map(|member| Binding::decode(member));
        bindings.filter(|binding| *binding.name == *name).collect()
    }

    /// All durable subscriptions.
    pub fn subscriptions(&self) -> Vec<SubscriptionStatus> {
        let totals = self.dispatch.totals(&self.node);
        let subscription = |name: &Arc<str>| {
            let mut status = SubscriptionStatus { name: name.to_string(), ..SubscriptionStatus::default() };
            let (mut topics, mut selectors) = (BTreeSet::new(), BTreeSet::new());
            for (inbox, binding) in self.durables.book.bindings_of(name) {
                topics.insert(binding.topic.to_string());
                selectors.extend(binding.selector.as_ref().map(|selector| selector.as_str().to_owned()));
                let total = totals.get(&crate::dispatch::Name::from(inbox)).copied().unwrap_or_default();
                status.waiting += total.depth;
                status.in_flight += total.in_flight;
                status.scheduled += total.scheduled;
                status.consumers = status.consumers.max(total.consumers);
            }
            status.topics = topics.into_iter().collect();
            status.selectors = selectors.into_iter().collect();
            status
        };
        self.durables.book.names().map(subscription).collect()
    }

    /// A registry set has changed.
    pub(super) fn follow_subscriptions(&mut self, now: Now, set: &str) {
        if !durable::is_set(set) {
            return;
        }
        let members = self.node.shared(set);
        let changed = self.durables.book.refresh(set, &members);
        for name in &changed {
            self.review_readers(name);
            let inboxes = self.durables.book.inboxes_of(name);
            for id in self.durables.book.readers_of(name) {
                if !inboxes.is_empty() {
                    self.dispatch.attend(id, &inboxes);
                    continue;
                }
                self.durables.book.end(id);
                if let Some(client) = self.clients.get_mut(&id.conn) {
                    client.session.error(GONE, GONE_ADVICE, None);
                    self.touched.insert(id.conn);
                }
            }
        }
        if changed.is_empty() {
            return;
        }
        let known = |(inbox, ..): &(Arc<str>, NodeId, u64)| self.durables.book.binding(inbox).is_some();
        let (known, awaited) = std::mem::take(&mut self.durables.awaited).into_iter().partition(known);
        self.durables.awaited = awaited;
        known.into_iter().for_each(|(_, by, number)| self.say_synced(by, number));
        self.proceed_with_subscriptions(now);
        // What is left of deleted ones goes at once, as far as it is this node's.
        self.sweep_at = now.mono_ms;
    }

    /// Does what has become possible, and gives up what takes too long.
    pub(super) fn proceed_with_subscriptions(&mut self, now: Now) {
        let steps = std::mem::take(&mut self.durables.steps);
        for step in steps {
            if self.durables.is_done(&step.what) {
                self.complete(now, step);
            } else if now.mono_ms >= step.until {
                let text = format!("The change is not on disk after {PATIENCE_MS} ms. It may be later.");
                self.fail(step.conn, step.ticket, "the durable subscription was not changed", &text);
            } else {
                self.durables.steps.push(step);
            }
        }
    }

    fn complete(&mut self, now: Now, step: Step) {
        let Step { conn, ticket, what, .. } = step;
        let What::Make { reader: Some(reader), name, inbox } = what else { return self.answer(conn, ticket, None) };
        let Reader { sub, prefetch, awaited } = reader;
        let id = ConsumerId { conn, sub };
        self.durables.book.begin(id, &name.to_shared());
        self.dispatch.subscribe(id, &inbox, prefetch);
        self.dispatch.attend(id, &self.durables.book.inboxes_of(name.as_str()));
        self.review_readers(name.as_str());
        self.answer_subscribed(now, conn, ticket, awaited, Some(&inbox));
    }

    /// A subscription to a topic is in force here; where the client waits for a receipt, that is for when it is everywhere.
    pub(super) fn answer_subscribed(
        &mut self,
        now: Now,
        conn: ConnId,
        ticket: Ticket,
        awaited: bool,
        inbox: Option<&Arc<str>>,
    ) {
        if awaited {
            let id = self.dispatch.sync(now, inbox);
            self.durables.syncing.insert(id, (conn, ticket));
        } else {
            self.answer(conn, ticket, None);
        }
    }

    /// All linked nodes know.
    pub(super) fn synced(&mut self, id: SyncId) {
        if let Some((conn, ticket)) = self.durables.syncing.remove(&id) {
            self.answer(conn, ticket, None);
        }
    }

    /// A peer waits until an inbox is known here.
    pub(super) fn await_inbox(&mut self, by: NodeId, number: u64, inbox: Arc<str>) {
        if self.durables.book.binding(&inbox).is_some() {
            self.say_synced(by, number);
        } else if self.durables.awaited.len() < MAX_AWAITED {
            self.durables.awaited.insert((inbox, by, number));
        }
    }

    fn say_synced(&mut self, to: NodeId, number: u64) {
        self.node.send(to, &DispatchMsg::Synced { number }.encode());
    }
}
