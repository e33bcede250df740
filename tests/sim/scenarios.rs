//! Scenarios by hand: what users expect of a broker whose nodes die, split and come back. A few seeds each vary delays.

use super::{
    clients::{Producer, Role},
    consumers::Consumer,
    faults::{Fault, group_ways},
    ledger::Kind,
    rng::Rng,
    runs::expect_clean,
    topics::{Listener, Publisher},
    world::{Settings, World},
};

/// Three hosts, linked, with `copies` 3 and `confirm` 2, in a world in which nothing happens by itself.
fn three(seed: u64, printed: bool) -> World {
    let mut rng = Rng::new(seed);
    let settings = Settings::plain(&mut rng, 3, None);
    let mut world = World::new(settings, rng, printed);
    world.run_for(2_500);
    assert!(world.all_joined(), "three hosts find each other within 2.5 s");
    world
}

fn produce(world: &mut World, host: usize, count: u32) -> usize {
    let producer = Producer {
        queues: vec![0],
        left: count,
        window: 20,
        pace_ms: 2,
        transactions: 0.1,
        transient: 0.0,
        filling: 50,
    };
    world.add_client(Role::Producer(producer), Some(host))
}

fn consume(world: &mut World, host: usize) -> usize {
    world.add_client(Role::Consumer(Consumer::patient(vec![0])), Some(host))
}

fn confirmed(world: &World) -> usize {
    world.ledger.msgs().filter(|(_, msg)| msg.confirmed.is_some()).count()
}

fn arrived(world: &World) -> usize {
    world.ledger.msgs().filter(|(_, msg)| msg.arrived).count()
}

/// Fails the run unless so it is.
fn require(world: &mut World, holds: impl Fn(&World) -> bool, what: &str) {
    if !holds(world) && world.ledger.violation.is_none() {
        let (confirmed, arrived) = (confirmed(world), arrived(world));
        world.violate(Kind::Lost, format!("{what}; {confirmed} confirmed, {arrived} arrived"));
    }
}

fn scenario(name: &str, script: fn(&mut World)) {
    let whole = |seed, printed| {
        let mut world = three(seed, printed);
        script(&mut world);
        world.heal_and_rest();
        world
    };
    expect_clean(name, &whole, 0..8);
}

#[test]
fn the_origin_dies_after_its_receipts_and_its_disk_is_gone() {
    scenario("origin dies", |world| {
        produce(world, 0, 100);
        world.run_for(2_000);
        require(world, |world| confirmed(world) == 100, "100 messages are confirmed in 2 s");
        world.strike(Fault::Wipe { host: 0, back: 60_000 });
        consume(world, 2);
        world.run_for(8_000);
        require(world, |world| arrived(world) == 100, "a consumer elsewhere gets all of them");
        world.boot(0);
        world.run_for(10_000);
        let again: u32 = world.ledger.msgs().map(|(_, msg)| msg.deliveries - 1).sum();
        require(world, |_| again == 0, "nothing comes back when the host does, empty");
    });
}

#[test]
fn a_restarted_origin_delivers_what_it_took_and_nothing_else() {
    scenario("origin restarts", |world| {
        produce(world, 0, 60);
        world.run_for(2_000);
        let consumer = consume(world, 0);
        world.run_for(200);
        world.retire_client(consumer);
        world.run_for(1_000);
        world.strike(Fault::Crash { host: 0, keep: false, back: 500 });
        world.run_for(3_000);
        consume(world, 0);
        world.run_for(6_000);
        require(world, |world| arrived(world) == 60, "all arrive in the end");
    });
}

/// Both sides of a cut take messages and deliver, throughout.
fn cut_into(name: &str, groups: &'static [usize; 3]) {
    let whole = move |seed, printed| {
        let mut world = three(seed, printed);
        for host in 0..3 {
            consume(&mut world, host);
        }
        world.strike(Fault::Cut { ways: group_ways(groups), last: 20_000 });
        world.run_for(5_000);
        for host in 0..3 {
            produce(&mut world, host, 40);
        }
        world.run_for(10_000);
        require(&mut world, |world| confirmed(world) == 120, "every side confirms");
        require(&mut world, |world| arrived(world) == 120, "every side delivers");
        world.run_for(8_000);
        world.heal_and_rest();
        world
    };
    expect_clean(name, &whole, 0..8);
}

#[test]
fn cut_into_two_and_one_all_sides_go_on() {
    cut_into("2|1", &[0, 0, 1]);
}

#[test]
fn cut_into_three_all_sides_go_on() {
    cut_into("1|1|1", &[0, 1, 2]);
}

#[test]
fn a_cut_of_one_pair_or_one_direction_stops_nobody() {
    for ways in [&[(0, 1), (1, 0)][..], &[(0, 1)], &[(0, 1), (0, 2)], &[(1, 0), (0, 2)]] {
        let whole = move |seed, printed| {
            let mut world = three(seed, printed);
            world.strike(Fault::Cut { ways: ways.to_vec(), last: 15_000 });
            for host in 0..3 {
                consume(&mut world, host);
                produce(&mut world, host, 40);
            }
            world.run_for(14_000);
            require(&mut world, |world| confirmed(world) == 120, "everybody confirms");
            require(&mut world, |world| arrived(world) == 120, "everything is delivered");
            world.heal_and_rest();
            world
        };
        expect_clean("partial cut", &whole, 0..4);
    }
}

#[test]
fn what_one_side_acknowledged_stays_consumed_when_the_sides_meet() {
    scenario("acknowledged on one side", |world| {
        produce(world, 0, 40);
        world.run_for(2_000);
        world.strike(Fault::Cut { ways: group_ways(&[0, 0, 1]), last: 12_000 });
        world.run_for(5_000);
        produce(world, 2, 20);
        consume(world, 1);
        world.run_for(5_000);
        require(world, |world| arrived(world) >= 40, "the side with the origin delivers");
        world.run_for(10_000);
        require(world, |world| arrived(world) == 60, "then comes what the other side took");
        let again: u32 = world.ledger.msgs().map(|(_, msg)| msg.deliveries.saturating_sub(1)).sum();
        require(world, |_| again == 0, "nothing was delivered on the other side, so nothing comes twice");
    });
}

#[test]
fn both_sides_may_deliver_but_the_second_time_is_marked() {
    scenario("both sides deliver", |world| {
        produce(world, 0, 40);
        world.run_for(2_000);
        world.strike(Fault::Cut { ways: group_ways(&[0, 1, 1]), last: 15_000 });
        world.run_for(5_000);
        consume(world, 0);
        consume(world, 2);
        world.run_for(9_000);
        // That the second time is marked is checked on every delivery of every run.
        require(world, |world| arrived(world) == 40, "all arrive");
    });
}

fn duplicates(world: &mut World) -> u64 {
    world.hosts.iter_mut().filter_map(|host| Some(host.broker.as_mut()?.status().duplicates)).sum()
}

#[test]
fn what_comes_after_a_cut_has_healed_is_neither_marked_nor_counted() {
    scenario("after the cut", |world| {
        produce(world, 0, 40);
        world.run_for(2_000);
        world.strike(Fault::Cut { ways: group_ways(&[0, 1, 1]), last: 12_000 });
        world.run_for(5_000);
        consume(world, 0);
        consume(world, 2);
        world.run_for(6_000);
        let twice = world.ledger.msgs().filter(|(_, msg)| msg.deliveries == 2).count();
        require(world, |_| twice == 40, "both sides deliver all");
        world.run_for(6_000);
        require(world, World::all_joined, "the cut has healed");
        let counted = duplicates(world);
        produce(world, 0, 30);
        world.run_for(3_000);
        require(world, |world| arrived(world) == 70, "new messages arrive");
        let plain =
            |world: &World| world.ledger.msgs().skip(40).all(|(_, msg)| (msg.deliveries, msg.unmarked) == (1, 1));
        require(world, plain, "each once, and without a mark");
        let more = duplicates(world) - counted;
        require(world, |_| more == 0, "and none of them is counted as a duplicate");
    });
}

#[test]
fn what_the_other_side_delivered_in_vain_is_marked_when_its_origin_delivers_it() {
    scenario("delivered in vain", |world| {
        produce(world, 0, 40);
        world.run_for(2_000);
        world.strike(Fault::Cut { ways: group_ways(&[0, 1, 1]), last: 12_000 });
        world.run_for(5_000);
        // One that takes everything, finishes nothing, and dies before the sides meet.
        let idler = Consumer { work_ms: 60_000, ..Consumer::patient(vec![0]) };
        let idler = world.add_client(Role::Consumer(idler), Some(2));
        world.run_for(3_000);
        require(world, |world| arrived(world) == 40, "the other side delivers");
        world.retire_client(idler);
        world.run_for(9_000);
        consume(world, 0);
        world.run_for(3_000);
        // The origin has never delivered any of it.
        let marked = |world: &World| world.ledger.msgs().all(|(_, msg)| (msg.deliveries, msg.unmarked) == (2, 0));
        require(world, marked, "all come again, marked");
    });
}

#[test]
fn an_old_copy_of_a_disk_brings_nothing_back() {
    scenario("old copy", |world| {
        produce(world, 1, 50);
        world.run_for(2_000);
        world.strike(Fault::Copy { host: 1 });
        let consumer = consume(world, 0);
        world.run_for(3_000);
        require(world, |world| arrived(world) == 50, "all are consumed");
        world.retire_client(consumer);
        world.run_for(500);
        world.strike(Fault::Restore { host: 1, back: 1_000 });
        consume(world, 1);
        consume(world, 2);
        world.run_for(10_000);
        let again: u32 = world.ledger.msgs().map(|(_, msg)| msg.deliveries - 1).sum();
        require(world, |_| again == 0, "what was consumed does not come back with the copy");
        produce(world, 1, 50);
        world.run_for(3_000);
        require(world, |world| arrived(world) == 100, "and new messages have names of their own");
    });
}

#[test]
fn all_crash_at_once_and_every_confirmed_message_is_there() {
    scenario("all crash", |world| {
        for host in 0..3 {
            produce(world, host, 200);
        }
        let pause = world.rng.within(50, 900);
        world.run_for(pause);
        world.strike(Fault::Blackout { back: 3_000 });
        world.run_for(5_000);
        require(world, |world| confirmed(world) > 0, "some were confirmed before");
    });
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    scenario("full disk", |world| {
        consume(world, 2);
        world.strike(Fault::Full { host: 0, times: 2 });
        produce(world, 0, 60);
        world.strike(Fault::Full { host: 1, times: 2 });
        produce(world, 1, 60);
        world.run_for(8_000);
        let sent = world.ledger.msgs().count();
        // At most a producer's window of 20 is in each refused write.
        let is_right = |world: &World| sent == 120 && (40..120).contains(&confirmed(world));
        require(world, is_right, "refused messages are reported, later ones taken");
    });
}

#[test]
fn a_new_host_takes_the_place_of_a_dead_one_and_leaves_when_that_returns() {
    scenario("successor", |world| {
        produce(world, 0, 60);
        world.run_for(2_000);
        let fourth = world.add_host();
        world.run_for(3_000);
        world.strike(Fault::Crash { host: 1, keep: true, back: 40_000 });
        world.run_for(20_000);
        let on_fourth = world.ledger.msgs().filter(|(_, msg)| msg.disks.contains(&fourth)).count();
        require(world, |_| on_fourth == 60, "the new host holds copies in place of the dead one");
        world.run_for(30_000);
        let holders: Vec<_> = world.ledger.msgs().map(|(_, msg)| msg.disks.len()).collect();
        require(world, |_| holders.iter().all(|&count| count == 3), "one of the four copies has left");
    });
}

/// Hosts 1 and 2 can't store what they are sent: for a producer at host 0 that must not last.
fn holders_that_do_not_store(name: &'static str, faults: &'static [Fault], patience_ms: u64) {
    let whole = move |seed, printed| {
        let mut world = three(seed, printed);
        faults.iter().for_each(|fault| world.strike(fault.clone()));
        produce(&mut world, 0, 40);
        world.run_for(patience_ms);
        require(&mut world, |world| confirmed(world) == 40, "all is confirmed although no holder stores anything");
        world.heal_and_rest();
        world
    };
    expect_clean(name, &whole, 0..8);
}

#[test]
fn holders_with_full_disks_are_not_waited_for() {
    let full = &[Fault::Full { host: 1, times: 10_000 }, Fault::Full { host: 2, times: 10_000 }];
    holders_that_do_not_store("full holders", full, 4_000);
}

#[test]
fn holders_whose_disks_hang_are_not_waited_for_long() {
    let hung = &[Fault::Slow { host: 1, ms: 60_000 }, Fault::Slow { host: 2, ms: 60_000 }];
    holders_that_do_not_store("hung holders", hung, 14_000);
}

#[test]
fn when_all_holders_die_others_within_reach_are_named_at_once() {
    let whole = |seed, printed| {
        let mut rng = Rng::new(seed);
        let settings = Settings::plain(&mut rng, 6, None);
        let mut world = World::new(settings, rng, printed);
        world.run_for(3_000);
        produce(&mut world, 0, 20);
        world.run_for(1_500);
        let holding = |world: &World, host| world.ledger.msgs().any(|(_, msg)| msg.disks.contains(&host));
        let dying: Vec<_> = (1..6).filter(|&host| holding(&world, host)).collect();
        require(&mut world, |_| dying.len() == 2, "two others hold a copy");
        dying.iter().for_each(|&host| world.strike(Fault::Crash { host, keep: true, back: 30_000 }));
        world.run_for(4_000);
        let first = world.ledger.msgs().count();
        produce(&mut world, 0, 20);
        world.run_for(3_000);
        let copies: Vec<_> = world.ledger.msgs().skip(first).map(|(_, msg)| msg.copies).collect();
        require(&mut world, |_| copies.len() == 20 && copies.iter().all(|&copies| copies >= 2), "two copies of each");
        world.heal_and_rest();
        world
    };
    expect_clean("all holders die", &whole, 0..8);
}

#[test]
fn auto_consumers_that_come_and_go_in_order_get_everything_once() {
    scenario("auto, in order", |world| {
        for host in 0..3 {
            produce(world, host, 150);
            let mode = "auto";
            let consumer = Consumer { mode, farewells: 0.05, unsubscribes: 0.05, ..Consumer::patient(vec![0]) };
            world.add_client(Role::Consumer(consumer), Some(host));
        }
        world.run_for(20_000);
        require(world, |world| arrived(world) == 450, "all arrive");
        let again: u32 = world.ledger.msgs().map(|(_, msg)| msg.deliveries - 1).sum();
        require(world, |_| again == 0, "and none comes twice");
    });
}

#[test]
fn acknowledgements_count_when_their_transaction_is_committed_and_not_when_it_is_aborted() {
    scenario("consumer transactions", |world| {
        produce(world, 0, 100);
        for (host, mode) in [(0, "client-individual"), (1, "client"), (2, "client-individual")] {
            let consumer = Consumer { mode, transactions: 0.5, prefetch: 8, ..Consumer::patient(vec![0]) };
            world.add_client(Role::Consumer(consumer), Some(host));
        }
        world.run_for(10_000);
        require(world, |world| arrived(world) == 100, "all arrive");
        let consumed = world.ledger.msgs().filter(|(_, msg)| msg.consumed.is_some()).count();
        require(world, |_| consumed == 100, "all are committed in the end");
        let again: u32 = world.ledger.msgs().map(|(_, msg)| msg.deliveries - 1).sum();
        require(world, |_| again == 0, "what is aborted stays with its consumer");
    });
}

#[test]
fn nodes_that_stop_in_order_one_after_the_other_lose_nothing_and_stop_nobody() {
    scenario("rolling restart", |world| {
        for host in 0..3 {
            produce(world, host, 150);
        }
        consume(world, 2);
        for host in 0..3 {
            world.run_for(700);
            world.strike(Fault::Stop { host, back: 300 });
            world.run_for(300);
            require(world, |world| !world.hosts[host].is_up(), "it stops at once when nothing hinders it");
            world.run_for(2_000);
            require(world, |world| world.all_joined(), "it is back");
        }
        world.run_for(8_000);
        let missing = world.ledger.msgs().filter(|(_, msg)| msg.confirmed.is_some() && !msg.arrived).count();
        require(world, |_| missing == 0, "all that was confirmed arrives");
    });
}

#[test]
fn a_lone_node_that_stops_in_order_leaves_no_segment_open() {
    let whole = |seed, printed| {
        let mut rng = Rng::new(seed);
        let settings = Settings::plain(&mut rng, 1, None);
        let mut world = World::new(settings, rng, printed);
        for _ in 0..3 {
            produce(&mut world, 0, 20);
            world.run_for(1_000);
            world.strike(Fault::Stop { host: 0, back: 100 });
            world.run_for(3_000);
        }
        require(&mut world, |world| confirmed(world) == 60, "all are confirmed");
        consume(&mut world, 0);
        world.run_for(3_000);
        require(&mut world, |world| arrived(world) == 60, "and arrive after the last start");
        world.run_for(1_000);
        let open = world.hosts[0].broker.as_ref().map_or(0, |broker| broker.node().engine().segments().count());
        require(&mut world, |_| open <= 1, "the segments of ended lives are finished");
        world.heal_and_rest();
        world
    };
    expect_clean("a lone node stops", &whole, 0..8);
}

#[test]
fn what_is_sent_to_a_topic_comes_to_all_who_listen_anywhere() {
    scenario("topics", |world| {
        for topic in [0, 0, 1, 0] {
            world.add_client(Role::Listener(Listener { topic, since: None }), Some(topic));
        }
        world.run_for(4_000);
        for (topic, host) in [(0, 0), (0, 2), (1, 2)] {
            world.add_client(Role::Publisher(Publisher { topic, left: 50, pace_ms: 3 }), Some(host));
        }
        world.run_for(4_000);
        let figures = world.topics.figures();
        require(world, |_| figures == (150, 350), "two publishers for three listeners, one for one");
    });
}

#[test]
fn what_nobody_fetches_survives_the_rewriting_of_the_blocks_it_lies_in() {
    let whole = |seed, printed| {
        let mut rng = Rng::new(seed);
        let settings = Settings { queues: 5, disk_ms: 40, ..Settings::plain(&mut rng, 3, None) };
        let mut world = World::new(settings, rng, printed);
        world.run_for(2_500);
        let producer = Producer {
            queues: (0..5).collect(),
            left: 300,
            window: 50,
            pace_ms: 1,
            transactions: 0.8,
            transient: 0.0,
            filling: 4_000,
        };
        world.add_client(Role::Producer(producer), Some(0));
        // Of five queues one has no consumer: its messages stay behind in blocks of which most is consumed.
        world.add_client(Role::Consumer(Consumer::patient((1..5).collect())), Some(1));
        world.run_for(4_000);
        let bytes = |world: &World| world.hosts[2].disk.block_bytes();
        let before = bytes(&world);
        world.run_for(25_000);
        let (left, kept) = (world.ledger.msgs().filter(|(_, msg)| msg.consumed.is_none()).count(), bytes(&world));
        require(&mut world, |_| left > 20 && kept < before * 9 / 10, "the space of what was consumed comes back");
        let host = world.rng.below(3);
        world.strike(Fault::Crash { host, keep: true, back: 500 });
        world.run_for(3_000);
        world.heal_and_rest();
        require(&mut world, |world| arrived(world) == 300, "and the rest arrives");
        world
    };
    expect_clean("rewritten blocks", &whole, 0..8);
}

#[test]
fn a_backup_that_was_full_for_a_moment_is_whole_again() {
    let whole = |seed, printed| {
        let mut rng = Rng::new(seed);
        let settings = Settings::plain(&mut rng, 2, None);
        let mut world = World::new(settings, rng, printed);
        world.run_for(2_000);
        consume(&mut world, 0);
        world.run_for(500);
        world.strike(Fault::Full { host: 1, times: 2 });
        produce(&mut world, 0, 40);
        world.run_for(20_000);
        produce(&mut world, 0, 40);
        world.run_for(3_000);
        world.heal_and_rest();
        world
    };
    expect_clean("momentarily full backup", &whole, 0..20);
}

#[test]
fn what_was_consumed_and_folded_stays_so_for_an_owner_that_comes_back_with_a_slow_disk() {
    let whole = |seed, printed| {
        let mut world = three(seed, printed);
        produce(&mut world, 1, 60);
        world.run_for(2_000);
        world.strike(Fault::Crash { host: 0, keep: true, back: 100_000 });
        // The origin's next life: the segment has no length, and is folded when all of it is consumed.
        world.strike(Fault::Crash { host: 1, keep: true, back: 300 });
        world.run_for(1_500);
        let first = consume(&mut world, 2);
        world.run_for(9_000);
        require(&mut world, |world| arrived(world) == 60, "all arrive");
        world.retire_client(first);
        world.strike(Fault::Crash { host: 1, keep: true, back: 5_600 });
        world.strike(Fault::Cut { ways: group_ways(&[0, 1, 1]), last: 5_000 });
        world.strike(Fault::Boot { host: 0 });
        let slow = Consumer { work_ms: 400, prefetch: 1, ..Consumer::patient(vec![0]) };
        world.add_client(Role::Consumer(slow), Some(0));
        world.run_for(3_000);
        world.strike(Fault::Slow { host: 0, ms: 15_000 });
        world.run_for(14_000);
        world.heal_and_rest();
        world
    };
    expect_clean("folded, then claimed", &whole, 0..20);
}
