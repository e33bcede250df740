//! The disk's limit: an append-only file, one fdatasync per commit, nothing else.

use std::{fs::File, io::Write, path::Path};

/// The file.
pub(super) struct AppendFile(File);

impl AppendFile {
    /// Creates a new, empty file in `dir`.
    pub(super) fn create(dir: &Path) -> std::io::Result<Self> {
        let file = File::options().append(true).create_new(true).open(dir.join("limit"))?;
        // Without this the first fdatasync would also pay for the new directory entry.
        file.sync_all()?;
        Ok(Self(file))
    }

    /// Appends and makes it durable.
    pub(super) fn commit(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.sync_data()
    }
}
