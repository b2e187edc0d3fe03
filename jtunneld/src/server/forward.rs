//! The packet path, both directions.

use std::io;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Instant;

use common::error::reason;
use common::log;
use common::packet::{self, HEADER_LEN, Payload};
use common::socket::{Datagram, Socket, is_congestion, is_nothing};
use common::throttle::Throttle;
use common::tun::Trouble;
use nix::sys::epoll::{EpollEvent, EpollTimeout};

use super::Server;
use crate::clients::{Client, Slot};

/// How many packets one ready descriptor may hand over before the next one's turn.
const DRAIN: usize = 64;

impl Server {
    // Out: tun -> encapsulate -> endpoint.

    pub(super) fn drain_tuns(&mut self, now: Instant) {
        let mut ready = [EpollEvent::empty(); DRAIN];
        let count = self.tuns.wait(&mut ready, EpollTimeout::ZERO).unwrap_or(0);
        for event in &ready[..count] {
            if let Ok(slot) = Slot::try_from(event.data()) {
                self.drain_tun(slot, now);
            }
        }
    }

    fn drain_tun(&mut self, slot: Slot, now: Instant) {
        let Some(client) = self.clients.get(slot) else {
            return;
        };
        self.buffer[..HEADER_LEN].copy_from_slice(self.id.as_bytes());
        for _ in 0..DRAIN {
            let len = match client.tun.receive(&mut self.buffer[HEADER_LEN..]) {
                Ok(len) => len,
                Err(Trouble::Nothing | Trouble::Lost) => return,
                Err(Trouble::Gone) => return self.device_gone(slot, now),
            };
            let datagram = &self.buffer[..HEADER_LEN + len];
            if packet::is_addressed_to(&datagram[HEADER_LEN..], client.endpoint) {
                client.dropped += 1;
                if let Some(held_back) = self.throttles.looped.pass(now) {
                    log::warning(format_args!(
                        "client {}: dropped a packet for its own address and port: the tunnel \
                         is routed into itself{held_back}",
                        client.id
                    ));
                }
                continue;
            }
            match self.socket.send(&[IoSlice::new(datagram)], &client.target) {
                Ok(()) => client.sent.add(len),
                Err(error) => {
                    client.dropped += 1;
                    log_lost(&mut self.throttles.send, &error, client.endpoint, now);
                }
            }
        }
    }

    // In: socket -> decapsulate -> authorised? -> roam -> tun.

    pub(super) fn drain_socket(&mut self, now: Instant) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..DRAIN {
            match self.socket.receive(&mut buffer) {
                Ok(datagram) => self.on_datagram(&datagram, &buffer[..datagram.len], now),
                Err(error) if is_nothing(&error) => break,
                Err(error) => {
                    if let Some(held_back) = self.throttles.receive.pass(now) {
                        let reason = reason(&error);
                        log::warning(format_args!("unable to receive: {reason}{held_back}"));
                    }
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    fn on_datagram(&mut self, datagram: &Datagram, data: &[u8], now: Instant) {
        if datagram.truncated {
            self.discards.truncated += 1;
            return;
        }
        if datagram.from.port() == 0 {
            self.discards.port_zero += 1;
            return;
        }
        let Some((id, payload)) = packet::decapsulate(data) else {
            self.discards.short += 1;
            return;
        };
        let Some(slot) = self.admit(id, datagram, now) else {
            return;
        };
        let Some(client) = self.clients.get(slot) else {
            return;
        };
        client.heard = now;
        if client.endpoint != datagram.from || client.source != datagram.source {
            roam(client, datagram, &self.socket, now);
        }
        match payload {
            Payload::Packet(packet) => match client.tun.send(packet) {
                Ok(()) => client.received.add(packet.len()),
                Err(Trouble::Gone) => self.device_gone(slot, now),
                Err(Trouble::Lost | Trouble::Nothing) => client.dropped += 1,
            },
            Payload::Keepalive(counter) => {
                let answer = packet::answer(self.id, counter);
                if let Err(error) = self.socket.try_send(&answer, &client.target) {
                    log_lost(&mut self.throttles.send, &error, client.endpoint, now);
                }
            }
            Payload::Alive | Payload::Answer(_) | Payload::Other => {}
        }
    }
}

/// Follows a client to the address that its last packet came from, address and port together.
fn roam(client: &mut Client, datagram: &Datagram, socket: &Socket, now: Instant) {
    let from = std::mem::replace(&mut client.endpoint, datagram.from);
    client.source = datagram.source;
    client.target = socket.target(datagram.from, datagram.source);
    if from != datagram.from
        && let Some(held_back) = client.moves.pass(now)
    {
        let (id, to) = (client.id, client.endpoint);
        log::info(format_args!(
            "client {id} moved from {from} to {to}{held_back}"
        ));
    }
}

/// A packet is lost and the next one may pass: a line now and then, and on.
fn log_lost(throttle: &mut Throttle, error: &io::Error, to: SocketAddr, now: Instant) {
    if is_congestion(error) {
        return;
    }
    if let Some(held_back) = throttle.pass(now) {
        let reason = reason(error);
        log::warning(format_args!("unable to send to {to}: {reason}{held_back}"));
    }
}
