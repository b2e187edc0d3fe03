//! `jtunneld`: a point-to-point link for each authorised client, over UDP.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that can't go on should fail")
)]

mod clients;
mod closer;
mod options;
mod server;
mod status;

use std::io::Write;
use std::process::ExitCode;

use common::background::{self, Started};
use common::error::{Error, Result};
use common::options::Action;
use common::pidfile::PidFile;
use common::{identity, log};

use crate::options::{Config, NAME, USAGE, parse};
use crate::server::Server;

/// Where the files of the clients are, in the configuration directory.
const PEERS: &str = "clients";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match parse(&arguments).and_then(act) {
        Ok(code) => code.into(),
        Err(error) => {
            let mut stderr = std::io::stderr();
            let _ = writeln!(stderr, "{NAME}: {error}");
            if matches!(error, Error::Usage(_)) {
                let _ = write!(stderr, "{USAGE}");
            }
            error.exit_code().into()
        }
    }
}

fn act(action: Action<Config>) -> Result<u8> {
    let mut stdout = std::io::stdout();
    let _ = match action {
        Action::Run(config) => return run(config),
        Action::Help => write!(stdout, "{USAGE}"),
        Action::Version => writeln!(stdout, "{NAME} {}", env!("CARGO_PKG_VERSION")),
        Action::ShowId(common) => {
            let id = match common.id {
                Some(id) => id,
                None => identity::load(&common.directory, PEERS)?,
            };
            writeln!(stdout, "{}", id.hex())
        }
    };
    Ok(0)
}

/// Sets up everything that can fail, then goes to the background and runs.
fn run(config: Config) -> Result<u8> {
    log::init(NAME, config.common.foreground, config.common.verbose);
    let pid_file = config.common.pid_file.clone();
    let foreground = config.common.foreground;
    let mut server = Server::new(config)?;
    let ready = match background::start(foreground)? {
        Started::Parent(status) => return Ok(status),
        Started::Daemon(ready) => ready,
    };
    let _pid_file = pid_file.map(PidFile::write).transpose()?;
    ready.announce()?;
    server.run();
    // The devices go before the pid file does: values are dropped in reverse order.
    drop(server);
    Ok(0)
}
