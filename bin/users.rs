//! Users: the commands about them, and what of the admin interface these ask.
//!
//! | request | answer |
//! |---|---|
//! | `GET /users` | all users: `name`, `passcode` and `certificate` (whether it can log in so), `permissions` (`read`, `write`, `manage`) |
//! | `POST /users` with `{"add":{...}}`, `{"passcode":{...}}`, `{"access":{...}}` or `{"remove":{"name":"ada"}}` | who was changed, once it is on the node's disk |
//!
//! Both are for callers on the same machine only. A passcode is hashed by the command that reads it, and no answer has
//! a hash in it.

use std::collections::BTreeMap;

use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::get,
};
use clap::{ArgGroup, Args, Subcommand};
use rhizomq_stomp::users::{AccessSpec, Right, UserChange};
use serde_json::{Value, json};

use crate::{
    admin::{answer, refusal, refuse_strangers},
    cli::AdminArgs,
    client::{ClientError, TIMEOUT, ask},
    door::Caller,
    passcode::PasscodeArgs,
};

/// What can be done about users.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user
    ///
    /// As soon as there is one, all clients of all nodes have to log in, those of the nodes' own machines too; clients that are
    /// connected without a login are closed.
    ///
    /// Without --read, --write and --manage the user may do everything; else only what these name. A PATTERN is a destination
    /// in which words between dots may be `*` (one word), `#` (any number) and, at the end, `>` (one or more):
    ///
    ///   rhizomq user add ada                                             everything
    ///   rhizomq user add shop --write /queue/orders --read '/topic/prices.#'
    ///
    /// The passcode is asked for, or read with --passcode-stdin or --passcode-file.
    #[command(verbatim_doc_comment)]
    Add(AddArgs),
    /// Set a user's passcode; who is connected with the former one is closed
    Passwd(PasswdArgs),
    /// Set what a user may do, at once: what is named here takes the place of what was
    Permit(PermitArgs),
    /// List all users, and what they may do
    List(AdminArgs),
    /// Remove a user; its connections are closed
    ///
    /// When the last one is removed, clients of the nodes' own machines are let in without a login again, unless a node runs
    /// with --require-login.
    Remove(RemoveUserArgs),
}

/// Options of `user add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// What clients send as `login`
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    lines: LineArgs,
    /// The user logs in with a client certificate that has NAME as its common name or among its alternative names, and has no
    /// passcode; `user passwd` can give it one
    #[arg(long, conflicts_with_all = ["passcode_stdin", "passcode_file"])]
    certificate: bool,
    #[command(flatten)]
    passcode: PasscodeArgs,
    #[command(flatten)]
    node: AdminArgs,
}

/// Permissions.
#[derive(Debug, Args)]
pub(crate) struct LineArgs {
    /// Destinations that it may SUBSCRIBE to; may be repeated
    #[arg(long, value_name = "PATTERN")]
    read: Vec<String>,
    /// Destinations that it may SEND to; may be repeated
    #[arg(long, value_name = "PATTERN")]
    write: Vec<String>,
    /// Topics of which it may make and delete durable subscriptions; may be repeated
    #[arg(long, value_name = "PATTERN")]
    manage: Vec<String>,
}

impl LineArgs {
    fn lines(&self) -> Option<BTreeMap<Right, Vec<String>>> {
        let lines = [(Right::Read, &self.read), (Right::Write, &self.write), (Right::Manage, &self.manage)];
        let is_given = lines.iter().any(|(_, patterns)| !patterns.is_empty());
        is_given.then(|| lines.into_iter().map(|(right, patterns)| (right, patterns.clone())).collect())
    }
}

/// Options of `user passwd`.
#[derive(Debug, Args)]
pub(crate) struct PasswdArgs {
    /// Whose
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    passcode: PasscodeArgs,
    #[command(flatten)]
    node: AdminArgs,
}

/// Options of `user permit`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("permission").required(true).multiple(true)
    .args(["read", "write", "manage", "all", "nothing", "certificate"]))]
pub(crate) struct PermitArgs {
    /// Whose
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    lines: LineArgs,
    /// Everything
    #[arg(long, conflicts_with_all = ["read", "write", "manage", "nothing"])]
    all: bool,
    /// Nothing at all
    #[arg(long, conflicts_with_all = ["read", "write", "manage"])]
    nothing: bool,
    /// Whether it may log in with a certificate of its name
    #[arg(long, value_name = "yes|no", value_parser = ["yes", "no"])]
    certificate: Option<String>,
    #[command(flatten)]
    node: AdminArgs,
}

impl PermitArgs {
    fn access(&self) -> AccessSpec {
        let everything = || [Right::Read, Right::Write, Right::Manage].map(|right| (right, vec!["#".to_owned()]));
        let lines = match (self.all, self.nothing) {
            (true, _) => Some(BTreeMap::from(everything())),
            (_, true) => Some(BTreeMap::new()),
            _ => self.lines.lines(),
        };
        AccessSpec { lines, certificate: self.certificate.as_ref().map(|word| word == "yes") }
    }
}

/// Options of `user remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveUserArgs {
    /// Whom
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    node: AdminArgs,
}

/// Runs one of the commands.
pub(crate) fn run(command: &UserCommand) -> anyhow::Result<String> {
    Ok(match command {
        UserCommand::List(node) => list(node)?,
        UserCommand::Add(args) => {
            let verifier = if args.certificate { None } else { Some(args.passcode.verifier()?) };
            let access = AccessSpec { lines: args.lines.lines(), certificate: Some(args.certificate) };
            let change = UserChange::Add { name: args.name.clone(), verifier, access };
            tell(
                &args.node,
                &change,
                "is a user now, here and at every node that hears of it: all clients have to log in",
            )?
        }
        UserCommand::Passwd(args) => {
            let change = UserChange::Passcode { name: args.name.clone(), verifier: args.passcode.verifier()? };
            tell(&args.node, &change, "has another passcode, here and at every node that hears of it")?
        }
        UserCommand::Permit(args) => {
            let change = UserChange::Access { name: args.name.clone(), access: args.access() };
            tell(&args.node, &change, "has other permissions, here and at every node that hears of it")?
        }
        UserCommand::Remove(args) => {
            let change = UserChange::Remove { name: args.name.clone() };
            tell(&args.node, &change, "is removed, here and at every node that hears of it")?
        }
    })
}

fn tell(node: &AdminArgs, change: &UserChange, what: &str) -> Result<String, ClientError> {
    // Plain data always has a JSON form.
    let body = serde_json::to_value(change).unwrap_or_default();
    // The node itself waits no longer for its disk.
    let answer = ask(node.admin, "POST", "/users", Some(body), Some(TIMEOUT + TIMEOUT / 2))?;
    if node.json {
        return Ok(answer.to_string());
    }
    let mut text = format!("{} {what}", change.name().escape_debug());
    if answer["users"] == 0 {
        text.push_str(
            "\nThere are no users any more: clients of the nodes' own machines are let in without a login, unless a node runs \
             with --require-login.",
        );
    }
    Ok(text)
}

fn list(node: &AdminArgs) -> Result<String, ClientError> {
    let answer = ask(node.admin, "GET", "/users", None, Some(TIMEOUT))?;
    if node.json {
        return Ok(answer.to_string());
    }
    let users = answer["users"].as_array().map_or(&[][..], Vec::as_slice);
    if users.is_empty() {
        return Ok("there are no users: only clients of the nodes' own machines are let in, without a login".to_owned());
    }
    let mut rows = vec![("NAME".to_owned(), "LOGIN", "MAY".to_owned())];
    for user in users {
        let login = match (user["passcode"] == true, user["certificate"] == true) {
            (true, true) => "both",
            (true, false) => "passcode",
            (false, true) => "certificate",
            (false, false) => "-",
        };
        let name = user["name"].as_str().unwrap_or("-").escape_debug().to_string();
        let statements = user["permissions"].as_array().map_or(&[][..], Vec::as_slice);
        let mut lines: Vec<String> = statements.iter().map(may).collect();
        if lines.len() > 1 {
            lines.push(
                "(said at several places at once: only what each grants holds, until `user permit` says it anew)"
                    .to_owned(),
            );
        }
        let first = if lines.is_empty() { "nothing".to_owned() } else { lines.remove(0) };
        rows.push((name, login, first));
        rows.extend(lines.into_iter().map(|line| (String::new(), "", line)));
    }
    let width = rows.iter().map(|row| row.0.chars().count()).max().unwrap_or(0);
    let line = |(name, login, may): &(String, &str, String)| format!("{name:width$}  {login:11}  {may}");
    Ok(rows.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// One statement of what a user may do.
fn may(statement: &Value) -> String {
    let right = |right: &str| {
        let patterns = statement[right].as_array().map_or(&[][..], Vec::as_slice);
        let patterns = patterns.iter().filter_map(Value::as_str).map(|text| text.escape_debug().to_string());
        let patterns: Vec<_> = patterns.collect();
        (!patterns.is_empty()).then(|| format!("{right} {}", patterns.join(" ")))
    };
    let is_all = ["read", "write", "manage"].iter().all(|right| statement[right] == json!(["#"]));
    let rights: Vec<_> = ["read", "write", "manage"].into_iter().filter_map(right).collect();
    match (is_all, rights.is_empty()) {
        (true, _) => "everything".to_owned(),
        (_, true) => "nothing".to_owned(),
        _ => rights.join(", "),
    }
}

/// What the routes ask of the running node.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// All users; the error is for people.
    fn users(&self) -> impl Future<Output = Result<Value, String>> + Send;
    /// Changes one, and says who it is and how many there are; the error is for people.
    fn change_user(&self, change: UserChange) -> impl Future<Output = Result<Value, String>> + Send;
}

/// The routes.
pub(crate) fn routes<S: Source>() -> Router<S> {
    Router::new().route("/users", get(users::<S>).post(change::<S>))
}

async fn users<S: Source>(
    State(source): State<S>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
) -> Response {
    match refuse_strangers("the list of users", caller.address, &headers) {
        Some(refusal) => refusal,
        None => answer(source.users().await),
    }
}

async fn change<S: Source>(
    State(source): State<S>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = refuse_strangers("such a decision", caller.address, &headers) {
        return refusal;
    }
    match serde_json::from_slice(&body) {
        Ok(change) => answer(source.change_user(change).await),
        // What is wrong with it is not repeated: there may be a hash in it.
        Err(_) => refusal(
            StatusCode::BAD_REQUEST,
            "the body must be {\"add\":{\"name\":..,\"verifier\":..,\"access\":{..}}}, {\"passcode\":{\"name\":..,\"verifier\":..}}, \
             {\"access\":{\"name\":..,\"access\":{..}}} or {\"remove\":{\"name\":..}}; `rhizomq user` writes it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(line: &str) -> Result<UserCommand, clap::Error> {
        match Cli::try_parse_from(line.split_whitespace())?.command {
            Command::User(command) => Ok(command),
            other => panic!("{other:?}"),
        }
    }

    fn permit(line: &str) -> AccessSpec {
        match parsed(line).unwrap() {
            UserCommand::Permit(args) => args.access(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn permissions_are_what_is_named_and_only_what_is_named() {
        let some = permit("rhizomq user permit ada --read /queue/a --read /queue/b --write /topic/#");
        let lines = some.lines.expect("lines");
        assert_eq!((lines[&Right::Read].len(), lines[&Right::Write].len(), lines[&Right::Manage].len()), (2, 1, 0));
        assert_eq!(some.certificate, None);
        assert_eq!(permit("rhizomq user permit ada --nothing").lines, Some(BTreeMap::new()));
        assert_eq!(permit("rhizomq user permit ada --all").lines.map(|lines| lines.len()), Some(3));
        let certificate = permit("rhizomq user permit ada --certificate no");
        assert_eq!((certificate.lines, certificate.certificate), (None, Some(false)));
        for line in [
            "rhizomq user permit ada",
            "rhizomq user permit ada --all --read a",
            "rhizomq user permit ada --all --nothing",
            "rhizomq user permit ada --certificate maybe",
            "rhizomq user add ada --certificate --passcode-stdin",
            "rhizomq user add ada --passcode secret",
            "rhizomq user add ada --passcode-stdin --passcode-file f",
            "rhizomq user passwd ada secret",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_a_user_may_do_is_told_in_short() {
        assert_eq!(may(&json!({ "read": ["#"], "write": ["#"], "manage": ["#"] })), "everything");
        assert_eq!(may(&json!({ "read": [], "write": [], "manage": [] })), "nothing");
        let some = json!({ "read": ["/queue/a", "/topic/\u{1b}"], "write": [], "manage": ["#"] });
        assert_eq!(may(&some), "read /queue/a /topic/\\u{1b}, manage #");
    }

    #[test]
    fn a_change_says_in_json_what_it_is() {
        let change = UserChange::Remove { name: "ada".to_owned() };
        assert_eq!(serde_json::to_value(&change).unwrap(), json!({ "remove": { "name": "ada" } }));
        let lines = Some(BTreeMap::from([(Right::Read, vec!["/queue/a".to_owned()])]));
        let access = AccessSpec { lines, certificate: None };
        let change = UserChange::Access { name: "ada".to_owned(), access };
        let body = json!({ "access": { "name": "ada", "access": { "lines": { "read": ["/queue/a"] }, "certificate": null } } });
        assert_eq!(serde_json::to_value(&change).unwrap(), body);
        assert_eq!(serde_json::from_value::<UserChange>(body).unwrap(), change);
    }
}
