//! DATA and PING: how the packets of a session are sealed and opened, in place.

use std::ops::Range;

use super::Id;
use super::cipher::{self, Key, TAG_LEN, hash};
use super::discard::{Discard, Result};
use super::handshake::{CHALLENGE, Handshake, OPEN};
use super::secret::Word;
use super::window::Window;

/// Type of a packet.
pub(super) const DATA: u8 = 0x13;
/// Type of a client's question whether the session stands.
pub(super) const PING: u8 = 0x14;

/// Bytes before the payload.
pub const HEADER_LEN: usize = 16;
/// Bytes that a keyed link adds to a packet.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

/// Senders stop before the counter could begin again.
const LAST_COUNTER: u32 = u32::MAX - 65536;

/// A name of a session.
pub(super) type Name = [u8; 3];

/// The header of a DATA or PING.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) is_ping: bool,
    pub(super) name: Name,
    pub(super) counter: u32,
}

/// A datagram by its type; the tag is not looked at yet.
pub(super) enum Message<'a> {
    Open(&'a Handshake),
    Challenge(&'a Handshake),
    Packet(Header),
}

impl<'a> Message<'a> {
    /// Never reads beyond the datagram, whose first 8 bytes have told the sender.
    #[inline]
    pub(super) fn of(datagram: &'a [u8]) -> Result<Self> {
        let Some((header, _)) = datagram.split_first_chunk::<HEADER_LEN>() else {
            return Err(not_keyed(datagram));
        };
        let &[.., kind, a, b, c, n0, n1, n2, n3] = header;
        match (kind, datagram.len()) {
            (DATA, OVERHEAD..) | (PING, OVERHEAD) => Ok(Self::Packet(Header {
                is_ping: kind == PING,
                name: [a, b, c],
                counter: u32::from_be_bytes([n0, n1, n2, n3]),
            })),
            (OPEN | CHALLENGE, _) if [a, b, c] == [0; 3] => {
                let bytes = datagram.try_into().map_err(|_| Discard::Malformed)?;
                Ok(match kind {
                    OPEN => Self::Open(bytes),
                    _ => Self::Challenge(bytes),
                })
            }
            _ => Err(not_keyed(datagram)),
        }
    }
}

/// Whether it is of a plain link, or nothing at all.
#[cold]
fn not_keyed(datagram: &[u8]) -> Discard {
    match datagram.get(8..) {
        Some([] | [0x01 | 0x02, _, _, _, _]) => Discard::Plain,
        Some([first, ..]) if matches!(first >> 4, 4 | 6) => Discard::Plain,
        _ => Discard::Malformed,
    }
}

/// What the keys of a session come from, each by its label.
pub(super) struct SessionKey {
    pub(super) word: Word,
    pub(super) key: Key,
    pub(super) name: Name,
}

impl SessionKey {
    /// What makes this sender's packets of this type.
    pub(super) fn sealer(&self, label: &str, sender: Id, kind: u8) -> Sealer {
        let mut start = [0; 12];
        start[..8].copy_from_slice(&sender);
        start[8] = kind;
        start[9..].copy_from_slice(&self.name);
        Sealer {
            word: self.word,
            key: self.key(label),
            counter: 0,
            start,
        }
    }

    /// What opens them at the other end.
    pub(super) fn opener<const WORDS: usize>(&self, label: &str) -> Opener<WORDS> {
        Opener {
            word: self.word,
            key: self.key(label),
            name: self.name,
            window: Window::new(),
        }
    }

    pub(super) fn key(&self, label: &str) -> Key {
        hash(&self.key, &[label.as_bytes()])
    }
}

/// The sending half of a session: one key, one counter. It is moved to where it is used, a child
/// for instance; what is left behind is overwritten.
pub struct Sealer {
    word: Word,
    key: Key,
    /// The last one used.
    pub(super) counter: u32,
    /// Identifier, type and name.
    start: [u8; 12],
}

impl Sealer {
    /// Makes the datagram of a packet that lies in `slot` behind room for [`HEADER_LEN`] bytes and
    /// before room for [`TAG_LEN`], and writes header and tag there. False, with the slot of no
    /// more use, if there is no counter left, or no room: nothing may be sent then.
    #[must_use]
    #[inline]
    pub fn seal(&mut self, slot: &mut [u8]) -> bool {
        self.try_seal(slot).is_some()
    }

    fn try_seal(&mut self, slot: &mut [u8]) -> Option<()> {
        let (authenticated, tag) = slot.split_last_chunk_mut()?;
        let header = authenticated.first_chunk_mut::<HEADER_LEN>()?;
        if self.counter >= LAST_COUNTER {
            return None;
        }
        // Used up even if what follows fails: never twice.
        self.counter += 1;
        header[..12].copy_from_slice(&self.start);
        header[12..].copy_from_slice(&self.counter.to_be_bytes());
        let (aad, text) = parts(self.word, authenticated)?;
        *tag = cipher::seal(&self.key, self.counter, aad, text)?;
        Some(())
    }

    /// A datagram without payload.
    pub(super) fn empty(&mut self) -> Option<Vec<u8>> {
        let mut slot = vec![0; OVERHEAD];
        self.seal(&mut slot).then_some(slot)
    }
}

/// What is authenticated only, and what is encrypted.
#[inline]
fn parts(word: Word, bytes: &mut [u8]) -> Option<(&[u8], &mut [u8])> {
    let (aad, text) = bytes.split_at_mut_checked(match word {
        Word::Seal => HEADER_LEN,
        Word::Sign => bytes.len(),
    })?;
    Some((aad, text))
}

/// Where the payload of an opened DATA is, if it holds one.
#[inline]
pub(super) fn payload(datagram: &[u8]) -> Result<Option<Range<usize>>> {
    let range = HEADER_LEN..datagram.len().saturating_sub(TAG_LEN);
    match datagram.get(range.clone()) {
        Some([]) => Ok(None),
        Some([first, ..]) if matches!(first >> 4, 4 | 6) => Ok(Some(range)),
        _ => Err(Discard::NotIp),
    }
}

/// The receiving half of a session: one key and what has been seen.
pub(super) struct Opener<const WORDS: usize> {
    word: Word,
    key: Key,
    pub(super) name: Name,
    window: Window<WORDS>,
}

impl<const WORDS: usize> Opener<WORDS> {
    /// Checks the datagram of this header and decrypts its payload in place. Returns whether its
    /// counter is the highest so far. What is refused stays as it is.
    #[inline]
    pub(super) fn open(&mut self, header: Header, datagram: &mut [u8]) -> Result<bool> {
        if header.name != self.name {
            return Err(Discard::NoSession);
        }
        if !self.window.is_new(header.counter) {
            return Err(Discard::Replayed);
        }
        let (authenticated, tag) = datagram.split_last_chunk_mut().ok_or(Discard::Malformed)?;
        let (aad, text) = parts(self.word, authenticated).ok_or(Discard::Malformed)?;
        if !cipher::open(&self.key, header.counter, aad, text, tag) {
            return Err(Discard::Forged);
        }
        Ok(self.window.mark(header.counter))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{WORDS, packet, slot};
    use super::super::window::WIDE;
    use super::*;

    fn session(word: Word) -> SessionKey {
        SessionKey {
            word,
            key: Key::new([7; 32]),
            name: [2, 3, 5],
        }
    }

    fn sealer(word: Word) -> Sealer {
        session(word).sealer("data", [1; 8], DATA)
    }

    fn opener(word: Word) -> Opener<WIDE> {
        session(word).opener("data")
    }

    fn header(counter: u32) -> Header {
        Header {
            is_ping: false,
            name: [2, 3, 5],
            counter,
        }
    }

    #[test]
    fn sealed_and_opened() {
        for word in WORDS {
            let (mut sealer, mut opener) = (sealer(word), opener(word));
            for len in (0..200).chain(1400..1500) {
                let packet: Vec<u8> = (0..=255).map(|n| 0x45 ^ n).cycle().take(len).collect();
                let mut data = slot(&packet);
                assert!(sealer.seal(&mut data));
                let end = HEADER_LEN + packet.len();
                assert_eq!(
                    data[HEADER_LEN..end] == packet,
                    word == Word::Sign || len == 0
                );
                let Ok(Message::Packet(header)) = Message::of(&data) else {
                    panic!("not understood")
                };
                assert_eq!(opener.open(header, &mut data), Ok(true));
                assert_eq!(data[HEADER_LEN..end], packet);
                let range = (len > 0).then_some(HEADER_LEN..end);
                assert_eq!(payload(&data), Ok(range));
            }
        }
    }

    /// What is refused stays as it is, and is not marked as seen.
    #[test]
    fn every_bit() {
        for word in WORDS {
            let mut opener = opener(word);
            let mut data = slot(&packet());
            assert!(sealer(word).seal(&mut data));
            for bit in 0..8 * data.len() {
                let mut flipped = data.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let before = flipped.clone();
                assert_eq!(
                    opener.open(header(1), &mut flipped),
                    Err(Discard::Forged),
                    "bit {bit}"
                );
                assert_eq!(flipped, before);
            }
            for len in 0..data.len() {
                assert!(
                    opener.open(header(1), &mut data[..len].to_vec()).is_err(),
                    "{len}"
                );
            }
            let mut other = header(1);
            other.name[2] = 7;
            let opened = opener.open(other, &mut data.clone());
            assert_eq!(opened, Err(Discard::NoSession));
            let mut long = data.clone();
            long.push(0);
            assert_eq!(opener.open(header(1), &mut long), Err(Discard::Forged));
            assert_eq!(
                opener.open(header(2), &mut data.clone()),
                Err(Discard::Forged)
            );
            assert_eq!(opener.open(header(1), &mut data.clone()), Ok(true));
            assert_eq!(opener.open(header(1), &mut data), Err(Discard::Replayed));
        }
    }

    #[test]
    fn the_counter_ends() {
        let mut sealer = sealer(Word::Sign);
        sealer.counter = LAST_COUNTER - 1;
        let mut data = slot(&packet());
        assert!(sealer.seal(&mut data));
        assert_eq!(data[12..16], [0xff, 0xfe, 0xff, 0xff]);
        assert!(!sealer.seal(&mut data) && !sealer.seal(&mut data));
    }

    #[test]
    fn no_room() {
        let mut sealer = sealer(Word::Seal);
        for len in 0..OVERHEAD {
            assert!(!sealer.seal(&mut vec![0; len]), "{len}");
        }
        assert!(sealer.seal(&mut [0; OVERHEAD]));
    }

    #[test]
    fn types() {
        let kind = |bytes: &[u8], len: usize| {
            let mut datagram = [&[1; 8], bytes].concat();
            datagram.resize(len, 0);
            match Message::of(&datagram) {
                Ok(Message::Open(_)) => Ok(OPEN),
                Ok(Message::Challenge(_)) => Ok(CHALLENGE),
                Ok(Message::Packet(header)) => Ok(if header.is_ping { PING } else { DATA }),
                Err(discard) => Err(discard),
            }
        };
        for (bytes, len, wanted) in [
            (&[0x11][..], 96, Ok(OPEN)),
            (&[0x12], 96, Ok(CHALLENGE)),
            (&[0x13], 32, Ok(DATA)),
            (&[0x13], 96, Ok(DATA)),
            (&[0x13], 65535, Ok(DATA)),
            (&[0x14], 32, Ok(PING)),
            (&[0x11], 95, Err(Discard::Malformed)),
            (&[0x11], 97, Err(Discard::Malformed)),
            (&[0x11, 0, 0, 1], 96, Err(Discard::Malformed)),
            (&[0x12, 1], 96, Err(Discard::Malformed)),
            (&[0x12], 16, Err(Discard::Malformed)),
            (&[0x13], 31, Err(Discard::Malformed)),
            (&[0x14], 33, Err(Discard::Malformed)),
            (&[0x14], 31, Err(Discard::Malformed)),
            (&[0x10], 96, Err(Discard::Malformed)),
            (&[0x15], 96, Err(Discard::Malformed)),
            (&[0x01], 96, Err(Discard::Malformed)),
            (&[0xff], 96, Err(Discard::Malformed)),
            (&[], 8, Err(Discard::Plain)),
            (&[], 7, Err(Discard::Malformed)),
            (&[], 0, Err(Discard::Malformed)),
            (&[0x45], 28, Err(Discard::Plain)),
            (&[0x45], 9, Err(Discard::Plain)),
            (&[0x60], 1428, Err(Discard::Plain)),
            (&[0x01], 13, Err(Discard::Plain)),
            (&[0x02], 13, Err(Discard::Plain)),
        ] {
            assert_eq!(kind(bytes, len), wanted, "{bytes:02x?} of {len}");
        }
    }
}
