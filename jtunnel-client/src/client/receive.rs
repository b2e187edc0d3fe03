//! The packet path from the server: is it the server's, decapsulate, is it authorised, tun.

use std::io::IoSlice;
use std::time::Instant;

use common::error::reason;
use common::id::PeerId;
use common::log;
use common::packet::{self, Payload};
use common::socket::Datagrams;
use common::tally::Tally;
use common::tun::Trouble;

use super::Client;

impl Client {
    pub(super) fn on_datagrams(&mut self, datagrams: &Datagrams, buffer: &[u8], now: Instant) {
        let from = datagrams.from;
        if datagrams.truncated || self.server != Some(from) {
            self.received.dropped += 1;
            if let Some(held_back) = self.throttles.foreign.pass(now) {
                log::debug(format_args!(
                    "dropped a datagram from {from}: not the server{held_back}"
                ));
            }
            return;
        }
        let mut tally = Tally::default();
        let mut result = Ok(());
        for range in datagrams.ranges() {
            let Some((id, payload)) = packet::decapsulate(&buffer[range.clone()]) else {
                tally.count.dropped += 1;
                continue;
            };
            if !self.is_accepted(id, now) {
                tally.count.dropped += 1;
                if let Some(held_back) = self.throttles.unauthorized.pass(now) {
                    log::warning(format_args!(
                        "dropped a datagram of server {id} from {from}: not authorised{held_back}"
                    ));
                }
                continue;
            }
            if self.keepalive.heard(now) {
                self.silences = 0;
                log::info(format_args!("server {id} answers from {from}"));
            }
            match (payload, &self.tun) {
                (Payload::Packet(packet), Some(tun)) => {
                    let at = range.end - packet.len()..range.end;
                    result = result.and(self.inbound.push(tun, buffer, at, &mut tally));
                }
                (Payload::Packet(_), None) => tally.count.dropped += 1,
                (Payload::Keepalive(counter), _) => {
                    let target = self.socket.target(from, None);
                    let answer = packet::answer(self.id, counter);
                    let _ = self.socket.send(&[IoSlice::new(&answer)], &target);
                }
                (Payload::Answer(counter), _) => self.keepalive.answered(counter, now),
                (Payload::Alive | Payload::Other, _) => {}
            }
        }
        if let Some(tun) = &self.tun {
            result = result.and(self.inbound.flush(tun, buffer, &mut tally));
        }
        self.received += tally.count;
        if let Some(error) = &tally.gave_up
            && let Some(held_back) = self.throttles.gave_up.pass(now)
        {
            let reason = reason(error);
            log::info(format_args!(
                "packets come one by one, many at once were refused: {reason}{held_back}"
            ));
        }
        if result == Err(Trouble::Gone) {
            self.device_gone(now);
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
