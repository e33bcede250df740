//! What each frame of a connected client means.

use super::{
    AckMode, Active, Request, Send, Session, SessionError, State, Ticket,
    subscriptions::{DeliveryRef, SubName},
};
use crate::{
    destination::Destination,
    frame::{Command, Frame, Version, encode_stored_head},
};

/// How a frame was taken in.
pub(super) enum Outcome {
    /// Nothing is left to do: its receipt may go out at once.
    Done,
    /// The broker has to do something; its answer to the request sends the receipt.
    Asked(Request),
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
            Command::Ack => active.acknowledge(ticket, &frame, true),
            Command::Nack if active.version > Version::V1_0 => active.acknowledge(ticket, &frame, false),
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
        let destination = self.destination(&frame)?;
        let persistent =
            frame.headers.get("persistent").is_none_or(|value| !value.trim().eq_ignore_ascii_case("false"));
        let send = Send { destination, head: encode_stored_head(&frame.headers), body: frame.body, persistent };
        match frame.headers.get("transaction") {
            Some(id) => {
                self.transactions.send(id, send)?;
                Ok(Outcome::Done)
            }
            None => Ok(Outcome::Asked(Request::Publish { ticket, unit: vec![send], acks: Vec::new() })),
        }
    }

    fn subscribe(&mut self, ticket: Ticket, frame: &Frame) -> Result<Outcome, SessionError> {
        let destination = self.destination(frame)?;
        let name = self.sub_name(frame, destination.as_str())?;
        let ack = match frame.headers.get("ack") {
            None | Some("auto") => AckMode::Auto,
            Some("client") => AckMode::Client,
            Some("client-individual") => AckMode::ClientIndividual,
            Some(value) => {
                return Err(bad_header(frame, "ack", value, "it is `auto`, `client` or `client-individual`"));
            }
        };
        let max = self.limits.max_prefetch;
        let prefetch = match frame.headers.get("prefetch-count") {
            None => self.limits.default_prefetch,
            Some(value) => match value.trim().parse::<u64>() {
                Ok(0) => max,
                // Cut to fit, so the conversion can't fail.
                Ok(count) => u32::try_from(count).unwrap_or(max).min(max),
                Err(_) => return Err(bad_header(frame, "prefetch-count", value, "it is a number of messages")),
            },
        };
        let sub = self.subscriptions.open(name, destination.to_shared(), ack)?;
        Ok(Outcome::Asked(Request::Subscribe { ticket, sub, destination, ack, prefetch: prefetch.max(1) }))
    }

    fn unsubscribe(&mut self, ticket: Ticket, frame: &Frame) -> Result<Outcome, SessionError> {
        let destination = frame.headers.get("destination").unwrap_or_default();
        let name = self.sub_name(frame, destination)?;
        let (sub, requeue) = self.subscriptions.close(&name)?;
        Ok(Outcome::Asked(Request::Unsubscribe { ticket, sub, requeue }))
    }

    fn acknowledge(&mut self, ticket: Ticket, frame: &Frame, ack: bool) -> Result<Outcome, SessionError> {
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
        let settled = self.subscriptions.settle(delivery)?;
        if settled.is_empty() {
            return Ok(Outcome::Done);
        }
        if let Some(id) = transaction {
            self.transactions.settle(id, settled, ack)?;
            return Ok(Outcome::Done);
        }
        let items = settled.into_iter().map(|settled| settled.item(ack)).collect();
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
        let items = orphans.into_iter().map(|settled| settled.item(false)).collect();
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

    fn destination(&self, frame: &Frame) -> Result<Destination, SessionError> {
        let missing =
            SessionError::MissingHeader { command: frame.command, header: "destination", version: self.version };
        Ok(Destination::parse(frame.headers.get("destination").ok_or(missing)?)?)
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

fn bad_header(frame: &Frame, header: &'static str, value: &str, expected: &'static str) -> SessionError {
    SessionError::BadHeader { command: frame.command, header, value: value.chars().take(48).collect(), expected }
}
