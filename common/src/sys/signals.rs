//! Signals, and how they end a sleep.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::fit;

static PENDING: AtomicU32 = AtomicU32::new(0);
/// One of those below.
static WAKE_MODE: AtomicU32 = AtomicU32::new(BY_NOTHING);
static WAKE_FD: AtomicI32 = AtomicI32::new(-1);

const BY_NOTHING: u32 = 0;
const BY_PIPE: u32 = 1;
const BY_RECEIVE: u32 = 2;
const BY_ALARM: u32 = 3;

/// How a signal that comes between the check and the sleep ends the sleep.
pub enum Wake<'fd> {
    /// A byte is written to this pipe, whose other end sits in the select() set.
    Pipe(BorrowedFd<'fd>),
    /// The receive time-out of this socket becomes the shortest there is.
    Receive(BorrowedFd<'fd>),
    /// An alarm repeats every second until the signal is taken.
    Alarm,
    /// It does not: nobody sleeps any more.
    Nothing,
}

/// Those that a program that runs is sent, by its administrator and its children.
pub const PROGRAM_SIGNALS: [Signal; 5] = [
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGCHLD,
];

/// A set of signals that have come.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals(u32);

impl Signals {
    /// Whether this signal has come.
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & bit(signal as c_int) != 0
    }
}

fn bit(signal: c_int) -> u32 {
    1u32.checked_shl(signal.unsigned_abs()).unwrap_or_default()
}

/// Says what the handler does to end a sleep. The descriptor must stay open until the next call.
pub fn wake_by(wake: Wake<'_>) {
    let (mode, fd): (u32, RawFd) = match wake {
        Wake::Pipe(fd) => (BY_PIPE, fd.as_raw_fd()),
        Wake::Receive(fd) => (BY_RECEIVE, fd.as_raw_fd()),
        Wake::Alarm => (BY_ALARM, -1),
        Wake::Nothing => (BY_NOTHING, -1),
    };
    WAKE_FD.store(fd, Ordering::SeqCst);
    WAKE_MODE.store(mode, Ordering::SeqCst);
}

/// Takes the signals that have come since the last call.
pub fn take_signals() -> Signals {
    // A swap for each packet would be a locked instruction for nothing.
    if PENDING.load(Ordering::Relaxed) == 0 {
        return Signals(0);
    }
    Signals(PENDING.swap(0, Ordering::SeqCst))
}

/// Whether a signal has come and was not taken.
pub fn signals_pending() -> bool {
    PENDING.load(Ordering::SeqCst) != 0
}

/// Catches these signals; system calls that sleep return EINTR.
pub fn catch_signals(signals: &[Signal]) -> io::Result<()> {
    set_handler(signals, SigHandler::Handler(on_signal))
}

/// Gives these signals their default action back.
pub fn default_signals(signals: &[Signal]) -> io::Result<()> {
    set_handler(signals, SigHandler::SigDfl)
}

/// Ignores these signals. For a time when no other program is started, which would inherit that.
pub fn ignore_signals(signals: &[Signal]) -> io::Result<()> {
    set_handler(signals, SigHandler::SigIgn)
}

fn set_handler(signals: &[Signal], handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::SA_NOCLDSTOP, SigSet::empty());
    for &signal in signals {
        // SAFETY: `on_signal` calls async-signal-safe functions only, signal-safety(7).
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

extern "C" fn on_signal(number: c_int) {
    let errno = Errno::last();
    PENDING.fetch_or(bit(number), Ordering::SeqCst);
    let fd = WAKE_FD.load(Ordering::SeqCst);
    match WAKE_MODE.load(Ordering::SeqCst) {
        BY_PIPE => {
            // SAFETY: one byte from a live buffer; the pipe does not block, and when it is full
            // the sleeper wakes anyway.
            unsafe { libc::write(fd, [0u8].as_ptr().cast(), 1) };
        }
        BY_RECEIVE => {
            let shortest = libc::timeval {
                tv_sec: 0,
                tv_usec: 1,
            };
            // SAFETY: the value lives until the call returns and its length is given.
            unsafe {
                libc::setsockopt(
                    fd,
                    libc::SOL_SOCKET,
                    libc::SO_RCVTIMEO,
                    (&raw const shortest).cast(),
                    fit(size_of::<libc::timeval>()),
                )
            };
        }
        BY_ALARM if PENDING.load(Ordering::SeqCst) & bit(libc::SIGUSR1) != 0 => {
            // SAFETY: alarm(2) has no memory to get wrong.
            unsafe { libc::alarm(1) };
        }
        _ => {}
    }
    errno.set();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caught_signal_is_taken_once() {
        catch_signals(&[Signal::SIGUSR2]).expect("SIGUSR2 can be caught");
        nix::sys::signal::raise(Signal::SIGUSR2).expect("a signal to oneself");
        assert!(signals_pending());
        let taken = take_signals();
        assert!(taken.contains(Signal::SIGUSR2) && !taken.contains(Signal::SIGHUP));
        assert!(take_signals() == Signals::default());
    }
}
