//! The report that SIGUSR1 asks for: to the log, and to the file of `-S`. What was sent only the child
//! knows: it logs a line of its own, and tells the numbers for the file.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::hook::status_number;
use common::io::tun::Tun;
use common::report::error::Result;
use common::report::log;
use common::report::state::{StateFile, or_none};
use common::startup::program::Program;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Client;
use crate::keepalive::RoundTrip;

/// How long the child has for its answer, and how often it is looked for.
const PATIENCE: Duration = Duration::from_millis(1500);
const STEP: Duration = Duration::from_millis(20);

/// The state file, and when to write it.
pub(super) struct State {
    file: StateFile,
    pending: Option<Pending>,
}

/// A state that was asked for.
struct Pending {
    /// Who is to answer first.
    child: Option<Pid>,
    /// When to look for the answer, and when to do without.
    next: Instant,
    end: Instant,
}

impl State {
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        Ok(Self {
            file: StateFile::new(path)?,
            pending: None,
        })
    }

    fn ask(&mut self, child: Option<Pid>, now: Instant) {
        self.pending.get_or_insert(Pending {
            child,
            next: now + STEP,
            end: now + PATIENCE,
        });
    }

    /// The child has answered.
    pub(super) fn answered(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.child = None;
        }
    }
}

impl Client {
    pub(super) fn report(&mut self, now: Instant) {
        let device = self.tun.as_ref().and_then(Tun::current_name);
        let server = self
            .server
            .as_ref()
            .map_or("unresolved".into(), |server| server.address().to_string());
        let heard = self
            .keepalive
            .last_heard()
            .map_or("never heard".into(), |at| {
                format!(
                    "heard {} s ago",
                    now.saturating_duration_since(at).as_secs()
                )
            });
        let round_trip =
            self.keepalive
                .round_trip()
                .map_or("unknown".into(), |RoundTrip { time, at }| {
                    // `as_millis` has 128 bits, which would take 2.5 KB of code on MIPS to print.
                    format!(
                        "{}.{} ms {} s ago",
                        time.as_secs() * 1000 + u64::from(time.subsec_millis()),
                        time.subsec_micros() % 1000 / 100,
                        now.saturating_duration_since(at).as_secs()
                    )
                });
        log::info(format_args!(
            "status: device {}, server {server}, {heard}, {} keepalives unanswered, round trip \
             {round_trip}, {}, received {} packets {} bytes, dropped {}",
            device.unwrap_or_else(|| "none".into()).display(),
            self.keepalive.unanswered(),
            self.session_status(now),
            self.received.count.packets,
            self.received.count.bytes,
            self.received.count.dropped
        ));
        // What it told before goes first, so that there is always room.
        self.hear_sender();
        if let Some(sender) = self.sender {
            let _ = kill(sender, Signal::SIGUSR1);
        }
        if let Some(state) = &mut self.state {
            state.ask(self.sender, now);
        }
    }

    /// When to look whether the state can be written.
    pub(super) fn state_due(&self) -> Option<Instant> {
        let pending = self.state.as_ref()?.pending.as_ref();
        pending.map(|pending| pending.next)
    }

    /// Writes the state if the child has answered, or will not.
    #[cold]
    pub(super) fn on_state_due(&mut self, now: Instant) {
        self.hear_sender();
        let sender = self.sender;
        let Some(state) = &mut self.state else {
            return;
        };
        if let Some(pending) = &mut state.pending
            && pending.child.is_some()
            && pending.child == sender
            && now < pending.end
        {
            pending.next = now + STEP;
            return;
        }
        state.pending = None;
        let Some(mut draft) = state.file.begin(now) else {
            return;
        };
        let seconds = |at| now.saturating_duration_since(at).as_secs();
        draft.line(format_args!(
            "program={} version={} pid={} uptime={} identifier={}",
            Self::NAME,
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            seconds(self.started),
            self.id.first_digits()
        ));
        let device = self.tun.as_ref().map(|tun| tun.state(self.socket.as_fd()));
        let (device, device_state) = device.unwrap_or_else(|| ("-".into(), "deleted"));
        let prog = match (self.prog, self.prog_status) {
            (Some(_), _) => "running",
            (None, Some(_)) if self.prog_start.is_none() => "ended",
            _ => "waiting",
        };
        let round_trip = self.keepalive.round_trip();
        let precisely = |time: Duration| format!("{}.{:06}", time.as_secs(), time.subsec_micros());
        draft.line(format_args!(
            "server={} device={device} state={device_state} heard={} unanswered={} round_trip={} \
             round_trip_age={} {} prog={prog} status={} {}",
            or_none(self.server.as_ref().map(|server| server.address())),
            or_none(self.keepalive.last_heard().map(seconds)),
            self.keepalive.unanswered(),
            or_none(round_trip.map(|trip| precisely(trip.time))),
            or_none(round_trip.map(|trip| seconds(trip.at))),
            self.totals().pairs(),
            or_none(self.prog_status.map(status_number)),
            self.session_status(now).pairs()
        ));
        if let Some(state) = &mut self.state {
            state.file.publish(draft, now);
        }
    }
}
