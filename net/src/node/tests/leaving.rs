//! How a holder leaves a list: only when enough others have all of it, and not if it turns out to be needed.

use rhizomq_engine::SegmentState;

use super::*;

#[test]
fn a_dead_holder_gets_a_successor_and_the_surplus_copy_leaves_when_it_returns() {
    let mut world = World::new(2);
    for index in 1..=4 {
        world.start(index, MemoryStore::new());
        world.join(index);
        world.run(50);
    }
    world.publish(1, "x");
    world.run(500);
    let (dot, _) = world.waiting(1)[0].clone();
    let holders = world.host(1).node.candidates(dot.segment);
    assert_eq!(holders.len(), 2);
    let second = holders[1].0[0];
    let disk = world.kill(second);
    world.run(8_000);
    let holders = world.host(1).node.candidates(dot.segment);
    assert_eq!(holders.len(), 3, "a successor beside the dead holder: {holders:?}");
    assert_eq!(world.host(1).node.under_replicated(), 0);
    world.start(second, disk);
    world.join(second);
    world.run(8_000);
    let holders = world.host(1).node.candidates(dot.segment);
    assert_eq!(holders.len(), 2, "{holders:?}");
    let kept: Vec<_> = (1..=4).filter(|&index| world.host(index).node.engine().has_replica(dot.segment)).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
}

/// Whoever runs can't be forgotten, and need not be started.
#[test]
fn who_leaves_tells_apart_who_is_away_and_who_runs_behind_a_broken_link() {
    let mut world = World::new(3);
    for index in 1..=3 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(3_000);
    world.unlink(1, 2);
    world.run(3_000);
    let now = world.now;
    world.host(1).node.drain(now);
    let hindrance =
        |world: &mut World| world.host(1).node.drain_status().and_then(|status| status.hindrance).expect("one");
    let too_few = |away, cut_off| DrainHindrance::TooFew { needed: 2, within_reach: 1, away, cut_off };
    assert_eq!(hindrance(&mut world), too_few(vec![], vec![who(2)]));
    let text = hindrance(&mut world).to_string();
    assert!(text.contains(&who(2).to_string()) && text.contains("UDP") && !text.contains("forget"), "{text}");
    assert_eq!(world.host(1).node.forget(now, who(2).id), Err(ForgetError::CutOff(who(2))));
    drop(world.kill(2));
    world.run(5_000);
    assert_eq!(hindrance(&mut world), too_few(vec![who(2)], vec![]));
    let text = hindrance(&mut world).to_string();
    assert!(text.contains(&who(2).to_string()) && !text.contains("UDP") && text.contains("node forget"), "{text}");
    let now = world.now;
    world.host(1).node.forget(now, who(2).id).expect("it is away");
    assert_eq!(world.host(1).node.drain_status().and_then(|status| status.hindrance), None);
}

#[test]
fn a_surplus_copy_stays_until_enough_others_have_all_of_it() {
    let mut world = World::new(2);
    for index in 1..=4 {
        world.start(index, MemoryStore::new());
        world.join(index);
        world.run(50);
    }
    world.publish(1, "x");
    world.run(500);
    let (dot, _) = world.waiting(1)[0].clone();
    let second = world.host(1).node.candidates(dot.segment)[1].0[0];
    let disk = world.kill(second);
    world.run(8_000);
    let holders = world.host(1).node.candidates(dot.segment);
    let third = holders.iter().map(|node| node.0[0]).find(|&node| node != 1 && node != second).expect("a successor");
    // It comes back without what was published meanwhile, to a disk that takes nothing: two copies are not enough to let
    // one go, for one of the three holders has not got it.
    world.publish(1, "y");
    world.start(second, disk);
    world.freeze(second);
    world.join(second);
    world.run(8_000);
    let kept = |world: &mut World| world.waiting(third).len() + world.waiting(1).len();
    assert_eq!(kept(&mut world), 4, "both are still at the origin and at the successor");
    world.thaw(second);
    world.run(8_000);
    let copies: usize = (1..=4).map(|index| world.waiting(index).len()).sum();
    assert_eq!(copies, 4, "two messages, twice");
}

/// Node 1 took two messages. One of the others, the `leaver`, holds both, is one holder too many, and says so; the third,
/// `behind`, is to stay, and has only the first so far.
struct Leaving {
    world: World,
    segment: SegmentId,
    leaver: u8,
    behind: u8,
    /// The disk of node 1 before the second message.
    old: Snapshot,
}

fn leaving() -> Leaving {
    let mut world = World::new(2);
    for index in 1..=3 {
        world.start(index, MemoryStore::new());
        world.join(index);
        world.run(1_000);
    }
    world.publish(1, "x");
    world.run(500);
    let segment = world.waiting(1)[0].0.segment;
    let behind = world.host(1).node.candidates(segment)[1].0[0];
    let leaver = 5 - behind;
    let old = world.host(1).store.snapshot();
    world.freeze(behind);
    world.publish(1, "y");
    world.name_holder(1, segment, NodeId([leaver; 16]));
    world.run(2_500);
    assert_eq!((world.waiting(leaver).len(), world.waiting(behind).len()), (2, 1));
    assert!(world.host(1).node.holders.is_leaving(segment, NodeId([leaver; 16])), "it is one too many");
    Leaving { world, segment, leaver, behind, old }
}

impl Leaving {
    /// The one that is behind proves, in answer to the last question, to have all of it.
    fn prove(&mut self) {
        let question = |message: &Wire| match message {
            Wire::Control(Control::Prove { nonce, .. }) => Some(*nonce),
            _ => None,
        };
        let nonce = *self.world.told(self.leaver, self.behind, question).last().expect("asked");
        let segment = self.segment;
        tell(&mut self.world, self.behind, self.leaver, wire::control(&Control::Proof { segment, nonce }));
    }

    fn has_left(&mut self) -> bool {
        let segment = self.segment;
        !self.world.host(self.leaver).node.engine().has_replica(segment)
    }
}

#[test]
fn two_proofs_of_two_holders_let_a_third_go() {
    let mut scene = leaving();
    assert!(!scene.has_left(), "one proof is not enough");
    scene.prove();
    assert!(scene.has_left());
}

#[test]
fn proofs_are_void_when_another_holder_is_named() {
    let mut scene = leaving();
    scene.world.name_holder(1, scene.segment, NodeId([9; 16]));
    scene.prove();
    assert!(!scene.has_left(), "the proof of node 1 was about another list");
}

#[test]
fn the_proof_of_a_lost_peer_is_void() {
    let mut scene = leaving();
    let old = std::mem::take(&mut scene.old);
    scene.world.kill(1);
    scene.world.start(1, old.into());
    scene.world.freeze(1);
    scene.world.join(1);
    scene.world.drain();
    scene.prove();
    assert!(!scene.has_left(), "node 1 has an old disk now, without the second message");
}

#[test]
fn who_declared_to_leave_stays_if_others_went_away_meanwhile() {
    let mut scene = leaving();
    scene.world.kill(scene.behind);
    scene.world.run(1_500);
    for index in [1, scene.leaver] {
        let holders = &scene.world.host(index).node.holders;
        assert!(!holders.is_leaving(scene.segment, NodeId([scene.leaver; 16])), "as node {index} has heard");
    }
    assert!(!scene.has_left());
}

#[test]
fn who_has_left_does_not_fetch_it_again_while_its_place_on_the_list_is_still_there() {
    let mut scene = leaving();
    let leaver = scene.leaver;
    scene.world.freeze(leaver);
    scene.prove();
    scene.world.write(leaver);
    assert!(scene.has_left());
    assert!(
        scene.world.host(1).node.holders.has(scene.segment, NodeId([leaver; 16])),
        "the other nodes do not know yet"
    );
    let before = scene.world.sent.len();
    scene.world.run(2_500);
    let pulls = |sent: &(u8, u8, Wire)| sent.0 == leaver && matches!(sent.2, Wire::Control(Control::Pull { .. }));
    assert!(!scene.world.sent[before..].iter().any(pulls), "what it has just given up");
}

#[test]
fn who_dies_between_giving_its_replica_up_and_the_list_leaves_the_list_when_it_is_back() {
    let mut scene = leaving();
    let leaver = scene.leaver;
    scene.world.freeze(leaver);
    scene.prove();
    scene.world.write(leaver);
    assert!(scene.has_left());
    let disk = scene.world.kill(leaver);
    scene.world.start(leaver, disk);
    scene.world.join(leaver);
    assert!(scene.world.host(leaver).node.holders.has(scene.segment, NodeId([leaver; 16])), "as its disk has it");
    scene.world.run(2_500);
    for index in [1, leaver] {
        let holders = &scene.world.host(index).node.holders;
        assert!(!holders.has(scene.segment, NodeId([leaver; 16])), "as node {index} sees it, it may be named again");
    }
}

#[test]
fn nobody_proves_to_know_consumptions_that_are_not_on_its_disk_yet() {
    let mut world = three();
    world.publish(1, "x");
    world.run(500);
    let (dot, _) = world.waiting(1)[0].clone();
    let slot = RangeSet::from_range(dot.slot, dot.slot);
    let prove = |world: &mut World, nonce| {
        let state = SegmentState { known: slot.clone(), removed: slot.clone(), length: None };
        tell(world, 3, 2, wire::control(&Control::Prove { segment: dot.segment, nonce, state }));
        let proof = |message: &Wire| matches!(message, Wire::Control(Control::Proof { .. })).then_some(());
        world.told(2, 3, proof).len()
    };
    world.freeze(2);
    assert_eq!(prove(&mut world, 7), 0);
    world.thaw(2);
    assert_eq!(prove(&mut world, 8), 1);
}

/// What a node that leaves holds stays as it is until others have proven to have it: any news would void that.
#[test]
fn who_is_leaving_takes_no_consumptions_from_questions_for_proofs_and_vouches_for_nobody() {
    let mut world = three();
    world.publish(1, "x");
    world.run(3_000);
    let (dot, _) = world.waiting(1)[0].clone();
    let now = world.now;
    world.freeze(3);
    world.host(3).node.drain(now);
    world.host(3).node.release(true);
    world.run(1_000);
    assert_eq!(world.host(3).node.drain_stage(), DrainStage::Leaving);
    let slot = RangeSet::from_range(dot.slot, dot.slot);
    let ask = |world: &mut World, removed: RangeSet| {
        let state = SegmentState { known: slot.clone(), removed, length: None };
        tell(world, 2, 3, wire::control(&Control::Prove { segment: dot.segment, nonce: 7, state }));
        let proof = |message: &Wire| matches!(message, Wire::Control(Control::Proof { nonce: 7, .. })).then_some(());
        world.told(3, 2, proof).len()
    };
    assert_eq!(ask(&mut world, RangeSet::default()), 0, "it has all of it, and goes");
    assert_eq!(ask(&mut world, slot.clone()), 0);
    assert!(!world.host(3).node.engine().is_removed(dot), "it would be news");
}

/// Nobody has said so to the one that keeps it: others may yet be named, or it itself.
#[test]
fn a_copy_with_somebody_who_is_on_no_list_stays_while_too_few_others_have_it() {
    let mut world = World::new(2);
    for index in 1..=2 {
        world.start(index, MemoryStore::new());
        world.join(index);
    }
    world.run(1_000);
    world.publish(1, "x");
    world.run(500);
    let segment = world.waiting(1)[0].0.segment;
    let now = world.now;
    let node = &mut world.host(1).node;
    node.strike_out(placement::holders_key(segment), id(2));
    node.finish(now);
    world.drain();
    world.freeze(1);
    world.run(2_500);
    assert!(!world.host(2).node.holders.has(segment, id(2)), "it has heard that");
    assert_eq!(world.waiting(2).len(), 1);
    world.thaw(1);
    world.run(2_500);
    assert!(world.host(2).node.holders.has(segment, id(2)) && world.waiting(2).len() == 1);
}
