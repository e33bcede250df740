//! Facts about users, as members of registry sets. A member: a byte of version, then `postcard` of name, account and fact.
//!
//! An account is named like a durable subscription's inbox: by the life of the node that made it, and the number of its add to
//! the set. So whoever meets a fact of an account that is not there can tell whether the account was removed or has only not
//! been heard of yet.

use std::sync::Arc;

use rhizomq_engine::Epoch;
use serde::{Deserialize, Serialize};

use super::{Access, Verifier, check_name};
use crate::spread;

/// Registry sets that users are spread over: whole sets travel when one changes.
const SETS: u64 = 64;

/// Of a member's layout.
const VERSION: u8 = 1;

/// One making of a user; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct AccountId {
    pub(crate) life: Epoch,
    pub(crate) number: u64,
}

/// What is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Fact {
    /// The account is there.
    Account,
    /// It has a passcode since then, in ms of a wall clock that never went back for this user. The latest one holds.
    Passcode { at: u64, verifier: Verifier },
    /// What it may do.
    Access(Access),
}

/// A member of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) name: Arc<str>,
    pub(crate) account: AccountId,
    pub(crate) fact: Fact,
}

#[derive(Serialize, Deserialize)]
struct Layout<'a, F> {
    name: &'a str,
    account: AccountId,
    fact: F,
}

impl Member {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let layout = Layout { name: &self.name, account: self.account, fact: &self.fact };
        // Texts and numbers always encode into memory; nothing at all would be read by nobody.
        postcard::to_extend(&layout, vec![VERSION]).unwrap_or_default()
    }

    /// Reads a member; `None` for what no version that this program knows has written.
    pub(crate) fn decode(member: &[u8]) -> Option<Self> {
        let content = member.strip_prefix(&[VERSION])?;
        let (Layout { name, account, fact }, rest) = postcard::take_from_bytes::<Layout<'_, Fact>>(content).ok()?;
        let is_lawful = match &fact {
            Fact::Account => true,
            Fact::Passcode { verifier, .. } => verifier.is_lawful(),
            Fact::Access(access) => access.is_lawful(),
        };
        (rest.is_empty() && is_lawful && check_name(name).is_ok()).then(|| Self { name: name.into(), account, fact })
    }
}

/// The registry set that a user is in.
pub(crate) fn set_of(name: &str) -> String {
    set_name(spread::number_of(name, SETS))
}

fn set_name(number: u64) -> String {
    format!("{SET_PREFIX}{number:02x}")
}

const SET_PREFIX: &str = "users/";

/// Whether a set of the registry holds users.
pub(crate) fn is_set(set: &str) -> bool {
    set.starts_with(SET_PREFIX)
}

/// All sets that hold any.
pub(crate) fn sets() -> impl Iterator<Item = String> {
    (0..SETS).map(set_name)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod samples {
    use std::collections::BTreeMap;

    use super::*;
    use crate::users::Right;

    /// One of each fact.
    pub(crate) fn members() -> Vec<Member> {
        let lines = Access::read_lines(&BTreeMap::from([
            (Right::Read, vec!["/queue/a.*".to_owned(), "/topic/#".to_owned()]),
            (Right::Write, vec!["/queue/a.*".to_owned()]),
        ]));
        let facts = [
            Fact::Account,
            Fact::Passcode { at: 1_000, verifier: Verifier::of_nobody() },
            Fact::Access(Access::new(lines.unwrap_or_default(), true)),
        ];
        let account = AccountId { life: Epoch(0x12), number: 300 };
        facts.into_iter().map(|fact| Member { name: "ada".into(), account, fact }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn members_are_read_as_what_they_were() {
        for member in samples::members() {
            let bytes = member.encode();
            assert_eq!(Member::decode(&bytes), Some(member));
            assert_eq!(Member::decode(&bytes[..bytes.len() - 1]), None);
            assert_eq!(Member::decode(&[&bytes[..], &[0]].concat()), None);
            assert_eq!(Member::decode(&[&[2], &bytes[1..]].concat()), None, "of a later version");
        }
        // What version 1 has written must go on being read: these bytes never change.
        let hex = |member: &Member| member.encode().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let hexes: Vec<_> = samples::members().iter().map(hex).collect();
        let hashes = "0".repeat(2 * 48);
        assert_eq!(hexes[0], "010361646112ac0200");
        assert_eq!(hexes[1], format!("010361646112ac0201e80780980102{}{hashes}", "01"));
        assert_eq!(hexes[2], "010361646112ac02020102".to_owned() + "0a2f71756575652f612e2a03" + "082f746f7069632f2301");
    }

    #[test]
    fn what_no_operator_could_have_said_is_not_read() {
        let [account, passcode, access] = samples::members().try_into().expect("three");
        let named = |name: &str| Member { name: name.into(), ..account.clone() };
        assert_eq!(Member::decode(&named(" a").encode()), None);
        let lines = |pattern: &str| [(pattern.to_owned(), 1)].into();
        let of = |pattern| Member { fact: Fact::Access(Access::new(lines(pattern), false)), ..access.clone() };
        assert_eq!(Member::decode(&of("/temp-queue/a").encode()), None);
        assert_eq!(Member::decode(&of("/amq/queue/a").encode()), None, "it would be kept as what it stands for");
        assert!(Member::decode(&of("/queue/a").encode()).is_some());
        // A cost that would use up the memory.
        let bytes = passcode.encode();
        let at = bytes.windows(4).position(|bytes| bytes == [0x80, 0x98, 0x01, 0x02]).expect("the cost");
        let large = [&bytes[..at], &[0xff, 0xff, 0xff, 0xff, 0x0f], &bytes[at + 3..]].concat();
        assert_eq!(Member::decode(&large), None);
    }

    #[test]
    fn names_are_spread_over_all_sets() {
        let used: BTreeSet<_> = (0..2_000).map(|number| set_of(&format!("user{number}"))).collect();
        assert_eq!(used, sets().collect());
        assert!(used.iter().all(|set| is_set(set)));
    }
}
