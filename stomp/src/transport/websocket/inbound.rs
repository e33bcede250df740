//! Bytes of a client's socket to bytes of STOMP: frames are taken apart, control frames are told.

use std::io::Cursor;

use bytes::{Bytes, BytesMut};
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

use super::utf8::Utf8;

/// Bytes of a control frame, RFC 6455 section 5.5.
const MAX_CONTROL_BYTES: u64 = 125;

/// Something that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes of STOMP; never empty.
    Data(Bytes),
    /// To be answered by a pong with the same bytes.
    Ping(Bytes),
    /// The client sends no more.
    Close,
}

/// What a client did against RFC 6455. It is told the code, and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketError {
    /// A kind of frame that does not exist.
    #[error("a WebSocket frame of an unknown kind")]
    UnknownOpcode,
    /// Extensions are not spoken here.
    #[error("a WebSocket frame with bits of an extension that was not agreed on")]
    ReservedBits,
    /// Clients must mask, section 5.1.
    #[error("a WebSocket frame of a client that is not masked")]
    NotMasked,
    /// Section 5.5.
    #[error("a WebSocket control frame that is too long or in parts")]
    BadControl,
    /// Section 5.4.
    #[error("WebSocket messages in parts are mixed up")]
    BadSequence,
    /// Section 5.5.1.
    #[error("a WebSocket close frame with a broken reason")]
    BadClose,
    /// Section 8.1.
    #[error("a WebSocket text message that is no UTF-8; bytes that are not text belong in a binary message")]
    NotUtf8,
    /// More than is taken.
    #[error("a WebSocket message has more than {limit} bytes")]
    TooLong {
        /// Bytes allowed.
        limit: u64,
    },
}

impl WebSocketError {
    /// The code for the close frame, section 7.4.1.
    pub fn code(self) -> u16 {
        match self {
            Self::NotUtf8 => 1007,
            Self::TooLong { .. } => 1009,
            _ => 1002,
        }
    }
}

/// Takes a client's frames apart.
#[derive(Debug)]
pub struct Inbound {
    /// Bytes that one message may have, over all its frames.
    limit: u64,
    /// Not looked at yet; at most what was fed at once, and the rest of a header or control frame before it.
    buffer: BytesMut,
    state: State,
    /// The message that is under way, between its first frame and its last.
    message: Option<Message>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    Data { left: u64, mask: [u8; 4], is_final: bool },
    Control { control: Control, len: usize, mask: [u8; 4] },
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    len: u64,
    /// Of a text message.
    text: Option<Utf8>,
}

impl Inbound {
    /// For a connection whose upgrade is done.
    pub fn new(limit: u64) -> Self {
        Self { limit, buffer: BytesMut::new(), state: State::Header, message: None }
    }

    /// Adds received bytes. Call [`poll`](Self::poll) until it has no more, before the next feed.
    pub fn feed(&mut self, bytes: BytesMut) {
        if self.buffer.is_empty() {
            self.buffer = bytes;
        } else {
            self.buffer.extend_from_slice(&bytes);
        }
    }

    /// Bytes held.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// What came in next. After [`Event::Close`] or an error there is nothing more.
    ///
    /// # Errors
    /// See [`WebSocketError`].
    pub fn poll(&mut self) -> Result<Option<Event>, WebSocketError> {
        let result = self.step();
        if matches!(result, Err(_) | Ok(Some(Event::Close))) {
            self.state = State::Over;
            self.buffer = BytesMut::new();
        }
        result
    }

    fn step(&mut self) -> Result<Option<Event>, WebSocketError> {
        loop {
            match self.state {
                State::Over => return Ok(None),
                State::Header => {
                    let mut cursor = Cursor::new(&self.buffer[..]);
                    // An opcode that does not exist is all that can be wrong with a header by itself.
                    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| WebSocketError::UnknownOpcode)?;
                    let len = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
                    let Some((header, payload)) = parsed else { return Ok(None) };
                    let _ = self.buffer.split_to(len);
                    self.state = self.begin(&header, payload)?;
                }
                State::Data { left: 0, is_final, .. } => {
                    self.state = State::Header;
                    if is_final && self.message.take().is_some_and(|message| message.is_cut()) {
                        return Err(WebSocketError::NotUtf8);
                    }
                }
                State::Data { left, mask, is_final } => {
                    if self.buffer.is_empty() {
                        return Ok(None);
                    }
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
                    let mut data = self.buffer.split_to(len);
                    let mask = unmask(&mut data, mask);
                    self.state = State::Data { left: left - len as u64, mask, is_final };
                    if let Some(Message { text: Some(text), .. }) = &mut self.message
                        && !text.push(&data)
                    {
                        return Err(WebSocketError::NotUtf8);
                    }
                    return Ok(Some(Event::Data(data.freeze())));
                }
                State::Control { control, len, mask } => {
                    if self.buffer.len() < len {
                        return Ok(None);
                    }
                    let mut payload = self.buffer.split_to(len);
                    unmask(&mut payload, mask);
                    self.state = State::Header;
                    match control {
                        Control::Ping => return Ok(Some(Event::Ping(payload.freeze()))),
                        Control::Close => {
                            check_close(&payload)?;
                            return Ok(Some(Event::Close));
                        }
                        // An answer to a ping that was never sent is allowed, and means nothing.
                        _ => {}
                    }
                }
            }
        }
    }

    /// What a frame with this header is to be read as.
    fn begin(&mut self, header: &FrameHeader, len: u64) -> Result<State, WebSocketError> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(WebSocketError::ReservedBits);
        }
        let mask = header.mask.ok_or(WebSocketError::NotMasked)?;
        match header.opcode {
            OpCode::Control(_) if !header.is_final || len > MAX_CONTROL_BYTES => Err(WebSocketError::BadControl),
            OpCode::Control(control) => {
                Ok(State::Control { control, len: usize::try_from(len).unwrap_or(usize::MAX), mask })
            }
            OpCode::Data(data) => {
                let text = match data {
                    Data::Text => Some(Utf8::default()),
                    _ => None,
                };
                let message = match (data, self.message) {
                    (Data::Continue, Some(message)) => message,
                    (Data::Text | Data::Binary, None) => Message { len: 0, text },
                    _ => return Err(WebSocketError::BadSequence),
                };
                let total = message.len.saturating_add(len);
                if total > self.limit {
                    return Err(WebSocketError::TooLong { limit: self.limit });
                }
                self.message = Some(Message { len: total, ..message });
                Ok(State::Data { left: len, mask, is_final: header.is_final })
            }
        }
    }
}

impl Message {
    fn is_cut(&self) -> bool {
        self.text.is_some_and(|text| !text.is_whole())
    }
}

/// Takes the mask off; the mask for what follows.
fn unmask(data: &mut [u8], mut mask: [u8; 4]) -> [u8; 4] {
    let word = u32::from_ne_bytes(mask);
    let (words, rest) = data.as_chunks_mut::<4>();
    for chunk in words {
        *chunk = (u32::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    mask.rotate_left(rest.len());
    mask
}

fn check_close(payload: &[u8]) -> Result<(), WebSocketError> {
    match payload {
        [] => Ok(()),
        [high, low, reason @ ..]
            if CloseCode::from(u16::from_be_bytes([*high, *low])).is_allowed()
                && std::str::from_utf8(reason).is_ok() =>
        {
            Ok(())
        }
        _ => Err(WebSocketError::BadClose),
    }
}

#[cfg(test)]
pub(crate) mod tests;
