//! Stored directories of this version and earlier ones: they must go on being read. See `net/fixtures/README.md`.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::*;
use crate::{
    Entry,
    registry::Key,
    store::{DiskOptions, DiskStore, IndexState, Store},
};

const NODE: NodeId = NodeId([7; 16]);

fn dir() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fixtures"].iter().collect()
}

/// The versions of all that is stored.
fn name() -> String {
    let [store, rows, block, value] = crate::fuzzing::versions();
    // Outlines and sealed values came without a new version: what knows neither reads the store all the same. The last sample
    // has remnants, too, and the file `synced`.
    format!("store-{store}-rows-{rows}-block-{block}-registry-{value}-remnants")
}

/// Without empty files: sled has hundreds, and makes them when they are missing.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.metadata().unwrap().len() == 0 {
            continue;
        }
        if entry.path().is_dir() { copy(&entry.path(), &target) } else { _ = fs::copy(entry.path(), target).unwrap() }
    }
}

fn options() -> DiskOptions {
    // A reserve of a MiB has no place in a repository.
    DiskOptions { reserve: 0, roll_at: 4 << 10, ..DiskOptions::default() }
}

fn open(dir: &Path, life: u64) -> (DiskStore, Engine) {
    let is_noted = dir.join("synced").exists() || !dir.join("log").exists();
    let (store, report) = DiskStore::open(dir, options()).unwrap();
    assert_eq!(report.unknown_end.is_none(), is_noted, "{report:?}");
    assert!(report.damages.is_empty() && report.torn_tail.is_none(), "{report:?}");
    assert!(matches!(report.index, IndexState::Intact | IndexState::Created), "{report:?}");
    let opened = Engine::open(store.reader(), NODE, Epoch(life), Now::default(), Planted::default());
    let (engine, report) = opened.unwrap();
    assert!(report.losses.is_empty() && report.damaged_rows.is_empty(), "{report:?}");
    (store, engine)
}

fn settle(store: &mut DiskStore, engine: &mut Engine) {
    loop {
        if engine.needs_segment() {
            engine.begin_segment(Now::default());
        }
        let Some(commit) = engine.poll_commit(Now::default()) else { break };
        store.commit(&[commit.batch]).unwrap();
        engine.handle_committed();
    }
}

/// A bit of everything: two lives, blocks small and large, consumed prefixes and holes, a finished segment and a folded
/// one, a set and a register, rows in the index and rows to be replayed.
fn write(dir: &Path) {
    for life in 1..=2 {
        let (mut store, mut engine) = open(dir, life);
        for number in 0..12_usize {
            let entry = |inbox: &str| Entry {
                inboxes: vec![inbox.to_owned(), "both".to_owned()],
                head: Bytes::from(format!("number:{number}\n")),
                body: Bytes::from(vec![b'a' + number as u8; if number % 4 == 0 { 900 } else { 9 }]),
                persistent: number % 2 == 0,
            };
            let entries = vec![entry("one"), entry("two")];
            engine.publish(Unit { entries, ..Unit::default() }).unwrap();
            settle(&mut store, &mut engine);
            if number == 5 {
                store.checkpoint().unwrap();
                engine.close_segment();
            }
        }
        let segments: Vec<_> = engine.segments().collect();
        for (index, &segment) in segments.iter().enumerate() {
            let waiting = engine.waiting_in(segment);
            let gone = |slot: &Slot| index == 1 || *slot < 6 || slot.is_multiple_of(5);
            waiting.iter().filter(gone).for_each(|slot| engine.remove(Dot { segment, slot }));
        }
        let folded = SegmentId { node: NodeId([9; 16]), epoch: Epoch(life), number: 1 };
        let mut retired = Retired::default();
        retired.fold(folded, &RangeSet::from_range(1, 40));
        engine.merge_retired(&retired);
        // Of a block of which most was consumed elsewhere.
        let from = SegmentId { node: NodeId([8; 16]), epoch: Epoch(life), number: 1 };
        let entry = |body: &str| Entry {
            inboxes: vec!["one".to_owned(), "two".to_owned()],
            head: Bytes::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            persistent: true,
        };
        let whole = Block::build(from, 1, &[entry("first"), entry("second"), entry("third")]);
        let rest = whole.remnant(&RangeSet::from_range(3, 5)).unwrap();
        assert_eq!(rest.bytes()[0], 2, "a remnant has a version of its own");
        engine.merge_block(rest.bytes().clone()).unwrap();
        engine.merge_removed(from, &RangeSet::from_range(1, 2));
        if life == 2 {
            // Of the first life's blocks, small and for two inboxes each.
            let at_rest = Now { mono_ms: crate::limits::REWRITE_AGAIN_MS, wall_ms: 0 };
            settle(&mut store, &mut engine);
            engine.gather(at_rest, 0, usize::MAX);
        }
        engine.set_add(Key::set("members"), format!("member {life}").into_bytes()).unwrap();
        engine.register_set(Key::register("word"), b"last".to_vec(), Now { mono_ms: 1, wall_ms: 1_000 }).unwrap();
        settle(&mut store, &mut engine);
    }
}

/// All that the engine says of it.
fn content(dir: &Path) -> String {
    let (_store, engine) = open(dir, 99);
    let mut out = String::new();
    for segment in engine.segments() {
        writeln!(out, "segment {segment} {:?}", engine.state_of(segment)).unwrap();
        for slot in engine.waiting_in(segment).iter() {
            let message = engine.message(Dot { segment, slot }).unwrap().unwrap();
            let crate::Message { inbox, head, body, persistent } = message;
            writeln!(out, "  {slot} {inbox} {head:?} {body:?} {persistent}").unwrap();
        }
    }
    for (node, epoch, life) in engine.retired().lives() {
        writeln!(out, "over {node} {epoch} {life:?}").unwrap();
    }
    for (key, value) in engine.registry().range(&[], None) {
        writeln!(out, "registry {:?} {:?} {:?}", key, value.members(), value.content()).unwrap();
    }
    out
}

#[test]
fn fixtures_of_stored_directories_are_read_as_what_they_were() {
    if std::env::var_os("RHIZOMQ_WRITE_FIXTURES").is_some() && !dir().join(name()).exists() {
        let scratch = tempfile::tempdir().unwrap();
        write(scratch.path());
        let to = dir().join(name());
        copy(scratch.path(), &to);
        fs::write(dir().join(name() + ".txt"), content(scratch.path())).unwrap();
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(dir()).unwrap().map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        let copied = tempfile::tempdir().unwrap();
        copy(&entry.path(), copied.path());
        let expected = fs::read_to_string(dir().join(format!("{name}.txt"))).unwrap();
        let found = content(copied.path());
        assert!(found == expected, "{name} reads as\n{found}\ninstead of\n{expected}");
        names.push(name);
    }
    // Outlines and sealed values came without a new version: what knows neither reads the store all the same.
    assert!(names.contains(&"store-1-rows-2-block-1-registry-1-outlines".to_owned()), "it must go on being read");
    assert!(names.contains(&name()), "no fixture of {}: see net/fixtures/README.md", name());
}

/// What a newer program wrote is no damage: it is refused by its version, row by row, and left alone.
#[test]
fn rows_of_a_newer_version_are_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    write(scratch.path());
    let (mut store, mut engine) = open(scratch.path(), 98);
    // Opening reads blocks that have no outline, as this one.
    engine.publish(Unit { entries: vec![Entry::new("one", "small")], ..Unit::default() }).unwrap();
    settle(&mut store, &mut engine);
    let segment = engine.open_segment().unwrap();
    let first = 1;
    let reader = store.reader();
    let mut keys = vec![keys::meta("life"), keys::segment(segment), keys::block(segment, first)];
    for space in [keys::REMOVED, keys::REGISTRY, keys::RETIRED, keys::OUTLINE] {
        let (from, to) = keys::space(space);
        let mut first = None;
        let mut visit = |key: &[u8], _: Option<u64>| {
            first = Some(Bytes::copy_from_slice(key));
            std::ops::ControlFlow::Break(())
        };
        reader.scan_keys(&from, &to, &mut visit).unwrap();
        keys.push(first.expect("a row of each kind"));
    }
    for key in keys {
        let good = reader.get(&key).unwrap().unwrap();
        let mut newer = good.to_vec();
        newer[0] = 77;
        if key[0] == keys::BLOCK {
            let end = newer.len() - 32;
            let hash = blake3::hash(&newer[..end]);
            newer[end..].copy_from_slice(hash.as_bytes());
        }
        store.commit(&[vec![Op::Put(key.clone(), newer.into())]]).unwrap();
        let opened = Engine::open(store.reader(), NODE, Epoch(97), Now::default(), Planted::default());
        let Err(error) = opened.map(drop) else { panic!("{key:?} of version 77 was taken") };
        assert!(matches!(error, EngineError::Foreign(_)) && error.to_string().contains("version 77"), "{error}");
        store.commit(&[vec![Op::Put(key, good)]]).unwrap();
    }
    drop(engine);
    drop(store);
    open(scratch.path(), 96);
}

/// The layout in `FORMAT.md`, put together by hand.
#[test]
fn a_block_is_laid_out_as_format_md_says() {
    let segment = SegmentId { node: NodeId([7; 16]), epoch: Epoch(300), number: 3 };
    let entry = |inboxes: &[&str], head: &'static str, body: &'static str, persistent| Entry {
        inboxes: inboxes.iter().map(|&name| name.to_owned()).collect(),
        head: Bytes::from(head),
        body: Bytes::from(body),
        persistent,
    };
    let block = Block::build(segment, 200, &[entry(&["a", "b"], "h", "one", true), entry(&["a"], "", "", false)]);
    let mut bytes = vec![1]; // version
    bytes.extend([7; 16]);
    bytes.extend([0xac, 0x02, 3]); // epoch 300, number 3
    bytes.extend([0xc8, 0x01]); // first slot, 200
    bytes.extend([2, 1, b'a', 2, 0, 1, 1, b'b', 1, 0]); // two runs: a has both messages, b the first
    bytes.extend([2, 1, 1, b'h', 3, b'o', b'n', b'e', 0, 0, 0]); // two messages: flags, head, body
    bytes.extend(blake3::hash(&bytes).as_bytes());
    assert_eq!(block.bytes()[..], bytes[..]);
    assert_eq!((block.first(), block.last()), (200, 202));
}

/// As above, of a block that was gathered, and its outline.
#[test]
fn a_gathered_block_is_laid_out_as_format_md_says() {
    let segment = SegmentId { node: NodeId([7; 16]), epoch: Epoch(300), number: 3 };
    let block = |first, inbox: &str, body: &'static str| Block::build(segment, first, &[Entry::new(inbox, body)]);
    let blocks = [block(200, "a", "one"), block(201, "b", "two"), block(203, "a", "three")];
    let all = RangeSet::from_range(1, 300);
    let parts = Block::gather(&blocks.iter().collect::<Vec<_>>(), &all, usize::MAX);
    let mut bytes = vec![3]; // version
    bytes.extend([7; 16]);
    bytes.extend([0xac, 0x02, 3]); // epoch 300, number 3
    bytes.extend([0xc8, 0x01, 0xcb, 0x01]); // first and last slot, 200 and 203
    bytes.extend([2, 1, b'a', 2, 0xc7, 0x01, 0, 1, 0, 2, 0, 2]); // a has 200 and 203: ranges of one slot each
    bytes.extend([1, b'b', 1, 0xc8, 0x01, 0, 1, 1]); // b has 201
    bytes.extend([3, 1, 0, 3, b'o', b'n', b'e', 1, 0, 3, b't', b'w', b'o', 1, 0, 5]);
    bytes.extend(b"three");
    bytes.extend(blake3::hash(&bytes).as_bytes());
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].bytes()[..], bytes[..]);
    let mut row = vec![3, 0xcb, 0x01, bytes.len() as u8, 2]; // version, last slot, bytes, runs
    row.extend([1, b'a', 2, 0xc7, 0x01, 0, 1, 0, 1, b'b', 1, 0xc8, 0x01, 0]);
    assert_eq!(Outline::of(&parts[0]).encode()[..], row[..]);
}

/// Two engines that differ in everything, and all that they say to each other.
fn said() -> Vec<(&'static str, Bytes)> {
    let (mut a, mut b) = (super::tests::Replica3::new(0), super::tests::Replica3::new(1));
    for (replica, word) in [(&mut a, "here"), (&mut b, "there")] {
        let entries = vec![super::tests::entry("q", word), super::tests::entry("r", word)];
        replica.engine.publish(Unit { entries, ..Unit::default() }).unwrap();
        replica.engine.set("s").add(word).unwrap();
        replica.engine.register("r").set(word, Now::default()).unwrap();
        replica.settle();
        let segment = replica.engine.open_segment().unwrap();
        replica.engine.remove(Dot { segment, slot: 1 });
        replica.engine.close_segment();
        let other = SegmentId { node: NodeId([word.len() as u8; 16]), epoch: Epoch(5), number: 9 };
        let mut over = Retired::default();
        over.finish(other);
        over.fold(SegmentId { number: 8, ..other }, &RangeSet::from_range(2, 3));
        replica.engine.merge_retired(&over);
        replica.settle();
    }
    let mut said = vec![
        ("summary", a.engine.summary().encode()),
        ("delta", a.engine.delta_for(&b.engine.summary()).unwrap().encode()),
        ("delta", a.engine.delta_within(&Summary::default(), 1).unwrap().encode()),
    ];
    for begin in [Engine::exchange, Engine::pull] {
        let mut to_b = vec![begin(&a.engine)];
        while !to_b.is_empty() {
            let mut answered = |here: &Engine, inbox: Vec<Exchange>| -> Vec<Exchange> {
                said.extend(inbox.iter().map(|message| ("exchange", message.encode())));
                inbox.into_iter().flat_map(|message| here.answer_within(message, 1).unwrap().0).collect()
            };
            let to_a = answered(&b.engine, to_b);
            to_b = answered(&a.engine, to_a);
        }
    }
    let in_sync = a.engine.answer(a.engine.exchange()).unwrap().0;
    said.extend(in_sync.iter().map(|message| ("exchange", message.encode())));
    said
}

/// What it means, if it reads and is written the same way.
fn meaning(kind: &str, bytes: &[u8]) -> String {
    let (text, again) = match kind {
        "summary" => Summary::decode(bytes).map(|it| (format!("{it:?}"), it.encode())),
        "delta" => Delta::decode(bytes).map(|it| {
            let content =
                |(key, value): &(Key, crate::Value)| format!("{key:?} {:?} {:?}", value.members(), value.content());
            let registry: Vec<_> = it.registry.iter().map(content).collect();
            (format!("{:?} {:?} {registry:?} {:?}", it.retired, it.segments, it.more), it.encode())
        }),
        _ => Exchange::decode(bytes).map(|it| (format!("{it:?}"), it.encode())),
    }
    .unwrap();
    // The first version had no checksum.
    let end = if bytes[0] == 1 { again.len() - 16 } else { again.len() };
    assert_eq!(again[1..end], bytes[1..], "{text}");
    text
}

#[test]
fn fixtures_of_what_two_engines_say_to_each_other_are_read_as_what_they_were() {
    let path = dir().join("exchange-2.txt");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let line = |(kind, bytes): &(&str, Bytes)| format!("{} {kind} {}\n", hex(bytes), meaning(kind, bytes));
    let now: String = said().iter().map(line).collect();
    if std::env::var_os("RHIZOMQ_WRITE_FIXTURES").is_some() && !path.exists() {
        fs::write(&path, &now).unwrap();
    }
    let stored = fs::read_to_string(&path).unwrap();
    let first = fs::read_to_string(dir().join("exchange-1.txt")).unwrap();
    for line in first.lines().chain(stored.lines()) {
        let [bytes, kind, text] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let byte = |at: usize| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..bytes.len()).step_by(2).map(byte).collect();
        assert_eq!(meaning(kind, &bytes), text);
    }
    assert!(stored == now, "a layout was changed and its version was not: see net/fixtures/README.md\n{now}");
}
