//! The clients that have a tun device: found by identifier, by slot, by PROG. No I/O of its own.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use common::datapath::tally::{Tally, Totals};
use common::io::target::Target;
use common::io::tun::Tun;
use common::keyed::status::Status;
use common::report::throttle::Throttle;
use common::wire::id::PeerId;
use nix::unistd::Pid;

use crate::link::Link;

/// A client that flaps between two addresses is worth a line in so many seconds, not each time.
const MOVE_INTERVAL: u32 = 10;
/// One that is back where it came from within this time does not travel: there are two of them.
const TURN: Duration = Duration::from_secs(60);

/// Answers to one client within a second. It asks once a second at most; whoever asks in its name
/// without end must not keep the server from its work.
const MAX_ANSWERS: u32 = 1000;
/// Datagrams of one client in a turn of an overloaded server. A turn of full-size packets has fewer,
/// and each of these costs a write to a tun: all together 2 ms.
const SHARE: u32 = 512;

/// Where PROG of a client is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prog {
    /// To be started, at some pace, or again after it could not be.
    Waiting,
    /// Runs, as this process.
    Running(Pid),
    /// Has ended, in this way.
    Ended(ExitStatus),
}

/// One client and its tunnel.
pub(crate) struct Client {
    pub(crate) id: PeerId,
    pub(crate) tun: Tun,
    /// Where the last authorised packet came from, and the local address that it came to.
    pub(crate) target: Target,
    pub(crate) admitted: Instant,
    pub(crate) heard: Instant,
    pub(crate) received: Tally,
    pub(crate) sent: Tally,
    /// Of a client whose file has a key.
    pub(crate) link: Option<Box<Link>>,
    pub(crate) prog: Prog,
    pub(crate) moves: Throttle,
    pub(crate) turns: Throttle,
    /// Where it was before, and until when.
    former: Option<(SocketAddr, Instant)>,
    /// Answers since this time.
    answers: (u32, Instant),
    /// What is left of its share of the turn that began then.
    share: (u32, Instant),
    /// Set once the tunnel is to go: it does when PROG has ended, or at this time.
    pub(crate) closing: Option<Instant>,
}

impl Client {
    pub(crate) fn new(
        id: PeerId,
        tun: Tun,
        target: Target,
        link: Option<Box<Link>>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            tun,
            target,
            admitted: now,
            heard: now,
            received: Tally::default(),
            sent: Tally::default(),
            link,
            prog: Prog::Waiting,
            moves: Throttle::every(MOVE_INTERVAL),
            turns: Throttle::per_minute(),
            former: None,
            answers: (0, now),
            share: (SHARE, now),
            closing: None,
        }
    }

    /// It has moved from one address to another. Returns whether it is back there so soon.
    pub(crate) fn is_back(&mut self, from: SocketAddr, to: SocketAddr, now: Instant) -> bool {
        let is_there =
            |(address, left)| address == to && now.saturating_duration_since(left) < TURN;
        self.former.replace((from, now)).is_some_and(is_there)
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            received: self.received.count,
            sent: self.sent.count,
        }
    }

    /// Whether a datagram still belongs to the client's share of the turn that began now.
    pub(crate) fn takes_share(&mut self, now: Instant) -> bool {
        let (left, since) = &mut self.share;
        if *since != now {
            (*left, *since) = (SHARE, now);
        }
        let is_left = *left > 0;
        *left = left.saturating_sub(1);
        is_left
    }

    /// How the link is protected: `plain`, `sign` or `seal`.
    pub(crate) fn protection(&self) -> &'static str {
        let link = self.link.as_ref();
        link.map_or("plain", |link| link.keyed.secret().word().name())
    }

    /// The same and more, for the report.
    pub(crate) fn link_status(&self, now: Instant) -> Status<'_> {
        let link = self.link.as_ref();
        link.map_or(Status::PLAIN, |link| link.status(now))
    }

    /// Whether a keepalive that comes now is to be answered.
    pub(crate) fn is_answer_due(&mut self, now: Instant) -> bool {
        let (count, since) = &mut self.answers;
        if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
            (*count, *since) = (0, now);
        }
        *count = count.saturating_add(1);
        *count <= MAX_ANSWERS
    }
}

/// A place in the table, stable for as long as the client is in it.
pub(crate) type Slot = usize;

/// The table.
#[derive(Default)]
pub(crate) struct Clients {
    slots: Vec<Option<Client>>,
    free: Vec<Slot>,
    /// Sorted by identifier.
    by_id: Vec<(PeerId, Slot)>,
}

impl Clients {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The slot of the only client, if there is only one.
    pub(crate) fn only(&self) -> Option<Slot> {
        match self.by_id[..] {
            [(_, slot)] => Some(slot),
            _ => None,
        }
    }

    pub(crate) fn find(&self, id: PeerId) -> Option<Slot> {
        let position = self.by_id.binary_search_by_key(&id, |entry| entry.0).ok()?;
        Some(self.by_id[position].1)
    }

    pub(crate) fn get(&mut self, slot: Slot) -> Option<&mut Client> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// When the client in this slot is to go at the latest, if it is to go.
    pub(crate) fn closing_at(&self, slot: Slot) -> Option<Instant> {
        self.slots.get(slot)?.as_ref()?.closing
    }

    /// The slot that the next client will have.
    pub(crate) fn next_slot(&self) -> Slot {
        self.free.last().copied().unwrap_or(self.slots.len())
    }

    /// Adds a client; a former one of the same identifier must have been removed.
    pub(crate) fn insert(&mut self, client: Client) {
        let position = self.by_id.partition_point(|entry| entry.0 < client.id);
        let slot = self.next_slot();
        self.by_id.insert(position, (client.id, slot));
        match self.free.pop() {
            Some(free) => self.slots[free] = Some(client),
            None => self.slots.push(Some(client)),
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Client> {
        let client = self.slots.get_mut(slot)?.take()?;
        self.by_id.retain(|entry| entry.1 != slot);
        self.free.push(slot);
        Some(client)
    }

    /// The client whose PROG is this process.
    pub(crate) fn by_prog(&mut self, pid: Pid) -> Option<&mut Client> {
        let mut clients = self.slots.iter_mut().flatten();
        clients.find(|client| client.prog == Prog::Running(pid))
    }

    pub(crate) fn iter(&mut self) -> impl Iterator<Item = (Slot, &mut Client)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(|(slot, client)| Some((slot, client.as_mut()?)))
    }

    /// The identifiers, sorted.
    pub(crate) fn ids(&self) -> Vec<PeerId> {
        self.by_id.iter().map(|entry| entry.0).collect()
    }
}
