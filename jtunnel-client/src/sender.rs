//! The child process: tun to UDP, with blocking calls and nothing else.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Instant;

use common::error::reason;
use common::id::PeerId;
use common::log;
use common::packet::{HEADER_LEN, is_addressed_to};
use common::socket::{Socket, is_congestion};
use common::sys::{self, Wake};
use common::throttle::Throttle;
use common::tun::{Trouble, Tun};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// What the child has, as a copy: nothing is shared but the descriptors.
pub(crate) struct Sender<'a> {
    pub(crate) id: PeerId,
    pub(crate) tun: &'a Tun,
    pub(crate) socket: &'a Socket,
    pub(crate) server: SocketAddr,
    /// Room for a header and the largest packet.
    pub(crate) buffer: &'a mut [u8],
}

#[derive(Default)]
struct Counters {
    packets: u64,
    bytes: u64,
    dropped: u64,
}

impl Sender<'_> {
    /// Runs until the device is gone; the parent's death ends it too.
    pub(crate) fn run(self, parent: Pid) {
        // The parent may have died before the death signal was asked for.
        if set_up_signals().is_err() || getppid() != parent {
            return;
        }
        let target = self.socket.target(self.server, None);
        let (mut send_errors, mut loops) = (Throttle::per_minute(), Throttle::per_minute());
        let mut counters = Counters::default();
        self.buffer[..HEADER_LEN].copy_from_slice(self.id.as_bytes());
        loop {
            let received = self.tun.receive(&mut self.buffer[HEADER_LEN..]);
            if sys::take_signals().contains(Signal::SIGUSR1) {
                counters.report();
            }
            let len = match received {
                Ok(len) => len,
                Err(Trouble::Nothing) => continue,
                // What else can happen to a read is not of one packet: the parent looks into it.
                Err(Trouble::Gone | Trouble::Lost) => return,
            };
            let datagram = &self.buffer[..HEADER_LEN + len];
            if is_addressed_to(&datagram[HEADER_LEN..], self.server) {
                counters.dropped += 1;
                if let Some(held_back) = loops.pass(Instant::now()) {
                    log::warning(format_args!(
                        "dropped a packet for the server's own address and port: the tunnel is \
                         routed into itself{held_back}"
                    ));
                }
                continue;
            }
            match self.socket.send(&[IoSlice::new(datagram)], &target) {
                Ok(()) => counters.add(len),
                Err(error) => {
                    counters.dropped += 1;
                    if !is_congestion(&error)
                        && let Some(held_back) = send_errors.pass(Instant::now())
                    {
                        let (to, reason) = (self.server, reason(&error));
                        log::warning(format_args!("unable to send to {to}: {reason}{held_back}"));
                    }
                }
            }
        }
    }
}

/// Signals for the pair go to the parent; USR1 it passes on. The others must do no harm when a
/// terminal sends them to both.
fn set_up_signals() -> std::io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    sys::wake_by(Wake::Alarm);
    sys::take_signals();
    sys::ignore_signals(&[Signal::SIGHUP, Signal::SIGINT])?;
    sys::default_signals(&[Signal::SIGTERM, Signal::SIGCHLD])?;
    sys::catch_signals(&[Signal::SIGUSR1, Signal::SIGALRM])
}

impl Counters {
    fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    fn report(&self) {
        log::info(format_args!(
            "status: sent {} packets {} bytes, dropped {}",
            self.packets, self.bytes, self.dropped
        ));
    }
}
