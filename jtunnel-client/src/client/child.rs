//! The keeper of the child that sends: started, ended before any change, started again when lost.

use std::time::{Duration, Instant};

use common::report::error::reason;
use common::report::log;
use common::sys::{self, Fork, Pages};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Client;
use crate::counts::{self, Counts};
use crate::sender::{END, Sender};

/// How often senders may log about packets, however many follow each other.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// How long a child that is to end may take for its last packets.
const PATIENCE: Duration = Duration::from_millis(100);

impl Client {
    pub(super) fn start_sender(&mut self, now: Instant) {
        self.sender_start = None;
        let (Some(tun), Some(server), None) = (&self.tun, self.server, &self.sender) else {
            return;
        };
        if self.is_mute() {
            return;
        }
        let sealer = self.sealer.take();
        if self.link.is_some() && sealer.is_none() {
            return self.renew_session();
        }
        let recent = |at: &Instant| now.saturating_duration_since(*at) < LOG_INTERVAL;
        let logged = self.sender_logs.filter(recent);
        self.sender_logs = logged.or(Some(now));
        // Without one it runs as well, but nobody hears what it has sent.
        let (counts, teller) = counts::pipe().ok().unzip();
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
                    teller,
                };
                sender.run(parent);
                sys::exit_child(1)
            }
            Ok(Fork::Parent(pid)) => (self.sender, self.counts) = (Some(pid), counts),
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

    /// What the child has told since it was heard last.
    pub(super) fn hear_sender(&mut self) {
        let told = self.counts.as_ref().and_then(Counts::take);
        if let Some(sent) = told {
            self.sent = sent;
            if let Some(state) = &mut self.state {
                state.answered();
            }
        }
    }

    /// What it tells at its end, if it can: one that was killed can't.
    fn hear_sender_end(&mut self) {
        let told = self.counts.take().and_then(|c| c.take_last(PATIENCE));
        self.sent = told.unwrap_or(self.sent);
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
