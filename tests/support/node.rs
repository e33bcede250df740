//! A real `rhizomq serve` process in a directory of its own.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    PATIENCE, eventually,
    stomp::{Client, USER},
};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_rhizomq");

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Setup {
    pub name: String,
    pub data: PathBuf,
    pub stomp: SocketAddr,
    pub peer: SocketAddr,
    pub admin: SocketAddr,
    pub advertise: Option<SocketAddr>,
    pub join: Option<String>,
    pub args: Vec<String>,
    /// How many files the process may open; `None`: as many as this one.
    pub files: Option<u32>,
    pub env: Vec<(String, String)>,
    /// The network namespace it runs in, and is asked from; `None`: that of the test.
    pub namespace: Option<String>,
}

impl Setup {
    /// A node with its data in `dir/NAME` and with ports that the system picks.
    pub fn new(dir: &Path, name: &str) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let data = dir.join(name);
        Self {
            name: name.to_owned(),
            data,
            stomp: any,
            peer: any,
            admin: any,
            advertise: None,
            join: None,
            args: vec![],
            files: None,
            env: vec![],
            namespace: None,
        }
    }

    /// Adds command-line words.
    pub fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }
}

/// The program under test, in a network namespace or where the test is. It has no other process around it.
fn program(namespace: Option<&str>) -> Command {
    let Some(name) = namespace else { return Command::new(PROGRAM) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name, PROGRAM]);
    command
}

/// Why a node did not get ready.
#[derive(Debug)]
pub struct Failed {
    /// Ended by a signal when patience was over.
    pub status: Option<ExitStatus>,
    pub log: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit status {:?}; its log:\n{}", self.status, self.log)
    }
}

/// A running node. Dropping it kills the process.
pub struct Node {
    pub setup: Setup,
    /// As the `ready` line names them.
    pub stomp: SocketAddr,
    pub peer: SocketAddr,
    pub admin: SocketAddr,
    pub id: String,
    /// The whole `ready` line.
    ready: String,
    log: PathBuf,
    child: Child,
}

impl Node {
    /// Starts the process and waits for its `ready` line.
    pub fn try_start(setup: Setup) -> Result<Self, Failed> {
        let log = setup.data.with_extension("log");
        let stderr = File::options().create(true).append(true).open(&log).expect("the log file of the test");
        let mut command = match setup.files {
            None => program(setup.namespace.as_deref()),
            Some(files) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), PROGRAM]);
                shell
            }
        };
        command.env_clear().envs(std::env::vars().filter(|(key, _)| !key.starts_with("RHIZOMQ_")));
        command.arg("serve").arg("--data").arg(&setup.data).args(["--name", &setup.name]);
        for (flag, address) in [("--stomp", setup.stomp), ("--peer", setup.peer), ("--admin", setup.admin)] {
            command.arg(flag).arg(address.to_string());
        }
        if let Some(address) = setup.advertise {
            command.arg("--advertise").arg(address.to_string());
        }
        if let Some(ticket) = &setup.join {
            command.arg("--join").arg(ticket);
        }
        command
            .args(&setup.args)
            .envs(setup.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = command.spawn().expect("the program under test starts");

        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (send, ready) = mpsc::channel();
        // Goes on reading to the end: a process whose output nobody reads would stop at some time.
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok).filter(|line| line.starts_with("ready")) {
                let _ = send.send(line);
            }
        });
        let line = ready.recv_timeout(PATIENCE).map_err(|why| {
            if why == mpsc::RecvTimeoutError::Timeout {
                let _ = child.kill();
            }
            // Its output is closed: it is about to end, or has just been killed.
            let status = child.wait().ok();
            Failed { status, log: std::fs::read_to_string(&log).unwrap_or_default() }
        })?;
        let field = |name: &str| {
            let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_else(|| panic!("no {name} in `{line}`")).to_owned()
        };
        let address = |name| field(name).parse().unwrap_or_else(|_| panic!("no address under {name} in `{line}`"));
        let (stomp, peer, admin, id) = (address("stomp"), address("peer"), address("admin"), field("node"));
        Ok(Self { setup, stomp, peer, admin, id, ready: line, log, child })
    }

    /// As [`Node::try_start`].
    ///
    /// # Panics
    /// When it does not get ready.
    pub fn start(setup: Setup) -> Self {
        let name = setup.name.clone();
        let is_first_elsewhere = setup.namespace.is_some() && setup.join.is_none();
        let node = Self::try_start(setup).unwrap_or_else(|failed| panic!("node {name} did not get ready: {failed}"));
        if is_first_elsewhere {
            // Clients come from another machine, as far as it can tell.
            node.add_user(USER, USER, &[]);
        }
        node
    }

    /// Where another listener of it is, by the name that the `ready` line has for it.
    ///
    /// # Panics
    /// When there is none.
    pub fn listener(&self, name: &str) -> SocketAddr {
        let address = self.ready.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let address = address.unwrap_or_else(|| panic!("no {name} in `{}`", self.ready));
        address.parse().expect("an address")
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Bytes of memory that it has now.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("kibibytes")
    }

    /// Sends a signal, named without SIG.
    pub fn signal(&self, name: &str) {
        let kill = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status();
        assert!(kill.expect("sh runs").success());
    }

    /// SIGTERM; the exit status.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        let start = Instant::now();
        loop {
            match self.child.try_wait().expect("our own child") {
                Some(status) => return status,
                None if start.elapsed() > PATIENCE => panic!("{} ignores SIGTERM:\n{}", self.setup.name, self.log()),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Starts the process again with the ports it had, so that its peers and clients find it. It must have ended.
    pub fn restart(&mut self) {
        let setup = Setup { stomp: self.stomp, peer: self.peer, admin: self.admin, ..self.setup.clone() };
        // Another process may hold a port for a moment as the local end of a connection.
        let node = eventually("restart", || match Self::try_start(setup.clone()) {
            Ok(node) => Ok(node),
            Err(failed) if failed.status.and_then(|status| status.code()) == Some(4) => Err(failed),
            Err(failed) => panic!("node {} did not get ready again: {failed}", setup.name),
        });
        let setup = self.setup.clone();
        *self = node;
        self.setup = setup;
    }

    /// Deletes the data directory. The process must have ended.
    pub fn wipe(&self) {
        std::fs::remove_dir_all(&self.setup.data).expect("the data directory of the test");
    }

    /// Waits for the process to end by itself.
    ///
    /// # Panics
    /// When it does not end within twice the usual patience.
    pub fn await_end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            match self.child.try_wait().expect("our own child") {
                Some(status) => return status,
                None if start.elapsed() > 2 * PATIENCE => panic!("{} runs on:\n{}", self.setup.name, self.log()),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// What it logged since the test began, all lives of the node together.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A new STOMP 1.2 connection.
    pub fn client(&self) -> Client {
        Client::connect(self.stomp).unwrap_or_else(|error| panic!("no client at {}: {error}", self.setup.name))
    }

    /// Runs an admin command against the node; its standard output, or its standard error when it fails.
    pub fn ask(&self, command: &str, args: &[&str]) -> Result<String, String> {
        self.ask_in(&[command], args)
    }

    /// As [`Node::ask`], for a command below others.
    pub fn ask_in(&self, commands: &[&str], args: &[&str]) -> Result<String, String> {
        let output = program(self.setup.namespace.as_deref())
            .args(commands)
            .args(["--admin", &self.admin.to_string()])
            .args(args)
            .env_remove("RHIZOMQ_ADMIN")
            .output()
            .expect("the program under test starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Makes a user.
    ///
    /// # Panics
    /// When that is refused.
    pub fn add_user(&self, name: &str, passcode: &str, args: &[&str]) {
        let args = [&[name, "--passcode-stdin"], args].concat();
        self.tell(&["user", "add"], &args, passcode).unwrap_or_else(|error| panic!("no user {name}: {error}"));
    }

    /// As [`Node::ask_in`], with something on standard input.
    pub fn tell(&self, commands: &[&str], args: &[&str], input: &str) -> Result<String, String> {
        let mut child = program(self.setup.namespace.as_deref())
            .args(commands)
            .args(["--admin", &self.admin.to_string()])
            .args(args)
            .env_remove("RHIZOMQ_ADMIN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program under test starts");
        // It may end without reading.
        let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("our own child");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// A join ticket.
    pub fn ticket(&self) -> String {
        self.ask("ticket", &[]).expect("a ticket")
    }

    /// The status object.
    pub fn status(&self) -> Result<Value, String> {
        serde_json::from_str(&self.ask("status", &["--json"])?).map_err(|error| error.to_string())
    }

    /// Messages that the reachable cluster has in a queue, as this node sees it.
    pub fn depth(&self, queue: &str) -> Result<u64, String> {
        let status = self.status()?;
        let queues = status["queues"].as_array().ok_or("no queues in the status")?;
        let entry = queues.iter().find(|entry| entry["name"] == queue);
        Ok(entry.and_then(|entry| entry["depth"].as_u64()).unwrap_or(0))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            println!("--- log of {} ---\n{}", self.setup.name, lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}
