//! Statements about policies, as members of registry sets. A member: a byte of version, then `postcard` of pattern, time and
//! settings. A new setting goes behind all others: then what was written before is read as ever, and a program that does
//! not know the setting passes the whole statement over, rather than to carry out half of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Overflow, Policy, normal};
use crate::spread;

/// Registry sets that policies are spread over: whole sets travel when one changes.
const SETS: u64 = 16;

/// Of a member's layout.
const VERSION: u8 = 1;

/// A member of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Statement {
    pub(crate) pattern: Arc<str>,
    /// In ms of a wall clock that never went back for this pattern. The latest one holds.
    pub(crate) at: u64,
    pub(crate) policy: Policy,
}

/// One thing that is to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Setting {
    TtlMs(u64),
    Prefetch(u32),
    MaxDeliveries(u32),
    RedeliveryDelayMs(u64),
    RedeliveryBackoffPercent(u32),
    RedeliveryMaxDelayMs(u64),
    DeadLetter(String),
    MaxLength(u64),
    Overflow(Overflow),
}

#[derive(Serialize, Deserialize)]
struct Layout<'a> {
    pattern: &'a str,
    at: u64,
    settings: Vec<Setting>,
}

impl Statement {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let layout = Layout { pattern: &self.pattern, at: self.at, settings: settings(&self.policy) };
        // Texts and numbers always encode into memory; nothing at all would be read by nobody.
        postcard::to_extend(&layout, vec![VERSION]).unwrap_or_default()
    }

    /// Reads a member; `None` for what no version that this program knows has written, and what no operator could have
    /// said.
    pub(crate) fn decode(member: &[u8]) -> Option<Self> {
        let content = member.strip_prefix(&[VERSION])?;
        let (Layout { pattern, at, settings: said }, rest) = postcard::take_from_bytes::<Layout<'_>>(content).ok()?;
        let policy = policy(&said);
        let is_lawful = rest.is_empty()
            && settings(&policy) == said
            && policy.normal().as_ref() == Ok(&policy)
            && normal(pattern).is_ok_and(|normal| normal == pattern);
        is_lawful.then(|| Self { pattern: pattern.into(), at, policy })
    }
}

/// In the order of their kinds, each once.
fn settings(policy: &Policy) -> Vec<Setting> {
    // Named one by one, so that none is forgotten here.
    let Policy {
        ttl_ms,
        prefetch,
        max_deliveries,
        redelivery_delay_ms,
        redelivery_backoff_percent,
        redelivery_max_delay_ms,
        dead_letter,
        max_length,
        overflow,
    } = policy.clone();
    let all = [
        ttl_ms.map(Setting::TtlMs),
        prefetch.map(Setting::Prefetch),
        max_deliveries.map(Setting::MaxDeliveries),
        redelivery_delay_ms.map(Setting::RedeliveryDelayMs),
        redelivery_backoff_percent.map(Setting::RedeliveryBackoffPercent),
        redelivery_max_delay_ms.map(Setting::RedeliveryMaxDelayMs),
        dead_letter.map(Setting::DeadLetter),
        max_length.map(Setting::MaxLength),
        overflow.map(Setting::Overflow),
    ];
    all.into_iter().flatten().collect()
}

fn policy(settings: &[Setting]) -> Policy {
    let mut policy = Policy::default();
    for setting in settings {
        match setting.clone() {
            Setting::TtlMs(ms) => policy.ttl_ms = Some(ms),
            Setting::Prefetch(count) => policy.prefetch = Some(count),
            Setting::MaxDeliveries(count) => policy.max_deliveries = Some(count),
            Setting::RedeliveryDelayMs(ms) => policy.redelivery_delay_ms = Some(ms),
            Setting::RedeliveryBackoffPercent(percent) => policy.redelivery_backoff_percent = Some(percent),
            Setting::RedeliveryMaxDelayMs(ms) => policy.redelivery_max_delay_ms = Some(ms),
            Setting::DeadLetter(queue) => policy.dead_letter = Some(queue),
            Setting::MaxLength(length) => policy.max_length = Some(length),
            Setting::Overflow(overflow) => policy.overflow = Some(overflow),
        }
    }
    policy
}

/// The registry set that the policy of a pattern is in.
pub(crate) fn set_of(pattern: &str) -> String {
    set_name(spread::number_of(pattern, SETS))
}

fn set_name(number: u64) -> String {
    format!("{SET_PREFIX}{number:02x}")
}

const SET_PREFIX: &str = "policies/";

/// Whether a set of the registry holds policies.
pub(crate) fn is_set(set: &str) -> bool {
    set.starts_with(SET_PREFIX)
}

/// All sets that hold any.
pub(crate) fn sets() -> impl Iterator<Item = String> {
    (0..SETS).map(set_name)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod samples {
    use super::*;

    /// One with everything, and one with little.
    pub(crate) fn statements() -> Vec<Statement> {
        let all = Policy {
            ttl_ms: Some(3_600_000),
            prefetch: Some(10),
            max_deliveries: Some(5),
            redelivery_delay_ms: Some(1_000),
            redelivery_backoff_percent: Some(200),
            redelivery_max_delay_ms: Some(60_000),
            dead_letter: Some("/queue/bad".to_owned()),
            max_length: Some(1_000),
            overflow: Some(Overflow::DeadLetter),
        };
        let little = Policy { ttl_ms: Some(1), ..Policy::default() };
        let statement = |pattern: &str, policy| Statement { pattern: pattern.into(), at: 1_000, policy };
        vec![statement("orders.*", all), statement("/topic/#", little)]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_are_read_as_what_they_were() {
        for statement in samples::statements() {
            let bytes = statement.encode();
            assert_eq!(Statement::decode(&bytes), Some(statement));
            assert_eq!(Statement::decode(&bytes[..bytes.len() - 1]), None);
            assert_eq!(Statement::decode(&[&bytes[..], &[0]].concat()), None);
            assert_eq!(Statement::decode(&[&[2], &bytes[1..]].concat()), None, "of a later version");
        }
        // What version 1 has written must go on being read: these bytes never change.
        let hex =
            |statement: &Statement| -> String { statement.encode().iter().map(|byte| format!("{byte:02x}")).collect() };
        let hexes: Vec<_> = samples::statements().iter().map(hex).collect();
        assert_eq!(hexes[1], "01082f746f7069632f23e807010001");
    }

    #[test]
    fn what_no_operator_could_have_said_is_not_read() {
        let [all, _] = samples::statements().try_into().expect("two");
        let with = |pattern: &str, policy| Statement { pattern: pattern.into(), at: 1, policy }.encode();
        assert!(Statement::decode(&with("/queue/a", all.policy.clone())).is_some());
        assert_eq!(Statement::decode(&with("/amq/queue/a", all.policy.clone())), None);
        assert_eq!(Statement::decode(&with("a", Policy::default())), None);
        assert_eq!(Statement::decode(&with("a", Policy { ttl_ms: Some(0), ..Policy::default() })), None);
        let alias = Some("/amq/queue/x".to_owned());
        assert_eq!(Statement::decode(&with("a", Policy { dead_letter: alias, ..Policy::default() })), None);
        // One thing twice, or an unknown one.
        let layout = |settings: &[u8]| [&[VERSION, 1, b'a', 1], settings].concat();
        assert!(Statement::decode(&layout(&[1, 0, 5])).is_some());
        assert_eq!(Statement::decode(&layout(&[2, 0, 5, 0, 6])), None);
        assert_eq!(Statement::decode(&layout(&[1, 99, 5])), None);
    }

    #[test]
    fn patterns_are_spread_over_all_sets() {
        let used: BTreeSet<_> = (0..500).map(|number| set_of(&format!("a.{number}"))).collect();
        assert_eq!(used, sets().collect());
        assert!(used.iter().all(|set| is_set(set)));
    }

    proptest! {
        #[test]
        fn any_policy_that_passes_comes_back(
            at in any::<u64>(),
            ttl_ms in prop::option::of(1..=super::super::MAX_TTL_MS),
            prefetch in prop::option::of(1_u32..=65_535),
            max_deliveries in prop::option::of(any::<u32>()),
            dead_letter in prop::option::of(prop::sample::select(vec!["none".to_owned(), "/queue/a".to_owned()])),
        ) {
            let policy = Policy { ttl_ms, prefetch, max_deliveries, dead_letter, ..Policy::default() };
            let statement = Statement { pattern: "a.#".into(), at, policy };
            let is_empty = statement.policy == Policy::default();
            prop_assert_eq!(Statement::decode(&statement.encode()), (!is_empty).then_some(statement));
        }

        #[test]
        fn any_bytes_are_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let bytes = [&[VERSION][..], &bytes].concat();
            if let Some(statement) = Statement::decode(&bytes) {
                prop_assert_eq!(Statement::decode(&statement.encode()), Some(statement));
            }
        }
    }
}
