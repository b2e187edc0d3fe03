//! What is kept of a client whose file has a key: the protocol's state, and what was told of it.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::keyed::discard::Discard;
use common::keyed::secret::{Secret, Word};
use common::keyed::server::Server as Keyed;
use common::keyed::status::Status;
use common::peers::dropped::Dropped;
use common::report::log;
use common::report::throttle::Throttle;
use common::wire::id::PeerId;

/// More sessions than this within a minute are not those of one client.
const MAX_SESSIONS: u32 = 6;
/// Answers to the handshakes of one client within a second.
const MAX_ANSWERS: u32 = 100;
const MINUTE: Duration = Duration::from_secs(60);

/// The link of one client.
pub(crate) struct Link {
    /// The protocol.
    pub(crate) keyed: Keyed,
    client: PeerId,
    dropped: Dropped,
    /// Answers to handshakes and nudges since this time.
    answers: (u32, Instant),
    /// Sessions since this time.
    sessions: (u32, Instant),
    many: Throttle,
}

impl Link {
    /// Of a client with this secret.
    pub(crate) fn new(secret: Rc<Secret>, client: PeerId, server: PeerId, now: Instant) -> Self {
        Self {
            keyed: Keyed::new(secret, client.bytes(), server.bytes()),
            client,
            dropped: Dropped::default(),
            answers: (0, now),
            sessions: (0, now),
            many: Throttle::per_minute(),
        }
    }

    /// How it is protected.
    pub(crate) fn word(&self) -> Word {
        self.keyed.secret().word()
    }

    /// Whether this is its word and key.
    pub(crate) fn is_of(&self, secret: &Secret) -> bool {
        self.keyed.secret().is_same(secret)
    }

    /// For the report: the protection, how old the session is, and what was dropped.
    pub(crate) fn status(&self, now: Instant) -> Status<'_> {
        Status {
            protection: self.word().name(),
            session_age: self.keyed.session_age(now),
            discarded: Some(self.dropped.counts()),
        }
    }

    /// Whether a handshake that comes now is to be answered. A client sends one or two in a second;
    /// whoever repeats a recorded one without end must not keep the server from its work.
    pub(crate) fn is_answer_due(&mut self, now: Instant) -> bool {
        let (count, since) = &mut self.answers;
        if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
            (*count, *since) = (0, now);
        }
        *count = count.saturating_add(1);
        *count <= MAX_ANSWERS
    }

    /// A datagram was dropped.
    #[cold]
    pub(crate) fn discard(&mut self, reason: Discard, from: impl fmt::Display, now: Instant) {
        let Some(held_back) = self.dropped.add(reason, now) else {
            return;
        };
        let (client, word) = (self.client, self.word());
        match reason {
            Discard::WrongTag => log::warning(format_args!(
                "client {client}: dropped a handshake from {from} with another key, word or \
                 identifier; here it is {self}{held_back}"
            )),
            Discard::Plain => log::warning(format_args!(
                "client {client}: dropped a plain packet from {from}: its file here says \
                 {word}{held_back}"
            )),
            _ => log::warning(format_args!(
                "client {client}: dropped a datagram from {from}: {reason}{held_back}"
            )),
        }
    }

    /// There is a new session.
    pub(crate) fn opened(&mut self, from: impl fmt::Display, now: Instant) {
        let (client, word) = (self.client, self.word());
        log::debug(format_args!(
            "client {client}: {word} session up from {from}"
        ));
        let (count, since) = &mut self.sessions;
        if now.saturating_duration_since(*since) >= MINUTE {
            (*count, *since) = (0, now);
        }
        *count += 1;
        if *count > MAX_SESSIONS
            && let Some(held_back) = self.many.pass(now)
        {
            log::warning(format_args!(
                "client {client}: more than {MAX_SESSIONS} sessions within a minute, the last from \
                 {from}: are there two devices with one identifier and key?{held_back}"
            ));
        }
    }
}

/// As in `seal, check value 27f02d6d`: the value is the same at the other end.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keyed.secret().fmt(f)
    }
}

/// The links of clients that have no device yet, or no more.
#[derive(Default)]
pub(crate) struct Waiting(Vec<(PeerId, Box<Link>)>);

impl Waiting {
    /// A client's link, made if there is none.
    pub(crate) fn get_or_insert_with(
        &mut self,
        id: PeerId,
        make: impl FnOnce() -> Link,
    ) -> &mut Link {
        let place = self.place(id).unwrap_or_else(|place| {
            self.0.insert(place, (id, Box::new(make())));
            place
        });
        &mut self.0[place].1
    }

    /// Takes a client's link out: it has a device from now on.
    pub(crate) fn take(&mut self, id: PeerId) -> Option<Box<Link>> {
        let place = self.place(id).ok()?;
        Some(self.0.remove(place).1)
    }

    /// Keeps those for which this holds.
    pub(crate) fn retain(&mut self, holds: impl Fn(PeerId, &Link) -> bool) {
        self.0.retain(|(id, link)| holds(*id, link));
    }

    fn place(&self, id: PeerId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |(id, _)| *id)
    }
}
