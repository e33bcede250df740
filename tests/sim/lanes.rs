//! Priorities, delays and selectors in the worlds of the other modules: what producers write for them, what consumers ask for, and
//! what must hold.

use rhizomq_engine::Mistake;
use rhizomq_stomp::frame::Frame;

use super::{
    clients::{Producer, Role},
    consumers::Consumer,
    faults::{Fault, group_ways},
    ledger::{Kind, MsgId},
    mixed::mixed_with,
    rng::Rng,
    runs::{expect_caught, expect_clean},
    world::{Settings, World},
};

/// A world of its own for every seed, in which messages and subscriptions differ.
fn mixed_lanes(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    mixed_with(seed, printed, mistake, |settings| {
        settings.lanes = true;
        // Whose clock is set back by an hour serves what is delayed an hour later.
        settings.faults.clocks = 0;
    })
}

/// What a selector says of the header `n`.
fn wants(selector: &str, n: u32) -> bool {
    match selector {
        "n = 0" => n == 0,
        _ => n != 0,
    }
}

/// Of all messages each of these lets some through; together, all.
pub(crate) const SELECTORS: [&str; 2] = ["n = 0", "NOT n = 0"];

impl World {
    /// Headers for a message: its priority, how long it is to wait, and what selectors ask for.
    pub(crate) fn timing_of(&mut self, id: MsgId, queue: usize) -> Vec<(String, String)> {
        let (priority, delay) = (self.rng.pick(&[4, 4, 0, 9]), self.rng.pick(&[0, 0, 0, 0, 50, 700, 4_000]));
        let msg = self.ledger.msg(id);
        msg.source.1 = queue + 1_000 * (1 + priority);
        let mut headers = vec![("n".to_owned(), (id % 3).to_string())];
        if priority != 4 {
            headers.push(("priority".to_owned(), priority.to_string()));
        }
        if delay > 0 {
            // Nothing is promised about the order of those that wait.
            msg.source.1 = 1_000_000 + id as usize;
            msg.due = Some(self.now + delay);
            headers.push(("AMQ_SCHEDULED_DELAY".to_owned(), delay.to_string()));
        }
        headers
    }

    /// A message is written to a client: is it time?
    pub(crate) fn check_time(&mut self, id: MsgId) {
        let offsets = || self.hosts.iter().map(|host| host.wall_offset_ms);
        let spread = offsets().max().unwrap_or(0) - offsets().min().unwrap_or(0);
        let due = self.ledger.msg(id).due.filter(|_| !self.clocks_jumped);
        if let Some(due) = due.filter(|due| self.now + (spread as u64) < *due) {
            self.violate(Kind::Early, format!("m{id} was to wait until {due}"));
        }
    }

    /// A message arrives at a consumer: did it ask for it?
    pub(crate) fn check_wanted(&mut self, client: usize, subscription: u64, frame: &Frame) {
        let Role::Consumer(consumer) = &self.clients[client].role else { return };
        let Some(selector) = consumer.at_work.selectors.get(&subscription) else { return };
        let n = frame.headers.get("n").and_then(|n| n.parse().ok());
        if !n.is_some_and(|n| wants(selector, n)) {
            let text = format!("c{client} asked for {selector} and got {n:?}");
            self.violate(Kind::Unwanted, text);
        }
    }
}

#[test]
fn mixed_faults_break_no_promise_with_priorities_delays_and_selectors() {
    expect_clean("mixed faults with lanes", &|seed, printed| mixed_lanes(seed, printed, None), 0..200);
}

#[test]
fn mistake_served_early() {
    let mistake = Some(Mistake::ServedEarly);
    expect_caught("served early", &|seed, printed| mixed_lanes(seed, printed, mistake), &[Kind::Early]);
}

#[test]
fn mistake_search_forgets() {
    let mistake = Some(Mistake::SearchForgets);
    let expected = [Kind::Lost, Kind::Diverged];
    expect_caught("a search forgets", &|seed, printed| mixed_lanes(seed, printed, mistake), &expected);
}

/// Messages wait for their time while their node dies, or is cut off, or the whole cluster restarts; then they come.
#[test]
fn what_waits_for_its_time_outlives_deaths_cuts_and_restarts() {
    let story = |seed, printed| {
        let mut rng = Rng::new(seed);
        let settings = Settings { lanes: true, ..Settings::plain(&mut rng, 3, None) };
        let mut world = World::new(settings, rng, printed);
        world.run_for(2_500);
        for host in 0..3 {
            let producer = Producer {
                queues: vec![0],
                left: 30,
                window: 20,
                pace_ms: 10,
                transactions: 0.1,
                transient: 0.0,
                filling: 20,
            };
            world.add_client(Role::Producer(producer), Some(host));
        }
        world.run_for(1_500);
        match seed % 3 {
            0 => world.strike(Fault::Crash { host: 0, keep: false, back: 60_000 }),
            1 => world.strike(Fault::Cut { ways: group_ways(&[0, 1, 1]), last: 4_000 }),
            _ => (0..3).for_each(|host| world.strike(Fault::Crash { host, keep: false, back: 500 })),
        }
        for host in 1..3 {
            world.add_client(Role::Consumer(Consumer::patient(vec![0])), Some(host));
        }
        world.run_for(8_000);
        world.heal_and_rest();
        world
    };
    expect_clean("delays outlive faults", &story, 0..24);
}
