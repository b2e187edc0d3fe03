//! Datagrams of clients whose file has a key. What they mean only the client's link can say.

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::keyed::secret::Secret;
use common::keyed::server::Decision;
use common::report::log;
use common::sys;
use common::wire::id::PeerId;

use super::Server;
use super::forward::roam;
use crate::clients::Slot;
use crate::link::Link;

/// How often old sessions are looked for.
const ERASE_INTERVAL: Duration = Duration::from_secs(60);

impl Server {
    /// From a client with a device. The answer goes to where the datagram came from, which need not
    /// be the client. Returns where in the receive buffer a packet for the device lies.
    #[inline(never)]
    pub(super) fn on_keyed(
        &mut self,
        slot: Slot,
        at: Range<usize>,
        now: Instant,
    ) -> Option<Range<usize>> {
        let client = self.clients.get(slot)?;
        let link = client.link.as_mut()?;
        let datagram = &mut self.datagrams.data[at.clone()];
        let decision = link
            .keyed
            .on_datagram(datagram, now, true, &mut sys::try_random);
        let (moves, answer, packet) = match decision {
            Ok(Decision::Data { packet, moves }) => (moves, None, Some(packet)),
            Ok(Decision::Ping { answer, moves }) => (moves, Some(answer), None),
            Ok(Decision::Opened(answer)) => {
                link.opened(self.datagrams.from, now);
                (true, Some(answer), None)
            }
            Ok(Decision::Answer(answer)) => {
                if link.is_answer_due(now) {
                    self.answer(&answer, now);
                }
                return None;
            }
            Err(reason) => {
                client.received.count.dropped += 1;
                link.discard(reason, self.datagrams.from, now);
                return None;
            }
        };
        client.heard = now;
        if moves && !client.target.is_origin_of(&self.datagrams) {
            roam(client, &self.datagrams, &self.socket, now);
        }
        if let Some(answer) = answer
            && client.is_answer_due(now)
        {
            self.answer(&answer, now);
            self.erase_later(now);
        }
        let packet = packet?;
        Some(at.start + packet.start..at.start + packet.end)
    }

    /// From a client without a device. It gets one when it has shown that it has the key.
    #[cold]
    pub(super) fn on_newcomer(
        &mut self,
        id: PeerId,
        secret: Rc<Secret>,
        at: Range<usize>,
        now: Instant,
    ) {
        let own = self.id;
        let link = self
            .waiting
            .get_or_insert_with(id, || Link::new(secret, id, own, now));
        let may_open = now >= self.next_tun && !self.losses.hold_back(id, now);
        let datagram = &mut self.datagrams.data[at];
        let decision = link
            .keyed
            .on_datagram(datagram, now, may_open, &mut sys::try_random);
        match decision {
            Ok(Decision::Opened(answer)) => {
                link.opened(self.datagrams.from, now);
                let link = self.waiting.take(id);
                if self.make_client(id, link, now).is_some() {
                    self.answer(&answer, now);
                    self.erase_later(now);
                }
            }
            Ok(Decision::Answer(answer)) => {
                if link.is_answer_due(now) {
                    self.answer(&answer, now);
                }
            }
            Err(reason) => {
                self.discards.keyed += 1;
                link.discard(reason, self.datagrams.from, now);
            }
            // There is no session without a device.
            Ok(Decision::Data { .. } | Decision::Ping { .. }) => {}
        }
    }

    /// A client without a key sent what only keyed ones send.
    #[cold]
    pub(super) fn on_stray_keyed(&mut self, id: PeerId, now: Instant) {
        self.discards.keyed += 1;
        if let Some(held_back) = self.throttles.keyed.pass(id, now) {
            let from = &self.datagrams.from;
            log::warning(format_args!(
                "client {id}: dropped a packet of a keyed link from {from}: its file here has no \
                 key{held_back}"
            ));
        }
    }

    fn answer(&mut self, datagram: &[u8], now: Instant) {
        let (from, source) = (self.datagrams.from.decode(), self.datagrams.source());
        let target = self.socket.target(from, source);
        if let Err(error) = self.socket.send(datagram, &target) {
            self.trouble.lost(error, &target, now);
        }
    }

    fn erase_later(&mut self, now: Instant) {
        self.next_erase.get_or_insert(now + ERASE_INTERVAL);
    }

    /// Erases the keys of sessions that are too old, wherever there are any.
    #[cold]
    pub(super) fn erase_sessions(&mut self, now: Instant) {
        let links = self.clients.iter().filter_map(|(_, c)| c.link.as_mut());
        let mut left = false;
        for link in links {
            left |= link.keyed.erase(now);
        }
        self.next_erase = left.then_some(now + ERASE_INTERVAL);
    }
}
