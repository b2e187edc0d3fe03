//! What was dropped of one keyed peer, and when a line is to tell of it.

use std::time::Instant;

use crate::keyed::discard::Discard;
use crate::report::throttle::{HeldBack, Throttle};

/// What was dropped so far. It takes memory once that is something: a server has one for each keyed
/// client.
#[derive(Debug, Default)]
pub struct Dropped(Option<Box<Kept>>);

/// Counts for each reason, and a bounded rate for each kind of line.
#[derive(Debug)]
struct Kept {
    counts: [u32; Discard::COUNT],
    handshakes: Throttle,
    plain: Throttle,
    forged: Throttle,
    others: Throttle,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            counts: [0; Discard::COUNT],
            handshakes: Throttle::per_minute(),
            plain: Throttle::per_minute(),
            forged: Throttle::per_minute(),
            others: Throttle::per_minute(),
        }
    }
}

impl Dropped {
    /// How often each reason was one.
    pub fn counts(&self) -> &[u32; Discard::COUNT] {
        match &self.0 {
            Some(kept) => &kept.counts,
            None => &[0; Discard::COUNT],
        }
    }

    /// A datagram was dropped. Whether that is worth a line: junk must not hide a replay.
    pub fn add(&mut self, reason: Discard, now: Instant) -> Option<HeldBack> {
        let kept = self.0.get_or_insert_default();
        let count = &mut kept.counts[reason as usize];
        *count = count.saturating_add(1);
        let throttle = match reason {
            Discard::WrongTag => &mut kept.handshakes,
            Discard::Plain => &mut kept.plain,
            Discard::Replayed | Discard::Forged => &mut kept.forged,
            // Late, doubled or from before a change: what every network does.
            Discard::NotNow | Discard::NoSession | Discard::Stray => return None,
            _ => &mut kept.others,
        };
        throttle.pass(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn junk_hides_no_replay() {
        let (mut dropped, now) = (Dropped::default(), Instant::now());
        assert!(dropped.add(Discard::Malformed, now).is_some());
        assert_eq!(dropped.add(Discard::NotIp, now), None);
        assert!(dropped.add(Discard::Replayed, now).is_some());
        assert_eq!(dropped.add(Discard::Forged, now), None);
        assert!(dropped.add(Discard::WrongTag, now).is_some());
        assert!(dropped.add(Discard::Plain, now).is_some());
        assert_eq!(dropped.add(Discard::Stray, now), None);
        let later = dropped.add(Discard::Replayed, now + Duration::from_secs(60));
        assert_eq!(later.map(|held_back| held_back.0), Some(1));
        let count = |reason| dropped.counts()[reason as usize];
        assert_eq!((count(Discard::Replayed), count(Discard::Stray)), (2, 1));
    }
}
