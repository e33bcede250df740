//! The judge: looks at every frame for a client, every write and, now and then, every state, and says which promise of
//! the design was broken. It believes disks and clients, never what a node says of itself.

use rhizomq_engine::{Dot, Engine, NodeId, SegmentId};
use rhizomq_stomp::{
    broker::ConnId,
    frame::{Command, Frame},
};

use super::{
    clients::{DURABLE_TOPIC, Pending, Role},
    disk::Moved,
    ledger::{Holder, Kind, Msg, MsgId, msg_id_of},
    world::World,
};

/// A live node answers a SEND within so many milliseconds, whatever the network does.
const ANSWER_MS: u64 = 15_000;

/// After so many milliseconds without any fault, what one node knows is known to all that need it.
const SETTLED_MS: u64 = 6_000;

/// Once all are linked for so many milliseconds, an owner has heard what others delivered in its place.
const RECALLED_MS: u64 = 1_000;

/// A message that no running host has waiting may still be on its way for so many milliseconds.
pub(crate) const UNDER_WAY_MS: u64 = 6_000;

impl World {
    fn engine(&self, host: usize) -> Option<&Engine> {
        self.hosts[host].broker.as_ref().map(|broker| broker.node().engine())
    }

    pub(crate) fn knows_removed(&self, host: usize, dot: Dot) -> bool {
        self.engine(host).is_some_and(|engine| {
            engine.retired().covers(dot)
                || engine.segment(dot.segment).is_some_and(|state| state.removed.contains(dot.slot))
        })
    }

    fn has_waiting(&self, host: usize, dot: Dot) -> bool {
        let waits = |engine: &Engine| {
            engine
                .segment(dot.segment)
                .is_some_and(|state| state.known.contains(dot.slot) && !state.removed.contains(dot.slot))
        };
        self.engine(host).is_some_and(waits)
    }

    pub(crate) fn violate(&mut self, kind: Kind, text: String) {
        if self.trace.printed {
            println!("{:>7}.{:03} VIOLATION {kind:?}: {text}", self.now / 1000, self.now % 1000);
        }
        self.ledger.violate(self.now, kind, text);
    }

    /// A frame leaves a broker for a client.
    pub(crate) fn watch(&mut self, conn: ConnId, frame: &Frame) {
        match frame.command {
            Command::Receipt => self.watch_receipt(conn, frame),
            Command::Message => self.watch_delivery(conn, frame),
            _ => {}
        }
    }

    fn watch_receipt(&mut self, conn: ConnId, frame: &Frame) {
        let client = self.conns[&conn].client;
        if self.clients[client].conn != Some(conn) {
            return; // the client is gone; nobody was told anything
        }
        let receipt = frame.headers.get("receipt-id").and_then(|id| id.parse::<u64>().ok()).unwrap_or_default();
        match self.clients[client].pending.get(&receipt) {
            Some(Pending::Publish { ids, .. }) => {
                let copies = frame.headers.get("copies").and_then(|copies| copies.parse().ok()).unwrap_or(1);
                for id in ids.clone() {
                    self.check_copies(id, copies, self.conns[&conn].host);
                }
            }
            Some(Pending::Ack { ids }) => {
                let acked = (self.now, self.conns[&conn].host);
                for id in ids.clone() {
                    self.ledger.msg(id).acked.get_or_insert(acked);
                }
            }
            Some(Pending::Unsubscribe { subscription }) => {
                let subscription = *subscription;
                if let Some(connection) = self.conns.get_mut(&conn) {
                    connection.ended.insert(subscription);
                }
            }
            Some(Pending::Leave) => {
                if let Some(connection) = self.conns.get_mut(&conn) {
                    connection.over = true;
                }
                if self.is_auto(client) {
                    self.watch_farewell(conn);
                }
            }
            _ => {}
        }
    }

    /// An `auto` client gets the receipt of its DISCONNECT: all that was written to it before is consumed, for good.
    fn watch_farewell(&mut self, conn: ConnId) {
        let (now, host) = (self.now, self.conns[&conn].host);
        let here = (host, self.hosts[host].life);
        let with_it = |msg: &Msg| msg.held_by.is_some_and(|holder| holder.conn == conn);
        let ids: Vec<_> = self.ledger.msgs().filter(|(_, msg)| with_it(msg)).map(|(id, _)| id).collect();
        for id in ids {
            let msg = self.ledger.msg(id);
            msg.acked.get_or_insert((now, host));
            msg.left_at = Some(here);
        }
    }

    pub(crate) fn is_auto(&self, client: usize) -> bool {
        matches!(&self.clients[client].role, Role::Consumer(consumer) if consumer.mode == "auto")
    }

    /// A receipt tells of `copies` disks: they must hold the message, unless it was consumed already.
    fn check_copies(&mut self, id: MsgId, copies: usize, host: usize) {
        let calm = self.all_joined_since(SETTLED_MS);
        let stall_ms = self.settings.timing.stall_ms;
        let store =
            self.hosts.iter().filter(|host| host.disk.slowness_ms < stall_ms && host.disk.full_for == 0).count();
        // What an observer's client sent lies with a member, which may be of the other part while that is under way.
        let home = self.ledger.msg(id).dot.and_then(|dot| self.origin(dot)).unwrap_or(host);
        let wanted = (self.settings.confirm as usize).min(store).min(self.part_size(home));
        let msg = self.ledger.msg(id);
        msg.copies = copies;
        let disks = msg.ever.len();
        if msg.consumed.is_some() {
            return;
        }
        if disks < copies.max(1) {
            self.violate(Kind::FalseReceipt, format!("m{id}: receipt tells of {copies} copies, {disks} disks had it"));
        } else if msg.persistent && calm && copies < wanted {
            self.violate(Kind::FalseReceipt, format!("m{id}: {copies} copies, {wanted} were wanted and possible"));
        }
    }

    fn watch_delivery(&mut self, conn: ConnId, frame: &Frame) {
        let connection = &self.conns[&conn];
        let (client, host) = (connection.client, connection.host);
        let header = |name| frame.headers.get(name).unwrap_or_default();
        let marked = header("redelivered") == "true";
        let subscription = header("subscription").parse().unwrap_or_default();
        if connection.over || connection.ended.contains(&subscription) {
            let text = format!("a message to c{client} after the receipt for the end of {subscription}");
            return self.violate(Kind::AfterEnd, text);
        }
        if header("destination").starts_with("/topic/") && !header("destination").starts_with(DURABLE_TOPIC) {
            return self.watch_topic(conn, frame);
        }
        let (Ok(dot), Some(id)) = (header("message-id").parse::<Dot>(), msg_id_of(&frame.body)) else {
            return self.violate(Kind::ClientError, format!("not what was sent: {:?}", frame.headers));
        };
        let now = self.now;
        self.ledger.name(now, dot, id);
        self.check_time(id);
        self.check_resurrection(host, dot, id);
        self.check_crossing(host, dot, id);
        if !marked {
            self.ledger.order(now, conn.0, subscription, id);
        }
        self.check_holder(id, host);
        self.check_acknowledged(id, host);
        let (excused, mark_excused) = (self.excused, self.excused || self.marks_excused);
        // Whoever may have delivered it before lives on and could be asked: its owner knows that it is not the first.
        let recalled = self.crashed_at.unwrap_or(0);
        let known =
            self.all_joined_since(RECALLED_MS) || self.is_first_known(id, host, now.saturating_sub(RECALLED_MS));
        let auto = self.is_auto(client);
        let life = self.hosts[host].life;
        let settled = self.is_meshed() || self.is_linked_with_owners(id, host, now);
        let msg = self.ledger.msg(id);
        msg.deliveries += 1;
        msg.held_by = Some(Holder { conn, subscription, since: now, settled });
        let first_at = *msg.first_at.get_or_insert(now);
        msg.first_by.get_or_insert((host, life));
        msg.unmarked += u32::from(!marked);
        if auto {
            msg.consumed.get_or_insert(now);
        }
        let (deliveries, unmarked) = (msg.deliveries, msg.unmarked);
        if unmarked > 1 {
            self.violate(
                Kind::UnmarkedDuplicate,
                format!("m{id} {dot:?} to c{client} at h{host}: not marked, the second time"),
            );
        } else if !marked && deliveries > 1 && known && first_at > recalled {
            self.violate(
                Kind::UnmarkedDuplicate,
                format!("m{id} {dot:?} to c{client} at h{host}: not marked, although delivered at {first_at} ms"),
            );
        } else if (!excused && deliveries > 1) || (!mark_excused && marked) {
            self.violate(
                Kind::NeedlessDuplicate,
                format!("m{id} {dot:?} to c{client} at h{host}: nothing had happened"),
            );
        }
    }

    /// A message whose consumption was confirmed must not be delivered by those who can know.
    fn check_resurrection(&mut self, host: usize, dot: Dot, id: MsgId) {
        let msg = self.ledger.msg(id);
        let (acked, dead_since) = (msg.acked, msg.dead_since);
        if self.knows_removed(host, dot) {
            self.violate(Kind::Resurrected, format!("m{id} {dot:?} at h{host}, which knows it is consumed"));
        }
        if dead_since.is_some_and(|since| since + UNDER_WAY_MS < self.now) {
            self.violate(Kind::Resurrected, format!("m{id} {dot:?} at h{host}, although it waited nowhere"));
        }
        let long_ago = acked.is_some_and(|(since, _)| since + SETTLED_MS < self.now);
        if long_ago && self.all_joined_since(SETTLED_MS) {
            let text = format!("m{id} {dot:?} at h{host}, long after the receipt for its acknowledgement");
            self.violate(Kind::Resurrected, text);
        }
    }

    /// Bodies came to a disk or went from it.
    pub(crate) fn note_moved(&mut self, host: usize, moved: &Moved) {
        let now = self.now;
        for &(dot, id) in &moved.came {
            self.ledger.name(now, dot, id);
            let msg = self.ledger.msg(id);
            msg.disks.insert(host);
            msg.ever.insert(host);
        }
        for &(dot, id) in &moved.gone {
            self.ledger.msg(id).disks.remove(&host);
            if self.ledger.msg(id).consumed.is_some() {
                continue;
            }
            // What others had proven to hold may have gone a moment ago, with their disks.
            let left = self.ledger.msg(id).disks.clone();
            let others = left.len();
            let wanted = self.copies_before_leaving(host);
            let (others, enough) = self.copies_inside(dot, wanted).unwrap_or((others, wanted));
            if self.knows_removed(host, dot) {
                self.violate(Kind::RemovedUnconsumed, format!("m{id} {dot:?} is taken for consumed at h{host}"));
            } else if others < enough
                && !self.overlooks_drops
                && !self.was_replaced_since(id, now.saturating_sub(UNDER_WAY_MS))
            {
                let text =
                    format!("m{id} {dot:?} was dropped at h{host}, {enough} are wanted, copies are left on {left:?}");
                self.violate(Kind::DroppedTooEarly, text);
            }
        }
    }

    /// Whether all hosts are up and joined with each other, and nothing happened for so long.
    pub(crate) fn all_joined_since(&self, since: u64) -> bool {
        self.disturbed_at + since <= self.now && self.all_joined()
    }

    pub(crate) fn all_joined(&self) -> bool {
        let count = self.hosts.len();
        let up = self.hosts.iter().all(super::host::Host::is_up);
        up && (0..count).all(|a| (a + 1..count).all(|b| self.net.joined(a, b)))
    }

    /// A look around: unanswered sends, messages taken for consumed, messages that are gone everywhere.
    pub(crate) fn look(&mut self) {
        self.look_at_topics();
        for client in 0..self.clients.len() {
            let late = |pending: &Pending| match pending {
                Pending::Publish { since, .. } => since + ANSWER_MS < self.now,
                _ => false,
            };
            if self.clients[client].conn.is_some() && self.clients[client].pending.values().any(late) {
                self.violate(Kind::NotWritable, format!("c{client} waits for a receipt since {ANSWER_MS} ms"));
            }
        }
        let now = self.now;
        let hosts = || 0..self.hosts.len();
        let (mut unearned, mut dead) = (None, Vec::new());
        for (id, msg) in self.ledger.msgs() {
            let Some(dot) = msg.dot else { continue };
            if msg.consumed.is_none() {
                let removed_at = hosts().find(|&host| self.knows_removed(host, dot));
                unearned = unearned.or(removed_at.filter(|_| !msg.disks.is_empty()).map(|host| (id, host)));
            } else if msg.acked.is_some()
                && msg.dead_since.is_none()
                && !hosts().any(|host| self.has_waiting(host, dot))
            {
                dead.push(id);
            }
        }
        if let Some((id, host)) = unearned {
            self.violate(Kind::RemovedUnconsumed, format!("m{id} is taken for consumed at h{host}"));
        }
        dead.into_iter().for_each(|id| self.ledger.msg(id).dead_since = Some(now));
    }

    /// A message that waits on fewer disks than it should, or a node that says so.
    pub(crate) fn lacking_copies(&mut self) -> Option<String> {
        // What lies with hosts that are down is no copy until they are back.
        let is_up = |host: &usize| self.hosts[*host].is_up();
        let wanted = (0..self.hosts.len()).filter(is_up).count().min(self.settings.copies as usize);
        let lacks = |msg: &Msg| {
            let kept = msg.persistent && msg.confirmed.is_some() && msg.consumed.is_none();
            // Nobody makes copies of what a part took that is not to be had any more.
            kept && !self.is_of_a_lost_part(msg)
                && (1..wanted).contains(&msg.disks.iter().copied().filter(is_up).count())
        };
        if let Some((id, msg)) = self.ledger.msgs().find(|(_, msg)| lacks(msg)) {
            return Some(format!("m{id} {:?} lies on {:?}, {wanted} are wanted", msg.dot, msg.disks));
        }
        let status = |host: &mut super::host::Host| Some(host.broker.as_mut()?.status().under_replicated);
        let short: u64 = self.hosts.iter_mut().filter_map(status).sum();
        // As long as nobody has forgotten it, a lost node is missed where all nodes are wanted.
        let all_wanted = self.settings.copies as usize > self.hosts.len() && !self.lost.is_empty();
        (short > 0 && !all_wanted).then(|| format!("nodes say that {short} are under-replicated"))
    }

    /// What keeps the healed cluster from being at rest in equal states with everything delivered; `None` when it is.
    pub(crate) fn unrest(&mut self) -> Option<(Kind, String)> {
        let is_gone = |id, msg: &Msg| is_unconsumed(msg) && msg.disks.is_empty() && !self.was_replaced_since(id, 0);
        if let Some((id, msg)) = self.ledger.msgs().find(|(id, msg)| is_gone(*id, msg)) {
            let text = format!("m{id} {:?} was confirmed, lay on {:?}, and lies nowhere", msg.dot, msg.ever);
            return Some((Kind::Lost, text));
        }
        if let Some((id, msg)) = self.ledger.msgs().find(|(_, msg)| is_missing(msg) && !self.is_of_a_lost_part(msg)) {
            return Some((
                Kind::Lost,
                format!("m{id} {:?} was confirmed, lies on {:?}, never came", msg.dot, msg.disks),
            ));
        }
        let diverged = |text: String| Some((Kind::Diverged, text));
        if !self.all_joined() {
            return diverged(format!("not all are linked; {}", self.split_states()));
        }
        let mut common = None;
        for host in 0..self.hosts.len() {
            let Some(engine) = self.engine(host) else { continue };
            if *common.get_or_insert(engine.registry().digest()) != engine.registry().digest() {
                return diverged(self.registry_difference(host));
            }
            if self.engine(0).is_some_and(|first| first.retired() != engine.retired()) {
                return diverged(format!("h{host} has another retired set than h0"));
            }
            if let Some((inbox, waiting)) = engine.inboxes().next() {
                let first = engine
                    .inbox_segments(inbox)
                    .next()
                    .and_then(|(segment, _)| Some(Dot { segment, slot: engine.next_waiting(inbox, segment, 1)? }));
                let known = first.and_then(|dot| self.ledger.by_dot.get(&dot).copied());
                let msg = known.and_then(|id| self.ledger.msgs().nth(id as usize));
                if msg.is_some_and(|(_, msg)| self.is_of_a_lost_part(msg)) {
                    return None;
                }
                let detail = known.map(|id| format!("m{id} = {:?}", self.ledger.msgs().nth(id as usize)));
                return diverged(format!("{waiting} messages wait in {inbox} at h{host}; first {detail:?}"));
            }
            for segment in engine.segments() {
                // Who is no holder keeps what it consumed until holders prove that they know of it. If all of them are
                // gone for good, it keeps that for ever: one of their disks may yet come back.
                let holds = |other: usize| {
                    let node = self.hosts[other].broker.as_ref()?.node();
                    node.candidates(segment).contains(&node.id()).then(|| node.engine().segment(segment))?
                };
                let alive = (0..self.hosts.len()).filter(|other| holds(*other).is_some()).count();
                if holds(host).is_none() && alive < self.settings.copies as usize {
                    continue;
                }
                if (0..self.hosts.len()).filter_map(holds).any(|state| Some(state) != engine.segment(segment)) {
                    let replica = |other: usize| {
                        let node = self.hosts[other].broker.as_ref()?.node();
                        let state = node.engine().segment(segment)?;
                        let role = node.candidates(segment).iter().position(|id| *id == node.id());
                        Some(format!("h{other} (candidate {role:?}): {state:?}"))
                    };
                    let replicas: Vec<_> = (0..self.hosts.len()).filter_map(replica).collect();
                    return diverged(format!("replicas of {segment:?} differ: {replicas:#?}"));
                }
            }
        }
        let whole = vec![0; self.hosts.len()];
        let hosts: Vec<_> = (0..self.hosts.len()).collect();
        let seats = self.wrong_seats(&hosts, &whole, None).map(|text| (Kind::Members, text));
        self.unrest_of_status().or_else(|| self.unbounded()).or(seats)
    }

    /// Whether a disk on which a message ever lay was replaced by an older or empty one, at that time or later.
    fn was_replaced_since(&self, id: MsgId, since: u64) -> bool {
        let Some((_, msg)) = self.ledger.msgs().nth(id as usize) else { return false };
        msg.ever.iter().any(|&host| self.hosts[host].replaced_at.is_some_and(|at| at >= since))
    }

    /// Whether who took a message was split off and lost its disk: nobody can have that part merged any more.
    fn is_of_a_lost_part(&self, msg: &Msg) -> bool {
        let nodes = || self.hosts.iter().filter_map(|host| host.broker.as_ref()).map(|broker| broker.node());
        let is_gone = |node: NodeId| self.lost.contains(&node) && nodes().any(|other| other.is_gone(node));
        msg.dot.is_some_and(|dot| is_gone(dot.segment.node))
    }

    fn registry_difference(&self, host: usize) -> String {
        let (Some(mine), Some(first)) = (self.engine(host), self.engine(0)) else { return String::new() };
        let keys = mine.registry().keys().chain(first.registry().keys());
        let differ = keys.filter(|key| mine.registry().get(key) != first.registry().get(key));
        let names: Vec<_> = differ.map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned()).collect();
        let [ours, theirs] = [mine, first].map(|engine| engine.registry().len());
        format!("h{host}'s registry ({ours} keys) differs from h0's ({theirs} keys) in {names:?}")
    }

    /// What the nodes themselves say must agree with that.
    fn unrest_of_status(&mut self) -> Option<(Kind, String)> {
        // Of a lost host's segment somebody may know a consumption, and nobody the holders: then one node alone keeps it.
        let all_alike = self.hosts.len() <= self.settings.copies as usize && self.lost.is_empty();
        let hosts = self.hosts.len();
        let mut digests = Vec::new();
        for (index, host) in self.hosts.iter_mut().enumerate() {
            let status = host.broker.as_mut()?.status();
            if self.lost.is_empty() && status.nodes.len() != hosts {
                return Some((
                    Kind::Diverged,
                    format!("h{index} knows {} nodes, there are {hosts}", status.nodes.len()),
                ));
            }
            if status.under_replicated > 0 {
                return Some((Kind::Diverged, format!("h{index}: {} under-replicated", status.under_replicated)));
            }
            if let Some(queue) = status.queues.iter().find(|queue| queue.depth > 0) {
                return Some((Kind::Diverged, format!("h{index}: {} has depth {}", queue.name, queue.depth)));
            }
            digests.push(status.digest);
        }
        let differ = all_alike && digests.windows(2).any(|pair| pair[0] != pair[1]);
        differ.then(|| {
            let kept = |host| self.engine(host).map(|engine| engine.segments().collect::<Vec<_>>());
            let kept: Vec<_> = (0..self.hosts.len()).filter_map(kept).collect();
            (Kind::Diverged, format!("the digests differ although all nodes are to hold everything: {kept:?}"))
        })
    }

    /// Finished segments must go: at rest, one may stay open per life that is not over. Those of a wiped node don't count: it
    /// never comes back in another life, so unless it is forgotten nobody knows that this one is over, and of the lengths
    /// that it stated while nobody heard it none is known.
    fn unbounded(&self) -> Option<(Kind, String)> {
        let counts = |segment: &SegmentId| !self.lost.contains(&segment.node);
        let open = |host: usize| self.engine(host).map_or(0, |engine| engine.segments().filter(counts).count());
        let host = (0..self.hosts.len()).find(|&host| open(host) > self.hosts.len())?;
        let engine = self.engine(host)?;
        let kept: Vec<_> = engine.segments().map(|segment| (segment, engine.segment(segment))).collect();
        Some((Kind::Diverged, format!("h{host} still keeps {} segments: {kept:?}", kept.len())))
    }
}

/// Confirmed, on a disk that never went away, and no client ever got it.
fn is_missing(msg: &super::ledger::Msg) -> bool {
    is_unconsumed(msg) && !msg.disks.is_empty()
}

/// Confirmed, and no client ever got it.
fn is_unconsumed(msg: &super::ledger::Msg) -> bool {
    msg.persistent && msg.confirmed.is_some() && !msg.arrived && msg.consumed.is_none()
}
