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
        let client = Arc::new(Mutex::new(None));
        let to_server = Arc::new(Mutex::new(Some(far)));
        let there = Direction {
            from: front.try_clone().unwrap(),
            to: back.try_clone().unwrap(),
            target: to_server.clone(),
            seen: client.clone(),
        };
        let answers = Direction {
            from: back,
            to: front,
            target: client,
            seen: Arc::default(),
        };
        let workers = [(there, 1), (answers, 2)].map(|(direction, seed)| {
            let (mut noise, mut buffer, mut held) = (Noise::new(seed), vec![0; 65536], Vec::new());
            direction.from.set_read_timeout(limit).unwrap();
            Worker::start(move || direction.relay(mischief, &mut noise, &mut buffer, &mut held))
        });
        Self { _workers: workers }
    }
}

struct Direction {
    from: UdpSocket,
    to: UdpSocket,
    target: Arc<Mutex<Option<SocketAddr>>>,
    /// Where the last datagram came from.
    seen: Arc<Mutex<Option<SocketAddr>>>,
}

impl Direction {
    /// Hands on one datagram, or the late ones when no other comes.
    fn relay(
        &self,
        mischief: Mischief,
        noise: &mut Noise,
        buffer: &mut [u8],
        held: &mut Vec<Vec<u8>>,
    ) {
        let Ok((len, source)) = self.from.recv_from(buffer) else {
            return held.drain(..).for_each(|late| self.send(&late));
        };
        *lock(&self.seen) = Some(source);
        let mut dice = || noise.number() % 100;
        if dice() < mischief.lost {
            return;
        }
        if dice() < mischief.late {
            return held.push(buffer[..len].to_vec());
        }
        self.send(&buffer[..len]);
        if dice() < mischief.doubled {
            self.send(&buffer[..len]);
        }
        if held.len() >= 3 {
            held.drain(..).for_each(|late| self.send(&late));
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
