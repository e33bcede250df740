//! What a node knows of all users: the facts in the registry, as committed here, put together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{AccountId, Fact, Member, Permit, Verifier, set_of};

/// One user, all things considered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: Arc<str>,
    /// Mostly one; several if it was made at several places that did not know of each other.
    pub(crate) accounts: BTreeSet<AccountId>,
    /// All that were set at places that did not know of each other; whoever has logged in with one of them stays.
    pub(crate) verifiers: BTreeSet<Verifier>,
    /// The latest of them, which is asked for.
    pub(crate) passcode: Option<Arc<Verifier>>,
    pub(crate) permit: Permit,
}

/// See the module docs.
#[derive(Default)]
pub(crate) struct Directory {
    users: BTreeMap<Arc<str>, Arc<User>>,
    by_set: BTreeMap<String, BTreeSet<Arc<str>>>,
    /// Sets with members that this program can't read: of a later version, or of nobody who could be trusted.
    strange: BTreeSet<String>,
}

impl Directory {
    /// The members of a registry set are these now. Returns the users that changed.
    pub(crate) fn refresh(&mut self, set: &str, members: &[Vec<u8>]) -> BTreeSet<Arc<str>> {
        let mut facts: BTreeMap<Arc<str>, Vec<Member>> = BTreeMap::new();
        let mut is_strange = false;
        for bytes in members {
            match Member::decode(bytes).filter(|member| set_of(&member.name) == set) {
                Some(member) => facts.entry(Arc::clone(&member.name)).or_default().push(member),
                None => is_strange = true,
            }
        }
        if is_strange {
            self.strange.insert(set.to_owned());
        } else {
            self.strange.remove(set);
        }
        let new: BTreeMap<_, _> = facts.values().filter_map(|facts| put_together(facts)).collect();
        let mut changed = BTreeSet::new();
        for name in self.by_set.remove(set).unwrap_or_default() {
            if !new.contains_key(&name) {
                self.users.remove(&name);
                changed.insert(name);
            }
        }
        if !new.is_empty() {
            self.by_set.insert(set.to_owned(), new.keys().cloned().collect());
        }
        for (name, user) in new {
            if self.users.get(&name).is_none_or(|old| **old != user) {
                changed.insert(Arc::clone(&name));
                self.users.insert(name, Arc::new(user));
            }
        }
        changed
    }

    /// A user.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// All of them, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is nobody, and nothing that could be somebody.
    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.strange.is_empty()
    }

    /// Who is meant by a certificate with these names, the first of them that may log in so.
    pub(crate) fn certified<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Option<&Arc<User>> {
        names.find_map(|name| self.users.get(name).filter(|user| user.permit.certificate()))
    }
}

/// All facts of one name; `None` if there is no account.
fn put_together(facts: &[Member]) -> Option<(Arc<str>, User)> {
    let accounts: BTreeSet<_> =
        facts.iter().filter(|member| member.fact == Fact::Account).map(|member| member.account).collect();
    let (mut passcodes, mut accesses) = (BTreeSet::new(), BTreeSet::new());
    for member in facts.iter().filter(|member| accounts.contains(&member.account)) {
        match &member.fact {
            Fact::Account => {}
            Fact::Passcode { at, verifier } => drop(passcodes.insert((*at, verifier.clone()))),
            Fact::Access(access) => drop(accesses.insert(access.clone())),
        }
    }
    let name = Arc::clone(&facts.iter().find(|member| member.fact == Fact::Account)?.name);
    let user = User {
        name: Arc::clone(&name),
        accounts,
        passcode: passcodes.last().map(|(_, verifier)| Arc::new(verifier.clone())),
        verifiers: passcodes.into_iter().map(|(_, verifier)| verifier).collect(),
        permit: Permit(accesses.into_iter().collect()),
    };
    Some((name, user))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rhizomq_engine::Epoch;

    use super::*;
    use crate::users::{Access, Cost, Passcode, Right};

    fn account(number: u64) -> AccountId {
        AccountId { life: Epoch(7), number }
    }

    fn member(number: u64, fact: Fact) -> Vec<u8> {
        Member { name: "ada".into(), account: account(number), fact }.encode()
    }

    fn passcode(at: u64, salt: u8) -> Fact {
        let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
        Fact::Passcode { at, verifier: Verifier::new(&Passcode::claimed("x"), [salt; 16], cost).unwrap() }
    }

    fn access(pattern: &str, certificate: bool) -> Fact {
        let lines = BTreeMap::from([(Right::Read, vec![pattern.to_owned()])]);
        Fact::Access(Access::new(Access::read_lines(&lines).unwrap(), certificate))
    }

    fn user(members: &[Vec<u8>]) -> Option<Arc<User>> {
        let mut directory = Directory::default();
        directory.refresh(&set_of("ada"), members);
        directory.get("ada").cloned()
    }

    #[test]
    fn a_user_is_there_as_long_as_its_account_is() {
        let mut directory = Directory::default();
        let set = set_of("ada");
        let all = [member(1, Fact::Account), member(1, passcode(5, 1)), member(1, access("#", false))];
        assert_eq!(directory.refresh(&set, &all), BTreeSet::from(["ada".into()]));
        assert!(directory.refresh(&set, &all).is_empty(), "nothing changed");
        assert!(directory.get("ada").unwrap().passcode.is_some() && !directory.is_empty());
        assert_eq!(directory.refresh(&set, &all[..2]).len(), 1);
        assert_eq!(
            directory.get("ada").unwrap().permit,
            Permit::default(),
            "without a word about it, nothing is allowed"
        );
        // Facts of a removed account count for nothing, whoever added them meanwhile.
        assert_eq!(directory.refresh(&set, &all[1..]).len(), 1);
        assert!(directory.get("ada").is_none() && directory.is_empty());
        let other = [member(2, Fact::Account), all[1].clone(), all[2].clone()];
        directory.refresh(&set, &other);
        let user = directory.get("ada").unwrap();
        assert!(user.passcode.is_none() && user.permit == Permit::default(), "those of the former account are not its");
    }

    #[test]
    fn of_several_passcodes_the_latest_holds_and_of_several_permissions_what_all_grant() {
        let both = user(&[
            member(1, Fact::Account),
            member(2, Fact::Account),
            member(1, passcode(9, 1)),
            member(2, passcode(8, 2)),
            member(1, access("/queue/#", true)),
            member(2, access("/queue/a", false)),
        ]);
        let both = both.unwrap();
        let Fact::Passcode { verifier, .. } = passcode(9, 1) else { unreachable!("as it was made") };
        assert_eq!(both.passcode.as_deref(), Some(&verifier));
        assert_eq!((both.accounts.len(), both.verifiers.len()), (2, 2));
        let reads =
            |queue: &str| both.permit.allows(Right::Read, &crate::destination::Destination::parse(queue).unwrap());
        assert!(reads("/queue/a") && !reads("/queue/b") && !both.permit.certificate());
    }

    #[test]
    fn what_cannot_be_read_may_be_somebody() {
        let mut directory = Directory::default();
        let set = set_of("ada");
        assert!(directory.refresh(&set, &[vec![9, 9]]).is_empty());
        assert!(!directory.is_empty(), "clients without a login are not let in on a guess");
        let elsewhere = (0..).map(|number| format!("u{number}")).find(|name| set_of(name) != set).unwrap();
        directory
            .refresh(&set, &[Member { name: elsewhere.into(), account: account(1), fact: Fact::Account }.encode()]);
        assert_eq!((directory.len(), directory.is_empty()), (0, false));
        directory.refresh(&set, &[]);
        assert!(directory.is_empty());
    }

    #[test]
    fn a_certificate_means_the_first_of_its_names_that_may_log_in_so() {
        let mut directory = Directory::default();
        directory.refresh(&set_of("ada"), &[member(1, Fact::Account), member(1, access("#", true))]);
        let found = |names: &[&str]| directory.certified(names.iter().copied()).map(|user| user.name.to_string());
        assert_eq!(found(&["bob", "ada"]), Some("ada".to_owned()));
        assert_eq!(found(&["bob"]), None);
        directory.refresh(&set_of("ada"), &[member(1, Fact::Account), member(1, access("#", false))]);
        assert!(directory.certified(["ada"].into_iter()).is_none());
    }
}
