//! What a node does about its disk: checks, scrub, quarantine, failed syncs, backups.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::Value;

use crate::support::{
    cluster::{Cluster, Ledger, consume_all, publish_all, texts},
    eventually,
    node::{Node, PROGRAM, Setup},
    skipped,
    stomp::Client,
};

fn rhizomq(args: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.env_clear().envs(std::env::vars().filter(|(key, _)| !key.starts_with("RHIZOMQ_")));
    command.args(args).output().expect("the program under test starts")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn verify(data: &Path) -> (Option<i32>, Value) {
    let output = rhizomq(&["verify", "--data", data.to_str().unwrap(), "--json"]);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    (output.status.code(), report)
}

fn log_files(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.setup.data.join("store/log")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Flips a byte in a message's body in the log; says where.
fn flip_body(node: &Node, body: &str) -> (String, u64) {
    for path in log_files(node) {
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(body.len()).position(|window| window == body.as_bytes()) {
            bytes[at] ^= 1;
            // In place: the running node has the file open.
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes[at..=at], at as u64).unwrap();
            return (format!("log/{}", path.file_name().unwrap().to_str().unwrap()), at as u64);
        }
    }
    panic!("`{body}` is in no log file");
}

fn damage(node: &Node, name: &str) -> u64 {
    node.status().expect("a status")["damage"][name].as_u64().expect("a number")
}

/// Large enough that its block lies in the log alone.
fn large(prefix: &str, count: usize) -> BTreeSet<String> {
    (0..count).map(|number| format!("{prefix}-{number:04}-{}", "x".repeat(2_000))).collect()
}

#[test]
fn a_stopped_node_is_checked_without_being_changed_and_damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(Setup::new(dir.path(), "n"));
    publish_all(&node, "/queue/q", &large("m", 50));
    let data = node.setup.data.clone();
    let running = rhizomq(&["verify", "--data", data.to_str().unwrap()]);
    assert_eq!(running.status.code(), Some(2), "{}", text(&running));
    assert!(text(&running).contains("--admin"), "{}", text(&running));
    node.terminate();
    let (code, report) = verify(&data);
    assert_eq!((code, &report["ok"]), (Some(0), &Value::Bool(true)), "{report}");
    assert!(report["checked"]["blocks"].as_u64() > Some(0), "{report}");

    // The keys beside the store count, too.
    let [key, aside] = ["identity.key", "aside"].map(|name| data.join(name));
    fs::rename(&key, &aside).unwrap();
    fs::set_permissions(data.join("network.secret"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, report) = verify(&data);
    let broken = report["broken"].as_array().unwrap();
    assert_eq!((code, broken.len()), (Some(1), 2), "{report}");
    assert!(broken[0]["part"] == "key" && broken[0]["file"] == "identity.key" && !key.exists(), "{report}");
    let output = text(&rhizomq(&["verify", "--data", data.to_str().unwrap()]));
    assert!(output.contains("BROKEN key: network.secret: other users") && output.contains("damage found"), "{output}");
    let refused = rhizomq(&["serve", "--data", data.to_str().unwrap()]);
    assert!(!refused.status.success() && text(&refused).contains("identity.key is missing"), "{}", text(&refused));
    assert!(!key.exists(), "a new key for an old store");
    fs::rename(&aside, &key).unwrap();
    fs::set_permissions(data.join("network.secret"), fs::Permissions::from_mode(0o600)).unwrap();

    let (file, at) = flip_body(&node, "m-0007-x");
    let (code, report) = verify(&data);
    assert_eq!(code, Some(1), "{report}");
    let broken = report["broken"].as_array().unwrap();
    let block = broken.iter().find(|found| found["part"] == "block").unwrap_or_else(|| panic!("{report}"));
    let (offset, len) = (block["offset"].as_u64().unwrap(), block["len"].as_u64().unwrap());
    assert!(block["file"] == file && (offset..offset + len).contains(&at), "{block}");
    assert!(block["segment"].is_string() && !block["slots"].as_array().unwrap().is_empty(), "{block}");
    assert!(broken.iter().any(|found| found["part"] == "log"), "{report}");
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(rhizomq(&["verify", "--data", empty.path().to_str().unwrap()]).status.code(), Some(2));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);

    // A node by itself says what it lost and goes on with the rest.
    node.restart();
    let lost = eventually("the loss in the status", || match damage(&node, "lost") {
        0 => Err("nothing lost yet".to_owned()),
        lost => Ok(lost),
    });
    let log = node.log();
    assert!(log.contains("slots={") || log.contains("slots {"), "the slots are not named:\n{log}");
    eventually("the rest", || match node.depth("/queue/q") {
        Ok(depth) if depth == 50 - lost => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(damage(&node, "repaired"), 0);
    node.client().send_confirmed("/queue/q", b"goes on").unwrap();
}

#[test]
fn damage_under_a_running_node_is_found_by_verify_and_mended_from_the_others() {
    let cluster = Cluster::start(2);
    let wanted = large("m", 60);
    publish_all(&cluster.nodes[0], "/queue/q", &wanted);
    let node = &cluster.nodes[0];
    let report: Value = serde_json::from_str(&node.ask("verify", &["--json"]).unwrap()).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    flip_body(node, "m-0011-x");
    let output = rhizomq(&["verify", "--admin", &node.admin.to_string()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("BROKEN block") && text(&output).contains("slots {"), "{}", text(&output));
    eventually("the repair", || {
        let (found, repaired, lost) = (damage(node, "found"), damage(node, "repaired"), damage(node, "lost"));
        if found > 0 && repaired == found && lost == 0 { Ok(()) } else { Err(format!("{found} {repaired} {lost}")) }
    });
    assert!(damage(node, "places") > 0);
    eventually("a store without damage", || match node.ask("verify", &[]) {
        Ok(_) => Ok(()),
        Err(report) => Err(report),
    });
    consume_all(node, "/queue/q", &wanted, &mut Ledger::default());
}

#[test]
fn the_scrub_finds_damage_that_nobody_asked_for() {
    let mut cluster = Cluster::start(2);
    let wanted = large("m", 30);
    publish_all(&cluster.nodes[0], "/queue/q", &wanted);
    flip_body(&cluster.nodes[0], "m-0003-x");
    eventually("the scrub", || match damage(&cluster.nodes[0], "repaired") {
        0 => Err(cluster.nodes[0].status().unwrap()["store"].to_string()),
        _ => Ok(()),
    });
    cluster.nodes[0].terminate();
}

#[test]
fn a_store_that_cannot_be_opened_is_set_aside_and_filled_again_from_the_others() {
    let mut cluster = Cluster::start(2);
    let wanted = texts("m", 300);
    publish_all(&cluster.nodes[0], "/queue/q", &wanted);
    cluster.await_convergence();
    cluster.nodes[0].kill();
    let store = cluster.nodes[0].setup.data.join("store");
    for path in log_files(&cluster.nodes[0]).into_iter().chain([store.join("FORMAT"), store.join("marker")]) {
        fs::write(path, "nothing that anyone can read").unwrap();
    }
    cluster.nodes[0].restart();
    cluster.await_mesh();
    cluster.await_convergence();
    let aside = cluster.nodes[0].setup.data.join("store.broken-1");
    assert!(aside.join("log").is_dir(), "the old store must be kept");
    let status = cluster.nodes[0].status().unwrap();
    assert!(status["store"]["set_aside"].as_str().unwrap().ends_with("store.broken-1"), "{status}");
    assert!(cluster.nodes[0].log().contains("STARTS EMPTY"), "{}", cluster.nodes[0].log());
    cluster.nodes[1].kill();
    consume_all(&cluster.nodes[0], "/queue/q", &wanted, &mut Ledger::default());
}

/// A library that makes every `fdatasync` fail as long as a file exists.
fn failing_disk(dir: &Path) -> Option<(PathBuf, PathBuf)> {
    let (source, library, flag) = (dir.join("fail.c"), dir.join("fail.so"), dir.join("fail-now"));
    let code = format!(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <errno.h>\n#include <unistd.h>\n\
         int fdatasync(int fd) {{ if (access(\"{}\", F_OK) == 0) {{ errno = EIO; return -1; }}\n\
         int (*real)(int) = (int (*)(int)) dlsym(RTLD_NEXT, \"fdatasync\"); return real(fd); }}\n",
        flag.display()
    );
    fs::write(&source, code).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    built.is_ok_and(|status| status.success()).then_some((library, flag))
}

#[test]
fn after_a_failed_sync_nothing_is_confirmed_until_the_store_is_read_back_in_a_new_life() {
    let dir = tempfile::tempdir().unwrap();
    let Some((library, flag)) = failing_disk(dir.path()) else {
        return skipped("after_a_failed_sync...", "no C compiler here");
    };
    let mut setup = Setup::new(dir.path(), "n").with(&["--memory", "10MiB"]);
    setup.env.push(("LD_PRELOAD".to_owned(), library.display().to_string()));
    let mut node = Node::start(setup);
    let epoch = |node: &Node| node.status().map(|status| status["nodes"][0]["epoch"].to_string());
    let first = epoch(&node).unwrap();
    let memory = |node: &Node| {
        let memory = node.status().unwrap()["memory"].clone();
        ["budget", "index_cache", "block_cache"].map(|name| memory[name].as_u64().expect("a number") >> 20)
    };
    assert_eq!(memory(&node), [10, 2, 8]);
    node.client().send_confirmed("/queue/q", b"before").unwrap();

    fs::write(&flag, "").unwrap();
    let error = node.client().send_confirmed("/queue/q", b"unsure").unwrap_err().to_string();
    assert!(error.contains("disk failed") && error.contains("Connect again"), "{error}");
    fs::remove_file(&flag).unwrap();
    eventually("the new life", || match node.status() {
        Ok(status) if status["store"]["reopened"].as_u64() > Some(0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_ne!(epoch(&node).unwrap(), first, "a new life has a new epoch");
    let status = node.status().unwrap();
    assert!(status["store"]["reopened_because"].as_str().unwrap().contains("sync"), "{status}");
    assert_eq!(memory(&node), [10, 2, 8], "the new life has the same budget");
    // At the same address.
    eventually("a confirmation", || Client::connect(node.stomp)?.send_confirmed("/queue/q", b"after").map(drop));
    let wanted = BTreeSet::from(["before".to_owned(), "after".to_owned()]);
    consume_all(&node, "/queue/q", &wanted, &mut Ledger::default());
    assert!(node.is_running());

    // A disk that stays broken ends the node, with a word.
    fs::write(&flag, "").unwrap();
    let _ = node.client().send_confirmed("/queue/q", b"lost");
    let status = node.await_end();
    assert_eq!(status.code(), Some(3), "{}", node.log());
    fs::remove_file(&flag).unwrap();
    node.restart();
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn a_backup_taken_under_load_restores_the_node_and_nothing_consumed_comes_back() {
    let mut cluster = Cluster::start(3);
    let before = texts("before", 1_000);
    publish_all(&cluster.nodes[0], "/queue/q", &before);
    let backup = cluster.dir.path().join("backup");
    let done = AtomicBool::new(false);
    let during = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut client = cluster.nodes[0].client();
            let mut sent = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let text = format!("during-{}", sent.len());
                client.send_confirmed("/queue/q", text.as_bytes()).unwrap();
                sent.insert(text);
            }
            sent
        });
        let said = cluster.nodes[0].ask("backup", &[backup.to_str().unwrap()]);
        done.store(true, Ordering::Relaxed);
        let said = said.unwrap();
        assert!(said.contains("identity key") && said.contains("must not run at the same time"), "{said}");
        load.join().unwrap()
    });
    let again = cluster.nodes[0].ask("backup", &[backup.to_str().unwrap()]).unwrap_err();
    assert!(again.contains("not empty"), "{again}");

    // Everything is consumed after the backup; then the node's disk is gone.
    let all: BTreeSet<String> = before.union(&during).cloned().collect();
    consume_all(&cluster.nodes[1], "/queue/q", &all, &mut Ledger::default());
    cluster.await_convergence();
    cluster.nodes[0].kill();
    let data = cluster.nodes[0].setup.data.clone();
    let restore =
        |backup: &Path, data: &Path| rhizomq(&["restore", backup.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    let refused = restore(&backup, &data);
    assert!(!refused.status.success() && text(&refused).contains("not empty"), "{}", text(&refused));
    cluster.nodes[0].wipe();
    let restored = restore(&backup, &data);
    assert!(restored.status.success(), "{}", text(&restored));
    assert!(text(&restored).contains("must not run"), "{}", text(&restored));
    let (code, report) = verify(&data);
    assert_eq!(code, Some(0), "{report}");

    cluster.nodes[0].restart();
    cluster.await_mesh();
    cluster.await_convergence();
    assert_eq!(cluster.nodes[0].depth("/queue/q"), Ok(0), "what was consumed stays consumed");
    let after = texts("after", 50);
    publish_all(&cluster.nodes[0], "/queue/q", &after);
    let mut ledger = Ledger::default();
    consume_all(&cluster.nodes[0], "/queue/q", &after, &mut ledger);
    let strange: Vec<_> = ledger.deliveries.keys().filter(|body| !after.contains(*body)).collect();
    assert!(strange.is_empty(), "delivered again: {strange:?}");
}

#[test]
fn a_backup_alone_has_all_that_was_confirmed_before_it_and_a_damaged_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(Setup::new(dir.path(), "n"));
    let wanted = large("m", 40);
    publish_all(&node, "/queue/q", &wanted);
    let backup = dir.path().join("backup");
    node.ask("backup", &[backup.to_str().unwrap()]).unwrap();
    node.kill();
    node.wipe();

    let data = node.setup.data.clone();
    let restore = || rhizomq(&["restore", backup.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    for name in ["store/log/0000000001.log", "store/FORMAT", "identity.key", "network.secret", "manifest"] {
        let path = backup.join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let at = bad.len() / 2;
        bad[at] ^= 1;
        for bytes in [&bad[..], &good[..at]] {
            fs::write(&path, bytes).unwrap();
            let refused = restore();
            assert!(!refused.status.success(), "{name}: {}", text(&refused));
            assert!(text(&refused).contains(name) && !data.exists(), "{name}: {}", text(&refused));
        }
        fs::remove_file(&path).unwrap();
        assert!(text(&restore()).contains("missing"), "{name}");
        fs::write(&path, good).unwrap();
    }
    assert!(restore().status.success());
    node.restart();
    consume_all(&node, "/queue/q", &wanted, &mut Ledger::default());

    // A restore that was cut short is no node.
    node.terminate();
    fs::write(data.join("restore.unfinished"), "").unwrap();
    let failed = Node::try_start(Setup::new(dir.path(), "n")).err().expect("half a restore");
    assert!(failed.log.contains("restore again"), "{failed}");
    // Nor is a backup that was.
    fs::rename(data.join("restore.unfinished"), data.join("backup.unfinished")).unwrap();
    let failed = Node::try_start(Setup::new(dir.path(), "n")).err().expect("half a backup");
    assert!(failed.log.contains("take another"), "{failed}");
}

#[test]
fn a_node_does_not_run_on_a_backup_and_says_how_to_make_a_node_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(Setup::new(dir.path(), "n"));
    publish_all(&node, "/queue/q", &texts("m", 5));
    let backup = dir.path().join("backup");
    node.ask("backup", &[backup.to_str().unwrap()]).unwrap();
    assert!(!backup.join("backup.unfinished").exists(), "it was taken to its end");
    node.terminate();
    let files = || {
        let store = [backup.clone(), backup.join("store"), backup.join("store/log")];
        let entries = store.iter().flat_map(|dir| fs::read_dir(dir).unwrap());
        let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        files.map(|path| (path.clone(), fs::read(path).unwrap())).collect::<Vec<_>>()
    };
    let before = files();
    let failed = Node::try_start(Setup::new(dir.path(), "backup")).err().expect("a backup is no node");
    assert_eq!(failed.status.and_then(|status| status.code()), Some(3), "{failed}");
    assert!(failed.log.contains("is a backup") && failed.log.contains("rhizomq restore"), "{failed}");
    assert!(files() == before, "the backup was changed");
    let output = rhizomq(&["verify", "--data", backup.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "a backup can be checked: {}", text(&output));
    assert!(files() == before, "the backup was changed");
    let data = dir.path().join("again");
    let restored = rhizomq(&["restore", backup.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    assert!(restored.status.success(), "{}", text(&restored));
    node.setup.data = data;
    node.restart();
    consume_all(&node, "/queue/q", &texts("m", 5), &mut Ledger::default());
}

#[test]
fn a_broken_small_row_of_a_running_node_is_written_again_from_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(dir.path(), "n");
    // So many that the node's record is too large to lie in the index: it lies in the log alone.
    for number in 0..60 {
        let address = format!("[2001:db8:6161:6161:6161:6161:6161:{number:x}]:{}", 1000 + number);
        setup.args.extend(["--advertise".to_owned(), address]);
    }
    let mut node = Node::start(setup);
    node.client().send_confirmed("/queue/q", b"m").unwrap();
    eventually("all is well", || node.ask("verify", &[]));
    flip_body(&node, "aaaaaaaaaa");
    let report = node.ask("verify", &[]).unwrap_err() + &node.log();
    assert!(report.contains("written again from memory"), "{report}");
    eventually("the row and the log are whole", || node.ask("verify", &[]));
    assert!(damage(&node, "places") >= 2 && damage(&node, "found") == 0);
    node.terminate();
    let (code, report) = verify(&node.setup.data);
    assert_eq!(code, Some(0), "{report}");
    node.restart();
    assert_eq!(node.status().unwrap()["nodes"][0]["addresses"].as_array().unwrap().len(), 60);
}
