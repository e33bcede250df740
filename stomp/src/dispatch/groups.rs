//! Message groups: messages of a queue with the same `JMSXGroupID` go to one consumer, in order, as long as it lives.
//!
//! Groups are told apart by a hash, as one of [`BUCKETS`]: so what is remembered is bounded, and groups that share a bucket share a
//! consumer. Each consumer of a queue in which there are groups asks by a name of its own, too ([`crate::lane::member`]), with credit
//! of its own: so owners know who is there, and a message can't reach another consumer than it was meant for.
//!
//! - Who *holds* a bucket is chosen by the owner that needs somebody first, by rendezvous hashing over the consumers that it knows,
//!   and told to all nodes. From then on it is so for all of them. Of two choices the earlier one counts, then the lower name.
//! - A message whose consumer has no place is *parked*: others go ahead. At most [`MAX_PARKED`] are; then the queue waits for these.
//! - When a consumer goes, nothing of its buckets is sent to another one before all that it had is settled, or has come back.
//! - The message that closes a group (`JMSXGroupSeq:-1`) ends that: the next one is chosen among those who are there then.
//!
//! What consumers with a selector ask for is shared out among those with the same selector.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use rhizomq_engine::{Dot, SegmentId, Slot};
use serde::{Deserialize, Serialize};

use super::msg::Name;
use crate::{frame::stored_header, lane::Lane, spread};

/// Parts that the groups of a queue are hashed to.
const BUCKETS: u64 = 1024;
/// Messages of a queue that wait for their consumer while others go ahead.
const MAX_PARKED: usize = 1024;

const GROUP: &str = "JMSXGroupID";
const SEQUENCE: &str = "JMSXGroupSeq";

/// The number of the bucket of a message with these headers; `None`: it is of no group.
pub(super) fn bucket_of(stored_head: &[u8]) -> Option<u16> {
    let group = stored_header(stored_head, GROUP).filter(|group| !group.is_empty())?;
    let bucket = spread::hash_of(&String::from_utf8_lossy(group)) % BUCKETS;
    u16::try_from(bucket).ok()
}

/// Whether this message is the last of its group.
pub(super) fn closes_group(stored_head: &[u8]) -> bool {
    let sequence = stored_header(stored_head, SEQUENCE).and_then(|text| std::str::from_utf8(text).ok());
    // However many digits it has.
    sequence.and_then(|text| text.trim().strip_prefix('-')).is_some_and(|digits| {
        digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.bytes().any(|byte| byte != b'0')
    })
}

/// Who of these consumers is to hold a bucket: the same for all who know the same.
pub(super) fn choose<'a>(bucket: u16, readers: impl Iterator<Item = &'a Arc<str>>) -> Option<&'a Arc<str>> {
    readers.max_by_key(|reader| spread::mixed_hash_of(&format!("{bucket:x} {reader}")))
}

/// What owners tell each other of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holding {
    pub(crate) bucket: u16,
    /// When that was chosen, or closed: ms since 1970.
    pub(crate) since: u64,
    /// What the consumer asks for; `None`: its groups are closed.
    pub(crate) reader: Option<Name>,
}

/// The place of a message in the order of service.
type Place = (Lane, bool, Dot);

/// How the groups of what consumers ask for are shared out among them.
///
/// It notes what may have become possible, by bucket, and who may have to hear of it: so that no turn looks at all of either.
#[derive(Default)]
pub(super) struct Sharing {
    holders: BTreeMap<u16, (u64, Arc<str>)>,
    by_reader: BTreeMap<Arc<str>, BTreeSet<u16>>,
    parked: BTreeMap<u16, BTreeMap<Place, Arc<str>>>,
    dots: BTreeMap<Dot, (u16, Place)>,
    /// Messages that came back, with their lanes, and were not looked at.
    returned: BTreeMap<Dot, Arc<str>>,
    /// Buckets of which something may be sent that could not be before.
    ripe: BTreeSet<u16>,
    /// Consumers for which something else may wait than before.
    untold: BTreeSet<Arc<str>>,
    /// Whether these consumers may get nothing, since there is an exclusive one.
    is_barred: bool,
}

impl Sharing {
    pub(super) fn holder(&self, bucket: u16) -> Option<&Arc<str>> {
        self.holders.get(&bucket).map(|(_, reader)| reader)
    }

    /// From now on. Returns what others are to be told.
    pub(super) fn hold(&mut self, bucket: u16, since: u64, reader: &Arc<str>) -> Holding {
        self.set_holder(bucket, Some((since, Arc::clone(reader))));
        Holding { bucket, since, reader: Some(Name::from(reader)) }
    }

    /// The groups in a bucket are over. Returns what others are to be told.
    pub(super) fn close(&mut self, bucket: u16, now_ms: u64) -> Holding {
        let since = self.set_holder(bucket, None).map_or(now_ms, |since| now_ms.max(since));
        Holding { bucket, since, reader: None }
    }

    /// Returns since when the former one has held it.
    fn set_holder(&mut self, bucket: u16, holder: Option<(u64, Arc<str>)>) -> Option<u64> {
        self.has_changed(bucket);
        let before = match holder {
            Some((since, reader)) => {
                self.by_reader.entry(Arc::clone(&reader)).or_default().insert(bucket);
                self.holders.insert(bucket, (since, reader))
            }
            None => self.holders.remove(&bucket),
        };
        self.has_changed(bucket);
        let (since, reader) = before?;
        if self.holder(bucket) != Some(&reader)
            && let Some(buckets) = self.by_reader.get_mut(&reader)
        {
            buckets.remove(&bucket);
            if buckets.is_empty() {
                self.by_reader.remove(&reader);
            }
        }
        Some(since)
    }

    /// Something is parked or not any more, or somebody else is to get it.
    fn has_changed(&mut self, bucket: u16) {
        self.untold.extend(self.holders.get(&bucket).map(|(_, reader)| Arc::clone(reader)));
        if self.parked.contains_key(&bucket) {
            self.ripe.insert(bucket);
        }
    }

    /// A consumer may have places, or is gone.
    pub(super) fn stir(&mut self, reader: &Arc<str>) {
        self.untold.insert(Arc::clone(reader));
        let buckets = self.by_reader.get(reader).into_iter().flatten();
        self.ripe.extend(buckets.filter(|bucket| self.parked.contains_key(bucket)));
    }

    /// Anything may have become possible, for all consumers.
    pub(super) fn stir_all(&mut self) {
        self.untold.extend(self.by_reader.keys().cloned());
        self.ripe.extend(self.parked.keys());
    }

    /// Whether these consumers may get nothing.
    pub(super) fn set_barred(&mut self, is_barred: bool) {
        if self.is_barred != is_barred {
            self.is_barred = is_barred;
            self.stir_all();
        }
    }

    /// A bucket to look at.
    pub(super) fn pop_ripe(&mut self) -> Option<u16> {
        self.ripe.pop_first()
    }

    /// A bucket is being looked at.
    pub(super) fn pick(&mut self, bucket: u16) {
        self.ripe.remove(&bucket);
    }

    pub(super) fn take_untold(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.untold)
    }

    /// Buckets that a consumer holds.
    pub(super) fn buckets_of(&self, reader: &Arc<str>) -> impl Iterator<Item = u16> {
        self.by_reader.get(reader).into_iter().flatten().copied()
    }

    /// All that is held.
    pub(super) fn holdings(&self) -> Vec<Holding> {
        let holding = |(bucket, (since, reader)): (&u16, &(u64, Arc<str>))| Holding {
            bucket: *bucket,
            since: *since,
            reader: Some(Name::from(reader)),
        };
        self.holders.iter().map(holding).collect()
    }

    /// Another owner tells; `is_there` says of a consumer whether it is, as far as is known. Returns what that owner does not know,
    /// and should.
    pub(super) fn learn(&mut self, told: Holding, is_there: impl Fn(&Arc<str>) -> bool) -> Option<Holding> {
        let Holding { bucket, since, reader } = told;
        if u64::from(bucket) >= BUCKETS {
            return None;
        }
        let Some((mine_since, mine)) = self.holders.get(&bucket).cloned() else {
            if let Some(reader) = reader {
                self.set_holder(bucket, Some((since, reader.0)));
            }
            return None;
        };
        let Some(reader) = reader else {
            if mine_since <= since {
                self.set_holder(bucket, None);
            }
            return None;
        };
        let is_mine_there = is_there(&mine);
        if reader.0 == mine || !is_mine_there || ((since, &reader.0) < (mine_since, &mine) && is_there(&reader.0)) {
            self.set_holder(bucket, Some((since, reader.0)));
            return None;
        }
        let is_mine_better = (mine_since, &mine) < (since, &reader.0);
        is_mine_better.then(|| Holding { bucket, since: mine_since, reader: Some(Name::from(&mine)) })
    }

    /// A message waits, in this lane, until its consumer has a place.
    pub(super) fn park(&mut self, bucket: u16, lane: &Arc<str>, is_own_life: bool, dot: Dot) {
        let Some(at) = Lane::of(lane) else { return };
        let place = (at, is_own_life, dot);
        self.parked.entry(bucket).or_default().insert(place, Arc::clone(lane));
        self.dots.insert(dot, (bucket, place));
        self.has_changed(bucket);
    }

    /// A message waits again, that may be of a group.
    pub(super) fn put_back(&mut self, dot: Dot, lane: Arc<str>) {
        self.returned.insert(dot, lane);
    }

    pub(super) fn take_returned(&mut self) -> BTreeMap<Dot, Arc<str>> {
        std::mem::take(&mut self.returned)
    }

    pub(super) fn unpark(&mut self, dot: Dot) {
        let Some((bucket, place)) = self.dots.remove(&dot) else { return };
        if let Entry::Occupied(mut entry) = self.parked.entry(bucket) {
            entry.get_mut().remove(&place);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
        self.has_changed(bucket);
    }

    /// A message is consumed, or is to leave the queue.
    pub(super) fn forget(&mut self, dot: Dot) {
        self.unpark(dot);
        self.returned.remove(&dot);
    }

    /// A segment is not dispatched here any more.
    pub(super) fn give_up(&mut self, segment: SegmentId) {
        let range = Dot { segment, slot: 0 }..=Dot { segment, slot: Slot::MAX };
        let dots: Vec<_> = self.dots.range(range).map(|(dot, _)| *dot).collect();
        dots.into_iter().for_each(|dot| self.unpark(dot));
        self.returned.retain(|dot, _| dot.segment != segment);
    }

    /// All messages that are remembered here.
    pub(super) fn noted(&self) -> impl Iterator<Item = Dot> {
        self.dots.keys().chain(self.returned.keys()).copied()
    }

    pub(super) fn is_parked(&self, dot: Dot) -> bool {
        self.dots.contains_key(&dot)
    }

    /// Whether no more can be parked.
    pub(super) fn is_full(&self) -> bool {
        self.dots.len() >= MAX_PARKED
    }

    /// What is parked of a bucket, the first to be served first, each with its lane.
    pub(super) fn parked(&self, bucket: u16) -> impl Iterator<Item = (Dot, &Arc<str>)> {
        self.parked.get(&bucket).into_iter().flatten().map(|((_, _, dot), lane)| (*dot, lane))
    }

    /// How much that is.
    pub(super) fn count_parked(&self, bucket: u16) -> u64 {
        self.parked.get(&bucket).map_or(0, |parked| parked.len() as u64)
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.parked.len() + self.dots.len() + self.returned.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rhizomq_engine::{Epoch, NodeId};

    use super::*;

    fn dot(slot: Slot) -> Dot {
        Dot { segment: SegmentId { node: NodeId([1; 16]), epoch: Epoch(1), number: 1 }, slot }
    }

    fn told(since: u64, reader: &str) -> Holding {
        Holding { bucket: 5, since, reader: Some(Name(reader.into())) }
    }

    #[test]
    fn groups_are_read_from_headers() {
        let head = |text: &str| bucket_of(text.as_bytes());
        assert!(head("JMSXGroupID:a\n").is_some() && head("JMSXGroupID:a\n") == head("x:y\nJMSXGroupID:a\nz:"));
        assert_eq!((head("JMSXGroupID:\n"), head("xJMSXGroupID:a\n")), (None, None));
        let closes = |text: &str| closes_group(text.as_bytes());
        assert!(
            closes("JMSXGroupSeq:-1\n") && !closes("JMSXGroupSeq:1\n") && !closes("JMSXGroupSeq:x\n") && !closes("")
        );
    }

    #[test]
    fn buckets_are_spread_over_all_and_stay_where_they_are_when_others_go() {
        let readers: Vec<Arc<str>> = (0..5).map(|n| format!("q\0&0101.{n}.0").into()).collect();
        let chosen = |readers: &[Arc<str>]| -> Vec<Arc<str>> {
            (0..BUCKETS as u16).map(|bucket| choose(bucket, readers.iter()).unwrap().clone()).collect()
        };
        let (all, fewer) = (chosen(&readers), chosen(&readers[1..]));
        for reader in &readers {
            let part = all.iter().filter(|one| *one == reader).count();
            assert!((150..260).contains(&part), "{part} of {BUCKETS} for one of five");
        }
        let moved = all.iter().zip(&fewer).filter(|(before, after)| before != after);
        assert!(moved.map(|(before, _)| before).collect::<BTreeSet<_>>() == [&readers[0]].into());
    }

    #[test]
    fn of_two_choices_all_come_to_the_earlier_one_and_who_does_not_know_is_told() {
        let there = |_: &Arc<str>| true;
        let mut sharing = Sharing::default();
        assert_eq!(sharing.learn(told(7, "b"), there), None);
        assert_eq!(sharing.learn(told(8, "a"), there), Some(told(7, "b")));
        assert_eq!(sharing.learn(told(7, "c"), there), Some(told(7, "b")));
        assert_eq!(sharing.learn(told(7, "a"), there), None);
        assert_eq!(&**sharing.holder(5).unwrap(), "a");
        assert_eq!(sharing.learn(told(9, "z"), |reader| **reader != *"a"), None, "the one that is there");
        assert_eq!(&**sharing.holder(5).unwrap(), "z");
        assert_eq!(sharing.learn(told(1, "gone"), |reader| **reader == *"z"), None);
        assert_eq!(&**sharing.holder(5).unwrap(), "z");
        let closed = |since| Holding { bucket: 5, since, reader: None };
        sharing.learn(closed(8), there);
        assert!(sharing.holder(5).is_some(), "that was an earlier one");
        assert_eq!(sharing.close(5, 3), closed(9));
        assert!(
            sharing.holder(5).is_none() && sharing.learn(Holding { bucket: 1024, ..told(1, "x") }, there).is_none()
        );
        assert_eq!(sharing.holdings(), []);
    }

    #[test]
    fn what_is_parked_comes_in_order_and_is_forgotten() {
        let mut sharing = Sharing::default();
        let lane: Arc<str> = "q".into();
        [3, 1, 2].iter().for_each(|slot| sharing.park(5, &lane, true, dot(*slot)));
        sharing.park(5, &"q\x000~".into(), true, dot(9));
        sharing.park(6, &lane, true, dot(4));
        let slots = |sharing: &Sharing| sharing.parked(5).map(|(dot, _)| dot.slot).collect::<Vec<_>>();
        assert_eq!(slots(&sharing), [9, 1, 2, 3]);
        sharing.unpark(dot(1));
        [3, 4].into_iter().for_each(|slot| sharing.forget(dot(slot)));
        assert_eq!((slots(&sharing), sharing.count_parked(5), sharing.count_parked(6)), (vec![9, 2], 2, 0));
        assert!(sharing.is_parked(dot(2)) && !sharing.is_parked(dot(3)));
        sharing.give_up(dot(1).segment);
        assert_eq!(sharing.remembered(), 0);
        (0..MAX_PARKED as Slot).for_each(|slot| sharing.park(1, &lane, true, dot(slot + 1)));
        assert!(sharing.is_full());
    }

    #[test]
    fn only_what_may_have_changed_is_looked_at() {
        let (mut sharing, lane, readers) = (Sharing::default(), "q".into(), ["a".into(), "b".into()]);
        let mut look = |change: &dyn Fn(&mut Sharing)| {
            change(&mut sharing);
            let ripe: Vec<_> = std::iter::from_fn(|| sharing.pop_ripe()).collect();
            (ripe, sharing.take_untold().into_iter().map(|name| name.to_string()).collect::<Vec<_>>().concat())
        };
        for bucket in [1, 2, 3] {
            sharing_of(&mut look, bucket, &readers[usize::from(bucket == 3)]);
        }
        assert_eq!(look(&|it| it.park(1, &lane, true, dot(1))), (vec![1], "a".into()));
        assert_eq!(look(&|it| it.park(3, &lane, true, dot(3))), (vec![3], "b".into()));
        assert_eq!(look(&|it| it.stir(&readers[0])), (vec![1], "a".into()));
        assert_eq!(look(&|it| it.set_barred(true)), (vec![1, 3], "ab".into()));
        assert_eq!(look(&|it| it.set_barred(true)), (vec![], String::new()));
        assert_eq!(look(&|it| drop(it.hold(1, 9, &readers[1]))), (vec![1], "ab".into()));
        assert_eq!(look(&|it| it.stir(&readers[0])), (vec![], "a".into()), "it is not his any more");
        assert_eq!(look(&|it| it.forget(dot(1))), (vec![], "b".into()));
        assert_eq!(look(&|it| drop(it.close(3, 9))), (vec![3], "b".into()));
    }

    fn sharing_of(look: &mut impl FnMut(&dyn Fn(&mut Sharing)) -> (Vec<u16>, String), bucket: u16, reader: &Arc<str>) {
        assert_eq!(look(&|it| drop(it.hold(bucket, 1, reader))), (vec![], reader.to_string()));
    }
}
