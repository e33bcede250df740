//! `rhizomq split`: parts a cluster into two, or says what would come of it, and waits until the two know no more of
//! each other.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    cli::SplitArgs,
    client::{ClientError, TIMEOUT, ask},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Queues and subscriptions that are listed.
const MAX_LISTED: usize = 40;

pub(crate) fn run(args: &SplitArgs) -> Result<String, ClientError> {
    let admin = args.node.admin;
    let post = |body| ask(admin, "POST", "/split", Some(body), Some(TIMEOUT));
    if args.cancel {
        let answer = post(json!({ "cancel": true }))?;
        let told = "taken back: the cluster stays one".to_owned();
        return Ok(if args.node.json { answer.to_string() } else { told });
    }
    let status = ask(admin, "GET", "/status", None, Some(TIMEOUT))?;
    // The command line has a name, unless it takes a split back.
    let name = args.off.clone().unwrap_or_default();
    let refused = |reason| ClientError::Refused { admin, reason };
    let leaving = leaving(&status, &name, &args.nodes).map_err(refused)?;
    let plan = post(json!({ "name": name, "nodes": leaving, "size": args.size, "dry_run": args.dry_run }))?;
    if args.dry_run {
        return Ok(if args.node.json { plan.to_string() } else { told(&plan, &status) });
    }
    wait(args, &name, &plan)
}

/// Ids of the nodes that are to leave: as named, or all of the site of that name.
fn leaving(status: &Value, part: &str, named: &[String]) -> Result<Vec<String>, String> {
    let nodes = list(&status["nodes"]);
    let id = |node: &Value| node["id"].as_str().unwrap_or_default().to_owned();
    if named.is_empty() {
        let there: Vec<_> = nodes.iter().filter(|node| node["site"] == part && !part.is_empty()).map(id).collect();
        let hint = || format!("no node stands on a site `{part}`: name those that are to leave with --nodes");
        return if there.is_empty() { Err(hint()) } else { Ok(there) };
    }
    let find = |name: &String| {
        let fits = |node: &&Value| node["name"] == name.as_str() || node["id"].as_str().is_some_and(|id| id == name);
        let found: Vec<_> = nodes.iter().filter(fits).map(id).collect();
        match &found[..] {
            [one] => Ok(one.clone()),
            [] => Err(format!("no node is called `{name}`; `rhizomq status` lists those that are known")),
            _ => {
                Err(format!("{} nodes are called `{name}`: give their ids, as `status --json` tells them", found.len()))
            }
        }
    };
    named.iter().map(find).collect()
}

/// A node as people call it: by its name, if it has one.
fn name_of(status: &Value, id: &Value) -> String {
    let node = list(&status["nodes"]).iter().find(|node| node["id"] == *id);
    let name = node.and_then(|node| node["name"].as_str()).filter(|name| !name.is_empty());
    name.or(id.as_str()).unwrap_or_default().to_owned()
}

/// The same for several, in order.
pub(crate) fn names_of<'a>(status: &Value, ids: impl IntoIterator<Item = &'a Value>) -> String {
    let mut names: Vec<_> = ids.into_iter().map(|id| name_of(status, id)).collect();
    names.sort_unstable();
    names.join(", ")
}

fn told(plan: &Value, status: &Value) -> String {
    let mut text = format!(
        "nothing is done yet\nleave: {}\nstay:  {}\nA message goes with the node that took it:",
        names_of(status, list(&plan["leaving"])),
        names_of(status, list(&plan["staying"])),
    );
    let backlogs = list(&plan["backlogs"]);
    for backlog in backlogs.iter().take(MAX_LISTED) {
        let name = backlog["name"].as_str().unwrap_or_default();
        text.push_str(&format!("\n  {name}: {} leave, {} stay", backlog["leave"], backlog["stay"]));
    }
    match backlogs.len() {
        0 => text.push_str("\n  nothing waits"),
        many if many > MAX_LISTED => text.push_str(&format!("\n  and {} more: --json has all", many - MAX_LISTED)),
        _ => {}
    }
    if plan["out_of_reach_segments"].as_u64() > Some(0) {
        text.push_str(&format!(
            "\n{} segments lie on nodes that are out of reach: what waits in them is not counted, and goes with the nodes that \
             took it.",
            plan["out_of_reach_segments"]
        ));
    }
    text
}

fn wait(args: &SplitArgs, name: &str, plan: &Value) -> Result<String, ClientError> {
    let begun = Instant::now();
    let mut said = String::new();
    loop {
        let status = ask(args.node.admin, "GET", "/status", None, Some(TIMEOUT))?;
        let splitting = &status["splitting"];
        if splitting.is_null() {
            return if !is_parted(plan, &status) {
                let reason = "the split was taken back meanwhile; the cluster stays one".to_owned();
                Err(ClientError::Refused { admin: args.node.admin, reason })
            } else {
                Ok(format!(
                    "done: `{name}` is a cluster of its own, with a secret of its own; `rhizomq ticket` on one of its nodes \
                     prints its ticket. To make the two one again: rhizomq merge THAT-TICKET, on a node that stayed"
                ))
            };
        }
        let line = if args.node.json { splitting.to_string() } else { progress(&status) };
        if line != said {
            println!("{line}");
            said = line;
        }
        if let Some(seconds) = args.timeout.filter(|seconds| begun.elapsed() >= Duration::from_secs(*seconds)) {
            return Err(ClientError::NotSplit { seconds, progress: progress(&status) });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether the asked node does not see the nodes of the other part any more: one that an earlier split took away is no sign.
fn is_parted(plan: &Value, status: &Value) -> bool {
    let leaves = list(&plan["leaving"]).contains(&status["node"]);
    let others = list(&plan[if leaves { "staying" } else { "leaving" }]);
    let gone = list(&status["split_off"]);
    !others.is_empty() && others.iter().all(|node| gone.contains(node))
}

fn progress(status: &Value) -> String {
    let waits_for = names_of(status, list(&status["splitting"]["waits_for"]));
    let mut text = format!("copies are made within each part; not ready: {waits_for}");
    if let Some(remedy) = remedy(status) {
        text.push_str(&format!("\n{remedy}"));
    }
    text
}

/// What to do about nodes of either part that can't be reached, if there are such: what a split waits for may lie there
/// alone, or a copy may be meant for them, for which a node that runs is not ready.
pub(crate) fn remedy(status: &Value) -> Option<String> {
    let splitting = &status["splitting"];
    let of_parts = list(&splitting["leaving"]).iter().chain(list(&splitting["staying"]));
    let runs = |id: &Value| list(&status["nodes"]).iter().any(|node| node["id"] == *id && node["alive"] == true);
    let known = |id: &Value| list(&status["nodes"]).iter().any(|node| node["id"] == *id);
    let dead: Vec<_> = of_parts.filter(|id| known(id) && !runs(id)).collect();
    let named = |id: &&Value| match (name_of(status, id), id.as_str().unwrap_or_default()) {
        (name, id) if name == id => name,
        (name, id) => format!("{name} ({id})"),
    };
    let names = dead.iter().map(named).collect::<Vec<_>>().join(", ");
    (!dead.is_empty()).then(|| {
        format!(
            "out of reach: {names}. The split waits for what may lie there alone, and for copies that are to lie there. Start \
             it again; or, if it never comes back, `rhizomq node forget ID`; or take the split back: `rhizomq split --cancel`"
        )
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[][..], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Value {
        json!({ "nodes": [
            { "id": "aa", "name": "a", "site": "west" },
            { "id": "bb", "name": "b", "site": "east" },
            { "id": "cc", "name": "b", "site": "west" },
        ] })
    }

    #[test]
    fn who_leaves_is_named_or_stands_on_the_site() {
        let leaving = |part: &str, named: &[&str]| {
            leaving(&status(), part, &named.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(leaving("west", &[]), Ok(vec!["aa".to_owned(), "cc".to_owned()]));
        assert_eq!(leaving("x", &["a", "cc"]), Ok(vec!["aa".to_owned(), "cc".to_owned()]));
        assert!(leaving("x", &["b"]).is_err_and(|why| why.contains("2 nodes are called `b`")));
        assert!(leaving("x", &["d"]).is_err_and(|why| why.contains("no node is called `d`")));
        assert!(leaving("x", &[]).is_err_and(|why| why.contains("--nodes")));
    }

    #[test]
    fn it_is_done_when_the_other_part_is_gone_and_not_when_somebody_else_is() {
        let plan = json!({ "leaving": ["aa", "bb"], "staying": ["cc"] });
        let parted = |node: &str, gone: &[&str]| is_parted(&plan, &json!({ "node": node, "split_off": gone }));
        assert!(parted("cc", &["zz", "aa", "bb"]) && parted("aa", &["cc"]));
        assert!(!parted("cc", &["zz"]) && !parted("cc", &[]) && !parted("aa", &["zz"]) && !parted("cc", &["aa"]));
        assert!(!is_parted(&json!({}), &json!({ "node": "cc" })));
    }

    #[test]
    fn who_does_not_run_is_named_with_what_to_do_about_it() {
        let status = |alive: bool, waits_for: &str| {
            json!({ "nodes": [{ "id": "aa", "alive": alive, "name": "anna" }, { "id": "bb", "alive": true }],
                "splitting": { "leaving": ["aa"], "staying": ["bb", "cc"], "waits_for": [waits_for] } })
        };
        assert_eq!(progress(&status(true, "aa")), "copies are made within each part; not ready: anna");
        // Somebody that runs may wait for a copy at somebody that does not; who was forgotten is waited for by nobody.
        for waits_for in ["aa", "bb"] {
            let text = progress(&status(false, waits_for));
            assert!(text.contains("out of reach: anna (aa). ") && text.contains("node forget"), "{text}");
        }
        assert_eq!(remedy(&json!({ "nodes": [] })), None);
    }

    #[test]
    fn a_plan_names_backlogs_and_what_it_has_not_seen() {
        let plan = json!({ "leaving": ["aa"], "staying": ["bb", "dd"], "out_of_reach_segments": 2,
            "backlogs": [{ "name": "/queue/q", "leave": 3, "stay": 4 }] });
        let text = told(&plan, &status());
        assert!(text.contains("leave: a\nstay:  b, dd\n"), "{text}");
        assert!(text.contains("/queue/q: 3 leave, 4 stay") && text.contains("2 segments lie on nodes"), "{text}");
        assert!(told(&json!({}), &status()).contains("nothing waits"));
    }
}
