//! The commands that ask a running node: `ticket`, `status`, `verify --admin` and `backup`, clients of the admin interface.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::{Value, json};

use crate::{
    cli::{AdminArgs, BackupArgs, ForgetArgs, RemoveArgs, SizeArgs},
    nodes::{self, list},
    status_table,
};

/// A node on this machine that does not answer within this time does not answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// The node could not be asked, or refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no node answers at {admin} ({source}); is one running there? Its `ready` line names its admin address")]
    Unreachable { admin: SocketAddr, source: Box<ureq::Error> },
    #[error("the node at {admin} refused: {reason}")]
    Refused { admin: SocketAddr, reason: String },
    #[error("what answers at {admin} is no Rhizomq node: {reason}")]
    Strange { admin: SocketAddr, reason: String },
    #[error(
        "after {seconds} s the node has not left yet ({progress}); the drain goes on: ask again with the same command, or take it back with --cancel"
    )]
    NotYet { seconds: u64, progress: String },
    #[error(
        "after {seconds} s the cluster is not parted yet ({progress}); it goes on: `rhizomq status` shows it, and the same \
         command waits for it again"
    )]
    NotSplit { seconds: u64, progress: String },
    #[error("{0}")]
    NotMerged(String),
    #[error("what is to be said can't be written: {0}")]
    Output(std::io::Error),
    #[error("{path}: {source}", path = path.display())]
    Path { path: PathBuf, source: std::io::Error },
}

/// `rhizomq ticket`.
pub(crate) fn ticket(args: &AdminArgs) -> Result<String, ClientError> {
    let answer = ask(args.admin, "POST", "/ticket", None, Some(TIMEOUT))?;
    if args.json {
        return Ok(answer.to_string());
    }
    let missing = || ClientError::Strange { admin: args.admin, reason: "its answer has no ticket".to_owned() };
    answer["ticket"].as_str().map(str::to_owned).ok_or_else(missing)
}

/// `rhizomq status`.
pub(crate) fn status(args: &AdminArgs) -> Result<String, ClientError> {
    let answer = ask(args.admin, "GET", "/status", None, Some(TIMEOUT))?;
    Ok(if args.json { answer.to_string() } else { status_table::render(&answer) })
}

/// `rhizomq verify --admin`: takes as long as it takes.
pub(crate) fn verify(admin: SocketAddr) -> Result<Value, ClientError> {
    ask(admin, "POST", "/verify", None, None)
}

/// `rhizomq node forget`.
pub(crate) fn forget(args: &ForgetArgs) -> Result<String, ClientError> {
    let admin = args.node.admin;
    let status = ask(admin, "GET", "/status", None, Some(TIMEOUT))?;
    // Those who were split off, and with whom a merge has not come about, have no names here.
    let strangers =
        list(&status["split_off"]).iter().chain(list(&status["merging"]).iter().map(|target| &target["node"]));
    let strangers = strangers.filter_map(|id| Some((id.as_str()?, "")));
    let known: Vec<_> = nodes::known(&status).into_iter().chain(strangers).collect();
    let refused = |reason| ClientError::Refused { admin, reason };
    let id = nodes::find(&known, &args.called).map_err(refused)?;
    let answer = ask(admin, "POST", "/forget", Some(json!({ "node": id })), Some(TIMEOUT))?;
    if args.node.json {
        return Ok(answer.to_string());
    }
    let who = nodes::named_with_ids(&status, [&json!(id)]);
    Ok(match answer["given_up"].as_str() {
        Some("merge") => format!("the merge with node {who} is given up; the secret of its ticket stays trusted."),
        _ => forgotten(&who, &answer),
    })
}

fn forgotten(who: &str, answer: &Value) -> String {
    format!(
        "node {who} is forgotten, here and at every node that hears of it.\n{} messages that it took wait at this node and are \
         delivered as before; {} copies that it should have kept are made elsewhere.\nGiven up is to wait for what lies on \
         its disk alone. Should it come back after all, it joins anew, and that is taken in.",
        answer["waiting_here"], answer["replicas"],
    )
}

/// `rhizomq size`.
pub(crate) fn size(args: &SizeArgs) -> Result<String, ClientError> {
    let node = &args.node;
    if args.policy.is_empty() {
        let status = ask(node.admin, "GET", "/status", None, Some(TIMEOUT))?;
        let members = &status["members"];
        if node.json {
            return Ok(members.to_string());
        }
        let policy = members["policy"].as_str().unwrap_or("-");
        return Ok(format!(
            "{policy} (wanted among the nodes within reach: {}; there: {})",
            members["size"], members["present"]
        ));
    }
    let body = json!({ "size": args.policy.join(" ") });
    let answer = ask(node.admin, "POST", "/size", Some(body), Some(TIMEOUT))?;
    if node.json {
        return Ok(answer.to_string());
    }
    Ok(format!(
        "the number of members is now: {}, here and at every node that hears of it.\nSeats settle within some ten seconds; \
         `rhizomq status` shows them.",
        answer["policy"].as_str().unwrap_or("-"),
    ))
}

/// `rhizomq subscription list`.
pub(crate) fn subscriptions(args: &AdminArgs) -> Result<String, ClientError> {
    let answer = ask(args.admin, "GET", "/subscriptions", None, Some(TIMEOUT))?;
    if args.json {
        return Ok(answer.to_string());
    }
    let list = answer["subscriptions"].as_array().map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        return Ok("there are no durable subscriptions".to_owned());
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let row = |one: &Value| {
        // Names are plain; topics are what clients wrote.
        let topics = one["topics"].as_array().map_or(&[][..], Vec::as_slice).iter();
        let topics: Vec<_> = topics.map(|topic| text(topic).escape_debug().to_string()).collect();
        (text(&one["name"]), one["waiting"].to_string(), one["consumers"].to_string(), topics.join(" "))
    };
    let header = ("NAME".to_owned(), "WAITING".to_owned(), "CONSUMERS".to_owned(), "TOPICS".to_owned());
    let rows: Vec<_> = std::iter::once(header).chain(list.iter().map(row)).collect();
    let width = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
    let line = |(name, waiting, consumers, topics): &(String, String, String, String)| {
        format!("{name:width$}  {waiting:>9}  {consumers:>9}  {topics}")
    };
    Ok(rows.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// `rhizomq subscription remove`.
pub(crate) fn remove_subscription(args: &RemoveArgs) -> Result<String, ClientError> {
    let body = json!({ "name": args.name });
    let answer = ask(args.node.admin, "POST", "/unsubscribe", Some(body), Some(TIMEOUT))?;
    if args.node.json {
        return Ok(answer.to_string());
    }
    Ok(format!("{} is deleted, here and at every node that hears of it, with what waited for it", args.name))
}

/// `rhizomq backup`.
pub(crate) fn backup(args: &BackupArgs) -> Result<String, ClientError> {
    // The node has a working directory of its own.
    let absolute = std::path::absolute(&args.dir);
    let dir = absolute.map_err(|source| ClientError::Path { path: args.dir.clone(), source })?;
    let body = json!({ "dir": dir });
    let answer = ask(args.node.admin, "POST", "/backup", Some(body), None)?;
    if args.node.json {
        return Ok(answer.to_string());
    }
    let damages = answer["damages"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = format!(
        "backup of node {} in {}: {} files, {} bytes\nIt holds the node's identity key and the network's secret: keep it \
         like a password. Restored, it is the same node; the old one must not run at the same time.",
        answer["node"].as_str().unwrap_or("-"),
        dir.display(),
        answer["files"],
        answer["bytes"],
    );
    for damage in damages {
        text.push_str(&format!("\nBROKEN already in the node: {damage}"));
    }
    Ok(text)
}

pub(crate) fn ask(
    admin: SocketAddr,
    method: &str,
    path: &str,
    body: Option<Value>,
    timeout: Option<Duration>,
) -> Result<Value, ClientError> {
    // Without this, a proxy set in the environment would be asked for a node of this machine.
    let config = ureq::Agent::config_builder().proxy(None).timeout_global(timeout).http_status_as_error(false);
    let agent = ureq::Agent::new_with_config(config.build());
    let url = format!("http://{admin}{path}");
    let sent = match (method, body) {
        ("POST", Some(body)) => agent.post(url).content_type("application/json").send(body.to_string()),
        ("POST", None) => agent.post(url).send_empty(),
        _ => agent.get(url).call(),
    };
    let mut response = sent.map_err(|source| ClientError::Unreachable { admin, source: Box::new(source) })?;
    let strange = |reason: String| ClientError::Strange { admin, reason };
    let text = response.body_mut().read_to_string().map_err(|error| strange(error.to_string()))?;
    let answer: Value = serde_json::from_str(&text).map_err(|error| strange(error.to_string()))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(reason) => Err(ClientError::Refused { admin, reason: reason.to_owned() }),
        None if response.status().is_success() => Ok(answer),
        None => Err(strange(format!("HTTP status {}", response.status()))),
    }
}
