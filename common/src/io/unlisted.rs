//! Sources that are the host's own without being on the kernel's list of addresses: those of an
//! IPv6 prefix that is local as a whole (`ip -6 route add local PREFIX dev lo`).
//!
//! The kernel looks a source up in that list (ip6_datagram_send_ctl), not in the table of routes as
//! it does with IPv4 (ip_route_output_key), unless the socket has IP_FREEBIND. Then it looks at
//! nothing, and a source that is gone would be insisted on. So the option is there only while such
//! a source is in use, and the table is asked here.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::io::netlink::Netlink;
use crate::io::source::Source;
use crate::sys;

/// How long the table's answer is relied on.
const FRESH: Duration = Duration::from_secs(1);

/// What is known of the source that was refused last.
#[derive(Debug, Default)]
pub(super) struct Unlisted {
    verdict: Cell<Option<Verdict>>,
    /// Whether there is one: that is asked for each datagram.
    is_known: Cell<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Verdict {
    source: Source,
    /// Whether it is the host's own all the same. Then the socket has IP_FREEBIND.
    is_ours: bool,
    at: Instant,
}

impl Verdict {
    fn holds_for(&self, source: Source) -> bool {
        self.source == source && self.at.elapsed() < FRESH
    }
}

impl Unlisted {
    /// To be called before each send: another source, or the same after a while, is the kernel's to
    /// judge again.
    #[inline]
    pub(super) fn review(&self, fd: BorrowedFd<'_>, source: Option<&Source>) {
        if self.is_known.get() {
            self.review_verdict(fd, source);
        }
    }

    #[cold]
    fn review_verdict(&self, fd: BorrowedFd<'_>, source: Option<&Source>) {
        let Some((verdict, source)) = self.verdict.get().zip(source) else {
            return;
        };
        if !verdict.holds_for(*source) {
            if verdict.is_ours {
                let _ = sys::set_option(fd, libc::IPPROTO_IP, libc::IP_FREEBIND, 0);
            }
            self.is_known.set(false);
            self.verdict.set(None);
        }
    }

    /// A send from this source gave EINVAL. If that is for the source and it is the host's own, the
    /// next try will do. The error is EADDRNOTAVAIL if the source is gone, and EINVAL if it was
    /// not for the source.
    #[cold]
    pub(super) fn admit(&self, fd: BorrowedFd<'_>, source: Option<&Source>) -> nix::Result<()> {
        let ipv6 = source.and_then(|&source| Some((source, source.ipv6()?)));
        let Some((source, (address, interface))) = ipv6 else {
            return Err(Errno::EINVAL);
        };
        let known = self
            .verdict
            .get()
            .filter(|verdict| verdict.holds_for(source));
        let verdict = known.unwrap_or_else(|| Verdict {
            source,
            is_ours: Netlink::open().is_ok_and(|kernel| kernel.is_local(address, interface)),
            at: Instant::now(),
        });
        self.verdict.set(Some(verdict));
        self.is_known.set(true);
        match (verdict.is_ours, known) {
            (false, _) => Err(Errno::EADDRNOTAVAIL),
            // The kernel did not look at the source.
            (true, Some(_)) => Err(Errno::EINVAL),
            (true, None) => sys::set_option(fd, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)
                .map_err(|_| Errno::EINVAL),
        }
    }
}
