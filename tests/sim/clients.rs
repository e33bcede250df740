//! Virtual STOMP clients, of all roles: how they connect, wait for receipts, leave and die; and what producers do.

use std::collections::{BTreeMap, VecDeque};

use rhizomq_stomp::{
    broker::ConnId,
    frame::{Command, Frame, Version},
};

use super::{
    agenda::Happening,
    consumers::{AtWork, Consumer},
    ledger::{Kind, MsgId, body_of},
    topics::{Listener, Publisher},
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
    /// Whether a producer calls its messages by ids of its own, and sends again what it has no receipt for.
    pub(crate) repeats: bool,
    /// What it is to send again.
    again: VecDeque<MsgId>,
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
    /// The messages of an aborted transaction are the client's still.
    Abort,
    /// No more comes to a subscription.
    Unsubscribe { subscription: u64 },
    /// What is sent to a topic from now on comes.
    Listen,
    /// A message to a topic was passed on.
    Topic,
    /// The connection can be closed.
    Leave,
}

#[expect(clippy::large_enum_variant, reason = "there are few clients")]
pub(crate) enum Role {
    Producer(Producer),
    Consumer(Consumer),
    Publisher(Publisher),
    Listener(Listener),
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

impl Client {
    /// Whether it has said DISCONNECT.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving
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
            repeats: false,
            again: VecDeque::new(),
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
    pub(crate) fn plan(&mut self, client: usize, after: u64) {
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
            Role::Publisher(_) => self.publish_to_topic(client, conn),
            Role::Listener(_) => None,
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
        let headers = [("accept-version", accept), ("host", "sim"), ("heart-beat", "0,0"), ("client-id", "sim")];
        let hello = Frame::new(Command::Stomp, headers);
        self.client_sends(conn, &hello);
    }

    /// Sends a message or a transaction, if the window allows. How long to pause, `None` when all is sent.
    fn produce(&mut self, client: usize, conn: ConnId) -> Option<u64> {
        if let Some(id) = self.clients[client].again.pop_front() {
            return self.send_again(client, conn, id);
        }
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
            if self.settings.lanes {
                headers.extend(self.timing_of(id, queue));
            }
            match &transaction {
                Some(name) => headers.push(("transaction".to_owned(), name.clone())),
                None => headers.push(("receipt".to_owned(), receipt.to_string())),
            }
            if self.clients[client].repeats {
                headers.push(("_AMQ_DUPL_ID".to_owned(), id.to_string()));
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

    /// Sends a message once more, over another connection: its order among others is not promised any more.
    fn send_again(&mut self, client: usize, conn: ConnId, id: MsgId) -> Option<u64> {
        let msg = self.ledger.msg(id);
        let queue = msg.source.1;
        msg.source = (u64::MAX - u64::from(id), queue);
        // What only a lost disk had nobody can know: it is to be taken anew.
        if msg.disks.is_empty() && msg.deliveries == 0 {
            msg.dot = None;
        }
        let receipt = self.next_receipt(client);
        let headers =
            [("destination", destination(queue)), ("receipt", receipt.to_string()), ("_AMQ_DUPL_ID", id.to_string())];
        self.client_sends(conn, &Frame::new(Command::Send, headers).with_body(body_of(id, 0)));
        self.clients[client].pending.insert(receipt, Pending::Publish { ids: vec![id], since: self.now });
        Some(1)
    }

    pub(crate) fn next_receipt(&mut self, client: usize) -> u64 {
        self.clients[client].receipts += 1;
        self.clients[client].receipts
    }

    /// The client's work is over.
    pub(crate) fn retire_client(&mut self, client: usize) {
        self.clients[client].retired = true;
        if let Some(conn) = self.clients[client].conn {
            self.client_vanishes(conn);
            self.client_lost(client, conn);
        }
    }

    /// The client leaves in order: it waits for its last receipt.
    pub(crate) fn client_leaves(&mut self, client: usize, conn: ConnId) {
        let receipt = self.next_receipt(client);
        self.clients[client].leaving = true;
        self.clients[client].pending.insert(receipt, Pending::Leave);
        // What an `auto` consumer was written is its own.
        self.excused |= !self.is_auto(client);
        self.marks_excused = true;
        self.client_sends(conn, &Frame::new(Command::Disconnect, [("receipt", receipt.to_string())]));
    }

    /// The client dies.
    pub(crate) fn client_dies(&mut self, client: usize, conn: ConnId) {
        self.excused = true;
        self.client_vanishes(conn);
        self.client_lost(client, conn);
    }

    /// The client has no connection any more.
    pub(crate) fn client_lost(&mut self, client: usize, conn: ConnId) {
        if self.clients[client].conn != Some(conn) {
            return;
        }
        self.clients[client].conn = None;
        let pending = std::mem::take(&mut self.clients[client].pending);
        if self.clients[client].repeats {
            let open = pending.into_values().filter_map(|pending| match pending {
                Pending::Publish { ids, .. } => Some(ids),
                _ => None,
            });
            self.clients[client].again.extend(open.flatten());
        }
        match &mut self.clients[client].role {
            Role::Consumer(consumer) => consumer.at_work = AtWork::default(),
            Role::Listener(listener) => listener.since = None,
            Role::Producer(_) | Role::Publisher(_) => {}
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
                self.subscribe_all(client, conn);
                self.listen(client, conn);
                self.plan(client, 1);
            }
            Command::Receipt => {
                let receipt = frame.headers.get("receipt-id").and_then(|id| id.parse().ok());
                match receipt.and_then(|receipt: u64| self.clients[client].pending.remove(&receipt)) {
                    Some(Pending::Publish { ids, .. }) => {
                        ids.into_iter().for_each(|id| self.ledger.msg(id).confirmed = Some(self.now));
                    }
                    Some(Pending::Listen) => self.listens(client),
                    Some(_) => {}
                    None => self.ledger.violate(self.now, Kind::ClientError, format!("c{client} got a receipt twice")),
                }
            }
            Command::Message => self.consumer_gets(client, conn, frame),
            Command::Error => {
                let text = format!("{:?} {}", frame.headers, String::from_utf8_lossy(&frame.body));
                let host = self.conns.get(&conn).map(|connection| connection.host);
                let is_told =
                    text.contains("shutting down") && host.is_some_and(|host| self.hosts[host].stopping.is_some());
                let is_drained = text.contains("draining") && host.is_some_and(|host| self.hosts[host].has_drained);
                // An observer's client whose member is gone hears what a client of that member would.
                let is_orphaned = text.contains("keeps your messages") && self.excused;
                // By the time that this arrives the node may have found its part.
                let is_astray = text.contains("part of the cluster left without it")
                    && (self.parting.is_some() || self.mended_at.is_some() || self.splits_at_random());
                if !text.contains("full") && !is_told && !is_drained && !is_orphaned && !is_astray {
                    self.ledger.violate(self.now, Kind::ClientError, format!("c{client}: {text}"));
                }
            }
            other => self.ledger.violate(self.now, Kind::ClientError, format!("c{client} got a {other}")),
        }
    }
}

/// Queues with numbers from here on are durable subscriptions, each of a topic of its own.
pub(crate) const DURABLE: usize = 1_000;

/// What is sent to such a topic is kept, like what is sent to a queue.
pub(crate) const DURABLE_TOPIC: &str = "/topic/durable.";

pub(crate) fn destination(queue: usize) -> String {
    if queue >= DURABLE { format!("{DURABLE_TOPIC}{queue}") } else { format!("/queue/q{queue}") }
}
