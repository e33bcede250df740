//! Messages that a publisher may have sent before: see [`crate::duplicates`].
//!
//! A message with an id of its publisher's is held until it is certain enough that it is new, and then taken like any other. What its
//! connection sends meanwhile waits behind it, each asking for itself, so the order stays. What was taken before is
//! dropped, and its receipt goes out when the disks that have it are as many as a receipt wants, here or where it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rhizomq_engine::{Dot, Entry, NodeId, Now, RangeSet, SegmentId};
use rhizomq_net::PublishId;

use super::{Broker, ConnId, requests::MESSAGE_COST};
use crate::{
    destination::Kind,
    duplicates::{
        DuplicateId, DuplicateWindow,
        asks::{Asks, Local, Verdict},
        memory::Memory,
        msg::{DuplicatesMsg, Said},
    },
    lane,
    session::{AckItem, Send, Ticket},
};

/// Between two looks at ids whose time is over, ms.
const LOOK_MS: u64 = 1_000;
/// Questions of other nodes that wait for this node's disk; more are answered at once.
const MAX_UNSURE: usize = 65_536;

/// A request that waits.
struct Held {
    ticket: Ticket,
    /// Each message with the number of the question for its id, if it has one.
    unit: Vec<(Send, Option<u64>)>,
    acks: Vec<AckItem>,
    bytes: u64,
}

/// Who is to hear what is known of an id once all is on disk that has come in.
enum Asker {
    Own(u64),
    Other(NodeId, u64),
}

/// See the module docs.
pub(super) struct Duplicates {
    window: DuplicateWindow,
    pub(super) memory: Memory,
    asks: Asks,
    held: BTreeMap<ConnId, VecDeque<Held>>,
    /// On their way to a disk, here or at a member.
    coming: BTreeSet<DuplicateId>,
    /// Of these, those that observers sent.
    taken_in: BTreeMap<PublishId, Vec<DuplicateId>>,
    /// Of what is here, how many disks have it is asked again.
    checking: BTreeMap<PublishId, DuplicateId>,
    checked: BTreeSet<DuplicateId>,
    /// In the order of commits.
    unsure: VecDeque<(u64, Asker, DuplicateId)>,
    /// When to look for ids whose time is over.
    look_at: u64,
}

impl Duplicates {
    pub(super) fn new(me: NodeId, window: DuplicateWindow) -> Self {
        Self {
            window,
            memory: Memory::default(),
            asks: Asks::new(me),
            held: BTreeMap::new(),
            coming: BTreeSet::new(),
            taken_in: BTreeMap::new(),
            checking: BTreeMap::new(),
            checked: BTreeSet::new(),
            unsure: VecDeque::new(),
            look_at: u64::MAX,
        }
    }

    pub(super) fn deadline(&self) -> u64 {
        self.look_at.min(self.asks.deadline())
    }

    /// Whether nobody waits for others.
    pub(super) fn is_answered(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn link_down(&mut self, peer: NodeId) {
        self.asks.link_down(peer);
        self.unsure.retain(|(_, asker, _)| !matches!(asker, Asker::Other(node, _) if *node == peer));
    }

    /// A connection is gone. What it has sent is taken all the same, like what does not wait; but not what it acknowledges
    /// along with that: others get it now. Returns the bytes of what is given up.
    pub(super) fn close(&mut self, conn: ConnId) -> u64 {
        let (kept, given_up): (VecDeque<_>, VecDeque<_>) =
            self.held.remove(&conn).into_iter().flatten().partition(|held| held.acks.is_empty());
        if !kept.is_empty() {
            self.held.insert(conn, kept);
            self.asks.look_at(conn);
        }
        let bytes = given_up.iter().map(|held| held.bytes).sum();
        given_up.into_iter().for_each(|held| self.give_up(held));
        bytes
    }

    /// Nothing becomes of a request.
    fn give_up(&mut self, held: Held) {
        for (send, ask) in held.unit {
            self.end(send.duplicate, ask);
        }
    }

    /// A message is done with, and if it is not on its way by now it will not be.
    fn end(&mut self, id: Option<DuplicateId>, ask: Option<u64>) {
        let Some((id, ask)) = id.zip(ask) else { return };
        self.asks.end(ask);
        if !self.coming.contains(&id) && !self.checked.contains(&id) {
            self.asks.fate(id, None);
        }
    }

    #[cfg(test)]
    pub(super) fn set_window(&mut self, (ms, ids): (u64, usize)) {
        self.window = DuplicateWindow { ms, ids };
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        let here = self.held.len() + self.coming.len() + self.taken_in.len() + self.checking.len() + self.checked.len();
        here + self.unsure.len() + self.memory.len() + self.asks.remembered()
    }
}

/// The ids among what is to be kept.
pub(super) fn ids_of(entries: &[Entry]) -> Vec<DuplicateId> {
    let is_of_ids = |entry: &&Entry| entry.inboxes.iter().any(|inbox| lane::remembered_until(inbox).is_some());
    entries.iter().filter(is_of_ids).filter_map(|entry| DuplicateId::read(&entry.head)).collect()
}

impl Broker {
    /// Takes what a client publishes, at once or when it is known to be new.
    pub(super) fn hold_or_publish(
        &mut self,
        now: Now,
        conn: ConnId,
        ticket: Ticket,
        unit: Vec<Send>,
        acks: Vec<AckItem>,
    ) {
        let has_ids = self.duplicates.window.is_on() && unit.iter().any(|send| send.duplicate.is_some());
        if !has_ids && !self.duplicates.held.contains_key(&conn) {
            return self.publish(now, conn, ticket, unit, &acks, None);
        }
        let mut ids = BTreeSet::new();
        let mut asked = Vec::with_capacity(unit.len());
        for send in unit {
            let id = send.duplicate.filter(|_| self.duplicates.window.is_on() && self.is_kept(&send));
            // Of one transaction the first of several counts.
            if id.is_none_or(|id| ids.insert(id)) {
                let ask = id.map(|id| self.duplicates.asks.begin(conn, id));
                asked.push((send, ask));
            }
        }
        let size = |(send, _): &(Send, _)| send.head.len() as u64 + send.body.len() as u64 + MESSAGE_COST;
        let bytes = asked.iter().map(size).sum();
        self.count_held(conn, bytes);
        self.duplicates.held.entry(conn).or_default().push_back(Held { ticket, unit: asked, acks, bytes });
        self.duplicates.asks.look_at(conn);
    }

    /// Whether more is to become of a message than that it goes to those who listen.
    pub(super) fn is_kept(&self, send: &Send) -> bool {
        send.destination.kind() == Kind::Queue
            || send.is_job()
            || send.duplicate.is_some() && !self.durables.book.targets(&send.destination, &send.head).is_empty()
    }

    /// What is kept of its id.
    pub(super) fn id_entry(&self, now: Now, send: &Send) -> Option<Entry> {
        let window = self.duplicates.window;
        let id = send.duplicate.filter(|_| window.is_on())?;
        Some(id.entry(&window.inbox(now.wall_ms), send.persistent))
    }

    /// Asks what is to be asked, takes what is decided, and answers others.
    pub(super) fn proceed_with_held(&mut self, now: Now) {
        while let Some((number, id)) = self.duplicates.asks.next() {
            let (local, commit) = self.known_here(id);
            let peers = self.node.linked();
            self.duplicates.asks.ask(now.mono_ms, number, local, &peers);
            match commit {
                Some(commit) => self.duplicates.unsure.push_back((commit, Asker::Own(number), id)),
                None if local == Local::Here => self.check_copies(id),
                None => {}
            }
        }
        self.answer_unsure();
        loop {
            let decided = self.duplicates.asks.take_decided();
            if decided.is_empty() {
                break;
            }
            decided.into_iter().for_each(|conn| self.release(now, conn));
        }
        while let Some((to, message)) = self.duplicates.asks.poll_message() {
            self.node.send(to, &message.encode());
        }
    }

    /// Takes a connection's requests in order, up to the first that is not decided.
    fn release(&mut self, now: Now, conn: ConnId) {
        while let Some(held) = self.duplicates.held.get(&conn).and_then(VecDeque::front) {
            let asked: Vec<_> = held.unit.iter().filter_map(|(send, ask)| send.duplicate.zip(*ask)).collect();
            let mut is_decided = true;
            for (id, ask) in asked {
                match self.duplicates.asks.verdict(ask) {
                    None => is_decided = false,
                    Some(Verdict::Known(_)) => {}
                    // Another connection has sent the same meanwhile, or it has come in from elsewhere.
                    Some(Verdict::New) if self.known_here(id).0 == Local::Here => {
                        self.duplicates.asks.wait_for_own(ask);
                        self.check_copies(id);
                        is_decided = false;
                    }
                    Some(Verdict::New) => {}
                }
            }
            if !is_decided {
                return;
            }
            let held = self.duplicates.held.get_mut(&conn).and_then(VecDeque::pop_front);
            held.into_iter().for_each(|held| self.take_held(now, conn, held));
            if self.duplicates.held.get(&conn).is_some_and(VecDeque::is_empty) {
                self.duplicates.held.remove(&conn);
            }
        }
    }

    fn take_held(&mut self, now: Now, conn: ConnId, held: Held) {
        self.uncount_held(conn, held.bytes);
        // Whoever was told of an error knows that what he sent after it is not done.
        if self.clients.get(&conn).is_some_and(|client| client.session.should_close()) {
            return self.duplicates.give_up(held);
        }
        let Held { ticket, unit, acks, .. } = held;
        let had_messages = !unit.is_empty();
        let asked: Vec<_> = unit.iter().map(|(send, ask)| (send.duplicate, *ask)).collect();
        let (mut new, mut at_most) = (Vec::with_capacity(unit.len()), None);
        for (send, ask) in unit {
            match ask.and_then(|ask| self.duplicates.asks.verdict(ask)) {
                Some(Verdict::Known(copies)) => {
                    at_most = Some(at_most.map_or(copies, |most: u32| most.min(copies)));
                }
                _ => new.push(send),
            }
        }
        if had_messages && new.is_empty() && acks.is_empty() {
            self.answer(conn, ticket, at_most);
        } else {
            self.publish(now, conn, ticket, new, &acks, at_most);
        }
        asked.into_iter().for_each(|(id, ask)| self.duplicates.end(id, ask));
        if !self.clients.contains_key(&conn) {
            self.outbox.forget(conn);
        }
    }

    /// What is known here of an id; and if something may come, after which commit it will be.
    fn known_here(&self, id: DuplicateId) -> (Local, Option<u64>) {
        if self.duplicates.coming.contains(&id) || self.dot_of(id).is_some() {
            return (Local::Here, None);
        }
        let commit = self.node.incoming_commit();
        (commit.map_or(Local::Unknown, |_| Local::Unsure), commit)
    }

    /// What another part of a cluster that was split has taken is not this one's.
    fn dot_of(&self, id: DuplicateId) -> Option<Dot> {
        self.duplicates.memory.dot(id).filter(|dot| !self.node.is_gone(dot.segment.node))
    }

    /// Of what is here and not about to be told: on how many disks is it?
    fn check_copies(&mut self, id: DuplicateId) {
        if self.duplicates.coming.contains(&id) || self.duplicates.checked.contains(&id) {
            return;
        }
        let dot = self.dot_of(id);
        if let Some(publish) = dot.and_then(|dot| self.node.confirm_again(dot)) {
            self.duplicates.checking.insert(publish, id);
            self.duplicates.checked.insert(id);
            return;
        }
        // Its time is over just now, or the disk has lost it: it is not to be found here again.
        if let Some(Dot { segment, slot }) = dot {
            self.duplicates.memory.forget(segment, &RangeSet::from_range(slot, slot));
        }
        self.duplicates.asks.fate(id, None);
    }

    /// These are on their way to a disk.
    pub(super) fn note_coming(&mut self, ids: &[DuplicateId]) {
        for id in ids {
            self.duplicates.coming.insert(*id);
            self.duplicates.asks.coming(*id);
        }
    }

    /// The same, of an observer's.
    pub(super) fn note_taken_in(&mut self, publish: PublishId, ids: Vec<DuplicateId>) {
        if !ids.is_empty() {
            self.note_coming(&ids);
            self.duplicates.taken_in.insert(publish, ids);
        }
    }

    /// They are on so many disks, or not kept.
    pub(super) fn settle_ids(&mut self, ids: &[DuplicateId], copies: Option<u32>) {
        for id in ids {
            self.duplicates.coming.remove(id);
            self.duplicates.asks.fate(*id, copies);
        }
    }

    pub(super) fn settle_ids_of(&mut self, publish: PublishId, copies: Option<u32>) {
        if let Some(id) = self.duplicates.checking.remove(&publish) {
            self.duplicates.checked.remove(&id);
            self.duplicates.asks.fate(id, copies);
        } else if let Some(ids) = self.duplicates.taken_in.remove(&publish) {
            self.settle_ids(&ids, copies);
        }
    }

    /// A peer asks, or answers.
    pub(super) fn handle_ids(&mut self, from: NodeId, payload: &[u8]) {
        match DuplicatesMsg::decode(payload) {
            Ok(DuplicatesMsg::Ask(questions)) => {
                for (number, id) in questions {
                    let (_, commit) = self.known_here(id);
                    match commit.filter(|_| self.duplicates.unsure.len() < MAX_UNSURE) {
                        Some(commit) => self.duplicates.unsure.push_back((commit, Asker::Other(from, number), id)),
                        None => self.answer_other(from, number, id),
                    }
                }
            }
            Ok(DuplicatesMsg::Answer(answers)) => {
                let asks = &mut self.duplicates.asks;
                answers.into_iter().for_each(|(number, said)| asks.said(from, number, said));
            }
            Err(error) => tracing::warn!(peer = %from, "{error}"),
        }
    }

    fn answer_other(&mut self, to: NodeId, number: u64, id: DuplicateId) {
        if self.known_here(id).0 == Local::Here {
            self.duplicates.asks.answer(to, number, id, Said::Here);
            self.check_copies(id);
        } else if self.duplicates.asks.goes_first(to, id) {
            self.duplicates.asks.answer(to, number, id, Said::Asking);
        } else {
            self.duplicates.asks.answer(to, number, id, Said::Unknown);
        }
    }

    /// Answers questions that waited for the disk.
    fn answer_unsure(&mut self) {
        while let Some((commit, ..)) = self.duplicates.unsure.front()
            && self.node.has_done_commit(*commit)
            && let Some((_, asker, id)) = self.duplicates.unsure.pop_front()
        {
            match asker {
                Asker::Other(node, number) => self.answer_other(node, number, id),
                Asker::Own(number) => {
                    let me = self.node.id();
                    let is_here = self.known_here(id).0 == Local::Here;
                    self.duplicates.asks.said(me, number, if is_here { Said::Here } else { Said::Unknown });
                    if is_here {
                        self.check_copies(id);
                    }
                }
            }
        }
    }

    /// Messages have come to this node's disk: the ids among them are known from now on.
    pub(super) fn learn_ids(&mut self, now: Now, segment: SegmentId, slots: &RangeSet) {
        let inboxes: Vec<_> = self.node.engine().inboxes_from(lane::REMEMBERED).map(str::to_owned).collect();
        for inbox in inboxes {
            for (first, last) in slots.iter_ranges() {
                self.learn_range(now, &inbox, (segment, first, last));
            }
            self.duplicates.look_at = self.duplicates.look_at.min(now.mono_ms.saturating_add(LOOK_MS));
        }
    }

    fn learn_range(&mut self, now: Now, inbox: &str, (segment, first, last): (SegmentId, u32, u32)) {
        let max = self.duplicates.window.ids;
        let is_own = (segment.node, segment.epoch) == (self.node.id(), self.node.epoch());
        let mut from = first;
        while let Some(slot) = self.node.engine().next_waiting(inbox, segment, from).filter(|slot| *slot <= last) {
            let dot = Dot { segment, slot };
            // What can't be read is not known; whoever needs it reports it.
            let message = self.node.engine().message(dot).ok().flatten();
            if let Some(id) = message.and_then(|message| DuplicateId::read(&message.head)) {
                self.duplicates.memory.learn(id, dot, max);
                let over = if is_own { self.duplicates.memory.took(dot, max) } else { Vec::new() };
                for Dot { segment, slot } in over {
                    self.node.remove_all(now, segment, &RangeSet::from_range(slot, slot));
                }
            }
            let Some(next) = slot.checked_add(1) else { return };
            from = next;
        }
    }

    /// Those that an earlier life knew, and what is kept for others.
    pub(super) fn read_ids(&mut self) {
        let inboxes: Vec<_> = self.node.engine().inboxes_from(lane::REMEMBERED).map(str::to_owned).collect();
        for inbox in &inboxes {
            let segments: Vec<_> = self.node.engine().inbox_segments(inbox).map(|(segment, _)| segment).collect();
            for segment in segments {
                // Of this life nothing is there yet, so nothing is consumed, and no time is needed.
                self.learn_range(Now { mono_ms: 0, wall_ms: 0 }, inbox, (segment, 1, u32::MAX));
            }
            self.duplicates.look_at = 0;
        }
    }

    /// Whoever does not answer is not waited for, and ids whose time is over are consumed.
    pub(super) fn expire_ids(&mut self, now: Now) {
        self.duplicates.asks.expire(now.mono_ms);
        if now.mono_ms < self.duplicates.look_at {
            return;
        }
        let inboxes: Vec<_> = self.node.engine().inboxes_from(lane::REMEMBERED).map(str::to_owned).collect();
        self.duplicates.look_at = if inboxes.is_empty() { u64::MAX } else { now.mono_ms.saturating_add(LOOK_MS) };
        if self.drain.is_on() || self.is_retired() || !self.stop.takes_clients() {
            return;
        }
        let is_over = |inbox: &&String| lane::remembered_until(inbox).is_none_or(|until| until <= now.wall_ms);
        for inbox in inboxes.iter().filter(is_over) {
            for segment in self.dispatch.owned_with(&self.node, inbox) {
                let slots = self.node.engine().waiting_of(inbox, segment);
                self.node.remove_all(now, segment, &slots);
            }
        }
    }

    /// What waits here counts against what its connection may have open.
    fn count_held(&mut self, conn: ConnId, bytes: u64) {
        self.unconfirmed += bytes;
        if let Some(client) = self.clients.get_mut(&conn) {
            client.unconfirmed += bytes;
        }
    }

    fn uncount_held(&mut self, conn: ConnId, bytes: u64) {
        self.unconfirmed = self.unconfirmed.saturating_sub(bytes);
        if let Some(client) = self.clients.get_mut(&conn) {
            client.unconfirmed = client.unconfirmed.saturating_sub(bytes);
            self.touched.insert(conn);
        }
        self.resume_all_if_possible();
    }
}
