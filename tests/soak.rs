//! A server and two clients behind NAT, with TCP and UDP through their tunnels whose content is
//! checked, while one fault after another befalls them.
//!
//! usage: soak [SECONDS [SEED]]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::config::client_id;
use support::flood::Flood;
use support::host::Host;
use support::lab::Lab;
use support::proc;
use support::traffic::{Noise, ping_works};
use support::tunnel::{Client, Server};
use support::wait::{PATIENCE, wait_until};

const CLIENTS: u16 = 2;
const BLOCK: usize = 16 * 1024;
/// What memory may grow by, in KiB: stacks and heaps reach their size late.
const GROWTH: u64 = 256;

/// What a line of the log may say. Anything else is worth a look.
const EXPECTED: [&str; 24] = [
    "started: ",
    "stopping: signal ",
    " admitted from ",
    " moved from ",
    " forgotten, ",
    " is gone",
    "authorised clients: ",
    "authorised servers: ",
    "status: ",
    "sending to ",
    " answers from ",
    "no answer from ",
    "unable to send to ",
    "unable to receive: ",
    "the sender was killed",
    "starting it again",
    "packets go one by one",
    "packets come one by one",
    "not authorised",
    "a new source port",
    "created again",
    "new device",
    "device tun",
    "resolved",
];

/// The part of a test that is under attack.
struct Site {
    lab: Lab,
    server: Server,
    clients: Vec<Client>,
    noise: Noise,
}

/// How a process stands, to be compared with later.
#[derive(Debug)]
struct Standing {
    descriptors: usize,
    memory: u64,
}

impl Standing {
    fn of(pid: Pid) -> Self {
        Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            memory: proc::resident(pid),
        }
    }
}

/// Traffic in both directions of one tunnel, for as long as it is told.
struct Traffic {
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    bytes: Arc<AtomicU64>,
    datagrams: Arc<AtomicU64>,
}

impl Traffic {
    fn start(near: &Host, far: &Host, far_address: IpAddr) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let (bytes, datagrams) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut threads = Vec::new();
        // The listener hears on all addresses: those of devices come and go.
        let listener = far.run(|| TcpListener::bind("0.0.0.0:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let (end, count) = (ending.clone(), bytes.clone());
        threads.push(std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => check_stream(stream, &end, &count),
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        }));
        let end = ending.clone();
        threads.push(near.thread(move || {
            while !end.load(Ordering::Relaxed) {
                let to = (far_address, port).into();
                match TcpStream::connect_timeout(&to, Duration::from_secs(1)) {
                    Ok(stream) => fill_stream(stream, &end),
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        }));
        let udp = |host: &Host| host.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let (sender, receiver) = (udp(near), udp(far));
        let to = (far_address, receiver.local_addr().unwrap().port());
        let end = ending.clone();
        threads.push(std::thread::spawn(move || {
            let mut number = 0;
            while !end.load(Ordering::Relaxed) {
                let _ = sender.send_to(&datagram(number), to);
                number += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }));
        let (end, count) = (ending.clone(), datagrams.clone());
        let limit = Some(Duration::from_millis(50));
        receiver.set_read_timeout(limit).unwrap();
        threads.push(std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !end.load(Ordering::Relaxed) {
                if let Ok(len) = receiver.recv(&mut buffer) {
                    let number = u64::from_be_bytes(*buffer.first_chunk().unwrap());
                    assert!(
                        buffer[..len] == datagram(number),
                        "datagram {number} changed"
                    );
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
        Self {
            ending,
            threads,
            bytes,
            datagrams,
        }
    }

    /// Ends it, and returns how many bytes and datagrams have come; panics if one was wrong.
    fn stop(self) -> (u64, u64) {
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        (
            self.bytes.load(Ordering::Relaxed),
            self.datagrams.load(Ordering::Relaxed),
        )
    }
}

/// The content of a datagram, which its number tells.
fn datagram(number: u64) -> Vec<u8> {
    let mut noise = Noise::new(number);
    let len = usize::try_from(noise.number() % 1300).unwrap();
    [&number.to_be_bytes()[..], &noise.bytes(len)].concat()
}

/// Reads until the stream ends or breaks; what comes must be what was sent.
fn check_stream(mut stream: TcpStream, end: &AtomicBool, count: &AtomicU64) {
    stream.set_nonblocking(false).unwrap();
    let limit = Some(Duration::from_secs(3));
    stream.set_read_timeout(limit).unwrap();
    let (mut noise, mut expected, mut block) = (Noise::new(5), vec![0; BLOCK], vec![0; BLOCK]);
    while !end.load(Ordering::Relaxed) && stream.read_exact(&mut block).is_ok() {
        noise.fill(&mut expected);
        assert!(block == expected, "a stream arrived changed");
        count.fetch_add(BLOCK as u64, Ordering::Relaxed);
    }
}

fn fill_stream(mut stream: TcpStream, end: &AtomicBool) {
    let limit = Some(Duration::from_secs(3));
    stream.set_write_timeout(limit).unwrap();
    let (mut noise, mut block) = (Noise::new(5), vec![0; BLOCK]);
    while !end.load(Ordering::Relaxed) {
        noise.fill(&mut block);
        if stream.write_all(&block).is_err() {
            return;
        }
        // The machine has other things to do too.
        std::thread::sleep(Duration::from_micros(200));
    }
}

impl Site {
    fn up(seed: u64) -> Self {
        let lab = Lab::behind_nat(CLIENTS.into());
        for address in ["198.51.100.3/24", "198.51.100.4/24"] {
            lab.router().ip(&format!("address add {address} dev wan"));
        }
        let server = Server::new(&lab.server, 1..=CLIENTS).start();
        let clients: Vec<Client> = (1..)
            .zip(&lab.clients)
            .map(|(number, host)| Client::new(host, number).options(&["-k", "1"]).start())
            .collect();
        let site = Self {
            lab,
            server,
            clients,
            noise: Noise::new(seed),
        };
        site.wait_up();
        site
    }

    #[track_caller]
    fn wait_up(&self) {
        for client in &self.clients {
            wait_until(PATIENCE, "a ping", || {
                ping_works(&client.host, client.inner.server4())
            });
        }
    }

    fn dice(&mut self, sides: usize) -> usize {
        usize::try_from(self.noise.number() % sides as u64).unwrap()
    }

    /// Up to two seconds.
    fn a_while(&mut self) {
        std::thread::sleep(Duration::from_millis(200 + self.noise.number() % 1800));
    }

    fn a_host(&mut self) -> Host {
        match self.dice(3) {
            0 => self.lab.server.clone(),
            n => self.lab.clients[n - 1].clone(),
        }
    }

    fn a_process(&mut self) -> Pid {
        let n = self.dice(CLIENTS.into());
        let client = self.clients[n].pid();
        match self.dice(3) {
            0 => self.server.pid(),
            1 => client,
            _ => proc::twins(client).first().copied().unwrap_or(client),
        }
    }

    fn a_tun(&mut self) -> Option<(Host, String)> {
        let host = self.a_host();
        let tuns = host.tuns();
        let number = self.dice(tuns.len().max(1));
        Some((host, tuns.get(number)?.clone()))
    }

    /// Does something bad, and undoes it. Returns what it was.
    fn fault(&mut self) -> &'static str {
        match self.dice(16) {
            0 => {
                self.lab.router().filter("cut", "forward", "drop");
                self.a_while();
                self.lab.router().nft("delete table inet cut");
                "nothing is forwarded"
            }
            1 => {
                let loss = "numgen random mod 100 < 30 drop";
                self.lab.router().filter("loss", "forward", loss);
                self.a_while();
                self.lab.router().nft("delete table inet loss");
                "30 % are lost"
            }
            2 => {
                let number = 2 + self.dice(3);
                self.lab.nat(&format!("snat to 198.51.100.{number}"));
                self.lab.forget_mappings();
                "another NAT address"
            }
            3 => {
                let number = 2 + self.dice(3);
                self.lab.nat(&format!("snat to 198.51.100.{number}"));
                "another NAT address, old mappings kept"
            }
            4 => {
                let n = self.dice(CLIENTS.into());
                let (client, net) = (self.lab.clients[n].clone(), n + 1);
                client.ip(&format!("address add 192.168.{net}.9/24 dev eth0"));
                client.ip(&format!("address del 192.168.{net}.2/24 dev eth0"));
                self.a_while();
                client.ip(&format!("address add 192.168.{net}.2/24 dev eth0"));
                client.ip(&format!("address del 192.168.{net}.9/24 dev eth0"));
                "another client address"
            }
            5 => {
                let n = self.dice(CLIENTS.into());
                let (client, gate) = (self.lab.clients[n].clone(), n + 1);
                client.ip("link set eth0 down");
                self.a_while();
                client.ip("link set eth0 up");
                client.ip(&format!("route replace default via 192.168.{gate}.1"));
                "interface down and up"
            }
            6 => {
                let host = self.a_host();
                host.filter("reload", "output", "udp dport != 53 drop");
                self.a_while();
                host.nft("delete table inet reload");
                "a firewall that rejects what is sent"
            }
            7 => {
                let n = self.dice(CLIENTS.into());
                for child in proc::twins(self.clients[n].pid()) {
                    let _ = kill(child, Signal::SIGKILL);
                }
                "sender killed"
            }
            8 => {
                let pid = self.a_process();
                let _ = kill(pid, Signal::SIGSTOP);
                self.a_while();
                let _ = kill(pid, Signal::SIGCONT);
                "process stopped for a while"
            }
            9 => {
                if let Some((host, tun)) = self.a_tun() {
                    host.try_ip(&format!("link del {tun}"));
                }
                "tun deleted"
            }
            10 => {
                if let Some((host, tun)) = self.a_tun() {
                    host.try_ip(&format!("link set {tun} down"));
                    self.a_while();
                    host.try_ip(&format!("link set {tun} up"));
                }
                "tun down and up"
            }
            11 => {
                self.server.process().stop();
                self.a_while();
                self.server.restart();
                "server restarted"
            }
            12 => {
                self.server.process().kill();
                self.server.restart();
                "server killed and started"
            }
            13 => {
                let n = self.dice(CLIENTS.into());
                self.clients[n].process().stop();
                self.clients[n].restart();
                "client restarted"
            }
            14 => {
                let victim = client_id(1);
                self.server.config.revoke(&victim);
                self.server.signal(Signal::SIGHUP);
                self.a_while();
                self.server.config.authorise(&victim);
                "client forgotten and authorised again"
            }
            _ => {
                let to = (support::lab::SERVER4.parse().unwrap(), 5886);
                let flood = Flood::start(&self.lab.clients[1], to, 0, 1400);
                self.a_while();
                flood.stop();
                "a flood of junk"
            }
        }
    }

    fn processes(&self) -> Vec<Pid> {
        let mut pids = vec![self.server.pid()];
        for client in &self.clients {
            pids.push(client.pid());
            pids.extend(proc::twins(client.pid()));
        }
        pids
    }

    /// Nothing was lost, and nothing is left that was not there before.
    fn assert_sound(&self, before: &[Standing]) {
        self.lab.server.wait_tuns(CLIENTS.into());
        for client in &self.clients {
            client.host.wait_tuns(1);
        }
        for (host, processes) in [(&self.lab.server, 1), (&self.lab.clients[0], 2)] {
            wait_until(PATIENCE, "the end of helpers", || {
                host.pids().len() == processes
            });
        }
        let now: Vec<Standing> = self.processes().into_iter().map(Standing::of).collect();
        assert_eq!(now.len(), before.len());
        for (now, before) in now.iter().zip(before) {
            assert!(now.descriptors <= before.descriptors, "{now:?}, {before:?}");
            assert!(now.memory <= before.memory + GROWTH, "{now:?}, {before:?}");
        }
        let lines = self.clients.iter().map(|client| &client.lines);
        for lines in lines.chain([&self.server.lines]) {
            lines.assert_discreet();
            for line in lines.all() {
                let expected = EXPECTED.iter().any(|words| line.contains(words));
                assert!(expected, "unexpected line: {line}");
            }
        }
    }
}

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse().unwrap());
    let seconds = numbers.next().unwrap_or(600);
    let seed = numbers.next().unwrap_or_else(|| {
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    });
    println!("soak: {seconds} s, seed {seed}; the same again: soak {seconds} {seed}");
    let mut site = Site::up(seed);
    let traffic: Vec<Traffic> = site
        .clients
        .iter()
        .flat_map(|client| {
            let (near, far, inner) = (&client.host, &site.lab.server, client.inner);
            [
                Traffic::start(near, far, inner.server4()),
                Traffic::start(far, near, inner.client4()),
            ]
        })
        .collect();
    std::thread::sleep(Duration::from_secs(3));
    let before: Vec<Standing> = site.processes().into_iter().map(Standing::of).collect();

    let (start, mut faults) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        let name = site.fault();
        let since = Instant::now();
        site.wait_up();
        faults += 1;
        println!(
            "{:6.1} s: {name}, up again after {:.2} s",
            start.elapsed().as_secs_f64(),
            since.elapsed().as_secs_f64()
        );
    }
    // Streams that broke are there again before the end.
    std::thread::sleep(Duration::from_secs(5));
    for (n, traffic) in traffic.into_iter().enumerate() {
        let (bytes, datagrams) = traffic.stop();
        println!(
            "traffic {n}: {} MB, {datagrams} datagrams, as they were sent",
            bytes / 1_000_000
        );
        assert!(bytes > 0 && datagrams > 0);
    }
    site.assert_sound(&before);
    println!("{faults} faults, no client lost, nothing left behind");
    ExitCode::SUCCESS
}
