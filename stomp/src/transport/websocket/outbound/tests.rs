use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::frame::{Command, Frame, Version, encode};

/// A frame as a session writes it.
fn whole(frame: &Frame) -> Bytes {
    [&encode(frame, Version::V1_2)[..], b"\n"].concat().into()
}

/// The messages in what a server wrote, and how many frames each has.
fn messages(bytes: &[u8]) -> Vec<(OpCode, Vec<u8>, usize)> {
    let mut cursor = Cursor::new(bytes);
    let (mut messages, mut open) = (Vec::new(), None);
    while let Some((header, len)) = FrameHeader::parse(&mut cursor).unwrap() {
        assert!(header.mask.is_none(), "servers don't mask");
        let start = cursor.position() as usize;
        let payload = &bytes[start..start + len as usize];
        cursor.set_position((start + payload.len()) as u64);
        let mut message = match (header.opcode, open.take()) {
            (OpCode::Data(Data::Continue), Some(message)) => message,
            (OpCode::Data(Data::Continue), None) => panic!("nothing to continue"),
            (opcode, None) => (opcode, Vec::new(), 0),
            (_, Some(_)) => panic!("the last message is not whole"),
        };
        message.1.extend_from_slice(payload);
        message.2 += 1;
        if header.is_final {
            messages.push(message);
        } else {
            open = Some(message);
        }
    }
    assert!(open.is_none() && cursor.position() as usize == bytes.len());
    messages
}

fn written(outbound: &mut Outbound) -> (Vec<u8>, usize) {
    let waiting = outbound.waiting();
    let pieces: Vec<Piece> = std::iter::from_fn(|| outbound.poll()).collect();
    let bytes = pieces.iter().map(|piece| &piece.bytes[..]).collect::<Vec<_>>().concat();
    assert_eq!((bytes.len(), outbound.waiting()), (waiting, 0));
    (bytes, pieces.iter().map(|piece| piece.counts).sum())
}

fn is_text(message: &(OpCode, Vec<u8>, usize)) -> bool {
    message.0 == OpCode::Data(Data::Text)
}

proptest! {
    #[test]
    fn each_stomp_frame_is_a_message_however_the_session_cuts_them(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), cut in 1..60_usize
    ) {
        let frames: Vec<Bytes> = bodies
            .into_iter()
            .flat_map(|body| {
                let message = Frame::new(Command::Message, [("a", "1"), ("b", "content-length:7")]).with_body(body);
                let receipt = Frame::new(Command::Receipt, [("receipt-id", "r")]);
                [whole(&message), Bytes::from_static(b"\n"), whole(&receipt)]
            })
            .collect();
        let mut outbound = Outbound::default();
        let stream = Bytes::from(frames.concat());
        (0..stream.len()).step_by(cut).for_each(|at| outbound.push(stream.slice(at..stream.len().min(at + cut))));
        let (bytes, counts) = written(&mut outbound);
        let messages = messages(&bytes);
        prop_assert_eq!(counts, stream.len());
        prop_assert_eq!(messages.iter().map(|message| &message.1[..]).collect::<Vec<_>>(), frames);
        for message in &messages {
            prop_assert_eq!(is_text(message), std::str::from_utf8(&message.1).is_ok());
        }
    }
}

#[test]
fn a_long_frame_goes_in_parts_and_is_one_message() {
    // A character of two bytes, so that parts end within characters.
    let body = "\u{e4}".repeat(PART_BYTES + 1);
    for (body, text) in [(body.into_bytes(), true), (vec![0xe4; 3 * PART_BYTES], false)] {
        let frame = whole(&Frame::new(Command::Message, [("a", "1")]).with_body(body));
        let mut outbound = Outbound::default();
        outbound.push(frame.slice(..PART_BYTES));
        assert_eq!(outbound.waiting(), 0, "whether it is text is not known");
        outbound.push(frame.slice(PART_BYTES..));
        outbound.close(1000);
        let (bytes, counts) = written(&mut outbound);
        let messages = messages(&bytes);
        assert_eq!(counts, frame.len());
        assert!(messages[0].1 == frame && is_text(&messages[0]) == text && messages[0].2 > 2);
        assert_eq!(messages[1], (OpCode::Control(Control::Close), vec![0x03, 0xe8], 1));
    }
}

#[test]
fn pings_are_answered_between_messages() {
    let mut outbound = Outbound::default();
    outbound.push(Bytes::from_static(b"RECEIPT\nreceipt-id:1\n"));
    outbound.pong(b"p");
    outbound.push(Bytes::from_static(b"\n\0\n"));
    let messages = messages(&written(&mut outbound).0);
    assert_eq!(messages[0], (OpCode::Control(Control::Pong), b"p".to_vec(), 1));
    assert_eq!(messages[1].1, b"RECEIPT\nreceipt-id:1\n\n\0\n");
}
