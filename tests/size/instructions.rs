//! Instructions of the user part for each packet, counted by qemu: they repeat exactly, whatever
//! else the machine does.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use nix::unistd::Pid;
use support::host::Host;
use support::lab::Lab;
use support::launch::Launch;
use support::proc;
use support::traffic::udp;
use support::tree;
use support::tunnel::{Client, Server};
use support::wait::{PATIENCE, wait_until};

/// Packets for one figure, one at a time.
const PACKETS: u32 = 200;
/// Packets that are queued together.
const BURST: u32 = 64;
/// Packets in a super-packet of full-size segments.
const SEGMENTS: u32 = 44;
/// IPv4 and UDP headers.
const HEADERS: usize = 28;
const SMALL: usize = 64;
const FULL: usize = 1420;

/// One figure: what was counted, and instructions for one packet.
pub(crate) type Figure = (String, u64);

/// How both programs are run.
struct Mode {
    /// Behind the program's name.
    name: &'static str,
    options: &'static [&'static str],
    /// The word of a link that has a key.
    word: Option<&'static str>,
}

const MODES: [Mode; 4] = [
    Mode {
        name: ", -O",
        options: &["-O"],
        word: None,
    },
    Mode {
        name: "",
        options: &[],
        word: None,
    },
    Mode {
        name: ", sign",
        options: &[],
        word: Some("sign"),
    },
    Mode {
        name: ", seal",
        options: &[],
        word: Some("seal"),
    },
];

/// How packets come.
#[derive(Clone, Copy)]
enum Load {
    Single,
    Burst,
    Super,
}

/// The program whose instructions are counted.
#[derive(Clone, Copy, PartialEq)]
enum Program {
    Server,
    Client,
}

/// One program under qemu beside the other one as it is.
struct Bench {
    counted: Program,
    number: PathBuf,
    server: Server,
    client: Client,
    /// In the tunnel, the client's and the server's.
    ends: [UdpSocket; 2],
    _lab: Lab,
}

/// Counts for both programs, of files for a machine as qemu names it.
pub(crate) fn of(machine: &str, files: &Path, plugin: &Path) -> Vec<Figure> {
    let qemu = format!("qemu-{machine}");
    let mut figures = Vec::new();
    for counted in [Program::Server, Program::Client] {
        for mode in &MODES {
            let bench = Bench::new(counted, &qemu, files, plugin, mode);
            for upload in [true, false] {
                let (program, way) = match (counted, upload) {
                    (Program::Server, true) => ("jtunneld", "UDP to tun"),
                    (Program::Server, false) => ("jtunneld", "tun to UDP"),
                    (Program::Client, true) => ("jtunnel-client", "tun to UDP"),
                    (Program::Client, false) => ("jtunnel-client", "UDP to tun"),
                };
                for (load, size, name) in [
                    (Load::Single, SMALL, "64 bytes, one at a time"),
                    (Load::Single, FULL, "1420 bytes, one at a time"),
                    (Load::Burst, SMALL, "64 bytes, 64 queued"),
                    (Load::Burst, FULL, "1420 bytes, 64 queued"),
                    (Load::Super, FULL, "1420 bytes, 44 in a super-packet"),
                ] {
                    if mode.options.contains(&"-O") && matches!(load, Load::Super) {
                        continue;
                    }
                    let count = bench.count(upload, load, size - HEADERS);
                    figures.push((format!("{program}{}, {way}, {name}", mode.name), count));
                }
            }
        }
    }
    figures
}

impl Bench {
    fn new(counted: Program, qemu: &str, files: &Path, plugin: &Path, mode: &Mode) -> Self {
        let lab = Lab::direct();
        let number = lab.server.path("number");
        let runner = [
            qemu,
            "-plugin",
            &format!("{},into={}", plugin.display(), number.display()),
        ];
        let mut server = Server::new(&lab.server, [1]).options(mode.options);
        // Without keepalives nothing else happens.
        let mut client = Client::new(lab.client(), 1)
            .options(mode.options)
            .options(&["-k", "0"]);
        if let Some(word) = mode.word {
            server = server.keyed(word, [1]);
            client = client.keyed(word);
        }
        let emulated = |launch: Launch| launch.under(&runner).from(files);
        match counted {
            Program::Server => server = server.with(emulated),
            Program::Client => client = client.with(emulated),
        }
        let (server, client) = (server.start(), client.start());
        client.wait_up();
        let inner = client.inner;
        let ends = [
            udp(lab.client(), (inner.client4(), 0).into()),
            udp(&lab.server, (inner.server4(), 0).into()),
        ];
        ends[0].connect(ends[1].local_addr().unwrap()).unwrap();
        ends[1].connect(ends[0].local_addr().unwrap()).unwrap();
        Self {
            counted,
            number,
            server,
            client,
            ends,
            _lab: lab,
        }
    }

    /// Instructions for one packet of this many bytes of UDP data.
    fn count(&self, upload: bool, load: Load, len: usize) -> u64 {
        let [from, to] = match upload {
            true => [&self.ends[0], &self.ends[1]],
            false => [&self.ends[1], &self.ends[0]],
        };
        // What happens once only, such as a first use of memory, is over then.
        self.carry(from, to, load, len);
        let once = || {
            let before = self.settled();
            let packets = self.carry(from, to, load, len);
            (self.settled() - before) / u64::from(packets)
        };
        // Packets that are queued are few: one wake-up beside them would be seen in each.
        let times = if matches!(load, Load::Single) { 1 } else { 3 };
        (0..times).map(|_| once()).min().unwrap()
    }

    /// Carries packets, and returns how many.
    fn carry(&self, from: &UdpSocket, to: &UdpSocket, load: Load, len: usize) -> u32 {
        let mut buffer = vec![0; len];
        let packets = match load {
            Load::Single => {
                for _ in 0..PACKETS {
                    from.send(&buffer).unwrap();
                    to.recv(&mut buffer).unwrap();
                    // Each finds all at rest, as on a link with little traffic.
                    std::thread::sleep(Duration::from_millis(1));
                }
                return PACKETS;
            }
            Load::Burst => {
                self.halt(|| (0..BURST).for_each(|_| assert_eq!(from.send(&buffer).unwrap(), len)));
                BURST
            }
            Load::Super => {
                let segment = i32::try_from(len).unwrap();
                setsockopt(from, UdpGsoSegment, &segment).unwrap();
                let all = vec![0; len * SEGMENTS as usize];
                self.halt(|| assert_eq!(from.send(&all).unwrap(), all.len()));
                setsockopt(from, UdpGsoSegment, &0).unwrap();
                SEGMENTS
            }
        };
        for n in 0..packets {
            assert_eq!(
                to.recv(&mut buffer).unwrap_or(0),
                len,
                "packet {n} of {packets}"
            );
        }
        packets
    }

    /// Does something while neither program runs; then first the other one runs and passes on what
    /// it found, and only then the one that is counted, so that all is queued for it at once.
    fn halt(&self, work: impl FnOnce()) {
        let mut counted = processes(self.client.pid());
        let mut other = processes(self.server.pid());
        if self.counted == Program::Server {
            std::mem::swap(&mut counted, &mut other);
        }
        let send = |pids: &[Pid], signal| pids.iter().for_each(|&pid| kill(pid, signal).unwrap());
        for pids in [&counted, &other] {
            send(pids, Signal::SIGSTOP);
            wait_until(PATIENCE, "a halt", || {
                pids.iter().all(|&pid| proc::halted(pid))
            });
        }
        work();
        send(&other, Signal::SIGCONT);
        let sleeps = || {
            other
                .iter()
                .map(|&pid| proc::sleeps(pid))
                .collect::<Vec<_>>()
        };
        let mut last = Vec::new();
        wait_until(PATIENCE, "the other program to have passed on all", || {
            std::thread::sleep(Duration::from_millis(50));
            let now = sleeps();
            let rests = other.iter().all(|&pid| proc::rests(pid));
            std::mem::replace(&mut last, now.clone()) == now && rests
        });
        send(&counted, Signal::SIGCONT);
    }

    /// The number, once it is at rest.
    fn settled(&self) -> u64 {
        let read = || fs::read(&self.number).unwrap();
        let mut last = read();
        wait_until(PATIENCE, "rest", || {
            std::thread::sleep(Duration::from_millis(50));
            let now = read();
            std::mem::replace(&mut last, now) == last
        });
        u64::from_ne_bytes(last.try_into().unwrap())
    }
}

/// A program's processes.
fn processes(parent: Pid) -> Vec<Pid> {
    let mut pids = proc::twins(parent);
    pids.push(parent);
    pids
}

/// Compiles the plugin that counts.
pub(crate) fn plugin(host: &Host) -> PathBuf {
    let file = host.path("count.so");
    let source = tree::root().join("tests/size/plugin.c");
    let status = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .args([&file, &source])
        .status()
        .unwrap();
    assert!(status.success(), "the plugin does not compile");
    file
}
