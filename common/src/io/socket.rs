//! The UDP socket: set-up, connectionless I/O, errno policy.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use libc::c_int;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, getsockname, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::io::control::Control;
use crate::io::datagrams::Datagrams;
use crate::io::memory;
use crate::io::source::Source;
use crate::io::target::Target;
use crate::io::unlisted::Unlisted;
use crate::keyed::OVERHEAD;
use crate::report::error::{Context, Result};
use crate::sys::address::RawAddress;
use crate::sys::{self, RawMessage};

/// Receive buffer, in bytes: room for all that comes while a busy processor is elsewhere for
/// 10 ms. The default of 208 KiB loses bursts.
const RECEIVE_BUFFER_LEN: u64 = 4 << 20;
/// The same on a machine of 32 MiB.
const SMALL_BUFFER_LEN: u64 = 1 << 20;
/// In between the buffer takes this share of the machine's memory.
const BUFFER_SHARE: u64 = 32;
/// Send buffer, in bytes: room for a turn's super-packets. What waits here for a slow uplink is
/// late; it holds 0.3 s of 20 Mbit/s.
const SEND_BUFFER_LEN: usize = 512 << 10;

/// Packets up to this length fit every path of IPv6, which is of 1280 bytes at least (RFC 8200, 5),
/// with the headers of IPv6 and UDP and what a keyed link adds, which is more than a plain one does.
const MAX_MTU_OF_ANY_PATH: usize = 1280 - 40 - 8 - OVERHEAD;

/// So many leave in one call. What a call costs is small beside so many.
pub(crate) const MAX_AT_ONCE: usize = 32;

/// Flags of every call that is not to wait, which is every send.
const NOWAIT: c_int = libc::MSG_DONTWAIT;

/// How the socket is to be set up.
#[derive(Clone, Copy, Debug)]
pub struct Bind {
    /// A literal address, or `None` for every address of both families.
    pub address: Option<SocketAddr>,
    /// The port; 0 is any free one.
    pub port: u16,
    /// `SO_MARK` of the outer packets.
    pub mark: Option<u32>,
    /// Whether calls return rather than wait.
    pub nonblocking: bool,
    /// Whether each datagram says which local address it came to. A socket that is bound to one
    /// address never does.
    pub report_source: bool,
    /// Whether datagrams of one flow may come and go many at a time, as far as the kernel can.
    pub offload: bool,
    /// The longest packet that is carried, in bytes.
    pub mtu: u16,
}

impl Bind {
    fn is_wildcard(&self) -> bool {
        self.address.is_none_or(|a| a.ip().is_unspecified())
    }
}

/// A datagram to send, or a run of them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Message<'a> {
    /// What it is gathered from.
    pub(crate) parts: &'a [IoSlice<'a>],
    /// How long each datagram of a run is, in bytes; the last may be shorter.
    pub(crate) segment: Option<u16>,
}

impl Message<'_> {
    #[inline]
    fn ask_for_segments(&self, control: &mut Control) {
        if let Some(len) = self.segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &len.to_ne_bytes());
        }
    }
}

/// An unconnected UDP socket. It stays unconnected and, but for `-b`, unbound to an address: a
/// connected one keeps a source address for ever that is gone.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    ipv6: bool,
    /// Whether the kernel has UDP_SEGMENT (Linux 4.18). One that has not would send all segments
    /// as one datagram, without an error.
    segments: bool,
    /// Whether datagrams come with control messages.
    control: bool,
    /// Whether one of those may say that several came as one.
    joins: bool,
    unlisted: Unlisted,
}

impl Socket {
    /// Opens and binds a socket.
    ///
    /// No `SO_REUSEADDR`: two daemons would share a UDP port without a word.
    pub fn bind(options: &Bind) -> Result<Self> {
        let (fd, ipv6) = open(options).context(|| "open a UDP socket".into())?;
        let segments = options.offload
            && sys::set_option(fd.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        let socket = Self {
            fd,
            ipv6,
            segments,
            control: options.offload || (options.report_source && options.is_wildcard()),
            joins: options.offload,
            unlisted: Unlisted::default(),
        };
        socket.configure(options)?;
        let any = match ipv6 {
            true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let mut address = options.address.unwrap_or(SocketAddr::new(any, 0));
        address.set_port(options.port);
        sys::bind(socket.fd.as_fd(), RawAddress::new(address, ipv6).as_bytes())
            .context(|| format!("bind UDP address {address}"))?;
        Ok(socket)
    }

    fn configure(&self, options: &Bind) -> Result<()> {
        let fd = self.fd.as_fd();
        let set = |level, name, value, what: &str| {
            sys::set_option(fd, level, name, value)
                .context(|| format!("set {what} on the UDP socket"))
        };
        // What an old kernel may lack.
        let ask = |level, name, value| {
            let _ = sys::set_option(fd, level, name, value);
        };
        if self.ipv6 {
            let only = (!options.is_wildcard()).into();
            set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only, "IPV6_V6ONLY")?;
            // No kernel without IPv6 fragmentation.
            let discover = |how| ask(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, how);
            discover(libc::IPV6_PMTUDISC_DONT);
            if usize::from(options.mtu) <= MAX_MTU_OF_ANY_PATH {
                // What passes every path has nothing to gain from ICMP, which may be forged. Since
                // Linux 3.15.
                discover(libc::IPV6_PMTUDISC_OMIT);
            }
        }
        // DF clear: a router that eats ICMP then fragments rather than hangs big packets. It
        // counts for the v4-mapped peers of an IPv6 socket too.
        let (level, name) = (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
        set(level, name, libc::IP_PMTUDISC_DONT, "IP_MTU_DISCOVER")?;
        // Linux 3.15: nor is any ICMP heeded, of which a forged one would have all packets cut into
        // fragments for ten minutes.
        ask(level, name, libc::IP_PMTUDISC_OMIT);
        if !options.is_wildcard() {
            // The address need not be there yet. It counts for IPv6 too.
            set(level, libc::IP_FREEBIND, 1, "IP_FREEBIND")?;
        }
        if options.report_source && options.is_wildcard() {
            self.report_destination()?;
        }
        if !options.nonblocking {
            // A call that waits begins its time-out anew with each datagram whose checksum is
            // wrong (udp_recvmsg), so that a few would keep it for ever. With a filter, whatever it
            // lets in, the kernel looks at the checksum before it queues a datagram.
            let _ = sys::attach_open_filter(fd);
        }
        if options.offload {
            // Linux 5.0; without it each datagram comes by itself.
            ask(libc::SOL_UDP, libc::UDP_GRO, 1);
        }
        if let Some(mark) = options.mark {
            setsockopt(&self.fd, sockopt::Mark, &mark)
                .context(|| format!("set mark {mark:#x} on the UDP socket"))?;
        }
        // FORCE passes the limits in net.core and needs CAP_NET_ADMIN; without it what is allowed.
        let share = memory::total() / BUFFER_SHARE;
        let len = share.clamp(SMALL_BUFFER_LEN, RECEIVE_BUFFER_LEN).try_into();
        let len = len.unwrap_or(usize::MAX);
        let _ = setsockopt(&self.fd, sockopt::RcvBufForce, &len)
            .or_else(|_| setsockopt(&self.fd, sockopt::RcvBuf, &len));
        let _ = setsockopt(&self.fd, sockopt::SndBufForce, &SEND_BUFFER_LEN)
            .or_else(|_| setsockopt(&self.fd, sockopt::SndBuf, &SEND_BUFFER_LEN));
        Ok(())
    }

    /// Asks for the destination of each datagram. An IPv6 socket reports that of IPv4 datagrams
    /// in the same message, in mapped form.
    fn report_destination(&self) -> Result<()> {
        let (level, name) = match self.ipv6 {
            true => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            false => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        };
        sys::set_option(self.fd.as_fd(), level, name, 1)
            .context(|| "ask the UDP socket for destination addresses".into())
    }

    /// Whether the socket can send to this address: an IPv4 one can't to IPv6, and one that is
    /// bound to an IPv6 address can't to IPv4.
    pub fn reaches(&self, address: SocketAddr) -> bool {
        match self.local_address() {
            Ok(SocketAddr::V4(_)) => address.is_ipv4(),
            Ok(SocketAddr::V6(local)) => address.is_ipv6() || local.ip().is_unspecified(),
            Err(_) => address.is_ipv6() == self.ipv6,
        }
    }

    /// The address and port that the socket is bound to.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        use std::os::fd::AsRawFd;
        let storage: nix::sys::socket::SockaddrStorage = getsockname(self.fd.as_raw_fd())?;
        if let Some(v4) = storage.as_sockaddr_in() {
            return Ok(SocketAddr::V4((*v4).into()));
        }
        storage
            .as_sockaddr_in6()
            .map(|v6| SocketAddr::V6((*v6).into()))
            .ok_or_else(|| Errno::EAFNOSUPPORT.into())
    }

    /// Receives one datagram, or several of one flow; waits for it if the socket blocks.
    pub fn receive(&self, into: &mut Datagrams) -> nix::Result<()> {
        self.receive_with(into, 0)
    }

    /// Receives what is there already.
    pub fn receive_queued(&self, into: &mut Datagrams) -> nix::Result<()> {
        self.receive_with(into, NOWAIT)
    }

    #[inline]
    fn receive_with(&self, into: &mut Datagrams, flags: c_int) -> nix::Result<()> {
        let fd = self.fd.as_fd();
        let (data, from, control) = into.targets();
        if !self.control {
            let len = sys::receive_from(fd, data, from, flags)?;
            let truncated = len > data.len();
            into.received(len, truncated);
            return Ok(());
        }
        let received = sys::receive_message(fd, data, from, control, flags)?;
        into.received(received.len, received.truncated);
        into.control.received(received.control_len);
        if self.joins
            && let Some(len) = into.control.take(libc::SOL_UDP, libc::UDP_GRO)
        {
            into.stride = stride(i32::from_ne_bytes(len), into.len);
        }
        Ok(())
    }

    /// Where to send, made once for many datagrams.
    pub fn target(&self, address: SocketAddr, source: Option<Source>) -> Target {
        Target::new(address, self.ipv6, source, self.segments)
    }

    /// Sends a datagram, without waiting: behind a slow uplink all that queues in the tun would be
    /// late. What there is no room for is lost, as in any router.
    ///
    /// If it can't leave from the address that the peer spoke to, it leaves from the one that
    /// the kernel chooses.
    pub fn send(&self, datagram: &[u8], target: &Target) -> nix::Result<()> {
        match target.source {
            None => sys::send_to(self.fd.as_fd(), datagram, target.raw.as_bytes(), NOWAIT),
            Some(_) => self.send_parts(&[IoSlice::new(datagram)], target),
        }
    }

    /// The same of gathered parts. By itself: without a source there is no need for all its room.
    #[inline(never)]
    pub(crate) fn send_parts(&self, parts: &[IoSlice<'_>], target: &Target) -> nix::Result<()> {
        let segment = None;
        self.send_message(&Message { parts, segment }, target)
    }

    /// The same of a message, which may be a run. Not all paths take a run, see
    /// [`Target::takes_segments`].
    #[inline(always)]
    pub(crate) fn send_message(&self, message: &Message<'_>, target: &Target) -> nix::Result<()> {
        self.unlisted
            .review(self.fd.as_fd(), target.source.as_ref());
        match self.send_with(message, target, &target.control) {
            Ok(()) => Ok(()),
            Err(error) => self.send_otherwise(message, target, error),
        }
    }

    /// Sends several in one call, [`MAX_AT_ONCE`] at most. Returns how many of the first have left. The
    /// next one is to be sent by itself then: that tells why it has not.
    pub(crate) fn send_messages(&self, messages: &[Message<'_>], target: &Target) -> usize {
        let fd = self.fd.as_fd();
        self.unlisted.review(fd, target.source.as_ref());
        let name = target.raw.as_bytes();
        let mut controls = [const { MaybeUninit::uninit() }; MAX_AT_ONCE];
        let raw = messages.iter().zip(&mut controls).map(|(message, room)| {
            let control = match message.segment {
                None => &target.control,
                Some(_) => {
                    let control = room.write(target.control);
                    message.ask_for_segments(control);
                    control
                }
            };
            RawMessage::new(message.parts, name, control.as_bytes())
        });
        sys::send_messages::<MAX_AT_ONCE>(fd, raw, NOWAIT).unwrap_or_default()
    }

    /// Sends what did not leave from where the peer spoke to: from there all the same, if the kernel
    /// only does not list that address, or from elsewhere.
    #[cold]
    fn send_otherwise(
        &self,
        message: &Message<'_>,
        target: &Target,
        error: Errno,
    ) -> nix::Result<()> {
        let send = |control| self.send_with(message, target, control);
        let (fd, source) = (self.fd.as_fd(), target.source.as_ref());
        let result = match error {
            Errno::EINVAL => {
                let admitted = self.unlisted.admit(fd, source);
                admitted.and_then(|()| send(&target.control))
            }
            error => Err(error),
        };
        match result {
            // There is no more room from elsewhere.
            Err(error) if is_congestion(error) => Err(error),
            // Refused segments may leave singly, and from where they should.
            Err(error) if message.segment.is_some() && is_refusal(error) => Err(error),
            Err(_) if source.is_some() => send(&Control::default()),
            sent => sent,
        }
    }

    #[inline(always)]
    fn send_with(
        &self,
        message: &Message<'_>,
        target: &Target,
        control: &Control,
    ) -> nix::Result<()> {
        let mut longer;
        let control = match message.segment {
            None => control,
            Some(_) => {
                longer = *control;
                message.ask_for_segments(&mut longer);
                &longer
            }
        };
        let name = target.raw.as_bytes();
        RawMessage::new(message.parts, name, control.as_bytes()).send(self.fd.as_fd(), NOWAIT)
    }

    /// Lets `receive` wait for `limit` at most, 1 microsecond at least: 0 would mean for ever.
    pub fn set_receive_timeout(&self, limit: Duration) -> io::Result<()> {
        let seconds = limit.as_secs().try_into().unwrap_or(i32::MAX);
        let micros = limit.subsec_micros().max((limit.as_secs() == 0).into());
        // Both fields are of 32 or of 64 bits, by machine.
        let micros: i32 = micros.try_into().unwrap_or_default();
        let value = TimeVal::new(seconds.into(), micros.into());
        Ok(setsockopt(&self.fd, sockopt::ReceiveTimeout, &value)?)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens a socket of the family that the bind address asks for: without one IPv6, or IPv4 where
/// the kernel has no IPv6.
fn open(options: &Bind) -> nix::Result<(OwnedFd, bool)> {
    let mut flags = SockFlag::SOCK_CLOEXEC;
    flags.set(SockFlag::SOCK_NONBLOCK, options.nonblocking);
    let open = |family| socket(family, SockType::Datagram, flags, None);
    if options.address.is_some_and(|a| a.is_ipv4()) {
        return Ok((open(AddressFamily::Inet)?, false));
    }
    match open(AddressFamily::Inet6) {
        Err(Errno::EAFNOSUPPORT) if options.address.is_none() => {
            Ok((open(AddressFamily::Inet)?, false))
        }
        result => Ok((result?, true)),
    }
}

/// Length of each datagram in what was received (udp(7)): an `int`, and what can't be is no
/// division.
fn stride(said: i32, len: usize) -> usize {
    let said = usize::try_from(said).ok();
    said.filter(|said| (1..=len).contains(said)).unwrap_or(len)
}

/// Whether a nonblocking call found nothing to do, be it for want of room in the socket's own
/// buffer, or a signal or time-out ended a wait.
pub fn would_block(error: Errno) -> bool {
    matches!(error, Errno::EAGAIN | Errno::EINTR)
}

/// Whether a send failed for want of room: another way out would not help.
fn is_congestion(error: Errno) -> bool {
    matches!(
        error,
        Errno::EAGAIN | Errno::ENOBUFS | Errno::EMSGSIZE | Errno::EINTR
    )
}

/// Whether the path may not take segments, or not of this length (udp_send_skb): EIO from a
/// device without checksum offload or behind IPsec, EINVAL and EMSGSIZE from a smaller MTU.
pub(crate) fn is_refusal(error: Errno) -> bool {
    matches!(
        error,
        Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(address: Option<&str>) -> Socket {
        Socket::bind(&Bind {
            address: address.map(|a| SocketAddr::new(a.parse().expect("an address"), 0)),
            port: 0,
            mark: None,
            nonblocking: false,
            report_source: true,
            offload: true,
            mtu: 1420,
        })
        .expect("a free port on loopback")
    }

    fn receive(socket: &Socket, len: usize) -> nix::Result<Datagrams> {
        let mut datagrams = Datagrams::new(len, 2);
        socket.receive(&mut datagrams).map(|()| datagrams)
    }

    fn port(socket: &Socket) -> u16 {
        socket.local_address().expect("a bound socket").port()
    }

    #[test]
    fn an_answer_leaves_from_where_it_was_asked_for() {
        for (server, client, to) in [
            (None, "127.0.0.1", "127.0.0.9"),
            (None, "::1", "::1"),
            (Some("0.0.0.0"), "127.0.0.1", "127.0.0.9"),
        ] {
            let (server, client) = (bind(server), bind(Some(client)));
            let to = SocketAddr::new(to.parse().expect("an address"), port(&server));
            client
                .send_parts(
                    &[IoSlice::new(b"in"), IoSlice::new(b"out")],
                    &client.target(to, None),
                )
                .expect("loopback takes it");
            let question = receive(&server, 16).expect("a datagram");
            assert_eq!(&question.data[..question.len], b"inout");
            assert_eq!(question.from.port(), port(&client));
            let target = server.target(question.from.decode(), question.source());
            assert!(target.is_origin_of(&question));
            server.send(b"answer", &target).expect("loopback takes it");
            let answer = receive(&client, 16).expect("an answer");
            assert_eq!((answer.from.decode(), answer.len), (to, 6));
            let anywhere = server.target(question.from.decode(), None);
            assert!(!anywhere.is_origin_of(&question), "{to}");
            if to.is_ipv4() {
                let elsewhere = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 8).into(), to.port());
                let elsewhere = client.target(elsewhere, None);
                client
                    .send(b"again", &elsewhere)
                    .expect("loopback takes it");
                let question = receive(&server, 16).expect("a datagram");
                assert!(!target.is_origin_of(&question), "{to}");
            }
        }
    }

    #[test]
    fn a_source_that_is_not_ours_is_passed_over() {
        let (server, client) = (bind(None), bind(Some("127.0.0.1")));
        let info = [[0; 4], [0; 4], [192, 0, 2, 77]].concat();
        let source = Source::from_v4(&info);
        let to = client.local_address().expect("a bound socket");
        server
            .send(b"x", &server.target(to, source))
            .expect("it leaves from another address");
        assert_eq!(receive(&client, 16).expect("a datagram").len, 1);
    }

    #[test]
    fn longer_than_the_buffer() {
        let (server, client) = (bind(None), bind(Some("127.0.0.1")));
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port(&server));
        client
            .send(&[7; 100], &client.target(to, None))
            .expect("loopback takes it");
        assert!(receive(&server, 50).expect("a datagram").truncated);
    }

    #[test]
    fn many_in_one_call() {
        let (server, client) = (bind(None), bind(Some("127.0.0.1")));
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port(&server));
        let target = client.target(to, None);
        assert!(target.takes_segments(100));
        let (run, one) = ([IoSlice::new(&[7; 250])], [IoSlice::new(&[8; 300])]);
        let messages = [(&run, Some(100)), (&one, None), (&run, Some(200))]
            .map(|(parts, segment)| Message { parts, segment });
        client
            .send_message(&messages[0], &target)
            .expect("loopback takes it");
        assert_eq!(client.send_messages(&messages[1..], &target), 2);
        let mut lengths = Vec::new();
        while lengths.iter().sum::<usize>() < 800 {
            let datagrams = receive(&server, 1000).expect("datagrams");
            lengths.extend(datagrams.ranges().map(|range| range.len()));
        }
        assert_eq!(lengths, [100, 100, 50, 300, 200, 50]);
    }

    #[test]
    fn impossible_strides_divide_nothing() {
        for (value, expected) in [
            (100, 100),
            (1, 1),
            (0, 250),
            (-1, 250),
            (251, 250),
            (i32::MIN, 250),
        ] {
            assert_eq!(stride(value, 250), expected, "{value}");
        }
        assert_eq!(stride(100, 0), 0);
    }

    #[test]
    fn receive_waits_no_longer_than_told() {
        let server = bind(None);
        server
            .set_receive_timeout(Duration::ZERO)
            .expect("a time-out");
        let error = receive(&server, 8).expect_err("nobody sends");
        assert!(would_block(error));
    }

    #[test]
    fn who_reaches_whom() {
        let v4: SocketAddr = "192.0.2.1:1".parse().expect("an address");
        let v6: SocketAddr = "[2001:db8::1]:1".parse().expect("an address");
        let any = bind(None);
        assert!(any.reaches(v4) && any.reaches(v6));
        let any = bind(Some("::"));
        assert!(any.reaches(v4) && any.reaches(v6));
        let only4 = bind(Some("127.0.0.1"));
        assert!(only4.reaches(v4) && !only4.reaches(v6));
        let only6 = bind(Some("::1"));
        assert!(!only6.reaches(v4) && only6.reaches(v6));
    }
}
