//! One temporary folder per run: sockets, logs, files of migrations. Gone when dropped.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use crate::Result;

/// A folder of this run. Its path is short, because a socket's must be below 108 bytes.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    /// Make one below the system's temporary folder.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new() -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("towpath-").tempdir().context("make a temporary folder")?;
        Ok(Self { folder })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
