//! What signals ask for, the end of the program included.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::datapath::tally::Totals;
use common::hook;
use common::io::socket::Socket;
use common::report::log;
use common::sys::{self, Wake};
use nix::sys::signal::{SigSet, Signal};

use super::Client;

/// How long PROG may clean up when the program ends.
const LAST_CLEAN_UP: Duration = Duration::from_secs(1);

impl Client {
    /// Returns the signal that ends the program, if that is what came.
    pub(super) fn on_signals(&mut self, now: Instant) -> Option<Signal> {
        let signals = sys::take_signals();
        if signals.contains(Signal::SIGCHLD) {
            self.reap(now);
        }
        if signals.contains(Signal::SIGHUP) {
            if !self.config.accept_any {
                self.authorized.reload(now);
                self.choose_servers(now);
                let count = self.authorized.count();
                log::info(format_args!("authorised servers: {count}"));
            }
            self.resolver.start_anew(now);
            // Who sends HUP has news of the network.
            self.keepalive.hurry(now);
        }
        if signals.contains(Signal::SIGUSR1) {
            self.report(now);
        }
        [Signal::SIGTERM, Signal::SIGINT]
            .into_iter()
            .find(|&s| signals.contains(s))
    }

    fn reap(&mut self, now: Instant) {
        while let Some((pid, status)) = sys::reap() {
            let ending = hook::describe(status);
            if self.sender.take_if(|sender| *sender == pid).is_some() {
                self.sender_lost(&ending, now);
            } else if let Some(answer) = self.resolver.ended(pid) {
                self.on_answer(answer, now);
            } else if self.prog.take_if(|prog| *prog == pid).is_some() {
                self.hook.hear_last(now);
                self.prog_status = Some(status);
                if self.rebuild.is_some() {
                    // It has cleaned up: the new device waits for its turn only.
                    self.rebuild = self.rebuilds.last();
                } else if !status.success() {
                    let prog = self.hook.program().display();
                    log::warning(format_args!("{prog} {ending}"));
                }
            }
        }
    }

    /// What was carried, by all children together.
    pub(super) fn totals(&self) -> Totals {
        Totals {
            received: self.received.count,
            sent: self.sent,
        }
    }

    /// Gives a PROG that still runs a moment to clean up while the device is there.
    pub(super) fn stop(&mut self, signal: Signal, now: Instant) {
        self.stop_sender();
        let signal = &signal.as_str()[3..];
        let seconds = now.saturating_duration_since(self.started).as_secs();
        let totals = self.totals();
        log::info(format_args!(
            "stopping: signal {signal}, {totals} in {seconds} s"
        ));
        self.resolver.stop();
        let Some(prog) = self.prog else {
            return;
        };
        // Once its device was gone it was told, and a second signal would end what it does.
        if self.rebuild.is_none() {
            hook::terminate(prog);
        }
        let end = now + LAST_CLEAN_UP;
        let mut now = now;
        while now < end && self.prog.is_some() {
            let _ = self
                .socket
                .set_receive_timeout(end.saturating_duration_since(now));
            if !sys::signals_pending() {
                let _ = self.socket.receive(&mut self.datagrams);
            }
            if sys::take_signals().contains(Signal::SIGCHLD) {
                while let Some((pid, _)) = sys::reap() {
                    self.prog.take_if(|prog| *prog == pid);
                }
                self.hook.hear_last(now);
            }
            now = Instant::now();
        }
    }
}

/// Signals are caught, neither blocked nor ignored: PROG would inherit either.
pub(super) fn catch_signals(socket: &Socket) -> io::Result<()> {
    sys::wake_by(Wake::Receive(socket.as_fd()));
    sys::catch_signals(&sys::PROGRAM_SIGNALS)?;
    SigSet::empty().thread_set_mask()?;
    Ok(())
}
