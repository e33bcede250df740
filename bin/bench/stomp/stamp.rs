//! What is written into each body, so that a message can be told from any other, and what has come of them.

use std::time::Duration;

use bytes::{BufMut, BytesMut};

/// Bytes of a stamp; the rest of a body is noise.
pub(super) const LEN: usize = 32;

/// The front of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The run of the program: what an earlier one left is no concern of this one.
    pub(super) run: u64,
    /// Which measurement of that run.
    pub(super) series: u64,
    /// Which message of that measurement, from 0.
    pub(super) number: u64,
    /// When it should have been sent, since the beginning of the measurement.
    pub(super) due: Duration,
}

impl Stamp {
    /// Writes a body of `noise`'s length that begins with the stamp.
    pub(super) fn put(self, noise: &[u8], out: &mut BytesMut) {
        out.put_u64(self.run);
        out.put_u64(self.series);
        out.put_u64(self.number);
        out.put_u64(u64::try_from(self.due.as_nanos()).unwrap_or(u64::MAX));
        out.put_slice(noise.get(LEN..).unwrap_or_default());
    }

    /// The stamp of a body, if it has one.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let (words, _) = body.get(..LEN)?.as_chunks::<8>();
        let &[run, series, number, due] = words else { return None };
        let [run, series, number, due] = [run, series, number, due].map(u64::from_be_bytes);
        Some(Self { run, series, number, due: Duration::from_nanos(due) })
    }
}

/// Which messages of one measurement have come, and what else came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    bits: Vec<u64>,
    /// Different messages.
    pub(super) count: u64,
    /// Deliveries beyond the first.
    pub(super) twice: u64,
    /// Of these, how many were marked `redelivered:true`.
    pub(super) marked: u64,
    /// Messages of earlier measurements of this run, which had come already.
    pub(super) late: u64,
    /// What other programs, or an earlier run, left in the queue.
    pub(super) strangers: u64,
    /// Bodies that are not as long as they were sent.
    pub(super) torn: u64,
}

/// What a measurement expects to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) run: u64,
    pub(super) series: u64,
    pub(super) size: u32,
}

impl Expected {
    /// What is written into one of its messages.
    pub(super) fn stamp(&self, number: u64, due: Duration) -> Stamp {
        Stamp { run: self.run, series: self.series, number, due }
    }
}

impl Seen {
    /// Notes a delivery; its stamp if it is one of those that are measured.
    pub(super) fn note(&mut self, body: &[u8], redelivered: bool, expected: &Expected) -> Option<Stamp> {
        let Some(stamp) = Stamp::read(body).filter(|stamp| stamp.run == expected.run) else {
            self.strangers += 1;
            return None;
        };
        if stamp.series != expected.series {
            self.late += 1;
            return None;
        }
        self.torn += u64::from(body.len() != expected.size as usize);
        let (word, bit) = (usize::try_from(stamp.number / 64).ok()?, 1 << (stamp.number % 64));
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit != 0 {
            self.twice += 1;
            self.marked += u64::from(redelivered);
        } else {
            self.bits[word] |= bit;
            self.count += 1;
        }
        Some(stamp)
    }

    /// Takes in what another consumer of the same queue has seen.
    pub(super) fn merge(&mut self, other: &Self) {
        if other.bits.len() > self.bits.len() {
            self.bits.resize(other.bits.len(), 0);
        }
        for (mine, theirs) in self.bits.iter_mut().zip(&other.bits) {
            self.twice += u64::from((*mine & theirs).count_ones());
            self.count += u64::from((!*mine & theirs).count_ones());
            *mine |= theirs;
        }
        self.twice += other.twice;
        self.marked += other.marked;
        self.late += other.late;
        self.strangers += other.strangers;
        self.torn += other.torn;
    }

    /// What is wrong, where each of so many messages should have come once.
    pub(super) fn problems(&self, sent: u64) -> Vec<String> {
        let missing = sent.saturating_sub(self.count);
        let Self { twice, marked, late, torn, .. } = self;
        let mut problems = Vec::new();
        problems.extend((missing > 0).then(|| format!("{missing} of {sent} messages never came")));
        problems.extend(
            (*twice > 0).then(|| format!("{twice} deliveries came again, {marked} of them marked redelivered")),
        );
        problems.extend((*late > 0).then(|| format!("{late} messages came again that had been consumed before")));
        problems.extend((*torn > 0).then(|| format!("{torn} bodies had another length than they were sent with")));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected = Expected { run: 7, series: 2, size: 40 };

    fn body(run: u64, series: u64, number: u64) -> BytesMut {
        let mut out = BytesMut::new();
        Stamp { run, series, number, due: Duration::from_micros(3) }.put(&[1; 40], &mut out);
        out
    }

    #[test]
    fn a_stamp_survives_and_leaves_the_length_as_it_was() {
        let body = body(7, 2, 9);
        assert_eq!(body.len(), 40);
        let due = Duration::from_micros(3);
        assert_eq!(Stamp::read(&body), Some(Stamp { run: 7, series: 2, number: 9, due }));
        assert_eq!(Stamp::read(&body[..31]), None);
    }

    #[test]
    fn what_comes_twice_or_late_or_never_is_told() {
        let mut seen = Seen::default();
        for number in [0, 1, 200, 1] {
            assert!(seen.note(&body(7, 2, number), number == 1, &EXPECTED).is_some());
        }
        assert!(seen.note(&body(7, 1, 5), false, &EXPECTED).is_none());
        assert!(seen.note(b"hello", false, &EXPECTED).is_none());
        assert_eq!((seen.count, seen.twice, seen.marked, seen.late, seen.strangers), (3, 1, 1, 1, 1));
        assert_eq!(seen.problems(3).len(), 2);
        assert_eq!(seen.problems(5)[0], "2 of 5 messages never came");
    }

    #[test]
    fn consumers_that_share_a_queue_must_not_see_the_same() {
        let (mut one, mut other) = (Seen::default(), Seen::default());
        one.note(&body(7, 2, 0), false, &EXPECTED);
        other.note(&body(7, 2, 1), false, &EXPECTED);
        other.note(&body(7, 2, 100), false, &EXPECTED);
        let mut all = one.clone();
        all.merge(&other);
        assert_eq!((all.count, all.problems(3)), (3, vec![]));
        all.merge(&one);
        assert_eq!((all.count, all.twice), (3, 1));
    }
}
