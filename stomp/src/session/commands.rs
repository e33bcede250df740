//! What each frame of a connected client means.

use std::sync::Arc;

use super::{
    AckMode, Active, Fate, Lifetime, Request, Send, Service, Session, SessionError, State, Ticket, service,
    subscriptions::{Closed, DeliveryRef, SubName},
    temps::Temps,
    timing,
};
use crate::{
    destination::{Destination, DestinationError, Kind, MAX_PARTS, parts},
    duplicates::{DuplicateId, HEADERS},
    durable::DurableName,
    frame::{Command, Frame, Headers, Version, encode_stored_head},
    selector::Selector,
};

/// What both ActiveMQs call the name of a durable subscription, older spellings included.
const DURABLE_HEADERS: [&str; 4] =
    ["activemq.subscriptionName", "activemq.subcriptionName", "durable-subscription-name", "durable-subscriber-name"];

/// How a frame was taken in.
pub(super) enum Outcome {
    /// Nothing is left to do: its receipt may go out at once.
    Done,
    /// The broker has to do something; its answer to the request sends the receipt.
    Asked(Request),
    /// The same, for one thing after the other; the receipt is for the second.
    AskedTwice(Request, Request),
    /// The client leaves, which the broker has to know; the receipt comes last.
    Leaving(Request),
}

impl Session {
    /// One frame of a connected client. A request that it results in carries the next ticket.
    pub(super) fn handle_command(&mut self, frame: Frame) -> Result<Outcome, SessionError> {
        let State::Open(active) = &mut self.state else { return Ok(Outcome::Done) };
        let ticket = self.next_ticket;
        match frame.command {
            Command::Send => active.send(ticket, frame),
            Command::Subscribe => active.subscribe(ticket, &frame),
            Command::Unsubscribe => active.unsubscribe(ticket, &frame),
            Command::Ack => active.acknowledge(ticket, &frame, Fate::Consumed),
            Command::Nack if active.version > Version::V1_0 => {
                let fate = refusal(&frame)?;
                active.acknowledge(ticket, &frame, fate)
            }
            Command::Begin => active.begin(&frame),
            Command::Commit => active.commit(ticket, &frame),
            Command::Abort => active.abort(ticket, &frame),
            Command::Disconnect => Ok(Outcome::Leaving(active.leave(ticket))),
            command => Err(SessionError::UnexpectedCommand { command, version: active.version }),
        }
    }
}

impl Active {
    fn send(&mut self, ticket: Ticket, frame: Frame) -> Result<Outcome, SessionError> {
        let destinations = self.targets(self.destination(&frame)?)?;
        let persistent =
            frame.headers.get("persistent").is_none_or(|value| !value.trim().eq_ignore_ascii_case("false"));
        let lifetime = lifetime(&frame)?;
        let (priority, (delay_ms, schedule)) = (timing::priority(&frame)?, timing::schedule(&frame)?);
        let (head, subscribe) = self.reply_to(ticket, &frame.headers)?;
        let id = HEADERS.into_iter().find_map(|header| frame.headers.get(header).filter(|id| !id.is_empty()));
        let send = |destination| {
            let (head, body, schedule) = (head.clone(), frame.body.clone(), schedule.clone());
            let duplicate = id.map(|id| DuplicateId::new(&destination, id));
            Send { destination, head, body, persistent, lifetime, priority, delay_ms, schedule, duplicate }
        };
        let unit: Vec<_> = destinations.into_iter().map(send).collect();
        match (frame.headers.get("transaction"), subscribe) {
            (Some(id), subscribe) => {
                self.transactions.check(id)?;
                unit.into_iter().try_for_each(|send| self.transactions.send(id, send))?;
                Ok(subscribe.map_or(Outcome::Done, Outcome::Asked))
            }
            (None, Some(subscribe)) => {
                let ticket = Ticket(ticket.0 + 1);
                Ok(Outcome::AskedTwice(subscribe, Request::Publish { ticket, unit, acks: Vec::new() }))
            }
            (None, None) => Ok(Outcome::Asked(Request::Publish { ticket, unit, acks: Vec::new() })),
        }
    }

    /// All that a SEND goes to, each once.
    fn targets(&mut self, text: &str) -> Result<Vec<Destination>, SessionError> {
        let count = parts(text).take(MAX_PARTS + 1).count();
        if count > MAX_PARTS {
            return Err(DestinationError::TooMany { parts: parts(text).count() }.into());
        }
        let mut targets = Vec::with_capacity(count);
        for part in parts(text) {
            let target = match Temps::name_in(part) {
                Some(name) => Destination::reply_queue(self.temps.inbox(name)?),
                None => Destination::target(part)?,
            };
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        Ok(targets)
    }

    /// The headers to store. A `reply-to` that names a temporary queue of this connection gets the queue's real name there,
    /// and if nobody reads that queue, a subscription to it.
    fn reply_to(&mut self, ticket: Ticket, headers: &Headers) -> Result<(bytes::Bytes, Option<Request>), SessionError> {
        let Some((text, name)) = headers.get("reply-to").and_then(|text| Some((text, Temps::name_in(text)?))) else {
            return Ok((encode_stored_head(headers), None));
        };
        let inbox = self.temps.inbox(name)?;
        let entries = headers.iter().map(|(name, value)| (name, if name == "reply-to" { &*inbox } else { value }));
        let head = encode_stored_head(&entries.collect());
        if self.subscriptions.is_read(text) {
            return Ok((head, None));
        }
        let sub = self.subscriptions.open(SubName::Id(text.to_owned()), text.into(), AckMode::Auto, false, None)?;
        self.temps.set_implicit(name, sub);
        let subscribe = Request::Subscribe {
            ticket,
            sub,
            destination: Destination::reply_queue(inbox),
            ack: AckMode::Auto,
            prefetch: self.limits.default_prefetch.max(1),
            chooses_prefetch: false,
            service: Service::Shared,
            selector: None,
            durable: None,
            awaited: false,
        };
        Ok((head, Some(subscribe)))
    }

    fn subscribe(&mut self, ticket: Ticket, frame: &Frame) -> Result<Outcome, SessionError> {
        let text = self.destination(frame)?;
        let temp = Temps::name_in(text).filter(|_| parts(text).nth(1).is_none());
        let (destination, shown) = match temp {
            Some(name) => (Destination::reply_queue(self.temps.inbox(name)?), Arc::from(text)),
            None => {
                let destination = Destination::source(text)?;
                let shown = destination.to_shared();
                (destination, shown)
            }
        };
        let name = self.sub_name(frame, &shown)?;
        let ack = match frame.headers.get("ack") {
            None | Some("auto") => AckMode::Auto,
            Some("client") => AckMode::Client,
            Some("client-individual") => AckMode::ClientIndividual,
            Some(value) => {
                return Err(bad_header(frame, "ack", value, "it is `auto`, `client` or `client-individual`"));
            }
        };
        let chosen = service::prefetch(frame, &self.limits)?;
        let (prefetch, chooses_prefetch) = (chosen.unwrap_or(self.limits.default_prefetch), chosen.is_some());
        let service = service::service(frame, destination.kind())?;
        let selector = frame.headers.get("selector").map_or(Ok(None), Selector::parse)?;
        let durable = self.durable(frame, &destination)?;
        let implicit = temp.and_then(|name| self.temps.implicit(name));
        let replaced = implicit.and_then(|key| self.subscriptions.close_key(key));
        let sub = self.subscriptions.open(name, shown, ack, service == Service::Browse, durable.clone())?;
        let awaited = frame.headers.get("receipt").is_some();
        let subscribe = |ticket| {
            let prefetch = prefetch.max(1);
            Request::Subscribe {
                ticket,
                sub,
                destination,
                ack,
                prefetch,
                chooses_prefetch,
                service,
                selector,
                durable,
                awaited,
            }
        };
        Ok(match replaced {
            Some(Closed { key, requeue, .. }) => {
                let unsubscribe = Request::Unsubscribe { ticket, sub: key, requeue };
                Outcome::AskedTwice(unsubscribe, subscribe(Ticket(ticket.0 + 1)))
            }
            None => Outcome::Asked(subscribe(ticket)),
        })
    }

    /// The durable subscription that a SUBSCRIBE asks for, in any of the spellings that brokers have for it.
    fn durable(&self, frame: &Frame, destination: &Destination) -> Result<Option<DurableName>, SessionError> {
        if destination.kind() != Kind::Topic {
            return Ok(None);
        }
        if let Some(name) = self.client_durable(frame)? {
            return Ok(Some(name));
        }
        let is = |header, wanted: &str| {
            frame.headers.get(header).is_some_and(|value| value.trim().eq_ignore_ascii_case(wanted))
        };
        if !is("durable", "true") || !is("auto-delete", "false") {
            return Ok(None);
        }
        Ok(Some(match frame.headers.get("x-queue-name").filter(|name| !name.is_empty()) {
            Some(name) => DurableName::of_queue(name)?,
            None => DurableName::of_id(self.required(frame, "id")?, destination.name())?,
        }))
    }

    /// That of a client with a name, as both ActiveMQs have it. In 1.0 the subscription's name stands in for the client's.
    fn client_durable(&self, frame: &Frame) -> Result<Option<DurableName>, SessionError> {
        let found = DURABLE_HEADERS.into_iter().find_map(|header| Some((header, frame.headers.get(header)?)));
        let Some((header, name)) = found.filter(|(_, name)| !name.is_empty()) else { return Ok(None) };
        let client = match &self.client_id {
            Some(client) => client,
            None if self.version == Version::V1_0 => name,
            None => return Err(SessionError::MissingClientId { header }),
        };
        Ok(Some(DurableName::of_client(client, name)?))
    }

    fn unsubscribe(&mut self, ticket: Ticket, frame: &Frame) -> Result<Outcome, SessionError> {
        let text = frame.headers.get("destination").unwrap_or_default();
        let destination = Destination::parse(text).ok();
        let shown = destination.as_ref().map_or(text, Destination::as_str);
        let closed = self.sub_name(frame, shown).and_then(|name| self.subscriptions.close(&name));
        let unsubscribe = |Closed { key, requeue, .. }, ticket| Request::Unsubscribe { ticket, sub: key, requeue };
        let client_durable = self.client_durable(frame)?;
        let is_durable = frame.headers.get("durable").is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
        if client_durable.is_none() && !is_durable {
            return Ok(Outcome::Asked(unsubscribe(closed?, ticket)));
        }
        // With the headers that made it, a durable subscription is deleted, whether or not this session reads it.
        let own = closed.as_ref().ok().and_then(|closed| closed.durable.clone());
        let named = match (client_durable, frame.headers.get("x-queue-name"), destination) {
            (Some(name), ..) => Some(name),
            (None, Some(name), _) if !name.is_empty() => Some(DurableName::of_queue(name)?),
            (None, _, Some(topic)) if topic.kind() == Kind::Topic => {
                frame.headers.get("id").map(|id| DurableName::of_id(id, topic.name())).transpose()?
            }
            _ => None,
        };
        match (closed, own.or(named)) {
            (Ok(closed), Some(name)) => {
                let forget = Request::Forget { ticket: Ticket(ticket.0 + 1), name };
                Ok(Outcome::AskedTwice(unsubscribe(closed, ticket), forget))
            }
            (Err(_), Some(name)) => Ok(Outcome::Asked(Request::Forget { ticket, name })),
            (closed, None) => Ok(Outcome::Asked(unsubscribe(closed?, ticket))),
        }
    }

    fn acknowledge(&mut self, ticket: Ticket, frame: &Frame, fate: Fate) -> Result<Outcome, SessionError> {
        let delivery = match self.version {
            Version::V1_0 => DeliveryRef::Message {
                message_id: self.required(frame, "message-id")?,
                subscription: frame.headers.get("subscription"),
            },
            Version::V1_1 => DeliveryRef::Message {
                message_id: self.required(frame, "message-id")?,
                subscription: Some(self.required(frame, "subscription")?),
            },
            Version::V1_2 => DeliveryRef::Ack(self.required(frame, "id")?),
        };
        let transaction = frame.headers.get("transaction");
        if let Some(id) = transaction {
            self.transactions.check(id)?;
        }
        if fate != Fate::Consumed && self.subscriptions.is_browsed(delivery) {
            return Err(SessionError::NackWhileBrowsing);
        }
        let settled = self.subscriptions.settle(delivery)?;
        if settled.is_empty() {
            return Ok(Outcome::Done);
        }
        if let Some(id) = transaction {
            self.transactions.settle(id, settled, fate)?;
            return Ok(Outcome::Done);
        }
        let items = settled.into_iter().map(|settled| settled.item(fate)).collect();
        Ok(Outcome::Asked(Request::Ack { ticket, items }))
    }

    fn begin(&mut self, frame: &Frame) -> Result<Outcome, SessionError> {
        self.transactions.begin(self.required(frame, "transaction")?)?;
        Ok(Outcome::Done)
    }

    fn commit(&mut self, ticket: Ticket, frame: &Frame) -> Result<Outcome, SessionError> {
        let (unit, acks) = self.transactions.end(self.required(frame, "transaction")?)?.into_unit();
        if unit.is_empty() && acks.is_empty() {
            return Ok(Outcome::Done);
        }
        Ok(Outcome::Asked(Request::Publish { ticket, unit, acks }))
    }

    fn abort(&mut self, ticket: Ticket, frame: &Frame) -> Result<Outcome, SessionError> {
        let transaction = self.transactions.end(self.required(frame, "transaction")?)?;
        // What it had acknowledged is unacknowledged again; where the subscription is gone, nobody is left to do it.
        let orphans = self.subscriptions.unsettle(transaction.into_settled());
        if orphans.is_empty() {
            return Ok(Outcome::Done);
        }
        let items = orphans.into_iter().map(|settled| settled.item(Fate::Requeued)).collect();
        Ok(Outcome::Asked(Request::Ack { ticket, items }))
    }

    /// Ends all subscriptions and transactions. What `auto` subscriptions have written stays to be flushed.
    fn leave(&mut self, ticket: Ticket) -> Request {
        let (subs, mut requeue) = self.subscriptions.close_all();
        requeue.extend(self.transactions.abort_all().into_iter().map(|settled| settled.message_id));
        Request::Disconnect { ticket, subs, requeue }
    }

    /// A header that must be there; an empty one names nothing and counts as missing.
    fn required<'a>(&self, frame: &'a Frame, header: &'static str) -> Result<&'a str, SessionError> {
        frame.headers.get(header).filter(|value| !value.is_empty()).ok_or(SessionError::MissingHeader {
            command: frame.command,
            header,
            version: self.version,
        })
    }

    fn destination<'a>(&self, frame: &'a Frame) -> Result<&'a str, SessionError> {
        let missing =
            SessionError::MissingHeader { command: frame.command, header: "destination", version: self.version };
        frame.headers.get("destination").ok_or(missing)
    }

    /// The `id`; in 1.0 the destination stands in for it.
    fn sub_name(&self, frame: &Frame, destination: &str) -> Result<SubName, SessionError> {
        match self.required(frame, "id") {
            Ok(id) => Ok(SubName::Id(id.to_owned())),
            Err(_) if self.version == Version::V1_0 && !destination.is_empty() => {
                Ok(SubName::Destination(destination.to_owned()))
            }
            Err(missing) => Err(missing),
        }
    }
}

/// What a NACK means: RabbitMQ's `requeue:false` takes the message out of its queue.
fn refusal(frame: &Frame) -> Result<Fate, SessionError> {
    match frame.headers.get("requeue").map(str::trim) {
        None | Some("true") => Ok(Fate::Requeued),
        Some("false") => Ok(Fate::Rejected),
        Some(value) => Err(bad_header(frame, "requeue", value, "it is `true` or `false`")),
    }
}

/// When a message expires, as its sender says; nought is ActiveMQ's way to say never.
fn lifetime(frame: &Frame) -> Result<Lifetime, SessionError> {
    let number = |header: &'static str, expected: &'static str| {
        let value = frame.headers.get(header).map(str::trim).filter(|value| !value.is_empty());
        let number = |value: &str| value.parse::<u64>().map_err(|_| bad_header(frame, header, value, expected));
        value.map(number).transpose()
    };
    let expires = number("expires", "it is a time in ms since 1970")?.filter(|at| *at > 0);
    Ok(Lifetime { expires, ttl_ms: number("expiration", "it is a number of ms to live")? })
}

pub(super) fn bad_header(frame: &Frame, header: &'static str, value: &str, expected: &'static str) -> SessionError {
    SessionError::BadHeader { command: frame.command, header, value: value.chars().take(48).collect(), expected }
}
