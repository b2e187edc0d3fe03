//! Whom a packet is for: one for the peer itself must not go into the tunnel. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::offload::headers::u16_at;

/// Protocol numbers (IANA).
const UDP: u8 = 17;
const IPV6_FRAGMENT: u8 = 44;

/// Whether an IP packet is a UDP datagram to `endpoint`: a packet of this tunnel, routed into
/// the tunnel itself. A later fragment has no port, but the first one is enough to end the loop.
pub(super) fn is_addressed_to(packet: &[u8], endpoint: SocketAddr) -> bool {
    match endpoint.ip() {
        IpAddr::V4(address) => udp4_port(packet, address) == Some(endpoint.port()),
        IpAddr::V6(address) => udp6_port(packet, address) == Some(endpoint.port()),
    }
}

/// Destination port of an IPv4 UDP packet to `address` (RFC 791, RFC 768).
fn udp4_port(packet: &[u8], address: Ipv4Addr) -> Option<u16> {
    if packet.get(16..20)? != address.octets() || packet[0] >> 4 != 4 {
        return None;
    }
    destination_port(packet)
}

/// Destination port of an IPv6 UDP packet to `address`, fragmented or not (RFC 8200, 4.5).
fn udp6_port(packet: &[u8], address: Ipv6Addr) -> Option<u16> {
    if packet.get(24..40)? != address.octets() || packet[0] >> 4 != 6 {
        return None;
    }
    destination_port(packet)
}

fn destination_port(packet: &[u8]) -> Option<u16> {
    Some(u16_at(packet.get(udp_at(packet)?..)?.get(..4)?, 2))
}

/// The payload of a UDP packet; of a fragmented one, what the first fragment has.
pub(super) fn udp_payload(packet: &[u8]) -> Option<&[u8]> {
    packet.get(udp_at(packet)? + 8..)
}

/// Where the UDP header of a packet begins; that of a fragmented one is in the first fragment.
fn udp_at(packet: &[u8]) -> Option<usize> {
    match (packet.first()? >> 4, packet.get(..20)?) {
        (4, header) if header[9] == UDP && u16_at(header, 6) & 0x1fff == 0 => {
            Some(usize::from(header[0] & 0x0f) * 4)
        }
        (6, header) if header[6] == UDP => Some(40),
        (6, header) if header[6] == IPV6_FRAGMENT => match *packet.get(40..44)? {
            [UDP, _, high, low] if u16::from_be_bytes([high, low]) >> 3 == 0 => Some(48),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
