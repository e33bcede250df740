//! What is measured: every combination of what the options name.

use std::fmt;

use serde::Serialize;

use super::args::{Ack, StompArgs, Workload};

/// One thing to measure, at each broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "workload", rename_all = "kebab-case")]
pub(super) enum Cell {
    /// SENDs with a receipt each, so many of each connection under way.
    Send { window: u32, connections: u32, size: u32 },
    /// A backlog that was sent to the first node is consumed.
    Consume { ack: Ack, prefetch: u32, consumers: u32, size: u32, elsewhere: bool },
    /// Messages a second, from one client to another.
    Latency { rate: u32, size: u32, elsewhere: bool },
    /// One producer and many subscribers of a topic.
    Fanout { subscribers: u32, size: u32 },
}

impl Cell {
    /// All of them. Consumers elsewhere are only measured where there are several nodes.
    pub(super) fn all(args: &StompArgs, has_several_nodes: bool) -> Vec<Self> {
        let places = if has_several_nodes { &[false, true][..] } else { &[false] };
        let mut cells = Vec::new();
        let mut workloads = args.workload.clone();
        workloads.sort_unstable();
        workloads.dedup();
        for workload in workloads {
            for &size in &args.size {
                match workload {
                    Workload::Send => {
                        for &connections in &args.connections {
                            let cell = |&window| Self::Send { window, connections, size };
                            cells.extend(args.window.iter().map(cell));
                        }
                    }
                    Workload::Consume => {
                        for (&elsewhere, &ack) in pairs(places, &args.ack) {
                            let cell =
                                |(&prefetch, &consumers)| Self::Consume { ack, prefetch, consumers, size, elsewhere };
                            cells.extend(pairs(&args.prefetch, &args.consumers).map(cell));
                        }
                    }
                    Workload::Latency => {
                        let cell = |(&elsewhere, &rate)| Self::Latency { rate, size, elsewhere };
                        cells.extend(pairs(places, &args.rate).map(cell));
                    }
                    Workload::Fanout => {
                        let cell = |&subscribers| Self::Fanout { subscribers, size };
                        cells.extend(args.subscribers.iter().map(cell));
                    }
                }
            }
        }
        cells
    }

    /// Which workload it belongs to.
    pub(super) fn workload(&self) -> Workload {
        match self {
            Self::Send { .. } => Workload::Send,
            Self::Consume { .. } => Workload::Consume,
            Self::Latency { .. } => Workload::Latency,
            Self::Fanout { .. } => Workload::Fanout,
        }
    }

    /// Bytes of a body.
    pub(super) fn size(&self) -> u32 {
        match self {
            Self::Send { size, .. }
            | Self::Consume { size, .. }
            | Self::Latency { size, .. }
            | Self::Fanout { size, .. } => *size,
        }
    }

    /// Whether it takes a second node.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Consume { elsewhere: true, .. } | Self::Latency { elsewhere: true, .. })
    }
}

fn pairs<'a, A, B>(outer: &'a [A], inner: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    outer.iter().flat_map(move |a| inner.iter().map(move |b| (a, b)))
}

/// As tables have it; the sizes of bodies have a column of their own.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.is_elsewhere() { ", at another node" } else { "" };
        let s = |count: u32| if count == 1 { "" } else { "s" };
        match self {
            Self::Send { window, connections, .. } => {
                write!(f, "send: window {window}, {connections} connection{}", s(*connections))
            }
            Self::Consume { ack, prefetch, consumers, .. } => {
                let ack = ack.as_str();
                write!(f, "consume: {ack}, prefetch {prefetch}, {consumers} consumer{}{place}", s(*consumers))
            }
            Self::Latency { rate, .. } => write!(f, "latency: {rate} messages/s{place}"),
            Self::Fanout { subscribers, .. } => write!(f, "fanout: {subscribers} subscriber{}", s(*subscribers)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: StompArgs,
    }

    fn cells(line: &str, several: bool) -> Vec<Cell> {
        Cell::all(&Line::parse_from(line.split_whitespace()).args, several)
    }

    #[test]
    fn every_combination_is_there_once() {
        assert_eq!(cells("bench", true).len(), 6 + 6 + 2 + 3);
        assert_eq!(cells("bench", false).len(), 6 + 3 + 1 + 3);
        assert_eq!(cells("bench --workload send,send --size 256,4096 --window 1 --connections 1,8,64", true).len(), 6);
        let some = cells("bench --workload consume --ack auto --prefetch 1,2 --consumers 1,3 --size 64", false);
        assert_eq!(some[3].to_string(), "consume: auto, prefetch 2, 3 consumers");
    }
}
