//! The packet's way. Packets come in from a tun and leave as datagrams to a peer (`outbound`), and
//! datagrams come in from a peer and leave as packets through a tun (`inbound`). The loops of both
//! programs call these two, each time the kernel has something for them, and log afterwards what
//! became of it (`tally`, `trouble`).

pub mod alone;
mod batch;
mod destination;
pub mod exit;
pub mod inbound;
pub mod loops;
pub mod outbound;
pub mod tally;
pub mod trouble;
