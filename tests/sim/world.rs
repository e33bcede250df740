//! The world of one run: hosts, network, clients, and the loop that lets one thing happen after the other.

use std::collections::BTreeMap;

use rhizomq_engine::{Mistake, NodeId};
use rhizomq_net::{ForgetError, SwimConfig, Timing, rim::NetworkSecret};
use rhizomq_stomp::broker::ConnId;

use super::{
    agenda::{Agenda, Happening},
    clients::{Client, DURABLE, Producer, Role},
    consumers::Consumer,
    faults::FaultMix,
    host::Host,
    lanes,
    ledger::{Kind, Ledger},
    members::Seats,
    network::Network,
    parting::{Operators, Parting},
    rng::Rng,
    sessions::Connection,
    topics::{Listener, Publisher, Topics},
    trace::Trace,
};

/// Virtual milliseconds between two looks of the oracle.
const LOOK_MS: u64 = 1_000;

/// Messages in a second that each direction of a link may carry at rest: summaries, and what people may ask for.
const RESTFUL_MESSAGES: u64 = 8;

/// The healed cluster comes to rest within so many virtual milliseconds.
const REST_MS: u64 = 120_000;

/// What kind of world, and what happens in it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) hosts: usize,
    /// Networks of their own, of which the hosts are in turn.
    pub(crate) networks: usize,
    pub(crate) copies: u32,
    pub(crate) confirm: u32,
    pub(crate) confirm_sites: u32,
    /// Hosts stand on so many sites, in turn.
    pub(crate) sites: usize,
    pub(crate) queues: usize,
    /// Durable subscriptions, see [`DURABLE`].
    pub(crate) durables: usize,
    pub(crate) producers: Vec<(Producer, Option<usize>)>,
    pub(crate) consumers: Vec<(Consumer, Option<usize>)>,
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) listeners: Vec<Listener>,
    /// Milliseconds of faults and work, before all is healed.
    pub(crate) busy_ms: u64,
    /// A sync takes up to so many milliseconds, or 300 in this share of cases.
    pub(crate) disk_ms: u64,
    pub(crate) disk_stalls: f64,
    /// A message takes up to so many milliseconds.
    pub(crate) net_ms: u64,
    /// The share of datagrams lost, of those doubled, and of those late.
    pub(crate) loss: f64,
    pub(crate) timing: Timing,
    pub(crate) swim: SwimConfig,
    /// When segments are closed: after so many bytes, or at that age in milliseconds.
    pub(crate) roll: (u64, u64),
    pub(crate) faults: FaultMix,
    /// Whether messages have priorities and delays, and subscriptions selectors.
    pub(crate) lanes: bool,
    pub(crate) mistake: Option<Mistake>,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) agenda: Agenda,
    pub(crate) trace: Trace,
    pub(crate) settings: Settings,
    pub(crate) hosts: Vec<Host>,
    pub(crate) net: Network,
    pub(crate) conns: BTreeMap<ConnId, Connection>,
    pub(crate) conns_made: u64,
    pub(crate) clients: Vec<Client>,
    pub(crate) ledger: Ledger,
    pub(crate) topics: Topics,
    /// When something last happened to hosts or links.
    pub(crate) disturbed_at: u64,
    /// Whether anything happened that excuses a second delivery.
    pub(crate) excused: bool,
    /// Whether any wall clock was set while it ran.
    pub(crate) clocks_jumped: bool,
    /// When a process last died, and with it what it remembered.
    pub(crate) crashed_at: Option<u64>,
    /// Whether any consumer left: what was on its way to it goes back to its owner, who can't know how far it came, and
    /// marks it.
    pub(crate) marks_excused: bool,
    /// When a disk was last replaced by an older or empty one.
    pub(crate) replaced_at: Option<u64>,
    /// When a disk last became slow or full, or was no longer.
    pub(crate) hindered_at: u64,
    /// Who is seated, and how often that changed.
    pub(crate) seats: Seats,
    /// How the cluster is split, if it is.
    pub(crate) parting: Option<Parting>,
    /// Who splits it at random.
    pub(crate) operators: Operators,
    /// The story was told to its end: what it is about has happened.
    pub(crate) is_told: bool,
    /// When its parts last merged again.
    pub(crate) mended_at: Option<u64>,
    /// Identities that hosts lost with their disks.
    pub(crate) lost: Vec<NodeId>,
    /// Nobody looks at copies that go: what comes of it is to be seen at the end.
    pub(crate) overlooks_drops: bool,
    /// What clients were told that only try to log in.
    pub(crate) probes: BTreeMap<ConnId, Vec<u8>>,
}

impl World {
    /// A world in which nothing has happened yet but that all hosts are being started.
    pub(crate) fn new(settings: Settings, mut rng: Rng, printed: bool) -> Self {
        let faults = settings.faults.plan(&mut rng, settings.hosts, settings.busy_ms);
        let mut world = Self {
            now: 0,
            rng,
            agenda: Agenda::default(),
            trace: Trace::new(printed),
            settings,
            hosts: Vec::new(),
            net: Network::default(),
            conns: BTreeMap::new(),
            conns_made: 0,
            clients: Vec::new(),
            ledger: Ledger::default(),
            topics: Topics::default(),
            disturbed_at: 0,
            excused: false,
            clocks_jumped: false,
            crashed_at: None,
            marks_excused: false,
            replaced_at: None,
            hindered_at: 0,
            seats: Seats::default(),
            parting: None,
            operators: Operators::default(),
            is_told: false,
            mended_at: None,
            lost: Vec::new(),
            overlooks_drops: false,
            probes: BTreeMap::new(),
        };
        for host in 0..world.settings.hosts {
            // The first of each makes it.
            let network = host % world.settings.networks;
            world.add_host_of(network as u8, (host != network).then_some(network));
        }
        faults.into_iter().for_each(|(time, fault)| world.agenda.at(time, Happening::Fault(fault)));
        for (producer, home) in world.settings.producers.clone() {
            world.add_client(Role::Producer(producer), home);
        }
        for (consumer, home) in world.settings.consumers.clone() {
            world.add_client(Role::Consumer(consumer), home);
        }
        for publisher in world.settings.publishers.clone() {
            world.add_client(Role::Publisher(publisher), None);
        }
        for listener in world.settings.listeners.clone() {
            world.add_client(Role::Listener(listener), None);
        }
        world.agenda.at(LOOK_MS, Happening::Look);
        world
    }

    /// A new host, which joins with the first one's ticket.
    pub(crate) fn add_host(&mut self) -> usize {
        let ticket = (!self.hosts.is_empty()).then_some(0);
        self.add_host_of(0, ticket)
    }

    /// A new host of a network, by number, which joins with the ticket of another host of it.
    pub(crate) fn add_host_of(&mut self, network: u8, ticket: Option<usize>) -> usize {
        self.add_host_with(NetworkSecret::from_bytes([network; 32]), ticket)
    }

    /// A host of the network with that secret.
    pub(crate) fn add_host_with(&mut self, secret: NetworkSecret, ticket: Option<usize>) -> usize {
        let index = self.hosts.len();
        let identity = self.new_identity();
        let offset = self.rng.within(0, 7_200_000) as i64 - 3_600_000;
        // What is delayed is late by as much as clocks differ: there they must be set somehow.
        let offset = if self.settings.lanes { offset / 36_000 } else { offset };
        self.hosts.push(Host::new(identity, secret, ticket, offset));
        (0..index).for_each(|other| self.agenda.at(self.now + 1, Happening::Dial { pair: (other, index) }));
        self.boot(index);
        index
    }

    /// Something happened to hosts or links.
    pub(crate) fn disturb(&mut self) {
        self.disturbed_at = self.now;
    }

    /// Lets time pass, until then or until a promise is broken.
    pub(crate) fn run_until(&mut self, time: u64) {
        while self.ledger.violation.is_none()
            && let Some((due, happening)) = self.agenda.next(time)
        {
            self.now = self.now.max(due);
            self.happen(happening);
        }
        self.now = self.now.max(time);
    }

    /// Lets so many milliseconds pass.
    pub(crate) fn run_for(&mut self, ms: u64) {
        self.run_until(self.now + ms);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { host, life } => self.wake(host, life),
            Happening::Synced { host, life, seq } => self.synced(host, life, seq),
            Happening::Dial { pair } => self.dial(pair),
            Happening::LinkReady { tunnel, end } => self.link_ready(tunnel, end),
            Happening::Arrive { tunnel, end } => self.arrive(tunnel, end),
            Happening::Datagram { tunnel, end, bytes } => self.datagram(tunnel, end, bytes),
            Happening::Expire { tunnel, end } => self.expire(tunnel, end),
            Happening::Fall { tunnel, end } => self.fall(tunnel, end),
            Happening::ToBroker { conn } => self.bytes_arrive(conn),
            Happening::ToClient { conn, frames } => self.frames_arrive(conn, frames),
            Happening::Flushed { conn, total } => self.flushed(conn, total),
            Happening::Hangup { conn } => self.hung_up(conn),
            Happening::Client { client, token } => self.act_client(client, token),
            Happening::Fault(fault) => self.strike(fault),
            Happening::Look => {
                self.look();
                self.look_at_seats();
                self.agenda.at(self.now + LOOK_MS, Happening::Look);
            }
        }
    }

    /// The second half of every run: no more faults, everything heals, patient consumers come to every queue, and the
    /// cluster must come to rest with every promise kept.
    pub(crate) fn heal_and_rest(&mut self) {
        self.heal();
        if self.rng.chance(0.3) {
            // Whose disk was replaced by an older one hears from the others only now that it drains.
            self.run_for(5_000);
            self.cancel_drains();
            self.await_copies();
        }
        let durables = DURABLE..DURABLE + self.settings.durables;
        let calm = Consumer::patient((0..self.settings.queues).chain(durables).collect());
        // With selectors that together let all through, no other consumer is needed.
        let selectors = if self.settings.lanes && self.rng.chance(0.5) { &lanes::SELECTORS[..] } else { &[] };
        for host in 0..self.hosts.len() {
            let selective = selectors.iter().map(|selector| Consumer { selectors: vec![*selector], ..calm.clone() });
            let rest = if selectors.is_empty() { vec![calm.clone()] } else { selective.collect() };
            for consumer in rest {
                self.add_client(Role::Consumer(consumer), Some(host));
            }
        }
        let deadline = self.now + REST_MS;
        let mut restful = 0;
        let (mut unrest, mut chatter) = (None, 0);
        let forgets = self.rng.chance(0.5);
        while self.now < deadline && self.ledger.violation.is_none() && restful < 3 {
            let before = self.net.arrived;
            self.run_for(LOOK_MS);
            self.cancel_drains();
            chatter = self.net.arrived - before;
            self.merge_all();
            self.end_splits();
            if forgets && self.all_joined() && self.is_settled_as_one() {
                self.forget_lost();
            }
            unrest = self.unrest();
            restful = if unrest.is_none() { restful + 1 } else { 0 };
        }
        if let Some((kind, text)) = unrest.filter(|_| self.ledger.violation.is_none()) {
            self.violate(kind, format!("{} s after all healed: {text}", REST_MS / 1000));
        }
        let links = (self.hosts.len() * (self.hosts.len() - 1)) as u64;
        if chatter > links * RESTFUL_MESSAGES {
            self.violate(Kind::Diverged, format!("{chatter} messages in the last second, and nothing to tell"));
        }
        if !self.excused && self.ledger.violation.is_none() {
            self.check_no_duplicates_counted();
        }
    }

    /// Before anybody comes to consume what is left, there must be as many copies of it as there can be.
    pub(crate) fn await_copies(&mut self) {
        let deadline = self.now + REST_MS;
        let mut lacking = self.lacking_copies();
        while lacking.is_some() && self.now < deadline && self.ledger.violation.is_none() {
            self.run_for(LOOK_MS);
            self.end_splits();
            lacking = self.lacking_copies();
        }
        if let Some(text) = lacking.filter(|_| self.ledger.violation.is_none()) {
            self.violate(Kind::TooFewCopies, format!("{} s after all healed: {text}", REST_MS / 1000));
        }
    }

    /// An operator lets the cluster forget whoever is gone for good.
    fn forget_lost(&mut self) {
        let host = self.rng.below(self.hosts.len());
        let clocks = self.hosts[host].clocks(self.now);
        let Some(broker) = &mut self.hosts[host].broker else { return };
        // Who is still taken for alive comes next time; who has never got as far as the roster needs no forgetting.
        let (now, trace) = (self.now, &mut self.trace);
        self.lost.retain(|&node| {
            let result = broker.forget(clocks, node);
            trace.note(now, "forget", &[host as u64], format_args!("{node:?} at h{host}: {result:?}"));
            matches!(result, Err(ForgetError::Alive(_) | ForgetError::CutOff(_) | ForgetError::SplitOff(_)))
        });
        self.settle(host);
    }

    /// The same, of those whom a host waits for.
    pub(crate) fn forget_lost_at(&mut self, host: usize) {
        let clocks = self.hosts[host].clocks(self.now);
        let Some(broker) = &mut self.hosts[host].broker else { return };
        self.lost.iter().for_each(|&node| _ = broker.forget(clocks, node));
        self.settle(host);
    }

    /// Ends all faults: cuts, dead processes, slow disks, clients at work.
    pub(crate) fn heal(&mut self) {
        self.agenda.drop_faults();
        self.uncut_all();
        for host in 0..self.hosts.len() {
            self.hosts[host].disk.slowness_ms = 0;
            self.hosts[host].disk.full_for = 0;
            self.boot(host);
        }
        self.cancel_drains();
        self.merge_all();
        for client in 0..self.clients.len() {
            // Without any fault there is to be no excuse either.
            if self.excused || !matches!(&self.clients[client].role, Role::Consumer(_)) {
                self.retire_client(client);
            }
        }
    }

    fn check_no_duplicates_counted(&mut self) {
        let counted: u64 =
            self.hosts.iter_mut().filter_map(|host| Some(host.broker.as_mut()?.status().duplicates)).sum();
        if counted > 0 {
            self.violate(Kind::NeedlessDuplicate, format!("{counted} counted in a run in which nothing happened"));
        }
    }
}
