//! The shared suite, and what every store directory must do.

use proptest::prelude::*;

use super::*;
use crate::store::{
    IndexState,
    suite::{follows_the_model, readers_stay_valid, scans_long_ranges, steps},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn follows_the_model_through_checkpoints_crashes_and_a_lost_index(steps in steps(40)) {
        follows_the_model(&mut Disk::new(), &steps);
    }
}

#[test]
fn scans_long_ranges_over_both_layers() {
    scans_long_ranges(&mut Disk::new());
}

#[test]
fn readers_stay_valid_while_the_store_goes_on() {
    readers_stay_valid(&mut Disk::new());
}

#[test]
fn a_new_store_says_so_and_an_old_one_is_found_again() {
    let mut disk = Disk { dir: tempfile::tempdir().unwrap(), options: small(), store: None };
    let report = disk.open().unwrap();
    assert_eq!((report.index, report.damages, report.replayed), (IndexState::Created, vec![], 0));
    disk.put("a", "1");
    disk.put("b", vec![2; 5000]);
    let report = disk.open().unwrap();
    assert_eq!((report.index, report.replayed), (IndexState::Intact, 2));
    disk.get_mut().checkpoint().unwrap();
    let report = disk.open().unwrap();
    assert_eq!((report.index, report.replayed), (IndexState::Intact, 0));
    assert_eq!(
        (disk.value("a").unwrap().unwrap(), disk.value("b").unwrap().unwrap()),
        (Bytes::from("1"), Bytes::from(vec![2; 5000]))
    );
}
