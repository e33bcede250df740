//! Mistakes planted on purpose: each must be noticed, and as what it is. What random faults seldom lead to gets a story
//! of its own with random details.

use rhizomq_engine::Mistake;

use super::{
    clients::{Producer, Role},
    consumers::Consumer,
    faults::{Fault, group_ways},
    ledger::Kind,
    mixed::mixed,
    play::play,
    rng::Rng,
    runs::{expect_caught, expect_clean},
    story::Story,
    world::{Settings, World},
};

/// A world for a story: no faults but those told, few delays, clients as needed.
fn stage(seed: u64, printed: bool, mistake: Option<Mistake>, change: fn(&mut Settings)) -> World {
    let mut rng = Rng::new(seed);
    let mut settings = Settings::plain(&mut rng, 3, mistake);
    change(&mut settings);
    World::new(settings, rng, printed)
}

fn produce(world: &mut World, host: usize, count: u32) {
    let pace_ms = world.rng.within(1, 20);
    let producer =
        Producer { queues: vec![0], left: count, window: 10, pace_ms, transactions: 0.0, transient: 0.0, filling: 20 };
    world.add_client(Role::Producer(producer), Some(host));
}

fn consume(world: &mut World, host: usize, work_ms: u64) {
    let consumer = Consumer { work_ms, prefetch: 10, ..Consumer::patient(vec![0]) };
    world.add_client(Role::Consumer(consumer), Some(host));
}

/// A story with and without the mistake: with it some seed must show it, without it none may.
fn check(name: &str, mistake: Mistake, expected: &[Kind], story: fn(u64, bool, Option<Mistake>) -> World) {
    expect_caught(name, &|seed, printed| story(seed, printed, Some(mistake)), expected);
    expect_clean(name, &|seed, printed| story(seed, printed, None), 0..20);
}

#[test]
fn mistake_confirm_before_sync() {
    let mistake = Some(Mistake::ConfirmBeforeSync);
    expect_caught("confirm before sync", &|seed, printed| mixed(seed, printed, mistake), &[Kind::FalseReceipt]);
}

#[test]
fn mistake_reuse_epoch() {
    let script = |seed, printed| mixed(seed, printed, Some(Mistake::ReuseEpoch));
    // The same names for other messages, or for the same ones as if nothing had happened in between.
    let expected = [Kind::SharedId, Kind::UnmarkedDuplicate, Kind::Resurrected];
    expect_caught("reuse of an epoch", &script, &expected);
    // Or a new message is thrown away under the name of a consumed one, or it is sent slots of its own that it does not
    // know of.
    let expected = [&expected[..], &[Kind::FalseReceipt, Kind::Malformed]].concat();
    check("reuse of an epoch", Mistake::ReuseEpoch, &expected, old_copy);
}

#[test]
fn mistake_origin_states_length() {
    let expected = [Kind::RemovedUnconsumed, Kind::Lost, Kind::Diverged];
    check("length stated by a restarted origin", Mistake::OriginStatesLength, &expected, old_copy);
}

/// A host runs on after a copy of its disk was made, and then goes on from the copy.
fn old_copy(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let mut world = stage(seed, printed, mistake, |_| {});
    world.run_for(2_000);
    let count = world.rng.within(5, 20) as u32;
    produce(&mut world, 1, count);
    world.run_for(1_500);
    world.strike(Fault::Copy { host: 1 });
    produce(&mut world, 1, count);
    if world.rng.chance(0.3) {
        consume(&mut world, 2, 10);
    }
    world.run_for(1_500);
    let back = world.rng.within(10, 2_000);
    if world.rng.chance(0.5) {
        world.strike(Fault::Cut { ways: group_ways(&[0, 1, 0]), last: 6_000 });
    }
    world.strike(Fault::Restore { host: 1, back });
    // What waited on the copy is consumed before the others can tell what is missing from it.
    consume(&mut world, 1, 0);
    world.run_for(back + 100);
    produce(&mut world, 1, 20);
    world.run_for(8_000);
    world.heal_and_rest();
    world
}

#[test]
fn mistake_knowledge_ahead_of_blocks() {
    let script = |seed, printed| mixed(seed, printed, Some(Mistake::KnowledgeAheadOfBlocks));
    let expected =
        [Kind::Lost, Kind::Diverged, Kind::NotWritable, Kind::FalseReceipt, Kind::DroppedTooEarly, Kind::TooFewCopies];
    expect_caught("knowledge ahead of blocks", &script, &expected);
}

#[test]
fn mistake_removal_from_absence() {
    let script = |seed, printed| mixed(seed, printed, Some(Mistake::RemovalFromAbsence));
    expect_caught("removal inferred from absence", &script, &[Kind::RemovedUnconsumed, Kind::Lost]);
}

#[test]
fn mistake_retire_by_threshold() {
    let script = |seed, printed| mixed(seed, printed, Some(Mistake::RetireByThreshold));
    // A message of a new life is thrown away as one of a finished segment, after its receipt or before.
    let expected =
        [Kind::FalseReceipt, Kind::RemovedUnconsumed, Kind::Lost, Kind::Resurrected, Kind::BadOpen, Kind::Diverged];
    expect_caught("retirement by threshold", &script, &expected);
}

#[test]
fn mistake_stale_proofs() {
    check("stale proofs", Mistake::StaleProofs, &[Kind::DroppedTooEarly, Kind::Lost], busy_surplus);
}

#[test]
fn mistake_draining_vouches() {
    check("a leaving holder vouches", Mistake::DrainingVouches, &[Kind::DroppedTooEarly, Kind::Lost], slow_surplus);
}

/// Two copies leave at the same time, slowly, while a disk is so slow that not all who should hold a message do.
fn slow_surplus(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let mut world = stage(seed, printed, mistake, |settings| {
        settings.hosts = 4;
        settings.copies = 2;
        settings.net_ms = 120;
    });
    world.run_for(3_000);
    produce(&mut world, 0, 20);
    world.run_for(2_000);
    // Each side names a successor: four holders, of which two will be too many.
    let partner = world.rng.within(1, 3) as usize;
    let groups: Vec<_> = (0..4).map(|host| usize::from(host == 0 || host == partner)).collect();
    let last = world.rng.within(13_500, 14_500);
    world.strike(Fault::Cut { ways: group_ways(&groups), last });
    world.run_for(13_000);
    produce(&mut world, 0, 20);
    world.run_for(last - 13_000);
    let others: Vec<_> = (1..4).filter(|&host| host != partner).collect();
    let host = world.rng.pick(&others);
    let ms = world.rng.within(2_000, 6_000);
    world.strike(Fault::Slow { host, ms });
    world.run_for(7_000);
    world.heal_and_rest();
    world
}

/// Holders stay away until successors are named, and come back: now there are too many, and some leave, while messages
/// arrive and links break.
fn busy_surplus(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let mut world = stage(seed, printed, mistake, |settings| {
        settings.hosts = 6;
        settings.copies = 2;
    });
    world.run_for(2_500);
    for host in 0..3 {
        produce(&mut world, host, 40);
    }
    world.run_for(1_000);
    for _ in 0..3 {
        let groups: Vec<_> = (0..6).map(|_| world.rng.below(2)).collect();
        let last = world.rng.within(12_500, 14_000);
        world.strike(Fault::Cut { ways: group_ways(&groups), last });
        let pause = world.rng.within(9_000, last);
        world.run_for(pause);
        for host in 0..3 {
            produce(&mut world, host, 20);
        }
        world.run_for(last - pause + 100);
        for host in 0..3 {
            produce(&mut world, host, 60);
        }
        for _ in 0..8 {
            let (a, b) = world.rng.two_below(6);
            world.strike(Fault::Reset { a, b });
            let pause = world.rng.within(50, 700);
            world.run_for(pause);
        }
    }
    world.heal_and_rest();
    world
}

#[test]
fn mistake_fold_whole() {
    let expected = [Kind::RemovedUnconsumed, Kind::Lost, Kind::Resurrected, Kind::Diverged];
    check("folding a segment as a whole", Mistake::FoldWhole, &expected, all_from_old_copies);
}

/// Hosts go on from copies of their disks that are older than the day another host joined, who alone has what was
/// confirmed since; they consume what they know of, and only then that host comes back.
fn all_from_old_copies(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let mut world = stage(seed, printed, mistake, |settings| settings.hosts = 2);
    world.run_for(2_000);
    let count = world.rng.within(5, 20) as u32;
    produce(&mut world, 0, count);
    world.run_for(1_500);
    (0..2).for_each(|host| world.strike(Fault::Copy { host }));
    let newcomer = world.add_host();
    world.run_for(3_000);
    produce(&mut world, 0, count);
    world.run_for(2_000);
    world.strike(Fault::Crash { host: newcomer, keep: true, back: 30_000 });
    (0..2).for_each(|host| world.strike(Fault::Restore { host, back: 500 }));
    let alone = world.rng.chance(0.3);
    if alone {
        // Then there is not even a second one to compare with.
        world.strike(Fault::Crash { host: 1, keep: true, back: 30_000 });
    }
    consume(&mut world, 0, 0);
    world.run_for(12_000);
    let folded = (0..2).any(|host| {
        let Some(broker) = &world.hosts[host].broker else { return false };
        broker.node().engine().retired().lives().next().is_some()
    });
    if !folded && world.ledger.violation.is_none() && mistake.is_none() {
        world.violate(Kind::Diverged, "what was consumed of the crashed life is not folded".to_owned());
    }
    world.run_for(20_000);
    world.heal_and_rest();
    world
}

#[test]
fn mistake_takeover_unasked() {
    check("takeover without asking", Mistake::TakeoverUnasked, &[Kind::NeedlessDuplicate], owner_dies);
}

/// Slow consumers hold messages of an owner that dies, at edges that live on.
fn owner_dies(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let mut world = stage(seed, printed, mistake, |settings| settings.hosts = 4);
    world.run_for(2_500);
    for host in [0, 2, 3] {
        let work_ms = world.rng.within(100, 2_000);
        consume(&mut world, host, work_ms);
    }
    produce(&mut world, 1, 60);
    let pause = world.rng.within(500, 2_500);
    world.run_for(pause);
    let keep = world.rng.chance(0.5);
    world.strike(Fault::Crash { host: 1, keep, back: 9_000 });
    world.run_for(8_000);
    world.heal_and_rest();
    world
}

#[test]
fn mistake_forget_remote_ack() {
    let expected = [Kind::Resurrected, Kind::Diverged, Kind::NeedlessDuplicate];
    check("a remote acknowledgement forgotten", Mistake::ForgetRemoteAck, &expected, holders_away);
}

#[test]
fn mistake_place_anew() {
    let story = Story::read("clusters_merge");
    let script = |seed, printed| play(&story, seed, printed, Some(Mistake::PlaceAnew));
    expect_caught("holders chosen anew after a merge", &script, &[Kind::Moved]);
}

#[test]
fn mistake_recall_everywhere() {
    check("recalled from everywhere", Mistake::RecallEverywhere, &[Kind::NeedlessDuplicate], links_break);
}

/// Slow consumers on all hosts hold messages while links break, and two hosts never see each other: what came over a link
/// that broke may come again, and nothing else.
fn links_break(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let mut world = stage(seed, printed, mistake, |settings| settings.hosts = 4);
    world.run_for(2_500);
    let (a, b) = world.rng.two_below(4);
    world.strike(Fault::Cut { ways: vec![(a, b), (b, a)], last: 60_000 });
    world.run_for(5_000);
    for host in 0..4 {
        let work_ms = world.rng.within(100, 2_000);
        consume(&mut world, host, work_ms);
        produce(&mut world, host, 40);
    }
    for _ in 0..4 {
        let pause = world.rng.within(500, 2_500);
        world.run_for(pause);
        let (a, b) = world.rng.two_below(4);
        world.strike(Fault::Reset { a, b });
    }
    world.run_for(2_000);
    world.heal_and_rest();
    world
}

#[test]
fn mistake_recall_anew() {
    check("recalled over a new link", Mistake::RecallAnew, &[Kind::NeedlessDuplicate], link_comes_again);
}

/// A slow consumer holds messages at one host while the link between their owner and another host breaks, and comes again: all
/// that is excused is what was on its way over the one that broke.
fn link_comes_again(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let mut world = stage(seed, printed, mistake, |_| {});
    world.run_for(9_000);
    let work_ms = world.rng.within(2_000, 4_000);
    consume(&mut world, 1, work_ms);
    world.run_for(500);
    produce(&mut world, 0, 40);
    world.run_for(1_000);
    let work_ms = world.rng.within(50, 300);
    consume(&mut world, 2, work_ms);
    let pause = world.rng.within(200, 2_000);
    world.run_for(pause);
    world.strike(Fault::Reset { a: 0, b: 2 });
    world.run_for(6_000);
    world.heal_and_rest();
    world
}

#[test]
fn mistake_leave_at_once() {
    check("leaving at once", Mistake::LeaveAtOnce, &[Kind::DroppedTooEarly], |seed, printed, mistake| {
        only_holder_leaves(seed, printed, mistake, false)
    });
    // Did nobody look when copies go, that a message lies nowhere would be seen in the end.
    check("leaving at once, and nobody looks", Mistake::LeaveAtOnce, &[Kind::Lost], |seed, printed, mistake| {
        only_holder_leaves(seed, printed, mistake, true)
    });
}

/// A host leaves for good that alone has what it took.
fn only_holder_leaves(seed: u64, printed: bool, mistake: Option<Mistake>, overlooked: bool) -> World {
    let mut world = stage(seed, printed, mistake, |settings| {
        settings.copies = 1;
        settings.confirm = 1;
    });
    world.overlooks_drops = overlooked;
    world.run_for(3_000);
    produce(&mut world, 0, 20);
    world.run_for(2_500);
    world.strike(Fault::Drain { host: 0, cancel: false });
    world.run_for(20_000);
    world.heal_and_rest();
    world
}

/// A message is acknowledged at a node that holds no copy while those that do are out of reach.
fn holders_away(seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let mut world = stage(seed, printed, mistake, |settings| {
        settings.hosts = 5;
        settings.copies = 2;
    });
    world.run_for(2_500);
    let (writer, alone) = world.rng.two_below(5);
    consume(&mut world, alone, 300);
    produce(&mut world, writer, 40);
    world.run_for(1_000);
    let groups: Vec<_> = (0..5).map(|host| usize::from(host == alone)).collect();
    world.strike(Fault::Cut { ways: group_ways(&groups), last: 8_000 });
    for other in (0..5).filter(|&other| other != alone) {
        world.strike(Fault::Reset { a: alone, b: other });
    }
    world.run_for(7_500);
    world.retire_client(0);
    world.run_for(8_500);
    world.heal_and_rest();
    world
}
