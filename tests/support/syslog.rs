//! The system logger of a host, which can be absent, come, go and come back.

use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::host::Host;
use crate::lines::Lines;
use crate::process::Process;
use crate::wait::{PATIENCE, wait_until};
use crate::worker::Worker;

const PATH: &str = "/dev/log";

/// A logger that shows each datagram as it came. Dropped, it is a syslogd that was stopped.
pub struct Syslog {
    /// The datagrams.
    pub lines: Lines,
    host: Host,
    socket: UnixDatagram,
    _worker: Worker,
}

impl Syslog {
    /// Starts one.
    pub fn start(host: &Host) -> Self {
        let socket = deaf(host);
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let lines = Lines::default();
        let (copy, reader, mut buffer) = (lines.clone(), socket.try_clone().unwrap(), [0; 8192]);
        let worker = Worker::start(move || {
            // 0 is the end.
            if let Ok(len @ 1..) = reader.recv(&mut buffer) {
                copy.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
            }
        });
        Self {
            lines,
            host: host.clone(),
            socket,
            _worker: worker,
        }
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        // A process that is being forked may hold a copy for a moment.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.host.run(|| {
            let _ = fs::remove_file(PATH);
        });
    }
}

/// A logger's socket that nobody reads.
pub fn deaf(host: &Host) -> UnixDatagram {
    host.run(|| {
        let _ = fs::remove_file(PATH);
        UnixDatagram::bind(PATH)
    })
    .unwrap()
}

/// A real syslogd, which writes to the file `messages` of the host.
pub fn busybox(host: &Host) -> Process {
    let mut command = Command::new("busybox");
    command
        .args(["syslogd", "-n", "-O"])
        .arg(host.path("messages"));
    let process = Process::spawn(host, command);
    wait_until(PATIENCE, "syslogd", || {
        host.run(|| UnixDatagram::unbound().unwrap().connect(PATH).is_ok())
    });
    process
}
