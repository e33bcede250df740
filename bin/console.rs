//! What `serve` says on standard output: lines for people, or JSON lines for programs.

use std::{io::Write, net::SocketAddr, path::Path};

use serde_json::{Value, json};

/// The addresses and names of a node that is up.
pub(crate) struct Ready<'a> {
    pub(crate) stomp: SocketAddr,
    /// Where else clients connect, by name.
    pub(crate) others: Vec<(&'static str, SocketAddr)>,
    pub(crate) peer: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) node: String,
    pub(crate) name: &'a str,
}

/// Standard output.
pub(crate) struct Console {
    pub(crate) json: bool,
}

impl Console {
    /// Where the data is.
    pub(crate) fn opened(&self, data: &Path, fresh: bool) {
        let state = if fresh { "new" } else { "found" };
        self.say(
            || format!("data in {} ({state})", data.display()),
            || json!({ "event": "opened", "data": data, "fresh": fresh }),
        );
    }

    /// The line that tools wait for.
    pub(crate) fn ready(&self, ready: &Ready<'_>) {
        let Ready { stomp, others, peer, admin, node, name } = ready;
        self.say(
            || {
                let others: String = others.iter().map(|(kind, address)| format!(" {kind}={address}")).collect();
                format!("ready stomp={stomp}{others} peer={peer} admin={admin} node={node} name={name}")
            },
            || {
                let mut event =
                    json!({ "event": "ready", "stomp": stomp, "peer": peer, "admin": admin, "node": node, "name": name });
                for (kind, address) in others {
                    event[*kind] = json!(address);
                }
                event
            },
        );
    }

    /// Who is let in, if that is not only who has logged in.
    pub(crate) fn tell_of_users(&self, has_users: bool, require_login: bool) {
        if has_users {
            return;
        }
        let text = if require_login {
            "no users are known here: nobody is let in until there is one (`rhizomq user add NAME`)"
        } else {
            "no users are known here: clients of this machine are let in without a login, and no others \
             (`rhizomq user add NAME`)"
        };
        tracing::info!("{text}");
        self.say(|| format!("users: {text}"), || json!({ "event": "users", "users": 0, "text": text }));
    }

    /// Others than this machine can reach these addresses, and read what crosses the network.
    pub(crate) fn warn_of_open_doors(&self, open: &[(&'static str, SocketAddr)]) {
        if open.is_empty() {
            return;
        }
        let doors: Vec<String> = open.iter().map(|(flag, address)| format!("{flag} {address}")).collect();
        let doors = doors.join(", ");
        let warning = "others than this machine can reach it, and passcodes and messages cross the network in the clear: \
            --stomp-tls and --stomp-wss encrypt them";
        tracing::warn!(doors, "{warning}");
        self.say(
            || format!("WARNING {doors}: {warning}"),
            || json!({ "event": "warning", "doors": doors, "warning": warning }),
        );
    }

    /// What to do next, for whoever starts a node for the first time.
    pub(crate) fn next_steps(&self, ready: &Ready<'_>) {
        if self.json {
            return;
        }
        let at = |default: &str| match ready.admin.to_string() {
            admin if admin == default => String::new(),
            admin => format!(" --admin {admin}"),
        };
        let admin = at(crate::config::DEFAULT_ADMIN);
        self.line(&format!("next: connect a STOMP client to {}, send to /queue/hello, subscribe to it", ready.stomp));
        self.line(&format!("      `rhizomq status{admin}` shows what is there"));
        self.line(&format!(
            "      `rhizomq ticket{admin}` prints what a second node needs: rhizomq serve --join TICKET"
        ));
        if ready.stomp.ip().is_loopback() {
            self.line(&format!(
                "      clients of this machine only: `rhizomq user add NAME{admin}` makes a user for others; then --stomp-tls \
                 opens it to the network"
            ));
        }
    }

    /// The store is read back from disk after a failed write: a new life in the same process.
    pub(crate) fn reopened(&self, epoch: &str) {
        self.say(
            || format!("reopened epoch={epoch}: the store was read back from disk after a failed write"),
            || json!({ "event": "reopened", "epoch": epoch }),
        );
    }

    /// A signal came.
    pub(crate) fn stopping(&self) {
        self.say(|| "stopping".to_owned(), || json!({ "event": "stopping" }));
    }

    /// Everything is written and closed.
    pub(crate) fn stopped(&self) {
        self.say(|| "stopped".to_owned(), || json!({ "event": "stopped" }));
    }

    fn say(&self, text: impl FnOnce() -> String, object: impl FnOnce() -> Value) {
        self.line(&if self.json { object().to_string() } else { text() });
    }

    /// Whoever reads may be gone; a broker does not end because of that.
    fn line(&self, line: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
