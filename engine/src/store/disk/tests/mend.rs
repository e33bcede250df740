//! A small row whose value lies in the log alone and is broken there: the engine that has it in memory makes it whole.

use super::{checks::Host, *};
use crate::store::Part;

/// A registry set whose value is too large to lie in the index, broken in the log under the open store.
fn broken() -> Host {
    let mut host = Host::sample();
    let pattern = vec![0xe7; 2_000];
    host.engine.set("large").add(&pattern).unwrap();
    host.settle();
    let held =
        |number: &u64| fs::read(host.disk.log(*number)).is_ok_and(|all| all.windows(2_000).any(|w| w == pattern));
    let path = host.disk.log((1..100).find(held).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(2_000).position(|window| window == pattern).unwrap() + 1_000;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
    host
}

#[test]
fn a_broken_small_row_is_whole_again_after_the_next_commit_before_and_after_its_file_has_gone() {
    for renewed in [false, true] {
        let mut host = broken();
        let mut found = host.check();
        let files: Vec<_> = found.iter().filter(|finding| finding.part == Part::Log).collect();
        let files: Vec<String> = files.into_iter().map(|finding| finding.damage.file.clone()).collect();
        assert!(!files.is_empty(), "{found:?}");
        if renewed {
            files.iter().for_each(|file| host.disk.get_mut().renew(file).unwrap());
            found = host.check();
            assert_eq!(found.len(), 1, "the row is lost, and nothing else is left: {found:?}");
        }
        let rows: Vec<Bytes> = found.iter().filter_map(|finding| finding.row.clone()).collect();
        assert_eq!(rows.len(), 1, "{found:?}");
        assert!(host.engine.rewrite_row(&rows[0]));
        host.settle();
        assert!(host.check().iter().all(|finding| finding.part == Part::Log));
        files.iter().for_each(|file| host.disk.get_mut().renew(file).unwrap());
        assert_eq!(host.check(), []);
        host.disk.close();
        assert_eq!(host.disk.open().unwrap().damages, []);
        assert!(Host::on(host.disk).engine.set("large").contains(vec![0xe7; 2_000]));
    }
}
