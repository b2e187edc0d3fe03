//! One tun device: made when opened, gone when its last descriptor is closed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{IFF_NO_PI, IFF_TUN};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::{Context, Result};
use crate::sys;

const DEVICE: &str = "/dev/net/tun";

/// A tun device. IP packets without any header before them (`IFF_NO_PI`).
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
}

/// Why a packet did not get in or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing to read, or a signal came.
    Nothing,
    /// The device is down, or full, or the packet is not one: this packet is lost.
    Lost,
    /// The device was deleted: every later call fails too.
    Gone,
}

impl Tun {
    /// Opens a device of the name that the kernel chooses and sets its MTU, in bytes.
    pub fn open(mtu: u16, nonblocking: bool) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(if nonblocking { libc::O_NONBLOCK } else { 0 })
            .open(DEVICE)
            .context(|| format!("open {DEVICE}"))?;
        let name = sys::tun_attach(file.as_fd(), IFF_TUN | IFF_NO_PI)
            .context(|| "create a tun device".into())?;
        // The ioctl asks for a socket, of whatever family: this one is in every kernel.
        let flags = SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Unix, SockType::Datagram, flags, None)
            .map_err(io::Error::from)
            .and_then(|any| sys::set_mtu(any.as_fd(), &name, mtu))
            .context(|| format!("set the MTU of {name} to {mtu}"))?;
        Ok(Self { file, name })
    }

    /// The name that the device had when it was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name that the device has now; an administrator may have changed it.
    /// `None` when the device was deleted.
    pub fn current_name(&self) -> Option<String> {
        sys::tun_name(self.file.as_fd()).ok()
    }

    /// Reads one packet.
    pub fn receive(&self, packet: &mut [u8]) -> std::result::Result<usize, Trouble> {
        (&self.file).read(packet).map_err(|e| trouble(&e))
    }

    /// Writes one packet.
    pub fn send(&self, packet: &[u8]) -> std::result::Result<(), Trouble> {
        (&self.file)
            .write(packet)
            .map(drop)
            .map_err(|e| trouble(&e))
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What the kernel's tun driver means (drivers/net/tun.c).
fn trouble(error: &io::Error) -> Trouble {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN | Errno::EINTR) => Trouble::Nothing,
        // EFAULT ends a read that was asleep when the device was deleted (tun_ring_recv), EBADFD
        // says every later call (tun_get found no device).
        Some(Errno::EBADFD | Errno::EFAULT) => Trouble::Gone,
        // EIO: down. EINVAL: neither IPv4 nor IPv6. ENOBUFS, ENOMEM: no room.
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
            (Errno::EINVAL, Trouble::Lost),
            (Errno::ENOBUFS, Trouble::Lost),
            (Errno::EBADFD, Trouble::Gone),
            (Errno::EFAULT, Trouble::Gone),
        ] {
            assert_eq!(trouble(&errno.into()), expected, "{errno}");
        }
    }
}
