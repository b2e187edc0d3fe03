//! The pid file: written at start, removed at exit.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::report::error::{Context, Result};

/// A pid file of this process; it goes when the value goes.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    content: String,
}

impl PidFile {
    /// Writes the number of this process to `path`.
    pub(crate) fn write(path: PathBuf) -> Result<Self> {
        let content = format!("{}\n", std::process::id());
        // Whoever can write the file sends root's signals where he likes, so the mode is not the
        // umask's affair. A FIFO must not hold up the start.
        let doing = || format!("write {}", path.display());
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&path)
            .context(doing)?;
        let written = file.write_all(content.as_bytes());
        // On a full disk an empty one would be left.
        if written.is_err() && file.metadata().is_ok_and(|m| m.is_file()) {
            let _ = fs::remove_file(&path);
        }
        written.context(doing)?;
        Ok(Self { path, content })
    }

    /// Whether the file is still ours: a program started later may have written its own.
    fn is_ours(&self) -> io::Result<bool> {
        Ok(self.path.metadata()?.is_file() && fs::read_to_string(&self.path)? == self.content)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.is_ours().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
