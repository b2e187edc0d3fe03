//! Every unsafe block of the project: system calls for which there is no safe wrapper that
//! fits. Each function does one thing and hands back an `io::Result`.

use std::ffi::{c_char, c_int, c_long, c_uint, c_ulong};
use std::io::{self, IoSlice};
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;

use crate::address::RawAddress;

// ---- message I/O ------------------------------------------------------------------------------

/// What `recvmsg` said of one datagram.
pub struct Received {
    /// Length of the data, in bytes.
    pub len: usize,
    /// Length of the control messages, in bytes.
    pub control_len: usize,
    /// Whether the datagram was longer than the buffer.
    pub truncated: bool,
}

/// `recvmsg(2)` into buffers made beforehand: nix's version allocates for control messages.
pub fn receive_message(
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
    message.msg_namelen = length(name.len());
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = length(control.len());
    // SAFETY: every pointer in `message` is to a live, exclusively borrowed buffer of the length
    // given beside it.
    let len = Errno::result(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) })?;
    *name_len = message.msg_namelen;
    Ok(Received {
        len: len.unsigned_abs(),
        control_len: length::<_, usize>(message.msg_controllen).min(control.len()),
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
    })
}

/// `recvfrom(2)`: without control messages it costs less. Returns the datagram's length, which may
/// be more than the buffer holds.
pub fn receive_from(
    fd: BorrowedFd<'_>,
    data: &mut [u8],
    name: &mut RawAddress,
    flags: c_int,
) -> nix::Result<usize> {
    let (name, name_len) = name.room();
    *name_len = length(name.len());
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
pub fn send_to(fd: BorrowedFd<'_>, data: &[u8], name: &[u8], flags: c_int) -> nix::Result<()> {
    // SAFETY: data and name are readable for the lengths given.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            data.as_ptr().cast(),
            data.len(),
            flags,
            name.as_ptr().cast(),
            length(name.len()),
        )
    };
    Errno::result(sent).map(drop)
}

/// `sendmsg(2)` of gathered parts to `name`, with control messages made beforehand.
pub fn send_message(
    fd: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    name: &[u8],
    control: &[u8],
    flags: c_int,
) -> nix::Result<()> {
    let mut message = empty_message();
    message.msg_name = name.as_ptr().cast_mut().cast();
    message.msg_namelen = length(name.len());
    // IoSlice has the layout of iovec on Unix; std documents it.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = length(parts.len());
    if !control.is_empty() {
        message.msg_control = control.as_ptr().cast_mut().cast();
        message.msg_controllen = length(control.len());
    }
    // SAFETY: every pointer in `message` is to a live buffer of the length given beside it, and
    // sendmsg only reads from them.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) };
    Errno::result(sent).map(drop)
}

/// Bits in a word of an `fd_set`.
pub(crate) const WORD_BITS: usize = c_ulong::BITS as usize;

/// An `fd_set` (`<linux/posix_types.h>`).
pub(crate) type FdWords = [c_ulong; libc::FD_SETSIZE / WORD_BITS];

/// `select(2)` for reading, of descriptors below `end`, which is 1024 at most; for ever without a
/// time-out. It is called as pselect, which musl has less to convert for.
pub(crate) fn select(set: &mut FdWords, end: c_int, timeout: Option<&TimeSpec>) -> nix::Result<()> {
    let timeout = timeout.map_or(ptr::null(), |timeout| ptr::from_ref(timeout.as_ref()));
    let none = ptr::null_mut();
    let set = ptr::from_mut(set).cast();
    let end = end.min(length(libc::FD_SETSIZE));
    // SAFETY: the set has the length and layout of an fd_set and `end` is within it, a null signal mask means that it
    // stays, and the time-out, if there is one, lives until the call returns.
    let found = unsafe { libc::pselect(end, set, none, none, timeout, ptr::null()) };
    Errno::result(found).map(drop)
}

fn empty_message() -> libc::msghdr {
    // SAFETY: msghdr is plain old data; null pointers with length 0 are valid in it.
    unsafe { std::mem::zeroed() }
}

/// Lengths in `msghdr` are `size_t`, `socklen_t` or `int`, by C library. All that go through here
/// are below 64 KiB.
fn length<From, To>(len: From) -> To
where
    To: TryFrom<From> + Default,
{
    To::try_from(len).unwrap_or_default()
}

/// `setsockopt(2)` with an `int`, for the options that nix doesn't name.
pub fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the value lives until the call returns and its length is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length(size_of::<c_int>()),
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

/// `bind(2)` to an address in bytes.
pub fn bind(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    // SAFETY: `name` is readable for the length given.
    let result = unsafe { libc::bind(fd.as_raw_fd(), name.as_ptr().cast(), length(name.len())) };
    Ok(Errno::result(result).map(drop)?)
}

/// Reads what is there already from a descriptor that blocks: `preadv2(2)` with `RWF_NOWAIT`.
/// musl had no such function for long, so it is the bare call, and -1 means "no offset".
pub fn read_nowait(fd: BorrowedFd<'_>, data: &mut [u8]) -> nix::Result<usize> {
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

// ---- tun --------------------------------------------------------------------------------------

mod ioctl {
    // libc computes the request numbers for the architecture: they differ on MIPS and PowerPC.
    // The kernel writes the name back, so both are "readwrite" whatever the number says.
    nix::ioctl_readwrite_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_readwrite_bad!(tun_get_iff, libc::TUNGETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);
    nix::ioctl_write_ptr_bad!(set_mtu, libc::SIOCSIFMTU, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_queue_len, libc::SIOCSIFTXQLEN, libc::ifreq);
}

/// Attaches a descriptor of /dev/net/tun to a new device and returns the name that the kernel
/// chose.
pub fn tun_attach(fd: BorrowedFd<'_>, flags: c_int) -> io::Result<String> {
    let mut request = empty_ifreq();
    request.ifr_ifru.ifru_flags = length(flags);
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    unsafe { ioctl::tun_set_iff(fd.as_raw_fd(), &raw mut request) }?;
    Ok(name_of(&request))
}

/// Says which unfinished packets (`TUN_F_*`) the program reads and finishes itself.
pub fn tun_set_offload(fd: BorrowedFd<'_>, features: c_uint) -> io::Result<()> {
    let features = c_int::try_from(features).unwrap_or_default();
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    unsafe { ioctl::tun_set_offload(fd.as_raw_fd(), features) }?;
    Ok(())
}

/// The name that the device of this descriptor has now; EBADFD when it was deleted.
pub fn tun_name(fd: BorrowedFd<'_>) -> io::Result<String> {
    let mut request = empty_ifreq();
    // SAFETY: TUNGETIFF writes one ifreq.
    unsafe { ioctl::tun_get_iff(fd.as_raw_fd(), &raw mut request) }?;
    Ok(name_of(&request))
}

/// Sets the MTU of the device `name`, in bytes; any socket will do as `socket`.
pub fn set_mtu(socket: BorrowedFd<'_>, name: &str, mtu: u16) -> io::Result<()> {
    let mut request = named_ifreq(name);
    request.ifr_ifru.ifru_mtu = c_int::from(mtu);
    // SAFETY: SIOCSIFMTU reads one ifreq.
    unsafe { ioctl::set_mtu(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// Sets how many packets wait in the device `name` to be read; any socket will do as `socket`.
pub fn set_queue_len(socket: BorrowedFd<'_>, name: &str, packets: u16) -> io::Result<()> {
    let mut request = named_ifreq(name);
    // `ifr_qlen` of <linux/if.h> is an int of the union, as the metric is.
    request.ifr_ifru.ifru_metric = c_int::from(packets);
    // SAFETY: SIOCSIFTXQLEN reads one ifreq.
    unsafe { ioctl::set_queue_len(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

fn named_ifreq(name: &str) -> libc::ifreq {
    let mut request = empty_ifreq();
    // The last byte stays 0: names are shorter than IFNAMSIZ.
    let room = &mut request.ifr_name[..libc::IFNAMSIZ - 1];
    for (to, from) in room.iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    request
}

fn empty_ifreq() -> libc::ifreq {
    // SAFETY: ifreq is plain old data; all zero is an empty request.
    unsafe { std::mem::zeroed() }
}

fn name_of(request: &libc::ifreq) -> String {
    request
        .ifr_name
        .iter()
        .map(|c| c.to_ne_bytes()[0])
        .take_while(|&b| b != 0)
        .map(char::from)
        .collect()
}

// ---- processes --------------------------------------------------------------------------------

/// Which of the two processes `fork` returned to.
pub enum Fork {
    /// The one that called; holds the child's process id.
    Parent(Pid),
    /// The new one.
    Child,
}

/// `fork(2)`. Both programs have one thread, so the child may do whatever its parent may.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: there is no other thread whose locks the child could find held.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
    }
}

/// Ends a forked child at once: no exit handlers, no destructors.
pub fn exit_child(code: u8) -> ! {
    // SAFETY: _exit never returns and touches no memory.
    unsafe { libc::_exit(code.into()) }
}

/// A child that has ended, if there is one. nix's version loses children ended by a real-time
/// signal.
pub fn reap() -> Option<(Pid, ExitStatus)> {
    let mut status = 0;
    // SAFETY: waitpid writes one int.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then(|| (Pid::from_raw(pid), ExitStatus::from_raw(status)))
}

/// Waits for one child to end.
pub fn wait_for(pid: Pid) {
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes one int.
        let result = unsafe { libc::waitpid(pid.as_raw(), &raw mut status, 0) };
        if result >= 0 || Errno::last() != Errno::EINTR {
            return;
        }
    }
}

/// Random bytes from `getrandom(2)`; waits until the kernel has gathered enough.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the buffer is writable for the length given.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    // Up to 256 bytes come whole or not at all, getrandom(2).
    Errno::result(got)?;
    Ok(bytes)
}

// ---- memory -----------------------------------------------------------------------------------

/// Bytes that are 0 at first, in pages of their own.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
}

/// `mmap(2)` of this many bytes. A page takes memory once it is written to, whatever the C library:
/// its calloc(3) may write zeros to all of them.
pub fn map_pages(len: usize) -> io::Result<Pages> {
    let some = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the kernel chooses a place where nothing else is.
    let start = unsafe { mmap_anonymous(None, some, access, MapFlags::MAP_PRIVATE) }?;
    let start = start.cast();
    Ok(Pages { start, len })
}

impl Default for Pages {
    /// None at all.
    fn default() -> Self {
        let start = NonNull::dangling();
        Self { start, len: 0 }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `map_pages` made these bytes, if any, and nobody else knows of them.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: `map_pages` made these bytes, and with their owner no borrow is left. It
            // cannot fail for a mapping that is whole.
            let _ = unsafe { munmap(self.start.cast(), self.len) };
        }
    }
}

// ---- signals ----------------------------------------------------------------------------------

static PENDING: AtomicU32 = AtomicU32::new(0);
static WAKE_MODE: AtomicU32 = AtomicU32::new(0);
static WAKE_FD: AtomicI32 = AtomicI32::new(-1);

/// How a signal that comes between the check and the sleep ends the sleep.
pub enum Wake<'fd> {
    /// A byte is written to this pipe, whose other end sits in the select() set.
    Pipe(BorrowedFd<'fd>),
    /// The receive time-out of this socket becomes the shortest there is.
    Receive(BorrowedFd<'fd>),
    /// An alarm repeats every second until the signal is taken.
    Alarm,
}

/// A set of signals that have come.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals(u32);

impl Signals {
    /// Whether this signal has come.
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & bit(signal as c_int) != 0
    }
}

fn bit(signal: c_int) -> u32 {
    1u32.checked_shl(signal.unsigned_abs()).unwrap_or_default()
}

/// Says what the handler does to end a sleep. The descriptor must stay open until the next call.
pub fn wake_by(wake: Wake<'_>) {
    let (mode, fd): (u32, RawFd) = match wake {
        Wake::Pipe(fd) => (1, fd.as_raw_fd()),
        Wake::Receive(fd) => (2, fd.as_raw_fd()),
        Wake::Alarm => (3, -1),
    };
    WAKE_FD.store(fd, Ordering::SeqCst);
    WAKE_MODE.store(mode, Ordering::SeqCst);
}

/// Takes the signals that have come since the last call.
pub fn take_signals() -> Signals {
    // A swap for each packet would be a locked instruction for nothing.
    if PENDING.load(Ordering::Relaxed) == 0 {
        return Signals(0);
    }
    Signals(PENDING.swap(0, Ordering::SeqCst))
}

/// Whether a signal has come and was not taken.
pub fn signals_pending() -> bool {
    PENDING.load(Ordering::SeqCst) != 0
}

/// Catches these signals; system calls that sleep return EINTR.
pub fn catch_signals(signals: &[Signal]) -> io::Result<()> {
    set_handler(signals, SigHandler::Handler(on_signal))
}

/// Gives these signals their default action back.
pub fn default_signals(signals: &[Signal]) -> io::Result<()> {
    set_handler(signals, SigHandler::SigDfl)
}

/// Ignores these signals. For a time when no other program is started, which would inherit that.
pub fn ignore_signals(signals: &[Signal]) -> io::Result<()> {
    set_handler(signals, SigHandler::SigIgn)
}

fn set_handler(signals: &[Signal], handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::SA_NOCLDSTOP, SigSet::empty());
    for &signal in signals {
        // SAFETY: `on_signal` calls async-signal-safe functions only, signal-safety(7).
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

extern "C" fn on_signal(number: c_int) {
    let errno = Errno::last();
    PENDING.fetch_or(bit(number), Ordering::SeqCst);
    let fd = WAKE_FD.load(Ordering::SeqCst);
    match WAKE_MODE.load(Ordering::SeqCst) {
        1 => {
            // SAFETY: one byte from a live buffer; the pipe does not block, and when it is full
            // the sleeper wakes anyway.
            unsafe { libc::write(fd, [0u8].as_ptr().cast(), 1) };
        }
        2 => {
            let shortest = libc::timeval {
                tv_sec: 0,
                tv_usec: 1,
            };
            // SAFETY: the value lives until the call returns and its length is given.
            unsafe {
                libc::setsockopt(
                    fd,
                    libc::SOL_SOCKET,
                    libc::SO_RCVTIMEO,
                    (&raw const shortest).cast(),
                    length(size_of::<libc::timeval>()),
                )
            };
        }
        3 if PENDING.load(Ordering::SeqCst) & bit(libc::SIGUSR1) != 0 => {
            // SAFETY: alarm(2) has no memory to get wrong.
            unsafe { libc::alarm(1) };
        }
        _ => {}
    }
    errno.set();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ() {
        let (a, b): ([u8; 8], [u8; 8]) = (
            random().expect("getrandom works"),
            random().expect("getrandom works"),
        );
        assert_ne!(a, b);
    }

    #[test]
    fn a_caught_signal_is_taken_once() {
        catch_signals(&[Signal::SIGUSR2]).expect("SIGUSR2 can be caught");
        nix::sys::signal::raise(Signal::SIGUSR2).expect("a signal to oneself");
        assert!(signals_pending());
        let taken = take_signals();
        assert!(taken.contains(Signal::SIGUSR2) && !taken.contains(Signal::SIGHUP));
        assert!(take_signals() == Signals::default());
    }

    #[test]
    fn reap_finds_nothing_when_nothing_ended() {
        assert!(reap().is_none());
    }
}
