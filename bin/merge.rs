//! `rhizomq merge`: asks a node to merge with another cluster, and waits to say what came of it.

use std::time::{Duration, Instant};

use rhizomq_net::Size;
use serde_json::{Value, json};

use crate::{
    cli::MergeArgs,
    client::{ClientError, TIMEOUT, ask},
};

/// How often the node is asked how it goes.
const PACE: Duration = Duration::from_millis(200);

/// Two that are linked know of each other's clusters so long after; under load they may never be of one mind about all that
/// comes in.
const MET: Duration = Duration::from_secs(2);

/// See the module docs.
pub(crate) fn run(args: &MergeArgs) -> Result<String, ClientError> {
    let admin = args.node.admin;
    let body = json!({ "ticket": args.ticket, "size": args.size });
    let begun = ask(admin, "POST", "/merge", Some(body), Some(TIMEOUT))?;
    let id = begun["node"].as_str().unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    let mut linked_since = None;
    loop {
        let status = ask(admin, "GET", "/status", None, Some(TIMEOUT))?;
        let is_late = Instant::now() >= deadline;
        let mut progress = progress(&status, id);
        if matches!(progress, Progress::Linked) {
            let since = *linked_since.get_or_insert_with(Instant::now);
            if is_late || since.elapsed() >= MET {
                progress = Progress::Merged;
            }
        } else {
            linked_since = None;
        }
        let told = match progress {
            Progress::Merged if is_late || has_size(&status, args) => {
                Some(Ok(told(&status, id, begun["already"] == true, args)))
            }
            // What can still come about soon is waited for.
            Progress::Away if is_late && begun["already"] == true => Some(Err(format!(
                "there is nothing to merge: node {id} is of this cluster, and out of its reach. When it runs and is reached \
                 the two are one again by themselves; `rhizomq status` shows it."
            ))),
            Progress::Away if is_late => Some(Ok(told(&status, id, false, args))),
            Progress::Refused(why) => Some(Err(format!(
                "not merged: {why}\nThe node goes on trying; `rhizomq status` shows it, and `rhizomq node forget {id}` gives \
                 it up."
            ))),
            Progress::Unheard if is_late => Some(Err(format!(
                "not merged yet: node {id} does not answer at {} within {} s. Is it running, and can UDP get there from \
                 here? The node goes on trying, also after a restart; `rhizomq status` shows it, and `rhizomq node forget \
                 {id}` gives it up.",
                addresses(&begun),
                args.wait,
            ))),
            _ => None,
        };
        match told {
            Some(result) => return result.map_err(ClientError::NotMerged),
            None => std::thread::sleep(PACE),
        }
    }
}

/// How far it is.
enum Progress {
    /// The node of the ticket is in the roster, linked, and of one mind with the asked one.
    Merged,
    /// It is in the roster and linked, and what comes in meanwhile is still on its way between the two.
    Linked,
    /// It is in the roster, which is all that a merge comes to, but it can't be reached at present.
    Away,
    /// Not in the roster, and one of the two has refused the other.
    Refused(String),
    /// Not in the roster.
    Unheard,
}

fn progress(status: &Value, id: &str) -> Progress {
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    if let Some(node) = nodes.iter().find(|node| node["id"] == id) {
        return match (&node["in_sync"], &node["linked"]) {
            (Value::Bool(true), _) => Progress::Merged,
            (Value::Bool(false), Value::Bool(true)) => Progress::Linked,
            _ => Progress::Away,
        };
    }
    let merging = status["merging"].as_array().map_or(&[][..], Vec::as_slice);
    let refused = merging.iter().find(|target| target["node"] == id).and_then(|target| target["refused"].as_str());
    refused.map_or(Progress::Unheard, |why| Progress::Refused(why.to_owned()))
}

/// Whether the cluster has the policy that was asked for.
fn has_size(status: &Value, args: &MergeArgs) -> bool {
    let policy = status["members"]["policy"].as_str().and_then(|policy| policy.parse::<Size>().ok());
    args.size.as_ref().is_none_or(|size| size.parse().ok() == policy)
}

fn told(status: &Value, id: &str, already: bool, args: &MergeArgs) -> String {
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let alive = nodes.iter().filter(|node| node["alive"] == true).count();
    let members = nodes.iter().filter(|node| node["role"] == "member" && node["alive"] == true).count();
    let queues = status["queues"].as_array().map_or(&[][..], Vec::as_slice);
    let waiting: u64 = queues.iter().filter_map(|queue| queue["depth"].as_u64()).sum();
    let linked = nodes.iter().any(|node| node["id"] == id && node["in_sync"].is_boolean());
    let policy = status["members"]["policy"].as_str().unwrap_or("-");
    if args.node.json {
        return json!({
            "node": id,
            "already": already,
            "linked": linked,
            "nodes": nodes.len(),
            "alive": alive,
            "members": members,
            "policy": policy,
            "queues": queues.len(),
            "waiting": waiting,
        })
        .to_string();
    }
    let head = if already { "the two are one cluster already" } else { "the two are one cluster" };
    let mut text = format!(
        "{head}: {} nodes, {alive} of them alive as this one sees it\nmembers: {members} now, policy {policy}; seats settle \
         within some twenty seconds\nwaiting: {waiting} messages in {} queues; none of them has moved",
        nodes.len(),
        queues.len(),
    );
    if !linked {
        text.push_str(&format!(
            "\nThe ticket's node {id} is known and not linked with this one at present; nothing is missing but itself."
        ));
    }
    text
}

fn addresses(begun: &Value) -> String {
    let addresses = begun["addresses"].as_array().map_or(&[][..], Vec::as_slice);
    addresses.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::AdminArgs;

    #[test]
    fn who_is_linked_and_at_work_is_not_away() {
        let of =
            |in_sync: Value, linked: bool| json!({ "nodes": [{ "id": "a", "in_sync": in_sync, "linked": linked }] });
        assert!(matches!(progress(&of(json!(true), true), "a"), Progress::Merged));
        assert!(matches!(progress(&of(json!(false), true), "a"), Progress::Linked));
        assert!(matches!(progress(&of(Value::Null, false), "a"), Progress::Away));
        assert!(matches!(progress(&of(json!(true), true), "b"), Progress::Unheard));
    }

    #[test]
    fn who_was_a_member_and_is_away_is_none() {
        let node = AdminArgs { admin: ([127, 0, 0, 1], 1).into(), json: true };
        let args = MergeArgs { ticket: String::new(), size: None, wait: 0, node };
        let of = |id: &str, alive: bool, role: &str| json!({ "id": id, "alive": alive, "role": role, "in_sync": null });
        let nodes = [of("a", true, "member"), of("b", false, "member"), of("c", true, "observer")];
        let told: Value = serde_json::from_str(&told(&json!({ "nodes": nodes }), "b", false, &args)).unwrap();
        assert_eq!((&told["members"], &told["alive"]), (&json!(1), &json!(2)));
    }
}
