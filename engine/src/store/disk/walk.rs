//! Reading a log file from end to end: intact frames in order, and what lies between them that is none.

use std::collections::BTreeSet;

use super::frame::{Frame, FrameKey};

/// A piece of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Frame { at: usize, frame: Frame },
    Damaged { at: usize, len: usize },
}

impl Piece {
    pub(super) fn at(&self) -> usize {
        match self {
            Self::Frame { at, .. } | Self::Damaged { at, .. } => *at,
        }
    }
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

/// The places of frames that do not lie where they were written: copies that a device has put over others. The numbers of
/// frames tell, which only rise: as many frames as can be are kept, so that one from further on does not make all that it
/// stands before look old. Any choice of frames whose numbers rise is a replay with gaps, and gaps are reported; this is the
/// one with the fewest. Frames below `expected` are not looked at.
pub(super) fn misplaced(pieces: &[Piece], expected: u64) -> BTreeSet<usize> {
    let frames: Vec<(usize, u64)> = pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Frame { at, frame } if frame.sequence >= expected => Some((*at, frame.sequence)),
            _ => None,
        })
        .collect();
    if frames.is_sorted_by(|a, b| a.1 < b.1) {
        return BTreeSet::new();
    }
    // By how many frames a rising choice that ends with one can have: the frames, in the order they lie in. Those of one
    // count have falling numbers, or two of them would be part of a longer choice.
    let mut by_count: Vec<Vec<(usize, u64)>> = Vec::new();
    for &(at, sequence) in &frames {
        let count = by_count.partition_point(|same| same.last().is_some_and(|(_, lowest)| *lowest < sequence));
        if count == by_count.len() {
            by_count.push(Vec::new());
        }
        by_count[count].push((at, sequence));
    }
    // From the end: of those that fit, the one that comes first. It has the highest number, and stays the choice when more
    // is written behind.
    let (mut kept, mut below) = (BTreeSet::new(), u64::MAX);
    for same in by_count.iter().rev() {
        if let Some((at, sequence)) = same.get(same.partition_point(|(_, sequence)| *sequence >= below)) {
            kept.insert(*at);
            below = *sequence;
        }
    }
    frames.iter().map(|(at, _)| *at).filter(|at| !kept.contains(at)).collect()
}

/// Where the torn tail of a log's last file begins, if it has one: the first damage after which there is nothing but
/// damage and frames of the very group of frames that the damage is in. Such a group was written and never synced, for
/// a group is written only after the one before it was synced; so none of it was confirmed, and a crash may keep any
/// of its pages. A frame behind the damage that is older than it shows that something else has happened here. `sequence` is
/// what the first frame should have, 0 when that is not known. Damage of which `is_synced` says that it was synced, by the
/// sequence and the place of what should be there, is none of that.
pub(super) fn torn_tail(pieces: &[Piece], sequence: u64, is_synced: &dyn Fn(u64, usize) -> bool) -> Option<usize> {
    let mut expected = sequence;
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Frame { frame, .. } => expected = frame.sequence + 1,
            Piece::Damaged { at, .. } => {
                let same_group = |piece: &Piece| match piece {
                    Piece::Frame { frame, .. } => frame.group <= expected && frame.sequence >= expected,
                    Piece::Damaged { .. } => true,
                };
                if !is_synced(expected, *at) && pieces[index..].iter().all(same_group) {
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
            assert_eq!(torn_tail(&pieces, 1, &|_, _| false), torn.then_some(starts[broken]), "{groups:?} {broken}");
            // Up to the frame before it, and up to the broken one.
            let broken_sequence = broken as u64 + 1;
            assert_eq!(
                torn_tail(&pieces, 1, &|sequence, _| sequence < broken_sequence),
                torn.then_some(starts[broken])
            );
            assert_eq!(torn_tail(&pieces, 1, &|sequence, _| sequence <= broken_sequence), None, "it was synced");
        }
        let (key, bytes, _) = log(&[1, 2]);
        assert_eq!(torn_tail(&Walk::new(&bytes, &key, 0).collect::<Vec<_>>(), 1, &|_, _| false), None);
    }

    #[test]
    fn as_many_frames_as_can_be_are_where_they_belong() {
        let key = FrameKey::new(&[1; 32]);
        for (sequences, expected, out_of_place) in [
            (&[1, 2, 3][..], 1, &[][..]),
            (&[1, 2, 9, 4, 5], 1, &[2]),
            (&[9, 2, 3], 0, &[0]),
            (&[1, 2, 8, 9, 5, 6, 7], 1, &[2, 3]),
            (&[1, 2, 9, 5, 6, 9], 1, &[2]),
            (&[1, 2, 3, 1, 5], 1, &[3]),
            // Those below what is expected are none of its business.
            (&[3, 5, 4, 5], 4, &[1]),
            // One or the other: the later one, however the log goes on.
            (&[1, 3, 2], 1, &[2]),
            (&[1, 3, 2, 4], 1, &[2]),
            (&[1, 3, 2, 4, 5], 1, &[2]),
            (&[1, 2, 2], 1, &[2]),
        ] {
            let (mut bytes, mut starts) = (Vec::new(), Vec::new());
            for sequence in sequences {
                starts.push(bytes.len());
                key.encode(&mut bytes, *sequence, *sequence, std::iter::empty());
            }
            let pieces: Vec<_> = Walk::new(&bytes, &key, 0).collect();
            let places: BTreeSet<usize> = out_of_place.iter().map(|index: &usize| starts[*index]).collect();
            assert_eq!(misplaced(&pieces, expected), places, "{sequences:?}");
        }
    }
}
