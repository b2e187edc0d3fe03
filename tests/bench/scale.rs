//! What a thousand and four thousand clients cost one server, and what a flood does to it.

use std::fmt::Write;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use support::config::client_id;
use support::crowd::Crowd;
use support::flood::Flood;
use support::heartbeat::Heartbeat;
use support::keyed_crowd::KeyedCrowd;
use support::lab::{Lab, SERVER4, server_address};
use support::peer::{datagram, keepalive};
use support::proc;
use support::tunnel::{Client, Server};
use support::wait::PATIENCE;

use crate::measure::{self, End};

const PORT: u16 = 5886;
/// The clients that carry traffic, and all.
const BUSY: u16 = 10;
const ALL: u16 = 4000;
/// Those whose links are sealed.
const KEYED: u16 = 1000;

/// What was measured, in tables, and what of it is worse than required.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) tables: String,
    pub(crate) missed: Vec<String>,
}

/// What a figure may be.
#[derive(Clone, Copy)]
enum Required {
    AtMost(f64),
    AtLeast(f64),
    Anything,
}

impl Report {
    fn row(&mut self, cells: &[String]) {
        eprintln!("{}", cells.join(", "));
        writeln!(self.tables, "| {} |", cells.join(" | ")).unwrap();
    }

    /// Whether a figure is as required, in words for the table.
    fn judge(&mut self, what: &str, is: f64, required: Required) -> String {
        let (good, words) = match required {
            Required::AtMost(most) => (is <= most, format!("at most {most}")),
            Required::AtLeast(least) => (is >= least, format!("at least {least}")),
            Required::Anything => (true, String::new()),
        };
        if !good {
            self.missed
                .push(format!("{what}: {is:.2}, required {words}"));
        }
        words
    }

    fn figure(&mut self, what: &str, is: f64, required: Required, aim: &str) {
        let words = self.judge(what, is, required);
        self.row(&[what.into(), format!("{is:.2}"), words, aim.into()]);
    }
}

/// Measures all.
pub(crate) fn run(time: Duration) -> Report {
    use Required::{Anything, AtLeast, AtMost};
    let mut report = Report::default();
    report.tables += "| | is | required | aim |\n|---|---:|---:|---:|\n";
    for (count, required, aim) in [(1000, AtMost(10.0), "3"), (ALL, Anything, "")] {
        let (ended, answered, all) = come_back(count);
        let after = format!("{count} clients back, seconds until");
        report.figure(
            &format!("{after} all are answered"),
            answered,
            required,
            aim,
        );
        report.figure(&format!("{after} every PROG is done"), all, required, aim);
        let what = format!("end of a server with {count} clients, seconds");
        report.figure(&what, ended, Anything, "");
    }
    let (answered, all) = keyed_come_back();
    let after = format!("{KEYED} sealed clients back, seconds until");
    let what = format!("{after} all have a session");
    report.figure(&what, answered, AtMost(10.0), "3");
    let what = format!("{after} every PROG is done");
    report.figure(&what, all, AtMost(10.0), "3");
    let what = "sealed traffic of the client alone, server killed, seconds until it passes again";
    report.figure(what, after_kill(), AtMost(1.0), "0.2");
    let (cost, memory, ratio) = idle_crowd(time);
    let what = "server CPU with 4000 clients that keep alive every 25 s, % of a core";
    report.figure(what, cost, AtMost(3.0), "1");
    let what = "server memory for each client, bytes";
    report.figure(what, memory, AtMost(2048.0), "500");
    let what = "10 busy clients beside 3990 idle ones, against 10 alone";
    report.figure(what, ratio, AtLeast(0.9), "1.0");

    report.tables += "\n| flood | 1000/s | pings lost, % | without | ping, ms | without | newcomer in, s \
        | memory, KiB | log, lines |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n";
    for (name, make) in FLOODS {
        let flood = flood(make, time * 10);
        for (what, is, most) in [
            ("pings lost, %", flood.during.0, 1.0),
            ("newcomer, s", flood.newcomer, 2.0),
            ("memory, KiB", flood.memory, 1024.0),
            ("log, lines", flood.lines, 60.0),
        ] {
            report.judge(&format!("flood of {name}: {what}"), is, AtMost(most));
        }
        let figures = [
            (flood.rate / 1000.0, 0),
            (flood.during.0, 2),
            (flood.before.0, 2),
            (flood.during.1, 2),
            (flood.before.1, 2),
            (flood.newcomer, 2),
            (flood.memory, 0),
            (flood.lines, 0),
        ];
        let cells = figures.map(|(is, digits)| format!("{is:.digits$}"));
        report.row(&[&[name.into()], &cells[..]].concat());
    }
    let most = ["at most", "", "1", "", "", "", "2", "1024", "60"];
    report.row(&most.map(str::to_owned));
    report
}

/// Seconds that a server takes to end, and then until all clients of a new one are answered and
/// have their addresses.
fn come_back(count: u16) -> (f64, f64, f64) {
    let lab = Lab::direct();
    let mut server = Server::new(&lab.server, 1..=count).start();
    let crowd = Crowd::new(lab.client(), 1..=count, server_address());
    crowd.knock();
    server.wait_progs(count);
    let since = Instant::now();
    server.process().stop();
    let ended = since.elapsed();
    let since = Instant::now();
    server.restart();
    crowd.knock();
    let answered = since.elapsed();
    server.wait_progs(count);
    let all = since.elapsed();
    server.process().stop();
    (
        ended.as_secs_f64(),
        answered.as_secs_f64(),
        all.as_secs_f64(),
    )
}

/// Seconds until all sealed clients of a server that was restarted have sessions, and until they
/// have their addresses.
fn keyed_come_back() -> (f64, f64) {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, []);
    let mut server = server.keyed("seal", 1..=KEYED).start();
    let mut crowd = KeyedCrowd::new(lab.client(), "seal", 1..=KEYED, server_address());
    crowd.knock();
    server.wait_progs(KEYED);
    server.process().stop();
    let since = Instant::now();
    server.restart();
    crowd.knock();
    let answered = since.elapsed();
    server.wait_progs(KEYED);
    let all = since.elapsed();
    server.process().stop();
    (answered.as_secs_f64(), all.as_secs_f64())
}

/// Seconds from the start of a server whose predecessor was killed until it delivers what a client
/// has gone on to send. Nothing goes the other way, and no keepalive is due. The median of a few.
fn after_kill() -> f64 {
    let lab = Lab::direct();
    let mut server = Server::new(&lab.server, []).keyed("seal", [1]).start();
    let client = Client::new(lab.client(), 1).keyed("seal").start();
    client.wait_up();
    let to = client.inner.server4();
    let receiver = lab.server.run(|| UdpSocket::bind("[::]:0")).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let port = receiver.local_addr().unwrap().port();
    let sender = lab.client().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    let mut buffer = [0; 8];
    let times = (0..5).map(|_| {
        // Nudges are answered once a second at most, and the last session may be of just now.
        std::thread::sleep(Duration::from_secs(2));
        server.process().kill();
        while receiver.recv(&mut buffer).is_ok() {}
        let since = Instant::now();
        server.restart();
        while receiver.recv(&mut buffer).is_err() {
            assert!(since.elapsed() < PATIENCE, "no more traffic");
            let _ = sender.send_to(&buffer, (to, port));
            std::thread::sleep(Duration::from_millis(5));
        }
        since.elapsed().as_secs_f64()
    });
    crate::median(times.collect())
}

/// Percent of a processor for 4000 idle clients, bytes for each, and what they take from ten that
/// are busy.
fn idle_crowd(time: Duration) -> (f64, f64, f64) {
    let lab = Lab::routed(usize::from(BUSY) + 1);
    let mut server = Server::new(&lab.server, 1..=ALL).start();
    let clients = Client::on_each(&lab, &[]);
    let tunnels: Vec<(End, End)> = clients
        .iter()
        .map(|client| {
            let inner = client.inner;
            (
                End::plain(&client.host, inner.client4()),
                End::plain(&lab.server, inner.server4()),
            )
        })
        .collect();
    let pairs: Vec<_> = tunnels.iter().map(|(near, far)| (near, far)).collect();
    let throughput = || crate::median((0..3).map(|_| measure::tcp(&pairs, time)).collect());
    let alone = throughput();
    let before = private(server.pid());

    let idle = &lab.clients[usize::from(BUSY)];
    let crowd = Crowd::new(idle, BUSY + 1..=ALL, server_address());
    crowd.knock();
    server.wait_progs(ALL);
    let grown = private(server.pid()) - before;
    let used = measure::cpu_time(server.pid());
    let (interval, watched) = (Duration::from_secs(25), Duration::from_secs(12));
    crowd.keep_alive(interval, watched);
    let cost = (measure::cpu_time(server.pid()) - used) / watched.as_secs_f64() * 100.0;
    let beside = throughput();
    server.process().stop();
    (cost, grown / f64::from(ALL - BUSY), beside / alone)
}

/// Bytes of memory that only this process has.
fn private(pid: nix::unistd::Pid) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    text.lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
        .sum::<f64>()
        * 1024.0
}

type Make = fn(&Lab) -> Flood;

const FLOODS: [(&str, Make); 5] = [
    ("unknown identifiers", |lab| {
        Flood::start(&lab.clients[1], server_address(), 13, 13)
    }),
    ("junk of all lengths", |lab| {
        Flood::start(&lab.clients[1], server_address(), 0, 1400)
    }),
    ("64 KiB datagrams", |lab| {
        Flood::start(&lab.clients[1], server_address(), 65_000, 65_507)
    }),
    ("keepalives", |lab| {
        let question = datagram(&client_id(3), &keepalive(7));
        Flood::of(&lab.clients[1], server_address(), move |_| question.clone())
    }),
    ("stolen identifiers from 1000 sources", |lab| {
        let target = SocketAddrV4::new(SERVER4.parse().unwrap(), PORT);
        Flood::forged(&lab.clients[1], target, |noise| {
            let number = u16::try_from(noise.number() % 1000).unwrap();
            let [high, low] = number.to_be_bytes();
            let from = SocketAddrV4::new([10, 66, high, low].into(), 1024 + number);
            (from, datagram(&client_id(3 + number % 10), &keepalive(7)))
        })
    }),
];

/// What a flood does to a server and its clients.
struct Flooded {
    /// Datagrams a second.
    rate: f64,
    /// Percent of pings lost, and the median of the others in ms.
    before: (f64, f64),
    during: (f64, f64),
    /// Seconds until one that was authorised meanwhile is in.
    newcomer: f64,
    /// KiB that came on top.
    memory: f64,
    lines: f64,
}

fn flood(make: Make, time: Duration) -> Flooded {
    let lab = Lab::routed(2);
    let server = Server::new(&lab.server, [1].into_iter().chain(3..=12)).start();
    let client = Client::new(lab.client(), 1).start();
    client.wait_up();
    let pings = |count: u32| {
        let (from, to) = (lab.client(), client.inner.server4());
        let (near, far) = (End::plain(from, to), End::plain(&lab.server, to));
        let times = measure::pings(&near, &far, count);
        let lost = 1.0 - times.len() as f64 / f64::from(count);
        let median = times.get(times.len() / 2).copied();
        (lost * 100.0, median.unwrap_or(f64::NAN))
    };
    let before = pings(300);
    let size = || proc::resident(server.pid()) as f64;
    let lines = || server.lines.all().len() as f64;
    let (memory, said) = (size(), lines());
    let flood = make(&lab);
    let since = Instant::now();
    let newcomer = Client::new(lab.client(), 2).options(&["-k", "1"]).start();
    server.config.authorise(&client_id(2));
    let authorised = Instant::now();
    let beat = Heartbeat::start(lab.client(), &lab.server, newcomer.inner.server4());
    let entered = beat.recovery(authorised);
    drop(beat);
    let count = (time.saturating_sub(since.elapsed()).as_millis() / 12).max(100);
    let during = pings(u32::try_from(count).unwrap());
    let lasted = since.elapsed();
    Flooded {
        rate: flood.stop() as f64 / lasted.as_secs_f64(),
        before,
        during,
        newcomer: entered.as_secs_f64(),
        memory: size() - memory,
        lines: lines() - said,
    }
}
