//! A steady stream of small datagrams with answers, which shows when a path is broken and when it
//! works again.

use std::net::{IpAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::wait::{PATIENCE, wait_for, wait_until};
use crate::worker::Worker;

/// Between two beats.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// A stream that runs until it is dropped.
pub struct Heartbeat {
    beats: Arc<Mutex<Vec<Beat>>>,
    _workers: [Worker; 2],
}

#[derive(Clone, Copy, Debug)]
struct Beat {
    sent: Instant,
    answered: Option<Instant>,
}

/// What became of the beats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Beats sent.
    pub sent: usize,
    /// Those without an answer.
    pub lost: usize,
}

impl Heartbeat {
    /// Sends from one host to an address of the other, which answers.
    pub fn start(from: &Host, to: &Host, address: IpAddr) -> Self {
        let bind = || {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            socket.set_read_timeout(Some(INTERVAL)).unwrap();
            socket
        };
        let (sender, echo) = (from.run(bind), to.run(bind));
        let target = (address, echo.local_addr().unwrap().port());
        let mut buffer = [0; 64];
        let echoing = Worker::start(move || {
            if let Ok((len, source)) = echo.recv_from(&mut buffer) {
                let _ = echo.send_to(&buffer[..len], source);
            }
        });
        let beats = Arc::<Mutex<Vec<Beat>>>::default();
        let (log, mut next) = (beats.clone(), Instant::now());
        let sending = Worker::start(move || {
            let now = Instant::now();
            if now >= next {
                next = now + INTERVAL;
                let number = with(&log, |beats| {
                    beats.push(Beat {
                        sent: now,
                        answered: None,
                    });
                    beats.len() - 1
                });
                // No route, no device: a lost beat.
                let _ = sender.send_to(&number.to_be_bytes(), target);
            }
            collect(&sender, &log);
        });
        Self {
            beats,
            _workers: [echoing, sending],
        }
    }

    /// Waits for the first answer to a beat that was sent after this moment, and returns how long
    /// after the moment it came.
    #[track_caller]
    pub fn recovery(&self, since: Instant) -> Duration {
        wait_for(PATIENCE, "an answered heartbeat", || {
            with(&self.beats, |beats| {
                let later = beats.iter().rev().take_while(|beat| beat.sent > since);
                let answers = later.filter_map(|beat| beat.answered);
                answers.min().map(|time| time - since)
            })
        })
    }

    /// Waits until nothing that was sent after this moment is answered.
    #[track_caller]
    pub fn wait_silence(&self, since: Instant) {
        wait_until(PATIENCE, "a silence", || {
            with(&self.beats, |beats| {
                let mut last = beats.iter().rev().take(15);
                last.len() == 15 && last.all(|b| b.sent > since && b.answered.is_none())
            })
        });
    }

    /// Waits until this many more beats are answered.
    #[track_caller]
    pub fn wait_beats(&self, number: usize) {
        let answered = || {
            with(&self.beats, |b| {
                b.iter().filter(|b| b.answered.is_some()).count()
            })
        };
        let enough = answered() + number;
        wait_until(PATIENCE, "heartbeats", || answered() >= enough);
    }

    /// What became of the beats up to now; those of the last moment get the time they need.
    pub fn tally(&self) -> Tally {
        let now = Instant::now();
        let count = || {
            with(&self.beats, |beats| {
                let beats = beats.iter().filter(|beat| beat.sent <= now);
                let (sent, lost) = beats.fold((0, 0), |(sent, lost), beat| {
                    (sent + 1, lost + usize::from(beat.answered.is_none()))
                });
                Tally { sent, lost }
            })
        };
        while count().lost > 0 && now.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(INTERVAL);
        }
        count()
    }
}

fn with<T>(beats: &Mutex<Vec<Beat>>, look: impl FnOnce(&mut Vec<Beat>) -> T) -> T {
    look(&mut beats.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Takes the answers that come within an interval.
fn collect(socket: &UdpSocket, log: &Mutex<Vec<Beat>>) {
    let mut bytes = [0; 8];
    if let Ok((8, _)) = socket.recv_from(&mut bytes) {
        let number = usize::try_from(u64::from_be_bytes(bytes));
        with(log, |beats| {
            if let Some(beat) = number.ok().and_then(|number| beats.get_mut(number)) {
                beat.answered.get_or_insert_with(Instant::now);
            }
        });
    }
}
