//! `rhizomq split --lost`: the other part of a split will never come back.

use serde_json::Value;

use crate::nodes::{find, harmless, known, list};

/// A node of the part that is meant: the other one of the split that is called so, or the part of the node that is.
pub(super) fn node_of(status: &Value, called: &str) -> Result<String, String> {
    let gone = list(&status["split_off"]);
    let others = |parted: &Value| {
        let has_left = list(&parted["leaving"]).contains(&status["node"]);
        let others = list(&parted[if has_left { "staying" } else { "leaving" }]);
        others.iter().find(|node| gone.contains(node)).and_then(Value::as_str).map(str::to_owned)
    };
    let named = list(&status["parted"]).iter().filter(|parted| parted["name"] == called);
    match named.filter_map(others).collect::<Vec<_>>() {
        parts if parts.len() > 1 => {
            return Err(format!("{} splits are called `{called}`: name a node of the part that is lost", parts.len()));
        }
        parts => {
            if let Some(node) = parts.into_iter().next() {
                return Ok(node);
            }
        }
    }
    let name = |id: &str| name_at_the_time(status, id);
    let others: Vec<_> = gone.iter().filter_map(Value::as_str).map(|id| (id, name(id))).collect();
    find(&others, called).map_err(|_| match others.len() {
        0 => "no part was split off from here, or all have been merged again or given up".to_owned(),
        _ => {
            let names: Vec<_> = others.iter().map(|(id, name)| harmless(&format!("{name} ({id})"))).collect();
            format!("no split is called `{called}`, nor a node that was split off; these were: {}", names.join(", "))
        }
    })
}

/// What a node was called when a split took it away, or is called here.
fn name_at_the_time<'a>(status: &'a Value, id: &str) -> &'a str {
    let of_splits = list(&status["parted"]).iter().filter_map(|parted| parted["names"][id].as_str());
    let here = known(status).into_iter().find(|(known, _)| *known == id).map(|(_, name)| name);
    of_splits.chain(here).next().unwrap_or_default()
}

pub(super) fn told(answer: &Value, status: &Value) -> String {
    let name = harmless(answer["given_up"].as_str().unwrap_or_default());
    let nodes = list(&answer["nodes"]).iter().filter_map(Value::as_str);
    let nodes: Vec<_> = nodes.map(|id| harmless(&format!("{} ({id})", name_at_the_time(status, id)))).collect();
    let left = list(&status["parted"])
        .iter()
        .any(|parted| parted["name"] == answer["given_up"] && list(&parted["leaving"]).contains(&status["node"]));
    let part = if left { format!("the part that stayed when `{name}` left") } else { format!("`{name}`") };
    format!(
        "given up: {part}, with {}. {} messages of theirs wait on this node's disk; these, and what the other nodes of this \
         cluster have, are delivered here, marked as redelivered. Should one of those nodes come back with its data after all, \
         it may deliver them once more: merge with it, and what was consumed on either side stays consumed.",
        nodes.join(", "),
        answer["waiting_here"]
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(node: &str, gone: &[&str]) -> Value {
        json!({ "node": node, "split_off": gone, "nodes": [{ "id": "bbbb", "name": "b" }],
            "parted": [
                { "name": "west", "leaving": ["aaaa", "cccc"], "staying": ["bbbb"], "names": { "aaaa": "a", "cccc": "c" } },
                { "name": "far", "leaving": ["dddd"], "staying": ["bbbb", "aaaa"], "names": { "dddd": "d" } },
                { "name": "far", "leaving": ["eeee"], "staying": ["bbbb", "aaaa"], "names": {} },
            ] })
    }

    #[test]
    fn the_other_part_is_named_by_its_split_or_by_a_node_of_it() {
        let stayed = status("bbbb", &["cccc", "dddd", "eeee"]);
        assert_eq!(node_of(&stayed, "west"), Ok("cccc".to_owned()));
        assert_eq!((node_of(&stayed, "d"), node_of(&stayed, "eeee")), (Ok("dddd".to_owned()), Ok("eeee".to_owned())));
        assert!(node_of(&stayed, "far").is_err_and(|why| why.contains("2 splits are called `far`")));
        assert!(node_of(&stayed, "b").is_err_and(|why| why.contains("c (cccc), d (dddd)")), "one of ours");
        // Who left gives those up that stayed.
        assert_eq!(node_of(&status("aaaa", &["bbbb"]), "west"), Ok("bbbb".to_owned()));
        assert!(node_of(&json!({ "node": "aaaa" }), "west").is_err_and(|why| why.contains("no part was split off")));
    }

    #[test]
    fn what_is_told_names_the_part_as_the_asked_node_sees_it() {
        let answer = json!({ "given_up": "west", "nodes": ["aaaa"], "waiting_here": 3 });
        let text = told(&answer, &status("bbbb", &["aaaa"]));
        assert!(text.starts_with("given up: `west`, with a (aaaa). 3 messages"), "{text}");
        assert!(
            told(&answer, &status("cccc", &["bbbb"])).starts_with("given up: the part that stayed when `west` left")
        );
    }
}
