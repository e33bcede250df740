//! Registry reconciliation by range digests (as in Meyer, *Range-Based Set Reconciliation*, 2023).
//!
//! Equal registries cost one comparison of digests. Where a range differs it is cut into parts, and only those that
//! differ are cut again, until a part is small enough to be sent whole: d differences among n keys cost O(d log n)
//! bytes. Every message stands for itself; what is lost is found again the next time.

use rhizomq_engine::{Key, Registry, Value};
use serde::{Deserialize, Serialize};

/// Parts that a differing range is cut into.
const PARTS: usize = 8;

/// Keys of a range that is sent whole.
const WHOLE: usize = 16;

/// Bytes of entries in one message; a message holds at least one entry, whatever its size.
const MESSAGE_BYTES: usize = 256 << 10;

/// Ranges taken from one message; the rest waits for the next time.
const MESSAGE_RANGES: usize = 4096;

/// A range of keys, `from` inclusive to `to` exclusive; no `to` means to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    from: Vec<u8>,
    to: Option<Vec<u8>>,
}

/// One message of the reconciliation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegistryMsg {
    /// What the sender has in these ranges: number of keys, digest.
    Digests(Vec<(Range, u64, [u8; 32])>),
    /// All that the sender has in the range, or pushed changes where there is none. The receiver answers a range with
    /// what it has that the sender lacks.
    Entries {
        /// The range that the entries are complete for.
        complete: Option<Range>,
        /// Keys with encoded values.
        entries: Vec<(Vec<u8>, Vec<u8>)>,
    },
}

/// Begins a reconciliation: digests of the whole registry's parts.
pub fn start(registry: &Registry) -> Vec<RegistryMsg> {
    let all = Range { from: Vec::new(), to: None };
    cut(registry, &all).into_iter().collect()
}

/// Ships changed values.
pub fn push(values: Vec<(Key, Value)>) -> Vec<RegistryMsg> {
    let entries = values.into_iter().map(|(key, value)| (key.as_bytes().to_vec(), value.encode().to_vec()));
    pack(entries.collect())
}

/// Answers a message, and says what is to be merged here.
pub fn respond(registry: &Registry, message: RegistryMsg) -> (Vec<RegistryMsg>, Vec<(Key, Value)>) {
    let mut replies = Vec::new();
    let mut news = Vec::new();
    match message {
        RegistryMsg::Digests(ranges) => {
            let mut differing = Vec::new();
            for (range, count, digest) in ranges.into_iter().take(MESSAGE_RANGES) {
                let (mine, my_digest) = registry.range_digest(&range.from, range.to.as_deref());
                if my_digest == digest {
                    continue;
                }
                if mine.max(count) as usize <= WHOLE || mine == 0 {
                    replies.push(whole(registry, range));
                } else if let Some(RegistryMsg::Digests(parts)) = cut(registry, &range) {
                    differing.extend(parts);
                }
            }
            if !differing.is_empty() {
                replies.push(RegistryMsg::Digests(differing));
            }
        }
        RegistryMsg::Entries { complete, entries } => {
            let mut theirs = std::collections::BTreeMap::new();
            for (key, value) in entries {
                // What does not read is skipped: the digests go on differing, and the peer is the one to be mended.
                if let (Ok(key), Ok(value)) = (Key::from_bytes(&key), Value::decode(&value)) {
                    theirs.insert(key, value);
                }
            }
            if let Some(range) = complete {
                let lacks = |key: &Key, mine: &Value| theirs.get(key).is_none_or(|value| value.merged(mine).is_some());
                let mine = registry.range(&range.from, range.to.as_deref()).filter(|(key, value)| lacks(key, value));
                replies.extend(push(mine.map(|(key, value)| (key.clone(), value.clone())).collect()));
            }
            news.extend(theirs);
        }
    }
    (replies, news)
}

/// All entries of a range. If they do not fit one message the range is not claimed to be complete.
fn whole(registry: &Registry, range: Range) -> RegistryMsg {
    let entries = registry.range(&range.from, range.to.as_deref());
    let entries: Vec<_> = entries.map(|(key, value)| (key.as_bytes().to_vec(), value.encode().to_vec())).collect();
    let mut messages = pack(entries);
    match messages.len() {
        0 => RegistryMsg::Entries { complete: Some(range), entries: Vec::new() },
        1 => match messages.remove(0) {
            RegistryMsg::Entries { entries, .. } => RegistryMsg::Entries { complete: Some(range), entries },
            other => other,
        },
        _ => messages.remove(0),
    }
}

/// Entries in messages of bounded size.
fn pack(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<RegistryMsg> {
    let mut messages = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        let size = entry.0.len() + entry.1.len();
        if bytes > 0 && bytes + size > MESSAGE_BYTES {
            messages.push(RegistryMsg::Entries { complete: None, entries: std::mem::take(&mut batch) });
            bytes = 0;
        }
        bytes += size;
        batch.push(entry);
    }
    if !batch.is_empty() {
        messages.push(RegistryMsg::Entries { complete: None, entries: batch });
    }
    messages
}

/// Digests of a range's parts, cut at keys that are here.
fn cut(registry: &Registry, range: &Range) -> Option<RegistryMsg> {
    let keys: Vec<_> = registry.range(&range.from, range.to.as_deref()).map(|(key, _)| key.as_bytes()).collect();
    let step = keys.len().div_ceil(PARTS).max(1);
    let mut bounds: Vec<Option<Vec<u8>>> = vec![Some(range.from.clone())];
    bounds.extend(keys.iter().skip(step).step_by(step).map(|key| Some(key.to_vec())));
    bounds.push(range.to.clone());
    let parts = bounds.windows(2).filter_map(|pair| {
        let part = Range { from: pair[0].clone()?, to: pair[1].clone() };
        let (count, digest) = registry.range_digest(&part.from, part.to.as_deref());
        Some((part, count, digest))
    });
    Some(RegistryMsg::Digests(parts.collect()))
}

#[cfg(test)]
mod tests {
    use rhizomq_engine::{Epoch, NodeId, hlc::Clock};

    use super::*;

    fn registry(keys: impl Iterator<Item = u32>) -> Registry {
        let mut clock = Clock::new(NodeId([1; 16]), Epoch(1));
        let mut registry = Registry::default();
        for number in keys {
            let key = Key::register(&format!("{:08x}", number.wrapping_mul(0x9e37_79b9)));
            let value = registry.register_set(None, &key, vec![7; 20], clock.tick(5)).expect("small");
            registry.install(key, value);
        }
        registry
    }

    fn merge(registry: &mut Registry, news: Vec<(Key, Value)>) {
        for (key, value) in news {
            if let Some(value) = registry.merged(None, &key, &value) {
                registry.install(key, value);
            }
        }
    }

    /// Runs one reconciliation, losing every `lose`th message; returns bytes and round trips.
    fn reconcile(a: &mut Registry, b: &mut Registry, lose: usize) -> (usize, usize) {
        let (mut to_b, mut bytes, mut rounds, mut count) = (start(a), 0, 0, 0);
        while !to_b.is_empty() {
            rounds += 1;
            assert!(rounds < 50, "does not end");
            let mut step = |registry: &mut Registry, inbox: Vec<RegistryMsg>| {
                let mut out = Vec::new();
                for message in inbox {
                    bytes += postcard::to_stdvec(&message).expect("encodes").len();
                    count += 1;
                    if lose > 0 && count % lose == 0 {
                        continue;
                    }
                    let (replies, news) = respond(registry, message);
                    merge(registry, news);
                    out.extend(replies);
                }
                out
            };
            let to_a = step(b, to_b);
            to_b = step(a, to_a);
        }
        (bytes, rounds)
    }

    #[test]
    fn few_differences_among_many_keys_cost_few_bytes() {
        let n = 10_000;
        for d in [1, 8, 64] {
            let mut a = registry(0..n);
            let mut b = registry((0..n).filter(|number| number % (n / d) != 3));
            let (bytes, rounds) = reconcile(&mut a, &mut b, 0);
            assert_eq!(a.digest(), b.digest());
            // log8(10,000) is about 4.5; a level costs 8 digests of 60 bytes, the last 16 entries of 100 bytes.
            let bound = (d as usize) * (6 * 8 * 80 + 2 * 16 * 120) + 1000;
            assert!(bytes < bound, "{d} differences took {bytes} bytes, more than {bound}");
            assert!(rounds <= 5, "{rounds}");
        }
    }

    #[test]
    fn lost_messages_only_delay() {
        let mut a = registry(0..500);
        let mut b = registry(400..900);
        for lose in 2..40 {
            reconcile(&mut a, &mut b, lose);
        }
        reconcile(&mut a, &mut b, 0);
        assert_eq!(a.digest(), b.digest());
        assert_eq!(a.len(), 900);
    }

    #[test]
    fn an_empty_registry_is_filled_and_fills_nothing() {
        let (mut a, mut b) = (Registry::default(), registry(0..300));
        reconcile(&mut a, &mut b, 0);
        assert_eq!((a.len(), b.len()), (300, 300));
        assert_eq!(reconcile(&mut a, &mut b, 0).1, 1, "in sync is one message and no answer");
    }
}
