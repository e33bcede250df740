//! Connections between clients and brokers: real STOMP bytes one way and the other, late, cut anywhere, in order.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use rhizomq_stomp::{
    broker::ConnId,
    frame::{Command, Decoder, Frame, Version, encode},
    limits::Limits,
};

use super::{agenda::Happening, ledger::Kind, world::World};

/// A client's connection, while the broker's end of it lives.
pub(crate) struct Connection {
    pub(crate) host: usize,
    pub(crate) client: usize,
    pub(crate) version: Version,
    decoder: Decoder,
    /// Bytes on their way to the broker, with the time they are due; `None` is the end.
    inbound: VecDeque<(u64, Option<Bytes>)>,
    paused: bool,
    /// Whether the client is still there.
    attended: bool,
    sent: u64,
    /// When the last bytes go to the socket, and when the last frames arrive.
    last_out: u64,
    last_in: u64,
    /// Milliseconds that the socket takes at most to take bytes.
    sluggish_ms: u64,
    /// Subscriptions whose end was confirmed, and whether that of the session was.
    pub(crate) ended: BTreeSet<u64>,
    pub(crate) over: bool,
}

impl World {
    /// Opens a connection; `None` if nobody listens.
    pub(crate) fn connect(&mut self, client: usize, host: usize, version: Version) -> Option<ConnId> {
        let sluggish_ms = if self.rng.chance(0.1) { 200 } else { 2 };
        let clocks = self.hosts[host].clocks(self.now);
        let broker = self.hosts[host].broker.as_mut()?;
        self.conns_made += 1;
        let conn = ConnId(self.conns_made);
        broker.handle_client_open(clocks, conn);
        let connection = Connection {
            host,
            client,
            version,
            decoder: Decoder::new(Limits::default()),
            inbound: VecDeque::new(),
            paused: false,
            attended: true,
            sent: 0,
            last_out: 0,
            last_in: 0,
            sluggish_ms,
            ended: BTreeSet::new(),
            over: false,
        };
        self.conns.insert(conn, connection);
        self.trace.note(self.now, "client", &[client as u64, host as u64], format_args!("c{client} at h{host}"));
        self.settle(host);
        Some(conn)
    }

    /// A client sends a frame, in one piece or in several.
    pub(crate) fn client_sends(&mut self, conn: ConnId, frame: &Frame) {
        let Some(connection) = self.conns.get(&conn) else { return };
        let mut bytes = encode(frame, connection.version);
        let (client, host) = (connection.client, connection.host);
        self.trace.note(
            self.now,
            "to broker",
            &[client as u64, bytes.len() as u64],
            format_args!("c{client} to h{host}: {} {:?} {}", frame.command, frame.headers, head(&frame.body)),
        );
        while !bytes.is_empty() {
            let piece = if self.rng.chance(0.1) { 1 + self.rng.below(bytes.len()) } else { bytes.len() };
            self.inbound(conn, Some(bytes.split_to(piece)));
        }
    }

    fn inbound(&mut self, conn: ConnId, bytes: Option<Bytes>) {
        let delay = self.rng.within(0, 3);
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let due = connection.inbound.back().map_or(0, |last| last.0).max(self.now + delay);
        connection.inbound.push_back((due, bytes));
        self.agenda.at(due, Happening::ToBroker { conn });
    }

    /// The client is gone without a word; what it sent last may be lost.
    pub(crate) fn client_vanishes(&mut self, conn: ConnId) {
        let lost = self.rng.chance(0.5);
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.attended = false;
        connection.paused = false;
        if lost {
            connection.inbound.clear();
        }
        self.inbound(conn, None);
    }

    pub(crate) fn bytes_arrive(&mut self, conn: ConnId) {
        loop {
            let Some(connection) = self.conns.get_mut(&conn) else { return };
            let due = connection.inbound.front().is_some_and(|(due, _)| *due <= self.now);
            if !due || connection.paused {
                return;
            }
            let (host, client) = (connection.host, connection.client);
            let Some((_, bytes)) = connection.inbound.pop_front() else { return };
            let clocks = self.hosts[host].clocks(self.now);
            let Some(broker) = &mut self.hosts[host].broker else { return };
            match bytes {
                Some(bytes) => broker.handle_client_bytes(clocks, conn, &bytes),
                None => {
                    self.trace.note(self.now, "gone", &[client as u64], format_args!("c{client} from h{host}"));
                    self.conns.remove(&conn);
                    broker.handle_client_closed(clocks, conn);
                }
            }
            self.settle(host);
        }
    }

    pub(crate) fn pause(&mut self, conn: ConnId, paused: bool) {
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.paused = paused;
            self.agenda.at(self.now, Happening::ToBroker { conn });
        }
    }

    /// A broker has bytes for a client: the oracle sees them at once, the client when they arrive.
    pub(crate) fn write_to_client(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(connection) = self.conns.get_mut(&conn) else {
            if let Some(said) = self.probes.get_mut(&conn) {
                said.extend_from_slice(bytes);
            }
            return;
        };
        connection.sent += bytes.len() as u64;
        connection.decoder.feed(bytes);
        let total = connection.sent;
        let mut frames = Vec::new();
        loop {
            let Some(connection) = self.conns.get_mut(&conn) else { return };
            let frame = match connection.decoder.poll() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    return self.ledger.violate(self.now, Kind::ClientError, format!("broken frame: {error}"));
                }
            };
            if frame.command == Command::Connected {
                connection.decoder.start_session(connection.version);
            }
            self.watch(conn, &frame);
            frames.push(frame);
        }
        let (flush, travel) = (self.rng.bits(), self.rng.within(0, 3));
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let flushed = connection.last_out.max(self.now + flush % (connection.sluggish_ms + 1));
        connection.last_out = flushed;
        self.agenda.at(flushed, Happening::Flushed { conn, total });
        if !frames.is_empty() {
            connection.last_in = connection.last_in.max(flushed + travel);
            self.agenda.at(connection.last_in, Happening::ToClient { conn, frames });
        }
    }

    pub(crate) fn flushed(&mut self, conn: ConnId, total: u64) {
        let Some(connection) = self.conns.get(&conn).filter(|connection| connection.attended) else { return };
        let host = connection.host;
        let clocks = self.hosts[host].clocks(self.now);
        if let Some(broker) = &mut self.hosts[host].broker {
            broker.handle_client_flushed(clocks, conn, total);
        }
        self.settle(host);
    }

    pub(crate) fn frames_arrive(&mut self, conn: ConnId, frames: Vec<Frame>) {
        for frame in frames {
            let Some(connection) = self.conns.get(&conn).filter(|connection| connection.attended) else { return };
            let client = connection.client;
            self.trace.note(
                self.now,
                "to client",
                &[client as u64, frame.headers.len() as u64],
                format_args!("c{client}: {} {:?} {}", frame.command, frame.headers, head(&frame.body)),
            );
            self.client_receives(client, conn, &frame);
        }
    }

    /// The broker closes a connection, once its last bytes are out.
    pub(crate) fn hang_up(&mut self, conn: ConnId) {
        if let Some(connection) = self.conns.get(&conn) {
            let due = connection.last_in.max(self.now) + 1;
            self.agenda.at(due, Happening::Hangup { conn });
        }
    }

    pub(crate) fn hung_up(&mut self, conn: ConnId) {
        let Some(connection) = self.conns.remove(&conn) else { return };
        let clocks = self.hosts[connection.host].clocks(self.now);
        if let Some(broker) = &mut self.hosts[connection.host].broker {
            broker.handle_client_closed(clocks, conn);
        }
        self.settle(connection.host);
        self.client_lost(connection.client, conn);
    }

    /// A host died: all its clients notice.
    pub(crate) fn hang_up_all(&mut self, host: usize) {
        let there: Vec<_> =
            self.conns.iter().filter(|(_, connection)| connection.host == host).map(|(conn, _)| *conn).collect();
        for conn in there {
            if let Some(connection) = self.conns.remove(&conn) {
                self.client_lost(connection.client, conn);
            }
        }
    }
}

/// The beginning of a body, for people.
fn head(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(12)]).into_owned()
}
