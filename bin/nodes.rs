//! Nodes as people call them: by name, by id or by its first digits, as far as the status object of the asked node knows.

use serde_json::Value;

/// The list at this place, or none.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[][..], Vec::as_slice)
}

/// The node's name, or its id if it has none.
pub(crate) fn name_of(status: &Value, id: &Value) -> String {
    let name = node(status, id).and_then(|node| node["name"].as_str()).filter(|name| !name.is_empty());
    harmless(name.or(id.as_str()).unwrap_or_default())
}

/// The same for several, in order.
pub(crate) fn names_of<'a>(status: &Value, ids: impl IntoIterator<Item = &'a Value>) -> String {
    let mut names: Vec<_> = ids.into_iter().map(|id| name_of(status, id)).collect();
    names.sort_unstable();
    names.join(", ")
}

/// Several nodes by name and whole id, as other commands want to be told, in order.
pub(crate) fn named_with_ids<'a>(status: &Value, ids: impl IntoIterator<Item = &'a Value>) -> String {
    let named = |id: &Value| match (name_of(status, id), harmless(id.as_str().unwrap_or_default())) {
        (name, id) if name == id => name,
        (name, id) => format!("{name} ({id})"),
    };
    let mut names: Vec<_> = ids.into_iter().map(named).collect();
    names.sort_unstable();
    names.join(", ")
}

/// Fewest digits of an id that stand for a node.
const MIN_DIGITS: usize = 4;

/// Ids of all nodes of the cluster that the asked one knows, with their names.
pub(crate) fn known(status: &Value) -> Vec<(&str, &str)> {
    let nodes = list(&status["nodes"]).iter();
    nodes.map(|node| (node["id"].as_str().unwrap_or_default(), node["name"].as_str().unwrap_or_default())).collect()
}

/// The id of the one node that is called so, or whose id is this or begins with it; the error is for people.
pub(crate) fn find(known: &[(&str, &str)], called: &str) -> Result<String, String> {
    if let Some((id, _)) = known.iter().find(|(id, _)| *id == called) {
        return Ok((*id).to_owned());
    }
    let begins = |id: &str| called.len() >= MIN_DIGITS && id.starts_with(&called.to_ascii_lowercase());
    let fits: Vec<_> = known.iter().filter(|(id, name)| *name == called || begins(id)).collect();
    match &fits[..] {
        [(id, _)] => Ok((*id).to_owned()),
        [] => Err(format!(
            "no node is called `{called}`, and no id begins so (with {MIN_DIGITS} digits at least); `rhizomq status` lists \
             those that are known"
        )),
        _ => {
            let choices: Vec<_> = fits.iter().map(|(id, name)| harmless(&format!("{name} ({id})"))).collect();
            Err(format!(
                "{} nodes are called `{called}`, by name or by id: {}; give more of the id",
                choices.len(),
                choices.join(", ")
            ))
        }
    }
}

/// What the asked node knows of a node on its list.
pub(crate) fn node<'a>(status: &'a Value, id: &Value) -> Option<&'a Value> {
    list(&status["nodes"]).iter().find(|node| node["id"] == *id)
}

/// Whether the asked node holds a node alive.
pub(crate) fn is_alive(status: &Value, id: &Value) -> bool {
    node(status, id).is_some_and(|node| node["alive"] == true)
}

/// Whether a node is alive and the asked node has no link with it all the same: then it knows nothing of what waits there.
/// Older nodes do not say.
pub(crate) fn is_cut_off(node: &Value) -> bool {
    node["alive"] == true && node["linked"] == false
}

/// Names come from other nodes and from clients: nothing in them may steer the terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_found_by_its_name_or_enough_of_its_id_and_never_by_what_fits_several() {
        let known = [("abcd01", "a"), ("abce02", "b"), ("abce03", "b"), ("beef04", "abcd01")];
        let found = |called| find(&known, called);
        assert_eq!(found("a"), Ok("abcd01".to_owned()));
        assert_eq!((found("abcd"), found("ABCE02")), (Ok("abcd01".to_owned()), Ok("abce02".to_owned())));
        assert_eq!(found("abcd01"), Ok("abcd01".to_owned()), "a whole id is no name");
        for several in ["b", "abce"] {
            let why = found(several).unwrap_err();
            assert!(why.contains("b (abce02), b (abce03); give more"), "{why}");
        }
        for none in ["abc", "x", "", "abcf"] {
            assert!(found(none).is_err_and(|why| why.contains("no node is called")), "{none}");
        }
    }

    #[test]
    fn names_come_with_ids_and_without_what_steers_a_terminal() {
        let status = json!({ "nodes": [{ "id": "aa", "name": "\u{1b}a" }, { "id": "bb", "name": "" }] });
        assert_eq!(named_with_ids(&status, &[json!("bb"), json!("aa"), json!("cc")]), "?a (aa), bb, cc");
        assert_eq!(names_of(&status, &[json!("bb"), json!("aa")]), "?a, bb");
    }
}
