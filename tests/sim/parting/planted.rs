//! Mistakes that break what a split promises, planted on purpose: each must be noticed, and as what it is.

use rhizomq_engine::Mistake;

use super::{
    super::{
        faults::{Fault, group_ways},
        ledger::Kind,
        runs::{expect_caught, expect_clean},
        world::World,
    },
    NEVER, PARTED_MS, SEEDS, any_host, cluster_with, consume, mend_and_rest, traffic,
};

/// A story with and without the mistake.
fn check(name: &str, mistake: Mistake, expected: &[Kind], story: fn(u64, bool, Option<Mistake>) -> World) {
    expect_caught(name, &|seed, printed| story(seed, printed, Some(mistake)), expected);
    expect_clean(name, &|seed, printed| story(seed, printed, None), 0..2 * SEEDS);
}

#[test]
fn mistake_ready_at_once() {
    check("ready at once", Mistake::ReadyAtOnce, &[Kind::TooFewCopies, Kind::DroppedTooEarly], parted_at_work);
}

fn parted_at_work(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let (mut world, leaving) = cluster_with(seed, printed, mistake);
    traffic(&mut world);
    let host = any_host(&mut world);
    world.split(host, &leaving, None);
    world.run_for(PARTED_MS);
    world.check_parted("parted");
    mend_and_rest(&mut world);
    world
}

#[test]
fn mistake_serve_gone() {
    check("dispatch goes on over a split", Mistake::ServeGone, &[Kind::Crossed], back_and_alone);
}

/// One that stays was down when the cluster was parted, and comes back where nobody is: it takes over what it has of the
/// others, as of dead ones, and has far to go when it hears that they have left.
fn back_and_alone(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let (mut world, leaving) = cluster_with(seed, printed, mistake);
    let staying: Vec<_> = (0..world.hosts.len()).filter(|host| !leaving.contains(host)).collect();
    if staying.len() < 2 {
        return world;
    }
    let away = world.rng.pick(&staying);
    world.strike(Fault::Crash { host: away, keep: true, back: NEVER });
    world.run_for(15_000);
    let others: Vec<_> = staying.into_iter().filter(|&host| host != away).collect();
    let host = world.rng.pick(&others);
    world.split(host, &leaving, None);
    world.run_for(PARTED_MS);
    let groups: Vec<_> = (0..world.hosts.len()).map(|host| usize::from(host == away)).collect();
    let last = world.rng.within(4_000, 6_000);
    world.strike(Fault::Cut { ways: group_ways(&groups), last });
    world.boot(away);
    let work_ms = world.rng.within(100, 400);
    consume(&mut world, away, work_ms);
    world.run_for(last + 15_000);
    mend_and_rest(&mut world);
    world
}
