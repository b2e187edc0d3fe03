//! A bounded rate for log lines about what may happen with every packet. Pure.

use std::fmt;
use std::time::{Duration, Instant};

/// Lets one event pass in each interval and counts the others.
#[derive(Debug)]
pub struct Throttle {
    last: Option<Instant>,
    /// In seconds; as small as can be, since each client has several.
    interval: u32,
    held_back: u32,
}

/// How many events were held back before the one that passed; shows as ` (N more since the last
/// such line)`, or as nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBack(pub u32);

impl Throttle {
    /// For per-packet trouble: one line a minute.
    pub const fn per_minute() -> Self {
        Self::every(60)
    }

    /// One event in so many seconds.
    pub const fn every(interval: u32) -> Self {
        Self {
            interval,
            last: None,
            held_back: 0,
        }
    }

    /// Asks for an event at `now`; `None` means that it is held back.
    #[cold]
    pub fn pass(&mut self, now: Instant) -> Option<HeldBack> {
        let interval = Duration::from_secs(self.interval.into());
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < interval)
        {
            self.held_back = self.held_back.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(HeldBack(std::mem::take(&mut self.held_back)))
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            n => write!(f, " ({n} more since the last such line)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_each_interval() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut throttle = Throttle::per_minute();
        assert_eq!(throttle.pass(at(0)), Some(HeldBack(0)));
        assert_eq!(throttle.pass(at(1)), None);
        assert_eq!(throttle.pass(at(59)), None);
        let held_back = throttle.pass(at(60)).expect("a minute has passed");
        assert_eq!(held_back.to_string(), " (2 more since the last such line)");
        assert_eq!(throttle.pass(at(61)), None);
        assert_eq!(throttle.pass(at(119)), None);
        assert_eq!(throttle.pass(at(120)), Some(HeldBack(2)));
        assert_eq!(
            throttle.pass(at(182)).map(|h| h.to_string()),
            Some(String::new())
        );
    }
}
