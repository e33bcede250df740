//! The commands that ask a running node: `ticket` and `status`, clients of the admin interface.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use crate::{cli::AdminArgs, status_table};

/// A node on this machine that does not answer within this time does not answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The node could not be asked, or refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no node answers at {admin} ({source}); is one running there? Its `ready` line names its admin address")]
    Unreachable { admin: SocketAddr, source: Box<ureq::Error> },
    #[error("the node at {admin} refused: {reason}")]
    Refused { admin: SocketAddr, reason: String },
    #[error("what answers at {admin} is no Rhizomq node: {reason}")]
    Strange { admin: SocketAddr, reason: String },
}

/// `rhizomq ticket`.
pub(crate) fn ticket(args: &AdminArgs) -> Result<String, ClientError> {
    let answer = ask(args.admin, "POST", "/ticket")?;
    if args.json {
        return Ok(answer.to_string());
    }
    let missing = || ClientError::Strange { admin: args.admin, reason: "its answer has no ticket".to_owned() };
    answer["ticket"].as_str().map(str::to_owned).ok_or_else(missing)
}

/// `rhizomq status`.
pub(crate) fn status(args: &AdminArgs) -> Result<String, ClientError> {
    let answer = ask(args.admin, "GET", "/status")?;
    Ok(if args.json { answer.to_string() } else { status_table::render(&answer) })
}

fn ask(admin: SocketAddr, method: &str, path: &str) -> Result<Value, ClientError> {
    // Without this, a proxy set in the environment would be asked for a node of this machine.
    let config = ureq::Agent::config_builder().proxy(None).timeout_global(Some(TIMEOUT)).http_status_as_error(false);
    let agent = ureq::Agent::new_with_config(config.build());
    let url = format!("http://{admin}{path}");
    let sent = if method == "POST" { agent.post(url).send_empty() } else { agent.get(url).call() };
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
