//! `jtunneld`: a point-to-point link for each authorised client, over UDP.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that can't go on should fail")
)]

mod clients;
mod closer;
mod gathering;
mod link;
mod losses;
mod options;
mod server;
mod state;
mod status;

use std::process::ExitCode;

use common::startup::program;

use crate::server::Server;

fn main() -> ExitCode {
    program::main::<Server>(std::env::args_os())
}
