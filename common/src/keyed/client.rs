//! The client's side: its parent, with one keyed server or several.

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::cipher::{KEY_LEN, Key, Public, public};
use super::derivation::{Pair, SessionKeys};
use super::discard::Discard;
use super::handshake::{self, Content, Handshake, OPEN};
use super::secret::{Secret, Word};
use super::server::LIFE;
use super::session::{self, DATA, Empty, HEADER_LEN, Header, Message, Name, Opener, PING, Sealer};
use super::{Id, Random};

/// Between two OPENs, and at least between two answers to nudges.
const PACE: Duration = Duration::from_millis(1000);
/// A session is renewed at this age, less what was drawn: who came back together must not stay
/// together.
const RENEWAL: Duration = Duration::from_secs(600);
/// Above what is drawn, in seconds: a power of two.
const DRAWN: u8 = 128;

/// What to do about a datagram of a server.
pub enum Decision {
    /// Nothing, but count it.
    Drop(Discard),
    /// Send this OPEN.
    Open(Handshake),
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
    pub sealer: Sealer,
    /// Tells the server that this is the client's address.
    pub ping: Empty,
    /// A packet for the tun that came with it, at this range of the datagram.
    pub packet: Option<Range<usize>>,
}

/// What is due.
pub enum Due {
    /// Nothing until [`Client::deadline`].
    Nothing,
    /// Send this OPEN.
    Open(Handshake),
    /// The session is too old: end the child.
    Expired,
    /// There are no random numbers yet. It is tried again in a second.
    NoRandom,
}

/// What the client's parent holds of all its keyed servers.
pub struct Client {
    id: Id,
    links: Vec<Link>,
    /// The link whose turn it is.
    turn: usize,
    session: Option<Session>,
    /// A session is wanted, or another one.
    wanted: bool,
    /// No OPEN is due before.
    next_open: Option<Instant>,
    /// When the last nudge was answered.
    nudged: Option<Instant>,
    /// So long after the server was heard last it is silent.
    patience: Option<Duration>,
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
    ec: Public,
    stage: Stage,
    drawn: Duration,
}

enum Stage {
    /// For a challenge. This is the private key.
    Asking(Key),
    /// For the session that the challenge `es` has led to.
    Accepting { es: Public, session: Box<Pending> },
}

/// A session that the server has not used yet.
struct Pending {
    name: Name,
    sealer: Sealer,
    ping: Sealer,
    down: Opener,
}

struct Session {
    server: Id,
    made: Instant,
    heard: Instant,
    renewal: Instant,
    name: Name,
    ping: Sealer,
    down: Opener,
}

impl Attempt {
    /// With a fresh key. `None` without random numbers.
    fn new(random: Random<'_>) -> Option<Self> {
        let mut private = Key::new([0; KEY_LEN]);
        let mut drawn = [0];
        if !random(private.bytes_mut()) || !random(&mut drawn) {
            return None;
        }
        Some(Self {
            ec: public(&private),
            stage: Stage::Asking(private),
            drawn: Duration::from_secs((drawn[0] % DRAWN).into()),
        })
    }

    /// The server's challenge has come: derives the session that is pending from now on.
    fn accept(&mut self, es: Public, pair: &Pair) -> Result<(), Discard> {
        let Stage::Asking(private) = &self.stage else {
            return Err(Discard::Stray);
        };
        let keys = pair.session(private, &es, (&self.ec, &es));
        let SessionKeys {
            word,
            data,
            ping,
            down,
            name,
        } = keys.ok_or(Discard::WeakKey)?;
        let session = Box::new(Pending {
            name,
            sealer: Sealer::new(word, data, pair.client, DATA, name),
            ping: Sealer::new(word, ping, pair.client, PING, name),
            down: Opener::new(word, down),
        });
        // The private key is erased by this.
        self.stage = Stage::Accepting { es, session };
        Ok(())
    }
}

impl Link {
    /// The attempt's OPEN, with a number of its own: some carriers drop identical datagrams.
    fn open(&mut self) -> Option<Handshake> {
        let attempt = self.attempt.as_ref()?;
        self.number = self.number.wrapping_add(1);
        let content = Content {
            number: self.number,
            ec: attempt.ec,
            es: match &attempt.stage {
                Stage::Asking(_) => [0; KEY_LEN],
                Stage::Accepting { es, .. } => *es,
            },
        };
        Some(handshake::encode(
            &self.pair.client,
            OPEN,
            &content,
            &self.pair.open,
        ))
    }

    /// A new attempt that accepts this challenge.
    fn attempt_with(&mut self, es: Public, random: Random<'_>) -> Result<(), Discard> {
        let mut attempt = Attempt::new(random).ok_or(Discard::NoRandom)?;
        attempt.accept(es, &self.pair)?;
        self.attempt = Some(attempt);
        Ok(())
    }
}

impl Session {
    /// Whether this is the header of something that we, or our child, have sent in it.
    fn is_ours(&self, header: &[u8], client: Id) -> bool {
        matches!(header.split_first_chunk(), Some((id, [DATA | PING, a, b, c, ..]))
            if *id == client && [*a, *b, *c] == self.name)
    }
}

impl Client {
    /// For these servers, whose files hold the same word. `keepalive` is its interval, `None` if
    /// there is none.
    pub fn new(
        id: Id,
        servers: Vec<(Id, impl Into<Rc<Secret>>)>,
        keepalive: Option<Duration>,
    ) -> Self {
        let mut client = Self {
            id,
            links: Vec::new(),
            turn: 0,
            session: None,
            wanted: true,
            next_open: None,
            nudged: None,
            patience: keepalive.map(|interval| 2 * interval + Duration::from_secs(5)),
        };
        client.set_servers(servers);
        client
    }

    /// Goes on with these servers. Whose secret is the same keeps attempt and session. Returns
    /// whether the session is lost: the child ends then.
    pub fn set_servers(&mut self, servers: Vec<(Id, impl Into<Rc<Secret>>)>) -> bool {
        let mut old = std::mem::take(&mut self.links);
        for (server, secret) in servers {
            let secret = secret.into();
            let same = old
                .iter()
                .position(|link| link.pair.server == server && link.pair.secret.is_same(&secret));
            self.links.push(match same {
                Some(index) => old.swap_remove(index),
                None => Link {
                    pair: Pair::new(secret, self.id, server),
                    number: 0,
                    attempt: None,
                },
            });
        }
        self.turn = 0;
        let is_gone = |session: &Session| old.iter().any(|link| link.pair.server == session.server);
        let lost = self.session.take_if(|session| is_gone(session)).is_some();
        self.wanted |= lost;
        lost
    }

    /// The server of the session.
    pub fn server(&self) -> Option<Id> {
        self.session.as_ref().map(|session| session.server)
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
        let Some(session) = &self.session else {
            return (!self.links.is_empty()).then(|| self.next_open.unwrap_or(now));
        };
        let open = if self.wanted {
            self.next_open.unwrap_or(now)
        } else {
            self.silent_at()
                .map_or(session.renewal, |at| at.min(session.renewal))
        };
        Some(open.min(session.made + LIFE))
    }

    fn silent_at(&self) -> Option<Instant> {
        Some(self.session.as_ref()?.heard + self.patience?)
    }

    /// To be called until nothing is due.
    pub fn on_deadline(&mut self, now: Instant, random: Random<'_>) -> Due {
        if self.session_age(now).is_some_and(|age| age >= LIFE) {
            self.session = None;
            return Due::Expired;
        }
        let is_silent = self.silent_at().is_some_and(|at| now >= at);
        let is_old = self
            .session
            .as_ref()
            .is_none_or(|session| now >= session.renewal);
        if !self.wanted && (is_silent || is_old) {
            self.renew();
        }
        if !self.wanted || self.next_open.is_some_and(|at| now < at) {
            return Due::Nothing;
        }
        let Some(index) = self.take_turn(is_silent) else {
            return Due::Nothing;
        };
        self.next_open = Some(now + PACE);
        let link = &mut self.links[index];
        if link.attempt.is_none() {
            link.attempt = Attempt::new(random);
        }
        link.open().map_or(Due::NoRandom, Due::Open)
    }

    /// The link to open with: the session's, unless it is silent; else each in turn.
    fn take_turn(&mut self, is_silent: bool) -> Option<usize> {
        if let Some(session) = &self.session
            && !is_silent
        {
            return self
                .links
                .iter()
                .position(|link| link.pair.server == session.server);
        }
        let index = self.turn.checked_rem(self.links.len())?;
        self.turn = index + 1;
        Some(index)
    }

    /// The ping for a keepalive that is due. `None` without a session: OPENs stand for it.
    pub fn ping(&mut self) -> Option<Empty> {
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
    ) -> Decision {
        let decision = match Message::of(datagram) {
            Ok(Message::Packet(header)) => self.on_packet(header, datagram, now),
            Ok(Message::Challenge(bytes)) => self.on_challenge(bytes, now, random),
            Ok(Message::Open(_)) => Err(Discard::Malformed),
            Err(discard) => Err(discard),
        };
        decision.unwrap_or_else(Decision::Drop)
    }

    fn on_packet(
        &mut self,
        header: Header,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<Decision, Discard> {
        if header.is_ping {
            return Err(Discard::Malformed);
        }
        if self.wanted
            && let Some(up) = self.try_pending(header, datagram, now)
        {
            return Ok(Decision::Up(up));
        }
        let session = self
            .session
            .as_mut()
            .filter(|session| session.name == header.name && datagram.starts_with(&session.server));
        let session = session.ok_or(Discard::NoSession)?;
        session.down.open(header.counter, datagram)?;
        session.heard = now;
        Ok(session::payload(datagram)?.map_or(Decision::Heard, Decision::Data))
    }

    /// A DATA under a session that is pending makes it the session.
    #[cold]
    fn try_pending(
        &mut self,
        header: Header,
        datagram: &mut [u8],
        now: Instant,
    ) -> Option<Box<Up>> {
        let link = self
            .links
            .iter_mut()
            .find(|link| datagram.starts_with(&link.pair.server))?;
        let attempt = link.attempt.as_mut()?;
        let Stage::Accepting {
            session: pending, ..
        } = &mut attempt.stage
        else {
            return None;
        };
        if pending.name != header.name || pending.down.open(header.counter, datagram).is_err() {
            return None;
        }
        let server = link.pair.server;
        let Attempt {
            stage: Stage::Accepting {
                session: pending, ..
            },
            drawn,
            ..
        } = link.attempt.take()?
        else {
            return None;
        };
        for link in &mut self.links {
            link.attempt = None;
        }
        let Pending {
            name,
            sealer,
            mut ping,
            down,
        } = *pending;
        let first = ping.empty()?;
        self.session = Some(Session {
            server,
            made: now,
            heard: now,
            renewal: now + RENEWAL - drawn,
            name,
            ping,
            down,
        });
        self.wanted = false;
        Some(Box::new(Up {
            sealer,
            ping: first,
            packet: session::payload(datagram).ok().flatten(),
        }))
    }

    #[cold]
    fn on_challenge(
        &mut self,
        bytes: &Handshake,
        now: Instant,
        random: Random<'_>,
    ) -> Result<Decision, Discard> {
        let links = &mut self.links;
        let link = links
            .iter_mut()
            .find(|link| bytes.starts_with(&link.pair.server));
        let link = link.ok_or(Discard::Stray)?;
        let chal = handshake::decode(bytes, &link.pair.challenge).ok_or(Discard::WrongTag)?;
        match &mut link.attempt {
            Some(attempt) if attempt.ec == chal.ec => match &attempt.stage {
                Stage::Asking(_) => attempt.accept(chal.es, &link.pair)?,
                Stage::Accepting { es, .. } if *es == chal.es => return Err(Discard::Stray),
                // The server was restarted.
                Stage::Accepting { .. } => link.attempt_with(chal.es, random)?,
            },
            Some(Attempt {
                stage: Stage::Accepting { .. },
                ..
            }) => return Err(Discard::Stray),
            // A nudge: the server can't read what we send.
            _ => {
                let is_soon = |at| now.saturating_duration_since(at) < PACE;
                let is_ours = self.session.as_ref().is_some_and(|session| {
                    session.server == link.pair.server
                        && session.is_ours(&chal.ec[..HEADER_LEN], link.pair.client)
                });
                if !is_ours || self.nudged.is_some_and(is_soon) {
                    return Err(Discard::Stray);
                }
                link.attempt_with(chal.es, random)?;
                self.nudged = Some(now);
            }
        }
        self.wanted = true;
        self.next_open = Some(now + PACE);
        link.open().map(Decision::Open).ok_or(Discard::Stray)
    }

    /// How the links are protected; `None` if there is none.
    pub fn word(&self) -> Option<Word> {
        self.links.first().map(|link| link.pair.secret.word())
    }
}

#[cfg(test)]
mod tests {
    use super::super::handshake::CHALLENGE;
    use super::super::server::Server;
    use super::super::testing::{
        Both, CLIENT, SERVER, WEAK, WORDS, all, discarded, dropped, packet, secret, secret_of, slot,
    };
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A packet of the server's.
    fn down(both: &mut Both) -> Vec<u8> {
        let mut data = slot(&packet());
        assert!(both.server.seal(&mut data, both.now));
        data
    }

    fn is_data(decision: &Decision) -> bool {
        matches!(decision, Decision::Data(range) if *range == (HEADER_LEN..HEADER_LEN + packet().len()))
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
                    assert!(dropped(&both.at_client(&flipped)).is_some(), "bit {bit}");
                }
                for len in 0..datagram.len() {
                    assert!(
                        dropped(&both.at_client(&datagram[..len])).is_some(),
                        "{len}"
                    );
                }
                let long = [datagram, &[0]].concat();
                assert!(dropped(&both.at_client(&long)).is_some());
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
            assert_eq!(dropped(&both.at_client(&data)), Some(Discard::Replayed));
            assert_eq!(dropped(&both.at_client(&empty)), Some(Discard::Replayed));
        }
    }

    #[test]
    fn what_a_server_does_not_send() {
        let mut both = Both::new(Word::Sign);
        let open = both.open();
        let mut up = both.connect_with(&open);
        for datagram in [&open[..], &up.ping] {
            let mut reflected = datagram.to_vec();
            assert!(dropped(&both.at_client(&reflected)).is_some());
            reflected[..8].copy_from_slice(&SERVER);
            assert_eq!(
                dropped(&both.at_client(&reflected)),
                Some(Discard::Malformed)
            );
        }
        let mut data = slot(&packet());
        assert!(up.sealer.seal(&mut data));
        assert_eq!(dropped(&both.at_client(&data)), Some(Discard::NoSession));
        assert!(up.sealer.seal(&mut data));
        data[..8].copy_from_slice(&SERVER);
        assert_eq!(dropped(&both.at_client(&data)), Some(Discard::Forged));
        let plain = [&SERVER[..], &packet()].concat();
        assert_eq!(dropped(&both.at_client(&plain)), Some(Discard::Plain));
        let mut junk = slot(b"\x01\x02");
        assert!(both.server.seal(&mut junk, both.now));
        assert_eq!(dropped(&both.at_client(&junk)), Some(Discard::NotIp));
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
        assert_eq!(dropped(&both.at_client(&challenge)), Some(Discard::Stray));
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
        assert!(matches!(both.at_client(&empty), Decision::Heard));
    }

    #[test]
    fn renewal() {
        for (byte, age) in [(0u8, 600), (127, 473), (128, 600), (255, 473)] {
            let mut both = Both::new(Word::Seal);
            let Due::Open(mut open) = both.client.on_deadline(both.now, &mut all(byte)) else {
                panic!("nothing due")
            };
            both.connect_with(&open);
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
            assert_eq!(dropped(&both.at_client(&late)), Some(Discard::NoSession));
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
        assert_eq!(dropped(&both.at_client(&data)), Some(Discard::Replayed));
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
        assert_eq!(dropped(&both.at_client(&nudge)), Some(Discard::Stray));
        let empty = both.opened(&open);
        both.up(&empty);
        // It is of the session before.
        both.now += SECOND;
        assert_eq!(dropped(&both.at_client(&nudge)), Some(Discard::Stray));

        let ping = both.client.ping().expect("a session");
        both.server = Server::new(secret(Word::Seal), CLIENT, SERVER);
        let nudge = both.challenge(&ping);
        both.accept(&nudge);
        for link in &mut both.client.links {
            link.attempt = None;
        }
        both.now += SECOND - Duration::from_millis(1);
        assert_eq!(dropped(&both.at_client(&nudge)), Some(Discard::Stray));
        both.now += Duration::from_millis(1);
        both.accept(&nudge);
        // Somebody else's packet, and another type.
        for (byte, value) in [(0, 0), (8, 0x11), (9, !ping[9])] {
            let mut foreign = ping;
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
            assert_eq!(dropped(&both.at_client(&nudge)), Some(Discard::Stray));
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
            assert_eq!(dropped(&both.at_client(&challenge)), Some(Discard::WeakKey));
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
            dropped(&sign.at_client(&challenge)),
            Some(Discard::WrongTag)
        );
        let challenge = sign.challenge(&other);
        assert_eq!(
            dropped(&seal.at_client(&challenge)),
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
        let answer = away.on_datagram(&mut first, both.now, &mut || true, &mut all(3));
        let super::super::server::Decision::Answer(answer) = answer else {
            panic!("no answer")
        };
        assert_eq!(
            dropped(&both.at_client(answer.as_ref())),
            Some(Discard::Stray)
        );
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
        assert_eq!(dropped(&both.at_client(&data)), Some(Discard::NoSession));
        both.server = Server::new(secret_of(Word::Seal, [9; 32]), CLIENT, SERVER);
        both.now += SECOND;
        both.connect();
        // None.
        assert!(both.client.set_servers(Vec::<(Id, Secret)>::new()));
        assert_eq!(both.client.deadline(both.now), None);
        assert!(matches!(both.due(), Due::Nothing));
        assert!(both.client.word().is_none());
    }
}
