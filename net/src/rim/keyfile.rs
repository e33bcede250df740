//! Small secret files: written once, whole or not at all, readable by their owner alone, and never believed unchecked.
//!
//! ```text
//! rhizomq <kind> 1
//! <the bytes in hex>
//! <first 16 bytes of blake3(first line, bytes) in hex>
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// A file of this kind is never longer, in bytes.
const MAX_FILE_BYTES: u64 = 4096;

/// A secret file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file system says no.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is there, but its content is not what was written.
    #[error(
        "{path} is damaged ({what}). Restore it from a backup; or move it away to start with a new {kind}, under which \
         the other nodes don't know this one",
        path = .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What kind of secret it holds.
        kind: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Written by a newer program.
    #[error("{path} has a newer format than this program knows: use the program that wrote it", path = .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the file; `None` when there is none.
pub(super) fn read(path: &Path, kind: &'static str) -> Result<Option<Vec<u8>>, KeyFileError> {
    let io_error = |source| KeyFileError::Io { path: path.to_owned(), source };
    // Looked at before it is opened: who opens a named pipe waits for somebody to write to it.
    let file = match fs::metadata(path).and_then(|found| found.is_file().then(|| File::open(path)).transpose()) {
        Ok(Some(file)) => file,
        Ok(None) => return Err(KeyFileError::Damaged { path: path.to_owned(), kind, what: "it is not a file" }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(error)),
    };
    warn_if_open_to_others(path, &file);
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(io_error)?;

    let damaged = |what| KeyFileError::Damaged { path: path.to_owned(), kind, what };
    let text = str::from_utf8(&content).map_err(|_| damaged("it is not text"))?;
    let mut lines = text.lines();
    let (first, bytes, check) = (lines.next(), lines.next(), lines.next());
    let first = first.ok_or_else(|| damaged("it is empty"))?;
    if first != header(kind) {
        let of_kind = first.strip_prefix(&format!("rhizomq {kind} ")).and_then(|version| version.parse::<u32>().ok());
        return Err(match of_kind {
            Some(2..) => KeyFileError::Newer { path: path.to_owned() },
            _ => damaged("its first line is not the expected one"),
        });
    }
    let bytes = bytes.and_then(from_hex).ok_or_else(|| damaged("its second line is not hex"))?;
    if check != Some(&checksum(kind, &bytes)) {
        return Err(damaged("its checksum does not match"));
    }
    Ok(Some(bytes))
}

/// Writes the file, replacing what is there. When this returns, it is durable.
pub(super) fn write(path: &Path, kind: &'static str, bytes: &[u8]) -> Result<(), KeyFileError> {
    let content = format!("{}\n{}\n{}\n", header(kind), to_hex(bytes), checksum(kind, bytes));
    let temporary = path.with_extension("new");
    let attempt = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The name too must survive a power cut. Elsewhere directories can't be opened, and need no sync.
        #[cfg(unix)]
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    attempt().map_err(|source| KeyFileError::Io { path: path.to_owned(), source })
}

fn header(kind: &str) -> String {
    format!("rhizomq {kind} 1")
}

fn checksum(kind: &str, bytes: &[u8]) -> String {
    let hash = blake3::Hasher::new().update(header(kind).as_bytes()).update(bytes).finalize();
    to_hex(&hash.as_bytes()[..16])
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

fn warn_if_open_to_others(path: &Path, file: &File) {
    if file.metadata().is_ok_and(|metadata| is_open_to_others(&metadata)) {
        tracing::warn!(path = %path.display(), "other users can read this secret file: `chmod 600` it");
    }
}

/// Whether others than its owner may do anything with a file.
#[cfg(unix)]
pub(super) fn is_open_to_others(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0
}

#[cfg(not(unix))]
pub(super) fn is_open_to_others(_: &fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        assert!(read(&path, "test").unwrap().is_none());
        write(&path, "test", &[1, 2, 255]).unwrap();
        assert_eq!(read(&path, "test").unwrap(), Some(vec![1, 2, 255]));
        write(&path, "test", &[9]).unwrap();
        assert_eq!(read(&path, "test").unwrap(), Some(vec![9]));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_or_a_directory_in_its_place_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), directory.path()] {
            assert!(matches!(read(path, "test"), Err(KeyFileError::Damaged { what: "it is not a file", .. })));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_torn_tail_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        write(&path, "test", &[7; 32]).unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                fs::write(&path, &bad).unwrap();
                // Hex has two cases and a line may end in more than one way; the secret must be the same, or refused.
                if let Ok(read) = read(&path, "test") {
                    assert_eq!(read, Some(vec![7; 32]), "bit {bit} of byte {at}");
                }
            }
            fs::write(&path, &good[..at]).unwrap();
            assert!(read(&path, "test").is_err() || at == good.len() - 1, "cut at {at}");
        }
        fs::write(&path, &good).unwrap();
        assert!(matches!(read(&path, "other"), Err(KeyFileError::Damaged { .. })));
        fs::write(&path, "rhizomq test 2\n00\n00\n").unwrap();
        assert!(matches!(read(&path, "test"), Err(KeyFileError::Newer { .. })));
    }
}
