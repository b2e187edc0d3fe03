//! What a pair of peers shares, and what they derive from it for a session.

use std::rc::Rc;

use super::Id;
use super::cipher::{Key, Public, agree, hash};
use super::secret::Secret;
use super::session::SessionKey;

/// What a client and a server share before any session.
pub(super) struct Pair {
    pub(super) secret: Rc<Secret>,
    pub(super) client: Id,
    pub(super) server: Id,
    /// The tag key of OPEN.
    pub(super) open: Key,
    /// The tag key of CHAL.
    pub(super) challenge: Key,
}

impl Pair {
    pub(super) fn new(secret: Rc<Secret>, client: Id, server: Id) -> Self {
        Self {
            open: secret.derive("open", &[&client, &server]),
            challenge: secret.derive("chal", &[&client, &server]),
            secret,
            client,
            server,
        }
    }

    /// The session of the client's and the server's public key. `None` if the other's, which is one
    /// of them, is of small order.
    pub(super) fn session(
        &self,
        private: &Key,
        other: &Public,
        (ec, es): (&Public, &Public),
    ) -> Option<SessionKey> {
        let shared = agree(private, other)?;
        let parts: [&[u8]; 5] = [&self.client, &self.server, ec, es, shared.bytes()];
        let key = self.secret.derive("sess", &parts);
        let [a, b, c, ..] = *hash(&key, &[b"name"]).bytes();
        Some(SessionKey {
            word: self.secret.word(),
            key,
            name: [a, b, c | 1],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::cipher::public;
    use super::super::testing::{CLIENT, SERVER, WORDS, secret};
    use super::*;

    /// Or it could be zero, as the reserved bytes of a handshake are.
    #[test]
    fn the_names_lowest_bit_is_set() {
        let mut was_set = [false; 2];
        for byte in 0..32 {
            let (own, other) = (Key::new([byte; 32]), public(&Key::new([0x22; 32])));
            let pair = Pair::new(secret(WORDS[usize::from(byte % 2)]), CLIENT, SERVER);
            let session = pair.session(&own, &other, (&public(&own), &other));
            let session = session.expect("good points");
            let hash = hash(&session.key, &[b"name"]);
            let [a, b, c, ..] = *hash.bytes();
            assert_eq!(session.name[..2], [a, b]);
            assert_eq!(session.name[2] & 1, 1);
            assert_eq!(session.name[2] >> 1, c >> 1);
            was_set[usize::from(c & 1)] = true;
        }
        assert_eq!(was_set, [true; 2], "the hash alone would do");
    }
}
