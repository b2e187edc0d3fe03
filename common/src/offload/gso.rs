//! Cutting a super-packet into the packets that it stands for. Pure; nothing is copied but
//! headers.

use std::ops::Range;

use crate::offload::checksum::Sum;
use crate::offload::headers::{
    Ip, PSH, TCP_FLAGS, Transport, put_u16, set_length, to_u16, u16_at, u32_at,
};
use crate::offload::virtio_net::{GsoType, VirtioNetHdr};

/// Flags of TCP (RFC 9293, 3.1; RFC 3168).
const FIN: u8 = 0x01;
const CWR: u8 = 0x80;

/// The virtio-net header does not fit the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A super-packet, checked: every offset lies within it.
#[derive(Clone, Copy, Debug)]
pub struct SuperPacket {
    ip: Ip,
    transport: Transport,
    transport_at: usize,
    payload_at: usize,
    len: usize,
    /// Payload of each segment but the last, in bytes.
    size: usize,
}

impl SuperPacket {
    /// Checks a super-packet against its virtio-net header.
    ///
    /// The transport header is where the checksum begins to count: `header_len` is wrong on
    /// forwarded packets. What lies between it and the IP header (IPv4 options, IPv6 extension
    /// headers) is the same in each segment.
    pub fn new(packet: &[u8], header: &VirtioNetHdr) -> Result<Self, Malformed> {
        let ip = Ip::of(packet).ok_or(Malformed)?;
        let transport = match (header.gso, ip) {
            (GsoType::Tcp4, Ip::V4) | (GsoType::Tcp6, Ip::V6) => Transport::Tcp,
            (GsoType::Udp, _) => Transport::Udp,
            _ => return Err(Malformed),
        };
        let transport_at = usize::from(header.checksum_start);
        let expected = transport.checksum_offset();
        if transport_at < ip.header_len()
            || !header.needs_checksum
            || usize::from(header.checksum_offset) != expected
            || header.gso_size == 0
            || packet.len() > usize::from(u16::MAX)
        {
            return Err(Malformed);
        }
        let header_len = transport
            .header_len(packet, transport_at)
            .ok_or(Malformed)?;
        Ok(Self {
            ip,
            transport,
            transport_at,
            payload_at: transport_at + header_len,
            len: packet.len(),
            size: header.gso_size.into(),
        })
    }

    /// Length of the headers of each segment, in bytes.
    pub fn header_len(&self) -> usize {
        self.payload_at
    }

    /// How many segments there are; one at least.
    pub fn count(&self) -> usize {
        (self.len - self.payload_at).div_ceil(self.size).max(1)
    }

    /// Where the payload of the n-th segment lies in the super-packet.
    pub fn payload(&self, n: usize) -> Range<usize> {
        let start = self.payload_at + n * self.size;
        start..(start + self.size).min(self.len)
    }

    /// Writes the headers of the n-th segment to `headers`, which has [`Self::header_len`] bytes,
    /// and returns where its payload lies. `packet` is the one that was checked.
    pub fn segment(&self, packet: &[u8], n: usize, headers: &mut [u8]) -> Range<usize> {
        let payload = self.payload(n);
        headers.copy_from_slice(&packet[..self.payload_at]);
        if self.ip == Ip::V4 {
            let id = u16_at(headers, 4).wrapping_add(to_u16(n));
            put_u16(headers, 4, id);
        }
        let total = self.payload_at + payload.len();
        set_length(headers, self.ip, self.transport_at, total);

        let len = total - self.transport_at;
        let (_, transport) = headers.split_at_mut(self.transport_at);
        match self.transport {
            Transport::Tcp => self.set_tcp(transport, n),
            Transport::Udp => put_u16(transport, 4, to_u16(len)),
        }
        // The field has the sum of the whole's pseudo header, of which the length is another now.
        // The addresses need not be those of the IP header: with a routing header the last
        // destination counts (RFC 8200, 8.1), and the kernel has looked for it.
        let at = self.transport.checksum_offset();
        let field = u16_at(transport, at);
        put_u16(transport, at, 0);
        // Headers are of even length, so the payload begins a word.
        let checksum = Sum::default()
            .with_word(field)
            .with_word(!to_u16(self.len - self.transport_at))
            .with_word(to_u16(len))
            .with(transport)
            .with(&packet[payload.clone()])
            .nonzero_checksum();
        transport[at..at + 2].copy_from_slice(&checksum);
        payload
    }

    /// As tcp_gso_segment() has it: FIN and PSH belong to the last byte, CWR to the first.
    fn set_tcp(&self, transport: &mut [u8], n: usize) {
        let offset = u32::try_from(n * self.size).unwrap_or_default();
        let sequence = u32_at(transport, 4).wrapping_add(offset);
        transport[4..8].copy_from_slice(&sequence.to_be_bytes());
        if n + 1 < self.count() {
            transport[TCP_FLAGS] &= !(FIN | PSH);
        }
        if n > 0 {
            transport[TCP_FLAGS] &= !CWR;
        }
    }
}

/// Finishes the checksum of an ordinary packet, whose field holds the sum of the pseudo header
/// (skb_checksum_help).
pub fn complete_checksum(packet: &mut [u8], header: &VirtioNetHdr) -> Result<(), Malformed> {
    let start = usize::from(header.checksum_start);
    let offset = usize::from(header.checksum_offset);
    let counted = packet.get_mut(start..).ok_or(Malformed)?;
    let checksum = Sum::default().with(counted).nonzero_checksum();
    let field = counted.get_mut(offset..).and_then(|rest| rest.get_mut(..2));
    field.ok_or(Malformed)?.copy_from_slice(&checksum);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::headers::{Headers, pseudo_header_for};
    use crate::testing::{Flow, Random, segments, super_packet};

    #[test]
    fn lengths_checksums_and_order() {
        for flow in Flow::ALL {
            let (packet, header) = super_packet(flow, 1000, &Random::new(1).bytes(4321));
            let segments = segments(&packet, &header);
            assert_eq!(segments.len(), 5);
            let mut payload = Vec::new();
            for (n, segment) in segments.iter().enumerate() {
                let headers = Headers::parse(segment).expect("a packet like any other");
                assert!(headers.checksums_are_valid(segment), "{flow:?} {n}");
                payload.extend_from_slice(&segment[headers.payload_at..]);
                if headers.ip == Ip::V4 {
                    let id = u16_at(&packet, 4).wrapping_add(to_u16(n));
                    assert_eq!(u16_at(segment, 4), id);
                }
            }
            assert!(packet.ends_with(&payload) && payload.len() == 4321);
        }
    }

    #[test]
    fn flags_belong_to_the_first_or_last_byte() {
        for (flow, at) in [(Flow::TCP4, 20), (Flow::TCP6, 40)] {
            let (mut packet, header) = super_packet(flow, 100, &[7; 300]);
            let start = u32::MAX - 150;
            packet[at + 4..at + 8].copy_from_slice(&start.to_be_bytes());
            packet[at + TCP_FLAGS] = FIN | PSH | CWR | 0x10 | 0x40;
            let segments = segments(&packet, &header);
            let flags: Vec<u8> = segments.iter().map(|s| s[at + TCP_FLAGS]).collect();
            assert_eq!(flags, [CWR | 0x50, 0x50, FIN | PSH | 0x50]);
            let sequences: Vec<u32> = segments.iter().map(|s| u32_at(s, at + 4)).collect();
            assert_eq!(sequences, [start, start + 100, start.wrapping_add(200)]);
        }
    }

    #[test]
    fn extension_headers_are_copied() {
        let (packet, mut header) = super_packet(Flow::TCP6, 100, &[7; 250]);
        let mut longer = packet[..40].to_vec();
        longer[6] = 0;
        longer.extend([6, 0, 1, 4, 0, 0, 0, 0]);
        longer.extend_from_slice(&packet[40..]);
        header.checksum_start += 8;
        for segment in segments(&longer, &header) {
            assert_eq!(segment[40..48], [6, 0, 1, 4, 0, 0, 0, 0]);
            assert_eq!(usize::from(u16_at(&segment, 4)) + 40, segment.len());
            let sum = pseudo_header_for(&segment, Ip::V6, Transport::Tcp, segment.len() - 48);
            assert!(sum.with(&segment[48..]).is_valid());
        }
    }

    #[test]
    fn the_destination_behind_a_routing_header_counts() {
        for flow in Flow::ALL {
            let (mut packet, header) = super_packet(flow, 100, &[7; 250]);
            let last = match flow.ip {
                Ip::V4 => 19,
                Ip::V6 => 39,
            };
            // The next hop is another.
            packet[last] ^= 0x55;
            for mut segment in segments(&packet, &header) {
                segment[last] ^= 0x55;
                let at = flow.ip.header_len();
                let sum = pseudo_header_for(&segment, flow.ip, flow.transport, segment.len() - at);
                assert!(sum.with(&segment[at..]).is_valid(), "{flow:?}");
            }
        }
    }

    #[test]
    fn every_offset_is_checked() {
        for flow in Flow::ALL {
            let (packet, good) = super_packet(flow, 100, &[7; 300]);
            let bad = |change: fn(&mut VirtioNetHdr)| {
                let mut header = good;
                change(&mut header);
                SuperPacket::new(&packet, &header).is_err()
            };
            assert!(bad(|h| h.gso_size = 0));
            assert!(bad(|h| h.checksum_start = 0));
            assert!(bad(|h| h.checksum_start = 19));
            assert!(bad(|h| h.checksum_start = u16::MAX));
            assert!(bad(|h| h.checksum_offset = 0));
            assert!(bad(|h| h.checksum_offset = u16::MAX));
            assert!(bad(|h| h.needs_checksum = false));
            assert!(bad(|h| h.gso = GsoType::None));
            for len in 0..packet.len() {
                let is_sound = SuperPacket::new(&packet[..len], &good).is_ok();
                assert_eq!(is_sound, len >= packet.len() - 300, "{flow:?} {len}");
            }
        }
        let (packet, header) = super_packet(Flow::TCP4, 100, &[7; 300]);
        let wrong = VirtioNetHdr {
            gso: GsoType::Tcp6,
            ..header
        };
        assert!(SuperPacket::new(&packet, &wrong).is_err());
    }

    #[test]
    fn a_checksum_is_finished() {
        for flow in Flow::ALL {
            let (mut packet, header) = super_packet(flow, 1000, b"less than one segment");
            complete_checksum(&mut packet, &header).expect("good offsets");
            let headers = Headers::parse(&packet).expect("an ordinary packet");
            assert!(headers.checksums_are_valid(&packet), "{flow:?}");
        }
    }

    #[test]
    fn a_checksum_outside_the_packet_is_refused() {
        for (start, offset) in [(0, 99), (99, 0), (100, 0), (101, 0), (u16::MAX, u16::MAX)] {
            let header = VirtioNetHdr {
                checksum_start: start,
                checksum_offset: offset,
                ..VirtioNetHdr::default()
            };
            assert!(
                complete_checksum(&mut [0; 100], &header).is_err(),
                "{start} {offset}"
            );
        }
    }

    #[test]
    fn whatever_comes_nothing_panics() {
        let mut random = Random::new(2);
        let mut headers = [0; 256];
        for _ in 0..1_000_000 {
            let flow = Flow::ALL[random.below(4)];
            let len = random.below(200);
            let (mut packet, header) = super_packet(flow, 50, &[7; 200][..len]);
            let mut bytes = header.encode();
            for _ in 0..random.below(4) {
                random.flip(&mut packet);
                random.flip(&mut bytes);
            }
            packet.truncate(random.below(packet.len() + 1));
            let Some(header) = VirtioNetHdr::decode(&bytes) else {
                continue;
            };
            let _ = complete_checksum(&mut packet, &header);
            if let Ok(whole) = SuperPacket::new(&packet, &header)
                && whole.header_len() <= headers.len()
            {
                for n in 0..whole.count() {
                    whole.segment(&packet, n, &mut headers[..whole.header_len()]);
                }
            }
        }
    }
}
