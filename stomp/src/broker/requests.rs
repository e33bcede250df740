//! What clients ask for: publish, subscribe, acknowledge, leave.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use rhizomq_engine::{Dot, Entry, Now, Unit};
use rhizomq_net::PublishId;

use super::{Broker, ConnId, client::Answer, drain, duplicates::ids_of, durable::Wish, forward::GONE};
use crate::{
    destination::{Kind, REPLY_QUEUE},
    dispatch::{ConsumerId, Content, Return},
    duplicates::DuplicateId,
    forward::Place,
    frame::encode_routed_head,
    lane::{self, Lane},
    schedule::Job,
    session::{AckItem, Fate, Request, Send, Service, SubKey, Ticket},
    stamp,
};

/// Acknowledgements in one unit, unless a single request has more.
const ACK_UNIT: usize = 4096;
/// What a message costs besides its bytes, while its fate is open.
pub(super) const MESSAGE_COST: u64 = 256;

/// What is sent to a temporary queue that there never was would lie on disks for ever.
const NO_REPLY_QUEUE: &str = "there is no such temporary queue";
const NO_REPLY_QUEUE_ADVICE: &str = "Answer to what the header `reply-to` of a message says.";

/// What a client is told who sends to a queue that takes no more.
const FULL: &str = "the queue has reached its greatest length";

/// It would lie in a cluster that is none.
pub(super) const STRAYED: &str = "the node's part of the cluster left without it";
pub(super) const STRAYED_ADVICE: &str =
    "Connect to another node: this one takes nothing until it has the secret of its part; its status says more.";

/// It would go on when nobody is left who could ever read it.
const NO_REPETITION: &str = "what is sent to a temporary queue can't be repeated";
const NO_REPETITION_ADVICE: &str = "Send it without AMQ_SCHEDULED_PERIOD, _REPEAT and _CRON, or to another queue.";

/// A unit under way to disks.
pub(super) struct Published {
    pub(super) conn: ConnId,
    pub(super) ticket: Ticket,
    bytes: u64,
    pub(super) has_messages: bool,
    pub(super) removals: Vec<Dot>,
    /// What goes to listeners once the rest is kept.
    pub(super) topics: Vec<Send>,
    /// What publishers call these messages.
    pub(super) ids: Vec<DuplicateId>,
    /// On so many disks is what of the same transaction was taken before, and is not taken again.
    pub(super) at_most: Option<u32>,
}

impl Published {
    /// What its receipt says where so many disks have what is new of it.
    pub(super) fn copies(&self, copies: u32) -> Option<u32> {
        self.has_messages.then(|| self.at_most.map_or(copies, |most| copies.min(most)))
    }
}

/// Who acknowledged what.
type Acked = (ConnId, Ticket, Vec<Dot>);

/// Acknowledgements of all clients, outside transactions.
#[derive(Default)]
pub(super) struct AckQueue {
    waiting: VecDeque<Acked>,
    writing: Option<(PublishId, Vec<Acked>)>,
}

impl AckQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_none()
    }
}

impl Broker {
    pub(super) fn take_requests(&mut self, now: Now, conn: ConnId) {
        self.touched.insert(conn);
        while let Some(client) = self.clients.get_mut(&conn) {
            let Some(request) = client.session.poll_request() else { return };
            let ticket = request.ticket();
            client.asked(ticket);
            if let Some((message, body)) = self.denied(conn, &request) {
                self.fail(conn, ticket, &message, &body);
                // What came behind it, in one packet or in the next one, is not done.
                self.clients.get_mut(&conn).into_iter().for_each(|client| client.session.forget_requests());
                return;
            }
            match request {
                Request::Publish { unit, acks, .. } => self.hold_or_publish(now, conn, ticket, unit, acks),
                Request::Ack { items, .. } => {
                    let removals = self.settle(conn, &items);
                    if removals.is_empty() {
                        self.answer(conn, ticket, None);
                    } else {
                        self.acks.waiting.push_back((conn, ticket, removals));
                    }
                }
                Request::Subscribe {
                    sub,
                    destination,
                    prefetch,
                    chooses_prefetch,
                    service,
                    selector,
                    durable,
                    awaited,
                    ..
                } => {
                    let policy = self.policies.find(&destination).and_then(|(_, policy)| policy.prefetch);
                    let prefetch = policy.filter(|_| !chooses_prefetch).unwrap_or(prefetch);
                    let (id, topic) = (ConsumerId { conn, sub }, destination.to_shared());
                    match (destination.kind(), durable) {
                        (Kind::Queue, _) => {
                            // Messages wait, wherever they are sent: there is nobody to wait for.
                            let wanted =
                                selector.map_or(topic.clone(), |selector| lane::view(&topic, &selector).into());
                            match service {
                                Service::Browse => self.dispatch.browse(&self.node, id, &wanted),
                                Service::Shared => self.dispatch.subscribe(id, &wanted, prefetch),
                                Service::Exclusive { priority } => {
                                    self.dispatch.subscribe_exclusively(id, &wanted, priority, prefetch);
                                }
                            }
                            self.answer(conn, ticket, None);
                        }
                        (Kind::Topic, None) => {
                            self.dispatch.listen(id, &topic, selector);
                            self.answer_subscribed(now, conn, ticket, awaited, None);
                        }
                        (Kind::Topic, Some(name)) => {
                            let wish = Wish { sub, name, topic, selector, prefetch, awaited };
                            self.subscribe_durably(now, conn, ticket, wish);
                        }
                    }
                }
                Request::Forget { name, .. } => self.forget_durable(now, conn, ticket, &name),
                Request::Unsubscribe { sub, requeue, .. } => {
                    self.end_subscriptions(conn, &[sub], &requeue);
                    self.answer(conn, ticket, None);
                }
                Request::Disconnect { subs, requeue, .. } => {
                    self.end_subscriptions(conn, &subs, &requeue);
                    self.answer(conn, ticket, None);
                }
            }
        }
    }

    /// No more goes to these; what is listed goes to others, what is not listed stays held until it is settled.
    fn end_subscriptions(&mut self, conn: ConnId, subs: &[SubKey], requeue: &[Arc<str>]) {
        for id in subs.iter().map(|&sub| ConsumerId { conn, sub }) {
            self.dispatch.unsubscribe(id);
            self.durables.end(id);
        }
        for dot in requeue.iter().filter_map(|id| id.parse().ok()) {
            self.dispatch.settle(conn, dot, false);
        }
    }

    /// Writes the acknowledgements that have gathered, unless earlier ones are being written.
    pub(super) fn write_acks(&mut self, now: Now) {
        while self.acks.writing.is_none() && !self.acks.waiting.is_empty() {
            let (mut requests, mut removals) = (Vec::new(), Vec::new());
            while let Some((_, _, dots)) = self.acks.waiting.front() {
                if !removals.is_empty() && removals.len() + dots.len() > ACK_UNIT {
                    break;
                }
                removals.extend_from_slice(dots);
                requests.extend(self.acks.waiting.pop_front());
            }
            match self.node.publish(now, Unit { entries: Vec::new(), removals }) {
                Ok(publish) => self.acks.writing = Some((publish, requests)),
                Err(error) => self.fail_acks(requests, &error.to_string()),
            }
        }
    }

    /// A unit is kept.
    pub(super) fn confirmed(&mut self, publish: PublishId, copies: u32) {
        if let Some((_, requests)) = self.acks.writing.take_if(|(writing, _)| *writing == publish) {
            for (conn, ticket, _) in requests {
                self.answer(conn, ticket, None);
            }
        } else if let Some(published) = self.published.remove(&publish) {
            self.settled(&published);
            self.settle_ids(&published.ids, Some(copies));
            published.topics.iter().for_each(|send| self.fan_out(send));
            self.answer(published.conn, published.ticket, published.copies(copies));
        }
    }

    /// A unit could not be kept.
    pub(super) fn rejected(&mut self, publish: PublishId, reason: &str) {
        if let Some((_, requests)) = self.acks.writing.take_if(|(writing, _)| *writing == publish) {
            self.fail_acks(requests, reason);
        } else if let Some(published) = self.published.remove(&publish) {
            self.settled(&published);
            self.settle_ids(&published.ids, None);
            published.removals.iter().for_each(|dot| self.dispatch.unsettle(*dot));
            self.fail(published.conn, published.ticket, "the message was not kept", reason);
        }
    }

    /// `at_most`: see [`Published::at_most`].
    pub(super) fn publish(
        &mut self,
        now: Now,
        conn: ConnId,
        ticket: Ticket,
        mut unit: Vec<Send>,
        acks: &[AckItem],
        at_most: Option<u32>,
    ) {
        if self.drain.is_on() && !unit.is_empty() {
            return self.fail(conn, ticket, drain::TOLD, drain::ADVICE);
        }
        if self.node.lacks_network() && !unit.is_empty() {
            return self.fail(conn, ticket, STRAYED, STRAYED_ADVICE);
        }
        let is_invented = |send: &&Send| {
            send.destination.as_str().starts_with(REPLY_QUEUE) && self.is_invented(send.destination.as_str())
        };
        if unit.iter().any(|send| is_invented(&send)) {
            return self.fail(conn, ticket, NO_REPLY_QUEUE, NO_REPLY_QUEUE_ADVICE);
        }
        if let Some(why) = self.refusal(&unit) {
            return self.fail(conn, ticket, FULL, &why);
        }
        let is_for_ever = |send: &Send| send.schedule.is_some() && send.destination.as_str().starts_with(REPLY_QUEUE);
        if unit.iter().any(is_for_ever) {
            return self.fail(conn, ticket, NO_REPETITION, NO_REPETITION_ADVICE);
        }
        let removals = self.settle(conn, acks);
        self.stamp(now, &mut unit);
        self.set_ends(now, &mut unit);
        let (entries, topics) = self.route(now, unit);
        if entries.is_empty() && removals.is_empty() {
            topics.iter().for_each(|send| self.fan_out(send));
            return self.answer(conn, ticket, None);
        }
        let bytes = entries.iter().map(|entry| entry.size() as u64 + MESSAGE_COST).sum();
        let has_messages = !entries.is_empty();
        let ids = ids_of(&entries);
        let unit = Unit { entries, removals: removals.clone() };
        let published = Published { conn, ticket, bytes, has_messages, removals, topics, ids, at_most };
        // Acknowledgements alone are kept here, where the consumer is.
        let place = if has_messages { self.place_of(conn) } else { Some(Place::Here) };
        match place {
            Some(Place::Here) => match self.node.publish(now, unit) {
                Ok(publish) => {
                    self.count_unconfirmed(&published);
                    self.note_coming(&published.ids);
                    self.published.insert(publish, published);
                }
                Err(error) => self.not_taken(&published, "the message was not taken", &error.to_string()),
            },
            Some(Place::At(member, _)) => {
                self.count_unconfirmed(&published);
                self.note_coming(&published.ids);
                self.forward(member, unit, published);
            }
            None => self.not_taken(&published, GONE, "Connect again: another member will keep what you send."),
        }
    }

    /// Notes when and where messages are taken. What is repeated is taken anew each time.
    pub(super) fn stamp(&self, now: Now, unit: &mut [Send]) {
        // The destinations of one SEND share one header section, and go on doing so.
        let mut last: Option<(Bytes, Bytes)> = None;
        for send in unit.iter_mut().filter(|send| send.schedule.is_none()) {
            let made = last.take().filter(|(head, _)| is_same(head, &send.head));
            let (head, new) =
                made.unwrap_or_else(|| (send.head.clone(), stamp::stamped(&send.head, now.wall_ms, self.node.name())));
            send.head = new.clone();
            last = Some((head, new));
        }
    }

    /// What is kept of a unit, with the ids of its messages, and what goes to listeners.
    pub(super) fn route(&self, now: Now, unit: Vec<Send>) -> (Vec<Entry>, Vec<Send>) {
        let (mut entries, mut topics): (Vec<Entry>, Vec<Send>) = (Vec::new(), Vec::new());
        let mut ids = Vec::new();
        for send in unit {
            if self.is_kept(&send) {
                ids.extend(self.id_entry(now, &send));
            }
            if send.is_job() {
                let schedule = send.schedule.clone().unwrap_or_default();
                let job = Job::first(send.priority, now.wall_ms, send.delay_ms, schedule);
                entries.extend(job.map(|job| self.job_entry(now, &job, &send)));
                continue;
            }
            let (body, persistent) = (send.body.clone(), send.persistent);
            let lane = Lane::delayed(send.priority, now.wall_ms, send.delay_ms);
            if send.destination.kind() == Kind::Topic {
                let inboxes = self.durables.book.targets(&send.destination, &send.head);
                let inboxes: Vec<_> = inboxes.iter().map(|inbox| lane.inbox(inbox)).collect();
                if !inboxes.is_empty() {
                    let head = encode_routed_head(send.destination.as_str(), &send.head);
                    entries.push(Entry { inboxes, head, body, persistent });
                }
                topics.push(send);
                continue;
            }
            let inbox = lane.inbox(send.destination.as_str());
            // One SEND to several queues: one body. What lies between is for topics of the same SEND.
            let lately = entries.iter_mut().rev();
            let mut lately =
                lately.take_while(|entry| is_same(&entry.body, &send.body) && !entry.inboxes.contains(&inbox));
            match lately.find(|entry| is_same(&entry.head, &send.head) && entry.persistent == persistent) {
                Some(entry) => entry.inboxes.push(inbox),
                None => entries.push(Entry { inboxes: vec![inbox], head: send.head, body, persistent }),
            }
        }
        // Of a job that never comes nothing is kept.
        if !entries.is_empty() {
            entries.append(&mut ids);
        }
        (entries, topics)
    }

    fn count_unconfirmed(&mut self, published: &Published) {
        self.unconfirmed += published.bytes;
        if let Some(client) = self.clients.get_mut(&published.conn) {
            client.unconfirmed += published.bytes;
        }
    }

    fn not_taken(&mut self, published: &Published, message: &str, body: &str) {
        published.removals.iter().for_each(|dot| self.dispatch.unsettle(*dot));
        self.fail(published.conn, published.ticket, message, body);
    }

    /// Gives refused deliveries back; returns the consumed ones, whose removal is to be written.
    fn settle(&mut self, conn: ConnId, items: &[AckItem]) -> Vec<Dot> {
        // What is no dot came from a topic: nothing is kept of it.
        let dots = items.iter().filter_map(|item| Some((item.message_id.parse().ok()?, item.fate)));
        let mut consumed = Vec::new();
        for (dot, fate) in dots {
            match fate {
                Fate::Consumed => consumed.extend(self.dispatch.settle(conn, dot, true).then_some(dot)),
                Fate::Requeued => drop(self.dispatch.give_back(conn, dot, Some(Return::Given))),
                Fate::Rejected => drop(self.dispatch.give_back(conn, dot, Some(Return::Rejected))),
            }
        }
        consumed
    }

    pub(super) fn fan_out(&mut self, send: &Send) {
        self.topic_messages += 1;
        let id = format!("T-{}-{}-{}", self.node.id(), self.node.epoch(), self.topic_messages);
        let content = Content::new(send.head.clone(), send.body.clone());
        self.dispatch.publish_topic(&send.destination.to_shared(), &id, &content);
    }

    pub(super) fn settled(&mut self, published: &Published) {
        self.unconfirmed = self.unconfirmed.saturating_sub(published.bytes);
        if let Some(client) = self.clients.get_mut(&published.conn) {
            client.unconfirmed = client.unconfirmed.saturating_sub(published.bytes);
            self.touched.insert(published.conn);
        }
        self.resume_all_if_possible();
    }

    pub(super) fn answer(&mut self, conn: ConnId, ticket: Ticket, copies: Option<u32>) {
        if let Some(client) = self.clients.get_mut(&conn) {
            client.answer(ticket, Answer { copies });
            self.touched.insert(conn);
        }
    }

    pub(super) fn fail(&mut self, conn: ConnId, ticket: Ticket, message: &str, body: &str) {
        if let Some(client) = self.clients.get_mut(&conn) {
            client.fail(ticket, message, body);
            self.touched.insert(conn);
        }
    }

    fn fail_acks(&mut self, requests: Vec<(ConnId, Ticket, Vec<Dot>)>, reason: &str) {
        for (conn, ticket, dots) in requests {
            dots.iter().for_each(|dot| self.dispatch.unsettle(*dot));
            self.fail(conn, ticket, "the acknowledgement was not kept", reason);
        }
    }
}

/// Whether both lie in the same memory: that is so for the destinations of one SEND.
fn is_same(one: &Bytes, other: &Bytes) -> bool {
    one.as_ptr() == other.as_ptr() && one.len() == other.len()
}
