//! Socket addresses as the kernel takes and gives them, in bytes. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use libc::{AF_INET, AF_INET6};

use crate::sys::words;

/// Room for a `sockaddr_in6`, the larger of the two, in bytes.
const RAW_LEN: usize = 28;

/// A `sockaddr_in` or `sockaddr_in6`: family in native byte order, port in network byte order
/// (`<linux/in.h>`, `<linux/in6.h>`), aligned as those are.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct RawAddress {
    /// The last 4 stay 0: the whole is compared in words.
    bytes: [u8; RAW_LEN + 4],
    len: u32,
}

impl PartialEq for RawAddress {
    /// Asked for each packet. The kernel gives addresses in the form of [`canonical`]: flow label
    /// 0, and a scope for link-local addresses only.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        words::are_same(&self.bytes, &other.bytes) && self.len == other.len
    }
}

impl RawAddress {
    /// Nobody's, for `recvmsg` to write to.
    pub(crate) const EMPTY: Self = Self {
        bytes: [0; RAW_LEN + 4],
        len: 0,
    };

    /// For a socket of one family; an IPv6 socket takes IPv4 addresses in mapped form.
    #[inline(never)]
    pub fn new(address: SocketAddr, ipv6_socket: bool) -> Self {
        let mut bytes = [0; RAW_LEN + 4];
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let (family, len) = match address {
            SocketAddr::V4(v4) if !ipv6_socket => {
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                (AF_INET, 16)
            }
            SocketAddr::V4(v4) => {
                bytes[8..24].copy_from_slice(&v4.ip().to_ipv6_mapped().octets());
                (AF_INET6, 28)
            }
            SocketAddr::V6(v6) => {
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                (AF_INET6, 28)
            }
        };
        bytes[..2].copy_from_slice(&family_bytes(family));
        Self { bytes, len }
    }

    /// The bytes for `sendmsg` or `bind`.
    pub fn as_bytes(&self) -> &[u8] {
        let len = usize::try_from(self.len).unwrap_or(RAW_LEN);
        self.bytes.get(..len).unwrap_or(&self.bytes)
    }

    /// Where `recvmsg` writes an address and its length.
    pub(crate) fn room(&mut self) -> (&mut [u8], &mut u32) {
        (&mut self.bytes[..RAW_LEN], &mut self.len)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]])
    }

    /// The address, or nobody's for one of another family, which can't come from a UDP socket.
    #[cold]
    pub fn decode(&self) -> SocketAddr {
        let nobody = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        decode(self.as_bytes()).unwrap_or(nobody)
    }
}

impl fmt::Display for RawAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.decode().fmt(f)
    }
}

fn family_bytes(family: i32) -> [u8; 2] {
    u16::try_from(family).unwrap_or_default().to_ne_bytes()
}

/// Reads what `recvmsg` wrote, in [`canonical`] form; `None` for another family or a short one.
pub fn decode(raw: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = raw.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    if *family == family_bytes(AF_INET) {
        let octets = rest.first_chunk::<4>()?;
        return Some(SocketAddr::new(IpAddr::from(*octets), port));
    }
    if *family != family_bytes(AF_INET6) {
        return None;
    }
    let address = Ipv6Addr::from(*rest.get(4..)?.first_chunk::<16>()?);
    let scope = u32::from_ne_bytes(*rest.get(20..)?.first_chunk::<4>()?);
    Some(canonical(SocketAddrV6::new(address, port, 0, scope).into()))
}

/// The one form in which addresses are compared: v4-mapped as IPv4, no flow label, and a scope
/// for link-local addresses only.
#[cold]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => {
                let scope = if v6.ip().is_unicast_link_local() {
                    v6.scope_id()
                } else {
                    0
                };
                SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope).into()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn round_trip() {
        for (text, ipv6_socket) in [
            ("192.0.2.1:5886", false),
            ("192.0.2.1:5886", true),
            ("[2001:db8::1]:1", true),
            ("[fe80::1%7]:65535", true),
        ] {
            let raw = RawAddress::new(address(text), ipv6_socket);
            assert_eq!(decode(raw.as_bytes()), Some(address(text)), "{text}");
            for length in 0..raw.as_bytes().len() {
                let decoded = decode(&raw.as_bytes()[..length]);
                assert!(decoded.is_none() || length >= 8, "{text} at {length}");
            }
        }
        assert_eq!(
            RawAddress::new(address("192.0.2.1:1"), false)
                .as_bytes()
                .len(),
            16
        );
    }

    #[test]
    fn one_other_byte_is_another_address() {
        let ours = RawAddress::new(address("[fe80::1%7]:65535"), true);
        let same = ours;
        assert!(ours == same);
        for at in 0..RAW_LEN {
            let mut theirs = ours;
            theirs.room().0[at] ^= 1;
            assert!(ours != theirs, "byte {at}");
        }
        let mut shorter = ours;
        *shorter.room().1 -= 1;
        assert!(ours != shorter);
    }

    #[test]
    fn mapped_and_plain_are_equal() {
        assert_eq!(
            canonical(address("[::ffff:192.0.2.1]:9")),
            address("192.0.2.1:9")
        );
    }

    #[test]
    fn scope_counts_for_link_local_only() {
        assert_eq!(
            canonical(address("[2001:db8::1%3]:9")),
            address("[2001:db8::1]:9")
        );
        assert_eq!(
            canonical(address("[fe80::1%3]:9")),
            address("[fe80::1%3]:9")
        );
        let labelled = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 9, 77, 0);
        assert_eq!(canonical(labelled.into()), address("[::1]:9"));
    }

    #[test]
    fn other_families_are_refused() {
        assert_eq!(decode(&[0; RAW_LEN]), None);
        assert_eq!(decode(&[]), None);
    }
}
