//! A disk that is really full: a file system of six megabytes in memory, mounted in a namespace of the test's own. Where the
//! system does not allow that, `RHIZOMQ_SMALL_DISK` may name a directory on a small file system (`mount -t tmpfs -o size=6m
//! tmpfs DIR`); without either the test says that it was skipped.

use super::*;
use crate::store::suite::apply;

/// What the shell ends with when it could not mount.
const NO_MOUNT: i32 = 77;

/// Runs a test of this program again, where there is a small disk.
fn again_on_a_small_disk(test: &str) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=6m tmpfs \"$1\" || exit {NO_MOUNT}; RHIZOMQ_SMALL_DISK=\"$1\" exec \"$2\" --exact {test}"
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    let ran = command.arg(dir.path()).arg(std::env::current_exe().unwrap()).output();
    let Some(output) = ran.ok().filter(|output| {
        // Namespaces may be forbidden: then unshare itself complains.
        output.status.code() != Some(NO_MOUNT) && !output.stderr.starts_with(b"unshare:")
    }) else {
        return eprintln!("SKIPPED: no small disk can be mounted here, and RHIZOMQ_SMALL_DISK is not set");
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "it did not run: {said}");
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let Some(small_disk) = std::env::var_os("RHIZOMQ_SMALL_DISK") else {
        let test = format!("{}::a_full_disk_refuses_and_goes_on_when_there_is_room", module_path!());
        return again_on_a_small_disk(test.split_once("::").unwrap().1);
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
            let batch = vec![Op::Put(Bytes::from(format!("O{round} {number}")), value)];
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

/// The log never gets as long as a file may be.
#[test]
fn what_is_consumed_on_a_full_disk_gives_its_space_back() {
    let Some(small_disk) = std::env::var_os("RHIZOMQ_SMALL_DISK") else {
        let test = format!("{}::what_is_consumed_on_a_full_disk_gives_its_space_back", module_path!());
        return again_on_a_small_disk(test.split_once("::").unwrap().1);
    };
    let mut disk =
        Disk { dir: tempfile::tempdir_in(small_disk).unwrap(), options: DiskOptions::default(), store: None };
    disk.open().unwrap();
    for round in 0..6_u32 {
        let mut taken = Vec::new();
        loop {
            let key = Bytes::from(format!("B{round} {}", taken.len()));
            let body = vec![round as u8; 2_000];
            let value = Bytes::from([&body[..], blake3::hash(&body).as_bytes()].concat());
            match disk.get_mut().commit(&[vec![Op::Put(key.clone(), value)]]) {
                Ok(()) => taken.push(key),
                Err(StoreError::Full { .. }) => break,
                Err(error) => panic!("{error}"),
            }
            look_after(&mut disk);
        }
        assert!(taken.len() > 1_000, "round {round}: {}", taken.len());
        for key in taken {
            let note = Op::Put(Bytes::from("S"), Bytes::from(vec![1; 60]));
            disk.get_mut().commit(&[vec![Op::Delete(key), note]]).unwrap();
            look_after(&mut disk);
        }
    }
    disk.reopen();
}

/// As whoever drives a store does after each commit.
fn look_after(disk: &mut Disk) {
    if disk.get_mut().wants_checkpoint() {
        disk.get_mut().checkpoint().unwrap();
    }
}
