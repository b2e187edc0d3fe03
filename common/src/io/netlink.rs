//! Requests to the kernel about devices and routes (netlink(7), rtnetlink(7)). All numbers are in
//! the machine's byte order.

use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{
    AF_INET6, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, RTA_DST, RTA_OIF, RTM_GETROUTE, RTM_NEWROUTE,
    RTN_ANYCAST, RTN_LOCAL,
};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// Length of `struct nlmsghdr`: length, type and flags, sequence, port.
const HEADER_LEN: usize = 16;
/// The beginning of an answer is all that is looked at.
const ANSWER_LEN: usize = 256;

/// The kernel's end.
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens a way to it.
    pub fn open() -> nix::Result<Self> {
        let (family, protocol) = (AddressFamily::Netlink, SockProtocol::NetlinkRoute);
        socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map(Self)
    }

    /// Has something changed, and tells whether it was.
    pub fn change(&self, kind: u16, body: &[u8]) -> bool {
        // The answer is a header, and an errno that is 0 if all went well.
        self.ask(kind, NLM_F_REQUEST | NLM_F_ACK, body)
            .is_ok_and(|answer| {
                kind_of(&answer) == u16::try_from(NLMSG_ERROR).unwrap_or_default()
                    && answer[HEADER_LEN..HEADER_LEN + 4] == [0; 4]
            })
    }

    /// Whether datagrams to this address are the host's own by the table of routes, be it on the
    /// kernel's list of addresses or not; by an interface if there is one.
    pub(super) fn is_local(&self, address: Ipv6Addr, interface: u32) -> bool {
        // struct rtmsg: family, length of the destination in bits, and what is 0 in a question.
        let mut body = vec![u8::try_from(AF_INET6).unwrap_or_default(), 128];
        body.resize(12, 0);
        attribute(&mut body, RTA_DST, &address.octets());
        if interface != 0 {
            attribute(&mut body, RTA_OIF, &interface.to_ne_bytes());
        }
        // The route's type is the eighth byte of struct rtmsg.
        self.ask(RTM_GETROUTE, NLM_F_REQUEST, &body)
            .is_ok_and(|answer| {
                kind_of(&answer) == RTM_NEWROUTE
                    && matches!(answer[HEADER_LEN + 7], RTN_LOCAL | RTN_ANYCAST)
            })
    }

    /// Sends a request, and waits for what comes back.
    fn ask(&self, kind: u16, flags: i32, body: &[u8]) -> nix::Result<[u8; ANSWER_LEN]> {
        let len = u32::try_from(HEADER_LEN + body.len()).unwrap_or_default();
        let mut message = len.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(u16::try_from(flags).unwrap_or_default().to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        let (fd, mut answer) = (self.0.as_raw_fd(), [0; ANSWER_LEN]);
        send(fd, &message, MsgFlags::empty())?;
        loop {
            match recv(fd, &mut answer, MsgFlags::empty()) {
                // Left there, it would be taken for the answer to the next request.
                Err(Errno::EINTR) => {}
                result => return result.map(|_| answer),
            }
        }
    }
}

/// Appends a `struct rtattr`: length and type, and a value whose length is a multiple of 4.
pub fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).unwrap_or_default();
    body.extend(len.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

fn kind_of(answer: &[u8; ANSWER_LEN]) -> u16 {
    u16::from_ne_bytes([answer[4], answer[5]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_told_from_others() {
        let kernel = Netlink::open().expect("a netlink socket");
        assert!(kernel.is_local(Ipv6Addr::LOCALHOST, 0));
        let other = "2001:db8::1".parse().expect("an address");
        assert!(!kernel.is_local(other, 0));
        assert!(kernel.is_local(Ipv6Addr::LOCALHOST, 0), "and again");
    }
}
