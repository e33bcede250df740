//! What checks and cleaning must do at their corners: a disk with little room, rows that move while they are looked at,
//! leftovers, damage that must be told once and in the right words.

use std::{cell::RefCell, ops::ControlFlow, sync::Arc};

use super::{
    super::{
        log::FileTable,
        place::is_of_key,
        reader::{RowVisitor, Shared},
        row::Row,
        rules::{Rows, check_rows},
    },
    checks::Host,
    faulty::{Fault, FaultyFiles},
    *,
};
use crate::{
    Dot, RangeSet, keys, limits,
    store::{Finding, Part, verify_closed},
};

fn verify(dir: &std::path::Path) -> Vec<Finding> {
    let (scratch, mut found) = (tempfile::tempdir().unwrap(), Vec::new());
    verify_closed(dir, scratch.path(), &mut |finding| found.push(finding)).unwrap();
    found
}

/// It frees space only afterwards: a copy of what lives must not take what removals may soon need.
#[test]
fn cleaning_waits_where_there_is_room_for_a_checkpoint_alone() {
    let (dir, files) = (tempfile::tempdir().unwrap(), FaultyFiles::default());
    let (mut store, _) = DiskStore::open_on(dir.path(), small(), Arc::new(files.clone())).unwrap();
    let mut put =
        |key: &'static str, len: usize| store.commit(&[vec![Op::Put(Bytes::from(key), Bytes::from(vec![7; len]))]]);
    put("stays", 160_000).unwrap();
    (0..200).for_each(|_| put("hot", 3_000).unwrap());
    let first = crate::store::disk::log::path(&dir.path().join("log"), 1);
    files.arm(Fault::Room(300_000));
    store.checkpoint().unwrap();
    assert!(first.exists(), "it takes 320,000 bytes");
    files.disarm();
    store.checkpoint().unwrap();
    assert!(!first.exists());
}

#[test]
fn a_file_of_many_small_rows_does_not_stay_in_memory_while_it_is_carried() {
    for (rows, stay) in [(2 * 200, true), (2 * 200 + 1, false)] {
        let mut disk = Disk::new();
        let batch = (0..rows).map(|number| Op::Put(Bytes::from(format!("{number}")), Bytes::from("1"))).collect();
        disk.get_mut().commit(&[batch]).unwrap();
        disk.get_mut().checkpoint().unwrap();
        disk.get_mut().log.start_next().unwrap();
        disk.get_mut().carry(1).unwrap();
        assert_eq!(disk.get_mut().stats().overlay_rows, if stay { rows } else { 0 });
        assert_eq!(disk.value("399").unwrap().unwrap(), "1");
    }
}

/// A key that was put often is carried once.
#[test]
fn what_is_carried_is_each_key_once() {
    let mut disk = Disk::new();
    for _ in 0..100 {
        disk.put("hot", "1");
    }
    disk.get_mut().log.start_next().unwrap();
    let before = disk.get_mut().stats().written;
    disk.get_mut().carry(1).unwrap();
    assert_eq!(disk.get_mut().stats().written - before, 40 + 7 + 3 + 1, "one frame with one record");
}

#[test]
fn a_reserve_that_was_cut_short_is_made_anew() {
    let mut disk = Disk::new();
    let reserve = disk.path().join("reserve");
    disk.close();
    fs::write(&reserve, [0; 100]).unwrap();
    disk.open().unwrap();
    assert_eq!(fs::metadata(reserve).unwrap().len(), small().reserve);
}

#[test]
fn the_file_that_the_last_checkpoint_was_in_is_missed_though_nothing_was_written_behind() {
    let mut disk = Disk::new();
    disk.put("large", vec![1; 1000]);
    disk.get_mut().checkpoint().unwrap();
    disk.close();
    fs::remove_file(disk.log(1)).unwrap();
    let report = disk.open().unwrap();
    let told: Vec<_> = report.damages.iter().map(|damage| (damage.file.as_str(), damage.what.as_str())).collect();
    assert_eq!(told, [("log/0000000001.log", "the file is missing")]);
}

#[test]
fn a_value_that_would_begin_before_its_record_is_no_value() {
    let dir = tempfile::tempdir().unwrap();
    let table = FileTable::new(dir.path().to_owned(), Arc::new(FaultyFiles::default()));
    // Seven bytes of header, and the key. The file is not even asked for; that it is missing would be no reason.
    let row = |offset| Row::Pointer { file: 1, offset, len: 600, checksum: [0; 16] };
    assert!(!is_of_key(&table, b"key", &row(9)).unwrap());
    assert!(is_of_key(&table, b"key", &row(10)).unwrap());
}

/// A crash may leave files that the last checkpoint had given up: the next start removes them.
#[test]
fn leftovers_of_a_checkpoint_are_neither_counted_nor_missed_by_a_check() {
    let mut disk = Disk::new();
    disk.put("gone", vec![1; 17 << 10]);
    let left = fs::read(disk.log(1)).unwrap();
    for _ in 0..4 {
        disk.put("hot", vec![2; 17 << 10]);
    }
    disk.delete("gone");
    disk.get_mut().checkpoint().unwrap();
    assert!(!disk.log(1).exists() && !disk.log(2).exists());
    disk.close();
    fs::write(disk.log(1), left).unwrap();
    assert_eq!(verify(&disk.path()), []);
    disk.reopen();
    assert!(!disk.log(1).exists());
}

/// Of a log with damage nobody knows what the index should be.
#[test]
fn an_index_is_not_blamed_for_what_a_damaged_log_does_not_say() {
    let mut disk = Disk::new();
    disk.put("a small", "in the index, too");
    disk.put("other", "1");
    disk.get_mut().checkpoint().unwrap();
    disk.put("third", "1");
    disk.close();
    let mut bytes = fs::read(disk.log(1)).unwrap();
    let at = bytes.windows(7).position(|window| window == b"a small").unwrap();
    bytes[at] ^= 1;
    fs::write(disk.log(1), bytes).unwrap();
    let parts: Vec<Part> = verify(&disk.path()).into_iter().map(|finding| finding.part).collect();
    assert_eq!(parts, [Part::Log]);
    assert_eq!(disk.open().unwrap().index, crate::store::IndexState::Intact);
}

#[test]
fn consumed_slots_on_another_page_are_named() {
    let mut host = Host::sample();
    let segment = host.engine.segments().last().unwrap();
    let state = host.engine.state_of(segment);
    // Known and consumed, so that nothing else is wrong with them.
    let consumed = state.removed.iter().nth(1).unwrap();
    let stray = RangeSet::from_range(consumed, consumed);
    let page = keys::removed(segment, 2 * limits::SEGMENT_SLOTS / limits::REMOVED_PAGE_SLOTS);
    host.disk.get_mut().commit(&[vec![Op::Put(page.clone(), keys::encode(&stray))]]).unwrap();
    let found = host.check();
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((finding.part, &finding.slots, &finding.row), (Part::Prefix, &stray, &Some(page)));
    assert!(finding.damage.what.contains("not theirs"), "{finding}");
}

/// Rows as a scan saw them, if they are to move: all of them have moved since.
struct Moved {
    shared: Arc<Shared>,
    /// Rows that have been looked at once.
    seen: RefCell<Vec<Bytes>>,
    moves: bool,
}

impl Moved {
    fn of(host: &mut Host, moves: bool) -> Self {
        Self { shared: host.disk.get_mut().shared.clone(), seen: RefCell::default(), moves }
    }
}

impl Moved {
    /// Whether a row that moves is asked for for the first time.
    fn is_first(&self, key: &[u8]) -> bool {
        let mut seen = self.seen.borrow_mut();
        let is_first = self.moves && !seen.iter().any(|seen| seen == key);
        if is_first {
            seen.push(Bytes::copy_from_slice(key));
        }
        is_first
    }
}

fn gone() -> Row {
    Row::Pointer { file: 999, offset: 100, len: 600, checksum: [0; 16] }
}

impl Rows for Moved {
    fn visit(&self, from: &[u8], to: &[u8], visit: &mut RowVisitor<'_>) -> Result<(), StoreError> {
        self.shared.rows(from, to, &mut |key, row| visit(key, if self.is_first(key) { gone() } else { row }))
    }

    fn row(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        if self.is_first(key) { Ok(Some(gone())) } else { self.shared.row(key) }
    }

    fn value(&self, row: &Row) -> Result<Option<Bytes>, StoreError> {
        self.shared.value(row)
    }

    fn file_name(&self, number: u64) -> String {
        format!("log/{number:010}.log")
    }

    fn table(&self) -> &FileTable {
        self.shared.table()
    }
}

#[test]
fn a_value_that_was_moved_while_it_was_looked_for_is_looked_for_again() {
    let mut host = Host::sample();
    let (rows, mut found, mut checked) = (Moved::of(&mut host, true), Vec::new(), Default::default());
    let flow = check_rows(&rows, &mut checked, &mut |_| ControlFlow::Continue(()), &mut |finding| found.push(finding));
    assert!(flow.unwrap().is_continue());
    assert_eq!(found, []);
    assert!(!rows.seen.borrow().is_empty());
}

/// A broken block that is consumed while others are read: there is nothing to mend any more.
#[test]
fn a_block_that_goes_while_its_segment_is_looked_at_is_not_told() {
    let mut host = Host::new();
    for text in ["broken ", "whole "] {
        host.publish(text, 3000);
    }
    let segment = host.engine.segments().next().unwrap();
    let mut bytes = fs::read(host.disk.log(1)).unwrap();
    let at = bytes.windows(14).position(|window| window == b"broken broken ").unwrap();
    bytes[at + 1000] ^= 1;
    fs::write(host.disk.log(1), bytes).unwrap();
    for is_consumed in [false, true] {
        let (rows, mut found, mut checked) = (Moved::of(&mut host, false), Vec::new(), Default::default());
        let mut pace = |cost| {
            // A block that does not read costs what a row does, and all else more.
            if is_consumed && cost == 64 {
                host.engine.remove(Dot { segment, slot: 1 });
                host.settle();
            }
            ControlFlow::Continue(())
        };
        _ = check_rows(&rows, &mut checked, &mut pace, &mut |finding| found.push(finding)).unwrap();
        assert_eq!(found.len(), usize::from(!is_consumed), "{found:?}");
    }
}

#[test]
fn few_log_files_are_held_open_however_many_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let table = FileTable::new(dir.path().to_owned(), Arc::new(FaultyFiles::default()));
    for number in 1..=200 {
        fs::write(table.path(number), b"").unwrap();
        table.get(number).unwrap();
    }
    let held = table.held();
    assert!((32..=64).contains(&held), "{held}");
}
