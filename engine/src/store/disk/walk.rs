//! Reading a log file from end to end: intact frames in order, and what lies between them that is none.

use super::frame::{Frame, FrameKey};

/// A piece of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Frame { at: usize, frame: Frame },
    Damaged { at: usize, len: usize },
}

/// Walks the frames of a file's bytes from an offset; after damage it goes on at the next intact frame.
pub(super) struct Walk<'a> {
    bytes: &'a [u8],
    key: &'a FrameKey,
    at: usize,
    ready: Option<Piece>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(bytes: &'a [u8], key: &'a FrameKey, from: usize) -> Self {
        Self { bytes, key, at: from, ready: None }
    }

    fn frame_at(&mut self, at: usize) -> Option<Piece> {
        let frame = self.key.decode(self.bytes, at)?;
        self.at = frame.payload.end;
        Some(Piece::Frame { at, frame })
    }
}

impl Iterator for Walk<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if let Some(piece) = self.ready.take() {
            return Some(piece);
        }
        let at = self.at;
        if at >= self.bytes.len() {
            return None;
        }
        if let Some(piece) = self.frame_at(at) {
            return Some(piece);
        }
        let mut from = at + 1;
        while let Some(candidate) = self.key.find(self.bytes, from) {
            self.ready = self.frame_at(candidate);
            if self.ready.is_some() {
                return Some(Piece::Damaged { at, len: candidate - at });
            }
            from = candidate + 1;
        }
        self.at = self.bytes.len();
        Some(Piece::Damaged { at, len: self.bytes.len() - at })
    }
}

/// Where the torn tail of a log's last file begins, if it has one: the first damage after which there is nothing but
/// damage and frames of the very group of frames that the damage is in. Such a group was written and never synced, for
/// a group is written only after the one before it was synced; so none of it was confirmed, and a crash may keep any
/// of its pages. `sequence` is what the first frame should have.
pub(super) fn torn_tail(pieces: &[Piece], sequence: u64) -> Option<usize> {
    let mut expected = sequence;
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Frame { frame, .. } => expected = frame.sequence + 1,
            Piece::Damaged { at, .. } => {
                let same_group = |piece: &Piece| match piece {
                    Piece::Frame { frame, .. } => frame.group <= expected,
                    Piece::Damaged { .. } => true,
                };
                if pieces[index..].iter().all(same_group) {
                    return Some(*at);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Kind, Record};
    use super::*;

    fn log(groups: &[u64]) -> (FrameKey, Vec<u8>, Vec<usize>) {
        let key = FrameKey::new(&[1; 32]);
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for (sequence, group) in (1..).zip(groups) {
            starts.push(bytes.len());
            let record = Record { kind: Kind::Put, key: b"k", value: &[sequence as u8; 50] };
            key.encode(&mut bytes, sequence, *group, [record].into_iter());
        }
        (key, bytes, starts)
    }

    #[test]
    fn damage_is_stepped_over_and_named_exactly() {
        let (key, mut bytes, starts) = log(&[1, 2, 3]);
        bytes[starts[1] + 60] ^= 1;
        let pieces: Vec<_> = Walk::new(&bytes, &key, 0).collect();
        let len = starts[2] - starts[1];
        assert_eq!(pieces[1], Piece::Damaged { at: starts[1], len });
        assert!(matches!(&pieces[2], Piece::Frame { at, frame } if *at == starts[2] && frame.sequence == 3));
        assert_eq!(pieces.len(), 3);
        bytes.truncate(starts[2] + 5);
        assert_eq!(
            Walk::new(&bytes, &key, starts[1]).collect::<Vec<_>>(),
            [Piece::Damaged { at: starts[1], len: len + 5 }]
        );
    }

    #[test]
    fn only_an_unsynced_group_is_a_torn_tail() {
        for (groups, broken, torn) in [
            (&[1, 2, 3][..], 2, true), // the last frame
            (&[1, 2, 3], 1, false),    // the one before was synced before the last was written
            (&[1, 2, 2], 1, true),     // both were written together
            (&[1, 2, 2, 2], 2, true),  // and the second of the group is broken: the group's first frame stays
            (&[1, 1, 3], 1, false),
        ] {
            let (key, mut bytes, starts) = log(groups);
            bytes[starts[broken] + 45] ^= 1;
            let pieces: Vec<_> = Walk::new(&bytes, &key, 0).collect();
            assert_eq!(torn_tail(&pieces, 1), torn.then_some(starts[broken]), "{groups:?} {broken}");
        }
        let (key, bytes, _) = log(&[1, 2]);
        assert_eq!(torn_tail(&Walk::new(&bytes, &key, 0).collect::<Vec<_>>(), 1), None);
    }
}
