//! Running worlds: one by its seed, or many on all cores; a panic inside is a broken promise like any other.

use std::{
    cell::RefCell,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    ledger::{Kind, Violation},
    world::World,
};

/// Makes a world from a seed and runs it to its end; the second argument says whether the trace is printed.
pub(crate) type Script<'a> = &'a (dyn Fn(u64, bool) -> World + Sync);

/// What became of a run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) violation: Option<Violation>,
    /// Equal for two runs of a seed.
    pub(crate) fingerprint: (u64, u64),
    /// Messages sent, confirmed, delivered, deliveries beyond the first; messages sent to topics, and their deliveries.
    pub(crate) figures: [u64; 6],
    /// Whether what the story is about has happened.
    pub(crate) is_told: bool,
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps what a panic says for the outcome, in place of printing it.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if PANIC.with_borrow(|text| text == "run") {
                PANIC.set(info.to_string());
            } else {
                loud(info);
            }
        }));
    });
}

/// One run.
pub(crate) fn run(script: Script<'_>, seed: u64, printed: bool) -> Outcome {
    quiet_panics();
    PANIC.set("run".to_owned());
    let outcome = match catch_unwind(AssertUnwindSafe(|| script(seed, printed))) {
        Ok(world) => Outcome {
            seed,
            violation: world.ledger.violation.clone(),
            fingerprint: world.trace.fingerprint(),
            figures: figures(&world),
            is_told: world.is_told,
        },
        Err(_) => {
            let text = PANIC.take();
            let violation = Some(Violation { kind: Kind::Panic, at: 0, text });
            Outcome { seed, violation, fingerprint: (0, 0), figures: [0; 6], is_told: false }
        }
    };
    PANIC.take();
    outcome
}

fn figures(world: &World) -> [u64; 6] {
    let (to_topics, from_topics) = world.topics.figures();
    let mut figures = [0, 0, 0, 0, to_topics as u64, from_topics as u64];
    for (_, msg) in world.ledger.msgs() {
        figures[0] += 1;
        figures[1] += u64::from(msg.confirmed.is_some());
        figures[2] += u64::from(msg.deliveries > 0);
        figures[3] += u64::from(msg.deliveries.saturating_sub(1));
    }
    figures
}

/// Runs many seeds on all cores, until `enough` says so of an outcome; those that ran, in order of seeds.
pub(crate) fn sweep(script: Script<'_>, seeds: Range<u64>, enough: &(dyn Fn(&Outcome) -> bool + Sync)) -> Vec<Outcome> {
    let next = AtomicU64::new(seeds.start);
    let outcomes = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(script, seed, false);
                    if enough(&outcome) {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                    outcomes.lock().expect("no run panics out of its cage").push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no run panics out of its cage");
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}

/// Runs seeds that must keep every promise; says how to see the first that does not.
pub(crate) fn expect_clean(name: &str, script: Script<'_>, seeds: Range<u64>) -> Vec<Outcome> {
    if let Some(seed) = number_from_env("RHIZOMQ_SIM_SEED") {
        let outcome = run(script, seed, true);
        println!("{name}, seed {seed}: {outcome:?}");
        assert!(outcome.violation.is_none(), "{name}, seed {seed}: {}", words(&outcome));
        return vec![outcome];
    }
    let outcomes = sweep(script, seeds, &|_| false);
    println!("{name}: {} runs", outcomes.len());
    let bad: Vec<_> = outcomes.iter().filter(|outcome| outcome.violation.is_some()).collect();
    let list: String = bad.iter().map(|outcome| format!("  seed {}: {}\n", outcome.seed, words(outcome))).collect();
    assert!(
        bad.is_empty(),
        "{name}: {} of {} runs broke a promise; RHIZOMQ_SIM_SEED=<seed> reruns one with its trace\n{list}",
        bad.len(),
        outcomes.len(),
    );
    outcomes
}

/// The same of a story that not every seed gets to the end of: a third of them has to.
pub(crate) fn expect_told(name: &str, script: Script<'_>, seeds: Range<u64>) {
    let outcomes = expect_clean(name, script, seeds);
    let told = outcomes.iter().filter(|outcome| outcome.is_told).count();
    println!("{name}: {told} told to the end");
    assert!(
        outcomes.len() < 24 || told * 3 >= outcomes.len(),
        "{name}: only {told} of {} got to the end",
        outcomes.len()
    );
}

/// Runs up to 200 seeds with a planted mistake until one shows it, which must break one of the `expected` promises.
pub(crate) fn expect_caught(name: &str, script: Script<'_>, expected: &[Kind]) {
    let is_bad = |outcome: &Outcome| outcome.violation.is_some();
    if let Some(seed) = number_from_env("RHIZOMQ_SIM_SEED") {
        println!("{name}, seed {seed}: {:?}", run(script, seed, true));
        return;
    }
    let outcomes = sweep(script, 0..200, &is_bad);
    let found = outcomes.iter().find(|outcome| is_bad(outcome));
    let Some(found) = found else { panic!("{name} was not noticed in {} runs", outcomes.len()) };
    println!("{name}: seed {}: {}", found.seed, words(found));
    let kind = found.violation.as_ref().map(|violation| violation.kind);
    assert!(expected.iter().any(|&one| Some(one) == kind), "{name} was noticed by accident: {}", words(found));
}

fn words(outcome: &Outcome) -> String {
    outcome.violation.as_ref().map(ToString::to_string).unwrap_or_default()
}

pub(crate) fn number_from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text}")))
}
