//! Virtual STOMP clients: producers that want receipts, consumers that acknowledge, refuse, dawdle and die.

use std::collections::BTreeMap;

use rhizomq_stomp::{
    broker::ConnId,
    frame::{Command, Frame, Version},
};

use super::{
    agenda::Happening,
    ledger::{Kind, MsgId, body_of, msg_id_of},
    world::World,
};

/// A client program: it reconnects for ever.
pub(crate) struct Client {
    pub(crate) role: Role,
    pub(crate) conn: Option<ConnId>,
    /// The only host it goes to, if it has a favourite.
    pub(crate) home: Option<usize>,
    pub(crate) version: Version,
    /// Whether it has done its work and stays away.
    pub(crate) retired: bool,
    /// Receipts it waits for, by number.
    pub(crate) pending: BTreeMap<u64, Pending>,
    ready: bool,
    leaving: bool,
    receipts: u64,
    token: u64,
}

/// What a receipt will tell.
pub(crate) enum Pending {
    /// These messages are kept.
    Publish { ids: Vec<MsgId>, since: u64 },
    /// These messages are consumed.
    Ack { ids: Vec<MsgId> },
    /// The connection can be closed.
    Leave,
}

pub(crate) enum Role {
    Producer(Producer),
    Consumer(Consumer),
}

#[derive(Clone, Debug)]
pub(crate) struct Producer {
    pub(crate) queues: Vec<usize>,
    /// Messages still to send.
    pub(crate) left: u32,
    /// At most so many receipts are waited for at a time.
    pub(crate) window: usize,
    pub(crate) pace_ms: u64,
    /// How often it sends several messages in one transaction.
    pub(crate) transactions: f64,
    /// How often it sends a message that need not be kept.
    pub(crate) transient: f64,
    /// Bytes of filling, at most.
    pub(crate) filling: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) queues: Vec<usize>,
    /// `auto`, `client` or `client-individual`.
    pub(crate) mode: &'static str,
    pub(crate) prefetch: u32,
    /// Milliseconds of work on each message.
    pub(crate) work_ms: u64,
    /// How often it refuses a message, and how often it dies at work.
    pub(crate) nacks: f64,
    pub(crate) deaths: f64,
    /// Messages it has and has not answered, in order.
    pub(crate) held: Vec<Held>,
}

#[derive(Clone, Debug)]
pub(crate) struct Held {
    id: MsgId,
    subscription: String,
    message_id: String,
    /// The value of MESSAGE's `ack` header (STOMP 1.2).
    ack: String,
}

impl Client {
    /// Whether it has said DISCONNECT.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving
    }
}

impl Consumer {
    /// One that acknowledges everything at once, for ever.
    pub(crate) fn patient(queues: Vec<usize>) -> Self {
        let mode = "client-individual";
        Self { queues, mode, prefetch: 50, work_ms: 0, nacks: 0.0, deaths: 0.0, held: Vec::new() }
    }
}

impl World {
    pub(crate) fn add_client(&mut self, role: Role, home: Option<usize>) -> usize {
        let version = self.rng.pick(&[Version::V1_2, Version::V1_2, Version::V1_1]);
        let client = self.clients.len();
        self.clients.push(Client {
            role,
            conn: None,
            home,
            version,
            retired: false,
            pending: BTreeMap::new(),
            ready: false,
            leaving: false,
            receipts: 0,
            token: 0,
        });
        self.plan(client, 1);
        client
    }

    /// The client acts again after so many milliseconds, and not before.
    fn plan(&mut self, client: usize, after: u64) {
        self.clients[client].token += 1;
        let token = self.clients[client].token;
        self.agenda.at(self.now + after, Happening::Client { client, token });
    }

    /// The client does what it does next.
    pub(crate) fn act_client(&mut self, client: usize, token: u64) {
        if self.clients[client].token != token || self.clients[client].retired {
            return;
        }
        let Some(conn) = self.clients[client].conn else {
            self.client_connects(client);
            return;
        };
        if !self.clients[client].ready || self.clients[client].leaving {
            return; // the answer, or the loss of the connection, sets it going again
        }
        let pause = match &self.clients[client].role {
            Role::Producer(_) => self.produce(client, conn),
            Role::Consumer(_) => self.consume(client, conn),
        };
        if let Some(pause) = pause {
            self.plan(client, pause);
        }
    }

    fn client_connects(&mut self, client: usize) {
        let up: Vec<_> = (0..self.hosts.len()).filter(|&host| self.hosts[host].is_up()).collect();
        let host = match self.clients[client].home {
            Some(home) if self.hosts[home].is_up() => home,
            None if !up.is_empty() => self.rng.pick(&up),
            _ => return self.plan(client, 200),
        };
        let version = self.clients[client].version;
        let Some(conn) = self.connect(client, host, version) else { return self.plan(client, 200) };
        self.clients[client].conn = Some(conn);
        self.clients[client].ready = false;
        self.clients[client].leaving = false;
        let accept = if version == Version::V1_2 { "1.2" } else { "1.1" };
        let hello = Frame::new(Command::Stomp, [("accept-version", accept), ("host", "sim"), ("heart-beat", "0,0")]);
        self.client_sends(conn, &hello);
    }

    /// Sends a message or a transaction, if the window allows. How long to pause, `None` when all is sent.
    fn produce(&mut self, client: usize, conn: ConnId) -> Option<u64> {
        let waiting = self.clients[client].pending.len();
        let Role::Producer(producer) = &mut self.clients[client].role else { return None };
        if producer.left == 0 {
            return None;
        }
        let pause = 1 + producer.pace_ms;
        if waiting >= producer.window {
            return Some(pause);
        }
        let (queues, transient, filling) = (producer.queues.clone(), producer.transient, producer.filling);
        let unit =
            if self.rng.chance(producer.transactions) { self.rng.within(2, 5) as u32 } else { 1 }.min(producer.left);
        producer.left -= unit;
        let receipt = self.next_receipt(client);
        let transaction = (unit > 1).then(|| format!("t{receipt}"));
        if let Some(name) = &transaction {
            self.client_sends(conn, &Frame::new(Command::Begin, [("transaction", name)]));
        }
        let mut ids = Vec::new();
        for _ in 0..unit {
            let queue = self.rng.pick(&queues);
            let persistent = transaction.is_some() || !self.rng.chance(transient);
            let filling = if self.rng.chance(0.05) { filling } else { filling.min(20) };
            let filling = self.rng.within(0, filling) as usize;
            let id = self.ledger.sent((conn.0, queue), persistent);
            ids.push(id);
            let mut headers = vec![("destination".to_owned(), destination(queue))];
            match &transaction {
                Some(name) => headers.push(("transaction".to_owned(), name.clone())),
                None => headers.push(("receipt".to_owned(), receipt.to_string())),
            }
            if !persistent {
                headers.push(("persistent".to_owned(), "false".to_owned()));
            }
            self.client_sends(conn, &Frame::new(Command::Send, headers).with_body(body_of(id, filling)));
        }
        if let Some(name) = &transaction {
            let commit = [("transaction", name.clone()), ("receipt", receipt.to_string())];
            self.client_sends(conn, &Frame::new(Command::Commit, commit));
        }
        self.clients[client].pending.insert(receipt, Pending::Publish { ids, since: self.now });
        Some(pause)
    }

    fn next_receipt(&mut self, client: usize) -> u64 {
        self.clients[client].receipts += 1;
        self.clients[client].receipts
    }

    /// Answers the oldest message it has. How long to pause, `None` until the next one arrives.
    fn consume(&mut self, client: usize, conn: ConnId) -> Option<u64> {
        let Role::Consumer(consumer) = &self.clients[client].role else { return None };
        let (work_ms, nacks, deaths, mode) = (consumer.work_ms, consumer.nacks, consumer.deaths, consumer.mode);
        let held = consumer.held.len();
        if self.rng.chance(deaths) {
            self.client_goes(client, conn);
            return None;
        }
        if held == 0 {
            return None;
        }
        let ack = !self.rng.chance(nacks);
        let upto = if mode == "client" { self.rng.below(held.min(8)) } else { 0 };
        let wants_receipt = self.rng.chance(0.5);
        let Role::Consumer(consumer) = &mut self.clients[client].role else { return None };
        let target = consumer.held.remove(upto);
        let mut ids = vec![target.id];
        if mode == "client" {
            // An answer covers all earlier deliveries of the subscription.
            let mut place = 0;
            consumer.held.retain(|held| {
                place += 1;
                let covered = place <= upto && held.subscription == target.subscription;
                if covered {
                    ids.push(held.id);
                }
                !covered
            });
        }
        let mut headers = if self.clients[client].version == Version::V1_2 {
            vec![("id".to_owned(), target.ack)]
        } else {
            vec![("message-id".to_owned(), target.message_id), ("subscription".to_owned(), target.subscription)]
        };
        if ack {
            for &id in &ids {
                self.ledger.msg(id).consumed.get_or_insert(self.now);
            }
            if wants_receipt {
                let receipt = self.next_receipt(client);
                headers.push(("receipt".to_owned(), receipt.to_string()));
                self.clients[client].pending.insert(receipt, Pending::Ack { ids: ids.clone() });
            }
        }
        if !ack {
            self.excused = true;
            ids.iter().for_each(|&id| self.ledger.msg(id).held_by = None);
        }
        let command = if ack { Command::Ack } else { Command::Nack };
        self.client_sends(conn, &Frame::new(command, headers));
        Some(1 + work_ms)
    }

    /// The client's work is over.
    pub(crate) fn retire_client(&mut self, client: usize) {
        self.clients[client].retired = true;
        if let Some(conn) = self.clients[client].conn {
            self.client_vanishes(conn);
            self.client_lost(client, conn);
        }
    }

    /// The client leaves: politely, or by dying.
    pub(crate) fn client_goes(&mut self, client: usize, conn: ConnId) {
        if self.rng.chance(0.3) {
            let receipt = self.next_receipt(client);
            self.clients[client].leaving = true;
            self.clients[client].pending.insert(receipt, Pending::Leave);
            let farewell = Frame::new(Command::Disconnect, [("receipt", receipt.to_string())]);
            self.client_sends(conn, &farewell);
        } else {
            self.client_vanishes(conn);
            self.client_lost(client, conn);
        }
        self.excused = true;
    }

    /// The client has no connection any more.
    pub(crate) fn client_lost(&mut self, client: usize, conn: ConnId) {
        if self.clients[client].conn != Some(conn) {
            return;
        }
        self.clients[client].conn = None;
        self.clients[client].pending.clear();
        if let Role::Consumer(consumer) = &mut self.clients[client].role {
            consumer.held.clear();
        }
        let after = self.rng.within(10, 1_000);
        self.plan(client, after);
    }

    /// A frame arrives.
    pub(crate) fn client_receives(&mut self, client: usize, conn: ConnId, frame: &Frame) {
        if self.clients[client].conn != Some(conn) {
            return;
        }
        match frame.command {
            Command::Connected => {
                self.clients[client].ready = true;
                self.subscribe(client, conn);
                self.plan(client, 1);
            }
            Command::Receipt => {
                let receipt = frame.headers.get("receipt-id").and_then(|id| id.parse().ok());
                match receipt.and_then(|receipt: u64| self.clients[client].pending.remove(&receipt)) {
                    Some(Pending::Publish { ids, .. }) => {
                        ids.into_iter().for_each(|id| self.ledger.msg(id).confirmed = Some(self.now));
                    }
                    Some(Pending::Ack { .. } | Pending::Leave) => {}
                    None => self.ledger.violate(self.now, Kind::ClientError, format!("c{client} got a receipt twice")),
                }
            }
            Command::Message => self.client_gets(client, frame),
            Command::Error => {
                let text = format!("{:?} {}", frame.headers, String::from_utf8_lossy(&frame.body));
                if !text.contains("full") {
                    self.ledger.violate(self.now, Kind::ClientError, format!("c{client}: {text}"));
                }
            }
            other => self.ledger.violate(self.now, Kind::ClientError, format!("c{client} got a {other}")),
        }
    }

    fn subscribe(&mut self, client: usize, conn: ConnId) {
        let Role::Consumer(consumer) = &self.clients[client].role else { return };
        let (queues, mode, prefetch) = (consumer.queues.clone(), consumer.mode, consumer.prefetch.to_string());
        for queue in queues {
            let (id, to) = (queue.to_string(), destination(queue));
            let headers = [("id", &*id), ("destination", &*to), ("ack", mode), ("prefetch-count", &*prefetch)];
            self.client_sends(conn, &Frame::new(Command::Subscribe, headers));
        }
    }

    fn client_gets(&mut self, client: usize, frame: &Frame) {
        let Some(id) = msg_id_of(&frame.body) else { return };
        self.ledger.msg(id).arrived = true;
        let header = |name| frame.headers.get(name).unwrap_or_default().to_owned();
        let held =
            Held { id, subscription: header("subscription"), message_id: header("message-id"), ack: header("ack") };
        let Role::Consumer(consumer) = &mut self.clients[client].role else { return };
        if consumer.mode == "auto" {
            let deaths = consumer.deaths;
            if let Some(conn) = self.clients[client].conn.filter(|_| self.rng.chance(deaths)) {
                self.client_goes(client, conn);
            }
            return;
        }
        consumer.held.push(held);
        if consumer.held.len() == 1 {
            let pause = 1 + consumer.work_ms;
            self.plan(client, pause);
        }
    }
}

pub(crate) fn destination(queue: usize) -> String {
    format!("/queue/q{queue}")
}
