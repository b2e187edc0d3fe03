//! The report as the log has it: one line for each client, paced so that a small syslog queue
//! loses none of it.

use std::time::{Duration, Instant};

use common::report::log::{self, Delivery};
use common::wire::id::PeerId;

use crate::clients::{Client, Clients};
use crate::state::State;

/// How long syslogd gets to empty its queue, which holds 10 lines by default
/// (net.unix.max_dgram_qlen).
const PAUSE: Duration = Duration::from_millis(10);
/// A syslogd that takes nothing for this long is dead.
const PATIENCE: Duration = Duration::from_secs(10);
/// Lines at a time, so that packets don't wait.
const LINES: usize = 16;

/// What arrived and was not for anybody.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Discards {
    pub(crate) short: u64,
    pub(crate) unknown: u64,
    pub(crate) port_zero: u64,
    pub(crate) truncated: u64,
    /// Of keyed links, but from a client without a key, or no part of a handshake from one without a
    /// device.
    pub(crate) keyed: u64,
    /// An authorised client's, but there was no device to be had.
    pub(crate) no_device: u64,
}

/// A report on its way.
pub(crate) struct Report {
    /// What goes to the file of `-S`, which need not wait for syslogd.
    pub(crate) state: Option<State>,
    clients: Vec<PeerId>,
    /// 0 is the first line, which is about the server itself.
    line: usize,
    next: Instant,
    progress: Instant,
}

impl Report {
    pub(crate) fn new(clients: &Clients, state: Option<State>, now: Instant) -> Self {
        Self {
            state,
            clients: clients.ids(),
            line: 0,
            next: now,
            progress: now,
        }
    }

    /// When to go on.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Writes some lines; false when there are no more, or no use.
    pub(crate) fn go_on(
        &mut self,
        clients: &mut Clients,
        authorized: usize,
        discards: Discards,
        now: Instant,
    ) -> bool {
        self.next = now;
        for _ in 0..LINES {
            if self.line > self.clients.len() {
                return false;
            }
            if self.write_line(clients, authorized, discards, now) == Delivery::Full {
                self.next = now + PAUSE;
                return now.saturating_duration_since(self.progress) < PATIENCE;
            }
            self.line += 1;
            self.progress = now;
        }
        true
    }

    fn write_line(
        &self,
        clients: &mut Clients,
        authorized: usize,
        discards: Discards,
        now: Instant,
    ) -> Delivery {
        let Some(number) = self.line.checked_sub(1) else {
            return log::report(format_args!(
                "status: {} clients, {authorized} authorised; dropped: {} short, {} unknown, \
                 {} from port 0, {} truncated, {} of keyed links, {} without a device",
                clients.len(),
                discards.short,
                discards.unknown,
                discards.port_zero,
                discards.truncated,
                discards.keyed,
                discards.no_device
            ));
        };
        let slot = self.clients.get(number).and_then(|&id| clients.find(id));
        match slot.and_then(|slot| clients.get(slot)) {
            Some(client) => write_client(client, now),
            // Forgotten while the report was on its way.
            None => Delivery::Done,
        }
    }
}

fn write_client(client: &Client, now: Instant) -> Delivery {
    log::report(format_args!(
        "client {} {} {} heard {} s ago, {}, {}",
        client.id,
        client
            .tun
            .current_name()
            .unwrap_or_else(|| "(deleted)".into())
            .display(),
        client.target.address(),
        now.saturating_duration_since(client.heard).as_secs(),
        client.link_status(now),
        client.totals()
    ))
}
