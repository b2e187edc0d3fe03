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
use common::wire::packet;

use super::Client;
use crate::resolver::Answer;

impl Client {
    /// Sends a keepalive. If none of the server's addresses takes it for a while the name may mean
    /// others by now.
    pub(super) fn send_keepalive(&mut self, now: Instant) {
        let counter = self.keepalive.next_counter();
        let sent = if self.is_mute() {
            Ok(())
        } else if self.link.is_none() {
            self.probe(&packet::keepalive(self.id, counter), now)
        } else if let Some(ping) = self.ping() {
            self.probe(&ping, now)
        } else {
            Ok(())
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

    /// Sends this to the address in use. If it can't leave, the server's other addresses are tried:
    /// there may be a route to one of them. A buffer that is full is so whatever the address.
    pub(super) fn probe(&mut self, datagram: &[u8], now: Instant) -> nix::Result<()> {
        let Some(first) = self.server.as_ref().map(Target::address) else {
            return Ok(());
        };
        let (mut address, mut result) = (first, Ok(()));
        for _ in 0..self.addresses.len() {
            let target = self.socket.target(address, None);
            result = self.socket.send(datagram, &target);
            match result {
                Ok(()) if address != first => self.move_to(address, now),
                Err(error) if !would_block(error) => {
                    self.trouble.lost(error, &target, now);
                    address = self.after(address);
                    continue;
                }
                _ => {}
            }
            break;
        }
        result
    }

    /// Three keepalives were not answered: a NAT may hold on to a mapping that leads nowhere, or
    /// the server has moved.
    pub(super) fn on_silence(&mut self, now: Instant) {
        let Some(server) = self.server.as_ref().map(Target::address) else {
            return;
        };
        let since = self.keepalive.unanswered_since().unwrap_or(self.started);
        let seconds = now.saturating_duration_since(since).as_secs();
        let next = self.after(server);
        self.silences += 1;
        // One line for each address, then now and then.
        let throttle = &mut self.throttles.silence;
        let line = match self.silences <= self.addresses.len() {
            true => Some(throttle.pass_anyway(now)),
            false => throttle.pass(now),
        };
        if let Some(held_back) = line {
            let port = if self.bind.port == 0 {
                ": new source port"
            } else {
                ""
            };
            let other = match next == server {
                true => String::new(),
                false => format!(", trying {next}"),
            };
            self.told = Some(next);
            log::warning(format_args!(
                "no answer from {server} for {seconds} s{port}{other}{held_back}"
            ));
        }
        self.resolver.start(now);
        self.stop_sender();
        if self.bind.port == 0 {
            self.renew_socket(now);
        }
        self.set_server(next);
        self.start_sender(now);
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
            let mut list = String::new();
            for address in &addresses {
                let comma = if list.is_empty() { "" } else { ", " };
                let _ = write!(list, "{comma}{address}");
            }
            let name = &self.config.address;
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
        self.keepalive.hurry(now);
    }

    fn set_server(&mut self, address: SocketAddr) {
        self.server = Some(self.socket.target(address, None));
    }

    /// Both directions follow: the child gets the address anew, the parent hears no other.
    fn move_to(&mut self, address: SocketAddr, now: Instant) {
        self.stop_sender();
        self.set_server(address);
        // While only one of two has a route, it comes back to that with each silence.
        if self.told.replace(address) != Some(address) {
            log::info(format_args!("sending to {address}"));
        }
        self.start_sender(now);
    }
}
