//! Why a datagram is dropped.

use std::fmt;

/// What to do about a datagram, or why to drop and count it.
pub type Result<T> = std::result::Result<T, Discard>;

/// Why a datagram of a keyed peer is dropped without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// It is one of a plain link.
    Plain,
    /// Length, type or reserved bytes are none that the sender could have meant.
    Malformed,
    /// The tag of an OPEN or CHAL: another key, word or identifier.
    WrongTag,
    /// A handshake that answers nothing that was asked: late, repeated, or replayed.
    Stray,
    /// An OPEN less than a second after the last one that was accepted, or while there can be no
    /// tun. It comes again.
    NotNow,
    /// The other's public key is of small order.
    WeakKey,
    /// It names no session, and no more such are answered in this second.
    NoSession,
    /// Its counter was seen before, or is too old to know.
    Replayed,
    /// The tag of a DATA or PING.
    Forged,
    /// The right tag, but what is in it is no IP packet.
    NotIp,
    /// There are no random numbers yet.
    NoRandom,
}

impl Discard {
    /// How many there are, for a table of counts by `as usize`.
    pub const COUNT: usize = Self::NoRandom as usize + 1;
}

impl fmt::Display for Discard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "a plain packet",
            Self::Malformed => "malformed",
            Self::WrongTag => "made with another key, word or identifier",
            Self::Stray => "a late or repeated handshake",
            Self::NotNow => "a session too soon after the last",
            Self::WeakKey => "a weak public key",
            Self::NoSession => "of no session",
            Self::Replayed => "replayed",
            Self::Forged => "forged",
            Self::NotIp => "not an IP packet",
            Self::NoRandom => "no random numbers yet",
        })
    }
}
