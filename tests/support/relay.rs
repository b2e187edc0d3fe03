//! A path that loses, doubles and reorders datagrams.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::host::Host;
use crate::traffic::Noise;
use crate::worker::Worker;

/// What a path does to datagrams, in percent of them.
#[derive(Clone, Copy, Debug)]
pub struct Mischief {
    /// These never arrive.
    pub lost: u64,
    /// These arrive twice.
    pub doubled: u64,
    /// These arrive after some that were sent later.
    pub late: u64,
}

/// Hands datagrams on between one client and the server, until it is dropped.
pub struct Relay {
    _workers: [Worker; 2],
}

impl Relay {
    /// On a host that both reach: what comes to `near` goes on to `far`, and back.
    pub fn start(host: &Host, near: &str, far: &str, mischief: Mischief) -> Self {
        let (near, far): (SocketAddr, SocketAddr) = (near.parse().unwrap(), far.parse().unwrap());
        let (front, back) = host.run(move || {
            let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
            (
                UdpSocket::bind(near).unwrap(),
                UdpSocket::bind(any).unwrap(),
            )
        });
        let limit = Some(Duration::from_millis(20));
        for socket in [&front, &back] {
            socket.set_read_timeout(limit).unwrap();
        }
        let client = Arc::new(Mutex::new(None));
        let mut there = Direction {
            from: front.try_clone().unwrap(),
            to: back.try_clone().unwrap(),
            target: Arc::new(Mutex::new(Some(far))),
            seen: client.clone(),
            noise: Noise::new(1),
            held: Vec::new(),
        };
        let mut answers = Direction {
            from: back,
            to: front,
            target: client,
            seen: Arc::default(),
            noise: Noise::new(2),
            held: Vec::new(),
        };
        Self {
            _workers: [
                Worker::start(move || there.relay(mischief)),
                Worker::start(move || answers.relay(mischief)),
            ],
        }
    }
}

struct Direction {
    from: UdpSocket,
    to: UdpSocket,
    target: Arc<Mutex<Option<SocketAddr>>>,
    /// Where the last datagram came from.
    seen: Arc<Mutex<Option<SocketAddr>>>,
    noise: Noise,
    /// Those that are late.
    held: Vec<Vec<u8>>,
}

impl Direction {
    /// Hands on one datagram, or the late ones when no other comes.
    fn relay(&mut self, mischief: Mischief) {
        let mut buffer = [0; 65536];
        let Ok((len, source)) = self.from.recv_from(&mut buffer) else {
            return self.send_late();
        };
        let datagram = &buffer[..len];
        *lock(&self.seen) = Some(source);
        if self.happens(mischief.lost) {
            return;
        }
        if self.happens(mischief.late) {
            return self.held.push(datagram.to_vec());
        }
        self.send(datagram);
        if self.happens(mischief.doubled) {
            self.send(datagram);
        }
        if self.held.len() >= 3 {
            self.send_late();
        }
    }

    fn happens(&mut self, percent: u64) -> bool {
        self.noise.number() % 100 < percent
    }

    fn send_late(&mut self) {
        for datagram in std::mem::take(&mut self.held) {
            self.send(&datagram);
        }
    }

    fn send(&self, datagram: &[u8]) {
        if let Some(target) = *lock(&self.target) {
            let _ = self.to.send_to(datagram, target);
        }
    }
}

fn lock<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
