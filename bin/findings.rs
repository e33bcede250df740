//! What a check of a store has found, for people and as JSON.

use std::fmt::Write;

use rhizomq_engine::store::{Checked, Finding};
use rhizomq_net::rim::KeyProblem;
use serde_json::{Value, json};

/// The object that `verify --json` shows.
pub(crate) fn report(checked: &Checked, findings: &[Finding], more: u64, notes: &[String]) -> Value {
    json!({
        "ok": findings.is_empty(),
        "checked": {
            "log_bytes": checked.log_bytes, "frames": checked.frames, "rows": checked.rows,
            "blocks": checked.blocks, "segments": checked.segments,
        },
        "broken": findings.iter().map(finding).collect::<Vec<_>>(),
        "more": more,
        "notes": notes,
    })
}

/// Adds what is wrong with the secret files of the data directory, in which they lie beside the store.
pub(crate) fn add_keys(report: &mut Value, problems: &[KeyProblem]) {
    for KeyProblem { file, what } in problems {
        report["ok"] = json!(false);
        if let Some(broken) = report["broken"].as_array_mut() {
            broken.push(json!({
                "part": "key", "file": file, "offset": 0, "len": 0, "segment": null, "slots": [], "what": what,
                "text": format!("key: {file}: {what}"),
            }));
        }
    }
}

fn finding(finding: &Finding) -> Value {
    let damage = &finding.damage;
    json!({
        "part": finding.part.name(),
        "file": damage.file,
        "offset": damage.offset,
        "len": damage.len,
        "segment": finding.segment.map(|segment| segment.to_string()),
        "slots": finding.slots.iter_ranges().map(|(first, last)| json!([first, last])).collect::<Vec<_>>(),
        "what": damage.what,
        "text": finding.to_string(),
    })
}

/// The object for people. It may come from another version of the program.
pub(crate) fn render(report: &Value) -> String {
    let mut out = String::new();
    let broken = report["broken"].as_array().map_or(&[][..], Vec::as_slice);
    for finding in broken {
        let text: String = finding["text"].as_str().unwrap_or("-").chars().filter(|c| !c.is_control()).collect();
        let _ = writeln!(out, "BROKEN {text}");
    }
    if let Some(more) = report["more"].as_u64().filter(|more| *more > 0) {
        let _ = writeln!(out, "and {more} more");
    }
    for note in report["notes"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "note: {}", note.as_str().unwrap_or("-"));
    }
    let checked = &report["checked"];
    let number = |name: &str| checked[name].as_u64().unwrap_or(0);
    let verdict = if report["ok"] == true { "all is well" } else { "damage found" };
    let _ = writeln!(
        out,
        "{verdict}: {} bytes of log, {} frames, {} rows, {} blocks, {} segments",
        number("log_bytes"),
        number("frames"),
        number("rows"),
        number("blocks"),
        number("segments"),
    );
    out
}

#[cfg(test)]
mod tests {
    use rhizomq_engine::{
        Epoch, NodeId, RangeSet, SegmentId,
        store::{Damage, Part},
    };

    use super::*;

    #[test]
    fn what_is_broken_is_named_with_place_and_slots() {
        let damage = Damage { file: "log/1.log".to_owned(), offset: 7, len: 9, what: "hash".to_owned() };
        let segment = SegmentId { node: NodeId([1; 16]), epoch: Epoch(2), number: 3 };
        let slots = RangeSet::from_range(4, 6);
        let found = [Finding { part: Part::Block, damage, segment: Some(segment), slots, row: None }];
        let object = report(&Checked::default(), &found, 2, &["a remark".to_owned()]);
        assert_eq!((&object["ok"], &object["broken"][0]["slots"]), (&json!(false), &json!([[4, 6]])));
        let text = render(&object);
        for word in ["BROKEN block: hash", "log/1.log at 7", "slots {4-6}", "and 2 more", "a remark", "damage found"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(render(&report(&Checked::default(), &[], 0, &[])).starts_with("all is well"));
    }
}
