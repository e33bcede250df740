//! One page with everything on it: no scripts, no fonts, nothing that is to be fetched.

use std::{fs, path::Path};

use anyhow::Context;

use super::{args::StompArgs, plots, rounds::Outcome, table};

const STYLE: &str = "\
body { font: 15px/1.5 sans-serif; margin: 2rem auto; max-width: 1340px; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: 2px 10px; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child, th:nth-child(3), td:nth-child(3) { text-align: left }
.plots { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-start }
.wrong { color: #b00020 }
dt { font-weight: bold } dd { margin: 0 0 .4rem 1.5rem }";

const MEANING: &str = "\
<dl><dt>per s</dt><dd>messages sent (send) or deliveries (all others): the median of the rounds, the least and the most</dd>
<dt>limit, of it</dt><dd>the lower of what this machine does of the same in the same rounds: bodies appended to a file, with an
fdatasync for as many as may be under way (send), and the same bytes over TCP on loopback with a short answer for each; and the part
of it that is reached</dd>
<dt>p50, p99, p99.9, max</dt><dd>milliseconds from a SEND to its receipt (send), or from when a message was <em>due</em> to its
delivery (latency): a broker that makes its producers wait can't hide that</dd>
<dt>floor, x</dt><dd>milliseconds of one fdatasync, and one QUIC round trip where there are several nodes; p50 against that</dd>
<dt>ours/its</dt><dd>our rate against that of this broker; for latency our p99 against its</dd></dl>";

/// Writes the page.
///
/// # Errors
/// The directory or the page can't be written.
pub(super) fn write(dir: &Path, args: &StompArgs, outcome: &Outcome) -> anyhow::Result<()> {
    let path = dir.join("index.html");
    let page = page(args, outcome)?;
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(&path, page))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn page(args: &StompArgs, outcome: &Outcome) -> anyhow::Result<String> {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>rhizomq bench stomp</title>\n\
         <style>{STYLE}</style></head><body>\n<h1>rhizomq bench stomp</h1>\n<p>{}</p>\n",
        escaped(&table::summary(args))
    );
    match outcome.problems.as_slice() {
        [] => out.push_str("<p>Every receipt came, and every message came once.</p>\n"),
        problems => {
            let items = problems.iter().map(|problem| format!("<li>{}</li>", escaped(problem)));
            out.push_str(&format!("<ul class=\"wrong\">{}</ul>\n", items.collect::<String>()));
        }
    }
    out.push_str(&format!("<div class=\"plots\">\n{}</div>\n", plots::all(&outcome.figures)?.join("\n")));
    out.push_str("<table>\n");
    for (place, row) in table::rows(&outcome.figures).iter().enumerate() {
        let tag = if place == 0 { "th" } else { "td" };
        let cells = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)));
        out.push_str(&format!("<tr>{}</tr>\n", cells.collect::<String>()));
    }
    out.push_str(&format!("</table>\n{MEANING}\n</body></html>\n"));
    Ok(out)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
