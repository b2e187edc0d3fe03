//! The packet path from the server: is it the server's, decapsulate, is it authorised, tun.

use std::ops::Range;
use std::time::Instant;

use common::io::target::Target;
use common::io::tun::Trouble;
use common::peers::authorized::Grant;
use common::report::log;
use common::wire::id::PeerId;
use common::wire::packet::{self, HEADER_LEN, Payload};

use super::Client;

/// How many receive calls, and bytes, until signals and deadlines are looked at.
const MAX_RECEIVES: usize = 64;
const MAX_BYTES: usize = 256 * 1024;
/// Room in the receive buffer: what one call has brought may wait while another one writes.
pub(super) const ROOMS: usize = 2;

impl Client {
    /// Something was received: carries it to the tun together with what is queued behind it.
    pub(super) fn drain_socket(&mut self, now: Instant) {
        let (mut count, mut bytes) = (1, self.datagrams.len);
        let mut result = self.on_datagrams(now);
        if self.config.common.offload && !self.alone.ends_turn() {
            while result.is_ok() && count < MAX_RECEIVES && bytes < MAX_BYTES {
                if !self.datagrams.make_room(self.inbound.start()) {
                    result = self.flush();
                }
                // An error that lasts is reported by the call that waits.
                if self.socket.receive_queued(&mut self.datagrams).is_err() {
                    break;
                }
                result = result.and(self.on_datagrams(now));
                count += 1;
                bytes += self.datagrams.len;
            }
            self.alone.found(count);
        }
        if self.inbound.start().is_some() {
            // After an error too: nothing may wait from here on.
            let flushed = self.flush();
            result = result.and(flushed);
        }
        self.trouble.received(None, &mut self.received);
        if result == Err(Trouble::Gone) {
            self.device_gone(now);
        }
    }

    fn on_datagrams(&mut self, now: Instant) -> Result<(), Trouble> {
        let is_origin = |server: &Target| server.is_origin_of(&self.datagrams);
        let is_servers = !self.datagrams.truncated && self.server.as_ref().is_some_and(is_origin);
        if !is_servers && !self.take_if_found(now) {
            self.received.count.dropped += 1;
            if let Some(held_back) = self.throttles.foreign.pass(now) {
                let from = &self.datagrams.from;
                log::debug(format_args!(
                    "dropped a datagram from {from}: not the server{held_back}"
                ));
            }
            return Ok(());
        }
        let mut result = Ok(());
        for range in self.datagrams.ranges() {
            let datagram = &self.datagrams.data[range.clone()];
            let Some((id, payload)) = packet::decapsulate(datagram) else {
                self.received.count.dropped += 1;
                continue;
            };
            let packet = if self.link.is_some() {
                self.on_keyed(range, id, now)
            } else {
                self.on_plain(range, id, Payload::of(payload), now)
            };
            // One place for both: what is called from two is not compiled into either.
            if let Some(at) = packet {
                result = result.and(self.deliver(at));
            }
        }
        result
    }

    /// Something on a plain link. Returns where in the receive buffer a packet for the tun lies.
    #[inline]
    fn on_plain(
        &mut self,
        at: Range<usize>,
        id: PeerId,
        payload: Payload,
        now: Instant,
    ) -> Option<Range<usize>> {
        if payload == Payload::Keyed || !self.accepts(id, payload, now) {
            self.received.count.dropped += 1;
            self.log_unaccepted(id, payload, now);
            return None;
        }
        let is_news = match payload {
            Payload::Answer(counter) => self.keepalive.answered(counter, now),
            _ => false,
        };
        if self.keepalive.heard(now) || is_news {
            let from = &self.datagrams.from;
            log::info(format_args!("server {id} answers from {from}"));
        }
        match payload {
            Payload::Packet => return Some(at.start + HEADER_LEN..at.end),
            Payload::Keepalive(counter) => {
                let answer = packet::answer(self.id, counter);
                if let Some(server) = &self.server
                    && let Err(error) = self.socket.send(&answer, server)
                {
                    self.trouble.lost(error, server, now);
                }
            }
            Payload::Answer(_) | Payload::Alive | Payload::Keyed | Payload::Other => {}
        }
        None
    }

    /// Takes the packet in this part of the receive buffer to the tun.
    #[inline]
    fn deliver(&mut self, at: Range<usize>) -> Result<(), Trouble> {
        let Some(tun) = &self.tun else {
            self.received.count.dropped += 1;
            return Ok(());
        };
        let buffer = &self.datagrams.data;
        self.inbound.push(tun, buffer, at, &mut self.received)
    }

    /// Whether this is the server's, on a plain link: authorised, or with `-A` the first that answers
    /// a keepalive, until another does after a silence.
    #[inline(always)]
    pub(super) fn accepts(&mut self, id: PeerId, payload: Payload, now: Instant) -> bool {
        if !self.config.accept_any {
            return self.authorized.is_plain(id) || self.admits_plain(id, now);
        }
        if self.keepalive.is_searching()
            && matches!(payload, Payload::Answer(counter) if self.keepalive.awaits(counter))
        {
            self.trusted = Some(id);
        }
        // Without keepalives there are no answers.
        self.trusted == Some(id) || self.config.keepalive.is_none()
    }

    /// The same of one that memory does not know as plain.
    #[cold]
    fn admits_plain(&mut self, id: PeerId, now: Instant) -> bool {
        let grant = self.authorized.admits(id, now);
        if matches!(grant, Some(Grant::Keyed(_))) {
            // Its file is new: from now on it is spoken with as the file says.
            self.choose = true;
            self.timeout.reset();
        }
        matches!(grant, Some(Grant::Plain))
    }

    #[cold]
    fn log_unaccepted(&mut self, id: PeerId, payload: Payload, now: Instant) {
        let fault = match (payload, self.config.accept_any, self.trusted) {
            (Payload::Keyed, _, _) => "of a keyed link, and its file here has no key",
            (_, false, _) if self.choose => return,
            (_, false, _) => "not authorised",
            (_, true, Some(_)) => "another one has answered",
            // The first answer is still to come.
            (_, true, None) => return,
        };
        if let Some(held_back) = self.throttles.unauthorized.pass(now) {
            let from = &self.datagrams.from;
            log::warning(format_args!(
                "dropped a datagram of server {id} from {from}: {fault}{held_back}"
            ));
        }
    }

    /// Writes the packets that have gathered.
    fn flush(&mut self) -> Result<(), Trouble> {
        let Some(tun) = &self.tun else {
            return Ok(());
        };
        let (buffer, tally) = (&self.datagrams.data, &mut self.received);
        self.inbound.flush(tun, buffer, tally)
    }
}
