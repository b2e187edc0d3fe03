//! The ioctls of tun devices.

use std::ffi::{OsStr, OsString, c_char, c_int, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::fit;

mod ioctl {
    // libc computes the request numbers for the architecture: they differ on MIPS and PowerPC.
    // The kernel writes the name back, so both are "readwrite" whatever the number says.
    nix::ioctl_readwrite_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_readwrite_bad!(tun_get_iff, libc::TUNGETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);
    nix::ioctl_write_ptr_bad!(set_mtu, libc::SIOCSIFMTU, libc::ifreq);
    nix::ioctl_readwrite_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_queue_len, libc::SIOCSIFTXQLEN, libc::ifreq);
}

/// Attaches a descriptor of /dev/net/tun to a new device and returns the name that the kernel
/// chose.
pub(crate) fn tun_attach(fd: BorrowedFd<'_>, flags: c_int) -> io::Result<String> {
    let mut request = empty_ifreq();
    request.ifr_ifru.ifru_flags = fit(flags);
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    unsafe { ioctl::tun_set_iff(fd.as_raw_fd(), &raw mut request) }?;
    // "tun" and a number.
    Ok(name_of(&request).to_string_lossy().into_owned())
}

/// Says which unfinished packets (`TUN_F_*`) the program reads and finishes itself.
pub(crate) fn tun_set_offload(fd: BorrowedFd<'_>, features: c_uint) -> io::Result<()> {
    let features = c_int::try_from(features).unwrap_or_default();
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    unsafe { ioctl::tun_set_offload(fd.as_raw_fd(), features) }?;
    Ok(())
}

/// The name that the device of this descriptor has now; EBADFD when it was deleted.
pub(crate) fn tun_name(fd: BorrowedFd<'_>) -> io::Result<OsString> {
    let mut request = empty_ifreq();
    // SAFETY: TUNGETIFF writes one ifreq.
    unsafe { ioctl::tun_get_iff(fd.as_raw_fd(), &raw mut request) }?;
    Ok(name_of(&request))
}

/// Sets the MTU of the device `name`, in bytes; any socket will do as `socket`.
pub(crate) fn set_mtu(socket: BorrowedFd<'_>, name: &str, mtu: u16) -> io::Result<()> {
    let mut request = named_ifreq(name);
    request.ifr_ifru.ifru_mtu = c_int::from(mtu);
    // SAFETY: SIOCSIFMTU reads one ifreq.
    unsafe { ioctl::set_mtu(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// Sets how many packets wait in the device `name` to be read; any socket will do as `socket`.
pub(crate) fn set_queue_len(socket: BorrowedFd<'_>, name: &str, packets: u16) -> io::Result<()> {
    let mut request = named_ifreq(name);
    // `ifr_qlen` of <linux/if.h> is an int of the union, as the metric is.
    request.ifr_ifru.ifru_metric = c_int::from(packets);
    // SAFETY: SIOCSIFTXQLEN reads one ifreq.
    unsafe { ioctl::set_queue_len(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// Whether the device `name` is up; any socket will do as `socket`, and it is looked for where that
/// was made.
pub(crate) fn is_up(socket: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    let mut request = named_ifreq(name);
    // SAFETY: SIOCGIFFLAGS reads and writes one ifreq.
    unsafe { ioctl::get_flags(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the flags are what the kernel has just written to the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(c_int::from(flags) & libc::IFF_UP != 0)
}

fn named_ifreq(name: impl AsRef<OsStr>) -> libc::ifreq {
    let mut request = empty_ifreq();
    // The last byte stays 0: names are shorter than IFNAMSIZ.
    let room = &mut request.ifr_name[..libc::IFNAMSIZ - 1];
    for (to, from) in room.iter_mut().zip(name.as_ref().as_bytes()) {
        *to = c_char::from_ne_bytes([*from]);
    }
    request
}

fn empty_ifreq() -> libc::ifreq {
    // SAFETY: ifreq is plain old data; all zero is an empty request.
    unsafe { std::mem::zeroed() }
}

/// Names are bytes; an administrator may give any.
fn name_of(request: &libc::ifreq) -> OsString {
    let mut name = request.ifr_name.map(|c| c.to_ne_bytes()[0]).to_vec();
    name.truncate(name.iter().position(|&b| b == 0).unwrap_or(name.len()));
    OsString::from_vec(name)
}
