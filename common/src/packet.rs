//! The wire format: 8 bytes of the sender's identifier, then the payload. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::id::PeerId;

/// Length of the header of each datagram, in bytes.
pub const HEADER_LEN: usize = PeerId::LEN;
/// The largest UDP payload there is, in bytes (RFC 768: 16-bit length, less its own 8).
pub const MAX_DATAGRAM: usize = 65_527;
/// Length of a keepalive and of its answer, in bytes.
pub const KEEPALIVE_LEN: usize = HEADER_LEN + 5;

const KEEPALIVE: u8 = 0x01;
const ANSWER: u8 = 0x02;

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
    /// Something of a later version: a sign of life, nothing more.
    Other,
}

/// Splits a datagram into the sender's identifier and the payload; `None` if it is too short.
pub fn decapsulate(datagram: &[u8]) -> Option<(PeerId, Payload)> {
    let (id, payload) = datagram.split_first_chunk::<HEADER_LEN>()?;
    Some((PeerId::from_bytes(*id), classify(payload)))
}

fn classify(payload: &[u8]) -> Payload {
    match *payload {
        [] => Payload::Alive,
        [KEEPALIVE, a, b, c, d] => Payload::Keepalive(u32::from_be_bytes([a, b, c, d])),
        [ANSWER, a, b, c, d] => Payload::Answer(u32::from_be_bytes([a, b, c, d])),
        [first, ..] if matches!(first >> 4, 4 | 6) => Payload::Packet,
        _ => Payload::Other,
    }
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

/// Whether an IP packet is a UDP datagram to `endpoint`: a packet of this tunnel, routed into
/// the tunnel itself. A later fragment has no port, but the first one is enough to end the loop.
pub fn is_addressed_to(packet: &[u8], endpoint: SocketAddr) -> bool {
    match endpoint.ip() {
        IpAddr::V4(address) => udp4_port(packet, address) == Some(endpoint.port()),
        IpAddr::V6(address) => udp6_port(packet, address) == Some(endpoint.port()),
    }
}

const UDP: u8 = 17;
const IPV6_FRAGMENT: u8 = 44;

/// Destination port of an IPv4 UDP packet to `address` (RFC 791, RFC 768).
fn udp4_port(packet: &[u8], address: Ipv4Addr) -> Option<u16> {
    if packet.get(16..20)? != address.octets() || packet[0] >> 4 != 4 || packet[9] != UDP {
        return None;
    }
    let first_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff == 0;
    let udp = packet.get(usize::from(packet[0] & 0x0f) * 4..)?;
    first_fragment.then(|| destination_port(udp)).flatten()
}

/// Destination port of an IPv6 UDP packet to `address`, fragmented or not (RFC 8200, 4.5).
fn udp6_port(packet: &[u8], address: Ipv6Addr) -> Option<u16> {
    if packet.get(24..40)? != address.octets() || packet[0] >> 4 != 6 {
        return None;
    }
    match packet[6] {
        UDP => destination_port(&packet[40..]),
        IPV6_FRAGMENT => match *packet.get(40..48)? {
            [UDP, _, high, low, ..] if u16::from_be_bytes([high, low]) >> 3 == 0 => {
                destination_port(&packet[48..])
            }
            _ => None,
        },
        _ => None,
    }
}

fn destination_port(udp: &[u8]) -> Option<u16> {
    let port = udp.get(2..4)?;
    Some(u16::from_be_bytes([port[0], port[1]]))
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
        let cases: [(&[u8], Payload); 14] = [
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
        ];
        for (payload, meaning) in cases {
            let datagram = payload_of(payload);
            assert_eq!(
                decapsulate(&datagram),
                Some((ID, meaning)),
                "{payload:02x?}"
            );
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
        assert_eq!(
            decapsulate(&wire),
            Some((ID, Payload::Keepalive(0xdead_beef)))
        );
        assert_eq!(decapsulate(&answer(ID, 7)), Some((ID, Payload::Answer(7))));
        assert_eq!(answer(ID, 7).len(), keepalive(ID, 7).len());
    }

    fn udp4(to: [u8; 4], port: u16, options: usize) -> Vec<u8> {
        let mut packet = vec![0; 20 + options + 8];
        packet[0] = 0x45 + u8::try_from(options / 4).expect("few options");
        packet[9] = UDP;
        packet[16..20].copy_from_slice(&to);
        packet[20 + options + 2..20 + options + 4].copy_from_slice(&port.to_be_bytes());
        packet
    }

    fn udp6(to: Ipv6Addr, port: u16, fragment: Option<u16>) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = UDP;
        packet[24..40].copy_from_slice(&to.octets());
        if let Some(offset) = fragment {
            packet[6] = IPV6_FRAGMENT;
            let [high, low] = (offset << 3 | 1).to_be_bytes();
            packet.extend([UDP, 0, high, low, 0, 0, 0, 1]);
        }
        packet.extend([0, 0]);
        packet.extend(port.to_be_bytes());
        packet.extend([0; 4]);
        packet
    }

    #[test]
    fn the_tunnel_in_itself_is_seen() {
        let v4: SocketAddr = "192.0.2.1:5886".parse().expect("an address");
        assert!(is_addressed_to(&udp4([192, 0, 2, 1], 5886, 0), v4));
        assert!(is_addressed_to(&udp4([192, 0, 2, 1], 5886, 8), v4));
        assert!(!is_addressed_to(&udp4([192, 0, 2, 1], 5887, 0), v4));
        assert!(!is_addressed_to(&udp4([192, 0, 2, 2], 5886, 0), v4));
        let mut tcp = udp4([192, 0, 2, 1], 5886, 0);
        tcp[9] = 6;
        assert!(!is_addressed_to(&tcp, v4));
        let mut later_fragment = udp4([192, 0, 2, 1], 5886, 0);
        later_fragment[7] = 1;
        assert!(!is_addressed_to(&later_fragment, v4));

        let address: Ipv6Addr = "2001:db8::1".parse().expect("an address");
        let v6 = SocketAddr::new(address.into(), 5886);
        assert!(is_addressed_to(&udp6(address, 5886, None), v6));
        assert!(is_addressed_to(&udp6(address, 5886, Some(0)), v6));
        assert!(!is_addressed_to(&udp6(address, 5886, Some(176)), v6));
        assert!(!is_addressed_to(&udp6(address, 5887, None), v6));
        assert!(!is_addressed_to(&udp6(Ipv6Addr::LOCALHOST, 5886, None), v6));
        assert!(!is_addressed_to(&udp4([192, 0, 2, 1], 5886, 0), v6));
    }

    #[test]
    fn truncated_at_every_length() {
        let address: Ipv6Addr = "2001:db8::1".parse().expect("an address");
        let v4 = SocketAddr::new([192, 0, 2, 1].into(), 5886);
        let v6 = SocketAddr::new(address.into(), 5886);
        for (whole, to, port_end) in [
            (udp4([192, 0, 2, 1], 5886, 0), v4, 24),
            (udp6(address, 5886, None), v6, 44),
            (udp6(address, 5886, Some(0)), v6, 52),
        ] {
            for length in 0..whole.len() {
                let found = is_addressed_to(&whole[..length], to);
                assert_eq!(found, length >= port_end, "{to} {length}");
            }
        }
    }
}
