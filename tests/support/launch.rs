//! A command line of one of the programs, put together and run.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::unistd::Pid;

use crate::host::Host;
use crate::process::Process;
use crate::programs;

/// A command line.
#[derive(Clone)]
pub struct Launch {
    host: Host,
    program: &'static str,
    /// Where the program is, if it is not the one under test.
    directory: Option<PathBuf>,
    /// Another command in front of it.
    under: Vec<OsString>,
    options: Vec<OsString>,
    operands: Vec<OsString>,
}

impl Launch {
    /// One of the programs on a host; no options yet but those of `JTUNNEL_FLAGS`.
    pub fn new(host: &Host, program: &'static str) -> Self {
        Self {
            host: host.clone(),
            program,
            directory: None,
            under: Vec::new(),
            options: programs::flags().into_iter().map(OsString::from).collect(),
            operands: Vec::new(),
        }
    }

    /// jtunneld.
    pub fn server(host: &Host) -> Self {
        Self::new(host, "jtunneld")
    }

    /// jtunnel-client.
    pub fn client(host: &Host) -> Self {
        Self::new(host, "jtunnel-client")
    }

    /// Takes the program from a directory.
    #[must_use]
    pub fn from(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Adds options.
    #[must_use]
    pub fn options(mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.options
            .extend(words.into_iter().map(|w| w.as_ref().to_owned()));
        self
    }

    /// Puts another command in front of it, such as env(1) or strace(1).
    #[must_use]
    pub fn under(mut self, words: &[impl AsRef<OsStr>]) -> Self {
        self.under = words.iter().map(|w| w.as_ref().to_owned()).collect();
        self
    }

    /// Lets system calls of it fail, of the first process only, as strace(1) is told; that writes all
    /// calls of these names to the file `trace`.
    #[must_use]
    pub fn failing(self, calls: &str, how: &str) -> Self {
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{how}"));
        self.under(&["strace", "-o", "trace", "-e", &trace, "-e", &inject])
    }

    /// Adds what stands behind the options.
    #[must_use]
    pub fn operands(mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.operands
            .extend(words.into_iter().map(|w| w.as_ref().to_owned()));
        self
    }

    /// The command, to be run on the host.
    pub fn command(&self) -> Command {
        let program = match &self.directory {
            None => programs::command(self.program),
            Some(directory) => Command::new(directory.join(self.program)),
        };
        let mut command = match self.under.split_first() {
            None => program,
            Some((first, words)) => {
                let mut command = Command::new(first);
                command.args(words).arg(program.get_program());
                command.args(program.get_args());
                command
            }
        };
        command
            .args(&self.options)
            .args(&self.operands)
            .current_dir(self.host.path(""));
        command
    }

    /// Runs it to its end, with nothing added.
    pub fn output(&self) -> Output {
        self.host.output(self.command())
    }

    /// Makes it go to the background, without a word, and returns its process once its parent has
    /// ended. The name of the pid file is one on the host, which ends the process when it goes.
    #[track_caller]
    pub fn background(&self, pid_file: &str) -> Pid {
        let output = self.clone().options(["-P", pid_file]).output();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), &*said), (Some(0), ""));
        assert!(output.stdout.is_empty());
        let text = fs::read_to_string(self.host.path(pid_file));
        let text = text.expect("written before the parent ends");
        let pid = text.strip_suffix('\n').expect("a line");
        Pid::from_raw(pid.parse().unwrap())
    }

    /// Starts it in the foreground.
    pub fn start(&self) -> Process {
        let foreground = self.clone().options(["-f"]);
        Process::spawn(&self.host, foreground.command())
    }
}
