//! Bad luck: what can happen to hosts, disks, clocks and the network, and random plans of it.

use std::collections::BTreeSet;

use rhizomq_net::Size;

use super::{agenda::Happening, rng::Rng, world::World};

/// One misfortune.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A process dies; it is started again after so many milliseconds.
    Crash { host: usize, keep: bool, back: u64 },
    /// A process is told to stop, and started again so many milliseconds after it has.
    Stop { host: usize, back: u64 },
    /// A process that was told to stop in that life has not done so in time.
    CutShort { host: usize, life: u32 },
    /// All processes die at once.
    Blackout { back: u64 },
    /// A process is started.
    Boot { host: usize },
    /// These directions are cut, for so many milliseconds.
    Cut { ways: Vec<(usize, usize)>, last: u64 },
    /// A cut ends.
    Uncut { ways: Vec<(usize, usize)> },
    /// The tunnel between two hosts breaks.
    Reset { a: usize, b: usize },
    /// A data directory is lost; the host comes back as somebody else.
    Wipe { host: usize, back: u64 },
    /// Somebody makes a backup of a disk.
    Copy { host: usize },
    /// A disk is replaced by the latest backup of it, if there is one.
    Restore { host: usize, back: u64 },
    /// The next writes of a disk find it full.
    Full { host: usize, times: u32 },
    /// From now on each write of a disk takes at least so long.
    Slow { host: usize, ms: u64 },
    /// A wall clock jumps.
    Clock { host: usize, by_ms: i64 },
    /// An operator lets a host leave for good, or takes that back.
    Drain { host: usize, cancel: bool },
    /// An operator asks a host to set the number of members.
    Size { host: usize, size: Size },
    /// An operator asks a host to merge its cluster with that of another host, whose ticket he has.
    Merge { host: usize, with: usize, size: Option<Size> },
    /// An operator asks a host to split others off.
    Split { host: usize, leaving: BTreeSet<usize>, size: Option<u32> },
    /// An operator asks a host to take that back.
    TakeBack { host: usize },
    /// An operator has a host merge with who has left its cluster.
    Heal { host: usize },
}

/// How often each kind of fault comes, relative to the others.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultMix {
    pub(crate) crashes: u32,
    pub(crate) stops: u32,
    pub(crate) blackouts: u32,
    pub(crate) cuts: u32,
    pub(crate) one_way_cuts: u32,
    pub(crate) groups: u32,
    pub(crate) resets: u32,
    pub(crate) wipes: u32,
    pub(crate) restores: u32,
    pub(crate) full_disks: u32,
    pub(crate) slow_disks: u32,
    pub(crate) clocks: u32,
    pub(crate) sizes: u32,
    pub(crate) drains: u32,
    /// Where there are several networks.
    pub(crate) merges: u32,
    pub(crate) splits: u32,
    /// The mean time between two faults, in milliseconds.
    pub(crate) every_ms: u64,
}

impl FaultMix {
    /// A random part of all there is: runs differ more when each has only some kinds.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut some = |weight: u32| if rng.chance(0.5) { weight } else { 0 };
        Self {
            crashes: some(4),
            stops: some(2),
            blackouts: some(1),
            cuts: some(3),
            one_way_cuts: some(2),
            groups: some(2),
            resets: some(3),
            wipes: some(1),
            restores: some(1),
            full_disks: some(1),
            slow_disks: some(1),
            clocks: some(1),
            sizes: some(2),
            drains: some(1),
            merges: 0,
            splits: 0,
            every_ms: rng.pick(&[700, 2_000, 5_000]),
        }
    }

    fn weights(&self) -> [u32; 16] {
        let network = [self.cuts, self.one_way_cuts, self.groups, self.resets];
        let [cuts, one_way, groups, resets] = network;
        let disks = [self.wipes, self.restores, self.full_disks, self.slow_disks];
        let [wipes, restores, full, slow] = disks;
        [
            self.crashes,
            self.blackouts,
            cuts,
            one_way,
            groups,
            resets,
            wipes,
            restores,
            full,
            slow,
            self.clocks,
            self.stops,
            self.sizes,
            self.drains,
            self.merges,
            self.splits,
        ]
    }

    /// Faults with their times, up to `until`.
    pub(crate) fn plan(&self, rng: &mut Rng, hosts: usize, until: u64) -> Vec<(u64, Fault)> {
        let weights = self.weights();
        let total: u32 = weights.iter().sum();
        let mut plan = Vec::new();
        if total == 0 {
            return plan;
        }
        let mut time = rng.within(500, 3_000);
        while time < until {
            let mut draw = rng.within(1, total.into()) as u32;
            let kind = weights.iter().position(|&weight| {
                let here = draw <= weight;
                draw = draw.saturating_sub(weight);
                here
            });
            plan.extend(
                draw_fault(rng, kind.unwrap_or(0), hosts).into_iter().map(|(after, fault)| (time + after, fault)),
            );
            time += rng.within(1, 2 * self.every_ms);
        }
        plan
    }
}

/// One fault of a kind, with what prepares it.
fn draw_fault(rng: &mut Rng, kind: usize, hosts: usize) -> Vec<(u64, Fault)> {
    let host = rng.below(hosts);
    let back = if rng.chance(0.2) { rng.within(10_000, 25_000) } else { rng.within(50, 4_000) };
    let (a, b) = if hosts > 1 { rng.two_below(hosts) } else { (0, 0) };
    let last = if rng.chance(0.3) { rng.within(8_000, 20_000) } else { rng.within(100, 6_000) };
    let fault = match kind {
        0 => Fault::Crash { host, keep: rng.chance(0.5), back },
        1 => Fault::Blackout { back: back.min(3_000) },
        2..=5 if hosts < 2 => return Vec::new(),
        2 => Fault::Cut { ways: vec![(a, b), (b, a)], last },
        3 => Fault::Cut { ways: vec![(a, b)], last },
        4 => Fault::Cut { ways: group_ways(&(0..hosts).map(|_| rng.below(2)).collect::<Vec<_>>()), last },
        5 => Fault::Reset { a, b },
        6 => Fault::Wipe { host, back },
        7 => return vec![(0, Fault::Copy { host }), (rng.within(500, 15_000), Fault::Restore { host, back })],
        8 => {
            let most = rng.pick(&[3, 3, 60]);
            Fault::Full { host, times: rng.within(1, most) as u32 }
        }
        9 => {
            let ms = rng.within(50, 400);
            return vec![(0, Fault::Slow { host, ms }), (last, Fault::Slow { host, ms: 0 })];
        }
        11 => Fault::Stop { host, back },
        12 => {
            let text = rng.pick(&["1", "2", "3", "9", "negotiate", "preset 1-3:all, 4+:3"]);
            Fault::Size { host, size: text.parse().expect("a lawful size") }
        }
        13 => {
            let drain = (0, Fault::Drain { host, cancel: false });
            let cancel = (rng.within(100, 20_000), Fault::Drain { host, cancel: true });
            return if rng.chance(0.5) { vec![drain] } else { vec![drain, cancel] };
        }
        14 if hosts < 2 => return Vec::new(),
        14 => {
            let size = rng.chance(0.3).then(|| rng.pick(&["1", "2", "4", "preset 1-3:all, 4+:3"]));
            Fault::Merge { host: a, with: b, size: size.map(|size| size.parse().expect("a lawful size")) }
        }
        15 if hosts < 2 => return Vec::new(),
        15 => return draw_split(rng, (host, a, b), hosts),
        _ => Fault::Clock { host, by_ms: rng.within(0, 7_200_000) as i64 - 3_600_000 },
    };
    vec![(0, fault)]
}

/// A split, of which some are taken back, and most are healed after a while. One of `a` and `b` leaves, and the other stays.
fn draw_split(rng: &mut Rng, (host, a, b): (usize, usize, usize), hosts: usize) -> Vec<(u64, Fault)> {
    let leaving = (0..hosts).filter(|&host| host == a || host != b && rng.chance(0.4)).collect();
    let size = rng.chance(0.3).then(|| rng.within(1, 3) as u32);
    let mut faults = vec![(0, Fault::Split { host, leaving, size })];
    if rng.chance(0.3) {
        let after = rng.pick(&[20, 300, 2_000]);
        faults.push((after, Fault::TakeBack { host: rng.below(hosts) }));
    }
    let mut after = rng.within(2_000, 15_000);
    for _ in 0..rng.within(0, 3) {
        faults.push((after, Fault::Heal { host: rng.below(hosts) }));
        after += rng.within(0, 4_000);
    }
    faults
}

/// All directions between hosts of different groups; `groups[host]` is the host's group.
pub(crate) fn group_ways(groups: &[usize]) -> Vec<(usize, usize)> {
    let apart = |a: usize| (0..groups.len()).filter(move |&b| groups[a] != groups[b]).map(move |b| (a, b));
    (0..groups.len()).flat_map(apart).collect()
}

impl World {
    /// Lets a fault happen.
    pub(crate) fn strike(&mut self, fault: Fault) {
        if self.trace.printed {
            println!("{:>7}.{:03} FAULT {fault:?}", self.now / 1000, self.now % 1000);
        }
        self.disturb();
        if matches!(fault, Fault::Slow { .. } | Fault::Full { .. }) {
            self.hindered_at = self.now;
        }
        match fault {
            Fault::Crash { host, keep, back } => {
                self.crash(host, keep);
                self.agenda.at(self.now + back, Happening::Fault(Fault::Boot { host }));
            }
            Fault::Stop { host, back } => self.tell_to_stop(host, back),
            Fault::CutShort { host, life } => {
                if self.hosts[host].life == life && self.hosts[host].stopping.is_some() {
                    let keep = self.rng.chance(0.5);
                    self.stopped(host, keep);
                }
            }
            Fault::Blackout { back } => {
                for host in 0..self.hosts.len() {
                    let keep = self.rng.chance(0.5);
                    self.crash(host, keep);
                    let back = self.now + self.rng.within(0, back);
                    self.agenda.at(back, Happening::Fault(Fault::Boot { host }));
                }
            }
            Fault::Boot { host } => self.boot(host),
            Fault::Cut { ways, last } => {
                ways.iter().for_each(|&(from, to)| self.cut(from, to));
                self.agenda.at(self.now + last, Happening::Fault(Fault::Uncut { ways }));
            }
            Fault::Uncut { ways } => ways.iter().for_each(|&(from, to)| self.uncut(from, to, false)),
            Fault::Reset { a, b } => self.reset(a, b),
            Fault::Wipe { host, back } => {
                self.wipe(host);
                self.agenda.at(self.now + back, Happening::Fault(Fault::Boot { host }));
            }
            Fault::Copy { host } => self.copy_disk(host),
            Fault::Restore { host, back } => {
                let copies = self.hosts[host].copies.len();
                if copies > 0 {
                    self.restore(host, copies - 1);
                    self.agenda.at(self.now + back, Happening::Fault(Fault::Boot { host }));
                }
            }
            Fault::Full { host, times } => {
                self.excused = true;
                self.hosts[host].disk.full_for = times;
            }
            Fault::Slow { host, ms } => self.hosts[host].disk.slowness_ms = ms,
            Fault::Size { host, size } => self.set_size(host, &size),
            Fault::Drain { host, cancel: false } => self.drain(host),
            Fault::Drain { host, cancel: true } => self.cancel_drain(host),
            Fault::Merge { host, with, size } => self.merge_to(host, with, size.as_ref()),
            Fault::Split { host, leaving, size } => self.try_split(host, &leaving, size),
            Fault::TakeBack { host } => _ = self.try_taking_back(host),
            Fault::Heal { host } => self.try_healing(host),
            Fault::Clock { host, by_ms } => {
                self.clocks_jumped = true;
                self.hosts[host].wall_offset_ms += by_ms;
            }
        }
    }
}
