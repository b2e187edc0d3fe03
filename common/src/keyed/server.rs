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
    use super::super::session::PING;
    use super::super::testing::{
        Both, CLIENT, SERVER, WEAK, WORDS, all, discarded, packet, secret, secret_of, slot,
    };
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A packet of the client's child.
    fn data(sealer: &mut Sealer) -> Vec<u8> {
        let mut data = slot(&packet());
        assert!(sealer.seal(&mut data));
        data
    }

    fn moves(decision: &Decision) -> Option<bool> {
        match decision {
            Decision::Data { moves, .. } | Decision::Ping { moves, .. } => Some(*moves),
            _ => None,
        }
    }

    fn is_nudge(decision: &Decision) -> bool {
        matches!(decision, Decision::Answer(Answer::Challenge(bytes)) if bytes[12..16] == [0; 4])
    }

    /// What a keyed client costs the server's memory.
    #[test]
    fn small() {
        assert!(size_of::<Server>() + size_of::<Receiver>() <= 800);
        assert!(size_of::<Receiver>() <= 360, "once more for a minute");
    }

    #[test]
    fn every_bit_of_an_open() {
        for word in WORDS {
            let mut both = Both::new(word);
            let asking = both.open();
            let challenge = both.challenge(&asking);
            let accepting = both.accept(&challenge);
            for open in [asking, accepting] {
                for bit in 8 * 8..8 * open.len() {
                    let mut flipped = open;
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    let decision = both.at_server(&flipped);
                    // With another type it is a packet of no session.
                    let wanted = matches!(
                        discarded(&decision),
                        Some(Discard::WrongTag | Discard::Malformed)
                    );
                    assert!(wanted || bit / 8 == 8 && is_nudge(&decision), "bit {bit}");
                }
                for len in 0..open.len() {
                    assert!(discarded(&both.at_server(&open[..len])).is_some(), "{len}");
                }
                let long = [&open[..], &[0]].concat();
                assert_eq!(discarded(&both.at_server(&long)), Some(Discard::Malformed));
            }
            assert!(both.server.session.is_none());
            both.opened(&accepting);
        }
    }

    #[test]
    fn every_bit_of_a_packet() {
        for word in WORDS {
            let mut both = Both::new(word);
            let mut up = both.connect();
            let data = data(&mut up.sealer);
            for datagram in [&data[..], &up.ping] {
                // The identifier is the caller's to look up; the type and the name decide on what
                // is done.
                for bit in (8 * 8..8 * datagram.len()).rev() {
                    let mut flipped = datagram.to_vec();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    let decision = both.at_server(&flipped);
                    let is_name = (9 * 8..12 * 8).contains(&bit);
                    assert!(
                        discarded(&decision).is_some() || is_name && is_nudge(&decision),
                        "bit {bit}"
                    );
                    // Nothing is spliced.
                    both.now += seconds(1);
                }
            }
            assert_eq!(moves(&both.at_server(&data)), Some(true));
            assert_eq!(discarded(&both.at_server(&data)), Some(Discard::Replayed));
            assert_eq!(moves(&both.at_server(&up.ping)), Some(true));
            assert_eq!(
                discarded(&both.at_server(&up.ping)),
                Some(Discard::Replayed)
            );
        }
    }

    /// Of a plain link, of the server itself, of the other kind.
    #[test]
    fn what_a_client_does_not_send() {
        let mut both = Both::new(Word::Seal);
        let open = both.open();
        let challenge = both.challenge(&open);
        assert_eq!(
            discarded(&both.at_server(&challenge)),
            Some(Discard::Malformed)
        );
        both.now += seconds(1);
        let mut up = both.connect();
        let plain = [&CLIENT[..], &packet()].concat();
        assert_eq!(discarded(&both.at_server(&plain)), Some(Discard::Plain));
        // Reflected.
        let mut down = slot(&packet());
        assert!(both.server.seal(&mut down, both.now));
        assert_eq!(discarded(&both.at_server(&down)), Some(Discard::Forged));
        let mut data = data(&mut up.sealer);
        data[8] = PING;
        data.drain(HEADER_LEN..data.len() - TAG_LEN);
        assert_eq!(discarded(&both.at_server(&data)), Some(Discard::Forged));
        // The right tag on what is no IP packet, or nothing.
        for packet in [&b""[..], b"\x00", b"\x01\x02\x03\x04\x05", b"\x51"] {
            let mut data = slot(packet);
            assert!(up.sealer.seal(&mut data));
            assert_eq!(discarded(&both.at_server(&data)), Some(Discard::NotIp));
        }
    }

    #[test]
    fn one_key_under_two_words() {
        let (mut seal, mut sign) = (Both::new(Word::Seal), Both::new(Word::Sign));
        let (open, other) = (seal.open(), sign.open());
        assert_eq!(discarded(&sign.at_server(&open)), Some(Discard::WrongTag));
        assert_eq!(discarded(&seal.at_server(&other)), Some(Discard::WrongTag));
        (seal.now, sign.now) = (seal.now + seconds(1), sign.now + seconds(1));
        // Even if the name were the same.
        let (mut up, mut down) = (seal.connect(), sign.connect());
        let (mut data, mut other) = (data(&mut up.sealer), data(&mut down.sealer));
        for byte in 9..12 {
            (data[byte], other[byte]) = (other[byte], data[byte]);
        }
        assert_eq!(discarded(&seal.at_server(&other)), Some(Discard::Forged));
        assert_eq!(discarded(&sign.at_server(&data)), Some(Discard::Forged));
    }

    /// However many OPENs: one challenge, and no session.
    #[test]
    fn flood_of_opens() {
        let mut both = Both::new(Word::Seal);
        let open = both.open();
        let mut drawn = 0;
        let mut challenges = Vec::new();
        for number in 0..1000u32 {
            let mut forged = open;
            forged[12..16].copy_from_slice(&number.to_be_bytes());
            for open in [&mut forged, &mut open.clone()] {
                let random = &mut |bytes: &mut [u8]| {
                    drawn += 1;
                    all(ES)(bytes)
                };
                match both
                    .server
                    .on_datagram(open, both.now, &mut || panic!("asked"), random)
                {
                    Decision::Answer(answer) => challenges.push(answer.as_ref().to_vec()),
                    decision => assert_eq!(discarded(&decision), Some(Discard::WrongTag)),
                }
            }
        }
        assert_eq!(drawn, 1, "one key pair");
        assert!(challenges.iter().all(|bytes| bytes == &challenges[0]));
        assert!(both.server.session.is_none() && both.server.previous.is_none());
    }
    const ES: u8 = 0x22;

    /// A challenge is used once. A second answer to an OPEN needs a higher number.
    #[test]
    fn open_again() {
        let mut both = Both::new(Word::Sign);
        let first = both.open();
        let challenge = both.challenge(&first);
        let accepting = both.accept(&challenge);
        both.opened(&accepting);
        assert_eq!(
            discarded(&both.at_server(&accepting)),
            Some(Discard::Replayed)
        );
        both.now += seconds(1);
        let repeated = both.open();
        assert_eq!(repeated[16..80], accepting[16..80]);
        let decision = both.at_server(&repeated);
        assert!(matches!(decision, Decision::Answer(Answer::Empty(_))));
        assert_eq!(
            discarded(&both.at_server(&repeated)),
            Some(Discard::Replayed)
        );
        assert_eq!(
            discarded(&both.at_server(&accepting)),
            Some(Discard::Replayed)
        );
        // The first one gets another challenge, and the session stands.
        let other = both.challenge(&first);
        assert_ne!(other[48..80], challenge[48..80]);
        assert!(both.server.session_age(both.now).is_some());
    }

    /// One session a second, and none without a tun; the challenge waits.
    #[test]
    fn not_now() {
        let mut both = Both::new(Word::Seal);
        both.connect();
        both.client.renew();
        let open = both.open();
        let challenge = both.challenge(&open);
        let accepting = both.accept(&challenge);
        both.now += Duration::from_millis(999);
        assert_eq!(
            discarded(&both.at_server(&accepting)),
            Some(Discard::NotNow)
        );
        both.now += Duration::from_millis(1);
        let (mut datagram, mut asked) = (accepting, 0);
        let decision = both.server.on_datagram(
            &mut datagram,
            both.now,
            &mut || {
                asked += 1;
                false
            },
            &mut all(1),
        );
        assert_eq!((discarded(&decision), asked), (Some(Discard::NotNow), 1));
        both.opened(&accepting);
    }

    #[test]
    fn weak_keys() {
        for point in WEAK {
            let mut both = Both::new(Word::Seal);
            let pair = Pair::new(secret(Word::Seal), CLIENT, SERVER);
            let mut content = Content {
                number: 1,
                ec: hex::decode(point)
                    .expect("hex")
                    .try_into()
                    .expect("32 bytes"),
                es: [0; 32],
            };
            let open = |content: &Content| handshake::encode(&CLIENT, 0x11, content, &pair.open);
            let challenge = both.challenge(&open(&content));
            content.es.copy_from_slice(&challenge[48..80]);
            let decision = both.at_server(&open(&content));
            assert_eq!(discarded(&decision), Some(Discard::WeakKey));
            assert!(both.server.session.is_none() && both.server.challenge.is_none());
            // It counts like a session, or this were a way to have the server calculate.
            let challenge = both.challenge(&open(&content));
            content.es.copy_from_slice(&challenge[48..80]);
            let decision = both.at_server(&open(&content));
            assert_eq!(discarded(&decision), Some(Discard::NotNow));
        }
    }

    /// What is under way at a change of sessions comes through for a minute, and moves nothing.
    #[test]
    fn previous_session() {
        let mut both = Both::new(Word::Seal);
        let mut old = both.connect();
        let mut next = data(&mut old.sealer);
        both.now += seconds(600);
        both.client.renew();
        let mut new = both.connect();
        assert_eq!(moves(&both.at_server(&next)), Some(false));
        assert_eq!(moves(&both.at_server(&data(&mut new.sealer))), Some(true));
        // Its pings are answered under the new session.
        match both.at_server(&old.ping) {
            Decision::Ping { answer, moves } => {
                assert!(!moves);
                assert!(matches!(
                    both.at_client(answer.as_ref()),
                    super::super::client::Decision::Heard
                ));
            }
            _ => panic!("no answer"),
        }
        both.now += seconds(60) - Duration::from_millis(1);
        next = data(&mut old.sealer);
        assert_eq!(moves(&both.at_server(&next)), Some(false));
        assert_eq!(discarded(&both.at_server(&next)), Some(Discard::Replayed));
        both.now += Duration::from_millis(1);
        assert!(is_nudge(&both.at_server(&data(&mut old.sealer))));
        assert!(both.server.previous.is_some());
        both.server.erase(both.now);
        assert!(both.server.previous.is_none() && both.server.session.is_some());
        // Sealing was over with the new session.
        assert_eq!(moves(&both.at_server(&data(&mut new.sealer))), Some(true));
    }

    #[test]
    fn half_an_hour() {
        let mut both = Both::new(Word::Seal);
        let mut up = both.connect();
        let erase = both.server.next_erase().expect("there is a session");
        assert_eq!(erase, both.now + seconds(60));
        both.now += LIFE - Duration::from_millis(1);
        assert!(both.server.seal(&mut slot(&packet()), both.now));
        assert_eq!(moves(&both.at_server(&data(&mut up.sealer))), Some(true));
        both.server.erase(both.now);
        assert!(both.server.session.is_some());
        let erase = both.server.next_erase().expect("there is a session");
        both.now += Duration::from_millis(1);
        assert!(!both.server.seal(&mut slot(&packet()), both.now));
        assert!(is_nudge(&both.at_server(&data(&mut up.sealer))));
        assert_eq!(both.server.session_age(both.now), None);
        both.now = erase;
        both.server.erase(both.now);
        assert!(both.server.session.is_none());
        assert_eq!(both.server.next_erase(), None);
    }

    /// Junk with the client's identifier: 20 answers a second, and the session goes on.
    #[test]
    fn nudges() {
        for word in WORDS {
            let mut both = Both::new(word);
            let mut up = both.connect();
            let mut junk = slot(&packet());
            junk[..8].copy_from_slice(&CLIENT);
            junk[8] = DATA;
            for _ in 0..3 {
                let answered = (0..100)
                    .filter(|_| is_nudge(&both.at_server(&junk)))
                    .count();
                assert_eq!(answered, 20);
                assert_eq!(discarded(&both.at_server(&junk)), Some(Discard::NoSession));
                assert_eq!(moves(&both.at_server(&data(&mut up.sealer))), Some(true));
                both.now += seconds(1);
            }
            match both.at_server(&junk) {
                Decision::Answer(Answer::Challenge(bytes)) => {
                    assert_eq!(bytes[16..32], junk[..16]);
                    assert_eq!(bytes[32..48], junk[junk.len() - 16..]);
                }
                _ => panic!("no nudge"),
            }
        }
    }

    #[test]
    fn roaming() {
        let mut both = Both::new(Word::Sign);
        let mut up = both.connect();
        let packets: Vec<_> = (0..3).map(|_| data(&mut up.sealer)).collect();
        assert_eq!(moves(&both.at_server(&packets[1])), Some(true));
        assert_eq!(moves(&both.at_server(&packets[0])), Some(false), "late");
        assert_eq!(
            moves(&both.at_server(&up.ping)),
            Some(true),
            "of its own kind"
        );
        assert_eq!(moves(&both.at_server(&packets[2])), Some(true));
    }

    #[test]
    fn no_random_numbers() {
        let mut both = Both::new(Word::Seal);
        let mut open = both.open();
        let decision = both
            .server
            .on_datagram(&mut open, both.now, &mut || true, &mut |_| false);
        assert_eq!(discarded(&decision), Some(Discard::NoRandom));
        both.challenge(&open);
    }

    #[test]
    fn forgotten() {
        let mut both = Both::new(Word::Seal);
        let mut up = both.connect();
        both.server.forget();
        assert!(!both.server.seal(&mut slot(&packet()), both.now));
        assert_eq!(both.server.next_erase(), None);
        assert!(is_nudge(&both.at_server(&data(&mut up.sealer))));
    }

    #[test]
    fn another_key() {
        let mut both = Both::new(Word::Seal);
        let open = both.open();
        both.server = Server::new(secret_of(Word::Seal, [9; 32]), CLIENT, SERVER);
        assert_eq!(discarded(&both.at_server(&open)), Some(Discard::WrongTag));
        // Identifiers the wrong way round.
        both.server = Server::new(secret(Word::Seal), SERVER, CLIENT);
        assert_eq!(discarded(&both.at_server(&open)), Some(Discard::WrongTag));
    }
}
