//! Packets as they pass the devices of a host.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt::RcvBufForce,
};

use crate::host::Host;
use crate::wait::{PATIENCE, wait_for};

/// How the kernel marks what leaves (linux/if_packet.h).
const PACKET_OUTGOING: u8 = 4;

/// Sees all IP packets of one device.
pub struct Sniffer {
    socket: OwnedFd,
    index: usize,
    /// Whether what comes in is of no interest.
    leaving: bool,
}

impl Sniffer {
    /// Listens from now on, to both directions.
    pub fn new(host: &Host, device: &str) -> Self {
        Self::listen(host, device, false)
    }

    /// Listens to what leaves the host.
    pub fn leaving(host: &Host, device: &str) -> Self {
        Self::listen(host, device, true)
    }

    fn listen(host: &Host, device: &str, leaving: bool) -> Self {
        let index = host.ip(&format!("-o link show dev {device}"));
        let index = index.split(':').next().unwrap().parse().unwrap();
        let socket = host.run(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let (family, protocol) = (AddressFamily::Packet, SockProtocol::EthAll);
            socket(family, SockType::Datagram, flags, protocol).unwrap()
        });
        // A busy machine reads it late.
        setsockopt(&socket, RcvBufForce, &(32 << 20)).unwrap();
        Self {
            socket,
            index,
            leaving,
        }
    }

    /// The next packet, if there is one already.
    pub fn packet(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 65536];
        loop {
            let (len, from) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer).ok()?;
            let wanted = |from: &LinkAddr| {
                let leaves = from.pkttype() == PACKET_OUTGOING;
                from.ifindex() == self.index && (leaves || !self.leaving)
            };
            if from.as_ref().is_some_and(wanted) {
                return Some(buffer[..len].to_vec());
            }
        }
    }

    /// Waits for a packet that is wanted.
    #[track_caller]
    pub fn wait(&self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        wait_for(PATIENCE, what, || {
            loop {
                let packet = self.packet()?;
                if wanted(&packet) {
                    return Some(packet);
                }
            }
        })
    }
}

/// The payload of a UDP datagram over IPv4 or IPv6 (without extension headers), with its ports.
pub fn udp(packet: &[u8]) -> Option<(u16, u16, &[u8])> {
    let (protocol, header) = match packet.first()? >> 4 {
        4 => (packet.get(9)?, usize::from(packet[0] & 15) * 4),
        6 => (packet.get(6)?, 40),
        _ => return None,
    };
    let datagram = packet.get(header..).filter(|_| *protocol == 17)?;
    let port = |at: usize| {
        Some(u16::from_be_bytes([
            *datagram.get(at)?,
            *datagram.get(at + 1)?,
        ]))
    };
    Some((port(0)?, port(2)?, datagram.get(8..)?))
}

/// Whether routers may fragment this IPv4 packet.
pub fn may_fragment(packet: &[u8]) -> bool {
    packet[6] & 0x40 == 0
}
