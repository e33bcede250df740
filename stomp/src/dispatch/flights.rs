//! What an owner has in flight: which edge holds which dot.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use rhizomq_engine::{Dot, NodeId, RangeSet, SegmentId, Slot};

/// One delivery.
pub(super) struct Flight {
    pub(super) edge: NodeId,
    /// The name that the edge knows it by.
    pub(super) tag: u64,
    /// Where it waited: a lane of what the edge asked for.
    pub(super) inbox: Arc<str>,
    /// What its consumer asked for, where later messages wait until this one is settled should that consumer go.
    pub(super) reader: Option<Arc<str>>,
}

/// A table of deliveries by dot, with their number by inbox and by reader.
#[derive(Default)]
pub(super) struct Flights {
    by_dot: BTreeMap<Dot, Flight>,
    counts: BTreeMap<Arc<str>, u64>,
    readers: BTreeMap<Arc<str>, u64>,
    /// Readers with which nothing is in flight any more.
    freed: Vec<Arc<str>>,
}

/// One more.
fn count(counts: &mut BTreeMap<Arc<str>, u64>, name: &Arc<str>) {
    *counts.entry(Arc::clone(name)).or_insert(0) += 1;
}

/// One less. Whether that was the last one.
fn discount(counts: &mut BTreeMap<Arc<str>, u64>, name: &Arc<str>) -> bool {
    let Some(count) = counts.get_mut(name) else { return false };
    *count -= 1;
    let is_last = *count == 0;
    if is_last {
        counts.remove(name);
    }
    is_last
}

impl Flights {
    pub(super) fn contains(&self, dot: Dot) -> bool {
        self.by_dot.contains_key(&dot)
    }

    /// Whether this very delivery is in flight.
    pub(super) fn is(&self, dot: Dot, edge: NodeId, tag: u64) -> bool {
        self.by_dot.get(&dot).is_some_and(|flight| flight.edge == edge && flight.tag == tag)
    }

    pub(super) fn count(&self, inbox: &Arc<str>) -> u64 {
        self.counts.get(inbox).copied().unwrap_or(0)
    }

    /// The dot must not be in flight.
    pub(super) fn insert(&mut self, dot: Dot, flight: Flight) {
        count(&mut self.counts, &flight.inbox);
        flight.reader.iter().for_each(|reader| count(&mut self.readers, reader));
        self.by_dot.insert(dot, flight);
    }

    /// Takes a dot out. Returns its inbox.
    pub(super) fn remove(&mut self, dot: Dot) -> Option<Arc<str>> {
        let Flight { inbox, reader, .. } = self.by_dot.remove(&dot)?;
        discount(&mut self.counts, &inbox);
        reader.into_iter().for_each(|reader| self.discount_reader(reader));
        Some(inbox)
    }

    /// Takes out what is in flight of these slots. Returns their inboxes, one for each.
    pub(super) fn remove_all(&mut self, segment: SegmentId, slots: &RangeSet) -> Vec<Arc<str>> {
        let dots: Vec<_> = slots.iter_ranges().flat_map(|(first, last)| self.between(segment, first, last)).collect();
        dots.into_iter().filter_map(|dot| self.remove(dot)).collect()
    }

    /// Takes out what is in flight of a segment.
    pub(super) fn remove_segment(&mut self, segment: SegmentId) {
        self.within(segment).into_iter().for_each(|dot| drop(self.remove(dot)));
    }

    /// What is in flight is with somebody else now, under another name. Whether it is in flight at all.
    pub(super) fn pass_on(&mut self, dot: Dot, edge: NodeId, tag: u64) -> bool {
        let flight = self.by_dot.get_mut(&dot);
        flight.map(|flight| (flight.edge, flight.tag) = (edge, tag)).is_some()
    }

    /// Later messages don't wait for this one any more.
    pub(super) fn let_pass(&mut self, dot: Dot) {
        if let Some(reader) = self.by_dot.get_mut(&dot).and_then(|flight| flight.reader.take()) {
            self.discount_reader(reader);
        }
    }

    fn discount_reader(&mut self, reader: Arc<str>) {
        if discount(&mut self.readers, &reader) {
            self.freed.push(reader);
        }
    }

    /// Readers with which nothing is in flight any more, since this was last asked.
    pub(super) fn take_freed(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.freed)
    }

    /// Whether anything is in flight with a consumer that asks for this.
    pub(super) fn is_with(&self, reader: &Arc<str>) -> bool {
        self.readers.contains_key(reader)
    }

    /// Readers whose names begin so, with which anything is in flight.
    pub(super) fn readers<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let from = self.readers.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.map(|(name, _)| name).take_while(move |name| name.starts_with(prefix))
    }

    /// The inbox of what is in flight.
    pub(super) fn inbox(&self, dot: Dot) -> Option<&Arc<str>> {
        self.by_dot.get(&dot).map(|flight| &flight.inbox)
    }

    /// Everything in flight at one edge.
    pub(super) fn at(&self, edge: NodeId) -> Vec<Dot> {
        self.by_dot.iter().filter(|(_, flight)| flight.edge == edge).map(|(dot, _)| *dot).collect()
    }

    /// Everything in flight of a segment.
    pub(super) fn within(&self, segment: SegmentId) -> Vec<Dot> {
        self.between(segment, 0, Slot::MAX).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_dot.len()
    }

    fn between(&self, segment: SegmentId, first: Slot, last: Slot) -> impl Iterator<Item = Dot> {
        self.by_dot.range(Dot { segment, slot: first }..=Dot { segment, slot: last }).map(|(dot, _)| *dot)
    }
}
