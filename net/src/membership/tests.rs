//! The laws of an election, on random clusters.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rhizomq_engine::{Epoch, NodeId};

use super::*;

fn node(index: usize) -> NodeId {
    NodeId([index as u8; 16])
}

/// A random cluster: nodes, pairs that do not reach each other (one way), seats, proposals.
#[derive(Clone, Debug)]
struct Cluster {
    ballots: BTreeMap<NodeId, Ballot>,
    seats: BTreeSet<Seat>,
    backups: BTreeMap<NodeId, BTreeSet<NodeId>>,
    size: Size,
    draining: BTreeSet<NodeId>,
}

impl Cluster {
    /// Nodes that all reach each other, with nobody seated.
    fn whole(nodes: usize, size: Size) -> Self {
        let ballot = Ballot {
            epoch: Epoch(1),
            starting: false,
            proposal: 3,
            unreached: BTreeSet::new(),
            unsteady: BTreeSet::new(),
        };
        let ballots = (0..nodes).map(|index| (node(index), ballot.clone())).collect();
        Self { ballots, seats: BTreeSet::new(), backups: BTreeMap::new(), size, draining: BTreeSet::new() }
    }

    fn elect(&self, me: NodeId) -> View {
        let Self { ballots, seats, backups, size, draining } = self;
        elect(Election { ballots, seats, backups, size, draining }, me)
    }

    fn cut(&mut self, from: NodeId, to: NodeId) {
        self.ballots.get_mut(&from).unwrap().unreached.insert(to);
    }

    /// Everybody notices that a node is gone.
    fn kill(&mut self, gone: NodeId) {
        let others: Vec<_> = self.ballots.keys().copied().filter(|other| *other != gone).collect();
        others.into_iter().for_each(|other| self.cut(other, gone));
    }

    /// Two groups stop reaching each other.
    fn part(&mut self, is_left: impl Fn(NodeId) -> bool) {
        let nodes: Vec<_> = self.ballots.keys().copied().collect();
        for from in &nodes {
            nodes.iter().filter(|to| is_left(**to) != is_left(*from)).for_each(|to| self.cut(*from, *to));
        }
    }

    /// All that are elected take their seats, all that are seated and not elected leave: of the component of `me`.
    fn settle(&mut self, me: NodeId) -> usize {
        let view = self.elect(me);
        let mut changes = 0;
        for index in view.members.iter().chain(&view.observers) {
            let epoch = self.ballots[index].epoch;
            let seated = self.seats.iter().any(|seat| seat.node == *index && seat.epoch == epoch);
            if seated != view.members.contains(index) {
                changes += 1;
                self.seats.retain(|seat| seat.node != *index);
                if !seated {
                    let tenure = self.seats.last().map_or(0, |seat| seat.tenure) + 1;
                    self.seats.insert(Seat { tenure, node: *index, epoch });
                }
            }
        }
        changes
    }
}

fn size() -> impl Strategy<Value = Size> {
    prop_oneof![
        (1..12u32).prop_map(Size::Fixed),
        Just(Size::Negotiate),
        Just("preset 1-3:all, 4-9:3, 10+:5".parse().unwrap()),
        Just(Size::default()),
    ]
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let pairs = prop::collection::vec((0..10usize, 0..10usize), 0..40);
    let seats = prop::collection::vec((0..10usize, 1..3u64, 0..5u64), 0..8);
    let facts = prop::collection::vec((any::<bool>(), 1..9u32), 10);
    (1..10usize, pairs, pairs_of_few(), seats, facts, size()).prop_map(|(nodes, cuts, doubts, seats, facts, size)| {
        let mut cluster = Cluster::whole(nodes, size);
        let inside =
            |pairs: Vec<(usize, usize)>| pairs.into_iter().filter(move |(a, b)| a < &nodes && b < &nodes && a != b);
        inside(cuts).for_each(|(from, to)| cluster.cut(node(from), node(to)));
        for (from, to) in inside(doubts) {
            cluster.ballots.get_mut(&node(from)).unwrap().unsteady.insert(node(to));
            cluster.backups.entry(node(to)).or_default().insert(node(from));
        }
        let seats =
            seats.into_iter().map(|(index, epoch, tenure)| Seat { tenure, node: node(index), epoch: Epoch(epoch) });
        cluster.seats = seats.collect();
        for (index, (starting, proposal)) in facts.into_iter().enumerate().take(nodes) {
            let ballot = cluster.ballots.get_mut(&node(index)).unwrap();
            (ballot.starting, ballot.proposal) = (starting, proposal);
        }
        cluster
    })
}

fn pairs_of_few() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((0..10usize, 0..10usize), 0..15)
}

proptest! {
    #[test]
    fn all_of_a_component_see_the_same_and_components_are_disjoint(cluster in cluster()) {
        let views: BTreeMap<_, _> = cluster.ballots.keys().map(|me| (*me, cluster.elect(*me))).collect();
        for (me, view) in &views {
            prop_assert!(view.contains(*me) && view.members.is_disjoint(&view.observers));
            for (other, theirs) in &views {
                if view.contains(*other) {
                    prop_assert_eq!(view, theirs);
                } else {
                    prop_assert!(!theirs.contains(*me));
                    let ours = view.members.union(&view.observers);
                    prop_assert!(ours.into_iter().all(|node| !theirs.contains(*node)));
                    prop_assert_ne!(view.name(), theirs.name());
                }
            }
        }
    }

    #[test]
    fn there_are_as_many_members_as_wanted_or_eligible(cluster in cluster()) {
        for me in cluster.ballots.keys() {
            let view = cluster.elect(*me);
            let all: BTreeSet<_> = view.members.union(&view.observers).copied().collect();
            let approvals = |node: &NodeId| all.iter().filter(|voter| !cluster.ballots[*voter].unreached.contains(node)).count();
            let best = all.iter().map(approvals).max().unwrap();
            let is_eligible = |node: &&NodeId| approvals(node) * 2 > all.len() || (best * 2 <= all.len() && approvals(node) == best);
            let eligible: BTreeSet<_> = all.iter().filter(is_eligible).copied().collect();
            prop_assert!(view.members.is_subset(&eligible));
            prop_assert_eq!(view.members.len(), eligible.len().min(view.size as usize));
            prop_assert!(!view.members.is_empty());
        }
    }

    #[test]
    fn who_is_seated_stays_when_nodes_come_and_return(nodes in 2..9usize, seats in 1..6u32, away in 0..9usize) {
        let away = node(away % nodes);
        let mut cluster = Cluster::whole(nodes, Size::Fixed(seats));
        let first = cluster.elect(node(0));
        cluster.settle(node(0));
        prop_assert_eq!(cluster.elect(node(0)), first);
        // One more: it observes, unless there is room.
        let mut more = cluster.clone();
        let ballot = more.ballots[&node(0)].clone();
        more.ballots.insert(node(nodes), ballot);
        let room = usize::from(seats as usize > nodes);
        prop_assert_eq!(more.settle(node(0)), room);
        // One goes and returns in another life: its place is taken.
        let was_member = cluster.elect(node(0)).members.contains(&away);
        let keen = cluster.ballots.clone();
        cluster.kill(away);
        let witness = node(usize::from(away == node(0)));
        let filled = cluster.settle(witness);
        prop_assert_eq!(filled, usize::from(was_member && nodes > seats as usize));
        let between = cluster.elect(witness).members;
        cluster.ballots = keen;
        cluster.ballots.get_mut(&away).unwrap().epoch = Epoch(2);
        let after = cluster.elect(witness);
        if nodes > seats as usize {
            prop_assert_eq!(after.members, between);
        } else {
            prop_assert_eq!(after.members.len(), nodes);
        }
    }

    #[test]
    fn failures_are_filled_by_as_many_observers_and_sides_elect_apart(nodes in 4..10usize, seats in 2..6u32, gone in 1..5usize) {
        let mut cluster = Cluster::whole(nodes, Size::Fixed(seats));
        cluster.settle(node(0));
        let members: Vec<_> = cluster.elect(node(0)).members.into_iter().collect();
        let gone = &members[..gone.min(members.len() - 1)];
        gone.iter().for_each(|gone| cluster.kill(*gone));
        let witness = *members.last().unwrap();
        let spare = nodes.saturating_sub(seats as usize);
        prop_assert_eq!(cluster.settle(witness), gone.len().min(spare));
        prop_assert!(gone.iter().all(|gone| !cluster.elect(witness).contains(*gone)));

        // A split: both sides fill up; when they meet the younger seats go, and no others.
        let mut split = Cluster::whole(nodes, Size::Fixed(seats));
        split.settle(node(0));
        let before = split.elect(node(0)).members;
        let healthy = split.ballots.clone();
        split.part(|node| usize::from(node.0[0]) < nodes / 2);
        let added = split.settle(node(0)) + split.settle(node(nodes - 1));
        split.ballots = healthy;
        prop_assert_eq!(split.elect(node(0)).members, before);
        prop_assert_eq!(split.settle(node(0)), added);
    }

    #[test]
    fn no_text_makes_the_parser_panic_and_what_it_reads_survives(text in "(preset )?[0-9a-l:+, -]{0,30}") {
        if let Ok(size) = text.parse::<Size>() {
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }

    #[test]
    fn rules_survive_their_text(ends in prop::collection::btree_set(1..100u32, 0..6), members in prop::collection::vec(0..9u32, 7)) {
        let members: Vec<_> = members.iter().map(|&count| if count == 0 { "all".to_owned() } else { count.to_string() }).collect();
        let mut from = 1;
        let mut text = String::new();
        for (end, members) in ends.iter().zip(&members) {
            text += &if from == *end { format!("{from}:{members}, ") } else { format!("{from}-{end}:{members}, ") };
            from = end + 1;
        }
        text += &format!("{from}+:{}", members[6]);
        let preset: Preset = text.parse().unwrap();
        prop_assert_eq!(preset.to_string(), text);
    }
}

#[test]
fn heirs_come_before_others_and_starting_and_unsteady_nodes_after() {
    let mut cluster = Cluster::whole(5, Size::Fixed(2));
    let order = |cluster: &Cluster| cluster.elect(node(4)).members;
    cluster.seats = [0, 4].map(|index| Seat { tenure: 1, node: node(index), epoch: Epoch(1) }).into();
    cluster.kill(node(0));
    for heir in 1..4 {
        cluster.backups = BTreeMap::from([(node(0), BTreeSet::from([node(heir)]))]);
        assert_eq!(order(&cluster), BTreeSet::from([node(heir), node(4)]), "the heir has the place");
        let mut starting = cluster.clone();
        starting.ballots.get_mut(&node(heir)).unwrap().starting = true;
        assert!(!order(&starting).contains(&node(heir)), "who has just started waits");
        let mut unsteady = cluster.clone();
        for voter in 2..5 {
            unsteady.ballots.get_mut(&node(voter)).unwrap().unsteady.insert(node(heir));
        }
        assert!(!order(&unsteady).contains(&node(heir)), "who comes and goes is last");
        unsteady.ballots.get_mut(&node(4)).unwrap().unsteady.clear();
        assert!(order(&unsteady).contains(&node(heir)), "half of them are not more than half");
    }
    let members = order(&cluster);
    cluster.seats.insert(Seat { tenure: 0, node: node(2), epoch: Epoch(9) });
    assert_eq!(order(&cluster), members, "a seat of another life is none");
}

#[test]
fn a_bridge_that_alone_sees_both_sides_joins_them_and_who_sees_few_is_not_elected() {
    let mut cluster = Cluster::whole(6, Size::Fixed(9));
    // 0, 1 | 2 is the bridge | 3, 4, 5
    cluster.part(|node| node.0[0] < 2);
    for index in [0, 1, 2] {
        let ballot = cluster.ballots.get_mut(&node(index)).unwrap();
        ballot.unreached.retain(|other| index != 2 && other.0[0] > 2);
    }
    let view = cluster.elect(node(0));
    assert_eq!(view.members, (2..6).map(node).collect());
    assert_eq!(view.observers, (0..2).map(node).collect());
    // A ring, where nobody has more than half: who has most.
    let mut ring = Cluster::whole(6, Size::Fixed(9));
    for a in 0..6 {
        (0..6).filter(|b| ![0, 1, 5].contains(&((a + 6 - b) % 6))).for_each(|b| ring.cut(node(a), node(b)));
    }
    assert_eq!(ring.elect(node(3)).members.len(), 6);
}

#[test]
fn the_size_is_a_number_a_median_or_what_rules_say() {
    let wanted = |text: &str, proposals: &[u32]| text.parse::<Size>().unwrap().wanted(&mut proposals.to_vec());
    assert_eq!([wanted("5", &[1]), wanted(" 5 ", &[])], [5, 5]);
    assert_eq!(wanted("negotiate", &[9, 1, 5]), 5);
    assert_eq!(wanted("negotiate", &[9, 1, 3, 5]), 3, "the smaller of two in the middle");
    assert_eq!(wanted("negotiate", &[7]), 7);
    let rules = "preset 1-3:all,4-9:3 , 10 + : 5";
    assert_eq!([1, 3, 4, 9, 10, 1000].map(|nodes| wanted(rules, &vec![1; nodes])), [1, 3, 3, 3, 5, 5]);
    assert_eq!(Size::default().wanted(&mut [1; 7]), 7, "without a policy all are members");
}

#[test]
fn a_wrong_policy_is_refused_with_what_to_do() {
    let error = |text: &str| text.parse::<Size>().unwrap_err();
    assert_eq!(error(""), SizeError::Unknown(String::new()));
    assert_eq!(error("+5"), SizeError::Unknown("+5".to_owned()));
    assert_eq!(error("99999999999"), SizeError::Unknown("99999999999".to_owned()));
    assert_eq!([error("0"), error("preset 1+:0")], [SizeError::Zero, SizeError::Zero]);
    assert_eq!([error("preset"), error("preset ")], [SizeError::Empty, SizeError::Empty]);
    assert_eq!(error("preset 1-3"), SizeError::Rule("1-3".to_owned()));
    assert_eq!(error("preset 3-1:2"), SizeError::Rule("3-1:2".to_owned()));
    assert_eq!(error("preset 1-3:all"), SizeError::NoLast(3));
    assert_eq!(error("preset 1+:all, 3:2"), SizeError::AfterLast("3:2".to_owned()));
    let gap = |rule: &str, expected, found| SizeError::Gap { rule: rule.to_owned(), expected, found };
    assert_eq!(error("preset 2+:all"), gap("2+:all", 1, 2));
    assert_eq!(error("preset 1-3:all, 5+:2"), gap("5+:2", 4, 5));
    assert_eq!(error("preset 1-3:all, 3+:2"), gap("3+:2", 4, 3));
    assert_eq!(error(&"9".repeat(MAX_SIZE_CHARS + 1)), SizeError::TooLong);
    assert!(error("preset 1-3:all, 5+:2").to_string().contains("must begin at 4"));
}

#[test]
fn ballots_and_seats_survive_their_bytes_and_nothing_else_reads() {
    let mut cluster = Cluster::whole(3, Size::Fixed(1));
    cluster.kill(node(1));
    let ballot = &cluster.ballots[&node(0)];
    assert_eq!(Ballot::decode(&ballot.encode()).as_ref(), Some(ballot));
    let mut newer = ballot.encode();
    newer[0] += 1;
    assert_eq!(Ballot::decode(&newer), None);
    assert_eq!(Ballot::decode(&[]), None);
    let seat = Seat { tenure: u64::MAX - 1, node: node(7), epoch: Epoch(5) };
    assert_eq!(Seat::decode(&seat.encode()), Some(seat));
    assert_eq!(Seat::decode(&seat.encode()[1..]), None);
}

#[test]
fn who_leaves_for_good_is_not_elected_while_anybody_stays() {
    let mut cluster = Cluster::whole(4, Size::Fixed(3));
    let epoch = cluster.ballots[&node(0)].epoch;
    cluster.seats.insert(Seat { tenure: 1, node: node(0), epoch });
    cluster.draining = BTreeSet::from([node(0), node(1)]);
    assert_eq!(cluster.elect(node(2)).members, BTreeSet::from([node(2), node(3)]));
    cluster.draining.extend([node(2), node(3)]);
    assert_eq!(cluster.elect(node(2)).members.len(), 3, "somebody must be");
}

#[test]
fn rules_for_sizes_count_those_who_stay() {
    let mut cluster = Cluster::whole(4, "preset 1-3:all, 4+:2".parse().unwrap());
    assert_eq!(cluster.elect(node(2)).size, 2);
    cluster.draining = BTreeSet::from([node(0)]);
    let view = cluster.elect(node(2));
    assert_eq!((view.size, view.members.len()), (3, 3));
    cluster.draining = (0..4).map(node).collect();
    assert_eq!(cluster.elect(node(2)).size, 2, "if all leave they count");
}
