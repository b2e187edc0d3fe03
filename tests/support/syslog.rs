//! The system logger of a host, which can be absent, come, go and come back.

use std::fs;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::Host;
use crate::lines::Lines;
use crate::process::Process;
use crate::wait::{PATIENCE, wait_until};

const PATH: &str = "/dev/log";

/// A logger that shows each datagram as it came. Dropped, it is a syslogd that was stopped.
pub struct Syslog {
    /// The datagrams.
    pub lines: Lines,
    host: Host,
    ending: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Syslog {
    /// Starts one.
    pub fn start(host: &Host) -> Self {
        let socket = deaf(host);
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let (lines, ending) = (Lines::default(), Arc::new(AtomicBool::new(false)));
        let (copy, end) = (lines.clone(), ending.clone());
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while !end.load(Ordering::Relaxed) {
                match socket.recv(&mut buffer) {
                    Ok(len) => copy.push(String::from_utf8_lossy(&buffer[..len]).into_owned()),
                    Err(e)
                        if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&e.kind()) => {}
                    Err(_) => break,
                }
            }
            // A process that is being forked may hold a copy for a moment.
            let _ = socket.shutdown(Shutdown::Both);
        });
        Self {
            lines,
            host: host.clone(),
            ending,
            reader: Some(reader),
        }
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
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
