//! A command line of one of the programs, put together and run.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::host::Host;
use crate::process::Process;
use crate::programs;

/// A command line.
#[derive(Clone)]
pub struct Launch {
    host: Host,
    program: &'static str,
    /// Another command in front of the program, and the directory of the program.
    under: Option<(Vec<OsString>, PathBuf)>,
    options: Vec<OsString>,
    operands: Vec<OsString>,
}

impl Launch {
    /// One of the programs on a host; no options yet but those of `JTUNNEL_FLAGS`.
    pub fn new(host: &Host, program: &'static str) -> Self {
        Self {
            host: host.clone(),
            program,
            under: None,
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

    /// Takes the program from a directory, and puts the words of another command in front of it.
    #[must_use]
    pub fn under(mut self, words: &[&str], directory: &Path) -> Self {
        let words = words.iter().map(OsString::from).collect();
        self.under = Some((words, directory.to_owned()));
        self
    }

    /// Adds options.
    #[must_use]
    pub fn options(mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.options
            .extend(words.into_iter().map(|w| w.as_ref().to_owned()));
        self
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
        let mut command = match &self.under {
            None => programs::command(self.program),
            Some((words, directory)) => {
                let program = directory.join(self.program).into_os_string();
                let mut words = words.iter().chain([&program]);
                let mut command = Command::new(words.next().unwrap_or(&program));
                command.args(words);
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

    /// Starts it in the foreground.
    pub fn start(&self) -> Process {
        let foreground = self.clone().options(["-f"]);
        Process::spawn(&self.host, foreground.command())
    }

    /// Starts it in the foreground under another command, such as strace.
    pub fn start_under(&self, words: &[&str]) -> Process {
        let inner = self.clone().options(["-f"]).command();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg(inner.get_program())
            .args(inner.get_args())
            .current_dir(self.host.path(""));
        Process::spawn(&self.host, command)
    }
}
