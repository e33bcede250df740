//! The figures as a table for people.

use super::{
    OWN,
    args::{StompArgs, Workload},
    figures::Figure,
    rounds::Outcome,
};

/// What the columns mean.
const LEGEND: &str = "\
per s: messages sent (send) or deliveries (all others), median, and least to most over the rounds.
limit: the lower of what this machine does of the same in the same rounds: bodies appended to a file, with an fdatasync for as
       many as may be under way (send), and the same bytes over TCP on loopback with a short answer for each; `of it`: what is reached.
ms:    from a SEND to its receipt (send), or from when a message was due to its delivery (latency).
floor: one fdatasync, and one QUIC round trip where there are several nodes; `x`: p50 against that.
";

/// What the last column means, where other brokers are measured beside our own.
const AGAINST: &str = "ours/its: our rate against that of this broker; for latency our p99 against its.\n";

/// The lines of a table: a head, then one for each figure.
pub(super) fn rows(figures: &[Figure]) -> Vec<Vec<String>> {
    let has_others = has_others(figures);
    let mut head: Vec<_> = ["measured", "bytes", "broker", "per s", "least", "most", "limit", "of it"].to_vec();
    head.extend(["p50 ms", "p99", "p99.9", "max", "floor", "x"]);
    head.extend(has_others.then_some("ours/its"));
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    let mut before = None;
    for figure in figures {
        let Figure { cell, broker, per_s, limits, reached, times_ms, p50_ratio, .. } = figure;
        let is_same = before == Some(cell);
        before = Some(cell);
        let limit = limits.disk_per_s.into_iter().chain(limits.tcp_per_s).reduce(f64::min);
        let name = if is_same { String::new() } else { cell.to_string() };
        let size = if is_same { String::new() } else { cell.size().to_string() };
        let mut row = vec![name, size, broker.clone()];
        row.extend([per_s.median, per_s.min, per_s.max].map(|rate| format!("{rate:.0}")));
        row.extend([number(limit, 0), number(*reached, 2)]);
        let times = times_ms.map(|times| [times.p50, times.p99, times.p999, times.max]);
        row.extend([0, 1, 2, 3].map(|place| number(times.map(|times| times[place].median), 2)));
        row.extend([number(limits.floor_ms, 2), number(*p50_ratio, 1)]);
        if has_others {
            let ours = figures.iter().find(|other| other.cell == *cell && other.broker == OWN && broker != OWN);
            row.push(number(ours.map(|ours| against(ours, figure)), 2));
        }
        rows.push(row);
    }
    rows
}

/// Our figure against another broker's: of rates or, where the rate is given, of the slowest of a hundred.
fn against(ours: &Figure, its: &Figure) -> f64 {
    let of = |figure: &Figure| match (figure.cell.workload(), figure.times_ms) {
        (Workload::Latency, Some(times)) => times.p99.median,
        _ => figure.per_s.median,
    };
    of(ours) / of(its).max(1e-9)
}

fn has_others(figures: &[Figure]) -> bool {
    let ours = figures.iter().filter(|figure| figure.broker == OWN).count();
    ours > 0 && ours < figures.len()
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or(String::new(), |value| format!("{value:.digits$}"))
}

/// What was measured, how, and what came of it.
pub(super) fn text(args: &StompArgs, outcome: &Outcome) -> String {
    let rows = rows(&outcome.figures);
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut out = format!("{}\n{LEGEND}", summary(args));
    out.push_str(if has_others(&outcome.figures) { AGAINST } else { "" });
    out.push('\n');
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Words on the left, numbers on the right.
            match column {
                0 => out.push_str(&format!("{cell:<width$}")),
                2 => out.push_str(&format!("  {cell:<width$}")),
                _ => out.push_str(&format!("  {cell:>width$}")),
            }
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    for problem in &outcome.problems {
        out.push_str(&format!("\nWRONG: {problem}"));
    }
    if outcome.problems.is_empty() {
        out.push_str("\nEvery receipt came, and every message came once.");
    }
    out
}

/// One line on how it was measured.
pub(super) fn summary(args: &StompArgs) -> String {
    let StompArgs { rounds, round_ms, backlog, .. } = args;
    let mut brokers = Vec::new();
    if args.own_nodes() > 0 {
        let s = if args.own_nodes() == 1 { "" } else { "s" };
        let set = [("copies", args.copies), ("confirm", args.confirm)];
        let set: String = set.iter().filter_map(|(name, n)| n.map(|n| format!(", {name} {n}"))).collect();
        brokers.push(format!("{OWN} ({} node{s} on this machine{set})", args.own_nodes()));
    }
    brokers.extend(args.broker.iter().map(|broker| format!("{} ({})", broker.name, broker.addresses.join(", "))));
    format!(
        "{}; median of {rounds} rounds of {round_ms} ms after a warm-up, {backlog} messages in a backlog.",
        brokers.join("; ")
    )
}
