//! The laws of what comes before STOMP: WebSocket frames, the request for a WebSocket, the PROXY header.

use bytes::{Bytes, BytesMut};

use super::conversation;
use crate::{
    frame::Version,
    transport::{
        proxy::{self, FIXED_BYTES, SIGNATURE},
        websocket::{Event, Inbound, MAX_REQUEST_BYTES, Outbound, WebSocketError, refusal, upgrade},
    },
};

const LIMIT: u64 = 2048;
const MASK: [u8; 4] = [1, 2, 3, 4];

/// What came out of a client's bytes, with data that follows data joined.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    data: Vec<u8>,
    /// With the position in `data` at which each came.
    pings: Vec<(usize, Bytes)>,
    end: Option<Result<(), WebSocketError>>,
}

fn read(bytes: &[u8], piece: usize) -> Read {
    let mut inbound = Inbound::new(LIMIT);
    let mut read = Read::default();
    for piece in bytes.chunks(piece) {
        inbound.feed(BytesMut::from(piece));
        loop {
            match inbound.poll() {
                Ok(None) => break,
                Ok(Some(Event::Data(bytes))) => {
                    assert!(!bytes.is_empty());
                    read.data.extend_from_slice(&bytes);
                }
                Ok(Some(Event::Ping(payload))) => read.pings.push((read.data.len(), payload)),
                Ok(Some(Event::Close)) => read.end = Some(Ok(())),
                Err(error) => read.end = Some(Err(error)),
            }
            if read.end.is_some() {
                assert_eq!((inbound.poll(), inbound.buffered()), (Ok(None), 0), "nothing more is kept");
                return read;
            }
        }
        assert!(inbound.buffered() < 14 + 125, "no more than a header or a control frame is held back");
    }
    read
}

/// Any bytes as a client's: what comes out does not depend on how they come in, and is no more than they are. Any bytes
/// as ours: all that is whole goes into frames that read. The first octet chooses the length of the pieces.
pub fn websocket(bytes: &[u8]) -> bool {
    let [piece, bytes @ ..] = bytes else { return false };
    let piece = usize::from(*piece).max(1);
    let whole = read(bytes, usize::MAX);
    let mut cut = read(bytes, piece);
    if whole.end == Some(Err(WebSocketError::NotUtf8)) {
        // How much of a text was handed on before its fault was seen depends on how it came in.
        let len = cut.data.len().min(whole.data.len());
        assert_eq!(cut.data[..len], whole.data[..len]);
        cut.data.clone_from(&whole.data);
    }
    assert_eq!(cut, whole);
    assert!(whole.data.len() <= bytes.len());

    let mut outbound = Outbound::default();
    bytes.chunks(piece).for_each(|piece| outbound.push(Bytes::copy_from_slice(piece)));
    outbound.close(1000);
    let (mut written, mut counts) = (Vec::new(), 0);
    while let Some(piece) = outbound.poll() {
        assert!(piece.counts <= piece.bytes.len());
        counts += piece.counts;
        written.extend_from_slice(&piece.bytes);
    }
    assert_eq!(read_back(&written), bytes[..counts]);
    let is_ours = counts > 0 && counts == bytes.len();
    is_ours || (whole.end.is_none_or(|end| end.is_ok()) && !whole.data.is_empty())
}

/// The payload of the data frames that a server wrote; the last frame is a close frame.
fn read_back(mut written: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let (head, rest) = written.split_at(2);
        let (len, rest) = match head[1] {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            len => (usize::from(len), rest),
        };
        assert!(head[1] <= 126, "not masked, and longer ones go in parts");
        let (payload, rest) = rest.split_at(len);
        written = rest;
        match head[0] & 0x0f {
            0..=2 => data.extend_from_slice(payload),
            8 => break,
            opcode => panic!("opcode {opcode}"),
        }
    }
    assert!(written.is_empty());
    data
}

/// A request for a WebSocket: what is granted is no longer than what came, and answered in HTTP either way.
pub fn upgrade_request(bytes: &[u8]) -> bool {
    match upgrade(bytes, &["https://shop.example".to_owned()]) {
        Ok(None) => {
            assert!(bytes.len() < MAX_REQUEST_BYTES);
            false
        }
        Ok(Some(granted)) => {
            assert!(granted.len <= bytes.len() && granted.answer.starts_with(b"HTTP/1.1 101 "));
            assert_eq!(
                upgrade(&bytes[..granted.len], &[]).map(|again| again.map(|again| again.len)),
                Ok(Some(granted.len))
            );
            true
        }
        Err(error) => {
            let answer = refusal(&error);
            let head = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
            assert!(answer.starts_with(b"HTTP/1.1 4") && !answer[..head].windows(2).any(|two| two == b"\n\n"));
            false
        }
    }
}

/// A PROXY header: what it announces is bounded, and only a whole one names an address.
pub fn proxy_header(bytes: &[u8]) -> bool {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else { return false };
    let Ok(len) = proxy::rest_len(fixed) else {
        assert!(proxy::client(fixed, rest).is_err());
        return false;
    };
    assert!(len <= proxy::MAX_REST_BYTES && (0..=FIXED_BYTES).all(|end| proxy::may_begin(&fixed[..end])));
    let Some(rest) = rest.get(..len) else {
        assert!(proxy::client(fixed, rest).is_err());
        return false;
    };
    if let Ok(Some(address)) = proxy::client(fixed, rest) {
        assert!(len >= 12 && address.ip() == address.ip().to_canonical());
    }
    proxy::client(fixed, rest).is_ok()
}

/// A frame as a client sends it, of less than 64 KiB.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("seeds are short");
    let mut out = vec![first];
    match u8::try_from(len).ok().filter(|len| *len < 126) {
        Some(len) => out.push(0x80 | len),
        None => {
            out.push(0xfe);
            out.extend(len.to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// A conversation in messages, in parts with pings between them, and joined in one.
pub(super) fn websocket_seeds() -> Vec<Vec<u8>> {
    let frames = conversation(Version::V1_2);
    let each: Vec<u8> = frames.iter().flat_map(|stomp| frame(0x81, stomp)).collect();
    let parts: Vec<u8> = frames
        .iter()
        .flat_map(|stomp| {
            let (first, second) = stomp.split_at(stomp.len() / 2);
            [frame(0x02, first), frame(0x89, b"p"), frame(0x80, second), frame(0x8a, b"")].concat()
        })
        .collect();
    let joined = [frame(0x82, &frames.concat()), frame(0x88, b"\x03\xe8bye")].concat();
    // As a session writes them.
    let ours = frames.iter().flat_map(|stomp| [&stomp[..], b"\n"].concat()).collect();
    let text = [frame(0x01, b"\xe2\x82"), frame(0x80, b"\xac\n")].concat();
    [each, parts, joined, text, ours].into_iter().map(|bytes| [&[7][..], &bytes].concat()).collect()
}

pub(super) fn upgrade_seeds() -> Vec<Vec<u8>> {
    let request = |more: &str| {
        format!(
            "GET /stomp HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\nmore"
        )
        .into_bytes()
    };
    vec![
        request(""),
        request("Sec-WebSocket-Protocol: v12.stomp, v11.stomp\r\n"),
        request("Origin: https://shop.example\r\n"),
    ]
}

pub(super) fn proxy_seeds() -> Vec<Vec<u8>> {
    let header = |command: u8, family: u8, rest: &[u8]| {
        let len = u16::try_from(rest.len()).expect("seeds are short");
        [&SIGNATURE[..], &[command, family], &len.to_be_bytes(), rest].concat()
    };
    vec![
        header(0x21, 0x11, &[192, 0, 2, 1, 127, 0, 0, 1, 0x9c, 0x41, 0xf0, 0xad]),
        header(0x21, 0x21, &[&[0x20, 1, 0x0d, 0xb8][..], &[0; 28], &[0x9c, 0x41, 0xf0, 0xad, 5, 0, 1, b'i']].concat()),
        header(0x20, 0, b""),
        header(0x21, 0x31, &[0; 216]),
    ]
}
