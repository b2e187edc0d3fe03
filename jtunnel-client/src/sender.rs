//! The child process: tun to UDP and nothing else. It sleeps in the read of the tun.

use std::time::Instant;

use common::datapath::exit::{Exit, Wrap};
use common::datapath::outbound::Outbound;
use common::datapath::tally::{Count, Tally};
use common::datapath::trouble::TroubleLog;
use common::io::socket::Socket;
use common::io::target::Target;
use common::io::tun::{Trouble, Tun};
use common::keyed::Sealer;
use common::report::log;
use common::sys::{self, Wake};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

use crate::counts::Teller;

/// What the child has, as a copy: nothing is shared but the descriptors.
pub(crate) struct Sender<'a> {
    pub(crate) tun: &'a Tun,
    pub(crate) socket: &'a Socket,
    pub(crate) server: Target,
    pub(crate) outbound: &'a mut Outbound,
    /// For a keyed server: this process alone has the key.
    pub(crate) sealer: Option<Box<Sealer>>,
    /// When a sender before this one may have logged: each would begin anew otherwise.
    pub(crate) logged: Option<Instant>,
    /// What those before this one have sent.
    pub(crate) sent: Count,
    /// Tells the parent.
    pub(crate) teller: Option<Teller>,
}

/// The signal by which the parent asks the child to end, between two turns.
pub(crate) const END: Signal = Signal::SIGUSR2;

impl Sender<'_> {
    /// Runs until it is to end or the device is gone, and tells then what was sent. The parent's death
    /// ends it too.
    pub(crate) fn run(self, parent: Pid) {
        // The parent may have died before the death signal was asked for.
        if set_up_signals().is_err() || getppid() != parent {
            return;
        }
        let (mut target, mut sealer) = (self.server, self.sealer);
        let mut trouble = self
            .logged
            .map_or_else(TroubleLog::default, TroubleLog::since);
        let mut tally = Tally {
            count: self.sent,
            ..Tally::default()
        };
        loop {
            let mut exit = Exit {
                socket: self.socket,
                target: &mut target,
                wrap: sealer.as_deref_mut().map_or(Wrap::Plain, Wrap::Keyed),
                tally: &mut tally,
            };
            let result = self.outbound.carry(self.tun, &mut exit);
            trouble.sent(None, &mut tally, &target);
            let signals = sys::take_signals();
            let is_asked = signals.contains(Signal::SIGUSR1);
            if is_asked {
                report(&tally.count);
            }
            // What else can happen to a read is not of one packet: the parent looks into it.
            let is_over =
                signals.contains(END) || !matches!(result, Ok(()) | Err(Trouble::Nothing));
            if (is_asked || is_over)
                && let Some(teller) = &self.teller
            {
                teller.tell(&tally.count);
            }
            if is_over {
                return;
            }
        }
    }
}

/// Signals for the pair go to the parent; USR1 it passes on. The others must do no harm when a
/// terminal sends them to both, or a shut-down to all processes there are.
fn set_up_signals() -> std::io::Result<()> {
    // Those that came to the parent. First: what comes from here on is for the child.
    sys::take_signals();
    set_pdeathsig(Signal::SIGKILL)?;
    sys::wake_by(Wake::Alarm);
    sys::ignore_signals(&[Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM])?;
    sys::default_signals(&[Signal::SIGCHLD])?;
    sys::catch_signals(&[Signal::SIGUSR1, END, Signal::SIGALRM])
}

fn report(count: &Count) {
    log::info(format_args!(
        "status: sent {} packets {} bytes, dropped {}",
        count.packets, count.bytes, count.dropped
    ));
}
