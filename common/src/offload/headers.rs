//! Where things are in a packet: IPv4 or IPv6 with TCP or UDP. Pure.

use crate::offload::checksum::Sum;

/// Length of an IPv4 header without options, in bytes (RFC 791).
const IPV4_LEN: usize = 20;
/// Length of an IPv6 header, in bytes (RFC 8200).
const IPV6_LEN: usize = 40;

/// Where TCP has its flags, in bytes from the start of its header, and one of them (RFC 9293, 3.1).
pub(super) const TCP_FLAGS: usize = 13;
pub(super) const PSH: u8 = 0x08;

/// Whether a UDP port is that of TFTP, NetBIOS, SNMP, H.323, SIP or Amanda. Netfilter's helpers for
/// these take a packet for one message, and may change its length (nf_nat_mangle_udp_packet).
fn has_helper(port: u16) -> bool {
    matches!(port, 69 | 137 | 161 | 162 | 1719 | 5060 | 10080)
}

/// Which IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ip {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Which protocol above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// The layout of one packet. Offsets are in bytes from its start and lie within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headers {
    /// Which IP.
    pub ip: Ip,
    /// Which protocol above it.
    pub transport: Transport,
    /// Where the transport header begins.
    pub transport_at: usize,
    /// Where the payload begins.
    pub payload_at: usize,
}

impl Ip {
    /// The version of a packet, from its first nibble.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Some(Self::V4),
            6 => Some(Self::V6),
            _ => None,
        }
    }

    /// Whether a header is that of a packet to many (RFC 5771, RFC 4291). Such a one must not grow:
    /// who routes it on takes it for one packet, to be dropped if it is longer than the next MTU
    /// (ipmr_queue_xmit) or to be wrapped whole (PIM-SM, RFC 7761, 4.4).
    fn is_multicast(self, header: &[u8]) -> bool {
        match self {
            Self::V4 => header[16] >> 4 == 0xe,
            Self::V6 => header[24] == 0xff,
        }
    }

    /// Source and destination in a header.
    fn addresses(self, header: &[u8]) -> &[u8] {
        match self {
            Self::V4 => &header[12..20],
            Self::V6 => &header[8..40],
        }
    }

    /// Length of the header without options or extension headers, in bytes.
    pub(crate) fn header_len(self) -> usize {
        match self {
            Self::V4 => IPV4_LEN,
            Self::V6 => IPV6_LEN,
        }
    }
}

impl Transport {
    /// Number in the IP header (IANA).
    pub(crate) fn protocol(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Where the checksum is, in bytes from the start of the transport header.
    pub(crate) fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    /// Length of the header that begins at `at`, in bytes, if the packet holds all of it.
    pub(crate) fn header_len(self, packet: &[u8], at: usize) -> Option<usize> {
        let len = match self {
            Self::Tcp => usize::from(packet.get(at..)?.get(12)? >> 4) * 4,
            Self::Udp => 8,
        };
        let shortest = match self {
            Self::Tcp => 20,
            Self::Udp => 8,
        };
        (len >= shortest && packet.len() >= at.checked_add(len)?).then_some(len)
    }
}

impl Headers {
    /// The layout of a packet that may be joined with others; `None` for all else, fragments,
    /// IPv4 options, IPv6 extension headers, multicast and what netfilter has helpers for among it.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let ip = Ip::of(packet)?;
        let header = packet.get(..ip.header_len())?;
        let (protocol, len) = match ip {
            Ip::V4 => {
                // More fragments to come, or an offset: all but the "don't fragment" bit.
                let fragment = u16_at(header, 6) & !0x4000 != 0;
                if header[0] != 0x45 || fragment {
                    return None;
                }
                (header[9], u16_at(header, 2).into())
            }
            Ip::V6 => (header[6], IPV6_LEN + usize::from(u16_at(header, 4))),
        };
        if ip.is_multicast(header) {
            return None;
        }
        let transport = match protocol {
            6 => Transport::Tcp,
            17 => Transport::Udp,
            _ => return None,
        };
        let transport_at = ip.header_len();
        let payload_at = transport_at + transport.header_len(packet, transport_at)?;
        if transport == Transport::Udp {
            let udp = packet[transport_at..].first_chunk::<8>()?;
            let is_whole = usize::from(u16_at(udp, 4)) == packet.len() - transport_at;
            if !is_whole || [0, 2].iter().any(|&at| has_helper(u16_at(udp, at))) {
                return None;
            }
        }
        if len != packet.len() {
            return None;
        }
        Some(Self {
            ip,
            transport,
            transport_at,
            payload_at,
        })
    }

    /// Whether a packet of this layout has the addresses and ports of another.
    pub(super) fn is_same_flow(&self, packet: &[u8], other: &Headers, others: &[u8]) -> bool {
        let at = self.transport_at;
        self.ip == other.ip
            && self.transport == other.transport
            && packet[at..at + 4] == others[at..at + 4]
            && self.ip.addresses(packet) == self.ip.addresses(others)
    }

    /// Whether the checksums of a packet of this layout are right. UDP without one is not.
    pub(super) fn checksums_are_valid(&self, packet: &[u8]) -> bool {
        if self.ip == Ip::V4 && !Sum::default().with(&packet[..IPV4_LEN]).is_valid() {
            return false;
        }
        let at = self.transport_at + self.transport.checksum_offset();
        if self.transport == Transport::Udp && packet[at..at + 2] == [0, 0] {
            return false;
        }
        pseudo_header(packet, self.ip, self.transport, self.transport_at)
            .with(&packet[self.transport_at..])
            .is_valid()
    }
}

/// The pseudo header of what follows `transport_at` in a packet of this length.
pub(crate) fn pseudo_header(
    packet: &[u8],
    ip: Ip,
    transport: Transport,
    transport_at: usize,
) -> Sum {
    pseudo_header_for(packet, ip, transport, packet.len() - transport_at)
}

/// The pseudo header for so many bytes of transport header and payload. IP packets are shorter
/// than 64 KiB.
pub(crate) fn pseudo_header_for(headers: &[u8], ip: Ip, transport: Transport, len: usize) -> Sum {
    Sum::pseudo_header(ip.addresses(headers), transport.protocol(), to_u16(len))
}

/// Writes the length of a packet, `total` bytes in all, into its IP header, and the IPv4 header's
/// checksum. `transport_at` is where that header ends.
pub(crate) fn set_length(headers: &mut [u8], ip: Ip, transport_at: usize, total: usize) {
    match ip {
        Ip::V4 => {
            put_u16(headers, 2, to_u16(total));
            put_u16(headers, 10, 0);
            let checksum = Sum::default().with(&headers[..transport_at]).checksum();
            headers[10..12].copy_from_slice(&checksum);
        }
        Ip::V6 => put_u16(headers, 4, to_u16(total - IPV6_LEN)),
    }
}

/// Packets are shorter than 64 KiB, so nothing is lost.
pub(crate) fn to_u16(len: usize) -> u16 {
    len.try_into().unwrap_or(u16::MAX)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Flow, packet};

    #[test]
    fn layouts() {
        for (flow, transport_at, payload_at) in [
            (Flow::TCP4, 20, 20 + 32),
            (Flow::TCP6, 40, 40 + 32),
            (Flow::UDP4, 20, 28),
            (Flow::UDP6, 40, 48),
        ] {
            let packet = packet(flow, 0, b"payload");
            let headers = Headers::parse(&packet).expect("an ordinary packet");
            assert_eq!(
                (headers.transport_at, headers.payload_at),
                (transport_at, payload_at)
            );
            assert!(headers.checksums_are_valid(&packet), "{flow:?}");
            assert_eq!(&packet[headers.payload_at..], b"payload");
        }
    }

    #[test]
    fn one_flipped_bit_is_seen() {
        for flow in Flow::ALL {
            let good = packet(flow, 0, b"payload");
            let headers = Headers::parse(&good).expect("an ordinary packet");
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let same = Headers::parse(&bad) == Some(headers);
                // Traffic class, flow label and hop limit of IPv6 have no checksum.
                let unprotected = headers.ip == Ip::V6 && (bit < 32 || bit / 8 == 7);
                assert!(
                    !same || unprotected || !headers.checksums_are_valid(&bad),
                    "{flow:?} {bit}"
                );
            }
        }
    }

    #[test]
    fn truncated_and_prolonged() {
        for flow in Flow::ALL {
            let mut packet = packet(flow, 0, b"payload");
            for len in 0..packet.len() {
                assert_eq!(Headers::parse(&packet[..len]), None, "{flow:?} {len}");
            }
            packet.push(0);
            assert_eq!(Headers::parse(&packet), None);
        }
    }

    #[test]
    fn what_is_left_alone() {
        let change = |flow, at: usize, value: u8| {
            let mut packet = packet(flow, 0, b"payload");
            packet[at] = value;
            Headers::parse(&packet)
        };
        assert!(change(Flow::UDP4, 6, 0x40).is_some(), "don't fragment");
        assert!(change(Flow::UDP4, 6, 0x20).is_none(), "more fragments");
        assert!(change(Flow::UDP4, 7, 1).is_none(), "a later fragment");
        assert!(change(Flow::UDP4, 0, 0x46).is_none(), "options");
        assert!(change(Flow::UDP4, 9, 1).is_none(), "ICMP");
        assert!(change(Flow::UDP6, 6, 44).is_none(), "an extension header");
        assert!(change(Flow::UDP6, 0, 0x50).is_none(), "IP version 5");
        assert!(
            change(Flow::TCP4, 32, 0x40).is_none(),
            "a TCP header of 16 bytes"
        );
        assert!(
            change(Flow::TCP4, 32, 0xf0).is_none(),
            "one that is longer than the packet"
        );
    }
}
