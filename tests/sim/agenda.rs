//! What will happen, in order of virtual time; at one time, in the order it was planned.

use std::collections::BTreeMap;

use bytes::Bytes;
use rhizomq_stomp::{broker::ConnId, frame::Frame};

use super::faults::Fault;

/// Something that will happen to a part of the world. Parts are named by index, and by life where one may have ended
/// before its turn comes.
pub(crate) enum Happening {
    /// The deadline a broker asked for.
    Wake { host: usize, life: u32 },
    /// The write under way on a host's disk ends.
    Synced { host: usize, life: u32, seq: u64 },
    /// Two hosts try to get linked, if one of them wants to; comes again and again.
    Dial { pair: (usize, usize) },
    /// A tunnel's handshake is done at one end.
    LinkReady { tunnel: u64, end: usize },
    /// The next message to one end of a tunnel is due.
    Arrive { tunnel: u64, end: usize },
    /// A datagram to one end of a tunnel.
    Datagram { tunnel: u64, end: usize, bytes: Bytes },
    /// One end may have noticed that nothing comes from the other any more.
    Expire { tunnel: u64, end: usize },
    /// One end is told that the tunnel is gone.
    Fall { tunnel: u64, end: usize },
    /// Bytes of a client arrive at its broker.
    ToBroker { conn: ConnId },
    /// Frames arrive at a client.
    ToClient { conn: ConnId, frames: Vec<Frame> },
    /// A broker's bytes, so many in all, went to the socket.
    Flushed { conn: ConnId, total: u64 },
    /// The broker closed a client's connection.
    Hangup { conn: ConnId },
    /// A client's own plan.
    Client { client: usize, token: u64 },
    /// Bad luck.
    Fault(Fault),
    /// The oracle looks around.
    Look,
}

#[derive(Default)]
pub(crate) struct Agenda {
    planned: BTreeMap<(u64, u64), Happening>,
    count: u64,
}

impl Agenda {
    pub(crate) fn at(&mut self, time: u64, happening: Happening) {
        self.count += 1;
        self.planned.insert((time, self.count), happening);
    }

    /// The next happening, if it is not later than `until`.
    pub(crate) fn next(&mut self, until: u64) -> Option<(u64, Happening)> {
        let entry = self.planned.first_entry().filter(|entry| entry.key().0 <= until)?;
        let time = entry.key().0;
        Some((time, entry.remove()))
    }

    /// Takes the faults out that have not happened yet.
    pub(crate) fn drop_faults(&mut self) {
        self.planned.retain(|_, happening| !matches!(happening, Happening::Fault(_)));
    }
}
