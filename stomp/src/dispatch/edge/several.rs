//! Consumers that read several inboxes: those of a durable subscription that both sides of a cut made, or that is bound to
//! several topics.
//!
//! Such a consumer has the same places for all of them. Credit that one inbox has granted and that is not used yet is taken
//! off its places in the others, so that it never gets more than it asked for. That credit does not stay away for long: an
//! owner uses it, or says that it has nothing. Whenever it may have come back the other inboxes are looked at, the one first
//! that the consumer has had nothing of for longest: so none of them goes short.

use std::sync::Arc;

use super::{Consumer, ConsumerId, Edge, places::Reading};
use crate::{dispatch::Effect, lane};

impl Edge {
    /// A consumer that is here reads these inboxes from now on, and no others. Without effect if it is not, or there are none.
    pub(crate) fn attend(&mut self, id: ConsumerId, inboxes: &[Arc<str>], out: &mut Vec<Effect>) {
        let inboxes = &*self.with_members(id, inboxes);
        let Some(consumer) = self.consumers.get_mut(&id).filter(|_| !inboxes.is_empty()) else { return };
        let mut before = std::mem::take(&mut consumer.readings);
        let mut new = Vec::new();
        for inbox in inboxes {
            let kept = before.iter().position(|reading| reading.inbox == *inbox).map(|place| before.remove(place));
            new.extend(kept.is_none().then_some(inbox));
            consumer.readings.push(kept.unwrap_or_else(|| Reading::new(inbox)));
        }
        if inboxes.iter().filter(|inbox| lane::asked_by_member(inbox).is_none()).count() > 1 {
            self.several.insert(id);
        } else {
            self.several.remove(&id);
        }
        new.into_iter().for_each(|inbox| self.enter(id, inbox, out));
        before.into_iter().for_each(|reading| self.leave(id, reading, out));
        self.recount(id);
        self.dirty.extend(inboxes.iter().cloned());
    }

    /// Credit may have come back, from anywhere: the inboxes of such consumers may grant it.
    pub(super) fn dirty_several(&mut self) {
        for consumer in self.several.iter().filter_map(|id| self.consumers.get(id)) {
            self.dirty.extend(consumer.inboxes().cloned());
        }
    }

    /// The same, where it came back to one inbox.
    pub(super) fn dirty_siblings(&mut self, name: &Arc<str>) {
        let asked = lane::asked_by_member(name).and_then(|asked| self.inboxes.get_key_value(asked));
        self.dirty.extend(asked.map(|(asked, _)| Arc::clone(asked)));
        let Some(inbox) = self.inboxes.get(name).filter(|inbox| inbox.readers.sums.read_others > 0) else { return };
        let readers = inbox.readers.iter().filter(|id| self.several.contains(id));
        let siblings = readers.filter_map(|id| self.consumers.get(&id)).flat_map(Consumer::inboxes);
        let loud: Vec<_> = siblings.filter(|name| !self.is_quiet(name)).cloned().collect();
        self.dirty.extend(loud);
    }

    /// A consumer gets a message of one of its inboxes: the others come before that one now.
    pub(super) fn serve_next(&mut self, id: ConsumerId, name: &Arc<str>) {
        if let Some(readings) = self.consumers.get_mut(&id).map(|consumer| &mut consumer.readings)
            && let Some(place) = readings.iter().position(|reading| reading.inbox == *name)
        {
            readings[place..].rotate_left(1);
        }
    }

    /// Grants what can be to inboxes that share consumers: for each of these, first to the one that it has waited for longest.
    pub(super) fn grant_several(&mut self, out: &mut Vec<Effect>) {
        if self.dirty.is_empty() {
            return;
        }
        let members = self.dirty.iter().filter(|name| lane::asked_by_member(name).is_some());
        let of_members = members.filter_map(|name| self.inboxes.get(name)?.readers.first());
        let ids = self.several.iter().copied().chain(of_members);
        let shared: Vec<_> = ids.filter_map(|id| self.consumers.get(&id)).collect();
        let names: Vec<_> = shared.into_iter().flat_map(Consumer::inboxes).cloned().collect();
        for name in names {
            self.steps.count();
            if self.dirty.remove(&name) {
                self.grant_inbox(&name, out);
            }
        }
    }

    /// What the other inboxes of a consumer have granted and not received; all of it, whoever else reads them.
    pub(super) fn granted_elsewhere(&self, id: ConsumerId, name: &Arc<str>) -> u64 {
        let inboxes = self.consumers.get(&id).into_iter().flat_map(Consumer::inboxes);
        // What its queue was granted is looked at by itself: others may get it.
        let is_other = |other: &&Arc<str>| *other != name && lane::asked_by_member(name) != Some(other);
        inboxes.filter(is_other).filter_map(|other| self.inboxes.get(other)).map(super::Inbox::outstanding).sum()
    }

    /// Free places for an inbox of such consumers, and how many of these may be granted anew: asked one by one.
    pub(super) fn room_of_several(&self, name: &Arc<str>) -> (u64, u64) {
        let (mut free, mut ready) = (0, 0);
        for id in self.inboxes.get(name).into_iter().flat_map(|inbox| inbox.readers.iter()) {
            let taken = self.granted_elsewhere(id, name);
            let room = self.consumers.get(&id).map_or(0, |it| it.prefetch.saturating_sub(it.used + taken));
            free += room;
            ready += if self.busy.contains(&id.conn) { 0 } else { room };
        }
        (free, ready)
    }
}
