//! What the engine's data structures cost: `cargo bench`, about a minute. `cargo bench -- registry` runs what has that in
//! its name; `memory` and `tables` are names, too. The tables at the end show where cost must grow with what changes, and not with what is
//! there; those about whole engines are drawn in `benches/merge.svg`.

use std::{
    cell::RefCell,
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use rhizomq_engine::{
    Block, Engine, Entry, Epoch, Key, NodeId, Now, Planted, RangeSet, Registry, SegmentId, SegmentState, Store, Unit,
    hlc::Clock, store::MemoryStore,
};
use rhizomq_net::registry_sync;

mod plot;

use plot::Curves;

const SEGMENT: SegmentId = SegmentId { node: NodeId([1; 16]), epoch: Epoch(2), number: 3 };

/// Keys of registries.
const KEYS: [u32; 3] = [1_000, 10_000, 100_000];

/// Slots of segments, and of deltas.
const SLOTS: [u32; 3] = [10_000, 100_000, 900_000];
const NEWS: [u32; 3] = [1, 16, 256];

/// Repetitions behind each figure of a table. So many deltas fit into the smallest segment.
const ROUNDS: u32 = 15;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(20)
        .without_plots()
        .configure_from_args();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let is_asked_for =
        |name: &str| arguments.iter().filter(|arg| !arg.starts_with('-')).all(|filter| name.contains(filter));
    // Before anything else has left free memory behind.
    if is_asked_for("memory") {
        memory();
    }
    registry(&mut criterion);
    ranges(&mut criterion);
    blocks(&mut criterion);
    criterion.final_summary();
    if is_asked_for("tables") {
        // `--test` only wants to know whether it runs.
        let is_test = arguments.iter().any(|arg| arg == "--test");
        let text = plot::svg(&tables(if is_test { 1 } else { ROUNDS })).expect("curves can be drawn");
        if !is_test {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/merge.svg");
            std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            println!("\ndrawn in {}", path.display());
        }
    }
}

fn name(number: u32) -> String {
    format!("subscription/{:08x}", number.wrapping_mul(0x9e37_79b9))
}

fn write(registry: &mut Registry, clock: &mut Clock, number: u32, content: u8) {
    let key = Key::register(&name(number));
    let value = registry.register_set(None, &key, vec![content; 20], clock.tick(1)).expect("within limits");
    registry.install(key, value);
}

fn filled(keys: u32) -> Registry {
    let (mut registry, mut clock) = (Registry::default(), Clock::new(NodeId([1; 16]), Epoch(1)));
    (0..keys).for_each(|number| write(&mut registry, &mut clock, number, 7));
    registry
}

fn registry(criterion: &mut Criterion) {
    for keys in KEYS {
        let mut mine = filled(keys);
        let mut clock = Clock::new(NodeId([2; 16]), Epoch(1));
        clock.tick(2);
        let mut group = criterion.benchmark_group("registry");
        let mut number = 0;
        group.bench_function(BenchmarkId::new("merge a value, then the digest of all", keys), |bench| {
            bench.iter(|| {
                number = (number + 1) % keys;
                let key = Key::register(&name(number));
                let theirs = mine.register_set(None, &key, vec![9; 20], clock.tick(2)).expect("within limits");
                let union = mine.merged(None, &key, &theirs).unwrap_or(theirs);
                mine.install(key, union);
                black_box(mine.digest())
            });
        });
        let (from, to) = (Key::register("subscription/3"), Key::register("subscription/c"));
        group.bench_function(BenchmarkId::new("digest of a range of half", keys), |bench| {
            bench.iter(|| black_box(mine.range_digest(from.as_bytes(), Some(to.as_bytes()))));
        });
        let mut theirs = mine.clone();
        write(&mut theirs, &mut clock, keys / 2, 1);
        group.bench_function(BenchmarkId::new("find one difference", keys), |bench| {
            bench.iter(|| {
                let (mut inbox, mut at_mine) = (registry_sync::start(&mine), false);
                while !inbox.is_empty() {
                    let here = if at_mine { &mine } else { &theirs };
                    inbox = inbox.into_iter().flat_map(|message| registry_sync::respond(here, message).0).collect();
                    at_mine = !at_mine;
                }
            });
        });
        group.finish();
    }
}

/// Every second slot: the worst shape there is.
fn scattered(ranges: u32) -> RangeSet {
    (1..=ranges).map(|number| 2 * number).collect()
}

fn ranges(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ranges");
    for count in [10, 1_000, 100_000] {
        let a = scattered(count);
        let b: RangeSet = a.iter().map(|slot| slot + (slot / 6) % 2).collect();
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(BenchmarkId::new("union", count), |bench| bench.iter(|| black_box(a.union(&b))));
        group.bench_function(BenchmarkId::new("difference", count), |bench| bench.iter(|| black_box(a.difference(&b))));
        group.bench_function(BenchmarkId::new("intersection", count), |bench| {
            bench.iter(|| black_box(a.intersection(&b)));
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("contains", count), |bench| {
            bench.iter(|| black_box(a.contains(black_box(count))));
        });
        group.bench_function(BenchmarkId::new("insert in the middle", count), |bench| {
            bench.iter_batched_ref(|| a.clone(), |set| set.insert(count | 1), BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn entries(count: usize, bytes: usize) -> Vec<Entry> {
    (0..count).map(|number| Entry::new("queue", vec![number as u8; bytes])).collect()
}

fn blocks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("block");
    for (count, bytes) in [(1, 256), (256, 256), (16, 4096)] {
        let entries = entries(count, bytes);
        let block = Block::build(SEGMENT, 1, &entries);
        let label = format!("{count} x {bytes} B");
        group.throughput(Throughput::Bytes((count * bytes) as u64));
        group.bench_function(BenchmarkId::new("build", &label), |bench| {
            bench.iter(|| black_box(Block::build(SEGMENT, 1, &entries)));
        });
        group.bench_function(BenchmarkId::new("verify", &label), |bench| {
            bench.iter(|| black_box(Block::decode(block.bytes().clone())).is_ok());
        });
    }
    group.finish();
}

/// How the consumed slots of a segment of `n` lie: half of them are consumed, and `k` become so in each round.
#[derive(Clone, Copy)]
enum Shape {
    /// From the front, as consumers take them mostly.
    InOrder,
    /// Every second one, and then here and there: as bad as it gets.
    Scattered,
}

impl Shape {
    fn removed(self, n: u32) -> RangeSet {
        match self {
            Self::InOrder => RangeSet::from_range(1, n / 2),
            Self::Scattered => scattered(n / 2),
        }
    }

    fn news(self, n: u32, k: u32, round: u32) -> RangeSet {
        match self {
            Self::InOrder => RangeSet::from_range(n / 2 + round * k + 1, n / 2 + round * k + k),
            Self::Scattered => (0..k).map(|number| 2 * (number * (n / 2 / k) + round) + 1).collect(),
        }
    }
}

/// All tables; those about whole engines are drawn, too.
fn tables(rounds: u32) -> Vec<Curves> {
    let mut curves = Vec::new();
    for (what, shape) in [("in order", Shape::InOrder), ("every second slot", Shape::Scattered)] {
        table(&format!("state of a segment, consumed {what}: merge of k slots into n"), |n, k| {
            let state = SegmentState { known: RangeSet::from_range(1, n), removed: shape.removed(n), length: None };
            let prepare = |round| {
                let news = shape.news(n, k, round);
                (state.clone(), SegmentState { known: news.clone(), removed: news, length: None })
            };
            median(rounds, prepare, |(mut state, delta)| {
                state.merge(&delta);
                state
            })
        });
        table(&format!("engine, consumed {what}: a commit that consumes k slots of n, without the write"), |n, k| {
            let (mut engine, id) = engine(n);
            commit(&mut engine, id, &shape.removed(n));
            median(rounds, |round| shape.news(n, k, round), |news| commit(&mut engine, id, &news))
        });
        for is_whole in [false, true] {
            let part = if is_whole { "summary, delta and its merge" } else { "merge of the delta" };
            let title = format!("consumed {what}: {part}, k slots news of n");
            curves.push(table(&title, |n, k| {
                let (other, id) = engine(n);
                let other = RefCell::new(other);
                commit(&mut other.borrow_mut(), id, &shape.removed(n));
                let engine = RefCell::new(replica_of(&other.borrow()));
                let delta = || other.borrow().delta_for(&engine.borrow().summary()).expect("reads");
                let prepare = |round| {
                    commit(&mut other.borrow_mut(), id, &shape.news(n, k, round));
                    (!is_whole).then(delta)
                };
                median(rounds, prepare, |prepared| {
                    let delta = prepared.unwrap_or_else(delta);
                    let mut engine = engine.borrow_mut();
                    engine.merge(delta).expect("whole");
                    take_over(&mut engine);
                })
            }));
        }
    }
    curves
}

fn engine(slots: u32) -> (Engine, SegmentId) {
    let (node, now) = (NodeId([1; 16]), Now::default());
    let opened = Engine::open(MemoryStore::new().reader(), node, Epoch(1), now, Planted::default());
    let (mut engine, _) = opened.expect("an empty store opens");
    let id = engine.begin_segment(now);
    for first in (0..slots).step_by(1000) {
        let entries = entries(1000.min(slots - first) as usize, 8);
        engine.publish(Unit { entries, removals: Vec::new() }).expect("within limits");
        take_over(&mut engine);
    }
    (engine, id)
}

/// Another engine that has what this one has.
fn replica_of(other: &Engine) -> Engine {
    let opened =
        Engine::open(MemoryStore::new().reader(), NodeId([2; 16]), Epoch(1), Now::default(), Planted::default());
    let (mut engine, _) = opened.expect("an empty store opens");
    loop {
        let delta = other.delta_for(&engine.summary()).expect("reads");
        if delta.is_empty() {
            return engine;
        }
        engine.merge(delta).expect("whole");
        take_over(&mut engine);
    }
}

/// All that is queued, but for the write.
fn take_over(engine: &mut Engine) {
    while engine.poll_commit(Now::default()).is_some() {
        engine.handle_committed();
    }
}

fn commit(engine: &mut Engine, id: SegmentId, removed: &RangeSet) {
    engine.merge_removed(id, removed);
    black_box(engine.poll_commit(Now::default()));
    engine.handle_committed();
}

fn median<T, U>(rounds: u32, mut prepare: impl FnMut(u32) -> T, mut run: impl FnMut(T) -> U) -> Duration {
    let mut times: Vec<_> = (0..rounds)
        .map(|round| {
            let input = prepare(round);
            let start = Instant::now();
            let output = black_box(run(input));
            let time = start.elapsed();
            drop(output);
            time
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn table(title: &str, mut cost: impl FnMut(u32, u32) -> Duration) -> Curves {
    println!("\n{title}\n{:>10} {}", "n", NEWS.map(|k| format!("{:>12}", format!("k = {k}"))).join(""));
    let mut costs: Vec<_> = NEWS.map(|k| (k, Vec::new())).into();
    for n in SLOTS {
        let mut cells = String::new();
        for (k, costs) in &mut costs {
            let cost = cost(n, *k);
            costs.push((n, cost));
            cells.push_str(&format!("{:>12}", format!("{cost:.1?}")));
        }
        println!("{n:>10} {cells}");
    }
    Curves { title: title.to_owned(), costs }
}

/// Puts an entry with this number into a registry.
type Filler<'a> = Box<dyn FnMut(&mut Registry, u32) + 'a>;

/// What keys cost in resident memory, as the system sees it.
fn memory() {
    println!("\nregistry of 100,000 keys with names of 21 bytes, resident memory per key");
    let set = |registry: &mut Registry, number: u32| {
        let key = Key::set(&name(number));
        let value = registry.set_add(None, &key, vec![7; 20], (NodeId([1; 16]), Epoch(1))).expect("within limits");
        registry.install(key, value);
    };
    let mut clock = Clock::new(NodeId([1; 16]), Epoch(1));
    let register = |registry: &mut Registry, number: u32| write(registry, &mut clock, number, 7);
    let mut fillers: [(&str, Filler); 2] =
        [("register of 20 bytes", Box::new(register)), ("set of one member of 20 bytes", Box::new(set))];
    for (what, fill) in &mut fillers {
        let before = resident_bytes();
        let mut registry = Registry::default();
        (0..100_000).for_each(|number| fill(&mut registry, number));
        match (before, resident_bytes()) {
            (Some(before), Some(after)) => println!("{what:>30}: {} bytes", after.saturating_sub(before) / 100_000),
            _ => println!("{what:>30}: this system does not tell"),
        }
        // Kept until the end: what is given back would be used by the next one, and not be seen.
        std::mem::forget(registry);
    }
}

fn resident_bytes() -> Option<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
