//! What a consumer of an owner's queue may get next: through the lanes in their order, in each lane through the segments in theirs,
//! and with a selector over what it does not match.
//!
//! What is behind need not be looked at again: `from` is the first lane, and in each lane a cursor the first slot of a segment, at which
//! anything may wait. Whatever arrives, or goes back, moves them back. What goes back to a queue that is read with a selector is noted
//! by itself instead (`returned`), for it may lie far behind, and all between would have to be read once more.
//!
//! Reading heads takes time. A search with a selector stops when its turn has cost enough, and goes on in a later one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rhizomq_engine::{Dot, Mistake, Now, Planted, SegmentId, Slot};

use super::{Effect, View, flights::Flights, groups::Sharing, takeover::Takeover};
use crate::{
    lane::{self, Lane, Unreadable},
    selector::{Selector, StoredFields},
};

/// What a message costs that is looked at in vain, besides its bytes.
const LOOK_COST: usize = 256;
/// Lanes whose messages are counted to tell an edge how many there are.
const COUNTED_LANES: usize = 16;
/// Lanes that are remembered without asking whether there is anything in them.
const KEPT_LANES: usize = 16;

/// See the module docs.
pub(super) struct Search {
    queue: Arc<str>,
    selector: Option<Selector>,
    from: Lane,
    cursors: BTreeMap<Lane, BTreeMap<SegmentId, Slot>>,
    returned: BTreeSet<(Lane, Dot)>,
    /// Which lanes had their time when it was looked for the last time, in ms since 1970.
    looked_at: u64,
    /// When the next lane is to be looked at, on the monotonic clock.
    pub(super) due: Option<u64>,
    /// With more cursors than this, those of lanes that are gone are looked for.
    kept: usize,
    /// How message groups are shared out, once one was met.
    pub(super) sharing: Option<Sharing>,
}

/// What a search sees around it, for one turn.
pub(super) struct Ground<'a> {
    pub(super) now: Now,
    pub(super) view: &'a dyn View,
    pub(super) takeover: &'a Takeover,
    pub(super) unreadable: &'a mut BTreeSet<Dot>,
    /// Nothing is dispatched here any more.
    pub(super) retired: bool,
    pub(super) planted: Planted,
    /// What reading in vain may still cost.
    pub(super) budget: usize,
    pub(super) out: &'a mut Vec<Effect>,
}

/// Where a search is in its turn: nothing that is cached here changes within one.
#[derive(Default)]
pub(super) struct Walk {
    has_lanes: Option<bool>,
    here: Option<Here>,
}

struct Here {
    lane: Lane,
    inbox: Arc<str>,
    /// Those that are dispatched here, in the order of service.
    segments: Vec<(SegmentId, u64)>,
}

/// What comes of a search.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// This waits, in this inbox.
    Next(Dot, Arc<str>),
    Nothing,
    /// The turn is over.
    Unfinished,
}

impl Search {
    /// For consumers that ask for a queue, or a view of one.
    pub(super) fn new(name: &Arc<str>) -> Result<Self, Unreadable> {
        Ok(Self {
            queue: lane::shared_queue_of(name),
            selector: lane::selector_of(name)?,
            from: Lane::FIRST,
            cursors: BTreeMap::new(),
            returned: BTreeSet::new(),
            looked_at: 0,
            due: None,
            kept: KEPT_LANES,
            sharing: None,
        })
    }

    /// Messages wait in a lane, from this one on, that did not before.
    pub(super) fn arrived(&mut self, lane: Lane, first: Dot) {
        self.from = self.from.min(lane);
        if let Some(cursor) = self.cursor(lane, first.segment) {
            *cursor = first.slot.min(*cursor);
        }
    }

    /// A message waits again.
    pub(super) fn put_back(&mut self, lane: Lane, dot: Dot, planted: Planted) {
        if planted.is(Mistake::SearchForgets) && self.selector.is_some() {
            return;
        }
        let is_selective = self.selector.is_some();
        let queue = &self.queue;
        self.sharing.iter_mut().for_each(|sharing| sharing.put_back(dot, lane.inbox(queue).into()));
        match self.cursor(lane, dot.segment) {
            Some(cursor) if *cursor > dot.slot && is_selective => {
                self.returned.insert((lane, dot));
            }
            Some(cursor) => {
                *cursor = dot.slot.min(*cursor);
                self.from = self.from.min(lane);
            }
            None => self.from = self.from.min(lane),
        }
    }

    /// Whether those who ask want a message with these headers.
    pub(super) fn wants(&self, dot: Dot, head: &[u8]) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.matches(&StoredFields { head, id: &dot.to_string() }))
    }

    /// A segment is not dispatched here any more.
    pub(super) fn give_up(&mut self, segment: SegmentId) {
        for segments in self.cursors.values_mut() {
            segments.remove(&segment);
        }
        self.sharing.iter_mut().for_each(|sharing| sharing.give_up(segment));
        self.returned.retain(|(_, dot)| dot.segment != segment);
    }

    /// What is dispatched here has changed.
    pub(super) fn look_at_all(&mut self) {
        self.from = Lane::FIRST;
        self.sharing.iter_mut().for_each(Sharing::stir_all);
    }

    /// The first message in the order of service that nobody has.
    pub(super) fn next(&mut self, walk: &mut Walk, flights: &Flights, ground: &mut Ground<'_>) -> Found {
        let has_lanes = *walk.has_lanes.get_or_insert_with(|| self.begin(ground));
        let (returned, is_open) = self.next_returned(flights, ground);
        let view = ground.view;
        let inboxes = |name: &str| view.inbox_from(name);
        let now_ms = if ground.planted.is(Mistake::ServedEarly) { u64::MAX } else { ground.now.wall_ms };
        let mut from = self.from;
        loop {
            if let Some((lane, dot)) = returned
                && lane <= from
            {
                return Found::Next(dot, lane.inbox(&self.queue).into());
            }
            let here = match walk.here.take().filter(|here| here.lane >= from) {
                Some(here) => here,
                None => match lane::next(&inboxes, &self.queue, from, now_ms, has_lanes) {
                    Some((lane, inbox)) => Here { lane, segments: segments_of(&inbox, ground), inbox },
                    None => {
                        return match returned {
                            Some((lane, dot)) => Found::Next(dot, lane.inbox(&self.queue).into()),
                            None if is_open => Found::Unfinished,
                            None => {
                                self.forget_gone_lanes(ground);
                                Found::Nothing
                            }
                        };
                    }
                },
            };
            if let Some((lane, dot)) = returned
                && lane <= here.lane
            {
                walk.here = Some(here);
                return Found::Next(dot, lane.inbox(&self.queue).into());
            }
            let (found, is_behind) = self.next_in(&here, flights, ground);
            let (lane, inbox) = (here.lane, Arc::clone(&here.inbox));
            match found {
                Some(Found::Next(dot, _)) => {
                    walk.here = Some(here);
                    return Found::Next(dot, inbox);
                }
                Some(other) => {
                    walk.here = Some(here);
                    return returned.map_or(other, |(lane, dot)| Found::Next(dot, lane.inbox(&self.queue).into()));
                }
                None => {
                    // All that could be had there is behind, and what lies between was not there.
                    if is_behind && self.from == from {
                        self.from = lane.after();
                    }
                    from = lane.after();
                }
            }
        }
    }

    /// How many there may be besides, the next one included: at least one.
    pub(super) fn count(&self, walk: &Walk, flights: &Flights, ground: &Ground<'_>) -> u64 {
        let waiting = |segments: &[(SegmentId, u64)], inbox: &Arc<str>| {
            let all: u64 = segments.iter().map(|(_, count)| count).sum();
            all.saturating_sub(flights.count(inbox))
        };
        let view = ground.view;
        let inboxes = |name: &str| view.inbox_from(name);
        let mut count = walk.here.as_ref().map_or(0, |here| waiting(&here.segments, &here.inbox));
        let mut last = walk.here.as_ref().map(|here| here.lane);
        for _ in 0..COUNTED_LANES {
            let Some(lane) = last.filter(|_| walk.has_lanes == Some(true)) else { break };
            let found = lane::next(&inboxes, &self.queue, lane.after(), ground.now.wall_ms, true);
            count += found.as_ref().map_or(0, |(_, inbox)| waiting(&segments_of(inbox, ground), inbox));
            last = found.map(|(lane, _)| lane);
        }
        count.max(1)
    }

    /// The next lane that is to have its time, in ms since 1970.
    pub(super) fn next_due(&self, walk: &Walk, ground: &Ground<'_>) -> Option<u64> {
        let view = ground.view;
        let inboxes = |name: &str| view.inbox_from(name);
        walk.has_lanes.filter(|has_lanes| *has_lanes)?;
        lane::next_due(&inboxes, &self.queue, ground.now.wall_ms)?.due()
    }

    /// At the beginning of a turn: lanes whose time has come are to be looked at. Whether there are any lanes.
    fn begin(&mut self, ground: &Ground<'_>) -> bool {
        let view = ground.view;
        let inboxes = |name: &str| view.inbox_from(name);
        let (since, now) = (self.looked_at, ground.now.wall_ms);
        self.looked_at = now;
        let has_lanes = lane::has_lanes(&inboxes, &self.queue);
        if has_lanes && let Some(lane) = lane::became_due(&inboxes, &self.queue, since, now) {
            self.from = self.from.min(lane);
        }
        has_lanes
    }

    /// The first that went back and can be had; and whether there may be more, for the turn is over.
    fn next_returned(&mut self, flights: &Flights, ground: &mut Ground<'_>) -> (Option<(Lane, Dot)>, bool) {
        let (mut over, mut is_open) = (Vec::new(), false);
        let mut first = None;
        for &(lane, dot) in &self.returned {
            let inbox = lane.inbox(&self.queue);
            let waits = ground.view.next_waiting(&inbox, dot.segment, dot.slot) == Some(dot.slot);
            if !waits || flights.contains(dot) || ground.unreadable.contains(&dot) || self.is_parked(dot) {
                over.push((lane, dot));
            } else if !is_served(dot.segment, ground) || ground.view.is_removed(dot) {
                // That may change.
            } else if ground.budget == 0 {
                is_open = true;
                break;
            } else if matches(self.selector.as_ref(), dot, ground) {
                first = Some((lane, dot));
                break;
            } else {
                over.push((lane, dot));
            }
        }
        for one in &over {
            self.returned.remove(one);
        }
        (first, is_open)
    }

    /// The first one in a lane; and whether the cursors have all of it behind them otherwise.
    fn next_in(&mut self, here: &Here, flights: &Flights, ground: &mut Ground<'_>) -> (Option<Found>, bool) {
        let sharing = self.sharing.as_ref();
        let is_parked = |dot| sharing.is_some_and(|sharing| sharing.is_parked(dot));
        let cursors = self.cursors.entry(here.lane).or_default();
        cursors.retain(|id, _| here.segments.iter().any(|(segment, _)| segment == id));
        let mut is_behind = true;
        for &(segment, _) in &here.segments {
            let cursor = cursors.entry(segment).or_insert(1);
            let (mut from, mut passes) = (*cursor, true);
            loop {
                let found = ground.view.next_waiting(&here.inbox, segment, from);
                let slot = found.unwrap_or(Slot::MAX);
                if passes {
                    *cursor = slot;
                }
                let Some(slot) = found else { break };
                let dot = Dot { segment, slot };
                let taken = flights.contains(dot) || ground.unreadable.contains(&dot) || is_parked(dot);
                if !taken && ground.view.is_removed(dot) {
                    // Not for good: its commit may fail. With a selector it is noted by itself.
                    if self.selector.is_some() {
                        self.returned.insert((here.lane, dot));
                    } else {
                        passes = false;
                    }
                } else if !taken {
                    if self.selector.is_some() && ground.budget == 0 {
                        return (Some(Found::Unfinished), false);
                    }
                    if matches(self.selector.as_ref(), dot, ground) {
                        return (Some(Found::Next(dot, Arc::clone(&here.inbox))), false);
                    }
                }
                let Some(next) = slot.checked_add(1) else { break };
                from = next;
                if passes {
                    *cursor = from;
                }
            }
            is_behind &= passes;
        }
        (None, is_behind)
    }

    fn is_parked(&self, dot: Dot) -> bool {
        self.sharing.as_ref().is_some_and(|sharing| sharing.is_parked(dot))
    }

    fn cursor(&mut self, lane: Lane, segment: SegmentId) -> Option<&mut Slot> {
        self.cursors.get_mut(&lane)?.get_mut(&segment)
    }

    /// Lanes come and go with time: where nothing waits any more nothing is to be remembered.
    fn forget_gone_lanes(&mut self, ground: &Ground<'_>) {
        if self.cursors.len() <= self.kept {
            return;
        }
        let exists = |lane: &Lane| {
            let inbox = lane.inbox(&self.queue);
            ground.view.inbox_from(&inbox).is_some_and(|found| *found == *inbox)
        };
        self.cursors.retain(|lane, _| exists(lane));
        self.kept = KEPT_LANES + 2 * self.cursors.len();
    }
}

/// Whether the message gets through. What can't be read does not, and is left out until it arrives anew.
fn matches(selector: Option<&Selector>, dot: Dot, ground: &mut Ground<'_>) -> bool {
    let Some(selector) = selector else { return true };
    match ground.view.message(dot) {
        Ok(Some(message)) => {
            // Of a block that is not in memory the bodies are read, too.
            let cost = LOOK_COST + message.head.len() * selector.weight() + message.body.len() / 8;
            ground.budget = ground.budget.saturating_sub(cost);
            return selector.matches(&StoredFields { head: &message.head, id: &dot.to_string() });
        }
        Ok(None) => {}
        Err(why) => ground.out.push(Effect::Damaged { dot, why }),
    }
    ground.unreadable.insert(dot);
    false
}

/// The segments of an inbox that are dispatched here, in the order of service.
fn segments_of(inbox: &str, ground: &Ground<'_>) -> Vec<(SegmentId, u64)> {
    let mut segments = ground.view.inbox_segments(inbox);
    // In their order: behind one that waits for answers, later ones of the same life wait too.
    let mut held_back = None;
    segments.retain(|(id, _)| {
        if ground.takeover.is_claiming(*id) {
            held_back = Some((id.node, id.epoch));
        }
        is_served(*id, ground) && held_back != Some((id.node, id.epoch))
    });
    // What is left of other lives first: it is finite, and old.
    segments.sort_by_key(|(id, _)| (ground.takeover.is_own_life(*id), *id));
    segments
}

/// Whether the segment's messages are dispatched here now.
pub(super) fn is_served(segment: SegmentId, ground: &Ground<'_>) -> bool {
    !ground.retired && ground.takeover.owns(segment)
}
