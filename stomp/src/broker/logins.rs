//! Who is let in, and stays: what CONNECT says against the users that the registry knows. Passcodes are checked elsewhere,
//! for that takes long ([`Output::Check`]); meanwhile the client is not read from.
//!
//! Without any user, clients of the same machine are let in without a word, and others are not. What operators change
//! about users is followed at once, on each node as soon as it is on its disk: clients that would not be let in
//! any more, or that have subscriptions which their user may not have, are told so and closed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rhizomq_engine::Now;

use super::{Broker, ConnId, Output, client::Client};
use crate::{
    destination::Destination,
    durable::DurableName,
    session::{Login, SubKey},
    transport::Peer,
    users::{AccountId, Directory, Passcode, Permit, Right, User, Verifier},
};

/// Between two words in the log about logins that failed, ms.
const FAILURES_TOLD_MS: u64 = 10_000;

/// What a client is told that is not let in, or not any more: a short text, and what to do.
type Refusal = (&'static str, &'static str);

const NOT_LOCAL: Refusal = (
    "there are no users, so only clients of this node's own machine are let in",
    "Make a user with `rhizomq user add NAME` on the machine of any node, and log in with its name and passcode.",
);
const NO_USERS: Refusal = (
    "there are no users, and this node lets nobody in without a login",
    "Make a user with `rhizomq user add NAME` on the machine of any node, and log in with its name and passcode.",
);
const NO_LOGIN: Refusal = (
    "a login is needed",
    "Send the headers `login` and `passcode` in CONNECT, or connect over TLS with a certificate that names a user who may \
     log in so.",
);
const FAILED: Refusal =
    ("the login failed", "There is no such user, or it has another passcode, or it can't log in with one.");
const TOO_BUSY: Refusal = (
    "too many logins are being checked",
    "Connect again in a moment. Nothing is wrong with the login as far as is known.",
);
const USERS_NOW: Refusal =
    ("there are users now, so a login is needed", "Connect again with the headers `login` and `passcode` in CONNECT.");
const REMOVED: Refusal = ("your user was removed", "An operator has removed it. Log in as another one.");
const NEW_PASSCODE: Refusal = ("the passcode of your user was changed", "Connect again with the new passcode.");
const NO_CERTIFICATE: Refusal = (
    "your user may not log in by certificate any more",
    "Connect again with the headers `login` and `passcode` in CONNECT.",
);

/// A passcode to check. The driver answers with [`Broker::handle_login_checked`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginCheck {
    /// What the client has sent.
    pub passcode: Passcode,
    /// What it has to fit.
    pub verifier: Arc<Verifier>,
    /// Whom it claims to be: equal questions about two of them are two, or who asks for both would see that one is nobody.
    pub name: String,
    /// Who asks, as far as that is known: of many that do, each address gets its turn.
    pub address: Option<IpAddr>,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the passcode.
    Right,
    /// It is not.
    Wrong,
    /// It was not checked: too many are, or there is no memory for it.
    Busy,
}

/// What a client is to the broker.
#[derive(Debug, Default)]
pub(super) enum Admission {
    /// It has not said who it is.
    #[default]
    Open,
    /// Its passcode is being checked, against that of this user if there is one.
    Asked(Option<Arc<User>>),
    /// It is of this machine, and there are no users.
    Anonymous,
    /// It has logged in.
    User(Box<Entered>),
}

/// A client that has logged in.
#[derive(Debug)]
pub(super) struct Entered {
    name: Arc<str>,
    accounts: BTreeSet<AccountId>,
    /// What it has logged in with; `None` is a certificate.
    verifier: Option<Arc<Verifier>>,
    pub(super) permit: Permit,
    /// What it has subscribed to, for when the permissions change.
    pub(super) subs: BTreeMap<SubKey, (Destination, Option<DurableName>)>,
}

impl Entered {
    fn new(user: &User, verifier: Option<Arc<Verifier>>) -> Self {
        let (name, accounts) = (Arc::clone(&user.name), user.accounts.clone());
        Self { name, accounts, verifier, permit: user.permit.clone(), subs: BTreeMap::new() }
    }

    /// Why it may not stay, with what is known of its user now.
    fn objection(&self, user: Option<&Arc<User>>) -> Option<Refusal> {
        let Some(user) = user.filter(|user| !user.accounts.is_disjoint(&self.accounts)) else { return Some(REMOVED) };
        match &self.verifier {
            Some(verifier) => (!user.verifiers.contains(&**verifier)).then_some(NEW_PASSCODE),
            None => (!user.permit.certificate()).then_some(NO_CERTIFICATE),
        }
    }
}

impl Admission {
    /// Whether a passcode is being checked: the client has to wait.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Asked(_))
    }

    pub(super) fn entered(&mut self) -> Option<&mut Entered> {
        match self {
            Self::User(entered) => Some(entered),
            _ => None,
        }
    }
}

/// The users, and what goes on around them.
#[derive(Default)]
pub(super) struct Logins {
    pub(super) directory: Directory,
    failures: u64,
    failures_told_at: Option<u64>,
}

enum Judged {
    In(Admission),
    Check(Option<Arc<User>>, LoginCheck),
    Out(Refusal),
}

impl Logins {
    fn judge(&self, peer: &Peer, needs_login: bool, login: Login) -> Judged {
        if self.directory.is_empty() {
            let is_local = peer.address.is_none_or(|address| address.ip().to_canonical().is_loopback());
            return match (needs_login, is_local) {
                (true, _) => Judged::Out(NO_USERS),
                (false, true) => Judged::In(Admission::Anonymous),
                (false, false) => Judged::Out(NOT_LOCAL),
            };
        }
        match (login.name, login.passcode) {
            (Some(name), Some(passcode)) => {
                // Whether there is such a user can't be told from how long the answer takes.
                let user = self.directory.get(&name).filter(|user| user.passcode.is_some()).cloned();
                let verifier = user.as_ref().and_then(|user| user.passcode.clone());
                let verifier = verifier.unwrap_or_else(|| Arc::new(Verifier::of_nobody()));
                let address = peer.address.map(|address| address.ip());
                Judged::Check(user, LoginCheck { passcode, verifier, name, address })
            }
            (name, None) => {
                let names = peer.certificate.iter().flat_map(|certificate| {
                    certificate.common_name.iter().chain(&certificate.alternative_names).map(String::as_str)
                });
                let mut names = names.filter(|one| name.as_deref().is_none_or(|name| name == *one));
                match self.directory.certified(&mut names) {
                    Some(user) => Judged::In(Admission::User(Box::new(Entered::new(user, None)))),
                    None => Judged::Out(NO_LOGIN),
                }
            }
            (None, Some(_)) => Judged::Out(NO_LOGIN),
        }
    }

    /// Told now and then: whoever tries all the time does not fill the log. What is no user's name is not told: it may be a
    /// passcode in the wrong place.
    fn note_failure(&mut self, now: Now, peer: &Peer, user: Option<&Arc<User>>) {
        self.failures += 1;
        if self.failures_told_at.is_none_or(|at| now.mono_ms >= at.saturating_add(FAILURES_TOLD_MS)) {
            let from = peer.address.map(|address: SocketAddr| address.to_string()).unwrap_or_default();
            let (user, failures) = (user.map_or("(unknown)", |user| &*user.name), std::mem::take(&mut self.failures));
            tracing::warn!(from, user, failures, "a login failed; told again in {FAILURES_TOLD_MS} ms, if it goes on");
            self.failures_told_at = Some(now.mono_ms);
        }
    }
}

impl Broker {
    /// Whether a client's passcode is being checked.
    pub fn is_asked(&self, conn: ConnId) -> bool {
        self.clients.get(&conn).is_some_and(|client| client.admission.is_asked() && !client.session.should_close())
    }

    /// Whether there are no users, as far as is known here.
    pub fn has_no_users(&self) -> bool {
        self.logins.directory.is_empty()
    }

    /// A client may have said who it is.
    pub(super) fn take_login(&mut self, now: Now, conn: ConnId) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let Some(login) = client.session.poll_login() else { return };
        match self.logins.judge(&client.session.config().peer, self.config.require_login, login) {
            Judged::In(admission) => self.let_in(now, conn, admission),
            Judged::Check(user, check) => {
                client.admission = Admission::Asked(user);
                self.touched.insert(conn);
                self.outputs.push_back(Output::Check { conn, check });
            }
            Judged::Out(refusal) => self.turn_out(conn, refusal),
        }
    }

    /// A passcode was checked. Without effect if the client is gone.
    pub fn handle_login_checked(&mut self, now: Now, conn: ConnId, verdict: Verdict) {
        let is_served = |client: &&mut Client| self.stop.takes_clients() && !client.session.should_close();
        let Some(client) = self.clients.get_mut(&conn).filter(is_served) else { return };
        let Admission::Asked(asked) = &client.admission else { return };
        match (verdict, asked.clone()) {
            (Verdict::Busy, _) => self.turn_out(conn, TOO_BUSY),
            (Verdict::Right, Some(asked)) => {
                let verifier = asked.passcode.clone();
                let entered = Entered::new(&asked, verifier);
                let user = self.logins.directory.get(&asked.name);
                match (entered.objection(user), user) {
                    (None, Some(user)) => {
                        let entered = Entered { permit: user.permit.clone(), ..entered };
                        self.let_in(now, conn, Admission::User(Box::new(entered)));
                    }
                    (Some(refusal), _) => self.turn_out(conn, refusal),
                    (None, None) => self.turn_out(conn, REMOVED),
                }
            }
            (Verdict::Wrong | Verdict::Right, user) => {
                self.logins.note_failure(now, &client.session.config().peer, user.as_ref());
                self.turn_out(conn, FAILED);
            }
        }
        self.turn(now);
    }

    fn let_in(&mut self, now: Now, conn: ConnId, admission: Admission) {
        if let Some(client) = self.clients.get_mut(&conn) {
            client.admission = admission;
            client.session.admit(now);
            self.note_incoming(now, conn);
            self.take_requests(now, conn);
        }
    }

    fn turn_out(&mut self, conn: ConnId, (message, advice): Refusal) {
        if let Some(client) = self.clients.get_mut(&conn) {
            client.session.error(message, advice, None);
            self.touched.insert(conn);
        }
    }

    /// Something is known of some users that was not before, or the first or last of all: who may not stay is told so.
    pub(super) fn review_clients(&mut self, changed: &BTreeSet<Arc<str>>, all: bool) {
        let mut out = Vec::new();
        let is_of = |client: &mut Client| {
            all || client.admission.entered().is_none_or(|entered| changed.contains(&entered.name))
        };
        for (&conn, client) in &mut self.clients {
            if !is_of(client) {
                continue;
            }
            match review(client, &self.logins.directory) {
                Ok(()) => {}
                Err(Objection::Out(refusal)) => out.push((conn, refusal)),
                Err(Objection::Sub(right, destination)) => {
                    let (message, body) = denial(right, destination.as_str());
                    client.session.error(&message, &body, None);
                    self.touched.insert(conn);
                }
            }
        }
        out.into_iter().for_each(|(conn, refusal)| self.turn_out(conn, refusal));
        let readers: Vec<_> = self.durables.book.names().cloned().collect();
        readers.iter().for_each(|name| self.review_readers(name));
    }

    /// A durable subscription may have topics that not all who read it may read.
    pub(super) fn review_readers(&mut self, name: &str) {
        for id in self.durables.book.readers_of(name) {
            let Some(entered) = self.clients.get_mut(&id.conn).and_then(|client| client.admission.entered()) else {
                continue;
            };
            let topics = self.durables.book.bindings_of(name);
            let topics = topics.filter_map(|(_, binding)| Destination::parse(&binding.topic).ok());
            let denied = topics.into_iter().find(|topic| !entered.permit.allows(Right::Read, topic));
            if let (Some(topic), Some(client)) = (denied, self.clients.get_mut(&id.conn)) {
                let (message, body) = denial(Right::Read, topic.as_str());
                client.session.error(&message, &body, None);
                self.touched.insert(id.conn);
            }
        }
    }
}

enum Objection {
    Out(Refusal),
    Sub(Right, Destination),
}

fn review(client: &mut Client, directory: &Directory) -> Result<(), Objection> {
    match &mut client.admission {
        Admission::Open | Admission::Asked(_) => Ok(()),
        Admission::Anonymous if directory.is_empty() => Ok(()),
        Admission::Anonymous => Err(Objection::Out(USERS_NOW)),
        Admission::User(entered) => {
            let user = directory.get(&entered.name);
            if let Some(refusal) = entered.objection(user) {
                return Err(Objection::Out(refusal));
            }
            if let Some(user) = user {
                entered.permit = user.permit.clone();
            }
            let mut subs = entered.subs.values();
            match subs.find(|(destination, _)| !entered.permit.allows(Right::Read, destination)) {
                Some((destination, _)) => Err(Objection::Sub(Right::Read, destination.clone())),
                None => Ok(()),
            }
        }
    }
}

/// What a client is told that may not do what it wants.
pub(super) fn denial(right: Right, destination: &str) -> (String, String) {
    let message = format!("your user has no {right} permission for {destination}");
    let body = format!(
        "{message}. An operator can give it with `rhizomq user permit`; `rhizomq user list` shows what it has."
    );
    (message, body)
}
