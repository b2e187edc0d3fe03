//! The child process: tun to UDP and nothing else. It sleeps in the read of the tun.

use std::mem::take;
use std::time::Instant;

use common::error::reason;
use common::log;
use common::outbound::{Exit, Outbound};
use common::socket::{Socket, Target, is_nothing};
use common::sys::{self, Wake};
use common::tally::{Count, Tally};
use common::throttle::Throttle;
use common::tun::{Trouble, Tun};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// What the child has, as a copy: nothing is shared but the descriptors.
pub(crate) struct Sender<'a> {
    pub(crate) tun: &'a Tun,
    pub(crate) socket: &'a Socket,
    pub(crate) server: Target,
    pub(crate) outbound: &'a mut Outbound,
    /// When a sender before this one may have logged: each would begin anew otherwise.
    pub(crate) logged: Option<Instant>,
}

impl Sender<'_> {
    /// Runs until the device is gone; the parent's death ends it too.
    pub(crate) fn run(self, parent: Pid) {
        // The parent may have died before the death signal was asked for.
        if set_up_signals().is_err() || getppid() != parent {
            return;
        }
        let mut target = self.server;
        let mut log = TroubleLog::new(self.logged);
        let mut tally = Tally::default();
        loop {
            let mut exit = Exit {
                socket: self.socket,
                target: &mut target,
                tally: &mut tally,
            };
            let result = self.outbound.carry(self.tun, &mut exit);
            log.write(&mut tally, &target);
            if sys::take_signals().contains(Signal::SIGUSR1) {
                report(&tally.count);
            }
            // What else can happen to a read is not of one packet: the parent looks into it.
            if !matches!(result, Ok(()) | Err(Trouble::Nothing)) {
                return;
            }
        }
    }
}

/// Lines about lost packets, at a bounded rate.
struct TroubleLog {
    send: Throttle,
    looped: Throttle,
    gave_up: Throttle,
}

impl TroubleLog {
    fn new(logged: Option<Instant>) -> Self {
        let throttle = || match logged {
            Some(at) => Throttle::per_minute().passed(at),
            None => Throttle::per_minute(),
        };
        Self {
            send: throttle(),
            looped: throttle(),
            gave_up: throttle(),
        }
    }

    fn write(&mut self, tally: &mut Tally, target: &Target) {
        if take(&mut tally.looped)
            && let Some(held_back) = self.looped.pass(Instant::now())
        {
            log::warning(format_args!(
                "dropped a packet for the server's own address and port: the tunnel is routed \
                 into itself{held_back}"
            ));
        }
        if let Some(error) = tally.gave_up.take()
            && let Some(held_back) = self.gave_up.pass(Instant::now())
        {
            let reason = reason(&error.into());
            log::info(format_args!(
                "packets go one by one, many at once were refused: {reason}{held_back}"
            ));
        }
        if let Some(error) = tally.error.take()
            && !is_nothing(error)
            && let Some(held_back) = self.send.pass(Instant::now())
        {
            let (to, reason) = (target.address(), reason(&error.into()));
            log::warning(format_args!("unable to send to {to}: {reason}{held_back}"));
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

fn report(count: &Count) {
    log::info(format_args!(
        "status: sent {} packets {} bytes, dropped {}",
        count.packets, count.bytes, count.dropped
    ));
}
