//! Message groups and exclusive consumers, which get a whole queue: of each group one consumer at a time has messages, in order,
//! however consumers come and go. And browsers, who see what waits and take nothing.
//!
//! The judge has a ledger of its own. Its law, as long as nodes neither die nor are cut off: whoever gets a message of a group
//! has had no later one, and nobody else holds an earlier one. Cuts excuse that; but nothing is lost, and after the heal the law
//! holds again for what is sent then.

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_stomp::frame::{Command, Frame};

use super::{
    faults::{Fault, group_ways},
    ledger::Kind,
    letters::Reader,
    rng::Rng,
    runs::expect_clean,
    world::{Settings, World},
};

const SEEDS: u64 = 60;
const QUEUE: &str = "/queue/shared";
const STEP_MS: u64 = 20;
const READERS: usize = 5;

/// What a story is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    Groups,
    Exclusive,
}

/// A consumer, with what it has and has not answered, and by group the last that it got.
struct Worker {
    reader: Reader,
    held: Vec<(u32, Frame)>,
    last: BTreeMap<u32, u32>,
}

struct Sharing {
    about: About,
    sent: u32,
    confirmed: BTreeSet<u32>,
    acknowledged: BTreeSet<u32>,
    workers: Vec<Option<Worker>>,
    /// Messages from this one on are under the law.
    from: u32,
}

fn number_of(frame: &Frame) -> Option<u32> {
    std::str::from_utf8(&frame.body).ok()?.parse().ok()
}

impl Sharing {
    fn new(about: About) -> Self {
        let workers = (0..READERS).map(|_| None).collect();
        Self { about, sent: 0, confirmed: BTreeSet::new(), acknowledged: BTreeSet::new(), workers, from: 0 }
    }

    /// Exclusive consumers get all as if it were one group.
    fn group_of(&self, number: u32) -> u32 {
        if self.about == About::Groups { number % 7 } else { 0 }
    }

    fn send(&mut self, world: &mut World, producer: &mut Option<Reader>, host: usize) {
        if producer.is_none() {
            *producer = world.reader_asking(host, &[], &[]);
        }
        let Some(reader) = producer else { return };
        match world.hear(reader) {
            Some(frames) => {
                let receipts = frames.iter().filter_map(|frame| frame.headers.get("receipt-id")?.parse::<u32>().ok());
                self.confirmed.extend(receipts);
            }
            None => *producer = None,
        }
        let Some(reader) = producer else { return };
        let (number, group) = (self.sent.to_string(), format!("group-{}", self.group_of(self.sent)));
        let headers = [("destination", QUEUE), ("receipt", &*number), ("JMSXGroupID", &*group)];
        let frame = Frame::new(Command::Send, headers).with_body(number.clone());
        self.sent += 1;
        world.tell(reader, &frame);
    }

    /// A delivery to this worker: is it its turn?
    fn judge(&mut self, world: &mut World, place: usize, number: u32) {
        let group = self.group_of(number);
        let Some(worker) = &mut self.workers[place] else { return };
        let last = worker.last.insert(group, number);
        let mut others = self.workers.iter().enumerate().filter(|(other, _)| *other != place);
        let earlier = others.find_map(|(other, worker)| {
            let held = worker.iter().flat_map(|worker| &worker.held).map(|(held, _)| *held);
            let mut earlier = held.filter(|held| *held < number && *held >= self.from && self.group_of(*held) == group);
            Some((other, earlier.next()?))
        });
        if number < self.from {
            return;
        }
        if let Some((other, held)) = earlier {
            world.violate(Kind::Order, format!("{number} goes to {place} while {other} has {held}"));
        }
        if let Some(last) = last.filter(|last| *last >= number) {
            world.violate(Kind::Order, format!("{number} comes to {place} after {last}"));
        }
    }

    /// What a worker does with what it got; it may die of it.
    fn work(&mut self, world: &mut World, place: usize, calm: bool) {
        let Some(worker) = &mut self.workers[place] else { return };
        let Some(frames) = world.hear(&mut worker.reader) else {
            self.workers[place] = None;
            return;
        };
        for frame in frames.into_iter().filter(|frame| frame.command == Command::Message) {
            let Some(number) = number_of(&frame) else { continue };
            self.judge(world, place, number);
            self.workers[place].iter_mut().for_each(|worker| worker.held.push((number, frame.clone())));
        }
        if !calm && world.rng.chance(0.02) {
            let worker = self.workers[place].take();
            worker.into_iter().for_each(|worker| world.hang_up_on(&worker.reader));
            return;
        }
        let Some(worker) = &mut self.workers[place] else { return };
        let pace = if world.rng.chance(0.5) { 0 } else { world.rng.below(3) };
        let count = if calm { worker.held.len() } else { pace.min(worker.held.len()) };
        for (number, frame) in worker.held.drain(..count) {
            self.acknowledged.insert(number);
            world.answer_letter(&worker.reader, &frame, Command::Ack, true);
        }
    }

    fn come(&mut self, world: &mut World, place: usize) {
        let host = world.rng.below(world.hosts.len());
        let exclusive: &[_] = if self.about == About::Exclusive { &[("activemq.exclusive", "true")] } else { &[] };
        let reader = world.reader_asking(host, &[QUEUE], exclusive);
        self.workers[place] = reader.map(|reader| Worker { reader, held: Vec::new(), last: BTreeMap::new() });
    }

    /// One producer, and consumers that come and go, for so long.
    fn play(&mut self, world: &mut World, ms: u64, producers: &[usize]) {
        let mut clients: Vec<_> = producers.iter().map(|host| (*host, None)).collect();
        for step in 0..ms / STEP_MS {
            // More than they keep up with, so that messages wait for the consumers of their groups.
            for (host, client) in &mut clients {
                (0..1 + step % 2).for_each(|_| self.send(world, client, *host));
            }
            for place in 0..READERS {
                if self.workers[place].is_none() && world.rng.chance(0.05) {
                    self.come(world, place);
                    // All nodes hear of it before another one comes: which of two is the first is not for them to say.
                    world.run_for(10 * STEP_MS);
                }
                self.work(world, place, false);
            }
            world.run_for(STEP_MS);
        }
        world.run_for(500);
        for (_, client) in &mut clients {
            let heard = client.as_mut().and_then(|client| world.hear(client)).unwrap_or_default();
            self.confirmed
                .extend(heard.iter().filter_map(|frame| frame.headers.get("receipt-id")?.parse::<u32>().ok()));
            client.take().into_iter().for_each(|client| world.hang_up_on(&client));
        }
    }

    /// What was confirmed and nobody has acknowledged, as a browser at each node sees it: at all the same. Nobody consumes
    /// meanwhile.
    fn look_through(&mut self, world: &mut World) {
        for worker in self.workers.iter_mut().filter_map(Option::take) {
            world.hang_up_on(&worker.reader);
        }
        world.run_for(6_000);
        let unread = |number: &&u32| !self.acknowledged.contains(number);
        let expected: BTreeSet<u32> = self.confirmed.iter().filter(unread).copied().collect();
        for host in 0..world.hosts.len() {
            let Some(mut browser) = world.reader_asking(host, &[QUEUE], &[("browser", "true")]) else { continue };
            let (mut seen, mut is_over) = (BTreeSet::new(), false);
            for _ in 0..40 {
                world.run_for(50);
                let frames = world.hear(&mut browser).unwrap_or_default();
                is_over |= frames.iter().any(|frame| frame.headers.get("browser") == Some("end"));
                seen.extend(frames.iter().filter_map(number_of));
            }
            world.hang_up_on(&browser);
            if !is_over || seen != expected {
                let text = format!("a browser at h{host} saw {} of {}: over {is_over}", seen.len(), expected.len());
                world.violate(Kind::Lost, text);
            }
        }
    }

    /// All is healed, and everything that is left is consumed.
    fn close(&mut self, world: &mut World) {
        world.heal();
        for _ in 0..600 {
            for place in 0..READERS {
                if self.workers[place].is_none() {
                    self.come(world, place);
                }
                self.work(world, place, true);
            }
            world.run_for(STEP_MS);
        }
        if let Some(number) = self.confirmed.iter().find(|number| !self.acknowledged.contains(number)) {
            world.violate(Kind::Lost, format!("{number} was confirmed, and nobody has it"));
        }
        if self.acknowledged.len() < 50 {
            world.violate(Kind::NotWritable, "too little happened".to_owned());
        }
        self.workers.iter_mut().filter_map(Option::take).for_each(|worker| world.hang_up_on(&worker.reader));
        world.heal_and_rest();
    }
}

fn world_of(seed: u64, printed: bool) -> World {
    let mut rng = Rng::new(seed);
    let settings = Settings::plain(&mut rng, 3, None);
    let mut world = World::new(settings, rng, printed);
    world.run_for(2_500);
    // What these clients do excuses it.
    (world.excused, world.marks_excused) = (true, true);
    world
}

/// Consumers die and come; nodes do not.
fn in_peace(seed: u64, printed: bool, about: About) -> World {
    let mut world = world_of(seed, printed);
    let mut sharing = Sharing::new(about);
    sharing.play(&mut world, 8_000, &[(seed % 3) as usize]);
    sharing.look_through(&mut world);
    sharing.close(&mut world);
    world
}

/// A node is cut off, or dies; then all is well again, and under the law.
fn over_faults(seed: u64, printed: bool, about: About) -> World {
    let mut world = world_of(seed, printed);
    let mut sharing = Sharing { from: u32::MAX, ..Sharing::new(about) };
    sharing.play(&mut world, 3_000, &[0, 1, 2]);
    match seed % 2 {
        0 => world.strike(Fault::Cut { ways: group_ways(&[0, 1, 1]), last: 4_000 }),
        _ => world.strike(Fault::Crash { host: 2, keep: false, back: 4_000 }),
    }
    sharing.play(&mut world, 6_000, &[0, 1, 2]);
    world.heal();
    // What was under way in the cut is settled by all who have it.
    for _ in 0..200 {
        (0..READERS).for_each(|place| sharing.work(&mut world, place, true));
        world.run_for(STEP_MS);
    }
    sharing.from = sharing.sent;
    sharing.play(&mut world, 3_000, &[(seed % 3) as usize]);
    sharing.close(&mut world);
    world
}

#[test]
fn a_group_is_with_one_consumer_at_a_time_and_in_order_whoever_comes_and_goes() {
    expect_clean("groups", &|seed, printed| in_peace(seed, printed, About::Groups), 0..SEEDS);
}

#[test]
fn an_exclusive_consumer_has_the_queue_alone_and_in_order_whoever_comes_and_goes() {
    expect_clean("exclusive", &|seed, printed| in_peace(seed, printed, About::Exclusive), 0..SEEDS);
}

#[test]
fn no_message_of_a_group_is_lost_over_cuts_and_deaths_and_the_law_holds_again_after_them() {
    expect_clean("groups over faults", &|seed, printed| over_faults(seed, printed, About::Groups), 0..SEEDS / 2);
}

#[test]
fn no_message_is_lost_to_exclusive_consumers_over_cuts_and_deaths_and_the_law_holds_again_after_them() {
    expect_clean("exclusive over faults", &|seed, printed| over_faults(seed, printed, About::Exclusive), 0..SEEDS / 2);
}
