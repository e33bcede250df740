//! The law of the frame decoder.

use super::conversation;
use crate::{
    frame::{
        Command, DecodeError, Decoder, Frame, HOP_HEADERS, HeadWriter, Headers, Version, decode_stored_head, encode,
        encode_stored_head,
    },
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

fn decode(version: Option<Version>, limits: Limits, bytes: &[u8], piece: usize) -> (Vec<Frame>, Option<DecodeError>) {
    let mut decoder = Decoder::new(limits);
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
                Err(error) => {
                    assert_eq!(decoder.buffered(), 0, "nothing more is kept of a client that has failed");
                    assert_eq!(decoder.poll(), Err(error.clone()));
                    return (frames, Some(error));
                }
            }
        }
        assert!(decoder.buffered() <= limits.body + 2);
    }
    (frames, None)
}

fn without_length(headers: &Headers) -> Vec<(String, String)> {
    let all = headers.iter().filter(|entry| entry.0 != "content-length");
    all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Any bytes: the frames in them are the same however they come in, keep to the limits, and go out again in every
/// version as one frame each. The first octet chooses the version, the second the length of the pieces.
pub fn frame_decoder(bytes: &[u8]) -> bool {
    let [version, piece, bytes @ ..] = bytes else { return false };
    let version = [None, Some(Version::V1_0), Some(Version::V1_1), Some(Version::V1_2)][usize::from(version % 4)];
    let whole = decode(version, LIMITS, bytes, usize::MAX);
    assert_eq!(decode(version, LIMITS, bytes, usize::from(*piece).max(1)), whole);

    for frame in &whole.0 {
        assert!(frame.headers.len() <= LIMITS.headers && frame.body.len() <= LIMITS.body);
        assert!(frame.body.is_empty() || frame.command.has_body());
        let text: usize = frame.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(text <= LIMITS.header_section);
        for out in Version::ALL {
            sent_on(frame, version, out);
        }
        stored(frame);
    }
    // A stored section comes from other nodes, too.
    let _ = decode_stored_head(bytes);
    for version in Version::ALL {
        let mut out = bytes::BytesMut::new();
        HeadWriter::new(&mut out, Command::Message, version).stored(bytes).end(None);
    }
    !whole.0.is_empty()
}

fn sent_on(frame: &Frame, came: Option<Version>, out: Version) {
    let written = encode(frame, out);
    // A name of blanks is nothing to 1.0, which trims.
    let blank = |name: &str| name.trim_matches([' ', '\t']).is_empty();
    if out == Version::V1_0 && frame.headers.iter().any(|entry| blank(entry.0)) {
        return;
    }
    let (frames, error) = decode(Some(out), Limits::default(), &written, usize::MAX);
    assert!(error.is_none() && frames.len() == 1, "{frame:?} to {out} is {frames:?}, {error:?}");
    assert!(frames[0].command == frame.command && frames[0].body == frame.body);
    assert!(frames[0].headers.len() <= frame.headers.len() + 1);
    if came.is_some() && out == Version::V1_2 && frame.command.escapes() {
        assert_eq!(without_length(&frames[0].headers), without_length(&frame.headers), "1.2 carries every text");
        let length = frames[0].headers.get("content-length").map(str::to_owned);
        assert!(!frame.command.has_body() || length == Some(frame.body.len().to_string()));
    }
}

/// What is kept of a SEND is all but what belongs to one hop, and a consumer of any version gets one frame of it.
fn stored(frame: &Frame) {
    let section = encode_stored_head(&frame.headers);
    let kept: Headers = frame.headers.iter().filter(|entry| !HOP_HEADERS.contains(&entry.0)).collect();
    assert_eq!(decode_stored_head(&section), Ok(kept.clone()));
    for version in Version::ALL.into_iter().skip(1) {
        let mut out = bytes::BytesMut::new();
        HeadWriter::new(&mut out, Command::Message, version).stored(&section).end(Some(0));
        out.extend_from_slice(&[0]);
        let (frames, error) = decode(Some(version), Limits::default(), &out, usize::MAX);
        assert!(error.is_none() && frames.len() == 1, "{section:?} to {version} is {frames:?}, {error:?}");
        if version == Version::V1_2 {
            assert_eq!(without_length(&frames[0].headers), without_length(&kept));
        }
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Version::ALL
        .iter()
        .zip(1_u8..)
        .map(|(version, number)| [&[number, 7], &conversation(*version)[1..].concat()[..]].concat())
        .collect();
    seeds.push([&[0, 1], &conversation(Version::V1_2)[0][..]].concat());
    seeds.push(
        b"\x03\x05\r\n\nSEND\r\ndestination:/queue/a\r\ncontent-length:3\r\n\r\na\0b\0\nSEND\na\\tb:c\n\nx\0".to_vec(),
    );
    seeds
}
