//! Messages on a stream: four bytes of length, most significant first, and the message.

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{ReadError, RecvStream};

use super::config::MAX_MESSAGE_BYTES;

/// Memory set aside for a message before its bytes are there. A claimed length alone costs us no more than this.
const MAX_AHEAD_BYTES: usize = 64 << 10;

/// How many pieces are taken from the connection at a time.
const PIECES: usize = 32;

/// From this size on, in bytes, a message is handed to QUIC as it is; smaller ones are gathered into large writes.
const GATHER_BELOW_BYTES: usize = 8 << 10;

/// The stream does not give the next message.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// Longer than allowed.
    #[error("a message of {0} bytes was announced, {MAX_MESSAGE_BYTES} are allowed")]
    TooLong(usize),
    /// The stream ended within a message.
    #[error("the stream ended in the middle of a message")]
    Torn,
    /// The connection broke.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Where a stream's bytes come from: QUIC, but for tests.
pub(super) trait Chunks {
    /// Fills some of the pieces, all of which are empty, from the first on; `None` at the end of the stream.
    async fn read_chunks(&mut self, pieces: &mut [Bytes]) -> Result<Option<usize>, ReadError>;
}

impl Chunks for RecvStream {
    async fn read_chunks(&mut self, pieces: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        RecvStream::read_chunks(self, pieces).await
    }
}

/// Reads messages from a stream.
pub(super) struct FrameReader<S = RecvStream> {
    stream: S,
    pieces: [Bytes; PIECES],
    /// Pieces before this one are used up, and empty.
    next: usize,
}

impl<S: Chunks> FrameReader<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, pieces: [const { Bytes::new() }; PIECES], next: PIECES }
    }

    /// The next message of at most `limit` bytes; `None` when the stream has ended between two messages.
    pub(super) async fn next(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        let Some(first) = self.piece(4).await? else { return Ok(None) };
        let mut header = [0; 4];
        header[..first.len()].copy_from_slice(&first);
        let mut have = first.len();
        while have < header.len() {
            let piece = self.piece(header.len() - have).await?.ok_or(FrameError::Torn)?;
            header[have..have + piece.len()].copy_from_slice(&piece);
            have += piece.len();
        }
        let length = u32::from_be_bytes(header) as usize;
        if length > limit {
            return Err(FrameError::TooLong(length));
        }
        self.body(length).await.map(Some)
    }

    /// Exactly so many bytes.
    pub(super) async fn body(&mut self, length: usize) -> Result<Bytes, FrameError> {
        let mut body = BytesMut::with_capacity(length.min(MAX_AHEAD_BYTES));
        while body.len() < length {
            let missing = length - body.len();
            if body.capacity() == body.len() {
                // Doubling: what is set aside stays in proportion to what has come.
                body.reserve(missing.min(body.len().max(MAX_AHEAD_BYTES)));
            }
            let piece = self.piece(missing).await?.ok_or(FrameError::Torn)?;
            // Copied, so that a small message that is kept does not keep the receive buffer.
            body.put_slice(&piece);
        }
        Ok(body.freeze())
    }

    /// Some bytes, at least one and at most `max`; `None` at the end of the stream.
    async fn piece(&mut self, max: usize) -> Result<Option<Bytes>, FrameError> {
        loop {
            while let Some(piece) = self.pieces.get_mut(self.next) {
                if !piece.is_empty() {
                    return Ok(Some(piece.split_to(max.min(piece.len()))));
                }
                self.next += 1;
            }
            // All pieces are empty, and those that this read does not fill stay so.
            match self.stream.read_chunks(&mut self.pieces).await? {
                Some(_) => self.next = 0,
                None => return Ok(None),
            }
        }
    }
}

/// The messages as pieces to write: small ones gathered, large ones untouched.
pub(super) fn encode(messages: impl IntoIterator<Item = Bytes>) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut gathered = BytesMut::new();
    for message in messages {
        // The queue admits no message that is longer than fits.
        gathered.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        if message.len() < GATHER_BELOW_BYTES {
            gathered.put_slice(&message);
        } else {
            pieces.push(gathered.split().freeze());
            pieces.push(message);
        }
    }
    if !gathered.is_empty() {
        pieces.push(gathered.freeze());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_are_gathered_and_large_ones_are_not_copied() {
        let large = Bytes::from(vec![7; GATHER_BELOW_BYTES]);
        let messages = [Bytes::from_static(b"ab"), Bytes::new(), large.clone(), Bytes::from_static(b"c")];
        let pieces = encode(messages);
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[0], [0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0, 0, 0x20, 0].as_slice());
        assert_eq!(pieces[1].as_ptr(), large.as_ptr());
        assert_eq!(pieces[2], [0, 0, 0, 1, b'c'].as_slice());
        assert!(encode([]).is_empty());
    }
}
