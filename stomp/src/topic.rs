//! Names of topics, patterns over them, and a table that finds all patterns which match a name.
//!
//! The name of a topic is cut into words at each `.`. In a pattern a whole word may be a wildcard:
//!
//! | word | matches | known from |
//! |---|---|---|
//! | `*` | one word | RabbitMQ, ActiveMQ |
//! | `#` | zero or more words, anywhere | RabbitMQ |
//! | `>` | one or more words, at the end | ActiveMQ |
//!
//! A wildcard is a whole word: `a*` is a word like any other. What costs something is bounded: a pattern has at most
//! [`MAX_PATTERN_WORDS`] words, and a match takes at most words of the name times entries of the table that are in play,
//! whatever the patterns are.

use std::collections::{BTreeMap, BTreeSet};

/// Words of the longest pattern. Names have as many as fit into a destination.
pub const MAX_PATTERN_WORDS: usize = 64;

/// A text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Something follows `>`.
    #[error("`>` stands for all words that follow and can only be the last one; write `*` for one word")]
    NotLast,
    /// More than [`MAX_PATTERN_WORDS`].
    #[error("a topic pattern with wildcards has at most {MAX_PATTERN_WORDS} words, this one has {words}")]
    TooManyWords {
        /// Words given.
        words: usize,
    },
}

/// One word of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    /// This one.
    Text(Box<str>),
    /// `*`
    One,
    /// `#`
    Many,
    /// `>`
    Rest,
}

impl Word {
    fn of(text: &str) -> Self {
        match text {
            "*" => Self::One,
            "#" => Self::Many,
            ">" => Self::Rest,
            text => Self::Text(text.into()),
        }
    }
}

/// Whether any word is a wildcard.
pub fn has_wildcard(name: &str) -> bool {
    name.split('.').any(|word| matches!(word, "*" | "#" | ">"))
}

/// Checks that a text can be subscribed to. A name without wildcards always can.
///
/// # Errors
/// See [`PatternError`].
pub fn check_pattern(pattern: &str) -> Result<(), PatternError> {
    if !has_wildcard(pattern) {
        return Ok(());
    }
    let words = pattern.split('.').count();
    if words > MAX_PATTERN_WORDS {
        return Err(PatternError::TooManyWords { words });
    }
    if pattern.split('.').rev().skip(1).any(|word| word == ">") {
        return Err(PatternError::NotLast);
    }
    Ok(())
}

/// The place of an entry in a table.
type Place = usize;

const ROOT: Place = 0;

struct Entry<T> {
    parent: Place,
    /// How the parent calls it.
    word: Word,
    children: BTreeMap<Word, Place>,
    here: BTreeSet<T>,
}

/// Who wants what: patterns with any number of takers each. Nothing is kept of a pattern without takers.
pub struct Patterns<T> {
    /// By place; `None` is free.
    entries: Vec<Option<Entry<T>>>,
    free: Vec<Place>,
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        let root = Entry { parent: ROOT, word: Word::Many, children: BTreeMap::new(), here: BTreeSet::new() };
        Self { entries: vec![Some(root)], free: Vec::new() }
    }
}

impl<T: Clone + Ord> Patterns<T> {
    /// Adds a taker. Whether it is the first one of the pattern. The pattern is to be one that [`check_pattern`] lets pass;
    /// others match as far as they make sense.
    pub fn insert(&mut self, pattern: &str, taker: T) -> bool {
        let mut place = ROOT;
        for word in pattern.split('.').map(Word::of) {
            let child = self.entry(place).and_then(|entry| entry.children.get(&word)).copied();
            place = child.unwrap_or_else(|| self.add(place, word));
        }
        let Some(entry) = self.entry_mut(place) else { return false };
        let is_first = entry.here.is_empty();
        entry.here.insert(taker);
        is_first
    }

    /// Takes a taker out. Whether it was the last one of the pattern.
    pub fn remove(&mut self, pattern: &str, taker: &T) -> bool {
        let mut place = ROOT;
        for word in pattern.split('.').map(Word::of) {
            let child = self.entry(place).and_then(|entry| entry.children.get(&word)).copied();
            let Some(child) = child else { return false };
            place = child;
        }
        let Some(entry) = self.entry_mut(place) else { return false };
        let was_last = entry.here.remove(taker) && entry.here.is_empty();
        self.prune(place);
        was_last
    }

    /// All takers of patterns that match the name, each once.
    pub fn matches(&self, name: &str) -> BTreeSet<T> {
        let mut active = BTreeSet::new();
        self.activate(ROOT, &mut active);
        for word in name.split('.') {
            let text = Word::Text(word.into());
            let mut next = BTreeSet::new();
            for &place in &active {
                let Some(entry) = self.entry(place) else { continue };
                if place != ROOT && matches!(entry.word, Word::Many | Word::Rest) {
                    self.activate(place, &mut next);
                }
                for word in [&text, &Word::One, &Word::Rest] {
                    if let Some(&child) = entry.children.get(word) {
                        self.activate(child, &mut next);
                    }
                }
            }
            active = next;
        }
        active.iter().filter_map(|place| self.entry(*place)).flat_map(|entry| &entry.here).cloned().collect()
    }

    /// Entries in use, the root included: for tests of what is left over.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// An entry is reached; a `#` below it needs no word to be reached, too.
    fn activate(&self, place: Place, active: &mut BTreeSet<Place>) {
        let mut reached = Some(place);
        while let Some(place) = reached.filter(|place| active.insert(*place)) {
            reached = self.entry(place).and_then(|entry| entry.children.get(&Word::Many)).copied();
        }
    }

    fn entry(&self, place: Place) -> Option<&Entry<T>> {
        self.entries.get(place)?.as_ref()
    }

    fn entry_mut(&mut self, place: Place) -> Option<&mut Entry<T>> {
        self.entries.get_mut(place)?.as_mut()
    }

    fn add(&mut self, parent: Place, word: Word) -> Place {
        let entry = Entry { parent, word: word.clone(), children: BTreeMap::new(), here: BTreeSet::new() };
        let place = self.free.pop().unwrap_or(self.entries.len());
        match self.entries.get_mut(place) {
            Some(free) => *free = Some(entry),
            None => self.entries.push(Some(entry)),
        }
        if let Some(parent) = self.entry_mut(parent) {
            parent.children.insert(word, place);
        }
        place
    }

    /// Takes out an entry that nobody needs, and those above it that were there for its sake.
    fn prune(&mut self, mut place: Place) {
        while place != ROOT
            && let Some(entry) = self.entry(place)
            && entry.here.is_empty()
            && entry.children.is_empty()
        {
            let (parent, word) = (entry.parent, entry.word.clone());
            self.entries[place] = None;
            self.free.push(place);
            if let Some(parent) = self.entry_mut(parent) {
                parent.children.remove(&word);
            }
            place = parent;
        }
        if self.free.len() + 1 == self.entries.len() {
            // Nothing but the root is left: give the memory back, too.
            self.entries.truncate(1);
            self.entries.shrink_to_fit();
            self.free = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the table at the top says, word for word.
    fn naive(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([">"], [_, ..]) => true,
            (["#", rest @ ..], _) => (0..=name.len()).any(|skip| naive(rest, &name[skip..])),
            (["*", rest @ ..], [_, others @ ..]) => naive(rest, others),
            ([word, rest @ ..], [first, others @ ..]) => word == first && naive(rest, others),
            _ => false,
        }
    }

    fn words(text: &str) -> Vec<&str> {
        text.split('.').collect()
    }

    fn takers(patterns: &[&str], name: &str) -> Vec<usize> {
        let mut table = Patterns::default();
        for (index, pattern) in patterns.iter().enumerate() {
            table.insert(pattern, index);
        }
        table.matches(name).into_iter().collect()
    }

    #[test]
    fn wildcards_match_what_their_brokers_say() {
        for (pattern, yes, no) in [
            ("a.*", &["a.b", "a."][..], &["a", "a.b.c", "b.a"][..]),
            ("a.#", &["a", "a.b", "a.b.c"], &["b", "ab"]),
            ("#", &["a", "a.b.c", ""], &[]),
            ("#.z", &["z", "a.z", "a.b.z"], &["z.a"]),
            ("a.>", &["a.b", "a.b.c"], &["a", "b.c"]),
            (">", &["a", "a.b"], &[]),
            ("*.b", &["a.b", ".b"], &["b", "a.a.b"]),
            ("a*", &["a*"], &["ab"]),
            ("a.b", &["a.b"], &["a", "a.b.c", "a.B"]),
        ] {
            assert!(yes.iter().all(|name| takers(&[pattern], name) == [0]), "{pattern}");
            assert!(no.iter().all(|name| takers(&[pattern], name).is_empty()), "{pattern}");
        }
    }

    #[test]
    fn what_cannot_be_a_pattern_is_refused() {
        for pattern in ["a.>", "#.a.*", ">", "a", "a..b", "x>y.z"] {
            assert_eq!(check_pattern(pattern), Ok(()), "{pattern}");
        }
        for pattern in [">.a", "a.>.b", ">.>"] {
            assert_eq!(check_pattern(pattern), Err(PatternError::NotLast), "{pattern}");
        }
        assert_eq!(check_pattern(&vec!["*"; 64].join(".")), Ok(()));
        assert_eq!(check_pattern(&vec!["#"; 65].join(".")), Err(PatternError::TooManyWords { words: 65 }));
        assert_eq!(check_pattern(&"a.".repeat(100)), Ok(()), "a name without wildcards is matched word by word");
        assert!(has_wildcard("a.*") && !has_wildcard("a*.#b.>>"));
    }

    #[test]
    fn the_worst_patterns_take_no_longer_than_words_times_entries() {
        // By trying each way in turn that would be some 10^30 steps.
        let (pattern, name) = (vec!["#.a"; 32].join("."), vec!["a"; 120].join("."));
        assert_eq!(takers(&[&pattern], &name), [0]);
        assert!(takers(&[&pattern], &format!("{name}.b")).is_empty());
    }

    fn word() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "", "*", "#", ">"])
    }

    fn pattern() -> impl Strategy<Value = String> {
        prop::collection::vec(word(), 1..6)
            .prop_map(|words| words.join("."))
            .prop_filter("a pattern", |text| check_pattern(text).is_ok())
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_the_naive_matcher(
            patterns in prop::collection::vec((pattern(), any::<bool>()), 0..12),
            names in prop::collection::vec(prop::collection::vec(prop::sample::select(vec!["a", "b", "c", ""]), 1..7), 1..8),
        ) {
            let mut table = Patterns::default();
            for (index, (pattern, _)) in patterns.iter().enumerate() {
                table.insert(pattern, index);
            }
            for (index, (pattern, goes)) in patterns.iter().enumerate() {
                if *goes {
                    table.remove(pattern, &index);
                }
            }
            for name in &names {
                let matches = |(pattern, goes): &(String, bool)| !goes && naive(&words(pattern), name);
                let expected: BTreeSet<_> =
                    patterns.iter().enumerate().filter(|(_, one)| matches(one)).map(|(index, _)| index).collect();
                prop_assert_eq!(table.matches(&name.join(".")), expected);
            }
            for (index, (pattern, goes)) in patterns.iter().enumerate() {
                prop_assert!(!*goes || !table.remove(pattern, &index));
                table.remove(pattern, &index);
            }
            prop_assert_eq!(table.size(), 1, "nothing is left of patterns without takers");
        }
    }
}
