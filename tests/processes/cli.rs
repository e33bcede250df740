//! What the command line promises: exit codes, the `ready` line, clear errors, the admin commands.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::{
    cluster::Cluster,
    node::{Node, PROGRAM, Setup},
};

fn rhizomq(args: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.env_clear().envs(std::env::vars().filter(|(key, _)| !key.starts_with("RHIZOMQ_")));
    command.args(args).stdin(Stdio::null()).output().expect("the program under test starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_names_every_command_and_the_first_steps() {
    let help = String::from_utf8(rhizomq(&["--help"]).stdout).unwrap();
    for word in ["serve", "ticket", "status", "verify", "backup", "restore", "user", "bench", "First steps", "61613"] {
        assert!(help.contains(word), "{word} is missing:\n{help}");
    }
    let help = String::from_utf8(rhizomq(&["serve", "--help"]).stdout).unwrap();
    for word in ["RHIZOMQ_DATA", "--advertise", "Exit codes", "RECEIPT"] {
        assert!(help.contains(word), "{word} is missing:\n{help}");
    }
}

#[test]
fn wrong_settings_end_with_code_2_and_say_what_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r.toml");
    std::fs::write(&file, "copys = 3\n").unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    for (args, word) in [
        (vec!["--config", file.to_str().unwrap()], "copys"),
        (vec!["--copies", "2", "--confirm", "3"], "--confirm is 3"),
        (vec!["--memory", "64MB"], "from 8 MiB to 1 TiB"),
        (vec!["--memory", "1M"], "--memory is `1M`"),
        (vec!["--stomp", "everywhere"], "--stomp"),
        (vec!["--join", "not a ticket"], "ticket"),
        (vec!["--log", "rhizomq=nonsense"], "log filter"),
        (vec!["--require-login=maybe"], "--require-login"),
    ] {
        let output = rhizomq(&[&["serve", "--data", data][..], &args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{args:?}: {}", stderr(&output));
    }
    assert!(!std::path::Path::new(data).exists(), "nothing may be created before the settings are known to be good");
}

#[test]
fn a_data_directory_that_cannot_be_used_ends_with_code_3() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let mut setup = Setup::new(dir.path(), "n");
    setup.data = file;
    let failed = Node::try_start(setup).err().expect("a file is no directory");
    assert_eq!(failed.status.and_then(|status| status.code()), Some(3), "{failed}");

    let node = Node::start(Setup::new(dir.path(), "first"));
    let failed = Node::try_start(Setup::new(dir.path(), "first")).err().expect("it is in use");
    assert_eq!(failed.status.and_then(|status| status.code()), Some(3), "{failed}");
    assert!(failed.log.contains("in use"), "{failed}");
    assert!(node.status().is_ok());
}

#[test]
fn a_taken_address_ends_with_code_4_and_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(dir.path(), "n");
    setup.stomp = taken.local_addr().unwrap();
    let address = setup.stomp.to_string();
    let failed = Node::try_start(setup).err().expect("the address is taken");
    assert_eq!(failed.status.and_then(|status| status.code()), Some(4), "{failed}");
    assert!(failed.log.contains(&address) && failed.log.contains("--stomp"), "{failed}");
}

#[test]
fn json_output_is_json_lines_with_a_ready_event() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["serve", "--json", "--stomp", "127.0.0.1:0", "--peer", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .arg("--data")
        .arg(dir.path().join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.map_while(Result::ok).map(|line| serde_json::from_str::<Value>(&line).expect("JSON"));
    let ready = ready.into_iter().find(|event| event["event"] == "ready");
    child.kill().unwrap();
    child.wait().unwrap();
    let ready = ready.expect("a ready event");
    for key in ["stomp", "peer", "admin"] {
        assert!(ready[key].as_str().is_some_and(|text| text.parse::<std::net::SocketAddr>().is_ok()), "{ready}");
    }
    assert!(ready["node"].is_string() && ready["name"].is_string(), "{ready}");
}

#[test]
fn status_and_ticket_are_clients_of_the_admin_address() {
    let cluster = Cluster::start(2);
    let node = &cluster.nodes[0];
    let status = node.status().unwrap();
    assert_eq!(status["node"], node.id.as_str());
    for key in ["name", "id", "epoch", "alive", "role", "version", "addresses"] {
        assert!(status["nodes"].as_array().unwrap().iter().all(|node| !node[key].is_null()), "{key}: {status}");
    }
    assert_eq!(status["digest"].as_str().map(str::len), Some(64), "{status}");
    let table = node.ask("status", &[]).unwrap();
    assert!(table.contains("NODE") && table.contains("alive"), "{table}");
    assert_eq!(node.ticket().lines().count(), 1);

    let output = rhizomq(&["status", "--admin", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no node answers at 127.0.0.1:1"), "{}", stderr(&output));
}

#[test]
fn who_stops_reading_what_a_command_says_makes_it_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(Setup::new(dir.path(), "n"));
    let admin = node.admin.to_string();
    let unread = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        writer
    };
    let run = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(args).args(["--admin", &admin]).stdin(Stdio::null());
        let output = command.stdout(unread()).stderr(Stdio::piped()).output().expect("the program under test starts");
        (output.status.code(), stderr(&output))
    };
    assert_eq!(run(&["status"]), (Some(0), String::new()));
    assert_eq!(run(&["verify"]), (Some(0), String::new()));
    // It is not done when nobody looks on any more.
    assert_eq!(run(&["drain"]), (Some(1), String::new()));
    let status = Command::new(PROGRAM).args(["status", "--admin", "127.0.0.1:1"]).stderr(unread()).status();
    assert_eq!(status.expect("the program under test starts").code(), Some(1));
}

#[test]
fn a_clean_stop_ends_with_code_0_and_closes_the_clients_connections() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(Setup::new(dir.path(), "n"));
    let mut client = node.client();
    assert_eq!(node.terminate().code(), Some(0));
    client.until_closed();
}

#[test]
fn the_benchmarks_put_every_figure_beside_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    for (what, lines) in [("store", 2), ("replicate", 3)] {
        let brief = ["--rounds", "1", "--round-ms", "50", "--batch", "10", "--json", "--dir"];
        let output = rhizomq(&[&["bench", what][..], &brief, &[dir.path().to_str().unwrap()]].concat());
        assert!(output.status.success(), "{what}: {}", stderr(&output));
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        let figures = result["figures"].as_array().unwrap();
        assert_eq!(figures.len(), lines, "{result}");
        assert!(figures.iter().all(|figure| figure["messages_per_s"].as_f64().unwrap() > 0.0), "{result}");
        let measured = |figure: &Value| figure["p50_ms"].as_f64().is_some_and(|ms| ms > 0.0);
        assert!(what != "store" || figures.iter().all(measured), "{result}");
        assert!(figures[1..].iter().all(|limit| limit["reached"].as_f64().unwrap() > 0.0), "{result}");
    }
    let brief = ["bench", "engine", "--messages", "2560", "--memory-messages", "25600", "--single-messages", "200"];
    let output = rhizomq(&[&brief[..], &["--rounds", "1", "--json", "--dir", dir.path().to_str().unwrap()]].concat());
    assert!(output.status.success(), "engine: {}", stderr(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = result["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 17, "{result}");
    // What each of so few messages takes is chance, and so is what is reckoned from it; both may be below nothing.
    let by_chance = ["- bytes for each more", "- ten million, by that"];
    let is_sure = |line: &&Value| !by_chance.contains(&line["what"].as_str().unwrap());
    assert!(lines.iter().filter(is_sure).all(|line| line["ratio"].as_f64().unwrap() > 0.0), "{result}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "what was written is deleted");
}
