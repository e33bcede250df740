//! What a user may do where: rights by patterns of destinations.
//!
//! A pattern is a destination in which whole words between dots may be wildcards, as in a subscription (see
//! [`crate::topic`]): `*` is one word, `#` any number, `>` at the end one or more; here in the names of queues too. `#` alone is every destination there is.
//!
//! A SUBSCRIBE to a pattern needs one line that grants all that it could ever match. That is looked at word by word, as
//! inclusion of one pattern in another: never more than words times words.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    destination::{Destination, DestinationError, Kind, REPLY_QUEUE},
    topic::{self, check_pattern},
};

/// Lines that one user may have.
pub(crate) const MAX_LINES: usize = 64;

/// Bytes of all of a user's patterns together.
pub(crate) const MAX_LINE_BYTES: usize = 4 << 10;

/// The pattern of all destinations.
const EVERYTHING: &str = "#";

/// What may be done with a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// SUBSCRIBE, and with it ACK and NACK.
    Read,
    /// SEND.
    Write,
    /// Making and deleting durable subscriptions.
    Manage,
}

impl Right {
    fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Manage => 4,
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Manage => "manage",
        })
    }
}

/// A permission names no destinations.
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
    /// Temporary queues are no matter of permissions.
    #[error("`{pattern}`: everybody may use temporary queues of their own, and answer to those of others")]
    Temporary {
        /// What was given.
        pattern: String,
    },
    /// Too many of them.
    #[error("a user has at most {MAX_LINES} permissions, of {MAX_LINE_BYTES} bytes together; use wildcards for more")]
    TooMany,
}

/// What a user may do, as an operator writes it. What is left out stays as it is; for a new user that is: everything, and
/// no certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessSpec {
    /// Patterns by right.
    pub lines: Option<BTreeMap<Right, Vec<String>>>,
    /// Whether a verified certificate with the user's name is enough to log in.
    pub certificate: Option<bool>,
}

/// One statement of what a user may do: which pattern, and which rights there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) certificate: bool,
    /// Rights by pattern, as bits.
    lines: BTreeMap<String, u8>,
}

impl Access {
    /// Everything.
    pub(crate) fn all() -> BTreeMap<String, u8> {
        BTreeMap::from([(EVERYTHING.to_owned(), Right::Read.bit() | Right::Write.bit() | Right::Manage.bit())])
    }

    /// The lines that an operator wrote.
    pub(crate) fn read_lines(written: &BTreeMap<Right, Vec<String>>) -> Result<BTreeMap<String, u8>, PatternError> {
        let mut lines: BTreeMap<String, u8> = BTreeMap::new();
        for (right, patterns) in written {
            for pattern in patterns {
                *lines.entry(normal(pattern)?).or_default() |= right.bit();
            }
        }
        if lines.len() > MAX_LINES || lines.keys().map(String::len).sum::<usize>() > MAX_LINE_BYTES {
            return Err(PatternError::TooMany);
        }
        Ok(lines)
    }

    pub(crate) fn new(lines: BTreeMap<String, u8>, certificate: bool) -> Self {
        Self { certificate, lines }
    }

    pub(crate) fn lines(&self) -> &BTreeMap<String, u8> {
        &self.lines
    }

    /// The patterns with a right, for people.
    pub(crate) fn patterns(&self, right: Right) -> Vec<String> {
        let lines = self.lines.iter().filter(|(_, rights)| *rights & right.bit() != 0);
        lines.map(|(pattern, _)| pattern.clone()).collect()
    }

    /// Whether it is one that an operator could have written: others may have been put into the registry by anything.
    pub(crate) fn is_lawful(&self) -> bool {
        let bytes = self.lines.keys().map(String::len).sum::<usize>();
        let is_pattern = |pattern: &String| normal(pattern).is_ok_and(|normal| normal == *pattern);
        self.lines.len() <= MAX_LINES && bytes <= MAX_LINE_BYTES && self.lines.keys().all(is_pattern)
    }

    fn allows(&self, right: Right, wanted: &Destination) -> bool {
        let mut lines = self.lines.iter().filter(|(_, rights)| *rights & right.bit() != 0);
        lines.any(|(pattern, _)| covers(pattern, wanted))
    }
}

/// What a user may do, all things considered: of several statements only what each of them grants, without one nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Permit(pub(crate) Arc<[Access]>);

impl Permit {
    /// Whether this may be done.
    pub(crate) fn allows(&self, right: Right, wanted: &Destination) -> bool {
        // Nobody can guess the name of a reply queue: who knows it was told it by whoever waits for the answer.
        let is_own = wanted.as_str().starts_with(REPLY_QUEUE);
        is_own || (!self.0.is_empty() && self.0.iter().all(|access| access.allows(right, wanted)))
    }

    /// Whether a certificate is enough to log in.
    pub(crate) fn certificate(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|access| access.certificate)
    }
}

/// A pattern as it is kept: aliases are what they stand for.
fn normal(pattern: &str) -> Result<String, PatternError> {
    if pattern == EVERYTHING {
        return Ok(pattern.to_owned());
    }
    let destination = Destination::parse(pattern)
        .map_err(|source| PatternError::Destination { pattern: pattern.to_owned(), source })?;
    if destination.as_str().starts_with(REPLY_QUEUE) {
        return Err(PatternError::Temporary { pattern: pattern.to_owned() });
    }
    check_pattern(destination.name())
        .map_err(|source| PatternError::Wildcard { pattern: pattern.to_owned(), source })?;
    Ok(destination.as_str().to_owned())
}

/// Whether a pattern matches all that a destination stands for.
fn covers(pattern: &str, wanted: &Destination) -> bool {
    if pattern == EVERYTHING {
        return true;
    }
    let Ok(granted) = Destination::parse(pattern) else { return false };
    if granted.prefix() != wanted.prefix() {
        return false;
    }
    // In a topic that is subscribed to, wildcards are such; a queue may be called so.
    let wanted: Vec<Word<'_>> = match wanted.kind() {
        Kind::Topic => words(wanted.name()),
        Kind::Queue => wanted.name().split('.').map(Word::Text).collect(),
    };
    includes(&words(granted.name()), &wanted)
}

/// A word of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word<'a> {
    Text(&'a str),
    One,
    Many,
}

/// The words of a pattern, in normal form: of wildcards side by side those for one word come first, then `#` once at most.
/// `>` is one word and any number more, and so is a `#` that is all there is, for no name is without words.
fn words(pattern: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut has_many = false;
    for word in pattern.split('.') {
        match word {
            "*" => words.push(Word::One),
            "#" => has_many = true,
            ">" => {
                words.push(Word::One);
                has_many = true;
            }
            text => {
                words.extend(std::mem::take(&mut has_many).then_some(Word::Many));
                words.push(Word::Text(text));
            }
        }
    }
    if words.is_empty() {
        words.push(Word::One);
    }
    words.extend(has_many.then_some(Word::Many));
    words
}

/// Whether all names that `inner` matches are matched by `outer`. Never true where it is not so; where two `#` of the one
/// would have to share the words of the other it may say no although it is.
fn includes(outer: &[Word<'_>], inner: &[Word<'_>]) -> bool {
    // Of the part of `outer` that was looked at last: whether it includes what is left of `inner` from each place on.
    let mut later: Vec<bool> = (0..=inner.len()).map(|at| at == inner.len()).collect();
    for granted in outer.iter().rev() {
        let mut here = vec![false; inner.len() + 1];
        here[inner.len()] = *granted == Word::Many && later[inner.len()];
        for at in (0..inner.len()).rev() {
            here[at] = match (granted, inner[at]) {
                // It takes no word, or one of what may be any.
                (Word::Many, _) => later[at] || here[at + 1],
                (Word::One, Word::Text(_) | Word::One) => later[at + 1],
                // No word is there, or one and as many more.
                (Word::One, Word::Many) => here[at + 1] && later[at],
                (Word::Text(granted), Word::Text(wanted)) => *granted == wanted && later[at + 1],
                (Word::Text(_), Word::One | Word::Many) => false,
            };
        }
        later = here;
    }
    later[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic::Patterns;

    fn access(lines: &[(Right, &str)]) -> Access {
        let mut written: BTreeMap<Right, Vec<String>> = BTreeMap::new();
        for (right, pattern) in lines {
            written.entry(*right).or_default().push((*pattern).to_owned());
        }
        Access::new(Access::read_lines(&written).unwrap(), false)
    }

    fn permits(pattern: &str, wanted: &str) -> bool {
        let permit = Permit([access(&[(Right::Read, pattern)])].into());
        permit.allows(Right::Read, &Destination::parse(wanted).unwrap())
    }

    #[test]
    fn patterns_grant_what_they_match_and_nothing_else() {
        for (pattern, yes, no) in [
            ("#", &["/queue/a", "/topic/a.#", "a", "/other"][..], &[][..]),
            ("/queue/a", &["/queue/a", "/amq/queue/a"], &["/queue/ab", "/topic/a", "a", "/queue/a.b"]),
            ("/amq/queue/a", &["/queue/a"], &["/queue/b"]),
            ("/queue/a.*", &["/queue/a.b", "/queue/a.*", "/queue/a.#"], &["/queue/a", "/queue/a.b.c", "/queue/b.a"]),
            ("/queue/#", &["/queue/a", "/queue/a.b/c"], &["/topic/a", "a"]),
            ("/queue/a*", &["/queue/a*"], &["/queue/ab"]),
            ("orders.*", &["orders.new"], &["/queue/orders.new", "orders"]),
            ("/topic/a.*", &["/topic/a.b", "/topic/a.*"], &["/topic/a.#", "/topic/a.>", "/topic/#", "/topic/a"]),
            ("/topic/a.#", &["/topic/a", "/topic/a.*.b", "/topic/a.>", "/topic/a.#"], &["/topic/#", "/topic/*.b"]),
            ("/topic/>", &["/topic/a", "/topic/*", "/topic/>", "/topic/#.a", "/topic/a.#", "/topic/#"], &["/queue/a"]),
            ("/topic/*.*.#", &["/topic/a.b", "/topic/*.>", "/topic/a.#.b"], &["/topic/#", "/topic/>", "/topic/#.a"]),
            ("/topic/#.*", &["/topic/a", "/topic/#", "/topic/#.*"], &[]),
            ("/exchange/amq.topic/a", &["/topic/a"], &["/topic/b"]),
        ] {
            yes.iter().for_each(|wanted| assert!(permits(pattern, wanted), "{pattern} {wanted}"));
            no.iter().for_each(|wanted| assert!(!permits(pattern, wanted), "{pattern} {wanted}"));
        }
    }

    #[test]
    fn rights_are_told_apart_and_several_statements_grant_what_all_of_them_do() {
        let queue = Destination::parse("/queue/a").unwrap();
        let one = access(&[(Right::Read, "/queue/#"), (Right::Write, "/queue/a")]);
        let other = access(&[(Right::Read, "/queue/a"), (Right::Manage, "#")]);
        let rights =
            |permit: &Permit| [Right::Read, Right::Write, Right::Manage].map(|right| permit.allows(right, &queue));
        assert_eq!(rights(&Permit([one.clone()].into())), [true, true, false]);
        assert_eq!(rights(&Permit([one, other].into())), [true, false, false]);
        assert_eq!(rights(&Permit::default()), [false; 3], "without a word, nothing");
        let reply = Destination::reply_queue("/reply-queue/1".into());
        assert!(Permit::default().allows(Right::Write, &reply), "who was told its name may answer");
        let certificate = |flags: &[bool]| {
            Permit(flags.iter().map(|flag| Access::new(BTreeMap::new(), *flag)).collect()).certificate()
        };
        assert!(certificate(&[true]) && !certificate(&[true, false]) && !certificate(&[]));
    }

    #[test]
    fn what_names_no_destinations_is_refused_in_words() {
        let refused = |pattern: &str| normal(pattern).unwrap_err().to_string();
        for (pattern, word) in [
            ("", "has no name"),
            ("/topic/a.>.b", "can only be the last"),
            ("/queue/>.b", "can only be the last"),
            ("/temp-queue/a", "there are no destinations that begin with"),
            ("/reply-queue/a", "temporary queues"),
            ("/exchange/logs", "no exchanges"),
        ] {
            assert!(refused(pattern).contains(word), "{}", refused(pattern));
        }
        let many = |count: usize, len: usize| {
            let name = |number: usize| format!("/queue/{}-{number}", "x".repeat(len));
            Access::read_lines(&BTreeMap::from([(Right::Read, (0..count).map(name).collect())]))
        };
        assert!(many(MAX_LINES, 1).is_ok());
        assert_eq!(many(MAX_LINES + 1, 1), Err(PatternError::TooMany));
        assert_eq!(many(20, 240), Err(PatternError::TooMany));
    }

    #[test]
    fn the_worst_patterns_take_no_longer_than_words_times_words() {
        let (outer, inner) = (vec!["#.a"; 32].join("."), vec!["a.#"; 32].join("."));
        let (outer, inner): (Vec<_>, Vec<_>) = (words(&outer), words(&inner));
        assert!(!includes(&outer, &inner));
    }

    fn pattern() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec!["a", "b", "*", "#", ">"]);
        prop::collection::vec(word, 1..5)
            .prop_map(|words| words.join("."))
            .prop_filter("a pattern", |text| check_pattern(text).is_ok())
    }

    /// All names of up to five words; `z` is in no pattern.
    fn names() -> Vec<String> {
        let mut all: Vec<Vec<&str>> = vec![vec![]];
        for _ in 0..5 {
            let longer: Vec<_> =
                all.iter().flat_map(|name| ["a", "b", "z"].map(|word| [&name[..], &[word]].concat())).collect();
            all.extend(longer);
        }
        all.iter().filter(|name| !name.is_empty()).map(|name| name.join(".")).collect()
    }

    proptest! {
        #[test]
        fn what_is_included_is_matched_name_by_name(outer in pattern(), inner in pattern()) {
            let mut table = Patterns::default();
            table.insert(&outer, 0);
            table.insert(&inner, 1);
            let matches: Vec<_> = names().iter().map(|name| table.matches(name)).collect();
            let is_so = matches.iter().all(|takers| !takers.contains(&1) || takers.contains(&0));
            let included = includes(&words(&outer), &words(&inner));
            prop_assert!(!included || is_so, "{} does not include {}", outer, inner);
            // It may say no where it is so, but not where nothing is shared out between two `#`.
            let is_plain = outer.matches(['#', '>']).count() <= 1 && inner.matches(['#', '>']).count() <= 1;
            prop_assert!(!is_plain || included == is_so, "{} includes {}", outer, inner);
        }
    }
}
