//! What is read and written: the tun device and the UDP socket. Bytes come from the kernel with
//! what it says of them, a datagram's source for one, and go back to it. The datapath calls, and
//! the programs for what concerns no packet: making, waiting, keepalives.

pub mod control;
pub mod datagrams;
pub(crate) mod memory;
pub mod netlink;
pub mod socket;
pub mod source;
pub mod target;
pub mod tun;
mod unlisted;
pub mod watch;
