//! The report that SIGUSR1 asks for: to the log, and to the file of `-S`.

use std::time::Instant;

use common::startup::program::Program;

use super::Server;
use crate::state::State;
use crate::status::Report;

impl Server {
    /// Begins the report anew. A state that is being written is as good as another one would be, and
    /// is there whole however fast signals come.
    #[cold]
    pub(super) fn begin_report(&mut self, now: Instant) {
        let begun = self.report.take().and_then(|report| report.state);
        let state = begun.or_else(|| {
            let mut draft = self.state_file.as_mut()?.begin(now)?;
            draft.line(format_args!(
                "program={} version={} pid={} uptime={} identifier={} clients={} authorised={} \
                 short={} unknown={} port_zero={} truncated={} keyed={} no_device={}",
                Self::NAME,
                env!("CARGO_PKG_VERSION"),
                std::process::id(),
                now.saturating_duration_since(self.started).as_secs(),
                self.id.first_digits(),
                self.clients.len(),
                self.authorized.count(),
                self.discards.short,
                self.discards.unknown,
                self.discards.port_zero,
                self.discards.truncated,
                self.discards.keyed,
                self.discards.no_device
            ));
            Some(State::new(draft, &self.clients))
        });
        self.report = Some(Report::new(&self.clients, state, now));
    }

    /// Writes on: a few clients at a time, to the file and to the log.
    #[cold]
    pub(super) fn go_on_reporting(&mut self, now: Instant) {
        let Some(report) = &mut self.report else {
            return;
        };
        let clients = &mut self.clients;
        if let Some(state) = &mut report.state
            && !state.go_on(clients, &self.socket, now)
            && let (Some(state), Some(file)) = (report.state.take(), &mut self.state_file)
        {
            file.publish(state.draft, now);
        }
        let is_more = report.go_on(clients, self.authorized.count(), self.discards, now);
        if !is_more && report.state.is_none() {
            self.report = None;
        }
    }
}
