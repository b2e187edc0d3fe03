//! What the tests stand on: hosts that are network namespaces, cables and routers between them,
//! the programs under test as guarded processes, peers that speak the wire format by hand, a
//! system logger, and traffic whose content is checked.
//!
//! ```text
//! lab (server, router, clients)  ->  host  ->  namespace, stale
//! independent (client, server)   ->  config, process, tree
//! keyed (Between, Ends)          ->  tunnel, middle
//! tunnel (Server, Client)        ->  launch, clock, config, process  ->  programs, lines, wait, tree
//! manual -> tree
//! peer, crowd, keyed_crowd, sniffer, syslog, terminal, name_server, relay, middle, traffic, heartbeat, flood  ->  host, wait
//! ```
//!
//! The environment chooses what is tested: `JTUNNEL_BIN` a directory with the two programs instead
//! of a fresh build, `JTUNNEL_RUNNER` a command in front of them, `JTUNNEL_NATIVE` the one of the
//! two that is to be a fresh build all the same, `JTUNNEL_FLAGS` options for both, `JTUNNEL_WORD` how
//! peers are protected that would be plain.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by a panic"
)]

pub mod clock;
pub mod config;
pub mod crowd;
pub mod flood;
pub mod heartbeat;
pub mod host;
pub mod independent;
pub mod keyed;
pub mod keyed_crowd;
pub mod lab;
pub mod launch;
pub mod lines;
pub mod manual;
pub mod middle;
pub mod name_server;
mod namespace;
pub mod peer;
pub mod proc;
pub mod process;
pub mod programs;
pub mod relay;
pub mod sniffer;
mod stale;
pub mod syslog;
pub mod terminal;
pub mod traffic;
pub mod tree;
pub mod tunnel;
pub mod wait;
pub mod worker;
