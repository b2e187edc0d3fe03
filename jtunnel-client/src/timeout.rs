//! The receive time-out of the socket: never longer than what is left to the next deadline, and
//! hardly ever set while packets stream in.

use std::io;
use std::time::{Duration, Instant};

/// Packets that follow each other faster than this are a stream.
const STREAM_GAP: Duration = Duration::from_millis(10);
/// How many packets make one.
const STREAM_LENGTH: u32 = 8;
/// Without a deadline: a long time.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// What the socket's time-out is, and how busy it is.
#[derive(Debug)]
pub(crate) struct ReceiveTimeout {
    /// As set; `None` when a signal may have shortened it.
    set: Option<Duration>,
    /// Until then a wait ends before the deadline does.
    holds_until: Option<Instant>,
    last: Instant,
    stream: u32,
}

impl ReceiveTimeout {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            set: None,
            holds_until: None,
            last: now,
            stream: 0,
        }
    }

    /// The wait has ended without a packet, there is a new socket, or a deadline came nearer.
    pub(crate) fn reset(&mut self) {
        self.set = None;
        self.holds_until = None;
    }

    /// Whether a packet that came now is no reason to look at the deadlines.
    pub(crate) fn holds(&mut self, now: Instant) -> bool {
        let holds = self.holds_until.is_some_and(|until| now < until);
        if holds {
            self.last = now;
        }
        holds
    }

    /// Makes sure that a wait from `now` on ends before the deadline does.
    ///
    /// In a stream what is left shrinks with each packet, and a system call for each would cost
    /// half as much as the packet. So the time-out is halved then: some ten calls in a keepalive
    /// interval are enough, and the first wait that ends without a packet sets it right.
    pub(crate) fn arm(
        &mut self,
        deadline: Option<Instant>,
        now: Instant,
        set: impl FnOnce(Duration) -> io::Result<()>,
    ) {
        let left = deadline.map_or(FOREVER, |at| at.saturating_duration_since(now));
        let gap = now.saturating_duration_since(self.last);
        self.last = now;
        self.stream = if gap < STREAM_GAP {
            self.stream.saturating_add(1)
        } else {
            0
        };
        let timeout = match self.stream {
            0..STREAM_LENGTH => left,
            _ => left / 2,
        };
        // It can't fail on a live socket; if it did, the former one would stay.
        let is_set = self.set == Some(timeout) || set(timeout).is_ok();
        self.set = is_set.then_some(timeout);
        // Without a deadline any wait is as good.
        let spare = deadline.map_or(FOREVER, |_| left - timeout);
        self.holds_until = is_set.then(|| now + spare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays packets at a steady gap for a time, and returns how often the time-out was set.
    fn play(gap: Duration, time: Duration) -> u32 {
        let start = Instant::now();
        let deadline = start + time;
        let mut timeout = ReceiveTimeout::new(start);
        let (mut now, mut calls, mut current) = (start, 0, FOREVER);
        while now < deadline {
            if !timeout.holds(now) {
                timeout.arm(Some(deadline), now, |value| {
                    (calls, current) = (calls + 1, value);
                    Ok(())
                });
            }
            assert!(now + current <= deadline, "longer than what is left");
            now += gap;
        }
        calls
    }

    #[test]
    fn a_stream_costs_a_few_calls() {
        let calls = play(Duration::from_micros(100), Duration::from_secs(25));
        assert!(calls < 40, "{calls} calls for 250000 packets");
    }

    #[test]
    fn rare_packets_get_the_exact_time() {
        assert_eq!(play(Duration::from_secs(5), Duration::from_secs(25)), 5);
    }

    #[test]
    fn idle_is_one_wait() {
        let start = Instant::now();
        let deadline = start + Duration::from_secs(25);
        let mut timeout = ReceiveTimeout::new(start);
        let mut waits = Vec::new();
        timeout.arm(Some(deadline), start, |value| {
            waits.push(value);
            Ok(())
        });
        // The answer to a keepalive comes soon after it.
        timeout.arm(Some(deadline), start + Duration::from_millis(2), |value| {
            waits.push(value);
            Ok(())
        });
        let exact = Duration::from_millis(24_998);
        assert_eq!(waits, [Duration::from_secs(25), exact]);
    }
}
