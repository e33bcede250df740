//! Users: what operators say of them, at any hosts, over cuts and crashes. Whoever was removed stays out, the latest passcode
//! is the one, and in the end all hosts say the same of everybody.

use rhizomq_stomp::{
    Broker, ConnId, LoginCheck, Verdict,
    frame::{Command, Frame, Version, encode},
    transport::Peer,
    users::{AccessSpec, Cost, Passcode, UserChange, UserError, Verifier},
};

use super::{
    agenda::Happening,
    clients::{Producer, Role},
    faults::{Fault, FaultMix, group_ways},
    ledger::Kind,
    rng::Rng,
    runs::expect_clean,
    world::{Settings, World},
};

const SEEDS: u64 = 24;

/// Clients that only try to log in have numbers from here on.
const PROBES: u64 = 1 << 40;

/// For checks in a debug build, thousands of them.
const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

fn verifier(passcode: &str) -> Verifier {
    let passcode = Passcode::new(passcode.as_bytes().to_vec().into()).expect("a passcode");
    Verifier::new(&passcode, [1; 16], CHEAP).expect("memory for a hash")
}

fn add(name: &str, passcode: &str) -> UserChange {
    UserChange::Add { name: name.to_owned(), verifier: Some(verifier(passcode)), access: AccessSpec::default() }
}

fn passwd(name: &str, passcode: &str) -> UserChange {
    UserChange::Passcode { name: name.to_owned(), verifier: verifier(passcode) }
}

fn remove(name: &str) -> UserChange {
    UserChange::Remove { name: name.to_owned() }
}

impl World {
    /// A passcode is checked, which takes no time here.
    pub(crate) fn check_login(&mut self, host: usize, conn: ConnId, check: &LoginCheck) {
        let is_right = check.verifier.check(&check.passcode).expect("memory for a hash");
        let clocks = self.hosts[host].clocks(self.now);
        if let Some(broker) = &mut self.hosts[host].broker {
            broker.handle_login_checked(clocks, conn, if is_right { Verdict::Right } else { Verdict::Wrong });
        }
    }

    /// An operator changes a user at a host, if that is up.
    fn change_user(&mut self, host: usize, change: &UserChange) -> Option<Result<(), UserError>> {
        let clocks = self.hosts[host].clocks(self.now);
        let result = self.hosts[host].broker.as_mut()?.change_user(clocks, change);
        self.settle(host);
        Some(result.map(drop))
    }

    /// Whether somebody from another machine gets in at a host; `None` if the host is down.
    fn gets_in(&mut self, host: usize, name: &str, passcode: &str) -> Option<bool> {
        let clocks = self.hosts[host].clocks(self.now);
        self.conns_made += 1;
        let conn = ConnId(PROBES + self.conns_made);
        self.probes.insert(conn, Vec::new());
        let peer = Peer { address: Some(([192, 0, 2, 1], 1).into()), certificate: None };
        let headers = [("accept-version", "1.2"), ("login", name), ("passcode", passcode)];
        let bytes = encode(&Frame::new(Command::Connect, headers), Version::V1_2);
        let broker = self.hosts[host].broker.as_mut()?;
        broker.handle_client_open_from(clocks, conn, peer);
        broker.handle_client_bytes(clocks, conn, &bytes);
        self.settle(host);
        if let Some(broker) = &mut self.hosts[host].broker {
            broker.handle_client_closed(clocks, conn);
        }
        self.settle(host);
        self.probes.remove(&conn).map(|said| said.starts_with(b"CONNECTED"))
    }

    fn require_login(&mut self, host: usize, (name, passcode): (&str, &str), is_in: bool, why: &str) {
        let got = self.gets_in(host, name, passcode);
        if got.is_some_and(|got| got != is_in) && self.ledger.violation.is_none() {
            self.violate(Kind::Diverged, format!("{name}/{passcode} at h{host}: in is {}; {why}", !is_in));
        }
    }

    /// All hosts say the same of all users.
    fn require_one_opinion(&mut self) {
        let opinions: Vec<_> = self.hosts.iter().filter_map(|host| host.broker.as_ref()).map(Broker::users).collect();
        if opinions.windows(2).any(|pair| pair[0] != pair[1]) && self.ledger.violation.is_none() {
            self.violate(Kind::Diverged, format!("of users: {opinions:?}"));
        }
    }
}

fn world_of(seed: u64, printed: bool, hosts: usize) -> World {
    let mut rng = Rng::new(seed);
    let settings = Settings::plain(&mut rng, hosts, None);
    let mut world = World::new(settings, rng, printed);
    world.run_for(2_500);
    world
}

#[test]
fn a_user_who_is_added_on_one_side_of_a_cut_logs_in_everywhere_after_it() {
    let script = |seed, printed| {
        let mut world = world_of(seed, printed, 3);
        let alone = world.rng.below(3);
        let groups: Vec<_> = (0..3).map(|host| usize::from(host == alone)).collect();
        world.strike(Fault::Cut { ways: group_ways(&groups), last: 10_000 });
        world.run_for(4_000);
        let at = world.rng.below(3);
        world.change_user(at, &add("ada", "lovelace"));
        world.run_for(3_000);
        for host in 0..3 {
            let knows = (host == alone) == (at == alone);
            world.require_login(host, ("ada", "lovelace"), knows, "it is told within its side of the cut");
        }
        world.run_for(13_000);
        for host in 0..3 {
            world.require_login(host, ("ada", "lovelace"), true, "the cut is over");
            world.require_login(host, ("ada", "byron"), false, "that is not the passcode");
        }
        world.change_user(at, &remove("ada"));
        world.run_for(3_000);
        world.heal_and_rest();
        world.require_one_opinion();
        world
    };
    expect_clean("user over a cut", &script, 0..SEEDS);
}

#[test]
fn who_is_removed_on_one_side_stays_out_whatever_the_other_side_does_meanwhile() {
    let script = |seed, printed| {
        let mut world = world_of(seed, printed, 3);
        world.change_user(0, &add("ada", "lovelace"));
        world.run_for(3_000);
        let alone = world.rng.below(3);
        let other = (alone + 1 + world.rng.below(2)) % 3;
        let groups: Vec<_> = (0..3).map(|host| usize::from(host == alone)).collect();
        world.strike(Fault::Cut { ways: group_ways(&groups), last: 15_000 });
        world.run_for(4_000);
        let early = world.rng.chance(0.5);
        let steps = [(alone, remove("ada")), (other, passwd("ada", "byron"))];
        for (host, change) in if early {
            steps
        } else {
            let [one, two] = steps;
            [two, one]
        } {
            world.change_user(host, &change);
            world.run_for(1_000);
        }
        world.require_login(other, ("ada", "byron"), true, "it has not heard of it");
        if world.rng.chance(0.5) {
            world.strike(Fault::Crash { host: other, keep: true, back: 1_000 });
        }
        world.run_for(25_000);
        for host in 0..3 {
            for passcode in ["lovelace", "byron"] {
                world.require_login(host, ("ada", passcode), false, "it was removed");
            }
        }
        world.heal_and_rest();
        world.require_one_opinion();
        world
    };
    expect_clean("user removed", &script, 0..SEEDS);
}

#[test]
fn under_cuts_and_crashes_all_come_to_one_opinion_of_everybody() {
    let script = |seed, printed| {
        let mut world = world_of(seed, printed, 3);
        let mix = FaultMix { wipes: 0, restores: 0, drains: 0, ..FaultMix::random(&mut world.rng) };
        for (time, fault) in mix.plan(&mut world.rng, 3, 15_000) {
            world.agenda.at(world.now + time, Happening::Fault(fault));
        }
        for step in 0..30 {
            let (host, name) = (world.rng.below(3), world.rng.pick(&["ada", "bob", "cid"]));
            let passcode = format!("p{step}");
            let change = match world.rng.below(4) {
                0 | 1 => add(name, &passcode),
                2 => passwd(name, &passcode),
                _ => remove(name),
            };
            world.change_user(host, &change);
            world.run_for(500);
        }
        world.heal();
        world.run_for(20_000);
        world.require_one_opinion();
        // The last word of an operator who has heard all others is what holds.
        for name in ["ada", "bob", "cid"] {
            if world.change_user(0, &add(name, "last")) != Some(Ok(())) {
                world.change_user(0, &passwd(name, "last"));
            }
        }
        world.run_for(5_000);
        for host in 0..3 {
            world.require_login(host, ("bob", "last"), true, "it was said last");
        }
        for name in ["ada", "bob", "cid"] {
            world.change_user(1, &remove(name));
        }
        world.run_for(3_000);
        let producer = Producer {
            queues: vec![0],
            left: 5,
            window: 5,
            pace_ms: 5,
            transactions: 0.0,
            transient: 0.0,
            filling: 10,
        };
        world.add_client(Role::Producer(producer), Some(2));
        world.run_for(3_000);
        if world.ledger.msgs().all(|(_, msg)| msg.confirmed.is_none()) {
            world.violate(Kind::Lost, "without users, clients of the same machine are let in".to_owned());
        }
        world.heal_and_rest();
        world
    };
    expect_clean("users and faults", &script, 0..SEEDS);
}
