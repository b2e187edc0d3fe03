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
//! Pure files (`id`, `packet`, `address`, `alone`, `control`, `checksum`, `headers`, `gso`, `gro`,
//! `virtio_net`) work on slices and do no I/O.
//! `sys` holds every unsafe block.

pub mod address;
pub mod alone;
pub mod authorized;
pub mod background;
pub mod backoff;
mod batch;
pub mod checksum;
pub mod control;
pub mod datagrams;
pub mod error;
pub mod gro;
pub mod gso;
pub mod headers;
pub mod hook;
pub mod id;
pub mod identity;
pub mod inbound;
pub mod log;
pub mod memory;
pub mod options;
pub mod outbound;
pub mod packet;
pub mod pidfile;
pub mod program;
pub mod socket;
#[expect(
    unsafe_code,
    reason = "the one place for system calls that have no safe wrapper"
)]
pub mod sys;
pub mod tally;
pub mod target;
#[cfg(test)]
mod testing;
pub mod throttle;
pub mod trouble;
pub mod tun;
pub mod virtio_net;
pub mod watch;
