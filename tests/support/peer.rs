//! A peer that speaks the wire format by hand: it can claim any identifier and say anything.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto,
    setsockopt, socket, sockopt::RcvBufForce,
};

use crate::config::bytes;
use crate::host::Host;
use crate::wait::PATIENCE;

/// A peer with one socket.
pub struct Peer {
    socket: UdpSocket,
}

/// A datagram: header and payload.
pub fn datagram(id: &str, payload: &[u8]) -> Vec<u8> {
    [&bytes(id), payload].concat()
}

/// The payload of a keepalive.
pub fn keepalive(counter: u32) -> Vec<u8> {
    [&[1], &counter.to_be_bytes()[..]].concat()
}

/// The payload that answers a keepalive.
pub fn answer(counter: u32) -> Vec<u8> {
    [&[2], &counter.to_be_bytes()[..]].concat()
}

impl Peer {
    /// One on this host, with a free port of every address.
    pub fn new(host: &Host) -> Self {
        Self::bound(host, "[::]:0")
    }

    /// One with a socket bound to this address.
    pub fn bound(host: &Host, address: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let socket = host.run(move || UdpSocket::bind(address)).unwrap();
        // What comes by the thousand is all counted.
        setsockopt(&socket, RcvBufForce, &(32 << 20)).unwrap();
        Self { socket }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    /// Sends these bytes, and nothing else.
    pub fn send_raw(&self, bytes: &[u8], to: (&str, u16)) {
        let _ = self.socket.send_to(bytes, to);
    }

    /// Sends a payload behind an identifier.
    pub fn send(&self, id: &str, payload: &[u8], to: (&str, u16)) {
        self.send_raw(&datagram(id, payload), to);
    }

    /// The next datagram and its source, if one comes in time.
    pub fn receive_within(&self, patience: Duration) -> Option<(Vec<u8>, SocketAddr)> {
        let end = Instant::now() + patience;
        let mut buffer = vec![0; 65536];
        loop {
            let left = end.checked_duration_since(Instant::now())?;
            let left = left.max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).unwrap();
            if let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
                buffer.truncate(len);
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                return Some((buffer, from));
            }
        }
    }

    /// Waits for the next datagram.
    #[track_caller]
    pub fn receive(&self) -> (Vec<u8>, SocketAddr) {
        self.receive_within(PATIENCE).unwrap()
    }

    /// Waits for a datagram with exactly these bytes; others that come before are returned too.
    #[track_caller]
    pub fn expect(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut others = Vec::new();
        loop {
            let (datagram, _) = self.receive();
            if datagram == bytes {
                return others;
            }
            others.push(datagram);
        }
    }

    /// Sends keepalives of this identifier until one is answered by the other.
    #[track_caller]
    pub fn knock(&self, id: &str, to: (&str, u16), other: &str) -> SocketAddr {
        let since = Instant::now();
        for counter in (1_000_000..).take_while(|_| since.elapsed() < PATIENCE) {
            self.send(id, &keepalive(counter), to);
            let until = Instant::now() + Duration::from_millis(100);
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                match self.receive_within(left) {
                    Some((got, from)) if got == datagram(other, &answer(counter)) => return from,
                    Some(_) => {}
                    None => break,
                }
            }
        }
        panic!("no keepalive was answered");
    }
}

/// Sends IPv4 packets with any source.
pub struct Forger(OwnedFd);

impl Forger {
    /// One on this host.
    pub fn new(host: &Host) -> Self {
        let raw = || {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw).unwrap()
        };
        Self(host.run(raw))
    }

    /// Sends a UDP datagram from this source.
    pub fn udp(&self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        self.packet(&udp_packet(from, to, payload), to);
    }

    /// Sends a whole packet.
    pub fn packet(&self, packet: &[u8], to: SocketAddrV4) {
        let to = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
        sendto(self.0.as_raw_fd(), packet, &to, MsgFlags::empty()).unwrap();
    }
}

/// Sends an ICMPv6 message from one of the host's own addresses; the kernel fills in the checksum.
pub fn send_icmp6(host: &Host, to: Ipv6Addr, message: &[u8]) {
    let raw = || {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::IcmpV6;
        socket(AddressFamily::Inet6, SockType::Raw, flags, protocol).unwrap()
    };
    let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
    sendto(host.run(raw).as_raw_fd(), message, &to, MsgFlags::empty()).unwrap();
}

/// The one's complement sum.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// An IPv4 packet that is not to be fragmented.
pub fn ipv4_packet(from: SocketAddrV4, to: SocketAddrV4, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv4 packet with a UDP datagram.
pub fn udp_packet(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram = Vec::new();
    for field in [from.port(), to.port(), len, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    let pseudo_header = [
        &from.ip().octets(),
        &to.ip().octets(),
        &[0, 17][..],
        &len.to_be_bytes(),
    ];
    let sum = checksum(&[&pseudo_header.concat(), &datagram[..]].concat());
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    ipv4_packet(from, to, 17, &datagram)
}

/// An IPv6 packet with an ICMPv6 message, whose checksum is filled in (RFC 4443, 2.3).
pub fn icmp6_packet(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap().to_be_bytes();
    let ends = [from.octets(), to.octets()].concat();
    let mut message = message.to_vec();
    let pseudo_header = [&ends[..], &[0, 0], &len, &[0, 0, 0, 58]].concat();
    let sum = checksum(&[&pseudo_header, &message[..]].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    // As far as it goes: what neighbours say to each other counts with 255 only.
    let header = [&[0x60, 0, 0, 0][..], &len, &[58, 255]].concat();
    [header, ends, message].concat()
}
