//! PROG ARGS: looked up once, started for each tunnel, never waited for.

mod interpreter;
mod words;

use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Instant;

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access};

use self::words::Words;
use crate::report::error::{Context, Result};
use crate::sys::path::absolute;

/// Where a program is looked for when there is no PATH, as at boot.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program that sets up a tunnel.
#[derive(Debug)]
pub struct Hook {
    program: PathBuf,
    /// The program's path first.
    arguments: Vec<CString>,
    inherit_output: bool,
    /// What it says on standard error.
    words: Words,
    /// Opened early: later all descriptors that PROG may have can be in use.
    null: File,
    /// They keep room below PROG's limit: to start it musl makes a pipe there.
    spare: [Option<File>; 2],
    /// PROG's limit on descriptors.
    descriptors: rlim_t,
}

impl Hook {
    /// Looks PROG up and checks that it can be executed. Made before the limit on descriptors is
    /// raised: PROG gets the one in force now.
    #[cold]
    pub fn new(program_and_arguments: &[OsString], inherit_output: bool) -> Result<Self> {
        let (name, arguments) = program_and_arguments
            .split_first()
            .ok_or(Errno::ENOENT)
            .context(|| "run PROG".into())?;
        let doing = || format!("run {}", name.to_string_lossy());
        let program = look_up(name).context(doing)?;
        interpreter::check(&program).context(doing)?;
        let words = [program.as_os_str()].into_iter();
        let words = words.chain(arguments.iter().map(OsString::as_os_str));
        let arguments: io::Result<_> = words.map(|word| c_string(word.into())).collect();
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .context(|| "open /dev/null".into())?;
        Ok(Self {
            arguments: arguments.context(doing)?,
            program,
            inherit_output,
            words: Words::new(Instant::now()).context(|| "create a pipe for PROG".into())?,
            spare: spare(&null),
            null,
            descriptors: getrlimit(Resource::RLIMIT_NOFILE)
                .context(|| "read the limit on descriptors".into())?
                .0,
        })
    }

    /// The program's path.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts PROG in a process group of its own, with default signal handlers, an empty signal
    /// mask, and these variables added.
    pub fn spawn(&mut self, variables: &[(&str, OsString)], now: Instant) -> io::Result<Pid> {
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
        )?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_sigdefault(&SigSet::all())?;
        attributes.set_sigmask(&SigSet::empty())?;
        let mut files = PosixSpawnFileActions::init()?;
        files.add_dup2(self.null.as_raw_fd(), 0)?;
        if !self.inherit_output {
            files.add_dup2(self.null.as_raw_fd(), 1)?;
        }
        files.add_dup2(self.words.for_prog().as_raw_fd(), 2)?;
        let environment = environment(variables)?;

        // What is started inherits the limits of this moment.
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let limit = |soft| {
            // A limit that can't be set is no reason not to run.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        };
        self.spare = [None, None];
        limit(self.descriptors);
        let (program, arguments) = (self.program.as_path(), &self.arguments);
        let result = posix_spawn(program, &files, &attributes, arguments, &environment);
        limit(soft);
        self.spare = spare(&self.null);
        let pid = match result {
            Ok(pid) => pid,
            // If there is something to say of the file, it says more.
            Err(errno) => return interpreter::check(program).and(Err(errno.into())),
        };
        self.words.begin(now);
        Ok(pid)
    }

    /// What to wait for: it can be read from when PROG has said something.
    pub fn words(&self) -> BorrowedFd<'_> {
        self.words.pipe()
    }

    /// When to hear PROG next, if it may be speaking.
    pub fn next_hearing(&self) -> Option<Instant> {
        self.words.next
    }

    /// Logs what PROG has said. In the foreground standard error has it all.
    pub fn hear(&mut self, now: Instant) {
        self.words.hear(&self.program, self.inherit_output, now);
    }

    /// Logs the last words of a PROG that has ended.
    pub fn hear_last(&mut self, now: Instant) {
        self.words.end(&self.program, self.inherit_output, now);
    }
}

fn spare(null: &File) -> [Option<File>; 2] {
    let one = || null.try_clone().ok();
    [one(), one()]
}

/// The program's own environment with some variables set.
fn environment(variables: &[(&str, OsString)]) -> io::Result<Vec<CString>> {
    let ours = |name: &OsString| variables.iter().any(|(variable, _)| name == variable);
    let others = std::env::vars_os().filter(|(name, _)| !ours(name));
    let added = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    others
        .chain(added)
        .map(|(mut entry, value): (OsString, OsString)| {
            entry.push("=");
            entry.push(value);
            c_string(entry)
        })
        .collect()
}

fn c_string(text: OsString) -> io::Result<CString> {
    CString::new(text.into_vec()).map_err(|_| Errno::EINVAL.into())
}

/// Asks a PROG that still runs, and all that it started, to clean up and end. To be called only
/// before it is reaped: then the number can't belong to another.
pub fn terminate(pid: Pid) {
    // It may have ended this moment.
    let _ = killpg(pid, Signal::SIGTERM);
}

/// How a process ended, as in `exited with status 3`.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// How a process ended, as a shell has it in `$?`: 128 and more is a signal.
pub fn status_number(status: ExitStatus) -> i32 {
    let signal = || status.signal().map(|signal| 128 + signal);
    status.code().or_else(signal).unwrap_or_default()
}

/// Finds a program as execvp(3) does, but for good: the working directory changes later.
fn look_up(program: &OsString) -> io::Result<PathBuf> {
    let named = Path::new(program);
    if program.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    if program.as_bytes().contains(&b'/') {
        return executable(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut result = Err(Errno::ENOENT.into());
    for directory in std::env::split_paths(&path) {
        match executable(&directory.join(named)) {
            Ok(found) => return Ok(found),
            // A file that may not be executed says more than the absence of others.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => result = Err(error),
            Err(_) => {}
        }
    }
    result
}

fn executable(path: &Path) -> io::Result<PathBuf> {
    let path = absolute(path).ok_or(Errno::ENOENT)?;
    access(&path, AccessFlags::X_OK)?;
    match path.metadata()?.is_file() {
        true => Ok(path),
        false => Err(Errno::EACCES.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_by_path_or_not_at_all() {
        let hook = Hook::new(&["sh".into()], false).expect("every system has a shell");
        assert!(hook.program().is_absolute());
        for (name, reason) in [
            ("jtunnel-no-such-program", "No such file or directory"),
            ("/nonexistent/program", "No such file or directory"),
            ("", "No such file or directory"),
            ("/etc/passwd", "Permission denied"),
            ("/", "Permission denied"),
        ] {
            let error = Hook::new(&[name.into()], false).expect_err(name);
            assert_eq!(error.to_string(), format!("unable to run {name}: {reason}"));
        }
    }
}
