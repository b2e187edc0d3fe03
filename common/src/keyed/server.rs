//! The server's side of one keyed client.

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::cipher::{KEY_LEN, Key, Public, key_pair};
use super::derivation::Pair;
use super::discard::{Discard, Result};
use super::handshake::{self, CHALLENGE, Content, Handshake};
use super::secret::Secret;
use super::session::{self, DATA, HEADER_LEN, Header, Message, Name, Opener, Sealer};
use super::window::{NARROW, WIDE};
use super::{Id, LIFE, Random, TAG_LEN, is_recent};

/// For so long what is still under way from the session before is taken.
const OVERLAP: Duration = Duration::from_secs(60);
/// Nudges in a second.
const NUDGES: u8 = 20;

/// What to do about a datagram of the client.
pub enum Decision {
    /// Send this to where the datagram came from. Nothing else changes.
    Answer(Vec<u8>),
    /// There is a new session: the client's address is the datagram's source; make the tun if there
    /// is none; then send this there.
    Opened(Vec<u8>),
    /// Send this to the source of the client's ping; if it `moves`, that is the client's address.
    Ping {
        /// The answer.
        answer: Vec<u8>,
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

/// What is held for a client that has a key.
pub struct Server {
    pair: Pair,
    /// A key pair that waits for the client to use it, once.
    challenge: Option<(Public, Key)>,
    session: Option<Session>,
    previous: Option<Box<Receiver>>,
    /// When a challenge was used up last.
    opened: Option<Instant>,
    /// So many nudges since then.
    nudges: (u8, Option<Instant>),
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
    /// Not taken from then on.
    until: Instant,
    data: Opener<WIDE>,
    ping: Opener<NARROW>,
}

impl Receiver {
    fn is_live(&self, name: Name, now: Instant) -> bool {
        self.data.name == name && now < self.until
    }

    /// Opens a DATA or PING. Returns whether its counter is the highest so far of its kind.
    #[inline]
    fn open(&mut self, header: Header, datagram: &mut [u8]) -> Result<bool> {
        if header.is_ping {
            self.ping.open(header, datagram)
        } else {
            self.data.open(header, datagram)
        }
    }
}

impl Server {
    /// For a client with this secret.
    pub fn new(secret: Rc<Secret>, client: Id, server: Id) -> Self {
        Self {
            pair: Pair::new(secret, client, server),
            challenge: None,
            session: None,
            previous: None,
            opened: None,
            nudges: (0, None),
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

    /// What makes datagrams of packets for the client, if there is a session.
    #[inline]
    pub fn sealer(&mut self, now: Instant) -> Option<&mut Sealer> {
        Some(&mut self.live(now)?.down)
    }

    #[inline]
    fn live(&mut self, now: Instant) -> Option<&mut Session> {
        let session = self.session.as_mut();
        session.filter(|session| now < session.receiver.until)
    }

    /// Judges a datagram that begins with the client's identifier; a packet in it is decrypted in
    /// place. `may_open` says whether there is a tun, or can be one.
    #[inline]
    pub fn on_datagram(
        &mut self,
        datagram: &mut [u8],
        now: Instant,
        may_open: bool,
        random: Random<'_>,
    ) -> Result<Decision> {
        let header = match Message::of(datagram)? {
            Message::Packet(header) => header,
            Message::Open(bytes) => return self.on_open(bytes, now, may_open, random),
            Message::Challenge(_) => return Err(Discard::Malformed),
        };
        let Some(opened) = self.open(header, datagram, now) else {
            return self.nudge(datagram, now, random);
        };
        let moves = opened?;
        if header.is_ping {
            let answer = self.sealer(now).and_then(Sealer::empty);
            let answer = answer.ok_or(Discard::NoSession)?;
            return Ok(Decision::Ping { answer, moves });
        }
        let packet = session::payload(datagram)?.ok_or(Discard::NotIp)?;
        Ok(Decision::Data { packet, moves })
    }

    /// Opens a DATA or PING. Returns whether its source is the client's address; `None` if it is of
    /// no session.
    #[inline]
    fn open(&mut self, header: Header, datagram: &mut [u8], now: Instant) -> Option<Result<bool>> {
        // Two sessions have the same name once in millions: then either may be meant.
        let mut opened = None;
        if let Some(session) = &mut self.session
            && session.receiver.is_live(header.name, now)
        {
            opened = Some(session.receiver.open(header, datagram));
        }
        if !matches!(opened, Some(Ok(_)))
            && let Some(previous) = &mut self.previous
            && previous.is_live(header.name, now)
        {
            // Whoever is heard under it may have moved since.
            opened = Some(previous.open(header, datagram).map(|_| false));
        }
        opened
    }

    #[cold]
    fn on_open(
        &mut self,
        bytes: &Handshake,
        now: Instant,
        may_open: bool,
        random: Random<'_>,
    ) -> Result<Decision> {
        let open = handshake::decode(bytes, &self.pair.open).ok_or(Discard::WrongTag)?;
        if let Some(session) = self.live(now)
            && (session.ec, session.es) == (open.ec, open.es)
        {
            // The first answer was lost, or this is a replay, which must not use up the answer to
            // the client's next.
            if open.number <= session.number {
                return Err(Discard::Replayed);
            }
            session.number = open.number;
            let empty = session.down.empty().ok_or(Discard::NoSession)?;
            return Ok(Decision::Answer(empty));
        }
        if self.challenge.as_ref().is_none_or(|(es, _)| *es != open.es) {
            return self.challenge(open.number, open.ec, random);
        }
        if is_recent(self.opened, now) || !may_open {
            return Err(Discard::NotNow);
        }
        self.opened = Some(now);
        self.open_session(&open, now)
    }

    fn open_session(&mut self, open: &Content, now: Instant) -> Result<Decision> {
        let (es, private) = self.challenge.as_ref().ok_or(Discard::Stray)?;
        let (es, key) = (*es, self.pair.session(private, &open.ec, (&open.ec, es)));
        // Used up by whatever follows.
        self.challenge = None;
        let key = key.ok_or(Discard::WeakKey)?;
        let mut down = key.sealer("down", self.pair.server, DATA);
        let empty = down.empty().ok_or(Discard::NoSession)?;
        let receiver = Box::new(Receiver {
            until: now + LIFE,
            data: key.opener("data"),
            ping: key.opener("ping"),
        });
        let session = Session {
            ec: open.ec,
            es,
            number: open.number,
            made: now,
            down,
            receiver,
        };
        self.previous = self.session.replace(session).map(|old| old.receiver);
        if let Some(previous) = &mut self.previous {
            previous.until = previous.until.min(now + OVERLAP);
        }
        Ok(Decision::Opened(empty))
    }

    /// The answer to what can't be read: at a bounded rate, since anybody can send it.
    #[cold]
    fn nudge(&mut self, datagram: &[u8], now: Instant, random: Random<'_>) -> Result<Decision> {
        if !is_recent(self.nudges.1, now) {
            self.nudges = (0, Some(now));
        }
        if self.nudges.0 >= NUDGES {
            return Err(Discard::NoSession);
        }
        self.nudges.0 += 1;
        let ends = datagram.first_chunk().zip(datagram.last_chunk());
        let (header, tag): (&[u8; HEADER_LEN], &[u8; TAG_LEN]) = ends.ok_or(Discard::Malformed)?;
        let mut echo = [0; KEY_LEN];
        echo[..HEADER_LEN].copy_from_slice(header);
        echo[HEADER_LEN..].copy_from_slice(tag);
        self.challenge(0, echo, random)
    }

    /// A CHAL with the standing challenge, which is made if there is none.
    fn challenge(&mut self, number: u32, echo: Public, random: Random<'_>) -> Result<Decision> {
        if self.challenge.is_none() {
            self.challenge = key_pair(random);
        }
        let (es, _) = self.challenge.as_ref().ok_or(Discard::NoRandom)?;
        let content = Content {
            number,
            ec: echo,
            es: *es,
        };
        let (sender, key) = (&self.pair.server, &self.pair.challenge);
        let chal = handshake::encode(sender, CHALLENGE, &content, key);
        Ok(Decision::Answer(chal))
    }

    /// Erases the sessions that are too old. Returns whether there are others: it is to be called
    /// every minute then.
    pub fn erase(&mut self, now: Instant) -> bool {
        self.previous.take_if(|receiver| now >= receiver.until);
        if self.sealer(now).is_none() {
            self.session = None;
        }
        self.session.is_some() || self.previous.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::secret::Word;
    use super::super::session::PING;
    use super::super::testing::{
        Both, CLIENT, SERVER, WEAK, WORDS, all, discarded, packet, seal, secret, secret_of, slot,
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

    fn moves(decision: &Result<Decision>) -> Option<bool> {
        match decision {
            Ok(Decision::Data { moves, .. } | Decision::Ping { moves, .. }) => Some(*moves),
            _ => None,
        }
    }

    fn is_nudge(decision: &Result<Decision>) -> bool {
        matches!(decision, Ok(Decision::Answer(bytes)) if bytes[8] == CHALLENGE && bytes[12..16] == [0; 4])
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
        assert!(seal(&mut both.server, &mut down, both.now));
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
                match both.server.on_datagram(open, both.now, true, random) {
                    Ok(Decision::Answer(answer)) => challenges.push(answer),
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
        assert!(matches!(decision, Ok(Decision::Answer(empty)) if empty[8] == DATA));
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
        let mut datagram = accepting;
        let server = &mut both.server;
        let decision = server.on_datagram(&mut datagram, both.now, false, &mut all(1));
        assert_eq!(discarded(&decision), Some(Discard::NotNow));
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
            Ok(Decision::Ping { answer, moves }) => {
                assert!(!moves);
                assert!(matches!(
                    both.at_client(&answer),
                    Ok(super::super::client::Decision::Heard)
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
        assert!(both.server.erase(both.now));
        assert!(both.server.previous.is_none() && both.server.session.is_some());
        // Sealing was over with the new session.
        assert_eq!(moves(&both.at_server(&data(&mut new.sealer))), Some(true));
    }

    #[test]
    fn half_an_hour() {
        let mut both = Both::new(Word::Seal);
        let mut up = both.connect();
        both.now += LIFE - Duration::from_millis(1);
        assert!(seal(&mut both.server, &mut slot(&packet()), both.now));
        assert_eq!(moves(&both.at_server(&data(&mut up.sealer))), Some(true));
        assert!(both.server.erase(both.now));
        assert!(both.server.session.is_some());
        both.now += Duration::from_millis(1);
        assert!(!seal(&mut both.server, &mut slot(&packet()), both.now));
        assert!(is_nudge(&both.at_server(&data(&mut up.sealer))));
        assert_eq!(both.server.session_age(both.now), None);
        assert!(!both.server.erase(both.now));
        assert!(both.server.session.is_none());
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
                Ok(Decision::Answer(bytes)) => {
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
            .on_datagram(&mut open, both.now, true, &mut |_| false);
        assert_eq!(discarded(&decision), Some(Discard::NoRandom));
        both.challenge(&open);
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
