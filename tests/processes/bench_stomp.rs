//! `rhizomq bench stomp`: that it counts right, finds what a broker does wrong, and leaves nothing behind. How fast anything
//! is, is no question here.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

use crate::support::{
    eventually,
    node::{Node, PROGRAM, Setup},
};

/// So little of everything that it takes no time.
const BRIEF: &str = "bench stomp --rounds 1 --backlog 50 --size 64 --window 1,20 --rate 200 --subscribers 1,3 --json";

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().envs(std::env::vars().filter(|(key, _)| !key.starts_with("RHIZOMQ_")));
    command.args(BRIEF.split(' ')).arg("--dir").arg(dir).args(args).stdin(Stdio::null());
    command
}

fn bench(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().expect("the program under test starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn result(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", stderr(output)))
}

/// Whether any process was started with something below this directory.
fn anybody_in(dir: &Path) -> bool {
    let (Ok(processes), dir) = (std::fs::read_dir("/proc"), dir.to_str().expect("a path of text")) else {
        return false;
    };
    let lines = processes.flatten().filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).any(|line| line.contains(dir))
}

#[test]
fn every_message_of_every_workload_is_accounted_for() {
    let (dir, report) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let args =
        ["--round-ms", "60", "--nodes", "2", "--copies", "2", "--connections", "1,3", "--consumers", "2", "--report"];
    let output = bench(dir.path(), &[&args[..], &[report.path().to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "", "no bars where there is no terminal");
    let result = result(&output);
    assert_eq!(result["problems"].as_array().map(Vec::len), Some(0), "{result}");
    let figures = result["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 4 + 6 + 2 + 2, "{result}");
    for figure in figures {
        let number = |name: &str| figure[name].as_u64().unwrap_or_else(|| panic!("no {name}: {figure}"));
        let (sent, received) = (number("sent"), number("received"));
        let expected = match figure["workload"].as_str().unwrap() {
            "send" => sent,
            "consume" => 50,
            // 60 ms of 200 a second.
            "latency" => 12,
            "fanout" => sent * number("subscribers"),
            other => panic!("{other}"),
        };
        assert!(sent > 0 && received == expected, "{figure}");
        assert_eq!(figure["broker"], "rhizomq");
        assert!(figure["per_s"]["median"].as_f64() > Some(0.0), "{figure}");
        let has = |pointer: &str| figure.pointer(pointer).and_then(Value::as_f64) > Some(0.0);
        match figure["workload"].as_str().unwrap() {
            "latency" => assert!(has("/times_ms/p99.9/median") && has("/p50_ratio"), "{figure}"),
            "send" => assert!(has("/limits/disk_per_s") && has("/times_ms/p50/max") && has("/reached"), "{figure}"),
            _ => assert!(has("/limits/tcp_per_s") && has("/reached"), "{figure}"),
        }
    }
    let page = std::fs::read_to_string(report.path().join("index.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 4, "{page}");
    for outside in ["src=", "href=", "<script", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "what was written is deleted");
    assert!(!anybody_in(dir.path()), "the nodes have ended");
}

#[test]
fn another_broker_is_asked_as_the_user_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(Setup::new(dir.path(), "n"));
    node.add_user("ada", "secret", &[]);
    let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
    std::fs::write(&good, "secret\n").unwrap();
    std::fs::write(&bad, "guessed\n").unwrap();
    let broker = format!("it={}", node.stomp);
    let ask = |file: &Path| {
        let args = [
            "--round-ms",
            "60",
            "--workload",
            "send,consume",
            "--broker",
            &broker,
            "--login",
            "ada",
            "--header",
            "colour:blue",
        ];
        bench(dir.path(), &[&args[..], &["--passcode-file", file.to_str().unwrap()]].concat())
    };
    let output = ask(&good);
    assert!(output.status.success(), "{}", stderr(&output));
    let result = result(&output);
    assert_eq!(result["figures"].as_array().unwrap().len(), 4 + 3, "{result}");
    assert!(result["figures"].as_array().unwrap().iter().all(|figure| figure["broker"] == "it"), "{result}");
    assert_eq!(node.depth("/queue/rhizomq-bench.send"), Ok(0));
    let output = ask(&bad);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("ERROR"), "{}", stderr(&output));
}

/// What is wrong with a broker.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    LosesOne,
    DeliversOneTwice,
    ConfirmsOneTwice,
    ConfirmsOneNever,
}

/// A broker with a fault, for one queue; it goes on until the test ends.
fn faulty(fault: Fault) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket on loopback");
    let address = listener.local_addr().expect("it is bound").to_string();
    let bodies = Arc::new(Mutex::new(Vec::new()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let bodies = Arc::clone(&bodies);
            // The generator goes away in the middle of it: that is no concern of the test.
            thread::spawn(move || serve(&stream, fault, &bodies));
        }
    });
    address
}

fn serve(mut stream: &TcpStream, fault: Fault, bodies: &Mutex<Vec<Vec<u8>>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_matches(['\n', '\0']) {
                "" if headers.is_empty() => {}
                "" => break,
                text => headers.push(text.to_owned()),
            }
        }
        let header = |name: &str| headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let length = header("content-length").map_or(0, |length| length.parse().expect("a length"));
        let mut body = vec![0; length + 1];
        reader.read_exact(&mut body)?;
        body.truncate(length);
        let mut repeats = 1;
        match headers[0].as_str() {
            "CONNECT" => stream.write_all(b"CONNECTED\nversion:1.2\n\n\0")?,
            "SEND" => {
                let mut bodies = bodies.lock().unwrap();
                bodies.push(body);
                let is_third = bodies.len() == 3;
                match fault {
                    Fault::ConfirmsOneTwice if is_third => repeats = 2,
                    Fault::ConfirmsOneNever if is_third => repeats = 0,
                    Fault::LosesOne if is_third => drop(bodies.pop()),
                    Fault::DeliversOneTwice if is_third => {
                        let body = bodies[0].clone();
                        bodies.insert(1, body);
                    }
                    _ => {}
                }
            }
            "SUBSCRIBE" => {
                for (number, body) in std::mem::take(&mut *bodies.lock().unwrap()).into_iter().enumerate() {
                    let head = format!("MESSAGE\nmessage-id:{number}\nack:{number}\ncontent-length:{}\n\n", body.len());
                    stream.write_all(&[head.as_bytes(), &body, b"\0"].concat())?;
                }
            }
            _ => {}
        }
        if let Some(receipt) = header("receipt") {
            for _ in 0..repeats {
                stream.write_all(format!("RECEIPT\nreceipt-id:{receipt}\n\n\0").as_bytes())?;
            }
        }
    }
}

#[test]
fn what_a_broker_loses_or_repeats_is_told_and_ends_with_code_1() {
    let dir = tempfile::tempdir().unwrap();
    for (fault, word) in [
        (Fault::LosesOne, "of 13 messages never came"),
        (Fault::DeliversOneTwice, "1 deliveries came again"),
        (Fault::ConfirmsOneTwice, "a receipt came twice"),
        (Fault::ConfirmsOneNever, "1 of 13 receipts never came"),
    ] {
        let args = ["--workload", "consume", "--ack", "client", "--prefetch", "1", "--patience", "1"];
        let output = bench(dir.path(), &[&args[..], &["--broker", &faulty(fault)]].concat());
        assert_eq!(output.status.code(), Some(1), "{word}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{word}: {}", stderr(&output));
        assert!(result(&output)["problems"].as_array().is_some_and(|all| !all.is_empty()), "{word}");
    }
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command(dir.path(), &["--nodes", "2", "--round-ms", "60000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program under test starts");
    eventually("nodes", || if anybody_in(&dir.path().join("rhizomq-bench")) { Ok(()) } else { Err("none yet") });
    let kill = Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status();
    assert!(kill.expect("sh runs").success());
    let mut text = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut text).expect("text");
    assert_eq!(child.wait().expect("our own child").code(), Some(1), "{text}");
    assert!(text.contains("interrupted"), "{text}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "what was written is deleted");
    assert!(!anybody_in(&dir.path().join("rhizomq-bench")), "the nodes have ended");
}
