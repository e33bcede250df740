//! Limits to the byte, and what the decoder keeps in memory.

use super::*;

const SMALL: Limits = Limits {
    connect_frame: 100,
    headers: 3,
    header_line: 20,
    header_section: 50,
    body: 30,
    transactions: 1,
    transaction_bytes: 100,
    subscriptions: 1,
    default_prefetch: 1,
    max_prefetch: 1,
    unread_ms: 1,
    unread_bytes: 1,
};

fn decode(version: Option<Version>, bytes: &[u8]) -> Result<Option<Frame>, DecodeError> {
    let mut decoder = Decoder::new(SMALL);
    if let Some(version) = version {
        decoder.start_session(version);
    }
    decoder.feed(bytes);
    decoder.poll()
}

fn session(text: &str) -> Result<Option<Frame>, DecodeError> {
    decode(Some(Version::V1_2), text.as_bytes())
}

#[test]
fn each_limit_holds_to_the_byte() {
    let x = |count| "x".repeat(count);
    assert!(session("SEND\na:1\nb:2\nc:3\n\n\0").is_ok());
    assert_eq!(session("SEND\na:1\nb:2\nc:3\na:4\n\n\0"), Err(DecodeError::TooManyHeaders { limit: 3 }));

    assert!(session(&format!("SEND\na:{}\r\n\n\0", x(18))).is_ok());
    let too_long = Err(DecodeError::HeaderLineTooLong { limit: 20 });
    assert_eq!(session(&format!("SEND\na:{}\r\n\n\0", x(19))), too_long);
    assert_eq!(session(&format!("SEND\na:{}\n\n\0", x(19))), too_long);
    assert_eq!(session(&format!("SEND\na:{}", x(20))), too_long, "before its end is there");

    assert!(session(&format!("SEND\na:{}\nb:{}\n\n\0", x(18), x(18))).is_ok());
    let too_long = Err(DecodeError::HeaderSectionTooLong { limit: 50 });
    assert_eq!(session(&format!("SEND\na:{}\nb:{}\nc:12", x(18), x(18))), too_long);

    assert!(session(&format!("SEND\n\n{}\0", x(30))).is_ok());
    let too_long = Err(DecodeError::BodyTooLong { limit: 30 });
    assert_eq!(session(&format!("SEND\n\n{}", x(31))), too_long);
    assert_eq!(session("SEND\ncontent-length:31\n\n"), too_long, "before any of it is there");
}

#[test]
fn the_first_frame_has_a_limit_of_its_own() {
    let limits = Limits { header_line: 1000, header_section: 1000, headers: 1000, ..SMALL };
    let poll = |bytes: String| {
        let mut decoder = Decoder::new(limits);
        decoder.feed(bytes.as_bytes());
        decoder.poll()
    };
    let too_long = Err(DecodeError::ConnectTooLong { limit: 100 });
    assert_eq!(poll(format!("CONNECT\na:{}", "x".repeat(100))), too_long);
    assert_eq!(poll(format!("CONNECT\n{}", "a:b\n".repeat(30))), too_long);
    assert_eq!(poll(format!("SEND\n\n{}", "x".repeat(50))), Err(DecodeError::BodyTooLong { limit: 30 }));
    // What follows the frame does not count.
    assert!(poll(format!("CONNECT\n\n\0SEND\n\n{}", "x".repeat(200))).is_ok_and(|frame| frame.is_some()));
}

#[test]
fn memory_follows_the_bytes_that_came_not_those_announced() {
    let mut decoder = Decoder::new(Limits::default());
    decoder.start_session(Version::V1_2);
    decoder.feed(b"SEND\ncontent-length:8000000\n\nabc");
    assert_eq!(decoder.poll(), Ok(None));
    assert!(decoder.buffer.capacity() < 1000);
}

#[test]
fn an_idle_connection_keeps_no_buffer() {
    let mut decoder = Decoder::new(Limits::default());
    decoder.start_session(Version::V1_2);
    decoder.feed(format!("SEND\n\n{}\0", "x".repeat(1 << 20)).as_bytes());
    assert!(decoder.poll().is_ok_and(|frame| frame.is_some()));
    decoder.feed(&[b'\n'; 1 << 20]);
    assert_eq!(decoder.poll(), Ok(None));
    assert_eq!(decoder.buffer.capacity(), 0);
}

#[test]
fn an_error_stays_and_nothing_is_kept_after_it() {
    let mut decoder = Decoder::new(SMALL);
    decoder.feed(b"NONSENSE\n");
    let error = decoder.poll();
    assert!(error.is_err());
    decoder.feed(b"CONNECT\n\n\0");
    assert_eq!((decoder.poll(), decoder.buffered()), (error, 0));
}

#[test]
fn bodies_are_slices_of_one_buffer() {
    let mut decoder = Decoder::new(Limits::default());
    decoder.start_session(Version::V1_2);
    decoder.feed(b"SEND\n\nabcd\0SEND\n\nefgh\0");
    let mut body = || decoder.poll().unwrap().unwrap().body;
    let (first, second) = (body(), body());
    assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, "abcd\0SEND\n\n".len());
}

#[test]
fn padding_in_a_frame_without_a_body_has_a_limit() {
    let frame = |padding: usize| format!("BEGIN\n\n{}\0", "\n".repeat(padding));
    assert!(session(&frame(MAX_PADDING)).is_ok_and(|frame| frame.is_some()));
    assert_eq!(session(&frame(MAX_PADDING + 1)), Err(DecodeError::BodyNotAllowed { command: Command::Begin }));
}
