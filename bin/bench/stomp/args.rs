//! The options of `bench stomp`.

use std::path::PathBuf;

use anyhow::ensure;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::stamp;
use crate::passcode::PasscodeArgs;

/// What a round may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Workload {
    /// SEND to a queue, each with a receipt
    Send,
    /// A backlog is consumed
    Consume,
    /// From end to end, at a fixed offered rate
    Latency,
    /// A topic with many subscribers
    Fanout,
}

/// How consumers acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Ack {
    /// Not at all: what is sent is consumed
    Auto,
    /// All up to this one, each time that half of what may be outstanding has come
    Client,
    /// One by one
    ClientIndividual,
}

impl Ack {
    /// As the `ack` header of SUBSCRIBE has it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Client => "client",
            Self::ClientIndividual => "client-individual",
        }
    }
}

/// A STOMP header as an option has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header(pub(super) String, pub(super) String);

fn header(text: &str) -> Result<Header, String> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => Ok(Header(name.to_owned(), value.to_owned())),
        _ => Err("it must be NAME:VALUE, such as persistent:true".to_owned()),
    }
}

/// A broker that runs already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BrokerSpec {
    /// What it is called in the results.
    pub(super) name: String,
    /// Where its nodes take STOMP, the first one first.
    pub(super) addresses: Vec<String>,
}

fn broker(text: &str) -> Result<BrokerSpec, String> {
    let (name, list) = text.split_once('=').unwrap_or((text, text));
    let addresses: Vec<_> = list.split(',').map(str::to_owned).collect();
    let is_good = |address: &String| {
        let (host, port) = address.rsplit_once(':').unwrap_or_default();
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    match name.is_empty() || !addresses.iter().all(is_good) {
        true => Err("it must be HOST:PORT, or NAME=HOST:PORT, with more addresses after commas".to_owned()),
        false => Ok(BrokerSpec { name: name.to_owned(), addresses }),
    }
}

/// How to measure a broker through its clients' eyes.
#[derive(Debug, Args)]
pub(crate) struct StompArgs {
    /// Nodes that are started for it, on loopback, and removed afterwards [default: 3; none where --broker is given]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9))]
    pub(super) nodes: Option<u32>,
    /// Their `--copies`: how many nodes keep each message
    #[arg(long, value_name = "N")]
    pub(super) copies: Option<u32>,
    /// Their `--confirm`: on how many disks it is before its RECEIPT
    #[arg(long, value_name = "N")]
    pub(super) confirm: Option<u32>,
    /// Another option of theirs, such as --node-arg=--memory=256M; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(super) node_arg: Vec<String>,
    /// A broker that runs already, of any make; with --nodes beside nodes of our own. May be repeated: the rounds of all
    /// take turns. HOST:PORT, with more after commas where it has several nodes, and NAME= in front to call it something
    #[arg(long, value_name = "[NAME=]HOST:PORT,...", value_parser = broker)]
    pub(super) broker: Vec<BrokerSpec>,
    /// User to log in as at each --broker; the passcode is asked for, or read as the next two options say
    #[arg(long, value_name = "NAME", requires = "broker")]
    pub(super) login: Option<String>,
    #[command(flatten)]
    pub(super) passcode: PasscodeArgs,
    /// The `host` header of CONNECT
    #[arg(long, value_name = "HOST", default_value = "/")]
    pub(super) host: String,
    /// Queues are called so, and a dot and the workload after it
    #[arg(long, value_name = "PREFIX", default_value = "/queue/rhizomq-bench")]
    pub(super) destination: String,
    /// The topic of `fanout` likewise
    #[arg(long, value_name = "PREFIX", default_value = "/topic/rhizomq-bench")]
    pub(super) topic: String,
    /// A header of each SEND, such as persistent:true, without which some brokers keep nothing; may be repeated
    #[arg(long, value_name = "NAME:VALUE", value_parser = header)]
    pub(super) header: Vec<Header>,
    /// A header of each SUBSCRIBE; may be repeated
    #[arg(long, value_name = "NAME:VALUE", value_parser = header)]
    pub(super) subscribe_header: Vec<Header>,
    /// What to measure
    #[arg(
        long,
        value_enum,
        value_name = "WORKLOAD,...",
        default_value = "send,consume,latency,fanout",
        value_delimiter = ','
    )]
    pub(super) workload: Vec<Workload>,
    /// send: SENDs of a connection that may be without their receipts
    #[arg(long, value_name = "N,...", default_value = "1,100,1000", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) window: Vec<u32>,
    /// send: connections, all to the first node
    #[arg(long, value_name = "N,...", default_value = "1,8", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) connections: Vec<u32>,
    /// Bytes of a message's body, for all workloads
    #[arg(long, value_name = "BYTES,...", default_value = "256", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(stamp::LEN as i64..=16 << 20))]
    pub(super) size: Vec<u32>,
    /// consume: how consumers acknowledge
    #[arg(
        long,
        value_enum,
        value_name = "MODE,...",
        default_value = "auto,client,client-individual",
        value_delimiter = ','
    )]
    pub(super) ack: Vec<Ack>,
    /// consume: the `prefetch-count` (and `activemq.prefetchSize`) of a consumer
    #[arg(long, value_name = "N,...", default_value = "100", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(super) prefetch: Vec<u32>,
    /// consume: consumers that share a queue
    #[arg(long, value_name = "N,...", default_value = "1", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) consumers: Vec<u32>,
    /// consume: messages that wait when the consumers come
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) backlog: u32,
    /// latency: messages a second that are offered, whatever becomes of them
    #[arg(long, value_name = "N,...", default_value = "1000", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) rate: Vec<u32>,
    /// fanout: subscribers of the topic, one connection each, spread over the nodes; the slowest sets the pace
    #[arg(long, value_name = "N,...", default_value = "1,10,100", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) subscribers: Vec<u32>,
    /// Rounds per figure, after one to warm up; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) rounds: u32,
    /// How long producers send in a round
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub(super) round_ms: u64,
    /// Seconds without a byte from the broker, while something is to come, after which it is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(super) patience: u64,
    /// Directory on the disk to measure; what is written there is deleted afterwards
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) dir: PathBuf,
    /// JSON instead of a table
    #[arg(long)]
    pub(super) json: bool,
    /// Also write DIR/index.html: one page with tables and plots that needs nothing else
    #[arg(long, value_name = "DIR")]
    pub(super) report: Option<PathBuf>,
}

impl StompArgs {
    /// How many nodes to start.
    pub(super) fn own_nodes(&self) -> u32 {
        self.nodes.unwrap_or(if self.broker.is_empty() { 3 } else { 0 })
    }

    /// Refuses what makes no sense together.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let own = self.copies.is_some() || self.confirm.is_some() || !self.node_arg.is_empty();
        ensure!(!own || self.own_nodes() > 0, "--copies, --confirm and --node-arg are of nodes that --nodes starts");
        let passcode = self.passcode.passcode_stdin || self.passcode.passcode_file.is_some();
        ensure!(!passcode || self.login.is_some(), "a passcode needs a --login");
        let mut names: Vec<_> = self.broker.iter().map(|broker| broker.name.as_str()).collect();
        names.extend((self.own_nodes() > 0).then_some(super::OWN));
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        ensure!(twice.is_none(), "two brokers are called `{}`; give them names: --broker NAME=HOST:PORT", names[0]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_have_addresses_and_maybe_names() {
        let plain = broker("localhost:61613").unwrap();
        assert_eq!((plain.name.as_str(), plain.addresses.len()), ("localhost:61613", 1));
        let named = broker("rabbit=127.0.0.1:1,[::1]:2").unwrap();
        assert_eq!((named.name.as_str(), named.addresses[1].as_str()), ("rabbit", "[::1]:2"));
        for text in ["", "localhost", "rabbit=", "=localhost:1", "localhost:0", "localhost:1,", ":1", "a:b"] {
            assert!(broker(text).is_err(), "{text}");
        }
    }

    #[test]
    fn headers_are_cut_at_the_first_colon() {
        assert_eq!(header("a:b:c"), Ok(Header("a".to_owned(), "b:c".to_owned())));
        assert!(header("a").is_err() && header(":b").is_err());
    }
}
