//! Calls on sockets, and on other descriptors that are read or waited for.

use std::ffi::{c_int, c_long, c_ulong};
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;

use super::fit;
use crate::sys::address::RawAddress;

/// What `recvmsg` said of one datagram.
pub(crate) struct Received {
    /// Length of the data, in bytes.
    pub(crate) len: usize,
    /// Length of the control messages, in bytes.
    pub(crate) control_len: usize,
    /// Whether the datagram was longer than the buffer.
    pub(crate) truncated: bool,
}

/// `recvmsg(2)` into buffers made beforehand: nix's version allocates for control messages.
pub(crate) fn receive_message(
    fd: BorrowedFd<'_>,
    data: &mut [u8],
    name: &mut RawAddress,
    control: &mut [u8],
    flags: c_int,
) -> nix::Result<Received> {
    let mut part = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let (name, name_len) = name.room();
    let mut message = empty_message();
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = fit(name.len());
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = fit(control.len());
    // SAFETY: every pointer in `message` is to a live, exclusively borrowed buffer of the length
    // given beside it.
    let len = Errno::result(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) })?;
    *name_len = message.msg_namelen;
    Ok(Received {
        len: len.unsigned_abs(),
        control_len: fit::<_, usize>(message.msg_controllen).min(control.len()),
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
    })
}

/// `recvfrom(2)`: without control messages it costs less. Returns the datagram's length, which may
/// be more than the buffer holds.
pub(crate) fn receive_from(
    fd: BorrowedFd<'_>,
    data: &mut [u8],
    name: &mut RawAddress,
    flags: c_int,
) -> nix::Result<usize> {
    let (name, name_len) = name.room();
    *name_len = fit(name.len());
    // SAFETY: data and name are live, exclusively borrowed buffers of the lengths given.
    let len = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            data.as_mut_ptr().cast(),
            data.len(),
            libc::MSG_TRUNC | flags,
            name.as_mut_ptr().cast(),
            name_len,
        )
    };
    Ok(Errno::result(len)?.unsigned_abs())
}

/// `sendto(2)`.
pub(crate) fn send_to(
    fd: BorrowedFd<'_>,
    data: &[u8],
    name: &[u8],
    flags: c_int,
) -> nix::Result<()> {
    // SAFETY: data and name are readable for the lengths given.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            data.as_ptr().cast(),
            data.len(),
            flags,
            name.as_ptr().cast(),
            fit(name.len()),
        )
    };
    Errno::result(sent).map(drop)
}

/// What `sendmsg` is to send, with everything it points to.
#[derive(Clone, Copy)]
pub(crate) struct RawMessage<'a>(libc::msghdr, PhantomData<&'a [u8]>);

impl<'a> RawMessage<'a> {
    /// Gathered parts to `name`, with control messages made beforehand.
    #[inline(always)]
    pub(crate) fn new(parts: &'a [IoSlice<'a>], name: &'a [u8], control: &'a [u8]) -> Self {
        let mut message = empty_message();
        message.msg_name = name.as_ptr().cast_mut().cast();
        message.msg_namelen = fit(name.len());
        // IoSlice has the layout of iovec on Unix; std documents it.
        message.msg_iov = parts.as_ptr().cast_mut().cast();
        message.msg_iovlen = fit(parts.len());
        if !control.is_empty() {
            message.msg_control = control.as_ptr().cast_mut().cast();
            message.msg_controllen = fit(control.len());
        }
        Self(message, PhantomData)
    }

    /// `sendmsg(2)`.
    #[inline(always)]
    pub(crate) fn send(&self, fd: BorrowedFd<'_>, flags: c_int) -> nix::Result<()> {
        // SAFETY: every pointer in the message is to a buffer of the length given beside it, which
        // outlives the message, and sendmsg only reads from them.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const self.0, flags) };
        Errno::result(sent).map(drop)
    }
}

/// `sendmmsg(2)`, of so many messages at most. Returns how many have left; fails if none has.
///
/// musl's function calls sendmsg for each on 64 bits, where its `msghdr` has padding that the kernel
/// takes for the upper half of lengths. Here it is zero, so this is the bare call.
pub(crate) fn send_messages<'a, const MOST: usize>(
    fd: BorrowedFd<'_>,
    messages: impl Iterator<Item = RawMessage<'a>>,
    flags: c_int,
) -> nix::Result<usize> {
    let mut headers = [const { MaybeUninit::uninit() }; MOST];
    let mut count: c_long = 0;
    for (header, message) in headers.iter_mut().zip(messages) {
        header.write(libc::mmsghdr {
            msg_hdr: message.0,
            msg_len: 0,
        });
        count += 1;
    }
    let (fd, flags): (c_long, c_long) = (fd.as_raw_fd().into(), flags.into());
    // SAFETY: so many headers were written, and for their messages the same holds as for one; all
    // that the kernel writes is how much of each was sent.
    let sent = unsafe { libc::syscall(libc::SYS_sendmmsg, fd, headers.as_mut_ptr(), count, flags) };
    Ok(fit(Errno::result(sent)?))
}

/// An `fd_set` (`<linux/posix_types.h>`).
pub(crate) type FdWords = [c_ulong; libc::FD_SETSIZE / c_ulong::BITS as usize];

/// `select(2)` for reading, of descriptors below `end`, which is 1024 at most; for ever without a
/// time-out. It is called as pselect, which musl has less to convert for.
pub(crate) fn select(set: &mut FdWords, end: c_int, timeout: Option<TimeSpec>) -> nix::Result<()> {
    let timeout = timeout
        .as_ref()
        .map_or(ptr::null(), |timeout| ptr::from_ref(timeout.as_ref()));
    let none = ptr::null_mut();
    let set = ptr::from_mut(set).cast();
    let end = end.min(fit(libc::FD_SETSIZE));
    // SAFETY: the set has the length and layout of an fd_set and `end` is within it, a null signal
    // mask means that it stays, and the time-out, if there is one, lives until the call returns.
    let found = unsafe { libc::pselect(end, set, none, none, timeout, ptr::null()) };
    Errno::result(found).map(drop)
}

fn empty_message() -> libc::msghdr {
    // SAFETY: msghdr is plain old data; null pointers with length 0 are valid in it.
    unsafe { std::mem::zeroed() }
}

/// `setsockopt(2)` with an `int`, for the options that nix doesn't name.
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: the value lives until the call returns and its length is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            fit(size_of::<c_int>()),
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

/// `SO_ATTACH_FILTER` with a filter that lets everything in (socket(7), `<linux/filter.h>`).
pub(crate) fn attach_open_filter(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut all = libc::sock_filter {
        code: fit(libc::BPF_RET | libc::BPF_K),
        jt: 0,
        jf: 0,
        k: u32::MAX,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut all,
    };
    // SAFETY: the kernel copies the program, of the one instruction that it says it has.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            fit(size_of::<libc::sock_fprog>()),
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

/// `bind(2)` to an address in bytes.
pub(crate) fn bind(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    // SAFETY: `name` is readable for the length given.
    let result = unsafe { libc::bind(fd.as_raw_fd(), name.as_ptr().cast(), fit(name.len())) };
    Ok(Errno::result(result).map(drop)?)
}

/// Reads what is there already from a descriptor that blocks: `preadv2(2)` with `RWF_NOWAIT`.
/// musl had no such function for long, so it is the bare call, and -1 means "no offset".
pub(crate) fn read_nowait(fd: BorrowedFd<'_>, data: &mut [u8]) -> nix::Result<usize> {
    let part = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let (fd, offset): (c_long, c_long) = (fd.as_raw_fd().into(), -1);
    // SAFETY: the one part is a live, exclusively borrowed buffer of the length given.
    let len = unsafe {
        libc::syscall(
            libc::SYS_preadv2,
            fd,
            &raw const part,
            1 as c_long,
            offset,
            offset,
            c_long::from(libc::RWF_NOWAIT),
        )
    };
    Ok(usize::try_from(Errno::result(len)?).unwrap_or_default())
}
