//! Traffic whose content is checked, for hours if need be.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use support::host::Host;
use support::traffic::Noise;

const BLOCK: usize = 16 * 1024;

/// TCP and UDP through one tunnel in one direction, for as long as it is told.
pub(crate) struct Traffic {
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    bytes: Arc<AtomicU64>,
    datagrams: Arc<AtomicU64>,
}

impl Traffic {
    pub(crate) fn start(near: &Host, far: &Host, far_address: IpAddr) -> Self {
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
    pub(crate) fn stop(self) -> (u64, u64) {
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
