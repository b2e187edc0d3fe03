//! Who gets a tunnel: the way from an unknown identifier to a client with a device and a PROG.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use common::io::tun::Tun;
use common::peers::authorized::Grant;
use common::report::error::{Context, Result, reason};
use common::report::log;
use common::wire::id::PeerId;
use common::wire::packet::{HEADER_LEN, Payload};
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::resource::rlim_t;

use super::Server;
use crate::clients::{Client, Prog, Slot};
use crate::closer::close_all;
use crate::link::Link;

/// Between two starts of PROG: 500 a second.
const START_INTERVAL: Duration = Duration::from_millis(2);
/// After PROG could not be started, the next try of any.
const START_RETRY: Duration = Duration::from_secs(1);
/// After a device could not be made, the next try.
const TUN_RETRY: Duration = Duration::from_secs(1);
/// Devices that are made in vain for the sake of one. More names in use are worth a wait.
const MAX_HELD: usize = 8;
/// Descriptors that are kept for PROG, the log and the configuration directory.
const RESERVED_DESCRIPTORS: rlim_t = 16;

/// Refuses a device that took one of the last descriptors below this limit.
pub(super) fn keep_reserve(tun: &Tun, limit: rlim_t) -> Result<()> {
    let number = rlim_t::try_from(tun.as_fd().as_raw_fd()).unwrap_or_default();
    match number + RESERVED_DESCRIPTORS < limit {
        true => Ok(()),
        false => Err(Errno::EMFILE).context(|| "create a tun device".into()),
    }
}

impl Server {
    /// The slot of a new client that sent this, if the client is authorised and has no key.
    #[cold]
    pub(super) fn admit(&mut self, id: PeerId, at: Range<usize>, now: Instant) -> Option<Slot> {
        let Some(grant) = self.authorized.admits(id, now) else {
            self.discards.unknown += 1;
            if let Some(held_back) = self.throttles.unknown.pass(id, now) {
                log::warning(format_args!(
                    "dropped a datagram of client {id} from {}: not authorised{held_back}",
                    self.datagrams.from
                ));
            }
            return None;
        };
        if let Grant::Keyed(secret) = grant {
            self.on_newcomer(id, secret, at, now);
            return None;
        }
        let payload = &self.datagrams.data[at.start + HEADER_LEN..at.end];
        if Payload::of(payload) == Payload::Keyed {
            self.on_stray_keyed(id, now);
            return None;
        }
        if now < self.next_tun || self.losses.hold_back(id, now) {
            self.discards.no_device += 1;
            return None;
        }
        self.make_client(id, None, now)
    }

    /// Makes a device for a client that may come in, and returns its slot.
    pub(super) fn make_client(
        &mut self,
        id: PeerId,
        link: Option<Box<Link>>,
        now: Instant,
    ) -> Option<Slot> {
        // Nobody's packets wait while a device is made.
        self.flush();
        let tun = self.open_tun();
        match tun.and_then(|tun| self.insert(id, tun, link, now)) {
            Ok(slot) => Some(slot),
            Err(error) => {
                self.discards.no_device += 1;
                self.next_tun = now + TUN_RETRY;
                if let Some(held_back) = self.throttles.tun.pass(id, now) {
                    log::warning(format_args!("client {id}: {error}{held_back}"));
                }
                None
            }
        }
    }

    fn open_tun(&mut self) -> Result<Tun> {
        // A deleted device leaves its name to the next one, while PROG still cleans up after it.
        // Who holds that next one gets another name, and nobody has to wait.
        let mut held = Vec::new();
        let tun = loop {
            let tun = Tun::open(self.tun_mode)?;
            if let Err(error) = keep_reserve(&tun, self.max_descriptor) {
                held.push(tun);
                break Err(error);
            }
            if !self.is_name_in_use(tun.name()) {
                break Ok(tun);
            }
            held.push(tun);
            if held.len() > MAX_HELD {
                let name = held[MAX_HELD].name();
                break Err(Errno::EBUSY).context(|| format!("use {name} again"));
            }
        };
        // To close one takes as long as if it had been in use.
        close_all(held, self.socket.as_fd());
        tun
    }

    /// Whether PROG of a client that goes still cleans up after a device of this name.
    fn is_name_in_use(&mut self, name: &str) -> bool {
        let clients = &mut self.clients;
        let mut going = self.closing.iter();
        going.any(|&slot| clients.get(slot).is_some_and(|c| c.tun.name() == name))
    }

    fn insert(
        &mut self,
        id: PeerId,
        tun: Tun,
        link: Option<Box<Link>>,
        now: Instant,
    ) -> Result<Slot> {
        let slot = self.clients.next_slot();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, slot as u64);
        let watched = self.tuns.add(&tun, event);
        watched.context(|| format!("watch {}", tun.name()))?;
        let protection = link
            .as_ref()
            .map_or_else(|| "PLAIN".into(), |link| link.to_string());
        log::info(format_args!(
            "client {id} admitted from {} as {protection} on {}",
            self.datagrams.from,
            tun.name()
        ));
        let datagrams = &self.datagrams;
        let target = self
            .socket
            .target(datagrams.from.decode(), datagrams.source());
        self.clients.insert(Client::new(id, tun, target, link, now));
        self.gathering.grow(self.clients.len());
        // What waits of each, and the next call.
        self.datagrams.grow(self.clients.len() + 1);
        self.starts.push_back(id);
        Ok(slot)
    }

    /// Starts the PROG whose turn it is.
    pub(super) fn start_next(&mut self, now: Instant) {
        self.next_start = now + START_INTERVAL;
        let id = self.starts.pop_front();
        let Some(slot) = id.and_then(|id| self.clients.find(id)) else {
            return;
        };
        let Some(client) = self.clients.get(slot) else {
            return;
        };
        if client.prog != Prog::Waiting || client.closing.is_some() {
            return;
        }
        let Some(name) = client.tun.current_name() else {
            // By now its name may be another's device.
            return self.device_gone(slot);
        };
        let environment = [
            ("TUN_DEV_NAME", name),
            ("TUN_CLIENT_ID", client.id.hex().into()),
            ("TUN_MTU", self.tun_mode.mtu.to_string().into()),
            ("TUN_PROTECTION", client.protection().into()),
        ];
        match self.hook.spawn(&environment, now) {
            Ok(pid) => client.prog = Prog::Running(pid),
            Err(error) => {
                self.starts.push_back(client.id);
                self.next_start = now + START_RETRY;
                if let Some(held_back) = self.throttles.prog.pass(client.id, now) {
                    let (prog, reason) = (self.hook.program().display(), reason(&error));
                    log::warning(format_args!(
                        "client {}: unable to run {prog}: {reason}{held_back}",
                        client.id
                    ));
                }
            }
        }
    }
}
