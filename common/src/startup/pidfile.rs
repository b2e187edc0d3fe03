//! The pid file: locked and written at start, removed at exit.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::report::error::{Context, Result};
use crate::sys;

/// How long a program that was told to end may take: PROG has a second to clean up.
const PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(20);
/// The file may go, or change hands, at any moment.
const TRIES: u32 = 5;

/// A pid file of this process; it goes when the value goes. Who runs holds a lock on it, which no
/// child inherits and no death leaves behind (`F_SETLK`, fcntl(2)).
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Waits until no process holds `path`, but not for long.
    pub(super) fn wait_until_free(path: &Path) -> Result<()> {
        // What is wrong with it is said when it is written.
        let Ok(file) = open(path, false) else {
            return Ok(());
        };
        let end = Instant::now() + PATIENCE;
        while let Some(holder) = holder(&file) {
            if Instant::now() >= end || sys::signals_pending() {
                return Err(holder).context(|| doing(path));
            }
            sleep(STEP);
        }
        Ok(())
    }

    /// Writes the number of this process to `path`.
    pub(crate) fn write(path: PathBuf) -> Result<Self> {
        let file = lock(&path).context(|| doing(&path))?;
        let is_file = file.metadata().is_ok_and(|m| m.is_file());
        let emptied = if is_file { file.set_len(0) } else { Ok(()) };
        let written = emptied.and_then(|()| writeln!(&file, "{}", std::process::id()));
        // On a full disk an empty one would be left.
        if written.is_err() && is_file {
            let _ = fs::remove_file(&path);
        }
        written.context(|| doing(&path))?;
        Ok(Self { path, file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn doing(path: &Path) -> String {
    format!("write {}", path.display())
}

/// Whoever can write the file sends root's signals where he likes, so the mode is not the umask's
/// affair, and where others may make links none is followed. A FIFO must not hold up the start.
fn open(path: &Path, create: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(create)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    file.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a symbolic link"),
        _ => error,
    })
}

fn lock(path: &Path) -> io::Result<File> {
    let mut result = Err(Errno::EAGAIN.into());
    for _ in 0..TRIES {
        let file = open(path, true)?;
        // Some file systems have no locks, and are as they were before.
        let is_held = fcntl(&file, FcntlArg::F_SETLK(&all_of_it()));
        if matches!(is_held, Err(Errno::EAGAIN | Errno::EACCES)) {
            result = Err(holder(&file).unwrap_or_else(|| Errno::EAGAIN.into()));
            continue;
        }
        // Who held it may have removed it in the meantime.
        if is_at(&file, path) {
            return Ok(file);
        }
    }
    result
}

/// The process that holds the lock, as an error.
fn holder(file: &File) -> Option<io::Error> {
    let mut lock = all_of_it();
    fcntl(file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    let is_free = libc::c_int::from(lock.l_type) == libc::F_UNLCK;
    let text = || io::Error::other(format!("process {} runs", lock.l_pid));
    (!is_free).then(text)
}

/// A lock for writing; it begins at 0 and has no end.
fn all_of_it() -> libc::flock {
    let mut lock = sys::no_lock();
    lock.l_type = libc::F_WRLCK.try_into().unwrap_or_default();
    lock
}

/// Whether this is the file of that name.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
