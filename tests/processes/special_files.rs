//! Named pipes in the places of files, logs that lost their end: commands end in bounded time and say what is wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    cluster::publish_all,
    node::{Node, PROGRAM, Setup},
};

/// Longer than any of these commands takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a command, and fails if it does not end.
fn rhizomq(args: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.env_clear().envs(std::env::vars().filter(|(key, _)| !key.starts_with("RHIZOMQ_")));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program under test starts");
    let begun = Instant::now();
    while child.try_wait().expect("a child of ours").is_none() {
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("{args:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("it has ended")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn pipe_at(path: &Path) {
    let _ = fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

fn verify(data: &Path) -> (Option<i32>, Value) {
    let output = rhizomq(&["verify", "--data", data.to_str().unwrap(), "--json"]);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output))))
}

fn places(node: &Node) -> u64 {
    node.status().expect("a status")["damage"]["places"].as_u64().expect("a number")
}

/// A node that was killed: nothing of its log has been brought to the index.
fn killed(dir: &Path) -> (Node, PathBuf) {
    let mut node = Node::start(Setup::new(dir, "n"));
    publish_all(&node, "/queue/q", &(0..200).map(|number| format!("m-{number}")).collect());
    node.kill();
    let store = node.setup.data.join("store");
    (node, store)
}

#[test]
fn a_pipe_in_the_place_of_a_file_of_the_store_stops_neither_verify_nor_serve() {
    for name in ["log/0000000001.log", "marker", "FORMAT", "synced"] {
        let dir = tempfile::tempdir().unwrap();
        let (mut node, store) = killed(dir.path());
        pipe_at(&store.join(name));
        let data = node.setup.data.clone();
        if name.starts_with("log") {
            let (code, report) = verify(&data);
            assert!(code == Some(1) && report.to_string().contains("no regular file"), "{name}: {report}");
        } else {
            rhizomq(&["verify", "--data", data.to_str().unwrap()]);
        }
        node.restart();
        assert!(node.log().contains("no regular file"), "{name}: {}", node.log());
        assert!(places(&node) > 0, "{name}");
        assert!(store.join(format!("{name}.no-file-1")).exists(), "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    let (node, store) = killed(dir.path());
    pipe_at(&store.join("lock"));
    let verified = rhizomq(&["verify", "--data", node.setup.data.to_str().unwrap()]);
    assert_eq!(verified.status.code(), Some(2), "{}", text(&verified));
    let failed = Node::try_start(Setup::new(dir.path(), "n")).err().expect("a pipe as lock");
    assert!(failed.status.is_some_and(|status| status.code() == Some(3)), "{failed}");
    assert!(failed.log.contains("lock is no regular file; move it away"), "{failed}");
}

#[test]
fn a_pipe_in_a_backup_does_not_stop_restore() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(Setup::new(dir.path(), "n"));
    publish_all(&node, "/queue/q", &["m".to_owned()].into());
    let backup = dir.path().join("backup");
    node.ask("backup", &[backup.to_str().unwrap()]).unwrap();
    node.terminate();
    let to = dir.path().join("restored");
    for name in ["manifest", "store/FORMAT", "store/synced", "store/log/0000000001.log", "identity.key"] {
        let good = fs::read(backup.join(name)).unwrap();
        pipe_at(&backup.join(name));
        let refused = rhizomq(&["restore", backup.to_str().unwrap(), "--data", to.to_str().unwrap()]);
        assert!(!refused.status.success() && text(&refused).contains("no regular file"), "{name}: {}", text(&refused));
        assert!(!to.exists(), "{name}");
        fs::remove_file(backup.join(name)).unwrap();
        fs::write(backup.join(name), good).unwrap();
    }
    assert!(rhizomq(&["restore", backup.to_str().unwrap(), "--data", to.to_str().unwrap()]).status.success());
    let (code, report) = verify(&to);
    assert!(code == Some(0) && !report.to_string().contains("synced is"), "{report}");
}

/// A log that was cut off behind its last checkpoint: what was confirmed is missed, and told.
#[test]
fn a_killed_node_whose_log_lost_its_end_says_what_is_gone() {
    for keep in [0.0, 0.5] {
        let dir = tempfile::tempdir().unwrap();
        let (mut node, store) = killed(dir.path());
        let (code, report) = verify(&node.setup.data);
        assert_eq!(code, Some(0), "{report}");
        let log = store.join("log/0000000001.log");
        let len = fs::metadata(&log).unwrap().len();
        fs::File::options().write(true).open(&log).unwrap().set_len((len as f64 * keep) as u64).unwrap();
        let (code, report) = verify(&node.setup.data);
        assert!(code == Some(1) && report.to_string().contains("last frames are lost"), "{report}");
        node.restart();
        let log = node.log();
        assert!(log.lines().any(|line| line.contains("ERROR") && line.contains("last frames are lost")), "{log}");
        assert!(places(&node) > 0, "it counts");
    }
}
