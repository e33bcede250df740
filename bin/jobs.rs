//! Jobs, which are messages that are sent at times of their own: the commands about them, and what of the admin interface these ask.
//!
//! | request | answer |
//! |---|---|
//! | `GET /jobs` | all jobs of the nodes within reach: `jobs`, how many `more` there are, and nodes that were `unheard` |
//! | `POST /jobs` with `{"remove":"ID"}` | the job that has ended |
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
use clap::{Args, Subcommand};
use rhizomq_stomp::JobQuestion;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    admin::{answer, refusal, refuse_strangers},
    cli::AdminArgs,
    client::{ClientError, TIMEOUT, ask},
    door::Caller,
    nodes::{self, list as items},
    policies::show_time,
};

/// What can be done about jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List them: when each is due next (UTC), how often it comes, how many nodes have it, where it goes
    ///
    /// A job is what was sent with AMQ_SCHEDULED_PERIOD, _REPEAT or _CRON, and what is delayed for a topic. What is delayed
    /// for a queue is none: `rhizomq status` counts it there.
    List(AdminArgs),
    /// End one on all nodes within reach: it does not come any more
    ///
    /// What is on its way at that moment still comes. Any node can be told.
    Remove(RemoveJobArgs),
}

/// Options of `job remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveJobArgs {
    /// Its id, as `job list` shows it, or so many of the first digits as fit no other
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    node: AdminArgs,
}

/// Runs one of the commands.
pub(crate) fn run(command: &JobCommand) -> anyhow::Result<String> {
    Ok(match command {
        JobCommand::List(node) => list(node)?,
        JobCommand::Remove(args) => remove(args)?,
    })
}

fn list(node: &AdminArgs) -> Result<String, ClientError> {
    let answer = ask(node.admin, "GET", "/jobs", None, Some(TIMEOUT))?;
    if node.json {
        return Ok(answer.to_string());
    }
    Ok(table(&answer) + &unheard(node, &answer, "jobs that only these have are not in it")?)
}

fn remove(args: &RemoveJobArgs) -> Result<String, ClientError> {
    let answer = ask(args.node.admin, "POST", "/jobs", Some(json!({ "remove": args.id })), Some(TIMEOUT))?;
    if args.node.json {
        return Ok(answer.to_string());
    }
    let job = &answer["jobs"][0];
    let done = format!(
        "job {} to {} has ended, at all nodes that were heard.",
        job["id"].as_str().unwrap_or("-"),
        destination(job)
    );
    Ok(done + &unheard(&args.node, &answer, "what these send meanwhile goes on; then remove it again")?)
}

/// Which nodes were not heard, and what of it.
fn unheard(node: &AdminArgs, answer: &Value, so: &str) -> Result<String, ClientError> {
    let silent = items(&answer["unheard"]);
    if silent.is_empty() {
        return Ok(String::new());
    }
    let status = ask(node.admin, "GET", "/status", None, Some(TIMEOUT))?;
    Ok(format!("\nnot heard: {}; {so}", nodes::named_with_ids(&status, silent)))
}

/// For people: what clients wrote, made harmless.
fn destination(job: &Value) -> String {
    job["destination"].as_str().unwrap_or("-").escape_debug().to_string()
}

fn table(answer: &Value) -> String {
    let jobs = items(&answer["jobs"]);
    if jobs.is_empty() {
        return "there are no jobs".to_owned();
    }
    let row = |job: &Value| {
        let next = job["next_ms"].as_u64().map_or_else(|| "-".to_owned(), date);
        let copies = items(&job["holders"]).len().to_string();
        [job["id"].as_str().unwrap_or("-").to_owned(), next, copies, comes(job), destination(job)]
    };
    let header = ["ID", "NEXT", "COPIES", "COMES", "DESTINATION"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(header).chain(jobs.iter().map(row)).collect();
    let width = rows.iter().map(|row| row[3].chars().count()).max().unwrap_or(0);
    let line = |[id, next, copies, comes, destination]: &[String; 5]| {
        format!("{id:16}  {next:20}  {copies:>6}  {comes:width$}  {destination}")
    };
    let lines = rows.iter().map(line).collect::<Vec<_>>().join("\n");
    match answer["more"].as_u64() {
        None | Some(0) => lines,
        Some(more) => format!("{lines}\nand about {more} more, due later"),
    }
}

/// How often it comes, from the next time on.
fn comes(job: &Value) -> String {
    if job["readable"] != true {
        return "can't be read".to_owned();
    }
    let repeats = match (job["period_ms"].as_u64(), job["repeat"].as_u64()) {
        (Some(period), Some(times)) if times > 0 => Some(format!("{times} more, every {}", show_time(period))),
        (Some(period), None) => Some(format!("every {}", show_time(period))),
        _ => None,
    };
    match (job["cron"].as_str(), repeats) {
        (None, None) => "once".to_owned(),
        (None, Some(repeats)) => repeats,
        (Some(cron), None) => format!("at {}", cron.escape_debug()),
        (Some(cron), Some(repeats)) => format!("at {}, each time {repeats}", cron.escape_debug()),
    }
}

/// Date and time of day in UTC, of ms since 1970, by the Gregorian calendar.
fn date(ms: u64) -> String {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (seconds, mut day, mut year) = (ms / 1_000 % 86_400, ms / 86_400_000, 1970);
    // Times of jobs lie below 2^48 ms: some thousand years.
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", day + 1)
}

/// What the routes ask of the running node.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// What came of the question; the error is for people.
    fn jobs(&self, question: JobQuestion) -> impl Future<Output = Result<Value, String>> + Send;
}

/// The routes.
pub(crate) fn routes<S: Source>() -> Router<S> {
    Router::new().route("/jobs", get(jobs::<S>).post(end::<S>))
}

async fn jobs<S: Source>(State(source): State<S>) -> Response {
    answer(source.jobs(JobQuestion::List).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndRequest {
    remove: String,
}

async fn end<S: Source>(
    State(source): State<S>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = refuse_strangers("such a decision", caller.address, &headers) {
        return refusal;
    }
    match serde_json::from_slice(&body) {
        Ok(EndRequest { remove }) => answer(source.jobs(JobQuestion::Remove(remove)).await),
        Err(_) => refusal(StatusCode::BAD_REQUEST, "the body must be {\"remove\":\"<up to 16 hex digits>\"}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_by_the_calendar() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_709_164_710_999, "2024-02-28T23:58:30Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59Z"),
            ((1 << 48) - 1, "10889-08-02T05:31:50Z"),
        ] {
            assert_eq!(date(ms), expected);
        }
    }

    #[test]
    fn people_are_told_what_comes_how_often() {
        let job = |period: Option<u64>, repeat: Option<u64>, cron: Option<&str>| {
            comes(&json!({ "readable": true, "period_ms": period, "repeat": repeat, "cron": cron }))
        };
        assert_eq!(job(None, Some(0), None), "once");
        assert_eq!(job(Some(5_000), Some(0), None), "once", "the last time");
        assert_eq!(job(Some(5_000), Some(3), None), "3 more, every 5s");
        assert_eq!(job(Some(5_000), None, None), "every 5s");
        assert_eq!(job(None, Some(0), Some("* * * * *")), "at * * * * *");
        assert_eq!(job(Some(1_000), Some(2), Some("0 5 * * *")), "at 0 5 * * *, each time 2 more, every 1s");
        assert_eq!(comes(&json!({ "readable": false })), "can't be read");
        assert_eq!(table(&json!({ "jobs": [], "more": 0 })), "there are no jobs");
        let jobs = [json!({ "id": "0a", "next_ms": 0, "destination": "/queue/\u{7}", "holders": ["a", "b"] })];
        let text = table(&json!({ "jobs": jobs, "more": 4 }));
        assert!(text.contains("\\u{7}") && text.ends_with("about 4 more, due later"), "{text}");
    }
}
