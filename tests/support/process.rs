//! A process on a host, ended when the guard goes.

use std::io::{Write, pipe};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::Host;
use crate::lines::Lines;
use crate::proc;
use crate::wait::{PATIENCE, wait_for};

/// A process and what it writes.
pub struct Process {
    what: String,
    child: Child,
    /// Standard output and error, line by line.
    pub lines: Lines,
    /// Keeps the host until the process is gone.
    _host: Host,
}

impl Process {
    /// Starts a command on the host.
    pub fn spawn(host: &Host, command: Command) -> Self {
        Self::start(host, command, Stdio::null())
    }

    /// Starts a command on the host that is to be told things.
    pub fn told(host: &Host, command: Command) -> Self {
        Self::start(host, command, Stdio::piped())
    }

    fn start(host: &Host, mut command: Command, input: Stdio) -> Self {
        let what = command.get_program().to_string_lossy().into_owned();
        let (reader, writer) = pipe().unwrap();
        // A program drops what there is no room for, and this reader may have no time for a while.
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap();
        command
            .stdin(input)
            .stdout(writer.try_clone().unwrap())
            .stderr(writer);
        // The command holds the writing ends and goes in there, or the log would never end.
        let child = host.spawn(command);
        Self {
            what,
            child,
            lines: Lines::follow(reader),
            _host: host.clone(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Writes a line to its standard input, if it was started to be told things.
    pub fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Asks for a report, and waits for a line of it.
    #[track_caller]
    pub fn report(&self, line: &str) -> String {
        self.lines.wait_next(line, || self.signal(Signal::SIGUSR1))
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        proc::runs(self.pid())
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_at_most(PATIENCE)
    }

    /// Waits for its end, but no longer than this.
    #[track_caller]
    pub fn wait_at_most(&mut self, patience: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.what);
        let child = &mut self.child;
        wait_for(patience, &what, || child.try_wait().unwrap())
    }

    /// Asks it to end and expects the status 0.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{} ended with {status}", self.what);
    }

    /// Kills it and waits for its end.
    #[track_caller]
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        assert_eq!(self.wait().signal(), Some(9));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}:", self.what);
            for line in self.lines.all() {
                eprintln!("    {line}");
            }
        }
    }
}
