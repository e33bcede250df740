//! Looking through a queue without taking anything: what waits now, of all owners within reach.
//!
//! The edge asks one owner after the other, itself first, for a page at a time, and for the next page when its client's socket
//! has room: so at most a page for each of [`MAX_ASKED`] browsers is under way, whatever waits. An owner remembers nothing of it:
//! each question says behind which place to go on.
//!
//! What is with consumers is shown too, for it is not consumed; what waits for its time is not. The first page of an owner fixes
//! how many it looks at in all, so that a browser comes to its end however fast others send.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

use rhizomq_engine::{Dot, NodeId, Now, SegmentId};
use serde::{Deserialize, Serialize};

use super::{
    ConsumerId, Effect, View,
    msg::{Content, DispatchMsg, Name},
    takeover::Takeover,
};
use crate::{
    broker::ConnId,
    expiry,
    lane::{self, Lane},
    selector::StoredFields,
    session::SubKey,
};

/// Pages that an edge has asked for at a time; other browsers wait.
const MAX_ASKED: usize = 64;

/// Pages that are asked for in one millisecond, of all browsers of a node.
const PAGES_AT_ONCE: usize = 4;
/// Messages in a page, and their bytes, unless a single one has more.
const PAGE_MESSAGES: usize = 64;
const PAGE_BYTES: usize = 256 << 10;
/// What reading for a page may cost, about a byte each.
const PAGE_COST: usize = 1 << 20;
/// What a message costs that is looked at in vain, besides its bytes.
const LOOK_COST: usize = 256;
/// An owner has not said yet how many there are.
const ALL: u64 = u64::MAX;

/// Where a page has ended: the lane, and the last message that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) lane: Name,
    pub(crate) dot: Dot,
}

struct Browser {
    /// A queue, or a view of one.
    name: Arc<str>,
    /// The first one is being asked.
    owners: VecDeque<NodeId>,
    /// The question that waits for its answer.
    asked: Option<u64>,
    after: Option<Place>,
    left: u64,
}

/// The edge's side; see the module docs.
#[derive(Default)]
pub(crate) struct Browsers {
    browsers: BTreeMap<ConsumerId, Browser>,
    asked: BTreeMap<u64, ConsumerId>,
    last: u64,
    /// Who asked last: the next one's turn is next.
    served: Option<ConsumerId>,
    /// Pages that were asked for in this millisecond.
    pages: (u64, usize),
    /// Those that may be able to go on.
    ready: BTreeSet<ConsumerId>,
}

impl Browsers {
    /// A client wants to see what waits at these owners. [`Effect::Browsed`] follows for each message, then one
    /// [`Effect::BrowseEnd`].
    pub(crate) fn begin(&mut self, id: ConsumerId, name: &Arc<str>, owners: VecDeque<NodeId>) {
        self.browsers.insert(id, Browser { name: Arc::clone(name), owners, asked: None, after: None, left: ALL });
        self.ready.insert(id);
    }

    pub(crate) fn end(&mut self, id: ConsumerId) {
        if let Some(number) = self.browsers.remove(&id).and_then(|browser| browser.asked) {
            self.asked.remove(&number);
        }
        self.ready.remove(&id);
    }

    pub(crate) fn close(&mut self, conn: ConnId) {
        let all = ConsumerId { conn, sub: SubKey(0) }..=ConsumerId { conn, sub: SubKey(u32::MAX) };
        let ended: Vec<_> = self.browsers.range(all).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|id| self.end(id));
    }

    /// The socket of a connection has room again.
    pub(crate) fn resume(&mut self, conn: ConnId) {
        let all = ConsumerId { conn, sub: SubKey(0) }..=ConsumerId { conn, sub: SubKey(u32::MAX) };
        self.ready.extend(self.browsers.range(all).map(|(id, _)| *id));
    }

    /// What it has and has not shown can't be seen any more.
    pub(crate) fn link_down(&mut self, owner: NodeId) {
        for (id, browser) in &mut self.browsers {
            if browser.owners.front() == Some(&owner) {
                browser.asked.take().and_then(|number| self.asked.remove(&number));
                (browser.after, browser.left) = (None, ALL);
                self.ready.insert(*id);
            }
            browser.owners.retain(|other| *other != owner);
        }
    }

    /// A message of a page that was asked for.
    pub(crate) fn on_browsed(&self, from: NodeId, number: u64, dot: Dot, content: Content, out: &mut Vec<Effect>) {
        let Some((to, browser)) = self.asker(from, number) else { return };
        out.push(Effect::Browsed { to, inbox: Arc::clone(&browser.name), dot, content });
    }

    /// The page is whole; nothing `left`: it was the owner's last one.
    pub(crate) fn on_page_end(&mut self, from: NodeId, number: u64, after: Option<Place>, left: u64) {
        let Some((id, _)) = self.asker(from, number) else { return };
        self.asked.remove(&number);
        let Some(browser) = self.browsers.get_mut(&id) else { return };
        browser.asked = None;
        // Each page leaves less, whatever a peer says: so there is an end.
        (browser.after, browser.left) = (after, left.min(browser.left.saturating_sub(1)));
        if browser.left == 0 {
            browser.owners.pop_front();
            (browser.after, browser.left) = (None, ALL);
        }
        self.ready.insert(id);
    }

    /// Asks for what can be shown now, in turns, and no more than that in a millisecond: a page may show nothing, and all other
    /// clients wait as long as it takes to look through it.
    pub(crate) fn proceed(&mut self, now_ms: u64, is_busy: impl Fn(ConnId) -> bool, out: &mut Vec<Effect>) {
        if self.pages.0 != now_ms {
            self.pages = (now_ms, 0);
        }
        while self.is_ready(now_ms)
            && let Some(id) = self.next_ready()
        {
            self.ready.remove(&id);
            self.served = Some(id);
            let Some(browser) = self.browsers.get_mut(&id) else { continue };
            // Whoever is busy now is called again.
            if browser.asked.is_some() || is_busy(id.conn) {
                continue;
            }
            let Some(&to) = browser.owners.front() else {
                self.browsers.remove(&id);
                out.push(Effect::BrowseEnd { to: id });
                continue;
            };
            self.last += 1;
            let (number, inbox) = (self.last, Name::from(&browser.name));
            browser.asked = Some(number);
            self.asked.insert(number, id);
            self.pages.1 += 1;
            let message = DispatchMsg::Browse { number, inbox, after: browser.after.clone(), left: browser.left };
            out.push(Effect::Send { to, message });
        }
    }

    /// Whether [`Browsers::proceed`] has something to do.
    pub(crate) fn is_ready(&self, now_ms: u64) -> bool {
        let has_room = self.pages.0 != now_ms || self.pages.1 < PAGES_AT_ONCE;
        !self.ready.is_empty() && self.asked.len() < MAX_ASKED && has_room
    }

    /// When it goes on by itself, in monotonic ms.
    pub(crate) fn deadline(&self) -> u64 {
        if self.ready.is_empty() || self.asked.len() >= MAX_ASKED { u64::MAX } else { self.pages.0 + 1 }
    }

    fn next_ready(&self) -> Option<ConsumerId> {
        let behind =
            self.served.and_then(|served| self.ready.range((Bound::Excluded(served), Bound::Unbounded)).next());
        behind.or_else(|| self.ready.first()).copied()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.browsers.len() + self.asked.len() + self.ready.len()
    }

    fn asker(&self, from: NodeId, number: u64) -> Option<(ConsumerId, &Browser)> {
        let id = *self.asked.get(&number)?;
        let browser = self.browsers.get(&id).filter(|browser| browser.owners.front() == Some(&from))?;
        Some((id, browser))
    }
}

/// What an owner sees when it is asked.
pub(super) struct Shelf<'a> {
    pub(super) now: Now,
    pub(super) view: &'a dyn View,
    pub(super) takeover: &'a Takeover,
}

/// One page, in the order of service: messages, where it ended, and how many are left to be looked at.
#[derive(Default)]
pub(super) struct Page {
    pub(super) messages: Vec<(Dot, Content)>,
    pub(super) after: Option<Place>,
    pub(super) left: u64,
    pub(super) damaged: Vec<(Dot, String)>,
}

impl Shelf<'_> {
    /// What follows that place; nothing of what can't be read, as of a name that only another version knows.
    pub(super) fn page(&self, name: &Arc<str>, after: Option<Place>, left: u64) -> Page {
        let mut page = Page::default();
        let Ok(selector) = lane::selector_of(name) else { return page };
        let queue = lane::queue_of(name);
        let inboxes = |name: &str| self.view.inbox_from(name);
        page.left = left.min(self.count(queue));
        let (mut cost, mut bytes) = (0, 0);
        let mut begin = after.and_then(|place| Some((Lane::of(&place.lane.0)?, place.dot)));
        let mut from = begin.map_or(Lane::FIRST, |(lane, _)| lane);
        while let Some((lane, inbox)) = lane::next(&inboxes, queue, from, self.now.wall_ms, true) {
            from = lane.after();
            let start = begin.take().filter(|(begun, _)| *begun == lane).map(|(_, dot)| dot);
            for dot in self.dots(&inbox, start) {
                if page.left == 0 {
                    return page;
                }
                if page.messages.len() == PAGE_MESSAGES || bytes >= PAGE_BYTES || cost >= PAGE_COST {
                    return page;
                }
                page.left -= 1;
                page.after = Some(Place { lane: Name::from(&inbox), dot });
                match self.view.message(dot) {
                    Ok(Some(message)) => {
                        let fields = StoredFields { head: &message.head, id: &dot.to_string() };
                        let weight = selector.as_ref().map_or(1, |selector| selector.weight());
                        cost += LOOK_COST + message.head.len() * weight + message.body.len() / 8;
                        let is_wanted = selector.as_ref().is_none_or(|selector| selector.matches(&fields));
                        if is_wanted && !expiry::is_over(&message.head, self.now.wall_ms) {
                            let content = Content::new(message.head, message.body);
                            bytes += content.len();
                            page.messages.push((dot, content));
                        }
                    }
                    Ok(None) => {}
                    Err(why) => page.damaged.push((dot, why)),
                }
            }
        }
        page.left = 0;
        page
    }

    /// How many messages wait here.
    fn count(&self, queue: &str) -> u64 {
        let lanes = lane::due_lanes(&|name: &str| self.view.inbox_from(name), queue, self.now.wall_ms);
        lanes.iter().flat_map(|inbox| self.segments(inbox)).map(|(_, count)| count).sum()
    }

    /// Segments of an inbox that this node answers for, in the order of service.
    fn segments(&self, inbox: &str) -> Vec<(SegmentId, u64)> {
        let mut segments = self.view.inbox_segments(inbox);
        segments.retain(|(id, _)| self.takeover.answers_for(*id));
        segments.sort_by_key(|(id, _)| (self.takeover.is_own_life(*id), *id));
        segments
    }

    /// What waits in a lane behind `start`.
    fn dots<'a>(&'a self, inbox: &'a str, start: Option<Dot>) -> impl Iterator<Item = Dot> + 'a {
        let rank = |id: SegmentId| (self.takeover.is_own_life(id), id);
        let segments = self.segments(inbox).into_iter().map(|(id, _)| id);
        let segments = segments.filter(move |id| start.is_none_or(|start| rank(*id) >= rank(start.segment)));
        segments.flat_map(move |segment| {
            let behind = start.filter(|start| start.segment == segment).map_or(Some(1), |dot| dot.slot.checked_add(1));
            let next = move |from| self.view.next_waiting(inbox, segment, from);
            let slots = std::iter::successors(behind.and_then(next), move |slot| slot.checked_add(1).and_then(next));
            slots.map(move |slot| Dot { segment, slot }).filter(|dot| !self.view.is_removed(*dot))
        })
    }
}
