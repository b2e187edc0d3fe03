//! What `jtunneld` and `jtunnel-client` share: the plan of the house.
//!
//! ```text
//!            io        datapath                                      io
//! kernel --> tun  -->  outbound (offload cuts, wire heads, batch) -> socket --> peer
//! kernel <-- tun  <--  inbound (offload joins)  <--  wire  <-------- socket <-- peer
//!                                         |
//!                              peers: may it come in?   hook: PROG for the new device
//! ```
//!
//! On a keyed link `keyed` signs or seals, and opens, where `wire` stands here.
//!
//! Three floors. Who is above imports from below, never the other way round.
//!
//! Floor 3: `datapath`, the packet's way.
//!
//! Floor 2, what it goes by: `io`, sockets and devices; `peers`, who may come in; `hook`, PROG;
//! `startup`, from a command line to a program that runs.
//!
//! Floor 1, what all of it is made of: `wire`, what a datagram is; `offload`, arithmetic with
//! packets; `keyed`, the protocol of signed and sealed links; `report`, what is told; `backoff`,
//! how long to wait; `sys`, every unsafe block.

pub mod backoff;
pub mod datapath;
pub mod hook;
pub mod io;
pub mod keyed;
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
