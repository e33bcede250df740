//! What the core wants written, cut into pieces for the socket.

use bytes::{Bytes, BytesMut};

use crate::transport::websocket::{Outbound, Piece};

/// Bytes gathered for one write.
const WRITE_BYTES: usize = 256 << 10;

/// Said when all is said, RFC 6455 section 7.4.1.
const NORMAL_CLOSE: u16 = 1000;

/// Gathers small pieces, and puts them into messages where a WebSocket carries them.
pub(super) struct Packing {
    gathered: BytesMut,
    large: Option<Bytes>,
    websocket: Option<Outbound>,
}

impl Packing {
    pub(super) fn new(websocket: bool) -> Self {
        Self { gathered: BytesMut::new(), large: None, websocket: websocket.then(Outbound::default) }
    }

    /// To be followed by [`poll`](Self::poll) until there is no more, once it [is full](Self::is_full).
    pub(super) fn push(&mut self, bytes: Bytes) {
        match &mut self.websocket {
            Some(outbound) => outbound.push(bytes),
            // A large body is written as it is; small pieces are gathered.
            None if bytes.len() >= WRITE_BYTES => self.large = Some(bytes),
            None => self.gathered.extend_from_slice(&bytes),
        }
    }

    /// Answers a WebSocket's ping.
    pub(super) fn pong(&mut self, payload: &[u8]) {
        if let Some(outbound) = &mut self.websocket {
            outbound.pong(payload);
        }
    }

    /// Nothing follows; a WebSocket says so, with a code of its own if something is wrong.
    pub(super) fn end(&mut self, code: Option<u16>) {
        if let Some(outbound) = &mut self.websocket {
            outbound.close(code.unwrap_or(NORMAL_CLOSE));
        }
    }

    pub(super) fn is_full(&self) -> bool {
        match &self.websocket {
            Some(outbound) => outbound.waiting() >= WRITE_BYTES,
            None => self.large.is_some() || self.gathered.len() >= WRITE_BYTES,
        }
    }

    pub(super) fn poll(&mut self) -> Option<Piece> {
        if let Some(outbound) = &mut self.websocket {
            return outbound.poll();
        }
        let gathered = (!self.gathered.is_empty()).then(|| self.gathered.split().freeze());
        gathered.or_else(|| self.large.take()).map(|bytes| Piece { counts: bytes.len(), bytes })
    }
}
