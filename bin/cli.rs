//! The command line: every command and option, and the texts that teach them.
//!
//! Options of `serve` are `Option`s here, since a value may also come from the environment (clap reads that) or from the
//! configuration file (see `config.rs`); the defaults are named in the help and applied there.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::{
    bench, config, jobs::JobCommand, limits::LimitArgs, listen::ListenArgs, policies::PolicyCommand, users::UserCommand,
};

const ABOUT: &str = "A leaderless message broker: every node takes messages, keeps copies of the others', and delivers \
    them when others die.\n\nClients speak STOMP (1.0, 1.1 or 1.2).";

const FIRST_STEPS: &str = "\
First steps:
  rhizomq serve                      start a broker on 127.0.0.1:61613, data in ./rhizomq-data
  rhizomq ticket                     print the ticket that lets a second node join it
  rhizomq serve --join TICKET --data ./second --stomp 127.0.0.1:0 --peer 127.0.0.1:0 --admin 127.0.0.1:0
  rhizomq status                     who is there, what waits, what was delivered twice

`rhizomq COMMAND --help` tells more about each command.";

const SERVE_EXAMPLES: &str = "\
Each option weighs as follows: flag, then environment variable, then configuration file, then default.
The file holds the long option names as keys, for example:

  data = \"/var/lib/rhizomq\"
  stomp = \"0.0.0.0:61613\"
  peer = \"0.0.0.0:61614\"
  advertise = [\"192.0.2.7:61614\"]
  copies = 3
  confirm = 2

All addresses are loopback unless you say otherwise. While there are no users (`rhizomq user add`), STOMP clients of the
node's own machine are let in without a login and others are not, whatever --stomp listens to; --require-login keeps out those,
too. With users all have to log in. Passcodes and messages cross --stomp and --stomp-ws in the clear: --stomp-tls and
--stomp-wss are for networks. --peer is safe to open: nodes prove who they are and that they know the network's secret. Keep
--admin on loopback: it hands out join tickets.

When the node is up, one line that starts with `ready` is on standard output and names the bound addresses; the log is
on standard error. SIGTERM and SIGINT stop it cleanly.

After a failed write or sync the node confirms nothing more, tells its clients, and reads its store back from disk in a
new life; five times in a row at most, with growing pauses, then it ends with code 3. A store that can't be opened is
renamed to store.broken-N, and the node starts empty and refills from its peers; `status` says so.

Exit codes: 0 clean stop, 1 other failure, 2 wrong options or configuration, 3 trouble with the data directory, 4 an
address cannot be bound.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "rhizomq", version, about = ABOUT, after_help = FIRST_STEPS, max_term_width = 120)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node: a durable broker by itself, or one of a cluster
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Print a join ticket of a running node on this machine
    ///
    /// The ticket holds the node's peer addresses, its key's fingerprint and the network's secret: whoever has it can
    /// join, so hand it over like a password. It is only given to a caller on the same machine.
    Ticket(AdminArgs),
    /// Show what a running node sees: nodes, queues, duplicates, missing copies
    Status(AdminArgs),
    /// Check everything a node has on disk, and name what is broken
    ///
    /// Without --admin, a stopped node's directory: nothing in it is changed. With --admin, a running node checks itself:
    /// what is broken it gives up, fetches again from other nodes, and counts in its status.
    ///
    /// Checked are the log's frames, the hashes of values and blocks, that there is a block for each message that waits,
    /// the marks of what is consumed, and, of a stopped node, the index against the log.
    ///
    /// Exit codes: 0 all is well, 1 something is broken, 2 it could not be checked.
    Verify(VerifyArgs),
    /// Take a backup of a running node on this machine
    ///
    /// The node itself writes it, beside its work, with at most half of the disk's time. All that was confirmed before is
    /// in it. It holds the node's identity key and the network's secret: keep it like a password. A file `manifest` with
    /// the checksums of all others makes it complete.
    Backup(BackupArgs),
    /// Make a node's directory out of a backup
    ///
    /// The manifest and all checksums are verified before anything is written. The identity key is part of the backup:
    /// what is restored is the same node, so the old one must not run at the same time. At its start it begins a new life,
    /// and it learns from its peers what was consumed since the backup; nothing comes back that they know to be consumed.
    /// Without peers nobody remembers that: what was consumed after the backup is delivered again.
    Restore(RestoreArgs),
    /// Set how many nodes are members; the others observe
    ///
    /// Members are where new messages' copies go first; observers take clients like any other node, and take a member's
    /// place when it fails. Any node can be told, at any time, and the policy holds for the whole cluster:
    ///
    ///   rhizomq size 5                                    five, or all nodes while there are fewer
    ///   rhizomq size negotiate                            the median of what the nodes within reach --propose
    ///   rhizomq size preset "1-3:all, 4-9:3, 10+:5"       by the number of nodes within reach
    ///
    /// If nothing was ever set, all nodes are members. Of two policies set in two places at once the later one holds.
    #[command(verbatim_doc_comment)]
    Size(SizeArgs),
    /// Let a node leave the cluster for good, with nothing lost
    ///
    /// To be asked of the node that is to leave. It takes no more messages and tells its clients to go elsewhere; others make
    /// copies of all that it holds; when they have proven to have them it gives up its own, takes itself off the list of
    /// nodes, and its process ends with code 0. This command shows how far it is and ends when it has left. Interrupted, or
    /// after --timeout, the drain goes on, also over a restart; --cancel takes it back.
    ///
    /// Started again with the same directory it joins the network anew, as a node that holds nothing.
    ///
    /// Exit codes: 0 it has left (or the drain was taken back), 1 it has not, or not yet.
    Drain(DrainArgs),
    /// Make this cluster and another one a single cluster
    ///
    /// Told to one node of the one cluster, with a ticket of a running node of the other:
    ///
    ///   there:  rhizomq ticket
    ///   here:   rhizomq merge TICKET --size 5
    ///
    /// All nodes come to know each other, queues of the same name are one from then on, and nothing moves: a message stays
    /// where it was taken until somebody consumes it. Clients notice nothing. Doing it twice, or on both sides, is harmless.
    ///
    /// It goes on without this command, whoever is restarted meanwhile; the command only waits to say what came of it.
    /// Exit codes: 0 the two are one, 1 not, or not yet.
    #[command(verbatim_doc_comment)]
    Merge(MergeArgs),
    /// Part this cluster into two that know nothing of each other
    ///
    /// Told to any node, by the names of those that are to leave, or by the name of their site:
    ///
    ///   rhizomq split --off west --nodes a,b,c --size 2 --dry-run    what would come of it
    ///   rhizomq split --off west --nodes a,b,c --size 2
    ///
    /// A message goes with the node that took it. Copies are made within each part before
    /// those in the other are given up; clients notice nothing until the two part, and then only those whose messages the
    /// other part has. The part that leaves gets a secret of its own. All nodes that leave must be there; of those that stay,
    /// who is away hears of it when it is back.
    ///
    /// It goes on without this command, whoever is restarted meanwhile; --cancel takes it back, on a node that is not ready.
    /// The same command again waits for it, or says that it is done already.
    /// To make the two one again, merge on a node that stayed, with a ticket of one that left.
    ///
    /// Exit codes: 0 the two are parted (or it was taken back), 1 not, or not yet.
    #[command(verbatim_doc_comment)]
    Split(SplitArgs),
    /// Decide about a node of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// Durable subscriptions of topics: see what there is, and delete what nobody reads any more
    #[command(subcommand)]
    Subscription(SubscriptionCommand),
    /// Users: who may log in, with a passcode or a certificate, and what they may do
    #[command(subcommand)]
    User(UserCommand),
    /// Policies: what holds for the messages of destinations, such as how long they live and what becomes of bad ones
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Jobs: messages that are sent again at times of their own; see which there are, and end one
    #[command(subcommand)]
    Job(JobCommand),
    /// Measure this machine: durable commits and replication, each beside its limit
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

/// Options of `serve`. Also the form in which they come from the environment.
#[derive(Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Directory for everything this node keeps; created if missing [default: ./rhizomq-data]
    #[arg(long, value_name = "DIR", env = "RHIZOMQ_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// The node's name, for people [default: the start of its id]
    #[arg(long, value_name = "NAME", env = "RHIZOMQ_NAME")]
    pub(crate) name: Option<String>,
    /// Where STOMP clients connect, TCP; port 0 picks one [default: 127.0.0.1:61613]
    #[arg(long, value_name = "ADDR:PORT", env = "RHIZOMQ_STOMP")]
    pub(crate) stomp: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    /// Where other nodes connect, QUIC over UDP; port 0 picks one [default: 127.0.0.1:61614]
    #[arg(long, value_name = "ADDR:PORT", env = "RHIZOMQ_PEER")]
    pub(crate) peer: Option<SocketAddr>,
    /// Where `rhizomq ticket` and `rhizomq status` ask, HTTP; port 0 picks one [default: 127.0.0.1:61680]
    #[arg(long, value_name = "ADDR:PORT", env = "RHIZOMQ_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,
    /// Address that other nodes are told to dial instead of --peer (behind NAT, or bound to 0.0.0.0); may be repeated
    #[arg(long, value_name = "ADDR:PORT", env = "RHIZOMQ_ADVERTISE", value_delimiter = ',')]
    pub(crate) advertise: Vec<SocketAddr>,
    /// Join the network of the node that printed this ticket; needed once, harmless later
    #[arg(long, value_name = "TICKET", env = "RHIZOMQ_JOIN", hide_env_values = true)]
    pub(crate) join: Option<String>,
    /// Where the node stands (rack, room, town): copies are spread over sites, near consumers come first [default: none]
    #[arg(long, value_name = "SITE", env = "RHIZOMQ_SITE")]
    pub(crate) site: Option<String>,
    /// How many nodes keep a copy of each message, this one included [default: 3]
    #[arg(long, value_name = "N", env = "RHIZOMQ_COPIES")]
    pub(crate) copies: Option<u32>,
    /// On how many disks a message must be synced before its RECEIPT is sent; fewer while fewer nodes live [default: 2]
    #[arg(long, value_name = "N", env = "RHIZOMQ_CONFIRM")]
    pub(crate) confirm: Option<u32>,
    /// On how many sites a message must be on disk before its RECEIPT is sent; fewer while fewer are reachable [default: 1]
    #[arg(long, value_name = "N", env = "RHIZOMQ_CONFIRM_SITES")]
    pub(crate) confirm_sites: Option<u32>,
    /// How many members this node proposes where the size is negotiated (`rhizomq size negotiate`) [default: as --copies]
    #[arg(long, value_name = "N", env = "RHIZOMQ_PROPOSE")]
    pub(crate) propose: Option<u32>,
    /// How fast the data files are read again and again to find damage, in MB a second, or `off` [default: 4]
    #[arg(long, value_name = "MB|off", env = "RHIZOMQ_SCRUB")]
    pub(crate) scrub: Option<String>,
    /// Bytes of memory for what was read from disk: four fifths for messages, one for the index; with a unit (KiB, MiB,
    /// GiB, TiB, or K, M, G, T) or without; from 8 MiB to 1 TiB [default: 80 MiB]
    #[arg(long, value_name = "BYTES", env = "RHIZOMQ_MEMORY")]
    pub(crate) memory: Option<String>,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// TOML file with any of these options as keys
    #[arg(long, value_name = "FILE", env = "RHIZOMQ_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Write JSON lines: the events on standard output (`{"event":"ready",...}`), the log on standard error
    #[arg(long, env = "RHIZOMQ_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) json: bool,
    /// What to log: error, warn, info, debug, trace, or per module (`info,rhizomq_net=debug`) [default: info]
    #[arg(long, value_name = "FILTER", env = "RHIZOMQ_LOG")]
    pub(crate) log: Option<String>,
}

/// Options of the commands that ask a running node.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    /// The node's admin address, as its `ready` line tells it
    #[arg(long, value_name = "ADDR:PORT", env = "RHIZOMQ_ADMIN", default_value = config::DEFAULT_ADMIN)]
    pub(crate) admin: SocketAddr,
    /// One JSON object instead of text for people
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The directory of a stopped node
    #[arg(long, value_name = "DIR", env = "RHIZOMQ_DATA", default_value = "./rhizomq-data")]
    pub(crate) data: PathBuf,
    /// Ask the running node with this admin address instead
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    /// One JSON object instead of text for people
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be decided about a node.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Let the cluster forget a node that will never come back, such as one whose disk is lost
    ///
    /// It leaves the list of nodes and is dialled no more, its copies are made elsewhere, and what its crashes left open is
    /// brought to an end. What is given up by that: nobody waits any more for messages that lie on its disk alone.
    /// Nothing is deleted, and should it come back after all, it joins anew and what its disk has is taken in.
    ///
    /// A node that is alive can't be forgotten: stop it first.
    Forget(ForgetArgs),
}

/// Options of `node forget`.
#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Its name, its id, or so many of the id's first digits as fit no other node, as `status` shows them
    #[arg(value_name = "NODE")]
    pub(crate) called: String,
    #[command(flatten)]
    pub(crate) node: AdminArgs,
}

/// What to do about durable subscriptions.
#[derive(Debug, Subcommand)]
pub(crate) enum SubscriptionCommand {
    /// List them: name, topics, messages that wait, consumers
    List(AdminArgs),
    /// Delete one on all nodes, and drop what waits for it
    ///
    /// Whoever reads it gets an ERROR and is closed. A client that subscribes again makes a new one.
    Remove(RemoveArgs),
}

/// Options of `subscription remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Its name, as `subscription list` tells it
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) node: AdminArgs,
}

/// Options of `size`.
#[derive(Debug, Args)]
pub(crate) struct SizeArgs {
    /// The policy: a number, `negotiate`, or `preset` and rules; nothing to be told the present one
    #[arg(value_name = "POLICY", num_args = 0..)]
    pub(crate) policy: Vec<String>,
    #[command(flatten)]
    pub(crate) node: AdminArgs,
}

/// Options of `drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Take the drain back: the node stays
    #[arg(long)]
    pub(crate) cancel: bool,
    /// Wait no longer than so many seconds; 0 only begins it
    #[arg(long, value_name = "SECONDS", conflicts_with = "cancel")]
    pub(crate) timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) node: AdminArgs,
}
/// Options of `split`.
#[derive(Debug, Args)]
pub(crate) struct SplitArgs {
    /// What the part that leaves is called
    #[arg(long, value_name = "NAME", required_unless_present_any = ["cancel", "lost"])]
    pub(crate) off: Option<String>,
    /// Who leaves, by name, id or its first digits; else all nodes of the site that is called like the part
    #[arg(long, value_name = "NODE,...", value_delimiter = ',')]
    pub(crate) nodes: Vec<String>,
    /// Members of the part that leaves; else as here
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) size: Option<u32>,
    /// Only say what would come of it
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Take it back: the cluster stays one
    #[arg(long, conflicts_with_all = ["off", "nodes", "size", "dry_run", "timeout"])]
    pub(crate) cancel: bool,
    /// The other part of the split that is called so, or that this node is of, will never come back: deliver here what lies
    /// here of its messages
    #[arg(long, value_name = "NAME|NODE", conflicts_with_all = ["off", "nodes", "size", "dry_run", "timeout", "cancel"])]
    pub(crate) lost: Option<String>,
    /// Wait no longer than so many seconds; 0 only begins it
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) node: AdminArgs,
}

/// Options of `merge`.
#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// What `rhizomq ticket` prints at a node of the other cluster
    #[arg(value_name = "TICKET")]
    pub(crate) ticket: String,
    /// How many members there are to be from now on, as with `rhizomq size`; else the policy that was set last holds
    #[arg(long, value_name = "POLICY")]
    pub(crate) size: Option<String>,
    /// How many seconds to wait for it to come about
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) wait: u64,
    #[command(flatten)]
    pub(crate) node: AdminArgs,
}

/// Options of `backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Where the backup goes: an empty directory, or one that does not exist yet
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) node: AdminArgs,
}

/// Options of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup's directory
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: PathBuf,
    /// The directory of the node to be: empty, or not there yet
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contract_names_are_taken() {
        let line = "rhizomq serve --data d --name n --stomp 127.0.0.1:1 --peer 127.0.0.1:2 --admin 127.0.0.1:3 \
                    --join t --site s --copies 5 --confirm 4 --json --advertise 127.0.0.1:4 --advertise 127.0.0.1:5";
        let Command::Serve(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("not serve")
        };
        assert_eq!((args.copies, args.confirm, args.json), (Some(5), Some(4), true));
        assert_eq!(args.advertise.len(), 2);
        assert!(Cli::try_parse_from(["rhizomq", "status", "--admin", "127.0.0.1:9", "--json"]).is_ok());
        assert!(Cli::try_parse_from(["rhizomq", "ticket"]).is_ok());
        assert!(Cli::try_parse_from(["rhizomq", "backup", "b", "--admin", "127.0.0.1:9"]).is_ok());
        assert!(Cli::try_parse_from(["rhizomq", "restore", "b", "--data", "d"]).is_ok());
        assert!(Cli::try_parse_from(["rhizomq", "restore", "b"]).is_err());
        assert!(Cli::try_parse_from(["rhizomq", "verify", "--data", "d", "--json"]).is_ok());
        assert!(Cli::try_parse_from(["rhizomq", "serve", "--stomp", "here"]).is_err());
    }
}
