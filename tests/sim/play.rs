//! Lets the stories of `tests/scenarios` happen, and judges what `story` says must be: who sits where in every part of
//! the network, how often that changed, and in the end, as after every run, all promises.

mod settling;

use std::collections::{BTreeMap, BTreeSet};

use rhizomq_engine::Mistake;
use rhizomq_net::Size;

use super::{
    clients::{Producer, Role},
    consumers::Consumer,
    faults::{Fault, group_ways},
    ledger::{Kind, Msg},
    merging::Before,
    parting::PARTED_MS,
    rng::Rng,
    runs::{expect_clean, number_from_env},
    story::{Amount, Step, Story, Who},
    topics::{Listener, Publisher},
    world::{Settings, World},
};

/// Later than any story.
const NEVER: u64 = 1 << 40;

/// Two queues, of the same names in every cluster.
const QUEUES: [usize; 2] = [0, 1];

/// A story that is being told.
struct Play {
    world: World,
    /// Hosts of what is one network each, by its place in the story.
    clusters: Vec<Vec<usize>>,
    /// A split that was ordered: which cluster, and what size the part that leaves is to have.
    split: Option<(usize, Option<usize>)>,
    /// The fixed size that an operator wished last, by cluster; of clusters that merged any of theirs may be it; none for a
    /// rule.
    sizes: Vec<BTreeSet<usize>>,
    /// Who was seated when seats were last looked at, and in which life.
    seated: BTreeMap<usize, u32>,
    /// Whom the last step happened to.
    last: Option<usize>,
    before: Option<Before>,
    copied: BTreeSet<usize>,
}

/// Tells a story.
pub(crate) fn play(story: &Story, seed: u64, printed: bool, mistake: Option<Mistake>) -> World {
    let mut play = Play::begin(story, seed, printed, mistake);
    play.tell(&story.step);
    play.world.heal_and_rest();
    play.world
}

impl Play {
    fn begin(story: &Story, seed: u64, printed: bool, mistake: Option<Mistake>) -> Self {
        let mut rng = Rng::new(seed);
        let copies = story.copies.draw(&mut rng) as u32;
        let settings = Settings {
            copies,
            confirm: copies.min(2),
            sites: story.sites.draw(&mut rng) as usize,
            queues: QUEUES.len(),
            ..Settings::plain(&mut rng, 0, mistake)
        };
        let count = story.count.as_ref().map_or(story.clusters.len(), |count| count.draw(&mut rng) as usize);
        let mut world = World::new(settings, rng, printed);
        let mut clusters = Vec::new();
        for (network, hosts) in (0..).zip(&story.clusters[..count]) {
            let (first, hosts) = (world.hosts.len(), hosts.draw(&mut world.rng));
            clusters.push((0..hosts).map(|at| world.add_host_of(network, (at > 0).then_some(first))).collect());
        }
        let sizes = vec![BTreeSet::new(); count];
        let (seated, copied) = (BTreeMap::new(), BTreeSet::new());
        let mut play = Self { world, clusters, split: None, sizes, seated, last: None, before: None, copied };
        play.wait(2_500);
        for cluster in 0..count {
            let size = story.size.draw(&mut play.world.rng);
            let host = play.world.rng.pick(&play.clusters[cluster]);
            play.set_size(host, &size.to_string());
        }
        play.settle(&Step::Settle { spare: 0, members: None, calm: false, steady: false });
        play
    }

    fn tell(&mut self, steps: &[Step]) {
        for step in steps {
            if self.world.ledger.violation.is_some() {
                return;
            }
            if self.world.trace.printed {
                println!("{:>7}.{:03} STEP {step:?}", self.world.now / 1000, self.world.now % 1000);
            }
            self.take(step);
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Wait { ms } => {
                let ms = self.draw(ms);
                self.wait(ms);
            }
            Step::Settle { .. } => self.settle(step),
            Step::Choose { who } => {
                self.choose(*who);
            }
            Step::Unseated { who } => {
                let host = self.choose(*who);
                let seated = host.is_some_and(|host| self.world.seated().contains(&host));
                self.require(!seated, Kind::Members, || format!("h{host:?} is to have no seat"));
            }
            Step::Crash { who, count, apart_ms, back_ms, of } => {
                for _ in 0..self.draw(count) {
                    let back = back_ms.as_ref().map_or(NEVER, |ms| self.draw(ms));
                    let keep = self.world.rng.chance(0.5);
                    let Some(host) = self.choose_of(*who, *of) else { continue };
                    self.world.strike(Fault::Crash { host, keep, back });
                    let pause = self.draw(apart_ms);
                    self.wait(pause);
                }
            }
            Step::Boot { apart_ms } => {
                for host in 0..self.world.hosts.len() {
                    if !self.world.hosts[host].is_up() {
                        self.world.strike(Fault::Boot { host });
                        let pause = self.draw(apart_ms);
                        self.wait(pause);
                    }
                }
            }
            Step::Blackout { back_ms } => {
                let back = self.draw(back_ms);
                self.world.strike(Fault::Blackout { back });
            }
            Step::Part { .. } | Step::Bridge { .. } | Step::Cut { .. } | Step::Heal {} => self.cut(step),
            Step::Flap { who, times, down_ms, up_ms } => {
                let Some(host) = self.choose(*who) else { return };
                let groups: Vec<_> = self.hosts().map(|other| usize::from(other == host)).collect();
                for _ in 0..self.draw(times) {
                    let (down, up) = (self.draw(down_ms), self.draw(up_ms));
                    self.world.strike(Fault::Cut { ways: group_ways(&groups), last: down });
                    self.wait(down + up);
                }
            }
            Step::Reset { times, every_ms } => {
                let (a, b) = self.world.rng.two_below(self.world.hosts.len());
                for _ in 0..self.draw(times) {
                    self.world.strike(Fault::Reset { a, b });
                    let pause = self.draw(every_ms);
                    self.wait(pause);
                }
            }
            Step::Flicker { times, down_ms, up_ms } => {
                let (a, b) = self.world.rng.two_below(self.world.hosts.len());
                for _ in 0..self.draw(times) {
                    let (down, up) = (self.draw(down_ms), self.draw(up_ms));
                    let ways = self.world.rng.pick(&[&[(a, b), (b, a)][..], &[(a, b)], &[(b, a)]]).to_vec();
                    self.world.strike(Fault::Cut { ways, last: down });
                    self.wait(down + up);
                }
            }
            Step::Newcomer { seated } => {
                let is_seated = self.draw(seated) > 0;
                self.await_newcomer(is_seated);
            }
            Step::Size { any } => {
                let size = any[self.world.rng.below(any.len())].clone();
                let Some(host) = self.choose(Who::Any) else { return };
                self.set_size(host, &size);
            }
            Step::Clock { who, by_ms } => {
                let by_ms = by_ms.signed(&mut self.world.rng);
                let Some(host) = self.choose(*who) else { return };
                self.world.strike(Fault::Clock { host, by_ms });
            }
            Step::Merge { .. } => self.merge(step),
            Step::Split { cluster, size } => self.split(*cluster, size.as_ref()),
            Step::Parted {} => self.parted(),
            Step::Copy { .. } | Step::Restore { .. } => self.copy(step),
            Step::Drain { who, cancel } => {
                let Some(host) = self.choose(*who) else { return };
                self.world.strike(Fault::Drain { host, cancel: *cancel });
            }
            Step::Produce { .. } | Step::Consume { .. } | Step::Topics { .. } => self.work(step),
            Step::Safe {} => self.world.await_copies(),
            Step::TakenOver {} => {
                let is_up = |host: &usize| self.world.hosts[*host].is_up();
                let waits =
                    |msg: &Msg| msg.confirmed.is_some() && msg.consumed.is_none() && msg.disks.iter().any(is_up);
                let left: Vec<_> = self.world.ledger.msgs().filter(|(_, msg)| waits(msg)).map(|(id, _)| id).collect();
                let some = &left[..left.len().min(5)];
                self.require(left.is_empty(), Kind::Lost, || {
                    format!("nobody delivers {} messages: {some:?}...", left.len())
                });
            }
            Step::Empty {} => {
                // What died with the host it was on its way to never waited.
                let came = |msg: &Msg| msg.confirmed.is_some() || !msg.disks.is_empty();
                let waits = |msg: &Msg| came(msg) && msg.consumed.is_none();
                let waiting = self.world.ledger.msgs().filter(|(_, msg)| waits(msg)).count();
                self.require(waiting == 0, Kind::Lost, || format!("{waiting} messages wait, all are to be consumed"));
            }
            Step::Sleep {} => {
                self.world.hosts.iter_mut().for_each(|host| host.leap(86_400_000));
                self.hosts().for_each(|host| self.world.settle(host));
            }
            Step::Repeat { times, step } => {
                for _ in 0..self.draw(times) {
                    self.tell(step);
                }
            }
        }
    }

    fn cut(&mut self, step: &Step) {
        let count = self.world.hosts.len();
        let order = self.world.shuffled((0..count).collect());
        let mut ways = Vec::new();
        match step {
            Step::Part { parts, sizes } => {
                let mut groups = vec![0; count];
                match sizes {
                    Some(sizes) => {
                        let places = sizes.iter().enumerate().flat_map(|(part, &size)| vec![part; size]);
                        order.iter().zip(places).for_each(|(&host, part)| groups[host] = part);
                    }
                    None => {
                        let parts = (self.draw(parts) as usize).min(count);
                        for (place, &host) in order.iter().enumerate() {
                            // One for each part at least.
                            groups[host] = if place < parts { place } else { self.world.rng.below(parts) };
                        }
                    }
                }
                ways = group_ways(&groups);
            }
            Step::Bridge { few, over } => {
                for &a in &order[..*few] {
                    order[few + over..].iter().for_each(|&b| ways.extend([(a, b), (b, a)]));
                }
            }
            Step::Cut { count, both } => {
                for _ in 0..self.draw(count) {
                    let (a, b) = self.world.rng.two_below(self.world.hosts.len());
                    ways.push((a, b));
                    ways.extend(both.then_some((b, a)));
                }
            }
            _ => return self.world.uncut_all(),
        }
        self.world.strike(Fault::Cut { ways, last: NEVER });
    }

    fn merge(&mut self, step: &Step) {
        let Step::Merge { apart_ms, these, reversed, size } = step else { return };
        let mut these = these.clone().unwrap_or_else(|| (0..self.clusters.len()).collect());
        let size = size.as_ref().map(|any| any[self.world.rng.below(any.len())].clone());
        let mut wish: Option<Size> = size.map(|size| size.parse().expect("a lawful size"));
        self.before = Some(self.world.before());
        if self.world.parting.take().is_some() {
            self.world.mended_at = Some(self.world.now);
        }
        let sizes = self.sizes_of_merged(&these, wish.as_ref());
        for place in 1..these.len() {
            let Some(host) = self.one_of(these[place]) else { continue };
            // Any cluster that is there already, with any of its nodes.
            let other = self.world.rng.below(place);
            let Some(with) = self.one_of(these[other]) else { continue };
            let (host, with) = if *reversed { (with, host) } else { (host, with) };
            self.world.strike(Fault::Merge { host, with, size: wish.take() });
            let pause = self.draw(apart_ms);
            self.wait(pause);
        }
        let first = these[0];
        these.sort_unstable_by(|a, b| b.cmp(a));
        for &place in these.iter().filter(|&&place| place != first) {
            let hosts = std::mem::take(&mut self.clusters[place]);
            self.clusters[first].extend(hosts);
        }
        self.sizes[first] = sizes;
        for &place in these.iter().filter(|&&place| place != first) {
            self.clusters.remove(place);
            self.sizes.remove(place);
        }
    }

    fn split(&mut self, cluster: usize, size: Option<&Amount>) {
        let is_up = |host: &usize| self.world.hosts[*host].is_up();
        let up: Vec<_> = self.clusters[cluster].iter().copied().filter(is_up).collect();
        assert!(up.len() > 1, "a story splits what has two hosts at least");
        let host = self.world.rng.pick(&up);
        let many = 1 + self.world.rng.below(up.len() - 1);
        let leaving = self.world.shuffled(up).into_iter().take(many).collect();
        let size = size.map(|size| self.draw(size));
        self.world.split(host, &leaving, size.map(|size| size as u32));
        self.split = Some((cluster, size.map(|size| size as usize)));
    }

    fn parted(&mut self) {
        self.wait(PARTED_MS);
        self.world.check_parted("parted");
        let (Some((cluster, size)), Some(parting)) = (self.split.take(), &self.world.parting) else { return };
        let hosts = std::mem::take(&mut self.clusters[cluster]);
        let (left, stayed) = hosts.into_iter().partition(|host| parting.leaving.contains(host));
        self.clusters[cluster] = left;
        self.clusters.insert(cluster + 1, stayed);
        let before = self.sizes[cluster].clone();
        self.sizes[cluster] = size.map_or_else(|| before.clone(), |size| BTreeSet::from([size]));
        self.sizes.insert(cluster + 1, before);
    }

    /// A host of a cluster that runs.
    fn one_of(&mut self, cluster: usize) -> Option<usize> {
        let is_up = |host: &usize| self.world.hosts[*host].is_up();
        let up: Vec<_> = self.clusters[cluster].iter().copied().filter(is_up).collect();
        (!up.is_empty()).then(|| self.world.rng.pick(&up))
    }

    fn copy(&mut self, step: &Step) {
        match step {
            Step::Copy { count } => {
                for _ in 0..self.draw(count) {
                    let host = self.world.rng.below(self.world.hosts.len());
                    self.copied.insert(host);
                    self.world.strike(Fault::Copy { host });
                }
            }
            Step::Restore { back_ms } => {
                for host in std::mem::take(&mut self.copied) {
                    let back = self.draw(back_ms);
                    self.world.strike(Fault::Restore { host, back });
                }
            }
            _ => {}
        }
    }

    fn work(&mut self, step: &Step) {
        for hosts in self.clusters.clone() {
            let home = Some(self.world.rng.pick(&hosts));
            match step {
                Step::Produce { messages, pace_ms } => {
                    let (left, pace_ms) = (self.draw(messages) as u32, self.draw(pace_ms));
                    let (queues, transient) = (QUEUES.to_vec(), 0.0);
                    let producer =
                        Producer { queues, left, window: 20, pace_ms, transactions: 0.1, transient, filling: 300 };
                    self.world.add_client(Role::Producer(producer), home);
                }
                Step::Consume { work_ms, roams } => {
                    let work_ms = self.draw(work_ms);
                    let prefetch = if work_ms > 0 { 3 } else { 50 };
                    let consumer = Consumer { work_ms, prefetch, ..Consumer::patient(QUEUES.to_vec()) };
                    self.world.add_client(Role::Consumer(consumer), home.filter(|_| !roams));
                }
                Step::Topics { messages, pace_ms } => {
                    let (left, pace_ms) = (self.draw(messages) as u32, self.draw(pace_ms));
                    self.world.add_client(Role::Listener(Listener { topic: 0, since: None }), home);
                    self.world.add_client(Role::Publisher(Publisher { topic: 0, left, pace_ms }), home);
                }
                _ => {}
            }
        }
    }

    fn set_size(&mut self, host: usize, size: &str) {
        let cluster = self.clusters.iter().position(|hosts| hosts.contains(&host)).unwrap_or(0);
        self.sizes[cluster] = size.parse().into_iter().collect();
        self.world.strike(Fault::Size { host, size: size.parse().expect("a lawful size") });
    }

    fn choose(&mut self, who: Who) -> Option<usize> {
        self.choose_of(who, None)
    }

    fn choose_of(&mut self, who: Who, cluster: Option<usize>) -> Option<usize> {
        let seated = self.world.seated();
        let applies = |host: usize| !seated.contains(&host) && self.world.is_elected(host);
        let may = |host: &usize| match who {
            Who::Any => true,
            Who::Member => seated.contains(host),
            Who::Observer => !seated.contains(host),
            Who::Applicant => applies(*host),
            Who::Same => self.last == Some(*host),
        };
        let is_up = |host: &usize| self.world.hosts[*host].is_up() || who == Who::Same;
        let is_of = |host: &usize| cluster.is_none_or(|cluster| self.clusters[cluster].contains(host));
        let those: Vec<_> = self.hosts().filter(is_up).filter(may).filter(is_of).collect();
        if those.is_empty() {
            return None;
        }
        self.last = Some(self.world.rng.pick(&those));
        self.last
    }

    fn hosts(&self) -> std::ops::Range<usize> {
        0..self.world.hosts.len()
    }

    fn draw(&mut self, amount: &Amount) -> u64 {
        amount.draw(&mut self.world.rng)
    }

    fn wait(&mut self, ms: u64) {
        self.world.run_for(ms);
    }

    fn require(&mut self, holds: bool, kind: Kind, what: impl FnOnce() -> String) {
        if !holds && self.world.ledger.violation.is_none() {
            self.world.violate(kind, what());
        }
    }
}

/// Runs a story with its seeds, or as many as the command says.
fn tell(name: &str) {
    let story = Story::read(name);
    let seeds = number_from_env("RHIZOMQ_STORY_SEEDS").unwrap_or(story.seeds);
    expect_clean(&story.about, &|seed, printed| play(&story, seed, printed, None), 0..seeds);
}

macro_rules! stories {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            tell(stringify!($name));
        })*

        #[test]
        fn every_file_is_told() {
            let told = BTreeSet::from([$(concat!(stringify!($name), ".toml").to_owned()),*]);
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");
            let files = std::fs::read_dir(path).expect("it is there");
            let files: BTreeSet<_> = files.map(|file| file.expect("reads").file_name().into_string().expect("plain")).collect();
            assert_eq!(told, files);
        }
    };
}

stories! {
    a_bridge
    a_flapping_link
    a_flapping_node
    a_member_restarts_for_ever
    clocks
    clusters_merge
    many_one_way_cuts
    members_fail_at_once
    members_fail_one_by_one
    members_leave_for_good
    merge_after_a_month
    merge_while_members_fail
    merge_with_a_size
    observers_fail_while_they_apply
    old_copies
    one_way_cuts
    parts_at_work
    parts_of_nine
    power_cut
    presets
    split_at_work
    split_day_after_day
    split_merge_with_others
    split_with_a_member_dead
    split_while_one_is_away_then_merge_elsewhere
    split_with_clocks_off
    the_size_changes_meanwhile
}
