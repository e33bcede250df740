//! Laws of the frame codec, on random frames, random cuts and random bytes.

use proptest::{collection::vec, prelude::*, sample::select};
use rhizomq_stomp::{
    frame::{Command, DecodeError, Decoder, Frame, Headers, Version, decode_stored_head, encode, encode_stored_head},
    limits::Limits,
};

fn version() -> impl Strategy<Value = Version> {
    select(Version::ALL.to_vec())
}

/// Header texts full of what has a meaning somewhere.
fn text() -> impl Strategy<Value = String> {
    vec(select(vec!['a', 'Z', '0', ' ', ':', '\\', '\n', '\r', 'n', 'r', 'c', 't', 'é', '\u{1F980}']), 0..10)
        .prop_map(|chars| chars.into_iter().collect())
}

/// Any frame; header names are never empty.
fn frame() -> impl Strategy<Value = Frame> {
    let headers = vec((text().prop_filter("names have a letter", |name| !name.trim().is_empty()), text()), 0..12);
    let body = prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 3000..6000)];
    (select(Command::ALL.to_vec()), headers, body).prop_map(|(command, headers, body)| {
        let body = if command.has_body() { body } else { Vec::new() };
        Frame::new(command, headers).with_body(body)
    })
}

/// The frame with only such header texts as this version can carry without loss.
fn portable(frame: &Frame, version: Version) -> Frame {
    let escapes = frame.command.escapes() && version > Version::V1_0;
    let lost: &[char] = match version {
        _ if !escapes => &['\n', '\r'],
        Version::V1_2 => &[],
        Version::V1_0 | Version::V1_1 => &['\r'],
    };
    let part = |text: &str| {
        let text = text.replace(lost, "");
        if version == Version::V1_0 { text.trim_matches(' ').to_owned() } else { text }
    };
    let name = |text: &str| part(&if escapes { text.to_owned() } else { text.replace(':', "") });
    let headers: Headers =
        frame.headers.iter().map(|(key, value)| (name(key), part(value))).filter(|entry| !entry.0.is_empty()).collect();
    Frame { headers, ..frame.clone() }
}

/// All frames in `bytes`, given in pieces of these lengths, and the error that ends them.
fn decode(version: Option<Version>, limits: Limits, bytes: &[u8], cuts: &[usize]) -> (Vec<Frame>, Option<DecodeError>) {
    let mut decoder = Decoder::new(limits);
    if let Some(version) = version {
        decoder.start_session(version);
    }
    // What can be kept is a part of one frame: a line, or a body with its NUL.
    let bound = limits.header_line.max(limits.body) + 2;
    let (mut frames, mut rest) = (Vec::new(), bytes);
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        let (piece, more) = rest.split_at(cut.min(rest.len()));
        rest = more;
        decoder.feed(piece);
        loop {
            match decoder.poll() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(decoder.buffered() <= bound, "{} of at most {bound} bytes", decoder.buffered());
    }
    (frames, None)
}

fn with_length(mut frame: Frame) -> Frame {
    if frame.command.has_body() {
        frame.headers.push("content-length", &frame.body.len().to_string());
    }
    frame
}

const SMALL: Limits = Limits {
    connect_frame: 60,
    headers: 3,
    header_line: 20,
    header_section: 45,
    body: 30,
    transactions: 1,
    transaction_bytes: 100,
    subscriptions: 1,
    default_prefetch: 1,
    max_prefetch: 1,
    unread_ms: 1,
    unread_bytes: 1,
};

/// Bytes that look like frames for a while.
fn almost_frames() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        select(vec![
            "SEND\n",
            "ACK\n",
            "CONNECT\r\n",
            "destination:/queue/a\n",
            "content-length:5\n",
            "content-length:x\n",
            "a:b\n",
            "\n",
            "\r\n",
            "\0",
            "hello",
            "\\n",
            "\\t",
            ":",
            "SEND",
            "GET / ",
            "\u{e9}",
            "content-length:31\n",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..25).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        frames in vec(frame(), 1..4), version in version(), cuts in vec(1_usize..200, 0..40),
    ) {
        let frames: Vec<Frame> = frames.iter().map(|frame| portable(frame, version)).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| encode(frame, version)).collect();
        let expected: Vec<Frame> = frames.into_iter().map(with_length).collect();
        prop_assert_eq!(decode(Some(version), Limits::default(), &bytes, &cuts), (expected, None));
    }

    #[test]
    fn no_header_text_ever_splits_a_frame(frame in frame(), version in version()) {
        let bytes = encode(&frame, version);
        let (decoded, error) = decode(Some(version), Limits::default(), &bytes, &[]);
        prop_assert_eq!(error, None);
        prop_assert_eq!(decoded.len(), 1);
        prop_assert_eq!(decoded[0].command, frame.command);
        prop_assert_eq!(&decoded[0].body, &frame.body);
        prop_assert!(decoded[0].headers.len() <= frame.headers.len() + 1);
    }

    #[test]
    fn stored_headers_come_back_whole(frame in frame()) {
        let stored = encode_stored_head(&frame.headers);
        prop_assert_eq!(decode_stored_head(&stored), Ok(frame.headers));
    }

    /// Nor does any input panic, or make the decoder hold more than its limits (see `decode`).
    #[test]
    fn cuts_change_nothing(
        bytes in prop_oneof![almost_frames(), vec(any::<u8>(), 0..100)],
        version in prop_oneof![Just(None), version().prop_map(Some)],
        cuts in vec(1_usize..8, 0..60),
    ) {
        let whole = decode(version, SMALL, &bytes, &[]);
        prop_assert_eq!(&decode(version, SMALL, &bytes, &cuts), &whole);
        prop_assert_eq!(&decode(version, SMALL, &bytes, &vec![1; bytes.len()]), &whole);
    }
}
