//! Boots small routers and runs a tunnel from their /etc/rc.local, with the static files of
//! `make static`, the scripts of the manual, and Debian's kernels.
//!
//! usage: boot ARCHITECTURE...
//!
//! arm64, mipsel and mips are clients of a jtunneld on this machine, mipsel on a link that is
//! sealed; amd64 is the server of a client on this machine. With icount an arm64 machine counts what its client's packets cost.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by a panic"
)]

mod guest;
mod icount;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::config::{SERVER_ID, key_line};
use support::host::Host;
use support::traffic::{Noise, wait_ping};
use support::tree::{example, target};
use support::tunnel::{Client, Server};

use crate::guest::{AMD64, ARM64, Etc, Guest, MIPS, MIPSEL, Machine, Usage};

/// The first client of server-up, its address in the tunnel, and the server's.
const WORKSHOP: &str = "1f3a5c7e9b2d4f60";
const CLIENT: &str = "10.99.0.11";
const SERVER: &str = "10.99.0.1";
/// What a process may take when idle, KiB.
const RESIDENT: u64 = 512;
const ANONYMOUS: u64 = 100;
/// Of a file that crosses the tunnel.
const FILE: usize = 2 << 20;

fn main() {
    for architecture in std::env::args().skip(1) {
        let begin = Instant::now();
        match architecture.as_str() {
            "mipsel" => client(&MIPSEL, Some("seal")),
            "mips" => {
                client(&MIPS, None);
                units(&MIPS, "mips-unknown-linux-musl");
            }
            "arm64" => client(&ARM64, None),
            "amd64" => server(&AMD64),
            "icount" => icount::measure(),
            other => panic!("no machine for {other}"),
        }
        let time = begin.elapsed().as_secs_f64();
        println!("{architecture}: passed in {time:.0} s\n");
    }
}

/// A router that is a client: up from /etc/rc.local, a file each way, a change of address. Plain, or
/// protected by a word.
fn client(machine: &Machine, word: Option<&str>) {
    let name = machine.architecture;
    let host = Host::new("server");
    let server = Server::new(&host, []);
    let line = word.map(key_line).unwrap_or_default();
    server.config.key(WORKSHOP, &line);
    let server = server.start_with(&[example("server-up")]);

    let etc = host.path("guest-etc");
    Etc(&etc)
        .network()
        .file("jtunnel/id", &format!("{WORKSHOP}\n"))
        .file(&format!("jtunnel/servers/{SERVER_ID}"), &line)
        .example("client-up", "jtunnel/client-up")
        .example("rc.local.client", "rc.local");
    let mut guest = Guest::boot(&host, machine, &etc, &[]);
    let ready = guest.wait("rc.local: status 0");
    let start: f64 = ready.trim().rsplit(' ').next().unwrap().parse().unwrap();
    guest.sh(&format!(
        "until ping -c 1 -W 1 {SERVER} >/dev/null 2>&1; do :; done"
    ));
    let first = guest.uptime() - start;
    describe(machine, &mut guest);
    println!("{name}: rc.local to the first answer through the tunnel: {first:.1} s");
    assert!(first <= 3.0, "{first}");
    wait_ping(&host, CLIENT.parse().unwrap());

    let pids = guest.pids("jtunnel-client");
    assert_eq!(pids.len(), 2, "two processes");
    assert_small(name, &mut guest, &pids);
    sleeps(name, &mut guest, &pids, 1);

    let (time, size) = file(&host, &mut guest, false);
    println!("{name}: a file each way in {time:.1} s; sent {size} bytes at a time");
    assert!(size > 1500, "the guest's kernel makes no super-packets");
    show(name, "after a file each way", &mut guest, &pids);

    // A new address while a file is on its way.
    file(&host, &mut guest, true);
    server.lines.wait("192.0.2.12:");
    assert_eq!(guest.pids("jtunnel-client").first(), pids.first());

    let log = log(name, &mut guest);
    for line in [
        "started: identifier 1f3a...",
        "sending to 192.0.2.1:5886",
        "answers from",
    ] {
        assert!(log.contains(line), "no line with {line:?}");
    }
    assert!(log.contains("Jan  1"), "a clock that was never set");
    assert!(!log.contains("one by one"), "segments were refused");

    end(&mut guest, "jtunnel-client");
    if let Some(word) = word {
        let said = format!(" as {word}, check value ");
        server.lines.wait(&said);
        assert!(log.contains(&format!("{word} session up")), "no session");
    }
    server.lines.assert_discreet();
}

/// A machine that is the server, from /etc/rc.local; the client is on this machine.
fn server(machine: &Machine) {
    let name = machine.architecture;
    let host = Host::new("client");
    let etc = host.path("guest-etc");
    Etc(&etc)
        .network()
        .file("jtunnel/id", &format!("{SERVER_ID}\n"))
        .file(&format!("jtunnel/clients/{WORKSHOP}"), "")
        .example("server-up", "jtunnel/server-up")
        .example("rc.local.server", "rc.local");
    let mut guest = Guest::boot(&host, machine, &etc, &[]);
    guest.wait("rc.local: status 0");
    describe(machine, &mut guest);
    let pids = guest.pids("jtunneld");
    assert_eq!(pids.len(), 1);
    sleeps(name, &mut guest, &pids, 0);

    let client = Client::new(&host, 1);
    let client = client
        .to("192.0.2.11")
        .options(&["-i", WORKSHOP])
        .start_with(&[example("client-up")]);
    wait_ping(&host, SERVER.parse().unwrap());
    assert_small(name, &mut guest, &pids);
    let (time, size) = file(&host, &mut guest, false);
    println!("{name}: a file each way in {time:.1} s; sent {size} bytes at a time");
    show(name, "after a file each way", &mut guest, &pids);
    let log = log(name, &mut guest);
    assert!(log.contains("client 1f3a... admitted from 192.0.2.1:"));

    end(&mut guest, "jtunneld");
    client.signal(Signal::SIGTERM);
}

/// The unit tests, in a machine with more memory: with super-packets, for which qemu's user mode
/// does not swap bytes.
fn units(machine: &Machine, triple: &str) {
    let host = Host::new("server");
    let etc = host.path("guest-etc");
    Etc(&etc).file("network", "").file("rc.local", "");
    // Something that is there and can't be run.
    Etc(&etc).file("passwd", "");
    let files = target().join("static").join(triple).join("unit-tests");
    for entry in fs::read_dir(files).unwrap().flatten() {
        fs::copy(entry.path(), etc.join(entry.file_name())).unwrap();
    }
    let mut machine = *machine;
    machine.memory = 64;
    let mut guest = Guest::boot(&host, &machine, &etc, &[]);
    guest.wait("rc.local: status 0");
    guest.sh("cd /tmp");
    let names = guest.sh("echo /etc/*-*");
    assert_eq!(names.split_whitespace().count(), 3, "{names}");
    for name in names.split_whitespace() {
        println!("{}", guest.sh(&format!("{name} --quiet --test-threads=1")));
    }
}

fn describe(machine: &Machine, guest: &mut Guest) {
    let (name, memory) = (machine.architecture, machine.memory);
    let kernel = guest.sh("uname -r; free | grep Mem:");
    println!("{name}: {memory} MB, Linux {kernel}");
}

/// Shows the log, which must not tell identifiers.
fn log(name: &str, guest: &mut Guest) -> String {
    let log = guest.sh("cat /var/log/messages");
    println!("{name}: {}", log.replace('\n', &format!("\n{name}: ")));
    assert!(!log.contains(WORKSHOP) && !log.contains(SERVER_ID));
    log
}

/// Ends a program, which must leave nothing behind.
fn end(guest: &mut Guest, program: &str) {
    let pid_file = format!("/var/run/{program}.pid");
    guest.sh(&format!("kill $(cat {pid_file})"));
    guest.sh(&format!("while pidof {program}; do sleep 1; done"));
    guest.sh(&format!(
        "[ ! -e /sys/class/net/tun0 ] && [ ! -e {pid_file} ]"
    ));
}

/// Expects processes that are idle to take little memory.
fn assert_small(name: &str, guest: &mut Guest, pids: &[u32]) {
    for usage in show(name, "idle", guest, pids) {
        let small = usage.resident <= RESIDENT && usage.anonymous <= ANONYMOUS;
        assert!(small, "{usage:?}");
    }
}

/// Shows what the processes use.
fn show(name: &str, when: &str, guest: &mut Guest, pids: &[u32]) -> Vec<Usage> {
    let usages: Vec<_> = pids.iter().map(|&pid| guest.usage(pid)).collect();
    for usage in &usages {
        let Usage {
            resident,
            anonymous,
            cpu,
            ..
        } = usage;
        println!("{name}: {when}: {resident} KiB resident, {anonymous} anonymous, {cpu} ms CPU");
    }
    usages
}

/// Expects the processes to sleep, but for this number of wake-ups in a second.
fn sleeps(name: &str, guest: &mut Guest, pids: &[u32], limit: u64) {
    const SECONDS: u64 = 10;
    let mut wakes = || -> u64 { pids.iter().map(|&pid| guest.usage(pid).wakes).sum() };
    let before = wakes();
    std::thread::sleep(Duration::from_secs(SECONDS));
    let woke = wakes() - before;
    println!("{name}: {woke} wake-ups in {SECONDS} idle seconds");
    assert!(woke <= limit * SECONDS);
}

/// Sends a file to the guest and has it sent back, with its content checked by either end; in its
/// midst the guest changes its address, if it is to. Returns how long that took, in seconds, and
/// how many bytes the guest's kernel handed over at a time: a super-packet counts as one.
fn file(host: &Host, guest: &mut Guest, roam: bool) -> (f64, u64) {
    let content = Noise::new(7).bytes(FILE);
    fs::write(host.path("file"), &content).unwrap();
    let sum = host.sh("sha256sum <file");
    let listener = host.run(|| TcpListener::bind("[::]:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = host.sh("ip -4 -o address show to 10.99.0.0/24");
    let own = own
        .split_whitespace()
        .nth(3)
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .to_owned();

    let (begin, copy) = (Instant::now(), content.clone());
    let (moved, has_moved) = mpsc::channel();
    let exchange = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The second half comes when the guest has moved.
        let half = if roam { FILE / 2 } else { FILE };
        stream.write_all(&copy[..half]).unwrap();
        if roam {
            has_moved.recv().unwrap();
        }
        stream.write_all(&copy[half..]).unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        let mut back = Vec::new();
        // A guest that waits for its turn gathers; one that never waits sends each write by itself.
        std::thread::sleep(Duration::from_secs(1));
        stream.read_to_end(&mut back).unwrap();
        back
    });
    guest.sh(&format!(
        "(nc {own} {port} </dev/null >/tmp/file; echo >/tmp/done) &"
    ));
    if roam {
        guest.sh("until [ -s /tmp/file ]; do sleep 1; done");
        guest.sh("ip addr del 192.0.2.11/24 dev eth0; ip addr add 192.0.2.12/24 dev eth0");
        moved.send(()).unwrap();
    }
    guest.sh("until [ -e /tmp/done ]; do sleep 1; done; rm /tmp/done");
    assert_eq!(guest.sh("sha256sum </tmp/file").trim(), sum.trim());
    let counters = "cd /sys/class/net/tun0/statistics; cat tx_bytes tx_packets; cd /";
    let sent = guest.sh(&format!(
        "{counters}; nc {own} {port} </tmp/file; {counters}"
    ));
    let back = exchange.join().unwrap();
    assert!(back == content, "the file came back changed");
    let n: Vec<u64> = sent.lines().map(|n| n.parse().unwrap()).collect();
    (begin.elapsed().as_secs_f64(), (n[2] - n[0]) / (n[3] - n[1]))
}
