//! Registry reconciliation by range digests (as in Meyer, *Range-Based Set Reconciliation*, 2023).
//!
//! Equal registries cost one comparison of digests. Where a range differs it is cut into parts, and only those that
//! differ are cut again, until a part is small enough to be sent whole: d differences among n keys cost O(d log n)
//! bytes. Every message stands for itself and is bounded; what is lost or did not fit is found again the next time.
//! Ranges are worked off in the order of keys, so each time gets further.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Key, Registry, Value};

#[cfg(test)]
mod tests;

/// Parts that a differing range is cut into.
const PARTS: usize = 8;

/// Keys of a range that is sent whole.
const WHOLE: usize = 16;

/// Bytes of content in one message. Only an entry that is larger by itself makes a larger message.
const MESSAGE_BYTES: usize = 256 << 10;

/// Bytes of content in all answers to one message, one message more or less: a small question must not make a node
/// send all it has, again and again. A new node fills its registry by this much at a time.
const REPLY_BYTES: usize = 4 << 20;

/// A range of keys, `from` inclusive to `to` exclusive; no `to` means to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    from: Vec<u8>,
    to: Option<Vec<u8>>,
}

/// What a node has in a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeDigest {
    range: Range,
    /// Number of keys.
    count: u64,
    /// Of keys and values.
    digest: [u8; 32],
}

impl RangeDigest {
    fn of(registry: &Registry, range: Range) -> Self {
        let (count, digest) = registry.range_digest(&range.from, range.to.as_deref());
        Self { range, count, digest }
    }

    fn bytes(&self) -> usize {
        self.range.from.len() + self.range.to.as_ref().map_or(0, Vec::len) + size_of_val(&self.digest) + 8
    }
}

/// One message of the reconciliation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegistryMsg {
    /// What the sender has in these ranges: ascending, disjoint.
    Digests(Vec<RangeDigest>),
    /// All that the sender has in the range, or just some entries where there is none. The receiver answers a range
    /// with what it has that the sender lacks.
    Entries {
        /// The range that the entries are complete for.
        complete: Option<Range>,
        /// Keys with encoded values.
        entries: Vec<(Vec<u8>, Vec<u8>)>,
    },
}

impl RegistryMsg {
    /// What makes a peer send all it has, for tests.
    #[doc(hidden)]
    pub fn all_of_nothing() -> Self {
        Self::Entries { complete: Some(Range { from: Vec::new(), to: None }), entries: Vec::new() }
    }
}

/// Begins a reconciliation: digests of the whole registry's parts.
pub fn start(registry: &Registry) -> Vec<RegistryMsg> {
    vec![RegistryMsg::Digests(cut(registry, &Range { from: Vec::new(), to: None }))]
}

/// Ships changed values.
pub fn push(values: Vec<(Key, Value)>) -> Vec<RegistryMsg> {
    let mut packer = Packer::default();
    values.iter().for_each(|(key, value)| packer.add(key, value));
    packer.finish()
}

/// Answers a message, and says what is to be merged here.
pub fn respond(registry: &Registry, message: RegistryMsg) -> (Vec<RegistryMsg>, Vec<(Key, Value)>) {
    match message {
        RegistryMsg::Digests(digests) => (compare(registry, digests), Vec::new()),
        RegistryMsg::Entries { complete, entries } => {
            let theirs: BTreeMap<Key, Value> = entries
                .iter()
                // What does not read is skipped: the digests go on differing, and the peer is the one to be mended.
                .filter_map(|(key, value)| Some((Key::from_bytes(key).ok()?, Value::decode(value).ok()?)))
                .collect();
            let replies = complete.map(|range| lacking(registry, &range, &theirs)).unwrap_or_default();
            (replies, theirs.into_iter().collect())
        }
    }
}

/// Where digests differ: entries of small ranges, digests of the parts of large ones.
fn compare(registry: &Registry, theirs: Vec<RangeDigest>) -> Vec<RegistryMsg> {
    let (mut replies, mut parts) = (Vec::new(), Vec::new());
    let (mut reply_bytes, mut part_bytes) = (0, 0);
    // Where the next range may start. Ranges that overlap would cost work without a bound, and no correct node sends them.
    let mut free = Some(Vec::new());
    for theirs in theirs {
        if reply_bytes >= REPLY_BYTES || part_bytes >= MESSAGE_BYTES {
            break;
        }
        let RangeDigest { range, count, digest } = theirs;
        let lawful = free.as_ref().is_some_and(|free| *free <= range.from);
        if !lawful || range.to.as_ref().is_some_and(|to| *to <= range.from) {
            continue;
        }
        free.clone_from(&range.to);
        let mine = RangeDigest::of(registry, range);
        if mine.digest == digest {
            continue;
        }
        let small = mine.count == 0 || mine.count.max(count) as usize <= WHOLE;
        match small.then(|| whole(registry, &mine.range)).flatten() {
            Some((reply, bytes)) => {
                reply_bytes += bytes;
                replies.push(reply);
            }
            None => {
                let cut = cut(registry, &mine.range);
                part_bytes += cut.iter().map(RangeDigest::bytes).sum::<usize>();
                parts.extend(cut);
            }
        }
    }
    if !parts.is_empty() {
        replies.push(RegistryMsg::Digests(parts));
    }
    replies
}

/// What is here in the range and would be news to one who has only `theirs` there.
fn lacking(registry: &Registry, range: &Range, theirs: &BTreeMap<Key, Value>) -> Vec<RegistryMsg> {
    let mut packer = Packer::default();
    for (key, mine) in registry.range(&range.from, range.to.as_deref()) {
        if packer.total >= REPLY_BYTES {
            break;
        }
        if theirs.get(key).is_none_or(|theirs| theirs.merged(mine).is_some()) {
            packer.add(key, mine);
        }
    }
    packer.finish()
}

/// All entries of a range, and their bytes; `None` if they are too many bytes for one message and can be parted.
fn whole(registry: &Registry, range: &Range) -> Option<(RegistryMsg, usize)> {
    let (mut entries, mut bytes) = (Vec::new(), range.from.len());
    for (key, value) in registry.range(&range.from, range.to.as_deref()) {
        let entry = (key.as_bytes().to_vec(), value.encode().to_vec());
        bytes += entry.0.len() + entry.1.len();
        if bytes > MESSAGE_BYTES && !entries.is_empty() {
            return None;
        }
        entries.push(entry);
    }
    Some((RegistryMsg::Entries { complete: Some(range.clone()), entries }, bytes))
}

/// Digests of a range's parts, cut at keys that are here: at most [`PARTS`], and two at least if there are two keys.
fn cut(registry: &Registry, range: &Range) -> Vec<RangeDigest> {
    let starts = registry.cuts(&range.from, range.to.as_deref(), PARTS as u64).map(|key| key.as_bytes().to_vec());
    let mut from = range.from.clone();
    let mut parts = Vec::with_capacity(PARTS);
    for next in starts {
        let part = Range { from: std::mem::replace(&mut from, next.clone()), to: Some(next) };
        parts.push(RangeDigest::of(registry, part));
    }
    parts.push(RangeDigest::of(registry, Range { from, to: range.to.clone() }));
    parts
}

/// Packs entries into messages of bounded size.
#[derive(Default)]
struct Packer {
    messages: Vec<RegistryMsg>,
    batch: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes in `batch`.
    bytes: usize,
    /// Bytes in all.
    total: usize,
}

impl Packer {
    fn add(&mut self, key: &Key, value: &Value) {
        let entry = (key.as_bytes().to_vec(), value.encode().to_vec());
        let size = entry.0.len() + entry.1.len();
        if self.bytes + size > MESSAGE_BYTES {
            self.flush();
        }
        self.bytes += size;
        self.total += size;
        self.batch.push(entry);
    }

    fn flush(&mut self) {
        self.bytes = 0;
        if !self.batch.is_empty() {
            self.messages.push(RegistryMsg::Entries { complete: None, entries: std::mem::take(&mut self.batch) });
        }
    }

    fn finish(mut self) -> Vec<RegistryMsg> {
        self.flush();
        self.messages
    }
}
