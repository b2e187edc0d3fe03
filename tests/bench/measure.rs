//! What is measured of a link between two hosts.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use support::host::Host;
use support::process::Process;

/// One end: where it is, its address on the link, and the processes that make the link.
pub(crate) struct End {
    pub(crate) host: Host,
    pub(crate) address: IpAddr,
    pub(crate) processes: Vec<Pid>,
}

impl End {
    /// One whose processes are of no interest.
    pub(crate) fn plain(host: &Host, address: IpAddr) -> Self {
        Self {
            host: host.clone(),
            address,
            processes: Vec::new(),
        }
    }
}

/// A piece of TCP that is written and read at once.
const PIECE: usize = 128 * 1024;
/// Datagrams may be lost up to this share.
const LOSS: f64 = 0.005;
/// Rate of the stream whose cost is measured, and pings beside it, in bytes per second: 200 Mbit/s.
pub(crate) const FIXED_RATE: f64 = 25e6;

/// Bits per second of some TCP streams between pairs of ends, together.
pub(crate) fn tcp(pairs: &[(&End, &End)], time: Duration) -> f64 {
    let streams: Vec<_> = pairs.iter().map(|(from, to)| connect(from, to)).collect();
    let end = Instant::now() + time;
    let start = |(sender, receiver)| {
        let sink = std::thread::spawn(move || drain(receiver, end));
        let source = std::thread::spawn(move || send_until(sender, end, f64::INFINITY));
        (source, sink)
    };
    let threads: Vec<_> = streams.into_iter().map(start).collect();
    let mut bytes = 0;
    for (source, sink) in threads {
        bytes += sink.join().unwrap();
        source.join().unwrap();
    }
    bytes as f64 * 8.0 / time.as_secs_f64()
}

fn connect(from: &End, to: &End) -> (TcpStream, TcpStream) {
    let address = to.address;
    let listener = to
        .host
        .run(move || TcpListener::bind((address, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let sender = from.host.run(move || TcpStream::connect(address).unwrap());
    (sender, listener.accept().unwrap().0)
}

/// Bytes that came before the end.
fn drain(mut stream: TcpStream, end: Instant) -> u64 {
    let (mut buffer, mut received, mut counted) = (vec![0; PIECE], 0, 0);
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        received += len as u64;
        if Instant::now() <= end {
            counted = received;
        }
    }
    counted
}

/// Sends at most at this rate, in bytes per second.
fn send_until(mut stream: TcpStream, end: Instant, rate: f64) {
    let (buffer, mut sent, start) = (vec![7; PIECE], 0.0, Instant::now());
    while Instant::now() < end {
        let due = start.elapsed().as_secs_f64() * rate;
        if sent < due || rate.is_infinite() {
            let len = if rate.is_infinite() { PIECE } else { 25_000 };
            if stream.write_all(&buffer[..len]).is_err() {
                return;
            }
            sent += len as f64;
        } else {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

/// The highest rate of datagrams of this size, in datagrams per second, of which hardly any is
/// lost: doubled until some are, then halved in between. Of so many flows, by turns.
pub(crate) fn udp(from: &End, to: &End, flows: usize, size: usize) -> f64 {
    let address = to.address;
    let receiver = to.host.run(move || UdpSocket::bind((address, 0)).unwrap());
    // What the receiving program has no time for is not the link's fault.
    setsockopt(&receiver, sockopt::RcvBufForce, &(16 << 20)).unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let to = receiver.local_addr().unwrap();
    let sender = || {
        from.host.run(move || {
            let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
                .parse()
                .unwrap();
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(to).unwrap();
            socket
        })
    };
    let senders: Vec<_> = (0..flows).map(|_| sender()).collect();
    let (mut passed, mut failed) = (0.0, f64::INFINITY);
    let mut rate = 20_000.0;
    for _ in 0..14 {
        let (sent, lost) = burst(&senders, &receiver, size, rate);
        if lost <= LOSS {
            passed = sent.max(passed);
            // The sender itself can't do more.
            if sent < 0.9 * rate {
                break;
            }
        } else {
            failed = rate;
        }
        rate = if failed.is_finite() {
            (passed + failed) / 2.0
        } else {
            rate * 2.0
        };
        if failed < passed * 1.03 {
            break;
        }
    }
    passed
}

/// Sends at a steady rate for a moment; the rate that it came to, and the share that was lost.
fn burst(senders: &[UdpSocket], receiver: &UdpSocket, size: usize, rate: f64) -> (f64, f64) {
    const TIME: Duration = Duration::from_millis(400);
    let receiver = receiver.try_clone().unwrap();
    let counter = std::thread::spawn(move || {
        let (mut buffer, mut count) = ([0; 2048], 0u64);
        let mut idle = 0;
        // Four times nothing: the last one has come, or none ever will.
        while idle < 4 {
            match receiver.recv(&mut buffer) {
                Ok(_) => (count, idle) = (count + 1, 0),
                Err(_) => idle += 1,
            }
        }
        count
    });
    let (data, start, mut sent) = (vec![7; size], Instant::now(), 0u64);
    while start.elapsed() < TIME {
        let due = start.elapsed().as_secs_f64() * rate;
        for sender in senders.iter().cycle().take(16) {
            if (sent as f64) < due && sender.send(&data).is_ok() {
                sent += 1;
            }
        }
    }
    let real = sent as f64 / start.elapsed().as_secs_f64();
    let received = counter.join().unwrap();
    (real, 1.0 - received as f64 / sent as f64)
}

/// Milliseconds of pings, sorted.
pub(crate) fn pings(from: &End, to: &End, count: u32) -> Vec<f64> {
    let mut command = Command::new("ping");
    let count = count.to_string();
    command.args([
        "-n",
        "-i",
        "0.01",
        "-W",
        "1",
        "-c",
        &count,
        &to.address.to_string(),
    ]);
    let output = from.host.output(command);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut times: Vec<f64> = text
        .lines()
        .filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse().ok())
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

/// Pings while no processor sleeps: of each, what nothing else needs goes into an endless loop.
pub(crate) fn pings_awake(from: &End, to: &End, count: u32) -> Vec<f64> {
    let processors = 0..std::thread::available_parallelism().unwrap().get();
    let _awake: Vec<_> = processors
        .map(|n| {
            let mut command = Command::new("chrt");
            command.args(["-i", "0", "taskset", "-c", &n.to_string()]);
            command.args(["sh", "-c", "while :; do :; done"]);
            Process::spawn(&from.host, command)
        })
        .collect();
    pings(from, to, count)
}

/// Pings beside one TCP stream of at most so many bytes per second.
pub(crate) fn pings_beside(from: &End, to: &End, time: Duration, rate: f64) -> Vec<f64> {
    let (sender, receiver) = connect(from, to);
    let end = Instant::now() + time;
    let sink = std::thread::spawn(move || drain(receiver, end));
    let source = std::thread::spawn(move || send_until(sender, end, rate));
    std::thread::sleep(time / 8);
    let count = u32::try_from(time.as_millis() / 14).unwrap();
    let times = pings(from, to, count);
    source.join().unwrap();
    sink.join().unwrap();
    times
}

/// CPU seconds for each GB of a stream of 200 Mbit/s: of the link's own processes at both ends,
/// and of the whole machine.
pub(crate) fn cost(from: &End, to: &End, time: Duration) -> (f64, f64) {
    let own = || {
        [from, to]
            .iter()
            .flat_map(|end| &end.processes)
            .map(|&pid| cpu_time(pid))
            .sum::<f64>()
    };
    let (sender, receiver) = connect(from, to);
    let end = Instant::now() + time;
    let (own_before, all_before) = (own(), machine_time());
    let sink = std::thread::spawn(move || drain(receiver, end));
    send_until(sender, end, FIXED_RATE);
    let (own_after, all_after) = (own(), machine_time());
    let gigabytes = sink.join().unwrap() as f64 / 1e9;
    (
        (own_after - own_before) / gigabytes,
        (all_after - all_before) / gigabytes,
    )
}

/// Seconds that a process was running (/proc/PID/schedstat, in nanoseconds).
pub(crate) fn cpu_time(pid: Pid) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum::<f64>()
        / 1e9
}

/// Seconds that all processors were busy (/proc/stat, in ticks of 10 ms).
fn machine_time() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let ticks: Vec<f64> = text
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().unwrap())
        .collect();
    // user nice system idle iowait irq softirq
    (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / 100.0
}

/// KiB of memory of one end's processes, shared pages in proportion (PSS).
pub(crate) fn memory(end: &End) -> f64 {
    end.processes
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok())
        .filter_map(|text| {
            let line = text
                .lines()
                .find(|line| line.starts_with("Pss:"))?
                .to_owned();
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        })
        .sum()
}
