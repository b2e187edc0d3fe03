//! A guess whether more than one waits in a queue. Pure.

/// A look at a queue that is empty costs as much as a packet, and it is empty each time while
/// packets come one by one. So but for every so many turns there is no second look then: what was
/// missed wakes the reader at once.
const TURNS: u8 = 8;

/// What the last turns have shown.
#[derive(Debug, Default)]
pub struct Alone {
    /// So many turns are left in which the first is taken for the only one.
    turns: u8,
}

impl Alone {
    /// Whether the next one is likely to be alone.
    pub(super) fn is_likely(&self) -> bool {
        self.turns > 0
    }

    /// The first one of a turn was taken: whether that is all for this turn.
    pub fn ends_turn(&mut self) -> bool {
        self.turns = self.turns.saturating_sub(1);
        self.is_likely()
    }

    /// There were so many in a turn that took all there was, or as many as it could.
    pub fn found(&mut self, count: usize) {
        self.turns = if count > 1 { 0 } else { TURNS };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays turns, of which each finds so many at most, and returns how many each took.
    fn play(alone: &mut Alone, queue: usize) -> [usize; 20] {
        [(); 20].map(|()| {
            if alone.ends_turn() {
                return 1;
            }
            alone.found(queue);
            queue
        })
    }

    #[test]
    fn few_looks_at_an_empty_queue_and_a_full_one_is_noticed() {
        let mut alone = Alone::default();
        assert!(!alone.is_likely());
        play(&mut alone, 1);
        assert!(alone.is_likely());
        let taken = play(&mut alone, 5);
        let missed = taken.iter().take_while(|&&taken| taken == 1).count();
        assert!(missed < TURNS.into(), "{taken:?}");
        assert!(taken[missed..].iter().all(|&taken| taken == 5), "{taken:?}");
    }
}
