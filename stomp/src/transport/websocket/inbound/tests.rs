use proptest::prelude::*;

use super::*;

const LIMIT: u64 = 1000;
pub(crate) const FIN: u8 = 0x80;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
const PONG: u8 = 10;

/// A frame as a client sends it.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x11, 0xfe, 0, 0x80];
    let mut out = vec![first];
    match payload.len() {
        len @ ..126 => out.push(0x80 | len as u8),
        len @ ..65_536 => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// All data, all pings, and how it ended: not, or by a close frame, or by an error.
type Read = (Vec<u8>, Vec<Vec<u8>>, Option<Result<(), WebSocketError>>);

fn read(bytes: &[u8], piece: usize) -> Read {
    let mut inbound = Inbound::new(LIMIT);
    let (mut data, mut pings) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        inbound.feed(BytesMut::from(piece));
        loop {
            match inbound.poll() {
                Ok(None) => break,
                Ok(Some(Event::Data(bytes))) => data.extend(bytes),
                Ok(Some(Event::Ping(payload))) => pings.push(payload.to_vec()),
                Ok(Some(Event::Close)) => return (data, pings, Some(Ok(()))),
                Err(error) => return (data, pings, Some(Err(error))),
            }
        }
        assert!(inbound.buffered() < 14 + 125, "no more than a header or a control frame is held back");
    }
    (data, pings, None)
}

fn error(bytes: &[u8]) -> WebSocketError {
    read(bytes, usize::MAX).2.expect("over").unwrap_err()
}

proptest! {
    #[test]
    fn what_is_sent_in_any_frames_arrives_in_order(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5),
        part in 1..200_usize, piece in 1..100_usize, pinged in any::<bool>()
    ) {
        let mut bytes = Vec::new();
        for message in &messages {
            let parts: Vec<_> = if message.is_empty() { vec![&[][..]] } else { message.chunks(part).collect() };
            for (number, payload) in parts.iter().enumerate() {
                let first = if number == 0 { BINARY } else { 0 };
                bytes.extend(frame(first | if number + 1 == parts.len() { FIN } else { 0 }, payload));
                if pinged {
                    bytes.extend(frame(FIN | PING, b"?"));
                    bytes.extend(frame(FIN | PONG, b"!"));
                }
            }
        }
        let pings = bytes.len();
        bytes.extend(frame(FIN | CLOSE, b"\x03\xe8bye"));
        bytes.extend(frame(FIN | BINARY, b"after the end"));
        let (data, answers, end) = read(&bytes, piece);
        prop_assert_eq!(data, messages.concat());
        prop_assert_eq!(answers.is_empty(), !pinged || pings == 0);
        prop_assert_eq!(end, Some(Ok(())));
    }
}

#[test]
fn data_is_handed_on_before_its_message_is_whole() {
    let mut inbound = Inbound::new(LIMIT);
    let whole = frame(FIN | TEXT, b"SEND\n");
    inbound.feed(BytesMut::from(&whole[..8]));
    assert_eq!(inbound.poll(), Ok(Some(Event::Data(Bytes::from_static(b"SE")))));
    assert_eq!((inbound.poll(), inbound.buffered()), (Ok(None), 0));
    inbound.feed(BytesMut::from(&whole[8..]));
    assert_eq!(inbound.poll(), Ok(Some(Event::Data(Bytes::from_static(b"ND\n")))));
}

#[test]
fn what_rfc_6455_forbids_is_refused() {
    let mut unmasked = frame(FIN | TEXT, b"");
    unmasked[1] = 0;
    // Section 5.1.
    assert_eq!(error(&unmasked[..2]), WebSocketError::NotMasked);
    // 5.2.
    assert_eq!(error(&frame(FIN | 3, b"")), WebSocketError::UnknownOpcode);
    assert_eq!(error(&frame(FIN | 11, b"")), WebSocketError::UnknownOpcode);
    assert_eq!(error(&frame(FIN | 0x40 | TEXT, b"")), WebSocketError::ReservedBits);
    // 5.4.
    assert_eq!(error(&frame(FIN, b"a")), WebSocketError::BadSequence);
    assert_eq!(error(&[frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat()), WebSocketError::BadSequence);
    // 5.5.
    assert_eq!(error(&frame(PING, b"")), WebSocketError::BadControl);
    assert_eq!(error(&frame(FIN | PING, &[0; 126])), WebSocketError::BadControl);
    // 5.5.1, 7.4.
    for payload in [&b"\x03"[..], b"\x03\xed", b"\x03\xe8\xff"] {
        assert_eq!(error(&frame(FIN | CLOSE, payload)), WebSocketError::BadClose, "{payload:?}");
    }
    // 8.1.
    let cut = [frame(TEXT, b"\xe2"), frame(0, b"\x82"), frame(FIN, b"")].concat();
    assert_eq!((error(&cut), error(&cut).code()), (WebSocketError::NotUtf8, 1007));
    assert_eq!(error(&frame(FIN | TEXT, b"\xff")), WebSocketError::NotUtf8);
    let whole = [frame(TEXT, b"\xe2"), frame(0, b"\x82"), frame(FIN, b"\xac"), frame(FIN | BINARY, b"\xff")].concat();
    assert_eq!(read(&whole, 1), ("\u{20ac}".bytes().chain([0xff]).collect(), vec![], None));
}

#[test]
fn a_message_that_claims_too_much_is_refused_before_it_comes() {
    let claim = |len: u64| [&[FIN | BINARY, 0x80 | 127][..], &len.to_be_bytes(), &[0; 4]].concat();
    for len in [LIMIT + 1, u64::MAX] {
        assert_eq!(error(&claim(len)), WebSocketError::TooLong { limit: LIMIT });
    }
    assert_eq!(read(&claim(LIMIT), 1).2, None);
    let in_parts = [frame(BINARY, &[0; 600]), frame(0, &[0; 300]), frame(FIN, &[0; 101])].concat();
    assert_eq!((error(&in_parts), error(&in_parts).code()), (WebSocketError::TooLong { limit: LIMIT }, 1009));
}
