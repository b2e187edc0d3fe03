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

pub mod backoff;
pub mod datapath;
pub mod hook;
pub mod io;
pub mod offload;
pub mod peers;
pub mod report;
pub mod startup;
#[expect(
    unsafe_code,
    reason = "the one place for system calls that have no safe wrapper"
)]
pub mod sys;
#[cfg(test)]
mod testing;
pub mod wire;
