//! The command line of `jtunneld`.

use std::ffi::OsString;

use common::report::error::{Error, Result};
use common::startup::options::{Action, Common, DEFAULT_PORT, common, other_action, parser, split};

/// The words of `-h`, and of the manual's synopsis.
pub(crate) const USAGE: &str = "\
usage: jtunneld [-fhKOVv] [-b BIND_ADDRESS] [-p BIND_PORT] [-i SERVER_ID]
                [-d DIR] [-M MARK] [-m MTU] [-P PIDFILE] [-S FILE]
                PROG [ARGS...]
       jtunneld -I [-d DIR]   or   jtunneld -G WORD

  -b BIND_ADDRESS  local address (default: every address, IPv6 and IPv4)
  -d DIR           configuration directory (default: /etc/jtunnel)
  -f               stay in the foreground, log to standard error as well
  -G WORD          print a new key, WORD is seal or sign, and exit
  -h               print this and exit; also --help
  -I               print this host's identifier, made if missing, and exit
  -i SERVER_ID     own identifier, instead of the one in DIR/id
  -K               speak with keyed peers only
  -M MARK          mark of the outer packets, for policy routing
  -m MTU           MTU of the tun devices in bytes (default: 1420)
  -O               no offload: one packet per read and write
  -P PIDFILE       write the process id there
  -p BIND_PORT     local UDP port (default: 5886)
  -S FILE          write the state there as well at SIGUSR1
  -V               print the version and exit; also --version
  -v               log in more detail

A client is authorised while DIR/clients/ID exists. For each new one PROG ARGS
is run with TUN_DEV_NAME, TUN_CLIENT_ID, TUN_MTU and TUN_PROTECTION in its
environment. The link is signed or sealed if a key is in that file.
";

/// What the server is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) common: Common,
    pub(crate) port: u16,
    /// PROG and its arguments.
    pub(crate) prog: Vec<OsString>,
}

/// Reads the arguments, without the program's name.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Action<Config>> {
    let line = split(&parser(), arguments)?;
    if let Some(action) = other_action(&line)? {
        return Ok(action);
    }
    let common = common(&line.matches)?;
    if line.free.is_empty() {
        return Err(Error::Usage("PROG is missing".into()));
    }
    Ok(Action::Run(Config {
        port: common.bind_port.unwrap_or(DEFAULT_PORT),
        common,
        prog: line.free,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Action<Config>> {
        parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_server_needs_prog_only() {
        let Ok(Action::Run(config)) = parsed(&["-f", "up", "-x", "y"]) else {
            panic!("a good command line");
        };
        assert_eq!(config.port, 5886);
        assert_eq!(config.prog, ["up", "-x", "y"]);
        assert!(config.common.foreground);
    }

    #[test]
    fn other_actions_need_nothing() {
        assert_eq!(parsed(&["-h"]).unwrap(), Action::Help);
        assert_eq!(parsed(&["-V"]).unwrap(), Action::Version);
        assert!(matches!(parsed(&["-I"]).unwrap(), Action::ShowId(_)));
    }

    #[test]
    fn wrong_usage() {
        for words in [
            &[][..],
            &["-x", "up"],
            &["-k", "1", "up"],
            &["-I", "up"],
            &["-p"],
        ] {
            assert_eq!(parsed(words).unwrap_err().exit_code(), 100, "{words:?}");
        }
    }
}
