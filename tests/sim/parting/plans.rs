//! What a split would come to, as any node tells it before.

use rhizomq_net::SplitOrder;

use super::{
    super::{faults::Fault, runs::expect_clean, world::World},
    NEVER, SEEDS, cluster,
};

impl World {
    /// What waits that was taken by `leaving`, and what by others; over all queues.
    fn waiting_by(&self, leaving: &std::collections::BTreeSet<usize>) -> (u64, u64) {
        let mut counts = (0, 0);
        for (_, msg) in self.ledger.msgs().filter(|(_, msg)| msg.consumed.is_none()) {
            let Some(origin) = msg.dot.and_then(|dot| self.origin(dot)) else { continue };
            *if leaving.contains(&origin) { &mut counts.0 } else { &mut counts.1 } += 1;
        }
        counts
    }
}

#[test]
fn a_plan_counts_what_goes_with_each_part_wherever_it_lies_and_whoever_is_asked() {
    let script = |seed, printed| {
        let (mut world, leaving) = cluster(seed, printed);
        // What a dead node took is looked after by others, and stays.
        let stay: Vec<_> = (0..world.hosts.len()).filter(|host| !leaving.contains(host)).collect();
        if stay.len() > 1 && world.settings.confirm > 1 && world.rng.chance(0.5) {
            let host = world.rng.pick(&stay);
            world.strike(Fault::Crash { host, keep: true, back: NEVER });
            world.run_for(15_000);
        }
        world.run_for(2_500);
        let expected = world.waiting_by(&leaving);
        let order = SplitOrder {
            name: "west".to_owned(),
            leaving: leaving.iter().map(|&host| world.hosts[host].identity).collect(),
            size: None,
        };
        for host in 0..world.hosts.len() {
            let Some(broker) = &world.hosts[host].broker else { continue };
            let (_, backlogs) = match broker.plan_split(&order) {
                Ok(plan) => plan,
                Err(error) => {
                    world.require(false, &format!("h{host} has no plan: {error}"));
                    break;
                }
            };
            let found = backlogs.values().fold((0, 0), |sum, backlog| (sum.0 + backlog.leave, sum.1 + backlog.stay));
            world.require(found == expected, &format!("h{host} tells {found:?}, and it is {expected:?}"));
        }
        world.heal_and_rest();
        world
    };
    expect_clean("plans of splits", &script, 0..2 * SEEDS);
}
