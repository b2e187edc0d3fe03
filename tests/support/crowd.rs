//! Many clients that only keep alive, all played by one socket.

use std::net::{IpAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::config::{SERVER_ID, client_id};
use crate::host::Host;
use crate::peer::{answer, datagram, keepalive};
use crate::wait::PATIENCE;

/// The clients of these numbers.
pub struct Crowd {
    socket: UdpSocket,
    numbers: RangeInclusive<u16>,
}

impl Crowd {
    /// On this host, talking to an address and port.
    pub fn new(host: &Host, numbers: RangeInclusive<u16>, to: (IpAddr, u16)) -> Self {
        let socket = host.run(move || {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            let mapped = match to.0 {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            socket.connect((mapped, to.1)).unwrap();
            // All may be answered before one answer is read.
            setsockopt(&socket, RcvBufForce, &(8 << 20)).unwrap();
            socket
        });
        let limit = Some(Duration::from_millis(1));
        socket.set_read_timeout(limit).unwrap();
        Self { socket, numbers }
    }

    fn send(&self, number: u16) {
        // Before the server is there the port is unreachable.
        let _ = self
            .socket
            .send(&datagram(&client_id(number), &keepalive(number.into())));
    }

    /// The client whose keepalive an answer is for.
    fn receive(&self) -> Option<u16> {
        let mut buffer = [0; 64];
        let len = self.socket.recv(&mut buffer).ok()?;
        let counter = buffer[..len].last_chunk::<4>()?;
        let number = u32::from_be_bytes(*counter);
        let expected = datagram(SERVER_ID, &answer(number));
        (buffer[..len] == expected).then(|| u16::try_from(number).ok())?
    }

    /// All talk, and those that got no answer talk again after a second, until there is none.
    /// Returns how long it took.
    #[track_caller]
    pub fn knock(&self) -> Duration {
        let since = Instant::now();
        let mut silent: Vec<u16> = self.numbers.clone().collect();
        while !silent.is_empty() {
            let turn = Instant::now();
            assert!(since.elapsed() < PATIENCE, "{} get no answer", silent.len());
            let mut heard = Vec::new();
            for &number in &silent {
                self.send(number);
                // Not all in one moment: they are hosts of their own.
                std::thread::sleep(Duration::from_micros(20));
            }
            while heard.len() < silent.len() && turn.elapsed() < Duration::from_secs(1) {
                heard.extend(self.receive());
            }
            heard.sort_unstable();
            silent.retain(|number| heard.binary_search(number).is_err());
        }
        since.elapsed()
    }

    /// Each sends a keepalive in every interval, evenly spread, for a time. Returns how many were
    /// sent and answered.
    pub fn keep_alive(&self, interval: Duration, time: Duration) -> (u32, u32) {
        let count = u32::from(self.numbers.end() - self.numbers.start()) + 1;
        let gap = interval / count;
        let (since, mut sent, mut answered) = (Instant::now(), 0, 0);
        for number in self.numbers.clone().cycle() {
            if since.elapsed() >= time {
                break;
            }
            while since.elapsed() < gap * sent {
                answered += u32::from(self.receive().is_some());
            }
            self.send(number);
            sent += 1;
        }
        let end = Instant::now();
        while answered < sent && end.elapsed() < Duration::from_secs(1) {
            answered += u32::from(self.receive().is_some());
        }
        (sent, answered)
    }
}
