//! The state in a file, for monitors: `key=value`, written whole each time.

use std::fmt::{Arguments, Display, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::report::error::{Context, Result, reason};
use crate::report::log;
use crate::report::throttle::Throttle;

/// What is written at a time, in bytes.
const PART: usize = 8192;

/// A value, or `-` for one that is not there.
pub fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// Where the state goes.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    throttle: Throttle,
}

/// A state that is being written, beside the file that it is to replace.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    file: File,
    /// Lines that are not in the file yet.
    text: String,
    /// The first error: what comes after it is lost with the rest.
    written: io::Result<()>,
}

impl StateFile {
    /// Looks whether `path` can be written.
    #[cold]
    pub fn new(path: PathBuf) -> Result<Self> {
        Draft::new(&path).context(|| format!("write {}", path.display()))?;
        Ok(Self {
            path,
            throttle: Throttle::per_minute(),
        })
    }

    /// Begins anew. What goes wrong is logged.
    #[cold]
    pub fn begin(&mut self, now: Instant) -> Option<Draft> {
        let draft = Draft::new(&self.path);
        draft.map_err(|error| self.failed(&error, now)).ok()
    }

    /// Puts what was written in the place of the former state.
    pub fn publish(&mut self, mut draft: Draft, now: Instant) {
        draft.flush();
        let written = std::mem::replace(&mut draft.written, Ok(()));
        if let Err(error) = written.and_then(|()| fs::rename(&draft.path, &self.path)) {
            self.failed(&error, now);
        }
    }

    fn failed(&mut self, error: &io::Error, now: Instant) {
        if let Some(held_back) = self.throttle.pass(now) {
            let (path, reason) = (self.path.display(), reason(error));
            log::warning(format_args!("unable to write {path}: {reason}{held_back}"));
        }
    }
}

impl Draft {
    fn new(path: &Path) -> io::Result<Self> {
        let mut path = path.as_os_str().to_owned();
        path.push(".new");
        let path = PathBuf::from(path);
        // One that was killed while it wrote may have left it.
        let _ = fs::remove_file(&path);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self {
            path,
            file,
            text: String::new(),
            written: Ok(()),
        })
    }

    /// Adds a line.
    pub fn line(&mut self, line: Arguments<'_>) {
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
        if self.text.len() >= PART {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.written.is_ok() {
            self.written = self.file.write_all(self.text.as_bytes());
        }
        self.text.clear();
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After the rename there is none of this name.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::Directory;

    #[test]
    fn whole_or_not_at_all() {
        let (directory, now) = (Directory::new(), Instant::now());
        let path = directory.join("state");
        let mut file = StateFile::new(path.clone()).expect("a writable directory");
        assert!(!path.exists());
        let mut draft = file.begin(now).expect("a writable directory");
        draft.line(format_args!("first=1"));
        assert!(!path.exists());
        file.publish(draft, now);
        assert_eq!(fs::read_to_string(&path).expect("written"), "first=1\n");
        let mode = path.metadata().expect("written").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        drop(file.begin(now).expect("a writable directory"));
        assert_eq!(fs::read_dir(&*directory).expect("readable").count(), 1);
        let error = StateFile::new(path.join("in-a-file")).expect_err("no directory");
        assert!(error.to_string().ends_with(": Not a directory"), "{error}");
    }
}
