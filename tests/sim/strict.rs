//! Strict destinations: what has a receipt lies on as many disks as were asked for, also if its node was cut off from the others. So any
//! one disk may be lost at any time, and nothing confirmed with it. Without the policy the same story loses something, which shows
//! that it asks the right question.

use std::collections::BTreeSet;

use rhizomq_stomp::{
    frame::{Command, Frame},
    policies::{Confirm, Policy},
};

use super::{
    faults::{Fault, group_ways},
    ledger::Kind,
    letters::Reader,
    rng::Rng,
    runs::{expect_caught, expect_clean},
    world::{Settings, World},
};

const SEEDS: u64 = 60;
const QUEUE: &str = "/queue/strict";
const STEP_MS: u64 = 100;

/// What clients have said and heard.
#[derive(Default)]
struct Book {
    sent: u32,
    confirmed: BTreeSet<u32>,
    received: BTreeSet<u32>,
}

impl Book {
    /// A client at each host sends a message now and then.
    fn send(&mut self, world: &mut World, producers: &mut [Option<Reader>]) {
        for (host, producer) in producers.iter_mut().enumerate() {
            if producer.is_none() {
                *producer = world.reader_asking(host, &[], &[]);
            }
            let Some(frames) = producer.as_mut().and_then(|reader| world.hear(reader)) else {
                *producer = None;
                continue;
            };
            let receipts = frames.iter().filter_map(|frame| frame.headers.get("receipt-id")?.parse::<u32>().ok());
            self.confirmed.extend(receipts);
            if let Some(reader) = producer {
                let number = self.sent.to_string();
                let headers = [("destination", QUEUE), ("receipt", &*number)];
                world.tell(reader, &Frame::new(Command::Send, headers).with_body(number.clone()));
                self.sent += 1;
            }
        }
    }

    /// All is healed, and everything is consumed.
    fn close(&mut self, world: &mut World) {
        world.heal();
        let mut reader = None;
        for _ in 0..300 {
            world.run_for(STEP_MS);
            if reader.is_none() {
                reader = world.reader_asking(0, &[QUEUE], &[]);
            }
            let Some(frames) = reader.as_mut().and_then(|reader| world.hear(reader)) else {
                reader = None;
                continue;
            };
            for frame in frames.iter().filter(|frame| frame.command == Command::Message) {
                self.received.extend(std::str::from_utf8(&frame.body).ok().and_then(|text| text.parse::<u32>().ok()));
                reader.iter().for_each(|reader| world.answer_letter(reader, frame, Command::Ack, true));
            }
        }
        if let Some(number) = self.confirmed.difference(&self.received).next() {
            world.violate(Kind::Lost, format!("message {number} was confirmed, and nobody has it"));
        }
        reader.iter().for_each(|reader| world.hang_up_on(reader));
        world.heal_and_rest();
    }
}

/// One host is cut off, and later some host loses its disk, during the cut or behind it.
fn story(seed: u64, printed: bool, confirm: Confirm) -> World {
    let mut rng = Rng::new(seed);
    let settings = Settings::plain(&mut rng, 3, None);
    let mut world = World::new(settings, rng, printed);
    world.run_for(2_500);
    // What these clients do excuses it.
    (world.excused, world.marks_excused) = (true, true);
    let host = world.rng.below(3);
    world.letters_policy(host, "strict", Policy { confirm: Some(confirm), ..Policy::default() });
    world.run_for(1_000);
    let (mut book, mut producers) = (Book::default(), [None, None, None]);
    let (alone, wiped) = (world.rng.below(3), world.rng.below(3));
    let (cut_at, wiped_at) = (world.rng.within(5, 30), world.rng.within(20, 120));
    for step in 0..160 {
        if step == cut_at {
            let groups: Vec<_> = (0..3).map(|host| usize::from(host == alone)).collect();
            world.strike(Fault::Cut { ways: group_ways(&groups), last: 8_000 });
        }
        if step == wiped_at {
            world.strike(Fault::Wipe { host: wiped, back: 2_000 });
        }
        book.send(&mut world, &mut producers);
        world.run_for(STEP_MS);
    }
    producers.iter().flatten().for_each(|producer| world.hang_up_on(producer));
    book.close(&mut world);
    if book.confirmed.len() < 50 && world.ledger.violation.is_none() {
        world.violate(Kind::NotWritable, format!("only {} confirmed", book.confirmed.len()));
    }
    world
}

#[test]
fn what_a_strict_destination_has_confirmed_outlives_any_one_disk_whatever_is_cut_off() {
    expect_clean("strict receipts", &|seed, printed| story(seed, printed, Confirm::Strict), 0..SEEDS);
}

#[test]
fn what_an_available_one_has_confirmed_on_one_disk_may_go_with_that() {
    expect_caught("receipts of one disk", &|seed, printed| story(seed, printed, Confirm::Available), &[Kind::Lost]);
}
