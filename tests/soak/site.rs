//! What is under attack: the hosts, the programs on them, and how they stood before.

use std::fs;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use support::host::Host;
use support::lab::{Lab, addresses, cable};
use support::proc;
use support::process::Process;
use support::syslog::{Syslog, deaf};
use support::traffic::{Noise, ping_works};
use support::tunnel::{Client, Server};
use support::wait::{PATIENCE, wait_until};

pub(crate) const CLIENTS: u16 = 2;
/// What memory may grow by, in KiB: stacks and heaps reach their size late.
const GROWTH: u64 = 256;
/// What all clocks show at first.
const DATE: &str = "2001-02-03 04:05:06";

/// What a line of the log may say. Anything else is worth a look.
const EXPECTED: [&str; 28] = [
    "started: ",
    "stopping: signal ",
    " admitted from ",
    " moved from ",
    " by turns: ",
    " forgotten, ",
    " heard ",
    " is gone",
    "authorised clients: ",
    "authorised servers: ",
    "status: ",
    "sending to ",
    " answers from ",
    "no answer from ",
    "unable to send to ",
    "unable to receive from the UDP socket: ",
    "the sender was killed",
    "starting it again",
    "packets go one by one",
    "packets come one by one",
    "not authorised",
    "device tun",
    "resolved",
    ": PLAIN",
    "seal, check value ",
    " session up",
    " sessions within a minute",
    ": replayed",
];

/// The part of a test that is under attack.
pub(crate) struct Site {
    pub(crate) lab: Lab,
    pub(crate) server: Server,
    pub(crate) clients: Vec<Client>,
    /// Of each end, while it runs.
    loggers: Vec<Option<Syslog>>,
    noise: Noise,
    /// The processes of the server and of each client, as they stood before the first fault.
    before: Vec<Vec<Standing>>,
    /// Of names for devices that were never there before.
    names: u32,
}

/// How a process stands, to be compared with later.
#[derive(Clone, Copy, Debug)]
struct Standing {
    descriptors: usize,
    memory: u64,
}

impl Standing {
    fn of(pid: Pid) -> Option<Self> {
        Some(Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            memory: proc::runs(pid).then(|| proc::anonymous(pid))?,
        })
    }

    fn is_within(self, before: Self) -> bool {
        self.descriptors <= before.descriptors && self.memory <= before.memory + GROWTH
    }
}

impl Site {
    pub(crate) fn up(seed: u64) -> Self {
        let lab = Lab::behind_nat(CLIENTS.into());
        for address in ["198.51.100.3/24", "198.51.100.4/24"] {
            lab.router().ip(&format!("address add {address} dev wan"));
        }
        for (n, client) in lab.clients.iter().enumerate() {
            let device = format!("uplink{n}");
            cable(client, "eth1", lab.router(), &device);
            addresses(client, "eth1", &[&format!("192.168.10{n}.2/24")]);
            addresses(lab.router(), &device, &[&format!("192.168.10{n}.1/24")]);
        }
        // Each host has a clock that can be set.
        fs::write(lab.server.path("clock"), DATE).unwrap();
        let clock = format!(
            "FAKETIME_TIMESTAMP_FILE={}",
            lab.server.path("clock").display()
        );
        let under = [&support::clock::SETTABLE[..], &[&clock]].concat();
        let hosts = std::iter::once(&lab.server).chain(&lab.clients);
        let loggers = hosts.map(|host| Some(Syslog::start(host))).collect();
        // One of the links is plain, the others are sealed.
        let server = Server::new(&lab.server, [1])
            .keyed("seal", 2..=CLIENTS)
            .with(|launch| launch.under(&under))
            .start();
        let clients: Vec<Client> = (1..)
            .zip(&lab.clients)
            .map(|(number, host)| {
                let client = Client::new(host, number).with(|launch| launch.under(&under));
                let client = match number {
                    1 => client,
                    _ => client.keyed("seal"),
                };
                client.options(&["-k", "1"]).start()
            })
            .collect();
        let site = Self {
            lab,
            server,
            clients,
            loggers,
            noise: Noise::new(seed),
            before: Vec::new(),
            names: 0,
        };
        site.wait_up("the start");
        site
    }

    /// Waits until all tunnels carry packets.
    #[track_caller]
    pub(crate) fn wait_up(&self, after: &str) {
        for client in &self.clients {
            wait_until(PATIENCE, &format!("a ping after: {after}"), || {
                ping_works(&client.host, client.inner.server4())
            });
        }
    }

    /// Remembers how the processes stand.
    pub(crate) fn take_stock(&mut self) {
        self.before = (0..=self.clients.len())
            .map(|end| self.standing(end))
            .collect();
    }

    /// End 0 is the server, the others are the clients.
    fn end(&self, number: usize) -> (&Host, &Process) {
        match number.checked_sub(1) {
            None => (&self.server.host, &self.server),
            Some(n) => (&self.clients[n].host, &self.clients[n]),
        }
    }

    fn standing(&self, end: usize) -> Vec<Standing> {
        let pid = self.end(end).1.pid();
        let pids = [vec![pid], proc::twins(pid)].concat();
        pids.into_iter().filter_map(Standing::of).collect()
    }

    /// What one end has too much or too little of.
    fn oddity(&self, end: usize) -> Option<String> {
        let (host, before, now) = (self.end(end).0, &self.before[end], self.standing(end));
        let (pids, tuns) = (host.pids().len(), host.tuns().len());
        let same = now.len() == before.len() && pids == before.len();
        let within = now
            .iter()
            .zip(before)
            .all(|(now, before)| now.is_within(*before));
        let devices = if end == 0 { self.clients.len() } else { 1 };
        (!same || !within || tuns != devices).then(|| {
            format!("end {end}: {now:?} after {before:?}, {pids} processes, {tuns} devices")
        })
    }

    /// Nothing that one end has or had is left over, and it said nothing that is not expected. To
    /// be called before the end's program is started anew, and when all is over.
    #[track_caller]
    pub(crate) fn assert_end_sound(&self, end: usize) {
        let since = Instant::now();
        while let Some(oddity) = self.oddity(end) {
            assert!(since.elapsed() < PATIENCE, "{oddity}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let lines = &self.end(end).1.lines;
        lines.assert_discreet();
        for line in lines.all() {
            let expected = EXPECTED.iter().any(|words| line.contains(words));
            assert!(expected, "unexpected line: {line}");
        }
    }

    /// Nothing was lost, and nothing is left that was not there before.
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        for end in 0..=self.clients.len() {
            self.assert_end_sound(end);
        }
    }

    pub(crate) fn dice(&mut self, sides: usize) -> usize {
        usize::try_from(self.noise.number() % sides as u64).unwrap()
    }

    /// Up to two seconds.
    pub(crate) fn a_while(&mut self) {
        std::thread::sleep(Duration::from_millis(200 + self.noise.number() % 1800));
    }

    /// The number of a client.
    pub(crate) fn a_client(&mut self) -> usize {
        self.dice(CLIENTS.into())
    }

    pub(crate) fn a_host(&mut self) -> Host {
        let end = self.dice(usize::from(CLIENTS) + 1);
        self.end(end).0.clone()
    }

    pub(crate) fn a_process(&mut self) -> Pid {
        let end = self.dice(usize::from(CLIENTS) + 1);
        let pid = self.end(end).1.pid();
        let pids = [vec![pid], proc::twins(pid)].concat();
        pids[self.dice(pids.len())]
    }

    pub(crate) fn a_tun(&mut self) -> Option<(Host, String)> {
        let host = self.a_host();
        let tuns = host.tuns();
        let number = self.dice(tuns.len().max(1));
        Some((host, tuns.get(number)?.clone()))
    }

    /// Ends the logger of one host for a while, and leaves in its place one that nobody reads.
    pub(crate) fn hang_logger(&mut self, meanwhile: impl FnOnce(&mut Self)) {
        let end = self.dice(self.loggers.len());
        let host = self.end(end).0.clone();
        self.loggers[end] = None;
        let socket = deaf(&host);
        meanwhile(self);
        drop(socket);
        self.a_while();
        self.loggers[end] = Some(Syslog::start(&host));
    }

    pub(crate) fn a_new_name(&mut self) -> String {
        self.names += 1;
        format!("soak{}", self.names)
    }

    /// Sets the clock of all programs.
    pub(crate) fn set_clock(&self, date: &str) {
        fs::write(self.lab.server.path("clock"), date).unwrap();
    }
}
