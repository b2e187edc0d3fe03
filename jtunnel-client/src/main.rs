//! `jtunnel-client`: a point-to-point link to a server, over UDP.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that can't go on should fail")
)]

mod client;
mod counts;
mod keepalive;
mod options;
mod resolver;
mod sender;
mod timeout;

use std::process::ExitCode;

use common::startup::program;

use crate::client::Client;

fn main() -> ExitCode {
    program::main::<Client>(std::env::args_os())
}
