//! Sets, registers and inboxes under names of a library user's own.
//!
//! Handles over the registry, in a key space that the cluster's own keys never enter. A change only queues: it is part of
//! the next commit, and shows once that is durable. Each set and each register is one value, travels whole, and has at
//! most [`VALUE_BYTES`](crate::registry::VALUE_BYTES): good for thousands of members, not for millions.
//!
//! A set also grows with lives. It names each life of a node that ever added to it, for ever: some 27 bytes. A member
//! names each life that added it, in as many bytes, until it is removed; adding again what is in is an add, too. So besides
//! its members a set has at most 27 bytes for each life, and for each pair of a member and a life that added it: ten
//! thousand lives that add one member each fill half of what is possible. A program that starts often should look with
//! [`Set::contains`] before it adds, and begin anew under another name when thousands of lives have added.

use super::Engine;
use crate::{
    Dot, Now,
    registry::{Key, RegistryError, Value},
};

/// A set under a name: adds win over removals that have not seen them. See [`Engine::set`].
pub struct Set<'a> {
    engine: &'a mut Engine,
    key: Key,
}

/// A register under a name: the last writer wins, by a clock that never runs behind what was seen. See
/// [`Engine::register`].
pub struct Register<'a> {
    engine: &'a mut Engine,
    key: Key,
}

impl Engine {
    /// A library user's set. The name is any text of 1 to [`NAME_BYTES`](crate::registry::NAME_BYTES) bytes; other names
    /// are refused by what changes something, and have no members.
    pub fn set(&mut self, name: &str) -> Set<'_> {
        Set { engine: self, key: Key::own_set(name) }
    }

    /// A library user's register; names as for [`Engine::set`]. A set and a register may have the same name.
    pub fn register(&mut self, name: &str) -> Register<'_> {
        Register { engine: self, key: Key::own_register(name) }
    }

    /// The first message that waits in an inbox, or the first after a given one: segment by segment, so in the order of
    /// publishing for what one life of one node took.
    pub fn next_in(&self, inbox: &str, after: Option<Dot>) -> Option<Dot> {
        self.index.after(inbox, after)
    }
}

impl Set<'_> {
    /// Adds a member, in the next commit.
    ///
    /// # Errors
    /// The name is not lawful, or the set would be too large; nothing was queued.
    pub fn add(&mut self, member: impl AsRef<[u8]>) -> Result<(), RegistryError> {
        self.engine.set_add(self.key.clone(), member.as_ref().to_vec())
    }

    /// Removes a member, in the next commit: every add of it that was seen here. Without effect if it is not in.
    ///
    /// # Errors
    /// The name is not lawful.
    pub fn remove(&mut self, member: impl AsRef<[u8]>) -> Result<(), RegistryError> {
        self.engine.set_remove(self.key.clone(), member.as_ref())
    }

    /// Whether it has the member, as committed.
    pub fn contains(&self, member: impl AsRef<[u8]>) -> bool {
        self.engine.registry().get(&self.key).is_some_and(|value| value.contains(member.as_ref()))
    }

    /// The members in order of their bytes, as committed.
    pub fn members(&self) -> Vec<Vec<u8>> {
        self.engine.registry().get(&self.key).map(Value::members).unwrap_or_default()
    }
}

impl Register<'_> {
    /// Writes, in the next commit. Of two writes that did not see each other the one by the later clock stays.
    ///
    /// # Errors
    /// The name is not lawful, or the content too large; nothing was queued.
    pub fn set(&mut self, content: impl AsRef<[u8]>, now: Now) -> Result<(), RegistryError> {
        self.engine.register_set(self.key.clone(), content.as_ref().to_vec(), now)
    }

    /// What is in it, as committed; `None` if it was never written.
    pub fn get(&self) -> Option<&[u8]> {
        self.engine.registry().register(&self.key)
    }
}
