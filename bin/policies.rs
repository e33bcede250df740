//! Policies: the commands about them, and what of the admin interface these ask.
//!
//! | request | answer |
//! |---|---|
//! | `GET /policies` | all policies: `pattern` and `policy`, with what it says |
//! | `POST /policies` with `{"set":{"pattern":"orders.*","policy":{"ttl_ms":3600000}}}` or `{"remove":{"pattern":"orders.*"}}` | the pattern, once it is on the node's disk |
//!
//! Changes are for callers on the same machine only.

use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::get,
};
use clap::{ArgGroup, Args, Subcommand};
use rhizomq_stomp::policies::{Overflow, Policy, PolicyChange};
use serde_json::Value;

use crate::{
    admin::{answer, refusal, refuse_strangers},
    cli::AdminArgs,
    client::{ClientError, TIMEOUT, ask},
    door::Caller,
};

/// What can be done about policies.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Set what holds for the messages of some destinations, on all nodes
    ///
    /// A PATTERN is the name of a queue or topic in which words between dots may be `*` (one word), `#` (any number) and, at
    /// the end, `>` (one or more). With `/queue/` or `/topic/` before it it means only these:
    ///
    ///   rhizomq policy set 'orders.*' --ttl 1h
    ///   rhizomq policy set /queue/orders.new --max-deliveries 5 --redelivery-delay 1s --dead-letter /queue/orders.bad
    ///
    /// What is said takes the place of all that was said about the same pattern. Of several patterns that match a name exactly one
    /// holds, the most specific: that which has a word where others have `*`, or `*` where others have `>` or `#`, at the
    /// first place where they differ.
    #[command(verbatim_doc_comment)]
    Set(Box<SetArgs>),
    /// List all policies
    List(AdminArgs),
    /// Remove a policy: what holds then is as if it had never been
    Remove(RemovePolicyArgs),
}

/// Options of `policy set`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true)
    .args(["ttl", "max_deliveries", "redelivery_delay", "dead_letter", "max_length", "prefetch"]))]
pub(crate) struct SetArgs {
    /// Which destinations
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// A message that waits for so long expires, unless its sender says less; 500ms, 10s, 5m, 1h, 2d
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<u64>,
    /// After so many deliveries that nobody consumes a message is a dead letter; 0: never [without a policy: 20]
    #[arg(long, value_name = "N")]
    max_deliveries: Option<u32>,
    /// What comes back waits for so long before it is delivered again; a day at most [without a policy: not at all]
    #[arg(long, value_name = "TIME", value_parser = time)]
    redelivery_delay: Option<u64>,
    /// Each further time it waits for so many times as long, such as 1.5 or 2
    #[arg(long, value_name = "FACTOR", value_parser = factor, requires = "redelivery_delay")]
    redelivery_backoff: Option<u32>,
    /// But for so long at most [default: 1d]
    #[arg(long, value_name = "TIME", value_parser = time, requires = "redelivery_backoff")]
    redelivery_max_delay: Option<u64>,
    /// The queue for what is rejected, came back too often or has expired, or `none` to drop it [without a policy:
    /// /queue/DLQ.NAME; what has expired is dropped]
    #[arg(long, value_name = "QUEUE|none")]
    dead_letter: Option<String>,
    /// So many messages may wait, as far as nodes within reach tell each other: about so many [without a policy: any number]
    #[arg(long, value_name = "N")]
    max_length: Option<u64>,
    /// What becomes of more: reject (their SEND gets an ERROR), drop-oldest, or dead-letter (the oldest) [default: reject]
    #[arg(long, value_name = "reject|drop-oldest|dead-letter", value_parser = overflow, requires = "max_length")]
    overflow: Option<Overflow>,
    /// Messages that a consumer holds at a time whose SUBSCRIBE does not say how many [without a policy: 128]
    #[arg(long, value_name = "N")]
    prefetch: Option<u32>,
    #[command(flatten)]
    node: AdminArgs,
}

impl SetArgs {
    fn policy(&self) -> Policy {
        Policy {
            ttl_ms: self.ttl,
            max_deliveries: self.max_deliveries,
            redelivery_delay_ms: self.redelivery_delay,
            redelivery_backoff_percent: self.redelivery_backoff,
            redelivery_max_delay_ms: self.redelivery_max_delay,
            dead_letter: self.dead_letter.clone(),
            max_length: self.max_length,
            overflow: self.overflow,
            prefetch: self.prefetch,
        }
    }
}

/// Options of `policy remove`.
#[derive(Debug, Args)]
pub(crate) struct RemovePolicyArgs {
    /// As `policy list` shows it
    #[arg(value_name = "PATTERN")]
    pattern: String,
    #[command(flatten)]
    node: AdminArgs,
}

/// Units of time with their ms, the longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A time in ms.
fn time(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let ms = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms);
    let number: Option<u64> = number.parse().ok();
    let time = number.zip(ms).and_then(|(number, ms)| number.checked_mul(ms));
    time.ok_or_else(|| "it is a whole number with ms, s, m, h or d behind it, such as 500ms or 1h".to_owned())
}

/// The longest unit in which it is a whole number.
pub(crate) fn show_time(ms: u64) -> String {
    let unit = UNITS.iter().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{ms}ms"), |(name, unit)| format!("{}{name}", ms / unit))
}

/// A factor, in percent.
fn factor(text: &str) -> Result<u32, String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let hundredths = (is_number(whole) && is_number(part) && part.len() <= 2)
        .then(|| format!("{whole}{part:0<2}").parse::<u32>().ok())
        .flatten();
    hundredths.ok_or_else(|| "it is a number such as 2 or 1.5, with two digits behind the point at most".to_owned())
}

fn overflow(text: &str) -> Result<Overflow, String> {
    let parsed = serde_json::from_value(Value::String(text.to_owned()));
    parsed.map_err(|_| "it is reject, drop-oldest or dead-letter".to_owned())
}

/// Runs one of the commands.
pub(crate) fn run(command: &PolicyCommand) -> anyhow::Result<String> {
    Ok(match command {
        PolicyCommand::List(node) => list(node)?,
        PolicyCommand::Set(args) => {
            let change = PolicyChange::Set { pattern: args.pattern.clone(), policy: args.policy() };
            tell(&args.node, &change, "is set, here and at every node that hears of it")?
        }
        PolicyCommand::Remove(args) => {
            let change = PolicyChange::Remove { pattern: args.pattern.clone() };
            tell(&args.node, &change, "is removed, here and at every node that hears of it")?
        }
    })
}

fn tell(node: &AdminArgs, change: &PolicyChange, what: &str) -> Result<String, ClientError> {
    // Plain data always has a JSON form.
    let body = serde_json::to_value(change).unwrap_or_default();
    // The node itself waits no longer for its disk.
    let answer = ask(node.admin, "POST", "/policies", Some(body), Some(TIMEOUT + TIMEOUT / 2))?;
    if node.json {
        return Ok(answer.to_string());
    }
    Ok(format!("the policy for {} {what}", change.pattern().escape_debug()))
}

fn list(node: &AdminArgs) -> Result<String, ClientError> {
    let answer = ask(node.admin, "GET", "/policies", None, Some(TIMEOUT))?;
    if node.json {
        return Ok(answer.to_string());
    }
    let policies = answer["policies"].as_array().map_or(&[][..], Vec::as_slice);
    if policies.is_empty() {
        return Ok("there are no policies".to_owned());
    }
    let pattern = |policy: &Value| policy["pattern"].as_str().unwrap_or("-").escape_debug().to_string();
    let rows = policies.iter().map(|policy| (pattern(policy), says(&policy["policy"])));
    let rows: Vec<_> = [("PATTERN".to_owned(), "POLICY".to_owned())].into_iter().chain(rows).collect();
    let width = rows.iter().map(|row| row.0.chars().count()).max().unwrap_or(0);
    Ok(rows.iter().map(|(pattern, says)| format!("{pattern:width$}  {says}")).collect::<Vec<_>>().join("\n"))
}

/// What a policy says, as the options that would say it.
fn says(policy: &Value) -> String {
    let fields = policy.as_object().into_iter().flatten();
    let option = |(field, value): (&String, &Value)| {
        let name = field.trim_end_matches("_ms").trim_end_matches("_percent").replace('_', "-");
        let value = match value {
            Value::Number(number) if field.ends_with("_ms") => number.as_u64().map(show_time),
            Value::Number(number) if field.ends_with("_percent") => {
                number.as_f64().map(|percent| (percent / 100.0).to_string())
            }
            Value::String(text) => Some(text.escape_debug().to_string()),
            other => Some(other.to_string()),
        };
        format!("--{name} {}", value.unwrap_or_default())
    };
    fields.map(option).collect::<Vec<_>>().join(" ")
}

/// What the routes ask of the running node.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// All policies; the error is for people.
    fn policies(&self) -> impl Future<Output = Result<Value, String>> + Send;
    /// Changes one, and says its pattern; the error is for people.
    fn change_policy(&self, change: PolicyChange) -> impl Future<Output = Result<Value, String>> + Send;
}

/// The routes.
pub(crate) fn routes<S: Source>() -> Router<S> {
    Router::new().route("/policies", get(policies::<S>).post(change::<S>))
}

async fn policies<S: Source>(State(source): State<S>) -> Response {
    answer(source.policies().await)
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
        Ok(change) => answer(source.change_policy(change).await),
        Err(error) => refusal(
            StatusCode::BAD_REQUEST,
            &format!(
                "the body must be {{\"set\":{{\"pattern\":..,\"policy\":{{..}}}}}} or {{\"remove\":{{\"pattern\":..}}}}; \
                 `rhizomq policy` writes it: {error}"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Command};

    fn set(line: &str) -> Result<Policy, clap::Error> {
        match Cli::try_parse_from(line.split_whitespace())?.command {
            Command::Policy(PolicyCommand::Set(args)) => Ok(args.policy()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_policy_is_what_is_said_and_it_is_told_in_the_same_words() {
        let said = "--dead-letter /queue/bad --max-deliveries 5 --max-length 1000 --overflow drop-oldest --prefetch 10 --redelivery-backoff 1.5 \
                    --redelivery-delay 1s --redelivery-max-delay 90s --ttl 1h";
        let policy = set(&format!("rhizomq policy set orders.* {said}")).unwrap();
        assert_eq!((policy.ttl_ms, policy.redelivery_backoff_percent), (Some(3_600_000), Some(150)));
        let json = serde_json::to_value(&policy).unwrap();
        assert_eq!(says(&json), said.split_whitespace().collect::<Vec<_>>().join(" "));
        assert_eq!(serde_json::from_value::<Policy>(json).unwrap(), policy);
        assert_eq!(says(&json!({ "ttl_ms": 1 })), "--ttl 1ms");
    }

    #[test]
    fn what_says_nothing_or_makes_no_sense_is_refused() {
        for options in [
            "",
            "--ttl",
            "--ttl 5",
            "--ttl 1.5h",
            "--ttl 99999999999999d",
            "--redelivery-backoff 2",
            "--redelivery-delay 1s --redelivery-backoff 1.234",
            "--redelivery-delay 1s --redelivery-max-delay 1m",
            "--overflow reject",
            "--max-length 5 --overflow maybe",
            "--priority 3",
        ] {
            assert!(set(&format!("rhizomq policy set a {options}")).is_err(), "{options}");
        }
    }

    #[test]
    fn a_change_says_in_json_what_it_is() {
        let policy = Policy { ttl_ms: Some(5), ..Policy::default() };
        let change = PolicyChange::Set { pattern: "a".to_owned(), policy };
        let body = json!({ "set": { "pattern": "a", "policy": { "ttl_ms": 5 } } });
        assert_eq!(serde_json::to_value(&change).unwrap(), body);
        assert_eq!(serde_json::from_value::<PolicyChange>(body).unwrap(), change);
        assert!(serde_json::from_value::<Policy>(json!({ "max_bytes": 5 })).is_err(), "what is not carried out");
    }
}
