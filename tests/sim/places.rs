//! Several sites: where copies go, what a site that dies takes with it, and what receipts wait for.

use std::collections::BTreeSet;

use super::{
    clients::{Producer, Role},
    consumers::Consumer,
    faults::Fault,
    ledger::Kind,
    rng::Rng,
    runs::expect_clean,
    world::{Settings, World},
};

/// Hosts on two sites, in turn: the even ones on one, the odd ones on the other.
fn two_sites(seed: u64, printed: bool, hosts: usize, change: fn(&mut Settings)) -> World {
    let mut rng = Rng::new(seed);
    let mut settings = Settings { sites: 2, ..Settings::plain(&mut rng, hosts, None) };
    change(&mut settings);
    let mut world = World::new(settings, rng, printed);
    world.run_for(3_500);
    assert!(world.all_joined(), "the hosts find each other within 3.5 s");
    world
}

fn produce(world: &mut World, host: usize, count: u32, pace_ms: u64) {
    let producer =
        Producer { queues: vec![0], left: count, window: 20, pace_ms, transactions: 0.1, transient: 0.0, filling: 50 };
    world.add_client(Role::Producer(producer), Some(host));
}

fn require(world: &mut World, holds: bool, what: &str) {
    if !holds && world.ledger.violation.is_none() {
        world.violate(Kind::Lost, what.to_owned());
    }
}

/// Messages of a site that are confirmed, and those of them that lie on both sites.
fn spread(world: &World) -> (usize, usize) {
    let is_kept = |msg: &&super::ledger::Msg| msg.confirmed.is_some() && msg.consumed.is_none();
    let sites = |msg: &super::ledger::Msg| msg.disks.iter().map(|host| host % 2).collect::<BTreeSet<_>>().len();
    let kept: Vec<_> = world.ledger.msgs().map(|(_, msg)| msg).filter(is_kept).collect();
    (kept.len(), kept.iter().filter(|msg| sites(msg) == 2).count())
}

#[test]
fn a_site_that_dies_with_all_its_disks_takes_nothing_confirmed_on_two_sites_with_it() {
    let whole = |seed, printed| {
        let mut world = two_sites(seed, printed, 6, |settings| settings.confirm_sites = 2);
        for host in [1, 3, 5] {
            world.strike(Fault::Slow { host, ms: 150 });
        }
        (0..6).for_each(|host| produce(&mut world, host, 80, 5));
        let moment = world.rng.within(250, 450);
        world.run_for(moment);
        let confirmed: Vec<_> =
            world.ledger.msgs().filter(|(_, msg)| msg.confirmed.is_some()).map(|(id, _)| id).collect();
        for host in [0, 2, 4] {
            world.strike(Fault::Wipe { host, back: 60_000 });
        }
        // The other site has a power cut: what was on its way there is lost, too.
        for host in [1, 3, 5] {
            world.strike(Fault::Crash { host, keep: false, back: 500 });
        }
        world.run_for(2_000);
        world.add_client(Role::Consumer(Consumer::patient(vec![0])), Some(1));
        world.run_for(20_000);
        let came = confirmed.iter().filter(|&&id| world.ledger.msg(id).arrived).count();
        let text = format!("{came} of {} that were confirmed arrive at the other site", confirmed.len());
        require(&mut world, came == confirmed.len() && came > 0, &text);
        world.heal_and_rest();
        world
    };
    expect_clean("a site dies", &whole, 0..8);
}

#[test]
fn receipts_wait_for_near_disks_and_copies_follow_to_the_other_site() {
    let whole = |seed, printed| {
        let mut world = two_sites(seed, printed, 5, |settings| (settings.copies, settings.confirm) = (2, 2));
        for host in [1, 3] {
            world.strike(Fault::Slow { host, ms: 3_000 });
        }
        produce(&mut world, 0, 40, 2);
        world.run_for(2_000);
        let quick = world.ledger.msgs().filter(|(_, msg)| msg.confirmed.is_some() && msg.copies >= 2).count();
        require(&mut world, quick == 40, &format!("{quick} of 40 are confirmed while the other site is slow"));
        world.run_for(6_000);
        let (kept, on_both) = spread(&world);
        require(&mut world, (kept, on_both) == (40, 40), &format!("{on_both} of {kept} lie on both sites"));
        let told = world.hosts[0].broker.as_mut().map(|broker| broker.status());
        let told =
            told.map(|status| (status.on_one_site, status.sites.iter().map(|site| site.copies).collect::<Vec<_>>()));
        require(&mut world, told == Some((0, vec![40, 40])), &format!("the status says so: {told:?}"));
        world.heal_and_rest();
        world
    };
    expect_clean("near receipts", &whole, 0..8);
}

#[test]
fn receipts_wait_for_two_sites_if_told_to_as_long_as_both_are_there() {
    let whole = |seed, printed| {
        let mut world = two_sites(seed, printed, 5, |settings| settings.confirm_sites = 2);
        for host in [1, 3] {
            world.strike(Fault::Slow { host, ms: 3_000 });
        }
        produce(&mut world, 0, 20, 2);
        world.run_for(2_000);
        let early = world.ledger.msgs().filter(|(_, msg)| msg.confirmed.is_some()).count();
        require(&mut world, early == 0, &format!("{early} are confirmed without the other site"));
        world.run_for(5_000);
        let (kept, on_both) = spread(&world);
        require(&mut world, (kept, on_both) == (20, 20), &format!("{on_both} of {kept} lie on both sites"));
        for host in [1, 3] {
            world.strike(Fault::Crash { host, keep: true, back: 20_000 });
        }
        world.run_for(2_000);
        produce(&mut world, 0, 20, 2);
        world.run_for(4_000);
        let all = world.ledger.msgs().filter(|(_, msg)| msg.confirmed.is_some()).count();
        require(&mut world, all == 40, &format!("{all} of 40: a site that is gone is not waited for"));
        world.heal_and_rest();
        world
    };
    expect_clean("receipts of two sites", &whole, 0..8);
}

#[test]
fn a_site_that_comes_later_gets_what_is_taken_from_then_on() {
    let whole = |seed, printed| {
        let mut rng = Rng::new(seed);
        let settings = Settings { sites: 2, copies: 2, ..Settings::plain(&mut rng, 3, None) };
        let mut world = World::new(settings, rng, printed);
        world.strike(Fault::Crash { host: 1, keep: true, back: 6_000 });
        world.run_for(2_500);
        produce(&mut world, 0, 20, 2);
        world.run_for(3_000);
        let before = spread(&world);
        require(&mut world, before == (20, 0), &format!("{before:?}: the first copies lie on one site"));
        world.run_for(5_000);
        produce(&mut world, 0, 20, 2);
        world.run_for(3_000);
        let after = spread(&world);
        require(&mut world, after == (40, 20), &format!("{after:?}: what was there stays, what comes is spread"));
        world.heal_and_rest();
        world
    };
    expect_clean("a site comes later", &whole, 0..8);
}
