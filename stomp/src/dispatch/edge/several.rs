//! Consumers that read several inboxes: those of a durable subscription that both sides of a cut made, or that is bound to
//! several topics.
//!
//! Such a consumer has the same places for all of them. Credit that one inbox has granted and that is not used yet is taken
//! off its places in the others, so that it never gets more than it asked for. That credit does not stay away for long: an
//! owner uses it, or says that it has nothing. Whenever it may have come back the other inboxes are looked at, the one first
//! that the consumer has had nothing of for longest: so none of them goes short.

use std::{collections::BTreeMap, sync::Arc};

use super::{ConsumerId, Edge};
use crate::{dispatch::Effect, lane};

impl Edge {
    /// A consumer that is here reads these inboxes from now on, and no others. Without effect if it is not, or there are none.
    pub(crate) fn attend(&mut self, id: ConsumerId, inboxes: &[Arc<str>], out: &mut Vec<Effect>) {
        let inboxes = &*self.with_members(id, inboxes);
        let Some(consumer) = self.consumers.get_mut(&id).filter(|_| !inboxes.is_empty()) else { return };
        let before = std::mem::replace(&mut consumer.inboxes, inboxes.to_vec());
        if inboxes.len() > 1 {
            self.several.insert(id);
        } else {
            self.several.remove(&id);
        }
        for inbox in inboxes.iter().filter(|inbox| !before.contains(inbox)) {
            self.enter(id, inbox, out);
        }
        for inbox in before.iter().filter(|inbox| !inboxes.contains(inbox)) {
            self.leave(id, inbox, out);
        }
        self.dirty.extend(inboxes.iter().cloned());
    }

    /// Credit may have come back, from anywhere: the inboxes of such consumers may grant it.
    pub(super) fn dirty_several(&mut self) {
        for consumer in self.several.iter().filter_map(|id| self.consumers.get(id)) {
            self.dirty.extend(consumer.inboxes.iter().cloned());
        }
    }

    /// The same, where it came back to one inbox.
    pub(super) fn dirty_siblings(&mut self, name: &Arc<str>) {
        let Some(inbox) = self.inboxes.get(name).filter(|_| !self.several.is_empty()) else { return };
        let readers = inbox.consumers.iter().filter(|id| self.several.contains(id));
        let siblings = readers.filter_map(|id| self.consumers.get(id)).flat_map(|consumer| &consumer.inboxes);
        let loud: Vec<_> = siblings.filter(|name| !self.is_quiet(name)).cloned().collect();
        self.dirty.extend(loud);
    }

    /// A consumer gets a message of one of its inboxes: the others come before that one now.
    pub(super) fn serve_next(&mut self, id: ConsumerId, name: &Arc<str>) {
        if !self.several.contains(&id) {
            return;
        }
        if let Some(inboxes) = self.consumers.get_mut(&id).map(|consumer| &mut consumer.inboxes)
            && let Some(place) = inboxes.iter().position(|inbox| inbox == name)
        {
            inboxes[place..].rotate_left(1);
        }
    }

    /// Grants what can be to inboxes that share consumers: for each of these, first to the one that it has waited for longest.
    pub(super) fn grant_several(&mut self, out: &mut Vec<Effect>) {
        if self.dirty.is_empty() {
            return;
        }
        let shared: Vec<_> = self.several.iter().filter_map(|id| self.consumers.get(id)).collect();
        let names: Vec<_> = shared.into_iter().flat_map(|consumer| consumer.inboxes.iter().cloned()).collect();
        for name in names {
            if self.dirty.remove(&name) {
                self.grant_inbox(&name, out);
            }
        }
    }

    /// By consumer, what its other inboxes have granted and not received; all of it, whoever else reads them.
    pub(super) fn granted_elsewhere(&self, name: &Arc<str>) -> BTreeMap<ConsumerId, u64> {
        let mut granted = BTreeMap::new();
        let Some(inbox) = self.inboxes.get(name).filter(|_| !self.several.is_empty()) else { return granted };
        for id in inbox.consumers.iter().filter(|id| self.several.contains(id)) {
            let inboxes = self.consumers.get(id).map_or(&[][..], |consumer| &consumer.inboxes);
            // What its queue was granted is looked at by itself: others may get it.
            let is_other = |other: &&Arc<str>| *other != name && lane::asked_by_member(name) != Some(other);
            let others = inboxes.iter().filter(is_other).filter_map(|other| self.inboxes.get(other));
            granted.insert(*id, others.map(super::Inbox::outstanding).sum());
        }
        granted
    }
}
