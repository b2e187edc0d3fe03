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

// The old names, for the time of the move.
use self::datapath::batch;
pub use self::datapath::{alone, destination, inbound, outbound, tally, trouble};
use self::io::memory;
pub use self::io::{control, datagrams, socket, target, tun, watch};
use self::offload::{checksum, headers};
pub use self::offload::{gro, gso, virtio_net};
pub use self::peers::authorized;
pub use self::report::{error, log, throttle};
use self::startup::{background, pidfile};
pub use self::startup::{identity, options, program};
pub use self::sys::address;
use self::sys::words;
pub use self::wire::{id, packet};
