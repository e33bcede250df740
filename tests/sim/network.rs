//! The virtual network: at most one tunnel between two hosts at a time, messages in order, datagrams as luck has it.
//!
//! It does what QUIC would: a message that meets a cut waits, and goes on when the cut heals; a tunnel that got nothing
//! through for two seconds, in either direction, falls at both ends, each in its own time, with all that waited.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rhizomq_engine::NodeId;
use rhizomq_net::LinkId;

use super::{agenda::Happening, world::World};

/// After so many milliseconds without an answer an end gives its tunnel up.
const IDLE_MS: u64 = 2_000;

/// A connection between two hosts, both of its ends and what travels in it.
pub(crate) struct Tunnel {
    pair: [usize; 2],
    ends: [End; 2],
    /// Messages to each end, with the time they are due.
    queues: [VecDeque<(u64, Bytes)>; 2],
}

struct End {
    state: EndState,
    link: LinkId,
    life: u32,
    peer: NodeId,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EndState {
    /// The handshake is not done.
    Opening,
    Up,
    Down,
}

#[derive(Default)]
pub(crate) struct Network {
    tunnels: BTreeMap<u64, Tunnel>,
    made: u64,
    /// Messages that arrived, of all tunnels.
    pub(crate) arrived: u64,
    /// Cut directions, how often each is cut now, and since when.
    cuts: BTreeMap<(usize, usize), (u32, u64)>,
    /// When anything last happened between two hosts: a cut or its end, a link that came up or went down at either end.
    changed: BTreeMap<(usize, usize), u64>,
}

impl Network {
    /// Whether nothing gets from one host to the other.
    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.contains_key(&(from, to))
    }

    fn note_change(&mut self, a: usize, b: usize, now: u64) {
        self.changed.insert((a.min(b), a.max(b)), now);
    }

    /// Whether the two have been linked since then at the latest, and nothing happened between them.
    pub(crate) fn joined_since(&self, a: usize, b: usize, since: u64) -> bool {
        self.changed.get(&(a.min(b), a.max(b))).is_none_or(|at| *at < since) && self.joined(a, b)
    }

    fn cut_since(&self, a: usize, b: usize) -> Option<u64> {
        let since = [(a, b), (b, a)].into_iter().filter_map(|way| self.cuts.get(&way).map(|cut| cut.1));
        since.min()
    }

    fn between(&self, a: usize, b: usize) -> Vec<u64> {
        self.tunnels.iter().filter(|(_, tunnel)| tunnel.joins(a, b)).map(|(id, _)| *id).collect()
    }

    /// Whether both ends of some tunnel between the two are up.
    pub(crate) fn joined(&self, a: usize, b: usize) -> bool {
        let up = |tunnel: &&Tunnel| tunnel.ends.iter().all(|end| end.state == EndState::Up);
        self.tunnels.values().filter(|tunnel| tunnel.joins(a, b)).any(|tunnel| up(&tunnel))
    }
}

impl Tunnel {
    fn joins(&self, a: usize, b: usize) -> bool {
        self.pair == [a, b] || self.pair == [b, a]
    }
}

impl World {
    /// Two hosts without a tunnel try to get one, if either wants the other; then again, for ever.
    pub(crate) fn dial(&mut self, pair: (usize, usize)) {
        let again = self.now + self.rng.within(100, 300);
        self.agenda.at(again, Happening::Dial { pair });
        let (a, b) = pair;
        if !self.hosts[a].is_up() || !self.hosts[b].is_up() || self.net.cut_since(a, b).is_some() {
            return;
        }
        let wants = |from: usize, to: usize| {
            let wanted = self.hosts[from].targets.contains(&self.hosts[to].identity);
            (wanted || self.hosts[from].ticket == Some(to)) && !self.has_end(from, self.hosts[to].identity)
        };
        if !wants(a, b) && !wants(b, a) {
            return;
        }
        let lets_in = |a: usize, b: usize| {
            let (here, there) = (&self.hosts[a], &self.hosts[b]);
            here.trusted.proven_by(there.identity, &there.trusted).is_some()
        };
        if !lets_in(a, b) || !lets_in(b, a) {
            return; // networks of their own
        }
        self.net.made += 1;
        let tunnel = self.net.made;
        let end = |host: usize, other: usize, link| End {
            state: EndState::Opening,
            link: LinkId(link),
            life: self.hosts[host].life,
            peer: self.hosts[other].identity,
        };
        let ends = [end(a, b, tunnel * 2), end(b, a, tunnel * 2 + 1)];
        self.net.tunnels.insert(tunnel, Tunnel { pair: [a, b], ends, queues: Default::default() });
        for end in 0..2 {
            let due = self.now + self.rng.within(2, 15);
            self.agenda.at(due, Happening::LinkReady { tunnel, end });
        }
    }

    fn has_end(&self, host: usize, peer: NodeId) -> bool {
        let life = self.hosts[host].life;
        let ours = |tunnel: &Tunnel, end: usize| {
            let there = &tunnel.ends[end];
            tunnel.pair[end] == host && there.life == life && there.peer == peer && there.state != EndState::Down
        };
        self.net.tunnels.values().any(|tunnel| ours(tunnel, 0) || ours(tunnel, 1))
    }

    /// The handshake is done at one end.
    pub(crate) fn link_ready(&mut self, id: u64, end: usize) {
        let Some(tunnel) = self.net.tunnels.get(&id) else { return };
        let (host, other) = (tunnel.pair[end], tunnel.pair[1 - end]);
        let (life, link, peer) = (tunnel.ends[end].life, tunnel.ends[end].link, tunnel.ends[end].peer);
        let there = &self.hosts[other];
        let alive = self.hosts[host].is_up() && self.hosts[host].life == life && there.is_up();
        if !alive || there.life != tunnel.ends[1 - end].life || self.net.cut_since(host, other).is_some() {
            self.fall(id, end);
            return;
        }
        if tunnel.ends[end].state != EndState::Opening {
            return;
        }
        let hello = there.hello(other, self.now, &self.hosts[host].trusted);
        let olds: Vec<_> = self.hosts[host].links.iter().map(|(link, place)| (*link, *place)).collect();
        for (_, (old, old_end)) in olds {
            if self.net.tunnels.get(&old).is_some_and(|tunnel| tunnel.ends[old_end].peer == peer) {
                self.fall(old, old_end);
            }
        }
        self.disturb();
        self.net.note_change(host, other, self.now);
        self.trace.note(self.now, "link up", &[id, end as u64], format_args!("h{host} to h{other}, tunnel {id}"));
        if let Some(tunnel) = self.net.tunnels.get_mut(&id) {
            tunnel.ends[end].state = EndState::Up;
        }
        let host_state = &mut self.hosts[host];
        host_state.meshed_at = self.now;
        host_state.links.insert(link, (id, end));
        let clocks = host_state.clocks(self.now);
        if let Some(broker) = &mut host_state.broker {
            broker.handle_link_up(clocks, link, hello);
        }
        self.settle(host);
        self.agenda.at(self.now, Happening::Arrive { tunnel: id, end });
    }

    pub(crate) fn send(&mut self, host: usize, link: LinkId, bytes: Bytes) {
        let Some(&(id, end)) = self.hosts[host].links.get(&link) else { return };
        let delay = self.delay();
        let Some(tunnel) = self.net.tunnels.get_mut(&id) else { return };
        let queue = &mut tunnel.queues[1 - end];
        let due = queue.back().map_or(0, |last| last.0).max(self.now + delay);
        queue.push_back((due, bytes));
        self.agenda.at(due, Happening::Arrive { tunnel: id, end: 1 - end });
    }

    pub(crate) fn send_datagram(&mut self, host: usize, link: LinkId, bytes: Bytes) {
        let Some(&(id, end)) = self.hosts[host].links.get(&link) else { return };
        let copies = match () {
            () if self.rng.chance(self.settings.loss) => 0,
            () if self.rng.chance(self.settings.loss) => 2,
            () => 1,
        };
        for _ in 0..copies {
            let due = self.now + self.delay() + if self.rng.chance(self.settings.loss) { 100 } else { 0 };
            self.agenda.at(due, Happening::Datagram { tunnel: id, end: 1 - end, bytes: bytes.clone() });
        }
    }

    fn delay(&mut self) -> u64 {
        self.rng.within(1, self.settings.net_ms)
    }

    /// Hands over what is due at one end.
    pub(crate) fn arrive(&mut self, id: u64, end: usize) {
        loop {
            let Some(tunnel) = self.net.tunnels.get_mut(&id) else { return };
            let (host, other) = (tunnel.pair[end], tunnel.pair[1 - end]);
            match tunnel.ends[end].state {
                EndState::Opening => return, // comes again when the end is up
                EndState::Down => return tunnel.queues[end].clear(),
                EndState::Up => {}
            }
            let due = tunnel.queues[end].front().is_some_and(|(due, _)| *due <= self.now);
            if !due || self.net.cuts.contains_key(&(other, host)) {
                return; // what a cut holds up comes again when the cut heals
            }
            let link = tunnel.ends[end].link;
            let Some((_, bytes)) = tunnel.queues[end].pop_front() else { return };
            self.net.arrived += 1;
            self.trace.note(
                self.now,
                "message",
                &[id, end as u64, bytes.len() as u64],
                format_args!("h{other} to h{host}: {} bytes, kind {}", bytes.len(), bytes.first().unwrap_or(&0)),
            );
            let clocks = self.hosts[host].clocks(self.now);
            if let Some(broker) = &mut self.hosts[host].broker {
                broker.handle_message(clocks, link, bytes);
            }
            self.settle(host);
        }
    }

    pub(crate) fn datagram(&mut self, id: u64, end: usize, bytes: Bytes) {
        let Some(tunnel) = self.net.tunnels.get(&id) else { return };
        let (host, other, link) = (tunnel.pair[end], tunnel.pair[1 - end], tunnel.ends[end].link);
        if tunnel.ends[end].state != EndState::Up || self.net.is_cut(other, host) {
            return;
        }
        let clocks = self.hosts[host].clocks(self.now);
        if let Some(broker) = &mut self.hosts[host].broker {
            broker.handle_datagram(clocks, link, bytes);
        }
        self.settle(host);
    }

    /// One end notices that nothing comes from the other, if that is still so.
    pub(crate) fn expire(&mut self, id: u64, end: usize) {
        let Some(tunnel) = self.net.tunnels.get(&id) else { return };
        let [a, b] = tunnel.pair;
        let silent = self.net.cut_since(a, b).is_some_and(|since| since + IDLE_MS <= self.now);
        if silent || tunnel.ends[1 - end].state == EndState::Down {
            self.fall(id, end);
        }
    }

    /// One end of a tunnel is gone; the other will notice.
    pub(crate) fn fall(&mut self, id: u64, end: usize) {
        let Some(tunnel) = self.net.tunnels.get_mut(&id) else { return };
        let (host, link, state) = (tunnel.pair[end], tunnel.ends[end].link, tunnel.ends[end].state);
        let (other, other_life) = (tunnel.pair[1 - end], tunnel.ends[1 - end].life);
        if state == EndState::Down {
            return;
        }
        tunnel.ends[end].state = EndState::Down;
        tunnel.queues[end].clear();
        if tunnel.ends[1 - end].state == EndState::Down {
            self.net.tunnels.remove(&id);
        } else {
            // What is in the network already may still get there.
            let kept = self.rng.below(tunnel.queues[1 - end].len() + 1);
            tunnel.queues[1 - end].truncate(kept);
            let noticed =
                self.now + if self.rng.chance(0.5) { self.rng.within(1, 50) } else { self.rng.within(1, 2_500) };
            self.agenda.at(noticed, Happening::Fall { tunnel: id, end: 1 - end });
        }
        let bereaved = !self.hosts[other].is_up() || self.hosts[other].life != other_life;
        if !bereaved {
            self.hosts[host].meshed_at = self.now;
        }
        self.disturb();
        self.net.note_change(host, other, self.now);
        self.trace.note(self.now, "link down", &[id, end as u64], format_args!("h{host}, tunnel {id}"));
        let clocks = self.hosts[host].clocks(self.now);
        self.hosts[host].links.remove(&link);
        if let Some(broker) = self.hosts[host].broker.as_mut().filter(|_| state == EndState::Up) {
            broker.handle_link_down(clocks, link);
        }
        self.settle(host);
    }

    pub(crate) fn close_link(&mut self, host: usize, link: LinkId) {
        if let Some(&(id, end)) = self.hosts[host].links.get(&link) {
            self.fall(id, end);
        }
    }

    /// The process at a host died.
    pub(crate) fn sever_all(&mut self, host: usize) {
        self.hosts[host].links.clear();
        let of = |(id, tunnel): (&u64, &Tunnel)| (0..2).find(|&end| tunnel.pair[end] == host).map(|end| (*id, end));
        let ends: Vec<_> = self.net.tunnels.iter().filter_map(of).collect();
        ends.into_iter().for_each(|(id, end)| self.fall(id, end));
    }

    /// Breaks whatever tunnel there is between two hosts.
    pub(crate) fn reset(&mut self, a: usize, b: usize) {
        self.excused = true;
        for id in self.net.between(a, b) {
            let end = self.rng.below(2);
            self.fall(id, end);
        }
    }

    /// Cuts one direction, once more.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.disturb();
        self.excused = true;
        let cut = self.net.cuts.entry((from, to)).or_insert((0, self.now));
        cut.0 += 1;
        self.net.note_change(from, to, self.now);
        self.trace.note(self.now, "cut", &[from as u64, to as u64], format_args!("h{from} to h{to}"));
        for tunnel in self.net.between(from, to) {
            for end in 0..2 {
                let due = self.now + IDLE_MS + self.rng.within(0, 1_500);
                self.agenda.at(due, Happening::Expire { tunnel, end });
            }
        }
    }

    /// Takes one cut of a direction back; `all` of them when the world heals.
    pub(crate) fn uncut(&mut self, from: usize, to: usize, all: bool) {
        let Some(cut) = self.net.cuts.get_mut(&(from, to)) else { return };
        cut.0 -= 1;
        if cut.0 > 0 && !all {
            return;
        }
        self.disturb();
        self.net.cuts.remove(&(from, to));
        self.net.note_change(from, to, self.now);
        self.trace.note(self.now, "uncut", &[from as u64, to as u64], format_args!("h{from} to h{to}"));
        for tunnel in self.net.between(from, to) {
            for end in 0..2 {
                let due = self.now + self.delay();
                self.agenda.at(due, Happening::Arrive { tunnel, end });
            }
        }
    }

    /// Takes all cuts back.
    pub(crate) fn uncut_all(&mut self) {
        let cuts: Vec<_> = self.net.cuts.keys().copied().collect();
        cuts.into_iter().for_each(|(from, to)| self.uncut(from, to, true));
    }
}
