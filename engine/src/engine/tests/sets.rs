//! Sets that are added to often, and in one commit: what that costs, and that the limit of bytes holds all the same.

use super::*;
use crate::registry::{RegistryError, VALUE_BYTES, value::tests::ENCODED};

fn encoded(what: impl FnOnce()) -> usize {
    let before = ENCODED.get();
    what();
    ENCODED.get() - before
}

#[test]
fn many_adds_in_one_commit_measure_the_set_a_few_times() {
    let mut a = Replica3::new(0);
    let members: Vec<_> = (0..2_000_u32).map(u32::to_be_bytes).collect();
    let encodings = encoded(|| {
        members.iter().for_each(|member| a.engine.set("s").add(member).expect("within limits"));
        members.iter().step_by(2).for_each(|member| a.engine.set("s").remove(member).expect("lawful"));
        a.settle();
    });
    assert!(encodings < 10, "{encodings} encodings");
    let left: Vec<_> = members.iter().skip(1).step_by(2).map(|member| member.to_vec()).collect();
    assert_eq!(a.engine.set("s").members(), left);
    a.restart(0);
    assert_eq!(a.engine.set("s").members(), left);
}

#[test]
fn a_set_ends_at_its_limit_of_bytes_and_not_before() {
    let mut a = Replica3::new(0);
    let mut count = 0_u32;
    let member = |count: u32| [&count.to_be_bytes()[..], &[0; 5_000]].concat();
    let encodings = encoded(|| {
        while a.engine.set("s").add(member(count)).is_ok() {
            count += 1;
        }
    });
    assert!(encodings < 20, "{encodings} encodings");
    let key = Key::own_set("s");
    let refused = a.engine.set("s").add(member(count));
    assert!(matches!(refused, Err(RegistryError::TooLarge(bytes)) if bytes > VALUE_BYTES));
    a.settle();
    let bytes = a.engine.registry().get(&key).expect("committed").encode().len();
    assert!((VALUE_BYTES - 5_100..=VALUE_BYTES).contains(&bytes), "{bytes} bytes of {VALUE_BYTES}");
    assert_eq!(a.engine.set("s").members().len(), count as usize);
}

#[test]
fn an_add_never_makes_a_set_longer_than_it_was_said_to() {
    let mut a = Replica3::new(0);
    let key = Key::own_set("s");
    let (mut most, mut last) = (0, Vec::new());
    for length in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
        let member = vec![7; length];
        let before = a.engine.registry().get(&key).map_or(0, |value| value.encode().len());
        a.engine.set("s").add(&member).expect("within limits");
        a.settle();
        let after = a.engine.registry().get(&key).expect("committed").encode().len();
        // The first add makes the set itself.
        let more = after - if last.is_empty() { 8 } else { before };
        assert!(more <= crate::registry::Value::added_bytes(&member), "{length}: {before} to {after}");
        most = most.max(after);
        last.push(member);
    }
    assert_eq!(a.engine.set("s").members().len(), last.len());
    // What another added meanwhile counts, too.
    let mut b = Replica3::new(1);
    (0..40).for_each(|number| b.engine.set("s").add(vec![number; 20_000]).expect("within limits"));
    b.settle();
    a.engine.set("s").add("x").expect("within limits");
    exchange(&b.engine, &mut a.engine);
    let fits = (0..20).take_while(|number| a.engine.set("s").add(vec![100 + number; 20_000]).is_ok()).count();
    a.settle();
    let bytes = a.engine.registry().get(&key).expect("committed").encode().len();
    assert!(bytes <= VALUE_BYTES && bytes + 20_200 > VALUE_BYTES, "{fits} more fit: {bytes} bytes");
}
