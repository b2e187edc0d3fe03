//! Packets, random numbers and directories for the unit tests.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::offload::checksum::Sum;
use crate::offload::gso::SuperPacket;
use crate::offload::headers::{
    Ip, Transport, pseudo_header, pseudo_header_for, put_u16, set_length, to_u16,
};
use crate::offload::virtio_net::{GsoType, VirtioNetHdr};
use crate::sys;

/// A kind of flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) ip: Ip,
    pub(crate) transport: Transport,
}

impl Flow {
    pub(crate) const TCP4: Self = Self::new(Ip::V4, Transport::Tcp);
    pub(crate) const TCP6: Self = Self::new(Ip::V6, Transport::Tcp);
    pub(crate) const UDP4: Self = Self::new(Ip::V4, Transport::Udp);
    pub(crate) const UDP6: Self = Self::new(Ip::V6, Transport::Udp);
    pub(crate) const ALL: [Self; 4] = [Self::TCP4, Self::TCP6, Self::UDP4, Self::UDP6];

    const fn new(ip: Ip, transport: Transport) -> Self {
        Self { ip, transport }
    }
}

/// A packet whose transport checksum holds nothing yet. TCP begins at `sequence`, has the ACK
/// flag and the timestamp option (RFC 7323).
fn unfinished(flow: Flow, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; flow.ip.header_len()];
    match flow.ip {
        Ip::V4 => {
            packet[..10].copy_from_slice(&[0x45, 0, 0, 0, 0xff, 0xfe, 0x40, 0, 64, 0]);
            packet[9] = flow.transport.protocol();
            packet[12..20].copy_from_slice(&[10, 9, 0, 1, 10, 9, 0, 2]);
        }
        Ip::V6 => {
            packet[..8].copy_from_slice(&[0x60, 1, 2, 3, 0, 0, 0, 64]);
            packet[6] = flow.transport.protocol();
            packet[8..24].copy_from_slice(&[0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            packet[24..40].copy_from_slice(&[0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        }
    }
    let at = packet.len();
    packet.extend([0x12, 0x34, 0x56, 0x78]);
    match flow.transport {
        Transport::Tcp => {
            packet.extend(sequence.to_be_bytes());
            packet.extend([1, 2, 3, 4, 0x80, 0x10, 2, 0, 0, 0, 0, 0]);
            packet.extend([1, 1, 8, 10, 9, 9, 9, 9, 8, 8, 8, 8]);
        }
        Transport::Udp => packet.extend([0; 4]),
    }
    packet.extend_from_slice(payload);
    let total = packet.len();
    if flow.transport == Transport::Udp {
        put_u16(&mut packet, at + 4, to_u16(total - at));
    }
    set_length(&mut packet, flow.ip, at, total);
    packet
}

/// Writes the right checksums into a packet.
pub(crate) fn finish(flow: Flow, packet: &mut [u8]) {
    let (at, total) = (flow.ip.header_len(), packet.len());
    set_length(packet, flow.ip, at, total);
    let field = at + flow.transport.checksum_offset();
    put_u16(packet, field, 0);
    let sum: Sum = pseudo_header(packet, flow.ip, flow.transport, at);
    let checksum = sum.with(&packet[at..]).nonzero_checksum();
    packet[field..field + 2].copy_from_slice(&checksum);
}

/// A packet as it goes over the wire.
pub(crate) fn packet(flow: Flow, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = unfinished(flow, sequence, payload);
    finish(flow, &mut packet);
    packet
}

/// A super-packet as a tun hands it over.
pub(crate) fn super_packet(flow: Flow, size: u16, payload: &[u8]) -> (Vec<u8>, VirtioNetHdr) {
    let mut packet = unfinished(flow, 1_000_000, payload);
    let at = flow.ip.header_len();
    let offset = flow.transport.checksum_offset();
    let sum = pseudo_header_for(&packet, flow.ip, flow.transport, packet.len() - at).folded();
    packet[at + offset..at + offset + 2].copy_from_slice(&sum);
    let header = VirtioNetHdr {
        needs_checksum: true,
        gso: match (flow.transport, flow.ip) {
            (Transport::Tcp, Ip::V4) => GsoType::Tcp4,
            (Transport::Tcp, Ip::V6) => GsoType::Tcp6,
            (Transport::Udp, _) => GsoType::Udp,
        },
        header_len: to_u16(packet.len() - payload.len()),
        gso_size: size,
        checksum_start: to_u16(at),
        checksum_offset: to_u16(offset),
    };
    (packet, header)
}

/// The segments of a super-packet.
pub(crate) fn segments(packet: &[u8], header: &VirtioNetHdr) -> Vec<Vec<u8>> {
    let whole = SuperPacket::new(packet, header).expect("a good super-packet");
    (0..whole.count())
        .map(|n| {
            let mut segment = vec![0; whole.header_len()];
            let payload = whole.segment(packet, n, &mut segment);
            segment.extend_from_slice(&packet[payload]);
            segment
        })
        .collect()
}

/// A directory in /tmp, which goes with the value.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let random: [u8; 8] = sys::random().expect("getrandom works");
        let path = std::env::temp_dir().join(format!("jtunnel-{}", hex::encode(random)));
        fs::create_dir(&path).expect("a fresh directory");
        Self(path)
    }
}

impl Deref for Directory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A seeded xorshift: the same numbers in each run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Less than `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or_default() % limit
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[3]).collect()
    }

    /// Flips one bit, if there is one.
    pub(crate) fn flip(&mut self, bytes: &mut [u8]) {
        if !bytes.is_empty() {
            let bit = self.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
