//! Five failure detectors on a virtual network.

use super::*;

const DELAY_MS: u64 = 2;

/// Nodes 0..n, fully linked unless cut; a datagram takes [`DELAY_MS`].
struct World {
    now: u64,
    nodes: Vec<Option<Swim>>,
    /// Nodes of different groups can't hear each other.
    group: Vec<u8>,
    flying: BTreeMap<(u64, u64), (usize, usize, Bytes)>,
    sent: u64,
    events: Vec<(u64, usize, SwimEvent)>,
    packet_bytes: usize,
}

fn id(node: usize) -> NodeId {
    NodeId([node as u8 + 1; 16])
}

fn index(id: NodeId) -> usize {
    id.0[0] as usize - 1
}

impl World {
    fn new(size: usize) -> Self {
        let mut world = Self {
            now: 1_000,
            nodes: (0..size).map(|_| None).collect(),
            group: vec![0; size],
            flying: BTreeMap::new(),
            sent: 0,
            events: Vec::new(),
            packet_bytes: 0,
        };
        (0..size).for_each(|node| world.start(node, 1_700_000_000_000));
        world
    }

    fn start(&mut self, node: usize, wall_ms: u64) {
        let epoch = Epoch(self.now * 31 + node as u64);
        self.nodes[node] = Some(Swim::new(id(node), epoch, wall_ms, node as u64, SwimConfig::default()));
        self.relink();
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
        self.relink();
    }

    fn cut(&mut self, groups: &[u8]) {
        self.group = groups.to_vec();
        self.relink();
    }

    fn reachable(&self, a: usize, b: usize) -> bool {
        a != b && self.group[a] == self.group[b] && self.nodes[a].is_some() && self.nodes[b].is_some()
    }

    /// What links coming up and going down tell a node.
    fn relink(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                let linked = self.reachable(a, b);
                let now = self.now;
                let Some(swim) = self.nodes[a].as_mut() else { continue };
                if linked && !swim.linked.contains(&id(b)) {
                    swim.add_peer(now, id(b));
                } else if !linked {
                    swim.remove_peer(id(b));
                }
            }
            self.collect(a);
        }
    }

    fn collect(&mut self, from: usize) {
        let Some(swim) = self.nodes[from].as_mut() else { return };
        while let Some((to, bytes)) = swim.poll_datagram() {
            self.packet_bytes = self.packet_bytes.max(bytes.len());
            self.flying.insert((self.now + DELAY_MS, self.sent), (from, index(to), bytes));
            self.sent += 1;
        }
        while let Some(event) = swim.poll_event() {
            self.events.push((self.now, from, event));
        }
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            let timer = self.nodes.iter().flatten().map(Swim::deadline).min().unwrap_or(u64::MAX);
            let flight = self.flying.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            let next = timer.min(flight);
            if next > end {
                break self.now = end;
            }
            self.now = next.max(self.now);
            while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (from, to, bytes) = entry.remove();
                if self.reachable(from, to) {
                    let swim = self.nodes[to].as_mut().unwrap();
                    swim.handle_datagram(self.now, &bytes).unwrap();
                    self.collect(to);
                }
            }
            for node in 0..self.nodes.len() {
                if let Some(swim) = self.nodes[node].as_mut().filter(|swim| swim.deadline() <= self.now) {
                    swim.handle_timeout(self.now);
                    self.collect(node);
                }
            }
        }
    }

    /// Who sees whom: one row per live node.
    fn opinions(&self) -> Vec<(usize, Vec<usize>)> {
        let row = |(node, swim): (usize, &Option<Swim>)| Some((node, swim.as_ref()?.active().map(index).collect()));
        self.nodes.iter().enumerate().filter_map(row).collect()
    }

    /// The rows when exactly the live nodes of each node's group are seen.
    fn truth(&self) -> Vec<(usize, Vec<usize>)> {
        let all = 0..self.nodes.len();
        let seen = |a| all.clone().filter(|b| self.reachable(a, *b)).collect();
        all.clone().filter(|node| self.nodes[*node].is_some()).map(|a| (a, seen(a))).collect()
    }

    fn down_times(&self, since: u64, who: usize) -> Vec<u64> {
        let is_down = |(at, _, event): &&(u64, usize, SwimEvent)| *at >= since && *event == SwimEvent::Down(id(who));
        self.events.iter().filter(is_down).map(|(at, ..)| at - since).collect()
    }
}

#[test]
fn all_see_all_and_nobody_flaps() {
    let mut world = World::new(5);
    world.run(2_000);
    assert_eq!(world.opinions(), world.truth());
    world.run(60_000);
    assert_eq!(world.events.len(), 20, "one Up per pair and nothing else: {:?}", world.events);
    assert!(world.packet_bytes <= SwimConfig::default().max_packet_bytes);
}

#[test]
fn a_death_is_noticed_by_all_within_seconds_and_a_new_life_is_welcome() {
    let mut world = World::new(5);
    world.run(5_000);
    let death = world.now;
    world.kill(2);
    world.run(5_000);
    assert_eq!(world.opinions(), world.truth());
    let times = world.down_times(death, 2);
    assert_eq!(times.len(), 4);
    assert!(times.iter().all(|after| (500..4_000).contains(after)), "{times:?}");

    world.start(2, 1_700_000_010_000);
    world.run(1_000);
    assert_eq!(world.opinions(), world.truth());
}

#[test]
fn a_restart_with_the_clock_set_back_by_years_is_welcome_too() {
    let mut world = World::new(5);
    world.run(2_000);
    world.kill(1);
    world.run(5_000);
    world.start(1, 1_500_000_000_000);
    world.run(5_000);
    assert_eq!(world.opinions(), world.truth());

    // And before its former life was held dead.
    world.kill(3);
    world.start(3, 1_400_000_000_000);
    world.run(5_000);
    assert_eq!(world.opinions(), world.truth());
}

#[test]
fn both_sides_of_a_partition_are_right_and_find_together_again() {
    for groups in [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 1, 2], [0, 1, 2, 3, 4]] {
        let mut world = World::new(5);
        world.run(3_000);
        for _ in 0..3 {
            world.cut(&groups);
            world.run(10_000);
            assert_eq!(world.opinions(), world.truth(), "cut into {groups:?}");
            world.cut(&[0; 5]);
            world.run(5_000);
            assert_eq!(world.opinions(), world.truth(), "healed from {groups:?}");
        }
    }
}

#[test]
fn two_alone_find_together_again() {
    let mut world = World::new(2);
    world.run(2_000);
    for _ in 0..5 {
        world.cut(&[0, 1]);
        world.run(5_000);
        assert_eq!(world.opinions(), world.truth());
        world.cut(&[0, 0]);
        world.run(3_000);
        assert_eq!(world.opinions(), world.truth());
    }
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let history = || {
        let mut world = World::new(5);
        world.run(5_000);
        world.kill(4);
        world.cut(&[0, 0, 1, 1, 1]);
        world.run(5_000);
        world.start(4, 1_700_000_020_000);
        world.cut(&[0; 5]);
        world.run(5_000);
        (world.sent, world.flying, world.events)
    };
    assert_eq!(history(), history());
}

#[test]
fn garbage_is_an_error_and_changes_nothing() {
    let mut world = World::new(3);
    world.run(2_000);
    let mut rng = SmallRng::seed_from_u64(1);
    let mut sample = Bytes::new();
    world.nodes[0].as_mut().unwrap().add_peer(world.now, id(1));
    if let Some((_, bytes)) = world.nodes[0].as_mut().unwrap().poll_datagram() {
        sample = bytes;
    }
    let swim = world.nodes[1].as_mut().unwrap();
    assert!(matches!(swim.handle_datagram(world.now, &[]), Err(SwimError::Empty)));
    let newer = swim.handle_datagram(world.now, &[&[9], &sample[1..]].concat()).unwrap_err();
    assert!(newer.to_string().contains("version 9"), "{newer}");
    assert!(swim.handle_datagram(world.now, &[0; MAX_PACKET_BYTES + 1]).is_err());
    for round in 0..20_000 {
        use rand::RngExt;
        let mut bytes = if round % 2 == 0 { sample.to_vec() } else { vec![0; rng.random_range(0..200)] };
        let changes = if round % 2 == 0 { rng.random_range(0..4) } else { bytes.len() };
        for _ in 0..changes {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        if round % 5 == 0 {
            bytes.truncate(rng.random_range(0..bytes.len() + 1));
        }
        // Any outcome but a panic.
        let _ = swim.handle_datagram(world.now, &bytes);
        swim.datagrams.clear();
    }
    assert!(swim.deadline() < u64::MAX, "still at work");
}
