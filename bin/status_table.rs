//! The status object as tables for people.

use std::fmt::Write;

use serde_json::Value;

use crate::{
    nodes::{harmless, is_cut_off, list, named_with_ids, names_of},
    split::remedy,
};

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
            role(node),
            match text(&node["site"]) {
                site if site.is_empty() => "-".to_owned(),
                site => site,
            },
            short(&text(&node["epoch"])),
            list(&node["addresses"]).iter().map(text).collect::<Vec<_>>().join(" "),
        ]
    });
    table(&mut out, &["NODE", "ID", "STATE", "ROLE", "SITE", "EPOCH", "ADDRESSES"], nodes.collect());
    out.push('\n');
    let queues = list(&status["queues"]);
    let rows = queues.iter().take(MAX_QUEUES).map(|queue| {
        let figures = ["depth", "in_flight", "consumers", "scheduled", "policy"].map(|figure| text(&queue[figure]));
        [text(&queue["name"])].into_iter().chain(figures).collect()
    });
    table(&mut out, &["QUEUE", "WAITING", "IN FLIGHT", "CONSUMERS", "SCHEDULED", "POLICY"], rows.collect());
    if queues.is_empty() {
        out.push_str("(none: a queue appears with its first message or subscriber)\n");
    } else if queues.len() > MAX_QUEUES {
        let _ = writeln!(out, "(and {} more: --json shows all)", queues.len() - MAX_QUEUES);
    }
    cut_off(&mut out, status);
    let _ = writeln!(
        out,
        "\npossible duplicates {}   messages short of copies {}   topic messages dropped {}   digest {}",
        text(&status["duplicates"]),
        text(&status["under_replicated"]),
        text(&status["topic_drops"]),
        short(&text(&status["digest"])),
    );
    let members = &status["members"];
    let (size, policy, view) = (text(&members["size"]), text(&members["policy"]), short(&text(&members["view"])));
    let present = text(&members["present"]);
    let _ = writeln!(out, "members wanted {size}, there {present} (policy: {policy})   view {view}");
    if status["draining"].is_object() {
        let draining = &status["draining"];
        let (stage, lacking) = (text(&draining["stage"]), text(&draining["lacking_messages"]));
        let _ = writeln!(
            out,
            "DRAINING, {stage}: {lacking} messages lack copies elsewhere; {}",
            text(&draining["hindrance"])
        );
    }
    sites(&mut out, status);
    merging(&mut out, list(&status["merging"]));
    splitting(&mut out, status);
    health(&mut out, &status["damage"], &status["store"]);
    out
}

/// Who is alive and not linked with the asked node, whose figures are without those.
fn cut_off(out: &mut String, status: &Value) {
    let ids: Vec<_> = list(&status["nodes"]).iter().filter(|node| is_cut_off(node)).map(|node| &node["id"]).collect();
    if !ids.is_empty() {
        let names = named_with_ids(status, ids);
        let _ = writeln!(
            out,
            "NO LINK from this node to {names}: others say that they run. What waits there is not counted here; ask them, and \
             see that UDP gets through between them and this node"
        );
    }
}

/// Where copies lie, when there are several sites.
fn sites(out: &mut String, status: &Value) {
    let sites = list(&status["sites"]);
    if sites.len() < 2 {
        return;
    }
    let site = |site: &Value| {
        let name = text(&site["name"]);
        let name = if name.is_empty() { "(none)" } else { &name };
        format!("{name}: {} nodes, {} messages", text(&site["nodes"]), text(&site["copies"]))
    };
    let _ = writeln!(
        out,
        "copies by site, of what this node looks after: {}; on one site only {}",
        sites.iter().map(site).collect::<Vec<_>>().join(", "),
        text(&status["on_one_site"]),
    );
}

/// A line for each merge that has not come about.
fn merging(out: &mut String, merging: &[Value]) {
    for target in merging {
        let addresses = list(&target["addresses"]).iter().map(text).collect::<Vec<_>>().join(" ");
        let why = if target["refused"].is_null() { "no answer".to_owned() } else { text(&target["refused"]) };
        let _ = writeln!(out, "MERGING with node {} at {addresses}: {why}", short(&text(&target["node"])));
    }
}

/// Lines for a split that is under way, for a node that has missed one, and for what was split off.
fn splitting(out: &mut String, status: &Value) {
    let shorts = |ids: &Value| list(ids).iter().map(|id| short(&text(id))).collect::<Vec<_>>().join(" ");
    let splitting = &status["splitting"];
    if !splitting.is_null() {
        let names = |ids: &Value| names_of(status, list(ids));
        let (name, leaving) = (text(&splitting["name"]), names(&splitting["leaving"]));
        let _ = writeln!(out, "SPLITTING off `{name}`: {leaving}; not ready: {}", names(&splitting["waits_for"]));
        remedy(status).into_iter().for_each(|remedy| _ = writeln!(out, "  {remedy}"));
    }
    let strayed = &status["strayed"];
    if strayed.is_object() {
        let lacks = if strayed["lacks_secret"] == true { "takes and delivers nothing" } else { "delivers nothing" };
        let (name, part) = (text(&strayed["name"]), shorts(&strayed["part"]));
        let _ = writeln!(
            out,
            "STRAYED: its part `{name}` left without this node, which {lacks} until it has met it: {part}"
        );
        let _ = writeln!(out, "  {}", text(&strayed["advice"]));
    }
    if !list(&status["split_off"]).is_empty() {
        let names =
            |id: &Value| list(&status["parted"]).iter().find_map(|parted| parted["names"][id.as_str()?].as_str());
        let called = |id: &Value| match names(id).filter(|name| !name.is_empty()) {
            Some(name) => format!("{} ({})", harmless(name), short(&text(id))),
            None => short(&text(id)),
        };
        let who: Vec<_> = list(&status["split_off"]).iter().map(called).collect();
        let _ = writeln!(out, "split off from this cluster: {}", who.join(", "));
    }
    if status["kept_of_split_off"].as_u64() > Some(0) {
        let _ = writeln!(
            out,
            "KEPT on this node's disk: {} messages that those took; they are the other part's, nobody here delivers them, and \
             they may lie nowhere else. To have them delivered: rhizomq merge TICKET, with a ticket of the other part, on a \
             node of the part that stayed; or, if none of its nodes will ever come back: rhizomq split --lost NAME",
            text(&status["kept_of_split_off"])
        );
    }
}

/// Lines about the disk, when there is something to say.
fn health(out: &mut String, damage: &Value, store: &Value) {
    if damage["places"].as_u64().unwrap_or(0) + damage["found"].as_u64().unwrap_or(0) > 0 {
        let _ = writeln!(
            out,
            "DAMAGE on this node's disk: {} places, {} messages, of these {} repaired and {} lost",
            text(&damage["places"]),
            text(&damage["found"]),
            text(&damage["repaired"]),
            text(&damage["lost"]),
        );
    }
    if store["reopened"].as_u64().unwrap_or(0) > 0 {
        let (count, why) = (text(&store["reopened"]), text(&store["reopened_because"]));
        let _ = writeln!(out, "STORE read back from disk after a failure, {count} times; the last one: {why}");
    }
    for lost in store["unaccounted"].as_array().into_iter().flatten() {
        let from = if lost["from"].is_string() { text(&lost["from"]) } else { "an unknown life".to_owned() };
        let at_most = if lost["at_most"].is_u64() { text(&lost["at_most"]) } else { "any number".to_owned() };
        let _ = writeln!(out, "LOG of this node has lost its end: perhaps messages from {from} on, {at_most} at most");
    }
    if store["set_aside"].is_string() {
        let _ =
            writeln!(out, "STORE could not be opened and lies in {}; this node began empty", text(&store["set_aside"]));
    }
}

/// What it is; of a node that is away, what it was.
fn role(node: &Value) -> String {
    match text(&node["role"]) {
        role if node["alive"] == false => format!("was {role}"),
        role => role,
    }
}

fn state(node: &Value) -> &'static str {
    match (node["alive"].as_bool(), node["in_sync"].as_bool()) {
        _ if is_cut_off(node) => "no link",
        _ if node["draining"] == true && node["alive"] == true => "draining",
        (Some(true), Some(true)) => "in sync",
        (Some(true), Some(false)) => "catching up",
        (Some(true), None) => "alive",
        _ => "gone",
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => harmless(text),
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
            "queues": [{"name": "/queue/a", "depth": 3, "in_flight": 1, "consumers": 0, "scheduled": 2}],
        });
        let text = render(&status);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("a (asked)  aa  alive"), "{text}");
        assert!(lines[2].starts_with("second     bb  gone"), "{text}");
        assert!(lines[1].contains(" member ") && lines[2].contains("was member"), "{text}");
        assert!(lines[3].contains("catching up") && lines[4].contains("in sync"), "{text}");
        assert_eq!(lines[0].find("STATE"), lines[2].find("gone"));
        assert!(!text.contains("copies by site") && !text.contains("NO LINK"), "{text}");
        assert!(text.contains("/queue/a") && text.contains("possible duplicates 2"), "{text}");
    }

    #[test]
    fn who_runs_and_is_not_linked_is_not_shown_as_one_whose_messages_are_counted() {
        let status = json!({
            "node": "aa",
            "nodes": [
                {"name": "a", "id": "aa", "alive": true, "linked": true, "in_sync": null},
                {"name": "b", "id": "bb", "alive": true, "linked": false, "in_sync": null, "draining": true},
                {"name": "c", "id": "cc", "alive": false, "linked": false, "in_sync": null},
            ],
        });
        let text = render(&status);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].contains("aa  alive") && lines[2].contains("bb  no link") && lines[3].contains("cc  gone"),
            "{text}"
        );
        assert!(text.contains("NO LINK from this node to b (bb): ") && text.contains("not counted here"), "{text}");
    }

    #[test]
    fn several_sites_are_shown_with_their_copies() {
        let status = json!({
            "nodes": [{"name": "a", "id": "aa", "alive": true, "role": "member", "site": "berlin"}],
            "sites": [{"name": "", "nodes": 1, "copies": 4}, {"name": "berlin", "nodes": 2, "copies": 7}],
            "on_one_site": 3,
        });
        let text = render(&status);
        assert!(
            text.contains("(none): 1 nodes, 4 messages, berlin: 2 nodes, 7 messages; on one site only 3"),
            "{text}"
        );
        assert_eq!(
            text.lines().next().and_then(|line| line.find("SITE")),
            text.lines().nth(1).and_then(|line| line.find("berlin"))
        );
    }

    #[test]
    fn what_lies_here_of_those_who_were_split_off_is_told_with_what_to_do() {
        let status = |kept: u64| json!({ "split_off": ["aa"], "kept_of_split_off": kept });
        let text = render(&status(7));
        assert!(
            text.contains("KEPT on this node's disk: 7 messages") && text.contains("rhizomq merge TICKET"),
            "{text}"
        );
        assert!(!render(&status(0)).contains("KEPT"));
    }

    #[test]
    fn trouble_with_the_disk_is_shown_and_only_then() {
        let calm = json!({ "damage": {"places": 0, "found": 0}, "store": {"reopened": 0, "set_aside": null} });
        assert!(!render(&calm).contains("DAMAGE") && !render(&calm).contains("STORE"));
        let trouble = json!({
            "damage": {"places": 2, "found": 5, "repaired": 4, "lost": 1},
            "store": {
                "reopened": 1, "reopened_because": "syncing failed", "set_aside": "/d/store.broken-1",
                "unaccounted": [{"from": "a-1-2.7", "at_most": 9}, {"from": null, "at_most": null}],
            },
        });
        let text = render(&trouble);
        for word in [
            "2 places, 5 messages, of these 4 repaired and 1 lost",
            "syncing failed",
            "store.broken-1",
            "from a-1-2.7 on, 9 at most",
            "from an unknown life on, any number",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn a_hostile_or_strange_answer_is_shown_harmlessly() {
        let status = json!({ "queues": [{"name": "\u{1b}[2Jx", "depth": "many"}], "nodes": 7 });
        let text = render(&status);
        assert!(!text.contains('\u{1b}') && text.contains("?[2Jx"), "{text}");
    }
}
