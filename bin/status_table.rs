//! The status object as tables for people.

use std::fmt::Write;

use serde_json::Value;

/// Most queues shown; the rest is told as a number, and `--json` has them all.
const MAX_QUEUES: usize = 50;

/// Renders the object of `GET /status`. What is missing from it is shown as `-`: an older or newer node may answer.
pub(crate) fn render(status: &Value) -> String {
    let mut out = String::new();
    let me = text(&status["node"]);
    let nodes = list(&status["nodes"]).iter().map(|node| {
        let id = text(&node["id"]);
        vec![
            format!("{}{}", text(&node["name"]), if id == me { " (asked)" } else { "" }),
            short(&id),
            state(node).to_owned(),
            text(&node["role"]),
            short(&text(&node["epoch"])),
            list(&node["addresses"]).iter().map(text).collect::<Vec<_>>().join(" "),
        ]
    });
    table(&mut out, &["NODE", "ID", "STATE", "ROLE", "EPOCH", "ADDRESSES"], nodes.collect());
    out.push('\n');
    let queues = list(&status["queues"]);
    let rows = queues.iter().take(MAX_QUEUES).map(|queue| {
        vec![text(&queue["name"]), text(&queue["depth"]), text(&queue["in_flight"]), text(&queue["consumers"])]
    });
    table(&mut out, &["QUEUE", "WAITING", "IN FLIGHT", "CONSUMERS"], rows.collect());
    if queues.is_empty() {
        out.push_str("(none: a queue appears with its first message or subscriber)\n");
    } else if queues.len() > MAX_QUEUES {
        let _ = writeln!(out, "(and {} more: --json shows all)", queues.len() - MAX_QUEUES);
    }
    let _ = writeln!(
        out,
        "\npossible duplicates {}   messages short of copies {}   topic messages dropped {}   digest {}",
        text(&status["duplicates"]),
        text(&status["under_replicated"]),
        text(&status["topic_drops"]),
        short(&text(&status["digest"])),
    );
    out
}

fn state(node: &Value) -> &'static str {
    match (node["alive"].as_bool(), node["in_sync"].as_bool()) {
        (Some(true), Some(true)) => "in sync",
        (Some(true), Some(false)) => "catching up",
        (Some(true), None) => "alive",
        _ => "gone",
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        // Names come from other nodes and from clients: nothing in them may steer the terminal.
        Value::String(text) => text.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        other => other.to_string(),
    }
}

/// Enough of an id or digest to tell two apart.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

fn table(out: &mut String, head: &[&str], rows: Vec<Vec<String>>) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head = head.iter().map(|&title| title.to_owned()).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_line_up_and_the_asked_node_is_marked() {
        let status = json!({
            "node": "aa", "duplicates": 2, "under_replicated": 0, "digest": "0123456789abcdef",
            "nodes": [
                {"name": "a", "id": "aa", "epoch": "1", "alive": true, "role": "member", "addresses": ["127.0.0.1:1"]},
                {"name": "second", "id": "bb", "epoch": "2", "alive": false, "role": "member", "addresses": []},
                {"name": "c", "id": "cc", "epoch": "3", "alive": true, "in_sync": false, "role": "member", "addresses": []},
                {"name": "d", "id": "dd", "epoch": "4", "alive": true, "in_sync": true, "role": "member", "addresses": []},
            ],
            "queues": [{"name": "/queue/a", "depth": 3, "in_flight": 1, "consumers": 0}],
        });
        let text = render(&status);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("a (asked)  aa  alive"), "{text}");
        assert!(lines[2].starts_with("second     bb  gone"), "{text}");
        assert!(lines[3].contains("catching up") && lines[4].contains("in sync"), "{text}");
        assert_eq!(lines[0].find("STATE"), lines[2].find("gone"));
        assert!(text.contains("/queue/a") && text.contains("possible duplicates 2"), "{text}");
    }

    #[test]
    fn a_hostile_or_strange_answer_is_shown_harmlessly() {
        let status = json!({ "queues": [{"name": "\u{1b}[2Jx", "depth": "many"}], "nodes": 7 });
        let text = render(&status);
        assert!(!text.contains('\u{1b}') && text.contains("?[2Jx"), "{text}");
    }
}
