//! The command line of `jtunnel-client`.

use std::ffi::OsString;
use std::time::Duration;

use common::report::error::{Error, Result};
use common::startup::options::{Action, Common, common, other_action, parser, port, split, value};

/// The words of `-h`, and of the manual's synopsis.
pub(crate) const USAGE: &str = "\
usage: jtunnel-client [-AfhKOVv] [-b BIND_ADDRESS] [-p BIND_PORT]
                      [-i CLIENT_ID] [-d DIR] [-k SECONDS] [-M MARK] [-m MTU]
                      [-P PIDFILE] [-S FILE] ADDRESS PORT PROG [ARGS...]
       jtunnel-client -I [-d DIR]   or   jtunnel-client -G WORD

  -A               accept any identifier from the server's address and port
  -b BIND_ADDRESS  local address (default: every address, IPv6 and IPv4)
  -d DIR           configuration directory (default: /etc/jtunnel)
  -f               stay in the foreground, log to standard error as well
  -G WORD          print a new key, WORD is seal or sign, and exit
  -h               print this and exit; also --help
  -I               print this host's identifier, made if missing, and exit
  -i CLIENT_ID     own identifier, instead of the one in DIR/id
  -K               speak with keyed peers only
  -k SECONDS       keepalive interval, 0 for none (default: 25)
  -M MARK          mark of the outer packets, for policy routing
  -m MTU           MTU of the tun device in bytes (default: 1420)
  -O               no offload: one packet per read and write
  -P PIDFILE       write the process id there
  -p BIND_PORT     local UDP port (default: any free one)
  -S FILE          write the state there as well at SIGUSR1
  -V               print the version and exit; also --version
  -v               log in more detail

A server is accepted while DIR/servers/ID exists. PROG ARGS is run with
TUN_DEV_NAME, TUN_MTU, TUN_PROTECTION, TUN_SERVER_ADDRESS and TUN_SERVER_PORT
in its environment. The link is signed or sealed if a key is in that file.
";

/// Conntrack forgets one-way UDP after 30 s (net.netfilter.nf_conntrack_udp_timeout).
const DEFAULT_KEEPALIVE: u16 = 25;
const MAX_KEEPALIVE: u16 = 3600;

/// What the client is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) common: Common,
    pub(crate) accept_any: bool,
    /// Between two keepalives; `None` is none at all.
    pub(crate) keepalive: Option<Duration>,
    /// The server's name or literal address.
    pub(crate) address: String,
    pub(crate) port: u16,
    /// PROG and its arguments.
    pub(crate) prog: Vec<OsString>,
}

/// Reads the arguments, without the program's name.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Action<Config>> {
    let mut parser = parser();
    parser.optflagmulti("A", "", "").optopt("k", "", "", "");
    let line = split(&parser, arguments)?;
    if let Some(action) = other_action(&line)? {
        return Ok(action);
    }
    let common = common(&line.matches)?;
    let seconds = value(
        &line.matches,
        "k",
        "an interval from 0 to 3600 seconds",
        |text| text.parse().ok().filter(|&s: &u16| s <= MAX_KEEPALIVE),
    )?
    .unwrap_or(DEFAULT_KEEPALIVE);
    let accept_any = line.matches.opt_present("A");
    if accept_any && common.keyed_only {
        return Err(Error::Usage("-A and -K exclude each other".into()));
    }
    let [address, server_port, prog @ ..] = line.free.as_slice() else {
        return Err(Error::Usage("ADDRESS, PORT or PROG is missing".into()));
    };
    if prog.is_empty() {
        return Err(Error::Usage("PROG is missing".into()));
    }
    Ok(Action::Run(Config {
        common,
        accept_any,
        keepalive: (seconds > 0).then(|| Duration::from_secs(seconds.into())),
        address: word(address, "ADDRESS", "a name or an address", |text| {
            (!text.is_empty() && !text.contains(['\0', '\n'])).then(|| text.to_owned())
        })?,
        port: word(server_port, "PORT", "a port from 1 to 65535", port)?,
        prog: prog.to_vec(),
    }))
}

fn word<T>(
    word: &OsString,
    name: &str,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T> {
    word.to_str()
        .and_then(read)
        .ok_or_else(|| Error::Usage(format!("{name} {word:?}: not {expected}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Action<Config>> {
        parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn config(words: &[&str]) -> Config {
        match parsed(words).unwrap() {
            Action::Run(config) => config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn address_port_prog() {
        let config = config(&["-A", "vpn.example.org", "5886", "up", "-k"]);
        assert_eq!(
            (config.address.as_str(), config.port),
            ("vpn.example.org", 5886)
        );
        assert_eq!(config.prog, ["up", "-k"]);
        assert_eq!(config.keepalive, Some(Duration::from_secs(25)));
        assert!(config.accept_any);
    }

    #[test]
    fn keepalive_range() {
        assert_eq!(config(&["-k", "0", "a", "1", "up"]).keepalive, None);
        let longest = Some(Duration::from_secs(3600));
        assert_eq!(config(&["-k", "3600", "a", "1", "up"]).keepalive, longest);
    }

    #[test]
    fn wrong_usage() {
        for words in [
            &[][..],
            &["a"],
            &["a", "1"],
            &["a", "0", "up"],
            &["a", "65536", "up"],
            &["", "1", "up"],
            &["-k", "3601", "a", "1", "up"],
            &["-k", "-1", "a", "1", "up"],
            &["-x", "a", "1", "up"],
            &["-A", "-K", "a", "1", "up"],
        ] {
            assert_eq!(parsed(words).unwrap_err().exit_code(), 100, "{words:?}");
        }
    }
}
