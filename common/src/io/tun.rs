//! One tun device: made when opened, gone when its last descriptor is closed.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{
    IFF_NO_PI, IFF_TUN, IFF_VNET_HDR, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6,
    c_int, c_uint,
};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::uio::writev;
use nix::unistd::{read, write};

use crate::io::memory;
use crate::offload::virtio_net;
use crate::report::error::{Context, Result, reason};
use crate::report::log;
use crate::sys;

const DEVICE: &str = "/dev/net/tun";
/// Packets that may wait to be read, as many as in an Ethernet device. The 500 of a tun run over
/// while a single processor does something else for 3 ms.
const QUEUE_LEN: u16 = 1000;
/// The same where many are read in one turn: a late reader catches up before they get old.
const LONG_QUEUE_LEN: u16 = 4000;
/// A queue takes no more than a packet for each of so many bytes of the machine's memory.
const MEMORY_PER_PACKET: u64 = 64 * 1024;
/// Nor fewer than these, if the kernel does not say how much memory there is.
const SHORTEST_QUEUE_LEN: u64 = 100;

/// How a device is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// MTU, in bytes.
    pub mtu: u16,
    /// Whether calls return rather than wait.
    pub nonblocking: bool,
    /// Whether super-packets are wanted, as far as the kernel has them.
    pub offload: bool,
}

/// A tun device. IP packets, with a virtio-net header before each if the device has offload.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    index: u32,
    nonblocking: bool,
    offload: Offload,
    /// Until the kernel refuses to take a super-packet from us.
    joins: Cell<bool>,
    /// Whether a blocking descriptor can be asked for what is there already, and is to be.
    nowait: Cell<bool>,
}

/// What a device does for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offload {
    /// Nothing: whole packets, without a header.
    None,
    /// Packets have a virtio-net header, and those of TCP may be super-packets.
    Tcp,
    /// Those of UDP too (Linux 6.2).
    TcpUdp,
}

/// Why a packet did not get in or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing to read, or a signal came.
    Nothing,
    /// The device is down or full: this packet is lost.
    Lost,
    /// The kernel does not take this packet, or not in this form.
    Refused,
    /// The device was deleted: every later call fails too.
    Gone,
}

impl Tun {
    /// Opens a device of the name that the kernel chooses.
    pub fn open(mode: Mode) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(if mode.nonblocking {
                libc::O_NONBLOCK
            } else {
                0
            })
            .open(DEVICE)
            .context(|| format!("open {DEVICE}"))?;
        let (name, offload) =
            attach(file.as_fd(), mode.offload).context(|| "create a tun device".into())?;
        // The ioctls ask for a socket, of whatever family: this one is in every kernel.
        let flags = SockFlag::SOCK_CLOEXEC;
        let any = socket(AddressFamily::Unix, SockType::Datagram, flags, None)
            .context(|| "open a socket to set the MTU with".into())?;
        sys::set_mtu(any.as_fd(), &name, mode.mtu)
            .context(|| format!("set the MTU of {name} to {}", mode.mtu))?;
        // Whoever deletes a device can do without it.
        let index = if_nametoindex(name.as_str()).unwrap_or_default();
        // A shorter queue only loses more.
        let _ = sys::set_queue_len(any.as_fd(), &name, queue_len(offload));
        refuse_advertisements(&name);
        Ok(Self {
            file,
            name,
            index,
            nonblocking: mode.nonblocking,
            offload,
            joins: Cell::new(offload != Offload::None),
            nowait: Cell::new(mode.offload),
        })
    }

    /// The name that the device had when it was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number by which the kernel knows the device; 0 if it did not say.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The name that the device has now; an administrator may have changed it.
    /// `None` when the device was deleted.
    pub fn current_name(&self) -> Option<OsString> {
        sys::tun_name(self.file.as_fd()).ok()
    }

    /// Its name, or `-`, and its state: `up`, `down`, `deleted`, or `away` in another network
    /// namespace than the socket.
    pub fn state(&self, socket: BorrowedFd<'_>) -> (String, &'static str) {
        let Some(name) = self.current_name() else {
            return ("-".into(), "deleted");
        };
        let state = match sys::is_up(socket, &name) {
            Ok(true) => "up",
            Ok(false) => "down",
            Err(_) => "away",
        };
        (name.to_string_lossy().into_owned(), state)
    }

    /// Whether packets of TCP may be joined to super-packets for it.
    pub fn takes_super_packets(&self) -> bool {
        self.joins.get()
    }

    /// Whether those of UDP may be joined too.
    pub(crate) fn takes_udp_super_packets(&self) -> bool {
        self.joins.get() && self.offload == Offload::TcpUdp
    }

    /// The kernel has refused one: there will be no more.
    pub(crate) fn refuse_super_packets(&self) {
        self.joins.set(false);
    }

    /// Length of what comes before each packet, in bytes.
    pub(crate) fn prefix_len(&self) -> usize {
        match self.offload {
            Offload::None => 0,
            Offload::Tcp | Offload::TcpUdp => virtio_net::HEADER_LEN,
        }
    }

    /// Reads one packet, waiting for it if the descriptor blocks.
    pub fn receive(&self, packet: &mut [u8]) -> std::result::Result<usize, Trouble> {
        read(&self.file, packet).map_err(trouble)
    }

    /// Reads one packet that is there already.
    pub fn receive_queued(&self, packet: &mut [u8]) -> std::result::Result<usize, Trouble> {
        if self.nonblocking {
            return self.receive(packet);
        }
        if !self.nowait.get() {
            return Err(Trouble::Nothing);
        }
        sys::read_nowait(self.file.as_fd(), packet).map_err(|error| {
            // The last one is what some say who keep programs in a sandbox.
            if matches!(error, Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EPERM) {
                self.nowait.set(false);
                return Trouble::Nothing;
            }
            trouble(error)
        })
    }

    /// Writes a packet without a header.
    pub(crate) fn send_plain(&self, packet: &[u8]) -> std::result::Result<(), Trouble> {
        write(&self.file, packet).map(drop).map_err(trouble)
    }

    /// Writes the parts as one packet.
    pub fn send(&self, parts: &[IoSlice<'_>]) -> std::result::Result<(), Trouble> {
        writev(&self.file, parts).map(drop).map_err(trouble)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Has the kernel pass over router advertisements: by default a host that does not forward IPv6 takes
/// its default route from whoever sends one. The other end is a peer, not this host's router.
fn refuse_advertisements(name: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
    let file = OpenOptions::new().write(true).open(path);
    if let Err(error) = file.and_then(|mut file| file.write_all(b"0"))
        // A kernel without IPv6, or a device that is too small for it.
        && error.kind() != io::ErrorKind::NotFound
    {
        let reason = reason(&error);
        log::warning(format_args!(
            "unable to set accept_ra of {name} to 0: {reason}"
        ));
    }
}

fn queue_len(offload: Offload) -> u16 {
    let wanted = match offload {
        Offload::None => QUEUE_LEN,
        Offload::Tcp | Offload::TcpUdp => LONG_QUEUE_LEN,
    };
    let affordable = (memory::total() / MEMORY_PER_PACKET).max(SHORTEST_QUEUE_LEN);
    wanted.min(affordable.try_into().unwrap_or(u16::MAX))
}

/// Attaches the descriptor to a new device and asks for as much offload as there is.
fn attach(fd: BorrowedFd<'_>, offload: bool) -> io::Result<(String, Offload)> {
    const TCP: c_uint = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    const UDP: c_uint = TUN_F_USO4 | TUN_F_USO6;
    let flags: c_int = IFF_TUN | IFF_NO_PI;
    if offload && let Ok(name) = sys::tun_attach(fd, flags | IFF_VNET_HDR) {
        // EINVAL below Linux 6.2, which knows no USO.
        if sys::tun_set_offload(fd, TCP | UDP).is_ok() {
            return Ok((name, Offload::TcpUdp));
        }
        // Without any the header stays, and says that there is nothing to do.
        let _ = sys::tun_set_offload(fd, TCP);
        return Ok((name, Offload::Tcp));
    }
    Ok((sys::tun_attach(fd, flags)?, Offload::None))
}

/// What the kernel's tun driver means (drivers/net/tun.c).
fn trouble(error: Errno) -> Trouble {
    match error {
        Errno::EAGAIN | Errno::EINTR => Trouble::Nothing,
        // EFAULT ends a read that was asleep when the device was deleted (tun_ring_recv), EBADFD
        // says every later call (tun_get found no device).
        Errno::EBADFD | Errno::EFAULT => Trouble::Gone,
        // Neither IPv4 nor IPv6, or a super-packet that this kernel can't read.
        Errno::EINVAL => Trouble::Refused,
        // EIO: down. ENOBUFS, ENOMEM: no room.
        _ => Trouble::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_policy() {
        for (errno, expected) in [
            (Errno::EAGAIN, Trouble::Nothing),
            (Errno::EINTR, Trouble::Nothing),
            (Errno::EIO, Trouble::Lost),
            (Errno::EINVAL, Trouble::Refused),
            (Errno::ENOBUFS, Trouble::Lost),
            (Errno::EBADFD, Trouble::Gone),
            (Errno::EFAULT, Trouble::Gone),
        ] {
            assert_eq!(trouble(errno), expected, "{errno}");
        }
    }
}
