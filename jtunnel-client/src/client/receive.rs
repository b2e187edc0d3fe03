//! The packet path from the server: is it the server's, decapsulate, is it authorised, tun.

use std::net::SocketAddr;
use std::time::Instant;

use common::id::PeerId;
use common::log;
use common::packet::{self, Payload};
use common::tun::Trouble;

use super::Client;

impl Client {
    pub(super) fn on_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        if self.server != Some(from) {
            self.dropped += 1;
            if let Some(held_back) = self.throttles.foreign.pass(now) {
                log::debug(format_args!(
                    "dropped a datagram from {from}: not the server{held_back}"
                ));
            }
            return;
        }
        let Some((id, payload)) = packet::decapsulate(datagram) else {
            self.dropped += 1;
            return;
        };
        if !self.is_accepted(id, now) {
            self.dropped += 1;
            if let Some(held_back) = self.throttles.unauthorized.pass(now) {
                log::warning(format_args!(
                    "dropped a datagram of server {id} from {from}: not authorised{held_back}"
                ));
            }
            return;
        }
        if self.keepalive.heard(now) {
            log::info(format_args!("server {id} answers from {from}"));
        }
        match payload {
            Payload::Packet(packet) => self.deliver(packet, now),
            Payload::Keepalive(counter) => {
                let target = self.socket.target(from, None);
                let _ = self
                    .socket
                    .try_send(&packet::answer(self.id, counter), &target);
            }
            Payload::Answer(counter) => self.keepalive.answered(counter, now),
            Payload::Alive | Payload::Other => {}
        }
    }

    fn deliver(&mut self, packet: &[u8], now: Instant) {
        match self.tun.as_ref().map(|tun| tun.send(packet)) {
            Some(Ok(())) => {
                self.received += 1;
                self.received_bytes += packet.len() as u64;
            }
            Some(Err(Trouble::Gone)) => self.device_gone(now),
            Some(Err(Trouble::Lost | Trouble::Nothing)) | None => self.dropped += 1,
        }
    }

    fn is_accepted(&mut self, id: PeerId, now: Instant) -> bool {
        if self.config.accept_any || self.authorized.contains(id) {
            return true;
        }
        for finding in self.authorized.rescan(now) {
            log::warning(format_args!("{finding}"));
        }
        self.authorized.contains(id)
    }
}
