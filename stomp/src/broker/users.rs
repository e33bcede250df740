//! What operators do about users, and following what the registry says of them; what a client's request needs.

use std::{collections::BTreeSet, sync::Arc};

use rhizomq_engine::Now;

use super::{Broker, ConnId, Output, logins::denial};
use crate::{
    destination::Destination,
    durable::DurableName,
    session::Request,
    status::{UserAccess, UserStatus},
    users::{
        self, Access, AccessSpec, AccountId, Fact, MAX_USERS, Member, Right, User, UserChange, UserError, Verifier,
        check_name,
    },
};

/// A change that is not on disk after so many ms is given up; it may come about later.
const PATIENCE_MS: u64 = 10_000;

/// Changes that may wait for the disk.
const MAX_CHANGES: usize = 64;

/// A change of users or policies that waits for the disk; never used twice in a process life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId(pub u64);

/// Changes that wait.
#[derive(Default)]
pub(super) struct Changes {
    last: u64,
    /// Which, until when, and the set that is to be on disk.
    waiting: Vec<(ChangeId, u64, String)>,
}

impl Changes {
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_CHANGES
    }

    /// This set is to come to the disk.
    pub(super) fn begin(&mut self, now: Now, set: String) -> ChangeId {
        self.last += 1;
        let id = ChangeId(self.last);
        self.waiting.push((id, now.mono_ms.saturating_add(PATIENCE_MS), set));
        id
    }

    /// When the first is to be given up.
    pub(super) fn deadline(&self) -> u64 {
        self.waiting.iter().map(|(_, until, _)| *until).min().unwrap_or(u64::MAX)
    }
}

impl Broker {
    /// Changes a user, on all nodes that hear of it: [`Output::Changed`] follows when it is on this one's disk.
    ///
    /// # Errors
    /// See [`UserError`]; then nothing changes.
    pub fn change_user(&mut self, now: Now, change: &UserChange) -> Result<ChangeId, UserError> {
        check_name(change.name())?;
        if !self.changes.has_room() {
            return Err(UserError::Full("too many changes wait for the disk".to_owned()));
        }
        let name = change.name();
        match change {
            UserChange::Add { verifier, access, .. } => self.add_user(now, name, verifier.as_ref(), access)?,
            UserChange::Passcode { verifier, .. } => self.set_passcode(now, name, verifier)?,
            UserChange::Access { access, .. } => self.set_access(now, name, access)?,
            UserChange::Remove { .. } => {
                self.accounts(name)?;
                let facts: Vec<_> = self.newest_facts(name).into_iter().map(|(bytes, _)| bytes).collect();
                self.restate(now, name, Vec::new(), &facts)?;
            }
        }
        let id = self.changes.begin(now, users::set_of(name));
        self.complete_changes(now);
        self.turn(now);
        Ok(id)
    }

    /// All users.
    pub fn users(&self) -> Vec<UserStatus> {
        self.logins.directory.iter().map(status_of).collect()
    }

    fn add_user(
        &mut self,
        now: Now,
        name: &str,
        verifier: Option<&Verifier>,
        spec: &AccessSpec,
    ) -> Result<(), UserError> {
        if self.accounts(name).is_ok() {
            return Err(UserError::Exists(name.to_owned()));
        }
        if self.logins.directory.len() >= MAX_USERS {
            return Err(UserError::TooMany);
        }
        let lines = spec.lines.as_ref().map_or_else(|| Ok(Access::all()), Access::read_lines)?;
        let access = Access::new(lines, spec.certificate.unwrap_or(false));
        if verifier.is_none() && !access.certificate {
            return Err(UserError::NoWayIn);
        }
        let passcode = verifier.map(|verifier| self.passcode(now, name, verifier)).transpose()?;
        let account = AccountId { life: self.node.epoch(), number: self.node.next_share(&users::set_of(name)) };
        // The account first: it is called by the number of its add.
        let facts = [Some(Fact::Account), Some(Fact::Access(access)), passcode].into_iter().flatten();
        self.restate(now, name, facts.map(|fact| (account, fact)).collect(), &[])
    }

    fn set_passcode(&mut self, now: Now, name: &str, verifier: &Verifier) -> Result<(), UserError> {
        let accounts = self.accounts(name)?;
        let fact = self.passcode(now, name, verifier)?;
        self.replace(now, name, &accounts, &fact)
    }

    fn set_access(&mut self, now: Now, name: &str, spec: &AccessSpec) -> Result<(), UserError> {
        let accounts = self.accounts(name)?;
        let facts = self.newest_facts(name);
        let known = facts.iter().filter(|(_, member)| accounts.contains(&member.account));
        let known: BTreeSet<_> = known
            .filter_map(|(_, member)| match &member.fact {
                Fact::Access(access) => Some(access),
                _ => None,
            })
            .collect();
        let lines = match (&spec.lines, known.iter().next()) {
            (Some(lines), _) => Access::read_lines(lines)?,
            (None, Some(access)) if known.len() == 1 => access.lines().clone(),
            (None, None) => Default::default(),
            (None, Some(_)) => return Err(UserError::Conflict(name.to_owned())),
        };
        let all_certify = !known.is_empty() && known.iter().all(|access| access.certificate);
        let access = Access::new(lines, spec.certificate.unwrap_or(all_certify));
        let has_passcode = facts.iter().any(|(_, member)| matches!(member.fact, Fact::Passcode { .. }));
        if !access.certificate && !has_passcode {
            return Err(UserError::NoWayIn);
        }
        self.replace(now, name, &accounts, &Fact::Access(access))
    }

    /// A passcode that is later than all of this user that are known.
    fn passcode(&self, now: Now, name: &str, verifier: &Verifier) -> Result<Fact, UserError> {
        if !verifier.is_lawful() {
            return Err(UserError::Verifier);
        }
        let known = self.newest_facts(name).into_iter().filter_map(|(_, member)| match member.fact {
            Fact::Passcode { at, .. } => Some(at.saturating_add(1)),
            _ => None,
        });
        Ok(Fact::Passcode { at: known.max().unwrap_or(0).max(now.wall_ms), verifier: verifier.clone() })
    }

    /// The accounts of a user, with changes that are not on disk yet.
    fn accounts(&self, name: &str) -> Result<BTreeSet<AccountId>, UserError> {
        let facts = self.newest_facts(name).into_iter().filter(|(_, member)| member.fact == Fact::Account);
        let accounts: BTreeSet<_> = facts.map(|(_, member)| member.account).collect();
        if accounts.is_empty() { Err(UserError::Unknown(name.to_owned())) } else { Ok(accounts) }
    }

    fn newest_facts(&self, name: &str) -> Vec<(Vec<u8>, Member)> {
        let members = self.node.soon_shared(&users::set_of(name)).into_iter();
        let members = members.filter_map(|bytes| Some((Member::decode(&bytes)?, bytes)));
        members.filter(|(member, _)| *member.name == *name).map(|(member, bytes)| (bytes, member)).collect()
    }

    /// A fact takes the place of those of its kind.
    fn replace(&mut self, now: Now, name: &str, accounts: &BTreeSet<AccountId>, fact: &Fact) -> Result<(), UserError> {
        let facts: Vec<_> = accounts.iter().map(|account| (*account, fact.clone())).collect();
        let is_former = |member: &Member| {
            let is_of_kind = std::mem::discriminant(&member.fact) == std::mem::discriminant(fact);
            is_of_kind && !(member.fact == *fact && accounts.contains(&member.account))
        };
        let former = self.newest_facts(name).into_iter().filter(|(_, member)| is_former(member));
        let former: Vec<_> = former.map(|(bytes, _)| bytes).collect();
        self.restate(now, name, facts, &former)
    }

    fn restate(
        &mut self,
        now: Now,
        name: &str,
        facts: Vec<(AccountId, Fact)>,
        former: &[Vec<u8>],
    ) -> Result<(), UserError> {
        let member = |(account, fact)| Member { name: name.into(), account, fact }.encode();
        let members = facts.into_iter().map(member).collect();
        let done = self.node.reshare(now, &users::set_of(name), members, former);
        done.map_err(|error| UserError::Full(error.to_string()))
    }

    /// At the start of a life.
    pub(super) fn read_users(&mut self) {
        for set in users::sets() {
            let members = self.node.shared(&set);
            self.logins.directory.refresh(&set, &members);
        }
    }

    /// A registry set has changed.
    pub(super) fn follow_users(&mut self, now: Now, set: &str) {
        if !users::is_set(set) {
            return;
        }
        let had_none = self.logins.directory.is_empty();
        let members = self.node.shared(set);
        let changed = self.logins.directory.refresh(set, &members);
        let is_empty = self.logins.directory.is_empty();
        if !changed.is_empty() || is_empty != had_none {
            self.review_clients(&changed, is_empty != had_none);
        }
        self.drop_orphans(now, set, &members);
        self.complete_changes(now);
    }

    /// What is said of an account that was removed is of no use any more.
    fn drop_orphans(&mut self, now: Now, set: &str, members: &[Vec<u8>]) {
        let members: Vec<_> = members.iter().filter_map(|bytes| Some((bytes, Member::decode(bytes)?))).collect();
        let there = |id: AccountId| members.iter().any(|(_, one)| one.fact == Fact::Account && one.account == id);
        for (bytes, Member { account, .. }) in &members {
            if !there(*account) && self.node.was_shared(set, account.life, account.number) {
                self.node.unshare(now, set, bytes);
            }
        }
    }

    pub(super) fn complete_changes(&mut self, now: Now) {
        for (id, until, set) in std::mem::take(&mut self.changes.waiting) {
            let is_kept = self.node.shared(&set) == self.node.soon_shared(&set);
            if is_kept || now.mono_ms >= until {
                self.outputs.push_back(Output::Changed { change: id, is_kept });
            } else {
                self.changes.waiting.push((id, until, set));
            }
        }
    }

    /// Gives up waiting for the disk.
    pub(super) fn expire_changes(&mut self, now: Now) {
        self.complete_changes(now);
    }

    /// What a request needs and its client has not: what it is told.
    pub(super) fn denied(&mut self, conn: ConnId, request: &Request) -> Option<(String, String)> {
        let entered = self.clients.get_mut(&conn)?.admission.entered()?;
        let permit = entered.permit.clone();
        let needs: Vec<(Right, Destination)> = match request {
            Request::Publish { unit, .. } => {
                let denied = unit.iter().find(|send| !permit.allows(Right::Write, &send.destination));
                return denied.map(|send| denial(Right::Write, send.destination.as_str()));
            }
            Request::Subscribe { sub, destination, durable, .. } => {
                entered.subs.insert(*sub, (destination.clone(), durable.clone()));
                let mut needs = vec![(Right::Read, destination.clone())];
                needs.extend(durable.iter().flat_map(|name| self.needs_of_durable(name, destination)));
                needs
            }
            Request::Forget { name, .. } => self.topics_of(name.as_str()).map(|topic| (Right::Manage, topic)).collect(),
            Request::Unsubscribe { sub, .. } => {
                entered.subs.remove(sub);
                return None;
            }
            Request::Ack { .. } | Request::Disconnect { .. } => return None,
        };
        let denied = needs.into_iter().find(|(right, destination)| !permit.allows(*right, destination));
        denied.map(|(right, destination)| denial(right, destination.as_str()))
    }

    /// Whoever takes part in a durable subscription gets messages of all its topics; whoever makes it, or gives it another topic,
    /// fills disks with what maybe nobody reads.
    fn needs_of_durable(&self, name: &DurableName, wanted: &Destination) -> Vec<(Right, Destination)> {
        let topics: Vec<_> = self.topics_of(name.as_str()).collect();
        let is_made = topics.contains(wanted);
        let mut needs = Vec::new();
        if !is_made {
            needs.push((Right::Manage, wanted.clone()));
        }
        for topic in topics.into_iter().filter(|topic| topic != wanted) {
            // Another topic closes readers that may not read that one.
            let is_changed = name.has_one_topic() || !is_made;
            needs.push((if is_changed { Right::Manage } else { Right::Read }, topic));
        }
        needs
    }

    fn topics_of(&self, name: &str) -> impl Iterator<Item = Destination> + use<> {
        let bindings = self.newest_bindings(name);
        bindings.into_iter().filter_map(|binding| Destination::parse(&binding.topic).ok())
    }
}

fn status_of(user: &Arc<User>) -> UserStatus {
    let access = user.permit.0.iter().map(|access| UserAccess {
        read: access.patterns(Right::Read),
        write: access.patterns(Right::Write),
        manage: access.patterns(Right::Manage),
    });
    UserStatus {
        name: user.name.to_string(),
        passcode: user.passcode.is_some(),
        certificate: user.permit.certificate(),
        permissions: access.collect(),
    }
}
