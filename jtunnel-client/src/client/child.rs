//! The keeper of the child that sends: started, ended before any change, started again when lost.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::datapath::tally::Count;
use common::report::error::reason;
use common::report::log;
use common::sys::{self, Fork, Pages};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};

use super::Client;
use crate::sender::{END, Sender};

/// How often senders may log about packets, however many follow each other.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// How long a child that is to end may take for its last packets.
const PATIENCE: Duration = Duration::from_millis(100);
const COUNT_LEN: usize = 3 * size_of::<u64>();

impl Client {
    pub(super) fn start_sender(&mut self, now: Instant) {
        self.sender_start = None;
        let (Some(tun), Some(server), None) = (&self.tun, self.server, &self.sender) else {
            return;
        };
        let sealer = self.sealer.take();
        if self.link.is_some() && sealer.is_none() {
            return self.renew_session();
        }
        let recent = |at: &Instant| now.saturating_duration_since(*at) < LOG_INTERVAL;
        let logged = self.sender_logs.filter(recent);
        self.sender_logs = logged.or(Some(now));
        // Without one it runs as well, but nobody hears what it has sent.
        let (end, to_parent) = pipe2(OFlag::O_CLOEXEC).ok().unzip();
        let parent = Pid::this();
        match sys::fork() {
            Ok(Fork::Child) => {
                // The parent receives: its buffer's memory is not to be held twice.
                self.datagrams.data = Pages::default();
                // Nor are the session's other keys.
                self.link = None;
                let sender = Sender {
                    tun,
                    socket: &self.socket,
                    server,
                    outbound: &mut self.outbound,
                    sealer,
                    logged,
                    sent: self.sent,
                };
                let sent = sender.run(parent);
                if let Some(to_parent) = to_parent {
                    let _ = File::from(to_parent).write_all(&to_bytes(sent));
                }
                sys::exit_child(1)
            }
            Ok(Fork::Parent(pid)) => (self.sender, self.sender_end) = (Some(pid), end),
            Err(error) => {
                log::warning(format_args!(
                    "unable to start the sender: {}",
                    reason(&error)
                ));
                self.delay_sender(now);
            }
        }
    }

    /// Ends the child and waits for it: there are never two readers of one tun. It is asked to, so
    /// that it loses no packet that it has read, and tells what it has sent.
    pub(super) fn stop_sender(&mut self) {
        self.sender_start = None;
        self.sealer = None;
        if let Some(sender) = self.sender.take() {
            let _ = kill(sender, END);
            self.hear_sender_end();
            let _ = kill(sender, Signal::SIGKILL);
            sys::wait_for(sender);
        }
    }

    /// What the child has sent, if it can tell: one that was killed can't.
    fn hear_sender_end(&mut self) {
        let Some(end) = self.sender_end.take() else {
            return;
        };
        let until = Instant::now() + PATIENCE;
        let ready = loop {
            let left = until.saturating_duration_since(Instant::now());
            let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut wait = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wait, limit) {
                Err(Errno::EINTR) => {}
                result => break result == Ok(1),
            }
        };
        let mut bytes = [0; COUNT_LEN];
        if ready && File::from(end).read_exact(&mut bytes).is_ok() {
            self.sent = from_bytes(&bytes);
        }
    }

    pub(super) fn sender_lost(&mut self, ending: &str, now: Instant) {
        self.hear_sender_end();
        if self
            .tun
            .as_ref()
            .is_some_and(|tun| tun.current_name().is_none())
        {
            return self.device_gone(now);
        }
        log::warning(format_args!("the sender {ending}, starting it again"));
        self.delay_sender(now);
    }

    fn delay_sender(&mut self, now: Instant) {
        self.sender_start = Some(self.sender_restarts.next(now));
    }
}

fn to_bytes(count: Count) -> [u8; COUNT_LEN] {
    let mut bytes = [0; COUNT_LEN];
    let numbers = [count.packets, count.bytes, count.dropped];
    for (place, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
        *place = number.to_ne_bytes();
    }
    bytes
}

fn from_bytes(bytes: &[u8; COUNT_LEN]) -> Count {
    let mut numbers = bytes.as_chunks().0.iter().map(|&b| u64::from_ne_bytes(b));
    let mut next = || numbers.next().unwrap_or_default();
    Count {
        packets: next(),
        bytes: next(),
        dropped: next(),
    }
}
