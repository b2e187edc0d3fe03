//! The packet path, both directions.

use std::mem::take;
use std::time::Instant;

use common::datagrams::Datagrams;
use common::error::reason;
use common::id::PeerId;
use common::inbound::write_packet;
use common::log;
use common::outbound::Exit;
use common::packet::{self, HEADER_LEN, MAX_DATAGRAM, Payload};
use common::socket::{Socket, is_nothing};
use common::throttle::Throttle;
use common::tun::Trouble;
use nix::errno::Errno;
use nix::sys::epoll::EpollTimeout;

use super::{Server, Throttles};
use crate::clients::{Client, Slot};

/// How many receive calls, and bytes, until the tun devices' turn.
const MAX_RECEIVES: usize = 64;
const MAX_BYTES: usize = 256 * 1024;
/// Room in the receive buffer for all that one turn receives.
pub(super) const ROOMS: usize = MAX_BYTES / MAX_DATAGRAM + 1;
/// How many ready devices one call reports; the others come first next time.
pub(super) const MAX_READY: usize = 64;

impl Server {
    // Out: tun -> segments -> encapsulate -> endpoint.

    pub(super) fn drain_tuns(&mut self) {
        // Of one client there is no question who it is.
        if self.closing.is_empty()
            && let Some(slot) = self.clients.only()
        {
            return self.drain_tun(slot);
        }
        let count = self.tuns.wait(&mut self.ready, EpollTimeout::ZERO);
        for n in 0..count.unwrap_or(0) {
            if let Ok(slot) = Slot::try_from(self.ready[n].data()) {
                self.drain_tun(slot);
            }
        }
    }

    fn drain_tun(&mut self, slot: Slot) {
        let Some(client) = self.clients.get(slot) else {
            return;
        };
        let mut exit = Exit {
            socket: &self.socket,
            target: &mut client.target,
            tally: &mut client.sent,
        };
        let result = self.outbound.carry(&client.tun, &mut exit);
        log_trouble(&mut self.throttles, client);
        if result == Err(Trouble::Gone) {
            self.device_gone(slot);
        }
    }

    // In: socket -> decapsulate -> authorised? -> roam -> super-packet -> tun.

    pub(super) fn drain_socket(&mut self) {
        let (now, mut bytes) = (Instant::now(), 0);
        for n in 0..MAX_RECEIVES {
            if self.gathering.is_empty() {
                self.datagrams.clear();
            } else if !self.datagrams.make_room(self.gathering.starts()) {
                self.flush();
            }
            match self.socket.receive(&mut self.datagrams) {
                Ok(()) => {
                    bytes += self.datagrams.len;
                    self.on_datagrams(now);
                }
                Err(error) if is_nothing(error) => {
                    self.alone.found(n);
                    break;
                }
                Err(error) => {
                    if let Some(held_back) = self.throttles.receive.pass(now) {
                        let reason = reason(&error.into());
                        log::warning(format_args!("unable to receive: {reason}{held_back}"));
                    }
                    break;
                }
            }
            if bytes >= MAX_BYTES || (n == 0 && self.alone.is_all()) {
                break;
            }
        }
        self.flush();
    }

    fn on_datagrams(&mut self, now: Instant) {
        if self.datagrams.truncated {
            self.discards.truncated += 1;
            return self.log_malformed("too long", now);
        }
        if self.datagrams.from.port() == 0 {
            self.discards.port_zero += 1;
            return self.log_malformed("there is no such port", now);
        }
        for range in self.datagrams.ranges() {
            let Some((id, payload)) = packet::decapsulate(&self.datagrams.data[range.clone()])
            else {
                self.discards.short += 1;
                self.log_malformed("too short", now);
                continue;
            };
            let known = self.clients.find(id);
            let Some(slot) = known.or_else(|| self.admit(id, now)) else {
                continue;
            };
            if let Some(n) = self.gathering.in_the_way_of(slot) {
                self.write_run(n);
            }
            let Some(client) = self.clients.get(slot) else {
                continue;
            };
            if client.closing.is_some() {
                // PROG still cleans up; a new tunnel comes after.
                client.received.count.dropped += 1;
                continue;
            }
            client.heard = now;
            if !client.target.is_origin_of(&self.datagrams) {
                roam(client, &self.datagrams, &self.socket, now);
            }
            match payload {
                Payload::Packet => {
                    let at = range.start + HEADER_LEN..range.end;
                    let (tun, tally) = (&client.tun, &mut client.received);
                    let buffer = &self.datagrams.data;
                    let result = if tun.takes_super_packets() || !self.gathering.is_empty() {
                        let pushed = self.gathering.push(slot, tun, buffer, at, tally);
                        if let Some(error) = tally.gave_up.take() {
                            log_gave_up(&mut self.throttles.gave_up, error, client.id);
                        }
                        pushed
                    } else {
                        write_packet(tun, &buffer[at], tally)
                    };
                    if result == Err(Trouble::Gone) {
                        self.device_gone(slot);
                    }
                }
                Payload::Keepalive(counter) if client.is_answer_due(now) => {
                    let answer = packet::answer(self.id, counter);
                    if let Err(error) = self.socket.send(&answer, &client.target) {
                        log_lost(&mut self.throttles.send, error, client);
                    }
                }
                Payload::Keepalive(_) | Payload::Alive | Payload::Answer(_) | Payload::Other => {}
            }
        }
    }

    #[cold]
    fn log_malformed(&mut self, fault: &str, now: Instant) {
        if let Some(held_back) = self.throttles.malformed.pass(now) {
            let from = &self.datagrams.from;
            log::debug(format_args!(
                "dropped a datagram from {from}: {fault}{held_back}"
            ));
        }
    }

    /// Writes the packets that have gathered.
    #[inline]
    pub(super) fn flush(&mut self) {
        while !self.gathering.is_empty() {
            self.write_run(0);
        }
    }

    fn write_run(&mut self, n: usize) {
        let (slot, inbound) = self.gathering.take(n);
        // There always is: clients go between two turns only.
        let Some(client) = self.clients.get(slot) else {
            return;
        };
        let (tun, tally) = (&client.tun, &mut client.received);
        let result = inbound.flush(tun, &self.datagrams.data, tally);
        if let Some(error) = tally.gave_up.take() {
            log_gave_up(&mut self.throttles.gave_up, error, client.id);
        }
        if result == Err(Trouble::Gone) {
            self.device_gone(slot);
        }
    }
}

/// Follows a client to the address that its last packet came from, address and port together.
#[cold]
fn roam(client: &mut Client, datagrams: &Datagrams, socket: &Socket, now: Instant) {
    let (from, to) = (client.target.address(), datagrams.from.decode());
    client.target = socket.target(to, datagrams.source);
    if from != to
        && let Some(held_back) = client.moves.pass(now)
    {
        let id = client.id;
        log::info(format_args!(
            "client {id} moved from {from} to {to}{held_back}"
        ));
    }
}

fn log_trouble(throttles: &mut Throttles, client: &mut Client) {
    let id = client.id;
    if take(&mut client.sent.looped)
        && let Some(held_back) = throttles.looped.pass(Instant::now())
    {
        log::warning(format_args!(
            "client {id}: dropped a packet for its own address and port: the tunnel is routed \
             into itself{held_back}"
        ));
    }
    if let Some(error) = client.sent.gave_up.take() {
        log_gave_up(&mut throttles.gave_up, error, id);
    }
    if let Some(error) = client.sent.error.take() {
        log_lost(&mut throttles.send, error, client);
    }
}

#[cold]
fn log_gave_up(throttle: &mut Throttle, error: Errno, id: PeerId) {
    if let Some(held_back) = throttle.pass(Instant::now()) {
        let reason = reason(&error.into());
        log::info(format_args!(
            "client {id}: packets go one by one, many at once were refused: {reason}{held_back}"
        ));
    }
}

/// A packet is lost and the next one may pass: a line now and then, and on. A buffer that is full
/// is what a busy link has; the counters tell.
#[cold]
fn log_lost(throttle: &mut Throttle, error: Errno, client: &Client) {
    if !is_nothing(error)
        && let Some(held_back) = throttle.pass(Instant::now())
    {
        let (to, reason) = (client.target.address(), reason(&error.into()));
        log::warning(format_args!("unable to send to {to}: {reason}{held_back}"));
    }
}
