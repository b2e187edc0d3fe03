//! Waiting times between tries, for ever. Pure.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// What lasted this long was lost by accident.
const LONG_LIFE: Duration = Duration::from_secs(60);

/// The next waiting time: 1, 2, 4 .. 30 s.
#[derive(Debug, Clone, Copy)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// How long to wait now; the time after it is twice as long, 30 s at most.
    #[cold]
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(LONGEST);
        wait
    }
}

/// For what is started again whenever it is lost: at once, but what does not last waits longer each
/// time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Restart {
    /// The last start.
    last: Option<Instant>,
    backoff: Backoff,
}

impl Restart {
    /// It is lost now. Returns when to start it.
    #[cold]
    pub fn next(&mut self, now: Instant) -> Instant {
        let wait = if self.is_recent(now) {
            self.backoff.next_wait()
        } else {
            self.backoff = Backoff::default();
            Duration::ZERO
        };
        *self.last.insert(now + wait)
    }

    /// When it was to be started last.
    pub fn last(&self) -> Option<Instant> {
        self.last
    }

    /// Whether it was started lately, or is still to be.
    pub fn is_recent(&self, now: Instant) -> bool {
        self.last
            .is_some_and(|last| now.saturating_duration_since(last) < LONG_LIFE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_thirty() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..7).map(|_| backoff.next_wait().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn what_does_not_last_waits() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut restart = Restart::default();
        for (lost, due) in [
            (0, 0),
            (0, 1),
            (1, 3),
            (10, 14),
            (73, 81),
            (141, 141),
            (150, 151),
        ] {
            assert_eq!(restart.next(at(lost)), at(due), "{lost}");
        }
    }
}
