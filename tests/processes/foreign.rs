//! All that others' clients do, against three nodes of which one is killed on the way: `tests/clients/README.md` says what
//! is checked and what a script and this side say to each other.
//!
//! What is not installed is skipped with a visible line; with `RHIZOMQ_TEST_CLIENTS=all`, as `.ci/run` sets it, that fails.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::support::{cluster::Cluster, eventually, node::Node, skipped};

/// What every script tells of, in this order.
const CHECKS: [&str; 13] = [
    "connect",
    "individual",
    "cumulative",
    "nack",
    "wildcard",
    "durable",
    "transaction",
    "reply",
    "escaping",
    "binary",
    "large",
    "failover",
    "disconnect",
];
/// Messages that a script confirms around the death of a node.
const CONFIRMED: usize = 100;
/// How long a whole script may take.
const LIMIT: Duration = Duration::from_secs(150);
/// Longer than the two intervals of 10 s for which a node bears a client that sends no heart-beats.
const IDLE: Duration = Duration::from_secs(23);

/// A client of others.
struct Foreign {
    name: &'static str,
    /// The command without its arguments, or why it can't be run here.
    command: fn() -> Result<Command, String>,
    /// Which of a node's listeners it uses, and what comes before and after the address.
    listener: (&'static str, &'static str, &'static str),
    /// What the library can't do; its script says so too.
    lacks: &'static [&'static str],
}

const TCP: (&str, &str, &str) = ("stomp", "", "");
const WEBSOCKET: (&str, &str, &str) = ("stomp-ws", "ws://", "/stomp");

const STOMP_PY: Foreign = Foreign {
    name: "stomp.py",
    command: || script("python3", "stompy_all.py", &[("PYTHONPATH", library("RHIZOMQ_TEST_STOMP_PY", "stomp")?)]),
    listener: TCP,
    lacks: &[],
};

const STOMPJS: Foreign =
    Foreign { name: "stompjs over TCP", command: || stompjs("stompjs_all.mjs"), listener: TCP, lacks: &[] };

const STOMPJS_WEBSOCKET: Foreign = Foreign {
    name: "stompjs over WebSocket",
    command: || {
        let mut command = stompjs("stompjs_all.mjs")?;
        // Node 20 has it behind a flag.
        command.env("NODE_OPTIONS", "--experimental-websocket --no-warnings");
        Ok(command)
    },
    listener: WEBSOCKET,
    lacks: &[],
};

const BROWSER: Foreign = Foreign {
    name: "stompjs in a browser's page",
    command: || {
        let browsers = ["chromium-headless-shell", "chromium"];
        let found = browsers.into_iter().find(|browser| answers(browser, &["--version"]).is_ok());
        let browser = found.ok_or("neither chromium-headless-shell nor chromium is installed")?;
        let mut command = stompjs("stompjs_browser.mjs")?;
        command.env("RHIZOMQ_TEST_BROWSER", browser);
        Ok(command)
    },
    listener: WEBSOCKET,
    lacks: &[],
};

const STOMPIT: Foreign = Foreign {
    name: "stompit",
    command: || {
        let place = library("RHIZOMQ_TEST_STOMPIT", "node_modules/stompit")?;
        script("node", "stompit_all.mjs", &[("RHIZOMQ_TEST_STOMPIT", place)])
    },
    listener: TCP,
    lacks: &[],
};

const RUBY: Foreign = Foreign {
    name: "Ruby stomp",
    command: || {
        answers("ruby", &["-e", "require 'stomp'"])?;
        script("ruby", "ruby_all.rb", &[])
    },
    listener: TCP,
    lacks: &[],
};

const PERL: Foreign = Foreign {
    name: "Perl Net::Stomp",
    command: || {
        answers("perl", &["-MNet::Stomp", "-e", "1"])?;
        script("perl", "perl_all.pl", &[])
    },
    listener: TCP,
    lacks: &["escaping"],
};

const PHP: Foreign = Foreign {
    name: "PHP stomp",
    command: || {
        answers("php", &["-r", "exit(extension_loaded('stomp') ? 0 : 1);"])?;
        script("php", "php_all.php", &[])
    },
    listener: TCP,
    lacks: &["escaping"],
};

const RUST: Foreign = Foreign {
    name: "Rust iridium-stomp",
    command: || {
        let program = std::env::var("RHIZOMQ_TEST_RUST_CLIENT").ok().filter(|program| Path::new(program).is_file());
        let program =
            program.ok_or("RHIZOMQ_TEST_RUST_CLIENT does not name a program; .ci/run builds it and sets it")?;
        Ok(Command::new(program))
    },
    listener: TCP,
    lacks: &[],
};

/// A script of `tests/clients` with more in its environment.
fn script(program: &str, name: &str, env: &[(&str, String)]) -> Result<Command, String> {
    let mut command = Command::new(program);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name));
    command.envs(env.iter().map(|(name, value)| (name, value)));
    Ok(command)
}

fn stompjs(name: &str) -> Result<Command, String> {
    let place = library("RHIZOMQ_TEST_STOMPJS", "node_modules/@stomp/stompjs")?;
    script("node", name, &[("RHIZOMQ_TEST_STOMPJS", place)])
}

/// The directory that a variable names, if the library is in it.
fn library(variable: &str, inside: &str) -> Result<String, String> {
    let place = std::env::var(variable).ok().filter(|place| Path::new(place).join(inside).is_dir());
    place.ok_or_else(|| format!("{variable} does not name a directory with {inside}; .ci/run fetches it and sets it"))
}

/// Whether a program is here and content with these arguments.
fn answers(program: &str, args: &[&str]) -> Result<(), String> {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

impl Foreign {
    /// None, with a visible line, when it is not installed here.
    fn find(&self) -> Option<Command> {
        match (self.command)() {
            Ok(command) => Some(command),
            Err(reason) if std::env::var("RHIZOMQ_TEST_CLIENTS").is_ok_and(|wanted| wanted == "all") => {
                panic!("{} has to be tested, but {reason}", self.name)
            }
            Err(reason) => {
                skipped(self.name, &reason);
                None
            }
        }
    }

    /// How a node is called in the script's list of addresses.
    fn host(&self, node: &Node) -> String {
        let (listener, before, after) = self.listener;
        format!("{before}{}{after}", node.listener(listener))
    }

    /// Every check, with the death of the node that the script is connected to.
    fn passes(&self) {
        let Some(command) = self.find() else { return };
        let mut cluster = Cluster::start_with(3, &["--stomp-ws", "127.0.0.1:0"]);
        let hosts: Vec<String> = cluster.nodes.iter().map(|node| self.host(node)).collect();
        let mut run = Run::start(self.name, command, "suite", &hosts);
        let mut tale = Tale::default();
        let mut killed = None;
        while let Some(line) = run.line() {
            if let Some(host) = line.strip_prefix("kill ") {
                let index = hosts.iter().position(|known| known == host).expect("a node's address");
                cluster.nodes[index].kill();
                killed = Some(index);
                run.answer("killed");
            } else {
                tale.note(&line);
            }
        }
        run.end();
        tale.check(self.name, self.lacks);
        cluster.nodes.remove(killed.expect("every script has a node killed"));
        for node in &cluster.nodes {
            leaves_nothing(self.name, node);
        }
    }
}

/// A script that runs.
struct Run {
    name: &'static str,
    child: Child,
    lines: mpsc::Receiver<String>,
    complaints: Option<std::thread::JoinHandle<String>>,
    until: Instant,
}

impl Run {
    fn start(name: &'static str, mut command: Command, mode: &str, hosts: &[String]) -> Self {
        command.arg(mode).args(hosts).env("RHIZOMQ_TEST_IDLE_MS", IDLE.as_millis().to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the client's interpreter runs");
        let (send, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut stderr = child.stderr.take().expect("it is piped");
        let complaints = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { name, child, lines, complaints: Some(complaints), until: Instant::now() + LIMIT }
    }

    /// The next line of its output; none when it has no more to say.
    fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(self.until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{}: {line}", self.name);
                Some(line)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{} is not done after {LIMIT:?}", self.name),
        }
    }

    fn answer(&mut self, text: &str) {
        writeln!(self.child.stdin.as_mut().expect("it is piped"), "{text}").expect("the script listens");
    }

    fn end(mut self) {
        let status = self.child.wait().expect("our own child");
        let complaints = self.complaints.take().expect("it ends once").join().expect("reading does not panic");
        assert!(status.success(), "{}: {status}\n{complaints}", self.name);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A script that has children of its own ends them, and itself, when nobody is left to answer it.
        drop(self.child.stdin.take());
        let until = Instant::now() + Duration::from_secs(2);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a script told.
#[derive(Default)]
struct Tale {
    done: Vec<String>,
    skipped: Vec<String>,
    confirmed: BTreeSet<String>,
    got: BTreeSet<String>,
}

impl Tale {
    fn note(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("ok", check)) => self.done.push(check.to_owned()),
            Some(("skip", rest)) => {
                let (check, reason) = rest.split_once(": ").expect("a reason");
                assert!(!reason.is_empty(), "{check} without a reason");
                self.done.push(check.to_owned());
                self.skipped.push(check.to_owned());
            }
            Some(("confirmed", body)) => assert!(self.confirmed.insert(body.to_owned()), "{body} was confirmed twice"),
            Some(("got", body)) => drop(self.got.insert(body.to_owned())),
            _ => panic!("not a line of a script: {line}"),
        }
    }

    fn check(&self, name: &str, lacks: &[&str]) {
        assert_eq!(self.done, CHECKS, "{name}");
        assert_eq!(self.skipped, lacks, "{name}");
        assert_eq!(self.confirmed.len(), CONFIRMED, "{name}");
        let lost: Vec<_> = self.confirmed.difference(&self.got).collect();
        assert!(lost.is_empty(), "{name}: confirmed, never came: {lost:?}");
    }
}

/// All was acknowledged, all durable subscriptions were deleted.
fn leaves_nothing(name: &str, node: &Node) {
    eventually(&format!("{name}: all consumed at {}", node.setup.name), || {
        let status = node.status()?;
        let queues = status["queues"].as_array().ok_or("no queues in the status")?;
        let full: Vec<_> = queues.iter().filter(|queue| queue["depth"] != 0).collect();
        let durable = node.ask_in(&["subscription", "list"], &[])?;
        if full.is_empty() && durable.contains("no durable subscriptions") {
            Ok(())
        } else {
            Err(format!("waiting: {full:?}, durable: {durable}"))
        }
    });
}

macro_rules! passes {
    ($($test:ident: $client:ident,)*) => {
        $(#[test]
        fn $test() {
            $client.passes();
        })*

        const ALL: &[Foreign] = &[$($client,)*];
    };
}

passes! {
    stomp_py_passes_every_check: STOMP_PY,
    stompjs_over_tcp_passes_every_check: STOMPJS,
    stompjs_over_websocket_passes_every_check: STOMPJS_WEBSOCKET,
    stompjs_in_a_page_passes_every_check: BROWSER,
    stompit_passes_every_check: STOMPIT,
    ruby_stomp_passes_every_check: RUBY,
    perl_net_stomp_passes_every_check: PERL,
    php_stomp_passes_every_check: PHP,
    a_rust_client_passes_every_check: RUST,
}

#[test]
fn clients_that_only_beat_stay_connected() {
    let cluster = Cluster::start_with(1, &["--stomp-ws", "127.0.0.1:0"]);
    // Perl's and PHP's have no heart-beats.
    let beat = ALL.iter().filter(|client| ![PERL.name, PHP.name].contains(&client.name));
    let begin = Instant::now();
    let runs: Vec<Run> = beat
        .filter_map(|client| Some(Run::start(client.name, client.find()?, "idle", &[client.host(&cluster.nodes[0])])))
        .collect();
    let some = !runs.is_empty();
    for mut run in runs {
        let (name, lines) = (run.name, std::iter::from_fn(|| run.line()).collect::<Vec<_>>());
        run.end();
        assert_eq!(lines, ["ok heart-beats"], "{name}");
    }
    assert!(!some || begin.elapsed() >= IDLE);
}
