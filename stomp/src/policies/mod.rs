//! Policies: what operators decide about the messages of destinations, by pattern.
//!
//! | module | duty |
//! |---|---|
//! | `pattern` | which destinations a pattern means, and which of several patterns is the most specific |
//! | `record` | the statements in the registry, encode beside decode |
//! | `book` | what a node knows of all policies, and which one holds for a destination |
//!
//! A policy is one *statement* in a registry set, which every node has: a pattern, a time, and all that is to hold. A later
//! statement about the same pattern takes the place of an earlier one as a whole; it is not put together from fields that
//! were said at different places. For fields belong together: a limit on deliveries makes sense with the queue where the rest goes, and what
//! holds is always something that somebody has said.
//!
//! | at the same time | what holds |
//! |---|---|
//! | `set` and `set` of one pattern | the later one, by the clocks of the nodes that were asked |
//! | `remove` and `set` | what was set: whoever removed did not know of it |
//!
//! Of the policies that match a destination exactly one holds: that with the most specific pattern (see `pattern`).

mod book;
mod pattern;
mod record;

pub(crate) use book::Book;
pub(crate) use pattern::normal;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use record::samples as policy_samples;
pub(crate) use record::{Statement, is_set, set_of, sets};

pub use pattern::PatternError;

use serde::{Deserialize, Serialize};

use crate::{
    destination::{Destination, DestinationError, Kind, REPLY_QUEUE},
    limits::Limits,
};

/// Policies at most; more are not made.
pub const MAX_POLICIES: usize = 1024;

/// The longest time to live, in ms: a hundred years.
pub const MAX_TTL_MS: u64 = 100 * 366 * 24 * 3_600_000;

/// The longest delay of a redelivery, in ms: a day, for it is kept in memory.
pub const MAX_DELAY_MS: u64 = 24 * 3_600_000;

/// The greatest length of a queue that can be asked for.
pub const MAX_LENGTH: u64 = 1 << 40;

/// In the place of a dead-letter queue: dead letters are dropped.
pub const NO_DEAD_LETTERS: &str = "none";

/// What is to hold for the destinations that a pattern means. What is left out is as without a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// A message that waits for so many ms expires; the sender may say less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// After so many deliveries that nobody consumes a message is a dead letter; 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_deliveries: Option<u32>,
    /// What comes back waits for so many ms before it is delivered again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redelivery_delay_ms: Option<u64>,
    /// The next time it waits for so many percent of that, and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redelivery_backoff_percent: Option<u32>,
    /// But for so many ms at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redelivery_max_delay_ms: Option<u64>,
    /// Where dead letters go: a queue, or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<String>,
    /// Messages that wait at a time, as far as nodes within reach tell each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    /// What becomes of more; [`Overflow::Reject`] if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflow: Option<Overflow>,
    /// Messages that a consumer holds at a time, if its SUBSCRIBE does not say how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<u32>,
}

/// What becomes of messages that are too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// Their SEND is refused.
    #[default]
    Reject,
    /// The oldest are dropped.
    DropOldest,
    /// The oldest are dead letters.
    DeadLetter,
}

/// What an operator wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PolicyChange {
    /// Sets the policy of a pattern; all of it: what was set before is over.
    Set {
        /// Which destinations.
        pattern: String,
        /// What is to hold.
        policy: Policy,
    },
    /// Takes it out.
    Remove {
        /// Which destinations.
        pattern: String,
    },
}

impl PolicyChange {
    /// The pattern, as it was written.
    pub fn pattern(&self) -> &str {
        match self {
            Self::Set { pattern, .. } | Self::Remove { pattern } => pattern,
        }
    }
}

/// A change that was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Not a pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// There is none.
    #[error("there is no policy for `{0}`; `rhizomq policy list` shows all")]
    Unknown(String),
    /// It says nothing.
    #[error("the policy says nothing: name at least one thing that is to hold")]
    Empty,
    /// What becomes of too many, without how many these are.
    #[error("what becomes of messages that are too many says nothing without the largest number")]
    OverflowAlone,
    /// Not a queue.
    #[error("`{queue}` is no dead-letter queue: {source}")]
    DeadLetter {
        /// What was given.
        queue: String,
        /// Why.
        source: DestinationError,
    },
    /// Not a queue that stays.
    #[error("dead letters go to a queue such as `/queue/DLQ`, not to `{0}`; `none` drops them")]
    NoQueue(String),
    /// A number that makes no sense.
    #[error("{what} can't be {given}: it is {least} to {most}")]
    Range {
        /// Which field.
        what: &'static str,
        /// What was given.
        given: u64,
        /// The least that it may be.
        least: u64,
        /// The most that it may be.
        most: u64,
    },
    /// Too many.
    #[error("there are {MAX_POLICIES} policies, and no more are made; remove some, or use wildcards")]
    TooMany,
    /// The registry or the disk takes no more.
    #[error("the policy is not kept: {0}")]
    Full(String),
}

impl Policy {
    /// Checks what an operator, or somebody who writes into registries, has said.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub fn check(&self) -> Result<(), PolicyError> {
        let ranges = [
            ("the time to live in ms", self.ttl_ms, 1, MAX_TTL_MS),
            ("the delay of redeliveries in ms", self.redelivery_delay_ms, 1, MAX_DELAY_MS),
            ("the longest delay of redeliveries in ms", self.redelivery_max_delay_ms, 1, MAX_DELAY_MS),
            ("the back-off in percent", self.redelivery_backoff_percent.map(u64::from), 100, 10_000),
            ("the length", self.max_length, 1, MAX_LENGTH),
            ("the prefetch", self.prefetch.map(u64::from), 1, u64::from(Limits::default().max_prefetch)),
        ];
        for (what, given, least, most) in ranges {
            if let Some(given) = given.filter(|given| !(least..=most).contains(given)) {
                return Err(PolicyError::Range { what, given, least, most });
            }
        }
        if self.overflow.is_some() && self.max_length.is_none() {
            return Err(PolicyError::OverflowAlone);
        }
        if *self == Self::default() { Err(PolicyError::Empty) } else { Ok(()) }
    }

    /// The same as it is kept: aliases are what they stand for.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub(crate) fn normal(&self) -> Result<Self, PolicyError> {
        self.check()?;
        let dead_letter = self.dead_letter.as_deref().map(dead_letter).transpose()?;
        Ok(Self { dead_letter, ..self.clone() })
    }
}

fn dead_letter(queue: &str) -> Result<String, PolicyError> {
    if queue == NO_DEAD_LETTERS {
        return Ok(queue.to_owned());
    }
    let destination =
        Destination::target(queue).map_err(|source| PolicyError::DeadLetter { queue: queue.to_owned(), source })?;
    if destination.kind() != Kind::Queue || destination.as_str().starts_with(REPLY_QUEUE) {
        return Err(PolicyError::NoQueue(queue.to_owned()));
    }
    Ok(destination.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl Fn(&mut Policy)) -> Result<Policy, PolicyError> {
        let mut policy = Policy::default();
        change(&mut policy);
        policy.normal()
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let is_range = |result| matches!(result, Err(PolicyError::Range { .. }));
        assert_eq!(with(|_| {}), Err(PolicyError::Empty));
        assert!(is_range(with(|policy| policy.ttl_ms = Some(0))));
        assert!(is_range(with(|policy| policy.ttl_ms = Some(u64::MAX))));
        assert!(is_range(with(|policy| policy.prefetch = Some(0))));
        assert!(is_range(with(|policy| policy.redelivery_delay_ms = Some(MAX_DELAY_MS + 1))));
        assert!(is_range(with(|policy| policy.redelivery_max_delay_ms = Some(0))));
        assert!(is_range(with(|policy| policy.redelivery_backoff_percent = Some(99))));
        assert!(is_range(with(|policy| policy.max_length = Some(0))));
        assert_eq!(with(|policy| policy.overflow = Some(Overflow::DropOldest)), Err(PolicyError::OverflowAlone));
        assert!(with(|policy| policy.max_deliveries = Some(0)).is_ok());
    }

    #[test]
    fn dead_letters_go_to_queues_that_stay_or_nowhere() {
        let queue = |text: &str| with(|policy| policy.dead_letter = Some(text.to_owned())).map(|it| it.dead_letter);
        for (text, kept) in [("/queue/DLQ", "/queue/DLQ"), ("none", "none"), ("x", "x"), ("/amq/queue/x", "/queue/x")] {
            assert_eq!(queue(text), Ok(Some(kept.to_owned())));
        }
        for text in ["/topic/x", "/reply-queue/x"] {
            assert_eq!(queue(text), Err(PolicyError::NoQueue(text.to_owned())));
        }
        assert!(matches!(queue("/dsub/x"), Err(PolicyError::DeadLetter { .. })));
    }
}
