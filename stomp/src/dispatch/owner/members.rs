//! How an owner serves message groups: see [`super::groups`].

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use rhizomq_engine::{Dot, NodeId};

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
    }

    /// Sends what is parked and can be sent.
    pub(super) fn serve_groups(&mut self, asked: &Arc<str>, search: &mut Search, ground: &mut Ground<'_>) {
        let Some(sharing) = &mut search.sharing else { return };
        // What came back goes before later ones of its group, wherever the search is.
        for (dot, lane) in sharing.take_returned() {
            if let Ok(Some(message)) = ground.view.message(dot)
                && let Some(bucket) = groups::bucket_of(&message.head)
                && search.wants(dot, &message.head)
                && let Some(sharing) = &mut search.sharing
            {
                sharing.park(bucket, &lane, ground.takeover.is_own_life(dot.segment), dot);
            }
        }
        let buckets = search.sharing.as_ref().map(Sharing::buckets).unwrap_or_default();
        for bucket in buckets {
            self.serve_bucket(asked, search, bucket, ground);
        }
    }

    pub(super) fn serve_bucket(&mut self, asked: &Arc<str>, search: &mut Search, bucket: u16, ground: &mut Ground<'_>) {
        let Some(sharing) = &mut search.sharing else { return };
        loop {
            if self.returns.is_full() {
                return self.returns.stall(asked);
            }
            // The removal of others is under way, and may fail.
            let first = sharing.parked(bucket).find(|(dot, _)| !ground.view.is_removed(*dot));
            let Some((dot, lane)) = first.map(|(dot, lane)| (dot, Arc::clone(lane))) else { return };
            if self.flights.contains(dot) || ground.unreadable.contains(&dot) {
                sharing.unpark(dot);
                continue;
            }
            if !is_served(dot.segment, ground) {
                return;
            }
            let Some((reader, edge)) = self.taker(asked, sharing, bucket, ground) else { return };
            sharing.unpark(dot);
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

    /// Keeps each consumer's picture fresh of what is parked for it; nothing if there `is_nothing` to be had.
    pub(super) fn tell_members(
        &mut self,
        asked: &Arc<str>,
        search: &Search,
        is_nothing: bool,
        ground: &mut Ground<'_>,
    ) {
        let Some(sharing) = &search.sharing else { return };
        let waiting = if is_nothing { BTreeMap::new() } else { self.waiting(sharing, ground) };
        for member in self.members(asked).cloned().collect::<Vec<_>>() {
            self.tell(&member, waiting.get(&member).copied().unwrap_or(0), ground.out);
        }
    }

    /// By consumer, how much it could be sent if it had places.
    fn waiting(&self, sharing: &Sharing, ground: &Ground<'_>) -> BTreeMap<Arc<str>, u64> {
        let mut waiting = BTreeMap::new();
        for bucket in sharing.buckets() {
            let first = sharing.parked(bucket).find(|(dot, _)| !ground.view.is_removed(*dot));
            let can_be_sent = first.is_some_and(|(dot, _)| is_served(dot.segment, ground));
            let reader = sharing.holder(bucket).filter(|reader| can_be_sent && self.interested.contains_key(*reader));
            if let Some(reader) = reader {
                *waiting.entry(Arc::clone(reader)).or_insert(0) += sharing.parked(bucket).count() as u64;
            }
        }
        waiting
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
