//! A path that loses, doubles and reorders datagrams.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::Host;
use crate::traffic::Noise;

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
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
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
        let ending = Arc::new(AtomicBool::new(false));
        let client = Arc::new(Mutex::new(None));
        let to_server = Arc::new(Mutex::new(Some(far)));
        let there = Direction {
            from: front.try_clone().unwrap(),
            to: back.try_clone().unwrap(),
            target: to_server.clone(),
            seen: client.clone(),
            ending: ending.clone(),
        };
        let answers = Direction {
            from: back,
            to: front,
            target: client,
            seen: Arc::default(),
            ending: ending.clone(),
        };
        let threads = [(there, 1), (answers, 2)].map(|(direction, seed)| {
            std::thread::spawn(move || direction.relay(mischief, &mut Noise::new(seed)))
        });
        Self {
            ending,
            threads: threads.into(),
        }
    }
}

struct Direction {
    from: UdpSocket,
    to: UdpSocket,
    target: Arc<Mutex<Option<SocketAddr>>>,
    /// Where the last datagram came from.
    seen: Arc<Mutex<Option<SocketAddr>>>,
    ending: Arc<AtomicBool>,
}

impl Direction {
    fn relay(&self, mischief: Mischief, noise: &mut Noise) {
        let limit = Some(Duration::from_millis(20));
        self.from.set_read_timeout(limit).unwrap();
        let (mut buffer, mut held) = (vec![0; 65536], Vec::new());
        while !self.ending.load(Ordering::Relaxed) {
            let Ok((len, source)) = self.from.recv_from(&mut buffer) else {
                held.drain(..).for_each(|late: Vec<u8>| self.send(&late));
                continue;
            };
            *lock(&self.seen) = Some(source);
            let mut dice = || noise.number() % 100;
            if dice() < mischief.lost {
                continue;
            }
            if dice() < mischief.late {
                held.push(buffer[..len].to_vec());
                continue;
            }
            self.send(&buffer[..len]);
            if dice() < mischief.doubled {
                self.send(&buffer[..len]);
            }
            if held.len() >= 3 {
                held.drain(..).for_each(|late: Vec<u8>| self.send(&late));
            }
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

impl Drop for Relay {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
