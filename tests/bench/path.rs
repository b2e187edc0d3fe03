//! A long path between two hosts in place of their cable: it delays, loses and reorders packets, each
//! by itself as on a wire.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use common::io::tun::{Mode, Tun};
use support::host::Host;
use support::lab::{Lab, addresses};
use support::traffic::Noise;
use support::worker::Worker;

/// Each way.
const DELAY: Duration = Duration::from_millis(10);
/// One packet of so many is lost, and one of so many comes by so much later, behind others.
const LOST: u64 = 1000;
const LATE: u64 = 100;
const LATER: Duration = Duration::from_millis(1);
/// More packets than this on their way are lost.
const ROOM: usize = 10_000;

/// Carries packets until it is dropped.
pub(crate) struct Path {
    _worker: Worker,
}

/// What is on its way in one direction.
struct Way {
    noise: Noise,
    /// When each packet arrives. Late ones keep their order among themselves.
    due: [VecDeque<(Instant, Vec<u8>)>; 2],
}

impl Path {
    /// Takes the cable between both hosts away.
    pub(crate) fn instead_of_cable(lab: &Lab) -> Self {
        lab.client().ip("link delete eth0");
        let server = end(&lab.server, &["198.51.100.1/24", "2001:db8::1/64"]);
        let client = end(lab.client(), &["198.51.100.2/24", "2001:db8::2/64"]);
        let [mut there, mut back] = [Way::new(21), Way::new(22)];
        Self {
            _worker: Worker::start(move || {
                there.carry(&client, &server);
                back.carry(&server, &client);
                std::thread::sleep(Duration::from_micros(200));
            }),
        }
    }
}

impl Way {
    fn new(seed: u64) -> Self {
        Self {
            noise: Noise::new(seed),
            due: Default::default(),
        }
    }

    fn carry(&mut self, from: &Tun, to: &Tun) {
        let mut buffer = [0; 2048];
        let now = Instant::now();
        while let Ok(len) = from.receive(&mut buffer) {
            let [lost, late] = [LOST, LATE].map(|of| self.noise.number().is_multiple_of(of));
            let queue = &mut self.due[usize::from(late)];
            if !lost && queue.len() < ROOM {
                let later = if late { LATER } else { Duration::ZERO };
                queue.push_back((now + DELAY + later, buffer[..len].to_vec()));
            }
        }
        for queue in &mut self.due {
            while queue.front().is_some_and(|(at, _)| *at <= now) {
                let (_, packet) = queue.pop_front().unwrap();
                // A device that is down or full loses it, as a wire would.
                let _ = to.send(&[IoSlice::new(&packet)]);
            }
        }
    }
}

fn end(host: &Host, own: &[&str]) -> Tun {
    let mode = Mode {
        mtu: 1500,
        nonblocking: true,
        // The kernel cuts what it would hand to a card in one piece.
        offload: false,
    };
    let tun = host.run(move || Tun::open(mode)).unwrap();
    host.ip(&format!("link set {} name eth0", tun.name()));
    addresses(host, "eth0", own);
    host.ip("link set eth0 up");
    tun
}
