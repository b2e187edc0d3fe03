//! What `jtunneld` and `jtunnel-client` share.
//!
//! ```text
//!            tun            packet           socket
//!  kernel <-------> packet <-------> datagram <-------> peer
//!           read      |   encapsulate  |      sendmsg
//!           write     |   decapsulate  |      recvmsg
//!                     |                |
//!                  hook (PROG)      authorized, id
//! ```
//!
//! Pure files (`id`, `packet`, `address`, `control`, `backoff`) work on slices and do no I/O.
//! `sys` holds every unsafe block.

pub mod address;
pub mod authorized;
pub mod background;
pub mod backoff;
pub mod control;
pub mod error;
pub mod hook;
pub mod id;
pub mod identity;
pub mod log;
pub mod options;
pub mod packet;
pub mod pidfile;
pub mod program;
pub mod socket;
#[expect(
    unsafe_code,
    reason = "the one place for system calls that have no safe wrapper"
)]
pub mod sys;
pub mod throttle;
pub mod tun;
