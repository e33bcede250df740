//! Bad input from clients, peers, people and disks: a clear error each, and nobody else is harmed.

use std::{
    net::UdpSocket,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rhizomq_net::{Ticket, rim::NetworkSecret};

use crate::support::{
    Chance,
    cluster::{Cluster, Ledger, alive, consume_all, publish_all, texts},
    eventually,
    node::{Node, Setup},
    skipped,
    stomp::Client,
};

#[test]
fn garbage_and_overlong_frames_on_the_stomp_port_harm_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(Setup::new(dir.path(), "n"));
    let mut bystander = node.client();
    let mut chance = Chance::new();
    for length in [1usize, 100, 70_000] {
        let mut bytes: Vec<u8> = (0..length).map(|_| chance.below(256) as u8).collect();
        // Ends whatever frame the bytes may look like, so that there is something to refuse.
        bytes.extend_from_slice(b"\n\n\0\0");
        let mut client = Client::raw(node.stomp).unwrap();
        // The broker may close in the middle of it.
        let _ = client.write_raw(&bytes);
        let frames = client.until_closed();
        assert!(frames.iter().all(|frame| frame.command == "ERROR"), "{frames:?}");
    }

    let mut client = node.client();
    let line = format!("SEND\ndestination:/queue/q\nlong:{}\n\n\0", "x".repeat(1 << 20));
    let _ = client.write_raw(line.as_bytes());
    assert_refused(client);

    let mut client = node.client();
    client.write_raw(b"SEND\ndestination:/queue/q\ncontent-length:999999999999\n\n").unwrap();
    assert_refused(client);

    bystander.send_confirmed("/queue/q", b"still here").unwrap();
    assert_eq!(node.depth("/queue/q"), Ok(1));
}

fn assert_refused(mut client: Client) {
    let frames = client.until_closed();
    let last = frames.last().unwrap_or_else(|| panic!("closed without a word"));
    assert_eq!(last.command, "ERROR");
    assert!(!last.header("message").is_empty(), "{last}");
}

#[test]
fn garbage_on_the_peer_port_harms_nobody() {
    let cluster = Cluster::start(2);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut chance = Chance::new();
    for _ in 0..2_000 {
        let length = 1 + chance.below(1400) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| chance.below(256) as u8).collect();
        if chance.below(2) == 0 {
            // Looks like the first packet of a QUIC connection.
            bytes[0] = 0xc0;
            bytes.resize(1200, 0);
            bytes[1..5].copy_from_slice(&[0, 0, 0, 1]);
        }
        let _ = socket.send_to(&bytes, cluster.nodes[0].peer);
    }
    let wanted = texts("m", 100);
    publish_all(&cluster.nodes[0], "/queue/q", &wanted);
    consume_all(&cluster.nodes[1], "/queue/q", &wanted, &mut Ledger::default());
}

#[test]
fn a_node_without_the_networks_secret_is_refused_and_the_log_says_why() {
    let cluster = Cluster::start(2);
    let elsewhere = tempfile::tempdir().unwrap();
    // A node of another network that has been told our addresses: a right ticket but for the secret.
    let mut ticket: Ticket = cluster.nodes[0].ticket().parse().unwrap();
    ticket.secret = NetworkSecret::generate().unwrap();
    let mut setup = Setup::new(elsewhere.path(), "stranger");
    setup.join = Some(ticket.to_string());
    let stranger = Node::start(setup);
    eventually("the refusal in the log", || {
        let log = cluster.nodes[0].log();
        if log.contains("secret") { Ok(()) } else { Err(log) }
    });
    assert_eq!(alive(&stranger).unwrap().len(), 1, "the stranger must be alone");
    let wanted = texts("m", 20);
    publish_all(&cluster.nodes[0], "/queue/q", &wanted);
    assert_eq!(stranger.depth("/queue/q"), Ok(0));
    consume_all(&cluster.nodes[1], "/queue/q", &wanted, &mut Ledger::default());
}

#[test]
fn a_data_directory_of_another_format_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(Setup::new(dir.path(), "n"));
    node.client().send_confirmed("/queue/q", b"kept").unwrap();
    node.kill();
    let format = node.setup.data.join("store/FORMAT");
    let text = std::fs::read_to_string(&format).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let (title, _) = first.rsplit_once(' ').unwrap();
    std::fs::write(&format, format!("{title} 999\n{rest}")).unwrap();

    let failed = Node::try_start(Setup::new(dir.path(), "n")).err().expect("version 999 is unknown");
    assert_eq!(failed.status.and_then(|status| status.code()), Some(3), "{failed}");
    assert!(failed.log.contains("version 999"), "{failed}");

    std::fs::write(&format, text).unwrap();
    node.restart();
    // A node that has just begun its life may not have counted yet.
    eventually("what was kept", || match node.depth("/queue/q") {
        Ok(1) => Ok(()),
        other => Err(format!("{other:?}: the refusal must not touch anything")),
    });
}

#[test]
fn flipped_bytes_in_the_data_files_are_found_reported_and_mended_from_the_others() {
    let mut cluster = Cluster::start(3);
    let wanted = texts("m", 2_000);
    publish_all(&cluster.nodes[0], "/queue/q", &wanted);
    cluster.await_convergence();
    cluster.nodes[0].kill();
    let mut chance = Chance::new();
    let flipped = flip_bytes(&cluster.nodes[0].setup.data.join("store"), 40, &mut chance);
    assert!(flipped > 0, "there was something to damage");
    let before = cluster.nodes[0].log().len();
    cluster.nodes[0].restart();
    cluster.await_mesh();
    cluster.await_convergence();
    let log = cluster.nodes[0].log().split_off(before);
    assert!(log.contains("damage"), "no word about the damage:\n{log}");
    let places = cluster.nodes[0].status().unwrap()["damage"]["places"].as_u64();
    assert!(places > Some(0), "what was found on opening counts: {places:?}");
    consume_all(&cluster.nodes[1], "/queue/q", &wanted, &mut Ledger::default());
}

/// Flips `count` bytes spread over the files below `dir`.
fn flip_bytes(dir: &Path, count: u64, chance: &mut Chance) -> u64 {
    let mut files = Vec::new();
    collect_files(dir, &mut files);
    let files: Vec<PathBuf> = files.into_iter().filter(|path| path.metadata().unwrap().len() > 1024).collect();
    let mut flipped = 0;
    for path in &files {
        let mut bytes = std::fs::read(path).unwrap();
        for _ in 0..count.div_ceil(files.len() as u64) {
            let at = chance.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << chance.below(8);
            flipped += 1;
        }
        std::fs::write(path, bytes).unwrap();
    }
    flipped
}

fn collect_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            collect_files(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

#[test]
fn a_full_disk_is_told_to_the_producer_and_room_is_enough_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path().join("n")) else {
        return skipped("a_full_disk_is_told_to_the_producer_and_room_is_enough_to_go_on", "cannot mount a tmpfs here");
    };
    let mut node = Node::start(Setup::new(dir.path(), "n"));
    let mut producer = node.client();
    let mut confirmed = std::collections::BTreeSet::new();
    let body = "x".repeat(16 * 1024);
    let error = (0..100_000).find_map(|number| {
        let text = format!("{number} {body}");
        match producer.send_confirmed("/queue/q", text.as_bytes()) {
            Ok(_) => {
                confirmed.insert(text);
                None
            }
            Err(error) => Some(error.to_string()),
        }
    });
    let error = error.expect("a disk of a few MiB gets full");
    assert!(error.contains("ERROR") && error.contains("full"), "{error}");
    assert!(node.is_running(), "a full disk ends no node:\n{}", node.log());
    assert!(!confirmed.is_empty());

    disk.enlarge();
    eventually("the node takes messages again", || {
        let mut producer = Client::connect(node.stomp)?;
        producer.send_confirmed("/queue/later", b"again").map(|_| ())
    });
    consume_all(&node, "/queue/q", &confirmed, &mut Ledger::default());
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn what_is_consumed_on_a_full_disk_is_written_down_while_producers_try_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path().join("n")) else {
        return skipped(
            "what_is_consumed_on_a_full_disk_is_written_down_while_producers_try_again_and_again",
            "cannot mount a tmpfs here",
        );
    };
    let mut node = Node::start(Setup::new(dir.path(), "n"));
    let body = "x".repeat(16 * 1024);
    let mut producer = node.client();
    let full = (0..100_000).find(|_| producer.send_confirmed("/queue/q", body.as_bytes()).is_err());
    let confirmed = full.expect("a disk of a few MiB gets full") as u64;
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let acknowledged = 20;
    let stomp = node.stomp;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = Client::connect(stomp)
                        .and_then(|mut client| client.send_confirmed("/queue/more", body.as_bytes()).map(drop));
                }
            });
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut consumer = node.client();
            consumer.subscribe("0", "/queue/q").unwrap();
            let mut messages = Vec::new();
            let mut receipts = 0;
            while receipts < acknowledged {
                // A receipt says that it is on the disk.
                let frame = consumer.next_frame(Duration::from_secs(30)).unwrap();
                match frame.command.as_str() {
                    "RECEIPT" => receipts += 1,
                    "MESSAGE" => messages.push(frame),
                    _ => panic!("{frame}"),
                }
                // Here and there, so that no block is consumed whole, and one after the other.
                if messages.len() == 2 {
                    let id = messages[1].header("ack").to_owned();
                    consumer.write("ACK", &[("id", &id), ("receipt", &id)], b"").unwrap();
                    messages.clear();
                }
            }
        }));
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    node.kill();
    disk.enlarge();
    node.restart();
    let depth = eventually("the queue", || node.depth("/queue/q"));
    assert!(depth <= confirmed - acknowledged, "{depth} of {confirmed} are left");
}

/// A file system of a few MiB; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where that is not allowed.
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).ok()?;
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&at).output().ok()?;
        done.status.success().then_some(Self(at))
    }

    fn enlarge(&self) {
        let done = Command::new("mount").args(["-o", "remount,size=256m"]).arg(&self.0).status();
        assert!(done.expect("mount runs").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the node may still have files open when a test fails.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn more_clients_than_files_may_be_open_take_nothing_from_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(Setup { files: Some(256), ..Setup::new(dir.path(), "n") });
    let mut client = node.client();
    let idle: Vec<_> = (0..400).map_while(|_| Client::raw(node.stomp).ok()).collect();
    // Few enough to find room in the queue of those that wait to be accepted.
    let callers: Vec<_> = (0..100).map_while(|_| std::net::TcpStream::connect(node.admin).ok()).collect();
    // Log files of 64 MiB come to their ends, and checkpoints write the index: all of that opens files.
    let body = vec![7; 8 << 20];
    for _ in 0..20 {
        client.send_confirmed("/queue/q", &body).unwrap();
    }
    assert!(node.is_running(), "{}", node.log());
    assert!(node.log().contains("too many clients"), "{}", node.log());
    assert!(!node.log().contains("new life"), "{}", node.log());
    drop((idle, callers));
    eventually("a place is free again", || Client::connect(node.stomp));
    assert_eq!(node.depth("/queue/q"), Ok(20));

    let Err(failed) = Node::try_start(Setup { files: Some(64), ..Setup::new(dir.path(), "m") }) else {
        panic!("it started")
    };
    assert!(failed.log.contains("ulimit -n"), "{failed}");
}

#[test]
fn idle_connections_do_not_keep_others_from_the_admin_interface() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(Setup::new(dir.path(), "n"));
    let idle: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(node.admin).unwrap()).collect();
    eventually("the status", || node.status().map(drop));
    drop(idle);
}
