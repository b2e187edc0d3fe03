//! A bounded rate for log lines about peers, of which there may be any number: a few different ones
//! are named in a minute. Pure.

use std::time::{Duration, Instant};

use crate::report::throttle::HeldBack;

/// As many lines pass in an interval.
const LINES: usize = 8;
/// One peer is named once in this time.
const INTERVAL: Duration = Duration::from_secs(60);

/// Lets one event of each peer pass in a minute, of eight peers at most, and counts the others.
#[derive(Debug)]
pub struct Ring<Peer> {
    /// Who was named in the last minute, and when.
    named: Vec<(Option<Peer>, Instant)>,
    held_back: u32,
}

impl<Peer: Copy + PartialEq> Ring<Peer> {
    /// Nobody was named yet.
    pub const fn new() -> Self {
        Self {
            named: Vec::new(),
            held_back: 0,
        }
    }

    /// As if as many as there may be had been named at `at`.
    pub fn passed(at: Instant) -> Self {
        Self {
            named: vec![(None, at); LINES],
            held_back: 0,
        }
    }

    /// Asks for an event of this peer at `now`; `None` means that it is held back.
    pub fn pass(&mut self, peer: Peer, now: Instant) -> Option<HeldBack> {
        let age = |at| now.saturating_duration_since(at);
        self.named.retain(|&(_, at)| age(at) < INTERVAL);
        let is_named = self.named.iter().any(|&(named, _)| named == Some(peer));
        if is_named || self.named.len() >= LINES {
            self.held_back = self.held_back.saturating_add(1);
            return None;
        }
        self.named.push((Some(peer), now));
        Some(HeldBack(std::mem::take(&mut self.held_back)))
    }
}

impl<Peer: Copy + PartialEq> Default for Ring<Peer> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_a_few_is_named_once_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ring = Ring::new();
        for peer in 0..8 {
            assert_eq!(ring.pass(peer, at(0)), Some(HeldBack(0)), "{peer}");
        }
        for peer in 0..9 {
            assert_eq!(ring.pass(peer, at(59)), None, "{peer}");
        }
        assert_eq!(ring.pass(0, at(60)), Some(HeldBack(9)));
        assert_eq!(ring.pass(0, at(61)), None);
        assert_eq!(ring.pass(1, at(61)), Some(HeldBack(1)));
    }

    #[test]
    fn of_many_eight_are_named_in_a_minute_and_not_always_the_same() {
        let start = Instant::now();
        let mut ring = Ring::new();
        let mut lines = Vec::new();
        // Twenty, each every 25 seconds.
        for second in 0..600_u64 {
            let now = start + Duration::from_secs(second);
            for peer in (0..20).filter(|peer| (second + peer) % 25 == 0) {
                if ring.pass(peer, now).is_some() {
                    lines.push((second, peer));
                }
            }
        }
        let is_named = |peer: &u64| lines.iter().any(|line| line.1 == *peer);
        assert!((0..20).filter(is_named).count() >= 2 * LINES, "{lines:?}");
        for minute in lines.windows(LINES + 1) {
            assert!(minute[LINES].0 - minute[0].0 >= 60, "{minute:?}");
        }
    }

    #[test]
    fn as_if_all_had_passed() {
        let start = Instant::now();
        let mut ring = Ring::passed(start);
        assert_eq!(ring.pass(1, start + Duration::from_secs(59)), None);
        let line = ring.pass(1, start + INTERVAL);
        assert_eq!(line, Some(HeldBack(1)));
    }
}
