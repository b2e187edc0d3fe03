//! Lines for the administrator: to syslog, and to standard error while in the foreground.
//!
//! The one holder of the logger. It never blocks and never fails the program: syslogd may be
//! absent, full or restarted.

use std::fmt::{self, Arguments};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use syslog::{Facility, LogFormat, Logger, Severity};

const SOCKET: &str = "/dev/log";
/// What every syslogd takes as one message, in bytes (RFC 3164, 4.1).
const MAX_LINE: usize = 1024;

static LOG: Mutex<Option<Log>> = Mutex::new(None);

struct Log {
    name: &'static str,
    stderr: Option<Stderr>,
    debug: bool,
    syslog: Logger<Backend, Formatter>,
}

/// Standard error, in the foreground.
struct Stderr {
    file: File,
    terminal: bool,
}

/// Where a line went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To whoever listens, be it nobody.
    Done,
    /// Nowhere: syslogd's queue is full, and it may be tried again.
    Full,
}

/// Names the program; `stderr` copies each line there, `debug` lets debug lines pass.
pub fn init(name: &'static str, stderr: bool, debug: bool) {
    *lock() = Some(Log {
        name,
        stderr: stderr.then(Stderr::open).flatten(),
        debug,
        syslog: Logger::new(Backend::default(), Formatter(name)),
    });
}

/// From here on nothing goes to standard error.
pub(crate) fn leave_stderr() {
    if let Some(log) = lock().as_mut() {
        log.stderr = None;
    }
}

/// The set-up failed. Standard error has it already; who starts a program at boot may not see that.
pub fn error(line: Arguments<'_>) {
    if let Some(log) = lock().as_mut() {
        let _ = log.syslog.err(line);
    }
}

/// Something is wrong and ought to be looked at.
pub fn warning(line: Arguments<'_>) {
    write(Severity::LOG_WARNING, line, true);
}

/// An event in the life of the tunnel.
pub fn info(line: Arguments<'_>) {
    write(Severity::LOG_INFO, line, true);
}

/// Detail that `-v` asks for.
pub fn debug(line: Arguments<'_>) {
    if lock().as_ref().is_some_and(|log| log.debug) {
        write(Severity::LOG_DEBUG, line, true);
    }
}

/// A line of another program; `to_stderr` unless [`copy`] has put it there.
pub(crate) fn quote(line: Arguments<'_>, to_stderr: bool) {
    write(Severity::LOG_WARNING, line, to_stderr);
}

/// What another program has written, for standard error as it is; at most what a pipe takes at once
/// (PIPE_BUF, 4096 bytes).
pub fn copy(bytes: &[u8]) {
    if let Some(log) = lock().as_ref() {
        log.write_to_stderr(bytes);
    }
}

/// A line of a report, which is to be tried again while syslogd's queue is full.
pub fn report(line: Arguments<'_>) -> Delivery {
    let mut log = lock();
    let Some(log) = log.as_mut() else {
        return Delivery::Done;
    };
    if log.syslog.info(line).is_err() && log.syslog.backend.full {
        // Who sits at a terminal need not wait for syslogd.
        if !log.stderr.as_ref().is_some_and(|stderr| stderr.terminal) {
            return Delivery::Full;
        }
        log.syslog.backend.lost += 1;
    }
    log.copy_to_stderr(line);
    Delivery::Done
}

fn write(severity: Severity, line: Arguments<'_>, to_stderr: bool) {
    let mut log = lock();
    let Some(log) = log.as_mut() else {
        return;
    };
    if to_stderr {
        log.copy_to_stderr(line);
    }
    log.report_lost();
    let result = match severity {
        Severity::LOG_WARNING => log.syslog.warning(line),
        Severity::LOG_DEBUG => log.syslog.debug(line),
        _ => log.syslog.info(line),
    };
    // Without a syslogd there is nobody to tell.
    if result.is_err() && log.syslog.backend.full {
        log.syslog.backend.lost += 1;
    }
}

fn lock() -> MutexGuard<'static, Option<Log>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    fn copy_to_stderr(&self, line: Arguments<'_>) {
        if self.stderr.is_some() {
            self.write_to_stderr(format!("{}: {line}\n", self.name).as_bytes());
        }
    }

    /// A terminal that was stopped, or a pipe that nobody reads, must not stop the tunnel.
    fn write_to_stderr(&self, bytes: &[u8]) {
        let Some(stderr) = &self.stderr else {
            return;
        };
        let mut wait = [PollFd::new(stderr.file.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut wait, PollTimeout::ZERO) == Ok(1) {
            let _ = (&stderr.file).write_all(bytes);
        }
    }

    fn report_lost(&mut self) {
        let lost = self.syslog.backend.lost;
        if lost > 0 {
            let told = self.syslog.warning(format_args!(
                "{lost} lines lost: the queue of syslogd was full"
            ));
            if told.is_ok() {
                self.syslog.backend.lost = 0;
            }
        }
    }
}

impl Stderr {
    /// A terminal that has some room, and says so, waits for more if a line is longer. Not to wait
    /// is a matter of the open file, which is not ours alone: so it is opened once more.
    fn open() -> Option<Self> {
        let stderr = io::stderr();
        let terminal = stderr.is_terminal();
        let reopened = terminal.then(|| {
            let mut options = File::options();
            options
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
            options.open("/proc/self/fd/2").ok()
        });
        let copy = || stderr.as_fd().try_clone_to_owned().ok().map(File::from);
        let file = reopened.flatten().or_else(copy)?;
        Some(Self { file, terminal })
    }
}

/// A datagram socket to syslogd, connected when there is something to say and again whenever
/// syslogd was restarted. The crate's own backends connect once.
#[derive(Default)]
struct Backend {
    socket: Option<UnixDatagram>,
    full: bool,
    lost: u64,
}

impl Backend {
    fn connect() -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(SOCKET)?;
        Ok(socket)
    }

    fn send(&mut self, line: &[u8]) -> io::Result<usize> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => Self::connect()?,
        };
        let result = socket.send(line);
        // Full is not broken. Anything else is: ECONNREFUSED after a restart, for instance.
        self.full = matches!(&result, Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        if result.is_ok() || self.full {
            self.socket = Some(socket);
        }
        result
    }
}

impl Write for Backend {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.full = false;
        let had_socket = self.socket.is_some();
        match self.send(line) {
            Err(_) if had_socket && !self.full => self.send(line),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `<PRI>name[pid]: text` (RFC 3164), without a time: the crate's own stamps UTC, while syslogd
/// stamps what has none in the system's time.
struct Formatter(&'static str);

impl<T: fmt::Display> LogFormat<T> for Formatter {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, message: T) -> syslog::Result<()> {
        let priority = Facility::LOG_DAEMON as u8 | severity as u8;
        let pid = std::process::id();
        let mut line = format!("<{priority}>{}[{pid}]: {message}", self.0).into_bytes();
        line.truncate(MAX_LINE);
        // A name from the command line may hold anything; one message is one line.
        for byte in line.iter_mut().filter(|b| b.is_ascii_control()) {
            *byte = b' ';
        }
        // One write is one datagram.
        w.write_all(&line)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_without_a_time() {
        let mut line = Vec::new();
        let text = format!("two\nlines {}", "x".repeat(2000));
        Formatter("jtunneld")
            .format(&mut line, Severity::LOG_WARNING, text)
            .expect("a vector takes it");
        let start = format!("<28>jtunneld[{}]: two lines xxx", std::process::id());
        assert!(line.starts_with(start.as_bytes()));
        assert_eq!(line.len(), MAX_LINE);
    }
}
