//! Consumers of queues in which there are message groups: each asks for what is meant for it alone, too, by a name of its own.
//!
//! Credit of such a name is for one consumer, that of the queue for all of them together: whoever has a place gets what comes. So
//! what the queue has granted takes no place of any one consumer, as long as all have enough places together.

use std::sync::Arc;

use super::{ConsumerId, Edge};
use crate::{dispatch::Effect, lane};

impl Edge {
    /// An owner has met a group in what is asked for here.
    pub(crate) fn on_grouped(&mut self, asked: &Arc<str>, out: &mut Vec<Effect>) {
        let Some(inbox) = self.inboxes.get(asked).filter(|inbox| !inbox.consumers.is_empty()) else { return };
        if lane::is_of_one(asked) || !self.grouped.insert(Arc::clone(asked)) {
            return;
        }
        for id in inbox.consumers.iter().copied().collect::<Vec<_>>() {
            let inboxes = self.consumers.get(&id).map_or_else(Vec::new, |consumer| consumer.inboxes.clone());
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

    /// Places that the consumers of a queue have together, less what it and its members but this one were granted and have not
    /// received.
    pub(super) fn room_beside(&self, asked: &str, member: &Arc<str>) -> u64 {
        let Some(inbox) = self.inboxes.get(asked) else { return u64::MAX };
        let (mut places, mut granted) = (0_u64, inbox.outstanding());
        for consumer in inbox.consumers.iter().filter_map(|id| self.consumers.get(id)) {
            places += consumer.prefetch.saturating_sub(consumer.used);
            let of_queue = |name: &&Arc<str>| *name != member && lane::asked_by_member(name) == Some(asked);
            let others = consumer.inboxes.iter().filter(of_queue).filter_map(|name| self.inboxes.get(name));
            granted += others.map(super::Inbox::outstanding).sum::<u64>();
        }
        places.saturating_sub(granted)
    }

    /// What one of a queue's consumers was granted for itself alone and has not received.
    pub(super) fn granted_to_member(&self, id: ConsumerId, asked: &str) -> u64 {
        if !self.grouped.contains(asked) {
            return 0;
        }
        let inboxes = self.consumers.get(&id).map_or(&[][..], |consumer| &consumer.inboxes);
        let member = inboxes.iter().find(|name| lane::asked_by_member(name) == Some(asked));
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
