//! `rhizomq split`: parts a cluster into two, or says what would come of it, and waits until the two know no more of
//! each other.

mod lost;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    cli::SplitArgs,
    client::{ClientError, TIMEOUT, ask},
    nodes::{find, harmless, is_alive, is_cut_off, known, list, named_with_ids, names_of, node},
    output::say,
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
    if let Some(called) = &args.lost {
        let node = lost::node_of(&status, called).map_err(|reason| ClientError::Refused { admin, reason })?;
        let answer = post(json!({ "lost": node }))?;
        return Ok(if args.node.json { answer.to_string() } else { lost::told(&answer, &status) });
    }
    // The command line has a name, unless it takes a split back.
    let name = args.off.clone().unwrap_or_default();
    let leaving = leaving(&status, &name, &args.nodes);
    // A script may repeat the command: what is done is done, and what is under way is waited for.
    if !args.dry_run {
        let done = list(&status["parted"]).iter().find(|parted| is_done(&status, parted, &name, &args.nodes));
        let under_way = Some(&status["splitting"]).filter(|splitting| is_this(splitting, &name, &leaving));
        if let Some(split) = done.or(under_way) {
            check_size(split, args.size).map_err(|reason| ClientError::Refused { admin, reason })?;
            return if done.is_some() { Ok(ended(args, split, true)) } else { wait(args, split) };
        }
    }
    let leaving = leaving.map_err(|reason| ClientError::Refused { admin, reason })?;
    let plan = post(json!({ "name": name, "nodes": leaving, "size": args.size, "dry_run": args.dry_run }))?;
    if args.dry_run {
        return Ok(if args.node.json { plan.to_string() } else { told(&plan, &status) });
    }
    wait(args, &plan)
}

/// Ids of the nodes that are to leave: as named, or all of the site of that name.
fn leaving(status: &Value, part: &str, named: &[String]) -> Result<Vec<String>, String> {
    if !named.is_empty() {
        return named.iter().map(|name| find(&known(status), name)).collect();
    }
    let on_site = list(&status["nodes"]).iter().filter(|node| node["site"] == part && !part.is_empty());
    let there: Vec<_> = on_site.filter_map(|node| Some(node["id"].as_str()?.to_owned())).collect();
    let hint = || format!("no node stands on a site `{part}`: name those that are to leave with --nodes");
    if there.is_empty() { Err(hint()) } else { Ok(there) }
}

/// Whether a split that is under way is what is asked for.
fn is_this(splitting: &Value, name: &str, leaving: &Result<Vec<String>, String>) -> bool {
    let ids = || list(&splitting["leaving"]).iter().filter_map(Value::as_str).collect::<BTreeSet<_>>();
    splitting["name"] == name
        && leaving.as_ref().is_ok_and(|leaving| leaving.iter().map(String::as_str).collect::<BTreeSet<_>>() == ids())
}

/// The number of members of a part is ordered with the split, and not when the command is repeated.
fn check_size(split: &Value, size: Option<u32>) -> Result<(), String> {
    let Some(size) = size.filter(|size| split["size"] != *size) else { return Ok(()) };
    Err(format!(
        "this split was ordered without `--size {size}`, which can't be added to it; run `rhizomq size {size}` on a node of the \
         part that leaves when it is done"
    ))
}

/// Whether a split that is done is what is asked for. Those who stayed know the others by the order alone; orders of former
/// versions have no names.
fn is_done(status: &Value, parted: &Value, name: &str, named: &[String]) -> bool {
    let (has_left, left) = (list(&parted["leaving"]).contains(&status["node"]), list(&parted["leaving"]));
    let name_at_the_time = |id: &Value| parted["names"][id.as_str().unwrap_or_default()].as_str();
    let at_the_time: Vec<_> = left.iter().filter_map(|id| Some((id.as_str()?, name_at_the_time(id)?))).collect();
    let is_meant = |called: &String| match find(&known(status), called).or_else(|_| find(&at_the_time, called)) {
        Ok(id) => left.contains(&json!(id)),
        Err(_) => !has_left && at_the_time.is_empty(),
    };
    let is_site = || match leaving(status, name, &[]) {
        Ok(ids) => ids.iter().all(|id| left.contains(&json!(id))),
        Err(_) => !has_left,
    };
    parted["name"] == name && if named.is_empty() { is_site() } else { named.iter().all(is_meant) }
}

fn told(plan: &Value, status: &Value) -> String {
    let (away, stay) = (list(&plan["away"]), list(&plan["staying"]));
    let mut text = format!(
        "nothing is done yet\nleave: {}\nstay:  {}",
        names_of(status, list(&plan["leaving"])),
        names_of(status, stay)
    );
    if !away.is_empty() {
        text.push_str(&format!(
            "\naway:  {}: of those that stay these are out of reach of the asked node; the split does not wait for them, but \
             for copies that would lie on too few disks without them",
            named_with_ids(status, away)
        ));
    }
    text.push_str("\nA message goes with the node that took it (counted as nodes told a moment ago; what was sent since is not in it):");
    let backlogs = list(&plan["backlogs"]);
    for backlog in backlogs.iter().take(MAX_LISTED) {
        let name = harmless(backlog["name"].as_str().unwrap_or_default());
        text.push_str(&format!("\n  {name}: {} leave, {} stay", backlog["leave"], backlog["stay"]));
        if is_some(&backlog["short_of_copies"]) {
            text.push_str(&format!("; {} short of copies within their part", backlog["short_of_copies"]));
        }
    }
    let is_all_known = !is_some(&plan["out_of_reach_segments"]) && !is_some(&plan["unproven_segments"]);
    match backlogs.len() {
        0 if is_all_known => text.push_str("\n  nothing waits"),
        0 => text.push_str("\n  nothing waits at nodes within reach, as far as these have told"),
        many if many > MAX_LISTED => text.push_str(&format!("\n  and {} more: --json has all", many - MAX_LISTED)),
        _ => {}
    }
    if backlogs.iter().any(|backlog| is_some(&backlog["short_of_copies"])) {
        text.push_str(
            "\nShort of copies, of what the asked node looks after: these are made first, and the split waits for them. Other \
             nodes know of theirs.",
        );
    }
    let merging = list(&status["merging"]).iter().map(|target| &target["node"]);
    if merging.clone().next().is_some() {
        text.push_str(&format!(
            "\nA merge is under way with {}: if it has not come about when the two part, it goes on with those who stay.",
            names_of(status, merging)
        ));
    }
    if is_some(&plan["out_of_reach_segments"]) {
        text.push_str(&format!(
            "\nOUT OF REACH: {} segments lie on nodes that are away: what waits in them is not counted, and goes with the nodes \
             that took it.",
            plan["out_of_reach_segments"]
        ));
    }
    if is_some(&plan["unproven_segments"]) {
        text.push_str(&format!(
            "\nNOT KNOWN: {} segments of nodes that are away are listed at nodes within reach, and the asked node does not know \
             whether these have them. What they have is counted; what waits at the nodes that are away alone is not.",
            plan["unproven_segments"]
        ));
    }
    text
}

fn is_some(count: &Value) -> bool {
    count.as_u64() > Some(0)
}

/// Waits for the split of a plan, or one that is under way: both tell who leaves and who stays.
fn wait(args: &SplitArgs, plan: &Value) -> Result<String, ClientError> {
    let admin = args.node.admin;
    let begun = Instant::now();
    let mut said = String::new();
    loop {
        let status = ask(admin, "GET", "/status", None, Some(TIMEOUT))?;
        let splitting = &status["splitting"];
        if splitting.is_null() {
            if is_parted(plan, &status) {
                return Ok(ended(args, plan, false));
            }
            let reason = "the split was taken back meanwhile; the cluster stays one".to_owned();
            return Err(ClientError::Refused { admin, reason });
        }
        let line = if args.node.json { splitting.to_string() } else { progress(&status) };
        if line != said {
            say(&line).map_err(ClientError::Output)?;
            said = line;
        }
        if let Some(seconds) = args.timeout.filter(|seconds| begun.elapsed() >= Duration::from_secs(*seconds)) {
            let way_back = way_back(&status).filter(|_| remedy(&status).is_none());
            let ways: Vec<_> = std::iter::once(progress(&status)).chain(way_back).collect();
            return Err(ClientError::NotSplit { seconds, progress: ways.join("; or ") });
        }
        std::thread::sleep(PAUSE);
    }
}

fn ended(args: &SplitArgs, split: &Value, already: bool) -> String {
    let name = args.off.as_deref().unwrap_or_default();
    if args.node.json {
        let (leaving, staying) = (&split["leaving"], &split["staying"]);
        return json!({ "parted": true, "already": already, "name": name, "leaving": leaving, "staying": staying })
            .to_string();
    }
    let done = if already { "done already" } else { "done" };
    format!(
        "{done}: `{name}` is a cluster of its own, with a secret of its own; `rhizomq ticket` on one of its nodes prints its \
         ticket. To make the two one again: rhizomq merge THAT-TICKET, on a node that stayed"
    )
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
    let of_parts = || list(&splitting["leaving"]).iter().chain(list(&splitting["staying"]));
    let out_of_reach = of_parts().filter(|id| node(status, id).is_some() && !is_alive(status, id));
    // Who was away when it was ordered is not waited for.
    let (away, dead): (Vec<_>, Vec<_>) = out_of_reach.partition(|id| list(&splitting["away"]).contains(id));
    let cut_off: Vec<_> = of_parts().filter(|id| node(status, id).is_some_and(is_cut_off)).collect();
    let mut ways = Vec::new();
    if !dead.is_empty() {
        let names = named_with_ids(status, dead);
        ways.push(format!(
            "out of reach: {names}. The split waits for what may lie there alone, and for copies that are to lie there. Start \
             it again; or, if it never comes back, `rhizomq node forget NODE`"
        ));
    }
    if !away.is_empty() {
        let names = named_with_ids(status, away);
        ways.push(format!(
            "away since before the order: {names}. The split does not wait for them, but for copies that would lie on too few \
             disks without them"
        ));
    }
    if !cut_off.is_empty() {
        let names = named_with_ids(status, cut_off);
        ways.push(format!("no link from the asked node to {names}: see that UDP gets through between them"));
    }
    let is_stuck = !ways.is_empty();
    ways.extend(way_back(status).filter(|_| is_stuck));
    is_stuck.then(|| ways.join("; or "))
}

/// Where a split can still be taken back: at a node that is not ready, and runs.
fn way_back(status: &Value) -> Option<String> {
    let revocable_at = list(&status["splitting"]["revocable_at"]).iter().filter(|id| is_alive(status, id));
    let names = named_with_ids(status, revocable_at);
    (!names.is_empty())
        .then(|| format!("take the split back: `rhizomq split --cancel` on a node that is not ready: {names}"))
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
                "splitting": { "leaving": ["aa"], "staying": ["bb", "cc"], "waits_for": [waits_for],
                    "revocable_at": [waits_for] } })
        };
        assert_eq!(progress(&status(true, "aa")), "copies are made within each part; not ready: anna");
        // Somebody that runs may wait for a copy at somebody that does not; who was forgotten is waited for by nobody.
        for waits_for in ["aa", "bb"] {
            let text = progress(&status(false, waits_for));
            assert!(text.contains("out of reach: anna (aa). ") && text.contains("node forget"), "{text}");
            // Only a node that runs and is not ready can take it back.
            let way_back = "; or take the split back: `rhizomq split --cancel` on a node that is not ready: bb";
            assert_eq!(text.ends_with(way_back), waits_for == "bb", "{text}");
            assert_eq!(text.contains("--cancel"), waits_for == "bb", "{text}");
        }
        let away = json!({ "nodes": [{ "id": "bb", "alive": false, "name": "berta" }],
            "splitting": { "leaving": [], "staying": ["bb"], "away": ["bb"], "waits_for": [] } });
        assert!(remedy(&away).is_some_and(|text| text.starts_with("away since") && !text.contains("forget")));
        let cut_off = json!({ "nodes": [{ "id": "aa", "alive": true, "linked": false, "name": "anna" }],
            "splitting": { "leaving": ["aa"], "staying": [], "waits_for": ["aa"] } });
        assert!(remedy(&cut_off).is_some_and(|text| text.contains("no link from the asked node to anna (aa)")));
        assert_eq!(remedy(&json!({ "nodes": [] })), None);
    }

    #[test]
    fn a_plan_names_backlogs_and_what_it_has_not_seen() {
        let plan = json!({ "leaving": ["aa"], "staying": ["bb", "dd"], "out_of_reach_segments": 2,
            "backlogs": [{ "name": "/queue/q", "leave": 3, "stay": 4 }] });
        let text = told(&plan, &status());
        assert!(text.contains("leave: a\nstay:  b, dd\n"), "{text}");
        assert!(text.contains("/queue/q: 3 leave, 4 stay\n") && text.contains("2 segments lie on nodes"), "{text}");
        assert!(!text.contains("away:  ") && !text.contains("NOT KNOWN"), "{text}");
        assert!(told(&json!({}), &status()).ends_with("\n  nothing waits"));
    }

    #[test]
    fn a_plan_says_who_is_away_what_lacks_copies_and_of_what_nothing_is_known() {
        let plan = json!({ "leaving": ["aa"], "staying": ["bb", "cc"], "away": ["cc"], "out_of_reach_segments": 0,
            "unproven_segments": 3,
            "backlogs": [{ "name": "/queue/q", "leave": 3, "stay": 4, "short_of_copies": 2 }] });
        let text = told(&plan, &status());
        assert!(text.contains("\naway:  b (cc): "), "{text}");
        assert!(text.contains("/queue/q: 3 leave, 4 stay; 2 short of copies within their part"), "{text}");
        assert!(text.contains("NOT KNOWN: 3 segments"), "{text}");
        for unknown in ["out_of_reach_segments", "unproven_segments"] {
            let text = told(&json!({ unknown: 1 }), &status());
            assert!(
                !text.ends_with("\n  nothing waits") && text.contains("nothing waits at nodes within reach"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_command_that_is_repeated_finds_what_is_under_way_and_what_is_done() {
        let splitting = json!({ "name": "west", "leaving": ["aa", "cc"] });
        let is_this =
            |name, ids: &[&str]| is_this(&splitting, name, &Ok(ids.iter().map(ToString::to_string).collect()));
        assert!(is_this("west", &["cc", "aa"]));
        assert!(!is_this("east", &["cc", "aa"]) && !is_this("west", &["aa"]) && !is_this("west", &["aa", "bb", "cc"]));
        assert!(!super::is_this(&splitting, "west", &Err(String::new())));

        let parted = json!({ "name": "west", "leaving": ["aa", "zz"], "staying": ["bb", "cc"] });
        let is_done = |node: &str, name, named: &[&str]| {
            let status = json!({ "node": node, "nodes": status()["nodes"] });
            is_done(&status, &parted, name, &named.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        // Who left knows its part by name; who stayed does not know that part any more.
        assert!(is_done("aa", "west", &["a"]) && !is_done("aa", "west", &["a", "z"]));
        assert!(is_done("bb", "west", &["a", "z"]) && is_done("bb", "west", &["z"]));
        assert!(!is_done("bb", "west", &["cc"]) && !is_done("bb", "east", &["a"]), "another split");
        assert!(!is_done("aa", "west", &[]), "a node of that site was not of the split");

        let parted =
            json!({ "name": "west", "leaving": ["aa", "zz"], "staying": ["bb"], "names": { "aa": "a", "zz": "z" } });
        let at_b = json!({ "node": "bb", "nodes": [{ "id": "bb", "name": "b" }] });
        let is_done = |named: &[&str]| {
            super::is_done(&at_b, &parted, "west", &named.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert!(is_done(&["a", "z"]) && is_done(&["zz"]) && !is_done(&["a", "y"]) && !is_done(&["b"]));

        assert_eq!(check_size(&json!({ "size": 2 }), Some(2)), Ok(()));
        assert_eq!(check_size(&json!({ "size": 2 }), None), Ok(()));
        assert!(check_size(&json!({ "size": null }), Some(2)).is_err_and(|why| why.contains("rhizomq size 2")));
    }
}
