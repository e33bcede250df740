//! A node of the part that left is set back to a copy of its disk from before it had left, when all that waited in that copy
//! has been consumed: it comes into its part, and none of that comes back.

use std::collections::BTreeSet;

use rhizomq_engine::Mistake;

use super::{
    super::{
        faults::Fault,
        ledger::{Kind, MsgId},
        members::SETTLED_MS,
        runs::{expect_caught, expect_told},
        world::World,
    },
    NEVER, PARTED_MS, SEEDS, any_host, cluster_with, consume, produce, staying, traffic,
};

/// When the copy is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    BeforeTheOrder,
    /// So that it may have the secret of its part, or have said that it is ready, or neither.
    BeforeTheCut,
}

/// Who is not there when the node is back, and comes later.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Down {
    Nobody,
    ItsPart,
    TheOthers,
}

/// A cluster whose parts have consumed everything since a copy was taken of one that left; which one that is. Nothing, if too
/// few leave for anybody else to remember what was consumed.
fn parted_and_consumed(
    (seed, printed, mistake): (u64, bool, Option<Mistake>),
    taken: Taken,
) -> (World, BTreeSet<usize>, Option<usize>) {
    let (mut world, leaving) = cluster_with(seed, printed, mistake);
    if leaving.len() < 2 || world.settings.copies < 2 {
        return (world, leaving, None);
    }
    let lost = world.rng.pick(&leaving.iter().copied().collect::<Vec<_>>());
    traffic(&mut world);
    if taken == Taken::BeforeTheOrder {
        world.copy_disk(lost);
    }
    let pause = world.rng.within(0, 3_000);
    world.run_for(pause);
    let host = any_host(&mut world);
    world.split(host, &leaving, None);
    if taken == Taken::BeforeTheCut {
        // Somebody who takes long keeps all from cutting meanwhile.
        let slow = world.rng.pick(&staying(&world, &leaving));
        world.strike(Fault::Slow { host: slow, ms: 2_500 });
        let pause = world.rng.within(5, 1_500);
        world.run_for(pause);
        if world.is_cut() {
            return (world, leaving, None);
        }
        world.copy_disk(lost);
        world.strike(Fault::Slow { host: slow, ms: 0 });
    }
    world.run_for(PARTED_MS);
    world.check_parted("parted");
    (0..world.hosts.len()).for_each(|host| consume(&mut world, host, 0));
    world.run_for(30_000);
    let waiting = world.ledger.msgs().filter(|(_, msg)| msg.consumed.is_none()).count();
    world.require(waiting == 0, &format!("{waiting} messages wait in parts with consumers"));
    (world, leaving, Some(lost))
}

fn deliveries(world: &World) -> Vec<(MsgId, u32)> {
    world.ledger.msgs().map(|(id, msg)| (id, msg.deliveries)).collect()
}

/// What is sent at a host from now on is delivered there, as at any other of its part.
fn check_service(world: &mut World, host: usize) {
    let before = deliveries(world).len();
    produce(world, host, 10, 20);
    world.run_for(5_000);
    let all = deliveries(world);
    let count = all[before..].iter().filter(|(_, count)| *count > 0).count();
    world.require(all.len() == before + 10 && count == 10, &format!("h{host} is back, and delivers {count} of 10"));
}

/// It waits for its part, and takes nothing as long as it lacks the secret of that.
fn check_straying(world: &mut World, host: usize) {
    let node = world.hosts[host].broker.as_ref().expect("it is up").node();
    let (has_strayed, lacks) = (node.has_strayed(), node.lacks_network());
    world.require(has_strayed, &format!("h{host} does not know that it has strayed"));
    let before = deliveries(world).len();
    produce(world, host, 5, 100);
    world.run_for(5_000);
    let msgs: Vec<_> =
        world.ledger.msgs().skip(before).map(|(_, msg)| (msg.confirmed.is_some(), msg.deliveries)).collect();
    let is_right = msgs.iter().all(|&(is_confirmed, count)| is_confirmed != lacks && count == 0);
    world.require(is_right, &format!("h{host} lacks the secret: {lacks}; confirmed, deliveries: {msgs:?}"));
}

fn restored(run: (u64, bool, Option<Mistake>), taken: Taken, down: Down) -> World {
    let (mut world, leaving, lost) = parted_and_consumed(run, taken);
    let Some(lost) = lost else { return world };
    let before = deliveries(&world);
    let away: Vec<_> = match down {
        Down::Nobody => Vec::new(),
        Down::ItsPart => leaving.iter().copied().filter(|&host| host != lost).collect(),
        Down::TheOthers => staying(&world, &leaving),
    };
    away.iter().for_each(|&host| world.strike(Fault::Crash { host, keep: true, back: NEVER }));
    let back = world.rng.within(100, 5_000);
    world.strike(Fault::Restore { host: lost, back });
    world.run_for(back + 10_000);
    if down == Down::ItsPart {
        check_straying(&mut world, lost);
    }
    world.run_for(20_000);
    away.iter().for_each(|&host| world.boot(host));
    world.run_for(SETTLED_MS);
    let groups = world.groups();
    world.check_links(&groups, "restored");
    let again = deliveries(&world).into_iter().zip(before).find(|(now, before)| now != before);
    world.require(again.is_none(), &format!("delivered again after it had been consumed: {again:?}"));
    check_service(&mut world, lost);
    world.is_told = true;
    world.mend();
    world.run_for(SETTLED_MS);
    world.heal_and_rest();
    world
}

#[test]
fn one_restored_from_before_the_split_comes_into_its_part_and_brings_nothing_back() {
    for (name, down) in
        [("all are there", Down::Nobody), ("its part comes later", Down::ItsPart), ("alone", Down::TheOthers)]
    {
        let script = |seed, printed| restored((seed, printed, None), Taken::BeforeTheOrder, down);
        expect_told(&format!("restored from before the order, {name}"), &script, 0..2 * SEEDS);
    }
}

#[test]
fn one_restored_from_between_order_and_cut_comes_into_its_part_and_brings_nothing_back() {
    for (name, down) in
        [("all are there", Down::Nobody), ("its part comes later", Down::ItsPart), ("alone", Down::TheOthers)]
    {
        let script = |seed, printed| restored((seed, printed, None), Taken::BeforeTheCut, down);
        expect_told(&format!("restored from before the cut, {name}"), &script, 0..2 * SEEDS);
    }
}

#[test]
fn mistake_serve_astray() {
    let mistake = Some(Mistake::ServeAstray);
    let script = |seed, printed| restored((seed, printed, mistake), Taken::BeforeTheOrder, Down::ItsPart);
    expect_caught("one that has strayed serves", &script, &[Kind::Members, Kind::Resurrected, Kind::Crossed]);
}
