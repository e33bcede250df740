//! Sets of the layer above: registry sets that every node has, under names of that layer's own.
//!
//! Their keys begin with `app/`, which none of this layer's do. Members are bytes that mean nothing here. What is shared is
//! there with the next commit, is pushed to linked peers like any registry change, and [`Event::Shared`] tells of every
//! change that is on disk, whoever made it.
//!
//! That a member is absent says nothing: it may have been taken out, or be on its way here. Who must know which asks
//! [`Node::was_shared`] by the number that its add had ([`Node::next_share`]): a set remembers what it has seen of each life.

use rhizomq_engine::{Epoch, Key, Now, RangeSet, RegistryError, SegmentId};

use super::{Event, Node};

const PREFIX: &str = "app/";

fn key_of(set: &str) -> Key {
    Key::set(&[PREFIX, set].concat())
}

impl Node {
    /// The members of a set, as committed.
    pub fn shared(&self, set: &str) -> Vec<Vec<u8>> {
        self.engine.registry().set_members(&key_of(set))
    }

    /// The same, with changes that still wait for their commit.
    pub fn soon_shared(&self, set: &str) -> Vec<Vec<u8>> {
        self.engine.set_members(&key_of(set))
    }

    /// Adds a member, in the next commit.
    ///
    /// # Errors
    /// The set would become too large.
    pub fn share(&mut self, now: Now, set: &str, member: Vec<u8>) -> Result<(), RegistryError> {
        let key = key_of(set);
        self.engine.set_add(key.clone(), member)?;
        self.changed_keys.insert(key);
        self.finish(now);
        Ok(())
    }

    /// Takes a member out, in the next commit.
    pub fn unshare(&mut self, now: Now, set: &str, member: &[u8]) {
        let key = key_of(set);
        // It is the key of a set: nothing to refuse.
        if self.engine.set_contains(&key, member) && self.engine.set_remove(key.clone(), member).is_ok() {
            self.changed_keys.insert(key);
            self.finish(now);
        }
    }

    /// Adds members and takes others out, all in the next commit: nobody sees one without the other. The adds are numbered in
    /// order, from [`Node::next_share`] on.
    ///
    /// # Errors
    /// The set would become too large; then nothing changes.
    pub fn reshare(&mut self, now: Now, set: &str, add: Vec<Vec<u8>>, remove: &[Vec<u8>]) -> Result<(), RegistryError> {
        let key = key_of(set);
        let mut added = Vec::new();
        let mut result = Ok(());
        for member in add {
            let is_new = !self.engine.set_contains(&key, &member);
            result = self.engine.set_add(key.clone(), member.clone());
            if result.is_err() {
                break;
            }
            added.extend(is_new.then_some(member));
        }
        for member in if result.is_ok() { remove } else { &added } {
            // It is the key of a set: nothing to refuse.
            let _ = self.engine.set_remove(key.clone(), member);
        }
        self.changed_keys.insert(key);
        self.finish(now);
        result
    }

    /// The number of the next add to a set in this life.
    pub fn next_share(&self, set: &str) -> u64 {
        let seen = self.engine.newest_value(&key_of(set)).map_or(0, |value| value.last_add(self.epoch()));
        seen.saturating_add(1)
    }

    /// Whether the add with this number, of that life, is known here, on disk. A member that it added and that is not in
    /// the set was taken out.
    pub fn was_shared(&self, set: &str, life: Epoch, number: u64) -> bool {
        self.engine.registry().get(&key_of(set)).is_some_and(|value| value.last_add(life) >= number)
    }

    /// Consumes many messages, as [`Node::remove`] does one.
    pub fn remove_all(&mut self, now: Now, segment: SegmentId, slots: &RangeSet) {
        self.consumed.entry(segment).or_default().union_with(slots);
        self.engine.merge_removed(segment, slots);
        self.finish(now);
    }

    /// The part of a commit: the layer above hears of its sets.
    pub(super) fn note_shared(&mut self, key: &Key) {
        if let Some(set) = key.set_name().and_then(|name| name.strip_prefix(PREFIX)) {
            self.events.push_back(Event::Shared { set: set.to_owned() });
        }
    }
}
