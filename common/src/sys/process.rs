//! Processes that begin and end.

use std::ffi::{c_int, c_long};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::unistd::{Pid, close};

use super::fit;

/// Which of the two processes `fork` returned to.
pub enum Fork {
    /// The one that called; holds the child's process id.
    Parent(Pid),
    /// The new one.
    Child,
}

/// `fork(2)`. Both programs have one thread, so the child may do whatever its parent may.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: there is no other thread whose locks the child could find held.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
    }
}

/// `close_range(2)` from this descriptor to the last one. Linux has it since 5.9; before, those that
/// select() could name have to do.
pub(crate) fn close_from(first: c_int) {
    let (from, to) = (c_long::from(first), c_long::from(c_int::MAX));
    // SAFETY: nobody owns a descriptor at the start of the program but the first three.
    if unsafe { libc::syscall(libc::SYS_close_range, from, to, 0 as c_long) } != 0 {
        for number in first..fit(libc::FD_SETSIZE) {
            let _ = close(number);
        }
    }
}

/// The lock of fcntl(2) that is none, on a whole file.
pub(crate) fn no_lock() -> libc::flock {
    // SAFETY: flock is plain old data; 0 is a start, and a length without end.
    unsafe { std::mem::zeroed() }
}

/// Ends a forked child at once: no exit handlers, no destructors.
pub fn exit_child(code: u8) -> ! {
    // SAFETY: _exit never returns and touches no memory.
    unsafe { libc::_exit(code.into()) }
}

/// A child that has ended, if there is one. nix's version loses children ended by a real-time
/// signal.
pub fn reap() -> Option<(Pid, ExitStatus)> {
    let mut status = 0;
    // SAFETY: waitpid writes one int.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then(|| (Pid::from_raw(pid), ExitStatus::from_raw(status)))
}

/// Waits for one child to end.
pub fn wait_for(pid: Pid) {
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes one int.
        let result = unsafe { libc::waitpid(pid.as_raw(), &raw mut status, 0) };
        if result >= 0 || Errno::last() != Errno::EINTR {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reap_finds_nothing_when_nothing_ended() {
        assert!(reap().is_none());
    }
}
