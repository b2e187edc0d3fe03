//! The server's side of one keyed client.

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::cipher::{KEY_LEN, Key, Public, public};
use super::derivation::{Pair, SessionKeys};
use super::discard::Discard;
use super::handshake::{self, CHALLENGE, Content, Handshake};
use super::secret::{Secret, Word};
use super::session::{self, DATA, Empty, HEADER_LEN, Header, Message, Name, Opener, Sealer};
use super::{Id, Random, TAG_LEN};

/// A session of this age is of no more use.
pub(super) const LIFE: Duration = Duration::from_secs(1800);
/// For so long what is still under way from the session before is taken.
const OVERLAP: Duration = Duration::from_secs(60);
/// Sessions are not made more often, whoever asks.
const PACE: Duration = Duration::from_millis(1000);
/// How often old sessions are looked for, so that their keys are erased.
const ERASE_INTERVAL: Duration = Duration::from_secs(60);
/// Nudges in a second.
const NUDGES: u8 = 20;

/// What to do about a datagram of the client.
pub enum Decision {
    /// Nothing, but count it.
    Drop(Discard),
    /// Send this to where the datagram came from. Nothing else changes.
    Answer(Answer),
    /// There is a new session: the client's address is the datagram's source; make the tun if there
    /// is none; then send this there.
    Opened(Answer),
    /// Send this to the source of the client's ping; if it `moves`, that is the client's address.
    Ping {
        /// The answer.
        answer: Answer,
        /// Whether the source is the client's address from now on.
        moves: bool,
    },
    /// The packet at this range of the datagram is for the tun.
    Data {
        /// Where it is, decrypted in place.
        packet: Range<usize>,
        /// Whether the source is the client's address from now on.
        moves: bool,
    },
}

/// A datagram to send.
pub enum Answer {
    /// A CHAL.
    Challenge(Handshake),
    /// A DATA without payload.
    Empty(Empty),
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Challenge(bytes) => bytes,
            Self::Empty(bytes) => bytes,
        }
    }
}

/// What is held for a client that has a key.
pub struct Server {
    pair: Pair,
    challenge: Option<Challenge>,
    session: Option<Session>,
    previous: Option<Box<Receiver>>,
    /// When a challenge was used up last.
    opened: Option<Instant>,
    /// The second that began then has seen so many nudges.
    nudges: Option<(Instant, u8)>,
    /// When to look for old sessions.
    erase: Option<Instant>,
}

/// A key pair that waits for the client to use it, once.
struct Challenge {
    private: Key,
    public: Public,
}

struct Session {
    ec: Public,
    es: Public,
    /// The highest of the OPENs that were for it.
    number: u32,
    made: Instant,
    down: Sealer,
    receiver: Box<Receiver>,
}

/// The receiving half of a session, which outlives the sending one.
struct Receiver {
    word: Word,
    name: Name,
    /// Not taken from then on.
    until: Instant,
    data: Opener,
    ping: Key,
    highest_ping: u32,
}

impl Receiver {
    fn is_live(&self, name: Name, now: Instant) -> bool {
        self.name == name && now < self.until
    }

    /// Opens a DATA or PING. Returns whether its counter is the highest so far of its kind.
    #[inline]
    fn open(&mut self, header: Header, datagram: &mut [u8]) -> Result<bool, Discard> {
        if !header.is_ping {
            return self.data.open(header.counter, datagram);
        }
        if header.counter <= self.highest_ping {
            return Err(Discard::Replayed);
        }
        session::open(self.word, &self.ping, header.counter, datagram)?;
        self.highest_ping = header.counter;
        Ok(true)
    }
}

impl Server {
    /// For a client with this secret.
    pub fn new(secret: impl Into<Rc<Secret>>, client: Id, server: Id) -> Self {
        Self {
            pair: Pair::new(secret, client, server),
            challenge: None,
            session: None,
            previous: None,
            opened: None,
            nudges: None,
            erase: None,
        }
    }

    /// The word and key of the client.
    pub fn secret(&self) -> &Secret {
        &self.pair.secret
    }

    /// How long the session has stood, if there is one that can be used.
    pub fn session_age(&self, now: Instant) -> Option<Duration> {
        let session = self.session.as_ref()?;
        let age = now.saturating_duration_since(session.made);
        (age < LIFE).then_some(age)
    }

    /// Judges a datagram that begins with the client's identifier; a packet in it is decrypted in
    /// place. `may_open` says, when a session would be made, whether there is a tun or can be one.
    #[inline]
    pub fn on_datagram(
        &mut self,
        datagram: &mut [u8],
        now: Instant,
        may_open: &mut dyn FnMut() -> bool,
        random: Random<'_>,
    ) -> Decision {
        let decision = match Message::of(datagram) {
            Ok(Message::Packet(header)) => self.on_packet(header, datagram, now, random),
            Ok(Message::Open(bytes)) => self.on_open(bytes, now, may_open, random),
            Ok(Message::Challenge(_)) => Err(Discard::Malformed),
            Err(discard) => Err(discard),
        };
        decision.unwrap_or_else(Decision::Drop)
    }

    fn on_packet(
        &mut self,
        header: Header,
        datagram: &mut [u8],
        now: Instant,
        random: Random<'_>,
    ) -> Result<Decision, Discard> {
        // Two sessions have the same name once in millions: then either may be meant.
        let mut opened = Err(Discard::NoSession);
        if let Some(session) = &mut self.session
            && session.receiver.is_live(header.name, now)
        {
            opened = session.receiver.open(header, datagram);
        }
        if opened.is_err()
            && let Some(previous) = &mut self.previous
            && previous.is_live(header.name, now)
        {
            // Whoever is heard under it may have moved since.
            opened = previous.open(header, datagram).map(|_| false);
        }
        let moves = match opened {
            Err(Discard::NoSession) => return self.nudge(datagram, now, random),
            Err(discard) => return Err(discard),
            Ok(moves) => moves,
        };
        if header.is_ping {
            let answer = self.empty(now).ok_or(Discard::NoSession)?;
            return Ok(Decision::Ping { answer, moves });
        }
        let packet = session::payload(datagram)?.ok_or(Discard::NotIp)?;
        Ok(Decision::Data { packet, moves })
    }

    #[cold]
    fn on_open(
        &mut self,
        bytes: &Handshake,
        now: Instant,
        may_open: &mut dyn FnMut() -> bool,
        random: Random<'_>,
    ) -> Result<Decision, Discard> {
        let open = handshake::decode(bytes, &self.pair.open).ok_or(Discard::WrongTag)?;
        if self.session_age(now).is_some()
            && let Some(session) = &mut self.session
            && (session.ec, session.es) == (open.ec, open.es)
        {
            // The first answer was lost, or this is a replay, which must not use up the answer to
            // the client's next.
            if open.number <= session.number {
                return Err(Discard::Replayed);
            }
            session.number = open.number;
            let empty = session.down.empty().ok_or(Discard::NoSession)?;
            return Ok(Decision::Answer(Answer::Empty(empty)));
        }
        if self.is_challenge(&open.es) {
            let is_soon = |at| now.saturating_duration_since(at) < PACE;
            if self.opened.is_some_and(is_soon) || !may_open() {
                return Err(Discard::NotNow);
            }
            return self.open_session(&open, now);
        }
        self.challenge(open.number, open.ec, random)
    }

    fn is_challenge(&self, es: &Public) -> bool {
        self.challenge
            .as_ref()
            .is_some_and(|challenge| challenge.public == *es)
    }

    fn open_session(&mut self, open: &Content, now: Instant) -> Result<Decision, Discard> {
        // Used up by whatever follows.
        let challenge = self.challenge.take().ok_or(Discard::Stray)?;
        self.opened = Some(now);
        let both = (&open.ec, &challenge.public);
        let keys = self.pair.session(&challenge.private, &open.ec, both);
        let SessionKeys {
            word,
            data,
            ping,
            down,
            name,
        } = keys.ok_or(Discard::WeakKey)?;
        let mut down = Sealer::new(word, down, self.pair.server, DATA, name);
        let answer = down.empty().ok_or(Discard::NoSession)?;
        let session = Session {
            ec: open.ec,
            es: challenge.public,
            number: open.number,
            made: now,
            down,
            receiver: Box::new(Receiver {
                word,
                name,
                until: now + LIFE,
                data: Opener::new(word, data),
                ping,
                highest_ping: 0,
            }),
        };
        self.previous = self.session.replace(session).map(|old| old.receiver);
        if let Some(previous) = &mut self.previous {
            previous.until = previous.until.min(now + OVERLAP);
        }
        self.erase.get_or_insert(now + ERASE_INTERVAL);
        Ok(Decision::Opened(Answer::Empty(answer)))
    }

    /// The answer to what can't be read: at a bounded rate, since anybody can send it.
    #[cold]
    fn nudge(
        &mut self,
        datagram: &[u8],
        now: Instant,
        random: Random<'_>,
    ) -> Result<Decision, Discard> {
        let is_this_second = |start| now.saturating_duration_since(start) < Duration::from_secs(1);
        let (start, nudges) = self
            .nudges
            .filter(|(start, _)| is_this_second(*start))
            .unwrap_or((now, 0));
        if nudges >= NUDGES {
            return Err(Discard::NoSession);
        }
        self.nudges = Some((start, nudges + 1));
        let mut echo = [0; KEY_LEN];
        let (header, tag) = echo.split_at_mut(HEADER_LEN);
        header.copy_from_slice(
            datagram
                .first_chunk::<HEADER_LEN>()
                .ok_or(Discard::Malformed)?,
        );
        tag.copy_from_slice(datagram.last_chunk::<TAG_LEN>().ok_or(Discard::Malformed)?);
        self.challenge(0, echo, random)
    }

    /// A CHAL with the standing challenge, which is made if there is none.
    fn challenge(
        &mut self,
        number: u32,
        echo: Public,
        random: Random<'_>,
    ) -> Result<Decision, Discard> {
        let challenge = match &self.challenge {
            Some(challenge) => challenge,
            None => {
                let mut private = Key::new([0; KEY_LEN]);
                if !random(private.bytes_mut()) {
                    return Err(Discard::NoRandom);
                }
                let public = public(&private);
                self.challenge.insert(Challenge { private, public })
            }
        };
        let content = Content {
            number,
            ec: echo,
            es: challenge.public,
        };
        let bytes = handshake::encode(&self.pair.server, CHALLENGE, &content, &self.pair.challenge);
        Ok(Decision::Answer(Answer::Challenge(bytes)))
    }

    /// What makes datagrams of packets for the client, if there is a session.
    #[inline]
    pub fn sealer(&mut self, now: Instant) -> Option<&mut Sealer> {
        let session = self.session.as_mut()?;
        (now < session.receiver.until).then_some(&mut session.down)
    }

    #[cfg(test)]
    pub(super) fn seal(&mut self, slot: &mut [u8], now: Instant) -> bool {
        self.sealer(now).is_some_and(|sealer| sealer.seal(slot))
    }

    fn empty(&mut self, now: Instant) -> Option<Answer> {
        self.sealer(now)?.empty().map(Answer::Empty)
    }

    /// When [`Self::erase`] is to be called.
    pub fn next_erase(&self) -> Option<Instant> {
        self.erase
    }

    /// Erases the sessions that are too old, if it is time.
    pub fn erase(&mut self, now: Instant) {
        if self.erase.is_none_or(|at| now < at) {
            return;
        }
        self.previous.take_if(|receiver| now >= receiver.until);
        self.session
            .take_if(|session| now >= session.receiver.until);
        let is_left = self.session.is_some() || self.previous.is_some();
        self.erase = is_left.then_some(now + ERASE_INTERVAL);
    }

    /// Forgets the sessions and the challenge: the tun is gone.
    pub fn forget(&mut self) {
        self.challenge = None;
        self.session = None;
        self.previous = None;
        self.erase = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a keyed client costs the server's memory.
    #[test]
    fn small() {
        assert!(size_of::<Server>() + size_of::<Receiver>() <= 800);
        assert!(size_of::<Receiver>() <= 360, "once more for a minute");
    }
}
