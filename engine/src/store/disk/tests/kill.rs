//! SIGKILL at random moments: the test runs itself as a child process that commits and says what was confirmed.

use std::{
    env,
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use super::*;
use crate::{
    Batch,
    store::{IndexState, suite::apply},
};

const CHILD: &str = "RHIZOMQ_KILL_DIR";
/// Batches after which a key is deleted again.
const LIFE: u32 = 30;

/// Batch number `number`: a function of nothing else, so that parent and child agree.
fn batch(number: u32) -> Batch {
    let key = |number: u32, part: u32| Bytes::from(format!("{number}/{part}"));
    let value = |part: u32| Bytes::from(number.to_le_bytes().repeat(1 + (number * part) as usize % 500));
    let mut batch: Batch = (0..3).map(|part| Op::Put(key(number, part), value(part))).collect();
    batch.push(Op::Put(Bytes::from_static(b"last"), Bytes::from(number.to_string())));
    if let Some(old) = number.checked_sub(LIFE).filter(|old| old % 17 != 0) {
        batch.extend((0..3).map(|part| Op::Delete(key(old, part))));
    }
    batch
}

fn last(store: &DiskStore) -> u32 {
    let value = store.reader().get(b"last").unwrap();
    value.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap())
}

/// Not a test by itself: the process that gets killed.
#[test]
fn child() {
    let Some(dir) = env::var_os(CHILD) else { return };
    let (mut store, report) = DiskStore::open(dir, small()).unwrap();
    assert_eq!(report.damages, []);
    let mut next = last(&store) + 1;
    loop {
        let group: Vec<Batch> = (next..next + 1 + next % 3).map(batch).collect();
        store.commit(&group).unwrap();
        next += group.len() as u32;
        // To standard error: the test runner keeps standard output to itself. In one piece, or a kill may cut it.
        std::io::stderr().write_all(format!("confirmed {}\n", next - 1).as_bytes()).unwrap();
        if store.wants_checkpoint() {
            store.checkpoint().unwrap();
        }
    }
}

#[test]
fn nothing_confirmed_is_lost_to_sigkill_and_batches_are_whole() {
    let kills = env::var("RHIZOMQ_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (mut model, mut applied) = (Model::new(), 0);
    for kill in 0..kills {
        let random = RandomState::new().hash_one(kill);
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", "store::disk::tests::kill::child", "--nocapture", "--test-threads=1"]);
        let mut child = child.env(CHILD, &path).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut confirmed = applied;
        let mut note = |line: String| match line.strip_prefix("confirmed ") {
            Some(number) => confirmed = number.parse().unwrap(),
            None => panic!("the child says: {line}"),
        };
        // At once, or after some hundred commits, and then some instructions later.
        lines.by_ref().take((random % 300) as usize).for_each(&mut note);
        (0..random >> 40 & 0xf_ffff).for_each(|spin| _ = std::hint::black_box(spin));
        child.kill().unwrap();
        lines.for_each(note);
        child.wait().unwrap();

        let (store, report) = DiskStore::open(&path, small()).unwrap();
        assert_eq!(report.damages, [], "kill {kill}");
        assert!(matches!(report.index, IndexState::Intact | IndexState::Created), "kill {kill}: {report:?}");
        let found = last(&store);
        assert!(found >= confirmed, "kill {kill}: {confirmed} was confirmed, {found} is there");
        for number in applied + 1..=found {
            apply(&mut model, &[batch(number)]);
        }
        applied = found;
        compare(&*store.reader(), &model);
    }
    assert!(applied > 0);
}
