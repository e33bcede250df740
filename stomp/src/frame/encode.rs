//! Frames to bytes, for each version.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Command, Frame, Version,
    escape::{Escaping, Part},
    head,
};

/// Writes the head of one frame: command, header lines, blank line. The body and a NUL follow it.
pub struct HeadWriter<'a> {
    out: &'a mut BytesMut,
    escaping: Escaping,
    version: Version,
}

impl<'a> HeadWriter<'a> {
    /// Writes the command's line.
    pub fn new(out: &'a mut BytesMut, command: Command, version: Version) -> Self {
        out.put_slice(command.as_str().as_bytes());
        out.put_u8(b'\n');
        Self { out, escaping: Escaping::of(command, version), version }
    }

    /// Writes a header line.
    pub fn header(self, name: &str, value: &str) -> Self {
        self.escaping.put(self.out, name, Part::Name);
        self.out.put_u8(b':');
        self.escaping.put(self.out, value, Part::Value);
        self.out.put_u8(b'\n');
        self
    }

    /// Writes a stored header section (see [`encode_stored_head`](super::encode_stored_head)).
    pub fn stored(self, stored_head: &[u8]) -> Self {
        head::put_stored_head(self.out, stored_head, self.version);
        self
    }

    /// Ends the head, with a `content-length` line if a body's length is given.
    pub fn end(self, body_len: Option<usize>) {
        if let Some(len) = body_len {
            self.header("content-length", &len.to_string()).end(None);
        } else {
            self.out.put_u8(b'\n');
        }
    }
}

/// The bytes of a frame. A frame that may have a body always gets the `content-length` of it, whatever its headers say.
pub fn encode(frame: &Frame, version: Version) -> Bytes {
    let mut out = BytesMut::with_capacity(128 + frame.body.len());
    let mut head = HeadWriter::new(&mut out, frame.command, version);
    for (name, value) in frame.headers.iter().filter(|entry| entry.0 != "content-length") {
        head = head.header(name, value);
    }
    head.end(frame.command.has_body().then_some(frame.body.len()));
    if frame.command.has_body() {
        out.put_slice(&frame.body);
    }
    out.put_u8(0);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_with_a_body_state_its_true_length() {
        let frame = Frame::new(Command::Send, [("content-length", "7"), ("a:b", "c")]).with_body("x\0y");
        assert_eq!(encode(&frame, Version::V1_2), "SEND\na\\cb:c\ncontent-length:3\n\nx\0y\0");
        let frame = Frame::new(Command::Receipt, [("receipt-id", "1:2")]);
        assert_eq!(encode(&frame, Version::V1_0), "RECEIPT\nreceipt-id:1:2\n\n\0");
    }

    #[test]
    fn frames_that_start_a_session_are_not_escaped_but_never_split() {
        let frame = Frame::new(Command::Connected, [("server", "a:b\\c\n\nd")]);
        assert_eq!(encode(&frame, Version::V1_2), "CONNECTED\nserver:a:b\\c  d\n\n\0");
    }
}
