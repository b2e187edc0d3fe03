//! The server's name, resolved in a short-lived helper process: the resolver may block for
//! minutes, and its way may lie through the tunnel.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use common::backoff::Backoff;
use common::report::error::reason;
use common::report::log;
use common::report::throttle::Throttle;
use common::sys::address::canonical;
use common::sys::{self, Fork};
use nix::fcntl::OFlag;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid, pipe2};

/// A helper that takes longer is ended.
const PATIENCE: Duration = Duration::from_secs(60);
/// As many addresses as fit a pipe at once, and then some to spare.
const MAX_ADDRESSES: usize = 32;
/// Before the text of an error, where an address would be.
const ERROR_MARK: char = '!';

/// The server's name and the helper at work on it.
pub(crate) struct Resolver {
    host: String,
    port: u16,
    helper: Option<Helper>,
    backoff: Backoff,
    retry: Option<Instant>,
    throttle: Throttle,
}

struct Helper {
    pid: Pid,
    answer: File,
    end: Instant,
}

/// The server's addresses, or why there are none.
pub(crate) type Answer = Result<Vec<SocketAddr>, String>;

impl Resolver {
    pub(crate) fn new(host: String, port: u16) -> Self {
        Self {
            host,
            port,
            helper: None,
            backoff: Backoff::default(),
            retry: None,
            throttle: Throttle::per_minute(),
        }
    }

    /// The address, if the name is one; then there is nothing to resolve.
    pub(crate) fn literal(&self) -> Option<SocketAddr> {
        let address: IpAddr = self.host.parse().ok()?;
        Some(canonical(SocketAddr::new(address, self.port)))
    }

    /// When there is something to do.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.helper.as_ref().map(|helper| helper.end).or(self.retry)
    }

    pub(crate) fn on_deadline(&mut self, now: Instant) {
        if let Some(helper) = &mut self.helper {
            if now >= helper.end {
                // Its end is reaped like any other, and counts as a failure.
                let _ = kill(helper.pid, Signal::SIGKILL);
                helper.end = now + PATIENCE;
            }
        } else if self.retry.is_some_and(|at| now >= at) {
            self.start(now);
        }
    }

    /// Starts a helper, unless one is at work or there is nothing to resolve.
    pub(crate) fn start(&mut self, now: Instant) {
        if self.helper.is_some() || self.literal().is_some() {
            return;
        }
        self.retry = None;
        match self.fork(now) {
            Ok(helper) => self.helper = Some(helper),
            Err(error) => self.failed(&format!("no helper: {}", reason(&error)), now),
        }
    }

    /// Starts a helper that knows of what has changed: one at work may hold on to servers that are
    /// not there.
    pub(crate) fn start_anew(&mut self, now: Instant) {
        self.stop();
        self.settle();
        self.start(now);
    }

    /// Ends the helper, which holds on to all that is open here.
    pub(crate) fn stop(&mut self) {
        if let Some(helper) = self.helper.take() {
            let _ = kill(helper.pid, Signal::SIGKILL);
            sys::wait_for(helper.pid);
        }
    }

    fn fork(&self, now: Instant) -> io::Result<Helper> {
        // What a name service module leaves behind holds the writing end: no end of file would come.
        let (answer, to_parent) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let parent = Pid::this();
        match sys::fork()? {
            Fork::Parent(pid) => Ok(Helper {
                pid,
                answer: answer.into(),
                end: now + PATIENCE,
            }),
            Fork::Child => {
                drop(answer);
                let _ = sys::default_signals(&[Signal::SIGTERM]);
                let _ = set_pdeathsig(Signal::SIGKILL);
                if getppid() == parent {
                    let _ = File::from(to_parent).write_all(self.resolve().as_bytes());
                }
                sys::exit_child(0)
            }
        }
    }

    /// In the helper: one address on each line, or an error.
    fn resolve(&self) -> String {
        match (self.host.as_str(), self.port).to_socket_addrs() {
            Ok(addresses) => addresses
                .take(MAX_ADDRESSES)
                .map(|address| format!("{}\n", canonical(address)))
                .collect(),
            Err(error) => format!("{ERROR_MARK}{}", reason(&error)),
        }
    }

    /// Takes the answer of the helper that has ended, if this is the one.
    pub(crate) fn ended(&mut self, pid: Pid) -> Option<Answer> {
        let mut helper = self.helper.take_if(|helper| helper.pid == pid)?;
        let mut text = String::new();
        Some(match helper.answer.read_to_string(&mut text) {
            Ok(_) => read_answer(&text),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => read_answer(&text),
            Err(error) => Err(reason(&error)),
        })
    }

    /// The answer was of use.
    pub(crate) fn settle(&mut self) {
        self.backoff = Backoff::default();
    }

    /// There is no answer, or none of use: another try after 1, 2, 4 .. 30 s.
    pub(crate) fn failed(&mut self, reason: &str, now: Instant) {
        self.retry = Some(now + self.backoff.next_wait());
        if let Some(held_back) = self.throttle.pass(now) {
            let host = &self.host;
            log::warning(format_args!(
                "unable to resolve {host}: {reason}{held_back}"
            ));
        }
    }
}

fn read_answer(text: &str) -> Answer {
    if let Some(error) = text.strip_prefix(ERROR_MARK) {
        return Err(error.to_owned());
    }
    let mut addresses = Vec::new();
    for address in text.lines().filter_map(|line| line.parse().ok()) {
        // One address may come by two ways; who tries all in turn wants each once.
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    match addresses.is_empty() {
        true => Err("no answer".into()),
        false => Ok(addresses),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_need_no_resolver() {
        let literal = |host: &str| Resolver::new(host.into(), 1).literal();
        assert_eq!(literal("192.0.2.1"), "192.0.2.1:1".parse().ok());
        assert_eq!(literal("::ffff:192.0.2.1"), "192.0.2.1:1".parse().ok());
        assert_eq!(literal("2001:db8::1"), "[2001:db8::1]:1".parse().ok());
        assert_eq!(literal("localhost"), None);
        assert_eq!(literal("fe80::1%lo"), None);
    }

    #[test]
    fn answers_survive_the_pipe() {
        let lines = Resolver::new("fe80::1%lo".into(), 5886).resolve();
        assert_eq!(
            read_answer(&lines),
            Ok(vec!["[fe80::1%1]:5886".parse().unwrap()])
        );
        let error = Resolver::new("no such name".into(), 1).resolve();
        assert!(read_answer(&error).is_err_and(|text| text.len() > 5));
        assert_eq!(read_answer(""), Err("no answer".into()));
        assert_eq!(read_answer("nonsense\n"), Err("no answer".into()));
        let twice = "192.0.2.1:1\n192.0.2.2:1\n192.0.2.2:1\n192.0.2.1:1\n";
        let once = ["192.0.2.1:1", "192.0.2.2:1"].map(|a| a.parse().unwrap());
        assert_eq!(read_answer(twice), Ok(once.into()));
    }
}
