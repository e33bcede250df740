//! The bytes a session has for its client, before the socket takes them.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::frame::{Command, HeadWriter, Version};

/// Bodies from this size on are passed on as they are; copying smaller ones is cheaper than one more write.
const OWN_CHUNK_FROM: usize = 4 << 10;
/// The buffer is cut into chunks of about this size.
const CHUNK: usize = 64 << 10;

/// What every frame ends with. The line feed is free to us, but not to some clients (PHP's extension is one): they take
/// whatever follows the NUL for it, since the brokers that they were written for send it.
const FRAME_END: &[u8] = b"\0\n";

/// Bytes to send, in order.
#[derive(Default)]
pub(super) struct Output {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes in `chunks`, and all that were taken before.
    sealed: u64,
    taken: u64,
}

impl Output {
    /// Writes one frame. Returns the position of its end among all bytes ever written here.
    pub(super) fn frame<'a>(
        &mut self,
        command: Command,
        version: Version,
        body: &Bytes,
        head: impl FnOnce(HeadWriter<'_>) -> HeadWriter<'_> + 'a,
    ) -> u64 {
        head(HeadWriter::new(&mut self.tail, command, version)).end(command.has_body().then_some(body.len()));
        if body.len() < OWN_CHUNK_FROM {
            self.tail.put_slice(body);
        } else {
            self.seal();
            self.sealed += body.len() as u64;
            self.chunks.push_back(body.clone());
        }
        self.tail.put_slice(FRAME_END);
        if self.tail.len() >= CHUNK {
            self.seal();
        }
        self.written()
    }

    /// Writes a heart-beat.
    pub(super) fn line_end(&mut self) {
        self.tail.put_u8(b'\n');
    }

    /// The next bytes to send.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.seal();
        }
        let chunk = self.chunks.pop_front()?;
        self.taken += chunk.len() as u64;
        Some(chunk)
    }

    /// All bytes ever written.
    pub(super) fn written(&self) -> u64 {
        self.sealed + self.tail.len() as u64
    }

    /// Bytes written and not taken.
    pub(super) fn waiting(&self) -> u64 {
        self.written() - self.taken
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.sealed += self.tail.len() as u64;
            self.chunks.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bodies_are_not_copied_and_positions_count_every_byte() {
        let mut output = Output::default();
        let (short, long) = (Bytes::from_static(b"hi"), Bytes::from(vec![7; OWN_CHUNK_FROM]));
        let first = output.frame(Command::Message, Version::V1_2, &short, |head| head);
        let second = output.frame(Command::Message, Version::V1_2, &long, |head| head.header("a", "b"));
        output.line_end();
        assert_eq!(output.waiting(), second + 1);

        let chunks: Vec<Bytes> = std::iter::from_fn(|| output.take()).collect();
        assert!(chunks.iter().any(|chunk| chunk.as_ptr() == long.as_ptr()));
        let all = chunks.concat();
        assert_eq!(all.len() as u64, output.written());
        assert_eq!(all[..first as usize], *b"MESSAGE\ncontent-length:2\n\nhi\0\n");
        assert_eq!(all[second as usize - 2..], *b"\0\n\n");
        assert_eq!(output.waiting(), 0);
    }
}
