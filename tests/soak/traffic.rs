//! Traffic whose content is checked, for hours if need be.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::host::Host;
use support::traffic::Noise;
use support::worker::Worker;

const BLOCK: usize = 16 * 1024;
/// Of the content of all streams.
const SEED: u64 = 5;
/// A stream that does not move for so long is made anew.
const BROKEN: Duration = Duration::from_secs(3);

/// TCP and UDP through one tunnel in one direction, for as long as it is told.
pub(crate) struct Traffic {
    workers: [Worker; 4],
    bytes: Arc<AtomicU64>,
    datagrams: Arc<AtomicU64>,
}

impl Traffic {
    pub(crate) fn start(near: &Host, far: &Host, far_address: IpAddr) -> Self {
        let (bytes, datagrams) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        // The listener hears on all addresses: those of devices come and go.
        let listener = far.run(|| TcpListener::bind("0.0.0.0:0")).unwrap();
        let to = (far_address, listener.local_addr().unwrap().port()).into();
        listener.set_nonblocking(true).unwrap();
        let (mut incoming, count) = (None, bytes.clone());
        let check = Worker::start(move || match &mut incoming {
            None => incoming = Incoming::accept(&listener),
            Some(stream) => match stream.check() {
                true => {
                    count.fetch_add(BLOCK as u64, Ordering::Relaxed);
                }
                false => incoming = None,
            },
        });
        let (mut outgoing, host) = (None, near.clone());
        let fill = Worker::start(move || match &mut outgoing {
            None => outgoing = Outgoing::connect(&host, to),
            Some(stream) => {
                if !stream.fill() {
                    outgoing = None;
                }
            }
        });
        let udp = |host: &Host| host.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let (sender, receiver) = (udp(near), udp(far));
        let to = (far_address, receiver.local_addr().unwrap().port());
        let mut number = 0;
        let send = Worker::start(move || {
            let _ = sender.send_to(&datagram(number), to);
            number += 1;
            std::thread::sleep(Duration::from_millis(1));
        });
        let limit = Some(Duration::from_millis(50));
        receiver.set_read_timeout(limit).unwrap();
        let (mut buffer, count) = ([0; 2048], datagrams.clone());
        let receive = Worker::start(move || {
            if let Ok(len) = receiver.recv(&mut buffer) {
                let number = u64::from_be_bytes(*buffer.first_chunk().unwrap());
                assert!(
                    buffer[..len] == datagram(number),
                    "datagram {number} changed"
                );
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            workers: [fill, check, send, receive],
            bytes,
            datagrams,
        }
    }

    /// How many bytes and datagrams have come.
    pub(crate) fn so_far(&self) -> [u64; 2] {
        [&self.bytes, &self.datagrams].map(|count| count.load(Ordering::Relaxed))
    }

    /// Ends it; panics if something came that was not sent.
    pub(crate) fn stop(self) {
        self.workers.into_iter().for_each(Worker::stop);
    }
}

/// The content of a datagram, which its number tells.
fn datagram(number: u64) -> Vec<u8> {
    let mut noise = Noise::new(number);
    let len = usize::try_from(noise.number() % 1300).unwrap();
    [&number.to_be_bytes()[..], &noise.bytes(len)].concat()
}

/// A stream whose content is compared.
struct Incoming {
    stream: TcpStream,
    noise: Noise,
    block: Vec<u8>,
    expected: Vec<u8>,
}

impl Incoming {
    fn accept(listener: &TcpListener) -> Option<Self> {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(10));
            return None;
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(BROKEN)).unwrap();
        Some(Self {
            stream,
            noise: Noise::new(SEED),
            block: vec![0; BLOCK],
            expected: vec![0; BLOCK],
        })
    }

    /// Reads a block, which must be what was sent; false if the stream has ended or is broken.
    fn check(&mut self) -> bool {
        if self.stream.read_exact(&mut self.block).is_err() {
            return false;
        }
        self.noise.fill(&mut self.expected);
        assert!(self.block == self.expected, "a stream arrived changed");
        true
    }
}

/// The other end of it.
struct Outgoing {
    stream: TcpStream,
    noise: Noise,
    block: Vec<u8>,
}

impl Outgoing {
    fn connect(host: &Host, to: SocketAddr) -> Option<Self> {
        let connect = move || TcpStream::connect_timeout(&to, Duration::from_secs(1));
        let Ok(stream) = host.thread(connect).join().unwrap() else {
            std::thread::sleep(Duration::from_millis(10));
            return None;
        };
        stream.set_write_timeout(Some(BROKEN)).unwrap();
        Some(Self {
            stream,
            noise: Noise::new(SEED),
            block: vec![0; BLOCK],
        })
    }

    /// Writes a block; false if the stream is broken.
    fn fill(&mut self) -> bool {
        self.noise.fill(&mut self.block);
        // The machine has other things to do too.
        std::thread::sleep(Duration::from_micros(200));
        self.stream.write_all(&self.block).is_ok()
    }
}
