//! What is a selector, and what it lets through.

use std::borrow::Cow;

use proptest::prelude::*;

use super::{
    Fields, MAX_SELECTOR_LEN, Selector,
    expr::{Comparison, Expr, Number, Operation},
    like::Pattern,
    parser,
};

struct Message(Vec<(&'static str, &'static str)>);

impl Fields for Message {
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| Cow::Borrowed(*value))
    }
}

fn message() -> Message {
    Message(vec![
        ("a", "1"),
        ("b", "2.50"),
        ("t", "true"),
        ("f", "FALSE"),
        ("s", "it's 50%"),
        ("word", "x"),
        ("empty", ""),
        ("content-type", "text/plain"),
        ("type", "car"),
        ("priority", "7"),
        ("persistent", "false"),
        ("message-id", "m-1"),
        ("correlation-id", "c"),
        ("timestamp", "1700000000000"),
        ("octal", "017"),
        ("NaN", "nan"),
    ])
}

/// Whether it matches, and whether its opposite does; neither if it is unknown.
fn answer(text: &str) -> Option<bool> {
    let is = |text: &str| Selector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).unwrap();
    let (plain, opposite) = (is(text).matches(&message()), is(&format!("NOT ({text})")).matches(&message()));
    assert!(!(plain && opposite), "{text}");
    (plain || opposite).then_some(plain)
}

fn error(text: &str) -> (usize, String) {
    let error = Selector::parse(text).expect_err(text);
    (error.at, error.what)
}

#[test]
fn comparisons_read_headers_as_what_they_are_compared_with() {
    for (text, expected) in [
        ("a = 1", Some(true)),
        ("a = '1'", Some(true)),
        ("a = '1.0'", Some(false)),
        ("a = 1.0", Some(true)),
        ("1 = a", Some(true)),
        ("b > 2", Some(true)),
        ("b = 2.5 AND b < 25e-1 + 1", Some(true)),
        ("b <> 2.5", Some(false)),
        ("a < b", Some(true)),
        ("b <= a", Some(false)),
        ("a = b", Some(false)),
        ("a + 1 < b", Some(true)),
        // Of different types: false either way.
        ("word = 1", Some(false)),
        ("word <> 1", Some(false)),
        ("word > 1", Some(false)),
        ("word < a", Some(false)),
        ("word = TRUE", Some(false)),
        ("word <> FALSE", Some(false)),
        ("'a' = 1", Some(false)),
        ("NaN <> 1", Some(false)),
        ("empty = 0", Some(false)),
        ("t = TRUE", Some(true)),
        ("t <> FALSE", Some(true)),
        ("f = FALSE", Some(true)),
        ("t = 'TRUE'", Some(false)),
        ("octal = 17", Some(true)),
        ("octal = 017", Some(false)),
        ("a = 0x1 AND a = 1L AND a = 1.0d AND a = 01", Some(true)),
        ("word = 'x'", Some(true)),
        ("word <> 'y'", Some(true)),
        ("s = 'it''s 50%'", Some(true)),
        ("\"content-type\" = 'text/plain'", Some(true)),
        ("convert_string_expressions:a = 1", Some(true)),
        ("missing = 1", None),
        ("missing <> 1", None),
        ("missing = missing", None),
    ] {
        assert_eq!(answer_of_whole(text), expected, "{text}");
    }
    assert!(Selector::parse("hyphenated_props:content-type = 'text/plain'").unwrap().unwrap().matches(&message()));
    assert!(
        Selector::parse("convert_string_expressions:hyphenated_props:b -a=1.5").unwrap().unwrap().matches(&message())
    );
}

/// As [`answer`], for texts with a word in front, too.
fn answer_of_whole(text: &str) -> Option<bool> {
    answer(text.strip_prefix("convert_string_expressions:").unwrap_or(text))
}

#[test]
fn three_truth_values_combine_as_in_sql() {
    let (yes, no, unknown) = ("a = 1", "a = 2", "missing = 1");
    for (one, two, and, or) in [
        (yes, yes, Some(true), Some(true)),
        (yes, no, Some(false), Some(true)),
        (yes, unknown, None, Some(true)),
        (no, no, Some(false), Some(false)),
        (no, unknown, Some(false), None),
        (unknown, unknown, None, None),
    ] {
        for (one, two) in [(one, two), (two, one)] {
            assert_eq!(answer(&format!("{one} AND {two}")), and, "{one} AND {two}");
            assert_eq!(answer(&format!("{one} OR {two}")), or, "{one} OR {two}");
        }
    }
    // AND binds closer than OR, NOT closer than both.
    assert_eq!(answer("a = 1 OR a = 1 AND a = 2"), Some(true));
    assert_eq!(answer("NOT a = 2 AND a = 2"), Some(false));
    assert_eq!(answer("NOT NOT t"), Some(true));
    assert_eq!(answer("t AND NOT f"), Some(true));
    assert_eq!(answer("word"), None);
    assert_eq!(answer("missing"), None);
}

#[test]
fn the_other_predicates_do_what_jms_says() {
    for (text, expected) in [
        ("a BETWEEN 1 AND 2", Some(true)),
        ("a BETWEEN 2 AND 1", Some(false)),
        ("a NOT BETWEEN 2 AND 3", Some(true)),
        ("b BETWEEN a AND a + 2", Some(true)),
        ("missing BETWEEN 1 AND 2", None),
        ("a BETWEEN missing AND 0", Some(false)),
        ("a BETWEEN missing AND 2", None),
        ("word IN ('y', 'x')", Some(true)),
        ("word NOT IN ('y', 'x')", Some(false)),
        ("word IN ('y')", Some(false)),
        ("missing IN ('y')", None),
        ("missing NOT IN ('y')", None),
        ("missing IS NULL", Some(true)),
        ("missing IS NOT NULL", Some(false)),
        ("empty IS NULL", Some(false)),
        ("s LIKE 'it%'", Some(true)),
        ("s LIKE '%50!%' ESCAPE '!'", Some(true)),
        ("s LIKE '%5!%' ESCAPE '!'", Some(false)),
        ("s NOT LIKE '_t''s%'", Some(false)),
        ("missing LIKE '%'", None),
        ("missing NOT LIKE '%'", None),
    ] {
        assert_eq!(answer(text), expected, "{text}");
    }
}

#[test]
fn arithmetic_is_that_of_java_as_far_as_it_goes() {
    for (text, expected) in [
        ("1 + 2 * 3 = 7", Some(true)),
        ("(1 + 2) * 3 = 9", Some(true)),
        ("7 - 2 - 1 = 4", Some(true)),
        ("7 / 2 = 3", Some(true)),
        ("-7 / 2 = -3 AND 7 % 4 = 3 AND 7.0 / 2 = 3.5", Some(true)),
        ("- a = -1 AND -(a) < 0 AND - - a = 1 AND +a = 1", Some(true)),
        ("a / 0 = 1", None),
        ("a % 0 = 1", None),
        ("a / 0.0 = 1", None),
        ("word + 1 = 1", None),
        ("missing + 1 = 1", None),
        ("9223372036854775807 + 1 > 9.2e18", Some(true)),
        ("-9223372036854775808 < -9223372036854775807", Some(true)),
        ("-9223372036854775808 / -1 > 0", Some(true)),
        ("1e308 * 10 > 1", None),
    ] {
        assert_eq!(answer(text), expected, "{text}");
    }
}

#[test]
fn fields_of_jms_are_the_headers_that_stomp_has_for_them() {
    for text in [
        "JMSPriority = 7",
        "JMSMessageID = 'm-1'",
        "JMSTimestamp > 1600000000000",
        "JMSCorrelationID = 'c'",
        "JMSType = 'car'",
        "JMSDeliveryMode = 'NON_PERSISTENT'",
    ] {
        assert_eq!(answer(text), Some(true), "{text}");
    }
    let bare = Message(Vec::new());
    assert!(Selector::parse("JMSPriority = 4 AND JMSDeliveryMode = 'PERSISTENT'").unwrap().unwrap().matches(&bare));
}

#[test]
fn errors_tell_the_place() {
    for (text, at) in [
        ("a =", 4),
        ("a = 1 b", 7),
        ("  a == 1", 6),
        ("(a = 1", 7),
        ("a = 1)", 6),
        ("5", 1),
        ("a + 1", 1),
        ("'x' OR a", 1),
        ("a AND 'x'", 7),
        ("a < 'x'", 5),
        ("TRUE < a", 1),
        ("(a = 1) = TRUE", 1),
        ("a BETWEEN 1", 12),
        ("a BETWEEN 'x' AND 'y'", 11),
        ("a IN ()", 7),
        ("a IN (1)", 7),
        ("5 IN ('x')", 1),
        ("a + 1 IS NULL", 1),
        ("'x' LIKE 'x'", 1),
        ("a LIKE 5", 8),
        ("a LIKE 'x!y' ESCAPE '!'", 8),
        ("a LIKE 'x!' ESCAPE '!'", 8),
        ("a LIKE 'x' ESCAPE '!!'", 19),
        ("a NOT 1", 7),
        ("ä = 'x", 5),
        ("\"x = 1", 1),
        ("\"\" = 1", 1),
        ("a = 1x", 5),
        ("a = 09", 5),
        ("a = 0x", 5),
        ("a = 1e", 5),
        ("a = 1e999", 5),
        ("a = 9223372036854775808", 5),
        ("a = -9223372036854775809", 5),
        ("a = ~1", 5),
        ("NULL = a", 1),
        ("AND", 1),
        ("content-type = 'x' AND text/plain", 24),
    ] {
        assert_eq!(error(text).0, at, "{text}: {}", error(text).1);
    }
    assert_eq!(Selector::parse(" \n"), Ok(None));
    assert_eq!(Selector::parse("convert_string_expressions: "), Ok(None));
}

#[test]
fn length_and_depth_are_bounded() {
    let brackets = |count: usize| format!("{}a = 1{}", "(".repeat(count), ")".repeat(count));
    assert!(Selector::parse(&brackets(64)).is_ok());
    assert!(error(&brackets(65)).1.contains("nested"));
    assert!(Selector::parse(&format!("{}a", "NOT ".repeat(63))).is_ok());
    assert!(error(&format!("{}a", "NOT ".repeat(64))).1.contains("nested"));
    assert!(error(&format!("a = {}1", "- ".repeat(80))).1.contains("nested"));
    assert!(error(&format!("a = 1{}", " + 1".repeat(70))).1.contains("nested"));
    // Long chains are not deep.
    assert_eq!(answer(&format!("a = 1{}", " AND t".repeat(150))), Some(true));
    assert!(Selector::parse(&format!("a = '{}'", "x".repeat(MAX_SELECTOR_LEN - 6))).is_ok());
    assert_eq!(error(&format!("a = '{}'", "ä".repeat(MAX_SELECTOR_LEN / 2))).1, "it is longer than 1024 bytes");
}

/// The plain way, for comparison.
fn is_like(pattern: &[Option<Option<char>>], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, _) => text.is_empty(),
        (Some((None, rest)), _) => (0..=text.len()).any(|skip| is_like(rest, &text[skip..])),
        (Some((Some(want), rest)), Some((char, others))) => {
            want.is_none_or(|want| want == *char) && is_like(rest, others)
        }
        (Some((Some(_), _)), None) => false,
    }
}

fn conditions() -> impl Strategy<Value = Expr> {
    let name = prop_oneof!["[a-z$_][a-z0-9$_]{0,3}", "[a-z \"'-]{1,4}", Just("And".to_owned())];
    let header = name.prop_map(Expr::Header);
    let number = prop_oneof![
        any::<i64>().prop_map(Number::Integer),
        any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(Number::Float),
    ];
    let value = prop_oneof![header.clone(), number.prop_map(Expr::Number)];
    let numeric = value.prop_recursive(3, 12, 2, |inner| {
        let how = prop::sample::select(Operation::ALL.map(|(_, how)| how).to_vec());
        let both = (how, inner.clone(), inner.clone());
        let negative = inner.prop_filter_map("folded", |one| match one {
            Expr::Number(_) => None,
            one => Some(Expr::Negative(Box::new(one))),
        });
        prop_oneof![both.prop_map(|(how, one, two)| Expr::Arithmetic(how, Box::new(one), Box::new(two))), negative,]
    });
    let text = || "[a-z'%_!ä\\\\\n]{0,4}";
    let name = || "[a-z][a-z-]{0,3}";
    let how = prop::sample::select(Comparison::ALL.map(|(_, how)| how).to_vec());
    let compare = (how, numeric.clone(), numeric.clone());
    let equal = (header.clone(), text());
    let between = (any::<bool>(), numeric.clone(), numeric.clone(), numeric);
    let within = (any::<bool>(), name(), prop::collection::vec(text(), 1..4));
    let like = (any::<bool>(), name(), text(), prop::option::of(prop::sample::select(vec!['!', '\'', '\\', 'ä'])));
    let leaf = prop_oneof![
        header,
        any::<bool>().prop_map(Expr::Bool),
        compare.prop_map(|(how, one, two)| Expr::Compare(how, Box::new(one), Box::new(two))),
        equal.prop_map(|(header, text)| {
            Expr::Compare(Comparison::Equal, Box::new(header), Box::new(Expr::Text(text)))
        }),
        between.prop_map(|(negated, what, low, high)| Expr::Between {
            negated,
            what: Box::new(what),
            low: Box::new(low),
            high: Box::new(high),
        }),
        within.prop_map(|(negated, header, texts)| Expr::In { negated, header, texts }),
        like.prop_filter_map("no pattern", |(negated, header, text, escape)| {
            Some(Expr::Like { negated, header, pattern: Pattern::new(&text, escape).ok()? })
        }),
        (any::<bool>(), name()).prop_map(|(negated, header)| Expr::IsNull { negated, header }),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::Or),
            inner.prop_map(|one| Expr::Not(Box::new(one))),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_out_is_read_as_the_same(expr in conditions()) {
        let text = expr.to_string();
        prop_assert_eq!(parser::parse(&text), Ok(Some(expr)), "{}", text);
    }

    #[test]
    fn whatever_comes_is_read_or_refused_within_its_bounds(
        words in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "(", ")", "NOT", "AND", "OR", "a", "'x'", "1", ".5", "1e", "=", "<>", "<", "-", "+", "*", "/", "%", ",", "IN",
                    "LIKE", "ESCAPE", "IS", "NULL", "BETWEEN", "TRUE", "\"", "'",
                ]).prop_map(str::to_owned),
                "\\PC{0,3}",
            ],
            0..40,
        ),
    ) {
        let text = words.join(" ");
        match Selector::parse(&text) {
            Ok(Some(selector)) => {
                let is_it = selector.matches(&message());
                let again = Selector::parse(&selector.to_string()).unwrap().unwrap();
                prop_assert_eq!(again.matches(&message()), is_it);
            }
            Ok(None) => prop_assert!(text.trim().is_empty()),
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.at)),
        }
    }

    #[test]
    fn patterns_match_as_the_plain_way_has_it(
        pattern in prop::collection::vec(prop::sample::select(vec!['a', 'b', '%', '_']), 0..7),
        text in prop::collection::vec(prop::sample::select(vec!['a', 'b']), 0..9),
    ) {
        let plain: Vec<_> = pattern.iter().map(|char| match char {
            '%' => None,
            '_' => Some(None),
            other => Some(Some(*other)),
        }).collect();
        let read = Pattern::new(&pattern.iter().collect::<String>(), None).unwrap();
        let text_of: String = text.iter().collect();
        prop_assert_eq!(read.matches(&text_of), is_like(&plain, &text));
    }
}
