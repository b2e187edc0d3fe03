//! The keys of a pair of peers, and of a session.

use std::rc::Rc;

use super::Id;
use super::cipher::{Key, Public, agree, hash};
use super::secret::{Secret, Word};

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

/// The keys of a session, and its name.
pub(super) struct SessionKeys {
    pub(super) word: Word,
    /// DATA of the client.
    pub(super) data: Key,
    pub(super) ping: Key,
    /// DATA of the server.
    pub(super) down: Key,
    pub(super) name: [u8; 3],
}

impl Pair {
    pub(super) fn new(secret: impl Into<Rc<Secret>>, client: Id, server: Id) -> Self {
        let secret = secret.into();
        Self {
            open: secret.derive("open", &[&client, &server]),
            challenge: secret.derive("chal", &[&client, &server]),
            secret,
            client,
            server,
        }
    }

    /// The session of the client's and the server's public key. `None` if the other's is of small
    /// order.
    pub(super) fn session(
        &self,
        private: &Key,
        other: &Public,
        (ec, es): (&Public, &Public),
    ) -> Option<SessionKeys> {
        let shared = agree(private, other)?;
        let parts: [&[u8]; 5] = [&self.client, &self.server, ec, es, shared.bytes()];
        let session = self.secret.derive("sess", &parts);
        let [a, b, c, ..] = *hash(&session, &[b"name"]).bytes();
        Some(SessionKeys {
            word: self.secret.word(),
            data: hash(&session, &[b"data"]),
            ping: hash(&session, &[b"ping"]),
            down: hash(&session, &[b"down"]),
            name: [a, b, c | 1],
        })
    }
}
