//! Closing tun devices without a stall.
//!
//! Closing one that is up takes the kernel 16 to 28 ms, since it waits until no processor uses
//! it any more. So a forked helper holds the last reference and waits in our place.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use common::sys::{self, Fork};
use common::tun::Tun;
use nix::fcntl::OFlag;
use nix::unistd::{close, pipe2};

/// Closes the devices. The helper lets go of `socket`, so that its port is free for a new server
/// whatever the helper is busy with.
pub(crate) fn close_all(tuns: Vec<Tun>, socket: BorrowedFd<'_>) {
    if tuns.is_empty() {
        return;
    }
    // If there is no helper to be had the devices are closed here: slow, but closed.
    let Ok((done, closing)) = pipe2(OFlag::O_CLOEXEC) else {
        return;
    };
    match sys::fork() {
        Ok(Fork::Child) => {
            drop(closing);
            let _ = close(socket.as_fd().as_raw_fd());
            // End of file: the parent's references are gone, and ours are the last.
            let _ = File::from(done).read(&mut [0]);
            sys::exit_child(0)
        }
        Ok(Fork::Parent(_)) | Err(_) => {
            drop(tuns);
            drop(closing);
        }
    }
}
