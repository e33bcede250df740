//! A part loses all its disks for good. What a node of the other part has kept of its messages, for it was away when the two
//! parted, is delivered there once an operator gives that part up, and not before.

use std::collections::BTreeSet;

use super::{
    super::{
        faults::Fault,
        ledger::{Msg, MsgId},
        members::SETTLED_MS,
        rng::Rng,
        runs::expect_told,
        world::World,
    },
    NEVER, PARTED_MS, SEEDS, cluster_of, consume, staying,
};

const DAY_MS: u64 = 86_400_000;

impl World {
    /// Messages that hosts of a part took and nobody has consumed, and that lie on a host's disk.
    fn kept_at(&self, host: usize, part: &BTreeSet<usize>) -> BTreeSet<MsgId> {
        let is_kept = |msg: &Msg| {
            let origin = msg.dot.and_then(|dot| self.origin(dot));
            msg.consumed.is_none() && msg.disks.contains(&host) && origin.is_some_and(|origin| part.contains(&origin))
        };
        self.ledger.msgs().filter(|(_, msg)| is_kept(msg)).map(|(id, _)| id).collect()
    }

    /// All that hosts of a part have is lost. They come back as others, who join the cluster of that one.
    fn lose(&mut self, part: &BTreeSet<usize>, survivor: usize) {
        for &host in part {
            self.wipe(host);
            self.hosts[host].secret = self.hosts[survivor].secret.clone();
            self.hosts[host].ticket = Some(survivor);
        }
    }

    /// An operator gives up, on a host, the part that was split off from there.
    fn give_up_others(&mut self, host: usize) {
        let clocks = self.hosts[host].clocks(self.now);
        let Some(broker) = &mut self.hosts[host].broker else { return };
        let node = broker.node().gone().next();
        let given_up = node.map(|node| broker.give_up_part_of(clocks, node));
        self.require(matches!(given_up, Some(Ok(_))), &format!("h{host} does not give its others up: {given_up:?}"));
        self.parting = None;
        self.settle(host);
    }
}

fn lost(seed: u64, printed: bool) -> World {
    // Two copies at least, and more hosts than that: who stays has copies of what others took.
    let mut rng = Rng::new(seed);
    let copies = rng.within(2, 3) as u32;
    let count = rng.within(4, 6) as usize;
    let (mut world, leaving) = cluster_of((count, copies, 1), rng, printed, None);
    let stay = staying(&world, &leaving);
    // Somebody must be left of it when one is away.
    if stay.len() < 2 {
        return world;
    }
    let away = world.rng.pick(&stay);
    world.strike(Fault::Crash { host: away, keep: true, back: NEVER });
    world.run_for(15_000);
    let leavers: Vec<_> = leaving.iter().copied().collect();
    let host = world.rng.pick(&leavers);
    world.split(host, &leaving, None);
    world.run_for(PARTED_MS);
    let is_cut = world.is_cut();
    world.require(is_cut, "they have not parted, and nobody is waited for");
    let kept = world.kept_at(away, &leaving);
    world.lose(&leaving, away);
    world.boot(away);
    world.run_for(SETTLED_MS);
    stay.iter().for_each(|&host| consume(&mut world, host, 0));
    // Whoever has been heard of within minutes is not lost.
    world.run_for(10_000);
    world.hosts.iter_mut().for_each(|host| host.leap(DAY_MS));
    (0..world.hosts.len()).for_each(|host| world.settle(host));
    world.run_for(SETTLED_MS);
    let deliveries = |world: &World| {
        let msgs = world.ledger.msgs().filter(|(id, _)| kept.contains(id));
        msgs.map(|(_, msg)| msg.deliveries).collect::<Vec<_>>()
    };
    let before = deliveries(&world);
    let asked = world.rng.pick(&stay);
    world.give_up_others(asked);
    world.run_for(SETTLED_MS);
    let after = deliveries(&world);
    let is_delivered = before.iter().zip(&after).all(|(before, after)| after == &(before + 1));
    world
        .require(is_delivered, &format!("deliveries of what h{away} has kept of the lost part: {before:?}, {after:?}"));
    world.is_told = !kept.is_empty();
    world.heal_and_rest();
    world
}

#[test]
fn what_is_kept_of_a_part_that_is_lost_for_good_is_delivered_when_that_is_given_up() {
    expect_told("a part is lost", &lost, 0..2 * SEEDS);
}
