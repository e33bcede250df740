//! What is in a backup: one text file with the name, length and hash of every other, written last.
//!
//! ```text
//! rhizomq backup 1
//! node <32 hex digits>
//! taken <milliseconds since 1970>
//! file <64 hex digits of blake3> <bytes> <name>
//! end <32 hex digits: first half of blake3 over all lines before>
//! ```

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path},
};

use super::{
    BackupError, BackupFile,
    disk::{is_no_file, open_file},
};
use crate::NodeId;

const FILE: &str = "manifest";
const TITLE: &str = "rhizomq backup ";
const VERSION: u32 = 1;
/// Bytes of a manifest at most: some hundred thousand log files.
const MAX_BYTES: u64 = 64 << 20;

/// See the module docs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Whose backup it is.
    pub node: NodeId,
    /// When it was begun, in Unix milliseconds.
    pub taken_ms: u64,
    /// All files but this one.
    pub files: Vec<BackupFile>,
}

impl Manifest {
    fn encode(&self) -> String {
        let mut text = format!("{TITLE}{VERSION}\nnode {}\ntaken {}\n", self.node, self.taken_ms);
        for BackupFile { name, bytes, hash } in &self.files {
            text.push_str(&format!("file {} {bytes} {name}\n", hex(hash)));
        }
        let end = hex(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
        text + &format!("end {end}\n")
    }

    /// Writes it, which makes the backup complete.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn write(&self, dir: &Path) -> Result<(), BackupError> {
        let path = dir.join(FILE);
        let temporary = dir.join("manifest.tmp");
        let write = || {
            fs::write(&temporary, self.encode())?;
            File::open(&temporary)?.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|source| BackupError::Io { context: format!("writing {}", path.display()), source })
    }

    /// Whether `dir` is a backup: has a manifest, whatever is in it.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(FILE).is_file()
    }

    /// Reads the manifest of the backup in `dir`.
    ///
    /// # Errors
    /// There is none, it is damaged, or of another version.
    pub fn read(dir: &Path) -> Result<Self, BackupError> {
        let path = dir.join(FILE);
        let place = path.display().to_string();
        let damaged = |what: &str| BackupError::Damaged { file: place.clone(), what: what.to_owned() };
        let mut bytes = Vec::new();
        let file = open_file(&path, File::options().read(true));
        match file.and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("missing: this is no backup, or one that was not completed"));
            }
            Err(error) if is_no_file(&error) => return Err(damaged("no regular file")),
            result => result.map_err(|source| BackupError::Io { context: format!("reading {place}"), source })?,
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
        let version = text.lines().next().and_then(|line| line.strip_prefix(TITLE)?.parse::<u32>().ok());
        match version {
            Some(VERSION) => {}
            Some(found) => return Err(BackupError::Version { place, found, expected: VERSION }),
            None => return Err(damaged("its first line is not that of a manifest")),
        }
        let end = text.rfind("end ").ok_or_else(|| damaged("it has no end"))?;
        let sum = hex(&blake3::hash(&text.as_bytes()[..end]).as_bytes()[..16]);
        if text[end..] != format!("end {sum}\n") {
            return Err(damaged("its checksum does not match"));
        }
        Self::parse(&text[..end]).ok_or_else(|| damaged("a line that can't be read"))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip(1);
        let node = lines.next()?.strip_prefix("node ")?.parse().ok()?;
        let taken_ms = lines.next()?.strip_prefix("taken ")?.parse().ok()?;
        let files = lines.map(|line| {
            let mut words = line.strip_prefix("file ")?.splitn(3, ' ');
            let (hash, bytes, name) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
            // Nothing outside the directory, whoever wrote the manifest.
            let is_plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
            (is_plain && !name.is_empty()).then_some(())?;
            Some(BackupFile { name: name.to_owned(), bytes, hash: unhex(hash)? })
        });
        Some(Self { node, taken_ms, files: files.collect::<Option<_>>()? })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_and_what_is_damaged_newer_or_points_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| BackupFile { name: name.to_owned(), bytes: 3, hash: [9; 32] };
        let manifest = Manifest { node: NodeId([1; 16]), taken_ms: 5, files: vec![file("store/log/1 x"), file("b")] };
        assert!(matches!(Manifest::read(dir.path()), Err(BackupError::Damaged { .. })));
        assert!(!Manifest::is_in(dir.path()));
        manifest.write(dir.path()).unwrap();
        assert!(Manifest::is_in(dir.path()));
        assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
        let path = dir.path().join(FILE);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(Manifest::read(dir.path()).is_err(), "byte {at}");
            fs::write(&path, &good[..at]).unwrap();
            assert!(Manifest::read(dir.path()).is_err(), "cut at {at}");
        }
        fs::write(&path, String::from_utf8(good).unwrap().replace("backup 1", "backup 2")).unwrap();
        assert!(matches!(Manifest::read(dir.path()), Err(BackupError::Version { found: 2, .. })));
        for name in ["../x", "/etc/passwd", "a/../../b"] {
            Manifest { files: vec![file(name)], ..manifest.clone() }.write(dir.path()).unwrap();
            assert!(matches!(Manifest::read(dir.path()), Err(BackupError::Damaged { .. })), "{name}");
        }
    }
}
