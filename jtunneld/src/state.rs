//! The state for the file of `-S`: one line for each client, a part of them at a time, so that packets
//! don't wait.

use std::os::fd::AsFd;
use std::time::Instant;

use common::hook::status_number;
use common::io::socket::Socket;
use common::report::state::{Draft, or_none};
use common::wire::id::PeerId;

use crate::clients::{Client, Clients, Prog};

/// Lines at a time.
const LINES: usize = 64;

/// A state on its way.
pub(crate) struct State {
    pub(crate) draft: Draft,
    clients: Vec<PeerId>,
    next: usize,
}

impl State {
    pub(crate) fn new(draft: Draft, clients: &Clients) -> Self {
        Self {
            draft,
            clients: clients.ids(),
            next: 0,
        }
    }

    /// Writes some lines; false when there are no more.
    pub(crate) fn go_on(&mut self, clients: &mut Clients, socket: &Socket, now: Instant) -> bool {
        for _ in 0..LINES {
            let Some(&id) = self.clients.get(self.next) else {
                return false;
            };
            self.next += 1;
            // It may have been forgotten in the meantime.
            let slot = clients.find(id);
            if let Some(client) = slot.and_then(|slot| clients.get(slot)) {
                write_client(&mut self.draft, client, socket, now);
            }
        }
        true
    }
}

fn write_client(draft: &mut Draft, client: &Client, socket: &Socket, now: Instant) {
    let (device, state) = client.tun.state(socket.as_fd());
    let (prog, status) = match client.prog {
        Prog::Waiting => ("waiting", None),
        Prog::Running(_) => ("running", None),
        Prog::Ended(status) => ("ended", Some(status_number(status))),
    };
    draft.line(format_args!(
        "client={} device={device} state={state} address={} heard={} {} prog={prog} status={} {}",
        client.id.first_digits(),
        client.target.address(),
        now.saturating_duration_since(client.heard).as_secs(),
        client.totals().pairs(),
        or_none(status),
        client.link_status(now).pairs()
    ));
}
