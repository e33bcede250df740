//! Exchanges in rounds: two stores with any differences come to the same, and every byte is counted.

use super::*;
use crate::Exchange;

/// What an exchange cost.
#[derive(Debug, Default)]
struct Cost {
    bytes: usize,
    messages: usize,
    largest: usize,
    round_trips: usize,
}

/// Runs an exchange until nobody has anything to say, with deltas of so many bytes.
fn run(a: &mut Replica3, b: &mut Replica3, limit: usize) -> Cost {
    run_and(a, b, limit, true)
}

/// As [`run`]; what comes is committed at once, or all of it at the end.
fn run_and(a: &mut Replica3, b: &mut Replica3, limit: usize, at_once: bool) -> Cost {
    let mut cost = Cost::default();
    let mut to_b = vec![a.engine.exchange()];
    while !to_b.is_empty() {
        cost.round_trips += 1;
        assert!(cost.round_trips < 500, "does not end");
        let mut step = |here: &mut Replica3, inbox: Vec<Exchange>| {
            let mut out = Vec::new();
            for message in inbox {
                let bytes = message.encode();
                cost.bytes += bytes.len();
                cost.largest = cost.largest.max(bytes.len());
                cost.messages += 1;
                let message = Exchange::decode(&bytes).expect("its own encoding");
                let (replies, news) = here.engine.answer_within(message, limit).expect("reads");
                here.engine.merge(news).expect("valid");
                if at_once {
                    here.settle();
                }
                out.extend(replies);
            }
            out
        };
        let to_a = step(b, to_b);
        to_b = step(a, to_a);
    }
    a.settle();
    b.settle();
    cost
}

/// In sync: a question and an answer, of the same size whatever there is.
fn is_in_sync(a: &mut Replica3, b: &mut Replica3) {
    for cost in [run(a, b, usize::MAX), run(b, a, usize::MAX)] {
        assert_eq!((cost.bytes, cost.messages, cost.round_trips), (84 + 19, 2, 1), "{cost:?}");
    }
}

#[derive(Clone, Debug)]
enum Change {
    Publish(u8, u8),
    Consume(usize),
    Add(u8, u8),
    Remove(u8, u8),
    Write(u8, u8),
    Close,
    Fold,
    Restart,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..3_u8, any::<u8>()).prop_map(|(inbox, body)| Change::Publish(inbox, body)),
        3 => any::<usize>().prop_map(Change::Consume),
        2 => (0..40_u8, 0..4_u8).prop_map(|(set, member)| Change::Add(set, member)),
        1 => (0..40_u8, 0..4_u8).prop_map(|(set, member)| Change::Remove(set, member)),
        2 => (0..40_u8, any::<u8>()).prop_map(|(register, content)| Change::Write(register, content)),
        1 => Just(Change::Close),
        1 => Just(Change::Fold),
        1 => Just(Change::Restart),
    ]
}

fn make(replica: &mut Replica3, index: u8, change: &Change) {
    let engine = &mut replica.engine;
    match change {
        Change::Publish(inbox, body) => {
            let unit = Unit { entries: vec![entry(&format!("q{inbox}"), &format!("{body}"))], ..Unit::default() };
            engine.publish(unit).expect("lawful");
        }
        Change::Consume(pick) => {
            let all: Vec<_> = waiting(engine).into_keys().collect();
            if !all.is_empty() {
                engine.remove(all[pick % all.len()]);
            }
        }
        Change::Add(set, member) => engine.set(&format!("{set}")).add([*member]).expect("lawful"),
        Change::Remove(set, member) => engine.set(&format!("{set}")).remove([*member]).expect("lawful"),
        Change::Write(register, content) => {
            engine.register(&format!("{register}")).set([*content], Now::default()).expect("lawful");
        }
        Change::Close => engine.close_segment(),
        Change::Fold => {
            let over: Vec<_> = engine.segments().filter(|id| Some(*id) != engine.open_segment()).collect();
            over.into_iter().for_each(|id| engine.fold(id));
        }
        Change::Restart => replica.restart(index),
    }
    replica.settle();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn two_stores_with_any_differences_converge(
        shared in proptest::collection::vec(change(), 0..30),
        here in proptest::collection::vec(change(), 0..30),
        there in proptest::collection::vec(change(), 0..30),
        tiny: bool,
        at_once: bool,
    ) {
        let (mut a, mut b) = (Replica3::new(0), Replica3::new(1));
        let limit = if tiny { 1 } else { usize::MAX };
        shared.iter().for_each(|change| make(&mut a, 0, change));
        run(&mut b, &mut a, limit);
        here.iter().for_each(|change| make(&mut a, 0, change));
        there.iter().for_each(|change| make(&mut b, 1, change));
        let mut all = waiting(&a.engine);
        all.extend(waiting(&b.engine));
        all.retain(|dot, _| !a.engine.is_removed(*dot) && !b.engine.is_removed(*dot));
        run_and(&mut a, &mut b, limit, at_once);
        prop_assert_eq!(waiting(&a.engine), all.clone());
        prop_assert_eq!(waiting(&b.engine), all);
        prop_assert_eq!(a.engine.registry().digest(), b.engine.registry().digest());
        is_in_sync(&mut a, &mut b);
    }
}

/// A segment that was begun and has no message yet, or of which all was lost that this node had, is nothing that the other
/// could lack.
#[test]
fn a_segment_without_messages_is_no_difference() {
    let (mut a, mut b) = (Replica3::new(0), Replica3::new(1));
    a.engine.begin_segment(Now::default());
    a.settle();
    is_in_sync(&mut a, &mut b);
    a.engine.publish(Unit { entries: vec![entry("q", "body")], ..Unit::default() }).expect("lawful");
    a.settle();
    let segment = a.engine.open_segment().expect("in use");
    let broken = crate::Op::Put(keys::block(segment, 1), Bytes::from_static(b"broken"));
    a.store.commit(&[vec![broken]]).expect("memory");
    a.engine.forget_damaged(Dot { segment, slot: 1 });
    a.settle();
    assert_eq!(a.engine.segment(segment), Some(&SegmentState::default()));
    is_in_sync(&mut a, &mut b);
}

fn name(number: u32) -> String {
    format!("{:08x}", number.wrapping_mul(0x9e37_79b9))
}

fn write(replica: &mut Replica3, number: u32, content: &[u8]) {
    replica.engine.register(&name(number)).set(content, Now::default()).expect("lawful");
}

/// Two with the same `n` registers and a message.
fn pair(n: u32) -> (Replica3, Replica3) {
    let (mut a, mut b) = (Replica3::new(0), Replica3::new(1));
    (0..n).for_each(|number| write(&mut a, number, &[7; 20]));
    a.engine.publish(Unit { entries: vec![entry("q", "body")], ..Unit::default() }).expect("lawful");
    a.settle();
    exchange(&a.engine, &mut b.engine);
    b.settle();
    (a, b)
}

/// Of a range that differs, on each level: the digests of eight parts, each with two keys, a hash and a number.
const LEVEL_BYTES: usize = 8 * 64;
/// At the end: the sixteen keys around it with their values, and the answer.
const LAST_BYTES: usize = 17 * 80;

#[test]
fn in_sync_costs_the_same_for_any_number_of_keys_and_differences_cost_their_number_times_the_logarithm() {
    for (n, levels) in [(1_000, 3), (100_000, 5)] {
        let (mut a, mut b) = pair(n);
        is_in_sync(&mut a, &mut b);
        for d in [1, 10, 100] {
            for at in 0..d {
                let (replica, other) = if at % 2 == 0 { (&mut a, b"a".repeat(20)) } else { (&mut b, b"b".repeat(20)) };
                write(replica, at * (n / d) + 3, &other);
            }
            a.settle();
            b.settle();
            let cost = run(&mut a, &mut b, usize::MAX);
            let bound = 84 + LEVEL_BYTES + d as usize * (levels * LEVEL_BYTES + LAST_BYTES);
            println!("{n:>7} keys, {d:>3} differences: {cost:?}, {bound} bytes at most");
            assert!(cost.bytes <= bound, "{d} of {n} differ: {cost:?}, more than {bound}");
            assert!(cost.round_trips <= levels, "{d} of {n} differ: {cost:?}");
            assert_eq!(a.engine.registry().digest(), b.engine.registry().digest());
        }
        is_in_sync(&mut a, &mut b);
    }
}

/// What a summary would cost of segments: it grows with them and with the ranges of their slots, not with messages.
#[test]
fn segments_are_told_by_their_ranges() {
    let (mut a, mut b) = pair(0);
    for number in 0..200 {
        a.engine
            .publish(Unit { entries: vec![entry("q", &"body".repeat(100)); 50], ..Unit::default() })
            .expect("lawful");
        if number % 20 == 0 {
            a.engine.close_segment();
        }
        a.settle();
    }
    run(&mut a, &mut b, usize::MAX);
    is_in_sync(&mut a, &mut b);
    b.engine.remove(Dot { segment: a.engine.open_segment().expect("in use"), slot: 7 });
    b.settle();
    let cost = run(&mut a, &mut b, usize::MAX);
    let segments = a.engine.segments().count();
    assert!(segments >= 10 && cost.bytes <= 84 + 2 * segments * 50, "{segments} segments: {cost:?}");
    is_in_sync(&mut a, &mut b);
}

/// Who only pulls changes nothing at the other, whichever of the two has more.
#[test]
fn a_pull_brings_all_and_gives_nothing() {
    let (mut a, mut b) =
        (crate::Local::in_memory(node(0)).expect("memory"), crate::Local::in_memory(node(1)).expect("memory"));
    for number in 0..100 {
        a.register(&name(number)).set("a").expect("lawful");
        b.register(&name(number + 50)).set("b").expect("lawful");
    }
    a.publish("q", "of a").expect("lawful");
    b.publish("q", "of b").expect("lawful");
    a.commit().expect("memory");
    b.commit().expect("memory");
    let before = a.engine_mut().digest(|_| true);
    b.pull_from(&a).expect("valid");
    assert_eq!(a.engine_mut().digest(|_| true), before);
    assert_eq!((b.waiting("q").count(), b.engine().registry().len()), (2, 150));
    assert_eq!(a.waiting("q").count(), 1);
    a.pull_from(&b).expect("valid");
    assert_eq!(a.engine_mut().digest(|_| true), b.engine_mut().digest(|_| true));
}

#[test]
fn bytes_that_are_no_message_are_refused_and_others_versions_by_name() {
    let (a, _) = pair(3);
    let bytes = a.engine.exchange().encode();
    for cut in 0..bytes.len() {
        let wrong = if cut < 16 + 1 { DeltaError::Malformed } else { DeltaError::Damaged };
        let found = Exchange::decode(&bytes[..cut]).err();
        assert!(found == Some(wrong) || (cut == 16 && found == Some(DeltaError::Damaged)), "{cut}: {found:?}");
    }
    assert_eq!(Exchange::decode(&[&bytes[..], &[0]].concat()), Err(DeltaError::Damaged));
    // A bit that flips consumes nothing.
    for bit in 8..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Exchange::decode(&flipped), Err(DeltaError::Damaged));
    }
    assert_eq!(Exchange::decode(&[&[9], &bytes[1..]].concat()), Err(DeltaError::Version(9)));
    assert_eq!(Exchange::decode(&a.engine.summary().encode()), Err(DeltaError::Malformed));
}

#[test]
fn small_blocks_that_are_gathered_between_two_parts_of_a_delta_are_not_left_out() {
    let (mut a, mut b) = (Replica3::new(0), Replica3::new(1));
    for number in 0..12 {
        a.engine.publish(Unit { entries: vec![entry("q", &format!("{number}"))], ..Unit::default() }).expect("lawful");
        a.settle();
    }
    let [ask] = &a.engine.answer(b.engine.pull()).expect("reads").0[..] else { panic!("they differ") };
    let [have] = &b.engine.answer(ask.clone()).expect("reads").0[..] else { panic!("it tells what it has") };
    let mut to_b = a.engine.answer_within(have.clone(), 1).expect("reads").0;
    let mut parts = 0;
    while let Some(part) = to_b.pop() {
        parts += 1;
        assert!(parts < 20, "does not end");
        let (more, news) = b.engine.answer(part).expect("reads");
        b.engine.merge(news).expect("valid");
        b.settle();
        if parts == 3 {
            let now = Now { mono_ms: limits::REWRITE_AGAIN_MS, wall_ms: 0 };
            assert!(a.engine.gather(now, 0, usize::MAX).is_last);
            a.settle();
        }
        to_b = more.into_iter().flat_map(|have| a.engine.answer_within(have, 1).expect("reads").0).collect();
    }
    assert!((4..12).contains(&parts), "{parts} parts, the last of them of what was gathered");
    assert_eq!(waiting(&b.engine), waiting(&a.engine));
}
