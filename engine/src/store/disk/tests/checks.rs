//! Checking a whole store, in use and closed: all that is broken is named, and nothing else; nothing is changed.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use super::*;
use crate::{
    Block, Engine, Entry, Epoch, NodeId, Now, Planted, RangeSet, Unit, keys,
    store::{Damage, Finding, Part, VerifyError, verify_closed},
};

/// An engine on a disk, as a driver runs it.
pub(super) struct Host {
    pub(super) disk: Disk,
    pub(super) engine: Engine,
}

impl Host {
    pub(super) fn new() -> Self {
        Self::on(Disk::new())
    }

    pub(super) fn on(mut disk: Disk) -> Self {
        let engine = engine(&mut disk, 1).0;
        let mut host = Self { disk, engine };
        host.settle();
        host
    }

    pub(super) fn settle(&mut self) {
        loop {
            if self.engine.needs_segment() {
                self.engine.begin_segment(Now::default());
            }
            let Some(commit) = self.engine.poll_commit(Now::default()) else { break };
            self.disk.get_mut().commit(&[commit.batch]).unwrap();
            self.engine.handle_committed();
        }
    }

    pub(super) fn publish(&mut self, text: &str, len: usize) {
        let body = Bytes::from(text.repeat(len / text.len() + 1));
        let entry = Entry { inboxes: vec!["q".to_owned()], head: Bytes::new(), body, persistent: true };
        self.engine.publish(Unit { entries: vec![entry], ..Unit::default() }).unwrap();
        self.settle();
    }

    pub(super) fn consume(&mut self, every: usize) {
        let segments: Vec<_> = self.engine.segments().collect();
        for segment in segments {
            for slot in self.engine.waiting_in(segment).iter().step_by(every) {
                self.engine.remove(crate::Dot { segment, slot });
            }
        }
        self.settle();
    }

    pub(super) fn check(&mut self) -> Vec<Finding> {
        let mut checker = self.disk.get_mut().checker().unwrap();
        let mut found = Vec::new();
        checker.check(&mut |_| ControlFlow::Continue(()), &mut |finding| found.push(finding)).unwrap();
        found
    }

    /// Segments with blocks in several log files, half of them consumed, some after the last checkpoint.
    pub(super) fn sample() -> Self {
        let mut host = Self::new();
        for number in 0..40 {
            host.publish(&format!("m{number} "), if number % 3 == 1 { 3000 } else { 40 });
            if number == 20 {
                host.disk.get_mut().checkpoint().unwrap();
                host.engine.close_segment();
            }
        }
        host.consume(3);
        host
    }
}

fn engine(disk: &mut Disk, life: u64) -> (Engine, crate::OpenReport) {
    let reader = disk.get_mut().reader();
    Engine::open(reader, NodeId([1; 16]), Epoch(life), Now::default(), Planted::default()).unwrap()
}

fn closed(dir: &Path) -> (Vec<Finding>, Vec<String>) {
    // However little of it is held in memory.
    let results = [10, usize::MAX].map(|rows_in_memory| {
        let (scratch, mut found) = (tempfile::tempdir().unwrap(), Vec::new());
        let mut note = |finding| found.push(finding);
        let verified = super::super::offline::verify_with(dir, scratch.path(), rows_in_memory, &mut note);
        let (checked, notes) = verified.unwrap();
        let names = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let is_spilled = names.into_iter().any(|name| name.to_str().unwrap().starts_with("of-the-log"));
        assert_eq!(is_spilled, rows_in_memory < 100, "{checked:?}");
        (found, notes, checked)
    });
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:?}");
    let [(found, notes, _), ..] = results;
    (found, notes)
}

fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        if entry.path().is_dir() {
            all.extend(snapshot(&entry.path()));
        } else {
            all.push((entry.path(), fs::read(entry.path()).unwrap()));
        }
    }
    all.sort();
    all
}

fn flip(path: &Path, pattern: &[u8], further: usize) -> usize {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(pattern.len()).position(|window| window == pattern).unwrap() + further;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
    at
}

#[test]
fn a_whole_store_has_no_findings_in_use_or_closed_and_closed_is_not_changed() {
    let mut host = Host::sample();
    assert_eq!(host.check(), []);
    host.consume(2);
    host.engine.close_segment();
    host.settle();
    assert_eq!(host.check(), []);
    let dir = host.disk.path();
    assert!(matches!(
        verify_closed(&dir, dir.parent().unwrap(), &mut |_| {}),
        Err(VerifyError::Store(StoreError::Locked { .. }))
    ));
    host.disk.close();
    let before = snapshot(&dir);
    assert_eq!(closed(&dir), (vec![], vec![]));
    assert!(snapshot(&dir) == before, "a check changed something");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(verify_closed(empty.path(), &dir, &mut |_| {}), Err(VerifyError::NoStore { .. })));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

#[test]
fn a_broken_block_is_named_with_file_offset_and_slots_and_can_be_given_up() {
    let mut host = Host::sample();
    let number =
        (1..).find(|number| fs::read(host.disk.log(*number)).unwrap().windows(4).any(|w| w == b"m14 ")).unwrap();
    flip(&host.disk.log(number), b"m14 m14 ", 3);
    let found = host.check();
    let block = found.iter().find(|finding| finding.part == Part::Block);
    // A small block lies in the index, too: then the log alone is broken.
    assert!(found.iter().any(|finding| finding.part == Part::Log && finding.damage.file.contains(&number.to_string())));
    assert!(block.is_none() || block.unwrap().slots.len() == 1);

    let number =
        (1..).find(|number| fs::read(host.disk.log(*number)).unwrap().windows(4).any(|w| w == b"m28 ")).unwrap();
    let at = flip(&host.disk.log(number), b"m28 m28 m28 m28 m28 m28", 1200);
    let found = host.check();
    let block = found.iter().find(|finding| finding.part == Part::Block).expect("the block's own hash is wrong");
    let Damage { file, offset, len, .. } = &block.damage;
    assert_eq!(*file, format!("log/{number:010}.log"));
    assert!((*offset..offset + len).contains(&(at as u64)), "{block}");
    assert_eq!(block.slots.len(), 1, "{block}");
    let dot = crate::Dot { segment: block.segment.unwrap(), slot: block.slots.first().unwrap() };
    // The cache still has it, the disk has not.
    assert_eq!(host.engine.forget_damaged(dot), block.slots);
    host.settle();
    assert!(!host.engine.state_of(dot.segment).known.contains(dot.slot));
    assert!(host.check().iter().all(|finding| finding.part == Part::Log));

    // What is still good moves on, and the broken files go.
    let files: Vec<String> = host.check().into_iter().map(|finding| finding.damage.file).collect();
    for file in files {
        host.disk.get_mut().renew(&file).unwrap();
    }
    assert_eq!(host.check(), []);
    host.disk.close();
    assert_eq!(closed(&host.disk.path()), (vec![], vec![]));
    let report = host.disk.open().unwrap();
    assert_eq!(report.damages, []);
}

#[test]
fn rows_that_contradict_each_other_are_named() {
    use crate::keys::{self, SegmentRow};
    let mut host = Host::sample();
    let segment = host.engine.segments().last().unwrap();
    let state = host.engine.state_of(segment);
    let first = *host.engine.blocks_with(segment, &state.waiting()).first().unwrap();
    let put = |row: &SegmentRow| vec![Op::Put(keys::segment(segment), keys::encode(row))];

    // A block that is gone without a word: the slots it held are named.
    host.disk.get_mut().commit(&[vec![Op::Delete(keys::block(segment, first))]]).unwrap();
    let found = host.check();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].part, found[0].segment, found[0].slots.first()), (Part::Coverage, Some(segment), Some(first)));
    assert_eq!(host.engine.forget_damaged(crate::Dot { segment, slot: first }), found[0].slots);
    host.settle();
    assert_eq!(host.check(), []);

    // A length that is too small, and a mark beyond what is known.
    let row =
        SegmentRow { known: state.known.clone(), length: Some(1), removed_prefix: state.known.last().unwrap() + 5 };
    host.disk.get_mut().commit(&[put(&row)]).unwrap();
    let found = host.check();
    assert!(found.len() >= 2 && found.iter().all(|finding| finding.part == Part::Prefix), "{found:?}");

    // Rows that do not read.
    host.disk.get_mut().commit(&[vec![Op::Put(keys::meta("life"), Bytes::from_static(b"\xff"))]]).unwrap();
    assert!(
        host.check().iter().any(|finding| finding.part == Part::Row && finding.damage.what.contains("version 255"))
    );
}

#[test]
fn of_many_small_rows_each_is_checked_once() {
    let mut host = Host::sample();
    let row = |number: u32| {
        let key = [&[crate::keys::REGISTRY], &number.to_be_bytes()[..]].concat();
        Op::Put(Bytes::from(key), Bytes::from_static(b"\xff"))
    };
    host.disk.get_mut().commit(&[(0..700).map(row).collect()]).unwrap();
    let found = host.check();
    assert!(found.iter().all(|finding| finding.part == Part::Row), "{found:?}");
    assert_eq!(found.len(), 700);
    host.disk.close();
    assert_eq!(closed(&host.disk.path()).0.len(), 700);
}

/// Its checksum is right, and so are the bytes: they are another key's.
#[test]
fn a_row_that_points_to_the_value_of_another_key_is_named() {
    use super::super::row::Row;
    use crate::keys;
    let mut host = Host::sample();
    let put = |name: &str, text: &'static str| Op::Put(keys::meta(name), Bytes::from(text.repeat(1000)));
    let deep = [vec![7; 100], keys::meta("one").to_vec(), vec![8; 1000]].concat();
    host.disk.get_mut().commit(&[vec![put("one", "1"), put("two", "2")]]).unwrap();
    host.disk.get_mut().commit(&[vec![Op::Put(keys::meta("deep"), Bytes::from(deep.clone()))]]).unwrap();
    assert_eq!(host.check(), []);
    let shared = host.disk.get_mut().shared.clone();
    let [one, two, in_deep] = ["one", "two", "deep"].map(|name| shared.row(&keys::meta(name)).unwrap().unwrap());
    // And a piece of a value, right behind what looks like the name.
    let Row::Pointer { file, offset, .. } = in_deep else { panic!("a large value") };
    let skip = deep.iter().rposition(|byte| *byte != 8).unwrap() + 1;
    let checksum = super::super::frame::checksum(&deep[skip..]);
    let piece = Row::Pointer { file, offset: offset + skip as u64, len: 1000, checksum };
    for strange in [two, piece, Row::Pointer { file, offset: 3, len: 1000, checksum: [0; 16] }] {
        shared.overlay_mut().insert(keys::meta("one"), Some(strange.clone()));
        let found = host.check();
        let [Finding { part: Part::Row, damage, .. }] = &found[..] else { panic!("{strange:?}: {found:?}") };
        let is_told = damage.what.contains("no value of this key") || damage.what.contains("checksum");
        assert!(is_told && damage.file.starts_with("log/"), "{damage:?}");
    }
    shared.overlay_mut().insert(keys::meta("one"), Some(one));
    assert_eq!(host.check(), []);
    // A block of the same name as a value of something else.
    let (mut name, mut row) = (Bytes::new(), None);
    let (from, to) = keys::space(keys::BLOCK);
    shared
        .rows(&from, &to, &mut |key, found| {
            if matches!(found, Row::Sealed { .. }) {
                (name, row) = (key.clone(), Some(found));
            }
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    let copied = shared.value(&row.unwrap()).unwrap().unwrap();
    let body = [copied.clone(), Bytes::from(vec![0; 40])].concat();
    host.disk.get_mut().commit(&[vec![Op::Put(keys::meta("copy"), Bytes::from(body))]]).unwrap();
    let Row::Pointer { file, offset, .. } = shared.row(&keys::meta("copy")).unwrap().unwrap() else { panic!() };
    let seal = super::super::row::seal_of(&copied);
    let stray = Row::Sealed { file, offset, len: copied.len() as u32, seal };
    shared.overlay_mut().insert(name, Some(stray));
    assert!(host.check().iter().any(|finding| finding.damage.what.contains("no value of this key")));
}

#[test]
fn an_index_that_is_not_what_the_log_says_is_found_in_a_closed_store() {
    let mut host = Host::sample();
    host.disk.get_mut().checkpoint().unwrap();
    host.disk.close();
    let dir = host.disk.path();
    for entry in snapshot(&dir.join("sled")).into_iter().filter(|(_, bytes)| bytes.len() > 200) {
        fs::write(&entry.0, vec![0; entry.1.len()]).unwrap();
    }
    let (found, _) = closed(&dir);
    assert!(found.iter().any(|finding| finding.part == Part::Index), "{found:?}");
    assert!(found.iter().all(|finding| finding.part == Part::Index), "{found:?}");
}

#[test]
fn a_round_can_be_ended_at_any_place() {
    let mut host = Host::sample();
    let mut checker = host.disk.get_mut().checker().unwrap();
    let mut left = usize::MAX;
    let mut stops = 0;
    loop {
        let mut steps = 0;
        let mut pace = |_| {
            steps += 1;
            if steps > left { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let checked = checker.check(&mut pace, &mut |finding| panic!("{finding}")).unwrap();
        assert_eq!(checked.cut_short, left != usize::MAX);
        stops += 1;
        left = match steps.min(left).checked_sub(10) {
            Some(next) => next,
            None => break,
        };
    }
    assert!(stops > 5);
}

#[test]
fn a_check_beside_a_busy_writer_finds_nothing() {
    let mut host = Host::sample();
    let mut checker = host.disk.get_mut().checker().unwrap();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = done.clone();
    let checking = std::thread::spawn(move || {
        let mut rounds = 0;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) || rounds == 0 {
            checker.check(&mut |_| ControlFlow::Continue(()), &mut |finding| panic!("{finding}")).unwrap();
            rounds += 1;
        }
        rounds
    });
    for number in 0..150 {
        host.publish(&format!("n{number} "), 10 + number * 20);
        if number % 5 == 0 {
            host.consume(2);
        }
        if host.disk.get_mut().wants_checkpoint() || number % 20 == 0 {
            host.disk.get_mut().checkpoint().unwrap();
        }
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(checking.join().unwrap() > 0);
}

#[test]
fn a_copy_of_a_store_in_use_is_the_store_as_of_a_moment() {
    let mut host = Host::sample();
    let to = tempfile::tempdir().unwrap();
    let mut checker = host.disk.get_mut().checker().unwrap();
    let before: Vec<_> = host.engine.segments().map(|id| (id, host.engine.state_of(id))).collect();
    // While the copy runs, everything is consumed and the log is cleaned.
    let mut steps = 0;
    let host = std::cell::RefCell::new(&mut host);
    let copied = checker.copy(&to.path().join("store"), &mut |_| {
        steps += 1;
        if steps == 2 {
            let mut host = host.borrow_mut();
            host.consume(1);
            for _ in 0..40 {
                host.publish("later ", 3000);
                host.disk.get_mut().checkpoint().unwrap();
            }
        }
        ControlFlow::Continue(())
    });
    let copied = copied.unwrap();
    assert!(copied.damages.is_empty() && copied.files.len() >= 3 && steps > 2, "{copied:?}");
    for file in &copied.files {
        file.check(&to.path().join("store")).unwrap();
    }
    let mut restored = Disk { dir: to, options: small(), store: None };
    assert_eq!(restored.open().unwrap().damages, []);
    let (engine, report) = engine(&mut restored, 9);
    assert!(report.losses.is_empty() && report.damaged_rows.is_empty(), "{report:?}");
    assert_eq!(engine.segments().map(|id| (id, engine.state_of(id))).collect::<Vec<_>>(), before);
    // What waited for the copy goes with the next checkpoint.
    let mut host = host.borrow_mut();
    let files = host.disk.get_mut().stats().files;
    host.disk.get_mut().checkpoint().unwrap();
    assert!(host.disk.get_mut().stats().files < files);
    assert!(matches!(
        checker.copy(&restored.path(), &mut |_| ControlFlow::Continue(())),
        Err(crate::store::BackupError::NotEmpty(_))
    ));
}

#[test]
fn an_outline_that_is_not_that_of_its_block_is_named() {
    let mut host = Host::sample();
    let segment = host.engine.segments().next().unwrap();
    let waiting = host.engine.waiting_in(segment);
    let blocks = host.engine.blocks_with(segment, &waiting);
    let reader = host.disk.get_mut().reader();
    let outlines: Vec<_> = blocks.iter().map(|&first| crate::keys::outline(segment, first)).collect();
    let outlines: Vec<_> = outlines.iter().filter(|key| reader.get(key).unwrap().is_some()).collect();
    let other = reader.get(outlines[1]).unwrap().unwrap();
    host.disk.get_mut().commit(&[vec![Op::Put(outlines[0].clone(), other)]]).unwrap();
    let found = host.check();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].part == Part::Row && found[0].damage.what.contains("outline"), "{found:?}");
    let (found, _) = {
        let dir = host.disk.path().to_owned();
        drop(host.engine);
        host.disk.store.take();
        closed(&dir)
    };
    assert_eq!(found.len(), 1, "{found:?}");
}

/// What lies there and must not: as if a frame of the log that deleted it had been lost.
#[test]
fn blocks_and_outlines_that_nothing_vouches_for_are_told() {
    let mut host = Host::new();
    (0..3).for_each(|number| host.publish(&format!("m{number} "), if number == 2 { 20 } else { 3000 }));
    let segment = host.engine.segments().next().unwrap();
    let reader = host.disk.get_mut().reader();
    let [block, outline] = [keys::block(segment, 1), keys::outline(segment, 1)]
        .map(|key| (key.clone(), reader.get(&key).unwrap().unwrap()));
    host.engine.remove(crate::Dot { segment, slot: 1 });
    host.settle();
    let told = |host: &mut Host| {
        let told = host.check().into_iter().map(|finding| (finding.part, finding.damage.what));
        told.map(|(part, what)| (part, what.split(';').next().unwrap().to_owned())).collect::<Vec<_>>()
    };
    let put = |host: &mut Host, (key, value): (Bytes, Bytes)| {
        host.disk.get_mut().commit(&[vec![Op::Put(key, value)]]).unwrap();
    };
    put(&mut host, outline.clone());
    let found = told(&mut host);
    assert!(
        found.len() == 1 && found[0].0 == Part::Row && found[0].1.contains("an outline without its block"),
        "{found:?}"
    );
    put(&mut host, block.clone());
    let dead = (Part::Coverage, "a block of which no message waits".to_owned());
    assert_eq!(told(&mut host), [dead]);
    // In a closed store, too, and a start puts it right.
    host.disk.close();
    let (scratch, mut found) = (tempfile::tempdir().unwrap(), Vec::new());
    verify_closed(&host.disk.path(), scratch.path(), &mut |finding| found.push(finding)).unwrap();
    assert!(
        found.len() == 1 && found[0].part == Part::Coverage && found[0].slots == RangeSet::from_range(1, 1),
        "{found:?}"
    );
    host.disk.open().unwrap();
    host.engine = engine(&mut host.disk, 2).0;
    host.settle();
    assert_eq!(host.check(), []);

    // Two blocks with the same message, both small enough to have no outline.
    let double = Block::build(segment, 2, &[Entry::new("q", "one"), Entry::new("q", "two")]);
    host.disk.get_mut().commit(&[vec![Op::Delete(keys::outline(segment, 2))]]).unwrap();
    put(&mut host, (keys::block(segment, 2), double.bytes().clone()));
    assert_eq!(told(&mut host), [(Part::Coverage, "messages lie in two blocks".to_owned())]);

    // A segment that is over.
    let mut host = Host::new();
    host.publish("m", 3000);
    host.engine.close_segment();
    host.consume(1);
    assert!(host.engine.is_finished(segment));
    put(&mut host, block);
    assert_eq!(told(&mut host), [(Part::Coverage, "a block of a segment that is over".to_owned())]);
}
