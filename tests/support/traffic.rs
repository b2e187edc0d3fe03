//! Traffic through a tunnel, with its content checked.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::Host;
use crate::wait::{PATIENCE, wait_until};

/// What ping(8) counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Requests.
    pub sent: u32,
    /// Answers.
    pub received: u32,
}

/// Whether one ping is answered within a moment.
pub fn ping_works(host: &Host, to: IpAddr) -> bool {
    ping(host, to, 1, &["-W", "0.3"]).received == 1
}

/// Pings until there is an answer.
#[track_caller]
pub fn wait_ping(host: &Host, to: IpAddr) {
    wait_until(PATIENCE, &format!("a ping of {to}"), || {
        ping_works(host, to)
    });
}

/// Pings, 10 ms apart, with more options.
pub fn ping(host: &Host, to: IpAddr, count: u32, options: &[&str]) -> Ping {
    let mut command = Command::new("ping");
    command.args([
        "-n",
        "-q",
        "-i",
        "0.01",
        "-W",
        "2",
        "-c",
        &count.to_string(),
    ]);
    command.args(options).arg(to.to_string());
    let output = host.output(command);
    let text = String::from_utf8_lossy(&output.stdout);
    // 3 packets transmitted, 3 received, 0% packet loss, time 3ms
    let number = |what: &str| {
        let fields = text.lines().flat_map(|line| line.split(", "));
        let field = fields
            .into_iter()
            .find_map(|field| field.strip_suffix(what));
        field.map_or(0, |n| n.parse().unwrap())
    };
    Ping {
        sent: number(" packets transmitted"),
        received: number(" received"),
    }
}

/// Pings until this many are answered, which takes no more than that on an idle machine. By itself
/// ping(8) waits for the last answer no longer than an interval or two round trips.
#[track_caller]
pub fn assert_pings(host: &Host, to: IpAddr, count: u32, options: &[&str]) {
    let result = ping(host, to, count, &[options, &["-w", "60"]].concat());
    // It sends more while answers are late, and may then see more come.
    let all = result.received >= count && result.sent < 2 * count;
    assert!(all, "{count} pings of {to}: {result:?}");
}

/// Pseudo-random bytes that both ends can make (xorshift64*).
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.number().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    /// The next bytes, in a vector.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }
}

const BLOCK: usize = 64 * 1024;

fn write_noise(mut stream: TcpStream, seed: u64, blocks: usize) {
    let (mut noise, mut block) = (Noise::new(seed), vec![0; BLOCK]);
    for _ in 0..blocks {
        noise.fill(&mut block);
        stream.write_all(&block).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

fn check_noise(mut stream: TcpStream, seed: u64, blocks: usize) {
    let (mut noise, mut expected, mut block) = (Noise::new(seed), vec![0; BLOCK], vec![0; BLOCK]);
    for number in 0..blocks {
        noise.fill(&mut expected);
        stream.read_exact(&mut block).unwrap();
        assert!(block == expected, "block {number} arrived changed");
    }
    assert_eq!(stream.read(&mut block).unwrap(), 0, "more than was sent");
}

/// Both directions of one end of a connection.
fn exchange(stream: TcpStream, own: u64, other: u64, blocks: usize) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let copy = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || write_noise(copy, own, blocks));
    check_noise(stream, other, blocks);
    writer.join().unwrap();
}

/// A transfer over TCP that is on its way.
pub struct Transfer(Vec<JoinHandle<()>>);

impl Transfer {
    /// Waits until all has arrived; panics if the content is wrong.
    pub fn join(self) {
        for end in self.0 {
            end.join().unwrap();
        }
    }
}

/// Starts one TCP connection to an address of the other host which carries this number of MiB each
/// way at the same time.
pub fn tcp_both_ways(from: &Host, to: &Host, address: IpAddr, mebibytes: usize) -> Transfer {
    tcp_blocks_both_ways(from, to, address, mebibytes * 1024 * 1024 / BLOCK)
}

/// As `tcp_both_ways`, for this number of blocks of 64 KiB.
pub fn tcp_blocks_both_ways(from: &Host, to: &Host, address: IpAddr, blocks: usize) -> Transfer {
    let listener = to.run(move || TcpListener::bind((address, 0))).unwrap();
    let target = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        exchange(stream, 1, 2, blocks);
    });
    let client = from.thread(move || {
        let stream = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
        exchange(stream, 2, 1, blocks);
    });
    Transfer(vec![client, server])
}

/// TCP from one host to the other that goes on until it is dropped.
pub struct Stream {
    sender: TcpStream,
    bytes: Arc<AtomicU64>,
}

impl Stream {
    /// Sends as fast as it can from one host to an address of the other.
    pub fn start(from: &Host, to: &Host, address: IpAddr) -> Self {
        let listener = to.run(move || TcpListener::bind((address, 0))).unwrap();
        let target = listener.local_addr().unwrap();
        let stream = from.run(move || TcpStream::connect_timeout(&target, PATIENCE).unwrap());
        let (mut source, (mut drain, _)) =
            (stream.try_clone().unwrap(), listener.accept().unwrap());
        drain.set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::spawn(move || while source.write_all(&[7; BLOCK]).is_ok() {});
        let bytes = Arc::<AtomicU64>::default();
        let count = bytes.clone();
        std::thread::spawn(move || {
            let mut block = vec![0; BLOCK];
            while let Ok(len @ 1..) = drain.read(&mut block) {
                count.fetch_add(len as u64, Ordering::Relaxed);
            }
        });
        Self {
            sender: stream,
            bytes,
        }
    }

    /// What has arrived.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.sender.shutdown(Shutdown::Both);
    }
}

/// A UDP socket on a host, with a time-out.
pub fn udp(host: &Host, address: SocketAddr) -> UdpSocket {
    let socket = host.run(move || UdpSocket::bind(address)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket
}

/// Sends datagrams of these sizes to an address of the other host, one by one, and expects each
/// with its content.
#[track_caller]
pub fn udp_datagrams(from: &Host, to: &Host, addresses: (IpAddr, IpAddr), sizes: &[usize]) {
    let sender = udp(from, (addresses.0, 0).into());
    let receiver = udp(to, (addresses.1, 0).into());
    let target = receiver.local_addr().unwrap();
    let mut noise = Noise::new(3);
    let mut buffer = vec![0; 65536];
    // IP may lose one: a machine under load does. A size that never passes is another matter.
    receiver
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    for &size in sizes {
        let content = noise.bytes(size);
        let (len, source) = (0..5)
            .find_map(|_| {
                sender.send_to(&content, target).unwrap();
                receiver.recv_from(&mut buffer).ok()
            })
            .unwrap_or_else(|| panic!("no datagram of {size} bytes arrives"));
        assert_eq!((len, source), (size, sender.local_addr().unwrap()));
        assert!(buffer[..len] == content, "{size} bytes arrived changed");
    }
}
