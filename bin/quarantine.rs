//! A store that can't be opened is set aside (renamed, never deleted), and the node starts empty: its peers have what it
//! held. What somebody else's program or hand has to put right is left alone.

use std::{
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use rhizomq_engine::{
    StoreError,
    store::{DiskOptions, DiskStore, OpenReport},
};

/// What was set aside, and why.
#[derive(Debug)]
pub(crate) struct SetAside {
    pub(crate) place: PathBuf,
    pub(crate) why: String,
}

/// Opens the store in `dir`; a panic on the way is an error like others.
pub(crate) fn open(dir: &Path, options: DiskOptions) -> Result<(DiskStore, OpenReport), StoreError> {
    let opened = catch_unwind(AssertUnwindSafe(|| DiskStore::open(dir, options)));
    opened.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        let detail = format!("opening it panicked: {}", text.unwrap_or("without a word"));
        Err(StoreError::Damaged { place: dir.display().to_string(), detail })
    })
}

/// As [`open`]; a store that is beyond repair is moved out of the way first.
pub(crate) fn open_or_set_aside(
    dir: &Path,
    options: DiskOptions,
) -> Result<(DiskStore, OpenReport, Option<SetAside>), StoreError> {
    let error = match open(dir, options.clone()) {
        Ok((store, report)) => return Ok((store, report, None)),
        Err(error) if is_beyond_repair(&error, dir) => error,
        Err(error) => return Err(error),
    };
    let free = |number: &u32| !with_suffix(dir, *number).exists();
    let Some(place) = (1..u32::MAX).find(free).map(|number| with_suffix(dir, number)) else { return Err(error) };
    let context = format!("setting {} aside", dir.display());
    std::fs::rename(dir, &place).map_err(|source| StoreError::Io { context, source })?;
    let (store, report) = open(dir, options)?;
    Ok((store, report, Some(SetAside { place, why: error.to_string() })))
}

fn with_suffix(dir: &Path, number: u32) -> PathBuf {
    dir.with_extension(format!("broken-{number}"))
}

/// Only what no other program, user or mount will make readable: damage, and a device or file system that says so.
fn is_beyond_repair(error: &StoreError, dir: &Path) -> bool {
    match error {
        StoreError::Damaged { .. } => true,
        StoreError::Io { source, .. } => {
            // EIO, EBADMSG, EUCLEAN; and names that are of another kind than what was written.
            matches!(source.raw_os_error(), Some(5 | 74 | 117))
                || matches!(
                    source.kind(),
                    ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::AlreadyExists
                )
        }
        // Neither `FORMAT` nor any log file is intact, but it is a store: nobody else makes files of these names.
        StoreError::Foreign { .. } => {
            dir.join("log").exists() && (dir.join("sled").exists() || dir.join("marker").exists())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rhizomq_engine::{Op, Store};

    use super::*;

    fn open(dir: &Path) -> Result<(DiskStore, OpenReport), StoreError> {
        super::open(dir, DiskOptions::default())
    }

    fn open_or_set_aside(dir: &Path) -> Result<(DiskStore, OpenReport, Option<SetAside>), StoreError> {
        super::open_or_set_aside(dir, DiskOptions::default())
    }

    fn store_with_a_row(dir: &Path) {
        let (mut store, _) = open(dir).unwrap();
        store.commit(&[vec![Op::Put("a".into(), "1".into())]]).unwrap();
    }

    #[test]
    fn a_store_beyond_repair_is_set_aside_whole_and_an_empty_one_opened() {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().join("store");
        for round in 1..=2 {
            store_with_a_row(&dir);
            fs::remove_file(dir.join("FORMAT")).unwrap();
            fs::write(dir.join("log/0000000001.log"), b"garbage").unwrap();
            let (store, _, aside) = open_or_set_aside(&dir).unwrap();
            assert!(store.reader().get(b"a").unwrap().is_none());
            let aside = aside.unwrap();
            assert_eq!(aside.place, data.path().join(format!("store.broken-{round}")));
            assert_eq!(fs::read(aside.place.join("log/0000000001.log")).unwrap(), b"garbage");
        }
        drop(open(&dir).unwrap());
        fs::remove_dir_all(dir.join("log")).unwrap();
        fs::write(dir.join("log"), b"no directory").unwrap();
        assert!(open_or_set_aside(&dir).unwrap().2.is_some());
    }

    #[test]
    fn what_others_can_put_right_is_left_alone() {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().join("store");
        store_with_a_row(&dir);
        let (_open, _) = open(&dir).unwrap();
        assert!(matches!(open_or_set_aside(&dir), Err(StoreError::Locked { .. })));
        drop(_open);
        let format = fs::read_to_string(dir.join("FORMAT")).unwrap();
        fs::write(dir.join("FORMAT"), format.replace("format 1", "format 9")).unwrap();
        assert!(matches!(open_or_set_aside(&dir), Err(StoreError::Version { found: 9, .. })));
        fs::remove_dir_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("thesis.txt"), "years of work").unwrap();
        assert!(matches!(open_or_set_aside(&dir), Err(StoreError::Foreign { .. })));
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 1);
    }
}
