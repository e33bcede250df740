//! Clients that others wrote: Python's stomp.py and Node's stompjs. `.ci/run` fetches them; elsewhere these are skipped.
//!
//! `RHIZOMQ_TEST_STOMP_PY` names a directory with the Python package `stomp`, `RHIZOMQ_TEST_STOMPJS` one whose
//! `node_modules` has `@stomp/stompjs`.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
};

use crate::support::{
    cluster::{Cluster, consume_all, publish_all, texts},
    node::Node,
    skipped,
};

pub(crate) const QUEUE: &str = "/queue/orders";
const MANY: usize = 10_000;

/// A foreign client: how its script is run.
pub(crate) struct Foreign {
    program: &'static str,
    script: &'static str,
    /// What the script reads to find its library.
    env: (&'static str, String),
}

impl Foreign {
    /// None, with a visible line, when it is not installed here.
    fn find(test: &str, program: &'static str, script: &'static str, from: &str, to: &'static str) -> Option<Self> {
        let Some(place) = std::env::var(from).ok().filter(|place| Path::new(place).is_dir()) else {
            skipped(test, &format!("{from} does not name a directory; .ci/run fetches the client and sets it"));
            return None;
        };
        Some(Self { program, script, env: (to, place) })
    }

    pub(crate) fn python(test: &str) -> Option<Self> {
        Self::find(test, "python3", "stompy.py", "RHIZOMQ_TEST_STOMP_PY", "PYTHONPATH")
    }

    pub(crate) fn node(test: &str) -> Option<Self> {
        Self::find(test, "node", "stompjs.mjs", "RHIZOMQ_TEST_STOMPJS", "RHIZOMQ_TEST_STOMPJS")
    }

    /// Runs a command of the script against a node; its output.
    fn run(&self, command: &str, node: &Node, args: &[&str]) -> String {
        self.run_at(command, node.stomp, args, &[])
    }

    /// The same at an address, with more for the script's environment.
    pub(crate) fn run_at(&self, command: &str, at: SocketAddr, args: &[&str], env: &[(&str, String)]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(self.script);
        let mut process = Command::new(self.program);
        process.arg(script).arg(command).arg(at.ip().to_string()).arg(at.port().to_string());
        process.envs(env.iter().map(|(name, value)| (name, value)));
        let Output { status, stdout, stderr } =
            process.arg(QUEUE).args(args).env(self.env.0, &self.env.1).output().expect("the client's interpreter runs");
        assert!(status.success(), "{} {command}: {}", self.script, String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).expect("text").trim().to_owned()
    }

    /// Acceptance 1 of the product: all confirmed, the node that took them gone with its disk, all delivered.
    fn outlives_the_node(&self) {
        let mut cluster = Cluster::start(3);
        let count = MANY.to_string();
        let confirmed = self.run("publish", &cluster.nodes[0], &[&count, "m"]);
        let copies = confirmed.strip_prefix(&format!("confirmed {count} ")).expect(&confirmed);
        assert!(copies.split(',').all(|copies| copies.parse::<u32>().is_ok_and(|copies| copies >= 2)), "{confirmed}");
        cluster.nodes[0].kill();
        cluster.nodes[0].wipe();
        let bodies = self.run("consume", &cluster.nodes[2], &[&count]);
        let bodies: BTreeSet<String> = bodies.lines().map(str::to_owned).collect();
        assert_eq!(bodies, texts("m", MANY));
    }
}

#[test]
fn stomp_py_gets_all_that_was_confirmed_to_it_although_the_node_is_gone() {
    if let Some(client) = Foreign::python("stomp_py_gets_all_that_was_confirmed_to_it_although_the_node_is_gone") {
        client.outlives_the_node();
    }
}

#[test]
fn stompjs_gets_all_that_was_confirmed_to_it_although_the_node_is_gone() {
    if let Some(client) = Foreign::node("stompjs_gets_all_that_was_confirmed_to_it_although_the_node_is_gone") {
        client.outlives_the_node();
    }
}

#[test]
fn foreign_clients_and_our_own_understand_each_other() {
    let test = "foreign_clients_and_our_own_understand_each_other";
    for client in [Foreign::python(test), Foreign::node(test)].into_iter().flatten() {
        let cluster = Cluster::start(2);
        client.run("publish", &cluster.nodes[0], &["50", "theirs"]);
        consume_all(&cluster.nodes[1], QUEUE, &texts("theirs", 50), &mut Default::default());
        publish_all(&cluster.nodes[0], QUEUE, &texts("ours", 50));
        let bodies = client.run("consume", &cluster.nodes[1], &["50"]);
        assert_eq!(bodies.lines().map(str::to_owned).collect::<BTreeSet<_>>(), texts("ours", 50));
    }
}
