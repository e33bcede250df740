//! The directory itself: whether it is ours, of which format, and not in use. `FORMAT` is a text file for people, too:
//!
//! ```text
//! rhizomq store format 1
//! salt 64 hex digits, 32 hex digits of blake3 over the first 64
//! ```

use std::{
    fs::{self, File, TryLockError},
    hash::{BuildHasher, RandomState},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    Damage,
    file::{io_error, is_no_file, open_file, read_file, sync_dir, write_atomically},
    frame::{FILE_HEADER, Salt, VERSION, checksum, decode_file_header},
    log,
};
use crate::StoreError;

/// A lock may outlive its owner for a moment: a child process that was just forked holds it, too, until its program
/// starts, and sled starts one whenever it opens.
pub(super) const LOCK_ATTEMPTS: u32 = 20;
/// Between two attempts.
pub(super) const LOCK_PAUSE: Duration = Duration::from_millis(25);

const TITLE: &str = "rhizomq store format ";

/// The places in a store's directory.
#[derive(Clone)]
pub(super) struct Places {
    pub(super) root: PathBuf,
    pub(super) format: PathBuf,
    pub(super) lock: PathBuf,
    pub(super) log: PathBuf,
    pub(super) index: PathBuf,
    pub(super) marker: PathBuf,
    pub(super) synced: PathBuf,
    pub(super) rebuilding: PathBuf,
    pub(super) reserve: PathBuf,
}

impl Places {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            format: root.join("FORMAT"),
            lock: root.join("lock"),
            log: root.join("log"),
            index: root.join("sled"),
            marker: root.join("marker"),
            synced: root.join("synced"),
            rebuilding: root.join("rebuilding"),
            reserve: root.join("reserve"),
        }
    }

    /// A path as reports name it: from the store's directory on.
    pub(super) fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

/// A directory that is ours alone as long as `lock` is open.
pub(super) struct Prepared {
    pub(super) lock: File,
    pub(super) salt: Salt,
    /// The store did not exist before.
    pub(super) created: bool,
}

/// Checks, locks and, when it is empty, sets up the directory.
pub(super) fn prepare(places: &Places, damages: &mut Vec<Damage>) -> Result<Prepared, StoreError> {
    let root = &places.root;
    fs::create_dir_all(root).map_err(|error| io_error("creating", root, error))?;
    // Before the lock file is made: nothing may be left behind in a directory that is not ours.
    let found = read_format(places)?;
    let lock = lock(&places.lock)?;
    fs::create_dir_all(&places.log).map_err(|error| io_error("creating", &places.log, error))?;
    set_special_aside(places, damages)?;
    let (salt, created) = match found {
        Found::Salt(salt) => return Ok(Prepared { lock, salt, created: false }),
        Found::Nothing => (new_salt(), true),
        Found::Damaged(salt, what) => {
            damages.push(Damage { file: places.name(&places.format), offset: 0, len: 0, what: what.to_owned() });
            (salt, false)
        }
    };
    write_atomically(&places.format, format_text(&salt).as_bytes())?;
    // The directory's own entry, too.
    sync_dir(&root.canonicalize().ok().and_then(|root| root.parent().map(Path::to_owned)).unwrap_or(root.clone()))?;
    Ok(Prepared { lock, salt, created })
}

/// Moves out of the way what is no regular file and has the name of one of ours: to open it may take for ever. The file is as
/// good as missing from then on.
fn set_special_aside(places: &Places, damages: &mut Vec<Damage>) -> Result<(), StoreError> {
    let small = [&places.format, &places.marker, &places.synced, &places.rebuilding, &places.reserve];
    for path in small.into_iter().cloned().chain(log::special(&places.log)?) {
        if fs::metadata(&path).map_or(true, |found| found.is_file()) {
            continue;
        }
        let name = |number: u32| {
            let mut name = path.clone().into_os_string();
            name.push(format!(".no-file-{number}"));
            PathBuf::from(name)
        };
        // Its own name is taken, so not all of these are.
        let Some(free) = (1..u32::MAX).map(name).find(|free| free.symlink_metadata().is_err()) else { continue };
        fs::rename(&path, &free).map_err(|error| io_error("setting aside", &path, error))?;
        let what = format!("it is no regular file, and was renamed to {}", places.name(&free));
        damages.push(Damage { file: places.name(&path), offset: 0, len: 0, what });
    }
    Ok(())
}

/// The content of `FORMAT`.
pub(super) fn format_text(salt: &Salt) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{TITLE}{VERSION}\nsalt {} {}\n", hex(salt), hex(&checksum(hex(salt).as_bytes())))
}

/// What `FORMAT` and the log files' headers say of the directory.
pub(super) enum Found {
    Nothing,
    Salt(Salt),
    /// `FORMAT` is of no use, but the log files still tell the salt.
    Damaged(Salt, &'static str),
}

pub(super) fn read_format(places: &Places) -> Result<Found, StoreError> {
    let what = match read_file(&places.format) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let mut lines = text.lines();
            let version = lines.next().and_then(|line| line.strip_prefix(TITLE)).and_then(|text| text.parse().ok());
            match version {
                Some(VERSION) => {
                    if let Some(salt) = lines.next().and_then(parse_salt) {
                        return Ok(Found::Salt(salt));
                    }
                }
                Some(found) => {
                    let place = places.format.display().to_string();
                    return Err(StoreError::Version { place, found, expected: VERSION });
                }
                None => {}
            }
            "damaged; written anew with what the log files say"
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => "missing; written anew with what the log files say",
        Err(error) if is_no_file(&error) => "no regular file; written anew with what the log files say",
        Err(error) => return Err(io_error("reading", &places.format, error)),
    };
    if let Some(salt) = salt_of_log(places)? {
        return Ok(Found::Damaged(salt, what));
    }
    if is_unused(places)? {
        return Ok(Found::Nothing);
    }
    Err(StoreError::Foreign { place: places.root.display().to_string() })
}

fn parse_salt(line: &str) -> Option<Salt> {
    let (hex, check) = line.strip_prefix("salt ")?.split_once(' ')?;
    let mut salt = [0; 32];
    let expected: String = checksum(hex.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    if hex.len() != 64 || !hex.is_ascii() || check != expected {
        return None;
    }
    for (index, byte) in salt.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(salt)
}

fn salt_of_log(places: &Places) -> Result<Option<Salt>, StoreError> {
    if !places.log.is_dir() {
        return Ok(None);
    }
    for number in log::list(&places.log)? {
        let path = log::path(&places.log, number);
        let mut header = [0; FILE_HEADER];
        let open = open_file(&path, File::options().read(true));
        let read = open.and_then(|mut file| io::Read::read_exact(&mut file, &mut header));
        if let (Ok(()), Some((version, _, salt))) = (read, decode_file_header(&header)) {
            if version != VERSION {
                let place = path.display().to_string();
                return Err(StoreError::Version { place, found: version, expected: VERSION });
            }
            return Ok(Some(salt));
        }
    }
    Ok(None)
}

/// Whether the directory is empty but for what an interrupted first start leaves.
fn is_unused(places: &Places) -> Result<bool, StoreError> {
    let fail = |error| io_error("listing", &places.root, error);
    for entry in fs::read_dir(&places.root).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let leftover = path == places.lock || path == places.format.with_extension("tmp");
        let empty_log = path == places.log && log::list(&places.log)?.is_empty();
        if !leftover && !empty_log {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let file = open_file(path, File::options().create(true).truncate(false).write(true));
    take_lock(file.map_err(|error| io_error("opening", path, error))?, path)
}

/// Locks the directory without changing anything in it; `None` when it has no lock file, and so nobody who uses it.
pub(super) fn lock_as_it_is(places: &Places) -> Result<Option<File>, StoreError> {
    match open_file(&places.lock, File::options().read(true)) {
        Ok(file) => take_lock(file, &places.lock).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("opening", &places.lock, error)),
    }
}

fn take_lock(file: File, path: &Path) -> Result<File, StoreError> {
    for attempt in 0..LOCK_ATTEMPTS {
        if attempt > 0 {
            thread::sleep(LOCK_PAUSE);
        }
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(io_error("locking", path, error)),
        }
    }
    Err(StoreError::Locked { place: path.display().to_string() })
}

/// Bytes that a client can not guess. The standard library seeds its hash maps from the system's randomness for the
/// same reason, so a dependency of our own is not needed for this.
fn new_salt() -> Salt {
    let mut hasher = blake3::Hasher::new();
    for round in 0..8_u64 {
        hasher.update(&RandomState::new().hash_one(round).to_le_bytes());
    }
    hasher.update(format!("{:?}{}", std::time::SystemTime::now(), std::process::id()).as_bytes());
    *hasher.finalize().as_bytes()
}
