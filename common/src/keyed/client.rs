//! The client's side: its parent, with one keyed server or several.

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::cipher::{KEY_LEN, Key, Public, key_pair};
use super::derivation::Pair;
use super::discard::{Discard, Result};
use super::handshake::{self, Content, Handshake, OPEN};
use super::secret::{Secret, Word};
use super::session::{self, DATA, Header, Message, Opener, PING, Sealer};
use super::window::WIDE;
use super::{Id, LIFE, PACE, Random, is_recent};

/// A session is renewed at this age, less up to [`SPREAD`] seconds: who came back together must not
/// stay together.
const RENEWAL: Duration = Duration::from_secs(600);
/// A power of two.
const SPREAD: u8 = 128;

/// What to do about a datagram of a server.
pub enum Decision {
    /// Send this OPEN.
    Open(Vec<u8>),
    /// There is a new session: end the child, send the ping, and start a child with the sealer.
    Up(Box<Up>),
    /// The server was heard; there is no packet.
    Heard,
    /// The server was heard; the packet at this range of the datagram is for the tun.
    Data(Range<usize>),
}

/// A new session.
pub struct Up {
    /// For the child. Dropped where the child is not.
    pub sealer: Box<Sealer>,
    /// Tells the server that this is the client's address.
    pub ping: Vec<u8>,
    /// A packet for the tun that came with it, at this range of the datagram.
    pub packet: Option<Range<usize>>,
}

/// What is due.
pub enum Due {
    /// Nothing until [`Client::deadline`].
    Nothing,
    /// Send this OPEN.
    Open(Vec<u8>),
    /// The session is too old: end the child.
    Expired,
    /// There are no random numbers yet. It is tried again in a second.
    NoRandom,
}

/// What the client's parent holds of all its keyed servers.
pub struct Client {
    id: Id,
    /// The first is the next to be asked for a session.
    links: Vec<Link>,
    session: Option<Box<Session>>,
    /// A session is wanted, or another one.
    wanted: bool,
    /// No OPEN is due before.
    next_open: Option<Instant>,
    /// At how many addresses a server may be, and how many OPENs had no server in particular.
    addresses: usize,
    asked: usize,
    /// When the last nudge was answered.
    nudged: Option<Instant>,
    /// So long after the server was heard last it is silent.
    patience: Duration,
}

/// What is shared with one server.
struct Link {
    pair: Pair,
    /// The number of the last OPEN.
    number: u32,
    attempt: Option<Attempt>,
}

/// An OPEN that is repeated until it is answered.
struct Attempt {
    /// Of `ec`. Erased when the server's challenge has come.
    private: Option<Key>,
    ec: Public,
    /// The challenge that is accepted, zero until then.
    es: Public,
    /// The session that it has led to, and what the child will be given.
    pending: Option<(Box<Session>, Box<Sealer>)>,
}

/// What the server has used already, or else is pending.
struct Session {
    server: Id,
    made: Instant,
    heard: Instant,
    /// At this age.
    renewal: Duration,
    ping: Sealer,
    down: Opener<WIDE>,
}

impl Attempt {
    /// With a fresh key. `None` without random numbers.
    fn new(random: Random<'_>) -> Option<Self> {
        let (ec, private) = key_pair(random)?;
        Some(Self {
            private: Some(private),
            ec,
            es: [0; KEY_LEN],
            pending: None,
        })
    }

    /// The server's challenge has come: derives the session that is pending from now on.
    fn accept(&mut self, es: Public, pair: &Pair, now: Instant) -> Result<()> {
        let private = self.private.as_ref().ok_or(Discard::Stray)?;
        let key = pair.session(private, &es, (&self.ec, &es));
        let key = key.ok_or(Discard::WeakKey)?;
        let session = Box::new(Session {
            server: pair.server,
            made: now,
            heard: now,
            // A public key is as good as drawn.
            renewal: RENEWAL - Duration::from_secs((self.ec[0] % SPREAD).into()),
            ping: key.sealer("ping", pair.client, PING),
            down: key.opener("down"),
        });
        let sealer = Box::new(key.sealer("data", pair.client, DATA));
        self.pending = Some((session, sealer));
        (self.es, self.private) = (es, None);
        Ok(())
    }
}

impl Link {
    /// The attempt's OPEN, with a number of its own: some carriers drop identical datagrams.
    fn open(&mut self) -> Option<Vec<u8>> {
        let Attempt { ec, es, .. } = *self.attempt.as_ref()?;
        self.number = self.number.wrapping_add(1);
        let content = Content {
            number: self.number,
            ec,
            es,
        };
        Some(handshake::encode(
            &self.pair.client,
            OPEN,
            &content,
            &self.pair.open,
        ))
    }

    /// A new attempt that accepts this challenge.
    fn attempt_with(&mut self, es: Public, now: Instant, random: Random<'_>) -> Result<()> {
        let mut attempt = Attempt::new(random).ok_or(Discard::NoRandom)?;
        attempt.accept(es, &self.pair, now)?;
        self.attempt = Some(attempt);
        Ok(())
    }
}

impl Session {
    /// Opens a DATA in place, if it is of this session.
    #[inline]
    fn open(&mut self, header: Header, datagram: &mut [u8]) -> Result<()> {
        if !datagram.starts_with(&self.server) {
            return Err(Discard::NoSession);
        }
        self.down.open(header, datagram).map(|_is_highest| ())
    }

    /// Whether a nudge's echo, header and tag, is of what we, or our child, have sent in it.
    fn has_sent(&self, echo: &Public, client: Id) -> bool {
        matches!(Message::of(echo), Ok(Message::Packet(header)) if header.name == self.down.name)
            && echo.starts_with(&client)
    }
}

impl Client {
    /// For these servers, whose files hold the same word. `keepalive` is its interval, `None` if
    /// there is none.
    pub fn new(id: Id, servers: Vec<(Id, Rc<Secret>)>, keepalive: Option<Duration>) -> Self {
        let patience = keepalive.map(|interval| 2 * interval + Duration::from_secs(5));
        let mut client = Self {
            id,
            links: Vec::new(),
            session: None,
            wanted: true,
            next_open: None,
            addresses: 1,
            asked: 0,
            nudged: None,
            // No session lives to see the end of that.
            patience: patience.unwrap_or(LIFE),
        };
        client.set_servers(servers);
        client
    }

    /// Goes on with these servers. Whose secret is the same keeps attempt and session. Returns
    /// whether the session is lost: the child ends then.
    pub fn set_servers(&mut self, servers: Vec<(Id, Rc<Secret>)>) -> bool {
        let mut old = std::mem::take(&mut self.links);
        for (server, secret) in servers {
            let is_same =
                |Link { pair, .. }: &Link| pair.server == server && pair.secret.is_same(&secret);
            let same = old.iter().position(is_same);
            self.links.push(match same {
                Some(index) => old.swap_remove(index),
                None => Link {
                    pair: Pair::new(secret, self.id, server),
                    number: 0,
                    attempt: None,
                },
            });
        }
        let is_gone =
            |session: &mut Box<Session>| old.iter().any(|link| link.pair.server == session.server);
        let lost = self.session.take_if(is_gone).is_some();
        self.wanted |= lost;
        lost
    }

    /// How the links are protected; `None` if there is none.
    pub fn word(&self) -> Option<Word> {
        self.links.first().map(|link| link.pair.secret.word())
    }

    /// How long the session has stood.
    pub fn session_age(&self, now: Instant) -> Option<Duration> {
        let session = self.session.as_ref()?;
        Some(now.saturating_duration_since(session.made))
    }

    /// A session is wanted for a new child: the last one was lost, or ended for a new port or
    /// address. Its key is in no other hands, so the old session's will not do.
    pub fn renew(&mut self) {
        if !self.wanted {
            self.wanted = true;
            self.next_open = None;
        }
    }

    /// When [`Self::on_deadline`] is to be called. `None` without a server.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let next_open = self.next_open.unwrap_or(now);
        match &self.session {
            None => (!self.links.is_empty()).then_some(next_open),
            Some(session) if self.wanted => Some(next_open.min(session.made + LIFE)),
            Some(session) => {
                let silent = session.heard + self.patience;
                Some(silent.min(session.made + session.renewal))
            }
        }
    }

    /// To be called until nothing is due.
    pub fn on_deadline(&mut self, now: Instant, random: Random<'_>) -> Due {
        if self
            .session
            .take_if(|session| now >= session.made + LIFE)
            .is_some()
        {
            return Due::Expired;
        }
        // The one to ask: none of them in particular without a session, or if it is silent.
        let standing = self
            .session
            .as_ref()
            .filter(|session| now < session.heard + self.patience);
        let server = standing.map(|session| session.server);
        if standing.is_none_or(|session| now >= session.made + session.renewal) {
            self.renew();
        }
        if !self.wanted || self.links.is_empty() || self.next_open.is_some_and(|at| now < at) {
            return Due::Nothing;
        }
        self.next_open = Some(now + PACE);
        let asked = match server {
            Some(server) => self
                .links
                .iter_mut()
                .find(|link| link.pair.server == server),
            None => {
                if self.asked.is_multiple_of(self.addresses) {
                    self.links.rotate_left(1);
                }
                self.asked = self.asked.wrapping_add(1);
                self.links.last_mut()
            }
        };
        let Some(link) = asked else {
            return Due::Nothing;
        };
        if link.attempt.is_none() {
            link.attempt = Attempt::new(random);
        }
        link.open().map_or(Due::NoRandom, Due::Open)
    }

    /// A server may be at so many addresses, which the OPENs go to by turns: it is asked at each of
    /// them before the next server is.
    pub fn set_addresses(&mut self, count: usize) {
        self.addresses = count.max(1);
    }

    /// The ping for a keepalive that is due. `None` without a session: OPENs stand for it.
    pub fn ping(&mut self) -> Option<Vec<u8>> {
        self.session.as_mut()?.ping.empty()
    }

    /// Judges a datagram, whose first 8 bytes are a server's identifier; a packet in it is decrypted
    /// in place.
    #[inline]
    pub fn on_datagram(
        &mut self,
        datagram: &mut [u8],
        now: Instant,
        random: Random<'_>,
    ) -> Result<Decision> {
        match Message::of(datagram)? {
            Message::Packet(header) if !header.is_ping => self.on_packet(header, datagram, now),
            Message::Challenge(bytes) => self.on_challenge(bytes, now, random),
            _ => Err(Discard::Malformed),
        }
    }

    fn on_packet(&mut self, header: Header, datagram: &mut [u8], now: Instant) -> Result<Decision> {
        if self.wanted
            && let Some(up) = self.try_pending(header, datagram, now)
        {
            return Ok(Decision::Up(Box::new(up)));
        }
        let session = self.session.as_mut().ok_or(Discard::NoSession)?;
        session.open(header, datagram)?;
        session.heard = now;
        Ok(session::payload(datagram)?.map_or(Decision::Heard, Decision::Data))
    }

    /// A DATA under a session that is pending makes it the session.
    #[cold]
    fn try_pending(&mut self, header: Header, datagram: &mut [u8], now: Instant) -> Option<Up> {
        let mut attempts = self
            .links
            .iter_mut()
            .filter_map(|link| link.attempt.as_mut());
        let pending = attempts.find_map(|attempt| {
            let pending = &mut attempt.pending;
            pending.take_if(|pending| pending.0.open(header, datagram).is_ok())
        });
        let (mut session, sealer) = pending?;
        for link in &mut self.links {
            link.attempt = None;
        }
        let ping = session.ping.empty()?;
        (session.made, session.heard) = (now, now);
        self.session = Some(session);
        self.wanted = false;
        Some(Up {
            sealer,
            ping,
            packet: session::payload(datagram).ok().flatten(),
        })
    }

    #[cold]
    fn on_challenge(
        &mut self,
        bytes: &Handshake,
        now: Instant,
        random: Random<'_>,
    ) -> Result<Decision> {
        let mut links = self.links.iter_mut();
        let link = links.find(|link| bytes.starts_with(&link.pair.server));
        let link = link.ok_or(Discard::Stray)?;
        let chal = handshake::decode(bytes, &link.pair.challenge).ok_or(Discard::WrongTag)?;
        match &mut link.attempt {
            Some(attempt) if attempt.ec == chal.ec && attempt.private.is_some() => {
                attempt.accept(chal.es, &link.pair, now)?;
            }
            // The server was restarted.
            Some(attempt) if attempt.ec == chal.ec && attempt.es != chal.es => {
                link.attempt_with(chal.es, now, random)?;
            }
            Some(attempt) if attempt.private.is_none() => return Err(Discard::Stray),
            // A nudge: the server can't read what we send.
            _ => {
                let is_ours = self.session.as_ref().is_some_and(|session| {
                    session.server == link.pair.server && session.has_sent(&chal.ec, self.id)
                });
                if !is_ours || is_recent(self.nudged, now) {
                    return Err(Discard::Stray);
                }
                link.attempt_with(chal.es, now, random)?;
                self.nudged = Some(now);
            }
        }
        self.wanted = true;
        self.next_open = Some(now + PACE);
        link.open().map(Decision::Open).ok_or(Discard::Stray)
    }
}

#[cfg(test)]
mod tests {
    use super::super::HEADER_LEN;
    use super::super::handshake::CHALLENGE;
    use super::super::server::{self, Server};
    use super::super::testing::{
        Both, CLIENT, SERVER, WEAK, WORDS, all, discarded, packet, seal, secret, secret_of, slot,
    };
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    impl Client {
        /// The server of the session.
        pub(in super::super) fn server(&self) -> Option<Id> {
            self.session.as_ref().map(|session| session.server)
        }
    }

    /// A packet of the server's.
    fn down(both: &mut Both) -> Vec<u8> {
        let mut data = slot(&packet());
        assert!(seal(&mut both.server, &mut data, both.now));
        data
    }

    fn is_data(decision: &Result<Decision>) -> bool {
        matches!(decision, Ok(Decision::Data(range)) if *range == (HEADER_LEN..HEADER_LEN + packet().len()))
    }

    #[test]
    fn every_bit() {
        for word in WORDS {
            let mut both = Both::new(word);
            let open = both.open();
            let challenge = both.challenge(&open);
            let flips = |datagram: &[u8], both: &mut Both| {
                for bit in 0..8 * datagram.len() {
                    let mut flipped = datagram.to_vec();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    assert!(discarded(&both.at_client(&flipped)).is_some(), "bit {bit}");
                }
                for len in 0..datagram.len() {
                    assert!(
                        discarded(&both.at_client(&datagram[..len])).is_some(),
                        "{len}"
                    );
                }
                let long = [datagram, &[0]].concat();
                assert!(discarded(&both.at_client(&long)).is_some());
            };
            flips(&challenge, &mut both);
            let open = both.accept(&challenge);
            let empty = both.opened(&open);
            flips(&empty, &mut both);
            assert!(both.client.session.is_none());
            both.up(&empty);
            let data = down(&mut both);
            flips(&data, &mut both);
            assert!(is_data(&both.at_client(&data)));
            assert_eq!(discarded(&both.at_client(&data)), Some(Discard::Replayed));
            assert_eq!(discarded(&both.at_client(&empty)), Some(Discard::Replayed));
        }
    }

    #[test]
    fn what_a_server_does_not_send() {
        let mut both = Both::new(Word::Sign);
        let open = both.open();
        let mut up = both.connect_with(&open);
        for datagram in [&open[..], &up.ping] {
            let mut reflected = datagram.to_vec();
            assert!(discarded(&both.at_client(&reflected)).is_some());
            reflected[..8].copy_from_slice(&SERVER);
            assert_eq!(
                discarded(&both.at_client(&reflected)),
                Some(Discard::Malformed)
            );
        }
        let mut data = slot(&packet());
        assert!(up.sealer.seal(&mut data));
        assert_eq!(discarded(&both.at_client(&data)), Some(Discard::NoSession));
        assert!(up.sealer.seal(&mut data));
        data[..8].copy_from_slice(&SERVER);
        assert_eq!(discarded(&both.at_client(&data)), Some(Discard::Forged));
        let plain = [&SERVER[..], &packet()].concat();
        assert_eq!(discarded(&both.at_client(&plain)), Some(Discard::Plain));
        let mut junk = slot(b"\x01\x02");
        assert!(seal(&mut both.server, &mut junk, both.now));
        assert_eq!(discarded(&both.at_client(&junk)), Some(Discard::NotIp));
    }

    /// An OPEN each second with a number of its own, else the same until it is answered.
    #[test]
    fn opens() {
        let mut both = Both::new(Word::Seal);
        let first = both.open();
        for number in 2..10u32 {
            assert_eq!(both.client.deadline(both.now), Some(both.now + SECOND));
            both.now += SECOND - Duration::from_millis(1);
            assert!(matches!(both.due(), Due::Nothing));
            both.now += Duration::from_millis(1);
            let again = both.open();
            assert_eq!(again[12..16], number.to_be_bytes());
            assert_eq!(again[16..80], first[16..80]);
        }
        let challenge = both.challenge(&first);
        both.accept(&challenge);
        assert_eq!(discarded(&both.at_client(&challenge)), Some(Discard::Stray));
        assert!(matches!(both.due(), Due::Nothing));
        both.now += SECOND;
        let accepting = both.open();
        assert_eq!(accepting[48..80], challenge[48..80]);
        assert!(both.client.ping().is_none() && both.client.server().is_none());
        let data = both.opened(&accepting);
        both.up(&data);
        assert_eq!(both.client.server(), Some(SERVER));
        assert!(matches!(both.due(), Due::Nothing));
    }

    /// A packet of the server's may be faster than its first answer.
    #[test]
    fn up_with_a_packet() {
        let mut both = Both::new(Word::Seal);
        let open = both.open();
        let challenge = both.challenge(&open);
        let open = both.accept(&challenge);
        let empty = both.opened(&open);
        let data = down(&mut both);
        let up = both.up(&data);
        assert_eq!(up.packet, Some(HEADER_LEN..HEADER_LEN + packet().len()));
        assert!(matches!(both.at_client(&empty), Ok(Decision::Heard)));
    }

    #[test]
    fn renewal() {
        for byte in [0u8, 1, 2, 3] {
            let mut both = Both::new(Word::Seal);
            let Due::Open(open) = both.client.on_deadline(both.now, &mut all(byte)) else {
                panic!("nothing due")
            };
            let mut open = open.try_into().expect("96 bytes");
            both.connect_with(&open);
            let age = 600 - u32::from(open[16] % 128);
            let due = both.now + age * SECOND;
            assert_eq!(both.client.deadline(both.now), Some(due));
            both.now = due;
            open = both.open();
            // The old session goes on meanwhile.
            let data = down(&mut both);
            assert!(is_data(&both.at_client(&data)));
            assert!(both.client.ping().is_some());
            let late = down(&mut both);
            both.connect_with(&open);
            assert_eq!(discarded(&both.at_client(&late)), Some(Discard::NoSession));
            assert!(matches!(both.due(), Due::Nothing));
        }
    }

    #[test]
    fn half_an_hour() {
        let mut both = Both::new(Word::Seal);
        both.connect();
        both.now += LIFE - Duration::from_millis(1);
        both.open();
        assert!(both.client.ping().is_some());
        both.now += Duration::from_millis(1);
        assert!(matches!(both.due(), Due::Expired));
        assert!(both.client.ping().is_none());
        assert!(matches!(both.due(), Due::Nothing));
        both.now += SECOND;
        both.open();
    }

    #[test]
    fn silence() {
        let mut both = Both::new(Word::Sign);
        both.client = Client::new(
            CLIENT,
            vec![(SERVER, secret(Word::Sign))],
            Some(25 * SECOND),
        );
        both.connect();
        both.now += 50 * SECOND;
        let data = down(&mut both);
        assert!(is_data(&both.at_client(&data)));
        assert_eq!(both.client.deadline(both.now), Some(both.now + 55 * SECOND));
        // Nothing else counts as heard.
        both.now += 54 * SECOND;
        assert_eq!(discarded(&both.at_client(&data)), Some(Discard::Replayed));
        assert!(matches!(both.due(), Due::Nothing));
        both.now += SECOND;
        both.open();
        assert!(both.client.session.is_some());
    }

    /// The server was restarted while a session was pending: another challenge, another key.
    #[test]
    fn restarted_while_pending() {
        let mut both = Both::new(Word::Seal);
        let open = both.open();
        let challenge = both.challenge(&open);
        let first = both.accept(&challenge);
        both.server = Server::new(secret(Word::Seal), CLIENT, SERVER);
        let challenge = both.challenge(&first);
        let second = both.accept(&challenge);
        assert_ne!(first[16..48], second[16..48]);
        assert_eq!(second[48..80], challenge[48..80]);
        let data = both.opened(&second);
        both.up(&data);
    }

    /// A nudge for what was sent: no round trip for a challenge, once a second, once at a time.
    #[test]
    fn nudged() {
        let mut both = Both::new(Word::Seal);
        let mut up = both.connect();
        both.server = Server::new(secret(Word::Seal), CLIENT, SERVER);
        let mut data = slot(&packet());
        assert!(up.sealer.seal(&mut data));
        let nudge = both.challenge(&data);
        let open = both.accept(&nudge);
        assert_eq!(open[48..80], nudge[48..80]);
        assert_eq!(discarded(&both.at_client(&nudge)), Some(Discard::Stray));
        let empty = both.opened(&open);
        both.up(&empty);
        // It is of the session before.
        both.now += SECOND;
        assert_eq!(discarded(&both.at_client(&nudge)), Some(Discard::Stray));

        let ping = both.client.ping().expect("a session");
        both.server = Server::new(secret(Word::Seal), CLIENT, SERVER);
        let nudge = both.challenge(&ping);
        both.accept(&nudge);
        for link in &mut both.client.links {
            link.attempt = None;
        }
        both.now += SECOND - Duration::from_millis(1);
        assert_eq!(discarded(&both.at_client(&nudge)), Some(Discard::Stray));
        both.now += Duration::from_millis(1);
        both.accept(&nudge);
        // Somebody else's packet, and another type.
        for (byte, value) in [(0, 0), (8, 0x11), (9, !ping[9])] {
            let mut foreign = ping.clone();
            foreign[byte] = value;
            let pair = Pair::new(secret(Word::Seal), CLIENT, SERVER);
            let mut ec = [0; 32];
            ec[..16].copy_from_slice(&foreign[..16]);
            let content = Content {
                number: 0,
                ec,
                es: [9; 32],
            };
            let nudge = handshake::encode(&SERVER, CHALLENGE, &content, &pair.challenge);
            both.now += SECOND;
            both.client.links[0].attempt = None;
            assert_eq!(discarded(&both.at_client(&nudge)), Some(Discard::Stray));
        }
    }

    #[test]
    fn weak_challenge() {
        let mut both = Both::new(Word::Seal);
        let open = both.open();
        let pair = Pair::new(secret(Word::Seal), CLIENT, SERVER);
        for point in WEAK {
            let content = Content {
                number: 1,
                ec: open[16..48].try_into().expect("32 bytes"),
                es: hex::decode(point)
                    .expect("hex")
                    .try_into()
                    .expect("32 bytes"),
            };
            let challenge = handshake::encode(&SERVER, CHALLENGE, &content, &pair.challenge);
            assert_eq!(
                discarded(&both.at_client(&challenge)),
                Some(Discard::WeakKey)
            );
        }
        both.connect_with(&open);
    }

    #[test]
    fn one_key_under_two_words() {
        let (mut seal, mut sign) = (Both::new(Word::Seal), Both::new(Word::Sign));
        let (open, other) = (seal.open(), sign.open());
        assert_eq!(open[..80], other[..80]);
        let challenge = seal.challenge(&open);
        assert_eq!(
            discarded(&sign.at_client(&challenge)),
            Some(Discard::WrongTag)
        );
        let challenge = sign.challenge(&other);
        assert_eq!(
            discarded(&seal.at_client(&challenge)),
            Some(Discard::WrongTag)
        );
    }

    #[test]
    fn a_child_is_wanted() {
        let mut both = Both::new(Word::Seal);
        both.connect();
        both.client.renew();
        assert_eq!(both.client.deadline(both.now), Some(both.now));
        both.now += SECOND;
        both.connect();
        assert!(matches!(both.due(), Due::Nothing));
    }

    #[test]
    fn no_random_numbers() {
        let mut both = Both::new(Word::Seal);
        for _ in 0..3 {
            let due = both.client.on_deadline(both.now, &mut |_| false);
            assert!(matches!(due, Due::NoRandom));
            let due = both.client.on_deadline(both.now, &mut |_| panic!("asked"));
            assert!(matches!(due, Due::Nothing));
            both.now += SECOND;
        }
        both.connect();
    }

    /// Servers and addresses take turns at different paces, or some pairs would never meet.
    #[test]
    fn each_server_is_asked_at_each_address() {
        let mut both = Both::new(Word::Seal);
        let other = ([0x5f; 8], secret_of(Word::Seal, [9; 32]));
        let servers = vec![other, (SERVER, secret(Word::Seal))];
        both.client = Client::new(CLIENT, servers, Some(25 * SECOND));
        both.client.set_addresses(2);
        let mut asked = Vec::new();
        for _ in 0..8 {
            asked.push(both.open()[16..48].to_vec());
            both.now += SECOND;
        }
        let (first, second) = (&asked[0], &asked[2]);
        assert_ne!(first, second);
        let expected = [first, first, second, second].repeat(2);
        assert!(asked.iter().eq(expected));
    }

    #[test]
    fn several_servers() {
        let other = [0x5f; 8];
        let mut both = Both::new(Word::Seal);
        let servers = || {
            vec![
                (other, secret_of(Word::Seal, [9; 32])),
                (SERVER, secret(Word::Seal)),
            ]
        };
        both.client = Client::new(CLIENT, servers(), Some(25 * SECOND));
        let mut away = Server::new(secret_of(Word::Seal, [9; 32]), CLIENT, other);
        let (mut first, mut second) = (both.open(), [0; 96]);
        for _ in 0..3 {
            both.now += SECOND;
            second = both.open();
            assert_eq!(discarded(&both.at_server(&first)), Some(Discard::WrongTag));
            both.now += SECOND;
            let again = both.open();
            assert_eq!(again[16..48], first[16..48]);
            first = again;
        }
        both.connect_with(&second);
        assert_eq!(both.client.server(), Some(SERVER));
        assert!(both.client.links.iter().all(|link| link.attempt.is_none()));
        // A renewal asks the session's only.
        both.client.renew();
        for _ in 0..3 {
            let open = both.open();
            both.challenge(&open);
            both.now += SECOND;
        }
        // The other's answer comes too late.
        let answer = away.on_datagram(&mut first, both.now, true, &mut all(3));
        let Ok(server::Decision::Answer(answer)) = answer else {
            panic!("no answer")
        };
        assert_eq!(discarded(&both.at_client(&answer)), Some(Discard::Stray));
        // After silence each has its turn again.
        both.now += 55 * SECOND;
        let mut asked = 0;
        for _ in 0..4 {
            let open = both.open();
            asked += usize::from(discarded(&both.at_server(&open)).is_none());
            both.now += SECOND;
        }
        assert_eq!(asked, 2);
    }

    #[test]
    fn other_servers() {
        let mut both = Both::new(Word::Seal);
        both.connect();
        let same = || {
            vec![
                ([1; 8], secret_of(Word::Seal, [9; 32])),
                (SERVER, secret(Word::Seal)),
            ]
        };
        assert!(!both.client.set_servers(same()));
        let data = down(&mut both);
        assert!(is_data(&both.at_client(&data)));
        // Another key.
        assert!(
            both.client
                .set_servers(vec![(SERVER, secret_of(Word::Seal, [9; 32]))])
        );
        let data = down(&mut both);
        assert_eq!(discarded(&both.at_client(&data)), Some(Discard::NoSession));
        both.server = Server::new(secret_of(Word::Seal, [9; 32]), CLIENT, SERVER);
        both.now += SECOND;
        both.connect();
        // None.
        assert!(both.client.set_servers(Vec::new()));
        assert_eq!(both.client.deadline(both.now), None);
        assert!(matches!(both.due(), Due::Nothing));
        assert!(both.client.word().is_none());
    }
}
