//! Nothing is remembered for longer than it can matter.

use super::{
    super::Dispatch,
    NODES, random_life, rich_life,
    world::{World, id_of},
};

/// All books of a node that are not empty.
fn remembered(dispatch: &Dispatch) -> Vec<(&'static str, usize)> {
    dispatch.remembered().into_iter().filter(|(_, count)| *count > 0).collect()
}

fn doubts(world: &World, index: usize) -> usize {
    let books = world.hosts[index].dispatch.takeover.remembered();
    books.into_iter().find(|(name, _)| *name == "doubted").unwrap().1
}

#[test]
fn when_all_is_consumed_and_everyone_is_gone_the_books_are_empty() {
    for seed in 0..140 {
        let mut world = if seed < 100 { random_life(seed, 600, true) } else { rich_life(seed, 600) };
        world.come_to_rest();
        // Links first: what peers were interested in goes with them, and not only because they say so.
        for a in 0..NODES {
            (0..a).for_each(|b| world.cut(a, b));
        }
        for index in 0..NODES {
            world.vanish_all(index);
            world.drop_all(index);
        }
        (0..20).for_each(|_| world.pass_time(50));
        for (index, host) in world.hosts.iter().enumerate() {
            assert_eq!(remembered(&host.dispatch), [], "seed {seed}, node {index}");
        }
    }
}

#[test]
fn what_was_delivered_in_place_of_a_writer_is_forgotten_when_that_begins_another_life() {
    let mut world = World::new(1);
    world.link(0, 1);
    (0..6).for_each(|_| world.publish(0));
    world.settle_links();
    world.cut(0, 1);
    world.let_time_pass(300);
    world.subscribe_to_both(1, 10);
    assert_eq!((world.deliveries.len(), world.hosts[1].dispatch.stand_ins.len()), (6, 1));
    world.link(0, 1);
    world.settle_links();
    assert_eq!(world.hosts[1].dispatch.stand_ins.len(), 1, "the answer may get lost");
    world.restart(0);
    world.link(0, 1);
    world.settle_links();
    assert_eq!(world.hosts[1].dispatch.stand_ins.len(), 0, "all of it is of another life now");
}

#[test]
fn a_doubt_ends_with_a_claim_or_when_the_segment_is_not_owned_any_more() {
    let mut world = World::new(1);
    world.link(0, 1);
    world.publish(0);
    world.settle_links();
    let segment = world.published.first().unwrap().segment;
    let now = world.now.mono_ms;
    for index in [0, 1] {
        world.hosts[index].dispatch.takeover.doubt(now, segment);
        assert_eq!(doubts(&world, index), 1);
    }
    world.hosts[0].dispatch.takeover.begin(now, segment, &[id_of(1)], &[]);
    assert_eq!(doubts(&world, 0), 0, "the claim asks all that there is to ask");
    world.let_time_pass(200);
    assert_eq!(doubts(&world, 1), 0, "it is not node 1's to doubt");
}
