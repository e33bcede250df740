//! Policies and dead letters: messages that are refused, rejected, expire and come back, over cuts and crashes. The judge has a
//! ledger of its own: whatever was confirmed is in the end acknowledged by a consumer, or a dead letter; nothing else may
//! become of it. Nothing is delivered after its time, by the clock of the node that delivers it, nor more often than the policy
//! says.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::Mistake;
use rhizomq_stomp::{
    broker::ConnId,
    frame::{Command, Decoder, Frame, Version, encode},
    limits::Limits,
    policies::{Policy, PolicyChange},
};

use super::{
    agenda::Happening,
    faults::{Fault, FaultMix, group_ways},
    ledger::Kind,
    rng::Rng,
    runs::{expect_caught, expect_clean},
    world::{Settings, World},
};

const SEEDS: u64 = 40;

const QUEUE: &str = "/queue/letters";
const GRAVES: &str = "/queue/graves";

/// Clients of this story have numbers from here on.
const FIRST: u64 = 1 << 41;

const MAX_DELIVERIES: u32 = 3;
/// Between two looks of the clients.
const STEP_MS: u64 = 100;

/// A client, as long as its host lives and nobody closes it.
pub(crate) struct Reader {
    conn: ConnId,
    pub(crate) host: usize,
    life: u32,
    decoder: Decoder,
    heard: usize,
}

/// What is known of all messages of a story.
#[derive(Default)]
struct Letters {
    sent: u32,
    confirmed: BTreeSet<u32>,
    acknowledged: BTreeSet<u32>,
    /// Dead letters, by why.
    dead: BTreeMap<u32, String>,
}

fn number_of(frame: &Frame) -> Option<u32> {
    std::str::from_utf8(&frame.body).ok()?.strip_prefix("letter ")?.parse().ok()
}

impl World {
    pub(crate) fn letters_policy(&mut self, host: usize, pattern: &str, policy: Policy) {
        let clocks = self.hosts[host].clocks(self.now);
        let change = PolicyChange::Set { pattern: pattern.to_owned(), policy };
        if let Some(broker) = &mut self.hosts[host].broker {
            broker.change_policy(clocks, &change).expect("a policy");
        }
        self.settle(host);
    }

    fn reader(&mut self, host: usize, queues: &[&str]) -> Option<Reader> {
        self.reader_asking(host, queues, &[])
    }

    /// A client that subscribes to these queues, with more headers.
    pub(crate) fn reader_asking(&mut self, host: usize, queues: &[&str], more: &[(&str, &str)]) -> Option<Reader> {
        let clocks = self.hosts[host].clocks(self.now);
        self.conns_made += 1;
        let conn = ConnId(FIRST + self.conns_made);
        self.hosts[host].broker.as_mut()?.handle_client_open(clocks, conn);
        self.probes.insert(conn, Vec::new());
        let life = self.hosts[host].life;
        let reader = Reader { conn, host, life, decoder: Decoder::new(Limits::default()), heard: 0 };
        self.tell(&reader, &Frame::new(Command::Connect, [("accept-version", "1.2"), ("host", "sim")]));
        for queue in queues {
            let headers =
                [("id", *queue), ("destination", queue), ("ack", "client-individual"), ("prefetch-count", "5")];
            self.tell(&reader, &Frame::new(Command::Subscribe, headers.iter().chain(more).copied()));
        }
        Some(reader)
    }

    pub(crate) fn tell(&mut self, reader: &Reader, frame: &Frame) {
        let clocks = self.hosts[reader.host].clocks(self.now);
        let bytes = encode(frame, Version::V1_2);
        if let Some(broker) = self.hosts[reader.host].broker.as_mut().filter(|_| self.probes.contains_key(&reader.conn))
        {
            broker.handle_client_bytes(clocks, reader.conn, &bytes);
        }
        self.settle(reader.host);
    }

    /// What has been written to it; `None` when it is closed.
    pub(crate) fn hear(&mut self, reader: &mut Reader) -> Option<Vec<Frame>> {
        let host = reader.host;
        if self.hosts[host].life != reader.life || !self.hosts[host].is_up() {
            self.probes.remove(&reader.conn);
            return None;
        }
        let bytes = self.probes.get_mut(&reader.conn).map(std::mem::take)?;
        reader.heard += bytes.len();
        reader.decoder.feed(&bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.decoder.poll().expect("frames") {
            if frame.command == Command::Connected {
                reader.decoder.start_session(Version::V1_2);
            }
            frames.push(frame);
        }
        let clocks = self.hosts[host].clocks(self.now);
        if let Some(broker) = &mut self.hosts[host].broker {
            broker.handle_client_flushed(clocks, reader.conn, reader.heard as u64);
        }
        self.settle(host);
        if frames.iter().any(|frame| frame.command == Command::Error) {
            self.hang_up_on(reader);
            return None;
        }
        Some(frames)
    }

    pub(crate) fn hang_up_on(&mut self, reader: &Reader) {
        self.probes.remove(&reader.conn);
        let host = &mut self.hosts[reader.host];
        let (clocks, is_same) = (host.clocks(self.now), host.life == reader.life);
        if let Some(broker) = host.broker.as_mut().filter(|_| is_same) {
            broker.handle_client_closed(clocks, reader.conn);
        }
        self.settle(reader.host);
    }

    pub(crate) fn answer_letter(&mut self, reader: &Reader, frame: &Frame, command: Command, requeue: bool) {
        let id = frame.headers.get("ack").unwrap_or_default().to_owned();
        let mut headers = vec![("id", &*id)];
        if !requeue {
            headers.push(("requeue", "false"));
        }
        self.tell(reader, &Frame::new(command, headers));
    }

    /// A delivery: it must be in time, and not one too many.
    fn judge_letter(&mut self, reader: &Reader, frame: &Frame) {
        let wall_ms = self.hosts[reader.host].clocks(self.now).wall_ms;
        let number = |name| frame.headers.get(name).and_then(|value| value.parse::<u64>().ok());
        let text = format!("{:?}", frame.headers);
        if number("expires").is_some_and(|end| end + STEP_MS + 50 < wall_ms) {
            self.violate(Kind::AfterEnd, format!("delivered after its time, {wall_ms}: {text}"));
        }
        let is_letter = frame.headers.get("destination") == Some(QUEUE);
        if is_letter && number("delivery-count").is_none_or(|count| count > u64::from(MAX_DELIVERIES)) {
            self.violate(Kind::NeedlessDuplicate, format!("delivered too often: {text}"));
        }
    }
}

impl Letters {
    /// One message from each producer; some expire soon.
    fn send(&mut self, world: &mut World, producers: &mut [Option<Reader>]) {
        for (host, producer) in producers.iter_mut().enumerate() {
            if producer.is_none() {
                *producer = world.reader(host, &[]);
            }
            let Some(reader) = producer else { continue };
            match world.hear(reader) {
                Some(frames) => {
                    let receipts =
                        frames.iter().filter_map(|frame| frame.headers.get("receipt-id")?.parse::<u32>().ok());
                    self.confirmed.extend(receipts);
                }
                None => *producer = None,
            }
            let Some(reader) = producer else { continue };
            let number = self.sent.to_string();
            let mut headers = vec![("destination", QUEUE), ("receipt", &*number)];
            if world.rng.chance(0.3) {
                headers.push(("expiration", "1500"));
            }
            let frame = Frame::new(Command::Send, headers).with_body(format!("letter {number}"));
            self.sent += 1;
            world.tell(reader, &frame);
        }
    }

    /// What one consumer does with what it got; it may die of it.
    fn consume(&mut self, world: &mut World, reader: &mut Option<Reader>, calm: bool) {
        let Some(one) = reader else { return };
        let Some(frames) = world.hear(one) else {
            *reader = None;
            return;
        };
        for frame in frames.iter().filter(|frame| frame.command == Command::Message) {
            world.judge_letter(one, frame);
            let Some(number) = number_of(frame) else { continue };
            if frame.headers.get("destination") == Some(GRAVES) {
                let why = frame.headers.get("dead-letter-reason").unwrap_or_default();
                if frame.headers.get("dead-letter-from") != Some(QUEUE) || why.is_empty() {
                    world.violate(Kind::ClientError, format!("no dead letter: {:?}", frame.headers));
                }
                self.dead.insert(number, why.to_owned());
                world.answer_letter(one, frame, Command::Ack, true);
                continue;
            }
            match if calm { 0 } else { world.rng.below(10) } {
                0..=3 => {
                    self.acknowledged.insert(number);
                    world.answer_letter(one, frame, Command::Ack, true);
                }
                4..=6 => world.answer_letter(one, frame, Command::Nack, true),
                7 | 8 => world.answer_letter(one, frame, Command::Nack, false),
                _ => {
                    world.hang_up_on(one);
                    *reader = None;
                    return;
                }
            }
        }
    }

    /// Producers at all hosts and consumers here and there, for so long.
    fn work(&mut self, world: &mut World, ms: u64) {
        let mut producers: Vec<_> = (0..world.hosts.len()).map(|_| None).collect();
        let mut consumers: Vec<_> = (0..2).map(|_| None).collect();
        for step in 0..ms / STEP_MS {
            if step % 2 == 0 {
                self.send(world, &mut producers);
            }
            for consumer in &mut consumers {
                if consumer.is_none() && world.rng.chance(0.2) {
                    let host = world.rng.below(world.hosts.len());
                    *consumer = world.reader(host, &[QUEUE]);
                }
                self.consume(world, consumer, false);
            }
            world.run_for(STEP_MS);
        }
        for reader in producers.iter_mut().chain(&mut consumers).flatten() {
            world.hang_up_on(reader);
        }
    }

    /// All is healed; everything that is left is consumed, and each message accounted for.
    fn close(&mut self, world: &mut World) {
        world.heal();
        let mut readers: Vec<_> = (0..world.hosts.len()).map(|host| world.reader(host, &[QUEUE, GRAVES])).collect();
        for _ in 0..600 {
            world.run_for(STEP_MS);
            for (host, reader) in readers.iter_mut().enumerate() {
                if reader.is_none() {
                    *reader = world.reader(host, &[QUEUE, GRAVES]);
                }
                self.consume(world, reader, true);
            }
        }
        let accounted = |number: &&u32| self.acknowledged.contains(number) || self.dead.contains_key(number);
        if let Some(number) = self.confirmed.iter().find(|number| !accounted(number)) {
            world.violate(Kind::Lost, format!("letter {number} was confirmed, and nobody has it"));
        }
        readers.iter().flatten().for_each(|reader| world.hang_up_on(reader));
        world.heal_and_rest();
    }
}

fn world_of(seed: u64, printed: bool, mistake: Option<Mistake>) -> (World, Letters) {
    let mut rng = Rng::new(seed);
    let settings = Settings::plain(&mut rng, 3, mistake);
    let mut world = World::new(settings, rng, printed);
    world.run_for(2_500);
    // What these clients do excuses it.
    (world.excused, world.marks_excused) = (true, true);
    let policy = Policy {
        max_deliveries: Some(MAX_DELIVERIES),
        redelivery_delay_ms: Some(200),
        redelivery_backoff_percent: Some(200),
        dead_letter: Some(GRAVES.to_owned()),
        ..Policy::default()
    };
    let host = world.rng.below(3);
    world.letters_policy(host, "letters", policy);
    world.run_for(1_000);
    (world, Letters::default())
}

/// A story in which too little happens proves nothing.
fn require_all_kinds(world: &mut World, letters: &Letters) {
    let reasons: BTreeSet<_> = letters.dead.values().map(String::as_str).collect();
    let all = ["expired", "max-deliveries", "rejected"];
    if (reasons != BTreeSet::from(all) || letters.acknowledged.len() < 20) && world.ledger.violation.is_none() {
        let (acknowledged, dead) = (letters.acknowledged.len(), letters.dead.len());
        world.violate(Kind::NotWritable, format!("{acknowledged} acknowledged, {dead} dead letters: {reasons:?}"));
    }
}

#[test]
fn on_both_sides_of_a_cut_and_after_it_every_message_is_accounted_for() {
    let script = |seed, printed| {
        let (mut world, mut letters) = world_of(seed, printed, None);
        letters.work(&mut world, 6_000);
        let alone = world.rng.below(3);
        let groups: Vec<_> = (0..3).map(|host| usize::from(host == alone)).collect();
        world.strike(Fault::Cut { ways: group_ways(&groups), last: 14_000 });
        letters.work(&mut world, 20_000);
        letters.close(&mut world);
        require_all_kinds(&mut world, &letters);
        world
    };
    expect_clean("letters over a cut", &script, 0..SEEDS);
}

#[test]
fn under_crashes_cuts_and_full_disks_every_message_is_accounted_for() {
    let script = |seed, printed| {
        let (mut world, mut letters) = world_of(seed, printed, None);
        let mix = FaultMix { wipes: 0, restores: 0, drains: 0, clocks: 0, ..FaultMix::random(&mut world.rng) };
        for (time, fault) in mix.plan(&mut world.rng, 3, 20_000) {
            world.agenda.at(world.now + time, Happening::Fault(fault));
        }
        letters.work(&mut world, 20_000);
        letters.close(&mut world);
        world
    };
    expect_clean("letters and faults", &script, 0..2 * SEEDS);
}

/// Disks are full while messages leave for the dead-letter queue.
fn full_disks(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let (mut world, mut letters) = world_of(seed, printed, mistake);
    for _ in 0..6 {
        letters.work(&mut world, 1_500);
        let host = world.rng.below(3);
        world.strike(Fault::Full { host, times: 5 });
    }
    letters.close(&mut world);
    world
}

#[test]
fn mistake_remove_before_copy() {
    let planted = |seed, printed| full_disks(seed, printed, Some(Mistake::RemoveBeforeCopy));
    expect_caught("an original removed before its copy is kept", &planted, &[Kind::Lost]);
    expect_clean("full disks", &|seed, printed| full_disks(seed, printed, None), 0..20);
}
