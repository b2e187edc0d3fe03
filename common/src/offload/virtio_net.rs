//! The header that says what is unfinished about a packet: `struct virtio_net_hdr` of
//! `<linux/virtio_net.h>`, in native byte order on a tun device. Pure.

/// Length on a tun device, in bytes.
pub const HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What a packet is to be cut into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GsoType {
    /// Nothing: it is a packet as it goes over the wire.
    #[default]
    None,
    /// TCP segments over IPv4.
    Tcp4,
    /// TCP segments over IPv6.
    Tcp6,
    /// UDP datagrams over either.
    Udp,
}

/// The header, decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioNetHdr {
    /// Whether the checksum field holds the sum of the pseudo header only.
    pub needs_checksum: bool,
    /// What the packet is to be cut into.
    pub gso: GsoType,
    /// Length of the headers of each segment, in bytes. Wrong on forwarded packets.
    pub header_len: u16,
    /// Length of each segment's payload but the last one's, in bytes.
    pub gso_size: u16,
    /// Where the checksum begins to count, in bytes from the start of the packet.
    pub checksum_start: u16,
    /// Where it is stored, in bytes from there.
    pub checksum_offset: u16,
}

impl VirtioNetHdr {
    /// Reads a header; `None` for a kind of super-packet that was never asked for.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let [flags, gso, fields @ ..] = bytes;
        let field = |n: usize| u16::from_ne_bytes([fields[2 * n], fields[2 * n + 1]]);
        Some(Self {
            needs_checksum: flags & NEEDS_CSUM != 0,
            // ECN says that a CWR flag is among the flags, which the cutter sees for itself.
            gso: match gso & !GSO_ECN {
                GSO_NONE => GsoType::None,
                GSO_TCPV4 => GsoType::Tcp4,
                GSO_TCPV6 => GsoType::Tcp6,
                GSO_UDP_L4 => GsoType::Udp,
                _ => return None,
            },
            header_len: field(0),
            gso_size: field(1),
            checksum_start: field(2),
            checksum_offset: field(3),
        })
    }

    /// Writes a header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = if self.needs_checksum { NEEDS_CSUM } else { 0 };
        bytes[1] = match self.gso {
            GsoType::None => GSO_NONE,
            GsoType::Tcp4 => GSO_TCPV4,
            GsoType::Tcp6 => GSO_TCPV6,
            GsoType::Udp => GSO_UDP_L4,
        };
        bytes[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for gso in [GsoType::None, GsoType::Tcp4, GsoType::Tcp6, GsoType::Udp] {
            for needs_checksum in [false, true] {
                let header = VirtioNetHdr {
                    needs_checksum,
                    gso,
                    header_len: 0x0102,
                    gso_size: 0x0304,
                    checksum_start: 0x0506,
                    checksum_offset: 0x0708,
                };
                assert_eq!(VirtioNetHdr::decode(&header.encode()), Some(header));
            }
        }
    }

    #[test]
    fn nothing_to_do_is_all_zero() {
        assert_eq!(VirtioNetHdr::default().encode(), [0; HEADER_LEN]);
    }

    #[test]
    fn every_type_byte() {
        for byte in 0..=u8::MAX {
            let mut bytes = [0; HEADER_LEN];
            bytes[1] = byte;
            let known = matches!(byte & 0x7f, 0 | 1 | 4 | 5);
            assert_eq!(VirtioNetHdr::decode(&bytes).is_some(), known, "{byte:#x}");
        }
    }
}
