//! Joining consecutive packets of one flow into a super-packet. Pure: packets stay where they
//! lie in the receive buffer, and only headers are copied.

use std::ops::Range;

use crate::offload::headers::{
    Headers, Ip, PSH, TCP_FLAGS, Transport, pseudo_header_for, put_u16, set_length, to_u16, u16_at,
    u32_at,
};
use crate::offload::virtio_net::{self, GsoType, VirtioNetHdr};

/// How many packets become one: as many as the kernel cuts one into (UDP_MAX_SEGMENTS).
pub(crate) const MAX_PACKETS: usize = 64;
/// 40 bytes of IPv6 and 60 of TCP are the longest headers.
const MAX_HEADERS: usize = 100;
/// The largest IP packet, in bytes.
const MAX_TOTAL: usize = 65_535;

const ACK: u8 = 0x10;
/// ECN echo lasts for a whole window, so it may be the same in all (RFC 3168, 6.1.3). Any other
/// flag means that something happens here.
const ECE: u8 = 0x40;

/// A run of packets that can be one.
pub struct Coalescer {
    /// Of the first packet; `None` if nothing can be joined with it.
    headers: Option<Headers>,
    /// Whether the tun takes super-packets of UDP.
    udp: bool,
    /// Whether the first packet was looked into.
    begun: bool,
    /// Whether another packet may follow.
    open: bool,
    /// Whether the first packet's checksums were looked at.
    verified: bool,
    /// Whether the last packet was to be pushed to the reader at once.
    push: bool,
    /// Payload of the first packet, in bytes.
    size: usize,
    /// Length of the super-packet, in bytes.
    total: usize,
    packets: Vec<Range<usize>>,
    rebuilt: [u8; MAX_HEADERS],
}

/// What is to be written, in this order.
pub struct Coalesced<'a> {
    /// The virtio-net header.
    pub virtio: [u8; virtio_net::HEADER_LEN],
    /// The super-packet's own headers.
    pub headers: &'a [u8],
    /// Where in the receive buffer the packets lie as they came; what is behind as many bytes of
    /// headers of each belongs to this one.
    pub packets: &'a [Range<usize>],
}

impl Default for Coalescer {
    fn default() -> Self {
        Self {
            headers: None,
            udp: false,
            begun: false,
            open: false,
            verified: false,
            push: false,
            size: 0,
            total: 0,
            packets: Vec::with_capacity(MAX_PACKETS),
            rebuilt: [0; MAX_HEADERS],
        }
    }
}

impl Coalescer {
    /// Begins a run with a packet, of UDP too if that may be joined.
    #[inline]
    pub fn start(&mut self, at: Range<usize>, udp: bool) {
        self.udp = udp;
        self.packets.push(at);
    }

    /// Takes the packet in this part of the receive buffer. False means that it does not belong
    /// to the run, which is to be written first.
    pub fn push(&mut self, buffer: &[u8], at: Range<usize>) -> bool {
        let Some(first) = self.packets.first() else {
            return false;
        };
        let first = &buffer[first.clone()];
        let packet = &buffer[at.clone()];
        // Nobody looks into one that stays alone.
        if !self.begun {
            self.begin(first);
        }
        let (Some(headers), true) = (self.headers, self.open) else {
            return false;
        };
        if !self.continues(first, packet, &headers) {
            return false;
        }
        // The kernel will not look at the checksums of a super-packet. So it must not hide a
        // packet that was damaged.
        if !self.verified && !headers.checksums_are_valid(first) {
            self.open = false;
            return false;
        }
        self.verified = true;
        if !headers.checksums_are_valid(packet) {
            return false;
        }
        let len = packet.len() - headers.payload_at;
        self.push = headers.transport == Transport::Tcp
            && packet[headers.transport_at + TCP_FLAGS] & PSH != 0;
        self.total += len;
        // The next one of TCP may be the last, and shorter.
        let least = match headers.transport {
            Transport::Tcp => 1,
            Transport::Udp => len,
        };
        self.open = len == self.size
            && !self.push
            && self.packets.len() + 1 < MAX_PACKETS
            && self.total + least <= MAX_TOTAL;
        self.packets.push(at);
        true
    }

    fn begin(&mut self, packet: &[u8]) {
        self.begun = true;
        self.headers = Headers::parse(packet);
        self.verified = false;
        self.push = false;
        self.open = false;
        self.total = packet.len();
        if let Some(headers) = self.headers {
            self.size = packet.len() - headers.payload_at;
            let can_go_on = match headers.transport {
                Transport::Tcp => packet[headers.transport_at + TCP_FLAGS] & !ECE == ACK,
                Transport::Udp => self.udp,
            };
            self.open = can_go_on && self.size > 0;
        }
    }

    /// Whether a packet is the next one of the flow, alike in all that the super-packet can say
    /// only once (dev_gro_receive, inet_gro_receive, tcp_gro_receive).
    fn continues(&self, first: &[u8], packet: &[u8], headers: &Headers) -> bool {
        let at = headers.transport_at;
        let Some(len) = packet.len().checked_sub(headers.payload_at) else {
            return false;
        };
        if len == 0 || len > self.size || self.total + len > MAX_TOTAL {
            return false;
        }
        let n = self.packets.len();
        let ip_goes_on = match headers.ip {
            // Version and length of the header, TOS; fragment, TTL, protocol; addresses.
            Ip::V4 => {
                have_same::<2>(first, packet, 0)
                    && have_same::<4>(first, packet, 6)
                    && have_same::<8>(first, packet, 12)
                    && usize::from(u16_at(packet, 2)) == packet.len()
                    && id_goes_on(u16_at(first, 4), u16_at(packet, 4), n, first[6] & 0x40 != 0)
            }
            // Version, traffic class, flow label; next header, hop limit, addresses.
            Ip::V6 => {
                have_same::<4>(first, packet, 0)
                    && have_same::<34>(first, packet, 6)
                    && usize::from(u16_at(packet, 4)) + 40 == packet.len()
            }
        };
        ip_goes_on
            && have_same::<4>(first, packet, at)
            && match headers.transport {
                // Acknowledgement, length; window; urgent pointer, options.
                Transport::Tcp => {
                    let offset = u32::try_from(n * self.size).unwrap_or_default();
                    let options = at + 20..headers.payload_at;
                    u32_at(packet, at + 4) == u32_at(first, at + 4).wrapping_add(offset)
                        && have_same::<5>(first, packet, at + 8)
                        && packet[at + TCP_FLAGS] & !PSH == first[at + TCP_FLAGS]
                        && have_same::<2>(first, packet, at + 14)
                        && have_same::<2>(first, packet, at + 18)
                        && match options.len() {
                            // Timestamps.
                            12 => have_same::<12>(first, packet, options.start),
                            _ => packet[options.clone()] == first[options],
                        }
                }
                // A shorter last one would share the fate of the longer ones: with a probe of the
                // path's MTU, what comes behind would be lost at a link that is too small for it.
                Transport::Udp => {
                    len == self.size && usize::from(u16_at(packet, at + 4)) == packet.len() - at
                }
            }
    }

    /// The run as one packet to write, or `None` if there is none, or one packet only, which stays
    /// as it is. To be followed by [`Coalescer::clear`].
    pub fn finish(&mut self, buffer: &[u8]) -> Option<Coalesced<'_>> {
        let [first, _, ..] = &self.packets[..] else {
            return None;
        };
        let headers = self.headers?;
        let len = headers.payload_at;
        self.rebuilt[..len].copy_from_slice(&buffer[first.clone()][..len]);
        let virtio = self.rebuild(&headers);
        Some(Coalesced {
            virtio: virtio.encode(),
            headers: &self.rebuilt[..len],
            packets: &self.packets,
        })
    }

    /// Makes the first packet's headers those of the super-packet.
    fn rebuild(&mut self, headers: &Headers) -> VirtioNetHdr {
        let (ip, at) = (headers.ip, headers.transport_at);
        let rebuilt = &mut self.rebuilt[..headers.payload_at];
        set_length(rebuilt, ip, at, self.total);
        let len = self.total - at;
        match headers.transport {
            Transport::Tcp if self.push => rebuilt[at + TCP_FLAGS] |= PSH,
            Transport::Tcp => {}
            Transport::Udp => put_u16(rebuilt, at + 4, to_u16(len)),
        }
        let offset = headers.transport.checksum_offset();
        let sum = pseudo_header_for(rebuilt, ip, headers.transport, len).folded();
        rebuilt[at + offset..at + offset + 2].copy_from_slice(&sum);
        VirtioNetHdr {
            needs_checksum: true,
            gso: match (headers.transport, ip) {
                (Transport::Tcp, Ip::V4) => GsoType::Tcp4,
                (Transport::Tcp, Ip::V6) => GsoType::Tcp6,
                (Transport::Udp, _) => GsoType::Udp,
            },
            header_len: to_u16(headers.payload_at),
            gso_size: to_u16(self.size),
            checksum_start: to_u16(at),
            checksum_offset: to_u16(offset),
        }
    }

    /// Where the packets of the run lie.
    pub fn packets(&self) -> &[Range<usize>] {
        &self.packets
    }

    /// Whether some packet could join, after one was pushed and refused.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether a packet of this layout is of the flow that the run is of. Before one was pushed and
    /// refused that is not known.
    pub(crate) fn is_of(&self, buffer: &[u8], packet: &[u8], headers: &Headers) -> bool {
        let (Some(own), Some(first)) = (&self.headers, self.packets.first()) else {
            return false;
        };
        self.begun && headers.is_same_flow(packet, own, &buffer[first.clone()])
    }

    /// Forgets the run.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.begun = false;
    }
}

/// Whether both have the same `LEN` bytes at this place, a length that the compiler knows: it makes
/// loads of their words of it. memcmp is a call, and in musl goes byte by byte.
#[inline(always)]
fn have_same<const LEN: usize>(a: &[u8], b: &[u8], at: usize) -> bool {
    const WORD: usize = size_of::<usize>();
    let part = |all| <[u8]>::get(all, at..).and_then(<[u8]>::first_chunk::<LEN>);
    let (Some(a), Some(b)) = (part(a), part(b)) else {
        return false;
    };
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<WORD>(), b.as_chunks::<WORD>());
    let words = a.iter().zip(b).fold(0, |differ, (a, b)| {
        differ | (usize::from_ne_bytes(*a) ^ usize::from_ne_bytes(*b))
    });
    let rest = a_rest.iter().zip(b_rest);
    words == 0 && rest.fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Whether the n-th packet has the identification that a cutter would give it. Where
/// fragmentation is ruled out it means nothing (RFC 6864, 4.1), and many senders leave it alone.
fn id_goes_on(first: u16, id: u16, n: usize, dont_fragment: bool) -> bool {
    id == first.wrapping_add(to_u16(n)) || (dont_fragment && id == first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Flow, Random, finish, packet, segments, super_packet};

    /// What came out: the virtio-net header and the packet behind it.
    type Written = (VirtioNetHdr, Vec<u8>);

    fn coalesce(packets: &[Vec<u8>]) -> Vec<Written> {
        let mut buffer = Vec::new();
        let mut ranges = Vec::new();
        for packet in packets {
            buffer.extend([0xaa; 8]);
            ranges.push(buffer.len()..buffer.len() + packet.len());
            buffer.extend_from_slice(packet);
        }
        let mut coalescer = Coalescer::default();
        let mut written = Vec::new();
        for range in ranges {
            if !coalescer.push(&buffer, range.clone()) {
                written.extend(take(&mut coalescer, &buffer));
                coalescer.start(range, true);
            }
        }
        written.extend(take(&mut coalescer, &buffer));
        assert!(take(&mut coalescer, &buffer).is_none());
        written
    }

    fn take(coalescer: &mut Coalescer, buffer: &[u8]) -> Option<Written> {
        let written = match coalescer.packets() {
            [only] => (VirtioNetHdr::default(), buffer[only.clone()].to_vec()),
            _ => {
                let whole = coalescer.finish(buffer)?;
                let header = VirtioNetHdr::decode(&whole.virtio).expect("a known type");
                let mut packet = whole.headers.to_vec();
                for at in whole.packets {
                    packet.extend_from_slice(&buffer[at.clone()][whole.headers.len()..]);
                }
                (header, packet)
            }
        };
        coalescer.clear();
        Some(written)
    }

    fn cut(packet: &[u8], header: &VirtioNetHdr) -> Vec<Vec<u8>> {
        match header.gso {
            GsoType::None => vec![packet.to_vec()],
            _ => segments(packet, header),
        }
    }

    #[test]
    fn cut_and_joined_again() {
        for flow in Flow::ALL {
            for (size, len) in [
                (1000, 4321),
                (1000, 4000),
                (1380, 60_000),
                (100, 150),
                (1, 2),
            ] {
                let (packet, header) = super_packet(flow, size, &Random::new(3).bytes(len));
                let packets = cut(&packet, &header);
                let written = coalesce(&packets);
                if flow.transport == Transport::Udp && len % usize::from(size) > 0 {
                    let again: Vec<_> = written.iter().flat_map(|(h, p)| cut(p, h)).collect();
                    assert_eq!(
                        (written.len(), again),
                        (2, packets),
                        "{flow:?} {size} {len}"
                    );
                    continue;
                }
                assert_eq!(written, [(header, packet)], "{flow:?} {size} {len}");
            }
        }
    }

    #[test]
    fn joined_and_cut_again() {
        for flow in Flow::ALL {
            let (mut sequence, mut packets) = (u32::MAX - 2000, Vec::new());
            for (n, len) in [1000, 1000, 1000, 700, 1000, 1000, 50, 0, 1000]
                .iter()
                .enumerate()
            {
                let mut packet = packet(flow, sequence, &Random::new(n as u64).bytes(*len));
                if flow.ip == Ip::V4 {
                    put_u16(&mut packet, 4, to_u16(n).wrapping_sub(3));
                    finish(flow, &mut packet);
                }
                sequence = sequence.wrapping_add(to_u16(*len).into());
                packets.push(packet);
            }
            let written = coalesce(&packets);
            let lens: Vec<usize> = written.iter().map(|(h, p)| cut(p, h).len()).collect();
            match flow.transport {
                Transport::Tcp => assert_eq!(lens, [4, 3, 1, 1], "{flow:?}"),
                Transport::Udp => assert_eq!(lens, [3, 1, 2, 1, 1, 1], "{flow:?}"),
            }
            let again: Vec<_> = written.iter().flat_map(|(h, p)| cut(p, h)).collect();
            assert_eq!(again, packets, "{flow:?}");
        }
    }

    /// Three packets of which the second is changed: how many come out, and how many there are
    /// in the first.
    fn with_second(flow: Flow, change: impl FnOnce(&mut Vec<u8>)) -> Vec<usize> {
        let mut packets: Vec<_> = (0..3).map(|n| packet(flow, n * 100, &[7; 100])).collect();
        change(&mut packets[1]);
        let written = coalesce(&packets);
        let cut: Vec<_> = written.iter().map(|(h, p)| cut(p, h)).collect();
        let whole: Vec<_> = cut.iter().flatten().map(Vec::len).collect();
        assert_eq!(whole.len(), 3, "nothing is lost or doubled");
        cut.iter().map(Vec::len).collect()
    }

    #[test]
    fn what_differs_stays_apart() {
        let flow = Flow::TCP4;
        assert_eq!(with_second(flow, |_| {}), [3]);
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change); 13] = [
            ("TOS or ECN", |p| p[1] = 2),
            ("identification", |p| put_u16(p, 4, 0x1234)),
            ("don't fragment", |p| p[6] = 0),
            ("TTL", |p| p[8] = 63),
            ("source", |p| p[15] = 77),
            ("destination port", |p| p[23] = 0),
            ("sequence", |p| p[27] ^= 1),
            ("acknowledgement", |p| p[31] ^= 1),
            ("URG", |p| p[33] |= 0x20),
            ("FIN", |p| p[33] |= 1),
            ("CWR", |p| p[33] |= 0x80),
            ("window", |p| p[35] ^= 1),
            ("options", |p| p[50] ^= 1),
        ];
        for (what, change) in cases {
            let result = with_second(flow, |p| {
                change(p);
                finish(flow, p);
            });
            assert_eq!(result, [1, 1, 1], "{what}");
        }
        let damaged = with_second(flow, |p| p[60] ^= 1);
        assert_eq!(damaged, [1, 1, 1], "a wrong checksum");
        let damaged = with_second(flow, |p| p[11] ^= 1);
        assert_eq!(damaged, [1, 1, 1], "a wrong header checksum");
        for (what, at) in [("traffic class", 1), ("flow label", 3), ("hop limit", 7)] {
            let flow = Flow::TCP6;
            let result = with_second(flow, |p| {
                p[at] ^= 1;
                finish(flow, p);
            });
            assert_eq!(result, [1, 1, 1], "{what}");
        }
        for (flow, group) in [(Flow::UDP4, &[239, 1, 1, 1][..]), (Flow::UDP6, &[0xff; 16])] {
            let end = flow.ip.header_len();
            let packets = [0, 1].map(|n| {
                let mut packet = packet(flow, n, &[7; 100]);
                packet[end - group.len()..end].copy_from_slice(group);
                finish(flow, &mut packet);
                packet
            });
            assert_eq!(coalesce(&packets).len(), 2, "multicast, {flow:?}");
        }
        for (at, port) in [(40, 5060), (42, 5060), (40, 69), (42, 10080)] {
            let packets = [0, 1].map(|n| {
                let mut packet = packet(Flow::UDP6, n, &[7; 100]);
                put_u16(&mut packet, at, port);
                finish(Flow::UDP6, &mut packet);
                packet
            });
            assert_eq!(coalesce(&packets).len(), 2, "{port} at {at}");
        }
        let none = with_second(Flow::UDP4, |p| p[26..28].fill(0));
        assert_eq!(none, [1, 1, 1], "UDP without a checksum");
    }

    #[test]
    fn push_ends_a_run() {
        let flow = Flow::TCP6;
        let result = with_second(flow, |p| {
            p[40 + TCP_FLAGS] |= PSH;
            finish(flow, p);
        });
        assert_eq!(result, [2, 1]);
    }

    #[test]
    fn udp_only_where_the_tun_takes_it() {
        let packet = packet(Flow::UDP4, 0, &[7; 100]);
        let buffer = [&packet[..], &packet[..]].concat();
        for takes in [false, true] {
            let mut coalescer = Coalescer::default();
            coalescer.start(0..packet.len(), takes);
            let joins = coalescer.push(&buffer, packet.len()..buffer.len());
            assert_eq!(joins, takes);
        }
    }

    #[test]
    fn no_more_than_fits() {
        let packets: Vec<_> = (0..100)
            .map(|n| packet(Flow::TCP4, n * 10, &[7; 10]))
            .collect();
        let counts: Vec<_> = coalesce(&packets)
            .iter()
            .map(|(h, p)| cut(p, h).len())
            .collect();
        assert_eq!(counts, [64, 36]);
        let packets: Vec<_> = (0..50)
            .map(|n| packet(Flow::TCP4, n * 2000, &[7; 2000]))
            .collect();
        let lens: Vec<_> = coalesce(&packets).iter().map(|(_, p)| p.len()).collect();
        assert_eq!(lens, [32, 18].map(|n| 52 + n * 2000));
        // A last one that is shorter, where no other would fit.
        let packets: Vec<_> = (0..33)
            .map(|n| {
                packet(
                    Flow::TCP4,
                    n * 2000,
                    &vec![7; if n < 32 { 2000 } else { 1400 }],
                )
            })
            .collect();
        let lens: Vec<_> = coalesce(&packets).iter().map(|(_, p)| p.len()).collect();
        assert_eq!(lens, [52 + 32 * 2000 + 1400]);
    }

    #[test]
    fn interleaved_flows_keep_their_order() {
        let mut random = Random::new(4);
        for _ in 0..2000 {
            let mut sequences = [0u32; 4];
            let mut sent: [Vec<Vec<u8>>; 4] = Default::default();
            let packets: Vec<_> = (0..40)
                .map(|_| {
                    // A flow that was just sent is likely to go on.
                    let kind = random.below(40) / 10;
                    let len = [100, 100, 100, 60][random.below(4)];
                    let packet = packet(Flow::ALL[kind], sequences[kind], &random.bytes(len));
                    sequences[kind] += u32::from(to_u16(len));
                    sent[kind].push(packet.clone());
                    packet
                })
                .collect();
            let mut arrived: [Vec<Vec<u8>>; 4] = Default::default();
            for segment in coalesce(&packets).iter().flat_map(|(h, p)| cut(p, h)) {
                let headers = Headers::parse(&segment).expect("an ordinary packet");
                let flow = Flow {
                    ip: headers.ip,
                    transport: headers.transport,
                };
                let kind = Flow::ALL
                    .iter()
                    .position(|&f| f == flow)
                    .expect("one of four");
                arrived[kind].push(segment);
            }
            for (sent, arrived) in sent.iter_mut().zip(&mut arrived) {
                // All have one identification and "don't fragment": a cutter counts it up.
                for packet in sent.iter_mut().chain(arrived.iter_mut()) {
                    if Ip::of(packet) == Some(Ip::V4) {
                        packet[4..6].fill(0);
                        packet[10..12].fill(0);
                    }
                }
                assert_eq!(sent, arrived);
            }
        }
    }

    #[test]
    fn whatever_comes_nothing_panics_or_is_lost() {
        let mut random = Random::new(5);
        for _ in 0..100_000 {
            let flow = Flow::ALL[random.below(4)];
            let mut packets: Vec<_> = (0..8).map(|n| packet(flow, n * 20, &[7; 20])).collect();
            for _ in 0..random.below(4) {
                let which = random.below(packets.len());
                let len = packets[which].len();
                match random.below(3) {
                    0 => packets[which].truncate(random.below(len + 1)),
                    _ => random.flip(&mut packets[which]),
                }
            }
            let written = coalesce(&packets);
            let bytes: usize = written
                .iter()
                .flat_map(|(h, p)| cut(p, h))
                .map(|p| p.len())
                .sum();
            assert_eq!(bytes, packets.iter().map(Vec::len).sum::<usize>());
        }
    }
}
