//! Frames that have not come in whole. Each is within its limits, but many clients may each have one under way: beyond a
//! budget the one that has been under way for longest is given up. Whoever really sends is soon done; whoever only holds
//! memory is not.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::Now;

use super::{Broker, ConnId};

/// Bytes below which a frame is not counted: little is gained by giving it up.
const FROM_BYTES: u64 = 16 << 10;

/// The frames under way.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Since when, and how many bytes of it are there.
    frames: BTreeMap<ConnId, (u64, u64)>,
    oldest: BTreeSet<(u64, ConnId)>,
    bytes: u64,
}

impl Incoming {
    /// So many bytes of a frame of this client are there, the first of them since `since`.
    pub(super) fn note(&mut self, conn: ConnId, since: u64, bytes: u64) {
        if let Some((since, bytes)) = self.frames.remove(&conn) {
            self.oldest.remove(&(since, conn));
            self.bytes -= bytes;
        }
        if bytes >= FROM_BYTES {
            self.frames.insert(conn, (since, bytes));
            self.oldest.insert((since, conn));
            self.bytes += bytes;
        }
    }

    /// There is no such frame any more.
    pub(super) fn forget(&mut self, conn: ConnId) {
        self.note(conn, 0, 0);
    }

    /// Whose frame is to be given up, if there is too much.
    fn victim(&self, budget: u64) -> Option<ConnId> {
        let &(_, conn) = self.oldest.first()?;
        (self.bytes > budget).then_some(conn)
    }
}

impl Broker {
    /// A client has sent something: looks at what is under way of its next frame, and at all that is.
    pub(super) fn note_incoming(&mut self, now: Now, conn: ConnId) {
        let Some(client) = self.clients.get(&conn) else { return };
        let (since, bytes) = client.session.incoming();
        self.incoming.note(conn, since, bytes);
        while let Some(victim) = self.incoming.victim(self.config.all_incoming_bytes) {
            self.incoming.forget(victim);
            let Some(client) = self.clients.get_mut(&victim) else { continue };
            let ms = now.mono_ms.saturating_sub(client.session.incoming().0);
            tracing::warn!(
                session = client.session.config().session,
                ms,
                "a frame that does not come in whole is given up"
            );
            let text = format!(
                "All clients together have more bytes of frames under way than this node takes, and the frame that you are \
                 sending has been under way for longest: {ms} ms. Send it again, faster or later."
            );
            client.session.error("your frame takes too long to come in", &text, None);
            self.touched.insert(victim);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_frame_is_given_up_and_small_ones_never() {
        let mut incoming = Incoming::default();
        let conn = ConnId;
        incoming.note(conn(1), 1, FROM_BYTES - 1);
        incoming.note(conn(2), 3, 100 << 10);
        incoming.note(conn(3), 2, 50 << 10);
        assert_eq!(incoming.victim(150 << 10), None);
        incoming.note(conn(3), 2, 51 << 10);
        assert_eq!(incoming.victim(150 << 10), Some(conn(3)));
        // It came in whole, and the next one began.
        incoming.note(conn(3), 9, 51 << 10);
        assert_eq!(incoming.victim(150 << 10), Some(conn(2)));
        incoming.forget(conn(2));
        assert_eq!((incoming.victim(51 << 10), incoming.bytes), (None, 51 << 10));
        incoming.forget(conn(3));
        assert_eq!((incoming.victim(0), incoming.bytes), (None, 0));
    }
}
