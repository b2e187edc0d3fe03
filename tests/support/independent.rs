//! The other implementation of keyed links, in Python: `tests/independent/peer.py`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::config::{SERVER_ID, client_id};
use crate::host::Host;
use crate::process::Process;
use crate::tree;

/// A command that runs it, without operands.
pub fn command() -> Command {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    let directory = tree::root().join("tests/independent");
    let python = PYTHON.get_or_init(|| {
        let mut make = Command::new(directory.join("venv.sh"));
        let output = make.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "no Python with cryptography");
        String::from_utf8(output.stdout).unwrap().trim_end().into()
    });
    let mut command = Command::new(python);
    // What it would compile would lie in the source.
    command.arg("-B").arg(directory.join("peer.py"));
    command
}

/// A client on this host that speaks with the server at this address. The key is the line of the
/// file; commands are told to it.
pub fn client(host: &Host, number: u16, key: &str, to: (IpAddr, u16), keepalive: u32) -> Process {
    let mut command = command();
    command.args(["-k", &keepalive.to_string(), "client"]);
    Process::told(host, ends(command, number, key, to))
}

/// A server on this host for one client.
pub fn server(host: &Host, number: u16, key: &str, at: (IpAddr, u16)) -> Process {
    let mut command = command();
    command.arg("server");
    Process::told(host, ends(command, number, key, at))
}

fn ends(mut command: Command, number: u16, key: &str, at: (IpAddr, u16)) -> Command {
    let (address, port) = (at.0.to_string(), at.1.to_string());
    command.args([&*address, &port, &client_id(number), SERVER_ID, key]);
    command
}

/// Waits for the reply to an echo request that this end sends to that one.
#[track_caller]
pub fn ping(this: &mut Process, from: &str, to: &str) {
    let lines = this.lines.clone();
    lines.wait_next(&format!("echo reply from {to}"), || {
        this.tell(&format!("ping {from} {to}"));
    });
}
