//! The wire format: 8 bytes of the sender's identifier, then the payload. Pure.

use std::ops::RangeInclusive;

use crate::wire::id::PeerId;

/// Length of the header of each datagram, in bytes.
pub const HEADER_LEN: usize = PeerId::LEN;
/// The largest UDP payload there is, in bytes (RFC 768: 16-bit length, less its own 8).
pub const MAX_DATAGRAM: usize = 65_527;
/// Length of a keepalive and of its answer, in bytes.
const KEEPALIVE_LEN: usize = HEADER_LEN + 5;

const KEEPALIVE: u8 = 0x01;
const ANSWER: u8 = 0x02;
/// First bytes of what goes to and from keyed peers.
const KEYED: RangeInclusive<u8> = 0x11..=0x14;

/// What follows the header of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// One IP packet: all that follows the header.
    Packet,
    /// Nothing: the sender is alive.
    Alive,
    /// A keepalive with its counter; it asks for an answer.
    Keepalive(u32),
    /// The answer to the keepalive with this counter.
    Answer(u32),
    /// Of a keyed link: from and to keyed peers only.
    Keyed,
    /// Something of a later version: a sign of life, nothing more.
    Other,
}

impl Payload {
    /// What this payload is.
    #[inline(always)]
    pub fn of(payload: &[u8]) -> Self {
        match *payload {
            [first, ..] if matches!(first >> 4, 4 | 6) => Self::Packet,
            [] => Self::Alive,
            [KEEPALIVE, a, b, c, d] => Self::Keepalive(u32::from_be_bytes([a, b, c, d])),
            [ANSWER, a, b, c, d] => Self::Answer(u32::from_be_bytes([a, b, c, d])),
            [first, ..] if KEYED.contains(&first) => Self::Keyed,
            _ => Self::Other,
        }
    }
}

/// Splits a datagram into the sender's identifier and the payload; `None` if it is too short.
pub fn decapsulate(datagram: &[u8]) -> Option<(PeerId, &[u8])> {
    let (id, payload) = datagram.split_first_chunk::<HEADER_LEN>()?;
    Some((PeerId::from_bytes(*id), payload))
}

/// A keepalive of `id` with this counter.
pub fn keepalive(id: PeerId, counter: u32) -> [u8; KEEPALIVE_LEN] {
    control(id, KEEPALIVE, counter)
}

/// The answer of `id` to a keepalive with this counter.
pub fn answer(id: PeerId, counter: u32) -> [u8; KEEPALIVE_LEN] {
    control(id, ANSWER, counter)
}

fn control(id: PeerId, kind: u8, counter: u32) -> [u8; KEEPALIVE_LEN] {
    let mut datagram = [0; KEEPALIVE_LEN];
    datagram[..HEADER_LEN].copy_from_slice(&id.bytes());
    datagram[HEADER_LEN] = kind;
    datagram[HEADER_LEN + 1..].copy_from_slice(&counter.to_be_bytes());
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: PeerId = PeerId::from_bytes([1, 2, 3, 4, 5, 6, 7, 8]);

    fn payload_of(payload: &[u8]) -> Vec<u8> {
        [&ID.bytes(), payload].concat()
    }

    #[test]
    fn every_row_of_the_table() {
        let cases: [(&[u8], Payload); 18] = [
            (&[0x45, 0, 0, 20], Payload::Packet),
            (&[0x60, 0], Payload::Packet),
            (&[0x4f], Payload::Packet),
            (&[], Payload::Alive),
            (&[1, 0, 0, 1, 2], Payload::Keepalive(258)),
            (&[2, 0xff, 0, 0, 1], Payload::Answer(0xff00_0001)),
            (&[1], Payload::Other),
            (&[1, 0, 0, 0], Payload::Other),
            (&[1, 0, 0, 0, 0, 0], Payload::Other),
            (&[2, 0, 0, 0], Payload::Other),
            (&[2, 0, 0, 0, 0, 0], Payload::Other),
            (&[0, 0, 0, 0, 0], Payload::Other),
            (&[3, 0, 0, 0, 0], Payload::Other),
            (&[0xff; 1400], Payload::Other),
            (&[0x10, 0], Payload::Other),
            (&[0x11, 0], Payload::Keyed),
            (&[0x14], Payload::Keyed),
            (&[0x15], Payload::Other),
        ];
        for (payload, meaning) in cases {
            let datagram = payload_of(payload);
            assert_eq!(decapsulate(&datagram), Some((ID, payload)));
            assert_eq!(Payload::of(payload), meaning, "{payload:02x?}");
        }
    }

    #[test]
    fn short_datagrams() {
        for length in 0..HEADER_LEN {
            assert_eq!(decapsulate(&[0x45; HEADER_LEN][..length]), None);
        }
    }

    #[test]
    fn keepalives_as_on_the_wire() {
        let wire = [1, 2, 3, 4, 5, 6, 7, 8, 0x01, 0xde, 0xad, 0xbe, 0xef];
        assert_eq!(keepalive(ID, 0xdead_beef), wire);
        let meaning =
            |datagram: &[u8]| decapsulate(datagram).map(|(_, payload)| Payload::of(payload));
        assert_eq!(meaning(&wire), Some(Payload::Keepalive(0xdead_beef)));
        assert_eq!(meaning(&answer(ID, 7)), Some(Payload::Answer(7)));
        assert_eq!(answer(ID, 7).len(), keepalive(ID, 7).len());
    }
}
