//! Producers that lose their connection and send again, at another host, what they have no receipt for. Each message is
//! taken once: the oracle finds one that lies on disks, or comes, under two names.

use super::{
    clients::{Producer, Role},
    consumers::Consumer,
    faults::Fault,
    ledger::Kind,
    rng::Rng,
    runs::expect_clean,
    world::{Settings, World},
};

const SEEDS: u64 = 12;
const MESSAGES: u32 = 300;

/// Hosts that are linked, a consumer, and two producers that repeat.
fn scenario(name: &str, script: fn(&mut World, [usize; 2])) {
    let whole = |seed, printed| {
        let mut rng = Rng::new(seed);
        let settings = Settings::plain(&mut rng, 3, None);
        let mut world = World::new(settings, rng, printed);
        // The time of an id is over by the clock of whoever looks after it: here they are set.
        world.hosts.iter_mut().for_each(|host| host.wall_offset_ms /= 36_000);
        world.run_for(5_000);
        let producers = [0, 1].map(|host| {
            let left = MESSAGES;
            let producer = Producer {
                queues: vec![0],
                left,
                window: 20,
                pace_ms: 10,
                transactions: 0.0,
                transient: 0.0,
                filling: 50,
            };
            let client = world.add_client(Role::Producer(producer), Some(host));
            world.clients[client].repeats = true;
            client
        });
        world.add_client(Role::Consumer(Consumer::patient(vec![0])), Some(2));
        script(&mut world, producers);
        world.run_for(15_000);
        let open = world.ledger.msgs().filter(|(_, msg)| msg.confirmed.is_none()).count();
        if open > 0 && world.ledger.violation.is_none() {
            world.violate(Kind::NotWritable, format!("{open} are not confirmed, though they were sent again"));
        }
        world.heal_and_rest();
        world
    };
    expect_clean(name, &whole, 0..SEEDS);
}

#[test]
fn a_connection_breaks_and_its_producer_goes_elsewhere() {
    scenario("repeats elsewhere", |world, producers| {
        for _ in 0..8 {
            let pause = world.rng.within(50, 600);
            world.run_for(pause);
            for client in producers {
                let next = world.rng.below(3);
                world.clients[client].home = Some(next);
                if let Some(conn) = world.clients[client].conn {
                    world.client_dies(client, conn);
                }
            }
        }
    });
}

#[test]
fn the_host_that_took_it_dies_with_its_disk_and_the_producer_goes_elsewhere() {
    scenario("repeats after a death", |world, producers| {
        let pause = world.rng.within(200, 2_000);
        world.run_for(pause);
        world.clients[producers[0]].home = Some(world.rng.within(1, 2) as usize);
        world.strike(Fault::Wipe { host: 0, back: 20_000 });
        world.run_for(10_000);
    });
}

#[test]
fn the_host_that_took_it_restarts_and_remembers() {
    scenario("repeats after a restart", |world, _| {
        for _ in 0..3 {
            let pause = world.rng.within(200, 1_000);
            world.run_for(pause);
            // Its producer waits for it: at others, which can't ask it meanwhile, it would be taken as new.
            world.strike(Fault::Crash { host: 0, keep: true, back: 100 });
            world.run_for(5_000);
        }
    });
}
