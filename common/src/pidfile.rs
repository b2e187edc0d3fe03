//! The pid file: written at start, removed at exit.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::error::{Context, Result};

/// A pid file of this process; it goes when the value goes.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    content: String,
}

impl PidFile {
    /// Writes the number of this process to `path`.
    pub fn write(path: PathBuf) -> Result<Self> {
        let content = format!("{}\n", std::process::id());
        fs::write(&path, &content).context(|| format!("write {}", path.display()))?;
        Ok(Self { path, content })
    }

    /// Whether the file is still ours: a program started later may have written its own.
    fn is_ours(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(&self.path)? == self.content)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.is_ours().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
