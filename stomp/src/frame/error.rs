//! What makes bytes no STOMP.

use super::{Command, Version};

/// What makes a stream of bytes no STOMP. Nothing after it can be read: tell the client, then close.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The first line is no command.
    #[error("`{start}` is not a STOMP command{hint}")]
    NotACommand {
        /// What was there, made printable and cut.
        start: String,
        /// A guess at what it is instead; empty, or begins with a separator.
        hint: &'static str,
    },
    /// Before the session starts, little is accepted.
    #[error("the first frame has more than {limit} bytes; send CONNECT first, without a body")]
    ConnectTooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// Too many header lines.
    #[error("the frame has more than {limit} headers")]
    TooManyHeaders {
        /// Lines allowed.
        limit: usize,
    },
    /// One header line is too long.
    #[error("a header line has more than {limit} bytes; large values belong in the body")]
    HeaderLineTooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// All header lines together are too long.
    #[error("the headers have more than {limit} bytes in all; large values belong in the body")]
    HeaderSectionTooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// The body is too long, or announced as too long.
    #[error("the body has more than {limit} bytes")]
    BodyTooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// A header line of another form than `name:value`.
    #[error("the header line `{line}` is not of the form `name:value`")]
    NotAHeader {
        /// The line, made printable and cut.
        line: String,
    },
    /// Headers are UTF-8.
    #[error("the header line `{line}` is not valid UTF-8")]
    NotUtf8 {
        /// The line, made printable and cut.
        line: String,
    },
    /// An escape sequence that the version does not know.
    #[error("the header line `{line}` has the escape sequence `{escape}`, which STOMP {version} does not define")]
    UndefinedEscape {
        /// The line, made printable and cut.
        line: String,
        /// The sequence.
        escape: String,
        /// The session's version.
        version: Version,
    },
    /// The frame ends within its headers.
    #[error("a NUL octet within the headers; a blank line must come between the headers and the end of the frame")]
    NulInHead,
    /// `content-length` is not a number.
    #[error("the content-length `{value}` is not a number of octets")]
    BadContentLength {
        /// The value, made printable and cut.
        value: String,
    },
    /// No NUL after as many octets as `content-length` says.
    #[error("no NUL octet after the {len} octets that content-length announces; it must count octets, not characters")]
    NoNulAfterBody {
        /// The announced length.
        len: usize,
    },
    /// A body where there can't be one.
    #[error("a {command} frame can't have a body")]
    BodyNotAllowed {
        /// The frame's command.
        command: Command,
    },
}

/// Bytes from a client made fit for a message to people: printable, one line, short.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    const LEN: usize = 48;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LEN)]).escape_debug().to_string();
    if bytes.len() > LEN { format!("{text}...") } else { text }
}
