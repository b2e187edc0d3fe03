//! Where datagrams go: the peer's address, the local one that they leave from, and how many may
//! leave at once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::io::control::Control;
use crate::io::datagrams::Datagrams;
use crate::io::source::Source;
use crate::sys::address::RawAddress;

/// No path has an MTU that this would not pass (RFC 791: 576).
const SHORT_SEGMENT: usize = 512;
/// How long segments that were refused go singly.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Where to send: a peer's address, and the local address to send from, if there is a choice.
#[derive(Clone, Copy)]
pub struct Target {
    address: SocketAddr,
    pub(crate) raw: RawAddress,
    pub(crate) source: Option<Source>,
    /// Whether there is a source, and its address alone tells it.
    any_interface: bool,
    /// Control messages that ask for the source.
    pub(crate) control: Control,
    /// The longest datagram that may leave as a segment of many, in bytes.
    max_segment: usize,
    /// When a longer one was refused; never if the kernel has no segments.
    refused: Option<Instant>,
    /// How long those were that were refused once, in bytes; 0 if some as long have left since.
    doubted: usize,
}

impl Target {
    pub(crate) fn new(
        address: SocketAddr,
        ipv6: bool,
        source: Option<Source>,
        segments: bool,
    ) -> Self {
        let mut control = Control::default();
        if let Some(source) = source {
            source.push_to(&mut control, ipv6);
        }
        Self {
            address,
            raw: RawAddress::new(address, ipv6),
            source,
            any_interface: source.is_some_and(Source::is_any_interface),
            control,
            max_segment: if segments { usize::MAX } else { 0 },
            refused: None,
            doubted: 0,
        }
    }

    /// The peer's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether this is where the datagrams came from, and to.
    pub fn is_origin_of(&self, datagrams: &Datagrams) -> bool {
        // What asks an IPv6 socket for a source begins like what it reports, so that most need not
        // be decoded. With IPv4 an interface comes first, which is not asked for.
        let came_to_source = self.any_interface && self.control.begins_like(&datagrams.control);
        self.raw == datagrams.from && (came_to_source || self.source == datagrams.source())
    }

    /// Whether datagrams of this length may leave as segments. What was refused is tried again
    /// after a while: paths change.
    pub(crate) fn takes_segments(&self, len: usize) -> bool {
        len <= self.max_segment || len <= self.longest_segment()
    }

    /// The longest datagram that may, in bytes.
    pub(crate) fn longest_segment(&self) -> usize {
        let is_over = self.refused.is_some_and(|at| at.elapsed() >= REFUSED_FOR);
        if is_over {
            usize::MAX
        } else {
            self.max_segment
        }
    }

    /// Segments of this length have left.
    pub(crate) fn accept_segments(&mut self, len: usize) {
        self.max_segment = self.max_segment.max(len);
        if len >= self.doubted {
            self.doubted = 0;
        }
    }

    /// A datagram of its own was lost as well: it is the route that refuses.
    pub(crate) fn trust_segments(&mut self) {
        self.doubted = 0;
    }

    /// Segments of this length were refused. The second time, with single ones that left in
    /// between, it is remembered, so that they go singly. The error is the same for a path whose
    /// MTU is smaller and for a device that can't do it at all: a short segment tells them apart.
    /// Returns whether that is news.
    pub(crate) fn refuse_segments(&mut self, len: usize) -> bool {
        if self.doubted == 0 {
            self.doubted = len;
            return false;
        }
        self.doubted = 0;
        let is_news = len <= self.max_segment;
        self.refused = Some(Instant::now());
        if is_news {
            self.max_segment = if len > SHORT_SEGMENT { len - 1 } else { 0 };
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn target(segments: bool) -> Target {
        let to = "192.0.2.1:1".parse().expect("an address");
        Target::new(to, true, None, segments)
    }

    /// What came from the peer of [`target`] to an IPv6 address of ours, by an interface; `joined` if
    /// it says that several came as one.
    fn datagrams(to: &str, interface: u32, joined: bool) -> Datagrams {
        let mut datagrams = Datagrams::new(16, 2);
        datagrams.from = target(true).raw;
        if joined {
            let len = 100_i32.to_ne_bytes();
            datagrams.control.push(libc::SOL_UDP, libc::UDP_GRO, &len);
        }
        let to: Ipv6Addr = to.parse().expect("an address");
        let info = [&to.octets()[..], &interface.to_ne_bytes()].concat();
        let control = &mut datagrams.control;
        control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        datagrams
    }

    #[test]
    fn the_origin_is_a_peer_and_an_address_of_ours() {
        for joined in [false, true] {
            for (ours, by, to, through, same) in [
                ("2001:db8::1", 2, "2001:db8::1", 2, true),
                ("2001:db8::1", 2, "2001:db8::1", 3, true),
                ("2001:db8::1", 2, "2001:db8::2", 2, false),
                ("::ffff:192.0.2.9", 2, "::ffff:192.0.2.9", 3, true),
                ("::ffff:192.0.2.9", 2, "::ffff:192.0.2.8", 2, false),
                ("fe80::1", 2, "fe80::1", 2, true),
                ("fe80::1", 2, "fe80::1", 3, false),
            ] {
                let (first, mut next) =
                    (datagrams(ours, by, false), datagrams(to, through, joined));
                let target = Target::new(first.from.decode(), true, first.source(), true);
                let case = format!("{ours}%{by} {to}%{through} {joined}");
                assert_eq!(target.is_origin_of(&next), same, "{case}");
                next.from = RawAddress::new("192.0.2.1:2".parse().expect("an address"), true);
                assert!(!target.is_origin_of(&next), "{case}, another port");
            }
        }
        assert!(!target(true).is_origin_of(&datagrams("2001:db8::1", 2, false)));
    }

    #[test]
    fn a_source_is_known_without_being_decoded() {
        for ours in ["2001:db8::1", "::ffff:192.0.2.9"] {
            let mut datagrams = datagrams(ours, 2, true);
            let target = Target::new(datagrams.from.decode(), true, datagrams.source(), true);
            let at_sight = |datagrams: &Datagrams| target.control.begins_like(&datagrams.control);
            assert!(!at_sight(&datagrams), "{ours}");
            assert!(
                datagrams
                    .control
                    .take(libc::SOL_UDP, libc::UDP_GRO)
                    .is_some()
            );
            assert!(at_sight(&datagrams), "{ours}");
            // What an earlier call left behind the messages says nothing.
            for len in [0, datagrams.control.as_bytes().len() - 9] {
                datagrams.control.received(len);
                assert!(
                    !at_sight(&datagrams) && !target.is_origin_of(&datagrams),
                    "{ours} {len}"
                );
            }
        }
    }

    #[test]
    fn refused_segments_go_singly() {
        let mut target = target(true);
        assert!(!target.refuse_segments(1428), "once is not enough");
        target.trust_segments();
        assert!(!target.refuse_segments(1428), "nor once again");
        target.accept_segments(1428);
        assert!(!target.refuse_segments(1428) && target.takes_segments(1428));
        // Shorter ones say nothing of it.
        target.accept_segments(100);
        assert!(target.refuse_segments(1428), "news");
        assert!(target.takes_segments(1427) && !target.takes_segments(1428));
        assert!(!target.refuse_segments(100) && target.refuse_segments(100));
        assert!(!target.takes_segments(8));
    }

    #[test]
    fn refused_segments_are_tried_again() {
        let mut target = target(true);
        assert!(!target.refuse_segments(1428) && target.refuse_segments(1428));
        for tried in [true, false] {
            target.refused = Instant::now().checked_sub(REFUSED_FOR);
            assert!(target.takes_segments(1428));
            match tried {
                true => (0..2).for_each(|_| assert!(!target.refuse_segments(1428), "no news")),
                false => target.accept_segments(1428),
            }
            assert_eq!(target.takes_segments(1428), !tried);
        }
        assert!(
            !self::target(false).takes_segments(8),
            "a kernel that has none"
        );
    }
}
