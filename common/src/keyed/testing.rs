//! For the tests of keyed links: both sides, and a pair of them with a session.

use std::rc::Rc;
use std::time::Instant;

use super::client::{self, Client, Due, Up};
use super::discard::{Discard, Result};
use super::handshake::Handshake;
use super::secret::{Content, Secret, Word, line, parse};
use super::server::{self, Server};
use super::{HEADER_LEN, Id, TAG_LEN};

pub(super) const CLIENT: Id = [0xc1; 8];
pub(super) const SERVER: Id = [0x5e; 8];
pub(super) const WORDS: [Word; 2] = [Word::Seal, Word::Sign];

/// The vectors' key.
pub(super) fn secret(word: Word) -> Rc<Secret> {
    secret_of(
        word,
        std::array::from_fn(|n| u8::try_from(n).expect("below 32")),
    )
}

pub(super) fn secret_of(word: Word, key: [u8; 32]) -> Rc<Secret> {
    match parse(line(word, &key).as_bytes()) {
        Ok(Content::Keyed(secret)) => secret.into(),
        _ => panic!("not a line"),
    }
}

/// Always the same byte.
pub(super) fn all(byte: u8) -> impl FnMut(&mut [u8]) -> bool {
    move |bytes| {
        bytes.fill(byte);
        true
    }
}

/// Room, packet, room.
pub(super) fn slot(packet: &[u8]) -> Vec<u8> {
    [&[0; HEADER_LEN], packet, &[0; TAG_LEN]].concat()
}

/// Makes the slot's packet a datagram of the server's, if it has a session.
pub(super) fn seal(server: &mut Server, slot: &mut [u8], now: Instant) -> bool {
    server.sealer(now).is_some_and(|sealer| sealer.seal(slot))
}

/// One IP packet.
pub(super) fn packet() -> Vec<u8> {
    hex::decode("450000150000000040fd65ea0a0000010a00000278").expect("hex digits")
}

/// A seeded xorshift.
pub(super) struct Seeded(u64);

impl Seeded {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 20) % limit
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> bool {
        bytes.fill_with(|| self.next().to_le_bytes()[3]);
        true
    }
}

/// A client and its server, and how they talk when nothing is lost.
pub(super) struct Both {
    pub(super) client: Client,
    pub(super) server: Server,
    pub(super) random: Seeded,
    pub(super) now: Instant,
}

impl Both {
    pub(super) fn new(word: Word) -> Self {
        Self {
            client: Client::new(CLIENT, vec![(SERVER, secret(word))], None),
            server: Server::new(secret(word), CLIENT, SERVER),
            random: Seeded::new(1),
            now: Instant::now(),
        }
    }

    pub(super) fn due(&mut self) -> Due {
        self.client
            .on_deadline(self.now, &mut |bytes| self.random.fill(bytes))
    }

    /// The OPEN that is due.
    pub(super) fn open(&mut self) -> Handshake {
        match self.due() {
            Due::Open(open) => open.try_into().expect("96 bytes"),
            _ => panic!("no OPEN is due"),
        }
    }

    pub(super) fn at_server(&mut self, datagram: &[u8]) -> Result<server::Decision> {
        let random = &mut |bytes: &mut [u8]| self.random.fill(bytes);
        let mut datagram = datagram.to_vec();
        self.server
            .on_datagram(&mut datagram, self.now, true, random)
    }

    pub(super) fn at_client(&mut self, datagram: &[u8]) -> Result<client::Decision> {
        let random = &mut |bytes: &mut [u8]| self.random.fill(bytes);
        self.client
            .on_datagram(&mut datagram.to_vec(), self.now, random)
    }

    /// The CHAL that this leads to.
    pub(super) fn challenge(&mut self, datagram: &[u8]) -> Handshake {
        match self.at_server(datagram) {
            Ok(server::Decision::Answer(bytes)) => bytes.try_into().expect("96 bytes"),
            _ => panic!("no CHAL"),
        }
    }

    /// The OPEN that this CHAL leads to.
    pub(super) fn accept(&mut self, challenge: &Handshake) -> Handshake {
        match self.at_client(challenge) {
            Ok(client::Decision::Open(open)) => open.try_into().expect("96 bytes"),
            _ => panic!("no OPEN"),
        }
    }

    /// The DATA with which the server says that the session is there.
    pub(super) fn opened(&mut self, open: &Handshake) -> Vec<u8> {
        match self.at_server(open) {
            Ok(server::Decision::Opened(answer)) => answer,
            _ => panic!("no session"),
        }
    }

    pub(super) fn up(&mut self, data: &[u8]) -> Box<Up> {
        match self.at_client(data) {
            Ok(client::Decision::Up(up)) => up,
            _ => panic!("no session"),
        }
    }

    /// A new session.
    pub(super) fn connect(&mut self) -> Box<Up> {
        let open = self.open();
        self.connect_with(&open)
    }

    /// The session that this OPEN leads to.
    pub(super) fn connect_with(&mut self, open: &Handshake) -> Box<Up> {
        let challenge = self.challenge(open);
        let open = self.accept(&challenge);
        let data = self.opened(&open);
        self.up(&data)
    }
}

/// Why it was dropped.
pub(super) fn discarded<T>(decision: &Result<T>) -> Option<Discard> {
    decision.as_ref().err().copied()
}

/// The points of small order, and what is equal to them modulo 2^255 - 19.
pub(super) const WEAK: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];
