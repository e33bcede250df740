//! Bytes to frames, however the bytes are cut.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};

use super::{Command, DecodeError, Frame, Headers, Version, error::excerpt, escape::Escaping};
use crate::limits::Limits;

/// Longer than any command with its line end: garbage is told from a command that is still coming.
const MAX_COMMAND_LINE: usize = 16;
/// Line ends that are tolerated where a frame without a body should end.
const MAX_PADDING: usize = 64;

/// Turns bytes, in pieces of any size, into frames.
///
/// Holds what it was given and not yet returned, never memory for what is only announced. Until
/// [`start_session`](Self::start_session) it reads in the form of a CONNECT frame and under the limit of it.
pub struct Decoder {
    limits: Limits,
    version: Option<Version>,
    buffer: BytesMut,
    /// So many bytes at the front of `buffer` are known not to hold the octet that is looked for.
    scanned: usize,
    state: State,
}

enum State {
    Between,
    Head(Head),
    Body(Head, Option<usize>),
    Failed(DecodeError),
}

/// The head of the frame that is being read.
struct Head {
    command: Command,
    headers: Headers,
    lines: usize,
    /// Bytes of the frame up to here, line ends included.
    len: usize,
}

impl Decoder {
    /// For a new connection.
    pub fn new(limits: Limits) -> Self {
        Self { limits, version: None, buffer: BytesMut::new(), scanned: 0, state: State::Between }
    }

    /// From the next frame on, reads in the form of this version and under the limits of a session.
    pub fn start_session(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// Adds received bytes. Call [`poll`](Self::poll) until it has no more, before the next feed.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::Failed(_)) {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole frame. After an error there is only that error.
    pub fn poll(&mut self) -> Result<Option<Frame>, DecodeError> {
        let result = self.step();
        match &result {
            // Gives memory back: the buffer of a long frame should not stay with an idle connection.
            Ok(None) if self.buffer.is_empty() => self.buffer = BytesMut::new(),
            Err(error) => {
                self.state = State::Failed(error.clone());
                self.buffer = BytesMut::new();
            }
            Ok(_) => {}
        }
        result
    }

    /// Bytes held: those of a frame that has not come in whole.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    fn step(&mut self) -> Result<Option<Frame>, DecodeError> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Between) {
                State::Failed(error) => return Err(error),
                State::Between => {
                    self.skip_line_ends();
                    match self.command()? {
                        Some((command, len)) => State::Head(Head { command, headers: Headers::new(), lines: 0, len }),
                        None => return Ok(None),
                    }
                }
                State::Head(mut head) => match self.header_line(&mut head)? {
                    Line::Header => State::Head(head),
                    Line::Blank => {
                        let body_len = self.body_len(&head)?;
                        State::Body(head, body_len)
                    }
                    Line::Incomplete => {
                        self.state = State::Head(head);
                        return Ok(None);
                    }
                },
                State::Body(head, body_len) => match self.body(&head, body_len)? {
                    Some(body) => {
                        return Ok(Some(Frame { command: head.command, headers: head.headers, body }));
                    }
                    None => {
                        self.state = State::Body(head, body_len);
                        return Ok(None);
                    }
                },
            }
        }
    }

    /// Line ends between frames are heart-beats, or padding.
    fn skip_line_ends(&mut self) {
        let mut skip = 0;
        loop {
            match self.buffer[skip..] {
                [b'\n', ..] => skip += 1,
                [b'\r', b'\n', ..] => skip += 2,
                _ => break,
            }
        }
        self.consume(skip);
    }

    /// The command and the length of its line.
    fn command(&mut self) -> Result<Option<(Command, usize)>, DecodeError> {
        let start = &self.buffer[..self.buffer.len().min(MAX_COMMAND_LINE)];
        let Some(end) = memchr::memchr2(b'\n', 0, start) else {
            return if start.len() < MAX_COMMAND_LINE { Ok(None) } else { Err(not_a_command(start)) };
        };
        let line = self.without_cr(&start[..end]);
        let command = Command::from_line(line).filter(|_| start[end] == b'\n').ok_or_else(|| not_a_command(start))?;
        self.consume(end + 1);
        Ok(Some((command, end + 1)))
    }

    /// Takes one line of the head in.
    fn header_line(&mut self, head: &mut Head) -> Result<Line, DecodeError> {
        let found = memchr::memchr2(b'\n', 0, &self.buffer[self.scanned..]).map(|at| self.scanned + at);
        // Both for a line that is there and for one that is still coming.
        let line_len = found.unwrap_or(self.buffer.len());
        self.check_head(head, line_len)?;
        let Some(end) = found else {
            self.scanned = self.buffer.len();
            return Ok(Line::Incomplete);
        };
        if self.buffer[end] == 0 {
            return Err(DecodeError::NulInHead);
        }
        let line = self.without_cr(&self.buffer[..end]);
        if line.len() > self.limits.header_line {
            return Err(DecodeError::HeaderLineTooLong { limit: self.limits.header_line });
        }
        let is_blank = line.is_empty();
        if !is_blank {
            head.lines += 1;
            if head.lines > self.limits.headers {
                return Err(DecodeError::TooManyHeaders { limit: self.limits.headers });
            }
            // Before the session starts there is only CONNECT to read, which has no escapes.
            let version = self.version.unwrap_or(Version::V1_2);
            let (name, value) = split_header(line, Escaping::of(head.command, version), version)?;
            head.headers.push(&name, &value);
        }
        head.len += end + 1;
        self.consume(end + 1);
        Ok(if is_blank { Line::Blank } else { Line::Header })
    }

    /// Of the limits that a line is beyond, the error is the one that it reached first: so it does not depend on how the
    /// bytes were cut.
    fn check_head(&self, head: &Head, line_len: usize) -> Result<(), DecodeError> {
        let Limits { header_line, header_section, .. } = self.limits;
        let section_left = header_section.saturating_sub(head.len);
        // The one more may be a CR.
        if line_len > header_line + 1 && header_line < section_left {
            self.check_connect(head, line_len, header_line + 1)?;
            Err(DecodeError::HeaderLineTooLong { limit: header_line })
        } else if line_len > section_left {
            self.check_connect(head, line_len, section_left)?;
            Err(DecodeError::HeaderSectionTooLong { limit: header_section })
        } else {
            self.check_connect(head, line_len, usize::MAX)
        }
    }

    /// Whether the first frame is beyond its limit, and came to that before another limit of `other` bytes.
    fn check_connect(&self, head: &Head, len: usize, other: usize) -> Result<(), DecodeError> {
        let limit = self.limits.connect_frame;
        let left = limit.saturating_sub(head.len);
        if self.version.is_none() && len > left && left <= other {
            Err(DecodeError::ConnectTooLong { limit })
        } else {
            Ok(())
        }
    }

    /// The announced length of the body, if one is announced, within the limits.
    fn body_len(&self, head: &Head) -> Result<Option<usize>, DecodeError> {
        let Some(value) = head.headers.get("content-length") else { return Ok(None) };
        let digits = value.trim();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(DecodeError::BadContentLength { value: excerpt(value.as_bytes()) });
        }
        // Only overflow is left to fail, and that is beyond any limit.
        let len = digits.parse().unwrap_or(usize::MAX);
        if len > 0 && !head.command.has_body() {
            return Err(DecodeError::BodyNotAllowed { command: head.command });
        }
        self.check_body(head, len)?;
        Ok(Some(len))
    }

    fn check_body(&self, head: &Head, len: usize) -> Result<(), DecodeError> {
        let limit = self.limits.body;
        self.check_connect(head, len, limit)?;
        if len > limit { Err(DecodeError::BodyTooLong { limit }) } else { Ok(()) }
    }

    /// The body, once it and its NUL are there.
    fn body(&mut self, head: &Head, announced: Option<usize>) -> Result<Option<Bytes>, DecodeError> {
        if !head.command.has_body() {
            return Ok(self.no_body(head.command)?.then(Bytes::new));
        }
        let len = match announced {
            Some(len) => match self.buffer.get(len) {
                None => return Ok(None),
                Some(0) => len,
                Some(_) => return Err(DecodeError::NoNulAfterBody { len }),
            },
            None => {
                let found = memchr::memchr(0, &self.buffer[self.scanned..]).map(|at| self.scanned + at);
                self.check_body(head, found.unwrap_or(self.buffer.len()))?;
                let Some(len) = found else {
                    self.scanned = self.buffer.len();
                    return Ok(None);
                };
                len
            }
        };
        let body = self.buffer.split_to(len).freeze();
        self.consume(1);
        Ok(Some(body))
    }

    /// Whether the frame's end is there. Line ends before the NUL are padding that some clients send.
    fn no_body(&mut self, command: Command) -> Result<bool, DecodeError> {
        let padding = self.buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        match self.buffer.get(padding) {
            _ if padding > MAX_PADDING => Err(DecodeError::BodyNotAllowed { command }),
            None => Ok(false),
            Some(0) => {
                self.consume(padding + 1);
                Ok(true)
            }
            Some(_) => Err(DecodeError::BodyNotAllowed { command }),
        }
    }

    fn consume(&mut self, len: usize) {
        self.buffer.advance(len);
        self.scanned = 0;
    }

    /// In 1.2 a line may end in CR LF; in the first frame too, since its sender may be of 1.2.
    fn without_cr<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        match self.version {
            Some(Version::V1_0 | Version::V1_1) => line,
            Some(Version::V1_2) | None => line.strip_suffix(b"\r").unwrap_or(line),
        }
    }
}

enum Line {
    Header,
    Blank,
    Incomplete,
}

/// Name and value of a header line, unescaped.
pub(super) fn split_header(
    line: &[u8],
    escaping: Escaping,
    version: Version,
) -> Result<(Cow<'_, str>, Cow<'_, str>), DecodeError> {
    let text = std::str::from_utf8(line).map_err(|_| DecodeError::NotUtf8 { line: excerpt(line) })?;
    let (mut name, mut value) = text.split_once(':').ok_or_else(|| DecodeError::NotAHeader { line: excerpt(line) })?;
    if version == Version::V1_0 {
        // The examples of the 1.0 specification pad values with a space, so its servers trim. Later ones must not.
        name = name.trim_matches([' ', '\t']);
        value = value.trim_matches([' ', '\t']);
    }
    if name.is_empty() {
        return Err(DecodeError::NotAHeader { line: excerpt(line) });
    }
    let undefined = |escape| DecodeError::UndefinedEscape { line: excerpt(line), escape, version };
    Ok((escaping.undo(name).map_err(undefined)?, escaping.undo(value).map_err(undefined)?))
}

fn not_a_command(bytes: &[u8]) -> DecodeError {
    const HTTP: [&[u8]; 5] = [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"OPTIONS "];
    let hint = if bytes.starts_with(&[0x16, 0x03]) {
        "; this looks like TLS, and this port speaks plain STOMP"
    } else if HTTP.iter().any(|method| bytes.starts_with(method)) {
        "; this looks like HTTP, and this port speaks STOMP"
    } else {
        ""
    };
    let end = memchr::memchr2(b'\n', 0, bytes).unwrap_or(bytes.len());
    DecodeError::NotACommand { start: excerpt(&bytes[..end]), hint }
}

#[cfg(test)]
mod tests;
