//! Which of the server's addresses is in use, and from which port: keepalives, silence, and the
//! answers of the resolver.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Instant;

use common::io::socket::{Socket, would_block};
use common::io::target::Target;
use common::report::log;
use common::sys::{self, Wake};
use common::wire::packet::{self, Payload};

use super::Client;
use crate::resolver::Answer;

impl Client {
    /// Sends a keepalive. If none of the server's addresses takes it for a while the name may mean
    /// others by now.
    pub(super) fn send_keepalive(&mut self, now: Instant) {
        let counter = self.keepalive.next_counter();
        let sent = if self.is_mute() {
            Ok(())
        } else if self.link.is_some() {
            self.send_ping(now)
        } else {
            self.probe(&packet::keepalive(self.id, counter), now)
        };
        match sent {
            Ok(()) => self.keepalive.sent(now),
            Err(error) if would_block(error) => self.keepalive.held_up(now),
            Err(_) => {
                if self.keepalive.failed(now) {
                    self.resolver.start(now);
                }
            }
        }
    }

    /// Sends this to the server, or while that is searched for to the next of its addresses. If it
    /// can't leave, the others are tried: there may be a route to one of them. A buffer that is full
    /// is so whatever the address.
    pub(super) fn probe(&mut self, datagram: &[u8], now: Instant) -> nix::Result<()> {
        let Some(server) = self.server.as_ref().map(Target::address) else {
            return Ok(());
        };
        let mut address = match self.asked {
            Some(asked) if self.keepalive.is_searching() => self.after(asked),
            _ => server,
        };
        let (mut has_way, mut result) = (true, Ok(()));
        for _ in 0..self.addresses.len() {
            let target = self.socket.target(address, None);
            result = self.socket.send(datagram, &target);
            match result {
                Ok(()) => {
                    if !has_way && !self.keepalive.is_searching() {
                        self.keepalive.search(now);
                    }
                    self.note_asked(address);
                    if !has_way {
                        self.move_to(address, now);
                    }
                    break;
                }
                Err(error) if would_block(error) => break,
                Err(error) => {
                    self.trouble.lost(error, &target, now);
                    has_way &= address != server;
                    address = self.after(address);
                }
            }
        }
        result
    }

    /// A search goes on from here.
    fn note_asked(&mut self, address: SocketAddr) {
        self.asked = Some(address);
        if !self.keepalive.is_searching() {
            self.asked = None;
            self.tried.clear();
        } else if !self.tried.contains(&address) {
            self.tried.push(address);
        }
    }

    /// An answer to one of the keepalives of a search came from here, which was not in use: it is
    /// from now on.
    #[cold]
    pub(super) fn take_if_found(&mut self, now: Instant) -> bool {
        let Some(address) = self.searched_address() else {
            return false;
        };
        // Of a keyed link each datagram shows whose it is.
        if self.link.is_some() {
            return true;
        }
        let found = self.datagrams.ranges().any(|range| {
            let datagram = &self.datagrams.data[range];
            let Some((id, payload)) = packet::decapsulate(datagram) else {
                return false;
            };
            let payload = Payload::of(payload);
            let is_answer =
                matches!(payload, Payload::Answer(counter) if self.keepalive.awaits(counter));
            is_answer && self.accepts(id, payload, now)
        });
        if found {
            self.move_to(address, now);
        }
        found
    }

    /// Which of the server's addresses this came from, while one is searched for.
    pub(super) fn searched_address(&self) -> Option<SocketAddr> {
        if !self.keepalive.is_searching() || self.datagrams.truncated {
            return None;
        }
        let is_origin = |address: &SocketAddr| {
            let target = self.socket.target(*address, None);
            target.is_origin_of(&self.datagrams)
        };
        self.addresses.iter().copied().find(is_origin)
    }

    /// Three keepalives were not answered: a NAT may hold on to a mapping that leads nowhere, or
    /// the server has moved.
    pub(super) fn on_silence(&mut self, is_news: bool, now: Instant) {
        let Some(server) = self.server.as_ref().map(Target::address) else {
            return;
        };
        let new_port = self.bind.port == 0;
        if is_news {
            let port = if new_port { ": new source port" } else { "" };
            let seconds = self.silent_for(now);
            log::warning(format_args!(
                "no answer from {server} for {seconds} s{port}"
            ));
        }
        self.resolver.start(now);
        if new_port {
            self.stop_sender();
            self.renew_socket(now);
            self.set_server(server);
            self.start_sender(now);
        }
    }

    /// A search has lasted for a while.
    pub(super) fn log_search(&mut self, now: Instant) {
        let (tried, seconds) = (list(&self.tried), self.silent_for(now));
        log::warning(format_args!("no answer from {tried} for {seconds} s"));
        self.tried.clear();
    }

    fn silent_for(&self, now: Instant) -> u64 {
        let since = self.keepalive.unanswered_since().unwrap_or(self.started);
        now.saturating_duration_since(since).as_secs()
    }

    /// A new socket gets a port that differs from the old one's, which is still open.
    fn renew_socket(&mut self, now: Instant) {
        match Socket::bind(&self.bind) {
            Ok(socket) => {
                let old = std::mem::replace(&mut self.socket, socket);
                sys::wake_by(Wake::Receive(self.socket.as_fd()));
                drop(old);
                self.timeout.reset();
            }
            Err(error) => {
                if let Some(held_back) = self.throttles.socket.pass(now) {
                    log::warning(format_args!("{error}{held_back}"));
                }
            }
        }
    }

    /// The address to try after this one.
    fn after(&self, address: SocketAddr) -> SocketAddr {
        let position = self.addresses.iter().position(|&a| a == address);
        let next = position.map_or(0, |p| (p + 1) % self.addresses.len());
        self.addresses.get(next).copied().unwrap_or(address)
    }

    pub(super) fn on_answer(&mut self, answer: Answer, now: Instant) {
        let usable = answer.and_then(|mut addresses| {
            addresses.retain(|&address| self.socket.reaches(address));
            match addresses.is_empty() {
                true => Err("no address that the socket can send to".into()),
                false => Ok(addresses),
            }
        });
        match usable {
            Ok(addresses) => {
                self.resolver.settle();
                self.use_addresses(addresses, now);
            }
            Err(reason) => self.resolver.failed(&reason, now),
        }
    }

    pub(super) fn use_addresses(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        let first_time = self.server.is_none();
        if self.addresses != addresses && self.resolver.literal().is_none() {
            let (name, list) = (&self.config.address, list(&addresses));
            log::info(format_args!("server {name} resolved to {list}"));
        }
        self.addresses = addresses;
        let Some(&address) = self.addresses.first() else {
            return;
        };
        // Without keepalives nothing tries another one, and the first is what the resolver thinks
        // best.
        let count = match self.keepalive.next() {
            Some(_) => self.addresses.len(),
            None => 1,
        };
        let good = &self.addresses[..count];
        if let Some(server) = &self.server
            && good.contains(&server.address())
        {
            return;
        }
        if first_time {
            self.set_server(address);
            self.run_prog(now);
        }
        self.move_to(address, now);
        self.keepalive.search(now);
    }

    fn set_server(&mut self, address: SocketAddr) {
        self.server = Some(self.socket.target(address, None));
    }

    /// Both directions follow: the child gets the address anew, the parent hears no other.
    fn move_to(&mut self, address: SocketAddr, now: Instant) {
        self.leave_for(address);
        self.start_sender(now);
    }

    /// The same without a new child.
    pub(super) fn leave_for(&mut self, address: SocketAddr) {
        self.stop_sender();
        self.set_server(address);
        // While only one of two has a route, it comes back to that with each silence.
        if self.told.replace(address) != Some(address) {
            log::info(format_args!("sending to {address}"));
        }
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    let mut list = String::new();
    for address in addresses {
        let comma = if list.is_empty() { "" } else { ", " };
        let _ = write!(list, "{comma}{address}");
    }
    list
}
