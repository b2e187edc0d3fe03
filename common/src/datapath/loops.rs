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
    // Asked for each packet. So a few bytes let nearly all go: all but UDP, and of UDP what is for
    // another address and holds no packet where that would be behind a header of ours.
    let Some(header) = packet.first_chunk::<40>() else {
        return look_closely(packet, id, endpoint);
    };
    let is_ordinary = match (header[0] >> 4, endpoint) {
        (4, _) if header[9] != 17 => true,
        (4, SocketAddr::V4(to)) if header[16..20] == to.ip().octets() => false,
        // The header has no options.
        (4, _) => !MAY_BEGIN_PACKET[usize::from(header[28 + HEADER_LEN])],
        (6, _) => !matches!(header[6], 17 | 44),
        _ => true,
    };
    match is_ordinary {
        true => None,
        false => look_closely(packet, id, endpoint),
    }
}

#[inline(never)]
fn look_closely(packet: &[u8], id: PeerId, endpoint: SocketAddr) -> Option<Loop> {
    if is_addressed_to(packet, endpoint) {
        return Some(Loop::Itself);
    }
    came_by(udp_payload(packet)?, id).then_some(Loop::Others)
}

/// The same of a datagram's payload, for the others in a super-packet. Wherever packets go round
/// there is a header more with each turn, and a packet behind each.
#[inline]
pub(super) fn came_by(datagram: &[u8], id: PeerId) -> bool {
    let byte = datagram.get(HEADER_LEN);
    byte.is_some_and(|&byte| MAY_BEGIN_PACKET[usize::from(byte)]) && holds_own(datagram, id)
}

/// First bytes behind a header of ours with a packet in it.
static MAY_BEGIN_PACKET: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = matches!(byte >> 4, 4 | 6) || byte == KEYED as usize;
        byte += 1;
    }
    table
};

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
