//! One network namespace with a name, as ip(8) keeps them in /run/netns.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread::sleep;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{PATIENCE, STEP};

/// Where ip(8) keeps them.
pub(crate) const DIRECTORY: &str = "/run/netns";

/// ip(8) makes its directory a mount point at first use, and two at once may both try.
static ADD: Mutex<()> = Mutex::new(());

/// Runs ip(8) and returns whether it worked, with what it said.
pub(crate) fn ip(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// Makes the namespace.
pub(crate) fn add(name: &str) {
    let _one = ADD
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let (worked, text) = ip(&["netns", "add", name]);
    assert!(worked, "unable to add the namespace {name}: {text}");
}

/// The file that stands for it.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// The processes in it, but for this one.
pub(crate) fn pids(name: &str) -> Vec<Pid> {
    let Ok(inode) = fs::metadata(path(name)).map(|m| m.ino()) else {
        return Vec::new();
    };
    crate::proc::all()
        .into_iter()
        .filter(|pid| *pid != Pid::this())
        .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| m.ino() == inode))
        .collect()
}

/// Ends the processes in it and removes it.
pub(crate) fn remove(name: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let pids = pids(name);
        if pids.is_empty() {
            break;
        }
        // No panic: a test that fails comes here too.
        if Instant::now() >= end {
            eprintln!("{pids:?} in the namespace {name} can't be ended");
            break;
        }
        for pid in pids {
            let _ = kill(pid, Signal::SIGKILL);
        }
        sleep(STEP);
    }
    ip(&["netns", "delete", name]);
}
