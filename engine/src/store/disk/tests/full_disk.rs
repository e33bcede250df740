//! A disk that is really full. Needs one that is small: `RHIZOMQ_SMALL_DISK` names a directory on a file system of some
//! megabytes (`mount -t tmpfs -o size=6m tmpfs DIR`); without it the test says that it was skipped.

use super::*;
use crate::store::suite::apply;

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let Some(small_disk) = std::env::var_os("RHIZOMQ_SMALL_DISK") else {
        eprintln!("skipped: RHIZOMQ_SMALL_DISK is not set");
        return;
    };
    let mut options = small();
    options.reserve = 1 << 20;
    let mut disk = Disk { dir: tempfile::tempdir_in(small_disk).unwrap(), options, store: None };
    disk.open().unwrap();
    let mut model = Model::new();
    let mut number = 0_u32;
    for round in 0..5_u32 {
        let mut refusals = 0;
        while refusals < 20 {
            number += 1;
            let value = Bytes::from(vec![number as u8; if number.is_multiple_of(2) { 300 } else { 20_000 }]);
            let batch = vec![Op::Put(Bytes::from(format!("{round} {number}")), value)];
            match disk.get_mut().commit(std::slice::from_ref(&batch)) {
                Ok(()) => apply(&mut model, &[batch]),
                Err(StoreError::Full { .. }) => refusals += 1,
                Err(error) => panic!("{error}"),
            }
            if disk.get_mut().wants_checkpoint() {
                match disk.get_mut().checkpoint() {
                    Ok(()) => {}
                    Err(StoreError::Full { .. }) => refusals += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            if number.is_multiple_of(50) {
                disk.shows(&model);
            }
        }
        disk.shows(&model);
        match round {
            1 | 3 => drop(disk.open().unwrap()),
            _ => {}
        }
        disk.shows(&model);
        // Removals need little, and the reserve is for them.
        let keys: Vec<Bytes> = model.keys().cloned().collect();
        for keys in keys.chunks(10) {
            let batch: Vec<Op> = keys.iter().cloned().map(Op::Delete).collect();
            disk.get_mut().commit(std::slice::from_ref(&batch)).unwrap();
            apply(&mut model, &[batch]);
        }
        for _ in 0..20 {
            disk.get_mut().checkpoint().unwrap();
        }
        disk.shows(&model);
        assert!(disk.get_mut().stats().log_bytes < 200_000, "{:?}", disk.get_mut().stats());
    }
}
