//! Any bytes, whole and cut: the decoder never panics, never keeps more than its limits, and finds the same frames.
//!
//! The first octet chooses the version, the second the length of the pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhizomq_stomp::{
    frame::{DecodeError, Decoder, Frame, Version, encode},
    limits::Limits,
};

const LIMITS: Limits = Limits {
    connect_frame: 256,
    headers: 8,
    header_line: 64,
    header_section: 256,
    body: 1024,
    transactions: 1,
    transaction_bytes: 1,
    subscriptions: 1,
    default_prefetch: 1,
    max_prefetch: 1,
    unread_ms: 1,
    unread_bytes: 1,
};

fn decode(version: Option<Version>, bytes: &[u8], piece: usize) -> (Vec<Frame>, Option<DecodeError>) {
    let mut decoder = Decoder::new(LIMITS);
    if let Some(version) = version {
        decoder.start_session(version);
    }
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.feed(piece);
        loop {
            match decoder.poll() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(decoder.buffered() <= LIMITS.body + 2);
    }
    (frames, None)
}

fuzz_target!(|bytes: &[u8]| {
    let [version, piece, bytes @ ..] = bytes else { return };
    let version = [None, Some(Version::V1_0), Some(Version::V1_1), Some(Version::V1_2)][usize::from(version % 4)];
    let whole = decode(version, bytes, usize::MAX);
    assert_eq!(decode(version, bytes, usize::from(*piece).max(1)), whole);

    // Whatever came in goes out again in every version without falling apart.
    for version in Version::ALL {
        for frame in &whole.0 {
            let _ = encode(frame, version);
        }
    }
});
