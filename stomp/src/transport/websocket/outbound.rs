//! Bytes of STOMP to WebSocket frames: each STOMP frame is a message of its own.
//!
//! The bytes come from a session, which writes whole frames and states the length of each body. A message can only begin
//! when all of it is known, since text must be UTF-8 to its end; large ones then go in parts, so that the writer sees how
//! far the client has read.

use std::{collections::VecDeque, mem};

use bytes::{Bytes, BytesMut};
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::utf8::Utf8;

/// Bytes of a message's payload that go in one frame.
const PART_BYTES: usize = 64 << 10;

/// Small messages are gathered up to so many bytes.
const GATHER_BYTES: usize = 256 << 10;

/// Bytes for the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// To be written.
    pub bytes: Bytes,
    /// How many of them are STOMP's.
    pub counts: usize,
}

/// Puts a session's bytes into messages.
#[derive(Debug, Default)]
pub struct Outbound {
    /// Of the STOMP frame that is under way.
    parts: Vec<Bytes>,
    /// The same, while it is its head.
    head: BytesMut,
    state: State,
    text: Utf8,
    is_binary: bool,
    gathered: BytesMut,
    gathered_counts: usize,
    pieces: VecDeque<Piece>,
    /// In `pieces`.
    ready: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Between,
    Head,
    /// So many bytes of body are to come, and a NUL.
    Body(usize),
    /// The line feed after the NUL is to come.
    End,
}

impl Outbound {
    /// Takes what the session has written next.
    pub fn push(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            match self.state {
                State::Between => {
                    let beats = bytes.iter().take_while(|byte| **byte == b'\n').count();
                    if beats > 0 {
                        self.add(bytes.split_to(beats));
                        self.message();
                    } else {
                        self.state = State::Head;
                    }
                }
                State::Head => {
                    // The blank line may be cut: its first half is what was kept of the head.
                    let is_cut = self.head.ends_with(b"\n") && bytes.starts_with(b"\n");
                    let end = if is_cut { Some(1) } else { memchr::memmem::find(&bytes, b"\n\n").map(|at| at + 2) };
                    let part = bytes.split_to(end.unwrap_or(bytes.len()));
                    self.head.extend_from_slice(&part);
                    self.add(part);
                    if end.is_some() {
                        self.state = State::Body(body_len(&self.head));
                        self.head.clear();
                    }
                }
                State::Body(0) => {
                    self.add(bytes.split_to(1));
                    self.state = State::End;
                }
                State::End => {
                    self.add(bytes.split_to(1));
                    self.state = State::Between;
                    self.message();
                }
                State::Body(left) => {
                    let part = bytes.split_to(left.min(bytes.len()));
                    self.state = State::Body(left - part.len());
                    self.add(part);
                }
            }
        }
    }

    /// Answers a ping.
    pub fn pong(&mut self, payload: &[u8]) {
        self.header(OpCode::Control(Control::Pong), true, payload.len());
        self.gathered.extend_from_slice(payload);
    }

    /// Says that nothing follows, with a code of RFC 6455 section 7.4.1. What is under way of a STOMP frame is left out.
    pub fn close(&mut self, code: u16) {
        self.header(OpCode::Control(Control::Close), true, 2);
        self.gathered.extend_from_slice(&code.to_be_bytes());
    }

    /// Bytes that [`poll`](Self::poll) would give.
    pub fn waiting(&self) -> usize {
        self.ready + self.gathered.len()
    }

    /// What to write next.
    pub fn poll(&mut self) -> Option<Piece> {
        if self.pieces.is_empty() {
            self.seal();
        }
        let piece = self.pieces.pop_front()?;
        self.ready -= piece.bytes.len();
        Some(piece)
    }

    fn add(&mut self, part: Bytes) {
        self.is_binary = self.is_binary || !self.text.push(&part);
        self.parts.push(part);
    }

    /// What was added is a message.
    fn message(&mut self) {
        let parts = mem::take(&mut self.parts);
        let (is_binary, text) = (mem::take(&mut self.is_binary), mem::take(&mut self.text));
        let is_binary = is_binary || !text.is_whole();
        let total: usize = parts.iter().map(Bytes::len).sum();
        let first = OpCode::Data(if is_binary { Data::Binary } else { Data::Text });
        if total <= PART_BYTES {
            self.header(first, true, total);
            parts.iter().for_each(|part| self.gathered.extend_from_slice(part));
            self.gathered_counts += total;
            if self.gathered.len() >= GATHER_BYTES {
                self.seal();
            }
            return;
        }
        let (mut opcode, mut left) = (first, total);
        for mut part in parts {
            while !part.is_empty() {
                let payload = part.split_to(part.len().min(PART_BYTES));
                left -= payload.len();
                self.header(opcode, left == 0, payload.len());
                opcode = OpCode::Data(Data::Continue);
                self.seal();
                self.put(Piece { counts: payload.len(), bytes: payload });
            }
        }
    }

    fn header(&mut self, opcode: OpCode, is_final: bool, len: usize) {
        let header = FrameHeader { is_final, opcode, ..FrameHeader::default() };
        let mut out = [0; 16];
        let mut rest = &mut out[..];
        // No header of a server has more than 10 bytes.
        let _ = header.format(len as u64, &mut rest);
        let written = 16 - rest.len();
        self.gathered.extend_from_slice(&out[..written]);
    }

    fn seal(&mut self) {
        if !self.gathered.is_empty() {
            let counts = mem::take(&mut self.gathered_counts);
            let bytes = self.gathered.split().freeze();
            self.put(Piece { bytes, counts });
        }
    }

    fn put(&mut self, piece: Piece) {
        self.ready += piece.bytes.len();
        self.pieces.push_back(piece);
    }
}

/// What the head of one of our own frames says of its body; the first of repeated headers counts.
fn body_len(head: &[u8]) -> usize {
    let value = head.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"content-length:"));
    value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
