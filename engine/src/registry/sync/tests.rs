//! Pairs of registries brought together, with every byte counted.

use super::*;
use crate::{Epoch, NodeId, hlc::Clock};

/// Slack for what postcard adds to content, per message.
const OVERHEAD: usize = 64 << 10;

fn write(registry: &mut Registry, clock: &mut Clock, name: &str, content: Vec<u8>) {
    let key = Key::register(name);
    let value = registry.register_set(None, &key, content, clock.tick(5)).unwrap();
    registry.install(key, value);
}

fn clock(node: u8) -> Clock {
    Clock::new(NodeId([node; 16]), Epoch(1))
}

fn name(number: u32) -> String {
    format!("{:08x}", number.wrapping_mul(0x9e37_79b9))
}

/// Keys scattered over the whole range of names.
fn registry(numbers: impl Iterator<Item = u32>) -> Registry {
    let (mut registry, mut clock) = (Registry::default(), clock(1));
    numbers.for_each(|number| write(&mut registry, &mut clock, &name(number), vec![7; 20]));
    registry
}

fn merge(registry: &mut Registry, news: Vec<(Key, Value)>) {
    for (key, value) in news {
        if let Some(value) = registry.merged(None, &key, &value) {
            registry.install(key, value);
        }
    }
}

#[derive(Debug, Default)]
struct Cost {
    bytes: usize,
    messages: usize,
    largest: usize,
    /// Both directions.
    round_trips: usize,
}

/// Runs one reconciliation until nobody has anything to say, losing the messages that `lost` names by their number.
fn reconcile(a: &mut Registry, b: &mut Registry, mut lost: impl FnMut(usize) -> bool) -> Cost {
    let mut cost = Cost::default();
    let mut to_b = start(a);
    while !to_b.is_empty() {
        cost.round_trips += 1;
        assert!(cost.round_trips < 50, "does not end");
        let mut step = |registry: &mut Registry, inbox: Vec<RegistryMsg>| {
            let mut out = Vec::new();
            for message in inbox {
                let bytes = postcard::to_stdvec(&message).unwrap();
                cost.bytes += bytes.len();
                cost.largest = cost.largest.max(bytes.len());
                cost.messages += 1;
                if lost(cost.messages) {
                    continue;
                }
                let (replies, news) = respond(registry, postcard::from_bytes(&bytes).unwrap());
                merge(registry, news);
                out.extend(replies);
            }
            out
        };
        let to_a = step(b, to_b);
        to_b = step(a, to_a);
    }
    cost
}

/// Bytes that one difference costs per level of the exchange: the digests of a range's parts, 54 bytes each.
const LEVEL_BYTES: usize = PARTS * 54;

/// Bytes that it costs at the end: the range that it lies in, at 75 bytes per key, and the answer.
const LAST_BYTES: usize = (WHOLE + 1) * 75;

/// Levels until a range of `n` keys, one more or less, has come down to one that is sent whole.
fn levels(n: u32) -> usize {
    let mut size = n as usize;
    std::iter::from_fn(|| {
        let is_large = size + 1 > WHOLE;
        size = size.div_ceil(PARTS);
        is_large.then_some(())
    })
    .count()
}

/// The bound: O(d log n), with d differences among n keys. In sync it is the digests of the parts of all, and no answer.
#[test]
fn few_differences_among_many_keys_cost_few_bytes() {
    for n in [1_000, 10_000, 100_000] {
        for d in [0, 1, 10, 100] {
            let (mut a, mut b) = (registry(0..n), registry(0..n));
            // A third each: missing here, missing there, another content.
            let differing = || (0..d).map(|number| number * (n / d) + 3);
            let mut other = clock(2);
            for (at, number) in differing().enumerate() {
                match at % 3 {
                    0 => a.remove(&Key::register(&name(number))),
                    1 => b.remove(&Key::register(&name(number))),
                    _ => write(&mut b, &mut other, &name(number), b"newer".to_vec()),
                }
            }
            let cost = reconcile(&mut a, &mut b, |_| false);
            let bound = LEVEL_BYTES + d as usize * (LEVEL_BYTES * levels(n) + LAST_BYTES);
            println!("{n:>7} keys, {d:>3} differences: {cost:?}, {} bytes at most", bound);
            assert!(a == b && a.digest() == b.digest() && a.len() == n as usize);
            assert!(cost.bytes <= bound, "{d} of {n} differ: {cost:?}, more than {bound} bytes");
            // A message each way goes down a level; the last two are the entries and what the other lacked of them.
            assert!(cost.round_trips <= (levels(n) + 2).div_ceil(2), "{d} of {n} differ: {cost:?}");
            if d == 0 {
                assert_eq!((cost.messages, cost.round_trips), (1, 1));
            }
        }
    }
    assert_eq!([1_000, 10_000, 100_000].map(levels), [3, 4, 5], "it grows with the logarithm");
}

#[test]
fn in_sync_is_one_small_message_without_an_answer() {
    for n in [0, 1, 10_000] {
        let (mut a, mut b) = (registry(0..n), registry(0..n));
        let cost = reconcile(&mut a, &mut b, |_| false);
        assert!(cost.messages == 1 && cost.bytes < 600, "{cost:?}");
    }
}

#[test]
fn lost_messages_only_delay() {
    let (mut a, mut b) = (registry(0..500), registry(400..900));
    // A plain xorshift: a third of all messages is lost.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut lost = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.is_multiple_of(3)
    };
    let rounds = (1..200).find(|_| {
        reconcile(&mut a, &mut b, &mut lost);
        a.digest() == b.digest()
    });
    assert!(rounds.is_some_and(|rounds| rounds > 1), "{rounds:?}: something was lost and made good");
    assert_eq!(a.len(), 900);
}

#[test]
fn an_empty_registry_is_filled_from_either_side() {
    let full = registry(0..300);
    for (mut a, mut b) in [(Registry::default(), full.clone()), (full.clone(), Registry::default())] {
        let cost = reconcile(&mut a, &mut b, |_| false);
        assert!(a == full && b == full);
        assert!(cost.round_trips <= 2, "whoever has nothing asks for all at once: {cost:?}");
    }
}

#[test]
fn nothing_is_sent_that_the_other_has_said_it_has() {
    let registry = registry(0..12);
    let entries = registry.range(&[], None).map(|(key, value)| (key.as_bytes().to_vec(), value.encode().to_vec()));
    let mut entries: Vec<_> = entries.collect();
    let missing = entries.remove(3);
    let complete = Some(Range { from: Vec::new(), to: None });
    let (replies, _) = respond(&registry, RegistryMsg::Entries { complete, entries });
    assert_eq!(replies, [RegistryMsg::Entries { complete: None, entries: vec![missing] }]);
}

#[test]
fn sets_that_both_sides_changed_become_one() {
    let key = Key::set("roster");
    let set = |node: u8| {
        let mut registry = registry(0..100);
        let value = registry.set_add(None, &key, vec![node], (NodeId([node; 16]), Epoch(1))).unwrap();
        registry.install(key.clone(), value);
        registry
    };
    let (mut a, mut b) = (set(1), set(2));
    reconcile(&mut a, &mut b, |_| false);
    assert_eq!(a.digest(), b.digest());
    assert_eq!(a.set_members(&key), [[1], [2]]);
}

/// A range of few keys can be many bytes: the difference at its end must not wait for ever behind what is equal.
#[test]
fn large_values_are_reached_wherever_they_lie() {
    // Few enough keys in each part to be sent whole, and too many bytes for it.
    let names: Vec<_> = (0..8 * 15).map(|number| format!("{number:03}")).collect();
    let last = names.len() - 1;
    for differing in [&names[..1], &names[last..], &names[..]] {
        let (mut a, mut one) = (Registry::default(), clock(1));
        names.iter().for_each(|name| write(&mut a, &mut one, name, vec![1; 30 << 10]));
        let (mut b, mut two) = (a.clone(), clock(2));
        two.tick(50); // What b writes is the later.
        differing.iter().for_each(|name| write(&mut b, &mut two, name, vec![2; 30 << 10]));
        for _ in 0..2 {
            let cost = reconcile(&mut a, &mut b, |_| false);
            assert!(cost.largest <= MESSAGE_BYTES + OVERHEAD, "{cost:?}");
        }
        assert_eq!(a.digest(), b.digest(), "{} values of {}", differing.len(), names.len());
        assert_eq!(a.register(&Key::register(&differing[0])), Some(&[2; 30 << 10][..]));
    }
}

/// Long names make large digests, and everything differs: messages stay bounded, and each round gets further.
#[test]
fn messages_are_bounded_and_rounds_make_progress() {
    let long = |number: u32| format!("{}{}", name(number), "n".repeat(450));
    let (mut a, mut b) = (Registry::default(), Registry::default());
    let (mut one, mut two) = (clock(1), clock(2));
    for number in 0..6000 {
        write(&mut a, &mut one, &long(number), vec![1; 10]);
        write(&mut b, &mut two, &long(number + 2000), vec![2; 2000]);
    }
    let rounds = (1..20).find(|_| {
        let cost = reconcile(&mut a, &mut b, |_| false);
        assert!(cost.largest <= MESSAGE_BYTES + OVERHEAD, "{cost:?}");
        a.digest() == b.digest()
    });
    assert!(rounds.is_some_and(|rounds| rounds <= 10), "{rounds:?}");
    assert_eq!(a.len(), 8000);
}

#[test]
fn a_small_question_never_draws_all_there_is() {
    let (mut registry, mut clock) = (Registry::default(), clock(1));
    (0..3000).for_each(|number| write(&mut registry, &mut clock, &name(number), vec![1; 4000]));
    let all = || Range { from: Vec::new(), to: None };
    let differs = RangeDigest { range: all(), count: 1 << 40, digest: [0; 32] };
    let inverted = RangeDigest { range: Range { from: vec![9], to: Some(vec![1]) }, count: 1, digest: [0; 32] };
    for question in [
        RegistryMsg::Entries { complete: Some(all()), entries: Vec::new() },
        RegistryMsg::Digests(vec![differs.clone(); 2000]),
        RegistryMsg::Digests((0..2000).flat_map(|_| [inverted.clone(), differs.clone()]).collect()),
        RegistryMsg::Digests(
            (0..3000u32)
                .map(|number| number.wrapping_mul(0xffff_ffff / 3000))
                .map(|start| format!("r{start:08x}").into_bytes())
                .map(|from| Range { to: Some([&from[..], &[0xff]].concat()), from })
                .map(|range| RangeDigest { range, count: 1, digest: [0; 32] })
                .collect(),
        ),
    ] {
        let (replies, news) = respond(&registry, question);
        let bytes: usize = replies.iter().map(|reply| postcard::to_stdvec(reply).unwrap().len()).sum();
        assert!(news.is_empty() && bytes <= REPLY_BYTES + MESSAGE_BYTES + OVERHEAD, "{bytes} bytes");
    }
    // Ranges of one large value each, all of which are sent whole.
    let mut large = Registry::default();
    (0..60).for_each(|number| write(&mut large, &mut clock, &format!("{number:02}"), vec![1; 200 << 10]));
    let starts: Vec<_> = large.range(&[], None).map(|(key, _)| key.as_bytes().to_vec()).collect();
    let ranges = starts.iter().zip(starts.iter().skip(1).cloned().map(Some).chain([None]));
    let digest =
        |(from, to): (&Vec<u8>, _)| RangeDigest { range: Range { from: from.clone(), to }, count: 1, digest: [0; 32] };
    let (replies, _) = respond(&large, RegistryMsg::Digests(ranges.map(digest).collect()));
    let bytes: usize = replies.iter().map(|reply| postcard::to_stdvec(reply).unwrap().len()).sum();
    assert!((REPLY_BYTES..=REPLY_BYTES + MESSAGE_BYTES + OVERHEAD).contains(&bytes), "{bytes} bytes");
    let (replies, _) = respond(&registry, RegistryMsg::Digests(vec![differs; 2000]));
    assert!(matches!(&replies[..], [RegistryMsg::Digests(parts)] if parts.len() == PARTS), "one range, once");
}

#[test]
fn entries_that_do_not_read_are_skipped() {
    let good = registry(0..1);
    let (key, value) = good.range(&[], None).next().unwrap();
    let mut entries = vec![(key.as_bytes().to_vec(), value.encode().to_vec())];
    entries.push((b"?".to_vec(), entries[0].1.clone()));
    entries.push((entries[0].0.clone(), b"?".to_vec()));
    let (replies, news) = respond(&Registry::default(), RegistryMsg::Entries { complete: None, entries });
    assert!(replies.is_empty());
    assert_eq!(news.len(), 1);
}
