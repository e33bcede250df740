//! Laws for whatever others can make the engine read, as functions of bytes: for `fuzz/`, and for tests that hold the
//! seeds against them. Not part of the crate's interface.
//!
//! A law panics when it is broken. It returns whether the bytes got past the first checks, so that a seed which a change
//! of format has made useless is noticed.

mod delta;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Block, Dot, Entry, Epoch, NodeId, RangeSet, Retired, RetiredLife, SegmentId, SegmentState,
    block::BlockError,
    hlc::Clock,
    keys,
    limits::{INBOX_NAME_BYTES, SEGMENT_SLOTS},
    ranges::MAX_RANGES,
    registry::{Key, Registry, Value},
};

pub use self::delta::delta;
pub use crate::store::fuzzing::commit_log;

/// One fuzz target.
pub struct Target {
    /// Also the name of its seeds' folder and of its program.
    pub name: &'static str,
    /// The law.
    pub law: fn(&[u8]) -> bool,
    /// Inputs to start from; the law takes in all of them.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "block", law: block, seeds: block_seeds },
    Target { name: "store_rows", law: store_rows, seeds: store_rows_seeds },
    Target { name: "registry", law: registry, seeds: registry_seeds },
    Target { name: "delta", law: delta, seeds: delta::delta_seeds },
    Target { name: "commit_log", law: commit_log, seeds: crate::store::fuzzing::commit_log_seeds },
];

/// Fuzz input as a list of choices; zeros and nothing when it is used up.
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next octet.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next two octets, most significant first.
    pub fn short(&mut self) -> u16 {
        u16::from(self.byte()) << 8 | u16::from(self.byte())
    }

    /// The next octets, as many as are left and at most `len`.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A length in two octets, and so many octets.
    pub fn part(&mut self) -> &'a [u8] {
        let len = self.short();
        self.take(usize::from(len))
    }
}

/// The reverse of [`Choices::part`], for seeds.
pub fn parts(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| [&(part.len() as u16).to_be_bytes()[..], part].concat()).collect()
}

/// Damaged forms of each seed that a test tries at most, in each of its ways.
const TRIES: usize = 64;

/// Versions of what is stored: directory, rows, blocks, registry values.
#[cfg(test)]
pub(crate) fn versions() -> [u32; 4] {
    let (rows, block, value) = (crate::keys::VERSION, crate::block::GATHERED, crate::registry::VALUE_VERSION);
    [crate::store::FORMAT_VERSION, rows.into(), block.into(), value.into()]
}

/// Holds the targets against their seeds, against damaged forms of these, and against the files in `fuzz/seeds`. A test of
/// each crate calls it.
///
/// # Panics
/// If a law is broken or does not take a seed in, or if a file is not what the seeds say.
pub fn check_seeds(fuzz: &std::path::Path, targets: &[Target]) {
    let again = "write them anew with `cargo run --manifest-path fuzz/Cargo.toml --example seeds`";
    for target in targets {
        let seeds = (target.seeds)();
        for (number, seed) in seeds.iter().enumerate() {
            assert!((target.law)(seed), "seed {number} of {} is not taken in", target.name);
            let path = fuzz.join("seeds").join(target.name).join(number.to_string());
            let stored = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; {again}", path.display()));
            assert!(stored == *seed, "{} is out of date; {again}", path.display());
            for at in (0..seed.len()).step_by(seed.len().div_ceil(TRIES).max(1)) {
                (target.law)(&seed[..at]);
                for bits in [1, 0x80, 0xff] {
                    let mut broken = seed.clone();
                    broken[at] ^= bits;
                    (target.law)(&broken);
                }
            }
        }
        let stored = std::fs::read_dir(fuzz.join("seeds").join(target.name)).map_or(0, Iterator::count);
        assert_eq!(stored, seeds.len(), "{} has files of old; {again}", target.name);
    }
}

/// A block with this content and its right hash: what decodes keeps its bytes and answers for each of its slots.
pub fn block(content: &[u8]) -> bool {
    let hash = blake3::hash(content);
    let bytes = Bytes::from([content, hash.as_bytes()].concat());
    // Without the hash, only damage is found.
    assert!(matches!(Block::decode(Bytes::copy_from_slice(content)), Err(BlockError::Hash | BlockError::Malformed(_))));
    let Ok(block) = Block::decode(bytes.clone()) else { return false };
    assert_eq!(*block.bytes(), bytes);
    let (first, last) = (block.first(), block.last());
    assert!((1..=last).contains(&first) && last <= SEGMENT_SLOTS);

    let is_gathered = content.first() == Some(&crate::block::GATHERED);
    let mut seen = RangeSet::new();
    for run in block.runs() {
        let is_next =
            if is_gathered { run.slots.intersection(&seen).is_empty() } else { run.slots.first() > seen.last() };
        assert!(!run.slots.is_empty() && is_next && run.inbox.len() <= INBOX_NAME_BYTES);
        seen.union_with(&run.slots);
        for slot in run.slots.iter() {
            let message = block.message(slot).expect("every slot of a run has a message");
            assert_eq!(message.inbox, run.inbox);
            // Slices, never copies: else a small block could take any amount of memory.
            for part in [&message.head, &message.body] {
                assert!(part.is_empty() || bytes.as_ptr_range().contains(&part.as_ptr()));
            }
            assert_eq!(block.dot(slot), Dot { segment: block.segment(), slot });
        }
    }
    assert_eq!(seen, *block.slots());
    assert!(seen.is_subset(&RangeSet::from_range(first, last)));
    let holes = RangeSet::from_range(first, last).difference(&seen);
    for outside in holes.iter().take(1_000).chain([0, first - 1, last + 1, u32::MAX]) {
        assert!(block.message(outside).is_none());
    }
    let odd: RangeSet = seen.iter().filter(|slot| slot % 2 == 1).collect();
    let even = seen.difference(&odd);
    let [odd, even] = [&odd, &even].map(|keep| block.remnant(keep));
    let parts: Vec<_> = odd.iter().chain(&even).collect();
    let whole = parts.iter().skip(1).fold(parts[0].clone(), |all, part| all.union(part).expect("parts of one block"));
    assert_eq!(whole.slots(), block.slots());
    assert!(seen.iter().all(|slot| whole.message(slot) == block.message(slot)));
    if seen != RangeSet::from_range(first, last) {
        return true;
    }

    // Built anew from what it says, one entry per slot, it says the same.
    let entries: Vec<Entry> = (first..=last)
        .map(|slot| {
            let message = block.message(slot).expect("dense");
            Entry {
                inboxes: vec![message.inbox.to_string()],
                head: message.head,
                body: message.body,
                persistent: message.persistent,
            }
        })
        .collect();
    let inboxes: std::collections::BTreeSet<_> = block.runs().iter().map(|run| run.inbox.clone()).collect();
    let rebuilt = Block::build(block.segment(), first, &entries);
    assert_eq!((rebuilt.segment(), rebuilt.first(), rebuilt.last()), (block.segment(), first, last));
    // With two runs of one inbox the slots would be numbered otherwise.
    if inboxes.len() == block.runs().len() {
        for slot in first..=last {
            assert_eq!(rebuilt.message(slot), block.message(slot));
        }
    }
    true
}

/// A key of the store, and a value of each kind: what reads is written again as the same key, or the same value.
pub fn store_rows(bytes: &[u8]) -> bool {
    let mut choices = Choices(bytes);
    let key = choices.part();
    let value = choices.0;
    let mut read = false;

    if let Ok(id) = keys::parse_segment(key) {
        assert_eq!(keys::segment(id)[1..], key[1..]);
        read = true;
    }
    if let Ok((id, number)) = keys::parse_numbered(key) {
        assert_eq!(keys::block(id, number)[1..], key[1..]);
        assert_eq!(keys::removed(id, number)[1..], key[1..]);
        read = true;
    }
    if let Ok((node, epoch)) = keys::parse_retired(key) {
        assert_eq!(keys::retired(node, epoch)[1..], key[1..]);
        read = true;
    }
    if let Ok(key) = Key::from_bytes(key) {
        assert_eq!(Key::from_bytes(key.as_bytes()).as_ref(), Ok(&key));
        read = true;
    }

    if let Some(set) = row::<RangeSet>(value) {
        assert_normal(&set);
        read = true;
    }
    if let Some(row) = row::<keys::SegmentRow>(value) {
        assert_normal(&row.known);
        read = true;
    }
    if let Some(state) = row::<SegmentState>(value) {
        assert_normal(&state.known);
        assert_normal(&state.removed);
        let mut twice = state.clone();
        twice.merge(&state);
        assert_eq!(twice, state);
        assert_eq!(state.delta(&state), SegmentState::default());
        let _ = (state.waiting(), state.is_finished());
    }
    if let Some(retired) = row::<Retired>(value) {
        retired.lives().for_each(|(_, _, life)| assert_life(life));
        assert!(retired.delta(&retired).is_empty());
    }
    if let Some(life) = row::<RetiredLife>(value) {
        assert_life(&life);
        let mut twice = life.clone();
        twice.normalize();
        let normal = twice.clone();
        twice.merge(&life);
        assert_eq!(twice, normal);
        read = true;
    }
    read | row::<keys::LifeRow>(value).is_some()
}

fn assert_life(life: &RetiredLife) {
    assert_normal(&life.finished);
    life.folded.values().for_each(assert_normal);
}

/// A row that reads is written as a row that reads the same, and no longer than what was read.
fn row<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = keys::decode(bytes).ok()?;
    let written = keys::encode(&value);
    assert!(written.len() <= bytes.len());
    assert_eq!(keys::decode::<T>(&written).as_ref(), Ok(&value));
    Some(value)
}

/// Sorted, disjoint, not adjacent, without slot 0; and its methods agree with each other.
pub fn assert_normal(set: &RangeSet) {
    let mut lowest = Some(1_u32);
    for (start, end) in set.iter_ranges() {
        assert!(lowest.is_some_and(|lowest| lowest <= start) && start <= end, "{set:?}");
        lowest = end.checked_add(2);
        assert!(set.contains(start) && set.contains(end));
    }
    assert!(set.range_count() <= MAX_RANGES && !set.contains(0));
    let (first, last) = (set.first().unwrap_or(0), set.last().unwrap_or(0));
    let holes = set.complement_within(1, u32::MAX);
    assert!(holes.intersection(set).is_empty());
    assert_eq!(holes.union(set), RangeSet::from_range(1, u32::MAX));
    assert_eq!(set.clip(first, last), *set);
    assert_eq!(set.difference(&holes), *set);
    assert!(set.is_subset(set) && set.union(set) == *set);
}

/// Up to three encoded values. What decodes is canonical, and its merge is a join: it can be done in any order, any
/// number of times.
pub fn registry(bytes: &[u8]) -> bool {
    let mut choices = Choices(bytes);
    let mut values = Vec::new();
    while !choices.is_empty() && values.len() < 3 {
        let bytes = choices.part();
        if let Ok(value) = Value::decode(bytes) {
            assert_eq!(value.encode(), bytes, "only canonical bytes are a value");
            values.push(value);
        }
    }
    for a in &values {
        assert_eq!(a.merged(a), None, "a value brings itself nothing new");
        // Whatever there is can be worked with.
        let key = if a.is_set() { Key::set("k") } else { Key::register("k") };
        let mut registry = Registry::default();
        registry.install(key.clone(), a.clone());
        assert_eq!(registry.set_members(&key), a.members());
        for member in a.members() {
            let less = registry.set_remove(None, &key, &member).expect("the key is of the kind");
            assert!(!less.expect("it was a member").members().contains(&member));
        }
        let actor = (NodeId([1; 16]), Epoch(1));
        if let Ok(more) = registry.set_add(None, &key, b"new".to_vec(), actor) {
            assert!(more.members().contains(&b"new".to_vec()));
            assert_eq!(Value::decode(&more.encode()).as_ref(), Ok(&more));
        }
        for b in &values {
            if a.is_set() != b.is_set() {
                assert_eq!(a.merged(b), None, "sets and registers do not mix");
                continue;
            }
            let union = a.merged(b).unwrap_or_else(|| a.clone());
            let other_way = b.merged(a).unwrap_or_else(|| b.clone());
            assert_eq!(union.encode(), other_way.encode(), "the order does not matter");
            assert_eq!(Value::decode(&union.encode()).as_ref(), Ok(&union), "a union is a value");
            // Else two nodes could go on exchanging for ever.
            assert_eq!(union.merged(a), None, "a union contains its sides");
            assert_eq!(union.merged(b), None, "a union contains its sides");
        }
    }
    !values.is_empty()
}

const SEGMENT: SegmentId = SegmentId { node: NodeId([1; 16]), epoch: Epoch(2), number: 3 };

/// A register with this content.
pub fn example_register(content: Vec<u8>) -> Value {
    Value::register(content, crate::hlc::Stamp { wall_ms: 9, counter: 0, node: SEGMENT.node, epoch: SEGMENT.epoch })
}

/// A block of three messages in two inboxes.
pub fn example_block() -> Block {
    let entry = |inboxes: &[&str], body: &'static str| Entry {
        inboxes: inboxes.iter().map(|name| (*name).to_owned()).collect(),
        head: Bytes::from_static(b"k:v\n"),
        body: Bytes::from_static(body.as_bytes()),
        persistent: body == "1",
    };
    Block::build(SEGMENT, 5, &[entry(&["/queue/a", "b"], "1"), entry(&["b"], "22"), entry(&["/queue/a"], "")])
}

fn block_seeds() -> Vec<Vec<u8>> {
    let bytes = example_block().bytes().clone();
    let small = Entry { inboxes: vec!["q".into()], head: Bytes::new(), body: Bytes::new(), persistent: true };
    let last = Block::build(SEGMENT, SEGMENT_SLOTS, &[small]).bytes().clone();
    let some = example_block().remnant(&[5, 7].into_iter().collect()).expect("it has these").bytes().clone();
    [bytes, last, some].map(|bytes| bytes[..bytes.len() - 32].to_vec()).to_vec()
}

fn store_rows_seeds() -> Vec<Vec<u8>> {
    let set: RangeSet = [1, 2, 3, 7, 100, 101].into_iter().collect();
    let seed = |key: Bytes, value: Bytes| [parts(&[&key]), value.to_vec()].concat();
    let row = keys::SegmentRow { known: set.clone(), length: Some(200), removed_prefix: 3 };
    let state = SegmentState { known: set.clone(), removed: RangeSet::from_range(1, 3), length: None };
    let life = keys::LifeRow { node: NodeId([1; 16]), epoch: Epoch(2), started_ms: 3 };
    let mut retired = Retired::default();
    retired.finish(SEGMENT);
    retired.fold(SegmentId { number: SEGMENT.number + 1, ..SEGMENT }, &set);
    let over = retired.life(SEGMENT.node, SEGMENT.epoch).cloned().unwrap_or_default();
    vec![
        seed(keys::segment(SEGMENT), keys::encode(&row)),
        seed(keys::removed(SEGMENT, 4), keys::encode(&set)),
        seed(keys::block(SEGMENT, 5), keys::encode(&state)),
        seed(keys::retired(SEGMENT.node, SEGMENT.epoch), keys::encode(&retired)),
        seed(keys::retired(SEGMENT.node, SEGMENT.epoch), keys::encode(&over)),
        seed(Bytes::copy_from_slice(Key::set("name").as_bytes()), keys::encode(&life)),
        seed(keys::meta("life"), keys::encode(&RangeSet::from_range(u32::MAX, u32::MAX))),
    ]
}

/// Two sides of a set with a common past, and a register.
pub fn example_values() -> [Value; 4] {
    let actor = |node| (NodeId([node; 16]), Epoch(u64::from(node)));
    let (key, registry) = (Key::set("k"), Registry::default());
    let add = |value: Option<&Value>, member: &[u8], node| {
        registry.set_add(value, &key, member.to_vec(), actor(node)).expect("within the limits")
    };
    let past = add(Some(&add(None, b"a", 1)), b"b", 2);
    let one = add(Some(&past), b"c", 1);
    let other = registry.set_remove(Some(&past), &key, b"a").expect("a set").expect("it is in it");
    let register = |node, content: &[u8]| {
        let stamp = Clock::new(NodeId([node; 16]), Epoch(1)).tick(1_000);
        registry.register_set(None, &Key::register("k"), content.to_vec(), stamp).expect("within the limits")
    };
    [one, add(Some(&other), b"b", 2), register(1, b"content"), register(2, b"")]
}

fn registry_seeds() -> Vec<Vec<u8>> {
    let encoded = example_values().map(|value| value.encode());
    let [one, other, register, written_later] = encoded.each_ref().map(|bytes| &bytes[..]);
    vec![parts(&[one, other]), parts(&[register, written_later]), parts(&[other, register, one])]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_seeds_of_the_fuzz_targets_hold_and_are_up_to_date() {
        super::check_seeds(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz").as_ref(), super::TARGETS);
    }
}
