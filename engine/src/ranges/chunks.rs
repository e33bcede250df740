//! A sorted list of ranges in chunks: a change in the middle of many ranges touches one chunk, and a copy shares all
//! chunks until one of the two changes. A set of few ranges is one plain list.

use std::sync::Arc;

use crate::Slot;

pub(super) type Range = (Slot, Slot);

/// Ranges of a chunk at most. Small in tests, so that chunks are cut and joined there.
const CHUNK: usize = if cfg!(test) { 6 } else { 512 };

/// A chunk, and a position in it: of a range, or the end of the last chunk.
pub(super) type Place = (usize, usize);

#[derive(Clone, Default)]
pub(super) struct Chunks {
    /// All chunks but the last; none of them is empty.
    full: Vec<Arc<Vec<Range>>>,
    /// The last chunk; empty only if the list is.
    last: Vec<Range>,
    count: usize,
}

/// An iterator that knows how much is left.
struct Counted<I> {
    inner: I,
    left: usize,
}

impl<I: Iterator> Iterator for Counted<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.left = self.left.saturating_sub(1);
        self.inner.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<I: DoubleEndedIterator> DoubleEndedIterator for Counted<I> {
    fn next_back(&mut self) -> Option<I::Item> {
        self.left = self.left.saturating_sub(1);
        self.inner.next_back()
    }
}

impl<I: Iterator> ExactSizeIterator for Counted<I> {}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self { full: Vec::new(), last: Vec::new(), count: 0 }
    }

    /// Number of ranges.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn first(&self) -> Option<Range> {
        self.full.first().map_or(&self.last, |chunk| chunk).first().copied()
    }

    pub(super) fn last(&self) -> Option<Range> {
        self.last.last().copied()
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut Range> {
        self.last.last_mut()
    }

    pub(super) fn get(&self, place: Place) -> Option<Range> {
        self.chunk(place.0).get(place.1).copied()
    }

    /// The range before a place.
    pub(super) fn before(&self, (chunk, at): Place) -> Option<Range> {
        let (chunk, at) = if at > 0 { (chunk, at) } else { (chunk.checked_sub(1)?, self.chunk(chunk - 1).len()) };
        self.chunk(chunk).get(at - 1).copied()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Range> + ExactSizeIterator + '_ {
        let inner = self.full.iter().flat_map(|chunk| chunk.iter()).chain(&self.last).copied();
        Counted { inner, left: self.count }
    }

    pub(super) fn iter_from(&self, (chunk, at): Place) -> impl Iterator<Item = Range> + '_ {
        let rest = (chunk + 1..=self.full.len()).flat_map(|chunk| self.chunk(chunk));
        self.chunk(chunk)[at..].iter().chain(rest).copied()
    }

    /// The first range that is not before what is looked for.
    pub(super) fn find(&self, is_before: impl Fn(&Range) -> bool) -> Place {
        let chunk = self.full.partition_point(|chunk| chunk.last().is_some_and(&is_before));
        (chunk, self.chunk(chunk).partition_point(is_before))
    }

    /// Adds a range after all others.
    pub(super) fn push(&mut self, range: Range) {
        if self.last.len() == CHUNK {
            self.full.push(Arc::new(std::mem::take(&mut self.last)));
        }
        self.last.push(range);
        self.count += 1;
    }

    /// Puts `items`, a few, in the place of the ranges from one place to before another.
    pub(super) fn replace(&mut self, from: Place, to: Place, items: impl Iterator<Item = Range> + Clone) {
        let added = items.clone().count();
        let removed = if from.0 == to.0 {
            self.chunk_mut(from.0).splice(from.1..to.1, items);
            to.1 - from.1
        } else {
            let first = self.chunk_mut(from.0);
            let mut removed = first.len() - from.1 + to.1;
            first.truncate(from.1);
            first.extend(items);
            self.chunk_mut(to.0).drain(..to.1);
            removed += self.full.drain(from.0 + 1..to.0).map(|chunk| chunk.len()).sum::<usize>();
            removed
        };
        self.count = self.count + added - removed;
        self.tidy(from.0 + 1);
        self.tidy(from.0);
    }

    /// Cuts a chunk that has become too large, and joins one that has become small with the next.
    fn tidy(&mut self, at: usize) {
        if at > self.full.len() {
            return;
        }
        let len = self.chunk(at).len();
        if len > CHUNK {
            let right = self.chunk_mut(at).split_off(len / 2);
            if at == self.full.len() {
                self.full.push(Arc::new(std::mem::replace(&mut self.last, right)));
            } else {
                self.full.insert(at + 1, Arc::new(right));
            }
        } else if at < self.full.len() && (len == 0 || len + self.chunk(at + 1).len() <= CHUNK / 2) {
            let chunk = self.full.remove(at);
            // What comes after it is at its place now.
            self.chunk_mut(at).splice(..0, chunk.iter().copied());
        }
        if self.last.is_empty() {
            self.last = self.full.pop().map(Arc::unwrap_or_clone).unwrap_or_default();
        }
    }

    fn chunk(&self, at: usize) -> &[Range] {
        self.full.get(at).map_or(&self.last, |chunk| chunk)
    }

    fn chunk_mut(&mut self, at: usize) -> &mut Vec<Range> {
        self.full.get_mut(at).map_or(&mut self.last, Arc::make_mut)
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.count, self.iter().count());
        assert!(self.full.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
        assert!(self.last.len() <= CHUNK && (!self.last.is_empty() || self.full.is_empty()));
    }
}
