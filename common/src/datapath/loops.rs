//! Packets that would come back for ever: the tunnel routed into itself, and tunnels that lead
//! through each other. Pure.

use std::net::SocketAddr;

use crate::datapath::destination::{is_addressed_to, udp_payload};
use crate::wire::id::PeerId;
use crate::wire::packet::HEADER_LEN;

/// A tunnel inside another one may have its reasons; the third of our headers is a loop.
const MAX_OWN: usize = 3;
/// Headers that are looked at. Of two tunnels in a loop every other one is ours.
const MAX_HEADERS: usize = 12;
/// The first byte of a payload that is sealed or signed, behind a header of 16 bytes.
const KEYED: u8 = 0x13;

/// How packets come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// The packet is for the peer's own address and port.
    Itself,
    /// The packet has come by here twice.
    Others,
}

/// Whether and how a packet that is to leave with this identifier for that endpoint would come
/// back. Of the datagrams in a super-packet it looks into the first one.
#[inline]
pub fn look(packet: &[u8], id: PeerId, endpoint: SocketAddr) -> Option<Loop> {
    if !may_be_udp(packet) {
        return None;
    }
    if is_addressed_to(packet, endpoint) {
        return Some(Loop::Itself);
    }
    let is_loop = may_hold_another(packet)
        && udp_payload(packet).is_some_and(|datagram| holds_own(datagram, id));
    is_loop.then_some(Loop::Others)
}

/// The protocol of IPv4, or the next header of IPv6 and its fragments: one look at a byte or two
/// lets all of TCP go.
#[inline]
fn may_be_udp(packet: &[u8]) -> bool {
    packet
        .get(..24)
        .is_some_and(|header| header[9] == 17 || matches!(header[6], 17 | 44))
}

/// Whether what lies behind a header of ours, if one begins the payload, looks like a packet. That
/// is so wherever packets go round: with each turn there is a header more.
#[inline]
fn may_hold_another(packet: &[u8]) -> bool {
    // IPv4 without options, IPv6, and its first fragment.
    [28, 48, 56]
        .iter()
        .any(|at| begins_packet(packet, at + HEADER_LEN))
}

#[inline]
fn begins_packet(bytes: &[u8], at: usize) -> bool {
    let byte = bytes.get(at);
    byte.is_some_and(|&byte| matches!(byte >> 4, 4 | 6) || byte == KEYED)
}

/// The same as [`look`] of a datagram's payload, for the others in a super-packet.
#[inline]
pub(crate) fn came_by(datagram: &[u8], id: PeerId) -> bool {
    begins_packet(datagram, HEADER_LEN) && holds_own(datagram, id)
}

/// Whether a UDP payload holds three headers with this identifier inside each other, perhaps with
/// others between.
#[cold]
fn holds_own(datagram: &[u8], id: PeerId) -> bool {
    let (mut datagram, mut own) = (Some(datagram), 0);
    for _ in 0..MAX_HEADERS {
        let Some((header, payload)) = datagram.and_then(<[u8]>::split_first_chunk::<HEADER_LEN>)
        else {
            return false;
        };
        own += usize::from(*header == id.bytes());
        if own == MAX_OWN {
            return true;
        }
        // One that is sealed can't be looked into.
        let packet = match payload.first() {
            Some(&KEYED) => payload.get(8..).unwrap_or_default(),
            _ => payload,
        };
        datagram = udp_payload(packet);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    const OWN: PeerId = PeerId::from_bytes([7; PeerId::LEN]);
    const OTHER: PeerId = PeerId::from_bytes([9; PeerId::LEN]);

    /// How a header of ours is wrapped.
    #[derive(Clone, Copy, Debug)]
    enum Outer {
        V4,
        V6,
        Fragment4,
        Fragment6,
    }

    use Outer::{Fragment4, Fragment6, V4, V6};

    /// A packet with the datagram of a tunnel: `inner` behind an identifier.
    fn wrap(outer: Outer, id: PeerId, inner: &[u8]) -> Vec<u8> {
        let mut packet = match outer {
            V4 | Fragment4 => vec![0; 20],
            V6 => vec![0; 40],
            Fragment6 => vec![0; 48],
        };
        match outer {
            V4 => (packet[0], packet[9]) = (0x45, 17),
            // More fragments to come.
            Fragment4 => (packet[0], packet[6], packet[9]) = (0x45, 0x20, 17),
            V6 => (packet[0], packet[6]) = (0x60, 17),
            Fragment6 => (packet[0], packet[6], packet[40], packet[43]) = (0x60, 44, 17, 1),
        }
        packet.extend([0; 8]);
        packet.extend(id.bytes());
        packet.extend(inner);
        packet
    }

    fn nest(headers: &[(Outer, PeerId)]) -> Vec<u8> {
        let keepalive = vec![1, 0, 0, 0, 1];
        let wrapped = headers.iter().rev();
        wrapped.fold(keepalive, |inner, &(outer, id)| wrap(outer, id, &inner))
    }

    fn is_loop(packet: &[u8]) -> bool {
        let endpoint = ([192, 0, 2, 1], 5886).into();
        look(packet, OWN, endpoint) == Some(Loop::Others)
    }

    #[test]
    fn the_third_own_header_is_a_loop() {
        for outer in [V4, V6, Fragment4, Fragment6] {
            assert!(!is_loop(&nest(&[(outer, OWN)])), "{outer:?}");
            assert!(!is_loop(&nest(&[(outer, OWN), (V6, OWN)])), "{outer:?}");
            for inner in [V4, V6] {
                let three = nest(&[(outer, OWN), (inner, OWN), (V4, OWN)]);
                assert!(is_loop(&three), "{outer:?} {inner:?}");
                assert!(came_by(udp_payload(&three).expect("a datagram"), OWN));
                // With others' between, whichever is the outermost.
                let mixed = [OTHER, OWN, OTHER, OWN, OTHER, OWN].map(|id| (inner, id));
                assert!(is_loop(&nest(&mixed)), "{inner:?}");
                assert!(!is_loop(&nest(&mixed[..5])), "{inner:?}");
            }
        }
        assert!(!is_loop(&nest(&[(V4, OTHER); 12])));
        let mut far = vec![(V4, OTHER); 10];
        far.extend([(V4, OWN); 3]);
        assert!(!is_loop(&nest(&far)), "the thirteenth header");
    }

    #[test]
    fn signed_packets_are_looked_into() {
        // Type, session and counter (16 bytes with the identifier), then the packet.
        let signed = |inner: &[u8]| [&[KEYED, 1, 2, 3, 0, 0, 0, 1], inner].concat();
        let once = wrap(V4, OWN, &signed(&[0x45; 40]));
        let twice = wrap(V4, OWN, &signed(&once));
        assert!(!is_loop(&once) && !is_loop(&twice));
        assert!(is_loop(&wrap(V4, OWN, &signed(&twice))));
    }

    #[test]
    fn truncated_and_damaged_at_every_length() {
        let whole = nest(&[(V4, OWN), (V6, OWN), (V4, OWN)]);
        let end = 28 + 8 + 48 + 8 + 28 + 8;
        for len in 0..whole.len() {
            assert_eq!(is_loop(&whole[..len]), len >= end, "{len}");
        }
        let mut random = Random::new(6);
        for _ in 0..100_000 {
            let mut packet = whole.clone();
            random.flip(&mut packet);
            is_loop(&packet[..random.below(packet.len() + 1)]);
        }
    }
}
