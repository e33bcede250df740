//! The owner: dispatches the waiting messages of the segments that are this node's to dispatch, to edges that granted
//! credit.
//!
//! What always holds:
//! - A dot of an owned segment is either waiting or in flight at exactly one edge. It leaves that state when it is known
//!   to be consumed, and goes back to waiting when the edge releases it or its link is lost.
//! - Order: within a segment lowest slot first, segments of a life by number, so the messages of one producer leave in
//!   the order in which they were taken, as far as they are of one priority and none was delayed ([`crate::lane`]); while one of
//!   them is being claimed, later ones wait. What goes back waits at its place ([`super::search`]), and is marked
//!   `redelivered`, since higher slots may have gone ahead.
//! - Consumers with a selector ask for a *view* of the queue, by a name of its own, with credit of its own: whatever happens to
//!   the queue happens to all views of it, and what is in flight is so for all.
//! - An exclusive consumer asks by a name of its own, too. While there is any, the first of them gets all that the queue has, and
//!   every other consumer hears that nothing waits: all owners see the same names and choose alike. What the last one leaves
//!   behind is settled, or has come back, before the next one gets anything.
//! - Everything of another life is marked, and what another node may have dispatched meanwhile: nobody here knows what
//!   was delivered already.
//! - What is known to be consumed is not dispatched, even if that still waits for its commit. Such a dot does not move
//!   the cursor on, since the commit may fail.
//! - An edge that holds credit either gets a message or hears that there is none (`Backlog { waiting: 0 }`), so that its
//!   places are not kept from other owners. That is said at the end of every turn in which the inbox was looked at.
//!
//! - What is set aside (see [`super::returns`]) is in flight at this node itself, under a name that no edge knows.
//!
//! The node's own edge is served first, then those on its site in turn, then the others in turn.

mod excess;
mod members;
mod peeks;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

use rhizomq_engine::{Dot, NodeId, Now, Planted, RangeSet, SegmentId, Slot};

use super::{
    Effect, View,
    census::Census,
    demand::{Credit, EdgeState},
    flights::{Flight, Flights},
    groups::{self, Sharing},
    msg::{Content, Depth, DispatchMsg, Name, Return},
    returns::{Fate, Leave, Returns, Rulebook},
    search::{Found, Ground, Search, Walk},
    steps::Steps,
    takeover::Takeover,
};
use crate::{
    expiry,
    lane::{self, Lane},
};
use excess::Targets;
use peeks::Peeks;

/// The name of a delivery to nobody; others begin with 1.
const ASIDE: u64 = 0;

/// Inboxes that one edge may be interested in; more are ignored.
const MAX_INTEREST: usize = 1 << 20;
/// What all searches together may cost in a turn, about a byte each (see [`super::search`]): some ms.
const TURN_COST: usize = 1 << 20;
/// Searches that go on in one turn, each with its part of that.
const SEARCHES: usize = 8;
/// A lane's time is looked for anew after so many ms: the clock on the wall may be set.
const DUE_LOOK_MS: u64 = 10_000;

/// What an owner looks at while it dispatches.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a> {
    pub(crate) now: Now,
    pub(crate) view: &'a dyn View,
    pub(crate) rules: &'a dyn Rulebook,
    pub(crate) takeover: &'a Takeover,
    pub(crate) census: &'a Census,
}

/// See the module docs.
pub(crate) struct Owner {
    me: NodeId,
    edges: BTreeMap<NodeId, EdgeState>,
    /// Edges by inbox; whose turn it is comes first.
    interested: BTreeMap<Arc<str>, VecDeque<NodeId>>,
    flights: Flights,
    /// By what edges ask for: queues, and views of them.
    searches: BTreeMap<Arc<str>, Search>,
    /// When lanes have their time, on the monotonic clock.
    dues: BTreeSet<(u64, Arc<str>)>,
    /// Searches that go on in a later turn, and since when they could.
    unfinished: VecDeque<Arc<str>>,
    unfinished_since: u64,
    /// Views, and what exclusive consumers ask for.
    specials: usize,
    /// What is asked for in which there are message groups.
    grouped: BTreeSet<Arc<str>>,
    /// Which of these have noted a message: it is parked there, or has come back.
    noted: BTreeMap<Dot, Vec<Arc<str>>>,
    steps: Steps,
    turn_cost: usize,
    planted: Planted,
    /// Dispatched before; true: perhaps even delivered, because a link was lost.
    again: BTreeMap<Dot, bool>,
    /// Could not be read; left out until they arrive anew.
    unreadable: BTreeSet<Dot>,
    returns: Returns,
    peeks: Peeks,
    /// How many messages of inboxes that hold too many are to stay here.
    targets: Targets,
    next_tag: u64,
    /// Rounds are never used twice, so a grant for an interest that has ended can't be taken for one of the next.
    next_round: u32,
    duplicates: u64,
    /// Nothing is dispatched here any more.
    retired: bool,
    dirty: BTreeSet<Arc<str>>,
}

impl Owner {
    pub(crate) fn new(me: NodeId, planted: Planted) -> Self {
        Self {
            me,
            edges: BTreeMap::new(),
            interested: BTreeMap::new(),
            flights: Flights::default(),
            searches: BTreeMap::new(),
            dues: BTreeSet::new(),
            unfinished: VecDeque::new(),
            unfinished_since: 0,
            specials: 0,
            grouped: BTreeSet::new(),
            noted: BTreeMap::new(),
            steps: Steps::default(),
            turn_cost: TURN_COST,
            planted,
            again: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            returns: Returns::default(),
            peeks: Peeks::default(),
            targets: Targets::default(),
            next_tag: 1,
            next_round: 1,
            duplicates: 0,
            retired: false,
            dirty: BTreeSet::new(),
        }
    }

    /// Deliveries marked because of a takeover or a lost link: second ones, possibly.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    pub(crate) fn link_up(&mut self, edge: NodeId) {
        self.edges.insert(edge, EdgeState::default());
    }

    /// What is in flight there goes back.
    pub(crate) fn link_down(&mut self, edge: NodeId) {
        let Some(state) = self.edges.remove(&edge) else { return };
        for inbox in state.credits.keys() {
            self.forget_interest(edge, inbox);
        }
        for dot in self.flights.at(edge) {
            self.put_back(dot, true);
        }
    }

    pub(crate) fn on_interest(&mut self, from: NodeId, interest: Vec<(Name, u32)>, out: &mut Vec<Effect>) {
        for (name, consumers) in interest {
            let Some(edge) = self.edges.get_mut(&from) else { return };
            if consumers == 0 {
                if edge.credits.remove(&name.0).is_some() {
                    self.forget_interest(from, &name.0);
                }
                out.push(Effect::Send { to: from, message: DispatchMsg::Closed { inbox: name } });
            } else if edge.credits.len() < MAX_INTEREST && !edge.credits.contains_key(&name.0) {
                let is_member = lane::asked_by_member(&name.0).is_some();
                if !is_member && !self.searches.contains_key(&name.0) {
                    // A program of another version may ask for what this one does not know: then it gets nothing.
                    let Ok(search) = Search::new(&name.0) else { continue };
                    self.specials += usize::from(lane::is_special(&name.0));
                    self.searches.insert(Arc::clone(&name.0), search);
                }
                let credit = Credit { round: self.next_round, ..Credit::default() };
                self.next_round = self.next_round.wrapping_add(1);
                edge.credits.insert(Arc::clone(&name.0), credit);
                self.interested.entry(Arc::clone(&name.0)).or_default().push_back(from);
                if lane::exclusive_since(&name.0).is_some() {
                    self.touch(&name.0, |_| {});
                }
                if is_member {
                    self.sharing_of_member(&name.0).into_iter().for_each(Sharing::stir_all);
                }
                if self.grouped.contains(&name.0) {
                    out.push(Effect::Send { to: from, message: DispatchMsg::Grouped { inbox: name.clone() } });
                }
                self.dirty.insert(name.0);
            }
        }
    }

    pub(crate) fn on_grant(&mut self, from: NodeId, inbox: &Name, limit: u64, round: u32) {
        let credit = self.edges.get_mut(&from).and_then(|edge| edge.credits.get_mut(&inbox.0));
        if let Some(credit) = credit.filter(|credit| credit.round == round) {
            credit.limit = limit;
            self.dirty.insert(Arc::clone(&inbox.0));
        }
    }

    pub(crate) fn on_received(&mut self, from: NodeId, bytes: u64) {
        let Some(edge) = self.edges.get_mut(&from) else { return };
        let was_full = edge.is_full();
        edge.received = bytes;
        if was_full && !edge.is_full() {
            let waiting = edge.credits.iter().filter(|(_, credit)| credit.is_open());
            self.dirty.extend(waiting.map(|(inbox, _)| Arc::clone(inbox)));
        }
    }

    pub(crate) fn on_release(&mut self, from: NodeId, dot: Dot, tag: u64) {
        if self.flights.is(dot, from, tag) {
            self.put_back(dot, false);
        }
    }

    /// A client has had it, or has not because it was too late.
    pub(crate) fn on_returned(&mut self, from: NodeId, dot: Dot, tag: u64, why: Return) {
        if self.flights.is(dot, from, tag) && self.flights.pass_on(dot, self.me, ASIDE) {
            self.returns.take_in(dot, why);
        }
    }

    /// Whether this message is on its way out of its queue: see [`Effect::Leave`].
    pub(crate) fn is_leaving(&self, dot: Dot) -> bool {
        self.returns.is_leaving(dot)
    }

    /// A message that was to leave its queue is dispatched again, from that time on.
    pub(crate) fn stay(&mut self, dot: Dot, until: u64) {
        if self.returns.end_leave(dot, until) {
            self.again.entry(dot).or_insert(false);
            self.unstall();
        }
    }

    /// When [`Owner::handle_timeout`] is wanted, on the monotonic clock.
    pub(crate) fn deadline(&self) -> u64 {
        let peek = if self.retired { u64::MAX } else { self.peeks.at };
        self.returns.deadline().min(peek).min(self.search_deadline())
    }

    /// The same, of lanes that have their time then and searches that go on.
    pub(super) fn search_deadline(&self) -> u64 {
        let due = self.dues.first().map_or(u64::MAX, |(due, _)| *due);
        if self.unfinished.is_empty() { due } else { due.min(self.unfinished_since) }
    }

    /// Time passed: what was to wait so long is dispatched again, lanes may have their time, searches go on, and what nobody
    /// asks for may have expired.
    pub(crate) fn handle_timeout(&mut self, now: Now) {
        while let Some(dot) = self.returns.poll_due(now.mono_ms) {
            self.put_back(dot, false);
        }
        self.peeks.is_due |= now.mono_ms >= self.peeks.at;
        while let Some((due, _)) = self.dues.first()
            && *due <= now.mono_ms
            && let Some((_, name)) = self.dues.pop_first()
        {
            self.searches.get_mut(&name).into_iter().for_each(|search| search.due = None);
            self.dirty.insert(name);
        }
        let count = self.unfinished.len().min(SEARCHES);
        self.dirty.extend(self.unfinished.drain(..count));
        // Those that are left go on in the next turn: that they were not in this one must not look like a process that slept.
        self.unfinished_since = now.mono_ms;
    }

    /// Whether this delivery is in flight.
    pub(crate) fn is_in_flight(&self, edge: NodeId, dot: Dot, tag: u64) -> bool {
        self.flights.is(dot, edge, tag)
    }

    /// Messages wait that did not before.
    pub(crate) fn arrived(&mut self, view: &dyn View, segment: SegmentId, slots: &RangeSet) {
        let Some(slot) = slots.first() else { return };
        self.unreadable.retain(|dot| dot.segment != segment || !slots.contains(dot.slot));
        for inbox in view.inboxes_with(segment, slots) {
            let Some(lane) = Lane::of(&inbox) else { continue };
            self.touch(&inbox, |search| search.arrived(lane, Dot { segment, slot }));
        }
    }

    /// Messages are known to be consumed; `is_owned`: of a segment that is dispatched here.
    pub(crate) fn removed(&mut self, segment: SegmentId, slots: &RangeSet, is_owned: bool) {
        self.returns.removed(segment, slots);
        self.unstall();
        let landed = self.flights.remove_all(segment, slots);
        let found = landed.len() as u64;
        landed.iter().for_each(|inbox| self.touch(inbox, |_| {}));
        for (first, last) in slots.iter_ranges() {
            let range = Dot { segment, slot: first }..=Dot { segment, slot: last };
            let again: Vec<_> = self.again.range(range).map(|(dot, _)| *dot).collect();
            for dot in &again {
                self.again.remove(dot);
            }
        }
        self.unreadable.retain(|dot| dot.segment != segment || !slots.contains(dot.slot));
        self.forget_noted(segment, slots);
        if is_owned && found < slots.len() {
            // Something went that waited here; whoever was told of it may have to hear that nothing is left.
            self.doubt_told();
        }
    }

    /// The segment is this node's now. What edges hold of it is in flight with them, by the names that they know.
    pub(crate) fn adopt(&mut self, view: &dyn View, segment: SegmentId, held: &BTreeMap<Slot, (NodeId, u64)>) {
        let inboxes = if held.is_empty() { Vec::new() } else { view.inboxes_of(segment) };
        for (&slot, &(edge, tag)) in held {
            let dot = Dot { segment, slot };
            // Sent to someone else meanwhile, or the same delivery told once more.
            if self.flights.contains(dot) || !self.edges.contains_key(&edge) {
                continue;
            }
            let inbox = inboxes.iter().find(|inbox| view.next_waiting(inbox, segment, slot) == Some(slot));
            if let Some(inbox) = inbox {
                self.flights.insert(dot, Flight { edge, tag, inbox: Arc::clone(inbox), reader: None });
                self.again.remove(&dot);
            }
        }
        self.look_at_all();
    }

    /// The segment is someone else's now.
    pub(crate) fn give_up(&mut self, segment: SegmentId) {
        self.flights.remove_segment(segment);
        self.returns.forget(segment);
        self.unstall();
        self.again.retain(|dot, _| dot.segment != segment);
        self.unreadable.retain(|dot| dot.segment != segment);
        self.searches.values_mut().for_each(|search| search.give_up(segment));
        self.noted.retain(|dot, _| dot.segment != segment);
        self.look_at_all();
    }

    /// The segment stays this node's, but where its messages are is asked anew: what no edge turns out to hold waits again,
    /// and may have been delivered.
    pub(crate) fn recall(&mut self, segment: SegmentId) {
        let mut dots = self.flights.within(segment);
        dots.retain(|dot| !self.returns.is_aside(*dot));
        for dot in dots {
            self.put_back(dot, true);
        }
    }

    /// The planted mistake of one who asks nobody what became of deliveries; see [`rhizomq_engine::Mistake::RecallEverywhere`].
    pub(crate) fn recall_all(&mut self) {
        let edges: Vec<_> = self.edges.keys().copied().collect();
        for dot in edges.into_iter().flat_map(|edge| self.flights.at(edge)).collect::<Vec<_>>() {
            self.put_back(dot, true);
        }
    }

    /// Whether nothing is dispatched here any more.
    pub(crate) fn retire(&mut self, retired: bool) {
        if self.retired != retired {
            self.retired = retired;
            self.look_at_all();
        }
    }

    /// Looks again at every inbox that anyone wants: what is owned has changed.
    fn look_at_all(&mut self) {
        self.searches.values_mut().for_each(Search::look_at_all);
        self.dirty.extend(self.interested.keys().cloned());
    }

    /// Looks again at a queue and all else that is asked for of it. `change` is what happened there.
    fn touch(&mut self, inbox: &str, change: impl Fn(&mut Search)) {
        let queue = lane::queue_of(inbox);
        if let Some((name, _)) = self.interested.get_key_value(queue) {
            self.dirty.insert(Arc::clone(name));
            self.searches.get_mut(queue).into_iter().for_each(&change);
        }
        if self.specials == 0 {
            return;
        }
        let prefix = lane::asked_prefix(queue);
        let specials = self.searches.range_mut::<str, _>((Bound::Included(&*prefix), Bound::Unbounded));
        for (name, search) in specials.take_while(|(name, _)| name.starts_with(&prefix)) {
            self.dirty.insert(Arc::clone(name));
            change(search);
        }
    }

    /// Dispatches what can be, and keeps the edges' picture of the backlog fresh.
    pub(crate) fn serve(&mut self, turn: Turn<'_>, out: &mut Vec<Effect>) {
        self.judge_returns(turn, out);
        self.peek(turn, out);
        self.stir_groups_of_freed();
        let Turn { now, view, takeover, .. } = turn;
        let mut unreadable = std::mem::take(&mut self.unreadable);
        let (retired, planted, part) = (self.retired, self.planted, self.turn_cost / SEARCHES);
        let mut ground = Ground { now, view, takeover, unreadable: &mut unreadable, retired, planted, budget: 0, out };
        let mut left = self.turn_cost;
        while let Some(inbox) = self.dirty.pop_first() {
            if lane::asked_by_member(&inbox).is_some() {
                self.stir_groups_of(&inbox);
                continue;
            }
            let Some(mut search) = self.searches.remove(&inbox) else { continue };
            ground.budget = left.min(part);
            left -= ground.budget;
            self.serve_inbox(&inbox, &mut search, &mut ground);
            left += ground.budget;
            self.searches.insert(inbox, search);
        }
        self.unreadable = unreadable;
    }

    /// Whether any edge wants messages of a queue.
    pub(crate) fn is_wanted(&self, queue: &str) -> bool {
        self.interested.contains_key(queue) || self.first_asked(&lane::asked_prefix(queue)).is_some()
    }

    /// The first of what is asked for whose name begins so.
    fn first_asked(&self, prefix: &str) -> Option<&Arc<str>> {
        if self.specials == 0 {
            return None;
        }
        let mut from = self.interested.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.next().map(|(name, _)| name).filter(|name| name.starts_with(prefix))
    }

    /// Whether those who ask for this may get anything now: others may not while there is an exclusive consumer, nor that one
    /// while what its predecessor left behind is not settled.
    fn may_get(&self, asked: &Arc<str>) -> bool {
        if self.specials == 0 {
            return true;
        }
        let prefix = lane::exclusive_prefix(lane::queue_of(asked));
        match self.first_asked(&prefix) {
            None => true,
            Some(first) => {
                first == asked && self.flights.readers(&prefix).all(|name| self.interested.contains_key(name))
            }
        }
    }

    /// Since when the latest exclusive consumer of a queue is there, ms since 1970.
    pub(crate) fn latest_exclusive(&self, queue: &str) -> u64 {
        let prefix = lane::exclusive_prefix(queue);
        let from = self.interested.range::<str, _>((Bound::Included(&*prefix), Bound::Unbounded));
        let names = from.map(|(name, _)| name).take_while(|name| name.starts_with(&prefix));
        names.filter_map(|name| lane::exclusive_since(name)).max().unwrap_or(0)
    }

    /// Whether an inbox is to be looked at.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.returns.has_news() || (self.peeks.is_due && !self.retired)
    }

    /// How full the queues are, as far as segments go that this node answers for. What waits for its time counts by itself.
    pub(crate) fn depths(
        &self,
        now: Now,
        view: &dyn View,
        counts: impl Fn(SegmentId) -> bool,
    ) -> BTreeMap<Name, Depth> {
        let mut depths: BTreeMap<Name, Depth> = BTreeMap::new();
        for inbox in counted(view) {
            let depth = view.inbox_segments(&inbox).into_iter().filter(|(id, _)| counts(*id)).map(|(_, n)| n).sum();
            if depth > 0 {
                let total = depths.entry(counted_as(&inbox, now)).or_default();
                total.depth += depth;
                total.in_flight += self.flights.count(&inbox).min(depth);
            }
        }
        depths
    }

    /// What of that another node took.
    pub(crate) fn adopted(&self, now: Now, view: &dyn View, counts: impl Fn(SegmentId) -> bool) -> BTreeMap<Name, u64> {
        let is_adopted = |segment: SegmentId| segment.node != self.me && counts(segment);
        let mut adopted: BTreeMap<Name, u64> = BTreeMap::new();
        for inbox in counted(view) {
            let of = view.inbox_segments(&inbox).into_iter().filter(|(id, _)| is_adopted(*id)).map(|(_, n)| n);
            let count: u64 = of.sum();
            if count > 0 {
                *adopted.entry(counted_as(&inbox, now)).or_default() += count;
            }
        }
        adopted
    }

    /// What searches may cost in a turn.
    #[cfg(test)]
    pub(crate) fn set_turn_cost(&mut self, cost: usize) {
        self.turn_cost = cost;
    }

    /// Steps whose number is not to grow with the number of consumers, or of queues with groups.
    #[cfg(test)]
    pub(crate) fn steps(&self) -> u64 {
        self.steps.number()
    }

    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// What is remembered, and how much of it.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("interested", self.interested.values().map(VecDeque::len).sum()),
            ("credits", self.edges.values().map(|edge| edge.credits.len()).sum()),
            ("flights", self.flights.len()),
            ("searches", self.searches.len()),
            ("dues", self.dues.len()),
            ("unfinished", self.unfinished.len()),
            ("specials", self.specials),
            ("grouped", self.grouped.len()),
            ("noted", self.noted.len()),
            ("again", self.again.len()),
            ("unreadable", self.unreadable.len()),
            ("returns", self.returns.remembered()),
            ("peeks", self.peeks.len()),
            ("targets", self.targets.len()),
            ("dirty", self.dirty.len()),
        ]
    }

    /// Decides about what has come back.
    fn judge_returns(&mut self, turn: Turn<'_>, out: &mut Vec<Effect>) {
        while let Some(dot) = self.returns.poll_news() {
            let Some(inbox) = self.flights.inbox(dot).cloned() else { continue };
            match self.returns.judge(dot, &turn.rules.rules_of(lane::queue_of(&inbox)), turn.now.mono_ms) {
                Fate::Again => self.put_back(dot, false),
                Fate::Later => {
                    self.flights.let_pass(dot);
                    self.again.entry(dot).or_insert(false);
                    self.touch(&inbox, |_| {});
                }
                Fate::Leave(why) => self.leave(dot, &inbox, why, out),
            }
        }
    }

    /// Room was made for what is to leave.
    fn unstall(&mut self) {
        self.peeks.go_on(self.returns.is_full());
        for name in self.returns.take_unstalled() {
            let sharing = self.searches.get_mut(&name).and_then(|search| search.sharing.as_mut());
            sharing.into_iter().for_each(Sharing::stir_all);
            self.dirty.insert(name);
        }
    }

    /// A message is to leave its queue, in which it waits in this lane. Until it is consumed nobody gets it.
    fn leave(&mut self, dot: Dot, lane: &Arc<str>, why: Leave, out: &mut Vec<Effect>) {
        if self.flights.pass_on(dot, self.me, ASIDE) {
            self.flights.let_pass(dot);
            self.touch(lane, |_| {});
        } else {
            self.flights.insert(dot, Flight { edge: self.me, tag: ASIDE, inbox: Arc::clone(lane), reader: None });
            self.forget_noted_dot(dot);
        }
        let queue = lane::shared_queue_of(lane);
        self.returns.begin_leave(dot, &queue);
        out.push(Effect::Leave { inbox: queue, dot, why, deliveries: self.returns.count(dot) });
    }

    /// The segments that an inbox's messages are dispatched from, with their number, in order.
    fn served_segments(&self, inbox: &str, view: &dyn View, takeover: &Takeover) -> Vec<(SegmentId, u64)> {
        let mut segments = view.inbox_segments(inbox);
        // In their order: behind one that waits for answers, later ones of the same life wait too.
        let mut held_back = None;
        segments.retain(|(id, _)| {
            if takeover.is_claiming(*id) {
                held_back = Some((id.node, id.epoch));
            }
            !self.retired && takeover.owns(*id) && held_back != Some((id.node, id.epoch))
        });
        // What is left of other lives first: it is finite, and old.
        segments.sort_by_key(|(id, _)| (takeover.is_own_life(*id), *id));
        segments
    }

    fn serve_inbox(&mut self, inbox: &Arc<str>, search: &mut Search, ground: &mut Ground<'_>) {
        let is_barred = !self.may_get(inbox);
        search.sharing.iter_mut().for_each(|sharing| sharing.set_barred(is_barred));
        if is_barred {
            self.tell_members(search, true, ground);
            return self.tell(inbox, 0, ground.out);
        }
        self.serve_groups(inbox, search, ground);
        let is_of_one = lane::is_of_one(inbox);
        let mut walk = Walk::default();
        let mut found = search.next(&mut walk, &self.flights, ground);
        while let Found::Next(dot, lane) = &found {
            if self.returns.is_full() {
                self.returns.stall(inbox);
                break;
            }
            // Where there are groups, their consumers may have places while others have none.
            if search.sharing.as_ref().is_some_and(Sharing::is_full) {
                found = Found::Nothing;
                break;
            }
            if search.sharing.is_none() && !self.has_place(inbox) {
                break;
            }
            match ground.view.message(*dot) {
                Ok(Some(message)) if expiry::is_over(&message.head, ground.now.wall_ms) => {
                    self.leave(*dot, lane, Leave::Expired, ground.out);
                }
                Ok(Some(message)) => {
                    let bucket = if is_of_one { None } else { groups::bucket_of(&message.head) };
                    if let Some(bucket) = bucket {
                        self.park(inbox, search, (*dot, lane), bucket, ground);
                        self.serve_bucket(inbox, search, bucket, ground);
                        found = search.next(&mut walk, &self.flights, ground);
                        continue;
                    }
                    let Some(edge) = self.next_edge(inbox, ground.view) else { break };
                    let content = Content::new(message.head, message.body);
                    ground.out.push(self.send(*dot, edge, inbox, lane, content, ground.takeover));
                }
                Ok(None) => {
                    ground.unreadable.insert(*dot);
                }
                Err(why) => {
                    ground.unreadable.insert(*dot);
                    ground.out.push(Effect::Damaged { dot: *dot, why });
                }
            }
            found = search.next(&mut walk, &self.flights, ground);
        }
        // Who still searches promises nothing: places are not kept for what may not be there.
        let waiting = match found {
            Found::Next(..) => search.count(&walk, &self.flights, ground),
            Found::Nothing | Found::Unfinished => 0,
        };
        let due = search.next_due(&walk, ground);
        self.plan(ground.now, inbox, search, due);
        if found == Found::Unfinished && !self.unfinished.contains(inbox) {
            if self.unfinished.is_empty() {
                self.unfinished_since = ground.now.mono_ms;
            }
            self.unfinished.push_back(Arc::clone(inbox));
        }
        self.tell_members(search, false, ground);
        self.tell(inbox, waiting, ground.out);
    }

    /// Notes when a lane has its time next.
    fn plan(&mut self, now: Now, inbox: &Arc<str>, search: &mut Search, due: Option<u64>) {
        let wait = |due: u64| now.mono_ms + due.saturating_sub(now.wall_ms).min(DUE_LOOK_MS);
        let due = due.map(wait);
        if search.due != due {
            if let Some(old) = search.due {
                self.dues.remove(&(old, Arc::clone(inbox)));
            }
            self.dues.extend(due.map(|due| (due, Arc::clone(inbox))));
            search.due = due;
        }
    }

    /// Whether any edge may be sent a message.
    fn has_place(&self, inbox: &Arc<str>) -> bool {
        self.interested.get(inbox).into_iter().flatten().any(|node| self.can_take(node, inbox))
    }

    fn can_take(&self, node: &NodeId, inbox: &Arc<str>) -> bool {
        let is_open = |edge: &EdgeState| !edge.is_full() && edge.credits.get(inbox).is_some_and(Credit::is_open);
        self.edges.get(node).is_some_and(is_open)
    }

    /// Who gets the next message: our own edge, else the one whose turn it is, of those that may get one; near ones first.
    fn next_edge(&mut self, inbox: &Arc<str>, view: &dyn View) -> Option<NodeId> {
        if self.can_take(&self.me, inbox) {
            return Some(self.me);
        }
        let turns = self.interested.get(inbox)?;
        let can = |node: &NodeId| self.can_take(node, inbox);
        let near = turns.iter().position(|node| view.is_near(*node) && can(node));
        let place = near.or_else(|| turns.iter().position(can))?;
        let turns = self.interested.get_mut(inbox)?;
        let edge = turns.remove(place)?;
        turns.push_back(edge);
        Some(edge)
    }

    fn send(
        &mut self,
        dot: Dot,
        edge: NodeId,
        inbox: &Arc<str>,
        lane: &Arc<str>,
        content: Content,
        takeover: &Takeover,
    ) -> Effect {
        if let Some(state) = self.edges.get_mut(&edge) {
            state.sent += content.len() as u64;
            if let Some(credit) = state.credits.get_mut(inbox) {
                credit.sent += 1;
                credit.told = credit.told.saturating_sub(1);
            }
        }
        let tag = self.next_tag;
        self.next_tag += 1;
        let (again, marked) = (self.again.remove(&dot), takeover.marks(dot));
        if marked || again == Some(true) {
            self.duplicates += 1;
        }
        let reader = lane::is_of_one(inbox).then(|| Arc::clone(inbox));
        self.flights.insert(dot, Flight { edge, tag, inbox: Arc::clone(lane), reader });
        let (inbox, redelivered) = (Name::from(inbox), marked || again.is_some());
        let message = match self.returns.count(dot) {
            0 => DispatchMsg::Deliver { inbox, dot, tag, redelivered, content },
            returns => DispatchMsg::DeliverAgain { inbox, dot, tag, redelivered, returns, content },
        };
        Effect::Send { to: edge, message }
    }

    /// Tells the edges of an inbox what waits, where their picture is too far from it.
    fn tell(&mut self, inbox: &Arc<str>, waiting: u64, out: &mut Vec<Effect>) {
        for &to in self.interested.get(inbox).into_iter().flatten() {
            let Some(credit) = self.edges.get_mut(&to).and_then(|edge| edge.credits.get_mut(inbox)) else { continue };
            if !credit.tell(waiting, &mut self.next_round) {
                continue;
            }
            let message = DispatchMsg::Backlog { inbox: Name::from(inbox), waiting, round: credit.round };
            out.push(Effect::Send { to, message });
        }
    }

    /// Waits again, at its place. `lost`: perhaps it was delivered.
    fn put_back(&mut self, dot: Dot, lost: bool) {
        let Some(inbox) = self.flights.remove(dot) else { return };
        *self.again.entry(dot).or_insert(false) |= lost;
        let planted = self.planted;
        if let Some(lane) = Lane::of(&inbox) {
            self.touch(&inbox, |search| search.put_back(lane, dot, planted));
            self.note_in_queue(dot, &inbox);
        }
    }

    fn forget_interest(&mut self, edge: NodeId, inbox: &Arc<str>) {
        if let Some(turns) = self.interested.get_mut(inbox) {
            turns.retain(|other| *other != edge);
            if turns.is_empty() {
                self.interested.remove(inbox);
                if lane::exclusive_since(inbox).is_some() {
                    // The next one's turn, or everybody's.
                    self.touch(inbox, |_| {});
                }
                self.grouped.remove(inbox);
                if lane::asked_by_member(inbox).is_some() {
                    // Its groups go to others.
                    self.dirty.insert(Arc::clone(inbox));
                }
                self.unfinished.retain(|other| other != inbox);
                if let Some(search) = self.searches.remove(inbox) {
                    search.sharing.iter().flat_map(Sharing::noted).for_each(|dot| self.unnote(dot, inbox));
                    self.specials -= usize::from(lane::is_special(inbox));
                    if let Some(due) = search.due {
                        self.dues.remove(&(due, Arc::clone(inbox)));
                    }
                }
            }
        }
    }

    /// Looks again at every inbox of which an edge thinks that something waits.
    fn doubt_told(&mut self) {
        for edge in self.edges.values() {
            let told = edge.credits.iter().filter(|(_, credit)| credit.is_told());
            self.dirty.extend(told.map(|(inbox, _)| Arc::clone(inbox)));
        }
    }
}

/// Inboxes of which people are told.
fn counted(view: &dyn View) -> impl Iterator<Item = Arc<str>> {
    view.inboxes().into_iter().filter(|inbox| lane::remembered_until(inbox).is_none())
}

/// The name under which others are told what waits in an inbox.
fn counted_as(inbox: &Arc<str>, now: Now) -> Name {
    let is_due = Lane::of(inbox).is_some_and(|lane| lane.is_due(now.wall_ms));
    Name(if is_due { lane::shared_queue_of(inbox) } else { lane::scheduled(lane::queue_of(inbox)).into() })
}
