//! Nodes of our own: processes in a scratch directory, on loopback, that end when this is dropped.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::args::StompArgs;
use crate::client::{self, TIMEOUT};

/// A node that takes longer to get ready, or to find the others, never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at whether the nodes have found each other.
const LOOK: Duration = Duration::from_millis(20);

/// What is shown of the log of a node that did not get ready, in lines.
const LOG_LINES: usize = 8;

/// How many nodes are to be started, and how.
pub(super) struct Setup {
    count: u32,
    /// Options of `serve`.
    options: Vec<String>,
    dir: PathBuf,
}

impl Setup {
    /// As the command line has it.
    pub(super) fn of(args: &StompArgs) -> Self {
        let set = [("--copies", args.copies), ("--confirm", args.confirm)];
        let set = set.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?.to_string()])).flatten();
        Self { count: args.own_nodes(), options: set.chain(args.node_arg.clone()).collect(), dir: args.dir.clone() }
    }
}

/// Running nodes that know each other. They are killed, and their directories deleted, when this is dropped.
pub(super) struct Cluster {
    nodes: Vec<Node>,
    // Last, so that it is deleted when the processes are gone.
    _dir: tempfile::TempDir,
}

struct Node {
    child: Child,
    stomp: String,
    admin: SocketAddr,
}

impl Drop for Node {
    fn drop(&mut self) {
        // Either fails only if the process has ended already. There is nothing in it that anybody wants.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cluster {
    /// Starts so many, and waits until all are linked. Blocks meanwhile.
    ///
    /// # Errors
    /// One does not get ready: with the end of its log.
    pub(super) fn start(setup: &Setup) -> anyhow::Result<Self> {
        let dir = crate::bench::scratch(&setup.dir)?;
        let mut cluster = Self { nodes: Vec::new(), _dir: dir };
        for number in 1..=setup.count {
            let ticket = cluster.nodes.first().map(|node| ticket(node.admin)).transpose()?;
            let node = Node::start(cluster._dir.path(), number, ticket.as_deref(), &setup.options)?;
            cluster.nodes.push(node);
        }
        cluster.await_links()?;
        Ok(cluster)
    }

    /// Where the nodes take STOMP.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.stomp.clone()).collect()
    }

    fn await_links(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        for node in &self.nodes {
            while linked(node.admin)? < self.nodes.len() {
                if start.elapsed() > PATIENCE {
                    bail!("the nodes that were started did not find each other within {} s", PATIENCE.as_secs());
                }
                thread::sleep(LOOK);
            }
        }
        Ok(())
    }
}

fn ticket(admin: SocketAddr) -> anyhow::Result<String> {
    let answer = client::ask(admin, "POST", "/ticket", None, Some(TIMEOUT))?;
    Ok(answer["ticket"].as_str().context("a node gives no ticket")?.to_owned())
}

/// How many nodes it is linked with, itself included.
fn linked(admin: SocketAddr) -> anyhow::Result<usize> {
    let status = client::ask(admin, "GET", "/status", None, Some(TIMEOUT))?;
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(nodes.iter().filter(|node| node["alive"] == true && node["linked"] != false).count())
}

impl Node {
    fn start(dir: &Path, number: u32, ticket: Option<&str>, options: &[String]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot tell the program's own path")?;
        let log = dir.join(format!("n{number}.log"));
        let mut command = Command::new(program);
        // Settings of a node that serves on this machine are not meant for these.
        command.env_clear().envs(std::env::vars_os().filter(|(key, _)| !key.to_string_lossy().starts_with("RHIZOMQ_")));
        command.args(["serve", "--json", "--log", "warn", "--name", &format!("n{number}"), "--data"]);
        command.arg(dir.join(format!("n{number}")));
        command.args(["--stomp", "127.0.0.1:0", "--peer", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(options);
        if let Some(ticket) = ticket {
            // The command line is for all to see, and a ticket holds a secret.
            command.env("RHIZOMQ_JOIN", ticket);
        }
        // A group of its own: Ctrl-C is for this program, which then ends its nodes.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(&log)?);
        let mut child = command.spawn().context("cannot start a node")?;
        let stdout = BufReader::new(child.stdout.take().context("a node without an output")?);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Self { child, stomp: String::new(), admin: any };

        let (send, ready) = mpsc::channel();
        // Reads on to the end: a process whose output nobody reads would stop at some time.
        thread::spawn(move || {
            let events =
                stdout.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(&line).ok());
            for event in events.filter(|event| event["event"] == "ready") {
                let _ = send.send(event);
            }
        });
        let Ok(event) = ready.recv_timeout(PATIENCE) else {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            bail!("node {number} did not get ready:\n{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
        };
        let address = |name: &str| event[name].as_str().with_context(|| format!("a node tells no {name} address"));
        (node.stomp, node.admin) = (address("stomp")?.to_owned(), address("admin")?.parse()?);
        Ok(node)
    }
}
