//! Who owns what, who marks what, and what happens to deliveries under way meanwhile.

use rhizomq_engine::{Dot, Epoch, Planted, RangeSet, SegmentId};

use super::{
    super::{
        Content, DispatchMsg, Effect, Name, Rules, TakeoverTiming,
        census::Census,
        owner::{Owner, Turn},
        takeover::Takeover,
    },
    world::{World, id_of},
};

fn once(world: &World, dots: &[Dot]) -> bool {
    dots.iter().all(|dot| world.deliveries[dot].0 == 1)
}

/// Messages of node 0 wait at it and at node 1, which takes them over while the two are cut apart.
fn taken_over_by_node_1(seed: u64) -> World {
    let mut world = World::new(seed);
    world.link(0, 1);
    (0..6).for_each(|_| world.publish(0));
    world.settle_links();
    world.cut(0, 1);
    world.let_time_pass(300);
    world
}

/// What consumers of both inboxes at a node get, until they go away with it.
fn give_back_some(world: &mut World, index: usize) -> Vec<Dot> {
    world.subscribe_to_both(index, 2);
    world.settle_links();
    let got: Vec<_> = world.hosts[index].subscribers.values().flat_map(|subscriber| subscriber.has.clone()).collect();
    world.vanish_all(index);
    world.settle_links();
    assert!((2..6).contains(&got.len()), "some, not all");
    got
}

/// The writer delivers all of it: what was delivered before is marked, what comes after that is not.
fn check_marks(world: &mut World, before: &[Dot]) {
    (0..4).for_each(|_| world.publish(0));
    world.subscribe_to_both(0, 20);
    world.let_time_pass(300);
    let last = before.iter().max();
    for (dot, (all, unmarked)) in &world.deliveries {
        let twice = before.contains(dot);
        assert_eq!((*all, *unmarked == 0), (1 + u32::from(twice), Some(dot) <= last), "{dot:?}");
    }
    assert_eq!(world.deliveries.len(), 10);
    let marked = world.deliveries.values().filter(|(_, unmarked)| *unmarked == 0).count();
    assert_eq!(world.hosts[0].dispatch.duplicates(), marked as u64);
}

#[test]
fn a_writer_marks_what_others_delivered_although_their_first_answer_was_lost() {
    for seed in 0..20 {
        let mut world = taken_over_by_node_1(seed);
        let before = give_back_some(&mut world, 1);
        world.link(0, 1);
        while world.step_link(0, 1) {}
        assert!(!world.hosts[1].dispatch.takeover.owns(before[0].segment), "it gave in");
        world.cut(0, 1);
        world.link(0, 1);
        world.settle_links();
        check_marks(&mut world, &before);
    }
}

/// Node 1 delivers to clients of node 2; then one of the two dies and the other meets the writer again.
fn delivered_by_two(dies: usize, lives: usize) {
    for seed in 0..20 {
        let mut world = taken_over_by_node_1(seed);
        world.link(1, 2);
        world.let_time_pass(300);
        let before = give_back_some(&mut world, 2);
        world.restart(dies);
        world.link(0, lives);
        world.settle_links();
        check_marks(&mut world, &before);
    }
}

#[test]
fn a_writer_marks_what_the_clients_of_a_third_node_got_from_one_that_died() {
    delivered_by_two(1, 2);
}

#[test]
fn a_writer_marks_what_another_sent_to_clients_of_a_node_that_died() {
    delivered_by_two(2, 1);
}

/// Node 2 knows the writer, and refuses what node 1 sends.
fn refused_by_node_2(seed: u64) -> World {
    let mut world = taken_over_by_node_1(seed);
    world.link(0, 2);
    world.settle_links();
    world.link(1, 2);
    while world.step_link(1, 2) {}
    world.pass_time(150);
    world.settle_links();
    let segment = world.published.first().unwrap().segment;
    assert!(world.hosts[1].dispatch.takeover.owns(segment), "the denial came too late");
    world.subscribe_to_both(2, 10);
    while world.step_link(1, 2) | world.step_link(2, 1) {}
    assert!(world.deliveries.is_empty());
    assert!(world.hosts[1].dispatch.owner.in_flight() > 0, "under way, as node 1 believes");
    world
}

#[test]
fn whose_deliveries_are_refused_gives_in_to_the_owner() {
    for seed in 0..20 {
        let mut world = refused_by_node_2(seed);
        let segment = world.published.first().unwrap().segment;
        world.let_time_pass(60);
        assert_eq!(world.hosts[1].dispatch.owner.in_flight(), 0);
        // Longer than a claim without an answer lasts: each is denied.
        for _ in 0..70 {
            assert!(!world.hosts[1].dispatch.takeover.owns(segment));
            world.let_time_pass(10);
        }
        assert!(world.deliveries.values().all(|counts| *counts == (1, 1)) && world.deliveries.len() == 6);
    }
}

#[test]
fn what_was_refused_is_delivered_when_the_owner_is_gone() {
    for seed in 0..20 {
        let mut world = refused_by_node_2(seed);
        world.cut(0, 2);
        world.let_time_pass(500);
        assert!(world.deliveries.values().all(|counts| *counts == (1, 0)) && world.deliveries.len() == 6);
    }
}

#[test]
fn a_writer_waits_for_the_answers_of_a_new_peer_and_takes_back_what_is_given_back() {
    for seed in 0..20 {
        let mut world = taken_over_by_node_1(seed);
        world.subscribe_to_both(1, 2);
        world.settle_links();
        let held = world.held_at(1);
        world.link(0, 1);
        world.subscribe_to_both(0, 20);
        world.settle_links();
        assert!(once(&world, &held), "in flight at node 1");
        assert_eq!(world.hosts[1].dispatch.owner.in_flight(), 0, "which is the owner no more");
        world.vanish_all(1);
        world.settle_links();
        assert!(held.iter().all(|dot| world.deliveries[dot] == (2, 0)), "given back to the new owner");
    }
}

#[test]
fn what_a_peer_knows_to_be_consumed_is_not_delivered_unless_that_could_not_be_written() {
    for seed in 0..20 {
        let mut world = taken_over_by_node_1(seed);
        world.subscribe_to_both(1, 10);
        world.ack_all(1);
        world.commit(1);
        world.vanish_all(1);
        world.replicates = false;
        world.link(0, 1);
        world.settle_links();
        world.subscribe_to_both(0, 10);
        assert!(world.deliveries.len() == 6 && world.deliveries.values().all(|counts| *counts == (1, 0)));
        world.fail_commit(0);
        while world.published.len() < 20 {
            world.publish(0);
        }
        world.ack_all(0);
        assert!(world.deliveries.values().take(6).all(|counts| *counts == (2, 0)), "not consumed here after all");
    }
}

/// Node 0 owns and dispatches; clients of node 1 hold some of it, and node 1 says that it owns it.
fn contested(seed: u64, prefetch: usize) -> (World, SegmentId) {
    let mut world = World::new(seed);
    world.link(0, 1);
    world.link(0, 2);
    world.subscribe_to_both(0, 1);
    world.subscribe_to_both(1, prefetch);
    (0..6).for_each(|_| world.publish(0));
    world.settle_links();
    let segment = world.published.first().unwrap().segment;
    world.say(1, 0, &DispatchMsg::Claim { segments: vec![segment], firm: false });
    (world, segment)
}

#[test]
fn an_owner_that_hears_of_another_asks_what_is_held_and_goes_on() {
    for seed in 0..20 {
        let (mut world, segment) = contested(seed, 20);
        let held = world.held_at(0);
        world.step_link(1, 0);
        assert!(world.hosts[0].dispatch.takeover.is_claiming(segment));
        world.settle_links();
        assert!(world.hosts[0].dispatch.takeover.owns(segment));
        assert!(once(&world, &held) && world.deliveries.len() == 6, "what its own clients hold too");
        world.settle(1, false);
        world.settle_links();
        assert_eq!(world.hosts[0].dispatch.duplicates(), 0, "only given back");
        world.hosts[0].dispatch.handle_dropped(world.now, segment);
        assert_eq!(world.hosts[0].dispatch.owner.in_flight(), 0);
    }
}

#[test]
fn what_is_given_back_while_an_owner_asks_is_marked_and_not_forgotten() {
    for seed in 0..20 {
        let (mut world, _) = contested(seed, 20);
        // Before the question arrives.
        world.step_link(1, 0);
        world.settle(1, false);
        while world.step_link(1, 0) | world.step_link(0, 1) {}
        // After the answer, while another one is missing.
        let held = world.held_at(1);
        world.vanish_all(1);
        world.step_link(1, 0);
        world.settle_links();
        world.subscribe_to_both(2, 20);
        world.settle_links();
        assert!(held.iter().all(|dot| world.deliveries[dot] == (2, 1)));
    }
}

#[test]
fn a_writer_that_stays_after_all_dispatches_again_what_it_let_go_and_nobody_took() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        [(0, 1), (0, 2), (1, 2)].into_iter().for_each(|(a, b)| world.link(a, b));
        (0..4).for_each(|_| world.publish(0));
        world.settle_links();
        // Node 2 has not heard that node 0 leaves: it denies what that one grants.
        let writer = id_of(0);
        (0..2).for_each(|index| _ = world.hosts[index].paper.leaving.insert(writer));
        (0..2).for_each(|_| world.pass_time(150));
        world.settle_links();
        let segment = world.published.first().unwrap().segment;
        assert!((0..3).all(|index| !world.hosts[index].dispatch.takeover.owns(segment)), "let go, and denied");
        (0..2).for_each(|index| _ = world.hosts[index].paper.leaving.remove(&writer));
        world.subscribe_to_both(2, 10);
        world.let_time_pass(600);
        assert!(world.hosts[0].dispatch.takeover.owns(segment));
        assert_eq!(world.deliveries.len(), 4);
    }
}

#[test]
fn an_answer_is_void_when_its_link_is_lost() {
    for seed in 0..20 {
        let (mut world, _) = contested(seed, 20);
        while world.step_link(1, 0) | world.step_link(0, 1) {}
        let held = world.held_at(1);
        world.cut(0, 1);
        world.vanish_all(1);
        world.link(0, 1);
        world.settle_links();
        world.subscribe_to_both(2, 20);
        world.settle_links();
        assert!(held.iter().all(|dot| world.deliveries[dot] == (2, 1)));
    }
}

#[test]
fn an_owner_repeats_what_it_owns() {
    let mut world = taken_over_by_node_1(1);
    let segment = world.published.first().unwrap().segment;
    world.link(1, 2);
    world.settle_links();
    world.pass_time(70);
    let repeated = DispatchMsg::Claim { segments: vec![segment], firm: false };
    assert!(world.said(1, 2).contains(&repeated));
}

#[test]
fn what_can_not_be_read_is_reported_once_and_delivered_when_it_has_been_fetched_anew() {
    let mut world = World::new(1);
    (0..4).for_each(|_| world.publish(0));
    let dot = *world.published.last().unwrap();
    world.damage(0, dot);
    world.subscribe_to_both(0, 10);
    world.subscribe_to_both(0, 10);
    assert_eq!((world.deliveries.len(), world.damage_reports), (3, 1));
    world.mend(0, dot);
    assert_eq!((world.deliveries.len(), world.damage_reports), (4, 1));
}

#[test]
fn an_edge_tells_what_it_holds_also_when_an_owner_only_repeats_itself() {
    let (mut world, segment) = contested(3, 2);
    world.settle_links();
    world.say(0, 1, &DispatchMsg::Claim { segments: vec![segment], firm: false });
    world.step_link(0, 1);
    assert!(matches!(world.said(1, 0)[..], [DispatchMsg::Held { .. }]));
    world.settle_links();

    // News of what nobody was known to have: it is left alone.
    let waiting: Vec<_> = world.published.iter().filter(|dot| !world.deliveries.contains_key(dot)).copied().collect();
    let (first, rest) = waiting.split_first().unwrap();
    let held = vec![(first.slot, 77)];
    world.say(1, 0, &DispatchMsg::Held { segment, removed: RangeSet::default(), held, up_to: 0 });
    world.settle_links();
    world.subscribe_to_both(2, 20);
    world.settle_links();
    assert!(!world.deliveries.contains_key(first) && rest.iter().all(|dot| world.deliveries.contains_key(dot)));
    // Only under its own name does a delivery go back.
    world.say(1, 0, &DispatchMsg::Release { dot: *first, tag: 76 });
    world.settle_links();
    assert!(!world.deliveries.contains_key(first));
    world.say(1, 0, &DispatchMsg::Release { dot: *first, tag: 77 });
    world.settle_links();
    assert!(world.deliveries.contains_key(first));
}

#[test]
fn news_of_a_message_that_is_in_flight_elsewhere_changes_nothing() {
    let (mut world, segment) = contested(3, 2);
    world.settle_links();
    let mine = world.held_at(0);
    let held = mine.iter().map(|dot| (dot.slot, 77)).collect();
    world.say(1, 0, &DispatchMsg::Held { segment, removed: RangeSet::default(), held, up_to: 0 });
    world.settle_links();
    world.vanish_all(0);
    world.subscribe_to_both(2, 20);
    world.settle_links();
    assert!(mine.iter().all(|dot| world.deliveries[dot] == (2, 1)));
}

#[test]
fn what_a_lost_link_may_have_carried_is_counted() {
    let mut world = World::new(1);
    world.link(0, 1);
    world.subscribe_to_both(1, 10);
    (0..3).for_each(|_| world.publish(0));
    world.settle_links();
    world.cut(0, 1);
    world.subscribe_to_both(0, 10);
    assert!(world.deliveries.len() == 3 && world.deliveries.values().all(|counts| *counts == (2, 1)));
    assert_eq!(world.hosts[0].dispatch.duplicates(), 3);
}

#[test]
fn nobody_waits_for_the_answer_of_a_peer_that_is_gone() {
    let mut world = taken_over_by_node_1(1);
    let segment = world.published.first().unwrap().segment;
    world.link(1, 2);
    assert!(!world.hosts[1].dispatch.takeover.owns(segment), "it asks");
    world.cut(1, 2);
    assert!(world.hosts[1].dispatch.takeover.owns(segment));
}

#[test]
fn a_node_that_has_just_started_claims_nothing_yet() {
    let mut world = taken_over_by_node_1(1);
    let segment = world.published.first().unwrap().segment;
    world.restart(1);
    world.let_time_pass(90);
    assert!(!world.hosts[1].dispatch.takeover.owns(segment));
    world.let_time_pass(60);
    assert!(world.hosts[1].dispatch.takeover.owns(segment));
}

#[test]
fn an_edge_that_knows_a_message_to_be_consumed_does_not_take_it() {
    let mut world = World::new(1);
    world.link(0, 1);
    world.subscribe_to_both(1, 10);
    world.publish(0);
    world.settle_links();
    let dot = *world.published.first().unwrap();
    world.replicates = false;
    world.ack_all(1);
    world.commit(1);
    for (tag, inbox) in (90..).zip(["a", "b"]) {
        let inbox = Name(inbox.into());
        world.say(0, 1, &DispatchMsg::Deliver { inbox, dot, tag, redelivered: true, content: Content::default() });
    }
    world.settle_links();
    assert_eq!(world.deliveries[&dot], (1, 1));
}

#[test]
fn of_those_that_have_places_consumers_on_the_owners_site_come_first() {
    for near in [1, 2] {
        let far = 3 - near;
        let mut world = World::new(near as u64);
        world.stand_near(0, near);
        (0..12).for_each(|_| world.publish(0));
        let view = &world.hosts[0].paper;
        let takeover = Takeover::new(id_of(0), Epoch(1), TakeoverTiming::default());
        let (rules, census) = (Rules::default(), Census::default());
        let turn = Turn { now: world.now, view, rules: &rules, takeover: &takeover, census: &census };
        let (mut owner, mut out) = (Owner::new(id_of(0), Planted::default()), Vec::new());
        for edge in [1, 2].map(id_of) {
            owner.link_up(edge);
            owner.on_interest(edge, vec![(Name("a".into()), 1), (Name("b".into()), 1)], &mut out);
        }
        owner.serve(turn, &mut out);
        for effect in std::mem::take(&mut out) {
            if let Effect::Send { to, message: DispatchMsg::Backlog { inbox, round, .. } } = effect {
                owner.on_grant(to, &inbox, 2, round);
            }
        }
        owner.serve(turn, &mut out);
        let mut order: Vec<_> = Vec::new();
        for effect in &out {
            if let Effect::Send { to, message: DispatchMsg::Deliver { inbox, .. } } = effect {
                order.push((inbox.clone(), *to));
            }
        }
        for inbox in ["a", "b"].map(|name| Name(name.into())) {
            let to: Vec<_> = order.iter().filter(|(name, _)| *name == inbox).map(|(_, to)| *to).collect();
            assert_eq!(to, [near, near, far, far].map(id_of), "{inbox:?}");
        }
    }
}

/// A drain gives a replica up, and with it all memory of what was delivered; taken back, the replica comes back alone.
#[test]
fn what_a_node_of_this_life_gave_up_is_marked_when_it_comes_back_until_it_is_over() {
    let mut world = World::new(1);
    world.publish(0);
    let dot = *world.published.first().unwrap();
    let marks = |world: &World| world.hosts[0].dispatch.takeover.marks(dot);
    assert!(!marks(&world), "nobody else had it");
    world.give_up(0, dot.segment);
    assert!(marks(&world), "while it is elsewhere");
    world.give_back(0, dot, "a");
    assert!(marks(&world), "others may have delivered it");
    world.drop_all(0);
    world.pass(0, 60_000);
    assert!(!marks(&world), "nothing is remembered of what is over");
}

/// A node was away when its cluster was split, and comes back alone: it takes over as from the dead, until it hears.
#[test]
fn what_was_taken_over_from_a_node_that_was_split_off_is_let_go() {
    let mut world = taken_over_by_node_1(1);
    world.subscribe_to_both(1, 1);
    assert_eq!(world.deliveries.len(), 2, "one for each consumer, as if the other one were dead");
    world.split_off(1, 0);
    world.ack_all(1);
    world.let_time_pass(300);
    assert_eq!(world.deliveries.len(), 2, "no more once it has heard");
}

#[test]
fn who_has_heard_that_a_node_was_split_off_takes_no_deliveries_of_its_messages() {
    let mut world = taken_over_by_node_1(1);
    world.replicates = false;
    world.link(1, 2);
    world.let_time_pass(300);
    world.split_off(2, 0);
    world.subscribe_to_both(2, 1);
    world.let_time_pass(300);
    assert_eq!(world.deliveries.len(), 0, "node 1 has not heard");
    world.split_off(1, 0);
    world.subscribe_to_both(1, 1);
    world.let_time_pass(300);
    assert_eq!(world.deliveries.len(), 0, "both have");
}

#[test]
fn what_is_aside_stays_there_while_the_segment_is_asked_about() {
    let mut world = World::new(1);
    world.rules = Rules { max_deliveries: None, delay_ms: 500, ..Rules::default() };
    world.publish(0);
    world.subscribe_to_both(0, 1);
    let dot = *world.published.first().unwrap();
    let id = *world.hosts[0].subscribers.iter().find(|(_, one)| !one.has.is_empty()).unwrap().0;
    world.settle_at(0, id, 0, false);
    assert_eq!(world.hosts[0].dispatch.owner.in_flight(), 1, "it waits for its time");
    world.hosts[0].dispatch.owner.recall(dot.segment);
    world.pass_time(400);
    assert_eq!(world.deliveries[&dot].0, 1, "nobody else can have it");
    world.pass_time(200);
    assert_eq!(world.deliveries[&dot], (2, 1));
}
