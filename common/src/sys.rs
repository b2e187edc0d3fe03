//! Every unsafe block of the project: system calls for which there is no safe wrapper that fits.
//! Each function does one thing.

pub mod address;
mod descriptor;
mod pages;
pub(crate) mod path;
mod process;
mod signals;
mod tun;
pub(crate) mod words;

use std::ffi::c_uint;
use std::io;

use nix::errno::Errno;

pub(crate) use self::descriptor::{
    FdWords, RawMessage, attach_open_filter, bind, read_nowait, receive_from, receive_message,
    select, send_messages, send_to, set_option,
};
pub use self::pages::Pages;
pub(crate) use self::pages::map_pages;
pub use self::process::{Fork, exit_child, fork, reap, wait_for};
pub(crate) use self::process::{close_from, no_lock};
pub use self::signals::{
    PROGRAM_SIGNALS, Signals, Wake, catch_signals, default_signals, ignore_signals,
    signals_pending, take_signals, wake_by,
};
pub(crate) use self::tun::{is_up, set_mtu, set_queue_len, tun_attach, tun_name, tun_set_offload};

/// Random bytes from `getrandom(2)`; waits until the kernel has gathered enough.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    get_random(0)
}

/// The same without waiting: at boot they may be bad ones, or before Linux 5.6 none.
pub fn random_at_once<const N: usize>() -> io::Result<[u8; N]> {
    get_random(libc::GRND_INSECURE).or_else(|_| get_random(libc::GRND_NONBLOCK))
}

/// Fills this, up to 256 bytes, without waiting. False if the kernel has not gathered enough yet.
pub fn try_random(bytes: &mut [u8]) -> bool {
    fill_random(bytes, libc::GRND_NONBLOCK).is_ok()
}

fn get_random<const N: usize>(flags: c_uint) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fill_random(&mut bytes, flags)?;
    Ok(bytes)
}

fn fill_random(bytes: &mut [u8], flags: c_uint) -> io::Result<()> {
    // SAFETY: the buffer is writable for the length given.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), flags) };
    // Up to 256 bytes come whole or not at all, getrandom(2).
    Errno::result(got)?;
    Ok(())
}

/// A number as the C library has it: lengths in `msghdr` are `size_t`, `socklen_t` or `int`, by
/// library. All that go through here fit, being below 64 KiB.
fn fit<From, To>(len: From) -> To
where
    To: TryFrom<From> + Default,
{
    To::try_from(len).unwrap_or_default()
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
        let at_once = random_at_once().expect("the kernel has enough by now");
        assert!(a != at_once && b != at_once);
    }
}
