//! Datagrams without end, as fast as one thread can send them.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::host::Host;
use crate::traffic::Noise;

/// A flood that goes on until it is stopped or dropped.
pub struct Flood {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Flood {
    /// Random bytes of random lengths from `least` to `most`.
    pub fn start(host: &Host, to: (IpAddr, u16), least: usize, most: usize) -> Self {
        let socket = host.run(|| UdpSocket::bind("[::]:0")).unwrap();
        let ending = Arc::new(AtomicBool::new(false));
        let end = ending.clone();
        let thread = std::thread::spawn(move || {
            let (mut noise, mut sent) = (Noise::new(7), 0);
            let choices = u64::try_from(most - least + 1).unwrap();
            while !end.load(Ordering::Relaxed) {
                let len = least + usize::try_from(noise.number() % choices).unwrap();
                // A full queue, a device that is down: part of the exercise.
                if socket.send_to(&noise.bytes(len), to).is_ok() {
                    sent += 1;
                }
            }
            sent
        });
        Self {
            ending,
            thread: Some(thread),
        }
    }

    /// Ends it, and returns how many datagrams left.
    pub fn stop(mut self) -> u64 {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
