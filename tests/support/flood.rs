//! Datagrams without end, as fast as one thread can send them.

use std::net::{IpAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use crate::host::Host;
use crate::middle::{Middle, Way};
use crate::peer::Forger;
use crate::traffic::Noise;
use crate::worker::Worker;

/// A flood that goes on until it is stopped or dropped.
pub struct Flood {
    worker: Worker,
    sent: Arc<AtomicU64>,
}

impl Flood {
    /// Random bytes of random lengths from `least` to `most`.
    pub fn start(host: &Host, to: (IpAddr, u16), least: usize, most: usize) -> Self {
        let choices = u64::try_from(most - least + 1).unwrap();
        Self::of(host, to, move |noise| {
            let len = least + usize::try_from(noise.number() % choices).unwrap();
            noise.bytes(len)
        })
    }

    /// Datagrams as they are made, from one socket.
    pub fn of(
        host: &Host,
        to: (IpAddr, u16),
        mut make: impl FnMut(&mut Noise) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let socket = host.run(|| UdpSocket::bind("[::]:0")).unwrap();
        // A full queue, a device that is down: part of the exercise.
        Self::repeat(move |noise| socket.send_to(&make(noise), to).is_ok())
    }

    /// The same content again and again, cut into datagrams of this length by the kernel.
    pub fn cut(host: &Host, to: (IpAddr, u16), content: Vec<u8>, len: i32) -> Self {
        let socket = host.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        setsockopt(&socket, UdpGsoSegment, &len).unwrap();
        Self::repeat(move |_| socket.send_to(&content, to).is_ok())
    }

    /// Datagrams as they are made, each with a source of its own.
    pub fn forged(
        host: &Host,
        to: SocketAddrV4,
        mut make: impl FnMut(&mut Noise) -> (SocketAddrV4, Vec<u8>) + Send + 'static,
    ) -> Self {
        let forger = Forger::new(host);
        Self::repeat(move |noise| {
            let (from, content) = make(noise);
            forger.udp(from, to, &content);
            true
        })
    }

    /// Datagrams as they are made, from where the middle speaks to the end of this way.
    pub fn through(
        middle: &Arc<Middle>,
        way: Way,
        mut make: impl FnMut(&mut Noise) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let middle = middle.clone();
        Self::repeat(move |noise| {
            middle.inject(way, &make(noise));
            true
        })
    }

    fn repeat(mut send: impl FnMut(&mut Noise) -> bool + Send + 'static) -> Self {
        let sent = Arc::<AtomicU64>::default();
        let (mut noise, count) = (Noise::new(7), sent.clone());
        let worker = Worker::start(move || {
            count.fetch_add(send(&mut noise).into(), Ordering::Relaxed);
        });
        Self { worker, sent }
    }

    /// Ends it, and returns how many datagrams left.
    pub fn stop(self) -> u64 {
        self.worker.stop();
        self.sent.load(Ordering::Relaxed)
    }
}
