//! Hosts: one whole broker each, over a disk that outlives it, with clocks of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use rhizomq_engine::{Engine, Epoch, Key, NodeId, Now, Planted, store::Store as _};
use rhizomq_net::{
    CommitError, LinkId, Node, NodeConfig, Output as NetOutput, PeerHello, Proven,
    rim::{Keyring, NetworkSecret},
};
use rhizomq_stomp::{
    DuplicateWindow,
    broker::{Broker, BrokerConfig, Output},
};

use super::{
    agenda::Happening,
    disk::{Disk, DiskCopy},
    faults::Fault,
    ledger::Kind,
    world::World,
};

/// The wall clock of an honest host at virtual time zero.
const WALL_ZERO_MS: i64 = 1_700_000_000_000;

/// A process that was told to stop ends after so many milliseconds, in order or not.
const STOP_PATIENCE_MS: u64 = 10_000;

/// One machine: an address, a disk and, while the process lives, a broker.
pub(crate) struct Host {
    pub(crate) identity: NodeId,
    /// Lives so far; the present one's number while it lasts.
    pub(crate) life: u32,
    pub(crate) broker: Option<Broker>,
    pub(crate) disk: Disk,
    /// Old copies of the disk.
    pub(crate) copies: Vec<HostCopy>,
    /// The host whose ticket this one joined with.
    pub(crate) ticket: Option<usize>,
    /// The secret of its network, on its disk.
    pub(crate) secret: NetworkSecret,
    /// The secret of the part of its network that it is about to leave with, on its disk.
    pub(crate) next_secret: Option<NetworkSecret>,
    /// Those of networks that it left with a part, on its disk.
    pub(crate) former_secrets: Vec<NetworkSecret>,
    /// What the running node trusts.
    pub(crate) trusted: Keyring,
    /// Whom the node wants to be linked with.
    pub(crate) targets: BTreeSet<NodeId>,
    /// Ends of tunnels by the node's name for them.
    pub(crate) links: BTreeMap<LinkId, (u64, usize)>,
    /// When its links last changed for another reason than a peer's death.
    pub(crate) meshed_at: u64,
    /// How far the wall clock is off.
    pub(crate) wall_offset_ms: i64,
    mono_offset_ms: u64,
    /// It was told to stop, and is started again so many milliseconds after it has.
    pub(crate) stopping: Option<u64>,
    /// It is leaving for good, and whether it was ever told to.
    pub(crate) draining: bool,
    pub(crate) has_drained: bool,
    /// It leaves although that was to be taken back, and is started again when it has.
    pub(crate) comes_back: bool,
    /// It has done so: its process has ended, and nobody starts it again before all heals.
    pub(crate) gone: bool,
    /// Since when it stays, if it was leaving or had left before; the end of all times while it has not come back.
    pub(crate) stays_since: Option<u64>,
    /// When its disk was last replaced by an older or empty one.
    pub(crate) replaced_at: Option<u64>,
    /// The earliest wake-up on the agenda.
    wake_at: u64,
    epoch: Epoch,
}

/// An old copy of all that lies on a host's disk.
pub(crate) struct HostCopy {
    identity: NodeId,
    disk: DiskCopy,
    secret: NetworkSecret,
    next_secret: Option<NetworkSecret>,
    former_secrets: Vec<NetworkSecret>,
}

impl Host {
    pub(crate) fn new(identity: NodeId, secret: NetworkSecret, ticket: Option<usize>, wall_offset_ms: i64) -> Self {
        Self {
            trusted: Keyring::from(secret.clone()),
            secret,
            next_secret: None,
            former_secrets: Vec::new(),
            identity,
            life: 0,
            broker: None,
            disk: Disk::default(),
            copies: Vec::new(),
            ticket,
            targets: BTreeSet::new(),
            links: BTreeMap::new(),
            meshed_at: 0,
            wall_offset_ms,
            mono_offset_ms: 0,
            stopping: None,
            draining: false,
            has_drained: false,
            comes_back: false,
            gone: false,
            stays_since: None,
            replaced_at: None,
            wake_at: u64::MAX,
            epoch: Epoch(0),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.broker.is_some()
    }

    /// The host's two clocks at virtual time `now`.
    pub(crate) fn clocks(&self, now: u64) -> Now {
        let wall = WALL_ZERO_MS + now as i64 + self.wall_offset_ms;
        Now { mono_ms: now + self.mono_offset_ms, wall_ms: wall as u64 }
    }

    /// Lets the host's clocks go ahead, as if it had been asleep with all others.
    pub(crate) fn leap(&mut self, ms: u64) {
        self.mono_offset_ms += ms;
        self.wall_offset_ms += ms as i64;
        self.wake_at = u64::MAX;
    }

    /// What it says of itself to a node with this keyring.
    pub(crate) fn hello(&self, index: usize, now: u64, there: &Keyring) -> PeerHello {
        let wall_ms = self.clocks(now).wall_ms;
        PeerHello {
            node: self.identity,
            epoch: self.epoch,
            name: name_of(index),
            wall_ms,
            // Where nothing is proven there is no link.
            proven: there.proven_by(self.identity, &self.trusted).unwrap_or(Proven::Former),
        }
    }
}

fn name_of(index: usize) -> String {
    format!("h{index}")
}

impl World {
    pub(crate) fn new_identity(&mut self) -> NodeId {
        let (high, low) = (self.rng.bits(), self.rng.bits());
        NodeId((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
    }

    /// Starts the process of a host, in a fresh life on whatever its disk holds.
    pub(crate) fn boot(&mut self, index: usize) {
        if self.hosts[index].is_up() || self.hosts[index].gone {
            return;
        }
        self.disturb();
        self.ledger.revive();
        let (epoch, seed, zero) = (Epoch(self.rng.bits()), self.rng.bits(), self.rng.within(0, 1 << 40));
        let now = self.now;
        let planted = Planted::new(self.settings.mistake);
        // Whoever starts a node afresh gives it a ticket of today.
        let joins = self.hosts[index].ticket.map(|other| self.hosts[other].secret.clone());
        let host = &mut self.hosts[index];
        host.life += 1;
        host.stays_since = host.stays_since.map(|since| since.min(now));
        host.mono_offset_ms = zero;
        host.wake_at = u64::MAX;
        host.stopping = None;
        let clocks = host.clocks(now);
        let opened = Engine::open(host.disk.store.reader(), host.identity, epoch, clocks, planted);
        let (mut engine, report) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.ledger.violate(now, Kind::BadOpen, format!("h{index}: {error}")),
        };
        if !report.losses.is_empty() || !report.damaged_rows.is_empty() {
            let text = format!("h{index} lost on opening: {:?} {:?}", report.losses, report.damaged_rows);
            self.ledger.violate(now, Kind::BadOpen, text);
        }
        if engine.set_members(&Key::set("roster")).is_empty()
            && let Some(secret) = joins
        {
            host.secret = secret;
        }
        host.trusted = Keyring::from(host.secret.clone());
        host.epoch = engine.epoch();
        engine.set_segment_limits(self.settings.roll.0, self.settings.roll.1);
        let config = NodeConfig {
            name: name_of(index),
            site: self.settings.site_of(index),
            network: host.secret.clone(),
            next_network: host.next_secret.clone(),
            former_networks: host.former_secrets.clone(),
            addresses: vec![SocketAddr::from(([10, 0, 0, index as u8], 7000))],
            copies: self.settings.copies,
            confirm: self.settings.confirm,
            confirm_sites: self.settings.confirm_sites,
            seed,
            timing: self.settings.timing,
            swim: self.settings.swim.clone(),
            planted,
        };
        let node = Node::new(clocks, engine, config);
        // What is remembered is to be gone before the end of a run.
        let duplicates = DuplicateWindow { ms: 10_000, ..DuplicateWindow::default() };
        let config = BrokerConfig { duplicates, ..BrokerConfig::default() };
        host.broker = Some(Broker::new(node, config));
        let (life, identity) = (host.life, host.identity);
        self.trace.note(now, "boot", &[index as u64, epoch.0], format_args!("h{index} as {identity:?}, life {life}"));
        self.settle(index);
    }

    /// The process dies on the spot; `keep`: whether the write under way reaches the disk.
    pub(crate) fn crash(&mut self, index: usize, keep: bool) {
        if self.hosts[index].broker.take().is_none() {
            return;
        }
        self.disturb();
        self.excused = true;
        self.crashed_at = Some(self.now);
        self.trace.note(self.now, "crash", &[index as u64, keep.into()], format_args!("h{index}"));
        let moved = self.hosts[index].disk.crash(keep);
        self.note_moved(index, &moved);
        self.hosts[index].targets.clear();
        self.sever_all(index);
        self.hang_up_all(index);
    }

    /// The process is told to stop.
    pub(crate) fn tell_to_stop(&mut self, index: usize, back: u64) {
        let clocks = self.hosts[index].clocks(self.now);
        let Some(broker) = &mut self.hosts[index].broker else { return };
        self.trace.note(self.now, "stop", &[index as u64], format_args!("h{index}"));
        broker.shutdown(clocks);
        let life = self.hosts[index].life;
        self.hosts[index].stopping.get_or_insert(back);
        self.excused = true;
        // As the program does.
        self.agenda.at(self.now + STOP_PATIENCE_MS, Happening::Fault(Fault::CutShort { host: index, life }));
        self.settle(index);
    }

    /// The process ends, having been told to.
    pub(crate) fn stopped(&mut self, index: usize, keep: bool) {
        let back = self.hosts[index].stopping.unwrap_or_default();
        self.crash(index, keep);
        self.agenda.at(self.now + back, Happening::Fault(Fault::Boot { host: index }));
    }

    /// The data directory is lost: the host comes back as somebody else, who knows nothing.
    pub(crate) fn wipe(&mut self, index: usize) {
        self.crash(index, false);
        self.trace.note(self.now, "wipe", &[index as u64], format_args!("h{index}"));
        let identity = self.new_identity();
        let is_fellow = |&other: &usize| other != index && self.hosts[other].secret == self.hosts[index].secret;
        let fellow = (0..self.hosts.len()).find(is_fellow);
        let count = self.hosts.len();
        let host = &mut self.hosts[index];
        let lost = std::mem::replace(&mut host.identity, identity);
        host.disk = Disk::default();
        host.copies.clear();
        host.ticket = host.ticket.or(fellow).or((count > 1).then_some((index + 1) % count));
        (host.next_secret, host.former_secrets) = (None, Vec::new());
        self.lost.push(lost);
        self.replaced_at = Some(self.now);
        self.hosts[index].replaced_at = Some(self.now);
        self.ledger.replace_disk(index, std::iter::empty());
    }

    /// Takes a copy of the disk as it is, synced or not: what a file-system snapshot would hold.
    pub(crate) fn copy_disk(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.copies.push(HostCopy {
            identity: host.identity,
            disk: host.disk.copy(),
            secret: host.secret.clone(),
            next_secret: host.next_secret.clone(),
            former_secrets: host.former_secrets.clone(),
        });
        self.trace.note(self.now, "copy", &[index as u64], format_args!("h{index}"));
    }

    /// The disk is replaced by an old copy of itself, if there is one.
    pub(crate) fn restore(&mut self, index: usize, copy: usize) {
        if self.hosts[index].copies.len() <= copy {
            return;
        }
        self.crash(index, false);
        self.trace.note(self.now, "restore", &[index as u64, copy as u64], format_args!("h{index}, copy {copy}"));
        let host = &mut self.hosts[index];
        let old = &host.copies[copy];
        host.identity = old.identity;
        host.disk.restore(&old.disk);
        host.secret.clone_from(&old.secret);
        host.next_secret.clone_from(&old.next_secret);
        host.former_secrets.clone_from(&old.former_secrets);
        let bodies: Vec<_> = host.disk.bodies().collect();
        self.replaced_at = Some(self.now);
        self.hosts[index].replaced_at = Some(self.now);
        self.ledger.replace_disk(index, bodies.into_iter());
    }

    /// The deadline that a host's broker asked for.
    pub(crate) fn wake(&mut self, index: usize, life: u32) {
        let host = &mut self.hosts[index];
        if host.life != life || self.now < host.wake_at {
            return;
        }
        host.wake_at = u64::MAX;
        let clocks = host.clocks(self.now);
        let Some(broker) = &mut host.broker else { return };
        if broker.deadline() <= clocks.mono_ms {
            broker.handle_timeout(clocks);
        }
        self.settle(index);
    }

    /// The write under way on a host's disk ends.
    pub(crate) fn synced(&mut self, index: usize, life: u32, seq: u64) {
        if self.hosts[index].life != life || !self.hosts[index].is_up() {
            return;
        }
        let result = self.hosts[index].disk.sync(seq);
        self.trace.note(
            self.now,
            "synced",
            &[index as u64, seq, result.is_ok().into()],
            format_args!("h{index} {seq}"),
        );
        let clocks = self.hosts[index].clocks(self.now);
        let outcome = result.as_ref().map(drop).map_err(|error| CommitError::Refused(error.clone()));
        if let Some(broker) = &mut self.hosts[index].broker {
            broker.handle_committed(clocks, seq, outcome);
        }
        if let Ok(moved) = &result {
            self.note_moved(index, moved);
        }
        self.settle(index);
    }

    /// Does everything a broker wants done, and plans its next wake-up.
    pub(crate) fn settle(&mut self, index: usize) {
        while let Some(output) = self.hosts[index].broker.as_mut().and_then(Broker::poll_output) {
            match output {
                Output::Net(output) => self.act(index, output),
                Output::ClientBytes { conn, bytes } => self.write_to_client(conn, &bytes),
                Output::ClientClose { conn } => self.hang_up(conn),
                Output::ClientPause { conn } => self.pause(conn, true),
                Output::ClientResume { conn } => self.pause(conn, false),
                Output::Check { conn, check } => self.check_login(index, conn, &check),
                Output::Changed { .. } => {}
                Output::Stopped if self.hosts[index].stopping.is_none() => self.drained(index),
                Output::Stopped => {
                    if self.hosts[index].disk.is_writing() {
                        self.violate(Kind::BadStop, format!("h{index} says it is done while it writes"));
                    }
                    self.stopped(index, false);
                }
                other => panic!("the simulator does not know {other:?}"),
            }
        }
        let now = self.now;
        let host = &mut self.hosts[index];
        let Some(broker) = &host.broker else { return };
        let deadline = broker.deadline();
        if deadline == u64::MAX {
            return;
        }
        // At least a millisecond away: a deadline in the past must not stop the virtual clock.
        let wake_at = deadline.saturating_sub(host.mono_offset_ms).max(now + 1);
        if wake_at < host.wake_at {
            host.wake_at = wake_at;
            self.agenda.at(wake_at, Happening::Wake { host: index, life: host.life });
        }
    }

    fn act(&mut self, index: usize, output: NetOutput) {
        match output {
            NetOutput::Send { link, bytes } => self.send(index, link, bytes),
            NetOutput::Datagram { link, bytes } => self.send_datagram(index, link, bytes),
            // That is no fault: a node that was split off tries to come back.
            NetOutput::Close { link, reason }
                if ["was split", "is being split"].iter().any(|why| reason.contains(why)) =>
            {
                self.close_link(index, link);
            }
            NetOutput::Close { link, reason } => {
                self.ledger.violate(self.now, Kind::Malformed, format!("h{index} closes a link: {reason}"));
                self.close_link(index, link);
            }
            NetOutput::Commit { seq, batch } => {
                let usual = self.rng.within(0, self.settings.disk_ms);
                let stall = if self.rng.chance(self.settings.disk_stalls) { 300 } else { 0 };
                let host = &mut self.hosts[index];
                host.disk.stage(seq, batch);
                let due = self.now + usual.max(stall).max(host.disk.slowness_ms);
                self.agenda.at(due, Happening::Synced { host: index, life: host.life, seq });
            }
            NetOutput::Dial(targets) => {
                self.hosts[index].targets = targets.into_iter().map(|(node, _)| node).collect();
            }
            NetOutput::Trust(keyring) => self.hosts[index].trusted = keyring,
            NetOutput::Keep(secret) => self.hosts[index].next_secret = secret,
            NetOutput::Former(secrets) => self.hosts[index].former_secrets = secrets,
            NetOutput::Rekey(secret) => {
                self.hosts[index].next_secret = None;
                self.hosts[index].secret = secret;
            }
            other => panic!("the simulator does not know {other:?}"),
        }
    }
}
