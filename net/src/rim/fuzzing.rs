//! Laws of what is read from a connection, for `fuzz/`.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use quinn::ReadError;
use rhizomq_engine::{
    Epoch, NodeId,
    fuzzing::{Choices, parts},
};

use super::{
    frame::{Chunks, FrameError, FrameReader, encode},
    handshake::{HEAD_BYTES, MAGIC, PROOFS_BYTES, check_head, check_proofs},
};
use crate::link::{MAX_HELLO_BYTES, MAX_NAME_BYTES, PeerHello, Proven, common_version};

/// A stream that comes in pieces as the input says, and is never waited for.
struct Pieces<'a> {
    rest: &'a [u8],
    sizes: std::iter::Cycle<std::slice::Iter<'a, u8>>,
}

impl Chunks for Pieces<'_> {
    async fn read_chunks(&mut self, pieces: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        assert!(pieces.iter().all(Bytes::is_empty), "bytes that were not read are thrown away");
        let mut filled = 0;
        let count = 1 + self.sizes.next().map_or(0, |size| usize::from(size % 32));
        for piece in pieces.iter_mut().take(count) {
            let len = self.sizes.next().map_or(1, |size| usize::from(*size).max(1)).min(self.rest.len());
            if len == 0 {
                break;
            }
            *piece = Bytes::copy_from_slice(&self.rest[..len]);
            self.rest = &self.rest[len..];
            filled += 1;
        }
        Ok((filled > 0).then_some(filled))
    }
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing is waited for here"),
    }
}

/// All messages of a stream, and why there are no more: the length that is too much, or the end in the middle of one.
fn read(stream: &[u8], sizes: &[u8], limit: usize) -> (Vec<Bytes>, Option<Option<usize>>) {
    let mut reader = FrameReader::new(Pieces { rest: stream, sizes: sizes.iter().cycle() });
    let mut messages = Vec::new();
    loop {
        match ready(reader.next(limit)) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, None),
            Err(FrameError::TooLong(length)) => return (messages, Some(Some(length))),
            Err(FrameError::Torn) => return (messages, Some(None)),
            Err(FrameError::Read(error)) => panic!("the stream does not break: {error}"),
        }
    }
}

/// A limit, sizes of pieces, and a stream: the messages in it are found however it comes in, none is longer than the
/// limit, and written again they make the same stream.
pub fn wire_frame(bytes: &[u8]) -> bool {
    let mut choices = Choices(bytes);
    let limit = usize::from(choices.short());
    let sizes = choices.part();
    let stream = choices.0;

    let (mut expected, mut rest) = (Vec::new(), stream);
    let end = loop {
        let Some((header, after)) = rest.split_first_chunk() else {
            break (!rest.is_empty()).then_some(None);
        };
        let length = u32::from_be_bytes(*header) as usize;
        if length > limit {
            break Some(Some(length));
        }
        let Some((message, after)) = after.split_at_checked(length) else { break Some(None) };
        expected.push(Bytes::copy_from_slice(message));
        rest = after;
    };
    assert_eq!(read(stream, sizes, limit), (expected.clone(), end));

    let written = encode(expected.iter().cloned()).concat();
    assert_eq!(written, stream[..written.len()]);
    assert_eq!(read(&written, &[1], limit), (expected.clone(), None));
    !expected.is_empty()
}

pub(crate) fn wire_frame_seeds() -> Vec<Vec<u8>> {
    let stream = encode([Bytes::from_static(b"ab"), Bytes::new(), Bytes::from(vec![7; 300])]).concat();
    let seed = |limit: u16, sizes: &[u8], stream: &[u8]| [&limit.to_be_bytes()[..], &parts(&[sizes]), stream].concat();
    vec![
        seed(1024, &[3, 1, 2, 250], &stream),
        seed(1024, &[], &stream[..stream.len() - 1]),
        seed(100, &[31, 255], &stream),
    ]
}

/// Versions of ours, an opening and a hello: passed are those of a node that knows a secret in common and speaks a version
/// of ours, and a hello that reads is within its limits.
pub fn handshake(bytes: &[u8]) -> bool {
    let mut choices = Choices(bytes);
    let ours = (u16::from(choices.byte()), u16::from(choices.byte()));
    let (head, proofs) = (choices.take(HEAD_BYTES), choices.take(PROOFS_BYTES));
    let mut read = false;
    if proofs.len() == PROOFS_BYTES {
        let number = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let is_head = head[..8] == MAGIC && common_version(ours, (number(8), number(10))).is_some();
        let is_proven = proofs.chunks(32).any(|bytes| bytes == proof().as_bytes());
        let passes_head = check_head(Bytes::copy_from_slice(head), ours).is_ok();
        let passes_proofs = check_proofs(proofs, |proofs| proofs.contains(&proof()).then_some(Proven::Own)).is_ok();
        assert_eq!((passes_head, passes_proofs), (is_head, is_proven));
        read = passes_head && passes_proofs;
    }
    let node = NodeId([1; 16]);
    if let Ok(hello) = PeerHello::decode(node, Proven::Own, choices.0) {
        assert!(hello.node == node && hello.name.len() <= MAX_NAME_BYTES);
        let written = hello.encode().expect("a name that was read is short enough");
        assert!(written.len() <= MAX_HELLO_BYTES);
        assert_eq!(PeerHello::decode(node, Proven::Own, &written), Ok(hello));
        read = true;
    }
    read
}

fn proof() -> blake3::Hash {
    blake3::Hash::from_bytes([5; 32])
}

pub(crate) fn handshake_seeds() -> Vec<Vec<u8>> {
    let opening = |versions: [u8; 4], place: usize| {
        let mut proofs = vec![1; PROOFS_BYTES];
        proofs[32 * place..][..32].copy_from_slice(proof().as_bytes());
        [&MAGIC[..], &versions, &proofs].concat()
    };
    let hello = PeerHello {
        node: NodeId([1; 16]),
        epoch: Epoch(7),
        name: "node-a ☂".into(),
        wall_ms: 1_700_000_000_000,
        proven: Proven::Own,
    };
    let hello = hello.encode().unwrap_or_default();
    vec![
        [&[1, 1][..], &opening([0, 1, 0, 1], 0), &hello].concat(),
        [&[2, 5][..], &opening([0, 1, 0, 3], 15), &hello].concat(),
        [&[1, 1][..], &opening([0, 2, 0, 3], 1), &hello].concat(),
    ]
}
