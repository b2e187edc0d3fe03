//! What the two programs' command lines have in common. Parsed once into values that need no
//! further check.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::str::FromStr;

use getopts::{Matches, Options, ParsingStyle};

use crate::keyed::secret::Word;
use crate::report::error::{Error, Result};
use crate::sys::path::absolute;
use crate::wire::id::PeerId;
use crate::wire::packet::{HEADER_LEN, MAX_DATAGRAM};

/// The port of a server, j-t-u-n on a telephone.
pub const DEFAULT_PORT: u16 = 5886;
/// MTU of the tun devices, in bytes: 1500 - 40 (IPv6) - 8 (UDP) - 8 (header) - 24 (what a keyed
/// link adds).
const DEFAULT_MTU: u16 = 1420;
const DEFAULT_DIRECTORY: &str = "/etc/jtunnel";
/// The smallest MTU of IPv4 (RFC 791).
const MIN_MTU: u16 = 68;
/// The largest packet that fits a datagram over IPv4 with its header.
const MAX_MTU: usize = MAX_DATAGRAM - 20 - HEADER_LEN;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<Config> {
    /// To run.
    Run(Config),
    /// `-I`: to print the own identifier.
    ShowId(Common),
    /// `-G`: to print a new key of this kind.
    MakeKey(Word),
    /// `-h`: to print the usage.
    Help,
    /// `-V`: to print the version.
    Version,
}

/// The options that both programs have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Common {
    /// `-f`: stay in the foreground.
    pub foreground: bool,
    /// `-v`: log debug lines.
    pub verbose: bool,
    /// Not `-O`.
    pub offload: bool,
    /// `-b`: a literal address to bind to; `None`, as `::`, is every address.
    pub bind_address: Option<SocketAddr>,
    /// `-p`.
    pub bind_port: Option<u16>,
    /// `-K`: speak with keyed peers only.
    pub keyed_only: bool,
    /// `-i`: the own identifier, instead of `DIR/id`.
    pub id: Option<PeerId>,
    /// `-d`: the configuration directory.
    pub directory: PathBuf,
    /// `-M`: the mark of the outer packets.
    pub mark: Option<u32>,
    /// `-m`: MTU of the tun devices, in bytes.
    pub mtu: u16,
    /// `-P`.
    pub pid_file: Option<PathBuf>,
    /// `-S`.
    pub state_file: Option<PathBuf>,
}

/// A command line, taken apart.
#[derive(Debug)]
pub struct CommandLine {
    /// The options.
    pub matches: Matches,
    /// Everything from the first word on that is no option.
    pub free: Vec<OsString>,
}

/// The parser for the options that both programs have.
pub fn parser() -> Options {
    let mut options = Options::new();
    // Without it PROG's own options would be taken for ours.
    options.parsing_style(ParsingStyle::StopAtFirstFree);
    for flag in ["f", "I", "K", "O", "v"] {
        options.optflagmulti(flag, "", "");
    }
    for (flag, name) in [("h", "help"), ("V", "version")] {
        options.optflagmulti(flag, name, "");
    }
    for option in ["b", "d", "G", "i", "M", "m", "P", "p", "S"] {
        options.optopt(option, "", "", "");
    }
    options
}

/// Takes a command line apart. getopts wants UTF-8, so it sees a lossy copy; PROG and ARGS, which
/// may hold any bytes, are taken from the original.
pub fn split(parser: &Options, arguments: &[OsString]) -> Result<CommandLine> {
    let lossy: Vec<String> = arguments
        .iter()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let matches = parser
        .parse(&lossy)
        .map_err(|fail| Error::Usage(fail.to_string()))?;
    let (ours, free) = arguments.split_at(arguments.len() - matches.free.len());
    match ours.iter().position(|a| a.to_str().is_none()) {
        // It may be an identifier with a slip in it, which is as good as a password.
        Some(n) => Err(Error::Usage(format!("argument {}: not valid UTF-8", n + 1))),
        None => Ok(CommandLine {
            matches,
            free: free.to_vec(),
        }),
    }
}

/// What is asked for, if it is not to run: `-h`, `-V`, `-I` or `-G`.
pub fn other_action<Config>(line: &CommandLine) -> Result<Option<Action<Config>>> {
    Ok(if line.matches.opt_present("h") {
        Some(Action::Help)
    } else if line.matches.opt_present("V") {
        Some(Action::Version)
    } else if line.matches.opt_present("I") {
        // What somebody puts there may be an identifier, which works like a password.
        if !line.free.is_empty() {
            return Err(Error::Usage("-I takes no argument".into()));
        }
        Some(Action::ShowId(common(&line.matches)?))
    } else if let Some(word) = value(&line.matches, "G", "seal or sign", Word::of)? {
        if !line.free.is_empty() {
            return Err(Error::Usage("-G takes WORD and no more".into()));
        }
        Some(Action::MakeKey(word))
    } else {
        None
    })
}

/// The options that both programs have.
#[cold]
pub fn common(matches: &Matches) -> Result<Common> {
    let mtus = usize::from(MIN_MTU)..=MAX_MTU;
    Ok(Common {
        foreground: matches.opt_present("f"),
        verbose: matches.opt_present("v"),
        offload: !matches.opt_present("O"),
        keyed_only: matches.opt_present("K"),
        bind_address: bind_address(matches)?,
        bind_port: value(matches, "p", "a port from 1 to 65535", port)?,
        id: value(
            matches,
            "i",
            "an identifier of 16 lower-case hex digits",
            parse,
        )?,
        directory: path(matches, "d")?.unwrap_or_else(|| DEFAULT_DIRECTORY.into()),
        mark: value(
            matches,
            "M",
            "a mark of 32 bits, decimal or 0x and hex",
            mark,
        )?,
        mtu: value(
            matches,
            "m",
            &format!("an MTU from {MIN_MTU} to {MAX_MTU} bytes"),
            |text| parse(text).filter(|&mtu: &u16| mtus.contains(&mtu.into())),
        )?
        .unwrap_or(DEFAULT_MTU),
        pid_file: path(matches, "P")?,
        state_file: path(matches, "S")?,
    })
}

/// The value of an option, or what it ought to be.
pub fn value<T>(
    matches: &Matches,
    option: &str,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>> {
    let Some(text) = matches.opt_str(option) else {
        return Ok(None);
    };
    match read(&text) {
        Some(value) => Ok(Some(value)),
        None => Err(not_expected(option, &text, expected)),
    }
}

/// Apart from [`value`], of which there is one for each type.
#[cold]
#[inline(never)]
fn not_expected(option: &str, text: &str, expected: &str) -> Error {
    Error::Usage(match option {
        // An identifier works like a password, even one with a slip in it.
        "i" => format!("-i: not {expected}"),
        _ => format!("-{option} {text:?}: not {expected}"),
    })
}

/// A port: 1 to 65535.
pub fn port(text: &str) -> Option<u16> {
    parse(text).filter(|&port| port != 0)
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn mark(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => parse(text),
    }
}

fn bind_address(matches: &Matches) -> Result<Option<SocketAddr>> {
    let address = value(matches, "b", "a literal address", address)?;
    match address {
        Some(SocketAddr::V6(v6)) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
            let ip = v6.ip();
            Err(Error::Usage(format!(
                "-b {ip}: without its interface, as in {ip}%eth0"
            )))
        }
        _ => Ok(address.filter(|a| a.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))),
    }
}

/// A literal address, with the interface of a link-local one behind a percent sign.
fn address(text: &str) -> Option<SocketAddr> {
    let Some((address, interface)) = text.split_once('%') else {
        return Some(SocketAddr::new(parse::<IpAddr>(text)?.to_canonical(), 0));
    };
    let index = parse(interface).or_else(|| nix::net::if_::if_nametoindex(interface).ok())?;
    Some(SocketAddrV6::new(parse(address)?, 0, 0, index).into())
}

fn path(matches: &Matches, option: &str) -> Result<Option<PathBuf>> {
    let absolute = |text: &str| absolute(text.as_ref()).filter(|_| !text.is_empty());
    value(matches, option, "a path", absolute)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn parsed(arguments: &[&str]) -> Result<Common> {
        common(&split(&parser(), &words(arguments))?.matches)
    }

    #[test]
    fn defaults() {
        let options = parsed(&[]).expect("nothing to get wrong");
        assert_eq!(options.directory, PathBuf::from("/etc/jtunnel"));
        assert_eq!(
            (options.mtu, options.mark, options.bind_port),
            (1420, None, None)
        );
        assert!(options.offload && !options.foreground && !options.verbose);
    }

    #[test]
    fn every_value_is_checked() {
        for bad in [
            ["-p", "0"],
            ["-p", "65536"],
            ["-p", "x"],
            ["-m", "67"],
            ["-m", "65500"],
            ["-m", ""],
            ["-M", "0x100000000"],
            ["-M", "-1"],
            ["-i", "0123456789abcde"],
            ["-i", "0123456789ABCDEF"],
            ["-b", "example.org"],
            ["-b", "fe80::1%no-such-interface"],
            ["-d", ""],
        ] {
            let error = parsed(&bad).expect_err(bad[1]);
            assert_eq!(error.exit_code(), 100, "{bad:?}");
            assert!(error.to_string().len() > 10, "{error}");
        }
        let options = parsed(&[
            "-p",
            "1",
            "-m",
            "65499",
            "-M",
            "0xffffffff",
            "-b",
            "::ffff:192.0.2.1",
        ])
        .expect("the ends of the ranges");
        assert_eq!(
            (options.bind_port, options.mtu, options.mark),
            (Some(1), 65499, Some(u32::MAX))
        );
        assert_eq!(
            options.bind_address.map(|a| a.ip().to_string()).as_deref(),
            Some("192.0.2.1")
        );
    }

    #[test]
    fn an_identifier_is_not_repeated() {
        let error = parsed(&["-i", "0123456789ABCDEF"]).expect_err("upper case");
        assert!(!error.to_string().contains("0123"), "{error}");
        let bytes = OsString::from_vec(b"0123456789abcde\xff".to_vec());
        let error = split(&parser(), &["-f".into(), "-i".into(), bytes]).expect_err("no text");
        assert_eq!(error.to_string(), "argument 3: not valid UTF-8");
    }

    #[test]
    fn the_arguments_of_prog_are_its_own() {
        let line = split(&parser(), &words(&["-f", "prog", "-p", "0", "-x"])).expect("good");
        assert_eq!(line.free, words(&["prog", "-p", "0", "-x"]));
        let line = split(&parser(), &words(&["-f", "--", "-prog"])).expect("good");
        assert_eq!(line.free, words(&["-prog"]));
    }

    #[test]
    fn any_bytes_for_prog_but_not_for_options() {
        let bytes = OsString::from_vec(vec![b'a', 0xff]);
        let line = split(&parser(), &["-f".into(), bytes]).expect("good");
        assert_eq!(line.free[0].as_bytes(), [b'a', 0xff]);
        let error = split(&parser(), &["-d".into(), line.free[0].clone()]).expect_err("not UTF-8");
        assert_eq!(error.exit_code(), 100);
    }
}
