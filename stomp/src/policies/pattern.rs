//! Which destinations a policy means.
//!
//! A pattern is a name in which whole words between dots may be wildcards (see [`crate::topic`]): `*` is one word, `#` any
//! number, `>` at the end one or more; in names of queues, too. Without a prefix it means queues and topics of such
//! names alike, with `/queue/` or `/topic/` only these. Temporary queues have no policies.
//!
//! Of several patterns that match one name the most specific one counts. They are compared word by word from the left, and
//! the first difference decides: a word of text is more specific than `*`, that than `>`, that than the end of the pattern
//! (behind a `#` it may end early), and that than `#`. Of two with the same words the one with a prefix is.

use std::sync::Arc;

use crate::{
    destination::{Destination, DestinationError, REPLY_QUEUE, TOPIC},
    topic::{self, check_pattern},
};

const QUEUE: &str = "/queue/";

/// A policy can't be for this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a destination.
    #[error("`{pattern}` is no pattern of destinations: {source}")]
    Destination {
        /// What was given.
        pattern: String,
        /// Why.
        source: DestinationError,
    },
    /// A wildcard where none can be.
    #[error("`{pattern}` is no pattern of destinations: {source}")]
    Wildcard {
        /// What was given.
        pattern: String,
        /// Why.
        source: topic::PatternError,
    },
    /// Temporary queues have none.
    #[error("`{pattern}`: there are no policies for temporary queues")]
    Temporary {
        /// What was given.
        pattern: String,
    },
}

/// A pattern, ordered by how specific it is: of two that match one name the smaller one counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pattern {
    rank: Vec<u8>,
    pub(crate) text: Arc<str>,
}

/// A pattern as it is kept: aliases are what they stand for.
pub(crate) fn normal(pattern: &str) -> Result<String, PatternError> {
    let destination = Destination::parse(pattern)
        .map_err(|source| PatternError::Destination { pattern: pattern.to_owned(), source })?;
    if destination.as_str().starts_with(REPLY_QUEUE) {
        return Err(PatternError::Temporary { pattern: pattern.to_owned() });
    }
    check_pattern(destination.name())
        .map_err(|source| PatternError::Wildcard { pattern: pattern.to_owned(), source })?;
    Ok(destination.as_str().to_owned())
}

impl Pattern {
    /// Of a text in the form that [`normal`] gives it.
    pub(crate) fn new(text: &str) -> Self {
        let word = |word| match word {
            "*" => 1,
            ">" => 2,
            "#" => 4,
            _ => 0,
        };
        let mut pattern = Self { rank: Vec::new(), text: text.into() };
        let rank = pattern.name().split('.').map(word).chain([3, u8::from(pattern.prefix().is_none())]).collect();
        pattern.rank = rank;
        pattern
    }

    fn prefix(&self) -> Option<&'static str> {
        [QUEUE, TOPIC].into_iter().find(|prefix| self.text.starts_with(prefix))
    }

    /// What names are to match.
    pub(crate) fn name(&self) -> &str {
        self.prefix().and_then(|prefix| self.text.strip_prefix(prefix)).unwrap_or(&self.text)
    }

    /// Whether it is for destinations of this kind, whatever their names.
    pub(crate) fn is_for(&self, destination: &Destination) -> bool {
        self.prefix().is_none_or(|prefix| destination.prefix() == prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_that_differs_says_which_is_more_specific() {
        let ordered = [
            "/queue/a.b",
            "a.b",
            "a.*",
            "a.>",
            "/queue/a.#.c",
            "a.#.c",
            "a.#.*",
            "/queue/a.#",
            "a.#",
            "*.b",
            "#.b",
            "#.*",
            "/queue/#",
            "#",
        ];
        for pair in ordered.windows(2) {
            assert!(Pattern::new(pair[0]) < Pattern::new(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn a_prefix_says_which_kind_is_meant_and_none_means_all() {
        let is_for = |pattern, destination| Pattern::new(pattern).is_for(&Destination::parse(destination).unwrap());
        assert!(is_for("a.*", "/queue/a.b") && is_for("a.*", "/topic/a.b") && is_for("a.*", "a.b"));
        assert!(is_for("/queue/a.*", "/queue/a.b") && !is_for("/queue/a.*", "/topic/a.b"));
        assert!(!is_for("/queue/a.*", "a.b") && is_for("/topic/#", "/topic/a"));
        assert_eq!(Pattern::new("/topic/a.#").name(), "a.#");
        assert_eq!(Pattern::new("/other/x").name(), "/other/x");
    }

    #[test]
    fn what_is_no_pattern_is_refused_and_aliases_are_what_they_stand_for() {
        assert_eq!(normal("/amq/queue/a.*").as_deref(), Ok("/queue/a.*"));
        assert_eq!(normal("#").as_deref(), Ok("#"));
        assert!(matches!(normal(""), Err(PatternError::Destination { .. })));
        assert!(matches!(normal("/dsub/x"), Err(PatternError::Destination { .. })));
        assert!(matches!(normal("a.>.b"), Err(PatternError::Wildcard { .. })));
        assert!(matches!(normal("/reply-queue/x"), Err(PatternError::Temporary { .. })));
    }
}
