//! The life of a program from its arguments to its exit status, which both have in common.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use nix::sys::signal::Signal;

use crate::keyed::secret;
use crate::report::error::{Context, Error, Result};
use crate::report::log;
use crate::startup::background::{self, Started};
use crate::startup::findings;
use crate::startup::identity;
use crate::startup::options::{Action, Common};
use crate::startup::pidfile::PidFile;
use crate::sys::{self, Wake, random};

/// One of the two programs.
pub trait Program: Sized {
    /// Its name, in messages and in the log.
    const NAME: &'static str;
    /// The words of `-h`.
    const USAGE: &'static str;
    /// The directory of its peers' files, in the configuration directory.
    const PEERS: &'static str;
    /// What the command line says.
    type Config;

    /// Reads the arguments, without the program's name.
    fn parse(arguments: &[OsString]) -> Result<Action<Self::Config>>;
    /// The options that both programs have.
    fn common(config: &Self::Config) -> &Common;
    /// Whether files decide which peers may come in.
    fn is_by_files(config: &Self::Config) -> bool;
    /// Sets up everything that can fail.
    fn new(config: Self::Config) -> Result<Self>;
    /// Carries packets until a signal ends it.
    fn run(&mut self);
}

/// Runs a program; what it returns is the exit status.
pub fn main<P: Program>(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.skip(1).collect();
    match P::parse(&arguments).and_then(act::<P>) {
        Ok(status) => status.into(),
        Err(error) => {
            let mut stderr = std::io::stderr();
            let _ = writeln!(stderr, "{}: {error}", P::NAME);
            log::error(format_args!("{error}"));
            if matches!(error, Error::Usage(_)) {
                // What the options mean is a page, and would carry the message away.
                let synopsis = P::USAGE.split("\n\n").next().unwrap_or_default();
                let _ = writeln!(stderr, "{synopsis}\n-h for help");
            }
            error.exit_code().into()
        }
    }
}

fn act<P: Program>(action: Action<P::Config>) -> Result<u8> {
    let text = match action {
        Action::Run(config) => return run::<P>(config),
        Action::Help => P::USAGE.to_owned(),
        Action::Version => format!("{} {}\n", P::NAME, env!("CARGO_PKG_VERSION")),
        Action::MakeKey(word) => {
            secret::line(word, &random().context(|| "get random bytes".into())?)
        }
        Action::ShowId(common) => identity::introduce(&common)?.hex() + "\n",
    };
    let mut stdout = std::io::stdout();
    let written = stdout.write_all(text.as_bytes());
    written
        .and_then(|()| stdout.flush())
        .context(|| "write to standard output".into())?;
    Ok(0)
}

/// Sets up, goes to the background and runs.
fn run<P: Program>(config: P::Config) -> Result<u8> {
    let common = P::common(&config).clone();
    // What the caller left open besides the first three may be a lock that it holds, or the end of
    // a pipe at which somebody waits.
    sys::close_from(3);
    // Until it goes to the background, whoever started it sees the log.
    log::init(P::NAME, true, common.verbose);
    let by_files = P::is_by_files(&config);
    // Until they are caught: a hook of the network that sends HUP to all there are must not end
    // one that is about to start. What they ask for is done at start anyhow, or not yet there.
    sys::ignore_signals(&[Signal::SIGHUP, Signal::SIGUSR1]).context(|| "ignore signals".into())?;
    // These wait until the set-up is done, or end what it waits for.
    sys::catch_signals(&[Signal::SIGTERM, Signal::SIGINT]).context(|| "catch signals".into())?;
    let is_free = common.pid_file.as_deref().map(PidFile::wait_until_free);
    let mut program = match is_free.unwrap_or(Ok(())).and_then(|()| P::new(config)) {
        Err(_) if sys::signals_pending() => return Ok(0),
        result => result?,
    };
    let ready = match background::start(common.foreground)? {
        Started::Parent(status) => return Ok(status),
        Started::Daemon(ready) => ready,
    };
    let _pid_file = common.pid_file.clone().map(PidFile::write).transpose()?;
    for finding in findings::of(&common, P::PEERS, by_files) {
        log::warning(format_args!("{finding}"));
    }
    if !common.foreground {
        log::leave_stderr();
    }
    ready.announce()?;
    program.run();
    // A signal from here on must not write to what has the number of a closed descriptor. Nor may
    // it end the program, whose pid file is still there.
    sys::wake_by(Wake::Nothing);
    // The devices go before the pid file does.
    drop(program);
    Ok(0)
}
