//! Random worlds with random faults: what nobody thought of.

use rhizomq_engine::{Mistake, limits};
use rhizomq_net::{SwimConfig, Timing};
use rhizomq_stomp::policies::Policy;

use super::{
    clients::Producer,
    consumers::{AtWork, Consumer},
    faults::FaultMix,
    lanes,
    rng::Rng,
    runs,
    topics::{Listener, Publisher},
    world::{Settings, World},
};

/// What segments are closed at unless a world says otherwise.
const ROLL: (u64, u64) = (limits::SEGMENT_BYTES, limits::SEGMENT_AGE_MS);

impl Settings {
    /// A world of its own for every seed.
    pub(crate) fn random(rng: &mut Rng, mistake: Option<Mistake>) -> Self {
        let hosts = rng.pick(&[1, 2, 3, 3, 3, 4, 5, 7]);
        let copies = rng.pick(&[1, 2, 3, 3, 3]);
        let queues = rng.within(1, 3) as usize;
        let faultless = rng.chance(0.1);
        let producers = (0..rng.within(1, 3)).map(|_| (producer(rng, queues), None)).collect();
        let consumers = (0..rng.within(0, 4)).map(|_| (consumer(rng, queues, faultless), None)).collect();
        let publishers = (0..rng.within(0, 2)).map(|_| publisher(rng)).collect();
        let listeners = (0..rng.within(0, 3)).map(|_| Listener { topic: rng.below(2), since: None }).collect();
        Self {
            hosts,
            networks: 1,
            copies: copies as u32,
            confirm: rng.within(1, copies) as u32,
            confirm_sites: rng.within(1, 2).min(copies) as u32,
            sites: rng.pick(&[1, 1, 2, 3]),
            queues,
            durables: 0,
            producers,
            consumers,
            publishers,
            listeners,
            busy_ms: rng.pick(&[8_000, 20_000, 40_000]),
            disk_ms: rng.pick(&[2, 20]),
            disk_stalls: if rng.chance(0.3) { 0.02 } else { 0.0 },
            net_ms: rng.pick(&[2, 10, 60]),
            loss: rng.pick(&[0.0, 0.02, 0.2]),
            timing: Timing::default(),
            swim: SwimConfig::default(),
            roll: rng.pick(&[ROLL, ROLL, (2_000, ROLL.1), (ROLL.0, 3_000), (500, 1_000)]),
            faults: if faultless { FaultMix::default() } else { FaultMix::random(rng) },
            lanes: false,
            mistake,
        }
    }
}

impl Settings {
    /// A world in which nothing happens by itself.
    pub(crate) fn plain(rng: &mut Rng, hosts: usize, mistake: Option<Mistake>) -> Self {
        Self {
            hosts,
            networks: 1,
            copies: 3,
            confirm: 2,
            confirm_sites: 1,
            sites: 1,
            queues: 1,
            durables: 0,
            producers: Vec::new(),
            consumers: Vec::new(),
            publishers: Vec::new(),
            listeners: Vec::new(),
            busy_ms: 0,
            disk_ms: rng.pick(&[2, 20]),
            disk_stalls: 0.0,
            net_ms: rng.pick(&[2, 10]),
            loss: rng.pick(&[0.0, 0.02]),
            timing: Timing::default(),
            swim: SwimConfig::default(),
            roll: ROLL,
            faults: FaultMix::default(),
            lanes: false,
            mistake,
        }
    }
}

impl Settings {
    /// Where a host stands.
    pub(crate) fn site_of(&self, host: usize) -> String {
        if self.sites < 2 { String::new() } else { format!("s{}", host % self.sites) }
    }
}

fn producer(rng: &mut Rng, queues: usize) -> Producer {
    Producer {
        queues: (0..queues).collect(),
        left: rng.within(20, 120) as u32,
        window: rng.pick(&[1, 5, 20]),
        pace_ms: rng.pick(&[5, 50, 400]),
        transactions: rng.pick(&[0.0, 0.2]),
        transient: rng.pick(&[0.0, 0.2]),
        filling: rng.pick(&[50, 9_000]),
    }
}

fn publisher(rng: &mut Rng) -> Publisher {
    Publisher { topic: rng.below(2), left: rng.within(20, 200) as u32, pace_ms: rng.pick(&[2, 50, 300]) }
}

/// `calm`: one that does nothing that could bring a message to anybody twice.
fn consumer(rng: &mut Rng, queues: usize, calm: bool) -> Consumer {
    let mode = rng.pick(&["auto", "client", "client-individual", "client-individual"]);
    let goes_in_order = !calm || mode == "auto";
    let mut often = |allowed: bool, from: &[f64]| if allowed { rng.pick(from) } else { 0.0 };
    let nacks = often(!calm, &[0.0, 0.0, 0.05]);
    let deaths = often(!calm, &[0.0, 0.01, 0.05]);
    let farewells = often(goes_in_order, &[0.0, 0.01, 0.05]);
    let unsubscribes = often(goes_in_order, &[0.0, 0.0, 0.02, 0.1]);
    let transactions = often(true, &[0.0, 0.0, 0.1, 0.5]);
    Consumer {
        queues: if rng.chance(0.5) { vec![rng.below(queues)] } else { (0..queues).collect() },
        mode,
        prefetch: rng.pick(&[1, 3, 20]),
        work_ms: rng.pick(&[0, 10, 300]),
        nacks,
        farewells,
        deaths,
        unsubscribes,
        transactions,
        selectors: Vec::new(),
        at_work: AtWork::default(),
    }
}

/// Seconds of work and random faults, then rest.
pub(crate) fn mixed(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    mixed_with(seed, printed, mistake, |_| {})
}

/// The same, in a world that is changed before it begins.
pub(crate) fn mixed_with(
    seed: u64,
    printed: bool,
    mistake: Option<Mistake>,
    change: impl FnOnce(&mut Settings),
) -> World {
    work_and_rest(random_world(seed, printed, mistake, change))
}

fn random_world(seed: u64, printed: bool, mistake: Option<Mistake>, change: impl FnOnce(&mut Settings)) -> World {
    let mut rng = Rng::new(seed);
    let mut settings = Settings::random(&mut rng, mistake);
    change(&mut settings);
    if settings.lanes {
        let some = |rng: &mut Rng| if rng.chance(0.5) { lanes::SELECTORS.to_vec() } else { Vec::new() };
        settings.consumers.iter_mut().for_each(|(consumer, _)| consumer.selectors = some(&mut rng));
    }
    if printed {
        println!("{settings:#?}");
    }
    World::new(settings, rng, printed)
}

fn work_and_rest(mut world: World) -> World {
    world.run_for(world.settings.busy_ms);
    world.heal_and_rest();
    world
}

#[test]
fn mixed_faults_break_no_promise() {
    let count = runs::number_from_env("RHIZOMQ_SIM_SEEDS").unwrap_or(600);
    let started = std::time::Instant::now();
    let outcomes = runs::expect_clean("mixed faults", &|seed, printed| mixed(seed, printed, None), 0..count);
    let sums = outcomes
        .iter()
        .fold([0; 6], |sums: [u64; 6], outcome| std::array::from_fn(|place| sums[place] + outcome.figures[place]));
    let [sent, confirmed, delivered, again, to_topics, from_topics] = sums;
    println!(
        "{} runs in {:.1} s: {sent} messages sent, {confirmed} confirmed, {delivered} delivered, {again} times again; \
         {to_topics} sent to topics, {from_topics} deliveries of these",
        outcomes.len(),
        started.elapsed().as_secs_f32(),
    );
    // A simulator in which nothing happens finds nothing.
    assert!(
        outcomes.len() < 100 || (confirmed > sent / 2 && delivered > confirmed / 2 && again > 0 && from_topics > 0)
    );
}

/// Nobody looks after dead letters here.
fn without_dead_letters(world: &mut World) {
    let policy = Policy { max_deliveries: Some(0), ..Policy::default() };
    (0..world.settings.networks).for_each(|host| world.letters_policy(host, "#", policy.clone()));
}

/// The same with two or three clusters that are merged, by and by, while all that happens.
fn merging(seed: u64, printed: bool) -> World {
    let mut world = random_world(seed, printed, None, |settings| {
        settings.networks = 2 + usize::from(seed.is_multiple_of(5));
        settings.hosts = settings.hosts.max(settings.networks);
        settings.faults.merges = 1 + (seed % 4) as u32;
        settings.faults.every_ms = settings.faults.every_ms.max(700);
    });
    without_dead_letters(&mut world);
    work_and_rest(world)
}

#[test]
fn clusters_that_merge_amid_mixed_faults_keep_every_promise() {
    let count = runs::number_from_env("RHIZOMQ_SIM_SEEDS").unwrap_or(300);
    let outcomes = runs::expect_clean("merges amid faults", &merging, 0..count);
    // That all are one cluster in the end is a promise; there has to be something to promise for.
    let at_work = outcomes.iter().filter(|outcome| outcome.figures[1] > 0).count();
    assert!(at_work * 2 > outcomes.len() || outcomes.len() < 100, "nothing was confirmed in most worlds");
}

/// The same with a cluster that operators split at any time.
fn splitting(seed: u64, printed: bool) -> World {
    let mut world = random_world(seed, printed, None, |settings| {
        settings.hosts = settings.hosts.max(2 + (seed % 4) as usize);
        settings.faults.splits = 1 + (seed % 4) as u32;
        settings.faults.every_ms = settings.faults.every_ms.max(700);
    });
    without_dead_letters(&mut world);
    work_and_rest(world)
}

#[test]
fn clusters_that_are_split_amid_mixed_faults_keep_every_promise() {
    let count = runs::number_from_env("RHIZOMQ_SIM_SEEDS").unwrap_or(300);
    let outcomes = runs::expect_clean("splits amid faults", &splitting, 0..count);
    let at_work = outcomes.iter().filter(|outcome| outcome.figures[1] > 0).count();
    assert!(at_work * 2 > outcomes.len() || outcomes.len() < 100, "nothing was confirmed in most worlds");
}

/// The same with two or three clusters that operators merge and split, who know nothing of each other.
fn merging_and_splitting(seed: u64, printed: bool) -> World {
    let mut world = random_world(seed, printed, None, |settings| {
        settings.networks = 2 + usize::from(seed.is_multiple_of(5));
        settings.hosts = settings.hosts.max(settings.networks + (seed % 4) as usize);
        settings.faults.merges = 1 + (seed % 3) as u32;
        settings.faults.splits = 1 + (seed % 4) as u32;
        settings.faults.every_ms = settings.faults.every_ms.max(700);
    });
    without_dead_letters(&mut world);
    let mut world = work_and_rest(world);
    world.is_told = world.splits_at_random();
    world
}

#[test]
fn clusters_that_merge_and_are_split_amid_mixed_faults_keep_every_promise() {
    let count = runs::number_from_env("RHIZOMQ_SIM_SEEDS").unwrap_or(300);
    runs::expect_told("merges and splits amid faults", &merging_and_splitting, 0..count);
}

#[test]
fn a_seed_fixes_the_run() {
    for seed in 0..6 {
        let script = |seed, printed| mixed(seed, printed, None);
        let [first, second] = [(); 2].map(|()| runs::run(&script, seed, false));
        assert_eq!(first.fingerprint, second.fingerprint, "seed {seed}");
        assert!(first.fingerprint.0 > 100, "seed {seed}: {first:?}");
    }
    let fingerprints: Vec<_> =
        (0..6).map(|seed| runs::run(&|seed, printed| mixed(seed, printed, None), seed, false).fingerprint).collect();
    assert!(fingerprints.windows(2).all(|pair| pair[0] != pair[1]));
}
