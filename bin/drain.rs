//! `rhizomq drain`: begins it, shows how far it is, and waits until the node has left.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    cli::DrainArgs,
    client::{ClientError, TIMEOUT, ask},
    output::say,
};

/// Between two looks. Less than a node that has left waits before it ends.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &DrainArgs) -> Result<String, ClientError> {
    let admin = args.node.admin;
    let request = |cancel| ask(admin, "POST", "/drain", Some(json!({ "cancel": cancel })), Some(TIMEOUT));
    if args.cancel {
        let answer = request(true)?;
        return Ok(if args.node.json {
            answer.to_string()
        } else {
            "the node stays, and takes clients again".to_owned()
        });
    }
    let begun = Instant::now();
    let mut last = request(false)?["draining"].clone();
    let mut told = String::new();
    loop {
        let line = if args.node.json { last.to_string() } else { progress(&last) };
        if line != told {
            say(&line).map_err(ClientError::Output)?;
            told = line;
        }
        if last["stage"] == "left" {
            return Ok(ended(args, "the node has left; its process ends"));
        }
        if let Some(seconds) = args.timeout.filter(|seconds| begun.elapsed() >= Duration::from_secs(*seconds)) {
            return Err(ClientError::NotYet { seconds, progress: progress(&last) });
        }
        std::thread::sleep(PAUSE);
        match ask(admin, "GET", "/status", None, Some(TIMEOUT)) {
            Ok(status) if status["draining"].is_null() => {
                let reason = "the drain was taken back meanwhile; the node stays".to_owned();
                return Err(ClientError::Refused { admin, reason });
            }
            Ok(status) => last = status["draining"].clone(),
            // It held nothing any more when it was last seen: that was the end.
            Err(_) if last["stage"] == "going" => return Ok(ended(args, "the node has left")),
            Err(error) => return Err(error),
        }
    }
}

fn ended(args: &DrainArgs, text: &str) -> String {
    if args.node.json { json!({ "left": true }).to_string() } else { text.to_owned() }
}

fn progress(draining: &Value) -> String {
    let mut line = format!(
        "{}: {} segments here; {} of them, with {} messages, lack copies elsewhere",
        draining["stage"].as_str().unwrap_or("-"),
        draining["segments"],
        draining["lacking_segments"],
        draining["lacking_messages"],
    );
    if let Some(hindrance) = draining["hindrance"].as_str() {
        line.push_str("; WAITS: ");
        line.push_str(hindrance);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_what_is_lacking_and_what_is_waited_for() {
        let draining = json!({"stage": "handing over", "segments": 3, "lacking_segments": 2, "lacking_messages": 40,
            "hindrance": "start another"});
        let line = progress(&draining);
        assert_eq!(
            line,
            "handing over: 3 segments here; 2 of them, with 40 messages, lack copies elsewhere; WAITS: start another"
        );
        assert!(!progress(&json!({"stage": "leaving"})).contains("WAITS"));
    }
}
