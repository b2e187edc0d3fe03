//! What `jtunneld` and `jtunnel-client` share.
//!
//! ```text
//! kernel --> tun --> outbound (gso cuts, packet encapsulates, batch gathers) --> socket --> peer
//! kernel <-- tun <-- inbound (gro joins) <-- packet (decapsulates) <-- socket (datagrams) <-- peer
//! ```
//!
//! Pure files do no I/O: `packet`, `id`, `headers`, `checksum`, `virtio_net`, `gso`, `gro`,
//! `destination`, `address`, `control`, `alone`, `backoff`, `throttle`, `tally`, `words`.
//! The start of a program: `program`, `options`, `identity`, `background`, `pidfile`.
//! Around the packets: `authorized` says whose are taken, `hook` runs PROG, `log` and `trouble`
//! tell the administrator.
//! `sys` holds every unsafe block.

pub mod address;
pub mod alone;
pub mod authorized;
mod background;
pub mod backoff;
mod batch;
mod checksum;
pub mod control;
pub mod datagrams;
pub mod destination;
pub mod error;
pub mod gro;
pub mod gso;
mod headers;
pub mod hook;
pub mod id;
pub mod identity;
pub mod inbound;
pub mod log;
mod memory;
pub mod options;
pub mod outbound;
pub mod packet;
mod pidfile;
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
mod words;
