//! How an owner serves message groups: see [`super::groups`].

use std::{ops::Bound, sync::Arc};

use rhizomq_engine::{Dot, NodeId, RangeSet, SegmentId};

use super::{Credit, DispatchMsg, Effect, Leave, Name, Owner};
use crate::{
    dispatch::{
        Content,
        groups::{self, Holding, Sharing},
        search::{Ground, Search, is_served},
    },
    expiry, lane,
};

impl Owner {
    /// A message of a group waits for the consumer that is to get it.
    pub(super) fn park(
        &mut self,
        asked: &Arc<str>,
        search: &mut Search,
        at: (Dot, &Arc<str>),
        bucket: u16,
        ground: &mut Ground<'_>,
    ) {
        let (dot, lane) = at;
        if search.sharing.is_none() {
            self.grouped.insert(Arc::clone(asked));
            let message = || DispatchMsg::Grouped { inbox: Name::from(asked) };
            let edges = self.interested.get(asked).into_iter().flatten();
            ground.out.extend(edges.map(|&to| Effect::Send { to, message: message() }));
        }
        let sharing = search.sharing.get_or_insert_default();
        sharing.park(bucket, lane, ground.takeover.is_own_life(dot.segment), dot);
        self.note(dot, asked);
    }

    /// Sends what is parked and can be sent.
    pub(super) fn serve_groups(&mut self, asked: &Arc<str>, search: &mut Search, ground: &mut Ground<'_>) {
        let Some(sharing) = &mut search.sharing else { return };
        // What came back goes before later ones of its group, wherever the search is.
        for (dot, lane) in sharing.take_returned() {
            self.steps.count();
            if let Ok(Some(message)) = ground.view.message(dot)
                && let Some(bucket) = groups::bucket_of(&message.head)
                && search.wants(dot, &message.head)
                && let Some(sharing) = &mut search.sharing
            {
                sharing.park(bucket, &lane, ground.takeover.is_own_life(dot.segment), dot);
            } else {
                self.unnote(dot, asked);
            }
        }
        while let Some(bucket) = search.sharing.as_mut().and_then(Sharing::pop_ripe) {
            self.serve_bucket(asked, search, bucket, ground);
        }
    }

    pub(super) fn serve_bucket(&mut self, asked: &Arc<str>, search: &mut Search, bucket: u16, ground: &mut Ground<'_>) {
        let Some(sharing) = &mut search.sharing else { return };
        loop {
            self.steps.count();
            // All that this loop changes it sees.
            sharing.pick(bucket);
            if self.returns.is_full() {
                return self.returns.stall(asked);
            }
            // The removal of others is under way, and may fail.
            let first = sharing.parked(bucket).find(|(dot, _)| !ground.view.is_removed(*dot));
            let Some((dot, lane)) = first.map(|(dot, lane)| (dot, Arc::clone(lane))) else { return };
            if self.flights.contains(dot) || ground.unreadable.contains(&dot) {
                sharing.unpark(dot);
                self.unnote(dot, asked);
                continue;
            }
            if !is_served(dot.segment, ground) {
                return;
            }
            let Some((reader, edge)) = self.taker(asked, sharing, bucket, ground) else { return };
            sharing.unpark(dot);
            self.unnote(dot, asked);
            match ground.view.message(dot) {
                Ok(Some(message)) if expiry::is_over(&message.head, ground.now.wall_ms) => {
                    self.leave(dot, &lane, Leave::Expired, ground.out);
                }
                Ok(Some(message)) => {
                    let is_last = groups::closes_group(&message.head);
                    let content = Content::new(message.head, message.body);
                    ground.out.push(self.send(dot, edge, &reader, &lane, content, ground.takeover));
                    if is_last {
                        let closed = sharing.close(bucket, ground.now.wall_ms);
                        self.tell_holding(asked, closed, ground.out);
                    }
                }
                Ok(None) => drop(ground.unreadable.insert(dot)),
                Err(why) => {
                    ground.unreadable.insert(dot);
                    ground.out.push(Effect::Damaged { dot, why });
                }
            }
        }
    }

    /// Who gets the next message of a bucket, and where that is, if there is a place now.
    fn taker(
        &mut self,
        asked: &Arc<str>,
        sharing: &mut Sharing,
        bucket: u16,
        ground: &mut Ground<'_>,
    ) -> Option<(Arc<str>, NodeId)> {
        let reader = match sharing.holder(bucket) {
            Some(reader) if self.interested.contains_key(reader) => Arc::clone(reader),
            // What it had has not come back yet.
            Some(reader) if self.flights.is_with(reader) => return None,
            _ => {
                let reader = groups::choose(bucket, self.members(asked))?.clone();
                let holding = sharing.hold(bucket, ground.now.wall_ms, &reader);
                self.tell_holding(asked, holding, ground.out);
                reader
            }
        };
        let edge = *self.interested.get(&reader)?.front()?;
        let state = self.edges.get(&edge)?;
        let has_place = !state.is_full() && state.credits.get(&reader).is_some_and(Credit::is_open);
        has_place.then_some((reader, edge))
    }

    /// What the consumers of a queue or view ask for each by itself.
    fn members(&self, asked: &str) -> impl Iterator<Item = &Arc<str>> {
        let prefix = lane::member_prefix(asked);
        let from = self.interested.range::<str, _>((Bound::Included(&*prefix), Bound::Unbounded));
        from.map(|(name, _)| name).take_while(move |name| name.starts_with(&prefix))
    }

    /// Keeps the consumers' pictures fresh of what is parked for each of them, where that may have changed; nothing if there
    /// `is_nothing` to be had.
    pub(super) fn tell_members(&mut self, search: &mut Search, is_nothing: bool, ground: &mut Ground<'_>) {
        let Some(sharing) = &mut search.sharing else { return };
        for member in sharing.take_untold() {
            self.steps.count();
            let waiting = if is_nothing { 0 } else { self.waiting(&member, sharing, ground) };
            self.tell(&member, waiting, ground.out);
        }
    }

    /// How much a consumer could be sent if it had places.
    fn waiting(&self, member: &Arc<str>, sharing: &Sharing, ground: &Ground<'_>) -> u64 {
        let can_be_sent = |bucket: &u16| {
            let first = sharing.parked(*bucket).find(|(dot, _)| !ground.view.is_removed(*dot));
            first.is_some_and(|(dot, _)| is_served(dot.segment, ground))
        };
        sharing.buckets_of(member).filter(can_be_sent).map(|bucket| sharing.count_parked(bucket)).sum()
    }

    pub(super) fn sharing_of_member(&mut self, member: &str) -> Option<&mut Sharing> {
        self.searches.get_mut(lane::asked_by_member(member)?)?.sharing.as_mut()
    }

    /// A consumer may have places, or is gone: its groups are looked at.
    pub(super) fn stir_groups_of(&mut self, member: &Arc<str>) {
        self.sharing_of_member(member).into_iter().for_each(|sharing| sharing.stir(member));
        let asked = lane::asked_by_member(member).and_then(|asked| self.searches.get_key_value(asked));
        self.dirty.extend(asked.map(|(asked, _)| Arc::clone(asked)));
    }

    /// The same of consumers of which nothing is in flight any more: if they are gone, others may have their groups now.
    pub(super) fn stir_groups_of_freed(&mut self) {
        for reader in self.flights.take_freed() {
            if !self.interested.contains_key(&reader) {
                self.stir_groups_of(&reader);
            }
        }
    }

    fn note(&mut self, dot: Dot, asked: &Arc<str>) {
        let names = self.noted.entry(dot).or_default();
        if !names.contains(asked) {
            names.push(Arc::clone(asked));
        }
    }

    pub(super) fn unnote(&mut self, dot: Dot, asked: &Arc<str>) {
        if let Some(names) = self.noted.get_mut(&dot) {
            names.retain(|name| name != asked);
            if names.is_empty() {
                self.noted.remove(&dot);
            }
        }
    }

    /// A message that came back is noted by all that is asked for of its queue in which there are groups.
    pub(super) fn note_in_queue(&mut self, dot: Dot, lane: &str) {
        let queue = lane::queue_of(lane);
        let prefix = lane::asked_prefix(queue);
        let views = self.grouped.range::<str, _>((Bound::Included(&*prefix), Bound::Unbounded));
        let views = views.take_while(|name| name.starts_with(&prefix));
        let names: Vec<_> = self.grouped.get(queue).into_iter().chain(views).cloned().collect();
        names.iter().for_each(|name| self.note(dot, name));
    }

    /// Messages are consumed: they wait for no consumer any more.
    pub(super) fn forget_noted(&mut self, segment: SegmentId, slots: &RangeSet) {
        for (first, last) in slots.iter_ranges() {
            let range = Dot { segment, slot: first }..=Dot { segment, slot: last };
            let dots: Vec<_> = self.noted.range(range).map(|(dot, _)| *dot).collect();
            dots.into_iter().for_each(|dot| self.forget_noted_dot(dot));
        }
    }

    pub(super) fn forget_noted_dot(&mut self, dot: Dot) {
        for asked in self.noted.remove(&dot).unwrap_or_default() {
            self.steps.count();
            let sharing = self.searches.get_mut(&asked).and_then(|search| search.sharing.as_mut());
            sharing.into_iter().for_each(|sharing| sharing.forget(dot));
            self.dirty.insert(asked);
        }
    }

    fn tell_holding(&self, asked: &Arc<str>, holding: Holding, out: &mut Vec<Effect>) {
        for &to in self.edges.keys().filter(|node| **node != self.me) {
            let message = DispatchMsg::Holders { inbox: Name::from(asked), holdings: vec![holding.clone()] };
            out.push(Effect::Send { to, message });
        }
    }

    /// Tells a new peer who holds what.
    pub(crate) fn tell_holders(&self, to: NodeId, out: &mut Vec<Effect>) {
        for asked in &self.grouped {
            let sharing = self.searches.get(asked).and_then(|search| search.sharing.as_ref());
            let holdings = sharing.map(Sharing::holdings).unwrap_or_default();
            if !holdings.is_empty() {
                out.push(Effect::Send { to, message: DispatchMsg::Holders { inbox: Name::from(asked), holdings } });
            }
        }
    }

    /// Another owner tells who holds what.
    pub(crate) fn on_holders(&mut self, from: NodeId, inbox: &Name, holdings: Vec<Holding>, out: &mut Vec<Effect>) {
        let Some((asked, _)) = self.searches.get_key_value(&inbox.0) else { return };
        let asked = Arc::clone(asked);
        let Some(search) = self.searches.get_mut(&asked) else { return };
        if search.sharing.is_none() {
            self.grouped.insert(Arc::clone(&asked));
            let edges = self.interested.get(&asked).into_iter().flatten();
            let message = || DispatchMsg::Grouped { inbox: Name::from(&asked) };
            out.extend(edges.map(|&to| Effect::Send { to, message: message() }));
        }
        let sharing = search.sharing.get_or_insert_default();
        let (interested, flights) = (&self.interested, &self.flights);
        let is_there = |reader: &Arc<str>| interested.contains_key(reader) || flights.is_with(reader);
        let holdings: Vec<_> = holdings.into_iter().filter_map(|told| sharing.learn(told, is_there)).collect();
        if !holdings.is_empty() {
            out.push(Effect::Send { to: from, message: DispatchMsg::Holders { inbox: inbox.clone(), holdings } });
        }
        self.dirty.insert(asked);
    }
}
