//! Answering for a message that another node took.

use super::*;

#[test]
fn a_message_of_a_dead_node_is_confirmed_again_when_as_many_disks_have_it() {
    let mut world = three();
    world.freeze(3);
    world.publish(1, "x");
    assert_eq!(world.copies_confirmed(1), [2]);
    assert!(world.host(3).node.incoming_commit().is_some_and(|number| !world.host(3).node.has_done_commit(number)));
    world.kill(1);
    let dot = world.waiting(2)[0].0;
    assert!(world.host(2).node.confirm_again(dot).is_some());
    world.drain();
    assert_eq!(world.copies_confirmed(2), [], "one disk has it, and another node is there");
    world.thaw(3);
    assert_eq!(world.copies_confirmed(2), [2]);
    assert_eq!(world.host(3).node.incoming_commit(), None);
    world.consume(2, dot);
    assert_eq!(world.host(2).node.confirm_again(dot), None);
}
