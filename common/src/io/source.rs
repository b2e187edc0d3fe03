//! The local address that a datagram came to, as control messages tell it and ask for it. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::io::control::Control;

/// The local address that a datagram came to, so that the answer leaves from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// IPv4 in mapped form.
    address: Ipv6Addr,
    /// 0 but for link-local addresses: an index would override the routing table.
    interface: u32,
}

impl Source {
    /// The local address that an IPv6 datagram came to.
    pub(super) fn from_v6(info: &[u8]) -> Option<Self> {
        let address = Ipv6Addr::from(*info.first_chunk::<16>()?);
        let index = u32::from_ne_bytes(*info.get(16..)?.first_chunk::<4>()?);
        let link_local = address.is_unicast_link_local();
        Some(Self {
            address,
            interface: if link_local { index } else { 0 },
        })
    }

    /// The one that an IPv4 datagram came to: the last of ipi_ifindex, ipi_spec_dst and ipi_addr,
    /// which is the destination in the header.
    pub(super) fn from_v4(info: &[u8]) -> Option<Self> {
        let address = Ipv4Addr::from(*info.get(8..)?.first_chunk::<4>()?);
        Some(Self {
            address: address.to_ipv6_mapped(),
            interface: 0,
        })
    }

    /// Address and interface, if it is one of IPv6.
    pub(super) fn ipv6(self) -> Option<(Ipv6Addr, u32)> {
        let is_mapped = self.address.to_ipv4_mapped().is_some();
        (!is_mapped).then_some((self.address, self.interface))
    }

    /// Whether the address alone tells it.
    pub(super) fn is_any_interface(self) -> bool {
        self.interface == 0
    }

    /// Asks for it with `in6_pktinfo` or `in_pktinfo` (ipv6(7), ip(7)), by the socket's family.
    pub(super) fn push_to(self, control: &mut Control, ipv6: bool) {
        let interface = self.interface.to_ne_bytes();
        let address = self.address.octets();
        if ipv6 {
            let mut info = [0; 20];
            info[..16].copy_from_slice(&address);
            info[16..].copy_from_slice(&interface);
            control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        } else {
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&address[12..]);
            control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
    }
}
