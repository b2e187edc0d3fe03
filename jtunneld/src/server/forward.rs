//! The packet path, both directions.

use std::ops::Range;
use std::time::Instant;

use common::datapath::exit::{Exit, Wrap};
use common::datapath::inbound::write_packet;
use common::io::datagrams::Datagrams;
use common::io::socket::{Socket, would_block};
use common::io::tun::Trouble;
use common::report::error::reason;
use common::report::log;
use common::wire::packet::{self, HEADER_LEN, MAX_DATAGRAM, Payload};
use nix::sys::epoll::EpollTimeout;

use super::Server;
use crate::clients::{Client, Slot};

/// How many receive calls, and bytes, until the tun devices' turn.
const MAX_RECEIVES: usize = 64;
const MAX_BYTES: usize = 256 * 1024;
/// Room in the receive buffer for all that one turn receives.
pub(super) const ROOMS: usize = MAX_BYTES / MAX_DATAGRAM + 1;
/// How many ready devices one call reports; the others come first next time.
pub(super) const MAX_READY: usize = 8;
/// A burst takes so many turns at most. If the socket is not empty then, more comes than there is
/// time for.
const MAX_BURST: u32 = 4;

impl Server {
    // Out: tun -> segments -> encapsulate -> endpoint.

    pub(super) fn drain_tuns(&mut self) {
        // Of one client there is no question who it is.
        if self.closing.is_empty()
            && let Some(slot) = self.clients.only()
        {
            return self.drain_tun(slot);
        }
        let count = match self.tuns.wait(&mut self.ready, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(error) => return self.wait_failed(error),
        };
        for n in 0..count {
            if let Ok(slot) = Slot::try_from(self.ready[n].data()) {
                self.drain_tun(slot);
            }
        }
    }

    fn drain_tun(&mut self, slot: Slot) {
        let Some(client) = self.clients.get(slot) else {
            return;
        };
        let wrap = match &mut client.link {
            None => Wrap::Plain,
            Some(link) => {
                let sealer = link.keyed.sealer(Instant::now());
                sealer.map_or(Wrap::Shut, Wrap::Keyed)
            }
        };
        let mut exit = Exit {
            socket: &self.socket,
            target: &mut client.target,
            wrap,
            tally: &mut client.sent,
        };
        let result = self.outbound.carry(&client.tun, &mut exit);
        self.trouble
            .sent(Some(client.id), &mut client.sent, &client.target);
        if result == Err(Trouble::Gone) {
            self.device_gone(slot);
        }
    }

    // In: socket -> decapsulate -> authorised? -> roam -> super-packet -> tun.

    pub(super) fn drain_socket(&mut self) {
        let (now, mut bytes) = (Instant::now(), 0);
        let turns_behind = std::mem::take(&mut self.turns_behind);
        self.is_overloaded = turns_behind >= MAX_BURST && self.clients.len() > 1;
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
                Err(error) if would_block(error) => {
                    self.alone.found(n);
                    break;
                }
                Err(error) => {
                    if let Some(held_back) = self.throttles.receive.pass(now) {
                        let reason = reason(&error.into());
                        log::warning(format_args!(
                            "unable to receive from the UDP socket: {reason}{held_back}"
                        ));
                    }
                    break;
                }
            }
            if n == 0 && self.alone.ends_turn() {
                break;
            }
            if bytes >= MAX_BYTES || n + 1 == MAX_RECEIVES {
                self.turns_behind = turns_behind.saturating_add(1);
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
        for at in self.datagrams.ranges() {
            self.on_datagram(at, now);
        }
    }

    #[inline]
    fn on_datagram(&mut self, at: Range<usize>, now: Instant) {
        let Some((id, _)) = packet::decapsulate(&self.datagrams.data[at.clone()]) else {
            self.discards.short += 1;
            return self.log_malformed("too short", now);
        };
        let known = self.clients.find(id);
        let Some(slot) = known.or_else(|| self.admit(id, at.clone(), now)) else {
            return;
        };
        if let Some(n) = self.gathering.in_the_way_of(slot) {
            self.write_run(n);
        }
        let Some(client) = self.clients.get(slot) else {
            return;
        };
        if client.closing.is_some() {
            // PROG still cleans up; a new tunnel comes after.
            client.received.count.dropped += 1;
            return;
        }
        if self.is_overloaded && !client.takes_share(now) {
            // One that sends without end must not take the server from the others.
            client.received.count.dropped += 1;
            return;
        }
        // One place to deliver: what is called from two is not compiled into either.
        let (client, packet) = if client.link.is_some() {
            let Some(packet) = self.on_keyed(slot, at, now) else {
                return;
            };
            let Some(client) = self.clients.get(slot) else {
                return;
            };
            (client, packet)
        } else {
            let packet = at.start + HEADER_LEN..at.end;
            let payload = Payload::of(&self.datagrams.data[packet.clone()]);
            if payload == Payload::Keyed {
                return self.on_stray_keyed(id, now);
            }
            client.heard = now;
            if !client.target.is_origin_of(&self.datagrams) {
                roam(client, &self.datagrams, &self.socket, now);
            }
            match payload {
                Payload::Packet => (client, packet),
                Payload::Keepalive(counter) if client.is_answer_due(now) => {
                    let answer = packet::answer(self.id, counter);
                    if let Err(error) = self.socket.send(&answer, &client.target) {
                        self.trouble.lost(error, &client.target, now);
                    }
                    return;
                }
                _ => return,
            }
        };
        let (tun, tally) = (&client.tun, &mut client.received);
        let buffer = &self.datagrams.data;
        // What can't be joined need not gather, unless others' packets do.
        let result = if tun.takes_super_packets() || !self.gathering.is_empty() {
            let result = self.gathering.push(slot, tun, buffer, packet, tally);
            // Only packets that were joined can be given up as such.
            self.trouble.received(Some(client.id), tally);
            result
        } else {
            write_packet(tun, &buffer[packet], tally)
        };
        if result == Err(Trouble::Gone) {
            self.device_gone(slot);
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
    #[inline(always)]
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
        self.trouble.received(Some(client.id), &mut client.received);
        if result == Err(Trouble::Gone) {
            self.device_gone(slot);
        }
    }
}

/// Follows a client to the address that its last packet came from, address and port together.
#[cold]
pub(super) fn roam(client: &mut Client, datagrams: &Datagrams, socket: &Socket, now: Instant) {
    let (from, to) = (client.target.address(), datagrams.from.decode());
    client.target = socket.target(to, datagrams.source());
    if from == to {
        // By another of the server's addresses.
        return;
    }
    let id = client.id;
    if client.is_back(from, to, now)
        && let Some(held_back) = client.turns.pass(now)
    {
        log::warning(format_args!(
            "client {id} comes from {from} and from {to} by turns: two hosts with one identifier, or \
             one with two uplinks{held_back}"
        ));
    } else if let Some(held_back) = client.moves.pass(now) {
        log::info(format_args!(
            "client {id} moved from {from} to {to}{held_back}"
        ));
    }
}
