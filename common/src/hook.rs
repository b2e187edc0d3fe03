//! PROG ARGS: looked up once, started for each tunnel, never waited for.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use nix::sys::resource::{Resource, getrlimit, rlim_t};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access};

use crate::error::{Context, Result};
use crate::sys;

/// Where a program is looked for when there is no PATH, as at boot.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program that sets up a tunnel.
#[derive(Debug)]
pub struct Hook {
    program: PathBuf,
    arguments: Vec<OsString>,
    inherit_output: bool,
    descriptors: (rlim_t, rlim_t),
}

impl Hook {
    /// Looks PROG up and checks that it can be executed. Made before the limit on descriptors is
    /// raised: PROG gets the one in force now.
    pub fn new(program_and_arguments: &[OsString], inherit_output: bool) -> Result<Self> {
        let (program, arguments) = program_and_arguments
            .split_first()
            .ok_or(nix::errno::Errno::ENOENT)
            .context(|| "run PROG".into())?;
        Ok(Self {
            program: look_up(program).context(|| format!("run {}", program.to_string_lossy()))?,
            arguments: arguments.to_vec(),
            inherit_output,
            descriptors: getrlimit(Resource::RLIMIT_NOFILE)
                .context(|| "read the limit on descriptors".into())?,
        })
    }

    /// The program's path.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts PROG in a process group of its own, with these variables added.
    pub fn spawn(&self, environment: &[(&str, String)]) -> io::Result<Pid> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::null());
        if !self.inherit_output {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        sys::start_clean(&mut command, self.descriptors);
        let pid = command.spawn()?.id();
        Ok(Pid::from_raw(pid.cast_signed()))
    }
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

/// Finds a program as execvp(3) does, but for good: the working directory changes later.
fn look_up(program: &OsString) -> io::Result<PathBuf> {
    let named = Path::new(program);
    if program.is_empty() {
        return Err(nix::errno::Errno::ENOENT.into());
    }
    if program.as_bytes().contains(&b'/') {
        return executable(&std::path::absolute(named)?);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut result = Err(nix::errno::Errno::ENOENT.into());
    for directory in std::env::split_paths(&path) {
        match executable(&std::path::absolute(directory.join(named))?) {
            Ok(found) => return Ok(found),
            // A file that may not be executed says more than the absence of others.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => result = Err(error),
            Err(_) => {}
        }
    }
    result
}

fn executable(path: &Path) -> io::Result<PathBuf> {
    access(path, AccessFlags::X_OK)?;
    match path.metadata()?.is_file() {
        true => Ok(path.to_owned()),
        false => Err(nix::errno::Errno::EACCES.into()),
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
