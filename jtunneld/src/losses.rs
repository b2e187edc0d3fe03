//! The clients whose devices were deleted lately. Pure.

use std::time::Instant;

use common::backoff::Restart;
use common::wire::id::PeerId;

/// When each of them may have a new one: at once, but later each time if somebody goes on deleting.
#[derive(Default)]
pub(crate) struct Losses(Vec<(PeerId, Restart)>);

impl Losses {
    /// The client's device was deleted.
    pub(crate) fn add(&mut self, id: PeerId, now: Instant) {
        self.0.retain(|(_, restart)| restart.is_recent(now));
        match self.0.iter_mut().find(|(of, _)| *of == id) {
            Some((_, restart)) => _ = restart.next(now),
            None => {
                let mut restart = Restart::default();
                restart.next(now);
                self.0.push((id, restart));
            }
        }
    }

    /// Whether the client has to wait for a new one.
    pub(crate) fn hold_back(&self, id: PeerId, now: Instant) -> bool {
        let mut losses = self.0.iter();
        losses.any(|(of, restart)| *of == id && restart.last().is_some_and(|due| now < due))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_client_waits_for_itself() {
        let [a, b] = [1, 2].map(|n| PeerId::from_bytes([n; PeerId::LEN]));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut losses = Losses::default();
        losses.add(a, start);
        assert!(!losses.hold_back(a, start), "at once");
        losses.add(a, at(1));
        assert!(losses.hold_back(a, at(1)) && !losses.hold_back(a, at(2)));
        assert!(!losses.hold_back(b, at(1)));
        losses.add(a, at(2));
        losses.add(b, at(2));
        assert!(losses.hold_back(a, at(3)) && !losses.hold_back(a, at(4)));
        assert!(!losses.hold_back(b, at(2)));
        losses.add(b, at(100));
        assert_eq!(losses.0.len(), 1, "others are forgotten");
        losses.add(a, at(100));
        assert!(!losses.hold_back(a, at(100)), "after a long life");
    }
}
