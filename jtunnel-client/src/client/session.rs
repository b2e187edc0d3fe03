//! The link to keyed servers: which they are, the sessions with them, and the child of each session.

use std::mem::replace;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::io::target::Target;
use common::keyed::client::{Client as Keyed, Decision, Due, Up};
use common::keyed::discard::Discard;
use common::keyed::secret::{Secret, Word};
use common::keyed::status::Status;
use common::peers::authorized::Grant;
use common::peers::dropped::Dropped;
use common::report::log;
use common::report::throttle::Throttle;
use common::startup::program::Program;
use common::sys;
use common::wire::id::PeerId;

use super::Client;

/// While no file can be used, how often new ones are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// What is kept of the keyed servers.
pub(super) struct Link {
    /// The protocol.
    keyed: Keyed,
    /// Whether a session was told of since the files changed.
    told: bool,
    /// Whether the last OPEN has left.
    opened: nix::Result<()>,
    dropped: Dropped,
    randomless: Throttle,
}

impl Link {
    fn new(keyed: Keyed) -> Self {
        Self {
            keyed,
            told: false,
            opened: Ok(()),
            dropped: Dropped::default(),
            randomless: Throttle::per_minute(),
        }
    }

    #[cold]
    fn discard(&mut self, reason: Discard, id: PeerId, from: impl std::fmt::Display, now: Instant) {
        let Some(held_back) = self.dropped.add(reason, now) else {
            return;
        };
        match reason {
            Discard::WrongTag => log::warning(format_args!(
                "dropped a handshake of server {id} from {from} with another key, word or \
                 identifier than here{held_back}"
            )),
            Discard::Plain => log::warning(format_args!(
                "dropped a plain packet of server {id} from {from}: its file here has a \
                 key{held_back}"
            )),
            _ => log::warning(format_args!(
                "dropped a datagram of server {id} from {from}: {reason}{held_back}"
            )),
        }
    }
}

impl Client {
    /// Takes the servers with the strongest protection among the files, and no other. What was spoken
    /// once is the least from then on, whatever the files say later: nobody who can write there for
    /// a moment opens a link that was closed.
    pub(super) fn choose_servers(&mut self, now: Instant) {
        if self.config.accept_any {
            return;
        }
        self.take_strongest(now);
        let is_mute = self.is_mute();
        self.next_look = is_mute.then_some(now + LOOK_INTERVAL);
        if self.link.is_none() && !is_mute && self.sender_start.is_none() {
            // It may have been mute before.
            self.start_sender(now);
        }
        if is_mute {
            self.stop_sender();
            let directory = self.config.common.directory.join(Self::PEERS);
            log::warning(format_args!(
                "nothing is sent: no file in {} can be used",
                directory.display()
            ));
        }
    }

    /// Without a server to speak with nothing comes that would make it look for new files.
    pub(super) fn look_again(&mut self, now: Instant) {
        match self.authorized.look_again(now) {
            true => self.choose_servers(now),
            false => self.next_look = Some(now + LOOK_INTERVAL),
        }
    }

    fn take_strongest(&mut self, now: Instant) {
        let secrets = self
            .authorized
            .grants()
            .filter_map(|(id, grant)| match grant {
                Grant::Plain => None,
                Grant::Keyed(secret) => Some((id, secret)),
            });
        let secrets: Vec<(PeerId, Rc<Secret>)> = secrets.collect();
        let strongest = secrets.iter().map(|(_, secret)| secret.word()).max();
        let is_stronger = strongest > self.word;
        self.word = self.word.max(strongest);
        if self.word.is_none() && !self.config.common.keyed_only {
            for (id, _) in self.authorized.grants() {
                log::info(format_args!("server {id}: PLAIN"));
            }
            return;
        }
        let is_enough = |secret: &Secret| Some(secret.word()) == self.word;
        let count = self.authorized.count();
        let chosen: Vec<_> = secrets
            .iter()
            .filter(|(_, secret)| is_enough(secret))
            .map(|(id, secret)| (id.bytes(), Rc::clone(secret)))
            .collect();
        if chosen.len() < count {
            let (ignored, word) = (count - chosen.len(), name(self.word));
            log::warning(format_args!(
                "ignored {ignored} servers whose file protects less than {word}"
            ));
        }
        for (id, secret) in secrets.iter().filter(|(_, secret)| is_enough(secret)) {
            log::info(format_args!("server {id}: {secret}"));
        }
        let (own, interval) = (self.id.bytes(), self.config.keepalive);
        let had_session = match &mut self.link {
            Some(link) => {
                let had_session = link.keyed.set_servers(chosen);
                link.told &= !had_session;
                had_session
            }
            None => {
                self.link = Some(Box::new(Link::new(Keyed::new(own, chosen, interval))));
                true
            }
        };
        if had_session {
            self.stop_sender();
        }
        if is_stronger && self.server.is_some() {
            // PROG is to see it.
            self.close_device(now);
        }
        self.timeout.reset();
    }

    /// Whether no server is authorised with whom to speak.
    pub(super) fn is_mute(&self) -> bool {
        match &self.link {
            Some(link) => link.keyed.word().is_none(),
            None => !self.config.accept_any && self.authorized.refuses_all(),
        }
    }

    /// How the link is protected: `plain`, `sign` or `seal`.
    pub(super) fn protection(&self) -> &'static str {
        name(self.word)
    }

    /// For the report: the protection, how old the session is, and what was dropped.
    pub(super) fn session_status(&self, now: Instant) -> Status<'_> {
        let Some(link) = &self.link else {
            return Status::PLAIN;
        };
        Status {
            protection: self.protection(),
            session_age: link.keyed.session_age(now),
            discarded: Some(link.dropped.counts()),
        }
    }

    /// When the link has something to do.
    pub(super) fn session_deadline(&self, now: Instant) -> Option<Instant> {
        let link = self.link.as_ref().filter(|_| self.server.is_some())?;
        link.keyed.deadline(now)
    }

    pub(super) fn on_session_deadline(&mut self, now: Instant) {
        while self.session_deadline(now).is_some_and(|at| now >= at) {
            let Some(link) = &mut self.link else {
                return;
            };
            link.keyed.set_addresses(self.addresses.len());
            match link.keyed.on_deadline(now, &mut sys::try_random) {
                Due::Nothing => return,
                Due::Open(open) => self.send_open(&open, now),
                Due::Expired => {
                    log::warning(format_args!("the session is too old, nothing is sent"));
                    self.stop_sender();
                }
                Due::NoRandom => {
                    if let Some(held_back) = link.randomless.pass(now) {
                        log::warning(format_args!("waiting for random numbers{held_back}"));
                    }
                }
            }
        }
    }

    fn send_open(&mut self, open: &[u8], now: Instant) {
        let sent = self.probe(open, now);
        if let Some(link) = &mut self.link {
            link.opened = sent;
        }
    }

    /// Sends the PING that is a keyed link's keepalive. Without a session its OPENs stand for it,
    /// and what became of the last one.
    pub(super) fn send_ping(&mut self, now: Instant) -> nix::Result<()> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        match link.keyed.ping() {
            Some(ping) => self.probe(&ping, now),
            None => link.opened,
        }
    }

    /// There is to be a new child: the key of the last one is in no other hands, so a new session
    /// comes first.
    pub(super) fn renew_session(&mut self) {
        if let Some(link) = &mut self.link {
            link.keyed.renew();
            self.timeout.reset();
        }
    }

    /// A datagram of a server, at this place in the receive buffer. Returns where in the buffer the
    /// packet is that it brings for the tun.
    #[inline(never)]
    pub(super) fn on_keyed(
        &mut self,
        at: Range<usize>,
        id: PeerId,
        now: Instant,
    ) -> Option<Range<usize>> {
        let link = self.link.as_mut()?;
        let datagram = &mut self.datagrams.data[at.clone()];
        let decision = link.keyed.on_datagram(datagram, now, &mut sys::try_random);
        let packet = match decision {
            Ok(Decision::Data(packet)) => {
                self.keepalive.heard(now);
                packet
            }
            Ok(Decision::Heard) => {
                // Nothing but a PING of ours, or an OPEN, makes a server say nothing.
                let is_news = self.keepalive.heard(now);
                if self.take_address() {
                    self.renew_session();
                }
                if self.keepalive.answered_last(now) || is_news {
                    let from = &self.datagrams.from;
                    log::info(format_args!("server {id} answers from {from}"));
                }
                return None;
            }
            Ok(Decision::Up(up)) => self.session_up(*up, id, now)?,
            Ok(Decision::Open(open)) => {
                self.take_address();
                self.send(&open, now);
                self.timeout.reset();
                return None;
            }
            Err(reason) => {
                self.received.count.dropped += 1;
                link.discard(reason, id, self.datagrams.from, now);
                return None;
            }
        };
        Some(at.start + packet.start..at.start + packet.end)
    }

    /// In a search the address that an authentic datagram came from is the one in use from now on.
    /// True if that is another one: what is still sent to the old one is lost.
    fn take_address(&mut self) -> bool {
        let is_origin = |server: &Target| server.is_origin_of(&self.datagrams);
        if self.server.as_ref().is_some_and(is_origin) {
            return false;
        }
        let Some(address) = self.searched_address() else {
            return false;
        };
        self.leave_for(address);
        true
    }

    fn send(&mut self, datagram: &[u8], now: Instant) {
        if let Some(server) = &self.server
            && let Err(error) = self.socket.send(datagram, server)
        {
            self.trouble.lost(error, server, now);
        }
    }

    #[cold]
    fn session_up(&mut self, up: Up, id: PeerId, now: Instant) -> Option<Range<usize>> {
        self.take_address();
        let (word, from) = (self.protection(), &self.datagrams.from);
        let told = self
            .link
            .as_mut()
            .is_some_and(|link| replace(&mut link.told, true));
        let is_news = self.keepalive.heard(now);
        if self.keepalive.answered_last(now) || is_news || !told {
            log::info(format_args!(
                "server {id} answers from {from}, {word} session up"
            ));
        } else {
            log::debug(format_args!("server {id}: {word} session up"));
        }
        // The server learns from it that this is the client's address, and nobody else's.
        self.send(&up.ping, now);
        self.stop_sender();
        self.sealer = Some(up.sealer);
        self.start_sender(now);
        self.timeout.reset();
        up.packet
    }
}

fn name(word: Option<Word>) -> &'static str {
    word.map_or("plain", Word::name)
}
