//! Places of consumers, as sums by inbox: so that neither a grant nor a delivery has to ask each consumer.
//!
//! A consumer adds its [`Share`] to each inbox that it reads. Whenever one of the figures behind it changes, [`Edge::recount`] puts
//! the new one in the place of the old one. Among those with a place they take turns, which is why an inbox has them in an order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{ConsumerId, Edge};
use crate::lane;

/// One inbox that a consumer reads.
pub(super) struct Reading {
    pub(super) inbox: Arc<str>,
    /// Lower ones come first.
    turn: u64,
    /// What is in the inbox's sums.
    share: Option<Share>,
}

impl Reading {
    pub(super) fn new(inbox: &Arc<str>) -> Self {
        Self { inbox: Arc::clone(inbox), turn: 0, share: None }
    }
}

/// What a consumer adds to the sums of an inbox.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Share {
    /// Places in which there is nothing.
    places: u64,
    /// Granted, and not received, for what is meant for this consumer alone.
    granted: u64,
    /// Its socket is behind.
    is_busy: bool,
    /// It reads other queues, too.
    reads_others: bool,
}

/// Whose turn it is, of those who have a place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Choice {
    Ready,
    Busy,
    /// All its places are granted to what is meant for it alone.
    Granted,
}

impl Share {
    /// Places for what anybody may have.
    fn spare(self) -> u64 {
        self.places.saturating_sub(self.granted)
    }

    fn choice(self) -> Option<Choice> {
        match (self.places, self.spare()) {
            (0, _) => None,
            (_, 0) => Some(Choice::Granted),
            _ if self.is_busy => Some(Choice::Busy),
            _ => Some(Choice::Ready),
        }
    }
}

/// The consumers of an inbox.
#[derive(Default)]
pub(in crate::dispatch) struct Readers {
    all: BTreeSet<ConsumerId>,
    turns: BTreeMap<(Choice, u64), ConsumerId>,
    last_turn: u64,
    pub(super) sums: Sums,
}

/// What the shares come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) places: u64,
    pub(super) granted: u64,
    pub(super) spare: u64,
    /// Spare ones of those whose socket keeps up.
    pub(super) ready: u64,
    /// Consumers that read other queues, too.
    pub(super) read_others: u64,
}

impl Readers {
    pub(in crate::dispatch) fn len(&self) -> usize {
        self.all.len()
    }

    pub(in crate::dispatch) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = ConsumerId> {
        self.all.iter().copied()
    }

    /// The next one with a free place, whose socket keeps up if there is a choice. A place that is granted to what is meant for one
    /// consumer alone is not for what anybody may have, as long as there are others.
    pub(super) fn next(&self) -> Option<ConsumerId> {
        self.turns.first_key_value().map(|(_, id)| *id)
    }

    /// The only one of an inbox that is of one.
    pub(super) fn first(&self) -> Option<ConsumerId> {
        self.all.first().copied()
    }

    fn set_share(&mut self, id: ConsumerId, reading: &mut Reading, share: Option<Share>) {
        let Sums { places, granted, spare, ready, read_others } = &mut self.sums;
        if let Some(old) = reading.share.take() {
            *places -= old.places;
            *granted -= old.granted;
            *spare -= old.spare();
            *ready -= if old.is_busy { 0 } else { old.spare() };
            *read_others -= u64::from(old.reads_others);
            if let Some(choice) = old.choice() {
                self.turns.remove(&(choice, reading.turn));
            }
        }
        if let Some(new) = share {
            *places += new.places;
            *granted += new.granted;
            *spare += new.spare();
            *ready += if new.is_busy { 0 } else { new.spare() };
            *read_others += u64::from(new.reads_others);
            self.turns.extend(new.choice().map(|choice| ((choice, reading.turn), id)));
        }
        reading.share = share;
    }

    /// A reader comes, or has had its turn: it is behind all others. Its share is counted anew after this.
    fn go_behind(&mut self, id: ConsumerId, reading: &mut Reading) {
        self.set_share(id, reading, None);
        self.all.insert(id);
        self.last_turn += 1;
        reading.turn = self.last_turn;
    }

    /// A reader goes.
    pub(super) fn leave(&mut self, id: ConsumerId, reading: &mut Reading) {
        self.set_share(id, reading, None);
        self.all.remove(&id);
    }
}

impl Edge {
    /// A consumer reads this inbox from now on, or has had its turn.
    pub(super) fn go_behind(&mut self, id: ConsumerId, name: &Arc<str>) {
        let readings = self.consumers.get_mut(&id).map(|consumer| &mut consumer.readings);
        let reading = readings.into_iter().flatten().find(|reading| reading.inbox == *name);
        if let Some(reading) = reading
            && let Some(inbox) = self.inboxes.get_mut(name)
        {
            inbox.readers.go_behind(id, reading);
        }
    }

    /// Something has changed that a consumer's places depend on.
    pub(super) fn recount(&mut self, id: ConsumerId) {
        let Self { consumers, inboxes, busy, several, grouped, steps, .. } = self;
        let Some(consumer) = consumers.get_mut(&id) else { return };
        let places = consumer.prefetch.saturating_sub(consumer.used);
        let (is_busy, reads_others) = (busy.contains(&id.conn), several.contains(&id));
        for index in 0..consumer.readings.len() {
            steps.count();
            let name = &consumer.readings[index].inbox;
            let mut members = consumer
                .readings
                .iter()
                .filter(|reading| grouped.contains(name) && lane::asked_by_member(&reading.inbox) == Some(&**name));
            let member = members.next().and_then(|reading| inboxes.get(&reading.inbox));
            let granted = member.map_or(0, super::Inbox::outstanding);
            let share = Share { places, granted, is_busy, reads_others };
            let reading = &mut consumer.readings[index];
            if reading.share != Some(share)
                && let Some(inbox) = inboxes.get_mut(&reading.inbox)
            {
                inbox.readers.set_share(id, reading, Some(share));
            }
        }
    }

    /// What an inbox has granted, and not received, has changed: that counts for its consumer if it has only one.
    pub(super) fn recount_reader_of(&mut self, name: &Arc<str>) {
        if lane::asked_by_member(name).is_some()
            && let Some(id) = self.inboxes.get(name).and_then(|inbox| inbox.readers.first())
        {
            self.recount(id);
        }
    }

    /// Whether the sums are what they are to be, counted one by one.
    #[cfg(test)]
    pub(crate) fn check_sums(&self) {
        for (name, inbox) in &self.inboxes {
            let mut sums = Sums::default();
            for id in inbox.readers.iter() {
                let consumer = &self.consumers[&id];
                let places = consumer.prefetch.saturating_sub(consumer.used);
                let granted = self.granted_to_member(id, name);
                sums.places += places;
                sums.granted += granted;
                sums.spare += places.saturating_sub(granted);
                sums.ready += if self.busy.contains(&id.conn) { 0 } else { places.saturating_sub(granted) };
                sums.read_others += u64::from(self.several.contains(&id));
            }
            assert_eq!(inbox.readers.sums, sums, "{name:?}");
        }
    }
}
