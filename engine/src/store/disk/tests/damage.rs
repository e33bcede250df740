//! Every file of the directory is damaged in every way at many places: what is lost is reported, what is not is right.

use std::{fs, path::Path};

use super::*;
use crate::store::{IndexState, suite::apply};

#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip(usize),
    Zero(usize),
    Truncate(usize),
    /// Two pieces of 64 bytes change places.
    Swap(usize),
    Remove,
}

fn harm(path: &Path, harm: Harm) {
    let mut bytes = fs::read(path).unwrap();
    match harm {
        Harm::Flip(at) => bytes[at] ^= 0x10,
        Harm::Zero(at) => {
            let end = bytes.len().min(at + 64);
            bytes[at..end].fill(0);
        }
        Harm::Truncate(len) => bytes.truncate(len),
        Harm::Swap(at) => {
            let other = (at + bytes.len() / 2) % bytes.len();
            for step in 0..64.min(bytes.len() - at.max(other)) {
                bytes.swap(at + step, other + step);
            }
        }
        Harm::Remove => return fs::remove_file(path).unwrap(),
    }
    fs::write(path, bytes).unwrap();
}

/// Every kind of harm at `places` places of a file of this length, the ends included.
fn harms(len: usize, places: usize) -> Vec<Harm> {
    let mut harms = vec![Harm::Remove];
    for place in 0..places.min(len) {
        let at = place * (len - 1) / (places - 1).max(1);
        harms.extend([Harm::Flip(at), Harm::Zero(at), Harm::Truncate(at), Harm::Swap(at)]);
    }
    harms
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &target) } else { _ = fs::copy(entry.path(), target).unwrap() }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// A store with several log files, rows in the index and rows to be replayed, small and large values, deletes.
fn sample() -> (Disk, Model) {
    let (mut disk, mut model) = (Disk::new(), Model::new());
    for number in 0..60_u32 {
        let value = Bytes::from(vec![number as u8 | 1; if number % 2 == 0 { 1200 } else { 30 }]);
        let mut batch = vec![Op::Put(Bytes::from(format!("key {number}")), value)];
        if number % 7 == 3 {
            batch.push(Op::Delete(Bytes::from(format!("key {}", number - 2))));
        }
        apply(&mut model, std::slice::from_ref(&batch));
        disk.get_mut().commit(&[batch]).unwrap();
        if number == 20 || number == 45 {
            disk.get_mut().checkpoint().unwrap();
        }
    }
    disk.close();
    (disk, model)
}

/// Opens a damaged copy; says whether anything is not as in the model, and fails when that is not reported.
fn open_damaged(sample: &Disk, model: &Model, name: &Path, what: Harm) -> Result<(OpenReport, bool), StoreError> {
    let copied = tempfile::tempdir().unwrap();
    copy(&sample.path(), &copied.path().join("store"));
    harm(&copied.path().join("store").join(name), what);
    open_damaged_copy(copied, model, &format!("{} {what:?}", name.display()))
}

/// Checks the closed store first: what it does not tell must not be missing later.
fn open_damaged_copy(copied: TempDir, model: &Model, what: &str) -> Result<(OpenReport, bool), StoreError> {
    let (scratch, mut told) = (tempfile::tempdir().unwrap(), 0);
    let checked = crate::store::verify_closed(&copied.path().join("store"), scratch.path(), &mut |_| told += 1);
    let is_well = checked.is_ok_and(|_| told == 0);
    let mut options = small();
    options.index_patience = Duration::from_secs(10);
    let mut disk = Disk { dir: copied, options, store: None };
    let report = disk.open()?;
    // All of it was synced: to call some of it a write that was cut short would be no report.
    let reported = !report.damages.is_empty();
    let mut differs = false;
    for (key, value) in model {
        match disk.store.as_ref().unwrap().reader().get(key) {
            Ok(found) => differs |= found.as_ref() != Some(value),
            // An exact word about this key is as good as a report.
            Err(StoreError::Damaged { .. }) => assert!(!disk.get_mut().verify().unwrap().is_empty()),
            Err(error) => panic!("{error}"),
        }
    }
    let mut visit = |key: &[u8], _: Option<u64>| {
        differs |= !model.contains_key(key);
        std::ops::ControlFlow::Continue(())
    };
    disk.store.as_ref().unwrap().reader().scan_keys(&[], &[0xff; 4], &mut visit).unwrap();
    assert!(reported || !differs, "{what}: a silent gap; {report:?}");
    assert!(!is_well || !differs, "{what}: the check of the closed store found nothing");
    // The store goes on, and a second open finds nothing new to complain of but what is still there.
    disk.put("after", vec![1; 1000]);
    disk.get_mut().checkpoint().unwrap();
    disk.open().unwrap();
    assert_eq!(disk.value("after").unwrap().unwrap(), vec![1; 1000]);
    Ok((report, differs))
}

fn names(sample: &Disk) -> Vec<PathBuf> {
    let root = sample.path();
    files(&root).iter().map(|path| path.strip_prefix(&root).unwrap().to_owned()).collect()
}

#[test]
fn damage_to_the_log_is_reported_exactly_and_nothing_else_is_touched() {
    let (sample, model) = sample();
    let logs: Vec<_> = names(&sample).into_iter().filter(|name| name.starts_with("log")).collect();
    assert!(logs.len() >= 3, "{logs:?}");
    for name in logs {
        let clean = fs::read(sample.path().join(&name)).unwrap();
        for what in harms(clean.len(), 8) {
            costs_what_it_hit(&sample, &model, &name, &clean, what);
        }
    }
}

/// Frames of a log file, and its header, which has no keys: where each lies, and which keys it puts or deletes.
fn frames(clean: &[u8]) -> Vec<(std::ops::Range<usize>, Vec<Bytes>)> {
    let salt = crate::store::disk::frame::decode_file_header(clean).unwrap().2;
    let key = crate::store::disk::frame::FrameKey::new(&salt);
    let mut frames = vec![(0..68, Vec::new())];
    for piece in crate::store::disk::walk::Walk::new(clean, &key, 68) {
        let crate::store::disk::walk::Piece::Frame { at, frame } = piece else { panic!("damage in the sample") };
        let records = crate::store::disk::frame::records(&clean[frame.payload.clone()]);
        let keys = records.map(|record| Bytes::copy_from_slice(record.unwrap().0.key)).collect();
        frames.push((at..frame.payload.end, keys));
    }
    frames
}

/// Each frame that was hit is told by its place, before the store is opened; and every key of which no frame was hit is as
/// it was.
fn costs_what_it_hit(sample: &Disk, model: &Model, name: &Path, clean: &[u8], what: Harm) {
    let copied = tempfile::tempdir().unwrap();
    let root = copied.path().join("store");
    copy(&sample.path(), &root);
    harm(&root.join(name), what);
    let harmed = fs::read(root.join(name)).unwrap_or_default();
    let is_hit = |place: &std::ops::Range<usize>| clean.get(place.clone()) != harmed.get(place.clone());
    let hit: Vec<_> = frames(clean).into_iter().filter(|(place, _)| is_hit(place)).collect();
    let case = format!("{} {what:?}", name.display());

    let (scratch, mut told) = (tempfile::tempdir().unwrap(), Vec::new());
    crate::store::verify_closed(&root, scratch.path(), &mut |finding| told.push(finding)).unwrap();
    let (mine, missing): (Vec<_>, Vec<_>) = told
        .iter()
        .map(|finding| &finding.damage)
        .partition(|damage| Path::new(&damage.file) == name && damage.len > 0);
    for (place, _) in &hit {
        let covers = |damage: &&&crate::store::Damage| {
            (damage.offset as usize) < place.end && place.start < (damage.offset + damage.len) as usize
        };
        // What was cut off leaves no bytes that could be named: then the gap is.
        let is_gap = |damage: &&&crate::store::Damage| damage.what.contains("missing") || damage.what.contains("lost");
        let cut_off = place.end > harmed.len();
        let is_told =
            mine.iter().any(|damage| covers(&damage)) || cut_off && missing.iter().any(|damage| is_gap(&damage));
        assert!(is_told, "{case}: nothing tells of {place:?}: {told:?}");
    }
    for damage in &mine {
        let place = damage.offset as usize..(damage.offset + damage.len) as usize;
        let is_true = hit.iter().any(|(hit, _)| hit.start < place.end && place.start < hit.end);
        assert!(is_true, "{case}: {damage:?} was not hit");
    }

    let mut disk = Disk { dir: copied, options: small(), store: None };
    disk.open().unwrap();
    let is_touched = |key: &Bytes| hit.iter().any(|(_, keys)| keys.contains(key));
    let reader = disk.store.as_ref().unwrap().reader();
    for (key, value) in model.iter().filter(|(key, _)| !is_touched(key)) {
        let found = reader.get(key).unwrap_or_else(|error| panic!("{case}: {key:?}: {error}"));
        assert_eq!(found.as_ref(), Some(value), "{case}: {key:?}");
    }
    let mut visit = |key: &[u8], _: Option<u64>| {
        let key = Bytes::copy_from_slice(key);
        assert!(model.contains_key(&key) || is_touched(&key), "{case}: {key:?} is back");
        std::ops::ControlFlow::Continue(())
    };
    reader.scan_keys(&[], &[0xff; 4], &mut visit).unwrap();
    // What was hit reads as it was, from the index, or as damaged, or is gone; what was never written does not turn up.
    for (key, value) in model.iter().filter(|(key, _)| is_touched(key)) {
        match reader.get(key) {
            Ok(found) => assert!(found.is_none_or(|found| found == *value), "{case}: {key:?}"),
            Err(StoreError::Damaged { .. }) => assert!(!disk.get_mut().verify().unwrap().is_empty(), "{case}"),
            Err(error) => panic!("{case}: {error}"),
        }
    }
    // And it goes on.
    drop(reader);
    disk.put("after", vec![1; 1000]);
    disk.get_mut().checkpoint().unwrap();
    disk.open().unwrap();
    assert_eq!(disk.value("after").unwrap().unwrap(), vec![1; 1000], "{case}");
}

#[test]
fn frames_and_files_in_another_order_are_reported_and_never_believed() {
    let (sample, model) = sample();
    let mut logs: Vec<_> = names(&sample).into_iter().filter(|name| name.starts_with("log")).collect();
    logs.sort();
    // Two files under each other's names.
    for (one, other) in logs.iter().zip(&logs[1..]) {
        let copied = tempfile::tempdir().unwrap();
        let root = copied.path().join("store");
        copy(&sample.path(), &root);
        fs::rename(root.join(one), root.join("aside")).unwrap();
        fs::rename(root.join(other), root.join(one)).unwrap();
        fs::rename(root.join("aside"), root.join(other)).unwrap();
        open_damaged_copy(copied, &model, &format!("{one:?} and {other:?}")).unwrap();
    }
    // Two frames behind the last checkpoint, both intact: only their numbers tell.
    let last = logs.last().unwrap();
    let bytes = fs::read(sample.path().join(last)).unwrap();
    let magic = bytes[68..72].to_vec();
    let starts: Vec<_> = (68..bytes.len() - 4).filter(|at| bytes[*at..at + 4] == magic[..]).collect();
    let [.., a, b, c] = starts[..] else { panic!("too few frames: {starts:?}") };
    let swapped = [&bytes[..a], &bytes[b..c], &bytes[a..b], &bytes[c..]].concat();
    let copied = tempfile::tempdir().unwrap();
    copy(&sample.path(), &copied.path().join("store"));
    fs::write(copied.path().join("store").join(last), swapped).unwrap();
    let (report, _) = open_damaged_copy(copied, &model, "two frames").unwrap();
    assert!(report.damages.iter().any(|damage| damage.what.contains("there before")), "{report:?}");
}

#[test]
fn damage_to_the_index_costs_nothing() {
    let (sample, model) = sample();
    for name in names(&sample).into_iter().filter(|name| name.starts_with("sled")) {
        let len = fs::metadata(sample.path().join(&name)).unwrap().len() as usize;
        for what in harms(len, 5) {
            let (report, differs) = open_damaged(&sample, &model, &name, what).unwrap();
            assert_eq!((report.damages, differs), (vec![], false), "{} {what:?}", name.display());
            if let IndexState::Rebuilt { set_aside, .. } = report.index {
                assert!(set_aside.is_some(), "{} {what:?}", name.display());
            }
        }
    }
}

#[test]
fn damage_to_the_small_files_costs_nothing_or_is_a_clear_error() {
    let (sample, model) = sample();
    for name in ["marker", "FORMAT", "reserve", "lock", "synced"] {
        let len = fs::metadata(sample.path().join(name)).unwrap().len() as usize;
        for what in harms(len, 10) {
            match open_damaged(&sample, &model, Path::new(name), what) {
                Ok((_, differs)) => assert!(!differs, "{name} {what:?}"),
                Err(StoreError::Version { .. }) if name == "FORMAT" => {}
                Err(error) => panic!("{name} {what:?}: {error}"),
            }
        }
    }
}

#[test]
fn a_flipped_byte_in_a_value_is_told_with_its_place() {
    let (mut sample, _) = sample();
    let path = sample.log(1);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(1200).position(|window| window.iter().all(|byte| *byte == 5)).unwrap();
    bytes[at + 600] ^= 1;
    fs::write(&path, bytes).unwrap();
    let report = sample.open().unwrap();
    assert_eq!(report.damages, [], "the file was not replayed");
    let Err(StoreError::Damaged { place, .. }) = sample.value("key 4") else { panic!("damage was not seen") };
    assert!(place.ends_with(&format!("0000000001.log at {at}")), "{place} {at}");
    assert!(sample.value("key 6").unwrap().is_some());
    let found = sample.get_mut().verify().unwrap();
    assert_eq!(found.len(), 2, "the frame and the value: {found:?}");
    assert!(found[0].file == "log/0000000001.log" && found[0].offset < at as u64 && found[0].len > 1200, "{found:?}");
}

#[test]
fn a_missing_log_file_is_reported_and_does_not_hold_the_others_for_ever() {
    let (mut sample, _) = sample();
    fs::remove_file(sample.log(1)).unwrap();
    let report = sample.open().unwrap();
    assert_eq!(report.damages.len(), 1, "{report:?}");
    assert_eq!(
        (report.damages[0].file.as_str(), report.damages[0].what.as_str()),
        ("log/0000000001.log", "the file is missing")
    );
    assert!(matches!(sample.value("key 4"), Err(StoreError::Damaged { .. })));
    for _ in 0..200 {
        sample.put("hot", vec![3; 3000]);
        sample.get_mut().checkpoint().unwrap();
    }
    assert!(sample.get_mut().stats().files < 20);
    assert!(matches!(sample.value("key 4"), Err(StoreError::Damaged { .. })));
}

/// What sled holds after a restored backup of its directory alone is whole and wrong: the sum tells.
#[test]
fn an_old_index_under_a_new_log_is_found_out() {
    let mut disk = Disk::new();
    disk.put("a", "1");
    disk.get_mut().checkpoint().unwrap();
    disk.close();
    let backup = tempfile::tempdir().unwrap();
    copy(&disk.path().join("sled"), backup.path());
    disk.open().unwrap();
    disk.put("a", "2");
    disk.get_mut().checkpoint().unwrap();
    disk.close();
    fs::remove_dir_all(disk.path().join("sled")).unwrap();
    copy(backup.path(), &disk.path().join("sled"));
    let report = disk.open().unwrap();
    let IndexState::Rebuilt { why, set_aside } = report.index else { panic!("an old index was believed") };
    assert!(why.contains("last checkpoint") && set_aside.unwrap().ends_with("sled.broken-1"), "{why}");
    assert_eq!(disk.value("a").unwrap().unwrap(), "2");
}

#[test]
fn a_body_that_looks_like_a_frame_is_never_taken_for_one() {
    let mut disk = Disk::new();
    disk.put("a", "1");
    disk.close();
    // What a client would have to guess: a frame of another store.
    let other = Disk::new();
    let mut forged = Vec::new();
    let record =
        crate::store::disk::frame::Record { kind: super::super::frame::Kind::Put, key: b"forged", value: b"!" };
    other.store.as_ref().unwrap().log.key.encode(&mut forged, 3, 3, [record].into_iter());
    disk.open().unwrap();
    disk.put("body", [vec![0; 700], forged].concat());
    disk.put("last", "1");
    disk.close();
    let mut bytes = fs::read(disk.log(1)).unwrap();
    let at = bytes.windows(4).position(|window| window == b"body").unwrap();
    bytes[at + 10] ^= 1;
    fs::write(disk.log(1), bytes).unwrap();
    let report = disk.open().unwrap();
    assert_eq!(report.damages.len(), 1, "{report:?}");
    assert_eq!((disk.value("forged").unwrap(), disk.value("last").unwrap().unwrap()), (None, Bytes::from("1")));
}

/// The marker says which frame comes first behind the checkpoint: one that is not there leaves no other trace.
#[test]
fn a_frame_that_is_gone_right_behind_the_checkpoint_is_reported() {
    let frames_after = |keys: &[&str]| {
        let mut disk = Disk::new();
        disk.put("before", "1");
        disk.get_mut().checkpoint().unwrap();
        let start = fs::metadata(disk.log(1)).unwrap().len() as usize;
        let mut ends = Vec::new();
        for key in keys {
            disk.put(key, "1");
            ends.push(fs::metadata(disk.log(1)).unwrap().len() as usize);
        }
        disk.close();
        (disk, start, ends)
    };
    let (mut disk, start, ends) = frames_after(&["a", "b", "c"]);
    let mut bytes = fs::read(disk.log(1)).unwrap();
    bytes.drain(start..ends[0]);
    fs::write(disk.log(1), &bytes).unwrap();
    let report = disk.open().unwrap();
    assert_eq!(disk.value("a").unwrap(), None);
    let [damage] = &report.damages[..] else { panic!("{report:?}") };
    assert_eq!((damage.file.as_str(), damage.offset), ("log/0000000001.log", start as u64));
    assert_eq!(damage.what, "1 frames are missing before this place");
    assert_eq!(disk.value("b").unwrap().unwrap(), "1");

    // An old frame in the place of the first new one.
    let (mut disk, start, ends) = frames_after(&["before", "b", "c"]);
    let mut bytes = fs::read(disk.log(1)).unwrap();
    let len = ends[0] - start;
    assert_eq!(start - 68, len, "the old frame and the new one are equally long");
    bytes.copy_within(68..start, start);
    fs::write(disk.log(1), &bytes).unwrap();
    let report = disk.open().unwrap();
    let told: Vec<_> = report.damages.iter().map(|damage| (damage.offset, damage.what.as_str())).collect();
    assert_eq!(told[0], (start as u64, "a frame that was there before"), "{report:?}");
    assert_eq!(report.damages.len(), 2, "and the one that is missing: {report:?}");
}

/// A device that wrote a frame of further on over an earlier one: that one is lost, and nothing of what lies between them.
#[test]
fn a_frame_of_further_on_in_an_early_place_costs_only_what_it_overwrote() {
    let mut disk = Disk::new();
    let mut ends = vec![68];
    for key in ["a", "b", "c", "d", "e", "f"] {
        disk.put(key, "1");
        ends.push(fs::metadata(disk.log(1)).unwrap().len() as usize);
    }
    disk.close();
    let clean = fs::read(disk.log(1)).unwrap();
    // With what lies behind it whole, and with some of it damaged: that is no unfinished write, there is more behind.
    for flipped in [None, Some(2)] {
        let mut bytes = clean.clone();
        bytes.copy_within(ends[4]..ends[5], ends[1]);
        flipped.into_iter().for_each(|index| bytes[ends[index] + 45] ^= 1);
        fs::write(disk.log(1), &bytes).unwrap();
        fs::remove_file(disk.path().join("marker")).unwrap();
        for _ in 0..2 {
            let report = disk.open().unwrap();
            assert_eq!(report.torn_tail, None);
            for (index, key) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
                let is_there = disk.value(key).unwrap().is_some();
                assert_eq!(is_there, index != 1 && Some(index) != flipped, "{key} {flipped:?}: {report:?}");
            }
            disk.close();
        }
    }

    // The end is missing, too: numbers that were used are not used again.
    let mut bytes = clean[..ends[4]].to_vec();
    bytes.splice(ends[1]..ends[2], clean[ends[5]..].iter().copied());
    fs::write(disk.log(1), &bytes).unwrap();
    fs::remove_file(disk.path().join("marker")).unwrap();
    let report = disk.open().unwrap();
    assert!(report.damages.iter().any(|damage| damage.what == "a frame that belongs further on"), "{report:?}");
    assert!(disk.get_mut().log.position().sequence > 6);
    disk.put("after", "1");
    disk.open().unwrap();
    for (key, is_there) in [("a", true), ("b", false), ("c", true), ("d", true), ("f", false), ("after", true)] {
        assert_eq!(disk.value(key).unwrap().is_some(), is_there, "{key}");
    }
}

/// Whatever the length that a log is cut to, no frame that was synced goes without a word: how many, and from where on.
#[test]
fn a_log_that_lost_its_end_says_how_many_frames_are_gone() {
    for files_before in [0, 1] {
        let mut disk = Disk::new();
        disk.options.checkpoint_bytes = u64::MAX;
        if files_before == 1 {
            disk.put("first file", vec![1; 17 << 10]);
        }
        let number = 1 + files_before;
        let mut ends = vec![68];
        for key in ["a", "b", "c", "d"] {
            disk.put(key, vec![1; 100]);
            ends.push(fs::metadata(disk.log(number)).unwrap().len() as usize);
        }
        // As after a kill: nothing was brought to the index.
        disk.close();
        let bytes = fs::read(disk.log(number)).unwrap();
        assert_eq!(bytes.len(), ends[4]);
        let around = ends.iter().flat_map(|end| [end - 1, *end, end + 1, end + 60]);
        for cut in around.chain([0, 1, 30]).filter(|cut| *cut < bytes.len()) {
            for keeps_marker in [true, false] {
                let copied = tempfile::tempdir().unwrap();
                let root = copied.path().join("store");
                copy(&disk.path(), &root);
                fs::write(super::super::log::path(&root.join("log"), number), &bytes[..cut]).unwrap();
                if !keeps_marker {
                    fs::remove_file(root.join("marker")).unwrap();
                }
                let lost = 4 - ends[1..].iter().filter(|end| **end <= cut).count();
                let says = format!("{lost} last frames are lost");
                let (scratch, mut told) = (tempfile::tempdir().unwrap(), Vec::new());
                let mut tell = |finding: crate::store::Finding| told.push(finding.damage);
                crate::store::verify_closed(&root, scratch.path(), &mut tell).unwrap();
                let mut damaged = Disk { dir: copied, options: small(), store: None };
                let report = damaged.open().unwrap();
                for damages in [&told, &report.damages] {
                    let end = damages.iter().find(|damage| damage.what.contains(&says));
                    let end = end.unwrap_or_else(|| panic!("cut to {cut}: {damages:?}"));
                    assert_eq!((end.file.as_str(), end.offset), (&*format!("log/{number:010}.log"), cut as u64));
                    assert_eq!(end.len, (bytes.len() - cut) as u64);
                }
                assert_eq!(report.torn_tail, None, "cut to {cut}: it was synced");
                let kept = fs::read(damaged.log(number)).unwrap();
                assert_eq!(kept[..cut], bytes[..cut], "cut to {cut}: nothing of it is cut off");
                // Numbers are not given out twice, and the next reader misses the same frames.
                let sequence = damaged.get_mut().log.position().sequence;
                assert!(sequence > 4 + files_before, "cut to {cut}: {sequence}");
                damaged.put("after", "1");
                let report = damaged.open().unwrap();
                // A new index is a checkpoint: what was told then is not read again.
                assert_eq!(report.damages.is_empty(), !keeps_marker, "cut to {cut}: {:?}", report.damages);
                assert_eq!(damaged.value("after").unwrap().unwrap(), "1");
                let there = ["a", "b", "c", "d"].iter().filter(|key| damaged.value(key).unwrap().is_some()).count();
                assert_eq!(there, 4 - lost, "cut to {cut}");
            }
        }
    }
}

/// What was never synced is cut off as before, and an older `synced` than the log is no damage.
#[test]
fn a_write_that_was_cut_short_behind_what_was_synced_is_no_damage() {
    let mut disk = Disk::new();
    let synced = disk.path().join("synced");
    disk.put("a", "1");
    let older = fs::read(&synced).unwrap();
    disk.put("b", "1");
    let end = fs::metadata(disk.log(1)).unwrap().len();
    disk.close();
    fs::write(&synced, &older).unwrap();
    let report = disk.open().unwrap();
    assert_eq!((report.damages, report.torn_tail, report.unknown_end), (vec![], None, None));
    assert_ne!(fs::read(&synced).unwrap(), older, "what was read is durable now");
    disk.close();
    // The bytes of the last write, and of one that never was synced.
    let clean = fs::read(disk.log(1)).unwrap();
    // A frame of one byte under a key of one byte is 49 long.
    for len in 1..49 {
        fs::write(disk.log(1), [&clean[..], &clean[68..68 + len]].concat()).unwrap();
        fs::write(&synced, &older).unwrap();
        let report = disk.open().unwrap();
        disk.close();
        assert_eq!(report.damages, []);
        assert_eq!(report.torn_tail.unwrap().offset, end, "{len}");
    }
    fs::write(disk.log(1), &clean[..end as usize - 1]).unwrap();
    fs::write(&synced, &older).unwrap();
    assert!(disk.open().unwrap().torn_tail.is_some(), "after a power cut it may not have been synced");
    // Without the file nothing more can be told, and that is told.
    disk.put("c", "1");
    disk.close();
    fs::write(disk.log(1), &clean[..end as usize - 1]).unwrap();
    for bytes in [None, Some(b"garbage")] {
        match bytes {
            None => fs::remove_file(&synced).unwrap(),
            Some(bytes) => fs::write(&synced, bytes).unwrap(),
        }
        let scratch = tempfile::tempdir().unwrap();
        let mut told = Vec::new();
        let mut tell = |finding: crate::store::Finding| told.push(finding.damage.file);
        let (_, notes) = crate::store::verify_closed(&disk.path(), scratch.path(), &mut tell).unwrap();
        // A file that is gone may be that of an older program; a damaged one is damage.
        assert_eq!(notes.iter().any(|note| note.starts_with("synced is missing")), bytes.is_none(), "{notes:?}");
        assert_eq!(told.contains(&"synced".to_owned()), bytes.is_some(), "{told:?}");
        let report = disk.open().unwrap();
        assert!(report.unknown_end.is_some());
        assert_eq!(report.damages.iter().any(|damage| damage.file == "synced"), bytes.is_some(), "{report:?}");
        assert_eq!(disk.open().unwrap().unknown_end, None, "made anew");
        disk.close();
    }
}

/// A log that was cleaned to its very end has no frame to go by: the place is enough.
#[test]
fn a_log_without_any_frame_left_is_whole_if_all_of_it_was_cleaned() {
    let mut disk = Disk::new();
    disk.put("a", vec![1; 20 << 10]);
    disk.delete("a");
    disk.get_mut().checkpoint().unwrap();
    disk.get_mut().log.start_next().unwrap();
    disk.get_mut().checkpoint().unwrap();
    assert_eq!(disk.get_mut().stats().log_bytes, 68);
    disk.close();
    fs::remove_file(disk.path().join("marker")).unwrap();
    let report = disk.open().unwrap();
    assert_eq!((report.damages, report.torn_tail), (vec![], None));
    let at = disk.get_mut().log.position();
    assert!(at.sequence > 2, "{at:?}");
}
