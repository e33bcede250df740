//! Consumers of queues in which there are message groups: each asks for what is meant for it alone, too, by a name of its own.
//!
//! Credit of such a name is for one consumer, that of the queue for all of them together: whoever has a place gets what comes. So
//! what the queue has granted takes no place of any one consumer, as long as all have enough places together. If they have not, what is
//! asked for by one alone is noted as *starved* there, and gets its turn when the queue is looked at again.

use std::sync::Arc;

use super::{Consumer, ConsumerId, Edge};
use crate::{dispatch::Effect, lane};

impl Edge {
    /// An owner has met a group in what is asked for here.
    pub(crate) fn on_grouped(&mut self, asked: &Arc<str>, out: &mut Vec<Effect>) {
        let Some(inbox) = self.inboxes.get(asked).filter(|inbox| !inbox.readers.is_empty()) else { return };
        if lane::is_of_one(asked) || !self.grouped.insert(Arc::clone(asked)) {
            return;
        }
        for id in inbox.readers.iter().collect::<Vec<_>>() {
            let inboxes: Vec<_> = self.consumers.get(&id).into_iter().flat_map(Consumer::inboxes).cloned().collect();
            self.attend(id, &inboxes, out);
        }
    }

    /// What a consumer of these asks for altogether.
    pub(super) fn with_members(&self, id: ConsumerId, inboxes: &[Arc<str>]) -> Vec<Arc<str>> {
        let asked = inboxes.iter().filter(|inbox| lane::asked_by_member(inbox).is_none());
        let members = asked.clone().filter(|asked| self.grouped.contains(*asked));
        let members = members.map(|asked| lane::member(asked, &self.reader(id)).into());
        asked.cloned().chain(members).collect()
    }

    /// Free places for what a member asks for, and how many of these may be granted anew; `None` for other inboxes. It has those
    /// of its consumer, but no more than are left of the places of all consumers of the queue, less what the queue and its other
    /// members were granted and have not received. If that is what it lacks it is noted.
    pub(super) fn room_of_member(&mut self, member: &Arc<str>) -> Option<(u64, u64)> {
        let asked = lane::asked_by_member(member)?;
        let Some(inbox) = self.inboxes.get(member) else { return Some((0, 0)) };
        let Some(id) = inbox.readers.first() else { return Some((0, 0)) };
        let taken = if self.several.contains(&id) { self.granted_elsewhere(id, member) } else { 0 };
        let own = self.consumers.get(&id).map_or(0, |it| it.prefetch.saturating_sub(it.used + taken));
        let beside = self.unclaimed_places(asked, inbox.outstanding()).unwrap_or(u64::MAX);
        let is_busy = self.busy.contains(&id.conn);
        let is_starved = beside < own.min(inbox.cap()) && inbox.wants_more() && !is_busy;
        self.forget_starved(member);
        if is_starved {
            self.last_starved += 1;
            let at = self.last_starved;
            self.inboxes
                .get_mut(asked)
                .into_iter()
                .for_each(|queue| drop(queue.starved.insert(at, Arc::clone(member))));
            self.inboxes.get_mut(member).into_iter().for_each(|inbox| inbox.starved_at = Some(at));
        }
        let room = own.min(beside);
        Some((room, if is_busy { 0 } else { room }))
    }

    /// Grants to starved members of a queue what is left of its places.
    pub(super) fn grant_starved(&mut self, asked: &Arc<str>, out: &mut Vec<Effect>) {
        let last = self.last_starved;
        while self.unclaimed_places(asked, 0).is_some_and(|places| places > 0)
            && let Some(inbox) = self.inboxes.get(asked)
            && let Some((_, member)) = inbox.starved.first_key_value().filter(|(at, _)| **at <= last)
        {
            let member = Arc::clone(member);
            self.grant_one(&member, out);
        }
    }

    /// Places of the consumers of a queue, less all that it and its members were granted and have not received, but for so many.
    fn unclaimed_places(&self, asked: &str, but: u64) -> Option<u64> {
        let inbox = self.inboxes.get(asked)?;
        let sums = inbox.readers.sums;
        Some((sums.places + but).saturating_sub(inbox.outstanding() + sums.granted))
    }

    pub(super) fn forget_starved(&mut self, member: &Arc<str>) {
        if let Some(asked) = lane::asked_by_member(member)
            && let Some(at) = self.inboxes.get_mut(member).and_then(|inbox| inbox.starved_at.take())
        {
            self.inboxes.get_mut(asked).into_iter().for_each(|queue| drop(queue.starved.remove(&at)));
        }
    }

    /// What one of a queue's consumers was granted for itself alone and has not received.
    #[cfg(test)]
    pub(super) fn granted_to_member(&self, id: ConsumerId, asked: &str) -> u64 {
        if !self.grouped.contains(asked) {
            return 0;
        }
        let mut inboxes = self.consumers.get(&id).into_iter().flat_map(Consumer::inboxes);
        let member = inboxes.find(|name| lane::asked_by_member(name) == Some(asked));
        member.and_then(|name| self.inboxes.get(name)).map_or(0, super::Inbox::outstanding)
    }

    /// Whether a member's name has nothing to grant, and has granted nothing.
    pub(super) fn is_quiet(&self, name: &Arc<str>) -> bool {
        let has_any = |inbox: &super::Inbox| {
            inbox.supplies.values().any(|supply| supply.view > 0 || supply.limit > supply.received)
        };
        lane::asked_by_member(name).is_some() && !self.inboxes.get(name).is_some_and(has_any)
    }
}
